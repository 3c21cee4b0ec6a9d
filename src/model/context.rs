//! A llama.cpp context with its lanes.
//!
//! llama-cpp-2's own context hides its pointer, and with it the number of threads per decode and the bound on logits rows,
//! which this project needs. So contexts are created with `llama-cpp-sys-2` here. The rest of the project's unsafe code is
//! in `llama`, and one call each in `huge_pages` and `simd`.
#![expect(
    unsafe_code,
    reason = "calls into llama.cpp; each block states why it holds"
)]

use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::adapter::Adapters;
use super::llama::{gpus_can_address, i32_of, u32_of, weights_ptr};
use super::loaded::Model;
use super::pooling::NamedPooling;
use super::runner::{DecodeError, LaneState, Row, Runner};
use super::token::Token;

/// The dimensions and formats of a context.
#[derive(Debug, Clone)]
pub struct ContextShape {
    /// Sequences it can hold, each in its own KV cells.
    pub lanes: usize,
    /// Tokens per lane.
    pub lane_tokens: usize,
    /// Maximum rows in one decode.
    pub batch_rows: usize,
    /// Maximum logits rows in one decode.
    pub logits_rows: usize,
    pub output: Output,
    pub flash_attention: bool,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
}

/// What a context computes for its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Logits,
    /// The final hidden state of each token. llama.cpp then outputs every row of a decode, and also computes logits if the
    /// model has them: `logits_rows` must be no less than `batch_rows`.
    Embeddings,
    /// The score of a lane's text, of a model that ranks texts. Rows are output as with `Embeddings`.
    Scores,
}

pub use crate::config::KvType;

/// Why a context could not be created.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "llama.cpp could not create a context of {lanes} lanes of {lane_tokens} tokens: {why}. \
     Lower engine.context_length, engine.parallel_sequences or engine.cache_lanes."
)]
pub struct ContextError {
    lanes: usize,
    lane_tokens: usize,
    why: &'static str,
}

/// A llama.cpp context. It stays on the thread that created it.
pub struct Context {
    raw: NonNull<sys::llama_context>,
    batch: sys::llama_batch,
    shape: ContextShape,
    vocab: usize,
    /// Numbers of one embedding.
    width: usize,
    /// Which rows of the last decode have logits, or embeddings.
    outputs: Vec<bool>,
    /// The number of threads of the last decode.
    threads: usize,
    /// llama.cpp copies cells only at the next decode that is not refused.
    copies_pending: bool,
    /// Those that apply to decodes at present.
    adapters: Adapters,
    /// Dropped after the context, which has pointers into it.
    model: Arc<Model>,
}

impl Context {
    pub fn new(model: &Arc<Model>, shape: ContextShape) -> Result<Self, ContextError> {
        // llama.cpp pads each lane to 256 cells; with the padded size our arithmetic is the same as its own.
        let lane_cells = shape.lane_tokens.next_multiple_of(256);
        // SAFETY: returns a plain struct by value.
        let mut params = unsafe { sys::llama_context_default_params() };
        let lanes = shape.lanes + spare_lanes(model, shape.output);
        params.n_ctx = u32_of(lane_cells * lanes);
        params.n_batch = u32_of(shape.batch_rows);
        params.n_ubatch = u32_of(shape.batch_rows);
        params.n_seq_max = u32_of(lanes);
        // llama.cpp asserts that there is a row for every lane.
        params.n_outputs_max = u32_of(shape.logits_rows.max(lanes));
        params.flash_attn_type = if shape.flash_attention {
            sys::LLAMA_FLASH_ATTN_TYPE_ENABLED
        } else {
            sys::LLAMA_FLASH_ATTN_TYPE_DISABLED
        };
        params.type_k = ggml_type(shape.kv_type_k);
        params.type_v = ggml_type(shape.kv_type_v);
        params.no_perf = true;
        params.embeddings = shape.output != Output::Logits;
        if shape.output == Output::Embeddings {
            // `engine::embeddings` does the pooling: llama.cpp would need all rows of a text in one decode. It warns if the
            // type differs from the metadata, and uses none if they name none.
            if model.named_pooling() != NamedPooling::Nothing {
                params.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
            }
        }
        // Each sequence has a lane of its own, and a row attends to its own lane only, so bits do not depend on
        // neighbours. Sliding windows get full cells: otherwise a lane's tail could not be cut.
        params.kv_unified = false;
        params.swa_full = true;
        let error = ContextError {
            lanes: shape.lanes,
            lane_tokens: shape.lane_tokens,
            why: "too little memory",
        };
        if !gpus_reach(model, &shape, lane_cells * lanes) {
            let why = "the keys or values of one layer are more than a GPU can address at once";
            return Err(ContextError { why, ..error });
        }
        // SAFETY: the model is loaded and outlives the context, which holds an Arc of it.
        let raw = unsafe { sys::llama_init_from_model(weights_ptr(model.weights()), params) };
        let raw = NonNull::new(raw).ok_or_else(|| error.clone())?;
        // SAFETY: allocates; freed in drop.
        let batch = unsafe { sys::llama_batch_init(i32_of(shape.batch_rows), 0, 1) };
        let mut context = Self {
            raw,
            batch,
            vocab: model.vocab().len(),
            width: model.embedding_width(),
            outputs: Vec::with_capacity(shape.batch_rows),
            threads: 1,
            copies_pending: false,
            adapters: Adapters::default(),
            shape,
            model: Arc::clone(model),
        };
        if !context.tries_adapters() {
            return Err(error);
        }
        Ok(context)
    }

    /// Decodes a token with all adapters of the model at once. If llama.cpp aborts on one of them, it does so at startup
    /// and not when a client asks for it.
    fn tries_adapters(&mut self) -> bool {
        let count = self.model.adapters().len();
        if count == 0 || self.shape.output != Output::Logits {
            return true;
        }
        self.adapt(&Adapters::new((0..count).map(|id| (id, 1.0))));
        let row = Row {
            token: Token(0),
            position: 0,
            lane: 0,
            logits: true,
        };
        let decoded = self.decode(&[row], 1).is_ok();
        self.adapt(&Adapters::default());
        self.cut(0, 0) && decoded
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is live.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }
}

impl Context {
    /// Makes the copies that are pending. llama.cpp makes them at a decode: here one of a row that is dropped, in the lane
    /// where that takes the least time.
    fn make_copies(&mut self) -> bool {
        if !self.copies_pending {
            return true;
        }
        let position = |&lane: &usize| self.filled(lane);
        let Some(lane) = (0..self.shape.lanes).min_by_key(position) else {
            return false;
        };
        let row = Row {
            token: Token(0),
            position: self.filled(lane),
            lane,
            logits: false,
        };
        // Adapters could leave NaN in the lane.
        self.adapt(&Adapters::default());
        let _ = self.decode(&[row], self.threads);
        self.cut(lane, row.position);
        !self.copies_pending
    }

    /// Filled cells of a lane.
    fn filled(&self, lane: usize) -> usize {
        // SAFETY: the lane exists.
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), i32_of(lane)) };
        usize::try_from(last + 1).unwrap_or(0)
    }
}

impl Runner for Context {
    /// If anything changes, llama.cpp plans its buffers again at the next decode.
    fn adapt(&mut self, adapters: &Adapters) {
        if self.adapters == *adapters {
            return;
        }
        let (mut loras, mut scales): (Vec<_>, Vec<_>) = adapters
            .iter()
            .filter_map(|(id, scale)| Some((self.model.adapters().get(id)?.lora().as_ptr(), scale)))
            .unzip();
        // SAFETY: the context is live; both lists have the given length, and llama.cpp copies them. The adapters
        // were loaded for this context's model, and live as long as that does.
        unsafe {
            sys::llama_set_adapters_lora(
                self.raw.as_ptr(),
                loras.as_mut_ptr(),
                loras.len(),
                scales.as_mut_ptr(),
            );
        }
        self.adapters = adapters.clone();
    }

    fn decode(&mut self, rows: &[Row], threads: usize) -> Result<(), DecodeError> {
        self.outputs.clear();
        if rows.is_empty() || rows.len() > self.shape.batch_rows {
            return Err(DecodeError::Refused("too many rows, or none"));
        }
        let outputs = match self.shape.output {
            Output::Logits => rows.iter().filter(|row| row.logits).count(),
            Output::Embeddings | Output::Scores => rows.len(),
        };
        if outputs > self.shape.logits_rows.max(self.shape.lanes) {
            return Err(DecodeError::Refused("too many rows with logits"));
        }
        for row in rows {
            if row.lane >= self.shape.lanes
                || row.position >= self.shape.lane_tokens
                || row.token.index() >= self.vocab
            {
                return Err(DecodeError::Refused(
                    "a row outside the lanes or the vocabulary",
                ));
            }
        }
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: the batch was allocated for batch_rows rows of one lane each, and i lies within (checked above).
            unsafe {
                self.batch.token.add(i).write(row.token.0);
                self.batch.pos.add(i).write(i32_of(row.position));
                self.batch.n_seq_id.add(i).write(1);
                (*self.batch.seq_id.add(i)).write(i32_of(row.lane));
                self.batch.logits.add(i).write(i8::from(row.logits));
            }
        }
        self.batch.n_tokens = i32_of(rows.len());
        self.threads = threads.max(1);
        let threads = i32_of(self.threads);
        // SAFETY: the context is live and used by this thread alone (&mut self); ids, lanes, positions and the number
        // of outputs were checked, which are what llama_decode aborts on.
        let code = unsafe {
            sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads);
            sys::llama_decode(self.raw.as_ptr(), self.batch)
        };
        // A batch is refused before cells are copied.
        self.copies_pending &= code == -1;
        match code {
            0 => {
                self.outputs.extend(rows.iter().map(|row| row.logits));
                Ok(())
            }
            1 => Err(DecodeError::Full),
            2 => Err(DecodeError::Aborted),
            code => Err(DecodeError::Failed(code)),
        }
    }

    /// The logits of a row of the last decode, one for each token of the vocabulary; `None` if not requested.
    fn logits(&self, row: usize) -> Option<&[f32]> {
        if !self.outputs.get(row).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: the row's logits were computed by the last decode; the buffer holds n_vocab floats for it and is not
        // written again before the next decode, which needs &mut self.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.raw.as_ptr(), i32_of(row));
            (!logits.is_null()).then(|| std::slice::from_raw_parts(logits, self.vocab))
        }
    }

    fn embedding(&self, row: usize) -> Option<&[f32]> {
        let is_there = self.outputs.get(row).copied().unwrap_or(false);
        if !is_there || self.shape.output != Output::Embeddings {
            return None;
        }
        // SAFETY: as for logits; with no pooling each row has n_embd_out floats.
        unsafe {
            let numbers = sys::llama_get_embeddings_ith(self.raw.as_ptr(), i32_of(row));
            (!numbers.is_null()).then(|| std::slice::from_raw_parts(numbers, self.width))
        }
    }

    fn score(&self, lane: usize) -> Option<f32> {
        if self.shape.output != Output::Scores || lane >= self.shape.lanes {
            return None;
        }
        // SAFETY: the context is live. llama.cpp finds the sequence's numbers or returns null; a model that ranks has at
        // least one.
        unsafe {
            let scores = sys::llama_get_embeddings_seq(self.raw.as_ptr(), i32_of(lane));
            (!scores.is_null()).then(|| *scores)
        }
    }

    fn cut(&mut self, lane: usize, from: usize) -> bool {
        debug_assert!(lane < self.shape.lanes);
        // SAFETY: the lane exists.
        unsafe { sys::llama_memory_seq_rm(self.memory(), i32_of(lane), i32_of(from), -1) }
    }

    /// What is cut off stays in memory, and llama.cpp multiplies it by zero as it goes over a lane. For a NaN, which
    /// adapters at a large scale can produce, the product is not zero. So a spare lane is copied over it.
    fn scrub(&mut self, lane: usize) {
        debug_assert!(lane < self.shape.lanes);
        if spare_lanes(&self.model, self.shape.output) > 0 {
            self.copies_pending = true;
            // SAFETY: both lanes exist, the spare one after those of the shape.
            unsafe {
                let (from, to) = (i32_of(self.shape.lanes), i32_of(lane));
                sys::llama_memory_seq_rm(self.memory(), to, -1, -1);
                sys::llama_memory_seq_cp(self.memory(), from, to, -1, -1);
            }
        }
        self.cut(lane, 0);
    }

    fn copy(&mut self, from: usize, to: usize) {
        debug_assert!(from != to && from.max(to) < self.shape.lanes);
        self.copies_pending = true;
        // SAFETY: both lanes exist. Only whole lanes can be copied when each has cells of its own: -1, -1 is that.
        unsafe {
            sys::llama_memory_seq_rm(self.memory(), i32_of(to), -1, -1);
            sys::llama_memory_seq_cp(self.memory(), i32_of(from), i32_of(to), -1, -1);
        }
    }

    /// The content of the lane, for another context. `None` if llama.cpp would leave something out: with a sliding window
    /// it does not write what has left the window, which a lane that is cut back needs. Copies are made before: llama.cpp
    /// would write the content from before them.
    fn export(&mut self, lane: usize) -> Option<LaneState> {
        if !self.make_copies() || self.filled(lane) > most_exported(&self.model) {
            return None;
        }
        // SAFETY: the lane exists; the buffer has the size that llama.cpp asked for.
        unsafe {
            let size = sys::llama_state_seq_get_size(self.raw.as_ptr(), i32_of(lane));
            let mut bytes = vec![0; size];
            let written = sys::llama_state_seq_get_data(
                self.raw.as_ptr(),
                bytes.as_mut_ptr(),
                size,
                i32_of(lane),
            );
            (written == size && size > 0).then_some(LaneState(bytes))
        }
    }

    /// Replaces the content of the lane. `false`: it did not fit, or a copy, which may be from or to this lane, could not be
    /// made. The lane is then empty.
    fn import(&mut self, lane: usize, state: &LaneState) -> bool {
        if !self.make_copies() {
            self.cut(lane, 0);
            return false;
        }
        // SAFETY: the lane exists, and the bytes were written by `export` of a context of the same model and shape.
        unsafe {
            sys::llama_memory_seq_rm(self.memory(), i32_of(lane), -1, -1);
            let read = sys::llama_state_seq_set_data(
                self.raw.as_ptr(),
                state.0.as_ptr(),
                state.0.len(),
                i32_of(lane),
            );
            if read != state.0.len() {
                sys::llama_memory_seq_rm(self.memory(), i32_of(lane), -1, -1);
            }
            read == state.0.len()
        }
    }

    fn model(&self) -> &Arc<Model> {
        &self.model
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both were created in `new` and are freed once.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.raw.as_ptr());
        }
    }
}

/// Whether each GPU can address the keys, and the values, of one layer of this many cells. llama.cpp aborts if not.
fn gpus_reach(model: &Model, shape: &ContextShape, cells: usize) -> bool {
    if !model.placements().on_gpu() {
        return true;
    }
    let of_layer = |bytes_k, bytes_v| {
        let bytes = model.kv_bytes_per_token(bytes_k, bytes_v)?;
        Some(bytes / model.layers() as f64 * cells as f64)
    };
    let keys = of_layer(shape.kv_type_k.bytes(), 0.0);
    let values = of_layer(0.0, shape.kv_type_v.bytes());
    let largest = keys.into_iter().chain(values).fold(0.0, f64::max);
    gpus_can_address(largest as usize)
}

/// Lanes of a context beyond those of its shape, in which nothing is ever evaluated: where adapters are loaded, one for
/// `scrub`. A context for embeddings is replaced instead.
pub fn spare_lanes(model: &Model, output: Output) -> usize {
    usize::from(output == Output::Logits && !model.adapters().is_empty())
}

/// Maximum number of cells of a lane that can be exported: with a sliding window, as many as it has.
pub fn most_exported(model: &Model) -> usize {
    // SAFETY: the model is live.
    let window = unsafe { sys::llama_model_n_swa(weights_ptr(model.weights())) };
    match usize::try_from(window) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(window) => window,
    }
}

/// Creates the runner of a worker, by the worker's number, from its context. Called again when a worker is restarted. The
/// worker for embeddings has the number after the last one.
pub type Runners = Arc<dyn Fn(usize, Context) -> Box<dyn Runner> + Send + Sync>;

/// Runs workers on their contexts directly.
pub fn contexts() -> Runners {
    Arc::new(|_, context| Box::new(context))
}

fn ggml_type(kind: KvType) -> sys::ggml_type {
    match kind {
        KvType::f32 => sys::GGML_TYPE_F32,
        KvType::f16 => sys::GGML_TYPE_F16,
        KvType::bf16 => sys::GGML_TYPE_BF16,
        KvType::q8_0 => sys::GGML_TYPE_Q8_0,
    }
}
