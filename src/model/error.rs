//! Why a model could not be loaded.

use super::llama;
use crate::config;

/// Why a model could not be loaded, for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("llama.cpp could not be initialized: {0}")]
    Backend(String),
    #[error("cannot read {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "{path} is damaged or incomplete: {why}. It has {size} bytes. Download or copy it again."
    )]
    Damaged {
        path: String,
        why: &'static str,
        size: u64,
    },
    #[error(
        "llama.cpp could not load {path}; see its own messages above (with CANDOR_LOG=debug, all of them). Is it a complete \
         GGUF file of an architecture that llama.cpp {} supports, and is there enough memory?",
        llama::version()
    )]
    Load { path: String },
    #[error(
        "model.gpu_layers is above 0, but llama.cpp finds no GPU for this build ({}). Check the driver, and this user's \
         permissions for the device, or set it to 0 to use the CPU.",
        config::gpu_back_ends().join(", ")
    )]
    NoGpu,
    #[error(
        "{path} is an encoder-decoder model, like T5, which Candor does not support. Use a decoder like Llama, or for \
         embeddings an encoder like BERT"
    )]
    Encoder { path: String },
    #[error(
        "llama.cpp could not create even the smallest context for {path}. Is the model complete, and is there enough memory?"
    )]
    Context { path: String },
    #[error(
        "model.lora contains {setting:?}: {why}. Allowed: [NAME=]PATH[@SCALE], as in \"adapter.gguf\" or \
         \"pirate=adapters/pirate.gguf@0.5\""
    )]
    AdapterSetting { setting: String, why: &'static str },
    #[error("model.lora contains {given} adapters. Allowed: at most {most}")]
    TooManyAdapters { given: usize, most: usize },
    #[error("the LoRA adapter {path} {why}")]
    Adapter { path: String, why: String },
    #[error(
        "llama.cpp could not load the LoRA adapter {path}. Is the file complete, and is it for this model? \
         (CANDOR_LOG=debug shows llama.cpp's own messages)"
    )]
    AdapterLoad { path: String },
}
