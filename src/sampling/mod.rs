//! A row of logits and [`SamplingParams`] become a token. The arithmetic of each step is llama.cpp's own, in the order
//! of llama-cpp-python, so that a seed draws the very tokens that it draws there.

mod grammar;
mod params;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

pub use grammar::{Grammar, GrammarError};
pub use params::{Mirostat, SamplingParams};

use crate::model::{Model, Token};

/// Generated tokens that the penalties look back on: llama-cpp-python's `last_n_tokens_size`.
const PENALTY_WINDOW: i32 = 64;

/// The samplers of one sequence, with their state. It stays with the sequence on the worker's thread.
pub struct Sampler {
    /// Added to the logits of single tokens.
    bias: Vec<(Token, f32)>,
    /// Banned while fewer than `min_tokens` have been drawn.
    ends: Vec<Token>,
    min_tokens: usize,
    drawn: usize,
    penalties: Option<LlamaSampler>,
    grammar: Option<LlamaSampler>,
    /// What picks a token; `None` is greedy.
    selector: Option<LlamaSampler>,
    /// The vocabulary as llama.cpp's samplers want it, kept from token to token.
    candidates: LlamaTokenDataArray,
}

impl Sampler {
    pub fn new(model: &Model, params: &SamplingParams) -> Result<Self, GrammarError> {
        let vocab = model.vocab();
        let n_vocab = i32::try_from(vocab.len()).unwrap_or(i32::MAX);
        let penalises = params.repeat_penalty != 1.0
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0;
        Ok(Self {
            bias: params.logit_bias.clone(),
            ends: if params.min_tokens > 0 {
                vocab.ends().to_vec()
            } else {
                Vec::new()
            },
            min_tokens: params.min_tokens,
            drawn: 0,
            penalties: penalises.then(|| {
                LlamaSampler::penalties(
                    n_vocab,
                    PENALTY_WINDOW,
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            }),
            grammar: params
                .grammar
                .as_ref()
                .map(|grammar| grammar.sampler(model))
                .transpose()?,
            selector: selector(n_vocab, params),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
        })
    }

    /// Draws the next token. `None`: the grammar allows no token, not even an end.
    pub fn sample(&mut self, logits: &[f32]) -> Option<Token> {
        let bans_ends = self.drawn < self.min_tokens;
        let plain = self.bias.is_empty()
            && !bans_ends
            && self.penalties.is_none()
            && self.grammar.is_none();
        let token = match &mut self.selector {
            None if plain => first_largest(logits)?,
            selector => {
                let candidates = &mut self.candidates;
                candidates.data.clear();
                candidates.data.extend(
                    (0..)
                        .zip(logits)
                        .map(|(id, &logit)| LlamaTokenData::new(LlamaToken::new(id), logit, 0.0)),
                );
                candidates.sorted = false;
                candidates.selected = None;
                for &(token, bias) in &self.bias {
                    add(candidates, token, bias);
                }
                if bans_ends {
                    for &token in &self.ends {
                        add(candidates, token, f32::NEG_INFINITY);
                    }
                }
                if let Some(penalties) = &mut self.penalties {
                    candidates.apply_sampler(penalties);
                }
                if let Some(grammar) = &mut self.grammar {
                    candidates.apply_sampler(grammar);
                    // A grammar's sampler aborts the process when it is told of a token it does not allow.
                    if !candidates
                        .data
                        .iter()
                        .any(|candidate| candidate.logit() > f32::NEG_INFINITY)
                    {
                        return None;
                    }
                }
                match selector {
                    Some(selector) => {
                        candidates.apply_sampler(selector);
                        let chosen = candidates.selected_token()?;
                        if self.grammar.is_some() && !allowed(candidates, chosen) {
                            return None;
                        }
                        Token(chosen.0)
                    }
                    None => {
                        // The first of the largest, as llama.cpp's greedy sampler picks it.
                        let mut best = candidates.data.first()?;
                        for candidate in &candidates.data {
                            if candidate.logit() > best.logit() {
                                best = candidate;
                            }
                        }
                        Token(best.id().0)
                    }
                }
            }
        };
        self.drawn += 1;
        let accepted = LlamaToken::new(token.0);
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(accepted);
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(accepted);
        }
        if let Some(selector) = &mut self.selector {
            selector.accept(accepted);
        }
        Some(token)
    }
}

/// The steps that end in a draw, or `None` for greedy.
fn selector(n_vocab: i32, params: &SamplingParams) -> Option<LlamaSampler> {
    /// What llama-cpp-python gives mirostat 1 for its estimate, as the paper does.
    const MIROSTAT_M: i32 = 100;
    /// Below it the likeliest token is certain, and dividing by it overflows.
    const COLDEST: f32 = 1e-6;
    if params.temperature < COLDEST {
        return None;
    }
    let no_perf = true;
    let steps = match params.mirostat {
        Mirostat::V1 { tau, eta } => {
            vec![LlamaSampler::mirostat(
                n_vocab,
                params.seed,
                tau,
                eta,
                MIROSTAT_M,
            )]
        }
        Mirostat::V2 { tau, eta } => vec![LlamaSampler::mirostat_v2(params.seed, tau, eta)],
        Mirostat::Off => vec![
            LlamaSampler::top_k(params.top_k),
            LlamaSampler::typical(params.typical_p, 1),
            LlamaSampler::top_p(params.top_p, 1),
            LlamaSampler::min_p(params.min_p, 1),
            LlamaSampler::temp(params.temperature),
            LlamaSampler::dist(params.seed),
        ],
    };
    Some(LlamaSampler::chain(steps, no_perf))
}

/// Before any sampler has cut or sorted the candidates, each stands at its own id.
fn add(candidates: &mut LlamaTokenDataArray, token: Token, bias: f32) {
    if let Some(candidate) = candidates.data.get_mut(token.index()) {
        *candidate = LlamaTokenData::new(candidate.id(), candidate.logit() + bias, 0.0);
    }
}

fn allowed(candidates: &LlamaTokenDataArray, token: LlamaToken) -> bool {
    candidates
        .data
        .iter()
        .any(|candidate| candidate.id() == token && candidate.logit() > f32::NEG_INFINITY)
}

fn first_largest(logits: &[f32]) -> Option<Token> {
    let mut best = (0, *logits.first()?);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    Some(Token(best.0))
}
