//! Embeddings: one vector per text; or of a reranker, one score per pair of texts. They are evaluated in their own context, on its own thread, and touch neither
//! the lanes nor the cache of generation.
//!
//! Texts are evaluated one at a time, alone in their decodes, so a vector does not depend on other requests. Requests
//! queue as they do for generation: clients take turns, and a request takes a slot for each of its texts.

mod evaluator;
mod handle;
mod pooling;

pub use handle::{EmbeddingBounds, EmbeddingRequest, Embeddings};
