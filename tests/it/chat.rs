//! Conversations: what the template makes of them, the shape of answers, calls of tools; whole and streamed.

use serde_json::{Value, json};

use crate::server::{TestServer, default_model, tiny_model};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

pub fn chat(server: &TestServer, body: &Value) -> Value {
    let answer = server.post("/v1/chat/completions", body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

/// The events of a streamed answer, with the deltas of each choice added up to what the whole answer has.
fn streamed(server: &TestServer, body: &Value) -> (Vec<Value>, Value) {
    let mut body = body.clone();
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut events: Vec<&str> = answer
        .body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let usage = events.last().expect("events")["usage"].clone();
    let mut choices: Vec<Value> = Vec::new();
    for event in &events[..events.len() - 1] {
        assert_eq!(event["object"], "chat.completion.chunk");
        for piece in event["choices"].as_array().expect("choices") {
            let index = piece["index"].as_u64().expect("an index") as usize;
            while choices.len() <= index {
                choices.push(json!({
                    "index": choices.len(),
                    "message": {"role": null, "content": null, "refusal": null},
                    "logprobs": null,
                    "finish_reason": null,
                }));
            }
            add(&mut choices[index], piece);
        }
    }
    (events, json!({"choices": choices, "usage": usage}))
}

fn add(choice: &mut Value, piece: &Value) {
    assert!(choice["finish_reason"].is_null(), "nothing follows the end");
    choice["finish_reason"] = piece["finish_reason"].clone();
    let (message, delta) = (&mut choice["message"], &piece["delta"]);
    if let Some(role) = delta["role"].as_str() {
        assert!(message["role"].is_null(), "the role is told once");
        message["role"] = role.into();
    }
    if let Some(text) = delta["content"].as_str().filter(|text| !text.is_empty()) {
        let before = message["content"].as_str().unwrap_or_default();
        message["content"] = format!("{before}{text}").into();
    }
    if let Some(text) = delta["reasoning_content"].as_str() {
        let before = message["reasoning_content"].as_str().unwrap_or_default();
        message["reasoning_content"] = format!("{before}{text}").into();
    }
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let index = call["index"].as_u64().expect("an index") as usize;
        if message["tool_calls"].is_null() {
            message["tool_calls"] = json!([]);
        }
        let calls = message["tool_calls"].as_array_mut().expect("an array");
        if call["id"].is_string() {
            assert_eq!(calls.len(), index, "calls come one after another");
            calls.push(
                json!({"id": call["id"], "type": call["type"], "function": call["function"]}),
            );
        } else {
            let function = &mut calls[index]["function"];
            let before = function["arguments"].as_str().expect("text");
            let added = call["function"]["arguments"].as_str().expect("text");
            function["arguments"] = format!("{before}{added}").into();
        }
    }
    if let Some(entries) = piece["logprobs"]["content"].as_array() {
        if choice["logprobs"].is_null() {
            choice["logprobs"] = json!({"content": [], "refusal": null});
        }
        let all = choice["logprobs"]["content"]
            .as_array_mut()
            .expect("an array");
        all.extend(entries.iter().cloned());
    }
}

/// As they are but for what is new each time.
fn without_ids(choices: &Value) -> Value {
    let mut choices = choices.clone();
    for choice in choices.as_array_mut().expect("choices") {
        if let Some(calls) = choice["message"]["tool_calls"].as_array_mut() {
            for call in calls {
                // Some templates want ids of their own.
                assert!(call["id"].as_str().expect("an id").len() >= 9, "{call}");
                call["id"] = Value::Null;
            }
        }
    }
    choices
}

/// A streamed answer adds up to the whole one.
pub fn check_stream(server: &TestServer, body: &Value) -> Value {
    let whole = chat(server, body);
    let (_, added) = streamed(server, body);
    let mut expected = without_ids(&whole["choices"]);
    for choice in expected.as_array_mut().expect("choices") {
        // Which cannot be told apart in a stream.
        if choice["message"]["content"] == "" {
            choice["message"]["content"] = Value::Null;
        }
    }
    assert_eq!(without_ids(&added["choices"]), expected, "{body}");
    assert_eq!(
        added["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    assert_eq!(
        added["usage"]["completion_tokens_details"],
        whole["usage"]["completion_tokens_details"]
    );
    assert_eq!(
        added["usage"]["prompt_tokens"],
        whole["usage"]["prompt_tokens"]
    );
    whole
}

#[test]
fn an_answer_is_what_a_completion_of_the_written_out_conversation_is() {
    let server = TestServer::start(&default_model());
    let messages = json!([
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "Name a"}, {"type": "text", "text": "colour."}]},
    ]);
    let written = server
        .post("/apply-template", &json!({"messages": messages}))
        .json();
    let prompt = written["prompt"].as_str().expect("a text");
    assert_eq!(
        prompt,
        "<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\nName a\ncolour.<|im_end|>\n<|im_start|>assistant\n"
    );
    let completion = server
        .post(
            "/v1/completions",
            &json!({"prompt": prompt, "max_tokens": 12, "seed": 7, "logprobs": 3, "n": 2}),
        )
        .json();
    let answer = check_stream(
        &server,
        &json!({"messages": messages, "max_completion_tokens": 12, "seed": 7, "logprobs": true, "top_logprobs": 3, "n": 2}),
    );
    assert_eq!(answer["object"], "chat.completion");
    assert!(
        answer["id"]
            .as_str()
            .expect("an id")
            .starts_with("chatcmpl-")
    );
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        completion["usage"]["prompt_tokens"]
    );
    for (choice, plain) in answer["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .zip(completion["choices"].as_array().expect("choices"))
    {
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["message"]["content"], plain["text"]);
        assert_eq!(choice["finish_reason"], plain["finish_reason"]);
        let entries = choice["logprobs"]["content"].as_array().expect("entries");
        assert_eq!(
            entries.len(),
            plain["logprobs"]["tokens"]
                .as_array()
                .expect("tokens")
                .len()
        );
        for (place, entry) in entries.iter().enumerate() {
            assert_eq!(entry["token"], plain["logprobs"]["tokens"][place]);
            assert_eq!(entry["logprob"], plain["logprobs"]["token_logprobs"][place]);
            let top = entry["top_logprobs"].as_array().expect("alternatives");
            assert_eq!(top.len(), 3);
            for one in top {
                let text = one["token"].as_str().expect("text");
                let bytes: Vec<u8> = serde_json::from_value(one["bytes"].clone()).expect("bytes");
                if !text.is_empty() {
                    assert_eq!(String::from_utf8_lossy(&bytes), text);
                    assert!(plain["logprobs"]["top_logprobs"][place][text].is_number());
                }
            }
        }
    }
}

#[test]
fn a_last_message_of_any_text_is_continued() {
    let server = TestServer::start(&default_model());
    for last in ["<", "|", "n", "end", "Answer:\n", "Answer: ", ""] {
        let messages =
            json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": last}]);
        let body = json!({"messages": messages, "continue_final_message": true});
        let written = server.post("/apply-template", &body).json();
        let prompt = written["prompt"].as_str().expect("a text");
        let end = format!("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n{last}");
        assert!(prompt.ends_with(&end), "{prompt:?}");
    }
    let body = json!({"messages": [{"role": "user", "content": "Q"}], "continue_final_message": true,
        "chat_template": "{{ messages[0].content | lower }}"});
    let refused = server.post("/apply-template", &body);
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.json()["error"]["param"], "continue_final_message");
}

#[test]
fn reasoning_reaches_a_template_under_each_of_its_names() {
    let server = TestServer::start(&tiny_model());
    for sent in ["reasoning_content", "reasoning", "thinking"] {
        let template =
            "{% set m = messages[0] %}{{ m.reasoning_content }}{{ m.reasoning }}{{ m.thinking }}";
        let body = json!({"chat_template": template, "messages": [
            {"role": "assistant", "content": "a", sent: "so"}]});
        let written = server.post("/apply-template", &body).json();
        assert_eq!(written["prompt"], "sososo", "{sent}");
        let body = json!({"messages": [{"role": "assistant", "content": "a", sent: 1}]});
        let refused = server.post("/apply-template", &body);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(
            refused.body.contains(&format!("messages[0].{sent}")),
            "{}",
            refused.body
        );
    }
}

#[test]
fn a_template_can_be_sent_and_its_scope_filled() {
    let server = TestServer::start(&tiny_model());
    let written = |body: Value| {
        let answer = server.post("/apply-template", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["prompt"].as_str().expect("a text").to_owned()
    };
    let user = json!([{"role": "user", "content": "hi"}]);
    let mut body = json!({"messages": user, "chat_template": TEMPLATE});
    assert_eq!(written(body.clone()), "user: hi\nassistant:");
    body["add_generation_prompt"] = false.into();
    assert_eq!(written(body.clone()), "user: hi\n");
    body["messages"] =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I am"}]);
    body["continue_final_message"] = true.into();
    assert_eq!(written(body), "user: hi\nassistant: I am");
    assert_eq!(
        written(
            json!({"messages": user, "chat_template": "{{ bos_token }}{{ style }}|{{ eos_token }}", "chat_template_kwargs": {"style": "x"}})
        ),
        "x|</s>"
    );
    // The name of newer models is kept where the template knows it.
    let developer = json!([{"role": "developer", "content": "a"}]);
    assert_eq!(
        written(json!({"messages": developer, "chat_template": TEMPLATE})),
        "system: a\nassistant:"
    );
    assert_eq!(
        written(
            json!({"messages": developer, "chat_template": "{# developer #}{{ messages[0].role }}"})
        ),
        "developer"
    );
    // Arguments that clients send as text are objects to a template.
    assert_eq!(
        written(
            json!({"chat_template": "{{ messages[0].tool_calls[0].function.arguments.city }}", "messages": [
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"city\": \"Paris\"}"}}]}]})
        ),
        "Paris"
    );
    let spent = server.post(
        "/v1/chat/completions",
        &json!({"messages": user, "chat_template": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"}),
    );
    assert_eq!(spent.status, 400);
    assert_eq!(spent.json()["error"]["param"], "chat_template");
    // A list within a list within a list, each twice, costs nothing until it is printed.
    for last in [
        "{{ ns.a }}",
        "{{ ns.a|string }}",
        "{{ ns.a ~ '' }}",
        "{{ ns.a|tojson }}",
    ] {
        let nested = "{% set ns=namespace(a=[1,1]) %}{% for i in range(40) %}{% set ns.a=[ns.a,ns.a] %}{% endfor %}";
        let body = json!({"messages": user, "chat_template": format!("{nested}{last}")});
        let answer = server.post("/apply-template", &body);
        assert_eq!(answer.status, 400, "{last}: {}", answer.body);
        assert_eq!(answer.json()["error"]["param"], "chat_template");
    }
    // A model without a template says so.
    let none = server.post("/v1/chat/completions", &json!({"messages": user}));
    assert_eq!(none.status, 400);
    assert!(none.body.contains("needs a chat template"), "{}", none.body);
}

#[test]
fn the_settings_can_name_a_template() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.chat_template = Some("{{ messages[-1].content }}".to_owned());
    });
    let body = json!({"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 3, "temperature": 0});
    let answer = check_stream(&server, &body);
    // BOS and three.
    let prompt = server
        .post(
            "/v1/completions",
            &json!({"prompt": "a b c", "max_tokens": 0}),
        )
        .json();
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        prompt["usage"]["prompt_tokens"]
    );
    assert_eq!(
        server.get("/tokenizer_info").json()["chat_template"],
        "{{ messages[-1].content }}"
    );
}

pub fn weather() -> Value {
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "unit"],
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}}}}},
        {"type": "function", "function": {"name": "get_time", "parameters": {
            "type": "object", "additionalProperties": false, "required": ["zone"],
            "properties": {"zone": {"$ref": "#/$defs/zone"}}, "$defs": {"zone": {"enum": ["UTC", "CET"]}}}}},
    ])
}

/// Arguments valid by the schemas of `weather`.
pub fn check_call(call: &Value) -> String {
    let function = &call["function"];
    let name = function["name"].as_str().expect("a name").to_owned();
    let arguments: Value =
        serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
    let fields = arguments.as_object().expect("an object");
    match name.as_str() {
        "get_weather" => {
            assert_eq!(fields.len(), 2, "{arguments}");
            assert!(arguments["city"].as_str().expect("text").chars().count() <= 12);
            assert!(["C", "F"].contains(&arguments["unit"].as_str().expect("text")));
        }
        "get_time" => assert!(["UTC", "CET"].contains(&arguments["zone"].as_str().expect("text"))),
        other => panic!("{other} is no tool"),
    }
    assert_eq!(call["type"], "function");
    name
}

#[test]
fn forced_calls_follow_the_schemas() {
    let server = TestServer::start(&default_model());
    let messages = json!([{"role": "user", "content": "What is the weather in Paris?"}]);
    for seed in 0..8 {
        let mut body = json!({"messages": messages, "tools": weather(), "max_tokens": 120, "seed": seed,
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "logprobs": true});
        let answer = check_stream(&server, &body);
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let calls = choice["message"]["tool_calls"].as_array().expect("calls");
        assert_eq!(calls.len(), 1);
        assert_eq!(check_call(&calls[0]), "get_weather");
        assert!(choice["message"]["content"].is_null());
        body["tool_choice"] = "required".into();
        body["parallel_tool_calls"] = (seed % 2 == 0).into();
        let answer = check_stream(&server, &body);
        let choice = &answer["choices"][0];
        let calls = choice["message"]["tool_calls"].as_array().expect("calls");
        assert!(seed % 2 == 0 || calls.len() == 1, "{answer}");
        if choice["finish_reason"] == "tool_calls" {
            for call in calls {
                check_call(call);
            }
        } else {
            // Parallel calls may go on until max_tokens.
            assert_eq!(choice["finish_reason"], "length", "{answer}");
            assert!(calls.len() > 1, "{answer}");
        }
    }
}

#[test]
fn a_call_that_the_model_writes_of_itself_is_found() {
    // A template that says what a well-behaved model would be asked to repeat.
    let server = TestServer::start(&default_model());
    let text =
        "<tool_call>\n{\"name\": \"get_time\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>";
    let messages = json!([{"role": "user", "content": "What time is it?"}]);
    let body = json!({"messages": messages, "tools": weather(), "choice": [text], "max_tokens": 80, "temperature": 0});
    let answer = check_stream(&server, &body);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(check_call(&choice["message"]["tool_calls"][0]), "get_time");
    // With "none" it is text.
    let mut body = body;
    body["tool_choice"] = "none".into();
    let answer = check_stream(&server, &body);
    assert_eq!(answer["choices"][0]["message"]["content"], text);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // The model, whose template knows no tools, was told of them.
    let written = server
        .post(
            "/apply-template",
            &json!({"messages": messages, "tools": weather()}),
        )
        .json();
    let prompt = written["prompt"].as_str().expect("a text");
    assert!(
        prompt.starts_with("<|im_start|>system\nYou may call these functions"),
        "{prompt}"
    );
    assert!(prompt.contains("\"get_weather\""), "{prompt}");
}

#[test]
fn a_format_is_followed() {
    let server = TestServer::start(&default_model());
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}});
    let body = json!({"messages": [{"role": "user", "content": "Invent a person."}], "max_tokens": 60, "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}}});
    let answer = check_stream(&server, &body);
    let text = answer["choices"][0]["message"]["content"]
        .as_str()
        .expect("text");
    let person: Value = serde_json::from_str(text).expect(text);
    assert!(person["age"].as_u64().expect("a number") <= 150, "{text}");
}

/// What templates of each form contain.
const MARKS: [&str; 29] = [
    "<|channel|> <|message|>",
    ">>>all",
    "<seed:tool_call>",
    "<tool_call> <function= <parameter=",
    "<arg_key> <tool_call>",
    "<minimax:tool_call>",
    "DSML function_calls",
    "DSML",
    "<function name=\" <param name=\"",
    "<｜tool▁sep｜> ```json",
    "<｜tool▁sep｜>",
    "<|tool_call_argument_begin|>",
    "[TOOL_CALLS] [CALL_ID] [ARGS]",
    "[TOOL_CALLS] [ARGS]",
    "[TOOL_CALLS]",
    "<|START_ACTION|>",
    "Action: ```json tool_name",
    "<|tool_call>",
    "<|tool_call_start|>",
    "<|tool_call|>",
    "<|tools_prefix|>",
    "<TOOLCALL>",
    "<tool_calls> <beginning_of_sentence>",
    "<tool_calls>",
    "functools[",
    "<|function_call|>",
    "`function call` role <|role_sep|>",
    "<function=",
    "<tool_call>",
];

#[test]
fn calls_are_forced_and_read_in_every_form() {
    let server = TestServer::start(&tiny_model());
    let more = ["\"parameters\": dictionary", "unknown"];
    for marks in MARKS.into_iter().chain(more) {
        for (seed, several) in [(1, false), (2, true)] {
            let template = format!("{{{{ messages[0].content }}}}{{# tools {marks} #}}");
            let body = json!({"messages": [{"role": "user", "content": "a"}], "chat_template": template, "tools": weather(),
                "tool_choice": "required", "parallel_tool_calls": several, "reasoning_format": "none", "max_tokens": 200, "seed": seed});
            let answer = check_stream(&server, &body);
            let choice = &answer["choices"][0];
            let calls = choice["message"]["tool_calls"].as_array();
            let calls = calls.unwrap_or_else(|| panic!("{marks}: {answer}"));
            assert!(several || calls.len() == 1, "{marks}: {answer}");
            let is_complete = choice["finish_reason"] == "tool_calls";
            assert!(is_complete || several, "{marks}: {answer}");
            // Parallel calls may go on until max_tokens.
            for call in &calls[..calls.len() - usize::from(!is_complete)] {
                check_call(call);
            }
            let content = &choice["message"]["content"];
            assert!(!is_complete || content.is_null(), "{marks}: {answer}");
        }
    }
}

#[test]
fn reasoning_comes_apart_and_is_counted() {
    let server = TestServer::start(&default_model());
    let template = "{{ messages[0].content }}{# <think></think> #}";
    let text = "<think>\nHm, well.\n</think>\n\nHello.";
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "chat_template": template, "choice": [text],
        "max_tokens": 60, "temperature": 0, "logprobs": true});
    let answer = check_stream(&server, &body);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "Hm, well.");
    assert_eq!(choice["message"]["content"], "Hello.");
    let usage = &answer["usage"];
    let entries = choice["logprobs"]["content"].as_array().expect("entries");
    assert_eq!(json!(entries.len()), usage["completion_tokens"]);
    let all: String = entries
        .iter()
        .filter_map(|entry| entry["token"].as_str())
        .collect();
    assert_eq!(all, text);
    let reasoned = usage["completion_tokens_details"]["reasoning_tokens"]
        .as_u64()
        .expect("a count");
    let shown: String = entries[..reasoned as usize]
        .iter()
        .filter_map(|entry| entry["token"].as_str())
        .collect();
    assert!(
        shown.contains("</think") && !shown.contains("Hello"),
        "{shown}"
    );
    // It may stay.
    body["reasoning_format"] = "none".into();
    let answer = check_stream(&server, &body);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], text);
    assert!(message.get("reasoning_content").is_none(), "{answer}");
    assert!(
        answer["usage"].get("completion_tokens_details").is_none(),
        "{answer}"
    );
    body["reasoning_format"] = "hidden".into();
    let refused = server.post("/v1/chat/completions", &body);
    assert_eq!(refused.json()["error"]["param"], "reasoning_format");
    // A prompt that has begun it; a schema is for what follows.
    let opens = "{{ messages[0].content }}\n<think>\n";
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "chat_template": opens, "max_tokens": 8,
        "temperature": 0, "response_format": {"type": "json_object"}});
    let answer = check_stream(&server, &body);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "", "{answer}");
    assert!(
        message["reasoning_content"]
            .as_str()
            .is_some_and(|text| !text.starts_with('{')),
        "{answer}"
    );
    assert_eq!(
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
        8
    );
    // By the settings.
    let server = TestServer::start_with(&default_model(), |config| {
        config.model.reasoning_format = candor::config::ReasoningFormat::None;
    });
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "chat_template": template, "choice": [text],
        "max_tokens": 60, "temperature": 0});
    assert_eq!(
        chat(&server, &body)["choices"][0]["message"]["content"],
        text
    );
    // A request says otherwise, by either name.
    for name in ["reasoning_format", "separate_reasoning"] {
        let mut body = body.clone();
        body[name] = match name {
            "separate_reasoning" => true.into(),
            _ => "auto".into(),
        };
        let answer = chat(&server, &body);
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello.");
    }
}

#[test]
fn with_a_format_and_tools_the_answer_is_a_call_or_follows_the_format() {
    let server = TestServer::start(&default_model());
    let less = server.post("/tokenize", &json!({"content": "<"})).json()["tokens"][0].clone();
    let ask = |bias: i64| {
        let body = json!({"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": weather(),
            "parallel_tool_calls": false, "max_tokens": 100, "temperature": 0, "logit_bias": {less.to_string(): bias},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object",
                "properties": {"sky": {"enum": ["blue", "grey"]}}, "required": ["sky"], "additionalProperties": false}}}});
        check_stream(&server, &body)["choices"][0].clone()
    };
    let call = ask(100);
    assert_eq!(call["finish_reason"], "tool_calls", "{call}");
    check_call(&call["message"]["tool_calls"][0]);
    let text = ask(-100);
    assert_eq!(text["finish_reason"], "stop", "{text}");
    let sky: Value =
        serde_json::from_str(text["message"]["content"].as_str().expect("text")).expect("JSON");
    assert!(sky["sky"].is_string(), "{text}");
}

/// The error of a request whose tools cannot be followed.
fn refused(server: &TestServer, body: &Value) -> String {
    let answer = server.post("/v1/chat/completions", body);
    assert_eq!(answer.status, 400, "{body}");
    let error = answer.json()["error"].clone();
    assert_eq!(error["param"], "tools", "{error}");
    error["message"].as_str().expect("a message").to_owned()
}

#[test]
fn errors_name_the_tool_at_fault() {
    let server = TestServer::start(&default_model());
    let tool = |name: &str, schema: Value| {
        json!({"type": "function", "function": {"name": name, "parameters":
            {"type": "object", "properties": {"city": schema}}}})
    };
    let string = json!({"type": "string"});
    let body = |schema: Value| {
        json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5,
            "tools": [tool("good", string.clone()), tool("bad", schema)]})
    };
    // Beside a format, and forced in a form that is JSON or not.
    let mut beside = body(json!({"not": {}}));
    beside["response_format"] = json!({"type": "json_object"});
    let mut forced = body(json!({"not": {}}));
    forced["tool_choice"] = "required".into();
    let mut marked = body(json!({"type": "string", "pattern": "^(a$|b)"}));
    marked["tool_choice"] = "required".into();
    marked["chat_template"] =
        "{{ messages[0].content }}{# tools <tool_call> <function= <parameter= #}".into();
    for body in [beside, forced, marked] {
        let message = refused(&server, &body);
        assert!(
            message.starts_with("`tools[1].function.parameters`, of `bad`, was rejected: "),
            "{message}"
        );
    }
    // The format itself.
    let mut body = body(string.clone());
    body["response_format"] = json!({"type": "json_object", "schema": {"not": {}}});
    let error = server.post("/v1/chat/completions", &body).json()["error"].clone();
    assert_eq!(error["param"], "response_format", "{error}");
}

#[test]
fn schemas_of_tools_are_bounded_where_calls_follow_them() {
    let server = TestServer::start(&default_model());
    let many: serde_json::Map<String, Value> = (0..20_000)
        .map(|place| (format!("p{place}"), json!({"type": "integer"})))
        .collect();
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1,
        "chat_template": "{{ messages[0].content }}{# tools <tool_call> #}",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": many}}}]});
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    for (field, value) in [
        ("response_format", json!({"type": "json_object"})),
        ("tool_choice", "required".into()),
    ] {
        let mut body = body.clone();
        body[field] = value;
        let message = refused(&server, &body);
        assert!(
            message.starts_with("The schemas of `tools` must not be longer than 65536 bytes"),
            "{message}"
        );
    }
    body["tool_choice"] = "none".into();
    body["response_format"] = json!({"type": "json_object"});
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
}
