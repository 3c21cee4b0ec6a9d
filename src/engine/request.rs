//! What goes into the engine and what comes out of it.

use std::sync::Arc;

use super::plan::PrefixKey;
use crate::logprobs::{Tell, TokenLogprob};
use crate::model::{Adapters, Token};
use crate::sampling::{Observed, SamplingParams, Watch};

/// One sequence to score and to continue. A request of `n` choices is `n` of these with one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids, each within the vocabulary; at least one, at most the context's length.
    pub prompt: Arc<[Token]>,
    /// Tokens that the completion begins with, of an earlier answer. Each is evaluated as a generated token is, and none is
    /// told of. Prompt, these and `max_tokens` fit the context together.
    pub kept: Arc<[Token]>,
    /// The token that comes first behind them: given, not drawn, and told of like any other.
    pub given: Option<Token>,
    /// The adapters that apply to all of it, prompt and completion.
    pub adapters: Adapters,
    /// Tokens to generate at most; 0 scores only. Prompt and completion fit the context together.
    pub max_tokens: usize,
    /// What is told of every generated token.
    pub logprobs: Option<Tell>,
    /// What is told of the prompt's tokens, if they are to be scored.
    pub prompt_logprobs: Option<Tell>,
    /// The rows that are wanted whole; those of the prompt only if it is scored.
    pub rows: Rows,
    /// What is told of how each token was drawn.
    pub watch: Watch,
    pub sampling: SamplingParams,
    /// The text ends before the first of these.
    pub stop: Arc<[String]>,
    /// Whether the text ends behind the stop string instead, and a token of `sampling.stop_tokens` is given out.
    pub include_stop: bool,
    /// Whether the prompt may start from what other sequences have evaluated.
    pub cache_prompt: bool,
    /// Whether its bits must depend on nobody else, in throughput mode too.
    pub exact: bool,
    /// Whether its tokens are wanted as they come. Else all are told at the end, and nobody is woken for each of them.
    pub streamed: bool,
    /// Whether a final end-of-generation token is delivered as a token (with empty text) before the end.
    pub deliver_end_token: bool,
}

/// Rows of logits that are wanted whole, each by the token that it predicts: a place in prompt and completion, from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rows {
    #[default]
    None,
    /// All from this one on.
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
    /// The first token of the prompt whose row is wanted. Nothing predicts the very first.
    pub(super) fn first_prompt_row(&self) -> Option<usize> {
        let first = match &self.rows {
            Rows::None => None,
            Rows::From(first) => Some((*first).max(1)),
            Rows::These(positions) => positions.iter().copied().find(|&position| position > 0),
        };
        first.filter(|&position| position < self.prompt.len())
    }

    /// What the cells of its prompt depend on.
    pub(super) fn prefix_key(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }

    /// Whether it goes on from within an earlier answer.
    pub(super) fn is_fork(&self) -> bool {
        !self.kept.is_empty() || self.given.is_some()
    }
}

/// What a running sequence tells, in this order: one `Prompt`, any number of `Token`s, one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The prompt is evaluated.
    Prompt(PromptOutput),
    /// A token that no stop string can take back.
    Token(TokenOutput),
    Finished(FinishReason),
    Failed(super::EngineError),
}

/// The evaluated prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptOutput {
    /// Prompt tokens that came from the cache.
    pub cached_tokens: usize,
    /// With `prompt_logprobs`: an entry for each prompt token but the first, which nothing predicts. Else empty.
    pub logprobs: Vec<Arc<TokenLogprob>>,
    /// The rows that were wanted, each with its token's place.
    pub rows: Vec<(usize, Arc<[f32]>)>,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    pub token: Token,
    /// What this token adds to the completion's text: whole characters only, nothing from a stop string on.
    pub text: String,
    /// Characters (Unicode scalar values) of the completion that stand before this token.
    pub offset: usize,
    pub told: Told,
}

/// What is told of a generated token beside its text, each if the request asked for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    pub logprob: Option<Arc<TokenLogprob>>,
    pub observed: Option<Arc<Observed>>,
    /// The raw logits that it was drawn from.
    pub row: Option<Arc<[f32]>>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop string, a token that ends the generation, a finished grammar, or that no token is allowed.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
