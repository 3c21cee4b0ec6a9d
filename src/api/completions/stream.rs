//! The answer as server-sent events, framed as OpenAI does: `data: {…}`, blank line, and last `data: [DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, SelectAll, Stream, StreamExt};
use serde::Serialize;

use super::answer::{Choice, Head, Usage, View};
use crate::api::error::ApiError;
use crate::engine::{Delta, Generation};

/// An event's body.
#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice>,
    /// With `include_usage`: null but in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

/// A choice of the answer and where its deltas come from.
pub struct Source {
    pub view: View,
    pub generation: Generation,
    /// Whether its prompt's tokens count for the usage: once for each prompt.
    pub counts_prompt: bool,
}

type Deltas = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (usize, Delta)> + Send>>>;

struct State {
    head: Head,
    views: Vec<(View, bool)>,
    deltas: Deltas,
    include_usage: bool,
    /// Events that are ready.
    ready: VecDeque<Event>,
    over: bool,
    prompt_tokens: usize,
    completion_tokens: usize,
    cached_tokens: usize,
}

/// Streams the choices as they come. The stream owns the generations: a client that leaves drops it, and with it them.
pub fn respond(head: Head, sources: Vec<Source>, include_usage: bool) -> Response {
    let mut deltas = Deltas::new();
    let mut views = Vec::with_capacity(sources.len());
    for (index, source) in sources.into_iter().enumerate() {
        views.push((source.view, source.counts_prompt));
        deltas.push(source.generation.map(move |delta| (index, delta)).boxed());
    }
    let state = State {
        head,
        views,
        deltas,
        include_usage,
        ready: VecDeque::new(),
        over: false,
        prompt_tokens: 0,
        completion_tokens: 0,
        cached_tokens: 0,
    };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().text("ping"))
        .into_response();
    // A proxy that gathers events would defeat the purpose.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl State {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.deltas.next().await {
                Some((index, delta)) => self.take(index, delta),
                None => {
                    self.over = true;
                    if self.include_usage {
                        let usage = Usage::new(
                            self.prompt_tokens,
                            self.completion_tokens,
                            self.cached_tokens,
                        );
                        let chunk = Chunk {
                            head: &self.head,
                            choices: Vec::new(),
                            usage: Some(Some(&usage)),
                        };
                        let event = event(&chunk);
                        self.ready.push_back(event);
                    }
                    self.ready.push_back(Event::default().data("[DONE]"));
                }
            }
        }
    }

    fn take(&mut self, index: usize, delta: Delta) {
        let (view, counts_prompt) = &self.views[index];
        let choice = match delta {
            Delta::Prompt(output) => {
                if *counts_prompt {
                    self.prompt_tokens += view.prompt.tokens.len();
                    self.cached_tokens += output.cached_tokens;
                }
                if !view.echo {
                    return;
                }
                Choice {
                    text: view.prompt.text.clone(),
                    index,
                    logprobs: view.arrays(view.prompt_entries(&output)),
                    finish_reason: None,
                }
            }
            Delta::Token(output) => {
                self.completion_tokens += 1;
                if output.text.is_empty() && !view.logprobs {
                    return;
                }
                let entry = view.entry(&output);
                Choice {
                    text: output.text,
                    index,
                    logprobs: view.arrays(vec![entry]),
                    finish_reason: None,
                }
            }
            Delta::Finished(reason) => Choice {
                text: String::new(),
                index,
                logprobs: None,
                finish_reason: Some(reason.as_str()),
            },
            Delta::Failed(error) => {
                // The status went out long ago. Clients take a stream without [DONE] for broken off.
                self.over = true;
                self.ready
                    .push_back(event(&ApiError::from(error).as_body()));
                self.deltas.clear();
                return;
            }
        };
        let chunk = Chunk {
            head: &self.head,
            choices: vec![choice],
            usage: self.include_usage.then_some(None),
        };
        let event = event(&chunk);
        self.ready.push_back(event);
    }
}

fn event(body: &impl Serialize) -> Event {
    match serde_json::to_string(body) {
        Ok(json) => Event::default().data(json),
        Err(error) => {
            // Strings, finite numbers and string keys always serialise.
            tracing::error!(%error, "an event could not be written");
            Event::default().comment("lost")
        }
    }
}
