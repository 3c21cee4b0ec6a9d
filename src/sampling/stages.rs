//! How each sampler is made and applied. To add a sampler, add its name to [`SamplerName`], how it is made here, and its
//! parameters to `crate::params`.

use std::collections::VecDeque;
use std::sync::Arc;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::candidates::add;
use super::dry::Dry;
use super::infill::Infill;
use super::params::SamplingParams;
use super::repetition::Repetition;
use super::sampler_name::SamplerName;
use crate::model::Token;
use crate::params::ParamValues;

/// How many generated tokens the penalties look back on: llama-cpp-python's `last_n_tokens_size`.
const PENALTY_WINDOW: u8 = 64;
/// Below this temperature the likeliest token is certain, and dividing by the temperature overflows.
const COLDEST: f32 = 1e-6;
/// Candidates that every cut keeps, as in llama-cpp-python.
const LEAST: usize = 1;

/// The stage that draws from the remaining probabilities.
pub const DIST: &str = "dist";

/// What samplers are made from.
pub struct SamplerInputs<'a> {
    pub params: &'a SamplingParams,
    /// The size of the vocabulary.
    pub n_vocab: i32,
    pub prompt: &'a [Token],
}

impl SamplerInputs<'_> {
    fn values(&self) -> &ParamValues {
        &self.params.values
    }
}

/// Makes a sampler, if it is on.
fn make(name: SamplerName, inputs: &SamplerInputs) -> Option<Act> {
    match name {
        SamplerName::Penalties => penalties(inputs),
        SamplerName::Dry => dry(inputs),
        SamplerName::TopNSigma => top_n_sigma(inputs),
        SamplerName::TopK => top_k(inputs),
        SamplerName::TypicalP => typical_p(inputs),
        SamplerName::TopP => top_p(inputs),
        SamplerName::MinP => min_p(inputs),
        SamplerName::Xtc => xtc(inputs),
        SamplerName::Temperature => temperature(inputs),
        SamplerName::Infill => infill(inputs),
    }
}

fn penalties(inputs: &SamplerInputs) -> Option<Act> {
    let params = inputs.values();
    let penalty = params.repetition_penalty;
    let repetition = (penalty != 1.0).then(|| {
        let vocabulary = usize::try_from(inputs.n_vocab).unwrap_or(0);
        Repetition::new(penalty, vocabulary, inputs.prompt)
    });
    let looks_back = params.repeat_penalty != 1.0
        || params.frequency_penalty != 0.0
        || params.presence_penalty != 0.0;
    let windowed = looks_back.then(|| Windowed {
        sampler: LlamaSampler::penalties(
            inputs.n_vocab,
            i32::from(PENALTY_WINDOW),
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ),
        recent: VecDeque::new(),
    });
    let on = repetition.is_some() || windowed.is_some();
    on.then_some(Act::Penalties {
        repetition,
        windowed,
    })
}

fn dry(inputs: &SamplerInputs) -> Option<Act> {
    let on = inputs.params.uses_dry();
    on.then(|| Act::Dry {
        dry: Dry::new(inputs.params, inputs.prompt),
        by_id: None,
    })
}

fn top_n_sigma(inputs: &SamplerInputs) -> Option<Act> {
    let sigma = inputs.values().top_n_sigma;
    (sigma > 0.0).then(|| Act::Llama(LlamaSampler::top_n_sigma(sigma)))
}

fn top_k(inputs: &SamplerInputs) -> Option<Act> {
    let top_k = inputs.values().top_k;
    let count = usize::try_from(top_k).ok().filter(|&k| k > 0)?;
    Some(Act::TopK {
        sampler: LlamaSampler::top_k(top_k),
        count,
    })
}

fn typical_p(inputs: &SamplerInputs) -> Option<Act> {
    let typical_p = inputs.values().typical_p;
    (typical_p < 1.0).then(|| Act::Typical(LlamaSampler::typical(typical_p, LEAST)))
}

fn top_p(inputs: &SamplerInputs) -> Option<Act> {
    let top_p = inputs.values().top_p;
    (top_p < 1.0).then(|| Act::Llama(LlamaSampler::top_p(top_p, LEAST)))
}

fn min_p(inputs: &SamplerInputs) -> Option<Act> {
    let min_p = inputs.values().min_p;
    (min_p > 0.0).then(|| Act::Llama(LlamaSampler::min_p(min_p, LEAST)))
}

fn xtc(inputs: &SamplerInputs) -> Option<Act> {
    let params = inputs.values();
    let (probability, threshold) = (params.xtc_probability, params.xtc_threshold);
    let on = probability > 0.0 && threshold <= 0.5;
    on.then(|| Act::Xtc {
        sampler: LlamaSampler::xtc(probability, threshold, LEAST, inputs.params.seed),
        // The probability of a banned token is not below it.
        takes_banned: threshold <= 0.0,
    })
}

fn temperature(inputs: &SamplerInputs) -> Option<Act> {
    let params = inputs.values();
    let (range, exponent) = (params.dynatemp_range, params.dynatemp_exponent);
    let is_cold = params.temperature < COLDEST;
    let temperature = if is_cold { 0.0 } else { params.temperature };
    if range > 0.0 {
        let sampler = LlamaSampler::temp_ext(temperature, range, exponent);
        return Some(Act::DynamicTemperature(sampler));
    }
    if is_cold {
        return Some(Act::Cold(LlamaSampler::temp(0.0)));
    }
    (temperature != 1.0).then(|| Act::Llama(LlamaSampler::temp(temperature)))
}

fn infill(inputs: &SamplerInputs) -> Option<Act> {
    let infill = inputs.params.infill.clone()?;
    let may_end = inputs.params.may_end();
    Some(Act::Infill { infill, may_end })
}

/// One step from a row to a token.
pub struct Stage {
    pub name: &'static str,
    act: Act,
}

enum Act {
    Llama(LlamaSampler),
    /// llama.cpp's, which computes NaN for a candidate whose probability is 0: those are removed first.
    Typical(LlamaSampler),
    TopK {
        sampler: LlamaSampler,
        count: usize,
    },
    /// In vLLM's order: the penalty on repetition, then those on frequency and presence.
    Penalties {
        repetition: Option<Repetition>,
        windowed: Option<Windowed>,
    },
    Dry {
        dry: Dry,
        /// After samplers that reorder candidates: one number for each token, all 0 between two uses, so that no penalty
        /// has to search all candidates for its token.
        by_id: Option<Vec<f32>>,
    },
    /// May remove the likeliest candidate.
    Xtc {
        sampler: LlamaSampler,
        /// At this threshold it would keep a banned candidate instead of another, so banned ones are removed first. Not
        /// otherwise, because llama.cpp draws no random number for a single candidate.
        takes_banned: bool,
    },
    DynamicTemperature(LlamaSampler),
    /// May remove the likeliest candidate, too.
    Infill {
        infill: Arc<Infill>,
        /// Whether the text may end at any token.
        may_end: bool,
    },
    /// Keeps only the likeliest candidate.
    Cold(LlamaSampler),
}

/// llama.cpp's penalties.
struct Windowed {
    sampler: LlamaSampler,
    /// The generated tokens that they look back on.
    recent: VecDeque<Token>,
}

/// A request's stages.
pub struct Stages {
    /// Applied before the constraint: each changes the logits of single tokens.
    pub changes: Vec<Stage>,
    /// Applied after it; the last one draws. Empty: the likeliest token is taken.
    pub picks: Vec<Stage>,
}

impl Stages {
    pub fn new(inputs: &SamplerInputs) -> Self {
        let mut changes = Vec::new();
        let mut picks = Vec::new();
        let mut leading = true;
        for &name in &inputs.params.samplers {
            leading &= name.changes_single_logits();
            if let Some(mut act) = make(name, inputs) {
                if !leading && let Act::Dry { by_id, .. } = &mut act {
                    *by_id = Some(vec![0.0; usize::try_from(inputs.n_vocab).unwrap_or(0)]);
                }
                let name = name.as_str();
                let list = if leading { &mut changes } else { &mut picks };
                list.push(Stage { name, act });
            }
        }
        // All other samplers keep the likeliest token. (Typical may not, but llama-cpp-python does not apply it here either.)
        let greedy = picks.iter().any(|stage| matches!(stage.act, Act::Cold(_)))
            && !picks
                .iter()
                .any(|stage| stage.changes() || stage.removes_likeliest());
        if greedy {
            picks.clear();
        } else if let Some(mirostat) = mirostat(inputs) {
            picks = vec![mirostat];
        } else {
            picks.push(Stage {
                name: DIST,
                act: Act::Llama(LlamaSampler::dist(inputs.params.seed)),
            });
        }
        Self { changes, picks }
    }

    /// How many candidates the first cut keeps, whatever they are; `None`: it must look at all of them.
    pub fn keeps(&self) -> Option<usize> {
        match self.picks.first().map(|stage| &stage.act) {
            None => Some(1),
            Some(&Act::TopK { count, .. }) => Some(count),
            Some(_) => None,
        }
    }
}

/// Mirostat (<https://arxiv.org/abs/2007.14966>), if it is on.
fn mirostat(inputs: &SamplerInputs) -> Option<Stage> {
    /// How many tokens mirostat 1 estimates from in llama-cpp-python, as in the paper.
    const MIROSTAT_M: i32 = 100;
    let (n_vocab, seed) = (inputs.n_vocab, inputs.params.seed);
    let values = inputs.values();
    let (tau, eta) = (values.mirostat_tau, values.mirostat_eta);
    let sampler = match values.mirostat_mode {
        1 => LlamaSampler::mirostat(n_vocab, seed, tau, eta, MIROSTAT_M),
        2 => LlamaSampler::mirostat_v2(seed, tau, eta),
        _ => return None,
    };
    Some(Stage {
        name: "mirostat",
        act: Act::Llama(sampler),
    })
}

impl Stage {
    fn changes(&self) -> bool {
        matches!(self.act, Act::Penalties { .. } | Act::Dry { .. })
    }

    /// Whether it may remove the likeliest candidate.
    fn removes_likeliest(&self) -> bool {
        matches!(self.act, Act::Xtc { .. } | Act::Infill { .. })
    }

    /// Applies the stage to candidates, at least one of which is not banned.
    pub fn apply(&mut self, candidates: &mut LlamaTokenDataArray) {
        match &mut self.act {
            Act::Llama(sampler) | Act::TopK { sampler, .. } | Act::Cold(sampler) => {
                candidates.apply_sampler(sampler)
            }
            Act::Penalties {
                repetition,
                windowed,
            } => {
                if let Some(repetition) = repetition {
                    repetition.apply(candidates);
                }
                if let Some(windowed) = windowed {
                    candidates.apply_sampler(&mut windowed.sampler);
                }
            }
            Act::Typical(sampler) => {
                keep_likely(candidates);
                candidates.apply_sampler(sampler);
            }
            Act::Xtc {
                sampler,
                takes_banned,
            } => {
                if *takes_banned {
                    candidates
                        .data
                        .retain(|candidate| candidate.logit() > f32::NEG_INFINITY);
                }
                candidates.apply_sampler(sampler);
            }
            Act::Dry { dry, by_id } => {
                let penalties = dry.penalties();
                match by_id {
                    _ if penalties.is_empty() => return,
                    None => {
                        for &(token, penalty) in penalties {
                            add(candidates, token, -penalty);
                        }
                    }
                    Some(by_id) => subtract(candidates, penalties, by_id),
                }
                candidates.sorted = false;
            }
            Act::Infill { infill, may_end } => infill.apply(candidates, *may_end),
            Act::DynamicTemperature(sampler) => {
                candidates.apply_sampler(sampler);
                // The temperature is so low that the quotient overflows: the first candidate, the likeliest, is certain.
                if let Some(first) = candidates.data.first()
                    && !first.logit().is_finite()
                {
                    let first = LlamaTokenData::new(first.id(), 0.0, 1.0);
                    candidates.data.clear();
                    candidates.data.push(first);
                }
            }
        }
    }

    /// Updates the stage with the token that was drawn.
    pub fn accept(&mut self, token: Token) {
        let accepted = LlamaToken::new(token.0);
        match &mut self.act {
            Act::Llama(sampler)
            | Act::Typical(sampler)
            | Act::TopK { sampler, .. }
            | Act::Xtc { sampler, .. }
            | Act::DynamicTemperature(sampler)
            | Act::Cold(sampler) => sampler.accept(accepted),
            Act::Penalties {
                repetition,
                windowed,
            } => {
                if let Some(repetition) = repetition {
                    repetition.accept(token);
                }
                if let Some(Windowed { sampler, recent }) = windowed {
                    sampler.accept(accepted);
                    if recent.len() == usize::from(PENALTY_WINDOW) {
                        recent.pop_front();
                    }
                    recent.push_back(token);
                }
            }
            Act::Dry { dry, .. } => dry.accept(token),
            Act::Infill { .. } => {}
        }
    }

    /// The tokens whose logits the stage is about to change, if it changes single tokens.
    pub fn touched(&self) -> impl Iterator<Item = Token> {
        let (occurred, recent, repeated) = match &self.act {
            Act::Penalties {
                repetition,
                windowed,
            } => {
                let occurred = repetition.as_ref().map(Repetition::tokens);
                (occurred, windowed.as_ref().map(|it| &it.recent), None)
            }
            Act::Dry { dry, .. } => (None, None, Some(dry.penalties())),
            _ => (None, None, None),
        };
        let occurred = occurred.into_iter().flatten().copied();
        let recent = recent.into_iter().flatten().copied();
        let repeated = repeated.into_iter().flatten().map(|&(token, _)| token);
        occurred.chain(recent).chain(repeated)
    }
}

/// Removes the candidates whose probability is 0, or nearly, in llama.cpp's arithmetic.
fn keep_likely(candidates: &mut LlamaTokenDataArray) {
    /// Twice the smallest f32 that is not 0: the last bit of an exponential may differ between libraries.
    const LEAST_PROBABILITY: f32 = 2.8e-45;
    let logits = || candidates.data.iter().map(|candidate| candidate.logit());
    let largest = logits().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits().map(|logit| (logit - largest).exp()).sum();
    candidates.data.retain(|candidate| {
        let probability = (candidate.logit() - largest).exp() / sum;
        // NaN stays: llama.cpp ends the process if no candidate is left.
        probability > LEAST_PROBABILITY || probability.is_nan()
    });
}

/// Subtracts penalties from the logits of candidates in any order, in one pass.
fn subtract(candidates: &mut LlamaTokenDataArray, penalties: &[(Token, f32)], by_id: &mut [f32]) {
    for &(token, penalty) in penalties {
        if let Some(place) = by_id.get_mut(token.index()) {
            *place = penalty;
        }
    }
    for candidate in &mut candidates.data {
        let place = usize::try_from(candidate.id().0).ok();
        if let Some(&penalty) = place.and_then(|place| by_id.get(place)) {
            candidate.set_logit(candidate.logit() - penalty);
        }
    }
    for &(token, _) in penalties {
        if let Some(place) = by_id.get_mut(token.index()) {
            *place = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logprobs::tests::logits;

    /// What one sampler makes of a row: the ids that are left in, with their logits, by id.
    fn after(name: &str, params: SamplingParams, row: &[f32]) -> Vec<(usize, f32)> {
        let params = SamplingParams {
            samplers: SamplerName::read(name).into_iter().collect(),
            ..params
        };
        let Stages { changes, picks } = Stages::new(&SamplerInputs {
            params: &params,
            n_vocab: row.len() as i32,
            prompt: &[],
        });
        let mut stages: Vec<Stage> = changes.into_iter().chain(picks).collect();
        assert_eq!(stages[0].name, name);
        let candidates = (0..)
            .zip(row)
            .map(|(id, &logit)| LlamaTokenData::new(LlamaToken::new(id), logit, 0.0));
        let mut candidates = LlamaTokenDataArray::new(candidates.collect(), false);
        stages[0].apply(&mut candidates);
        let mut left: Vec<(usize, f32)> = candidates
            .data
            .iter()
            .filter(|candidate| candidate.logit() > f32::NEG_INFINITY)
            .map(|candidate| (candidate.id().0 as usize, candidate.logit()))
            .collect();
        left.sort_unstable_by_key(|&(id, _)| id);
        left
    }

    fn ids(left: &[(usize, f32)]) -> Vec<usize> {
        left.iter().map(|&(id, _)| id).collect()
    }

    fn softmax(row: &[f32]) -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f64> = row
            .iter()
            .map(|&logit| f64::from(logit - largest).exp())
            .collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    /// Rows of several kinds: even, steep, with bans.
    fn rows() -> Vec<Vec<f32>> {
        let mut rows: Vec<Vec<f32>> = (1..20)
            .flat_map(|seed| {
                [0.02, 0.1, 1.0].map(|scale| {
                    let row = logits(200, seed);
                    row.iter().map(|logit| logit * scale).collect()
                })
            })
            .collect();
        rows.push(vec![1.0, 1.0 - 1e-3]);
        rows.push(vec![3.0]);
        for (number, row) in rows.iter_mut().enumerate().skip(40) {
            row.insert(number % row.len(), f32::NEG_INFINITY);
        }
        rows
    }

    #[test]
    fn top_n_sigma_keeps_what_lies_within_n_standard_deviations_of_the_largest() {
        for row in rows() {
            for sigma in [0.5, 1.0, 2.7] {
                let known: Vec<f64> = row
                    .iter()
                    .filter(|logit| logit.is_finite())
                    .map(|&logit| f64::from(logit))
                    .collect();
                let count = known.len() as f64;
                let mean = known.iter().sum::<f64>() / count;
                let variance = known.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                let largest = known.iter().copied().fold(f64::MIN, f64::max);
                let least = largest - f64::from(sigma) * variance.sqrt();
                let expect: Vec<usize> = (0..row.len())
                    .filter(|&id| f64::from(row[id]) >= least - 1e-5)
                    .collect();
                let params = SamplingParams::from(ParamValues {
                    top_n_sigma: sigma,
                    ..ParamValues::default()
                });
                let left = after("top_n_sigma", params, &row);
                assert_eq!(ids(&left), expect, "{sigma} {row:?}");
                assert!(left.iter().all(|&(id, logit)| logit == row[id]));
            }
        }
    }

    #[test]
    fn xtc_leaves_out_the_likeliest_but_for_the_last_above_the_threshold() {
        let mut cuts = 0;
        for row in rows() {
            for threshold in [0.01, 0.1, 0.3, 0.5] {
                let probabilities = softmax(&row);
                let mut above: Vec<usize> = (0..row.len())
                    .filter(|&id| probabilities[id] >= f64::from(threshold))
                    .collect();
                above.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
                above.pop();
                let expect: Vec<usize> = (0..row.len())
                    .filter(|id| row[*id].is_finite() && !above.contains(id))
                    .collect();
                cuts += usize::from(!above.is_empty());
                let params = |xtc_probability| {
                    SamplingParams::from(ParamValues {
                        xtc_probability,
                        xtc_threshold: threshold,
                        ..ParamValues::default()
                    })
                };
                let left = after("xtc", params(1.0), &row);
                assert_eq!(ids(&left), expect, "{threshold} {row:?}");
                // It hardly ever happens at this probability, and did not with this seed.
                let left = after("xtc", params(1e-6), &row);
                assert_eq!(
                    left.len(),
                    row.iter().filter(|logit| logit.is_finite()).count()
                );
            }
        }
        assert!(cuts > 20, "{cuts}");
        // Two cannot both be above a half.
        let off = SamplingParams::from(ParamValues {
            xtc_probability: 1.0,
            xtc_threshold: 0.500_01,
            ..ParamValues::default()
        });
        let stages = Stages::new(&SamplerInputs {
            params: &off,
            n_vocab: 2,
            prompt: &[],
        });
        assert!(stages.picks.iter().all(|stage| stage.name != "xtc"));
    }

    #[test]
    fn a_dynamic_temperature_is_that_of_the_entropy() {
        let check = |row: &[f32], temperature: f32, range: f32, exponent: f32| {
            let probabilities = softmax(row);
            let entropy: f64 = probabilities
                .iter()
                .filter(|&&p| p > 0.0)
                .map(|p| -p * p.ln())
                .sum();
            let normalised = entropy / (row.len() as f64).ln();
            let least = f64::from((temperature - range).max(0.0));
            let most = f64::from(temperature + range);
            let expect = least + (most - least) * normalised.powf(f64::from(exponent));
            let params = SamplingParams::from(ParamValues {
                temperature,
                dynatemp_range: range,
                dynatemp_exponent: exponent,
                ..ParamValues::default()
            });
            for (id, logit) in after("temperature", params, row) {
                let divided = f64::from(row[id]) / expect;
                let off = (f64::from(logit) - divided).abs();
                assert!(off <= 1e-3 * divided.abs(), "{logit} {divided} {expect}");
            }
        };
        for row in rows().iter().filter(|row| row.len() > 2) {
            check(row, 0.8, 0.5, 1.0);
            check(row, 1.0, 1.0, 0.5);
            check(row, 2.0, 1.9, 3.0);
        }
    }

    #[test]
    fn however_cold_it_is_the_likeliest_is_a_number() {
        // Nearly certain: what is divided by such a temperature is not finite.
        let row = [90.0, 20.0, -90.0];
        let mut draws = 0;
        for exponent in [
            0.0, 1.0, 1.1, 1.2, 1.21, 1.22, 1.23, 1.24, 1.25, 1.3, 1.4, 2.0, 100.0,
        ] {
            let params = SamplingParams::from(ParamValues {
                temperature: 0.0,
                dynatemp_range: 1.0,
                dynatemp_exponent: exponent,
                ..ParamValues::default()
            });
            let left = after("temperature", params, &row);
            assert_eq!(left.first().map(|&(id, _)| id), Some(0), "{exponent}");
            assert!(left.iter().all(|&(_, logit)| logit.is_finite()), "{left:?}");
            draws += left.len();
        }
        assert!(draws > 13, "{draws}");
    }

    #[test]
    fn xtc_at_a_threshold_of_zero_leaves_no_banned_one() {
        for mut row in rows() {
            row.push(f32::NEG_INFINITY);
            let params = SamplingParams::from(ParamValues {
                xtc_probability: 1.0,
                xtc_threshold: 0.0,
                ..ParamValues::default()
            });
            let least = row.iter().copied().filter(|logit| logit.is_finite());
            let least = least.fold(f32::MAX, f32::min);
            let left = after("xtc", params, &row);
            assert_eq!(left.len(), 1, "{row:?}");
            assert_eq!(left[0].1, least, "{row:?}");
        }
    }

    #[test]
    fn dry_takes_the_same_from_candidates_in_any_order() {
        let prompt: Vec<Token> = [7, 8, 9, 7, 8, 3, 7, 8].map(Token).repeat(3);
        let params = |samplers: &[&str]| SamplingParams {
            values: ParamValues {
                dry_multiplier: 2.0,
                dry_allowed_length: 1,
                top_k: 200,
                ..ParamValues::default()
            },
            samplers: samplers
                .iter()
                .filter_map(|name| SamplerName::read(name))
                .collect(),
            ..SamplingParams::default()
        };
        let row = logits(200, 1);
        let apply = |stages: &mut dyn Iterator<Item = Stage>, before: &[&str]| {
            let candidates = (0..)
                .zip(&row)
                .map(|(id, &logit)| LlamaTokenData::new(LlamaToken::new(id), logit, 0.0));
            let mut candidates = LlamaTokenDataArray::new(candidates.collect(), false);
            let mut applied: Vec<Stage> = stages
                .filter(|stage| before.contains(&stage.name))
                .collect();
            assert_eq!(applied.len(), before.len());
            for stage in &mut applied {
                stage.apply(&mut candidates);
            }
            // Twice: nothing of the first time is left.
            applied[before.len() - 1].apply(&mut candidates);
            let mut left: Vec<(i32, f32)> = candidates
                .data
                .iter()
                .map(|candidate| (candidate.id().0, candidate.logit()))
                .collect();
            left.sort_unstable_by_key(|&(id, _)| id);
            left
        };
        let of = |params: &SamplingParams| {
            Stages::new(&SamplerInputs {
                params,
                n_vocab: 200,
                prompt: &prompt,
            })
        };
        let first = of(&params(&["dry"]));
        let reordered = of(&params(&["top_k", "dry"]));
        assert!(reordered.changes.is_empty());
        let first = apply(&mut first.changes.into_iter(), &["dry"]);
        let reordered = apply(&mut reordered.picks.into_iter(), &["top_k", "dry"]);
        assert_eq!(first, reordered);
        let changed = first
            .iter()
            .filter(|&&(id, logit)| row[id as usize] != logit)
            .count();
        assert_eq!(changed, 3);
    }

    #[test]
    fn typical_takes_no_notice_of_what_can_hardly_be() {
        // For the last row: e^-103 is more than 0, but not its share of the sum.
        let check = |row: &[f32], far: &[f32]| {
            let params = || {
                SamplingParams::from(ParamValues {
                    typical_p: 0.5,
                    ..ParamValues::default()
                })
            };
            let with = [row, far].concat();
            assert_eq!(
                after("typ_p", params(), &with),
                after("typ_p", params(), row)
            );
        };
        for row in rows()
            .into_iter()
            .filter(|row| !row.contains(&f32::NEG_INFINITY))
        {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            check(&row, &[largest - 110.0, largest - 150.0, -1e30]);
        }
        check(
            &[3.0, 2.5, 2.0, 2.0, 1.0],
            &[-100.0, -100.5, -101.0, -200.0],
        );
    }

    #[test]
    fn typical_takes_no_notice_of_what_is_banned() {
        for row in rows() {
            let params = || {
                SamplingParams::from(ParamValues {
                    typical_p: 0.5,
                    ..ParamValues::default()
                })
            };
            let mut banned = row.clone();
            banned.extend([f32::NEG_INFINITY; 3]);
            let known: Vec<f32> = row
                .iter()
                .copied()
                .filter(|logit| logit.is_finite())
                .collect();
            let logits = |left: Vec<(usize, f32)>| left.iter().map(|&(_, l)| l).collect::<Vec<_>>();
            assert_eq!(
                logits(after("typ_p", params(), &banned)),
                logits(after("typ_p", params(), &known))
            );
        }
    }
}
