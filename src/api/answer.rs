//! What answers have in common: their header fields, their choices, and the tokens used.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

use super::ids::new_id;
use super::prompt_logprobs::{PromptLogprob, PromptLogprobs};
use super::receipt::Receipt;
use super::served::Served;
use crate::model::Adapters;

/// The fields that begin an answer, and each event of a streamed one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Head {
    /// Unique.
    pub id: String,
    /// The kind of answer.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client used.
    pub model: String,
    /// What computed the answer: the model, llama.cpp's version, the engine's mode, the bits class, and the adapters that
    /// apply.
    pub system_fingerprint: String,
}

impl Head {
    /// The head of a new answer, with an id that begins with `kind`, of a request with these adapters and this `exact`.
    pub fn new(
        kind: &str,
        object: &'static str,
        served: &Served,
        (adapters, exact): (&Adapters, bool),
    ) -> Self {
        Self {
            id: new_id(kind),
            object,
            created: unix_seconds(),
            model: served.name.clone(),
            system_fingerprint: served.engine.fingerprint(adapters, exact),
        }
    }
}

/// An answer that is not streamed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer<C> {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<C>,
    /// Of chats, with `return_token_ids`: the prompt's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<i32>>,
    /// Of chats, with `prompt_logprobs`: as in a choice of a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
    pub usage: Usage,
    /// With `receipt: true`: all that is needed to run the request again and to compare the answers bit by bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// Tokens used.
#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub struct Usage {
    /// Each prompt counts once, however many choices it has.
    pub prompt_tokens: usize,
    /// Generated tokens of all sequences, including those that `best_of` drops.
    pub completion_tokens: usize,
    /// The sum of both.
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
    /// Of chat completions whose reasoning is shown apart from content.
    #[schema(ignore)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens served from the cache.
    pub cached_tokens: usize,
}

#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Generated tokens of reasoning, with its markers.
    pub reasoning_tokens: usize,
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

    /// Counts generated tokens of reasoning, which are among those that were counted.
    pub fn reasoning(&mut self, tokens: usize) {
        let details = self.completion_tokens_details.get_or_insert_default();
        details.reasoning_tokens += tokens;
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
