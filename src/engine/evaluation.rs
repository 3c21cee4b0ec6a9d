//! How sequences are evaluated, as receipts record it.

use std::sync::Arc;

use crate::config::{KvType, Mode};
use crate::model::Routines;

/// What the bits of a sequence may depend on, besides weights, adapters, tokens, llama.cpp and the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    pub mode: Mode,
    pub flash_attention: bool,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    /// Tokens per lane.
    pub context_length: usize,
    /// Prompts are always cut at multiples of this.
    pub batch_tokens: usize,
    /// Most prompt tokens of one decode.
    pub prompt_chunk_tokens: usize,
    /// Most rows of logits of one decode when a prompt is scored.
    pub logits_rows: usize,
    pub contexts: usize,
    /// Most sequences that share a decode.
    pub decode_width: usize,
    /// Threads of a decode, where their number changes bits.
    pub threads: Option<usize>,
    pub bits_class: Arc<str>,
    /// Layouts that weights could be put into.
    pub routines: Routines,
}
