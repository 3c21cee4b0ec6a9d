//! Candor: an OpenAI-compatible completion server whose log-probabilities can be trusted.
//!
//! # The map
//!
//! Each module turns one thing into the next, and imports only from modules above it (a test checks this):
//!
//! | module | takes | gives | the only one that knows |
//! |---|---|---|---|
//! | [`config`] | defaults < file < environment < flags | [`config::Config`] | clap, TOML |
//! | [`model`] | tokens, and text ⇄ tokens | rows of logits | llama.cpp's handles, unsafe code, where weights come from |
//! | [`logprobs`] | a row of logits and a token | its likeliest tokens, a [`logprobs::TokenLogprob`] | the arithmetic this project exists for |
//! | [`sampling`] | a row of logits, its likeliest tokens and [`sampling::SamplingParams`] | a token | samplers, grammars, llguidance |
//! | [`engine`] | a [`engine::Request`] | a [`engine::Generation`], a stream of [`engine::Delta`]s; embeddings of texts | threads, channels, slots, lanes, the cache, time |
//! | [`api`] | JSON | JSON or SSE | OpenAI's field names |
//! | [`playground`] | – | the page at `/`; it uses the public API | HTML |
//!
//! Leaf modules: [`params`] is the table of sampling parameters, [`metrics`] records counters, `otel` exports traces,
//! [`program`] runs this program as a child process, `random` reads the system's random numbers, and [`http_client`] sends
//! requests to other servers. `serve` accepts connections. [`verify`] compares an answer with its receipt, on a server of
//! its own. [`batch`] sends the requests in a file to servers. [`doctor`] checks the machine and the settings before a server starts. `main` parses the command line; [`run`]
//! wires everything up, so that a test can start the real server on port 0, and [`run_on`] lets a test wrap the engine's
//! contexts in a [`model::Runner`] that fails on command. `docs/glossary.md` explains the terms.
//!
//! # The life of a request
//!
//! 1. `api::guard` checks host, origin and key, and limits concurrent requests. `api::body` reads a JSON object;
//!    `api::generate` and the route's own `request` validate each field with `api::fields`, from which the documentation
//!    (`api::openapi`, `api::docs`) is generated too.
//! 2. [`engine::Models`] returns the engine of the requested model, loading it if needed; the model stays loaded while
//!    anything of the request exists. The route tokenizes the prompts; `api::generate` makes an [`engine::Request`] for
//!    each choice.
//! 3. [`engine::Engine::submit`] waits for a slot (`engine::admission`): a permit, and a worker with room. Clients take
//!    turns (`engine::queue`), here and earlier for the cores that tokenize.
//! 4. The worker (`engine::worker`) gives the sequence a lane (llama-server: slot) and reuses the cells that another lane
//!    already has (`engine::cache`). It evaluates the rest of the prompt in chunks (`engine::plan`), and then one token per
//!    round together with all other sequences (`engine::schedule`). How many sequences share a decode, and how many
//!    contexts there are, is measured (`engine::tune`), as is which decodes give a row the same bits (`engine::widths`),
//!    at startup or in idle moments (`engine::idle`). The threads of a decode depend on how many cores are free
//!    (`engine::cores`).
//! 5. [`logprobs`] reduces each row of logits (`engine::score` for the rows of a prompt), and [`sampling`] draws a token
//!    from it; `engine::text` finds characters, offsets and stop strings. Other threads (`engine::masks`) compute what a
//!    constraint allows next while the decode runs; if the row is ready first, it waits, and the other sequences continue.
//! 6. Deltas go back through a channel; `api::answer` collects them, or `api::stream` forwards them, in the format of the
//!    route (`api::completions::answer`).
//! 7. A worker that dies is restarted (`engine::supervisor`), and the requests it was running get an error.
//! 8. When a client disconnects, its [`engine::Generation`] is dropped and the sequence stops within one decode; its lane
//!    stays as cache.
//!
//! A request for embeddings goes from `api::embeddings` to `engine::embeddings`, which has a context, a thread and a slot of
//! its own, and pools the vectors of a text's tokens into one. Routes that only score make their requests with
//! `api::scoring`.
//!
//! To add a route, write a file in `api` with a `route()` (see `api::route`) and list it in `api::routes`. `api::run`
//! prepares, submits and collects; `api::perplexity` is a short example. Its page in `docs/api` has comments by which tests
//! write the tables. `tests/it/documents.rs` needs a body for it, and `is_of_the_model` in `tests/it/pages.rs` its name if
//! its answers depend on the CPU.
//!
//! llama-server's routes (`api::llama_server`) read its field names into the request of `/v1/completions`, and write its answer
//! in their own shape. A reranker's texts go the way of embeddings, and its head makes a score of each (`api::rerank`).
//!
//! A chat's messages go through `api::chat::conversation` (checked), `marks` (names of control tokens stay text), `template`
//! (rendered; `template::jinja2` has what minijinja does otherwise than Jinja2) to tokens; the model's text goes through
//! `calls` to content, reasoning and tool calls. To add a form of calls, add an entry to `forms::table`. `api::responses`
//! makes a chat of the items of a response, and items of its answer.
//!
//! # Invariants
//!
//! - In exact and invariant mode the bits of a sequence depend neither on other sequences nor on the cache: each has its own
//!   lane, decodes have only widths of one class, prompts are cut at multiples of eight rows, and only cells that were
//!   evaluated as part of a prompt are reused.
//! - llama.cpp's CPU routines are used only after a child process, which may crash, has tried them (`engine::trial`). The
//!   bits class (`engine::bits_class`) names how numbers are rounded.
//! - No unchecked id reaches llama.cpp, and no grammar reaches it at all; the cost of following a grammar is bounded.
//! - No buffer of context × vocabulary exists: rows of logits are reduced as soon as they are computed.
//! - Only `model::{context, llama, huge_pages, simd}` contain unsafe code.

pub mod api;
pub mod batch;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod http_client;
pub mod logprobs;
pub mod metrics;
pub mod model;
#[cfg(feature = "otel")]
pub mod otel;
pub mod params;
pub mod playground;
pub mod program;
mod random;
pub mod sampling;
mod serve;
pub mod verify;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use serve::{cannot_listen, listen};

/// Why the server stopped by itself; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] Arc<engine::StartError>),
    #[error(transparent)]
    Tls(#[from] serve::TlsError),
    #[error("the server can no longer listen: {0}")]
    Serve(#[from] std::io::Error),
}

/// Serves on the listener until `shutdown` completes; then it drains if the settings say so, stops listening, and gives
/// requests some time to finish. The server answers at once, while models are loading.
pub async fn run(
    config: config::Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    run_on(config, listener, shutdown, model::contexts()).await
}

/// Like [`run`], with parts of the engine replaced: tests make them fail.
pub async fn run_on(
    config: config::Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    machinery: impl Into<engine::Machinery>,
) -> Result<(), RunError> {
    /// Time for workers to stop, and then for clients to get the error that ends their requests.
    const LAST_WORDS: Duration = Duration::from_secs(5);
    let upkeep = tokio::spawn(metrics::run_upkeep());
    let address = listener.local_addr()?;
    let grace = Duration::from_millis(config.server.shutdown_grace_ms);
    let drain = Duration::from_millis(config.server.drain_ms);
    let incoming = serve::Listener::new(&config).await?;
    let reachable = SocketAddr::new(config::reachable(address.ip()), address.port());
    let url = format!("{}://{reachable}", incoming.scheme());
    let config = Arc::new(config);
    let (models, started) = engine::Models::start(&config, machinery.into());
    let is_loopback = address.ip().is_loopback();
    let state = api::AppState::new(
        models.clone(),
        Arc::clone(&config),
        is_loopback,
        playground::routes(),
    );
    let stopping = state.stopping.clone();
    let (handle, closing) = (axum_server::Handle::new(), Arc::new(Notify::new()));
    let listener = serve::Closable::new(listener, Arc::clone(&closing))?;
    let mut server = tokio::spawn(incoming.serve(listener, handle.clone(), api::app(state)));
    let ready = models.clone();
    let loaded = async {
        started.await?;
        announce(&url, &config.server, ready.generates());
        // From here on only `shutdown` ends the server.
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = loaded => outcome,
        served = &mut server => {
            return served.unwrap_or_else(|error| Err(error.into())).map_err(RunError::from);
        }
        () = shutdown => {
            stopping.begin();
            if !drain.is_zero() {
                drain_for(drain, &closing).await;
            }
            tracing::info!(
                grace_ms = grace.as_millis(),
                "shutting down: running and waiting requests may finish"
            );
            Ok(())
        }
    };
    handle.graceful_shutdown(None);
    let ended = tokio::time::timeout(grace, &mut server).await.is_ok();
    // Stops what is still running, which ends its streams. On its own thread: a decode may take long, and all blocking
    // threads may be busy.
    let (closed, closing) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        models.close();
        let _ = closed.send(());
    });
    let _ = tokio::time::timeout(LAST_WORDS, closing).await;
    if !ended {
        tracing::warn!("requests were cancelled: they took longer than server.shutdown_grace_ms");
        let _ = tokio::time::timeout(LAST_WORDS, &mut server).await;
        handle.shutdown();
    }
    upkeep.abort();
    outcome
}

/// Lets requests come for this long, and then stops listening. Ends when those that were on their way through a kept
/// connection are there.
async fn drain_for(time: Duration, closing: &Notify) {
    const ON_THEIR_WAY: Duration = Duration::from_secs(2);
    tracing::info!(
        drain_ms = time.as_millis(),
        "draining: requests are still taken, and /health tells routers to send no more"
    );
    tokio::time::sleep(time).await;
    closing.notify_one();
    tokio::time::sleep(ON_THEIR_WAY).await;
}

/// Logs where to look, and what to try first.
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
    let with_key = match (config.api_keys.is_empty(), config.metrics_need_key) {
        (true, _) => "",
        (false, true) => " (all but the page and /health need the key)",
        (false, false) => " (all but the page, /health and /metrics need the key)",
    };
    tracing::info!(
        "see: {url}/ (the page), {url}/docs (every route and field), {url}/metrics, {url}/health{with_key}"
    );
    tracing::info!("try: curl {url}{route} -H 'content-type: application/json'{key} -d '{body}'");
}
