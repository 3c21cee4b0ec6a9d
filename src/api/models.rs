//! The models that are served: which of them a request is for, and `GET /v1/models`, `GET /v1/models/{id}`.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonObject;
use super::error::ApiError;
use super::fields::Fields;
use super::route::Route;
use crate::config::Config;
use crate::engine::{Described, Engine, ModelInUse, Status};

/// The model that a request is for.
#[derive(Clone)]
pub struct Served {
    /// The name that the client used; the model's first one if it used none.
    pub name: String,
    /// The model's place among all.
    pub number: usize,
    pub engine: Engine,
    pub model: ModelInUse,
    /// The settings in force for it.
    pub config: Arc<Config>,
}

impl AppState {
    /// The model that a body is for, loaded if need be; 404 if there is none of that name, 503 while those that were to be
    /// there from the start are being loaded, and if it cannot be loaded, or not in time.
    pub async fn serves(&self, body: &Map<String, Value>) -> Result<Served, ApiError> {
        let names = self.models.names()?;
        let mut names = names.into_iter();
        let found = match body.get("model") {
            Some(Value::String(name)) => names
                .find(|(other, _)| other == name)
                .ok_or_else(|| ApiError::model_not_found(name))?,
            // What is no string is refused where the field is read.
            _ => names.next().unwrap_or_default(),
        };
        self.served(found).await
    }

    /// The model that a body is for, and what is made of the body for it, beside the threads that serve everybody.
    pub async fn prepare<T: Send + 'static>(
        &self,
        body: JsonObject,
        prepare: impl FnOnce(JsonObject, &Served) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(Served, T), ApiError> {
        let served = self.serves(&body.0).await?;
        let for_it = served.clone();
        let prepared = self.work(move || prepare(body, &for_it)).await??;
        Ok((served, prepared))
    }

    /// The model whose bounds the documents tell: the first that is loaded, so that none is for their sake.
    pub async fn serves_documents(&self) -> Result<Served, ApiError> {
        let number = self.models.at_hand();
        let mut names = self.models.names()?.into_iter();
        let found = names.find(|(_, other)| *other == number);
        self.served(found.unwrap_or_default()).await
    }

    async fn served(&self, (name, number): (String, usize)) -> Result<Served, ApiError> {
        let engine = self.models.engine(number).await?;
        // Outside of a request, as in tests, nobody asks.
        let _ = ANSWERED_BY.try_with(|class| engine.bits_class().map(|name| class.set(name)));
        Ok(Served {
            name,
            number,
            model: engine.model()?,
            engine,
            config: self.models.config(number),
        })
    }
}

/// The header of every answer of a model: the name of all that decides how its numbers are rounded.
const BITS_CLASS: HeaderName = HeaderName::from_static("x-candor-bits-class");

tokio::task_local! {
    /// The bits class of the model that answers the request, once it is known.
    static ANSWERED_BY: OnceLock<Arc<str>>;
}

/// Gives answers of a model their header.
pub async fn name_bits_class(request: Request, next: Next) -> Response {
    let answer = async {
        let response = next.run(request).await;
        (response, ANSWERED_BY.with(|class| class.get().cloned()))
    };
    let (mut response, class) = ANSWERED_BY.scope(OnceLock::new(), answer).await;
    if let Some(class) = class.and_then(|class| HeaderValue::from_str(&class).ok()) {
        response.headers_mut().insert(BITS_CLASS, class);
    }
    response
}

/// `?model=NAME`, of a route without a body.
#[derive(Deserialize)]
pub struct ModelQuery {
    model: Option<String>,
}

impl AppState {
    /// As [`AppState::serves`], for a route without a body.
    pub async fn serves_query(
        &self,
        query: Result<Query<ModelQuery>, QueryRejection>,
    ) -> Result<Served, ApiError> {
        let Query(ModelQuery { model }) = query.map_err(|_| {
            ApiError::field(
                "model",
                "`model` in the query must stand there once at most, as percent-encoded UTF-8.",
            )
        })?;
        let body = model.map(|name| ("model".to_owned(), name.into()));
        self.serves(&body.into_iter().collect()).await
    }
}

/// Reads the field that [`AppState::serves`] has looked at.
pub fn model_field(fields: &mut Fields) -> Result<(), ApiError> {
    let about = "A name of `GET /v1/models`. None: the first of them.";
    fields.field("model", about).string().map(|_| ())
}

/// A model as OpenAI lists it, and what vLLM (`max_model_len`) and llama-server (`status`, `meta`) tell beside.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// A name that it answers to.
    id: String,
    /// Always "model".
    object: &'static str,
    /// Seconds since 1970; when the server started.
    created: u64,
    /// Always "candor".
    owned_by: &'static str,
    /// Tokens that a prompt and its completion may hold together.
    max_model_len: usize,
    status: ModelStatus,
    /// Servers that evaluate exactly and have equal classes give equal bits for the same model (docs/reproducibility.md);
    /// null while the model is not loaded.
    bits_class: Option<String>,
    /// What the file tells; null until the model has been loaded for the first time.
    meta: Option<ModelMeta>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelStatus {
    /// "loaded", "loading" or "unloaded"; the first request for one that is not loaded waits until it is.
    value: &'static str,
    /// The last try to load it failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelMeta {
    /// Its architecture, size and quantization, as llama.cpp puts them.
    description: String,
    /// Tokens of its vocabulary.
    n_vocab: usize,
    /// Tokens of context that it was trained with.
    n_ctx_train: usize,
    /// Numbers of a vector within it.
    n_embd: usize,
    /// Weights.
    n_params: u64,
    /// Bytes of its weights.
    size: u64,
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
    let about =
        "The names that models answer to, what each model is like, and whether it is loaded.";
    Route::get("/v1/models", get(list), about).answers::<ModelList>()
}

pub fn one_route() -> Route {
    let about = "One of them; its name may hold slashes.";
    Route::get("/v1/models/{*id}", get(one), about).answers::<ModelObject>()
}

/// All names of all models.
async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    let names = state.models.names()?;
    let models = state.models.list();
    let data = names
        .into_iter()
        .map(|(id, number)| object(&state, id, &models[number]))
        .collect();
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// One name; 404 if no model answers to it. Names may hold slashes.
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
    let mut names = state.models.names()?.into_iter();
    match names.find(|(name, _)| *name == id) {
        Some((id, number)) => Ok(Json(object(&state, id, &state.models.list()[number]))),
        None => Err(ApiError::model_not_found(&id)),
    }
}

fn object(state: &AppState, id: String, model: &Described) -> ModelObject {
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
        generates: facts.generates,
    });
    ModelObject {
        id,
        object: "model",
        created: state.started,
        owned_by: "candor",
        max_model_len: model.config.engine.context_length,
        status: ModelStatus {
            value,
            failed: model.status == Status::Failed,
        },
        bits_class: model.bits_class.as_ref().map(|class| class.to_string()),
        meta,
    }
}
