//! What programs send, recorded from their requests: each body gets the answer of a plain request. And the fields that have
//! no effect, at each value at which they are taken.

use candor::config::UnknownFields;
use serde_json::{Value, json};

use crate::process::Process;
use crate::raw::Request;
use crate::server::{TestServer, tiny, tiny_model};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A server that answers conversations, too.
fn server() -> TestServer {
    TestServer::start_with(&tiny_model(), |config| {
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        config.model.chat_template = Some(template.to_owned());
    })
}

fn with(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    for (name, value) in more.as_object().expect("an object") {
        all[name] = value.clone();
    }
    all
}

fn ask(server: &TestServer, path: &str, body: &Value) -> Value {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    answer.json()
}

/// The events of a stream.
fn events(server: &TestServer, path: &str, body: &Value) -> Vec<Value> {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    let events = answer.body.split("\n\n");
    let events = events.filter_map(|event| event.strip_prefix("data: "));
    let mut events: Vec<&str> = events.collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{}", answer.body);
    let events = events.into_iter().map(serde_json::from_str);
    events.map(|event| event.expect("JSON")).collect()
}

/// The text of an answer, complete or streamed.
fn text(server: &TestServer, path: &str, body: &Value) -> String {
    let of = |choice: &Value| {
        let places = ["/text", "/message/content", "/delta/content"];
        let found = places.iter().find_map(|place| choice.pointer(place));
        found.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let answers = match body["stream"] == true {
        true => events(server, path, body),
        false => vec![ask(server, path, body)],
    };
    answers
        .iter()
        .map(|answer| of(&answer["choices"][0]))
        .collect()
}

/// With a seed, without which no two answers of these bodies are equal.
fn check(server: &TestServer, path: &str, recorded: &Value, plain: &Value) {
    let seeded = |body: &Value| with(body, &json!({"seed": 7}));
    let expect = text(server, path, &seeded(plain));
    assert!(!expect.is_empty(), "{plain}");
    assert_eq!(text(server, path, &seeded(recorded)), expect, "{recorded}");
}

#[test]
fn completions_of_real_programs() {
    let server = server();
    let model = "llama2-vocab-tiny";
    let check = |recorded: Value, plain: Value| check(&server, COMPLETIONS, &recorded, &plain);
    // guidellm 0.8.1
    check(
        json!({"model": model, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            "max_tokens": 6, "stop": null, "ignore_eos": true, "prompt": "Once upon"}),
        json!({"prompt": "Once upon", "max_tokens": 6, "ignore_eos": true}),
    );
    // vllm bench serve --backend openai, vLLM 0.33.0
    check(
        json!({"model": model, "prompt": "Once upon", "repetition_penalty": 1.0, "max_tokens": 6, "logprobs": null,
            "stream": true, "stream_options": {"include_usage": true}}),
        json!({"prompt": "Once upon", "max_tokens": 6}),
    );
    // vllm-router 0.1.17 and sglang-router 0.3.2
    check(
        json!({"model": model, "prompt": "Once upon", "max_tokens": 6, "temperature": 0.0, "stream": false, "logprobs": 1,
            "echo": false, "no_stop_trim": false, "ignore_eos": false, "skip_special_tokens": true,
            "return_hidden_states": false}),
        json!({"prompt": "Once upon", "max_tokens": 6, "temperature": 0}),
    );
    // SillyTavern 1.19.0, vLLM
    check(
        json!({"prompt": "Once upon", "model": model, "max_tokens": 6, "logprobs": 5, "temperature": 0.7, "top_p": 0.5,
            "min_p": 0, "repetition_penalty": 1.2, "frequency_penalty": 0, "presence_penalty": 0, "top_k": -1,
            "min_tokens": 0, "stop": ["\nUser:"], "skip_special_tokens": true, "stream": true, "n": 1, "ignore_eos": false,
            "spaces_between_special_tokens": true}),
        json!({"prompt": "Once upon", "max_tokens": 6, "temperature": 0.7, "top_p": 0.5, "min_p": 0, "top_k": -1,
            "repetition_penalty": 1.2}),
    );
    // Inspect's vllm-completions
    check(
        json!({"model": model, "prompt": "Once upon", "max_tokens": 1, "temperature": 0.0, "logprobs": 1,
            "prompt_logprobs": 1}),
        json!({"prompt": "Once upon", "max_tokens": 1, "temperature": 0}),
    );
    // Editors that know one model only, and those that have no suffix.
    check(
        json!({"model": "", "prompt": "Once upon", "suffix": "", "max_tokens": 6}),
        json!({"prompt": "Once upon", "max_tokens": 6}),
    );
}

#[test]
fn conversations_of_real_programs() {
    let server = server();
    let model = "llama2-vocab-tiny";
    let check = |recorded: Value, plain: Value| check(&server, CHAT, &recorded, &plain);
    let messages = json!([{"role": "user", "content": "Once upon"}]);
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "Once upon"}]}]);
    let plain = json!({"messages": messages, "max_tokens": 6});
    // guidellm 0.8.1
    check(
        json!({"model": model, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            "max_completion_tokens": 6, "stop": null, "ignore_eos": true, "messages": parts}),
        with(&plain, &json!({"ignore_eos": true})),
    );
    // vllm bench serve --backend openai-chat, vLLM 0.33.0
    check(
        json!({"model": model, "messages": parts, "max_completion_tokens": 6, "stream": true,
            "stream_options": {"include_usage": true}}),
        plain.clone(),
    );
    // vllm-router 0.1.17; sglang-router 0.3.2 leaves out the last field and renames max_tokens
    check(
        json!({"model": model, "messages": messages, "temperature": 0.0, "stream": false, "max_tokens": 6, "logprobs": true,
            "top_logprobs": 2, "no_stop_trim": false, "ignore_eos": false, "continue_final_message": false,
            "skip_special_tokens": true, "separate_reasoning": true, "stream_reasoning": true,
            "return_hidden_states": false, "include_reasoning": true}),
        with(&plain, &json!({"temperature": 0})),
    );
    // OpenAI's own fields, and what its clients leave null
    check(
        with(
            &plain,
            &json!({"model": model, "modalities": ["text"], "prompt_cache_retention": "24h",
                "prompt_cache_options": {"mode": "implicit"}, "verbosity": "medium", "reasoning_effort": "medium",
                "audio": null, "web_search_options": null, "function_call": null, "functions": [], "prediction":
                {"type": "content", "content": "Once"}, "service_tier": "auto", "store": false, "a_field_to_come": null,
                "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false, "more": null}}),
        ),
        plain.clone(),
    );
    check(with(&plain, &json!({"reasoning_effort": "none"})), plain);
}

#[test]
fn neutral_fields_change_nothing_and_other_values_are_refused() {
    let server = server();
    let document = server.get("/openapi.json").json();
    let rows = document["x-candor-neutral"]
        .as_array()
        .expect("rows")
        .clone();
    let (mut taken, mut refused) = (0, 0);
    for (path, plain) in [
        (
            COMPLETIONS,
            json!({"prompt": "Once", "max_tokens": 2, "temperature": 0}),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 2, "temperature": 0}),
        ),
        ("/v1/perplexity", json!({"text": "Once upon a time"})),
        ("/tokenize", json!({"prompt": "Once"})),
    ] {
        let fields = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            ["schema"]["properties"];
        let own = |name: &str| {
            fields
                .get(name)
                .is_some_and(|it| it["description"] != "No effect.")
        };
        // The schema of the body takes what the server takes.
        let allows = |name: &str, value: &Value| {
            let listed = &fields[name]["enum"];
            listed
                .as_array()
                .is_none_or(|listed| listed.contains(value) && listed.contains(&Value::Null))
        };
        let shown = |body: &Value| {
            let mut answer = ask(&server, path, body);
            for name in ["id", "created", "usage"] {
                answer[name] = Value::Null;
            }
            answer
        };
        let expect = shown(&plain);
        let mut all = plain.clone();
        for row in &rows {
            let name = row["name"].as_str().expect("a name");
            if own(name) {
                continue;
            }
            let any = vec![json!({"whatever": [1]}), json!("it is"), json!(-1)];
            let values = row["values"].as_array().cloned();
            for value in values.clone().unwrap_or(any) {
                assert!(allows(name, &value), "{path} {name}: {value}");
                let answer = shown(&with(&plain, &json!({name: value})));
                assert_eq!(answer, expect, "{path} {name}: {value}");
                all[name] = value;
                taken += 1;
            }
            if values.is_some() {
                assert!(!allows(name, &json!({"other": 1})), "{path} {name}");
                let answer = server.post(path, &with(&plain, &json!({name: {"other": 1}})));
                assert_eq!(answer.status, 400, "{path} {name}: {}", answer.body);
                let error = answer.json()["error"].clone();
                assert_eq!(
                    (&error["code"], &error["param"]),
                    (&json!("unknown_field"), &json!(name))
                );
                refused += 1;
            }
        }
        assert_eq!(shown(&all), expect, "{path} with all");
    }
    assert!(
        taken > 250 && refused > 150,
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn what_another_field_or_the_settings_can_turn_on_is_not_taken_as_neutral() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.chat_template = Some("{{ messages[0].content }}".to_owned());
        config.sampling.values.mirostat_mode = 2;
        config.sampling.values.repetition_penalty = 1.8;
    });
    let prompt = json!({"prompt": "Once", "max_tokens": 1});
    let messages =
        json!({"messages": [{"role": "user", "content": "Once"}], "max_completion_tokens": 1});
    for (path, plain, more, name) in [
        (COMPLETIONS, &prompt, json!({"mirostat": 0}), "mirostat"),
        (COMPLETIONS, &prompt, json!({"rep_pen": 1}), "rep_pen"),
        (CHAT, &messages, json!({"mirostat": 0}), "mirostat"),
        (
            COMPLETIONS,
            &prompt,
            json!({"n_probs": 0, "logprobs": 5}),
            "n_probs",
        ),
        (
            CHAT,
            &messages,
            json!({"n_probs": 0, "logprobs": true}),
            "n_probs",
        ),
        (COMPLETIONS, &prompt, json!({"n_cmpl": 1, "n": 2}), "n_cmpl"),
        (CHAT, &messages, json!({"best_of": 1, "n": 2}), "best_of"),
        (
            COMPLETIONS,
            &prompt,
            json!({"post_sampling_probs": false, "logprobs": 1, "logprobs_mode": "sampled"}),
            "post_sampling_probs",
        ),
        (
            CHAT,
            &messages,
            json!({"separate_reasoning": true, "reasoning_format": "none"}),
            "separate_reasoning",
        ),
        (
            CHAT,
            &messages,
            json!({"separate_reasoning": false, "reasoning_format": "auto"}),
            "separate_reasoning",
        ),
        (
            CHAT,
            &messages,
            json!({"function_call": "none"}),
            "function_call",
        ),
        (
            "/tokenize",
            &json!({"prompt": "a"}),
            json!({"add_special_tokens": false, "add_special": true}),
            "add_special",
        ),
        (
            "/extras/tokenize",
            &json!({"input": "a"}),
            json!({"add_special_tokens": false}),
            "add_special_tokens",
        ),
    ] {
        let body = with(plain, &more);
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert_eq!(answer.json()["error"]["param"], name, "{}", answer.body);
    }
    // Alone they are.
    for (path, plain, more) in [
        (
            COMPLETIONS,
            &prompt,
            json!({"n_probs": 0, "n_cmpl": 1, "post_sampling_probs": false}),
        ),
        (
            CHAT,
            &messages,
            json!({"n_probs": 0, "best_of": 1, "separate_reasoning": true, "reasoning_format": "auto"}),
        ),
    ] {
        ask(&server, path, &with(plain, &more));
    }
}

#[test]
fn a_rendered_conversation_gets_bos_unless_the_request_says_otherwise() {
    const BOS: u64 = 1;
    let server = server();
    let ids = |path: &str, more: Value| {
        let plain = json!({"messages": [{"role": "user", "content": "Once"}]});
        let answer = ask(&server, path, &with(&plain, &more));
        let found = ["tokens", "prompt_token_ids"].map(|name| answer[name].as_array().cloned());
        found.into_iter().flatten().next().expect("ids")
    };
    let chat = |more: &Value| {
        let with_ids = json!({"return_token_ids": true, "max_tokens": 1});
        ids(CHAT, with(&with_ids, more))
    };
    for (template, added) in [
        ("{{ messages[0].content }}", true),
        ("{{ bos_token + messages[0].content }}", false),
    ] {
        for (value, expect) in [
            (json!(true), true),
            (json!(null), true),
            (json!(false), !added),
        ] {
            let more = json!({"chat_template": template, "add_special_tokens": value});
            let of_chat = chat(&more);
            assert_eq!(of_chat[0] == BOS, expect, "{more}: {of_chat:?}");
            assert_eq!(ids("/tokenize", more.clone()), of_chat, "{more}");
            if added {
                let scored = json!({"messages": [{"role": "user", "content": "Once"}], "choices": [" upon"],
                    "add_special_tokens": value});
                let scored = ask(&server, "/v1/score", &scored);
                assert_eq!(scored["data"][0]["stem_tokens"], of_chat.len(), "{more}");
            }
        }
    }
}

#[test]
fn no_effort_is_refused_where_the_model_reasons_anyway() {
    let server = server();
    let answer = |template: &str, more: Value| {
        let body = json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 1, "chat_template": template});
        server.post(CHAT, &with(&body, &more))
    };
    let none = || json!({"reasoning_effort": "none"});
    let begins = "{{ messages[0].content }}<think>\n";
    let switched =
        "{{ messages[0].content }}<think>\n{% if enable_thinking is false %}</think>{% endif %}";
    for template in [begins, "{{ messages[0].content.split('</think>')[-1] }}"] {
        let refused = answer(template, none());
        assert_eq!(refused.status, 400, "{template}: {}", refused.body);
        let error = &refused.json()["error"];
        assert_eq!(error["param"], "reasoning_effort");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("reasons anyway"), "{message}");
    }
    for template in ["{{ messages[0].content }}", switched] {
        let taken = answer(template, none());
        assert_eq!(taken.status, 200, "{template}: {}", taken.body);
    }
    assert_eq!(
        answer(begins, json!({"reasoning_effort": "medium"})).status,
        200
    );
}

#[test]
fn usage_in_each_event() {
    let server = server();
    let usage = json!({"include_usage": true, "continuous_usage_stats": true});
    for (path, body) in [
        (
            COMPLETIONS,
            json!({"prompt": [5, 6, 7], "max_tokens": 4, "n": 2, "ignore_eos": true}),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 4, "n": 2, "ignore_eos": true}),
        ),
    ] {
        let body = with(
            &body,
            &json!({"stream": true, "stream_options": usage, "seed": 3}),
        );
        let events = events(&server, path, &body);
        let (last, rest) = events.split_last().expect("events");
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], 8);
        let prompt = &last["usage"]["prompt_tokens"];
        let mut counted = [0, 0];
        for event in rest {
            let choice = event["choices"][0]["index"].as_u64().expect("an index") as usize;
            let usage = &event["usage"];
            let completion = usage["completion_tokens"].as_u64().expect("a number");
            assert!(completion >= counted[choice], "{event}");
            counted[choice] = completion;
            assert_eq!(&usage["prompt_tokens"], prompt, "{event}");
            let total = prompt.as_u64().expect("a number") + completion;
            assert_eq!(usage["total_tokens"], total);
        }
        assert_eq!(counted, [4, 4]);
    }
    // Alone: no event without choices.
    let body = json!({"prompt": "Once", "max_tokens": 2, "stream": true,
        "stream_options": {"continuous_usage_stats": true}});
    let all = events(&server, COMPLETIONS, &body);
    assert!(
        all.iter()
            .all(|event| event["usage"]["prompt_tokens"].is_number())
    );
    assert!(all.iter().all(|event| event["choices"] != json!([])));
}

#[test]
fn an_effort_reaches_the_template_that_reads_it() {
    let messages = json!([{"role": "user", "content": "a"}]);
    let rendered = |template: &str, effort: &str| {
        let body =
            json!({"messages": messages, "chat_template": template, "reasoning_effort": effort});
        let answer = tiny().post("/apply-template", &body);
        (answer.status, answer.json())
    };
    let gpt_oss = "Reasoning: {{ reasoning_effort or 'medium' }}";
    assert_eq!(
        rendered(gpt_oss, "high"),
        (200, json!({"prompt": "Reasoning: high"}))
    );
    let qwen = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}…{% endif %}";
    assert_eq!(
        rendered(qwen, "none"),
        (200, json!({"prompt": "<think></think>"}))
    );
    assert_eq!(rendered(qwen, "low"), (200, json!({"prompt": "…"})));
    let (status, error) = rendered("{{ messages[0].content }}", "high");
    assert_eq!(
        (status, &error["error"]["param"]),
        (400, &json!("reasoning_effort"))
    );
    // What the request says itself counts.
    let body = json!({"messages": messages, "chat_template": gpt_oss, "reasoning_effort": "high",
        "chat_template_kwargs": {"reasoning_effort": "low"}});
    let answer = tiny().post("/apply-template", &body);
    assert_eq!(answer.json(), json!({"prompt": "Reasoning: low"}));
}

/// Bodies with unknown fields at each depth.
fn unknown() -> Vec<(&'static str, Value)> {
    let messages = json!([{"role": "user", "content": "Once"}]);
    let chat = json!({"messages": messages, "max_tokens": 1, "chat_template": "{{ messages[0].content }}"});
    let complete = json!({"prompt": "Once", "max_tokens": 1});
    let named = json!([{"role": "user", "content": "Once", "colour": "red"}]);
    vec![
        (COMPLETIONS, with(&complete, &json!({"unheard_of": 1}))),
        (
            COMPLETIONS,
            with(&complete, &json!({"use_beam_search": true})),
        ),
        (
            COMPLETIONS,
            with(
                &complete,
                &json!({"stream": true, "stream_options": {"unheard_of": 1}}),
            ),
        ),
        (
            COMPLETIONS,
            with(
                &complete,
                &json!({"logits": {"positions": [1], "unheard_of": 1}}),
            ),
        ),
        (
            COMPLETIONS,
            with(
                &complete,
                &json!({"response_format": {"type": "text", "unheard_of": 1}}),
            ),
        ),
        (
            COMPLETIONS,
            with(
                &complete,
                &json!({"structured_outputs": {"regex": "a", "unheard_of": 1}}),
            ),
        ),
        (CHAT, with(&chat, &json!({"messages": named}))),
        (CHAT, with(&chat, &json!({"reasoning_effort": "high"}))),
        (
            CHAT,
            with(
                &chat,
                &json!({"response_format": {"type": "json_schema", "json_schema": {
            "schema": {"const": 1}, "unheard_of": 1}}}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Once", "foo": 1}]}]}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"messages": [{"role": "user", "content": "Once"}, {"role": "assistant", "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, "foo": 1}]}]}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"tools": [{"type": "function", "qq": 1, "function": {"name": "f"}}]}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"tools": [{"type": "function", "function": {"name": "f", "qq": 1}}]}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1,
                    "tool_choice": {"type": "function", "function": {"name": "f"}, "mode": "x"}}),
            ),
        ),
        (
            CHAT,
            with(
                &chat,
                &json!({"tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1,
                    "tool_choice": {"type": "function", "function": {"name": "f", "arguments": "{}"}}}),
            ),
        ),
        (
            "/tokenize",
            json!({"messages": named, "chat_template": "a"}),
        ),
        (
            "/v1/score",
            json!({"items": [{"stem": "a", "choices": ["a"], "unheard_of": 1}]}),
        ),
        ("/v1/score", json!({"messages": named, "choices": ["a"]})),
    ]
}

#[test]
fn unknown_fields_at_any_depth_are_refused_or_let_through() {
    let start = |how| {
        TestServer::start_with(&tiny_model(), |config| {
            config.server.unknown_fields = how;
            config.model.chat_template = Some("{{ messages[0].content }}".to_owned());
        })
    };
    let (strict, lenient) = (start(UnknownFields::Reject), start(UnknownFields::Warn));
    for (path, body) in unknown() {
        let answer = strict.post(path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert_eq!(lenient.post(path, &body).status, 200, "{path} {body}");
    }
}

/// Marks of a cache and what answers had reach no template.
#[test]
fn what_clients_add_to_messages_and_tools_changes_nothing() {
    let template = "{{ messages | tojson }}{{ tools | tojson }}";
    let rendered = |text: Value, call: Value, tool: Value, function: Value| {
        let part = with(&json!({"type": "text", "text": "a"}), &text);
        let call = with(
            &json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}),
            &call,
        );
        let mut tool = with(
            &json!({"type": "function", "function": {"name": "f", "description": "F"}}),
            &tool,
        );
        tool["function"] = with(&tool["function"], &function);
        let answer = with(
            &json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            &json!({"annotations": [], "refusal": null, "audio": null, "provider_specific_fields": {"a": 1}}),
        );
        let body = json!({"messages": [{"role": "user", "content": [part]}, answer], "tools": [tool],
            "chat_template": template});
        ask(tiny(), "/apply-template", &body)
    };
    let nothing = || json!({});
    let cache = || json!({"cache_control": {"type": "ephemeral"}});
    assert_eq!(
        rendered(
            with(
                &cache(),
                &json!({"annotations": [], "prompt_cache_breakpoint": {"mode": "explicit"}, "more": null})
            ),
            json!({"index": 0, "provider_specific_fields": null}),
            cache(),
            cache(),
        ),
        rendered(nothing(), nothing(), nothing(), nothing()),
    );
}

/// Each is read once: what is removed one by one takes minutes.
#[test]
fn very_many_unknown_fields_are_refused_at_once() {
    let many = |object: Value| {
        let fields = (0..100_000).map(|i| (format!("y{i}"), json!(0)));
        let fields: serde_json::Map<String, Value> = fields.collect();
        with(&object, &fields.into())
    };
    let complete = |name: &str, object| json!({"prompt": "Once", "stream": name == "stream_options", name: many(object)});
    let chat = |more: Value| {
        let plain =
            json!({"messages": [{"role": "user", "content": "Once"}], "chat_template": "a"});
        (CHAT, with(&plain, &more))
    };
    let message =
        |message: Value| chat(json!({"messages": [{"role": "user", "content": "Once"}, message]}));
    let function = json!({"name": "f", "arguments": "{}"});
    let call = json!({"id": "a", "function": function});
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let bodies = [
        (COMPLETIONS, many(json!({"prompt": "Once"}))),
        (COMPLETIONS, complete("logits", json!({"positions": [1]}))),
        (COMPLETIONS, complete("stream_options", json!({}))),
        (
            COMPLETIONS,
            complete("response_format", json!({"type": "text"})),
        ),
        (
            COMPLETIONS,
            complete("structured_outputs", json!({"regex": "a"})),
        ),
        message(many(json!({"role": "user", "content": "a"}))),
        message(json!({"role": "user", "content": [many(json!({"type": "text", "text": "a"}))]})),
        message(json!({"role": "assistant", "tool_calls": [many(call.clone())]})),
        message(
            json!({"role": "assistant", "tool_calls": [with(&call, &json!({"function": many(function)}))]}),
        ),
        chat(json!({"tools": [many(tool.clone())]})),
        chat(json!({"tools": [with(&tool, &json!({"function": many(json!({"name": "f"}))}))]})),
        chat(json!({"tools": [tool.clone()], "tool_choice": many(tool.clone())})),
        chat(
            json!({"response_format": {"type": "json_schema", "json_schema": many(json!({"schema": {"const": 1}}))}}),
        ),
        (
            "/v1/score",
            json!({"items": [many(json!({"stem": "a", "choices": ["b"]}))]}),
        ),
    ];
    for (number, (path, body)) in bodies.iter().enumerate() {
        let answer = tiny().post(path, body);
        assert_eq!(answer.status, 400, "{number} {path}: {}", answer.body);
        let code = &answer.json()["error"]["code"];
        assert_eq!(code, "unknown_field", "{number} {path}: {}", answer.body);
    }
}

#[test]
fn the_log_has_one_line_for_all_items() {
    let name = format!("candor-{}-items.jinja", std::process::id());
    let template = std::env::temp_dir().join(name);
    std::fs::write(&template, "{{ messages[0].content }}").expect("written");
    let template = template.display().to_string();
    let server = Process::start(&[
        ("CANDOR_SERVER__UNKNOWN_FIELDS", "warn"),
        ("CANDOR_MODEL__CHAT_TEMPLATE_FILE", &template),
    ]);
    let item = |i: usize| json!({"stem": "a", "choices": ["b"], format!("colour{i}"): 1});
    let message = json!({"role": "user", "content": "a", "colour": 1});
    let mut items: Vec<Value> = (0..20).map(item).collect();
    items.insert(1, json!({"messages": [message], "choices": ["b"]}));
    let body = json!({"items": items}).to_string();
    let answer = Request::new("POST", "/v1/score", &[], body).send(server.address());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let log = server.terminate().log;
    std::fs::remove_file(&template).expect("removed");
    let lines = log.lines();
    let lines: Vec<&str> = lines.filter(|it| it.contains("are ignored")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    for part in [
        "items[0].colour0",
        "items[1].messages[0].colour",
        "items[3].colour2",
        "count=21",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn the_log_names_unknown_fields_cut_and_escaped() {
    let server = Process::start(&[("CANDOR_SERVER__UNKNOWN_FIELDS", "warn")]);
    let send = |body: Value| {
        let answer = Request::complete(body.to_string()).send(server.address());
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let long = "x".repeat(5000);
    send(
        json!({"prompt": "secret", "max_tokens": 1, "unheard\nof": "secret", long: 1, "n_probs": 3}),
    );
    let many: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("y{i}"), 1.into())).collect();
    send(with(
        &json!({"prompt": "secret", "max_tokens": 1}),
        &many.into(),
    ));
    let log = server.terminate().log;
    let lines = log
        .lines()
        .filter(|line| line.contains("unknown fields are ignored"));
    let lines: Vec<&str> = lines.collect();
    let [first, second] = lines[..] else {
        panic!("{log}")
    };
    for part in ["WARN", "n_probs", "unheard\\nof", "xxx…", "count=3"] {
        assert!(
            first.replace("\\\\", "\\").contains(part),
            "{part}: {first}"
        );
    }
    assert!(
        second.contains("count=100") && second.len() < 400,
        "{second}"
    );
    assert!(
        !log.contains("secret") && !log.contains(&"x".repeat(100)),
        "{log}"
    );
}
