//! Evaluating rows. The cache owns the runner, so that no other module can touch its cells.

use super::cells::Cells;
use super::lane::Lane;
use super::state::Cache;
use crate::metrics;
use crate::model::{Adapters, DecodeError, Model, Row};

impl Cache {
    pub fn model(&self) -> &Model {
        self.cells.model()
    }

    /// Evaluates rows under these adapters, and retries once if that may help.
    pub fn decode(
        &mut self,
        rows: &[Row],
        adapters: &Adapters,
        threads: usize,
    ) -> Result<(), DecodeError> {
        let outcome = self.try_decode(rows, adapters, threads);
        if !outcome.is_err_and(DecodeError::may_pass) {
            return outcome;
        }
        // Drops the cells that the first attempt filled.
        for lane_rows in rows.chunk_by(|row, next| row.lane == next.lane) {
            let first = &lane_rows[0];
            self.cut(first.lane, first.position);
        }
        self.try_decode(rows, adapters, threads)
    }

    fn try_decode(
        &mut self,
        rows: &[Row],
        adapters: &Adapters,
        threads: usize,
    ) -> Result<(), DecodeError> {
        self.cells.adapt(adapters);
        let outcome = self.cells.decode(rows, threads);
        metrics::decoded(outcome.is_ok());
        outcome
    }

    /// The logits of a row of the last decode; `None` if none were asked for.
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        self.cells.logits(row)
    }
}

impl<C: Cells> Cache<C> {
    /// Drops cells from this position on that are not needed: of drafts, of padding, of rows that failed.
    pub fn cut(&mut self, lane: usize, from: usize) {
        self.cells.cut(lane, from);
    }

    /// Cells of this lane may hold NaN: rows were evaluated under adapters, which at a large scale can make numbers
    /// overflow, and their logits have not been looked at.
    pub fn mark_maybe_nan(&mut self, lane: usize) {
        self.lanes[lane].maybe_nan = true;
    }

    /// The first empty position of a lane, if the lane can take a token there and drop it again. A lane whose sequence
    /// generates can where the cache knows all its cells: not in throughput mode.
    pub fn padding_position(&self, lane: usize) -> Option<usize> {
        let Lane { prefix, lease, .. } = &self.lanes[lane];
        let position = match lease {
            Some(lease) if lease.evaluates_prompt() => lease.evaluated,
            Some(_) if self.rules.reuses_generated => return None,
            _ => prefix.holding().cells(),
        };
        (self.cells.can_cut() && position < self.rules.lane_tokens).then_some(position)
    }

    /// Whether no sequence runs in this lane.
    pub fn is_free(&self, lane: usize) -> bool {
        self.lanes[lane].lease.is_none()
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }
}
