//! What a request asks of the sampler.

use crate::model::Token;

/// How tokens are drawn. The order of the steps is llama-cpp-python's: bias, penalties, constraint, top-k, typical,
/// top-p, min-p, temperature, draw; a temperature of 0 is greedy after the constraint; mirostat stands for all that
/// follows the constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits before the draw. 0: the likeliest token is taken.
    pub temperature: f32,
    /// Candidates kept, likeliest first. 0 or less: all.
    pub top_k: i32,
    /// Probability mass kept, likeliest first, in (0, 1]; 1: all.
    pub top_p: f32,
    /// Smallest probability kept, relative to the likeliest token's, in [0, 1]; 0: all.
    pub min_p: f32,
    /// Locally typical mass kept, in (0, 1]; 1: all.
    pub typical_p: f32,
    /// Divides (positive) or multiplies (negative) the logits of the last 64 generated tokens; 1: no effect.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit for each time it stands among the last 64 generated tokens.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token among the last 64 generated tokens.
    pub presence_penalty: f32,
    pub mirostat: Mirostat,
    /// No token ends the generation before there are this many.
    pub min_tokens: usize,
    /// Added to the logits of these tokens. Each id lies within the vocabulary.
    pub logit_bias: Vec<(Token, f32)>,
    /// What the text must follow.
    pub constraint: Option<super::Constraint>,
    /// State of the random numbers. The same seed draws the same tokens as llama-cpp-python does.
    pub seed: u32,
}

/// The defaults of llama-cpp-python's `create_completion`.
impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            mirostat: Mirostat::Off,
            min_tokens: 0,
            logit_bias: Vec::new(),
            constraint: None,
            seed: 0,
        }
    }
}

/// Mirostat (<https://arxiv.org/abs/2007.14966>) aims at a surprise of `tau`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mirostat {
    Off,
    V1 { tau: f32, eta: f32 },
    V2 { tau: f32, eta: f32 },
}
