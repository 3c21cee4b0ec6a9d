//! `POST /v1/completions`.

mod answer;
mod fields;
mod prompt;
mod request;
mod stream;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::StreamExt;

use super::AppState;
use super::body::JsonObject;
use super::error::ApiError;
use super::guard::Client;
use crate::engine::{Delta, FinishReason, Generation, Request};
use crate::model::Model;
use answer::{Choice, Completion, Growing, Head, Usage, View};
use prompt::Prompt;
use request::{CompletionRequest, PromptInput};

/// Reads the request, has its sequences run, and answers whole or as a stream.
pub async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (preparing, model) = (state.clone(), state.engine.model()?);
    let work = state.work(move || prepare(body, &model, &preparing));
    let Prepared {
        request,
        name,
        views,
        sequences,
        entries,
    } = work.await??;
    let Client {
        name: client,
        arrived,
    } = client;
    let generations = state.engine.submit(client, arrived, sequences).await?;
    let head = Head {
        id: format!("cmpl-{:016x}{:016x}", random(), random()),
        object: "text_completion",
        created: super::now(),
        model: name,
        system_fingerprint: state.engine.fingerprint(),
    };
    if request.stream {
        let sources = generations
            .into_iter()
            .enumerate()
            .map(|(index, generation)| stream::Source {
                view: views[index / request.n].clone(),
                generation,
                counts_prompt: index % request.n == 0,
            });
        return Ok(stream::respond(
            head,
            sources.collect(),
            request.include_usage,
        ));
    }
    let answer = collect(head, &request, views, generations).await?;
    if entries <= WRITTEN_AT_ONCE_ENTRIES {
        return Ok(Json(answer).into_response());
    }
    let json = state.work(move || serde_json::to_vec(&answer)).await?;
    let json = json.map_err(|_| ApiError::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// A larger answer takes milliseconds to write.
const WRITTEN_AT_ONCE_ENTRIES: usize = 50_000;

/// A request that can be run.
struct Prepared {
    request: CompletionRequest,
    /// The model's, as the client has it.
    name: String,
    /// One for each prompt.
    views: Vec<View>,
    /// `best_of` for each prompt, in order.
    sequences: Vec<Request>,
    /// What the answer may come to.
    entries: usize,
}

/// Checks a request and makes tokens of its prompts: pure work, of milliseconds if a text is long or there is a grammar.
fn prepare(body: JsonObject, model: &Arc<Model>, state: &AppState) -> Result<Prepared, ApiError> {
    let context_length = state.engine.context_length();
    let limits = &state.config.limits;
    let mut request = CompletionRequest::parse(body.0, &state.config, model)?;
    let names = state.model_names()?;
    let name = match &request.model {
        Some(name) if names.contains(name) => name.clone(),
        Some(name) => return Err(ApiError::model_not_found(name)),
        None => names.into_iter().next().unwrap_or_default(),
    };
    let grammar = request.checked_grammar(model)?;
    if request.suffix.is_some() && request.echo && request.logprobs.is_some() {
        return Err(ApiError::field(
            "suffix",
            "`suffix` with `echo` and `logprobs` together is not supported.",
        ));
    }
    let seed = request.seed.unwrap_or_else(|| (random() >> 32) as u32);
    let stop: Arc<[String]> = std::mem::take(&mut request.stop).into();
    // best_of ranks by logprobs, whether they are shown or not.
    let logprobs = request
        .logprobs
        .or((request.best_of > request.n).then_some(0));
    let mut entries = 0;
    let mut views = Vec::new();
    let mut sequences = Vec::new();
    for input in std::mem::take(&mut request.prompts) {
        // What cannot fit is refused before it is tokenised, or written out.
        let least = match &input {
            PromptInput::Text(text) => model.vocab().least_tokens(text),
            PromptInput::Tokens(tokens) => tokens.len(),
        };
        let suffix = request.suffix.as_deref().unwrap_or_default();
        let least = least + model.vocab().least_tokens(suffix);
        if least > context_length {
            let exact = request.suffix.is_none() && matches!(input, PromptInput::Tokens(_));
            let tokens = if exact {
                least.to_string()
            } else {
                format!("at least {least}")
            };
            return Err(too_long(&tokens, &request, context_length));
        }
        let prompt = Arc::new(match (&request.suffix, input) {
            (Some(suffix), PromptInput::Text(prefix)) => {
                Prompt::infill(&prefix, suffix, model.vocab())?
            }
            (Some(_), PromptInput::Tokens(_)) => {
                return Err(ApiError::field(
                    "suffix",
                    "`suffix` needs a prompt that is a string.",
                ));
            }
            (None, input) => Prompt::new(input, model.vocab()),
        });
        let max_tokens = room(&prompt, &request, limits.prompt_tokens, context_length)?;
        let echoed = if request.echo { prompt.tokens.len() } else { 0 };
        let each = (echoed + max_tokens) * (logprobs.unwrap_or(0) + 1);
        entries += each * request.best_of;
        if entries > limits.answer_entries {
            return Err(ApiError::body(format!(
                "The answer could come to more than {} entries, which are echoed and generated tokens times `logprobs` + 1, \
                 over all choices. Ask for fewer prompts, choices, tokens or alternatives.",
                limits.answer_entries
            ))
            .code("answer_too_large"));
        }
        for choice in 0..request.best_of {
            let mut sampling = request.sampling.clone();
            sampling.grammar.clone_from(&grammar);
            sampling.seed = choice_seed(seed, choice);
            sequences.push(Request {
                prompt: Arc::clone(&prompt.tokens),
                max_tokens,
                logprobs,
                prompt_logprobs: request.logprobs.filter(|_| request.echo),
                sampling,
                stop: Arc::clone(&stop),
                cache_prompt: request.cache_prompt,
                streamed: request.stream,
                deliver_end_token: request.echo,
            });
        }
        views.push(View::new(
            Arc::clone(model),
            prompt,
            request.echo,
            request.logprobs.is_some(),
        ));
    }
    Ok(Prepared {
        request,
        name,
        views,
        sequences,
        entries,
    })
}

/// Tokens that may follow the prompt. As in the reference, a prompt must leave room for one, and what does not fit is
/// not made; a prompt that is only scored may fill the context.
fn room(
    prompt: &Prompt,
    request: &CompletionRequest,
    most: usize,
    context_length: usize,
) -> Result<usize, ApiError> {
    let length = prompt.tokens.len();
    if most > 0 && length > most {
        return Err(ApiError::field(
            "prompt",
            format!("This server takes prompts of at most {most} tokens, but yours has {length}."),
        )
        .code("context_length_exceeded"));
    }
    let fits = if request.max_tokens == Some(0) {
        length <= context_length
    } else {
        length < context_length
    };
    if !fits {
        return Err(too_long(&length.to_string(), request, context_length));
    }
    Ok(request
        .max_tokens
        .unwrap_or(usize::MAX)
        .min(context_length - length))
}

fn too_long(tokens: &str, request: &CompletionRequest, context_length: usize) -> ApiError {
    ApiError::field(
        "prompt",
        format!(
            "This model's maximum context length is {context_length} tokens. However, your prompt has {tokens} \
             tokens{}. Please shorten it.",
            if request.max_tokens == Some(0) { "" } else { ", and at least one more is to be made" }
        ),
    )
    .code("context_length_exceeded")
}

/// The first choice has the request's own seed; the others follow it.
fn choice_seed(seed: u32, choice: usize) -> u32 {
    let seed = seed.wrapping_add(choice as u32);
    // llama.cpp takes this one as a wish for a random seed.
    if seed == u32::MAX { 0 } else { seed }
}

async fn collect(
    head: Head,
    request: &CompletionRequest,
    views: Vec<View>,
    generations: Vec<Generation>,
) -> Result<Completion, ApiError> {
    let (mut prompt_tokens, mut completion_tokens, mut cached_tokens) = (0, 0, 0);
    let mut choices: Vec<Choice> = Vec::with_capacity(views.len() * request.n);
    let mut generations = generations.into_iter();
    for view in views {
        prompt_tokens += view.prompt.tokens.len();
        let mut candidates = Vec::with_capacity(request.best_of);
        for generation in generations.by_ref().take(request.best_of) {
            candidates.push(gather(view.clone(), generation).await?);
        }
        cached_tokens += candidates
            .first()
            .map_or(0, |(growing, _)| growing.cached_tokens);
        completion_tokens += candidates
            .iter()
            .map(|(growing, _)| growing.tokens)
            .sum::<usize>();
        if request.best_of > request.n {
            // Stable: of equals the earlier stays in front.
            candidates.sort_by(|a, b| b.0.mean_logprob().total_cmp(&a.0.mean_logprob()));
        }
        for (growing, reason) in candidates.into_iter().take(request.n) {
            choices.push(growing.finish(choices.len(), reason));
        }
    }
    Ok(Completion {
        head,
        choices,
        usage: Usage::new(prompt_tokens, completion_tokens, cached_tokens),
    })
}

/// All that a generation tells.
async fn gather(
    view: View,
    mut generation: Generation,
) -> Result<(Growing, FinishReason), ApiError> {
    let mut growing = Growing::new(view);
    while let Some(delta) = generation.next().await {
        match delta {
            Delta::Prompt(output) => growing.prompt(&output),
            Delta::Token(output) => growing.token(&output),
            Delta::Finished(reason) => return Ok((growing, reason)),
            Delta::Failed(error) => return Err(error.into()),
        }
    }
    Err(crate::engine::EngineError::Decode.into())
}

/// A random number; not for secrets. The standard library seeds each hasher anew.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
