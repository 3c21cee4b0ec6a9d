//! DRY: a token that would extend a repetition becomes less likely, the more so the longer the repetition.
//! (<https://github.com/oobabooga/text-generation-webui/pull/5677>.)
//!
//! Penalties and breakers equal llama.cpp's to the bit; a test compares them. They are computed here because llama.cpp
//! scans the vocabulary for each breaker of each request, on the worker's thread: 100 ms for the usual four breakers and
//! 262,144 tokens, and as much for each long one. It also writes a whole row where only a few tokens change.

use std::collections::HashMap;

use super::breakers::Breakers;
use super::params::SamplingParams;
use crate::model::Token;

/// The state of DRY for one sequence.
pub struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    /// How many of the last tokens are searched.
    window: usize,
    breakers: Breakers,
    /// The last `window` tokens of prompt and completion, and perhaps more.
    text: Vec<Token>,
    /// What is subtracted from the next token's logits, each token once.
    penalties: Vec<(Token, f32)>,
    // Kept to reuse their memory.
    repeats: Vec<usize>,
    longest: HashMap<Token, usize>,
}

impl Dry {
    pub fn new(params: &SamplingParams, prompt: &[Token]) -> Self {
        let values = &params.values;
        let window = usize::try_from(values.dry_penalty_last_n).unwrap_or(usize::MAX);
        let mut dry = Self {
            multiplier: values.dry_multiplier,
            base: values.dry_base,
            allowed_length: values.dry_allowed_length,
            window,
            breakers: params.dry_breakers.clone(),
            text: prompt[prompt.len().saturating_sub(window)..].to_vec(),
            penalties: Vec::new(),
            repeats: Vec::new(),
            longest: HashMap::new(),
        };
        dry.find();
        dry
    }

    /// What is subtracted from logits at the next token.
    pub fn penalties(&self) -> &[(Token, f32)] {
        &self.penalties
    }

    pub fn accept(&mut self, token: Token) {
        self.text.push(token);
        // Drained only now and then, so that not every token moves the whole text.
        if self.text.len() / 2 > self.window {
            self.text.drain(..self.text.len() - self.window);
        }
        self.find();
    }

    /// Finds where the end of the text occurred before, and which tokens followed. Takes time linear in the window.
    fn find(&mut self) {
        self.penalties.clear();
        let text = &self.text[self.text.len().saturating_sub(self.window)..];
        if text.len() <= self.allowed_length {
            return;
        }
        let most = self.breakers.tokens_since(text);
        if most < self.allowed_length {
            return;
        }
        common_suffixes(text, &mut self.repeats);
        self.longest.clear();
        for (back, &repeat) in self.repeats.iter().enumerate().skip(1) {
            let repeat = repeat.min(most);
            if repeat >= self.allowed_length {
                let followed_by = text[text.len() - back];
                let longest = self.longest.entry(followed_by).or_insert(repeat);
                *longest = repeat.max(*longest);
            }
        }
        for (&token, &repeat) in &self.longest {
            if !self.breakers.is_whole(token) {
                let exponent = repeat - self.allowed_length;
                self.penalties.push((token, self.penalty(exponent)));
            }
        }
    }

    fn penalty(&self, exponent: usize) -> f32 {
        /// The natural logarithm of the largest f32.
        const LARGEST_LN: f32 = 88.722_84;
        let mut exponent = exponent;
        if self.base > 1.000_001 {
            let most = (LARGEST_LN / self.base.ln()) as usize;
            if most > 0 {
                exponent = exponent.min(most);
            }
        }
        let growth = f64::from(self.base).powf(exponent as f64);
        (f64::from(self.multiplier) * growth) as f32
    }
}

/// For each `back`: how many tokens the end of the text shares with the text that ends `back` tokens earlier (the
/// Z-function of the reversed text). The first number is meaningless.
fn common_suffixes(text: &[Token], repeats: &mut Vec<usize>) {
    let length = text.len();
    let from_end = |place: usize| text[length - 1 - place];
    repeats.clear();
    repeats.resize(length, 0);
    // The range known to equal the end is `left..right`.
    let (mut left, mut right) = (0, 0);
    for back in 1..length {
        let mut shared = 0;
        if back < right {
            shared = repeats[back - left].min(right - back);
        }
        while back + shared < length && from_end(shared) == from_end(back + shared) {
            shared += 1;
        }
        repeats[back] = shared;
        if back + shared > right {
            (left, right) = (back, back + shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;
    use std::path::{Path, PathBuf};

    use llama_cpp_2::llama_backend::LlamaBackend;
    use llama_cpp_2::model::LlamaModel;
    use llama_cpp_2::model::params::LlamaModelParams;
    use llama_cpp_2::sampling::LlamaSampler;
    use llama_cpp_2::token::LlamaToken;
    use llama_cpp_2::token::data::LlamaTokenData;
    use llama_cpp_2::token::data_array::LlamaTokenDataArray;

    use super::*;
    use crate::config::Config;
    use crate::model::{Added, Model};
    use crate::params::ParamValues;

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    fn params(allowed_length: usize, last_n: Option<i32>) -> SamplingParams {
        SamplingParams::from(ParamValues {
            dry_multiplier: 0.8,
            dry_allowed_length: allowed_length,
            dry_penalty_last_n: last_n.unwrap_or(-1),
            ..ParamValues::default()
        })
    }

    /// Random tokens of so few kinds that they repeat themselves.
    fn repetitive(count: usize, kinds: i32, seed: u64) -> Vec<Token> {
        crate::logprobs::tests::logits(count, seed)
            .iter()
            .map(|number| Token(number.abs() as i32 % kinds))
            .collect()
    }

    #[test]
    fn the_longest_repetition_that_a_token_would_go_on_with_counts() {
        // By trying each token after each beginning.
        let definition = |text: &[Token], allowed: usize| {
            let mut found = std::collections::BTreeMap::new();
            for (place, &token) in text.iter().enumerate().skip(1) {
                let repeat = (0..=place)
                    .rev()
                    .find(|&length| place >= length && text.ends_with(&text[place - length..place]))
                    .unwrap_or(0);
                if repeat >= allowed && text.len() > allowed {
                    let longest = found.entry(token.0).or_insert(0);
                    *longest = repeat.max(*longest);
                }
            }
            found
                .into_iter()
                .map(|(token, repeat)| (token, 0.8 * 1.75_f64.powi((repeat - allowed) as i32)))
                .collect::<Vec<_>>()
        };
        let check = |text: &[Token], allowed, last_n: Option<i32>| {
            let mut dry = Dry::new(&params(allowed, last_n), &text[..text.len() / 2]);
            for &token in &text[text.len() / 2..] {
                dry.accept(token);
            }
            let mut got: Vec<(i32, f64)> = dry
                .penalties()
                .iter()
                .map(|&(token, penalty)| (token.0, f64::from(penalty)))
                .collect();
            got.sort_unstable_by_key(|&(token, _)| token);
            let window = last_n.map_or(text.len(), |it| it as usize).min(text.len());
            let expect = definition(&text[text.len() - window..], allowed);
            assert_eq!(got.len(), expect.len(), "{allowed} {last_n:?} {text:?}");
            for (got, expect) in got.iter().zip(&expect) {
                assert_eq!(got.0, expect.0);
                let off = (got.1 - expect.1).abs() / expect.1;
                assert!(
                    off < 1e-6,
                    "{got:?} {expect:?} {allowed} {last_n:?} {text:?}"
                );
            }
        };
        check(&tokens(&[1, 2, 3, 4, 1, 2, 3]), 2, None);
        check(&tokens(&[7, 7, 7, 7, 7]), 2, None);
        check(&tokens(&[1, 2, 3]), 2, None);
        check(&tokens(&[1, 2]), 2, None);
        check(&tokens(&[]), 0, None);
        for seed in 1..40 {
            for kinds in [2, 3, 6] {
                let text = repetitive(30, kinds, seed);
                for allowed in [0, 1, 2, 5] {
                    for last_n in [None, Some(1), Some(3), Some(12), Some(29), Some(1000)] {
                        check(&text, allowed, last_n);
                    }
                }
            }
        }
    }

    #[test]
    fn no_penalty_is_more_than_all() {
        let mut params = params(0, None);
        for (multiplier, base) in [
            (1000.0, 1000.0),
            (0.1, 1.0),
            (1e-3, 1.000_000_1),
            (5.0, 1.01),
        ] {
            (params.values.dry_multiplier, params.values.dry_base) = (multiplier, base);
            let dry = Dry::new(&params, &vec![Token(1); 4000]);
            let [(Token(1), penalty)] = dry.penalties()[..] else {
                panic!("{:?}", dry.penalties());
            };
            assert!(penalty > 0.0, "{penalty}");
        }
        // No memory is reserved for what may come.
        params.values.dry_penalty_last_n = i32::MAX;
        params.values.dry_allowed_length = usize::MAX;
        assert_eq!(Dry::new(&params, &[Token(1); 9]).penalties(), []);
    }

    /// The model of the repository, or another one.
    fn model() -> (PathBuf, Model) {
        let path = std::env::var_os("CANDOR_TEST_DRY").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama2-vocab-tiny.gguf"),
            PathBuf::from,
        );
        let model = Model::load(&path, &Config::default().model).expect("the model loads");
        (path, model)
    }

    #[test]
    fn penalties_are_those_of_llama_cpp_to_the_bit() {
        let (path, model) = model();
        let vocab = model.vocab();
        // It was initialised with the model above, and stays so.
        let backend = ManuallyDrop::new(LlamaBackend {});
        let only_vocabulary = LlamaModelParams::default().with_vocab_only(true);
        let theirs =
            LlamaModel::load_from_file(&backend, &path, &only_vocabulary).expect("the model loads");
        let text = "The cat sat on the mat. The cat sat on the mat: \"the cat sat\" * the cat\nsat on the mat. The \
                    cat sat, said the cat: on the mat, on the mat. A cat: A cat: A ca";
        let text = vocab.tokenize(text, Added::Both, true);
        let breakers: [&[&str]; 6] = [
            &["\n", ":", "\"", "*"],
            &[],
            &["cat"],
            &["at on the mat. The", "at", " mat: \"the", "t"],
            &[
                "é",
                "🚀",
                "</s>",
                "",
                "a sentence of more than twenty tokens?",
            ],
            &["the cat sat on the mat"],
        ];
        let mut differing = 0;
        for texts in breakers {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            let started = std::time::Instant::now();
            let ours = Breakers::new(vocab, &texts);
            let took = started.elapsed();
            for (allowed, last_n, base) in [(2, 300, 1.75), (1, 20, 1.1), (0, 300, 3.0)] {
                let started = std::time::Instant::now();
                let mut their = LlamaSampler::dry(&theirs, 0.8, base, allowed, last_n, &texts);
                println!("{took:?}, llama.cpp {:?} {texts:?}", started.elapsed());
                let params = SamplingParams {
                    values: ParamValues {
                        dry_base: base,
                        ..params(allowed as usize, Some(last_n)).values
                    },
                    dry_breakers: ours.clone(),
                    ..params(allowed as usize, Some(last_n))
                };
                let (prompt, generated) = text.split_at(12);
                let mut dry = Dry::new(&params, prompt);
                for &token in prompt {
                    their.accept(LlamaToken::new(token.0));
                }
                for &token in generated {
                    dry.accept(token);
                    their.accept(LlamaToken::new(token.0));
                    let row = (0..vocab.len() as i32)
                        .map(|id| LlamaTokenData::new(LlamaToken::new(id), 0.0, 0.0))
                        .collect();
                    let mut row = LlamaTokenDataArray::new(row, false);
                    row.apply_sampler(&mut their);
                    for &(token, penalty) in dry.penalties() {
                        assert_eq!(row.data[token.index()].logit(), -penalty, "{texts:?}");
                    }
                    let penalised = row.data.iter().filter(|token| token.logit() != 0.0).count();
                    assert_eq!(dry.penalties().len(), penalised, "{texts:?}");
                    differing += penalised;
                }
            }
        }
        assert!(differing > 1000, "{differing}");
    }
}
