//! The common steps of all routes whose requests run as sequences: prepare, submit, collect.

use std::sync::Arc;
use std::vec::IntoIter;

use serde_json::{Map, Value};

use super::answer::{Answer, Head, Usage};
use super::bits_class;
use super::body::JsonObject;
use super::bounds::Entries;
use super::client::Client;
use super::error::ApiError;
use super::gathered::{Gathered, gather};
use super::generate::Generate;
use super::receipt::{PendingReceipt, Receipt};
use super::served::Served;
use super::state::AppState;
use crate::engine::{Generation, Request};
use crate::logprobs::TokenLogprob;
use crate::model::{Adapters, Token};

/// The answers of a route.
pub struct Kind {
    pub path: &'static str,
    /// What their ids begin with.
    pub id: &'static str,
    pub object: &'static str,
}

/// A request that can run.
pub struct Prepared<T> {
    pub sequences: Vec<Request>,
    pub entries: Entries,
    /// What the bits depend on besides model and tokens: the adapters, and whether the request asks for exactness.
    pub adapters: Adapters,
    pub exact: bool,
    /// If the request asks for a receipt.
    pub receipt: Option<(PendingReceipt, Arc<Generate>)>,
    /// What the route needs for its answer.
    pub asked: T,
}

impl<T> Prepared<T> {
    /// The same request for a route that needs something else for its answer.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Prepared<U> {
        Prepared {
            sequences: self.sequences,
            entries: self.entries,
            adapters: self.adapters,
            exact: self.exact,
            receipt: self.receipt,
            asked: map(self.asked),
        }
    }
}

/// A request that is running.
pub struct Running<T> {
    pub served: Served,
    pub head: Head,
    /// The generations that are not collected yet, in the order of the sequences.
    pub generations: IntoIter<Generation>,
    pub entries: Entries,
    pub adapters: Adapters,
    pub asked: T,
    usage: Usage,
    receipt: Option<Receipt>,
}

/// Prepares a request on the blocking pool, and submits its sequences.
pub async fn run<T: Send + 'static>(
    state: &AppState,
    client: Client,
    JsonObject(body): JsonObject,
    kind: &Kind,
    prepare: impl FnOnce(Map<String, Value>, &Served) -> Result<Prepared<T>, ApiError> + Send + 'static,
) -> Result<Running<T>, ApiError> {
    let (served, prepared) = state.prepare(body, prepare).await?;
    if prepared.exact {
        bits_class::set(served.engine.bits_class(true)?);
    }
    let receipt = match prepared.receipt {
        Some((pending, generate)) => Some(pending.begin(&generate, &served).await?),
        None => None,
    };
    let generations = served
        .engine
        .submit(client.name, client.arrived, prepared.sequences)
        .await?;
    let bits = (&prepared.adapters, prepared.exact);
    Ok(Running {
        head: Head::new(kind.id, kind.object, &served, bits),
        served,
        generations: generations.into_iter(),
        entries: prepared.entries,
        adapters: prepared.adapters,
        asked: prepared.asked,
        usage: Usage::default(),
        receipt,
    })
}

impl<T> Running<T> {
    /// Collects the choices of the next prompt: `n` of `best_of`, the most likely first if some are dropped.
    pub async fn choices(
        &mut self,
        prompt: &[Token],
        n: usize,
        best_of: usize,
    ) -> Result<Vec<Gathered>, ApiError> {
        let mut choices: Vec<Gathered> = Vec::with_capacity(best_of);
        for generation in self.generations.by_ref().take(best_of) {
            choices.push(gather(generation).await?);
        }
        let cached = choices.first().map_or(0, |it| it.prompt.cached_tokens);
        self.usage.prompt(prompt.len(), cached);
        let generated = choices.iter().map(|it| it.tokens.len()).sum();
        self.usage.completion(generated);
        if best_of > n {
            // A stable sort: among equal choices the earlier one stays first.
            choices.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
            choices.truncate(n);
        }
        if let Some(receipt) = &mut self.receipt {
            receipt.add(prompt, &choices);
        }
        Ok(choices)
    }

    /// Collects the scores of the next sequence, which has a prompt of `length` tokens.
    pub async fn scores(&mut self, length: usize) -> Result<Vec<Arc<TokenLogprob>>, ApiError> {
        let generation = self.generations.next().ok_or_else(ApiError::internal)?;
        let prompt = gather(generation).await?.prompt;
        self.usage.prompt(length, prompt.cached_tokens);
        Ok(prompt.logprobs)
    }

    /// Counts generated tokens of reasoning.
    pub fn count_reasoning(&mut self, tokens: usize) {
        self.usage.reasoning(tokens);
    }

    /// The tokens used so far.
    pub fn usage(&self) -> Usage {
        self.usage.clone()
    }

    /// The answer with these choices.
    pub fn answer<C>(self, choices: Vec<C>) -> Answer<C> {
        Answer {
            head: self.head,
            choices,
            prompt_token_ids: None,
            prompt_logprobs: None,
            usage: self.usage,
            receipt: self.receipt,
        }
    }
}
