//! The fields of `/v1/completions` that ask for output about its tokens, and that other routes do not have: the number of
//! most likely tokens, the trace, and whole rows of logits.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, whole, wrong};
use crate::api::nested::Nested;
use crate::api::served::Served;
use crate::api::token_options::{Number, OutputOptions, WholeRows};
use crate::sampling::Watch;

/// Candidates that a trace shows by default.
const TRACED: usize = 10;

/// Reads the fields, with those that other routes have.
pub fn read(fields: &mut Fields, served: &Served) -> Result<OutputOptions, ApiError> {
    let logprobs = logprobs(fields, served)?;
    let options = OutputOptions::of_tokens(fields, served, logprobs, "`logprobs: 0`")?;
    Ok(OutputOptions {
        watch: Watch {
            trace: trace(fields, served.config.limits.logprobs)?,
            ..options.watch
        },
        rows: rows(fields, served)?,
        ..options
    })
}

fn logprobs(fields: &mut Fields, served: &Served) -> Result<Option<usize>, ApiError> {
    let limits = &served.config.limits;
    if let Some(Value::Bool(_)) = fields.peek("logprobs") {
        return Err(ApiError::field(
            "logprobs",
            format!(
                "`logprobs` is the number of alternatives, a whole number from 0 to {}, not true or false (which chat \
                 completions use).",
                limits.logprobs
            ),
        ));
    }
    fields
        .field(
            "logprobs",
            "Returns log-probabilities of the tokens, and of this many of the most likely tokens at each position. 0: \
             of the tokens only.",
        )
        .count(0..=limits.logprobs)
}

fn trace(fields: &mut Fields, most: usize) -> Result<Option<usize>, ApiError> {
    let value = fields
        .field(
            "trace",
            "Whether each choice shows what each stage of sampling did for every generated token, with the 10 most likely \
             tokens before and after it; a number instead of `true` sets how many.",
        )
        .value(|| {
            json!({"default": false, "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]})
        });
    match value {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(TRACED.min(most))),
        Some(value) => match whole(&value).map(usize::try_from) {
            Some(Ok(count)) if count <= most => Ok(Some(count)),
            _ => {
                let allowed = format!("true, false, or a whole number from 0 to {most}");
                Err(wrong("trace", &allowed, &value))
            }
        },
    }
}

fn rows(fields: &mut Fields, served: &Served) -> Result<Option<WholeRows>, ApiError> {
    const NAME: &str = "logits";
    let value = fields
        .field(
            NAME,
            "Whole rows of raw logits. true: of every token in the answer. Or an object: `positions`, indices of tokens in \
             prompt and completion, counted from 0 (which has no row); `dtype`, \"float32\" (default) or \"float16\".",
        )
        .value(|| {
            json!({"default": false, "anyOf": [{"type": "boolean"}, {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "positions": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "dtype": {"type": "string", "enum": ["float32", "float16"]}}}]})
        });
    let mut rows = WholeRows {
        number: Number::Float32,
        positions: None,
    };
    let value = match value {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => return Ok(Some(rows)),
        Some(value) => value,
    };
    let mut object = Nested::within(NAME, NAME, "true, false or an object", value)?;
    if let Some(value) = object.take("dtype") {
        let mut numbers = [Number::Float32, Number::Float16].into_iter();
        rows.number = numbers
            .find(|number| value == number.as_str())
            .ok_or_else(|| object.wrong("dtype", "\"float32\" or \"float16\"", &value))?;
    }
    if let Some(value) = object.take("positions") {
        let last = served.engine.context_length();
        let place = |item: &Value| {
            let place = whole(item).map(usize::try_from);
            place
                .and_then(Result::ok)
                .filter(|place| (1..=last).contains(place))
        };
        let places = value.as_array();
        let places: Option<Vec<usize>> = places.and_then(|items| items.iter().map(place).collect());
        let allowed = format!("an array of whole numbers from 1 to {last}");
        let mut places = places.ok_or_else(|| object.wrong("positions", &allowed, &value))?;
        places.sort_unstable();
        places.dedup();
        rows.positions = Some(places.into());
    }
    object.end_with("`positions` and `dtype`", fields);
    Ok(Some(rows))
}
