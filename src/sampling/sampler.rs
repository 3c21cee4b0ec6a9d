//! Draws the tokens of one sequence.

use std::sync::Arc;

use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::bans::Bans;
use super::candidates::{self, add};
use super::error::ConstraintError;
use super::follower::Follower;
use super::observe::{Mode, Recording};
use super::params::SamplingParams;
use super::stages::{DIST, SamplerInputs, Stage, Stages};
use crate::logprobs::Likeliest;
use crate::model::{Model, Token};

/// With more candidates than this, finding them costs as much as scanning the whole vocabulary.
const FEW: usize = 512;

/// The samplers of one sequence, with their state. It stays with the sequence on the worker's thread.
pub struct Sampler {
    /// Added to the logits of single tokens.
    bias: Vec<(Token, f32)>,
    bans: Bans,
    /// All others are banned; ascending.
    allowed: Option<Arc<[Token]>>,
    constraint: Option<Follower>,
    /// The tokens that end a generation.
    ends: Box<[Token]>,
    /// The next token, instead of the one that is drawn.
    forced: Option<Token>,
    stages: Stages,
    /// How many candidates the first cut keeps, whatever they are; `None`: it must look at the whole vocabulary.
    keeps: Option<usize>,
    /// In llama.cpp's form. Its memory is reused for each token, as is that of `touched`.
    candidates: LlamaTokenDataArray,
    /// Tokens whose logits are about to be changed.
    touched: Vec<Token>,
}

impl Sampler {
    /// For a text that begins with `prompt`, which DRY searches, too.
    pub fn new(model: &Model, params: &SamplingParams, prompt: &[Token]) -> Self {
        let vocab = model.vocab();
        Self::over(vocab.len(), vocab.ends(), params, prompt)
    }

    /// Without a model: `ends` are the tokens that end a generation.
    pub fn over(
        vocabulary: usize,
        ends: &[Token],
        params: &SamplingParams,
        prompt: &[Token],
    ) -> Self {
        let stages = Stages::new(&SamplerInputs {
            params,
            n_vocab: i32::try_from(vocabulary).unwrap_or(i32::MAX),
            prompt,
        });
        let keeps = if params.constraint.is_some() || params.allowed_tokens.is_some() {
            None
        } else {
            stages.keeps()
        };
        let mut bias = params.logit_bias.clone();
        if params.ignore_eos {
            bias.extend(ends.iter().map(|&token| (token, f32::NEG_INFINITY)));
        }
        Self {
            bias,
            bans: Bans::new(params, ends),
            allowed: params.allowed_tokens.clone(),
            constraint: params.constraint.as_ref().map(Follower::new),
            ends: ends.into(),
            forced: None,
            stages,
            keeps,
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            touched: Vec::new(),
        }
    }

    /// How many of the likeliest tokens [`Sampler::sample`] needs to do without the rest of the row. 0: it reads the whole
    /// row.
    pub fn wants(&self) -> usize {
        self.keeps
            // One more than are kept: whether an equal logit follows decides whether the cut is clear.
            .map(|keeps| keeps.saturating_add(self.touched().count() + 1))
            .filter(|&count| count <= FEW)
            .unwrap_or(0)
    }

    /// Takes out what computes the tokens that the constraint allows, for another thread. Nothing can be drawn until
    /// [`Sampler::finish_mask`]. `None`: every token is allowed.
    pub fn start_mask(&mut self) -> Option<Follower> {
        self.constraint.as_mut().map(Follower::take)
    }

    /// Puts back what [`Sampler::start_mask`] took out.
    pub fn finish_mask(&mut self, follower: Follower) {
        self.constraint = Some(follower);
    }

    /// The names of the stages that are on, in their order. The last one draws; greedy sampling has none that does.
    pub fn stages(&self) -> impl Iterator<Item = &'static str> {
        let Stages { changes, picks } = &self.stages;
        changes.iter().chain(picks).map(|stage| stage.name)
    }

    /// Makes this the next token, instead of the one that is drawn. No ban but the constraint applies to it.
    pub fn force(&mut self, token: Token) {
        self.forced = Some(token);
    }

    /// Draws the next token from a row of logits and its [`Sampler::wants`] likeliest tokens. `None`: no token is allowed,
    /// not even an end.
    pub fn sample(
        &mut self,
        logits: &[f32],
        likeliest: &Likeliest,
    ) -> Result<Option<Token>, ConstraintError> {
        if !self.gather_few(logits, likeliest) {
            candidates::fill(&mut self.candidates, logits);
            self.change(None);
            self.mask()?;
        }
        self.finish(None)
    }

    /// Draws the same token and records what each stage does, for which the whole row is read.
    pub fn sample_watched(
        &mut self,
        logits: &[f32],
        recording: &mut Recording,
    ) -> Result<Option<Token>, ConstraintError> {
        recording.begin(logits);
        candidates::fill(&mut self.candidates, logits);
        self.change(Some(recording));
        self.mask()?;
        if self.constraint.is_some() || self.allowed.is_some() {
            recording.record("constraint", Mode::Masked, &self.candidates);
        }
        self.finish(Some(recording))
    }

    fn finish(
        &mut self,
        mut recording: Option<&mut Recording>,
    ) -> Result<Option<Token>, ConstraintError> {
        let mut next = self.pick(recording.as_deref_mut());
        if let Some(forced) = self.forced.take() {
            if let Some(constraint) = &mut self.constraint {
                constraint.check(forced)?;
            }
            if let Some(recording) = recording {
                recording.forget_draw();
            }
            next = Some(forced);
        }
        match next {
            Some(token) => self.accept(token),
            None => self.check_end()?,
        }
        Ok(next)
    }

    /// Where no token is left, the constraint must be complete: only an end would have followed, and that is banned.
    fn check_end(&mut self) -> Result<(), ConstraintError> {
        let Some(constraint) = &mut self.constraint else {
            return Ok(());
        };
        let allowed = constraint.allowed()?;
        let may_end = |end: &Token| allowed.get(end.index()) == Some(&true);
        if self.ends.is_empty() || self.ends.iter().any(may_end) {
            return Ok(());
        }
        let why = if allowed.contains(&true) {
            "none of the tokens that it allows next is left by `allowed_token_ids`, `bad_words` and the other bans"
        } else {
            "it allows nothing"
        };
        Err(constraint.stuck(why))
    }

    /// Tokens whose logits are about to be changed; may repeat tokens.
    fn touched(&self) -> impl Iterator<Item = Token> {
        let biased = self.bias.iter().map(|&(token, _)| token);
        let changed = self.stages.changes.iter().flat_map(Stage::touched);
        biased.chain(self.bans.tokens()).chain(changed)
    }

    /// Fills the candidates with those that the first cut keeps, changed and sorted as llama.cpp would do it with the whole
    /// row. `false`: the likeliest alone do not determine them.
    ///
    /// At least one more of the likeliest than are kept have logits that nothing changes. So an unchanged logit outside
    /// the likeliest is at most the last of them; if the last that is kept is larger than that, none from outside belongs
    /// to those kept. Among equal logits llama.cpp's order depends on its sort: then, too, the whole row is needed.
    fn gather_few(&mut self, logits: &[f32], likeliest: &Likeliest) -> bool {
        let wants = self.wants();
        let found = likeliest.as_slice();
        let (Some(keeps), Some(&(last, _))) = (self.keeps, found.last()) else {
            return false;
        };
        if wants == 0 || found.len() < wants.min(logits.len()) {
            return false;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.clear();
        touched.extend(self.touched());
        candidates::fill_few(&mut self.candidates, found, &touched, logits);
        self.touched = touched;
        self.change(None);
        let outside = (found.len() < logits.len()).then_some(last);
        candidates::cut(&mut self.candidates, keeps, outside)
    }

    /// Applies bias, bans of single tokens and penalties.
    fn change(&mut self, mut recording: Option<&mut Recording>) {
        let candidates = &mut self.candidates;
        for &(token, bias) in &self.bias {
            add(candidates, token, bias);
        }
        let mut changed = !self.bias.is_empty();
        for token in self.bans.tokens() {
            add(candidates, token, f32::NEG_INFINITY);
            changed = true;
        }
        if let Some(recording) = recording.as_mut().filter(|_| changed) {
            recording.record("bias", Mode::Biased, candidates);
        }
        for stage in &mut self.stages.changes {
            stage.apply(candidates);
            if let Some(recording) = &mut recording {
                recording.record(stage.name, Mode::Penalized, candidates);
            }
        }
    }

    /// Bans, in the whole row, what the constraint or the list of allowed tokens does not allow.
    fn mask(&mut self) -> Result<(), ConstraintError> {
        let candidates = &mut self.candidates.data;
        if let Some(constraint) = &mut self.constraint {
            for (candidate, &allowed) in candidates.iter_mut().zip(constraint.allowed()?) {
                if !allowed {
                    candidate.set_logit(f32::NEG_INFINITY);
                }
            }
        }
        if let Some(allowed) = &self.allowed {
            let mut allowed = allowed.iter().peekable();
            for candidate in candidates {
                let id = candidate.id().0;
                if allowed.next_if(|token| token.0 == id).is_none() {
                    candidate.set_logit(f32::NEG_INFINITY);
                }
            }
        }
        Ok(())
    }

    /// Picks one of the candidates; `None` if all are banned.
    fn pick(&mut self, mut recording: Option<&mut Recording>) -> Option<Token> {
        let candidates = &mut self.candidates;
        if self.stages.picks.is_empty() {
            let token = candidates::greedy(candidates)?;
            if let Some(recording) = recording {
                recording.record_greedy(token);
            }
            return Some(token);
        }
        for stage in &mut self.stages.picks {
            if candidates::are_all_banned(candidates) {
                return None;
            }
            stage.apply(candidates);
            match &mut recording {
                None => {}
                Some(recording) if stage.name == DIST => recording.record_draw(candidates),
                Some(recording) => recording.record(stage.name, Mode::Sampled, candidates),
            }
        }
        candidates::selected(candidates)
    }

    /// Appends a token of the text.
    pub fn accept(&mut self, token: Token) {
        self.bans.accept(token);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
        let Stages { changes, picks } = &mut self.stages;
        for stage in changes.iter_mut().chain(picks) {
            stage.accept(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sampler_name::SamplerName;
    use super::*;
    use crate::logprobs::tests::logits;
    use crate::params::ParamValues;

    /// Random logits, rounded: the coarser the steps, the more equals.
    fn row(count: usize, seed: u64, steps: f32) -> Vec<f32> {
        let mut row = logits(count, seed);
        for logit in &mut row {
            *logit = (*logit * steps).round() / steps;
        }
        row
    }

    fn names(names: &[&str]) -> Vec<SamplerName> {
        names
            .iter()
            .map(|name| SamplerName::read(name).expect("a name"))
            .collect()
    }

    fn words(words: &[&[i32]]) -> Arc<[Vec<Token>]> {
        words
            .iter()
            .map(|ids| ids.iter().copied().map(Token).collect())
            .collect()
    }

    /// Draws forty tokens from rows of 1,000; how many of them from few candidates.
    fn draws(params: &SamplingParams, steps: f32) -> usize {
        let ends = [Token(3), Token(998)];
        let prompt: Vec<Token> = [7, 8, 9, 7, 8].map(Token).repeat(4);
        let mut few = Sampler::over(1000, &ends, params, &prompt);
        let mut all = Sampler::over(1000, &ends, params, &prompt);
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
            SamplingParams::from(ParamValues {
                temperature: 0.0,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                top_k: 1,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                typical_p: 0.5,
                top_p: 0.7,
                temperature: 1.7,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                repeat_penalty: 1.3,
                presence_penalty: -1.5,
                frequency_penalty: 0.5,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                repetition_penalty: 1.3,
                frequency_penalty: 0.5,
                ..ParamValues::default()
            }),
            SamplingParams {
                values: ParamValues {
                    min_tokens: 20,
                    repeat_penalty: 1.1,
                    ..ParamValues::default()
                },
                logit_bias: vec![
                    (Token(3), 30.0),
                    (Token(5), 14.0),
                    (Token(900), f32::NEG_INFINITY),
                ],
                ..SamplingParams::default()
            },
            SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    repeat_penalty: 2.0,
                    ..ParamValues::default()
                },
                logit_bias: (0..50).map(|id| (Token(id), 4.0)).collect(),
                ..SamplingParams::default()
            },
        ];
        let mut variants = variants.to_vec();
        variants.extend([
            SamplingParams::from(ParamValues {
                dry_multiplier: 2.0,
                dry_allowed_length: 1,
                repeat_penalty: 1.1,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                xtc_probability: 0.5,
                xtc_threshold: 0.05,
                dynatemp_range: 0.5,
                ..ParamValues::default()
            }),
            SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    ..ParamValues::default()
                },
                ignore_eos: true,
                logit_bias: vec![(Token(3), 30.0), (Token(998), 30.0)],
                bad_words: words(&[&[1], &[2, 3], &[500]]),
                ..SamplingParams::default()
            },
            SamplingParams {
                values: ParamValues {
                    min_tokens: 20,
                    dry_multiplier: 1.0,
                    dry_allowed_length: 0,
                    presence_penalty: 1.0,
                    top_n_sigma: 1.0,
                    ..ParamValues::default()
                },
                stop_tokens: (0..200).map(Token).collect(),
                samplers: names(&["dry", "top_k", "penalties", "top_n_sigma", "temperature"]),
                ..SamplingParams::default()
            },
        ]);
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
            assert_eq!(Sampler::over(1000, &[], params, &[]).wants(), expect);
        };
        check(&SamplingParams::default(), 41);
        check(
            &SamplingParams::from(ParamValues {
                temperature: 0.0,
                ..ParamValues::default()
            }),
            2,
        );
        check(
            &SamplingParams::from(ParamValues {
                top_k: 0,
                ..ParamValues::default()
            }),
            0,
        );
        check(
            &SamplingParams::from(ParamValues {
                mirostat_mode: 2,
                mirostat_tau: 5.0,
                mirostat_eta: 0.1,
                ..ParamValues::default()
            }),
            0,
        );
        check(
            &SamplingParams::from(ParamValues {
                top_k: 600,
                ..ParamValues::default()
            }),
            0,
        );
    }

    /// Draws this many tokens, each from the row of its number.
    fn drawn(params: &SamplingParams, rows: &[Vec<f32>], ends: &[Token]) -> Vec<Option<i32>> {
        let mut sampler = Sampler::over(rows[0].len(), ends, params, &[]);
        let mut likeliest = Likeliest::default();
        rows.iter()
            .map(|row| {
                likeliest.find(row, sampler.wants());
                let token = sampler.sample(row, &likeliest);
                token.expect("no grammar").map(|token| token.0)
            })
            .collect()
    }

    fn greedy() -> SamplingParams {
        SamplingParams::from(ParamValues {
            temperature: 0.0,
            ..ParamValues::default()
        })
    }

    #[test]
    fn stages_come_in_the_order_that_is_asked_for() {
        let check = |params: SamplingParams, expect: &[&str]| {
            let sampler = Sampler::over(1000, &[], &params, &[]);
            assert_eq!(sampler.stages().collect::<Vec<_>>(), expect);
        };
        let everything = SamplingParams::from(ParamValues {
            repeat_penalty: 1.1,
            dry_multiplier: 0.8,
            top_n_sigma: 1.0,
            typical_p: 0.9,
            xtc_probability: 0.5,
            ..ParamValues::default()
        });
        check(
            SamplingParams::default(),
            &["top_k", "top_p", "min_p", "temperature", "dist"],
        );
        check(greedy(), &[]);
        check(
            everything.clone(),
            &[
                "penalties",
                "dry",
                "top_n_sigma",
                "top_k",
                "typ_p",
                "top_p",
                "min_p",
                "xtc",
                "temperature",
                "dist",
            ],
        );
        check(
            SamplingParams {
                samplers: names(&["temperature", "dry", "typical_p", "top_k"]),
                ..everything.clone()
            },
            &["temperature", "dry", "typ_p", "top_k", "dist"],
        );
        check(
            SamplingParams {
                samplers: Vec::new(),
                ..everything.clone()
            },
            &["dist"],
        );
        check(
            SamplingParams {
                values: ParamValues {
                    mirostat_mode: 2,
                    mirostat_tau: 5.0,
                    mirostat_eta: 0.1,
                    ..everything.values
                },
                ..everything.clone()
            },
            &["penalties", "dry", "mirostat"],
        );
        // At a temperature of 0 the likeliest is taken, unless something may leave it out.
        check(
            SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    xtc_probability: 0.0,
                    ..everything.values
                },
                ..everything.clone()
            },
            &["penalties", "dry"],
        );
        check(
            SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    ..everything.values
                },
                samplers: names(&["top_k", "xtc", "temperature"]),
                ..everything
            },
            &["top_k", "xtc", "temperature", "dist"],
        );
        assert_eq!(SamplerName::read("Top_k"), None);
        assert_eq!(SamplerName::read("typ_p"), SamplerName::read("typical_p"));
    }

    #[test]
    fn the_order_matters_and_what_is_left_out_is_not_applied() {
        // At this temperature all are within a tenth of the likeliest; before it, one is.
        let row: Vec<f32> = (0..50).map(|id| id as f32).collect();
        let rows = vec![row; 200];
        let distinct = |samplers: &[&str]| {
            let params = SamplingParams {
                values: ParamValues {
                    temperature: 50.0,
                    min_p: 0.1,
                    ..ParamValues::default()
                },
                samplers: names(samplers),
                ..SamplingParams::default()
            };
            let mut drawn = drawn(&params, &rows, &[]);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        let hot = distinct(&["temperature", "min_p"]);
        assert!(hot.len() > 40, "{hot:?}");
        let cut = distinct(&["min_p", "temperature"]);
        assert_eq!(cut, [Some(47), Some(48), Some(49)]);
        // Neither hot nor cut: nearly all of it lies within a few.
        let plain = distinct(&[]);
        assert!((3..20).contains(&plain.len()), "{plain:?}");
        // A temperature of 0 that is not named has no effect either.
        let params = SamplingParams {
            values: ParamValues {
                temperature: 0.0,
                ..ParamValues::default()
            },
            samplers: Vec::new(),
            ..SamplingParams::default()
        };
        let drawn = drawn(&params, &rows, &[]);
        assert!(drawn.iter().any(|&token| token != Some(49)), "{drawn:?}");
    }

    #[test]
    fn seeds_repeat_with_every_sampler_that_draws() {
        let rows: Vec<Vec<f32>> = (0..60).map(|seed| row(300, seed, 1e6)).collect();
        for params in [
            SamplingParams::default(),
            SamplingParams::from(ParamValues {
                xtc_probability: 0.5,
                xtc_threshold: 0.01,
                temperature: 2.0,
                ..ParamValues::default()
            }),
            // XTC alone draws here.
            SamplingParams::from(ParamValues {
                xtc_probability: 0.5,
                xtc_threshold: 0.01,
                temperature: 0.0,
                ..ParamValues::default()
            }),
            SamplingParams::from(ParamValues {
                dynatemp_range: 2.0,
                ..ParamValues::default()
            }),
        ] {
            let with = |seed| {
                let params = SamplingParams {
                    seed,
                    ..params.clone()
                };
                drawn(&params, &rows, &[])
            };
            assert_eq!(with(1), with(1), "{params:?}");
            assert_ne!(with(1), with(2), "{params:?}");
        }
    }

    #[test]
    fn bans_hold_whatever_the_logits_say() {
        let row = [5.0_f32, 4.0, 3.0, 2.0, 1.0, 0.0].to_vec();
        let rows = vec![row; 5];
        let check = |params: SamplingParams, ends: &[i32], expect: &[i32]| {
            let ends: Vec<Token> = ends.iter().copied().map(Token).collect();
            let expect: Vec<Option<i32>> = expect.iter().copied().map(Some).collect();
            assert_eq!(drawn(&params, &rows, &ends), expect, "{params:?}");
        };
        check(greedy(), &[0], &[0; 5]);
        check(
            SamplingParams {
                ignore_eos: true,
                logit_bias: vec![(Token(1), 100.0)],
                ..greedy()
            },
            &[0, 1],
            &[2; 5],
        );
        check(
            SamplingParams {
                values: ParamValues {
                    min_tokens: 2,
                    ..greedy().values
                },
                stop_tokens: vec![Token(1)],
                ..greedy()
            },
            &[0],
            &[2, 2, 0, 0, 0],
        );
        check(
            SamplingParams {
                allowed_tokens: Some([Token(3), Token(5)].into()),
                ..greedy()
            },
            &[0],
            &[3; 5],
        );
        // The last token of a bad word, where the text ends with the others.
        check(
            SamplingParams {
                bad_words: words(&[&[0, 0, 1, 0], &[0, 0, 0], &[0, 0, 1, 1]]),
                ..greedy()
            },
            &[],
            &[0, 0, 1, 2, 0],
        );
        check(
            SamplingParams {
                bad_words: words(&[&[1], &[0], &[1]]),
                ..greedy()
            },
            &[],
            &[2; 5],
        );
        check(
            SamplingParams {
                bad_words: words(&[&[2, 2, 2], &[0], &[1], &[2, 3, 0]]),
                ..greedy()
            },
            &[],
            &[2, 2, 3, 2, 2],
        );
    }

    #[test]
    fn with_everything_banned_there_is_no_token() {
        let rows = vec![row(6, 1, 1e6)];
        let all = || (0..6).map(Token);
        let bans = [
            SamplingParams {
                logit_bias: all().map(|token| (token, f32::NEG_INFINITY)).collect(),
                ..SamplingParams::default()
            },
            SamplingParams {
                bad_words: all().map(|token| vec![token]).collect(),
                ..SamplingParams::default()
            },
            SamplingParams {
                allowed_tokens: Some([Token(4)].into()),
                logit_bias: vec![(Token(4), f32::NEG_INFINITY)],
                ..SamplingParams::default()
            },
            SamplingParams {
                allowed_tokens: Some([Token(0), Token(1)].into()),
                ignore_eos: true,
                ..SamplingParams::default()
            },
        ];
        for ban in bans {
            let expect = [None];
            let check = |params| assert_eq!(drawn(&params, &rows, &[Token(0), Token(1)]), expect);
            check(ban.clone());
            check(SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    ..ban.values
                },
                ..ban.clone()
            });
            check(SamplingParams {
                values: ParamValues {
                    mirostat_mode: 1,
                    mirostat_tau: 5.0,
                    mirostat_eta: 0.1,
                    ..ban.values
                },
                ..ban.clone()
            });
            check(SamplingParams {
                values: ParamValues {
                    mirostat_mode: 2,
                    mirostat_tau: 5.0,
                    mirostat_eta: 0.1,
                    ..ban.values
                },
                ..ban.clone()
            });
            // Each sampler first.
            for first in SamplerName::default_order() {
                let mut samplers: Vec<SamplerName> = SamplerName::default_order().collect();
                samplers.retain(|&name| name != first);
                samplers.insert(0, first);
                check(SamplingParams {
                    values: ParamValues {
                        repeat_penalty: 1.1,
                        dry_multiplier: 1.0,
                        top_n_sigma: 1.0,
                        typical_p: 0.5,
                        xtc_probability: 1.0,
                        dynatemp_range: 2.0,
                        ..ban.values
                    },
                    samplers,
                    ..ban.clone()
                });
            }
        }
    }
}
