//! From a row of logits to the next token of a sequence: drawn, scored, emitted.

use std::sync::Arc;

use super::{Phase, Sequence, Worker};
use crate::engine::error::EngineError;
use crate::engine::request::{Delta, FinishReason, TokenDetails};
use crate::logprobs::{self, Likeliest};
use crate::metrics;
use crate::model::{Token, Vocab};
use crate::sampling::ConstraintError;

/// The row that a token is drawn from.
pub(super) enum Logits {
    /// A row of the last decode.
    Row(usize),
    /// A row that was kept.
    Kept(Arc<[f32]>),
}

impl Worker<'_> {
    /// Advances the sequences that need no decode: those whose prompts are complete already, and those that wait for a mask.
    pub(super) fn advance_waiting(&mut self) {
        for index in 0..self.sequences.len() {
            let sequence = &mut self.sequences[index];
            let end = if let Some(row) = sequence.waiting_row.take() {
                self.advance(index, Logits::Kept(row))
            } else if matches!(sequence.phase, Phase::Prompt { evaluated } if evaluated == sequence.request.prompt.len())
            {
                self.finish_prompt(index)
            } else {
                None
            };
            self.end_later(index, end);
        }
    }

    /// Advances a sequence by a token, or keeps the row until the allowed tokens are known. Returns how the sequence ends,
    /// if it does.
    pub(super) fn advance(&mut self, index: usize, logits: Logits) -> Option<Delta> {
        let row = match &logits {
            Logits::Row(row) => self.cache.logits(*row),
            Logits::Kept(row) => Some(&row[..]),
        };
        let Some(row) = row else {
            return Some(self.failed(index, &"a row of logits is missing"));
        };
        let sequence = &mut self.sequences[index];
        if !sequence.request.adapters.is_empty() && overflows(row) {
            return Some(self.overflowed(index));
        }
        if let Some(&next) = sequence.request.forced_prefix.get(sequence.drawn) {
            // A token of the forced prefix, which the sampler has accepted before.
            metrics::prompt_evaluated(1);
            sequence.drawn += 1;
            sequence.phase = Phase::Generating { next };
            return None;
        }
        match sequence.finish_mask() {
            Ok(true) => {}
            Ok(false) => {
                sequence.waiting_row = Some(match logits {
                    Logits::Row(_) => row.into(),
                    Logits::Kept(row) => row,
                });
                return None;
            }
            Err(_) => return Some(self.failed(index, &"a constraint was lost")),
        }
        let end = match sequence.draw(row, &mut self.likeliest) {
            Ok(Some(token)) => {
                let details = sequence.details(token, row, &self.likeliest);
                if self.shared.cache_rules.reuses_generated {
                    sequence.generated.push(token);
                }
                let vocab = self.cache.model().vocab();
                match sequence.push(token, details, vocab, self.shared.cache_rules.lane_tokens) {
                    Some(reason) => Delta::Finished(reason),
                    None => {
                        sequence.phase = Phase::Generating { next: token };
                        let sampler = &mut sequence.sampler;
                        sequence.pending_mask = self.shared.start_mask(self.number, sampler);
                        return None;
                    }
                }
            }
            Ok(None) => Delta::Finished(FinishReason::Stop),
            Err(error) => Delta::Failed(EngineError::Constraint(error)),
        };
        // What was held back for a stop string that can no longer occur.
        sequence.flush();
        Some(end)
    }
}

impl Sequence {
    /// Draws the next token. `None`: none is allowed, not even an end-of-generation token.
    fn draw(
        &mut self,
        row: &[f32],
        likeliest: &mut Likeliest,
    ) -> Result<Option<Token>, ConstraintError> {
        let spec = self.request.logprobs.as_ref();
        let wanted = self.sampler.wants().max(spec.map_or(0, |spec| spec.top));
        if wanted > 0 || spec.is_some() {
            likeliest.find(row, wanted);
        }
        let token = match &mut self.recording {
            None => self.sampler.sample(row, likeliest)?,
            Some(recording) => self.sampler.sample_watched(row, recording)?,
        };
        if token.is_some() {
            let passed = self.count_token();
            if self.new_tokens() == 1 {
                metrics::first_token(passed);
            } else {
                metrics::further_token(passed);
            }
        }
        Ok(token)
    }

    /// The requested details of the token that was just drawn from this row.
    fn details(&self, token: Token, row: &[f32], likeliest: &Likeliest) -> TokenDetails {
        let request = &self.request;
        let spec = request.logprobs.as_ref();
        let recording = self.recording.as_ref();
        TokenDetails {
            logprob: spec.map(|spec| Arc::new(logprobs::score(row, likeliest, token, spec))),
            observed: recording
                .map(|recording| Arc::new(recording.observed(token, &request.watch, spec))),
            row: (request.rows)
                .want(self.next_position())
                .then(|| row.into()),
        }
    }

    /// Adds the token that was just drawn to the completion, and emits what no stop string can cut any more. Returns why
    /// the sequence ends, if it does.
    fn push(
        &mut self,
        token: Token,
        details: TokenDetails,
        vocab: &Vocab,
        lane_tokens: usize,
    ) -> Option<FinishReason> {
        let request = &self.request;
        let stops_here = request.sampling.stop_tokens.contains(&token);
        if vocab.is_end(token) || (stops_here && !request.include_stop) {
            let delivers = request.deliver_end_token;
            self.flush();
            if delivers {
                let output = self.completion.end(token, details);
                self.emit(Delta::Token(output));
            }
            return Some(FinishReason::Stop);
        }
        let is_full = self.new_tokens() >= request.max_tokens
            || request.prompt.len() + self.drawn >= lane_tokens;
        let text = request.text_of(token, vocab);
        if self.completion.push(token, text, details) {
            return Some(match self.completion.stop_string() {
                Some(_) => FinishReason::Stop,
                None => FinishReason::Length,
            });
        }
        if stops_here {
            return Some(FinishReason::Stop);
        }
        if is_full || self.is_late() {
            return Some(FinishReason::Length);
        }
        while let Some(output) = self.completion.release() {
            self.emit(Delta::Token(output));
        }
        None
    }
}

/// Whether the softmax of a row cannot be computed.
pub(super) fn overflows(row: &[f32]) -> bool {
    row.iter()
        .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
}
