//! Tokens of generating sequences: which of them share a decode.

use super::advance::Logits;
use super::{Phase, Worker};
use crate::engine::cache::BRIDGED;
use crate::model::Row;

impl Worker<'_> {
    /// Sorts sequences so that those that may share decodes are adjacent: by their adapters, those of the last decode
    /// first, because changing them costs llama.cpp time; then those that share no decode after the others; then by lane.
    pub(super) fn arrange(&self, tokens: &mut [usize]) {
        let shares = self.shared.sharing.width() > 1;
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
                let alone = self.shared.runs_alone(request);
                let adapters = &request.adapters;
                (adapters != &self.adapters, adapters, alone, lane(index))
            };
            key(a).cmp(&key(b))
        });
    }

    /// Gathers rows for the next decode from the newest tokens of these sequences, which generate, in the order of their
    /// lanes; returns how many of them it takes.
    ///
    /// Adjacent lanes are evaluated together; llama.cpp splits a decode where one is left out. So one or two
    /// lanes in between are given a token that is dropped afterwards, which costs less than another decode. Not under
    /// adapters: what they leave in a lane would stay in its memory.
    ///
    /// In exact mode sequences with adapters are evaluated one by one. An adapter's weights are mostly f32, f16 or bf16, and
    /// llama.cpp multiplies one row by those with a different routine than several rows: bits would depend on neighbours.
    /// In throughput mode sequences whose requests ask for exactness are evaluated one by one.
    pub(super) fn gather_tokens(&mut self, sequences: &[usize]) -> usize {
        let Some(&first) = sequences.first() else {
            return 0;
        };
        self.begin_rows(first);
        let width = self.shared.sharing.width();
        let group = self.group(first, sequences.len());
        for (taken, &index) in sequences.iter().enumerate() {
            let sequence = &self.sequences[index];
            let Phase::Generating { next } = sequence.phase else {
                return taken;
            };
            if taken > 0 && (taken >= group || !self.may_join(index)) {
                return taken;
            }
            let (lane, position) = (sequence.lane, sequence.next_position());
            let start = self.rows.len();
            self.bridge(
                lane,
                Row {
                    token: next,
                    position: 0,
                    lane,
                    logits: false,
                },
            );
            if self.rows.len() >= width {
                self.rows.truncate(start);
                return taken;
            }
            self.rows.push(Row {
                token: next,
                position,
                lane,
                logits: true,
            });
        }
        sequences.len()
    }

    /// How many of `count` sequences, starting with this one, share the next decode.
    fn group(&self, first: usize, count: usize) -> usize {
        let is_alone = self.shared.runs_alone(&self.sequences[first].request);
        if is_alone || !(self.adapters.is_empty() || self.shared.shares_adapted) {
            1
        } else {
            self.shared.sharing.group(count)
        }
    }

    /// Whether a sequence can share the decode that is being gathered.
    fn may_join(&self, index: usize) -> bool {
        let sequence = &self.sequences[index];
        !sequence.is_abandoned()
            && !self.shared.runs_alone(&sequence.request)
            && sequence.request.adapters == self.adapters
    }

    /// Gathers rows for the lanes between the last row's and this one, if that can be done for all of them and they are few.
    fn bridge(&mut self, lane: usize, row: Row) {
        let Some(last) = self.rows.last().map(|row| row.lane) else {
            return;
        };
        let between = last + 1..lane;
        if between.len() > BRIDGED || !self.adapters.is_empty() {
            return;
        }
        let start = self.rows.len();
        for lane in between.clone() {
            let position = self.cache.bridge_position(lane);
            let bridge = position.map(|position| Row {
                position,
                lane,
                ..row
            });
            self.rows.extend(bridge);
        }
        if self.rows.len() - start < between.len() {
            self.rows.truncate(start);
        }
    }

    /// Evaluates the rows that were gathered for these sequences, and draws from each.
    pub(super) fn evaluate_tokens(&mut self, group: &[usize]) {
        let outcome = self.decode();
        for row in self.rows.iter().filter(|row| !row.logits) {
            self.cache.cut(row.lane, row.position);
        }
        match (outcome, group) {
            (Ok(()), _) => {
                let mut row = 0;
                for &index in group {
                    while self.rows.get(row).is_some_and(|row| !row.logits) {
                        row += 1;
                    }
                    let sequence = &self.sequences[index];
                    if let Phase::Generating { next } = sequence.phase {
                        self.cache.push_generated(sequence.lane, next);
                    }
                    let end = self.advance(index, Logits::Row(row));
                    self.end_later(index, end);
                    row += 1;
                }
            }
            (Err(error), &[index]) => {
                let end = self.failed(index, &error);
                self.end_later(index, Some(end));
            }
            // So that only the offending sequence fails.
            (Err(_), _) => {
                for index in group {
                    let sequence = &self.sequences[*index];
                    let (lane, position) = (sequence.lane, sequence.next_position());
                    self.cache.cut(lane, position);
                    let alone = std::slice::from_ref(index);
                    self.gather_tokens(alone);
                    self.evaluate_tokens(alone);
                }
            }
        }
    }
}
