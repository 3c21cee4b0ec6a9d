//! Forks: a completion goes on from within an earlier answer as if another token had been drawn there, to the bit, with
//! the earlier one's lane and without.

use std::io::Read;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use candor::config::{Config, Mode};
use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::parity::joined;
use crate::raw::Request;
use crate::server::{self, TestServer, tiny, tiny_model};

const STEM: &str = "The lighthouse keeper wrote one line a day into a book bound in green leather: the wind, the ships, \
                    the state of the lamp, and what he had for supper.";

/// Tokens of an original answer.
const LENGTH: usize = 24;

/// A server of one context, so that everyone meets in it.
fn one_context(model: &str, lanes: usize, cache_lanes: usize) -> TestServer {
    TestServer::start_with(model, |config| {
        config.engine.contexts = 1;
        config.engine.parallel_sequences = lanes;
        config.engine.cache_lanes = cache_lanes;
    })
}

/// The ids of what a choice generated.
fn drawn(answer: &Value, choice: usize) -> Vec<u64> {
    let ids = answer["choices"][choice]["token_ids"].clone();
    serde_json::from_value(ids).expect("ids")
}

/// A choice from its token number `position` on.
fn rest(choice: &Value, position: usize) -> Value {
    let arrays = &choice["logprobs"];
    let from =
        |name: &str| -> Value { arrays[name].as_array().expect("an array")[position..].into() };
    let offset = |place: usize| arrays["text_offset"][place].as_u64().expect("a number");
    let text = choice["text"].as_str().expect("text");
    let kept = match arrays["text_offset"].get(position) {
        Some(_) => usize::try_from(offset(position) - offset(0)).expect("fits"),
        None => text.chars().count(),
    };
    json!({
        "text": text.chars().skip(kept).collect::<String>(),
        "logprobs": {
            "text_offset": from("text_offset"), "token_logprobs": from("token_logprobs"),
            "tokens": from("tokens"), "top_logprobs": from("top_logprobs"),
        },
        "finish_reason": choice["finish_reason"],
    })
}

/// A choice as `rest` has it.
fn bare(mut choice: Value) -> Value {
    let fields = choice.as_object_mut().expect("a choice");
    fields.retain(|name, _| ["text", "logprobs", "finish_reason"].contains(&name.as_str()));
    choice
}

fn first(answer: &Value) -> Value {
    bare(answer["choices"][0].clone())
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .expect("a number")
}

fn prompt_tokens(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens"].as_u64().expect("a number")
}

/// Adds what all of these requests have.
fn ask(mut fields: Value, max_tokens: usize) -> Value {
    let common = json!({"max_tokens": max_tokens, "temperature": 0, "logprobs": 3, "ignore_eos": true,
                        "return_token_ids": true});
    for (name, value) in common.as_object().expect("fields") {
        let fields = fields.as_object_mut().expect("fields");
        fields.entry(name.as_str()).or_insert(value.clone());
    }
    fields
}

fn with(mut fields: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().expect("fields") {
        fields[name] = value.clone();
    }
    fields
}

fn fork(answer: &Value, position: usize, token: Option<u64>) -> Value {
    json!({"fork": {"id": answer["id"], "position": position, "token": token}})
}

/// The same tokens as a server draws them that knows of no forks: a grammar leaves it no choice up to there.
fn forced(server: &TestServer, mut fields: Value, tokens: &[u64], max_tokens: usize) -> Value {
    let named: String = tokens.iter().map(|id| format!("<[{id}]> ")).collect();
    fields["grammar"] = json!(format!("root ::= {named} rest\nrest ::= !<[0]>*"));
    fields["cache_prompt"] = json!(false);
    server.complete(ask(fields, tokens.len() - 1 + max_tokens))
}

/// At these positions; it takes long on a model that is not tiny.
fn check(model: &str, positions: &[usize]) {
    let (server, cold) = (one_context(model, 3, 3), one_context(model, 1, 0));
    for fields in [
        json!({"prompt": STEM}),
        json!({"prompt": "Once upon a time"}),
        json!({"prompt": STEM, "echo": true}),
        // Its end is evaluated apart, behind a border of the reference.
        json!({"prompt": STEM.repeat(14), "frequency_penalty": 0.5, "repeat_penalty": 1.3, "dry_multiplier": 0.8}),
    ] {
        let original = server.complete(ask(fields.clone(), LENGTH));
        let mut sampling = fields.clone();
        for name in ["prompt", "echo"] {
            sampling.as_object_mut().expect("fields").remove(name);
        }
        // Of an echoed answer what was generated.
        let tokens = original["choices"][0]["logprobs"]["tokens"].as_array();
        let echoed = tokens.map_or(0, Vec::len) - LENGTH;
        let drawn = drawn(&original, 0);
        assert_eq!(drawn.len(), LENGTH);
        let forking = |position, token, max_tokens| {
            ask(
                with(fork(&original, position, token), &sampling),
                max_tokens,
            )
        };
        for &position in positions {
            // The very token that was drawn: what comes is what came.
            let request = forking(position, Some(drawn[position]), LENGTH - position);
            let answer = server.complete(request.clone());
            let expected = rest(&original["choices"][0], echoed + position);
            assert_eq!(first(&answer), expected, "{fields} {position}");
            let kept = position as u64;
            assert_eq!(prompt_tokens(&answer), prompt_tokens(&original) + kept);
            assert_eq!(
                cached(&answer),
                prompt_tokens(&original) + kept.saturating_sub(1),
                "{fields} {position}"
            );
            assert_eq!(joined(&server.stream(request.clone())), expected);
            let alone = server.complete(with(request, &json!({"cache_prompt": false})));
            assert_eq!((first(&alone), cached(&alone)), (expected, 0));
            // None is given, and at this temperature the same is drawn.
            let free = server.complete(forking(position, None, (LENGTH - position).min(5)));
            assert_eq!(
                self::drawn(&free, 0),
                drawn[position..]
                    .iter()
                    .copied()
                    .take(5)
                    .collect::<Vec<_>>()
            );
        }
        for (position, token) in [(0, 1185), (16, 2480), (24, 1111)]
            .into_iter()
            .take(positions.len() - 1)
        {
            let answer = server.complete(forking(position, Some(token), 8));
            let tokens = [&drawn[..position], &[token]].concat();
            let reference = forced(&cold, fields.clone(), &tokens, 8);
            let expected = rest(&reference["choices"][0], echoed + position);
            assert_eq!(first(&answer), expected, "{fields} {position}");
            assert_eq!(answer["usage"]["completion_tokens"], 8);
        }
        books_balance(&server);
    }
}

#[test]
fn tiny_llama() {
    check(&tiny_model(), &[23, 0, 9, 1]);
}

#[test]
fn smollm2() {
    check(&server::default_model(), &[23, 9]);
}

#[test]
fn gemma() {
    if let Some(path) = server::gemma_model() {
        check(&path, &[23, 9]);
    }
}

/// Forks of several answers at once, from lanes that are free, run, or are gone, in one context and in two.
#[test]
fn many_at_once() {
    let model = server::default_model();
    for (contexts, lanes, cache_lanes) in [(1, 4, 1), (1, 1, 0), (2, 4, 2)] {
        let server = TestServer::start_with(&model, |config: &mut Config| {
            config.engine.contexts = contexts;
            config.engine.parallel_sequences = lanes;
            config.engine.cache_lanes = cache_lanes;
        });
        let prompt = |i: usize| json!({"prompt": format!("{} Day {i}:", STEM.repeat(i % 3 + 1))});
        let originals: Vec<Value> = (0..3)
            .map(|i| server.complete(ask(prompt(i), 48)))
            .collect();
        let ids: Vec<Vec<u64>> = originals.iter().map(|one| drawn(one, 0)).collect();
        std::thread::scope(|scope| {
            for client in 0..4 {
                let (server, originals, ids) = (&server, &originals, &ids);
                scope.spawn(move || {
                    for round in 0..3 {
                        let which = (client + round) % originals.len();
                        let position = (client * 17 + round * 11) % 48;
                        let token = Some(ids[which][position]).filter(|_| round % 2 == 0);
                        let mut request =
                            ask(fork(&originals[which], position, token), 48 - position);
                        request["n"] = json!(client % 3 + 1);
                        let answer = server.complete(request);
                        let expected = rest(&originals[which]["choices"][0], position);
                        for choice in answer["choices"].as_array().expect("choices") {
                            assert_eq!(bare(choice.clone()), expected, "{which} {position}");
                        }
                        // A neighbour with the same prompt, which may use nothing of what was generated.
                        let plain = server.complete(ask(prompt(which), 12));
                        let drawn = plain["choices"][0]["logprobs"]["token_logprobs"].clone();
                        let before = &originals[which]["choices"][0]["logprobs"]["token_logprobs"];
                        assert_eq!(
                            drawn.as_array(),
                            before.as_array().map(|all| all[..12].to_vec()).as_ref()
                        );
                    }
                });
            }
        });
        books_balance(&server);
    }
}

#[test]
fn a_fork_of_a_fork_and_of_each_choice() {
    let server = server::default();
    let original = server.complete(ask(
        json!({"prompt": STEM, "n": 3, "seed": 4, "temperature": 1.2}),
        12,
    ));
    for choice in 0..3 {
        let drawn = drawn(&original, choice);
        let mut request = ask(fork(&original, 4, Some(drawn[4])), 3);
        request["fork"]["choice"] = json!(choice);
        let forked = server.complete(request);
        let scores = |choice: &Value, range: std::ops::Range<usize>| {
            let all = choice["logprobs"]["token_logprobs"].as_array();
            all.expect("an array")[range].to_vec()
        };
        let before = &original["choices"][choice];
        assert_eq!(scores(&forked["choices"][0], 0..1), scores(before, 4..5));
        // Positions count from the prompt's end, whatever was forked in between.
        for (position, &token) in drawn.iter().enumerate().take(6) {
            let again = server.complete(ask(fork(&forked, position, Some(token)), 1));
            let row = position..position + 1;
            assert_eq!(scores(&again["choices"][0], 0..1), scores(before, row));
        }
        let end = server.complete(ask(fork(&forked, 7, None), 2));
        let offset = |answer: &Value| answer["choices"][0]["logprobs"]["text_offset"].clone();
        let text = forked["choices"][0]["text"].as_str().expect("text");
        let length = text.chars().count() as u64;
        assert_eq!(
            offset(&end)[0],
            offset(&forked)[0].as_u64().expect("a number") + length
        );
        let beyond = server.try_complete(&ask(fork(&forked, 8, None), 1));
        assert_eq!(beyond.status, 400);
        assert_eq!(
            beyond.json()["error"]["message"],
            "`fork.position` must be a whole number from 0 to 7, the number of tokens generated so far, but it is 8."
        );
    }
    // Choices that a fork draws differ, and come again with the seed.
    let seeded = json!({"n": 3, "seed": 9, "temperature": 1.5, "best_of": 3});
    let mut request = ask(fork(&original, 2, None), 6);
    for (name, value) in seeded.as_object().expect("fields") {
        request[name] = value.clone();
    }
    let (one, other) = (server.complete(request.clone()), server.complete(request));
    assert_eq!(one["choices"], other["choices"]);
    assert_ne!(one["choices"][0]["text"], one["choices"][1]["text"]);
    assert_eq!(one["usage"]["completion_tokens"], 18);
}

#[test]
fn text_goes_on_where_it_was_left() {
    let server = server::default();
    let original = server.complete(ask(json!({"prompt": "Count: one, two, three,"}), 8));
    let drawn = drawn(&original, 0);
    let choice = &original["choices"][0];
    let text = choice["text"].as_str().expect("text").to_owned();
    let tokens = choice["logprobs"]["tokens"].clone();
    let tokens: Vec<String> = serde_json::from_value(tokens).expect("texts");
    // A stop string that begins in what is kept, and ends with what is given.
    let (before, last) = (tokens[..3].concat(), &tokens[3]);
    let stop = format!("{}{last}", &before[before.len() - 2..]);
    assert!(text.contains(&stop) && !last.contains(&stop));
    let mut request = ask(fork(&original, 3, Some(drawn[3])), 5);
    request["stop"] = json!(stop);
    let answer = server.complete(request.clone());
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!(""), &json!("stop"))
    );
    assert_eq!(choice["logprobs"]["tokens"], json!([last]));
    // One that stands in what is kept is past.
    request["stop"] = json!(before);
    let answer = server.complete(request);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["text"], text[before.len()..]);
    // Bytes that make a character together.
    let tokens = tokenize(server, "🦉");
    assert!(tokens.len() > 1, "{tokens:?}");
    let mut answer = original;
    for (place, token) in tokens.iter().enumerate() {
        answer = server.complete(ask(fork(&answer, 3 + place, Some(*token)), 1));
        let expected = if place + 1 == tokens.len() {
            "🦉"
        } else {
            ""
        };
        assert_eq!(answer["choices"][0]["text"], expected, "{place}");
    }
}

fn tokenize(server: &TestServer, text: &str) -> Vec<u64> {
    let answer = server.post("/extras/tokenize", &json!({"input": text}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let tokens = answer.json()["tokens"].clone();
    serde_json::from_value(tokens).expect("ids")
}

/// The id of the one token that has this text.
fn id(server: &TestServer, text: &str) -> u64 {
    let tokens = tokenize(server, text);
    assert_eq!(tokens.len(), 1, "{text:?}");
    tokens[0]
}

#[test]
fn an_end_that_is_given_ends_the_text_and_one_that_was_drawn_may_be_passed() {
    let server = tiny();
    let end = 2;
    let original = server.complete(
        json!({"prompt": [1, 300, 301], "max_tokens": 6, "temperature": 0, "ignore_eos": true}),
    );
    let ended = server.complete(json!({"fork": {"id": original["id"], "position": 4, "token": end}, "max_tokens": 6, "logprobs": 0}));
    let choice = &ended["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!(""), &json!("stop"))
    );
    assert_eq!(ended["usage"]["completion_tokens"], 0);
    let on = server.complete(json!({"fork": {"id": ended["id"], "position": 4, "token": 500}, "max_tokens": 3, "ignore_eos": true}));
    assert_eq!(on["usage"]["completion_tokens"], 3);
    // An echoed answer shows its end, which is no token to be kept.
    let echoed = server.complete(json!({"prompt": [1, 300, 301], "max_tokens": 6, "echo": true, "logprobs": 0, "logit_bias": {"2": 1000}}));
    assert_eq!(echoed["usage"]["completion_tokens"], 1);
    let request = |position| json!({"fork": {"id": echoed["id"], "position": position, "token": 500}, "max_tokens": 3, "ignore_eos": true});
    assert_eq!(server.complete(request(0))["usage"]["completion_tokens"], 3);
    assert_eq!(server.try_complete(&request(1)).status, 400);
    // Nothing is made where nothing is asked for.
    let none = server.complete(
        json!({"fork": {"id": original["id"], "position": 4, "token": 500}, "max_tokens": 0}),
    );
    assert_eq!(none["choices"][0]["text"], "");
    assert_eq!(none["usage"]["completion_tokens"], 0);
}

#[test]
fn a_constraint_goes_on_too() {
    let server = server::default();
    let refused = |request: &Value, field: &str, part: &str| {
        let answer = server.try_complete(request);
        assert_eq!(answer.status, 400, "{request}: {}", answer.body);
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], field, "{error}");
        assert!(
            error["message"].as_str().expect("text").contains(part),
            "{error}"
        );
        let mut streamed = request.clone();
        streamed["stream"] = json!(true);
        let answer = server.try_complete(&streamed);
        assert!(answer.body.trim_end().ends_with('}'), "{}", answer.body);
        assert!(answer.body.contains(part), "{}", answer.body);
    };
    for (field, rules) in [
        (
            "grammar",
            json!(r#"root ::= "The " ("sky" | "sea") " is " ("red" | "green" | "blue") ".""#),
        ),
        ("regex", json!(r"The (sky|sea) is (red|green|blue)\.")),
    ] {
        let rules = json!({field: rules});
        let follow = |mut request: Value| {
            request[field] = rules[field].clone();
            request["ignore_eos"] = json!(false);
            request
        };
        let original = server.complete(follow(ask(json!({"prompt": STEM}), 40)));
        let text = original["choices"][0]["text"].as_str().expect("text");
        assert!(text.ends_with('.'), "{text}");
        let drawn = drawn(&original, 0);
        let is = id(server, " is");
        let place = drawn.iter().position(|&id| id == is).expect("it is there");
        // Another colour than was drawn.
        for word in [" red", " green", " blue"] {
            let colour = id(server, word);
            let answer = server.complete(follow(ask(fork(&original, place + 1, Some(colour)), 9)));
            let text = answer["choices"][0]["text"].as_str().expect("text");
            assert_eq!(text, format!("{word}."));
            assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        }
        let other = id(server, " yellow");
        let refusal = "does not allow the token that is given";
        refused(
            &follow(ask(fork(&original, place + 1, Some(other)), 9)),
            field,
            refusal,
        );
        // Without the constraint it may come; with it, that cannot be gone on from.
        let free = server.complete(ask(fork(&original, place + 1, Some(other)), 3));
        refused(&follow(ask(fork(&free, place + 3, None), 3)), field, "");
        assert_eq!(
            server.complete(follow(ask(fork(&original, place, Some(is)), 9)))["choices"][0]["text"],
            text[text.find(" is").expect("it is there")..]
        );
    }
    // What only bans a token from being drawn does not bear on one that is given.
    let original = server.complete(ask(json!({"prompt": STEM}), 4));
    let mut request = ask(fork(&original, 2, Some(1000)), 1);
    request["logit_bias"] = json!({"1000": -1e6});
    request["allowed_token_ids"] = json!([1001]);
    assert_eq!(drawn(&server.complete(request), 0), [1000]);
}

#[test]
fn a_stream_may_be_forked_while_it_runs_and_when_its_client_has_left() {
    let server = one_context(&server::default_model(), 2, 1);
    let body = json!({"prompt": STEM, "max_tokens": 1500, "temperature": 0, "ignore_eos": true, "stream": true});
    let mut connection = Request::complete(body.to_string()).start(server.address());
    // Some events have come.
    let mut came = String::new();
    let mut piece = [0; 4096];
    while came.matches("\ndata: {").count() < 6 {
        let length = connection.read(&mut piece).expect("a stream");
        came += &String::from_utf8_lossy(&piece[..length]);
    }
    let id = came
        .split("\"id\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let request = |position: usize| ask(json!({"fork": {"id": id, "position": position}}), 4);
    let running = server.complete(request(5));
    drop(connection);
    server.wait_until("candor_sequences_running", 0);
    let left = server.complete(request(5));
    assert_eq!(left["choices"], running["choices"]);
    assert!(cached(&left) + 1 >= prompt_tokens(&left), "{left}");
    let whole = server.complete(ask(json!({"prompt": STEM}), 9));
    assert_eq!(first(&left), rest(&whole["choices"][0], 5));
}

#[test]
fn throughput_mode_goes_on_as_from_a_prompt() {
    let server = TestServer::start_with(&server::default_model(), |config| {
        config.engine.mode = Mode::Throughput;
        config.engine.contexts = 1;
    });
    let penalty = json!({"frequency_penalty": 0.4});
    let original = server.complete(ask(with(json!({"prompt": STEM}), &penalty), 40));
    let ids = drawn(&original, 0);
    for position in [0, 1, 20, 33, 39] {
        let request = ask(
            with(fork(&original, position, Some(ids[position])), &penalty),
            3,
        );
        let answer = server.complete(request);
        // Rows of a prompt have other low bits, so what comes later may part.
        let (came, before) = (
            &answer["choices"][0]["logprobs"],
            &original["choices"][0]["logprobs"],
        );
        assert_eq!(came["tokens"][0], before["tokens"][position]);
        assert_eq!(came["text_offset"][0], before["text_offset"][position]);
        let logprob = |array: &Value| array.as_f64().expect("a number");
        let (a, b) = (
            logprob(&came["token_logprobs"][0]),
            logprob(&before["token_logprobs"][position]),
        );
        assert!((a - b).abs() < 0.2, "{position}: {a} {b}");
        assert_eq!(
            prompt_tokens(&answer),
            prompt_tokens(&original) + position as u64
        );
        assert!(cached(&answer) + 24 >= prompt_tokens(&answer), "{answer}");
    }
}

#[test]
fn answers_are_kept_for_a_while_and_for_their_own() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["one".to_owned(), "other".to_owned()];
        config.limits.fork_answers = 2;
        config.limits.fork_tokens = 30;
    });
    let post = |key: &str, body: Value| server.post_with("/v1/completions", key, &body);
    let make = |length: usize| {
        let prompt: Vec<usize> = (300..300 + length).collect();
        let answer = post(
            "one",
            json!({"prompt": prompt, "max_tokens": 2, "ignore_eos": true}),
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    };
    let status = |key: &str, id: &str| {
        let answer = post(
            key,
            json!({"fork": {"id": id, "position": 1, "token": 400}, "max_tokens": 0}),
        );
        if answer.status != 200 {
            let error = answer.json()["error"].clone();
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("answer_not_found"), &json!("fork.id"))
            );
            let message = error["message"].as_str().expect("text");
            assert!(
                message.contains(
                    "The last 2 answers of /v1/completions are kept, with at most 30 tokens"
                ),
                "{message}"
            );
        }
        answer.status
    };
    let a = make(3);
    // As if it did not exist.
    assert_eq!(status("other", &a), 404);
    // A fork is an answer as well: the two that are kept are the fork and what it came from.
    assert_eq!(status("one", &a), 200);
    let b = make(3);
    assert_eq!(status("one", &a), 404);
    assert_eq!(status("one", &b), 200);
    let c = make(20);
    assert_eq!(status("one", &b), 404);
    let d = make(29);
    assert_eq!([status("one", &c), status("one", &d)], [404, 404]);
    let off = TestServer::start_with(&tiny_model(), |config| config.limits.fork_answers = 0);
    let answer = off.complete(json!({"prompt": [1, 300], "max_tokens": 2}));
    let forked = off.try_complete(&json!({"fork": {"id": answer["id"], "position": 1}}));
    assert_eq!(forked.status, 404);
    assert!(
        forked.body.contains("This server keeps no answers."),
        "{}",
        forked.body
    );
}

#[test]
fn what_a_fork_says_must_fit_its_answer() {
    let server = tiny();
    let original =
        server.complete(json!({"prompt": vec![300; 2000], "max_tokens": 48, "ignore_eos": true}));
    let id = original["id"].as_str().expect("an id").to_owned();
    let refused = |fork: Value, param: &str, part: &str| {
        let answer = server.try_complete(&json!({"fork": fork, "max_tokens": null}));
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(part), "{message}");
    };
    refused(
        json!({"id": id, "choice": 1, "position": 0}),
        "fork.choice",
        "from 0 to 0, the last choice of that answer, but it is 1.",
    );
    refused(
        json!({"id": id, "position": 49}),
        "fork.position",
        "from 0 to 48",
    );
    // The context is full.
    refused(
        json!({"id": id, "position": 48}),
        "fork",
        "it has 2048 tokens, and generation needs room for at least one more",
    );
    let last = server
        .complete(json!({"fork": {"id": id, "position": 47, "token": 300}, "max_tokens": null}));
    assert_eq!(last["usage"]["total_tokens"], 2048);
    assert_eq!(last["choices"][0]["finish_reason"], "length");
}

#[test]
fn adapters_and_models_are_those_of_the_answer() {
    let adapter = server::root().join("tests/models/lora-tiny-a.gguf");
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.lora = vec![format!("a={}@0", adapter.display())];
        let model = |name: &str| {
            let mut one = config.clone();
            one.model.name = name.to_owned();
            one
        };
        config.models = vec![model("one"), model("two")];
    });
    let body = json!({"prompt": [1, 300, 301, 302], "max_tokens": 8, "ignore_eos": true, "temperature": 0,
                      "logprobs": 2, "lora": [{"id": "a", "scale": 1}], "model": "two"});
    let original = server.complete(body);
    let request = json!({"fork": {"id": original["id"], "position": 5}, "max_tokens": 3, "ignore_eos": true,
                         "temperature": 0, "logprobs": 2, "model": "two"});
    let forked = server.complete(request.clone());
    assert_eq!(first(&forked), rest(&original["choices"][0], 5));
    assert_eq!(forked["system_fingerprint"], original["system_fingerprint"]);
    let mut elsewhere = request;
    elsewhere["model"] = json!("one");
    let answer = server.try_complete(&elsewhere);
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.json()["error"]["param"], "model");
    assert!(
        answer.body.contains("was generated by the model `two`"),
        "{}",
        answer.body
    );
}

#[test]
fn what_is_told_of_a_draw_is_told_of_a_given_token_too() {
    let server = server::default();
    let original = server.complete(ask(
        json!({"prompt": STEM, "logits": true, "frequency_penalty": 0.7, "logprobs_mode": ["raw", "penalized", "sampled"],
               "top_k": 5, "temperature": 0.9, "seed": 2}),
        10,
    ));
    let ids = drawn(&original, 0);
    let more = json!({"logits": true, "frequency_penalty": 0.7, "logprobs_mode": ["raw", "penalized", "sampled"],
                      "top_k": 5, "temperature": 0.9, "seed": 8, "trace": 2});
    let forked = |token: Option<u64>, more: &Value| {
        server.complete(with(ask(fork(&original, 4, token), 6), more))
    };
    let same = forked(Some(ids[4]), &more);
    let (choice, before) = (&same["choices"][0], &original["choices"][0]);
    // The row, and what bias and penalties make of it, is that of the draw.
    let row = |choice: &Value, number: usize| {
        let data = BASE64_STANDARD.decode(choice["logits"]["data"].as_str().expect("base64"));
        let data = data.expect("base64");
        let bytes = 4 * choice["logits"]["shape"][1].as_u64().expect("a number") as usize;
        data[number * bytes..(number + 1) * bytes].to_vec()
    };
    assert!(row(choice, 0) == row(before, 4));
    assert_eq!(
        choice["logits"]["positions"][0],
        before["logits"]["positions"][4]
    );
    let modes = &choice["logprobs"]["modes"];
    assert!(!modes.is_null(), "{choice}");
    for mode in ["raw", "penalized", "sampled"] {
        let of = |choice: &Value, place: usize| {
            choice["logprobs"]["modes"][mode]["token_logprobs"][place].clone()
        };
        assert_eq!(of(choice, 0), of(before, 4), "{mode}");
    }
    let traces = choice["trace"].as_array().expect("traces");
    assert_eq!((traces.len(), &traces[0]["draw"]), (6, &Value::Null));
    assert!(traces[1]["draw"]["random"].is_number());
    // The draws go on as if the token had been drawn, watched or not.
    let plain = json!({"frequency_penalty": 0.7, "top_k": 5, "temperature": 0.9, "seed": 8});
    let free = forked(None, &plain);
    for request in [&plain, &more] {
        assert_eq!(
            drawn(&forked(Some(drawn(&free, 0)[0]), request), 0),
            drawn(&free, 0)
        );
    }
    assert_eq!(
        forked(Some(ids[4]), &plain)["choices"][0]["token_ids"],
        choice["token_ids"]
    );
    // Before the fork there are no rows.
    let body = with(
        ask(fork(&original, 4, None), 2),
        &json!({"logits": {"positions": [5]}}),
    );
    let answer = server.try_complete(&body);
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &json!("logits")),
        "{}",
        answer.body
    );
    // Ids of what stands before and of what comes add up to the whole.
    let prompt: Vec<u64> = serde_json::from_value(before["prompt_token_ids"].clone()).expect("ids");
    let stands: Vec<u64> = serde_json::from_value(choice["prompt_token_ids"].clone()).expect("ids");
    assert_eq!(stands, [&prompt[..], &ids[..4]].concat());
}
