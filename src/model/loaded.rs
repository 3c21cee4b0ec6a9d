//! A loaded model.

use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use super::adapter::{Adapter, Adapters, Named};
use super::error::LoadError;
use super::files::{FileHash, Files};
use super::fingerprint::fingerprint;
use super::heads::{Heads, layers_are_alike};
use super::llama::ModelTraits;
use super::pooling::NamedPooling;
use super::routines::{Placements, Routines};
use super::vocab::Vocab;
use super::{backend, huge_pages, llama, routines};
use crate::config;

/// Loaded weights with their vocabulary. It outlives its contexts.
pub struct Model {
    weights: LlamaModel,
    vocab: Vocab,
    name: String,
    description: String,
    fingerprint: String,
    files: Files,
    traits: ModelTraits,
    routines: Routines,
    /// Freed by llama.cpp with the weights.
    adapters: Vec<Adapter>,
    /// Those of requests that name none.
    default_adapters: Adapters,
}

/// Properties of a model, for lists of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// llama.cpp's description, as in `llama 256M Q4_1`.
    pub description: String,
    pub parameters: u64,
    /// Twelve hexadecimal digits that identify the weights.
    pub fingerprint: String,
    /// Size of all its tensors.
    pub size_bytes: u64,
    pub vocabulary: usize,
    /// Length of an embedding.
    pub embedding_width: usize,
    pub trained_context: usize,
    /// Whether it can generate text; otherwise it only makes embeddings.
    pub generates: bool,
}

impl Model {
    /// Like [`Model::load_with`], with all routines.
    pub fn load(path: &Path, settings: &config::Model) -> Result<Self, LoadError> {
        Self::load_with(&Heads::read(path)?, settings, Routines::ALL)
    }

    /// Loads the weights, in no other layouts than those of `routines`. Blocks for seconds to minutes.
    pub fn load_with(
        heads: &Heads,
        settings: &config::Model,
        routines: Routines,
    ) -> Result<Self, LoadError> {
        let path = heads.path.as_path();
        let shown = path.display().to_string();
        // Report wrong settings before seconds are spent on loading.
        let named = Named::all(&settings.lora)?;
        let backend = backend::backend()?;
        let fingerprint = fingerprint(path).map_err(|source| LoadError::Read {
            path: shown.clone(),
            source,
        })?;
        let files = Files::of(path).map_err(|source| LoadError::Read {
            path: shown.clone(),
            source,
        })?;
        let params = LlamaModelParams::default()
            .with_n_gpu_layers(settings.gpu_layers)
            .with_use_mmap(settings.mmap);
        let params = match settings.gpu_layers {
            // Given a GPU, llama.cpp uses it for decodes of 32 rows and more even if no layer is on it.
            0 => params.with_devices(&[]),
            _ if backend::lacks_gpu()? => return Err(LoadError::NoGpu),
            _ => Ok(params),
        };
        let params = params.map_err(|error| LoadError::Backend(error.to_string()))?;
        let load = || LlamaModel::load_from_file(backend, path, &params);
        let load = || llama::with_routines(routines, load);
        let weights = huge_pages::gather(load).map_err(|_| LoadError::Load {
            path: shown.clone(),
        })?;
        if llama::has_encoder(&weights) {
            return Err(LoadError::Encoder { path: shown });
        }
        let traits = llama::model_traits(&weights).ok_or(LoadError::Context { path: shown })?;
        let adapters = named
            .into_iter()
            .map(|named| named.load(&weights, path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            default_adapters: Adapters::new(adapters.iter().map(Adapter::scale).enumerate()),
            adapters,
            vocab: Vocab::new(&weights, settings.normalize),
            name: path.file_stem().map_or_else(
                || "model".to_owned(),
                |stem| stem.to_string_lossy().into_owned(),
            ),
            description: llama::description(&weights),
            fingerprint,
            files,
            traits,
            routines,
            weights,
        })
    }

    /// The routines that it was loaded for.
    pub fn routines(&self) -> Routines {
        self.routines
    }

    /// The layouts of its matrices, and so the routines that multiply them.
    pub fn placements(&self) -> &Placements {
        &self.traits.placements
    }

    /// llama.cpp's line about the CPU, without routines that this model's weights do not use.
    pub fn system_info(&self) -> String {
        routines::system_info_of(self.placements(), &backend::system_info())
    }

    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The file's name without its extension.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// llama.cpp's description, as in `llama 256M Q4_1`.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Twelve hexadecimal digits that identify the weights.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The files that it was loaded from, with their hashes. Reads all of them, and fails if one has changed since.
    pub fn hash_files(&self) -> std::io::Result<Arc<[FileHash]>> {
        self.files.hash()
    }

    /// The LoRA adapters loaded with it. Requests name one by its index or its name.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The adapters of requests that name none.
    pub fn default_adapters(&self) -> &Adapters {
        &self.default_adapters
    }

    /// The context length that the model was trained with.
    pub fn trained_context(&self) -> usize {
        self.weights.n_ctx_train() as usize
    }

    /// The chat template in its metadata.
    pub fn chat_template(&self) -> Option<String> {
        self.weights
            .meta_val_str("tokenizer.chat_template")
            .ok()
            .filter(|template| !template.is_empty())
    }

    /// The template in its metadata by which a query and a document become a text to rank: `{query}` and `{document}` stand
    /// for them.
    pub fn rank_template(&self) -> Option<String> {
        self.weights
            .meta_val_str("tokenizer.chat_template.rerank")
            .ok()
            .filter(|template| !template.is_empty())
    }

    /// Whether it generates text; if not, it only computes embeddings, as BERT does.
    pub fn generates(&self) -> bool {
        self.traits.has_memory && self.traits.is_causal
    }

    /// Whether a token attends only to earlier ones, so that a text can be evaluated in chunks.
    pub fn is_causal(&self) -> bool {
        self.traits.is_causal
    }

    /// The pooling in its metadata.
    pub fn named_pooling(&self) -> NamedPooling {
        self.traits.pooling
    }

    /// The length of an embedding.
    pub fn embedding_width(&self) -> usize {
        llama::embedding_width(&self.weights)
    }

    /// Its properties.
    pub fn facts(&self) -> Facts {
        Facts {
            description: self.description.clone(),
            parameters: self.weights.n_params(),
            fingerprint: self.fingerprint.clone(),
            size_bytes: self.weights.size(),
            vocabulary: self.vocab.len(),
            embedding_width: self.embedding_width(),
            trained_context: self.trained_context(),
            generates: self.generates(),
        }
    }

    /// Whether a lane's tail can be cut off and the rest reused. Recurrent and hybrid models keep one state for the whole
    /// sequence, so their prompts are evaluated completely.
    pub fn can_cut(&self) -> bool {
        !self.weights.is_recurrent() && !self.weights.is_hybrid()
    }

    /// Its layers.
    pub(super) fn layers(&self) -> usize {
        self.weights.n_layer() as usize
    }

    /// Bytes of a token in the KV cache, for the given bytes per number; `None` if the metadata does not tell.
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

    /// For contexts.
    pub(super) fn weights(&self) -> &LlamaModel {
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

impl Adapters {
    /// Whether the model has all of them.
    pub fn fit(&self, model: &Model) -> bool {
        self.iter().all(|(id, _)| id < model.adapters.len())
    }
}
