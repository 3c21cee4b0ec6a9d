//! `POST /v1/embeddings`: a vector for each text.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::body::JsonObject;
use super::bounds::Entries;
use super::client::Client;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::input::{self, Input};
use super::served::{Served, model_field};
use super::state::{AppState, Route};
use crate::engine::EmbeddingRequest;
use crate::model::{Added, Token};

pub fn route() -> Route {
    Route::post(
        "/v1/embeddings",
        post(create),
        "Computes a vector of length 1 for each text.",
        |served| Fields::describe(json!({"input": "a"}), |fields| read(fields, served)),
    )
    .answers::<EmbeddingList>()
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, (format, request)) = state.prepare(body.0, prepare).await?;
    let tokens = request.texts.iter().map(|text| text.len()).sum();
    let entries = Entries(request.texts.len() * request.dimensions);
    let vectors = served
        .engine
        .embed(client.name, client.arrived, request)
        .await?;
    let list = EmbeddingList {
        object: "list",
        data: vectors
            .into_iter()
            .enumerate()
            .map(|(index, vector)| Embedding {
                object: "embedding",
                index,
                embedding: format.write(vector),
            })
            .collect(),
        model: served.name,
        usage: EmbeddingUsage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    state.respond(list, &entries).await
}

/// A request as its sender wrote it, checked.
struct EmbeddingFields {
    inputs: Vec<Input>,
    format: Format,
    dimensions: usize,
}

/// The format of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Float,
    Base64,
}

/// Reads the fields. The documentation of the route is generated from here, too.
fn read(fields: &mut Fields, served: &Served) -> Result<EmbeddingFields, ApiError> {
    model_field(fields)?;
    served.refuse_adapter(
        "model",
        "Embeddings are computed with the adapters that the settings switch on: send the model's own name.",
    )?;
    let value = fields
        .field(
            "input",
            "A text, or several, as strings or as token ids of this model. A string gets the special tokens that the model \
             expects before and after it; ids are used as they are.",
        )
        .required()
        .value(input::schema)
        .ok_or_else(|| {
            let message = format!("`input` is missing: it must be {}.", input::SHAPES);
            ApiError::field("input", message)
        })?;
    let vocabulary = served.model.vocab().len();
    let inputs = input::read(value, "input", served.config.limits.prompts, vocabulary)?;
    let format = fields
        .field(
            "encoding_format",
            "\"float\": a vector is an array of numbers. \"base64\": it is a string, the base64 of its numbers as \
             little-endian 32-bit floats.",
        )
        .value(|| json!({"type": "string", "enum": ["float", "base64"], "default": "float"}));
    let format = match format {
        None => Format::Float,
        Some(Value::String(name)) if name == "float" => Format::Float,
        Some(Value::String(name)) if name == "base64" => Format::Base64,
        Some(other) => return Err(wrong("encoding_format", "\"float\" or \"base64\"", &other)),
    };
    let all = served.model.embedding_width();
    let dimensions = fields
        .field(
            "dimensions",
            "Keeps this many of the first numbers of each vector, scaled to length 1 again; for models that are trained for \
             it.",
        )
        .count_or(1..=all, all)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(EmbeddingFields {
        inputs,
        format,
        dimensions,
    })
}

/// Checks a request and tokenizes its texts: CPU work, of milliseconds if a text is long.
fn prepare(
    body: Map<String, Value>,
    served: &Served,
) -> Result<(Format, EmbeddingRequest), ApiError> {
    let bounds = served.engine.embedding_bounds()?;
    let EmbeddingFields {
        inputs,
        format,
        dimensions,
    } = read(&mut Fields::new(body), served)?;
    let limits = &served.config.limits;
    if inputs.len() * dimensions > limits.answer_entries {
        return Err(ApiError::field(
            "input",
            format!(
                "The answer would have more than {} numbers: {} inputs with {dimensions} `dimensions` each. Ask for fewer.",
                limits.answer_entries,
                inputs.len()
            ),
        )
        .code("answer_too_large"));
    }
    let most = match limits.prompt_tokens {
        0 => bounds.tokens,
        most => bounds.tokens.min(most),
    };
    let texts = inputs
        .into_iter()
        .enumerate()
        .map(|(place, input)| tokens(input, place, most, served));
    Ok((
        format,
        EmbeddingRequest {
            texts: texts.collect::<Result<_, _>>()?,
            dimensions,
        },
    ))
}

/// The tokens of a text. One that is certainly too long is rejected first.
fn tokens(
    input: Input,
    place: usize,
    most: usize,
    served: &Served,
) -> Result<Arc<[Token]>, ApiError> {
    let too_long = |least: &str, tokens: usize| {
        ApiError::field(
            "input",
            format!(
                "A text for an embedding can have at most {most} tokens. However, the text at index {place} of `input` has \
                 {least}{tokens} tokens. Please shorten it."
            ),
        )
        .code("context_length_exceeded")
    };
    let tokens = match input {
        Input::Tokens(tokens) => tokens,
        Input::Text(text) => {
            let vocab = served.model.vocab();
            let least = vocab.least_tokens(&text);
            if least > most {
                return Err(too_long("at least ", least));
            }
            // An empty text stays empty, without special tokens.
            if text.is_empty() {
                Vec::new()
            } else {
                vocab.tokenize(&text, Added::Both, true)
            }
        }
    };
    match tokens.len() {
        0 => Err(ApiError::field(
            "input",
            format!("The text at index {place} of `input` is empty."),
        )),
        length if length > most => Err(too_long("", length)),
        _ => Ok(tokens.into()),
    }
}

impl Format {
    fn write(self, vector: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Numbers(vector),
            Self::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

/// The vectors, in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingList {
    /// Always "list".
    object: &'static str,
    data: Vec<Embedding>,
    /// The name that the client used.
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    /// Always "embedding".
    object: &'static str,
    /// The text's index in `input`.
    index: usize,
    embedding: Vector,
}

/// A vector in the requested format.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// Tokens used.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingUsage {
    /// Tokens of all texts.
    prompt_tokens: usize,
    /// The same number.
    total_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_little_endian() {
        let check = |format: Format, expect: &str| {
            let written = format.write(vec![1.0, -0.1]);
            assert_eq!(serde_json::to_string(&written).expect("JSON"), expect);
        };
        check(Format::Float, "[1.0,-0.1]");
        // 1.0 is 0x3f800000, -0.1 is 0xbdcccccd.
        check(Format::Base64, "\"AACAP83MzL0=\"");
    }
}
