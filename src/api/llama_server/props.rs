//! `GET /props`: what llama-server's clients want to know before they ask.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::settings;
use crate::api::chat;
use crate::api::error::ApiError;
use crate::api::rerank;
use crate::api::served::ModelQuery;
use crate::api::state::{AppState, Route};
use crate::model::{Token, llama_cpp_version};

pub fn route() -> Route {
    let about = "The context length, defaults, chat template and special tokens, as llama-server's clients read them.";
    Route::get("/props", get(props), about)
        .of_a_model()
        .answers::<Props>()
}

/// A model and how it is served.
#[derive(Serialize, ToSchema)]
struct Props {
    default_generation_settings: DefaultSettings,
    /// How many sequences run at once.
    total_slots: usize,
    /// The name that the client used.
    model_alias: String,
    /// The name of the model's file, without folder and extension.
    model_path: String,
    /// Empty if the model has none.
    chat_template: String,
    /// Empty if the model has none.
    bos_token: String,
    /// Empty if the model has none.
    eos_token: String,
    modalities: Modalities,
    /// The versions of Candor and llama.cpp.
    build_info: String,
    /// Always false: there is no `/slots`.
    endpoint_slots: bool,
    /// Always false: nothing can be set here.
    endpoint_props: bool,
    /// Always true.
    endpoint_metrics: bool,
    /// Always false.
    is_sleeping: bool,
}

#[derive(Serialize, ToSchema)]
struct DefaultSettings {
    /// Maximum number of tokens of a prompt and its completion together; for a reranker, of a query and a document.
    n_ctx: usize,
    /// What a request has that does not set it: as in `generation_settings` of answers.
    params: Map<String, Value>,
}

/// What a prompt may have besides text: nothing.
#[derive(Serialize, ToSchema)]
struct Modalities {
    vision: bool,
    video: bool,
    audio: bool,
}

async fn props(
    State(state): State<AppState>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Json<Props>, ApiError> {
    let served = state.serves_query(query).await?;
    let vocab = served.model.vocab();
    let literal = |token: Option<Token>| {
        let bytes = token.map(|token| vocab.literal(token));
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    };
    Ok(Json(Props {
        default_generation_settings: DefaultSettings {
            n_ctx: rerank::most_tokens(&served).unwrap_or_else(|_| served.engine.context_length()),
            params: settings::defaults(&served),
        },
        total_slots: served.config.engine.parallel_sequences,
        bos_token: literal(vocab.bos()),
        eos_token: literal(vocab.eos()),
        chat_template: chat::model_template(&served).unwrap_or_default(),
        modalities: Modalities {
            vision: false,
            video: false,
            audio: false,
        },
        build_info: format!(
            "candor {}, llama.cpp {}",
            env!("CARGO_PKG_VERSION"),
            llama_cpp_version()
        ),
        endpoint_slots: false,
        endpoint_props: false,
        endpoint_metrics: true,
        is_sleeping: false,
        model_path: served.model.name().to_owned(),
        model_alias: served.name,
    }))
}
