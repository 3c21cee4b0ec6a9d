//! A row of logits and a token become a [`TokenLogprob`]: the arithmetic this project exists for.

use crate::model::Token;

/// The log-probability of a token and of the likeliest tokens at its place: log-softmax (natural logarithm) of the
/// raw logits over the whole vocabulary, before bias, penalties, grammar and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: Token,
    /// Nats, at most 0.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first; of equals the larger id first.
    pub top: Vec<(Token, f32)>,
}
