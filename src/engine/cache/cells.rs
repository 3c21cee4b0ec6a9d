//! What the cache asks of a context.

use crate::model::{LaneState, Runner};

/// The cells of a context, lane by lane. Tests implement it without llama.cpp.
pub trait Cells {
    /// Whether a lane's last cells can be dropped alone.
    fn can_cut(&self) -> bool;
    /// See [`Runner::cut`].
    fn cut(&mut self, lane: usize, from: usize) -> bool;
    /// See [`Runner::scrub`].
    fn scrub(&mut self, lane: usize);
    /// See [`Runner::copy`].
    fn copy(&mut self, from: usize, to: usize);
    /// See [`Runner::export`].
    fn export(&mut self, lane: usize) -> Option<LaneState>;
    /// See [`Runner::import`].
    fn import(&mut self, lane: usize, state: &LaneState) -> bool;
}

impl Cells for Box<dyn Runner> {
    fn can_cut(&self) -> bool {
        self.model().can_cut()
    }
    fn cut(&mut self, lane: usize, from: usize) -> bool {
        (**self).cut(lane, from)
    }
    fn scrub(&mut self, lane: usize) {
        (**self).scrub(lane);
    }
    fn copy(&mut self, from: usize, to: usize) {
        (**self).copy(from, to);
    }
    fn export(&mut self, lane: usize) -> Option<LaneState> {
        (**self).export(lane)
    }
    fn import(&mut self, lane: usize, state: &LaneState) -> bool {
        (**self).import(lane, state)
    }
}
