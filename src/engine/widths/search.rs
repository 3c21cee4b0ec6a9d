//! Comparing decodes of different widths.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;

use super::class::{Aim, Found, ROUNDS, WIDEST};
use crate::config;
use crate::engine::shape::context_shape;
use crate::model::{Context, ContextError, ContextShape, DecodeError, Model, Row, Runner, Token};

/// A comparison that can be interrupted after every decode or two.
///
/// A row is compared with the same row in a decode of the class's least width, where it has another place and other
/// neighbours. One of the lanes is longer than 256 tokens, because llama.cpp rounds the length of a decode's attention up to
/// that of its longest lane. Decodes run with one thread and with several, and in two steps, so that the second reads the
/// cells that the first wrote.
pub struct Search {
    context: Context,
    aim: Aim,
    lanes: usize,
    /// Each round has other tokens.
    round: usize,
    /// Lanes whose prompts are evaluated, and the evaluated tokens of the next one's.
    ready: usize,
    filled: usize,
    /// By class, the hashes of each lane's rows in a decode of the least width.
    references: BTreeMap<usize, BTreeMap<usize, Hashes>>,
    /// The width that is compared, and the hashes of its rows, from lane [`FIRST`] on.
    decoded: Option<(usize, Vec<Hashes>)>,
    /// What was compared in this round.
    compared: BTreeSet<(usize, usize)>,
}

/// Decodes of a comparison.
const STEPS: usize = 2;
/// Hashes of a lane's rows, by step.
type Hashes = [u64; STEPS];
/// Tokens of the longest prompt.
const LONG: usize = 264;
/// Maximum number of rows of a prompt's decode: an arriving request waits for no more than one.
const PIECE: usize = 32;
/// The first lane of the decodes that are compared. Those of a class's least width begin at lane 0, so that the places of
/// rows differ.
const FIRST: usize = 1;

impl Search {
    /// Continues from `found`.
    pub fn new(
        model: &Arc<Model>,
        settings: &config::Engine,
        aim: Aim,
        found: &Found,
    ) -> Result<Self, ContextError> {
        Ok(Self {
            context: Context::new(model, shape(settings, aim.widest))?,
            aim,
            lanes: lanes(aim.widest),
            round: found.rounds(aim),
            ready: 0,
            filled: 0,
            references: BTreeMap::new(),
            decoded: None,
            compared: BTreeSet::new(),
        })
    }

    /// Evaluates a piece of a prompt, or the steps of a decode, with this many threads or one. `false`: everything has been
    /// compared.
    pub fn step(&mut self, found: &mut Found, threads: usize) -> Result<bool, DecodeError> {
        let Some((least, width)) = found.next(self.aim, self.round, &self.compared) else {
            found.finish_round(self.aim, self.round);
            return Ok(self.begin_round(found));
        };
        let last = FIRST + width - 1;
        let group = self.group(least, last);
        if self.ready < group.end.max(last + 1) {
            self.evaluate_prompt(threads)?;
            return Ok(true);
        }
        let rows = match self.decoded.take() {
            Some((decoded, rows)) if decoded == width => rows,
            _ => {
                let rows = self.evaluate_rows(FIRST..last + 1, threads)?;
                self.decoded = Some((width, rows));
                return Ok(true);
            }
        };
        let mut verdict = Some(true);
        for (lane, row) in (FIRST..).zip(&rows) {
            let known = self.references.get(&least).and_then(|of| of.get(&lane));
            match known {
                Some(reference) if reference == row => {}
                Some(_) => verdict = Some(false),
                None => {
                    let group = self.group(least, lane);
                    let hashes = self.evaluate_rows(group.clone(), threads)?;
                    let references = self.references.entry(least).or_default();
                    for (lane, hashes) in group.zip(hashes) {
                        references.entry(lane).or_insert(hashes);
                    }
                    verdict = None;
                }
            }
            if verdict != Some(true) {
                break;
            }
        }
        self.decoded = Some((width, rows));
        if let Some(is_equal) = verdict {
            self.compared.insert((least, width));
            found.record(least, width, is_equal);
        }
        Ok(true)
    }

    /// The lanes of the decode of the class's least width that a lane's reference comes from.
    fn group(&self, least: usize, lane: usize) -> Range<usize> {
        let start = (lane / least * least).min(self.lanes - least);
        start..start + least
    }

    /// `false`: there have been enough rounds.
    fn begin_round(&mut self, found: &Found) -> bool {
        self.round = found.rounds(self.aim).max(self.round + 1);
        let continues = self.round < ROUNDS;
        if continues {
            for lane in 0..self.lanes {
                self.context.cut(lane, 0);
            }
            (self.ready, self.filled) = (0, 0);
            self.references.clear();
            self.decoded = None;
            self.compared.clear();
        }
        continues
    }

    fn row(&self, lane: usize, position: usize) -> Row {
        let vocabulary = self.context.model().vocab().len();
        let number = lane * 7919 + position * position * 31 + position * 613 + self.round * 104_729;
        Row {
            token: Token(((number + 5) % vocabulary) as i32),
            position,
            lane,
            logits: position >= length(lane),
        }
    }

    /// Evaluates a piece of the next lane's prompt.
    fn evaluate_prompt(&mut self, threads: usize) -> Result<(), DecodeError> {
        let lane = self.ready;
        let end = length(lane).min(self.filled + PIECE);
        let piece: Vec<Row> = (self.filled..end).map(|at| self.row(lane, at)).collect();
        self.context.decode(&piece, threads)?;
        self.filled = end;
        if end == length(lane) {
            (self.ready, self.filled) = (lane + 1, 0);
        }
        Ok(())
    }

    /// Evaluates the rows that follow the prompts of these lanes, a row of each in a decode.
    fn evaluate_rows(
        &mut self,
        lanes: Range<usize>,
        threads: usize,
    ) -> Result<Vec<Hashes>, DecodeError> {
        let mut hashes = vec![Hashes::default(); lanes.len()];
        for step in 0..STEPS {
            let rows: Vec<Row> = lanes
                .clone()
                .map(|lane| self.row(lane, length(lane) + step))
                .collect();
            let threads = if step == 0 { threads } else { 1 };
            self.context.decode(&rows, threads)?;
            for (row, hashes) in hashes.iter_mut().enumerate() {
                hashes[step] = bits(&self.context, row);
            }
        }
        for lane in lanes {
            self.context.cut(lane, length(lane));
        }
        Ok(hashes)
    }
}

/// Lanes of a search for decodes of up to `widest` sequences: two more, so that each row has another place in the decode that
/// it is compared with.
fn lanes(widest: usize) -> usize {
    FIRST + widest.clamp(1, WIDEST) + 1
}

/// The context of a search for decodes of up to `widest` sequences.
pub fn shape(settings: &config::Engine, widest: usize) -> ContextShape {
    let lanes = lanes(widest);
    context_shape(settings, lanes, LONG + STEPS, PIECE, lanes)
}

/// Tokens of a lane's prompt.
fn length(lane: usize) -> usize {
    if lane == FIRST { LONG } else { 8 + lane % 8 }
}

/// A hash of a row of logits.
pub(super) fn bits(context: &Context, row: usize) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    for logit in context.logits(row).unwrap_or_default() {
        hash.write_u32(logit.to_bits());
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::super::specimen::{F16, Q4_1, specimen};
    use super::*;
    use crate::config::Config;

    const Q4_K: u32 = 12;

    const NO_BORDER: usize = usize::MAX;

    #[test]
    fn every_width_is_compared_and_none_that_differs_is_used() {
        let settings = Config::default().engine;
        // On most CPUs, single F16 rows go through a different routine than several.
        for kind in [Q4_1, F16, Q4_K] {
            let model = specimen(kind);
            let border = model.placements().border();
            for aim in [
                Aim::exact(WIDEST, border),
                Aim::invariant(None, WIDEST, border),
            ] {
                let mut found = Found::default();
                let search = Search::new(&model, &settings, aim, &found);
                let mut search = search.expect("a context");
                while search.step(&mut found, 2).expect("it decodes") {}
                let least = found.chosen(aim).expect("a class");
                let widths = found.widths(least, aim);
                assert!(widths[0] == least && widths.iter().all(|&width| width <= aim.widest));
                assert_eq!(found.rounds(aim), ROUNDS, "{kind}");
                if aim.least.is_none() {
                    assert_eq!(widths.last(), Some(&aim.widest), "{kind}");
                }
                // Quantized weights in a plain layout: on every CPU.
                assert!(
                    kind != Q4_1 || (least == 1 && widths.len() == 12),
                    "{widths:?}"
                );
            }
        }
    }

    #[test]
    fn an_interrupted_search_keeps_its_results() {
        let (model, settings) = (specimen(Q4_1), Config::default().engine);
        let aim = Aim::exact(WIDEST, NO_BORDER);
        let mut found = Found::default();
        let mut widths = Vec::new();
        for steps in [24, 30, 42] {
            let search = Search::new(&model, &settings, aim, &found);
            let mut search = search.expect("a context");
            for _ in 0..steps {
                search.step(&mut found, 1).expect("it decodes");
            }
            widths.push(found.widths(1, aim).len());
        }
        assert!(widths.is_sorted() && widths[0] > 1, "{widths:?}");
        assert_eq!(found.rounds(aim), 0);
    }
}
