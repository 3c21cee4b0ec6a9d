//! How many cores other processes leave free. llama.cpp's threads meet at barriers hundreds of times per token, and spin
//! there: if one of them waits for a core that another process holds, all of them wait. So a decode gets no more threads
//! than there are free cores.
//!
//! Other processes use what the cores were busy for, minus what this process used (Linux: `/proc/stat` and
//! `/proc/self/stat`, both in ticks). Where that cannot be read, all cores count as free.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Twenty ticks of each core: enough to distinguish half a busy core from none.
const WINDOW: Duration = Duration::from_millis(200);
/// A reading from before a pause, in which this process did little, is out of date: after it all cores are tried, for six
/// ticks.
const PAUSE: Duration = Duration::from_millis(1000);
const TRIAL: Duration = Duration::from_millis(60);

/// Threads of all models that are evaluating something now, for generation or embeddings. They share the cores.
static EVALUATING: AtomicUsize = AtomicUsize::new(0);
/// How often one has begun to.
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

/// The lines of Linux' `/proc/cpuinfo` about the first core with these names, joined by spaces.
pub fn described(names: &[&str]) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &&str| text.lines().find(|line| line.starts_with(*name));
    names.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// The cores that a model may use.
pub struct Cores {
    /// Most threads that this process uses at once.
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

/// Counters that only grow, summed over the cores that this process may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    cores: usize,
    /// Busy and idle.
    all: u64,
    /// For any process; time that the host took from a virtual machine counts.
    busy: u64,
    /// For this process.
    own: u64,
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

    /// Most threads that this process uses at once.
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

impl Ticks {
    fn read() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let status = read("/proc/self/status")?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(numbers)?;
        let (cores, all, busy) = of_cores(&read("/proc/stat")?, &allowed);
        let own = of_process(&read("/proc/self/stat")?)?;
        (cores > 0).then_some(Self {
            cores,
            all,
            busy,
            own,
        })
    }

    /// Whether this process has used less than half a core since then.
    fn rested_since(&self, before: &Self) -> bool {
        let one = self.all.saturating_sub(before.all) / self.cores as u64;
        2 * self.own.saturating_sub(before.own) < one
    }

    /// Cores that others have left unused since then, rounded, from 1 to `most`.
    fn free_since(&self, before: &Self, most: usize) -> usize {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let all = since(self.all, before.all).max(1.0);
        let others = (since(self.busy, before.busy) - since(self.own, before.own)).max(0.0);
        let left = self.cores as f64 * (1.0 - others / all);
        (left.round() as usize).clamp(1, most)
    }
}

/// Parses a list of numbers as Linux writes it: `0-3,8`.
fn numbers(list: &str) -> BTreeSet<usize> {
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
fn of_cores(stat: &str, allowed: &BTreeSet<usize>) -> (usize, u64, u64) {
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
fn of_process(stat: &str) -> Option<u64> {
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
        assert_eq!(numbers("\t0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 5 100 20 2 1 3 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n";
        assert_eq!(of_cores(stat, &BTreeSet::from([0])), (1, 142, 22));
        assert_eq!(of_cores(stat, &BTreeSet::from([0, 1])), (2, 150, 28));
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194560 500 0 0 0 123 45 0 0 20 0 9 0";
        assert_eq!(of_process(stat), Some(168));
        assert_eq!(of_process("77 (cut off"), None);
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
