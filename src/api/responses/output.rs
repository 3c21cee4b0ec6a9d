//! The items of a response, made from the tokens of its model: reasoning, messages and calls.

use super::answer::{CALL, Content, Item, Logprobs, MESSAGE, REASONING};
use super::encoded::encode;
use super::event::Event;
use crate::api::chat::{Part, Reader, TokenEntry, View};
use crate::engine::{FinishReason, TokenOutput};

/// The output so far.
pub struct Output {
    view: View,
    reader: Reader,
    encodes_reasoning: bool,
    items: Vec<Item>,
    /// Whether the last item is being written.
    open: bool,
    /// Of tokens whose text is not known to be a message's yet.
    undecided: Vec<TokenEntry>,
    /// What a stream has not been told yet; `None` if there is no stream.
    events: Option<Vec<Event>>,
}

impl Output {
    pub fn new(view: View, encodes_reasoning: bool, is_streamed: bool) -> Self {
        Self {
            reader: Reader::new(&view.expects),
            view,
            encodes_reasoning,
            items: Vec::new(),
            open: false,
            undecided: Vec::new(),
            events: is_streamed.then(Vec::new),
        }
    }

    pub fn token(&mut self, token: &TokenOutput) {
        let reasoned = self.reader.reasoning_tokens();
        self.undecided.extend(self.view.entry(token));
        let parts = self.view.read(&mut self.reader, token);
        let reasons = self.reader.reasoning_tokens() > reasoned;
        let says = |part: &Part| matches!(part, Part::Content(_));
        if (reasons || !parts.is_empty()) && !parts.iter().any(says) {
            self.undecided.clear();
        }
        for part in parts {
            self.add(part);
        }
    }

    pub fn finish(&mut self, reason: FinishReason) {
        let is_complete = reason == FinishReason::Stop;
        for part in self.reader.finish(is_complete) {
            self.add(part);
        }
        let is_answered = self.items.iter().any(|item| item.r#type != REASONING);
        // Clients look for an answer.
        if self.items.is_empty() || (is_complete && !is_answered) {
            self.begin(MESSAGE);
        }
        if !self.undecided.is_empty() && self.writes(MESSAGE) {
            self.write(String::new());
        }
        self.close(if is_complete {
            "completed"
        } else {
            "incomplete"
        });
    }

    /// It ends where it is.
    pub fn stop(&mut self) {
        self.close("incomplete");
    }

    pub fn reasoning_tokens(&self) -> Option<usize> {
        self.view.reasoning_tokens(&self.reader)
    }

    /// The events since the last time.
    pub fn events(&mut self) -> Vec<Event> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Its items, which it does not have any more.
    pub fn items(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.items)
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Content(text) => {
                self.begin(MESSAGE);
                self.write(text);
            }
            Part::Reasoning(text) => {
                self.begin(REASONING);
                self.write(text);
            }
            Part::Call { name, id } => {
                self.close("completed");
                self.open(Item::call(name, id));
            }
            Part::Arguments(text) => {
                if self.writes(CALL)
                    && let Some(arguments) =
                        self.items.last_mut().and_then(|it| it.arguments.as_mut())
                {
                    arguments.push_str(&text);
                    self.tell("response.function_call_arguments.delta", |item| Event {
                        delta: Some(text),
                        ..Event::of_item(item)
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
    fn begin(&mut self, kind: &'static str) {
        if self.writes(kind) {
            return;
        }
        self.close("completed");
        let (item, part) = match kind {
            REASONING => (Item::reasoning(), Content::reasoning()),
            _ => (Item::message(), Content::message()),
        };
        self.open(item);
        if let Some(content) = self.items.last_mut().and_then(|it| it.content.as_mut()) {
            content.push(part);
        }
        self.tell("response.content_part.added", |item| Event {
            part: item.part().cloned(),
            ..Event::of_text(item)
        });
    }

    fn open(&mut self, item: Item) {
        self.items.push(item);
        self.open = true;
        self.tell("response.output_item.added", |item| Event {
            item: Some(item.clone()),
            ..Event::default()
        });
    }

    /// Appends to the text that is being written.
    fn write(&mut self, text: String) {
        let is_message = self.writes(MESSAGE);
        let entries = is_message.then(|| std::mem::take(&mut self.undecided));
        let kind = if is_message {
            "response.output_text.delta"
        } else {
            "response.reasoning_text.delta"
        };
        self.tell(kind, |item| Event {
            delta: Some(text.clone()),
            logprobs: entries.clone().map(Logprobs::from),
            ..Event::of_text(item)
        });
        if let Some(part) = self.items.last_mut().and_then(Item::part_mut) {
            part.text.push_str(&text);
            if let (Some(logprobs), Some(entries)) = (&mut part.logprobs, entries) {
                logprobs.append(entries);
            }
        }
    }

    /// Ends the item that is being written.
    fn close(&mut self, status: &'static str) {
        let encodes = self.encodes_reasoning;
        let Some(item) = self.items.last_mut().filter(|_| self.open) else {
            return;
        };
        self.open = false;
        item.status = status;
        let kind = item.r#type;
        if encodes && kind == REASONING {
            item.encrypted_content = item.part().map(|part| encode(&part.text));
        }
        if kind == CALL {
            self.tell("response.function_call_arguments.done", |item| Event {
                name: item.name.clone(),
                arguments: item.arguments.clone(),
                ..Event::of_item(item)
            });
        } else {
            let done = if kind == MESSAGE {
                "response.output_text.done"
            } else {
                "response.reasoning_text.done"
            };
            self.tell(done, |item| Event {
                text: item.part().map(|part| part.text.clone()),
                logprobs: item.part().and_then(|part| part.logprobs.clone()),
                ..Event::of_text(item)
            });
            self.tell("response.content_part.done", |item| Event {
                part: item.part().cloned(),
                ..Event::of_text(item)
            });
        }
        self.tell("response.output_item.done", |item| Event {
            item: Some(item.clone()),
            ..Event::default()
        });
    }

    /// Tells a stream what has happened to the last item.
    fn tell(&mut self, r#type: &'static str, event: impl FnOnce(&Item) -> Event) {
        if let (Some(events), Some(item)) = (&mut self.events, self.items.last()) {
            events.push(Event {
                r#type,
                output_index: Some(self.items.len() - 1),
                ..event(item)
            });
        }
    }
}
