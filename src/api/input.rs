//! Texts in requests: one or several, as strings or as token ids.

use serde_json::{Value, json};

use super::bounds::Room;
use super::error::ApiError;
use super::fields::{Fields, token_ids, wrong, wrong_in};
use super::served::Served;
use super::wording::describe;
use crate::model::{Added, Token};

/// A text in a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Text(String),
    /// At least one; each is within the vocabulary.
    Tokens(Vec<Token>),
}

/// How prompts are tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenising {
    /// Which of the special tokens that the model expects around a text it gets.
    pub added: Added,
    /// How many of the last tokens of a longer prompt are kept; at least one.
    pub keeps: Option<usize>,
}

impl Tokenising {
    /// Rejects a prompt that cannot fit, before it is tokenized.
    pub fn check_length(self, input: &Input, room: Room, served: &Served) -> Result<(), ApiError> {
        match input {
            Input::Text(text) => self.check_text(text, room, served),
            Input::Tokens(tokens) if self.keeps.is_none() => {
                room.check_length(tokens.len(), true, served)
            }
            Input::Tokens(_) => Ok(()),
        }
    }

    /// The same for a text.
    pub fn check_text(self, text: &str, room: Room, served: &Served) -> Result<(), ApiError> {
        /// Maximum number of bytes of a text to truncate, because all of it is tokenized.
        const TRUNCATED_BYTES: usize = 1 << 20;
        if self.keeps.is_none() {
            let least = served.model.vocab().least_tokens(text);
            return room.check_length(least, false, served);
        }
        if text.len() <= TRUNCATED_BYTES {
            return Ok(());
        }
        Err(ApiError::field(
            room.param,
            format!(
                "`{}` with `truncate_prompt_tokens` must not have more than {TRUNCATED_BYTES} bytes, but it has {}.",
                room.param,
                text.len()
            ),
        ))
    }
}

/// How many tokens of each prompt are kept, for a request with this `max_tokens`.
pub fn keeps(
    fields: &mut Fields,
    max_tokens: Option<usize>,
    served: &Served,
) -> Result<Option<usize>, ApiError> {
    const NAME: &str = "truncate_prompt_tokens";
    let context_length = served.engine.context_length();
    let most = i64::try_from(context_length).unwrap_or(i64::MAX);
    let number = fields
        .field(
            NAME,
            "Keeps only this many of the last tokens of each prompt; BOS counts, and is dropped first. -1: as many as leave \
             room in the context for `max_tokens`.",
        )
        .integer(-1..=most)?;
    let room = match max_tokens {
        // Room for one generated token.
        None => context_length - 1,
        Some(max_tokens) => context_length.saturating_sub(max_tokens),
    };
    match number {
        None => Ok(None),
        Some(0) => Err(ApiError::field(
            NAME,
            format!("`{NAME}` must be a whole number from 1 to {most}, or -1, but it is 0."),
        )),
        Some(-1) if room == 0 => Err(ApiError::field(
            NAME,
            format!(
                "`{NAME}` is -1, but `max_tokens` leaves no room for a prompt in the context of {most} tokens."
            ),
        )),
        Some(number) => Ok(Some(usize::try_from(number).unwrap_or(room))),
    }
}

/// What such a field may be.
pub const SHAPES: &str =
    "a string, an array of strings, an array of token ids, or an array of arrays of token ids";

/// The same as JSON Schema.
pub fn schema() -> Value {
    let ids = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}});
    json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        ids,
        {"type": "array", "minItems": 1, "items": ids},
    ]})
}

/// What a field with one text may be.
pub const ONE_SHAPES: &str = "a string or an array of token ids";

/// The same as JSON Schema.
pub fn one_schema() -> Value {
    json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
    ]})
}

/// One text, called `place`, in the field `param`; ids are within a vocabulary of `vocabulary` tokens.
pub fn one(value: Value, place: &str, param: &str, vocabulary: usize) -> Result<Input, ApiError> {
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(ids) if ids.is_empty() => {
            let message = format!("`{place}` must have at least one token id.");
            Err(ApiError::field(param, message))
        }
        Value::Array(ids) => token_ids(&ids, place, param, vocabulary).map(Input::Tokens),
        other => Err(wrong_in(param, place, ONE_SHAPES, &other)),
    }
}

/// The texts of a field, at least one and at most `most`; ids are within a vocabulary of `vocabulary` tokens.
pub fn read(
    value: Value,
    name: &'static str,
    most: usize,
    vocabulary: usize,
) -> Result<Vec<Input>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Input::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong(name, SHAPES, &other)),
    };
    let ids = |items: &[Value], place: &str| {
        if items.is_empty() {
            let message = format!("`{place}` must have at least one token id.");
            return Err(ApiError::field(name, message));
        }
        token_ids(items, place, name, vocabulary).map(Input::Tokens)
    };
    match items.first() {
        None => {
            return Err(ApiError::field(
                name,
                format!("`{name}` must be {SHAPES}, but it is an empty array."),
            ));
        }
        Some(Value::Number(_)) => return Ok(vec![ids(&items, name)?]),
        Some(_) => {}
    }
    if items.len() > most {
        return Err(ApiError::field(
            name,
            format!(
                "`{name}` must have at most {most} {name}s, but it has {}.",
                items.len()
            ),
        ));
    }
    let strings = matches!(items.first(), Some(Value::String(_)));
    items
        .into_iter()
        .enumerate()
        .map(|(number, item)| match item {
            Value::String(text) if strings => Ok(Input::Text(text)),
            Value::Array(inner) if !strings => ids(&inner, &format!("{name}[{number}]")),
            other => Err(ApiError::field(
                name,
                format!(
                    "`{name}` must be {SHAPES}, but `{name}[{number}]` is {}.",
                    describe(&other)
                ),
            )),
        })
        .collect()
}
