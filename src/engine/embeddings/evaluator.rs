//! Evaluates texts for embeddings or scores, on its own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::pooling::Pooler;
use crate::config;
use crate::engine::admission::Permit;
use crate::engine::error::EngineError;
use crate::engine::memory::{Need, mib};
use crate::engine::shape::{context_shape, default_logits_rows};
use crate::engine::shared::Shared;
use crate::metrics;
use crate::model::{
    Context, ContextError, ContextShape, Model, Output, Pooling, Row, Runner, Runners, Token,
};

pub enum Message {
    Embed(Job),
    Close,
}

/// A text to evaluate.
pub struct Job {
    pub text: Arc<[Token]>,
    pub reply: oneshot::Sender<Result<Vec<f64>, EngineError>>,
    /// Released when it is done.
    pub permit: Permit,
}

/// What a text is evaluated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One vector, pooled from those of its tokens.
    Embedding(Pooling),
    /// One number.
    Score,
}

pub struct Evaluator {
    purpose: Purpose,
    shape: ContextShape,
    model: Arc<Model>,
    runners: Runners,
    shared: Arc<Shared>,
    is_closing: Arc<AtomicBool>,
}

impl Evaluator {
    /// For texts of at most `tokens` tokens.
    pub fn new(
        purpose: Purpose,
        model: &Arc<Model>,
        (settings, tokens): (&config::Engine, usize),
        runners: &Runners,
        shared: &Arc<Shared>,
        is_closing: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            purpose,
            shape: ContextShape {
                output: match purpose {
                    Purpose::Embedding(_) => Output::Embeddings,
                    Purpose::Score => Output::Scores,
                },
                ..shape(model, settings, tokens)
            },
            model: Arc::clone(model),
            runners: Arc::clone(runners),
            shared: Arc::clone(shared),
            is_closing: Arc::clone(is_closing),
        }
    }

    pub fn run(self, messages: &Receiver<Message>) {
        let mut idle_runner: Option<Box<dyn Runner>> = None;
        while let Ok(Message::Embed(job)) = messages.recv() {
            let Job {
                text,
                reply,
                permit,
            } = job;
            let is_wanted = || !reply.is_closed() && !self.is_closing.load(Ordering::SeqCst);
            if !is_wanted() {
                continue;
            }
            let runner = idle_runner.take();
            // A runner that failed is dropped in here, and the next text gets a new context.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let mut runner = match runner {
                    Some(runner) => runner,
                    None => self.new_runner()?,
                };
                let vector = self.evaluate(&mut *runner, &text, is_wanted)?;
                Ok((runner, vector))
            }))
            .unwrap_or(Err(EngineError::Decode));
            // The slot is free before the client gets its vector.
            drop(permit);
            let answer = match outcome {
                Ok((runner, vector)) => {
                    idle_runner = Some(runner);
                    vector.ok_or_else(EngineError::closing)
                }
                Err(error) => {
                    tracing::error!(%error, "embedding a text failed; the context is recreated");
                    Err(error)
                }
            };
            let _ = reply.send(answer);
        }
    }

    fn new_runner(&self) -> Result<Box<dyn Runner>, EngineError> {
        let context = Context::new(&self.model, self.shape.clone()).map_err(no_memory)?;
        let shape = &self.shape;
        let need = Need::of(&self.model, shape, 1);
        tracing::info!(
            purpose = ?self.purpose,
            tokens = shape.lane_tokens,
            rows = shape.batch_rows,
            kv_cache_mib = need.kv_cache.filter(|_| self.model.generates()).map(mib),
            rows_mib_at_most = mib(need.logits),
            "created the context for embeddings"
        );
        let mut runner = (self.runners)(self.shared.mailboxes.len(), context);
        // Requests for embeddings cannot choose adapters.
        runner.adapt(self.model.default_adapters());
        Ok(runner)
    }

    /// The text's vector, or its score alone; `None` if it is no longer needed.
    fn evaluate(
        &self,
        runner: &mut dyn Runner,
        text: &[Token],
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, EngineError> {
        let mut pooler = match self.purpose {
            Purpose::Embedding(pooling) => Some(Pooler::new(pooling, text.len())),
            Purpose::Score => None,
        };
        runner.cut(0, 0);
        for (piece, tokens) in text.chunks(self.shape.batch_rows).enumerate() {
            if !is_wanted() {
                return Ok(None);
            }
            let first = piece * self.shape.batch_rows;
            let rows: Vec<Row> = (first..)
                .zip(tokens)
                .map(|(position, &token)| Row {
                    token,
                    position,
                    lane: 0,
                    logits: true,
                })
                .collect();
            let active = self.shared.cores.evaluate();
            let outcome = runner.decode(&rows, self.shared.threads(false));
            drop(active);
            metrics::decoded(outcome.is_ok());
            if let Err(error) = outcome {
                tracing::error!(%error, "a decode failed");
                return Err(EngineError::Decode);
            }
            for row in 0..rows.len() {
                if let Some(pooler) = pooler.as_mut().filter(|it| it.wants(first + row)) {
                    pooler.add(runner.embedding(row).ok_or(EngineError::Decode)?);
                }
            }
        }
        // A NaN would stay in the context's memory, so the context is recreated.
        let vector = match pooler {
            Some(pooler) => pooler.vector(),
            None => {
                let score = runner.score(0).filter(|score| score.is_finite());
                score.map(|score| vec![score.into()])
            }
        };
        let vector = vector.ok_or(EngineError::Decode)?;
        metrics::embedded(text.len());
        Ok(Some(vector))
    }
}

/// One lane for a whole text. With causal attention a text is evaluated in pieces, which bounds the memory for logits,
/// which embeddings do not use; otherwise it must be evaluated at once.
fn shape(model: &Model, settings: &config::Engine, tokens: usize) -> ContextShape {
    let rows = match settings.logits_rows {
        _ if !model.is_causal() => tokens,
        0 => default_logits_rows(model.vocab().len()),
        rows => rows,
    };
    context_shape(settings, 1, tokens, rows, rows)
}

/// The log gets the cause, the client the advice to try again.
fn no_memory(error: ContextError) -> EngineError {
    tracing::error!(%error, "cannot create the context for embeddings");
    EngineError::Unavailable(
        "There is not enough memory for embeddings at the moment. Try again shortly.".to_owned(),
    )
}
