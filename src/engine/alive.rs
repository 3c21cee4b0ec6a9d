//! Which workers are alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag for each worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Alive(Arc<[AtomicBool]>);

impl Alive {
    /// All workers are alive.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicBool::new(true)).collect())
    }

    pub fn is(&self, worker: usize) -> bool {
        self.0[worker].load(Ordering::Relaxed)
    }

    pub fn set(&self, worker: usize, alive: bool) {
        self.0[worker].store(alive, Ordering::Relaxed);
    }

    /// The workers that are not alive.
    pub fn down(&self) -> impl Iterator<Item = usize> {
        (0..self.workers()).filter(|&worker| !self.is(worker))
    }

    /// How many workers there are, alive or not.
    pub fn workers(&self) -> usize {
        self.0.len()
    }
}
