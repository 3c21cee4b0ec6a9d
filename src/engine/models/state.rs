//! What is known about each model, and whether it is loaded.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::guard::ModelGuard;
use crate::engine::handle::Engine;
use crate::engine::trial::Refused;
use crate::model::{Facts, adapter_names};

/// The constant properties of a model.
pub struct Entry {
    pub config: Arc<Config>,
    /// As far as the settings give them.
    pub names: Vec<String>,
    /// The names of its LoRA adapters.
    pub adapters: Vec<String>,
    /// `None`: it stays loaded.
    pub unload_after: Option<Duration>,
}

impl Entry {
    pub fn new(config: &Config) -> Self {
        Self {
            names: config.model.names(),
            adapters: adapter_names(&config.model.lora),
            unload_after: (config.model.unload_after_ms > 0)
                .then(|| Duration::from_millis(config.model.unload_after_ms)),
            config: Arc::new(config.clone()),
        }
    }

    /// The name for messages and the log.
    pub fn name(&self) -> &str {
        self.names.first().map_or("default", String::as_str)
    }
}

/// The mutable state, for all models.
pub struct RegistryState {
    pub states: Vec<State>,
    /// Requests that wait for each model to be loaded.
    pub waiting: Vec<usize>,
    /// What the last load of each model found out.
    pub facts: Vec<Option<LoadedFacts>>,
    /// Models to load when there is room, in the order in which they were requested.
    pub queue: VecDeque<usize>,
    pub most_loaded: usize,
    pub is_closing: bool,
}

impl RegistryState {
    pub fn new(models: usize, most_loaded: usize) -> Self {
        Self {
            states: (0..models)
                .map(|_| State::Unloaded { failure: None })
                .collect(),
            waiting: vec![0; models],
            facts: (0..models).map(|_| None).collect(),
            queue: VecDeque::new(),
            most_loaded,
            is_closing: false,
        }
    }

    pub fn loaded(&self, model_index: usize) -> Option<&Engine> {
        match &self.states[model_index] {
            State::Loaded { engine, .. } => Some(engine),
            _ => None,
        }
    }

    pub fn all_loaded(&self) -> impl Iterator<Item = &Engine> {
        (0..self.states.len()).filter_map(|model_index| self.loaded(model_index))
    }

    /// Whether another model waits to be loaded.
    pub fn others_wait(&self, model_index: usize) -> bool {
        self.queue.iter().any(|&other| other != model_index)
    }
}

/// Known only from the model's file.
pub struct LoadedFacts {
    /// The file's name, without its extension.
    pub name: String,
    pub facts: Facts,
}

pub enum State {
    Unloaded {
        failure: Option<Failure>,
    },
    Loading {
        engine: Engine,
        /// The server is not ready before it is loaded.
        at_start: bool,
    },
    Loaded {
        engine: Engine,
        guard: Weak<ModelGuard>,
        /// When it was loaded or became idle.
        last_used: Instant,
        /// It is unloaded as soon as it is idle, because another model is waiting for room.
        is_leaving: bool,
    },
    /// Its memory is not free yet.
    Unloading,
}

/// Why a load failed, and when the next attempt may begin.
#[derive(Clone)]
pub struct Failure {
    pub reason: &'static str,
    pub retry_at: Instant,
}

/// Whether a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Unloaded,
    /// The last attempt to load it failed.
    Failed,
    Loading,
    Loaded,
}

impl State {
    pub fn status(&self) -> Status {
        match self {
            Self::Unloaded { failure: None } | Self::Unloading => Status::Unloaded,
            Self::Unloaded { failure: Some(_) } => Status::Failed,
            Self::Loading { .. } => Status::Loading,
            Self::Loaded { .. } => Status::Loaded,
        }
    }
}

/// A model and its current status.
pub struct Described {
    pub config: Arc<Config>,
    pub status: Status,
    /// Known once it has been loaded.
    pub facts: Option<Facts>,
    /// While it is loaded.
    pub bits_class: Option<Arc<str>>,
    /// While it is loaded: llama.cpp routines that failed on this CPU and are not used.
    pub refused: Vec<Refused>,
}
