//! The fields of a conversation, read and checked: messages, and the template that renders them.

use serde_json::{Map, Value, json};

use super::effort;
use super::tools;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};
use crate::api::wording::cut;

/// What a route calls the parts of a conversation, for errors.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The field with the messages.
    pub messages: &'static str,
    /// What comes before the name of a function's field in a tool.
    pub function: &'static str,
    /// The field with how much the model reasons.
    pub effort: &'static str,
}

const NAMES: Names = Names {
    messages: "messages",
    function: "function.",
    effort: effort::NAME,
};

/// What a template renders as a prompt.
#[derive(Debug)]
pub struct Conversation {
    pub names: Names,
    /// As the client sent them, checked; without fields that are null, as transformers gives them to a template.
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    /// Instead of the model's own.
    pub template: Option<String>,
    /// Additional template variables.
    pub kwargs: Map<String, Value>,
    /// How much the model is to reason, if its template can say so.
    pub effort: Option<&'static str>,
    /// Whether names of control tokens in messages become control tokens. `None`: as the settings say.
    pub parse_special: Option<bool>,
    /// Whether the prompt gets the special tokens that the model expects before it, if the template does not write them.
    pub adds_special: bool,
    /// Whether the prompt ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends within the last message.
    pub continue_final_message: bool,
}

impl Conversation {
    pub fn parse(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages = messages(fields)?;
        let tools = tools::read(fields, NAMES.function)?;
        let effort = effort::read(fields)?;
        Ok(Self {
            effort,
            ..Self::with(NAMES, messages, tools, fields)?
        })
    }

    /// Reads the fields that say how these are rendered.
    pub fn with(
        names: Names,
        messages: Vec<Value>,
        tools: Vec<Value>,
        fields: &mut Fields,
    ) -> Result<Self, ApiError> {
        let template = fields
            .field(
                "chat_template",
                "A Jinja template to use instead of the model's. Its time and memory are limited.",
            )
            .string()?;
        let kwargs = fields
            .field(
                "chat_template_kwargs",
                "Additional template variables, such as `{\"enable_thinking\": false}`.",
            )
            .value(|| json!({"type": "object"}));
        let kwargs = match kwargs {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
        };
        let continue_final_message = fields
            .field(
                "continue_final_message",
                "Whether the answer continues the last message.",
            )
            .boolean(false)?;
        let add_generation_prompt = fields
            .field(
                "add_generation_prompt",
                "Whether the prompt ends with the start of an answer.",
            )
            .boolean(!continue_final_message)?;
        if add_generation_prompt && continue_final_message {
            return Err(ApiError::field(
                "continue_final_message",
                "`continue_final_message` and `add_generation_prompt` cannot both be true.",
            ));
        }
        Ok(Self {
            names,
            messages,
            tools,
            template,
            kwargs,
            effort: None,
            parse_special: parse_special(fields)?,
            adds_special: true,
            add_generation_prompt,
            continue_final_message,
        })
    }
}

fn parse_special(fields: &mut Fields) -> Result<Option<bool>, ApiError> {
    let about = "Whether names of control tokens, such as `<|im_end|>`, in `messages` and `tools` become control tokens; \
                 otherwise they are text. Default: the setting `model.chat_parse_special`.";
    fields.field("parse_special", about).flag(false)
}

fn messages(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let value = fields
        .field(
            "messages",
            "The conversation. Each message has a `role` (system, developer, user, assistant or tool) and `content`: a \
             string, or parts of type text. Assistant messages may have `tool_calls` and `reasoning_content` (also called \
             `reasoning` or `thinking`), and tool messages `tool_call_id`.",
        )
        .required()
        .value(|| {
            json!({"type": "array", "minItems": 1, "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"type": "string", "enum": ROLES},
                    "content": {"anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "object", "required": ["type", "text"], "properties": {
                            "type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}}}},
                        {"type": "null"},
                    ]},
                    "name": {"type": "string"},
                    "tool_calls": {"type": "array", "items": {"type": "object"}},
                    "tool_call_id": {"type": "string"},
                    "reasoning_content": {"type": "string"},
                },
            }})
        });
    let messages = match value {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        None => {
            return Err(ApiError::field(
                "messages",
                "`messages` is missing: it must be an array of objects with `role` and `content`.",
            ));
        }
        Some(other) => return Err(wrong("messages", "an array of messages", &other)),
    };
    let messages = messages.into_iter().enumerate();
    let messages = messages.map(|(place, it)| message(it, &format!("messages[{place}]"), fields));
    messages.collect()
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// The names under which templates read what a model thought before it answered.
pub const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The fields of a message.
const FIELDS: [&str; 8] = {
    let [one, two, three] = REASONING;
    [
        "role",
        "content",
        "tool_calls",
        "name",
        "tool_call_id",
        one,
        two,
        three,
    ]
};

/// A message as transformers gives it to a template.
fn message(message: Value, name: &str, fields: &mut Fields) -> Result<Value, ApiError> {
    let Value::Object(mut message) = message else {
        return Err(wrong_in("messages", name, "an object", &message));
    };
    message.retain(|_, value| !value.is_null());
    let wrong = |field: &str, allowed: &str, value: &Value| {
        wrong_in("messages", &format!("{name}.{field}"), allowed, value)
    };
    let role = message.get("role").cloned().unwrap_or_default();
    let Some(role) = role.as_str().filter(|role| ROLES.contains(role)) else {
        let allowed = format!("one of {}", ROLES.join(", "));
        return Err(wrong("role", &allowed, &role));
    };
    // Clients send these back from OpenAI's answers. They mean nothing to a text model.
    let refusal = message.shift_remove("refusal");
    if let Some(refusal) = refusal.filter(|refusal| !refusal.is_string()) {
        return Err(wrong("refusal", "a string", &refusal));
    }
    // The answer was only calls, or a refusal.
    if role != "assistant" && !message.contains_key("content") {
        return Err(wrong(
            "content",
            "a string or an array of parts",
            &Value::Null,
        ));
    }
    fields.keep(name, &mut message, &FIELDS);
    for (field, value) in &mut message {
        match field.as_str() {
            "role" => {}
            "content" => check_content(value, &format!("{name}.content"), fields)?,
            "tool_calls" => match value {
                Value::Array(calls) if role == "assistant" => {
                    for (place, call) in calls.iter_mut().enumerate() {
                        check_call(call, &format!("{name}.tool_calls[{place}]"), fields)?;
                    }
                }
                other => return Err(wrong(field, "an array, in an assistant message", other)),
            },
            field if !value.is_string() => return Err(wrong(field, "a string", value)),
            _ => {}
        }
    }
    // No calls are the same as none.
    if message
        .get("tool_calls")
        .is_some_and(|calls| calls == &json!([]))
    {
        message.shift_remove("tool_calls");
    }
    name_reasoning(&mut message);
    Ok(message.into())
}

/// Gives the reasoning all of its names, so that each template finds it.
pub fn name_reasoning(message: &mut Map<String, Value>) {
    let mut names = REASONING.iter();
    let Some(text) = names.find_map(|name| message.get(*name)).cloned() else {
        return;
    };
    for name in REASONING {
        message.entry(name).or_insert_with(|| text.clone());
    }
}

fn check_content(content: &mut Value, name: &str, fields: &mut Fields) -> Result<(), ApiError> {
    let parts = match content {
        Value::String(_) => return Ok(()),
        Value::Array(parts) => parts,
        other => {
            return Err(wrong_in(
                "messages",
                name,
                "a string or an array of parts",
                other,
            ));
        }
    };
    for (place, part) in parts.iter_mut().enumerate() {
        let name = format!("{name}[{place}]");
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text")) {
            (Some("text"), Some(Value::String(_))) => {
                if let Value::Object(part) = part {
                    fields.keep(&name, part, &["type", "text"]);
                }
            }
            (Some("text"), other) => {
                return Err(wrong_in(
                    "messages",
                    &format!("{name}.text"),
                    "a string",
                    other.unwrap_or(&Value::Null),
                ));
            }
            (Some(kind), _) => {
                return Err(ApiError::field(
                    "messages",
                    format!(
                        "`{name}` is a part of type {:?}, which is not supported; parts must be of type \"text\".",
                        cut(kind)
                    ),
                ));
            }
            (None, _) => {
                return Err(wrong_in(
                    "messages",
                    &name,
                    "an object with `type` and `text`",
                    part,
                ));
            }
        }
    }
    Ok(())
}

/// A call in an earlier answer. Its arguments are JSON in a string, or an object.
fn check_call(call: &mut Value, name: &str, fields: &mut Fields) -> Result<(), ApiError> {
    if let Value::Object(call) = call {
        fields.keep(name, call, &["id", "type", "function"]);
        if let Some(Value::Object(function)) = call.get_mut("function") {
            let name = format!("{name}.function");
            fields.keep(&name, function, &["name", "arguments"]);
        }
    }
    let function = &call["function"];
    if !function["name"].is_string() {
        return Err(wrong_in(
            "messages",
            &format!("{name}.function.name"),
            "a string",
            &function["name"],
        ));
    }
    match &function["arguments"] {
        Value::String(text) if text.trim().is_empty() => Ok(()),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::field(
                "messages",
                format!("`{name}.function.arguments` is not JSON: {error}."),
            )),
        },
        Value::Object(_) => Ok(()),
        other => Err(wrong_in(
            "messages",
            &format!("{name}.function.arguments"),
            "a string of JSON",
            other,
        )),
    }
}
