//! How many cores other processes leave free. llama.cpp's threads meet at barriers hundreds of times per token, and spin
//! there: if one of them waits for a core that another process holds, all of them wait. So a decode gets no more threads
//! than there are free cores.
//!
//! The time used by other processes is the busy time of the cores minus the time of this process (Linux: `/proc/stat` and
//! `/proc/self/stat`, both in ticks). Where that cannot be read, all cores count as free.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::procfs::Ticks;

/// Twenty ticks of each core: enough to tell half a busy core from an idle one.
const WINDOW: Duration = Duration::from_millis(200);
/// A reading from before a pause in which this process did little is out of date: after the pause, all cores are tried for
/// six ticks.
const PAUSE: Duration = Duration::from_millis(1000);
const TRIAL: Duration = Duration::from_millis(60);

/// Threads of all models that are evaluating something now, for generation or embeddings. They share the cores.
static EVALUATING: AtomicUsize = AtomicUsize::new(0);
/// How often a thread has begun to evaluate.
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// How often a worker of any model has begun to evaluate something; `None` while one does. If two calls return the same
/// number, nothing ran in between.
pub fn turns() -> Option<usize> {
    let evaluating = EVALUATING.load(Ordering::SeqCst);
    (evaluating == 0).then(|| TURNS.load(Ordering::SeqCst))
}

/// Models that are being loaded or measured.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// A model counts as being loaded until the result is dropped.
pub fn loading() -> Loading {
    LOADING.fetch_add(1, Ordering::SeqCst);
    Loading(())
}

/// See [`loading`].
pub struct Loading(());

impl Drop for Loading {
    fn drop(&mut self) {
        LOADING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a model is being loaded.
pub fn is_loading() -> bool {
    LOADING.load(Ordering::SeqCst) > 0
}

/// A worker counts as evaluating until this is dropped.
pub struct Evaluating<'a> {
    /// The count of its own model.
    active: &'a AtomicUsize,
}

impl Drop for Evaluating<'_> {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        EVALUATING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many cores this process may use, and how many of them other processes leave free. Takes a fifth of a second.
pub fn free_cores() -> (usize, usize) {
    let cores = Cores::new(0);
    std::thread::sleep(WINDOW);
    (cores.most(), cores.free())
}

/// The cores that a model may use.
pub struct Cores {
    /// Maximum number of threads that this process uses at once.
    most: usize,
    free: AtomicUsize,
    /// Workers of this model that are evaluating something.
    active: AtomicUsize,
    /// Whether the settings fix the number of threads. Then it does not depend on other models or processes.
    fixed: bool,
    /// `None`: the number of threads is fixed, or the system has no such counters.
    last: Option<Mutex<Reading>>,
}

/// A reading of the counters.
struct Reading {
    at: Instant,
    ticks: Ticks,
    /// When to read them again.
    until: Instant,
}

impl Reading {
    fn new(ticks: Ticks, window: Duration) -> Self {
        let at = Instant::now();
        Self {
            at,
            ticks,
            until: at + window,
        }
    }
}

impl Cores {
    /// `threads`: a fixed number; 0: as many as there are cores, minus those that other processes keep busy.
    pub fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = if threads == 0 { cores } else { threads };
        Self {
            most,
            free: AtomicUsize::new(most),
            active: AtomicUsize::new(0),
            fixed: threads != 0,
            last: (threads == 0)
                .then(Ticks::read)
                .flatten()
                .map(|ticks| Mutex::new(Reading::new(ticks, TRIAL))),
        }
    }

    /// Maximum number of threads that this process uses at once.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether other processes leave all cores free.
    pub fn are_all_free(&self) -> bool {
        self.free() == self.most
    }

    /// A worker counts as evaluating until the result is dropped.
    pub fn evaluate(&self) -> Evaluating<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        EVALUATING.fetch_add(1, Ordering::SeqCst);
        TURNS.fetch_add(1, Ordering::SeqCst);
        Evaluating {
            active: &self.active,
        }
    }

    /// Threads for one decode: the cores that neither another process nor another worker of any model is using; at least
    /// one.
    pub fn share(&self) -> usize {
        let active = if self.fixed {
            &self.active
        } else {
            &EVALUATING
        };
        (self.free() / active.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Cores that are free now; at least one. Cheap: the counters are read five times a second.
    fn free(&self) -> usize {
        if let Some(last) = &self.last
            && let Ok(mut last) = last.try_lock()
            && Instant::now() >= last.until
            && let Some(now) = Ticks::read()
        {
            let paused = last.at.elapsed() > PAUSE && now.rested_since(&last.ticks);
            let (free, window) = if paused {
                (self.most, TRIAL)
            } else {
                (now.free_since(&last.ticks, self.most), WINDOW)
            };
            *last = Reading::new(now, window);
            if self.free.swap(free, Ordering::Relaxed) != free {
                tracing::debug!(
                    free,
                    of = self.most,
                    "cores that other processes leave free"
                );
            }
        }
        self.free.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_share_the_cores_unless_their_threads_are_fixed() {
        let (one, other) = (Cores::new(0), Cores::new(0));
        let (fixed, fixed_too) = (Cores::new(6), Cores::new(4));
        let _turns: Vec<_> = (0..one.most()).map(|_| other.evaluate()).collect();
        // The other model keeps all of them busy.
        assert_eq!(one.share(), 1);
        assert_eq!((fixed.share(), fixed_too.share()), (6, 4));
        let (_one, _two) = (fixed.evaluate(), fixed.evaluate());
        assert_eq!((fixed.share(), fixed_too.share()), (3, 4));
        assert_eq!(turns(), None);
    }

    #[test]
    fn a_fixed_number_stays() {
        assert_eq!(Cores::new(3).free(), 3);
        let cores = Cores::new(0);
        assert!((1..=cores.most()).contains(&cores.free()));
    }
}
