//! The cache itself, and what its operations share.

use super::cells::Cells;
use super::directory::Directory;
use super::fetch::{Fetching, KvFetch};
use super::lane::{Lane, Lease};
use super::pins::Pins;
use super::policy::{self, Candidate};
use crate::metrics;
use crate::model::Runner;

/// What a cache is set up with.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Tokens that a lane holds.
    pub lane_tokens: usize,
    /// Lanes of other workers with more cells cannot be fetched.
    pub most_fetched: usize,
    /// Prefixes that are not given up for one-off prompts.
    pub pinned_prefixes: usize,
    /// Whether any prompt may reuse cells of generated tokens: only in throughput mode, because they were not evaluated as a prompt is.
    pub reuses_generated: bool,
}

/// A context and its lanes.
pub struct Cache<C = Box<dyn Runner>> {
    pub(super) cells: C,
    pub(super) rules: Rules,
    pub(super) lanes: Vec<Lane>,
    /// Counts releases and imports.
    clock: u64,
    /// Counts the prompt cells that are evaluated here.
    pub(super) evaluated: usize,
    pub(super) pins: Pins,
    /// Requests of other workers for lanes.
    pub(super) fetches: Vec<KvFetch>,
    /// This worker's sequences that wait for cells of other workers.
    pub(super) fetching: Vec<Fetching>,
    pub(super) worker: usize,
    pub(super) directory: Directory,
}

impl<C: Cells> Cache<C> {
    pub fn new(cells: C, lanes: usize, rules: Rules, worker: usize, directory: Directory) -> Self {
        Self {
            cells,
            rules,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            clock: 0,
            evaluated: 0,
            pins: Pins::new(rules.pinned_prefixes),
            fetches: Vec::new(),
            fetching: Vec::new(),
            worker,
            directory,
        }
    }

    /// The lanes, as the policy sees them.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let lanes = self.lanes.iter();
        let mut candidates: Vec<Candidate> = lanes
            .map(|lane| Candidate {
                free: lane.lease.is_none(),
                cells: lane.prefix.holding().cells(),
                reusable: lane.prefix.holding().len,
                pinned: 0,
                last_use: lane.last_use,
            })
            .collect();
        let lanes = self.lanes.iter().enumerate();
        let holdings = lanes.map(|(lane, state)| (lane, state.prefix.holding()));
        for (holders, len) in self.pins.holders(holdings) {
            // One lane is enough. A busy one still holds the prefix when it is released.
            let keeper = holders
                .into_iter()
                .max_by_key(|&lane| (!candidates[lane].free, candidates[lane].last_use));
            if let Some(keeper) = keeper {
                candidates[keeper].pinned = candidates[keeper].pinned.max(len);
            }
        }
        candidates
    }

    /// Overwrites a free lane with a copy of another.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        self.cells.copy(from, to);
        self.lanes[to].prefix = self.lanes[from].prefix.clone();
        self.lanes[to].maybe_nan = self.lanes[from].maybe_nan;
    }

    /// Shows the other workers what a lane holds, or will hold.
    pub(super) fn publish(&self, lane: usize) {
        let lease = self.lanes[lane].lease.as_ref();
        match lease.and_then(|lease| lease.promise.clone()) {
            Some(promise) => (self.directory).publish(self.worker, lane, Some(promise.published())),
            None => self.publish_held(lane),
        }
    }

    /// Shows the other workers what a lane holds already.
    pub(super) fn publish_held(&self, lane: usize) {
        let holding = self.lanes[lane].prefix.holding();
        let published = Some(holding).filter(|holding| holding.cells() > 0);
        self.directory
            .publish(self.worker, lane, published.cloned());
    }

    /// Whether a lease waits for its turn for so long that who would save `gain` cells does not wait for it. After its
    /// prompt, a lease gets on in each round.
    pub(super) fn is_overdue(&self, lease: &Lease, gain: usize) -> bool {
        lease.evaluates_prompt() && policy::is_overdue(self.evaluated - lease.got_on, gain)
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Filled cells of the free lanes.
    pub fn cached_cells(&self) -> usize {
        let free = self.lanes.iter().filter(|lane| lane.lease.is_none());
        free.map(|lane| lane.prefix.holding().cells()).sum()
    }

    /// Logs and counts violations: a lane leased to a sequence that does not run, or facts about a lane that contradict
    /// each other.
    pub fn check_invariants(&self, runs: impl Fn(u64) -> bool) {
        for (lane, state) in self.lanes.iter().enumerate() {
            let sequence = state.lease.as_ref().map(|lease| lease.sequence);
            let is_stray = sequence.is_some_and(|sequence| !runs(sequence));
            if is_stray || !state.prefix.is_consistent() {
                metrics::invariant_violated();
                let worker = self.worker;
                tracing::error!(
                    worker,
                    lane,
                    sequence,
                    is_stray,
                    "a cache invariant is violated"
                );
            }
        }
    }
}
