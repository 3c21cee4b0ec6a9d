//! What all routes that generate text have in common: the fields that say how, what they may come to, and the sequences
//! that they become. Each field stands here once: its name, bounds, meaning and effect.

mod samplers;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::adapters;
use super::error::ApiError;
use super::fields::{Fields, strings, whole, wrong};
use super::ids::random;
use super::served::Served;
use super::structured::Structured;
use super::wording::{counted, cut};
use crate::config::Mode;
use crate::engine::{Request, Rows};
use crate::logprobs::Tell;
use crate::model::{Adapters, Token};
use crate::sampling::{Mirostat, SamplingParams, Watch};
pub use samplers::ids;

/// How text is to be generated.
#[derive(Debug)]
pub struct Generate {
    /// Choices for each prompt.
    pub n: usize,
    pub stream: bool,
    /// Whether a stream tells its usage at the end.
    pub include_usage: bool,
    pub adapters: Adapters,
    /// Whether the bits must depend on nobody else, in throughput mode too.
    pub exact: bool,
    /// Whether a receipt comes with the answer.
    pub receipt: bool,
    stop: Vec<String>,
    /// Whether the text keeps the stop string that it ended at.
    include_stop: bool,
    cache_prompt: bool,
    /// `None`: a random one.
    seed: Option<u32>,
    /// Without seed and constraint, which are filled in last.
    sampling: SamplingParams,
    structured: Option<Structured>,
}

/// One prompt of a request, and what is asked of it.
pub struct Wanted {
    pub prompt: Arc<[Token]>,
    /// See [`Request::kept`] and [`Request::given`].
    pub kept: Arc<[Token]>,
    pub given: Option<Token>,
    pub max_tokens: usize,
    /// Of generated tokens.
    pub logprobs: Option<Tell>,
    /// Of the prompt's.
    pub prompt_logprobs: Option<Tell>,
    pub rows: Rows,
    pub watch: Watch,
    /// Sequences that continue it.
    pub sequences: usize,
    /// See [`Request::deliver_end_token`].
    pub deliver_end_token: bool,
}

impl Generate {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let (limits, defaults) = (&served.config.limits, &served.config.sampling);
        let n = fields
            .field("n", "Choices for each prompt, which is evaluated once. Those of a seeded request differ, and repeat \
                         with the seed.")
            .count_or(1..=limits.n, 1)?;
        let stream = fields
            .field(
                "stream",
                "Whether the answer comes as server-sent events, token by token.",
            )
            .boolean(false)?;
        let mirostat_mode = fields
            .field(
                "mirostat_mode",
                "Mirostat 1 or 2 instead of what follows the penalties and the constraint; 0: off \
                                     (arXiv:2007.14966).",
            )
            .integer_or(0..=2, i64::from(defaults.mirostat_mode))?;
        let tau = fields
            .field(
                "mirostat_tau",
                "The surprise that mirostat aims at, in bits.",
            )
            .number_or(0.0..=100.0, defaults.mirostat_tau)?;
        let eta = fields
            .field("mirostat_eta", "Mirostat's rate of learning.")
            .number_or(0.0..=1.0, defaults.mirostat_eta)?;
        let sampling = SamplingParams {
            temperature: fields
                .field("temperature", "Divides the logits before the draw. 0: the likeliest token is taken.")
                .number_or(0.0..=100.0, defaults.temperature)?,
            top_k: fields
                .field("top_k", "How many of the likeliest tokens are kept. 0 or -1: all.")
                .integer_or(-1..=i64::from(i32::MAX), i64::from(defaults.top_k))?
                .try_into()
                .unwrap_or(defaults.top_k),
            top_p: fields
                .field("top_p", "The fewest of the likeliest tokens whose probabilities add up to this are kept. 1: all.")
                .number_or(0.0..=1.0, defaults.top_p)?,
            min_p: fields
                .field("min_p", "Tokens are kept that are at least this likely, relative to the likeliest. 0: all.")
                .number_or(0.0..=1.0, defaults.min_p)?,
            typical_p: fields
                .field("typical_p", "The fewest of the most typical tokens whose probabilities add up to this are kept \
                                     (arXiv:2202.00666). 1: all.")
                .number_or(0.0..=1.0, defaults.typical_p)?,
            repeat_penalty: fields
                .field("repeat_penalty", "Divides the positive logits of the last 64 generated tokens, and multiplies \
                                          the negative ones (arXiv:1909.05858). 1: no effect.")
                .number_or(0.01..=100.0, defaults.repeat_penalty)?,
            frequency_penalty: fields
                .field("frequency_penalty", "Taken off a token's logit for each time it is among the last 64 generated.")
                .number_or(-2.0..=2.0, defaults.frequency_penalty)?,
            presence_penalty: fields
                .field("presence_penalty", "Taken once off the logit of each token among the last 64 generated.")
                .number_or(-2.0..=2.0, defaults.presence_penalty)?,
            mirostat: match mirostat_mode {
                1 => Mirostat::V1 { tau, eta },
                2 => Mirostat::V2 { tau, eta },
                _ => Mirostat::Off,
            },
            min_tokens: fields
                .field("min_tokens", "No token ends the text before there are so many.")
                .count_or(0..=u32::MAX as usize, defaults.min_tokens)?,
            logit_bias: logit_bias(fields, served)?,
            constraint: None,
            seed: 0,
            ..SamplingParams::default()
        };
        let sampling = samplers::read(fields, served, sampling)?;
        Ok(Self {
            n,
            stream,
            include_usage: include_usage(fields, stream)?,
            exact: exact(fields, served)?,
            receipt: receipt(fields, stream)?,
            adapters: adapters::read(fields, &served.model)?,
            stop: stop(fields, served)?,
            include_stop: fields
                .field("include_stop_str_in_output", "Whether the text keeps the stop string, or the text of the token of \
                                                      `stop_token_ids`, that it ended at.")
                .boolean(false)?,
            cache_prompt: fields
                .field("cache_prompt", "Whether what is known of the prompt's beginning may be used again. `false`: the \
                                        prompt is evaluated whole.")
                .boolean(true)?,
            seed: seed(fields)?,
            sampling,
            structured: Structured::parse(fields, served)?,
        })
    }

    /// What its bits depend on beside model and tokens: the adapters, and whether exactness is asked for.
    pub fn manner(&self) -> (&Adapters, bool) {
        (&self.adapters, self.exact)
    }

    /// Has the text follow this; 400 if the request itself says what it must follow.
    pub fn follow(&mut self, structured: Structured, served: &Served) -> Result<(), ApiError> {
        structured.check_length(served.config.limits.grammar_bytes)?;
        match &self.structured {
            None => self.structured = Some(structured),
            Some(other) => return Err(other.excludes(&structured)),
        }
        Ok(())
    }

    /// The sequences that continue these prompts, those of one prompt beside each other. Takes milliseconds if the
    /// text must follow something, which is checked then.
    pub fn sequences(
        &mut self,
        prompts: Vec<Wanted>,
        served: &Served,
    ) -> Result<Vec<Request>, ApiError> {
        let structured = self.structured.take();
        let constraint = structured.map(|structured| structured.constraint(&served.model));
        self.sampling.constraint = constraint.transpose()?;
        // Not 2^32 - 1, which stands for none.
        let seed = *self
            .seed
            .get_or_insert_with(|| (random() % u64::from(u32::MAX)) as u32);
        let stop: Arc<[String]> = std::mem::take(&mut self.stop).into();
        let mut sequences = Vec::new();
        for wanted in prompts {
            for choice in 0..wanted.sequences {
                sequences.push(Request {
                    prompt: Arc::clone(&wanted.prompt),
                    kept: Arc::clone(&wanted.kept),
                    given: wanted.given,
                    adapters: self.adapters.clone(),
                    max_tokens: wanted.max_tokens,
                    logprobs: wanted.logprobs.clone(),
                    prompt_logprobs: wanted.prompt_logprobs.clone(),
                    rows: wanted.rows.clone(),
                    watch: wanted.watch.clone(),
                    sampling: SamplingParams {
                        seed: choice_seed(seed, choice),
                        ..self.sampling.clone()
                    },
                    stop: Arc::clone(&stop),
                    include_stop: self.include_stop,
                    cache_prompt: self.cache_prompt,
                    exact: self.exact,
                    streamed: self.stream,
                    deliver_end_token: wanted.deliver_end_token,
                });
            }
        }
        Ok(sequences)
    }

    /// The request's seed; a random one is known when there are sequences.
    pub fn seed(&self) -> Option<u32> {
        self.seed
    }
}

/// The first choice has the request's own seed, and the others count on from it. After 2^32 - 2 comes 0: llama.cpp takes
/// 2^32 - 1 as a request for a random seed. So all choices of a request differ, whatever its seed is.
fn choice_seed(seed: u32, choice: usize) -> u32 {
    const SEEDS: u64 = u32::MAX as u64;
    ((u64::from(seed) + choice as u64) % SEEDS) as u32
}

fn stop(fields: &mut Fields, served: &Served) -> Result<Vec<String>, ApiError> {
    let limits = &served.config.limits;
    let value = fields
        .field("stop", "The text ends before the first of these; the tokens that were drawn stay in the arrays.")
        .value(|| json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}));
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let strings = strings(value, "stop", limits.stop_strings)?;
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
fn seed(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let value = fields
        .field(
            "seed",
            "The same seed and request give the same answer. -1, or none: a random one.",
        )
        .value(|| json!({"type": "integer"}));
    let Some(value) = value else {
        return Ok(None);
    };
    let wide = value
        .as_u64()
        .map(i128::from)
        .or_else(|| whole(&value).map(i128::from));
    let seed = wide.ok_or_else(|| {
        wrong(
            "seed",
            "a whole number from -2^63 to 2^64 - 1 (-1 asks for a random one)",
            &value,
        )
    })?;
    let reduced = seed.rem_euclid(1 << 32) as u32;
    Ok((reduced != u32::MAX).then_some(reduced))
}

fn exact(fields: &mut Fields, served: &Served) -> Result<bool, ApiError> {
    let exact = fields
        .field(
            "exact",
            "Whether the answer's bits must depend neither on other requests nor on what is cached, on a server in \
             throughput mode too: its tokens are then evaluated one by one there. In exact mode that holds for all.",
        )
        .boolean(false)?;
    let shares = served.engine.mode() == Some(Mode::Throughput);
    if exact && shares && served.config.model.gpu_layers > 0 {
        return Err(ApiError::field(
            "exact",
            "`exact` is not promised by this server: layers of the model are on a GPU (`model.gpu_layers`), where bits \
             depend on how prompts are cut. Leave it out, or ask a server that runs on a CPU.",
        ));
    }
    Ok(exact)
}

fn receipt(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let receipt = fields
        .field(
            "receipt",
            "Whether the answer has a `receipt`, by which `candor verify` runs the request again and compares every bit.",
        )
        .boolean(false)?;
    if receipt && stream {
        return Err(ApiError::field(
            "receipt",
            "`receipt` is allowed without `stream` only: it tells of the whole answer. Streamed, the same request with the \
             same seed has the same bits.",
        ));
    }
    Ok(receipt)
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let value = fields
        .field(
            "stream_options",
            "`include_usage`: whether the last event before `[DONE]` tells the tokens used.",
        )
        .value(|| json!({"type": "object", "properties": {"include_usage": {"type": "boolean"}}}));
    match value {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::field(
            "stream_options",
            "`stream_options` is allowed with `stream: true` only.",
        )),
        Some(Value::Object(mut object)) => {
            let include = match object.remove("include_usage") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(include)) => include,
                Some(other) => {
                    let name = "stream_options.include_usage";
                    return Err(wrong(name, "true or false", &other));
                }
            };
            match object.keys().next().map(String::as_str) {
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

fn logit_bias(fields: &mut Fields, served: &Served) -> Result<Vec<(Token, f32)>, ApiError> {
    /// Far beyond any logit, and far from overflow.
    const MOST: f64 = 1.0e6;
    let limits = &served.config.limits;
    let value = fields
        .field("logit_bias", "Added to the logits of these tokens before anything else: token id → bias.")
        .value(|| json!({"type": "object", "additionalProperties": {"type": "number", "minimum": -MOST, "maximum": MOST}}));
    let kind = fields
        .field("logit_bias_type", "\"input_ids\": the keys of `logit_bias` are token ids; \"tokens\": they are texts, and \
                                   each of their tokens gets the bias.")
        .value(|| json!({"type": "string", "enum": ["input_ids", "tokens"], "default": "input_ids"}));
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
        Some(Value::Object(entries)) if entries.len() <= limits.logit_bias => entries,
        Some(other) => {
            let most = counted(limits.logit_bias, "field");
            let allowed = format!("an object of at most {most}");
            return Err(wrong("logit_bias", &allowed, &other));
        }
    };
    let vocab = served.model.vocab();
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
            if key.len() > limits.stop_bytes {
                return Err(ApiError::field(
                    "logit_bias",
                    format!(
                        "A text of `logit_bias` must not be longer than {} bytes, but one has {}.",
                        limits.stop_bytes,
                        key.len()
                    ),
                ));
            }
            let tokens = vocab.tokenize(&key, false, true);
            biases.extend(tokens.into_iter().map(|token| (token, bias)));
            if biases.len() > limits.logit_bias {
                return Err(ApiError::field(
                    "logit_bias",
                    format!(
                        "The texts of `logit_bias` come to more than {} tokens.",
                        limits.logit_bias
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_different_seeds_also_at_the_end_of_the_range() {
        let check = |seed: u32, expect: &[u32]| {
            let seeds: Vec<u32> = (0..expect.len())
                .map(|choice| choice_seed(seed, choice))
                .collect();
            assert_eq!(seeds, expect);
        };
        check(0, &[0, 1, 2]);
        check(5, &[5, 6, 7]);
        // What -2, -3 and -4 stand for.
        check(u32::MAX - 1, &[u32::MAX - 1, 0, 1, 2]);
        check(u32::MAX - 2, &[u32::MAX - 2, u32::MAX - 1, 0, 1]);
        check(u32::MAX - 3, &[u32::MAX - 3, u32::MAX - 2, u32::MAX - 1, 0]);
    }
}
