//! A call as in Python: `name(key=value, …)`.

use std::collections::BTreeSet;

use super::held::{Held, head};
use super::part::{Functions, Parts, Rest, Step};
use crate::api::chat::arguments::{escaped, python, quoted};

/// The longest name.
const MOST_HEAD_BYTES: usize = 256;

#[derive(Debug, Default)]
pub struct PythonCall {
    is_named: bool,
    /// Those of the arguments so far, of which the first with a key counts.
    keys: BTreeSet<String>,
    /// How far the current argument has been read, and where its value begins.
    read: usize,
    value: Option<usize>,
    depth: usize,
    quote: Option<char>,
    escaped: bool,
}

impl PythonCall {
    pub fn step(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Step {
        if !self.is_named {
            let text = held.as_str();
            let head = head(text, MOST_HEAD_BYTES);
            let Some((name, _)) = head.split_once('(') else {
                let may_be = head
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c) || c.is_whitespace());
                return if may_be && head.len() == text.len() && rest == Rest::More {
                    Step::More
                } else {
                    Step::Text(String::new())
                };
            };
            let length = name.len() + 1;
            let name = name.trim();
            if !functions.contains(name) {
                return Step::Text(String::new());
            }
            parts.call(name, None);
            parts.arguments("{");
            held.skip(length);
            self.is_named = true;
        }
        while let Some(character) = held.as_str()[self.read..].chars().next() {
            let position = self.read;
            self.read += character.len_utf8();
            if let Some(quote) = self.quote {
                match character {
                    _ if self.escaped => self.escaped = false,
                    '\\' => self.escaped = true,
                    _ if character == quote => self.quote = None,
                    _ => {}
                }
                continue;
            }
            match character {
                '"' | '\'' => self.quote = Some(character),
                '[' | '{' | '(' => self.depth += 1,
                ')' | ',' if self.depth == 0 => {
                    self.argument(held, parts, position);
                    if character == ')' {
                        parts.arguments("}");
                        return Step::Over;
                    }
                }
                ']' | '}' | ')' => self.depth = self.depth.saturating_sub(1),
                '=' if self.depth == 0 && self.value.is_none() => self.value = Some(self.read),
                _ => {}
            }
        }
        match rest {
            Rest::More => Step::More,
            Rest::Cut => {
                // As far as it came.
                let key = self.value.and_then(|value| self.key(held, value));
                parts.arguments(key.unwrap_or_default());
                held.skip(held.as_str().len());
                Step::Over
            }
            Rest::Ended => {
                let end = held.as_str().len();
                self.argument(held, parts, end);
                parts.arguments("}");
                Step::Over
            }
        }
    }

    /// What the argument begins with, if it is the first with its key.
    fn key(&mut self, held: &Held, value: usize) -> Option<String> {
        let comma = if self.keys.is_empty() { "" } else { ", " };
        let key = held.as_str()[..value]
            .trim()
            .trim_end_matches('=')
            .trim_end();
        let is_first = self.keys.insert(key.to_owned());
        is_first.then(|| format!("{comma}\"{}\": ", escaped(key)))
    }

    /// Emits the argument that ends at `end`, and removes it with the character after it.
    fn argument(&mut self, held: &mut Held, parts: &mut Parts, end: usize) {
        if let Some(value) = self.value
            && let Some(key) = self.key(held, value)
        {
            parts.arguments(key);
            let text = held.as_str()[value..end].trim();
            parts.arguments(python(text).unwrap_or_else(|| quoted(text)));
        }
        let length = held.as_str().len();
        held.skip((end + 1).min(length));
        *self = Self {
            is_named: true,
            keys: std::mem::take(&mut self.keys),
            ..Self::default()
        };
    }
}
