//! The same bits on a busy server with warm caches as alone on a fresh one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candor::config::Mode;
use serde_json::{Value, json};

use crate::server::{self, TestServer, leave};

/// Neighbours that ask at the same time.
const NEIGHBOURS: usize = 16;
/// As many where each answer takes long.
const FEW_NEIGHBOURS: usize = 4;

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
    let model = server::tiny_model();
    check(&model, 1);
    check_invariant(&model, 8, 1);
    check_asked_for(&model);
}

#[test]
fn smollm2() {
    check(&server::default_model(), 1);
}

#[test]
fn gemma() {
    if let Some(path) = server::gemma_model() {
        check(&path, 1);
        check_invariant(&path, 8, 1);
        check_asked_for(&path);
    }
}

#[test]
fn qwen_0_5b() {
    check_larger(server::qwen_model("0.5b"), 3);
}

#[test]
fn qwen_1_5b() {
    check_larger(server::qwen_model("1.5b"), 5);
}

fn check_larger(model: Option<String>, every: usize) {
    if let Some(path) = model {
        check(&path, every);
        check_invariant(&path, 8, every);
    }
}

/// In exact mode. `every`: only some of the requests, where each takes long.
fn check(model: &str, every: usize) {
    let requests: Vec<Value> = measured().into_iter().step_by(every).collect();
    let alone = answers_alone(&TestServer::start(model), &requests);
    hold(model, &TestServer::start(model), &requests, &alone);
}

/// In invariant mode, with this setting of the width.
fn check_invariant(model: &str, width: usize, every: usize) {
    let requests: Vec<Value> = measured().into_iter().step_by(every).collect();
    let server = invariant(model, width, 16);
    let alone = answers_alone(&invariant(model, server.least_width(), 1), &requests);
    hold(model, &server, &requests, &alone);
}

fn invariant(model: &str, width: usize, parallel_sequences: usize) -> TestServer {
    TestServer::start_with(model, |config| {
        config.engine.mode = Mode::Invariant;
        config.engine.invariant_width = width;
        config.engine.parallel_sequences = parallel_sequences;
    })
}

#[test]
fn an_invariant_answer_can_be_had_exact_and_prompts_are_the_same() {
    let model = server::tiny_model();
    let (exact, invariant) = (TestServer::start(&model), invariant(&model, 8, 4));
    assert_eq!(invariant.least_width(), 8);
    for request in measured() {
        let asked = choices(&exact, &request);
        let mut again = request.clone();
        again["exact"] = json!(true);
        assert_eq!(choices(&invariant, &again), asked, "{request}");
        if request["echo"] == true {
            assert_eq!(choices(&invariant, &request), asked, "{request}");
        }
    }
    let ask = |server: &TestServer, exact: bool| {
        let request =
            json!({"prompt": STEM, "max_tokens": 30, "seed": 3, "logprobs": 2, "exact": exact});
        let answer = server.try_complete(&request);
        let class = answer.bits_class.clone().expect("a header");
        let body = answer.json();
        let made_by = body["system_fingerprint"]
            .as_str()
            .expect("text")
            .to_owned();
        assert!(made_by.ends_with(&class), "{made_by} {class}");
        (class, made_by, body["choices"][0]["logprobs"].clone())
    };
    let (asked, wide, reference) = (
        ask(&invariant, true),
        ask(&invariant, false),
        ask(&exact, false),
    );
    assert_eq!(asked, reference);
    assert!(asked.1.contains("-exact-") && wide.1.contains("-invariant-"));
    assert_ne!(asked.0, wide.0, "other bits have another class");
    assert_eq!(wide, ask(&self::invariant(&model, 8, 1), false));
}

#[test]
fn lanes_full_of_cached_tokens_are_no_obstacle_to_padding() {
    let server = TestServer::start_with(&server::tiny_model(), |config| {
        config.engine.mode = Mode::Invariant;
        config.engine.invariant_width = 8;
        config.engine.parallel_sequences = 4;
        config.engine.contexts = 1;
        config.engine.context_length = 64;
    });
    let request = |i: usize| json!({"prompt": format!("Number {i}"), "max_tokens": 24, "seed": 1, "logprobs": 1});
    let alone = choices(&server, &request(0));
    for round in 0..3 {
        std::thread::scope(|scope| {
            for i in 0..16 {
                let server = &server;
                // As many tokens as a lane has cells.
                let ids: Vec<usize> = (0..64)
                    .map(|at| 300 + (at * 7 + i * 13 + round) % 200)
                    .collect();
                let full = json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 0});
                scope.spawn(move || server.complete(full));
            }
        });
        let mut again = request(0);
        again["cache_prompt"] = json!(round % 2 == 0);
        assert_eq!(choices(&server, &again), alone);
    }
}

/// What a server answers with nothing beside and nothing cached.
fn answers_alone(server: &TestServer, requests: &[Value]) -> Vec<Value> {
    let alone = requests.iter().map(|request| {
        let mut request = request.clone();
        request["cache_prompt"] = json!(false);
        choices(server, &request)
    });
    alone.collect()
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
    let alone = answers_alone(&TestServer::start(model), &requests);
    hold(model, &server, &requests, &alone);
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

/// Holds what a busy server answers against `alone`.
fn hold(model: &str, server: &TestServer, requests: &[Value], alone: &[Value]) {
    let is_large = requests.len() < measured().len();
    let neighbours = if is_large { FEW_NEIGHBOURS } else { NEIGHBOURS };
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for neighbour in 0..neighbours {
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
                for (request, alone) in requests.iter().zip(alone) {
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
        "{model}: {} requests, twice among {neighbours} neighbours with {} requests of their own: equal to the bit",
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
