//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use super::AppState;
use super::error::ApiError;

/// A model as OpenAI lists it.
#[derive(Debug, Serialize)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    /// Seconds since 1970; when the server started.
    created: u64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// All names that the model answers to.
pub async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    let names = state.model_names()?;
    let data = names.into_iter().map(|id| object(&state, id)).collect();
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// One name; 404 if the model does not answer to it. Names may hold slashes.
pub async fn one(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelObject>, ApiError> {
    let Path(id) = id.map_err(|_| {
        ApiError::field(
            "model",
            "The model's name in the path must be percent-encoded UTF-8, but it is not UTF-8.",
        )
    })?;
    if state.model_names()?.contains(&id) {
        Ok(Json(object(&state, id)))
    } else {
        Err(ApiError::model_not_found(&id))
    }
}

fn object(state: &AppState, id: String) -> ModelObject {
    ModelObject {
        id,
        object: "model",
        created: state.started,
        owned_by: "candor",
    }
}
