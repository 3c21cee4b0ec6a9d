//! What happens to a leased lane, up to its release.

use std::sync::Arc;

use super::cells::Cells;
use super::holding::{CachedOutput, CachedPrefix};
use super::lane::Lane;
use super::state::Cache;
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::Token;

/// Prompt cells that were evaluated.
pub struct Evaluated {
    /// Tokens of the prompt that are evaluated now.
    pub end: usize,
    /// One for each token that a new row with logits predicts, if the prompt is scored. They contain what
    /// [`Cache::score_spec`] says.
    pub scores: Vec<Arc<TokenLogprob>>,
    /// Whether the decode had the bits of an exact one.
    pub exact: bool,
    /// After the whole prompt: the row of logits that predicts what follows.
    pub last_row: Option<Arc<[f32]>>,
}

impl<C: Cells> Cache<C> {
    /// What the scores of a lane's tokens contain, including those of the prompt being evaluated.
    pub fn score_spec(&self, lane: usize) -> &LogprobSpec {
        &self.lanes[lane].prefix.holding().score_spec
    }

    /// Prompt cells of a leased lane are evaluated.
    pub fn commit(&mut self, lane: usize, evaluated: Evaluated) {
        let Lane {
            prefix,
            lease: Some(lease),
            maybe_nan,
            ..
        } = &mut self.lanes[lane]
        else {
            return;
        };
        let Evaluated {
            end,
            scores,
            exact,
            last_row,
        } = evaluated;
        self.evaluated += end - lease.evaluated;
        lease.evaluated = end;
        lease.got_on = self.evaluated;
        let exact = prefix.extend(end.min(lease.shareable), scores, exact);
        if let Some(row) = last_row {
            prefix.complete(lease.scored, row, exact);
            // The row depends on all cells, and was checked.
            *maybe_nan = false;
            lease.promise.take_if(|promise| promise.generated.len() < 2);
        }
        // What was late and gets on is waited for again.
        self.publish(lane);
    }

    /// What a complete prompt is answered from.
    pub fn output(&self, lane: usize) -> Option<&CachedOutput> {
        self.lanes[lane].prefix.output()
    }

    /// A token after the prompt is evaluated. In throughput mode, [`Cache::release`] takes these instead.
    pub fn push_generated(&mut self, lane: usize, token: Token, exact: bool) {
        if self.rules.reuses_generated {
            return;
        }
        let Lane { prefix, lease, .. } = &mut self.lanes[lane];
        prefix.push_generated(token, exact);
        let generated = prefix.holding().generated.len();
        if let Some(lease) = lease {
            lease
                .promise
                .take_if(|promise| promise.generated.len() <= generated + 1);
        }
    }

    /// A decode failed or returned invalid numbers: what the leased lane holds is unknown.
    pub fn abandon(&mut self, lane: usize) {
        self.cells.cut(lane, 0);
        let state = &mut self.lanes[lane];
        state.prefix = CachedPrefix::default();
        if let Some(lease) = &mut state.lease {
            lease.evaluated = 0;
            lease.promise = None;
            state.maybe_nan |= !lease.adapters.is_empty();
        }
    }

    /// Evicts what a free lane holds.
    pub fn evict(&mut self, lane: usize) {
        debug_assert!(self.is_free(lane));
        self.cells.cut(lane, 0);
        self.lanes[lane].prefix = CachedPrefix::default();
        self.publish(lane);
    }

    /// The lane's sequence has ended; its cells stay as cache. `generated`: the tokens evaluated after its complete prompt,
    /// which any prompt may reuse in throughput mode.
    pub fn release(&mut self, lane: usize, generated: Option<&[Token]>) {
        let last_use = self.tick();
        let state = &mut self.lanes[lane];
        state.lease = None;
        state.last_use = last_use;
        if let Some(generated) = generated.filter(|_| self.rules.reuses_generated) {
            state.prefix.extend_with_generated(generated);
        }
        // Then no cells are filled but the known ones, which `padding_position` relies on.
        let cells = state.prefix.holding().cells();
        self.cells.cut(lane, cells);
        self.publish(lane);
    }
}
