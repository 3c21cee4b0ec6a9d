//! Limits of the routes that tokenise without evaluation.

use crate::api::error::ApiError;

/// The most bytes of a text: the time to tokenise it is not always linear.
pub const TEXT_BYTES: usize = 1 << 20;

pub fn check_length(text: &str, param: &str) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::field(
        param,
        format!(
            "`{param}` must have at most {TEXT_BYTES} bytes of text here, but it has {}.",
            text.len()
        ),
    ))
}
