//! Text ⇄ tokens over HTTP, under all their names.

use serde_json::{Value, json};

use crate::server::{TestServer, default_model, tiny, tiny_model};

fn post(server: &TestServer, path: &str, body: Value) -> Value {
    let answer = server.post(path, &body);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    answer.json()
}

#[test]
fn a_text_comes_back_from_its_tokens() {
    for model in [tiny_model(), default_model()] {
        let server = TestServer::start(&model);
        for text in [
            "Hello world",
            " two  spaces ",
            "naïve 🚀 日本",
            "",
            "a\n\tb",
            "<|im_start|>",
        ] {
            for add in [true, false] {
                let tokens = post(
                    &server,
                    "/tokenize",
                    json!({"prompt": text, "add_special_tokens": add}),
                );
                let back = post(&server, "/detokenize", json!({"tokens": tokens["tokens"]}));
                let shown = back["prompt"].as_str().expect("a text");
                assert!(
                    shown == text || shown == format!("<s>{text}"),
                    "{text:?} gave {shown:?}"
                );
                assert_eq!(back["content"], back["prompt"]);
                let count = tokens["tokens"].as_array().expect("tokens").len();
                assert_eq!(tokens["count"], count);
                // What a completion evaluates is the same, but for a prompt without any token.
                if add && count > 0 {
                    let ids = tokens["tokens"].clone();
                    let completion = post(
                        &server,
                        "/v1/completions",
                        json!({"prompt": text, "max_tokens": 0}),
                    );
                    assert_eq!(completion["usage"]["prompt_tokens"], count, "{ids}");
                }
            }
            let extras = post(&server, "/extras/tokenize", json!({"input": text}));
            let tokens = post(&server, "/tokenize", json!({"prompt": text}));
            assert_eq!(extras["tokens"], tokens["tokens"]);
            let body = json!({"prompt": text, "content": null, "messages": null});
            assert_eq!(post(&server, "/tokenize", body), tokens);
            let count = post(&server, "/extras/tokenize/count", json!({"input": text}));
            assert_eq!(count["count"], tokens["count"]);
        }
    }
}

#[test]
fn names_and_defaults_of_each_server() {
    let server = tiny();
    let tokens = |body: Value| post(server, "/tokenize", body)["tokens"].clone();
    // vLLM adds BOS, llama-server does not.
    assert_eq!(tokens(json!({"prompt": "a"})), json!([1, 263]));
    assert_eq!(tokens(json!({"content": "a"})), json!([263]));
    assert_eq!(
        tokens(json!({"content": "a", "add_special": true})),
        json!([1, 263])
    );
    assert_eq!(
        tokens(json!({"content": "</s>", "parse_special": true})),
        json!([2])
    );
    assert_ne!(
        tokens(json!({"content": "</s>", "parse_special": false})),
        json!([2])
    );
    assert_eq!(
        tokens(json!({"content": "é🚀", "with_pieces": true})),
        json!([
            {"id": 904, "piece": " é"}, {"id": 243, "piece": [240]},
            {"id": 162, "piece": [159]}, {"id": 157, "piece": [154]}, {"id": 131, "piece": [128]},
        ])
    );
    let conversation = json!({"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ messages[0].content }}"});
    assert_eq!(tokens(conversation), json!([1, 263]));
    let text = post(server, "/extras/detokenize", json!({"tokens": [1, 263, 2]}));
    assert_eq!(text["text"], "a");
    let info = server.get("/tokenizer_info").json();
    assert_eq!(info["bos_token"], "<s>");
    assert_eq!(info["eos_token"], "</s>");
    assert_eq!(info["unk_token"], "<unk>");
    assert_eq!(info["add_bos_token"], true);
    assert_eq!(info["chat_template"], Value::Null);
    assert_eq!(info["vocab_size"], 32000);
}
