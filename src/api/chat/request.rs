//! The body of `POST /v1/chat/completions`, read and checked. `api::generate` reads the fields of generation.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::tool_choice::{ChoiceForm, ToolChoice};
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::generate::Generate;
use crate::api::input;
use crate::api::served::{Served, model_field};
use crate::api::token_options::OutputOptions;
use crate::config::ReasoningFormat;

/// A request as its sender wrote it, checked.
#[derive(Debug)]
pub struct ChatRequest {
    pub conversation: Conversation,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// How many of the last tokens of a longer prompt are kept.
    pub keeps: Option<usize>,
    /// What the answer has of each token besides its text.
    pub options: OutputOptions,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: bool,
    /// Whether reasoning is shown apart from content.
    pub splits_reasoning: bool,
    pub generate: Generate,
}

impl ChatRequest {
    /// Reads the fields. The documentation of the route is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let limits = &served.config.limits;
        model_field(fields)?;
        let mut conversation = Conversation::parse(fields)?;
        conversation.adds_special = fields
            .field(
                "add_special_tokens",
                "Whether the prompt gets the special tokens that the model expects before it, such as BOS, if the template \
                 does not write them.",
            )
            .boolean(true)?;
        let max_completion_tokens = fields
            .field(
                "max_completion_tokens",
                "Maximum number of tokens to generate. Absent or -1: until the context is full.",
            )
            .limit()?;
        let max_tokens = fields
            .field("max_tokens", "The older name of `max_completion_tokens`.")
            .limit()?;
        let max_tokens = match (max_completion_tokens, max_tokens) {
            (Some(one), Some(other)) if one != other => {
                return Err(ApiError::field(
                    "max_tokens",
                    format!(
                        "`max_tokens` and `max_completion_tokens` must be equal, but they are {other} and {one}."
                    ),
                ));
            }
            (one, other) => one.or(other),
        };
        let logprobs = fields
            .field(
                "logprobs",
                "Whether the answer has the log-probabilities of the generated tokens.",
            )
            .boolean(false)?;
        let top_logprobs = fields
            .field(
                "top_logprobs",
                "With `logprobs`: how many of the most likely tokens to return at each position.",
            )
            .count(0..=limits.logprobs)?;
        if top_logprobs.is_some_and(|count| count > 0) && !logprobs {
            return Err(ApiError::field(
                "top_logprobs",
                "`top_logprobs` needs `logprobs: true`.",
            ));
        }
        let top = logprobs.then_some(top_logprobs.unwrap_or(0));
        let options = OutputOptions::of_tokens(fields, served, top, "`logprobs: true`")?;
        let (tool_choice, _) =
            ToolChoice::read(fields, &conversation.tools, &ChoiceForm::OF_CHATS)?;
        let generate = Generate::parse(fields, served)?;
        options.check(generate.stream, false)?;
        let request = Self {
            conversation,
            max_tokens,
            keeps: input::keeps(fields, max_tokens, served)?,
            options: OutputOptions {
                shows_control: generate.shows_control,
                ..options
            },
            tool_choice,
            parallel_tool_calls: fields
                .field(
                    "parallel_tool_calls",
                    "Whether an answer may call several tools. If not, what follows the first call is text.",
                )
                .boolean(true)?,
            splits_reasoning: splits_reasoning(fields, served)?,
            generate,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(request)
    }
}

/// Whether reasoning is shown apart from content.
pub fn splits_reasoning(fields: &mut Fields, served: &Served) -> Result<bool, ApiError> {
    const NAME: &str = "reasoning_format";
    const SEPARATE: &str = "separate_reasoning";
    const ALLOWED: &str = "\"auto\", \"deepseek\" or \"none\"";
    let value = fields
        .field(
            NAME,
            "Where a model's reasoning goes: \"auto\" and \"deepseek\": apart from the text (chats: into \
             `reasoning_content`; responses: into an item); \"none\": it stays in the text, with its markers. Default: the \
             setting `model.reasoning_format`.",
        )
        .value(|| json!({"type": "string", "enum": ["auto", "deepseek", "none"]}));
    let read = |value: Value| {
        serde_json::from_value(value.clone()).map_err(|_| wrong(NAME, ALLOWED, &value))
    };
    let format: Option<ReasoningFormat> = value.map(read).transpose()?;
    let splits = format.map(|format| format != ReasoningFormat::None);
    let separate = fields
        .field(
            SEPARATE,
            "SGLang's name for it: true is \"auto\", false is \"none\".",
        )
        .flag(true)?;
    match (splits, separate) {
        (Some(splits), Some(separate)) if splits != separate => Err(ApiError::field(
            SEPARATE,
            format!(
                "`{SEPARATE}` is {separate}, which contradicts `{NAME}`. Send only one of the two."
            ),
        )),
        (one, other) => Ok(one
            .or(other)
            .unwrap_or(served.config.model.reasoning_format != ReasoningFormat::None)),
    }
}
