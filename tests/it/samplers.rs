//! The newer samplers, bans, and what is made of a prompt, on the real model: each is seen in what comes out.

use std::path::Path;
use std::sync::OnceLock;

use candor::model::{Added, Model, Token};
use serde_json::{Value, json};

use crate::server::{self, TestServer};

fn default() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(&server::default_model()))
}

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = server::default_model();
        Model::load(Path::new(&path), &server::defaults().model).expect("the model loads")
    })
}

fn ids(text: &str) -> Vec<i32> {
    let tokens = model().vocab().tokenize(text, Added::Both, true);
    tokens.iter().map(|token| token.0).collect()
}

/// The fields of one object over those of another.
fn with(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    for (name, value) in more.as_object().expect("an object") {
        all[name] = value.clone();
    }
    all
}

/// The only choice of a request.
fn choice(base: &Value, more: &Value) -> Value {
    default().complete(with(base, more))["choices"][0].clone()
}

fn text(choice: &Value) -> &str {
    choice["text"].as_str().expect("a text")
}

/// The text of a stream, and why it ended.
fn streamed(body: Value) -> (String, Value) {
    let chunks = default().stream(body);
    let text = chunks
        .iter()
        .map(|chunk| text(&chunk["choices"][0]))
        .collect();
    let last = chunks.last().expect("a chunk");
    (text, last["choices"][0]["finish_reason"].clone())
}

const COUNTING: &str =
    "One, two, three, four, five, six. One, two, three, four, five, six. One, two, three,";

fn greedy() -> Value {
    json!({"prompt": COUNTING, "max_tokens": 12, "temperature": 0})
}

#[test]
fn dry_leaves_a_repetition_of_the_prompt() {
    let plain = choice(&greedy(), &json!({}));
    assert!(text(&plain).starts_with(" four, five, six."), "{plain}");
    let dry = json!({"dry_multiplier": 5, "dry_sequence_breakers": []});
    let other = choice(&greedy(), &dry);
    assert!(!text(&other).starts_with(" four"), "{other}");
    // Off in each way that there is.
    for off in [
        json!({"dry_multiplier": 0}),
        json!({"dry_penalty_last_n": 0}),
        json!({"dry_allowed_length": 100}),
        json!({"samplers": ["penalties", "top_k", "temperature"]}),
        // Nothing repeats itself behind the last of these.
        json!({"dry_sequence_breakers": [",", "three"]}),
    ] {
        assert_eq!(choice(&greedy(), &with(&dry, &off)), plain, "{off}");
    }
    // It looks back so far, and the repetition is further away.
    let near = json!({"dry_penalty_last_n": 4});
    assert_eq!(text(&choice(&greedy(), &with(&dry, &near)))[..5], *" four");
}

#[test]
fn xtc_takes_the_least_likely_of_those_above_the_threshold() {
    let xtc = json!({"prompt": "My favourite animal is the", "max_tokens": 12, "temperature": 0, "logprobs": 20,
                     "xtc_probability": 1, "xtc_threshold": 0.05, "samplers": ["xtc", "temperature"]});
    let answer = choice(&xtc, &json!({}));
    let logprobs = &answer["logprobs"];
    let top = logprobs["top_logprobs"].as_array().expect("an array");
    let mut left_out = 0;
    for (chosen, top) in logprobs["token_logprobs"]
        .as_array()
        .expect("an array")
        .iter()
        .zip(top)
    {
        let mut above: Vec<f64> = top
            .as_object()
            .expect("an object")
            .values()
            .map(|logprob| logprob.as_f64().expect("a number"))
            .filter(|logprob| logprob.exp() >= 0.05)
            .collect();
        above.sort_by(f64::total_cmp);
        let likeliest = top.as_object().and_then(|top| top.values().next()).cloned();
        let expect = above
            .first()
            .map_or(likeliest, |&logprob| Some(json!(logprob)));
        assert_eq!(Some(chosen.clone()), expect, "{top}");
        left_out += usize::from(above.len() > 1);
    }
    assert!(left_out > 3, "{answer}");
    // Off, it is greedy.
    let off = json!({"xtc_probability": 0});
    let plain = choice(&xtc, &off);
    assert_ne!(plain, answer);
    assert_eq!(choice(&xtc, &json!({"xtc_threshold": 0.6})), plain);
}

#[test]
fn cuts_and_temperatures_that_leave_one_token_are_greedy() {
    let plain = choice(&greedy(), &json!({}));
    let hot = json!({"temperature": 3, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 5});
    assert_ne!(choice(&greedy(), &hot), plain);
    for one in [
        json!({"top_n_sigma": 1e-6}),
        json!({"top_k": 1, "samplers": ["temperature", "top_k"]}),
        json!({"min_p": 1, "samplers": ["min_p"]}),
        json!({"temperature": 1, "dynatemp_range": 1, "dynatemp_exponent": 100}),
        json!({"temperature": 0, "samplers": ["temperature"]}),
    ] {
        assert_eq!(choice(&greedy(), &with(&hot, &one)), plain, "{one}");
    }
    // What is not named is not applied: this is as hot as 1, whatever the temperature says.
    let unnamed = json!({"samplers": ["penalties"], "temperature": 0});
    let named = json!({"samplers": ["temperature"], "temperature": 1});
    let prompt = json!({"prompt": "My favourite animal is the", "max_tokens": 24, "seed": 7});
    assert_eq!(choice(&prompt, &unnamed), choice(&prompt, &named));
    assert_ne!(
        choice(&prompt, &unnamed),
        choice(&prompt, &json!({"temperature": 0}))
    );
}

#[test]
fn the_end_is_banned_where_it_is_to_be_ignored() {
    let prompt = json!({"prompt": "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n", "max_tokens": 80, "temperature": 0});
    let answer = default().complete(prompt.clone());
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    let answer = default().complete(with(&prompt, &json!({"ignore_eos": true})));
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 80);
}

#[test]
fn a_stop_token_ends_the_text_as_an_end_does() {
    let [stop] = ids(" six")[..] else {
        panic!("one token")
    };
    let base = with(&greedy(), &json!({"stop_token_ids": [stop], "logprobs": 1}));
    let answer = default().complete(base.clone());
    assert_eq!(answer["choices"][0]["text"], " four, five,");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let kept = json!({"include_stop_str_in_output": true});
    let answer = default().complete(with(&base, &kept));
    assert_eq!(answer["choices"][0]["text"], " four, five, six");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(
        streamed(with(&base, &kept)),
        (" four, five, six".to_owned(), json!("stop"))
    );
    assert_eq!(
        streamed(base.clone()),
        (" four, five,".to_owned(), json!("stop"))
    );
    // Banned before there are so many.
    let answer = default().complete(with(&base, &json!({"min_tokens": 8})));
    assert!(!text(&answer["choices"][0]).contains("six"), "{answer}");
}

#[test]
fn the_text_keeps_the_stop_string_if_it_is_asked_to() {
    for stop in [
        json!(" six"),
        json!(["e, s", " five, six"]),
        json!([", fi", "five,"]),
    ] {
        let base = with(&greedy(), &json!({"stop": stop}));
        let without = choice(&base, &json!({}));
        let body = with(&base, &json!({"include_stop_str_in_output": true}));
        let kept = choice(&body, &json!({}));
        assert_eq!(kept["finish_reason"], "stop");
        let added = text(&kept)
            .strip_prefix(text(&without))
            .expect("the same beginning");
        let stops = body["stop"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![body["stop"].clone()]);
        assert!(stops.contains(&json!(added)), "{added:?} {stop}");
        assert_eq!(
            streamed(body),
            (text(&kept).to_owned(), json!("stop")),
            "{stop}"
        );
    }
}

#[test]
fn control_tokens_have_names_in_the_text_if_they_are_not_to_be_skipped() {
    let [start] = ids("<|im_start|>")[..] else {
        panic!("one token")
    };
    let base = json!({"prompt": "Hi", "max_tokens": 2, "temperature": 0, "allowed_token_ids": [start], "logprobs": 1});
    let hidden = choice(&base, &json!({}));
    assert_eq!(
        (text(&hidden), &hidden["logprobs"]["tokens"]),
        ("", &json!(["", ""]))
    );
    let body = with(&base, &json!({"skip_special_tokens": false}));
    let named = choice(&body, &json!({}));
    const NAME: &str = "<|im_start|>";
    assert_eq!(text(&named), NAME.repeat(2));
    assert_eq!(named["logprobs"]["tokens"], json!([NAME, NAME]));
    assert_eq!(named["logprobs"]["text_offset"], json!([2, 2 + NAME.len()]));
    assert!(
        named["logprobs"]["top_logprobs"][0][NAME].is_number(),
        "{named}"
    );
    let logprobs = |choice: &Value| choice["logprobs"]["token_logprobs"].clone();
    assert_eq!(logprobs(&named), logprobs(&hidden));
    assert_eq!(streamed(body.clone()).0, NAME.repeat(2));
    // A stop string ends the text before it, as it does if it has none.
    for skip in [true, false] {
        let stop = json!({"stop": [NAME], "skip_special_tokens": skip});
        let stopped = choice(&base, &stop);
        assert_eq!(
            (text(&stopped), &stopped["finish_reason"]),
            ("", &json!("stop"))
        );
    }
    // In a chat, too.
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "allowed_token_ids": [start],
                      "skip_special_tokens": false});
    let answer = default().post("/v1/chat/completions", &chat).json();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        json!(NAME.repeat(2))
    );
}

#[test]
fn nothing_but_what_is_allowed_is_generated() {
    let yes_no = [ids(" yes"), ids(" no")].concat();
    let base = json!({"prompt": "Is water wet? Answer:", "max_tokens": 6, "temperature": 2, "seed": 1, "logprobs": 0,
                      "allowed_token_ids": yes_no});
    let answer = choice(&base, &json!({}));
    let tokens = answer["logprobs"]["tokens"]
        .as_array()
        .expect("an array")
        .clone();
    assert_eq!(tokens.len(), 6);
    assert!(
        tokens.iter().all(|token| token == " yes" || token == " no"),
        "{answer}"
    );
    // Log-probabilities stay those of the raw distribution.
    assert!(
        answer["logprobs"]["token_logprobs"][0]
            .as_f64()
            .expect("a number")
            < -1.0
    );
    // Nothing at all is left.
    let none = json!({"logit_bias": {}, "bad_words": ["yes", "no"]});
    let answer = default().try_complete(&with(&base, &none));
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.json()["error"]["param"], "allowed_token_ids");
}

#[test]
fn bad_words_are_not_generated() {
    let plain = choice(&greedy(), &json!({}));
    assert_eq!(text(&plain)[..17], *" four, five, six.");
    for words in [
        json!(["five"]),
        json!(["  four, five"]),
        json!(["zebra", ", five"]),
    ] {
        let banned = choice(&greedy(), &json!({"bad_words": words}));
        let word = words
            .as_array()
            .and_then(|all| all.last())
            .and_then(Value::as_str);
        let word = word.expect("a word").trim_start();
        assert!(!text(&banned).contains(word), "{words} {banned}");
    }
    // A word of several tokens: what it begins with stays.
    let banned = choice(&greedy(), &json!({"bad_words": ["four, five"]}));
    assert!(text(&banned).starts_with(" four,"), "{banned}");
}

#[test]
fn of_a_prompt_the_last_tokens_are_kept() {
    let all = ids(COUNTING);
    for keeps in [1, 5, all.len() - 1] {
        let last = &all[all.len() - keeps..];
        let expect = default().complete(with(&greedy(), &json!({"prompt": last})));
        let truncate = json!({"truncate_prompt_tokens": keeps});
        for prompt in [json!(COUNTING), json!(all)] {
            let body = with(&with(&greedy(), &json!({"prompt": prompt})), &truncate);
            let answer = default().complete(body);
            assert_eq!(answer["choices"], expect["choices"], "{keeps}");
            assert_eq!(answer["usage"]["prompt_tokens"], json!(keeps));
        }
        // What is echoed is what was kept.
        let echo = json!({"echo": true, "logprobs": 0, "max_tokens": 1});
        let answer = choice(&with(&greedy(), &truncate), &echo);
        let entries = answer["logprobs"]["tokens"].as_array().expect("an array");
        assert_eq!(entries.len(), keeps + 1);
        let made = entries.last().and_then(Value::as_str).expect("a token");
        let echoed = text(&answer).strip_suffix(made).expect("it ends with that");
        assert!(COUNTING.ends_with(echoed) && !echoed.is_empty(), "{answer}");
    }
    let plain = choice(&greedy(), &json!({}));
    assert_eq!(
        choice(&greedy(), &json!({"truncate_prompt_tokens": all.len()})),
        plain
    );
    // Of a conversation, too.
    let chat = json!({"messages": [{"role": "user", "content": COUNTING}], "max_tokens": 2, "truncate_prompt_tokens": 7});
    let answer = default().send(
        "/v1/chat/completions",
        "application/json",
        chat.to_string().as_bytes(),
    );
    assert_eq!(
        answer.json()["usage"]["prompt_tokens"],
        7,
        "{}",
        answer.body
    );
    // As many as fit.
    let long = with(
        &greedy(),
        &json!({"prompt": COUNTING.repeat(200), "max_tokens": 8}),
    );
    assert_eq!(default().try_complete(&long).status, 400);
    let answer = default().complete(with(&long, &json!({"truncate_prompt_tokens": -1})));
    assert_eq!(answer["usage"]["prompt_tokens"], 2048 - 8);
    assert_eq!(answer["usage"]["completion_tokens"], 8);
}

#[test]
fn a_text_gets_a_beginning_unless_it_is_not_to() {
    // This model has one.
    let server = TestServer::start(&server::tiny_model());
    let path = server::tiny_model();
    let model = Model::load(Path::new(&path), &server::defaults().model).expect("the model loads");
    let vocab = model.vocab();
    let ids = |special: bool| -> Vec<i32> {
        let added = if special { Added::Both } else { Added::Nothing };
        let tokens: Vec<Token> = vocab.tokenize("Once upon", added, true);
        tokens.iter().map(|token| token.0).collect()
    };
    assert_eq!(ids(true).len(), ids(false).len() + 1);
    let base = json!({"prompt": "Once upon", "max_tokens": 4, "temperature": 0});
    for special in [true, false] {
        let answer = server.complete(with(&base, &json!({"add_special_tokens": special})));
        let expect = server.complete(with(&base, &json!({"prompt": ids(special)})));
        assert_eq!(answer["choices"][0]["text"], expect["choices"][0]["text"]);
        assert_eq!(answer["usage"]["prompt_tokens"], json!(ids(special).len()));
        // Echoed, the text has an entry for each of its tokens.
        let echo =
            json!({"add_special_tokens": special, "echo": true, "logprobs": 0, "max_tokens": 0});
        let answer = server.complete(with(&base, &echo));
        let logprobs = &answer["choices"][0]["logprobs"];
        assert_eq!(answer["choices"][0]["text"], "Once upon");
        assert_eq!(
            logprobs["tokens"].as_array().expect("an array").len(),
            ids(false).len()
        );
        assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    }
}
