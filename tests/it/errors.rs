//! Bad requests: each gets a clear message in OpenAI's form, costs nothing, and a normal request works after it.

use serde_json::{Value, json};

use crate::server::{Answer, TestServer, tiny, tiny_model};

/// The error object, whose four parts are always there.
fn error(answer: &Answer) -> Value {
    let body = answer.json();
    let object = body["error"]
        .as_object()
        .unwrap_or_else(|| panic!("{}", answer.body));
    assert_eq!(
        object.keys().collect::<Vec<_>>(),
        ["message", "type", "param", "code"],
        "{}",
        answer.body
    );
    assert_eq!(body.as_object().map(|body| body.len()), Some(1));
    assert!(
        object["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty())
    );
    assert!(object["param"].is_null() || object["param"].is_string());
    assert!(object["code"].is_null() || object["code"].is_string());
    assert!(!answer.body.contains("/home") && !answer.body.contains(".gguf"));
    body["error"].clone()
}

fn still_works(server: &TestServer) {
    server.complete(json!({"prompt": "Once", "max_tokens": 1}));
}

#[test]
fn fields_that_are_wrong() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
    let wide: String = (0..40)
        .map(|i| format!("r{i} ::= r{} | r{}\n", i + 1, i + 1))
        .collect::<String>()
        + "r40 ::= \"a\"\nroot ::= r0\n";
    // The field, and a value that is refused.
    let cases: Vec<(&str, Value)> = vec![
        ("prompt", json!(5)),
        ("prompt", json!(true)),
        ("prompt", json!({"text": "a"})),
        ("prompt", json!([])),
        ("prompt", json!([[]])),
        ("prompt", json!(["a", 5])),
        ("prompt", json!(["a", [1]])),
        ("prompt", json!([[1], "a"])),
        ("prompt", json!([1, "a"])),
        ("prompt", json!([1.5])),
        ("prompt", json!([-1])),
        ("prompt", json!([32_000])),
        ("prompt", json!([2_147_483_648_u64])),
        ("prompt", json!([18_446_744_073_709_551_615_u64])),
        ("prompt", json!([[1, 2], [3, -1]])),
        ("prompt", json!([null])),
        ("prompt", json!(vec!["a"; 1025])),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!("5")),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!(1e300)),
        ("logprobs", json!(-1)),
        ("logprobs", json!(101)),
        ("logprobs", json!(true)),
        ("logprobs", json!("5")),
        ("echo", json!("yes")),
        ("echo", json!(1)),
        ("n", json!(0)),
        ("n", json!(129)),
        ("n", json!("2")),
        ("best_of", json!(0)),
        ("best_of", json!(1000)),
        ("stop", json!("")),
        ("stop", json!([""])),
        ("stop", json!(["a", ""])),
        ("stop", json!([1])),
        ("stop", json!({})),
        ("stop", json!(vec!["a"; 17])),
        ("stop", json!("a".repeat(1025))),
        ("suffix", json!("end")),
        ("suffix", json!(1)),
        ("seed", json!("1")),
        ("seed", json!(1.5)),
        ("seed", json!([])),
        ("logit_bias", json!([1])),
        ("logit_bias", json!({"-1": 1})),
        ("logit_bias", json!({"32000": 1})),
        ("logit_bias", json!({"a": 1})),
        ("logit_bias", json!({"1": "x"})),
        ("logit_bias", json!({"1": 1e9})),
        ("logit_bias_type", json!("words")),
        ("stream", json!("true")),
        ("stream", json!(1)),
        ("stream_options", json!({"include_usage": true})),
        ("temperature", json!(-0.1)),
        ("temperature", json!(101)),
        ("temperature", json!("hot")),
        ("temperature", json!([])),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("top_k", json!(4_294_967_296_u64)),
        ("top_p", json!(-0.1)),
        ("top_p", json!(1.1)),
        ("min_p", json!(2)),
        ("typical_p", json!(-1)),
        ("repeat_penalty", json!(0)),
        ("repeat_penalty", json!(-1)),
        ("frequency_penalty", json!(2.1)),
        ("presence_penalty", json!(-2.1)),
        ("mirostat_mode", json!(3)),
        ("mirostat_tau", json!(-1)),
        ("mirostat_eta", json!(2)),
        ("min_tokens", json!(-1)),
        ("grammar", json!(5)),
        ("grammar", json!("")),
        ("grammar", json!("root ::= root \"a\"")),
        ("grammar", json!("root ::= a\na ::= b? a")),
        ("grammar", json!("root ::= undefined")),
        ("grammar", json!("start ::= \"a\"")),
        ("grammar", json!("root ::= \"a")),
        ("grammar", json!("root ::= [")),
        ("grammar", json!("root ::= \"a\"{5000}")),
        ("grammar", json!("root ::= \"a\"{99999999999999999999}")),
        ("grammar", json!("root ::= <[999999]>")),
        ("grammar", json!(deep)),
        ("grammar", json!(wide)),
        ("grammar", json!("a".repeat(65_537))),
        ("cache_prompt", json!("no")),
        ("model", json!(5)),
        ("unheard_of", json!(1)),
        ("maxTokens", json!(1)),
    ];
    let server = tiny();
    for (field, value) in cases {
        let mut body = json!({"prompt": "Once", "max_tokens": 2});
        body[field] = value;
        let shown: String = body.to_string().chars().take(200).collect();
        let answer = server.try_complete(&body);
        assert_eq!(answer.status, 400, "{shown}: {}", answer.body);
        let object = error(&answer);
        assert_eq!(object["param"], field, "{shown}: {object}");
        assert!(
            object["message"]
                .as_str()
                .is_some_and(|message| message.contains(field)),
            "{shown}: {object}"
        );
        assert_eq!(object["type"], "invalid_request_error");
        // The same before any byte of a stream.
        if field != "stream" && field != "stream_options" {
            body["stream"] = json!(true);
            let answer = server.try_complete(&body);
            assert_eq!(
                (answer.status, answer.content_type.as_str()),
                (400, "application/json"),
                "{shown}"
            );
        }
        still_works(server);
    }
}

#[test]
fn fields_that_do_not_go_together() {
    let server = tiny();
    for (body, param) in [
        (json!({"n": 3, "best_of": 2}), "best_of"),
        (json!({"best_of": 2, "stream": true}), "best_of"),
        (
            json!({"stream": true, "stream_options": {"usage": true}}),
            "stream_options.usage",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"prompt": vec!["a"; 100], "n": 100}), "n"),
    ] {
        let answer = server.try_complete(&body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(error(&answer)["param"], param);
        still_works(server);
    }
}

#[test]
fn bodies_that_are_wrong() {
    let server = tiny();
    let json_type = "application/json";
    let deep = [b"{\"prompt\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
    let cases: Vec<(&str, &[u8], u16)> = vec![
        (json_type, b"", 400),
        (json_type, b"   ", 400),
        (json_type, b"{", 400),
        (json_type, b"{\"prompt\": \"a\"", 400),
        (json_type, b"{\"prompt\": \"a\"} x", 400),
        (json_type, b"[]", 400),
        (json_type, b"null", 400),
        (json_type, b"\"prompt\"", 400),
        (json_type, b"{\"temperature\": NaN}", 400),
        (json_type, b"{\"temperature\": Infinity}", 400),
        (json_type, b"{\"temperature\": 1e400}", 400),
        (json_type, b"{\"prompt\": \"a\", \"prompt\": \"b\"}", 400),
        (json_type, b"{\"prompt\": \"\xff\"}", 400),
        (json_type, b"{\"prompt\": \"\\ud800\"}", 400),
        (json_type, b"{'prompt': 'a'}", 400),
        (json_type, &deep, 400),
        ("text/plain", b"{}", 415),
        ("application/x-www-form-urlencoded", b"prompt=a", 415),
    ];
    for (kind, body, status) in cases {
        let answer = server.send("/v1/completions", kind, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(answer.status, status, "{shown}: {}", answer.body);
        error(&answer);
        still_works(server);
    }
}

#[test]
fn bodies_that_are_too_large() {
    let server = TestServer::start_with(&tiny_model(), |config| config.limits.body_bytes = 1000);
    let body = json!({"prompt": "a".repeat(2000)}).to_string();
    let answer = server.send("/v1/completions", "application/json", body.as_bytes());
    assert_eq!(answer.status, 413);
    error(&answer);
    still_works(&server);
}

#[test]
fn paths_and_methods_that_are_wrong() {
    let server = tiny();
    for (answer, status) in [
        (server.get("/v1/completions"), 405),
        (server.get("/v1/nothing"), 404),
        (server.get("/"), 404),
        (server.send("/v1/models", "application/json", b"{}"), 405),
        (server.get("/v1/models/none"), 404),
    ] {
        assert_eq!(answer.status, status, "{}", answer.body);
        error(&answer);
    }
    let unknown = server.try_complete(&json!({"model": "gpt-4", "prompt": "a"}));
    assert_eq!(unknown.status, 404);
    assert_eq!(error(&unknown)["code"], "model_not_found");
    still_works(server);
}

#[test]
fn prompts_longer_than_the_context() {
    let server = tiny();
    for (prompt, max_tokens) in [
        (json!(vec![5; 2048]), 1),
        (json!(vec![5; 2049]), 0),
        (json!("a b ".repeat(3000)), 1),
    ] {
        let answer = server.try_complete(&json!({"prompt": prompt, "max_tokens": max_tokens}));
        assert_eq!(answer.status, 400);
        let object = error(&answer);
        assert_eq!(object["code"], "context_length_exceeded");
        assert!(
            object["message"]
                .as_str()
                .is_some_and(|m| m.starts_with("This model's maximum context length is 2048"))
        );
        still_works(server);
    }
}

#[test]
fn a_full_server_says_so_and_when_to_come_back() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.engine.parallel_sequences = 1;
        config.limits.queue_length = 1;
        config.limits.queue_timeout_ms = 50;
    });
    let long = json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000});
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.try_complete(&long)))
            .collect();
        let answers: Vec<Answer> = running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        assert!(answers.iter().any(|answer| answer.status == 200));
        let refused: Vec<&Answer> = answers
            .iter()
            .filter(|answer| answer.status == 503)
            .collect();
        assert!(!refused.is_empty());
        for answer in refused {
            assert_eq!(error(answer)["code"], "server_overloaded");
        }
    });
    still_works(&server);
}

#[test]
fn unknown_fields_may_be_let_through() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.unknown_fields = candor::config::UnknownFields::Warn;
    });
    server.complete(json!({"prompt": "Once", "max_tokens": 1, "unheard_of": 1}));
}
