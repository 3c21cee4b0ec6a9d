//! What a worker evaluates sequences with.

use std::sync::Arc;

use super::adapter::Adapters;
use super::loaded::Model;
use super::token::Token;

/// Why a decode failed; details are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("no room in the KV cache")]
    Full,
    #[error("the decode was aborted")]
    Aborted,
    #[error("the batch was rejected: {0}")]
    Refused(&'static str),
    #[error("llama_decode returned {0}")]
    Failed(i32),
}

impl DecodeError {
    /// Whether a retry may succeed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Full | Self::Aborted)
    }
}

/// One token to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub token: Token,
    /// Its position in the lane.
    pub position: usize,
    pub lane: usize,
    /// Whether its row of logits is requested.
    pub logits: bool,
}

/// The content of a lane, for a lane of another context of the same shape.
pub struct LaneState(pub(crate) Vec<u8>);

/// A llama.cpp context, or a wrapper: tests use one that fails on command.
pub trait Runner {
    /// The model whose logits these are.
    fn model(&self) -> &Arc<Model>;
    /// Sets the adapters of the following decodes.
    fn adapt(&mut self, adapters: &Adapters);
    /// Evaluates the rows with this many threads.
    fn decode(&mut self, rows: &[Row], threads: usize) -> Result<(), DecodeError>;
    /// The logits of a row of the last decode; `None` if not requested.
    fn logits(&self, row: usize) -> Option<&[f32]>;
    /// The embedding of a row of the last decode; `None` if not requested.
    fn embedding(&self, row: usize) -> Option<&[f32]>;
    /// The score of the text in the lane, if the last decode completed one and the model ranks texts.
    fn score(&self, lane: usize) -> Option<f32>;
    /// Drops what the lane holds from this position on. `false`: the model cannot cut there.
    fn cut(&mut self, lane: usize, from: usize) -> bool;
    /// Empties a lane and overwrites its memory: NaN in cells that are merely cut off would still affect later results.
    fn scrub(&mut self, lane: usize);
    /// Replaces the content of one lane by that of another.
    fn copy(&mut self, from: usize, to: usize);
    /// The content of a lane, for another runner of the same model, if it is available.
    fn export(&mut self, lane: usize) -> Option<LaneState>;
    /// Replaces the content of a lane. `false`: that failed, and the lane is empty.
    fn import(&mut self, lane: usize, state: &LaneState) -> bool;
}
