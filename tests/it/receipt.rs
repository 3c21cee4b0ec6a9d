//! Receipts, and `candor verify`, which holds an answer against one.

use std::io::{Read, Write};
use std::path::Path;

use candor::config::Mode;
use serde_json::{Value, json};

use crate::process::{Process, candor};
use crate::server::{TestServer, default, default_model, tiny, tiny_model};

/// A request of everything: prompts that are echoed, choices that are drawn, alternatives.
fn everything() -> Value {
    json!({
        "prompt": ["The keeper wrote a line a day into his book", "One"], "max_tokens": 12, "n": 2, "echo": true,
        "scored_from": [4, 1], "logprobs": 3, "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0, "receipt": true
    })
}

#[test]
fn a_receipt_says_how_the_answer_was_made() {
    let server = tiny();
    let answer = server.complete(everything());
    let receipt = &answer["receipt"];
    assert_eq!(receipt["version"], 1);
    assert_eq!(receipt["route"], "/v1/completions");
    let bytes = std::fs::metadata(tiny_model()).expect("the model").len();
    assert_eq!(receipt["model"]["name"], "llama2-vocab-tiny");
    assert_eq!(receipt["model"]["files"][0]["bytes"], bytes);
    let sha256 = receipt["model"]["files"][0]["sha256"].as_str();
    assert_eq!(sha256.expect("text").len(), 64);
    assert_eq!(receipt["engine"]["mode"], "exact");
    assert_eq!(receipt["engine"]["threads"], Value::Null);
    // What was asked, the seed that was drawn, and what the settings add.
    let request = &receipt["request"];
    assert_eq!(request["prompt"], everything()["prompt"]);
    assert_eq!(request["temperature"], 1.5);
    assert_eq!(request["repeat_penalty"], 1.0);
    assert!(request["seed"].is_u64(), "{request}");
    // Every number of the answer.
    let both: Vec<&Value> = (0..2).map(|place| &receipt["prompts"][place]).collect();
    for (number, choice) in answer["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .enumerate()
    {
        let told = &receipt["choices"][number];
        let prompt = both[number / 2];
        assert_eq!(told["prompt"], number / 2);
        assert_eq!(told["finish_reason"], choice["finish_reason"]);
        assert_eq!(told["top_sha256"].as_str().map(str::len), Some(64));
        let own = |part: &Value| {
            part["token_logprobs"]
                .as_array()
                .cloned()
                .expect("an array")
        };
        // A BOS stands before the prompt's text, and has no entry in the answer.
        let all: Vec<Value> = own(prompt).into_iter().skip(1).chain(own(told)).collect();
        assert_eq!(all[1..], own(&choice["logprobs"])[1..]);
        let ids = |part: &Value| {
            part["token_ids"]
                .as_array()
                .map(Vec::len)
                .expect("an array")
        };
        assert_eq!(ids(prompt), own(prompt).len());
        assert_eq!(ids(told), own(told).len());
    }
    assert_eq!(both[0]["token_ids"][0], 1, "the BOS");
    // It asks for itself: the same comes again.
    let again = server.complete(request.clone());
    assert_eq!(again["choices"], answer["choices"]);
    assert_eq!(again["receipt"]["prompts"], receipt["prompts"]);
    assert_eq!(again["receipt"]["request"], *request);
    // Whoever does not ask gets none; whoever asks for no logprobs still gets theirs told.
    assert_eq!(
        server.complete(json!({"prompt": "One"})).get("receipt"),
        None
    );
    let plain = server.complete(json!({"prompt": "One", "max_tokens": 3, "receipt": true}));
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
    let told = &plain["receipt"]["choices"][0];
    assert_eq!(told["token_logprobs"].as_array().map(Vec::len), Some(3));
    assert_eq!(told["top_sha256"], Value::Null);
}

#[test]
fn a_stream_has_no_receipt() {
    for (path, field, value) in [
        ("/v1/completions", "prompt", json!("One")),
        (
            "/v1/chat/completions",
            "messages",
            json!([{"role": "user", "content": "Hi"}]),
        ),
        ("/v1/responses", "input", json!("Hi")),
    ] {
        let body = json!({"stream": true, "receipt": true, field: value});
        let answer = default().post(path, &body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], "receipt");
    }
}

/// How `candor verify` ends for this receipt, and what it says.
fn verify(folder: &Path, receipt: &Value, flags: &[&str]) -> (Option<i32>, String) {
    let file = folder.join("receipt.json");
    std::fs::write(&file, receipt.to_string()).expect("written");
    let output = candor().arg("verify").arg(&file).args(flags).output();
    let output = output.expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn an_answer_is_held_against_its_receipt() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |receipt: &Value, flags: &[&str], status: i32, parts: &[&str]| {
        let (ended, said) = verify(folder.path(), receipt, flags);
        assert_eq!(ended, Some(status), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
    };
    let model = tiny_model();
    let own = ["--model", model.as_str()];
    let answer = tiny().complete(everything());
    check(
        &answer,
        &own,
        0,
        &["a choice of 12 tokens", "alternatives", "equal: "],
    );
    check(&answer["receipt"], &own, 0, &["equal: "]);
    let change = |path: &str, value: Value| {
        let mut changed = answer["receipt"].clone();
        *changed.pointer_mut(path).expect("it is there") = value;
        changed
    };
    // The next number of an f32.
    let path = "/choices/1/token_logprobs/4";
    let logprob = answer["receipt"]
        .pointer(path)
        .and_then(Value::as_f64)
        .expect("a number") as f32;
    let next = json!(f32::from_bits(logprob.to_bits() + 1));
    check(
        &change(path, next),
        &own,
        1,
        &[
            "different: choice 1, token 4",
            "bits",
            "differs from the receipt",
        ],
    );
    check(
        &change("/prompts/0/token_ids/2", json!(3)),
        &own,
        1,
        &["prompt 0, token 2: id 3"],
    );
    for route in ["@example.org/v1/completions", "/metrics"] {
        check(
            &change("/route", json!(route)),
            &own,
            2,
            &["its `route` must be"],
        );
    }
    let other = change("/request/seed", json!(1));
    check(&other, &own, 1, &["different: choice 0"]);
    // What cannot be compared, each with what to do.
    let default = default_model();
    check(
        &answer,
        &["--model", &default],
        2,
        &["llama2-vocab-tiny", "SHA-256", "with --model"],
    );
    check(
        &json!({"id": "cmpl-1"}),
        &own,
        2,
        &["not a valid receipt", "\"receipt\": true"],
    );
    check(
        &change("/engine/batch_tokens", json!(0)),
        &own,
        2,
        &["engine.batch_tokens"],
    );
    check(
        &answer,
        &["--model", &model, "--set", "limits.n=1"],
        2,
        &["400", "`n`", "limits"],
    );
    let missing = candor()
        .args(["verify", "no/such/file"])
        .output()
        .expect("it starts");
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    // Flash attention adds in another order.
    let flash = [own[0], own[1], "--set", "engine.flash_attention=true"];
    check(
        &answer,
        &flash,
        1,
        &["note: flash attention: false in the receipt, true here"],
    );
}

#[test]
fn a_server_is_asked_for_what_a_receipt_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = "server.api_keys=[\"secret\"]";
    let server = Process::start_with(&["--model", &tiny_model(), "--set", set], &[]);
    let answer = server.post("/v1/completions", "secret", &everything());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let ask = |receipt: &Value, more: &[&str]| {
        let flags = [&["--url", server.url.as_str()], more].concat();
        verify(folder.path(), receipt, &flags)
    };
    let (ended, said) = ask(&answer, &["--set", set]);
    assert_eq!(ended, Some(0), "{said}");
    let (ended, said) = ask(&answer, &[]);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("CANDOR_SERVER__API_KEYS"), "{said}");
    let mut other = answer["receipt"].clone();
    other["model"]["files"][0]["sha256"] = json!("00");
    let (ended, said) = ask(&other, &["--set", set]);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("another model"), "{said}");
}

#[test]
fn an_answer_of_invariant_mode_is_verified_in_its_class() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.engine.mode = Mode::Invariant;
        config.engine.invariant_width = 8;
    });
    let answer = server.complete(everything());
    let engine = &answer["receipt"]["engine"];
    assert_eq!(
        (&engine["mode"], &engine["least_width"]),
        (&json!("invariant"), &json!(8))
    );
    let folder = tempfile::tempdir().expect("a folder");
    let (ended, said) = verify(folder.path(), &answer, &["--model", &tiny_model()]);
    assert_eq!(ended, Some(0), "{said}");
    let url = |server: &TestServer| format!("http://{}", server.address());
    let (ended, said) = verify(folder.path(), &answer, &["--url", &url(&server)]);
    assert_eq!(ended, Some(0), "{said}");
    // Elsewhere the same request has other bits, and the notes say why.
    let (ended, said) = verify(folder.path(), &answer, &["--url", &url(tiny())]);
    assert_eq!(ended, Some(1), "{said}");
    assert!(
        said.contains("mode: invariant in the receipt, exact here"),
        "{said}"
    );
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_without_end() {
    let answer = tiny().complete(json!({"prompt": "One", "max_tokens": 1, "receipt": true}));
    let folder = tempfile::tempdir().expect("a folder");
    // It takes connections in, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let ask = |url: &str| verify(folder.path(), &answer, &["--url", url, "--timeout", "1"]);
    let (ended, said) = ask(&url);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("did not answer within 1 s"), "{said}");
    assert!(said.contains("--timeout SECONDS"), "{said}");
    // Nor one that begins its answer and does not end it.
    let begins = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", begins.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let (mut connection, _) = begins.accept().expect("a client");
        let head =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
        connection.write_all(head).expect("sent");
        // Until the client goes.
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let (ended, said) = ask(&url);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("did not answer within 1 s"), "{said}");
    server.join().expect("no panic");
}

#[test]
fn conversations_have_receipts_too() {
    let question = "Name a colour.";
    for (path, body) in [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": question}], "max_tokens": 6, "receipt": true}),
        ),
        (
            "/v1/responses",
            json!({"input": question, "max_output_tokens": 6, "receipt": true}),
        ),
    ] {
        let answer = default().post(path, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json();
        assert_eq!(answer["receipt"]["route"], path);
        let folder = tempfile::tempdir().expect("a folder");
        let (ended, said) = verify(folder.path(), &answer, &["--model", &default_model()]);
        assert_eq!(ended, Some(0), "{said}");
    }
}

#[test]
fn every_setting_of_the_sampler_can_be_verified() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        let values = &mut config.sampling.values;
        // The least that settings accept.
        values.repeat_penalty = 0.01;
        values.top_n_sigma = 2.5;
        values.xtc_probability = 0.5;
        values.dry_multiplier = 0.8;
        values.min_tokens = 2;
        config.sampling.max_tokens = 9;
    });
    let folder = tempfile::tempdir().expect("a folder");
    let model = tiny_model();
    let check = |receipt: &Value, flags: &[&str]| {
        let flags = [&["--model", model.as_str()], flags].concat();
        let (ended, said) = verify(folder.path(), receipt, &flags);
        assert_eq!(ended, Some(0), "{said}");
    };
    let answer = server.complete(json!({"prompt": "One", "seed": 3, "receipt": true}));
    let request = &answer["receipt"]["request"];
    assert_eq!(request["repeat_penalty"], 0.01);
    assert_eq!(request["xtc_probability"], 0.5);
    assert_eq!(request["max_tokens"], 9);
    check(&answer, &[]);
    // Mirostat turns off what the settings turn on, and a receipt's request says so.
    let body = json!({"prompt": "One", "seed": 3, "mirostat_mode": 2, "receipt": true});
    let answer = server.complete(body);
    assert_eq!(answer["receipt"]["request"]["xtc_probability"], 0.0);
    check(&answer, &["--set", "sampling.top_n_sigma=1"]);
}

#[test]
fn a_receipt_of_an_older_form_is_verified_whatever_the_settings() {
    let mut answer = tiny().complete(everything());
    let receipt = &mut answer["receipt"];
    let request = receipt["request"].as_object_mut().expect("an object");
    // They were no settings, and are not in it.
    for name in [
        "top_n_sigma",
        "xtc_probability",
        "xtc_threshold",
        "dynatemp_range",
        "dynatemp_exponent",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
    ] {
        request.remove(name).expect("it is there");
    }
    let engine = receipt["engine"].as_object_mut().expect("an object");
    for name in ["bits_class", "routines"] {
        engine.remove(name).expect("it is there");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let settings = ["sampling.top_n_sigma=0.1", "sampling.xtc_probability=1"];
    let model = tiny_model();
    let flags = [
        "--model",
        &model,
        "--set",
        settings[0],
        "--set",
        settings[1],
    ];
    let (ended, said) = verify(folder.path(), &answer, &flags);
    assert_eq!(ended, Some(0), "{said}");
}

#[test]
fn adapters_are_in_a_receipt() {
    let adapter = crate::server::root().join("tests/models/lora-tiny-a.gguf");
    let setting = format!("harbour={}@0.5", adapter.display());
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.lora = vec![setting.clone()];
    });
    let answer = server.complete(json!({"prompt": "The keeper", "max_tokens": 4, "receipt": true}));
    let receipt = &answer["receipt"];
    assert_eq!(receipt["adapters"][0]["name"], "harbour");
    assert_eq!(receipt["request"]["lora"], json!([{"id": 0, "scale": 0.5}]));
    let folder = tempfile::tempdir().expect("a folder");
    let model = tiny_model();
    let (ended, said) = verify(folder.path(), &answer, &["--model", &model]);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("model.lora"), "{said}");
    let lora = format!("model.lora=[{:?}]", setting);
    let (ended, said) = verify(folder.path(), &answer, &["--model", &model, "--set", &lora]);
    assert_eq!(ended, Some(0), "{said}");
}
