//! Objects within a field, read field by field as `api::fields` reads the body.

use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong_in};
use crate::api::wording::cut;

/// The fields of an object that are not read yet. `null` means absent.
pub struct Nested {
    /// The field of the request.
    param: &'static str,
    /// The path to the object, such as `input[3]`.
    pub place: String,
    left: Map<String, Value>,
}

impl Nested {
    pub fn new(
        param: &'static str,
        place: impl Into<String>,
        value: Value,
    ) -> Result<Self, ApiError> {
        let place = place.into();
        let Value::Object(mut left) = value else {
            return Err(wrong_in(param, &place, "an object", &value));
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
        wrong_in(
            self.param,
            &format!("{}.{name}", self.place),
            allowed,
            value,
        )
    }

    /// Called last: reports fields that were not read.
    pub fn end(self, fields: &mut Fields) {
        for name in self.left.keys() {
            let field = format!("{}.{}", self.place, cut(name));
            let message = format!("Unknown field `{field}`.");
            fields.unknown(field, message);
        }
    }
}
