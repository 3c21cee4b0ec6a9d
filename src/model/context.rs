//! A llama.cpp context with its lanes, and the few other calls that llama-cpp-2 does not offer.
//!
//! llama-cpp-2's own context hides its pointer, and with it the number of threads of a step and the bound on logits
//! rows, which this project lives by. So the context is made over `llama-cpp-sys-2` here: all of the project's unsafe
//! code stands in this file, but for two calls of the system in `huge_pages` and one in `simd`.
#![expect(
    unsafe_code,
    reason = "calls into llama.cpp; each block states why it holds"
)]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::routines::{Placement, Placements, Routines};
use super::{Adapters, Model, NamedPooling, Pooling, Runner, Token, owned};

/// What a context is made for.
#[derive(Debug, Clone)]
pub struct ContextShape {
    /// Sequences it can hold, each in KV cells of its own.
    pub lanes: usize,
    /// Tokens that each lane holds.
    pub lane_tokens: usize,
    /// Rows of one decode, at most.
    pub batch_rows: usize,
    /// Logits rows of one decode, at most.
    pub logits_rows: usize,
    pub output: Output,
    pub flash_attention: bool,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
}

/// What a context gives for its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Logits,
    /// What the model makes of each token before logits are made of it. llama.cpp then outputs every row of a decode,
    /// and makes logits too where the model has them: `logits_rows` must be no less than `batch_rows`.
    Embeddings,
}

pub use crate::config::KvType;

/// Why a context could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "llama.cpp could not make a context of {lanes} lanes of {lane_tokens} tokens: too little memory? \
     Lower engine.context_length, engine.parallel_sequences or engine.cache_lanes."
)]
pub struct ContextError {
    lanes: usize,
    lane_tokens: usize,
}

/// Why a decode failed; details went to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("no room in the KV cache")]
    Full,
    #[error("the decode was cut short")]
    Aborted,
    #[error("the batch was refused: {0}")]
    Refused(&'static str),
    #[error("llama_decode returned {0}")]
    Failed(i32),
}

impl DecodeError {
    /// Whether the same rows may be evaluated at a second try.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Full | Self::Aborted)
    }
}

/// One token to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub token: Token,
    /// Where in its lane it stands.
    pub position: usize,
    pub lane: usize,
    /// Whether its row of logits is wanted.
    pub logits: bool,
}

/// A lane's cells, to be put into a lane of another context of the same shape.
pub struct LaneState(pub(crate) Vec<u8>);

/// A llama.cpp context. It stays on the thread that made it.
pub struct Context {
    raw: NonNull<sys::llama_context>,
    batch: sys::llama_batch,
    shape: ContextShape,
    vocab: usize,
    /// Numbers of one embedding.
    width: usize,
    /// Which rows of the last decode have logits, or embeddings.
    outputs: Vec<bool>,
    /// llama.cpp copies cells at the next decode that is not refused, not before.
    copies_pending: bool,
    /// Those that apply to decodes now.
    adapters: Adapters,
    /// Dropped after the context, which points into it.
    model: Arc<Model>,
}

impl Context {
    pub fn new(model: &Arc<Model>, shape: ContextShape) -> Result<Self, ContextError> {
        // Each lane is padded to 256 cells by llama.cpp; asking for the padded size keeps its arithmetic ours.
        let lane_cells = shape.lane_tokens.next_multiple_of(256);
        // SAFETY: returns a plain struct by value.
        let mut params = unsafe { sys::llama_context_default_params() };
        let lanes = shape.lanes + spare_lanes(model, shape.output);
        params.n_ctx = u32_of(lane_cells * lanes);
        params.n_batch = u32_of(shape.batch_rows);
        params.n_ubatch = u32_of(shape.batch_rows);
        params.n_seq_max = u32_of(lanes);
        // llama.cpp asserts that every lane could ask for a row.
        params.n_outputs_max = u32_of(shape.logits_rows.max(lanes));
        params.flash_attn_type = if shape.flash_attention {
            sys::LLAMA_FLASH_ATTN_TYPE_ENABLED
        } else {
            sys::LLAMA_FLASH_ATTN_TYPE_DISABLED
        };
        params.type_k = ggml_type(shape.kv_type_k);
        params.type_v = ggml_type(shape.kv_type_v);
        params.no_perf = true;
        if shape.output == Output::Embeddings {
            params.embeddings = true;
            // One vector is made of many by `engine::embeddings`: llama.cpp would want a text's rows in one decode. It
            // warns of what is not as the metadata say, and takes none where they say nothing.
            if model.named_pooling() != NamedPooling::Nothing {
                params.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
            }
        }
        // A lane of its own for each sequence: a row attends to its own lane only, so bits do not depend on
        // neighbours. And full cells for sliding windows, or a lane's tail could not be cut.
        params.kv_unified = false;
        params.swa_full = true;
        let error = ContextError {
            lanes: shape.lanes,
            lane_tokens: shape.lane_tokens,
        };
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

    /// Decodes a token with all adapters of the model at once. Should there be one that llama.cpp aborts on, it does so
    /// at the start and not when a client asks for it.
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

impl Runner for Context {
    /// llama.cpp plans its buffers anew at the decode after this, if anything has changed.
    fn adapt(&mut self, adapters: &Adapters) {
        if self.adapters == *adapters {
            return;
        }
        let (mut loras, mut scales): (Vec<_>, Vec<_>) = adapters
            .iter()
            .filter_map(|(id, scale)| {
                Some((self.model.adapters().get(id)?.lora().0.as_ptr(), scale))
            })
            .unzip();
        // SAFETY: the context is live; both lists have the length that is told, and llama.cpp copies them. The adapters
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
            Output::Embeddings => rows.len(),
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
        let threads = i32_of(threads.max(1));
        // SAFETY: the context is live and used by this thread alone (&mut self); ids, lanes, positions and the number
        // of outputs were checked, which are what llama_decode aborts on.
        let code = unsafe {
            sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads);
            sys::llama_decode(self.raw.as_ptr(), self.batch)
        };
        // A batch that is refused is refused before that.
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

    /// The logits of a row of the last decode, one for each token of the vocabulary; `None` if none were asked for.
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

    fn cut(&mut self, lane: usize, from: usize) -> bool {
        debug_assert!(lane < self.shape.lanes);
        // SAFETY: the lane exists.
        unsafe { sys::llama_memory_seq_rm(self.memory(), i32_of(lane), i32_of(from), -1) }
    }

    /// What is cut off stays in memory, and llama.cpp multiplies it with zero as it goes over a lane: with what is not a
    /// number, as adapters at a large scale can make it, that is no zero. So a lane that nobody uses is written over it.
    fn scrub(&mut self, lane: usize) {
        debug_assert!(lane < self.shape.lanes);
        if spare_lanes(&self.model, self.shape.output) > 0 {
            self.copies_pending = true;
            // SAFETY: both lanes exist, the spare one behind those of the shape.
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

    /// All that the lane holds, for another context. `None`: llama.cpp would leave something out. It does for models
    /// with a sliding window: what has moved out of the window is not written, though a lane that is cut back needs it.
    /// And it would write what a lane held before a copy that is still to be done.
    fn export(&mut self, lane: usize) -> Option<LaneState> {
        if self.copies_pending {
            return None;
        }
        // SAFETY: the model and the context are live, and the lane exists.
        let (window, last) = unsafe {
            (
                sys::llama_model_n_swa(weights_ptr(self.model.weights())),
                sys::llama_memory_seq_pos_max(self.memory(), i32_of(lane)),
            )
        };
        if window > 0 && last >= window {
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

    /// Replaces what the lane holds. `false`: it did not fit, and the lane is empty now; or a copy, which may be from or
    /// to this lane, is still to be done.
    fn import(&mut self, lane: usize, state: &LaneState) -> bool {
        if self.copies_pending {
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
        // SAFETY: both were made in `new` and are freed once.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.raw.as_ptr());
        }
    }
}

/// Lanes of a context beyond those of its shape, in which nothing is ever evaluated: where adapters are loaded, one for
/// `scrub`. A context for embeddings is made anew instead.
pub fn spare_lanes(model: &Model, output: Output) -> usize {
    usize::from(output == Output::Logits && !model.adapters().is_empty())
}

/// A LoRA adapter as llama.cpp holds it: it is freed with the model that it was loaded for, so that model must
/// outlive it. `Model` holds both.
#[derive(Debug)]
pub(super) struct Lora(NonNull<sys::llama_adapter_lora>);

// SAFETY: an adapter does not change after loading.
unsafe impl Send for Lora {}
// SAFETY: as above.
unsafe impl Sync for Lora {}

impl Lora {
    /// `None`: llama.cpp refused the file. What it aborts on, `adapter` has looked for before.
    pub(super) fn load(weights: &LlamaModel, path: &Path) -> Option<Self> {
        let path = CString::new(path.to_str()?).ok()?;
        // It reads the list of layouts, too.
        // SAFETY: the model is loaded, and no context is made over it yet; the path is a terminated string.
        let lora = with_routines(Routines::ALL, || unsafe {
            sys::llama_adapter_lora_init(weights_ptr(weights), path.as_ptr())
        });
        NonNull::new(lora).map(Self)
    }
}

/// Calls llama.cpp's tokenizer, which reads the vocabulary only and so may be used by any thread.
pub(super) struct Tokenizer(NonNull<sys::llama_vocab>);

// SAFETY: the vocabulary does not change after loading, and llama_tokenize keeps its state on the stack.
unsafe impl Send for Tokenizer {}
// SAFETY: as above.
unsafe impl Sync for Tokenizer {}

impl Tokenizer {
    /// The weights must outlive it: `Model` holds both.
    pub(super) fn new(weights: &LlamaModel) -> Self {
        // SAFETY: a loaded model has a vocabulary.
        let vocab = unsafe { sys::llama_model_get_vocab(weights_ptr(weights)) };
        Self(NonNull::new(vocab.cast_mut()).expect("a loaded model has a vocabulary"))
    }

    pub(super) fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Vec<Token> {
        let mut ids: Vec<i32> = Vec::with_capacity(text.len() / 3 + 8);
        loop {
            // SAFETY: text and length, buffer and capacity belong together; llama.cpp writes no more than it is given.
            let count = unsafe {
                sys::llama_tokenize(
                    self.0.as_ptr(),
                    text.as_ptr().cast::<c_char>(),
                    i32_of(text.len()),
                    ids.as_mut_ptr(),
                    i32_of(ids.capacity()),
                    add_special,
                    parse_special,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    // SAFETY: llama.cpp wrote `count` ids into the buffer.
                    unsafe { ids.set_len(count) };
                    return ids.into_iter().map(Token).collect();
                }
                // Too small: the negative count is what is needed. i32::MIN cannot be: request bodies are bounded.
                Err(_) => ids.reserve(count.unsigned_abs() as usize),
            }
        }
    }
}

/// What llama.cpp makes of a model; its metadata tell only a part of that.
#[derive(Debug, Clone)]
pub(super) struct Nature {
    /// Whether it keeps what it has evaluated, so that a text can be continued.
    pub(super) has_memory: bool,
    /// Whether a token attends only to those before it.
    pub(super) is_causal: bool,
    pub(super) pooling: NamedPooling,
    /// Where its matrices lie.
    pub(super) placements: Placements,
}

/// Asks a context that is made for this and as small as can be, and has it evaluate a token; `None` if there can be none.
pub(super) fn nature(weights: &LlamaModel) -> Option<Nature> {
    let mut found: BTreeSet<Placement> = BTreeSet::new();
    // SAFETY: returns a plain struct by value.
    let mut params = unsafe { sys::llama_context_default_params() };
    // llama.cpp tries graphs of up to 16 rows when it makes a context.
    (params.n_ctx, params.n_batch, params.n_ubatch) = (256, 16, 16);
    // One token is soon evaluated, and more threads would spin at barriers on a busy machine.
    (params.n_threads, params.n_threads_batch) = (1, 1);
    params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.cb_eval = Some(note_placement);
    params.cb_eval_user_data = std::ptr::from_mut(&mut found).cast();
    // SAFETY: the model is loaded and outlives the context, which is freed here, and so does `found`, which nothing else
    // uses until then. The batch holds one token, which every vocabulary has.
    unsafe {
        let raw = NonNull::new(sys::llama_init_from_model(weights_ptr(weights), params))?;
        let mut token = 0;
        let batch = sys::llama_batch_get_one(&raw mut token, 1);
        let has_memory = !sys::llama_get_memory(raw.as_ptr()).is_null();
        let code = if has_memory {
            sys::llama_decode(raw.as_ptr(), batch)
        } else {
            sys::llama_encode(raw.as_ptr(), batch)
        };
        if code != 0 {
            tracing::warn!(
                code,
                "a first decode failed: where the weights lie is not known"
            );
        }
        let nature = Nature {
            has_memory,
            is_causal: sys::llama_get_causal_attn(raw.as_ptr()),
            pooling: match sys::llama_pooling_type(raw.as_ptr()) {
                sys::LLAMA_POOLING_TYPE_MEAN => NamedPooling::Pools(Pooling::Mean),
                sys::LLAMA_POOLING_TYPE_CLS => NamedPooling::Pools(Pooling::Cls),
                sys::LLAMA_POOLING_TYPE_LAST => NamedPooling::Pools(Pooling::Last),
                sys::LLAMA_POOLING_TYPE_RANK => NamedPooling::Ranks,
                _ => NamedPooling::Nothing,
            },
            placements: Placements::default(),
        };
        sys::llama_free(raw.as_ptr());
        Some(Nature {
            placements: Placements(found),
            ..nature
        })
    }
}

/// Is asked before each step of a decode whether its result is wanted. None is, but each multiplication says where the
/// weights lie that it reads.
extern "C" fn note_placement(step: *mut sys::ggml_tensor, _: bool, found: *mut c_void) -> bool {
    // SAFETY: llama.cpp passes a live tensor of a graph whose memory is allocated, and `nature`'s pointer.
    unsafe {
        let (step, found) = (&*step, &mut *found.cast::<BTreeSet<Placement>>());
        if !matches!(step.op, sys::GGML_OP_MUL_MAT | sys::GGML_OP_MUL_MAT_ID) {
            return false;
        }
        let Some(matrix) = step.src[0].as_ref().filter(|it| !it.buffer.is_null()) else {
            return false;
        };
        // The others are cells of the KV cache.
        if sys::ggml_backend_buffer_get_usage(matrix.buffer)
            == sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS
        {
            let buffer = sys::ggml_backend_buffer_get_type(matrix.buffer);
            found.insert(Placement {
                kind: kind_name(matrix.type_).unwrap_or_default(),
                buffer: buffer_name(buffer),
                is_plain: sys::ggml_backend_buft_is_host(buffer),
            });
        }
    }
    false
}

/// llama.cpp's list of buffer types for layouts of their own, in the order in which it tries them for each tensor.
///
/// There is one switch for all of them (`use_extra_bufts`), and none for one. But the list is handed out by a public
/// function, as an array that ends with null and is read for each model that is loaded: while one is, it can be shortened.
struct ExtraList(NonNull<sys::ggml_backend_buffer_type_t>);

/// Read by those who read the list, written by those who change it for a while.
static EXTRA_LIST: RwLock<()> = RwLock::new(());

/// `None`: this build has none.
fn extra_list() -> Option<ExtraList> {
    // SAFETY: llama.cpp is initialised before weights are loaded and before `extra_buffer_types` is called; the function is of the type
    // that llama.cpp's header gives for this name.
    unsafe {
        let cpu = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if cpu.is_null() {
            return None;
        }
        let get = sys::ggml_backend_reg_get_proc_address(
            sys::ggml_backend_dev_backend_reg(cpu),
            c"ggml_backend_dev_get_extra_bufts".as_ptr(),
        );
        let get: sys::ggml_backend_dev_get_extra_bufts_t = std::mem::transmute(get);
        NonNull::new(get?(cpu)).map(ExtraList)
    }
}

impl ExtraList {
    fn read(&self) -> Vec<sys::ggml_backend_buffer_type_t> {
        // SAFETY: the array is static and ends with null.
        unsafe {
            (0..)
                .map(|place| *self.0.as_ptr().add(place))
                .take_while(|buffer| !buffer.is_null())
                .collect()
        }
    }

    /// Of no more than it held at first.
    fn write(&self, buffers: &[sys::ggml_backend_buffer_type_t]) {
        let end = std::ptr::null_mut();
        for (place, buffer) in buffers.iter().copied().chain([end]).enumerate() {
            // SAFETY: the array held as many, and null; all readers hold `EXTRA_LIST`.
            unsafe { self.0.as_ptr().add(place).write(buffer) };
        }
    }
}

fn buffer_name(buffer: sys::ggml_backend_buffer_type_t) -> String {
    // SAFETY: of llama.cpp's list, which is static, as its names are.
    unsafe { owned(CStr::from_ptr(sys::ggml_backend_buft_name(buffer))) }
}

/// The names of llama.cpp's buffer types for layouts of their own that this CPU and build have.
pub(super) fn extra_buffer_types() -> Vec<String> {
    let _reading = EXTRA_LIST.read().unwrap_or_else(PoisonError::into_inner);
    let list = extra_list().map(|list| list.read()).unwrap_or_default();
    list.into_iter().map(buffer_name).collect()
}

/// Runs `load`, which puts weights into no other layouts than these routines have.
pub(super) fn with_routines<T>(routines: Routines, load: impl FnOnce() -> T) -> T {
    /// Puts the list back, however the loading ends.
    struct Whole(ExtraList, Vec<sys::ggml_backend_buffer_type_t>);
    impl Drop for Whole {
        fn drop(&mut self) {
            self.0.write(&self.1);
        }
    }
    if routines == Routines::ALL {
        let _reading = EXTRA_LIST.read().unwrap_or_else(PoisonError::into_inner);
        return load();
    }
    let _writing = EXTRA_LIST.write().unwrap_or_else(PoisonError::into_inner);
    let _whole = extra_list().map(|list| {
        let all = list.read();
        let mut allowed = all.clone();
        allowed.retain(|&buffer| routines.allow(&buffer_name(buffer)));
        list.write(&allowed);
        Whole(list, all)
    });
    load()
}

/// Numbers of ggml's kinds of tensors are below this.
pub fn kinds() -> u32 {
    sys::GGML_TYPE_COUNT
}

/// ggml's name of a kind of tensor, as in `q4_K`.
pub(super) fn kind_name(kind: u32) -> Option<String> {
    // SAFETY: the number is one of ggml's; a static string, or null.
    unsafe {
        let name = (kind < kinds()).then(|| sys::ggml_type_name(kind))?;
        (!name.is_null()).then(|| owned(CStr::from_ptr(name)))
    }
}

/// Bytes of a row of `width` numbers of this kind; `None` if there are no such rows.
pub(super) fn row_bytes(kind: u32, width: usize) -> Option<usize> {
    // SAFETY: the number is one of ggml's, and its blocks fill the row.
    unsafe {
        let block = (kind < kinds()).then(|| sys::ggml_blck_size(kind))?;
        let block = usize::try_from(block).ok().filter(|&block| block > 0)?;
        let fits = width.is_multiple_of(block);
        fits.then(|| sys::ggml_row_size(kind, width as i64))
            .filter(|&bytes| bytes > 0)
    }
}

/// Numbers of one embedding.
pub(super) fn embedding_width(weights: &LlamaModel) -> usize {
    // SAFETY: the model is loaded.
    let width = unsafe { sys::llama_model_n_embd_out(weights_ptr(weights)) };
    usize::try_from(width).unwrap_or(0)
}

pub(super) fn has_encoder(weights: &LlamaModel) -> bool {
    // SAFETY: the model is loaded.
    unsafe { sys::llama_model_has_encoder(weights_ptr(weights)) }
}

pub(super) fn description(weights: &LlamaModel) -> String {
    let mut buffer = [0 as c_char; 256];
    // SAFETY: llama.cpp writes a terminated string of at most the buffer's length.
    unsafe {
        sys::llama_model_desc(weights_ptr(weights), buffer.as_mut_ptr(), buffer.len());
        owned(CStr::from_ptr(buffer.as_ptr()))
    }
}

pub(super) fn system_info() -> String {
    // SAFETY: a static string.
    unsafe { owned(CStr::from_ptr(sys::llama_print_system_info())) }
}

pub(super) fn version() -> String {
    // SAFETY: a static string.
    unsafe { owned(CStr::from_ptr(sys::llama_version())) }
}

/// The model's pointer, which llama-cpp-2 does not hand out. `LlamaModel` is `repr(transparent)` over it, and
/// Cargo.toml pins the version for which this was read.
fn weights_ptr(weights: &LlamaModel) -> *mut sys::llama_model {
    const { assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>()) };
    // SAFETY: see above.
    unsafe { *std::ptr::from_ref(weights).cast::<*mut sys::llama_model>() }
}

fn ggml_type(kind: KvType) -> sys::ggml_type {
    match kind {
        KvType::f32 => sys::GGML_TYPE_F32,
        KvType::f16 => sys::GGML_TYPE_F16,
        KvType::bf16 => sys::GGML_TYPE_BF16,
        KvType::q8_0 => sys::GGML_TYPE_Q8_0,
    }
}

/// Settings are bounded far below these types' limits; saturation is for the compiler.
fn i32_of(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn u32_of(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
