//! `GET /metrics`: counters, gauges and histograms in Prometheus' text format.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error::Refused;
use super::route;
use super::state::{AppState, Route};
use crate::config::Server;
use crate::metrics;

pub fn route(server: &Server) -> Route {
    let about = "Counters, gauges and histograms in Prometheus' text format.";
    let route = Route::get("/metrics", get(metrics), about);
    match server.metrics_need_key {
        true => route,
        false => route.open(),
    }
}

/// Never waits for the engine.
async fn metrics(State(state): State<AppState>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    let names = state.models.names().unwrap_or_default();
    let models = state.models.list().into_iter().enumerate();
    let classes = models.filter_map(|(number, model)| {
        let (name, _) = names.iter().find(|(_, other)| *other == number)?;
        Some((name.clone(), model.bits_class?.to_string()))
    });
    let text = metrics::render(state.load_now(), classes, &state.models.adapters_in_use());
    (kind, text).into_response()
}

/// Counts each request by its route, and by the reason if it was rejected.
pub async fn count(request: Request, next: Next) -> Response {
    let route = route::pattern(&request).to_owned();
    let response = next.run(request).await;
    metrics::answered(route, response.status().as_u16());
    if let Some(&Refused(reason)) = response.extensions().get() {
        metrics::refused(reason);
    }
    response
}
