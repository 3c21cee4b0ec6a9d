//! A text in which some places are marked: no control token is recognized across them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// A text and its marks. A control token's name with a mark inside is text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkedText {
    text: String,
    /// Positions in bytes, ascending.
    marks: Vec<usize>,
}

impl MarkedText {
    /// From a text in which a character stands at each mark. It may have been written as an escape in JSON.
    pub fn new(text: &str, mark: char) -> Self {
        let escaped = escaped(mark);
        let mut marked = Self::default();
        let mut rest = text;
        while let Some(place) = rest.find([mark, '\\']) {
            let (before, from) = rest.split_at(place);
            marked.text.push_str(before);
            let after = from.strip_prefix(mark);
            rest = match after.or_else(|| from.strip_prefix(&escaped)) {
                Some(after) => {
                    marked.marks.push(marked.text.len());
                    after
                }
                None => {
                    marked.text.push('\\');
                    &from[1..]
                }
            };
        }
        marked.text.push_str(rest);
        marked
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn into_string(self) -> String {
        self.text
    }

    pub fn marks(&self) -> &[usize] {
        &self.marks
    }

    /// Appends text without marks.
    pub fn push_str(&mut self, text: &str) {
        self.text.push_str(text);
    }
}

impl From<String> for MarkedText {
    fn from(text: String) -> Self {
        Self {
            text,
            marks: Vec::new(),
        }
    }
}

/// The character as JSON of ASCII alone has it. It is in the basic plane.
fn escaped(mark: char) -> String {
    format!("\\u{:04x}", u32::from(mark))
}

/// Finds a character for marks in a text that will be made of strings: none of them has it.
#[derive(Default)]
pub struct UnusedMark(BTreeSet<u32>);

impl UnusedMark {
    /// The private use area: no tokenizer, template or filter gives these a meaning.
    const CANDIDATES: RangeInclusive<char> = '\u{e000}'..='\u{f8ff}';

    /// One of the strings.
    pub fn look_at(&mut self, string: &str) {
        let candidates = string.chars().filter(|c| Self::CANDIDATES.contains(c));
        self.0.extend(candidates.map(u32::from));
        let escapes = string.match_indices("\\u");
        self.0.extend(escapes.filter_map(|(place, _)| {
            let digits = string.get(place + 2..place + 6)?;
            u32::from_str_radix(digits, 16).ok()
        }));
    }

    /// `None`: the strings have all of them.
    pub fn find(&self) -> Option<char> {
        let mut candidates = Self::CANDIDATES.rev();
        candidates.find(|&mark| !self.0.contains(&u32::from(mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_out_however_they_are_written() {
        let text = MarkedText::new("<\u{f8ff}a>é\\uf8ffb\u{f8ff}", '\u{f8ff}');
        assert_eq!(text.as_str(), "<a>éb");
        assert_eq!(text.marks(), [1, 5, 6]);
        let text = MarkedText::new("a\\\\uf8ff\\n\\", '\u{f8ff}');
        assert_eq!((text.as_str(), text.marks()), ("a\\\\n\\", &[2][..]));
        let text = MarkedText::from("\u{f8ff}".to_owned());
        assert_eq!((text.as_str(), text.marks()), ("\u{f8ff}", &[][..]));
    }

    #[test]
    fn many_marks_are_taken_out_as_fast_as_few() {
        // Milliseconds; hours if the rest is searched for each of them.
        let text = MarkedText::new(&"<\u{f8ff}a>".repeat(1 << 20), '\u{f8ff}');
        assert_eq!(
            (text.as_str().len(), text.marks().len()),
            (3 << 20, 1 << 20)
        );
    }

    #[test]
    fn a_mark_is_in_none_of_the_strings() {
        let mut unused = UnusedMark::default();
        assert_eq!(unused.find(), Some('\u{f8ff}'));
        unused.look_at("a\u{f8ff}b\\uF8fe\\u\\u12");
        unused.look_at("\u{f8fd}");
        assert_eq!(unused.find(), Some('\u{f8fc}'));
        let all: String = ('\u{e000}'..='\u{f8ff}').collect();
        unused.look_at(&all);
        assert_eq!(unused.find(), None);
    }
}
