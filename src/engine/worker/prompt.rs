//! Prompts: evaluated chunk by chunk, and scored if requested.

use std::ops::Range;
use std::sync::Arc;

use super::advance::{Logits, overflows};
use super::{Phase, Worker};
use crate::engine::cache::Evaluated;
use crate::engine::error::EngineError;
use crate::engine::request::{Delta, FinishReason, PromptLogprobs, PromptOutput};
use crate::engine::score::score_rows;
use crate::logprobs::TokenLogprob;
use crate::metrics;
use crate::model::Row;

/// Why the rows of a decode are unusable.
enum BadRows {
    Missing,
    Overflow,
}

impl Worker<'_> {
    /// Evaluates the next chunk of a prompt, and draws the first token after the last one.
    pub(super) fn evaluate_chunk(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        let Phase::Prompt { evaluated } = sequence.phase else {
            return;
        };
        let request = &sequence.request;
        if request.prompt_logprobs.is_none() && request.max_tokens == 0 {
            // The model has nothing to do.
            sequence.cached = 0;
            sequence.emit(Delta::Prompt(PromptOutput {
                cached_tokens: 0,
                logprobs: Vec::new(),
                rows: Vec::new(),
            }));
            return self.end_later(index, Some(Delta::Finished(FinishReason::Length)));
        }
        let first = request.first_logits_row(&sequence.plan);
        let rows = self.shared.prompt_rows(request, evaluated, first);
        let chunk = evaluated..sequence.plan.chunk_end(evaluated, rows);
        let end = match self.evaluate_prompt_rows(index, chunk.clone()) {
            Err(end) => Some(end),
            Ok(()) => match self.read_prompt_rows(index, chunk) {
                Ok(false) => None,
                Ok(true) => self.finish_prompt(index),
                Err(BadRows::Missing) => Some(self.failed(index, &"a row of logits is missing")),
                Err(BadRows::Overflow) => Some(self.overflowed(index)),
            },
        };
        self.end_later(index, end);
    }

    /// `Err`: what the sequence ends with.
    fn evaluate_prompt_rows(&mut self, index: usize, chunk: Range<usize>) -> Result<(), Delta> {
        self.begin_rows(index);
        let sequence = &self.sequences[index];
        let request = &sequence.request;
        let (lane, length) = (sequence.lane, request.prompt.len());
        let first = request.first_logits_row(&sequence.plan);
        let first = first.unwrap_or(length - 1);
        self.rows.extend(chunk.clone().map(|position| Row {
            token: request.prompt[position],
            position,
            lane,
            logits: position >= first,
        }));
        if !request.adapters.is_empty() {
            self.cache.mark_maybe_nan(lane);
        }
        self.decode().map_err(|error| self.failed(index, &error))?;
        metrics::prompt_evaluated(chunk.len());
        Ok(())
    }

    /// Reads the results of the last decode of a chunk, and commits its cells. Returns whether the prompt is complete.
    fn read_prompt_rows(&mut self, index: usize, chunk: Range<usize>) -> Result<bool, BadRows> {
        let scores = self.score_chunk(index, &chunk)?;
        let sequence = &mut self.sequences[index];
        let is_complete = chunk.end == sequence.request.prompt.len();
        let last_row = if is_complete {
            let row = self.cache.logits(chunk.len() - 1);
            let row = row.ok_or(BadRows::Missing)?;
            if !sequence.request.adapters.is_empty() && overflows(row) {
                return Err(BadRows::Overflow);
            }
            Some(row.into())
        } else {
            None
        };
        sequence.phase = Phase::Prompt {
            evaluated: chunk.end,
        };
        let evaluated = Evaluated {
            end: chunk.end,
            scores,
            exact: self.shared.is_exact(chunk.len(), self.threads),
            last_row,
        };
        self.cache.commit(sequence.lane, evaluated);
        Ok(is_complete)
    }

    /// Scores the tokens that the rows of a chunk with logits predict, if the prompt is scored, and keeps the requested
    /// rows.
    fn score_chunk(
        &mut self,
        index: usize,
        chunk: &Range<usize>,
    ) -> Result<Vec<Arc<TokenLogprob>>, BadRows> {
        let sequence = &mut self.sequences[index];
        let request = &sequence.request;
        let Some(first) = request.first_logits_row(&sequence.plan) else {
            return Ok(Vec::new());
        };
        let predicted = first.max(chunk.start) + 1..request.prompt.len().min(chunk.end + 1);
        let rows: Option<Vec<_>> = predicted
            .clone()
            .map(|position| {
                let row = self.cache.logits(position - 1 - chunk.start)?;
                Some((row, request.prompt[position]))
            })
            .collect();
        let rows = rows.ok_or(BadRows::Missing)?;
        if !request.adapters.is_empty() && rows.iter().any(|(logits, _)| overflows(logits)) {
            return Err(BadRows::Overflow);
        }
        // They contain the same details as the lane's earlier scores, so that all can be used alike.
        let spec = self.cache.score_spec(sequence.lane);
        let scores = score_rows(&rows, spec, self.threads);
        for (position, (logits, _)) in predicted.zip(&rows) {
            if sequence.request.rows.want(position) {
                sequence.prompt_rows.push((position, (*logits).into()));
            }
        }
        Ok(scores)
    }

    /// Emits a complete prompt, and draws the first token. Returns how the sequence ends, if it does.
    pub(super) fn finish_prompt(&mut self, index: usize) -> Option<Delta> {
        let sequence = &mut self.sequences[index];
        let Some(output) = self.cache.output(sequence.lane) else {
            return Some(self.failed(index, &"an evaluated prompt is missing"));
        };
        let request = &sequence.request;
        let length = request.prompt.len();
        let mut scored = length..length;
        let mut logprobs = Vec::new();
        if let Some(PromptLogprobs { spec, from }) = &request.prompt_logprobs {
            scored.start = *from;
            let others = output.scores.len().saturating_sub(scored.len());
            let scores = output.scores[others..].iter();
            logprobs.extend(scores.map(|score| score.narrowed(spec)));
        }
        let row = Arc::clone(&output.last_row);
        metrics::prompt_known(
            length + request.forced_prefix.len(),
            sequence.cached,
            scored,
        );
        let rows = std::mem::take(&mut sequence.prompt_rows);
        sequence.emit(Delta::Prompt(PromptOutput {
            cached_tokens: sequence.cached,
            logprobs,
            rows,
        }));
        if sequence.request.max_tokens == 0 {
            return Some(Delta::Finished(FinishReason::Length));
        }
        self.advance(index, Logits::Kept(row))
    }

    /// A decode failed: this sequence ends, the others continue.
    pub(super) fn failed(&mut self, index: usize, error: &dyn std::fmt::Display) -> Delta {
        let sequence = &self.sequences[index];
        tracing::error!(
            parent: &sequence.span,
            worker = self.number,
            sequence = sequence.id,
            %error,
            "a decode failed"
        );
        self.give_up(index);
        Delta::Failed(EngineError::Decode)
    }

    /// Numbers overflowed under adapters: this sequence ends, the others continue.
    pub(super) fn overflowed(&mut self, index: usize) -> Delta {
        self.sequences[index].flush();
        self.give_up(index);
        Delta::Failed(EngineError::Overflow)
    }

    /// The content of this sequence's lane is now unknown.
    fn give_up(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        sequence.phase = Phase::Prompt { evaluated: 0 };
        self.cache.abandon(sequence.lane);
    }
}
