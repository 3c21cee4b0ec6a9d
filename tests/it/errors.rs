//! Bad requests: each gets a clear message in OpenAI's form, costs nothing, and a normal request works after it.
//!
//! The cases are tables. `errors/*.txt` holds requests as they are written, each with its answer; `errors/made.rs` those
//! that are too large or too odd to write out; `errors/http.rs` what is not even whole HTTP.

mod http;
mod made;

use std::collections::HashSet;

use candor::sampling::SamplerName;
use serde_json::{Value, json};

use crate::raw::{Request, Response};
use crate::server::{TestServer, tiny, tiny_model};
use crate::{fim, rerank};

/// A request and the answer that it must get.
pub struct Case {
    /// For whoever reads of a failure.
    name: String,
    request: Request,
    status: u16,
    /// The exact error object; `None` with an answer that is no error.
    error: Option<String>,
}

const FIELDS: &str = include_str!("errors/fields.txt");
const ROUTES: &str = include_str!("errors/routes.txt");
const CHAT: &str = include_str!("errors/chat.txt");
const RESPONSES: &str = include_str!("errors/responses.txt");
const EMBEDDINGS: &str = include_str!("errors/embeddings.txt");
const SCORE: &str = include_str!("errors/score.txt");
const PERPLEXITY: &str = include_str!("errors/perplexity.txt");
const LLAMA_SERVER: &str = include_str!("errors/llama_server.txt");
const INFILL: &str = include_str!("errors/infill.txt");
const RERANK: &str = include_str!("errors/rerank.txt");
const LIMITS: &str = include_str!("errors/limits.txt");
const KEYS: &str = include_str!("errors/keys.txt");

/// The cases of `fields.txt`, with the names of all samplers.
fn fields() -> String {
    let names: Vec<&str> = SamplerName::all().map(SamplerName::as_str).collect();
    FIELDS.replace("{SAMPLERS}", &names.join(", "))
}

/// Bodies for `/v1/completions`.
fn bodies(table: &str) -> Vec<Case> {
    bodies_for("/v1/completions", table)
}

/// Bodies for a route: a line that is sent and a line with the answer.
fn bodies_for(path: &str, table: &str) -> Vec<Case> {
    let lines: Vec<&str> = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let (pairs, rest) = lines.as_chunks::<2>();
    assert!(rest.is_empty(), "a body without an answer: {rest:?}");
    pairs
        .iter()
        .map(|[body, answer]| case(Request::new("POST", path, &[], *body), answer))
        .collect()
}

/// Requests to any route: a request line, headers, a body, the answer.
fn requests(table: &str) -> Vec<Case> {
    table
        .split("\n\n")
        .map(|paragraph| paragraph.trim_matches('\n'))
        .filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with('#'))
        .map(|paragraph| {
            let mut lines = paragraph.lines();
            let (method, path) = lines
                .next()
                .and_then(|line| line.split_once(' '))
                .unwrap_or_else(|| panic!("no request line: {paragraph}"));
            let answer = lines.next_back().unwrap_or_default();
            let is_header = |line: &&str| {
                line.split_once(':').is_some_and(|(name, _)| {
                    name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
                })
            };
            let rest: Vec<&str> = lines.collect();
            let headers: Vec<&str> = rest.iter().copied().take_while(is_header).collect();
            let body = rest[headers.len()..].join("\n");
            case(Request::new(method, path, &headers, body), answer)
        })
        .collect()
}

/// The answer is a status, and with an error its object.
fn case(request: Request, answer: &str) -> Case {
    let (status, error) = match answer.split_once(' ') {
        Some((status, error)) => (status, Some(error.to_owned())),
        None => (answer, None),
    };
    Case {
        name: format!(
            "{} {} {}",
            request.method,
            request.path,
            String::from_utf8_lossy(&request.body)
        ),
        request,
        status: status
            .parse()
            .unwrap_or_else(|_| panic!("no status: {answer}")),
        error,
    }
}

/// Sends each case, and after each a request that must be answered as it was before. Tells of all that went wrong.
fn check(server: &TestServer, cases: &[Case], normal: &Request) {
    let expected = usual(server, normal);
    let mut wrong = Vec::new();
    for case in cases {
        let sent = std::iter::once(case.request.clone()).chain(streamed(case));
        for request in sent {
            let response = request.send(server.address());
            if let Err(reason) = case.judge(&response) {
                let body: String = response.body.chars().take(1000).collect();
                wrong.push(format!(
                    "{}: {reason}\n    {} {body}",
                    case.name, response.status
                ));
            }
            assert_eq!(usual(server, normal), expected, "after {}", case.name);
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

impl Case {
    fn judge(&self, response: &Response) -> Result<(), &'static str> {
        let hold = |holds: bool, reason| if holds { Ok(()) } else { Err(reason) };
        hold(response.status == self.status, "another status")?;
        let has = |name: &str| response.header(name).is_some();
        hold(has("allow") || self.status != 405, "no header Allow")?;
        hold(
            has("www-authenticate") == (self.status == 401),
            "the header WWW-Authenticate",
        )?;
        let Some(error) = &self.error else {
            // An answer to HEAD has no body to say it in.
            let silent = self.status < 400 || self.request.method == "HEAD";
            return hold(silent, "an error without an object");
        };
        hold(
            response.body == format!("{{\"error\":{error}}}"),
            "another object",
        )?;
        hold(
            response.header("content-type") == Some("application/json"),
            "another content type",
        )?;
        let object: Value = serde_json::from_str(error).expect("JSON");
        let object = object.as_object().expect("an object");
        let keys: Vec<&String> = object.keys().collect();
        hold(keys == ["message", "type", "param", "code"], "other keys")?;
        let message = object["message"].as_str().expect("a message");
        hold(
            message.len() < 600,
            "a message that nobody reads to its end",
        )?;
        let param = object["param"].as_str().unwrap_or_default();
        let field = param.rsplit('.').next().unwrap_or_default();
        hold(
            message.contains(field),
            "a message that does not name the field",
        )
    }
}

/// The same request for a stream, which must be refused before any of it comes; if it is one for `/v1/completions` that
/// says nothing of streams.
fn streamed(case: &Case) -> Option<Request> {
    let Request {
        method, path, body, ..
    } = &case.request;
    let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
    let silent = !["stream", "stream_options", "best_of"]
        .iter()
        .any(|name| fields.contains_key(*name));
    let right = method == "POST" && path == "/v1/completions" && case.status == 400;
    // Reading and writing it again would mend what is large or stands twice.
    let same = fields.len() <= 2
        && body.len() < 1000
        && Value::Object(fields.clone()).to_string().len() + 9 > body.len();
    (silent && right && same).then(|| {
        fields.insert("stream".to_owned(), true.into());
        Request {
            body: Value::Object(fields).to_string().into_bytes(),
            ..case.request.clone()
        }
    })
}

/// A normal request, whose answer depends on nothing.
fn normal() -> Request {
    Request::complete(r#"{"prompt": "Once", "max_tokens": 2, "temperature": 0, "logprobs": 2}"#)
}

/// The choices of its answer.
fn usual(server: &TestServer, normal: &Request) -> Value {
    let response = normal.send(server.address());
    assert_eq!(response.status, 200, "{}", response.body);
    let answer: Value = serde_json::from_str(&response.body).expect("JSON");
    answer["choices"].clone()
}

#[test]
fn bodies_that_are_written_out() {
    check(tiny(), &bodies(&fields()), &normal());
}

#[test]
fn embeddings() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.embeddings.pooling = candor::config::Pooling::Mean;
        config.limits.prompts = 4;
        config.limits.answer_entries = 1000;
    });
    check(
        &server,
        &bodies_for("/v1/embeddings", EMBEDDINGS),
        &normal(),
    );
}

#[test]
fn llama_servers_routes() {
    let cases = bodies_for("/completion", LLAMA_SERVER);
    check(tiny(), &cases, &normal());
    check(fim::server(), &bodies_for("/infill", INFILL), &normal());
}

#[test]
fn ranking() {
    let server = rerank::start();
    for case in bodies_for("/v1/rerank", RERANK) {
        let response = case.request.send(server.address());
        if let Err(reason) = case.judge(&response) {
            panic!("{}: {reason}: {}", case.name, response.body);
        }
    }
}

#[test]
fn scoring() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        config.model.chat_template = Some(template.to_owned());
        config.engine.context_length = 64;
        config.limits.prompts = 4;
    });
    check(&server, &bodies_for("/v1/score", SCORE), &normal());
    let cases = bodies_for("/v1/perplexity", PERPLEXITY);
    check(&server, &cases, &normal());
}

#[test]
fn conversations() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        config.model.chat_template = Some(template.to_owned());
    });
    check(
        &server,
        &bodies_for("/v1/chat/completions", CHAT),
        &normal(),
    );
    check(&server, &bodies_for("/v1/responses", RESPONSES), &normal());
}

#[test]
fn routes_and_headers() {
    check(tiny(), &requests(ROUTES), &normal());
}

#[test]
fn bodies_that_are_made() {
    check(tiny(), &made::cases(), &normal());
}

/// A server that allows little.
fn strict() -> TestServer {
    TestServer::start_with(&tiny_model(), |config| {
        config.limits.body_bytes = 1024;
        config.limits.prompt_tokens = 8;
        config.limits.prompts = 2;
        config.limits.n = 3;
        config.limits.logprobs = 2;
        config.limits.stop_strings = 1;
        config.limits.stop_bytes = 4;
        config.limits.logit_bias = 1;
        config.limits.grammar_bytes = 12;
    })
}

#[test]
fn limits_of_the_server() {
    let server = strict();
    let mut cases = bodies(LIMITS);
    cases.extend(made::around_the_largest_body(1024));
    check(&server, &cases, &normal());
}

#[test]
fn keys_of_the_server() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["first".to_owned(), "second".to_owned()];
    });
    let normal = normal().with_header("authorization: Bearer first");
    check(&server, &requests(KEYS), &normal);
}

#[test]
fn there_are_many_cases_and_each_is_another() {
    let tables = [
        bodies(&fields()),
        bodies_for("/v1/chat/completions", CHAT),
        bodies_for("/v1/responses", RESPONSES),
        bodies_for("/v1/embeddings", EMBEDDINGS),
        bodies_for("/v1/score", SCORE),
        bodies_for("/v1/perplexity", PERPLEXITY),
        bodies_for("/completion", LLAMA_SERVER),
        bodies_for("/infill", INFILL),
        bodies_for("/v1/rerank", RERANK),
        requests(ROUTES),
        made::cases(),
        bodies(LIMITS),
        made::around_the_largest_body(1024),
        requests(KEYS),
    ];
    let (mut refused, mut accepted) = (0, 0);
    for table in &tables {
        let distinct: HashSet<&Request> = table.iter().map(|case| &case.request).collect();
        assert_eq!(distinct.len(), table.len(), "a case stands twice");
        let bad = table.iter().filter(|case| case.status >= 400).count();
        refused += bad;
        accepted += table.len() - bad;
    }
    let raw = http::cases().len();
    println!(
        "{refused} bad requests, {accepted} good ones beside them, {raw} on the level of HTTP"
    );
    assert!(refused >= 150 && accepted >= 40 && raw >= 30);
}

#[test]
fn a_full_server_says_so_and_when_to_come_back() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.engine.parallel_sequences = 1;
        config.limits.queue_length = 1;
        config.limits.queue_timeout_ms = 50;
    });
    let long = Request::complete(r#"{"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000}"#);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| long.send(server.address())))
            .collect();
        let answers: Vec<Response> = running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        assert!(answers.iter().any(|answer| answer.status == 200));
        let refused: Vec<&Response> = answers
            .iter()
            .filter(|answer| answer.status == 503)
            .collect();
        assert!(!refused.is_empty());
        for answer in refused {
            let message = |text| {
                json!({"error": {"message": text, "type": "server_error", "param": null, "code": "server_overloaded"}})
                    .to_string()
            };
            assert!(
                [
                    message(
                        "The server is full: 1 requests are already waiting. Try again shortly."
                    ),
                    message("No slot became free within 50 ms. Try again shortly."),
                ]
                .contains(&answer.body),
                "{}",
                answer.body
            );
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    });
    usual(&server, &normal());
}

#[test]
fn unknown_fields_may_be_let_through() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.unknown_fields = candor::config::UnknownFields::Warn;
    });
    server.complete(json!({"prompt": "Once", "max_tokens": 1, "unheard_of": 1}));
    let template = "{{ messages[0].content }}";
    let part = json!({"type": "input_text", "text": "Hi", "unheard_of": 1});
    let tools = json!([{"type": "function", "name": "f"}]);
    for body in [
        json!({"input": [{"role": "user", "content": [part]}], "chat_template": template, "max_output_tokens": 1}),
        json!({"input": "Hi", "chat_template": template, "max_output_tokens": 1, "tools": tools,
            "tool_choice": {"type": "function", "name": "f", "unheard_of": 1}}),
    ] {
        let answer = server.post("/v1/responses", &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    }
}

#[test]
fn unknown_fields_of_other_files_may_be_let_through() {
    let check = |model: &str, path: &str, body: Value| {
        let server = TestServer::start_with(model, |config| {
            config.server.unknown_fields = candor::config::UnknownFields::Warn;
        });
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    };
    check(
        &fim::write("lenient").display().to_string(),
        "/infill",
        json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 1,
            "input_extra": [{"text": "c", "unheard_of": 1}]}),
    );
    check(
        &rerank::model(),
        "/v1/rerank",
        json!({"query": "a", "documents": [{"text": "b", "unheard_of": 1}]}),
    );
}
