//! The receiving end of a running sequence.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::error::EngineError;
use super::guard::ModelGuard;
use super::request::Delta;

/// A running sequence: a stream that ends with [`Delta::Finished`] or [`Delta::Failed`]. Dropping it stops the
/// sequence.
#[derive(Debug)]
pub struct Generation {
    deltas: UnboundedReceiver<Delta>,
    is_over: bool,
    /// Its model stays loaded.
    _guard: Option<Arc<ModelGuard>>,
}

impl Generation {
    pub fn new(guard: Option<Arc<ModelGuard>>) -> (UnboundedSender<Delta>, Self) {
        let (sender, deltas) = unbounded_channel();
        (
            sender,
            Self {
                deltas,
                is_over: false,
                _guard: guard,
            },
        )
    }
}

impl Stream for Generation {
    type Item = Delta;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Delta>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.deltas.poll_recv(task).map(|delta| {
            // A worker that died closes the channel.
            let delta = delta.unwrap_or(Delta::Failed(EngineError::WorkerDown));
            self.is_over = matches!(delta, Delta::Finished(_) | Delta::Failed(_));
            Some(delta)
        })
    }
}
