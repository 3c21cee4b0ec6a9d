//! What goes into the engine, and what comes out.

use std::sync::Arc;
use std::time::Duration;

use super::error::EngineError;
use super::plan::{PrefixKey, PromptPlan};
use super::stops::Stops;
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::{Adapters, Token, Vocab};
use crate::sampling::{Observed, SamplingParams, Watch};

/// One sequence to score and continue. A request for `n` choices is `n` of these with the same prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids within the vocabulary; at least one, at most the context length.
    pub prompt: Arc<[Token]>,
    /// The completion begins with these tokens of an earlier answer. They are evaluated like generated tokens, but not
    /// returned. Prompt, these and `max_tokens` together fit the context.
    pub forced_prefix: Arc<[Token]>,
    /// The first token after them: not drawn, but returned like any other.
    pub forced_token: Option<Token>,
    /// They apply to prompt and completion.
    pub adapters: Adapters,
    /// Maximum number of tokens to generate; 0 only scores. Prompt and completion together fit the context.
    pub max_tokens: usize,
    /// Log-probabilities of the generated tokens.
    pub logprobs: Option<LogprobSpec>,
    /// Log-probabilities of the prompt's tokens; `None`: the prompt is not scored.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Rows of logits to return; those of the prompt only if it is scored.
    pub rows: Rows,
    /// What to record about how each token is drawn.
    pub watch: Watch,
    pub sampling: SamplingParams,
    /// The text ends before the first of these.
    pub stop: Arc<Stops>,
    /// After this much time since its first token, the text ends with the line that is being written. It is the one part of
    /// a request by which answers depend on time.
    pub line_after: Option<Duration>,
    /// Whether a [`Delta::Report`] is sent.
    pub reports: bool,
    /// Whether the text includes the stop string, and a token of `sampling.stop_tokens` is returned.
    pub include_stop: bool,
    /// Whether the text has the names of generated control tokens; otherwise they have no text.
    pub shows_control: bool,
    /// Whether cells that other sequences evaluated may be reused.
    pub cache_prompt: bool,
    /// Whether it must have the bits of exact mode in another mode, where its tokens are then evaluated one by one.
    pub exact: bool,
    /// Whether tokens are sent as they are generated. Otherwise they are all sent at the end, which wakes the receiver
    /// only once.
    pub streamed: bool,
    /// Whether a final end-of-generation token is returned (with empty text).
    pub deliver_end_token: bool,
}

/// Which tokens of a prompt are scored, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptLogprobs {
    pub spec: LogprobSpec,
    /// The first scored token, by its position from 0: at least 1, since no row predicts the very first token, and at most
    /// the prompt's length. All after it are scored, too.
    pub from: usize,
}

impl PromptLogprobs {
    /// Those of all tokens.
    pub fn all(spec: LogprobSpec) -> Self {
        Self { spec, from: 1 }
    }
}

/// Rows of logits to return, each identified by the token that it predicts: its position in prompt and completion, from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rows {
    #[default]
    None,
    /// All from this position on.
    From(usize),
    /// In ascending order.
    These(Arc<[usize]>),
}

impl Rows {
    pub fn want(&self, position: usize) -> bool {
        match self {
            Self::None => false,
            Self::From(first) => position >= *first,
            Self::These(positions) => positions.binary_search(&position).is_ok(),
        }
    }
}

impl Request {
    /// The first prompt token whose row is requested. No row predicts the very first token.
    pub(super) fn first_prompt_row(&self) -> Option<usize> {
        let first = match &self.rows {
            Rows::None => None,
            Rows::From(first) => Some((*first).max(1)),
            Rows::These(positions) => positions.iter().copied().find(|&position| position > 0),
        };
        first.filter(|&position| position < self.prompt.len())
    }

    /// The first row of its prompt whose logits are computed, if it is scored: the one that predicts the first token whose
    /// score or row is wanted, or an earlier one. llama.cpp computes the last layers for these rows alone, as if the prompt
    /// were cut before them; so they have the bits of the fully scored prompt if it may be cut there.
    pub(super) fn first_logits_row(&self, plan: &PromptPlan) -> Option<usize> {
        let scored = self.prompt_logprobs.as_ref()?.from;
        let first = self
            .first_prompt_row()
            .map_or(scored, |row| row.min(scored));
        Some(plan.reuse(first - 1))
    }

    /// The bytes that a generated token adds to the text.
    pub(super) fn text_of<'a>(&self, token: Token, vocab: &'a Vocab) -> &'a [u8] {
        if self.shows_control {
            vocab.literal(token)
        } else {
            vocab.bytes(token)
        }
    }

    /// What the cells of its prompt depend on.
    pub(super) fn prefix_key(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }

    /// Whether it continues from within an earlier answer.
    pub(super) fn is_fork(&self) -> bool {
        !self.forced_prefix.is_empty() || self.forced_token.is_some()
    }
}

/// What a running sequence sends, in this order: one `Prompt`, any number of `Token`s, a `Report` if it is asked for, one
/// `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The prompt has been evaluated.
    Prompt(PromptOutput),
    /// A token that no stop string can cut any more.
    Token(TokenOutput),
    Report(Report),
    Finished(FinishReason),
    Failed(EngineError),
}

/// The evaluated prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptOutput {
    /// Prompt tokens served from the cache.
    pub cached_tokens: usize,
    /// With `prompt_logprobs`: an entry for each of the prompt's last tokens, from [`PromptLogprobs::from`] on. Otherwise
    /// empty.
    pub logprobs: Vec<Arc<TokenLogprob>>,
    /// The requested rows, each with its token's position.
    pub rows: Vec<(usize, Arc<[f32]>)>,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    pub token: Token,
    /// What this token adds to the completion's text: complete characters only, up to a stop string.
    pub text: String,
    /// Characters (Unicode scalar values) of the completion before this token.
    pub offset: usize,
    pub details: TokenDetails,
}

/// What a request may ask for about a generated token, besides its text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenDetails {
    pub logprob: Option<Arc<TokenLogprob>>,
    pub observed: Option<Arc<Observed>>,
    /// The raw logits it was drawn from.
    pub row: Option<Arc<[f32]>>,
}

/// What a request may ask for about a sequence as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// The stop string that the text ended at, by its index.
    pub stop_string: Option<usize>,
    /// From the start of the sequence, after it has waited for its slot, to its first token.
    pub prompt_time: Duration,
    /// From its first token to its last.
    pub generation_time: Duration,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop string, an end-of-generation token, a finished grammar, or no allowed token.
    Stop,
    /// `max_tokens`, the end of the context, `line_after`, or a line with too little indentation.
    Length,
}

impl FinishReason {
    /// OpenAI's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
