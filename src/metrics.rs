//! Metrics for `GET /metrics`, in Prometheus' text format. A leaf module: every module may record, none reads.
//!
//! Counters belong to the process: several servers in one process, as in tests, share them.

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// The client disconnected.
    Cancelled,
    Failed,
}

/// The current load of one engine, or of all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold a slot.
    pub running: usize,
    /// Requests that wait for their first slot.
    pub waiting: usize,
    /// Sequences that can run at once.
    pub slots: usize,
    pub workers: usize,
    pub workers_alive: usize,
    /// Embedding requests that wait for their first text.
    pub embedding_requests_waiting: usize,
    /// Requests that are being parsed, tokenized, rendered or serialized, each on a core.
    pub cpu_tasks_running: usize,
    /// Requests that wait for that.
    pub cpu_tasks_waiting: usize,
    /// The KV cache, over all lanes.
    pub cells: Cells,
}

/// Cells of the KV cache: one for each evaluated token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cells {
    pub total: usize,
    /// Held by running sequences.
    pub running: usize,
    /// Kept for reuse; evicted when needed.
    pub cached: usize,
}

/// A LoRA adapter of a loaded model, and the sequences that apply it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterLoad {
    pub name: String,
    pub running: usize,
    /// Whose requests wait for their first slot.
    pub waiting: usize,
}

impl std::iter::Sum for Load {
    fn sum<I: Iterator<Item = Self>>(loads: I) -> Self {
        loads.fold(Self::default(), |one, other| Self {
            running: one.running + other.running,
            waiting: one.waiting + other.waiting,
            slots: one.slots + other.slots,
            workers: one.workers + other.workers,
            workers_alive: one.workers_alive + other.workers_alive,
            embedding_requests_waiting: one.embedding_requests_waiting
                + other.embedding_requests_waiting,
            cpu_tasks_running: one.cpu_tasks_running + other.cpu_tasks_running,
            cpu_tasks_waiting: one.cpu_tasks_waiting + other.cpu_tasks_waiting,
            cells: Cells {
                total: one.cells.total + other.cells.total,
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
const SLOTS: &str = "candor_slots";
const SLOTS_FREE: &str = "candor_slots_free";
const WORKERS: &str = "candor_workers";
const WORKERS_ALIVE: &str = "candor_workers_alive";
const WORKER_RESTARTS: &str = "candor_worker_restarts_total";
const DECODES: &str = "candor_decodes_total";
const DECODE_ERRORS: &str = "candor_decode_errors_total";
const PROMPT_TOKENS: &str = "candor_prompt_tokens_total";
const GENERATED_TOKENS: &str = "candor_generated_tokens_total";
const EMBEDDING_TOKENS: &str = "candor_embedding_tokens_total";
const EMBEDDING_REQUESTS_WAITING: &str = "candor_embedding_requests_waiting";
const CPU_TASKS_RUNNING: &str = "candor_cpu_tasks_running";
const CPU_TASKS_WAITING: &str = "candor_cpu_tasks_waiting";
const PROMPTS: &str = "candor_prompts_total";
const PROMPT_LOGPROBS: &str = "candor_prompt_logprobs_total";
const CELLS: &str = "candor_kv_cells";
const CELLS_RUNNING: &str = "candor_kv_cells_running";
const CELLS_CACHED: &str = "candor_kv_cells_cached";
const REQUESTS_REJECTED: &str = "candor_requests_rejected_total";
const QUEUE_WAIT: &str = "candor_queue_wait_seconds";
const FIRST_TOKEN: &str = "candor_time_to_first_token_seconds";
const INTER_TOKEN: &str = "candor_inter_token_latency_seconds";
const CONNECTIONS_REFUSED: &str = "candor_connections_refused_total";
const INVARIANT_VIOLATIONS: &str = "candor_invariant_violations_total";
const BITS_CLASS: &str = "candor_bits_class_info";

// The metrics that the Gateway API Inference Extension asks of a model server, under vLLM's names, the defaults of its
// endpoint picker.
const GATEWAY_WAITING: &str = "vllm:num_requests_waiting";
const GATEWAY_RUNNING: &str = "vllm:num_requests_running";
const GATEWAY_CELLS_USED: &str = "vllm:kv_cache_usage_perc";
/// Its name in versions of the extension before 1.0.
const GATEWAY_CELLS_USED_OLD: &str = "vllm:gpu_cache_usage_perc";
const GATEWAY_CACHE: &str = "vllm:cache_config_info";
const GATEWAY_ADAPTERS: &str = "vllm:lora_requests_info";

/// Tokens of a block, the unit in which gateways count the cache. llm-d's picker uses this size for smaller ones, too, but
/// takes the number of blocks as it is.
const GATEWAY_BLOCK: usize = 64;

/// Seconds: from a cached prompt on an idle server to a long prompt after a long queue.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Seconds: from a small model running alone to a token that waits for long prompts of other requests.
const TOKEN_BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5,
    10.0,
];

/// Handles of the metrics that workers record for each token: looking one up costs more than recording it.
struct Counts {
    decodes: Counter,
    decode_errors: Counter,
    generated_tokens: Counter,
    prompt_tokens_evaluated: Counter,
    prompt_tokens_cached: Counter,
    prompts_uncached: Counter,
    prompts_partially_cached: Counter,
    prompts_fully_cached: Counter,
    prompt_logprobs_evaluated: Counter,
    prompt_logprobs_cached: Counter,
    first_token: Histogram,
    inter_token: Histogram,
}

/// Set once the recorder is installed.
static COUNTS: OnceLock<Counts> = OnceLock::new();

impl Counts {
    fn new() -> Self {
        Self {
            decodes: counter!(DECODES),
            decode_errors: counter!(DECODE_ERRORS),
            generated_tokens: counter!(GENERATED_TOKENS),
            prompt_tokens_evaluated: counter!(PROMPT_TOKENS, "source" => "evaluated"),
            prompt_tokens_cached: counter!(PROMPT_TOKENS, "source" => "cached"),
            prompts_uncached: counter!(PROMPTS, "cached" => "none"),
            prompts_partially_cached: counter!(PROMPTS, "cached" => "partial"),
            prompts_fully_cached: counter!(PROMPTS, "cached" => "full"),
            prompt_logprobs_evaluated: counter!(PROMPT_LOGPROBS, "source" => "evaluated"),
            prompt_logprobs_cached: counter!(PROMPT_LOGPROBS, "source" => "cached"),
            first_token: histogram!(FIRST_TOKEN),
            inter_token: histogram!(INTER_TOKEN),
        }
    }
}

/// Installs the recorder at once; the future then does its upkeep until it is dropped.
pub fn run_upkeep() -> impl Future<Output = ()> {
    /// Histogram samples pile up in a list until upkeep or a scrape sorts them into buckets.
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
                .inspect_err(|error| tracing::error!(%error, "metrics are unavailable"))
                .ok()?;
            describe();
            COUNTS.get_or_init(Counts::new);
            Some(handle)
        })
        .as_ref()
}

const COUNTERS: [(&str, &str); 13] = [
    (REQUESTS, "Requests answered, by route and HTTP status"),
    (
        SEQUENCES,
        "Sequences ended, by outcome: stop, length, cancelled, failed",
    ),
    (WORKER_RESTARTS, "Workers restarted after a failure"),
    (DECODES, "Calls of llama_decode"),
    (DECODE_ERRORS, "Calls of llama_decode that failed"),
    (PROMPT_TOKENS, "Prompt tokens, by source: evaluated, cached"),
    (GENERATED_TOKENS, "Tokens generated"),
    (EMBEDDING_TOKENS, "Tokens of embedded texts"),
    (
        PROMPTS,
        "Prompts of sequences, by how much of them was cached: none, partial, full",
    ),
    (
        PROMPT_LOGPROBS,
        "Prompt tokens whose log-probabilities were requested, by source: evaluated, cached",
    ),
    (
        REQUESTS_REJECTED,
        "Requests rejected with a 4xx or 503, by reason",
    ),
    (
        INVARIANT_VIOLATIONS,
        "Lanes found in use by no sequence while a worker was idle; always 0",
    ),
    (
        CONNECTIONS_REFUSED,
        "Connections closed immediately because a limit was reached",
    ),
];

const GAUGES: [(&str, &str); 18] = [
    (RUNNING, "Sequences running"),
    (WAITING, "Requests waiting for their first slot"),
    (SLOTS, "Sequences that can run at once"),
    (SLOTS_FREE, "Free slots"),
    (WORKERS, "Workers, each with its own llama.cpp context"),
    (WORKERS_ALIVE, "Workers that are up"),
    (
        EMBEDDING_REQUESTS_WAITING,
        "Embedding requests waiting for their first text to be evaluated",
    ),
    (
        CPU_TASKS_RUNNING,
        "Requests being parsed, tokenized, rendered or serialized, each on a core",
    ),
    (
        CPU_TASKS_WAITING,
        "Requests waiting to be parsed, tokenized or rendered",
    ),
    (CELLS, "Cells of the KV cache, one per token"),
    (CELLS_RUNNING, "Cells held by running sequences"),
    (CELLS_CACHED, "Cells kept for reuse"),
    (GATEWAY_WAITING, "Same as candor_requests_waiting"),
    (GATEWAY_RUNNING, "Same as candor_sequences_running"),
    (
        GATEWAY_CELLS_USED,
        "candor_kv_cells_running / candor_kv_cells, from 0 to 1",
    ),
    (
        GATEWAY_CELLS_USED_OLD,
        "candor_kv_cells_running / candor_kv_cells, from 0 to 1",
    ),
    (
        GATEWAY_CACHE,
        "The size of the KV cache: num_gpu_blocks blocks of block_size tokens",
    ),
    (
        BITS_CLASS,
        "1 while the model is loaded; servers in exact or invariant mode with equal classes give equal bits",
    ),
];

/// Durations in seconds.
const HISTOGRAMS: [(&str, &str); 3] = [
    (
        QUEUE_WAIT,
        "Time from the arrival of a request to its first slot",
    ),
    (
        FIRST_TOKEN,
        "Time from the arrival of a request to the first token of each of its sequences",
    ),
    (INTER_TOKEN, "Time from one token of a sequence to the next"),
];

fn describe() {
    for (name, about) in COUNTERS {
        describe_counter!(name, about);
    }
    for (name, about) in GAUGES {
        describe_gauge!(name, about);
    }
    for (name, about) in HISTOGRAMS {
        describe_histogram!(name, Unit::Seconds, about);
    }
    // Present from the start, so that a rate can be computed.
    counter!(WORKER_RESTARTS).absolute(0);
    counter!(CONNECTIONS_REFUSED).absolute(0);
    counter!(INVARIANT_VIOLATIONS).absolute(0);
    counter!(EMBEDDING_TOKENS).absolute(0);
    for reason in [
        "queue_full",
        "queue_timeout",
        "invalid_api_key",
        "rate_limit_exceeded",
        "context_length_exceeded",
    ] {
        counter!(REQUESTS_REJECTED, "reason" => reason).absolute(0);
    }
}

/// All metrics as text, with the gauges at their current values. `bits_classes`: model name and class of each loaded
/// model. `adapters`: those of all loaded models.
pub fn render(
    load: Load,
    bits_classes: impl Iterator<Item = (String, String)>,
    adapters: &[AdapterLoad],
) -> String {
    /// Gauges are global: two servers in one process must not set them at the same time. Holds the bits classes set last.
    static LAST_CLASSES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    let Some(handle) = handle() else {
        return String::new();
    };
    let mut last_classes = LAST_CLASSES.lock().unwrap_or_else(PoisonError::into_inner);
    gauge!(RUNNING).set(load.running as f64);
    gauge!(WAITING).set(load.waiting as f64);
    gauge!(SLOTS).set(load.slots as f64);
    gauge!(SLOTS_FREE).set(load.slots.saturating_sub(load.running) as f64);
    gauge!(WORKERS).set(load.workers as f64);
    gauge!(EMBEDDING_REQUESTS_WAITING).set(load.embedding_requests_waiting as f64);
    gauge!(CPU_TASKS_RUNNING).set(load.cpu_tasks_running as f64);
    gauge!(CPU_TASKS_WAITING).set(load.cpu_tasks_waiting as f64);
    gauge!(WORKERS_ALIVE).set(load.workers_alive as f64);
    let Cells {
        total,
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
    // Unknown until a model is loaded.
    if total > 0 {
        let blocks = [
            ("block_size", GATEWAY_BLOCK.to_string()),
            ("num_gpu_blocks", (total / GATEWAY_BLOCK).to_string()),
        ];
        gauge!(GATEWAY_CACHE, &blocks).set(1.0);
    }
    let info = |(model, class): &(String, String), value| {
        gauge!(BITS_CLASS, "model" => model.clone(), "class" => class.clone()).set(value);
    };
    // 0 for models that have been unloaded.
    last_classes.iter().for_each(|known| info(known, 0.0));
    *last_classes = bits_classes.collect();
    last_classes.iter().for_each(|known| info(known, 1.0));
    handle.render() + &adapters_in_use(adapters)
}

/// The adapters in use, as vLLM reports them: their names are labels, and the value is the time. Not a gauge of the
/// recorder, which would keep every set of names. Empty if no adapter is loaded.
fn adapters_in_use(adapters: &[AdapterLoad]) -> String {
    if adapters.is_empty() {
        return String::new();
    }
    let names = |count: fn(&AdapterLoad) -> usize| {
        let used = adapters.iter().filter(|adapter| count(adapter) > 0);
        let names: Vec<&str> = used.map(|adapter| adapter.name.as_str()).collect();
        names.join(",").replace('\\', "\\\\").replace('"', "\\\"")
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    format!(
        "# HELP {GATEWAY_ADAPTERS} LoRA adapters of running and waiting requests; the value is the time\n\
         # TYPE {GATEWAY_ADAPTERS} gauge\n\
         {GATEWAY_ADAPTERS}{{max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} {}\n",
        adapters.len(),
        names(|adapter| adapter.running),
        names(|adapter| adapter.waiting),
        now.map_or(0.0, |since| since.as_secs_f64()),
    )
}

/// `route` is the route's pattern, never a client's path.
pub fn answered(route: String, status: u16) {
    counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
}

/// A request got its first slot after this time.
pub fn waited(time: Duration) {
    histogram!(QUEUE_WAIT).record(time);
}

/// A sequence's first token was drawn, this long after its request arrived.
pub fn first_token(time: Duration) {
    if let Some(counts) = COUNTS.get() {
        counts.generated_tokens.increment(1);
        counts.first_token.record(time);
    }
}

/// A further token was drawn, this long after the previous one.
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

/// A prompt is complete; `cached` of its tokens came from the cache. `scored`: the tokens whose log-probabilities were
/// requested. Those that the cached tokens predict came from the cache, too.
pub fn prompt_known(tokens: usize, cached: usize, scored: Range<usize>) {
    let Some(counts) = COUNTS.get() else { return };
    counts.prompt_tokens_cached.increment(cached as u64);
    let prompts = match cached {
        0 => &counts.prompts_uncached,
        some if some < tokens => &counts.prompts_partially_cached,
        _ => &counts.prompts_fully_cached,
    };
    prompts.increment(1);
    let cached = (cached + 1).saturating_sub(scored.start).min(scored.len());
    counts.prompt_logprobs_cached.increment(cached as u64);
    let evaluated = (scored.len() - cached) as u64;
    counts.prompt_logprobs_evaluated.increment(evaluated);
}

/// A request was rejected, before any of its answer was sent.
pub fn refused(reason: &'static str) {
    counter!(REQUESTS_REJECTED, "reason" => reason).increment(1);
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

pub fn invariant_violated() {
    counter!(INVARIANT_VIOLATIONS).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_in_use_are_named_in_labels() {
        assert_eq!(adapters_in_use(&[]), "");
        let adapter = |name: &str, running, waiting| AdapterLoad {
            name: name.to_owned(),
            running,
            waiting,
        };
        let text = adapters_in_use(&[
            adapter("idle", 0, 0),
            adapter(r#"a "b" \c"#, 2, 1),
            adapter("d", 1, 0),
        ]);
        let line = text.lines().last().expect("a line");
        let (labels, time) = line.rsplit_once(' ').expect("a value");
        assert_eq!(
            labels,
            r#"vllm:lora_requests_info{max_lora="3",running_lora_adapters="a \"b\" \\c,d",waiting_lora_adapters="a \"b\" \\c"}"#
        );
        assert!(time.parse::<f64>().expect("a number") > 1.7e9, "{time}");
    }
}
