//! Reads the fields of a JSON object one by one, and remembers what was read: name, shape and meaning of a field stand
//! where it is read, and nowhere else. `api::openapi` writes the documents from it. Each message names the field, what
//! is allowed, and what came.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::wording::{counted, cut, describe};
use crate::config::UnknownFields;

/// Fields that change nothing in an answer, and are accepted.
pub const WITHOUT_EFFECT: [&str; 6] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
];

/// The fields of an object. `null` is as good as absent, as OpenAI's own clients have it.
pub struct Fields {
    /// Not read yet.
    left: Map<String, Value>,
    /// Those that were asked for, whether they were there or not.
    known: Vec<Described>,
}

/// A field as the documents show it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    pub shape: Shape,
    /// What it is good for.
    pub about: &'static str,
    /// Whether a body without it is refused.
    pub required: bool,
}

/// What a field's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    String,
    Boolean {
        default: bool,
    },
    Integer {
        least: i64,
        most: i64,
        default: Option<i64>,
    },
    Number {
        least: f32,
        most: f32,
        default: Option<f32>,
    },
    /// What JSON Schema says of it.
    Other(fn() -> Value),
}

impl Shape {
    /// The JSON Schema of it.
    pub fn schema(self) -> Value {
        match self {
            Self::String => json!({"type": "string"}),
            Self::Boolean { default } => json!({"type": "boolean", "default": default}),
            Self::Integer {
                least,
                most,
                default,
            } => {
                let mut schema = json!({"type": "integer", "minimum": least, "maximum": most});
                if let Some(default) = default {
                    schema["default"] = default.into();
                }
                schema
            }
            Self::Number {
                least,
                most,
                default,
            } => {
                let mut schema =
                    json!({"type": "number", "minimum": short(least), "maximum": short(most)});
                if let Some(default) = default {
                    schema["default"] = short(default);
                }
                schema
            }
            Self::Other(schema) => schema(),
        }
    }
}

/// A number as it is written, not as the nearest f32: 0.95, not 0.949999988079071.
pub fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().unwrap_or_default().into()
}

impl Fields {
    pub fn new(object: Map<String, Value>) -> Self {
        Self {
            left: object,
            known: Vec::new(),
        }
    }

    /// The field of this name, and what it is good for.
    pub fn field(&mut self, name: &'static str, about: &'static str) -> Field<'_> {
        let value = self.left.shift_remove(name);
        Field {
            given: value.is_some(),
            value: value.filter(|value| !value.is_null()),
            known: &mut self.known,
            name,
            about,
            required: false,
        }
    }

    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.left.get(name)
    }

    /// Takes a field that is null for absent, where it is read only if it is there.
    pub fn drop_null(&mut self, name: &str) {
        if self.peek(name).is_some_and(Value::is_null) {
            self.left.shift_remove(name);
        }
    }

    /// The fields that `read` asks for, found by having it read a body that it takes.
    pub fn describe<T>(
        sample: Value,
        read: impl FnOnce(&mut Self) -> Result<T, ApiError>,
    ) -> Vec<Described> {
        let mut fields = Self::new(match sample {
            Value::Object(object) => object,
            _ => Map::new(),
        });
        if let Err(error) = read(&mut fields) {
            tracing::error!(message = error.message, "a sample of a request is refused");
        }
        fields.known
    }

    /// The names that nobody read.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.left.keys().map(String::as_str)
    }

    /// Last: what nobody read is refused, or warned of, but for what changes nothing in an answer.
    pub fn refuse_others(&self, how: UnknownFields) -> Result<(), ApiError> {
        let mut unknown = self.left().filter(|name| !WITHOUT_EFFECT.contains(name));
        let Some(name) = unknown.next() else {
            return Ok(());
        };
        if how == UnknownFields::Warn {
            // Their names are the client's text.
            tracing::warn!(fields = 1 + unknown.count(), "unknown fields are ignored");
            tracing::trace!(field = %cut(name), "the first of them");
            return Ok(());
        }
        let shown = cut(name);
        let hint = match self.meant(name) {
            Some(known) => format!(" Did you mean `{known}`?"),
            None if name == "messages" && self.knows("input") => {
                " Messages go to POST /v1/chat/completions; here the text is `input`.".to_owned()
            }
            None if name == "prompt" && self.knows("input") => {
                " A prompt goes to POST /v1/completions; here the text is `input`.".to_owned()
            }
            None if name == "messages" => {
                " Messages go to POST /v1/chat/completions; here the text is `prompt`.".to_owned()
            }
            None if name == "prompt" => {
                " A prompt goes to POST /v1/completions; here `messages` are sent.".to_owned()
            }
            None => String::new(),
        };
        Err(ApiError::field(
            shown.clone(),
            format!(
                "The field `{shown}` is not known here, and an answer that ignored it could be another than you asked \
                 for.{hint}"
            ),
        )
        .code("unknown_field"))
    }

    fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known.name == name)
    }

    /// The name that a misspelt one may have meant: equal but for case, `_` and `-`.
    fn meant(&self, name: &str) -> Option<&'static str> {
        let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
        let given = bare(name);
        self.known
            .iter()
            .map(|known| known.name)
            .find(|known| bare(known) == given)
    }
}

/// A field that is being read. One of its methods says what its value may be.
pub struct Field<'a> {
    /// Whether it was there at all, be it as null.
    pub given: bool,
    value: Option<Value>,
    known: &'a mut Vec<Described>,
    name: &'static str,
    about: &'static str,
    required: bool,
}

impl Field<'_> {
    /// For the documents: who asks refuses a body without it.
    pub fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Any value; who asks checks it, and says by `schema` what it may be.
    pub fn value(self, schema: fn() -> Value) -> Option<Value> {
        self.take(Shape::Other(schema))
    }

    pub fn string(self) -> Result<Option<String>, ApiError> {
        let name = self.name;
        self.take(Shape::String)
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(name, "a string", &other)),
            })
            .transpose()
    }

    pub fn boolean(self, default: bool) -> Result<bool, ApiError> {
        let name = self.name;
        match self.take(Shape::Boolean { default }) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// A whole number; 16.0 is one.
    pub fn integer(self, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        self.integer_of(range, None)
    }

    pub fn integer_or(self, range: RangeInclusive<i64>, default: i64) -> Result<i64, ApiError> {
        Ok(self.integer_of(range, Some(default))?.unwrap_or(default))
    }

    fn integer_of(
        self,
        range: RangeInclusive<i64>,
        default: Option<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let name = self.name;
        let (least, most) = range.clone().into_inner();
        self.take(Shape::Integer {
            least,
            most,
            default,
        })
        .map(|value| {
            whole(&value)
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    wrong(
                        name,
                        &format!("a whole number from {least} to {most}"),
                        &value,
                    )
                })
        })
        .transpose()
    }

    /// As `integer`, for a count.
    pub fn count(self, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        Ok(self.integer(whole_range(&range))?.map(to_count))
    }

    pub fn count_or(self, range: RangeInclusive<usize>, default: usize) -> Result<usize, ApiError> {
        let number = self.integer_of(whole_range(&range), Some(to_whole(default)))?;
        Ok(number.map_or(default, to_count))
    }

    pub fn number_or(self, range: RangeInclusive<f32>, default: f32) -> Result<f32, ApiError> {
        let name = self.name;
        let (least, most) = range.into_inner();
        let shape = Shape::Number {
            least,
            most,
            default: Some(default),
        };
        let Some(value) = self.take(shape) else {
            return Ok(default);
        };
        value
            .as_f64()
            // Before it is rounded: 1.00000001 is more than 1.
            .filter(|number| (f64::from(least)..=f64::from(most)).contains(number))
            .map(|number| number as f32)
            .ok_or_else(|| wrong(name, &format!("a number from {least} to {most}"), &value))
    }

    fn take(self, shape: Shape) -> Option<Value> {
        self.known.push(Described {
            name: self.name,
            shape,
            about: self.about,
            required: self.required,
        });
        self.value
    }
}

fn whole_range(range: &RangeInclusive<usize>) -> RangeInclusive<i64> {
    to_whole(*range.start())..=to_whole(*range.end())
}

fn to_whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Of a number that was found to be one.
fn to_count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// The number, if it is whole and fits.
pub fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
    })
}

/// 400: the field must be one thing and is another.
pub fn wrong(name: &str, allowed: &str, value: &Value) -> ApiError {
    ApiError::field(
        name,
        format!("`{name}` must be {allowed}, but it is {}.", describe(value)),
    )
}

/// 400: `name`, which is within the field `param`, has a wrong value.
pub fn wrong_in(param: &str, name: &str, allowed: &str, value: &Value) -> ApiError {
    ApiError {
        param: Some(param.to_owned()),
        ..wrong(name, allowed, value)
    }
}

/// Token ids, each within a vocabulary of `vocabulary` tokens; `name` is where they stand, `param` the field.
pub fn token_ids(
    items: &[Value],
    name: &str,
    param: &str,
    vocabulary: usize,
) -> Result<Vec<crate::model::Token>, ApiError> {
    let last = vocabulary - 1;
    items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            whole(item)
                .and_then(|id| usize::try_from(id).ok())
                .filter(|&id| id <= last)
                .and_then(|id| i32::try_from(id).ok())
                .map(crate::model::Token)
                .ok_or_else(|| {
                    ApiError::field(
                        param,
                        format!(
                            "`{name}[{place}]` must be a token id from 0 to {last}, but it is {}.",
                            describe(item)
                        ),
                    )
                })
        })
        .collect()
}

/// A string, or an array of at most `most` strings.
pub fn strings(value: Value, name: &'static str, most: usize) -> Result<Vec<String>, ApiError> {
    let allowed = || {
        format!(
            "a string or an array of at most {}",
            counted(most, "string")
        )
    };
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(items) if items.len() <= most => items
            .into_iter()
            .enumerate()
            .map(|(place, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(ApiError::field(
                    name,
                    format!(
                        "`{name}` must be {}, but `{name}[{place}]` is {}.",
                        allowed(),
                        describe(&other)
                    ),
                )),
            })
            .collect(),
        other => Err(wrong(name, &allowed(), &other)),
    }
}
