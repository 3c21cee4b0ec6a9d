//! How the sequences of a context share decodes. Tuning in idle moments ([`super::idle`]) may find wider decodes than the start
//! did, so this can change while the engine runs.

use std::sync::{Arc, PoisonError, RwLock};

/// How any number of sequences is split into decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The numbers of rows that a decode may have, in ascending order; not empty. A decode of fewer sequences is padded.
    pub widths: Vec<usize>,
    /// `groups[n]`: when `n` sequences each have a token to evaluate, how many of them share the next decode. `groups[0]` is
    /// 0.
    pub groups: Vec<usize>,
}

impl Split {
    /// As many sequences in a decode as the widths allow, for up to `most` sequences.
    pub fn widest_first(widths: Vec<usize>, most: usize) -> Self {
        let widest = widths.last().copied().unwrap_or(1);
        Self {
            groups: (0..=most).map(|count| count.min(widest)).collect(),
            widths,
        }
    }

    /// How many of `count` sequences share the next decode.
    pub fn group(&self, count: usize) -> usize {
        self.groups[count.min(self.groups.len() - 1)]
    }

    /// The least number of rows of a decode that holds this many; `None`: that is too many.
    pub fn fit(&self, rows: usize) -> Option<usize> {
        self.widths.iter().copied().find(|&width| width >= rows)
    }

    /// Minimum number of rows in a decode.
    pub fn least(&self) -> usize {
        self.widths.first().copied().unwrap_or(1)
    }

    /// Maximum number of sequences in a decode.
    pub fn width(&self) -> usize {
        self.groups.iter().copied().max().unwrap_or(1)
    }

    /// Maximum number of rows in a decode that this split asks for.
    pub fn most_rows(&self) -> usize {
        self.fit(self.width()).unwrap_or(self.width())
    }
}

/// The split that a model's workers use.
#[derive(Debug)]
pub struct Sharing(RwLock<Arc<Split>>);

impl Sharing {
    pub fn new(split: Split) -> Self {
        Self(RwLock::new(Arc::new(split)))
    }

    pub fn now(&self) -> Arc<Split> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes effect at the next decode. `false`: nothing changed.
    pub fn change(&self, split: Split) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = **now != split;
        *now = Arc::new(split);
        differs
    }
}
