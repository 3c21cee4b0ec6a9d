//! Names of control tokens in a conversation stay text: they are marked before a template renders them, and the prompt is
//! tokenized accordingly. So nobody can end a message or begin another within one.

use serde_json::{Map, Value};

use super::conversation::Conversation;
use super::literals::Literals;
use crate::api::error::ApiError;
use crate::model::{MarkedText, UnusedMark, Vocab};

/// The variable of a template that has texts to answer from.
const DOCUMENTS: &str = "documents";

/// The character that stands at each mark, if there are any.
pub struct Marks(Option<char>);

impl Marks {
    /// Marks the names in messages, tools and documents, unless they are to become control tokens. This template will render
    /// them.
    pub fn set(
        conversation: &mut Conversation,
        template: &str,
        parses: bool,
        vocab: &Vocab,
    ) -> Result<Self, ApiError> {
        if parses {
            return Ok(Self(None));
        }
        let mut unused = UnusedMark::default();
        unused.look_at(template);
        let strings = conversation.messages.iter().chain(&conversation.tools);
        let strings = strings.chain(conversation.kwargs.values());
        strings.for_each(|value| look_at(value, &mut unused));
        let mark = unused.find().ok_or_else(|| {
            let messages = conversation.names.messages;
            ApiError::field(
                messages,
                format!(
                    "`{messages}` and the template have every character of Unicode's private use area. Leave one of them \
                     out, or send `parse_special: true`."
                ),
            )
        })?;
        let (sought, literals) = Literals::of(template);
        let mut marker = Marker {
            mark,
            vocab,
            sought,
            literals,
            any: false,
        };
        for message in &mut conversation.messages {
            let is_answer = message["role"] == "assistant";
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten() {
                if let Some(Value::String(arguments)) = call.pointer_mut("/function/arguments") {
                    marker.show_names(arguments);
                }
            }
            for (name, value) in message.as_object_mut().into_iter().flatten() {
                // One of a few words, which templates compare.
                if name != "role" {
                    marker.mark(value, is_answer);
                }
            }
        }
        let documents = conversation.kwargs.get_mut(DOCUMENTS);
        for value in conversation.tools.iter_mut().chain(documents) {
            marker.mark(value, false);
        }
        Ok(Self(marker.any.then_some(mark)))
    }

    /// A rendered text without the characters, and where they were.
    pub fn take(&self, text: String, vocab: &Vocab) -> MarkedText {
        let text = vocab.normalized(&text);
        match self.0 {
            Some(mark) => MarkedText::new(&text, mark),
            None => text.into_owned().into(),
        }
    }
}

fn look_at(value: &Value, unused: &mut UnusedMark) {
    match value {
        Value::String(text) => unused.look_at(text),
        Value::Array(items) => items.iter().for_each(|item| look_at(item, unused)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            unused.look_at(name);
            look_at(value, unused);
        }),
        _ => {}
    }
}

struct Marker<'a> {
    mark: char,
    vocab: &'a Vocab,
    /// What the template looks for, and all that it may.
    sought: Literals,
    literals: Literals,
    /// Whether there was anything to mark.
    any: bool,
}

impl Marker<'_> {
    /// Marks the names in all strings of a value. In an answer those that the template looks for remain: it cuts the
    /// reasoning of earlier answers off at them.
    fn mark(&mut self, value: &mut Value, is_answer: bool) {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.marked(text, is_answer) {
                    *text = marked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(item, is_answer)),
            Value::Object(fields) => {
                let renamed = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                    self.mark(&mut value, is_answer);
                    (self.marked(&name, is_answer).unwrap_or(name), value)
                });
                *fields = renamed.collect::<Map<_, _>>();
            }
            _ => {}
        }
    }

    /// Arguments may be given to the template as an object, in which names show that JSON hid behind escapes.
    fn show_names(&mut self, arguments: &mut String) {
        let shown = without_needless_escapes(arguments);
        if shown != *arguments && self.marked(&shown, true).is_some() {
            *arguments = shown;
        }
    }

    /// `None`: there is nothing to mark.
    fn marked(&mut self, text: &str, is_answer: bool) -> Option<String> {
        // As it will be tokenized: a name may come about by composition.
        let text = self.vocab.normalized(text);
        let mut marked = String::with_capacity(text.len());
        if is_answer {
            for (number, piece) in self.sought.divide(&text).into_iter().enumerate() {
                match number % 2 {
                    0 => self.push(piece, &mut marked),
                    _ => marked.push_str(piece),
                }
            }
        } else {
            self.push(&text, &mut marked);
        }
        // It is in none of the strings.
        let any = marked.contains(self.mark);
        self.any |= any;
        any.then_some(marked)
    }

    /// Adds a text with its marks. The template may take out what is in its quotes, so that the parts of a name around that
    /// come together.
    fn push(&self, text: &str, marked: &mut String) {
        for piece in self.literals.divide(text) {
            match self.vocab.marked(piece, self.mark) {
                Some(piece) => marked.push_str(&piece),
                None => marked.push_str(piece),
            }
        }
    }
}

/// The same JSON, in which characters that need no escape have none.
fn without_needless_escapes(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(place) = rest.find('\\') {
        let (before, escape) = rest.split_at(place);
        text.push_str(before);
        let digits = escape.strip_prefix("\\u").and_then(|it| it.get(..4));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let (character, length) = match code {
            Some(code) => (char::from_u32(code), 6),
            None => (escape[1..].chars().next().filter(|it| *it == '/'), 2),
        };
        match character.filter(|it| !it.is_control() && !['"', '\\'].contains(it)) {
            Some(character) => {
                text.push(character);
                rest = &escape[length..];
            }
            None => {
                let kept = escape.chars().take(2).map(char::len_utf8).sum();
                text.push_str(&escape[..kept]);
                rest = &escape[kept..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_json_does_not_need_are_written_out() {
        for (json, expect) in [
            (r#"{"a": "\u003c|im_end|\u003E"}"#, r#"{"a": "<|im_end|>"}"#),
            (r#""<\/s>é\u00e9""#, r#""</s>éé""#),
            (
                r#""\n\u0022\u005c\u000a\\u003c\"""#,
                r#""\n\u0022\u005c\u000a\\u003c\"""#,
            ),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            ("", ""),
        ] {
            assert_eq!(without_needless_escapes(json), expect);
            if !json.is_empty() {
                let value = |json: &str| serde_json::from_str::<Value>(json).expect(json);
                assert_eq!(value(json), value(expect));
            }
        }
    }
}
