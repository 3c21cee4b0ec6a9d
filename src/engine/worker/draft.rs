//! Speculative decoding from the text itself: see [`crate::engine::draft`].

use super::advance::Logits;
use super::{Phase, Worker};
use crate::engine::draft;
use crate::model::{Row, Token};

impl Worker<'_> {
    /// Evaluates a sequence's newest token together with a draft of what follows, and draws from the rows as long as the
    /// draft agrees. `false`: there is no draft.
    pub(super) fn evaluate_draft(&mut self, index: usize) -> bool {
        let draft = self.propose_draft(index);
        if draft.is_empty() {
            return false;
        }
        let sequence = &self.sequences[index];
        let Phase::Generating { next } = sequence.phase else {
            return false;
        };
        let (lane, start) = (sequence.lane, sequence.next_position());
        let is_adapted = !sequence.request.adapters.is_empty();
        self.begin_rows(index);
        let tokens = [next].into_iter().chain(draft.iter().copied());
        self.rows
            .extend((start..).zip(tokens).map(|(position, token)| Row {
                token,
                position,
                lane,
                logits: true,
            }));
        let outcome = self.decode();
        let (accepted, end) = if outcome.is_ok() {
            self.accept_draft(index, &draft)
        } else {
            (0, None)
        };
        // It may succeed without a draft.
        let valid = if outcome.is_ok() { accepted + 1 } else { 0 };
        self.cache.cut(lane, start + valid);
        // The logits of what is cut were not used.
        if is_adapted && valid <= draft.len() {
            self.cache.mark_maybe_nan(lane);
        }
        self.sequences[index].draft_backoff.record(accepted);
        self.end_later(index, end);
        outcome.is_ok()
    }

    /// The draft to evaluate after a sequence's newest token; empty if it is not worthwhile.
    fn propose_draft(&mut self, index: usize) -> Vec<Token> {
        let most = self.shared.draft_tokens;
        let sequence = &mut self.sequences[index];
        // A constraint's mask takes time to compute after each token, and the other sequences would have to wait.
        if most == 0
            || sequence.request.exact
            || !matches!(sequence.phase, Phase::Generating { .. })
            || sequence.pending_mask.is_some()
            || !sequence.draft_backoff.is_due()
        {
            return Vec::new();
        }
        let room = (sequence.request.max_tokens - sequence.drawn)
            .min(self.shared.cache_rules.lane_tokens - sequence.next_position())
            .saturating_sub(1);
        draft::propose(
            &sequence.request.prompt,
            &sequence.generated,
            most.min(room),
        )
    }

    /// Draws from the rows of a draft as long as it agrees; returns how many of its tokens are accepted, and how the
    /// sequence ends, if it does.
    fn accept_draft(
        &mut self,
        index: usize,
        draft: &[Token],
    ) -> (usize, Option<crate::engine::Delta>) {
        let mut accepted = 0;
        loop {
            if let Some(end) = self.advance(index, Logits::Row(accepted)) {
                return (accepted, Some(end));
            }
            match self.sequences[index].phase {
                Phase::Generating { next } if draft.get(accepted) == Some(&next) => accepted += 1,
                _ => return (accepted, None),
            }
        }
    }
}
