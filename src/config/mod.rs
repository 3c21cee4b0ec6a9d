//! Settings: defaults < file < environment < flags.
//!
//! `config/default.toml` is compiled in: it holds the default of every setting and tells people what each one means.
//! [`settings`] holds what each may be, [`load`] lays the sources over each other and remembers where a value comes
//! from, [`cli`] is the command line. No other module knows clap or TOML.

#![warn(missing_docs)]

pub mod cli;
mod error;
mod load;
mod settings;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, Problem};
pub use load::{Flag, Given, Loaded, Origin, Sources};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Every setting of the server. `config/default.toml` is compiled in and *is* the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where and how the server listens.
    pub server: Server,
    /// Which model is served, and under what names.
    pub model: Model,
    /// How the model is run.
    pub engine: Engine,
    /// How embeddings are made.
    pub embeddings: Embeddings,
    /// A limit on everything.
    pub limits: Limits,
    /// What a request gets that does not say otherwise.
    pub sampling: Sampling,
    /// Several models, each with the settings in force for it: those of the sections, but where its table of `[[models]]`
    /// says otherwise. Empty: `model` is served alone. The loader fills it in, as tables leave most out.
    #[serde(skip)]
    pub models: Vec<Config>,
}

impl Config {
    /// The settings in force for each model that is served. The first is for requests that name none.
    pub fn of_each_model(&self) -> &[Config] {
        match &self.models[..] {
            [] => std::slice::from_ref(self),
            models => models,
        }
    }
}

/// Where a client on this machine reaches a server that listens there: one that listens everywhere has no address of its
/// own.
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
    /// Keys of which a request must carry one as `Authorization: Bearer …`. Empty: no key is asked for.
    pub api_keys: Vec<String>,
    /// A file with further ones, a line each. Empty: none.
    pub api_keys_file: String,
    /// Names beside the obvious ones that a request's `Host` may have.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may use this server.
    pub cors_origins: Vec<String>,
    /// PEM file of the certificate chain. Empty: no TLS.
    pub tls_certificate: String,
    /// PEM file of its private key.
    pub tls_key: String,
    /// How long requests may go on after the signal to stop.
    pub shutdown_grace_ms: u64,
    /// What happens to request fields that Candor does not know.
    pub unknown_fields: UnknownFields,
    /// How log lines are written.
    pub log_format: LogFormat,
}

impl Server {
    /// Whether a request must carry a key.
    pub fn asks_for_keys(&self) -> bool {
        !self.api_keys.is_empty()
    }
}

/// What happens to request fields that Candor does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// 400, naming the field.
    Reject,
    /// A line in the log; the field has no effect.
    Warn,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// Which model is served, and under what names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `default`, a path to a GGUF file, or `hf:ORG/REPO[:FILE-or-QUANT]`.
    pub source: String,
    /// The name it is called by in answers. Empty: the first alias, else the file's name without its ending.
    pub name: String,
    /// Further names the model answers to.
    pub aliases: Vec<String>,
    /// When it is loaded.
    pub load: LoadAt,
    /// How long it stays loaded when nobody uses it; 0: until the server ends.
    pub unload_after_ms: u64,
    /// Layers on the GPU; needs a build with a GPU back end.
    pub gpu_layers: u32,
    /// Whether the file is mapped into memory rather than read.
    pub mmap: bool,
    /// A file with the Jinja template that conversations are written out by. Empty: the model's own.
    pub chat_template_file: String,
    /// What that file holds; read when the settings are.
    #[serde(skip)]
    pub chat_template: Option<String>,
    /// LoRA adapters, each `[NAME=]PATH[@SCALE]`.
    pub lora: Vec<String>,
    /// Where downloaded models are kept. Empty: `$XDG_CACHE_HOME/candor/models`.
    pub cache_dir: String,
}

impl Model {
    /// The names the model answers to, as far as settings tell them; the first is the one it is called by. None: that is
    /// known when the file is.
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

    /// The file's name without its ending, where the source is a path.
    fn file_stem(&self) -> Option<String> {
        let source = self.source.trim();
        if source == "default" || source.starts_with("hf:") {
            return None;
        }
        let stem = Path::new(source).file_stem()?;
        Some(stem.to_string_lossy().into_owned())
    }
}

/// When a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadAt {
    /// When the server starts.
    Start,
    /// When a request asks for it.
    FirstUse,
}

/// How the model is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// What the engine promises about bits.
    pub mode: Mode,
    /// llama.cpp contexts, each on a thread of its own. 0: measured (one on a GPU).
    pub contexts: usize,
    /// Sequences whose tokens share a decode, at most. 0: measured.
    pub decode_width: usize,
    /// Tokens that are drafted from what stands in the text, at most; in throughput mode. 0: none.
    pub draft_tokens: usize,
    /// Sequences that advance at once, over all contexts.
    pub parallel_sequences: usize,
    /// Lanes kept beyond the running sequences, for each context: they hold finished prompts as cache.
    pub cache_lanes: usize,
    /// Prefixes that each context keeps because many prompts begin with them; at most `cache_lanes`.
    pub pinned_prefixes: usize,
    /// Tokens that one sequence (prompt and completion) may hold.
    pub context_length: usize,
    /// Prompt tokens of one decode, at most. Other sequences wait for no more than one such chunk.
    pub prompt_chunk_tokens: usize,
    /// Where the reference cuts a prompt (its n_batch); moves the last bits of what follows the cut.
    pub batch_tokens: usize,
    /// Logits rows of one decode, at most. 0: as many as fit some memory.
    pub logits_rows: usize,
    /// CPU threads in all. 0: one for each core that other processes leave free.
    pub threads: usize,
    /// Moves log-probabilities by up to 0.1; the reference has it off.
    pub flash_attention: bool,
    /// Number format of the cached keys.
    pub kv_type_k: KvType,
    /// Number format of the cached values; `q8_0` needs flash attention.
    pub kv_type_v: KvType,
    /// Whether weights may be laid out for the matrix unit of Intel's server CPUs.
    pub amx: Use,
    /// Whether weights may be laid out for wider instructions.
    pub repack: Use,
}

/// What the engine promises about bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Exact on a CPU, throughput when layers are on a GPU.
    Auto,
    /// Answers do not depend on neighbours or cache, to the bit.
    Exact,
    /// Sequences share decodes: faster where the model gains by it, and bits depend on who else is there.
    Throughput,
}

impl Mode {
    /// As it stands in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Throughput => "throughput",
        }
    }
}

/// Whether something that this machine has is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Where it works.
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
    /// 16 bits, as the reference.
    f16,
    /// 16 bits with the range of 32.
    bf16,
    /// 8 bits and a scale for each block of 32.
    q8_0,
}

/// How embeddings are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embeddings {
    /// How one vector is made of those of a text's tokens.
    pub pooling: Pooling,
}

/// How one vector is made of those of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// As the model's metadata say.
    Auto,
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
}

/// A limit on everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a request's line and headers.
    pub header_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one address at once; 0: no limit.
    pub connections_per_address: usize,
    /// How long a request's line and headers may take, and a connection be idle.
    pub header_timeout_ms: u64,
    /// How long a request's body may take.
    pub body_timeout_ms: u64,
    /// How long a client may read nothing of its answer.
    pub write_timeout_ms: u64,
    /// Requests of one key at once; 0: no limit.
    pub requests_per_key: usize,
    /// Requests of one address at once; 0: no limit.
    pub requests_per_address: usize,
    /// Tokens of one prompt; 0: as many as the context holds.
    pub prompt_tokens: usize,
    /// Prompts in one request.
    pub prompts: usize,
    /// `n` and `best_of`.
    pub n: usize,
    /// `logprobs`.
    pub logprobs: usize,
    /// Tokens of an answer times alternatives, over all choices.
    pub answer_entries: usize,
    /// Bytes of the whole rows of logits in one answer, before they are written in base64.
    pub logits_bytes: usize,
    /// Recent answers that may be forked.
    pub fork_answers: usize,
    /// Tokens of those together.
    pub fork_tokens: usize,
    /// Stop strings in one request.
    pub stop_strings: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// Bytes of what a text must follow: a grammar, a schema, an expression, a list.
    pub grammar_bytes: usize,
    /// Requests that may wait for a place.
    pub queue_length: usize,
    /// How long a request may wait for its first place.
    pub queue_timeout_ms: u64,
    /// Models that may be loaded at once; 0: all.
    pub loaded_models: usize,
}

/// Defaults of the sampling parameters that a request does not give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Tokens made at most; 0: the prompt is scored only.
    pub max_tokens: usize,
    /// Divides the logits before the draw. 0: the likeliest token is taken.
    pub temperature: f32,
    /// Candidates kept, likeliest first. 0: all.
    pub top_k: i32,
    /// Probability mass kept, likeliest first; 1: all.
    pub top_p: f32,
    /// Smallest probability kept, relative to the likeliest token's; 0: all.
    pub min_p: f32,
    /// Locally typical mass kept; 1: all.
    pub typical_p: f32,
    /// Divides (positive) or multiplies (negative) the logits of the last 64 tokens; 1: no effect.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit for each time it stands among the last 64 tokens.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token among the last 64.
    pub presence_penalty: f32,
    /// 0: off; 1 or 2: the version of mirostat.
    pub mirostat_mode: u8,
    /// The surprise that mirostat aims at.
    pub mirostat_tau: f32,
    /// How fast mirostat learns.
    pub mirostat_eta: f32,
    /// No token ends the generation before there are this many.
    pub min_tokens: usize,
}

impl KvType {
    /// Bytes of one number; q8_0 keeps 32 of one byte with a scale of two.
    pub fn bytes(self) -> f64 {
        match self {
            Self::f32 => 4.0,
            Self::f16 | Self::bf16 => 2.0,
            Self::q8_0 => 34.0 / 32.0,
        }
    }
}
