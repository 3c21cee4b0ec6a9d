//! How many requests and connections each client has at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many requests or connections each client has, by name.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<HashMap<String, usize>>>);

/// One that is counted until it is dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Counts,
    name: String,
}

impl Counts {
    /// Counts one more of this name; `None` if there are `most` already.
    pub fn add(&self, name: String, most: usize) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted {
            counts: self.clone(),
            name,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_and_given_back() {
        let counts = Counts::default();
        let first = counts.add("a".to_owned(), 1).expect("room");
        assert!(counts.add("a".to_owned(), 1).is_none());
        assert!(counts.add("b".to_owned(), 1).is_some());
        drop(first);
        assert!(counts.add("a".to_owned(), 1).is_some());
        assert!(counts.0.lock().expect("not poisoned").is_empty());
    }
}
