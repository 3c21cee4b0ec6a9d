//! A call that is a JSON object with the function's name and its arguments.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::held::Held;
use super::part::{Functions, Parts, Rest, Step};
use crate::api::chat::forms::Keys;

/// The object of a call, read character by character.
#[derive(Debug)]
pub struct ObjectCall {
    keys: &'static Keys,
    /// Whether a marker came before it. Otherwise an object without arguments may be anything.
    marked: bool,
    /// All of it so far.
    text: String,
    /// Open objects and arrays.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// At depth 1: whether the next value belongs to `key`.
    after_colon: bool,
    /// The current or last string at depth 1.
    string: String,
    key: String,
    /// Where in `text` the arguments begin, and up to where they have been emitted.
    arguments: Option<(usize, usize)>,
    /// Where they end.
    arguments_end: Option<usize>,
    name: Option<String>,
    is_emitted: bool,
    is_over: bool,
}

impl ObjectCall {
    pub fn new(keys: &'static Keys, marked: bool) -> Self {
        Self {
            keys,
            marked,
            text: String::new(),
            depth: 0,
            in_string: false,
            escaped: false,
            after_colon: false,
            string: String::new(),
            key: String::new(),
            arguments: None,
            arguments_end: None,
            name: None,
            is_emitted: false,
            is_over: false,
        }
    }

    pub fn step(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Step {
        let mut taken = 0;
        let first = self.text.len();
        for character in held.as_str().chars() {
            taken += character.len_utf8();
            self.take(character, first + taken - character.len_utf8());
            if self.is_over {
                break;
            }
        }
        // Names of control tokens within it count as text.
        self.text.push_str(&held.as_str()[..taken]);
        held.skip(taken);
        self.emit(functions, parts, rest);
        match (self.is_over || rest.is_none(), self.is_emitted) {
            (true, true) => Step::Over,
            (true, false) => Step::Text(std::mem::take(&mut self.text)),
            (false, _) => Step::More,
        }
    }

    fn take(&mut self, character: char, start: usize) {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.depth == 1 {
                        if self.after_colon {
                            self.value_ended(start + 1);
                            if self.is_at_name() {
                                self.name = self.unescaped();
                            }
                        } else {
                            self.key = self.unescaped().unwrap_or_default();
                        }
                    }
                    return;
                }
                _ => {}
            }
            if self.depth == 1 {
                self.string.push(character);
            }
            return;
        }
        if self.depth == 1 && self.after_colon && !character.is_whitespace() {
            self.value_begins(start);
        }
        match character {
            '"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.string.clear();
                }
            }
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                if self.depth == 1 {
                    self.value_ended(start);
                    self.is_over = true;
                }
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 {
                    self.value_ended(start + 1);
                }
            }
            ':' if self.depth == 1 => self.after_colon = true,
            ',' if self.depth == 1 => {
                self.value_ended(start);
                self.after_colon = false;
            }
            // Not an object.
            _ if self.depth == 0 && !character.is_whitespace() => self.is_over = true,
            _ => {}
        }
    }

    fn is_at_name(&self) -> bool {
        match self.keys {
            Keys::Two(name, _) => self.key == *name || self.key == "name",
            Keys::Name => false,
        }
    }

    /// Whether the current value is the arguments.
    fn is_at_arguments(&self) -> bool {
        match self.keys {
            Keys::Two(..) => ["arguments", "parameters"].contains(&self.key.as_str()),
            Keys::Name => self.name.as_ref().is_none_or(|name| *name == self.key),
        }
    }

    fn value_begins(&mut self, start: usize) {
        if self.arguments.is_none() && self.is_at_arguments() {
            self.arguments = Some((start, start));
            if matches!(self.keys, Keys::Name) {
                self.name = Some(self.key.clone());
            }
        }
    }

    fn value_ended(&mut self, end: usize) {
        if self.is_at_arguments() && self.arguments.is_some() && self.arguments_end.is_none() {
            self.arguments_end = Some(end);
        }
    }

    fn unescaped(&self) -> Option<String> {
        serde_json::from_str(&format!("\"{}\"", self.string)).ok()
    }

    /// Emits the call as soon as its name is known and its arguments begin.
    fn emit(&mut self, functions: &Functions, parts: &mut Parts, rest: Rest) {
        let Some(name) = self.name.as_ref().filter(|name| functions.contains(name)) else {
            return;
        };
        let without = self.is_over && self.marked;
        if !self.is_emitted && (self.arguments.is_some() || without) {
            parts.call(name, None);
            self.is_emitted = true;
            if self.arguments.is_none() {
                parts.arguments("{}");
            }
        }
        if self.is_emitted
            && let Some((start, emitted)) = &mut self.arguments
        {
            let end = self.arguments_end.unwrap_or(self.text.len());
            if *emitted == *start && self.text[*start..].starts_with('"') {
                // They may be the text of an object, as in messages of the API.
                if self.arguments_end.is_none() && !self.is_over && !rest.is_none() {
                    return;
                }
                let text = &self.text[*emitted..end];
                let object = object_within(text);
                parts.arguments(object.unwrap_or_else(|| text.to_owned()));
                *emitted = end;
            }
            if *emitted < end {
                parts.arguments(&self.text[*emitted..end]);
                *emitted = end;
            }
        }
    }
}

/// The text of a JSON object, if this is a JSON string of one.
fn object_within(string: &str) -> Option<String> {
    let text: String = serde_json::from_str(string).ok()?;
    let is_object = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(&text).is_ok();
    is_object.then_some(text)
}
