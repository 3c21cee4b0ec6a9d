//! The model: text ⇄ tokens, and tokens → rows of logits. The only module that knows llama.cpp's handles, which of them
//! are bound to a thread, and where weights come from.
//!
//! | file | holds |
//! |---|---|
//! | [`source`] | downloads, and the file that a setting means |
//! | [`gguf`], [`heads`], [`files`], [`fingerprint`] | a model's files, before and after it is loaded |
//! | [`loaded`] | [`Model`]: weights, vocabulary and adapters |
//! | [`vocab`], [`names`], [`marked_text`] | the vocabulary, control tokens in texts, and texts where they are marked |
//! | [`adapter`] | LoRA adapters |
//! | [`runner`], [`context`] | what evaluates tokens: a trait, and llama.cpp's context |
//! | [`llama`], [`backend`], `cpu_libraries` | other calls of llama.cpp |
//! | [`routines`], [`specimen`] | llama.cpp's CPU routines, and a small model to try them on |
//! | [`huge_pages`], [`simd`] | memory and instructions of this machine |

mod adapter;
mod backend;
mod context;
#[cfg(any(feature = "portable", test))]
mod cpu_libraries;
mod error;
mod files;
mod fingerprint;
mod gguf;
mod heads;
mod hex;
mod huge_pages;
mod llama;
mod loaded;
mod marked_text;
mod names;
mod pooling;
mod routines;
mod runner;
mod simd;
pub mod source;
mod specimen;
mod token;
mod vocab;

pub use adapter::{Adapter, Adapters, LARGEST_SCALE, adapter_names};
pub use backend::{Device, devices, kinds_named, llama_cpp_version, system_info};
pub use context::{
    Context, ContextError, ContextShape, Output, Runners, contexts, most_exported, spare_lanes,
};
pub use error::LoadError;
pub use files::{FileHash, hash_files};
pub use heads::Heads;
pub use hex::hex;
pub use llama::kinds;
pub use loaded::{Facts, Model};
pub use marked_text::{MarkedText, UnusedMark};
pub use pooling::{NamedPooling, Pooling};
pub use routines::{Placement, Placements, Routines, has_feature, instructions};
pub use runner::{DecodeError, LaneState, Row, Runner};
pub use simd::{Loop, vectorised};
pub use specimen::write as write_specimen;
pub use token::Token;
pub use vocab::{Added, Fim, Sorted, Vocab};
