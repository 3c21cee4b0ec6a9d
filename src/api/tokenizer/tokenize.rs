//! `POST /tokenize`, `POST /extras/tokenize` and `POST /extras/tokenize/count`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::limits::check_length;
use crate::api::body::JsonObject;
use crate::api::chat::{self, Conversation};
use crate::api::error::ApiError;
use crate::api::fields::{Described, Fields};
use crate::api::served::{Served, model_field};
use crate::api::state::{AppState, Route};
use crate::model::{Added, Token, Vocab};

pub fn route() -> Route {
    let about = "Tokenizes a text or a conversation.";
    Route::post("/tokenize", post(tokenize), about, |served| {
        Fields::describe(json!({"prompt": ""}), |fields| {
            TokenizeRequest::read(fields, served)
        })
    })
    .answers::<Tokenized>()
}

pub fn extras_route() -> Route {
    let about = "`/tokenize` of llama-cpp-python.";
    Route::post("/extras/tokenize", post(extras), about, describe_input).answers::<ExtrasTokens>()
}

pub fn extras_count_route() -> Route {
    let about = "Counts the tokens of a text.";
    Route::post("/extras/tokenize/count", post(count), about, describe_input)
        .answers::<ExtrasCount>()
}

/// The body of `/tokenize`, checked.
struct TokenizeRequest {
    input: Input,
    add_special: bool,
    parse_special: bool,
    with_pieces: bool,
}

enum Input {
    Text(String),
    Conversation(Box<Conversation>),
}

impl TokenizeRequest {
    fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        model_field(fields)?;
        let (input, by_default) = Input::read(fields)?;
        let request = Self {
            input,
            add_special: add_special(fields, by_default)?,
            parse_special: fields
                .field(
                    "parse_special",
                    "Whether texts such as `<|im_start|>` become control tokens. Default: true with `prompt` and `content`; with \
                     `messages` the setting `model.chat_parse_special`.",
                )
                .boolean(true)?,
            with_pieces: fields
                .field(
                    "with_pieces",
                    "Whether each token is `{\"id\", \"piece\"}`; a piece that is not UTF-8 is an array of bytes.",
                )
                .boolean(false)?,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(request)
    }
}

impl Input {
    /// Reads the input, and whether special tokens are added to it by default.
    fn read(fields: &mut Fields) -> Result<(Self, bool), ApiError> {
        let prompt = fields
            .field(
                "prompt",
                "The text. Special tokens that the model expects before it are added, as in vLLM.",
            )
            .string()?;
        let content = fields
            .field(
                "content",
                "The text. Special tokens are not added, as in llama-server.",
            )
            .string()?;
        fields.drop_null("messages");
        let messages = fields.peek("messages").is_some();
        let one_of = |param| {
            let message = "Send one of `prompt`, `content` and `messages`.";
            Err(ApiError::field(param, message))
        };
        match (prompt, content) {
            (None, None) if messages => {
                let conversation = Conversation::parse(fields)?;
                Ok((Self::Conversation(Box::new(conversation)), true))
            }
            _ if messages => one_of("messages"),
            (Some(text), None) => {
                check_length(&text, "prompt")?;
                Ok((Self::Text(text), true))
            }
            (None, Some(text)) => {
                check_length(&text, "content")?;
                Ok((Self::Text(text), false))
            }
            _ => one_of("prompt"),
        }
    }
}

fn add_special(fields: &mut Fields, by_default: bool) -> Result<bool, ApiError> {
    const NAME: &str = "add_special_tokens";
    let about = "Whether BOS and EOS are added as the model expects, with `messages` BOS if the template does not write it. \
                 Default: true with `prompt` and `messages`, false with `content`.";
    let add_special = fields.field(NAME, about).flag(by_default)?;
    let about = "llama-server's name for `add_special_tokens`.";
    let alias = fields.field("add_special", about).flag(by_default)?;
    match (add_special, alias) {
        (Some(one), Some(other)) if one != other => Err(ApiError::field(
            "add_special",
            format!("`add_special` is another name for `{NAME}`. Send only one of the two."),
        )),
        (one, other) => Ok(one.or(other).unwrap_or(by_default)),
    }
}

#[derive(Serialize, ToSchema)]
struct Tokenized {
    tokens: Vec<Shown>,
    count: usize,
    /// The context length.
    max_model_len: usize,
}

/// A token's id, or with `with_pieces` its id and piece.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Shown {
    Id(i32),
    WithPiece { id: i32, piece: Piece },
}

/// A token's text, or its bytes if they are not UTF-8.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

async fn tokenize(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let tokenize = |body, served: &Served| {
        let request = TokenizeRequest::read(&mut Fields::new(body), served)?;
        let vocab = served.model.vocab();
        let tokens = match request.input {
            Input::Text(text) => {
                let added = if request.add_special {
                    Added::Both
                } else {
                    Added::Nothing
                };
                vocab.tokenize(&text, added, request.parse_special)
            }
            // As a chat completion does it, whose answer continues the text.
            Input::Conversation(mut conversation) => {
                conversation.adds_special = request.add_special;
                let rendered = chat::render(*conversation, served)?;
                check_length(rendered.text.as_str(), "messages")?;
                vocab.tokenize_marked(&rendered.text, rendered.added)
            }
        };
        let count = tokens.len();
        let shown = tokens.into_iter().map(|token| {
            let id = token.0;
            if request.with_pieces {
                let piece = piece(token, vocab);
                Shown::WithPiece { id, piece }
            } else {
                Shown::Id(id)
            }
        });
        Ok(Tokenized {
            tokens: shown.collect(),
            count,
            max_model_len: served.engine.context_length(),
        })
    };
    state.compute(body.0, tokenize).await
}

fn piece(token: Token, vocab: &Vocab) -> Piece {
    let bytes = vocab.literal(token);
    match std::str::from_utf8(bytes) {
        Ok(text) => Piece::Text(text.to_owned()),
        Err(_) => Piece::Bytes(bytes.to_vec()),
    }
}

/// The text of an `/extras` body.
fn read_input(fields: &mut Fields, served: &Served) -> Result<String, ApiError> {
    model_field(fields)?;
    let input = fields.field("input", "The text.").required().string()?;
    let Some(input) = input else {
        return Err(ApiError::field(
            "input",
            "`input` is missing: it must be a string.",
        ));
    };
    check_length(&input, "input")?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(input)
}

fn describe_input(served: &Served) -> Vec<Described> {
    Fields::describe(json!({"input": ""}), |fields| read_input(fields, served))
}

/// Tokens of a text as in llama-cpp-python: with BOS and control tokens.
fn input_tokens(body: Map<String, Value>, served: &Served) -> Result<Vec<Token>, ApiError> {
    let input = read_input(&mut Fields::new(body), served)?;
    Ok(served.model.vocab().tokenize(&input, Added::Both, true))
}

#[derive(Serialize, ToSchema)]
struct ExtrasTokens {
    tokens: Vec<i32>,
}

async fn extras(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let tokenize = |body, served: &Served| {
        let tokens = input_tokens(body, served)?.into_iter();
        Ok(ExtrasTokens {
            tokens: tokens.map(|token| token.0).collect(),
        })
    };
    state.compute(body.0, tokenize).await
}

#[derive(Serialize, ToSchema)]
struct ExtrasCount {
    count: usize,
}

async fn count(State(state): State<AppState>, body: JsonObject) -> Result<Response, ApiError> {
    let count = |body, served: &Served| {
        let count = input_tokens(body, served)?.len();
        Ok(ExtrasCount { count })
    };
    state.compute(body.0, count).await
}
