//! `GET /tokenizer_info`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::chat;
use crate::api::error::ApiError;
use crate::api::served::ModelQuery;
use crate::api::state::{AppState, Route};
use crate::config::Normalize;
use crate::model::Token;

pub fn route() -> Route {
    let about = "Special tokens and chat template, as lm-evaluation-harness reads them.";
    Route::get("/tokenizer_info", get(tokenizer_info), about)
        .of_a_model()
        .answers::<TokenizerInfo>()
}

/// The tokenizer in the model's file; what it does not have is null.
#[derive(Serialize, ToSchema)]
struct TokenizerInfo {
    bos_token: Option<String>,
    eos_token: Option<String>,
    pad_token: Option<String>,
    unk_token: Option<String>,
    /// Whether BOS is added before a text.
    add_bos_token: bool,
    chat_template: Option<String>,
    /// "nfc" if texts are composed before they are tokenized (`model.normalize`).
    normalizer: Option<&'static str>,
    /// Tokens in the vocabulary.
    vocab_size: usize,
    /// The context length.
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
        normalizer: match vocab.normalization() {
            Normalize::None => None,
            Normalize::Nfc => Some("nfc"),
        },
        vocab_size: vocab.len(),
        model_max_length: served.engine.context_length(),
    }))
}
