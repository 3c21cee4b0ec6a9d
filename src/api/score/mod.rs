//! `POST /v1/score`: how likely each of some choices is to follow a stem.

mod answer;
mod plan;
mod request;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::json;

use super::body::JsonObject;
use super::client::Client;
use super::error::ApiError;
use super::fields::Fields;
use super::run::{Kind, run};
use super::state::{AppState, Route};
use answer::Scores;
use plan::{Asked, prepare};
use request::ScoreRequest;

const KIND: Kind = Kind {
    path: "/v1/score",
    id: "score",
    object: "score",
};

pub fn route() -> Route {
    Route::post(
        KIND.path,
        post(create),
        "Scores choices after a stem: how likely does the model find each of these answers?",
        |served| {
            let sample = json!({"stem": "a", "choices": ["b"]});
            Fields::describe(sample, |fields| ScoreRequest::read(fields, served))
        },
    )
    .answers::<Scores>()
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let mut running = run(&state, client, body, &KIND, prepare).await?;
    let Asked { items, lengths } = std::mem::take(&mut running.asked);
    let mut scored = Vec::with_capacity(lengths.len());
    for length in lengths {
        scored.push(running.scores(length).await?);
    }
    let vocab = running.served.model.vocab();
    let items = items.into_iter().enumerate();
    let data = items.map(|(index, item)| item.answer(index, &scored, vocab));
    let scores = Scores {
        data: data.collect(),
        usage: running.usage(),
        head: running.head,
    };
    state.respond(scores, &running.entries).await
}
