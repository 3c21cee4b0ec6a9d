//! Submitting requests: each sequence waits for a slot, and then runs on that slot's worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tracing::Instrument;

use super::admission::{Admission, Permit};
use super::error::EngineError;
use super::generation::Generation;
use super::handle::Engine;
use super::message::{Job, Message};
use super::request::{Delta, Request};
use super::shared::Shared;
use super::tally::Tally;
use crate::config::Mode;
use crate::metrics;

impl Engine {
    /// Waits for a slot for the first request (bounded: [`EngineError::QueueFull`], [`EngineError::QueueTimeout`]), then
    /// runs all of them in order, each as soon as a slot is free. Clients take turns. Dropping a [`Generation`] stops its
    /// sequence within one decode.
    pub async fn submit(
        &self,
        client: Arc<str>,
        arrived: Instant,
        mut requests: Vec<Request>,
    ) -> Result<Vec<Generation>, EngineError> {
        let pool = self.pool()?;
        if !pool.model.generates() {
            return Err(match pool.embeddings.rank_tokens() {
                Ok(_) => EngineError::OnlyRanking,
                Err(_) => EngineError::OnlyEmbeddings,
            });
        }
        if pool.mode == Mode::Exact {
            // They are evaluated like all others.
            requests
                .iter_mut()
                .for_each(|request| request.exact = false);
        }
        let tally = Tally::current();
        tally.submitted(&requests);
        let mut requests = requests.into_iter();
        let Some(first) = requests.next() else {
            return Ok(Vec::new());
        };
        let waiting = pool.shared.adapters_in_use.waits(&first.adapters);
        let permit = pool
            .admission
            .enter(&client, pool.shared.prefer(&first))
            .await?;
        drop(waiting);
        metrics::waited(arrived.elapsed());
        let (deltas, generation) = Generation::new(self.guard());
        run(&pool.shared, arrived, first, deltas, permit)?;
        let mut generations = vec![generation];
        let mut later = Vec::new();
        for request in requests {
            let (deltas, generation) = Generation::new(self.guard());
            later.push((request, deltas));
            generations.push(generation);
        }
        if !later.is_empty() {
            let (admission, shared) = (Arc::clone(&pool.admission), Arc::clone(&pool.shared));
            let rest = async move {
                for (request, deltas) in later {
                    run_later(&admission, &shared, arrived, &client, request, deltas).await;
                }
            };
            tokio::spawn(tally.of(rest).in_current_span());
        }
        Ok(generations)
    }
}

/// Hands a request with its slot to the worker.
fn run(
    shared: &Shared,
    arrived: Instant,
    request: Request,
    deltas: UnboundedSender<Delta>,
    permit: Permit,
) -> Result<(), EngineError> {
    static SEQUENCES: AtomicU64 = AtomicU64::new(0);
    let sequence = SEQUENCES.fetch_add(1, Ordering::Relaxed);
    let worker = permit.worker;
    shared.mailboxes[worker]
        .send(Message::Run(Box::new(Job {
            sequence,
            arrived,
            span: tracing::Span::current(),
            tally: Tally::current(),
            adapter_use: shared.adapters_in_use.runs(&request.adapters),
            request,
            deltas,
            permit,
        })))
        .map_err(|_| EngineError::worker_down(worker))
}

/// Runs a further sequence of a request as soon as a slot is free, unless its [`Generation`] has been dropped.
async fn run_later(
    admission: &Arc<Admission>,
    shared: &Shared,
    arrived: Instant,
    client: &Arc<str>,
    request: Request,
    deltas: UnboundedSender<Delta>,
) {
    let permit = tokio::select! {
        permit = admission.extend(client, shared.prefer(&request)) => permit,
        () = deltas.closed() => return,
    };
    let failed = deltas.clone();
    if let Err(error) = permit.and_then(|permit| run(shared, arrived, request, deltas, permit)) {
        let _ = failed.send(Delta::Failed(error));
    }
}
