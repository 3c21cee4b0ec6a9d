//! What is counted, for `GET /metrics` in Prometheus' format. A leaf: every module may count, and none reads.
//!
//! Counters are the process's own: several servers in one process, as in tests, share them.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stop,
    Length,
    /// Its client left.
    Cancelled,
    Failed,
}

/// How full the engine is, at the moment of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold a place.
    pub running: usize,
    /// Requests that wait for their first place.
    pub waiting: usize,
    /// Sequences that may run at once.
    pub places: usize,
    pub workers: usize,
    pub workers_alive: usize,
    /// Requests for embeddings that wait for their turn.
    pub embeddings_waiting: usize,
}

const REQUESTS: &str = "candor_requests_total";
const SEQUENCES: &str = "candor_sequences_total";
const RUNNING: &str = "candor_sequences_running";
const WAITING: &str = "candor_requests_waiting";
const PLACES: &str = "candor_places";
const PLACES_FREE: &str = "candor_places_free";
const WORKERS: &str = "candor_workers";
const WORKERS_ALIVE: &str = "candor_workers_alive";
const WORKER_RESTARTS: &str = "candor_worker_restarts_total";
const DECODES: &str = "candor_decodes_total";
const DECODE_ERRORS: &str = "candor_decode_errors_total";
const PROMPT_TOKENS: &str = "candor_prompt_tokens_total";
const GENERATED_TOKENS: &str = "candor_generated_tokens_total";
const EMBEDDING_TOKENS: &str = "candor_embedding_tokens_total";
const EMBEDDINGS_WAITING: &str = "candor_embeddings_waiting";
const QUEUE_WAIT: &str = "candor_queue_wait_seconds";
const FIRST_TOKEN: &str = "candor_time_to_first_token_seconds";
const CONNECTIONS_REFUSED: &str = "candor_connections_refused_total";
const BOOKS_ERRORS: &str = "candor_books_errors_total";

/// Seconds; from a cached prompt on an idle server to a long prompt behind a long queue.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Starts counting, for as long as this is awaited.
pub async fn keep() {
    /// What histograms were told lies in a list until it is sorted in, and nobody may ever ask for them.
    const UPKEEP: Duration = Duration::from_secs(5);
    let Some(handle) = handle() else { return };
    loop {
        handle.run_upkeep();
        tokio::time::sleep(UPKEEP).await;
    }
}

fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let handle = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .and_then(PrometheusBuilder::install_recorder)
                .inspect_err(|error| tracing::error!(%error, "nothing can be counted"))
                .ok()?;
            describe();
            Some(handle)
        })
        .as_ref()
}

fn describe() {
    describe_counter!(REQUESTS, "Requests answered, by route and HTTP status");
    describe_counter!(
        SEQUENCES,
        "Sequences ended, by outcome: stop, length, cancelled, failed"
    );
    describe_gauge!(RUNNING, "Sequences that run");
    describe_gauge!(WAITING, "Requests that wait for their first place");
    describe_gauge!(PLACES, "Sequences that may run at once");
    describe_gauge!(PLACES_FREE, "Places that nobody holds");
    describe_gauge!(WORKERS, "Workers, each with a llama.cpp context");
    describe_gauge!(WORKERS_ALIVE, "Workers that run");
    describe_counter!(WORKER_RESTARTS, "Workers that were made anew");
    describe_counter!(DECODES, "Calls of llama_decode");
    describe_counter!(DECODE_ERRORS, "Calls of llama_decode that failed");
    describe_counter!(PROMPT_TOKENS, "Prompt tokens, by source: evaluated, cached");
    describe_counter!(GENERATED_TOKENS, "Tokens drawn");
    describe_counter!(EMBEDDING_TOKENS, "Tokens of texts that became embeddings");
    describe_gauge!(
        EMBEDDINGS_WAITING,
        "Requests for embeddings that wait for their turn"
    );
    describe_histogram!(
        QUEUE_WAIT,
        Unit::Seconds,
        "Time from a request to its first place"
    );
    describe_histogram!(
        FIRST_TOKEN,
        Unit::Seconds,
        "Time from a request to the first token of each sequence"
    );
    describe_counter!(
        BOOKS_ERRORS,
        "Lanes found leased to nobody while a worker was idle; always 0"
    );
    describe_counter!(
        CONNECTIONS_REFUSED,
        "Connections closed at once, for as many as may be were open"
    );
    // There from the start, so that a rate can be taken.
    counter!(WORKER_RESTARTS).absolute(0);
    counter!(DECODE_ERRORS).absolute(0);
    counter!(CONNECTIONS_REFUSED).absolute(0);
    counter!(BOOKS_ERRORS).absolute(0);
    counter!(EMBEDDING_TOKENS).absolute(0);
}

/// All of it as text; the gauges say how things stand now.
pub fn render(load: Option<Load>) -> String {
    /// Of two servers in one process each tells its own.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let Some(handle) = handle() else {
        return String::new();
    };
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(load) = load {
        gauge!(RUNNING).set(load.running as f64);
        gauge!(WAITING).set(load.waiting as f64);
        gauge!(PLACES).set(load.places as f64);
        gauge!(PLACES_FREE).set(load.places.saturating_sub(load.running) as f64);
        gauge!(WORKERS).set(load.workers as f64);
        gauge!(EMBEDDINGS_WAITING).set(load.embeddings_waiting as f64);
        gauge!(WORKERS_ALIVE).set(load.workers_alive as f64);
    }
    handle.render()
}

/// A request was answered; `route` is the route's pattern, never what a client made up.
pub fn answered(route: String, status: u16) {
    counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
}

pub fn waited(time: Duration) {
    histogram!(QUEUE_WAIT).record(time);
}

pub fn first_token(time: Duration) {
    histogram!(FIRST_TOKEN).record(time);
}

pub fn sequence_ended(outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Stop => "stop",
        Outcome::Length => "length",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed => "failed",
    };
    counter!(SEQUENCES, "outcome" => outcome).increment(1);
}

pub fn decoded(fine: bool) {
    counter!(DECODES).increment(1);
    if !fine {
        counter!(DECODE_ERRORS).increment(1);
    }
}

pub fn prompt_evaluated(tokens: usize) {
    counter!(PROMPT_TOKENS, "source" => "evaluated").increment(tokens as u64);
}

pub fn prompt_cached(tokens: usize) {
    counter!(PROMPT_TOKENS, "source" => "cached").increment(tokens as u64);
}

pub fn token_drawn() {
    counter!(GENERATED_TOKENS).increment(1);
}

pub fn embedded(tokens: usize) {
    counter!(EMBEDDING_TOKENS).increment(tokens as u64);
}

pub fn worker_restarted() {
    counter!(WORKER_RESTARTS).increment(1);
}

pub fn connection_refused() {
    counter!(CONNECTIONS_REFUSED).increment(1);
}

pub fn books_wrong() {
    counter!(BOOKS_ERRORS).increment(1);
}
