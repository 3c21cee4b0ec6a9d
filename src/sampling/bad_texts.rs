//! Texts that are never generated, in whichever tokens they are spelled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::{Sorted, Token, Vocab};

/// Texts that never stand in what is generated as words of their own: with no letter or digit right before or after. Where
/// a script has no spaces between words, or a text begins or ends with something else, they stand nowhere at all.
#[derive(Debug)]
pub struct BadTexts {
    texts: Vec<Box<str>>,
    vocab: Arc<Sorted>,
    /// The longest, in bytes.
    longest: usize,
    /// Tokens that hold one.
    holding: Vec<Token>,
    /// Tokens that are one, or begin with one, where a word begins.
    beginning: Vec<Token>,
}

impl PartialEq for BadTexts {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl BadTexts {
    /// None of the texts is empty. Reads the whole vocabulary, which takes milliseconds.
    pub fn new<'a>(vocab: &Vocab, texts: impl Iterator<Item = &'a str>) -> Self {
        Self::over(vocab.sorted(), texts)
    }

    fn over<'a>(vocab: Arc<Sorted>, texts: impl Iterator<Item = &'a str>) -> Self {
        let texts: HashSet<&str> = texts.collect();
        let mut texts: Vec<Box<str>> = texts.into_iter().map(Box::from).collect();
        texts.sort_unstable();
        let mut begin_with: [Vec<&str>; 256] = std::array::from_fn(|_| Vec::new());
        for text in &texts {
            begin_with[usize::from(text.as_bytes()[0])].push(text);
        }
        let (mut holding, mut beginning) = (Vec::new(), Vec::new());
        for (token, _, bytes) in vocab.iter() {
            let (mut holds, mut begins) = (false, false);
            for (place, &byte) in bytes.iter().enumerate() {
                let (before, rest) = bytes.split_at(place);
                for text in &begin_with[usize::from(byte)] {
                    let Some(after) = rest.strip_prefix(text.as_bytes()) else {
                        continue;
                    };
                    if may_end(text, after) {
                        let needs_start = place == 0 && text.starts_with(is_letter);
                        begins |= needs_start;
                        holds |= !needs_start && may_begin(text, before);
                    }
                }
            }
            if holds {
                holding.push(token);
            } else if begins {
                beginning.push(token);
            }
        }
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Self {
            longest,
            holding,
            beginning,
            vocab,
            texts,
        }
    }

    /// Whether a text has one of these.
    pub fn are_in(&self, text: &str) -> bool {
        self.texts.iter().any(|bad| {
            text.match_indices(&**bad).any(|(place, _)| {
                let (before, rest) = text.as_bytes().split_at(place);
                may_begin(bad, before) && may_end(bad, &rest[bad.len()..])
            })
        })
    }
}

/// Which tokens would complete one of the texts now.
pub struct Spelling {
    bad: Arc<BadTexts>,
    /// The end of what is generated, or all of it.
    tail: Vec<u8>,
    /// Tokens that complete a text of which so many bytes are there.
    completing: HashMap<(usize, usize), Vec<Token>>,
    banned: Vec<Token>,
}

impl Spelling {
    pub fn new(bad: &Arc<BadTexts>) -> Self {
        let mut spelling = Self {
            bad: Arc::clone(bad),
            tail: Vec::new(),
            completing: HashMap::new(),
            banned: Vec::new(),
        };
        spelling.find();
        spelling
    }

    /// May repeat tokens.
    pub fn banned(&self) -> &[Token] {
        &self.banned
    }

    /// Appends a token.
    pub fn accept(&mut self, token: Token) {
        // With the whole character before the longest text.
        let keeps = self.bad.longest + 4;
        if self.tail.len() > 4 * keeps {
            self.tail.drain(..self.tail.len() - keeps);
        }
        self.tail.extend_from_slice(self.bad.vocab.bytes(token));
        self.find();
    }

    fn find(&mut self) {
        let Self {
            bad,
            tail,
            completing,
            banned,
        } = self;
        banned.clear();
        banned.extend_from_slice(&bad.holding);
        if !ends_in_letter(tail) {
            banned.extend_from_slice(&bad.beginning);
        }
        let Some(&last) = tail.last() else { return };
        for (number, text) in bad.texts.iter().enumerate() {
            let bytes = text.as_bytes();
            for there in 1..bytes.len().min(tail.len() + 1) {
                let (spelled, rest) = bytes.split_at(there);
                if spelled[there - 1] != last || !tail.ends_with(spelled) {
                    continue;
                }
                if may_begin(text, &tail[..tail.len() - there]) {
                    let tokens = completing.entry((number, there)).or_insert_with(|| {
                        let tokens = bad.vocab.beginning_with(rest);
                        let ending =
                            tokens.filter(|(_, bytes)| may_end(text, &bytes[rest.len()..]));
                        ending.map(|(token, _)| token).collect()
                    });
                    banned.extend_from_slice(tokens);
                }
            }
        }
    }
}

/// Whether a text that begins after these bytes does so as a word of its own.
fn may_begin(text: &str, before: &[u8]) -> bool {
    !(text.starts_with(is_letter) && ends_in_letter(before))
}

/// Whether a text that ends before these bytes does so as a word of its own.
fn may_end(text: &str, after: &[u8]) -> bool {
    let next = after.utf8_chunks().next();
    let next = next.and_then(|chunk| chunk.valid().chars().next());
    !(text.ends_with(is_letter) && next.is_some_and(is_letter))
}

fn ends_in_letter(bytes: &[u8]) -> bool {
    let last = (1..=bytes.len().min(4)).find_map(|length| {
        let end = std::str::from_utf8(&bytes[bytes.len() - length..]).ok()?;
        end.chars().next()
    });
    last.is_some_and(is_letter)
}

/// A character of words between which there are spaces.
fn is_letter(c: char) -> bool {
    // Thai to Tibetan, Burmese, Khmer, and Chinese and Japanese.
    let is_unspaced = matches!(c,
        '\u{0e00}'..='\u{0fff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    c == '_' || (c.is_alphanumeric() && !is_unspaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(tokens: &[&str], texts: &[&str]) -> Arc<BadTexts> {
        let sorted = Sorted::new(tokens.iter().map(|token| token.as_bytes()));
        Arc::new(BadTexts::over(Arc::new(sorted), texts.iter().copied()))
    }

    /// The texts of the tokens that are banned after these.
    fn banned<'a>(tokens: &[&'a str], texts: &[&str], before: &[&str]) -> Vec<&'a str> {
        let mut spelling = Spelling::new(&over(tokens, texts));
        for text in before {
            let place = tokens.iter().position(|token| token == text);
            spelling.accept(Token(place.expect("a token") as i32));
        }
        let mut banned: Vec<&str> = spelling
            .banned()
            .iter()
            .map(|token| tokens[token.index()])
            .collect();
        banned.sort_unstable();
        banned.dedup();
        banned
    }

    #[test]
    fn a_word_is_banned_in_every_spelling() {
        let tokens = [
            "n", "o", "no", " no", "t", "not", " ", "\"", "o\"", "no.", "k", "w", " n", "ow", "é",
        ];
        let check = |before: &[&str], expect: &[&str]| {
            assert_eq!(banned(&tokens, &["no"], before), expect, "{before:?}");
        };
        check(&[], &[" no", "no", "no."]);
        check(&["n"], &[" no", "o", "o\""]);
        check(&["\"", "n"], &[" no", "o", "o\""]);
        check(&["t", " n"], &[" no", "o", "o\""]);
        check(&["t", " "], &[" no", "no", "no."]);
        // Within other words it is no word.
        check(&["k", "n"], &[" no"]);
        check(&["é", "n"], &[" no"]);
        check(&["k"], &[" no"]);
    }

    #[test]
    fn texts_of_other_characters_are_banned_anywhere() {
        let tokens = ["`", "``", "a", "東", "京", "は東"];
        assert_eq!(banned(&tokens, &["```"], &["a", "`"]), ["``"]);
        assert_eq!(banned(&tokens, &["```"], &["``"]), ["`", "``"]);
        assert_eq!(banned(&tokens, &["東京"], &["a", "は東"]), ["京"]);
    }

    #[test]
    fn texts_are_found_as_words() {
        let bad = over(&["a"], &["no", "one two"]);
        for (text, expect) in [
            ("no", true),
            ("say no.", true),
            ("\"no\"", true),
            ("not", false),
            ("piano", false),
            ("no1", false),
            ("one two", true),
            ("one twos", false),
        ] {
            assert_eq!(bad.are_in(text), expect, "{text}");
        }
    }
}
