//! `POST /detokenize` and `POST /extras/detokenize`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::limits::TEXT_BYTES;
use crate::api::body::JsonObject;
use crate::api::error::ApiError;
use crate::api::fields::{Described, Fields, token_ids, wrong};
use crate::api::served::{Served, model_field};
use crate::api::state::{AppState, Route};
use crate::engine::Utf8Decoder;
use crate::model::{Token, Vocab};

pub fn route() -> Route {
    let about = "Converts tokens to text, with the names of control tokens.";
    Route::post("/detokenize", post(detokenize), about, describe_tokens).answers::<Detokenized>()
}

pub fn extras_route() -> Route {
    let about = "`/detokenize` of llama-cpp-python: without control tokens.";
    Route::post("/extras/detokenize", post(extras), about, describe_tokens).answers::<ExtrasText>()
}

fn describe_tokens(served: &Served) -> Vec<Described> {
    Fields::describe(json!({"tokens": []}), |fields| read_tokens(fields, served))
}

/// The tokens of a body, each within the vocabulary.
fn read_tokens(fields: &mut Fields, served: &Served) -> Result<Vec<Token>, ApiError> {
    model_field(fields)?;
    let tokens = fields
        .field("tokens", "Token ids.")
        .required()
        .value(|| json!({"type": "array", "items": {"type": "integer", "minimum": 0}}));
    let tokens = match tokens {
        Some(Value::Array(items)) => {
            token_ids(&items, "tokens", "tokens", served.model.vocab().len())?
        }
        other => {
            return Err(wrong(
                "tokens",
                "an array of token ids",
                &other.unwrap_or_default(),
            ));
        }
    };
    fields.refuse_others(served.config.server.unknown_fields)?;
    let vocab = served.model.vocab();
    let bytes: usize = tokens.iter().map(|&token| vocab.literal(token).len()).sum();
    if bytes > TEXT_BYTES {
        return Err(ApiError::field(
            "tokens",
            format!(
                "The text of `tokens` must have at most {TEXT_BYTES} bytes, but it has {bytes}."
            ),
        ));
    }
    Ok(tokens)
}

/// The text of these tokens, each written by `bytes`.
fn text<'a>(tokens: &[Token], bytes: impl Fn(Token) -> &'a [u8]) -> String {
    let mut decoder = Utf8Decoder::new();
    let texts = tokens.iter().map(|&token| decoder.push(bytes(token)));
    texts.collect()
}

/// Whether the tokens begin with BOS.
fn has_bos(tokens: &[Token], vocab: &Vocab) -> bool {
    vocab.bos().is_some() && tokens.first().copied() == vocab.bos()
}

#[derive(Serialize, ToSchema)]
struct Detokenized {
    /// vLLM's name of it.
    prompt: String,
    /// The same under llama-server's name.
    content: String,
}

async fn detokenize(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let detokenize = |body, served: &Served| {
        let tokens = read_tokens(&mut Fields::new(body), served)?;
        let vocab = served.model.vocab();
        let mut text = text(&tokens, |token| vocab.literal(token));
        // The space that the tokenizer adds before a text is not part of it.
        let bos = &tokens[..usize::from(has_bos(&tokens, vocab))];
        let before: usize = bos.iter().map(|&token| vocab.literal(token).len()).sum();
        if vocab.adds_space() && text[before..].starts_with(' ') {
            text.remove(before);
        }
        Ok(Detokenized {
            prompt: text.clone(),
            content: text,
        })
    };
    state.compute(body.0, detokenize).await
}

#[derive(Serialize, ToSchema)]
struct ExtrasText {
    text: String,
}

async fn extras(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let detokenize = |body, served: &Served| {
        let tokens = read_tokens(&mut Fields::new(body), served)?;
        let vocab = served.model.vocab();
        let text = text(&tokens, |token| vocab.bytes(token));
        // As in the reference, only after BOS.
        let text = match text.strip_prefix(' ') {
            Some(rest) if has_bos(&tokens, vocab) => rest.to_owned(),
            _ => text,
        };
        Ok(ExtrasText { text })
    };
    state.compute(body.0, detokenize).await
}
