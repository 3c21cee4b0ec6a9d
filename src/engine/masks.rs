//! Threads that find which tokens a constraint allows next, while the decode that they are wanted after runs. They are
//! few; what one of them finds slowly keeps no decode waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::worker::Message;
use crate::sampling::Follower;

/// Grammars nest, and what follows them calls itself.
const STACK_BYTES: usize = 16 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The threads end when this is dropped.
pub struct Masks(Sender<Job>);

/// What is lent to one of the threads comes back here. Once this is dropped, it is not worked on any further.
pub struct Lent {
    back: Receiver<Follower>,
    _wanted: Arc<()>,
}

/// Nothing comes back any more.
#[derive(Debug)]
pub struct Lost;

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
                        // In a statement of its own, so that others may wait while this one works.
                        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { return };
                        if catch_unwind(AssertUnwindSafe(job)).is_err() {
                            tracing::error!(
                                "what finds the tokens that a constraint allows panicked"
                            );
                        }
                    }
                })?;
        }
        Ok(Self(sender))
    }

    /// Has it found what is allowed next; the worker with this mailbox is told when it is.
    pub fn find(&self, mut follower: Follower, mailbox: Sender<Message>) -> Lent {
        let (back, lent) = channel();
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let _ = self.0.send(Box::new(move || {
            follower.prepare_while(|| is_wanted.strong_count() > 0);
            // Nobody takes it back if the sequence has ended.
            if back.send(follower).is_ok() {
                let _ = mailbox.send(Message::Allowed);
            }
        }));
        Lent {
            back: lent,
            _wanted: wanted,
        }
    }
}

impl Lent {
    /// What was lent, if it is back.
    pub fn take_back(&self) -> Result<Option<Follower>, Lost> {
        match self.back.try_recv() {
            Ok(follower) => Ok(Some(follower)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Lost),
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
    fn what_is_lent_comes_back_and_the_worker_is_told() {
        let masks = Masks::start(2).expect("threads");
        let (mailbox, messages) = channel();
        let follower = |only| Follower::new(&Constraint::new(Arc::new(Only(only))));
        let mut lent: Vec<Lent> = (0..3)
            .map(|only| masks.find(follower(Some(only)), mailbox.clone()))
            .collect();
        lent.push(masks.find(follower(None), mailbox.clone()));
        // The one that panics is told of as well, and its thread lives on.
        for _ in 0..4 {
            assert!(matches!(messages.recv(), Ok(Message::Allowed)));
        }
        let mut back: Vec<Follower> = lent
            .iter()
            .map(|lent| lent.take_back().expect("not lost").expect("back"))
            .collect();
        assert!(back.pop().expect("the last").allowed().is_err());
        for (only, follower) in back.iter_mut().enumerate() {
            assert!(follower.allowed().expect("allowed")[only]);
            follower.accept(Token(0));
            assert!(follower.allowed().expect("allowed")[(only + 1) % 3]);
        }
        // Whoever is not waited for is not told of.
        drop(masks.find(follower(None), mailbox.clone()));
        let last = masks.find(follower(Some(0)), mailbox.clone());
        drop(masks);
        assert!(matches!(messages.recv(), Ok(Message::Allowed)));
        while last.take_back().is_ok_and(|back| back.is_none()) {
            std::thread::yield_now();
        }
    }

    /// Tells of each token, and waits for leave to go on.
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
            let _ = self.1.lock().expect("leave").recv();
            Ok(())
        }
    }

    #[test]
    fn what_nobody_waits_for_is_given_up() {
        let masks = Masks::start(1).expect("threads");
        let (mailbox, messages) = channel();
        let (told, tokens) = channel();
        let (leave, waits) = channel();
        let slow = Slow(told, Arc::new(Mutex::new(waits)));
        let mut follower = Follower::new(&Constraint::new(Arc::new(slow)));
        (0..3).for_each(|id| follower.accept(Token(id)));
        let lent = masks.find(follower, mailbox.clone());
        tokens.recv().expect("the first of the three");
        drop(lent);
        leave.send(()).expect("it waits");
        // The thread goes on with the next job, and the other two tokens are never looked at.
        let next = Follower::new(&Constraint::new(Arc::new(Only(Some(0)))));
        let _next = masks.find(next, mailbox);
        assert!(matches!(messages.recv(), Ok(Message::Allowed)));
        assert!(tokens.try_recv().is_err());
    }
}
