//! A server of this process, for a batch without `--url`. It is asked over HTTP like any other.

use std::sync::mpsc::{Receiver, channel};

use tokio::runtime::Runtime;

use super::failure::Failure;
use crate::config::Config;

/// A server on a free port of this machine, which ends with the process.
pub struct Engine {
    pub url: String,
    /// Gets the reason if it ends.
    ended: Receiver<String>,
    runtime: Option<Runtime>,
}

impl Engine {
    /// Begins to load the model.
    pub fn start(mut config: Config) -> Result<Self, Failure> {
        let server = &mut config.server;
        server.api_keys.clear();
        server.api_keys_file.clear();
        server.tls_certificate.clear();
        server.tls_key.clear();
        let limits = &mut config.limits;
        limits.requests_per_address = 0;
        limits.connections_per_address = 0;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Refused(format!("The engine could not be started: {error}"))
        };
        let runtime = Runtime::new().map_err(|error| failed(&error))?;
        let listener = runtime.block_on(crate::listen("127.0.0.1", 0));
        let listener = listener.map_err(|error| failed(&error))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        let (sender, ended) = channel();
        runtime.spawn(async move {
            let never = std::future::pending();
            let why = match crate::run(config, listener, never).await {
                Ok(()) => "it ended".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = sender.send(why);
        });
        Ok(Self {
            url: format!("http://{address}"),
            ended,
            runtime: Some(runtime),
        })
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.ended.try_recv().ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Whatever it still does is no longer needed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
