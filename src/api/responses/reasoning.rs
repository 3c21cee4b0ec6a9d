//! The field `reasoning`: how much a model reasons.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::chat::EFFORTS;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::nested::Nested;

const NAME: &str = "reasoning";
const SUMMARIES: [&str; 3] = ["auto", "concise", "detailed"];

/// What the request says about reasoning.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ReasoningOptions)]
pub struct Reasoning {
    /// As in the request.
    pub effort: Option<&'static str>,
    /// As in the request. There are no summaries: an item of reasoning has all of its text.
    pub summary: Option<String>,
}

pub fn read(fields: &mut Fields) -> Result<Reasoning, ApiError> {
    let value = fields
        .field(
            NAME,
            "`effort` (none, minimal, low, medium, high, xhigh or max): how much the model reasons, as `reasoning_effort` of \
             chat completions. `summary` changes nothing: an answer has all of its reasoning.",
        )
        .value(|| {
            json!({"type": "object", "properties": {
                "effort": {"enum": EFFORTS}, "summary": {"enum": SUMMARIES}}})
        });
    let Some(value) = value else {
        return Ok(Reasoning::default());
    };
    let mut value = Nested::within(NAME, NAME, "an object", value)?;
    let effort = value.word("effort", &EFFORTS)?;
    let effort = effort.and_then(|word| EFFORTS.into_iter().find(|effort| word == *effort));
    let summary = value.word("summary", &SUMMARIES)?;
    // The older name.
    let older = value.word("generate_summary", &SUMMARIES)?;
    value.end(fields);
    Ok(Reasoning {
        effort,
        summary: summary.or(older),
    })
}
