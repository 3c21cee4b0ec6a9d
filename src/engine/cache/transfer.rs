//! Cells that go from one context to another.

use super::cells::Cells;
use super::fetch::{KvFetch, KvTransfer};
use super::holding::CachedPrefix;
use super::lane::{Lane, Lease};
use super::policy::{self, Placement, WORTH_FETCHING};
use super::state::Cache;

impl<C: Cells> Cache<C> {
    /// Takes a request of another worker for a lane.
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
            if self.is_late(&fetch) {
                // Others should not wait for it either, until it gets on.
                self.publish_held(fetch.lane);
            }
            let transfer = self.export(&fetch);
            fetch.answer(transfer);
        }
    }

    /// Whether the lane holds what is asked for, or never will, or is late.
    fn can_answer(&self, fetch: &KvFetch) -> bool {
        let held = self.lanes[fetch.lane].prefix.holding();
        self.coming(fetch).is_none()
            || self.is_late(fetch)
            || held.covers(fetch.prompt(), fetch.cells)
    }

    /// The lease that evaluates what is asked for.
    fn coming(&self, fetch: &KvFetch) -> Option<&Lease> {
        let lease = self.lanes[fetch.lane].lease.as_ref()?;
        let comes =
            lease.evaluates_prompt() && lease.prompt().common(fetch.prompt()) >= fetch.cells;
        comes.then_some(lease)
    }

    /// Whether what is asked for would come too late.
    fn is_late(&self, fetch: &KvFetch) -> bool {
        let lease = self.coming(fetch);
        lease.is_some_and(|lease| self.is_overdue(lease, fetch.gain))
    }

    /// A copy of the lane, if it is worth one.
    fn export(&mut self, fetch: &KvFetch) -> Option<KvTransfer> {
        let Lane {
            prefix, maybe_nan, ..
        } = &self.lanes[fetch.lane];
        let least = fetch.cells - fetch.gain + WORTH_FETCHING;
        if !prefix.holding().covers(fetch.prompt(), least) {
            return None;
        }
        let Some(state) = self.cells.export(fetch.lane) else {
            // With a sliding window, too much may have been generated after it. Others should not ask for it again.
            self.directory.publish(self.worker, fetch.lane, None);
            return None;
        };
        Some(KvTransfer {
            state,
            prefix: prefix.clone(),
            maybe_nan: *maybe_nan,
        })
    }

    /// Puts cells that were fetched for a sequence into a free lane. If the sequence then runs in another one, they are
    /// copied there.
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
            tracing::warn!(lane, "could not import cells from another context");
            self.lanes[lane].prefix = CachedPrefix::default();
        }
        self.publish(lane);
    }

    /// A sequence no longer waits for its fetch.
    pub fn cancel_fetch(&mut self, sequence: u64) {
        self.fetching.retain(|fetch| fetch.sequence != sequence);
    }
}
