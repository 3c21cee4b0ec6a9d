//! Bounds of a request: the size of its answer, and its tokens in the context.

use super::error::ApiError;
use super::served::Served;

/// Maximum number of entries that an answer can have: its tokens, each with its alternatives. Grows with each prompt of a
/// request.
#[derive(Debug, Default)]
pub struct Entries(pub usize);

impl Entries {
    /// Larger answers take milliseconds to serialize.
    const WRITTEN_AT_ONCE: usize = 50_000;

    /// Adds `tokens` with this many `alternatives` each; 400 if that makes too many.
    pub fn add(
        &mut self,
        tokens: usize,
        alternatives: usize,
        served: &Served,
    ) -> Result<(), ApiError> {
        let most = served.config.limits.answer_entries;
        self.0 = (alternatives + 1)
            .checked_mul(tokens)
            .and_then(|entries| self.0.checked_add(entries))
            .unwrap_or(usize::MAX);
        if self.0 > most {
            return Err(ApiError::body(format!(
                "The answer could have more than {most} entries: echoed and generated tokens times `logprobs` + 1, over all \
                 choices; a stream of POST /v1/responses has each five times. Ask for fewer prompts, choices, tokens or alternatives.",
            ))
            .code("answer_too_large"));
        }
        Ok(())
    }

    /// Whether the answer is quick to serialize.
    pub fn are_few(&self) -> bool {
        self.0 <= Self::WRITTEN_AT_ONCE
    }
}

/// How many tokens a prompt is to leave room for in the context.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The field with the prompt.
    pub param: &'static str,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
}

impl Room {
    /// Tokens that may follow a prompt of `length`. As in the reference, a prompt must leave room for one token, and
    /// generation ends when the context is full; a prompt that is only scored may fill the context.
    pub fn after(self, length: usize, served: &Served) -> Result<usize, ApiError> {
        let most = served.config.limits.prompt_tokens;
        if most > 0 && length > most {
            return Err(ApiError::field(
                self.param,
                format!(
                    "This server accepts prompts of at most {most} tokens, but yours has {length}."
                ),
            )
            .code("context_length_exceeded"));
        }
        self.after_fork(length, served)
    }

    /// Like [`Room::after`], for the tokens of an earlier answer: `limits.prompt_tokens` does not apply to them.
    pub fn after_fork(self, length: usize, served: &Served) -> Result<usize, ApiError> {
        let context_length = served.engine.context_length();
        let fits = if self.max_tokens == Some(0) {
            length <= context_length
        } else {
            length < context_length
        };
        if !fits {
            return Err(self.too_long(&length.to_string(), served));
        }
        Ok(self
            .max_tokens
            .unwrap_or(usize::MAX)
            .min(context_length - length))
    }

    /// Rejects a prompt that cannot fit, before it is tokenized or rendered. `tokens` is its length if `exact`, else a
    /// lower bound of it.
    pub fn check_length(self, tokens: usize, exact: bool, served: &Served) -> Result<(), ApiError> {
        if tokens <= served.engine.context_length() {
            return Ok(());
        }
        let least = if exact { "" } else { "at least " };
        Err(self.too_long(&format!("{least}{tokens}"), served))
    }

    /// 400; `tokens` is how many the prompt has.
    fn too_long(self, tokens: &str, served: &Served) -> ApiError {
        ApiError::field(
            self.param,
            format!(
                // Clients recognize this error by its first words, or by "prompt is too long".
                "This model's maximum context length is {} tokens. However, your prompt is too long: it has {tokens} \
                 tokens{}. Please shorten it.",
                served.engine.context_length(),
                if self.max_tokens == Some(0) { "" } else { ", and generation needs room for at least one more" }
            ),
        )
        .code("context_length_exceeded")
    }
}
