//! Fields that would need what this server does not do: store responses, run in the background, drop items. They are
//! accepted with the values that ask for none of it.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};

/// Rejects other values.
pub fn read(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, about, hint) in [
        (
            "previous_response_id",
            "Must be null: responses are not stored. Send earlier items in `input`.",
            "this server stores no responses. Send the earlier items in `input`",
        ),
        (
            "conversation",
            "Must be null: conversations are not stored. Send earlier items in `input`.",
            "this server stores no conversations. Send the earlier items in `input`",
        ),
    ] {
        let value = fields.field(name, about).value(|| json!({"enum": [null]}));
        if value.is_some() {
            return Err(ApiError::field(
                name,
                format!("`{name}` is not supported: {hint}."),
            ));
        }
    }
    let background = fields
        .field(
            "background",
            "Must be false: a response that nobody waits for would have to be stored.",
        )
        .value(|| json!({"type": "boolean", "enum": [false]}));
    match background {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => {
            return Err(ApiError::field(
                "background",
                "`background` must be false: this server stores no responses. Send `\"stream\": true` to get an answer while \
                 it is generated.",
            ));
        }
        Some(other) => return Err(wrong("background", "false", &other)),
    }
    truncation(fields)
}

fn truncation(fields: &mut Fields) -> Result<(), ApiError> {
    const NAME: &str = "truncation";
    let truncation = fields
        .field(
            NAME,
            "Must be \"disabled\": items are not dropped from a conversation that is too long. `truncate_prompt_tokens` cuts \
             its prompt.",
        )
        .value(|| json!({"type": "string", "enum": ["disabled"]}));
    match truncation {
        None => Ok(()),
        Some(Value::String(text)) if text == "disabled" => Ok(()),
        Some(Value::String(text)) if text == "auto" => Err(ApiError::field(
            NAME,
            "`truncation` must be \"disabled\": this server does not drop items from a conversation that is too long. Send \
             fewer, or cut the prompt with `truncate_prompt_tokens`.",
        )),
        Some(other) => Err(wrong(NAME, "\"disabled\"", &other)),
    }
}
