//! JSON in, JSON or SSE out: the only module that knows OpenAI's field names.

mod adapters;
mod answer;
mod bits_class;
mod body;
mod bounds;
mod chat;
mod client;
mod completions;
mod counts;
mod docs;
mod drain;
mod elsewhere;
mod embeddings;
mod error;
mod events;
mod fields;
mod fork_cache;
mod gathered;
mod generate;
mod guard;
mod health;
mod ids;
mod input;
mod llama_server;
mod lora;
mod metrics;
mod models;
mod nested;
mod neutral;
mod openapi;
mod perplexity;
mod prompt_logprobs;
pub mod receipt;
mod rerank;
mod responses;
mod route;
mod run;
mod score;
mod scoring;
mod served;
mod state;
mod stopping;
mod stream;
mod structured;
mod token_options;
mod tokenizer;
mod trace;
mod wording;
mod wrapped_body;

pub use chat::render_template;
pub use client::neighbourhood;
pub use counts::{Counted, Counts};
pub use route::Answers;
pub use state::{AppState, Route};
pub use stopping::Stopping;
pub use wording::{counted, describe};

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use crate::config::{self, Config};
use crate::engine::Models;
use error::ApiError;
use wording::cut;

impl AppState {
    /// The state of a server that serves `further` routes in addition to the API.
    pub fn new(
        models: Models,
        config: Arc<Config>,
        is_loopback: bool,
        further: Vec<Route>,
    ) -> Self {
        let routes = routes(&config.server).into_iter().chain(further).collect();
        Self::with_routes(models, config, is_loopback, routes)
    }
}

/// The routes of the API.
fn routes(server: &config::Server) -> Vec<Route> {
    let mut routes = vec![
        completions::route(),
        chat::route(),
        responses::route(),
        score::route(),
        perplexity::route(),
        embeddings::route(),
        rerank::route(),
        models::list_route(),
        models::one_route(),
        lora::route(),
        health::route(),
        openapi::route(),
        docs::route(),
        metrics::route(server),
    ];
    routes.extend(llama_server::routes());
    routes.extend(tokenizer::routes());
    routes
}

/// The router with its middleware.
pub fn app(state: AppState) -> Router {
    let body_bytes = state.config.limits.body_bytes;
    let cors = guard::cors(&state.config.server);
    let router = state.routes.iter().fold(Router::new(), |router, route| {
        route.patterns().fold(router, |router, pattern| {
            router.route(pattern, route.handler.clone())
        })
    });
    let router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn(bits_class::add_header))
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(CatchPanicLayer::custom(panicked));
    // Outside the check for keys: browsers send preflight requests without one.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(state.clone(), drain::drain))
        .layer(middleware::from_fn_with_state(
            state.stopping.clone(),
            stopping::end_connection,
        ))
        .layer(middleware::from_fn(metrics::count))
        .layer(middleware::from_fn(trace::trace))
        .with_state(state)
}

async fn not_found(State(state): State<AppState>, uri: Uri) -> ApiError {
    let patterns = state.routes.iter().map(|route| route.pattern);
    no_route(&uri, elsewhere::instead(uri.path(), patterns))
}

/// 404, with what there is instead.
pub fn no_route(uri: &Uri, instead: Option<String>) -> ApiError {
    // `CONNECT host:port` has an empty path.
    let path = match uri.path() {
        "" => uri.to_string(),
        path => path.to_owned(),
    };
    let instead = instead.map_or_else(String::new, |instead| format!(" {instead}"));
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "There is no route `{}`.{instead} GET /openapi.json lists all routes.",
            cut(&path)
        ),
    )
    .code("not_found")
}

async fn method_not_allowed(
    State(state): State<AppState>,
    path: MatchedPath,
    method: Method,
    uri: Uri,
) -> ApiError {
    let allowed: Vec<String> = state
        .routes
        .iter()
        .filter(|route| route.patterns().any(|pattern| pattern == path.as_str()))
        .map(|route| route.method.to_string())
        .collect();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "`{}` accepts {}, not {}.",
            cut(uri.path()),
            allowed.join(" and "),
            cut(method.as_str())
        ),
    )
    .code("method_not_allowed")
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal().into_response()
}
