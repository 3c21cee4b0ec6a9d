//! The models that are served, by name: each has an engine of its own, which is started with the server or at the first
//! use, and closed when nobody has used it for a while, or to make room for another.
//!
//! Whoever is given an engine keeps it loaded: the handle, its [`ModelInUse`], and each [`super::Generation`] that comes of
//! it, hold a [`Use`].
//! When the last is dropped the model is idle. Requests for a model that is not loaded wait here, bounded in time and
//! number as those that wait for a place; where room must be made, models are loaded in the order in which they were
//! first asked for, and one that is to make room takes no new requests, so that none waits for ever.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::TryFutureExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::{Engine, EngineError, Machinery, Refused, StartError};
use crate::config::{Config, LoadAt};
use crate::metrics::Load;
use crate::model::{Facts, Model};

/// Least time between two tries to load a model.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// All models that are served.
#[derive(Clone)]
pub struct Models(Arc<Shelf>);

struct Shelf {
    /// In the order of the settings, in which the first is for requests that name none.
    entries: Vec<Entry>,
    books: Mutex<Books>,
    /// The state of some model has changed.
    changed: Notify,
    /// A model was loaded: there is another to be unloaded some day.
    loaded: Notify,
    /// How long a request may wait for its model, and how many may.
    patience: Duration,
    queue_length: usize,
    machinery: Machinery,
    runtime: Handle,
}

/// What does not change about a model.
struct Entry {
    config: Arc<Config>,
    /// As far as settings tell them.
    names: Vec<String>,
    /// `None`: it stays loaded.
    unload_after: Option<Duration>,
}

/// What changes about all of them.
struct Books {
    states: Vec<State>,
    /// Requests that wait for each to be loaded.
    waiting: Vec<usize>,
    /// What was found out about each when it was loaded last.
    known: Vec<Option<Known>>,
    /// Those that are to be loaded when there is room, in the order in which they were asked for.
    line: VecDeque<usize>,
    /// How many may be loaded at once.
    most: usize,
    closing: bool,
}

/// What only the file tells.
struct Known {
    /// The file's name, without its ending.
    name: String,
    facts: Facts,
}

enum State {
    Unloaded {
        failed: Option<Failed>,
    },
    Loading {
        engine: Engine,
        /// The server is not ready before it is there.
        at_start: bool,
    },
    Loaded {
        engine: Engine,
        /// Those who use it.
        users: Weak<Use>,
        /// When it was loaded, or the last of its users went.
        used: Instant,
        /// It is unloaded as soon as nobody uses it, for another waits for the room.
        leaving: bool,
    },
    /// Its memory is not free yet.
    Unloading,
}

/// How a try to load a model ended, and when the next may begin.
#[derive(Clone)]
struct Failed {
    why: &'static str,
    until: Instant,
}

/// Keeps a model loaded while it is there.
pub struct Use {
    shelf: Arc<Shelf>,
    number: usize,
}

impl std::fmt::Debug for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Use({})", self.number)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.shelf.released(self.number);
    }
}

/// A loaded model that somebody uses: it stays loaded, and counts as loaded, while this is there. So its weights are free
/// before those of another are loaded in their place.
#[derive(Debug, Clone)]
pub struct ModelInUse {
    // Dropped first.
    model: Arc<Model>,
    _use: Option<Arc<Use>>,
}

impl ModelInUse {
    pub(super) fn new(model: Arc<Model>, user: Option<Arc<Use>>) -> Self {
        Self { model, _use: user }
    }
}

impl Deref for ModelInUse {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

/// Whether a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Unloaded,
    /// The last try to load it failed.
    Failed,
    Loading,
    Loaded,
}

/// A model as it stands.
pub struct Described {
    pub config: Arc<Config>,
    pub status: Status,
    /// Once it has been loaded.
    pub facts: Option<Facts>,
    /// While it is loaded: the name of all that decides how numbers are rounded.
    pub bits_class: Option<Arc<str>>,
    /// While it is loaded: routines of llama.cpp that failed on this CPU, and are not used.
    pub refused: Vec<Refused>,
}

impl Models {
    /// Starts to load those that are to be loaded at the start; the future tells when all are there, or the first that
    /// failed. To be called in a runtime of tokio's.
    pub fn start(
        config: &Config,
        machinery: Machinery,
    ) -> (
        Self,
        impl Future<Output = Result<(), Arc<StartError>>> + use<>,
    ) {
        let entries: Vec<Entry> = config
            .of_each_model()
            .iter()
            .map(|one| Entry {
                names: one.model.names(),
                unload_after: (one.model.unload_after_ms > 0)
                    .then(|| Duration::from_millis(one.model.unload_after_ms)),
                config: Arc::new(one.clone()),
            })
            .collect();
        let count = entries.len();
        let shelf = Arc::new(Shelf {
            books: Mutex::new(Books {
                states: (0..count)
                    .map(|_| State::Unloaded { failed: None })
                    .collect(),
                waiting: vec![0; count],
                known: (0..count).map(|_| None).collect(),
                line: VecDeque::new(),
                most: match config.limits.loaded_models {
                    0 => count,
                    most => most,
                },
                closing: false,
            }),
            entries,
            changed: Notify::new(),
            loaded: Notify::new(),
            patience: Duration::from_millis(config.limits.queue_timeout_ms),
            queue_length: config.limits.queue_length,
            machinery,
            runtime: Handle::current(),
        });
        let mut books = shelf.books();
        let tries: Vec<_> = (0..count)
            .filter(|&number| shelf.entries[number].config.model.load == LoadAt::Start)
            .map(|number| shelf.load(&mut books, number, true))
            .map(|tried| async {
                let panicked = |_| Err(Arc::new(StartError::Panicked));
                tried.await.unwrap_or_else(panicked)
            })
            .collect();
        drop(books);
        let started = futures::future::try_join_all(tries).map_ok(|_| ());
        if shelf.entries.iter().any(|it| it.unload_after.is_some()) {
            tokio::spawn(unload_idle(Arc::clone(&shelf)));
        }
        (Self(shelf), started)
    }

    /// All names of all models, with the model that each is of; the names that come first are for requests that name
    /// none. An error while a name is not known yet.
    pub fn names(&self) -> Result<Vec<(String, usize)>, EngineError> {
        let books = self.0.books();
        let mut all = Vec::new();
        for number in 0..self.0.entries.len() {
            let names = self.0.names(&books, number);
            if names.is_empty() {
                return Err(still_loading());
            }
            all.extend(names.into_iter().map(|name| (name, number)));
        }
        Ok(all)
    }

    /// The engine of a model, which is loaded if need be: that takes its time, within the bounds of the queue. The model
    /// stays loaded for as long as the handle or a generation of it is there.
    pub async fn engine(&self, number: usize) -> Result<Engine, EngineError> {
        match self.0.look(number)? {
            Look::Ready(engine) => return Ok(engine),
            Look::Wait => {}
        }
        let _waiting = Waiting::new(&self.0, number)?;
        let loaded = async {
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                // From here on no change is missed.
                changed.as_mut().enable();
                match self.0.look(number)? {
                    Look::Ready(engine) => return Ok(engine),
                    Look::Wait => changed.await,
                }
            }
        };
        let waited = tokio::time::timeout(self.0.patience, loaded).await;
        waited.unwrap_or_else(|_| Err(self.0.too_late(number)))
    }

    /// A model's settings.
    pub fn config(&self, number: usize) -> Arc<Config> {
        Arc::clone(&self.0.entries[number].config)
    }

    /// The first model that is loaded, else the first.
    pub fn at_hand(&self) -> usize {
        let books = self.0.books();
        let is_loaded = |state: &State| matches!(state, State::Loaded { .. });
        books.states.iter().position(is_loaded).unwrap_or(0)
    }

    /// Whether the first model that is loaded can continue texts; else it makes embeddings only.
    pub fn generates(&self) -> bool {
        let books = self.0.books();
        let mut engines = books.states.iter().filter_map(|state| match state {
            State::Loaded { engine, .. } => Some(engine),
            _ => None,
        });
        engines.next().is_none_or(Engine::generates)
    }

    /// How each model stands; never waits.
    pub fn list(&self) -> Vec<Described> {
        let books = self.0.books();
        let loaded = |number: usize| match &books.states[number] {
            State::Loaded { engine, .. } => Some(engine),
            _ => None,
        };
        let one = |number: usize| Described {
            bits_class: loaded(number).and_then(Engine::bits_class),
            refused: loaded(number)
                .map(|engine| engine.refused_routines().to_vec())
                .unwrap_or_default(),
            config: Arc::clone(&self.0.entries[number].config),
            status: match &books.states[number] {
                State::Unloaded { failed: None } | State::Unloading => Status::Unloaded,
                State::Unloaded { failed: Some(_) } => Status::Failed,
                State::Loading { .. } => Status::Loading,
                State::Loaded { .. } => Status::Loaded,
            },
            facts: books.known[number].as_ref().map(|it| it.facts.clone()),
        };
        (0..self.0.entries.len()).map(one).collect()
    }

    /// Whether requests can be served: all that were to be there from the start are loaded or were, and no worker is
    /// down. Never waits.
    pub fn health(&self) -> Result<(), EngineError> {
        let books = self.0.books();
        if books.closing {
            return Err(EngineError::closing());
        }
        for (number, state) in books.states.iter().enumerate() {
            match state {
                State::Loading { at_start: true, .. } => return Err(still_loading()),
                State::Loaded { engine, .. } => engine.health()?,
                State::Unloaded { failed: Some(_) }
                    if self.0.entries[number].config.model.load == LoadAt::Start
                        && books.known[number].is_none() =>
                {
                    return Err(still_loading());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How full all of them are together; never waits.
    pub fn load_now(&self) -> Load {
        let books = self.0.books();
        let engines = books.states.iter().filter_map(|state| match state {
            State::Loaded { engine, .. } => engine.load_now(),
            _ => None,
        });
        let mut load: Load = engines.sum();
        load.waiting += books.waiting.iter().sum::<usize>();
        load
    }

    /// Ends everything that runs, and waits for the workers' threads.
    pub fn close(&self) {
        let mut books = self.0.books();
        books.closing = true;
        let engines: Vec<Engine> = books
            .states
            .iter()
            .filter_map(|state| match state {
                State::Unloaded { .. } | State::Unloading => None,
                State::Loading { engine, .. } | State::Loaded { engine, .. } => {
                    Some(engine.clone())
                }
            })
            .collect();
        drop(books);
        self.0.changed.notify_waiters();
        self.0.loaded.notify_waiters();
        // Side by side: a decode may take long.
        std::thread::scope(|scope| {
            for engine in &engines {
                scope.spawn(|| engine.close());
            }
        });
    }
}

/// What a request for a model meets.
enum Look {
    Ready(Engine),
    /// It is not loaded: whoever looks again after the next change may find it.
    Wait,
}

impl Shelf {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self, books: &Books, number: usize) -> Vec<String> {
        let names = &self.entries[number].names;
        match &books.known[number] {
            Some(known) if names.is_empty() => vec![known.name.clone()],
            _ => names.clone(),
        }
    }

    /// The name for messages and the log.
    fn name(&self, number: usize) -> &str {
        let names = &self.entries[number].names;
        names.first().map_or("default", String::as_str)
    }

    /// Gives out an engine, or sees to it that it will be there.
    fn look(self: &Arc<Self>, number: usize) -> Result<Look, EngineError> {
        let mut guard = self.books();
        let books = &mut *guard;
        if books.closing {
            return Err(EngineError::closing());
        }
        let others_wait = books.line.iter().any(|&other| other != number);
        match &mut books.states[number] {
            State::Loaded {
                engine,
                users,
                leaving,
                ..
            } => {
                if *leaving && others_wait {
                    return Ok(Look::Wait);
                }
                *leaving = false;
                let user = users.upgrade().unwrap_or_else(|| {
                    let user = Arc::new(Use {
                        shelf: Arc::clone(self),
                        number,
                    });
                    *users = Arc::downgrade(&user);
                    user
                });
                return Ok(Look::Ready(engine.held_by(user)));
            }
            State::Loading { at_start: true, .. } => return Err(still_loading()),
            State::Loading { .. } | State::Unloading => return Ok(Look::Wait),
            State::Unloaded {
                failed: Some(Failed { why, until }),
            } if Instant::now() < *until => {
                return Err(EngineError::Unavailable(format!(
                    "The model `{}` could not be loaded: {why}. Try again shortly.",
                    self.name(number)
                )));
            }
            State::Unloaded { .. } => {}
        }
        if !books.line.contains(&number) {
            books.line.push_back(number);
        }
        self.go_on(books);
        Ok(Look::Wait)
    }

    /// Loads those that are first in the line, as far as there is room; else sees to it that there will be.
    fn go_on(self: &Arc<Self>, books: &mut Books) {
        while let Some(&number) = books.line.front() {
            if books.closing {
                return;
            }
            if !matches!(books.states[number], State::Unloaded { .. }) {
                books.line.pop_front();
                continue;
            }
            let is_there = |state: &&State| !matches!(state, State::Unloaded { .. });
            if books.states.iter().filter(is_there).count() >= books.most {
                return self.make_room(books);
            }
            books.line.pop_front();
            drop(self.load(books, number, false));
        }
    }

    /// Unloads the least recently used of those that nobody uses; if all are used, the one that came first takes no
    /// further requests. Whoever has requests waiting was loaded for them, and stays until they are in.
    fn make_room(self: &Arc<Self>, books: &mut Books) {
        let mut choice: Option<(usize, bool, Instant)> = None;
        for (number, state) in books.states.iter().enumerate() {
            match state {
                State::Unloading => return,
                State::Loaded { leaving: true, .. } => return,
                State::Loaded { users, used, .. } if books.waiting[number] == 0 => {
                    let busy = users.strong_count() > 0;
                    if choice.is_none_or(|(_, other, since)| (busy, *used) < (other, since)) {
                        choice = Some((number, busy, *used));
                    }
                }
                _ => {}
            }
        }
        match choice {
            Some((number, false, _)) => self.unload(books, number, "to make room"),
            Some((number, true, _)) => {
                if let State::Loaded { leaving, .. } = &mut books.states[number] {
                    *leaving = true;
                }
            }
            None => {}
        }
    }

    /// Starts a model's engine, and writes down how that ended.
    fn load(
        self: &Arc<Self>,
        books: &mut Books,
        number: usize,
        at_start: bool,
    ) -> tokio::task::JoinHandle<Result<(), Arc<StartError>>> {
        let began = Instant::now();
        if self.entries.len() > 1 || !at_start {
            tracing::info!(model = self.name(number), "is to be loaded");
        }
        let config = &self.entries[number].config;
        let (engine, mut started) = Engine::start(config, self.machinery.clone());
        books.states[number] = State::Loading { engine, at_start };
        let shelf = Arc::clone(self);
        self.runtime.spawn(async move {
            let outcome = started.wait_for(Option::is_some).await;
            let outcome = outcome.map(|outcome| outcome.clone());
            let outcome = match outcome {
                Ok(Some(outcome)) => outcome,
                _ => Err(Arc::new(StartError::Panicked)),
            };
            shelf.tried(number, began, outcome.as_ref().err());
            outcome
        })
    }

    fn tried(self: &Arc<Self>, number: usize, began: Instant, error: Option<&Arc<StartError>>) {
        let mut guard = self.books();
        let books = &mut *guard;
        let before = std::mem::replace(&mut books.states[number], State::Unloaded { failed: None });
        let State::Loading { engine, at_start } = before else {
            books.states[number] = before;
            return;
        };
        let now = Instant::now();
        let failed = match (error, engine.model()) {
            (None, Ok(model)) => {
                books.known[number] = Some(Known {
                    name: model.name().to_owned(),
                    facts: model.facts(),
                });
                books.states[number] = State::Loaded {
                    engine,
                    users: Weak::new(),
                    used: now,
                    leaving: false,
                };
                None
            }
            (None, Err(_)) => Some("the server is shutting down"),
            (Some(error), _) => Some(error.for_clients()),
        };
        if let Some(why) = failed {
            // If there is but one, and it was to be there from the start, the server ends and tells why.
            let is_told = at_start && self.entries.len() == 1;
            if !(books.closing || is_told) {
                tracing::error!(model = self.name(number), why, "could not be loaded");
            }
            if let Some(error) = error {
                tracing::trace!(model = self.name(number), %error, "could not be loaded");
            }
            // It takes no more than half of the time, however often it is asked for.
            let until = now + (now - began).max(LEAST_PAUSE);
            books.states[number] = State::Unloaded {
                failed: Some(Failed { why, until }),
            };
        }
        self.go_on(books);
        drop(guard);
        self.changed.notify_waiters();
        self.loaded.notify_waiters();
    }

    /// Closes a model's engine, which nobody uses.
    fn unload(self: &Arc<Self>, books: &mut Books, number: usize, why: &str) {
        let before = std::mem::replace(&mut books.states[number], State::Unloading);
        let State::Loaded { engine, .. } = before else {
            books.states[number] = before;
            return;
        };
        tracing::info!(model = self.name(number), "is unloaded {why}");
        let shelf = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let _unloading = Unloading { shelf, number };
            // The last handle: with it the weights go, before the other is dropped, also in a panic.
            let engine = engine;
            engine.close();
        });
    }

    /// Nobody uses it any more.
    fn released(self: &Arc<Self>, number: usize) {
        let mut guard = self.books();
        let books = &mut *guard;
        let State::Loaded {
            users,
            used,
            leaving,
            ..
        } = &mut books.states[number]
        else {
            return;
        };
        *used = Instant::now();
        // Somebody may have come meanwhile.
        let idle = users.strong_count() == 0;
        if books.closing || !idle {
            return;
        }
        // Whoever waited for the room may have given up, or found another.
        *leaving &= books.line.iter().any(|&other| other != number);
        if *leaving {
            self.unload(books, number, "to make room");
        } else {
            self.go_on(books);
        }
    }

    /// Unloads those that nobody has used for as long as their settings say. When to look again; `None`: when another is
    /// loaded.
    fn unload_idle(self: &Arc<Self>) -> Option<Instant> {
        let mut guard = self.books();
        let books = &mut *guard;
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (number, entry) in self.entries.iter().enumerate() {
            let State::Loaded { users, used, .. } = &books.states[number] else {
                continue;
            };
            let Some(after) = entry.unload_after else {
                continue;
            };
            let idle = users.strong_count() == 0 && books.waiting[number] == 0;
            let due = if idle { *used } else { now } + after;
            if due <= now {
                self.unload(books, number, "as nobody uses it");
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }

    fn too_late(&self, number: usize) -> EngineError {
        let books = self.books();
        let why = match &books.states[number] {
            State::Loading { .. } => "it is still being loaded",
            _ => "those that are loaded are in use, and no more may be loaded at once",
        };
        EngineError::Unavailable(format!(
            "The model `{}` was not loaded within {} ms: {why}. Try again shortly.",
            self.name(number),
            self.patience.as_millis()
        ))
    }
}

/// A model's engine is being closed; when this is dropped, its memory is free.
struct Unloading {
    shelf: Arc<Shelf>,
    number: usize,
}

impl Drop for Unloading {
    fn drop(&mut self) {
        let mut guard = self.shelf.books();
        let books = &mut *guard;
        books.states[self.number] = State::Unloaded { failed: None };
        self.shelf.go_on(books);
        drop(guard);
        self.shelf.changed.notify_waiters();
    }
}

/// Counts itself among those that wait for a model, also when the wait is given up.
struct Waiting<'a> {
    shelf: &'a Arc<Shelf>,
    number: usize,
}

impl<'a> Waiting<'a> {
    fn new(shelf: &'a Arc<Shelf>, number: usize) -> Result<Self, EngineError> {
        let mut books = shelf.books();
        let waiting = books.waiting.iter().sum();
        // One may always wait, so that every model is loaded for somebody.
        if waiting >= shelf.queue_length && books.waiting[number] > 0 {
            return Err(EngineError::QueueFull { waiting });
        }
        books.waiting[number] += 1;
        Ok(Self { shelf, number })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut guard = self.shelf.books();
        let books = &mut *guard;
        books.waiting[self.number] -= 1;
        if books.waiting[self.number] == 0 {
            // Nobody wants it any more, or it is loaded already.
            books.line.retain(|&number| number != self.number);
            self.shelf.go_on(books);
            drop(guard);
            self.shelf.changed.notify_waiters();
        }
    }
}

/// Unloads models that nobody uses, until the server closes.
async fn unload_idle(shelf: Arc<Shelf>) {
    loop {
        let loaded = shelf.loaded.notified();
        tokio::pin!(loaded);
        loaded.as_mut().enable();
        if shelf.books().closing {
            return;
        }
        match shelf.unload_idle() {
            None => loaded.await,
            Some(due) => {
                let _ = tokio::time::timeout_at(due.into(), loaded).await;
            }
        }
    }
}

fn still_loading() -> EngineError {
    EngineError::Unavailable("The model is still being loaded.".to_owned())
}
