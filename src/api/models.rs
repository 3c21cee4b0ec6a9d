//! The models that are served: which of them a request is for, and `GET /v1/models`, `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::get;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::fields::Fields;
use super::route::Route;
use crate::config::Config;
use crate::engine::Engine;
use crate::model::Model;

/// The model that a request is for.
#[derive(Clone)]
pub struct Served {
    /// The name that the client used; the model's first one if it used none.
    pub name: String,
    pub engine: Engine,
    pub model: Arc<Model>,
    /// The settings in force for it.
    pub config: Arc<Config>,
}

impl AppState {
    /// The model that a body is for; 404 if there is none of that name, 503 while it is being loaded.
    pub fn serves(&self, body: &Map<String, Value>) -> Result<Served, ApiError> {
        let names = self.model_names()?;
        let name = match body.get("model") {
            Some(Value::String(name)) if names.contains(name) => name.clone(),
            Some(Value::String(name)) => return Err(ApiError::model_not_found(name)),
            // What is no string is refused where the field is read.
            _ => names.into_iter().next().unwrap_or_default(),
        };
        Ok(Served {
            name,
            model: self.engine.model()?,
            engine: self.engine.clone(),
            config: Arc::clone(&self.config),
        })
    }
}

/// Reads the field that [`AppState::serves`] has looked at.
pub fn model_field(fields: &mut Fields) -> Result<(), ApiError> {
    let about = "A name of `GET /v1/models`. None: the first of them.";
    fields.field("model", about).string().map(|_| ())
}

/// A model as OpenAI lists it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    /// Seconds since 1970; when the server started.
    created: u64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}
pub fn list_route() -> Route {
    let about = "The names that models answer to.";
    Route::get("/v1/models", get(list), about).answers::<ModelList>()
}

pub fn one_route() -> Route {
    let about = "One of them; its name may hold slashes.";
    Route::get("/v1/models/{*id}", get(one), about).answers::<ModelObject>()
}

/// All names that the model answers to.
async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    let names = state.model_names()?;
    let data = names.into_iter().map(|id| object(&state, id)).collect();
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// One name; 404 if the model does not answer to it. Names may hold slashes.
async fn one(
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
