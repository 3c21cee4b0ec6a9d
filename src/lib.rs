//! Candor: an OpenAI-compatible completion server whose log-probabilities can be trusted.
//!
//! # The map
//!
//! Each module turns one thing into the next, and imports only from those that stand before it (a test holds this line):
//!
//! | module | takes | gives | the only one that knows |
//! |---|---|---|---|
//! | [`config`] | defaults < file < environment < flags | [`config::Config`] | clap, TOML |
//! | [`model`] | tokens, and text ⇄ tokens | rows of logits | llama.cpp's handles, unsafe code, where weights come from |
//! | [`logprobs`] | a row of logits and a token | its likeliest tokens, a [`logprobs::TokenLogprob`] | the arithmetic this project exists for |
//! | [`sampling`] | a row of logits, its likeliest tokens and [`sampling::SamplingParams`] | a token | samplers, grammars, llguidance |
//! | [`engine`] | a [`engine::Request`] | a [`engine::Generation`], a stream of [`engine::Delta`]s; vectors of texts | threads, channels, permits, lanes, the cache, time |
//! | [`api`] | JSON | JSON or SSE | OpenAI's field names |
//! | [`playground`] | – | the page at `/`; asks the API as anyone may | HTML |
//!
//! [`metrics`] is a leaf that anyone may count with, `otel` one that sends traces, [`program`] one by which this program
//! runs itself, and [`http_client`] one by which it asks other servers; `serve` takes in connections. [`verify`] holds an
//! answer against its receipt, by a server of its own. [`doctor`] checks the machine and the settings before a server
//! starts. `main` parses and runs; [`run`] wires,
//! so that a test can start the real server on port 0, and [`run_on`] lets it put a [`model::Runner`] that fails on
//! command around the engine's contexts.
//!
//! # The life of a request
//!
//! 1. `api::guard` lets the request through: name, origin, key, how many at once. `api::body` reads a JSON object;
//!    `api::generate` and the route's own `request` check each field against the contract, by `api::fields`, which tells
//!    the documents (`api::openapi`, `api::docs`) of what was read.
//! 2. [`engine::Models`] gives out the engine of the model that is asked for, loaded if need be, for as long as anything of
//!    the request is there. The route makes tokens of its prompts; `api::generate` makes one [`engine::Request`] for each choice.
//! 3. [`engine::Engine::submit`] waits for a place (`engine::places`): a permit and a worker with room. Clients take turns
//!    (`engine::queue`), as they do before that at the cores for making tokens.
//! 4. The worker (`engine::worker`) gives the sequence a lane, with the cells that another lane already has
//!    (`engine::cache`), evaluates the rest of the prompt in chunks (`engine::plan`), and then one token a round with
//!    everyone else (`engine::schedule`). How many sequences share a decode, and how many contexts there are, was
//!    measured (`engine::tune`), and which decodes have the bits of single rows (`engine::exact`), at the start or in idle
//!    moments (`engine::idle`); how many threads a decode gets depends on who else wants the cores (`engine::cores`).
//! 5. Each row of logits is reduced by [`logprobs`] (`engine::score` for the rows of a prompt) and drawn from by
//!    [`sampling`]; `engine::text` finds characters, offsets and stop strings. What a constraint allows next is found by
//!    other threads (`engine::masks`) while the decode runs; a row that is there first is kept, and the others go on.
//! 6. Deltas go back over a channel; `api::answer` gathers them, or `api::stream` passes them on, in the shape that the
//!    route has (`api::completions::answer`).
//! 7. A worker that is lost is made anew (`engine::supervisor`); whoever it ran hears of it.
//! 8. Whoever drops the [`engine::Generation`] stops the sequence within one decode; its lane stays as cache.
//!
//! A request for embeddings goes another way: `api::embeddings` to `engine::embeddings`, which has a context, a thread and
//! places of its own, and makes one vector of what the model makes of each token.
//!
//! # What holds
//!
//! - In exact mode a sequence's bits do not depend on its neighbours or on the cache: a lane of its own, decodes that are
//!   shared only at widths where every bit was found equal, prompts cut into decodes at multiples of eight rows, and
//!   only cells reused that came from evaluating a prompt.
//! - llama.cpp's routines for the CPU multiply weights only after a process that may die of it has tried them
//!   (`engine::trial`). The bits class (`engine::bits_class`) names how numbers are rounded.
//! - No id reaches llama.cpp unchecked, and no grammar reaches it at all; what following one takes is bounded.
//! - No buffer of context × vocabulary exists: rows of logits are reduced as soon as they are computed.
//! - Unsafe code stands in `model::context`, `model::huge_pages` and `model::simd` alone.

pub mod api;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod http_client;
pub mod logprobs;
pub mod metrics;
pub mod model;
#[cfg(feature = "otel")]
pub mod otel;
pub mod playground;
pub mod program;
pub mod sampling;
mod serve;
pub mod verify;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use serve::{cannot_listen, listen};

/// Why the server ended on its own; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] Arc<engine::StartError>),
    #[error(transparent)]
    Tls(#[from] serve::TlsError),
    #[error("the server could not go on listening: {0}")]
    Serve(#[from] std::io::Error),
}

/// Serves on the listener until `shutdown` completes, then lets requests end for a while. The server answers at once;
/// models are loaded meanwhile.
pub async fn run(
    config: config::Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    run_on(config, listener, shutdown, model::contexts()).await
}

/// As [`run`], with something around the engine's contexts, or in place of the trial of llama.cpp's routines: tests make
/// them fail.
pub async fn run_on(
    config: config::Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    machinery: impl Into<engine::Machinery>,
) -> Result<(), RunError> {
    /// Time for workers to end, and then to tell those whose requests were cut.
    const LAST_WORDS: Duration = Duration::from_secs(5);
    let upkeep = tokio::spawn(metrics::keep());
    let address = listener.local_addr()?;
    let grace = Duration::from_millis(config.server.shutdown_grace_ms);
    let door = serve::Door::new(&config).await?;
    let reached = SocketAddr::new(config::reachable(address.ip()), address.port());
    let url = format!("{}://{reached}", door.scheme());
    let config = Arc::new(config);
    let (models, started) = engine::Models::start(&config, machinery.into());
    let is_loopback = address.ip().is_loopback();
    let app = api::app(api::AppState::new(
        models.clone(),
        Arc::clone(&config),
        is_loopback,
        playground::routes(),
    ));
    let handle = axum_server::Handle::new();
    let mut server = tokio::spawn(door.serve(listener, handle.clone(), app));
    let ready = models.clone();
    let loaded = async {
        started.await?;
        announce(&url, &config.server, ready.generates());
        // From here on only `shutdown` ends it.
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = loaded => outcome,
        served = &mut server => {
            return served.unwrap_or_else(|error| Err(error.into())).map_err(RunError::from);
        }
        () = shutdown => {
            tracing::info!(
                grace_ms = grace.as_millis(),
                "shutting down: running and waiting requests may end"
            );
            Ok(())
        }
    };
    handle.graceful_shutdown(None);
    let ended = tokio::time::timeout(grace, &mut server).await.is_ok();
    // Ends what still runs, and with it the streams that wait for it. On a thread of its own: a decode may take long, and
    // those that do other work may all be busy.
    let (closed, closing) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        models.close();
        let _ = closed.send(());
    });
    let _ = tokio::time::timeout(LAST_WORDS, closing).await;
    if !ended {
        tracing::warn!("requests were cut: they took longer than server.shutdown_grace_ms");
        let _ = tokio::time::timeout(LAST_WORDS, &mut server).await;
        handle.shutdown();
    }
    upkeep.abort();
    outcome
}

/// Tells the person at the terminal where to look, and what to try first.
fn announce(url: &str, config: &config::Server, generates: bool) {
    let (route, body) = if generates {
        (
            "/v1/completions",
            r#"{"prompt": "The capital of Michigan is ", "max_tokens": 8, "temperature": 0, "logprobs": 3}"#,
        )
    } else {
        (
            "/v1/embeddings",
            r#"{"input": "The capital of Michigan is Lansing."}"#,
        )
    };
    let key = if config.api_keys.is_empty() {
        ""
    } else {
        " -H 'authorization: Bearer YOUR-KEY'"
    };
    tracing::info!("ready: {url}");
    let with_key = if config.api_keys.is_empty() {
        ""
    } else {
        " (all but the page and /health with the key)"
    };
    tracing::info!(
        "look: {url}/ (the page), {url}/docs (every route and field), {url}/metrics, {url}/health{with_key}"
    );
    tracing::info!("try: curl {url}{route} -H 'content-type: application/json'{key} -d '{body}'");
}
