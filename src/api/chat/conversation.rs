//! The fields of a conversation, read and checked: messages, tools, and the template that renders them.

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};
use crate::api::wording::cut;

/// What a template renders as a prompt.
#[derive(Debug)]
pub struct Conversation {
    /// As templates expect them: `content` is a string, and the arguments of calls are objects.
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    /// Instead of the model's own.
    pub template: Option<String>,
    /// Additional template variables.
    pub kwargs: Map<String, Value>,
    /// Whether the prompt ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends within the last message.
    pub continue_final_message: bool,
}

impl Conversation {
    pub fn parse(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages = messages(fields)?;
        let tools = tools(fields)?;
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
            messages,
            tools,
            template,
            kwargs,
            add_generation_prompt,
            continue_final_message,
        })
    }
}

fn messages(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let value = fields
        .field(
            "messages",
            "The conversation. Each message has a `role` (system, developer, user, assistant or tool) and `content`: a \
             string, or parts of type text. Assistant messages may have `tool_calls`, and tool messages `tool_call_id`.",
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
    let messages = messages.map(|(place, it)| message(it, &format!("messages[{place}]")));
    messages.collect()
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A message as templates expect it.
fn message(message: Value, name: &str) -> Result<Value, ApiError> {
    let Value::Object(mut message) = message else {
        return Err(wrong_in("messages", name, "an object", &message));
    };
    message.retain(|_, value| !value.is_null());
    let role = message.shift_remove("role").unwrap_or_default();
    let Some(role) = role.as_str().filter(|role| ROLES.contains(role)) else {
        return Err(wrong_in(
            "messages",
            &format!("{name}.role"),
            &format!("one of {}", ROLES.join(", ")),
            &role,
        ));
    };
    let calls = match message.shift_remove("tool_calls") {
        None => Vec::new(),
        Some(Value::Array(calls)) if role == "assistant" => calls
            .into_iter()
            .enumerate()
            .map(|(place, call)| tool_call(call, &format!("{name}.tool_calls[{place}]")))
            .collect::<Result<_, _>>()?,
        Some(other) => {
            return Err(wrong_in(
                "messages",
                &format!("{name}.tool_calls"),
                "an array, in an assistant message",
                &other,
            ));
        }
    };
    let text = match message.shift_remove("content") {
        Some(content) => content_text(content, &format!("{name}.content"))?,
        // The answer was only calls, or a refusal.
        None if role == "assistant" => String::new(),
        None => {
            return Err(wrong_in(
                "messages",
                &format!("{name}.content"),
                "a string or an array of parts",
                &Value::Null,
            ));
        }
    };
    let mut shown = Map::new();
    shown.insert("role".to_owned(), role.into());
    shown.insert("content".to_owned(), text.into());
    if !calls.is_empty() {
        shown.insert("tool_calls".to_owned(), calls.into());
    }
    for (field, value) in message {
        match (field.as_str(), value) {
            ("name" | "tool_call_id" | "reasoning_content", Value::String(text)) => {
                shown.insert(field, text.into());
            }
            ("name" | "tool_call_id" | "reasoning_content" | "refusal", value)
                if !value.is_string() =>
            {
                return Err(wrong_in(
                    "messages",
                    &format!("{name}.{field}"),
                    "a string",
                    &value,
                ));
            }
            // Clients send these back from OpenAI's answers. They mean nothing to a text model.
            ("refusal" | "annotations", _) => {}
            _ => {
                return Err(ApiError::field(
                    format!("{name}.{}", cut(&field)),
                    format!("Unknown field `{name}.{}`.", cut(&field)),
                )
                .code("unknown_field"));
            }
        }
    }
    Ok(shown.into())
}

/// The text of `content`, with each part on a line of its own.
fn content_text(content: Value, name: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            return Err(wrong_in(
                "messages",
                name,
                "a string or an array of parts",
                &other,
            ));
        }
    };
    let texts = parts.into_iter().enumerate().map(|(place, part)| {
        let name = format!("{name}[{place}]");
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text")) {
            (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
            (Some("text"), other) => Err(wrong_in(
                "messages",
                &format!("{name}.text"),
                "a string",
                other.unwrap_or(&Value::Null),
            )),
            (Some(kind), _) => Err(ApiError::field(
                "messages",
                format!(
                    "`{name}` is a part of type {:?}, which is not supported; parts must be of type \"text\".",
                    cut(kind)
                ),
            )),
            (None, _) => Err(wrong_in(
                "messages",
                &name,
                "an object with `type` and `text`",
                &part,
            )),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// A call in an earlier answer. Clients send its arguments as a string of JSON; templates expect an object.
fn tool_call(call: Value, name: &str) -> Result<Value, ApiError> {
    let function = &call["function"];
    let Some(called) = function["name"].as_str() else {
        return Err(wrong_in(
            "messages",
            &format!("{name}.function.name"),
            "a string",
            &function["name"],
        ));
    };
    let arguments = match &function["arguments"] {
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            ApiError::field(
                "messages",
                format!("`{name}.function.arguments` is not JSON: {error}."),
            )
        })?,
        Value::Object(object) => Value::Object(object.clone()),
        other => {
            return Err(wrong_in(
                "messages",
                &format!("{name}.function.arguments"),
                "a string of JSON",
                other,
            ));
        }
    };
    let mut shown = json!({
        "type": "function",
        "function": {"name": called, "arguments": arguments},
    });
    if let Some(id) = call["id"].as_str() {
        shown["id"] = id.into();
    }
    Ok(shown)
}

/// OpenAI's limit.
const MOST_TOOLS: usize = 128;

fn tools(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let value = fields
        .field(
            "tools",
            "Functions that the model may call: `{\"type\": \"function\", \"function\": {\"name\", \"description\", \
             \"parameters\"}}`, where `parameters` is a JSON Schema. Forced calls always follow it, whatever `strict` says; \
             other calls are as the model writes them.",
        )
        .value(|| {
            json!({"type": "array", "items": {"type": "object", "required": ["type", "function"], "properties": {
                "type": {"type": "string", "enum": ["function"]},
                "function": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
                    "description": {"type": "string"},
                    "parameters": {"type": "object"},
                    "strict": {"type": "boolean"},
                }},
            }}})
        });
    let tools = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong("tools", "an array of functions", &other)),
    };
    if tools.len() > MOST_TOOLS {
        let allowed = format!("an array of at most {MOST_TOOLS} functions");
        return Err(wrong("tools", &allowed, &tools.into()));
    }
    let mut names: Vec<&str> = Vec::new();
    for (place, tool) in tools.iter().enumerate() {
        let name = tool_name(tool, &format!("tools[{place}]"))?;
        if names.contains(&name) {
            return Err(ApiError::field(
                "tools",
                format!("`tools` names the function `{name}` twice."),
            ));
        }
        names.push(name);
    }
    Ok(tools)
}

/// The name of a tool's function, if the tool, which is at `place`, is valid.
fn tool_name<'a>(tool: &'a Value, place: &str) -> Result<&'a str, ApiError> {
    let wrong =
        |name: &str, allowed, value| wrong_in("tools", &format!("{place}.{name}"), allowed, value);
    if tool["type"] != "function" {
        return Err(wrong("type", "\"function\"", &tool["type"]));
    }
    let function = &tool["function"];
    let name = function["name"].as_str().filter(|name| {
        let mut characters = name.chars();
        (1..=64).contains(&name.len())
            && characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    });
    let name = name.ok_or_else(|| {
        let allowed = "1 to 64 letters, digits, `_`, `.` and `-`";
        wrong("function.name", allowed, &function["name"])
    })?;
    let (parameters, description) = (&function["parameters"], &function["description"]);
    if !parameters.is_object() && !parameters.is_null() {
        let allowed = "a JSON Schema (an object)";
        return Err(wrong("function.parameters", allowed, parameters));
    }
    if !description.is_string() && !description.is_null() {
        return Err(wrong("function.description", "a string", description));
    }
    Ok(name)
}
