//! The field `tools`. Only functions are supported: those are called by the client.

use serde_json::{Map, Value, json};

use crate::api::chat::check_tools;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::nested::Nested;
use crate::api::wording::cut;

const NAME: &str = "tools";

/// The tools of a request.
pub struct Tools {
    /// As the client wrote them.
    pub sent: Vec<Value>,
    /// In the form of chat completions.
    pub functions: Vec<Value>,
}

pub fn read(fields: &mut Fields, within: &str) -> Result<Tools, ApiError> {
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
    check_tools(&functions, within)?;
    Ok(Tools { sent, functions })
}

/// A tool in the form of chat completions.
fn function(tool: &Value, place: String, fields: &mut Fields) -> Result<Value, ApiError> {
    let mut tool = Nested::within(NAME, place, "an object", tool.clone())?;
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
