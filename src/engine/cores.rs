//! How many cores this process may count on. llama.cpp's threads meet at barriers hundreds of times a token, and spin
//! there: if one of them waits for a core that another process holds, all of them wait. So a step gets no more threads
//! than there are cores that nobody else keeps busy.
//!
//! What others use is what the cores were busy for, less what this process used itself (`/proc/stat` and
//! `/proc/self/stat` of Linux, both in ticks). Where that cannot be read, all cores count as free.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Twenty ticks of each core: enough to tell half a busy core from none.
const WINDOW: Duration = Duration::from_millis(200);
/// A reading from before a pause, in which this process did little, tells of another time: after it all cores are
/// tried, for six ticks.
const PAUSE: Duration = Duration::from_millis(1000);
const TRIAL: Duration = Duration::from_millis(60);

/// Workers of all models that are evaluating something at this moment, and what makes embeddings: they share the cores.
static EVALUATING: AtomicUsize = AtomicUsize::new(0);
/// How often one began to.
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// How often a worker of any model began to evaluate something; `None` while one does. What was measured between two equal
/// numbers was measured alone.
pub fn turns() -> Option<usize> {
    let evaluating = EVALUATING.load(Ordering::SeqCst);
    (evaluating == 0).then(|| TURNS.load(Ordering::SeqCst))
}

/// Models that are being loaded and measured.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// Counts a model among those that are being loaded, while it is kept.
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

/// Counts a worker among those that are evaluating something, however that ends.
pub struct Evaluating<'a> {
    /// Those of its own model.
    active: &'a AtomicUsize,
}

impl Drop for Evaluating<'_> {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        EVALUATING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The cores that this process may use, and how many of them other processes leave free. Looks for a fifth of a second.
pub fn free_cores() -> (usize, usize) {
    let cores = Cores::new(0);
    std::thread::sleep(WINDOW);
    (cores.most(), cores.free())
}

/// What `/proc/cpuinfo` of Linux says of the first core under these names, a line each, joined by blanks.
pub fn described(names: &[&str]) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &&str| text.lines().find(|line| line.starts_with(*name));
    names.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// The cores of this machine, as they are seen from here.
pub struct Cores {
    /// Most threads that this process uses at once.
    most: usize,
    free: AtomicUsize,
    /// Workers that are evaluating something, of those that these cores are for.
    active: AtomicUsize,
    /// Whether the number of threads was set: then it is this model's own, whatever others do.
    fixed: bool,
    /// `None`: the number of threads is fixed, or the system does not tell.
    last: Option<Mutex<Reading>>,
}

/// What the counters said.
struct Reading {
    at: Instant,
    ticks: Ticks,
    /// When they are to be read again.
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
    /// Whoever was running; what a host took from a virtual machine counts.
    busy: u64,
    /// What this process used.
    own: u64,
}

impl Cores {
    /// `threads`: that many, whatever others do. 0: as many as there are cores, less those that others keep busy.
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

    /// Whether other processes leave all of them.
    pub fn are_all_free(&self) -> bool {
        self.free() == self.most
    }

    /// A worker begins to evaluate something.
    pub fn evaluate(&self) -> Evaluating<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        EVALUATING.fetch_add(1, Ordering::SeqCst);
        TURNS.fetch_add(1, Ordering::SeqCst);
        Evaluating {
            active: &self.active,
        }
    }

    /// Threads for one decode: for the cores that neither another process nor another worker is using, be it another
    /// model's; at least one.
    pub fn share(&self) -> usize {
        let active = if self.fixed {
            &self.active
        } else {
            &EVALUATING
        };
        (self.free() / active.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Threads that find a core at this moment; at least one. Cheap: the system is asked five times a second.
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
                tracing::debug!(free, of = self.most, "cores that other processes leave");
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

    /// Whether this process used less than half a core since then.
    fn rested_since(&self, before: &Self) -> bool {
        let one = self.all.saturating_sub(before.all) / self.cores as u64;
        2 * self.own.saturating_sub(before.own) < one
    }

    /// Cores that others left unused since then, to the nearest whole, from 1 to `most`.
    fn free_since(&self, before: &Self, most: usize) -> usize {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let all = since(self.all, before.all).max(1.0);
        let others = (since(self.busy, before.busy) - since(self.own, before.own)).max(0.0);
        let left = self.cores as f64 * (1.0 - others / all);
        (left.round() as usize).clamp(1, most)
    }
}

/// Numbers as Linux lists them: `0-3,8`.
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

/// How many of the allowed cores `/proc/stat` tells of, their ticks in all, and those that were busy.
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
        // user, nice, system, idle, waiting for a disk, interrupts of two kinds, stolen; what follows is in user.
        let ticks: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let sum: u64 = ticks.iter().sum();
        cores += 1;
        all += sum;
        busy += sum - idle;
    }
    (cores, all, busy)
}

/// Ticks that a process used, its threads and its calls into the system together. Its name, which may hold anything,
/// stands in parentheses before the numbers.
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
    fn what_others_use_is_not_free() {
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
        // All four are busy, with this process alone.
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
    fn models_share_the_cores_unless_each_has_its_own() {
        let (one, other) = (Cores::new(0), Cores::new(0));
        let (fixed, fixed_too) = (Cores::new(6), Cores::new(4));
        let _turns: Vec<_> = (0..one.most()).map(|_| other.evaluate()).collect();
        // Nothing is left for this one, whose own workers do nothing.
        assert_eq!(one.share(), 1);
        assert_eq!((fixed.share(), fixed_too.share()), (6, 4));
        let (_one, _two) = (fixed.evaluate(), fixed.evaluate());
        assert_eq!((fixed.share(), fixed_too.share()), (3, 4));
        assert_eq!(turns(), None);
    }

    #[test]
    fn a_number_that_was_set_stays() {
        assert_eq!(Cores::new(3).free(), 3);
        let cores = Cores::new(0);
        assert!((1..=cores.most()).contains(&cores.free()));
    }
}
