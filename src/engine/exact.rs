//! Which decodes give exactly the bits of single rows, and where a prompt may be cut: found by comparison, per model and
//! machine. Where each sequence has its own KV cells, this depends on llama.cpp's matrix routines: for weights in a plain
//! layout (such as Q4_1) or in AMX's, each row is computed in the same way, whatever its neighbours; for K-quants
//! elsewhere, another routine computes four rows and more.
//!
//! Some routines give equal bits for most rows and different ones for a few, so the compared rows prove nothing about
//! others. What is known about a routine ([`crate::model::Placements::widest_equal`]) therefore bounds the result.

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::StartError;
use super::plan;
use super::shape::context_shape;
use crate::config;
use crate::model::{Context, ContextError, ContextShape, DecodeError, Model, Row, Runner, Token};

/// The widest decode of exact mode; each width takes time to verify.
pub const WIDEST: usize = 16;

/// How often every width is compared, each time with other tokens.
pub const ROUNDS: usize = 3;

/// The result so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Decodes of up to this many sequences have the bits of single rows; 0: nothing was compared yet.
    pub exact_width: usize,
    /// The least width at which a row differed.
    pub differs_at: Option<usize>,
    /// The widest decode that was to be compared.
    pub widest_wanted: usize,
    /// How often all widths were compared.
    pub rounds: usize,
}

impl Found {
    /// Whether all widths up to `wanted` were compared, or one was found to differ. Single rows need no comparison.
    pub fn is_complete(&self, wanted: usize) -> bool {
        let is_compared = self.widest_wanted >= wanted || self.differs_at.is_some();
        wanted <= 1 || self.rounds > 0 && is_compared
    }
}

/// A comparison that can be interrupted after every decode.
///
/// One of the lanes is longer than 256 tokens, because llama.cpp rounds the length of a decode's attention up to that of
/// its longest lane. Decodes run with one thread and with several, and in two steps, so that the second reads the cells
/// that the first wrote.
pub struct Search {
    context: Context,
    lanes: usize,
    /// Each round has other tokens.
    round: usize,
    /// Evaluated tokens of the newest lane's prompt.
    filled: usize,
    /// Hashes of each lane's rows evaluated alone, by step and lane.
    alone: [Vec<u64>; STEPS],
    /// Widths whose rows were equal in this round.
    equal: BTreeSet<usize>,
}

const STEPS: usize = 2;
/// Tokens of the longest prompt.
const LONG: usize = 264;
/// Maximum number of rows of a decode: an arriving request waits for no more than one.
const PIECE: usize = 32;

impl Search {
    /// Compares decodes of up to `widest` sequences. Continues from `found`.
    pub fn new(
        model: &Arc<Model>,
        settings: &config::Engine,
        widest: usize,
        found: &Found,
    ) -> Result<Self, ContextError> {
        let lanes = widest.clamp(1, WIDEST);
        Ok(Self {
            context: Context::new(model, shape(settings, lanes))?,
            lanes,
            round: if found.widest_wanted < lanes {
                0
            } else {
                found.rounds
            },
            filled: 0,
            alone: [const { Vec::new() }; STEPS],
            equal: BTreeSet::from([1]),
        })
    }

    /// Evaluates one or two more decodes of at most [`PIECE`] rows, with this many threads or one. `false`: everything has
    /// been compared.
    pub fn step(&mut self, found: &mut Found, threads: usize) -> Result<bool, DecodeError> {
        if found.widest_wanted < self.lanes {
            found.widest_wanted = self.lanes;
            found.rounds = 0;
        }
        let Some(width) = self.next_width(found) else {
            found.rounds = self.round + 1;
            found.exact_width = found.exact_width.max(1);
            return Ok(self.begin_round(found));
        };
        let lane = self.alone[0].len();
        if lane < width {
            self.evaluate_alone(lane, threads)?;
            return Ok(true);
        }
        if self.is_equal(width, threads)? {
            self.equal.insert(width);
            let through = (1..).take_while(|width| self.equal.contains(width)).last();
            // Later rounds only confirm the first.
            if self.round == 0 {
                found.exact_width = found.exact_width.max(through.unwrap_or(1));
            }
        } else {
            found.differs_at = Some(width);
            found.exact_width = found.exact_width.min(width - 1);
        }
        Ok(true)
    }

    /// First a few widths far apart, to find one that differs early; then those in between.
    fn next_width(&self, found: &Found) -> Option<usize> {
        let bound = found.differs_at.map_or(self.lanes, |width| width - 1);
        let doubled = std::iter::successors(Some(2), |width| Some(2 * width));
        let coarse = doubled.take_while(|&width| width < bound).chain([bound]);
        coarse
            .chain(2..bound)
            .find(|width| *width <= bound && !self.equal.contains(width))
    }

    /// `false`: there have been enough rounds.
    fn begin_round(&mut self, found: &Found) -> bool {
        self.round += 1;
        let continues = self.round < ROUNDS && found.exact_width > 1;
        if continues {
            for lane in 0..self.lanes {
                self.context.cut(lane, 0);
            }
            self.alone = [const { Vec::new() }; STEPS];
            self.equal = BTreeSet::from([1]);
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

    /// Evaluates a piece of a lane's prompt, and after the last piece the rows that follow, one by one.
    fn evaluate_alone(&mut self, lane: usize, threads: usize) -> Result<(), DecodeError> {
        let end = length(lane).min(self.filled + PIECE);
        let piece: Vec<Row> = (self.filled..end).map(|at| self.row(lane, at)).collect();
        self.context.decode(&piece, threads)?;
        self.filled = end;
        if end < length(lane) {
            return Ok(());
        }
        for step in 0..STEPS {
            let row = self.row(lane, length(lane) + step);
            self.context.decode(&[row], threads)?;
            let hash = bits(&self.context, 0);
            self.alone[step].push(hash);
        }
        self.filled = 0;
        self.context.cut(lane, length(lane));
        Ok(())
    }

    /// Whether each row of a decode of this many sequences has the same bits as evaluated alone.
    fn is_equal(&mut self, width: usize, threads: usize) -> Result<bool, DecodeError> {
        let mut equal = true;
        for step in 0..STEPS {
            let rows: Vec<Row> = (0..width)
                .map(|lane| self.row(lane, length(lane) + step))
                .collect();
            let threads = if step == 0 { threads } else { 1 };
            self.context.decode(&rows, threads)?;
            let alone = &self.alone[step];
            equal &= (0..width).all(|lane| bits(&self.context, lane) == alone[lane]);
        }
        for lane in 0..width {
            self.context.cut(lane, length(lane));
        }
        Ok(equal)
    }
}

/// The context of a search for decodes of up to `widest` sequences.
pub fn shape(settings: &config::Engine, widest: usize) -> ContextShape {
    let lanes = widest.clamp(1, WIDEST);
    context_shape(settings, lanes, LONG + STEPS, PIECE, lanes)
}

/// Tokens of a lane's prompt.
fn length(lane: usize) -> usize {
    if lane == 1 { LONG } else { 8 + lane }
}

/// A hash of a row of logits.
fn bits(context: &Context, row: usize) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    for logit in context.logits(row).unwrap_or_default() {
        hash.write_u32(logit.to_bits());
    }
    hash.finish()
}

/// The smallest tried number of rows such that a prompt cut at its multiples, into decodes of at least that many rows, has
/// the bits of the prompt evaluated whole; `None` if all of them failed.
///
/// AMX computes rows alike in every decode of two rows and more. Other kernels take rows four or eight at a time, and
/// smaller decodes sometimes have different bits, so fewer than [`plan::GROUP_ROWS`] are not tried there.
pub fn cut_rows(
    model: &Arc<Model>,
    settings: &config::Engine,
    threads: usize,
) -> Result<Option<usize>, StartError> {
    // Not a multiple of any cut: the last piece is longer than the others.
    let prompt = if settings.flash_attention {
        plan::FLASH_ROWS - 5
    } else {
        75
    };
    let by_amx_alone = model.placements().all_amx();
    let tried = if by_amx_alone { 2 } else { plan::GROUP_ROWS };
    let vocabulary = model.vocab().len();
    let mut context = Context::new(model, context_shape(settings, 1, prompt, prompt, prompt))?;
    let mut evaluate = |cut: usize| -> Result<Vec<u64>, DecodeError> {
        let mut hashes = Vec::new();
        let mut begin = 0;
        while begin < prompt {
            let end = if prompt - begin < 2 * cut {
                prompt
            } else {
                begin + cut
            };
            let rows: Vec<Row> = (begin..end)
                .map(|position| Row {
                    token: Token(
                        ((position * position * 37 + position * 911 + 7) % vocabulary) as i32,
                    ),
                    position,
                    lane: 0,
                    logits: true,
                })
                .collect();
            context.decode(&rows, threads)?;
            hashes.extend((0..rows.len()).map(|row| bits(&context, row)));
            begin = end;
        }
        context.cut(0, 0);
        Ok(hashes)
    };
    let whole = evaluate(prompt)?;
    for cut in [tried, plan::GROUP_ROWS] {
        if evaluate(cut)? == whole {
            return Ok(Some(cut));
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;

    /// A small model with weights of this kind, by ggml's number.
    pub(in crate::engine) fn specimen(kind: u32) -> Arc<Model> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("specimen.gguf");
        let mut file = std::fs::File::create(&path).expect("a file");
        crate::model::write_specimen(&[kind], &mut file).expect("written");
        drop(file);
        Arc::new(Model::load(&path, &Config::default().model).expect("the model loads"))
    }

    const F16: u32 = 1;
    pub(in crate::engine) const Q4_1: u32 = 3;

    #[test]
    fn every_width_is_compared_and_none_that_differs_is_used() {
        let settings = Config::default().engine;
        // On most CPUs, single F16 rows go through a different routine than several.
        for kind in [Q4_1, F16] {
            let model = specimen(kind);
            let mut found = Found::default();
            let search = Search::new(&model, &settings, WIDEST, &found);
            let mut search = search.expect("a context");
            while search.step(&mut found, 2).expect("it decodes") {
                assert!(found.exact_width <= WIDEST);
            }
            match found.differs_at {
                Some(width) => assert_eq!(found.exact_width, width - 1, "{kind}"),
                None => assert_eq!(
                    (found.exact_width, found.rounds),
                    (WIDEST, ROUNDS),
                    "{kind}"
                ),
            }
            assert!(found.is_complete(WIDEST));
            // Quantized weights in a plain layout: on every CPU.
            assert!(kind != Q4_1 || found.exact_width == WIDEST);
        }
    }

    #[test]
    fn an_interrupted_search_keeps_its_results() {
        let (model, settings) = (specimen(Q4_1), Config::default().engine);
        let mut found = Found::default();
        let mut widths = Vec::new();
        for steps in [14, 20, 32] {
            let search = Search::new(&model, &settings, WIDEST, &found);
            let mut search = search.expect("a context");
            for _ in 0..steps {
                search.step(&mut found, 1).expect("it decodes");
            }
            widths.push(found.exact_width);
        }
        assert!(widths.is_sorted() && widths[0] > 1, "{widths:?}");
        assert_eq!(found.rounds, 0);
    }

    #[test]
    fn prompts_can_be_cut_at_groups() {
        let settings = Config::default().engine;
        for kind in [Q4_1, F16] {
            let rows = cut_rows(&specimen(kind), &settings, 2).expect("a context");
            assert_eq!(rows, Some(plan::GROUP_ROWS), "{kind}");
        }
    }

    #[test]
    fn it_is_complete_once_everything_is_compared_or_one_differs() {
        let found = |exact_width, differs_at, rounds| Found {
            exact_width,
            differs_at,
            widest_wanted: 16,
            rounds,
        };
        assert!(!Found::default().is_complete(16));
        assert!(!found(4, None, 0).is_complete(16));
        assert!(found(16, None, 1).is_complete(16));
        assert!(found(3, Some(4), 1).is_complete(16));
        let fewer = Found {
            widest_wanted: 4,
            ..found(4, None, 1)
        };
        assert!(fewer.is_complete(4));
        assert!(!fewer.is_complete(16));
    }
}
