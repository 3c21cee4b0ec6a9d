//! Prompts of which only the last tokens are scored: the very numbers of the fully scored prompt, whatever was cached, from
//! fewer rows of logits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candor::config::Config;
use serde_json::{Value, json};

use crate::faulty::faulty;
use crate::server::{self, TestServer, default_model, tiny, tiny_model};

/// Ids of a text that no other number gives.
fn ids(number: usize, length: usize) -> Vec<usize> {
    let id = |at: usize| 300 + (at * at * 37 + at * 911 + number * 4099) % 20_000;
    (0..length).map(id).collect()
}

fn whole(prompt: &[usize]) -> Value {
    json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 3})
}

fn scored(prompt: &[usize], from: usize) -> Value {
    let mut request = whole(prompt);
    request["scored_from"] = json!(from);
    request
}

/// The request's answer from an empty cache.
fn alone(server: &TestServer, mut request: Value) -> Value {
    request["cache_prompt"] = json!(false);
    server.complete(request)["choices"][0].clone()
}

/// What a choice of the fully scored prompt is if its first `from` tokens are not scored.
fn without(choice: &Value, from: usize) -> Value {
    let mut choice = choice.clone();
    for name in ["token_logprobs", "top_logprobs"] {
        let entries = choice["logprobs"][name].as_array_mut().expect("an array");
        entries[..from].fill(Value::Null);
    }
    choice
}

/// Prompts of one chunk and of several, that end within a group of rows, at a border of 512 tokens, and shortly after it.
fn lengths(model: &str) -> &[usize] {
    if model == tiny_model() {
        &[1, 7, 9, 12, 16, 21, 130, 512, 515, 530, 605]
    } else {
        &[21, 130, 515]
    }
}

/// Where chunks begin and end, near the prompt's end, and in between.
fn starts(length: usize) -> impl Iterator<Item = usize> {
    let some = [0, 1, 9, 64, 65, 511, length / 2];
    let last = [16, 9, 8, 7, 1, 0].map(|left| length.saturating_sub(left));
    some.into_iter()
        .chain(last)
        .filter(move |&from| from <= length)
}

/// Chunks of the default size, and small ones with few rows of logits each.
fn servers(model: &str) -> [TestServer; 2] {
    let one = |config: &mut Config| config.engine.contexts = 1;
    let small = |config: &mut Config| {
        one(config);
        config.engine.prompt_chunk_tokens = 64;
        config.engine.logits_rows = 16;
    };
    [
        TestServer::start_with(model, one),
        TestServer::start_with(model, small),
    ]
}

fn check(model: &str) {
    let servers = servers(model);
    check_alone(&servers[0], lengths(model));
    check_cached(&servers[1], model);
    if model == tiny_model() {
        check_alone(&servers[1], lengths(model));
        check_cached(&servers[0], model);
    }
}

/// From an empty cache.
fn check_alone(server: &TestServer, lengths: &[usize]) {
    for &length in lengths {
        let prompt = ids(length, length);
        let choice = alone(server, whole(&prompt));
        for from in starts(length) {
            let expect = without(&choice, from);
            let one = alone(server, scored(&prompt, from));
            assert_eq!(one, expect, "{length} {from}");
        }
    }
}

/// Prompts with common stems, scored from here and there, in orders that look random, one by one and side by side.
fn check_cached(server: &TestServer, model: &str) {
    let (stems, tails): (&[_], &[_]) = if model == tiny_model() {
        (&[16, 100, 200, 512], &[0, 1, 3, 5, 9, 20])
    } else {
        (&[100, 512], &[1, 5, 20])
    };
    let mut asked = Vec::new();
    for (number, &stem) in stems.iter().enumerate() {
        for &tail in tails {
            let mut prompt = ids(number, stem);
            prompt.extend(ids(50 + tail, tail));
            let choice = alone(server, whole(&prompt));
            for from in [0, stem / 2, stem - 1, stem, prompt.len() - 1, prompt.len()] {
                asked.push((scored(&prompt, from), without(&choice, from)));
            }
            asked.push((whole(&prompt), choice));
        }
    }
    // The number of requests is divided by none of the steps.
    let run = |client: usize, step: usize| {
        for turn in 0..asked.len() {
            let (request, expect) = &asked[(turn * step + client) % asked.len()];
            let answer = server.complete(request.clone());
            assert_eq!(answer["choices"][0], *expect, "{request}");
        }
    };
    run(0, 1);
    run(0, 55);
    std::thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || run(client * 31, [37, 41, 43, 47][client]));
        }
    });
}

#[test]
fn tiny_llama() {
    check(&tiny_model());
}

#[test]
fn smollm2() {
    check(&default_model());
}

#[test]
fn gemma() {
    if let Some(path) = server::gemma_model() {
        check(&path);
    }
}

#[test]
fn choices_of_score_have_the_bits_of_the_whole_echo() {
    for model in [tiny_model(), default_model()] {
        let [server, _] = servers(&model);
        for length in [1, 100, 509] {
            let stem = ids(length, length);
            let choices: Vec<Vec<usize>> = [1, 2, 5, 8, 13].map(|tail| ids(tail, tail)).into();
            for cache in [false, true, true] {
                let answer = server.post(
                    "/v1/score",
                    &json!({"stem": stem, "choices": choices, "cache_prompt": cache}),
                );
                for (place, choice) in choices.iter().enumerate() {
                    let echo = alone(&server, whole(&[&stem[..], choice].concat()));
                    let logprobs = echo["logprobs"]["token_logprobs"].as_array();
                    let logprobs = &logprobs.expect("an array")[length..length + choice.len()];
                    let scored = &answer.json()["data"][0]["choices"][place];
                    assert_eq!(
                        scored["token_logprobs"],
                        json!(logprobs),
                        "{length} {place}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sequence_of_two_stems_is_scored_for_both() {
    // "1 2 | 3 4" and "1 2 3 | 4" are the same tokens.
    let (first, second) = (ids(1, 40), ids(2, 4));
    let longer = [&first[..], &second[..3]].concat();
    let items = json!([
        {"stem": longer, "choices": [[second[3]]]},
        {"stem": first, "choices": [second]},
    ]);
    let answer = tiny().post("/v1/score", &json!({"items": items})).json();
    let echo = alone(tiny(), whole(&[&first[..], &second].concat()));
    let logprobs = echo["logprobs"]["token_logprobs"]
        .as_array()
        .expect("an array");
    let scored = |item: usize| answer["data"][item]["choices"][0]["token_logprobs"].clone();
    assert_eq!(scored(0), json!(logprobs[43..44]));
    assert_eq!(scored(1), json!(logprobs[40..44]));
    assert_eq!(answer["usage"]["prompt_tokens"], 44);
}

#[test]
fn other_output_is_what_it_is_with_the_whole_echo() {
    let server = tiny();
    let (prompt, from) = (ids(3, 90), 70);
    let fields = json!({
        "logprobs_detail": true, "return_token_ids": true, "receipt": true, "logits": {"positions": [20, 75, 90]},
        "logprob_token_ids": [5],
    });
    let with = |mut request: Value| {
        let fields = fields.as_object().expect("an object").clone();
        request.as_object_mut().expect("an object").extend(fields);
        request
    };
    let whole = server.complete(with(whole(&prompt)));
    let part = server.complete(with(scored(&prompt, from)));
    let (one, other) = (&whole["choices"][0], &part["choices"][0]);
    assert_eq!(one["logits"], other["logits"]);
    assert_eq!(one["prompt_token_ids"], other["prompt_token_ids"]);
    for name in ["rank", "entropy", "tail_mass", "top", "named"] {
        let [one, other] = [one, other].map(|choice| choice["logprobs"][name].as_array());
        let (one, other) = (one.expect("an array"), other.expect("an array"));
        assert!(other[..from].iter().all(Value::is_null), "{name}");
        assert_eq!(one[from..], other[from..], "{name}");
    }
    let logprobs = |answer: &Value| {
        let logprobs = answer["receipt"]["prompts"][0]["token_logprobs"].as_array();
        logprobs.expect("an array").clone()
    };
    let (one, other) = (logprobs(&whole), logprobs(&part));
    assert_eq!(other.len(), 90);
    assert!(other[..from].iter().all(Value::is_null));
    assert_eq!(one[from..], other[from..]);
    // Streams, prompts side by side, and forks.
    let mut streamed = scored(&prompt, from);
    streamed["max_tokens"] = json!(0);
    let chunk = &server.stream(streamed)[0]["choices"][0];
    let logprobs = chunk["logprobs"]["token_logprobs"].as_array();
    assert_eq!(logprobs.expect("an array")[from..], one[from..]);
    let several = json!({
        "prompt": [prompt, ids(4, 30)], "max_tokens": 0, "echo": true, "logprobs": 0, "scored_from": [89, 0]
    });
    let several = server.complete(several);
    let known = |choice: usize| {
        let logprobs = several["choices"][choice]["logprobs"]["token_logprobs"].as_array();
        logprobs
            .expect("an array")
            .iter()
            .filter(|it| !it.is_null())
            .count()
    };
    assert_eq!((known(0), known(1)), (1, 29));
    let longer = |answer: &Value| {
        let fork = json!({"fork": {"id": answer["id"], "position": 0}, "max_tokens": 6, "temperature": 0, "logprobs": 2});
        server.complete(fork)["choices"][0]["logprobs"].clone()
    };
    assert_eq!(longer(&whole), longer(&part));
}

#[test]
fn only_the_rows_of_the_scored_tokens_group_are_computed() {
    let rows = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let seen = Arc::clone(&rows);
    let (runners, _) = faulty(Arc::new(move |_, decoded| {
        seen[0].fetch_add(decoded.len(), Ordering::SeqCst);
        let with_logits = decoded.iter().filter(|row| row.logits).count();
        seen[1].fetch_add(with_logits, Ordering::SeqCst);
        None
    }));
    let server = TestServer::start_on(&tiny_model(), |config| config.engine.contexts = 1, runners);
    let check = |request: Value, evaluated, with_logits| {
        let path = if request.get("stem").is_some() {
            "/v1/score"
        } else {
            "/v1/completions"
        };
        let before = [0, 1].map(|which| rows[which].load(Ordering::SeqCst));
        assert_eq!(server.post(path, &request).status, 200);
        let after = [0, 1].map(|which| rows[which].load(Ordering::SeqCst));
        let used = (after[0] - before[0], after[1] - before[1]);
        assert_eq!(used, (evaluated, with_logits), "{request}");
    };
    let scored = |number: usize, from: usize| {
        let mut request = scored(&ids(number, 605), from);
        request["max_tokens"] = json!(0);
        request
    };
    check(scored(1, 600), 605, 13);
    check(scored(2, 593), 605, 13);
    check(scored(3, 592), 605, 21);
    check(scored(4, 1), 605, 605);
    // At least a group of eight.
    check(scored(5, 604), 605, 13);
    check(scored(6, 605), 605, 13);
    let stem = ids(7, 600);
    check(json!({"stem": stem, "choices": [ids(8, 5)]}), 605, 13);
    check(
        json!({"stem": stem, "choices": [ids(9, 4), ids(10, 3)]}),
        12 + 11,
        12 + 11,
    );
}
