//! What a request asks of the sampler.

use std::sync::Arc;

use super::dry::Breakers;
use super::stages::SamplerName;
use crate::model::Token;

/// How tokens are drawn. The order of the steps is llama-cpp-python's, with llama.cpp's newer samplers where
/// llama-server has them: bias and bans, penalties, DRY, constraint, top-n-sigma, top-k, typical, top-p, min-p, XTC,
/// temperature, draw; [`SamplingParams::samplers`] may give another. A temperature of 0 is greedy after the constraint,
/// unless XTC or a dynamic temperature is asked for; mirostat stands for all that follows the constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits before the draw. 0: the likeliest token is taken.
    pub temperature: f32,
    /// The temperature moves by so much up and down with how uncertain the model is: `temperature - dynatemp_range`
    /// for a certain token, `temperature + dynatemp_range` for an even distribution; never below 0. 0: it does not
    /// move. <https://arxiv.org/abs/2309.02772>, llama.cpp's `temp_ext`.
    pub dynatemp_range: f32,
    /// The power to which the entropy, divided by its greatest, is raised to tell where in that range the temperature is.
    pub dynatemp_exponent: f32,
    /// Candidates kept, likeliest first. 0 or less: all.
    pub top_k: i32,
    /// Probability mass kept, likeliest first, in (0, 1]; 1: all.
    pub top_p: f32,
    /// Smallest probability kept, relative to the likeliest token's, in [0, 1]; 0: all.
    pub min_p: f32,
    /// Locally typical mass kept, in (0, 1]; 1: all.
    pub typical_p: f32,
    /// Kept is what lies within so many standard deviations of the largest logit. 0 or less: all.
    /// <https://arxiv.org/abs/2411.07641>.
    pub top_n_sigma: f32,
    /// XTC: how probable it is, for each token, that the likeliest candidates are left out, in [0, 1]; 0: never.
    /// <https://github.com/oobabooga/text-generation-webui/pull/6335>.
    pub xtc_probability: f32,
    /// XTC: left out are those of at least this probability, but for the least likely of them. Above 0.5: none.
    pub xtc_threshold: f32,
    /// Divides (positive) or multiplies (negative) the logits of the last 64 generated tokens; 1: no effect.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit for each time it stands among the last 64 generated tokens.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token among the last 64 generated tokens.
    pub presence_penalty: f32,
    /// DRY: a token that would go on with a repetition of n tokens loses
    /// `dry_multiplier * dry_base ^ (n - dry_allowed_length)`; 0: no effect.
    /// <https://github.com/oobabooga/text-generation-webui/pull/5677>.
    pub dry_multiplier: f32,
    /// DRY: how fast the penalty grows, 1 or more. Below 1 DRY is off, as in llama.cpp.
    pub dry_base: f32,
    /// DRY: repetitions of fewer tokens are free.
    pub dry_allowed_length: usize,
    /// DRY: tokens of prompt and completion, the last ones, in which repetitions are looked for. `None`: all of them;
    /// 0: DRY is off.
    pub dry_penalty_last_n: Option<usize>,
    /// DRY: what no repetition reaches across.
    pub dry_breakers: Breakers,
    pub mirostat: Mirostat,
    /// The samplers in the order in which they are applied; those that are not named are not applied.
    pub samplers: Vec<SamplerName>,
    /// No token ends the generation before there are this many.
    pub min_tokens: usize,
    /// Whether the tokens that end a generation are banned.
    pub ignore_eos: bool,
    /// Tokens that end the generation as its own end does; `min_tokens` bans them, `ignore_eos` does not.
    pub stop_tokens: Vec<Token>,
    /// All others are banned. Ascending; each id lies within the vocabulary.
    pub allowed_tokens: Option<Arc<[Token]>>,
    /// Sequences of tokens that are not generated, each with one token at least, as from [`super::bad_word`].
    pub bad_words: Arc<[Vec<Token>]>,
    /// Added to the logits of these tokens. Each id lies within the vocabulary.
    pub logit_bias: Vec<(Token, f32)>,
    /// What the text must follow.
    pub constraint: Option<super::Constraint>,
    /// State of the random numbers, those of XTC too. The same seed draws the same tokens as llama-cpp-python does.
    pub seed: u32,
}

/// The defaults of llama-cpp-python's `create_completion`; of what it lacks, those of llama-server.
impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: None,
            dry_breakers: Breakers::default(),
            mirostat: Mirostat::Off,
            samplers: SamplerName::all().collect(),
            min_tokens: 0,
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

impl SamplingParams {
    /// Whether DRY changes anything: only then are its breakers worth preparing.
    pub fn uses_dry(&self) -> bool {
        self.dry_multiplier != 0.0 && self.dry_base >= 1.0 && self.dry_penalty_last_n != Some(0)
    }
}

/// Mirostat (<https://arxiv.org/abs/2007.14966>) aims at a surprise of `tau`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mirostat {
    Off,
    V1 { tau: f32, eta: f32 },
    V2 { tau: f32, eta: f32 },
}
