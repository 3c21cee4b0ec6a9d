//! A response as server-sent events, in OpenAI's framing: each has its type as `event:`, and `data: {…}`. Nothing follows
//! the event with the complete response.

use axum::response::sse;
use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use super::answer::Response;
use super::event::Event;
use super::output::Output;
use crate::api::answer::Usage;
use crate::api::bounds::Entries;
use crate::api::client::{self, Client};
use crate::api::events::{send, with_body};
use crate::api::state::AppState;
use crate::engine::{Delta, EngineError, Generation};

/// How often the stream has a token: in a delta, in the events that end its text, its part and its item, and in the response.
pub const TIMES: usize = 5;

/// A response that is being written.
struct Writer {
    response: Response,
    output: Output,
    prompt_tokens: usize,
    usage: Usage,
    /// Events so far.
    sent: usize,
}

/// Streams a response as it is generated. The stream owns the generation: both are dropped when the client disconnects.
pub fn respond(
    response: Response,
    output: Output,
    prompt_tokens: usize,
    generation: Generation,
    (state, entries): (AppState, &Entries),
) -> axum::response::Response {
    let mut writer = Writer {
        response,
        output,
        prompt_tokens,
        usage: Usage::default(),
        sent: 0,
    };
    let begun = writer.begin();
    let rest = stream::unfold(Some((writer, generation)), |running| async move {
        let (mut writer, mut generation) = running?;
        let delta = generation.next().await;
        let delta = delta.unwrap_or(Delta::Failed(EngineError::Decode));
        let ends = matches!(delta, Delta::Finished(_) | Delta::Failed(_));
        let events = writer.take(delta);
        // Dropped at the end, so that a client that does not read the last events does not keep the model loaded.
        let running = (!ends).then_some((writer, generation));
        Some((stream::iter(events), running))
    });
    let events = stream::iter(begun).chain(rest.flatten());
    let (client, is_large) = (client::current(), !entries.are_few());
    send(events.then(move |event| {
        let helper = (is_large && event.is_whole()).then(|| (client.clone(), state.clone()));
        async move {
            let written = match helper {
                Some((client, state)) => {
                    let writing = state.finish(move || written(&event));
                    Client::scope(client, writing).await
                }
                None => Ok(written(&event)),
            };
            written.unwrap_or_else(|error| named("error", &error.as_body()))
        }
    }))
}

fn written(event: &Event) -> sse::Event {
    named(event.r#type, event)
}

fn named(r#type: &str, body: &impl Serialize) -> sse::Event {
    with_body(sse::Event::default().event(r#type), body)
}

impl Writer {
    fn begin(&mut self) -> Vec<Event> {
        let types = ["response.created", "response.in_progress"];
        let events = types.map(|it| Event::of(it, &self.response));
        self.number(events.into())
    }

    fn take(&mut self, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Prompt(output) => self.usage.prompt(self.prompt_tokens, output.cached_tokens),
            Delta::Report(_) => {}
            Delta::Token(token) => {
                self.usage.completion(1);
                self.output.token(&token);
            }
            Delta::Finished(reason) => {
                self.output.finish(reason);
                if let Some(tokens) = self.output.reasoning_tokens() {
                    self.usage.reasoning(tokens);
                }
                self.response.end(reason, self.output.items(), &self.usage);
            }
            Delta::Failed(error) => {
                // The status has already been sent.
                self.output.stop();
                self.response.fail(&error.into(), self.output.items());
            }
        }
        let mut events = self.output.events();
        events.extend(self.last());
        self.number(events)
    }

    /// The event with the response as it ended.
    fn last(&self) -> Option<Event> {
        let r#type = match self.response.status {
            "completed" => "response.completed",
            "incomplete" => "response.incomplete",
            "failed" => "response.failed",
            _ => return None,
        };
        Some(Event::of(r#type, &self.response))
    }

    fn number(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        for event in &mut events {
            event.sequence_number = self.sent;
            self.sent += 1;
        }
        events
    }
}
