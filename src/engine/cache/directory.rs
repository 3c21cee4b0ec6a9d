//! What the workers know of each other's lanes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::holding::Holding;
use super::policy::Source;
use super::reach::{Ask, reach};
use crate::engine::plan::PromptPlan;
use crate::engine::request::Request;

/// What each worker's lanes hold or are about to hold. Clones share it.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Mutex<Lanes>>);

/// By worker and lane.
type Lanes = Vec<Vec<Option<Holding>>>;

/// Which lanes of other workers are worth fetching.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    /// Cells that the request can reuse.
    pub least_reused: usize,
    /// Cells in all: more cannot be fetched.
    pub most_cells: usize,
}

impl Directory {
    pub fn new(workers: usize, lanes: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![vec![None; lanes]; workers])))
    }

    /// `None`: the lane holds nothing.
    pub(super) fn publish(&self, worker: usize, lane: usize, holding: Option<Holding>) {
        publish(&mut self.lock(), worker, lane, holding);
    }

    /// Publishes what a lane is about to hold, unless another worker's lane holds or will hold what is worth fetching for the
    /// request: then that one. All under one lock: of workers that begin with the same prompt at once, one evaluates it, and
    /// the others see that.
    pub(super) fn claim(
        &self,
        (worker, lane): (usize, usize),
        ask: &Ask,
        plan: &PromptPlan,
        worth: Option<Worth>,
        promise: impl FnOnce() -> Holding,
    ) -> Result<(), (usize, Source)> {
        let mut workers = self.lock();
        if let Some(worth) = worth
            && let Some(other) = best(&workers, Some(worker), worth.most_cells, ask, plan)
            && other.1.cells >= worth.least_reused
        {
            return Err(other);
        }
        publish(&mut workers, worker, lane, Some(promise()));
        Ok(())
    }

    /// A worker's lanes no longer hold anything.
    pub fn forget(&self, worker: usize) {
        if let Some(lanes) = self.lock().get_mut(worker) {
            lanes.fill(None);
        }
    }

    /// The worker that has the most cells of a request's prompt.
    pub fn best_worker(&self, request: &Request, plan: &PromptPlan) -> Option<usize> {
        let (worker, _) = best(&self.lock(), None, usize::MAX, &Ask::of(request), plan)?;
        Some(worker)
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish(workers: &mut Lanes, worker: usize, lane: usize, holding: Option<Holding>) {
    let lanes = workers.get_mut(worker);
    if let Some(slot) = lanes.and_then(|lanes| lanes.get_mut(lane)) {
        *slot = holding;
    }
}

/// The worker, other than the excepted one, and its lane, of no more cells than these, that a request could reuse the most
/// cells of.
fn best(
    workers: &Lanes,
    except: Option<usize>,
    most_cells: usize,
    ask: &Ask,
    plan: &PromptPlan,
) -> Option<(usize, Source)> {
    let others = workers.iter().enumerate();
    others
        .filter(|(worker, _)| Some(*worker) != except)
        .flat_map(|(worker, lanes)| {
            let lanes = lanes.iter().enumerate();
            lanes.map(move |(lane, holding)| (worker, lane, holding))
        })
        .filter_map(|(worker, lane, holding)| {
            let holding = holding.as_ref()?;
            if holding.cells() > most_cells {
                return None;
            }
            let cells = reach(ask, holding, plan);
            (cells > 0).then_some((worker, Source { lane, cells }))
        })
        .max_by_key(|(_, source)| source.cells)
}

/// How many cells of a context are filled, for metrics.
#[derive(Debug, Default)]
pub struct Filled {
    running: AtomicUsize,
    cached: AtomicUsize,
}

impl Filled {
    pub fn set(&self, running: usize, cached: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.cached.store(cached, Ordering::Relaxed);
    }

    /// Cells of running sequences, and cached cells.
    pub fn get(&self) -> (usize, usize) {
        (
            self.running.load(Ordering::Relaxed),
            self.cached.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cache::tests::request;
    use crate::engine::plan::tests::CUTS;
    use crate::logprobs::LogprobSpec;
    use crate::model::Token;

    #[test]
    fn other_workers_are_asked_for_what_they_hold_or_will_hold() {
        let directory = Directory::new(2, 2);
        let plan = PromptPlan::new(100, CUTS);
        let holding = |len: usize, scored: bool| {
            Some(Holding {
                tokens: (0..80).map(Token).collect(),
                len,
                exact_len: len,
                scores: if scored { 1..len } else { 0..0 },
                score_spec: LogprobSpec::top(if scored { 3 } else { 0 }),
                ..Holding::default()
            })
        };
        directory.publish(0, 1, holding(80, false));
        directory.publish(1, 0, holding(40, true));
        let best = |except, top| {
            let request = request(0..100, top);
            super::best(
                &directory.lock(),
                Some(except),
                100,
                &Ask::of(&request),
                &plan,
            )
        };
        assert_eq!(best(1, None), Some((0, Source { lane: 1, cells: 80 })));
        assert_eq!(best(0, None), Some((1, Source { lane: 0, cells: 40 })));
        assert_eq!(best(0, Some(3)), Some((1, Source { lane: 0, cells: 32 })));
        assert_eq!(best(0, Some(4)), None);
        assert_eq!(best(1, Some(0)), None);
        // Who finds enough elsewhere claims nothing.
        let claim = |worker, worth: Option<(usize, usize)>| {
            let request = request(0..100, None);
            let worth = worth.map(|(least_reused, most_cells)| Worth {
                least_reused,
                most_cells,
            });
            let promise = || holding(80, false).expect("some");
            directory.claim((worker, 1), &Ask::of(&request), &plan, worth, promise)
        };
        let there = Err((0, Source { lane: 1, cells: 80 }));
        assert_eq!(claim(1, Some((80, 80))), there);
        assert_eq!(best(0, None), Some((1, Source { lane: 0, cells: 40 })));
        assert_eq!(claim(1, Some((81, 80))), Ok(()));
        assert_eq!(best(0, None), Some((1, Source { lane: 1, cells: 80 })));
        directory.publish(0, 1, None);
        assert_eq!(best(1, None), None);
        directory.forget(1);
        assert_eq!(best(0, None), None);
        assert_eq!(claim(0, Some((64, 80))), Ok(()));
        assert_eq!(claim(1, Some((64, 80))), there);
        assert_eq!(claim(1, Some((64, 79))), Ok(()));
        assert_eq!(claim(1, None), Ok(()));
    }
}
