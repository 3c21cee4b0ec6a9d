//! The handle to the engine of one model.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::embeddings::{EmbeddingBounds, EmbeddingRequest};
use super::error::EngineError;
use super::evaluation::Evaluation;
use super::guard::{ModelGuard, ModelInUse};
use super::pool::Pool;
use super::trial::Refused;
use crate::config::{self, Mode};
use crate::metrics::{AdapterLoad, Load};
use crate::model::{self, Adapters, FileHash, Token};

/// A handle to the engine of a model. It exists before the model is loaded. A handle from `Models` keeps
/// the model loaded.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    guard: Option<Arc<ModelGuard>>,
}

struct Inner {
    settings: config::Engine,
    /// Set once the model is loaded.
    pool: OnceLock<Pool>,
    is_closing: AtomicBool,
}

impl Engine {
    pub(super) fn new(settings: config::Engine) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                pool: OnceLock::new(),
                is_closing: AtomicBool::new(false),
            }),
            guard: None,
        }
    }

    /// Starts to serve requests, unless the engine has been closed in the meantime.
    pub(super) fn install(&self, pool: Pool) {
        let _ = self.inner.pool.set(pool);
        if self.inner.is_closing.load(Ordering::SeqCst) {
            self.close();
        }
    }

    pub(super) fn pool(&self) -> Result<&Pool, EngineError> {
        if self.inner.is_closing.load(Ordering::SeqCst) {
            return Err(EngineError::closing());
        }
        self.loaded().ok_or_else(EngineError::still_loading)
    }

    /// `None` while the model is loading.
    fn loaded(&self) -> Option<&Pool> {
        self.inner.pool.get()
    }

    /// A handle that holds the guard, as its generations do.
    pub(super) fn guarded_by(&self, guard: Arc<ModelGuard>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            guard: Some(guard),
        }
    }

    pub(super) fn guard(&self) -> Option<Arc<ModelGuard>> {
        self.guard.clone()
    }

    /// The loaded model, or why there is none.
    pub fn model(&self) -> Result<ModelInUse, EngineError> {
        let model = Arc::clone(&self.pool()?.model);
        Ok(ModelInUse::new(model, self.guard()))
    }

    /// Whether requests can be served. Never blocks.
    pub fn health(&self) -> Result<(), EngineError> {
        match self.pool()?.shared.alive.down().next() {
            None => Ok(()),
            Some(worker) => Err(EngineError::worker_down(worker)),
        }
    }

    /// Whether the loaded model generates text; otherwise it only makes embeddings.
    pub fn generates(&self) -> bool {
        self.loaded().is_none_or(|pool| pool.model.generates())
    }

    /// Maximum number of tokens of a prompt and its completion together.
    pub fn context_length(&self) -> usize {
        self.inner.settings.context_length
    }

    /// What the engine promises about the bits of all answers; `None` while the model is loading.
    pub fn mode(&self) -> Option<Mode> {
        Some(self.loaded()?.mode)
    }

    /// How a sequence is evaluated. `exact`: its request asks for exact evaluation.
    pub fn evaluation(&self, exact: bool) -> Result<Evaluation, EngineError> {
        let pool = self.pool()?;
        let (settings, shared) = (&self.inner.settings, &pool.shared);
        let split = shared.sharing.now();
        let exact = exact || pool.mode == Mode::Exact;
        let is_alone = exact && pool.mode != Mode::Exact;
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
            decode_width: if is_alone { 1 } else { split.width() },
            least_width: if exact { 1 } else { split.least() },
            threads: shared
                .fixed_threads
                .filter(|_| exact || shared.is_reproducible()),
            bits_class: pool.bits_class_of(exact).to_string(),
            routines: Some(pool.model.routines()),
        })
    }

    /// The files that the model was loaded from, with their hashes. The first call reads them, which takes a second per
    /// gigabyte or two.
    pub async fn files(&self) -> Result<Arc<[FileHash]>, EngineError> {
        let engine = self.clone();
        // In its own task, so that a client that disconnects does not restart it.
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
                tracing::error!(%error, "cannot hash the model's file");
                EngineError::FileGone
            })
        };
        pool.files.get_or_try_init(hash).await.cloned()
    }

    /// The bits class (docs/reproducibility.md). `exact`: of requests that ask for exactness.
    pub fn bits_class(&self, exact: bool) -> Result<Arc<str>, EngineError> {
        Ok(Arc::clone(self.pool()?.bits_class_of(exact)))
    }

    /// llama.cpp routines that this CPU supports but that are not used, because they failed their trial.
    pub fn refused_routines(&self) -> &[Refused] {
        self.loaded().map_or(&[], |pool| &pool.refused)
    }

    /// What the bits of an answer depend on: weights, llama.cpp, mode, flash attention, the bits class, and the adapters
    /// that apply to it.
    pub fn fingerprint(&self, adapters: &Adapters, exact: bool) -> String {
        let Some(pool) = self.loaded() else {
            return String::new();
        };
        let mode = if exact { Mode::Exact } else { pool.mode };
        let flash = match self.inner.settings.flash_attention {
            true => "on",
            false => "off",
        };
        let mut fingerprint = format!(
            "{}-llama.cpp-{}-{}-fa-{flash}-{}",
            pool.model.fingerprint(),
            model::llama_cpp_version(),
            mode.as_str(),
            pool.bits_class_of(exact),
        );
        for (id, scale) in adapters.iter() {
            if let Some(adapter) = pool.model.adapters().get(id) {
                fingerprint += &format!("-lora-{}x{scale}", adapter.fingerprint());
            }
        }
        fingerprint
    }

    /// The limits of embedding requests, or why the model makes no embeddings.
    pub fn embedding_bounds(&self) -> Result<EmbeddingBounds, EngineError> {
        self.pool()?.embeddings.bounds()
    }

    /// The vectors of the texts, in order, each of length 1. Waiting is bounded as in [`Engine::submit`]; clients take turns
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

    /// Maximum number of tokens of a text that is ranked, or why the model ranks none.
    pub fn rank_tokens(&self) -> Result<usize, EngineError> {
        self.pool()?.embeddings.rank_tokens()
    }

    /// The scores of texts for a model that ranks them, in order. It waits and stops as [`Engine::embed`] does.
    pub async fn rank(
        &self,
        client: Arc<str>,
        arrived: Instant,
        texts: Vec<Arc<[Token]>>,
    ) -> Result<Vec<f32>, EngineError> {
        let embeddings = &self.pool()?.embeddings;
        embeddings.rank(&client, arrived, texts).await
    }

    /// The current load; `None` while the model is loading.
    pub fn load_now(&self) -> Option<Load> {
        let pool = self.loaded()?;
        let (slots, running, waiting) = pool.admission.load();
        let alive = &pool.shared.alive;
        Some(Load {
            running,
            waiting,
            slots,
            workers: alive.workers(),
            workers_alive: alive.workers() - alive.down().count(),
            embedding_requests_waiting: pool.embeddings.waiting(),
            // The same for all models.
            cpu_tasks_running: 0,
            cpu_tasks_waiting: 0,
            cells: pool.cells(),
        })
    }

    /// The loaded adapters, and how many sequences use them; none while the model is loading.
    pub fn adapters_in_use(&self) -> Vec<AdapterLoad> {
        let Some(pool) = self.loaded() else {
            return Vec::new();
        };
        let uses = pool.shared.adapters_in_use.now().into_iter();
        let adapters = uses.zip(pool.model.adapters());
        adapters
            .map(|(uses, adapter)| AdapterLoad {
                name: adapter.name().to_owned(),
                running: uses.running,
                waiting: uses.waiting,
            })
            .collect()
    }

    /// Stops all sequences, and waits for the workers' threads.
    pub fn close(&self) {
        self.inner.is_closing.store(true, Ordering::SeqCst);
        if let Some(pool) = self.loaded() {
            pool.close();
        }
    }
}
