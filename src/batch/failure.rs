//! Why a batch ended early, for the person at the terminal.

use std::sync::atomic::{AtomicBool, Ordering};

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

impl Failure {
    /// For what is done before anything is sent: fails if a signal has set this.
    pub fn if_interrupted(interrupted: &AtomicBool) -> Result<(), Self> {
        match interrupted.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Self::Interrupted(
                "interrupted before anything was sent".to_owned(),
            )),
        }
    }
}
