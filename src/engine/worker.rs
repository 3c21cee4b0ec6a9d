//! A context on a thread of its own, and the sequences that run in it: schedule → decode → advance.

mod evaluate;
mod start;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::cores::Cores;
use super::draft::Patience;
use super::error::EngineError;
use super::lanes::{Directory, Filled, Lane};
use super::masks::{Lent, Masks};
use super::places::Lease;
use super::plan::{self, Cuts, PromptPlan};
use super::request::{Delta, FinishReason, Request};
use super::schedule::{Progress, Round};
use super::sharing::Sharing;
use super::supervisor::Alive;
use super::tally::Tally;
use super::text::{Completion, Ending};
use crate::logprobs::Likeliest;
use crate::metrics::{self, Outcome};
use crate::model::{Adapters, Row, Runner, Token};
use crate::sampling::{Recording, Sampler};
use start::{Gift, Want};

/// A runner of which so many decodes fail one after the other is given up.
const MOST_FAILURES: usize = 5;

/// How soon a worker whose sequences all wait notices that a client has left.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Closed,
    /// Nothing can be evaluated any more.
    Lost,
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
    /// What the constraint of some sequence allows next is found.
    Allowed,
    /// End all sequences, then the thread.
    Close,
}

/// A sequence to run.
pub struct Job {
    /// Unique in the process.
    pub sequence: u64,
    /// When the request came in.
    pub arrived: Instant,
    /// What is logged of the sequence belongs to it.
    pub span: tracing::Span,
    /// Its tokens are counted here.
    pub tally: Arc<Tally>,
    pub request: Request,
    pub deltas: UnboundedSender<Delta>,
    /// Given back when the sequence ends.
    pub lease: Lease,
}

/// What the workers of a model share.
pub struct Shared {
    pub directory: Directory,
    pub alive: Alive,
    /// Each worker's mailbox, by number.
    pub mailboxes: Vec<Sender<Message>>,
    /// What each worker's lanes held when its last round began, by number.
    pub cells: Vec<Filled>,
    pub masks: Masks,
    pub cores: Cores,
    /// Whether every sequence is evaluated exactly: in exact mode. Else only those are whose requests ask for it.
    pub exact: bool,
    /// Threads of every exact decode, where their number moves bits: with flash attention, and so does whether a decode has
    /// more than [`plan::FLASH_ROWS`].
    pub fixed_threads: Option<usize>,
    /// How many sequences share a decode.
    pub sharing: Sharing,
    /// Whether sequences with adapters share decodes: not in exact mode.
    pub shares_adapted: bool,
    /// Whether cells of generated tokens may be used again: not in exact mode, for they were not evaluated as a prompt
    /// is.
    pub reuses_generated: bool,
    /// Most tokens of a draft; 0 in exact mode.
    pub draft_tokens: usize,
    /// Most prompt tokens of one decode.
    pub chunk_tokens: usize,
    /// Most logits rows of one decode.
    pub logits_rows: usize,
    pub cuts: Cuts,
    /// Tokens that a lane holds.
    pub lane_tokens: usize,
}

impl Shared {
    /// Threads for one decode: for the cores that neither another process nor anyone else here is using, unless it must be
    /// exact and their number would move bits.
    pub fn threads(&self, exact: bool) -> usize {
        match self.fixed_threads {
            Some(fixed) if exact || self.exact => fixed,
            _ => self.cores.share(),
        }
    }

    /// Whether a request shares no decode with others, for its bits would depend on them.
    fn runs_alone(&self, request: &Request) -> bool {
        request.exact && !self.exact
    }

    /// Rows of a prompt's decode, at most.
    fn prompt_rows(&self, request: &Request) -> usize {
        let mut rows = self.chunk_tokens;
        if request.prompt_logprobs.is_some() {
            rows = rows.min(self.logits_rows);
        }
        if self.fixed_threads.is_some() && (self.exact || request.exact) {
            rows = rows.min(plan::FLASH_ROWS);
        }
        rows
    }

    /// Whether a decode of so many rows, by so many threads, has the bits of an exact one.
    fn is_exact(&self, rows: usize, threads: usize) -> bool {
        self.fixed_threads
            .is_none_or(|fixed| threads == fixed && rows <= plan::FLASH_ROWS)
    }

    /// Whether what a request's prompt evaluates on top of pure cells is pure, too.
    fn keeps_pure(&self, request: &Request) -> bool {
        self.exact || request.exact || self.fixed_threads.is_none()
    }

    /// The worker that knows most of a request's prompt.
    pub fn prefer(&self, request: &Request) -> Option<usize> {
        let plan = PromptPlan::new(request.prompt.len(), self.cuts);
        let (worker, _) = self
            .directory
            .best(None, request, &plan)
            .filter(|_| request.cache_prompt)?;
        Some(worker)
    }

    /// Has another thread find what the constraint of a worker's sequence allows next, if there is one.
    fn find_allowed(&self, worker: usize, sampler: &mut Sampler) -> Option<Lent> {
        let follower = sampler.lend()?;
        let mailbox = self.mailboxes[worker].clone();
        Some(self.masks.find(follower, mailbox))
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
    /// When its newest token was drawn; before there is one, when the request came in.
    latest: Instant,
    /// The request's, for the log.
    span: tracing::Span,
    /// Where its request's tokens are counted.
    tally: Arc<Tally>,
    phase: Phase,
    /// Valid in the phases `Prompt` and `Generating`.
    lane: usize,
    request: Request,
    plan: PromptPlan,
    sampler: Sampler,
    /// What the sampler has lent out, so that another thread finds what its constraint allows next.
    lent: Option<Lent>,
    /// The row of logits from which the next token is drawn as soon as that is found.
    row: Option<Arc<[f32]>>,
    /// Where its sampler tells what each stage does, if that is asked for.
    recording: Option<Recording>,
    /// Rows of its prompt that are wanted whole, as far as they were evaluated.
    prompt_rows: Vec<(usize, Arc<[f32]>)>,
    completion: Completion,
    /// Tokens of the completion so far: those that are kept, as far as they are evaluated, then those that were drawn.
    drawn: usize,
    /// Those that were drawn, where their cells may be used again by any prompt.
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

    /// Says how it ended.
    fn log(&self, outcome: &str) {
        tracing::debug!(
            parent: &self.span,
            sequence = self.id,
            outcome,
            prompt_tokens = self.request.prompt.len() + self.request.kept.len(),
            cached_tokens = self.cached,
            generated_tokens = self.new_tokens(),
            "a sequence ended"
        );
    }

    /// Tokens of the completion so far, beside those that are kept.
    fn new_tokens(&self) -> usize {
        self.drawn.saturating_sub(self.request.kept.len())
    }

    /// Where the token that was drawn last goes.
    fn next_position(&self) -> usize {
        self.request.prompt.len() + self.drawn - 1
    }

    /// Cells of its lane that are filled.
    fn cells(&self) -> usize {
        match self.phase {
            Phase::New { .. } | Phase::Fetching => 0,
            Phase::Prompt { evaluated } => evaluated + self.drawn,
            Phase::Generating { .. } => self.next_position(),
        }
    }
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
    /// Those under which `rows` are evaluated.
    adapters: Adapters,
    /// By so many threads.
    threads: usize,
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
            adapters: Adapters::default(),
            threads: 1,
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
            self.draw_waiting(&mut ended);
            // Whoever waits for a lane or a neighbour looks again before this worker sleeps.
            let look_again = !ended.is_empty();
            self.end_all(ended);
            self.count_cells();
            let mut round = std::mem::take(&mut self.round);
            round.fill(self.sequences.iter().map(|sequence| match sequence.phase {
                _ if sequence.row.is_some() => Progress::Waiting,
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
                let message = match self.wait() {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
                };
                match self.take(message) {
                    Ok(()) => continue,
                    Err(()) => return Ended::Closed,
                }
            }
            let mut ended = Vec::new();
            let active = self.shared.cores.evaluate();
            self.arrange(&mut round.tokens);
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

    /// The next message. While there are sequences, all of which wait for something, it returns after a moment even without
    /// one: a client that leaves sends none, and its place is wanted.
    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        if self.sequences.is_empty() {
            return Ok(self.mailbox.recv()?);
        }
        self.mailbox.recv_timeout(LOOK_AGAIN)
    }

    /// For those who ask how full it is.
    fn count_cells(&self) {
        let running = self.sequences.iter().map(Sequence::cells).sum();
        let idle = self.lanes.iter().filter(|lane| lane.sequence.is_none());
        let cached = idle.map(|lane| lane.known.cells()).sum();
        self.shared.cells[self.number].set(running, cached);
    }

    /// Puts those side by side that may share decodes: first by their adapters, those of the last decode in front, for
    /// changing them costs llama.cpp time; then those that share none behind the others; then by their lanes.
    fn arrange(&self, tokens: &mut [usize]) {
        let shares = self.shared.sharing.width() > 1;
        let lane = |index: usize| {
            if shares {
                self.sequences[index].lane
            } else {
                index
            }
        };
        tokens.sort_unstable_by(|&a, &b| {
            let key = |index: usize| {
                let request = &self.sequences[index].request;
                let alone = self.shared.runs_alone(request);
                let adapters = &request.adapters;
                (adapters != &self.adapters, adapters, alone, lane(index))
            };
            key(a).cmp(&key(b))
        });
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
            // It is looked for in each round.
            Message::Allowed => {}
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
            span,
            tally,
            mut request,
            deltas,
            lease,
        } = job;
        let fits = !request.prompt.is_empty()
            && request.prompt.len() + request.kept.len() <= self.shared.lane_tokens
            && request.adapters.fit(self.runner.model());
        if !fits {
            // It was checked where the request came in.
            tracing::error!(parent: &span, sequence, "a request reached the engine that cannot be run");
            let _ = deltas.send(Delta::Failed(EngineError::Decode));
            return;
        }
        let mut sampler = Sampler::new(self.runner.model(), &request.sampling, &request.prompt);
        let ending = if request.include_stop {
            Ending::BehindStop
        } else {
            Ending::BeforeStop
        };
        let mut completion = Completion::new(Arc::clone(&request.stop), ending);
        for &token in request.kept.iter() {
            sampler.accept(token);
            completion.keep(self.runner.model().vocab().bytes(token));
        }
        if let Some(token) = request.given {
            sampler.force(token);
        }
        // Its prompt is evaluated meanwhile.
        let lent = self.shared.find_allowed(self.number, &mut sampler);
        if self.shared.reuses_generated && !request.kept.is_empty() {
            // What was generated is as good as a prompt, then.
            request.prompt = [&request.prompt[..], &request.kept[..]].concat().into();
            request.kept = Arc::default();
            request.prompt_logprobs = None;
        }
        let plan = PromptPlan::new(request.prompt.len(), self.shared.cuts);
        self.sequences.push(Sequence {
            id: sequence,
            latest: arrived,
            span,
            tally,
            phase: Phase::New { may_fetch: true },
            lane: 0,
            plan,
            sampler,
            completion,
            drawn: 0,
            generated: Vec::new(),
            patience: Patience::default(),
            cached: 0,
            deltas,
            untold: Vec::new(),
            _lease: lease,
            recording: Recording::new(&request.watch, request.sampling.seed),
            prompt_rows: Vec::new(),
            request,
            lent,
            row: None,
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
                self.sequences[index].log("its client left");
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
        sequence.log(match &last {
            Delta::Finished(reason) => reason.as_str(),
            _ => "failed",
        });
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
        // Before its places are free: nobody shall be sent here.
        self.shared.alive.set(self.number, false);
        self.shared.cells[self.number].set(0, 0);
        for sequence in self.sequences.drain(..) {
            let deltas = sequence.deltas.clone();
            drop(sequence);
            metrics::sequence_ended(Outcome::Failed);
            let _ = deltas.send(Delta::Failed(EngineError::worker_down(self.number)));
        }
    }
}
