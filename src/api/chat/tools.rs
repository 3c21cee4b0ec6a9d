//! Tools: the field, read and checked, and how they are described to a model whose template does not support them.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};

/// The fields of a function. Templates read the last two, which say what it returns.
const FUNCTION: [&str; 6] = [
    "name",
    "description",
    "parameters",
    "strict",
    "return",
    "response",
];

/// OpenAI's limit.
const MOST_TOOLS: usize = 128;

pub fn read(fields: &mut Fields, within: &str) -> Result<Vec<Value>, ApiError> {
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
    let mut tools = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong("tools", "an array of functions", &other)),
    };
    for (place, tool) in tools.iter_mut().enumerate() {
        let Value::Object(tool) = tool else { continue };
        fields.keep(&format!("tools[{place}]"), tool, &["type", "function"]);
        if let Some(Value::Object(function)) = tool.get_mut("function") {
            let name = format!("tools[{place}].function");
            fields.keep(&name, function, &FUNCTION);
        }
    }
    check_tools(&tools, within)?;
    Ok(tools)
}

/// Checks tools in the form of chat completions. The route's own names of a function's fields have `within` before them.
pub fn check_tools(tools: &[Value], within: &str) -> Result<(), ApiError> {
    if tools.len() > MOST_TOOLS {
        let allowed = format!("an array of at most {MOST_TOOLS} functions");
        return Err(wrong("tools", &allowed, &tools.to_vec().into()));
    }
    let mut names: Vec<&str> = Vec::new();
    for (place, tool) in tools.iter().enumerate() {
        let name = tool_name(tool, &format!("tools[{place}]"), within)?;
        if names.contains(&name) {
            return Err(ApiError::field(
                "tools",
                format!("`tools` names the function `{name}` twice."),
            ));
        }
        names.push(name);
    }
    Ok(())
}

/// The name of a tool's function, if the tool, which is at `place`, is valid.
fn tool_name<'a>(tool: &'a Value, place: &str, within: &str) -> Result<&'a str, ApiError> {
    if tool["type"] != "function" {
        let name = format!("{place}.type");
        return Err(wrong_in("tools", &name, "\"function\"", &tool["type"]));
    }
    let wrong = |name: &str, allowed, value| {
        wrong_in("tools", &format!("{place}.{within}{name}"), allowed, value)
    };
    let function = &tool["function"];
    let name = function["name"].as_str().filter(|name| {
        let mut characters = name.chars();
        (1..=64).contains(&name.len())
            && characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    });
    let name = name.ok_or_else(|| {
        let allowed = "1 to 64 letters, digits, `_`, `.` and `-`";
        wrong("name", allowed, &function["name"])
    })?;
    let (parameters, description) = (&function["parameters"], &function["description"]);
    if !parameters.is_object() && !parameters.is_null() {
        let allowed = "a JSON Schema (an object)";
        return Err(wrong("parameters", allowed, parameters));
    }
    if !description.is_string() && !description.is_null() {
        return Err(wrong("description", "a string", description));
    }
    let strict = &function["strict"];
    if !strict.is_boolean() && !strict.is_null() {
        return Err(wrong("strict", "true or false", strict));
    }
    Ok(name)
}

/// Describes tools, and asks for calls in the most common form.
pub fn instructions(tools: &[Value]) -> String {
    let mut text =
        "You may call these functions to answer. They are described by JSON Schema:\n".to_owned();
    for tool in tools {
        text.push_str(&format!("{}\n", tool["function"]));
    }
    text.push_str(
        "To call one, write its name and arguments as JSON within <tool_call></tool_call>, like this:\n\
         <tool_call>\n{\"name\": \"function\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>",
    );
    text
}

/// The schema of a function's arguments; by default an object without properties.
pub fn parameters(function: &Value) -> Value {
    match &function["parameters"] {
        Value::Object(schema) if !schema.is_empty() => Value::Object(schema.clone()),
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}
