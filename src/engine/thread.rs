//! Threads that call llama.cpp.

use std::thread::{Builder, JoinHandle};

use super::error::StartError;

/// As large as the stack of a main thread, on which llama.cpp usually runs.
const STACK_BYTES: usize = 8 << 20;

pub fn spawn(
    name: impl Into<String>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(StartError::Thread)
}
