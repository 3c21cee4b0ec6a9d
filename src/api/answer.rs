//! What the answers of all routes that generate have in common: their head, the tokens used, and how the deltas of a
//! choice are gathered.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::generate::{Entries, new_id};
use super::models::Served;
use super::receipt::Receipt;
use crate::engine::{Delta, EngineError, FinishReason, Generation, PromptOutput, TokenOutput};
use crate::model::Adapters;

/// What all parts of one answer begin with.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Head {
    /// Another for each answer.
    pub id: String,
    /// What kind of answer this is.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client used.
    pub model: String,
    /// What made the answer: the model, llama.cpp's version, the engine's mode, the bits class, and the adapters that apply.
    pub system_fingerprint: String,
}

impl Head {
    /// The head of a new answer, whose id begins with `kind`, and which these adapters apply to; `exact`: whether its request
    /// asks for exactness.
    pub fn new(
        kind: &str,
        object: &'static str,
        served: &Served,
        (adapters, exact): (&Adapters, bool),
    ) -> Self {
        Self {
            id: new_id(kind),
            object,
            created: super::now(),
            model: served.name.clone(),
            system_fingerprint: served.engine.fingerprint(adapters, exact),
        }
    }
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer<C> {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<C>,
    pub usage: Usage,
    /// With `receipt: true`: all that is needed to run the request again and to compare what comes, bit by bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

impl<C: Serialize + Send + 'static> Answer<C> {
    pub async fn respond(self, entries: &Entries, state: &AppState) -> Result<Response, ApiError> {
        respond(self, entries, state).await
    }
}

/// Writes an answer: a large one beside the threads that serve everybody.
pub async fn respond<T: Serialize + Send + 'static>(
    answer: T,
    entries: &Entries,
    state: &AppState,
) -> Result<Response, ApiError> {
    if entries.are_few() {
        return Ok(Json(answer).into_response());
    }
    let json = state.finish(move || serde_json::to_vec(&answer)).await?;
    let json = json.map_err(|_| ApiError::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Tokens used.
#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub struct Usage {
    /// Of each prompt once, however many choices.
    pub prompt_tokens: usize,
    /// Of all sequences that were generated.
    pub completion_tokens: usize,
    /// Both together.
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens that were not evaluated anew.
    pub cached_tokens: usize,
}

impl Usage {
    /// Counts a prompt.
    pub fn prompt(&mut self, tokens: usize, cached_tokens: usize) {
        self.prompt_tokens += tokens;
        self.total_tokens += tokens;
        self.prompt_tokens_details.cached_tokens += cached_tokens;
    }

    /// Counts generated tokens.
    pub fn completion(&mut self, tokens: usize) {
        self.completion_tokens += tokens;
        self.total_tokens += tokens;
    }
}

/// All that a generation told.
#[derive(Debug)]
pub struct Gathered {
    pub prompt: PromptOutput,
    pub tokens: Vec<TokenOutput>,
    pub reason: FinishReason,
}

impl Gathered {
    /// What `best_of` ranks by, in nats; of nothing, the best.
    pub fn mean_logprob(&self) -> f64 {
        let logprobs = self
            .tokens
            .iter()
            .filter_map(|token| token.details.logprob.as_ref());
        let sum: f64 = logprobs.map(|score| f64::from(score.logprob)).sum();
        if self.tokens.is_empty() {
            0.0
        } else {
            sum / self.tokens.len() as f64
        }
    }

    /// The text of its tokens.
    pub fn text(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| token.text.as_str())
    }
}

/// Waits for a generation to end.
pub async fn gather(mut generation: Generation) -> Result<Gathered, ApiError> {
    let mut gathered = Gathered {
        prompt: PromptOutput {
            cached_tokens: 0,
            logprobs: Vec::new(),
            rows: Vec::new(),
        },
        tokens: Vec::new(),
        reason: FinishReason::Stop,
    };
    while let Some(delta) = generation.next().await {
        match delta {
            Delta::Prompt(output) => gathered.prompt = output,
            Delta::Token(output) => gathered.tokens.push(output),
            Delta::Finished(reason) => {
                gathered.reason = reason;
                return Ok(gathered);
            }
            Delta::Failed(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Decode.into())
}

/// JSON has no infinity. No finite logit of a model comes near this.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob
    } else {
        -9999.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_are_written_as_numbers() {
        assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
        assert_eq!(finite(-3.5), -3.5);
    }
}
