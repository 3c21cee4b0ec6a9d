//! Choices behind a stem, and whole texts: each number against what echo tells of the same tokens.

use serde_json::{Value, json};

use crate::server::{self, TestServer, default_model, root, tiny, tiny_model};

fn ask(server: &TestServer, path: &str, body: &Value) -> Value {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

fn score(server: &TestServer, body: Value) -> Value {
    ask(server, "/v1/score", &body)
}

fn perplexity(server: &TestServer, body: Value) -> Value {
    ask(server, "/v1/perplexity", &body)
}

fn numbers(array: &Value) -> Vec<f64> {
    let numbers = array.as_array().expect("an array").iter();
    numbers
        .map(|number| number.as_f64().expect("a number"))
        .collect()
}

fn ids(server: &TestServer, text: &str, add_special: bool) -> Vec<u64> {
    let body = json!({"prompt": text, "add_special_tokens": add_special});
    let tokens = ask(server, "/tokenize", &body)["tokens"].clone();
    let tokens = tokens.as_array().expect("tokens").iter();
    tokens.map(|id| id.as_u64().expect("an id")).collect()
}

/// Logprobs of ids as echo has them, each with whether it is that of the likeliest token.
fn echoed(server: &TestServer, ids: &[u64]) -> (Vec<Value>, Vec<bool>) {
    let answer = server.complete(json!({
        "prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1, "logprobs_detail": true, "cache_prompt": false
    }));
    let arrays = &answer["choices"][0]["logprobs"];
    let logprobs = arrays["token_logprobs"].as_array().expect("an array");
    let ranks = arrays["rank"].as_array().expect("an array").iter();
    let likeliest = ranks.map(|rank| rank == 1);
    (logprobs.clone(), likeliest.collect())
}

/// What a choice is said to score is what echo tells of its tokens behind the first `from`.
fn check(server: &TestServer, choice: &Value, tokens: &[u64], from: usize) {
    let (logprobs, likeliest) = echoed(server, tokens);
    assert_eq!(choice["token_ids"], json!(tokens[from..]), "{choice}");
    // The very same text of a number is the very same bits.
    assert_eq!(choice["token_logprobs"], json!(logprobs[from..]));
    let greedy = likeliest[from..].iter().all(|likeliest| *likeliest);
    assert_eq!(choice["is_greedy"], greedy, "{choice}");
    let scored = numbers(&choice["token_logprobs"]);
    let sum: f64 = scored.iter().sum();
    let near = |name: &str, exact: f64| {
        let number = choice[name].as_f64().expect("a number");
        assert!(
            (number - exact).abs() < 1e-5,
            "{name} of {choice}: {number}, {exact}"
        );
    };
    let text = choice["text"].as_str().expect("text");
    near("sum", sum);
    near("mean", sum / scored.len() as f64);
    near("per_byte", sum / text.len() as f64);
    near("per_character", sum / text.chars().count() as f64);
}

/// Probabilities are the softmax of the sums, and the best are the best.
fn check_item(item: &Value) {
    let choices = item["choices"].as_array().expect("choices");
    let sums: Vec<f64> = choices
        .iter()
        .map(|choice| choice["sum"].as_f64().expect("a number"))
        .collect();
    let all: f64 = sums.iter().map(|sum| sum.exp()).sum();
    for (place, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], place);
        let probability = choice["probability"].as_f64().expect("a number");
        assert!((probability - sums[place].exp() / all).abs() < 1e-4);
    }
    for (way, best) in item["best"].as_object().expect("ways") {
        let best = best.as_u64().expect("a place") as usize;
        let values = choices
            .iter()
            .map(|choice| choice[way].as_f64().expect("a number"));
        let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(
            values.clone().position(|value| value == most),
            Some(best),
            "{way}"
        );
    }
}

/// The stem's and the whole's tokens as lm-evaluation-harness encodes a pair of texts: blanks at the end of the context
/// go to the continuation.
fn encode_pair(server: &TestServer, context: &str, continuation: &str) -> (Vec<u64>, usize) {
    let whole = ids(server, &format!("{context}{continuation}"), true);
    let context = ids(server, context.trim_end(), true);
    assert_eq!(
        whole[..context.len()],
        context,
        "the harness drops no token here"
    );
    (whole, context.len())
}

#[test]
fn scores_are_those_of_echo_and_tokens_those_of_the_harness() {
    for server in [tiny(), server::default()] {
        for (stem, choices) in [
            ("The capital of France is", vec![" Paris", " Berlin", " a"]),
            ("The capital of France is ", vec!["Paris", "Berlin.", "\n"]),
            (
                "Question: 2 + 2 =\nAnswer:",
                vec![" 4", " four 🚀", " 日本"],
            ),
            ("Say <|im_end|>\n", vec!["yes, yes", "no"]),
        ] {
            let answer = score(server, json!({"stem": stem, "choices": choices}));
            let item = &answer["data"][0];
            check_item(item);
            assert_eq!(item["stem_tokens"], ids(server, stem, true).len());
            for (place, text) in choices.iter().enumerate() {
                let choice = &item["choices"][place];
                assert_eq!(choice["text"], *text);
                let (tokens, from) = encode_pair(server, stem, text);
                check(server, choice, &tokens, from);
            }
        }
    }
}

#[test]
fn ids_are_taken_as_they_are() {
    let server = tiny();
    let stem = [1, 450, 7483];
    let answer = score(
        server,
        json!({"stem": stem, "choices": [[310, 3444], [2], "of"]}),
    );
    let item = &answer["data"][0];
    assert_eq!(item["stem_tokens"], 3);
    check(server, &item["choices"][0], &[1, 450, 7483, 310, 3444], 3);
    check(server, &item["choices"][1], &[1, 450, 7483, 2], 3);
    assert_eq!(item["choices"][0]["text"], " of France");
    assert_eq!(item["choices"][1]["text"], "</s>");
    // A text behind ids is made into tokens by itself.
    let alone = ask(server, "/tokenize", &json!({"content": "of"}));
    assert_eq!(item["choices"][2]["token_ids"], alone["tokens"]);
    // Ids behind a text follow its own tokens.
    let answer = score(server, json!({"stem": "The capital", "choices": [[310]]}));
    check(
        server,
        &answer["data"][0]["choices"][0],
        &[1, 450, 7483, 310],
        3,
    );
}

#[test]
fn an_empty_stem_is_what_a_text_begins_with() {
    for (server, begin) in [(tiny(), 1), (server::default(), 1)] {
        let answer = score(server, json!({"stem": "", "choices": ["Paris is", "Once"]}));
        for choice in answer["data"][0]["choices"].as_array().expect("choices") {
            let mut tokens = vec![begin];
            tokens.extend(ids(server, choice["text"].as_str().expect("text"), false));
            check(server, choice, &tokens, 1);
        }
    }
}

#[test]
fn a_conversation_is_the_stem_that_its_template_writes() {
    let server = server::default();
    let messages = json!([{"role": "user", "content": "Is water wet?"}]);
    let body = json!({"messages": messages});
    let stem = ask(server, "/apply-template", &body)["prompt"].clone();
    let choices = json!(["Yes", "No"]);
    let by_messages = score(server, json!({"messages": messages, "choices": choices}));
    // Ids, so that the line's end at which the template ends is the stem's.
    let written = ids(server, stem.as_str().expect("text"), true);
    let by_stem = score(server, json!({"stem": written, "choices": choices}));
    assert_eq!(by_messages["data"], by_stem["data"]);
    let started = json!([messages[0], {"role": "assistant", "content": "The answer is"}]);
    let going_on = score(
        server,
        json!({"messages": started, "continue_final_message": true, "choices": [" yes", " no"]}),
    );
    let stem = format!("{}The answer is", stem.as_str().expect("text"));
    let by_stem = score(server, json!({"stem": stem, "choices": [" yes", " no"]}));
    assert_eq!(going_on["data"], by_stem["data"]);
}

#[test]
fn items_score_as_they_do_alone() {
    let server = server::default();
    let items = json!([
        {"stem": "The sky is", "choices": [" blue", " green"]},
        {"messages": [{"role": "user", "content": "Hi"}], "choices": ["Hello"], "neutral": ""},
        {"stem": [504, 6376, 314], "choices": [" blue", " green"], "neutral": null},
    ]);
    let together = score(server, json!({"items": items, "neutral": "Answer:"}));
    for (place, item) in items.as_array().expect("items").iter().enumerate() {
        let mut alone = item.clone();
        if alone["neutral"].is_null() {
            alone["neutral"] = "Answer:".into();
        }
        let mut alone = score(server, alone)["data"][0].clone();
        alone["index"] = place.into();
        assert_eq!(together["data"][place], alone);
        check_item(&alone);
    }
    // What the neutral stem gives is what it gives as a stem.
    let neutral = score(
        server,
        json!({"stem": "Answer:", "choices": [" blue", " green"]}),
    );
    let choice = &together["data"][0]["choices"][1];
    assert_eq!(
        choice["unconditional_sum"],
        neutral["data"][0]["choices"][1]["sum"]
    );
    let difference = choice["sum"].as_f64().expect("a number")
        - choice["unconditional_sum"].as_f64().expect("a number");
    assert!((choice["corrected"].as_f64().expect("a number") - difference).abs() < 1e-5);
}

#[test]
fn a_stem_is_evaluated_once_and_the_cache_moves_no_bit() {
    let server = TestServer::start(&default_model());
    let stem = "The lighthouse keeper wrote down the weather every evening, in the same blue ink, for forty years. "
        .repeat(6);
    let choices: Vec<String> = (0..8).map(|i| format!("In year {i} it rained.")).collect();
    let body = json!({"stem": stem, "choices": choices});
    let first = score(&server, body.clone());
    let usage = |answer: &Value, name: &str| answer["usage"][name].as_u64().expect("a number");
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number")
    };
    let stem_tokens = first["data"][0]["stem_tokens"].as_u64().expect("a number");
    let evaluated = usage(&first, "prompt_tokens") - cached(&first);
    println!(
        "8 choices behind {stem_tokens} tokens: {evaluated} of {} evaluated",
        usage(&first, "prompt_tokens")
    );
    assert!(evaluated < 2 * stem_tokens, "{}", first["usage"]);
    assert_eq!(usage(&first, "completion_tokens"), 0);
    let mut cold = body.clone();
    cold["cache_prompt"] = false.into();
    let cold = score(&server, cold);
    assert_eq!(cached(&cold), 0);
    assert_eq!(cold["data"], first["data"]);
    assert_eq!(score(&server, body)["data"], first["data"]);
}

#[test]
fn contexts_that_begin_with_a_stem_at_once_evaluate_it_once() {
    let start = |contexts| {
        TestServer::start_with(&tiny_model(), |config| {
            config.engine.contexts = contexts;
            // A stem takes one decode.
            config.engine.prompt_chunk_tokens = 512;
        })
    };
    let (one, two) = (start(1), start(2));
    for number in 0..30 {
        let ids = |from: usize, length| (from..from + length).collect::<Vec<usize>>();
        let stem = ids(400 * (number + 1), 300);
        let choices: Vec<_> = (0..8).map(|place| ids(20_000 + 100 * place, 5)).collect();
        let body = json!({"stem": stem, "choices": choices});
        let [one, two] = [&one, &two].map(|server| score(server, body.clone()));
        let usage = &two["usage"];
        // Each choice evaluates its tail, and the group of the row before it.
        assert_eq!(usage["prompt_tokens"], 8 * 305);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 7 * 296);
        assert_eq!(*usage, one["usage"], "{number}");
        assert_eq!(two["data"], one["data"], "{number}");
    }
}

#[test]
fn a_neutral_stem_of_many_items_is_scored_once() {
    let item = |n: usize| json!({"stem": format!("{n} is"), "choices": [" odd", " even"]});
    let items: Vec<Value> = (0..5).map(item).collect();
    let plain = score(tiny(), json!({"items": items}));
    let corrected = score(tiny(), json!({"items": items, "neutral": "It is"}));
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    let once = ids(tiny(), "It is odd", true).len() + ids(tiny(), "It is even", true).len();
    assert_eq!(tokens(&corrected), tokens(&plain) + once as u64);
}

/// A text's perplexity, from the echo of each of its windows.
fn by_echo(server: &TestServer, windows: &[(Vec<u64>, usize)]) -> (f64, usize) {
    let (mut sum, mut scored) = (0.0, 0);
    for (tokens, from) in windows {
        let (logprobs, _) = echoed(server, tokens);
        sum += numbers(&json!(logprobs[*from..])).iter().sum::<f64>();
        scored += tokens.len() - from;
    }
    (sum, scored)
}

#[test]
fn perplexity_is_that_of_the_windows_echo() {
    let text = std::fs::read_to_string(root().join("LICENSE-MIT")).expect("a text");
    for server in [tiny(), server::default()] {
        let tokens = ids(server, &text, true);
        let bos = ids(server, "a", true).len() > ids(server, "a", false).len();
        let window = |start: usize, end: usize| {
            let mut window = tokens[start..end.min(tokens.len())].to_vec();
            if bos {
                window[0] = tokens[0];
            }
            window
        };
        // Each token once, behind half a window at least.
        let mut sliding = vec![(window(0, 64), 1)];
        let mut start = 32;
        while start + 32 < tokens.len() {
            sliding.push((window(start, start + 64), 32));
            start += 32;
        }
        let side_by_side: Vec<_> = (0..tokens.len() / 64)
            .map(|chunk| (window(64 * chunk, 64 * (chunk + 1)), 33))
            .collect();
        for (body, windows) in [
            (json!({"text": text, "window": 64}), sliding),
            (
                json!({"text": text, "window": 64, "stride": 64, "min_context": 33, "partial": false}),
                side_by_side,
            ),
        ] {
            let answer = perplexity(server, body.clone());
            let data = &answer["data"][0];
            let (sum, scored) = by_echo(server, &windows);
            assert_eq!(data["tokens"], tokens.len());
            assert_eq!(data["windows"], windows.len());
            assert_eq!(data["scored"], scored);
            let near = |name: &str, exact: f64| {
                let number = data[name].as_f64().expect("a number");
                assert!(
                    (number / exact - 1.0).abs() < 1e-6,
                    "{name}: {number} {exact}"
                );
            };
            near("sum", sum);
            near("mean", sum / scored as f64);
            near("perplexity", (-sum / scored as f64).exp());
            let bytes = data["bytes"].as_f64().expect("a number");
            near("bits_per_byte", -sum / std::f64::consts::LN_2 / bytes);
            let mut by_ids = body;
            by_ids["text"] = json!(tokens);
            assert_eq!(perplexity(server, by_ids)["data"], answer["data"]);
        }
    }
}

#[test]
fn several_texts_are_scored_each_by_itself() {
    let server = tiny();
    let texts = ["Once upon a time", "there was a city of glass"];
    let both = perplexity(server, json!({"text": texts}));
    for (place, text) in texts.iter().enumerate() {
        let alone = perplexity(server, json!({"text": text}));
        assert_eq!(both["data"][place]["index"], place);
        assert_eq!(both["data"][place]["sum"], alone["data"][0]["sum"]);
        // All but the BOS is scored; the space before a text is the tokenizer's, and counts.
        assert_eq!(both["data"][place]["bytes"], text.len() + 1);
    }
    let plain = perplexity(
        server,
        json!({"text": "a<s>b", "parse_special": false, "add_special_tokens": false}),
    );
    assert!(plain["data"][0]["tokens"].as_u64() > Some(3), "{plain}");
}
