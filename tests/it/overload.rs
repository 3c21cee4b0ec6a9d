//! More than there is room for: whoever is served is served in turn, whoever is not is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candor::model::Runners;
use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::faulty::{Gate, Trouble, faulty};
use crate::raw::{Request, Response};
use crate::server::{TestServer, tiny_model};

fn short() -> Value {
    json!({"prompt": "Once", "max_tokens": 4, "temperature": 0})
}

/// Runners that wait at a gate before each decode.
fn gated() -> (Runners, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, _| {
        held.pass();
        None
    });
    (faulty(trouble).0, gate)
}

#[test]
fn five_hundred_clients_on_eight_places() {
    let (runners, gate) = gated();
    let server = TestServer::start_on(
        &tiny_model(),
        |config| {
            config.engine.parallel_sequences = 8;
            config.limits.queue_length = 300;
        },
        runners,
    );
    let alone = server.complete(short())["choices"].clone();
    gate.close();
    let refused = AtomicUsize::new(0);
    let served = std::thread::scope(|scope| {
        let _opener = gate.opener();
        let clients: Vec<_> = (0..500)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.try_complete(&short());
                    if answer.status == 200 {
                        assert_eq!(answer.json()["choices"], alone);
                    } else {
                        assert_eq!(answer.status, 503, "{}", answer.body);
                        assert_eq!(answer.json()["error"]["code"], "server_overloaded");
                        assert_eq!(answer.retry_after.as_deref(), Some("1"));
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    answer.status
                })
            })
            .collect();
        // Nobody who wants to know how things stand waits behind them.
        while refused.load(Ordering::SeqCst) < 192 {
            assert_eq!(server.get("/health").status, 200);
            assert!(server.metric("candor_requests_waiting") <= 300);
        }
        assert_eq!(server.metric("candor_sequences_running"), 8);
        assert_eq!(server.metric("candor_requests_waiting"), 300);
        gate.open();
        let statuses = clients
            .into_iter()
            .map(|client| client.join().expect("no panic"));
        statuses.filter(|&status| status == 200).count()
    });
    assert_eq!((served, refused.into_inner()), (308, 192));
    books_balance(&server);
}

#[test]
fn a_client_with_one_request_does_not_wait_for_one_with_a_hundred() {
    /// Stands in the prompt of the client with one request.
    const MARK: i32 = 777;
    let gate = Arc::new(Gate::default());
    let (decodes, marked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, count, seen) = (Arc::clone(&gate), Arc::clone(&decodes), Arc::clone(&marked));
    let trouble: Trouble = Arc::new(move |_, rows| {
        held.pass();
        let before = count.fetch_add(1, Ordering::SeqCst);
        if rows.iter().any(|row| row.token.0 == MARK) {
            seen.store(before, Ordering::SeqCst);
        }
        None
    });
    let server = TestServer::start_on(
        &tiny_model(),
        |config| {
            config.engine.contexts = 1;
            config.engine.parallel_sequences = 1;
            config.limits.queue_length = 100;
            config.server.api_keys = vec!["many".to_owned(), "one".to_owned()];
        },
        faulty(trouble).0,
    );
    gate.close();
    let ask = |key: &str, prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 4, "temperature": 0, "min_tokens": 4});
        server.post_with("/v1/completions", key, &body).status
    };
    let many = |number: usize| ask("many", json!([1, 1000 + number]));
    std::thread::scope(|scope| {
        let _opener = gate.opener();
        let mut clients = Vec::new();
        for number in 0..=100_usize {
            clients.push(scope.spawn(move || many(number)));
            if number == 0 {
                gate.wait_for(1);
            }
            server.wait_until("candor_requests_waiting", number as i64);
        }
        // The queue is full: another of the same client is refused, one of another client is not.
        assert_eq!(many(101), 503);
        clients.push(scope.spawn(|| ask("one", json!([1, MARK]))));
        server.wait_until("candor_requests_waiting", 101);
        gate.open();
        for client in clients {
            assert_eq!(client.join().expect("no panic"), 200);
        }
    });
    // Each takes four: it came behind the one that ran and the one that stood in line, and before all the others.
    let (before, all) = (
        marked.load(Ordering::SeqCst),
        decodes.load(Ordering::SeqCst),
    );
    assert_eq!(all, 4 * 102);
    assert!((4..=12).contains(&before), "{before} of {all}");
    books_balance(&server);
}

#[test]
fn a_long_request_does_not_keep_short_ones_out() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.engine.contexts = 1;
        config.engine.parallel_sequences = 2;
    });
    std::thread::scope(|scope| {
        let long = json!({"prompt": vec![7; 40], "max_tokens": 2000, "min_tokens": 2000});
        let long = scope.spawn(|| {
            let long = long;
            server.complete(long)
        });
        server.wait_until("candor_sequences_running", 1);
        for _ in 0..20 {
            server.complete(short());
        }
        let still_running = !long.is_finished();
        let answer = long.join().expect("it is answered as well");
        assert_eq!(answer["usage"]["completion_tokens"], 2000);
        assert!(
            still_running,
            "twenty short requests took longer than a long one"
        );
    });
    books_balance(&server);
}

#[test]
fn requests_at_once_may_be_bounded_for_a_key_and_for_an_address() {
    let (runners, gate) = gated();
    let server = TestServer::start_on(
        &tiny_model(),
        |config| {
            config.server.api_keys = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
            config.limits.requests_per_key = 1;
            config.limits.requests_per_address = 2;
        },
        runners,
    );
    gate.close();
    let refused = |key: &str, by: &str| {
        let answer = server.post_with("/v1/completions", key, &short());
        assert_eq!(answer.status, 429, "{}", answer.body);
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "rate_limit_exceeded");
        assert_eq!(error["type"], "rate_limit_error");
        assert!(
            error["message"].as_str().expect("text").contains(by),
            "{error}"
        );
    };
    std::thread::scope(|scope| {
        let _opener = gate.opener();
        let a = scope.spawn(|| server.post_with("/v1/completions", "a", &short()));
        server.wait_until("candor_sequences_running", 1);
        refused("a", "One key");
        let mut streamed = short();
        streamed["stream"] = json!(true);
        let b = scope.spawn(|| {
            let streamed = streamed;
            server.post_with("/v1/completions", "b", &streamed)
        });
        server.wait_until("candor_sequences_running", 2);
        refused("c", "One address");
        // What is not work is not counted.
        assert_eq!(server.get_with("/v1/models", Some("a")).status, 200);
        gate.open();
        assert_eq!(a.join().expect("no panic").status, 200);
        assert_eq!(b.join().expect("no panic").status, 200);
    });
    assert_eq!(
        server.post_with("/v1/completions", "c", &short()).status,
        200
    );
    books_balance(&server);
}

#[test]
fn answers_that_are_counted_have_their_length() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.requests_per_key = 1;
        config.limits.requests_per_address = 1;
    });
    let ask = |method: &str, path: &str, body: &str| {
        Request::new(method, path, &[], body).send(server.address())
    };
    let length = |answer: &Response| answer.header("content-length").map(str::to_owned);
    for (path, body, status) in [
        ("/v1/completions", short().to_string(), 200),
        ("/tokenize", json!({"content": "Once"}).to_string(), 200),
        ("/v1/completions", json!({"n": 0}).to_string(), 400),
    ] {
        let answer = ask("POST", path, &body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(
            length(&answer),
            Some(answer.body.len().to_string()),
            "{answer:?}"
        );
        assert_eq!(answer.header("transfer-encoding"), None, "{answer:?}");
    }
    // Of a stream nobody knows the length.
    let mut streamed = short();
    streamed["stream"] = json!(true);
    let answer = ask("POST", "/v1/completions", &streamed.to_string());
    assert_eq!(length(&answer), None, "{answer:?}");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert!(answer.body.contains("[DONE]"), "{answer:?}");
    let whole = ask("GET", "/v1/models", "");
    let head = ask("HEAD", "/v1/models", "");
    assert_eq!(head.body, "");
    assert_eq!(length(&head), Some(whole.body.len().to_string()));
    books_balance(&server);
}

/// A text whose tokens take a moment to find.
fn long_text(number: usize) -> Value {
    let text = format!("{number} keeper of the lighthouse ").repeat(10_000);
    json!({"content": text.chars().take(300_000).collect::<String>()})
}

/// Requests that are prepared at once: as many as there are cores.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn preparing_requests_of_one_client_does_not_keep_others_waiting() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["many".to_owned(), "one".to_owned()];
    });
    let prepared = AtomicUsize::new(0);
    let all = 16 * cores();
    // A template of its own is rendered by another process, which takes its time.
    let slow = json!({
        "messages": [{"role": "user", "content": "Hi"}],
        "chat_template": "{% for i in range(20000) %}{{ i }}{% endfor %}",
    });
    let ask = |key: &str, path: &str, body: &Value| server.post_with(path, key, body).status;
    let waiting = || server.metric("candor_cpu_tasks_waiting");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..all)
            .map(|_| {
                let (prepared, ask, slow) = (&prepared, &ask, &slow);
                scope.spawn(move || {
                    let status = ask("many", "/apply-template", slow);
                    prepared.fetch_add(1, Ordering::SeqCst);
                    status
                })
            })
            .collect();
        // All have come: those that are not prepared or being prepared wait.
        while waiting() + ((prepared.load(Ordering::SeqCst) + cores()) as i64) < all as i64 {
            std::thread::yield_now();
        }
        let before = waiting();
        assert_eq!(ask("one", "/tokenize", &json!({"content": "Once"})), 200);
        // In order of arrival it would have waited for all of them.
        let left = waiting();
        assert!(left > 0, "it waited for all {before} of the other client's");
        for client in clients {
            assert_eq!(client.join().expect("no panic"), 200);
        }
    });
    assert_eq!(server.metric("candor_cpu_tasks_waiting"), 0);
    server.wait_until("candor_cpu_tasks_running", 0);
}

#[test]
fn waiting_to_be_prepared_is_bounded() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["many".to_owned(), "one".to_owned()];
        config.engine.parallel_sequences = 1;
        config.limits.queue_length = 1;
    });
    let refused = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4 * cores() + 8)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let answer = server.post_with("/tokenize", "many", &long_text(number));
                    if answer.status != 200 {
                        assert_eq!(answer.status, 503, "{}", answer.body);
                        assert_eq!(answer.json()["error"]["code"], "server_overloaded");
                        assert_eq!(answer.retry_after.as_deref(), Some("1"));
                    }
                    answer.status != 200
                })
            })
            .collect();
        // Who has nothing waiting may wait all the same.
        let body = json!({"content": "Once"});
        assert_eq!(server.post_with("/tokenize", "one", &body).status, 200);
        let refused = clients
            .into_iter()
            .map(|client| client.join().expect("no panic"));
        refused.filter(|&refused| refused).count()
    });
    assert!(refused > 0);
    assert!(refused < 4 * cores() + 8, "none was served");
    assert_eq!(server.metric("candor_cpu_tasks_waiting"), 0);
}
