//! What fails, fails alone, and nothing is lost by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candor::config::Mode;
use candor::model::{DecodeError, Row};
use serde_json::{Value, json};

use crate::faulty::{Fault, Gate, Trouble, faulty};
use crate::server::{TestServer, tiny_model};

/// Whoever has this token meets the fault.
const POISON: i32 = 31_999;

fn poisoned(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.token.0 == POISON)
}

/// A prompt of its own for each number.
fn good(number: usize) -> Value {
    json!({"prompt": [1, 300 + number, 400 + number, 500], "max_tokens": 24, "temperature": 0, "logprobs": 2})
}

/// The fault is in the prompt, or it is drawn.
fn bad(drawn: bool) -> Value {
    if drawn {
        json!({"prompt": [1, 5, 6], "max_tokens": 24, "logit_bias": {POISON.to_string(): 1e6}})
    } else {
        json!({"prompt": [1, 5, POISON], "max_tokens": 24})
    }
}

/// All places are free again, and no lane is held by nobody.
pub fn books_balance(server: &TestServer) {
    server.wait_until("candor_sequences_running", 0);
    assert_eq!(server.metric("candor_requests_waiting"), 0);
    assert_eq!(
        server.metric("candor_slots_free"),
        server.metric("candor_slots")
    );
    assert_eq!(server.metric("candor_invariant_violations_total"), 0);
}

fn choices(answer: &Value) -> Value {
    answer["choices"].clone()
}

#[test]
fn a_decode_that_fails_ends_one_sequence() {
    for mode in [Mode::Exact, Mode::Throughput] {
        for error in [
            DecodeError::Failed(-3),
            DecodeError::Failed(-1),
            DecodeError::Full,
            DecodeError::Aborted,
        ] {
            let trouble: Trouble =
                Arc::new(move |_, rows| poisoned(rows).then_some(Fault::Error(error)));
            let (runners, _) = faulty(trouble);
            let server = TestServer::start_on(&tiny_model(), |c| c.engine.mode = mode, runners);
            let alone: Vec<Value> = (0..8)
                .map(|number| choices(&server.complete(good(number))))
                .collect();
            std::thread::scope(|scope| {
                let neighbours: Vec<_> = (0..8)
                    .map(|number| {
                        let server = &server;
                        scope.spawn(move || choices(&server.complete(good(number))))
                    })
                    .collect();
                for drawn in [false, true, false, true] {
                    let answer = server.try_complete(&bad(drawn));
                    assert_eq!(answer.status, 500, "{}", answer.body);
                    assert_eq!(answer.json()["error"]["code"], "evaluation_failed");
                    let mut streamed = bad(drawn);
                    streamed["stream"] = json!(true);
                    let answer = server.try_complete(&streamed);
                    assert_eq!(answer.status, 200, "the status went out before");
                    let last = answer
                        .body
                        .trim_end()
                        .rsplit("\n\n")
                        .next()
                        .expect("an event");
                    assert!(last.starts_with("data: {\"error\":"), "{last}");
                    assert!(!answer.body.contains("[DONE]"));
                }
                for (neighbour, alone) in neighbours.into_iter().zip(&alone) {
                    let answer = neighbour.join().expect("no panic");
                    if mode == Mode::Exact {
                        assert_eq!(&answer, alone);
                    } else {
                        // A shared decode moves bits of these weights.
                        assert_eq!(answer[0]["finish_reason"], "length");
                        assert_eq!(
                            answer[0]["logprobs"]["tokens"].as_array().map(Vec::len),
                            Some(24)
                        );
                    }
                }
            });
            books_balance(&server);
            server.complete(good(9));
        }
    }
}

#[test]
fn a_decode_that_fails_once_is_tried_again() {
    let failures = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&failures);
    let trouble: Trouble = Arc::new(move |_, _| {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
        .then_some(Fault::Error(DecodeError::Full))
    });
    let (runners, decodes) = faulty(trouble);
    let server = TestServer::start_on(&tiny_model(), |_| {}, runners);
    let alone = choices(&server.complete(good(0)));
    let first = decodes.swap(0, Ordering::SeqCst);
    failures.store(1, Ordering::SeqCst);
    let mut again = good(0);
    again["cache_prompt"] = json!(false);
    assert_eq!(choices(&server.complete(again)), alone);
    assert_eq!(decodes.load(Ordering::SeqCst), first + 1);
    books_balance(&server);
}

#[test]
fn a_worker_that_panics_is_made_anew() {
    let rebuild = Arc::new(Gate::default());
    let trouble: Trouble = Arc::new(|_, rows| poisoned(rows).then_some(Fault::Panic));
    let (runners, _) = faulty(trouble);
    let held = Arc::clone(&rebuild);
    let server = TestServer::start_on(
        &tiny_model(),
        |config| config.engine.contexts = 2,
        Arc::new(move |number, context| {
            held.pass();
            runners(number, context)
        }),
    );
    let alone = choices(&server.complete(good(0)));
    for (drawn, stream) in [(false, false), (true, true), (true, false)] {
        rebuild.close();
        let _opener = rebuild.opener();
        let mut request = bad(drawn);
        request["stream"] = json!(stream);
        let answer = server.try_complete(&request);
        if stream {
            assert!(answer.body.contains("worker_down"), "{}", answer.body);
            assert!(!answer.body.contains("[DONE]"));
        } else {
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert_eq!(answer.json()["error"]["code"], "worker_down");
        }
        rebuild.wait_for(1);
        let health = server.get("/health");
        assert_eq!(health.status, 503, "{}", health.body);
        assert!(health.body.contains("is down"), "{}", health.body);
        assert_eq!(server.metric("candor_workers_alive"), 1);
        // The other one goes on.
        for _ in 0..4 {
            assert_eq!(choices(&server.complete(good(0))), alone);
        }
        rebuild.open();
        while server.get("/health").status != 200 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        books_balance(&server);
    }
    std::thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || server.complete(good(number)));
        }
    });
    assert_eq!(choices(&server.complete(good(0))), alone);
    books_balance(&server);
}

#[test]
fn who_runs_beside_a_panic_hears_of_it() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, rows| {
        held.pass();
        poisoned(rows).then_some(Fault::Panic)
    });
    let (runners, _) = faulty(trouble);
    let server = TestServer::start_on(&tiny_model(), |c| c.engine.contexts = 1, runners);
    gate.close();
    std::thread::scope(|scope| {
        let _opener = gate.opener();
        let neighbours: Vec<_> = (0..6)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let mut request = good(number);
                    request["stream"] = json!(number % 2 == 0);
                    server.try_complete(&request)
                })
            })
            .collect();
        let culprit = scope.spawn(|| server.try_complete(&bad(false)));
        server.wait_until("candor_sequences_running", 7);
        gate.open();
        assert_eq!(culprit.join().expect("no panic").status, 503);
        for (number, neighbour) in neighbours.into_iter().enumerate() {
            let answer = neighbour.join().expect("no panic");
            // Who was done before it has a whole answer; nobody has half of one.
            if number % 2 == 0 {
                let whole = answer.body.contains("[DONE]");
                assert_ne!(whole, answer.body.contains("\"error\""), "{}", answer.body);
            } else {
                assert!([200, 503].contains(&answer.status), "{}", answer.body);
            }
        }
    });
    books_balance(&server);
    server.complete(good(0));
}

#[test]
fn a_worker_that_can_evaluate_nothing_is_made_anew() {
    let broken = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&broken);
    let trouble: Trouble = Arc::new(move |_, _| {
        seen.load(Ordering::SeqCst)
            .then_some(Fault::Error(DecodeError::Failed(-3)))
    });
    let (runners, _) = faulty(trouble);
    let mended = Arc::clone(&broken);
    let server = TestServer::start_on(
        &tiny_model(),
        |config| config.engine.contexts = 1,
        Arc::new(move |number, context| {
            mended.store(false, Ordering::SeqCst);
            runners(number, context)
        }),
    );
    let alone = choices(&server.complete(good(0)));
    broken.store(true, Ordering::SeqCst);
    let failed = (0..20)
        .filter(|&number| server.try_complete(&good(number)).status != 200)
        .count();
    assert!((5..=6).contains(&failed), "{failed}");
    assert_eq!(choices(&server.complete(good(0))), alone);
    books_balance(&server);
}

#[test]
fn a_slow_worker_holds_up_nobody_elsewhere() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, rows| {
        if poisoned(rows) {
            held.pass();
        }
        None
    });
    let (runners, _) = faulty(trouble);
    let server = TestServer::start_on(&tiny_model(), |c| c.engine.contexts = 2, runners);
    gate.close();
    std::thread::scope(|scope| {
        let _opener = gate.opener();
        let slow = scope.spawn(|| server.complete(bad(false)));
        gate.wait_for(1);
        for number in 0..8 {
            server.complete(good(number));
            assert_eq!(server.get("/health").status, 200);
            assert_eq!(server.metric("candor_sequences_running"), 1);
        }
        gate.open();
        slow.join().expect("an answer");
    });
    books_balance(&server);
}
