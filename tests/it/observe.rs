//! What those who run a server see of it: metrics, and the log by request.

use std::collections::HashSet;

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
    check("candor_prompts_total{cached=\"full\"}", 1.0);
    // Half of it, and something else: whole groups of eight.
    let mut other = ids[..20].to_vec();
    other.extend(600..620);
    let body = json!({"prompt": other, "max_tokens": 1, "temperature": 0});
    assert_eq!(complete(&server, &body), 200);
    check("candor_prompt_tokens_total{source=\"cached\"}", 56.0);
    check("candor_prompt_tokens_total{source=\"evaluated\"}", 64.0);
    check("candor_prompts_total{cached=\"partial\"}", 1.0);
    check("candor_prompt_logprobs_total{source=\"evaluated\"}", 0.0);
    let ids: Vec<usize> = (0..30).map(|number| 700 + number).collect();
    let scored = json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 2});
    assert_eq!(complete(&server, &scored), 200);
    check("candor_prompt_logprobs_total{source=\"evaluated\"}", 29.0);
    check("candor_prompt_logprobs_total{source=\"cached\"}", 0.0);
    assert_eq!(complete(&server, &scored), 200);
    check("candor_prompt_logprobs_total{source=\"evaluated\"}", 29.0);
    check("candor_prompt_logprobs_total{source=\"cached\"}", 29.0);
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
        let name = format!("candor_requests_rejected_total{{reason=\"{reason}\"}} ");
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
    check(post(json!({"max_tokens": -2})), 400, "invalid_request");
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
    // Those of generated tokens are kept for forks; the last one was not evaluated.
    server.wait_until("candor_kv_cells_cached", 67);
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
            "{block_size=\"64\",num_gpu_blocks=\"",
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

#[test]
fn a_request_has_an_id() {
    let address = tiny().address();
    let ask = |lines: &[&str], path: &str| {
        let answer = Request::new("GET", path, lines, "").send(address);
        answer.header("x-request-id").expect("an id").to_owned()
    };
    let check = |id: &str, is_taken: bool| {
        let given = ask(&[&format!("x-request-id: {id}")], "/health");
        assert_eq!(given == id, is_taken, "{id}: {given}");
        assert!(is_taken || given.starts_with("req-"), "{given}");
    };
    check("7f3c2b6e-1d2f-4c11-9d59-0f4a2f0f7c11", true);
    check(&"x".repeat(128), true);
    check(&"x".repeat(129), false);
    check("two words", false);
    check("größe", false);
    check("", false);
    let made: HashSet<String> = (0..50).map(|_| ask(&[], "/health")).collect();
    assert_eq!(made.len(), 50);
    // Errors have one as well.
    assert_eq!(ask(&["x-request-id: lost"], "/milk"), "lost");
    assert_eq!(
        ask(
            &["x-request-id: evil", "origin: https://evil.example"],
            "/health"
        ),
        "evil"
    );
    let stream = Request::complete(r#"{"prompt": "Once", "max_tokens": 2, "stream": true}"#)
        .with_header("x-request-id: streamed")
        .send(address);
    assert_eq!(stream.header("x-request-id"), Some("streamed"));
    let wrong = Request::complete(r#"{"prompt": "Once", "max_tokens": -2}"#)
        .with_header("x-request-id: wrong")
        .send(address);
    assert_eq!(
        (wrong.status, wrong.header("x-request-id")),
        (400, Some("wrong"))
    );
}

#[test]
fn every_line_of_a_request_has_its_id() {
    let mut server = process(&[
        ("CANDOR_LOG", "debug"),
        ("CANDOR_SERVER__LOG_FORMAT", "json"),
    ]);
    let body = json!({"prompt": "Once", "max_tokens": 3, "n": 2, "stream": true, "temperature": 0});
    for (id, body) in [("mine-1", body), ("mine-2", json!({"prompt": 1.5}))] {
        Request::complete(body.to_string())
            .with_header(&format!("x-request-id: {id}"))
            .send(server.address());
        server.wait_for_line("answered");
    }
    let ended = server.terminate();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    let lines: Vec<Value> = ended
        .log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |id: &str, message: &str| -> Vec<&Value> {
        let all = lines.iter();
        all.filter(|line| line["span"]["request_id"] == id && line["message"] == message)
            .collect()
    };
    let check = |id: &str, status: u16| {
        let lines = of(id, "answered");
        let [line] = &lines[..] else {
            panic!("{id}: {lines:?}")
        };
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["span"]["route"], "/v1/completions", "{line}");
        assert!(
            line["duration_ms"].as_f64().expect("a number") > 0.0,
            "{line}"
        );
    };
    check("mine-1", 200);
    check("mine-2", 400);
    // The prompt once, the tokens of both choices.
    let line = of("mine-1", "answered")[0];
    assert_eq!(line["prompt_tokens"], 2, "{line}");
    assert_eq!(line["generated_tokens"], 6, "{line}");
    assert!(of("mine-2", "answered")[0]["prompt_tokens"].is_null());
    // The worker's own lines, too.
    let sequences = of("mine-1", "a sequence ended");
    assert_eq!(sequences.len(), 2, "{}", ended.log);
    for line in sequences {
        assert_eq!(line["generated_tokens"], 3, "{line}");
        assert_eq!(line["outcome"], "length", "{line}");
    }
}

#[test]
fn who_leaves_is_said_to_have_left() {
    let mut server = process(&[]);
    let stream =
        json!({"prompt": "Once", "max_tokens": 1500, "stream": true, "logit_bias": {"2": -1e6}});
    let connection = Request::complete(stream.to_string())
        .with_header("x-request-id: gone")
        .start(server.address());
    let mut first = [0];
    std::io::Read::read_exact(&mut &connection, &mut first).expect("it has begun");
    drop(connection);
    server.wait_for_line("the client disconnected");
    let ended = server.terminate();
    let line = ended
        .log
        .lines()
        .find(|line| line.contains("the client disconnected"))
        .expect("waited for");
    assert!(line.contains("request_id=\"gone\""), "{line}");
}
