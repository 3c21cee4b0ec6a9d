//! What every engine of constraints implements.

use super::error::ConstraintError;
use crate::model::Token;

/// Checked rules.
pub trait Rules: Send + Sync {
    /// Starts a text.
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError>;
}

/// A text so far, and what may come next.
pub trait Follow: Send {
    /// For each token, whether it may come next. A repeated call returns at once.
    fn allowed(&mut self) -> Result<&[bool], ConstraintError>;
    /// Appends an allowed token.
    fn accept(&mut self, token: Token) -> Result<(), ConstraintError>;
}
