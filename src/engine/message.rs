//! What is sent to a worker.

pub use super::worker::{Job, Message};
