//! Why a sequence could not run, and why an engine could not start.

use super::memory;
use crate::model::{self, LoadError, source};
use crate::sampling::ConstraintError;

/// Each message is written for the person who sent the request; details go to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// 503, with `Retry-After`.
    #[error("The server is full: {waiting} requests are already waiting. Try again shortly.")]
    QueueFull { waiting: usize },
    /// 503, with `Retry-After`.
    #[error("No slot became free within {waited_ms} ms. Try again shortly.")]
    QueueTimeout { waited_ms: u64 },
    /// 503: the model is not loaded, a worker is down, or the server is shutting down.
    #[error("{0}")]
    Unavailable(String),
    /// 503: the worker ended while it ran the request, perhaps because of it.
    #[error("The worker of this request is down and is being restarted. Try again shortly.")]
    WorkerDown,
    /// 500.
    #[error("The model could not be evaluated.")]
    Decode,
    /// 500: there is no file to hash.
    #[error(
        "The model's file cannot be read any more, or has changed since it was loaded, so its SHA-256 is unknown."
    )]
    FileGone,
    /// 400: the model, as configured, makes no embeddings.
    #[error("{0}")]
    NoEmbeddings(&'static str),
    /// 400: the model, as configured, is no reranker.
    #[error(
        "This model does not rank texts: that takes a reranker, whose metadata specifies the pooling type `rank`."
    )]
    NoRanking,
    /// 400: an embedding model.
    #[error("This model only makes embeddings (POST /v1/embeddings); it cannot generate text.")]
    OnlyEmbeddings,
    /// 400: a reranker.
    #[error("This model ranks texts (POST /v1/rerank); it cannot generate text.")]
    OnlyRanking,
    /// 400: most likely the scales are too large.
    #[error(
        "The model's numbers overflow with the adapters of `lora` at these scales. Try smaller scales."
    )]
    Overflow,
    /// 400: it only showed while the text was generated.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl EngineError {
    /// For requests that a worker which is down has not begun.
    pub fn worker_down(worker: usize) -> Self {
        Self::Unavailable(format!(
            "Worker {worker} is down and is being restarted. Try again shortly."
        ))
    }

    pub fn closing() -> Self {
        Self::Unavailable("The server is shutting down.".to_owned())
    }

    pub fn still_loading() -> Self {
        Self::Unavailable("The model is still loading.".to_owned())
    }
}

/// Why an engine could not start; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Source(#[from] source::SourceError),
    #[error(transparent)]
    Load(#[from] model::LoadError),
    #[error(transparent)]
    Context(#[from] model::ContextError),
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    #[error("a decode failed while measuring: {0}")]
    Decode(#[from] model::DecodeError),
    #[error("this model only makes embeddings: there is no generation to measure")]
    OnlyEmbeddings,
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("the start of the engine panicked; see the log")]
    Panicked,
}

/// The reason that does not pass by itself.
pub const UNLOADABLE: &str = "its file is damaged, or of a kind that is not supported";

impl StartError {
    /// The reason that clients may see: it names no paths.
    pub fn public_reason(&self) -> &'static str {
        match self {
            Self::Source(_) => "its file could not be fetched or found",
            Self::Load(LoadError::Damaged { .. } | LoadError::Encoder { .. }) => UNLOADABLE,
            // llama.cpp does not say why; there may have been too little memory.
            Self::Load(LoadError::Load { .. }) => "llama.cpp could not load its file",
            Self::Load(LoadError::NoGpu) => "no GPU was found for it",
            Self::Load(_) => "it could not be loaded with these settings on this machine",
            Self::Context(_) | Self::Memory(_) => "there was not enough memory for it",
            Self::Thread(_) | Self::Panicked | Self::OnlyEmbeddings | Self::Decode(_) => {
                "internal server error"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_pass_is_unloadable() {
        let path = || "secret.gguf".to_owned();
        let damaged = LoadError::Damaged {
            path: path(),
            why: "it is cut off",
            size: 1,
        };
        for never in [damaged, LoadError::Encoder { path: path() }] {
            assert_eq!(StartError::Load(never).public_reason(), UNLOADABLE);
        }
        let read = LoadError::Read {
            path: path(),
            source: std::io::Error::other("stale"),
        };
        let load = LoadError::Load { path: path() };
        let context = LoadError::Context { path: path() };
        for later in [read, load, context, LoadError::NoGpu] {
            let reason = StartError::Load(later).public_reason();
            assert!(
                !reason.contains(UNLOADABLE) && !reason.contains("secret"),
                "{reason}"
            );
        }
    }
}
