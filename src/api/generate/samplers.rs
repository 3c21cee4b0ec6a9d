//! The fields that set the samplers: the parameters of `crate::params`, the order of samplers, and DRY's breakers.

use serde_json::{Value, json};

use super::bans::each_within;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, strings, wrong};
use crate::api::served::Served;
use crate::api::wording::describe;
use crate::params::{PARAMS, ParamValues};
use crate::sampling::{Breakers, Infill, SamplerName, SamplingParams};

/// Maximum number of sequence breakers of a request.
const BREAKERS: usize = 32;
/// Maximum number of bytes of each; llama.cpp cuts longer ones.
const BREAKER_BYTES: usize = 40;
/// llama-server's.
pub const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

pub fn read(fields: &mut Fields, served: &Served) -> Result<SamplingParams, ApiError> {
    let mut sampling = SamplingParams::from(values(fields, &served.config.sampling.values)?);
    if let Some(order) = order(fields)? {
        let is_default = SamplerName::default_order().eq(order.iter().copied());
        if sampling.uses_mirostat() && !is_default {
            return Err(replaced("samplers"));
        }
        if order.contains(&SamplerName::Infill) {
            sampling.infill = Some(Infill::new(served.model.vocab()).into());
        }
        sampling.samplers = order;
    }
    let breakers = breakers(fields)?;
    if sampling.uses_dry() {
        sampling.dry_breakers = Breakers::new(served.model.vocab(), &breakers);
    }
    Ok(sampling)
}

/// The parameters; `defaults` are the server's.
fn values(fields: &mut Fields, defaults: &ParamValues) -> Result<ParamValues, ApiError> {
    let mut values = *defaults;
    let mut given = Vec::new();
    for param in PARAMS {
        if fields.peek(param.name).is_some_and(|it| !it.is_null()) {
            given.push(param.name);
        }
        param.set(&mut values, fields.param(param, param.get(defaults))?);
    }
    if values.repeat_penalty != 1.0 && values.repetition_penalty != 1.0 {
        let is_given = |name| given.contains(&name);
        match (is_given("repeat_penalty"), is_given("repetition_penalty")) {
            (true, true) => return Err(penalized_twice()),
            // What only the settings turn on gives way, as below.
            (true, false) => values.repetition_penalty = 1.0,
            (false, true) => values.repeat_penalty = 1.0,
            // The settings exclude it.
            (false, false) => {}
        }
    }
    if values.mirostat_mode != 0 {
        for param in PARAMS.iter().filter(|it| it.mirostat_replaces) {
            if given.contains(&param.name) && f32::from(param.get(&values)) > 0.0 {
                return Err(replaced(param.name));
            }
            // If only the settings turn it on, it is turned off instead of being rejected: a receipt must contain an
            // acceptable request.
            param.set(&mut values, param.default());
        }
    }
    Ok(values)
}

/// 400: two penalties for the same.
fn penalized_twice() -> ApiError {
    ApiError::field(
        "repetition_penalty",
        "`repetition_penalty` and `repeat_penalty` both divide the logits of repeated tokens: the former of all tokens of \
         prompt and completion, the latter of the last 64 generated. Send only one of them, or 1 for the other.",
    )
}

/// 400: mirostat is on.
fn replaced(name: &'static str) -> ApiError {
    ApiError::field(
        name,
        format!(
            "`{name}` has no effect with `mirostat_mode`, which replaces all samplers after the constraint. Leave one of the \
             two out."
        ),
    )
}

/// The order of samplers; `None`: the default.
fn order(fields: &mut Fields) -> Result<Option<Vec<SamplerName>>, ApiError> {
    fn names() -> impl Iterator<Item = &'static str> {
        SamplerName::all().map(SamplerName::as_str)
    }
    let value = fields
        .field("samplers", "The samplers in the order in which they are applied; those not named are not applied. Bias and \
                            bans always come first, a grammar after leading `penalties` and `dry`, and the draw last. \
                            `typical_p` is an alias of `typ_p`. `infill` is llama-server's for filling in the middle: the text \
                            ends where an end is likely, and a token that begins with another is drawn only if it is the \
                            likelier of the two.")
        .value(|| {
            let read: Vec<&str> = names().chain(["typical_p"]).collect();
            let default: Vec<&str> = SamplerName::default_order().map(SamplerName::as_str).collect();
            json!({"type": "array", "uniqueItems": true, "default": default, "items": {"type": "string", "enum": read}})
        });
    let items = match value {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong("samplers", "an array of sampler names", &other)),
    };
    let mut order: Vec<SamplerName> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let Some(name) = item.as_str().and_then(SamplerName::read) else {
            let known: Vec<&str> = names().collect();
            return Err(ApiError::field(
                "samplers",
                format!(
                    "`samplers[{place}]` must be one of {}, but it is {}.",
                    known.join(", "),
                    describe(item)
                ),
            ));
        };
        if order.contains(&name) {
            return Err(ApiError::field(
                "samplers",
                format!(
                    "`samplers` must name each sampler once, but it names {:?} twice.",
                    name.as_str()
                ),
            ));
        }
        order.push(name);
    }
    Ok(Some(order))
}

fn breakers(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "dry_sequence_breakers";
    let value = fields
        .field(NAME, "DRY: repetitions do not extend across these texts.")
        .value(|| {
            let item = json!({"type": "string", "minLength": 1});
            json!({"type": "array", "maxItems": BREAKERS, "default": DEFAULT_BREAKERS, "items": item})
        });
    let breakers = match value {
        None => DEFAULT_BREAKERS.map(str::to_owned).to_vec(),
        Some(value) => strings(value, NAME, BREAKERS)?,
    };
    each_within(&breakers, NAME, BREAKER_BYTES)?;
    Ok(breakers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(defaults: &ParamValues, body: Value, expect: Result<ParamValues, &str>) {
        let mut fields = Fields::new(body.as_object().cloned().expect("an object"));
        let got = values(&mut fields, defaults);
        match expect {
            Ok(expect) => assert_eq!(got.expect("accepted"), expect, "{body}"),
            Err(name) => {
                let param = got.expect_err("refused").param;
                assert_eq!(param.as_deref(), Some(name), "{body}");
            }
        }
    }

    #[test]
    fn a_request_says_otherwise_than_the_settings() {
        let settings = ParamValues {
            top_k: 7,
            min_p: 0.25,
            ..ParamValues::default()
        };
        check(&settings, json!({}), Ok(settings));
        check(&settings, json!({"top_k": null}), Ok(settings));
        let expect = ParamValues {
            top_k: -1,
            ..settings
        };
        check(&settings, json!({"top_k": -1.0}), Ok(expect));
        check(&settings, json!({"top_k": -2}), Err("top_k"));
    }

    #[test]
    fn one_of_two_penalties_applies() {
        let settings = ParamValues {
            repeat_penalty: 1.1,
            ..ParamValues::default()
        };
        check(&settings, json!({}), Ok(settings));
        check(&settings, json!({"repetition_penalty": 1}), Ok(settings));
        let expect = ParamValues {
            repetition_penalty: 1.5,
            ..ParamValues::default()
        };
        check(&settings, json!({"repetition_penalty": 1.5}), Ok(expect));
        let one = json!({"repetition_penalty": 1.5, "repeat_penalty": 1});
        check(&settings, one, Ok(expect));
        check(&expect, json!({"repeat_penalty": 1.1}), Ok(settings));
        let both = json!({"repetition_penalty": 1.5, "repeat_penalty": 1.2});
        check(&settings, both, Err("repetition_penalty"));
    }

    #[test]
    fn mirostat_turns_off_what_only_the_settings_turn_on() {
        let settings = ParamValues {
            xtc_probability: 0.5,
            ..ParamValues::default()
        };
        let expect = ParamValues {
            mirostat_mode: 2,
            ..ParamValues::default()
        };
        check(&settings, json!({"mirostat_mode": 2}), Ok(expect));
        let both = json!({"mirostat_mode": 2, "xtc_probability": 0.5});
        check(&settings, both, Err("xtc_probability"));
        let settings = ParamValues {
            mirostat_mode: 2,
            ..settings
        };
        check(&settings, json!({}), Ok(expect));
        check(&settings, json!({"top_n_sigma": 1}), Err("top_n_sigma"));
        check(&settings, json!({"top_n_sigma": 0}), Ok(expect));
    }
}
