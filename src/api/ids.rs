//! Random ids.

use std::hash::{BuildHasher, Hasher, RandomState};

/// `kind` and 32 random hexadecimal digits. An answer's id must not be guessable: it lets a client fork that answer.
pub fn new_id(kind: &str) -> String {
    let mut bytes = [0; 16];
    let secret = rustls::crypto::ring::default_provider().secure_random;
    if secret.fill(&mut bytes).is_err() {
        tracing::warn!("the operating system has no random numbers");
        bytes[..8].copy_from_slice(&random().to_le_bytes());
        bytes[8..].copy_from_slice(&random().to_le_bytes());
    }
    format!("{kind}-{:032x}", u128::from_le_bytes(bytes))
}

/// A random number, not for secrets: the standard library seeds each hasher randomly.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
