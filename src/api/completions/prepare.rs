//! A checked request becomes sequences.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::answer::View;
use super::fork::{Fork, Forked};
use super::prompt::Prompt;
use super::request::CompletionRequest;
use super::scored_from::ScoredFrom;
use crate::api::bounds::{Entries, Room};
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::fork_cache::{ForkCache, ForkPoint};
use crate::api::generate::{Generate, Wanted};
use crate::api::input::{Input, Tokenising};
use crate::api::receipt::{PendingReceipt, ReceiptRoute};
use crate::api::run::Prepared;
use crate::api::served::Served;
use crate::api::token_options::OutputOptions;
use crate::config::Mode;
use crate::engine::PromptLogprobs;
use crate::logprobs::LogprobSpec;

/// What an answer needs to know about its request.
pub struct Asked {
    pub generate: Arc<Generate>,
    pub best_of: usize,
    pub options: Arc<OutputOptions>,
    /// Each has `best_of` sequences, in order.
    pub prompts: Vec<AskedPrompt>,
}

/// A prompt of a request.
pub struct AskedPrompt {
    pub view: View,
    /// What forks of its choices begin with. It has no completion yet, unless the request is a fork itself.
    pub point: ForkPoint,
}

/// Checks a request and tokenizes its prompts: CPU work, of milliseconds if a text is long or there is a grammar.
/// A fork continues an answer that this client may use.
pub fn prepare(
    body: Map<String, Value>,
    served: &Served,
    cache: &ForkCache,
    client: &str,
) -> Result<Prepared<Asked>, ApiError> {
    let receipt = PendingReceipt::new(ReceiptRoute::Completions, &body);
    let request = CompletionRequest::read(&mut Fields::new(body), served)?;
    let prepared = prepare_request(request, served, cache, client)?;
    let generate = &prepared.asked.generate;
    Ok(Prepared {
        receipt: receipt.map(|pending| (pending, Arc::clone(generate))),
        ..prepared
    })
}

/// Like [`prepare`], for a request that is read already; it gets no receipt.
pub fn prepare_request(
    request: CompletionRequest,
    served: &Served,
    cache: &ForkCache,
    client: &str,
) -> Result<Prepared<Asked>, ApiError> {
    let CompletionRequest {
        prompts,
        fork,
        max_tokens,
        options,
        echo,
        evaluates,
        scored_from,
        best_of,
        suffix,
        tokenising,
        mut generate,
    } = request;
    // `best_of` ranks by logprobs, whether they are shown or not.
    let logprobs = options
        .logprobs
        .clone()
        .or((best_of > generate.n || generate.receipt).then(LogprobSpec::default));
    let mut plan = Plan {
        served,
        max_tokens,
        best_of,
        options: Arc::new(options),
        echo,
        evaluates,
        scored_from,
        logprobs,
        asked: Vec::new(),
        wanted: Vec::new(),
        entries: Entries::default(),
        row_bytes: 0,
    };
    if let Some(fork) = fork {
        check_fork(&generate, served)?;
        let adapters = plan.fork(fork, cache, client)?;
        if adapters != generate.adapters {
            served.refuse_adapter(
                "model",
                "The answer to fork had other adapters: send the `model` of that request.",
            )?;
        }
        generate.adapters = adapters;
    }
    for input in prompts {
        let room = plan.room("prompt");
        let prompt = prompt(input, suffix.as_deref(), tokenising, room, served)?;
        plan.prompt(prompt)?;
    }
    plan.check_row_bytes()?;
    let sequences = generate.sequences(plan.wanted, served)?;
    let generate = Arc::new(generate);
    Ok(Prepared {
        sequences,
        entries: plan.entries,
        adapters: generate.adapters.clone(),
        exact: generate.exact,
        receipt: None,
        asked: Asked {
            generate,
            best_of,
            options: plan.options,
            prompts: plan.asked,
        },
    })
}

/// The sequences of a request, collected prompt by prompt.
struct Plan<'a> {
    served: &'a Served,
    /// See [`CompletionRequest::max_tokens`].
    max_tokens: Option<usize>,
    best_of: usize,
    options: Arc<OutputOptions>,
    echo: bool,
    /// See [`CompletionRequest::evaluates`].
    evaluates: bool,
    scored_from: Option<ScoredFrom>,
    /// Of generated tokens.
    logprobs: Option<LogprobSpec>,
    asked: Vec<AskedPrompt>,
    wanted: Vec<Wanted>,
    entries: Entries,
    /// The size of all whole rows of logits, at most.
    row_bytes: usize,
}

impl Plan<'_> {
    fn room(&self, param: &'static str) -> Room {
        Room {
            param,
            max_tokens: self.max_tokens,
        }
    }

    /// Adds the continuation of an earlier answer; returns that answer's adapters.
    fn fork(
        &mut self,
        fork: Fork,
        cache: &ForkCache,
        client: &str,
    ) -> Result<crate::model::Adapters, ApiError> {
        let served = self.served;
        let Forked {
            point,
            adapters,
            token,
        } = fork.find(cache, client, served)?;
        let prompt = Prompt::forked([&point.prompt[..], &point.tokens].concat());
        let length = prompt.tokens.len();
        let max_tokens = self.room("fork").after_fork(length, served)?;
        if self.options.first_row().is_some_and(|first| first < length) {
            return Err(ApiError::field(
                "logits",
                format!(
                    "`logits.positions` must be {length} or more here: {length} tokens precede the fork."
                ),
            ));
        }
        self.count(0, max_tokens)?;
        self.wanted.push(Wanted {
            prompt: Arc::clone(&point.prompt),
            forced_prefix: point.tokens.as_slice().into(),
            forced_token: token,
            max_tokens,
            logprobs: self.logprobs.clone(),
            // So that the prompt has the same bits as in that answer.
            prompt_logprobs: point.scored.then(|| PromptLogprobs {
                spec: LogprobSpec::top(0),
                from: point.prompt.len(),
            }),
            rows: self.options.rows_of(false, length),
            watch: self.options.watch.clone(),
            sequences: self.best_of,
            deliver_end_token: false,
        });
        let (model, options) = (served.model.clone(), Arc::clone(&self.options));
        let view = View {
            base: point.base,
            ..View::new(model, Arc::new(prompt), false, options)
        };
        self.asked.push(AskedPrompt { view, point });
        Ok(adapters)
    }

    fn prompt(&mut self, prompt: Prompt) -> Result<(), ApiError> {
        let (echo, length) = (self.echo, prompt.tokens.len());
        let max_tokens = self.room("prompt").after(length, self.served)?;
        self.count(if echo { length } else { 0 }, max_tokens)?;
        if let Some(top) = self.options.prompt_logprobs {
            self.entries.add(length * self.best_of, top, self.served)?;
        }
        let from = match &self.scored_from {
            Some(scored_from) => scored_from.of(self.asked.len(), length)?,
            None => 1,
        };
        let prompt_logprobs = self.options.prompt_logprobs(echo, length, from);
        // The score of no token asks for the whole prompt's evaluation.
        let prompt_logprobs = prompt_logprobs.or(self.evaluates.then(|| PromptLogprobs {
            spec: LogprobSpec::top(0),
            from: length,
        }));
        let scored = prompt_logprobs.is_some();
        self.wanted.push(Wanted {
            prompt: Arc::clone(&prompt.tokens),
            forced_prefix: Arc::default(),
            forced_token: None,
            max_tokens,
            logprobs: self.logprobs.clone(),
            prompt_logprobs,
            rows: self.options.rows_of(echo, length),
            watch: self.options.watch.clone(),
            sequences: self.best_of,
            deliver_end_token: echo,
        });
        let (model, options) = (self.served.model.clone(), Arc::clone(&self.options));
        let view = View::new(model, Arc::new(prompt), echo, options);
        let point = ForkPoint {
            prompt: Arc::clone(&view.prompt.tokens),
            scored,
            base: view.base,
            tokens: Vec::new(),
        };
        self.asked.push(AskedPrompt { view, point });
        Ok(())
    }

    /// Adds the maximum size of the answer for a prompt's sequences.
    fn count(&mut self, echoed: usize, generated: usize) -> Result<(), ApiError> {
        let (served, sequences) = (self.served, self.best_of);
        let tokens = (echoed + generated) * sequences;
        self.entries
            .add(tokens, self.options.alternatives(), served)?;
        let vocab = served.model.vocab();
        let rows = self.options.row_bytes(echoed, generated, vocab);
        self.row_bytes = rows
            .saturating_mul(sequences)
            .saturating_add(self.row_bytes);
        Ok(())
    }

    fn check_row_bytes(&mut self) -> Result<(), ApiError> {
        let (bytes, most) = (self.row_bytes, self.served.config.limits.logits_bytes);
        if bytes > most {
            return Err(ApiError::field(
                "logits",
                format!(
                    "The rows of `logits` could have {bytes} bytes, but one answer may have at most {most}. Ask for fewer \
                     `positions`, tokens or choices, or for \"float16\"."
                ),
            )
            .code("answer_too_large"));
        }
        // An entry has about twenty bytes.
        self.entries.0 = self.entries.0.saturating_add(bytes / 20);
        Ok(())
    }
}

/// Rejects what a fork cannot have.
fn check_fork(generate: &Generate, served: &Served) -> Result<(), ApiError> {
    if generate.receipt {
        return Err(ApiError::field(
            "receipt",
            "`receipt` with `fork` is not supported, because the forked answer is not kept forever. Send the tokens as \
             `prompt`.",
        ));
    }
    if generate.exact && served.engine.mode() != Some(Mode::Exact) {
        return Err(ApiError::field(
            "exact",
            "`exact` with `fork` needs a server in exact mode: in other modes an answer's cells are not exact.",
        ));
    }
    Ok(())
}

/// Tokenizes a prompt; one that cannot fit is rejected first.
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
            "`suffix` needs a `prompt` that is a string.",
        )),
        (None, input) => {
            tokenising.check_length(&input, room, served)?;
            Ok(Prompt::new(input, tokenising, vocab))
        }
    }
}
