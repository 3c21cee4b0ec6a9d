//! `POST /v1/chat/completions`: a conversation is written out by the model's template, and gone on with as any prompt.

mod answer;
mod prompt;
mod request;
mod template;
mod tools;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::json;

use super::AppState;
use super::answer::{Answer, Head, Usage, gather};
use super::body::JsonObject;
use super::completions::Prompt;
use super::error::ApiError;
use super::fields::Fields;
use super::generate::{Entries, Generate, Room, Wanted};
use super::guard::Client;
use super::input::{Input, Tokenising};
use super::models::{Served, model_field};
use super::receipt::{PendingReceipt, Receipt, ReceiptRoute};
use super::route::Route;
use super::stream;
use super::structured::Structured;
use crate::engine::{Generation, Request, Rows};
use crate::logprobs::LogprobSpec;
use crate::model::Token;
use crate::sampling::Watch;
use answer::{ChatPiece, Choice, Streamed, View};
pub use prompt::{Rendered, model_template, render};
pub use request::Conversation;
use request::{ChatRequest, ToolChoice};
pub use template::render_template;
use tools::{Calls, Format};

const PATH: &str = "/v1/chat/completions";

pub fn route() -> Route {
    Route::post(
        PATH,
        post(create),
        "Answers a conversation, written out by the model's chat template, with log-probabilities if asked for.",
        |served| {
            let sample = json!({"messages": [{"role": "user", "content": "Hello"}]});
            Fields::describe(sample, |fields| read(fields, served))
        },
    )
    .answers_or_streams::<Choice, ChatPiece>("ChatCompletion")
}

/// Reads the request, has its sequences run, and answers whole or as a stream.
async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, prepared) = state.prepare(body, prepare).await?;
    let Prepared {
        generate,
        view,
        prompt,
        sequences,
        entries,
        pending,
    } = prepared;
    let prompt_tokens = prompt.len();
    let receipt = match pending {
        Some(pending) => Some(pending.begin(&generate, &served).await?),
        None => None,
    };
    let generations = served
        .engine
        .submit(client.name, client.arrived, sequences)
        .await?;
    if generate.stream {
        let head = Head::new(
            "chatcmpl",
            "chat.completion.chunk",
            &served,
            generate.manner(),
        );
        let sources = generations.into_iter().enumerate();
        let sources = sources.map(|(index, generation)| stream::Source {
            prompt_tokens: (index == 0).then_some(prompt_tokens),
            show: Streamed::new(index, view.clone()),
            generation,
        });
        let sources = sources.collect();
        return Ok(stream::respond(head, sources, generate.include_usage));
    }
    let head = Head::new("chatcmpl", "chat.completion", &served, generate.manner());
    collect(head, &view, &prompt, generations, receipt)
        .await?
        .respond(&entries, &state)
        .await
}

/// Reads the fields: what the documents say of the route, too, comes from here.
fn read(fields: &mut Fields, served: &Served) -> Result<ChatRequest, ApiError> {
    model_field(fields)?;
    let request = ChatRequest::parse(fields, served)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(request)
}

/// A request that can be run.
struct Prepared {
    generate: Generate,
    view: View,
    /// Its tokens.
    prompt: Arc<[Token]>,
    sequences: Vec<Request>,
    /// What the answer may come to.
    entries: Entries,
    /// If a receipt is asked for.
    pending: Option<PendingReceipt>,
}

/// Checks a request and writes out its conversation: pure work, of milliseconds if it is long.
fn prepare(body: JsonObject, served: &Served) -> Result<Prepared, ApiError> {
    let pending = PendingReceipt::new(ReceiptRoute::Chat, &body.0);
    let ChatRequest {
        conversation,
        max_tokens,
        keeps,
        logprobs,
        tool_choice,
        parallel_tool_calls,
        mut generate,
    } = read(&mut Fields::new(body.0), served)?;
    let room = Room {
        param: "messages",
        max_tokens,
    };
    let tools = conversation.tools.clone();
    let Rendered { text, calls } = render(conversation, served)?;
    let vocab = served.model.vocab();
    let tokenising = Tokenising {
        adds_special: true,
        keeps,
    };
    let text = Input::Text(text);
    tokenising.check_length(&text, room, served)?;
    let prompt = Prompt::new(text, tokenising, vocab);
    let max_tokens = room.after(prompt.tokens.len(), served)?;
    // A receipt tells them, whether they are shown or not.
    let scored = logprobs.or(generate.receipt.then_some(0));
    let mut entries = Entries::default();
    entries.add(max_tokens * generate.n, scored.unwrap_or(0), served)?;
    let mut view = View {
        model: served.model.clone(),
        logprobs: logprobs.is_some(),
        calls: None,
        named: None,
    };
    match tool_choice {
        ToolChoice::None => {}
        ToolChoice::Auto => view.calls = Some(Calls::new(calls, &tools, parallel_tool_calls)),
        ToolChoice::Required => {
            view.calls = Some(Calls::new(calls, &tools, parallel_tool_calls));
            generate.follow(calls.structure(&tools, parallel_tool_calls), served)?;
        }
        ToolChoice::Named(name) => {
            let mut named = tools
                .iter()
                .filter(|tool| tool["function"]["name"] == name.as_str());
            let schema = named
                .next()
                .map(|tool| tools::parameters(&tool["function"]));
            view.calls = Some(Calls::new(Format::Arguments, &tools, false));
            view.named = Some(name);
            let structured = Structured::schema("tool_choice", schema.unwrap_or_default());
            generate.follow(structured, served)?;
        }
    }
    let wanted = Wanted {
        prompt: Arc::clone(&prompt.tokens),
        kept: Arc::default(),
        given: None,
        max_tokens,
        logprobs: scored.map(LogprobSpec::top),
        prompt_logprobs: None,
        rows: Rows::None,
        watch: Watch::default(),
        sequences: generate.n,
        deliver_end_token: false,
    };
    let sequences = generate.sequences(vec![wanted], served)?;
    Ok(Prepared {
        generate,
        view,
        prompt: prompt.tokens,
        sequences,
        entries,
        pending,
    })
}

async fn collect(
    head: Head,
    view: &View,
    prompt: &[Token],
    generations: Vec<Generation>,
    mut receipt: Option<Receipt>,
) -> Result<Answer<Choice>, ApiError> {
    let mut usage = Usage::default();
    let mut choices = Vec::with_capacity(generations.len());
    let mut all = Vec::with_capacity(generations.len());
    for (index, generation) in generations.into_iter().enumerate() {
        let gathered = gather(generation).await?;
        if index == 0 {
            usage.prompt(prompt.len(), gathered.prompt.cached_tokens);
        }
        usage.completion(gathered.tokens.len());
        choices.push(view.choice(index, &gathered));
        all.push(gathered);
    }
    if let Some(receipt) = &mut receipt {
        receipt.add(prompt, &all);
    }
    Ok(Answer {
        head,
        choices,
        usage,
        receipt,
    })
}
