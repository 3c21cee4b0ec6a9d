//! The handle to all served models.

use std::future::Future;
use std::sync::Arc;

use futures::TryFutureExt;

use super::registry::{Lookup, Registry, Waiting, unload_idle};
use super::state::{Described, State};
use crate::config::{Config, LoadAt};
use crate::engine::error::{EngineError, StartError};
use crate::engine::handle::Engine;
use crate::engine::loader::Machinery;
use crate::metrics::{AdapterLoad, Load};

/// All served models. Methods take a model's index in the settings.
#[derive(Clone)]
pub struct Models(Arc<Registry>);

impl Models {
    /// Starts to load the models that are to be loaded at startup. The future completes when all of them are, or with the
    /// first failure. Must be called within a tokio runtime.
    pub fn start(
        config: &Config,
        machinery: Machinery,
    ) -> (
        Self,
        impl Future<Output = Result<(), Arc<StartError>>> + use<>,
    ) {
        let registry = Arc::new(Registry::new(config, machinery));
        let mut state = registry.lock();
        let loads: Vec<_> = (0..registry.entries.len())
            .filter(|&index| registry.entries[index].config.model.load == LoadAt::Start)
            .map(|index| registry.load(&mut state, index, true))
            .map(|load| async {
                let panicked = |_| Err(Arc::new(StartError::Panicked));
                load.await.unwrap_or_else(panicked)
            })
            .collect();
        drop(state);
        let started = futures::future::try_join_all(loads).map_ok(|_| ());
        if registry.entries.iter().any(|it| it.unload_after.is_some()) {
            tokio::spawn(unload_idle(Arc::clone(&registry)));
        }
        (Self(registry), started)
    }

    /// All names of all models, each with its model's index. The first model serves requests that name none. Fails while a
    /// name is not known yet.
    pub fn names(&self) -> Result<Vec<(String, usize)>, EngineError> {
        let state = self.0.lock();
        let mut all = Vec::new();
        for model_index in 0..self.0.entries.len() {
            let names = self.0.names(&state, model_index);
            if names.is_empty() {
                return Err(EngineError::still_loading());
            }
            all.extend(names.into_iter().map(|name| (name, model_index)));
        }
        Ok(all)
    }

    /// The names of all LoRA adapters, each with its model's index and its own among that model's.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        let models = self.0.entries.iter().enumerate();
        models.flat_map(|(model_index, entry)| {
            let adapters = entry.adapters.iter().enumerate();
            adapters.map(move |(id, name)| (name.as_str(), model_index, id))
        })
    }

    /// The engine of a model. If it is not loaded, waits until it is, within the bounds of the queue. The model stays loaded
    /// as long as the handle or one of its generations exists.
    pub async fn engine(&self, model_index: usize) -> Result<Engine, EngineError> {
        match self.0.lookup(model_index)? {
            Lookup::Ready(engine) => return Ok(engine),
            Lookup::Wait => {}
        }
        let _waiting = Waiting::new(&self.0, model_index)?;
        let loaded = async {
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                // From here on no change is missed.
                changed.as_mut().enable();
                match self.0.lookup(model_index)? {
                    Lookup::Ready(engine) => return Ok(engine),
                    Lookup::Wait => changed.await,
                }
            }
        };
        let waited = tokio::time::timeout(self.0.queue_timeout, loaded).await;
        waited.unwrap_or_else(|_| Err(self.0.load_timeout(model_index)))
    }

    /// A model's settings.
    pub fn config(&self, model_index: usize) -> Arc<Config> {
        Arc::clone(&self.0.entries[model_index].config)
    }

    /// The first loaded model; if none is loaded, the first.
    pub fn at_hand(&self) -> usize {
        let state = self.0.lock();
        let is_loaded = |state: &State| matches!(state, State::Loaded { .. });
        state.states.iter().position(is_loaded).unwrap_or(0)
    }

    /// Whether the first loaded model generates text; otherwise it only makes embeddings.
    pub fn generates(&self) -> bool {
        let state = self.0.lock();
        state.all_loaded().next().is_none_or(Engine::generates)
    }

    /// Every model with its current status. Never blocks.
    pub fn list(&self) -> Vec<Described> {
        let state = self.0.lock();
        let describe = |model_index: usize| {
            let engine = state.loaded(model_index);
            Described {
                bits_class: engine.and_then(|engine| engine.bits_class(false).ok()),
                refused: engine
                    .map(|engine| engine.refused_routines().to_vec())
                    .unwrap_or_default(),
                config: self.config(model_index),
                status: state.states[model_index].status(),
                facts: state.facts[model_index].as_ref().map(|it| it.facts.clone()),
            }
        };
        (0..self.0.entries.len()).map(describe).collect()
    }

    /// Whether requests can be served: every model that is to be loaded at startup has been, and no worker is down.
    /// Never blocks.
    pub fn health(&self) -> Result<(), EngineError> {
        let registry = self.0.lock();
        if registry.is_closing {
            return Err(EngineError::closing());
        }
        for (model_index, state) in registry.states.iter().enumerate() {
            match state {
                State::Loading { at_start: true, .. } => return Err(EngineError::still_loading()),
                State::Loaded { engine, .. } => engine.health()?,
                State::Unloaded { failure: Some(_) }
                    if self.0.entries[model_index].config.model.load == LoadAt::Start
                        && registry.facts[model_index].is_none() =>
                {
                    return Err(EngineError::still_loading());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The current load of all engines together. Never blocks.
    pub fn load_now(&self) -> Load {
        let state = self.0.lock();
        let mut load: Load = state.all_loaded().filter_map(Engine::load_now).sum();
        load.waiting += state.waiting.iter().sum::<usize>();
        load
    }

    /// The adapters of all loaded models, and how many sequences use them. Never blocks.
    pub fn adapters_in_use(&self) -> Vec<AdapterLoad> {
        let state = self.0.lock();
        let loads = state.all_loaded().flat_map(Engine::adapters_in_use);
        loads.collect()
    }

    /// Stops all sequences, and waits for the workers' threads.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.is_closing = true;
        let engines: Vec<Engine> = state
            .states
            .iter()
            .filter_map(|state| match state {
                State::Unloaded { .. } | State::Unloading => None,
                State::Loading { engine, .. } | State::Loaded { engine, .. } => {
                    Some(engine.clone())
                }
            })
            .collect();
        drop(state);
        self.0.changed.notify_waiters();
        self.0.loaded.notify_waiters();
        // In parallel: a decode may take long.
        std::thread::scope(|scope| {
            for engine in &engines {
                scope.spawn(|| engine.close());
            }
        });
    }
}
