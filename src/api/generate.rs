//! What all routes that generate text share: the fields that say how, the limits on the answer, and the sequences they
//! become.

mod bans;
mod options;
mod samplers;

use std::sync::Arc;
use std::time::Duration;

use super::adapters;
use super::error::ApiError;
use super::fields::Fields;
use super::served::Served;
use super::structured::Structured;
use crate::engine::{PromptLogprobs, Request, Rows, Stops};
use crate::logprobs::LogprobSpec;
use crate::model::{Adapters, Token};
use crate::params::ParamValues;
use crate::random;
use crate::sampling::{SamplingParams, Watch, ban_everything};
pub use bans::ids;
pub use options::StreamUsage;
pub use samplers::DEFAULT_BREAKERS;

/// How text is generated.
#[derive(Debug)]
pub struct Generate {
    /// Choices for each prompt.
    pub n: usize,
    pub stream: bool,
    /// Which events of a stream have the token usage.
    pub stream_usage: StreamUsage,
    pub adapters: Adapters,
    /// Whether the bits must not depend on other requests, in throughput mode, too.
    pub exact: bool,
    /// Whether the answer includes a receipt.
    pub receipt: bool,
    pub stop: Stops,
    /// See [`Request::line_after`].
    pub line_after: Option<Duration>,
    /// See [`Request::reports`].
    pub reports: bool,
    /// Whether the text keeps the stop string at which it ended.
    include_stop: bool,
    /// Whether the text has the names of generated control tokens.
    pub shows_control: bool,
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
    /// See [`Request::forced_prefix`] and [`Request::forced_token`].
    pub forced_prefix: Arc<[Token]>,
    pub forced_token: Option<Token>,
    pub max_tokens: usize,
    /// Of generated tokens.
    pub logprobs: Option<LogprobSpec>,
    /// Of the prompt's.
    pub prompt_logprobs: Option<PromptLogprobs>,
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
            stream_usage: options::stream_usage(fields, stream)?,
            exact: options::exact(fields, served)?,
            receipt: options::receipt(fields, stream)?,
            adapters: adapters::read(fields, served)?,
            stop: options::stop(fields, served)?,
            line_after: None,
            reports: false,
            include_stop: fields
                .field("include_stop_str_in_output", "Keeps the stop string, or the text of the stop token \
                                                      (`stop_token_ids`), at the end of the text.")
                .boolean(false)?,
            shows_control: !fields
                .field("skip_special_tokens", "Whether the text leaves out generated control tokens. `false`: it has their names; \
                                               the token that ends the text is still left out.")
                .boolean(true)?,
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

    /// The constraint of the request as a part of a grammar, if it is a schema.
    pub fn schema(&self) -> Option<String> {
        self.structured.as_ref()?.expression()
    }

    /// Whether the request has a constraint.
    pub fn is_constrained(&self) -> bool {
        self.structured.is_some()
    }

    /// Puts the schema of the request into this grammar in Lark, of which the rest is for another field.
    pub fn widen(&mut self, grammar: String, rest: &'static str) {
        let structured = self.structured.take();
        self.structured = structured.map(|it| it.within(grammar, rest));
    }

    /// The sequences that continue these prompts, those of one prompt next to each other. Takes milliseconds if there is a
    /// constraint, which is checked here.
    pub fn sequences(
        &mut self,
        prompts: Vec<Wanted>,
        served: &Served,
    ) -> Result<Vec<Request>, ApiError> {
        let structured = self.structured.take();
        let constraint =
            structured.map(|structured| structured.constraint(&served.model, &self.sampling));
        self.sampling.constraint = constraint.transpose()?;
        if ban_everything(&self.sampling, served.model.vocab().ends()) {
            return Err(ApiError::field(
                "allowed_token_ids",
                "None of `allowed_token_ids` is left: `bad_words`, `ignore_eos` and `min_tokens` ban all of them.",
            ));
        }
        // Never 2^32 - 1, which means a random one.
        let seed = *self
            .seed
            .get_or_insert_with(|| (random::number() % u64::from(u32::MAX)) as u32);
        let stop = Arc::new(std::mem::take(&mut self.stop));
        let mut sequences = Vec::new();
        for wanted in prompts {
            for choice in 0..wanted.sequences {
                sequences.push(Request {
                    prompt: Arc::clone(&wanted.prompt),
                    forced_prefix: Arc::clone(&wanted.forced_prefix),
                    forced_token: wanted.forced_token,
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
                    shows_control: self.shows_control,
                    line_after: self.line_after,
                    reports: self.reports,
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

    /// Switches off the penalties that look back on a window of tokens.
    pub fn drop_penalties(&mut self) {
        let values = &mut self.sampling.values;
        values.repeat_penalty = 1.0;
        values.frequency_penalty = 0.0;
        values.presence_penalty = 0.0;
    }

    /// The sampling parameters, whether the request or the settings gave them.
    pub fn values(&self) -> &ParamValues {
        &self.sampling.values
    }
}

/// The first choice has the request's own seed, and the others count on from it. After 2^32 - 2 comes 0: llama.cpp takes
/// 2^32 - 1 as a request for a random seed. So all choices of a request differ, whatever its seed is.
fn choice_seed(seed: u32, choice: usize) -> u32 {
    const SEEDS: u64 = u32::MAX as u64;
    ((u64::from(seed) + choice as u64) % SEEDS) as u32
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
