//! The lanes of a context as the engine knows them: what each holds, who uses it, and which of them a new prompt
//! starts from.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{PromptPlan, Stem};
use super::request::Request;
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::{Adapters, Token};

/// What is known of a lane's cells. In exact mode those of generated tokens stand apart: they were evaluated one row at a
/// time, so no prompt may use them.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// The adapters under which all of it was evaluated.
    pub adapters: Adapters,
    /// Tokens whose cells hold what any fresh evaluation would.
    pub tokens: Vec<Token>,
    /// Of these, so many of the first hold that to the last bit: all of them in exact mode. In throughput mode what follows
    /// was generated, or evaluated on top of that.
    pub pure: usize,
    /// Scores of the tokens from the second on, as far as they are known: `scores[i]` belongs to `tokens[i + 1]`.
    pub scores: Vec<Arc<TokenLogprob>>,
    /// What stands in each score.
    pub told: LogprobSpec,
    /// The prompt that was evaluated in this lane to its end, which may lie some tokens beyond `tokens`.
    pub whole: Option<Whole>,
    /// In exact mode: the tokens that were evaluated one by one behind that prompt. A fork takes over their cells.
    pub generated: Vec<Token>,
}

/// A prompt that was evaluated to its end. Whoever asks for the very same has nothing to evaluate: the choices of one
/// request, and requests that are repeated.
#[derive(Debug, Clone)]
pub struct Whole {
    pub prompt: Arc<[Token]>,
    /// Of all its tokens but the first, if it was scored.
    ///
    /// Scored prompts have a row of logits for each token, others for the last one only, and with some weights (F16)
    /// llama.cpp computes one row by another routine than several. So the two are not taken for each other.
    pub scores: Option<Vec<Arc<TokenLogprob>>>,
    /// The row of logits that tells what follows.
    pub row: Arc<[f32]>,
    /// Whether all of it is exact: see [`Known::pure`].
    pub pure: bool,
}

impl Known {
    /// Cells that the lane holds.
    pub fn cells(&self) -> usize {
        let whole = self.whole.as_ref().map_or(0, |whole| whole.prompt.len());
        self.tokens.len().max(whole + self.generated.len())
    }

    /// Whether all of its tokens' cells are exact.
    pub fn is_pure(&self) -> bool {
        self.pure == self.tokens.len()
    }

    fn stem<'a>(&'a self, tokens: &'a [Token]) -> Stem<'a> {
        Stem {
            tokens,
            adapters: &self.adapters,
        }
    }

    /// The prompt that was evaluated to its end, if it is this one.
    fn whole(&self, stem: Stem<'_>) -> Option<&Whole> {
        self.whole
            .as_ref()
            .filter(|whole| self.stem(&whole.prompt) == stem)
    }

    /// Whether the lane holds the first `cells` tokens of a prompt so that another may take them over.
    pub fn holds(&self, stem: Stem<'_>, cells: usize) -> bool {
        self.stem(&self.tokens).common(stem) >= cells || self.whole(stem).is_some()
    }

    /// Cells that a request may take over; all of its prompt, if this very prompt was evaluated here, and then of what it
    /// keeps, too.
    pub fn usable(&self, request: &Request, plan: &PromptPlan) -> usize {
        if let Some(whole) = self.whole(request.stem())
            && (whole.pure || !request.exact)
            && same_scores(request, whole.scores.is_some(), &self.told)
        {
            return request.prompt.len() + request.resumed(&self.generated);
        }
        let tokens = if request.exact {
            &self.tokens[..self.pure]
        } else {
            &self.tokens
        };
        let common = self.stem(tokens).common(request.stem());
        plan.reuse(scored(common, request, self.scores.len(), &self.told))
    }

    /// Keeps the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.pure = self.pure.min(self.tokens.len());
        // scores[tokens - 1] is that of the token after the last kept, which the last kept cell predicts. Another
        // token may follow now.
        self.scores.truncate(tokens.saturating_sub(1));
        self.whole = None;
        self.generated.clear();
    }
}

/// Of `common` known tokens, how many a request can start from if it wants its prompt scored: the token after them is
/// predicted by the last of them, so its score must be known too. Rows are not kept: from the first that is wanted on
/// all is evaluated.
fn scored(common: usize, request: &Request, scores: usize, told: &LogprobSpec) -> usize {
    match &request.prompt_logprobs {
        None => common,
        Some(tell) if tell.within(told) => {
            let known = common.saturating_sub(1).min(scores);
            let row = request.first_prompt_row();
            known.min(row.map_or(usize::MAX, |position| position - 1))
        }
        Some(_) => 0,
    }
}

/// Whether a request asks for the scores that the very same prompt was evaluated for, and for no row of it.
fn same_scores(request: &Request, scored: bool, told: &LogprobSpec) -> bool {
    match &request.prompt_logprobs {
        None => !scored,
        Some(tell) => scored && tell.within(told) && request.first_prompt_row().is_none(),
    }
}

/// A lane.
#[derive(Debug, Default)]
pub struct Lane {
    pub known: Known,
    /// The sequence that uses it.
    pub sequence: Option<u64>,
    /// When it was last given back: the smallest goes first.
    pub used: u64,
    /// Whether its cells may hold what is not a number: adapters at a large scale can have numbers overflow. They were
    /// evaluated under adapters, and no row that follows from them has been looked at yet.
    pub suspect: bool,
}

/// Cells that a context's lanes hold, for those who ask how full it is.
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

    /// Those of sequences that run, and those that are kept.
    pub fn get(&self) -> (usize, usize) {
        (
            self.running.load(Ordering::Relaxed),
            self.cached.load(Ordering::Relaxed),
        )
    }
}

/// Where a prompt's first cells come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub lane: usize,
    /// Cells taken over.
    pub cells: usize,
}

/// The lane of these that a request can take most cells from.
pub fn best_source(lanes: &[Lane], request: &Request, plan: &PromptPlan) -> Option<Source> {
    lanes
        .iter()
        .enumerate()
        .map(|(lane, state)| Source {
            lane,
            cells: state.known.usable(request, plan),
        })
        .filter(|source| source.cells > 0)
        // Of equals one that is free, which need not be copied.
        .max_by_key(|source| (source.cells, lanes[source.lane].sequence.is_none()))
}

/// Which of the free lanes a request is run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The one that was used longest ago: the others stay as cache.
    Anywhere,
    /// Next to those that run: a decode of several sequences is quick when their lanes stand side by side.
    Together,
}

/// Free lanes between two that run, which a decode of several sequences bridges at little cost.
pub const BRIDGED: usize = 2;

/// The free lane to run a request in, given where its first cells come from.
pub fn choose_lane(lanes: &[Lane], source: Option<Source>, placement: Placement) -> Option<usize> {
    let distance = |lane: usize| match placement {
        Placement::Anywhere => 0,
        Placement::Together => distance(lanes, lane),
    };
    if let Some(source) = source {
        let lane = &lanes[source.lane];
        // In place, unless that would throw away more of another prompt than it saves.
        if lane.sequence.is_none()
            && lane.known.tokens.len() <= source.cells.saturating_mul(2)
            && distance(source.lane) <= BRIDGED
        {
            return Some(source.lane);
        }
    }
    (0..lanes.len())
        .filter(|&lane| lanes[lane].sequence.is_none())
        // The source only if no other is free: in place, then.
        .min_by_key(|&lane| {
            let is_source = source.is_some_and(|source| source.lane == lane);
            (is_source, distance(lane), lanes[lane].used)
        })
}

/// Steps from a lane to the nearest end of those that run; 0 within, or if none runs.
fn distance(lanes: &[Lane], lane: usize) -> usize {
    let runs = |lane: &Lane| lane.sequence.is_some();
    match (lanes.iter().position(runs), lanes.iter().rposition(runs)) {
        (Some(first), Some(last)) => first.saturating_sub(lane) + lane.saturating_sub(last),
        _ => 0,
    }
}

/// Where to copy what a free lane holds before it is used for something else, which takes its first cells from
/// `source`: the free lane that was used longest ago, if that is another.
pub fn refuge(lanes: &[Lane], lane: usize, source: Option<Source>) -> Option<usize> {
    let is_source = |other: usize| source.is_some_and(|source| source.lane == other);
    if lanes[lane].known.tokens.is_empty() || is_source(lane) {
        return None;
    }
    (0..lanes.len())
        .filter(|&other| lanes[other].sequence.is_none() && !is_source(other))
        .min_by_key(|&other| (lanes[other].used, other != lane))
        .filter(|&other| other != lane)
}

/// What each worker's lanes hold or are about to hold, for the other workers to look at.
#[derive(Debug)]
pub struct Directory(Mutex<Vec<Vec<Option<Entry>>>>);

/// A lane's entry.
#[derive(Debug, Clone)]
pub struct Entry {
    pub adapters: Adapters,
    pub prompt: Arc<[Token]>,
    /// Tokens of it that can be had, once they are evaluated.
    pub tokens: usize,
    /// Those that exact requests can have.
    pub pure: usize,
    /// What stands in their scores; `None`: they are not scored.
    pub told: Option<LogprobSpec>,
    /// Present if the prompt is, or is about to be, evaluated to its end: whether it is scored then.
    pub whole: Option<bool>,
    /// Whether exact requests can have that.
    pub whole_is_pure: bool,
    /// As in [`Known`]; of a lane that is used, none.
    pub generated: Vec<Token>,
}

impl Entry {
    /// The first tokens of its prompt, at most all.
    fn stem(&self, tokens: usize) -> Stem<'_> {
        Stem {
            tokens: &self.prompt[..tokens.min(self.prompt.len())],
            adapters: &self.adapters,
        }
    }
}

impl Directory {
    pub fn new(workers: usize, lanes: usize) -> Self {
        Self(Mutex::new(vec![vec![None; lanes]; workers]))
    }

    pub fn publish(&self, worker: usize, lane: usize, entry: Option<Entry>) {
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = workers
            .get_mut(worker)
            .and_then(|lanes| lanes.get_mut(lane))
        {
            *slot = entry;
        }
    }

    /// Nothing is known of a worker's lanes any more.
    pub fn forget(&self, worker: usize) {
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = workers.get_mut(worker) {
            lanes.fill(None);
        }
    }

    /// The lane of a worker, but for the excepted one, that a request could take most cells from.
    pub fn best(
        &self,
        except: Option<usize>,
        request: &Request,
        plan: &PromptPlan,
    ) -> Option<(usize, Source)> {
        let nothing = LogprobSpec::default();
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        workers
            .iter()
            .enumerate()
            .filter(|(worker, _)| Some(*worker) != except)
            .flat_map(|(worker, lanes)| {
                lanes
                    .iter()
                    .enumerate()
                    .map(move |(lane, entry)| (worker, lane, entry))
            })
            .filter_map(|(worker, lane, entry)| {
                let entry = entry.as_ref()?;
                if let Some(scored) = entry.whole
                    && (entry.whole_is_pure || !request.exact)
                    && entry.stem(usize::MAX) == request.stem()
                    && same_scores(request, scored, entry.told.as_ref().unwrap_or(&nothing))
                {
                    let cells = request.prompt.len() + request.resumed(&entry.generated);
                    return Some((worker, Source { lane, cells }));
                }
                let tokens = if request.exact {
                    entry.pure
                } else {
                    entry.tokens
                };
                let common = entry.stem(tokens).common(request.stem());
                let usable = match (&request.prompt_logprobs, &entry.told) {
                    (None, _) => common,
                    (Some(_), None) => 0,
                    (Some(_), Some(told)) => {
                        scored(common, request, common.saturating_sub(1), told)
                    }
                };
                let cells = plan.reuse(usable);
                (cells > 0).then_some((worker, Source { lane, cells }))
            })
            .max_by_key(|(_, source)| source.cells)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::plan::tests::CUTS;
    use crate::engine::request::Rows;
    use crate::sampling::{SamplingParams, Watch};

    pub(in crate::engine) fn request(
        prompt: std::ops::Range<i32>,
        prompt_logprobs: Option<usize>,
    ) -> Request {
        Request {
            include_stop: false,
            prompt: prompt.map(Token).collect(),
            kept: Arc::default(),
            given: None,
            adapters: Adapters::default(),
            max_tokens: 1,
            logprobs: None,
            prompt_logprobs: prompt_logprobs.map(LogprobSpec::top),
            rows: Rows::default(),
            watch: Watch::default(),
            sampling: SamplingParams::default(),
            stop: Arc::new([]),
            cache_prompt: true,
            exact: false,
            streamed: true,
            deliver_end_token: false,
        }
    }

    fn lane(
        tokens: std::ops::Range<i32>,
        scores: usize,
        top: usize,
        sequence: Option<u64>,
        used: u64,
    ) -> Lane {
        let score = Arc::new(TokenLogprob {
            token: Token(0),
            logprob: 0.0,
            top: Vec::new(),
            named: Vec::new(),
            detail: None,
        });
        Lane {
            known: Known {
                adapters: Adapters::default(),
                pure: tokens.len(),
                tokens: tokens.map(Token).collect(),
                scores: vec![score; scores],
                told: LogprobSpec::top(top),
                whole: None,
                generated: Vec::new(),
            },
            sequence,
            used,
            suspect: false,
        }
    }

    #[test]
    fn a_prompt_starts_from_the_lane_that_knows_most_of_it() {
        let request = request(0..100, None);
        let plan = PromptPlan::new(100, CUTS);
        let lanes = [
            lane(0..20, 0, 0, None, 5),
            lane(0..60, 0, 0, Some(1), 0),
            lane(50..90, 0, 0, None, 1),
        ];
        let source = best_source(&lanes, &request, &plan);
        assert_eq!(source, Some(Source { lane: 1, cells: 56 }));
        // Lane 1 is taken: its cells are copied to the free lane that was used longest ago.
        assert_eq!(choose_lane(&lanes, source, Placement::Anywhere), Some(2));
    }

    #[test]
    fn a_long_prompt_is_not_thrown_away_for_a_short_common_beginning() {
        let lanes = [lane(0..1000, 0, 0, None, 0), lane(0..0, 0, 0, None, 9)];
        assert_eq!(
            choose_lane(
                &lanes,
                Some(Source { lane: 0, cells: 30 }),
                Placement::Anywhere
            ),
            Some(1)
        );
        assert_eq!(
            choose_lane(
                &lanes,
                Some(Source {
                    lane: 0,
                    cells: 900
                }),
                Placement::Anywhere
            ),
            Some(0)
        );
        let lanes = [lane(0..1000, 0, 0, None, 0), lane(0..0, 0, 0, Some(3), 9)];
        assert_eq!(
            choose_lane(
                &lanes,
                Some(Source { lane: 0, cells: 30 }),
                Placement::Anywhere
            ),
            Some(0)
        );
        let lanes = [
            lane(0..1000, 0, 0, Some(1), 0),
            lane(0..0, 0, 0, Some(3), 9),
        ];
        assert_eq!(choose_lane(&lanes, None, Placement::Anywhere), None);
    }

    #[test]
    fn lanes_that_share_decodes_stand_side_by_side() {
        let free = |used| lane(0..40, 0, 0, None, used);
        let busy = || lane(0..40, 0, 0, Some(1), 0);
        let check = |lanes: &[Lane], source: Option<usize>, expect| {
            let source = source.map(|lane| Source { lane, cells: 32 });
            assert_eq!(choose_lane(lanes, source, Placement::Together), expect);
        };
        check(&[free(5), free(3), free(4)], None, Some(1));
        check(
            &[free(1), free(2), busy(), busy(), free(9), free(3)],
            None,
            Some(1),
        );
        check(&[free(1), busy(), free(9), busy()], None, Some(2));
        // In place if that is near, else a copy next to the others.
        check(&[free(1), free(2), free(3), busy()], Some(1), Some(1));
        check(
            &[free(1), free(2), free(3), free(4), busy()],
            Some(0),
            Some(3),
        );
    }

    #[test]
    fn what_is_displaced_goes_where_it_is_missed_least() {
        let free = |used| lane(0..40, 0, 0, None, used);
        let busy = || lane(0..40, 0, 0, Some(1), 0);
        let check = |lanes: &[Lane], displaced, source: Option<usize>, expect| {
            let source = source.map(|lane| Source { lane, cells: 32 });
            assert_eq!(refuge(lanes, displaced, source), expect);
        };
        let lanes = [free(5), busy(), free(2), free(3)];
        check(&lanes, 0, None, Some(2));
        check(&lanes, 2, None, None);
        // What is about to be copied is not written over, and what is continued in place is not moved.
        check(&lanes, 0, Some(2), Some(3));
        check(&lanes, 0, Some(0), None);
        check(&[lane(0..0, 0, 0, None, 9), free(1)], 0, None, None);
        // Lanes that were never used are all alike.
        check(&[free(0), free(0)], 1, None, None);
    }

    #[test]
    fn scored_prompts_start_where_scores_are_known() {
        let plan = PromptPlan::new(100, CUTS);
        let check = |lane: Lane, top, expect| {
            assert_eq!(lane.known.usable(&request(0..100, top), &plan), expect);
        };
        check(lane(0..64, 63, 5, None, 0), None, 64);
        // Token 64 differs or is unknown, and is predicted by cell 63: that one is evaluated again, with its group.
        check(lane(0..64, 63, 5, None, 0), Some(5), 56);
        check(lane(0..64, 30, 5, None, 0), Some(1), 24);
        check(lane(0..64, 63, 5, None, 0), Some(6), 0);
        check(lane(0..64, 0, 0, None, 0), Some(0), 0);
    }

    #[test]
    fn a_prompt_is_evaluated_from_the_first_row_on_that_is_wanted() {
        let plan = PromptPlan::new(100, CUTS);
        let check = |rows, prompt_logprobs: Option<usize>, expect| {
            let mut lane = lane(0..96, 95, 5, None, 0);
            lane.known.whole = Some(Whole {
                prompt: (0..100).map(Token).collect(),
                scores: prompt_logprobs.map(|_| vec![lane.known.scores[0].clone(); 99]),
                row: Arc::new([]),
                pure: true,
            });
            let request = Request {
                rows,
                ..request(0..100, prompt_logprobs)
            };
            assert_eq!(
                lane.known.usable(&request, &plan),
                expect,
                "{:?}",
                request.rows
            );
        };
        check(Rows::None, Some(0), 100);
        check(Rows::From(0), Some(0), 0);
        check(Rows::From(50), Some(0), 48);
        check(Rows::These([49, 90].into()), Some(0), 48);
        check(Rows::These([48].into()), Some(0), 40);
        check(Rows::These([0].into()), Some(0), 100);
        // Those of generated tokens come as these are generated.
        check(Rows::From(100), None, 100);
        check(Rows::These([100, 105].into()), Some(0), 100);
    }

    #[test]
    fn the_very_same_prompt_is_taken_over_whole() {
        let plan = PromptPlan::new(100, CUTS);
        let check = |prompt: std::ops::Range<i32>, scored: bool, top, expect| {
            let mut lane = lane(0..96, 95, 5, None, 0);
            lane.known.whole = Some(Whole {
                prompt: prompt.map(Token).collect(),
                scores: scored.then(|| vec![lane.known.scores[0].clone(); 99]),
                row: Arc::new([]),
                pure: true,
            });
            assert_eq!(lane.known.cells(), 100);
            assert_eq!(lane.known.usable(&request(0..100, top), &plan), expect);
        };
        check(0..100, false, None, 100);
        check(0..100, true, Some(5), 100);
        // More alternatives than are known, scored and not, or another prompt.
        check(0..100, true, Some(6), 0);
        check(0..100, false, Some(5), 88);
        check(0..100, true, None, 88);
        check(1..101, false, None, 88);
    }

    #[test]
    fn what_was_generated_is_for_forks_alone() {
        let plan = PromptPlan::new(20, CUTS);
        let tokens = |ids: std::ops::Range<i32>| ids.map(Token).collect::<Vec<_>>();
        let check = |kept: std::ops::Range<i32>, generated: std::ops::Range<i32>, expect| {
            let mut request = request(0..20, None);
            request.kept = tokens(kept).into();
            let mut lane = lane(0..16, 0, 0, None, 0);
            lane.known.whole = Some(Whole {
                prompt: request.prompt.clone(),
                scores: None,
                row: Arc::new([]),
                pure: true,
            });
            lane.known.generated = tokens(generated);
            assert_eq!(lane.known.cells(), 20 + lane.known.generated.len());
            assert_eq!(lane.known.usable(&request, &plan), expect);
            let directory = Directory::new(1, 1);
            directory.publish(
                0,
                0,
                Some(Entry {
                    adapters: Adapters::default(),
                    prompt: request.prompt.clone(),
                    tokens: 16,
                    pure: 16,
                    told: None,
                    whole: Some(false),
                    whole_is_pure: true,
                    generated: lane.known.generated.clone(),
                }),
            );
            let found = directory.best(None, &request, &plan);
            assert_eq!(found.map(|(_, source)| source.cells), Some(expect));
            // A prompt that goes on with the very same tokens was not evaluated as one.
            let longer = super::tests::request(0..28, None);
            let longer_plan = PromptPlan::new(28, CUTS);
            assert_eq!(lane.known.usable(&longer, &longer_plan), 16);
            lane.known.truncate(16);
            assert_eq!(lane.known.cells(), 16);
            assert_eq!(lane.known.usable(&request, &plan), 8);
        };
        check(20..20, 20..30, 20);
        // The last token that is kept is evaluated again, for what follows it.
        check(20..25, 20..30, 24);
        check(20..25, 20..22, 22);
        check(20..31, 20..30, 30);
        check(20..25, 21..30, 20);
        check(20..21, 20..30, 20);
        check(20..25, 20..20, 20);
    }

    #[test]
    fn other_workers_are_asked_for_what_they_will_have() {
        let directory = Directory::new(2, 2);
        let plan = PromptPlan::new(100, CUTS);
        let entry = |tokens, top: Option<usize>| {
            Some(Entry {
                adapters: Adapters::default(),
                prompt: (0..80).map(Token).collect(),
                tokens,
                pure: tokens,
                told: top.map(LogprobSpec::top),
                whole: None,
                whole_is_pure: false,
                generated: Vec::new(),
            })
        };
        directory.publish(0, 1, entry(80, None));
        directory.publish(1, 0, entry(40, Some(3)));
        let best = |except, top| directory.best(Some(except), &request(0..100, top), &plan);
        assert_eq!(best(1, None), Some((0, Source { lane: 1, cells: 80 })));
        assert_eq!(best(0, None), Some((1, Source { lane: 0, cells: 40 })));
        assert_eq!(best(0, Some(3)), Some((1, Source { lane: 0, cells: 32 })));
        assert_eq!(best(0, Some(4)), None);
        assert_eq!(best(1, Some(0)), None);
        directory.publish(0, 1, None);
        assert_eq!(best(1, None), None);
    }

    #[test]
    fn what_was_evaluated_under_other_adapters_is_of_no_use() {
        let plan = PromptPlan::new(100, CUTS);
        let (none, some, other) = (
            Adapters::default(),
            Adapters::new([(0, 1.0)]),
            Adapters::new([(0, 0.5)]),
        );
        let check = |held: &Adapters, asked: &Adapters, expect| {
            let mut request = request(0..100, None);
            request.adapters = asked.clone();
            let mut lane = lane(0..96, 0, 0, None, 0);
            lane.known.adapters = held.clone();
            assert_eq!(lane.known.holds(request.stem(), 64), expect > 0);
            assert_eq!(lane.known.usable(&request, &plan), expect);
            lane.known.whole = Some(Whole {
                prompt: request.prompt.clone(),
                scores: None,
                row: Arc::new([]),
                pure: true,
            });
            let whole = if expect > 0 { 100 } else { 0 };
            assert_eq!(lane.known.usable(&request, &plan), whole);
            assert_eq!(lane.known.holds(request.stem(), 100), expect > 0);
            let directory = Directory::new(1, 1);
            for (is_whole, cells) in [(None, expect), (Some(false), whole)] {
                directory.publish(
                    0,
                    0,
                    Some(Entry {
                        adapters: held.clone(),
                        prompt: request.prompt.clone(),
                        tokens: 96,
                        pure: 96,
                        told: None,
                        whole: is_whole,
                        whole_is_pure: true,
                        generated: Vec::new(),
                    }),
                );
                let found = directory.best(None, &request, &plan);
                assert_eq!(found.map_or(0, |(_, source)| source.cells), cells);
            }
        };
        check(&none, &none, 88);
        check(&some, &some, 88);
        check(&none, &some, 0);
        check(&some, &none, 0);
        check(&some, &other, 0);
    }

    #[test]
    fn exact_requests_start_from_what_was_evaluated_exactly() {
        let plan = PromptPlan::new(100, CUTS);
        let check = |exact: bool, pure: usize, whole: Option<bool>, expect| {
            let mut request = request(0..100, None);
            request.exact = exact;
            let mut lane = lane(0..96, 0, 0, None, 0);
            lane.known.pure = pure;
            lane.known.whole = whole.map(|pure| Whole {
                prompt: request.prompt.clone(),
                scores: None,
                row: Arc::new([]),
                pure,
            });
            assert_eq!(lane.known.is_pure(), pure == 96);
            assert_eq!(lane.known.usable(&request, &plan), expect, "{exact} {pure}");
            let directory = Directory::new(1, 1);
            let entry = Entry {
                adapters: Adapters::default(),
                prompt: request.prompt.clone(),
                tokens: 96,
                pure,
                told: None,
                whole: whole.map(|_| false),
                whole_is_pure: whole == Some(true),
                generated: Vec::new(),
            };
            directory.publish(0, 0, Some(entry));
            let found = directory.best(None, &request, &plan);
            assert_eq!(found.map_or(0, |(_, source)| source.cells), expect);
            lane.known.truncate(16);
            assert_eq!(lane.known.pure, pure.min(16));
        };
        check(false, 40, None, 88);
        check(true, 40, None, 40);
        check(true, 96, None, 88);
        check(true, 0, None, 0);
        check(false, 40, Some(false), 100);
        check(true, 40, Some(false), 40);
        check(true, 96, Some(true), 100);
    }
}
