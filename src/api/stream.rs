//! The choices of an answer as server-sent events, in OpenAI's shape.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Head, Usage};
use super::error::ApiError;
use super::events::{Tell, event, follow};
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

/// The choices of an answer.
struct Choices<S> {
    head: Head,
    choices: Vec<Streamed<S>>,
    shown: StreamUsage,
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

/// Streams the choices as they are generated.
pub fn respond<S: Show>(head: Head, sources: Vec<Source<S>>, shown: StreamUsage) -> Response {
    let (generations, choices): (Vec<_>, _) = sources
        .into_iter()
        .map(|source| {
            let choice = Streamed {
                show: source.show,
                prompt: source.prompt,
                is_first: source.is_first,
                shows_prompt: source.shows_prompt,
                usage: Usage::default(),
            };
            (source.generation, choice)
        })
        .unzip();
    let choices = Choices {
        head,
        choices,
        shown,
        usage: Usage::default(),
    };
    follow(generations.into_iter(), choices)
}

impl<S: Show> Tell for Choices<S> {
    fn tell(
        &mut self,
        index: usize,
        delta: Delta,
        events: &mut VecDeque<Event>,
    ) -> Result<(), ApiError> {
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
            Delta::Failed(error) => return Err(error.clone().into()),
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
            events.push_back(event(&chunk));
        }
        Ok(())
    }

    fn last(self) -> Option<Event> {
        let chunk = Chunk::<S::Piece> {
            head: &self.head,
            choices: Vec::new(),
            prompt_token_ids: None,
            usage: Some(Some(&self.usage)),
        };
        self.shown.at_end.then(|| event(&chunk))
    }
}
