//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::served::Name;
use super::state::{AppState, Route};
use crate::engine::{Described, Status};

/// A model as OpenAI lists it, with vLLM's `max_model_len` and llama-server's `status` and `meta`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// A name of the model, or of a LoRA adapter.
    id: String,
    /// Always "model".
    object: &'static str,
    /// When the server started, in seconds since 1970.
    created: u64,
    /// Always "candor".
    owned_by: &'static str,
    /// For the name of a LoRA adapter: its model's first name. The other properties are the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// Maximum number of tokens of a prompt and its completion together.
    max_model_len: usize,
    /// How many sequences run at once; others wait.
    parallel_sequences: usize,
    status: ModelStatus,
    /// Servers in exact or invariant mode with equal classes compute equal bits for the same model (docs/reproducibility.md); null while
    /// the model is not loaded.
    bits_class: Option<String>,
    /// Facts from the model's file; null until the model has been loaded for the first time.
    meta: Option<ModelMeta>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelStatus {
    /// "loaded", "loading" or "unloaded". A request for a model that is not loaded waits until it is.
    value: &'static str,
    /// Whether the last attempt to load it failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelMeta {
    /// Architecture, size and quantization, as llama.cpp describes them.
    description: String,
    /// Tokens in the vocabulary.
    n_vocab: usize,
    /// The context length that it was trained with.
    n_ctx_train: usize,
    /// The width of its hidden states.
    n_embd: usize,
    /// Number of weights.
    n_params: u64,
    /// Size of the weights in bytes.
    size: u64,
    /// Identifies the weights: the first part of `system_fingerprint`.
    fingerprint: String,
    /// Whether it can continue a text; otherwise it makes embeddings only.
    generates: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always "list".
    object: &'static str,
    data: Vec<ModelObject>,
}

pub fn list_route() -> Route {
    let about = "The names of the models and of their LoRA adapters, facts about each model, and whether it is loaded.";
    Route::get("/v1/models", get(list), about).answers::<ModelList>()
}

pub fn one_route() -> Route {
    let about = "One model. Its name may contain slashes.";
    Route::get("/v1/models/{*id}", get(one), about).answers::<ModelObject>()
}

/// All names of all models and their adapters.
async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    let names = state.names()?;
    let models = state.models.list();
    let data = names
        .into_iter()
        .map(|name| object(&state, name, &models))
        .collect();
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// The model with a name; 404 if there is none.
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
    let mut names = state.names()?.into_iter();
    match names.find(|name| name.name == id) {
        Some(name) => Ok(Json(object(&state, name, &state.models.list()))),
        None => Err(ApiError::model_not_found(&id)),
    }
}

fn object(state: &AppState, name: Name, models: &[Described]) -> ModelObject {
    let model = &models[name.model_index];
    let value = match model.status {
        Status::Unloaded | Status::Failed => "unloaded",
        Status::Loading => "loading",
        Status::Loaded => "loaded",
    };
    let meta = model.facts.clone().map(|facts| ModelMeta {
        description: facts.description,
        n_vocab: facts.vocabulary,
        n_ctx_train: facts.trained_context,
        n_embd: facts.embedding_width,
        n_params: facts.parameters,
        size: facts.size_bytes,
        fingerprint: facts.fingerprint,
        generates: facts.generates,
    });
    ModelObject {
        id: name.name,
        object: "model",
        created: state.started,
        owned_by: "candor",
        parent: name.adapter.map(|adapter| adapter.parent),
        max_model_len: model.config.engine.context_length,
        parallel_sequences: model.config.engine.parallel_sequences,
        status: ModelStatus {
            value,
            failed: model.status == Status::Failed,
        },
        bits_class: model.bits_class.as_ref().map(|class| class.to_string()),
        meta,
    }
}
