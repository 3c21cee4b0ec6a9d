//! The field `text`: what the text of an answer follows.

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::nested::Nested;
use crate::api::structured::Structured;

const NAME: &str = "text";
const FORMAT: &str = "text.format";

pub struct Text {
    pub format: Option<Structured>,
    /// As the client wrote it, with the default.
    pub sent: Value,
}

pub fn read(fields: &mut Fields) -> Result<Text, ApiError> {
    let value = fields
        .field(
            NAME,
            "`format`: `{\"type\": \"text\"}`, `{\"type\": \"json_object\"}`, or `{\"type\": \"json_schema\", \"schema\": \
             …}`, which is always followed strictly. `verbosity` must be \"medium\", which changes nothing.",
        )
        .value(|| {
            json!({"type": "object", "properties": {
                "format": {"type": "object", "required": ["type"], "properties": {
                    "type": {"enum": ["text", "json_object", "json_schema"]},
                    "name": {"type": "string"},
                    "schema": {"type": "object"},
                    "strict": {"type": "boolean"},
                }},
                "verbosity": {"enum": ["medium"]},
            }})
        });
    let value = value.unwrap_or_else(|| Map::new().into());
    let mut sent = value.clone();
    let mut text = Nested::within(NAME, NAME, "an object", value)?;
    let format = text.take("format");
    if format.is_none() {
        sent["format"] = json!({"type": "text"});
    }
    match text.take("verbosity") {
        None => {}
        Some(Value::String(word)) if word == "medium" => {}
        Some(other) => {
            let allowed =
                "\"medium\" (models are not trained for others; ask for it in `instructions`)";
            return Err(text.wrong("verbosity", allowed, &other));
        }
    }
    text.end(fields);
    Ok(Text {
        format: match format {
            None => None,
            Some(format) => structured(format, fields)?,
        },
        sent,
    })
}

/// What a format demands of the text.
fn structured(format: Value, fields: &mut Fields) -> Result<Option<Structured>, ApiError> {
    const TYPES: [&str; 3] = ["text", "json_object", "json_schema"];
    let mut format = Nested::within(NAME, FORMAT, "an object", format)?;
    let kind = format.word("type", &TYPES)?;
    let schema = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(json!({"type": "object"})),
        Some(_) => {
            format.unused("name", "a string", Value::is_string)?;
            format.unused("description", "a string", Value::is_string)?;
            format.unused("strict", "true or false", Value::is_boolean)?;
            match format.take("schema") {
                Some(Value::Object(schema)) => Some(schema.into()),
                other => {
                    let other = other.unwrap_or_default();
                    return Err(format.wrong("schema", "a JSON Schema (an object)", &other));
                }
            }
        }
        None => {
            let allowed = format!("one of {}", TYPES.join(", "));
            return Err(format.wrong("type", &allowed, &Value::Null));
        }
    };
    format.end(fields);
    Ok(schema.map(|schema| Structured::schema(FORMAT, schema)))
}
