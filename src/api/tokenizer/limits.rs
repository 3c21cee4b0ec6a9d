//! Limits of the routes that tokenize without evaluation.

use crate::api::error::ApiError;

/// Maximum number of bytes of a text: the time to tokenize it is not always linear.
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
