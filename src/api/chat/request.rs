//! The body of `POST /v1/chat/completions`, read and checked. What says how to generate is `api::generate`'s.

use serde_json::{Map, Value, json};

use crate::api::body::{counted, cut, describe};
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::generate::Generate;
use crate::api::input;
use crate::api::models::Served;

/// What a client asks for.
#[derive(Debug)]
pub struct ChatRequest {
    pub conversation: Conversation,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Tokens kept of a longer prompt, the last ones.
    pub keeps: Option<usize>,
    /// Alternatives of each token.
    pub logprobs: Option<usize>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    pub generate: Generate,
}

/// What a template makes a prompt of.
#[derive(Debug)]
pub struct Conversation {
    /// As templates have them: `content` is text, the arguments of calls are objects.
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    /// Instead of the model's own.
    pub template: Option<String>,
    /// What else is in the template's scope.
    pub kwargs: Map<String, Value>,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends within the last message.
    pub continue_final_message: bool,
}

/// Whether tools are to be called.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

impl ChatRequest {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let limits = &served.config.limits;
        let conversation = Conversation::parse(fields)?;
        let max_completion_tokens = fields
            .field(
                "max_completion_tokens",
                "Tokens to generate at most. None: until the context is full.",
            )
            .count(0..=u32::MAX as usize)?;
        let max_tokens = fields
            .field("max_tokens", "The older name of `max_completion_tokens`.")
            .count(0..=u32::MAX as usize)?;
        let max_tokens = match (max_completion_tokens, max_tokens) {
            (Some(one), Some(other)) if one != other => {
                return Err(ApiError::field(
                    "max_tokens",
                    format!(
                        "`max_tokens` and `max_completion_tokens` are the same, but one is {other} and the other {one}."
                    ),
                ));
            }
            (one, other) => one.or(other),
        };
        let logprobs = fields
            .field(
                "logprobs",
                "Whether the log-probabilities of the generated tokens come back.",
            )
            .boolean(false)?;
        let top_logprobs = fields
            .field(
                "top_logprobs",
                "With `logprobs`: how many of the likeliest tokens at each place come with them.",
            )
            .count(0..=limits.logprobs)?;
        if top_logprobs.is_some_and(|count| count > 0) && !logprobs {
            return Err(ApiError::field(
                "top_logprobs",
                "`top_logprobs` is allowed with `logprobs: true` only.",
            ));
        }
        let tool_choice = tool_choice(fields, &conversation.tools)?;
        Ok(Self {
            conversation,
            max_tokens,
            keeps: input::keeps(fields, max_tokens, served)?,
            logprobs: logprobs.then_some(top_logprobs.unwrap_or(0)),
            tool_choice,
            parallel_tool_calls: fields
                .field(
                    "parallel_tool_calls",
                    "Whether an answer may call several tools. Else what follows the first call stays text.",
                )
                .boolean(true)?,
            generate: Generate::parse(fields, served)?,
        })
    }
}

impl Conversation {
    pub fn parse(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages = fields
            .field(
                "messages",
                "The conversation: each message has a `role` (system, developer, user, assistant or tool) and `content`, a \
                 text or parts of type text. An assistant's may have `tool_calls`, a tool's has `tool_call_id`.",
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
        let messages = match messages {
            Some(Value::Array(messages)) if !messages.is_empty() => messages,
            None => {
                return Err(ApiError::field(
                    "messages",
                    "`messages` is missing: the conversation, as an array of objects with `role` and `content`.",
                ));
            }
            Some(other) => return Err(wrong("messages", "an array of messages", &other)),
        };
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(place, message)| self::message(message, &format!("messages[{place}]")))
            .collect::<Result<Vec<_>, _>>()?;
        let tools = tools(fields)?;
        let template = fields
            .field(
                "chat_template",
                "A Jinja template instead of the model's own. It has a bounded amount of time and memory.",
            )
            .string()?;
        let kwargs = fields
            .field(
                "chat_template_kwargs",
                "What else is in the template's scope, as `{\"enable_thinking\": false}`.",
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
                "The last message is gone on with, instead of being answered.",
            )
            .boolean(false)?;
        let add_generation_prompt = fields
            .field(
                "add_generation_prompt",
                "Whether the prompt ends with what an answer begins with.",
            )
            .boolean(!continue_final_message)?;
        if add_generation_prompt && continue_final_message {
            return Err(ApiError::field(
                "continue_final_message",
                "`continue_final_message` and `add_generation_prompt` exclude each other.",
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

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A message as templates have it.
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
                "an array, in a message of the assistant",
                &other,
            ));
        }
    };
    let text = match message.shift_remove("content") {
        Some(content) => content_text(content, &format!("{name}.content"))?,
        // An answer that was nothing but calls, or a refusal.
        None if role == "assistant" => String::new(),
        None => {
            return Err(wrong_in(
                "messages",
                &format!("{name}.content"),
                "a text or an array of parts",
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
            // What clients send back of an answer of OpenAI's, and what says nothing to a model of text.
            ("refusal" | "annotations", _) => {}
            _ => {
                return Err(ApiError::field(
                    format!("{name}.{}", cut(&field)),
                    format!("`{name}.{}` is not known here.", cut(&field)),
                )
                .code("unknown_field"));
            }
        }
    }
    Ok(shown.into())
}

/// The text of a content: parts are put on lines of their own.
fn content_text(content: Value, name: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            return Err(wrong_in(
                "messages",
                name,
                "a text or an array of parts",
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
                    "`{name}` is a part of type {:?}, which this model does not read; it reads parts of type \"text\".",
                    cut(kind)
                ),
            )),
            (None, _) => Err(wrong_in(
                "messages",
                &name,
                "a part, an object with `type` and `text`",
                &part,
            )),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// A call of an earlier answer. Clients send the arguments as the text that they got; templates want the object.
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

/// OpenAI's own bound.
const MOST_TOOLS: usize = 128;

fn tools(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let value = fields
        .field(
            "tools",
            "Functions that the model may call: `{\"type\": \"function\", \"function\": {\"name\", \"description\", \
             \"parameters\"}}`, the last a JSON Schema. Calls that are forced follow it, whatever `strict` says; others are as the \
             model writes them.",
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
    let mut names: Vec<String> = Vec::new();
    for (place, tool) in tools.iter().enumerate() {
        let name = format!("tools[{place}]");
        if tool["type"] != "function" {
            return Err(wrong_in(
                "tools",
                &format!("{name}.type"),
                "\"function\"",
                &tool["type"],
            ));
        }
        let function = &tool["function"];
        let called = function["name"].as_str().filter(|called| {
            let mut characters = called.chars();
            (1..=64).contains(&called.len())
                && characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        });
        let Some(called) = called else {
            return Err(wrong_in(
                "tools",
                &format!("{name}.function.name"),
                "1 to 64 letters, digits, `_`, `.` and `-`",
                &function["name"],
            ));
        };
        if names.iter().any(|other| other == called) {
            return Err(ApiError::field(
                "tools",
                format!("`tools` names the function `{called}` twice."),
            ));
        }
        names.push(called.to_owned());
        for (field, allowed, fits) in [
            (
                "parameters",
                "a JSON Schema, an object",
                function["parameters"].is_object() || function["parameters"].is_null(),
            ),
            (
                "description",
                "a string",
                function["description"].is_string() || function["description"].is_null(),
            ),
        ] {
            if !fits {
                return Err(wrong_in(
                    "tools",
                    &format!("{name}.function.{field}"),
                    allowed,
                    &function[field],
                ));
            }
        }
    }
    Ok(tools)
}

fn tool_choice(fields: &mut Fields, tools: &[Value]) -> Result<ToolChoice, ApiError> {
    const NAME: &str = "tool_choice";
    let value = fields
        .field(
            NAME,
            "\"none\": no tool is called; \"auto\": as the model likes; \"required\": one at least; or \
             `{\"type\": \"function\", \"function\": {\"name\": …}}`: this one. Forced calls follow the schemas.",
        )
        .value(|| {
            json!({"anyOf": [
                {"type": "string", "enum": ["none", "auto", "required"]},
                {"type": "object", "required": ["type", "function"], "properties": {
                    "type": {"type": "string", "enum": ["function"]},
                    "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                }},
            ]})
        });
    let choice = match value {
        None => ToolChoice::Auto,
        Some(Value::String(text)) if text == "none" => ToolChoice::None,
        Some(Value::String(text)) if text == "auto" => ToolChoice::Auto,
        Some(Value::String(text)) if text == "required" => ToolChoice::Required,
        Some(Value::Object(object))
            if object.get("type").is_none_or(|kind| kind == "function")
                && object
                    .get("function")
                    .is_some_and(|function| function["name"].is_string()) =>
        {
            let name = object["function"]["name"].as_str().unwrap_or_default();
            if !tools.iter().any(|tool| tool["function"]["name"] == name) {
                return Err(ApiError::field(
                    NAME,
                    format!(
                        "`tool_choice` names the function `{}`, which is not among the {} of `tools`.",
                        cut(name),
                        tools.len()
                    ),
                ));
            }
            ToolChoice::Named(name.to_owned())
        }
        Some(other) => {
            return Err(wrong(
                NAME,
                "\"none\", \"auto\", \"required\", or an object that names a function",
                &other,
            ));
        }
    };
    if tools.is_empty() && choice == ToolChoice::Auto {
        return Ok(ToolChoice::None);
    }
    if tools.is_empty() && choice == ToolChoice::Required {
        return Err(ApiError::field(
            NAME,
            format!(
                "`tool_choice` requires a call, but `tools` holds {}.",
                counted(0, "function")
            ),
        ));
    }
    Ok(choice)
}

/// 400 about something within a field.
fn wrong_in(param: &str, name: &str, allowed: &str, value: &Value) -> ApiError {
    ApiError::field(
        param,
        format!("`{name}` must be {allowed}, but it is {}.", describe(value)),
    )
}
