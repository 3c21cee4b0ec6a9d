//! What all routes that generate text share: the fields that say how, the limits on the answer, and the sequences they
//! become.

mod bans;
mod options;
mod samplers;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::error::ApiError;
use super::fields::Fields;
use super::lora;
use super::models::Served;
use super::structured::Structured;
use crate::engine::{Request, Rows};
use crate::logprobs::LogprobSpec;
use crate::model::{Adapters, Token};
use crate::params::ParamValues;
use crate::sampling::{SamplingParams, Watch};
pub use bans::ids;

/// How text is to be generated.
#[derive(Debug)]
pub struct Generate {
    /// Choices for each prompt.
    pub n: usize,
    pub stream: bool,
    /// Whether a stream ends with the token usage.
    pub include_usage: bool,
    pub adapters: Adapters,
    /// Whether the bits must not depend on other requests, in throughput mode, too.
    pub exact: bool,
    /// Whether the answer includes a receipt.
    pub receipt: bool,
    stop: Vec<String>,
    /// Whether the text keeps the stop string at which it ended.
    include_stop: bool,
    cache_prompt: bool,
    /// `None`: a random one.
    seed: Option<u32>,
    /// Without seed and constraint, which `sequences` fills in.
    sampling: SamplingParams,
    structured: Option<Structured>,
}

/// A prompt of a request and what to generate from it.
pub struct Wanted {
    pub prompt: Arc<[Token]>,
    /// See [`Request::kept`] and [`Request::given`].
    pub kept: Arc<[Token]>,
    pub given: Option<Token>,
    pub max_tokens: usize,
    /// Of generated tokens.
    pub logprobs: Option<LogprobSpec>,
    /// Of the prompt's.
    pub prompt_logprobs: Option<LogprobSpec>,
    pub rows: Rows,
    pub watch: Watch,
    /// Sequences that continue it.
    pub sequences: usize,
    /// See [`Request::deliver_end_token`].
    pub deliver_end_token: bool,
}

impl Generate {
    pub fn parse(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let n = fields
            .field("n", "Choices for each prompt, which is evaluated once. The choices of a seeded request differ, and \
                         repeat with the seed.")
            .count_or(1..=served.config.limits.n, 1)?;
        let stream = fields
            .field(
                "stream",
                "Sends the answer as server-sent events, token by token.",
            )
            .boolean(false)?;
        let sampling = samplers::read(fields, served)?;
        let sampling = bans::read(fields, served, sampling)?;
        Ok(Self {
            n,
            stream,
            include_usage: options::include_usage(fields, stream)?,
            exact: options::exact(fields, served)?,
            receipt: options::receipt(fields, stream)?,
            adapters: lora::adapters(fields, &served.model)?,
            stop: options::stop(fields, served)?,
            include_stop: fields
                .field("include_stop_str_in_output", "Keeps in the text the stop string, or the text of the token of \
                                                      `stop_token_ids`, that it ended at.")
                .boolean(false)?,
            cache_prompt: fields
                .field("cache_prompt", "Whether cached tokens of the prompt's beginning may be reused. `false`: the whole \
                                        prompt is evaluated.")
                .boolean(true)?,
            seed: options::seed(fields)?,
            sampling,
            structured: Structured::parse(fields, served)?,
        })
    }

    /// What the bits depend on besides model and tokens: the adapters, and whether exactness is requested.
    pub fn manner(&self) -> (&Adapters, bool) {
        (&self.adapters, self.exact)
    }

    /// Makes the text follow this; 400 if the request has a constraint of its own.
    pub fn follow(&mut self, structured: Structured, served: &Served) -> Result<(), ApiError> {
        structured.check_length(served.config.limits.grammar_bytes)?;
        match &self.structured {
            None => self.structured = Some(structured),
            Some(other) => return Err(other.excludes(&structured)),
        }
        Ok(())
    }

    /// The sequences that continue these prompts, those of one prompt next to each other. Takes milliseconds if there is a
    /// constraint, which is checked here.
    pub fn sequences(
        &mut self,
        prompts: Vec<Wanted>,
        served: &Served,
    ) -> Result<Vec<Request>, ApiError> {
        let structured = self.structured.take();
        let constraint = structured.map(|structured| structured.constraint(&served.model));
        self.sampling.constraint = constraint.transpose()?;
        // Never 2^32 - 1, which means a random one.
        let seed = *self
            .seed
            .get_or_insert_with(|| (random() % u64::from(u32::MAX)) as u32);
        let stop: Arc<[String]> = std::mem::take(&mut self.stop).into();
        let mut sequences = Vec::new();
        for wanted in prompts {
            for choice in 0..wanted.sequences {
                sequences.push(Request {
                    prompt: Arc::clone(&wanted.prompt),
                    kept: Arc::clone(&wanted.kept),
                    given: wanted.given,
                    adapters: self.adapters.clone(),
                    max_tokens: wanted.max_tokens,
                    logprobs: wanted.logprobs.clone(),
                    prompt_logprobs: wanted.prompt_logprobs.clone(),
                    rows: wanted.rows.clone(),
                    watch: wanted.watch.clone(),
                    sampling: SamplingParams {
                        seed: choice_seed(seed, choice),
                        ..self.sampling.clone()
                    },
                    stop: Arc::clone(&stop),
                    include_stop: self.include_stop,
                    cache_prompt: self.cache_prompt,
                    exact: self.exact,
                    streamed: self.stream,
                    deliver_end_token: wanted.deliver_end_token,
                });
            }
        }
        Ok(sequences)
    }

    /// The request's seed; a random one is chosen by `sequences`.
    pub fn seed(&self) -> Option<u32> {
        self.seed
    }

    /// The sampling parameters, whether the request or the settings gave them.
    pub fn values(&self) -> &ParamValues {
        &self.sampling.values
    }
}

/// What the answer to a request may come to: tokens, each with its alternatives. Grows as its prompts are looked at.
#[derive(Debug, Default)]
pub struct Entries(pub usize);

impl Entries {
    /// Larger answers take milliseconds to write.
    const WRITTEN_AT_ONCE: usize = 50_000;

    /// Counts `tokens` with so many `alternatives` each; 400 if it becomes too many.
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
                "The answer could come to more than {most} entries, which are echoed and generated tokens times `logprobs` + \
                 1, over all choices. Ask for fewer prompts, choices, tokens or alternatives.",
            ))
            .code("answer_too_large"));
        }
        Ok(())
    }

    /// Whether the answer is written in no time.
    pub fn are_few(&self) -> bool {
        self.0 <= Self::WRITTEN_AT_ONCE
    }
}

/// How many tokens are wanted beside those of a prompt.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The field that the prompt came in.
    pub param: &'static str,
    /// `None`: until the context is full.
    pub max_tokens: Option<usize>,
}

impl Room {
    /// Tokens that may follow a prompt of `length`. As in the reference, a prompt must leave room for one, and what does
    /// not fit is not made; a prompt that is only scored may fill the context.
    pub fn after(self, length: usize, served: &Served) -> Result<usize, ApiError> {
        let most = served.config.limits.prompt_tokens;
        if most > 0 && length > most {
            return Err(ApiError::field(
                self.param,
                format!(
                    "This server takes prompts of at most {most} tokens, but yours has {length}."
                ),
            )
            .code("context_length_exceeded"));
        }
        self.behind(length, served)
    }

    /// As [`Room::after`], behind what an earlier answer has, of which no other bound is asked again.
    pub fn behind(self, length: usize, served: &Served) -> Result<usize, ApiError> {
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

    /// Refuses what cannot fit, before it is tokenised or written out. `exact`: it is not that many at least, but so many.
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
                // Clients know by the first words, or by "prompt is too long", that nothing else is wrong.
                "This model's maximum context length is {} tokens. However, your prompt is too long: it has {tokens} \
                 tokens{}. Please shorten it.",
                served.engine.context_length(),
                if self.max_tokens == Some(0) { "" } else { ", and at least one more is to be made" }
            ),
        )
        .code("context_length_exceeded")
    }
}

/// The first choice has the request's own seed, and the others count on from it. After 2^32 - 2 comes 0: llama.cpp takes
/// 2^32 - 1 as a request for a random seed. So all choices of a request differ, whatever its seed is.
fn choice_seed(seed: u32, choice: usize) -> u32 {
    const SEEDS: u64 = u32::MAX as u64;
    ((u64::from(seed) + choice as u64) % SEEDS) as u32
}

/// An answer's name: `kind` and 32 random hexadecimal digits. Whoever knows it may go on from that answer, so nobody shall
/// guess it.
pub fn new_id(kind: &str) -> String {
    let mut bytes = [0; 16];
    let secret = rustls::crypto::ring::default_provider().secure_random;
    if secret.fill(&mut bytes).is_err() {
        tracing::warn!("the system gives no random numbers");
        bytes[..8].copy_from_slice(&random().to_le_bytes());
        bytes[8..].copy_from_slice(&random().to_le_bytes());
    }
    format!("{kind}-{:032x}", u128::from_le_bytes(bytes))
}

/// A random number; not for secrets. The standard library seeds each hasher anew.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_different_seeds_also_at_the_end_of_the_range() {
        let check = |seed: u32, expect: &[u32]| {
            let seeds: Vec<u32> = (0..expect.len())
                .map(|choice| choice_seed(seed, choice))
                .collect();
            assert_eq!(seeds, expect);
        };
        check(0, &[0, 1, 2]);
        check(5, &[5, 6, 7]);
        // What -2, -3 and -4 stand for.
        check(u32::MAX - 1, &[u32::MAX - 1, 0, 1, 2]);
        check(u32::MAX - 2, &[u32::MAX - 2, u32::MAX - 1, 0, 1]);
        check(u32::MAX - 3, &[u32::MAX - 3, u32::MAX - 2, u32::MAX - 1, 0]);
    }
}
