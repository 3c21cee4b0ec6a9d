//! A response: the answer of `POST /v1/responses`, complete or so far.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::reasoning::Reasoning;
use crate::api::answer::{Head, Usage, unix_seconds};
use crate::api::chat::TokenEntry;
use crate::api::error::ApiError;
use crate::api::ids::response_id;
use crate::api::receipt::Receipt;
use crate::engine::FinishReason;

/// An answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Response {
    /// Unique.
    pub id: String,
    /// Always "response".
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970; null unless `status` is "completed".
    pub completed_at: Option<u64>,
    /// "completed", "incomplete" or "failed", and in a stream first "in_progress".
    pub status: &'static str,
    /// Why a stream failed.
    pub error: Option<Failure>,
    pub incomplete_details: Option<IncompleteDetails>,
    /// The name that the client used.
    pub model: String,
    /// What computed the answer: the model, llama.cpp's version, the engine's mode, the bits class, and the adapters that
    /// apply.
    pub system_fingerprint: String,
    pub output: Vec<Item>,
    /// Null until the end of a stream.
    pub usage: Option<ResponseUsage>,
    #[serde(flatten)]
    pub repeated: Repeated,
    /// Always false.
    pub background: bool,
    /// Always null.
    pub previous_response_id: Option<String>,
    /// Always false: responses are not stored.
    pub store: bool,
    /// Always "disabled".
    pub truncation: &'static str,
    /// With `receipt: true`: all that is needed to run the request again and to compare the answers bit by bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// What a response repeats of its request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RepeatedFields)]
pub struct Repeated {
    /// As in the request.
    pub instructions: Option<String>,
    /// As in the request.
    pub max_output_tokens: Option<usize>,
    /// As in the request.
    pub max_tool_calls: Option<usize>,
    /// As in the request.
    pub metadata: Value,
    /// As in the request, or its default.
    pub parallel_tool_calls: bool,
    pub reasoning: Reasoning,
    /// As in the request, or the server's setting.
    #[schema(value_type = f32)]
    pub temperature: Value,
    /// As in the request, with the default `format`.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As in the request, or its default.
    pub tool_choice: Value,
    /// As in the request.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As in the request, or its default.
    pub top_logprobs: usize,
    /// As in the request, or the server's setting.
    #[schema(value_type = f32)]
    pub top_p: Value,
    /// As in the request.
    pub user: Option<String>,
}

/// Why a response failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseFailure)]
pub struct Failure {
    /// "server_error", or "invalid_prompt" if the request was at fault.
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// "max_output_tokens": that many tokens were generated, or the context is full.
    pub reason: &'static str,
}

/// A part of the output, in the order in which the model wrote them.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ResponseItem)]
pub struct Item {
    /// "reasoning", "message" or "function_call".
    pub r#type: &'static str,
    /// Unique.
    pub id: String,
    /// "completed", "incomplete" if the response ended within it, and in a stream first "in_progress".
    pub status: &'static str,
    /// Of a message: "assistant".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Of reasoning: always empty, since all of it is in `content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Vec<String>>,
    /// Of a message or reasoning: one part with its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Vec<Content>>,
    /// Of reasoning, if `include` asks for it: its text in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_content: Option<String>,
    /// Of a call: the `call_id` for its function_call_output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Of a call: the function's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a call: JSON, as the model wrote it, or made from the form in which it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// The text of an item.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseContent)]
pub struct Content {
    /// "output_text" or "reasoning_text".
    pub r#type: &'static str,
    pub text: String,
    /// Of a message: always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Vec<String>>,
    /// Of a message: one entry for each of its tokens, if they are asked for; else empty.
    #[schema(value_type = Option<Vec<TokenEntry>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
}

/// Entries of tokens, which several events of a stream share.
#[derive(Debug, Clone, Default)]
pub struct Logprobs(Arc<Vec<TokenEntry>>);

/// Tokens used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: usize,
    pub input_tokens_details: InputTokensDetails,
    /// Generated tokens, those of reasoning and calls included.
    pub output_tokens: usize,
    pub output_tokens_details: OutputTokensDetails,
    /// The sum of both.
    pub total_tokens: usize,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InputTokensDetails {
    /// Prompt tokens served from the cache.
    pub cached_tokens: usize,
    /// Always 0: not counted.
    pub cache_write_tokens: usize,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Generated tokens of reasoning, with its markers.
    pub reasoning_tokens: usize,
}

impl Serialize for Logprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl From<Vec<TokenEntry>> for Logprobs {
    fn from(entries: Vec<TokenEntry>) -> Self {
        Self(Arc::new(entries))
    }
}

impl Logprobs {
    /// Moves entries to the end of these.
    pub fn append(&mut self, mut entries: Vec<TokenEntry>) {
        Arc::make_mut(&mut self.0).append(&mut entries);
    }
}

impl Response {
    /// One that has just begun.
    pub fn new(head: &Head, repeated: Repeated) -> Self {
        Self {
            id: response_id("resp"),
            object: "response",
            created_at: head.created,
            completed_at: None,
            status: "in_progress",
            error: None,
            incomplete_details: None,
            model: head.model.clone(),
            system_fingerprint: head.system_fingerprint.clone(),
            output: Vec::new(),
            usage: None,
            repeated,
            background: false,
            previous_response_id: None,
            store: false,
            truncation: "disabled",
            receipt: None,
        }
    }

    /// It ends with this output.
    pub fn end(&mut self, reason: FinishReason, output: Vec<Item>, usage: &Usage) {
        match reason {
            FinishReason::Stop => {
                self.status = "completed";
                self.completed_at = Some(unix_seconds());
            }
            FinishReason::Length => {
                self.status = "incomplete";
                self.incomplete_details = Some(IncompleteDetails {
                    reason: "max_output_tokens",
                });
            }
        }
        self.output = output;
        self.usage = Some(usage.into());
    }

    /// It fails after this output.
    pub fn fail(&mut self, error: &ApiError, output: Vec<Item>) {
        self.status = "failed";
        self.output = output;
        self.error = Some(Failure {
            code: if error.status.is_client_error() {
                "invalid_prompt"
            } else {
                "server_error"
            },
            message: error.message.clone(),
        });
    }
}

impl From<&Usage> for ResponseUsage {
    fn from(usage: &Usage) -> Self {
        let details = usage.completion_tokens_details.as_ref();
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: details.map_or(0, |details| details.reasoning_tokens),
            },
            total_tokens: usage.total_tokens,
        }
    }
}

pub const MESSAGE: &str = "message";
pub const REASONING: &str = "reasoning";
pub const CALL: &str = "function_call";

impl Item {
    fn new(r#type: &'static str, id: &str) -> Self {
        Self {
            r#type,
            id: response_id(id),
            status: "in_progress",
            ..Self::default()
        }
    }

    pub fn message() -> Self {
        Self {
            role: Some("assistant"),
            content: Some(Vec::new()),
            ..Self::new(MESSAGE, "msg")
        }
    }

    pub fn reasoning() -> Self {
        Self {
            summary: Some(Vec::new()),
            content: Some(Vec::new()),
            ..Self::new(REASONING, "rs")
        }
    }

    pub fn call(name: String, call_id: Option<String>) -> Self {
        Self {
            call_id: Some(call_id.unwrap_or_else(|| response_id("call"))),
            name: Some(name),
            arguments: Some(String::new()),
            ..Self::new(CALL, "fc")
        }
    }
}

impl Item {
    /// The text that it has, unless it is a call.
    pub fn part(&self) -> Option<&Content> {
        self.content.as_ref()?.first()
    }

    /// The same, to write it.
    pub fn part_mut(&mut self) -> Option<&mut Content> {
        self.content.as_mut()?.first_mut()
    }
}

impl Content {
    /// The empty text of a message.
    pub fn message() -> Self {
        Self {
            r#type: "output_text",
            text: String::new(),
            annotations: Some(Vec::new()),
            logprobs: Some(Logprobs::default()),
        }
    }

    /// The same of reasoning.
    pub fn reasoning() -> Self {
        Self {
            r#type: "reasoning_text",
            text: String::new(),
            annotations: None,
            logprobs: None,
        }
    }
}
