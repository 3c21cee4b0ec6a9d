//! The field `include`: what an answer has besides its text.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};

const LOGPROBS: &str = "message.output_text.logprobs";
const ENCRYPTED: &str = "reasoning.encrypted_content";

/// The other names are about items that no answer has, and so change nothing.
const NAMES: [&str; 8] = [
    LOGPROBS,
    ENCRYPTED,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
];

#[derive(Debug, Default)]
pub struct Included {
    pub logprobs: bool,
    pub encrypted_reasoning: bool,
}

pub fn read(fields: &mut Fields) -> Result<Included, ApiError> {
    const NAME: &str = "include";
    let value = fields
        .field(
            NAME,
            "\"message.output_text.logprobs\": the log-probabilities of each token of a message. \
             \"reasoning.encrypted_content\": reasoning also as base64, for clients that send back nothing else of it. \
             Other names of OpenAI's are about tools that a server executes, and change nothing.",
        )
        .value(|| json!({"type": "array", "items": {"type": "string", "enum": NAMES}}));
    let items = match value {
        None => return Ok(Included::default()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(NAME, "an array of names", &other)),
    };
    for (place, item) in items.iter().enumerate() {
        if !NAMES.iter().any(|name| item == name) {
            let allowed = format!("one of {}", NAMES.join(", "));
            return Err(wrong_in(NAME, &format!("{NAME}[{place}]"), &allowed, item));
        }
    }
    let has = |name: &str| items.iter().any(|item| item == name);
    Ok(Included {
        logprobs: has(LOGPROBS),
        encrypted_reasoning: has(ENCRYPTED),
    })
}
