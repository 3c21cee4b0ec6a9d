//! Embeddings: vectors against their definition, alone and under load; and what fails, fails alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use candor::config::{Config, Pooling};
use candor::engine::{EmbeddingBounds, EmbeddingRequest, Engine, EngineError};
use candor::model::{
    Context, ContextShape, DecodeError, Model, Output, Row, Runner, Runners, Token, contexts,
};

use serde_json::{Value, json};

use crate::bert::{self, Bert};
use crate::faulty::{Fault, Gate, Trouble, faulty};
use crate::server::{TestServer, default_model, defaults, tiny_model};

/// An engine that has loaded its model.
struct Loaded {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
}

impl Loaded {
    fn start(model: &str, change: impl FnOnce(&mut Config), runners: Runners) -> Self {
        let mut config = defaults();
        config.model.source = model.to_owned();
        config.embeddings.pooling = Pooling::Mean;
        change(&mut config);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (engine, mut started) = Engine::start(&config, runners);
        runtime
            .block_on(started.wait_for(Option::is_some))
            .expect("the loader says how it went");
        Self { engine, runtime }
    }

    fn bounds(&self) -> EmbeddingBounds {
        self.engine.embedding_bounds().expect("embeddings are made")
    }

    fn embed(&self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.runtime
            .block_on(embed(&self.engine, texts, self.bounds().dimensions))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.engine.close();
    }
}

async fn embed(
    engine: &Engine,
    texts: &[&[Token]],
    dimensions: usize,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let request = EmbeddingRequest {
        texts: texts.iter().map(|&text| text.into()).collect(),
        dimensions,
    };
    engine.embed("a".into(), Instant::now(), request).await
}

/// What the model makes of each token, all of a text in one decode.
fn rows_of(model: &Arc<Model>, text: &[Token]) -> Vec<Vec<f64>> {
    let settings = defaults().engine;
    let shape = ContextShape {
        lanes: 1,
        lane_tokens: text.len(),
        batch_rows: text.len(),
        logits_rows: text.len(),
        output: Output::Embeddings,
        flash_attention: settings.flash_attention,
        kv_type_k: settings.kv_type_k,
        kv_type_v: settings.kv_type_v,
    };
    let mut context = Context::new(model, shape).expect("a context");
    let rows: Vec<Row> = text
        .iter()
        .enumerate()
        .map(|(position, &token)| Row {
            token,
            position,
            lane: 0,
            logits: false,
        })
        .collect();
    // Every row is output all the same, but ours are told apart by what was asked for.
    assert_eq!(context.decode(&rows, 1), Ok(()));
    assert_eq!(context.embedding(0), None);
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|row| Row {
            logits: true,
            ..row
        })
        .collect();
    context.cut(0, 0);
    assert_eq!(context.decode(&rows, 1), Ok(()));
    (0..text.len())
        .map(|row| {
            let row = context.embedding(row).expect("a row");
            row.iter().map(|&number| f64::from(number)).collect()
        })
        .collect()
}

fn length(vector: &[f64]) -> f64 {
    vector
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt()
}

/// The largest difference between a vector and one that has any length.
fn difference(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let scale = length(theirs);
    ours.iter()
        .zip(theirs)
        .map(|(&ours, theirs)| (f64::from(ours) - theirs / scale).abs())
        .fold(0.0, f64::max)
}

#[test]
fn vectors_are_made_of_what_the_model_makes_of_each_token() {
    let all = [Pooling::Mean, Pooling::Cls, Pooling::Last];
    for (path, poolings) in [(tiny_model(), &all[..]), (default_model(), &all[..1])] {
        let model =
            Arc::new(Model::load(Path::new(&path), &defaults().model).expect("the model loads"));
        // The last one is evaluated in several pieces.
        let texts = [
            "a",
            "The capital of Michigan is Lansing.",
            &"one two three, ".repeat(40),
        ];
        let texts: Vec<Vec<Token>> = texts
            .iter()
            .map(|text| {
                model
                    .vocab()
                    .tokenize(text, candor::model::Added::Both, true)
            })
            .collect();
        assert!(texts[2].len() > 130, "{}", texts[2].len());
        let texts: Vec<&[Token]> = texts.iter().map(Vec::as_slice).collect();
        for &pooling in poolings {
            let loaded = Loaded::start(&path, |c| c.embeddings.pooling = pooling, contexts());
            let vectors = loaded.embed(&texts).expect("vectors");
            let mut largest = 0.0_f64;
            for (vector, text) in vectors.iter().zip(&texts) {
                let rows = rows_of(&model, text);
                let expect: Vec<f64> = match pooling {
                    Pooling::Cls => rows[0].clone(),
                    Pooling::Last => rows[text.len() - 1].clone(),
                    _ => (0..rows[0].len())
                        .map(|place| rows.iter().map(|row| row[place]).sum())
                        .collect(),
                };
                largest = largest.max(difference(vector, &expect));
                let wide: Vec<f64> = vector.iter().map(|&number| f64::from(number)).collect();
                assert!((length(&wide) - 1.0).abs() < 1e-6, "{}", length(&wide));
            }
            assert!(largest < 1e-5, "{path} {pooling:?}: {largest}");
            println!("{path} {pooling:?}: largest difference from the definition {largest:.2e}");
            // Others in the request, or before it, change nothing.
            for (vector, text) in vectors.iter().zip(&texts) {
                assert_eq!(loaded.embed(&[text]).as_deref(), Ok(&[vector.clone()][..]));
            }
            // Cut, and then of length 1 again.
            let short = loaded
                .runtime
                .block_on(embed(&loaded.engine, &texts[..1], 16))
                .expect("a vector");
            let whole: Vec<f64> = vectors[0][..16]
                .iter()
                .map(|&number| f64::from(number))
                .collect();
            assert!(difference(&short[0], &whole) < 1e-6);
        }
    }
}

#[test]
fn a_model_like_bert_makes_embeddings_and_nothing_else() {
    let bert = Bert::new();
    let path = bert.write("bert");
    let loaded = Loaded::start(
        &path.to_string_lossy(),
        |c| c.embeddings.pooling = Pooling::Auto,
        contexts(),
    );
    std::fs::remove_file(&path).expect("it was there");
    let model = loaded.engine.model().expect("loaded");
    // That of the settings would be longer; a longer text has no place in the model's table of positions.
    let bounds = loaded.bounds();
    assert_eq!((bounds.tokens, bounds.dimensions), (bert::TOKENS, 32));
    let texts = ["b", "candor is a virtue", &"ab ".repeat(31)];
    let mut furthest = 0.0_f64;
    for text in texts {
        let tokens = model
            .vocab()
            .tokenize(text, candor::model::Added::Both, true);
        let ids: Vec<i32> = tokens.iter().map(|token| token.0).collect();
        assert_eq!(
            (ids.first(), ids.last()),
            (Some(&bert::CLS), Some(&bert::SEP))
        );
        let vectors = loaded.embed(&[&tokens]).expect("a vector");
        let mean = |sees: fn(usize, usize) -> bool| -> Vec<f64> {
            let rows = bert.rows(&ids, sees);
            (0..rows[0].len())
                .map(|place| rows.iter().map(|row| row[place]).sum())
                .collect()
        };
        // llama.cpp looks GELU up in a table of 16-bit numbers.
        let off = difference(&vectors[0], &mean(|_, _| true));
        assert!(off < 2e-3, "{text}: {off}");
        println!("{text}: largest difference from BERT by the book {off:.2e}");
        furthest = furthest.max(difference(
            &vectors[0],
            &mean(|place, other| other <= place),
        ));
    }
    assert!(
        furthest > 0.05,
        "{furthest}: that it looks at what follows makes no difference"
    );
    assert!(!loaded.engine.generates());
    assert_eq!(loaded.engine.health(), Ok(()));
}

#[test]
fn a_model_that_names_no_pooling_says_so_unless_it_is_set() {
    let loaded = Loaded::start(
        &tiny_model(),
        |c| c.embeddings.pooling = Pooling::Auto,
        contexts(),
    );
    let Err(EngineError::NoEmbeddings(why)) = loaded.engine.embedding_bounds() else {
        panic!("the tiny model names no pooling");
    };
    assert!(why.contains("embeddings.pooling"), "{why}");
    let refused = loaded
        .runtime
        .block_on(embed(&loaded.engine, &[&[Token(1)]], 1));
    assert_eq!(refused, Err(EngineError::NoEmbeddings(why)));
}

/// Whoever has this token meets the fault.
const POISON: Token = Token(31_999);

#[test]
fn what_fails_fails_alone_and_the_context_is_made_anew() {
    for panics in [false, true] {
        let made = Arc::new(AtomicUsize::new(0));
        let trouble: Trouble = Arc::new(move |_, rows| {
            let is_poisoned = rows.iter().any(|row| row.token == POISON);
            is_poisoned.then_some(match panics {
                false => Fault::Error(DecodeError::Failed(-3)),
                true => Fault::Panic,
            })
        });
        let (faulty, _) = faulty(trouble);
        let (counted, workers) = (Arc::clone(&made), 1);
        let runners: Runners = Arc::new(move |number, context| {
            counted.fetch_add(usize::from(number == workers), Ordering::SeqCst);
            faulty(number, context)
        });
        let loaded = Loaded::start(&tiny_model(), |c| c.engine.contexts = workers, runners);
        assert_eq!(
            made.load(Ordering::SeqCst),
            0,
            "nobody asked for embeddings yet"
        );
        let good: &[Token] = &[Token(1), Token(300)];
        let vectors = loaded.embed(&[good]).expect("a vector");
        assert_eq!(
            loaded.embed(&[good, &[Token(1), POISON]]),
            Err(EngineError::Decode)
        );
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(loaded.embed(&[good]), Ok(vectors));
        assert_eq!(made.load(Ordering::SeqCst), 2);
        assert_eq!(loaded.engine.health(), Ok(()));
    }
}

#[test]
fn who_left_is_not_evaluated_and_clients_take_turns_text_by_text() {
    let gate = Arc::new(Gate::default());
    let passed = Arc::clone(&gate);
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let trouble: Trouble = Arc::new(move |_, rows| {
        passed.pass();
        seen.lock().expect("not poisoned").push(rows[0].token.0);
        None
    });
    let (runners, _) = faulty(trouble);
    let loaded = Loaded::start(&tiny_model(), |c| c.limits.queue_length = 2, runners);
    let ask = |client: &str, ids: &[i32]| {
        let (engine, client) = (loaded.engine.clone(), Arc::from(client));
        let request = EmbeddingRequest {
            texts: ids
                .iter()
                .map(|&id| [Token(id)].as_slice().into())
                .collect(),
            dimensions: 8,
        };
        loaded
            .runtime
            .spawn(async move { engine.embed(client, Instant::now(), request).await })
    };
    let waiting = |count| {
        while loaded
            .engine
            .load_now()
            .expect("loaded")
            .embedding_requests_waiting
            != count
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    gate.close();
    let opener = gate.opener();
    let many = ask("many", &[10, 11, 12]);
    gate.wait_for(1);
    let left = ask("left", &[20]);
    waiting(1);
    let one = ask("one", &[30]);
    waiting(2);
    // So many may wait; but one more of each client that has none waiting.
    let refused = loaded
        .runtime
        .block_on(ask("one", &[31]))
        .expect("no panic");
    assert_eq!(refused, Err(EngineError::QueueFull { waiting: 2 }));
    left.abort();
    waiting(1);
    drop(opener);
    for task in [many, one] {
        let vectors = loaded
            .runtime
            .block_on(task)
            .expect("no panic")
            .expect("vectors");
        assert!(vectors.iter().all(|vector| vector.len() == 8));
    }
    assert_eq!(*order.lock().expect("not poisoned"), [10, 30, 11, 12]);

    // Of a text in several pieces, whose client leaves, the first is evaluated.
    order.lock().expect("not poisoned").clear();
    gate.close();
    let opener = gate.opener();
    let engine = loaded.engine.clone();
    let long = loaded
        .runtime
        .spawn(async move { embed(&engine, &[&[Token(40); 500]], 8).await });
    gate.wait_for(1);
    long.abort();
    assert!(
        loaded
            .runtime
            .block_on(long)
            .is_err_and(|error| error.is_cancelled())
    );
    drop(opener);
    loaded.embed(&[&[Token(50)]]).expect("a vector");
    assert_eq!(*order.lock().expect("not poisoned"), [40, 50]);

    // Closing ends who runs and who waits.
    gate.close();
    let opener = gate.opener();
    let runs = ask("a", &[60, 61]);
    gate.wait_for(1);
    let waits = ask("b", &[70]);
    waiting(1);
    let closing = std::thread::spawn({
        let engine = loaded.engine.clone();
        move || engine.close()
    });
    let waits = loaded.runtime.block_on(waits).expect("no panic");
    drop(opener);
    let runs = loaded.runtime.block_on(runs).expect("no panic");
    for ended in [runs, waits] {
        assert_eq!(ended, Err(EngineError::closing()));
    }
    closing.join().expect("no panic");
}

/// A server that makes embeddings by the mean.
fn server(path: &str) -> TestServer {
    TestServer::start_with(path, |c| c.embeddings.pooling = Pooling::Mean)
}

fn ask(server: &TestServer, body: &Value) -> Value {
    let answer = server.send(
        "/v1/embeddings",
        "application/json",
        body.to_string().as_bytes(),
    );
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

/// The vectors of an answer, as they are written.
fn vectors(answer: &Value) -> Vec<Value> {
    let data = answer["data"].as_array().expect("an array");
    for (index, entry) in data.iter().enumerate() {
        assert_eq!(entry["index"], index);
        assert_eq!(entry["object"], "embedding");
    }
    data.iter()
        .map(|entry| entry["embedding"].clone())
        .collect()
}

#[test]
fn over_http_it_is_openais_shape() {
    let server = server(&tiny_model());
    let texts = ["One.", "Two texts.", "One."];
    let answer = ask(
        &server,
        &json!({"input": texts, "model": "llama2-vocab-tiny", "user": "u"}),
    );
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "llama2-vocab-tiny");
    let all = vectors(&answer);
    assert_eq!(all[0], all[2]);
    assert_ne!(all[0], all[1]);
    let mut counted = 0;
    for (text, vector) in texts.iter().zip(&all) {
        let alone = ask(&server, &json!({"input": text, "encoding_format": "float"}));
        assert_eq!(&vectors(&alone)[..], std::slice::from_ref(vector));
        let used = alone["usage"]["prompt_tokens"].as_u64().expect("a number");
        assert_eq!(
            alone["usage"],
            json!({"prompt_tokens": used, "total_tokens": used})
        );
        counted += used;
    }
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": counted, "total_tokens": counted})
    );

    // Ids, alone and in lists: those of the texts have the texts' vectors.
    let model = Model::load(Path::new(&tiny_model()), &defaults().model).expect("the model loads");
    let ids: Vec<Vec<i32>> = texts
        .iter()
        .map(|text| {
            model
                .vocab()
                .tokenize(text, candor::model::Added::Both, true)
                .iter()
                .map(|it| it.0)
                .collect()
        })
        .collect();
    assert_eq!(vectors(&ask(&server, &json!({"input": ids}))), all);
    assert_eq!(vectors(&ask(&server, &json!({"input": ids[1]})))[0], all[1]);

    // Base64 is the same numbers, to the bit.
    let written = vectors(&ask(
        &server,
        &json!({"input": texts, "encoding_format": "base64"}),
    ));
    for (written, plain) in written.iter().zip(&all) {
        let bytes = BASE64_STANDARD
            .decode(written.as_str().expect("text"))
            .expect("base64");
        let (floats, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty());
        let floats: Vec<f32> = floats
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        let plain = plain.as_array().expect("an array").iter();
        let plain: Vec<f32> = plain
            .map(|it| it.as_f64().expect("a number") as f32)
            .collect();
        assert_eq!(floats, plain);
    }
    let short = vectors(&ask(&server, &json!({"input": texts, "dimensions": 3})));
    assert!(
        short
            .iter()
            .all(|vector| vector.as_array().map(Vec::len) == Some(3))
    );

    // As many tokens as the context holds, and one more.
    let most = defaults().engine.context_length;
    assert_eq!(
        ask(&server, &json!({"input": vec![5; most]}))["usage"]["prompt_tokens"],
        most
    );
    let refuse = |input: Value, part: &str| {
        let body = json!({"input": input}).to_string();
        let answer = server.send("/v1/embeddings", "application/json", body.as_bytes());
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], "input");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(part), "{message}");
    };
    refuse(
        json!(vec![5; most + 1]),
        "at index 0 of `input` has 2049 tokens",
    );
    refuse(
        json!(["a", "word ".repeat(2100)]),
        "at index 1 of `input` has",
    );
    refuse(json!("a".repeat(1_000_000)), "has at least");
}

#[test]
fn under_load_the_bits_are_the_same_and_generation_keeps_its_own() {
    let server = server(&default_model());
    let texts = [
        "Rain falls mainly on the plain.",
        &"Rain falls. ".repeat(60),
    ];
    let body = json!({"input": texts, "encoding_format": "base64"});
    let alone = vectors(&ask(&server, &body));
    let prompt =
        json!({"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "logprobs": 2});
    let written = server.complete(prompt.clone())["choices"].clone();
    std::thread::scope(|scope| {
        let asks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| vectors(&ask(&server, &body))))
            .collect();
        let completes: Vec<_> = (0..4)
            .map(|_| {
                let mut prompt = prompt.clone();
                prompt["cache_prompt"] = json!(false);
                let server = &server;
                scope.spawn(move || server.complete(prompt)["choices"].clone())
            })
            .collect();
        for ask in asks {
            assert_eq!(ask.join().expect("no panic"), alone);
        }
        for complete in completes {
            assert_eq!(complete.join().expect("no panic"), written);
        }
    });
    server.wait_until("candor_embedding_requests_waiting", 0);
    assert!(server.metric("candor_embedding_tokens_total") > 5 * 120);
}

#[test]
fn a_model_like_bert_is_served() {
    let path = Bert::new().write("bert-served");
    let server = TestServer::start(&path.to_string_lossy());
    std::fs::remove_file(&path).expect("it was there");
    let answer = ask(&server, &json!({"input": "candor is a virtue"}));
    assert_eq!(vectors(&answer)[0].as_array().map(Vec::len), Some(32));
    let refused = server.try_complete(&json!({"prompt": "a"}));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(
        refused.json()["error"]["message"],
        "This model only makes embeddings (POST /v1/embeddings); it cannot generate text."
    );
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["meta"]["generates"], false);
    // However long it is: spaces are nothing, and a word that it does not know is one token.
    let folded = format!("a{}{}", " ".repeat(5000), "1".repeat(5000));
    assert_eq!(
        ask(&server, &json!({"input": folded}))["usage"]["prompt_tokens"],
        4
    );
    let long = json!({"input": "a ".repeat(100)}).to_string();
    let refused = server.send("/v1/embeddings", "application/json", long.as_bytes());
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded");
    assert_eq!(server.metric("candor_slots"), 0);
}
