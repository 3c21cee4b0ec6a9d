//! The answer of `POST /v1/score`.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::answer::{Head, Usage};
use crate::api::gathered::finite;
use crate::logprobs::TokenLogprob;
use crate::model::Vocab;

/// The sequence with a choice, and how many of its last tokens are the choice's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub sequence: usize,
    pub tokens: usize,
}

/// An item whose sequences are known.
pub struct Planned {
    pub stem_tokens: usize,
    pub choices: Vec<PlannedChoice>,
}

pub struct PlannedChoice {
    pub text: String,
    pub bytes: usize,
    pub place: Place,
    /// After the neutral stem.
    pub unconditional: Option<Place>,
}

impl Planned {
    /// The answer from the scores of each sequence, which end with those of a choice.
    pub fn answer(
        self,
        index: usize,
        scored: &[Vec<Arc<TokenLogprob>>],
        vocab: &Vocab,
    ) -> ScoredItem {
        let of = |place: Place| {
            let scores = &scored[place.sequence];
            &scores[scores.len().saturating_sub(place.tokens)..]
        };
        let sums: Vec<f64> = self.choices.iter().map(|it| sum(of(it.place))).collect();
        let probabilities = softmax(&sums);
        let choices: Vec<ScoredChoice> = (0..)
            .zip(self.choices)
            .map(|(number, choice)| {
                let (scores, sum_of) = (of(choice.place), sums[number]);
                let unconditional = choice.unconditional.map(|place| sum(of(place)));
                let per = |parts: usize| (parts > 0).then(|| (sum_of / parts as f64) as f32);
                ScoredChoice {
                    index: number,
                    tokens: scores
                        .iter()
                        .map(|it| vocab.text(it.token).to_owned())
                        .collect(),
                    token_ids: scores.iter().map(|score| score.token.0).collect(),
                    token_logprobs: scores.iter().map(|score| finite(score.logprob)).collect(),
                    sum: sum_of as f32,
                    mean: (sum_of / scores.len() as f64) as f32,
                    per_byte: per(choice.bytes),
                    per_character: per(choice.text.chars().count()),
                    unconditional_sum: unconditional.map(|sum| sum as f32),
                    corrected: unconditional.map(|sum| (sum_of - sum) as f32),
                    is_greedy: scores.iter().all(|score| is_likeliest(score)),
                    probability: probabilities[number] as f32,
                    text: choice.text,
                }
            })
            .collect();
        ScoredItem {
            index,
            stem_tokens: self.stem_tokens,
            best: Best::of(&choices),
            choices,
        }
    }
}

/// The sum in nats, of logprobs as JSON has them.
fn sum(scores: &[Arc<TokenLogprob>]) -> f64 {
    let logprobs = scores.iter().map(|score| finite(score.logprob));
    logprobs.map(f64::from).sum()
}

/// Whether temperature 0 would choose this token.
fn is_likeliest(score: &TokenLogprob) -> bool {
    score
        .top
        .first()
        .is_some_and(|(token, _)| *token == score.token)
}

fn softmax(sums: &[f64]) -> Vec<f64> {
    let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = sums.iter().map(|sum| (sum - most).exp()).collect();
    let all: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / all).collect()
}

/// The scores of the choices, item by item.
#[derive(Debug, Serialize, ToSchema)]
pub struct Scores {
    #[serde(flatten)]
    pub head: Head,
    pub data: Vec<ScoredItem>,
    pub usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ScoredItem {
    /// The item's index in `items`.
    index: usize,
    /// Tokens of the stem alone.
    stem_tokens: usize,
    choices: Vec<ScoredChoice>,
    best: Best,
}

/// A choice with its scores. Logprobs are in nats.
#[derive(Debug, Serialize, ToSchema)]
struct ScoredChoice {
    /// Its index in `choices`.
    index: usize,
    /// The choice as it was sent; for token ids their text.
    text: String,
    /// The text of each scored token, without incomplete UTF-8.
    tokens: Vec<String>,
    token_ids: Vec<i32>,
    /// Log-softmax of the raw logits over the whole vocabulary.
    token_logprobs: Vec<f32>,
    /// The sum of the logprobs: the logarithm of the choice's probability after the stem.
    sum: f32,
    /// The sum divided by the number of scored tokens.
    mean: f32,
    /// The sum divided by the choice's length in UTF-8 bytes; null if it has no text.
    per_byte: Option<f32>,
    /// The sum divided by the choice's length in characters (Unicode scalar values); null if it has no text.
    per_character: Option<f32>,
    /// With `neutral`: the sum after the neutral stem.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconditional_sum: Option<f32>,
    /// With `neutral`: `sum` minus `unconditional_sum`, how much more likely the stem makes the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<f32>,
    /// Whether each token is the most likely at its position.
    is_greedy: bool,
    /// The softmax of the sums over the item's choices.
    probability: f32,
}

/// The index of the best choice by each measure; among equals the first.
#[derive(Debug, Serialize, ToSchema)]
struct Best {
    /// As in `acc` of lm-evaluation-harness.
    sum: usize,
    mean: usize,
    /// As in its `acc_bytes`.
    per_byte: usize,
    /// As in its `acc_norm`.
    per_character: usize,
    /// With `neutral`: as in its `acc_mutual_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<usize>,
}

impl Best {
    fn of(choices: &[ScoredChoice]) -> Self {
        let best = |value: fn(&ScoredChoice) -> Option<f32>| {
            let values = choices
                .iter()
                .map(|it| value(it).unwrap_or(f32::NEG_INFINITY));
            let mut best = (0, f32::NEG_INFINITY);
            for (place, value) in values.enumerate() {
                if value > best.1 {
                    best = (place, value);
                }
            }
            best.0
        };
        let corrects = choices.iter().any(|choice| choice.corrected.is_some());
        Self {
            sum: best(|choice| Some(choice.sum)),
            mean: best(|choice| Some(choice.mean)),
            per_byte: best(|choice| choice.per_byte),
            per_character: best(|choice| choice.per_character),
            corrected: corrects.then(|| best(|choice| choice.corrected)),
        }
    }
}
