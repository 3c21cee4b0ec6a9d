//! Clients that leave: their work stops within one decode. Proven by counting decodes, with the worker held in one while
//! its client goes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candor::config::Config;
use candor::engine::{self, Delta, Engine, Rows};
use candor::model::{Adapters, Token};
use candor::sampling::{Constraint, ConstraintError, Follow, Rules, SamplingParams, Watch};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::faulty::{Decodes, Gate, Trouble, faulty};
use crate::raw::Request;
use crate::server::{TestServer, tiny_model};

/// A server whose worker waits before its decode number `held`, and after.
struct Held {
    server: TestServer,
    gate: Arc<Gate>,
    decodes: Decodes,
}

impl Held {
    fn start(held: usize, change: impl FnOnce(&mut Config)) -> Self {
        let gate = Arc::new(Gate::default());
        let (door, count) = (Arc::clone(&gate), AtomicUsize::new(0));
        let trouble: Trouble = Arc::new(move |_, _| {
            if count.fetch_add(1, Ordering::SeqCst) + 1 >= held {
                door.pass();
            }
            None
        });
        let (runners, decodes) = faulty(trouble);
        let server = TestServer::start_on(
            &tiny_model(),
            |config| {
                config.engine.contexts = 1;
                config.engine.prompt_chunk_tokens = 16;
                // A key may have one request: that tells when it is gone.
                config.server.api_keys = vec!["leaves".to_owned(), "stays".to_owned()];
                config.limits.requests_per_key = 1;
                change(config);
            },
            runners,
        );
        gate.close();
        Self {
            server,
            gate,
            decodes,
        }
    }

    /// The client goes while the worker is held; from then on nothing more is evaluated for it.
    fn left(self, client: TcpStream) {
        self.gate.wait_for(1);
        let before = self.decodes.load(Ordering::SeqCst);
        drop(client);
        while self.is_here() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        self.gate.open();
        books_balance(&self.server);
        assert_eq!(self.decodes.load(Ordering::SeqCst), before);
        let answer = self.server.post_with(
            "/v1/completions",
            "stays",
            &json!({"prompt": "Once", "max_tokens": 2}),
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Whether the server still works on a request of the key that leaves.
    fn is_here(&self) -> bool {
        let answer = self
            .server
            .post_with("/v1/completions", "leaves", &json!({"n": 0}));
        assert!([400, 429].contains(&answer.status), "{}", answer.body);
        answer.status == 429
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.open();
    }
}

fn send(server: &TestServer, body: &Value) -> TcpStream {
    Request::complete(body.to_string())
        .with_header("authorization: Bearer leaves")
        .start(server.address())
}

#[test]
fn while_the_prompt_is_evaluated() {
    for stream in [false, true] {
        let held = Held::start(3, |_| {});
        let prompt: Vec<usize> = (1..1000).collect();
        let client = send(
            &held.server,
            &json!({"prompt": prompt, "max_tokens": 50, "stream": stream}),
        );
        held.left(client);
    }
}

#[test]
fn while_it_is_answered() {
    let held = Held::start(8, |_| {});
    let request = json!({"prompt": [1, 2, 3], "max_tokens": 500, "min_tokens": 500});
    let client = send(&held.server, &request);
    held.left(client);
}

#[test]
fn amid_a_stream() {
    let held = Held::start(8, |_| {});
    let mut client = send(
        &held.server,
        &json!({"prompt": [1, 2, 3], "max_tokens": 500, "min_tokens": 500, "logprobs": 1, "stream": true}),
    );
    let mut some = [0; 400];
    client.read_exact(&mut some).expect("the answer has begun");
    held.left(client);
}

#[test]
fn amid_a_streamed_response() {
    let held = Held::start(8, |_| {});
    let body = json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 500,
        "min_tokens": 500, "stream": true});
    let key = ["authorization: Bearer leaves"];
    let request = Request::new("POST", "/v1/responses", &key, body.to_string());
    let mut client = request.start(held.server.address());
    let mut some = [0; 400];
    client.read_exact(&mut some).expect("the answer has begun");
    held.left(client);
}

#[test]
fn with_more_choices_than_places() {
    for stream in [false, true] {
        let held = Held::start(12, |config| config.engine.parallel_sequences = 4);
        let client = send(
            &held.server,
            &json!({"prompt": [1, 2, 3], "max_tokens": 500, "min_tokens": 500, "n": 8, "stream": stream}),
        );
        held.left(client);
    }
}

#[test]
fn in_the_queue() {
    let held = Held::start(2, |config| config.engine.parallel_sequences = 1);
    let request = json!({"prompt": [1, 2, 3], "max_tokens": 3, "min_tokens": 3});
    std::thread::scope(|scope| {
        let _opener = held.gate.opener();
        let stays = scope.spawn(|| held.server.post_with("/v1/completions", "stays", &request));
        held.gate.wait_for(1);
        let client = send(
            &held.server,
            &json!({"prompt": [1, 7, 8, 9], "max_tokens": 50}),
        );
        held.server.wait_until("candor_requests_waiting", 1);
        drop(client);
        held.server.wait_until("candor_requests_waiting", 0);
        held.gate.open();
        assert_eq!(stays.join().expect("no panic").status, 200);
    });
    books_balance(&held.server);
    // A prompt and two tokens: nothing of the other's.
    assert_eq!(held.decodes.load(Ordering::SeqCst), 3);
}

#[test]
fn before_the_queue() {
    let held = Held::start(1, |_| {});
    for part in [
        "POST /v1/comple",
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer leaves\r\ncontent-length: 100\r\n\r\n{\"prompt\"",
    ] {
        let mut client = TcpStream::connect(held.server.address()).expect("connects");
        client.write_all(part.as_bytes()).expect("sends");
        drop(client);
        while held.is_here() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    books_balance(&held.server);
    assert_eq!(held.decodes.load(Ordering::SeqCst), 0);
}

/// Rules whose every step waits at a gate.
struct SlowRules(Arc<Gate>);

impl Rules for SlowRules {
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
}

impl Follow for SlowRules {
    fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
        self.0.pass();
        Err(ConstraintError::new("nothing is allowed"))
    }
    fn accept(&mut self, _: Token) -> Result<(), ConstraintError> {
        Ok(())
    }
}

/// The worker has nothing to evaluate, and no one else wakes it.
#[tokio::test]
async fn while_what_is_allowed_next_is_being_found() {
    candor::program::run_with(env!("CARGO_BIN_EXE_candor").into());
    let mut config = crate::server::defaults();
    config.model.source = tiny_model();
    config.engine.contexts = 1;
    let (engine, mut started) = Engine::start(&config, candor::model::contexts());
    let started = started.wait_for(Option::is_some).await;
    assert!(matches!(*started.expect("it tells"), Some(Ok(()))));
    let gate = Arc::new(Gate::default());
    gate.close();
    let _opener = gate.opener();
    let request = engine::Request {
        prompt: [Token(1), Token(2)].into(),
        forced_prefix: Arc::default(),
        forced_token: None,
        adapters: Adapters::default(),
        max_tokens: 4,
        logprobs: None,
        prompt_logprobs: None,
        rows: Rows::None,
        watch: Watch::default(),
        sampling: SamplingParams {
            constraint: Some(Constraint::new(Arc::new(SlowRules(Arc::clone(&gate))))),
            ..SamplingParams::default()
        },
        stop: Arc::default(),
        include_stop: false,
        shows_control: false,
        cache_prompt: true,
        exact: false,
        streamed: true,
        line_after: None,
        reports: false,
        deliver_end_token: false,
    };
    let submitted = engine.submit("client".into(), Instant::now(), vec![request]);
    let mut generations = submitted.await.expect("a place is free");
    let prompt = generations[0].next().await;
    assert!(matches!(prompt, Some(Delta::Prompt(_))), "{prompt:?}");
    gate.wait_for(1);
    // The worker has given its last decode out, and waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let running = || engine.load_now().expect("it is loaded").running;
    assert_eq!(running(), 1);
    drop(generations);
    let left = Instant::now();
    while running() > 0 {
        assert!(
            left.elapsed() < Duration::from_secs(10),
            "its place is held"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.open();
    tokio::task::spawn_blocking(move || engine.close())
        .await
        .expect("no panic");
}

/// Answers wait in memory, not in a place; a connection that takes nothing is closed.
#[test]
fn a_client_that_stops_reading() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.write_timeout_ms = 300;
        config.engine.parallel_sequences = 2;
    });
    let body = json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000, "logprobs": 100, "stream": true});
    let mut client = Request::complete(body.to_string()).start(server.address());
    server.wait_until("candor_sequences_running", 1);
    for _ in 0..4 {
        server.complete(json!({"prompt": "Once", "max_tokens": 4}));
    }
    // It is run to its end, and its place is free though nothing was read.
    books_balance(&server);
    // The server gives the connection up; what had left it before still comes.
    std::thread::sleep(std::time::Duration::from_millis(1000));
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("[DONE]"));
    server.complete(json!({"prompt": "Once", "max_tokens": 4}));
}
