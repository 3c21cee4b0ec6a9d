//! `POST /v1/completions`.

mod answer;
mod arrays;
mod prompt;
mod request;
mod rows;
mod telling;
mod trace;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::AppState;
use super::answer::{Answer, Gathered, Head, Usage, gather};
use super::body::JsonObject;
use super::error::ApiError;
use super::fields::Fields;
use super::generate::{Entries, Generate, Room, Wanted};
use super::guard::Client;
use super::input::{Input, Tokenising};
use super::models::{Served, model_field};
use super::route::Route;
use super::stream;
use crate::engine::{Generation, Request};
use crate::logprobs::Tell;
use answer::{Choice, Streamed, View};
pub use prompt::Prompt;
use request::CompletionRequest;
use rows::{NPY, npy};
use telling::Telling;

pub fn route() -> Route {
    Route::post(
        "/v1/completions",
        post(create),
        "Goes on from a text, with the log-probabilities of its tokens if asked for.",
        |served| Fields::describe(json!({}), |fields| read(fields, served)),
    )
    .answers_or_streams::<Choice, Choice>("Completion")
}

/// Reads the request, has its sequences run, and answers whole or as a stream.
async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, prepared) = state.prepare(body, prepare).await?;
    let Prepared {
        generate,
        best_of,
        telling,
        views,
        sequences,
        entries,
    } = prepared;
    let generations = served
        .engine
        .submit(client.name, client.arrived, sequences)
        .await?;
    let head = Head::new("cmpl", "text_completion", &served, &generate.adapters);
    if generate.stream {
        let sources = generations.into_iter().enumerate();
        let sources = sources.map(|(index, generation)| {
            let view = views[index / generate.n].clone();
            let first = index % generate.n == 0;
            stream::Source {
                prompt_tokens: first.then_some(view.prompt.tokens.len()),
                show: Streamed::new(index, view),
                generation,
            }
        });
        let sources = sources.collect();
        return Ok(stream::respond(head, sources, generate.include_usage));
    }
    let answer = collect(head, generate.n, best_of, views, generations).await?;
    let accept = headers.get(header::ACCEPT);
    if let Some(rows) = &telling.rows
        && accept.is_some_and(|accept| accept.as_bytes() == NPY.as_bytes())
    {
        let vocabulary = served.model.vocab().len();
        let all = answer
            .choices
            .iter()
            .filter_map(|choice| choice.logits.as_ref());
        let file = npy(rows.number, vocabulary, all);
        return Ok(([(header::CONTENT_TYPE, NPY)], file).into_response());
    }
    answer.respond(&entries, &state).await
}

/// Reads the fields: what the documents say of the route, too, comes from here.
fn read(fields: &mut Fields, served: &Served) -> Result<CompletionRequest, ApiError> {
    model_field(fields)?;
    let request = CompletionRequest::parse(fields, served)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(request)
}

/// A request that can be run.
struct Prepared {
    generate: Generate,
    best_of: usize,
    telling: Arc<Telling>,
    /// One for each prompt.
    views: Vec<View>,
    /// `best_of` for each prompt, in order.
    sequences: Vec<Request>,
    /// What the answer may come to.
    entries: Entries,
}

/// Checks a request and makes tokens of its prompts: pure work, of milliseconds if a text is long or there is a grammar.
fn prepare(body: JsonObject, served: &Served) -> Result<Prepared, ApiError> {
    let CompletionRequest {
        prompts,
        max_tokens,
        telling,
        echo,
        best_of,
        suffix,
        tokenising,
        mut generate,
    } = read(&mut Fields::new(body.0), served)?;
    let room = Room {
        param: "prompt",
        max_tokens,
    };
    let telling = Arc::new(telling);
    let mut entries = Entries::default();
    let mut row_bytes: usize = 0;
    let mut views = Vec::new();
    let mut wanted = Vec::new();
    for input in prompts {
        let prompt = Arc::new(prompt(input, suffix.as_deref(), tokenising, room, served)?);
        let max_tokens = room.after(prompt.tokens.len(), served)?;
        let echoed = if echo { prompt.tokens.len() } else { 0 };
        entries.add(
            (echoed + max_tokens) * best_of,
            telling.alternatives(),
            served,
        )?;
        let rows = telling.row_bytes(echoed, max_tokens, served.model.vocab());
        row_bytes = rows.saturating_mul(best_of).saturating_add(row_bytes);
        wanted.push(Wanted {
            prompt: Arc::clone(&prompt.tokens),
            max_tokens,
            // best_of ranks by logprobs, whether they are shown or not.
            logprobs: telling
                .tell
                .clone()
                .or((best_of > generate.n).then(Tell::default)),
            prompt_logprobs: telling.of_prompt(echo, prompt.tokens.len()),
            rows: telling.rows_of(echo, prompt.tokens.len()),
            watch: telling.watch.clone(),
            sequences: best_of,
            deliver_end_token: echo,
        });
        views.push(View::new(
            Arc::clone(&served.model),
            prompt,
            echo,
            Arc::clone(&telling),
        ));
    }
    let most = served.config.limits.logits_bytes;
    if row_bytes > most {
        return Err(ApiError::field(
            "logits",
            format!(
                "The rows of `logits` could come to {row_bytes} bytes, but one answer may hold {most}. Ask for fewer `positions`, tokens \
                 or choices, or for \"float16\"."
            ),
        )
        .code("answer_too_large"));
    }
    let sequences = generate.sequences(wanted, served)?;
    Ok(Prepared {
        generate,
        best_of,
        telling,
        views,
        sequences,
        entries,
    })
}

/// Makes tokens of a prompt; what cannot fit is refused before it is tokenised, or written out.
fn prompt(
    input: Input,
    suffix: Option<&str>,
    tokenising: Tokenising,
    room: Room,
    served: &Served,
) -> Result<Prompt, ApiError> {
    let vocab = served.model.vocab();
    match (suffix, input) {
        (Some(suffix), Input::Text(prefix)) => {
            let least = vocab.least_tokens(&prefix) + vocab.least_tokens(suffix);
            room.check_length(least, false, served)?;
            Prompt::infill(&prefix, suffix, tokenising, vocab)
        }
        (Some(_), Input::Tokens(_)) => Err(ApiError::field(
            "suffix",
            "`suffix` needs a prompt that is a string.",
        )),
        (None, input) => {
            tokenising.check_length(&input, room, served)?;
            Ok(Prompt::new(input, tokenising, vocab))
        }
    }
}

async fn collect(
    head: Head,
    n: usize,
    best_of: usize,
    views: Vec<View>,
    generations: Vec<Generation>,
) -> Result<Answer<Choice>, ApiError> {
    let mut usage = Usage::default();
    let mut choices = Vec::with_capacity(views.len() * n);
    let mut generations = generations.into_iter();
    for view in views {
        let mut candidates: Vec<Gathered> = Vec::with_capacity(best_of);
        for generation in generations.by_ref().take(best_of) {
            candidates.push(gather(generation).await?);
        }
        let cached = candidates
            .first()
            .map_or(0, |gathered| gathered.prompt.cached_tokens);
        usage.prompt(view.prompt.tokens.len(), cached);
        usage.completion(candidates.iter().map(|it| it.tokens.len()).sum());
        if best_of > n {
            // Stable: of equals the earlier stays in front.
            candidates.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        }
        for gathered in candidates.iter().take(n) {
            choices.push(view.choice(choices.len(), gathered));
        }
    }
    Ok(Answer {
        head,
        choices,
        usage,
    })
}
