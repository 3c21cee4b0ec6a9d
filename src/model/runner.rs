//! What a worker runs sequences on.

use std::sync::Arc;

use super::{Adapters, Context, DecodeError, LaneState, Model, Row};

/// A [`Context`], or whatever stands around one: tests put one here that fails on command.
pub trait Runner {
    /// The model whose logits these are.
    fn model(&self) -> &Arc<Model>;
    /// The adapters that apply to the decodes that follow.
    fn adapt(&mut self, adapters: &Adapters);
    /// Evaluates the rows with this many threads.
    fn decode(&mut self, rows: &[Row], threads: usize) -> Result<(), DecodeError>;
    /// The logits of a row of the last decode; `None` if none were asked for.
    fn logits(&self, row: usize) -> Option<&[f32]>;
    /// What the model made of a row of the last decode; `None` if it was not asked for.
    fn embedding(&self, row: usize) -> Option<&[f32]>;
    /// Forgets what the lane holds from this position on. `false`: the model cannot cut there.
    fn cut(&mut self, lane: usize, from: usize) -> bool;
    /// Empties a lane and overwrites its memory: NaN in cells that are only cut would still reach what is computed later.
    fn scrub(&mut self, lane: usize);
    /// Replaces what one lane holds by all that another holds.
    fn copy(&mut self, from: usize, to: usize);
    /// All that the lane holds, for another runner over the same model, if it can be had now.
    fn export(&mut self, lane: usize) -> Option<LaneState>;
    /// Replaces what the lane holds. `false`: it did not fit, and the lane is empty now.
    fn import(&mut self, lane: usize, state: &LaneState) -> bool;
}

/// Makes what a worker, by its number, runs on from the context it is given. Called again when a worker is made anew.
/// What makes embeddings has the number after the last worker's.
pub type Runners = Arc<dyn Fn(usize, Context) -> Box<dyn Runner> + Send + Sync>;

/// The contexts themselves.
pub fn contexts() -> Runners {
    Arc::new(|_, context| Box::new(context))
}
