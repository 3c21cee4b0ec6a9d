//! Classes of widths: what is known of them, and what to compare next.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The widest decode that is compared; each width takes time.
pub const WIDEST: usize = 16;

/// The widths that are compared. Others are padded to the next of these.
const LADDER: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16];

/// How often every width is compared, each time with other tokens.
pub const ROUNDS: usize = 3;

/// Widths whose rows have the same bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Each row has the bits that it has in a decode of this many sequences.
    pub least: usize,
    /// Widths that were found equal, in ascending order.
    pub equal: Vec<usize>,
    /// Widths that were found to differ.
    pub different: Vec<usize>,
    /// How often all widths were compared.
    pub rounds: usize,
}

impl fmt::Display for Class {
    /// `{4, 5, 6, 7}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = self.equal.iter().filter(|&&width| width != self.least);
        let widths: Vec<String> = [self.least]
            .iter()
            .chain(beside)
            .map(usize::to_string)
            .collect();
        write!(f, "{{{}}}", widths.join(", "))
    }
}

/// The results so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    #[serde(default)]
    classes: Vec<Class>,
}

/// The class that is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aim {
    /// Its least width; `None`: the class of the widest decode.
    pub least: Option<usize>,
    /// The widest decode that is wanted.
    pub widest: usize,
    /// From this width on llama.cpp uses another routine. Such routines give equal bits for most rows and different ones for
    /// a few, so no class may lie on both sides, whatever the compared rows say.
    pub border: usize,
}

impl Aim {
    /// The class with the bits of single rows.
    pub fn exact(widest: usize, border: usize) -> Self {
        Self {
            least: Some(1),
            widest: widest.clamp(1, WIDEST.min(border - 1)),
            border,
        }
    }

    /// A class by its least width, or that of the widest decode.
    pub fn invariant(least: Option<usize>, widest: usize, border: usize) -> Self {
        /// Some routines compute rows four at a time and the rest one by one.
        const GROUP: usize = 4;
        let widest = widest.max(least.unwrap_or(1));
        let rounded = widest.next_multiple_of(GROUP);
        let widest = if widest > GROUP && (rounded < border || widest >= border) {
            rounded.min(WIDEST)
        } else {
            widest.clamp(1, WIDEST)
        };
        match least {
            Some(least) if least < border => Self {
                least: Some(least),
                widest: widest.min(border - 1),
                border,
            },
            least => Self {
                least,
                widest,
                border,
            },
        }
    }

    /// Least widths of the classes that the widest decode may belong to.
    fn candidates(self) -> impl Iterator<Item = usize> {
        let from = if self.widest >= self.border {
            self.border
        } else {
            1
        };
        let powers = std::iter::successors(Some(1), |width| Some(2 * width));
        let powers = powers.take_while(move |&width| width < self.widest);
        powers
            .filter(move |&width| width >= from)
            .chain([self.widest])
    }

    /// The widths of the class with this least width that are worth comparing: first a few far apart.
    fn widths(self, least: usize) -> impl Iterator<Item = usize> {
        let doubled = std::iter::successors(Some(least), |width| Some(2 * width));
        let coarse = doubled
            .take_while(move |&width| width < self.widest)
            .chain([self.widest]);
        let between = LADDER.into_iter();
        coarse
            .chain(between.filter(move |width| (least..self.widest).contains(width)))
            .filter(move |&width| width > 1)
    }
}

impl Found {
    /// What is known of the class with this least width.
    pub fn class(&self, least: usize) -> Option<&Class> {
        self.classes.iter().find(|class| class.least == least)
    }

    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    fn class_mut(&mut self, least: usize) -> &mut Class {
        let at = self
            .classes
            .iter()
            .position(|class| class.least >= least)
            .unwrap_or(self.classes.len());
        if self.class(least).is_none() {
            let class = Class {
                least,
                ..Class::default()
            };
            self.classes.insert(at, class);
        }
        &mut self.classes[at]
    }

    /// Whether decodes of these two widths give the same bits; `None`: not compared yet.
    fn verdict(&self, least: usize, width: usize) -> Option<bool> {
        if width == 1 {
            return Some(true);
        }
        let class = self.class(least)?;
        let is_equal = class.equal.contains(&width);
        (is_equal || class.different.contains(&width)).then_some(is_equal)
    }

    /// The least width of the class that is aimed at; `None`: more has to be compared, or there is none.
    pub fn chosen(&self, aim: Aim) -> Option<usize> {
        let least = self.candidate(aim)?;
        self.undecided(least, aim).is_none().then_some(least)
    }

    /// Whether it is known which class is aimed at, or that there is none.
    pub fn is_decided(&self, aim: Aim) -> bool {
        let candidate = self.candidate(aim);
        candidate.is_none_or(|least| self.undecided(least, aim).is_none())
    }

    /// The first class that may be the one that is aimed at.
    fn candidate(&self, aim: Aim) -> Option<usize> {
        let may_be = |least: usize| {
            self.verdict(least, least) != Some(false)
                && (aim.least.is_some() || self.verdict(least, aim.widest) != Some(false))
        };
        match aim.least {
            Some(least) => Some(least).filter(|&least| may_be(least)),
            None => aim.candidates().find(|&least| may_be(least)),
        }
    }

    /// A width whose comparison decides whether the candidate is the class that is aimed at.
    fn undecided(&self, least: usize, aim: Aim) -> Option<usize> {
        let deciding = [Some(least), aim.least.is_none().then_some(aim.widest)];
        let mut deciding = deciding.into_iter().flatten();
        deciding.find(|&width| self.verdict(least, width).is_none())
    }

    /// The widths in which the class may be used, in ascending order: at least its least one.
    pub fn widths(&self, least: usize, aim: Aim) -> Vec<usize> {
        let known = self.class(least).map_or(&[][..], |class| &class.equal);
        let known = known.iter().copied();
        let wanted = |width: &usize| (least..=aim.widest).contains(width);
        let widths: BTreeSet<usize> = [least].into_iter().chain(known.filter(wanted)).collect();
        widths.into_iter().collect()
    }

    /// The next comparison of this round, whose comparisons so far are `compared`: the least width of a class, and the
    /// width that may belong to it.
    pub fn next(
        &self,
        aim: Aim,
        round: usize,
        compared: &BTreeSet<(usize, usize)>,
    ) -> Option<(usize, usize)> {
        let least = self.candidate(aim)?;
        if let Some(width) = self.undecided(least, aim) {
            return Some((least, width));
        }
        let is_due = |&width: &usize| match self.verdict(least, width) {
            None => true,
            Some(is_equal) => round > 0 && is_equal && !compared.contains(&(least, width)),
        };
        let mut widths = aim.widths(least);
        widths.find(is_due).map(|width| (least, width))
    }

    /// Records the result of a comparison.
    pub fn record(&mut self, least: usize, width: usize, is_equal: bool) {
        let class = self.class_mut(least);
        if is_equal && !class.different.contains(&width) {
            if !class.equal.contains(&width) {
                class.rounds = 0;
                class.equal.push(width);
            }
        } else if !is_equal {
            class.equal.retain(|&other| other != width);
            class.different.push(width);
        }
        for widths in [&mut class.equal, &mut class.different] {
            widths.sort_unstable();
            widths.dedup();
        }
    }

    /// All widths of the chosen class were compared once more.
    pub fn finish_round(&mut self, aim: Aim, round: usize) {
        if let Some(least) = self.chosen(aim) {
            let class = self.class_mut(least);
            class.rounds = class.rounds.max(round + 1);
        }
    }

    /// How often all widths of the class that is aimed at were compared.
    pub fn rounds(&self, aim: Aim) -> usize {
        if self.next(aim, 0, &BTreeSet::new()).is_some() {
            return 0;
        }
        // No class, or one of a single width, leaves nothing to confirm.
        let class = self.chosen(aim).and_then(|least| self.class(least));
        class
            .filter(|class| class.equal.iter().any(|&width| width > 1))
            .map_or(ROUNDS, |class| class.rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares until nothing is left, on a machine where two widths have the same bits if `class` says the same of both.
    fn search(aim: Aim, class: impl Fn(usize) -> usize) -> (Found, Vec<(usize, usize)>) {
        let (mut found, mut asked) = (Found::default(), Vec::new());
        while let Some((least, width)) = found.next(aim, 0, &BTreeSet::new()) {
            assert!(asked.len() < 100, "{asked:?}");
            asked.push((least, width));
            found.record(least, width, class(least) == class(width));
        }
        (found, asked)
    }

    const NONE: usize = usize::MAX;

    #[test]
    fn classes_are_found_and_their_least_width_is_a_power_of_two() {
        let k_quants = |width: usize| match width {
            0..4 => 0,
            4..8 => 1,
            _ => 2,
        };
        let check = |aim: Aim, class: fn(usize) -> usize, least, widths: &[usize]| {
            let (found, _) = search(aim, class);
            assert_eq!(found.chosen(aim), Some(least), "{aim:?} {found:?}");
            assert_eq!(found.widths(least, aim), widths, "{aim:?}");
        };
        check(Aim::exact(16, NONE), k_quants, 1, &[1, 2, 3]);
        check(
            Aim::invariant(None, 16, NONE),
            k_quants,
            8,
            &[8, 10, 12, 14, 16],
        );
        check(Aim::invariant(None, 6, NONE), k_quants, 8, &[8]);
        check(Aim::invariant(None, 4, NONE), k_quants, 4, &[4]);
        check(Aim::invariant(None, 6, 8), |_| 0, 1, &[1, 2, 3, 4, 5, 6]);
        check(Aim::invariant(None, 2, NONE), k_quants, 1, &[1, 2]);
        check(
            Aim::invariant(Some(4), 16, NONE),
            k_quants,
            4,
            &[4, 5, 6, 7],
        );
        check(Aim::invariant(Some(4), 2, NONE), k_quants, 4, &[4]);
        let all: fn(usize) -> usize = |_| 0;
        check(Aim::exact(4, NONE), all, 1, &[1, 2, 3, 4]);
        let whole = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16];
        check(Aim::invariant(None, 16, NONE), all, 1, &whole);
        // Rows that are computed four at a time, and what is left of them one by one.
        let groups: fn(usize) -> usize = |width| if width % 4 == 0 { 4 } else { width };
        check(Aim::invariant(None, 16, NONE), groups, 4, &[4, 8, 12, 16]);
        check(Aim::invariant(None, 6, NONE), groups, 4, &[4, 8]);
        check(Aim::invariant(None, 9, NONE), groups, 4, &[4, 8, 12]);
        // No class lies on both sides of a border, even if the compared rows agree.
        check(Aim::exact(16, 8), all, 1, &whole[..7]);
        check(Aim::invariant(None, 16, 8), all, 8, &whole[7..]);
        check(Aim::invariant(Some(2), 16, 8), all, 2, &whole[1..7]);
    }

    #[test]
    fn a_start_learns_the_most_from_the_first_comparisons() {
        let (_, asked) = search(Aim::exact(16, NONE), |width| usize::from(width > 1));
        assert_eq!(asked[..4], [(1, 2), (1, 4), (1, 8), (1, 16)]);
        let (_, asked) = search(Aim::invariant(None, 16, 8), |_| 0);
        assert_eq!(asked[..3], [(8, 8), (8, 16), (8, 10)]);
    }

    #[test]
    fn a_width_that_depends_on_neighbours_is_no_class() {
        let aim = Aim::invariant(Some(6), 16, NONE);
        let mut found = Found::default();
        assert_eq!(found.next(aim, 0, &BTreeSet::new()), Some((6, 6)));
        found.record(6, 6, false);
        assert_eq!(found.chosen(aim), None);
        assert_eq!(found.next(aim, 0, &BTreeSet::new()), None);
        assert_eq!(found.rounds(aim), ROUNDS);
    }

    #[test]
    fn later_rounds_confirm_and_a_width_that_differs_once_is_out() {
        let aim = Aim::exact(4, NONE);
        let (mut found, _) = search(aim, |_| 0);
        assert_eq!(found.rounds(aim), 0);
        found.finish_round(aim, 0);
        assert_eq!(found.rounds(aim), 1);
        // More widths are not compared yet, and new ones are compared from the first round on.
        assert_eq!(found.rounds(Aim::exact(16, NONE)), 0);
        let mut wider = found.clone();
        wider.record(1, 5, true);
        assert_eq!(wider.class(1).map(|class| class.rounds), Some(0));
        let mut compared = BTreeSet::new();
        while let Some((least, width)) = found.next(aim, 1, &compared) {
            compared.insert((least, width));
            found.record(least, width, width != 3);
        }
        assert_eq!(compared.len(), 3);
        assert_eq!(found.widths(1, aim), [1, 2, 4]);
        found.record(1, 3, true);
        assert_eq!(found.widths(1, aim), [1, 2, 4]);
    }
}
