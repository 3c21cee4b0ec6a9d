//! An answer as server-sent events, in OpenAI's framing: `data: {…}`, a blank line, and `data: [DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, SelectAll, Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Head, Usage};
use super::error::ApiError;
use super::generate::StreamUsage;
use crate::engine::{Delta, Generation};
use crate::model::Token;

/// How a route shows the deltas of one choice.
pub trait Show: Send + 'static {
    /// A piece of the choice.
    type Piece: Serialize + Send;

    /// The pieces to send for this delta; none for [`Delta::Failed`].
    fn show(&mut self, delta: Delta) -> Vec<Self::Piece>;

    /// Tokens of reasoning so far, if they are counted.
    fn reasoning_tokens(&self) -> Option<usize> {
        None
    }
}

/// A choice of the answer, and the generation that it comes from.
pub struct Source<S> {
    pub show: S,
    pub generation: Generation,
    pub prompt: Arc<[Token]>,
    /// Whether it is the first choice of its prompt: the usage of the answer counts each prompt once.
    pub is_first: bool,
    /// Whether its first event has the ids of the prompt.
    pub shows_prompt: bool,
}

/// The body of an event.
#[derive(Serialize, ToSchema)]
pub struct Chunk<'a, P> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<P>,
    /// Of chats, with `return_token_ids`: the prompt's tokens, in the first event of each choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<i32>>,
    /// With `include_usage`: null in all events but the last. With `continuous_usage_stats`: that of the choice so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

type Deltas = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (usize, Delta)> + Send>>>;

struct State<S> {
    head: Head,
    choices: Vec<Streamed<S>>,
    deltas: Deltas,
    shown: StreamUsage,
    /// Events that are ready.
    ready: VecDeque<Event>,
    over: bool,
    usage: Usage,
}

/// A choice, and what its events show besides it.
struct Streamed<S> {
    show: S,
    prompt: Arc<[Token]>,
    is_first: bool,
    shows_prompt: bool,
    usage: Usage,
}

/// Streams the choices as they are generated. The stream owns the generations: both are dropped when the client
/// disconnects.
pub fn respond<S: Show>(head: Head, sources: Vec<Source<S>>, shown: StreamUsage) -> Response {
    let mut deltas = Deltas::new();
    let mut choices = Vec::with_capacity(sources.len());
    for (index, source) in sources.into_iter().enumerate() {
        choices.push(Streamed {
            show: source.show,
            prompt: source.prompt,
            is_first: source.is_first,
            shows_prompt: source.shows_prompt,
            usage: Usage::default(),
        });
        deltas.push(source.generation.map(move |delta| (index, delta)).boxed());
    }
    let state = State {
        head,
        choices,
        deltas,
        shown,
        ready: VecDeque::new(),
        over: false,
        usage: Usage::default(),
    };
    send(stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((event, state))
    }))
}

/// The response that sends events, and comments while there are none.
pub fn send(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let mut response = Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().text("ping"))
        .into_response();
    // Proxies must not buffer events.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl<S: Show> State<S> {
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
                    self.end();
                    if self.shown.at_end {
                        let chunk = Chunk::<S::Piece> {
                            head: &self.head,
                            choices: Vec::new(),
                            prompt_token_ids: None,
                            usage: Some(Some(&self.usage)),
                        };
                        let event = event(&chunk);
                        self.ready.push_back(event);
                    }
                    self.ready.push_back(Event::default().data("[DONE]"));
                }
            }
        }
    }

    /// Drops the generations, so that a client that does not read the last events does not keep the model loaded.
    fn end(&mut self) {
        self.over = true;
        self.deltas.clear();
        self.choices.clear();
    }

    fn take(&mut self, index: usize, delta: Delta) {
        let choice = &mut self.choices[index];
        match &delta {
            Delta::Prompt(output) => {
                let (tokens, cached) = (choice.prompt.len(), output.cached_tokens);
                choice.usage.prompt(tokens, cached);
                if choice.is_first {
                    self.usage.prompt(tokens, cached);
                }
            }
            Delta::Token(_) => {
                choice.usage.completion(1);
                self.usage.completion(1);
            }
            Delta::Report(_) | Delta::Finished(_) => {}
            Delta::Failed(error) => {
                // The status has already been sent. A stream without [DONE] tells clients that it is incomplete.
                let last = event(&ApiError::from(error.clone()).as_body());
                self.ready.push_back(last);
                self.end();
                return;
            }
        }
        let is_over = matches!(delta, Delta::Finished(_));
        let pieces = choice.show.show(delta);
        if is_over && let Some(tokens) = choice.show.reasoning_tokens() {
            choice.usage.reasoning(tokens);
            self.usage.reasoning(tokens);
        }
        for piece in pieces {
            let shows_prompt = std::mem::take(&mut choice.shows_prompt);
            let ids = || choice.prompt.iter().map(|token| token.0).collect();
            let chunk = Chunk {
                head: &self.head,
                choices: vec![piece],
                prompt_token_ids: shows_prompt.then(ids),
                usage: if self.shown.in_each {
                    Some(Some(&choice.usage))
                } else {
                    self.shown.at_end.then_some(None)
                },
            };
            self.ready.push_back(event(&chunk));
        }
    }
}

/// An event with this JSON.
pub fn event(body: &impl Serialize) -> Event {
    with_body(Event::default(), body)
}

/// The event with this body.
pub fn with_body(event: Event, body: &impl Serialize) -> Event {
    match serde_json::to_string(body) {
        Ok(json) => event.data(json),
        Err(error) => {
            // Cannot happen: strings, finite numbers and string keys always serialize.
            tracing::error!(%error, "cannot serialize an event");
            Event::default().comment("lost")
        }
    }
}
