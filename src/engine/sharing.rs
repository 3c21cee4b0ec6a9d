//! How many of a context's sequences share a decode. Idle moments may find more than the start did ([`super::idle`]), so
//! it can change while the engine runs.

use std::sync::{PoisonError, RwLock};

/// How many sequences share the next decode, by how many have a token to evaluate.
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

    /// Most rows of such a decode.
    pub fn width(&self) -> usize {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().copied().max().unwrap_or(1)
    }

    /// From the next decode on. `false`: it was so already.
    pub fn change(&self, groups: Vec<usize>) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = *now != groups;
        *now = groups;
        differs
    }
}
