//! llama.cpp's routines for this CPU: what is tried before they are used, and the name of what they compute.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candor::engine::{Machinery, Outcome, Trials, by_process, trials};
use candor::model::{Heads, Model, Placement, Routines};
use serde_json::json;

use crate::server::{self, TestServer, defaults, tiny_model};

/// The engine's own parts, but for the trials.
fn with(trials: Trials) -> Machinery {
    Machinery {
        trials,
        ..candor::model::contexts().into()
    }
}

/// Trials whose process ends itself by this signal, if a routine that `fails` is wanted.
fn that_die(signal: &'static str, fails: fn(Routines) -> bool) -> Trials {
    let whole = trials();
    Arc::new(move |order| {
        if !fails(order.routines) {
            return whole(order);
        }
        let mut command = Command::new("sh");
        command.args(["-c", &format!("kill -{signal} $$")]);
        by_process(command, order)
    })
}

/// What this CPU and build have.
fn here() -> Routines {
    Routines::ALL.here().expect("llama.cpp starts")
}

#[test]
fn a_routine_that_ends_its_trial_is_not_used() {
    let has = here();
    if !has.repack && !has.amx {
        println!("skipped: this CPU has none");
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let dies = that_die("SEGV", |routines| routines.amx || routines.repack);
    let path = cache.path().to_owned();
    let server = TestServer::start_from(
        &tiny_model(),
        move |config| config.model.cache_dir = path.display().to_string(),
        with(dies),
    );
    let health = server.get("/health").json();
    let refused = health["refused_routines"].as_array().expect("some");
    let names: Vec<&str> = refused
        .iter()
        .map(|it| it["routine"].as_str().expect("a name"))
        .collect();
    let expected = [("amx", has.amx), ("repack", has.repack)];
    let expected: Vec<&str> = expected.iter().filter(|it| it.1).map(|it| it.0).collect();
    assert_eq!(names, expected, "{health}");
    assert_eq!(refused[0]["why"], "ends the process (SIGSEGV)");
    // It answers as a server whose routines are off by the settings does.
    let path = cache.path().to_owned();
    let plain = TestServer::start_with(&tiny_model(), move |config| {
        config.model.cache_dir = path.display().to_string();
        config.engine.amx = candor::config::Use::Off;
        config.engine.repack = candor::config::Use::Off;
    });
    assert!(plain.get("/health").json()["refused_routines"].is_null());
    let request =
        json!({"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "logprobs": 2});
    assert_eq!(
        server.complete(request.clone())["choices"],
        plain.complete(request)["choices"]
    );
    assert_eq!(server.bits_class(), plain.bits_class());
}

#[test]
fn a_trial_is_remembered_and_one_that_failed_as_well() {
    let cache = tempfile::tempdir().expect("a folder");
    let tried = Arc::new(AtomicUsize::new(0));
    let start = |fails: fn(Routines) -> bool| {
        let (count, dies) = (Arc::clone(&tried), that_die("ILL", fails));
        let counted: Trials = Arc::new(move |order| {
            count.fetch_add(1, Ordering::SeqCst);
            dies(order)
        });
        let path = cache.path().to_owned();
        let change = move |config: &mut candor::config::Config| {
            config.model.cache_dir = path.display().to_string();
        };
        drop(TestServer::start_from(&tiny_model(), change, with(counted)));
        tried.swap(0, Ordering::SeqCst)
    };
    let has = here();
    let steps = 1 + usize::from(has.amx) + usize::from(has.repack);
    assert_eq!(start(|routines| routines.amx || routines.repack), steps);
    assert_eq!(start(|_| false), 0);
}

#[test]
fn a_process_of_this_program_tries_them() {
    // Set by whichever test starts a server first.
    server::tiny();
    let cache = tempfile::tempdir().expect("a folder");
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (outcomes, whole) = (Arc::clone(&seen), trials());
    let trials: Trials = Arc::new(move |order| {
        let outcome = whole(order);
        outcomes.lock().expect("not poisoned").push(outcome.clone());
        outcome
    });
    let path = cache.path().to_owned();
    let change = move |config: &mut candor::config::Config| {
        config.model.cache_dir = path.display().to_string();
    };
    drop(TestServer::start_from(&tiny_model(), change, with(trials)));
    let seen = seen.lock().expect("not poisoned");
    assert!(matches!(seen[..], [Outcome::Fine(_)]), "{seen:?}");
}

#[test]
fn the_bits_class_is_in_every_answer_of_a_model() {
    let server = server::tiny();
    let class = server.bits_class();
    let (kind, digest) = class.split_once('-').expect("two parts");
    assert!(!kind.is_empty() && digest.len() == 8, "{class}");
    let header = |path: &str, body: serde_json::Value| {
        let answer = server.post(path, &body);
        (answer.status, answer.bits_class)
    };
    let body = json!({"prompt": "a", "max_tokens": 1});
    assert_eq!(header("/v1/completions", body), (200, Some(class.clone())));
    let body = json!({"prompt": "a", "max_tokens": 1, "stream": true});
    assert_eq!(header("/v1/completions", body), (200, Some(class.clone())));
    let body = json!({"prompt": "a", "temperature": "hot"});
    assert_eq!(header("/v1/completions", body), (400, Some(class.clone())));
    let body = json!({"prompt": "a"});
    assert_eq!(header("/tokenize", body), (200, Some(class.clone())));
    // No model answers these.
    let body = json!({"model": "another", "prompt": "a"});
    assert_eq!(header("/v1/completions", body), (404, None));
    let answer = server.complete(json!({"prompt": "a", "max_tokens": 1, "receipt": true}));
    let fingerprint = answer["system_fingerprint"].as_str().expect("text");
    assert!(fingerprint.ends_with(&class), "{fingerprint}");
    assert_eq!(answer["receipt"]["engine"]["bits_class"], class.as_str());
    // Another model of another server may be of the same class, and be loaded no more.
    let metric = format!("class=\"{class}\"}} 1");
    let metrics = server.get("/metrics").body;
    let mut lines = metrics.lines();
    let is_there = lines
        .any(|line| line.starts_with("candor_bits_class_info{model=") && line.ends_with(&metric));
    assert!(is_there, "{metrics}");
}

#[test]
fn the_bits_class_tells_settings_that_move_bits() {
    let class = |change: fn(&mut candor::config::Config)| {
        TestServer::start_with(&tiny_model(), change).bits_class()
    };
    let usual = server::tiny().bits_class();
    assert_eq!(class(|c| c.engine.contexts = 1), usual);
    assert_eq!(class(|c| c.engine.context_length = 256), usual);
    assert_ne!(class(|c| c.engine.flash_attention = true), usual);
    assert_ne!(
        class(|c| c.engine.kv_type_k = candor::config::KvType::f32),
        usual
    );
    assert_ne!(class(|c| c.engine.batch_tokens = 64), usual);
}

#[test]
fn weights_are_laid_out_as_is_allowed() {
    if !here().repack {
        println!("skipped: this CPU has no such routine");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("specimen.gguf");
    // Q4_0, for which llama.cpp has such a layout on every CPU that has any.
    let mut file = std::fs::File::create(&path).expect("a file");
    candor::model::write_specimen(&[2], &mut file).expect("written");
    drop(file);
    let load = |routines| {
        let heads = Heads::read(&path).expect("it is read");
        Model::load_with(&heads, &defaults().model, routines).expect("it loads")
    };
    let all_plain = |model: &Model| {
        model
            .placements()
            .iter()
            .all(|one: &Placement| one.is_plain)
    };
    let none = Routines {
        amx: false,
        repack: false,
    };
    assert!(all_plain(&load(none)));
    let usual = load(Routines::ALL);
    assert!(!all_plain(&usual), "{}", usual.placements());
    // What was left out once is there again.
    assert!(all_plain(&load(none)));
    assert_eq!(load(Routines::ALL).placements(), usual.placements());
}
