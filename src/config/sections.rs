//! The settings as the rest of the program reads them: one type for each section of `config/default.toml`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::params::ParamValues;

/// Every setting of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where and how the server listens.
    pub server: Server,
    /// Which model is served, and under what names.
    pub model: Model,
    /// How the model is run.
    pub engine: Engine,
    /// How embeddings are computed.
    pub embeddings: Embeddings,
    /// Limits on everything.
    pub limits: Limits,
    /// Sampling parameters of requests that do not set them.
    pub sampling: Sampling,
    /// For each table of `[[models]]`, the settings in force for its model: those of the sections, overridden by the table.
    /// Empty: `model` is the only one. Filled in by the loader.
    #[serde(skip)]
    pub models: Vec<Config>,
}

impl Config {
    /// The settings in force for each model. The first serves requests that name none.
    pub fn of_each_model(&self) -> &[Config] {
        match &self.models[..] {
            [] => std::slice::from_ref(self),
            models => models,
        }
    }
}

/// The address at which clients on this machine reach a server that listens on `address`: loopback, if it listens on all.
pub fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Where and how the server listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 lets the system choose.
    pub port: u16,
    /// Requests must carry one of these keys as `Authorization: Bearer …`. Empty: no key is needed.
    pub api_keys: Vec<String>,
    /// A file with more keys, one per line. Empty: none.
    pub api_keys_file: String,
    /// Whether `GET /metrics` requires a key, too.
    pub metrics_need_key: bool,
    /// Values of `Host` that requests may have, besides the obvious ones.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may use this server.
    pub cors_origins: Vec<String>,
    /// PEM file of the certificate chain. Empty: no TLS.
    pub tls_certificate: String,
    /// PEM file of its private key.
    pub tls_key: String,
    /// How long requests are still taken after the signal to stop.
    pub drain_ms: u64,
    /// How long running requests may take after that.
    pub shutdown_grace_ms: u64,
    /// How unknown request fields are handled.
    pub unknown_fields: UnknownFields,
    /// The format of log lines.
    pub log_format: LogFormat,
}

impl Server {
    /// Whether a request must carry a key.
    pub fn asks_for_keys(&self) -> bool {
        !self.api_keys.is_empty()
    }
}

/// How unknown request fields are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// Error 400, naming the field.
    Reject,
    /// A log line; the field has no effect.
    Warn,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// Where the reasoning of a chat completion goes; llama-server's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReasoningFormat {
    /// Into `reasoning_content`, if the model's template shows how reasoning is marked.
    Auto,
    /// The same.
    Deepseek,
    /// It stays in `content`.
    None,
}

/// Which model is served, and under what names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `default`, a path to a GGUF file, or `hf:ORG/REPO[:FILE-or-QUANT]`.
    pub source: String,
    /// Its name in answers. Empty: the first alias, else the file's name without its extension.
    pub name: String,
    /// Other names that requests may use for it.
    pub aliases: Vec<String>,
    /// When it is loaded.
    pub load: LoadAt,
    /// How long it stays loaded while idle; 0: until the server ends.
    pub unload_after_ms: u64,
    /// Layers on the GPU; needs a build with a GPU back end.
    pub gpu_layers: u32,
    /// Whether the file is mapped into memory rather than read.
    pub mmap: bool,
    /// A file with a Jinja chat template. Empty: the model's own template.
    pub chat_template_file: String,
    /// The content of that file, read by the loader.
    #[serde(skip)]
    pub chat_template: Option<String>,
    /// Where the model's reasoning goes, unless a request says otherwise.
    pub reasoning_format: ReasoningFormat,
    /// Whether the names of control tokens in the messages of a conversation become control tokens.
    pub chat_parse_special: bool,
    /// How texts are normalized before they are tokenized.
    pub normalize: Normalize,
    /// LoRA adapters, each `[NAME=]PATH[@SCALE]`.
    pub lora: Vec<String>,
    /// Where downloaded models are kept. Empty: `$XDG_CACHE_HOME/candor/models`.
    pub cache_dir: String,
}

impl Model {
    /// The names of the model, as far as the settings specify them; answers use the first. Empty: the file decides.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let given = std::iter::once(&self.name).chain(&self.aliases);
        for name in given.filter(|name| !name.trim().is_empty()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        if names.is_empty() {
            names.extend(self.file_stem());
        }
        names
    }

    /// The file's name without its extension, if the source is a path.
    fn file_stem(&self) -> Option<String> {
        let source = self.source.trim();
        if source == "default" || source.starts_with("hf:") {
            return None;
        }
        let stem = Path::new(source).file_stem()?;
        Some(stem.to_string_lossy().into_owned())
    }
}

/// How texts are normalized before they are tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// As llama.cpp does: only if the vocabulary says so.
    None,
    /// Unicode's composed form, NFC.
    Nfc,
}

/// When a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadAt {
    /// When the server starts.
    Start,
    /// At the first request for it.
    FirstUse,
}

/// How the model is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// The guarantee about reproducible bits.
    pub mode: Mode,
    /// In invariant mode: answers have the bits of decodes of this many sequences. 0: of the widest decode.
    pub invariant_width: usize,
    /// llama.cpp contexts, each on its own thread. 0: measured (one on a GPU).
    pub contexts: usize,
    /// Maximum number of sequences whose tokens share a decode. 0: measured.
    pub decode_width: usize,
    /// Maximum number of tokens drafted from the text so far, in throughput mode. 0: no drafts.
    pub draft_tokens: usize,
    /// Sequences generated concurrently, over all contexts.
    pub parallel_sequences: usize,
    /// Lanes per context in addition to those of running sequences: they cache finished prompts.
    pub cache_lanes: usize,
    /// Prefixes that each context keeps because many prompts begin with them; at most `cache_lanes`.
    pub pinned_prefixes: usize,
    /// Maximum tokens of a sequence, prompt and completion together.
    pub context_length: usize,
    /// Maximum prompt tokens in one decode. Other sequences wait for at most one such chunk.
    pub prompt_chunk_tokens: usize,
    /// Where the reference splits a prompt (its n_batch); changes the last bits of what follows the split.
    pub batch_tokens: usize,
    /// Maximum logits rows in one decode. 0: as many as fit a fixed amount of memory.
    pub logits_rows: usize,
    /// Total CPU threads. 0: one for each core that other processes leave free.
    pub threads: usize,
    /// Changes log-probabilities by up to 0.1; the reference has it off.
    pub flash_attention: bool,
    /// Number format of the cached keys.
    pub kv_type_k: KvType,
    /// Number format of the cached values; `q8_0` needs flash attention.
    pub kv_type_v: KvType,
    /// The weight layout for the matrix unit of Intel's server CPUs.
    pub amx: Use,
    /// The weight layout for wider vector instructions.
    pub repack: Use,
}

/// The guarantee about reproducible bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Exact on a CPU, throughput with layers on a GPU.
    Auto,
    /// Answers do not depend on concurrent requests or the cache, to the bit.
    Exact,
    /// As exact, but with the bits of wider decodes: faster for many sequences, and slower for few.
    Invariant,
    /// Sequences share decodes: faster for some models, but bits depend on concurrent requests.
    Throughput,
}

impl Mode {
    /// The word for it in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Invariant => "invariant",
            Self::Throughput => "throughput",
        }
    }
}

/// Whether a feature of this machine is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// If it works.
    Auto,
    /// Never.
    Off,
}

/// Number format of cached keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(non_camel_case_types, reason = "llama.cpp's own names")]
pub enum KvType {
    /// 32 bits.
    f32,
    /// 16 bits, like the reference.
    f16,
    /// 16 bits with the range of 32.
    bf16,
    /// 8 bits, and a scale for each block of 32.
    q8_0,
}

/// How embeddings are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embeddings {
    /// How the vectors of a text's tokens become one.
    pub pooling: Pooling,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// As the model's metadata says.
    Auto,
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
}

/// Limits on everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a request's line and headers.
    pub header_bytes: usize,
    /// Concurrent connections.
    pub connections: usize,
    /// Concurrent connections of one address; 0: no limit.
    pub connections_per_address: usize,
    /// Time limit for a request's line and headers, and for an idle connection.
    pub header_timeout_ms: u64,
    /// Time limit for a request's body.
    pub body_timeout_ms: u64,
    /// How long a client may stop reading its answer.
    pub write_timeout_ms: u64,
    /// Concurrent requests of one key; 0: no limit.
    pub requests_per_key: usize,
    /// Concurrent requests of one address; 0: no limit.
    pub requests_per_address: usize,
    /// Tokens of one prompt; 0: as many as the context holds.
    pub prompt_tokens: usize,
    /// Prompts in one request.
    pub prompts: usize,
    /// `n` and `best_of`.
    pub n: usize,
    /// `logprobs`.
    pub logprobs: usize,
    /// Tokens times alternatives of an answer, over all choices.
    pub answer_entries: usize,
    /// Bytes of full logits rows in one answer, before base64.
    pub logits_bytes: usize,
    /// Recent answers kept for forking.
    pub fork_answers: usize,
    /// Total tokens of those answers.
    pub fork_tokens: usize,
    /// Stop strings in one request.
    pub stop_strings: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// Bytes of a constraint: a grammar, a schema, an expression, a list.
    pub grammar_bytes: usize,
    /// Requests that may wait in the queue.
    pub queue_length: usize,
    /// How long a request may wait in the queue.
    pub queue_timeout_ms: u64,
    /// Models that may be loaded at the same time; 0: all.
    pub loaded_models: usize,
}

/// Defaults for fields that a request does not set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Tokens to generate at most; 0: the prompt is only scored.
    pub max_tokens: usize,
    /// The sampling parameters.
    #[serde(flatten)]
    pub values: ParamValues,
}

impl KvType {
    /// Bytes of one number; q8_0 stores 32 numbers of one byte with a scale of two.
    pub fn bytes(self) -> f64 {
        match self {
            Self::f32 => 4.0,
            Self::f16 | Self::bf16 => 2.0,
            Self::q8_0 => 34.0 / 32.0,
        }
    }
}
