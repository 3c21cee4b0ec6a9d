//! Tokens that are recognized in a text by their names, such as `<|im_start|>`: where they are, as llama.cpp finds them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::marked_text::MarkedText;
use super::token::Token;

/// A token with a name.
#[derive(Debug, Clone)]
pub struct Name {
    pub token: Token,
    pub text: Box<[u8]>,
    /// A control token, or the one for unknown text; otherwise a token that the model's makers defined, which every text
    /// may name.
    pub is_control: bool,
    /// Whether white space before or after it is dropped.
    pub strips_left: bool,
    pub strips_right: bool,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Name(Token),
    /// To be tokenized.
    Text(&'a str),
}

/// All names of a vocabulary.
pub struct Names {
    by_text: HashMap<Box<[u8]>, Name>,
    tokens: HashSet<Token>,
    /// The lengths of names, descending.
    lengths: Vec<usize>,
    /// Whether a name begins with this byte, and whether one ends with it.
    begins: [bool; 256],
    ends: [bool; 256],
    /// Names of control tokens, and the same backwards.
    control: BTreeSet<Box<[u8]>>,
    backwards: BTreeSet<Box<[u8]>>,
}

impl Names {
    pub fn new(names: Vec<Name>) -> Self {
        let (mut begins, mut ends) = ([false; 256], [false; 256]);
        let (mut control, mut backwards) = (BTreeSet::new(), BTreeSet::new());
        let (mut by_text, mut tokens) = (HashMap::new(), HashSet::new());
        let mut lengths = BTreeSet::new();
        for name in names {
            let (Some(&first), Some(&last)) = (name.text.first(), name.text.last()) else {
                continue;
            };
            begins[usize::from(first)] = true;
            ends[usize::from(last)] = true;
            lengths.insert(name.text.len());
            tokens.insert(name.token);
            if name.is_control {
                control.insert(name.text.clone());
                backwards.insert(name.text.iter().rev().copied().collect());
            }
            by_text.entry(name.text.clone()).or_insert(name);
        }
        Self {
            by_text,
            tokens,
            lengths: lengths.into_iter().rev().collect(),
            begins,
            ends,
            control,
            backwards,
        }
    }

    pub fn contains(&self, token: Token) -> bool {
        self.tokens.contains(&token)
    }

    /// Each name in a text, wherever it stands, with its place.
    fn found<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (Range<usize>, &'a Name)> {
        let places = (0..text.len()).filter(|&place| self.begins[usize::from(text[place])]);
        places.flat_map(move |place| {
            self.lengths.iter().filter_map(move |&length| {
                let name = self.by_text.get(text.get(place..place + length)?)?;
                Some((place..place + length, name))
            })
        })
    }

    /// Marks the names of control tokens, and a part of one at either end of the text, which may become whole where the
    /// text is inserted into another. `None`: there are none.
    pub fn marked(&self, text: &str, mark: char) -> Option<String> {
        let bytes = text.as_bytes();
        let controls = self.found(bytes).filter(|(_, name)| name.is_control);
        // Within the name, so that the mark breaks it in whatever text it is inserted.
        let mut marks: BTreeSet<usize> = controls
            .filter_map(|(place, _)| {
                let second = text[place.clone()].char_indices().nth(1)?.0;
                Some(place.start + second)
            })
            .collect();
        let longest = self.lengths.first().copied().unwrap_or(0);
        let is_part = |names: &BTreeSet<Box<[u8]>>, part: &[u8]| {
            let mut after = names.range(Box::from(part)..);
            after
                .find(|name| name.len() > part.len() || !name.starts_with(part))
                .is_some_and(|name| name.starts_with(part))
        };
        let mut starts = bytes.len().saturating_sub(longest)..bytes.len();
        if starts.any(|from| {
            self.begins[usize::from(bytes[from])] && is_part(&self.control, &bytes[from..])
        }) {
            marks.insert(bytes.len());
        }
        let backwards: Vec<u8> = bytes.iter().take(longest).rev().copied().collect();
        if (0..backwards.len()).any(|from| {
            self.ends[usize::from(backwards[from])] && is_part(&self.backwards, &backwards[from..])
        }) {
            marks.insert(0);
        }
        if marks.is_empty() {
            return None;
        }
        let mut marked = String::with_capacity(text.len() + 3 * marks.len());
        let mut from = 0;
        for place in marks {
            marked.push_str(&text[from..place]);
            marked.push(mark);
            from = place;
        }
        marked.push_str(&text[from..]);
        Some(marked)
    }

    /// Divides a text as llama.cpp does: the longest names are found first, and each where it stands first. The name of a
    /// control token with a mark inside is text.
    pub fn parts<'a>(&self, text: &'a MarkedText) -> Vec<Part<'a>> {
        let (text, marks) = (text.as_str(), text.marks());
        let bytes = text.as_bytes();
        let is_marked = |place: &Range<usize>| {
            let next = marks.partition_point(|&mark| mark <= place.start);
            marks.get(next).is_some_and(|&mark| mark < place.end)
        };
        let mut found: Vec<(Range<usize>, &Name)> = self
            .found(bytes)
            .filter(|(place, name)| !(name.is_control && is_marked(place)))
            .collect();
        found.sort_by_key(|(place, _)| (std::cmp::Reverse(place.len()), place.start));
        // What each name takes, with the white space that it drops.
        let mut taken: BTreeSet<(usize, usize, Option<Token>)> = BTreeSet::new();
        for (place, name) in found {
            let before = taken.range(..(place.end, 0, None)).next_back();
            if before.is_some_and(|&(_, end, _)| end > place.start) {
                continue;
            }
            let (free_from, free_to) = (
                before.map_or(0, |&(_, end, _)| end),
                taken
                    .range((place.end, 0, None)..)
                    .next()
                    .map_or(bytes.len(), |&(start, ..)| start),
            );
            let is_space = |byte: &&u8| matches!(**byte, b' ' | b'\t'..=b'\r');
            let spaces_before = bytes[free_from..place.start]
                .iter()
                .rev()
                .take_while(is_space)
                .count();
            let spaces_after = bytes[place.end..free_to]
                .iter()
                .take_while(is_space)
                .count();
            let start = place.start - if name.strips_left { spaces_before } else { 0 };
            let end = place.end + if name.strips_right { spaces_after } else { 0 };
            taken.insert((start, end, Some(name.token)));
        }
        let mut parts = Vec::with_capacity(2 * taken.len() + 1);
        let mut from = 0;
        for (start, end, token) in taken {
            if from < start {
                parts.push(Part::Text(&text[from..start]));
            }
            parts.extend(token.map(Part::Name));
            from = end;
        }
        if from < text.len() {
            parts.push(Part::Text(&text[from..]));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let name = |id: i32, text: &str, is_control: bool| Name {
            token: Token(id),
            text: text.as_bytes().into(),
            is_control,
            strips_left: text == "[L]",
            strips_right: text == "<|r|>",
        };
        Names::new(vec![
            name(0, "<|a|>", true),
            name(1, "<|ab|>", true),
            name(2, "</think>", false),
            name(3, "<|r|>", true),
            name(4, "[L]", true),
            name(5, "<|a|><|a|>", true),
        ])
    }

    #[test]
    fn names_are_marked_and_so_are_parts_of_them_at_the_ends() {
        let names = names();
        let marked = |text: &str| names.marked(text, '*');
        assert_eq!(marked("a b </think> <| c"), None);
        assert_eq!(marked(""), None);
        assert_eq!(marked("x<|a|>y"), Some("x<*|a|>y".to_owned()));
        assert_eq!(marked("<|ab|>"), Some("<*|ab|>".to_owned()));
        // It is also the beginning and the end of a longer one.
        assert_eq!(marked("<|a|>"), Some("*<*|a|>*".to_owned()));
        assert_eq!(marked("<|a|><|a|>!"), Some("*<*|a|><*|a|>!".to_owned()));
        assert_eq!(marked("a <|"), Some("a <|*".to_owned()));
        assert_eq!(marked("a<"), Some("a<*".to_owned()));
        assert_eq!(marked("|> a"), Some("*|> a".to_owned()));
        assert_eq!(marked("b|>"), Some("*b|>".to_owned()));
        assert_eq!(marked("</thin"), None);
    }

    #[test]
    fn a_text_is_divided_at_names_that_have_no_mark_inside() {
        let names = names();
        let parts = |text: &str| {
            let text = MarkedText::new(text, '\u{f8ff}');
            let parts = names.parts(&text).into_iter();
            parts
                .map(|part| match part {
                    Part::Name(token) => token.0.to_string(),
                    Part::Text(text) => format!("={text}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(parts("a<|a|>b</think>"), ["=a", "0", "=b", "2"]);
        assert_eq!(parts("a<\u{f8ff}|a|>b<|ab|>"), ["=a<|a|>b", "1"]);
        // A mark beside a name does not break it, and user-defined names are never broken.
        assert_eq!(parts("\u{f8ff}<|a|>\u{f8ff}</\u{f8ff}think>"), ["0", "2"]);
        assert_eq!(parts("<|a|><|a|><|a|>"), ["5", "0"]);
        assert_eq!(parts("<\u{f8ff}|a|><|a|>"), ["=<|a|>", "0"]);
        assert_eq!(
            parts("a \n[L] b <|r|> \n c"),
            ["=a", "4", "= b ", "3", "=c"]
        );
        assert_eq!(parts(""), Vec::<String>::new());
    }
}
