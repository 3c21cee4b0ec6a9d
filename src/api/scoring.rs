//! Sequences that are scored and not continued.

use std::sync::Arc;

use crate::engine::{PromptLogprobs, Request, Rows};
use crate::model::{Adapters, Token};
use crate::sampling::{SamplingParams, Watch};

/// A sequence whose tokens are scored.
pub fn sequence(
    prompt: Arc<[Token]>,
    scored: PromptLogprobs,
    adapters: &Adapters,
    cache: bool,
) -> Request {
    Request {
        prompt,
        adapters: adapters.clone(),
        max_tokens: 0,
        forced_prefix: Arc::default(),
        forced_token: None,
        logprobs: None,
        prompt_logprobs: Some(scored),
        rows: Rows::None,
        watch: Watch::default(),
        sampling: SamplingParams::default(),
        stop: Arc::default(),
        include_stop: false,
        shows_control: false,
        cache_prompt: cache,
        exact: false,
        streamed: false,
        line_after: None,
        reports: false,
        deliver_end_token: false,
    }
}
