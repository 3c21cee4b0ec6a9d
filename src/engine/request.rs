//! What goes into the engine and what comes out of it.

use std::sync::Arc;

use super::plan::Stem;
use crate::logprobs::TokenLogprob;
use crate::model::{Adapters, Token};
use crate::sampling::SamplingParams;

/// One sequence to score and to continue. A request of `n` choices is `n` of these with one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids, each within the vocabulary; at least one, at most the context's length.
    pub prompt: Arc<[Token]>,
    /// The adapters that apply to all of it, prompt and completion.
    pub adapters: Adapters,
    /// Tokens to generate at most; 0 scores only. Prompt and completion fit the context together.
    pub max_tokens: usize,
    /// `Some(k)`: every generated token carries its logprob and those of the `k` likeliest tokens.
    pub logprobs: Option<usize>,
    /// `Some(k)`: the prompt's tokens come back scored, with the `k` likeliest alternatives of each.
    pub prompt_logprobs: Option<usize>,
    pub sampling: SamplingParams,
    /// The text ends before the first of these.
    pub stop: Arc<[String]>,
    /// Whether the text ends behind the stop string instead, and a token of `sampling.stop_tokens` is given out.
    pub include_stop: bool,
    /// Whether the prompt may start from what other sequences have evaluated.
    pub cache_prompt: bool,
    /// Whether its tokens are wanted as they come. Else all are told at the end, and nobody is woken for each of them.
    pub streamed: bool,
    /// Whether a final end-of-generation token is delivered as a token (with empty text) before the end.
    pub deliver_end_token: bool,
}

impl Request {
    /// What the cells of its prompt depend on.
    pub(super) fn stem(&self) -> Stem<'_> {
        Stem {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
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
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    pub token: Token,
    /// What this token adds to the completion's text: whole characters only, nothing from a stop string on.
    pub text: String,
    /// Characters (Unicode scalar values) of the completion that stand before this token.
    pub offset: usize,
    /// Present when the request asked for `logprobs`.
    pub logprob: Option<Arc<TokenLogprob>>,
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
