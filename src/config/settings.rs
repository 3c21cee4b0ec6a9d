//! The table of all settings: the name of each, and the values it allows. `config/default.toml` documents the same; a test
//! compares.

use std::fmt;

use toml::Value;

use crate::params::{PARAMS, Range};

/// A setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// `section.field`, as in the file.
    pub(super) key: &'static str,
    /// The values it allows.
    pub(super) allowed: Allowed,
}

impl Setting {
    /// The setting of that name.
    pub(super) fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The environment variable that sets it: `CANDOR_SECTION__FIELD`.
    pub(super) fn variable(&self) -> String {
        format!("CANDOR_{}", self.key.to_uppercase().replace('.', "__"))
    }

    /// The part before the dot, and the part after it.
    pub(super) fn section_and_field(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or((self.key, ""))
    }

    /// Its name in a table of `[[models]]`, if it may be set there: fields of `model` without their section.
    pub(super) fn key_of_a_model(&self) -> Option<&'static str> {
        let (section, field) = self.section_and_field();
        match section {
            "model" => Some(field),
            section if MODEL_SECTIONS.contains(&section) => Some(self.key),
            _ => None,
        }
    }
}

/// The values that a setting allows. Its text follows "Allowed:" in messages and in `config/default.toml`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Allowed {
    /// A whole number between two others, both included.
    Integer(i64, i64),
    /// A multiple of the first number, between two others, both included.
    Multiple(i64, i64, i64),
    /// A number between two others, both included.
    Number(f64, f64),
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text that is not empty.
    Text,
    /// Any text.
    TextOrEmpty,
    /// A list of texts, none of them empty.
    Names,
    /// A list of secrets, each fit for a header: no spaces. Not the stars that are printed in place of one.
    Keys,
}

impl Allowed {
    /// Whether it allows `value`.
    pub(super) fn admits(&self, value: &Value) -> bool {
        let number = || match value {
            Value::Float(number) => Some(*number),
            Value::Integer(whole) => Some(*whole as f64),
            _ => None,
        };
        let text = |admits: fn(&str) -> bool| value.as_str().is_some_and(admits);
        let list = |admits: fn(&str) -> bool| {
            let items = value.as_array().map(|items| items.iter());
            items.is_some_and(|mut items| items.all(|item| item.as_str().is_some_and(admits)))
        };
        match *self {
            Allowed::Integer(min, max) => value
                .as_integer()
                .is_some_and(|it| (min..=max).contains(&it)),
            Allowed::Multiple(of, min, max) => value
                .as_integer()
                .is_some_and(|it| (min..=max).contains(&it) && it % of == 0),
            Allowed::Number(min, max) => number().is_some_and(|it| min <= it && it <= max),
            Allowed::Boolean => value.is_bool(),
            Allowed::OneOf(words) => value.as_str().is_some_and(|it| words.contains(&it)),
            Allowed::Text => text(|it| !it.trim().is_empty()),
            Allowed::TextOrEmpty => value.is_str(),
            Allowed::Names => list(|it| !it.trim().is_empty()),
            Allowed::Keys => list(|it| {
                let fits_in_a_header =
                    !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_graphic());
                // What `candor config` prints in a key's place must not become a key that everybody knows.
                fits_in_a_header && it.bytes().any(|byte| byte != b'*')
            }),
        }
    }

    /// The value of `text`, from the environment or a flag. Text that does not parse stays text, which
    /// [`Allowed::admits`] then refuses.
    pub(super) fn parse(&self, text: &str) -> Value {
        let trimmed = text.trim();
        let parsed = match self {
            Allowed::Integer(..) | Allowed::Multiple(..) => {
                trimmed.parse().map(Value::Integer).ok()
            }
            Allowed::Number(..) => trimmed.parse().map(Value::Float).ok(),
            Allowed::Boolean => trimmed.parse().map(Value::Boolean).ok(),
            Allowed::OneOf(_) | Allowed::Text | Allowed::TextOrEmpty => None,
            Allowed::Names | Allowed::Keys if trimmed.is_empty() => Some(Value::Array(Vec::new())),
            Allowed::Names | Allowed::Keys if trimmed.starts_with('[') => {
                let line = toml::from_str::<toml::Table>(&format!("list = {trimmed}"));
                line.ok().and_then(|mut line| line.remove("list"))
            }
            Allowed::Names | Allowed::Keys => {
                let items = text.split(',').map(|item| item.trim().into());
                Some(Value::Array(items.collect()))
            }
        };
        parsed.unwrap_or_else(|| text.into())
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Integer(min, max) => write!(f, "a whole number from {min} to {max}"),
            Allowed::Multiple(of, min, max) => write!(f, "a multiple of {of} from {min} to {max}"),
            Allowed::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Allowed::Boolean => f.write_str("true or false"),
            Allowed::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Allowed::Text => f.write_str("text, not empty"),
            Allowed::TextOrEmpty => f.write_str("text"),
            Allowed::Names => f.write_str("a list of texts, none empty"),
            Allowed::Keys => {
                f.write_str("a list of keys, each of visible ASCII characters without spaces")
            }
        }
    }
}

const fn setting(key: &'static str, allowed: Allowed) -> Setting {
    Setting { key, allowed }
}

/// Sections besides `model` that a table of `[[models]]` may override.
pub(super) const MODEL_SECTIONS: [&str; 3] = ["engine", "embeddings", "sampling"];

/// All settings, in the order of `config/default.toml`; the last are the sampling parameters.
pub(super) const SETTINGS: &[Setting] = &{
    let mut all = [OWN[0]; OWN.len() + PARAMS.len()];
    let mut place = 0;
    while place < all.len() {
        all[place] = if place < OWN.len() {
            OWN[place]
        } else {
            let param = &PARAMS[place - OWN.len()];
            let allowed = match param.range {
                Range::Integer(least, most) => Allowed::Integer(least, most),
                Range::Real(least, most) => Allowed::Number(least, most),
            };
            setting(param.setting, allowed)
        };
        place += 1;
    }
    all
};

/// The settings that are not in the table of sampling parameters.
///
/// llama.cpp gives a context at most 256 sequences: the bounds of `parallel_sequences` and `cache_lanes` add up to that.
/// Prompts are cut in groups of eight rows (`engine::plan` says why), and each part has at least one.
const OWN: &[Setting] = &[
    setting("server.host", Allowed::Text),
    setting("server.port", Allowed::Integer(0, 65_535)),
    setting("server.api_keys", Allowed::Keys),
    setting("server.api_keys_file", Allowed::TextOrEmpty),
    setting("server.metrics_need_key", Allowed::Boolean),
    setting("server.allowed_hosts", Allowed::Names),
    setting("server.cors_origins", Allowed::Names),
    setting("server.tls_certificate", Allowed::TextOrEmpty),
    setting("server.tls_key", Allowed::TextOrEmpty),
    setting("server.drain_ms", Allowed::Integer(0, 86_400_000)),
    setting("server.shutdown_grace_ms", Allowed::Integer(0, 86_400_000)),
    setting("server.unknown_fields", Allowed::OneOf(&["reject", "warn"])),
    setting("server.log_format", Allowed::OneOf(&["text", "json"])),
    setting("model.source", Allowed::Text),
    setting("model.name", Allowed::TextOrEmpty),
    setting("model.aliases", Allowed::Names),
    setting("model.load", Allowed::OneOf(&["start", "first-use"])),
    setting("model.unload_after_ms", Allowed::Integer(0, 604_800_000)),
    setting("model.gpu_layers", Allowed::Integer(0, 9_999)),
    setting("model.mmap", Allowed::Boolean),
    setting("model.chat_template_file", Allowed::TextOrEmpty),
    setting(
        "model.reasoning_format",
        Allowed::OneOf(&["auto", "deepseek", "none"]),
    ),
    setting("model.chat_parse_special", Allowed::Boolean),
    setting("model.normalize", Allowed::OneOf(&["none", "nfc"])),
    setting("model.lora", Allowed::Names),
    setting("model.cache_dir", Allowed::TextOrEmpty),
    setting(
        "engine.mode",
        Allowed::OneOf(&["auto", "exact", "invariant", "throughput"]),
    ),
    setting("engine.invariant_width", Allowed::Integer(0, 16)),
    setting("engine.contexts", Allowed::Integer(0, 256)),
    setting("engine.decode_width", Allowed::Integer(0, 192)),
    setting("engine.draft_tokens", Allowed::Integer(0, 32)),
    setting("engine.parallel_sequences", Allowed::Integer(1, 192)),
    setting("engine.cache_lanes", Allowed::Integer(0, 64)),
    setting("engine.pinned_prefixes", Allowed::Integer(0, 64)),
    setting("engine.context_length", Allowed::Integer(16, 1_048_576)),
    setting(
        "engine.prompt_chunk_tokens",
        Allowed::Multiple(8, 16, 65_536),
    ),
    setting("engine.batch_tokens", Allowed::Multiple(8, 16, 65_536)),
    setting("engine.logits_rows", Allowed::Multiple(16, 0, 4_096)),
    setting("engine.threads", Allowed::Integer(0, 1_024)),
    setting("engine.flash_attention", Allowed::Boolean),
    setting(
        "engine.kv_type_k",
        Allowed::OneOf(&["f32", "f16", "bf16", "q8_0"]),
    ),
    setting(
        "engine.kv_type_v",
        Allowed::OneOf(&["f32", "f16", "bf16", "q8_0"]),
    ),
    setting("engine.amx", Allowed::OneOf(&["auto", "off"])),
    setting("engine.repack", Allowed::OneOf(&["auto", "off"])),
    setting(
        "embeddings.pooling",
        Allowed::OneOf(&["auto", "mean", "cls", "last"]),
    ),
    setting("limits.body_bytes", Allowed::Integer(1_024, 1_073_741_824)),
    setting("limits.header_bytes", Allowed::Integer(8_192, 16_777_216)),
    setting("limits.connections", Allowed::Integer(1, 1_000_000)),
    setting(
        "limits.connections_per_address",
        Allowed::Integer(0, 1_000_000),
    ),
    setting("limits.header_timeout_ms", Allowed::Integer(1, 86_400_000)),
    setting("limits.body_timeout_ms", Allowed::Integer(1, 86_400_000)),
    setting("limits.write_timeout_ms", Allowed::Integer(1, 86_400_000)),
    setting("limits.requests_per_key", Allowed::Integer(0, 1_000_000)),
    setting(
        "limits.requests_per_address",
        Allowed::Integer(0, 1_000_000),
    ),
    setting("limits.prompt_tokens", Allowed::Integer(0, 1_048_576)),
    setting("limits.prompts", Allowed::Integer(1, 65_536)),
    setting("limits.n", Allowed::Integer(1, 1_024)),
    setting("limits.logprobs", Allowed::Integer(0, 100_000)),
    setting(
        "limits.answer_entries",
        Allowed::Integer(1_000, 1_000_000_000),
    ),
    setting("limits.logits_bytes", Allowed::Integer(0, 1 << 40)),
    setting("limits.fork_answers", Allowed::Integer(0, 1_000_000)),
    setting("limits.fork_tokens", Allowed::Integer(0, 1_000_000_000)),
    setting("limits.stop_strings", Allowed::Integer(0, 1_024)),
    setting("limits.stop_bytes", Allowed::Integer(1, 65_536)),
    setting("limits.logit_bias", Allowed::Integer(0, 1_000_000)),
    setting("limits.grammar_bytes", Allowed::Integer(0, 1_048_576)),
    setting("limits.queue_length", Allowed::Integer(0, 1_000_000)),
    setting("limits.queue_timeout_ms", Allowed::Integer(1, 86_400_000)),
    setting("limits.loaded_models", Allowed::Integer(0, 1_000)),
    setting("sampling.max_tokens", Allowed::Integer(0, 4_294_967_295)),
];
