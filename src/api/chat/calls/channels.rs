//! Texts of messages that each begin with a header, which says whether it is content, reasoning or a call.

use std::sync::Arc;

use super::held::{Found, Held, find, head};
use super::part::{Functions, Parts};
use crate::api::chat::forms::Channels;

/// The longest header.
const MOST_HEADER_BYTES: usize = 512;
/// What is before the name of a function in a header, and is not part of it.
const NAMESPACE: &str = "functions.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Content,
    Reasoning,
    Call,
    /// Nothing but a header may follow.
    Between,
}

#[derive(Debug)]
pub struct ChannelReader {
    form: &'static Channels,
    functions: Arc<Functions>,
    held: Held,
    state: State,
    /// White space that was held back in a message: no marker begins in it.
    searched: usize,
    /// Whether reasoning is shown apart from content. Otherwise it is content with its markers.
    splits: bool,
}

impl ChannelReader {
    /// After a prompt that ends with this.
    pub fn new(
        form: &'static Channels,
        functions: Arc<Functions>,
        splits: bool,
        prompt: &str,
    ) -> Self {
        let mut reader = Self {
            form,
            functions,
            held: Held::default(),
            state: State::Header,
            searched: 0,
            splits,
        };
        // What the prompt began goes on.
        if let Some(start) = prompt.rfind(form.prompt) {
            reader.held.push(&prompt[start + form.prompt.len()..]);
            reader.run(&mut Parts::default(), false);
            let left = reader.held.as_str().len();
            if reader.state != State::Header {
                reader.held.skip(left);
                reader.searched = 0;
            }
        }
        reader
    }

    pub fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    pub fn is_reasoning(&self) -> bool {
        self.splits && self.state == State::Reasoning
    }

    /// Takes what is known now; with `last` all of it.
    pub fn run(&mut self, parts: &mut Parts, last: bool) {
        while self.step(parts, last) {}
    }

    fn step(&mut self, parts: &mut Parts, last: bool) -> bool {
        let text = self.held.as_str();
        if self.state == State::Header {
            let length = head(text, MOST_HEADER_BYTES).len();
            let cut = last || length < text.len();
            return match find(&text[..length], 0, [self.form.message].into_iter(), cut) {
                Found::At(_, position) => {
                    let header = text[..position].to_owned();
                    self.begin(&header, position + self.form.message.len(), parts);
                    true
                }
                _ if !cut => false,
                // Not a header.
                _ => {
                    self.state = State::Content;
                    !text.is_empty()
                }
            };
        }
        if self.state == State::Between {
            self.held.skip(self.held.blank());
            if self.held.as_str().is_empty() {
                return false;
            }
            self.state = State::Content;
            return true;
        }
        let markers = || self.form.header.iter().chain(self.form.end).copied();
        let (length, found) = match find(text, self.searched, markers(), last) {
            Found::At(index, position) => (position, Some(index)),
            Found::Maybe(position) => (position, None),
            Found::No => (text.len(), None),
        };
        // White space before a message of another kind.
        let shown = match (self.state, found, last) {
            (State::Call, _, _) | (_, None, true) => length,
            _ => match text[self.searched..length].trim_end() {
                "" => 0,
                more => self.searched + more.len(),
            },
        };
        self.searched = if found.is_none() { length - shown } else { 0 };
        let shown = self.held.take(shown);
        self.emit(shown, parts);
        let Some(index) = found else {
            return false;
        };
        let blank = self.held.blank();
        self.held.skip(blank);
        let end = index.checked_sub(self.form.header.len());
        let marker = match end {
            None => self.form.header[index],
            Some(end) => self.form.end[end],
        };
        if end.is_some() && self.state == State::Reasoning && !self.splits {
            parts.content(marker.to_owned());
        }
        self.held.skip(marker.len());
        self.state = if end.is_some() {
            State::Between
        } else {
            State::Header
        };
        // The marker itself may be part of what the header says.
        true
    }

    fn emit(&self, text: String, parts: &mut Parts) {
        match self.state {
            State::Call => parts.arguments(text),
            State::Reasoning if self.splits => parts.reasoning(text),
            _ => parts.content(text),
        }
    }

    /// Begins the message with this header, which has `length` bytes with its marker.
    fn begin(&mut self, header: &str, length: usize, parts: &mut Parts) {
        let form = self.form;
        let name = if form.recipient.is_empty() {
            Some(header.trim())
        } else {
            let after = header.split(form.recipient).nth(1);
            after.map(|after| {
                let end = after.find(|c: char| c.is_whitespace() || c == '<');
                &after[..end.unwrap_or(after.len())]
            })
        };
        let name = name.map(|name| name.strip_prefix(NAMESPACE).unwrap_or(name));
        // The last of several.
        let channel = form.header.iter().filter_map(|it| header.rfind(it)).max();
        let channel = &header[channel.unwrap_or(0)..];
        let reasons = form.reasoning.is_some_and(|mark| channel.contains(mark));
        self.state = match name {
            Some(name) if self.functions.contains(name) => {
                parts.call(name, None);
                State::Call
            }
            _ if reasons => {
                if !self.splits {
                    parts.content(header.to_owned() + form.message);
                }
                State::Reasoning
            }
            // A function that is not among them.
            Some(name) if form.recipient.is_empty() && name != "all" => {
                let text = self.held.take(length);
                parts.content(text);
                self.state = State::Content;
                return;
            }
            _ => State::Content,
        };
        self.held.skip(length);
    }
}
