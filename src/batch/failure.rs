//! Why a batch ended early, for the person at the terminal.

/// What was done until then is in the output.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The files or servers do not fit. Nothing was sent.
    #[error("{0}")]
    Refused(String),
    /// It could not go on.
    #[error("{0}")]
    Stopped(String),
    /// A signal asked it to stop.
    #[error("{0}")]
    Interrupted(String),
}
