//! Threads that compute which tokens a constraint allows next, while the decode of the token before runs. There are few; a
//! constraint that is slow delays no decode.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sampling::Follower;

/// Grammars nest, and the matcher recurses.
const STACK_BYTES: usize = 16 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The threads end when this is dropped.
pub struct Masks(Sender<Job>);

/// A mask that is being computed. Dropping it stops the computation.
pub struct PendingMask {
    result: Receiver<Follower>,
    _wanted: Arc<()>,
}

/// The computation panicked, or its thread is gone.
#[derive(Debug)]
pub struct MaskLost;

impl Masks {
    pub fn start(threads: usize) -> Result<Self, std::io::Error> {
        let (sender, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("masks-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    loop {
                        // In a statement of its own, so that the lock is released before the job runs.
                        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { return };
                        if catch_unwind(AssertUnwindSafe(job)).is_err() {
                            tracing::error!("computing a constraint's allowed tokens panicked");
                        }
                    }
                })?;
        }
        Ok(Self(sender))
    }

    /// Starts to compute what is allowed next, and calls `wake` when that is done. It is not called for a mask that was
    /// dropped.
    pub fn start_mask(
        &self,
        mut follower: Follower,
        wake: impl FnOnce() + Send + 'static,
    ) -> PendingMask {
        let (sender, result) = channel();
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let _ = self.0.send(Box::new(move || {
            follower.prepare_while(|| is_wanted.strong_count() > 0);
            if sender.send(follower).is_ok() {
                wake();
            }
        }));
        PendingMask {
            result,
            _wanted: wanted,
        }
    }
}

impl PendingMask {
    /// The follower with its mask; `None` if it is not ready yet.
    pub fn try_finish(&self) -> Result<Option<Follower>, MaskLost> {
        match self.result.try_recv() {
            Ok(follower) => Ok(Some(follower)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(MaskLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Token;
    use crate::sampling::{Constraint, ConstraintError, Follow, Rules};

    /// Allows one token, or panics.
    struct Only(Option<usize>);

    struct Following(Vec<bool>);

    impl Rules for Only {
        fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
            let only = self.0.expect("on command");
            Ok(Box::new(Following((0..3).map(|id| id == only).collect())))
        }
    }

    impl Follow for Following {
        fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
            Ok(&self.0)
        }
        fn accept(&mut self, _: Token) -> Result<(), ConstraintError> {
            self.0.rotate_right(1);
            Ok(())
        }
    }

    #[test]
    fn masks_come_back_and_wake_the_worker() {
        let masks = Masks::start(2).expect("threads");
        let (wakes, woken) = channel();
        let wake = || {
            let wakes = wakes.clone();
            move || {
                let _ = wakes.send(());
            }
        };
        let follower = |only| Follower::new(&Constraint::new(Arc::new(Only(only))));
        let mut pending: Vec<PendingMask> = (0..3)
            .map(|only| masks.start_mask(follower(Some(only)), wake()))
            .collect();
        pending.push(masks.start_mask(follower(None), wake()));
        // One that panics wakes the worker too, and its thread lives on.
        for _ in 0..4 {
            woken.recv().expect("a wake-up");
        }
        let mut back: Vec<Follower> = pending
            .iter()
            .map(|mask| mask.try_finish().expect("not lost").expect("ready"))
            .collect();
        assert!(back.pop().expect("the last").allowed().is_err());
        for (only, follower) in back.iter_mut().enumerate() {
            assert!(follower.allowed().expect("allowed")[only]);
            follower.accept(Token(0));
            assert!(follower.allowed().expect("allowed")[(only + 1) % 3]);
        }
        // A dropped mask wakes nobody.
        drop(masks.start_mask(follower(None), wake()));
        let last = masks.start_mask(follower(Some(0)), wake());
        drop(masks);
        woken.recv().expect("a wake-up");
        while last.try_finish().is_ok_and(|back| back.is_none()) {
            std::thread::yield_now();
        }
    }

    /// Reports each token, and waits for permission to continue.
    struct Slow(Sender<()>, Arc<Mutex<Receiver<()>>>);

    impl Rules for Slow {
        fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
            Ok(Box::new(Self(self.0.clone(), Arc::clone(&self.1))))
        }
    }

    impl Follow for Slow {
        fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
            Ok(&[])
        }
        fn accept(&mut self, _: Token) -> Result<(), ConstraintError> {
            let _ = self.0.send(());
            let _ = self.1.lock().expect("not poisoned").recv();
            Ok(())
        }
    }

    #[test]
    fn a_dropped_mask_is_given_up() {
        let masks = Masks::start(1).expect("threads");
        let (wakes, woken) = channel();
        let (seen, tokens) = channel();
        let (permit, waits) = channel();
        let slow = Slow(seen, Arc::new(Mutex::new(waits)));
        let mut follower = Follower::new(&Constraint::new(Arc::new(slow)));
        (0..3).for_each(|id| follower.accept(Token(id)));
        let unwanted = wakes.clone();
        let pending = masks.start_mask(follower, move || {
            let _ = unwanted.send(());
        });
        tokens.recv().expect("the first of the three");
        drop(pending);
        permit.send(()).expect("it waits");
        // The thread continues with the next job, and never looks at the other two tokens.
        let next = Follower::new(&Constraint::new(Arc::new(Only(Some(0)))));
        let _next = masks.start_mask(next, move || {
            let _ = wakes.send(());
        });
        woken.recv().expect("a wake-up");
        assert!(tokens.try_recv().is_err());
    }
}
