//! The same bits on a busy server with warm caches as alone on a fresh one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candor::config::Mode;
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

/// A server in throughput mode, on which exactness is something to be asked for.
fn sharing(model: &str) -> TestServer {
    TestServer::start_with(model, |config| {
        config.engine.mode = Mode::Throughput;
        config.engine.contexts = 1;
        config.engine.decode_width = 16;
        config.engine.draft_tokens = 8;
        config.engine.cache_lanes = 4;
    })
}

fn choices(server: &TestServer, request: &Value) -> Value {
    server.complete(request.clone())["choices"].clone()
}

#[test]
fn tiny_llama() {
    check(&server::tiny_model());
    check_asked_for(&server::tiny_model());
}

#[test]
fn smollm2() {
    check(&server::default_model());
}

#[test]
fn gemma() {
    if let Some(path) = server::gemma_model() {
        check(&path);
        check_asked_for(&path);
    }
}

/// Some of the requests, because each takes long.
fn check_some(model: Option<String>, every: usize) {
    if let Some(path) = model {
        let requests: Vec<Value> = measured().into_iter().step_by(every).collect();
        hold(&path, &TestServer::start(&path), &requests);
    }
}

#[test]
fn qwen_0_5b() {
    check_some(server::qwen_model("0.5b"), 3);
}

#[test]
fn qwen_1_5b() {
    check_some(server::qwen_model("1.5b"), 6);
}

fn check(model: &str) {
    hold(model, &TestServer::start(model), &measured());
}

/// Asked for in throughput mode, where what others generate is kept and used again.
fn check_asked_for(model: &str) {
    let mut requests = measured();
    let server = sharing(model);
    let begun = json!({"prompt": STEM, "max_tokens": 40, "min_tokens": 40, "temperature": 0, "receipt": true});
    let begun = server.complete(begun);
    let ids = |part: &str| {
        let ids = begun["receipt"][part][0]["token_ids"].as_array();
        ids.cloned().expect("an array")
    };
    assert_eq!(begun["receipt"]["engine"]["mode"], "throughput");
    let (stem, made) = (ids("prompts"), ids("choices"));
    let longer: Vec<Value> = stem.iter().chain(&made).cloned().collect();
    requests.push(json!({"prompt": longer, "max_tokens": 8, "temperature": 0, "logprobs": 3}));
    for request in &mut requests {
        request["exact"] = json!(true);
    }
    // Of the others' cells only those of the prompt are taken.
    let mut last = requests[requests.len() - 1].clone();
    let exact = server.complete(last.clone());
    last["exact"] = json!(false);
    let other = server.complete(last);
    let cached =
        |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let (exact_cells, all) = (cached(&exact), cached(&other));
    assert_eq!(exact_cells, Some(stem.len() as u64 / 8 * 8));
    assert!(all > exact_cells, "{other}");
    let made_by = |answer: &Value| {
        answer["system_fingerprint"]
            .as_str()
            .map(str::to_owned)
            .expect("text")
    };
    assert!(made_by(&exact).contains("-exact-"), "{exact}");
    assert!(made_by(&other).contains("-throughput-"), "{other}");
    hold(model, &server, &requests);
}

#[test]
fn exactness_that_is_asked_for_and_not_promised_is_refused() {
    if !candor::config::gpu_back_ends().is_empty() {
        println!("skipped: tests/it/gpu.rs has it for builds with a GPU back end");
        return;
    }
    let server = TestServer::start_with(&server::tiny_model(), |config| {
        // This build has no GPU, and none is needed to see what the settings come to.
        config.model.gpu_layers = 1;
    });
    let answer = server.try_complete(&json!({"prompt": "One", "exact": true}));
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.json()["error"]["param"], "exact");
    server.complete(json!({"prompt": "One", "max_tokens": 1}));
}

/// Holds what a busy server answers against what a fresh one does, in exact mode and with nothing cached.
fn hold(model: &str, server: &TestServer, requests: &[Value]) {
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
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for neighbour in 0..NEIGHBOURS {
            let (over, served) = (&over, &served);
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
                    let busy = choices(server, request);
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
