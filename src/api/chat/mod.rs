//! `POST /v1/chat/completions`: the model's chat template renders a conversation as a prompt, which is completed.

mod answer;
mod arguments;
mod at_fault;
mod calls;
mod conversation;
mod effort;
mod forms;
mod literals;
mod marks;
mod prepare;
mod prompt;
mod request;
mod template;
mod tool_choice;
mod tools;
mod writes;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::json;

use super::answer::Answer;
use super::body::JsonObject;
use super::client::Client;
use super::error::ApiError;
use super::fields::Fields;
use super::prompt_logprobs::PromptLogprobs;
use super::run::{Kind, run};
use super::state::{AppState, Route};
use super::stream;
use answer::{ChatPiece, Choice, Streamed};
pub use answer::{TokenEntry, View};
pub use calls::{Part, Reader};
pub use conversation::{Conversation, Names, name_reasoning};
pub use effort::EFFORTS;
use prepare::prepare;
pub use prepare::{Asked, prepare_request};
pub use prompt::{model_template, render};
pub use request::{ChatRequest, splits_reasoning};
pub use template::render_template;
pub use tool_choice::{ChoiceForm, ToolChoice};
pub use tools::check_tools;

const KIND: Kind = Kind {
    path: "/v1/chat/completions",
    id: "chatcmpl",
    object: "chat.completion",
};

/// The `object` of a streamed answer's events.
const EVENT_OBJECT: &str = "chat.completion.chunk";

pub fn route() -> Route {
    Route::post(
        KIND.path,
        post(create),
        "Answers a conversation, rendered by the model's chat template, optionally with log-probabilities.",
        |served| {
            let sample = json!({"messages": [{"role": "user", "content": "Hello"}]});
            Fields::describe(sample, |fields| ChatRequest::read(fields, served))
        },
    )
    .answers_or_streams::<Choice, ChatPiece>("ChatCompletion")
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let mut running = run(&state, client, body, &KIND, prepare).await?;
    if running.asked.generate.stream {
        let Asked {
            generate,
            view,
            prompt,
        } = running.asked;
        running.head.object = EVENT_OBJECT;
        let sources = running.generations.enumerate();
        let sources = sources.map(|(index, generation)| stream::Source {
            prompt: Arc::clone(&prompt),
            is_first: index == 0,
            shows_prompt: view.options.token_ids,
            show: Streamed::new(index, view.clone()),
            generation,
        });
        let sources = sources.collect();
        return Ok(stream::respond(
            running.head,
            sources,
            generate.stream_usage,
        ));
    }
    let (n, prompt) = (running.asked.generate.n, running.asked.prompt.clone());
    let gathered = running.choices(&prompt, n, n).await?;
    let mut choices = Vec::with_capacity(gathered.len());
    for (index, gathered) in gathered.iter().enumerate() {
        let (choice, reasoning) = running.asked.view.choice(index, gathered);
        choices.push(choice);
        if let Some(tokens) = reasoning {
            running.count_reasoning(tokens);
        }
    }
    let View { model, options, .. } = &running.asked.view;
    let prompt_token_ids = || prompt.iter().map(|token| token.0).collect();
    let prompt_token_ids = options.token_ids.then(prompt_token_ids);
    let scored = options.prompt_logprobs.zip(gathered.first());
    let prompt_logprobs =
        scored.map(|(top, first)| PromptLogprobs::new(model, top, prompt.len(), &first.prompt));
    let entries = std::mem::take(&mut running.entries);
    let answer = Answer {
        prompt_token_ids,
        prompt_logprobs,
        ..running.answer(choices)
    };
    state.respond(answer, &entries).await
}
