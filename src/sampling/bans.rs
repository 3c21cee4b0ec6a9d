//! Bans of single tokens: the ends of a generation at its beginning, and bad words.

use std::collections::HashSet;
use std::sync::Arc;

use super::bad_texts::Spelling;
use super::params::SamplingParams;
use crate::model::{Added, Token, Vocab};

/// The tokens that are banned now.
pub struct Bans {
    ends: Ends,
    bad_words: BadWords,
    spelling: Option<Spelling>,
}

impl Bans {
    /// `ends` are the tokens that end a generation.
    pub fn new(params: &SamplingParams, ends: &[Token]) -> Self {
        Self {
            ends: Ends::new(params, ends),
            bad_words: BadWords::new(&params.bad_words),
            spelling: params.bad_texts.as_ref().map(Spelling::new),
        }
    }

    /// May repeat tokens.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        let spelling = self.spelling.as_ref().map_or(&[][..], Spelling::banned);
        let ends = self.ends.banned().iter();
        ends.chain(&self.bad_words.completing)
            .chain(spelling)
            .copied()
    }

    /// Appends a token of the text.
    pub fn accept(&mut self, token: Token) {
        self.ends.generated += 1;
        self.bad_words.accept(token);
        if let Some(spelling) = &mut self.spelling {
            spelling.accept(token);
        }
    }
}

/// Whether the tokens that a request allows are all banned at its beginning: `ends` are the tokens that end a generation.
pub fn ban_everything(params: &SamplingParams, ends: &[Token]) -> bool {
    let Some(allowed) = &params.allowed_tokens else {
        return false;
    };
    let mut banned: HashSet<Token> = Bans::new(params, ends).tokens().collect();
    if params.ignore_eos {
        banned.extend(ends);
    }
    allowed.iter().all(|token| banned.contains(token))
}

/// Bans the end of a generation for its first `min_tokens` tokens.
struct Ends {
    /// The tokens that end it; none without `min_tokens`.
    tokens: Vec<Token>,
    min_tokens: usize,
    /// How many tokens have been generated.
    generated: usize,
}

impl Ends {
    fn new(params: &SamplingParams, ends: &[Token]) -> Self {
        let min_tokens = params.values.min_tokens;
        Self {
            tokens: if min_tokens > 0 {
                [ends, &params.stop_tokens].concat()
            } else {
                Vec::new()
            },
            min_tokens,
            generated: 0,
        }
    }

    fn banned(&self) -> &[Token] {
        if self.generated < self.min_tokens {
            &self.tokens
        } else {
            &[]
        }
    }
}

/// Bans the last token of a word where the text ends with the others.
struct BadWords {
    words: Arc<[Vec<Token>]>,
    /// How many tokens precede the last one in the longest word.
    looks_back: usize,
    /// The last generated tokens: at least that many if there are, and at most twice as many.
    recent: Vec<Token>,
    /// Tokens that would complete a word now: first those that are words by themselves, ascending.
    completing: Vec<Token>,
    /// How many are words by themselves.
    single_tokens: usize,
}

impl BadWords {
    fn new(words: &Arc<[Vec<Token>]>) -> Self {
        let singles = words.iter().filter(|word| word.len() == 1);
        let mut completing: Vec<Token> = singles.flatten().copied().collect();
        completing.sort_unstable();
        completing.dedup();
        let longest = words.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            words: Arc::clone(words),
            looks_back: longest.saturating_sub(1),
            recent: Vec::new(),
            single_tokens: completing.len(),
            completing,
        }
    }

    fn accept(&mut self, token: Token) {
        if self.looks_back == 0 {
            return;
        }
        // Drained only now and then, so that not every token moves the whole list.
        if self.recent.len() == 2 * self.looks_back {
            self.recent.drain(..=self.looks_back);
        }
        self.recent.push(token);
        self.find_completing();
    }

    /// Finds the tokens that would complete a word of several tokens.
    fn find_completing(&mut self) {
        self.completing.truncate(self.single_tokens);
        for word in self.words.iter() {
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

/// The tokens of a word that must not be generated: of the word alone and of the word after a space, as in vLLM. (vLLM
/// drops the latter when it has another number of tokens, and then generates forbidden words.) Empty if the word is only
/// spaces.
pub fn bad_word(vocab: &Vocab, word: &str) -> Vec<Vec<Token>> {
    let word = word.trim_start();
    if word.is_empty() {
        return Vec::new();
    }
    let mut words = vec![
        vocab.tokenize(word, Added::Nothing, false),
        vocab.tokenize(&format!(" {word}"), Added::Nothing, false),
    ];
    words.dedup();
    words.retain(|tokens| !tokens.is_empty());
    words
}
