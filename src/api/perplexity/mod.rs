//! `POST /v1/perplexity`: how well a model predicts whole texts, which may be longer than its context.

mod answer;
mod request;
mod windows;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::body::JsonObject;
use super::bounds::Entries;
use super::client::Client;
use super::error::ApiError;
use super::fields::Fields;
use super::input::Input;
use super::run::{Kind, Prepared, run};
use super::scoring;
use super::served::Served;
use super::state::{AppState, Route};
use super::wording::counted;
use crate::engine::PromptLogprobs;
use crate::logprobs::LogprobSpec;
use crate::model::{Added, Token};
use answer::{Perplexities, Sums, Text};
use request::PerplexityRequest;

/// Maximum number of bytes of a text: the time to tokenize it is not always linear.
const TEXT_BYTES: usize = 4 << 20;

const KIND: Kind = Kind {
    path: "/v1/perplexity",
    id: "ppl",
    object: "perplexity",
};

pub fn route() -> Route {
    Route::post(
        KIND.path,
        post(create),
        "Computes the perplexity of whole texts, window by window.",
        |served| {
            Fields::describe(json!({"text": "a"}), |fields| {
                PerplexityRequest::read(fields, served)
            })
        },
    )
    .answers::<Perplexities>()
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let mut running = run(&state, client, body, &KIND, prepare).await?;
    let mut data = Vec::with_capacity(running.asked.len());
    for (index, text) in std::mem::take(&mut running.asked).into_iter().enumerate() {
        let mut sums = Sums::default();
        for window in &text.windows {
            // One by one, so that no more scores are in memory than necessary.
            let scores = running.scores(*window).await?;
            sums.add(&scores, running.served.model.vocab());
        }
        data.push(sums.answer(index, &text));
    }
    let perplexities = Perplexities {
        data,
        usage: running.usage(),
        head: running.head,
    };
    // However long the texts are, the answer is short.
    state.respond(perplexities, &Entries::default()).await
}

/// Checks a request and tokenizes its texts: CPU work, which takes a while if one is long.
fn prepare(body: Map<String, Value>, served: &Served) -> Result<Prepared<Vec<Text>>, ApiError> {
    let PerplexityRequest {
        texts: inputs,
        cut,
        adds_special,
        parses_special,
        adapters,
    } = PerplexityRequest::read(&mut Fields::new(body), served)?;
    let vocab = served.model.vocab();
    let most = served.config.limits.prompts;
    // Of the scores in memory, not of the answer.
    let mut entries = Entries::default();
    let mut sequences = Vec::new();
    let mut texts = Vec::new();
    for (place, input) in inputs.into_iter().enumerate() {
        let tokens = match input {
            Input::Tokens(tokens) => tokens,
            Input::Text(text) => {
                check_length(&text, place)?;
                let added = if adds_special {
                    Added::Before
                } else {
                    Added::Nothing
                };
                vocab.tokenize(&text, added, parses_special)
            }
        };
        let begin = vocab
            .bos()
            .filter(|&bos| vocab.adds_bos() && tokens.first() == Some(&bos));
        let mut text = Text {
            tokens: tokens.len(),
            windows: Vec::new(),
        };
        for (range, from) in cut.windows(tokens.len()) {
            if sequences.len() == most {
                return Err(ApiError::field(
                    "text",
                    format!(
                        "`text` makes more than the {most} windows that one request may have. Send less text, or choose a \
                         larger `window` or `stride`."
                    ),
                ));
            }
            let mut window: Arc<[Token]> = tokens[range].into();
            if let (Some(begin), Some(window)) = (begin, Arc::get_mut(&mut window)) {
                window[0] = begin;
            }
            let length = window.len();
            entries.add(length, 0, served)?;
            let spec = LogprobSpec::top(0);
            let scored = PromptLogprobs { spec, from };
            sequences.push(scoring::sequence(window, scored, &adapters, true));
            text.windows.push(length);
        }
        if text.windows.is_empty() {
            return Err(ApiError::field(
                "text",
                format!(
                    "The text at index {place} of `text` has {}, none of which is scored: a scored token needs `min_context` \
                     tokens before it in its window.",
                    counted(text.tokens, "token")
                ),
            ));
        }
        texts.push(text);
    }
    Ok(Prepared {
        sequences,
        entries,
        adapters,
        exact: false,
        receipt: None,
        asked: texts,
    })
}

fn check_length(text: &str, place: usize) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::field(
        "text",
        format!(
            "A text must have at most {TEXT_BYTES} bytes, but the one at index {place} of `text` has {}.",
            text.len()
        ),
    ))
}
