//! Layers on a GPU, in a build with a GPU back end: `make test-gpu FEATURES="--features vulkan"`. Without a GPU, nothing is
//! tested. What is promised there: docs/gpu.md.

use candor::config::{Config, LoadAt, Mode};
use serde_json::{Value, json};

use crate::process::candor;
use crate::server::{TestServer, default_model, leave, tiny_model};

/// More than any model has.
const ALL: u32 = 99;

/// Longer than the 32 rows from which llama.cpp would use a GPU for layers that are not on it.
const PROMPT: &str = "The history of the printing press begins in the fifteenth century, when a goldsmith in Mainz began \
    to cast letters of metal. Within fifty years there were presses in more than two hundred cities, and books that had \
    cost as much as a house cost as much as a coat. Most of them were";

fn has_gpu() -> bool {
    let devices = candor::model::devices().expect("llama.cpp starts");
    let found = devices.iter().any(|device| device.is_gpu);
    if !found {
        println!("skipped: llama.cpp finds no GPU, or was built for none");
    }
    found
}

fn start(model: &str, layers: u32, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(model, |config| {
        config.model.gpu_layers = layers;
        config.engine.context_length = 512;
        config.engine.parallel_sequences = 4;
        // Nothing is measured: a test is not the place for it.
        config.engine.decode_width = 2;
        change(config);
    })
}

/// Scores the prompt.
fn scored(server: &TestServer, change: Value) -> Value {
    let mut body = json!({"prompt": PROMPT, "max_tokens": 0, "echo": true, "logprobs": 0});
    for (key, value) in change.as_object().expect("fields") {
        body[key] = value.clone();
    }
    server.complete(body)
}

fn logprobs(answer: &Value) -> Vec<f64> {
    let all = answer["choices"][0]["logprobs"]["token_logprobs"].as_array();
    all.expect("an array")
        .iter()
        .filter_map(Value::as_f64)
        .collect()
}

fn largest_difference(one: &Value, other: &Value) -> f64 {
    let (one, other) = (logprobs(one), logprobs(other));
    assert_eq!(one.len(), other.len());
    assert!(one.len() > 50);
    let pairs = one.iter().zip(&other);
    pairs
        .map(|(one, other)| (one - other).abs())
        .fold(0.0, f64::max)
}

#[test]
fn layers_on_a_gpu_have_the_numbers_of_a_cpu() {
    if !has_gpu() {
        return;
    }
    // Weights of four bits differ by as much between kinds of CPU, which round the other factor to eight bits.
    let models = [
        (tiny_model(), &[ALL, 2, 1][..], 0.1),
        (default_model(), &[ALL][..], 0.5),
    ];
    for (model, all_layers, tolerance) in models {
        let on_cpu = scored(&start(&model, 0, |_| {}), json!({}));
        for &layers in all_layers {
            let server = start(&model, layers, |_| {});
            assert!(server.bits_class().starts_with("gpu-"));
            let difference = largest_difference(&scored(&server, json!({})), &on_cpu);
            println!("{model}, {layers} layers: largest difference of a logprob {difference:.4}");
            assert!(difference < tolerance, "{difference}");
            // Nothing is evaluated again.
            let again = scored(&server, json!({}));
            let cached = &again["usage"]["prompt_tokens_details"]["cached_tokens"];
            assert_eq!(*cached, again["usage"]["prompt_tokens"]);
            assert!(largest_difference(&again, &on_cpu) < tolerance);
        }
    }
}

/// llama.cpp would compute decodes of 32 rows and more on a GPU even then.
#[test]
fn without_layers_on_it_a_gpu_is_not_used() {
    if !has_gpu() {
        return;
    }
    let score = |rows: usize| {
        let server = start(&default_model(), 0, |config| {
            config.engine.prompt_chunk_tokens = rows;
        });
        assert!(!server.bits_class().starts_with("gpu-"));
        scored(&server, json!({}))
    };
    assert_eq!(largest_difference(&score(512), &score(16)), 0.0);
}

#[test]
fn exact_is_refused_and_exact_mode_does_not_depend_on_neighbours() {
    if !has_gpu() {
        return;
    }
    for mode in [Mode::Auto, Mode::Exact] {
        let server = start(&tiny_model(), ALL, |config| config.engine.mode = mode);
        let answer = server.try_complete(&json!({"prompt": "One", "exact": true}));
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], "exact");
        if mode == Mode::Auto {
            continue;
        }
        // Where a prompt is cut may change bits, so not from the cache.
        let whole = json!({"max_tokens": 4, "temperature": 0, "cache_prompt": false});
        let alone = scored(&server, whole.clone());
        let busy = std::thread::scope(|scope| {
            for number in 0..3 {
                let server = &server;
                let request = json!({"prompt": format!("Number {number}"), "max_tokens": 40});
                scope.spawn(move || server.complete(request));
            }
            scored(&server, whole)
        });
        assert_eq!(alone["choices"], busy["choices"]);
    }
}

#[test]
fn clients_that_leave_free_their_place() {
    if !has_gpu() {
        return;
    }
    let server = start(&tiny_model(), ALL, |_| {});
    let long = json!({"prompt": "One", "max_tokens": 400, "ignore_eos": true});
    for _ in 0..6 {
        leave(&server, &long, 50);
    }
    server.wait_until("candor_sequences_running", 0);
    server.complete(json!({"prompt": "One", "max_tokens": 2}));
}

#[test]
fn several_models_answer_and_one_that_does_not_fit_is_refused() {
    if !has_gpu() {
        return;
    }
    let server = start("unused", ALL, |config| {
        let model = |name: &str, change: fn(&mut Config)| {
            let mut one = config.clone();
            one.model.source = tiny_model();
            one.model.name = name.to_owned();
            change(&mut one);
            one
        };
        config.models = vec![
            model("a", |_| {}),
            model("b", |one| one.model.gpu_layers = 2),
            model("cpu", |one| one.model.gpu_layers = 0),
            // 34 GB for the keys of a layer.
            model("huge", |one| {
                one.model.load = LoadAt::FirstUse;
                one.engine.context_length = 1_048_576;
                one.engine.parallel_sequences = 250;
            }),
        ];
    });
    let request = |name: &str| json!({"model": name, "prompt": "One", "max_tokens": 4});
    let refused = server.try_complete(&request("huge"));
    assert_eq!(refused.status, 503, "{}", refused.body);
    std::thread::scope(|scope| {
        for name in ["a", "b", "cpu", "a", "b"] {
            let server = &server;
            scope.spawn(move || assert_eq!(server.complete(request(name))["model"], name));
        }
    });
}

#[test]
fn a_start_without_a_gpu_says_so() {
    let back_ends = candor::config::gpu_back_ends();
    if back_ends.is_empty() || has_gpu() {
        return;
    }
    let output = candor()
        .args([
            "serve",
            "--port",
            "0",
            "--gpu-layers",
            "1",
            "--model",
            &tiny_model(),
        ])
        .output()
        .expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("finds no GPU for this build"), "{log}");
}
