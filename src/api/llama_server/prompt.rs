//! The prompts of `/completion`: as on `/v1/completions`, and also of texts and token ids together.

use serde_json::{Value, json};

use crate::api::bounds::Room;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, token_ids, wrong};
use crate::api::input::{self, Input};
use crate::api::served::Served;
use crate::api::wording::describe;
use crate::model::{Added, Token};

const NAME: &str = "prompt";
const SHAPES: &str = "a string, an array of token ids and strings, or an array of these";

pub fn read(fields: &mut Fields, served: &Served) -> Result<Vec<Input>, ApiError> {
    let value = fields
        .field(
            NAME,
            "The text to continue, or several, as strings or token ids. Ids and strings may be mixed. A string at the \
             beginning gets the special tokens that the model expects before it, and control tokens in strings are \
             recognized.",
        )
        .required()
        .value(|| {
            let mixed = json!({"type": "array", "minItems": 1,
                "items": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}});
            let one = json!({"anyOf": [{"type": "string"}, mixed]});
            json!({"anyOf": [{"type": "string"}, mixed, {"type": "array", "minItems": 1, "items": one}]})
        })
        .ok_or_else(|| {
            let message = format!("`{NAME}` is missing: it must be {SHAPES}.");
            ApiError::field(NAME, message)
        })?;
    let (most, vocabulary) = (served.config.limits.prompts, served.model.vocab().len());
    let items = match value {
        Value::String(text) => return Ok(vec![Input::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong(NAME, SHAPES, &other)),
    };
    if items.iter().any(Value::is_number) {
        return Ok(vec![mixed(&items, NAME, served)?]);
    }
    if items.iter().all(Value::is_string) {
        return input::read(items.into(), NAME, most, vocabulary);
    }
    if items.len() > most {
        return Err(ApiError::field(
            NAME,
            format!(
                "`{NAME}` must have at most {most} prompts, but it has {}.",
                items.len()
            ),
        ));
    }
    let prompts = items.into_iter().enumerate();
    prompts
        .map(|(number, item)| match item {
            Value::String(text) => Ok(Input::Text(text)),
            Value::Array(items) => mixed(&items, &format!("{NAME}[{number}]"), served),
            other => Err(ApiError::field(
                NAME,
                format!(
                    "`{NAME}` must be {SHAPES}, but `{NAME}[{number}]` is {}.",
                    describe(&other)
                ),
            )),
        })
        .collect()
}

/// Token ids and strings, one after the other, as tokens.
fn mixed(items: &[Value], place: &str, served: &Served) -> Result<Input, ApiError> {
    let vocab = served.model.vocab();
    let room = Room {
        param: NAME,
        max_tokens: Some(0),
    };
    let texts = items.iter().filter_map(Value::as_str);
    let least: usize = texts.map(|text| vocab.least_tokens(text)).sum();
    room.check_length(least, false, served)?;
    let mut tokens: Vec<Token> = Vec::new();
    for (number, item) in items.iter().enumerate() {
        match item {
            Value::String(text) => {
                let added = if number == 0 {
                    Added::Before
                } else {
                    Added::Nothing
                };
                tokens.extend(vocab.tokenize(text, added, true));
            }
            id => tokens.extend(token_ids(
                std::slice::from_ref(id),
                place,
                NAME,
                vocab.len(),
            )?),
        }
    }
    if tokens.is_empty() {
        let message = format!("`{place}` must have at least one token.");
        return Err(ApiError::field(NAME, message));
    }
    Ok(Input::Tokens(tokens))
}
