//! The answer of `POST /v1/perplexity`.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::answer::{Head, Usage};
use crate::api::gathered::finite;
use crate::logprobs::TokenLogprob;
use crate::model::Vocab;

/// A text that is cut into windows.
pub struct Text {
    pub tokens: usize,
    /// Tokens of each window.
    pub windows: Vec<usize>,
}

/// Sums over the scored tokens of a text.
#[derive(Debug, Default)]
pub struct Sums {
    scored: usize,
    bytes: usize,
    /// Of logprobs, in nats.
    sum: f64,
    squares: f64,
}

impl Sums {
    pub fn add(&mut self, scores: &[Arc<TokenLogprob>], vocab: &Vocab) {
        for score in scores {
            let logprob = f64::from(finite(score.logprob));
            self.scored += 1;
            self.bytes += vocab.literal(score.token).len();
            self.sum += logprob;
            self.squares += logprob * logprob;
        }
    }

    pub fn answer(&self, index: usize, text: &Text) -> Perplexity {
        let number = self.scored as f64;
        let mean = self.sum / number;
        // JSON has no infinity.
        let perplexity = (-mean).exp().min(f64::MAX);
        let variance = (self.squares / number - mean * mean).max(0.0);
        Perplexity {
            index,
            tokens: text.tokens,
            windows: text.windows.len(),
            scored: self.scored,
            bytes: self.bytes,
            sum: self.sum,
            mean,
            perplexity,
            standard_error: (self.scored > 1)
                .then(|| ((variance / (number - 1.0)).sqrt() * perplexity).min(f64::MAX)),
            bits_per_byte: (self.bytes > 0)
                .then(|| -self.sum / std::f64::consts::LN_2 / self.bytes as f64),
        }
    }
}

/// The perplexities of the texts, in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Perplexities {
    #[serde(flatten)]
    pub head: Head,
    pub data: Vec<Perplexity>,
    pub usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Perplexity {
    /// The text's index in `text`.
    index: usize,
    /// Tokens of the text, with special tokens.
    tokens: usize,
    /// Number of windows.
    windows: usize,
    /// Number of scored tokens.
    scored: usize,
    /// Bytes of the scored tokens' text, with the names of control tokens.
    bytes: usize,
    /// Sum of the scored tokens' logprobs, in nats: log-softmax of the raw logits over the whole vocabulary.
    sum: f64,
    /// The sum divided by the number of scored tokens.
    mean: f64,
    /// exp(-mean).
    perplexity: f64,
    /// Standard error of the perplexity, from the variance of the logprobs, as llama-perplexity shows it after `+/-`; null
    /// for one token.
    standard_error: Option<f64>,
    /// The negative sum, in bits, divided by `bytes`; null without bytes.
    bits_per_byte: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_become_a_perplexity() {
        let sums = Sums {
            scored: 4,
            bytes: 8,
            sum: -4.0,
            squares: 6.0,
        };
        let text = Text {
            tokens: 5,
            windows: vec![5],
        };
        let answer = sums.answer(0, &text);
        assert_eq!(answer.perplexity, 1.0_f64.exp());
        let spread = (0.5_f64 / 3.0).sqrt();
        assert!((answer.standard_error.expect("one") - spread * 1.0_f64.exp()).abs() < 1e-12);
        let bits = answer.bits_per_byte.expect("bytes");
        assert!((bits - 0.5 / std::f64::consts::LN_2).abs() < 1e-12);
    }
}
