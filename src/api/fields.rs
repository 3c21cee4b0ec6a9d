//! Reads the fields of a JSON object one by one and remembers which were read: the name, shape and meaning of a field are
//! stated where it is read and nowhere else. `api::openapi` and `api::docs` are generated from that. Each error message
//! names the field, what is allowed, and what was sent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::neutral::{self, Neutral};
use super::wording::{counted, cut, describe};
use crate::config::UnknownFields;
use crate::params::{Number, Param, Range, Slider};

/// The fields of an object. `null` means absent, as in OpenAI's own clients.
pub struct Fields {
    /// Not read yet.
    left: Map<String, Value>,
    /// Those that were read, present or not.
    known: Vec<Described>,
    /// The names of those that had a value.
    given: Vec<&'static str>,
    /// Unknown fields within fields that were read.
    nested: Vec<Unknown>,
}

/// An unknown field within another.
#[derive(Clone)]
struct Unknown {
    /// Its path, which may be cut.
    path: String,
    message: String,
}

/// A field as the documents describe it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    pub shape: Shape,
    pub about: &'static str,
    /// Whether a body without it is rejected.
    pub required: bool,
    /// How the page at `/` shows it, if it does.
    pub slider: Option<Slider>,
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
        least: f64,
        most: f64,
        default: f32,
    },
    /// Given as JSON Schema.
    Other(fn() -> Value),
}

impl Shape {
    /// Its JSON Schema.
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
                json!({"type": "number", "minimum": least, "maximum": most, "default": short(default)})
            }
            Self::Other(schema) => schema(),
        }
    }
}

/// A number as people write it, not as the nearest f32: 0.95, not 0.949999988079071.
pub fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().unwrap_or_default().into()
}

/// The value of a sampling parameter as JSON.
pub fn json_number(number: Number) -> Value {
    match number {
        Number::Integer(value) => value.into(),
        Number::Real(value) => short(value),
    }
}

impl Fields {
    pub fn new(object: Map<String, Value>) -> Self {
        Self {
            left: object,
            known: Vec::new(),
            given: Vec::new(),
            nested: Vec::new(),
        }
    }

    /// The field of this name; `about` is its description in the documentation.
    pub fn field(&mut self, name: &'static str, about: &'static str) -> Field<'_> {
        let sent = self.left.shift_remove(name);
        let given = sent.is_some();
        let value = sent.filter(|value| !value.is_null());
        if value.is_some() {
            self.given.push(name);
        }
        Field {
            given,
            value,
            known: &mut self.known,
            name,
            about,
            required: false,
            slider: None,
        }
    }

    /// Reads a sampling parameter; `default` is the server's.
    pub fn param(&mut self, param: &Param, default: Number) -> Result<Number, ApiError> {
        let field = Field {
            slider: param.slider,
            ..self.field(param.name, param.about)
        };
        match param.range {
            Range::Integer(least, most) => field
                .integer_or(least..=most, default.into())
                .map(Number::Integer),
            Range::Real(least, most) => field
                .number_or(least..=most, default.into())
                .map(Number::Real),
        }
    }

    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.left.get(name)
    }

    /// Gives a field that is read later a value that came by another name. 400 if it came by both, unless they are equal.
    pub fn put(&mut self, name: &'static str, value: Value, came: &str) -> Result<(), ApiError> {
        let other = self.peek(name).filter(|other| !other.is_null());
        if other.is_some_and(|other| !neutral::equal(&value, other)) {
            return Err(ApiError::field(
                came,
                format!("`{came}` is another name for `{name}`. Send only one of the two."),
            ));
        }
        self.left.insert(name.to_owned(), value);
        Ok(())
    }

    /// Removes a field that is null: for fields that are read only if they are present.
    pub fn drop_null(&mut self, name: &str) {
        if self.peek(name).is_some_and(Value::is_null) {
            self.left.shift_remove(name);
        }
    }

    /// The fields that `read` reads, found by giving it a body that it accepts.
    pub fn describe<T>(
        sample: Value,
        read: impl FnOnce(&mut Self) -> Result<T, ApiError>,
    ) -> Vec<Described> {
        let mut fields = Self::new(match sample {
            Value::Object(object) => object,
            _ => Map::new(),
        });
        if let Err(error) = read(&mut fields) {
            tracing::error!(message = error.message, "a sample request was rejected");
        }
        fields.known
    }

    /// Reports those fields of an object, which is at `place`, that were not read from it and change something, for
    /// [`Fields::refuse_others`]. `holds` says which it may have.
    pub fn unread(&mut self, place: &str, rest: &Map<String, Value>, holds: Option<&str>) {
        for (name, value) in rest {
            if neutral::is_neutral_within(place, name, value) {
                continue;
            }
            let name = cut(name);
            let path = format!("{place}.{name}");
            let message = match holds {
                None => format!("Unknown field `{path}`."),
                Some(holds) => format!("`{place}` accepts only {holds}; `{name}` is unknown."),
            };
            self.nested.push(Unknown { path, message });
        }
    }

    /// Leaves an object that is at `place` only the fields of these names, and reports others.
    pub fn keep(&mut self, place: &str, object: &mut Map<String, Value>, names: &[&str]) {
        let all = std::mem::take(object).into_iter();
        let (known, rest) = all.partition(|(name, _)| names.contains(&name.as_str()));
        *object = known;
        self.unread(place, &rest, None);
    }

    /// Reports what is unknown in an object, which is at `place` of this one.
    pub fn take_unknown(&mut self, place: &str, object: &Self) {
        let of_it = object.others().map(|(name, value)| Unknown {
            path: cut(name),
            message: object.refused(name, value).message,
        });
        let all = of_it.chain(object.nested.iter().cloned());
        self.nested.extend(all.map(|unknown| Unknown {
            path: format!("{place}.{}", unknown.path),
            message: format!("In `{place}`: {}", unknown.message),
        }));
    }

    /// Takes over what was reported of an object whose fields were read apart.
    pub fn take_nested(&mut self, object: Self) {
        self.nested.extend(object.nested);
    }

    /// Called last: refuses, or warns of, fields that were not read, except those that do not change an answer.
    pub fn refuse_others(&self, how: UnknownFields) -> Result<(), ApiError> {
        let mut others = self.others();
        if how == UnknownFields::Warn {
            let names = others.map(|(name, _)| name);
            warn_of(names.chain(self.nested.iter().map(|nested| &nested.path)));
            return Ok(());
        }
        match (others.next(), self.nested.first()) {
            (Some((name, value)), _) => Err(self.refused(name, value)),
            (None, Some(Unknown { path, message })) => {
                Err(ApiError::field(path.clone(), message.clone()).code("unknown_field"))
            }
            (None, None) => Ok(()),
        }
    }

    /// Those that were not read and change something.
    fn others(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.left.iter().filter(|(name, value)| {
            let known = neutral::find(name);
            let is_neutral = known.is_some_and(|it| it.takes(value) && !self.contradicts(it));
            !value.is_null() && !is_neutral
        })
    }

    /// Whether the request has the field that this is another name for.
    fn contradicts(&self, neutral: &Neutral) -> bool {
        neutral
            .alias_of
            .is_some_and(|name| self.given.contains(&name))
    }

    /// 400: this field is unknown, or known only with other values.
    fn refused(&self, name: &str, value: &Value) -> ApiError {
        let shown = cut(name);
        let known = neutral::find(name);
        if let Some(neutral) = known.filter(|it| self.contradicts(it)) {
            let other = neutral.alias_of.unwrap_or_default();
            let message =
                format!("`{name}` is another name for `{other}`. Send only one of the two.");
            return ApiError::field(name, message).code("unknown_field");
        }
        let hint = known.map_or_else(String::new, |it| it.hint(|name| self.knows(name)));
        if let Some(allowed) = known.and_then(Neutral::allowed) {
            let ApiError { message, .. } = wrong(name, &allowed, value);
            return ApiError::field(name, message + &hint).code("unknown_field");
        }
        let elsewhere = match name {
            "messages" => Some("Send messages to POST /v1/chat/completions"),
            "prompt" => Some("Send a prompt to POST /v1/completions"),
            _ => None,
        };
        let hint = match (self.meant(name), elsewhere) {
            (Some(known), _) => format!(" Did you mean `{known}`?"),
            (None, Some(elsewhere)) => {
                let mut inputs = ["input", "messages", "prompt", "text", "tokens"].into_iter();
                let own = inputs.find(|name| self.knows(name));
                let own = own.map(|name| format!("; this route takes `{name}`"));
                format!(" {elsewhere}{}.", own.unwrap_or_default())
            }
            (None, None) => hint,
        };
        ApiError::field(
            shown.clone(),
            format!(
                "Unknown field `{shown}`. Candor rejects fields it does not know instead of ignoring them \
                 (`server.unknown_fields`).{hint}"
            ),
        )
        .code("unknown_field")
    }

    fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known.name == name)
    }

    /// The name that a misspelt one may stand for: equal except for case, `_` and `-`.
    fn meant(&self, name: &str) -> Option<&'static str> {
        let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
        let given = bare(name);
        self.known
            .iter()
            .map(|known| known.name)
            .find(|known| bare(known) == given)
    }
}

/// Logs the names of unknown fields, which are the client's text: few of them, cut and escaped.
fn warn_of<'a>(names: impl Iterator<Item = &'a String>) {
    /// How many are shown.
    const SHOWN: usize = 8;
    let (mut shown, mut count) = (Vec::new(), 0);
    for name in names {
        count += 1;
        if shown.len() < SHOWN {
            shown.push(cut(name).escape_debug().to_string());
        }
    }
    if count > 0 {
        let names = shown.join(", ");
        tracing::warn!(count, names, "unknown fields are ignored");
    }
}

/// A field that is being read; the method called on it says what its value may be.
pub struct Field<'a> {
    /// Whether it is present, even as null.
    pub given: bool,
    value: Option<Value>,
    known: &'a mut Vec<Described>,
    name: &'static str,
    about: &'static str,
    required: bool,
    slider: Option<Slider>,
}

impl Field<'_> {
    /// For the documents: the caller refuses a body without it.
    pub fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Any value; the caller checks it, and describes by `schema` what it may be.
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
        Ok(self.flag(default)?.unwrap_or(default))
    }

    /// A boolean that may be absent; the documents give this as its default.
    pub fn flag(self, default: bool) -> Result<Option<bool>, ApiError> {
        let name = self.name;
        match self.take(Shape::Boolean { default }) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
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

    /// Like `integer`, for a count.
    pub fn count(self, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        Ok(self.integer(whole_range(&range))?.map(to_count))
    }

    /// A count that limits something; -1 does not, as null.
    pub fn limit(self) -> Result<Option<usize>, ApiError> {
        let number = self.integer(-1..=i64::from(u32::MAX))?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    pub fn count_or(self, range: RangeInclusive<usize>, default: usize) -> Result<usize, ApiError> {
        let number = self.integer_of(whole_range(&range), Some(to_whole(default)))?;
        Ok(number.map_or(default, to_count))
    }

    pub fn number_or(self, range: RangeInclusive<f64>, default: f32) -> Result<f32, ApiError> {
        let name = self.name;
        let (least, most) = range.into_inner();
        let shape = Shape::Number {
            least,
            most,
            default,
        };
        let Some(value) = self.take(shape) else {
            return Ok(default);
        };
        value
            .as_f64()
            // Checked before it is rounded: 1.00000001 is more than 1.
            .filter(|number| (least..=most).contains(number))
            .map(|number| number as f32)
            .ok_or_else(|| wrong(name, &format!("a number from {least} to {most}"), &value))
    }

    fn take(self, shape: Shape) -> Option<Value> {
        // A route that reads a field before it is read as on other routes describes its own values.
        if self.known.iter().all(|known| known.name != self.name) {
            self.known.push(Described {
                name: self.name,
                shape,
                about: self.about,
                required: self.required,
                slider: self.slider,
            });
        }
        self.value
    }
}

fn whole_range(range: &RangeInclusive<usize>) -> RangeInclusive<i64> {
    to_whole(*range.start())..=to_whole(*range.end())
}

fn to_whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// For a number within a range of counts.
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

/// 400: a field has a value that is not allowed.
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

/// Token ids, each within a vocabulary of `vocabulary` tokens; `name` is the path to them, `param` the field.
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
