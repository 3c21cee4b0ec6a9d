//! What is told of tokens beside the four arrays, held against rows of logits and against the plain answer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use candor::config::Mode;
use serde_json::{Value, json};

use crate::server::{self, TestServer};

const PROMPT: &str = "One, two, three, four. One, two, three, four. One,";

fn with(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    for (name, value) in more.as_object().expect("an object") {
        all[name] = value.clone();
    }
    all
}

fn choice(server: &TestServer, body: &Value) -> Value {
    server.complete(body.clone())["choices"][0].clone()
}

fn numbers(array: &Value) -> Vec<f64> {
    let items = array.as_array().expect("an array").iter();
    items.map(|item| item.as_f64().expect("a number")).collect()
}

fn length(array: &Value) -> usize {
    array.as_array().expect("an array").len()
}

/// The rows of a choice, in f64, each with its position.
fn rows(choice: &Value) -> Vec<(usize, Vec<f64>)> {
    let logits = &choice["logits"];
    assert_eq!(logits["dtype"], "float32");
    let vocabulary = logits["shape"][1].as_u64().expect("a number") as usize;
    let data = logits["data"].as_str().expect("base64");
    let data = BASE64_STANDARD.decode(data).expect("base64");
    let (numbers, rest) = data.as_chunks::<4>();
    assert!(rest.is_empty());
    let numbers: Vec<f64> = numbers
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect();
    let positions = logits["positions"].as_array().expect("an array").iter();
    let positions = positions.map(|position| position.as_u64().expect("a number") as usize);
    positions
        .zip(numbers.chunks(vocabulary).map(<[f64]>::to_vec))
        .collect()
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = row.iter().map(|logit| (logit - largest).exp()).sum();
    row.iter().map(|logit| logit - largest - sum.ln()).collect()
}

fn near(ours: &Value, expect: f64) {
    let ours = ours.as_f64().expect("a number");
    assert!(
        (ours - expect).abs() < 2e-5 * expect.abs().max(1.0),
        "{ours} {expect}"
    );
}

#[test]
fn rows_explain_what_is_told() {
    let server = server::default();
    let choice = choice(
        server,
        &json!({"prompt": PROMPT, "max_tokens": 12, "seed": 3, "temperature": 1.4, "echo": true, "logprobs": 4,
                "logprobs_detail": true, "logprob_token_ids": [17, 500], "logprob_tokens": [" two"], "logits": true}),
    );
    let arrays = &choice["logprobs"];
    let rows = rows(&choice);
    assert_eq!(rows.len() + 1, length(&arrays["tokens"]));
    for (position, row) in rows {
        let logprobs = log_softmax(&row);
        let id = arrays["token_ids"][position].as_u64().expect("an id") as usize;
        near(&arrays["token_logprobs"][position], logprobs[id]);
        let entropy: f64 = logprobs
            .iter()
            .map(|logprob| -logprob.exp() * logprob)
            .sum();
        near(&arrays["entropy"][position], entropy);
        let above = row.iter().filter(|&&logit| logit > row[id]).count();
        assert_eq!(arrays["rank"][position], json!(above + 1));
        let top = arrays["top"][position].as_array().expect("an array");
        assert_eq!(top.len(), 4);
        let mut within = 0.0;
        for entry in top {
            let id = entry["id"].as_u64().expect("an id") as usize;
            near(&entry["logprob"], logprobs[id]);
            within += logprobs[id].exp();
        }
        near(&arrays["tail_mass"][position], 1.0 - within);
        let named = arrays["named"][position].as_array().expect("an array");
        assert_eq!(
            (&named[0]["id"], &named[1]["id"]),
            (&json!(17), &json!(500))
        );
        assert_eq!(named[2]["token"], " two");
        for entry in named {
            near(
                &entry["logprob"],
                logprobs[entry["id"].as_u64().expect("an id") as usize],
            );
        }
    }
    for name in ["rank", "entropy", "tail_mass", "top", "named"] {
        assert_eq!(arrays[name][0], Value::Null);
    }
}

/// vLLM's and transformers' formula, over prompt and completion, and then OpenAI's over the completion.
#[test]
fn a_penalty_on_repetition_is_that_of_vllm() {
    let server = server::default();
    for (frequency, presence) in [(0.0, 0.0), (0.5, 0.25)] {
        const PENALTY: f64 = 1.3;
        let choice = choice(
            server,
            &json!({"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "repetition_penalty": PENALTY, "logprobs": 3,
                    "frequency_penalty": frequency, "presence_penalty": presence, "logprobs_detail": true,
                    "logprobs_mode": ["raw", "penalized"], "logits": true, "return_token_ids": true, "trace": 1}),
        );
        let ids = |name: &str| -> Vec<usize> {
            let ids = choice[name].as_array().expect("an array").iter();
            ids.map(|id| id.as_u64().expect("an id") as usize).collect()
        };
        let (prompt, completion) = (ids("prompt_token_ids"), ids("token_ids"));
        let penalized = &choice["logprobs"]["modes"]["penalized"];
        let rows = rows(&choice);
        assert_eq!((rows.len(), completion.len()), (12, 12));
        for (place, (_, mut row)) in rows.into_iter().enumerate() {
            let generated = &completion[..place];
            for (id, logit) in row.iter_mut().enumerate() {
                if prompt.contains(&id) || generated.contains(&id) {
                    *logit = if *logit > 0.0 {
                        *logit / PENALTY
                    } else {
                        *logit * PENALTY
                    };
                }
                let count = generated.iter().filter(|&&other| other == id).count();
                if count > 0 {
                    *logit -= frequency * count as f64 + presence;
                }
            }
            let logprobs = log_softmax(&row);
            near(
                &penalized["token_logprobs"][place],
                logprobs[completion[place]],
            );
            for entry in penalized["top"][place].as_array().expect("an array") {
                let id = entry["id"].as_u64().expect("an id") as usize;
                near(&entry["logprob"], logprobs[id]);
            }
            assert_eq!(penalized["rank"][place], 1, "greedy");
            assert_eq!(choice["trace"][place]["stages"][0]["stage"], "penalties");
        }
        // The text is another than without it.
        let plain = json!({"prompt": PROMPT, "max_tokens": 12, "temperature": 0});
        assert_ne!(self::choice(server, &plain)["text"], choice["text"]);
    }
}

#[test]
fn the_prompt_is_scored_in_the_form_of_vllm() {
    let server = server::default();
    let plain = json!({"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "echo": true, "logprobs": 5,
                       "logprobs_detail": true, "return_token_ids": true, "cache_prompt": false});
    let echoed = choice(server, &plain);
    let arrays = &echoed["logprobs"];
    let scored = with(&plain, &json!({"prompt_logprobs": 3}));
    let both = choice(server, &scored);
    assert_eq!(&both["logprobs"], arrays);
    let ids = echoed["prompt_token_ids"].as_array().expect("an array");
    let list = both["prompt_logprobs"].as_array().expect("an array");
    assert_eq!((list.len(), &list[0]), (ids.len(), &Value::Null));
    for (place, entry) in list.iter().enumerate().skip(1) {
        let mut entries = entry.as_object().expect("an object").iter();
        let (id, own) = entries.next().expect("its own");
        assert_eq!(*id, ids[place].to_string());
        assert_eq!(own["logprob"], arrays["token_logprobs"][place]);
        assert_eq!(own["rank"], arrays["rank"][place]);
        assert_eq!(own["decoded_token"], arrays["tokens"][place]);
        let top = arrays["top"][place].as_array().expect("an array");
        // Control tokens have their names.
        let named = |other: &Value| {
            let bytes = serde_json::from_value(other["bytes"].clone()).expect("bytes");
            String::from_utf8(bytes).expect("UTF-8")
        };
        let others = top[..3].iter().enumerate();
        let others = others.filter(|(_, other)| other["id"] != ids[place]);
        let expect: Vec<Value> = others
            .map(|(rank, other)| {
                json!([
                    other["id"].to_string(),
                    other["logprob"],
                    named(other),
                    rank + 1
                ])
            })
            .collect();
        let got: Vec<Value> = entries
            .map(|(id, it)| json!([id, it["logprob"], it["decoded_token"], it["rank"]]))
            .collect();
        assert_eq!(got, expect, "{place}");
    }
    // Without echo, with none of the others, and for each choice.
    let alone = json!({"prompt": PROMPT, "max_tokens": 1, "n": 2, "prompt_logprobs": 0, "cache_prompt": false});
    let answer = server.complete(alone);
    for choice in answer["choices"].as_array().expect("choices") {
        let own = choice["prompt_logprobs"]
            .as_array()
            .expect("an array")
            .iter()
            .zip(list);
        for (one, other) in own.skip(1) {
            let first = other.as_object().and_then(|it| it.iter().next());
            let (id, own) = first.expect("its own");
            assert_eq!(*one, json!({id.as_str(): own}));
        }
        assert_eq!(choice["logprobs"], Value::Null);
    }
    // More than the arrays have: these stay as they are.
    let more = json!({"prompt_logprobs": 8, "logprobs_detail": false, "logprobs": 2});
    let told = choice(server, &with(&plain, &more));
    let fewer = choice(
        server,
        &with(&plain, &json!({"logprobs_detail": false, "logprobs": 2})),
    );
    assert_eq!(told["logprobs"], fewer["logprobs"]);
    // In a chat it is beside the choices.
    let chat = json!({"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 1, "n": 2, "prompt_logprobs": 2,
                      "return_token_ids": true});
    let answer = server.post("/v1/chat/completions", &chat).json();
    let ids = json!({"prompt": answer["prompt_token_ids"], "max_tokens": 1, "prompt_logprobs": 2});
    assert_eq!(
        answer["prompt_logprobs"],
        choice(server, &ids)["prompt_logprobs"]
    );
    assert!(length(&answer["prompt_logprobs"]) > 20);
}

#[test]
fn chats_tell_what_completions_tell() {
    let server = server::default();
    let asked = json!({"max_tokens": 6, "seed": 4, "temperature": 1.3, "return_token_ids": true, "logprobs_detail": true,
        "logprob_token_ids": [28], "logprob_tokens": [" yes"], "logprobs_mode": ["sampled", "raw"], "frequency_penalty": 0.3});
    let chat = with(
        &asked,
        &json!({"messages": [{"role": "user", "content": "Say hi."}], "logprobs": true, "top_logprobs": 2}),
    );
    let answer = server.post("/v1/chat/completions", &chat).json();
    let said = &answer["choices"][0];
    let plain = with(
        &asked,
        &json!({"prompt": answer["prompt_token_ids"], "logprobs": 2}),
    );
    let completed = choice(server, &plain);
    assert_eq!(said["message"]["content"], completed["text"]);
    assert_eq!(said["token_ids"], completed["token_ids"]);
    let arrays = &completed["logprobs"];
    let without_bytes = |entries: &Value| -> Vec<Value> {
        let entries = entries.as_array().expect("an array").iter();
        entries
            .map(|it| json!([it["id"], it["token"], it["logprob"]]))
            .collect()
    };
    let entries = said["logprobs"]["content"].as_array().expect("an array");
    assert_eq!(entries.len(), length(&arrays["tokens"]));
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry["id"], arrays["token_ids"][place]);
        assert_eq!(entry["kept_mass"], arrays["kept_mass"][place]);
        for (entry, arrays) in [
            (entry, arrays),
            (&entry["modes"]["raw"], &arrays["modes"]["raw"]),
            (&entry["modes"]["sampled"], &arrays["modes"]["sampled"]),
        ] {
            assert_eq!(entry["logprob"], arrays["token_logprobs"][place]);
            for name in ["rank", "entropy", "tail_mass"] {
                assert_eq!(entry[name], arrays[name][place], "{name}");
            }
            let top = without_bytes(&arrays["top"][place]);
            assert_eq!(without_bytes(&entry["top_logprobs"]), top);
            assert_eq!(
                without_bytes(&entry["named"]),
                without_bytes(&arrays["named"][place])
            );
        }
    }
    // And streams tell the same.
    let mut body = with(&chat, &json!({"stream": true, "n": 2}));
    let answer = server.post("/v1/chat/completions", &body);
    body["stream"] = json!(false);
    let whole = server.post("/v1/chat/completions", &body).json();
    let (mut ids, mut told, mut prompts) = ([vec![], vec![]], [vec![], vec![]], 0);
    for event in answer
        .body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: {"))
    {
        let event: Value = serde_json::from_str(&format!("{{{event}")).expect("JSON");
        if !event["prompt_token_ids"].is_null() {
            assert_eq!(event["prompt_token_ids"], whole["prompt_token_ids"]);
            prompts += 1;
        }
        let piece = &event["choices"][0];
        let index = piece["index"].as_u64().expect("an index") as usize;
        ids[index].extend(piece["token_ids"].as_array().cloned().unwrap_or_default());
        let entries = piece["logprobs"]["content"].as_array().cloned();
        told[index].extend(entries.unwrap_or_default());
    }
    assert_eq!(prompts, 2);
    for index in 0..2 {
        let choice = &whole["choices"][index];
        assert_eq!(choice["token_ids"], json!(ids[index]));
        assert_eq!(choice["logprobs"]["content"], json!(told[index]));
    }
}

#[test]
fn the_plain_answer_stays_as_it_is() {
    let server = server::default();
    let plain = json!({"prompt": "Grüße aus dem 🚀 und", "max_tokens": 10, "seed": 5, "temperature": 1.2, "logprobs": 3,
                       "logit_bias": {"260": 2.0}, "presence_penalty": 0.5, "echo": true});
    let expect = choice(server, &plain);
    for more in [
        json!({"logprobs_detail": true}),
        json!({"logprob_tokens": ["a"], "logprob_token_ids": [3]}),
        json!({"logprobs_mode": ["raw", "biased", "penalized", "masked", "sampled"]}),
        json!({"logprobs_mode": "raw"}),
        json!({"trace": true}),
        json!({"logits": true}),
        json!({"logits": {"positions": [2, 5, 9]}}),
        json!({"return_token_ids": true}),
    ] {
        let mut body = with(&plain, &more);
        body["cache_prompt"] = json!(false);
        let told = choice(server, &body);
        assert_eq!(told["text"], expect["text"], "{more}");
        for name in ["text_offset", "token_logprobs", "tokens", "top_logprobs"] {
            assert_eq!(told["logprobs"][name], expect["logprobs"][name], "{more}");
        }
        assert!(length(&expect["logprobs"]["tokens"]) > 10);
    }
    let fields: Vec<&String> = expect.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["text", "index", "logprobs", "finish_reason"]);
    assert_eq!(
        expect["logprobs"].as_object().map(|arrays| arrays.len()),
        Some(4)
    );
}

#[test]
fn a_stream_tells_the_same() {
    let server = server::default();
    let body = json!({"prompt": "Grüße aus", "max_tokens": 8, "seed": 5, "temperature": 1.2, "logprobs": 3, "echo": true,
        "logprobs_detail": true, "logprobs_mode": ["raw", "sampled"], "logprob_tokens": ["a"], "trace": 2,
        "return_token_ids": true, "logits": {"positions": [1, 4, 6]}});
    let whole = choice(server, &body);
    let mut joined = json!({});
    for chunk in server.stream(body) {
        let piece = &chunk["choices"][0];
        join(&mut joined, piece);
    }
    assert_eq!(joined["logprobs"], whole["logprobs"]);
    for name in ["text", "trace", "token_ids", "prompt_token_ids"] {
        assert_eq!(joined[name], whole[name], "{name}");
    }
    assert_eq!(length(&joined["trace"]), 8);
    assert_eq!(joined["logits"]["positions"], whole["logits"]["positions"]);
    assert_eq!(whole["logits"]["positions"], json!([1, 4, 6]));
}

/// Arrays and texts one after the other, objects field by field.
fn join(all: &mut Value, piece: &Value) {
    for (name, value) in piece.as_object().expect("an object") {
        let place = &mut all[name];
        match value {
            Value::Array(items) if place.is_array() => {
                place
                    .as_array_mut()
                    .expect("an array")
                    .extend(items.clone());
            }
            Value::String(text) if place.is_string() => {
                *place = (place.as_str().expect("a text").to_owned() + text).into();
            }
            Value::Object(_) if place.is_object() => join(place, value),
            Value::Null if !place.is_null() => {}
            other => *place = other.clone(),
        }
    }
}

#[test]
fn what_is_known_is_told_again_and_what_is_not_is_evaluated() {
    let server = TestServer::start(&server::default_model());
    let plain = json!({"prompt": PROMPT.repeat(8), "max_tokens": 0, "echo": true, "logprobs": 5});
    let detailed = with(
        &plain,
        &json!({"logprobs_detail": true, "logprob_tokens": [" two"]}),
    );
    let cached = |answer: &Value| {
        let details = &answer["usage"]["prompt_tokens_details"];
        details["cached_tokens"].as_u64().expect("a number")
    };
    server.complete(plain.clone());
    let first = server.complete(detailed.clone());
    assert_eq!(cached(&first), 0);
    let again = server.complete(detailed.clone());
    assert_eq!(
        cached(&again),
        again["usage"]["prompt_tokens"].as_u64().expect("a number")
    );
    assert_eq!(again["choices"], first["choices"]);
    // With fewer alternatives the mass outside is another sum: it is made anew, and what is told depends on no cache.
    let fewer = with(&detailed, &json!({"logprobs": 2}));
    let answer = server.complete(fewer.clone());
    assert_eq!(cached(&answer), 0);
    let anew = server.complete(with(&fewer, &json!({"cache_prompt": false})));
    assert_eq!(answer["choices"], anew["choices"]);
    // Rows are not kept: they are evaluated from the first that is wanted.
    let rows_of = |body: &Value| rows(&server.complete(body.clone())["choices"][0]);
    let wanted = with(&plain, &json!({"logits": {"positions": [60, 70]}}));
    let (warm, cold) = (
        rows_of(&wanted),
        rows_of(&with(&wanted, &json!({"cache_prompt": false}))),
    );
    assert_eq!(warm.len(), 2);
    assert_eq!(warm, cold);
    let answer = server.complete(wanted);
    assert!((1..60).contains(&cached(&answer)));
}

/// What the lesson of the seed shows by printing dictionaries.
#[test]
fn the_trace_shows_what_each_parameter_does() {
    let server = server::default();
    let base = json!({"prompt": "The capital of Michigan is ", "max_tokens": 5, "seed": 7, "trace": true, "logprobs": 5,
                      "logprobs_mode": "sampled", "min_p": 0, "top_p": 1, "top_k": 0});
    let stages = |more: &Value| {
        let choice = choice(server, &with(&base, more));
        let traces = choice["trace"].as_array().expect("an array").clone();
        assert_eq!(traces.len(), length(&choice["logprobs"]["tokens"]));
        for (trace, logprob) in traces
            .iter()
            .zip(numbers(&choice["logprobs"]["token_logprobs"]))
        {
            let number = |name: &str| trace["draw"][name].as_f64().expect("a number");
            assert!(number("low") <= number("random") && number("random") <= number("high"));
            assert!((number("high") - number("low") - logprob.exp()).abs() < 1e-5);
        }
        let last = traces[0]["stages"].as_array().expect("an array");
        last.clone()
    };
    let of = |stages: &[Value], name: &str| {
        let found = stages.iter().find(|stage| stage["stage"] == name);
        found
            .unwrap_or_else(|| panic!("{name}: {stages:?}"))
            .clone()
    };
    assert_eq!(
        of(&stages(&json!({"top_k": 2})), "top_k")["candidates_out"],
        2
    );
    assert_eq!(
        of(&stages(&json!({"top_p": 0.01})), "top_p")["candidates_out"],
        1
    );
    let temperature = |number: f64| {
        let stage = of(&stages(&json!({"temperature": number})), "temperature");
        let first = &stage["tokens"][0];
        let number = |name: &str| first[name].as_f64().expect("a number");
        (number("before"), number("after"))
    };
    let (before, after) = temperature(2.0);
    assert!(after < before);
    let (before, after) = temperature(0.2);
    assert!(after > before);
    let biased = stages(&json!({"logit_bias": {"33": 100}}));
    let bias = of(&biased, "bias");
    let token = bias["tokens"]
        .as_array()
        .expect("an array")
        .iter()
        .find(|it| it["id"] == 33);
    near(&token.expect("the biased one")["after"], 1.0);
    // A greedy choice leaves one, and draws nothing.
    let greedy = choice(server, &with(&base, &json!({"temperature": 0})));
    let trace = &greedy["trace"][0];
    assert_eq!(trace["stages"][0]["stage"], "greedy");
    assert_eq!(trace["stages"][0]["candidates_out"], 1);
    assert_eq!(trace["draw"], Value::Null);
    assert_eq!(greedy["logprobs"]["token_logprobs"][0], 0.0);
}

#[test]
fn a_grammar_masks_and_the_mass_it_kept_is_told() {
    let server = server::default();
    let choice = choice(
        server,
        &json!({"prompt": "The capital of Michigan is ", "max_tokens": 6, "seed": 2, "grammar": "root ::= [a-z ]+",
                "logprobs": 3, "logprobs_detail": true, "logprobs_mode": ["masked", "raw"], "ignore_eos": true}),
    );
    let arrays = &choice["logprobs"];
    let masked = numbers(&arrays["token_logprobs"]);
    assert_eq!(
        masked,
        numbers(&arrays["modes"]["masked"]["token_logprobs"])
    );
    let raw = numbers(&arrays["modes"]["raw"]["token_logprobs"]);
    for (place, kept) in numbers(&arrays["kept_mass"]).into_iter().enumerate() {
        assert!(kept > 0.0 && kept < 1.0);
        // ignore_eos takes a little away before the mask does.
        assert!((masked[place].exp() * kept - raw[place].exp()).abs() < 1e-3);
        for entry in arrays["top"][place].as_array().expect("an array") {
            let text = entry["token"].as_str().expect("a text");
            assert!(
                text.bytes()
                    .all(|byte| byte == b' ' || byte.is_ascii_lowercase())
            );
        }
        assert!(raw[place] <= masked[place]);
    }
}

#[test]
fn drafts_are_told_of_as_everything_else() {
    let server = TestServer::start_with(&server::default_model(), |config| {
        config.engine.mode = Mode::Throughput;
        config.engine.draft_tokens = 8;
    });
    let body = json!({"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "logprobs": 2, "logprobs_detail": true,
                      "logprobs_mode": ["raw", "sampled"], "trace": 2, "logits": true});
    let choice = choice(&server, &body);
    let arrays = &choice["logprobs"];
    let rows = rows(&choice);
    assert_eq!(rows.len(), 40);
    assert_eq!(length(&choice["trace"]), 40);
    for (place, (_, row)) in rows.iter().enumerate() {
        let logprobs = log_softmax(row);
        let id = arrays["token_ids"][place].as_u64().expect("an id") as usize;
        near(&arrays["token_logprobs"][place], logprobs[id]);
        assert_eq!(arrays["modes"]["sampled"]["token_logprobs"][place], 0.0);
        assert_eq!(arrays["rank"][place], 1);
    }
}
