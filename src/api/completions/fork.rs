//! The field `fork`: a completion that continues an earlier answer from within, with another token.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::fork_cache::{ForkCache, ForkPoint, StoredAnswer};
use crate::api::nested::Nested;
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
        let Some(value) = value else {
            return Ok(None);
        };
        let allowed = "an object with `id`, `position` and optionally `choice` and `token`";
        let object = Nested::new("fork", allowed, value)?;
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

    fn of(mut object: Nested, vocabulary: usize, fields: &mut Fields) -> Result<Self, ApiError> {
        const COUNT: &str = "a whole number, 0 or more";
        let id = match object.take("id") {
            Some(Value::String(id)) => id,
            other => {
                let other = other.unwrap_or_default();
                return Err(object.wrong("id", "the id of an earlier answer", &other));
            }
        };
        let choice = object.count("choice", usize::MAX, COUNT)?;
        let position = object.count("position", usize::MAX, COUNT)?;
        let position = position.ok_or_else(|| {
            let allowed = "the number of tokens to keep, 0 or more";
            object.wrong("position", allowed, &Value::Null)
        })?;
        let last = vocabulary - 1;
        let token = object.count("token", last, &format!("a token id from 0 to {last}"))?;
        let token = token.and_then(|token| i32::try_from(token).ok());
        object.end_with("`id`, `choice`, `position` and `token`", fields);
        Ok(Self {
            id,
            choice: choice.unwrap_or(0),
            position,
            token: token.map(Token),
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
