//! An answer as server-sent events, in OpenAI's framing: `data: {…}`, a blank line, and `data: [DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, SelectAll, Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Head, Usage};
use super::error::ApiError;
use crate::engine::{Delta, Generation};

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
    /// Tokens of its prompt, for the first choice of each prompt: usage counts them once.
    pub prompt_tokens: Option<usize>,
}

/// The body of an event.
#[derive(Serialize, ToSchema)]
pub struct Chunk<'a, P> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<P>,
    /// With `include_usage`: null in all events but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

type Deltas = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (usize, Delta)> + Send>>>;

struct State<S> {
    head: Head,
    shows: Vec<(S, Option<usize>)>,
    deltas: Deltas,
    include_usage: bool,
    /// Events that are ready.
    ready: VecDeque<Event>,
    over: bool,
    usage: Usage,
}

/// Streams the choices as they are generated. The stream owns the generations: both are dropped when the client
/// disconnects.
pub fn respond<S: Show>(head: Head, sources: Vec<Source<S>>, include_usage: bool) -> Response {
    let mut deltas = Deltas::new();
    let mut shows = Vec::with_capacity(sources.len());
    for (index, source) in sources.into_iter().enumerate() {
        shows.push((source.show, source.prompt_tokens));
        deltas.push(source.generation.map(move |delta| (index, delta)).boxed());
    }
    let state = State {
        head,
        shows,
        deltas,
        include_usage,
        ready: VecDeque::new(),
        over: false,
        usage: Usage::default(),
    };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    let mut response = Sse::new(events)
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
                    if self.include_usage {
                        let chunk = Chunk::<S::Piece> {
                            head: &self.head,
                            choices: Vec::new(),
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
        self.shows.clear();
    }

    fn take(&mut self, index: usize, delta: Delta) {
        let (show, prompt_tokens) = &mut self.shows[index];
        match &delta {
            Delta::Prompt(output) => {
                if let Some(tokens) = *prompt_tokens {
                    self.usage.prompt(tokens, output.cached_tokens);
                }
            }
            Delta::Token(_) => self.usage.completion(1),
            Delta::Finished(_) => {}
            Delta::Failed(error) => {
                // The status has already been sent. A stream without [DONE] tells clients that it is incomplete.
                let last = event(&ApiError::from(error.clone()).as_body());
                self.ready.push_back(last);
                self.end();
                return;
            }
        }
        let is_over = matches!(delta, Delta::Finished(_));
        let pieces = show.show(delta);
        if is_over && let Some(tokens) = show.reasoning_tokens() {
            self.usage.reasoning(tokens);
        }
        for piece in pieces {
            let chunk = Chunk {
                head: &self.head,
                choices: vec![piece],
                usage: self.include_usage.then_some(None),
            };
            self.ready.push_back(event(&chunk));
        }
    }
}

fn event(body: &impl Serialize) -> Event {
    match serde_json::to_string(body) {
        Ok(json) => Event::default().data(json),
        Err(error) => {
            // Cannot happen: strings, finite numbers and string keys always serialize.
            tracing::error!(%error, "cannot serialize an event");
            Event::default().comment("lost")
        }
    }
}
