//! Completions as events in llama-server's shape.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream::{self, SelectAll, Stream, StreamExt};

use super::answer::{Asked, LlamaEvent, Progress, View};
use crate::api::completions::Prompt;
use crate::api::error::ApiError;
use crate::api::run::Running;
use crate::api::stream::{event, send};
use crate::engine::Delta;

type Deltas = SelectAll<Pin<Box<dyn Stream<Item = (usize, Delta)> + Send>>>;

/// The completions that are running.
struct State {
    view: Arc<View>,
    /// The prompt of each, and what is known of it.
    running: Vec<(Arc<Prompt>, Progress)>,
    deltas: Deltas,
    /// Events that are ready.
    ready: VecDeque<Event>,
    over: bool,
}

/// Streams the completions as they are generated. The stream owns the generations: both are dropped when the client
/// disconnects.
pub fn respond(running: Running<Asked>) -> Response {
    let Asked { completion, view } = running.asked;
    let prompts = completion.prompts.into_iter();
    let prompts = prompts.map(|prompt| prompt.view.prompt);
    let n = completion.generate.n;
    let generations = running.generations.enumerate();
    let state = State {
        view,
        running: prompts
            .flat_map(|prompt| std::iter::repeat_n(prompt, n))
            .map(|prompt| (prompt, Progress::default()))
            .collect(),
        deltas: generations
            .map(|(index, generation)| generation.map(move |delta| (index, delta)).boxed())
            .collect(),
        ready: VecDeque::new(),
        over: false,
    };
    send(stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((event, state))
    }))
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
                Some((index, delta)) => match self.take(index, delta) {
                    Ok(body) => self.ready.extend(body.map(|body| event(&body))),
                    Err(error) => {
                        // The status has already been sent. A stream without [DONE] tells clients that it is incomplete.
                        self.end();
                        self.ready.push_back(event(&error.as_body()));
                    }
                },
                None => {
                    self.end();
                    self.ready.push_back(Event::default().data("[DONE]"));
                }
            }
        }
    }

    /// Drops the generations, so that a client that does not read the last events does not keep the model loaded.
    fn end(&mut self) {
        self.over = true;
        self.deltas.clear();
    }

    fn take(&mut self, index: usize, delta: Delta) -> Result<Option<LlamaEvent>, ApiError> {
        let (prompt, progress) = &mut self.running[index];
        match delta {
            Delta::Prompt(output) => progress.cached = output.cached_tokens,
            Delta::Report(report) => progress.report = report,
            Delta::Token(output) => {
                progress.generated += 1;
                progress.has_new_line |= output.text.contains('\n');
                let piece = self.view.piece(index, prompt, progress.generated, &output);
                return Ok(Some(piece));
            }
            Delta::Finished(reason) => {
                let last = self.view.last_event(index, prompt, progress, reason);
                return Ok(Some(last));
            }
            Delta::Failed(error) => return Err(error.into()),
        }
        Ok(None)
    }
}
