//! The field `tool_choice`: whether the model may or must call tools. Routes write the name of a function in different places.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::nested::Nested;
use crate::api::wording::{counted, cut};

const NAME: &str = "tool_choice";

#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

/// How a route writes the choice of a function.
pub struct ChoiceForm {
    about: &'static str,
    schema: fn() -> Value,
    /// What an object must be.
    allowed: &'static str,
    /// Reads the function's name from one.
    name: fn(Nested, &mut Fields) -> Option<String>,
}

macro_rules! about {
    ($object:literal) => {
        concat!(
            "\"none\": no calls; \"auto\": the model decides; \"required\": at least one call; or `",
            $object,
            "`: a call of this function. Forced calls follow the schemas."
        )
    };
}

impl ChoiceForm {
    pub const OF_CHATS: Self = Self {
        about: about!("{\"type\": \"function\", \"function\": {\"name\": …}}"),
        schema: || {
            let name = json!({"name": {"type": "string"}});
            let function = json!({"type": "object", "required": ["name"], "properties": name});
            schema("function", &function)
        },
        allowed: "that names a function",
        name: |mut object, fields| {
            let kind = object.take("type");
            let function = object.take("function")?;
            let mut function =
                Nested::within(NAME, "tool_choice.function", "an object", function).ok()?;
            let name = function.string("name").ok()??;
            object.end(fields);
            function.end(fields);
            kind.is_none_or(|kind| kind == "function").then_some(name)
        },
    };

    pub const OF_RESPONSES: Self = Self {
        about: about!("{\"type\": \"function\", \"name\": …}"),
        schema: || schema("name", &json!({"type": "string"})),
        allowed: "of type \"function\" with a `name`",
        name: |mut object, fields| {
            let is_function = object.take("type")? == "function";
            let name = object.string("name").ok()??;
            object.end(fields);
            is_function.then_some(name)
        },
    };
}

/// A word, or an object with a type and this property.
fn schema(name: &str, property: &Value) -> Value {
    let properties = json!({"type": {"type": "string", "enum": ["function"]}, name: property});
    json!({"anyOf": [
        {"type": "string", "enum": ["none", "auto", "required"]},
        {"type": "object", "required": ["type", name], "properties": properties},
    ]})
}

impl ToolChoice {
    /// The choice among these tools, and how the client wrote it.
    pub fn read(
        fields: &mut Fields,
        tools: &[Value],
        form: &ChoiceForm,
    ) -> Result<(Self, Value), ApiError> {
        let value = fields.field(NAME, form.about).value(form.schema);
        let value = value.unwrap_or_else(|| "auto".into());
        let choice = match value.as_str() {
            Some("none") => Some(Self::None),
            Some("auto") => Some(Self::Auto),
            Some("required") => Some(Self::Required),
            Some(_) => None,
            None => {
                let object = Nested::within(NAME, NAME, "an object", value.clone()).ok();
                let name = object.and_then(|object| (form.name)(object, fields));
                name.map(Self::Named)
            }
        };
        let choice = choice.ok_or_else(|| {
            let object = form.allowed;
            let allowed = format!("\"none\", \"auto\", \"required\", or an object {object}");
            wrong(NAME, &allowed, &value)
        })?;
        Ok((choice.among(tools)?, value))
    }

    /// The choice, if these tools allow it.
    fn among(self, tools: &[Value]) -> Result<Self, ApiError> {
        match self {
            Self::Named(name) if !tools.iter().any(|tool| tool["function"]["name"] == *name) => {
                Err(ApiError::field(
                    NAME,
                    format!(
                        "`tool_choice` names the function `{}`, which is not among the {} of `tools`.",
                        cut(&name),
                        tools.len()
                    ),
                ))
            }
            Self::Auto if tools.is_empty() => Ok(Self::None),
            Self::Required if tools.is_empty() => Err(ApiError::field(
                NAME,
                format!(
                    "`tool_choice` requires a call, but `tools` has {}.",
                    counted(0, "function")
                ),
            )),
            choice => Ok(choice),
        }
    }
}
