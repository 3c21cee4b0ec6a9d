//! The field `fork`: a completion goes on from within an earlier answer, with another token.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::recent::{Past, Recent};
use crate::api::body::cut;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, whole, wrong};
use crate::api::models::Served;
use crate::model::{Adapters, Token};

/// Fields that say what an earlier answer has said already.
const EXCLUDED: [&str; 6] = [
    "prompt",
    "suffix",
    "echo",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "lora",
];

/// What a client asks for.
#[derive(Debug)]
pub struct Fork {
    id: String,
    choice: usize,
    position: usize,
    /// `None`: one is drawn.
    pub token: Option<Token>,
}

/// What it goes on from.
#[derive(Debug)]
pub struct Forked {
    /// The choice, up to the place where it is left.
    pub past: Past,
    pub adapters: Adapters,
    pub token: Option<Token>,
}

impl Fork {
    /// Reads the field. With it, those that it excludes must not be there, or be without effect.
    pub fn read(fields: &mut Fields, vocabulary: usize) -> Result<Option<Self>, ApiError> {
        let value = fields
            .field(
                "fork",
                "Goes on from within an earlier answer: `id` is that answer's, `choice` the index of the choice (0), \
                 `position` how many tokens of its completion are kept, `token` the id of the one that comes next. \
                 Without `token` one is drawn.",
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
                    "an object with `id`, `position` and, if need be, `choice` and `token`",
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
                        "`{name}` cannot stand beside `fork`, which goes on from the prompt of an earlier answer, under \
                         its adapters, and tells what comes from the fork on. Leave it out."
                    ),
                ));
            }
        }
        Self::of(object, vocabulary).map(Some)
    }

    fn of(mut object: Map<String, Value>, vocabulary: usize) -> Result<Self, ApiError> {
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
                    let allowed = "the number of tokens to keep, from 0 on";
                    wrong(&format!("fork.{name}"), allowed, &Value::Null)
                });
            };
            let number = whole(&value).and_then(|number| usize::try_from(number).ok());
            number.filter(|&number| number <= most).ok_or_else(|| {
                let allowed = match most {
                    usize::MAX => "a whole number from 0 on".to_owned(),
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
        if let Some(name) = object.keys().next() {
            return Err(ApiError::field(
                format!("fork.{}", cut(name)),
                format!(
                    "`fork` holds `id`, `choice`, `position` and `token`; `{}` is not known here.",
                    cut(name)
                ),
            )
            .code("unknown_field"));
        }
        Ok(Self {
            id,
            choice,
            position,
            token,
        })
    }

    /// Finds what it goes on from, among the answers that this client may use.
    pub fn find(self, recent: &Recent, client: &str, served: &Served) -> Result<Forked, ApiError> {
        recent
            .look(&self.id, client, |origin| {
                let engine = &served.engine;
                let fingerprint = engine.fingerprint(&origin.adapters, false);
                // Whether that answer's request asked for exactness makes it no other model.
                let same = origin.fingerprint == fingerprint
                    || origin.fingerprint == engine.fingerprint(&origin.adapters, true);
                if origin.model != served.number || !same {
                    return Err(ApiError::field(
                        "model",
                        format!(
                            "The answer `{}` was made by the model `{}` ({}), but this request is for `{}` \
                             ({fingerprint}).",
                            cut(&self.id),
                            origin.model_name,
                            origin.fingerprint,
                            served.name,
                        ),
                    ));
                }
                let Some(past) = origin.choices.get(self.choice) else {
                    return Err(ApiError::field(
                        "fork.choice",
                        format!(
                            "`fork.choice` must be a whole number from 0 to {}, the last choice of that answer, but it \
                             is {}.",
                            origin.choices.len() - 1,
                            self.choice
                        ),
                    ));
                };
                let Some(kept) = past.tokens.get(..self.position) else {
                    return Err(ApiError::field(
                        "fork.position",
                        format!(
                            "`fork.position` must be a whole number from 0 to {}, as so many tokens were generated, but \
                             it is {}.",
                            past.tokens.len(),
                            self.position
                        ),
                    ));
                };
                Ok(Forked {
                    past: Past {
                        prompt: Arc::clone(&past.prompt),
                        tokens: kept.to_vec(),
                        ..*past
                    },
                    adapters: origin.adapters.clone(),
                    token: self.token,
                })
            })
            .unwrap_or_else(|| Err(self.unknown(served)))
    }

    fn unknown(&self, served: &Served) -> ApiError {
        let limits = &served.config.limits;
        let kept = match limits.fork_answers.min(limits.fork_tokens) {
            0 => "This server keeps none.".to_owned(),
            _ => format!(
                "The last {} of /v1/completions are kept, of at most {} tokens together.",
                limits.fork_answers, limits.fork_tokens
            ),
        };
        ApiError {
            param: Some("fork.id".to_owned()),
            ..ApiError::new(
                axum::http::StatusCode::NOT_FOUND,
                format!(
                    "`fork.id` names no answer that is kept here: `{}`. {kept} Send the tokens as `prompt` instead: its \
                     prompt's, those to keep, and the next one.",
                    cut(&self.id)
                ),
            )
        }
        .code("answer_not_found")
    }
}
