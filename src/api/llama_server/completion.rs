//! `POST /completion`.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::answer::{LlamaAnswer, LlamaCompletion, LlamaEvent, LlamaPiece};
use super::prompt;
use super::request::{Form, LlamaRequest};
use super::run::respond;
use crate::api::body::JsonObject;
use crate::api::client::Client;
use crate::api::completions::CompletionRequest;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::route::{Answers, schema_as};
use crate::api::run::Kind;
use crate::api::served::Served;
use crate::api::state::{AppState, Route};

const KIND: Kind = Kind {
    path: "/completion",
    id: "cmpl",
    object: "completion",
};

/// llama-server's answer, or its events.
pub const ANSWERS: Answers = Answers::JsonOrStream(
    "Llama",
    schema_as::<LlamaAnswer, LlamaCompletion>,
    schema_as::<LlamaEvent, LlamaPiece>,
);

pub fn route() -> Route {
    let about = "Completes a prompt, with llama-server's fields and answer.";
    Route::post(KIND.path, post(create), about, |served| {
        Fields::describe(json!({"prompt": "a"}), |fields| read(fields, served))
    })
    .answers_with(ANSWERS)
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let read = |body: Map<String, Value>, served: &Served| read(&mut Fields::new(body), served);
    respond(state, client, body, &KIND, read).await
}

fn read(fields: &mut Fields, served: &Served) -> Result<(CompletionRequest, Form), ApiError> {
    let prompts = prompt::read(fields, served)?;
    let request = LlamaRequest::read(fields, served)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    request.with(prompts, served)
}
