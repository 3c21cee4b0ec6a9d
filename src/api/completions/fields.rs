//! Reads the fields of a JSON object one by one. Each message names the field, what is allowed, and what came.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::api::body::describe;
use crate::api::error::ApiError;

/// The fields of an object. `null` is as good as absent, as OpenAI's own clients have it.
pub struct Fields {
    /// Not read yet.
    left: Map<String, Value>,
    /// Names that were asked for, whether they were there or not.
    known: Vec<&'static str>,
}

impl Fields {
    pub fn new(object: Map<String, Value>) -> Self {
        Self {
            left: object,
            known: Vec::new(),
        }
    }

    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.left.get(name)
    }

    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left
            .shift_remove(name)
            .filter(|value| !value.is_null())
    }

    pub fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.take(name)
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(name, "a string", &other)),
            })
            .transpose()
    }

    pub fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.take(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| wrong(name, "true or false", &value))
            })
            .transpose()
    }

    /// A whole number; 16.0 is one.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        self.take(name)
            .map(|value| {
                whole(&value)
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| {
                        wrong(
                            name,
                            &format!("a whole number from {} to {}", range.start(), range.end()),
                            &value,
                        )
                    })
            })
            .transpose()
    }

    /// As `integer`, for a count.
    pub fn count(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let bound = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let number = self.integer(name, bound(*range.start())..=bound(*range.end()))?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    pub fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ApiError> {
        self.take(name)
            .map(|value| {
                value
                    .as_f64()
                    // Before it is rounded: 1.00000001 is more than 1.
                    .filter(|number| {
                        (f64::from(*range.start())..=f64::from(*range.end())).contains(number)
                    })
                    .map(|number| number as f32)
                    .ok_or_else(|| {
                        wrong(
                            name,
                            &format!("a number from {} to {}", range.start(), range.end()),
                            &value,
                        )
                    })
            })
            .transpose()
    }

    /// The names that nobody read.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.left.keys().map(String::as_str)
    }

    /// The name that a misspelt one may have meant: equal but for case, `_` and `-`.
    pub fn meant(&self, name: &str) -> Option<&'static str> {
        let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
        let given = bare(name);
        self.known
            .iter()
            .copied()
            .find(|known| bare(known) == given)
    }
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
