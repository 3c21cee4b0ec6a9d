//! A runner that fails on command, and counts what it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use candor::model::{Adapters, Context, DecodeError, LaneState, Model, Row, Runner, Runners};

/// What a decode meets.
pub enum Fault {
    Error(DecodeError),
    Panic,
}

/// Asked before each decode, on the worker's thread, with the worker's number. It may wait.
pub type Trouble = Arc<dyn Fn(usize, &[Row]) -> Option<Fault> + Send + Sync>;

/// Decodes that were asked for, of all workers.
pub type Decodes = Arc<AtomicUsize>;

struct Faulty {
    number: usize,
    context: Context,
    trouble: Trouble,
    decodes: Decodes,
}

/// Runners that meet this trouble.
pub fn faulty(trouble: Trouble) -> (Runners, Decodes) {
    let decodes = Decodes::default();
    let counted = Arc::clone(&decodes);
    let runners: Runners = Arc::new(move |number, context| {
        Box::new(Faulty {
            number,
            context,
            trouble: Arc::clone(&trouble),
            decodes: Arc::clone(&counted),
        })
    });
    (runners, decodes)
}

impl Runner for Faulty {
    fn model(&self) -> &Arc<Model> {
        self.context.model()
    }
    fn adapt(&mut self, adapters: &Adapters) {
        self.context.adapt(adapters);
    }
    fn decode(&mut self, rows: &[Row], threads: usize) -> Result<(), DecodeError> {
        self.decodes.fetch_add(1, Ordering::SeqCst);
        match (self.trouble)(self.number, rows) {
            None => self.context.decode(rows, threads),
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Panic) => panic!("on command"),
        }
    }
    fn logits(&self, row: usize) -> Option<&[f32]> {
        self.context.logits(row)
    }
    fn embedding(&self, row: usize) -> Option<&[f32]> {
        self.context.embedding(row)
    }
    fn score(&self, lane: usize) -> Option<f32> {
        self.context.score(lane)
    }
    fn cut(&mut self, lane: usize, from: usize) -> bool {
        self.context.cut(lane, from)
    }
    fn scrub(&mut self, lane: usize) {
        self.context.scrub(lane);
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.context.copy(from, to);
    }
    fn export(&mut self, lane: usize) -> Option<LaneState> {
        self.context.export(lane)
    }
    fn import(&mut self, lane: usize, state: &LaneState) -> bool {
        self.context.import(lane, state)
    }
}

/// Whoever comes to a closed gate waits until it is opened.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub fn close(&self) {
        self.state.lock().expect("not poisoned").closed = true;
    }

    /// Opens it when it is dropped: whoever waits must not keep a test that failed from ending.
    pub fn opener(&self) -> Opener<'_> {
        Opener(self)
    }

    pub fn open(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = false;
        self.changed.notify_all();
    }

    pub fn pass(&self) {
        let mut state = self.state.lock().expect("not poisoned");
        state.waiting += 1;
        self.changed.notify_all();
        while state.closed {
            state = self.changed.wait(state).expect("not poisoned");
        }
        state.waiting -= 1;
    }

    /// Waits until so many stand before it.
    pub fn wait_for(&self, waiting: usize) {
        let mut state = self.state.lock().expect("not poisoned");
        while state.waiting < waiting {
            state = self.changed.wait(state).expect("not poisoned");
        }
    }
}

pub struct Opener<'a>(&'a Gate);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}
