//! What each stage does to a row: recorded while a token is drawn, reported afterwards. The row after every stage is kept,
//! as logits by token id, −∞ for tokens that are not candidates; everything reported is computed from these rows, with the
//! same arithmetic as logprobs.

use std::sync::Arc;

use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use rand_mt::Mt;

use crate::logprobs::{Likeliest, LogprobSpec, TokenLogprob, log_sum_exp, score};
use crate::model::Token;

/// What to report about how a token is drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// The distributions whose logprobs are reported.
    pub modes: Arc<[Mode]>,
    /// Whether each stage is reported, with this many of the likeliest tokens before and after it.
    pub trace: Option<usize>,
}

/// A distribution on the way from a row to a token, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The model's.
    Raw,
    /// After bias and bans of single tokens.
    Biased,
    /// After the penalties, DRY included.
    Penalized,
    /// What constraint and allowed tokens leave of that.
    Masked,
    /// After all samplers: what the token is drawn from. A greedy choice leaves one token.
    Sampled,
}

impl Mode {
    pub const ALL: [Self; 5] = [
        Self::Raw,
        Self::Biased,
        Self::Penalized,
        Self::Masked,
        Self::Sampled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Biased => "biased",
            Self::Penalized => "penalized",
            Self::Masked => "masked",
            Self::Sampled => "sampled",
        }
    }

    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// The rows of the token that is being drawn, and the random numbers of the sequence.
pub struct Recording {
    /// The first `used` are of this token; the rest is spare capacity.
    steps: Vec<Step>,
    used: usize,
    /// The same numbers as llama.cpp's `dist` sampler, which does not expose them.
    random: Mt,
    draw: Option<Draw>,
}

struct Step {
    stage: &'static str,
    /// The distribution that this row is or leads to.
    mode: Mode,
    row: Vec<f32>,
}

/// A random number and the interval it fell into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// In [0, 1).
    pub random: f64,
    /// The candidates' probabilities are added up in order until the sum reaches the random number: the sum before the
    /// drawn token.
    pub low: f64,
    /// The sum including it.
    pub high: f64,
}

/// What was recorded of a drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// For each requested mode; the top holds candidates only.
    pub modes: Vec<TokenLogprob>,
    /// The total probability, before constraint and allowed tokens, of what they allow; 1 without them. Reported with the
    /// modes.
    pub kept_mass: f32,
    pub trace: Option<Trace>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub stages: Vec<TracedStage>,
    /// `None` for a greedy choice, and for mirostat, which does not expose its number.
    pub draw: Option<Draw>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TracedStage {
    pub name: &'static str,
    pub candidates_in: usize,
    pub candidates_out: usize,
    /// The total probability, before the stage, of the tokens it removed.
    pub cut_mass: f32,
    /// The likeliest before it, the likeliest after it, and the token that was drawn; likeliest before it first.
    pub tokens: Vec<TracedToken>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TracedToken {
    pub token: Token,
    /// Its probability before the stage, 0 if it was not a candidate.
    pub before: f32,
    /// And after it.
    pub after: f32,
}

impl Recording {
    /// For a sequence with this seed; `None` if nothing is to be recorded.
    pub fn new(watch: &Watch, seed: u32) -> Option<Self> {
        let wanted = watch.trace.is_some() || !watch.modes.is_empty();
        wanted.then(|| Self {
            steps: Vec::new(),
            used: 0,
            random: Mt::new(seed),
            draw: None,
        })
    }

    /// Starts the next token, which is drawn from this row.
    pub(super) fn begin(&mut self, logits: &[f32]) {
        self.used = 0;
        self.draw = None;
        let row = self.next("raw", Mode::Raw);
        row.clear();
        row.extend_from_slice(logits);
    }

    /// Records the candidates after a stage.
    pub(super) fn record(
        &mut self,
        stage: &'static str,
        mode: Mode,
        candidates: &LlamaTokenDataArray,
    ) {
        let vocabulary = self.steps.first().map_or(0, |step| step.row.len());
        let row = self.next(stage, mode);
        row.clear();
        row.resize(vocabulary, f32::NEG_INFINITY);
        for candidate in &candidates.data {
            if let Some(place) = row.get_mut(Token(candidate.id().0).index()) {
                *place = candidate.logit();
            }
        }
    }

    /// Records that the likeliest token was taken.
    pub(super) fn record_greedy(&mut self, token: Token) {
        let before = self.used - 1;
        let (vocabulary, logit) = {
            let row = &self.steps[before].row;
            (row.len(), row.get(token.index()).copied())
        };
        let row = self.next("greedy", Mode::Sampled);
        row.clear();
        row.resize(vocabulary, f32::NEG_INFINITY);
        if let (Some(place), Some(logit)) = (row.get_mut(token.index()), logit) {
            *place = logit;
        }
    }

    /// Records what `dist` has drawn.
    pub(super) fn record_draw(&mut self, candidates: &LlamaTokenDataArray) {
        let random = uniform(&mut self.random);
        // Summed as in llama.cpp.
        let logits = || candidates.data.iter().map(|candidate| candidate.logit());
        let largest = logits().fold(f32::NEG_INFINITY, f32::max);
        let powers = || logits().map(|logit| f64::from((logit - largest).exp()));
        let chosen = candidates.selected.unwrap_or(0);
        let (sum, low): (f64, f64) = (powers().sum(), powers().take(chosen).sum());
        let power = powers().nth(chosen).unwrap_or(0.0);
        self.draw = Some(Draw {
            random,
            low: low / sum,
            high: (low + power) / sum,
        });
    }

    /// Discards the draw, because another token was forced.
    pub(super) fn forget_draw(&mut self) {
        self.draw = None;
    }

    fn next(&mut self, stage: &'static str, mode: Mode) -> &mut Vec<f32> {
        if self.used == self.steps.len() {
            self.steps.push(Step {
                stage,
                mode,
                row: Vec::new(),
            });
        }
        let step = &mut self.steps[self.used];
        self.used += 1;
        (step.stage, step.mode) = (stage, mode);
        &mut step.row
    }

    fn steps(&self) -> &[Step] {
        &self.steps[..self.used]
    }

    /// The row of a distribution; empty if nothing was recorded.
    fn row(&self, mode: Mode) -> &[f32] {
        let steps = self.steps().iter();
        let last = steps.take_while(|step| step.mode <= mode).last();
        last.map_or(&[], |step| &step.row)
    }

    /// The report on the last drawn token, with logprobs as `spec` asks for.
    pub fn observed(&self, token: Token, watch: &Watch, spec: Option<&LogprobSpec>) -> Observed {
        let mut likeliest = Likeliest::default();
        let mut modes = Vec::new();
        if let Some(spec) = spec {
            for &mode in watch.modes.iter() {
                let row = self.row(mode);
                // A row that is mostly cut holds many equal logits, among which finding the first is slow.
                likeliest.find(row, spec.top.min(candidates(row)));
                let mut scored = score(row, &likeliest, token, spec);
                scored
                    .top
                    .retain(|&(_, logprob)| logprob > f32::NEG_INFINITY);
                modes.push(scored);
            }
        }
        let kept = log_sum_exp(self.row(Mode::Masked)) - log_sum_exp(self.row(Mode::Penalized));
        Observed {
            modes,
            kept_mass: kept.exp().min(1.0) as f32,
            trace: watch.trace.map(|top| self.trace(token, top)),
        }
    }

    fn trace(&self, token: Token, top: usize) -> Trace {
        // The output of a stage is the input of the next one, so each row is read once.
        let sides = self.steps().iter().map(|step| Side::new(step, top));
        let sides: Vec<Side> = sides.collect();
        let stages = sides.windows(2).map(|pair| {
            let (before, after) = (&pair[0], &pair[1]);
            let mut tokens: Vec<TracedToken> = Vec::new();
            for token in before.top.iter().chain(&after.top).copied().chain([token]) {
                if !tokens.iter().any(|other| other.token == token) {
                    tokens.push(TracedToken {
                        token,
                        before: before.probability(token) as f32,
                        after: after.probability(token) as f32,
                    });
                }
            }
            tokens.sort_by(|a, b| b.before.total_cmp(&a.before));
            TracedStage {
                name: after.stage,
                candidates_in: before.candidates,
                candidates_out: after.candidates,
                cut_mass: before.outside(after) as f32,
                tokens,
            }
        });
        Trace {
            stages: stages.collect(),
            draw: self.draw,
        }
    }
}

/// A row before or after a stage.
struct Side<'a> {
    /// The stage that left it.
    stage: &'static str,
    row: &'a [f32],
    log_sum: f64,
    candidates: usize,
    top: Vec<Token>,
}

impl<'a> Side<'a> {
    fn new(step: &'a Step, top: usize) -> Self {
        let row = &step.row[..];
        let mut likeliest = Likeliest::default();
        let candidates = candidates(row);
        likeliest.find(row, top.min(candidates));
        let top = likeliest.as_slice().iter().take(top);
        Self {
            stage: step.stage,
            row,
            log_sum: log_sum_exp(row),
            candidates,
            top: top
                .filter(|(logit, _)| *logit > f32::NEG_INFINITY)
                .map(|&(_, token)| token)
                .collect(),
        }
    }

    fn probability(&self, token: Token) -> f64 {
        let logit = self.row.get(token.index()).copied();
        self.of(logit.unwrap_or(f32::NEG_INFINITY))
    }

    fn of(&self, logit: f32) -> f64 {
        if logit == f32::NEG_INFINITY {
            0.0
        } else {
            (f64::from(logit) - self.log_sum).exp()
        }
    }

    /// The total probability of the tokens that the other side lacks.
    fn outside(&self, other: &Side) -> f64 {
        let pairs = self.row.iter().zip(other.row);
        pairs
            .filter(|(_, kept)| **kept == f32::NEG_INFINITY)
            .map(|(&logit, _)| self.of(logit))
            .sum()
    }
}

/// How many tokens of a row are neither banned nor cut.
fn candidates(row: &[f32]) -> usize {
    row.iter()
        .filter(|logit| **logit > f32::NEG_INFINITY)
        .count()
}

/// A number computed as libstdc++'s `std::uniform_real_distribution<double>(0, 1)` does from two numbers of the Mersenne
/// Twister: the first is the lower half of 64 bits.
fn uniform(random: &mut Mt) -> f64 {
    const BITS_32: f64 = 4_294_967_296.0;
    let low = f64::from(random.next_u32());
    let high = f64::from(random.next_u32());
    let number = (low + high * BITS_32) / (BITS_32 * BITS_32);
    number.min(1.0_f64.next_down())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logprobs::tests::logits;
    use crate::params::ParamValues;
    use crate::sampling::{Sampler, SamplerName, SamplingParams};

    fn watch(modes: &[Mode], trace: Option<usize>) -> Watch {
        Watch {
            modes: modes.into(),
            trace,
        }
    }

    fn rows() -> impl Iterator<Item = Vec<f32>> {
        (1..80).map(|seed| {
            let row = logits(600, seed);
            row.iter().map(|logit| logit * 0.3).collect()
        })
    }

    fn ids(params: SamplingParams) -> Vec<SamplingParams> {
        vec![params]
    }

    /// Many ways to draw.
    fn all_params() -> Vec<SamplingParams> {
        let default = SamplingParams {
            seed: 11,
            ..SamplingParams::default()
        };
        let named = |names: &[&str]| -> Vec<SamplerName> {
            let names = names.iter().map(|name| SamplerName::read(name));
            names.map(|name| name.expect("a name")).collect()
        };
        let mut all = ids(default.clone());
        all.push(SamplingParams {
            values: ParamValues {
                temperature: 0.0,
                ..default.values
            },
            ..default.clone()
        });
        all.push(SamplingParams {
            values: ParamValues {
                temperature: 1.7,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                repeat_penalty: 1.3,
                frequency_penalty: 0.5,
                ..default.values
            },
            logit_bias: vec![(Token(5), 3.0), (Token(9), f32::NEG_INFINITY)],
            ..default.clone()
        });
        all.push(SamplingParams {
            values: ParamValues {
                typical_p: 0.7,
                xtc_probability: 0.5,
                ..default.values
            },
            allowed_tokens: Some((100..200).map(Token).collect()),
            ..default.clone()
        });
        all.push(SamplingParams {
            values: ParamValues {
                presence_penalty: 1.0,
                ..default.values
            },
            samplers: named(&["temperature", "top_k", "penalties"]),
            ..default.clone()
        });
        all.push(SamplingParams {
            values: ParamValues {
                mirostat_mode: 2,
                mirostat_tau: 3.0,
                mirostat_eta: 0.1,
                ..default.values
            },
            ..default.clone()
        });
        all
    }

    #[test]
    fn a_watched_sampler_draws_the_same() {
        for params in all_params() {
            let make = || Sampler::over(600, &[Token(3)], &params, &[]);
            let (mut plain, mut watched) = (make(), make());
            let mut recording =
                Recording::new(&watch(&Mode::ALL, Some(5)), params.seed).expect("watched");
            for row in rows() {
                let mut likeliest = Likeliest::default();
                likeliest.find(&row, plain.wants());
                let token = plain.sample(&row, &likeliest).expect("not stuck");
                assert_eq!(
                    watched
                        .sample_watched(&row, &mut recording)
                        .expect("not stuck"),
                    token
                );
            }
        }
    }

    #[test]
    fn the_random_number_falls_on_the_token_that_was_drawn() {
        let mut spread = 0.0_f64;
        for params in all_params() {
            let mut sampler = Sampler::over(600, &[], &params, &[]);
            let watch = watch(&[Mode::Sampled], Some(3));
            let mut recording = Recording::new(&watch, params.seed).expect("watched");
            let draws = !params.uses_mirostat() && params.values.temperature > 0.0;
            for row in rows() {
                let token = sampler.sample_watched(&row, &mut recording);
                let token = token.expect("not stuck").expect("a token");
                let observed = recording.observed(token, &watch, Some(&LogprobSpec::top(0)));
                let draw = observed.trace.expect("requested").draw;
                assert_eq!(draw.is_some(), draws);
                if let Some(Draw { random, low, high }) = draw {
                    assert!(low <= random && random <= high, "{random} {low} {high}");
                    let probability = f64::from(observed.modes[0].logprob).exp();
                    assert!((high - low - probability).abs() < 1e-6);
                    spread = spread.max(random);
                }
            }
        }
        assert!(spread > 0.9);
    }

    #[test]
    fn uniform_numbers_are_those_of_the_c_library() {
        // std::mt19937 rng(1234); std::uniform_real_distribution<double>(0.0f, 1.0f)(rng) with GNU's libstdc++.
        let mut random = Mt::new(1234);
        let numbers: Vec<f64> = (0..3).map(|_| uniform(&mut random)).collect();
        assert_eq!(numbers, UNIFORM_1234);
    }
    const UNIFORM_1234: [f64; 3] = [
        0.497_663_666_305_951_66,
        0.817_838_442_889_533_2,
        0.612_111_893_584_422_8,
    ];

    #[test]
    fn each_distribution_is_what_its_definition_says() {
        let bias = (Token(7), 2.5);
        let params = SamplingParams {
            values: ParamValues {
                temperature: 0.5,
                top_k: 4,
                top_p: 1.0,
                min_p: 0.0,
                presence_penalty: 1.5,
                ..ParamValues::default()
            },
            seed: 5,
            logit_bias: vec![bias],
            allowed_tokens: Some((0..300).map(Token).collect()),
            ..SamplingParams::default()
        };
        let watch = watch(&Mode::ALL, Some(600));
        let mut sampler = Sampler::over(600, &[], &params, &[]);
        let mut recording = Recording::new(&watch, params.seed).expect("watched");
        let mut seen: Vec<Token> = Vec::new();
        for row in rows().take(30) {
            let token = sampler.sample_watched(&row, &mut recording);
            let token = token.expect("not stuck").expect("a token");
            let observed = recording.observed(token, &watch, Some(&LogprobSpec::top(600)));
            // Each step by hand, in f64.
            let raw: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
            let mut biased = raw.clone();
            biased[bias.0.index()] += f64::from(bias.1);
            let mut penalized = biased.clone();
            seen.sort_unstable();
            seen.dedup();
            for token in &seen {
                penalized[token.index()] -= 1.5;
            }
            let mut masked = penalized.clone();
            masked[300..].fill(f64::NEG_INFINITY);
            let mut order: Vec<usize> = (0..300).collect();
            order.sort_by(|&a, &b| masked[b].total_cmp(&masked[a]));
            let mut sampled = vec![f64::NEG_INFINITY; 600];
            for &id in &order[..4] {
                sampled[id] = masked[id] / 0.5;
            }
            let log_sum = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
            for (row, observed) in [&raw, &biased, &penalized, &masked, &sampled]
                .iter()
                .zip(&observed.modes)
            {
                let candidates = row.iter().filter(|logit| logit.is_finite()).count();
                assert_eq!(observed.top.len(), candidates);
                for &(token, logprob) in observed.top.iter().chain([&(token, observed.logprob)]) {
                    let expect = row[token.index()] - log_sum(row);
                    assert!(
                        (f64::from(logprob) - expect).abs() < 1e-5,
                        "{logprob} {expect}"
                    );
                }
            }
            let kept = (log_sum(&masked) - log_sum(&penalized)).exp();
            assert!((f64::from(observed.kept_mass) - kept).abs() < 1e-5);

            let trace = observed.trace.expect("requested");
            let names: Vec<&str> = trace.stages.iter().map(|stage| stage.name).collect();
            assert_eq!(
                names,
                ["bias", "penalties", "constraint", "top_k", "temperature"]
            );
            let counts: Vec<usize> = trace
                .stages
                .iter()
                .map(|stage| stage.candidates_out)
                .collect();
            assert_eq!(counts, [600, 600, 300, 4, 4]);
            for (stage, (before, after)) in trace.stages.iter().zip([
                (&raw, &biased),
                (&biased, &penalized),
                (&penalized, &masked),
                (&masked, &masked),
                (&masked, &sampled),
            ]) {
                for traced in &stage.tokens {
                    let probability =
                        |row: &[f64]| (row[traced.token.index()] - log_sum(row)).exp();
                    if stage.name == "bias" || stage.name == "penalties" {
                        assert!((f64::from(traced.before) - probability(before)).abs() < 1e-5);
                        assert!((f64::from(traced.after) - probability(after)).abs() < 1e-5);
                    }
                    if stage.name == "temperature" {
                        assert!((f64::from(traced.after) - probability(after)).abs() < 1e-5);
                    }
                }
            }
            assert!((f64::from(trace.stages[2].cut_mass) - (1.0 - kept)).abs() < 1e-5);
            seen.push(token);
        }
    }
}
