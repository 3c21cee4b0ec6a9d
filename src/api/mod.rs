//! JSON in, JSON or SSE out: the only module that knows OpenAI's field names.

mod answer;
mod body;
mod chat;
mod completions;
mod docs;
mod embeddings;
mod error;
mod fields;
mod generate;
pub mod guard;
mod health;
mod input;
mod leftover;
mod lora;
mod metrics;
mod models;
mod openapi;
mod perplexity;
pub mod receipt;
mod route;
mod score;
mod stream;
mod structured;
mod tokenizer;
mod trace;

pub use body::counted;
pub use chat::render_template;
pub use route::{Answers, Route};

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config::Config;
use crate::engine::{FairQueue, Models};
use crate::metrics::Load;
use body::cut;
use error::ApiError;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    pub models: Models,
    pub config: Arc<Config>,
    /// All that there is.
    routes: Arc<[Route]>,
    /// Whether only this machine can reach the server.
    is_loopback: bool,
    counts: guard::Counts,
    /// Answers that may be gone on from.
    recent: completions::Recent,
    /// As many as there are cores: see `work`.
    cpu_permits: Arc<FairQueue>,
    /// Seconds since 1970 at the start.
    started: u64,
}

impl AppState {
    /// `further` is served beside the API.
    pub fn new(
        models: Models,
        config: Arc<Config>,
        is_loopback: bool,
        further: Vec<Route>,
    ) -> Self {
        Self {
            models,
            routes: routes().into_iter().chain(further).collect(),
            is_loopback,
            counts: guard::Counts::default(),
            recent: completions::Recent::new(&config.limits),
            cpu_permits: Arc::new(FairQueue::new(
                std::thread::available_parallelism().map_or(1, usize::from),
                // All that may run or wait later, so that none is refused here for which there is a place.
                config.limits.queue_length + config.engine.parallel_sequences,
                Duration::from_millis(config.limits.queue_timeout_ms),
            )),
            started: now(),
            config,
        }
    }

    /// Does what takes a core for more than a moment, beside the threads that serve everybody: no more of it at once than
    /// there are cores, also of clients that have left. Clients take turns; the wait is bounded in time and number.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.cpu_permits.enter(&guard::current_client()).await?;
        with_permit(permit, work).await
    }

    /// As [`AppState::work`], for a request whose answer has been generated: it waits as long as it takes.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.cpu_permits.extend(&guard::current_client()).await?;
        with_permit(permit, work).await
    }

    /// How full it is, for the metrics.
    fn load_now(&self) -> Load {
        let (_, preparing, preparations_waiting) = self.cpu_permits.load();
        Load {
            preparing,
            preparations_waiting,
            ..self.models.load_now()
        }
    }
}

async fn with_permit<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        span.in_scope(work)
    });
    done.await.map_err(|_| ApiError::internal())
}

/// The API's own.
fn routes() -> Vec<Route> {
    let mut routes = vec![
        completions::route(),
        chat::route(),
        score::route(),
        perplexity::route(),
        embeddings::route(),
        models::list_route(),
        models::one_route(),
        lora::route(),
        health::route(),
        openapi::route(),
        docs::route(),
        metrics::route(),
    ];
    routes.extend(tokenizer::routes());
    routes
}

/// The routes and what all of them have in common.
pub fn app(state: AppState) -> Router {
    let body_bytes = state.config.limits.body_bytes;
    let cors = guard::cors(&state.config.server);
    let router = state.routes.iter().fold(Router::new(), |router, route| {
        router.route(route.pattern, route.handler.clone())
    });
    let router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn(models::name_bits_class))
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(CatchPanicLayer::custom(panicked));
    // Before the key is asked for: a browser asks without.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(
            state.clone(),
            leftover::drain,
        ))
        .layer(middleware::from_fn(metrics::count))
        .layer(middleware::from_fn(trace::trace))
        .with_state(state)
}

/// The route's pattern, for logs and metrics: what clients make up stands in neither.
fn route(request: &Request) -> &str {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
}

/// 404.
pub async fn not_found(uri: Uri) -> ApiError {
    // That of `CONNECT host:port` is empty.
    let path = match uri.path() {
        "" => uri.to_string(),
        path => path.to_owned(),
    };
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "There is nothing at `{}`. GET /openapi.json tells what there is.",
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
        .filter(|route| route.pattern == path.as_str())
        .map(|route| route.method.to_string())
        .collect();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "`{}` takes {}, not {}.",
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

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
