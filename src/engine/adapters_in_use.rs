//! How many sequences run and wait with each LoRA adapter, for the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Adapters;

/// The counts of a model's adapters.
#[derive(Debug, Clone)]
pub struct AdaptersInUse(Arc<Mutex<Vec<Uses>>>);

/// The sequences that apply an adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uses {
    pub running: usize,
    /// Whose requests wait for their first slot.
    pub waiting: usize,
}

/// A sequence that runs or waits. It counts until this is dropped.
#[derive(Debug)]
pub struct AdapterUse {
    all: AdaptersInUse,
    adapters: Adapters,
    /// Its place among the counts.
    count: fn(&mut Uses) -> &mut usize,
}

impl AdaptersInUse {
    /// For a model with this many adapters.
    pub fn new(adapters: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Uses::default(); adapters])))
    }

    pub fn runs(&self, adapters: &Adapters) -> AdapterUse {
        self.count(adapters, |uses| &mut uses.running)
    }

    pub fn waits(&self, adapters: &Adapters) -> AdapterUse {
        self.count(adapters, |uses| &mut uses.waiting)
    }

    /// In the order of the model's adapters.
    pub fn now(&self) -> Vec<Uses> {
        self.lock().clone()
    }

    fn count(&self, adapters: &Adapters, count: fn(&mut Uses) -> &mut usize) -> AdapterUse {
        let counted = AdapterUse {
            all: self.clone(),
            adapters: adapters.clone(),
            count,
        };
        counted.each(|uses| *uses += 1);
        counted
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Uses>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdapterUse {
    fn each(&self, change: impl Fn(&mut usize)) {
        // Most sequences have none.
        if self.adapters.is_empty() {
            return;
        }
        let mut all = self.all.lock();
        for (id, _) in self.adapters.iter() {
            if let Some(uses) = all.get_mut(id) {
                change((self.count)(uses));
            }
        }
    }
}

impl Drop for AdapterUse {
    fn drop(&mut self) {
        self.each(|uses| *uses -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_count_while_they_run_or_wait() {
        let all = AdaptersInUse::new(2);
        let check = |expect: [(usize, usize); 2]| {
            let expect = expect.map(|(running, waiting)| Uses { running, waiting });
            assert_eq!(all.now(), expect);
        };
        let both = Adapters::new([(0, 1.0), (1, 0.5)]);
        let one = Adapters::new([(1, -2.0)]);
        let running = all.runs(&both);
        let waiting = (all.waits(&one), all.waits(&one));
        let none = all.runs(&Adapters::default());
        check([(1, 0), (1, 2)]);
        drop(waiting);
        check([(1, 0), (1, 0)]);
        drop((running, none));
        check([(0, 0), (0, 0)]);
    }
}
