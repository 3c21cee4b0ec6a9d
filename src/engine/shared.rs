//! What the workers of a model share.

pub use super::worker::Shared;
