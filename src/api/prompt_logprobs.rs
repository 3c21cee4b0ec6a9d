//! The log-probabilities of a prompt's tokens in vLLM's form, in the answers of both routes that generate.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::gathered::finite;
use crate::engine::{ModelInUse, PromptOutput};
use crate::logprobs::TokenLogprob;
use crate::model::{Token, Vocab};

/// For each token of a prompt, in order: null if it is not scored, or an object that maps ids to [`PromptLogprob`]s, first
/// that of the token itself, then those of the most likely ones.
pub struct PromptLogprobs {
    model: ModelInUse,
    /// How many of the most likely tokens each object has.
    top: usize,
    /// Tokens before the first that is scored.
    unscored: usize,
    scores: Vec<Arc<TokenLogprob>>,
}

/// A token of the distribution at a position.
#[derive(Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Log-softmax of the raw logits, in nats.
    logprob: f32,
    /// The token's rank by likelihood, from 1.
    rank: Option<usize>,
    /// Its text, or the name of a control token.
    decoded_token: String,
}

impl PromptLogprobs {
    /// Of a prompt with this many tokens.
    pub fn new(model: &ModelInUse, top: usize, tokens: usize, output: &PromptOutput) -> Self {
        Self {
            model: model.clone(),
            top,
            unscored: tokens.saturating_sub(output.logprobs.len()),
            scores: output.logprobs.clone(),
        }
    }

    /// The objects' entries: the token's own, and the most likely ones that are other tokens.
    fn entries(&self, score: &TokenLogprob) -> Vec<(Token, PromptLogprob)> {
        let entry = |token, logprob, rank| {
            let decoded_token = shown(token, self.model.vocab()).into_owned();
            let logprob = finite(logprob);
            let entry = PromptLogprob {
                logprob,
                rank,
                decoded_token,
            };
            (token, entry)
        };
        let rank = score.detail.map(|detail| detail.rank);
        let top = score.top.iter().take(self.top).zip(1..);
        let others = top.filter(|((token, _), _)| *token != score.token);
        let others = others.map(|(&(token, logprob), rank)| entry(token, logprob, Some(rank)));
        std::iter::once(entry(score.token, score.logprob, rank))
            .chain(others)
            .collect()
    }
}

impl std::fmt::Debug for PromptLogprobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PromptLogprobs").field(&self.scores).finish()
    }
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unscored = (0..self.unscored).map(|_| None);
        let scored = self
            .scores
            .iter()
            .map(|score| Some(Entries(self.entries(score))));
        serializer.collect_seq(unscored.chain(scored))
    }
}

/// An object with its keys in this order: clients take the first to be the prompt's token.
struct Entries(Vec<(Token, PromptLogprob)>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, entry)| (token.0, entry)))
    }
}

/// A token's text without incomplete UTF-8, or the name of a control token.
pub fn shown(token: Token, vocab: &Vocab) -> Cow<'_, str> {
    if vocab.is_control(token) {
        String::from_utf8_lossy(vocab.literal(token))
    } else {
        vocab.text(token).into()
    }
}
