//! The handle to the thread that makes embeddings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::evaluator::{Evaluator, Job, Message, Purpose};
use super::pooling::{choose, ranks, unit};
use crate::config::Config;
use crate::engine::admission::Admission;
use crate::engine::alive::Alive;
use crate::engine::error::{EngineError, StartError};
use crate::engine::shared::Shared;
use crate::engine::thread::spawn;
use crate::metrics;
use crate::model::{Model, Pooling, Runners, Token};

/// Texts to embed.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// Token ids within the vocabulary; each text has at least one, at most [`EmbeddingBounds::tokens`].
    pub texts: Vec<Arc<[Token]>>,
    /// How many numbers of each vector to keep, from 1 to [`EmbeddingBounds::dimensions`].
    pub dimensions: usize,
}

/// The limits of a model's embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingBounds {
    /// Maximum number of tokens of a text.
    pub tokens: usize,
    /// Numbers of a whole vector.
    pub dimensions: usize,
}

/// Makes the embeddings of a model.
pub struct Embeddings {
    /// The pooling, or why the model makes no embeddings.
    pooling: Result<Pooling, EngineError>,
    /// Whether it ranks texts instead.
    ranks: bool,
    bounds: EmbeddingBounds,
    admission: Arc<Admission>,
    mailbox: Sender<Message>,
    is_closing: Arc<AtomicBool>,
}

impl Embeddings {
    /// Starts the thread. It creates its context with the first text.
    pub fn start(
        model: &Arc<Model>,
        config: &Config,
        runners: &Runners,
        shared: &Arc<Shared>,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let pooling = choose(config.embeddings.pooling, model.named_pooling());
        let ranks = ranks(config.embeddings.pooling, model.named_pooling());
        let purpose = match pooling {
            _ if ranks => Purpose::Score,
            Ok(pooling) => Purpose::Embedding(pooling),
            Err(_) => Purpose::Embedding(Pooling::Mean),
        };
        let tokens = config.engine.context_length.min(model.trained_context());
        let is_closing = Arc::new(AtomicBool::new(false));
        let (mailbox, messages) = mpsc::channel();
        let evaluator = Evaluator::new(
            purpose,
            model,
            (&config.engine, tokens),
            runners,
            shared,
            &is_closing,
        );
        let handle = spawn("embeddings", move || evaluator.run(&messages))?;
        let embeddings = Self {
            pooling,
            ranks,
            bounds: EmbeddingBounds {
                tokens,
                dimensions: model.embedding_width(),
            },
            admission: Admission::new(
                1,
                Alive::new(1),
                config.limits.queue_length,
                Duration::from_millis(config.limits.queue_timeout_ms),
            ),
            mailbox,
            is_closing,
        };
        Ok((embeddings, handle))
    }

    /// The limits of requests, or why the model makes no embeddings.
    pub fn bounds(&self) -> Result<EmbeddingBounds, EngineError> {
        self.pooling.clone().map(|_| self.bounds)
    }

    /// Maximum number of tokens of a text that is ranked, or why the model ranks none.
    pub fn rank_tokens(&self) -> Result<usize, EngineError> {
        if self.ranks {
            Ok(self.bounds.tokens)
        } else {
            Err(EngineError::NoRanking)
        }
    }

    /// The scores of the texts, in order. Dropping the future stops the work within one decode.
    pub async fn rank(
        &self,
        client: &Arc<str>,
        arrived: Instant,
        texts: Vec<Arc<[Token]>>,
    ) -> Result<Vec<f32>, EngineError> {
        self.rank_tokens()?;
        let scores = self.evaluate(client, arrived, texts).await?;
        let scores = scores.into_iter().map(|score| score.first().copied());
        let scores = scores.map(|score| score.map(|score| score as f32));
        scores.collect::<Option<_>>().ok_or(EngineError::Decode)
    }

    /// The vectors of the texts, in order, each of length 1. Dropping the future stops the work within one decode.
    pub async fn embed(
        &self,
        client: &Arc<str>,
        arrived: Instant,
        request: EmbeddingRequest,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.pooling.clone()?;
        let vectors = self.evaluate(client, arrived, request.texts).await?;
        let vectors = vectors.into_iter();
        let vectors = vectors.map(|vector| unit(vector, request.dimensions));
        vectors.collect::<Option<_>>().ok_or(EngineError::Decode)
    }

    /// What each text evaluates to, in order.
    async fn evaluate(
        &self,
        client: &Arc<str>,
        arrived: Instant,
        texts: Vec<Arc<[Token]>>,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let permit = if vectors.is_empty() {
                let permit = self.admission.enter(client, None).await?;
                metrics::waited(arrived.elapsed());
                permit
            } else {
                self.admission.extend(client, None).await?
            };
            let (reply, answer) = oneshot::channel();
            self.mailbox
                .send(Message::Embed(Job {
                    text,
                    reply,
                    permit,
                }))
                .map_err(|_| EngineError::closing())?;
            vectors.push(answer.await.unwrap_or(Err(EngineError::closing()))?);
        }
        Ok(vectors)
    }

    /// Requests that wait for their first slot.
    pub fn waiting(&self) -> usize {
        self.admission.load().2
    }

    /// Nothing more is evaluated, and the thread ends.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.admission.close();
        let _ = self.mailbox.send(Message::Close);
    }
}
