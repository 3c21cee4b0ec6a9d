//! A response as server-sent events, in OpenAI's framing: each has its type as `event:`, and `data: {…}`. Nothing follows
//! the event with the complete response.

use axum::response::sse;
use futures::StreamExt;
use futures::stream;

use super::answer::Response;
use super::event::Event;
use super::output::Output;
use crate::api::answer::Usage;
use crate::api::error::ApiError;
use crate::api::stream::{send, with_body};
use crate::engine::{Delta, EngineError, Generation};

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
    send(stream::iter(begun).chain(rest.flatten()))
}

impl Writer {
    fn begin(&mut self) -> Vec<sse::Event> {
        let types = ["response.created", "response.in_progress"];
        let events = types.map(|it| Event::of(it, &self.response));
        self.number(events.into())
    }

    fn take(&mut self, delta: Delta) -> Vec<sse::Event> {
        let events = match delta {
            Delta::Prompt(output) => {
                self.usage.prompt(self.prompt_tokens, output.cached_tokens);
                Vec::new()
            }
            Delta::Report(_) => Vec::new(),
            Delta::Token(token) => {
                self.usage.completion(1);
                self.output.token(&token)
            }
            Delta::Finished(reason) => {
                let mut events = self.output.finish(reason);
                if let Some(tokens) = self.output.reasoning_tokens() {
                    self.usage.reasoning(tokens);
                }
                self.response.end(reason, self.output.items(), &self.usage);
                events.push(self.last());
                events
            }
            Delta::Failed(error) => {
                // The status has already been sent.
                let error = ApiError::from(error);
                let mut events = self.output.stop();
                self.response.fail(&error, self.output.items());
                events.push(self.last());
                events
            }
        };
        self.number(events)
    }

    /// The event with the response as it ended.
    fn last(&self) -> Event {
        let r#type = match self.response.status {
            "completed" => "response.completed",
            "incomplete" => "response.incomplete",
            _ => "response.failed",
        };
        Event::of(r#type, &self.response)
    }

    fn number(&mut self, events: Vec<Event>) -> Vec<sse::Event> {
        let numbered = events.into_iter().map(|mut body| {
            body.sequence_number = self.sent;
            self.sent += 1;
            with_body(sse::Event::default().event(body.r#type), &body)
        });
        numbered.collect()
    }
}
