//! What Linux's `/proc` says about the cores.

use std::collections::BTreeSet;

/// The lines of Linux's `/proc/cpuinfo` about the first core with these names, joined by spaces.
pub fn cpu_info(names: &[&str]) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &&str| text.lines().find(|line| line.starts_with(*name));
    names.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// Counters of CPU time, in ticks, summed over the cores that this process may run on. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    cores: usize,
    /// Busy and idle.
    all: u64,
    /// For any process; time that the host took from a virtual machine counts.
    busy: u64,
    /// For this process.
    own: u64,
}

impl Ticks {
    pub fn read() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let status = read("/proc/self/status")?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(number_list)?;
        let (cores, all, busy) = core_ticks(&read("/proc/stat")?, &allowed);
        let own = process_ticks(&read("/proc/self/stat")?)?;
        (cores > 0).then_some(Self {
            cores,
            all,
            busy,
            own,
        })
    }

    /// Whether this process has used less than half a core since then.
    pub fn rested_since(&self, before: &Self) -> bool {
        let one = self.all.saturating_sub(before.all) / self.cores as u64;
        2 * self.own.saturating_sub(before.own) < one
    }

    /// Cores that others have left unused since then, rounded, from 1 to `most`.
    pub fn free_since(&self, before: &Self, most: usize) -> usize {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let all = since(self.all, before.all).max(1.0);
        let others = (since(self.busy, before.busy) - since(self.own, before.own)).max(0.0);
        let left = self.cores as f64 * (1.0 - others / all);
        (left.round() as usize).clamp(1, most)
    }
}

/// Parses a list of numbers as Linux writes it: `0-3,8`.
fn number_list(list: &str) -> BTreeSet<usize> {
    list.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// The number of allowed cores in `/proc/stat`, the sum of their ticks, and the ticks in which they were busy.
fn core_ticks(stat: &str, allowed: &BTreeSet<usize>) -> (usize, u64, u64) {
    let (mut cores, mut all, mut busy) = (0, 0, 0);
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let number = words.next().and_then(|name| name.strip_prefix("cpu"));
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else {
            continue;
        };
        if !allowed.contains(&number) {
            continue;
        }
        // user, nice, system, idle, iowait, irq, softirq, steal; the rest is part of user.
        let ticks: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let sum: u64 = ticks.iter().sum();
        cores += 1;
        all += sum;
        busy += sum - idle;
    }
    (cores, all, busy)
}

/// Ticks that a process used, in user and kernel mode. Its name, which may contain anything, is in parentheses before the
/// numbers.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, numbers) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> = numbers
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse().ok())
        .collect();
    (ticks.len() == 2).then(|| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_read() {
        assert_eq!(number_list("\t0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 5 100 20 2 1 3 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n";
        assert_eq!(core_ticks(stat, &BTreeSet::from([0])), (1, 142, 22));
        assert_eq!(core_ticks(stat, &BTreeSet::from([0, 1])), (2, 150, 28));
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194560 500 0 0 0 123 45 0 0 20 0 9 0";
        assert_eq!(process_ticks(stat), Some(168));
        assert_eq!(process_ticks("77 (cut off"), None);
    }

    #[test]
    fn cores_that_others_use_are_not_free() {
        let ticks = |busy, own| Ticks {
            cores: 4,
            all: 0,
            busy,
            own,
        };
        let check = |busy: u64, own: u64, expect| {
            let now = Ticks {
                all: 80,
                ..ticks(1000 + busy, 500 + own)
            };
            assert_eq!(now.free_since(&ticks(1000, 500), 4), expect, "{busy} {own}");
        };
        check(0, 0, 4);
        // All four are busy, but only with this process.
        check(80, 80, 4);
        check(80, 78, 4);
        check(80, 60, 3);
        check(20, 0, 3);
        check(80, 0, 1);
        // Counters are read one after the other.
        check(40, 43, 4);
        let rested = |own| {
            let now = Ticks {
                all: 80,
                ..ticks(0, own)
            };
            now.rested_since(&ticks(0, 0))
        };
        assert!(rested(9));
        assert!(!rested(10));
    }
}
