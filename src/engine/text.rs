//! What a sequence's tokens add up to: text, offsets, and where a stop string ends it. The token list is the truth;
//! all of this is derived from it, once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::request::{TokenOutput, Told};
use crate::model::Token;

/// Decodes UTF-8 as its bytes come: whole characters only, broken bytes left out, as Python's `errors="ignore"`.
#[derive(Debug, Default, Clone)]
pub struct Utf8Decoder {
    /// The beginning of a character whose end has not come: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The characters that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        let joined;
        let mut rest = if self.pending.is_empty() {
            bytes
        } else {
            self.pending.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.pending);
            &joined[..]
        };
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, broken) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(length) => rest = &broken[length..],
                        None => {
                            self.pending = broken.to_vec();
                            return text;
                        }
                    }
                }
            }
        }
    }
}

/// Where the text ends when it comes to a stop string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    BeforeStop,
    BehindStop,
}

/// A completion as it grows. Tokens are held back while their text may turn out to belong to a stop string.
#[derive(Debug)]
pub struct Completion {
    decoder: Utf8Decoder,
    stops: Arc<[String]>,
    ending: Ending,
    text: String,
    /// Characters of `text`.
    characters: usize,
    /// Tokens not given out yet, with where their text ends.
    held: VecDeque<(TokenOutput, usize)>,
}

impl Completion {
    /// The stop strings are not empty.
    pub fn new(stops: Arc<[String]>, ending: Ending) -> Self {
        Self {
            ending,
            decoder: Utf8Decoder::new(),
            stops,
            text: String::new(),
            characters: 0,
            held: VecDeque::new(),
        }
    }

    /// Goes on with a token of these bytes that is not given out. No stop string is found in what is kept alone.
    pub fn keep(&mut self, bytes: &[u8]) {
        let added = self.decoder.push(bytes);
        self.characters += added.chars().count();
        self.text.push_str(&added);
    }

    /// Takes the next token; whether the text has come to a stop string. If so, the first hit and what follows it is cut
    /// from the text of the tokens, which themselves all stay; or only what follows it, if it ends behind the hit. Of
    /// several that begin at one place the shortest counts.
    pub fn push(&mut self, token: Token, bytes: &[u8], told: Told) -> bool {
        let added = self.decoder.push(bytes);
        let offset = self.characters;
        let before = self.text.len();
        self.characters += added.chars().count();
        self.text.push_str(&added);
        let output = TokenOutput {
            token,
            text: added,
            offset,
            told,
        };
        self.held.push_back((output, self.text.len()));
        let hits = self.stops.iter().filter_map(|stop| {
            // A hit must end in what was added.
            let from = before.saturating_sub(stop.len().saturating_sub(1));
            let from = ceil_boundary(&self.text, from);
            Some((from + self.text[from..].find(stop.as_str())?, stop.len()))
        });
        match hits.min() {
            Some((hit, length)) => {
                self.cut(match self.ending {
                    Ending::BeforeStop => hit,
                    Ending::BehindStop => hit + length,
                });
                true
            }
            None => false,
        }
    }

    fn cut(&mut self, end: usize) {
        for (output, text_end) in &mut self.held {
            let start = *text_end - output.text.len();
            output
                .text
                .truncate(end.saturating_sub(start).min(output.text.len()));
        }
        // Nothing is left that a stop string could take back.
        self.stops = Arc::new([]);
    }

    /// The next token that no stop string can take back any more.
    pub fn release(&mut self) -> Option<TokenOutput> {
        let (_, end) = self.held.front()?;
        if *end > self.text.len() - self.undecided() {
            return None;
        }
        self.held.pop_front().map(|(output, _)| output)
    }

    /// The next token, whatever may follow: there is no more to come.
    pub fn flush(&mut self) -> Option<TokenOutput> {
        self.held.pop_front().map(|(output, _)| output)
    }

    /// A token that adds no text and stands at the end.
    pub fn end(&self, token: Token, told: Told) -> TokenOutput {
        TokenOutput {
            token,
            text: String::new(),
            offset: self.characters,
            told,
        }
    }

    /// Bytes at the text's end that a stop string may still take back: that may be the beginning of one.
    fn undecided(&self) -> usize {
        if self.ending == Ending::BehindStop {
            return 0;
        }
        let text = self.text.as_bytes();
        self.stops
            .iter()
            .map(|stop| {
                let stop = stop.as_bytes();
                (1..stop.len().min(text.len() + 1))
                    .rev()
                    .find(|&length| text.ends_with(&stop[..length]))
                    .unwrap_or(0)
            })
            .max()
            .unwrap_or(0)
    }
}

fn ceil_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_characters_only_and_broken_bytes_left_out() {
        let check = |parts: &[&[u8]], expect: &[&str]| {
            let mut decoder = Utf8Decoder::new();
            let got: Vec<String> = parts.iter().map(|part| decoder.push(part)).collect();
            assert_eq!(got, expect);
        };
        check(&["ab".as_bytes()], &["ab"]);
        check(&[&[0xf0, 0x9f], &[0x9a], &[0x80, b'!']], &["", "", "🚀!"]);
        check(&[&[0xf0, 0x9f], b"a"], &["", "a"]);
        check(&[&[0xff, b'a', 0xc3], &[0xc3, 0xa9]], &["a", "é"]);
        check(&[&[0xe2, 0x82], &[0xe2, 0x82, 0xac]], &["", "€"]);
    }

    /// Feeds texts as tokens; gives what was released after each, then the flushed rest, and whether it stopped.
    fn run(
        stops: &[&str],
        ending: Ending,
        tokens: &[&[u8]],
    ) -> (Vec<Vec<String>>, Vec<String>, bool) {
        let stops: Arc<[String]> = stops.iter().map(|&s| s.to_owned()).collect();
        let mut completion = Completion::new(stops, ending);
        let (mut released, mut stopped) = (Vec::new(), false);
        for bytes in tokens {
            assert!(!stopped);
            stopped = completion.push(Token(0), bytes, Told::default());
            released.push(
                std::iter::from_fn(|| completion.release())
                    .map(|o| o.text)
                    .collect(),
            );
        }
        let rest = std::iter::from_fn(|| completion.flush())
            .map(|o| o.text)
            .collect();
        (released, rest, stopped)
    }

    #[test]
    fn text_ends_before_the_first_hit_and_tokens_stay() {
        let check = |stops: &[&str],
                     tokens: &[&[u8]],
                     released: &[&[&str]],
                     rest: &[&str],
                     stopped: bool| {
            let got = run(stops, Ending::BeforeStop, tokens);
            let released: Vec<Vec<String>> = released
                .iter()
                .map(|r| r.iter().map(|&s| s.to_owned()).collect())
                .collect();
            assert_eq!(got.0, released, "{stops:?}");
            assert_eq!(got.1, rest, "{stops:?}");
            assert_eq!(got.2, stopped, "{stops:?}");
        };
        check(&[], &[b"a", b"b"], &[&["a"], &["b"]], &[], false);
        check(
            &[" 9,"],
            &[b"8", b" ", b"9", b","],
            &[&["8"], &[], &[], &["", "", ""]],
            &[],
            true,
        );
        check(
            &[" 9,"],
            &[b"8", b" ", b"7"],
            &[&["8"], &[], &[" ", "7"]],
            &[],
            false,
        );
        check(
            &["reen"],
            &[b" gre", b"en!"],
            &[&[], &[" g", ""]],
            &[],
            true,
        );
        // A token is held as a whole.
        check(&["yz"], &[b"xy", b"a"], &[&[], &["xy", "a"]], &[], false);
        check(&["yz"], &[b"xy"], &[&[]], &["xy"], false);
        // The first hit in the text, not in the list.
        check(&["b", "a"], &[b"xab"], &[&["x"]], &[], true);
        // Stop strings may hold several characters of several bytes, that come byte by byte.
        check(
            &["é!"],
            &[b"a\xc3", b"\xa9", b"!"],
            &[&["a"], &[], &["", ""]],
            &[],
            true,
        );
        check(
            &["aa"],
            &[b"ba", b"ca", b"a"],
            &[&[], &["ba"], &["c", ""]],
            &[],
            true,
        );
    }

    #[test]
    fn text_ends_behind_the_first_hit_and_nothing_is_held_for_it() {
        let check = |stops: &[&str], tokens: &[&[u8]], released: &[&str], stopped: bool| {
            let got = run(stops, Ending::BehindStop, tokens);
            let texts: Vec<String> = got.0.into_iter().flatten().collect();
            assert_eq!(texts, released, "{stops:?}");
            assert_eq!(got.1, [""; 0], "{stops:?}");
            assert_eq!(got.2, stopped, "{stops:?}");
        };
        check(&[" 9,"], &[b"8", b" ", b"9"], &["8", " ", "9"], false);
        check(
            &[" 9,"],
            &[b"8", b" ", b"9", b", then"],
            &["8", " ", "9", ","],
            true,
        );
        // The earliest, and of those that begin together the shortest.
        check(&["b", "abc", "ab"], &[b"xabcd"], &["xab"], true);
        check(&["é!"], &[b"\xc3", b"\xa9!?"], &["", "é!"], true);
    }

    #[test]
    fn what_is_kept_is_not_given_out_and_counts() {
        let check =
            |stops: &[&str], kept: &[u8], tokens: &[&[u8]], texts: &[&str], stopped: bool| {
                let stops: Arc<[String]> = stops.iter().map(|&s| s.to_owned()).collect();
                let mut completion = Completion::new(Arc::clone(&stops), Ending::BeforeStop);
                completion.keep(kept);
                let mut ended = false;
                for bytes in tokens {
                    assert!(!ended);
                    ended = completion.push(Token(0), bytes, Told::default());
                }
                let outputs: Vec<_> = std::iter::from_fn(|| completion.flush()).collect();
                let came: Vec<&str> = outputs.iter().map(|output| &*output.text).collect();
                assert_eq!((came, ended), (texts.to_vec(), stopped), "{stops:?}");
                let mut decoder = Utf8Decoder::new();
                assert_eq!(outputs[0].offset, decoder.push(kept).chars().count());
            };
        check(&[], b"abc", &[b"d", b"e"], &["d", "e"], false);
        check(&[], b"a\xc3", &[b"\xa9!", b"e"], &["é!", "e"], false);
        // A stop string that begins in what is kept; one that ends there is past.
        check(&["cd"], b"abc", &[b"de"], &[""], true);
        check(&["bc", "cdef"], b"abc", &[b"d", b"e"], &["d", "e"], false);
        check(&["bc", "cdef"], b"abc", &[b"d", b"efg"], &["", ""], true);
        check(&["é!"], b"a\xc3", &[b"\xa9", b"!b"], &["", ""], true);
        check(&["d"], b"dd", &[b"ad"], &["a"], true);
    }

    #[test]
    fn offsets_count_characters() {
        let mut completion = Completion::new(Arc::new([]), Ending::BeforeStop);
        let mut offsets = Vec::new();
        for bytes in [&b"a\xc3"[..], b"\xa9", "日本".as_bytes(), b"!"] {
            completion.push(Token(0), bytes, Told::default());
            offsets.extend(completion.release().map(|o| o.offset));
        }
        assert_eq!(offsets, [0, 1, 2, 4]);
        assert_eq!(completion.end(Token(1), Told::default()).offset, 5);
    }
}
