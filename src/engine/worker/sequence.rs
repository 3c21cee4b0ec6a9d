//! A running sequence: what has been evaluated, and what has been sent to its client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::engine::adapters_in_use::AdapterUse;
use crate::engine::admission::Permit;
use crate::engine::draft::DraftBackoff;
use crate::engine::error::EngineError;
use crate::engine::masks::{MaskLost, PendingMask};
use crate::engine::message::Job;
use crate::engine::plan::PromptPlan;
use crate::engine::request::{Delta, FinishReason, Report, Request};
use crate::engine::shared::Shared;
use crate::engine::tally::Tally;
use crate::engine::text::{Completion, Ending};
use crate::metrics::{self, Outcome};
use crate::model::{Model, Token};
use crate::sampling::{Recording, Sampler};

/// The phase of a sequence.
pub(super) enum Phase {
    /// It has no lane yet: it is new, or a neighbour is evaluating its prefix.
    New,
    /// It waits for cells of another worker.
    Fetching,
    /// This many tokens of its prompt are evaluated.
    Prompt { evaluated: usize },
    /// This token is drawn and sent, but not evaluated yet.
    Generating { next: Token },
}

pub(super) struct Sequence {
    pub id: u64,
    /// When its newest token was drawn, or before that, when the request arrived.
    latest: Instant,
    /// When its worker took it.
    began: Instant,
    /// When its first token was drawn.
    first: Option<Instant>,
    /// The request's, for the log.
    pub span: tracing::Span,
    /// Counts the request's tokens.
    tally: Arc<Tally>,
    pub phase: Phase,
    /// How often it has asked other workers for cells.
    pub fetches: usize,
    /// Valid in the phases `Prompt` and `Generating`.
    pub lane: usize,
    pub request: Request,
    pub plan: PromptPlan,
    pub sampler: Sampler,
    /// What the constraint allows next, while another thread computes it.
    pub pending_mask: Option<PendingMask>,
    /// The row of logits to draw from as soon as the mask is ready.
    pub waiting_row: Option<Arc<[f32]>>,
    /// Where the sampler records what each stage does, if requested.
    pub recording: Option<Recording>,
    /// The evaluated rows of its prompt that were requested whole.
    pub prompt_rows: Vec<(usize, Arc<[f32]>)>,
    pub completion: Completion,
    /// Tokens of the completion so far: those of the forced prefix that are evaluated, and those that were drawn.
    pub drawn: usize,
    /// The drawn tokens, if any prompt may reuse their cells.
    pub generated: Vec<Token>,
    pub draft_backoff: DraftBackoff,
    /// Cells that came from the cache.
    pub cached: usize,
    deltas: UnboundedSender<Delta>,
    /// Buffered until the end, unless the request is streamed.
    buffered: Vec<Delta>,
    _adapter_use: AdapterUse,
    /// Dropped with the sequence, after its lane is free.
    _permit: Permit,
}

impl Sequence {
    /// A new sequence of the worker with this number; `None` if it cannot be run, in which case its client gets an error.
    pub fn new(job: Job, worker: usize, model: &Model, shared: &Shared) -> Option<Self> {
        let Job {
            sequence: id,
            arrived,
            span,
            tally,
            mut request,
            deltas,
            adapter_use,
            permit,
        } = job;
        let fits = !request.prompt.is_empty()
            && request.prompt.len() + request.forced_prefix.len() <= shared.cache_rules.lane_tokens
            && request.adapters.fit(model);
        if !fits {
            // The API has checked this.
            tracing::error!(parent: &span, sequence = id, "the engine received a request that it cannot run");
            let _ = deltas.send(Delta::Failed(EngineError::Decode));
            return None;
        }
        let mut sampler = Sampler::new(model, &request.sampling, &request.prompt);
        let ending = if request.include_stop {
            Ending::AfterStop
        } else {
            Ending::BeforeStop
        };
        let mut completion = Completion::new(Arc::clone(&request.stop), ending);
        for &token in request.forced_prefix.iter() {
            sampler.accept(token);
            completion.append_unreturned(token, request.text_of(token, model.vocab()));
        }
        if let Some(token) = request.forced_token {
            sampler.force(token);
        }
        // The prompt is evaluated meanwhile.
        let pending_mask = shared.start_mask(worker, &mut sampler);
        if shared.cache_rules.reuses_generated && !request.forced_prefix.is_empty() {
            // Cells of generated tokens can then be reused like those of a prompt.
            request.prompt = [&request.prompt[..], &request.forced_prefix[..]]
                .concat()
                .into();
            request.forced_prefix = Arc::default();
            request.prompt_logprobs = None;
        }
        Some(Self {
            id,
            latest: arrived,
            began: Instant::now(),
            first: None,
            span,
            tally,
            phase: Phase::New,
            fetches: 0,
            lane: 0,
            plan: PromptPlan::new(request.prompt.len(), shared.cuts),
            sampler,
            pending_mask,
            waiting_row: None,
            recording: Recording::new(&request.watch, request.sampling.seed),
            prompt_rows: Vec::new(),
            completion,
            drawn: 0,
            generated: Vec::new(),
            draft_backoff: DraftBackoff::default(),
            cached: 0,
            deltas,
            buffered: Vec::new(),
            request,
            _adapter_use: adapter_use,
            _permit: permit,
        })
    }

    /// Whether its client has disconnected.
    pub fn is_abandoned(&self) -> bool {
        self.deltas.is_closed()
    }

    /// Sends a delta, or buffers it until the end. A client that has disconnected is noticed in the next round.
    pub fn emit(&mut self, delta: Delta) {
        if self.request.streamed {
            let _ = self.deltas.send(delta);
        } else {
            self.buffered.push(delta);
        }
    }

    /// Emits all tokens that were held back for a stop string.
    pub fn flush(&mut self) {
        while let Some(output) = self.completion.flush() {
            self.emit(Delta::Token(output));
        }
    }

    /// Sends the rest once the sequence is gone.
    pub fn last_words(&mut self, last: Delta) -> impl FnOnce() + use<> {
        let deltas = self.deltas.clone();
        let buffered = std::mem::take(&mut self.buffered);
        let report = self.request.reports.then(|| Delta::Report(self.report()));
        move || {
            for delta in buffered.into_iter().chain(report).chain([last]) {
                let _ = deltas.send(delta);
            }
        }
    }

    /// Counts and logs how it ended.
    pub fn count_end(&self, last: &Delta) {
        let (outcome, text) = match last {
            Delta::Finished(reason) => (
                match reason {
                    FinishReason::Stop => Outcome::Stop,
                    FinishReason::Length => Outcome::Length,
                },
                reason.as_str(),
            ),
            _ => (Outcome::Failed, "failed"),
        };
        metrics::sequence_ended(outcome);
        self.log_end(text);
    }

    pub fn log_end(&self, outcome: &str) {
        tracing::debug!(
            parent: &self.span,
            sequence = self.id,
            outcome,
            prompt_tokens = self.request.prompt.len() + self.request.forced_prefix.len(),
            cached_tokens = self.cached,
            generated_tokens = self.new_tokens(),
            "a sequence ended"
        );
    }

    /// Tokens of the completion so far, without the forced prefix.
    pub fn new_tokens(&self) -> usize {
        self.drawn.saturating_sub(self.request.forced_prefix.len())
    }

    /// Records that a token was drawn. Returns the time since the previous one, or since the request arrived.
    pub fn count_token(&mut self) -> Duration {
        self.drawn += 1;
        self.tally.drawn();
        let now = Instant::now();
        self.first.get_or_insert(now);
        now.duration_since(std::mem::replace(&mut self.latest, now))
    }

    /// Whether the newest token ends the last line that it may write.
    pub fn is_late(&self) -> bool {
        let limit = self.request.line_after;
        limit.zip(self.first).is_some_and(|(limit, first)| {
            self.completion.ends_line() && self.latest.duration_since(first) > limit
        })
    }

    fn report(&self) -> Report {
        let first = self.first.unwrap_or_else(Instant::now);
        Report {
            stop_string: self.completion.stop_string(),
            prompt_time: first.duration_since(self.began),
            generation_time: self
                .first
                .map_or(Duration::ZERO, |first| self.latest.duration_since(first)),
        }
    }

    /// The position of the token that was drawn last.
    pub fn next_position(&self) -> usize {
        self.request.prompt.len() + self.drawn - 1
    }

    /// Filled cells of its lane.
    pub fn cells(&self) -> usize {
        match self.phase {
            Phase::New | Phase::Fetching => 0,
            Phase::Prompt { evaluated } => evaluated + self.drawn,
            Phase::Generating { .. } => self.next_position(),
        }
    }

    pub fn has_lane(&self) -> bool {
        matches!(self.phase, Phase::Prompt { .. } | Phase::Generating { .. })
    }

    /// The drawn tokens that are evaluated: all but the newest.
    pub fn evaluated_tokens(&self) -> Option<&[Token]> {
        matches!(self.phase, Phase::Generating { .. })
            .then(|| &self.generated[..self.generated.len().saturating_sub(1)])
    }

    /// Whether the sampler knows which tokens are allowed; `false`: not yet.
    pub fn finish_mask(&mut self) -> Result<bool, MaskLost> {
        if let Some(pending) = &self.pending_mask {
            let Some(follower) = pending.try_finish()? else {
                return Ok(false);
            };
            self.sampler.finish_mask(follower);
            self.pending_mask = None;
        }
        Ok(true)
    }
}
