//! The body of `POST /v1/completions`, read and checked: with `api::generate`, everything of the contract's first table.

use super::fork::Fork;
use super::output_options;
use super::scored_from::ScoredFrom;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::generate::Generate;
use crate::api::input::{self, Input, Tokenising};
use crate::api::served::{Served, model_field};
use crate::api::token_options::OutputOptions;
use crate::config::Limits;
use crate::model::Added;
use crate::sampling::Mode;

/// A request as its sender wrote it, checked.
#[derive(Debug)]
pub struct CompletionRequest {
    /// Empty with a `fork`.
    pub prompts: Vec<Input>,
    pub fork: Option<Fork>,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
    pub options: OutputOptions,
    pub echo: bool,
    /// Whether the prompt is evaluated, for the cache, even if nothing is generated or scored.
    pub evaluates: bool,
    /// With `echo` and logprobs only.
    pub scored_from: Option<ScoredFrom>,
    pub best_of: usize,
    pub suffix: Option<String>,
    pub tokenising: Tokenising,
    pub generate: Generate,
}

impl CompletionRequest {
    /// Reads the fields. The documentation of the route is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let limits = &served.config.limits;
        model_field(fields)?;
        let fork = Fork::read(fields, served.model.vocab().len())?;
        let mut prompts = prompts(fields, served)?;
        if fork.is_some() {
            prompts.clear();
        }
        let max_tokens = max_tokens(fields, served)?;
        let mut options = output_options::read(fields, served)?;
        let generate = Generate::parse(fields, served)?;
        options.shows_control = generate.shows_control;
        let best_of = best_of(fields, &generate, limits)?;
        let adds_special = fields
            .field(
                "add_special_tokens",
                "Whether a text gets the special tokens that the model expects before it, such as BOS.",
            )
            .boolean(true)?;
        let tokenising = Tokenising {
            added: if adds_special {
                Added::Both
            } else {
                Added::Nothing
            },
            keeps: input::keeps(fields, max_tokens, served)?,
        };
        let request = Self {
            tokenising,
            prompts,
            fork,
            max_tokens,
            options,
            echo: fields
                .field(
                    "echo",
                    "Whether the answer starts with the prompt; with `logprobs` it is scored, too.",
                )
                .boolean(false)?,
            evaluates: false,
            scored_from: ScoredFrom::read(fields, served)?,
            best_of,
            suffix: fields
                .field(
                    "suffix",
                    "The text after the gap to fill in, for models with fill-in-the-middle tokens. Without these an empty one is none.",
                )
                .string()?
                .filter(|suffix| !suffix.is_empty() || served.model.vocab().fim().is_some()),
            generate,
        };
        request.check(limits)?;
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(request)
    }

    /// Rejects combinations of fields that do not go together.
    pub fn check(&self, limits: &Limits) -> Result<(), ApiError> {
        self.options.check(self.generate.stream, self.echo)?;
        let best_of = self.best_of;
        let most = limits.prompts.max(limits.n);
        if self.prompts.len() * best_of > most {
            let name = if best_of > self.generate.n {
                "best_of"
            } else {
                "n"
            };
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}` is {best_of}; for {} prompts that makes more than the {most} sequences that one request may \
                     have.",
                    self.prompts.len(),
                ),
            ));
        }
        if let Some(scored_from) = &self.scored_from {
            if !self.echo || self.options.logprobs.is_none() {
                return Err(ApiError::field(
                    "scored_from",
                    "`scored_from` needs `echo` and `logprobs`: without them no token of the prompt is scored.",
                ));
            }
            scored_from.check(self.prompts.len())?;
        }
        if self.suffix.is_some() && self.echo && self.options.logprobs.is_some() {
            return Err(ApiError::field(
                "suffix",
                "`suffix` together with `echo` and `logprobs` is not supported.",
            ));
        }
        if let Some(&mode) = self.options.watch.modes.first()
            && mode != Mode::Raw
            && self.echo
        {
            return Err(ApiError::field(
                "logprobs_mode",
                format!(
                    "With `echo` the first of `logprobs_mode` must be `raw`, not `{0}`, because the prompt's tokens are not \
                     sampled. [\"raw\", \"{0}\"] gives both.",
                    mode.as_str()
                ),
            ));
        }
        if self.suffix.is_some() && self.tokenising.keeps.is_some() {
            return Err(ApiError::field(
                "truncate_prompt_tokens",
                "`truncate_prompt_tokens` with `suffix` is not supported.",
            ));
        }
        Ok(())
    }
}

fn prompts(fields: &mut Fields, served: &Served) -> Result<Vec<Input>, ApiError> {
    let value = fields
        .field(
            "prompt",
            "The text to continue, or several, as strings or token ids. A string gets the special tokens that the model \
             expects before it, and control tokens in it are recognized; ids are used as they are.",
        )
        .value(|| {
            let mut schema = input::schema();
            schema["default"] = "".into();
            schema
        });
    match value {
        None => Ok(vec![Input::Text(String::new())]),
        Some(value) => {
            let (most, vocabulary) = (served.config.limits.prompts, served.model.vocab().len());
            input::read(value, "prompt", most, vocabulary)
        }
    }
}

fn max_tokens(fields: &mut Fields, served: &Served) -> Result<Option<usize>, ApiError> {
    let field = fields.field(
        "max_tokens",
        "Maximum number of tokens to generate. 0: none, the prompt is only scored. null or -1: until the context is full.",
    );
    // null means until the context is full, and only an absent field the default.
    let given = field.given;
    let default = (!given).then_some(served.config.sampling.max_tokens);
    Ok(field.limit()?.or(default))
}

fn best_of(fields: &mut Fields, generate: &Generate, limits: &Limits) -> Result<usize, ApiError> {
    let n = generate.n;
    let best_of = fields
        .field(
            "best_of",
            "Generates this many choices and returns the `n` with the highest mean log-probability.",
        )
        .count(1..=limits.n)?
        .unwrap_or(n);
    if best_of < n {
        return Err(ApiError::field(
            "best_of",
            format!("`best_of` must not be smaller than `n`, but it is {best_of} and `n` is {n}."),
        ));
    }
    if generate.stream && best_of > n {
        return Err(ApiError::field(
            "best_of",
            "`best_of` above `n` cannot be streamed: which choices are best is known only at the end.",
        ));
    }
    Ok(best_of)
}
