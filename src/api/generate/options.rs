//! The fields that say how an answer is delivered and where it ends.

use serde_json::json;

use crate::api::error::ApiError;
use crate::api::fields::{Fields, strings, whole, wrong};
use crate::api::nested::Nested;
use crate::api::served::Served;
use crate::engine::Stops;

pub fn stop(fields: &mut Fields, served: &Served) -> Result<Stops, ApiError> {
    let limits = &served.config.limits;
    let value = fields
        .field("stop", "The text ends before the first of these, which may name control tokens; the tokens drawn so far stay in the arrays.")
        .value(|| json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}));
    let Some(value) = value else {
        return Ok(Stops::default());
    };
    let strings = strings(value, "stop", limits.stop_strings)?;
    for text in &strings {
        if text.is_empty() {
            return Err(ApiError::field(
                "stop",
                "`stop` must not contain an empty string, which would end every text at once.",
            ));
        }
        if text.len() > limits.stop_bytes {
            return Err(ApiError::field(
                "stop",
                format!(
                    "A string of `stop` must not be longer than {} bytes, but one has {}.",
                    limits.stop_bytes,
                    text.len()
                ),
            ));
        }
    }
    Ok(Stops::new(strings, served.model.vocab()))
}

/// The reference takes seeds modulo 2^32. −1 asks for a random one, and so does 2^32 − 1, which is how llama.cpp writes
/// it.
pub fn seed(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let value = fields
        .field(
            "seed",
            "The same seed and request give the same answer. -1 or absent: a random seed.",
        )
        .value(|| json!({"type": "integer"}));
    let Some(value) = value else {
        return Ok(None);
    };
    let wide = value
        .as_u64()
        .map(i128::from)
        .or_else(|| whole(&value).map(i128::from));
    let seed = wide.ok_or_else(|| {
        wrong(
            "seed",
            "a whole number from -2^63 to 2^64 - 1 (-1 asks for a random one)",
            &value,
        )
    })?;
    let reduced = seed.rem_euclid(1 << 32) as u32;
    Ok((reduced != u32::MAX).then_some(reduced))
}

pub fn exact(fields: &mut Fields, served: &Served) -> Result<bool, ApiError> {
    let exact = fields
        .field(
            "exact",
            "Makes the bits of the answer independent of other requests and of the cache. Its tokens \
             are then evaluated one by one, with the bits of exact mode, whatever the server's mode.",
        )
        .boolean(false)?;
    if exact && served.config.model.gpu_layers > 0 {
        return Err(ApiError::field(
            "exact",
            "This server does not support `exact`: layers of the model are on a GPU (`model.gpu_layers`), where bits \
             depend on how prompts are split. Leave it out, or use a server that runs on a CPU.",
        ));
    }
    Ok(exact)
}

pub fn receipt(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let receipt = fields
        .field(
            "receipt",
            "Adds a `receipt` to the answer, with which `candor verify` repeats the request and compares every bit.",
        )
        .boolean(false)?;
    if receipt && stream {
        return Err(ApiError::field(
            "receipt",
            "`receipt` is not allowed with `stream`: it covers the whole answer. Streamed, the same request with the same \
             seed has the same bits.",
        ));
    }
    Ok(receipt)
}

/// Which events of a stream have the token usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamUsage {
    /// One more at the end, without choices, has that of the answer.
    pub at_end: bool,
    /// Each has that of its choice so far.
    pub in_each: bool,
}

pub fn stream_usage(fields: &mut Fields, stream: bool) -> Result<StreamUsage, ApiError> {
    const NAME: &str = "stream_options";
    let value = fields
        .field(
            NAME,
            "`include_usage`: adds an event with the token usage before `[DONE]`. `continuous_usage_stats`: each event has the \
             usage of its choice so far, as in vLLM.",
        )
        .value(|| {
            json!({"type": "object", "properties": {
                "include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}}})
        });
    let Some(value) = value else {
        return Ok(StreamUsage::default());
    };
    if !stream {
        return Err(ApiError::field(
            NAME,
            "`stream_options` is allowed only with `stream: true`.",
        ));
    }
    let mut object = Nested::new(NAME, "an object", value)?;
    let usage = StreamUsage {
        at_end: object.boolean("include_usage")?.unwrap_or(false),
        in_each: object.boolean("continuous_usage_stats")?.unwrap_or(false),
    };
    object.end_with("`include_usage` and `continuous_usage_stats`", fields);
    Ok(usage)
}
