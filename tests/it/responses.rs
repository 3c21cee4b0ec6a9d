//! `POST /v1/responses`: the conversation and the bits of a chat, in OpenAI's form; whole and streamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use candor::model::DecodeError;
use serde_json::{Value, json};

use crate::chat::chat;
use crate::faulty::{Fault, Trouble, faulty};
use crate::server::{TestServer, default_model, tiny_model};

const PATH: &str = "/v1/responses";

/// Reasons if the text does.
const THINKS: &str = "{{ messages[0].content }}{# <think></think> #}";

fn respond(server: &TestServer, body: &Value) -> Value {
    let answer = server.post(PATH, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    let response = answer.json();
    check_response(&response);
    response
}

/// What OpenAI's types say of a response.
fn check_response(response: &Value) {
    let has = |name: &str, holds: fn(&Value) -> bool| {
        let value = response.get(name);
        assert!(value.is_some_and(holds), "{name}: {response}");
    };
    let text_or_null: fn(&Value) -> bool = |it| it.is_string() || it.is_null();
    let count_or_null: fn(&Value) -> bool = |it| it.is_u64() || it.is_null();
    has("id", |it| is_id(it, "resp_"));
    has("object", |it| it == "response");
    has("created_at", Value::is_u64);
    has("model", Value::is_string);
    has("system_fingerprint", Value::is_string);
    has("output", Value::is_array);
    has("instructions", text_or_null);
    has("max_output_tokens", count_or_null);
    has("max_tool_calls", count_or_null);
    has("metadata", Value::is_object);
    has("parallel_tool_calls", Value::is_boolean);
    has("previous_response_id", Value::is_null);
    has("background", |it| it == false);
    has("store", |it| it == false);
    has("truncation", |it| it == "disabled");
    has("temperature", Value::is_f64);
    has("top_p", Value::is_f64);
    has("top_logprobs", Value::is_u64);
    has("tools", Value::is_array);
    has("tool_choice", |it| it.is_string() || it.is_object());
    has("text", |it| it["format"]["type"].is_string());
    has("user", text_or_null);
    let reasoning = &response["reasoning"];
    assert!(reasoning.get("effort").is_some_and(text_or_null));
    assert!(reasoning.get("summary").is_some_and(text_or_null));
    let status = response["status"].as_str().expect("a status");
    let statuses = ["in_progress", "completed", "incomplete", "failed"];
    assert!(statuses.contains(&status), "{response}");
    assert_eq!(response["completed_at"].is_u64(), status == "completed");
    assert_eq!(response["error"].is_null(), status != "failed");
    let why = &response["incomplete_details"];
    match status {
        "incomplete" => assert_eq!(*why, json!({"reason": "max_output_tokens"})),
        _ => assert!(why.is_null(), "{response}"),
    }
    let usage = &response["usage"];
    if ["in_progress", "failed"].contains(&status) {
        assert!(usage.is_null(), "{response}");
    } else {
        let count = |value: &Value| value.as_u64().expect("a count");
        let [input, output, total] =
            ["input_tokens", "output_tokens", "total_tokens"].map(|name| count(&usage[name]));
        assert_eq!(input + output, total, "{usage}");
        assert!(count(&usage["input_tokens_details"]["cached_tokens"]) <= input);
        assert_eq!(usage["input_tokens_details"]["cache_write_tokens"], 0);
        assert!(count(&usage["output_tokens_details"]["reasoning_tokens"]) <= output);
    }
    let items = response["output"].as_array().expect("items");
    items.iter().for_each(check_item);
    let ends = |item: &Value| item["status"] == "completed";
    assert!(items.iter().rev().skip(1).all(ends), "{response}");
    if let Some(last) = items.last().filter(|_| status != "failed") {
        assert_eq!(last["status"], status, "{response}");
    }
}

fn is_id(value: &Value, kind: &str) -> bool {
    let digits = value.as_str().and_then(|id| id.strip_prefix(kind));
    digits.is_some_and(|digits| digits.len() == 32)
}

fn check_item(item: &Value) {
    let names = |names: &[&str]| {
        let found = item.as_object().expect("an object").keys();
        assert!(found.eq(names), "{item}");
    };
    match item["type"].as_str() {
        Some("message") => {
            names(&["type", "id", "status", "role", "content"]);
            assert!(is_id(&item["id"], "msg_"), "{item}");
            assert_eq!(item["role"], "assistant");
            for part in item["content"].as_array().expect("parts") {
                check_part(part, "output_text");
            }
        }
        Some("reasoning") => {
            match item.get("encrypted_content") {
                None => names(&["type", "id", "status", "summary", "content"]),
                Some(_) => names(&[
                    "type",
                    "id",
                    "status",
                    "summary",
                    "content",
                    "encrypted_content",
                ]),
            }
            assert!(is_id(&item["id"], "rs_"), "{item}");
            assert_eq!(item["summary"], json!([]));
            for part in item["content"].as_array().expect("parts") {
                check_part(part, "reasoning_text");
            }
        }
        Some("function_call") => {
            names(&["type", "id", "status", "call_id", "name", "arguments"]);
            assert!(is_id(&item["id"], "fc_"), "{item}");
            assert!(is_id(&item["call_id"], "call_"), "{item}");
            assert!(item["name"].is_string() && item["arguments"].is_string());
        }
        _ => panic!("{item}"),
    }
}

fn check_part(part: &Value, kind: &str) {
    assert_eq!(part["type"], kind, "{part}");
    assert!(part["text"].is_string(), "{part}");
    if kind == "output_text" {
        assert_eq!(part["annotations"], json!([]), "{part}");
        let entries = part["logprobs"].as_array().expect("an array");
        for entry in entries {
            assert!(entry["token"].is_string() && entry["logprob"].is_f64());
            assert!(entry["bytes"].is_array() && entry["top_logprobs"].is_array());
        }
    }
}

/// The events of a streamed response.
fn events(server: &TestServer, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let answer = server.post(PATH, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.content_type.starts_with("text/event-stream"));
    let blocks = answer.body.split("\n\n");
    let blocks = blocks.filter(|it| !it.is_empty() && !it.starts_with(':'));
    let events: Vec<Value> = blocks
        .map(|block| {
            let (name, data) = block.split_once('\n').expect("two lines");
            let data = data.strip_prefix("data: ").expect("data");
            let event: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(
                name,
                format!("event: {}", event["type"].as_str().expect("text"))
            );
            event
        })
        .collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    events
}

/// Follows the events of a stream: they come in OpenAI's order, and their pieces add up to the response of the last.
fn follow(events: &[Value]) -> Value {
    let kind = |event: &Value| event["type"].as_str().expect("a type").to_owned();
    assert_eq!(kind(&events[0]), "response.created");
    assert_eq!(kind(&events[1]), "response.in_progress");
    assert_eq!(events[0]["response"], events[1]["response"]);
    let begun = &events[0]["response"];
    check_response(begun);
    assert_eq!(begun["status"], "in_progress");
    assert_eq!(begun["output"], json!([]));
    let last = events.last().expect("events");
    let response = &last["response"];
    check_response(response);
    assert_eq!(response["id"], begun["id"]);
    let status = response["status"].as_str().expect("a status");
    assert_eq!(kind(last), format!("response.{status}"));
    let mut items: Vec<Value> = Vec::new();
    // What may come next about the last item.
    let mut next: &[&str] = &[];
    const ADDED: &str = "response.output_item.added";
    const PART: &str = "response.content_part.added";
    const PART_DONE: &str = "response.content_part.done";
    const DONE: &str = "response.output_item.done";
    const TEXT: [&str; 2] = ["response.output_text.delta", "response.output_text.done"];
    const THOUGHT: [&str; 2] = [
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
    ];
    const CALL: [&str; 2] = [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    ];
    for event in &events[2..events.len() - 1] {
        let kind = kind(event);
        if next.is_empty() {
            assert_eq!(kind, ADDED, "{event}");
            assert_eq!(event["output_index"], items.len());
            let item = &event["item"];
            check_item(item);
            assert_eq!(item["status"], "in_progress");
            next = match item["type"].as_str() {
                Some("function_call") => &CALL,
                _ => &[PART],
            };
            items.push(item.clone());
            continue;
        }
        assert!(next.contains(&kind.as_str()), "{event} instead of {next:?}");
        assert_eq!(event["output_index"], items.len() - 1);
        let item = items.last_mut().expect("an item");
        if kind != DONE {
            assert_eq!(event["item_id"], item["id"]);
        }
        let append = |value: &mut Value, delta: &Value| {
            let (before, delta) = (value.as_str().expect("text"), delta.as_str().expect("text"));
            *value = format!("{before}{delta}").into();
        };
        match kind.as_str() {
            PART => {
                item["content"] = json!([event["part"]]);
                next = match item["type"].as_str() {
                    Some("message") => &TEXT,
                    _ => &THOUGHT,
                };
            }
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                assert_eq!(event["content_index"], 0);
                let part = &mut item["content"][0];
                append(&mut part["text"], &event["delta"]);
                if kind == TEXT[0] {
                    let new = event["logprobs"].as_array().expect("entries").clone();
                    part["logprobs"]
                        .as_array_mut()
                        .expect("entries")
                        .extend(new);
                }
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], item["content"][0]["text"]);
                if kind == TEXT[1] {
                    assert_eq!(event["logprobs"], item["content"][0]["logprobs"]);
                }
                next = &[PART_DONE];
            }
            PART_DONE => {
                assert_eq!(event["part"], item["content"][0]);
                next = &[DONE];
            }
            "response.function_call_arguments.delta" => {
                append(&mut item["arguments"], &event["delta"]);
            }
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], item["arguments"]);
                assert_eq!(event["name"], item["name"]);
                next = &[DONE];
            }
            DONE => {
                let done = &event["item"];
                check_item(done);
                item["status"] = done["status"].clone();
                if let Some(encoded) = done.get("encrypted_content") {
                    item["encrypted_content"] = encoded.clone();
                }
                assert_eq!(done, item);
                next = &[];
            }
            _ => panic!("{event}"),
        }
    }
    assert!(next.is_empty(), "the last item has not ended");
    assert_eq!(response["output"], Value::from(items));
    response.clone()
}

/// As it is but for what is new each time.
fn without_ids(response: &Value) -> Value {
    let mut response = response.clone();
    for name in ["id", "created_at", "completed_at"] {
        response[name] = Value::Null;
    }
    response["usage"]["input_tokens_details"]["cached_tokens"] = Value::Null;
    for item in response["output"].as_array_mut().expect("items") {
        item["id"] = Value::Null;
        if item.get("call_id").is_some() {
            item["call_id"] = Value::Null;
        }
    }
    response
}

/// A streamed response adds up to the whole one.
fn check_stream(server: &TestServer, body: &Value) -> Value {
    let whole = respond(server, body);
    let added = follow(&events(server, body));
    assert_eq!(without_ids(&added), without_ids(&whole), "{body}");
    whole
}

/// The text of an item.
fn text(item: &Value) -> &str {
    item["content"][0]["text"].as_str().expect("a text")
}

#[test]
fn a_response_has_the_bits_of_a_chat() {
    let server = TestServer::start(&default_model());
    let answer = chat(
        &server,
        &json!({"messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Name a colour."}],
            "max_tokens": 12, "seed": 7, "logprobs": true, "top_logprobs": 3}),
    );
    let choice = &answer["choices"][0];
    let mut body = json!({"instructions": "You are brief.", "input": "Name a colour.", "max_output_tokens": 12, "seed": 7,
        "include": ["message.output_text.logprobs"], "top_logprobs": 3});
    let response = check_stream(&server, &body);
    let [item] = &response["output"].as_array().expect("items")[..] else {
        panic!("{response}");
    };
    let part = &item["content"][0];
    assert_eq!(part["text"], choice["message"]["content"]);
    assert_eq!(part["logprobs"], choice["logprobs"]["content"]);
    assert_eq!(
        part["logprobs"][0]["top_logprobs"].as_array().map(Vec::len),
        Some(3)
    );
    let (usage, chats) = (&response["usage"], &answer["usage"]);
    assert_eq!(usage["input_tokens"], chats["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], chats["completion_tokens"]);
    let status = match choice["finish_reason"].as_str() {
        Some("length") => "incomplete",
        _ => "completed",
    };
    assert_eq!(response["status"], status);
    // Alternatives are asked for by their number alone; without either there are no log-probabilities.
    body["include"] = Value::Null;
    let counted = respond(&server, &body);
    assert_eq!(counted["output"][0]["content"], item["content"]);
    body["top_logprobs"] = Value::Null;
    let plain = check_stream(&server, &body);
    assert_eq!(text(&plain["output"][0]), text(item));
    assert_eq!(plain["output"][0]["content"][0]["logprobs"], json!([]));
}

#[test]
fn a_response_repeats_its_request() {
    let server = TestServer::start(&tiny_model());
    let plain = respond(
        &server,
        &json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 0}),
    );
    assert_eq!(plain["temperature"], 0.8);
    assert_eq!(plain["top_p"], 0.95);
    assert_eq!(plain["tool_choice"], "auto");
    assert_eq!(plain["text"], json!({"format": {"type": "text"}}));
    assert_eq!(plain["metadata"], json!({}));
    // An answer has something in it.
    assert_eq!(plain["status"], "incomplete");
    assert_eq!(text(&plain["output"][0]), "");
    let tools = json!([{"type": "function", "name": "f", "parameters": null, "strict": true}]);
    let body = json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 1,
        "instructions": "Be brief.", "temperature": 0.5, "top_p": 0.25, "tools": tools, "tool_choice": "none",
        "text": {"verbosity": "medium"}, "reasoning": {"effort": "medium", "summary": "auto"}, "metadata": {"a": "b"},
        "user": "me", "store": true, "parallel_tool_calls": false, "max_tool_calls": 3, "truncation": "disabled"});
    let response = respond(&server, &body);
    for name in [
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "reasoning",
        "metadata",
        "user",
        "parallel_tool_calls",
    ] {
        assert_eq!(response[name], body[name], "{name}");
    }
    assert_eq!(
        response["text"],
        json!({"format": {"type": "text"}, "verbosity": "medium"})
    );
}

/// A template that shows everything it is given.
const SHOWS: &str =
    "{{ messages | tojson }}{{ tools | tojson }}{{ reasoning_effort }}{{ enable_thinking }}";

#[test]
fn items_become_the_messages_of_a_chat() {
    let server = TestServer::start(&tiny_model());
    let prompt = |path: &str, mut body: Value| {
        body["chat_template"] = SHOWS.into();
        body["receipt"] = true.into();
        body["temperature"] = 0.into();
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["receipt"]["prompts"][0]["token_ids"].clone()
    };
    let check = |body: Value, chat: Value| {
        let (mut one, mut other) = (body.clone(), chat);
        one["max_output_tokens"] = 0.into();
        other["max_tokens"] = 0.into();
        assert_eq!(
            prompt(PATH, one),
            prompt("/v1/chat/completions", other),
            "{body}"
        );
    };
    let user = json!({"role": "user", "content": "Hi"});
    check(json!({"input": "Hi"}), json!({"messages": [user]}));
    check(
        json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "instructions": "Be"}),
        json!({"messages": [{"role": "system", "content": "Be"}, user]}),
    );
    // What an answer has, sent back.
    let encoded = BASE64_STANDARD.encode("Hm.");
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let messages = json!([
        {"role": "developer", "content": "Be"}, user,
        {"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
        {"role": "assistant", "content": "Then."},
    ]);
    let message = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "So.", "annotations": [], "logprobs": []}]});
    for reasoning in [
        json!({"summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}], "status": "completed"}),
        json!({"summary": [], "encrypted_content": encoded}),
        json!({"summary": [{"type": "summary_text", "text": "Hm."}]}),
        json!({"summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": ""}),
    ] {
        let mut reasoning = reasoning;
        reasoning["type"] = "reasoning".into();
        reasoning["id"] = "rs_1".into();
        check(
            json!({"input": [
                {"role": "developer", "content": "Be"}, user, reasoning, message,
                {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{\"a\": 1}",
                 "status": "completed"},
                {"type": "function_call_output", "call_id": "c1", "output": [
                    {"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]},
                {"role": "assistant", "content": "Then."},
            ]}),
            json!({"messages": messages}),
        );
    }
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    check(
        json!({"input": "Hi", "reasoning": {"effort": "low"},
            "tools": [{"type": "function", "parameters": parameters, "strict": true, "description": "F", "name": "f"}]}),
        json!({"messages": [user], "reasoning_effort": "low",
            "tools": [{"type": "function", "function":
                {"name": "f", "description": "F", "parameters": parameters, "strict": true}}]}),
    );
    check(
        json!({"input": "Hi", "reasoning": {"effort": "none"}}),
        json!({"messages": [user], "reasoning_effort": "none"}),
    );
    check(
        json!({"input": "Hi", "reasoning": {"effort": "low"}, "chat_template_kwargs": {"reasoning_effort": "mine"}}),
        json!({"messages": [user], "reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "mine"}}),
    );
}

fn weather() -> Value {
    json!([{"type": "function", "name": "weather", "description": "Tells the weather", "strict": true, "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false}}])
}

#[test]
fn calls_are_items_and_their_results_go_back() {
    let server = TestServer::start(&default_model());
    let question = json!({"role": "user", "content": "What is the weather in Oslo?"});
    let mut body = json!({"input": [question], "tools": weather(), "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 60, "temperature": 0, "include": ["message.output_text.logprobs"]});
    let response = check_stream(&server, &body);
    let [call] = &response["output"].as_array().expect("items")[..] else {
        panic!("{response}");
    };
    assert_eq!(call["type"], "function_call", "{response}");
    assert_eq!(call["name"], "weather");
    let arguments: Value =
        serde_json::from_str(call["arguments"].as_str().expect("text")).expect("JSON");
    assert_eq!(arguments["city"], "Oslo", "{response}");
    assert_eq!(response["status"], "completed");
    assert_eq!(response["tool_choice"], body["tool_choice"]);
    // As in a chat.
    let function = weather()[0].clone();
    let tools = json!([{"type": "function", "function": {"name": "weather", "description": function["description"],
        "parameters": function["parameters"], "strict": true}}]);
    let answer = chat(
        &server,
        &json!({"messages": [question], "tools": tools, "max_tokens": 60, "temperature": 0,
            "tool_choice": {"type": "function", "function": {"name": "weather"}}}),
    );
    let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(function["arguments"], call["arguments"]);
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        response["usage"]["input_tokens"]
    );
    // Cut short: the call is incomplete.
    body["max_output_tokens"] = 14.into();
    let cut = check_stream(&server, &body);
    assert_eq!(cut["status"], "incomplete", "{cut}");
    // The result.
    let result =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "Snow"});
    let body = json!({"input": [question, call, result], "tools": weather(), "tool_choice": "none",
        "max_output_tokens": 12, "temperature": 0});
    let response = check_stream(&server, &body);
    assert_eq!(response["output"][0]["type"], "message", "{response}");
}

#[test]
fn a_text_before_a_call_is_an_item_of_its_own() {
    let server = TestServer::start(&default_model());
    let said = "I look. <tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 1}}\n</tool_call>";
    let body = json!({"input": "Weather?", "tools": weather(), "choice": [said], "max_output_tokens": 90,
        "temperature": 0, "include": ["message.output_text.logprobs"]});
    let response = check_stream(&server, &body);
    let [message, call] = &response["output"].as_array().expect("items")[..] else {
        panic!("{response}");
    };
    assert_eq!(text(message).trim_end(), "I look.");
    assert_eq!(call["name"], "weather");
    // Its tokens, and none of the call's.
    let entries = message["content"][0]["logprobs"]
        .as_array()
        .expect("entries");
    let tokens: String = entries
        .iter()
        .filter_map(|it| it["token"].as_str())
        .collect();
    assert!(
        tokens.starts_with("I look.") && !tokens.contains("weather"),
        "{tokens}"
    );
}

#[test]
fn a_format_is_followed() {
    let server = TestServer::start(&default_model());
    let schema = json!({"type": "object", "required": ["big"], "additionalProperties": false,
        "properties": {"big": {"type": "boolean"}}});
    let body = json!({"input": "Is Paris big?", "max_output_tokens": 40, "temperature": 0,
        "text": {"format": {"type": "json_schema", "name": "answer", "strict": true, "schema": schema}}});
    let response = check_stream(&server, &body);
    let answer: Value = serde_json::from_str(text(&response["output"][0])).expect("JSON");
    assert!(answer["big"].is_boolean(), "{response}");
    assert_eq!(response["text"], body["text"]);
    let body = json!({"input": "Is Paris big?", "max_output_tokens": 20, "temperature": 0,
        "text": {"format": {"type": "json_object"}}});
    let response = check_stream(&server, &body);
    assert!(text(&response["output"][0]).starts_with('{'), "{response}");
}

#[test]
fn reasoning_is_an_item_of_its_own() {
    let server = TestServer::start(&default_model());
    let said = "<think>\nHm, well.\n</think>\n\nHello.";
    let mut body = json!({"input": "Hi", "chat_template": THINKS, "choice": [said], "max_output_tokens": 60,
        "temperature": 0, "include": ["message.output_text.logprobs", "reasoning.encrypted_content"]});
    let response = check_stream(&server, &body);
    let [reasoning, message] = &response["output"].as_array().expect("items")[..] else {
        panic!("{response}");
    };
    assert_eq!(text(reasoning), "Hm, well.");
    assert_eq!(text(message), "Hello.");
    let encoded = reasoning["encrypted_content"].as_str().expect("text");
    assert_eq!(
        BASE64_STANDARD.decode(encoded).expect("base64"),
        b"Hm, well."
    );
    // Its tokens are counted, and are not among those of the message.
    let reasoned = &response["usage"]["output_tokens_details"]["reasoning_tokens"];
    assert!(
        reasoned.as_u64().is_some_and(|count| count > 5),
        "{reasoned}"
    );
    let entries = message["content"][0]["logprobs"]
        .as_array()
        .expect("entries");
    let tokens: String = entries
        .iter()
        .filter_map(|it| it["token"].as_str())
        .collect();
    assert_eq!(tokens.trim_start(), "Hello.");
    // Cut short within it.
    body["max_output_tokens"] = 9.into();
    let cut = check_stream(&server, &body);
    assert_eq!(cut["output"].as_array().map(Vec::len), Some(1), "{cut}");
    assert_eq!(cut["output"][0]["type"], "reasoning");
    assert_eq!(cut["status"], "incomplete");
    // Clients look for an answer, even if the model gives none.
    let body = json!({"input": "Hi", "chat_template": THINKS, "choice": ["<think>Hm.</think>"], "temperature": 0});
    let silent = check_stream(&server, &body);
    assert_eq!(text(&silent["output"][0]), "Hm.");
    assert_eq!(text(&silent["output"][1]), "");
    assert!(silent["output"][0].get("encrypted_content").is_none());
    // By the request.
    let mut body = json!({"input": "Hi", "chat_template": THINKS, "choice": [said], "max_output_tokens": 60,
        "temperature": 0, "reasoning_format": "none"});
    assert_eq!(text(&check_stream(&server, &body)["output"][0]), said);
    body["reasoning_format"] = "auto".into();
    assert_eq!(
        check_stream(&server, &body)["output"][0]["type"],
        "reasoning"
    );
    // By the settings.
    let server = TestServer::start_with(&default_model(), |config| {
        config.model.reasoning_format = candor::config::ReasoningFormat::None;
    });
    let body = json!({"input": "Hi", "chat_template": THINKS, "choice": [said], "max_output_tokens": 60, "temperature": 0});
    assert_eq!(text(&check_stream(&server, &body)["output"][0]), said);
}

#[test]
fn a_stream_has_each_token_five_times() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.answer_entries = 1000;
    });
    let mut body = json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 21,
        "top_logprobs": 9});
    respond(&server, &body);
    body["stream"] = true.into();
    let answer = server.post(PATH, &body);
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "answer_too_large");
    body["max_output_tokens"] = 20.into();
    body["min_tokens"] = 20.into();
    let events = events(&server, &body);
    follow(&events);
    let sent: usize = events.iter().map(entries).sum();
    assert_eq!(sent, 1000);
}

/// How many entries an event has, and its parts.
fn entries(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(entries).sum(),
        Value::Object(fields) => {
            let own = usize::from(fields.contains_key("logprob"));
            own + fields.values().map(entries).sum::<usize>()
        }
        _ => 0,
    }
}

#[test]
fn a_large_stream_adds_up() {
    let server = TestServer::start(&tiny_model());
    let body = json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 120,
        "min_tokens": 120, "temperature": 0, "top_logprobs": 100});
    check_stream(&server, &body);
}

#[test]
fn a_stream_that_fails_says_so() {
    let decodes = AtomicUsize::new(0);
    let trouble: Trouble = Arc::new(move |_, _| {
        let fails = decodes.fetch_add(1, Ordering::SeqCst) == 4;
        fails.then_some(Fault::Error(DecodeError::Failed(-3)))
    });
    let (runners, _) = faulty(trouble);
    let server = TestServer::start_on(&tiny_model(), |_| {}, runners);
    let body = json!({"input": "Hi", "chat_template": "{{ messages[0].content }}", "max_output_tokens": 50,
        "min_tokens": 50});
    let events = events(&server, &body);
    let response = follow(&events);
    assert_eq!(response["status"], "failed");
    assert_eq!(
        response["error"],
        json!({"code": "server_error", "message": "The model could not be evaluated."})
    );
    assert_eq!(response["output"][0]["status"], "incomplete", "{response}");
    let answer = server.post(PATH, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}
