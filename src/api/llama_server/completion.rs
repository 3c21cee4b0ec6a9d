//! `POST /completion`.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

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
    any_of::<LlamaAnswer, LlamaCompletion>,
    any_of::<LlamaEvent, LlamaPiece>,
);

/// Like [`schema_as`], for a type with several forms: a whole answer also has the form of one of which parts are sent.
fn any_of<T: ToSchema, C: ToSchema>(name: String, schemas: &mut Map<String, Value>) -> Value {
    let reference = schema_as::<T, C>(name.clone(), schemas);
    if let Some(Value::Object(schema)) = schemas.get_mut(&name)
        && let Some(forms) = schema.shift_remove("oneOf")
    {
        schema.insert("anyOf".to_owned(), forms);
    }
    reference
}

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
