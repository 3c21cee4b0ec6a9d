//! Rerankers: scores against their definition, alone and under load; and what models that rank nothing answer.

use candor::config::Pooling;
use serde_json::{Value, json};

use crate::bert::{self, Bert};
use crate::server::{TestServer, root, tiny};

/// The model of the pages. `CANDOR_WRITE_PAGES=1` writes it.
const FILE: &str = "tests/models/rank-tiny.gguf";

pub fn start() -> TestServer {
    TestServer::start(&model())
}

pub fn model() -> String {
    root().join(FILE).display().to_string()
}

/// The ids of a text: of each word its first letter, and the others as they are within a word.
fn ids(text: &str) -> Vec<i32> {
    let words = text.split(' ').filter(|word| !word.is_empty());
    let letters = words.flat_map(|word| word.bytes().enumerate());
    letters
        .map(|(place, letter)| 4 + i32::from(letter - b'a') + if place == 0 { 0 } else { 26 })
        .collect()
}

/// Query and document as llama-server puts them together for a BERT.
fn pair(query: &str, document: &str) -> Vec<i32> {
    [&[bert::CLS][..], &ids(query), &[bert::SEP], &ids(document)].concat()
}

fn rank(server: &TestServer, body: &Value) -> Value {
    let answer = server.post("/v1/rerank", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

const DOCUMENTS: [&str; 4] = ["lansing", "a b c", "detroit is large", ""];

#[test]
fn the_model_of_the_pages_is_the_one_that_is_computed_here() {
    let model = Bert::ranking().gguf();
    let file = root().join(FILE);
    if std::env::var_os("CANDOR_WRITE_PAGES").is_some() {
        std::fs::write(&file, &model).expect("written");
    }
    assert!(
        std::fs::read(&file).expect("a file") == model,
        "{FILE} is another model"
    );
}

#[test]
fn scores_are_those_of_the_model() {
    let server = start();
    let model = Bert::ranking();
    let query = "capital of michigan";
    let answer = rank(
        &server,
        &json!({"query": query, "documents": DOCUMENTS, "return_documents": true}),
    );
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), DOCUMENTS.len());
    let mut tokens = 0;
    for result in results {
        let index = result["index"].as_u64().expect("an index") as usize;
        let pair = pair(query, DOCUMENTS[index]);
        let score = result["relevance_score"].as_f64().expect("a number");
        let expect = model.score(&pair);
        assert!(
            (score - expect).abs() < 1e-3,
            "{index}: {score} instead of {expect}"
        );
        assert_eq!(result["document"]["text"], DOCUMENTS[index]);
        tokens += pair.len();
    }
    let scores: Vec<f64> = results
        .iter()
        .map(|it| it["relevance_score"].as_f64().expect("a number"))
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(scores[0] - scores[3] > 0.01, "{scores:?}");
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": tokens, "total_tokens": tokens})
    );
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("list"), &json!("rank-tiny"))
    );
    // The first ones, and under the other names, as objects.
    let objects: Vec<Value> = DOCUMENTS.iter().map(|text| json!({"text": text})).collect();
    let body = json!({"query": query, "documents": objects, "top_n": 2, "model": ""});
    for path in ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"] {
        let two = server.post(path, &body).json();
        for (one, other) in two["results"]
            .as_array()
            .expect("results")
            .iter()
            .zip(results)
        {
            assert_eq!(one["index"], other["index"]);
            assert_eq!(one["relevance_score"], other["relevance_score"]);
            assert_eq!(one["document"], Value::Null);
        }
        assert_eq!(two["results"].as_array().map(Vec::len), Some(2), "{path}");
    }
}

#[test]
fn a_score_depends_on_nobody_else() {
    let server = start();
    let of = |query: &str| rank(&server, &json!({"query": query, "documents": DOCUMENTS}));
    let alone = of("one")["results"].clone();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (of, alone) = (&of, &alone);
            scope.spawn(move || {
                let query = if number % 2 == 0 {
                    "one"
                } else {
                    "another query"
                };
                let results = of(query)["results"].clone();
                assert_eq!(results == *alone, number % 2 == 0);
            });
        }
    });
}

#[test]
fn a_model_ranks_or_makes_embeddings() {
    let ranks = json!({"query": "a", "documents": ["b"]});
    let embeds = json!({"input": "a"});
    let refused = |server: &TestServer, path: &str, body: &Value, words: &str| {
        let answer = server.post(path, body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], "model");
        assert!(answer.body.contains(words), "{}", answer.body);
    };
    let server = start();
    refused(&server, "/v1/embeddings", &embeds, "POST /v1/rerank");
    refused(
        &server,
        "/v1/completions",
        &json!({"prompt": "a"}),
        "This model ranks texts (POST /v1/rerank)",
    );
    refused(
        &server,
        "/completion",
        &json!({"prompt": "a"}),
        "This model ranks texts (POST /v1/rerank)",
    );
    let n_ctx = |server: &TestServer| {
        server.get("/props").json()["default_generation_settings"]["n_ctx"].clone()
    };
    assert_eq!(n_ctx(&server), bert::TOKENS);
    refused(tiny(), "/v1/rerank", &ranks, "does not rank texts");
    // The setting makes an embedding model of a reranker.
    let file = root().join(FILE).display().to_string();
    let server = TestServer::start_with(&file, |config| config.embeddings.pooling = Pooling::Cls);
    refused(&server, "/v1/rerank", &ranks, "does not rank texts");
    let prompt = json!({"prompt": "a"});
    refused(&server, "/completion", &prompt, "only makes embeddings");
    let limited = TestServer::start_with(&file, |config| config.limits.prompt_tokens = 9);
    assert_eq!(n_ctx(&limited), 9);
    assert_eq!(server.post("/v1/embeddings", &embeds).status, 200);
}

#[test]
fn what_is_too_long_is_refused_by_its_place() {
    let server = start();
    let long = "a ".repeat(bert::TOKENS);
    let answer = server.post(
        "/v1/rerank",
        &json!({"query": "a", "documents": ["b", long]}),
    );
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("documents"), &json!("context_length_exceeded"))
    );
    assert!(answer.body.contains("index 1"), "{}", answer.body);
    assert_eq!(
        rank(&server, &json!({"query": "a", "documents": ["b"]}))["results"][0]["index"],
        0
    );
}
