//! `POST /apply-template`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::limits::check_length;
use crate::api::body::JsonObject;
use crate::api::chat::{self, Conversation};
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::served::{Served, model_field};
use crate::api::state::{AppState, Route};

pub fn route() -> Route {
    let about = "Renders a conversation with the chat template, without answering it.";
    Route::post("/apply-template", post(apply), about, |served| {
        let sample = json!({"messages": [{"role": "user", "content": "Hello"}]});
        Fields::describe(sample, |fields| read_conversation(fields, served))
    })
    .answers::<Applied>()
}

fn read_conversation(fields: &mut Fields, served: &Served) -> Result<Conversation, ApiError> {
    model_field(fields)?;
    let conversation = Conversation::parse(fields)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(conversation)
}

#[derive(Serialize, ToSchema)]
struct Applied {
    /// The prompt that an answer would continue, without the BOS that is added before it.
    prompt: String,
}

async fn apply(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let apply = |body, served: &Served| {
        let conversation = read_conversation(&mut Fields::new(body), served)?;
        let prompt = chat::render(conversation, served)?.text;
        check_length(prompt.as_str(), "messages")?;
        Ok(Applied {
            prompt: prompt.into_string(),
        })
    };
    state.compute(body.0, apply).await
}
