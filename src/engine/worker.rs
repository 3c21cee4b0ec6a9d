//! A context on a thread of its own, and the sequences that run in it: schedule → decode → advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::cores::Cores;
use super::draft::{self, Patience};
use super::error::EngineError;
use super::lanes::{
    BRIDGED, Directory, Entry, Known, Lane, Placement, Source, Whole, best_source, choose_lane,
    refuge,
};
use super::places::Lease;
use super::plan::{PromptPlan, common_prefix};
use super::request::{Delta, FinishReason, PromptOutput, Request};
use super::schedule::{Progress, Round};
use super::score::score_rows;
use super::supervisor::Alive;
use super::text::Completion;
use crate::logprobs::{self, Likeliest, TokenLogprob};
use crate::metrics::{self, Outcome};
use crate::model::{DecodeError, LaneState, Row, Runner, Token};
use crate::sampling::Sampler;

/// Cells that must be won for a sequence to wait for a neighbour in the same context who is evaluating them. Below,
/// evaluating them again is sooner done.
const WORTH_WAITING: usize = 32;
/// Cells that must be won for a lane to be fetched from another context.
const WORTH_FETCHING: usize = 64;

/// A runner of which so many decodes fail one after the other is given up.
const MOST_FAILURES: usize = 5;

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Closed,
    /// Nothing can be evaluated any more.
    Lost,
}

/// Counts a worker among those that are evaluating something, however that ends.
struct Active<'a>(&'a AtomicUsize);

impl<'a> Active<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker is told.
pub enum Message {
    Run(Box<Job>),
    /// Another worker asks for a lane.
    Want(Want),
    /// The answer to a `Want` of ours.
    Gift {
        sequence: u64,
        gift: Option<Gift>,
    },
    /// End all sequences, then the thread.
    Close,
}

/// A sequence to run.
pub struct Job {
    /// Unique in the process.
    pub sequence: u64,
    /// When the request came in.
    pub arrived: Instant,
    pub request: Request,
    pub deltas: UnboundedSender<Delta>,
    /// Given back when the sequence ends.
    pub lease: Lease,
}

/// A lane that another worker asks for. It is sent as soon as it holds what is asked, or when it is clear that it
/// never will.
pub struct Want {
    sequence: u64,
    /// Taken when it is answered.
    reply: Option<Sender<Message>>,
    lane: usize,
    cells: usize,
    prompt: Arc<[Token]>,
}

impl Want {
    fn answer(&mut self, gift: Option<Gift>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Message::Gift {
                sequence: self.sequence,
                gift,
            });
        }
    }
}

impl Drop for Want {
    /// Whoever waits for an answer gets one, also from a worker that goes down.
    fn drop(&mut self) {
        self.answer(None);
    }
}

/// A lane's cells and what is known of them.
pub struct Gift {
    known: Known,
    state: LaneState,
}

/// What the workers of a model share.
pub struct Shared {
    pub directory: Directory,
    pub alive: Alive,
    /// Each worker's mailbox, by number.
    pub mailboxes: Vec<Sender<Message>>,
    /// Workers that are evaluating something at this moment: they share the cores.
    pub active: AtomicUsize,
    pub cores: Cores,
    /// Threads of every decode, where their number moves bits.
    pub fixed_threads: Option<usize>,
    /// Of so many sequences that each have a token to evaluate, how many share the next decode.
    pub groups: Vec<usize>,
    /// Most rows of such a decode.
    pub width: usize,
    /// Whether cells of generated tokens may be used again: not in exact mode, for they were not evaluated as a prompt
    /// is.
    pub reuses_generated: bool,
    /// Most tokens of a draft; 0 in exact mode.
    pub draft_tokens: usize,
    /// Most prompt tokens of one decode.
    pub chunk_tokens: usize,
    /// Most logits rows of one decode.
    pub logits_rows: usize,
    /// Where the reference cuts prompts.
    pub batch_tokens: usize,
    /// Tokens that a lane holds.
    pub lane_tokens: usize,
}

impl Shared {
    /// The worker that knows most of a request's prompt.
    pub fn prefer(&self, request: &Request) -> Option<usize> {
        let plan = PromptPlan::new(request.prompt.len(), self.batch_tokens);
        let (worker, _) = self
            .directory
            .best(None, request, &plan)
            .filter(|_| request.cache_prompt)?;
        Some(worker)
    }
}

/// How far a sequence is.
enum Phase {
    /// It has no lane yet: it has just come, or a neighbour is evaluating what it begins with.
    New { may_fetch: bool },
    /// It waits for cells from another context.
    Fetching,
    /// This many tokens of its prompt are in its lane.
    Prompt { evaluated: usize },
    /// This token is drawn, given out, and not evaluated yet.
    Generating { next: Token },
}

struct Sequence {
    id: u64,
    arrived: Instant,
    phase: Phase,
    /// Valid in the phases `Prompt` and `Generating`.
    lane: usize,
    request: Request,
    plan: PromptPlan,
    sampler: Sampler,
    completion: Completion,
    /// Tokens drawn so far.
    drawn: usize,
    /// These tokens, where their cells may be used again.
    generated: Vec<Token>,
    patience: Patience,
    /// Prompt tokens that came from the cache.
    cached: usize,
    deltas: UnboundedSender<Delta>,
    /// What is told at the end, unless the request is streamed.
    untold: Vec<Delta>,
    /// Dropped with the sequence, after its lane is free.
    _lease: Lease,
}

impl Sequence {
    /// A receiver that is gone is noticed at the next round.
    fn tell(&mut self, delta: Delta) {
        if self.request.streamed {
            let _ = self.deltas.send(delta);
        } else {
            self.untold.push(delta);
        }
    }

    /// Where the token that was drawn last goes.
    fn next_position(&self) -> usize {
        self.request.prompt.len() + self.drawn - 1
    }
}

/// What a token is drawn from.
enum Logits {
    /// A row of the last decode.
    Row(usize),
    /// A row that was kept with the prompt it follows.
    Kept(Arc<[f32]>),
}

pub struct Worker<'a> {
    number: usize,
    runner: Box<dyn Runner>,
    shared: &'a Shared,
    mailbox: &'a Receiver<Message>,
    /// Decodes that failed since the last one that did not.
    failures: usize,
    lanes: Vec<Lane>,
    /// In order of arrival.
    sequences: Vec<Sequence>,
    wants: Vec<Want>,
    /// Counts lanes given back.
    clock: u64,
    /// These are filled anew for each round, decode or row; they stay, so that a token allocates nothing for them.
    round: Round,
    rows: Vec<Row>,
    likeliest: Likeliest,
}

impl<'a> Worker<'a> {
    pub fn new(
        number: usize,
        runner: Box<dyn Runner>,
        lanes: usize,
        shared: &'a Shared,
        mailbox: &'a Receiver<Message>,
    ) -> Self {
        Self {
            number,
            runner,
            shared,
            mailbox,
            failures: 0,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            sequences: Vec::new(),
            wants: Vec::new(),
            clock: 0,
            round: Round::default(),
            rows: Vec::new(),
            likeliest: Likeliest::default(),
        }
    }

    /// Runs until it is told to close, or cannot go on.
    pub fn run(mut self) -> Ended {
        loop {
            while let Ok(message) = self.mailbox.try_recv() {
                if self.take(message).is_err() {
                    return Ended::Closed;
                }
            }
            if self.failures >= MOST_FAILURES {
                return Ended::Lost;
            }
            self.drop_abandoned();
            self.serve_wants();
            self.start_new();
            let mut ended = Vec::new();
            self.finish_known(&mut ended);
            // Whoever waits for a lane or a neighbour looks again before this worker sleeps.
            let look_again = !ended.is_empty();
            self.end_all(ended);
            let mut round = std::mem::take(&mut self.round);
            round.fill(self.sequences.iter().map(|sequence| match sequence.phase {
                Phase::New { .. } | Phase::Fetching => Progress::Waiting,
                Phase::Prompt { evaluated } => Progress::Prompt {
                    left: sequence.request.prompt.len() - evaluated,
                },
                Phase::Generating { .. } => Progress::Generating,
            }));
            if round.is_empty() {
                self.round = round;
                if look_again {
                    continue;
                }
                self.check_books();
                match self.mailbox.recv().map(|message| self.take(message)) {
                    Ok(Ok(())) => continue,
                    _ => return Ended::Closed,
                }
            }
            let mut ended = Vec::new();
            let active = Active::new(&self.shared.active);
            if self.shared.width > 1 {
                round
                    .tokens
                    .sort_unstable_by_key(|&index| self.sequences[index].lane);
            }
            let mut rest = &round.tokens[..];
            if let &[index] = rest
                && self.evaluate_draft(index, &mut ended)
            {
                rest = &[];
            }
            while let Some(&first) = rest.first() {
                if self.is_abandoned(first) {
                    rest = &rest[1..];
                    continue;
                }
                let (group, later) = rest.split_at(self.gather_tokens(rest));
                self.evaluate_tokens(group, &mut ended);
                rest = later;
            }
            if let Some(index) = round.prompt
                && !self.is_abandoned(index)
                && let Some(end) = self.evaluate_chunk(index)
            {
                ended.push((index, end));
            }
            self.round = round;
            drop(active);
            self.end_all(ended);
        }
    }

    /// Ends sequences, each with its last word.
    fn end_all(&mut self, mut ended: Vec<(usize, Delta)>) {
        // They did not end in the order of the sequences, and indices hold until the first is taken out.
        ended.sort_by_key(|&(index, _)| std::cmp::Reverse(index));
        for (index, end) in ended {
            self.end(index, end);
        }
    }

    /// `Err`: close.
    fn take(&mut self, message: Message) -> Result<(), ()> {
        match message {
            Message::Run(job) => self.admit(*job),
            Message::Want(want) => self.wants.push(want),
            Message::Gift { sequence, gift } => self.unwrap_gift(sequence, gift),
            Message::Close => {
                self.wants.clear();
                for index in (0..self.sequences.len()).rev() {
                    self.end(index, Delta::Failed(EngineError::closing()));
                }
                return Err(());
            }
        }
        Ok(())
    }

    fn admit(&mut self, job: Job) {
        let Job {
            sequence,
            arrived,
            request,
            deltas,
            lease,
        } = job;
        let plan = PromptPlan::new(request.prompt.len(), self.shared.batch_tokens);
        let fits = !request.prompt.is_empty() && request.prompt.len() <= self.shared.lane_tokens;
        let sampler = match Sampler::new(self.runner.model(), &request.sampling) {
            Ok(sampler) if fits => sampler,
            // Both were checked where the request came in.
            _ => {
                tracing::error!(sequence, "a request reached the engine that cannot be run");
                let _ = deltas.send(Delta::Failed(EngineError::Decode));
                return;
            }
        };
        self.sequences.push(Sequence {
            id: sequence,
            arrived,
            phase: Phase::New { may_fetch: true },
            lane: 0,
            plan,
            sampler,
            completion: Completion::new(Arc::clone(&request.stop)),
            drawn: 0,
            generated: Vec::new(),
            patience: Patience::default(),
            cached: 0,
            deltas,
            untold: Vec::new(),
            _lease: lease,
            request,
        });
    }

    /// Whether nobody listens any more.
    fn is_abandoned(&self, index: usize) -> bool {
        self.sequences[index].deltas.is_closed()
    }

    /// Whoever is not listened to any more ends here. Within a round nothing is evaluated for them.
    fn drop_abandoned(&mut self) {
        for index in (0..self.sequences.len()).rev() {
            if self.is_abandoned(index) {
                tracing::debug!(sequence = self.sequences[index].id, "the client left");
                metrics::sequence_ended(Outcome::Cancelled);
                self.free(index);
            }
        }
    }

    /// Ends a sequence. Its lane and place are free before the client hears of it: who asks next finds them so.
    fn end(&mut self, index: usize, last: Delta) {
        let sequence = &mut self.sequences[index];
        let (deltas, untold) = (
            sequence.deltas.clone(),
            std::mem::take(&mut sequence.untold),
        );
        self.free(index);
        metrics::sequence_ended(match &last {
            Delta::Finished(FinishReason::Stop) => Outcome::Stop,
            Delta::Finished(FinishReason::Length) => Outcome::Length,
            _ => Outcome::Failed,
        });
        for delta in untold.into_iter().chain([last]) {
            let _ = deltas.send(delta);
        }
    }

    /// Takes a sequence out; its lane stays as cache.
    fn free(&mut self, index: usize) {
        let sequence = self.sequences.remove(index);
        if matches!(
            sequence.phase,
            Phase::Prompt { .. } | Phase::Generating { .. }
        ) {
            self.clock += 1;
            let lane = &mut self.lanes[sequence.lane];
            lane.sequence = None;
            lane.used = self.clock;
            let known = &mut lane.known;
            if self.shared.reuses_generated && matches!(sequence.phase, Phase::Generating { .. }) {
                let prompt = &sequence.request.prompt;
                known
                    .tokens
                    .extend_from_slice(&prompt[known.tokens.len()..]);
                // The last one was drawn and not evaluated.
                let evaluated = sequence.generated.len().saturating_sub(1);
                known
                    .tokens
                    .extend_from_slice(&sequence.generated[..evaluated]);
            }
            // Its cells are then those that are known of, which `free_position` counts on.
            self.runner.cut(sequence.lane, known.cells());
            self.publish_known(sequence.lane);
        }
    }

    fn publish_known(&self, lane: usize) {
        let known = &self.lanes[lane].known;
        let entry = (known.cells() > 0).then(|| Entry {
            prompt: match &known.whole {
                Some(whole) if whole.prompt.len() >= known.tokens.len() => {
                    Arc::clone(&whole.prompt)
                }
                _ => known.tokens.as_slice().into(),
            },
            tokens: known.tokens.len(),
            top: (known.scores.len() + 1 >= known.tokens.len()).then_some(known.top),
            whole: known.whole.as_ref().map(|whole| whole.scores.is_some()),
        });
        self.shared.directory.publish(self.number, lane, entry);
    }

    /// Gives lanes to those who have none, unless it pays to wait for a neighbour.
    fn start_new(&mut self) {
        for index in 0..self.sequences.len() {
            if let Phase::New { may_fetch } = self.sequences[index].phase {
                self.start(index, may_fetch);
            }
        }
    }

    fn start(&mut self, index: usize, may_fetch: bool) {
        let sequence = &self.sequences[index];
        let (request, plan) = (&sequence.request, sequence.plan);
        let reuses = request.cache_prompt && self.runner.model().can_cut();
        let source = if reuses {
            best_source(&self.lanes, request, &plan)
        } else {
            None
        };
        let here = source.map_or(0, |source| source.cells);
        if reuses && here < request.prompt.len() {
            // Who has a lane and is still at its prompt goes on, so nobody waits for somebody who waits.
            let promised = self
                .sequences
                .iter()
                .filter(|other| matches!(other.phase, Phase::Prompt { .. }))
                .map(|other| promised(other, &self.lanes[other.lane].known, request, &plan))
                .max()
                .unwrap_or(0);
            if promised >= here + WORTH_WAITING {
                return;
            }
            if may_fetch
                && let Some((worker, there)) =
                    self.shared
                        .directory
                        .best(Some(self.number), request, &plan)
                && there.cells >= here + WORTH_FETCHING
            {
                // One neighbour has asked for it already: it is copied from that one, then.
                if self.sequences.iter().any(|other| {
                    matches!(other.phase, Phase::Fetching)
                        && common_prefix(&other.request.prompt, &request.prompt) >= there.cells
                }) {
                    return;
                }
                let want = Want {
                    sequence: sequence.id,
                    reply: Some(self.shared.mailboxes[self.number].clone()),
                    lane: there.lane,
                    cells: there.cells,
                    prompt: Arc::clone(&request.prompt),
                };
                if self.shared.mailboxes[worker]
                    .send(Message::Want(want))
                    .is_ok()
                {
                    self.sequences[index].phase = Phase::Fetching;
                    return;
                }
            }
        }
        // There are as many lanes as sequences may run, and more: one is free.
        let Some(lane) = choose_lane(&self.lanes, source, self.placement()) else {
            return;
        };
        self.displace(lane, source);
        let mut cells = here;
        match source {
            Some(source) => {
                if source.lane != lane {
                    self.runner.copy(source.lane, lane);
                    self.lanes[lane].known = self.lanes[source.lane].known.clone();
                }
            }
            None => cells = 0,
        }
        self.occupy(index, lane, cells);
    }

    fn placement(&self) -> Placement {
        if self.shared.width > 1 {
            Placement::Together
        } else {
            Placement::Anywhere
        }
    }

    /// Keeps what a lane knows before it is used for something else, if it is not the lane that is missed least.
    fn displace(&mut self, lane: usize, source: Option<Source>) {
        if let Some(to) = refuge(&self.lanes, lane, source) {
            self.runner.copy(lane, to);
            self.lanes[to].known = std::mem::take(&mut self.lanes[lane].known);
            self.lanes[to].used = self.lanes[lane].used;
            self.publish_known(to);
        }
    }

    /// Starts a sequence's prompt in a lane that holds its first `cells` tokens.
    fn occupy(&mut self, index: usize, lane: usize, mut cells: usize) {
        if !self.runner.cut(lane, cells) {
            // Forgetting all never fails.
            cells = 0;
            self.runner.cut(lane, 0);
        }
        let sequence = &mut self.sequences[index];
        sequence.lane = lane;
        sequence.cached = cells;
        sequence.phase = Phase::Prompt { evaluated: cells };
        let state = &mut self.lanes[lane];
        state.sequence = Some(sequence.id);
        if cells == sequence.request.prompt.len() {
            // `usable` found the very same prompt: nothing is to be evaluated, and what is known of it holds.
            state.known.tokens.truncate(sequence.plan.shareable());
            return self.publish_started(index);
        }
        let known = &mut state.known;
        // The score of the token that follows the kept cells belongs to the request's own token, when it is asked
        // for: `usable` saw to that.
        let next_score = sequence
            .request
            .prompt_logprobs
            .and_then(|_| known.scores.get(cells.wrapping_sub(1)).cloned());
        known.truncate(cells);
        if known.scores.is_empty() {
            known.top = sequence.request.prompt_logprobs.unwrap_or(0);
        }
        if cells > 0 && known.scores.len() + 1 == cells {
            known.scores.extend(next_score);
        }
        self.publish_started(index);
    }

    /// Tells the other workers what a lane is about to hold.
    fn publish_started(&self, index: usize) {
        let sequence = &self.sequences[index];
        let known = &self.lanes[sequence.lane].known;
        self.shared.directory.publish(
            self.number,
            sequence.lane,
            Some(Entry {
                prompt: Arc::clone(&sequence.request.prompt),
                tokens: sequence.plan.shareable(),
                top: sequence.request.prompt_logprobs.map(|_| known.top),
                whole: Some(sequence.request.prompt_logprobs.is_some()),
            }),
        );
    }

    /// Sends lanes that others asked for, as soon as they hold what was asked.
    fn serve_wants(&mut self) {
        let (ready, later): (Vec<Want>, Vec<Want>) = std::mem::take(&mut self.wants)
            .into_iter()
            .partition(|want| {
                let lane = &self.lanes[want.lane];
                lane.known.holds(&want.prompt, want.cells)
                    || !self.sequences.iter().any(|sequence| {
                        Some(sequence.id) == lane.sequence
                            && matches!(sequence.phase, Phase::Prompt { .. })
                            && common_prefix(&sequence.request.prompt, &want.prompt) >= want.cells
                    })
            });
        self.wants = later;
        for mut want in ready {
            let known = &self.lanes[want.lane].known;
            let worth = known.holds(&want.prompt, WORTH_FETCHING);
            let known = worth.then(|| known.clone());
            let gift = known.and_then(|known| {
                Some(Gift {
                    known,
                    state: self.runner.export(want.lane)?,
                })
            });
            want.answer(gift);
        }
    }

    /// Puts cells from another context into a free lane, for the sequence that waits for them.
    fn unwrap_gift(&mut self, sequence: u64, gift: Option<Gift>) {
        let Some(index) = self.sequences.iter().position(|other| other.id == sequence) else {
            return;
        };
        if !matches!(self.sequences[index].phase, Phase::Fetching) {
            return;
        }
        self.sequences[index].phase = Phase::New { may_fetch: false };
        let Some(gift) = gift else { return };
        // The one that is missed least; the sequence may be run in another, to which it is copied then.
        let Some(lane) = choose_lane(&self.lanes, None, Placement::Anywhere) else {
            return;
        };
        if self.runner.import(lane, &gift.state) {
            // The donor may have gone on from there.
            self.runner.cut(lane, gift.known.cells());
            self.lanes[lane].known = gift.known;
            self.clock += 1;
            self.lanes[lane].used = self.clock;
        } else {
            tracing::warn!(lane, "cells from another context did not fit");
            self.lanes[lane].known = Known::default();
        }
        self.publish_known(lane);
    }

    /// Threads for one decode: for the cores that neither another process nor another worker is using.
    fn threads(&self) -> usize {
        if let Some(threads) = self.shared.fixed_threads {
            return threads;
        }
        (self.shared.cores.free() / self.shared.active.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Evaluates the rows that were gathered; a second time, if that may help.
    fn decode(&mut self) -> Result<(), DecodeError> {
        let threads = self.threads();
        let mut outcome = self.runner.decode(&self.rows, threads);
        if outcome.is_err_and(DecodeError::may_pass) {
            // What was evaluated of them would stand in the way.
            for (place, row) in self.rows.iter().enumerate() {
                if place == 0 || self.rows[place - 1].lane != row.lane {
                    self.runner.cut(row.lane, row.position);
                }
            }
            outcome = self.runner.decode(&self.rows, threads);
        }
        metrics::decoded(outcome.is_ok());
        self.failures = if outcome.is_ok() {
            0
        } else {
            self.failures + 1
        };
        outcome
    }

    /// Evaluates the next chunk of a prompt; what ends the sequence, if something does.
    fn evaluate_chunk(&mut self, index: usize) -> Option<Delta> {
        let threads = self.threads();
        let sequence = &mut self.sequences[index];
        let Phase::Prompt { evaluated } = sequence.phase else {
            return None;
        };
        let request = &sequence.request;
        let length = request.prompt.len();
        let scores = request.prompt_logprobs.is_some();
        let draws = request.max_tokens > 0;
        if !scores && !draws {
            // Nothing is asked of the model.
            sequence.cached = 0;
            sequence.tell(Delta::Prompt(PromptOutput {
                cached_tokens: 0,
                logprobs: Vec::new(),
            }));
            return Some(Delta::Finished(FinishReason::Length));
        }
        let rows = if scores {
            self.shared.chunk_tokens.min(self.shared.logits_rows)
        } else {
            self.shared.chunk_tokens
        };
        let end = sequence.plan.chunk_end(evaluated, rows);
        self.rows.clear();
        self.rows.extend((evaluated..end).map(|position| Row {
            token: request.prompt[position],
            position,
            lane: sequence.lane,
            logits: scores || position + 1 == length,
        }));
        if let Err(error) = self.decode() {
            return Some(self.failed(index, &error));
        }
        metrics::prompt_evaluated(end - evaluated);
        let sequence = &mut self.sequences[index];
        let known = &mut self.lanes[sequence.lane].known;
        let shared = end.min(sequence.plan.shareable());
        if evaluated < shared {
            known
                .tokens
                .extend_from_slice(&sequence.request.prompt[evaluated..shared]);
        }
        if scores {
            let rows: Option<Vec<_>> = (evaluated..end.min(length - 1))
                .map(|position| {
                    let logits = self.runner.logits(position - evaluated)?;
                    Some((logits, sequence.request.prompt[position + 1]))
                })
                .collect();
            let Some(rows) = rows else {
                return Some(self.failed(index, &"a row of logits is missing"));
            };
            // As many alternatives as the scores before have, so that all of a lane's scores can be used alike.
            known.scores.extend(score_rows(&rows, known.top, threads));
        }
        sequence.phase = Phase::Prompt { evaluated: end };
        if end < length {
            return None;
        }
        let Some(row) = self.runner.logits(end - 1 - evaluated) else {
            return Some(self.failed(index, &"a row of logits is missing"));
        };
        known.whole = Some(Whole {
            prompt: Arc::clone(&sequence.request.prompt),
            scores: scores.then(|| known.scores.clone()),
            row: row.into(),
        });
        // Scores beyond the shareable cells belong to this prompt alone.
        known.scores.truncate(known.tokens.len());
        self.finish_prompt(index)
    }

    /// Tells of a prompt that is evaluated to its end, and draws the first token; what ends the sequence, if something
    /// does.
    fn finish_prompt(&mut self, index: usize) -> Option<Delta> {
        let sequence = &mut self.sequences[index];
        let Some(whole) = &self.lanes[sequence.lane].known.whole else {
            return Some(self.failed(index, &"an evaluated prompt is missing"));
        };
        let top = sequence.request.prompt_logprobs.unwrap_or(0);
        let logprobs = whole
            .scores
            .iter()
            .flatten()
            .map(|score| with_top(score, top))
            .collect();
        let row = Arc::clone(&whole.row);
        metrics::prompt_cached(sequence.cached);
        sequence.tell(Delta::Prompt(PromptOutput {
            cached_tokens: sequence.cached,
            logprobs,
        }));
        if sequence.request.max_tokens == 0 {
            return Some(Delta::Finished(FinishReason::Length));
        }
        self.advance(index, Logits::Kept(row))
    }

    /// Finishes the prompts of which nothing is to be evaluated.
    fn finish_known(&mut self, ended: &mut Vec<(usize, Delta)>) {
        for index in 0..self.sequences.len() {
            let sequence = &self.sequences[index];
            if matches!(sequence.phase, Phase::Prompt { evaluated } if evaluated == sequence.request.prompt.len())
                && let Some(end) = self.finish_prompt(index)
            {
                ended.push((index, end));
            }
        }
    }

    /// Evaluates a sequence's newest token together with a draft of what follows, and draws from the rows as long as the
    /// draft holds. `false`: there is no draft.
    fn evaluate_draft(&mut self, index: usize, ended: &mut Vec<(usize, Delta)>) -> bool {
        let most = self.shared.draft_tokens;
        let sequence = &mut self.sequences[index];
        let Phase::Generating { next } = sequence.phase else {
            return false;
        };
        if most == 0 || !sequence.patience.is_over() {
            return false;
        }
        let start = sequence.next_position();
        let room = (sequence.request.max_tokens - sequence.drawn)
            .min(self.shared.lane_tokens - start)
            .saturating_sub(1);
        let draft = draft::propose(
            &sequence.request.prompt,
            &sequence.generated,
            most.min(room),
        );
        if draft.is_empty() {
            return false;
        }
        let lane = sequence.lane;
        self.rows.clear();
        self.rows.extend(
            (start..)
                .zip([next].iter().chain(&draft))
                .map(|(position, &token)| Row {
                    token,
                    position,
                    lane,
                    logits: true,
                }),
        );
        if self.decode().is_err() {
            // Without a draft it may go.
            self.runner.cut(lane, start);
            self.sequences[index].patience.learn(0);
            return false;
        }
        let mut kept = 0;
        let end = loop {
            if let Some(end) = self.advance(index, Logits::Row(kept)) {
                break Some(end);
            }
            match self.sequences[index].phase {
                Phase::Generating { next } if draft.get(kept) == Some(&next) => kept += 1,
                _ => break None,
            }
        };
        self.runner.cut(lane, start + kept + 1);
        self.sequences[index].patience.learn(kept);
        ended.extend(end.map(|end| (index, end)));
        true
    }

    /// Gathers rows for the next decode from the newest tokens of these sequences, which generate, and stand in the
    /// order of their lanes; how many of them it takes.
    ///
    /// Lanes that stand side by side are evaluated together; llama.cpp cuts a decode where one is left out. So a lane
    /// or two in between are given a token that is forgotten again, which costs less than another decode.
    fn gather_tokens(&mut self, sequences: &[usize]) -> usize {
        let groups = &self.shared.groups;
        let group = groups[sequences.len().min(groups.len() - 1)];
        self.rows.clear();
        for (taken, &index) in sequences.iter().enumerate() {
            let sequence = &self.sequences[index];
            let Phase::Generating { next } = sequence.phase else {
                return taken;
            };
            if taken > 0 && (taken >= group || self.is_abandoned(index)) {
                return taken;
            }
            let start = self.rows.len();
            if let Some(last) = self.rows.last().map(|row| row.lane) {
                for lane in last + 1..sequence.lane {
                    let bridge = self.free_position(lane).map(|position| Row {
                        token: next,
                        position,
                        lane,
                        logits: false,
                    });
                    self.rows.extend(bridge);
                }
                let between = sequence.lane - last - 1;
                if between > BRIDGED || self.rows.len() - start < between {
                    self.rows.truncate(start);
                }
            }
            if self.rows.len() >= self.shared.width {
                self.rows.truncate(start);
                return taken;
            }
            self.rows.push(Row {
                token: next,
                position: sequence.next_position(),
                lane: sequence.lane,
                logits: true,
            });
        }
        sequences.len()
    }

    /// Evaluates the rows that were gathered for these sequences, and draws from each.
    fn evaluate_tokens(&mut self, group: &[usize], ended: &mut Vec<(usize, Delta)>) {
        let outcome = self.decode();
        for row in self.rows.iter().filter(|row| !row.logits) {
            self.runner.cut(row.lane, row.position);
        }
        match (outcome, group) {
            (Ok(()), _) => {
                let mut row = 0;
                for &index in group {
                    while self.rows.get(row).is_some_and(|row| !row.logits) {
                        row += 1;
                    }
                    if let Some(end) = self.advance(index, Logits::Row(row)) {
                        ended.push((index, end));
                    }
                    row += 1;
                }
            }
            (Err(error), &[index]) => ended.push((index, self.failed(index, &error))),
            // Whoever is to blame shall fail alone.
            (Err(_), _) => {
                for index in group {
                    let sequence = &self.sequences[*index];
                    let (lane, position) = (sequence.lane, sequence.next_position());
                    self.runner.cut(lane, position);
                    let alone = std::slice::from_ref(index);
                    self.gather_tokens(alone);
                    self.evaluate_tokens(alone, ended);
                }
            }
        }
    }

    /// The first position of a lane that holds nothing, if the lane can take a token and forget it again.
    fn free_position(&self, lane: usize) -> Option<usize> {
        let state = &self.lanes[lane];
        let position = match state.sequence {
            None => state.known.cells(),
            Some(id) => {
                let user = self.sequences.iter().find(|sequence| sequence.id == id)?;
                match user.phase {
                    Phase::Prompt { evaluated } => evaluated,
                    _ => return None,
                }
            }
        };
        (self.runner.model().can_cut() && position < self.shared.lane_tokens).then_some(position)
    }

    /// Draws the next token; what ends the sequence, if something does.
    fn advance(&mut self, index: usize, logits: Logits) -> Option<Delta> {
        let logits = match &logits {
            Logits::Row(row) => self.runner.logits(*row),
            Logits::Kept(row) => Some(&row[..]),
        };
        let Some(logits) = logits else {
            return Some(self.failed(index, &"a row of logits is missing"));
        };
        let sequence = &mut self.sequences[index];
        let top = sequence.request.logprobs;
        let wanted = sequence.sampler.wants().max(top.unwrap_or(0));
        if wanted > 0 || top.is_some() {
            self.likeliest.find(logits, wanted);
        }
        let Some(token) = sequence.sampler.sample(logits, &self.likeliest) else {
            flush(sequence);
            return Some(Delta::Finished(FinishReason::Stop));
        };
        sequence.drawn += 1;
        metrics::token_drawn();
        if sequence.drawn == 1 {
            metrics::first_token(sequence.arrived.elapsed());
        }
        if self.shared.reuses_generated {
            sequence.generated.push(token);
        }
        let logprob = top.map(|top| Arc::new(logprobs::score(logits, &self.likeliest, token, top)));
        let vocab = self.runner.model().vocab();
        if vocab.is_end(token) {
            flush(sequence);
            if sequence.request.deliver_end_token {
                sequence.tell(Delta::Token(sequence.completion.end(token, logprob)));
            }
            return Some(Delta::Finished(FinishReason::Stop));
        }
        let stopped = sequence.completion.push(token, vocab.bytes(token), logprob);
        let full = sequence.drawn >= sequence.request.max_tokens
            || sequence.request.prompt.len() + sequence.drawn >= self.shared.lane_tokens;
        if stopped || full {
            flush(sequence);
            return Some(Delta::Finished(if stopped {
                FinishReason::Stop
            } else {
                FinishReason::Length
            }));
        }
        while let Some(output) = sequence.completion.release() {
            sequence.tell(Delta::Token(output));
        }
        sequence.phase = Phase::Generating { next: token };
        None
    }

    /// A decode failed: this sequence ends, the others go on. What its lane holds is not known any more.
    fn failed(&mut self, index: usize, error: &dyn std::fmt::Display) -> Delta {
        let sequence = &mut self.sequences[index];
        tracing::error!(worker = self.number, sequence = sequence.id, %error, "a decode failed");
        // It stands at its beginning again, with nothing in its lane that anybody could use.
        sequence.phase = Phase::Prompt { evaluated: 0 };
        self.lanes[sequence.lane].known = Known::default();
        self.runner.cut(sequence.lane, 0);
        Delta::Failed(EngineError::Decode)
    }

    /// When nobody can go on, every lane's user must be one of the sequences.
    fn check_books(&self) {
        for (lane, state) in self.lanes.iter().enumerate() {
            if let Some(id) = state.sequence
                && !self.sequences.iter().any(|sequence| sequence.id == id)
            {
                metrics::books_wrong();
                tracing::error!(
                    worker = self.number,
                    lane,
                    sequence = id,
                    "a lane is leased to nobody"
                );
            }
        }
    }
}

impl Drop for Worker<'_> {
    /// Whoever still runs hears that it is over, also when this is dropped by a panic.
    fn drop(&mut self) {
        for sequence in self.sequences.drain(..) {
            let deltas = sequence.deltas.clone();
            drop(sequence);
            metrics::sequence_ended(Outcome::Failed);
            let _ = deltas.send(Delta::Failed(EngineError::worker_down(self.number)));
        }
    }
}

/// Cells that a request could take from a neighbour when that one's prompt is evaluated.
fn promised(neighbour: &Sequence, known: &Known, request: &Request, plan: &PromptPlan) -> usize {
    let scored = match (request.prompt_logprobs, neighbour.request.prompt_logprobs) {
        (None, _) => 0,
        (Some(k), Some(_)) if k <= known.top => 1,
        (Some(_), _) => return 0,
    };
    let scores = |request: &Request| request.prompt_logprobs.is_some();
    if neighbour.request.prompt == request.prompt && scores(&neighbour.request) == scores(request) {
        // Nothing is left to do then, so that is worth waiting for, however short it is.
        return request.prompt.len() + WORTH_WAITING;
    }
    let common = common_prefix(&neighbour.request.prompt, &request.prompt);
    plan.reuse(
        common
            .min(neighbour.plan.shareable())
            .saturating_sub(scored),
    )
}

/// Gives out all tokens that were held back.
fn flush(sequence: &mut Sequence) {
    while let Some(output) = sequence.completion.flush() {
        sequence.tell(Delta::Token(output));
    }
}

/// A score with no more than `top` alternatives.
fn with_top(score: &Arc<TokenLogprob>, top: usize) -> Arc<TokenLogprob> {
    if score.top.len() <= top {
        return Arc::clone(score);
    }
    Arc::new(TokenLogprob {
        token: score.token,
        logprob: score.logprob,
        top: score.top[..top].to_vec(),
    })
}
