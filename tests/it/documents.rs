//! The documents: each reference leads somewhere, each field that is documented is taken, and the page shows them all.

use serde_json::{Value, json};

use crate::server::{TestServer, tiny};
use crate::{fim, rerank};

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(target) if name == "$ref" => found.push(target),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = tiny().get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for target in found {
        let pointer = target.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{target} is nowhere");
    }
    // Answers of one shape for each route.
    let choices = |name: &str| {
        document["components"]["schemas"][name]["allOf"][1]["properties"]["choices"]["items"]["$ref"].clone()
    };
    assert_eq!(choices("Completion"), "#/components/schemas/Choice");
    assert_eq!(choices("ChatCompletion"), "#/components/schemas/ChatChoice");
    assert_eq!(
        choices("ChatCompletionEvent"),
        "#/components/schemas/ChatPiece"
    );
}

/// Sends each field's default, or null: a field that is documented is never unknown.
#[test]
fn every_field_that_is_documented_is_taken() {
    let model = fim::write("documents").display().to_string();
    let server = TestServer::start_with(&model, |config| {
        config.model.chat_template = Some("{{ messages[0].content }}".to_owned());
        config.embeddings.pooling = candor::config::Pooling::Mean;
    });
    let ranking = rerank::start();
    let document = server.get("/openapi.json").json();
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let body = &operations["post"]["requestBody"]["content"]["application/json"]["schema"];
        let Some(fields) = body["properties"].as_object() else {
            continue;
        };
        let mut sample = match path.as_str() {
            "/v1/completions" => json!({"prompt": "a", "max_tokens": 1}),
            "/v1/chat/completions" => {
                json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
            }
            "/v1/responses" => json!({"input": "a", "max_output_tokens": 1}),
            "/v1/score" => json!({"stem": "a", "choices": ["b"]}),
            "/v1/perplexity" => json!({"text": "a b"}),
            "/apply-template" => json!({"messages": [{"role": "user", "content": "a"}]}),
            "/tokenize" => json!({"prompt": "a"}),
            "/detokenize" | "/extras/detokenize" => json!({"tokens": [1]}),
            "/completion" => json!({"prompt": "a", "n_predict": 1}),
            "/infill" => json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 1}),
            "/v1/rerank" => json!({"query": "a", "documents": ["b"]}),
            _ => json!({"input": "a"}),
        };
        for (name, schema) in fields {
            if sample.get(name).is_none() {
                sample[name] = schema.get("default").cloned().unwrap_or_default();
            }
            tried += 1;
        }
        // Which goes without the other.
        if let Some(sample) = sample.as_object_mut() {
            sample.remove("stream_options");
        }
        let of_it = if path == "/v1/rerank" {
            &ranking
        } else {
            &server
        };
        let answer = of_it.post(path, &sample);
        assert_eq!(answer.status, 200, "{path} {sample}: {}", answer.body);
    }
    assert!(tried > 80, "{tried} fields");
}

#[test]
fn the_page_shows_every_route_and_field_and_runs_nothing() {
    let server = tiny();
    let document = server.get("/openapi.json").json();
    let page = server.get("/docs");
    assert_eq!(page.content_type, "text/html; charset=utf-8");
    for (path, operations) in document["paths"].as_object().expect("paths") {
        assert!(
            page.body
                .contains(&format!(" {}</code>", path.replace('/', "&#x2f;")))
                || page.body.contains(&format!(" {path}</code>")),
            "{path}"
        );
        let body = &operations["post"]["requestBody"]["content"]["application/json"]["schema"];
        for (name, schema) in body["properties"].as_object().into_iter().flatten() {
            // The page leaves out what has no effect.
            assert!(
                schema["description"] == "No effect."
                    || page.body.contains(&format!("<code>{name}</code>")),
                "{path} {name}"
            );
        }
    }
    for active in ["<script", "href=\"http", "src=", "onload", "url("] {
        assert!(!page.body.contains(active), "{active}");
    }
}
