//! The numbers against their definition: whole rows of logits, read past all of the engine, and a naive softmax in
//! f64.

use std::path::Path;
use std::sync::Arc;

use candor::config::KvType;
use candor::model::{Context, ContextShape, Model, Output, Row, Runner, Token};
use serde_json::{Value, json};

use crate::server::{self, TestServer};

const PROMPTS: [&str; 4] = [
    "The capital of Michigan is Lansing.",
    "a",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12",
    "Die Größe der Wörter: déjà vu, naïve, 日本語.",
];

#[test]
fn tiny_llama() {
    check(&server::tiny_model(), server::tiny());
}

#[test]
fn smollm2() {
    check(&server::default_model(), server::default());
}

fn check(path: &str, server: &TestServer) {
    let model =
        Arc::new(Model::load(Path::new(path), &server::defaults().model).expect("the model loads"));
    let shape = ContextShape {
        lanes: 1,
        lane_tokens: 512,
        batch_rows: 512,
        logits_rows: 512,
        output: Output::Logits,
        flash_attention: false,
        kv_type_k: KvType::f16,
        kv_type_v: KvType::f16,
    };
    let mut context = Context::new(&model, shape).expect("a context");
    let mut largest = 0.0_f64;
    for prompt in PROMPTS {
        let tokens = model
            .vocab()
            .tokenize(prompt, candor::model::Added::Both, true);
        let ids: Vec<i32> = tokens.iter().map(|token| token.0).collect();
        let answer = server.complete(json!({
            "prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 5, "cache_prompt": false
        }));
        let ours = &answer["choices"][0]["logprobs"];
        context.cut(0, 0);
        let rows: Vec<Row> = tokens
            .iter()
            .enumerate()
            .map(|(position, &token)| Row {
                token,
                position,
                lane: 0,
                logits: true,
            })
            .collect();
        context.decode(&rows, 1).expect("the prompt is evaluated");
        assert_eq!(
            ours["token_logprobs"].as_array().map(Vec::len),
            Some(tokens.len())
        );
        assert_eq!(ours["token_logprobs"][0], Value::Null);
        for place in 1..tokens.len() {
            let logits = context.logits(place - 1).expect("a row");
            let naive = naive_log_softmax(logits);
            let of = |token: Token| naive[token.index()];
            let compare = |ours: &Value, exact: f64| {
                let difference = (ours.as_f64().expect("a number") - exact).abs();
                assert!(
                    difference < 1e-5 * exact.abs().max(1.0),
                    "{prompt} at {place}: {ours} against {exact}"
                );
                difference
            };
            largest = largest.max(compare(&ours["token_logprobs"][place], of(tokens[place])));
            let mut best: Vec<usize> = (0..naive.len()).collect();
            best.sort_by(|&a, &b| naive[b].total_cmp(&naive[a]).then(b.cmp(&a)));
            for id in best.into_iter().take(5) {
                let token = Token(id as i32);
                let text = model.vocab().text(token);
                // Pieces of characters share the text "".
                if !text.is_empty() {
                    largest = largest.max(compare(&ours["top_logprobs"][place][text], of(token)));
                }
            }
        }
    }
    println!("{path}: largest difference from the definition {largest:.2e}");
}

fn naive_log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits
        .iter()
        .map(|&logit| f64::from(logit) - sum.ln())
        .collect()
}
