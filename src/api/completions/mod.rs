//! `POST /v1/completions`.

mod answer;
mod arrays;
mod fork;
mod prompt;
mod recent;
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
use super::receipt::{PendingReceipt, Receipt, ReceiptRoute};
use super::route::Route;
use super::stream;
use crate::config::Mode;
use crate::engine::{Generation, Request};
use crate::logprobs::LogprobSpec;
use answer::{Choice, Streamed, View};
use fork::Forked;
pub use prompt::Prompt;
pub use recent::Recent;
use recent::{Origin, Past};
use request::CompletionRequest;
use rows::{NPY, npy};
use telling::Telling;

const PATH: &str = "/v1/completions";

pub fn route() -> Route {
    Route::post(
        PATH,
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
    // Of others than those with keys nobody knows for certain who they are.
    let has_keys = !state.config.server.api_keys.is_empty();
    let owner = has_keys.then(|| Arc::clone(&client.name));
    let (recent, name) = (state.recent.clone(), Arc::clone(&client.name));
    let prepare = move |body, served: &Served| prepare(body, served, &recent, &name);
    let (served, prepared) = state.prepare(body, prepare).await?;
    let Prepared {
        generate,
        best_of,
        telling,
        prompts,
        sequences,
        entries,
        pending,
    } = prepared;
    let receipt = match pending {
        Some(pending) => Some(pending.begin(&generate, &served).await?),
        None => None,
    };
    let generations = served
        .engine
        .submit(client.name, client.arrived, sequences)
        .await?;
    let head = Head::new("cmpl", "text_completion", &served, generate.manner());
    let id: Arc<str> = head.id.as_str().into();
    let origin = Origin {
        client: owner,
        model: served.number,
        model_name: served.name,
        fingerprint: head.system_fingerprint.clone(),
        adapters: generate.adapters,
        choices: Vec::new(),
    };
    if generate.stream {
        let asked = |index: usize| &prompts[index / generate.n];
        // It may be gone on from before it ends.
        let choices = 0..generations.len();
        let choices = choices.map(|index| asked(index).past.clone()).collect();
        state.recent.keep(&id, Origin { choices, ..origin });
        let sources = generations.into_iter().enumerate();
        let sources = sources.map(|(index, generation)| {
            let view = asked(index).view.clone();
            let first = index % generate.n == 0;
            stream::Source {
                prompt_tokens: first.then_some(view.prompt.tokens.len()),
                show: Streamed {
                    id: Arc::clone(&id),
                    recent: state.recent.clone(),
                    index,
                    view,
                    generated: 0,
                },
                generation,
            }
        });
        let sources = sources.collect();
        return Ok(stream::respond(head, sources, generate.include_usage));
    }
    let (answer, choices) =
        collect(head, generate.n, best_of, prompts, generations, receipt).await?;
    state.recent.keep(&id, Origin { choices, ..origin });
    let accept = headers.get(header::ACCEPT);
    if let Some(rows) = &telling.rows
        && accept.is_some_and(|accept| accept.as_bytes() == NPY.as_bytes())
    {
        let (number, vocabulary) = (rows.number, served.model.vocab().len());
        let choices = answer.choices.into_iter();
        let all: Vec<_> = choices.filter_map(|choice| choice.logits).collect();
        let file = state
            .finish(move || npy(number, vocabulary, all.iter()))
            .await?;
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
    prompts: Vec<Asked>,
    /// `best_of` for each prompt, in order.
    sequences: Vec<Request>,
    /// What the answer may come to.
    entries: Entries,
    /// If a receipt is asked for.
    pending: Option<PendingReceipt>,
}

/// A prompt of a request.
struct Asked {
    view: View,
    /// What its choices begin with; the tokens, unless this is a fork, are none.
    past: Past,
}

/// Checks a request and makes tokens of its prompts: pure work, of milliseconds if a text is long or there is a grammar.
/// A fork goes on from an answer that this client may use.
fn prepare(
    body: JsonObject,
    served: &Served,
    recent: &Recent,
    client: &str,
) -> Result<Prepared, ApiError> {
    let pending = PendingReceipt::new(ReceiptRoute::Completions, &body.0);
    let CompletionRequest {
        prompts,
        fork,
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
    let mut asked = Vec::new();
    let mut wanted = Vec::new();
    // best_of ranks by logprobs, whether they are shown or not.
    let logprobs = telling
        .tell
        .clone()
        .or((best_of > generate.n || generate.receipt).then(LogprobSpec::default));
    if let Some(fork) = fork {
        check_fork(&generate, served)?;
        let Forked {
            past,
            adapters,
            token,
        } = fork.find(recent, client, served)?;
        let prompt = Prompt::earlier([&past.prompt[..], &past.tokens].concat());
        let length = prompt.tokens.len();
        let room = Room {
            param: "fork",
            max_tokens,
        };
        let max_tokens = room.behind(length, served)?;
        if telling.first_row().is_some_and(|first| first < length) {
            return Err(ApiError::field(
                "logits",
                format!(
                    "`logits.positions` must not be below {length} here, the tokens that stand before the fork."
                ),
            ));
        }
        entries.add(max_tokens * best_of, telling.alternatives(), served)?;
        row_bytes = telling
            .row_bytes(0, max_tokens, served.model.vocab())
            .saturating_mul(best_of);
        generate.adapters = adapters;
        wanted.push(Wanted {
            prompt: Arc::clone(&past.prompt),
            kept: past.tokens.as_slice().into(),
            given: token,
            max_tokens,
            logprobs: logprobs.clone(),
            // So that the prompt has the bits that it had.
            prompt_logprobs: past.scored.then(|| LogprobSpec::top(0)),
            rows: telling.rows_of(false, length),
            watch: telling.watch.clone(),
            sequences: best_of,
            deliver_end_token: false,
        });
        let (model, telling) = (served.model.clone(), Arc::clone(&telling));
        let view = View {
            base: past.base,
            ..View::new(model, Arc::new(prompt), false, telling)
        };
        asked.push(Asked { view, past });
    }
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
        let prompt_logprobs = telling.of_prompt(echo, prompt.tokens.len());
        let scored = prompt_logprobs.is_some();
        wanted.push(Wanted {
            prompt: Arc::clone(&prompt.tokens),
            kept: Arc::default(),
            given: None,
            max_tokens,
            logprobs: logprobs.clone(),
            prompt_logprobs,
            rows: telling.rows_of(echo, prompt.tokens.len()),
            watch: telling.watch.clone(),
            sequences: best_of,
            deliver_end_token: echo,
        });
        let (model, telling) = (served.model.clone(), Arc::clone(&telling));
        let view = View::new(model, prompt, echo, telling);
        let past = Past {
            prompt: Arc::clone(&view.prompt.tokens),
            scored,
            base: view.base,
            tokens: Vec::new(),
        };
        asked.push(Asked { view, past });
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
    // What rows come to is written like so many entries, of some twenty bytes each.
    entries.0 = entries.0.saturating_add(row_bytes / 20);
    let sequences = generate.sequences(wanted, served)?;
    Ok(Prepared {
        generate,
        best_of,
        telling,
        prompts: asked,
        sequences,
        entries,
        pending,
    })
}

/// What a fork cannot have.
fn check_fork(generate: &Generate, served: &Served) -> Result<(), ApiError> {
    if generate.receipt {
        return Err(ApiError::field(
            "receipt",
            "`receipt` of a `fork` is not supported: the answer that it goes on from is not kept for ever. Send the tokens as \
             `prompt`.",
        ));
    }
    if generate.exact && served.engine.mode() != Some(Mode::Exact) {
        return Err(ApiError::field(
            "exact",
            "`exact` with `fork` needs a server in exact mode: elsewhere what was generated is evaluated as a prompt is.",
        ));
    }
    Ok(())
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

/// The answer, and what of it another may go on from.
async fn collect(
    head: Head,
    n: usize,
    best_of: usize,
    prompts: Vec<Asked>,
    generations: Vec<Generation>,
    mut receipt: Option<Receipt>,
) -> Result<(Answer<Choice>, Vec<Past>), ApiError> {
    let mut usage = Usage::default();
    let mut choices = Vec::with_capacity(prompts.len() * n);
    let mut pasts = Vec::with_capacity(prompts.len() * n);
    let mut generations = generations.into_iter();
    for Asked { view, past } in prompts {
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
        if let Some(receipt) = &mut receipt {
            receipt.add(&view.prompt.tokens, candidates.iter().take(n));
        }
        for gathered in candidates.iter().take(n) {
            choices.push(view.choice(choices.len(), gathered));
            let tokens = gathered.tokens.iter().map(|output| output.token);
            let tokens = tokens.filter(|&token| !view.model.vocab().is_end(token));
            pasts.push(Past {
                tokens: past.tokens.iter().copied().chain(tokens).collect(),
                ..past.clone()
            });
        }
    }
    let answer = Answer {
        head,
        choices,
        usage,
        receipt,
    };
    Ok((answer, pasts))
}
