//! Shapes of llama.cpp contexts, as the settings have them.

use crate::config;
use crate::model::{ContextShape, Output};

pub fn context_shape(
    settings: &config::Engine,
    lanes: usize,
    lane_tokens: usize,
    batch_rows: usize,
    logits_rows: usize,
) -> ContextShape {
    ContextShape {
        lanes,
        lane_tokens,
        batch_rows,
        logits_rows,
        output: Output::Logits,
        flash_attention: settings.flash_attention,
        kv_type_k: settings.kv_type_k,
        kv_type_v: settings.kv_type_v,
    }
}

/// The default for rows of logits per decode: as many as fit a fixed amount of memory twice, because llama.cpp computes
/// them in one buffer and returns them in another.
pub fn default_logits_rows(vocab: usize) -> usize {
    const MEMORY_BYTES: usize = 64 << 20;
    let row_bytes = 2 * vocab * size_of::<f32>();
    // Prompts are cut in groups of eight rows.
    (MEMORY_BYTES / row_bytes / 8 * 8).clamp(16, 64)
}
