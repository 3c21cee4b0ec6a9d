//! What the workers of a model share.

use std::sync::mpsc::Sender;

use super::adapters_in_use::AdaptersInUse;
use super::alive::Alive;
use super::cache::{Directory, Filled, Rules};
use super::cores::Cores;
use super::masks::{Masks, PendingMask};
use super::message::Message;
use super::plan::{self, Cuts, PromptPlan};
use super::request::Request;
use super::split::Sharing;
use crate::config::Mode;
use crate::sampling::Sampler;

pub struct Shared {
    pub directory: Directory,
    pub alive: Alive,
    /// Each worker's mailbox, by number.
    pub mailboxes: Vec<Sender<Message>>,
    /// Filled cells of each worker when its last round began, by number.
    pub cells: Vec<Filled>,
    pub masks: Masks,
    pub adapters_in_use: AdaptersInUse,
    pub cores: Cores,
    /// Exact or invariant mode: the bits of no sequence depend on others. In throughput mode only those of sequences whose
    /// requests ask for exactness.
    pub mode: Mode,
    /// Threads of every exact decode where the result depends on their number: with flash attention. It then also depends
    /// on whether a decode has more than [`plan::FLASH_ROWS`].
    pub fixed_threads: Option<usize>,
    /// How many sequences share a decode.
    pub sharing: Sharing,
    /// Whether sequences with adapters share decodes: only in throughput mode.
    pub shares_adapted: bool,
    /// Maximum number of tokens of a draft; 0 but in throughput mode.
    pub draft_tokens: usize,
    /// Maximum number of prompt tokens of a decode.
    pub chunk_tokens: usize,
    /// Maximum number of rows of logits of a prompt's decode.
    pub logits_rows: usize,
    pub cuts: Cuts,
    pub cache_rules: Rules,
}

impl Shared {
    /// Threads for one decode: as many as there are cores that neither another process nor another worker uses, unless the
    /// decode must be exact and the number would move bits.
    pub fn threads(&self, exact: bool) -> usize {
        match self.fixed_threads {
            Some(fixed) if exact || self.is_reproducible() => fixed,
            _ => self.cores.share(),
        }
    }

    /// Whether no answer depends on concurrent requests or the cache.
    pub(super) fn is_reproducible(&self) -> bool {
        self.mode != Mode::Throughput
    }

    /// Maximum number of rows of the next decode of a prompt. `first_logits_row`: see [`Request::first_logits_row`].
    pub(super) fn prompt_rows(
        &self,
        request: &Request,
        evaluated: usize,
        first_logits_row: Option<usize>,
    ) -> usize {
        let mut rows = self.chunk_tokens;
        if let Some(first) = first_logits_row {
            rows = rows.min(first.saturating_sub(evaluated) + self.logits_rows);
        }
        if self.fixed_threads.is_some() && (self.is_reproducible() || request.exact) {
            rows = rows.min(plan::FLASH_ROWS);
        }
        rows
    }

    /// Whether a decode of this size has the bits of an exact one.
    pub(super) fn is_exact(&self, rows: usize, threads: usize) -> bool {
        self.fixed_threads
            .is_none_or(|fixed| threads == fixed && rows <= plan::FLASH_ROWS)
    }

    /// Whether all decodes of a request's prompt have the bits of exact ones.
    pub(super) fn evaluates_exactly(&self, request: &Request) -> bool {
        self.is_reproducible() || request.exact || self.fixed_threads.is_none()
    }

    /// The worker that has the most cells of a request's prompt.
    pub fn prefer(&self, request: &Request) -> Option<usize> {
        if !request.cache_prompt {
            return None;
        }
        let plan = PromptPlan::new(request.prompt.len(), self.cuts);
        self.directory.best_worker(request, &plan)
    }

    /// Starts to compute what the constraint of a worker's sequence allows next, if it has one.
    pub(super) fn start_mask(&self, worker: usize, sampler: &mut Sampler) -> Option<PendingMask> {
        let follower = sampler.start_mask()?;
        let mailbox = self.mailboxes[worker].clone();
        Some(self.masks.start_mask(follower, move || {
            let _ = mailbox.send(Message::MaskReady);
        }))
    }
}
