//! What the bodies of `/completion` and `/infill` have beside their prompts: llama-server's names for the fields of
//! `/v1/completions`, and how the answer is written.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::completions::CompletionRequest;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, whole, wrong, wrong_in};
use crate::api::generate::{DEFAULT_BREAKERS, Generate};
use crate::api::input::{Input, Tokenising};
use crate::api::served::{Served, model_field};
use crate::api::token_options::OutputOptions;
use crate::api::wording::{counted, cut, describe};
use crate::logprobs::LogprobSpec;
use crate::model::Added;
use crate::sampling::{Mode, Watch};

/// Maximum number of `response_fields`.
const RESPONSE_FIELDS: usize = 100;
/// The window of the penalties.
const PENALTY_WINDOW: i64 = 64;
/// The bias of a banned token.
const BANNED: f64 = -1.0e6;

/// A request without its prompts.
#[derive(Debug)]
pub struct LlamaRequest {
    max_tokens: Option<usize>,
    options: OutputOptions,
    generate: Generate,
    form: Form,
}

/// How an answer is written.
#[derive(Debug, Clone)]
pub struct Form {
    /// As in the request; −1 without one.
    pub id_slot: i64,
    /// Alternatives of each token; 0: no probabilities at all.
    pub n_probs: usize,
    /// Whether probabilities are those that tokens are drawn with.
    pub post_sampling: bool,
    pub return_tokens: bool,
    /// The parts of the answer that are sent, as paths; `None`: all.
    pub response_fields: Option<Arc<[String]>>,
    /// What of the request the answer repeats as it was sent.
    pub sent: Sent,
}

/// Fields that a request only keeps in another form.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Empty without one.
    pub grammar: String,
    pub dry_sequence_breakers: Vec<String>,
    pub repeat_last_n: i64,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            id_slot: -1,
            n_probs: 0,
            post_sampling: false,
            return_tokens: false,
            response_fields: None,
            sent: Sent {
                grammar: String::new(),
                dry_sequence_breakers: DEFAULT_BREAKERS.map(str::to_owned).to_vec(),
                repeat_last_n: PENALTY_WINDOW,
            },
        }
    }
}

impl LlamaRequest {
    /// Reads the fields. The documentation of the routes is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let limits = &served.config.limits;
        model_field(fields)?;
        let max_tokens = max_tokens(fields)?;
        let n_probs = n_probs(fields, limits.logprobs)?;
        let post_sampling = fields
            .field(
                "post_sampling_probs",
                "With `n_probs`: probabilities of the distribution that the token is drawn from, as `prob` and `top_probs`.",
            )
            .boolean(false)?;
        let mirostat = fields
            .field("mirostat", "Another name for `mirostat_mode`.")
            .integer(0..=2)?;
        if let Some(mirostat) = mirostat {
            fields.put("mirostat_mode", mirostat.into(), "mirostat")?;
        }
        let n = fields
            .field("n_cmpl", "Another name for `n`.")
            .count(1..=limits.n)?;
        if let Some(n) = n {
            fields.put("n", n.into(), "n_cmpl")?;
        }
        logit_bias(fields, served)?;
        let sent = Sent::peek(fields);
        let mut generate = Generate::parse(fields, served)?;
        check(&generate)?;
        let repeat_last_n = penalty_window(fields, &mut generate)?;
        generate.reports = true;
        generate.line_after = line_after(fields)?;
        let least_indent = fields
            .field(
                "n_indent",
                "The text ends before the first line, after its own first, that is indented by fewer spaces and tabs than \
                 this. An empty line is not indented.",
            )
            .count_or(0..=u32::MAX as usize, 0)?;
        generate.stop = std::mem::take(&mut generate.stop).with_least_indent(least_indent);
        without_effect(fields)?;
        let form = Form {
            id_slot: fields
                .field(
                    "id_slot",
                    "Comes back as it was sent. The cache of every slot is used, whichever it is.",
                )
                .integer_or(-1..=i64::from(i32::MAX), -1)?,
            n_probs,
            post_sampling,
            return_tokens: fields
                .field(
                    "return_tokens",
                    "Whether `tokens` has the tokens of the text.",
                )
                .boolean(false)?,
            response_fields: response_fields(fields)?,
            sent: Sent {
                repeat_last_n,
                ..sent
            },
        };
        Ok(Self {
            max_tokens,
            options: options(n_probs, post_sampling),
            generate,
            form,
        })
    }

    /// The same request as one for `/v1/completions`, with these prompts.
    pub fn with(
        self,
        prompts: Vec<Input>,
        served: &Served,
    ) -> Result<(CompletionRequest, Form), ApiError> {
        let request = CompletionRequest {
            prompts,
            fork: None,
            max_tokens: self.max_tokens,
            options: self.options,
            echo: false,
            evaluates: true,
            scored_from: None,
            best_of: self.generate.n,
            suffix: None,
            tokenising: Tokenising {
                added: Added::Both,
                keeps: None,
            },
            generate: self.generate,
        };
        request.check(&served.config.limits)?;
        Ok((request, self.form))
    }
}

impl Sent {
    /// Looks at fields that are read and checked later.
    fn peek(fields: &Fields) -> Self {
        let Self {
            dry_sequence_breakers,
            ..
        } = Form::default().sent;
        let grammar = fields.peek("grammar").and_then(Value::as_str);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            grammar: grammar.unwrap_or_default().to_owned(),
            dry_sequence_breakers: match fields.peek("dry_sequence_breakers") {
                Some(Value::Array(items)) => items.iter().filter_map(text).collect(),
                Some(Value::String(text)) => vec![text.clone()],
                _ => dry_sequence_breakers,
            },
            repeat_last_n: PENALTY_WINDOW,
        }
    }
}

/// `None`: until the context is full.
fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let about = "Maximum number of tokens to generate. -1: until the context is full. 0: none, the prompt is evaluated for \
                 the cache.";
    let most = i64::from(u32::MAX);
    let mut number = fields.field("n_predict", about).integer_or(-1..=most, -1)?;
    for name in ["max_tokens", "max_completion_tokens"] {
        let about = "Another name for `n_predict`.";
        let Some(other) = fields.field(name, about).integer(-1..=most)? else {
            continue;
        };
        if number != -1 && number != other {
            return Err(ApiError::field(
                name,
                format!("`{name}` is another name for `n_predict`. Send only one of the two."),
            ));
        }
        number = other;
    }
    Ok(usize::try_from(number).ok())
}

fn n_probs(fields: &mut Fields, most: usize) -> Result<usize, ApiError> {
    let about = "The probability of each token and of this many of the most likely, in `completion_probabilities`. 0: none.";
    let number = fields.field("n_probs", about).count(0..=most)?;
    let about = "Another name for `n_probs`.";
    let other = fields.field("logprobs", about).count(0..=most)?;
    match (number, other) {
        (Some(number), Some(other)) if number != other => Err(ApiError::field(
            "logprobs",
            "`logprobs` is another name for `n_probs`. Send only one of the two.",
        )),
        (number, other) => Ok(number.or(other).unwrap_or(0)),
    }
}

fn options(n_probs: usize, post_sampling: bool) -> OutputOptions {
    let watched = post_sampling && n_probs > 0;
    OutputOptions {
        logprobs: (n_probs > 0).then(|| LogprobSpec::top(n_probs)),
        watch: Watch {
            modes: watched.then_some(Mode::Sampled).into_iter().collect(),
            trace: None,
        },
        ..OutputOptions::default()
    }
}

/// llama-server also takes pairs, texts as tokens, and `false` as the bias of a token that is banned. They become token ids
/// with numbers, which are read like those of other routes.
fn logit_bias(fields: &mut Fields, served: &Served) -> Result<(), ApiError> {
    const NAME: &str = "logit_bias";
    let about = "Added to the logits of these tokens before anything else: token id → bias, or pairs of a token id and a \
                 bias. A text stands for each of its tokens; a string in a pair is always one, a key of digits never. false: \
                 the token is banned.";
    let value = fields.field(NAME, about).value(|| {
        let bias = json!({"anyOf": [{"type": "number", "minimum": BANNED, "maximum": -BANNED}, {"const": false}]});
        let token = json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]});
        let pair = json!({"type": "array", "prefixItems": [token, bias], "items": false, "minItems": 2});
        json!({"anyOf": [
            {"type": "object", "additionalProperties": bias},
            {"type": "array", "items": pair},
        ]})
    });
    let pairs: Vec<(Value, Value)> = match value {
        None => return Ok(()),
        // The form of other routes.
        Some(object) if fields.peek("logit_bias_type").is_some() => {
            return fields.put(NAME, object, NAME);
        }
        Some(Value::Object(object)) => object
            .into_iter()
            .map(|(key, bias)| match key.parse::<i64>() {
                Ok(id) => (id.into(), bias),
                Err(_) => (key.into(), bias),
            })
            .collect(),
        Some(Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(place, item)| match item {
                Value::Array(pair) => <[Value; 2]>::try_from(pair)
                    .map(|[token, bias]| (token, bias))
                    .map_err(|pair| (place, Value::Array(pair))),
                other => Err((place, other)),
            })
            .collect::<Result<_, _>>()
            .map_err(|(place, item)| {
                ApiError::field(
                    NAME,
                    format!(
                        "`{NAME}[{place}]` must be a pair of a token and a bias, but it is {}.",
                        describe(&item)
                    ),
                )
            })?,
        Some(other) => return Err(wrong(NAME, "an object or an array of pairs", &other)),
    };
    let limits = &served.config.limits;
    let mut biases = Map::new();
    for (token, bias) in pairs {
        let bias = match bias {
            Value::Bool(false) => BANNED.into(),
            bias if bias.is_number() => bias,
            // Before a text makes many of it.
            other => {
                let token = token
                    .as_str()
                    .map_or_else(|| token.to_string(), str::to_owned);
                let token = cut(&token);
                let allowed = format!("a number from {BANNED} to {}, or false", -BANNED);
                return Err(wrong_in(NAME, &format!("{NAME}.{token}"), &allowed, &other));
            }
        };
        let ids: Vec<String> = match &token {
            Value::String(text) => {
                if text.len() > limits.stop_bytes {
                    return Err(ApiError::field(
                        NAME,
                        format!(
                            "A text of `{NAME}` must not be longer than {} bytes, but one has {}.",
                            limits.stop_bytes,
                            text.len()
                        ),
                    ));
                }
                let tokens = served.model.vocab().tokenize(text, Added::Nothing, false);
                tokens.iter().map(|token| token.0.to_string()).collect()
            }
            token => vec![
                whole(token)
                    .ok_or_else(|| wrong(NAME, "pairs of a token id or a text and a bias", token))?
                    .to_string(),
            ],
        };
        biases.extend(ids.into_iter().map(|id| (id, bias.clone())));
        if biases.len() > limits.logit_bias {
            return Err(ApiError::field(
                NAME,
                format!(
                    "`{NAME}` must have at most {}.",
                    counted(limits.logit_bias, "token")
                ),
            ));
        }
    }
    fields.put(NAME, biases.into(), NAME)
}

/// Rejects what these routes' answers have no place for.
fn check(generate: &Generate) -> Result<(), ApiError> {
    if generate.receipt {
        return Err(ApiError::field(
            "receipt",
            "`receipt` is not supported here. POST /v1/completions returns receipts.",
        ));
    }
    if generate.stream_usage.at_end || generate.stream_usage.in_each {
        return Err(ApiError::field(
            "stream_options",
            "Usage by `stream_options` is not supported here: the last event has `tokens_evaluated` and \
             `tokens_predicted`.",
        ));
    }
    Ok(())
}

/// Penalties have one window, which another one may only be given for if they are off. An empty one switches them off.
fn penalty_window(fields: &mut Fields, generate: &mut Generate) -> Result<i64, ApiError> {
    const NAME: &str = "repeat_last_n";
    let about = "How many of the last tokens the penalties look back on. 0: they are off. Another window than theirs is \
                 accepted only if they are off.";
    let window = fields
        .field(NAME, about)
        .integer_or(-1..=i64::from(i32::MAX), PENALTY_WINDOW)?;
    if window == 0 {
        generate.drop_penalties();
    }
    let values = generate.values();
    let are_off = values.repeat_penalty == 1.0
        && values.frequency_penalty == 0.0
        && values.presence_penalty == 0.0;
    if window == PENALTY_WINDOW || are_off {
        return Ok(window);
    }
    Err(ApiError::field(
        NAME,
        format!(
            "`{NAME}` must be {PENALTY_WINDOW} if there are penalties, but it is {window}: `repeat_penalty`, \
             `frequency_penalty` and `presence_penalty` look back on {PENALTY_WINDOW} tokens."
        ),
    ))
}

fn line_after(fields: &mut Fields) -> Result<Option<Duration>, ApiError> {
    let most = i64::from(u32::MAX);
    let time = fields
        .field(
            "t_max_predict_ms",
            "After so many milliseconds since the first token, the text ends with its current line (`stop_type` \"limit\"). \
             Such an answer depends on the server's speed. 0 or -1: no limit.",
        )
        .integer_or(-1..=most, -1)?;
    fields
        .field(
            "t_max_prompt_ms",
            "Accepted without effect, as in llama-server: the prompt is always evaluated.",
        )
        .integer(-1..=most)?;
    let time = u64::try_from(time).ok().filter(|&time| time > 0);
    Ok(time.map(Duration::from_millis))
}

/// Fields that change nothing here, and those of which one value does.
fn without_effect(fields: &mut Fields) -> Result<(), ApiError> {
    let most = i64::from(i32::MAX);
    let about = "Accepted without effect: when the context is full the text ends, and nothing is shifted out.";
    fields.field("n_keep", about).integer(-1..=most)?;
    fields.field("n_discard", about).integer(0..=most)?;
    for (name, about) in [
        (
            "min_keep",
            "Only 0: samplers keep at least one candidate, and no other number can be set.",
        ),
        (
            "n_cache_reuse",
            "Only 0: cached tokens are reused at their own positions.",
        ),
    ] {
        fields.field(name, about).integer_or(0..=0, 0)?;
    }
    for name in ["timings_per_token", "return_progress", "backend_sampling"] {
        let value = fields
            .field(name, "Only false: not supported.")
            .value(|| json!({"type": "boolean", "enum": [false], "default": false}));
        if let Some(other) = value.filter(|value| *value != Value::Bool(false)) {
            return Err(wrong(
                name,
                "false, the only value that is supported",
                &other,
            ));
        }
    }
    Ok(())
}

fn response_fields(fields: &mut Fields) -> Result<Option<Arc<[String]>>, ApiError> {
    const NAME: &str = "response_fields";
    let about = "The parts of the answer to send: names, or paths like \"timings/predicted_n\", which become names. Those \
                 that there are none of are left out. Absent or empty: the whole answer.";
    let value = fields.field(NAME, about).value(
        || json!({"type": "array", "maxItems": RESPONSE_FIELDS, "items": {"type": "string"}}),
    );
    let names = match value {
        None => return Ok(None),
        Some(Value::Array(items)) if items.len() <= RESPONSE_FIELDS => items,
        Some(other) => {
            let allowed = format!("an array of at most {RESPONSE_FIELDS} strings");
            return Err(wrong(NAME, &allowed, &other));
        }
    };
    let names = names
        .into_iter()
        .enumerate()
        .map(|(place, name)| match name {
            Value::String(name) => Ok(name),
            other => Err(ApiError::field(
                NAME,
                format!(
                    "`{NAME}[{place}]` must be a string, but it is {}.",
                    describe(&other)
                ),
            )),
        });
    let mut names: Vec<String> = names.collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok((!names.is_empty()).then(|| names.into()))
}
