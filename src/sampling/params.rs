//! The sampling parameters of a request.

use std::sync::Arc;

use super::breakers::Breakers;
use super::constraint::Constraint;
use super::sampler_name::SamplerName;
use crate::model::Token;
use crate::params::ParamValues;

/// How tokens are drawn. The steps come in llama-cpp-python's order, with llama.cpp's newer samplers where llama-server
/// has them: bias and bans, penalties, DRY, constraint, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature,
/// draw; [`SamplingParams::samplers`] may reorder them. A temperature of 0 is greedy after the constraint, unless XTC or
/// a dynamic temperature is on; mirostat replaces everything after the constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub values: ParamValues,
    /// Repetitions do not extend across these; see [`ParamValues::dry_multiplier`].
    pub dry_breakers: Breakers,
    /// The samplers in the order in which they are applied; those not named are not applied.
    pub samplers: Vec<SamplerName>,
    /// Whether the tokens that end a generation are banned.
    pub ignore_eos: bool,
    /// Tokens that end the generation as the model's own end does; `min_tokens` bans them, `ignore_eos` does not.
    pub stop_tokens: Vec<Token>,
    /// All others are banned. Ascending; each id is within the vocabulary.
    pub allowed_tokens: Option<Arc<[Token]>>,
    /// Sequences of tokens that are not generated, each of at least one token, as from [`super::bad_word`].
    pub bad_words: Arc<[Vec<Token>]>,
    /// Added to the logits of these tokens. Each id is within the vocabulary.
    pub logit_bias: Vec<(Token, f32)>,
    /// What the text must follow.
    pub constraint: Option<Constraint>,
    /// State of the random numbers, those of XTC too. The same seed draws the same tokens as in llama-cpp-python.
    pub seed: u32,
}

impl From<ParamValues> for SamplingParams {
    fn from(values: ParamValues) -> Self {
        Self {
            values,
            dry_breakers: Breakers::default(),
            samplers: SamplerName::all().collect(),
            ignore_eos: false,
            stop_tokens: Vec::new(),
            allowed_tokens: None,
            bad_words: Arc::new([]),
            logit_bias: Vec::new(),
            constraint: None,
            seed: 0,
        }
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        ParamValues::default().into()
    }
}

impl SamplingParams {
    /// Whether DRY changes anything: only then are its breakers worth preparing. Below a base of 1 it is off, as in
    /// llama.cpp.
    pub fn uses_dry(&self) -> bool {
        let values = &self.values;
        values.dry_multiplier != 0.0 && values.dry_base >= 1.0 && values.dry_penalty_last_n != 0
    }

    /// Whether mirostat replaces the samplers after the constraint.
    pub fn uses_mirostat(&self) -> bool {
        self.values.mirostat_mode != 0
    }
}
