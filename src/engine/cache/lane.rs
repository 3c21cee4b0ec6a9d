//! A lane of the cache, and the sequence that leases it.

use std::sync::Arc;

use super::holding::{CachedPrefix, Holding};
use crate::engine::plan::PrefixKey;
use crate::model::{Adapters, Token};

/// What is known of a lane.
#[derive(Debug, Default)]
pub struct Lane {
    pub prefix: CachedPrefix,
    /// Present while a sequence runs in it.
    pub lease: Option<Lease>,
    /// When it was last released.
    pub last_use: u64,
    /// Whether its cells may hold NaN: see [`super::Cache::mark_maybe_nan`].
    pub maybe_nan: bool,
}

/// The lease of a lane by a sequence.
#[derive(Debug)]
pub struct Lease {
    pub sequence: u64,
    pub prompt: Arc<[Token]>,
    pub adapters: Adapters,
    pub scored: bool,
    /// Cells of the prompt that others may reuse.
    pub shareable: usize,
    /// Tokens of the prompt that are evaluated.
    pub evaluated: usize,
    /// How many prompt cells the cache had evaluated, of all sequences, when this one last got on.
    pub got_on: usize,
    /// What the lane will hold after the prompt and the forced prefix; `None` once it does.
    pub promise: Option<Holding>,
}

impl Lease {
    pub fn evaluates_prompt(&self) -> bool {
        self.evaluated < self.prompt.len()
    }

    pub fn prompt(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }
}
