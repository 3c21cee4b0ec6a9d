//! The body of `POST /v1/responses`, read and checked: a chat under other names. `api::generate` reads the fields of
//! generation.

use serde_json::{Value, json};

use super::answer::Repeated;
use super::include;
use super::input;
use super::reasoning;
use super::stored;
use super::text;
use super::tools::{self, Tools};
use crate::api::chat::{
    ChatRequest, ChoiceForm, Conversation, Names, ToolChoice, splits_reasoning,
};
use crate::api::error::ApiError;
use crate::api::fields::{Fields, short, wrong};
use crate::api::generate::Generate;
use crate::api::input::keeps;
use crate::api::served::{Served, model_field};
use crate::api::token_options::OutputOptions;
use crate::logprobs::LogprobSpec;

const NAMES: Names = Names {
    messages: "input",
    function: "",
    effort: "reasoning.effort",
};

/// About fields that the answer only repeats.
const ECHOED: &str = "Comes back as it was sent, and changes nothing else.";

/// A request as its sender wrote it, checked.
pub struct ResponsesRequest {
    pub chat: ChatRequest,
    /// What the answer repeats of it.
    pub repeated: Repeated,
    /// Whether reasoning also comes as `encrypted_content`.
    pub encodes_reasoning: bool,
}

impl ResponsesRequest {
    /// Reads the fields. The documentation of the route is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let limits = &served.config.limits;
        model_field(fields)?;
        let instructions = fields
            .field(
                "instructions",
                "A system message that comes before `input`.",
            )
            .string()?;
        let mut messages: Vec<Value> = Vec::new();
        if let Some(text) = &instructions {
            messages.push(json!({"role": "system", "content": text}));
        }
        messages.extend(input::read(fields)?);
        let Tools { sent, functions } = tools::read(fields, NAMES.function)?;
        let (tool_choice, sent_choice) =
            ToolChoice::read(fields, &functions, &ChoiceForm::OF_RESPONSES)?;
        let mut conversation = Conversation::with(NAMES, messages, functions, fields)?;
        let max_output_tokens = fields
            .field(
                "max_output_tokens",
                "Maximum number of tokens to generate, those of reasoning included. Absent or -1: until the context is full.",
            )
            .limit()?;
        let text = text::read(fields)?;
        let reasoning = reasoning::read(fields)?;
        conversation.effort = reasoning.effort;
        let included = include::read(fields)?;
        let top_logprobs = fields
            .field(
                "top_logprobs",
                "How many of the most likely tokens to return for each token of a message; more than 0 includes \
                 log-probabilities, as `include` does.",
            )
            .count_or(0..=limits.logprobs, 0)?;
        let parallel_tool_calls = fields
            .field(
                "parallel_tool_calls",
                "Whether an answer may call several functions. If not, what follows the first call is text.",
            )
            .boolean(true)?;
        let max_tool_calls = fields
            .field(
                "max_tool_calls",
                "Maximum number of calls that the server executes. It executes none, so this changes nothing.",
            )
            .count(0..=u32::MAX as usize)?;
        stored::read(fields)?;
        let splits_reasoning = splits_reasoning(fields, served)?;
        let keeps = keeps(fields, max_output_tokens, served)?;
        let mut generate = Generate::parse(fields, served)?;
        if generate.n != 1 {
            return Err(ApiError::field(
                "n",
                format!(
                    "`n` must be 1 on this route, but it is {}: a response is one answer. POST /v1/chat/completions gives \
                     several.",
                    generate.n
                ),
            ));
        }
        if generate.stream_usage.in_each {
            return Err(ApiError::field(
                "stream_options.continuous_usage_stats",
                "`stream_options.continuous_usage_stats` must be false on this route: the last event has the usage.",
            ));
        }
        if let Some(format) = text.format {
            generate.follow(format, served)?;
        }
        let values = generate.values();
        let repeated = Repeated {
            instructions,
            max_output_tokens,
            max_tool_calls,
            metadata: metadata(fields)?,
            parallel_tool_calls,
            reasoning,
            temperature: short(values.temperature),
            text: text.sent,
            tool_choice: sent_choice,
            tools: sent,
            top_logprobs,
            top_p: short(values.top_p),
            user: fields.field("user", ECHOED).string()?,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        let logprobs = included.logprobs || top_logprobs > 0;
        let options = OutputOptions {
            logprobs: logprobs.then(|| LogprobSpec::top(top_logprobs)),
            shows_control: generate.shows_control,
            ..OutputOptions::default()
        };
        Ok(Self {
            chat: ChatRequest {
                conversation,
                max_tokens: max_output_tokens,
                keeps,
                options,
                tool_choice,
                parallel_tool_calls,
                splits_reasoning,
                generate,
            },
            repeated,
            encodes_reasoning: included.encrypted_reasoning,
        })
    }
}

fn metadata(fields: &mut Fields) -> Result<Value, ApiError> {
    const NAME: &str = "metadata";
    let value = fields
        .field(NAME, ECHOED)
        .value(|| json!({"type": "object"}));
    match value {
        None => Ok(json!({})),
        Some(value) if value.is_object() => Ok(value),
        Some(other) => Err(wrong(NAME, "an object", &other)),
    }
}
