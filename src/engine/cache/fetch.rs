//! What contexts send each other to fetch a lane's cells.

use std::sync::Arc;

use super::holding::CachedPrefix;
use super::policy::Source;
use crate::engine::plan::PrefixKey;
use crate::model::{Adapters, LaneState, Token};

type Reply = Box<dyn FnOnce(Option<KvTransfer>) + Send>;

/// A request for a lane of another worker. It is answered once the lane holds what is asked for, or never will, or will only
/// after a long wait.
pub struct KvFetch {
    pub(super) lane: usize,
    pub(super) cells: usize,
    /// How many of these the sequence does not have yet.
    pub(super) gain: usize,
    prompt: Arc<[Token]>,
    adapters: Adapters,
    reply: Option<Reply>,
}

/// A lane's cells, and what is known of them.
pub struct KvTransfer {
    pub(super) prefix: CachedPrefix,
    /// Copied from the lane it comes from.
    pub(super) maybe_nan: bool,
    pub(super) state: LaneState,
}

impl KvFetch {
    pub(super) fn new(
        Source { lane, cells }: Source,
        gain: usize,
        prompt: &Arc<[Token]>,
        adapters: &Adapters,
    ) -> Self {
        Self {
            lane,
            cells,
            gain,
            prompt: Arc::clone(prompt),
            adapters: adapters.clone(),
            reply: None,
        }
    }

    /// Sets where the answer goes.
    pub fn reply_to(&mut self, reply: impl FnOnce(Option<KvTransfer>) + Send + 'static) {
        self.reply = Some(Box::new(reply));
    }

    pub(super) fn prompt(&self) -> PrefixKey<'_> {
        PrefixKey {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }

    pub(super) fn answer(&mut self, transfer: Option<KvTransfer>) {
        if let Some(reply) = self.reply.take() {
            reply(transfer);
        }
    }
}

impl Drop for KvFetch {
    /// It is always answered, even if the worker goes down.
    fn drop(&mut self) {
        self.answer(None);
    }
}

/// A sequence that waits for cells of another worker.
pub struct Fetching {
    pub sequence: u64,
    pub prompt: Arc<[Token]>,
    pub adapters: Adapters,
}
