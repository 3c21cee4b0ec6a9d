//! A worker's thread: runs the worker, and restarts it when it dies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::error::{EngineError, StartError};
use super::message::Message;
use super::request::Delta;
use super::shared::Shared;
use super::worker::{Ended, Worker};
use crate::metrics;
use crate::model::{Context, ContextShape, Model, Runner, Runners};

/// Between two attempts to restart a worker.
const PAUSE: Duration = Duration::from_secs(1);

/// Everything needed to start a worker, and to restart it.
pub struct Supervisor {
    pub number: usize,
    pub model: Arc<Model>,
    pub shape: ContextShape,
    pub runners: Runners,
    pub shared: Arc<Shared>,
    pub mailbox: Receiver<Message>,
}

impl Supervisor {
    /// Runs until [`Message::Close`]. `ready` gets the outcome of the first start.
    pub fn run(self, ready: mpsc::Sender<Result<(), StartError>>) {
        // However this thread ends, its worker does not count as alive afterwards.
        let _down = Down(&self);
        let mut next = match self.runner() {
            Ok(runner) => {
                let _ = ready.send(Ok(()));
                Some(runner)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                None
            }
        };
        drop(ready);
        while let Some(runner) = next {
            self.shared.alive.set(self.number, true);
            // Unwinding drops what the worker held, and its clients get an error.
            let ended = catch_unwind(AssertUnwindSafe(|| {
                Worker::new(
                    self.number,
                    runner,
                    self.shape.lanes,
                    &self.shared,
                    &self.mailbox,
                )
                .run()
            }));
            if matches!(ended, Ok(Ended::Closed)) {
                return;
            }
            self.shared.alive.set(self.number, false);
            self.shared.directory.forget(self.number);
            tracing::error!(worker = self.number, "a worker died and is being restarted");
            next = self.restart();
            if next.is_some() {
                metrics::worker_restarted();
            }
        }
    }

    /// The context is created on the worker's thread, and stays there.
    fn runner(&self) -> Result<Box<dyn Runner>, StartError> {
        catch_unwind(AssertUnwindSafe(|| {
            let context = Context::new(&self.model, self.shape.clone())?;
            Ok((self.runners)(self.number, context))
        }))
        .unwrap_or(Err(StartError::Panicked))
    }

    /// Retries until there is a new runner, and rejects requests meanwhile. `None`: the server closes.
    fn restart(&self) -> Option<Box<dyn Runner>> {
        loop {
            match self.runner() {
                Ok(runner) => return Some(runner),
                Err(error) => {
                    tracing::error!(worker = self.number, %error, "cannot restart a worker yet")
                }
            }
            let retry_at = Instant::now() + PAUSE;
            while let Ok(message) = self
                .mailbox
                .recv_timeout(retry_at.saturating_duration_since(Instant::now()))
            {
                match message {
                    Message::Run(job) => {
                        let deltas = job.deltas.clone();
                        drop(job);
                        let _ = deltas.send(Delta::Failed(EngineError::worker_down(self.number)));
                    }
                    // Dropping it is the answer.
                    Message::Fetch(_) | Message::Transfer { .. } | Message::MaskReady => {}
                    Message::Close => return None,
                }
            }
        }
    }
}

struct Down<'a>(&'a Supervisor);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.0.shared.alive.set(self.0.number, false);
    }
}
