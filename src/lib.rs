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
//! | [`sampling`] | a row of logits, its likeliest tokens and [`sampling::SamplingParams`] | a token | samplers, grammars |
//! | [`engine`] | a [`engine::Request`] | a [`engine::Generation`], a stream of [`engine::Delta`]s | threads, channels, permits, lanes, the cache, time |
//! | [`api`] | JSON | JSON or SSE | axum, OpenAI's field names |
//!
//! `main` parses and runs; [`run`] wires, so that a test can start the real server on port 0.
//!
//! # The life of a request
//!
//! 1. `api::body` reads a JSON object; `api::completions::request` checks each field against the contract.
//! 2. `api::completions::prompt` makes tokens of the prompt; the handler makes one [`engine::Request`] for each choice.
//! 3. [`engine::Engine::submit`] waits for a place (`engine::places`): a permit and a worker with room.
//! 4. The worker (`engine::worker`) gives the sequence a lane, with the cells that another lane already has
//!    (`engine::lanes`), evaluates the rest of the prompt in chunks (`engine::plan`), and then one token a round with
//!    everyone else (`engine::schedule`). How many sequences share a decode, and how many contexts there are, was
//!    measured (`engine::tune`); how many threads a decode gets depends on who else wants the cores (`engine::cores`).
//! 5. Each row of logits is reduced by [`logprobs`] (`engine::score` for the rows of a prompt) and drawn from by
//!    [`sampling`]; `engine::text` finds characters, offsets and stop strings.
//! 6. Deltas go back over a channel; `api::completions::answer` or `stream` writes them.
//! 7. Whoever drops the [`engine::Generation`] stops the sequence within one decode; its lane stays as cache.
//!
//! # What holds
//!
//! - In exact mode a sequence's bits do not depend on its neighbours or on the cache: a lane of its own, decodes that are
//!   shared only at widths where every bit was found equal, prompts cut into decodes at multiples of eight rows, and
//!   only cells reused that came from evaluating a prompt.
//! - No id reaches llama.cpp unchecked, and no grammar that it would not survive.
//! - No buffer of context × vocabulary exists: rows of logits are reduced as soon as they are computed.
//! - Unsafe code stands in `model::context` and `model::huge_pages` alone.

pub mod api;
pub mod config;
pub mod engine;
pub mod logprobs;
pub mod model;
pub mod sampling;

use std::future::Future;
use std::sync::Arc;

/// Why the server ended on its own; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] Arc<engine::StartError>),
    #[error("the server could not go on listening: {0}")]
    Serve(#[from] std::io::Error),
}

/// Serves on the listener until `shutdown` completes, then lets running answers end for a while. The server answers at
/// once; the model is loaded meanwhile.
pub async fn run(
    config: config::Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    /// Long enough for a short answer, short enough for a person who waits.
    const GRACE: std::time::Duration = std::time::Duration::from_secs(3);
    let address = listener.local_addr()?;
    let (engine, mut started) = engine::Engine::start(&config);
    let app = api::app(api::AppState::new(engine.clone(), Arc::new(config)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut graceful = stopped.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = graceful.wait_for(|&stop| stop).await;
    });
    let server = tokio::spawn(server.into_future());
    let loaded = async {
        match started
            .wait_for(Option::is_some)
            .await
            .map(|outcome| outcome.clone())
        {
            Ok(Some(Err(error))) => Err(RunError::from(error)),
            _ => {
                announce(address);
                // From here on only `shutdown` ends it.
                std::future::pending().await
            }
        }
    };
    let outcome = tokio::select! {
        outcome = loaded => outcome,
        () = shutdown => Ok(()),
    };
    tracing::info!("shutting down");
    let _ = stop.send(true);
    let serving = tokio::time::timeout(GRACE, server).await;
    // Ends what still runs, and with it the streams that wait for it.
    let _ = tokio::task::spawn_blocking(move || engine.close()).await;
    if let Ok(Ok(served)) = serving {
        served?;
    }
    outcome
}

/// Tells the person at the terminal what to try first.
fn announce(address: std::net::SocketAddr) {
    tracing::info!("ready: http://{address}");
    tracing::info!(
        "try: curl http://{address}/v1/completions -H 'content-type: application/json' -d \
         '{{\"prompt\": \"The capital of Michigan is \", \"max_tokens\": 8, \"temperature\": 0, \"logprobs\": 3}}'"
    );
}
