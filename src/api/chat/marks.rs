//! Names of control tokens in a conversation stay text: they are marked before a template renders them, and the prompt is
//! tokenized accordingly. So nobody can end a message or begin another within one.

use serde_json::{Map, Value};

use super::conversation::Conversation;
use crate::api::error::ApiError;
use crate::model::{MarkedText, UnusedMark, Vocab};

/// The character that stands at each mark, if there are any.
pub struct Marks(Option<char>);

impl Marks {
    /// Marks the names in messages and tools, unless they are to become control tokens.
    pub fn set(
        conversation: &mut Conversation,
        parses: bool,
        vocab: &Vocab,
    ) -> Result<Self, ApiError> {
        if parses {
            return Ok(Self(None));
        }
        let mut unused = UnusedMark::default();
        let strings = conversation.messages.iter().chain(&conversation.tools);
        strings.for_each(|value| look_at(value, &mut unused));
        let mark = unused.find().ok_or_else(|| {
            ApiError::field(
                "messages",
                "`messages` has every character of Unicode's private use area. Leave one of them out, or send \
                 `parse_special: true`.",
            )
        })?;
        let mut marked = false;
        for message in &mut conversation.messages {
            for (name, value) in message.as_object_mut().into_iter().flatten() {
                // One of a few words, which templates compare.
                if name != "role" {
                    marked |= set(value, mark, vocab);
                }
            }
        }
        for tool in &mut conversation.tools {
            marked |= set(tool, mark, vocab);
        }
        Ok(Self(marked.then_some(mark)))
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

/// Marks the names in all strings of a value; returns whether there are any.
fn set(value: &mut Value, mark: char, vocab: &Vocab) -> bool {
    match value {
        Value::String(text) => match vocab.marked(text, mark) {
            Some(marked) => {
                *text = marked;
                true
            }
            None => false,
        },
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |any, item| set(item, mark, vocab) | any),
        Value::Object(fields) => {
            let mut any = false;
            let renamed = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                any |= set(&mut value, mark, vocab);
                match vocab.marked(&name, mark) {
                    Some(marked) => {
                        any = true;
                        (marked, value)
                    }
                    None => (name, value),
                }
            });
            *fields = renamed.collect::<Map<_, _>>();
            any
        }
        _ => false,
    }
}
