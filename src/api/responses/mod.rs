//! `POST /v1/responses`: OpenAI's newer form of a chat, without what a server would have to store. A request becomes that of
//! a chat, and its answer is shown as items.

mod answer;
mod encoded;
mod event;
mod include;
mod input;
mod output;
mod reasoning;
mod request;
mod stored;
mod stream;
mod text;
mod tools;
mod turns;

use axum::Extension;
use axum::extract::State;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::body::JsonObject;
use super::chat;
use super::client::Client;
use super::error::ApiError;
use super::fields::Fields;
use super::receipt::{PendingReceipt, ReceiptRoute};
use super::run::{Kind, Prepared, run};
use super::served::Served;
use super::state::{AppState, Route};
use answer::{Repeated, Response};
use event::Event;
use output::Output;
use request::ResponsesRequest;

const KIND: Kind = Kind {
    path: "/v1/responses",
    id: "resp",
    object: "response",
};

pub fn route() -> Route {
    Route::post(
        KIND.path,
        post(create),
        "Answers a conversation in the form of OpenAI's responses, without storing it.",
        |served| {
            let sample = json!({"input": "Hello"});
            Fields::describe(sample, |fields| ResponsesRequest::read(fields, served))
        },
    )
    .answers_or_sends::<Response, Event>("Response")
}

/// What an answer needs to know about its request.
struct Asked {
    chat: chat::Asked,
    repeated: Repeated,
    encodes_reasoning: bool,
}

fn prepare(body: Map<String, Value>, served: &Served) -> Result<Prepared<Asked>, ApiError> {
    let receipt = PendingReceipt::new(ReceiptRoute::Responses, &body);
    let ResponsesRequest {
        chat,
        repeated,
        encodes_reasoning,
    } = ResponsesRequest::read(&mut Fields::new(body), served)?;
    let times = if chat.generate.stream {
        stream::TIMES
    } else {
        1
    };
    let mut prepared = chat::prepare_request(chat, receipt, times, served)?;
    // What is repeated may be as large as a body. An entry has about twenty bytes.
    let bytes = serde_json::to_vec(&repeated).map_or(0, |json| json.len());
    prepared.entries.0 = prepared.entries.0.saturating_add(bytes / 20);
    Ok(prepared.map(|chat| Asked {
        chat,
        repeated,
        encodes_reasoning,
    }))
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<axum::response::Response, ApiError> {
    let mut running = run(&state, client, body, &KIND, prepare).await?;
    let Asked {
        chat,
        repeated,
        encodes_reasoning,
    } = &running.asked;
    let mut response = Response::new(&running.head, repeated.clone());
    let is_streamed = chat.generate.stream;
    let mut output = Output::new(chat.view.clone(), *encodes_reasoning, is_streamed);
    let prompt = chat.prompt.clone();
    if is_streamed {
        let generation = running.generations.next().ok_or_else(ApiError::internal)?;
        let size = (state, &running.entries);
        return Ok(stream::respond(
            response,
            output,
            prompt.len(),
            generation,
            size,
        ));
    }
    let mut choices = running.choices(&prompt, 1, 1).await?;
    let gathered = choices.pop().ok_or_else(ApiError::internal)?;
    for token in &gathered.tokens {
        output.token(token);
    }
    output.finish(gathered.reason);
    if let Some(tokens) = output.reasoning_tokens() {
        running.count_reasoning(tokens);
    }
    let entries = std::mem::take(&mut running.entries);
    let answer = running.answer(output.items());
    response.end(gathered.reason, answer.choices, &answer.usage);
    response.receipt = answer.receipt;
    state.respond(response, &entries).await
}
