//! What is counted, for `GET /metrics` in Prometheus' format. A leaf: every module may count, and none reads.
//!
//! Counters are the process's own: several servers in one process, as in tests, share them.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
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

/// How full an engine is, at the moment of asking, or all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// Requests that are read or prepared, or whose answers are written, each on a core.
    pub preparing: usize,
    /// Requests that wait to be read or prepared.
    pub preparations_waiting: usize,
    /// What all lanes hold.
    pub cells: Cells,
}

/// Cells of the KV cache: one for each token that was evaluated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cells {
    /// There are so many.
    pub total: usize,
    /// So many at a time are taken over from one prompt to another.
    pub group: usize,
    /// Of sequences that run.
    pub running: usize,
    /// Kept for those to come. They stand in nobody's way.
    pub cached: usize,
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |one, other| Self {
            running: one.running + other.running,
            waiting: one.waiting + other.waiting,
            places: one.places + other.places,
            workers: one.workers + other.workers,
            workers_alive: one.workers_alive + other.workers_alive,
            embeddings_waiting: one.embeddings_waiting + other.embeddings_waiting,
            preparing: one.preparing + other.preparing,
            preparations_waiting: one.preparations_waiting + other.preparations_waiting,
            cells: Cells {
                total: one.cells.total + other.cells.total,
                // The same for all.
                group: one.cells.group.max(other.cells.group),
                running: one.cells.running + other.cells.running,
                cached: one.cells.cached + other.cells.cached,
            },
        })
    }
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
const PREPARING: &str = "candor_preparations_running";
const PREPARATIONS_WAITING: &str = "candor_preparations_waiting";
const PROMPTS: &str = "candor_prompts_total";
const PROMPT_SCORES: &str = "candor_prompt_scores_total";
const CELLS: &str = "candor_kv_cells";
const CELLS_RUNNING: &str = "candor_kv_cells_running";
const CELLS_CACHED: &str = "candor_kv_cells_cached";
const REFUSALS: &str = "candor_refusals_total";
const QUEUE_WAIT: &str = "candor_queue_wait_seconds";
const FIRST_TOKEN: &str = "candor_time_to_first_token_seconds";
const INTER_TOKEN: &str = "candor_inter_token_latency_seconds";
const CONNECTIONS_REFUSED: &str = "candor_connections_refused_total";
const BOOKS_ERRORS: &str = "candor_books_errors_total";
const BITS_CLASS: &str = "candor_bits_class_info";

// What the Gateway API Inference Extension asks of a model server, by the names of vLLM, which its endpoint picker looks
// for unless it is told other ones.
const GATEWAY_WAITING: &str = "vllm:num_requests_waiting";
const GATEWAY_RUNNING: &str = "vllm:num_requests_running";
const GATEWAY_CELLS_USED: &str = "vllm:kv_cache_usage_perc";
/// As versions before 1.0 call it.
const GATEWAY_CELLS_USED_OLD: &str = "vllm:gpu_cache_usage_perc";
const GATEWAY_CACHE: &str = "vllm:cache_config_info";

/// Seconds; from a cached prompt on an idle server to a long prompt behind a long queue.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Seconds; from a token of a small model alone to one that waits for long prompts of others.
const TOKEN_BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5,
    10.0,
];

/// What workers count as they go. Found once: to find one again for each token would cost more than to count it.
struct Counts {
    decodes: Counter,
    decode_errors: Counter,
    generated_tokens: Counter,
    prompt_tokens_evaluated: Counter,
    prompt_tokens_cached: Counter,
    prompts_none_cached: Counter,
    prompts_part_cached: Counter,
    prompts_whole_cached: Counter,
    prompt_scores_evaluated: Counter,
    prompt_scores_cached: Counter,
    first_token: Histogram,
    inter_token: Histogram,
}

/// There as soon as something keeps what is counted.
static COUNTS: OnceLock<Counts> = OnceLock::new();

impl Counts {
    fn new() -> Self {
        Self {
            decodes: counter!(DECODES),
            decode_errors: counter!(DECODE_ERRORS),
            generated_tokens: counter!(GENERATED_TOKENS),
            prompt_tokens_evaluated: counter!(PROMPT_TOKENS, "source" => "evaluated"),
            prompt_tokens_cached: counter!(PROMPT_TOKENS, "source" => "cached"),
            prompts_none_cached: counter!(PROMPTS, "cached" => "none"),
            prompts_part_cached: counter!(PROMPTS, "cached" => "part"),
            prompts_whole_cached: counter!(PROMPTS, "cached" => "whole"),
            prompt_scores_evaluated: counter!(PROMPT_SCORES, "source" => "evaluated"),
            prompt_scores_cached: counter!(PROMPT_SCORES, "source" => "cached"),
            first_token: histogram!(FIRST_TOKEN),
            inter_token: histogram!(INTER_TOKEN),
        }
    }
}

/// Starts counting at once, and goes on for as long as this is awaited.
pub fn keep() -> impl Future<Output = ()> {
    /// What histograms were told lies in a list until it is sorted in, and nobody may ever ask for them.
    const UPKEEP: Duration = Duration::from_secs(5);
    let handle = handle();
    async move {
        while let Some(handle) = handle {
            handle.run_upkeep();
            tokio::time::sleep(UPKEEP).await;
        }
    }
}

fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let handle = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .and_then(|builder| {
                    let token = Matcher::Full(INTER_TOKEN.to_owned());
                    builder.set_buckets_for_metric(token, &TOKEN_BUCKETS)
                })
                .and_then(PrometheusBuilder::install_recorder)
                .inspect_err(|error| tracing::error!(%error, "nothing can be counted"))
                .ok()?;
            describe();
            COUNTS.get_or_init(Counts::new);
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
    describe_gauge!(
        PREPARING,
        "Requests that are read or prepared, or whose answers are written"
    );
    describe_gauge!(
        PREPARATIONS_WAITING,
        "Requests that wait to be read or prepared"
    );
    describe_counter!(
        PROMPTS,
        "Prompts of sequences, by how much of them was cached: none, part, whole"
    );
    describe_counter!(
        PROMPT_SCORES,
        "Prompt tokens whose logprobs were asked for, by source: evaluated, cached"
    );
    describe_gauge!(CELLS, "Cells of the KV cache, one for a token");
    describe_gauge!(
        CELLS_RUNNING,
        "Cells that hold tokens of sequences that run"
    );
    describe_gauge!(CELLS_CACHED, "Cells that hold tokens kept for reuse");
    describe_counter!(REFUSALS, "Requests refused with a 4xx or a 503, by reason");
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
    describe_histogram!(
        INTER_TOKEN,
        Unit::Seconds,
        "Time from one token of a sequence to the next"
    );
    describe_gauge!(GATEWAY_WAITING, "As candor_requests_waiting, for gateways");
    describe_gauge!(GATEWAY_RUNNING, "As candor_sequences_running, for gateways");
    let used = "candor_kv_cells_running of candor_kv_cells, 0 to 1, for gateways";
    describe_gauge!(GATEWAY_CELLS_USED, used);
    describe_gauge!(GATEWAY_CELLS_USED_OLD, used);
    describe_gauge!(
        GATEWAY_CACHE,
        "How prompts are reused, for gateways: block_size tokens at a time, num_gpu_blocks in all"
    );
    describe_gauge!(
        BITS_CLASS,
        "1 while the model is loaded; exact servers with equal classes give equal bits"
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
    counter!(CONNECTIONS_REFUSED).absolute(0);
    counter!(BOOKS_ERRORS).absolute(0);
    counter!(EMBEDDING_TOKENS).absolute(0);
    for reason in [
        "queue_full",
        "queue_timeout",
        "invalid_api_key",
        "rate_limit_exceeded",
        "context_length_exceeded",
    ] {
        counter!(REFUSALS, "reason" => reason).absolute(0);
    }
}

/// All of it as text; the gauges say how things stand now. `bits_classes`: of the models that are loaded, by name.
pub fn render(load: Load, bits_classes: impl Iterator<Item = (String, String)>) -> String {
    /// Of two servers in one process each tells its own.
    /// Holds the bits classes that were told last.
    static ONE_AT_A_TIME: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    let Some(handle) = handle() else {
        return String::new();
    };
    let mut turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    gauge!(RUNNING).set(load.running as f64);
    gauge!(WAITING).set(load.waiting as f64);
    gauge!(PLACES).set(load.places as f64);
    gauge!(PLACES_FREE).set(load.places.saturating_sub(load.running) as f64);
    gauge!(WORKERS).set(load.workers as f64);
    gauge!(EMBEDDINGS_WAITING).set(load.embeddings_waiting as f64);
    gauge!(PREPARING).set(load.preparing as f64);
    gauge!(PREPARATIONS_WAITING).set(load.preparations_waiting as f64);
    gauge!(WORKERS_ALIVE).set(load.workers_alive as f64);
    let Cells {
        total,
        group,
        running,
        cached,
    } = load.cells;
    gauge!(CELLS).set(total as f64);
    gauge!(CELLS_RUNNING).set(running as f64);
    gauge!(CELLS_CACHED).set(cached as f64);
    gauge!(GATEWAY_WAITING).set(load.waiting as f64);
    gauge!(GATEWAY_RUNNING).set(load.running as f64);
    let used = running as f64 / total.max(1) as f64;
    gauge!(GATEWAY_CELLS_USED).set(used);
    gauge!(GATEWAY_CELLS_USED_OLD).set(used);
    // Of what is not there yet there is nothing to tell.
    if total > 0 {
        let blocks = [
            ("block_size", group.to_string()),
            ("num_gpu_blocks", (total / group.max(1)).to_string()),
        ];
        gauge!(GATEWAY_CACHE, &blocks).set(1.0);
    }
    let info = |(model, class): &(String, String), value| {
        gauge!(BITS_CLASS, "model" => model.clone(), "class" => class.clone()).set(value);
    };
    // Of models that are loaded no more it is 0.
    turn.iter().for_each(|known| info(known, 0.0));
    *turn = bits_classes.collect();
    turn.iter().for_each(|known| info(known, 1.0));
    handle.render()
}

/// A request was answered; `route` is the route's pattern, never what a client made up.
pub fn answered(route: String, status: u16) {
    counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
}

pub fn waited(time: Duration) {
    histogram!(QUEUE_WAIT).record(time);
}

/// A sequence's first token was drawn, so long after its request came in.
pub fn first_token(time: Duration) {
    if let Some(counts) = COUNTS.get() {
        counts.generated_tokens.increment(1);
        counts.first_token.record(time);
    }
}

/// A further token was drawn, so long after the one before.
pub fn further_token(time: Duration) {
    if let Some(counts) = COUNTS.get() {
        counts.generated_tokens.increment(1);
        counts.inter_token.record(time);
    }
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
    if let Some(counts) = COUNTS.get() {
        counts.decodes.increment(1);
        if !fine {
            counts.decode_errors.increment(1);
        }
    }
}

pub fn prompt_evaluated(tokens: usize) {
    if let Some(counts) = COUNTS.get() {
        counts.prompt_tokens_evaluated.increment(tokens as u64);
    }
}

/// A prompt is there to its end; of its tokens so many came from the cache. `scored`: so did as many of its scores, of
/// which the first token has none.
pub fn prompt_known(tokens: usize, cached: usize, scored: bool) {
    let Some(counts) = COUNTS.get() else { return };
    counts.prompt_tokens_cached.increment(cached as u64);
    let prompts = match cached {
        0 => &counts.prompts_none_cached,
        some if some < tokens => &counts.prompts_part_cached,
        _ => &counts.prompts_whole_cached,
    };
    prompts.increment(1);
    if scored {
        let scores = tokens.saturating_sub(1);
        let cached = cached.min(scores);
        counts.prompt_scores_cached.increment(cached as u64);
        let evaluated = (scores - cached) as u64;
        counts.prompt_scores_evaluated.increment(evaluated);
    }
}

/// A request was refused, before anything of its answer was sent.
pub fn refused(reason: &'static str) {
    counter!(REFUSALS, "reason" => reason).increment(1);
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
