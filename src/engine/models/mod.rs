//! The served models, by name. Each has an engine of its own, which starts with the server or on first use, and is
//! closed when it has been idle for a while or to make room for another.
//!
//! An engine's handle, its `ModelInUse` and each generation hold a guard that keeps the model loaded. When
//! the last guard is dropped the model is idle. Requests for a model that is not loaded wait here, bounded in time and
//! number like those that wait for a slot. To load another, the least recently used idle model is unloaded; if all are
//! busy, one of them takes no new requests, so that none waits forever. Models are loaded in the order in which they were
//! first requested.

mod handle;
mod registry;
mod state;

pub use handle::Models;
pub use state::{Described, Status};
