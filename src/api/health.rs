//! `GET /health`: 200 `{"status": "ok"}`, or 503 with the reason until the models are loaded that are to be there from the
//! start, and while a worker is down.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::route::Route;

pub fn route() -> Route {
    let about = "Whether requests can be served; 503 with the reason if not.";
    Route::get("/health", get(health), about)
        .answers::<Health>()
        .open()
}

/// That all is well.
#[derive(Serialize, ToSchema)]
struct Health {
    /// Always "ok".
    status: &'static str,
}

/// Never waits for the engine.
async fn health(State(state): State<AppState>) -> Response {
    match state.models.health() {
        Ok(()) => Json(Health { status: "ok" }).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}
