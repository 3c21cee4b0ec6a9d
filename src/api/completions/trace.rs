//! How a token was drawn, as it is written.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::TokenOutput;
use crate::model::Vocab;
use crate::sampling::{Draw, TracedStage};

/// A generated token's way through the samplers.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenTrace {
    pub id: i32,
    /// Its text, broken bytes left out.
    pub token: String,
    /// In the order in which they were applied; those that are off are left out.
    pub stages: Vec<StageTrace>,
    /// The random draw from what the last stage left; null of a greedy choice, of a token that `fork`
    /// gives, and of mirostat, which draws by itself.
    pub draw: Option<DrawTrace>,
}

/// What one stage did.
#[derive(Debug, Serialize, ToSchema)]
pub struct StageTrace {
    /// bias (bans, too), constraint (allowed tokens, too), greedy, mirostat, or a sampler's name.
    pub stage: &'static str,
    pub candidates_in: usize,
    pub candidates_out: usize,
    /// The probability before the stage of all that it cut.
    pub cut_mass: f32,
    /// The likeliest before it, the likeliest after it, and the token that was drawn; likeliest before it first.
    pub tokens: Vec<Traced>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Traced {
    pub id: i32,
    /// Its text, broken bytes left out.
    pub token: String,
    /// Its probability before the stage; 0 if it was cut before.
    pub before: f32,
    /// And after it; 0 if it was cut.
    pub after: f32,
}

/// The candidates' probabilities are added up, in the order that the last stage left them in, until the sum reaches the
/// random number.
#[derive(Debug, Serialize, ToSchema)]
pub struct DrawTrace {
    /// Evenly distributed in [0, 1).
    pub random: f64,
    /// The sum before the token that was drawn.
    pub low: f64,
    /// The sum with it.
    pub high: f64,
}

impl TokenTrace {
    /// `None` if the token was not watched.
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
