//! How many sequences of a context share a decode. Tuning in idle moments ([`super::idle`]) may find wider decodes than the
//! start did, so this can change while the engine runs.

use std::sync::{PoisonError, RwLock};

/// How many sequences share the next decode, by the number of those with a token to evaluate.
#[derive(Debug)]
pub struct Sharing(RwLock<Vec<usize>>);

impl Sharing {
    /// `groups[0]` is 0.
    pub fn new(groups: Vec<usize>) -> Self {
        Self(RwLock::new(groups))
    }

    /// How many of `count` sequences share the next decode.
    pub fn group(&self, count: usize) -> usize {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        groups[count.min(groups.len() - 1)]
    }

    /// Maximum number of sequences in a decode.
    pub fn width(&self) -> usize {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().copied().max().unwrap_or(1)
    }

    /// Takes effect at the next decode. `false`: nothing changed.
    pub fn change(&self, groups: Vec<usize>) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = *now != groups;
        *now = groups;
        differs
    }
}
