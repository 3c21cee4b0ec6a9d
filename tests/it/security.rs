//! Keys, names, origins, limits on connections, TLS, and what the log says.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::process::Process;
use crate::server::{TestServer, tiny, tiny_model};

/// Sends this, and reads until the server closes.
fn raw(server: &TestServer, request: &str) -> String {
    let mut client = TcpStream::connect(server.address()).expect("connects");
    client.write_all(request.as_bytes()).expect("sends");
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(server: &TestServer, path: &str, headers: &str) -> String {
    raw(
        server,
        &format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n"),
    )
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("")
}

#[test]
fn a_name_that_is_not_ours_is_refused() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.allowed_hosts = vec!["candor.example".to_owned()];
    });
    for (host, expect) in [
        ("localhost", "200"),
        ("localhost:1234", "200"),
        ("127.0.0.1", "200"),
        ("[::1]:8000", "200"),
        ("candor.example:80", "200"),
        ("rebound.example", "403"),
        ("localhost.rebound.example", "403"),
        ("\u{e9}", "403"),
    ] {
        for path in ["/health", "/v1/models", "/metrics", "/nothing"] {
            let answer = get(&server, path, &format!("host: {host}\r\n"));
            let expect = if expect == "200" && path == "/nothing" {
                "404"
            } else {
                expect
            };
            assert_eq!(status(&answer), expect, "{host} {path}: {answer}");
            // Metrics name it too, as a reason.
            let code = r#""code":"host_not_allowed""#;
            assert_eq!(answer.contains(code), expect == "403");
        }
    }
}

#[test]
fn pages_of_other_origins_are_kept_out_unless_they_are_listed() {
    let closed = tiny();
    let answer = get(
        closed,
        "/v1/models",
        "host: localhost\r\norigin: https://a.example\r\n",
    );
    assert_eq!(status(&answer), "403");
    assert!(
        answer.contains("origin_not_allowed") && !answer.contains("access-control"),
        "{answer}"
    );
    let own = format!("host: {0}\r\norigin: http://{0}\r\n", closed.address());
    assert_eq!(status(&get(closed, "/v1/models", &own)), "200");

    let open = TestServer::start_with(&tiny_model(), |config| {
        config.server.cors_origins = vec!["https://a.example".to_owned()];
        config.server.api_keys = vec!["key".to_owned()];
    });
    let preflight = |origin: &str| {
        raw(
            &open,
            &format!(
                "OPTIONS /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\norigin: {origin}\r\n\
                 access-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n\r\n"
            ),
        )
        .to_lowercase()
    };
    let allowed = preflight("https://a.example");
    assert_eq!(status(&allowed), "200");
    assert!(
        allowed.contains("access-control-allow-origin: https://a.example"),
        "{allowed}"
    );
    assert!(
        allowed.contains("access-control-allow-headers: authorization,content-type"),
        "{allowed}"
    );
    assert!(!allowed.contains("access-control-allow-credentials"));
    assert!(!preflight("https://b.example").contains("access-control-allow-origin"));
    let headers = "host: localhost\r\nauthorization: Bearer key\r\norigin: https://a.example\r\n";
    let answer = get(&open, "/v1/models", headers);
    assert_eq!(status(&answer), "200");
    assert!(
        answer.contains("access-control-allow-origin: https://a.example"),
        "{answer}"
    );
}

#[test]
fn every_route_that_is_not_open_asks_for_a_key() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["first".to_owned(), "second".to_owned()];
    });
    for (path, with_key) in [
        ("/v1/completions", "405"),
        ("/v1/models", "200"),
        ("/v1/models/none", "404"),
        ("/metrics", "200"),
        ("/nothing", "404"),
    ] {
        for key in [
            "",
            "authorization: Bearer third\r\n",
            "authorization: Basic first\r\n",
            "authorization: first\r\n",
        ] {
            let answer = get(&server, path, &format!("host: localhost\r\n{key}"));
            assert_eq!(status(&answer), "401", "{path}: {answer}");
            assert!(answer.contains("invalid_api_key") && !answer.contains("second"));
        }
        for key in ["first", "second"] {
            let headers = format!("host: localhost\r\nauthorization: bearer {key}\r\n");
            assert_eq!(status(&get(&server, path, &headers)), with_key, "{path}");
        }
    }
    for (path, expect) in [
        ("/health", "200"),
        ("/", "200"),
        ("/page/main.js", "200"),
        ("/page/nothing", "404"),
    ] {
        let answer = get(&server, path, "host: localhost\r\n");
        assert_eq!(status(&answer), expect, "{path}: {answer}");
    }
    let document = get(
        &server,
        "/openapi.json",
        "host: localhost\r\nauthorization: Bearer first\r\n",
    );
    let (_, document) = document.split_once("\r\n\r\n").expect("a body");
    let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
    let wants_none = |path: &str| document["paths"][path]["get"]["security"] == json!([]);
    for path in ["/health", "/", "/page/{path}"] {
        assert!(wants_none(path), "{path}");
    }
    assert!(!wants_none("/metrics") && document["security"] == json!([{"key": []}]));
}

#[test]
fn metrics_may_be_open() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["first".to_owned()];
        config.server.metrics_need_key = false;
    });
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("vllm:num_requests_waiting 0"));
    assert_eq!(server.get("/v1/models").status, 401);
    let document = server.get_with("/openapi.json", Some("first")).json();
    assert_eq!(document["paths"]["/metrics"]["get"]["security"], json!([]));
}

#[test]
fn slow_senders_are_given_up() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.header_timeout_ms = 200;
        config.limits.body_timeout_ms = 200;
    });
    // Each of these would otherwise be waited for without end.
    assert!(!raw(&server, "").contains("200 OK"));
    assert!(
        !raw(
            &server,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx: "
        )
        .contains("200 OK")
    );
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for body in [
        "content-length: 50\r\n\r\n{\"prompt\"",
        "transfer-encoding: chunked\r\n\r\n9\r\n{\"prompt\"",
    ] {
        let answer = raw(&server, &format!("{head}{body}"));
        assert_eq!(status(&answer), "408", "{answer}");
        assert!(answer.contains("did not arrive within 200 ms"), "{answer}");
    }
    server.complete(json!({"prompt": "Once", "max_tokens": 1}));
}

#[test]
fn heads_and_connections_are_bounded() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.header_bytes = 8192;
        config.limits.connections = 8;
    });
    let long = format!("host: localhost\r\nx: {}\r\n", "a".repeat(10_000));
    assert_eq!(status(&get(&server, "/health", &long)), "431");
    let many: String = (0..200).map(|number| format!("x{number}: a\r\n")).collect();
    assert_eq!(
        status(&get(
            &server,
            "/health",
            &format!("host: localhost\r\n{many}")
        )),
        "431"
    );

    let mut held = Vec::new();
    let mut closed = 0;
    while closed == 0 {
        let mut client = TcpStream::connect(server.address()).expect("connects");
        client
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .expect("sends");
        let mut some = [0; 12];
        match client.read_exact(&mut some) {
            Ok(()) => held.push(client),
            Err(_) => closed += 1,
        }
        assert!(held.len() <= 8);
    }
    drop(held);
    while !get(&server, "/health", "host: localhost\r\n").contains("200 OK") {}
}

#[test]
fn one_address_may_have_so_many_connections() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.connections_per_address = 4;
    });
    let refused = server.metric("candor_connections_refused_total");
    // The test's own connections count as well.
    let mut held = Vec::new();
    let mut closed = 0;
    for _ in 0..8 {
        let mut client = TcpStream::connect(server.address()).expect("connects");
        let _ = client.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
        match client.read_exact(&mut [0; 12]) {
            Ok(()) => held.push(client),
            Err(_) => closed += 1,
        }
    }
    assert!((4..8).contains(&closed), "{closed}");
    drop(held);
    assert!(server.metric("candor_connections_refused_total") >= refused + 4);
}

/// An early refusal reaches a client that is still sending.
#[test]
fn a_client_that_is_refused_while_it_sends_hears_of_it() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["key".to_owned()];
        config.limits.body_bytes = 4 << 20;
    });
    let body = "x".repeat(3 << 20);
    for (path, key, expect) in [
        ("/v1/completions", "wrong", "401"),
        ("/nothing", "key", "404"),
        ("/v1/models", "key", "405"),
    ] {
        let answer = raw(
            &server,
            &format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert_eq!(status(&answer), expect, "{answer}");
    }
}

#[test]
fn an_answer_has_a_bound() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.answer_entries = 1000;
    });
    for body in [
        json!({"prompt": "Once", "max_tokens": 1001}),
        json!({"prompt": "Once", "max_tokens": 100, "logprobs": 10}),
        json!({"prompt": "Once", "max_tokens": 10, "n": 101}),
        json!({"prompt": vec![7; 1001], "max_tokens": 0, "echo": true}),
        json!({"prompt": vec!["Once"; 101], "max_tokens": 10}),
    ] {
        let answer = server.try_complete(&body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["code"], "answer_too_large");
    }
    // Each of llama-server's completions has the text of its prompt.
    let long = json!({"prompt": vec![7; 101], "n_predict": 0, "n_cmpl": 10});
    let answer = server.post("/completion", &long);
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "answer_too_large");
    server.complete(json!({"prompt": "Once", "max_tokens": 100, "logprobs": 9}));
    server.complete(json!({"prompt": vec![7; 1500], "max_tokens": 10}));
}

#[test]
fn tls_is_an_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let server = Process::start(&[
        ("CANDOR_SERVER__TLS_CERTIFICATE", &path(&certificate)),
        ("CANDOR_SERVER__TLS_KEY", &path(&key)),
    ]);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let root = ureq::tls::Certificate::from_pem(made.cert.pem().as_bytes()).expect("PEM");
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[root]))
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .build()
        .new_agent();
    let port = server.url.rsplit(':').next().expect("a port");
    let mut answer = agent
        .post(format!("https://localhost:{port}/v1/completions"))
        .header("content-type", "application/json")
        .send(br#"{"prompt": "Once", "max_tokens": 2}"#)
        .expect("an answer");
    let body = answer.body_mut().read_to_string().expect("text");
    assert!(body.contains("text_completion"), "{body}");
    // Plain HTTP is not spoken beside it.
    let mut plain = TcpStream::connect(("127.0.0.1", port.parse::<u16>().expect("a number")))
        .expect("connects");
    plain
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sends");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    assert_eq!(server.terminate().status, Some(0));
}

#[test]
fn nothing_that_was_said_stands_in_the_log() {
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), "# ours\nsk-topsecret\n").expect("written");
    let server = Process::start(&[
        ("CANDOR_LOG", "debug"),
        (
            "CANDOR_SERVER__API_KEYS_FILE",
            &keys.path().to_string_lossy(),
        ),
    ]);
    let mut answers = String::new();
    for body in [
        json!({"prompt": "heliotrope", "max_tokens": 3, "echo": true, "logprobs": 1, "stop": ["marzipan"]}),
        json!({"prompt": "heliotrope", "max_tokens": 3, "stream": true}),
        json!({"prompt": "heliotrope", "max_tokens": "marzipan"}),
        json!({"prompt": "heliotrope", "grammar": "marzipan"}),
    ] {
        answers += &server.post("/v1/completions?q=marzipan", "sk-topsecret", &body);
        answers += &server.post("/v1/completions", "sk-wrongsecret", &body);
    }
    assert!(
        answers.contains("heliotrope") && answers.contains("[DONE]"),
        "{answers}"
    );
    let ended = server.terminate();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(ended.log.contains("DEBUG"), "{}", ended.log);
    for word in ["heliotrope", "marzipan", "topsecret", "wrongsecret"] {
        assert!(!ended.log.contains(word), "{word}: {}", ended.log);
    }
}
