//! `GET /health`: 200 `{"status": "ok"}`, or 503 with the reason until the model is loaded and while a worker is down.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::error::ApiError;

/// Never waits for the engine.
pub async fn health(State(state): State<AppState>) -> Response {
    match state.engine.health() {
        Ok(()) => Json(serde_json::json!({"status": "ok"})).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}
