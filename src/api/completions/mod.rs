//! `POST /v1/completions`.

mod answer;
mod arrays;
mod fork;
mod output_options;
mod prepare;
mod prompt;
mod request;
mod rows;
mod scored_from;
mod trace;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::body::JsonObject;
use super::client::Client;
use super::error::ApiError;
use super::fields::Fields;
use super::fork_cache::{ForkPoint, StoredAnswer};
use super::run::{Kind, Running, run};
use super::state::{AppState, Route};
use super::stream;
use answer::{Choice, Streamed};
use prepare::prepare;
pub use prepare::{Asked, prepare_request};
pub use prompt::Prompt;
pub use request::CompletionRequest;
use rows::{NPY, npy};

const KIND: Kind = Kind {
    path: "/v1/completions",
    id: "cmpl",
    object: "text_completion",
};

pub fn route() -> Route {
    Route::post(
        KIND.path,
        post(create),
        "Completes a prompt, optionally with log-probabilities.",
        |served| Fields::describe(json!({}), |fields| CompletionRequest::read(fields, served)),
    )
    .answers_or_streams::<Choice, Choice>("Completion")
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: JsonObject,
) -> Result<Response, ApiError> {
    // Only keys identify clients for certain.
    let has_keys = !state.config.server.api_keys.is_empty();
    let owner = has_keys.then(|| Arc::clone(&client.name));
    let (cache, name) = (state.fork_cache.clone(), Arc::clone(&client.name));
    let prepare = move |body, served: &_| prepare(body, served, &cache, &name);
    let running = run(&state, client, body, &KIND, prepare).await?;
    let answer = StoredAnswer {
        client: owner,
        model_index: running.served.model_index,
        model_name: running.served.name.clone(),
        fingerprint: running.head.system_fingerprint.clone(),
        adapters: running.adapters.clone(),
        choices: Vec::new(),
    };
    if running.asked.generate.stream {
        return Ok(stream(&state, running, answer));
    }
    respond(&state, running, answer, headers.get(header::ACCEPT)).await
}

fn stream(state: &AppState, running: Running<Asked>, answer: StoredAnswer) -> Response {
    let Asked {
        generate, prompts, ..
    } = running.asked;
    let id: Arc<str> = running.head.id.as_str().into();
    let asked = |index: usize| &prompts[index / generate.n];
    // The answer can be forked before it ends.
    let choices = 0..running.generations.len();
    let choices = choices.map(|index| asked(index).point.clone()).collect();
    state
        .fork_cache
        .keep(&id, StoredAnswer { choices, ..answer });
    let sources = running.generations.enumerate().map(|(index, generation)| {
        let view = asked(index).view.clone();
        stream::Source {
            prompt: Arc::clone(&view.prompt.tokens),
            is_first: index % generate.n == 0,
            shows_prompt: false,
            show: Streamed {
                id: Arc::clone(&id),
                fork_cache: state.fork_cache.clone(),
                index,
                view,
                generated: 0,
            },
            generation,
        }
    });
    let sources = sources.collect();
    stream::respond(running.head, sources, generate.stream_usage)
}

async fn respond(
    state: &AppState,
    mut running: Running<Asked>,
    stored: StoredAnswer,
    accept: Option<&axum::http::HeaderValue>,
) -> Result<Response, ApiError> {
    let (n, best_of) = (running.asked.generate.n, running.asked.best_of);
    let mut choices = Vec::new();
    let mut points = Vec::new();
    for prompt in std::mem::take(&mut running.asked.prompts) {
        let (view, point) = (prompt.view, prompt.point);
        for gathered in running.choices(&view.prompt.tokens, n, best_of).await? {
            choices.push(view.choice(choices.len(), &gathered));
            let tokens = gathered.tokens.iter().map(|output| output.token);
            let tokens = tokens.filter(|&token| !view.model.vocab().is_end(token));
            points.push(ForkPoint {
                tokens: point.tokens.iter().copied().chain(tokens).collect(),
                ..point.clone()
            });
        }
    }
    let stored = StoredAnswer {
        choices: points,
        ..stored
    };
    state.fork_cache.keep(&running.head.id, stored);
    if let Some(rows) = &running.asked.options.rows
        && accept.is_some_and(|accept| accept.as_bytes() == NPY.as_bytes())
    {
        let (number, vocabulary) = (rows.number, running.served.model.vocab().len());
        let all = choices.into_iter().filter_map(|choice| choice.logits);
        let all: Vec<_> = all.collect();
        let file = state
            .finish(move || npy(number, vocabulary, all.iter()))
            .await?;
        return Ok(([(header::CONTENT_TYPE, NPY)], file).into_response());
    }
    let entries = std::mem::take(&mut running.entries);
    state.respond(running.answer(choices), &entries).await
}
