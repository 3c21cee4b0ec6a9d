//! The body of `POST /v1/completions`, read and checked: with `api::generate`, everything of the contract's first table.

use super::fork::Fork;
use super::telling::Telling;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::generate::Generate;
use crate::api::input::{self, Input, Tokenising};
use crate::api::models::Served;
use crate::model::Model;
use crate::sampling::Mode;

/// What a client asks for.
#[derive(Debug)]
pub struct CompletionRequest {
    /// None with a `fork`.
    pub prompts: Vec<Input>,
    pub fork: Option<Fork>,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
    pub telling: Telling,
    pub echo: bool,
    pub best_of: usize,
    pub suffix: Option<String>,
    pub tokenising: Tokenising,
    pub generate: Generate,
}

impl CompletionRequest {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let (limits, defaults) = (&served.config.limits, &served.config.sampling);
        let fork = Fork::read(fields, served.model.vocab().len())?;
        let mut prompts = prompts(fields, limits.prompts, &served.model)?;
        if fork.is_some() {
            prompts.clear();
        }
        let max_tokens = fields.field(
            "max_tokens",
            "Tokens to generate at most. 0: none, the prompt is only scored. null: until the context is full.",
        );
        // Whether it was given at all decides between the default and "until the context is full".
        let max_tokens_given = max_tokens.given;
        let max_tokens = match max_tokens.count(0..=u32::MAX as usize)? {
            Some(count) => Some(count),
            None => (!max_tokens_given).then_some(defaults.max_tokens),
        };
        let telling = Telling::parse(fields, served)?;
        let generate = Generate::parse(fields, served)?;
        let n = generate.n;
        let best_of = fields
            .field(
                "best_of",
                "Generates so many choices, and gives the `n` of the highest mean log-probability.",
            )
            .count(1..=limits.n)?
            .unwrap_or(n);
        if best_of < n {
            return Err(ApiError::field(
                "best_of",
                format!(
                    "`best_of` must not be smaller than `n`, but it is {best_of} and `n` is {n}."
                ),
            ));
        }
        if generate.stream && best_of > n {
            return Err(ApiError::field(
                "best_of",
                "`best_of` above `n` cannot be streamed: which choices are best is known at the end only.",
            ));
        }
        let tokenising = Tokenising {
            adds_special: fields
                .field(
                    "add_special_tokens",
                    "Whether a text gets the tokens that the model wants before it, as its BOS.",
                )
                .boolean(true)?,
            keeps: input::keeps(fields, max_tokens, served)?,
        };
        let request = Self {
            tokenising,
            prompts,
            fork,
            max_tokens,
            telling,
            echo: fields
                .field(
                    "echo",
                    "The prompt comes back before the text, with `logprobs` scored as well.",
                )
                .boolean(false)?,
            best_of,
            suffix: fields
                .field(
                    "suffix",
                    "What follows the text that is to be filled in, on models that have the tokens for that.",
                )
                .string()?,
            generate,
        };
        if request.prompts.len() * best_of > limits.prompts.max(limits.n) {
            let name = if best_of > n { "best_of" } else { "n" };
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}` is {best_of}, and for each of {} prompts that makes more sequences than the {} that one \
                     request may have.",
                    request.prompts.len(),
                    limits.prompts.max(limits.n)
                ),
            ));
        }
        let logprobs = request.telling.tell.is_some();
        if request.suffix.is_some() && request.echo && logprobs {
            return Err(ApiError::field(
                "suffix",
                "`suffix` with `echo` and `logprobs` together is not supported.",
            ));
        }
        if let Some(&mode) = request.telling.watch.modes.first()
            && mode != Mode::Raw
            && request.echo
        {
            return Err(ApiError::field(
                "logprobs_mode",
                format!(
                    "With `echo` the first of `logprobs_mode` must be `raw`, not `{0}`: nothing draws the prompt's tokens. \
                     [\"raw\", \"{0}\"] tells both side by side.",
                    mode.as_str()
                ),
            ));
        }
        if request.suffix.is_some() && tokenising.keeps.is_some() {
            return Err(ApiError::field(
                "truncate_prompt_tokens",
                "`truncate_prompt_tokens` with `suffix` is not supported.",
            ));
        }
        Ok(request)
    }
}

fn prompts(fields: &mut Fields, most: usize, model: &Model) -> Result<Vec<Input>, ApiError> {
    let value = fields
        .field("prompt", "The text to go on from, or several, as texts or as token ids. A text gets what the model wants \
                          before it, and its control tokens are read; ids are taken as they are.")
        .value(|| {
            let mut schema = input::schema();
            schema["default"] = "".into();
            schema
        });
    match value {
        None => Ok(vec![Input::Text(String::new())]),
        Some(value) => input::read(value, "prompt", most, model.vocab().len()),
    }
}
