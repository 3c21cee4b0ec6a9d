//! Text of a model that has not been interpreted yet.

use std::collections::VecDeque;
use std::ops::Range;

/// Text that is held back. It contains the names of control tokens, since they may be markers; what is taken out as text
/// does not.
#[derive(Debug, Default, Clone)]
pub struct Held {
    text: String,
    /// Where it begins: removing from the front of a string would move the rest each time.
    start: usize,
    /// Where in `text` there are names of control tokens.
    names: VecDeque<Range<usize>>,
}

impl Held {
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub fn push_name(&mut self, name: &str) {
        let start = self.text.len();
        self.text.push_str(name);
        self.names.push_back(start..self.text.len());
    }

    /// All of it, with the names of control tokens.
    pub fn as_str(&self) -> &str {
        &self.text[self.start..]
    }

    /// Removes `length` bytes and returns them without the names of control tokens.
    pub fn take(&mut self, length: usize) -> String {
        let end = self.start + length;
        let mut taken = String::with_capacity(length);
        while let Some(name) = self.names.front_mut() {
            if name.start >= end {
                break;
            }
            if name.start > self.start {
                taken.push_str(&self.text[self.start..name.start]);
            }
            self.start = name.end.min(end);
            if name.end > end {
                // A marker that ends within the name.
                name.start = end;
                break;
            }
            self.names.pop_front();
        }
        taken.push_str(&self.text[self.start..end]);
        self.start = end;
        if self.start == self.text.len() {
            self.text.clear();
            self.names.clear();
            self.start = 0;
        }
        taken
    }

    /// Removes `length` bytes.
    pub fn skip(&mut self, length: usize) {
        let _ = self.take(length);
    }

    /// The length of the white space that it begins with.
    pub fn blank(&self) -> usize {
        let text = self.as_str();
        text.len() - text.trim_start().len()
    }
}

/// The beginning of a text, of at most this many bytes: what must be decided by then is decided on the same text however it
/// came.
pub fn head(text: &str, most: usize) -> &str {
    let mut length = most.min(text.len());
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    &text[..length]
}

/// Where the first of some markers is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The marker's index, and the position.
    At(usize, usize),
    /// One may begin here.
    Maybe(usize),
    No,
}

/// Finds the first of these markers at or after `from`, of several at one position the longest. Unless `last`, the text may
/// go on.
pub fn find<'m>(
    text: &str,
    from: usize,
    markers: impl Iterator<Item = &'m str> + Clone,
    last: bool,
) -> Found {
    let bytes = text.as_bytes();
    for position in from..bytes.len() {
        let rest = &bytes[position..];
        let mut longest: Option<(usize, usize)> = None;
        for (index, marker) in markers.clone().enumerate() {
            let marker = marker.as_bytes();
            if marker.first() != rest.first() {
                continue;
            }
            if rest.starts_with(marker) {
                if longest.is_none_or(|(length, _)| length < marker.len()) {
                    longest = Some((marker.len(), index));
                }
            } else if !last && marker.starts_with(rest) {
                return Found::Maybe(position);
            }
        }
        if let Some((_, index)) = longest {
            return Found::At(index, position);
        }
    }
    Found::No
}

/// Whether a text begins with a marker.
#[derive(Debug, PartialEq, Eq)]
pub enum Begins {
    Yes,
    Maybe,
    No,
}

/// Whether the text begins with this. Unless `last`, it may go on.
pub fn begins(text: &str, marker: &str, last: bool) -> Begins {
    if text.starts_with(marker) {
        Begins::Yes
    } else if !last && marker.starts_with(text) {
        Begins::Maybe
    } else {
        Begins::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_control_tokens_are_seen_and_not_taken() {
        let mut held = Held::default();
        held.push("a");
        held.push_name("<x>");
        held.push("bc");
        held.push_name("<y>");
        assert_eq!(held.as_str(), "a<x>bc<y>");
        assert_eq!(held.take(5), "ab");
        assert_eq!(held.as_str(), "c<y>");
        // Within a name.
        assert_eq!(held.take(2), "c");
        assert_eq!(held.as_str(), "y>");
        held.push("d");
        assert_eq!(held.take(3), "d");
        held.push("e");
        assert_eq!(held.take(1), "e");
    }

    #[test]
    fn the_first_and_longest_marker_is_found() {
        let check = |text: &str, last, expect| {
            let found = find(text, 0, ["<a>", "<a><b>", "é"].into_iter(), last);
            assert_eq!(found, expect, "{text}");
        };
        check("x<a>", false, Found::Maybe(1));
        check("x<a>", true, Found::At(0, 1));
        check("x<a>y", false, Found::At(0, 1));
        check("x<a><b>", false, Found::At(1, 1));
        check("xé<a>", false, Found::At(2, 1));
        check("x<", false, Found::Maybe(1));
        check("x<", true, Found::No);
        check("<b>", false, Found::No);
    }
}
