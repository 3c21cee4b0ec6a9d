//! The engine: a [`Request`] becomes a [`Generation`], a stream of [`Delta`]s.
//!
//! A pool of contexts over one model, each on its own thread (`worker`). A sequence waits for a slot (`admission`),
//! goes to that slot's worker, gets a lane there (`cache`), and advances together with all others, a step per round
//! (`schedule`). How prompts are cut and prefixes reused without changing a bit is in `plan`; text and stop strings are in
//! `text`. Embeddings are separate from all that (`embeddings`).

mod adapters_in_use;
mod admission;
mod alive;
mod bits_class;
mod cache;
mod cores;
mod draft;
mod embeddings;
mod error;
mod evaluation;
mod generation;
mod guard;
mod handle;
mod idle;
mod loader;
mod masks;
mod memory;
mod message;
mod models;
mod persist;
mod plan;
mod pool;
mod procfs;
mod queue;
mod request;
mod schedule;
mod score;
mod shape;
mod shared;
mod split;
mod stops;
mod submit;
mod supervisor;
mod tally;
mod text;
mod thread;
mod trial;
mod tune;
mod widths;
mod worker;

pub use cores::free_cores;
pub use embeddings::{EmbeddingBounds, EmbeddingRequest};
pub use error::{EngineError, StartError, UNLOADABLE};
pub use evaluation::Evaluation;
pub use generation::Generation;
pub use guard::ModelInUse;
pub use handle::Engine;
pub use loader::{Machinery, Started};
pub use memory::{available as available_memory, least_kv_cache, total as total_memory};
pub use models::{Described, Models, Status};
pub use queue::FairQueue;
pub use request::{
    Delta, FinishReason, PromptLogprobs, PromptOutput, Report, Request, Rows, TokenDetails,
    TokenOutput,
};
pub use stops::Stops;
pub use tally::Tally;
pub use text::{Completion, Ending, Utf8Decoder};
pub use trial::{
    Order, Outcome, Refused, Trials, Verdict, by_process, run as try_routines, trials, verdict,
};
pub use tune::{Table, kept_classes, tune};
