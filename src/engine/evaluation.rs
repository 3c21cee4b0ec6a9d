//! How sequences are evaluated, so that it can be reproduced.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{KvType, Mode};
use crate::model::Routines;

/// How a sequence is evaluated: what its bits may depend on besides weights, adapters, tokens, llama.cpp and the machine.
/// Part of receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// The name of everything that decides how numbers are rounded; empty in receipts of older versions.
    #[serde(default)]
    pub bits_class: String,
    /// Layouts that weights could be put into; null in receipts of older versions.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub routines: Option<Routines>,
    /// "exact", "invariant" or "throughput"; "exact", too, if the request asked for it.
    #[schema(value_type = String)]
    pub mode: Mode,
    pub flash_attention: bool,
    /// Number format of the cached keys.
    #[schema(value_type = String)]
    pub kv_type_k: KvType,
    /// Number format of the cached values.
    #[schema(value_type = String)]
    pub kv_type_v: KvType,
    /// Maximum number of tokens of a sequence.
    pub context_length: usize,
    /// Prompts are always cut at multiples of this.
    pub batch_tokens: usize,
    /// Maximum number of prompt tokens in one decode.
    pub prompt_chunk_tokens: usize,
    /// Maximum number of rows of logits in one decode, where a prompt is scored.
    pub logits_rows: usize,
    /// llama.cpp contexts.
    pub contexts: usize,
    /// Maximum number of sequences whose tokens share a decode.
    pub decode_width: usize,
    /// Each decode of generated tokens has at least this many rows; 1 in receipts of older versions.
    #[serde(default = "one")]
    pub least_width: usize,
    /// Threads of a decode, where their number changes bits (with flash attention); else null.
    pub threads: Option<usize>,
}

fn one() -> usize {
    1
}
