//! Every recorded answer of the reference, field by field. What differs on purpose is asserted to be what the contract
//! says instead; nothing else is let through.

use serde_json::{Value, json};

use crate::server::{self, TestServer, root};

/// The contract's tolerance. What is measured is printed, and is a thousand times smaller.
const TOLERANCE: f64 = 0.02;

/// The answers that were recorded where numbers are rounded as they are here: by the first part of the server's bits
/// class.
fn recorded(name: &str, server: &TestServer) -> Option<Value> {
    let class = server.bits_class();
    let kind = class.split('-').next().expect("a part");
    of_kind(kind, name)
}

fn of_kind(kind: &str, name: &str) -> Option<Value> {
    let path = root().join(format!("tests/golden/{kind}/{name}.json"));
    let text = std::fs::read_to_string(&path).ok()?;
    Some(serde_json::from_str(&text).expect("golden files are JSON"))
}

#[test]
fn tiny_llama() {
    let (name, server) = ("llama2-vocab-tiny", server::tiny());
    // Its weights have 16 bits: where nothing was recorded it is within the tolerance of what was elsewhere.
    let golden = recorded(name, server).or_else(|| of_kind("avx512", name));
    check_file(name, golden, server);
}

#[test]
fn smollm2() {
    let (name, server) = ("smollm2-135m", server::default());
    check_file(name, recorded(name, server), server);
}

#[test]
fn gemma() {
    check_larger("gemma-3-270m", server::gemma_model());
    // What was recorded elsewhere on such a CPU.
    if let Some(model) = server::gemma_model() {
        let (name, server) = ("gemma3-270m", TestServer::start(&model));
        check_file(name, recorded(name, &server), &server);
    }
}

#[test]
fn qwen_0_5b() {
    check_larger("qwen2.5-coder-0.5b", server::qwen_model("0.5b"));
}

#[test]
fn qwen_1_5b() {
    check_larger("qwen2.5-coder-1.5b", server::qwen_model("1.5b"));
}

fn check_larger(name: &str, model: Option<String>) {
    if let Some(model) = model {
        check_file(
            name,
            server::recorded_here(name),
            &TestServer::start(&model),
        );
    }
}

fn check_file(name: &str, golden: Option<Value>, server: &TestServer) {
    let Some(golden) = golden else {
        let class = server.bits_class();
        println!("skipped: nothing was recorded for {class} (scripts/record-golden.py)");
        return;
    };
    let cases = golden["cases"].as_array().expect("cases");
    let mut largest = 0.0_f64;
    for case in cases {
        let label = format!("{name}/{}", case["name"].as_str().expect("a name"));
        let mut request = case["request"].clone();
        request["cache_prompt"] = json!(false);
        let expected = Expected::new(case);
        let ours = if request["stream"] == json!(true) {
            let chunks = server.stream(request.clone());
            check_stream(
                &label,
                &chunks,
                case["response"].as_array().expect("chunks"),
            );
            joined(&chunks)
        } else {
            request["receipt"] = json!(case["prompt_ids"].is_array());
            let answer = server.complete(request.clone());
            if let Some(receipt) = answer.get("receipt") {
                let ids = &receipt["prompts"][0]["token_ids"];
                assert_eq!(ids, &case["prompt_ids"], "{label}");
            }
            check_usage(&label, &request, &answer, &case["response"]);
            answer["choices"][0].clone()
        };
        largest = largest.max(check_choice(&label, server, &request, &ours, &expected));
    }
    println!(
        "{name}: {} cases, largest difference of a logprob {largest:.2e}",
        cases.len()
    );
}

/// The reference's choice, with the rows that belong to the tokens where it pairs them with others.
struct Expected {
    text: String,
    finish_reason: Value,
    logprobs: Value,
    /// How many tokens were generated; a stream does not say.
    completion_tokens: Option<u64>,
}

impl Expected {
    fn new(case: &Value) -> Self {
        let choice = match case["response"].as_array() {
            Some(chunks) => joined(chunks),
            None => case["response"]["choices"][0].clone(),
        };
        let mut logprobs = choice["logprobs"].clone();
        if let Some(aligned) = case.get("aligned") {
            for (key, value) in aligned.as_object().expect("arrays") {
                logprobs[key] = value.clone();
            }
        }
        Self {
            text: choice["text"].as_str().expect("text").to_owned(),
            finish_reason: choice["finish_reason"].clone(),
            logprobs,
            completion_tokens: case["response"]["usage"]["completion_tokens"].as_u64(),
        }
    }
}

/// What a stream's chunks add up to.
pub fn joined(chunks: &[Value]) -> Value {
    let mut text = String::new();
    let mut logprobs = Value::Null;
    let mut finish_reason = Value::Null;
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        text += choice["text"].as_str().expect("text");
        if let Some(arrays) = choice["logprobs"].as_object() {
            if logprobs.is_null() {
                logprobs = json!({"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []});
            }
            for (key, values) in arrays {
                let values = values.as_array().expect("an array").clone();
                logprobs[key]
                    .as_array_mut()
                    .expect("an array")
                    .extend(values);
            }
        }
        if !choice["finish_reason"].is_null() {
            finish_reason = choice["finish_reason"].clone();
        }
    }
    json!({"text": text, "logprobs": logprobs, "finish_reason": finish_reason})
}

/// Chunk by chunk, as far as the reference sends them: it drops the tokens of a stop string, which are in its own
/// answers that are not streamed. We send them, with empty text, so that both add up to the same.
fn check_stream(label: &str, ours: &[Value], reference: &[Value]) {
    let (last, tokens) = reference.split_last().expect("chunks");
    for (ours, theirs) in ours.iter().zip(tokens) {
        assert_eq!(
            ours["choices"][0]["text"], theirs["choices"][0]["text"],
            "{label}"
        );
        assert_eq!(
            ours["choices"][0]["logprobs"]["tokens"]
                .as_array()
                .map(Vec::len),
            Some(1),
            "{label}: a chunk holds one token"
        );
    }
    let (our_last, our_tokens) = ours.split_last().expect("chunks");
    assert_eq!(our_last["choices"][0]["text"], "", "{label}");
    assert_eq!(
        our_last["choices"][0]["finish_reason"], last["choices"][0]["finish_reason"],
        "{label}"
    );
    for held in our_tokens.get(tokens.len()..).unwrap_or_default() {
        assert_eq!(
            held["choices"][0]["text"], "",
            "{label}: only a stop string's tokens come beside the reference's"
        );
        assert_eq!(last["choices"][0]["finish_reason"], "stop", "{label}");
    }
}

fn max_tokens(request: &Value) -> usize {
    request["max_tokens"]
        .as_u64()
        .expect("the golden requests say it") as usize
}

fn check_usage(label: &str, request: &Value, ours: &Value, reference: &Value) {
    let (ours, theirs) = (&ours["usage"], &reference["usage"]);
    assert_eq!(ours["prompt_tokens"], theirs["prompt_tokens"], "{label}");
    // The reference makes more tokens than it was asked for when the last is a piece of a character.
    let completion = theirs["completion_tokens"]
        .as_u64()
        .expect("a number")
        .min(max_tokens(request) as u64);
    assert_eq!(ours["completion_tokens"], json!(completion), "{label}");
    assert_eq!(
        ours["total_tokens"].as_u64(),
        Some(completion + theirs["prompt_tokens"].as_u64().expect("a number")),
        "{label}"
    );
    assert_eq!(ours["prompt_tokens_details"]["cached_tokens"], 0, "{label}");
}

/// The largest difference of a logprob.
fn check_choice(
    label: &str,
    server: &TestServer,
    request: &Value,
    ours: &Value,
    expected: &Expected,
) -> f64 {
    assert_eq!(ours["finish_reason"], expected.finish_reason, "{label}");
    let text = ours["text"].as_str().expect("text");
    let logprobs = &ours["logprobs"];
    if logprobs.is_null() {
        assert!(expected.logprobs.is_null(), "{label}");
        assert_eq!(text, expected.text, "{label}");
        return 0.0;
    }
    let array = |arrays: &Value, key: &str| arrays[key].as_array().expect("an array").clone();
    let tokens = array(logprobs, "tokens");
    let echo = request["echo"] == json!(true);
    let mut reference_tokens = array(&expected.logprobs, "tokens");

    // Overshoot: the reference has more tokens than were asked for. Ours are the first of them.
    let prompt_entries = if echo {
        tokens.len() - max_tokens(request).min(tokens.len())
    } else {
        0
    };
    let most = prompt_entries + max_tokens(request);
    let overshoots = expected.completion_tokens > Some(max_tokens(request) as u64);
    if overshoots || reference_tokens.len() > most {
        assert_eq!(tokens.len(), most, "{label}: max_tokens is never exceeded");
        reference_tokens.truncate(most);
        assert!(expected.text.starts_with(text), "{label}");
    } else if request["stream"] == json!(true) && reference_tokens.len() < tokens.len() {
        // The stop string's tokens, which `check_stream` looked at.
        assert_eq!(text, expected.text, "{label}");
    } else if echo && reference_tokens.len() < tokens.len() {
        // Without BOS the reference lacks the last entry.
        assert_eq!(reference_tokens.len() + 1, tokens.len(), "{label}");
        assert_eq!(text, expected.text, "{label}");
    } else {
        assert_eq!(text, expected.text, "{label}");
        assert_eq!(tokens.len(), reference_tokens.len(), "{label}");
    }
    assert_eq!(
        tokens[..reference_tokens.len()],
        reference_tokens,
        "{label}"
    );

    let offsets = array(logprobs, "text_offset");
    let mut reference_offsets = array(&expected.logprobs, "text_offset");
    reference_offsets.truncate(tokens.len());
    if let Some(ids) = request["prompt"].as_array() {
        // The reference counts ids where it should count their characters.
        let echoed = server.complete(json!({"prompt": ids, "max_tokens": 0, "echo": true}));
        let characters = echoed["choices"][0]["text"]
            .as_str()
            .expect("text")
            .chars()
            .count();
        for offset in &mut reference_offsets {
            let number = offset.as_u64().expect("a number") as usize;
            *offset = json!(number - ids.len() + characters);
        }
    }
    if echo && server.get("/tokenizer_info").json()["bos_token"] == "<s>" {
        // The reference counts the space that SentencePiece puts before a text, which is not in it.
        for offset in reference_offsets.iter_mut().skip(1) {
            *offset = json!(offset.as_u64().expect("a number") - 1);
        }
    }
    assert_eq!(
        offsets[..reference_offsets.len()],
        reference_offsets,
        "{label}"
    );

    let mut largest = 0.0_f64;
    let scores = array(logprobs, "token_logprobs");
    for (place, theirs) in array(&expected.logprobs, "token_logprobs")
        .iter()
        .take(scores.len())
        .enumerate()
    {
        largest = largest.max(difference(label, &scores[place], theirs));
    }
    let tops = array(logprobs, "top_logprobs");
    for (place, theirs) in array(&expected.logprobs, "top_logprobs")
        .iter()
        .take(tops.len())
        .enumerate()
    {
        let chosen = tokens[place].as_str().expect("text");
        largest = largest.max(check_top(
            &format!("{label} at {place}"),
            chosen,
            &tops[place],
            theirs,
        ));
    }
    largest
}

fn difference(label: &str, ours: &Value, theirs: &Value) -> f64 {
    match (ours.as_f64(), theirs.as_f64()) {
        (None, None) => 0.0,
        (Some(ours), Some(theirs)) => {
            let difference = (ours - theirs).abs();
            assert!(difference <= TOLERANCE, "{label}: {ours} against {theirs}");
            difference
        }
        _ => panic!("{label}: {ours} against {theirs}"),
    }
}

fn check_top(label: &str, chosen: &str, ours: &Value, theirs: &Value) -> f64 {
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        assert_eq!(ours, theirs, "{label}");
        return 0.0;
    };
    let mut largest = 0.0_f64;
    for (text, value) in theirs {
        let our_value = ours
            .get(text)
            .unwrap_or_else(|| panic!("{label}: {text:?} is missing in {ours:?}"));
        let (our_number, their_number) = (
            our_value.as_f64().expect("a number"),
            value.as_f64().expect("a number"),
        );
        // Of two tokens with one text the reference has the less likely one's value; ours is the likelier one's.
        if our_number > their_number + TOLERANCE && text != chosen && text.is_empty() {
            continue;
        }
        largest = largest.max(difference(label, our_value, value));
    }
    assert_eq!(ours.len(), theirs.len(), "{label}");
    // The same order, up to values that are as good as equal.
    for (our_text, their_text) in ours.keys().zip(theirs.keys()) {
        if our_text != their_text {
            let gap = (ours[our_text].as_f64().expect("a number")
                - ours[their_text].as_f64().expect("a number"))
            .abs();
            assert!(gap < TOLERANCE, "{label}: {ours:?} against {theirs:?}");
        }
    }
    largest
}
