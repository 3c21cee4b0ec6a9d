//! The fields that constrain a generated text, for every route that generates: OpenAI's `response_format`, our own, and
//! vLLM's names for them. A request may have at most one of them.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::nested::Nested;
use super::served::Served;
use super::wording::describe;
use crate::model::Model;
use crate::sampling::{Constraint, InvalidConstraint, SamplingParams};

/// What the text must follow, as the client wrote it. Not checked yet, because that takes time.
#[derive(Debug)]
pub struct Structured {
    /// The field it came in.
    field: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Gbnf(String),
    Lark(String),
    /// Of calls, whose arguments are JSON.
    Calls(String),
    Regex(String),
    Schema(Value),
    /// A grammar in Lark that contains a schema, which is what the client wrote.
    Within {
        grammar: String,
        schema: Value,
        /// The field that the rest of the grammar is for.
        rest: &'static str,
    },
    Object,
    Choice(Vec<String>),
}

/// The constraints of a request.
#[derive(Default)]
struct Found(Vec<Structured>);

impl Found {
    fn push(&mut self, field: &'static str, kind: Option<Kind>) {
        self.0.extend(kind.map(|kind| Structured { field, kind }));
    }

    /// The only one.
    fn one(self) -> Result<Option<Structured>, ApiError> {
        let mut found = self.0.into_iter();
        let first = found.next();
        if let (Some(first), Some(second)) = (&first, found.next()) {
            return Err(first.excludes(&second));
        }
        Ok(first)
    }
}

impl Structured {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Option<Self>, ApiError> {
        let mut found = Found::default();
        let grammar = fields.field(
            "grammar",
            "A GBNF grammar that the text must follow; empty: none. Log-probabilities remain those of the raw distribution, here \
             and with the fields below.",
        );
        let grammar = grammar.string()?.filter(|text| !text.is_empty());
        found.push("grammar", grammar.map(Kind::Gbnf));
        let lark = fields.field(
            "lark",
            "A grammar that the text must follow, in llguidance's dialect of Lark.",
        );
        found.push("lark", lark.string()?.map(Kind::Lark));
        let regex = fields.field(
            "regex",
            "A regular expression (in Rust's syntax) that the whole text must match.",
        );
        found.push("regex", regex.string()?.map(Kind::Regex));
        let schema = fields.field(
            "json_schema",
            "A JSON schema: the text is one value that is valid against it. Unsupported keywords are rejected.",
        );
        let schema = schema.value(|| json!({"type": ["object", "string"]}));
        found.push("json_schema", schema_of(schema, "json_schema")?);
        let choice = fields.field("choice", "The text is one of these.");
        found.push("choice", choice_of(choice.value(strings), "choice")?);
        let format = fields.field(
            "response_format",
            "As in OpenAI's API: `{\"type\": \"text\"}`, `{\"type\": \"json_object\"}`, or `{\"type\": \"json_schema\", \
             \"json_schema\": {\"schema\": …}}`, which is always followed strictly.",
        );
        let format = format.value(|| {
            json!({"type": "object", "required": ["type"], "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {"type": "object"}}})
        });
        found.push("response_format", response_format(format, fields)?);
        let outputs = fields.field(
            "structured_outputs",
            "vLLM's name for these: one of `json`, `regex`, `choice`, `grammar` and `json_object`.",
        );
        let outputs = outputs.value(|| {
            json!({"type": "object", "properties": {"json": {}, "regex": {"type": "string"}, "choice": strings(),
                "grammar": {"type": "string"}, "json_object": {"type": "boolean"}}})
        });
        structured_outputs(outputs, &mut found, fields)?;
        let json = fields.field("guided_json", "vLLM's older name for `json_schema`.");
        let json = json.value(|| json!({"type": ["object", "string"]}));
        found.push("guided_json", schema_of(json, "guided_json")?);
        let regex = fields.field("guided_regex", "vLLM's older name for `regex`.");
        found.push("guided_regex", regex.string()?.map(Kind::Regex));
        let choice = fields.field("guided_choice", "vLLM's older name for `choice`.");
        found.push(
            "guided_choice",
            choice_of(choice.value(strings), "guided_choice")?,
        );
        let grammar = fields.field(
            "guided_grammar",
            "vLLM's older name for a grammar: GBNF if it contains `::=`, else Lark.",
        );
        found.push("guided_grammar", grammar.string()?.map(grammar_of));
        let found = found.one()?;
        if let Some(structured) = &found {
            structured.check_length(served.config.limits.grammar_bytes)?;
        }
        Ok(found)
    }

    /// A JSON schema that the server imposes because of this field.
    pub fn schema(field: &'static str, schema: Value) -> Self {
        let kind = Kind::Schema(schema);
        Self { field, kind }
    }

    /// Like `schema`, but a grammar of calls in Lark.
    pub fn lark(field: &'static str, text: String) -> Self {
        let kind = Kind::Calls(text);
        Self { field, kind }
    }

    /// A schema as a part of a grammar in Lark.
    pub fn expression(&self) -> Option<String> {
        self.as_schema().map(|schema| format!("%json {schema}"))
    }

    /// A schema within this grammar in Lark, of which the rest is for another field.
    pub fn within(self, grammar: String, rest: &'static str) -> Self {
        match self.as_schema() {
            Some(schema) => Self {
                kind: Kind::Within {
                    grammar,
                    schema,
                    rest,
                },
                ..self
            },
            None => self,
        }
    }

    fn as_schema(&self) -> Option<Value> {
        match &self.kind {
            Kind::Schema(schema) => Some(schema.clone()),
            Kind::Object => Some(json!({"type": "object"})),
            _ => None,
        }
    }

    /// 400: both are present.
    pub fn excludes(&self, other: &Self) -> ApiError {
        ApiError::field(
            other.field,
            format!(
                "`{}` and `{}` both constrain the text. Send only one of them.",
                self.field, other.field
            ),
        )
    }

    pub fn check_length(&self, most: usize) -> Result<(), ApiError> {
        let length = match &self.kind {
            Kind::Gbnf(text) | Kind::Lark(text) | Kind::Regex(text) => text.len(),
            // Grammars of calls are measured while they are written.
            Kind::Calls(_) => 0,
            Kind::Schema(schema) | Kind::Within { schema, .. } => schema.to_string().len(),
            Kind::Object => 1,
            Kind::Choice(texts) => texts.iter().map(|text| text.len() + 1).sum(),
        };
        if length <= most {
            return Ok(());
        }
        let field = self.field;
        Err(ApiError::field(
            field,
            format!("`{field}` must not be longer than {most} bytes, but it has {length}."),
        ))
    }

    /// Checks it, which takes milliseconds, or some tenths of a second at worst.
    /// Of several texts, those that the other parameters rule out are left out.
    pub fn constraint(
        &self,
        model: &Model,
        sampling: &SamplingParams,
    ) -> Result<Constraint, ApiError> {
        let mut field = self.field;
        let checked = match &self.kind {
            Kind::Gbnf(text) => Constraint::gbnf(model, text),
            Kind::Lark(text) => Constraint::lark(model, text),
            Kind::Calls(text) => Constraint::lark_of_json(model, text),
            Kind::Regex(text) => Constraint::regex(model, text),
            Kind::Schema(schema) => Constraint::json_schema(model, schema),
            // What is wrong with a schema is easier to say without the grammar. If nothing is, the rest is at fault.
            Kind::Within {
                grammar,
                schema,
                rest,
            } => Constraint::lark_of_json(model, grammar).or_else(|error| {
                Constraint::json_schema(model, schema)?;
                field = rest;
                Err(error)
            }),
            Kind::Object => Constraint::json_object(model),
            Kind::Choice(texts) => {
                let texts = sampling.possible(texts, model.vocab());
                if texts.is_empty() {
                    return Err(ApiError::field(
                        field,
                        format!(
                            "None of the texts of `{field}` is left: each has one of `bad_words`, or cannot be spelled with \
                             `allowed_token_ids`."
                        ),
                    ));
                }
                Constraint::choice(model, &texts)
            }
        };
        match checked {
            Ok(constraint) => Ok(constraint.named(field)),
            Err(InvalidConstraint::Panicked) => Err(ApiError::internal()),
            Err(error) => Err(ApiError::field(
                field,
                format!("`{field}` was rejected: {error}."),
            )),
        }
    }
}

fn strings() -> Value {
    json!({"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1})
}

/// A grammar in an unstated notation.
fn grammar_of(text: String) -> Kind {
    if text.contains("::=") {
        Kind::Gbnf(text)
    } else {
        Kind::Lark(text)
    }
}

/// A JSON schema, or the text of one.
fn schema_of(value: Option<Value>, name: &str) -> Result<Option<Kind>, ApiError> {
    let schema = match value {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|error| {
            ApiError::field(
                name,
                format!("`{name}` is a string that is not JSON: {error}."),
            )
        })?,
        Some(value) => value,
    };
    if !schema.is_object() {
        return Err(wrong(name, "a JSON Schema (an object)", &schema));
    }
    Ok(Some(Kind::Schema(schema)))
}

fn choice_of(value: Option<Value>, name: &str) -> Result<Option<Kind>, ApiError> {
    const ALLOWED: &str = "an array of strings";
    let items = match value {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(name, ALLOWED, &other)),
    };
    if items.is_empty() {
        return Err(ApiError::field(
            name,
            format!("`{name}` must contain at least one string."),
        ));
    }
    let texts = items
        .into_iter()
        .enumerate()
        .map(|(place, item)| match item {
            Value::String(text) if text.is_empty() => Err(ApiError::field(
                name,
                format!("`{name}` must not contain an empty string: `{name}[{place}]` is one."),
            )),
            Value::String(text) => Ok(text),
            other => Err(ApiError::field(
                name,
                format!(
                    "`{name}` must be {ALLOWED}, but `{name}[{place}]` is {}.",
                    describe(&other)
                ),
            )),
        });
    Ok(Some(Kind::Choice(texts.collect::<Result<_, _>>()?)))
}

fn response_format(value: Option<Value>, fields: &mut Fields) -> Result<Option<Kind>, ApiError> {
    const NAME: &str = "response_format";
    let Some(value) = value else {
        return Ok(None);
    };
    let mut object = Nested::new(NAME, "an object", value)?;
    let kind = object.take("type").unwrap_or_default();
    let kind = match kind.as_str() {
        Some("text") => None,
        // llama-server's form of a schema.
        Some("json_object") => match object.take("schema") {
            None => Some(Kind::Object),
            schema => schema_of(schema, "response_format.schema")?,
        },
        Some("json_schema") => {
            let inner = object.take("json_schema").unwrap_or_default();
            let place = "response_format.json_schema";
            let mut inner = Nested::new(place, "an object with `schema`", inner)?;
            let schema = inner.take("schema").unwrap_or_default();
            let schema = schema_of(Some(schema), "response_format.json_schema.schema")?;
            // A schema is always followed strictly.
            inner.unused("name", "a string", Value::is_string)?;
            inner.unused("description", "a string", Value::is_string)?;
            inner.unused("strict", "true or false", Value::is_boolean)?;
            inner.end_with("`name`, `description`, `schema` and `strict`", fields);
            schema
        }
        _ => {
            let allowed = "\"text\", \"json_object\" or \"json_schema\"";
            return Err(object.wrong("type", allowed, &kind));
        }
    };
    object.end_with("`type` and the field that belongs to it", fields);
    Ok(kind)
}

fn structured_outputs(
    value: Option<Value>,
    found: &mut Found,
    fields: &mut Fields,
) -> Result<(), ApiError> {
    const NAME: &str = "structured_outputs";
    let Some(value) = value else {
        return Ok(());
    };
    let mut object = Nested::new(NAME, "an object", value)?;
    let before = found.0.len();
    let name = "structured_outputs.json";
    found.push(name, schema_of(object.take("json"), name)?);
    let regex = object.string("regex")?;
    found.push("structured_outputs.regex", regex.map(Kind::Regex));
    let name = "structured_outputs.choice";
    found.push(name, choice_of(object.take("choice"), name)?);
    let grammar = object.string("grammar")?;
    found.push("structured_outputs.grammar", grammar.map(grammar_of));
    let is_object = object.boolean("json_object")?.unwrap_or(false);
    let kind = is_object.then_some(Kind::Object);
    found.push("structured_outputs.json_object", kind);
    let holds = "one of `json`, `regex`, `choice`, `grammar` and `json_object`";
    object.end_with(holds, fields);
    if found.0.len() == before {
        return Err(ApiError::field(
            NAME,
            "`structured_outputs` must contain one of `json`, `regex`, `choice`, `grammar` and `json_object`.",
        ));
    }
    Ok(())
}
