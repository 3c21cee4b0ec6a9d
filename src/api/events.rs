//! Server-sent events, in OpenAI's framing: `data: {…}`, a blank line, and `data: [DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream, SelectAll, Stream, StreamExt};
use serde::Serialize;

use super::error::ApiError;
use crate::engine::{Delta, Generation};

/// Makes events of the deltas of several generations.
pub trait Tell: Sized + Send + 'static {
    /// Whether `[DONE]` follows the last event, as in OpenAI's streams.
    const DONE: bool = true;

    /// Adds the events for a delta of the generation with this index. An error ends the stream.
    fn tell(
        &mut self,
        index: usize,
        delta: Delta,
        events: &mut VecDeque<Event>,
    ) -> Result<(), ApiError>;

    /// The last event before `[DONE]`.
    fn last(self) -> Option<Event> {
        None
    }
}

/// Streams the events that `teller` makes of the generations. Both are dropped when the client disconnects.
pub fn follow(generations: impl Iterator<Item = Generation>, teller: impl Tell) -> Response {
    let deltas = generations
        .enumerate()
        .map(|(index, generation)| generation.map(move |delta| (index, delta)).boxed());
    let deltas: Deltas = deltas.collect();
    let state = State {
        unfinished: deltas.len(),
        running: Some((teller, deltas)),
        ready: VecDeque::new(),
    };
    send(stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((event, state))
    }))
}

/// Those of several generations, each with the generation's index.
type Deltas = SelectAll<BoxStream<'static, (usize, Delta)>>;

struct State<T> {
    /// Dropped at the end, so that a client that does not read the last events does not keep the model loaded.
    running: Option<(T, Deltas)>,
    /// Generations that go on.
    unfinished: usize,
    /// Events that are ready.
    ready: VecDeque<Event>,
}

impl<T: Tell> State<T> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (teller, deltas) = self.running.as_mut()?;
            match deltas.next().await {
                Some((index, delta)) => {
                    self.unfinished -= usize::from(matches!(delta, Delta::Finished(_)));
                    if let Err(error) = teller.tell(index, delta, &mut self.ready) {
                        // The status has already been sent. A stream without [DONE] tells clients that it is incomplete.
                        self.ready.push_back(event(&error.as_body()));
                        self.running = None;
                    } else if self.unfinished == 0 {
                        self.end();
                    }
                }
                None => self.end(),
            }
        }
    }

    fn end(&mut self) {
        let teller = self.running.take().map(|(teller, _)| teller);
        self.ready.extend(teller.and_then(T::last));
        if T::DONE {
            self.ready.push_back(Event::default().data("[DONE]"));
        }
    }
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
