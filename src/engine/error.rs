//! Why a sequence could not be run.

use crate::sampling::ConstraintError;

/// Each variant is written for the person who sent the request; details go to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// 503, with `Retry-After`.
    #[error("The server is full: {waiting} requests are waiting already. Try again shortly.")]
    QueueFull { waiting: usize },
    /// 503, with `Retry-After`.
    #[error("No place became free within {waited_ms} ms. Try again shortly.")]
    QueueTimeout { waited_ms: u64 },
    /// 503: the model is not loaded, a worker is down, or the server is shutting down.
    #[error("{0}")]
    Unavailable(String),
    /// 500.
    #[error("The model could not be evaluated.")]
    Decode,
    /// 500: there is nothing to be hashed.
    #[error(
        "The model's file cannot be read any more, or is another than the one that was loaded: what its SHA-256 was is not known."
    )]
    FileGone,
    /// 400: the model, as it is set up, makes no embeddings.
    #[error("{0}")]
    NoEmbeddings(&'static str),
    /// 400: the model is made for embeddings.
    #[error("This model makes embeddings only (POST /v1/embeddings): it cannot continue a text.")]
    OnlyEmbeddings,
    /// 400: it is a matter of the scales, most likely.
    #[error(
        "The model's numbers overflow under the adapters of `lora` at these scales; smaller ones may do."
    )]
    Overflow,
    /// 400: only as the text grew did it show.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl EngineError {
    /// Said to those whose worker was lost.
    pub fn worker_down(worker: usize) -> Self {
        Self::Unavailable(format!(
            "Worker {worker} is down, and is being started again. Try again shortly."
        ))
    }

    /// Said to those who come too late.
    pub fn closing() -> Self {
        Self::Unavailable("The server is shutting down.".to_owned())
    }
}
