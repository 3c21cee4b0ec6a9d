//! The body of `POST /v1/completions`, read and checked: everything of the contract's first table stands here, each
//! field in one place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::{Fields, whole, wrong};
use crate::api::body::{counted, cut, describe};
use crate::api::error::ApiError;
use crate::config::{Config, UnknownFields};
use crate::model::{Model, Token};
use crate::sampling::{Grammar, Mirostat, SamplingParams};

/// What a client asks for.
#[derive(Debug)]
pub struct CompletionRequest {
    pub model: Option<String>,
    pub prompts: Vec<PromptInput>,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
    pub logprobs: Option<usize>,
    pub echo: bool,
    pub n: usize,
    pub best_of: usize,
    pub stop: Vec<String>,
    pub suffix: Option<String>,
    pub stream: bool,
    pub include_usage: bool,
    pub cache_prompt: bool,
    /// `None`: a random one.
    pub seed: Option<u32>,
    /// Without seed and grammar, which are filled in later.
    pub sampling: SamplingParams,
    /// GBNF, not checked yet: that takes a while.
    pub grammar: Option<String>,
}

/// A prompt as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptInput {
    Text(String),
    /// Each id lies within the vocabulary; there is at least one.
    Tokens(Vec<Token>),
}

/// Fields that change nothing in an answer, and are accepted.
const WITHOUT_EFFECT: [&str; 6] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
];

impl CompletionRequest {
    pub fn parse(
        object: Map<String, Value>,
        config: &Config,
        model: &Model,
    ) -> Result<Self, ApiError> {
        // Whether it was given at all decides between the default and "until the context is full".
        let max_tokens_given = object.contains_key("max_tokens");
        let mut fields = Fields::new(object);
        let (limits, defaults) = (&config.limits, &config.sampling);

        let prompts = prompts(fields.take("prompt"), limits.prompts, model)?;
        let max_tokens = match fields.count("max_tokens", 0..=u32::MAX as usize)? {
            Some(count) => Some(count),
            None => (!max_tokens_given).then_some(defaults.max_tokens),
        };
        if let Some(Value::Bool(_)) = fields.peek("logprobs") {
            return Err(ApiError::field(
                "logprobs",
                format!(
                    "`logprobs` is the number of alternatives, a whole number from 0 to {}, not true or false (those \
                     belong to chat completions).",
                    limits.logprobs
                ),
            ));
        }
        let logprobs = fields.count("logprobs", 0..=limits.logprobs)?;
        let n = fields.count("n", 1..=limits.n)?.unwrap_or(1);
        let best_of = fields.count("best_of", 1..=limits.n)?.unwrap_or(n);
        if best_of < n {
            return Err(ApiError::field(
                "best_of",
                format!(
                    "`best_of` must not be smaller than `n`, but it is {best_of} and `n` is {n}."
                ),
            ));
        }
        let stream = fields.boolean("stream")?.unwrap_or(false);
        if stream && best_of > n {
            return Err(ApiError::field(
                "best_of",
                "`best_of` above `n` cannot be streamed: which choices are best is known at the end only.",
            ));
        }
        let stop = stop(fields.take("stop"), config)?;
        let seed = fields
            .take("seed")
            .map(|value| seed(&value))
            .transpose()?
            .flatten();
        let mirostat_mode = fields
            .integer("mirostat_mode", 0..=2)?
            .unwrap_or(i64::from(defaults.mirostat_mode));
        let tau = fields
            .number("mirostat_tau", 0.0..=100.0)?
            .unwrap_or(defaults.mirostat_tau);
        let eta = fields
            .number("mirostat_eta", 0.0..=1.0)?
            .unwrap_or(defaults.mirostat_eta);
        let sampling = SamplingParams {
            temperature: fields
                .number("temperature", 0.0..=100.0)?
                .unwrap_or(defaults.temperature),
            top_k: fields
                .integer("top_k", -1..=i64::from(i32::MAX))?
                .and_then(|number| i32::try_from(number).ok())
                .unwrap_or(defaults.top_k),
            top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(defaults.top_p),
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(defaults.min_p),
            typical_p: fields
                .number("typical_p", 0.0..=1.0)?
                .unwrap_or(defaults.typical_p),
            repeat_penalty: fields
                .number("repeat_penalty", 0.01..=100.0)?
                .unwrap_or(defaults.repeat_penalty),
            frequency_penalty: fields
                .number("frequency_penalty", -2.0..=2.0)?
                .unwrap_or(defaults.frequency_penalty),
            presence_penalty: fields
                .number("presence_penalty", -2.0..=2.0)?
                .unwrap_or(defaults.presence_penalty),
            mirostat: match mirostat_mode {
                1 => Mirostat::V1 { tau, eta },
                2 => Mirostat::V2 { tau, eta },
                _ => Mirostat::Off,
            },
            min_tokens: fields
                .count("min_tokens", 0..=u32::MAX as usize)?
                .unwrap_or(defaults.min_tokens),
            logit_bias: logit_bias(
                fields.take("logit_bias"),
                fields.take("logit_bias_type"),
                config,
                model,
            )?,
            grammar: None,
            seed: 0,
        };
        let request = Self {
            model: fields.string("model")?,
            prompts,
            max_tokens,
            logprobs,
            echo: fields.boolean("echo")?.unwrap_or(false),
            n,
            best_of,
            stop,
            suffix: fields.string("suffix")?,
            stream,
            include_usage: include_usage(fields.take("stream_options"), stream)?,
            cache_prompt: fields.boolean("cache_prompt")?.unwrap_or(true),
            seed,
            sampling,
            grammar: fields.string("grammar")?,
        };
        if let Some(grammar) = &request.grammar
            && grammar.len() > limits.grammar_bytes
        {
            return Err(ApiError::field(
                "grammar",
                format!(
                    "`grammar` must not be longer than {} bytes, but it has {}.",
                    limits.grammar_bytes,
                    grammar.len()
                ),
            ));
        }
        if request.prompts.len() * best_of > limits.prompts.max(limits.n) {
            let name = if best_of > n { "best_of" } else { "n" };
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}` is {best_of}, and for each of {} prompts that makes more sequences than the {} that one \
                     request may have.",
                    request.prompts.len(),
                    limits.prompts.max(limits.n)
                ),
            ));
        }
        unknown(&fields, config.server.unknown_fields)?;
        Ok(request)
    }

    /// The grammar, checked; takes milliseconds.
    pub fn checked_grammar(&self, model: &Model) -> Result<Option<Grammar>, ApiError> {
        self.grammar
            .as_deref()
            .map(|gbnf| {
                Grammar::new(model, gbnf).map_err(|error| {
                    ApiError::field("grammar", format!("`grammar` is refused: {error}."))
                })
            })
            .transpose()
    }
}

fn unknown(fields: &Fields, how: UnknownFields) -> Result<(), ApiError> {
    let mut unknown = fields.left().filter(|name| !WITHOUT_EFFECT.contains(name));
    let Some(name) = unknown.next() else {
        return Ok(());
    };
    if how == UnknownFields::Warn {
        // Their names are the client's text.
        tracing::warn!(fields = 1 + unknown.count(), "unknown fields are ignored");
        tracing::trace!(field = %cut(name), "the first of them");
        return Ok(());
    }
    let shown = cut(name);
    let hint = match fields.meant(name) {
        Some(known) => format!(" Did you mean `{known}`?"),
        None if name == "messages" => " Chat is not served; send the text as `prompt`.".to_owned(),
        None => String::new(),
    };
    Err(ApiError::field(
        shown.clone(),
        format!(
            "The field `{shown}` is not known here, and an answer that ignored it could be another than you asked \
             for.{hint}"
        ),
    )
    .code("unknown_field"))
}

fn prompts(value: Option<Value>, most: usize, model: &Model) -> Result<Vec<PromptInput>, ApiError> {
    const SHAPES: &str =
        "a string, an array of strings, an array of token ids, or an array of arrays of token ids";
    let items = match value {
        None => return Ok(vec![PromptInput::Text(String::new())]),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong("prompt", SHAPES, &other)),
    };
    match items.first() {
        None => {
            return Err(ApiError::field(
                "prompt",
                format!("`prompt` must be {SHAPES}, but it is an empty array."),
            ));
        }
        Some(Value::Number(_)) => {
            return Ok(vec![PromptInput::Tokens(ids(items, "prompt", model)?)]);
        }
        Some(_) => {}
    }
    if items.len() > most {
        return Err(ApiError::field(
            "prompt",
            format!(
                "`prompt` must hold at most {most} prompts, but it holds {}.",
                items.len()
            ),
        ));
    }
    let strings = matches!(items.first(), Some(Value::String(_)));
    items
        .into_iter()
        .enumerate()
        .map(|(number, item)| match item {
            Value::String(text) if strings => Ok(PromptInput::Text(text)),
            Value::Array(inner) if !strings => Ok(PromptInput::Tokens(ids(
                inner,
                &format!("prompt[{number}]"),
                model,
            )?)),
            other => Err(ApiError::field(
                "prompt",
                format!(
                    "`prompt` must be {SHAPES}, but `prompt[{number}]` is {}.",
                    describe(&other)
                ),
            )),
        })
        .collect()
}

/// Ids are checked here, before anything else sees them.
fn ids(items: Vec<Value>, name: &str, model: &Model) -> Result<Vec<Token>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::field(
            "prompt",
            format!("`{name}` must hold at least one token id."),
        ));
    }
    let last = model.vocab().len() - 1;
    items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            whole(item)
                .and_then(|id| usize::try_from(id).ok())
                .filter(|&id| id <= last)
                .and_then(|id| i32::try_from(id).ok())
                .map(Token)
                .ok_or_else(|| {
                    ApiError::field(
                        "prompt",
                        format!(
                            "`{name}[{place}]` must be a token id from 0 to {last}, but it is {}.",
                            describe(item)
                        ),
                    )
                })
        })
        .collect()
}

fn stop(value: Option<Value>, config: &Config) -> Result<Vec<String>, ApiError> {
    let limits = &config.limits;
    let allowed = format!(
        "a string or an array of at most {}",
        counted(limits.stop_strings, "string")
    );
    let strings = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) if items.len() <= limits.stop_strings => items
            .into_iter()
            .enumerate()
            .map(|(place, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(ApiError::field(
                    "stop",
                    format!(
                        "`stop` must be {allowed}, but `stop[{place}]` is {}.",
                        describe(&other)
                    ),
                )),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong("stop", &allowed, &other)),
    };
    for text in &strings {
        if text.is_empty() {
            return Err(ApiError::field(
                "stop",
                "`stop` must not hold an empty string: it would stop every text at once.",
            ));
        }
        if text.len() > limits.stop_bytes {
            return Err(ApiError::field(
                "stop",
                format!(
                    "A string of `stop` must not be longer than {} bytes, but one has {}.",
                    limits.stop_bytes,
                    text.len()
                ),
            ));
        }
    }
    Ok(strings)
}

/// The reference takes seeds modulo 2^32. −1 asks for a random one, and so does 2^32 − 1, which is llama.cpp's sign
/// for it.
fn seed(value: &Value) -> Result<Option<u32>, ApiError> {
    let wide = value
        .as_u64()
        .map(i128::from)
        .or_else(|| whole(value).map(i128::from));
    let seed = wide.ok_or_else(|| {
        wrong(
            "seed",
            "a whole number from -2^63 to 2^64 - 1 (-1 asks for a random one)",
            value,
        )
    })?;
    let reduced = seed.rem_euclid(1 << 32) as u32;
    Ok((reduced != u32::MAX).then_some(reduced))
}

fn include_usage(value: Option<Value>, stream: bool) -> Result<bool, ApiError> {
    match value {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::field(
            "stream_options",
            "`stream_options` is allowed with `stream: true` only.",
        )),
        Some(Value::Object(object)) => {
            let mut fields = Fields::new(object);
            let include = match fields.take("include_usage") {
                None => false,
                Some(Value::Bool(include)) => include,
                Some(other) => {
                    let name = "stream_options.include_usage";
                    return Err(wrong(name, "true or false", &other));
                }
            };
            match fields.left().next() {
                // OpenAI pads chunks against traffic analysis; no answer depends on it.
                None | Some("include_obfuscation") => Ok(include),
                Some(name) => Err(ApiError::field(
                    format!("stream_options.{}", cut(name)),
                    format!(
                        "`stream_options` holds `include_usage` only; `{}` is not known here.",
                        cut(name)
                    ),
                )
                .code("unknown_field")),
            }
        }
        Some(other) => Err(wrong("stream_options", "an object", &other)),
    }
}

fn logit_bias(
    value: Option<Value>,
    kind: Option<Value>,
    config: &Config,
    model: &Model,
) -> Result<Vec<(Token, f32)>, ApiError> {
    /// Far beyond any logit, and far from overflow.
    const MOST: f64 = 1.0e6;
    let by_text = match kind {
        None => false,
        Some(Value::String(kind)) if kind == "input_ids" => false,
        Some(Value::String(kind)) if kind == "tokens" => true,
        Some(other) => {
            return Err(wrong(
                "logit_bias_type",
                "\"input_ids\" or \"tokens\"",
                &other,
            ));
        }
    };
    let entries = match value {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) if entries.len() <= config.limits.logit_bias => entries,
        Some(other) => {
            let most = counted(config.limits.logit_bias, "field");
            let allowed = format!("an object of at most {most}");
            return Err(wrong("logit_bias", &allowed, &other));
        }
    };
    let vocab = model.vocab();
    // The reference keeps a map from id to bias: the last one counts.
    let mut biases: BTreeMap<Token, f32> = BTreeMap::new();
    for (key, value) in entries {
        let bias = value
            .as_f64()
            .filter(|bias| bias.abs() <= MOST)
            .ok_or_else(|| {
                let name = format!("logit_bias.{}", cut(&key));
                ApiError {
                    param: Some("logit_bias".to_owned()),
                    ..wrong(&name, "a number from -1000000 to 1000000", &value)
                }
            })? as f32;
        if by_text {
            if key.len() > config.limits.stop_bytes {
                return Err(ApiError::field(
                    "logit_bias",
                    format!(
                        "A text of `logit_bias` must not be longer than {} bytes, but one has {}.",
                        config.limits.stop_bytes,
                        key.len()
                    ),
                ));
            }
            let tokens = vocab.tokenize(&key, false, true);
            biases.extend(tokens.into_iter().map(|token| (token, bias)));
            if biases.len() > config.limits.logit_bias {
                return Err(ApiError::field(
                    "logit_bias",
                    format!(
                        "The texts of `logit_bias` come to more than {} tokens.",
                        config.limits.logit_bias
                    ),
                ));
            }
        } else {
            let token = key
                .parse::<usize>()
                .ok()
                .filter(|&id| id < vocab.len())
                .and_then(|id| i32::try_from(id).ok());
            let token = token.ok_or_else(|| {
                ApiError::field(
                    "logit_bias",
                    format!(
                        "The keys of `logit_bias` must be token ids from 0 to {}, but one is {:?}. (With \
                         `logit_bias_type: \"tokens\"` they are texts.)",
                        vocab.len() - 1,
                        cut(&key)
                    ),
                )
            })?;
            biases.insert(Token(token), bias);
        }
    }
    Ok(biases.into_iter().collect())
}
