//! What a round does: decode → advance. Chunks of prompts, tokens, and drafts go into decodes; what is drawn from their rows
//! goes out.

use std::sync::Arc;
use std::time::Instant;

use super::{Phase, Sequence, Worker};
use crate::engine::draft;
use crate::engine::error::EngineError;
use crate::engine::lanes::{BRIDGED, Known, Whole};
use crate::engine::masks::Lost;
use crate::engine::request::{Delta, FinishReason, PromptOutput, Request, Told};
use crate::engine::score::score_rows;
use crate::logprobs;
use crate::metrics;
use crate::model::{DecodeError, Row};

/// What a token is drawn from.
enum Logits {
    /// A row of the last decode.
    Row(usize),
    /// A row that was kept with the prompt it follows.
    Kept(Arc<[f32]>),
}

impl Worker<'_> {
    /// Evaluates the rows that were gathered; a second time, if that may help.
    fn decode(&mut self) -> Result<(), DecodeError> {
        let mut outcome = self.try_decode();
        if outcome.is_err_and(DecodeError::may_pass) {
            // What was evaluated of them would stand in the way.
            for (place, row) in self.rows.iter().enumerate() {
                if place == 0 || self.rows[place - 1].lane != row.lane {
                    self.runner.cut(row.lane, row.position);
                }
            }
            outcome = self.try_decode();
        }
        self.failures = if outcome.is_ok() {
            0
        } else {
            self.failures + 1
        };
        outcome
    }

    fn try_decode(&mut self) -> Result<(), DecodeError> {
        self.runner.adapt(&self.adapters);
        let outcome = self.runner.decode(&self.rows, self.threads);
        metrics::decoded(outcome.is_ok());
        outcome
    }

    /// Begins to gather the rows of a decode, which is made as this sequence's request has it: under its adapters, and
    /// exactly or not.
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

    /// Evaluates the next chunk of a prompt; what ends the sequence, if something does.
    pub(super) fn evaluate_chunk(&mut self, index: usize) -> Option<Delta> {
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
                rows: Vec::new(),
            }));
            return Some(Delta::Finished(FinishReason::Length));
        }
        let rows = self.shared.prompt_rows(request);
        let end = sequence.plan.chunk_end(evaluated, rows);
        self.begin_rows(index);
        let sequence = &self.sequences[index];
        let request = &sequence.request;
        self.rows.extend((evaluated..end).map(|position| Row {
            token: request.prompt[position],
            position,
            lane: sequence.lane,
            logits: scores || position + 1 == length,
        }));
        let adapted = !request.adapters.is_empty();
        let lane = sequence.lane;
        self.lanes[lane].suspect |= adapted;
        if let Err(error) = self.decode() {
            return Some(self.failed(index, &error));
        }
        metrics::prompt_evaluated(end - evaluated);
        let sequence = &mut self.sequences[index];
        let known = &mut self.lanes[sequence.lane].known;
        let shared = end.min(sequence.plan.shareable());
        let pure = known.is_pure() && self.shared.is_exact(end - evaluated, self.threads);
        if evaluated < shared {
            known
                .tokens
                .extend_from_slice(&sequence.request.prompt[evaluated..shared]);
        }
        if pure {
            known.pure = known.tokens.len();
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
            if adapted && rows.iter().any(|(logits, _)| overflows(logits)) {
                return Some(self.overflowed(index));
            }
            // As much as the scores before tell, so that all of a lane's scores can be used alike.
            let scores = score_rows(&rows, &known.told, self.threads);
            known.scores.extend(scores);
            for (position, (logits, _)) in (evaluated + 1..).zip(&rows) {
                if sequence.request.rows.want(position) {
                    sequence.prompt_rows.push((position, (*logits).into()));
                }
            }
        }
        sequence.phase = Phase::Prompt { evaluated: end };
        if end < length {
            return None;
        }
        let Some(row) = self.runner.logits(end - 1 - evaluated) else {
            return Some(self.failed(index, &"a row of logits is missing"));
        };
        if adapted && overflows(row) {
            return Some(self.overflowed(index));
        }
        // It follows from all of the lane's cells.
        self.lanes[lane].suspect = false;
        let known = &mut self.lanes[lane].known;
        known.whole = Some(Whole {
            prompt: Arc::clone(&sequence.request.prompt),
            scores: scores.then(|| known.scores.clone()),
            row: row.into(),
            pure,
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
        let tell = &sequence.request.prompt_logprobs;
        let logprobs = tell.iter().flat_map(|tell| {
            let scores = whole.scores.iter().flatten();
            scores.map(|score| score.narrowed(tell))
        });
        let logprobs = logprobs.collect();
        let row = Arc::clone(&whole.row);
        metrics::prompt_known(
            sequence.request.prompt.len() + sequence.request.kept.len(),
            sequence.cached,
            sequence.request.prompt_logprobs.is_some(),
        );
        let rows = std::mem::take(&mut sequence.prompt_rows);
        sequence.tell(Delta::Prompt(PromptOutput {
            cached_tokens: sequence.cached,
            logprobs,
            rows,
        }));
        if sequence.request.max_tokens == 0 {
            return Some(Delta::Finished(FinishReason::Length));
        }
        self.advance(index, Logits::Kept(row))
    }

    /// Finishes the prompts of which nothing is to be evaluated.
    pub(super) fn finish_known(&mut self, ended: &mut Vec<(usize, Delta)>) {
        for index in 0..self.sequences.len() {
            let sequence = &self.sequences[index];
            if matches!(sequence.phase, Phase::Prompt { evaluated } if evaluated == sequence.request.prompt.len())
                && sequence.row.is_none()
                && let Some(end) = self.finish_prompt(index)
            {
                ended.push((index, end));
            }
        }
    }

    /// Draws for the sequences that had to wait for what their constraints allow.
    pub(super) fn draw_waiting(&mut self, ended: &mut Vec<(usize, Delta)>) {
        for index in 0..self.sequences.len() {
            if let Some(row) = self.sequences[index].row.take()
                && let Some(end) = self.advance(index, Logits::Kept(row))
            {
                ended.push((index, end));
            }
        }
    }

    /// Evaluates a sequence's newest token together with a draft of what follows, and draws from the rows as long as the
    /// draft holds. `false`: there is no draft.
    pub(super) fn evaluate_draft(&mut self, index: usize, ended: &mut Vec<(usize, Delta)>) -> bool {
        let most = self.shared.draft_tokens;
        let sequence = &mut self.sequences[index];
        let Phase::Generating { next } = sequence.phase else {
            return false;
        };
        // What a constraint allows after a token takes time to find, in which others would wait.
        let may_draft = most > 0 && !self.shared.runs_alone(&sequence.request);
        if !may_draft || sequence.lent.is_some() || !sequence.patience.is_over() {
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
        self.begin_rows(index);
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
            self.lanes[lane].suspect |= !self.sequences[index].request.adapters.is_empty();
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
        // The rows of what was cut off were not looked at.
        let adapted = !self.sequences[index].request.adapters.is_empty();
        self.lanes[lane].suspect |= adapted && kept < draft.len();
        self.sequences[index].patience.learn(kept);
        ended.extend(end.map(|end| (index, end)));
        true
    }

    /// Gathers rows for the next decode from the newest tokens of these sequences, which generate, and stand in the
    /// order of their lanes; how many of them it takes.
    ///
    /// Lanes that stand side by side are evaluated together; llama.cpp cuts a decode where one is left out. So a lane
    /// or two in between are given a token that is forgotten again, which costs less than another decode. Not under
    /// adapters: what they leave in a lane would stay in its memory.
    ///
    /// In exact mode sequences with adapters are evaluated one by one. An adapter's weights are f32, f16 or bf16 mostly,
    /// and llama.cpp multiplies one row with those by another routine than several: bits would depend on neighbours. In
    /// throughput mode sequences are evaluated one by one whose requests ask for exactness.
    pub(super) fn gather_tokens(&mut self, sequences: &[usize]) -> usize {
        let Some(&first) = sequences.first() else {
            return 0;
        };
        self.begin_rows(first);
        let alone = |index: usize| self.shared.runs_alone(&self.sequences[index].request);
        let sharing = &self.shared.sharing;
        let width = sharing.width();
        let group = if alone(first) || !(self.adapters.is_empty() || self.shared.shares_adapted) {
            1
        } else {
            sharing.group(sequences.len())
        };
        for (taken, &index) in sequences.iter().enumerate() {
            let sequence = &self.sequences[index];
            let Phase::Generating { next } = sequence.phase else {
                return taken;
            };
            if taken > 0
                && (taken >= group
                    || self.is_abandoned(index)
                    || alone(index)
                    || sequence.request.adapters != self.adapters)
            {
                return taken;
            }
            let start = self.rows.len();
            if let Some(last) = self.rows.last().map(|row| row.lane) {
                for lane in last + 1..sequence.lane {
                    let free = self.free_position(lane);
                    let bridge = free
                        .filter(|_| self.adapters.is_empty())
                        .map(|position| Row {
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
            if self.rows.len() >= width {
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
    pub(super) fn evaluate_tokens(&mut self, group: &[usize], ended: &mut Vec<(usize, Delta)>) {
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
                    self.note_generated(index);
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

    /// Remembers that a sequence's newest token is evaluated, where that is of use to forks alone.
    fn note_generated(&mut self, index: usize) {
        let sequence = &self.sequences[index];
        if let Phase::Generating { next } = sequence.phase
            && !self.shared.reuses_generated
        {
            self.lanes[sequence.lane].known.generated.push(next);
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

    /// Draws the next token, or keeps the row until it is known what may be drawn; what ends the sequence, if something
    /// does.
    fn advance(&mut self, index: usize, logits: Logits) -> Option<Delta> {
        let row = match &logits {
            Logits::Row(row) => self.runner.logits(*row),
            Logits::Kept(row) => Some(&row[..]),
        };
        let Some(row) = row else {
            return Some(self.failed(index, &"a row of logits is missing"));
        };
        if !self.sequences[index].request.adapters.is_empty() && overflows(row) {
            return Some(self.overflowed(index));
        }
        let sequence = &mut self.sequences[index];
        if let Some(&next) = sequence.request.kept.get(sequence.drawn) {
            // What comes here is known, and its sampler knows of it.
            metrics::prompt_evaluated(1);
            sequence.drawn += 1;
            sequence.phase = Phase::Generating { next };
            return None;
        }
        if let Some(lent) = &sequence.lent {
            match lent.take_back() {
                Ok(Some(follower)) => {
                    sequence.sampler.give_back(follower);
                    sequence.lent = None;
                }
                Ok(None) => {
                    sequence.row = Some(match logits {
                        Logits::Row(_) => row.into(),
                        Logits::Kept(row) => row,
                    });
                    return None;
                }
                Err(Lost) => return Some(self.failed(index, &"a constraint was lost")),
            }
        }
        let logits = row;
        let tell = sequence.request.logprobs.as_ref();
        let wanted = sequence
            .sampler
            .wants()
            .max(tell.map_or(0, |tell| tell.top));
        if wanted > 0 || tell.is_some() {
            self.likeliest.find(logits, wanted);
        }
        let drawn = match &mut sequence.recording {
            None => sequence.sampler.sample(logits, &self.likeliest),
            Some(recording) => sequence.sampler.sample_watched(logits, recording),
        };
        let token = match drawn {
            Ok(Some(token)) => token,
            Ok(None) => {
                flush(sequence);
                return Some(Delta::Finished(FinishReason::Stop));
            }
            Err(error) => {
                flush(sequence);
                return Some(Delta::Failed(EngineError::Constraint(error)));
            }
        };
        sequence.drawn += 1;
        let now = Instant::now();
        let passed = now.duration_since(sequence.latest);
        sequence.latest = now;
        sequence.tally.drawn();
        if sequence.new_tokens() == 1 {
            metrics::first_token(passed);
        } else {
            metrics::further_token(passed);
        }
        if self.shared.reuses_generated {
            sequence.generated.push(token);
        }
        let position = sequence.request.prompt.len() + sequence.drawn - 1;
        let told = Told {
            logprob: tell
                .map(|tell| Arc::new(logprobs::score(logits, &self.likeliest, token, tell))),
            observed: sequence.recording.as_ref().map(|recording| {
                Arc::new(recording.observed(token, &sequence.request.watch, tell))
            }),
            row: (sequence.request.rows)
                .want(position)
                .then(|| logits.into()),
        };
        let vocab = self.runner.model().vocab();
        let stops_here = sequence.request.sampling.stop_tokens.contains(&token);
        if vocab.is_end(token) || (stops_here && !sequence.request.include_stop) {
            flush(sequence);
            if sequence.request.deliver_end_token {
                sequence.tell(Delta::Token(sequence.completion.end(token, told)));
            }
            return Some(Delta::Finished(FinishReason::Stop));
        }
        let stopped = sequence.completion.push(token, vocab.bytes(token), told);
        let full = sequence.new_tokens() >= sequence.request.max_tokens
            || sequence.request.prompt.len() + sequence.drawn >= self.shared.lane_tokens;
        let stopped = stopped || stops_here;
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
        sequence.lent = self.shared.find_allowed(self.number, &mut sequence.sampler);
        None
    }

    /// A decode failed: this sequence ends, the others go on.
    fn failed(&mut self, index: usize, error: &dyn std::fmt::Display) -> Delta {
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

    /// Adapters made numbers overflow: this sequence ends, the others go on.
    fn overflowed(&mut self, index: usize) -> Delta {
        let sequence = &mut self.sequences[index];
        flush(sequence);
        self.give_up(index);
        Delta::Failed(EngineError::Overflow)
    }

    /// What this sequence's lane holds is not known any more.
    fn give_up(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        // It stands at its beginning again, with nothing in its lane that anybody could use.
        sequence.phase = Phase::Prompt { evaluated: 0 };
        let lane = &mut self.lanes[sequence.lane];
        lane.known = Known::default();
        lane.suspect |= !sequence.request.adapters.is_empty();
        self.runner.cut(sequence.lane, 0);
    }
}

/// Whether a row holds what no softmax can be made of.
fn overflows(row: &[f32]) -> bool {
    row.iter()
        .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
}

/// Gives out all tokens that were held back.
fn flush(sequence: &mut Sequence) {
    while let Some(output) = sequence.completion.flush() {
        sequence.tell(Delta::Token(output));
    }
}
