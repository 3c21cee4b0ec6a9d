//! `GET /lora-adapters`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::error::ApiError;
use super::route::{Answers, schema_of};
use super::served::ModelQuery;
use super::state::{AppState, Route};

pub fn route() -> Route {
    let about = "The LoRA adapters that are loaded with a model, each with the scale that it has in requests without \
                 `lora`.";
    Route::get("/lora-adapters", get(list), about)
        .of_a_model()
        .answers_with(Answers::Json(
            |schemas| json!({"type": "array", "items": schema_of::<AdapterObject>(schemas)}),
        ))
}

/// An adapter as llama-server lists it, without its path.
#[derive(Debug, Serialize, ToSchema)]
struct AdapterObject {
    /// Its index in `model.lora`, from 0.
    id: usize,
    name: String,
    /// Its scale in requests without `lora`.
    scale: f32,
    /// Identifies its weights, as the model's `meta.fingerprint` does.
    fingerprint: String,
}

async fn list(
    State(state): State<AppState>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Json<Vec<AdapterObject>>, ApiError> {
    let model = state.serves_query(query).await?.model;
    let adapters = model.adapters().iter().enumerate();
    let objects = adapters.map(|(id, adapter)| AdapterObject {
        id,
        name: adapter.name().to_owned(),
        scale: adapter.scale(),
        fingerprint: adapter.fingerprint().to_owned(),
    });
    Ok(Json(objects.collect()))
}
