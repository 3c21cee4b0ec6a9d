//! Random ids.

use crate::random;

/// `kind` and 32 random hexadecimal digits. An answer's id must not be guessable: it lets a client fork that answer.
pub fn new_id(kind: &str) -> String {
    format!("{kind}-{:032x}", u128::from_le_bytes(random::bytes()))
}
