//! The field `fork`: a completion that continues an earlier answer from within, with another token.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, whole, wrong};
use crate::api::fork_cache::{ForkCache, ForkPoint, StoredAnswer};
use crate::api::served::Served;
use crate::api::wording::cut;
use crate::model::{Adapters, Token};

/// Fields that the earlier answer determines.
const EXCLUDED: [&str; 7] = [
    "prompt",
    "prompt_logprobs",
    "suffix",
    "echo",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "lora",
];

/// The field, checked.
#[derive(Debug)]
pub struct Fork {
    id: String,
    choice: usize,
    position: usize,
    /// `None`: one is sampled.
    pub token: Option<Token>,
}

/// What a fork continues.
#[derive(Debug)]
pub struct Forked {
    /// The choice, up to the fork.
    pub point: ForkPoint,
    pub adapters: Adapters,
    pub token: Option<Token>,
}

impl Fork {
    /// Reads the field. Fields that it excludes must be absent or without effect.
    pub fn read(fields: &mut Fields, vocabulary: usize) -> Result<Option<Self>, ApiError> {
        let value = fields
            .field(
                "fork",
                "Continues an earlier answer from within: `id` is that answer's, `choice` the index of a choice (default 0), \
                 `position` how many tokens of its completion are kept, `token` the id of the next token. Without `token` \
                 it is sampled.",
            )
            .value(|| {
                let count = json!({"type": "integer", "minimum": 0});
                json!({
                    "type": "object",
                    "required": ["id", "position"],
                    "additionalProperties": false,
                    "properties": {
                        "id": {"type": "string"}, "choice": count, "position": count, "token": count,
                    },
                })
            });
        let object = match value {
            None => return Ok(None),
            Some(Value::Object(object)) => object,
            Some(other) => {
                return Err(wrong(
                    "fork",
                    "an object with `id`, `position` and optionally `choice` and `token`",
                    &other,
                ));
            }
        };
        for name in EXCLUDED {
            if !matches!(
                fields.peek(name),
                None | Some(Value::Null | Value::Bool(false))
            ) {
                return Err(ApiError::field(
                    name,
                    format!(
                        "`{name}` cannot be combined with `fork`, which continues the prompt of an earlier answer with \
                         that answer's adapters. Leave it out."
                    ),
                ));
            }
        }
        Self::of(object, vocabulary, fields).map(Some)
    }

    fn of(
        mut object: Map<String, Value>,
        vocabulary: usize,
        fields: &mut Fields,
    ) -> Result<Self, ApiError> {
        let mut take = |name: &str| object.shift_remove(name).filter(|value| !value.is_null());
        let id = match take("id") {
            Some(Value::String(id)) => id,
            other => {
                let other = other.unwrap_or_default();
                return Err(wrong("fork.id", "the id of an earlier answer", &other));
            }
        };
        let mut count = |name: &str, most: usize, default: Option<usize>| {
            let Some(value) = take(name) else {
                return default.ok_or_else(|| {
                    let allowed = "the number of tokens to keep, 0 or more";
                    wrong(&format!("fork.{name}"), allowed, &Value::Null)
                });
            };
            let number = whole(&value).and_then(|number| usize::try_from(number).ok());
            number.filter(|&number| number <= most).ok_or_else(|| {
                let allowed = match most {
                    usize::MAX => "a whole number, 0 or more".to_owned(),
                    most => format!("a token id from 0 to {most}"),
                };
                wrong(&format!("fork.{name}"), &allowed, &value)
            })
        };
        let choice = count("choice", usize::MAX, Some(0))?;
        let position = count("position", usize::MAX, None)?;
        let none = usize::MAX;
        let token = count("token", vocabulary - 1, Some(none))?;
        let token = i32::try_from(token).ok().map(Token);
        fields.only("fork", &object, "`id`, `choice`, `position` and `token`");
        Ok(Self {
            id,
            choice,
            position,
            token,
        })
    }

    /// Finds the answer to continue, among those that this client may fork.
    pub fn find(
        self,
        cache: &ForkCache,
        client: &str,
        served: &Served,
    ) -> Result<Forked, ApiError> {
        cache
            .look(&self.id, client, |answer| self.point(answer, served))
            .unwrap_or_else(|| Err(self.unknown(served)))
    }

    /// The point in the answer, if its model is the same.
    fn point(&self, answer: &StoredAnswer, served: &Served) -> Result<Forked, ApiError> {
        let engine = &served.engine;
        let fingerprint = engine.fingerprint(&answer.adapters, false);
        // With `exact` the fingerprint of the same model differs.
        let same = answer.fingerprint == fingerprint
            || answer.fingerprint == engine.fingerprint(&answer.adapters, true);
        if answer.model_index != served.model_index || !same {
            return Err(ApiError::field(
                "model",
                format!(
                    "The answer `{}` was generated by the model `{}` ({}), but this request is for `{}` ({fingerprint}).",
                    cut(&self.id),
                    answer.model_name,
                    answer.fingerprint,
                    served.name,
                ),
            ));
        }
        let Some(point) = answer.choices.get(self.choice) else {
            return Err(ApiError::field(
                "fork.choice",
                format!(
                    "`fork.choice` must be a whole number from 0 to {}, the last choice of that answer, but it is {}.",
                    answer.choices.len() - 1,
                    self.choice
                ),
            ));
        };
        let Some(tokens) = point.tokens.get(..self.position) else {
            return Err(ApiError::field(
                "fork.position",
                format!(
                    "`fork.position` must be a whole number from 0 to {}, the number of tokens generated so far, but it \
                     is {}.",
                    point.tokens.len(),
                    self.position
                ),
            ));
        };
        Ok(Forked {
            point: ForkPoint {
                prompt: Arc::clone(&point.prompt),
                tokens: tokens.to_vec(),
                ..*point
            },
            adapters: answer.adapters.clone(),
            token: self.token,
        })
    }

    fn unknown(&self, served: &Served) -> ApiError {
        let limits = &served.config.limits;
        let kept = match limits.fork_answers.min(limits.fork_tokens) {
            0 => "This server keeps no answers.".to_owned(),
            _ => format!(
                "The last {} answers of /v1/completions are kept, with at most {} tokens together.",
                limits.fork_answers, limits.fork_tokens
            ),
        };
        ApiError {
            param: Some("fork.id".to_owned()),
            ..ApiError::new(
                axum::http::StatusCode::NOT_FOUND,
                format!(
                    "`fork.id` is not the id of an answer kept here: `{}`. {kept} Send the tokens as `prompt` instead: the \
                     prompt's, those to keep, and the next one.",
                    cut(&self.id)
                ),
            )
        }
        .code("answer_not_found")
    }
}
