//! The same bits on a busy server with warm caches as alone on a fresh one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::server::{self, TestServer, leave};

/// Neighbours that ask at the same time.
const NEIGHBOURS: usize = 16;

const STEM: &str = "Answer the question in one word. Question: What colour is the sky on a clear day? Answer: Blue. \
                    Question: How many legs has a spider? Answer: Eight. Question: What do bees make? Answer: Honey. ";

/// What is measured: scored and generated, short and long, with a stem that neighbours share and without.
fn measured() -> Vec<Value> {
    let long = STEM.repeat(11);
    let prompts = [
        format!("{STEM}Question: What is the capital of France? Answer:"),
        format!("{STEM}Question: What is frozen water called? Answer:"),
        STEM.to_owned(),
        "Once upon a time there was a lighthouse".to_owned(),
        "Hi".to_owned(),
        format!("{long}Question: Which planet is red? Answer:"),
    ];
    let mut requests = Vec::new();
    for prompt in &prompts {
        requests.push(json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 3}));
        requests.push(json!({"prompt": prompt, "max_tokens": 24, "seed": 7, "temperature": 0.9, "logprobs": 5}));
    }
    requests
        .push(json!({"prompt": STEM, "max_tokens": 16, "temperature": 0, "n": 3, "logprobs": 1}));
    requests
}

fn choices(server: &TestServer, request: &Value) -> Value {
    server.complete(request.clone())["choices"].clone()
}

#[test]
fn tiny_llama() {
    check(&server::tiny_model());
}

#[test]
fn smollm2() {
    check(&server::default_model());
}

#[test]
fn gemma() {
    match server::gemma_model() {
        Some(path) => check(&path),
        None => println!("skipped: CANDOR_TEST_GEMMA is not set (make test-gemma sets it)"),
    }
}

fn check(model: &str) {
    let requests = measured();
    let alone: Vec<Value> = {
        let server = TestServer::start(model);
        requests
            .iter()
            .map(|request| {
                let mut request = request.clone();
                request["cache_prompt"] = json!(false);
                choices(&server, &request)
            })
            .collect()
    };
    let server = TestServer::start(model);
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for neighbour in 0..NEIGHBOURS {
            let (server, over, served) = (&server, &over, &served);
            scope.spawn(move || {
                let mut number = neighbour * 1000;
                while !over.load(Ordering::Relaxed) {
                    number += 1;
                    disturb(server, number);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let measure = || {
            for round in 0..2 {
                for (request, alone) in requests.iter().zip(&alone) {
                    let busy = choices(&server, request);
                    assert_eq!(&busy, alone, "round {round}: {request}");
                }
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(measure));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    println!(
        "{model}: {} requests, twice among {NEIGHBOURS} neighbours with {} requests of their own: equal to the bit",
        requests.len(),
        served.into_inner()
    );
}

/// Random work: stems shared and not, streams, several choices, and clients that leave.
fn disturb(server: &TestServer, number: usize) {
    let words = [
        "river", "stone", "lantern", "winter", "market", "bridge", "copper", "violet",
    ];
    let text: String = (0..number % 23 + 3)
        .map(|i| format!("{} ", words[(number * 7 + i * i) % words.len()]))
        .collect();
    let shared = &STEM[..number * 13 % STEM.len()];
    let body = match number % 5 {
        0 => {
            json!({"prompt": format!("{STEM}{text}"), "max_tokens": 5, "echo": true, "logprobs": number % 4})
        }
        1 => json!({"prompt": format!("{shared}{text}"), "max_tokens": 20, "logprobs": 2}),
        2 => json!({"prompt": text, "max_tokens": 9, "n": 2}),
        3 => {
            return leave(
                server,
                &json!({"prompt": format!("{STEM}{text}"), "max_tokens": 200, "stream": true}),
                number as u64 % 60,
            );
        }
        _ => {
            return leave(
                server,
                &json!({"prompt": STEM.repeat(number % 9 + 1), "max_tokens": 50, "echo": true, "logprobs": 1}),
                number as u64 % 60,
            );
        }
    };
    server.complete(body);
}

#[test]
fn sixteen_at_once_one_leaves_and_its_place_is_free_again() {
    let server = TestServer::start(&server::default_model());
    let request = |i: usize| json!({"prompt": format!("Number {i}: once upon a time"), "max_tokens": 24, "temperature": 0, "logprobs": 1});
    let alone: Vec<Value> = (0..16).map(|i| choices(&server, &request(i))).collect();
    for _ in 0..2 {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..16)
                .map(|i| {
                    scope.spawn({
                        let server = &server;
                        move || choices(server, &request(i))
                    })
                })
                .collect();
            leave(
                &server,
                &json!({"prompt": "Number 0: once upon a time", "max_tokens": 2000, "min_tokens": 2000}),
                40,
            );
            for (i, other) in others.into_iter().enumerate() {
                assert_eq!(other.join().expect("no panic"), alone[i + 1]);
            }
        });
        // All sixteen places are there: with one held for ever this would wait for ever.
        std::thread::scope(|scope| {
            for i in 0..16 {
                let (server, alone) = (&server, &alone);
                scope.spawn(move || assert_eq!(choices(server, &request(i)), alone[i]));
            }
        });
    }
}
