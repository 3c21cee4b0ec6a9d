//! The fields of llama.cpp's newer samplers and of what may be generated at all, for every route that generates text.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, strings, token_ids, wrong};
use crate::api::served::Served;
use crate::api::wording::{counted, describe};
use crate::model::Token;
use crate::sampling::{Breakers, Mirostat, SamplerName, SamplingParams, bad_word};

/// Sequence breakers of one request.
const BREAKERS: usize = 32;
/// Bytes of each; llama.cpp cuts longer ones.
const BREAKER_BYTES: usize = 40;
/// llama-server's.
const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Reads these fields into what is asked for so far.
pub fn read(
    fields: &mut Fields,
    served: &Served,
    sampling: SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let sampling = samplers(fields, sampling)?;
    let sampling = dry(fields, served, sampling)?;
    bans(fields, served, sampling)
}

fn samplers(fields: &mut Fields, defaults: SamplingParams) -> Result<SamplingParams, ApiError> {
    let sampling = SamplingParams {
        dynatemp_range: fields
            .field("dynatemp_range", "How far the temperature moves, down where the model is certain and up where it is \
                                      not, but never below 0 (arXiv:2309.02772). 0: not at all.")
            .number_or(0.0..=100.0, defaults.dynatemp_range)?,
        dynatemp_exponent: fields
            .field("dynatemp_exponent", "The power to which the entropy, as a share of the greatest there could be, is \
                                         raised to tell where within `dynatemp_range` the temperature is.")
            .number_or(0.0..=100.0, defaults.dynatemp_exponent)?,
        top_n_sigma: fields
            .field("top_n_sigma", "Tokens are kept whose logits lie within so many standard deviations of the largest \
                                   (arXiv:2411.07641). 0 or less: all.")
            .number_or(-1.0..=100.0, defaults.top_n_sigma)?,
        xtc_probability: fields
            .field("xtc_probability", "XTC: how probable it is, at each token, that the likeliest are left out. 0: never.")
            .number_or(0.0..=1.0, defaults.xtc_probability)?,
        xtc_threshold: fields
            .field("xtc_threshold", "XTC: left out are the tokens of at least this probability, but for the least likely \
                                     of them. Above 0.5: none.")
            .number_or(0.0..=1.0, defaults.xtc_threshold)?,
        samplers: order(fields)?.unwrap_or(defaults.samplers),
        ..defaults
    };
    if sampling.mirostat != Mirostat::Off {
        let standard = SamplerName::all().eq(sampling.samplers.iter().copied());
        let without_effect = [
            ("samplers", !standard),
            ("top_n_sigma", sampling.top_n_sigma > 0.0),
            ("xtc_probability", sampling.xtc_probability > 0.0),
            ("dynatemp_range", sampling.dynatemp_range > 0.0),
        ];
        if let Some((name, _)) = without_effect.iter().find(|(_, asked)| *asked) {
            return Err(ApiError::field(
                *name,
                format!(
                    "`{name}` has no effect with `mirostat_mode`, which takes the place of all samplers that follow the \
                     grammar. Leave one of the two out."
                ),
            ));
        }
    }
    Ok(sampling)
}

/// The order of samplers; `None`: the usual one.
fn order(fields: &mut Fields) -> Result<Option<Vec<SamplerName>>, ApiError> {
    let names = || SamplerName::all().map(SamplerName::as_str);
    let value = fields
        .field("samplers", "The samplers in the order in which they are applied; what is not named is not applied. Bias and \
                            bans come before all of them, a grammar behind the `penalties` and `dry` that come first, and the draw \
                            last. `typical_p` is another name for `typ_p`.")
        .value(|| {
            let names: Vec<&str> = SamplerName::all().map(SamplerName::as_str).collect();
            let read = [&names[..], &["typical_p"]].concat();
            json!({"type": "array", "uniqueItems": true, "default": names, "items": {"type": "string", "enum": read}})
        });
    let items = match value {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong("samplers", "an array of names of samplers", &other)),
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

fn dry(
    fields: &mut Fields,
    served: &Served,
    defaults: SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let mut sampling = SamplingParams {
        dry_multiplier: fields
            .field("dry_multiplier", "DRY: a token that would go on with a repetition of n tokens, of the prompt or of what \
                                      was generated, loses dry_multiplier · dry_base^(n − dry_allowed_length) of its logit. 0: off.")
            .number_or(0.0..=100.0, defaults.dry_multiplier)?,
        dry_base: fields
            .field("dry_base", "DRY: how fast the penalty grows with the repetition.")
            .number_or(1.0..=100.0, defaults.dry_base)?,
        dry_allowed_length: fields
            .field("dry_allowed_length", "DRY: repetitions of fewer tokens are free.")
            .count_or(0..=u32::MAX as usize, defaults.dry_allowed_length)?,
        dry_penalty_last_n: usize::try_from(
            fields
                .field("dry_penalty_last_n", "DRY: how many of the last tokens are searched for repetitions. -1: all of prompt \
                                              and completion. 0: none.")
                .integer_or(-1..=i64::from(i32::MAX), -1)?,
        )
        .ok(),
        ..defaults
    };
    let value = fields
        .field("dry_sequence_breakers", "DRY: texts that no repetition reaches across.")
        .value(|| {
            let item = json!({"type": "string", "minLength": 1});
            json!({"type": "array", "maxItems": BREAKERS, "default": DEFAULT_BREAKERS, "items": item})
        });
    let breakers = match value {
        None => DEFAULT_BREAKERS.map(str::to_owned).to_vec(),
        Some(value) => strings(value, "dry_sequence_breakers", BREAKERS)?,
    };
    each_within(&breakers, "dry_sequence_breakers", BREAKER_BYTES)?;
    if sampling.uses_dry() {
        sampling.dry_breakers = Breakers::new(served.model.vocab(), &breakers);
    }
    Ok(sampling)
}

/// What may not be generated, and what ends it.
fn bans(
    fields: &mut Fields,
    served: &Served,
    defaults: SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let limits = &served.config.limits;
    let vocab = served.model.vocab();
    let ignore_eos = fields
        .field("ignore_eos", "Whether the tokens that end a generation are banned: the text then goes on to `max_tokens`.")
        .boolean(false)?;
    let about = "Token ids that end the text as the model's own end does. `min_tokens` bans them, `ignore_eos` does not.";
    let stop_tokens = ids(
        fields,
        ("stop_token_ids", about),
        limits.logit_bias,
        vocab.len(),
    )?
    .unwrap_or_default();
    let about = "Token ids that alone may be generated. An end of the text is allowed only if it is among them.";
    let name = "allowed_token_ids";
    let allowed = ids(fields, (name, about), vocab.len(), vocab.len())?;
    if allowed.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::field(
            name,
            "`allowed_token_ids` must hold at least one token id.",
        ));
    }
    let name = "bad_words";
    let value = fields
        .field(name, "Texts that are not generated, by themselves or behind a space: where the other tokens of one stand at \
                      the end of what was generated, its last one is banned.")
        .value(|| json!({"type": "array", "items": {"type": "string", "minLength": 1}}));
    let words = match value {
        None => Vec::new(),
        Some(value) => strings(value, name, limits.logit_bias)?,
    };
    each_within(&words, name, limits.stop_bytes)?;
    let mut bad_words = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let tokens = bad_word(vocab, word);
        if tokens.is_empty() {
            return Err(ApiError::field(
                name,
                format!("`bad_words[{place}]` must hold more than spaces."),
            ));
        }
        bad_words.extend(tokens);
    }
    Ok(SamplingParams {
        ignore_eos,
        stop_tokens,
        allowed_tokens: allowed.map(|mut allowed| {
            allowed.sort_unstable();
            allowed.dedup();
            allowed.into()
        }),
        bad_words: bad_words.into(),
        ..defaults
    })
}

/// 400 for a text that is empty or longer than `most` bytes.
fn each_within(texts: &[String], name: &'static str, most: usize) -> Result<(), ApiError> {
    for (place, text) in texts.iter().enumerate() {
        if text.is_empty() || text.len() > most {
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}[{place}]` must have from 1 to {most} bytes, but it has {}.",
                    text.len()
                ),
            ));
        }
    }
    Ok(())
}

/// A field that is an array of at most `most` token ids.
pub fn ids(
    fields: &mut Fields,
    (name, about): (&'static str, &'static str),
    most: usize,
    vocabulary: usize,
) -> Result<Option<Vec<Token>>, ApiError> {
    let schema = || json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    match fields.field(name, about).value(schema) {
        None => Ok(None),
        Some(Value::Array(items)) if items.len() <= most => {
            token_ids(&items, name, name, vocabulary).map(Some)
        }
        Some(other) => {
            let allowed = format!("an array of at most {}", counted(most, "token id"));
            Err(wrong(name, &allowed, &other))
        }
    }
}
