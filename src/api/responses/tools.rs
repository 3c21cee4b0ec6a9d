//! The fields `tools` and `tool_choice`. Only functions are supported: those are called by the client.

use serde_json::{Map, Value, json};

use super::nested::Nested;
use crate::api::chat::{Names, ToolChoice, check_tools};
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::wording::cut;

const NAME: &str = "tools";

/// The tools of a request.
pub struct Tools {
    /// As the client wrote them.
    pub sent: Vec<Value>,
    /// In the form of chat completions.
    pub functions: Vec<Value>,
}

pub fn read(fields: &mut Fields, names: Names) -> Result<Tools, ApiError> {
    let value = fields
        .field(
            NAME,
            "Functions that the model may call: `{\"type\": \"function\", \"name\", \"description\", \"parameters\"}`, where \
             `parameters` is a JSON Schema. Forced calls always follow it, whatever `strict` says; other calls are as the \
             model writes them. Tools that a server executes, such as web_search, are rejected.",
        )
        .value(|| {
            json!({"type": "array", "items": {"type": "object", "required": ["type", "name"], "properties": {
                "type": {"type": "string", "enum": ["function"]},
                "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {"type": "object"},
                "strict": {"type": "boolean"},
            }}})
        });
    let sent = match value {
        None => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong(NAME, "an array of functions", &other)),
    };
    let functions = sent.iter().enumerate();
    let functions =
        functions.map(|(place, tool)| function(tool, format!("{NAME}[{place}]"), fields));
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    check_tools(&functions, names)?;
    Ok(Tools { sent, functions })
}

/// A tool in the form of chat completions.
fn function(tool: &Value, place: String, fields: &mut Fields) -> Result<Value, ApiError> {
    let mut tool = Nested::new(NAME, place, tool.clone())?;
    match tool.take("type") {
        Some(Value::String(kind)) if kind == "function" => {}
        Some(Value::String(kind)) => {
            return Err(ApiError::field(
                NAME,
                format!(
                    "`{}` is a tool of type {:?}, which this server does not have; tools must be of type \"function\".",
                    tool.place,
                    cut(&kind)
                ),
            ));
        }
        other => return Err(tool.wrong("type", "\"function\"", &other.unwrap_or_default())),
    }
    if tool.take("function").is_some() {
        return Err(ApiError::field(
            NAME,
            format!(
                "`{}.function` is how chat completions write it; on this route `name`, `description` and `parameters` are \
                 fields of the tool itself.",
                tool.place
            ),
        ));
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters"] {
        if let Some(value) = tool.take(name) {
            function.insert(name.to_owned(), value);
        }
    }
    if let Some(strict) = tool.boolean("strict")? {
        function.insert("strict".to_owned(), strict.into());
    }
    tool.end(fields);
    Ok(json!({"type": "function", "function": function}))
}

/// The choice, and how the client wrote it.
pub fn choice(fields: &mut Fields, functions: &[Value]) -> Result<(ToolChoice, Value), ApiError> {
    const NAME: &str = "tool_choice";
    let value = fields
        .field(
            NAME,
            "\"none\": no calls; \"auto\": the model decides; \"required\": at least one call; or `{\"type\": \"function\", \
             \"name\": …}`: a call of this function. Forced calls follow the schemas.",
        )
        .value(|| {
            json!({"anyOf": [
                {"type": "string", "enum": ["none", "auto", "required"]},
                {"type": "object", "required": ["type", "name"], "properties": {
                    "type": {"type": "string", "enum": ["function"]}, "name": {"type": "string"},
                }},
            ]})
        });
    let value = value.unwrap_or_else(|| "auto".into());
    let choice = match &value {
        Value::String(word) => ToolChoice::of_word(word),
        object => named(object, fields),
    };
    let choice = choice.ok_or_else(|| {
        let allowed =
            "\"none\", \"auto\", \"required\", or an object of type \"function\" with a `name`";
        wrong(NAME, allowed, &value)
    })?;
    Ok((choice.among(functions)?, value))
}

/// The choice of the function that an object names.
fn named(object: &Value, fields: &mut Fields) -> Option<ToolChoice> {
    const NAME: &str = "tool_choice";
    let mut object = Nested::new(NAME, NAME, object.clone()).ok()?;
    let is_function = object.take("type")? == "function";
    let name = object.take("name")?;
    let name = name.as_str().filter(|_| is_function)?.to_owned();
    object.end(fields);
    Some(ToolChoice::Named(name))
}
