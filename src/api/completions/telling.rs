//! What a request wants to be told of each token, beside the four arrays: the fields that ask for it, and what that
//! comes to.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::body::{counted, cut, describe};
use crate::api::error::ApiError;
use crate::api::fields::{Fields, strings, wrong};
use crate::api::generate::ids;
use crate::api::models::Served;
use crate::engine::Rows;
use crate::logprobs::LogprobSpec;
use crate::model::{Token, Vocab};
use crate::sampling::{Mode, Watch};

/// Candidates that a trace shows unless the request says how many.
const TRACED: usize = 10;
/// Stages that a trace can have at most, about: what it comes to is counted with them.
const STAGES: usize = 12;

/// What is told of a request's tokens.
#[derive(Debug, Clone, Default)]
pub struct Telling {
    /// `logprobs`, and what goes with them; `None`: no arrays.
    pub tell: Option<LogprobSpec>,
    pub watch: Watch,
    /// Whether the modes are told side by side; else there is one, which the four arrays hold.
    pub side_by_side: bool,
    pub rows: Option<WholeRows>,
    /// Whether the ids of the tokens come with each choice.
    pub token_ids: bool,
    /// Whether tokens are named by their ids.
    pub ids_for_texts: bool,
}

/// Rows of logits that are wanted whole.
#[derive(Debug, Clone)]
pub struct WholeRows {
    pub number: Number,
    /// `None`: those of all tokens that the answer tells of.
    positions: Option<Arc<[usize]>>,
}

/// How a logit is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Float32,
    Float16,
}

impl Number {
    /// As numpy has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

impl Telling {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let logprobs = logprobs(fields, served)?;
        let detail = fields
            .field(
                "logprobs_detail",
                "With `logprobs`: ids and bytes of the tokens, the likeliest with theirs, and of each token its rank, the \
                 distribution's entropy and the mass outside the likeliest.",
            )
            .boolean(false)?;
        let named = named(fields, served)?;
        let (modes, side_by_side) = modes(fields)?;
        for (name, wanted) in [
            ("logprobs_detail", detail),
            ("logprob_token_ids", !named.is_empty()),
            ("logprobs_mode", side_by_side || !modes.is_empty()),
        ] {
            if wanted && logprobs.is_none() {
                return Err(ApiError::field(
                    name,
                    format!(
                        "`{name}` says what is told beside `logprobs`, which this request does not ask for. `logprobs: 0` \
                         is enough."
                    ),
                ));
            }
        }
        Ok(Self {
            tell: logprobs.map(|top| LogprobSpec {
                top,
                detail,
                named: named.into(),
            }),
            watch: Watch {
                modes: modes.into(),
                trace: trace(fields, served.config.limits.logprobs)?,
            },
            side_by_side,
            rows: rows(fields, served)?,
            token_ids: fields
                .field(
                    "return_token_ids",
                    "Whether the ids come with each choice: `token_ids` of what was generated, `prompt_token_ids` of the \
                     prompt.",
                )
                .boolean(false)?,
            ids_for_texts: fields
                .field(
                    "return_tokens_as_token_ids",
                    "With `logprobs`: tokens are named \"token_id:ID\" instead of by their text.",
                )
                .boolean(false)?,
        })
    }

    /// What of a prompt's tokens must be found out, if they come back, or rows of them do.
    pub fn of_prompt(&self, echo: bool, tokens: usize) -> Option<LogprobSpec> {
        if echo && self.tell.is_some() {
            return self.tell.clone();
        }
        let positions = self.rows.as_ref()?.positions.as_ref();
        let some = match positions {
            None => echo,
            Some(positions) => positions
                .iter()
                .any(|position| (1..tokens).contains(position)),
        };
        some.then(|| LogprobSpec::top(0))
    }

    /// The rows of a sequence whose prompt has so many tokens.
    pub fn rows_of(&self, echo: bool, tokens: usize) -> Rows {
        match &self.rows {
            None => Rows::None,
            Some(WholeRows {
                positions: Some(positions),
                ..
            }) => Rows::These(Arc::clone(positions)),
            Some(_) if echo => Rows::From(1),
            Some(_) => Rows::From(tokens),
        }
    }

    /// The first place of which the whole row is asked for by its number.
    pub fn first_row(&self) -> Option<usize> {
        self.rows.as_ref()?.positions.as_ref()?.first().copied()
    }

    /// Whether something is told of each token, also of one without text.
    pub fn of_each_token(&self) -> bool {
        self.tell.is_some() || self.token_ids || self.watch.trace.is_some() || self.rows.is_some()
    }

    /// What the answer tells of a token beside itself.
    pub fn alternatives(&self) -> usize {
        let told = self.tell.as_ref().map_or(0, |tell| {
            let modes = if self.side_by_side {
                self.watch.modes.len()
            } else {
                0
            };
            (tell.top + tell.named.len()) * (1 + modes) * if tell.detail { 2 } else { 1 }
        });
        told + self.watch.trace.map_or(0, |top| STAGES * (2 * top + 1))
    }

    /// Bytes of the whole rows of a sequence with so many tokens told, of which `generated` are generated at most.
    pub fn row_bytes(&self, echoed: usize, generated: usize, vocab: &Vocab) -> usize {
        let Some(rows) = &self.rows else { return 0 };
        let count = match &rows.positions {
            Some(positions) => positions.len(),
            None => echoed + generated,
        };
        count.saturating_mul(vocab.len() * rows.number.bytes())
    }
}

fn logprobs(fields: &mut Fields, served: &Served) -> Result<Option<usize>, ApiError> {
    let limits = &served.config.limits;
    if let Some(Value::Bool(_)) = fields.peek("logprobs") {
        return Err(ApiError::field(
            "logprobs",
            format!(
                "`logprobs` is the number of alternatives, a whole number from 0 to {}, not true or false (those belong to \
                 chat completions).",
                limits.logprobs
            ),
        ));
    }
    fields
        .field(
            "logprobs",
            "Log-probabilities of the tokens and of this many of the likeliest at each place. 0: of the tokens only.",
        )
        .count(0..=limits.logprobs)
}

/// The tokens that are asked for by id, then those by text.
fn named(fields: &mut Fields, served: &Served) -> Result<Vec<Token>, ApiError> {
    let (most, vocab) = (served.config.limits.logprobs, served.model.vocab());
    let about = "With `logprobs`: tokens whose log-probabilities are told at every place, whatever their rank.";
    let ids = ids(fields, ("logprob_token_ids", about), most, vocab.len())?;
    let mut named = ids.unwrap_or_default();
    const TEXTS: &str = "logprob_tokens";
    let texts = fields
        .field(
            TEXTS,
            "The same by the tokens' texts, each of which must be one token's: \" yes\" is another than \"yes\".",
        )
        .value(|| json!({"type": "array", "items": {"type": "string", "minLength": 1}}));
    if let Some(texts) = texts {
        for (place, text) in strings(texts, TEXTS, most)?.iter().enumerate() {
            named.push(token_of(text, vocab).map_err(|tokens| {
                let pieces: Vec<&str> = tokens.iter().map(|&token| vocab.text(token)).collect();
                ApiError::field(
                    TEXTS,
                    format!(
                        "`{TEXTS}[{place}]` must be the text of one token, but {} becomes {}: {}.",
                        describe(&Value::from(text.as_str())),
                        counted(tokens.len(), "token"),
                        cut(&format!("{pieces:?}")),
                    ),
                )
            })?);
        }
    }
    Ok(named)
}

/// The token of this very text; else what the text becomes. Of several with one text it is the one that a prompt would
/// have.
fn token_of(text: &str, vocab: &Vocab) -> Result<Token, Vec<Token>> {
    let is = |token: &Token| vocab.literal(*token) == text.as_bytes();
    let tokens = vocab.tokenize(text, false, true);
    match tokens[..] {
        [token] if is(&token) => Ok(token),
        _ => (0..)
            .map(Token)
            .take(vocab.len())
            .find(is)
            .filter(|_| !text.is_empty())
            .ok_or(tokens),
    }
}

/// The distributions, and whether they are told side by side.
fn modes(fields: &mut Fields) -> Result<(Vec<Mode>, bool), ApiError> {
    const NAME: &str = "logprobs_mode";
    let value = fields
        .field(
            NAME,
            "With `logprobs`: the distribution they are of. `raw`: the model's; `biased`: after bias and bans; `penalized`: \
             after the penalties; `masked`: of what constraint and allowed tokens leave; `sampled`: what the draw is made \
             from. Several are told side by side, and the arrays hold the first.",
        )
        .value(|| {
            let names = Mode::ALL.map(Mode::as_str);
            json!({"default": "raw", "anyOf": [
                {"type": "string", "enum": names},
                {"type": "array", "minItems": 1, "uniqueItems": true, "items": {"type": "string", "enum": names}}]})
        });
    let Some(value) = value else {
        return Ok((Vec::new(), false));
    };
    let read = |value: &Value| value.as_str().and_then(Mode::read);
    let modes = match &value {
        Value::Array(items) if !items.is_empty() => items.iter().map(read).collect(),
        other => read(other).map(|mode| vec![mode]),
    };
    let modes: Option<Vec<Mode>> = modes;
    let distinct = modes.filter(|modes| {
        let mut sorted = modes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len() == modes.len()
    });
    let Some(modes) = distinct else {
        let names = Mode::ALL.map(|mode| format!("\"{}\"", mode.as_str()));
        let allowed = format!("one of {}, or an array of different ones", names.join(", "));
        return Err(wrong(NAME, &allowed, &value));
    };
    Ok(match modes[..] {
        // As without it.
        [Mode::Raw] if value.is_string() => (Vec::new(), false),
        _ => (modes, value.is_array()),
    })
}

fn trace(fields: &mut Fields, most: usize) -> Result<Option<usize>, ApiError> {
    let value = fields
        .field(
            "trace",
            "Whether each choice tells of every generated token what each stage of sampling did, with the 10 likeliest tokens \
             before and after it, or so many.",
        )
        .value(|| {
            json!({"default": false, "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]})
        });
    match value {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(TRACED.min(most))),
        Some(value) => match crate::api::fields::whole(&value).map(usize::try_from) {
            Some(Ok(count)) if count <= most => Ok(Some(count)),
            _ => {
                let allowed = format!("true, false, or a whole number from 0 to {most}");
                Err(wrong("trace", &allowed, &value))
            }
        },
    }
}

fn rows(fields: &mut Fields, served: &Served) -> Result<Option<WholeRows>, ApiError> {
    const NAME: &str = "logits";
    let value = fields
        .field(
            NAME,
            "Whole rows of raw logits. true: of every token that the answer tells of. Or an object: `positions`, the tokens \
             whose rows are wanted, by their place in prompt and completion, from 0 (nothing predicts that one); `dtype`, \
             \"float32\" (default) or \"float16\".",
        )
        .value(|| {
            json!({"default": false, "anyOf": [{"type": "boolean"}, {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "positions": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "dtype": {"type": "string", "enum": ["float32", "float16"]}}}]})
        });
    let object = match value {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => {
            return Ok(Some(WholeRows {
                number: Number::Float32,
                positions: None,
            }));
        }
        Some(Value::Object(object)) => object,
        Some(other) => return Err(wrong(NAME, "true, false or an object", &other)),
    };
    let mut number = Number::Float32;
    let mut positions = None;
    for (key, value) in &object {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("dtype", value) => {
                number = [Number::Float32, Number::Float16]
                    .into_iter()
                    .find(|number| value == number.as_str())
                    .ok_or_else(|| within(NAME, "dtype", "\"float32\" or \"float16\"", value))?;
            }
            ("positions", value) => {
                let last = served.engine.context_length();
                let place = |item: &Value| {
                    let place = crate::api::fields::whole(item).map(usize::try_from);
                    place
                        .and_then(Result::ok)
                        .filter(|place| (1..=last).contains(place))
                };
                let places = value.as_array();
                let places: Option<Vec<usize>> =
                    places.and_then(|items| items.iter().map(place).collect());
                let allowed = format!("an array of whole numbers from 1 to {last}");
                let mut places =
                    places.ok_or_else(|| within(NAME, "positions", &allowed, value))?;
                places.sort_unstable();
                places.dedup();
                positions = Some(places.into());
            }
            (other, _) => {
                return Err(ApiError::field(
                    NAME,
                    format!(
                        "`{NAME}` may have `positions` and `dtype`, but not {}.",
                        describe(&Value::from(other))
                    ),
                ));
            }
        }
    }
    Ok(Some(WholeRows { number, positions }))
}

/// 400: a field of a field must be one thing and is another.
fn within(field: &'static str, key: &str, allowed: &str, value: &Value) -> ApiError {
    ApiError::field(
        field,
        format!(
            "`{field}.{key}` must be {allowed}, but it is {}.",
            describe(value)
        ),
    )
}
