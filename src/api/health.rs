//! `GET /health`: 200 `{"status": "ok"}`, or 503 with the reason while models load at startup, a worker is down, or the
//! server is about to stop.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::state::{AppState, Route};
use crate::engine::{EngineError, Refused};

pub fn route() -> Route {
    let about = "Whether the server is ready for requests; 503 with the reason if not.";
    Route::get("/health", get(health), about)
        .answers::<Health>()
        .open()
}

/// The server is ready for requests.
#[derive(Serialize, ToSchema)]
struct Health {
    /// Always "ok".
    status: &'static str,
    /// llama.cpp routines that failed their trial on this CPU and are not used; left out if there are none. Answers without
    /// them are correct, but slower.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_routines: Vec<RefusedRoutine>,
}

#[derive(Serialize, ToSchema)]
struct RefusedRoutine {
    /// The setting of `[engine]` that turns the routine off.
    routine: String,
    /// What happened in the trial, as in "ends the process (SIGSEGV)".
    why: String,
}

/// Never waits for the engine.
async fn health(State(state): State<AppState>) -> Response {
    if state.stopping.has_begun() {
        return ApiError::from(EngineError::closing()).into_response();
    }
    match state.models.health() {
        Ok(()) => {
            let models = state.models.list().into_iter();
            let refused: BTreeSet<Refused> = models.flat_map(|model| model.refused).collect();
            let refused = refused.into_iter();
            Json(Health {
                status: "ok",
                refused_routines: refused
                    .map(|Refused { routine, why }| RefusedRoutine { routine, why })
                    .collect(),
            })
            .into_response()
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}
