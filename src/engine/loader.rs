//! Loads a model and starts its engine, on its own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::cores;
use super::error::StartError;
use super::handle::Engine;
use super::memory::{self, mib};
use super::pool::Pool;
use super::trial::{self, Trials, trials};
use crate::config::{self, Config};
use crate::model::{self, Heads, Model, Runners};

/// How the start ended; `None` while the model is loading.
pub type Started = Option<Result<(), Arc<StartError>>>;

/// Parts of an engine that tests replace.
#[derive(Clone)]
pub struct Machinery {
    /// Wraps the contexts that workers run on.
    pub runners: Runners,
    /// Tries llama.cpp's routines before the first decode.
    pub trials: Trials,
}

impl From<Runners> for Machinery {
    fn from(runners: Runners) -> Self {
        Self {
            runners,
            trials: trials(),
        }
    }
}

impl Engine {
    /// Starts to fetch and load the model. The receiver gets the outcome.
    pub fn start(
        config: &Config,
        machinery: impl Into<Machinery>,
    ) -> (Self, watch::Receiver<Started>) {
        let machinery = machinery.into();
        let engine = Self::new(config.engine.clone());
        let (sender, receiver) = watch::channel(None);
        let (loading, config) = (engine.clone(), config.clone());
        let outcome_sender = sender.clone();
        let thread = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || {
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| load(&loading, &config, &machinery)))
                        .unwrap_or(Err(StartError::Panicked));
                outcome_sender.send_replace(Some(outcome.map_err(Arc::new)));
            });
        if let Err(error) = thread {
            sender.send_replace(Some(Err(Arc::new(StartError::Thread(error)))));
        }
        (engine, receiver)
    }
}

fn load(engine: &Engine, config: &Config, machinery: &Machinery) -> Result<(), StartError> {
    let path = model::source::resolve(&config.model)?;
    tracing::trace!(path = %path.display(), "the model's file");
    tracing::info!("loading the model");
    warn_if_too_large(&path, &config.model);
    // Laying out the weights takes all cores.
    let _loading = cores::loading();
    let heads = Heads::read(&path)?;
    let verdict = trial::verdict(&heads.kinds(), config, &machinery.trials)?;
    let model = Arc::new(Model::load_with(&heads, &config.model, verdict.routines)?);
    log_loaded(&model, config.engine.context_length);
    engine.install(Pool::start(model, config, verdict, &machinery.runners)?);
    Ok(())
}

/// Not for a mapped file, whose pages are dropped when memory is short, nor with layers in a GPU's own memory.
fn warn_if_too_large(path: &Path, settings: &config::Model) {
    if settings.gpu_layers == 0
        && !settings.mmap
        && let (Ok(file), Some(available)) = (path.metadata(), memory::available())
        && file.len() > available
    {
        tracing::warn!(
            file_mib = mib(file.len()),
            available_mib = mib(available),
            "the model is larger than the available memory: it will be slow, or the system will kill this process. \
             Choose a smaller quantization or a smaller model"
        );
    }
}

fn log_loaded(model: &Model, context_length: usize) {
    tracing::info!(
        model = model.name(),
        description = model.description(),
        vocabulary = model.vocab().len(),
        trained_context = model.trained_context(),
        "loaded"
    );
    for (id, adapter) in model.adapters().iter().enumerate() {
        let (name, scale) = (adapter.name(), adapter.scale());
        tracing::info!(id, name, scale, "loaded a LoRA adapter");
    }
    tracing::info!(
        version = model::llama_cpp_version(),
        system = model.system_info(),
        weights = %model.placements(),
        "llama.cpp"
    );
    if model.generates() && context_length > model.trained_context() {
        tracing::warn!(
            context_length,
            trained_context = model.trained_context(),
            "engine.context_length is longer than the context that the model was trained with"
        );
    }
    if !model.can_cut() {
        tracing::info!(
            "this model keeps one state per sequence, so prompts are always evaluated whole"
        );
    }
}
