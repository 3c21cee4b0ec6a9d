//! A row of logits and [`SamplingParams`] become a token. The arithmetic of each step is llama.cpp's own, in the order
//! of llama-cpp-python, so that a seed draws the very tokens that it draws there. Grammars are followed here: llama.cpp
//! keeps every way to read a text, which can double with each character, and ends the process on some. JSON schemas,
//! regular expressions and Lark grammars are llguidance's.

mod constraint;
mod gbnf;
mod grammar;
mod guidance;
mod params;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

pub use constraint::{Constraint, ConstraintError, Follow, Follower, Rules, Stuck};
pub use grammar::{GrammarError, TooAmbiguous};
pub use params::{Mirostat, SamplingParams};

use std::collections::VecDeque;

use crate::logprobs::Likeliest;
use crate::model::{Model, Token};

/// Generated tokens that the penalties look back on: llama-cpp-python's `last_n_tokens_size`.
const PENALTY_WINDOW: u8 = 64;
/// Beyond this many candidates, finding them costs as much as looking at the whole vocabulary.
const FEW: usize = 512;

/// The samplers of one sequence, with their state. It stays with the sequence on the worker's thread.
pub struct Sampler {
    /// Added to the logits of single tokens.
    bias: Vec<(Token, f32)>,
    /// Banned while fewer than `min_tokens` have been drawn.
    ends: Vec<Token>,
    min_tokens: usize,
    drawn: usize,
    penalties: Option<LlamaSampler>,
    /// The generated tokens that the penalties look back on.
    recent: VecDeque<Token>,
    constraint: Option<Follower>,
    /// What picks a token; `None` is greedy.
    selector: Option<LlamaSampler>,
    /// Candidates that the first cut leaves, whatever the others are; `None`: the whole vocabulary must be looked at.
    keeps: Option<usize>,
    /// The candidates as llama.cpp's samplers want them; kept from token to token, as is the list below.
    candidates: LlamaTokenDataArray,
    /// Tokens whose logits are about to be changed.
    touched: Vec<Token>,
}

impl Sampler {
    pub fn new(model: &Model, params: &SamplingParams) -> Self {
        let vocab = model.vocab();
        Self::over(vocab.len(), vocab.ends(), params)
    }

    /// Without a model: `ends` are the tokens that end a generation.
    pub fn over(vocabulary: usize, ends: &[Token], params: &SamplingParams) -> Self {
        let n_vocab = i32::try_from(vocabulary).unwrap_or(i32::MAX);
        let penalises = params.repeat_penalty != 1.0
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0;
        let selector = selector(n_vocab, params);
        let keeps = match (&selector, params.mirostat) {
            _ if params.constraint.is_some() => None,
            (None, _) => Some(1),
            (Some(_), Mirostat::Off) => usize::try_from(params.top_k).ok().filter(|&k| k > 0),
            _ => None,
        };
        Self {
            bias: params.logit_bias.clone(),
            ends: if params.min_tokens > 0 {
                ends.to_vec()
            } else {
                Vec::new()
            },
            min_tokens: params.min_tokens,
            drawn: 0,
            penalties: penalises.then(|| {
                LlamaSampler::penalties(
                    n_vocab,
                    i32::from(PENALTY_WINDOW),
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            }),
            recent: VecDeque::new(),
            constraint: params.constraint.as_ref().map(Follower::new),
            selector,
            keeps,
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            touched: Vec::new(),
        }
    }

    /// How many of the likeliest tokens [`Sampler::sample`] wants to be told; it does not look at the rest of the row
    /// then. 0: it looks at the row only.
    pub fn wants(&self) -> usize {
        let touched = self.bias.len()
            + self.recent.len()
            + if self.bans_ends() { self.ends.len() } else { 0 };
        self.keeps
            // One more than are kept: whether an equal follows decides whether the cut is clear.
            .map(|keeps| keeps.saturating_add(touched + 1))
            .filter(|&count| count <= FEW)
            .unwrap_or(0)
    }

    /// Lends out what knows the tokens that the constraint allows, so that another thread finds them. Until it is given
    /// back, nothing can be drawn. `None`: every token is allowed.
    pub fn lend(&mut self) -> Option<Follower> {
        self.constraint.as_mut().map(Follower::take)
    }

    /// Takes back what was lent.
    pub fn give_back(&mut self, follower: Follower) {
        self.constraint = Some(follower);
    }

    /// Draws the next token, given a row of logits and its [`Sampler::wants`] likeliest tokens. `None`: the constraint
    /// allows no token, not even an end.
    pub fn sample(
        &mut self,
        logits: &[f32],
        likeliest: &Likeliest,
    ) -> Result<Option<Token>, Stuck> {
        if !self.gather_few(logits, likeliest) {
            self.gather_all(logits);
            self.change();
            if let Some(constraint) = &mut self.constraint {
                let candidates = self.candidates.data.iter_mut();
                for (candidate, &allowed) in candidates.zip(constraint.allowed()?) {
                    if !allowed {
                        candidate.set_logit(f32::NEG_INFINITY);
                    }
                }
            }
        }
        let Some(token) = self.pick() else {
            return Ok(None);
        };
        self.accept(token);
        Ok(Some(token))
    }

    fn bans_ends(&self) -> bool {
        self.drawn < self.min_tokens
    }

    /// Makes candidates of the whole row, each at its own id.
    fn gather_all(&mut self, logits: &[f32]) {
        let candidates = &mut self.candidates;
        candidates.data.clear();
        candidates.data.extend(
            (0..)
                .zip(logits)
                .map(|(id, &logit)| LlamaTokenData::new(LlamaToken::new(id), logit, 0.0)),
        );
        candidates.sorted = false;
        candidates.selected = None;
    }

    /// Makes candidates of those that the first cut leaves, changed and sorted as llama.cpp would have them from the
    /// whole row. `false`: that cannot be told from the likeliest alone.
    ///
    /// Of the likeliest, at least one more than are kept have logits that nothing changes. So whatever stands outside
    /// the likeliest and is not changed either is no more than the last of them; if the last that is kept is more than
    /// that, none from outside belongs to those kept. Among equals llama.cpp's order depends on its sort: then, too,
    /// the whole row is looked at.
    fn gather_few(&mut self, logits: &[f32], likeliest: &Likeliest) -> bool {
        let (wants, bans_ends) = (self.wants(), self.bans_ends());
        let (Some(keeps), Some(&(outside, _))) = (self.keeps, likeliest.as_slice().last()) else {
            return false;
        };
        let found = likeliest.as_slice();
        if wants == 0 || found.len() < wants.min(logits.len()) {
            return false;
        }
        let data = &mut self.candidates.data;
        data.clear();
        data.extend(
            found
                .iter()
                .map(|&(logit, token)| LlamaTokenData::new(LlamaToken::new(token.0), logit, 0.0)),
        );
        self.touched.clear();
        self.touched
            .extend(self.bias.iter().map(|&(token, _)| token));
        self.touched.extend(&self.recent);
        if bans_ends {
            self.touched.extend(&self.ends);
        }
        for &token in &self.touched {
            let id = LlamaToken::new(token.0);
            if let Some(&logit) = logits.get(token.index())
                && !data.iter().any(|candidate| candidate.id() == id)
            {
                data.push(LlamaTokenData::new(id, logit, 0.0));
            }
        }
        self.change();
        let data = &mut self.candidates.data;
        data.sort_unstable_by(|a, b| b.logit().total_cmp(&a.logit()));
        let keeps = keeps.min(data.len());
        let clear = data[..data.len().min(keeps + 1)]
            .windows(2)
            .all(|pair| pair[0].logit() > pair[1].logit());
        let complete = found.len() == logits.len();
        if !clear || !(complete || data[keeps - 1].logit() > outside) {
            return false;
        }
        data.truncate(keeps);
        self.candidates.sorted = true;
        self.candidates.selected = None;
        true
    }

    /// Bias, ban and penalties.
    fn change(&mut self) {
        let bans_ends = self.bans_ends();
        let candidates = &mut self.candidates;
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
    }

    /// Picks one of the candidates.
    fn pick(&mut self) -> Option<Token> {
        let candidates = &mut self.candidates;
        let Some(selector) = &mut self.selector else {
            // The first of the largest, as llama.cpp's greedy sampler picks it.
            let mut best = candidates.data.first()?;
            for candidate in &candidates.data {
                if candidate.logit() > best.logit() {
                    best = candidate;
                }
            }
            return Some(Token(best.id().0));
        };
        candidates.apply_sampler(selector);
        let chosen = candidates.selected_token()?;
        if self.constraint.is_some() && !allowed(candidates, chosen) {
            return None;
        }
        Some(Token(chosen.0))
    }

    fn accept(&mut self, token: Token) {
        self.drawn += 1;
        let accepted = LlamaToken::new(token.0);
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(accepted);
            if self.recent.len() == usize::from(PENALTY_WINDOW) {
                self.recent.pop_front();
            }
            self.recent.push_back(token);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
        if let Some(selector) = &mut self.selector {
            selector.accept(accepted);
        }
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

fn add(candidates: &mut LlamaTokenDataArray, token: Token, bias: f32) {
    let id = LlamaToken::new(token.0);
    let data = &mut candidates.data;
    // In the whole row each stands at its own id.
    let place = match data.get(token.index()) {
        Some(candidate) if candidate.id() == id => Some(token.index()),
        _ => data.iter().position(|candidate| candidate.id() == id),
    };
    if let Some(place) = place {
        data[place] = LlamaTokenData::new(id, data[place].logit() + bias, 0.0);
    }
}

fn allowed(candidates: &LlamaTokenDataArray, token: LlamaToken) -> bool {
    candidates
        .data
        .iter()
        .any(|candidate| candidate.id() == token && candidate.logit() > f32::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logprobs::tests::logits;

    /// Random logits, rounded: the coarser the steps, the more equals.
    fn row(count: usize, seed: u64, steps: f32) -> Vec<f32> {
        let mut row = logits(count, seed);
        for logit in &mut row {
            *logit = (*logit * steps).round() / steps;
        }
        row
    }

    /// Draws forty tokens from rows of 1,000; how many of them from few candidates.
    fn draws(params: &SamplingParams, steps: f32) -> usize {
        let ends = [Token(3), Token(998)];
        let mut few = Sampler::over(1000, &ends, params);
        let mut all = Sampler::over(1000, &ends, params);
        all.keeps = None;
        let mut likeliest = Likeliest::default();
        let mut short = 0;
        for seed in 0..40 {
            let row = row(1000, seed, steps);
            likeliest.find(&row, few.wants());
            assert_eq!(all.wants(), 0);
            assert_eq!(
                few.sample(&row, &likeliest),
                all.sample(&row, &Likeliest::default()),
                "{seed} {steps} {params:?}"
            );
            short += usize::from(few.candidates.data.len() <= 64);
        }
        short
    }

    #[test]
    fn few_candidates_draw_what_the_whole_vocabulary_draws() {
        let variants = [
            SamplingParams::default(),
            SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            SamplingParams {
                top_k: 1,
                ..SamplingParams::default()
            },
            SamplingParams {
                typical_p: 0.5,
                top_p: 0.7,
                temperature: 1.7,
                ..SamplingParams::default()
            },
            SamplingParams {
                repeat_penalty: 1.3,
                presence_penalty: -1.5,
                frequency_penalty: 0.5,
                ..SamplingParams::default()
            },
            SamplingParams {
                logit_bias: vec![
                    (Token(3), 30.0),
                    (Token(5), 14.0),
                    (Token(900), f32::NEG_INFINITY),
                ],
                min_tokens: 20,
                repeat_penalty: 1.1,
                ..SamplingParams::default()
            },
            SamplingParams {
                temperature: 0.0,
                repeat_penalty: 2.0,
                logit_bias: (0..50).map(|id| (Token(id), 4.0)).collect(),
                ..SamplingParams::default()
            },
        ];
        for params in &variants {
            // Fine steps: no equals to speak of, and nearly all draws are from few. Coarse ones: many equals.
            assert!(draws(params, 1e6) >= 35, "{params:?}");
            draws(params, 20.0);
            draws(params, 1.0);
        }
    }

    #[test]
    fn what_needs_the_whole_row_asks_for_nothing_else() {
        let check = |params: &SamplingParams, expect| {
            assert_eq!(Sampler::over(1000, &[], params).wants(), expect);
        };
        check(&SamplingParams::default(), 41);
        check(
            &SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            2,
        );
        check(
            &SamplingParams {
                top_k: 0,
                ..SamplingParams::default()
            },
            0,
        );
        check(
            &SamplingParams {
                mirostat: Mirostat::V2 { tau: 5.0, eta: 0.1 },
                ..SamplingParams::default()
            },
            0,
        );
        check(
            &SamplingParams {
                top_k: 600,
                ..SamplingParams::default()
            },
            0,
        );
    }
}
