//! The contract, row by row.

use serde_json::{Value, json};

use crate::parity::joined;
use crate::server::{self, TestServer, tiny};

fn texts(answer: &Value) -> Vec<String> {
    answer["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .map(|choice| choice["text"].as_str().expect("text").to_owned())
        .collect()
}

fn length(arrays: &Value) -> usize {
    let lengths: Vec<usize> = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        .iter()
        .map(|key| arrays[key].as_array().expect("an array").len())
        .collect();
    assert!(
        lengths.iter().all(|&length| length == lengths[0]),
        "{lengths:?}"
    );
    lengths[0]
}

#[test]
fn the_answer_has_every_field() {
    let answer = tiny().complete(json!({"prompt": "Once", "max_tokens": 2, "temperature": 0}));
    assert!(answer["id"].as_str().expect("an id").starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["created"].as_u64().expect("seconds") > 1_700_000_000);
    assert_eq!(answer["model"], "llama2-vocab-tiny");
    assert!(
        answer["system_fingerprint"]
            .as_str()
            .expect("text")
            .contains("exact")
    );
    let choice = answer["choices"][0].as_object().expect("a choice");
    assert_eq!(choice["logprobs"], Value::Null);
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["total_tokens"], json!(4));
}

#[test]
fn four_shapes_of_a_prompt() {
    let server = tiny();
    let ask = |prompt: Value| {
        server.complete(json!({"prompt": prompt, "max_tokens": 6, "temperature": 0}))
    };
    let [a, b] = ["The capital of Michigan is", "Once upon a time"];
    let (alone_a, alone_b) = (texts(&ask(json!(a))), texts(&ask(json!(b))));
    let both = ask(json!([a, b]));
    assert_eq!(texts(&both), [alone_a.clone(), alone_b.clone()].concat());
    assert_eq!(both["choices"][1]["index"], 1);
    let model =
        candor::model::Model::load(server::tiny_model().as_ref(), &server::defaults().model)
            .expect("the model loads");
    let ids_a: Vec<i32> = model
        .vocab()
        .tokenize(a, candor::model::Added::Both, true)
        .iter()
        .map(|token| token.0)
        .collect();
    assert_eq!(texts(&ask(json!(ids_a))), alone_a);
    assert_eq!(
        texts(&ask(json!([ids_a, ids_a]))),
        [alone_a.clone(), alone_a].concat()
    );
    assert_eq!(
        texts(&server.complete(json!({"max_tokens": 1}))).len(),
        1,
        "no prompt is an empty one"
    );
    assert_eq!(
        texts(&server::default().complete(json!({"prompt": "", "max_tokens": 1}))).len(),
        1
    );
}

#[test]
fn echo_gives_every_token_its_entry() {
    let server = tiny();
    let text = "Paris is the capital";
    let ids = [1, 3681, 338, 278, 7483];
    let ask = |prompt: Value, max_tokens: usize| {
        server.complete(json!({"prompt": prompt, "max_tokens": max_tokens, "echo": true, "logprobs": 1, "temperature": 0}))
    };
    let scored = ask(json!(text), 0);
    let arrays = &scored["choices"][0]["logprobs"];
    assert_eq!(scored["choices"][0]["text"], text);
    assert_eq!(
        length(arrays),
        4,
        "the BOS that the server added is left out"
    );
    assert_eq!(arrays["token_logprobs"][0], Value::Null);
    assert_eq!(arrays["top_logprobs"][0], Value::Null);
    assert_eq!(arrays["text_offset"][0], 0);
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    // Scoring clients count on an entry for each id, and one for what is generated.
    let by_ids = ask(json!(ids), 1);
    let id_arrays = &by_ids["choices"][0]["logprobs"];
    assert_eq!(length(id_arrays), ids.len() + 1);
    assert_eq!(id_arrays["token_logprobs"][0], Value::Null);
    for place in 2..ids.len() {
        assert_eq!(
            id_arrays["token_logprobs"][place],
            arrays["token_logprobs"][place - 1]
        );
    }
    // An end of generation has its entry too.
    let ended = server.complete(json!({
        "prompt": ids, "max_tokens": 1, "echo": true, "logprobs": 1, "logit_bias": {"2": 1000.0}, "temperature": 0
    }));
    let choice = &ended["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(length(&choice["logprobs"]), ids.len() + 1);
    assert_eq!(choice["logprobs"]["tokens"][ids.len()], "");
    assert_eq!(ended["usage"]["completion_tokens"], 1);
    // Without echo it is in neither.
    let ended = server.complete(
        json!({"prompt": ids, "logprobs": 1, "logit_bias": {"2": 1000.0}, "temperature": 0}),
    );
    assert_eq!(length(&ended["choices"][0]["logprobs"]), 0);
    assert_eq!(ended["usage"]["completion_tokens"], 0);
}

#[test]
fn offsets_point_into_the_text_also_past_control_tokens() {
    let prompt = "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n";
    let answer = server::default().complete(json!({
        "prompt": prompt, "max_tokens": 4, "temperature": 0, "echo": true, "logprobs": 0
    }));
    let choice = &answer["choices"][0];
    let text: Vec<char> = choice["text"].as_str().expect("text").chars().collect();
    let arrays = &choice["logprobs"];
    for place in 0..length(arrays) {
        let token: Vec<char> = arrays["tokens"][place]
            .as_str()
            .expect("text")
            .chars()
            .collect();
        let offset = arrays["text_offset"][place].as_u64().expect("a number") as usize;
        assert_eq!(text[offset..offset + token.len()], token[..], "{place}");
    }
}

#[test]
fn max_tokens_none_some_and_all() {
    let server = TestServer::start_with(&server::tiny_model(), |config| {
        config.engine.context_length = 64
    });
    let ask = |body: Value| server.complete(body);
    let none = ask(json!({"prompt": "Once", "max_tokens": 0}));
    assert_eq!(texts(&none), [""]);
    assert_eq!(none["choices"][0]["finish_reason"], "length");
    let all =
        ask(json!({"prompt": "Once", "max_tokens": null, "temperature": 0, "min_tokens": 1000}));
    assert_eq!(
        all["usage"]["total_tokens"], 64,
        "until the context is full"
    );
    let more =
        ask(json!({"prompt": "Once", "max_tokens": 5000, "temperature": 0, "min_tokens": 1000}));
    assert_eq!(more["usage"]["total_tokens"], 64);
    let default = ask(json!({"prompt": "Once", "min_tokens": 100}));
    assert_eq!(default["usage"]["completion_tokens"], 16);
    // A prompt that fills the context can be scored.
    let full = ask(json!({"prompt": vec![5; 64], "max_tokens": 0, "echo": true, "logprobs": 0}));
    assert_eq!(length(&full["choices"][0]["logprobs"]), 64);
}

#[test]
fn choices_differ_and_repeat_with_the_seed() {
    let server = tiny();
    let body = json!({"prompt": ["Once upon", "The city"], "max_tokens": 8, "n": 3, "seed": 5, "temperature": 1.0});
    let first = server.complete(body.clone());
    let choices = texts(&first);
    assert_eq!(choices.len(), 6);
    for (place, choice) in first["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .enumerate()
    {
        assert_eq!(choice["index"], place);
    }
    assert!(choices[0] != choices[1] && choices[1] != choices[2]);
    assert_eq!(choices, texts(&server.complete(body)));
    let alone = server
        .complete(json!({"prompt": "The city", "max_tokens": 8, "seed": 5, "temperature": 1.0}));
    assert_eq!(
        texts(&alone)[0],
        choices[3],
        "the first choice has the request's seed"
    );
    let prompts = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(prompts, 6, "each prompt counts once");
    assert_eq!(first["usage"]["completion_tokens"], 48);
    // At the end of the range, too, where seeds go on from 0.
    for seed in [json!(-4), json!(-3), json!(-2), json!(4_294_967_294_u32)] {
        let body = json!({"prompt": "a", "max_tokens": 8, "n": 4, "seed": seed, "temperature": 2.0, "top_k": 0, "min_p": 0});
        let mut choices = texts(&server.complete(body));
        choices.sort();
        choices.dedup();
        assert_eq!(choices.len(), 4, "seed {seed}: {choices:?}");
    }
    let zero = |_| texts(&server.complete(json!({"prompt": "a", "seed": 0, "temperature": 1.0})));
    assert_eq!(zero(1), zero(2), "0 is a seed");
    let unseeded = |_| {
        texts(&server.complete(
            json!({"prompt": "a", "temperature": 1.5, "top_k": 0, "min_p": 0, "top_p": 1}),
        ))
    };
    assert_ne!(unseeded(1), unseeded(2));
}

#[test]
fn best_of_ranks_by_mean_logprob() {
    let server = tiny();
    let body = |n: usize, best_of: usize| json!({"prompt": "Once", "max_tokens": 5, "n": n, "best_of": best_of, "seed": 3, "temperature": 1.0, "logprobs": 0});
    let all = server.complete(body(5, 5));
    let mean = |choice: &Value| {
        let scores = choice["logprobs"]["token_logprobs"]
            .as_array()
            .expect("an array");
        scores
            .iter()
            .map(|score| score.as_f64().expect("a number"))
            .sum::<f64>()
            / scores.len() as f64
    };
    let mut ranked: Vec<&Value> = all["choices"].as_array().expect("choices").iter().collect();
    ranked.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = server.complete(body(2, 5));
    assert_eq!(best["choices"].as_array().map(Vec::len), Some(2));
    for place in 0..2 {
        assert_eq!(best["choices"][place]["text"], ranked[place]["text"]);
        assert_eq!(best["choices"][place]["index"], place);
    }
}

#[test]
fn bias_bans_and_forces() {
    let server = tiny();
    let ask = |bias: Value, kind: &str| {
        server.complete(json!({
            "prompt": "Once", "max_tokens": 3, "temperature": 0, "logprobs": 0, "logit_bias": bias, "logit_bias_type": kind
        }))
    };
    let tokens = |answer: &Value| answer["choices"][0]["logprobs"]["tokens"].clone();
    let plain = ask(json!({}), "input_ids");
    let forced = ask(json!({"7483": 100.0}), "input_ids");
    assert_eq!(tokens(&forced), json!([" capital", " capital", " capital"]));
    assert_eq!(
        tokens(&ask(json!({"capital": 100.0}), "tokens"))[0]
            .as_str()
            .map(str::trim),
        Some("capital")
    );
    // Logprobs stay those of the raw distribution.
    assert!(
        forced["choices"][0]["logprobs"]["token_logprobs"][0]
            .as_f64()
            .expect("a number")
            < -1.0
    );
    assert_ne!(tokens(&plain), tokens(&forced));
}

#[test]
fn streams_add_up_to_the_answer() {
    let cases = [
        (
            tiny(),
            json!({"prompt": "Once upon", "max_tokens": 12, "seed": 4, "logprobs": 2}),
        ),
        (
            tiny(),
            json!({"prompt": "Once upon", "max_tokens": 12, "seed": 4}),
        ),
        (
            tiny(),
            json!({"prompt": "Paris is", "max_tokens": 3, "seed": 4, "echo": true, "logprobs": 1}),
        ),
        (
            tiny(),
            json!({"prompt": [3681, 338], "max_tokens": 0, "echo": true, "logprobs": 1}),
        ),
        (
            server::default(),
            json!({"prompt": "1, 2, 3, 4,", "max_tokens": 32, "temperature": 0, "logprobs": 1, "stop": [" 9,"]}),
        ),
        (
            server::default(),
            json!({"prompt": "1, 2, 3, 4,", "max_tokens": 32, "temperature": 0, "stop": [" 9,", "12"]}),
        ),
        (
            server::default(),
            json!({"prompt": "1, 2, 3, 4,", "max_tokens": 3, "temperature": 0, "logprobs": 0, "stop": "6, 7"}),
        ),
        (
            server::default(),
            json!({"prompt": "Repeat after me: 🚀🚀🚀🚀", "max_tokens": 16, "temperature": 0, "logprobs": 2}),
        ),
        (
            server::default(),
            json!({"prompt": "Repeat after me: 🚀🚀🚀🚀", "max_tokens": 16, "temperature": 0}),
        ),
    ];
    for (server, body) in cases {
        let whole = server.complete(body.clone());
        let stream = joined(&server.stream(body.clone()));
        for key in ["text", "logprobs", "finish_reason"] {
            assert_eq!(whole["choices"][0][key], stream[key], "{key} of {body}");
        }
    }
}

#[test]
fn a_stream_of_several_choices_with_usage() {
    let body = json!({
        "prompt": ["Once", "Twice"], "n": 2, "max_tokens": 4, "seed": 9, "logprobs": 1,
        "stream_options": {"include_usage": true}
    });
    let mut plain = body.clone();
    plain
        .as_object_mut()
        .expect("an object")
        .remove("stream_options");
    let whole = tiny().complete(plain);
    let chunks = tiny().stream(body);
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][key], whole["usage"][key]);
    }
    assert!(
        rest.iter()
            .all(|chunk| chunk["usage"].is_null() && chunk["id"] == last["id"])
    );
    for index in 0..4 {
        let of_choice: Vec<Value> = rest
            .iter()
            .filter(|chunk| chunk["choices"][0]["index"] == index)
            .cloned()
            .collect();
        assert_eq!(joined(&of_choice)["text"], whole["choices"][index]["text"]);
        assert_eq!(
            joined(&of_choice)["logprobs"],
            whole["choices"][index]["logprobs"]
        );
    }
}

#[test]
fn null_is_as_good_as_absent() {
    let nulls = json!({
        "prompt": "Once", "max_tokens": 2, "seed": 1, "model": null, "logprobs": null, "echo": null, "n": null,
        "best_of": null, "stop": null, "suffix": null, "logit_bias": null, "stream": null, "stream_options": null,
        "temperature": null, "top_k": null, "top_p": null, "min_p": null, "typical_p": null, "repeat_penalty": null,
        "frequency_penalty": null, "presence_penalty": null, "mirostat_mode": null, "mirostat_tau": null,
        "mirostat_eta": null, "min_tokens": null, "grammar": null, "cache_prompt": null, "user": null,
        "unheard_of": null
    });
    let mut nulls_known = nulls.clone();
    nulls_known
        .as_object_mut()
        .expect("an object")
        .remove("unheard_of");
    let plain = tiny().complete(json!({"prompt": "Once", "max_tokens": 2, "seed": 1}));
    assert_eq!(texts(&tiny().complete(nulls_known)), texts(&plain));
    assert_eq!(
        texts(&tiny().complete(
            json!({"prompt": "Once", "max_tokens": 2, "seed": 1, "user": "me", "metadata": {}})
        )),
        texts(&plain)
    );
}

#[test]
fn a_known_prefix_is_used_again_and_changes_nothing() {
    let server = TestServer::start(&server::default_model());
    let prompt = "The lighthouse keeper wrote down the weather every evening, in the same blue ink, for forty years. ".repeat(3);
    let ask = |tail: &str, logprobs: usize, cache: bool| {
        server.complete(json!({
            "prompt": format!("{prompt}{tail}"), "max_tokens": 8, "temperature": 0, "echo": true, "logprobs": logprobs,
            "cache_prompt": cache
        }))
    };
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number")
    };
    let cold = ask("One day", 2, false);
    assert_eq!(cached(&cold), 0);
    let warm = ask("One day", 2, true);
    assert!(cached(&warm) > 40, "{}", cached(&warm));
    assert_eq!(cold["choices"], warm["choices"]);
    // Fewer alternatives than are kept: from the cache. More: evaluated again. A third time: from the cache.
    let fewer = ask("One day", 0, true);
    assert!(cached(&fewer) > 40);
    assert_eq!(fewer["choices"], ask("One day", 0, false)["choices"]);
    let more = ask("One day", 7, true);
    assert_eq!(more["choices"], ask("One day", 7, false)["choices"]);
    // Another ending starts from the common part.
    let other = ask("At night she", 2, true);
    assert!(cached(&other) > 30, "{}", cached(&other));
    assert_eq!(other["choices"], ask("At night she", 2, false)["choices"]);
}

#[test]
fn models_and_health() {
    let server = TestServer::start_with(&server::tiny_model(), |config| {
        config.model.aliases = vec!["one".to_owned(), "org/two".to_owned()];
    });
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][1]["id"], "org/two");
    assert_eq!(server.get("/v1/models/org/two").json()["object"], "model");
    assert_eq!(server.get("/v1/models/three").status, 404);
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    assert_eq!(
        server.complete(json!({"model": "org/two", "max_tokens": 1}))["model"],
        "org/two"
    );
    assert_eq!(server.complete(json!({"max_tokens": 1}))["model"], "one");
    let unknown = server.try_complete(&json!({"model": "three"}));
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
}

#[test]
fn keys_guard_all_but_health() {
    let server = TestServer::start_with(&server::tiny_model(), |config| {
        config.server.api_keys = vec!["first".to_owned(), "second".to_owned()];
    });
    assert_eq!(server.get("/health").status, 200);
    for (key, status) in [
        (None, 401),
        (Some("third"), 401),
        (Some("firs"), 401),
        (Some("second"), 200),
    ] {
        let answer = server.get_with("/v1/models", key);
        assert_eq!(answer.status, status, "{key:?}");
        if status == 401 {
            assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
        }
    }
    assert_eq!(server.get("/nowhere").status, 401);
}

#[test]
fn a_grammar_that_can_be_read_in_many_ways_keeps_nobody_waiting() {
    let server = server::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // With each character there are twice as many.
                let answer = server.complete(json!({
                    "prompt": "a", "max_tokens": 40, "temperature": 0,
                    "grammar": "root ::= \"a\" root \"b\" | \"a\" root \"c\"",
                }));
                let choice = &answer["choices"][0];
                let text = choice["text"].as_str().expect("text");
                assert!(
                    text.len() >= 40 && text.bytes().all(|c| c == b'a'),
                    "{choice}"
                );
                assert_eq!(choice["finish_reason"], "length");
            });
        }
        let answer = server.complete(json!({"prompt": "Is water wet? ", "max_tokens": 8}));
        assert!(answer["choices"][0]["text"].is_string(), "{answer}");
    });
}

#[test]
fn a_grammar_that_takes_too_long_ends_its_own_answer_only() {
    let server = server::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // After the letters, any of 50,000 may come next, and so again after each.
            let optional = "[a-z]?{2000} ".repeat(25);
            let answer = server.try_complete(&json!({
                "prompt": "b", "max_tokens": 60,
                "grammar": format!("root ::= \"{}\" {optional}", "b".repeat(40)),
            }));
            assert_eq!(answer.status, 400);
            let error = &answer.json()["error"];
            assert_eq!(error["param"], "grammar");
            let message = error["message"].as_str().expect("text");
            assert!(
                message.contains("cannot be followed any further"),
                "{error}"
            );
        });
        server.complete(json!({"prompt": "Is water wet? ", "max_tokens": 8}));
    });
}

#[test]
fn a_grammar_holds_and_a_finished_one_ends() {
    let answer = server::default().complete(json!({
        "prompt": "Is water wet? ", "max_tokens": 20, "seed": 2, "temperature": 1.0, "logprobs": 2,
        "grammar": "root ::= \"yes\" | \"no\""
    }));
    let choice = &answer["choices"][0];
    assert!(
        ["yes", "no"].contains(&choice["text"].as_str().expect("text")),
        "{choice}"
    );
    assert_eq!(choice["finish_reason"], "stop");
}
