//! llama-server's routes: the same completions as of `/v1/completions`, in its shape; and what editors and tools send.

use serde_json::{Value, json};

use crate::fim;
use crate::server::{Answer, TestServer, default, tiny};

fn completion(server: &TestServer, body: Value) -> Value {
    answer(server.post("/completion", &body), &body)
}

fn infill(server: &TestServer, body: Value) -> Value {
    answer(server.post("/infill", &body), &body)
}

fn answer(answer: Answer, body: &Value) -> Value {
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

/// The events of a stream, the last of which ends a completion.
fn events(server: &TestServer, path: &str, body: &Value) -> Vec<Value> {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    assert_eq!(answer.content_type, "text/event-stream");
    let lines = answer.body.lines();
    let events = lines.filter_map(|line| line.strip_prefix("data: "));
    events
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect()
}

fn ids(server: &TestServer, text: &str) -> Vec<u64> {
    let body = json!({"content": text, "add_special": false, "parse_special": false});
    let answer = server.post("/tokenize", &body).json();
    serde_json::from_value(answer["tokens"].clone()).expect("ids")
}

const PROMPT: &str = "The capital of Michigan is";

#[test]
fn a_completion_is_that_of_the_other_route() {
    let server = default();
    let shared = json!({"prompt": PROMPT, "seed": 7, "temperature": 1.2, "top_k": 20});
    let with = |more: Value| {
        let mut body = shared.clone();
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        body
    };
    let ours = server.complete(with(json!({
        "max_tokens": 12, "logprobs": 3, "logprobs_detail": true, "return_token_ids": true})));
    let choice = &ours["choices"][0];
    let sent = with(json!({"n_predict": 12, "n_probs": 3, "return_tokens": true}));
    let theirs = completion(server, sent.clone());
    assert_eq!(theirs["content"], choice["text"]);
    assert_eq!(theirs["tokens"], choice["token_ids"]);
    assert_eq!(theirs["prompt"], PROMPT);
    assert_eq!(theirs["tokens_evaluated"], ours["usage"]["prompt_tokens"]);
    assert_eq!(theirs["tokens_predicted"], 12);
    assert_eq!(theirs["stop_type"], "limit");
    assert_eq!(theirs["stop"], true);
    assert_eq!(theirs["truncated"], false);
    assert_eq!(theirs["generation_settings"]["seed"], 7);
    assert_eq!(theirs["generation_settings"]["n_predict"], 12);
    assert_eq!(theirs["generation_settings"]["top_k"], 20);
    let arrays = &choice["logprobs"];
    let entries = theirs["completion_probabilities"]
        .as_array()
        .expect("entries");
    assert_eq!(entries.len(), 12);
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry["id"], arrays["token_ids"][place]);
        assert_eq!(entry["token"], arrays["tokens"][place]);
        assert_eq!(entry["bytes"], arrays["bytes"][place]);
        assert_eq!(entry["logprob"], arrays["token_logprobs"][place]);
        assert_eq!(entry["top_logprobs"], arrays["top"][place]);
        assert_eq!(entry["prob"], Value::Null);
    }
    let timings = &theirs["timings"];
    let counted = |name: &str| timings[name].as_u64().expect("a number");
    assert_eq!(
        counted("cache_n") + counted("prompt_n"),
        theirs["tokens_evaluated"]
    );
    assert_eq!(counted("predicted_n"), 12);
    for name in [
        "prompt_ms",
        "predicted_ms",
        "predicted_per_token_ms",
        "predicted_per_second",
    ] {
        assert!(timings[name].as_f64().expect("a number") > 0.0, "{timings}");
    }
    // The same in a stream.
    let mut streamed = sent;
    streamed["stream"] = true.into();
    let events = events(server, "/completion", &streamed);
    let (last, pieces) = events.split_last().expect("events");
    assert_eq!(last["stop"], true);
    let joined = |name: &str| -> Vec<Value> {
        let lists = pieces
            .iter()
            .map(|piece| piece[name].as_array().expect("a list"));
        lists.flatten().cloned().collect()
    };
    let text: String = pieces
        .iter()
        .map(|piece| piece["content"].as_str().expect("text"))
        .collect();
    assert_eq!(theirs["content"], text);
    assert_eq!(theirs["tokens"], Value::from(joined("tokens")));
    assert_eq!(
        theirs["completion_probabilities"],
        Value::from(joined("completion_probabilities"))
    );
    assert!(pieces.iter().all(|piece| piece["stop"] == false));
    assert_eq!(pieces[4]["tokens_predicted"], 5);
    assert_eq!(
        (&last["content"], &last["tokens"]),
        (&json!(""), &json!([]))
    );
    for name in [
        "stop",
        "tokens_predicted",
        "stop_type",
        "prompt",
        "has_new_line",
    ] {
        assert_eq!(last[name], theirs[name], "{name}");
    }
    assert_eq!(last["generation_settings"]["stream"], true);
}

#[test]
fn probabilities_after_sampling_are_those_of_the_draw() {
    let body = json!({"prompt": PROMPT, "n_predict": 6, "n_probs": 10, "post_sampling_probs": true, "top_k": 4, "seed": 3,
        "top_p": 1, "min_p": 0});
    let ours = default().complete(
        json!({"prompt": PROMPT, "max_tokens": 6, "logprobs": 10, "top_k": 4, "seed": 3,
        "logprobs_mode": "sampled", "logprobs_detail": true, "top_p": 1, "min_p": 0}),
    );
    let theirs = completion(default(), body);
    assert_eq!(theirs["content"], ours["choices"][0]["text"]);
    let entries = theirs["completion_probabilities"]
        .as_array()
        .expect("entries");
    for (place, entry) in entries.iter().enumerate() {
        let top = entry["top_probs"].as_array().expect("a list");
        assert_eq!(top.len(), 4);
        let prob = |entry: &Value| entry["prob"].as_f64().expect("a number");
        let all: f64 = top.iter().map(prob).sum();
        assert!((all - 1.0).abs() < 1e-5, "{all}");
        let logprob = ours["choices"][0]["logprobs"]["token_logprobs"][place].as_f64();
        assert!((prob(entry).ln() - logprob.expect("a number")).abs() < 1e-5);
        assert_eq!(
            (&entry["logprob"], &entry["top_logprobs"]),
            (&Value::Null, &Value::Null)
        );
    }
}

#[test]
fn how_a_text_ended_is_told() {
    let check = |body: Value, content: &str, stop_type: &str, word: &str| {
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        let events = events(tiny(), "/completion", &streamed);
        let whole = completion(tiny(), body.clone());
        assert_eq!(whole["content"], content, "{body}");
        let text = events
            .iter()
            .map(|event| event["content"].as_str().expect("text"));
        assert_eq!(text.collect::<String>(), content, "{body}");
        for end in [&whole, events.last().expect("an end")] {
            assert_eq!(end["stop_type"], stop_type, "{body}");
            assert_eq!(end["stopping_word"], word, "{body}");
            assert_eq!(end["has_new_line"], content.contains('\n'), "{body}");
        }
    };
    let of = |text: &str| json!({"prompt": "a", "n_predict": 60, "choice": [text]});
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    // A constraint that is finished ends the text as an end-of-generation token does.
    check(of("one two three"), "one two three", "eos", "");
    let stops = json!(["x", "two", "three"]);
    check(
        with(of("one two three"), "stop", stops),
        "one ",
        "word",
        "two",
    );
    let code = "if a:\n    b\n\n    c\nd";
    check(with(of(code), "n_indent", 0.into()), code, "eos", "");
    check(
        with(of(code), "n_indent", 3.into()),
        "if a:\n    b\n",
        "limit",
        "",
    );
    let code = "if a:\n    b\n  c";
    check(
        with(of(code), "n_indent", 3.into()),
        "if a:\n    b\n  ",
        "limit",
        "",
    );
    check(with(of(code), "n_indent", 2.into()), code, "eos", "");
    check(with(of("long"), "n_predict", 0.into()), "", "limit", "");
}

#[test]
fn what_may_take_no_longer_ends_with_its_line() {
    // Always a line break, and never one.
    let of = |regex: &str, limit: Value| {
        let body = json!({"prompt": "a", "n_predict": 300, "regex": regex, "t_max_predict_ms": limit, "ignore_eos": true});
        completion(tiny(), body)
    };
    let ended = of("(\n)+", 1.into());
    assert!(
        ended["tokens_predicted"].as_u64().expect("a number") < 300,
        "{ended}"
    );
    assert_eq!(ended["stop_type"], "limit");
    assert!(ended["content"].as_str().expect("text").ends_with('\n'));
    for (regex, limit) in [
        ("(\n)+", json!(-1)),
        ("(\n)+", json!(0)),
        ("(\n)+", json!(3_600_000)),
        ("[a-z]+", json!(1)),
    ] {
        let whole = of(regex, limit);
        assert_eq!(whole["tokens_predicted"], 300, "{regex}: {whole}");
        assert_eq!(whole["truncated"], false);
    }
}

#[test]
fn prompts_come_in_every_shape_and_several_at_once() {
    let server = tiny();
    let rest =
        |prompt: Value| json!({"prompt": prompt, "n_predict": 4, "temperature": 0, "n_probs": 2});
    let bos = server.get("/tokenizer_info").json()["bos_token"].clone();
    let text = completion(server, rest(json!("one two")));
    let (one, two) = (ids(server, "one"), ids(server, "two"));
    assert_eq!(
        text["prompt"],
        format!("{} one two", bos.as_str().expect("text"))
    );
    let body = json!({"content": "one two", "add_special": true});
    let all = server.post("/tokenize", &body).json()["tokens"].clone();
    // The tokenizer puts a space before each text.
    assert_eq!(json!([&[1][..], &one, &two].concat()), all);
    let ids_after_text = [
        &[json!("one")][..],
        &two.iter().map(|&id| json!(id)).collect::<Vec<_>>(),
    ]
    .concat();
    for prompt in [
        all.clone(),
        json!([1, "one", two[0]]),
        json!(ids_after_text),
    ] {
        let other = completion(server, rest(prompt.clone()));
        assert_eq!(
            other["completion_probabilities"], text["completion_probabilities"],
            "{prompt}"
        );
        assert_eq!(
            other["tokens_evaluated"], text["tokens_evaluated"],
            "{prompt}"
        );
    }
    let several = completion(server, rest(json!(["one two", all, [1, "one", two[0]]])));
    let several = several.as_array().expect("a list");
    assert_eq!(several.len(), 3);
    for (index, other) in several.iter().enumerate() {
        assert_eq!(other["index"], index);
        assert_eq!(other["content"], text["content"]);
    }
    // And several choices, in a stream, too.
    let body = json!({"prompt": ["a", "b"], "n_cmpl": 2, "n_predict": 3, "seed": 1, "return_tokens": true});
    let whole = completion(server, body.clone());
    assert_eq!(whole.as_array().map(Vec::len), Some(4));
    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = events(server, "/completion", &streamed);
    for (index, whole) in whole.as_array().expect("a list").iter().enumerate() {
        let of_it = events.iter().filter(|event| event["index"] == index);
        let tokens = of_it.flat_map(|event| event["tokens"].as_array().expect("a list"));
        assert_eq!(
            whole["tokens"],
            Value::from(tokens.cloned().collect::<Vec<_>>())
        );
    }
}

#[test]
fn biases_come_in_every_shape() {
    let server = tiny();
    let token = ids(server, "zz")[0];
    let of = |bias: Value| {
        let body = json!({"prompt": "a", "n_predict": 3, "temperature": 0, "logit_bias": bias, "return_tokens": true});
        completion(server, body)["tokens"].clone()
    };
    let forced = json!([token, token, token]);
    assert_eq!(of(json!([[token, 1000.0]])), forced);
    assert_eq!(of(json!({token.to_string(): 1000.0})), forced);
    let usual = of(json!([]));
    let banned = of(json!([[usual[0], false]]));
    assert_ne!(banned[0], usual[0]);
    let is_of = |text: &str, tokens: Value| {
        let id = tokens[0].as_u64().expect("an id");
        assert!(ids(server, text).contains(&id), "{text}: {tokens}");
    };
    is_of("zz", of(json!([["zz", 1000.0]])));
    is_of("zz", of(json!({"zz": 1000.0})));
    // Digits are a text in a pair, and an id in an object.
    let digits = token.to_string();
    assert!(!ids(server, &digits).contains(&token));
    is_of(&digits, of(json!([[digits, 1000.0]])));
}

#[test]
fn only_the_parts_that_are_asked_for_come() {
    let body = json!({"prompt": "a", "n_predict": 2, "temperature": 0,
        "response_fields": ["content", "timings/predicted_n", "timings/none", "generation_settings/top_k", "tokens/0", ""]});
    let whole = completion(
        tiny(),
        json!({"prompt": "a", "n_predict": 2, "temperature": 0}),
    );
    let expect = json!({"content": whole["content"], "timings/predicted_n": 2, "generation_settings/top_k": 40});
    assert_eq!(completion(tiny(), body.clone()), expect);
    let mut twice = body.clone();
    twice["response_fields"] = json!(["timings/predicted_n", "content", "content"]);
    let answer = tiny().post("/completion", &twice);
    let parts = format!(
        r#"{{"timings/predicted_n":2,"content":{}}}"#,
        whole["content"]
    );
    assert_eq!(answer.body, parts);
    let mut several = body.clone();
    several["n_cmpl"] = 2.into();
    assert_eq!(completion(tiny(), several), json!([expect, expect]));
    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = events(tiny(), "/completion", &streamed);
    let mut last = expect;
    last["content"] = "".into();
    assert_eq!(events.last(), Some(&last));
    assert_eq!(events[0]["stop"], false);
}

#[test]
fn the_settings_of_an_answer_are_those_of_its_request() {
    let body = json!({"prompt": "a", "n_predict": 2, "repeat_penalty": 1.1, "frequency_penalty": 1, "repeat_last_n": 0,
        "logit_bias": [[5, -1.5], [6, false]], "grammar": "root ::= \"a\"", "dry_sequence_breakers": ["x"],
        "ignore_eos": false, "seed": 4, "n_probs": 1, "mirostat": 0, "mirostat_mode": 0, "n_cmpl": 1, "n": 1});
    let settings = &completion(tiny(), body)["generation_settings"];
    let expect = json!({"repeat_penalty": 1.0, "frequency_penalty": 0.0, "repeat_last_n": 0, "n_predict": 2, "max_tokens": 2,
        "logit_bias": [{"token": 5, "bias": -1.5}, {"token": 6, "bias": -1_000_000.0}], "grammar": "root ::= \"a\"",
        "dry_sequence_breakers": ["x"], "ignore_eos": false, "seed": 4, "n_probs": 1, "lora": [], "mirostat": 0});
    for (name, value) in expect.as_object().expect("an object") {
        assert_eq!(&settings[name], value, "{name}");
    }
    let props = tiny().get("/props").json();
    let defaults = &props["default_generation_settings"]["params"];
    let names = |settings: &Value| -> Vec<String> {
        let settings = settings.as_object().expect("an object");
        settings.keys().cloned().collect()
    };
    assert_eq!(names(defaults), names(settings));
    assert_eq!(defaults["repeat_last_n"], 64);
    assert_eq!(defaults["n_predict"], -1);
    assert_eq!(
        defaults["dry_sequence_breakers"],
        json!(["\n", ":", "\"", "*"])
    );
}

#[test]
fn without_a_window_the_penalties_are_off() {
    let of = |more: Value| {
        let mut body = json!({"prompt": "one one one", "n_predict": 8, "temperature": 0, "return_tokens": true, "repeat_penalty": 5});
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        completion(default(), body)["tokens"].clone()
    };
    let off = of(json!({"repeat_penalty": 1}));
    assert_eq!(of(json!({"repeat_last_n": 0})), off);
    assert_ne!(of(json!({"repeat_last_n": 64})), off);
}

/// The ids of a prompt for filling in, written out.
fn spelt_out(extra: &[(&str, &str)], prefix: &str, line: &str, suffix: &str) -> Vec<u64> {
    let server = fim::server();
    let plain = |text: &str| ids(server, text);
    // The tokenizer puts a space before a text, which one that continues another does not get.
    let following = |text: &str| plain(&format!("\n{text}"))[2..].to_vec();
    let token = |name: &str| vec![u64::from(fim::id(name))];
    let mut all = vec![vec![1], token("fim_rep"), plain("myproject\n")];
    for (filename, text) in extra {
        all.extend([
            token("fim_sep"),
            plain(&format!("{filename}\n")),
            plain(text),
        ]);
    }
    all.extend([
        token("fim_sep"),
        plain("filename\n"),
        token("fim_pre"),
        plain(prefix),
    ]);
    all.push(if prefix.is_empty() {
        plain(line)
    } else {
        following(line)
    });
    all.extend([token("fim_suf"), following(suffix), token("fim_mid")]);
    all.concat()
}

#[test]
fn the_prompt_for_filling_in_has_the_form_that_models_are_trained_with() {
    let server = fim::server();
    let same = |body: Value, ids: &[u64]| {
        let more = json!({"n_predict": 3, "temperature": 0, "n_probs": 4});
        let mut filled = body;
        let mut plain = json!({"prompt": ids});
        for body in [&mut filled, &mut plain] {
            body.as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
        }
        let (filled, plain) = (infill(server, filled), completion(server, plain));
        assert_eq!(filled["tokens_evaluated"], ids.len(), "{filled}");
        assert_eq!(filled["prompt"], plain["prompt"]);
        assert_eq!(
            filled["completion_probabilities"],
            plain["completion_probabilities"]
        );
    };
    let body = json!({"input_prefix": "def f(x):\n", "prompt": "    return ", "input_suffix": "\nprint(f(1))\n"});
    same(
        body.clone(),
        &spelt_out(&[], "def f(x):\n", "    return ", "\nprint(f(1))\n"),
    );
    same(
        json!({"input_prefix": "", "input_suffix": ""}),
        &spelt_out(&[], "", "", ""),
    );
    same(
        json!({"input_prefix": "", "prompt": "a", "input_suffix": "b"}),
        &spelt_out(&[], "", "a", "b"),
    );
    // Names of control tokens are text.
    same(
        json!({"input_prefix": "</s>", "prompt": "<s>", "input_suffix": "<unk>"}),
        &spelt_out(&[], "</s>", "<s>", "<unk>"),
    );
    let mut extra = body;
    extra["input_extra"] =
        json!([{"text": "x = 1\n", "filename": "x.py"}, {"text": "y = 2\n", "time": [1, 2]}]);
    let chunks = [("x.py", "x = 1\n"), ("tmp", "y = 2\n")];
    same(
        extra,
        &spelt_out(&chunks, "def f(x):\n", "    return ", "\nprint(f(1))\n"),
    );
}

#[test]
fn of_long_texts_what_is_near_the_gap_is_used() {
    let file = fim::write("short").display().to_string();
    let server = TestServer::start_with(&file, |config| config.engine.context_length = 256);
    // Each number is several tokens. Around the gap there is room for 128: 96 before it and 32 after.
    let numbers =
        |from: usize, to: usize| -> String { (from..to).map(|i| format!("{i:03}\n")).collect() };
    let body = json!({"input_prefix": numbers(0, 200), "input_suffix": numbers(200, 300), "n_predict": 1,
        "input_extra": [{"text": numbers(300, 500)}, {"text": "near", "filename": "a"}]});
    let filled = infill(&server, body);
    let prompt = filled["prompt"].as_str().expect("text");
    assert!(
        prompt.contains("199\n") && prompt.contains("200\n") && prompt.contains("near"),
        "{prompt}"
    );
    for far in ["000\n", "299\n", "300\n", "499\n"] {
        assert!(!prompt.contains(far), "{prompt}");
    }
    assert!(filled["tokens_evaluated"].as_u64().expect("a number") < 224);
}

#[test]
fn the_prompt_for_filling_in_has_as_many_tokens_as_the_server_accepts() {
    let file = fim::write("limited").display().to_string();
    let server = TestServer::start_with(&file, |config| config.limits.prompt_tokens = 128);
    let long = "one two\n".repeat(200);
    let body = json!({"input_prefix": long, "input_suffix": long, "n_predict": 1,
        "input_extra": [{"text": "near"}, {"text": "a", "filename": "long ".repeat(200)}]});
    let tokens = infill(&server, body)["tokens_evaluated"].clone();
    assert!(
        (48..=128).contains(&tokens.as_u64().expect("a number")),
        "{tokens}"
    );
}

#[test]
fn while_somebody_types_the_cache_has_the_rest() {
    let server = fim::server();
    let before: String = (0..60).map(|i| format!("value_{i} = {i}\n")).collect();
    let evaluated = |line: &str| {
        let body = json!({"input_prefix": before, "prompt": line, "input_suffix": "\nend\n", "n_predict": 2,
            "input_extra": [{"text": "other = 1\n", "filename": "other.py"}]});
        let answer = infill(server, body);
        let timings = &answer["timings"];
        let number = |name: &str| timings[name].as_u64().expect("a number");
        (number("cache_n"), number("prompt_n"))
    };
    let (_, all) = evaluated("");
    assert!(all > 500, "{all}");
    for line in ["v", "va", "val", "value", "value_60 ="] {
        let (cached, new) = evaluated(line);
        assert!(cached + 40 > all && new < 40, "{line}: {cached} {new}");
    }
    // What an editor sends ahead is evaluated, though nothing is generated.
    let ahead = json!({"input_prefix": "", "input_suffix": "", "input_extra": [{"text": before}], "n_predict": 0});
    assert_eq!(infill(server, ahead.clone())["tokens_predicted"], 0);
    let mut then = ahead;
    then["input_prefix"] = "a = ".into();
    then["n_predict"] = 1.into();
    let timings = infill(server, then)["timings"].clone();
    assert!(timings["cache_n"].as_u64() > Some(500), "{timings}");
}

/// As they were recorded from llama.vim at a1c8e6e, llama.vscode 0.0.63, Continue's provider and promptfoo 0.123.
#[test]
fn what_editors_and_tools_send_is_answered() {
    let server = fim::server();
    let fields = [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ];
    let extra = json!([{"text": "import os\n\n\n", "time": [1_234, 567_890], "filename": "a.py"}]);
    let vim = json!({"id_slot": 0, "input_prefix": "\n", "input_suffix": "\n\n", "input_extra": extra, "prompt": "def f",
        "n_predict": 8, "stop": [], "n_indent": 0, "top_k": 40, "top_p": 0.90, "samplers": ["top_k", "top_p", "infill"],
        "stream": false, "cache_prompt": true, "t_max_prompt_ms": 500, "t_max_predict_ms": 250, "response_fields": fields,
        "model": ""});
    let shown = infill(server, vim);
    let names: Vec<&str> = shown
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, fields);
    // What it looks for before it reads the JSON.
    let ahead = json!({"id_slot": 0, "input_prefix": "", "input_suffix": "", "input_extra": extra, "prompt": "",
        "n_predict": 0, "temperature": 0.0, "samplers": [], "stream": false, "cache_prompt": true, "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1, "response_fields": [""], "model": ""});
    assert_eq!(infill(server, ahead), json!({}));
    let vscode = json!({"id_slot": 0, "input_prefix": "def f(x):\n", "input_suffix": "\n", "input_extra": [{
        "text": "import os\n", "time": 1_700_000_000_000_u64, "filename": "/home/me/a.py"}], "prompt": "    re",
        "n_predict": 8, "n_cmpl": 1, "top_k": 40, "top_p": 0.99, "stream": false, "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": true, "n_indent": 4, "t_max_prompt_ms": 500, "t_max_predict_ms": 2_500});
    assert!(infill(server, vscode.clone())["content"].is_string());
    let mut three = vscode;
    three["n_cmpl"] = 3.into();
    let three = infill(server, three);
    assert!(
        three
            .as_array()
            .expect("a list")
            .iter()
            .all(|one| one["content"].is_string())
    );
    let ahead = json!({"id_slot": 0, "input_prefix": "", "input_suffix": "", "input_extra": [], "prompt": "", "n_predict": 0,
        "samplers": [], "cache_prompt": true, "t_max_prompt_ms": 500, "t_max_predict_ms": 1});
    assert_eq!(infill(server, ahead)["content"], "");
    let model = server.get("/v1/models").json()["data"][0]["id"].clone();
    let continue_dev = json!({"model": model, "prompt": "def f", "stream": true, "n_predict": 8, "frequency_penalty": 0,
        "presence_penalty": 0, "stop": ["<|endoftext|>", "\n\n"], "top_p": 1, "temperature": 0.01});
    assert!(!events(server, "/completion", &continue_dev).is_empty());
    let promptfoo = json!({"prompt": "Q: 2+2?\nA:", "n_predict": 8, "temperature": 0.2, "top_k": 40, "n_keep": 0,
        "stop": ["\n"], "repeat_penalty": 1.1, "repeat_last_n": 64, "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1,
        "seed": -1, "ignore_eos": false, "logit_bias": []});
    assert!(completion(server, promptfoo)["content"].is_string());
}

#[test]
fn properties_are_those_that_clients_read() {
    let props = default().get("/props").json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 2048);
    assert_eq!(props["default_generation_settings"]["params"]["top_k"], 40);
    assert_eq!(props["total_slots"], 16);
    assert_eq!(
        props["modalities"],
        json!({"vision": false, "video": false, "audio": false})
    );
    assert!(
        props["chat_template"]
            .as_str()
            .expect("text")
            .contains("<|im_start|>")
    );
    assert_eq!(props["eos_token"], "<|im_end|>");
    assert!(!props["model_path"].as_str().expect("text").contains('/'));
    // llama.vscode's form of it.
    let name = props["model_alias"].as_str().expect("text");
    let of_name = default().get(&format!("/props?model={name}&autoload=false"));
    assert_eq!(of_name.json(), props);
}
