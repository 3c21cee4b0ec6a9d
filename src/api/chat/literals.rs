//! The texts that a chat template has in quotes. It may look for them in messages, and take them out.

use std::collections::BTreeMap;
use std::ops::Range;

/// How many are known of a template, and how long they are at most: real ones have fewer, and a client's may be anything.
const MOST: usize = 1_000;
const MOST_BYTES: usize = 256;

/// What a template calls with a text that it looks for.
const SEARCHES: [&str; 17] = [
    "split",
    "rsplit",
    "replace",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "strip",
    "lstrip",
    "rstrip",
    "removeprefix",
    "removesuffix",
    "partition",
    "rpartition",
];

/// Texts of a template, which are found in other texts.
#[derive(Debug, Default)]
pub struct Literals {
    /// Sorted, each with the index of the longest one that it begins with.
    sorted: Vec<(String, Option<usize>)>,
}

impl Literals {
    /// Those that the template visibly looks for, as in `content.split('</think>')` and `'</think>' in content`; and all, but
    /// white space only if it is looked for.
    pub fn of(template: &str) -> (Self, Self) {
        let mut found: BTreeMap<String, bool> = BTreeMap::new();
        for place in quoted(template) {
            let is_sought = is_sought(template, &place);
            let text = unescaped(&template[place.start + 1..place.end - 1]);
            let is_known = found.contains_key(&text);
            if text.is_empty() || text.len() > MOST_BYTES || !is_known && found.len() >= MOST {
                continue;
            }
            *found.entry(text).or_default() |= is_sought;
        }
        let sought = found.iter().filter(|(_, sought)| **sought);
        let sought = sought.map(|(text, _)| text.clone()).collect();
        found.retain(|text, sought| *sought || !text.trim().is_empty());
        (
            Self::sorted(sought),
            Self::sorted(found.into_keys().collect()),
        )
    }

    fn sorted(texts: Vec<String>) -> Self {
        let mut sorted: Vec<(String, Option<usize>)> = Vec::with_capacity(texts.len());
        for text in texts {
            let mut prefix = sorted.len().checked_sub(1);
            while let Some(index) = prefix
                && !text.starts_with(&sorted[index].0)
            {
                prefix = sorted[index].1;
            }
            sorted.push((text, prefix));
        }
        Self { sorted }
    }

    /// A text in pieces, in turn between those of a template, and one of these: the first and the last are between.
    pub fn divide<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let (mut from, mut place) = (0, 0);
        while place < text.len() {
            match self.longest(&text.as_bytes()[place..]) {
                Some(length) => {
                    pieces.push(&text[from..place]);
                    place += length;
                    from = place;
                    pieces.push(&text[place - length..place]);
                }
                None => place += 1,
            }
        }
        pieces.push(&text[from..]);
        pieces
    }

    /// The length of the longest that a text begins with. Whatever else it begins with is a beginning of the last that sorts
    /// before it.
    fn longest(&self, text: &[u8]) -> Option<usize> {
        let after = self.sorted.partition_point(|(it, _)| it.as_bytes() <= text);
        let mut candidate = after.checked_sub(1);
        while let Some(index) = candidate {
            let (it, prefix) = &self.sorted[index];
            if text.starts_with(it.as_bytes()) {
                return Some(it.len());
            }
            candidate = *prefix;
        }
        None
    }
}

/// Where texts in quotes are, with these, in the expressions of a template.
fn quoted(template: &str) -> Vec<Range<usize>> {
    let bytes = template.as_bytes();
    let mut places = Vec::new();
    let mut from = 0;
    while let Some(open) = template[from..].find('{').map(|place| from + place) {
        from = open + 1;
        let close = match bytes.get(from) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                let end = template[from..].find("#}");
                from = end.map_or(template.len(), |end| from + end + 2);
                continue;
            }
            _ => continue,
        };
        from += 1;
        let (mut depth, mut start) = (0_usize, None);
        while let Some(&byte) = bytes.get(from) {
            match (byte, start) {
                (b'\\', Some(_)) => from += 1,
                (_, Some(quote)) if byte == bytes[quote] => {
                    places.push(quote..from + 1);
                    start = None;
                }
                (_, Some(_)) => {}
                (b'"' | b'\'', None) => start = Some(from),
                _ if depth == 0 && bytes[from..].starts_with(close.as_bytes()) => break,
                (b'{', None) => depth += 1,
                (b'}', None) => depth = depth.saturating_sub(1),
                _ => {}
            }
            from += 1;
        }
        from = from.min(template.len());
    }
    places
}

fn is_sought(template: &str, place: &Range<usize>) -> bool {
    let before = template[..place.start].trim_end();
    let is_argument = before.strip_suffix('(').is_some_and(|before| {
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_');
        let name = name.into_iter().next();
        name.is_some_and(|name| SEARCHES.contains(&name))
    });
    let after = &template[place.end..];
    is_argument
        || after_word(after, "in")
            .or_else(|| after_word(after_word(after, "not")?, "in"))
            .is_some()
}

/// What follows the first word, if it is this one. No more of the text is looked at: it may be long.
fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let rest = text.trim_start().strip_prefix(word)?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some(rest)
}

fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut unescaped = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        unescaped.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(other) => other,
                None => character,
            },
            _ => character,
        });
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(literals: &Literals) -> Vec<&str> {
        literals.sorted.iter().map(|(text, _)| &**text).collect()
    }

    #[test]
    fn texts_in_quotes_are_known_and_so_is_which_are_looked_for() {
        let (sought, all) = Literals::of(
            "not 'this' {# nor \"this\" #} {{ '<|a|>' + x.split(\"<b>\")[0] + ' ' }}{%- if '\\n<c>' not in x and \"it's\" in y %}\
             {{ {'k': {'l': \"\"}} }}{{ x | replace( '<d>\\'', 'e') }}{{ emit('f') }}{% set z = y.strip(' ') ~ '%}' %}{{ 'open",
        );
        assert_eq!(texts(&sought), ["\n<c>", " ", "<b>", "<d>'", "it's"]);
        assert_eq!(
            texts(&all),
            [
                "\n<c>", " ", "%}", "<b>", "<d>'", "<|a|>", "e", "f", "it's", "k", "l"
            ]
        );
        assert_eq!(
            texts(&Literals::of("{{ x.strip() }}{{ '\\").1),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn many_texts_without_a_space_are_read_once() {
        let (sought, all) = Literals::of(&format!("{{{{ {}", "'a'".repeat(200_000)));
        assert_eq!((texts(&sought), texts(&all)), (vec![], vec!["a"]));
        let (sought, _) =
            Literals::of("{{ 'a' not  in x, 'b' in x, 'c' not x in, 'd' index, 'e' in");
        assert_eq!(texts(&sought), ["a", "b", "e"]);
    }

    #[test]
    fn a_text_is_divided_at_the_longest_of_those_that_come_first() {
        let texts = ["a", "aab", "ab", "abb", "é", "b<x>"].map(str::to_owned);
        let texts: std::collections::BTreeSet<String> = texts.into();
        let literals = Literals::sorted(texts.into_iter().collect());
        for (text, expect) in [
            ("", &[""][..]),
            ("xyz", &["xyz"]),
            ("abc", &["", "ab", "c"]),
            ("aac", &["", "a", "", "a", "c"]),
            ("xabbé", &["x", "abb", "", "é", ""]),
            ("èab<x>", &["è", "ab", "<x>"]),
            ("1b<x>2", &["1", "b<x>", "2"]),
        ] {
            assert_eq!(literals.divide(text), expect, "{text}");
        }
        assert_eq!(Literals::default().divide("ab"), ["ab"]);
    }
}
