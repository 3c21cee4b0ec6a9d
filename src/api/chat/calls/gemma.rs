//! A call of Gemma 4: `call:name{key:value, …}`, where keys have no quotes and strings are between `<|"|>`.

use super::held::{Begins, Found, Held, begins, find, head};
use super::part::{Functions, Parts, Rest, Step};
use crate::api::chat::arguments::{escaped, quoted};

const START: &str = "call:";
const QUOTE: &str = "<|\"|>";
/// The longest name.
const MOST_HEAD_BYTES: usize = 256;
const MOST_DEPTH: usize = 64;

#[derive(Debug, Default)]
pub struct GemmaCall {
    /// Open objects and arrays; none before the name is known.
    open: Vec<char>,
    in_string: bool,
    /// Whether a value comes next, rather than a key.
    at_value: bool,
    /// Whether there was a key without a value so far.
    keyed: bool,
    /// Whether a comma comes before what is next.
    comma: bool,
    /// How far the text of a word, or of a string as in JSON, was searched for its end.
    searched: usize,
    /// Whether the next character there is escaped.
    escaped: bool,
}

impl GemmaCall {
    pub fn step(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Step {
        if self.open.is_empty() {
            let blank = held.blank();
            let text = &held.as_str()[blank..];
            let text = head(text, MOST_HEAD_BYTES);
            let last = rest.is_none() || blank + text.len() < held.as_str().len();
            match begins(text, START, last) {
                Begins::Yes => {}
                Begins::Maybe => return Step::More,
                Begins::No => return Step::Text(String::new()),
            }
            let Some((name, _)) = text[START.len()..].split_once('{') else {
                return if last {
                    Step::Text(String::new())
                } else {
                    Step::More
                };
            };
            let length = blank + START.len() + name.len() + 1;
            let name = name.trim().to_owned();
            if !functions.contains(&name) {
                return Step::Text(String::new());
            }
            parts.call(&name, None);
            parts.arguments("{");
            held.skip(length);
            self.open.push('}');
        }
        loop {
            if let Some(step) = self.token(held, parts, rest) {
                return step;
            }
        }
    }

    /// Takes the next part of the value.
    fn token(&mut self, held: &mut Held, parts: &mut Parts, rest: Rest) -> Option<Step> {
        let last = rest.is_none();
        if self.in_string {
            let text = held.as_str();
            let (length, end) = match find(text, 0, [QUOTE].into_iter(), false) {
                Found::At(_, position) => (position, true),
                Found::Maybe(position) => (position, false),
                Found::No => (text.len(), false),
            };
            let value = held.take(length);
            parts.arguments(escaped(&value));
            if !end {
                if last {
                    held.skip(held.as_str().len());
                }
                return Some(self.stop(parts, rest));
            }
            held.skip(QUOTE.len());
            parts.arguments("\"");
            self.in_string = false;
            return None;
        }
        let text = held.as_str();
        let Some(first) = text.chars().next() else {
            return Some(self.stop(parts, rest));
        };
        match begins(text, QUOTE, last) {
            Begins::Yes => {
                held.skip(QUOTE.len());
                self.separate(parts);
                parts.arguments("\"");
                self.in_string = true;
                return None;
            }
            Begins::Maybe => return Some(Step::More),
            Begins::No if last && QUOTE.starts_with(text) => {
                held.skip(held.as_str().len());
                return Some(self.stop(parts, rest));
            }
            Begins::No => {}
        }
        let in_object = self.open.last() == Some(&'}');
        match first {
            '{' | '[' if self.open.len() < MOST_DEPTH => {
                self.separate(parts);
                self.open.push(if first == '{' { '}' } else { ']' });
                self.at_value = false;
                parts.arguments(first);
            }
            '}' | ']' => {
                self.comma = false;
                if std::mem::take(&mut self.keyed) {
                    parts.arguments(": null");
                }
                parts.arguments(self.open.pop().unwrap_or(first));
                self.at_value = false;
                if self.open.is_empty() {
                    held.skip(1);
                    return Some(Step::Over);
                }
            }
            ',' => {
                self.at_value = false;
                self.comma = true;
            }
            ':' => self.at_value = true,
            _ if first.is_whitespace() => {}
            '"' => {
                // A string as in JSON.
                let from = self.searched.max(1);
                let end = text[from..].find(|character| {
                    let is_escaped = std::mem::take(&mut self.escaped);
                    self.escaped = !is_escaped && character == '\\';
                    !is_escaped && character == '"'
                });
                self.searched = text.len();
                let Some(end) = end.map(|end| from + end + 1) else {
                    if last {
                        held.skip(held.as_str().len());
                    }
                    return Some(self.stop(parts, rest));
                };
                self.searched = 0;
                self.separate(parts);
                parts.arguments(held.take(end));
                self.keyed = in_object && !self.at_value;
                return None;
            }
            _ => {
                let is_key = in_object && !self.at_value;
                let ends = if is_key { ":,}" } else { ",}]" };
                let from = self.searched.max(first.len_utf8());
                let end = text[from..].find(|c| ends.contains(c));
                self.searched = text.len();
                let Some(end) = end.map(|end| from + end) else {
                    if !last {
                        return Some(Step::More);
                    }
                    held.skip(held.as_str().len());
                    return Some(self.stop(parts, rest));
                };
                self.searched = 0;
                let word = held.take(end);
                let word = word.trim_end();
                self.separate(parts);
                self.keyed = is_key;
                let is_json = serde_json::from_str::<serde_json::Value>(word).is_ok();
                parts.arguments(if is_key || !is_json {
                    quoted(word)
                } else {
                    word.to_owned()
                });
                return None;
            }
        }
        held.skip(first.len_utf8());
        None
    }

    /// Emits what stands between this and what was before.
    fn separate(&mut self, parts: &mut Parts) {
        if std::mem::take(&mut self.comma) {
            parts.arguments(", ");
        }
        if std::mem::take(&mut self.keyed) {
            parts.arguments(": ");
        }
    }

    /// The end of what has come.
    fn stop(&mut self, parts: &mut Parts, rest: Rest) -> Step {
        match rest {
            Rest::More => return Step::More,
            Rest::Cut => {}
            Rest::Ended => {
                if self.in_string {
                    parts.arguments("\"");
                }
                if self.keyed {
                    parts.arguments(": null");
                }
                parts.arguments(self.open.drain(..).rev().collect::<String>());
            }
        }
        Step::Over
    }
}
