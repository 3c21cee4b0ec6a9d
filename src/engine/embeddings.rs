//! Embeddings: a text becomes one vector. They have a context of their own, made when the first text comes, on a thread
//! of its own; lanes and cache of those who generate are not touched.
//!
//! One text is evaluated at a time, alone in its decodes, so its vector does not depend on what else is asked for. Who
//! comes waits for a place as everybody does, clients take turns, and a request takes a place for each of its texts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::alive::Alive;
use super::error::EngineError;
use super::memory::{Need, mib};
use super::places::{Lease, Places};
use super::shared::Shared;
use super::{StartError, WORKER_STACK_BYTES, fitting_rows};
use crate::config::{self, Config};
use crate::metrics;
use crate::model::{
    Context, ContextError, ContextShape, Model, NamedPooling, Output, Pooling, Row, Runner,
    Runners, Token,
};

/// Texts to make vectors of.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// Token ids, each within the vocabulary; of each text at least one, at most [`EmbeddingBounds::tokens`].
    pub texts: Vec<Arc<[Token]>>,
    /// Numbers that are kept of each vector, from 1 to [`EmbeddingBounds::dimensions`].
    pub dimensions: usize,
}

/// What a model makes vectors of, and how long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingBounds {
    /// Tokens of a text.
    pub tokens: usize,
    /// Numbers of a whole vector.
    pub dimensions: usize,
}

/// Makes vectors; the model's handle for it.
pub struct Embeddings {
    /// How, or why not.
    pooling: Result<Pooling, EngineError>,
    bounds: EmbeddingBounds,
    places: Arc<Places>,
    mailbox: Sender<Message>,
    closing: Arc<AtomicBool>,
}

enum Message {
    Embed(Job),
    Close,
}

/// A text to evaluate.
struct Job {
    text: Arc<[Token]>,
    reply: oneshot::Sender<Result<Vec<f64>, EngineError>>,
    /// Given back when it is done.
    lease: Lease,
}

impl Embeddings {
    /// Starts the thread. Its context comes with the first text.
    pub fn start(
        model: &Arc<Model>,
        config: &Config,
        runners: &Runners,
        shared: &Arc<Shared>,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let pooling = pooling(config.embeddings.pooling, model.named_pooling());
        let tokens = config.engine.context_length.min(model.trained_context());
        let closing = Arc::new(AtomicBool::new(false));
        let (mailbox, messages) = mpsc::channel();
        let host = Host {
            pooling: pooling.clone().unwrap_or(Pooling::Mean),
            shape: shape(model, &config.engine, tokens),
            model: Arc::clone(model),
            runners: Arc::clone(runners),
            shared: Arc::clone(shared),
            closing: Arc::clone(&closing),
        };
        let thread = std::thread::Builder::new()
            .name("embeddings".to_owned())
            .stack_size(WORKER_STACK_BYTES)
            .spawn(move || host.run(&messages))
            .map_err(StartError::Thread)?;
        let embeddings = Self {
            pooling,
            bounds: EmbeddingBounds {
                tokens,
                dimensions: model.embedding_width(),
            },
            places: Places::new(
                1,
                Alive::new(1),
                config.limits.queue_length,
                Duration::from_millis(config.limits.queue_timeout_ms),
            ),
            mailbox,
            closing,
        };
        Ok((embeddings, thread))
    }

    /// What may be asked of this model, or why nothing may.
    pub fn bounds(&self) -> Result<EmbeddingBounds, EngineError> {
        self.pooling.clone().map(|_| self.bounds)
    }

    /// The vectors of the texts, in order, each of length 1. Whoever drops this stops the work within one decode.
    pub async fn embed(
        &self,
        client: &Arc<str>,
        arrived: Instant,
        request: EmbeddingRequest,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.pooling.clone()?;
        let mut vectors = Vec::with_capacity(request.texts.len());
        for text in request.texts {
            let lease = if vectors.is_empty() {
                let lease = self.places.enter(client, None).await?;
                metrics::waited(arrived.elapsed());
                lease
            } else {
                self.places.extend(client, None).await?
            };
            let (reply, answer) = oneshot::channel();
            self.mailbox
                .send(Message::Embed(Job { text, reply, lease }))
                .map_err(|_| EngineError::closing())?;
            let vector = answer.await.unwrap_or(Err(EngineError::closing()))?;
            vectors.push(unit(vector, request.dimensions).ok_or(EngineError::Decode)?);
        }
        Ok(vectors)
    }

    /// Requests that wait for their first place.
    pub fn waiting(&self) -> usize {
        self.places.load().2
    }

    /// Nothing is evaluated any more; the thread ends.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.places.close();
        let _ = self.mailbox.send(Message::Close);
    }
}

/// How vectors are made, or why none can be.
fn pooling(wanted: config::Pooling, named: NamedPooling) -> Result<Pooling, EngineError> {
    match (wanted, named) {
        (config::Pooling::Mean, _) => Ok(Pooling::Mean),
        (config::Pooling::Cls, _) => Ok(Pooling::Cls),
        (config::Pooling::Last, _) => Ok(Pooling::Last),
        (config::Pooling::Auto, NamedPooling::Pools(pooling)) => Ok(pooling),
        (config::Pooling::Auto, NamedPooling::Ranks) => Err(EngineError::NoEmbeddings(
            "This model ranks texts; it makes no embeddings.",
        )),
        (config::Pooling::Auto, NamedPooling::Nothing) => Err(EngineError::NoEmbeddings(
            "This model's metadata do not say how one vector is made of those of a text's tokens: it is not made for \
             embeddings. To have them all the same, set embeddings.pooling (CANDOR_EMBEDDINGS__POOLING) to mean, cls \
             or last.",
        )),
    }
}

/// One lane for a whole text. Where tokens attend to those before them only, a text is evaluated in pieces, which bounds
/// the memory for logits that nobody asks for; else it must be evaluated at once.
fn shape(model: &Model, settings: &config::Engine, tokens: usize) -> ContextShape {
    let rows = match settings.logits_rows {
        _ if !model.is_causal() => tokens,
        0 => fitting_rows(model.vocab().len()),
        rows => rows,
    };
    ContextShape {
        output: Output::Embeddings,
        ..settings.shape(1, tokens, rows, rows)
    }
}

/// What runs on the thread.
struct Host {
    pooling: Pooling,
    shape: ContextShape,
    model: Arc<Model>,
    runners: Runners,
    shared: Arc<Shared>,
    closing: Arc<AtomicBool>,
}

impl Host {
    fn run(self, messages: &Receiver<Message>) {
        let mut kept: Option<Box<dyn Runner>> = None;
        while let Ok(Message::Embed(job)) = messages.recv() {
            let Job { text, reply, lease } = job;
            let goes_on = || !reply.is_closed() && !self.closing.load(Ordering::SeqCst);
            if !goes_on() {
                continue;
            }
            let taken = kept.take();
            // What failed is dropped in here: the next text gets a context that is made anew.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let mut runner = match taken {
                    Some(runner) => runner,
                    None => self.runner()?,
                };
                let vector = self.evaluate(&mut *runner, &text, goes_on)?;
                Ok((runner, vector))
            }))
            .unwrap_or(Err(EngineError::Decode));
            // Who hears of its vector finds the place free.
            drop(lease);
            let answer = match outcome {
                Ok((runner, vector)) => {
                    kept = Some(runner);
                    match vector {
                        Some(vector) => Ok(vector),
                        None => Err(EngineError::closing()),
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a text's embedding failed; its context is made anew");
                    Err(error)
                }
            };
            let _ = reply.send(answer);
        }
    }

    fn runner(&self) -> Result<Box<dyn Runner>, EngineError> {
        let context = Context::new(&self.model, self.shape.clone()).map_err(no_memory)?;
        let shape = &self.shape;
        let need = Need::of(&self.model, shape, 1);
        tracing::info!(
            pooling = ?self.pooling,
            tokens = shape.lane_tokens,
            rows = shape.batch_rows,
            kv_cache_mib = need.kv_cache.filter(|_| self.model.generates()).map(mib),
            rows_mib_at_most = mib(need.logits),
            "made the context for embeddings"
        );
        let mut runner = (self.runners)(self.shared.mailboxes.len(), context);
        // A request has no say in it.
        runner.adapt(self.model.default_adapters());
        Ok(runner)
    }

    /// The text's vector; `None` if it is not wanted any more.
    fn evaluate(
        &self,
        runner: &mut dyn Runner,
        text: &[Token],
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, EngineError> {
        let mut pool = Pool::new(self.pooling, text.len());
        runner.cut(0, 0);
        for (piece, tokens) in text.chunks(self.shape.batch_rows).enumerate() {
            if !goes_on() {
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
                if pool.wants(first + row) {
                    pool.add(runner.embedding(row).ok_or(EngineError::Decode)?);
                }
            }
        }
        // What is not a number would stay in the context's memory.
        let vector = pool.vector().ok_or(EngineError::Decode)?;
        metrics::embedded(text.len());
        Ok(Some(vector))
    }
}

/// For the log what could not be made; for the client that it may be had later.
fn no_memory(error: ContextError) -> EngineError {
    tracing::error!(%error, "no context for embeddings");
    EngineError::Unavailable(
        "There is no memory for embeddings at the moment. Try again shortly.".to_owned(),
    )
}

/// Makes one vector of a text's many.
struct Pool {
    /// The rows that count, first and last.
    rows: (usize, usize),
    /// Summed in f64.
    sum: Vec<f64>,
}

impl Pool {
    fn new(pooling: Pooling, length: usize) -> Self {
        let last = length.saturating_sub(1);
        Self {
            rows: match pooling {
                Pooling::Mean => (0, last),
                Pooling::Cls => (0, 0),
                Pooling::Last => (last, last),
            },
            sum: Vec::new(),
        }
    }

    fn wants(&self, row: usize) -> bool {
        (self.rows.0..=self.rows.1).contains(&row)
    }

    fn add(&mut self, row: &[f32]) {
        self.sum.resize(row.len(), 0.0);
        for (sum, &number) in self.sum.iter_mut().zip(row) {
            *sum += f64::from(number);
        }
    }

    /// `None`: some are no numbers.
    fn vector(self) -> Option<Vec<f64>> {
        let count = (self.rows.1 - self.rows.0 + 1) as f64;
        let numbers = self.sum.into_iter().map(|sum| sum / count);
        numbers
            .map(|number| number.is_finite().then_some(number))
            .collect()
    }
}

/// The first so many numbers, at length 1; all zeros stay so. `None`: some are no numbers.
fn unit(mut vector: Vec<f64>, dimensions: usize) -> Option<Vec<f32>> {
    vector.truncate(dimensions);
    let length = vector
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt();
    if !length.is_finite() {
        return None;
    }
    let length = if length > 0.0 { length } else { 1.0 };
    Some(
        vector
            .into_iter()
            .map(|number| (number / length) as f32)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_vector_of_many() {
        let check = |pooling, last: f32, expect: Option<[f64; 2]>| {
            let rows = [[1.0, -2.0], [3.0, 4.0], [5.0, last]];
            let mut pool = Pool::new(pooling, rows.len());
            for (place, row) in rows.iter().enumerate() {
                if pool.wants(place) {
                    pool.add(row);
                }
            }
            assert_eq!(pool.vector(), expect.map(Vec::from), "{pooling:?} {last}");
        };
        check(Pooling::Mean, 1.0, Some([3.0, 1.0]));
        check(Pooling::Cls, 1.0, Some([1.0, -2.0]));
        check(Pooling::Last, 1.0, Some([5.0, 1.0]));
        check(Pooling::Mean, f32::NAN, None);
        check(Pooling::Last, f32::INFINITY, None);
    }

    #[test]
    fn vectors_are_cut_and_then_have_length_one() {
        let check = |vector: &[f64], dimensions, expect: Option<&[f32]>| {
            let unit = unit(vector.to_vec(), dimensions);
            assert_eq!(unit.as_deref(), expect, "{vector:?} {dimensions}");
        };
        check(&[3.0, -4.0], 2, Some(&[0.6, -0.8]));
        check(&[3.0, -4.0, 12.0], 2, Some(&[0.6, -0.8]));
        check(&[3.0, -4.0], 1, Some(&[1.0]));
        check(&[0.0, 0.0], 2, Some(&[0.0, 0.0]));
        check(&[1.0, f64::NAN], 2, None);
        check(&[1.0, f64::INFINITY], 2, None);
        check(&[1.0, f64::NAN], 1, Some(&[1.0]));
    }

    #[test]
    fn the_settings_win_over_the_metadata() {
        use config::Pooling as Wanted;
        let check = |wanted, named, expect: Option<Pooling>| {
            assert_eq!(pooling(wanted, named).ok(), expect, "{wanted:?} {named:?}");
        };
        let cls = NamedPooling::Pools(Pooling::Cls);
        check(Wanted::Auto, cls, Some(Pooling::Cls));
        check(Wanted::Last, cls, Some(Pooling::Last));
        check(Wanted::Mean, NamedPooling::Ranks, Some(Pooling::Mean));
        check(Wanted::Cls, NamedPooling::Nothing, Some(Pooling::Cls));
        check(Wanted::Auto, NamedPooling::Nothing, None);
        check(Wanted::Auto, NamedPooling::Ranks, None);
    }
}
