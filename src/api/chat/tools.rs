//! Tools: how they are described to a model, and what a model must write to call one.
//!
//! Two formats of calls are supported. Templates with `<tool_call>` (Hermes, Qwen and many others) have the model write
//! `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one or several, and an answer that begins with the object, in a
//! code block or not, is a call too; those of Llama 3 have it write the bare object `{"name": …, "parameters": {…}}` as its
//! whole answer. If a template does not support tools, a system message describes them and asks for the first format.

use serde_json::{Value, json};

use crate::api::structured::Structured;

pub const OPEN: &str = "<tool_call>";
pub const CLOSE: &str = "</tool_call>";

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Between `<tool_call>` and `</tool_call>`.
    Tagged,
    /// The answer is an object and nothing else.
    Bare,
    /// The answer is the arguments of the function that the client named.
    Arguments,
}

impl Format {
    /// The format of a template; `None`: it does not support tools.
    pub fn of_template(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            None
        } else if template.contains(OPEN) || !template.contains("\"parameters\"") {
            Some(Self::Tagged)
        } else {
            Some(Self::Bare)
        }
    }
}

/// Describes tools to a model whose template does not support them.
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

impl Format {
    /// A constraint: the text is a call of one of these functions, or with `several` one or more calls.
    pub fn structure(self, tools: &[Value], several: bool) -> Structured {
        if self != Self::Tagged {
            return Structured::schema("tool_choice", call_schema(tools, "parameters"));
        }
        let more = if several {
            format!(" (\"\\n{OPEN}\\n\" call \"\\n{CLOSE}\")*")
        } else {
            String::new()
        };
        let schema = call_schema(tools, "arguments");
        let text =
            format!("start: \"{OPEN}\\n\" call \"\\n{CLOSE}\"{more}\ncall: %json {schema}\n");
        Structured::lark("tool_choice", text)
    }
}

/// The schema of a call of one of these functions.
fn call_schema(tools: &[Value], arguments: &str) -> Value {
    let calls: Vec<Value> = tools
        .iter()
        .enumerate()
        .map(|(place, tool)| {
            let function = &tool["function"];
            let mut parameters = parameters(function);
            // The schema's own references point to where it is now.
            let way = format!("/properties/{arguments}");
            move_references(
                &mut parameters,
                &match tools.len() {
                    1 => way,
                    _ => format!("/anyOf/{place}{way}"),
                },
            );
            json!({
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    arguments: parameters,
                },
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        })
        .collect();
    if calls.len() == 1 {
        calls.into_iter().next().unwrap_or_default()
    } else {
        json!({"anyOf": calls})
    }
}

/// The schema of a function's arguments; by default an object without properties.
pub fn parameters(function: &Value) -> Value {
    match &function["parameters"] {
        Value::Object(schema) if !schema.is_empty() => Value::Object(schema.clone()),
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}

/// Prefixes all references within a schema with `way`.
fn move_references(schema: &mut Value, way: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().and_then(|target| target.strip_prefix('#')) {
                    Some(rest) if name == "$ref" => *value = format!("#{way}{rest}").into(),
                    _ => move_references(value, way),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                move_references(item, way);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_go_where_the_schema_goes() {
        let parameters = json!({
            "$defs": {"city": {"type": "string"}},
            "properties": {"a": {"$ref": "#/$defs/city"}, "$ref": {"type": "string"}, "b": {"items": [{"$ref": "#"}]}},
        });
        let tool = json!({"function": {"name": "f", "parameters": parameters}});
        let schema = call_schema(std::slice::from_ref(&tool), "arguments");
        let moved = &schema["properties"]["arguments"]["properties"];
        assert_eq!(moved["a"]["$ref"], "#/properties/arguments/$defs/city");
        assert_eq!(moved["b"]["items"][0]["$ref"], "#/properties/arguments");
        assert_eq!(moved["$ref"]["type"], "string");
        let schema = call_schema(&[tool.clone(), tool], "parameters");
        assert_eq!(
            schema["anyOf"][1]["properties"]["parameters"]["properties"]["a"]["$ref"],
            "#/anyOf/1/properties/parameters/$defs/city"
        );
    }
}
