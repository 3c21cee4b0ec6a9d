//! The field `scored_from`: only a prompt's last tokens are scored.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, whole, wrong};
use crate::api::served::Served;
use crate::api::wording::counted;

const NAME: &str = "scored_from";

/// The index of the first scored token: one for all prompts, or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScoredFrom {
    All(usize),
    Each(Vec<usize>),
}

impl ScoredFrom {
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Option<Self>, ApiError> {
        let value = fields
            .field(
                NAME,
                "With `echo` and `logprobs`: the index of the first prompt token that is scored, counted from 0 with BOS; \
                 earlier ones have null. An array has one for each prompt.",
            )
            .value(|| {
                let index = json!({"type": "integer", "minimum": 0});
                json!({"anyOf": [index, {"type": "array", "items": index}]})
            });
        let Some(value) = value else { return Ok(None) };
        let last = served.engine.context_length();
        let index = |value: &Value| {
            let index = whole(value).map(usize::try_from)?.ok()?;
            (index <= last).then_some(index)
        };
        let read = match &value {
            Value::Array(items) => items
                .iter()
                .map(index)
                .collect::<Option<_>>()
                .map(Self::Each),
            one => index(one).map(Self::All),
        };
        read.map(Some).ok_or_else(|| {
            let allowed =
                format!("a whole number from 0 to {last}, or an array of one for each prompt");
            wrong(NAME, &allowed, &value)
        })
    }

    /// Rejects an array that has not one for each prompt.
    pub fn check(&self, prompts: usize) -> Result<(), ApiError> {
        match self {
            Self::Each(indices) if indices.len() != prompts => Err(ApiError::field(
                NAME,
                format!(
                    "An array in `{NAME}` must have one number for each prompt, but it has {} for {}.",
                    counted(indices.len(), "number"),
                    counted(prompts, "prompt")
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The first scored token of a prompt of this many tokens; its length if none is scored. No row predicts the very first
    /// token.
    pub fn of(&self, prompt: usize, tokens: usize) -> Result<usize, ApiError> {
        let index = match self {
            Self::All(index) => *index,
            Self::Each(indices) => indices.get(prompt).copied().unwrap_or(0),
        };
        if index > tokens {
            return Err(ApiError::field(
                NAME,
                format!(
                    "`{NAME}` is {index}, but the prompt at index {prompt} has {}.",
                    counted(tokens, "token")
                ),
            ));
        }
        Ok(index.max(1))
    }
}
