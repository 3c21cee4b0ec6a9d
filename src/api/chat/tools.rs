//! Tools: how they are described to a model whose template does not support them, and their arguments.

use serde_json::{Value, json};

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
