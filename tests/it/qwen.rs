//! What code models have and the default model lacks, on Qwen2.5-Coder, if `make test-models` runs the tests:
//! fill-in-the-middle, a chat template for tools, and a context of 32,768 tokens.

use std::sync::OnceLock;

use candor::config::{Config, Pooling};
use serde_json::{Value, json};

use crate::chat::{chat, check_call, check_stream, weather};
use crate::parity::joined;
use crate::process::{Process, refused};
use crate::server::{TestServer, qwen_model, recorded_here};

/// A server of each size, shared by tests that do not mind each other. None if the tests are not asked for.
fn servers() -> &'static [(&'static str, TestServer)] {
    static SERVERS: OnceLock<Vec<(&str, TestServer)>> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let sizes = ["0.5b", "1.5b"].iter();
        sizes
            .filter_map(|&size| Some((size, TestServer::start(&qwen_model(size)?))))
            .collect()
    })
}

/// The larger one: the smaller seldom ends where the middle does.
fn larger() -> Option<&'static TestServer> {
    Some(&servers().last()?.1)
}

fn ids(server: &TestServer, text: &str, parse_special: bool) -> Vec<u64> {
    let body = json!({"content": text, "parse_special": parse_special});
    let answer = server.post("/tokenize", &body).json();
    serde_json::from_value(answer["tokens"].clone()).expect("ids")
}

/// The id of a special token.
fn id(server: &TestServer, name: &str) -> u64 {
    let ids = ids(server, name, true);
    assert_eq!(ids.len(), 1, "{name}");
    ids[0]
}

const PREFIX: &str =
    "def largest(numbers):\n    best = numbers[0]\n    for number in numbers:\n        if ";
const SUFFIX: &str = "\n            best = number\n    return best\n";

#[test]
fn a_suffix_becomes_the_tokens_that_the_model_was_trained_with() {
    for (size, server) in servers() {
        // Text that spells special tokens stays text.
        for (prefix, suffix) in [
            (PREFIX, SUFFIX),
            ("", ""),
            ("x = '<|fim_middle|>'", "<|file_sep|>ü"),
        ] {
            let request = json!({"prompt": prefix, "suffix": suffix, "max_tokens": 8, "temperature": 0, "logprobs": 2});
            let mut asked = request.clone();
            asked["receipt"] = true.into();
            let answer = server.complete(asked);
            let mut expect = vec![id(server, "<|fim_prefix|>")];
            expect.extend(ids(server, prefix, false));
            expect.push(id(server, "<|fim_suffix|>"));
            expect.extend(ids(server, suffix, false));
            expect.push(id(server, "<|fim_middle|>"));
            assert_eq!(
                answer["receipt"]["prompts"][0]["token_ids"],
                json!(expect),
                "{size}: {prefix:?}"
            );
            // Other clients send the ids, in which these are the ones of Qwen's own tokenizer.
            assert_eq!(expect[0], 151_659, "{size}");
            assert_eq!(expect[expect.len() - 1], 151_660, "{size}");
            let mut by_id = request.clone();
            by_id["prompt"] = json!(expect);
            by_id.as_object_mut().expect("an object").remove("suffix");
            // As text they are longer than the prompt.
            let without_offsets = |answer: Value| {
                let mut choice = answer["choices"][0].clone();
                choice["logprobs"]["text_offset"] = Value::Null;
                choice
            };
            assert_eq!(
                without_offsets(server.complete(by_id)),
                without_offsets(answer),
                "{size}"
            );
        }
    }
}

#[test]
fn tokens_that_end_a_file_end_the_middle() {
    for (size, server) in servers() {
        for name in [
            "<|fim_pad|>",
            "<|file_sep|>",
            "<|repo_name|>",
            "<|endoftext|>",
            "<|im_end|>",
        ] {
            let bias = json!({id(server, name).to_string(): 100});
            let request =
                json!({"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 4, "logit_bias": bias});
            let answer = server.complete(request);
            let choice = &answer["choices"][0];
            assert_eq!(choice["text"], "", "{size}: {name}");
            assert_eq!(choice["finish_reason"], "stop", "{size}: {name}");
            assert_eq!(answer["usage"]["completion_tokens"], 0, "{size}: {name}");
        }
    }
}

#[test]
fn the_middle_is_filled_and_nothing_more() {
    let Some(server) = larger() else { return };
    let check = |prefix: &str, suffix: &str, expect: &str| {
        let answer = server.complete(
            json!({"prompt": prefix, "suffix": suffix, "max_tokens": 32, "temperature": 0}),
        );
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], expect, "{prefix}");
        assert_eq!(choice["finish_reason"], "stop", "{prefix}");
    };
    check(PREFIX, SUFFIX, "number > best:");
    check(
        "def is_even(n):\n    return ",
        "\n\nassert is_even(4)\nassert not is_even(5)\n",
        "n % 2 == 0",
    );
    check(
        "def factorial(n):\n    if n == 0:\n        return 1\n    return ",
        "\n\n\nprint(factorial(5))  # 120\n",
        "n * factorial(n - 1)",
    );
}

/// The bodies that editors' plugins send, with all their fields.
#[test]
fn what_editors_send_is_answered() {
    let Some(server) = larger() else { return };
    let special = [
        "<|endoftext|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<|im_start|>",
        "<|im_end|>",
    ];
    let stops: Vec<&str> = special
        .into_iter()
        .chain(["/src/", "#- coding: utf-8", "```", "\n\n"])
        .collect();
    let spelt_out = format!("<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>");
    let model = "qwen2.5-coder-1.5b-instruct-q4_k_m";
    let bodies = [
        // Continue, for servers that fill in, and for those that only complete.
        json!({"model": model, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 64, "temperature": 0.01, "top_p": 1,
            "frequency_penalty": 0, "presence_penalty": 0, "stop": stops}),
        json!({"model": model, "prompt": spelt_out, "max_tokens": 64, "temperature": 0.01, "stop": stops}),
        // Tabby.
        json!({"model": model, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 64, "temperature": 0.1,
            "presence_penalty": 0.0}),
        // Minuet, and whatever fills in by OpenAI's own fields.
        json!({"model": model, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 64, "stop": ["\n\n"], "top_p": 0.9,
            "n": 1, "user": "me", "seed": 1, "temperature": 0.2}),
    ];
    for body in bodies {
        let choice = joined(&server.stream(body.clone()));
        assert_eq!(choice["text"], "number > best:", "{body}");
        assert_eq!(choice["finish_reason"], "stop", "{body}");
        let whole = server.complete(body.clone());
        assert_eq!(whole["choices"][0]["text"], choice["text"], "{body}");
    }
}

/// llama-server's prompt for filling in: `format_prompt_infill` of its source, with the names that it gives.
#[test]
fn infill_has_the_prompt_of_llama_server() {
    for (size, server) in servers() {
        let extra = json!([{"text": "x = 1\n", "filename": "a.py"}, {"text": "y = 2\n"}]);
        let (before, line) = PREFIX.rsplit_once('\n').expect("lines");
        let before = format!("{before}\n");
        let body = json!({"input_prefix": before, "prompt": line, "input_suffix": SUFFIX, "input_extra": extra,
            "n_predict": 16, "temperature": 0, "n_probs": 2});
        let filled = server.post("/infill", &body).json();
        let expect = format!(
            "<|repo_name|>myproject\n<|file_sep|>a.py\nx = 1\n<|file_sep|>tmp\ny = 2\n<|file_sep|>filename\n\
             <|fim_prefix|>{before}{line}<|fim_suffix|>{SUFFIX}<|fim_middle|>"
        );
        assert_eq!(filled["prompt"], expect, "{size}");
        // The line of the cursor has tokens of its own.
        let mut prompt = ids(
            server,
            &expect[..expect.find(line).expect("the line")],
            true,
        );
        prompt.extend(ids(server, line, false));
        prompt.push(id(server, "<|fim_suffix|>"));
        prompt.extend(ids(server, SUFFIX, false));
        prompt.push(id(server, "<|fim_middle|>"));
        let body = json!({"prompt": prompt, "n_predict": 16, "temperature": 0, "n_probs": 2});
        let plain = server.post("/completion", &body).json();
        for name in ["content", "completion_probabilities", "tokens_evaluated"] {
            assert_eq!(filled[name], plain[name], "{size}: {name}");
        }
        assert!(
            filled["content"]
                .as_str()
                .expect("text")
                .starts_with("number > best"),
            "{size}: {filled}"
        );
    }
}

#[test]
fn the_template_is_rendered_as_by_transformers() {
    for (size, server) in servers() {
        let Some(recorded) = recorded_here(&format!("qwen2.5-coder-{size}")) else {
            return;
        };
        let conversations = recorded["conversations"].as_array().expect("an array");
        assert!(!conversations.is_empty());
        for conversation in conversations {
            let mut body = conversation["body"].clone();
            let name = &conversation["name"];
            let written = server.post("/apply-template", &body).json();
            assert_eq!(written["prompt"], conversation["prompt"], "{size}: {name}");
            body["max_tokens"] = 1.into();
            let prompt = conversation["prompt"].as_str().expect("text");
            assert_eq!(
                chat(server, &body)["usage"]["prompt_tokens"],
                json!(ids(server, prompt, true).len()),
                "{size}: {name}"
            );
        }
    }
}

fn asked_for_weather(choice: &str) -> Value {
    json!({
        "messages": [{"role": "user", "content": "What is the weather in Paris, in C?"}],
        "tools": weather(), "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 80, "temperature": 0,
    })
}

/// A constraint on what surrounds a call: the models leave out the tag, each in its own way.
fn wrapped(open: &str, close: &str) -> Value {
    let call = r#"/\{"name": "[a-z_]+", "arguments": \{[^{}]*\}\}/"#;
    json!(format!("start: {open} {call} {close}\n"))
}

#[test]
fn tools_are_called() {
    for (size, server) in servers() {
        let mut bodies = vec![
            asked_for_weather("required"),
            // As the model writes it by itself.
            asked_for_weather("auto"),
        ];
        let mut named = asked_for_weather("auto");
        named["tool_choice"] = json!({"type": "function", "function": {"name": "get_weather"}});
        bodies.push(named);
        for lark in [
            wrapped(r#""<tool_call>\n""#, r#""\n</tool_call>""#),
            wrapped(r#""```json\n""#, r#""\n```""#),
            wrapped("", ""),
        ] {
            let mut body = asked_for_weather("auto");
            body["lark"] = lark;
            bodies.push(body);
        }
        for body in bodies {
            let answer = check_stream(server, &body);
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{size}: {answer}");
            assert_eq!(choice["message"]["content"], Value::Null, "{size}");
            let calls = choice["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1, "{size}: {answer}");
            assert_eq!(check_call(&calls[0]), "get_weather", "{size}");
            let arguments = calls[0]["function"]["arguments"].as_str().expect("text");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            assert_eq!(
                arguments,
                json!({"city": "Paris", "unit": "C"}),
                "{size}: {body}"
            );
        }
    }
}

/// With this vocabulary, in which some markers are tokens.
#[test]
fn calls_are_forced_in_the_forms_of_other_models() {
    for (size, server) in servers() {
        for marks in [
            "<tool_call> <function= <parameter=",
            "<tool_call> <arg_key>",
            "[TOOL_CALLS] [ARGS]",
            "<|tool_call_start|>",
            "<|tool_call>",
        ] {
            let mut body = asked_for_weather("required");
            body["chat_template"] = format!(
                "<|im_start|>user\n{{{{ messages[0].content }}}}<|im_end|>\n<|im_start|>assistant\n{{# tools {marks} #}}"
            )
            .into();
            let answer = check_stream(server, &body);
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{size}: {answer}");
            check_call(&choice["message"]["tool_calls"][0]);
        }
    }
}

#[test]
fn embeddings_are_refused_until_a_pooling_is_set_and_then_the_references() {
    for (size, server) in servers() {
        let refused = server.post("/v1/embeddings", &json!({"input": "hi"}));
        assert_eq!(refused.status, 400, "{size}");
        assert!(
            refused
                .body
                .contains("set embeddings.pooling (CANDOR_EMBEDDINGS__POOLING) to"),
            "{}",
            refused.body
        );
        let (Some(model), Some(recorded)) = (
            qwen_model(size),
            recorded_here(&format!("qwen2.5-coder-{size}")),
        ) else {
            return;
        };
        for case in recorded["embeddings"].as_array().expect("an array") {
            let pooling: Pooling = serde_json::from_value(case["pooling"].clone()).expect("a name");
            let server = TestServer::start_with(&model, |config: &mut Config| {
                config.embeddings.pooling = pooling;
                config.engine.contexts = 1;
                config.engine.decode_width = 1;
                config.engine.parallel_sequences = 1;
            });
            let answer = server.post("/v1/embeddings", &json!({"input": case["texts"]}));
            assert_eq!(answer.status, 200, "{size}: {}", answer.body);
            let data = answer.json()["data"].clone();
            let vectors = case["vectors"].as_array().expect("an array");
            for (ours, theirs) in data.as_array().expect("an array").iter().zip(vectors) {
                let numbers = |vector: &Value| -> Vec<f64> {
                    serde_json::from_value(vector.clone()).expect("numbers")
                };
                let (ours, theirs) = (numbers(&ours["embedding"]), numbers(theirs));
                assert_eq!(ours.len(), theirs.len(), "{size}");
                let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
                let largest = apart.fold(0.0, f64::max);
                println!(
                    "{size}, {}: largest difference {largest:.2e}",
                    case["pooling"]
                );
                assert!(largest < 1e-4, "{size}: {largest}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod long {
    use super::*;

    /// A field of /proc in MiB.
    fn mib(path: &str, field: &str) -> u64 {
        let text = std::fs::read_to_string(path).expect("Linux has it");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.expect("a line").trim().trim_end_matches(" kB");
        kib.parse::<u64>().expect("a number") / 1024
    }

    /// A number in the log.
    fn logged(log: &str, name: &str) -> u64 {
        let rest = log.split(name).nth(1).expect("it is logged");
        let digits = rest.split(|character: char| !character.is_ascii_digit());
        let number = digits.into_iter().next().expect("a part");
        number.parse().expect("a number")
    }

    #[test]
    fn a_context_of_32768_tokens_takes_what_was_estimated_and_is_used() {
        let Some(model) = qwen_model("0.5b") else {
            return;
        };
        let flags = "--context-length 32768 --contexts 1 --parallel-sequences 2 --set engine.decode_width=1 --set \
                     engine.cache_lanes=1";
        let flags: Vec<&str> = ["--model", &model]
            .into_iter()
            .chain(flags.split(' '))
            .collect();
        let server = Process::start_with(&flags, &[]);
        let post = |path: &str, body: &Value| -> Value {
            serde_json::from_str(&server.post(path, "", body)).expect("JSON")
        };
        // Room for more than the model's is refused, whatever it would take.
        let ids: Vec<u64> = vec![11; 32_768];
        let refused = post("/v1/completions", &json!({"prompt": ids, "max_tokens": 1}));
        assert_eq!(
            refused["error"]["code"], "context_length_exceeded",
            "{refused}"
        );

        // Something to find, a third into four thousand tokens.
        let line = |number: usize| {
            format!(
                "Line {number}: the {} is at rest.\n",
                ["sea", "fox", "sun"][number % 3]
            )
        };
        let mut prompt: String = (0..380).map(line).collect();
        let middle = line(120);
        prompt = prompt.replace(
            &middle,
            &format!("{middle}The code of the safe is 71432.\n"),
        );
        prompt += "\nQuestion: What is the code of the safe? Answer: The code of the safe is";
        let answer = post(
            "/v1/completions",
            &json!({"prompt": prompt, "max_tokens": 8, "temperature": 0}),
        );
        let tokens = answer["usage"]["prompt_tokens"].as_u64().expect("a number");
        assert!((4_000..6_000).contains(&tokens), "{answer}");
        let text = answer["choices"][0]["text"].as_str().expect("text");
        assert!(text.contains("71432"), "{text}");

        let resident = mib(&format!("/proc/{}/status", server.id()), "VmRSS:");
        let log = server.terminate().log;
        let estimate = logged(&log, "estimated memory mib=");
        // At most what prompts with scores would add, which this one did not have.
        let least = estimate - logged(&log, "scores_mib_at_most=");
        println!("estimated {least} to {estimate} MiB, resident {resident} MiB");
        assert!(resident >= least * 9 / 10, "{resident} of {least}");
        assert!(resident <= estimate * 115 / 100, "{resident} of {estimate}");
    }

    #[test]
    fn lanes_of_32768_tokens_that_do_not_fit_are_refused_with_what_would() {
        let Some(model) = qwen_model("0.5b") else {
            return;
        };
        // 384 MiB each; 64 and more for each context.
        let available = mib("/proc/meminfo", "MemAvailable:") + mib("/proc/meminfo", "SwapFree:");
        let contexts = (2 * available / (384 * 64) + 1).min(192).to_string();
        let (status, said) = refused(&[
            "--port",
            "0",
            "--model",
            &model,
            "--context-length",
            "32768",
            "--contexts",
            &contexts,
            "--parallel-sequences",
            "192",
            "--set",
            "engine.cache_lanes=64",
            "--set",
            "engine.decode_width=1",
        ]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("too little memory"), "{said}");
        let fits = logged(&said, "--context-length ");
        assert!((256..32_768).contains(&fits), "{said}");
    }
}
