//! Embeddings: vectors against their definition, alone and under load; and what fails, fails alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candor::config::{Config, Pooling};
use candor::engine::{EmbeddingBounds, EmbeddingRequest, Engine, EngineError};
use candor::model::{
    Context, ContextShape, DecodeError, Model, Output, Row, Runner, Runners, Token, contexts,
};

use crate::faulty::{Fault, Gate, Trouble, faulty};
use crate::server::{default_model, defaults, tiny_model};

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
            .map(|text| model.vocab().tokenize(text, true, true))
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
        while loaded.engine.load_now().expect("loaded").embeddings_waiting != count {
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
    let (runs, waits) = (ask("a", &[60, 61]), ask("b", &[70]));
    gate.wait_for(1);
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
