//! Finds reasoning and calls of tools in a model's text while it is generated.
//!
//! llama.cpp has a parser for this, too (`common/chat.cpp`). It is not used: the crates do not wrap it, it runs client's
//! templates in its own Jinja within this process, reads the whole text again for each token of a stream, and answers a
//! text that is not as expected with an exception, where here what is not understood stays text.

mod channels;
mod gemma;
mod held;
mod marked;
mod named;
mod object;
mod parameters;
mod part;
mod python;
mod reader;
#[cfg(test)]
mod tests;

pub use part::{Functions, Part};
pub use reader::{Expects, Reader};
