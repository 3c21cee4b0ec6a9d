//! Loads and unloads models.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::state::{Entry, Failure, LoadedFacts, RegistryState, State};
use crate::config::Config;
use crate::engine::error::{EngineError, StartError};
use crate::engine::guard::ModelGuard;
use crate::engine::handle::Engine;
use crate::engine::loader::Machinery;

/// Shortest time between two attempts to load a model.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

pub struct Registry {
    /// In the order of the settings; the first serves requests that name no model.
    pub entries: Vec<Entry>,
    state: Mutex<RegistryState>,
    /// Notified when the state of a model changes.
    pub changed: Notify,
    /// Notified when a model has been loaded, which may have to be unloaded later.
    pub loaded: Notify,
    /// How long a request may wait for its model, and how many may wait.
    pub queue_timeout: Duration,
    queue_length: usize,
    machinery: Machinery,
    runtime: Handle,
}

/// The outcome of [`Registry::lookup`].
pub enum Lookup {
    Ready(Engine),
    /// It is not loaded: look again after the next change.
    Wait,
}

impl Registry {
    pub fn new(config: &Config, machinery: Machinery) -> Self {
        let entries: Vec<Entry> = config.of_each_model().iter().map(Entry::new).collect();
        let most_loaded = match config.limits.loaded_models {
            0 => entries.len(),
            most => most,
        };
        Self {
            state: Mutex::new(RegistryState::new(entries.len(), most_loaded)),
            entries,
            changed: Notify::new(),
            loaded: Notify::new(),
            queue_timeout: Duration::from_millis(config.limits.queue_timeout_ms),
            queue_length: config.limits.queue_length,
            machinery,
            runtime: Handle::current(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a name in the settings a model is called after its file, which is known once it is loaded.
    pub fn names(&self, state: &RegistryState, model_index: usize) -> Vec<String> {
        let names = &self.entries[model_index].names;
        match &state.facts[model_index] {
            Some(facts) if names.is_empty() => vec![facts.name.clone()],
            _ => names.clone(),
        }
    }

    /// The engine of a model; if it is not loaded, queues it to be loaded.
    pub fn lookup(self: &Arc<Self>, model_index: usize) -> Result<Lookup, EngineError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_closing {
            return Err(EngineError::closing());
        }
        let others_wait = state.others_wait(model_index);
        match &mut state.states[model_index] {
            State::Loaded {
                engine,
                guard,
                is_leaving,
                ..
            } => {
                if *is_leaving && others_wait {
                    return Ok(Lookup::Wait);
                }
                *is_leaving = false;
                let model_guard = guard.upgrade().unwrap_or_else(|| {
                    let new = self.new_guard(model_index);
                    *guard = Arc::downgrade(&new);
                    new
                });
                return Ok(Lookup::Ready(engine.guarded_by(model_guard)));
            }
            State::Loading { at_start: true, .. } => return Err(EngineError::still_loading()),
            State::Loading { .. } | State::Unloading => return Ok(Lookup::Wait),
            State::Unloaded {
                failure: Some(Failure { reason, retry_at }),
            } if Instant::now() < *retry_at => {
                return Err(EngineError::Unavailable(format!(
                    "The model `{}` could not be loaded: {reason}. Try again shortly.",
                    self.entries[model_index].name()
                )));
            }
            State::Unloaded { .. } => {}
        }
        if !state.queue.contains(&model_index) {
            state.queue.push_back(model_index);
        }
        self.pump_loads(state);
        Ok(Lookup::Wait)
    }

    fn new_guard(self: &Arc<Self>, model_index: usize) -> Arc<ModelGuard> {
        let registry = Arc::clone(self);
        Arc::new(ModelGuard::new(move || registry.on_idle(model_index)))
    }

    /// Loads queued models while there is room; otherwise makes room for the first.
    fn pump_loads(self: &Arc<Self>, state: &mut RegistryState) {
        while let Some(&model_index) = state.queue.front() {
            if state.is_closing {
                return;
            }
            if !matches!(state.states[model_index], State::Unloaded { .. }) {
                state.queue.pop_front();
                continue;
            }
            let takes_room = |state: &&State| !matches!(state, State::Unloaded { .. });
            if state.states.iter().filter(takes_room).count() >= state.most_loaded {
                return self.make_room(state);
            }
            state.queue.pop_front();
            drop(self.load(state, model_index, false));
        }
    }

    /// Unloads the least recently used idle model; if all are busy, the least recently used one takes no further requests.
    /// A model for which requests wait was loaded for them, and stays until they have it.
    fn make_room(self: &Arc<Self>, state: &mut RegistryState) {
        let mut choice: Option<(usize, bool, Instant)> = None;
        for (model_index, one) in state.states.iter().enumerate() {
            match one {
                State::Unloading
                | State::Loaded {
                    is_leaving: true, ..
                } => return,
                State::Loaded {
                    guard, last_used, ..
                } if state.waiting[model_index] == 0 => {
                    let is_busy = guard.strong_count() > 0;
                    if choice.is_none_or(|(_, other, since)| (is_busy, *last_used) < (other, since))
                    {
                        choice = Some((model_index, is_busy, *last_used));
                    }
                }
                _ => {}
            }
        }
        match choice {
            Some((model_index, false, _)) => self.unload(state, model_index, "to make room"),
            Some((model_index, true, _)) => {
                if let State::Loaded { is_leaving, .. } = &mut state.states[model_index] {
                    *is_leaving = true;
                }
            }
            None => {}
        }
    }

    /// Starts a model's engine; its state changes when that has ended.
    pub fn load(
        self: &Arc<Self>,
        state: &mut RegistryState,
        model_index: usize,
        at_start: bool,
    ) -> JoinHandle<Result<(), Arc<StartError>>> {
        let begun = Instant::now();
        let entry = &self.entries[model_index];
        if self.entries.len() > 1 || !at_start {
            tracing::info!(model = entry.name(), "loading");
        }
        let (engine, mut started) = Engine::start(&entry.config, self.machinery.clone());
        state.states[model_index] = State::Loading { engine, at_start };
        let registry = Arc::clone(self);
        self.runtime.spawn(async move {
            let outcome = started.wait_for(Option::is_some).await;
            let outcome = outcome.map(|outcome| outcome.clone());
            let outcome = match outcome {
                Ok(Some(outcome)) => outcome,
                _ => Err(Arc::new(StartError::Panicked)),
            };
            registry.on_load_finished(model_index, begun, outcome.as_ref().err());
            outcome
        })
    }

    fn on_load_finished(
        self: &Arc<Self>,
        model_index: usize,
        begun: Instant,
        error: Option<&Arc<StartError>>,
    ) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let unloaded = State::Unloaded { failure: None };
        let before = std::mem::replace(&mut state.states[model_index], unloaded);
        let State::Loading { engine, at_start } = before else {
            state.states[model_index] = before;
            return;
        };
        let now = Instant::now();
        let failure = match (error, engine.model()) {
            (None, Ok(model)) => {
                state.facts[model_index] = Some(LoadedFacts {
                    name: model.name().to_owned(),
                    facts: model.facts(),
                });
                state.states[model_index] = State::Loaded {
                    engine,
                    guard: Weak::new(),
                    last_used: now,
                    is_leaving: false,
                };
                None
            }
            (None, Err(_)) => Some("the server is shutting down"),
            (Some(error), _) => Some(error.public_reason()),
        };
        if let Some(reason) = failure {
            let model = self.entries[model_index].name();
            // If the only model fails at startup, the server exits with the reason.
            let is_reported = at_start && self.entries.len() == 1;
            if !(state.is_closing || is_reported) {
                tracing::error!(model, reason, "a model could not be loaded");
            }
            if let Some(error) = error {
                tracing::trace!(model, %error, "a model could not be loaded");
            }
            // Attempts take at most half of the time, however often the model is requested.
            let retry_at = now + (now - begun).max(SHORTEST_PAUSE);
            state.states[model_index] = State::Unloaded {
                failure: Some(Failure { reason, retry_at }),
            };
        }
        self.pump_loads(state);
        drop(guard);
        self.changed.notify_waiters();
        self.loaded.notify_waiters();
    }

    /// Closes the engine of an idle model.
    fn unload(self: &Arc<Self>, state: &mut RegistryState, model_index: usize, why: &str) {
        let before = std::mem::replace(&mut state.states[model_index], State::Unloading);
        let State::Loaded { engine, .. } = before else {
            state.states[model_index] = before;
            return;
        };
        tracing::info!(model = self.entries[model_index].name(), "unloading {why}");
        let registry = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let _unloading = Unloading {
                registry,
                model_index,
            };
            // The last handle. It is dropped, and the weights with it, before `_unloading`, also in a panic.
            let engine = engine;
            engine.close();
        });
    }

    /// The last guard of a model has been dropped.
    fn on_idle(self: &Arc<Self>, model_index: usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let others_wait = state.others_wait(model_index);
        let State::Loaded {
            guard: model_guard,
            last_used,
            is_leaving,
            ..
        } = &mut state.states[model_index]
        else {
            return;
        };
        *last_used = Instant::now();
        // There may be a new guard already.
        if state.is_closing || model_guard.strong_count() > 0 {
            return;
        }
        // The requests that waited for room may have given up, or found room elsewhere.
        *is_leaving &= others_wait;
        if *is_leaving {
            self.unload(state, model_index, "to make room");
        } else {
            self.pump_loads(state);
        }
    }

    /// Unloads models that have been idle for as long as their settings say. Returns when to look again; `None`: when
    /// another model has been loaded.
    fn unload_idle(self: &Arc<Self>) -> Option<Instant> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (model_index, entry) in self.entries.iter().enumerate() {
            let State::Loaded {
                guard, last_used, ..
            } = &state.states[model_index]
            else {
                continue;
            };
            let Some(after) = entry.unload_after else {
                continue;
            };
            let is_idle = guard.strong_count() == 0 && state.waiting[model_index] == 0;
            let due = if is_idle { *last_used } else { now } + after;
            if due <= now {
                self.unload(state, model_index, "because it is idle");
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }

    /// Why a model was not loaded in time.
    pub fn load_timeout(&self, model_index: usize) -> EngineError {
        let state = self.lock();
        let reason = match &state.states[model_index] {
            State::Loading { .. } => "it is still loading",
            _ => "all loaded models are in use, and no more can be loaded at once",
        };
        EngineError::Unavailable(format!(
            "The model `{}` was not loaded within {} ms: {reason}. Try again shortly.",
            self.entries[model_index].name(),
            self.queue_timeout.as_millis()
        ))
    }
}

/// A model's engine that is being closed. When this is dropped, its memory is free.
struct Unloading {
    registry: Arc<Registry>,
    model_index: usize,
}

impl Drop for Unloading {
    fn drop(&mut self) {
        let mut guard = self.registry.lock();
        let state = &mut *guard;
        state.states[self.model_index] = State::Unloaded { failure: None };
        self.registry.pump_loads(state);
        drop(guard);
        self.registry.changed.notify_waiters();
    }
}

/// A request that waits for a model. Dropping it, also when the wait is cancelled, removes it from the count.
pub struct Waiting<'a> {
    registry: &'a Arc<Registry>,
    model_index: usize,
}

impl<'a> Waiting<'a> {
    pub fn new(registry: &'a Arc<Registry>, model_index: usize) -> Result<Self, EngineError> {
        let mut state = registry.lock();
        let waiting = state.waiting.iter().sum();
        // One may always wait per model, so that every model gets loaded.
        if waiting >= registry.queue_length && state.waiting[model_index] > 0 {
            return Err(EngineError::QueueFull { waiting });
        }
        state.waiting[model_index] += 1;
        Ok(Self {
            registry,
            model_index,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut guard = self.registry.lock();
        let state = &mut *guard;
        state.waiting[self.model_index] -= 1;
        if state.waiting[self.model_index] == 0 {
            // Nobody wants the model any more, or it is loaded already.
            state.queue.retain(|&index| index != self.model_index);
            self.registry.pump_loads(state);
            drop(guard);
            self.registry.changed.notify_waiters();
        }
    }
}

/// Unloads idle models until the server closes.
pub async fn unload_idle(registry: Arc<Registry>) {
    loop {
        let loaded = registry.loaded.notified();
        tokio::pin!(loaded);
        loaded.as_mut().enable();
        if registry.lock().is_closing {
            return;
        }
        match registry.unload_idle() {
            None => loaded.await,
            Some(due) => {
                let _ = tokio::time::timeout_at(due.into(), loaded).await;
            }
        }
    }
}
