//! A row of logits and [`SamplingParams`] become a token, stage by stage (`stages` has the table). The arithmetic of each
//! is llama.cpp's own, in the order of llama-cpp-python, so that a seed draws the very tokens that it draws there.
//! Grammars are followed here: llama.cpp keeps every way to read a text, which can double with each character, and ends
//! the process on some. So is DRY (`dry` says why). JSON schemas, regular expressions and Lark grammars are llguidance's.

mod constraint;
mod dry;
mod gbnf;
mod grammar;
mod guidance;
mod observe;
mod params;
mod stages;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

pub use constraint::{Constraint, ConstraintError, Follow, Follower, Rules, Stuck};
pub use dry::Breakers;
pub use grammar::{GrammarError, TooAmbiguous};
pub use observe::{Draw, Mode, Observed, Recording, Trace, TracedStage, Watch};
pub use params::{Mirostat, SamplingParams};
pub use stages::SamplerName;

use std::sync::Arc;

use crate::logprobs::Likeliest;
use crate::model::{Model, Token, Vocab};
use stages::{DIST, Ground, Stage, Stages, add};

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
    bad_words: Arc<[Vec<Token>]>,
    /// Tokens that stand before the last of the longest bad word.
    looks_back: usize,
    /// The last generated tokens: as many as that, and up to as many again.
    recent: Vec<Token>,
    /// Tokens that would complete a bad word now: first those that are one by themselves, ascending.
    completing: Vec<Token>,
    /// How many are one by themselves.
    whole_words: usize,
    /// All others are banned; ascending.
    allowed: Option<Arc<[Token]>>,
    constraint: Option<Follower>,
    /// Comes next, whatever is drawn.
    given: Option<Token>,
    stages: Stages,
    /// Candidates that the first cut leaves, whatever the others are; `None`: the whole vocabulary must be looked at.
    keeps: Option<usize>,
    /// The candidates as llama.cpp's samplers want them; kept from token to token, as is the list below.
    candidates: LlamaTokenDataArray,
    /// Tokens whose logits are about to be changed.
    touched: Vec<Token>,
}

impl Sampler {
    /// For a text that begins with `prompt`, which DRY looks at.
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
        let stages = Stages::new(&Ground {
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
        let words = params.bad_words.iter();
        let mut completing: Vec<Token> = words
            .clone()
            .filter(|word| word.len() == 1)
            .flatten()
            .copied()
            .collect();
        completing.sort_unstable();
        completing.dedup();
        Self {
            bias,
            ends: if params.min_tokens > 0 {
                [ends, &params.stop_tokens].concat()
            } else {
                Vec::new()
            },
            min_tokens: params.min_tokens,
            drawn: 0,
            bad_words: Arc::clone(&params.bad_words),
            looks_back: words.map(Vec::len).max().unwrap_or(0).saturating_sub(1),
            recent: Vec::new(),
            whole_words: completing.len(),
            completing,
            allowed: params.allowed_tokens.clone(),
            constraint: params.constraint.as_ref().map(Follower::new),
            given: None,
            stages,
            keeps,
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            touched: Vec::new(),
        }
    }

    /// How many of the likeliest tokens [`Sampler::sample`] wants to be told; it does not look at the rest of the row
    /// then. 0: it looks at the row only.
    pub fn wants(&self) -> usize {
        self.keeps
            // One more than are kept: whether an equal follows decides whether the cut is clear.
            .map(|keeps| keeps.saturating_add(self.touched().count() + 1))
            .filter(|&count| count <= FEW)
            .unwrap_or(0)
    }

    /// Gives out what computes the tokens that the constraint allows, for another thread. Nothing can be drawn until
    /// [`Sampler::finish_mask`]. `None`: every token is allowed.
    pub fn start_mask(&mut self) -> Option<Follower> {
        self.constraint.as_mut().map(Follower::take)
    }

    /// Takes back what [`Sampler::start_mask`] gave out.
    pub fn finish_mask(&mut self, follower: Follower) {
        self.constraint = Some(follower);
    }

    /// The names of the stages that are on, in their order; the last one draws, and greedy has none that does.
    pub fn stages(&self) -> impl Iterator<Item = &'static str> {
        let Stages { changes, picks } = &self.stages;
        changes.iter().chain(picks).map(|stage| stage.name)
    }

    /// Has this token come next, in place of the one that is drawn: of all that can ban a token only what the text must
    /// follow has a say.
    pub fn give(&mut self, token: Token) {
        self.given = Some(token);
    }

    /// Draws the next token, given a row of logits and its [`Sampler::wants`] likeliest tokens. `None`: no token is
    /// allowed, not even an end.
    pub fn sample(
        &mut self,
        logits: &[f32],
        likeliest: &Likeliest,
    ) -> Result<Option<Token>, Stuck> {
        if !self.gather_few(logits, likeliest) {
            self.gather_all(logits);
            self.change(None);
            self.mask()?;
        }
        self.finish(None)
    }

    /// Draws the same token, and records what each stage does, for which the whole row is looked at.
    pub fn sample_watched(
        &mut self,
        logits: &[f32],
        recording: &mut Recording,
    ) -> Result<Option<Token>, Stuck> {
        recording.begin(logits);
        self.gather_all(logits);
        self.change(Some(recording));
        self.mask()?;
        if self.constraint.is_some() || self.allowed.is_some() {
            recording.record("constraint", Mode::Masked, &self.candidates);
        }
        self.finish(Some(recording))
    }

    fn finish(&mut self, mut recording: Option<&mut Recording>) -> Result<Option<Token>, Stuck> {
        let mut next = self.pick(recording.as_deref_mut());
        if let Some(given) = self.given.take() {
            if let Some(constraint) = &mut self.constraint {
                constraint.check(given)?;
            }
            if let Some(recording) = recording {
                recording.forget_draw();
            }
            next = Some(given);
        }
        if let Some(token) = next {
            self.accept(token);
        }
        Ok(next)
    }

    /// The tokens that end a generation, while they are banned.
    fn banned_ends(&self) -> &[Token] {
        if self.drawn < self.min_tokens {
            &self.ends
        } else {
            &[]
        }
    }

    /// Tokens whose logits are about to be changed; some of them twice.
    fn touched(&self) -> impl Iterator<Item = Token> {
        let biased = self.bias.iter().map(|&(token, _)| token);
        let banned = self.banned_ends().iter().chain(&self.completing).copied();
        let changed = self.stages.changes.iter().flat_map(Stage::touched);
        biased.chain(banned).chain(changed)
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
        let wants = self.wants();
        let (Some(keeps), Some(&(outside, _))) = (self.keeps, likeliest.as_slice().last()) else {
            return false;
        };
        let found = likeliest.as_slice();
        if wants == 0 || found.len() < wants.min(logits.len()) {
            return false;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.clear();
        touched.extend(self.touched());
        let data = &mut self.candidates.data;
        data.clear();
        data.extend(
            found
                .iter()
                .map(|&(logit, token)| LlamaTokenData::new(LlamaToken::new(token.0), logit, 0.0)),
        );
        for &token in &touched {
            let id = LlamaToken::new(token.0);
            if let Some(&logit) = logits.get(token.index())
                && !data.iter().any(|candidate| candidate.id() == id)
            {
                data.push(LlamaTokenData::new(id, logit, 0.0));
            }
        }
        self.touched = touched;
        self.change(None);
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

    /// Bias, bans of single tokens, penalties.
    fn change(&mut self, mut recording: Option<&mut Recording>) {
        let candidates = &mut self.candidates;
        for &(token, bias) in &self.bias {
            add(candidates, token, bias);
        }
        let ends: &[Token] = if self.drawn < self.min_tokens {
            &self.ends
        } else {
            &[]
        };
        for &token in ends.iter().chain(&self.completing) {
            add(candidates, token, f32::NEG_INFINITY);
        }
        let changed = !(self.bias.is_empty() && ends.is_empty() && self.completing.is_empty());
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

    /// Bans what the constraint does not allow, and what is not among the tokens that are allowed, in the whole row.
    fn mask(&mut self) -> Result<(), Stuck> {
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
            // The first of the largest, as llama.cpp's greedy sampler picks it.
            let mut best = candidates.data.first()?;
            for candidate in &candidates.data {
                if candidate.logit() > best.logit() {
                    best = candidate;
                }
            }
            let token = (best.logit() != f32::NEG_INFINITY).then_some(Token(best.id().0))?;
            if let Some(recording) = recording {
                recording.record_greedy(token);
            }
            return Some(token);
        }
        for stage in &mut self.stages.picks {
            // llama.cpp's samplers make numbers that are none of bans alone, or end the process.
            let all_banned = candidates
                .data
                .iter()
                .all(|candidate| candidate.logit() == f32::NEG_INFINITY);
            if all_banned {
                return None;
            }
            stage.apply(candidates);
            match &mut recording {
                None => {}
                Some(recording) if stage.name == DIST => recording.record_draw(candidates),
                Some(recording) => recording.record(stage.name, Mode::Sampled, candidates),
            }
        }
        let chosen = candidates.data.get(candidates.selected?)?;
        (chosen.logit() != f32::NEG_INFINITY).then_some(Token(chosen.id().0))
    }

    /// Goes on with a token of the text.
    pub fn accept(&mut self, token: Token) {
        self.drawn += 1;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
        let Stages { changes, picks } = &mut self.stages;
        for stage in changes.iter_mut().chain(picks) {
            stage.accept(token);
        }
        if self.looks_back > 0 {
            // Now and then, so that a token costs no moving of all.
            if self.recent.len() == 2 * self.looks_back {
                self.recent.drain(..=self.looks_back);
            }
            self.recent.push(token);
            self.find_completing();
        }
    }

    /// Finds the tokens that would complete a bad word of several.
    fn find_completing(&mut self) {
        self.completing.truncate(self.whole_words);
        for word in self.bad_words.iter() {
            if let Some((&last, before)) = word.split_last()
                && !before.is_empty()
                && self.recent.ends_with(before)
                && !self.completing.contains(&last)
            {
                self.completing.push(last);
            }
        }
    }
}

/// A word that is not to be generated, as tokens: by itself and behind a space, as vLLM has it. (There the latter is left
/// out where it has another number of tokens; then words are generated that were forbidden.) Empty if nothing is left
/// of the word without its leading spaces.
pub fn bad_word(vocab: &Vocab, word: &str) -> Vec<Vec<Token>> {
    let word = word.trim_start();
    if word.is_empty() {
        return Vec::new();
    }
    let mut words = vec![
        vocab.tokenize(word, false, false),
        vocab.tokenize(&format!(" {word}"), false, false),
    ];
    words.dedup();
    words.retain(|tokens| !tokens.is_empty());
    words
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
        let mut variants = variants.to_vec();
        variants.extend([
            SamplingParams {
                dry_multiplier: 2.0,
                dry_allowed_length: 1,
                repeat_penalty: 1.1,
                ..SamplingParams::default()
            },
            SamplingParams {
                xtc_probability: 0.5,
                xtc_threshold: 0.05,
                dynatemp_range: 0.5,
                ..SamplingParams::default()
            },
            SamplingParams {
                ignore_eos: true,
                logit_bias: vec![(Token(3), 30.0), (Token(998), 30.0)],
                bad_words: words(&[&[1], &[2, 3], &[500]]),
                temperature: 0.0,
                ..SamplingParams::default()
            },
            SamplingParams {
                stop_tokens: (0..200).map(Token).collect(),
                min_tokens: 20,
                samplers: names(&["dry", "top_k", "penalties", "top_n_sigma", "temperature"]),
                dry_multiplier: 1.0,
                dry_allowed_length: 0,
                presence_penalty: 1.0,
                top_n_sigma: 1.0,
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
        SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        }
    }

    #[test]
    fn stages_come_in_the_order_that_is_asked_for() {
        let check = |params: SamplingParams, expect: &[&str]| {
            let sampler = Sampler::over(1000, &[], &params, &[]);
            assert_eq!(sampler.stages().collect::<Vec<_>>(), expect);
        };
        let everything = SamplingParams {
            repeat_penalty: 1.1,
            dry_multiplier: 0.8,
            top_n_sigma: 1.0,
            typical_p: 0.9,
            xtc_probability: 0.5,
            ..SamplingParams::default()
        };
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
                mirostat: Mirostat::V2 { tau: 5.0, eta: 0.1 },
                ..everything.clone()
            },
            &["penalties", "dry", "mirostat"],
        );
        // At a temperature of 0 the likeliest is taken, unless something may leave it out.
        check(
            SamplingParams {
                temperature: 0.0,
                xtc_probability: 0.0,
                ..everything.clone()
            },
            &["penalties", "dry"],
        );
        check(
            SamplingParams {
                temperature: 0.0,
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
                temperature: 50.0,
                min_p: 0.1,
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
            temperature: 0.0,
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
            SamplingParams {
                xtc_probability: 0.5,
                xtc_threshold: 0.01,
                temperature: 2.0,
                ..SamplingParams::default()
            },
            // XTC alone draws here.
            SamplingParams {
                xtc_probability: 0.5,
                xtc_threshold: 0.01,
                temperature: 0.0,
                ..SamplingParams::default()
            },
            SamplingParams {
                dynatemp_range: 2.0,
                ..SamplingParams::default()
            },
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
                min_tokens: 2,
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
        // The last token of a bad word, where the others stand at the end.
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
                temperature: 0.0,
                ..ban.clone()
            });
            check(SamplingParams {
                mirostat: Mirostat::V1 { tau: 5.0, eta: 0.1 },
                ..ban.clone()
            });
            check(SamplingParams {
                mirostat: Mirostat::V2 { tau: 5.0, eta: 0.1 },
                ..ban.clone()
            });
            // Each sampler first.
            for first in SamplerName::all() {
                let mut samplers: Vec<SamplerName> = SamplerName::all().collect();
                samplers.retain(|&name| name != first);
                samplers.insert(0, first);
                check(SamplingParams {
                    samplers,
                    repeat_penalty: 1.1,
                    dry_multiplier: 1.0,
                    top_n_sigma: 1.0,
                    typical_p: 0.5,
                    xtc_probability: 1.0,
                    dynatemp_range: 2.0,
                    ..ban.clone()
                });
            }
        }
    }
}
