//! How a token was sampled.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::TokenOutput;
use crate::model::Vocab;
use crate::sampling::{Draw, TracedStage};

/// What the samplers did for a generated token.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenTrace {
    pub id: i32,
    /// Its text, without incomplete UTF-8.
    pub token: String,
    /// In the order in which they were applied, without those that are off.
    pub stages: Vec<StageTrace>,
    /// The random draw from the candidates of the last stage; null for a greedy choice, a token given by `fork`, and
    /// mirostat, which draws itself.
    pub draw: Option<DrawTrace>,
}

/// What one stage did.
#[derive(Debug, Serialize, ToSchema)]
pub struct StageTrace {
    /// bias (also bans), constraint (also allowed tokens), greedy, mirostat, or a sampler's name.
    pub stage: &'static str,
    pub candidates_in: usize,
    pub candidates_out: usize,
    /// The probability, before the stage, of the candidates that it removed.
    pub cut_mass: f32,
    /// The most likely tokens before the stage, those after it, and the token that was drawn, sorted by likelihood before.
    pub tokens: Vec<Traced>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Traced {
    pub id: i32,
    /// Its text, without incomplete UTF-8.
    pub token: String,
    /// Its probability before the stage; 0 if an earlier stage removed it.
    pub before: f32,
    /// Its probability after the stage; 0 if it was removed.
    pub after: f32,
}

/// The draw: the candidates' probabilities, in the order of the last stage, are added up until the sum reaches the random
/// number.
#[derive(Debug, Serialize, ToSchema)]
pub struct DrawTrace {
    /// Uniform in [0, 1).
    pub random: f64,
    /// The sum before the token that was drawn.
    pub low: f64,
    /// The sum including it.
    pub high: f64,
}

impl TokenTrace {
    /// `None` if the token was not traced.
    pub fn of(output: &TokenOutput, vocab: &Vocab) -> Option<Self> {
        let trace = output.details.observed.as_ref()?.trace.as_ref()?;
        Some(Self {
            id: output.token.0,
            token: vocab.text(output.token).to_owned(),
            stages: trace
                .stages
                .iter()
                .map(|stage| StageTrace::of(stage, vocab))
                .collect(),
            draw: trace
                .draw
                .map(|Draw { random, low, high }| DrawTrace { random, low, high }),
        })
    }
}

impl StageTrace {
    fn of(stage: &TracedStage, vocab: &Vocab) -> Self {
        let tokens = stage.tokens.iter().map(|traced| Traced {
            id: traced.token.0,
            token: vocab.text(traced.token).to_owned(),
            before: traced.before,
            after: traced.after,
        });
        Self {
            stage: stage.name,
            candidates_in: stage.candidates_in,
            candidates_out: stage.candidates_out,
            cut_mass: stage.cut_mass,
            tokens: tokens.collect(),
        }
    }
}
