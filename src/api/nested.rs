//! Objects within a field, read field by field as `api::fields` reads the body.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::{Fields, whole, wrong_in};

/// The fields of an object that are not read yet. `null` means absent.
pub struct Nested {
    /// The field that errors name; `None`: the path to the wrong value.
    param: Option<&'static str>,
    /// The path to the object, such as `input[3]`.
    pub place: String,
    left: Map<String, Value>,
}

impl Nested {
    /// The object at `place`, which must be what `allowed` says.
    pub fn new(place: impl Into<String>, allowed: &str, value: Value) -> Result<Self, ApiError> {
        Self::of(None, place.into(), allowed, value)
    }

    /// The object at `place` of a field, which is all that errors have as `param`.
    pub fn within(
        param: &'static str,
        place: impl Into<String>,
        allowed: &str,
        value: Value,
    ) -> Result<Self, ApiError> {
        Self::of(Some(param), place.into(), allowed, value)
    }

    fn of(
        param: Option<&'static str>,
        place: String,
        allowed: &str,
        value: Value,
    ) -> Result<Self, ApiError> {
        let Value::Object(mut left) = value else {
            let param = param.unwrap_or(&place);
            return Err(wrong_in(param, &place, allowed, &value));
        };
        left.retain(|_, value| !value.is_null());
        Ok(Self { param, place, left })
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name)
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", &other)),
        }
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    /// A whole number up to `most`; `allowed` says what it may be.
    pub fn count(
        &mut self,
        name: &str,
        most: usize,
        allowed: &str,
    ) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = whole(&value).and_then(|number| usize::try_from(number).ok());
        let count = count.filter(|&count| count <= most);
        count
            .map(Some)
            .ok_or_else(|| self.wrong(name, allowed, &value))
    }

    /// A string that must be there.
    pub fn required(&mut self, name: &str) -> Result<String, ApiError> {
        let text = self.string(name)?;
        text.ok_or_else(|| self.wrong(name, "a string", &Value::Null))
    }

    /// A field that changes nothing here, of this type.
    pub fn unused(
        &mut self,
        name: &str,
        allowed: &str,
        is_of_type: fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name).filter(|value| !is_of_type(value)) {
            None => Ok(()),
            Some(other) => Err(self.wrong(name, allowed, &other)),
        }
    }

    /// One of these words.
    pub fn word(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(word)) if words.contains(&word.as_str()) => Ok(Some(word)),
            Some(other) => {
                let allowed = format!("one of {}", words.join(", "));
                Err(self.wrong(name, &allowed, &other))
            }
        }
    }

    /// 400: a field of this object has a wrong value.
    pub fn wrong(&self, name: &str, allowed: &str, value: &Value) -> ApiError {
        let path = format!("{}.{name}", self.place);
        wrong_in(self.param.unwrap_or(&path), &path, allowed, value)
    }

    /// Called last: reports fields that were not read.
    pub fn end(self, fields: &mut Fields) {
        fields.unread(&self.place, &self.left, None);
    }

    /// Like `end`; the message says which fields there may be.
    pub fn end_with(self, holds: &str, fields: &mut Fields) {
        fields.unread(&self.place, &self.left, Some(holds));
    }
}
