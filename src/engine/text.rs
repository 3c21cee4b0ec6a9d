//! The text of a sequence: characters, offsets, and where a stop string ends it, all derived from the tokens.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::request::{TokenDetails, TokenOutput};
use super::stops::Stops;
use crate::model::Token;

/// Decodes UTF-8 incrementally. Returns complete characters only, and drops invalid bytes, as Python's `errors="ignore"`.
#[derive(Debug, Default, Clone)]
pub struct Utf8Decoder {
    /// The beginning of an incomplete character: at most three bytes.
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

/// Where the text ends when it reaches a stop string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    BeforeStop,
    AfterStop,
}

/// A growing completion. Tokens are held back while their text may be part of a stop string.
#[derive(Debug)]
pub struct Completion {
    decoder: Utf8Decoder,
    stops: Arc<Stops>,
    ending: Ending,
    /// With the names of those control tokens that stop strings name.
    text: String,
    /// Where these names are in `text`.
    names: Vec<Range<usize>>,
    /// Characters of the completion.
    characters: usize,
    /// Tokens held back, each with the end of its text.
    held: VecDeque<(TokenOutput, usize)>,
    /// Where the newest line begins whose indentation counts; `None` in the first line.
    line: Option<usize>,
    /// Whether the newest token ends a line.
    ends_line: bool,
    /// See [`Completion::stop_string`].
    stop_string: Option<usize>,
}

impl Completion {
    pub fn new(stops: Arc<Stops>, ending: Ending) -> Self {
        Self {
            ending,
            decoder: Utf8Decoder::new(),
            stops,
            text: String::new(),
            names: Vec::new(),
            characters: 0,
            held: VecDeque::new(),
            line: None,
            ends_line: false,
            stop_string: None,
        }
    }

    /// Appends a token that is not returned. A stop string that lies in such tokens alone does not count.
    pub fn append_unreturned(&mut self, token: Token, bytes: &[u8]) {
        self.append(token, bytes);
    }

    /// Appends a token; returns the characters that it completes.
    fn append(&mut self, token: Token, bytes: &[u8]) -> String {
        let added = self.decoder.push(bytes);
        self.characters += added.chars().count();
        let start = self.text.len();
        self.text.push_str(&added);
        if let Some(name) = self.stops.name(token) {
            // The text may have it already.
            if bytes.is_empty() {
                self.text.push_str(name);
            }
            self.names.push(start..self.text.len());
        }
        added
    }

    /// Appends the next token. Returns whether the text has reached a stop string, or a line with too little indentation
    /// ([`Stops::with_least_indent`]). If so, the text of the tokens is cut before or after the first match, according to
    /// [`Ending`], or where that line's text begins; the tokens themselves all stay. Of several matches at the same position
    /// the shortest counts.
    pub fn push(&mut self, token: Token, bytes: &[u8], details: TokenDetails) -> bool {
        let offset = self.characters;
        let before = self.text.len();
        let added = self.append(token, bytes);
        self.ends_line = added.contains('\n');
        let output = TokenOutput {
            token,
            text: added,
            offset,
            details,
        };
        self.held.push_back((output, self.text.len()));
        let strings = self.stops.strings().iter();
        let hits = strings.enumerate().filter_map(|(index, stop)| {
            // A match must end in the new text.
            let from = before.saturating_sub(stop.len().saturating_sub(1));
            let mut from = ceil_boundary(&self.text, from);
            loop {
                let hit = from + self.text[from..].find(stop.as_str())?;
                if !self.cuts_name(&(hit..hit + stop.len())) {
                    return Some((hit, stop.len(), index));
                }
                from = ceil_boundary(&self.text, hit + 1);
            }
        });
        let hit = hits.min();
        let outdented = self.outdented();
        match hit {
            Some((hit, length, index)) if outdented.is_none_or(|outdented| hit <= outdented) => {
                self.stop_string = Some(index);
                self.cut(match self.ending {
                    Ending::BeforeStop => hit,
                    Ending::AfterStop => hit + length,
                });
            }
            _ => match outdented {
                Some(outdented) => self.cut(outdented),
                None => return false,
            },
        }
        true
    }

    /// The stop string that the text has reached, by its index.
    pub fn stop_string(&self) -> Option<usize> {
        self.stop_string
    }

    /// Whether the newest token ends a line.
    pub fn ends_line(&self) -> bool {
        self.ends_line
    }

    /// Where the text of a line with too little indentation begins.
    fn outdented(&mut self) -> Option<usize> {
        let least = self.stops.least_indent();
        if least == 0 {
            return None;
        }
        loop {
            if let Some(start) = self.line {
                let line = &self.text.as_bytes()[start..];
                let is_blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
                let indent = line.iter().take_while(is_blank).count();
                if indent == line.len() {
                    // What follows may be more of it.
                    return None;
                }
                if indent < least {
                    return Some(start + indent);
                }
            }
            let from = self.line.unwrap_or(0);
            self.line = Some(from + self.text[from..].find('\n')? + 1);
        }
    }

    /// Whether a match has only a part of a control token's name, which is not a text.
    fn cuts_name(&self, found: &Range<usize>) -> bool {
        self.names.iter().rev().any(|name| {
            let overlaps = name.start < found.end && found.start < name.end;
            overlaps && !(found.start <= name.start && name.end <= found.end)
        })
    }

    fn cut(&mut self, end: usize) {
        for (output, text_end) in &mut self.held {
            let start = *text_end - output.text.len();
            output
                .text
                .truncate(end.saturating_sub(start).min(output.text.len()));
        }
        // No further stop string can match.
        self.stops = Arc::default();
    }

    /// The next token that no stop string can cut any more.
    pub fn release(&mut self) -> Option<TokenOutput> {
        let (_, end) = self.held.front()?;
        if *end > self.text.len() - self.undecided() {
            return None;
        }
        self.held.pop_front().map(|(output, _)| output)
    }

    /// The next token, when no further ones will follow.
    pub fn flush(&mut self) -> Option<TokenOutput> {
        self.held.pop_front().map(|(output, _)| output)
    }

    /// A final token without text.
    pub fn end(&self, token: Token, details: TokenDetails) -> TokenOutput {
        TokenOutput {
            token,
            text: String::new(),
            offset: self.characters,
            details,
        }
    }

    /// Bytes at the end of the text that may be the beginning of a stop string.
    fn undecided(&self) -> usize {
        if self.ending == Ending::AfterStop {
            return 0;
        }
        let text = self.text.as_bytes();
        let strings = self.stops.strings().iter();
        strings
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
    fn only_complete_characters_are_returned_and_invalid_bytes_dropped() {
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

    fn these(stops: &[&str]) -> Arc<Stops> {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        Arc::new(stops.into())
    }

    /// Feeds texts as tokens. Returns what was released after each, the flushed rest, and whether it stopped.
    fn run(
        stops: &[&str],
        ending: Ending,
        tokens: &[&[u8]],
    ) -> (Vec<Vec<String>>, Vec<String>, bool) {
        let mut completion = Completion::new(these(stops), ending);
        let (mut released, mut stopped) = (Vec::new(), false);
        for bytes in tokens {
            assert!(!stopped);
            stopped = completion.push(Token(0), bytes, TokenDetails::default());
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
    fn text_ends_before_the_first_match_and_tokens_stay() {
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
        // Tokens are held back whole.
        check(&["yz"], &[b"xy", b"a"], &[&[], &["xy", "a"]], &[], false);
        check(&["yz"], &[b"xy"], &[&[]], &["xy"], false);
        // The first match in the text, not in the list.
        check(&["b", "a"], &[b"xab"], &[&["x"]], &[], true);
        // Stop strings with multi-byte characters that arrive byte by byte.
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
    fn text_ends_after_the_first_match_and_nothing_is_held_back() {
        let check = |stops: &[&str], tokens: &[&[u8]], released: &[&str], stopped: bool| {
            let got = run(stops, Ending::AfterStop, tokens);
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
        // The earliest, and of those at the same position the shortest.
        check(&["b", "abc", "ab"], &[b"xabcd"], &["xab"], true);
        check(&["é!"], &[b"\xc3", b"\xa9!?"], &["", "é!"], true);
    }

    #[test]
    fn unreturned_tokens_count_for_offsets_and_stop_strings() {
        let check =
            |stops: &[&str], kept: &[u8], tokens: &[&[u8]], texts: &[&str], stopped: bool| {
                let mut completion = Completion::new(these(stops), Ending::BeforeStop);
                completion.append_unreturned(Token(0), kept);
                let mut ended = false;
                for bytes in tokens {
                    assert!(!ended);
                    ended = completion.push(Token(0), bytes, TokenDetails::default());
                }
                let outputs: Vec<_> = std::iter::from_fn(|| completion.flush()).collect();
                let came: Vec<&str> = outputs.iter().map(|output| &*output.text).collect();
                assert_eq!((came, ended), (texts.to_vec(), stopped), "{stops:?}");
                let mut decoder = Utf8Decoder::new();
                assert_eq!(outputs[0].offset, decoder.push(kept).chars().count());
            };
        check(&[], b"abc", &[b"d", b"e"], &["d", "e"], false);
        check(&[], b"a\xc3", &[b"\xa9!", b"e"], &["é!", "e"], false);
        // A stop string may begin in an unreturned token, but not end there.
        check(&["cd"], b"abc", &[b"de"], &[""], true);
        check(&["bc", "cdef"], b"abc", &[b"d", b"e"], &["d", "e"], false);
        check(&["bc", "cdef"], b"abc", &[b"d", b"efg"], &["", ""], true);
        check(&["é!"], b"a\xc3", &[b"\xa9", b"!b"], &["", ""], true);
        check(&["d"], b"dd", &[b"ad"], &["a"], true);
    }

    #[test]
    fn offsets_count_characters() {
        let mut completion = Completion::new(Arc::default(), Ending::BeforeStop);
        let mut offsets = Vec::new();
        for bytes in [&b"a\xc3"[..], b"\xa9", "日本".as_bytes(), b"!"] {
            completion.push(Token(0), bytes, TokenDetails::default());
            offsets.extend(completion.release().map(|o| o.offset));
        }
        assert_eq!(offsets, [0, 1, 2, 4]);
        assert_eq!(completion.end(Token(1), TokenDetails::default()).offset, 5);
    }

    #[test]
    fn a_line_with_too_little_indentation_ends_the_text() {
        let check = |least,
                     stops: &[&str],
                     tokens: &[&str],
                     expect: &str,
                     stopped: Option<Option<usize>>| {
            let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
            let stops = Stops::from(stops).with_least_indent(least);
            let mut completion = Completion::new(Arc::new(stops), Ending::BeforeStop);
            let (mut text, mut at) = (String::new(), None);
            for token in tokens {
                assert_eq!(at, None, "{tokens:?}");
                if completion.push(Token(0), token.as_bytes(), TokenDetails::default()) {
                    at = Some(completion.stop_string());
                }
                text.extend(std::iter::from_fn(|| completion.release()).map(|it| it.text));
            }
            text.extend(std::iter::from_fn(|| completion.flush()).map(|it| it.text));
            assert_eq!((text.as_str(), at), (expect, stopped), "{tokens:?}");
        };
        let code = ["a\n", "    b", "\n   ", " c\n  ", "d"];
        check(4, &[], &code, "a\n    b\n    c\n  ", Some(None));
        check(2, &[], &code, "a\n    b\n    c\n  d", None);
        check(0, &[], &["a\nb"], "a\nb", None);
        // Within a token, and an empty line.
        check(1, &[], &["a\n b\nc\n d"], "a\n b\n", Some(None));
        check(1, &[], &["a\n", "\n b"], "a\n", Some(None));
        check(1, &[], &["\tif"], "\tif", None);
        // A stop string counts if it comes first.
        check(1, &["b"], &["a\n", "b"], "a\n", Some(Some(0)));
        check(1, &["x", "bc"], &["a\nb"], "a\n", Some(None));
        check(1, &["x", "a"], &["a\nb"], "", Some(Some(1)));
    }
}
