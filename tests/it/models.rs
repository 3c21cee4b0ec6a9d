//! Several models behind one port: each answers as it does alone, and is there when it is asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use candor::api::AppState;
use candor::config::{Config, LoadAt};
use candor::engine::Models;
use candor::model::{Model, Runner, Runners};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::faulty::{Gate, Trouble, faulty};
use crate::process::{Process, candor};
use crate::server::{TestServer, default, default_model, gemma_model, tiny, tiny_model};

/// A model of the settings, by name and source, with one context; changed as the test wants it.
fn model(config: &Config, name: &str, source: &str, change: impl FnOnce(&mut Config)) -> Config {
    let mut one = config.clone();
    one.model.source = source.to_owned();
    one.model.name = name.to_owned();
    one.engine.contexts = 1;
    change(&mut one);
    one
}

fn at_first_use(one: &mut Config) {
    one.model.load = LoadAt::FirstUse;
}

/// Two copies of the tiny model, loaded at the first use.
fn twins(config: &mut Config) {
    config.models = ["a", "b"]
        .map(|name| model(config, name, &tiny_model(), at_first_use))
        .to_vec();
}

/// Runners that count how many contexts were made, by the file's name of the model: one for each time it was loaded.
fn counted(runners: Runners) -> (Runners, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let counted: Runners = Arc::new(move |number, context| {
        counter.fetch_add(1, Ordering::SeqCst);
        runners(number, context)
    });
    (counted, count)
}

fn asked(model: &str) -> Value {
    json!({"model": model, "prompt": "The capital of Michigan is ", "max_tokens": 8, "seed": 1, "logprobs": 2})
}

/// What must be the same wherever it is computed.
fn bits(answer: &Value) -> Value {
    json!([answer["choices"], answer["system_fingerprint"]])
}

/// Each model's status.
fn statuses(server: &TestServer) -> BTreeMap<String, String> {
    let list = server.get("/v1/models").json();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let models = list["data"].as_array().expect("a list").iter();
    models
        .map(|it| (text(&it["id"]), text(&it["status"]["value"])))
        .collect()
}

fn wait_until(server: &TestServer, model: &str, status: &str) {
    while statuses(server)[model] != status {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn each_name_answers_as_its_model_does_alone() {
    let gemma = gemma_model();
    let server = TestServer::start_with("unused", |config| {
        let mut models = vec![
            model(config, "noise", &tiny_model(), |one| {
                one.model.aliases = vec!["other/noise".to_owned()];
            }),
            model(config, "small", &default_model(), |one| {
                one.engine.contexts = 2;
                one.engine.context_length = 1024;
                one.sampling.max_tokens = 3;
            }),
        ];
        if let Some(path) = &gemma {
            models.push(model(config, "gemma", path, at_first_use));
        }
        config.models = models;
    });
    let alone = |server: &TestServer| {
        let mut body = asked("");
        body.as_object_mut().expect("an object").remove("model");
        bits(&server.complete(body))
    };
    let mut expected = vec![
        ("noise", alone(tiny())),
        ("other/noise", alone(tiny())),
        ("small", alone(default())),
    ];
    if let Some(path) = &gemma {
        expected.push(("gemma", alone(&TestServer::start(path))));
    }
    // One after the other, and all at once.
    for (name, expect) in &expected {
        let answer = server.complete(asked(name));
        assert_eq!(answer["model"], **name);
        assert_eq!(bits(&answer), *expect, "{name}");
    }
    std::thread::scope(|scope| {
        for (name, expect) in expected.iter().cycle().take(24) {
            let server = &server;
            scope.spawn(move || assert_eq!(bits(&server.complete(asked(name))), *expect, "{name}"));
        }
    });
    assert_eq!(
        alone(&server),
        expected[0].1,
        "who names none gets the first"
    );

    // Each has settings of its own.
    let count = |name: &str| {
        let answer = server.complete(json!({"model": name, "prompt": "Once", "temperature": 0}));
        answer["usage"]["completion_tokens"].clone()
    };
    assert_eq!((count("noise"), count("small")), (json!(16), json!(3)));
    let long = json!({"model": "small", "prompt": vec![5; 1025]});
    let answer = server.try_complete(&long);
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    assert!(answer.body.contains("1024 tokens"), "{}", answer.body);

    let answer = server.try_complete(&asked("medium"));
    assert_eq!(answer.status, 404, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
    assert_eq!(server.get("/v1/models/medium").status, 404);

    let list = server.get("/v1/models").json();
    let names: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(names[..3], ["noise", "other/noise", "small"]);
    let mut small = server.get("/v1/models/small").json();
    assert_eq!(small, list["data"][2]);
    assert!(small["created"].take().is_u64());
    assert!(small["bits_class"].take().is_string());
    assert_eq!(
        small,
        json!({
            "id": "small", "object": "model", "created": null, "owned_by": "candor", "max_model_len": 1024,
            "parallel_sequences": 16, "status": {"value": "loaded"}, "bits_class": null,
            "meta": {
                "description": "llama 256M Q4_1", "n_vocab": 49152, "n_ctx_train": 8192, "n_embd": 576,
                "n_params": 134515008, "size": 96576768, "fingerprint": "eb8b8eec5eb3",
                "generates": true
            }
        })
    );
    assert!(!list.to_string().contains(".gguf"), "{list}");
    assert_eq!(
        server.get("/v1/models/other%2Fnoise").json()["max_model_len"],
        2048
    );
    // All places of all of them.
    let models = if gemma.is_some() { 3 } else { 2 };
    server.wait_until("candor_slots", 16 * models);
    assert_eq!(server.metric("candor_workers"), 1 + models);
}

#[test]
fn the_first_use_loads_once() {
    let (runners, loads) = counted(candor::model::contexts());
    let server = TestServer::start_on("unused", twins, runners);
    // Ready, though nothing is loaded; and to look loads nothing.
    let unloaded = server.get("/v1/models/a").json();
    assert_eq!(unloaded["status"], json!({"value": "unloaded"}));
    assert_eq!(
        (&unloaded["meta"], &unloaded["max_model_len"]),
        (&Value::Null, &json!(2048))
    );
    assert_eq!(server.try_complete(&asked("c")).status, 404);
    assert_eq!(server.metric("candor_workers"), 0);
    assert_eq!(loads.load(Ordering::SeqCst), 0);
    let expect = bits(&tiny().complete(asked("llama2-vocab-tiny")));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(bits(&server.complete(asked("b"))), expect));
        }
    });
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(
        statuses(&server).into_values().collect::<Vec<_>>(),
        ["unloaded", "loaded"]
    );
    // The documents are told by what is there.
    let page = server.get("/docs").body;
    assert!(page.contains("<code>b</code>"), "{page}");
    assert_eq!(server.get("/openapi.json").status, 200);
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[test]
fn who_is_idle_is_unloaded_and_comes_back() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, _| {
        held.pass();
        None
    });
    let (runners, loads) = counted(faulty(trouble).0);
    let server = TestServer::start_on(
        "unused",
        |config| {
            let unload = |one: &mut Config| one.model.unload_after_ms = 20;
            let source = tiny_model();
            config.models = vec![
                model(config, "a", &source, unload),
                model(config, "b", &source, |_| {}),
            ];
        },
        runners,
    );
    // Loaded at the start, and used by nobody since.
    wait_until(&server, "a", "unloaded");
    assert_eq!(server.get("/health").status, 200);
    let expect = bits(&server.complete(asked("b")));
    for round in 0..3 {
        assert_eq!(bits(&server.complete(asked("a"))), expect);
        assert_eq!(loads.load(Ordering::SeqCst), 3 + 2 * round);
        wait_until(&server, "a", "unloaded");
        // What was found out about it stays known.
        assert_eq!(server.get("/v1/models/a").json()["meta"]["n_vocab"], 32000);
        // However long it generates, it is not idle: a stream, and a request of several sequences.
        gate.close();
        let _opener = gate.opener();
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| server.stream(asked("a")));
            let several = scope.spawn(|| {
                let mut body = asked("a");
                body["n"] = json!(20);
                server.complete(body)
            });
            gate.wait_for(1);
            server.wait_until("candor_sequences_running", 16);
            std::thread::sleep(std::time::Duration::from_millis(60));
            assert_eq!(statuses(&server)["a"], "loaded");
            gate.open();
            assert_eq!(stream.join().expect("an answer").len(), 9);
            let several = several.join().expect("an answer");
            assert_eq!(several["choices"].as_array().map(Vec::len), Some(20));
        });
        wait_until(&server, "a", "unloaded");
        assert_eq!(server.metric("candor_slots"), 16);
    }
    assert_eq!(statuses(&server)["b"], "loaded");
}

#[test]
fn room_is_made_by_unloading_who_is_idle() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, _| {
        held.pass();
        None
    });
    let server = TestServer::start_on(
        "unused",
        |config| {
            twins(config);
            config.limits.loaded_models = 1;
        },
        faulty(trouble).0,
    );
    let expect = bits(&server.complete(asked("a")));
    for name in ["b", "a", "b", "a"] {
        assert_eq!(bits(&server.complete(asked(name))), expect);
        let loaded: Vec<_> = statuses(&server)
            .into_iter()
            .filter(|(_, it)| it == "loaded")
            .collect();
        assert_eq!(loaded, [(name.to_owned(), "loaded".to_owned())]);
    }
    // Nobody is cut for another, and who keeps a model busy lets others have their turn.
    gate.close();
    let _opener = gate.opener();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.complete(asked("a")));
        gate.wait_for(1);
        let other = scope.spawn(|| server.complete(asked("b")));
        server.wait_until("candor_requests_waiting", 1);
        let busy: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0;
                    while !done.load(Ordering::SeqCst) {
                        assert_eq!(bits(&server.complete(asked("a"))), expect);
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        // They came after the one that waits for room.
        server.wait_until("candor_requests_waiting", 5);
        assert_eq!(server.metric("candor_sequences_running"), 1);
        gate.open();
        assert_eq!(bits(&first.join().expect("an answer")), expect);
        assert_eq!(bits(&other.join().expect("an answer")), expect);
        done.store(true, Ordering::SeqCst);
        for thread in busy {
            assert!(thread.join().expect("answers") > 0);
        }
    });
    assert_eq!(server.metric("candor_requests_waiting"), 0);
}

#[test]
fn waiting_for_a_model_is_bounded() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let trouble: Trouble = Arc::new(move |_, _| {
        held.pass();
        None
    });
    let server = TestServer::start_on(
        "unused",
        |config| {
            twins(config);
            config.limits.loaded_models = 1;
            config.limits.queue_length = 2;
            config.limits.queue_timeout_ms = 3000;
        },
        faulty(trouble).0,
    );
    let expect = bits(&server.complete(asked("a")));
    gate.close();
    let _opener = gate.opener();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.complete(asked("a")));
        gate.wait_for(1);
        let others: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| server.try_complete(&asked("b"))))
            .collect();
        server.wait_until("candor_requests_waiting", 2);
        let answer = server.try_complete(&asked("b"));
        assert_eq!(
            (answer.status, answer.retry_after.as_deref()),
            (503, Some("1"))
        );
        assert_eq!(answer.json()["error"]["code"], "server_overloaded");
        for other in others {
            let answer = other.join().expect("an answer");
            assert_eq!(answer.status, 503);
            assert_eq!(
                answer.json()["error"]["message"],
                "The model `b` was not loaded within 3000 ms: all loaded models are in use, and no more can be loaded at \
                 once. Try again shortly."
            );
        }
        // Nobody waits for room any more, so the other stays, and takes requests again.
        let again = scope.spawn(|| server.complete(asked("a")));
        server.wait_until("candor_sequences_running", 2);
        gate.open();
        assert_eq!(bits(&running.join().expect("an answer")), expect);
        assert_eq!(bits(&again.join().expect("an answer")), expect);
    });
    assert_eq!(bits(&server.complete(asked("b"))), expect);
}

#[test]
fn a_model_that_cannot_be_loaded_hurts_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, "GGUF and then nothing").expect("written");
    let panics = Arc::new(Mutex::new(true));
    let wanted = Arc::clone(&panics);
    let server = TestServer::start_on(
        "unused",
        |config| {
            let source = path.to_string_lossy().into_owned();
            config.models = vec![
                model(config, "good", &tiny_model(), |_| {}),
                model(config, "broken", &source, at_first_use),
                model(config, "lost", "nowhere/at/all.gguf", at_first_use),
                model(config, "panics", &tiny_model(), |one| {
                    at_first_use(one);
                    one.engine.contexts = 2;
                }),
            ];
        },
        Arc::new(move |number, context| {
            assert!(
                number == 0 || !*wanted.lock().expect("not poisoned"),
                "on command"
            );
            candor::model::contexts()(number, context)
        }),
    );
    let expect = bits(&server.complete(asked("good")));
    for (name, why) in [
        ("broken", "llama.cpp could not load its file"),
        ("lost", "its file could not be fetched or found"),
        ("panics", "internal server error"),
    ] {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let answer = server.try_complete(&asked(name));
                    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")));
                    assert_eq!(
                        answer.json()["error"],
                        json!({
                            "message": format!("The model `{name}` could not be loaded: {why}. Try again shortly."),
                            "type": "server_error", "param": null, "code": "server_unavailable"
                        })
                    );
                });
            }
            scope.spawn(|| assert_eq!(bits(&server.complete(asked("good"))), expect));
        });
        let shown = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!(
            shown["status"],
            json!({"value": "unloaded", "failed": true})
        );
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(server.metric("candor_workers_alive"), 1);
    }
    // Whatever it was, it is tried again after a while.
    std::fs::copy(tiny_model(), &path).expect("copied");
    *panics.lock().expect("not poisoned") = false;
    for name in ["broken", "panics"] {
        let answer = loop {
            let answer = server.try_complete(&asked(name));
            if answer.status == 200 {
                break answer.json();
            }
            assert_eq!(answer.status, 503, "{}", answer.body);
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        assert_eq!(answer["choices"], expect[0], "{name}");
    }
}

/// Runners that remember the models of their contexts, and check that a model is loaded only when no other's weights are
/// in memory.
fn one_in_memory() -> (Runners, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let before: Mutex<Vec<Weak<Model>>> = Mutex::default();
    let runners: Runners = Arc::new(move |number, context| {
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let in_memory = before.iter().filter(|one| one.strong_count() > 0).count();
        before.push(Arc::downgrade(context.model()));
        drop(before);
        assert_eq!(in_memory, 0, "the weights of another model are in memory");
        count.fetch_add(1, Ordering::SeqCst);
        candor::model::contexts()(number, context)
    });
    (runners, loads)
}

/// Two copies of the tiny model, of which one may be loaded.
fn one_of_two() -> Config {
    let mut config = crate::server::defaults();
    twins(&mut config);
    config.limits.loaded_models = 1;
    config
}

#[tokio::test]
async fn a_model_in_use_keeps_its_room() {
    let (runners, loads) = one_in_memory();
    let (models, started) = Models::start(&one_of_two(), runners.into());
    started.await.expect("nothing is loaded yet");
    let engine = models.engine(0).await.expect("loaded");
    let model = engine.model().expect("loaded");
    drop(engine);
    let copy = model.clone();
    drop(model);
    let mut other = Box::pin(models.engine(1));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut other).await;
    assert!(early.is_err(), "the other took the room of one in use");
    assert_eq!(copy.name(), "llama2-vocab-tiny");
    drop(copy);
    drop(other.await.expect("loaded"));
    assert_eq!(loads.load(Ordering::SeqCst), 2);
    tokio::task::spawn_blocking(move || models.close())
        .await
        .expect("no panic");
}

#[tokio::test]
async fn a_stream_whose_end_is_not_read_keeps_no_weights() {
    let (runners, loads) = one_in_memory();
    let config = Arc::new(one_of_two());
    let (models, started) = Models::start(&config, runners.into());
    started.await.expect("nothing is loaded yet");
    let app = candor::api::app(AppState::new(models.clone(), config, true, Vec::new()));
    let ask = |path: &str, body: Value| {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .expect("a request");
        app.clone().oneshot(request)
    };
    let mut model = 0;
    // The usage comes when all is generated, before `[DONE]`.
    let usage = "\"total_tokens\"";
    let done = "data: [DONE]\n\n";
    for (path, mut body, told, rest) in [
        (
            "/v1/completions",
            json!({"prompt": "Once", "logprobs": 1, "max_tokens": 2, "stream_options": {"include_usage": true}}),
            usage,
            Some(done),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "Hi"}], "chat_template": "Hi", "max_tokens": 2,
                "stream_options": {"include_usage": true}}),
            usage,
            Some(done),
        ),
        (
            "/completion",
            json!({"prompt": "Once", "n_predict": 2}),
            "\"stop\":true",
            None,
        ),
        (
            "/v1/responses",
            json!({"input": "Hi", "chat_template": "Hi", "max_output_tokens": 2}),
            usage,
            None,
        ),
    ] {
        body["model"] = json!(["a", "b"][model]);
        body["stream"] = json!(true);
        let answer = ask(path, body).await.expect("infallible");
        assert_eq!(answer.status(), 200);
        let mut stream = answer.into_body();
        loop {
            let frame = stream
                .frame()
                .await
                .expect("not the end")
                .expect("no error");
            let event = frame.into_data().expect("data");
            if String::from_utf8_lossy(&event).contains(told) {
                break;
            }
        }
        model = 1 - model;
        let body = json!({"model": (["a", "b"][model]), "prompt": "Once", "max_tokens": 1});
        let answer = ask("/v1/completions", body).await.expect("infallible");
        assert_eq!(answer.status(), 200);
        let left = stream.frame().await;
        let left = left.map(|frame| frame.expect("no error").into_data().expect("data"));
        assert_eq!(left.as_deref(), rest.map(str::as_bytes));
    }
    // The other model each time, and one at first.
    assert_eq!(loads.load(Ordering::SeqCst), 5);
    tokio::task::spawn_blocking(move || models.close())
        .await
        .expect("no panic");
}

/// A settings file with these tables.
fn settings(folder: &Path, tables: &str) -> String {
    let path = folder.join("candor.toml");
    std::fs::write(&path, tables).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn one_that_fails_at_the_start_ends_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let tables = format!(
        "[[models]]\nsource = '{}'\n[[models]]\nsource = '/nowhere/lost.gguf'",
        tiny_model()
    );
    let output = candor()
        .args([
            "serve",
            "--port",
            "0",
            "--config",
            &settings(folder.path(), &tables),
        ])
        .output()
        .expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.contains("candor: /nowhere/lost.gguf does not exist"),
        "{log}"
    );
    assert!(log.contains("could not be loaded model=\"lost\""), "{log}");
    assert!(!log.contains("ready: "), "{log}");
}

#[test]
#[cfg(target_os = "linux")]
fn an_unloaded_model_gives_its_memory_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let tables = format!(
        "[model]\nload = 'first-use'\nunload_after_ms = 100\n[engine]\ncontexts = 1\nparallel_sequences = 4\n\
         [[models]]\nsource = '{}'\nname = 'noise'\n[[models]]\nsource = '{}'\nname = 'small'",
        tiny_model(),
        default_model()
    );
    let process = Process::start_with(&["--config", &settings(folder.path(), &tables)], &[]);
    let mib = |what: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.expect("a line").trim().trim_end_matches(" kB");
        kib.parse::<usize>().expect("a number") / 1024
    };
    let mut answers = Vec::new();
    for _ in 0..3 {
        for name in ["noise", "small"] {
            let answer = process.post("/v1/completions", "", &asked(name));
            answers.push(bits(&serde_json::from_str(&answer).expect("JSON")));
        }
        // The weights alone are 92 MiB. llama.cpp and the allocator keep some for the process.
        assert!(mib("VmHWM:") > 200);
        while mib("VmRSS:") > mib("VmHWM:") / 3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    assert_eq!(answers[..2], answers[2..4]);
    assert_eq!(answers[..2], answers[4..]);
    let ended = process.terminate();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(
        ended
            .log
            .contains("unloading because it is idle model=\"small\""),
        "{}",
        ended.log
    );
}
