//! A worker's thread: it runs the worker, and makes it anew when it is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::StartError;
use super::error::EngineError;
use super::message::Message;
use super::request::Delta;
use super::shared::Shared;
use super::worker::{Ended, Worker};
use crate::metrics;
use crate::model::{Context, ContextShape, Model, Runner, Runners};

/// Between two tries to make what a lost worker ran on.
const PAUSE: Duration = Duration::from_secs(1);

/// All that it takes to make a worker, and to make it anew.
pub struct Supervisor {
    pub number: usize,
    pub model: Arc<Model>,
    pub shape: ContextShape,
    pub runners: Runners,
    pub shared: Arc<Shared>,
    pub mailbox: Receiver<Message>,
}

impl Supervisor {
    /// Runs until it is told to close. `ready` is told how the first start went.
    pub fn run(self, ready: mpsc::Sender<Result<(), StartError>>) {
        // However this thread ends, nobody takes its worker for a living one.
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
            // What the worker held is dropped as it unwinds, and its clients hear of it.
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
            tracing::error!(worker = self.number, "a worker was lost, and is made anew");
            next = self.replace();
            if next.is_some() {
                metrics::worker_restarted();
            }
        }
    }

    /// The context is made on the worker's thread, and stays there.
    fn runner(&self) -> Result<Box<dyn Runner>, StartError> {
        catch_unwind(AssertUnwindSafe(|| {
            let context = Context::new(&self.model, self.shape.clone())?;
            Ok((self.runners)(self.number, context))
        }))
        .unwrap_or(Err(StartError::Panicked))
    }

    /// Tries until there is a new runner; meanwhile whoever comes is refused. `None`: the server closes.
    fn replace(&self) -> Option<Box<dyn Runner>> {
        loop {
            match self.runner() {
                Ok(runner) => return Some(runner),
                Err(error) => {
                    tracing::error!(worker = self.number, %error, "it could not be made anew yet")
                }
            }
            let again = Instant::now() + PAUSE;
            while let Ok(message) = self
                .mailbox
                .recv_timeout(again.saturating_duration_since(Instant::now()))
            {
                match message {
                    Message::Run(job) => {
                        let deltas = job.deltas.clone();
                        drop(job);
                        let _ = deltas.send(Delta::Failed(EngineError::worker_down(self.number)));
                    }
                    // Dropped, which answers it.
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
