//! The KV cache of a context: its lanes, and which request gets which cells. No other module touches a lane or a cell.
//!
//! A lane (llama-server: a slot) has the KV cells of one sequence, and goes through a cycle:
//!
//! 1. **acquire**: a request leases a free lane with as many cells of its prompt as it can reuse. The cells are continued in
//!    place, copied from another lane, or fetched from another worker ([`KvFetch`] → export → [`KvTransfer`] → import); or the
//!    request waits for a neighbour that is evaluating them. What it will evaluate itself it claims in the [`Directory`]
//!    before, so that other workers wait for it where that pays: if they can fetch and reuse it, gain
//!    [`policy::WORTH_FETCHING`] cells, and it comes soon. [`reach`] says how many cells of a lane a request can reuse,
//!    [`policy::victim`] which free lane is evicted.
//! 2. **commit**: prompt cells are evaluated, with their scores. After the last one the prompt is complete.
//! 3. **release**: the sequence has ended, and its cells stay as cache. If a decode failed, **abandon** emptied the lane
//!    before.
//!
//! Invariants:
//!
//! - A leased lane is never overwritten or cut for another request.
//! - A request reuses only cells that a fresh evaluation would fill with the same bits (in throughput mode: from the same
//!   tokens, unless the request asks for exactness).
//! - A lane that may hold NaN is scrubbed before a request starts there with no cells.
//! - A pinned prefix ([`pins`]) is evicted only if no other lane is free.

mod acquire;
mod cells;
mod commit;
mod decode;
mod directory;
mod fetch;
mod holding;
mod lane;
mod pins;
mod policy;
mod reach;
mod state;
mod transfer;

pub use acquire::{Acquired, Order};
pub use commit::Evaluated;
pub use directory::{Directory, Filled};
pub use fetch::{KvFetch, KvTransfer};
pub use policy::{BRIDGED, Placement};
pub use state::{Cache, Rules};

#[cfg(test)]
pub(super) mod tests;
