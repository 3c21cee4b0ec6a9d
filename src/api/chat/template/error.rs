//! Why a template did not render.

use serde::{Deserialize, Serialize};

/// Why a template did not render, as the rest of a sentence that begins with "the template". For the person who sent the
/// request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum TemplateError {
    /// The template rejects the messages by `raise_exception`.
    #[error("says: {0}")]
    Raised(String),
    #[error("cannot be read: {0}")]
    Syntax(String),
    #[error("took too much time or memory")]
    OutOfFuel,
    #[error("failed: {0}")]
    Failed(String),
    /// `continue_final_message` is impossible.
    #[error("cannot continue the last message: {0}")]
    NotContinued(String),
}
