//! Text ⇄ tokens without a model's evaluation, under the names that clients know: vLLM's and llama-server's `/tokenize`,
//! `/detokenize`, `/tokenizer_info` and `/apply-template`, and llama-cpp-python's `/extras/…`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonObject;
use super::chat::{self, Conversation};
use super::error::ApiError;
use super::fields::{Fields, token_ids, wrong};
use super::models::{ModelQuery, Served, model_field};
use super::route::Route;
use crate::engine::Utf8Decoder;
use crate::model::{Token, Vocab};

/// Bytes of a text, at most: a tokenizer's time does not always grow as its text does.
const TEXT_BYTES: usize = 1 << 20;

pub fn routes() -> Vec<Route> {
    let to_tokens = "Makes tokens of a text, or of a conversation.";
    let to_text = "Makes a text of tokens, control tokens written out.";
    let to_prompt = "Writes a conversation out by the chat template, without answering it.";
    let info = "Special tokens and chat template, as lm-evaluation-harness reads them.";
    vec![
        Route::post("/tokenize", post(tokenize), to_tokens, |served| {
            Fields::describe(json!({"prompt": ""}), |fields| {
                Tokenize::read(fields, served)
            })
        })
        .answers::<Tokenized>(),
        Route::post("/detokenize", post(detokenize), to_text, |served| {
            Fields::describe(json!({"tokens": []}), |fields| read_tokens(fields, served))
        })
        .answers::<Detokenized>(),
        Route::get("/tokenizer_info", get(tokenizer_info), info)
            .of_a_model()
            .answers::<TokenizerInfo>(),
        Route::post(
            "/apply-template",
            post(apply_template),
            to_prompt,
            |served| {
                let sample = json!({"messages": [{"role": "user", "content": "Hello"}]});
                Fields::describe(sample, |fields| read_conversation(fields, served))
            },
        )
        .answers::<Applied>(),
        Route::post(
            "/extras/tokenize",
            post(extras_tokenize),
            "llama-cpp-python's `/tokenize`.",
            describe_input,
        )
        .answers::<ExtrasTokens>(),
        Route::post(
            "/extras/tokenize/count",
            post(extras_count),
            "How many tokens a text has.",
            describe_input,
        )
        .answers::<ExtrasCount>(),
        Route::post(
            "/extras/detokenize",
            post(extras_detokenize),
            "llama-cpp-python's `/detokenize`: control tokens are left out.",
            |served| Fields::describe(json!({"tokens": []}), |fields| read_tokens(fields, served)),
        )
        .answers::<ExtrasText>(),
    ]
}

/// The body of `/tokenize`.
struct Tokenize {
    input: Input,
    add_special: bool,
    parse_special: bool,
    with_pieces: bool,
}

enum Input {
    Text(String),
    Conversation(Box<Conversation>),
}

impl Tokenize {
    fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        model_field(fields)?;
        let prompt = fields
            .field(
                "prompt",
                "The text. What a model wants before it is added, as vLLM does.",
            )
            .string()?;
        let content = fields
            .field(
                "content",
                "The text. Nothing is added, as llama-server does.",
            )
            .string()?;
        let by_default = prompt.is_some();
        fields.drop_null("messages");
        let input = if fields.peek("messages").is_some() {
            if prompt.is_some() || content.is_some() {
                return Err(ApiError::field(
                    "messages",
                    "Of `prompt`, `content` and `messages`, one is to be sent.",
                ));
            }
            Input::Conversation(Box::new(Conversation::parse(fields)?))
        } else {
            match (prompt, content) {
                (Some(text), None) => {
                    check_length(&text, "prompt")?;
                    Input::Text(text)
                }
                (None, Some(text)) => {
                    check_length(&text, "content")?;
                    Input::Text(text)
                }
                _ => {
                    return Err(ApiError::field(
                        "prompt",
                        "Of `prompt`, `content` and `messages`, one is to be sent.",
                    ));
                }
            }
        };
        let add_special = fields.field(
            "add_special_tokens",
            "Whether BOS and EOS are added as the model says. Default: with `prompt`, not with `content`.",
        );
        let add_special_tokens = add_special.given;
        let mut add_special = add_special.boolean(by_default)?;
        let alias = fields.field(
            "add_special",
            "llama-server's name of `add_special_tokens`.",
        );
        let given = alias.given;
        let alias = alias.boolean(by_default)?;
        if given && !add_special_tokens {
            add_special = alias;
        }
        let read = Self {
            input,
            add_special,
            parse_special: fields
                .field(
                    "parse_special",
                    "Whether `<|im_start|>` and its like become control tokens.",
                )
                .boolean(true)?,
            with_pieces: fields
                .field("with_pieces", "Each token comes as `{\"id\", \"piece\"}`; a piece that is no UTF-8 as its bytes.")
                .boolean(false)?,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(read)
    }
}

#[derive(Serialize, ToSchema)]
struct Tokenized {
    tokens: Vec<Shown>,
    count: usize,
    /// The context's length.
    max_model_len: usize,
}

/// A token's id, or with `with_pieces` what it stands for as well.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Shown {
    Id(i32),
    Whole { id: i32, piece: Piece },
}

/// A token's text, or its bytes if they are none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

async fn tokenize(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<Tokenized>, ApiError> {
    let served = state.serves(&body.0).await?;
    let made = move || {
        let Tokenize {
            input,
            add_special,
            parse_special,
            with_pieces,
        } = Tokenize::read(&mut Fields::new(body.0), &served)?;
        let vocab = served.model.vocab();
        let tokens = match input {
            Input::Text(text) => vocab.tokenize(&text, add_special, parse_special),
            Input::Conversation(conversation) => {
                let text = chat::render(*conversation, &served)?.text;
                check_length(&text, "messages")?;
                vocab.tokenize(&text, true, true)
            }
        };
        let count = tokens.len();
        let shown = tokens.into_iter().map(|token| {
            let id = token.0;
            if with_pieces {
                let piece = piece(token, vocab);
                Shown::Whole { id, piece }
            } else {
                Shown::Id(id)
            }
        });
        Ok(Json(Tokenized {
            tokens: shown.collect(),
            count,
            max_model_len: served.engine.context_length(),
        }))
    };
    state.work(made).await?
}

fn piece(token: Token, vocab: &Vocab) -> Piece {
    let bytes = vocab.literal(token);
    match std::str::from_utf8(bytes) {
        Ok(text) => Piece::Text(text.to_owned()),
        Err(_) => Piece::Bytes(bytes.to_vec()),
    }
}

fn check_length(text: &str, param: &str) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::field(
        param,
        format!(
            "`{param}` must not come to more than {TEXT_BYTES} bytes of text here, but it has {}.",
            text.len()
        ),
    ))
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
                "The text of `tokens` must not be longer than {TEXT_BYTES} bytes, but it has {bytes}."
            ),
        ));
    }
    Ok(tokens)
}

#[derive(Serialize, ToSchema)]
struct Detokenized {
    /// As vLLM calls it.
    prompt: String,
    /// The same, as llama-server calls it.
    content: String,
}

async fn detokenize(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<Detokenized>, ApiError> {
    let served = state.serves(&body.0).await?;
    let made = move || {
        let tokens = read_tokens(&mut Fields::new(body.0), &served)?;
        let vocab = served.model.vocab();
        let mut decoder = Utf8Decoder::new();
        let mut text = String::new();
        for &token in &tokens {
            text.push_str(&decoder.push(vocab.literal(token)));
        }
        // The space that the tokenizer puts before a text is not the text's.
        let begins = usize::from(vocab.bos().is_some() && tokens.first().copied() == vocab.bos());
        let before: usize = tokens[..begins]
            .iter()
            .map(|&token| vocab.literal(token).len())
            .sum();
        if vocab.adds_space() && text[before..].starts_with(' ') {
            text.remove(before);
        }
        Ok(Json(Detokenized {
            prompt: text.clone(),
            content: text,
        }))
    };
    state.work(made).await?
}

/// What the model's file tells of its tokenizer; what it does not have is null.
#[derive(Serialize, ToSchema)]
struct TokenizerInfo {
    bos_token: Option<String>,
    eos_token: Option<String>,
    pad_token: Option<String>,
    unk_token: Option<String>,
    /// Whether a text gets the BOS before it.
    add_bos_token: bool,
    chat_template: Option<String>,
    /// Tokens of the vocabulary.
    vocab_size: usize,
    /// The context's length.
    model_max_length: usize,
}

async fn tokenizer_info(
    State(state): State<AppState>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Json<TokenizerInfo>, ApiError> {
    let served = state.serves_query(query).await?;
    let vocab = served.model.vocab();
    let literal = |token: Option<Token>| {
        token.map(|token| String::from_utf8_lossy(vocab.literal(token)).into_owned())
    };
    Ok(Json(TokenizerInfo {
        bos_token: literal(vocab.bos()),
        eos_token: literal(vocab.eos()),
        pad_token: literal(vocab.pad()),
        unk_token: literal(vocab.unknown()),
        add_bos_token: vocab.adds_bos(),
        chat_template: chat::model_template(&served),
        vocab_size: vocab.len(),
        model_max_length: served.engine.context_length(),
    }))
}

fn read_conversation(fields: &mut Fields, served: &Served) -> Result<Conversation, ApiError> {
    model_field(fields)?;
    let conversation = Conversation::parse(fields)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(conversation)
}

#[derive(Serialize, ToSchema)]
struct Applied {
    /// The text that an answer would go on from, without the BOS that is put before it.
    prompt: String,
}

async fn apply_template(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<Applied>, ApiError> {
    let served = state.serves(&body.0).await?;
    let made = move || {
        let conversation = read_conversation(&mut Fields::new(body.0), &served)?;
        let prompt = chat::render(conversation, &served)?.text;
        check_length(&prompt, "messages")?;
        Ok(Json(Applied { prompt }))
    };
    state.work(made).await?
}

/// The text of an `/extras` body.
fn read_input(fields: &mut Fields, served: &Served) -> Result<String, ApiError> {
    model_field(fields)?;
    let input = fields.field("input", "The text.").required().string()?;
    let Some(input) = input else {
        return Err(ApiError::field(
            "input",
            "`input` is missing: the text, a string.",
        ));
    };
    check_length(&input, "input")?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(input)
}

fn describe_input(served: &Served) -> Vec<super::fields::Described> {
    Fields::describe(json!({"input": ""}), |fields| read_input(fields, served))
}

/// Tokens of a text, as llama-cpp-python makes them: BOS added, control tokens read.
async fn input_tokens(state: &AppState, body: JsonObject) -> Result<Vec<i32>, ApiError> {
    let served = state.serves(&body.0).await?;
    let made = move || {
        let input = read_input(&mut Fields::new(body.0), &served)?;
        let tokens = served.model.vocab().tokenize(&input, true, true);
        Ok(tokens.into_iter().map(|token| token.0).collect())
    };
    state.work(made).await?
}

#[derive(Serialize, ToSchema)]
struct ExtrasTokens {
    tokens: Vec<i32>,
}

async fn extras_tokenize(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<ExtrasTokens>, ApiError> {
    let tokens = input_tokens(&state, body).await?;
    Ok(Json(ExtrasTokens { tokens }))
}

#[derive(Serialize, ToSchema)]
struct ExtrasCount {
    count: usize,
}

async fn extras_count(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<ExtrasCount>, ApiError> {
    let count = input_tokens(&state, body).await?.len();
    Ok(Json(ExtrasCount { count }))
}

#[derive(Serialize, ToSchema)]
struct ExtrasText {
    text: String,
}

async fn extras_detokenize(
    State(state): State<AppState>,
    body: JsonObject,
) -> Result<Json<ExtrasText>, ApiError> {
    let served = state.serves(&body.0).await?;
    let made = move || {
        let tokens = read_tokens(&mut Fields::new(body.0), &served)?;
        let vocab = served.model.vocab();
        let mut decoder = Utf8Decoder::new();
        let text: String = tokens
            .iter()
            .map(|&token| decoder.push(vocab.bytes(token)))
            .collect();
        // As the reference does, behind a BOS only.
        let begins = vocab.bos().is_some() && tokens.first().copied() == vocab.bos();
        let text = match text.strip_prefix(' ') {
            Some(rest) if begins => rest.to_owned(),
            _ => text,
        };
        Ok(Json(ExtrasText { text }))
    };
    state.work(made).await?
}
