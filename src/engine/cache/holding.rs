//! What a lane holds, or will hold once a running prompt is evaluated.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::plan::PrefixKey;
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::{Adapters, Token};

/// Facts about a lane's cells: everything [`super::reach`] looks at. A lane has one for its cells as they are, a running
/// prompt has one for the cells it will leave, and other workers see a copy of either.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The adapters under which all cells were evaluated.
    pub adapters: Adapters,
    /// The lane's tokens. Those after `len` and `complete` are not evaluated.
    pub tokens: Arc<[Token]>,
    /// Any prompt may reuse the cells of the first `len` tokens: they were evaluated as those of a prompt are.
    pub len: usize,
    /// The cells of the first `exact_len` of these are exact to the last bit: all but in throughput mode. There, cells
    /// of generated tokens and those evaluated after them are not.
    pub exact_len: usize,
    /// The tokens whose scores are known, by their positions. While a prompt is evaluated that is scored from there on,
    /// there may be none yet.
    pub scores: Range<usize>,
    /// What each score contains.
    pub score_spec: LogprobSpec,
    /// Present if a prompt was evaluated to its end.
    pub complete_prompt: Option<CompletePrompt>,
    /// In exact and invariant mode: the tokens generated after the complete prompt. Their cells were not evaluated as those of
    /// a prompt are, so only a fork, which evaluates in the same way, may reuse them.
    pub generated: Vec<Token>,
    /// Whether these were evaluated for a request that asked for exactness.
    pub generated_exact: bool,
}

/// A prompt that was evaluated to its end. A request for the same prompt has nothing to evaluate: the choices of one
/// request, and repeated requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletePrompt {
    /// It is the first `len` tokens. At most a group of them lies after [`Holding::len`].
    pub len: usize,
    /// The first token that was scored, if any was. The logits of a scored prompt's last row are computed together with
    /// those of its group, and otherwise alone. With some weights (F16) llama.cpp computes a single row by another routine
    /// than several, so neither is used in place of the other.
    pub scored_from: Option<usize>,
    /// As [`Holding::exact_len`], of all its cells.
    pub exact: bool,
}

impl Holding {
    /// Filled cells.
    pub fn cells(&self) -> usize {
        let complete = self.complete_prompt.map_or(0, |prompt| prompt.len);
        self.len.max(complete + self.generated.len())
    }

    /// Whether all reusable cells are exact.
    pub fn is_exact(&self) -> bool {
        self.exact_len == self.len
    }

    /// What other workers see of a promise: they could not wait for its forced prefix.
    pub fn published(self) -> Self {
        Self {
            generated: Vec::new(),
            ..self
        }
    }

    /// The first `len` tokens.
    pub fn prefix(&self, len: usize) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.tokens[..len],
            adapters: &self.adapters,
        }
    }

    /// The complete prompt, if it is this one.
    pub fn complete(&self, prompt: PrefixKey<'_>) -> Option<CompletePrompt> {
        self.complete_prompt
            .filter(|complete| self.prefix(complete.len) == prompt)
    }

    /// Whether the first `cells` cells of a prompt can be copied from here.
    pub fn covers(&self, prompt: PrefixKey<'_>, cells: usize) -> bool {
        self.prefix(self.len).common(prompt) >= cells || self.complete(prompt).is_some()
    }

    /// What is left when the first `cells` cells are kept, from which `prompt` is evaluated further.
    pub fn start_prompt(
        &self,
        prompt: &Arc<[Token]>,
        adapters: &Adapters,
        cells: usize,
        scoring: Option<Scoring>,
    ) -> Self {
        // The last kept cell predicts the token that came next, which may be another one here.
        let is_next_same = self.tokens.get(cells) == prompt.get(cells);
        let known = self.scores.end.min(cells + usize::from(is_next_same));
        let mut scores = self.scores.start..known;
        let mut score_spec = &self.score_spec;
        if let Some(Scoring { spec, first_row }) = scoring {
            // Of scores that others do not follow, only the new ones are kept.
            let first = first_row.max(cells) + 1;
            if scores.is_empty() || scores.end != first || !spec.within(score_spec) {
                scores = first..first;
                score_spec = spec;
            }
        } else if scores.is_empty() {
            scores = 0..0;
        }
        Self {
            adapters: adapters.clone(),
            tokens: Arc::clone(prompt),
            len: cells,
            exact_len: self.exact_len.min(cells),
            scores,
            score_spec: score_spec.clone(),
            complete_prompt: None,
            generated: Vec::new(),
            generated_exact: false,
        }
    }

    /// What is left when the complete prompt, which is `prompt`, is kept, and `generated` of the tokens after it;
    /// `shareable` of its cells are for any prompt.
    pub fn start_complete(
        &self,
        prompt: &Arc<[Token]>,
        shareable: usize,
        generated: usize,
    ) -> Self {
        let len = self.len.min(shareable);
        Self {
            tokens: Arc::clone(prompt),
            len,
            exact_len: self.exact_len.min(len),
            generated: self.generated.iter().copied().take(generated).collect(),
            ..self.clone()
        }
    }

    /// Whether the numbers agree with each other.
    fn is_consistent(&self) -> bool {
        let complete = self.complete_prompt.map_or(0, |prompt| prompt.len);
        self.exact_len <= self.len
            && (self.scores.is_empty() || self.scores.end <= self.len + 1)
            && self.len.max(complete) <= self.tokens.len()
    }
}

/// A lane's [`Holding`], and what is kept beside its cells.
#[derive(Debug, Default, Clone)]
pub struct CachedPrefix {
    holding: Holding,
    /// Those of the tokens `holding.scores`.
    scores: Vec<Arc<TokenLogprob>>,
    /// Of the complete prompt.
    output: Option<CachedOutput>,
}

/// What a request for a complete prompt is answered from.
#[derive(Debug, Clone)]
pub struct CachedOutput {
    /// Of the last tokens, from [`CompletePrompt::scored_from`] on; empty if the prompt was not scored.
    pub scores: Vec<Arc<TokenLogprob>>,
    /// The row of logits that predicts what follows.
    pub last_row: Arc<[f32]>,
}

/// How a prompt is scored.
#[derive(Debug, Clone, Copy)]
pub struct Scoring<'a> {
    /// What each score contains.
    pub spec: &'a LogprobSpec,
    /// The first row whose logits are computed: it and all after it are scored.
    pub first_row: usize,
}

impl CachedPrefix {
    pub fn holding(&self) -> &Holding {
        &self.holding
    }

    /// What a request for the complete prompt is answered from.
    pub fn output(&self) -> Option<&CachedOutput> {
        self.output.as_ref()
    }

    /// Keeps what a sequence starts with: see [`Holding::start_prompt`] and [`Holding::start_complete`].
    pub fn start(&mut self, kept: Holding) {
        self.scores.truncate(kept.scores.len());
        if kept.complete_prompt.is_none() {
            self.output = None;
        }
        self.holding = kept;
    }

    /// The first `len` cells are evaluated. `exact`: by decodes with the bits of exact ones. Returns whether all cells are
    /// exact.
    pub fn extend(
        &mut self,
        len: usize,
        scores: impl IntoIterator<Item = Arc<TokenLogprob>>,
        exact: bool,
    ) -> bool {
        let exact = exact && self.holding.is_exact();
        self.holding.len = self.holding.len.max(len);
        if exact {
            self.holding.exact_len = self.holding.len;
        }
        self.scores.extend(scores);
        self.holding.scores.end = self.holding.scores.start + self.scores.len();
        exact
    }

    /// The prompt is evaluated to its end.
    pub fn complete(&mut self, scored: bool, last_row: Arc<[f32]>, exact: bool) {
        self.holding.complete_prompt = Some(CompletePrompt {
            len: self.holding.tokens.len(),
            scored_from: scored.then_some(self.holding.scores.start),
            exact,
        });
        let scores = if scored {
            self.scores.clone()
        } else {
            Vec::new()
        };
        self.output = Some(CachedOutput { scores, last_row });
        // Scores after the shareable cells are of use to this prompt alone.
        let scores = &mut self.holding.scores;
        scores.end = scores.end.min(self.holding.len + 1).max(scores.start);
        self.scores.truncate(scores.len());
    }

    /// A token after the complete prompt is evaluated, for forks only. `exact`: for a request that asked for exactness.
    pub fn push_generated(&mut self, token: Token, exact: bool) {
        self.holding.generated.push(token);
        self.holding.generated_exact = exact;
    }

    /// In throughput mode: any prompt may reuse the cells of the whole prompt and of `generated`.
    pub fn extend_with_generated(&mut self, generated: &[Token]) {
        let holding = &mut self.holding;
        holding.tokens = [&holding.tokens[..], generated].concat().into();
        holding.len = holding.tokens.len();
    }

    /// Whether the facts are those of what is kept.
    pub fn is_consistent(&self) -> bool {
        self.holding.is_consistent()
            && self.holding.scores.len() == self.scores.len()
            && self.holding.complete_prompt.is_some() == self.output.is_some()
    }
}
