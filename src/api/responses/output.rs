//! The items of a response, made from the tokens of its model: reasoning, messages and calls.

use super::answer::{CALL, Content, Item, MESSAGE, REASONING};
use super::encoded::encode;
use super::event::Event;
use crate::api::chat::{Part, Reader, TokenEntry, View};
use crate::engine::{FinishReason, TokenOutput};

/// The output so far. Each step returns the events that tell a stream of it.
pub struct Output {
    view: View,
    reader: Reader,
    encodes_reasoning: bool,
    items: Vec<Item>,
    /// Whether the last item is being written.
    open: bool,
    /// Of tokens whose text is not known to be a message's yet.
    undecided: Vec<TokenEntry>,
}

impl Output {
    pub fn new(view: View, encodes_reasoning: bool) -> Self {
        Self {
            reader: Reader::new(&view.expects),
            view,
            encodes_reasoning,
            items: Vec::new(),
            open: false,
            undecided: Vec::new(),
        }
    }

    pub fn token(&mut self, token: &TokenOutput) -> Vec<Event> {
        let reasoned = self.reader.reasoning_tokens();
        self.undecided.extend(self.view.entry(token));
        let parts = self.view.read(&mut self.reader, token);
        let reasons = self.reader.reasoning_tokens() > reasoned;
        let says = |part: &Part| matches!(part, Part::Content(_));
        if (reasons || !parts.is_empty()) && !parts.iter().any(says) {
            self.undecided.clear();
        }
        let mut events = Vec::new();
        for part in parts {
            self.add(part, &mut events);
        }
        events
    }

    pub fn finish(&mut self, reason: FinishReason) -> Vec<Event> {
        let is_complete = reason == FinishReason::Stop;
        let mut events = Vec::new();
        for part in self.reader.finish(is_complete) {
            self.add(part, &mut events);
        }
        let is_answered = self.items.iter().any(|item| item.r#type != REASONING);
        // Clients look for an answer.
        if self.items.is_empty() || (is_complete && !is_answered) {
            self.begin(MESSAGE, &mut events);
        }
        if !self.undecided.is_empty() && self.writes(MESSAGE) {
            self.write(String::new(), &mut events);
        }
        let status = if is_complete {
            "completed"
        } else {
            "incomplete"
        };
        self.close(status, &mut events);
        events
    }

    /// It ends where it is.
    pub fn stop(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.close("incomplete", &mut events);
        events
    }

    pub fn reasoning_tokens(&self) -> Option<usize> {
        self.view.reasoning_tokens(&self.reader)
    }

    pub fn items(&self) -> Vec<Item> {
        self.items.clone()
    }

    pub fn into_items(self) -> Vec<Item> {
        self.items
    }

    fn add(&mut self, part: Part, events: &mut Vec<Event>) {
        match part {
            Part::Content(text) => {
                self.begin(MESSAGE, events);
                self.write(text, events);
            }
            Part::Reasoning(text) => {
                self.begin(REASONING, events);
                self.write(text, events);
            }
            Part::Call { name, id } => {
                self.close("completed", events);
                self.open(Item::call(name, id), events);
            }
            Part::Arguments(text) => {
                if self.writes(CALL)
                    && let Some(arguments) =
                        self.items.last_mut().and_then(|it| it.arguments.as_mut())
                {
                    arguments.push_str(&text);
                    events.push(Event {
                        delta: Some(text),
                        ..self.event("response.function_call_arguments.delta")
                    });
                }
            }
        }
    }

    /// Whether an item of this kind is being written.
    fn writes(&self, kind: &str) -> bool {
        self.open && self.items.last().is_some_and(|item| item.r#type == kind)
    }

    /// Begins a message or reasoning, unless one is being written.
    fn begin(&mut self, kind: &'static str, events: &mut Vec<Event>) {
        if self.writes(kind) {
            return;
        }
        self.close("completed", events);
        let (item, part) = match kind {
            REASONING => (Item::reasoning(), Content::reasoning()),
            _ => (Item::message(), Content::message()),
        };
        self.open(item, events);
        events.push(Event {
            part: Some(part.clone()),
            ..self.text_event("response.content_part.added")
        });
        if let Some(content) = self.content() {
            content.push(part);
        }
    }

    fn open(&mut self, item: Item, events: &mut Vec<Event>) {
        self.items.push(item.clone());
        self.open = true;
        events.push(Event {
            item: Some(item),
            item_id: None,
            ..self.event("response.output_item.added")
        });
    }

    /// Appends to the text that is being written.
    fn write(&mut self, text: String, events: &mut Vec<Event>) {
        let is_message = self.writes(MESSAGE);
        let entries = is_message.then(|| std::mem::take(&mut self.undecided));
        if let Some(part) = self.content().and_then(|content| content.last_mut()) {
            part.text.push_str(&text);
            if let (Some(logprobs), Some(entries)) = (&mut part.logprobs, &entries) {
                logprobs.extend_from_slice(entries);
            }
        }
        let kind = if is_message {
            "response.output_text.delta"
        } else {
            "response.reasoning_text.delta"
        };
        events.push(Event {
            delta: Some(text),
            logprobs: entries,
            ..self.text_event(kind)
        });
    }

    /// Ends the item that is being written.
    fn close(&mut self, status: &'static str, events: &mut Vec<Event>) {
        let encodes = self.encodes_reasoning;
        let Some(item) = self.items.last_mut().filter(|_| self.open) else {
            return;
        };
        item.status = status;
        let part = item.content.as_ref().and_then(|content| content.first());
        if let Some(part) = part.filter(|_| encodes && item.r#type == REASONING) {
            item.encrypted_content = Some(encode(&part.text));
        }
        let item = item.clone();
        let part = item.content.as_ref().and_then(|content| content.first());
        if let Some(part) = part {
            let kind = if item.r#type == MESSAGE {
                "response.output_text.done"
            } else {
                "response.reasoning_text.done"
            };
            events.push(Event {
                text: Some(part.text.clone()),
                logprobs: part.logprobs.clone(),
                ..self.text_event(kind)
            });
            events.push(Event {
                part: Some(part.clone()),
                ..self.text_event("response.content_part.done")
            });
        } else {
            events.push(Event {
                arguments: item.arguments.clone(),
                ..self.event("response.function_call_arguments.done")
            });
        }
        events.push(Event {
            item: Some(item),
            item_id: None,
            ..self.event("response.output_item.done")
        });
        self.open = false;
    }

    fn content(&mut self) -> Option<&mut Vec<Content>> {
        self.items.last_mut()?.content.as_mut()
    }

    /// An event about the last item.
    fn event(&self, r#type: &'static str) -> Event {
        Event {
            r#type,
            output_index: Some(self.items.len().saturating_sub(1)),
            item_id: self.items.last().map(|item| item.id.clone()),
            ..Event::default()
        }
    }

    /// An event about its text.
    fn text_event(&self, r#type: &'static str) -> Event {
        Event {
            content_index: Some(0),
            ..self.event(r#type)
        }
    }
}
