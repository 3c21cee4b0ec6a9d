//! A context on its own thread, and the sequences that run in it: schedule → decode → advance.

mod advance;
mod draft;
mod prompt;
mod sequence;
mod tokens;
mod window;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::cache::{Acquired, Cache, Order, Placement};
use super::error::EngineError;
use super::message::{Job, Message};
use super::request::{Delta, Request};
use super::schedule::{Progress, Round};
use super::shared::Shared;
use super::split::Split;
use crate::logprobs::Likeliest;
use crate::metrics::{self, Outcome};
use crate::model::{Adapters, DecodeError, Row, Runner};
use sequence::{Phase, Sequence};

/// After this many consecutive failed decodes, a runner is abandoned.
const MOST_FAILURES: usize = 5;

/// How soon a worker whose sequences are all waiting notices that a client has disconnected.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Closed,
    /// Its runner can no longer evaluate anything.
    Lost,
}

pub struct Worker<'a> {
    number: usize,
    shared: &'a Shared,
    mailbox: &'a Receiver<Message>,
    cache: Cache,
    /// In order of arrival.
    sequences: Vec<Sequence>,
    /// Sequences that end with this round, and what they end with.
    ended: Vec<(usize, Delta)>,
    /// Consecutive failed decodes.
    failures: usize,
    /// The fields below are filled for each round, decode or row, and reused so that a token causes no allocation.
    round: Round,
    rows: Vec<Row>,
    /// The adapters under which `rows` are evaluated.
    adapters: Adapters,
    /// The number of threads that evaluate them.
    threads: usize,
    /// How sequences share decodes in this round.
    split: Arc<Split>,
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
        let (rules, directory) = (shared.cache_rules, shared.directory.clone());
        Self {
            number,
            shared,
            mailbox,
            cache: Cache::new(runner, lanes, rules, number, directory),
            sequences: Vec::new(),
            ended: Vec::new(),
            failures: 0,
            round: Round::default(),
            rows: Vec::new(),
            adapters: Adapters::default(),
            threads: 1,
            split: shared.sharing.now(),
            likeliest: Likeliest::default(),
        }
    }

    /// Runs until it is asked to close, or cannot continue.
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
            self.cache.serve_fetches();
            self.start_new();
            self.advance_waiting();
            // Sequences that wait for a lane or a neighbour try again before this worker sleeps.
            let frees_lanes = self.end_all();
            self.count_cells();
            let mut round = std::mem::take(&mut self.round);
            self.schedule(&mut round);
            let is_idle = round.is_empty();
            if !is_idle {
                self.run_round(&mut round);
            }
            self.round = round;
            if is_idle && !frees_lanes {
                let runs = |id| self.sequences.iter().any(|sequence| sequence.id == id);
                self.cache.check_invariants(runs);
                let outcome = match self.wait() {
                    Ok(message) => self.take(message),
                    Err(RecvTimeoutError::Timeout) => Ok(()),
                    Err(RecvTimeoutError::Disconnected) => Err(()),
                };
                if outcome.is_err() {
                    return Ended::Closed;
                }
            }
        }
    }

    /// `Err`: close.
    fn take(&mut self, message: Message) -> Result<(), ()> {
        match message {
            Message::Run(job) => self.admit(*job),
            Message::Fetch(fetch) => self.cache.enqueue(fetch),
            Message::Transfer { sequence, transfer } => {
                let waits = |other: &&mut Sequence| {
                    other.id == sequence && matches!(other.phase, Phase::Fetching)
                };
                if let Some(sequence) = self.sequences.iter_mut().find(waits) {
                    sequence.phase = Phase::New;
                    self.cache.import_fetched(sequence.id, transfer);
                }
            }
            // Masks are looked for in each round.
            Message::MaskReady => {}
            Message::Close => {
                for index in (0..self.sequences.len()).rev() {
                    self.end(index, Delta::Failed(EngineError::closing()));
                }
                return Err(());
            }
        }
        Ok(())
    }

    /// The next message. If there are sequences and all of them are waiting, it returns after a moment even without one: a
    /// client that disconnects sends no message, and its slot should be freed.
    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        if self.sequences.is_empty() {
            return Ok(self.mailbox.recv()?);
        }
        self.mailbox.recv_timeout(LOOK_AGAIN)
    }

    fn admit(&mut self, job: Job) {
        let sequence = Sequence::new(job, self.number, self.cache.model(), self.shared);
        self.sequences.extend(sequence);
    }

    /// Gives lanes to the sequences that have none, unless it is worth waiting for a neighbour.
    fn start_new(&mut self) {
        for index in 0..self.sequences.len() {
            if matches!(self.sequences[index].phase, Phase::New) {
                self.start(index);
            }
        }
    }

    fn start(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        let order = Order {
            sequence: sequence.id,
            request: &sequence.request,
            plan: &sequence.plan,
            is_exact: self.shared.evaluates_exactly(&sequence.request),
            fetches: sequence.fetches,
            placement: if self.shared.sharing.now().most_rows() > 1 {
                Placement::Together
            } else {
                Placement::Anywhere
            },
        };
        match self.cache.acquire(&order) {
            Acquired::Lane { lane, cells } => {
                let evaluated = cells.min(sequence.request.prompt.len());
                sequence.lane = lane;
                sequence.cached = cells;
                sequence.drawn = cells - evaluated;
                sequence.phase = Phase::Prompt { evaluated };
            }
            Acquired::Fetch { worker, mut fetch } => {
                let mailbox = self.shared.mailboxes[self.number].clone();
                let sequence_id = sequence.id;
                fetch.reply_to(move |transfer| {
                    let _ = mailbox.send(Message::Transfer {
                        sequence: sequence_id,
                        transfer,
                    });
                });
                sequence.phase = Phase::Fetching;
                sequence.fetches += 1;
                // A worker that is gone drops the fetch, which answers it.
                let _ = self.shared.mailboxes[worker].send(Message::Fetch(fetch));
            }
            Acquired::NotYet => {}
        }
    }

    /// Plans the next round.
    fn schedule(&self, round: &mut Round) {
        let progress = self.sequences.iter().map(|sequence| match sequence.phase {
            _ if sequence.waiting_row.is_some() => Progress::Waiting,
            Phase::New | Phase::Fetching => Progress::Waiting,
            Phase::Prompt { evaluated } => Progress::Prompt {
                left: sequence.request.prompt.len() - evaluated,
            },
            Phase::Generating { .. } => Progress::Generating,
        });
        round.fill(progress, self.shared.chunk_tokens);
    }

    /// Decodes what is scheduled, and advances its sequences.
    fn run_round(&mut self, round: &mut Round) {
        let active = self.shared.cores.evaluate();
        self.split = self.shared.sharing.now();
        self.arrange(&mut round.tokens);
        let mut rest = &round.tokens[..];
        if let &[index] = rest
            && self.evaluate_draft(index)
        {
            rest = &[];
        }
        while let Some(&first) = rest.first() {
            if self.sequences[first].is_abandoned() {
                rest = &rest[1..];
                continue;
            }
            let (group, later) = rest.split_at(self.gather_tokens(rest));
            self.evaluate_tokens(group);
            rest = later;
        }
        for &index in &round.prompts {
            if !self.sequences[index].is_abandoned() {
                self.evaluate_chunk(index);
            }
        }
        drop(active);
        self.end_all();
    }

    /// Begins to gather the rows of a decode under a sequence's adapters, exact or not as its request wants.
    fn begin_rows(&mut self, index: usize) {
        self.rows.clear();
        let Request {
            adapters, exact, ..
        } = &self.sequences[index].request;
        if self.adapters != *adapters {
            self.adapters = adapters.clone();
        }
        self.threads = self.shared.threads(*exact);
    }

    /// Evaluates the rows that were gathered.
    fn decode(&mut self) -> Result<(), DecodeError> {
        let outcome = self.cache.decode(&self.rows, &self.adapters, self.threads);
        self.failures = if outcome.is_ok() {
            0
        } else {
            self.failures + 1
        };
        outcome
    }

    /// A sequence ends with this round.
    fn end_later(&mut self, index: usize, last: Option<Delta>) {
        self.ended.extend(last.map(|last| (index, last)));
    }

    /// Removes the sequences that end with this round. Returns whether there were any.
    fn end_all(&mut self) -> bool {
        let mut ended = std::mem::take(&mut self.ended);
        // Indices of those before the removed one stay valid.
        ended.sort_by_key(|&(index, _)| std::cmp::Reverse(index));
        let any = !ended.is_empty();
        for (index, last) in ended.drain(..) {
            self.end(index, last);
        }
        self.ended = ended;
        any
    }

    /// Ends a sequence. Its lane and slot are freed before its client gets the last delta, so the client's next request can
    /// use them.
    fn end(&mut self, index: usize, last: Delta) {
        let sequence = &mut self.sequences[index];
        sequence.count_end(&last);
        let last_words = sequence.last_words(last);
        self.free(index);
        last_words();
    }

    /// Ends the sequences whose clients have disconnected. Nothing more is evaluated for them.
    fn drop_abandoned(&mut self) {
        for index in (0..self.sequences.len()).rev() {
            if self.sequences[index].is_abandoned() {
                self.sequences[index].log_end("its client left");
                metrics::sequence_ended(Outcome::Cancelled);
                self.free(index);
            }
        }
    }

    /// Removes a sequence; its lane stays as cache.
    fn free(&mut self, index: usize) {
        let sequence = self.sequences.remove(index);
        if sequence.has_lane() {
            let generated = sequence.evaluated_tokens();
            self.cache.release(sequence.lane, generated);
        } else {
            self.cache.cancel_fetch(sequence.id);
        }
    }

    /// For metrics.
    fn count_cells(&self) {
        let running = self.sequences.iter().map(Sequence::cells).sum();
        self.shared.cells[self.number].set(running, self.cache.cached_cells());
    }
}

impl Drop for Worker<'_> {
    /// The clients of running sequences get an error, even if this is dropped by a panic.
    fn drop(&mut self) {
        // Before the slots are freed, so that no new sequence is sent here.
        self.shared.alive.set(self.number, false);
        self.shared.cells[self.number].set(0, 0);
        for mut sequence in self.sequences.drain(..) {
            let last_words = sequence.last_words(Delta::Failed(EngineError::WorkerDown));
            drop(sequence);
            metrics::sequence_ended(Outcome::Failed);
            last_words();
        }
    }
}
