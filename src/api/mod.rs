//! JSON in, JSON or SSE out: the only module that knows axum and OpenAI's field names.

mod body;
mod completions;
mod error;
mod health;
mod models;

use std::any::Any;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use crate::config::Config;
use crate::engine::{Engine, EngineError};
use error::ApiError;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    pub engine: Engine,
    pub config: Arc<Config>,
    /// Seconds since 1970 at the start.
    started: u64,
}

impl AppState {
    pub fn new(engine: Engine, config: Arc<Config>) -> Self {
        Self {
            engine,
            config,
            started: now(),
        }
    }

    /// The names that the model answers to; the first is the one it is called by.
    fn model_names(&self) -> Result<Vec<String>, EngineError> {
        let aliases = &self.config.model.aliases;
        if aliases.is_empty() {
            Ok(vec![self.engine.model()?.name().to_owned()])
        } else {
            self.engine.model()?;
            Ok(aliases.clone())
        }
    }
}

/// The routes and what all of them have in common.
pub fn app(state: AppState) -> Router {
    let body_bytes = state.config.limits.body_bytes;
    Router::new()
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(health::health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn_with_state(state.clone(), check_key))
        .layer(CatchPanicLayer::custom(panicked))
        // Whoever fails says so; a 503 while the model loads is no failure.
        .layer(TraceLayer::new_for_http().on_failure(()))
        .with_state(state)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("There is nothing at {}.", uri.path()),
    )
    .code("not_found")
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {method}.", uri.path()),
    )
    .code("method_not_allowed")
}

/// With keys set, every route but `/health` asks for one of them.
async fn check_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let keys = &state.config.server.api_keys;
    if keys.is_empty() || request.uri().path() == "/health" {
        return next.run(request).await;
    }
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let error = match given {
        Some(given) if keys.iter().any(|key| same_key(key, given)) => {
            return next.run(request).await;
        }
        Some(_) => "The API key is not one of this server's.",
        None => "This server asks for an API key: send it as `Authorization: Bearer KEY`.",
    };
    ApiError::new(StatusCode::UNAUTHORIZED, error)
        .code("invalid_api_key")
        .into_response()
}

/// Compares digests, so that how long it takes tells nothing about the key.
fn same_key(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter()
        .zip(b.iter())
        .fold(0, |different, (a, b)| different | (a ^ b))
        == 0
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The server met an error of its own.",
    )
    .into_response()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
