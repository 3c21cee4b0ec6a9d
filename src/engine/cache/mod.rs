//! The KV cache of a context: its lanes, and which request gets which cells. No other module touches a lane or a cell.
//!
//! A lane (llama-server: a slot) has the KV cells of one sequence, and goes through a cycle:
//!
//! 1. **acquire**: a request leases a free lane with as many cells of its prompt as it can reuse. The cells are continued in
//!    place, copied from another lane, or fetched from another worker ([`KvFetch`] → export → [`KvTransfer`] → import); or the
//!    request waits for a neighbour that is evaluating them. [`reach`] says how many cells of a [`Holding`] a request can
//!    reuse, [`policy::victim`] which free lane is given up.
//! 2. **commit**: prompt cells are evaluated, with their scores. After the last one the prompt is complete.
//! 3. **release**: the sequence has ended, and its cells stay as cache. If a decode failed, **abandon** emptied the lane
//!    before.
//!
//! What holds:
//!
//! - A leased lane is never overwritten or cut for another request.
//! - A request reuses only cells that a fresh evaluation would fill with the same bits (in throughput mode: from the same
//!   tokens, unless the request asks for exactness).
//! - A lane that may hold NaN is scrubbed before a request starts there with no cells.
//! - A pinned prefix ([`pins`]) is given up only if no other lane is free.

mod cells;
mod decode;
mod directory;
mod holding;
mod pins;
mod policy;
mod reach;
mod transfer;

use std::sync::Arc;

pub use directory::{Directory, Filled};
pub use policy::{BRIDGED, Placement};
pub use transfer::{KvFetch, KvTransfer};

use super::plan::{PrefixKey, PromptPlan};
use super::request::Request;
use crate::logprobs::{Tell, TokenLogprob};
use crate::metrics;
use crate::model::{Adapters, Runner, Token};
use cells::Cells;
use holding::{CachedOutput, CachedPrefix, CompletePrompt, Holding};
use pins::Pins;
use policy::{Candidate, Source};
use reach::{Ask, reach};

/// What a cache is set up with.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Tokens that a lane holds.
    pub lane_tokens: usize,
    /// Prefixes that are not given up for one-off prompts.
    pub pinned_prefixes: usize,
    /// Whether any prompt may reuse cells of generated tokens: not in exact mode, for they were not evaluated as a prompt is.
    pub reuses_generated: bool,
}

/// The lanes of one context, and the context.
pub struct Cache<C = Box<dyn Runner>> {
    cells: C,
    rules: Rules,
    lanes: Vec<Lane>,
    /// Counts releases and imports.
    clock: u64,
    pins: Pins,
    /// Lanes that other workers ask for.
    fetches: Vec<KvFetch>,
    /// Own sequences that wait for cells of other workers.
    fetching: Vec<Fetching>,
    worker: usize,
    directory: Directory,
}

#[derive(Debug, Default)]
struct Lane {
    prefix: CachedPrefix,
    /// Present while a sequence runs in it.
    lease: Option<Lease>,
    /// When it was last released.
    last_use: u64,
    /// Whether its cells may hold NaN: see [`Cache::mark_maybe_nan`].
    maybe_nan: bool,
}

/// A lane's sequence.
#[derive(Debug)]
struct Lease {
    sequence: u64,
    prompt: Arc<[Token]>,
    adapters: Adapters,
    scored: bool,
    /// Cells of the prompt that others may reuse.
    shareable: usize,
    /// Tokens of the prompt that are evaluated.
    evaluated: usize,
    /// What the lane will hold after the prompt and the forced prefix; `None` once it does.
    promise: Option<Holding>,
}

impl Lease {
    fn evaluates_prompt(&self) -> bool {
        self.evaluated < self.prompt.len()
    }

    fn prompt(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }
}

/// A sequence that waits for cells of another worker.
struct Fetching {
    sequence: u64,
    prompt: Arc<[Token]>,
    adapters: Adapters,
}

/// A sequence that wants a lane.
pub struct Order<'a> {
    pub sequence: u64,
    pub request: &'a Request,
    pub plan: &'a PromptPlan,
    /// Whether its prompt is evaluated exactly.
    pub is_exact: bool,
    /// Whether it may wait for cells of another worker.
    pub may_fetch: bool,
    pub placement: Placement,
}

/// What an [`Order`] comes to.
pub enum Acquired {
    /// A lane with the first `cells` cells of its prompt and, if that is complete, of its forced prefix.
    Lane { lane: usize, cells: usize },
    /// Another worker has much more. The fetch goes to that worker, and its answer to [`Cache::import_fetched`].
    Fetch { worker: usize, fetch: KvFetch },
    /// A neighbour is evaluating or fetching the prompt, or no lane is free: try again in the next round.
    NotYet,
}

/// Prompt cells that were evaluated.
pub struct Evaluated {
    /// Tokens of the prompt that are evaluated now.
    pub end: usize,
    /// Of each token that the new rows predict, if the prompt is scored; what they contain is [`Cache::score_spec`].
    pub scores: Vec<Arc<TokenLogprob>>,
    /// Whether the decode had the bits of an exact one.
    pub exact: bool,
    /// After the whole prompt: the row of logits that predicts what follows.
    pub last_row: Option<Arc<[f32]>>,
}

impl<C: Cells> Cache<C> {
    pub fn new(cells: C, lanes: usize, rules: Rules, worker: usize, directory: Directory) -> Self {
        Self {
            cells,
            rules,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            clock: 0,
            pins: Pins::new(rules.pinned_prefixes),
            fetches: Vec::new(),
            fetching: Vec::new(),
            worker,
            directory,
        }
    }

    /// Leases a lane, unless it pays to wait.
    pub fn acquire(&mut self, order: &Order) -> Acquired {
        let Order { request, plan, .. } = order;
        let ask = Ask::of(request);
        let reuses = request.cache_prompt && self.cells.can_cut();
        let source = if reuses {
            self.best_source(&ask, plan)
        } else {
            None
        };
        let here = source.map_or(0, |source| source.cells);
        if reuses && here < ask.most_cells() {
            if policy::is_worth_waiting(here, self.promised(&ask, plan), ask.prompt_len()) {
                return Acquired::NotYet;
            }
            if order.may_fetch
                && let Some((worker, there)) = self.directory.best(Some(self.worker), &ask, plan)
                && there.cells >= here + policy::WORTH_FETCHING
            {
                return self.fetch(order, worker, there);
            }
        }
        let candidates = self.candidates();
        // Whose lane the request may continue in.
        let continued = source.filter(|&source| {
            !request.is_fork() || policy::may_cut(&candidates, source, ask.prompt_len())
        });
        let Some(lane) = policy::place(&candidates, continued, order.placement) else {
            return Acquired::NotYet;
        };
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

    /// The lane that a request can reuse most cells of; of equals a free one, which need not be copied.
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

    /// Cells that a request could reuse once running prompts and forced prefixes are evaluated. Sequences with a lane do not
    /// wait for others, so the wait ends.
    fn promised(&self, ask: &Ask, plan: &PromptPlan) -> usize {
        let leases = self.lanes.iter().filter_map(|lane| lane.lease.as_ref());
        leases
            .filter_map(|lease| lease.promise.as_ref())
            .map(|promise| reach(ask, promise, plan))
            .max()
            .unwrap_or(0)
    }

    /// Fetches from another worker, unless a neighbour is fetching the same: it is copied from that one then.
    fn fetch(&mut self, order: &Order, worker: usize, there: Source) -> Acquired {
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
            fetch: KvFetch::new(there.lane, there.cells, prompt, adapters),
        }
    }

    /// The lanes, as the policy sees them.
    fn candidates(&self) -> Vec<Candidate> {
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

    /// Moves what a free lane holds to another.
    fn spill(&mut self, lane: usize, to: usize) {
        self.copy(lane, to);
        self.lanes[to].last_use = self.lanes[lane].last_use;
        self.lanes[lane].prefix = CachedPrefix::default();
        self.publish(to);
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.cells.copy(from, to);
        self.lanes[to].prefix = self.lanes[from].prefix.clone();
        self.lanes[to].maybe_nan = self.lanes[from].maybe_nan;
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
        let prompt_len = request.prompt.len();
        let score_spec = request.prompt_logprobs.as_ref();
        let prefix = &mut self.lanes[lane].prefix;
        if cells >= prompt_len {
            prefix.start_complete(&request.prompt, plan.shareable(), cells - prompt_len);
        } else {
            prefix.start_prompt(&request.prompt, &request.adapters, cells, score_spec);
        }
        let promise = promise(order, prefix.holding());
        // Other workers could not wait for the forced prefix.
        let published = Holding {
            generated: Vec::new(),
            ..promise.clone()
        };
        self.directory.publish(self.worker, lane, Some(published));
        self.lanes[lane].lease = Some(Lease {
            sequence: order.sequence,
            prompt: Arc::clone(&request.prompt),
            adapters: request.adapters.clone(),
            scored: score_spec.is_some(),
            shareable: plan.shareable(),
            evaluated: cells.min(prompt_len),
            promise: Some(promise).filter(|_| cells < Ask::of(request).most_cells()),
        });
    }

    /// What the scores of a lane's tokens contain, those of the prompt that is being evaluated included.
    pub fn score_spec(&self, lane: usize) -> &Tell {
        &self.lanes[lane].prefix.holding().score_spec
    }

    /// Prompt cells of a leased lane are evaluated.
    pub fn commit(&mut self, lane: usize, evaluated: Evaluated) {
        let Lane {
            prefix,
            lease: Some(lease),
            maybe_nan,
            ..
        } = &mut self.lanes[lane]
        else {
            return;
        };
        let Evaluated {
            end,
            scores,
            exact,
            last_row,
        } = evaluated;
        lease.evaluated = end;
        let exact = prefix.extend(end.min(lease.shareable), scores, exact);
        if let Some(row) = last_row {
            prefix.complete(lease.scored, row, exact);
            // The row follows from all cells, and was looked at.
            *maybe_nan = false;
            lease.promise.take_if(|promise| promise.generated.len() < 2);
        }
    }

    /// What a complete prompt is answered from.
    pub fn output(&self, lane: usize) -> Option<&CachedOutput> {
        self.lanes[lane].prefix.output()
    }

    /// A token after the prompt is evaluated. In throughput mode these are told at the release.
    pub fn push_generated(&mut self, lane: usize, token: Token) {
        if self.rules.reuses_generated {
            return;
        }
        let Lane { prefix, lease, .. } = &mut self.lanes[lane];
        prefix.push_generated(token);
        let generated = prefix.holding().generated.len();
        if let Some(lease) = lease {
            lease
                .promise
                .take_if(|promise| promise.generated.len() <= generated + 1);
        }
    }

    /// A decode failed, or its numbers are no good: what the leased lane holds is not known any more.
    pub fn abandon(&mut self, lane: usize) {
        self.cells.cut(lane, 0);
        let state = &mut self.lanes[lane];
        state.prefix = CachedPrefix::default();
        if let Some(lease) = &mut state.lease {
            lease.evaluated = 0;
            lease.promise = None;
            state.maybe_nan |= !lease.adapters.is_empty();
        }
    }

    /// The lane's sequence has ended; its cells stay as cache. `generated`: the tokens evaluated after its complete prompt,
    /// where any prompt may reuse their cells.
    pub fn release(&mut self, lane: usize, generated: Option<&[Token]>) {
        let last_use = self.tick();
        let state = &mut self.lanes[lane];
        state.lease = None;
        state.last_use = last_use;
        if let Some(generated) = generated.filter(|_| self.rules.reuses_generated) {
            state.prefix.extend_with_generated(generated);
        }
        // Its cells are those that are known of then, which `bridge_position` relies on.
        let cells = state.prefix.holding().cells();
        self.cells.cut(lane, cells);
        self.publish(lane);
    }

    /// Shows the other workers what a free lane holds.
    fn publish(&self, lane: usize) {
        let holding = self.lanes[lane].prefix.holding();
        let published = Some(holding).filter(|holding| holding.cells() > 0);
        self.directory
            .publish(self.worker, lane, published.cloned());
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Filled cells of the lanes that nobody leases.
    pub fn cached_cells(&self) -> usize {
        let free = self.lanes.iter().filter(|lane| lane.lease.is_none());
        free.map(|lane| lane.prefix.holding().cells()).sum()
    }

    /// Logs and counts what must not be: a lane leased to a sequence that does not run, or facts about a lane that
    /// contradict each other.
    pub fn check_invariants(&self, runs: impl Fn(u64) -> bool) {
        for (lane, state) in self.lanes.iter().enumerate() {
            let sequence = state.lease.as_ref().map(|lease| lease.sequence);
            let is_stray = sequence.is_some_and(|sequence| !runs(sequence));
            if is_stray || !state.prefix.is_consistent() {
                metrics::books_wrong();
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

/// What a lane with this holding will hold once the order's prompt and forced prefix are evaluated.
fn promise(order: &Order, holding: &Holding) -> Holding {
    let Order { request, plan, .. } = order;
    let scored = request.prompt_logprobs.is_some();
    let is_exact = order.is_exact && holding.is_exact();
    let shareable = plan.shareable();
    let complete_prompt = holding.complete_prompt.unwrap_or(CompletePrompt {
        len: request.prompt.len(),
        scored,
        exact: is_exact,
    });
    Holding {
        adapters: request.adapters.clone(),
        tokens: Arc::clone(&request.prompt),
        len: shareable,
        exact_len: if is_exact {
            shareable
        } else {
            holding.exact_len
        },
        scores: if scored { shareable } else { holding.scores },
        score_spec: holding.score_spec.clone(),
        complete_prompt: Some(complete_prompt),
        generated: request.kept.to_vec(),
    }
}

#[cfg(test)]
pub(super) mod tests;
