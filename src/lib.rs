//! Candor: an OpenAI-compatible completion server whose log-probabilities can be trusted.

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
        match started.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
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
    match serving {
        Ok(Ok(served)) => served?,
        Ok(Err(_)) | Err(_) => {}
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
