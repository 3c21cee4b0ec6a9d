//! What the server and the child process of a trial exchange.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::KvType;
use crate::model::Routines;

/// What a child process is to try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub routines: Routines,
    pub flash_attention: bool,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    /// A small model with weights of the types to try.
    pub specimen: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The routines agree with the plain ones, up to rounding. The hash of all bits of the results.
    Fine(String),
    /// They do not agree, or the process was killed. Completes the sentence "the routine …".
    Bad(String),
    /// The trial failed for a reason unrelated to the routines.
    Untried(String),
}
