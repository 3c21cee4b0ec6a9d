//! The calls of llama.cpp about a model that llama-cpp-2 does not offer: its tokenizer, its adapters, its properties, and
//! where its weights are. `context` has those about a context.
#![expect(
    unsafe_code,
    reason = "calls into llama.cpp; each block states why it holds"
)]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{OnceLock, PoisonError, RwLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::pooling::{NamedPooling, Pooling};
use super::routines::{Placement, Placements, Routines};
use super::token::Token;

/// A LoRA adapter in llama.cpp. It is freed with its model, which must outlive it: `Model` holds both.
#[derive(Debug)]
pub(super) struct Lora(NonNull<sys::llama_adapter_lora>);

// SAFETY: an adapter does not change after loading.
unsafe impl Send for Lora {}
// SAFETY: as above.
unsafe impl Sync for Lora {}

impl Lora {
    /// `None`: llama.cpp refused the file. `adapter` has checked for what it would abort on.
    pub(super) fn load(weights: &LlamaModel, path: &Path) -> Option<Self> {
        let path = CString::new(path.to_str()?).ok()?;
        // This reads the list of layouts, too.
        // SAFETY: the model is loaded, and has no context yet; the path is a terminated string.
        let lora = with_routines(Routines::ALL, || unsafe {
            sys::llama_adapter_lora_init(weights_ptr(weights), path.as_ptr())
        });
        NonNull::new(lora).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.0.as_ptr()
    }
}

/// llama.cpp's tokenizer. It only reads the vocabulary, so any thread may use it.
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

/// Properties of a model that llama.cpp derives; the metadata contains only some of them.
#[derive(Debug, Clone)]
pub(super) struct ModelTraits {
    /// Whether it has a KV cache or a recurrent state, so that a text can be continued.
    pub(super) has_memory: bool,
    /// Whether a token attends only to earlier ones.
    pub(super) is_causal: bool,
    pub(super) pooling: NamedPooling,
    /// The layouts of its matrices.
    pub(super) placements: Placements,
}

/// Creates the smallest possible context and evaluates one token. `None` if that fails.
pub(super) fn model_traits(weights: &LlamaModel) -> Option<ModelTraits> {
    let mut found: BTreeSet<Placement> = BTreeSet::new();
    // SAFETY: returns a plain struct by value.
    let mut params = unsafe { sys::llama_context_default_params() };
    // llama.cpp tries graphs of up to 16 rows when it makes a context.
    (params.n_ctx, params.n_batch, params.n_ubatch) = (256, 16, 16);
    // One token needs no more, and more threads would spin at barriers on a busy machine.
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
                "the first decode failed: the layout of the weights is not known"
            );
        }
        let traits = ModelTraits {
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
        Some(ModelTraits {
            placements: Placements(found),
            ..traits
        })
    }
}

/// llama.cpp asks before each step of a decode whether to observe its result. The answer is always no, but each
/// multiplication shows the layout of its weights.
extern "C" fn note_placement(step: *mut sys::ggml_tensor, _: bool, found: *mut c_void) -> bool {
    // SAFETY: llama.cpp passes a live tensor of a graph whose memory is allocated, and `model_traits`'s pointer.
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
                on_gpu: is_gpu(sys::ggml_backend_buft_get_device(buffer)),
            });
        }
    }
    false
}

/// llama.cpp's list of buffer types with special layouts, in the order in which it tries them for each tensor.
///
/// One switch turns all of them off (`use_extra_bufts`), and none turns off a single one. But a public function returns the
/// list, as an array that ends with null and is read whenever a model is loaded: it can be shortened for that time.
struct ExtraList(NonNull<sys::ggml_backend_buffer_type_t>);

/// Locked for reading by readers of the list, and for writing while it is shortened.
static EXTRA_LIST: RwLock<()> = RwLock::new(());

/// `None` if this build has none.
fn extra_list() -> Option<ExtraList> {
    // SAFETY: llama.cpp is initialized before weights are loaded and before `extra_buffer_types` is called; the function
    // has the type that llama.cpp's header gives for this name.
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

    /// Replaces the list by one that is no longer than the original.
    fn write(&self, buffers: &[sys::ggml_backend_buffer_type_t]) {
        let end = std::ptr::null_mut();
        for (place, buffer) in buffers.iter().copied().chain([end]).enumerate() {
            // SAFETY: the array held as many, and null; all readers hold `EXTRA_LIST`.
            unsafe { self.0.as_ptr().add(place).write(buffer) };
        }
    }
}

/// Whether each GPU can read a tensor of this many bytes.
pub(super) fn gpus_can_address(bytes: usize) -> bool {
    // SAFETY: llama.cpp is initialized. The context holds one tensor without its data, which nothing reads, and is freed
    // here; devices are static.
    unsafe {
        let raw = sys::ggml_init(sys::ggml_init_params {
            mem_size: 2 * sys::ggml_tensor_overhead(),
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        let tensor = sys::ggml_new_tensor_1d(raw, sys::GGML_TYPE_I8, bytes as i64);
        let can = (0..sys::ggml_backend_dev_count())
            .map(|place| sys::ggml_backend_dev_get(place))
            .filter(|&device| is_gpu(device))
            .all(|device| sys::ggml_backend_dev_supports_op(device, tensor));
        sys::ggml_free(raw);
        can
    }
}

/// # Safety
///
/// The device is one of llama.cpp's, or null.
unsafe fn is_gpu(device: sys::ggml_backend_dev_t) -> bool {
    // SAFETY: see above.
    let kind = (!device.is_null()).then(|| unsafe { sys::ggml_backend_dev_type(device) });
    let kinds = [
        sys::GGML_BACKEND_DEVICE_TYPE_GPU,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
    ];
    kind.is_some_and(|kind| kinds.contains(&kind))
}

fn buffer_name(buffer: sys::ggml_backend_buffer_type_t) -> String {
    // SAFETY: from llama.cpp's list, which is static, as its names are.
    unsafe { owned(CStr::from_ptr(sys::ggml_backend_buft_name(buffer))) }
}

/// The names of llama.cpp's buffer types with special layouts in this build and on this CPU.
pub(super) fn extra_buffer_types() -> Vec<String> {
    let _reading = EXTRA_LIST.read().unwrap_or_else(PoisonError::into_inner);
    let list = extra_list().map(|list| list.read()).unwrap_or_default();
    list.into_iter().map(buffer_name).collect()
}

/// Runs `load` so that weights get no other layouts than those of these routines.
pub(super) fn with_routines<T>(routines: Routines, load: impl FnOnce() -> T) -> T {
    /// Restores the list, however loading ends.
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

/// The number of ggml's tensor types.
pub fn kinds() -> u32 {
    sys::GGML_TYPE_COUNT
}

/// ggml's name of a tensor type, as in `q4_K`.
pub(super) fn kind_name(kind: u32) -> Option<String> {
    // SAFETY: the number is one of ggml's; a static string, or null.
    unsafe {
        let name = (kind < kinds()).then(|| sys::ggml_type_name(kind))?;
        (!name.is_null()).then(|| owned(CStr::from_ptr(name)))
    }
}

/// Bytes of a row of `width` numbers of this type; `None` if there are no such rows.
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

/// The length of an embedding.
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

/// Read once, because each call rewrites a string that all threads share.
pub(super) fn system_info() -> &'static str {
    static LINE: OnceLock<String> = OnceLock::new();
    // SAFETY: a terminated string, which no other call is writing.
    LINE.get_or_init(|| unsafe { owned(CStr::from_ptr(sys::llama_print_system_info())) })
}

pub(super) fn version() -> String {
    // SAFETY: a static string.
    unsafe { owned(CStr::from_ptr(sys::llama_version())) }
}

/// The model's pointer, which llama-cpp-2 does not expose. `LlamaModel` is `repr(transparent)` over it, and
/// Cargo.toml pins the version for which this was read.
pub(super) fn weights_ptr(weights: &LlamaModel) -> *mut sys::llama_model {
    const { assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>()) };
    // SAFETY: see above.
    unsafe { *std::ptr::from_ref(weights).cast::<*mut sys::llama_model>() }
}

/// Copies a C string that llama.cpp owns.
fn owned(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Settings are bounded far below the limits of these types, so it never saturates.
pub(super) fn i32_of(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(super) fn u32_of(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
