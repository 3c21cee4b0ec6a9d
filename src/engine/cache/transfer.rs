//! Cells that go from one context to another.

use std::sync::Arc;

use super::cells::Cells;
use super::holding::CachedPrefix;
use super::policy::{self, Placement, WORTH_FETCHING};
use super::{Cache, Lane};
use crate::engine::plan::PrefixKey;
use crate::model::{Adapters, LaneState, Token};

type Reply = Box<dyn FnOnce(Option<KvTransfer>) + Send>;

/// A request for a lane of another worker. It is answered as soon as the lane holds what is asked for, or when it is clear
/// that it never will.
pub struct KvFetch {
    lane: usize,
    cells: usize,
    prompt: Arc<[Token]>,
    adapters: Adapters,
    reply: Option<Reply>,
}

/// A lane's cells, and what is known of them.
pub struct KvTransfer {
    prefix: CachedPrefix,
    /// As of the lane that it comes from.
    maybe_nan: bool,
    state: LaneState,
}

impl KvFetch {
    pub(super) fn new(
        lane: usize,
        cells: usize,
        prompt: &Arc<[Token]>,
        adapters: &Adapters,
    ) -> Self {
        Self {
            lane,
            cells,
            prompt: Arc::clone(prompt),
            adapters: adapters.clone(),
            reply: None,
        }
    }

    /// Has the answer go there.
    pub fn reply_to(&mut self, reply: impl FnOnce(Option<KvTransfer>) + Send + 'static) {
        self.reply = Some(Box::new(reply));
    }

    fn prompt(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }

    fn answer(&mut self, transfer: Option<KvTransfer>) {
        if let Some(reply) = self.reply.take() {
            reply(transfer);
        }
    }
}

impl Drop for KvFetch {
    /// It is always answered, also by a worker that goes down.
    fn drop(&mut self) {
        self.answer(None);
    }
}

impl<C: Cells> Cache<C> {
    /// Another worker asks for a lane.
    pub fn enqueue(&mut self, fetch: KvFetch) {
        self.fetches.push(fetch);
    }

    /// Answers the fetches of other workers that can be answered now.
    pub fn serve_fetches(&mut self) {
        let (ready, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.fetches)
            .into_iter()
            .partition(|fetch| self.can_answer(fetch));
        self.fetches = later;
        for mut fetch in ready {
            let transfer = self.export(&fetch);
            fetch.answer(transfer);
        }
    }

    /// Whether the lane holds what is asked for, or will not hold it.
    fn can_answer(&self, fetch: &KvFetch) -> bool {
        let Lane { prefix, lease, .. } = &self.lanes[fetch.lane];
        let comes = lease.as_ref().is_some_and(|lease| {
            lease.evaluates_prompt() && lease.prompt().common(fetch.prompt()) >= fetch.cells
        });
        !comes || prefix.holding().covers(fetch.prompt(), fetch.cells)
    }

    /// A copy of the lane, if it is worth one.
    fn export(&mut self, fetch: &KvFetch) -> Option<KvTransfer> {
        let Lane {
            prefix, maybe_nan, ..
        } = &self.lanes[fetch.lane];
        if !prefix.holding().covers(fetch.prompt(), WORTH_FETCHING) {
            return None;
        }
        Some(KvTransfer {
            state: self.cells.export(fetch.lane)?,
            prefix: prefix.clone(),
            maybe_nan: *maybe_nan,
        })
    }

    /// Puts cells that were fetched for a sequence into a free lane. The sequence may run in another one; they are copied
    /// there then.
    pub fn import_fetched(&mut self, sequence: u64, transfer: Option<KvTransfer>) {
        self.cancel_fetch(sequence);
        let Some(transfer) = transfer else { return };
        let Some(lane) = policy::victim(&self.candidates(), Placement::Anywhere, None) else {
            return;
        };
        if self.cells.import(lane, &transfer.state) {
            // The other worker may have filled more since.
            self.cells.cut(lane, transfer.prefix.holding().cells());
            let last_use = self.tick();
            let state = &mut self.lanes[lane];
            state.prefix = transfer.prefix;
            state.maybe_nan |= transfer.maybe_nan;
            state.last_use = last_use;
        } else {
            tracing::warn!(lane, "cells from another context did not fit");
            self.lanes[lane].prefix = CachedPrefix::default();
        }
        self.publish(lane);
    }

    /// A sequence does not wait for its fetch any more.
    pub fn cancel_fetch(&mut self, sequence: u64) {
        self.fetching.retain(|fetch| fetch.sequence != sequence);
    }
}
