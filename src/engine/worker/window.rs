//! The lanes of a decode of several sequences. llama.cpp evaluates adjacent lanes together and splits a decode where one is
//! left out, and rows have the same bits only in decodes of certain widths. So lanes in between and beside those of the
//! sequences are given a token that is dropped afterwards.

use std::ops::Range;

use crate::engine::cache::BRIDGED;
use crate::engine::split::Split;

/// The lanes of a decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Each of them gets a row.
    pub lanes: Range<usize>,
    /// How many of the sequences are in it.
    pub taken: usize,
}

/// What padding a lane costs, if it is possible at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Padding {
    /// Attention goes over as many cells as the fullest lane has.
    Cells(usize),
    /// The lane is full and free: what it holds must be evicted.
    Evicts,
}

/// The window for the first of the sequences that run in `running`, in ascending order, and for up to `most` of them.
/// `padding`: what it costs to pad another lane of the `lanes` lanes; `None`: that cannot be done.
pub fn window(
    running: &[usize],
    most: usize,
    split: &Split,
    lanes: usize,
    padding: impl Fn(usize) -> Option<Padding>,
) -> Window {
    let first = running[0];
    // Idle moments may find widths that a context has too few lanes for.
    let fit = |rows| split.fit(rows).filter(|&width| width <= lanes);
    let mut taken = 1;
    for pair in running[..most.clamp(1, running.len())].windows(2) {
        let (between, span) = (pair[0] + 1..pair[1], pair[1] + 1 - first);
        // Padding up to the least width is needed in any case.
        let is_near = between.len() <= BRIDGED || span <= split.least();
        let mut fillable = between.map(&padding);
        if !is_near
            || fit(span).is_none()
            || !fillable.all(|it| matches!(it, Some(Padding::Cells(_))))
        {
            break;
        }
        taken += 1;
    }
    let end = running[taken - 1] + 1;
    let width = fit(end - first).unwrap_or(end - first);
    let earliest = end.saturating_sub(width);
    let latest = first.min(lanes - width);
    let cost = |start: &usize| {
        let beside = (*start..first).chain(end..start + width);
        let mut worst = Padding::Cells(0);
        for lane in beside {
            // Running lanes of other sequences cannot always be padded.
            worst = worst.max(padding(lane)?);
        }
        Some(worst)
    };
    let best = (earliest..=latest)
        .filter_map(|start| Some((cost(&start)?, start)))
        .min();
    debug_assert!(best.is_some(), "a decode that cannot be padded");
    let lanes = best.map_or(first..end, |(_, start)| start..start + width);
    Window { lanes, taken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        widths: &[usize],
        running: &[usize],
        lanes: &[Option<Padding>],
        expect: (Range<usize>, usize),
    ) {
        let split = Split::widest_first(widths.to_vec(), 16);
        let found = window(running, split.width(), &split, lanes.len(), |lane| {
            lanes[lane]
        });
        assert_eq!((found.lanes, found.taken), expect, "{widths:?} {running:?}");
    }

    const EMPTY: Option<Padding> = Some(Padding::Cells(0));

    #[test]
    fn few_lanes_between_sequences_are_bridged() {
        let check =
            |running: &[usize], expect| check(&[1, 2, 3, 4, 5, 6], running, &[EMPTY; 10], expect);
        check(&[3], (3..4, 1));
        check(&[3, 4, 5], (3..6, 3));
        check(&[3, 6], (3..7, 2));
        check(&[3, 7], (3..4, 1));
        check(&[0, 2, 4, 6], (0..5, 3));
        check(&[0, 1, 2, 3, 4, 5, 6], (0..6, 6));
    }

    #[test]
    fn lanes_that_cannot_be_padded_end_a_decode() {
        let mut lanes = [EMPTY; 10];
        lanes[4] = None;
        lanes[7] = Some(Padding::Evicts);
        let check = |running: &[usize], expect| check(&[1, 2, 3, 4, 5, 6], running, &lanes, expect);
        check(&[3, 5], (3..4, 1));
        check(&[6, 8], (6..7, 1));
        check(&[5, 6], (5..7, 2));
    }

    #[test]
    fn a_decode_has_a_width_of_the_class() {
        let class = &[4, 8];
        check(class, &[0], &[EMPTY; 8], (0..4, 1));
        check(class, &[7], &[EMPTY; 8], (4..8, 1));
        check(class, &[0, 3], &[EMPTY; 8], (0..4, 2));
        check(class, &[0, 1, 2, 3, 4], &[EMPTY; 8], (0..8, 5));
        check(class, &[0, 5], &[EMPTY; 8], (0..4, 1));
        // A context with fewer lanes than the class's wider decodes.
        check(class, &[0, 1, 2, 3, 4], &[EMPTY; 6], (0..4, 4));
        check(class, &[4, 5], &[EMPTY; 6], (2..6, 2));
        // Lanes with few cells are padded rather than full ones, and nothing is evicted without need.
        let cells = |cells| Some(Padding::Cells(cells));
        let lanes = [
            EMPTY,
            cells(9),
            cells(500),
            EMPTY,
            cells(600),
            cells(2),
            cells(3),
            cells(4),
        ];
        check(class, &[3], &lanes, (0..4, 1));
        let mut lanes = [EMPTY; 8];
        lanes[1] = Some(Padding::Evicts);
        check(class, &[2], &lanes, (2..6, 1));
        check(class, &[1], &lanes, (0..4, 1));
        lanes[6] = None;
        check(class, &[5], &lanes, (2..6, 1));
        let lanes = [Some(Padding::Evicts); 4];
        check(class, &[2], &lanes, (0..4, 1));
    }
}
