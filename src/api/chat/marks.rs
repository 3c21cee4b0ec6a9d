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
            ApiError::field(
                "messages",
                "`messages` and the template have every character of Unicode's private use area. Leave one of them out, or \
                 send `parse_special: true`.",
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
