//! The workers over a loaded model, and what they share.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::adapters_in_use::AdaptersInUse;
use super::admission::Admission;
use super::alive::Alive;
use super::bits_class::bits_class;
use super::cache::{Directory, Filled, Rules};
use super::cores::Cores;
use super::embeddings::Embeddings;
use super::error::StartError;
use super::idle;
use super::masks::Masks;
use super::memory::{self, Need, mib};
use super::message::Message;
use super::plan::Cuts;
use super::shape::{context_shape, default_logits_rows};
use super::shared::Shared;
use super::split::{Sharing, Split};
use super::supervisor::Supervisor;
use super::thread;
use super::trial::{Refused, Verdict};
use super::tune::{Arrangement, Tuning};
use crate::config::{Config, Mode};
use crate::metrics::Cells;
use crate::model::{self, ContextShape, FileHash, Model, Output, Runners};

/// Maximum number of threads that compute what constraints allow.
const MOST_MASK_THREADS: usize = 8;

/// The workers over a loaded model.
pub struct Pool {
    pub model: Arc<Model>,
    pub mode: Mode,
    pub bits_class: Arc<str>,
    /// That of requests that ask for exactness.
    pub exact_bits_class: Arc<str>,
    /// Routines that this CPU supports and the settings allow, but that are not used.
    pub refused: Vec<Refused>,
    /// The model's files with their hashes, once requested.
    pub files: OnceCell<Arc<[FileHash]>>,
    pub admission: Arc<Admission>,
    pub shared: Arc<Shared>,
    pub embeddings: Embeddings,
    /// Stops the measurements in idle moments when it is dropped.
    measuring: Mutex<Option<idle::Stop>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// KV cells of all lanes.
    total_cells: usize,
}

impl Pool {
    pub fn start(
        model: Arc<Model>,
        config: &Config,
        verdict: Verdict,
        runners: &Runners,
    ) -> Result<Self, StartError> {
        let cores = Cores::new(config.engine.threads);
        let mut tuning = Tuning::new(&model, config, resolved_mode(config), &cores);
        let arrangement = if model.generates() {
            tuning.arrange(&cores)?
        } else {
            tracing::info!("this model only makes embeddings: it has no workers");
            Arrangement::none()
        };
        let (mode, least_width) = (tuning.mode(), tuning.least());
        let layout = Layout::new(&model, config, arrangement, tuning.widest());
        check_memory(&model, config, mode, &layout, &cores)?;
        let cut_rows = tuning.cut_rows();
        let (shared, mailboxes) = shared(&model, config, mode, &layout, cores, cut_rows)?;
        let shared = Arc::new(shared);
        let mut starting = Starting::new(&shared);
        // Its thread ends when this is dropped, which is before `starting` waits for the threads.
        let (embeddings, handle) = Embeddings::start(&model, config, runners, &shared)?;
        starting.threads.push(handle);
        starting.start_workers(&model, &layout.shape, runners, mailboxes)?;
        let measuring = if model.generates() {
            let (stop, handle) =
                idle::start(tuning, Arc::clone(&shared)).map_err(StartError::Thread)?;
            starting.threads.push(handle);
            Some(stop)
        } else {
            None
        };
        let of_width =
            |width| bits_class(&model, &verdict, config, shared.fixed_threads, width).into();
        let (bits_class, exact_bits_class) = (of_width(least_width), of_width(1));
        tracing::info!(
            bits_class = %bits_class,
            "servers in exact or invariant mode with equal classes give equal bits (docs/reproducibility.md)"
        );
        let slots = match layout.workers {
            0 => 0,
            _ => config.engine.parallel_sequences,
        };
        Ok(Self {
            admission: Admission::new(
                slots,
                shared.alive.clone(),
                config.limits.queue_length,
                Duration::from_millis(config.limits.queue_timeout_ms),
            ),
            model,
            mode,
            bits_class,
            exact_bits_class,
            refused: verdict.refused,
            files: OnceCell::new(),
            shared,
            embeddings,
            measuring: Mutex::new(measuring),
            threads: Mutex::new(starting.finish()),
            total_cells: layout.workers * layout.shape.lanes * layout.shape.lane_tokens,
        })
    }

    /// The bits class of requests that ask for exactness, or of others.
    pub fn bits_class_of(&self, exact: bool) -> &Arc<str> {
        match exact {
            true => &self.exact_bits_class,
            false => &self.bits_class,
        }
    }

    pub fn cells(&self) -> Cells {
        let mut cells = Cells {
            total: self.total_cells,
            ..Cells::default()
        };
        for (running, cached) in self.shared.cells.iter().map(Filled::get) {
            cells.running += running;
            cells.cached += cached;
        }
        cells
    }

    /// Stops all sequences, and waits for the threads.
    pub fn close(&self) {
        self.admission.close();
        self.embeddings.close();
        self.measuring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        close_workers(&self.shared, threads);
    }
}

fn close_workers(shared: &Shared, threads: Vec<JoinHandle<()>>) {
    for mailbox in &shared.mailboxes {
        let _ = mailbox.send(Message::Close);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn resolved_mode(config: &Config) -> Mode {
    match config.engine.mode {
        Mode::Auto if config.model.gpu_layers > 0 => Mode::Throughput,
        Mode::Auto => Mode::Exact,
        mode => mode,
    }
}

/// The contexts of a pool.
struct Layout {
    workers: usize,
    /// How the sequences of a context share decodes.
    split: Split,
    /// Maximum number of rows of logits of one decode when a prompt is scored.
    scored_rows: usize,
    shape: ContextShape,
}

impl Layout {
    /// `widest`: the widest decode that idle moments may find.
    fn new(model: &Model, config: &Config, arrangement: Arrangement, widest: usize) -> Self {
        /// llama.cpp's limit for a context.
        const MOST_LANES: usize = 256;
        let settings = &config.engine;
        let Arrangement {
            contexts: workers,
            split,
        } = arrangement;
        let spare = model::spare_lanes(model, Output::Logits);
        let each = settings.parallel_sequences.div_ceil(workers.max(1));
        // Padding is evaluated in lanes that no sequence needs at the moment.
        let lanes = (each + settings.cache_lanes).max(split.most_rows());
        let scored_rows = match settings.logits_rows {
            0 => default_logits_rows(model.vocab().len()),
            rows => rows,
        };
        let logits_rows = scored_rows
            .max(split.most_rows())
            .max(widest)
            .max(settings.draft_tokens + 1);
        let shape = context_shape(
            settings,
            lanes.min(MOST_LANES - spare),
            settings.context_length,
            settings.prompt_chunk_tokens.max(logits_rows),
            logits_rows,
        );
        Self {
            workers,
            split,
            scored_rows,
            shape,
        }
    }
}

/// Logs what the engine needs, and fails if less memory is available.
fn check_memory(
    model: &Model,
    config: &Config,
    mode: Mode,
    layout: &Layout,
    cores: &Cores,
) -> Result<(), StartError> {
    let need = Need::of(model, &layout.shape, layout.workers)
        .with_scores(model.vocab().len(), &config.limits);
    let available = memory::available();
    let on_gpu = config.model.gpu_layers > 0;
    if model.generates() {
        tracing::info!(
            mode = mode.as_str(),
            contexts = layout.workers,
            threads = cores.most(),
            decode_width = layout.split.width(),
            parallel_sequences = config.engine.parallel_sequences,
            lanes_per_context = layout.shape.lanes,
            tokens_per_lane = layout.shape.lane_tokens,
            "starting the engine"
        );
        tracing::info!(
            mib = mib(need.total()),
            weights_mib = mib(need.weights),
            kv_cache_mib = need.kv_cache.map(mib),
            logits_mib = mib(need.logits),
            scores_mib_at_most = mib(need.scores()),
            available_beside_weights_mib = available.map(mib),
            gpu_free_mib = on_gpu.then(memory::free_on_gpus).map(mib),
            "estimated memory"
        );
    }
    // On a GPU the KV cache is in the GPU's own memory.
    if let Some(available) = available
        && !on_gpu
    {
        need.check(available)?;
    }
    Ok(())
}

/// What the workers share, and the receiving end of each worker's mailbox.
fn shared(
    model: &Model,
    config: &Config,
    mode: Mode,
    layout: &Layout,
    cores: Cores,
    cut_rows: usize,
) -> Result<(Shared, Vec<Receiver<Message>>), StartError> {
    let (settings, workers) = (&config.engine, layout.workers);
    let masks =
        Masks::start(cores.most().clamp(1, MOST_MASK_THREADS)).map_err(StartError::Thread)?;
    let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel()).unzip();
    let shared = Shared {
        directory: Directory::new(workers, layout.shape.lanes),
        alive: Alive::new(workers),
        mailboxes: senders,
        cells: (0..workers).map(|_| Filled::default()).collect(),
        masks,
        adapters_in_use: AdaptersInUse::new(model.adapters().len()),
        mode,
        // With flash attention llama.cpp splits a long lane among the threads and adds up their results.
        fixed_threads: settings
            .flash_attention
            .then(|| (cores.most() / workers.max(1)).max(1)),
        cores,
        sharing: Sharing::new(layout.split.clone()),
        shares_adapted: mode == Mode::Throughput,
        draft_tokens: if mode == Mode::Throughput && model.can_cut() {
            settings.draft_tokens
        } else {
            0
        },
        chunk_tokens: settings.prompt_chunk_tokens,
        logits_rows: layout.scored_rows,
        cuts: Cuts {
            batch_tokens: settings.batch_tokens,
            rows: cut_rows,
        },
        cache_rules: Rules {
            lane_tokens: settings.context_length,
            most_fetched: model::most_exported(model),
            pinned_prefixes: settings.pinned_prefixes,
            reuses_generated: mode == Mode::Throughput,
        },
    };
    Ok((shared, mailboxes))
}

/// The threads of a pool while it starts. If the start fails, they are stopped and joined, so that they hold no memory
/// during the next attempt.
struct Starting {
    shared: Arc<Shared>,
    /// Empty once the pool owns them.
    threads: Vec<JoinHandle<()>>,
}

impl Starting {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            threads: Vec::new(),
        }
    }

    /// Starts a supervised worker per mailbox, and waits until each has its context.
    fn start_workers(
        &mut self,
        model: &Arc<Model>,
        shape: &ContextShape,
        runners: &Runners,
        mailboxes: Vec<Receiver<Message>>,
    ) -> Result<(), StartError> {
        let (ready, started) = mpsc::channel();
        for (number, mailbox) in mailboxes.into_iter().enumerate() {
            let supervisor = Supervisor {
                number,
                model: Arc::clone(model),
                shape: shape.clone(),
                runners: Arc::clone(runners),
                shared: Arc::clone(&self.shared),
                mailbox,
            };
            let ready = ready.clone();
            let handle = thread::spawn(format!("worker-{number}"), move || supervisor.run(ready))?;
            self.threads.push(handle);
        }
        drop(ready);
        started.iter().collect()
    }

    fn finish(mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.threads)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            close_workers(&self.shared, std::mem::take(&mut self.threads));
        }
    }
}
