//! Reduces a row of logits and a token to a [`TokenLogprob`]: the arithmetic this project exists for.
//!
//! log p(t) = x(t) − m − ln Σ exp(x(i) − m), with m the largest logit: the log-softmax of the raw logits, written so
//! that nothing overflows (Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions",
//! IMA J. Numer. Anal. 41, 2021). The vocabulary is read, never sorted and never copied.

use std::sync::Arc;

use crate::model::{Loop, Token, vectorised};

/// What to compute for each row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogprobSpec {
    /// How many of the likeliest tokens to return.
    pub top: usize,
    /// Whether to compute [`Detail`].
    pub detail: bool,
    /// Tokens whose logprobs to return whatever their rank; each is within the vocabulary.
    pub named: Arc<[Token]>,
}

impl LogprobSpec {
    /// The `top` likeliest, and nothing else.
    pub fn top(top: usize) -> Self {
        Self {
            top,
            ..Self::default()
        }
    }

    /// Whether the result for `other` contains the result for this. The mass outside a smaller top is another sum, which
    /// differs in its low bits.
    pub fn within(&self, other: &Self) -> bool {
        self.top <= other.top
            && (!self.detail || (other.detail && self.top == other.top))
            && (self.named.is_empty() || self.named == other.named)
    }
}

/// The log-probability of a token and of the likeliest tokens at its position: log-softmax (natural logarithm) of the raw
/// logits over the whole vocabulary, before bias, penalties, grammar and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: Token,
    /// Nats, at most 0.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first; among equals the larger id first.
    pub top: Vec<(Token, f32)>,
    /// Nats, for each requested token, in the order of the request.
    pub named: Vec<f32>,
    /// If requested.
    pub detail: Option<Detail>,
}

/// Measures of how certain the model was, over the whole row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detail {
    /// The token's rank, 1 for the likeliest; equals are ordered as in the top.
    pub rank: usize,
    /// The Shannon entropy of the distribution, −Σ p ln p, in nats.
    pub entropy: f32,
    /// The total probability of the tokens outside the top.
    pub tail_mass: f32,
}

impl TokenLogprob {
    /// Only what `spec` asks for, which must be contained in this.
    pub fn narrowed(self: &Arc<Self>, spec: &LogprobSpec) -> Arc<Self> {
        let same = self.top.len() <= spec.top
            && self.named.len() == spec.named.len()
            && self.detail.is_some() == spec.detail;
        if same {
            return Arc::clone(self);
        }
        Arc::new(Self {
            token: self.token,
            logprob: self.logprob,
            top: self.top[..spec.top.min(self.top.len())].to_vec(),
            named: if spec.named.is_empty() {
                Vec::new()
            } else {
                self.named.clone()
            },
            detail: self.detail.filter(|_| spec.detail),
        })
    }
}

/// The likeliest tokens of a row of raw logits, for [`TokenLogprob`] and for samplers. Reused for each row, so that a token
/// costs no allocation.
#[derive(Debug, Default)]
pub struct Likeliest {
    /// Largest logit first, among equals the larger id first.
    kept: Vec<(f32, Token)>,
    /// The row's largest logit; 0 if it is not finite, as in the reference.
    largest: f32,
}

impl Likeliest {
    /// Finds the `count` likeliest tokens of a row, in one pass. A block is searched only if one of its logits reaches the
    /// smallest of those kept, which soon becomes rare.
    pub fn find(&mut self, logits: &[f32], count: usize) {
        const BLOCK: usize = 8 * LANES;
        let kept = &mut self.kept;
        kept.clear();
        let count = count.clamp(1, logits.len().max(1));
        for (number, block) in logits.chunks(BLOCK).enumerate() {
            if kept.len() == count {
                let smallest = kept[count - 1].0;
                // `>=`: an equal logit of a larger id comes before the one that is kept.
                if !block
                    .iter()
                    .fold(false, |any, &logit| any | (logit >= smallest))
                {
                    continue;
                }
            }
            for (offset, &logit) in block.iter().enumerate() {
                if kept.len() == count && logit < kept[count - 1].0 {
                    continue;
                }
                // Ids come in ascending order, so an equal logit goes before its equals.
                let place = kept.partition_point(|&(other, _)| other > logit);
                if place < count {
                    let id = i32::try_from(number * BLOCK + offset).unwrap_or(i32::MAX);
                    kept.truncate(count - 1);
                    kept.insert(place, (logit, Token(id)));
                }
            }
        }
        let largest = kept.first().map_or(0.0, |&(logit, _)| logit);
        self.largest = if largest.is_finite() { largest } else { 0.0 };
    }

    /// Logit and token, largest first, among equals the larger id first: as many as requested, but at least one.
    pub fn as_slice(&self) -> &[(f32, Token)] {
        &self.kept
    }
}

/// Reduces a row of logits to what `spec` asks for. `token` is within the row; `likeliest` holds at least as many tokens as
/// `spec` asks for.
pub fn score(
    logits: &[f32],
    likeliest: &Likeliest,
    token: Token,
    spec: &LogprobSpec,
) -> TokenLogprob {
    let largest = likeliest.largest;
    let log_sum = ln_sum_exp(logits, largest);
    // In the order of the reference: the largest logit is subtracted first, so that rounding errors are small.
    let logprob = |logit: f32| (f64::from(logit - largest) - log_sum) as f32;
    let of = |token: Token| {
        logits
            .get(token.index())
            .map_or(f32::NEG_INFINITY, |&logit| logprob(logit))
    };
    let top = &likeliest.kept[..spec.top.min(likeliest.kept.len())];
    TokenLogprob {
        token,
        logprob: of(token),
        named: spec.named.iter().map(|&token| of(token)).collect(),
        detail: spec
            .detail
            .then(|| detail(logits, (largest, log_sum), token, top)),
        top: top
            .iter()
            .map(|&(logit, token)| (token, logprob(logit)))
            .collect(),
    }
}

/// `top` are the likeliest tokens of the row, in order; `(largest, log_sum)` define its softmax.
fn detail(
    logits: &[f32],
    (largest, log_sum): (f32, f64),
    token: Token,
    top: &[(f32, Token)],
) -> Detail {
    let count = |part: &[f32], counts: &dyn Fn(f32) -> bool| {
        part.iter().filter(|&&logit| counts(logit)).count()
    };
    let (place, chosen) = (token.index(), logits.get(token.index()).copied());
    let chosen = chosen.unwrap_or(f32::NEG_INFINITY);
    let after = logits.get(place + 1..).unwrap_or_default();
    let Moments { tail, weighted } = vectorised(SumMoments {
        logits,
        largest,
        below: top.last().map_or(f32::INFINITY, |last| last.0),
    });
    // Logits equal to the last of the top that are not in it.
    let equals = top.last().map_or(0.0, |&(last, _)| {
        let within = top.iter().filter(|other| other.0 == last).count();
        let all = count(logits, &|logit| logit == last);
        (all - within) as f64 * f64::from(exp(last - largest))
    });
    let sum = log_sum.exp();
    Detail {
        rank: 1 + count(logits, &|logit| logit > chosen) + count(after, &|logit| logit == chosen),
        // −Σ p ln p with ln p = x − m − ln Σ.
        entropy: (log_sum - weighted / sum).max(0.0) as f32,
        tail_mass: ((tail + equals) / sum).min(1.0) as f32,
    }
}

/// ln Σ exp(x) over a row; −∞ if all logits are.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest.is_finite() {
        f64::from(largest) + ln_sum_exp(logits, largest)
    } else {
        f64::NEG_INFINITY
    }
}

/// Numbers that are added in parallel. Sixteen fill one AVX-512 register or two of AVX2; the compiler does the rest.
const LANES: usize = 16;

/// ln Σ exp(x − largest).
fn ln_sum_exp(logits: &[f32], largest: f32) -> f64 {
    vectorised(SumExp { logits, largest }).ln()
}

/// Σ exp(x − largest). Sums of a block are f32, their sum f64: a vocabulary of 262,144 is off by less than 1e-6.
struct SumExp<'a> {
    logits: &'a [f32],
    largest: f32,
}

impl Loop for SumExp<'_> {
    type Outcome = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        /// Few enough that f32 sums of numbers up to 1 keep six digits.
        const BLOCK: usize = 64 * LANES;
        let largest = self.largest;
        let mut sum = 0.0_f64;
        for block in self.logits.chunks(BLOCK) {
            let mut lanes = [0.0_f32; LANES];
            let (vectors, rest) = block.as_chunks::<LANES>();
            for vector in vectors {
                for (lane, &logit) in lanes.iter_mut().zip(vector) {
                    *lane += exp(logit - largest);
                }
            }
            sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
            sum += rest
                .iter()
                .map(|&logit| f64::from(exp(logit - largest)))
                .sum::<f64>();
        }
        sum
    }
}

/// The sums that entropy and tail are computed from.
struct Moments {
    /// Σ exp(x − largest) over the logits below a bound.
    tail: f64,
    /// Σ exp(x − largest) · (x − largest) over all.
    weighted: f64,
}

/// Computes [`Moments`], in blocks as [`SumExp`].
struct SumMoments<'a> {
    logits: &'a [f32],
    largest: f32,
    below: f32,
}

impl Loop for SumMoments<'_> {
    type Outcome = Moments;

    #[inline(always)]
    fn run(self) -> Moments {
        const BLOCK: usize = 64 * LANES;
        let Self {
            logits,
            largest,
            below,
        } = self;
        let mut moments = Moments {
            tail: 0.0,
            weighted: 0.0,
        };
        for block in logits.chunks(BLOCK) {
            let mut tails = [0.0_f32; LANES];
            let mut weighted = [0.0_f32; LANES];
            // Includes the last, shorter part of a block: the other lanes add nothing.
            for part in block.chunks(LANES) {
                for ((tail, weight), &logit) in tails.iter_mut().zip(&mut weighted).zip(part) {
                    // 0 times an infinity would be NaN.
                    let x = (logit - largest).max(-87.0);
                    let power = exp(x);
                    *tail += if logit < below { power } else { 0.0 };
                    *weight += power * x;
                }
            }
            let sum = |lanes: [f32; LANES]| lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
            moments.tail += sum(tails);
            moments.weighted += sum(weighted);
        }
        moments
    }
}

/// e^x for x ≤ 0, to two units in the last place. Without a branch or a call, so that it vectorizes; the standard
/// library's does not.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by the polynomial of Cephes' `expf` (S. L. Moshier), 2^n by the exponent's
/// bits. Below −87 the true value is below 1.6e-38, which is negligible compared with the largest token's 1.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to a whole number, which then is in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that n · ln 2 is exact enough.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5.000_000_3e-1);
    p = p.mul_add(r * r, r + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let value = p * power;
    if x > -87.0 { value } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Random numbers without a dependency: xorshift, in the range of logits.
    pub(crate) fn logits(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 40) as f32 / 16_777_216.0) * 40.0 - 25.0
            })
            .collect()
    }

    /// A score with these numbers.
    pub(crate) fn scored(token: i32, logprob: f32, top: &[(i32, f32)]) -> TokenLogprob {
        TokenLogprob {
            token: Token(token),
            logprob,
            top: top
                .iter()
                .map(|&(id, logprob)| (Token(id), logprob))
                .collect(),
            named: Vec::new(),
            detail: None,
        }
    }

    /// Finds and scores in one step.
    fn score(logits: &[f32], token: Token, top: usize) -> TokenLogprob {
        let mut likeliest = Likeliest::default();
        likeliest.find(logits, top);
        super::score(logits, &likeliest, token, &LogprobSpec::top(top))
    }

    /// The definition, in f64, by a full sort.
    fn naive(logits: &[f32], token: Token, top: usize) -> (f64, Vec<(Token, f64)>) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|&x| (f64::from(x) - f64::from(max)).exp())
            .sum();
        let logprob = |x: f32| f64::from(x) - f64::from(max) - sum.ln();
        let mut all: Vec<_> = logits
            .iter()
            .enumerate()
            .map(|(i, &x)| (Token(i as i32), x))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let top = all
            .into_iter()
            .take(top)
            .map(|(t, x)| (t, logprob(x)))
            .collect();
        (logprob(logits[token.index()]), top)
    }

    #[test]
    fn the_sum_has_the_same_bits_whatever_the_cpu() {
        // Written down, so that a build for another CPU is held against this one too.
        for (count, bits) in [
            (1, 0x3f72_c5c8_8000_0000),
            (15, 0x3fec_7e9a_9bb5_787a),
            (16, 0x3fec_7e9a_9c2b_b70e),
            (17, 0x3fec_7e9a_9c2b_b70e),
            (5000, 0x4061_380b_a956_393a),
            (49_152, 0x4093_0a2e_d566_c000),
        ] {
            let logits = logits(count, 3);
            let sum = || SumExp {
                logits: &logits,
                largest: 15.0,
            };
            assert_eq!(vectorised(sum()).to_bits(), bits, "{count}");
            assert_eq!(sum().run().to_bits(), bits, "{count}");
        }
    }

    #[test]
    fn equals_the_definition_in_f64() {
        for (count, top) in [
            (1, 1),
            (7, 3),
            (16, 20),
            (1000, 5),
            (32_000, 0),
            (49_152, 20),
            (262_144, 100),
        ] {
            for seed in 1..4 {
                let row = logits(count, seed);
                let token = Token((seed as i32 * 7919) % count as i32);
                let ours = score(&row, token, top);
                let (logprob, best) = naive(&row, token, top);
                assert!((f64::from(ours.logprob) - logprob).abs() < 2e-6 * logprob.abs().max(1.0));
                assert_eq!(
                    ours.top.iter().map(|t| t.0).collect::<Vec<_>>(),
                    best.iter().map(|t| t.0).collect::<Vec<_>>()
                );
                for (a, b) in ours.top.iter().zip(&best) {
                    assert!((f64::from(a.1) - b.1).abs() < 2e-6 * b.1.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn detail_equals_its_definition_in_f64() {
        for (count, top) in [
            (1, 0),
            (1, 1),
            (7, 3),
            (1000, 5),
            (49_152, 20),
            (262_144, 100),
        ] {
            for seed in 1..4 {
                let mut row = logits(count, seed);
                if seed == 2 {
                    // Equals within the top and outside, and bans.
                    for logit in &mut row {
                        *logit = logit.round();
                    }
                    for ban in (1..count).step_by(3) {
                        row[ban] = f32::NEG_INFINITY;
                    }
                }
                let token = Token((seed as i32 * 7919) % count as i32);
                let named: Arc<[Token]> = [Token(0), Token(count as i32 - 1)].into();
                let spec = LogprobSpec {
                    top,
                    detail: true,
                    named: Arc::clone(&named),
                };
                let mut likeliest = Likeliest::default();
                likeliest.find(&row, top);
                let scored = super::score(&row, &likeliest, token, &spec);
                let detail = scored.detail.expect("requested");

                let max = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
                let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) - max).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let entropy: f64 = powers
                    .iter()
                    .map(|power| power / sum)
                    .filter(|&p| p > 0.0)
                    .map(|p| -p * p.ln())
                    .sum();
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(b.cmp(&a)));
                let rank = order.iter().position(|&id| id == token.index());
                let tail: f64 = order.iter().skip(top).map(|&id| powers[id] / sum).sum();
                let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 3e-6 * b.abs().max(1e-3);
                assert_eq!(Some(detail.rank - 1), rank, "{count} {seed}");
                assert!(near(detail.entropy, entropy), "{detail:?} {entropy}");
                assert!(near(detail.tail_mass, tail), "{detail:?} {tail}");
                for (&token, &logprob) in named.iter().zip(&scored.named) {
                    assert_eq!(logprob, score(&row, token, 0).logprob);
                }

                let fewer = Arc::new(scored).narrowed(&LogprobSpec::top(top / 2));
                assert_eq!((fewer.top.len(), fewer.named.len()), (top / 2, 0));
                assert_eq!(fewer.detail, None);
            }
        }
    }

    #[test]
    fn a_spec_is_within_one_that_asks_for_more() {
        let spec = |top, detail, named: &[i32]| LogprobSpec {
            top,
            detail,
            named: named.iter().copied().map(Token).collect(),
        };
        let more = spec(5, true, &[1, 2]);
        assert!(spec(5, true, &[1, 2]).within(&more));
        assert!(spec(0, false, &[]).within(&more));
        assert!(!spec(6, false, &[]).within(&more));
        assert!(!spec(1, false, &[2]).within(&more));
        assert!(!spec(1, true, &[]).within(&spec(5, false, &[])));
        assert!(!spec(1, true, &[]).within(&more));
    }

    #[test]
    fn among_equal_logits_the_larger_id_comes_first() {
        let row = [1.0, 5.0, 5.0, 2.0, 5.0];
        let top: Vec<i32> = score(&row, Token(0), 4).top.iter().map(|t| t.0.0).collect();
        assert_eq!(top, [4, 2, 1, 3]);
        let many = vec![0.5; 1000];
        let top: Vec<i32> = score(&many, Token(0), 3)
            .top
            .iter()
            .map(|t| t.0.0)
            .collect();
        assert_eq!(top, [999, 998, 997]);
    }

    #[test]
    fn a_certain_token_has_a_logprob_of_zero() {
        let mut row = vec![-1000.0; 500];
        row[17] = 1000.0;
        let scored = score(&row, Token(17), 1);
        assert_eq!(scored.logprob, 0.0);
        assert_eq!(score(&row, Token(0), 0).logprob, -2000.0);
    }

    #[test]
    fn infinite_logits_stay_in_place() {
        let row = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 1.0];
        let scored = score(&row, Token(0), 2);
        assert_eq!(scored.logprob, f32::NEG_INFINITY);
        assert!((scored.top[0].1 + std::f32::consts::LN_2).abs() < 1e-6);
    }

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (ours - exact).abs() <= exact * 2.5e-7,
                "{x}: {ours} {exact}"
            );
        }
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }
}
