//! The model: text ⇄ tokens, and tokens → rows of logits. The only module that knows llama.cpp's handles, what of
//! them is bound to a thread, and where weights come from.

mod adapter;
#[cfg(any(feature = "portable", test))]
mod backends;
mod context;
mod files;
mod gguf;
mod huge_pages;
mod routines;
mod runner;
mod simd;
pub mod source;
mod specimen;
mod vocab;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType};
use sha2::{Digest, Sha256};

use crate::config;

pub use adapter::{Adapter, Adapters, LARGEST_SCALE};
pub use context::kinds;
pub use context::{
    Context, ContextError, ContextShape, DecodeError, LaneState, Output, Row, spare_lanes,
};
pub use files::{FileHash, hash_files};
pub use routines::{Placement, Placements, Routines, has_feature, instructions};
pub use runner::{Runner, Runners, contexts};
pub use simd::{Loop, vectorised};
pub use specimen::write as write_specimen;
pub use vocab::{Fim, Sorted, Vocab};

/// The id of a token of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub i32);

impl Token {
    /// The token's place in the vocabulary, and in a row of logits.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Loaded weights with their vocabulary. Contexts are made over it; it outlives them all.
pub struct Model {
    weights: LlamaModel,
    vocab: Vocab,
    name: String,
    description: String,
    fingerprint: String,
    files: files::Files,
    nature: context::Nature,
    routines: Routines,
    /// Freed by llama.cpp with the weights.
    adapters: Vec<Adapter>,
    /// Those that apply to whoever asks for nothing else.
    default_adapters: Adapters,
}

/// How one vector is made of those of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one: that of the token which encoders put before a text.
    Cls,
    /// The last one.
    Last,
}

/// What a model's metadata say about embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPooling {
    Nothing,
    /// It tells how well two texts go together.
    Ranks,
    Pools(Pooling),
}

/// What a model is like, for those who list models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// llama.cpp's description, as in `llama 256M Q4_1`.
    pub description: String,
    pub parameters: u64,
    /// Of all its tensors.
    pub size_bytes: u64,
    pub vocabulary: usize,
    /// Numbers that stand for a token within it.
    pub embedding_width: usize,
    pub trained_context: usize,
    /// Whether it can continue a text; otherwise it makes embeddings only.
    pub generates: bool,
}

/// Why a model could not be loaded; written for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("llama.cpp could not be initialised: {0}")]
    Backend(String),
    #[error("cannot read {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "{path} is damaged, or not whole: {why}. It has {size} bytes. Download or copy it again."
    )]
    Damaged {
        path: String,
        why: &'static str,
        size: u64,
    },
    #[error(
        "llama.cpp could not load {path}; its own messages stand above (with CANDOR_LOG=debug, all of them). Is it a whole \
         GGUF file of an architecture that llama.cpp {} knows, and is there memory for it?",
        llama_cpp_version()
    )]
    Load { path: String },
    #[error(
        "{path} has an encoder of its own (as T5 has): such models are not run here. Decoders (as Llama) are, and, for \
         embeddings, models like BERT"
    )]
    Encoder { path: String },
    #[error(
        "llama.cpp could not make even the smallest context over {path}. Is it a whole model, and is there memory for it?"
    )]
    Context { path: String },
    #[error(
        "model.lora holds {setting:?}, of which {why}. Allowed: [NAME=]PATH[@SCALE], as in \"adapter.gguf\" or \
         \"pirate=adapters/pirate.gguf@0.5\""
    )]
    AdapterSetting { setting: String, why: &'static str },
    #[error(
        "model.lora holds {given} adapters. Allowed: at most {}",
        adapter::MOST_ADAPTERS
    )]
    TooManyAdapters { given: usize },
    #[error("the LoRA adapter {path} {why}")]
    Adapter { path: String, why: String },
    #[error(
        "llama.cpp could not load the LoRA adapter {path}. Is the file whole, and was it made for this model? \
         (CANDOR_LOG=debug shows llama.cpp's own messages)"
    )]
    AdapterLoad { path: String },
}

/// What is known of a model's files before its weights are loaded.
pub struct Heads {
    path: PathBuf,
    /// Of each of its files; `None` where one could not be read, of which llama.cpp has more to say.
    heads: Vec<Option<gguf::Head>>,
}

impl Heads {
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        // llama.cpp would tell of it in its own words, and not of all.
        let head = match gguf::Head::read(path) {
            Err(gguf::HeadError::Damaged(why)) => {
                return Err(LoadError::Damaged {
                    path: path.display().to_string(),
                    why,
                    size: path.metadata().map_or(0, |file| file.len()),
                });
            }
            head => head.ok(),
        };
        let others = source::files(path).into_iter().filter(|file| file != path);
        let others = others.map(|file| gguf::Head::read(&file).ok());
        Ok(Self {
            path: path.to_owned(),
            heads: std::iter::once(head).chain(others).collect(),
        })
    }

    /// How its matrices are stored, by ggml's numbers, in ascending order.
    pub fn kinds(&self) -> Vec<u32> {
        let tensors = self.heads.iter().flatten().flat_map(|head| &head.tensors);
        let matrices = tensors.filter(|tensor| tensor.sizes[1] > 1);
        let kinds: BTreeSet<u32> = matrices.map(|tensor| tensor.kind).collect();
        kinds.into_iter().collect()
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        let sizes = source::files(&self.path).into_iter().map(|file| {
            let metadata = file.metadata();
            metadata.map_or(0, |metadata| metadata.len())
        });
        sizes.sum()
    }

    /// As [`Model::fingerprint`].
    pub fn fingerprint(&self) -> std::io::Result<String> {
        fingerprint(&self.path)
    }

    /// Architecture, parameters and kinds of matrices, as in `llama, 134.5M parameters, q4_1`; `None` if the first file's
    /// head could not be read.
    pub fn description(&self) -> Option<String> {
        let first = self.heads.first()?.as_ref()?;
        let architecture = first.text("general.architecture").unwrap_or("unknown");
        let tensors = self.heads.iter().flatten().flat_map(|head| &head.tensors);
        let sizes = tensors.map(|tensor| tensor.sizes.map(|size| size as f64));
        let parameters: f64 = sizes.map(|sizes| sizes.iter().product::<f64>()).sum();
        let parameters = match parameters {
            many if many >= 1e9 => format!("{:.1}B", many / 1e9),
            few => format!("{:.1}M", few / 1e6),
        };
        let kinds = self.kinds();
        let kinds: Vec<String> = kinds.into_iter().filter_map(context::kind_name).collect();
        Some(format!(
            "{architecture}, {parameters} parameters, {}",
            kinds.join(" and ")
        ))
    }

    /// As [`Model::kv_bytes_per_token`], as far as the metadata tell before llama.cpp reads them.
    pub fn kv_bytes_per_token(&self, bytes_k: f64, bytes_v: f64) -> Option<f64> {
        let head = self.heads.first()?.as_ref()?;
        let architecture = head.text("general.architecture")?;
        let whole = |name: &str| head.whole(&format!("{architecture}.{name}"));
        let attention = |name: &str| whole(&format!("attention.{name}")).map(|it| it.to_string());
        // Recurrent and hybrid models have such a state instead of a cache, or beside it.
        if whole("ssm.state_size").is_some() || !layers_are_alike(architecture, attention) {
            return None;
        }
        let number = |name: &str| whole(name).map(|it| it as f64);
        let even = number("embedding_length")? / number("attention.head_count")?.max(1.0);
        let key = number("attention.key_length").unwrap_or(even);
        let value = number("attention.value_length").unwrap_or(even);
        let rows = number("block_count")? * number("attention.head_count_kv")?;
        Some(rows * (key * bytes_k + value * bytes_v))
    }
}

impl Model {
    /// As [`Model::load_with`], with all routines that there are.
    pub fn load(path: &Path, settings: &config::Model) -> Result<Self, LoadError> {
        Self::load_with(&Heads::read(path)?, settings, Routines::ALL)
    }

    /// Loads the weights, into no other layouts than `routines` have; takes seconds to minutes, so call it on a thread
    /// that may block.
    pub fn load_with(
        heads: &Heads,
        settings: &config::Model,
        routines: Routines,
    ) -> Result<Self, LoadError> {
        let path = heads.path.as_path();
        let shown = path.display().to_string();
        // What is wrong with the settings is told before seconds are spent.
        let named = adapter::Named::all(&settings.lora)?;
        let backend = backend()?;
        let fingerprint = fingerprint(path).map_err(|source| LoadError::Read {
            path: shown.clone(),
            source,
        })?;
        let files = files::Files::of(path).map_err(|source| LoadError::Read {
            path: shown.clone(),
            source,
        })?;
        let params = LlamaModelParams::default()
            .with_n_gpu_layers(settings.gpu_layers)
            .with_use_mmap(settings.mmap);
        let load = || LlamaModel::load_from_file(backend, path, &params);
        let load = || context::with_routines(routines, load);
        let weights = huge_pages::gather(load).map_err(|_| LoadError::Load {
            path: shown.clone(),
        })?;
        if context::has_encoder(&weights) {
            return Err(LoadError::Encoder { path: shown });
        }
        let nature = context::nature(&weights).ok_or(LoadError::Context { path: shown })?;
        let adapters = named
            .into_iter()
            .map(|named| named.load(&weights, path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            default_adapters: Adapters::new(adapters.iter().map(Adapter::scale).enumerate()),
            adapters,
            vocab: Vocab::new(&weights),
            name: path.file_stem().map_or_else(
                || "model".to_owned(),
                |stem| stem.to_string_lossy().into_owned(),
            ),
            description: context::description(&weights),
            fingerprint,
            files,
            nature,
            routines,
            weights,
        })
    }

    /// The layouts that its weights could be put into.
    pub fn routines(&self) -> Routines {
        self.routines
    }

    /// Where its matrices lie, and so by which routines they are multiplied.
    pub fn placements(&self) -> &Placements {
        &self.nature.placements
    }

    /// llama.cpp's line about the CPU, without a routine that could multiply this model's weights, and does not.
    pub fn system_info(&self) -> String {
        routines::system_info_of(self.placements(), &system_info())
    }

    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The file's name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// llama.cpp's description, as in `llama 256M Q4_1`.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Twelve hexadecimal digits that tell these weights from others.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The files that it was loaded from, with their hashes, for which all of them are read. An error, too, if they are not
    /// what was loaded any more.
    pub fn hash_files(&self) -> std::io::Result<Arc<[FileHash]>> {
        self.files.hash()
    }

    /// The LoRA adapters that were loaded with it. A request may call one by its place here, or by its name.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The adapters that apply to whoever asks for nothing else.
    pub fn default_adapters(&self) -> &Adapters {
        &self.default_adapters
    }

    /// Tokens of context that the model was trained with.
    pub fn trained_context(&self) -> usize {
        self.weights.n_ctx_train() as usize
    }

    /// The Jinja template that its metadata has for conversations.
    pub fn chat_template(&self) -> Option<String> {
        self.weights
            .meta_val_str("tokenizer.chat_template")
            .ok()
            .filter(|template| !template.is_empty())
    }

    /// Whether texts can be continued with it; else it makes embeddings only, as BERT does.
    pub fn generates(&self) -> bool {
        self.nature.has_memory && self.nature.is_causal
    }

    /// Whether a token attends only to those before it, so that a text can be evaluated in pieces.
    pub fn is_causal(&self) -> bool {
        self.nature.is_causal
    }

    /// What its metadata say about embeddings.
    pub fn named_pooling(&self) -> NamedPooling {
        self.nature.pooling
    }

    /// Numbers of one embedding.
    pub fn embedding_width(&self) -> usize {
        context::embedding_width(&self.weights)
    }

    /// What it is like.
    pub fn facts(&self) -> Facts {
        Facts {
            description: self.description.clone(),
            parameters: self.weights.n_params(),
            size_bytes: self.weights.size(),
            vocabulary: self.vocab.len(),
            embedding_width: self.embedding_width(),
            trained_context: self.trained_context(),
            generates: self.generates(),
        }
    }

    /// Whether a lane's tail can be cut off and the rest used again. Recurrent and hybrid models keep one state for
    /// the whole sequence, so their prompts are evaluated whole.
    pub fn can_cut(&self) -> bool {
        !self.weights.is_recurrent() && !self.weights.is_hybrid()
    }

    /// Bytes that one token takes in the KV cache, for the given bytes a number; `None` if the metadata does not tell.
    pub fn kv_bytes_per_token(&self, bytes_k: f64, bytes_v: f64) -> Option<f64> {
        let architecture = self.weights.meta_val_str("general.architecture").ok()?;
        let attention = |name: &str| {
            let name = format!("{architecture}.attention.{name}");
            self.weights.meta_val_str(&name).ok()
        };
        // Hybrid models have a cache for some layers only.
        if !self.can_cut() || !layers_are_alike(&architecture, attention) {
            return None;
        }
        let width = |name: &str| attention(name).and_then(|value| value.parse::<f64>().ok());
        let heads = self.weights.n_head();
        let even = (heads > 0).then(|| f64::from(self.weights.n_embd()) / f64::from(heads));
        let (key, value) = (
            width("key_length").or(even)?,
            width("value_length").or(even)?,
        );
        let rows = f64::from(self.weights.n_layer()) * f64::from(self.weights.n_head_kv());
        Some(rows * (key * bytes_k + value * bytes_v))
    }

    /// What contexts are made over.
    fn weights(&self) -> &LlamaModel {
        &self.weights
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether every layer keeps keys and values of its own, all of one size, as far as a model's metadata on attention tell.
fn layers_are_alike(architecture: &str, attention: impl Fn(&str) -> Option<String>) -> bool {
    let number = |name: &str| attention(name).and_then(|value| value.parse::<u32>().ok());
    // llama.cpp has no text for a list, which has a number for each layer.
    let one_number = number("head_count_kv").is_some();
    // Of Gemma 3n and Gemma 4 the last layers attend to the cells of others, and some of the latter's are smaller.
    let shared = architecture == "gemma3n"
        || number("shared_kv_layers").is_some_and(|layers| layers > 0)
        || attention("key_length_swa").is_some();
    // DeepSeek's latent attention keeps something smaller than keys and values.
    let latent = attention("kv_lora_rank").is_some();
    one_number && !shared && !latent
}

/// llama.cpp initialises once in a process, whatever the number of models.
fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let initialise = || {
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
        #[cfg(feature = "portable")]
        backends::load()?;
        LlamaBackend::init().map_err(|error| error.to_string())
    };
    BACKEND
        .get_or_init(initialise)
        .as_ref()
        .map_err(|error| LoadError::Backend(error.clone()))
}

/// A device that llama.cpp can compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// llama.cpp's name for it, as in `CUDA0`.
    pub name: String,
    /// The vendor's name for it.
    pub description: String,
    pub is_gpu: bool,
    pub memory_bytes: u64,
}

/// The devices that this build finds here, the CPU among them. Initialises llama.cpp.
pub fn devices() -> Result<Vec<Device>, LoadError> {
    backend()?;
    let devices = llama_cpp_2::list_llama_ggml_backend_devices().into_iter();
    let device = |device: LlamaBackendDevice| Device {
        name: device.name,
        description: device.description,
        is_gpu: matches!(
            device.device_type,
            LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu
        ),
        memory_bytes: device.memory_total as u64,
    };
    Ok(devices.map(device).collect())
}

/// ggml's numbers for kinds of weights, by their names, as in `q4_K`.
pub fn kinds_named(names: &[&str]) -> Vec<u32> {
    let is_named =
        |kind: &u32| context::kind_name(*kind).is_some_and(|name| names.contains(&name.as_str()));
    (0..kinds()).filter(is_named).collect()
}

/// llama.cpp's line about the CPU features it was built for.
pub fn system_info() -> String {
    context::system_info().trim().to_owned()
}

/// llama.cpp's version.
pub fn llama_cpp_version() -> String {
    context::version()
}

/// Hashes the file's size, head and tail: the head holds the metadata and tensor table, and hashing gigabytes at
/// every start would cost more than it tells.
fn fingerprint(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const PART: u64 = 1 << 20;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(size.to_le_bytes());
    let mut part = Vec::new();
    file.by_ref().take(PART).read_to_end(&mut part)?;
    file.seek(SeekFrom::Start(size.saturating_sub(PART)))?;
    file.take(PART).read_to_end(&mut part)?;
    hash.update(&part);
    Ok(hex(&hash.finalize()[..6]))
}

/// Bytes in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies a C string that llama.cpp owns.
fn owned(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// A model that several threads use.
pub type SharedModel = Arc<Model>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_layers_that_are_alike_the_memory_is_known() {
        let check = |architecture: &str, metadata: &[(&str, &str)], expect: bool| {
            let attention = |name: &str| {
                let found = metadata.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let alike = layers_are_alike(architecture, attention);
            assert_eq!(alike, expect, "{architecture} {metadata:?}");
        };
        check("llama", &[("head_count_kv", "3")], true);
        // A list, as of Deci and Nemotron, whose layers differ.
        check("deci", &[], false);
        check("gemma3n", &[("head_count_kv", "2")], false);
        let shared = |layers| [("head_count_kv", "2"), ("shared_kv_layers", layers)];
        check("gemma4", &shared("20"), false);
        check("gemma4", &shared("0"), true);
        let smaller = [("head_count_kv", "2"), ("key_length_swa", "256")];
        check("gemma4", &smaller, false);
        let latent = [("head_count_kv", "1"), ("kv_lora_rank", "512")];
        check("deepseek2", &latent, false);
    }
}
