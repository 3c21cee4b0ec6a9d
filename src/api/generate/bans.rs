//! The fields that ban or favour tokens, and those that end a text.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::fields::{Fields, strings, token_ids, wrong};
use crate::api::served::Served;
use crate::api::wording::{counted, cut};
use crate::model::{Added, Token, Vocab};
use crate::sampling::{BadTexts, SamplingParams, bad_word};

/// The largest bias: far beyond any logit, and far from overflow.
const MOST_BIAS: f64 = 1.0e6;

/// Reads these fields into the parameters that were read before.
pub fn read(
    fields: &mut Fields,
    served: &Served,
    sampling: SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let (most, vocab) = (served.config.limits.logit_bias, served.model.vocab());
    let logit_bias = logit_bias(fields, served)?;
    let ignore_eos = fields
        .field(
            "ignore_eos",
            "Bans the tokens that end a generation: the text continues up to `max_tokens`.",
        )
        .boolean(false)?;
    let about = "Token ids that end the text, as the model's end-of-generation tokens do. `min_tokens` bans them, \
                 `ignore_eos` does not.";
    let stop_tokens = ids(fields, ("stop_token_ids", about), most, vocab.len())?;
    let allowed_tokens = allowed_tokens(fields, vocab)?;
    let (bad_words, bad_texts) = bad_words(fields, served)?;
    Ok(SamplingParams {
        bad_words,
        bad_texts,
        logit_bias,
        ignore_eos,
        stop_tokens: stop_tokens.unwrap_or_default(),
        allowed_tokens,
        ..sampling
    })
}

fn allowed_tokens(fields: &mut Fields, vocab: &Vocab) -> Result<Option<Arc<[Token]>>, ApiError> {
    const NAME: &str = "allowed_token_ids";
    let about = "The only token ids that may be generated. The text can end only if an end token is among them.";
    let Some(mut allowed) = ids(fields, (NAME, about), vocab.len(), vocab.len())? else {
        return Ok(None);
    };
    if allowed.is_empty() {
        return Err(ApiError::field(
            NAME,
            "`allowed_token_ids` must contain at least one token id.",
        ));
    }
    allowed.sort_unstable();
    allowed.dedup();
    Ok(Some(allowed.into()))
}

/// Bad words: as the sequences of tokens in which they would be written, and as texts.
type BadWords = (Arc<[Vec<Token>]>, Option<Arc<BadTexts>>);

fn bad_words(fields: &mut Fields, served: &Served) -> Result<BadWords, ApiError> {
    const NAME: &str = "bad_words";
    /// Maximum number of bytes of all of them: each token is compared with them.
    const BYTES: usize = 16 << 10;
    let limits = &served.config.limits;
    let value = fields
        .field(NAME, "Texts that are never generated, neither as words of their own, in whichever tokens they are spelled, nor \
                      as the tokens that spell them by themselves or after a space: the token that would complete one is \
                      banned.")
        .value(|| json!({"type": "array", "items": {"type": "string", "minLength": 1}}));
    let words = match value {
        None => Vec::new(),
        Some(value) => strings(value, NAME, limits.logit_bias)?,
    };
    each_within(&words, NAME, limits.stop_bytes)?;
    let bytes: usize = words.iter().map(String::len).sum();
    if bytes > BYTES {
        let message =
            format!("`bad_words` must have at most {BYTES} bytes together, but they have {bytes}.");
        return Err(ApiError::field(NAME, message));
    }
    let mut bad_words = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let tokens = bad_word(served.model.vocab(), word);
        if tokens.is_empty() {
            return Err(ApiError::field(
                NAME,
                format!("`bad_words[{place}]` must not consist of spaces only."),
            ));
        }
        bad_words.extend(tokens);
    }
    let texts = words.iter().map(|word| word.trim_start());
    let bad_texts = (!words.is_empty()).then(|| BadTexts::new(served.model.vocab(), texts));
    Ok((bad_words.into(), bad_texts.map(Arc::new)))
}

fn logit_bias(fields: &mut Fields, served: &Served) -> Result<Vec<(Token, f32)>, ApiError> {
    let most = served.config.limits.logit_bias;
    let value = fields
        .field(
            "logit_bias",
            "Added to the logits of these tokens before anything else: token id → bias.",
        )
        .value(|| {
            let bias = json!({"type": "number", "minimum": -MOST_BIAS, "maximum": MOST_BIAS});
            json!({"type": "object", "additionalProperties": bias})
        });
    let kind = fields
        .field("logit_bias_type", "\"input_ids\": the keys of `logit_bias` are token ids; \"tokens\": they are texts, and \
                                   each of their tokens gets the bias.")
        .value(|| json!({"type": "string", "enum": ["input_ids", "tokens"], "default": "input_ids"}));
    let by_text = match kind {
        None => false,
        Some(Value::String(kind)) if kind == "input_ids" => false,
        Some(Value::String(kind)) if kind == "tokens" => true,
        Some(other) => {
            return Err(wrong(
                "logit_bias_type",
                "\"input_ids\" or \"tokens\"",
                &other,
            ));
        }
    };
    let entries = match value {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) if entries.len() <= most => entries,
        Some(other) => {
            let allowed = format!("an object of at most {}", counted(most, "field"));
            return Err(wrong("logit_bias", &allowed, &other));
        }
    };
    // As in the reference, the last bias of an id counts.
    let mut biases: BTreeMap<Token, f32> = BTreeMap::new();
    for (key, value) in entries {
        let bias = bias(&key, &value)?;
        if !by_text {
            biases.insert(token_of(&key, served.model.vocab())?, bias);
            continue;
        }
        let tokens = tokens_of(&key, served)?;
        biases.extend(tokens.into_iter().map(|token| (token, bias)));
        if biases.len() > most {
            return Err(ApiError::field(
                "logit_bias",
                format!("The texts of `logit_bias` come to more than {most} tokens."),
            ));
        }
    }
    Ok(biases.into_iter().collect())
}

fn bias(key: &str, value: &Value) -> Result<f32, ApiError> {
    let bias = value.as_f64().filter(|bias| bias.abs() <= MOST_BIAS);
    let bias = bias.ok_or_else(|| ApiError {
        param: Some("logit_bias".to_owned()),
        ..wrong(
            &format!("logit_bias.{}", cut(key)),
            "a number from -1000000 to 1000000",
            value,
        )
    })?;
    Ok(bias as f32)
}

/// A key of `logit_bias` that is a token id.
fn token_of(key: &str, vocab: &Vocab) -> Result<Token, ApiError> {
    let id = key.parse::<usize>().ok().filter(|&id| id < vocab.len());
    let id = id.and_then(|id| i32::try_from(id).ok());
    id.map(Token).ok_or_else(|| {
        ApiError::field(
            "logit_bias",
            format!(
                "The keys of `logit_bias` must be token ids from 0 to {}, but one is {:?}. (With `logit_bias_type: \"tokens\"` \
                 they are texts.)",
                vocab.len() - 1,
                cut(key)
            ),
        )
    })
}

/// The tokens of a key of `logit_bias` that is a text.
fn tokens_of(key: &str, served: &Served) -> Result<Vec<Token>, ApiError> {
    let most = served.config.limits.stop_bytes;
    if key.len() > most {
        return Err(ApiError::field(
            "logit_bias",
            format!(
                "A text of `logit_bias` must not be longer than {most} bytes, but one has {}.",
                key.len()
            ),
        ));
    }
    Ok(served.model.vocab().tokenize(key, Added::Nothing, true))
}

/// 400 for a text that is empty or longer than `most` bytes.
pub fn each_within(texts: &[String], name: &'static str, most: usize) -> Result<(), ApiError> {
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
