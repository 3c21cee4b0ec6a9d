//! Reads a model's text while it is generated.

use std::sync::Arc;

use super::channels::ChannelReader;
use super::marked::{MarkedReader, Reads};
use super::part::{Functions, Part, Parts, Rest};
use crate::api::chat::forms::{Body, Form, Ids, Thinking};
use crate::api::ids::nine_characters;

/// What a text may have besides content.
#[derive(Debug, Clone)]
pub struct Expects {
    /// The form in which the model writes.
    pub form: Option<&'static Form>,
    /// Whether calls are looked for.
    pub calls: bool,
    pub functions: Arc<Functions>,
    /// Whether there can be more than one call.
    pub several: bool,
    pub thinking: Option<&'static Thinking>,
    /// Whether reasoning is shown apart from content.
    pub splits: bool,
    /// Whether the prompt began reasoning.
    pub inside: bool,
    /// The end of the prompt.
    pub prompt: Arc<str>,
}

impl Expects {
    /// The markers of messages with headers, if the model writes those.
    fn channels(&self) -> Option<&'static crate::api::chat::forms::Channels> {
        match self.form.map(|form| &form.body) {
            Some(Body::Channels(channels)) => Some(channels),
            _ => None,
        }
    }

    /// Whether reasoning is shown apart from content, if the text has any.
    pub fn reasons(&self) -> bool {
        let in_channels = self.channels().map(|channels| channels.reasoning.is_some());
        self.splits && in_channels.unwrap_or(self.thinking.is_some())
    }
}

/// Takes the text of tokens, and the names of control tokens, and returns the parts that are known.
#[derive(Debug)]
pub struct Reader {
    kind: Kind,
    ids: Ids,
    /// Tokens of reasoning so far.
    reasoning_tokens: usize,
    /// The last tokens, of which it is not known what they are.
    undecided: usize,
}

#[derive(Debug)]
enum Kind {
    /// All of it is content.
    Plain,
    Marked(Box<MarkedReader>),
    Channels(Box<ChannelReader>),
}

impl Reader {
    pub fn new(expects: &Expects) -> Self {
        let functions = if expects.calls {
            Arc::clone(&expects.functions)
        } else {
            Arc::new(Functions::new(&[]))
        };
        let kind = match (expects.channels(), expects.thinking) {
            (Some(channels), _) => Kind::Channels(Box::new(ChannelReader::new(
                channels,
                functions,
                expects.splits,
                &expects.prompt,
            ))),
            (None, None) if !expects.calls => Kind::Plain,
            (None, thinking) => {
                let reads = Reads {
                    form: expects.form.filter(|_| expects.calls),
                    functions,
                    several: expects.several,
                    thinking,
                    splits: expects.splits,
                };
                Kind::Marked(Box::new(MarkedReader::new(reads, expects.inside)))
            }
        };
        Self {
            kind,
            ids: expects.form.map_or(Ids::Any, |form| form.ids),
            reasoning_tokens: 0,
            undecided: 0,
        }
    }

    /// Takes a token: its text, and for a control token its name.
    pub fn push(&mut self, text: &str, name: Option<&str>) -> Vec<Part> {
        let was_reasoning = self.is_reasoning();
        let mut parts = Parts::default();
        let held = match &mut self.kind {
            Kind::Plain => {
                parts.content(text.to_owned());
                return parts.0;
            }
            Kind::Marked(reader) => reader.held(),
            Kind::Channels(reader) => reader.held(),
        };
        held.push(text);
        if let Some(name) = name {
            held.push_name(name);
        }
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Marked(reader) => reader.run(&mut parts, Rest::More),
            Kind::Channels(reader) => reader.run(&mut parts, false),
        }
        self.undecided += 1;
        if was_reasoning || self.is_reasoning() {
            self.reasoning_tokens += std::mem::take(&mut self.undecided);
        } else if !parts.0.is_empty() {
            self.undecided = 0;
        }
        self.with_ids(parts)
    }

    /// The remaining parts at the end of the text, which the model may have ended itself. An incomplete call has been emitted
    /// as far as it goes if its name is known.
    pub fn finish(&mut self, ended: bool) -> Vec<Part> {
        let mut parts = Parts::default();
        let rest = if ended { Rest::Ended } else { Rest::Cut };
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Marked(reader) => reader.run(&mut parts, rest),
            Kind::Channels(reader) => reader.run(&mut parts, true),
        }
        self.with_ids(parts)
    }

    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    fn is_reasoning(&self) -> bool {
        match &self.kind {
            Kind::Plain => false,
            Kind::Marked(reader) => reader.is_reasoning(),
            Kind::Channels(reader) => reader.is_reasoning(),
        }
    }

    /// Calls with the ids that the model's template wants.
    fn with_ids(&self, mut parts: Parts) -> Vec<Part> {
        if self.ids == Ids::Nine {
            for part in &mut parts.0 {
                if let Part::Call { id, .. } = part {
                    let valid = id.take().filter(|id| {
                        id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    });
                    *id = Some(valid.unwrap_or_else(nine_characters));
                }
            }
        }
        parts.0
    }
}
