//! Tokens of generating sequences: which of them share a decode.

use super::advance::Logits;
use super::window::{Padding, Window, window};
use super::{Phase, Sequence, Worker};
use crate::model::{Row, Token};

impl Worker<'_> {
    /// Sorts sequences so that those that may share decodes are adjacent: by their adapters, those of the last decode
    /// first, because changing them costs llama.cpp time; then those that share no decode after the others; then by lane.
    pub(super) fn arrange(&self, tokens: &mut [usize]) {
        let shares = self.split.most_rows() > 1;
        let lane = |index: usize| {
            if shares {
                self.sequences[index].lane
            } else {
                index
            }
        };
        tokens.sort_unstable_by(|&a, &b| {
            let key = |index: usize| {
                let request = &self.sequences[index].request;
                let adapters = &request.adapters;
                (
                    adapters != &self.adapters,
                    adapters,
                    request.exact,
                    lane(index),
                )
            };
            key(a).cmp(&key(b))
        });
    }

    /// Gathers rows for the next decode from the newest tokens of these sequences, which generate, in the order of their
    /// lanes; returns how many of them it takes.
    ///
    /// In exact and invariant mode sequences with adapters are evaluated one by one. An adapter's weights are mostly f32, f16
    /// or bf16, and llama.cpp multiplies one row by those with a different routine than several rows: bits would depend on
    /// neighbours. Sequences whose requests ask for exactness are evaluated one by one in the other modes.
    pub(super) fn gather_tokens(&mut self, sequences: &[usize]) -> usize {
        let Some(&first) = sequences.first() else {
            return 0;
        };
        self.begin_rows(first);
        let joining = sequences
            .iter()
            .skip(1)
            .take_while(|&&index| self.may_join(index));
        let joined = &sequences[..=joining.count()];
        let Window { lanes, taken } = self.window(joined);
        let mut group = joined[..taken]
            .iter()
            .map(|&index| &self.sequences[index])
            .peekable();
        // The output layer's routine depends on the number of its rows, too.
        let pads_count = self.split.least() > 1 || !self.split.widths.contains(&taken);
        for lane in lanes {
            let row = match group.next_if(|sequence| sequence.lane == lane) {
                Some(sequence) => Row {
                    token: newest(sequence),
                    position: sequence.next_position(),
                    lane,
                    logits: true,
                },
                None => {
                    let position = self.cache.padding_position(lane).unwrap_or_else(|| {
                        self.cache.evict(lane);
                        0
                    });
                    Row {
                        token: Token(0),
                        position,
                        lane,
                        logits: pads_count,
                    }
                }
            };
            self.rows.push(row);
        }
        taken
    }

    /// The lanes of the next decode, which is for some of these sequences.
    fn window(&self, joined: &[usize]) -> Window {
        let running: Vec<usize> = joined
            .iter()
            .map(|&index| self.sequences[index].lane)
            .collect();
        let request = &self.sequences[joined[0]].request;
        let shares = self.adapters.is_empty() || self.shared.shares_adapted;
        if request.exact || !shares {
            return Window {
                lanes: running[0]..running[0] + 1,
                taken: 1,
            };
        }
        let split = &self.split;
        let padding = |lane| {
            // Not under adapters: what they leave in a lane would stay in its memory.
            if !self.adapters.is_empty() {
                return None;
            }
            let position = self.cache.padding_position(lane);
            match position {
                Some(cells) => Some(Padding::Cells(cells)),
                None if self.cache.is_free(lane) && self.cache.model().can_cut() => {
                    Some(Padding::Evicts)
                }
                None => None,
            }
        };
        let most = split.group(running.len());
        window(&running, most, split, self.cache.lanes(), padding)
    }

    /// Whether a sequence can share the decode that is being gathered.
    fn may_join(&self, index: usize) -> bool {
        let sequence = &self.sequences[index];
        matches!(sequence.phase, Phase::Generating { .. })
            && !sequence.is_abandoned()
            && !sequence.request.exact
            && sequence.request.adapters == self.adapters
    }

    /// Evaluates the rows that were gathered for these sequences, and draws from each.
    pub(super) fn evaluate_tokens(&mut self, group: &[usize]) {
        let outcome = self.decode();
        let lanes: Vec<usize> = group
            .iter()
            .map(|&index| self.sequences[index].lane)
            .collect();
        for row in &self.rows {
            if !lanes.contains(&row.lane) {
                self.cache.cut(row.lane, row.position);
            }
        }
        match (outcome, group) {
            (Ok(()), _) => {
                for (&index, lane) in group.iter().zip(lanes) {
                    let row = self.rows.iter().position(|row| row.lane == lane);
                    let sequence = &self.sequences[index];
                    if let Phase::Generating { next } = sequence.phase {
                        let exact = sequence.request.exact;
                        self.cache.push_generated(lane, next, exact);
                    }
                    let end = self.advance(index, Logits::Row(row.unwrap_or(usize::MAX)));
                    self.end_later(index, end);
                }
            }
            (Err(error), &[index]) => {
                let end = self.failed(index, &error);
                self.end_later(index, Some(end));
            }
            // So that only the offending sequence fails.
            (Err(_), _) => {
                for &index in group {
                    let sequence = &self.sequences[index];
                    self.cache.cut(sequence.lane, sequence.next_position());
                }
                for index in group {
                    let alone = std::slice::from_ref(index);
                    self.gather_tokens(alone);
                    self.evaluate_tokens(alone);
                }
            }
        }
    }
}

/// The token that a sequence has drawn and not evaluated yet.
fn newest(sequence: &Sequence) -> Token {
    match sequence.phase {
        Phase::Generating { next } => next,
        // Only sequences that generate are gathered.
        _ => Token(0),
    }
}
