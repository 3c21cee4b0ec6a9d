//! What is sent to a worker.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::adapters_in_use::AdapterUse;
use super::admission::Permit;
use super::cache::{KvFetch, KvTransfer};
use super::request::{Delta, Request};
use super::tally::Tally;

pub enum Message {
    Run(Box<Job>),
    /// Another worker asks for a lane.
    Fetch(KvFetch),
    /// The answer to a fetch of one of the worker's own sequences.
    Transfer {
        sequence: u64,
        transfer: Option<KvTransfer>,
    },
    /// A mask that some sequence waits for is ready.
    MaskReady,
    /// End all sequences, then the thread.
    Close,
}

/// A sequence to run.
pub struct Job {
    /// Unique in the process.
    pub sequence: u64,
    /// When the request came in.
    pub arrived: Instant,
    /// The parent of the sequence's log events.
    pub span: tracing::Span,
    /// Counts its tokens.
    pub tally: Arc<Tally>,
    pub request: Request,
    pub deltas: UnboundedSender<Delta>,
    /// Counts its adapters until the sequence ends.
    pub adapter_use: AdapterUse,
    /// Dropped when the sequence ends.
    pub permit: Permit,
}
