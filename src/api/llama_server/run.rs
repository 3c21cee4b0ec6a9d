//! A request of `/completion` or `/infill`, from its body to the answer.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Map, Value};

use super::answer::{Asked, LlamaCompletion, View};
use super::request::Form;
use super::stream;
use crate::api::body::JsonObject;
use crate::api::client::Client;
use crate::api::completions::{CompletionRequest, prepare_request};
use crate::api::error::ApiError;
use crate::api::fork_cache::ForkCache;
use crate::api::run::{Kind, Prepared, Running, run};
use crate::api::served::Served;
use crate::api::state::AppState;

/// A request that was read, as sequences.
pub fn prepare(
    (request, form): (CompletionRequest, Form),
    served: &Served,
    cache: &ForkCache,
    client: &str,
) -> Result<Prepared<Asked>, ApiError> {
    let mut prepared = prepare_request(request, served, cache, client)?;
    // Each completion has the text of its prompt.
    let prompts = prepared.sequences.iter().map(|it| it.prompt.len());
    prepared.entries.add(prompts.sum(), 0, served)?;
    let first = prepared.sequences.first().ok_or_else(ApiError::internal)?;
    // And the settings, which no limit but their own is for.
    let settings = first.sampling.logit_bias.len() + form.sent.grammar.len() / 16;
    let settings = settings.saturating_mul(prepared.sequences.len());
    prepared.entries.0 = prepared.entries.0.saturating_add(settings);
    let view = Arc::new(View::new(first, form, served));
    Ok(prepared.map(|completion| Asked { completion, view }))
}

/// Reads a body with `read`, runs the request, and answers.
pub async fn respond(
    state: AppState,
    client: Client,
    body: JsonObject,
    kind: &Kind,
    read: impl FnOnce(Map<String, Value>, &Served) -> Result<(CompletionRequest, Form), ApiError>
    + Send
    + 'static,
) -> Result<Response, ApiError> {
    let (cache, name) = (state.fork_cache.clone(), Arc::clone(&client.name));
    let prepare = move |body, served: &_| prepare(read(body, served)?, served, &cache, &name);
    let mut running = run(&state, client, body, kind, prepare).await?;
    if running.asked.completion.generate.stream {
        return Ok(stream::respond(running));
    }
    let view = Arc::clone(&running.asked.view);
    let completions = completions(&mut running, &view).await?;
    let entries = std::mem::take(&mut running.entries);
    state.respond(view.answer(completions), &entries).await
}

async fn completions(
    running: &mut Running<Asked>,
    view: &View,
) -> Result<Vec<LlamaCompletion>, ApiError> {
    let n = running.asked.completion.generate.n;
    let mut completions = Vec::new();
    for prompt in std::mem::take(&mut running.asked.completion.prompts) {
        let prompt = prompt.view.prompt;
        for gathered in running.choices(&prompt.tokens, n, n).await? {
            completions.push(view.completion(completions.len(), &prompt, &gathered));
        }
    }
    Ok(completions)
}
