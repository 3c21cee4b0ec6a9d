//! Texts as clients send them: one or several, as text or as token ids.

use serde_json::{Value, json};

use super::body::describe;
use super::error::ApiError;
use super::fields::{token_ids, wrong};
use crate::model::Token;

/// A text as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Text(String),
    /// Each id lies within the vocabulary; there is at least one.
    Tokens(Vec<Token>),
}

/// What the field may be.
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

/// The texts, at least one and at most `most`, of a field of this name; ids are of a vocabulary of `vocabulary` tokens.
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
    // Ids are checked here, before anything else sees them.
    let ids = |items: &[Value], place: &str| {
        if items.is_empty() {
            let message = format!("`{place}` must hold at least one token id.");
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
                "`{name}` must hold at most {most} {name}s, but it holds {}.",
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
