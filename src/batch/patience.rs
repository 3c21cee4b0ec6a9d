//! When a batch gives up: after a time in which no line was answered, and nothing was worth waiting for.

use std::time::{Duration, Instant};

/// Measures that time, whenever it is looked at.
pub struct Patience {
    most: Duration,
    waited: Duration,
    looked: Instant,
}

impl Patience {
    pub fn new(most: Duration, now: Instant) -> Self {
        Self {
            most,
            waited: Duration::ZERO,
            looked: now,
        }
    }

    /// Whether too much time has passed since the last sign of life. The time since the last look does not count if something
    /// is worth waiting for; so after a long request that breaks, its server has time to come back.
    pub fn is_lost(&mut self, last_sign: Instant, is_worthwhile: bool, now: Instant) -> bool {
        if last_sign >= self.looked {
            self.waited = Duration::ZERO;
        }
        if !is_worthwhile {
            self.waited += now.saturating_duration_since(self.looked.max(last_sign));
        }
        self.looked = now;
        self.waited > self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_in_which_nothing_is_worthwhile_counts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(10), start);
        assert!(!patience.is_lost(start, false, at(5)));
        // A request runs for an hour and breaks: what is left of the patience is left.
        assert!(!patience.is_lost(start, true, at(3605)));
        assert!(!patience.is_lost(start, false, at(3610)));
        assert!(patience.is_lost(start, false, at(3611)));
        // An answer is a sign of life.
        assert!(!patience.is_lost(at(3612), false, at(3622)));
        assert!(patience.is_lost(at(3612), false, at(3623)));
    }

    #[test]
    fn what_breaks_again_and_again_does_not_last_for_ever() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(600), start);
        let lost = (1..).find(|&second| {
            // Every request seems to run for a while before it breaks.
            let is_worthwhile = second % 20 >= 10;
            patience.is_lost(start, is_worthwhile, start + Duration::from_secs(second))
        });
        assert_eq!(lost, Some(1201));
    }
}
