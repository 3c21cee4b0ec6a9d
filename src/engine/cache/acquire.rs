//! Leasing a lane to a sequence.

use std::sync::Arc;

use super::cells::Cells;
use super::directory::Worth;
use super::fetch::{Fetching, KvFetch};
use super::holding::{CachedPrefix, CompletePrompt, Holding, Scoring};
use super::lane::Lease;
use super::policy::{self, Placement, Source};
use super::reach::{Ask, reach};
use super::state::Cache;
use crate::engine::plan::{PrefixKey, PromptPlan};
use crate::engine::request::Request;

/// A sequence that wants a lane.
pub struct Order<'a> {
    pub sequence: u64,
    pub request: &'a Request,
    pub plan: &'a PromptPlan,
    /// Whether its prompt is evaluated exactly.
    pub is_exact: bool,
    /// How often it has asked other workers for cells.
    pub fetches: usize,
    pub placement: Placement,
}

/// The outcome of an [`Order`].
pub enum Acquired {
    /// A lane with the first `cells` cells of its prompt and, if that is complete, of its forced prefix.
    Lane { lane: usize, cells: usize },
    /// Another worker has much more. The fetch goes to that worker, and its answer to [`Cache::import_fetched`].
    Fetch { worker: usize, fetch: KvFetch },
    /// A neighbour is evaluating or fetching the prompt, or no lane is free: try again in the next round.
    NotYet,
}

impl<C: Cells> Cache<C> {
    /// Leases a lane, unless it pays to wait.
    pub fn acquire(&mut self, order: &Order) -> Acquired {
        let Order { request, plan, .. } = order;
        let ask = Ask::of(request);
        let reuses = self.reuses(request);
        let source = if reuses {
            self.best_source(&ask, plan)
        } else {
            None
        };
        let here = source.map_or(0, |source| source.cells);
        if reuses
            && here < ask.most_cells()
            && policy::is_worth_waiting(here, self.promised(&ask, plan, here), ask.prompt_len())
        {
            return Acquired::NotYet;
        }
        let candidates = self.candidates();
        // The source, if the request may continue in its lane.
        let continued = source.filter(|&source| {
            !request.is_fork() || policy::may_cut(&candidates, source, ask.prompt_len())
        });
        let Some(lane) = policy::place(&candidates, continued, order.placement) else {
            return Acquired::NotYet;
        };
        if let Err((worker, there)) = self.claim(order, &ask, lane, source) {
            return self.fetch(order, worker, there, here);
        }
        self.pins.count(request, here);
        if let Some(to) = policy::spill_target(&candidates, lane, source) {
            self.spill(lane, to);
        }
        if let Some(source) = source
            && source.lane != lane
        {
            self.copy(source.lane, lane);
        }
        let cells = self.cut_back(lane, here);
        self.lease(order, lane, cells);
        Acquired::Lane { lane, cells }
    }

    /// Whether a request takes cells from others.
    fn reuses(&self, request: &Request) -> bool {
        request.cache_prompt && self.cells.can_cut()
    }

    /// Tells the other workers what a lane will hold once the order has run there from this source, unless one of them has or
    /// will have much more: then that one, and its lane.
    fn claim(
        &self,
        order: &Order,
        ask: &Ask,
        lane: usize,
        source: Option<Source>,
    ) -> Result<(), (usize, Source)> {
        let here = source.map_or(0, |source| source.cells);
        let may_fetch = self.reuses(order.request) && order.fetches < policy::MOST_FETCHES;
        let worth = may_fetch.then_some(Worth {
            least_reused: here + policy::WORTH_FETCHING,
            most_cells: self.rules.most_fetched,
        });
        let nothing = Holding::default();
        let promised = || {
            let holding = source.map(|source| self.lanes[source.lane].prefix.holding());
            let kept = started(order, holding.unwrap_or(&nothing), here);
            promise(order, &kept).published()
        };
        self.directory
            .claim((self.worker, lane), ask, order.plan, worth, promised)
    }

    /// The lane that a request can reuse the most cells of. Among equals a free one, which needs no copy.
    fn best_source(&self, ask: &Ask, plan: &PromptPlan) -> Option<Source> {
        let lanes = self.lanes.iter().enumerate();
        lanes
            .map(|(lane, state)| Source {
                lane,
                cells: reach(ask, state.prefix.holding(), plan),
            })
            .filter(|source| source.cells > 0)
            .max_by_key(|source| (source.cells, self.lanes[source.lane].lease.is_none()))
    }

    /// Cells that a request which has the first `here` already could reuse once running prompts and forced prefixes are
    /// evaluated. Sequences with a lane wait for their turn only, and one that waits for it too long does not count. So
    /// waiting for them ends.
    fn promised(&self, ask: &Ask, plan: &PromptPlan, here: usize) -> usize {
        let has_prompt = here >= ask.prompt_len();
        let leases = self.lanes.iter().filter_map(|lane| lane.lease.as_ref());
        leases
            // A prompt that the request already has may take longer than the forced prefix that comes after it.
            .filter(|lease| !(has_prompt && lease.evaluates_prompt()))
            .filter_map(|lease| {
                let cells = reach(ask, lease.promise.as_ref()?, plan);
                let is_overdue = self.is_overdue(lease, cells.saturating_sub(here));
                (!is_overdue).then_some(cells)
            })
            .max()
            .unwrap_or(0)
    }

    /// Fetches from another worker when `here` cells are held, unless a neighbour is fetching the same, from which it can be
    /// copied later.
    fn fetch(&mut self, order: &Order, worker: usize, there: Source, here: usize) -> Acquired {
        let Request {
            prompt, adapters, ..
        } = order.request;
        let is_coming = self.fetching.iter().any(|fetching| {
            let coming = PrefixKey {
                tokens: &fetching.prompt,
                adapters: &fetching.adapters,
            };
            coming.common(order.request.prefix_key()) >= there.cells.min(prompt.len())
        });
        if is_coming {
            return Acquired::NotYet;
        }
        self.fetching.push(Fetching {
            sequence: order.sequence,
            prompt: Arc::clone(prompt),
            adapters: adapters.clone(),
        });
        Acquired::Fetch {
            worker,
            fetch: KvFetch::new(there, there.cells - here, prompt, adapters),
        }
    }

    /// Moves what a free lane holds to another.
    fn spill(&mut self, lane: usize, to: usize) {
        self.copy(lane, to);
        self.lanes[to].last_use = self.lanes[lane].last_use;
        self.lanes[lane].prefix = CachedPrefix::default();
        self.publish(to);
    }

    /// Keeps the first `cells` cells of a lane, or none if the model cannot cut there.
    fn cut_back(&mut self, lane: usize, mut cells: usize) -> usize {
        if !self.cells.cut(lane, cells) {
            cells = 0;
            self.cells.cut(lane, 0);
        }
        if cells == 0 && std::mem::take(&mut self.lanes[lane].maybe_nan) {
            self.cells.scrub(lane);
        }
        cells
    }

    /// Leases a lane that holds the first `cells` cells of the order.
    fn lease(&mut self, order: &Order, lane: usize, cells: usize) {
        let Order { request, plan, .. } = order;
        let prefix = &mut self.lanes[lane].prefix;
        prefix.start(started(order, prefix.holding(), cells));
        let promise = promise(order, prefix.holding());
        self.lanes[lane].lease = Some(Lease {
            sequence: order.sequence,
            prompt: Arc::clone(&request.prompt),
            adapters: request.adapters.clone(),
            scored: order.scoring().is_some(),
            shareable: plan.shareable(),
            evaluated: cells.min(request.prompt.len()),
            got_on: self.evaluated,
            promise: Some(promise).filter(|_| cells < Ask::of(request).most_cells()),
        });
        // It was claimed with all that can be reused. That may be more than the model could cut.
        self.publish(lane);
    }
}

impl Order<'_> {
    /// How its prompt is scored, if it is.
    fn scoring(&self) -> Option<Scoring<'_>> {
        let asked = self.request.prompt_logprobs.as_ref()?;
        let first_row = self.request.first_logits_row(self.plan)?;
        Some(Scoring {
            spec: &asked.spec,
            first_row,
        })
    }
}

/// What is left of this holding when an order starts with its first `cells` cells.
fn started(order: &Order, holding: &Holding, cells: usize) -> Holding {
    let Order { request, plan, .. } = order;
    let prompt = &request.prompt;
    if cells >= prompt.len() {
        holding.start_complete(prompt, plan.shareable(), cells - prompt.len())
    } else {
        holding.start_prompt(prompt, &request.adapters, cells, order.scoring())
    }
}

/// What a lane with this holding will hold once the order's prompt and forced prefix are evaluated.
fn promise(order: &Order, holding: &Holding) -> Holding {
    let Order { request, plan, .. } = order;
    let scored = request.prompt_logprobs.is_some();
    let is_exact = order.is_exact && holding.is_exact();
    let shareable = plan.shareable();
    let mut scores = holding.scores.clone();
    let complete_prompt = holding.complete_prompt.unwrap_or(CompletePrompt {
        len: request.prompt.len(),
        scored_from: scored.then_some(scores.start),
        exact: is_exact,
    });
    if scored {
        scores.end = (shareable + 1).max(scores.start);
    }
    Holding {
        adapters: request.adapters.clone(),
        tokens: Arc::clone(&request.prompt),
        len: shareable,
        exact_len: if is_exact {
            shareable
        } else {
            holding.exact_len
        },
        scores,
        score_spec: holding.score_spec.clone(),
        complete_prompt: Some(complete_prompt),
        generated: request.forced_prefix.to_vec(),
        generated_exact: request.exact,
    }
}
