//! What those who run a server see of it: metrics.

use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::process::Process;
use crate::raw::Request;
use crate::server::{TestServer, tiny, tiny_model};

/// A server of its own, for counters are the process's.
fn process(environment: &[(&str, &str)]) -> Process {
    Process::start(environment)
}

fn complete(server: &Process, body: &Value) -> u16 {
    Request::complete(body.to_string())
        .send(server.address())
        .status
}

/// A metric by its name and labels, as it is written; 0 while nothing was counted.
fn metric(server: &Process, name: &str) -> f64 {
    let answer = Request::new("GET", "/metrics", &[], "").send(server.address());
    assert_eq!(answer.status, 200);
    answer
        .body
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0.0)
}

#[test]
fn a_repeated_prompt_is_counted_as_cached() {
    let server = process(&[]);
    let check = |name: &str, expect: f64| assert_eq!(metric(&server, name), expect, "{name}");
    let ids: Vec<usize> = (0..40).map(|number| 300 + number).collect();
    let body = json!({"prompt": ids, "max_tokens": 6, "temperature": 0, "logit_bias": {"2": -1e6}});
    assert_eq!(complete(&server, &body), 200);
    check("candor_prompt_tokens_total{source=\"evaluated\"}", 40.0);
    check("candor_prompt_tokens_total{source=\"cached\"}", 0.0);
    check("candor_prompts_total{cached=\"none\"}", 1.0);
    check("candor_generated_tokens_total", 6.0);
    check("candor_time_to_first_token_seconds_count", 1.0);
    check("candor_inter_token_latency_seconds_count", 5.0);
    assert!(metric(&server, "candor_inter_token_latency_seconds_sum") > 0.0);
    // The very same: nothing is evaluated.
    assert_eq!(complete(&server, &body), 200);
    check("candor_prompt_tokens_total{source=\"evaluated\"}", 40.0);
    check("candor_prompt_tokens_total{source=\"cached\"}", 40.0);
    check("candor_prompts_total{cached=\"whole\"}", 1.0);
    // Half of it, and something else: whole groups of eight.
    let mut other = ids[..20].to_vec();
    other.extend(600..620);
    let body = json!({"prompt": other, "max_tokens": 1, "temperature": 0});
    assert_eq!(complete(&server, &body), 200);
    check("candor_prompt_tokens_total{source=\"cached\"}", 56.0);
    check("candor_prompt_tokens_total{source=\"evaluated\"}", 64.0);
    check("candor_prompts_total{cached=\"part\"}", 1.0);
    check("candor_prompt_scores_total{source=\"evaluated\"}", 0.0);
    let ids: Vec<usize> = (0..30).map(|number| 700 + number).collect();
    let scored = json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 2});
    assert_eq!(complete(&server, &scored), 200);
    check("candor_prompt_scores_total{source=\"evaluated\"}", 29.0);
    check("candor_prompt_scores_total{source=\"cached\"}", 0.0);
    assert_eq!(complete(&server, &scored), 200);
    check("candor_prompt_scores_total{source=\"evaluated\"}", 29.0);
    check("candor_prompt_scores_total{source=\"cached\"}", 29.0);
    assert_eq!(server.terminate().status, Some(0));
}

#[test]
fn refusals_are_counted_by_reason() {
    let server = process(&[
        ("CANDOR_SERVER__API_KEYS", "sk-a"),
        ("CANDOR_ENGINE__CONTEXT_LENGTH", "256"),
        ("CANDOR_LIMITS__BODY_BYTES", "5000"),
    ]);
    let key = "authorization: Bearer sk-a";
    let counted = |reason: &str| {
        let answer = Request::new("GET", "/metrics", &[key], "").send(server.address());
        let name = format!("candor_refusals_total{{reason=\"{reason}\"}} ");
        answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
    };
    // There from the start.
    for reason in ["queue_full", "queue_timeout", "invalid_api_key"] {
        assert_eq!(counted(reason), Some(0), "{reason}");
    }
    let check = |request: Request, status: u16, reason: &str| {
        let before = counted(reason).unwrap_or(0);
        assert_eq!(request.send(server.address()).status, status, "{reason}");
        assert_eq!(counted(reason), Some(before + 1), "{reason}");
    };
    let post = |body: Value| Request::complete(body.to_string()).with_header(key);
    check(
        Request::complete(r#"{"prompt": "Once"}"#),
        401,
        "invalid_api_key",
    );
    let long = vec![300; 300];
    check(
        post(json!({"prompt": long})),
        400,
        "context_length_exceeded",
    );
    check(post(json!({"max_tokens": -1})), 400, "invalid_request");
    check(post(json!({"model": "milk"})), 404, "model_not_found");
    check(
        post(json!({"prompt": "x".repeat(6000)})),
        413,
        "body_too_large",
    );
    check(
        post(json!({})).with_header("content-type: text/plain"),
        415,
        "unsupported_media_type",
    );
    check(Request::new("GET", "/milk", &[key], ""), 404, "not_found");
    let page = "origin: https://evil.example";
    check(
        Request::new("GET", "/health", &[page], ""),
        403,
        "origin_not_allowed",
    );
    assert_eq!(server.terminate().status, Some(0));
}

#[test]
fn cells_are_counted_while_they_are_held() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.engine.context_length = 512;
    });
    let total = server.metric("candor_kv_cells");
    assert!(total > 0 && total % 512 == 0, "{total}");
    server.wait_until("candor_kv_cells_cached", 0);
    server.complete(json!({"prompt": vec![300; 64], "max_tokens": 4}));
    // In exact mode those of generated tokens are not kept.
    server.wait_until("candor_kv_cells_cached", 64);
    server.wait_until("candor_kv_cells_running", 0);
    books_balance(&server);
}

#[test]
fn gateways_find_what_they_look_for() {
    let server = tiny();
    let text = server.get("/metrics").body;
    for (name, labels) in [
        ("vllm:num_requests_waiting", ""),
        ("vllm:num_requests_running", ""),
        ("vllm:kv_cache_usage_perc", ""),
        ("vllm:gpu_cache_usage_perc", ""),
        (
            "vllm:cache_config_info",
            "{block_size=\"8\",num_gpu_blocks=\"",
        ),
    ] {
        assert!(text.contains(&format!("# TYPE {name} gauge")), "{name}");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{labels}")))
            .unwrap_or_else(|| panic!("no {name}{labels}: {text}"));
        let value: f64 = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number");
        assert!(value >= 0.0, "{line}");
    }
}
