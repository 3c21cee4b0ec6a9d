//! Completions as events in llama-server's shape.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;

use super::answer::{Asked, Progress, View};
use crate::api::completions::Prompt;
use crate::api::error::ApiError;
use crate::api::events::{Tell, event, follow};
use crate::api::run::Running;
use crate::engine::Delta;

/// The completions that are running.
struct Completions {
    view: Arc<View>,
    /// The prompt of each, and what is known of it.
    running: Vec<(Arc<Prompt>, Progress)>,
}

/// Streams the completions as they are generated.
pub fn respond(running: Running<Asked>) -> Response {
    let Asked { completion, view } = running.asked;
    let prompts = completion.prompts.into_iter();
    let prompts = prompts.map(|prompt| prompt.view.prompt);
    let n = completion.generate.n;
    let completions = Completions {
        view,
        running: prompts
            .flat_map(|prompt| std::iter::repeat_n(prompt, n))
            .map(|prompt| (prompt, Progress::default()))
            .collect(),
    };
    follow(running.generations, completions)
}

impl Tell for Completions {
    /// An event with `stop` ends a completion.
    const DONE: bool = false;

    fn tell(
        &mut self,
        index: usize,
        delta: Delta,
        events: &mut VecDeque<Event>,
    ) -> Result<(), ApiError> {
        let (prompt, progress) = &mut self.running[index];
        match delta {
            Delta::Prompt(output) => progress.cached = output.cached_tokens,
            Delta::Report(report) => progress.report = report,
            Delta::Token(output) => {
                progress.generated += 1;
                progress.has_new_line |= output.text.contains('\n');
                let piece = self.view.piece(index, prompt, progress.generated, &output);
                events.push_back(event(&piece));
            }
            Delta::Finished(reason) => {
                let last = self.view.last_event(index, prompt, progress, reason);
                events.push_back(event(&last));
            }
            Delta::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }
}
