//! The engine: a [`Request`] becomes a [`Generation`], a stream of [`Delta`]s.
//!
//! A pool of contexts over one model, each on a thread of its own ([`worker`]). A sequence takes a place ([`places`]),
//! is sent to that place's worker, gets a lane there ([`cache`]), and advances with all others, a step a round
//! ([`schedule`]). How prompts are cut and prefixes reused without moving a bit is [`plan`]; text and stop strings are
//! [`text`]. Vectors of texts are made beside all that ([`embeddings`]).

mod alive;
mod bits_class;
mod cache;
mod cores;
mod draft;
mod embeddings;
mod error;
mod exact;
mod idle;
mod masks;
mod memory;
mod message;
mod models;
mod places;
mod plan;
mod queue;
mod request;
mod schedule;
mod score;
mod shared;
mod sharing;
mod supervisor;
mod tally;
mod text;
mod trial;
mod tune;
mod worker;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::task::{Context as TaskContext, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::{
    OnceCell, mpsc::UnboundedReceiver, mpsc::UnboundedSender, mpsc::unbounded_channel, watch,
};
use tracing::Instrument;

pub use cores::free_cores;
pub use embeddings::{EmbeddingBounds, EmbeddingRequest};
pub use error::EngineError;
pub use memory::{available as available_memory, least_kv_cache, total as total_memory};
pub use models::{Described, ModelInUse, Models, Status};
pub use queue::FairQueue;
pub use request::{Delta, FinishReason, PromptOutput, Request, Rows, TokenOutput, Told};
pub use tally::Tally;
pub use text::{Completion, Ending, Utf8Decoder};
pub use trial::{
    Order, Outcome, Refused, Trials, Verdict, by_process, run as try_routines, trials, verdict,
};
pub use tune::{Table, kept_widths};

use crate::config::{self, Config, KvType, Mode};
use crate::metrics::{self, Cells, Load};
use crate::model::{
    self, Adapters, ContextShape, FileHash, Heads, Model, Output, Routines, Runners,
};
use alive::Alive;
use bits_class::bits_class;
use cache::{Directory, Filled};
use cores::Cores;
use embeddings::Embeddings;
use masks::Masks;
use memory::{Need, mib};
use message::{Job, Message};
use models::Use;
use places::{Lease, Places};
use plan::Cuts;
use shared::Shared;
use sharing::Sharing;
use supervisor::Supervisor;
use tune::{Arrangement, Tuning};

/// A worker's stack, as large as that of a program's first thread, on which llama.cpp mostly runs.
const WORKER_STACK_BYTES: usize = 8 << 20;

/// Threads that find what constraints allow, at most.
const MOST_MASK_THREADS: usize = 8;

/// Why the engine could not start; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Source(#[from] model::source::SourceError),
    #[error(transparent)]
    Load(#[from] model::LoadError),
    #[error(transparent)]
    Context(#[from] model::ContextError),
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    #[error("a decode failed while it was measured: {0}")]
    Decode(#[from] model::DecodeError),
    #[error("this model makes embeddings only: how it generates cannot be measured")]
    OnlyEmbeddings,
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    #[error("what starts the engine panicked; see the log")]
    Panicked,
}

impl StartError {
    /// What those who ask for the model may know: no paths.
    fn for_clients(&self) -> &'static str {
        match self {
            Self::Source(_) => "its file could not be had",
            Self::Load(_) => "llama.cpp could not load its file",
            Self::Context(_) | Self::Memory(_) => "there was too little memory for it",
            Self::Thread(_) | Self::Panicked | Self::OnlyEmbeddings | Self::Decode(_) => {
                "the server met an error of its own"
            }
        }
    }
}

/// How a sequence is evaluated: what its bits may depend on, beside weights, adapters, tokens, llama.cpp and the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    pub mode: Mode,
    pub flash_attention: bool,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    /// Tokens that a lane holds.
    pub context_length: usize,
    /// Prompts are always cut at multiples of this.
    pub batch_tokens: usize,
    /// Prompt tokens of one decode, at most.
    pub prompt_chunk_tokens: usize,
    /// Rows of logits of one decode, at most, where a prompt is scored.
    pub logits_rows: usize,
    pub contexts: usize,
    /// Most sequences whose tokens share a decode.
    pub decode_width: usize,
    /// Threads of a decode, where their number moves bits.
    pub threads: Option<usize>,
    /// The name of all that decides how numbers are rounded.
    pub bits_class: Arc<str>,
    /// Layouts that weights could be put into.
    pub routines: Routines,
}

/// How the start ended; `None` while the model is being loaded.
pub type Started = Option<Result<(), Arc<StartError>>>;

/// A handle to the engine of a model. It is there at once; the model comes later. One that [`Models`] gave out keeps the
/// model loaded.
#[derive(Clone)]
pub struct Engine(Arc<Inner>, Option<Arc<Use>>);

struct Inner {
    settings: config::Engine,
    pool: OnceLock<Pool>,
    closing: AtomicBool,
}

/// The workers over a loaded model.
struct Pool {
    model: Arc<Model>,
    places: Arc<Places>,
    shared: Arc<Shared>,
    embeddings: Embeddings,
    /// What measures in idle moments.
    measuring: Mutex<Option<idle::Stop>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    mode: Mode,
    bits_class: Arc<str>,
    /// Routines that this CPU has and that are not used, though the settings want them.
    refused: Vec<Refused>,
    /// The model's files, once somebody has asked for their hashes.
    files: OnceCell<Arc<[FileHash]>>,
    /// Cells of all lanes.
    cells: usize,
}

/// A pool's threads while it starts. If that fails they are ended and waited for, so that nothing of it takes memory at
/// the next try.
struct Starting {
    shared: Arc<Shared>,
    /// None once the pool has them.
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        for mailbox in &self.shared.mailboxes {
            let _ = mailbox.send(Message::Close);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Starts to fetch and load the model on a thread of its own. The receiver tells how that ended.
    pub fn start(
        config: &Config,
        machinery: impl Into<Machinery>,
    ) -> (Self, watch::Receiver<Started>) {
        let machinery = machinery.into();
        let inner = Inner {
            settings: config.engine.clone(),
            pool: OnceLock::new(),
            closing: AtomicBool::new(false),
        };
        let engine = Self(Arc::new(inner), None);
        let (sender, receiver) = watch::channel(None);
        let (loader, config) = (engine.clone(), config.clone());
        let ended = sender.clone();
        let started = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    loader.load(&config, &machinery)
                }))
                .unwrap_or(Err(StartError::Panicked));
                ended.send_replace(Some(outcome.map_err(Arc::new)));
            });
        if let Err(error) = started {
            sender.send_replace(Some(Err(Arc::new(StartError::Thread(error)))));
        }
        (engine, receiver)
    }

    fn load(&self, config: &Config, machinery: &Machinery) -> Result<(), StartError> {
        let path = model::source::resolve(&config.model)?;
        tracing::trace!(path = %path.display(), "the model's file");
        tracing::info!("loading the model");
        // Pages of a mapped file are given up when memory is wanted, and layers on a graphics card lie in its memory.
        if config.model.gpu_layers == 0
            && !config.model.mmap
            && let (Ok(file), Some(available)) = (path.metadata(), memory::available())
            && file.len() > available
        {
            tracing::warn!(
                file_mib = mib(file.len()),
                available_mib = mib(available),
                "the model is larger than the memory that is available: it will be slow, or the system will end this \
                 process. A smaller quantisation of it, or a smaller model, fits"
            );
        }
        // Weights are laid out on all cores.
        let _loading = cores::loading();
        let heads = Heads::read(&path)?;
        let verdict = trial::verdict(&heads.kinds(), config, &machinery.trials)?;
        let model = Arc::new(Model::load_with(&heads, &config.model, verdict.routines)?);
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
        if model.generates() && self.0.settings.context_length > model.trained_context() {
            tracing::warn!(
                context_length = self.0.settings.context_length,
                trained_context = model.trained_context(),
                "engine.context_length is beyond what the model was trained with"
            );
        }
        if !model.can_cut() {
            tracing::info!(
                "this model keeps one state for a whole sequence: prompts are always evaluated whole"
            );
        }
        let pool = Pool::start(model, config, verdict, &machinery.runners)?;
        let _ = self.0.pool.set(pool);
        if self.0.closing.load(Ordering::SeqCst) {
            self.close();
        }
        Ok(())
    }

    fn pool(&self) -> Result<&Pool, EngineError> {
        if self.0.closing.load(Ordering::SeqCst) {
            return Err(EngineError::closing());
        }
        self.0
            .pool
            .get()
            .ok_or_else(|| EngineError::Unavailable("The model is still being loaded.".to_owned()))
    }

    /// Another handle, with which and with whose generations somebody uses it.
    fn held_by(&self, user: Arc<Use>) -> Self {
        Self(Arc::clone(&self.0), Some(user))
    }

    /// The loaded model, or why there is none.
    pub fn model(&self) -> Result<ModelInUse, EngineError> {
        let model = Arc::clone(&self.pool()?.model);
        Ok(ModelInUse::new(model, self.1.clone()))
    }

    /// Whether requests can be served; never waits.
    pub fn health(&self) -> Result<(), EngineError> {
        match self.pool()?.shared.alive.down().next() {
            None => Ok(()),
            Some(worker) => Err(EngineError::worker_down(worker)),
        }
    }

    /// Whether the loaded model can continue texts; else it makes embeddings only.
    pub fn generates(&self) -> bool {
        self.0.pool.get().is_none_or(|pool| pool.model.generates())
    }

    /// Tokens that a prompt and its completion may hold together.
    pub fn context_length(&self) -> usize {
        self.0.settings.context_length
    }

    /// What the engine promises about the bits of all answers; `None` while the model is being loaded.
    pub fn mode(&self) -> Option<Mode> {
        Some(self.0.pool.get()?.mode)
    }

    /// How a sequence is evaluated; `exact`: whether its request asks for exactness.
    pub fn evaluation(&self, exact: bool) -> Result<Evaluation, EngineError> {
        let pool = self.pool()?;
        let (settings, shared) = (&self.0.settings, &pool.shared);
        let alone = exact && !shared.exact;
        Ok(Evaluation {
            mode: if exact { Mode::Exact } else { pool.mode },
            flash_attention: settings.flash_attention,
            kv_type_k: settings.kv_type_k,
            kv_type_v: settings.kv_type_v,
            context_length: settings.context_length,
            batch_tokens: shared.cuts.batch_tokens,
            prompt_chunk_tokens: shared.chunk_tokens,
            logits_rows: shared.logits_rows,
            contexts: shared.mailboxes.len(),
            decode_width: if alone { 1 } else { shared.sharing.width() },
            threads: shared.fixed_threads.filter(|_| exact || shared.exact),
            bits_class: Arc::clone(&pool.bits_class),
            routines: pool.model.routines(),
        })
    }

    /// The files that the model was loaded from, with their hashes. They are read for that when this is asked for the first
    /// time, which takes a second for each gigabyte or two.
    pub async fn files(&self) -> Result<Arc<[FileHash]>, EngineError> {
        let engine = self.clone();
        // In a task of its own: who leaves does not have it begun anew.
        let hashed = tokio::spawn(async move { engine.hash_files().await });
        hashed.await.unwrap_or(Err(EngineError::FileGone))
    }

    async fn hash_files(&self) -> Result<Arc<[FileHash]>, EngineError> {
        let pool = self.pool()?;
        let hash = || async {
            let model = Arc::clone(&pool.model);
            let hashed = tokio::task::spawn_blocking(move || model.hash_files()).await;
            let hashed = hashed.map_err(std::io::Error::other).flatten();
            hashed.map_err(|error| {
                tracing::error!(%error, "the model's file cannot be hashed");
                EngineError::FileGone
            })
        };
        pool.files.get_or_try_init(hash).await.cloned()
    }

    /// The name of all that decides how numbers are rounded (docs/reproducibility.md); `None` while the model is being
    /// loaded.
    pub fn bits_class(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.0.pool.get()?.bits_class))
    }

    /// Routines of llama.cpp that this CPU has and that are not used, since they failed in the trial before the first
    /// decode.
    pub fn refused_routines(&self) -> &[Refused] {
        self.0.pool.get().map_or(&[], |pool| &pool.refused)
    }

    /// What an answer's bits depend on: weights, llama.cpp, mode, flash attention, the bits class, and the adapters that
    /// apply to it.
    pub fn fingerprint(&self, adapters: &Adapters, exact: bool) -> String {
        let Some(pool) = self.0.pool.get() else {
            return String::new();
        };
        let mode = if exact { Mode::Exact } else { pool.mode };
        let flash = match self.0.settings.flash_attention {
            true => "on",
            false => "off",
        };
        let mut fingerprint = format!(
            "{}-llama.cpp-{}-{}-fa-{flash}-{}",
            pool.model.fingerprint(),
            model::llama_cpp_version(),
            mode.as_str(),
            pool.bits_class,
        );
        for (id, scale) in adapters.iter() {
            if let Some(adapter) = pool.model.adapters().get(id) {
                fingerprint += &format!("-lora-{}x{scale}", adapter.fingerprint());
            }
        }
        fingerprint
    }

    /// Waits for a place for the first request (bounded: [`EngineError::QueueFull`], [`EngineError::QueueTimeout`]),
    /// then runs all of them, each as soon as a place is free, in order. Clients take turns at free places. Dropping a
    /// [`Generation`] stops its sequence within one decode.
    pub async fn submit(
        &self,
        client: Arc<str>,
        arrived: Instant,
        requests: Vec<Request>,
    ) -> Result<Vec<Generation>, EngineError> {
        let pool = self.pool()?;
        if !pool.model.generates() {
            return Err(EngineError::OnlyEmbeddings);
        }
        let tally = Tally::current();
        tally.submitted(&requests);
        let mut requests = requests.into_iter();
        let Some(first) = requests.next() else {
            return Ok(Vec::new());
        };
        let lease = pool
            .places
            .enter(&client, pool.shared.prefer(&first))
            .await?;
        metrics::waited(arrived.elapsed());
        let (deltas, generation) = Generation::new(self);
        run(&pool.shared, arrived, first, deltas, lease)?;
        let mut generations = vec![generation];
        let mut later = Vec::new();
        for request in requests {
            let (deltas, generation) = Generation::new(self);
            later.push((request, deltas));
            generations.push(generation);
        }
        if !later.is_empty() {
            let (places, shared) = (Arc::clone(&pool.places), Arc::clone(&pool.shared));
            let rest = async move {
                for (request, deltas) in later {
                    run_later(&places, &shared, arrived, &client, request, deltas).await;
                }
            };
            tokio::spawn(tally.of(rest).in_current_span());
        }
        Ok(generations)
    }

    /// What embeddings can be made of, or why none can.
    pub fn embedding_bounds(&self) -> Result<EmbeddingBounds, EngineError> {
        self.pool()?.embeddings.bounds()
    }

    /// The texts' vectors, in order, each of length 1. Waiting is bounded as in [`Engine::submit`]; clients take turns
    /// text by text. Dropping the future stops the work within one decode.
    pub async fn embed(
        &self,
        client: Arc<str>,
        arrived: Instant,
        request: EmbeddingRequest,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let embeddings = &self.pool()?.embeddings;
        embeddings.embed(&client, arrived, request).await
    }

    /// How full it is; `None` while the model is being loaded.
    pub fn load_now(&self) -> Option<Load> {
        let pool = self.0.pool.get()?;
        let (places, running, waiting) = pool.places.load();
        let alive = &pool.shared.alive;
        Some(Load {
            running,
            waiting,
            places,
            workers: alive.workers(),
            workers_alive: alive.workers() - alive.down().count(),
            embeddings_waiting: pool.embeddings.waiting(),
            // The same for all models.
            preparing: 0,
            preparations_waiting: 0,
            cells: pool.cells(),
        })
    }

    /// Ends everything that runs, and waits for the workers' threads.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::SeqCst);
        let Some(pool) = self.0.pool.get() else {
            return;
        };
        pool.places.close();
        pool.embeddings.close();
        pool.measuring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        for mailbox in &pool.shared.mailboxes {
            let _ = mailbox.send(Message::Close);
        }
        let threads =
            std::mem::take(&mut *pool.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Parts of an engine that tests replace.
#[derive(Clone)]
pub struct Machinery {
    /// Makes what workers run on of their contexts.
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

/// Measures how this machine is fastest with the model of the settings, keeps the figures for later starts, and tells
/// them.
pub fn tune(config: &Config) -> Result<Table, StartError> {
    let path = model::source::resolve(&config.model)?;
    let heads = Heads::read(&path)?;
    let verdict = trial::verdict(&heads.kinds(), config, &trials())?;
    let model = Arc::new(Model::load_with(&heads, &config.model, verdict.routines)?);
    if !model.generates() {
        return Err(StartError::OnlyEmbeddings);
    }
    let cores = Cores::new(config.engine.threads);
    tune::table(&model, config, &cores, verdict.refused)
}

/// Hands a request with its place to the worker.
fn run(
    shared: &Shared,
    arrived: Instant,
    request: Request,
    deltas: UnboundedSender<Delta>,
    lease: Lease,
) -> Result<(), EngineError> {
    static SEQUENCES: AtomicU64 = AtomicU64::new(0);
    let sequence = SEQUENCES.fetch_add(1, Ordering::Relaxed);
    let worker = lease.worker;
    shared.mailboxes[worker]
        .send(Message::Run(Box::new(Job {
            sequence,
            arrived,
            span: tracing::Span::current(),
            tally: Tally::current(),
            request,
            deltas,
            lease,
        })))
        .map_err(|_| EngineError::worker_down(worker))
}

/// Runs a further sequence of a request, as soon as a place is free. Who is not listened to any more is passed over.
async fn run_later(
    places: &Arc<Places>,
    shared: &Shared,
    arrived: Instant,
    client: &Arc<str>,
    request: Request,
    deltas: UnboundedSender<Delta>,
) {
    let lease = tokio::select! {
        lease = places.extend(client, shared.prefer(&request)) => lease,
        () = deltas.closed() => return,
    };
    let failed = deltas.clone();
    if let Err(error) = lease.and_then(|lease| run(shared, arrived, request, deltas, lease)) {
        let _ = failed.send(Delta::Failed(error));
    }
}

impl config::Engine {
    /// A context as the settings have it.
    fn shape(
        &self,
        lanes: usize,
        lane_tokens: usize,
        batch_rows: usize,
        logits_rows: usize,
    ) -> ContextShape {
        ContextShape {
            lanes,
            lane_tokens,
            batch_rows,
            logits_rows,
            output: Output::Logits,
            flash_attention: self.flash_attention,
            kv_type_k: self.kv_type_k,
            kv_type_v: self.kv_type_v,
        }
    }
}

/// Rows of logits that a context may be asked for at once, unless the settings say so: as many as a bounded piece of
/// memory holds twice, for llama.cpp computes them in one buffer and hands them out in another.
fn fitting_rows(vocab: usize) -> usize {
    const MEMORY_BYTES: usize = 64 << 20;
    let row_bytes = 2 * vocab * size_of::<f32>();
    // Prompts are cut in groups of eight rows.
    (MEMORY_BYTES / row_bytes / 8 * 8).clamp(16, 64)
}

impl Pool {
    fn start(
        model: Arc<Model>,
        config: &Config,
        verdict: Verdict,
        runners: &Runners,
    ) -> Result<Self, StartError> {
        let settings = &config.engine;
        let cores = Cores::new(settings.threads);
        let masks =
            Masks::start(cores.most().clamp(1, MOST_MASK_THREADS)).map_err(StartError::Thread)?;
        let mode = match settings.mode {
            Mode::Auto if config.model.gpu_layers > 0 => Mode::Throughput,
            Mode::Auto => Mode::Exact,
            mode => mode,
        };
        let mut tuning = Tuning::new(&model, config, mode, &cores);
        let Arrangement {
            contexts: workers,
            groups,
        } = if model.generates() {
            tuning.arrange(&cores)?
        } else {
            tracing::info!("this model makes embeddings only: it has no workers");
            Arrangement::none()
        };
        let width = groups.iter().copied().max().unwrap_or(1);
        // llama.cpp gives a context at most 256 lanes.
        let spare = model::spare_lanes(&model, model::Output::Logits);
        let lanes = settings.parallel_sequences.div_ceil(workers.max(1)) + settings.cache_lanes;
        let lanes = lanes.min(256 - spare);
        let scored_rows = match settings.logits_rows {
            0 => fitting_rows(model.vocab().len()),
            rows => rows,
        };
        // Idle moments may find wider decodes.
        let widest = width.max(tuning.widest());
        let logits_rows = scored_rows.max(widest).max(settings.draft_tokens + 1);
        let shape = settings.shape(
            lanes,
            settings.context_length,
            settings.prompt_chunk_tokens.max(logits_rows),
            logits_rows,
        );
        let need =
            Need::of(&model, &shape, workers).with_scores(model.vocab().len(), &config.limits);
        let available = memory::available();
        if model.generates() {
            tracing::info!(
                mode = mode.as_str(),
                contexts = workers,
                threads = cores.most(),
                decode_width = width,
                parallel_sequences = settings.parallel_sequences,
                lanes_per_context = lanes,
                tokens_per_lane = settings.context_length,
                "starting the engine"
            );
            tracing::info!(
                mib = mib(need.total()),
                weights_mib = mib(need.weights),
                kv_cache_mib = need.kv_cache.map(mib),
                logits_mib = mib(need.logits),
                scores_mib_at_most = mib(need.scores()),
                available_beside_weights_mib = available.map(mib),
                "memory it will take, about"
            );
        }
        // On a graphics card the cache lies in its own memory.
        if let Some(available) = available
            && config.model.gpu_layers == 0
        {
            need.check(available)?;
        }
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel()).unzip();
        let alive = Alive::new(workers);
        let shared = Arc::new(Shared {
            directory: Directory::new(workers, lanes),
            alive: alive.clone(),
            mailboxes: senders,
            cells: (0..workers).map(|_| Filled::default()).collect(),
            masks,
            exact: mode == Mode::Exact,
            // With flash attention llama.cpp splits a long lane among the threads, and adds up what they found.
            fixed_threads: settings
                .flash_attention
                .then(|| (cores.most() / workers.max(1)).max(1)),
            cores,
            sharing: Sharing::new(groups),
            shares_adapted: mode == Mode::Throughput,
            reuses_generated: mode == Mode::Throughput,
            draft_tokens: if mode == Mode::Throughput && model.can_cut() {
                settings.draft_tokens
            } else {
                0
            },
            chunk_tokens: settings.prompt_chunk_tokens,
            logits_rows: scored_rows,
            cuts: Cuts {
                batch_tokens: settings.batch_tokens,
                rows: tuning.cut_rows(),
            },
            lane_tokens: settings.context_length,
            pinned_prefixes: settings.pinned_prefixes,
        });
        let mut starting = Starting {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        // Its thread ends when this is dropped, which is before what waits for it.
        let (embeddings, handle) = Embeddings::start(&model, config, runners, &shared)?;
        starting.threads.push(handle);
        let (ready, started) = mpsc::channel();
        for (number, mailbox) in mailboxes.into_iter().enumerate() {
            let supervisor = Supervisor {
                number,
                model: Arc::clone(&model),
                shape: shape.clone(),
                runners: Arc::clone(runners),
                shared: Arc::clone(&shared),
                mailbox,
            };
            let ready = ready.clone();
            let handle = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(WORKER_STACK_BYTES)
                .spawn(move || supervisor.run(ready))
                .map_err(StartError::Thread)?;
            starting.threads.push(handle);
        }
        drop(ready);
        started.iter().collect::<Result<Vec<()>, _>>()?;
        let measuring = if model.generates() {
            let (stop, handle) =
                idle::start(tuning, Arc::clone(&shared)).map_err(StartError::Thread)?;
            starting.threads.push(handle);
            Some(stop)
        } else {
            None
        };
        let bits_class = bits_class(&model, &verdict, config, shared.fixed_threads).into();
        tracing::info!(
            bits_class = %bits_class,
            "exact servers with equal classes give equal bits (docs/reproducibility.md)"
        );
        Ok(Self {
            places: Places::new(
                if workers > 0 {
                    settings.parallel_sequences
                } else {
                    0
                },
                alive,
                config.limits.queue_length,
                Duration::from_millis(config.limits.queue_timeout_ms),
            ),
            model,
            mode,
            bits_class,
            refused: verdict.refused,
            files: OnceCell::new(),
            shared,
            embeddings,
            measuring: Mutex::new(measuring),
            threads: Mutex::new(std::mem::take(&mut starting.threads)),
            cells: workers * lanes * settings.context_length,
        })
    }

    fn cells(&self) -> Cells {
        let mut cells = Cells {
            total: self.cells,
            group: self.shared.cuts.rows,
            ..Cells::default()
        };
        for (running, cached) in self.shared.cells.iter().map(Filled::get) {
            cells.running += running;
            cells.cached += cached;
        }
        cells
    }
}

/// A running sequence: a stream that ends with [`Delta::Finished`] or [`Delta::Failed`]. Dropping it stops the
/// sequence.
#[derive(Debug)]
pub struct Generation {
    deltas: UnboundedReceiver<Delta>,
    over: bool,
    /// Its model stays loaded.
    _use: Option<Arc<Use>>,
}

impl Generation {
    fn new(engine: &Engine) -> (UnboundedSender<Delta>, Self) {
        let (sender, deltas) = unbounded_channel();
        (
            sender,
            Self {
                deltas,
                over: false,
                _use: engine.1.clone(),
            },
        )
    }
}

impl Stream for Generation {
    type Item = Delta;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Delta>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.deltas.poll_recv(task).map(|delta| {
            // A worker that is gone says nothing more.
            let delta = delta.unwrap_or_else(|| {
                Delta::Failed(EngineError::Unavailable(
                    "The worker of this request is down.".to_owned(),
                ))
            });
            self.over = matches!(delta, Delta::Finished(_) | Delta::Failed(_));
            Some(delta)
        })
    }
}
