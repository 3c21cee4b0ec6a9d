//! The body of `POST /v1/perplexity`, read and checked.

use super::windows::Cut;
use crate::api::adapters;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::input::{self, Input};
use crate::api::served::{Served, model_field};
use crate::model::Adapters;

/// A request as its sender wrote it, checked.
pub struct PerplexityRequest {
    pub texts: Vec<Input>,
    pub cut: Cut,
    pub adds_special: bool,
    pub parses_special: bool,
    pub adapters: Adapters,
}

impl PerplexityRequest {
    /// Reads the fields. The documentation of the route is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        model_field(fields)?;
        let request = Self {
            texts: texts(fields, served)?,
            cut: cut(fields, served)?,
            adds_special: fields
                .field(
                    "add_special_tokens",
                    "Whether a text gets the special tokens that the model expects before it. If the model expects BOS and \
                     the tokens begin with it, each window does: BOS replaces the window's first token.",
                )
                .boolean(true)?,
            parses_special: fields
                .field(
                    "parse_special",
                    "Whether texts such as `<|im_start|>` become control tokens.",
                )
                .boolean(true)?,
            adapters: adapters::read(fields, served)?,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(request)
    }
}

fn texts(fields: &mut Fields, served: &Served) -> Result<Vec<Input>, ApiError> {
    let text = fields
        .field(
            "text",
            "The text, or several, as strings or as token ids. A string gets the special tokens that the model expects before \
             it; ids are used as they are.",
        )
        .required()
        .value(input::schema)
        .ok_or_else(|| {
            let message = format!("`text` is missing: it must be {}.", input::SHAPES);
            ApiError::field("text", message)
        })?;
    let (most, vocabulary) = (served.config.limits.prompts, served.model.vocab().len());
    input::read(text, "text", most, vocabulary)
}

fn cut(fields: &mut Fields, served: &Served) -> Result<Cut, ApiError> {
    /// As in llama-perplexity.
    const WINDOW: usize = 512;
    let context_length = served.engine.context_length();
    let most = match served.config.limits.prompt_tokens {
        0 => context_length,
        most => most.min(context_length),
    };
    // A window of one token scores nothing. If prompts have at most one token, that is rejected later.
    let most = most.max(2);
    let window = fields
        .field(
            "window",
            "Tokens that the model sees at once: the text is cut into windows of this length.",
        )
        .count_or(2..=most, most.min(WINDOW))?;
    let stride = fields
        .field(
            "stride",
            "Tokens from the start of a window to the start of the next, at most `window`. A smaller stride gives each token \
             more context, and takes longer. Default: half the window.",
        )
        .count(1..=most)?
        .unwrap_or(window / 2);
    let min_context = fields
        .field(
            "min_context",
            "A token is scored in the first window in which at least this many tokens precede it; less than `window`. Tokens \
             without such a window are not scored.",
        )
        .count_or(1..=most - 1, 1)?;
    for (name, number, largest) in [
        ("stride", stride, window),
        ("min_context", min_context, window - 1),
    ] {
        if number > largest {
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}` must not be larger than {largest} if `window` is {window}, but it is {number}."
                ),
            ));
        }
    }
    let partial = fields
        .field(
            "partial",
            "Whether the last window counts if the text ends within it.",
        )
        .boolean(true)?;
    Ok(Cut {
        window,
        stride,
        min_context,
        partial,
    })
}
