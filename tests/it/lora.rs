//! LoRA adapters: what they change, what they leave alone, and that nobody notices those of others. The adapters are
//! made by `scripts/make-test-lora.py`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use candor::config::{KvType, Mode};
use candor::model::{Adapters, Context, ContextShape, Model, Output, Row, Runner, Token};
use serde_json::{Value, json};

use crate::server::{TestServer, defaults, leave, root, tiny, tiny_model};

const STEM: &str = "The keeper wrote one line a day into a book bound in green leather: the wind, the ships, the lamp. ";

fn adapter(name: &str) -> String {
    let path = root().join(format!("tests/models/lora-tiny-{name}.gguf"));
    path.to_string_lossy().into_owned()
}

/// A server with the adapters a and b, both off unless asked for; one context, so that everyone meets in it.
fn with_both() -> TestServer {
    with(&["a", "b"], |_| {})
}

fn with(names: &[&str], change: impl FnOnce(&mut candor::config::Config)) -> TestServer {
    TestServer::start_with(&tiny_model(), |config| {
        config.model.lora = names
            .iter()
            .map(|name| format!("{name}={}@0", adapter(name)))
            .collect();
        config.engine.contexts = 1;
        change(config);
    })
}

fn ask(prompt: &str, lora: &Value) -> Value {
    json!({"prompt": prompt, "max_tokens": 12, "min_tokens": 12, "temperature": 0, "echo": true, "logprobs": 3,
           "lora": lora})
}

/// The same on what is known of nothing.
fn alone(server: &TestServer, mut request: Value) -> Value {
    request["cache_prompt"] = json!(false);
    server.complete(request)["choices"].clone()
}

fn logprobs(choices: &Value) -> Vec<f64> {
    choices[0]["logprobs"]["token_logprobs"]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(Value::as_f64)
        .collect()
}

/// Of the prompt's tokens: what is generated may be another text.
fn furthest(a: &Value, b: &Value) -> f64 {
    let (a, b) = (logprobs(a), logprobs(b));
    let pairs = a.iter().zip(&b).take(a.len().min(b.len()) - 12);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn an_adapter_changes_the_answer_and_none_changes_nothing() {
    let server = with_both();
    let plain = alone(tiny(), ask(STEM, &Value::Null));
    let (a, b) = (
        json!([{"id": 0, "scale": 1}]),
        json!([{"id": 1, "scale": 1}]),
    );
    for none in [
        Value::Null,
        json!([]),
        json!([{"id": 0, "scale": 0}]),
        json!([{"id": "b", "scale": -0.0}, {"id": 0, "scale": 0.0}]),
    ] {
        assert_eq!(
            server.complete(ask(STEM, &none))["choices"],
            plain,
            "{none}"
        );
    }
    let (of_a, of_b) = (alone(&server, ask(STEM, &a)), alone(&server, ask(STEM, &b)));
    let (far_a, far_b, apart) = (
        furthest(&of_a, &plain),
        furthest(&of_b, &plain),
        furthest(&of_a, &of_b),
    );
    println!("logprobs move by up to {far_a:.3} and {far_b:.3}, and differ by up to {apart:.3}");
    assert!(far_a.min(far_b).min(apart) > 0.05);
    // By name, and after others: the same bits.
    assert_eq!(
        alone(&server, ask(STEM, &json!([{"id": "a", "scale": 1.0}]))),
        of_a
    );
    assert_eq!(alone(&server, ask(STEM, &Value::Null)), plain);
    // Half of it is not all of it.
    let half = alone(&server, ask(STEM, &json!([{"id": 0, "scale": 0.5}])));
    assert!(furthest(&half, &plain) > 0.01 && furthest(&half, &of_a) > 0.01);
}

#[test]
fn a_scale_in_the_settings_applies_to_who_asks_for_nothing_else() {
    let server = with_both();
    let expected = alone(&server, ask(STEM, &json!([{"id": 1, "scale": 0.5}])));
    let switched_on = TestServer::start_with(&tiny_model(), |config| {
        config.model.lora = vec![adapter("a") + "@0", adapter("b") + "@0.5"];
    });
    let answer = switched_on.complete(ask(STEM, &Value::Null));
    assert_eq!(answer["choices"], expected);
    assert_eq!(
        alone(&switched_on, ask(STEM, &json!([]))),
        alone(tiny(), ask(STEM, &Value::Null))
    );
    let list = switched_on.get("/lora-adapters");
    assert_eq!(
        list.body,
        r#"[{"id":0,"name":"lora-tiny-a","scale":0.0,"fingerprint":"89f75dd1fb6c"},{"id":1,"name":"lora-tiny-b","scale":0.5,"fingerprint":"404b70fa38e3"}]"#
    );
    assert_eq!(tiny().get("/lora-adapters").body, "[]");
    // The fingerprint tells what applied to the answer, by default or not.
    let fingerprint = |server: &TestServer, lora: Value| {
        let answer = server.complete(ask("a", &lora));
        answer["system_fingerprint"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    let by_default = fingerprint(&switched_on, Value::Null);
    assert!(
        by_default.contains("-lora-") && by_default.ends_with("x0.5"),
        "{by_default}"
    );
    assert_eq!(
        by_default,
        fingerprint(&server, json!([{"id": "b", "scale": 0.5}]))
    );
    let all: HashSet<String> = [
        json!([]),
        json!([{"id": 0, "scale": 1}]),
        json!([{"id": 1, "scale": 1}]),
    ]
    .into_iter()
    .map(|lora| fingerprint(&server, lora))
    .chain([by_default])
    .collect();
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(
        fingerprint(&switched_on, json!([])),
        fingerprint(&server, Value::Null)
    );
}

#[test]
fn conversations_choose_adapters_as_texts_do() {
    let server = with_both();
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let chat = |lora: Value| {
        let body = json!({
            "messages": [{"role": "user", "content": STEM}], "chat_template": template, "max_tokens": 8,
            "temperature": 0, "logprobs": true, "lora": lora
        });
        server.send(
            "/v1/chat/completions",
            "application/json",
            body.to_string().as_bytes(),
        )
    };
    let choices = |lora: Value| {
        let answer = chat(lora);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let (choices, fingerprint) = (
            &answer.json()["choices"],
            &answer.json()["system_fingerprint"],
        );
        (choices.clone(), fingerprint.clone())
    };
    let (none, a) = (
        choices(Value::Null),
        choices(json!([{"id": "a", "scale": 1}])),
    );
    assert_ne!(none.0, a.0);
    assert_ne!(none.1, a.1);
    assert_eq!(choices(json!([])), none);
    assert_eq!(chat(json!([{"id": 2, "scale": 1}])).status, 400);
}

/// What the settings switch on applies to embeddings as well; a request has no say in it there.
#[test]
fn embeddings_are_made_under_the_adapters_that_are_switched_on() {
    let vector = |scale: &str| {
        let server = TestServer::start_with(&tiny_model(), |config| {
            config.model.lora = vec![adapter("a") + scale];
            config.embeddings.pooling = candor::config::Pooling::Mean;
        });
        let body = json!({"input": STEM}).to_string();
        let answer = server.send("/v1/embeddings", "application/json", body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["data"][0]["embedding"].clone()
    };
    let off = vector("@0");
    assert_eq!(off, vector("@0"));
    assert_ne!(off, vector("@1"));
}

#[test]
fn several_adapters_add_up() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.lora = ["a", "twin=a", "b"]
            .map(|name| {
                let file = name.rsplit('=').next().expect("a name");
                let name = name.split('=').next().expect("a name");
                format!("{name}={}@0", adapter(file))
            })
            .to_vec();
    });
    let ask = |lora: Value| alone(&server, ask(STEM, &lora));
    let whole = ask(json!([{"id": "a", "scale": 1}]));
    let halves = ask(json!([{"id": "a", "scale": 0.5}, {"id": "twin", "scale": 0.5}]));
    let difference = furthest(&whole, &halves);
    println!("two halves and the whole differ by up to {difference:.5}");
    assert!(difference < 0.01);
    let cancelled = ask(json!([{"id": "a", "scale": 1}, {"id": "twin", "scale": -1}]));
    assert!(furthest(&cancelled, &ask(json!([]))) < 0.01);
    let both = ask(json!([{"id": "a", "scale": 1}, {"id": "b", "scale": 1}]));
    assert!(furthest(&both, &whole) > 0.05);
    let turned = ask(json!([{"id": 2, "scale": 1}, {"id": 0, "scale": 1}]));
    assert_eq!(both, turned);
}

/// What merged weights say, W + scale · (alpha / rank) · B A, to the same tokens. Recorded with
/// `scripts/make-test-lora.py merge`, which writes the merged tensors in f32; the model's own are f16, and llama.cpp rounds
/// what it multiplies with those to f16 as well. So the two differ by that rounding; the file also tells how far the model
/// with those tensors in f32, and nothing added, is from the model as it is.
#[test]
fn an_adapter_says_what_merged_weights_say() {
    let golden: Value =
        serde_json::from_str(include_str!("../golden/lora-tiny.json")).expect("JSON");
    let server = with_both();
    let prompt = &golden["prompt"];
    for case in golden["cases"].as_array().expect("cases") {
        let answer = server.complete(json!({
            "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 0, "lora": case["lora"]
        }));
        let ours = logprobs(&answer["choices"]);
        let theirs: Vec<f64> = case["token_logprobs"]
            .as_array()
            .expect("an array")
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        assert_eq!(ours.len(), theirs.len());
        let furthest = |other: &[f64]| {
            let pairs = ours.iter().zip(other);
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        let plain = logprobs(
            &server.complete(json!({
                "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 0
            }))["choices"],
        );
        let (from_merged, from_plain) = (furthest(&theirs), furthest(&plain));
        println!(
            "{}: {from_merged:.5} from the merged weights, {from_plain:.3} from none",
            case["lora"]
        );
        assert!(
            from_merged < 0.05 && from_plain > 20.0 * from_merged,
            "{}",
            case["lora"]
        );
    }
}

#[test]
fn the_cache_is_never_shared_between_adapters() {
    for contexts in [1, 2] {
        let server = with(&["a", "b"], |config| {
            config.engine.contexts = contexts;
            config.engine.cache_lanes = 8;
        });
        let prompt = STEM.repeat(3);
        let cached = |answer: &Value| {
            answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .expect("a number")
        };
        for lora in [
            json!([]),
            json!([{"id": 0, "scale": 1}]),
            json!([{"id": 1, "scale": 1}]),
            json!([{"id": 0, "scale": 0.5}]),
            json!([{"id": 0, "scale": 1}, {"id": 1, "scale": 1}]),
        ] {
            let expected = alone(&server, ask(&prompt, &lora));
            let whole = server.complete(ask(&prompt, &lora));
            // What was evaluated with `cache_prompt: false` may be used by others.
            assert!(cached(&whole) > 60, "{lora}: {whole}");
            assert_eq!(whole["choices"], expected);
            let longer = server.complete(ask(&format!("{prompt} And then?"), &lora));
            assert!(cached(&longer) > 40, "{lora}: {longer}");
            assert_eq!(
                longer["choices"],
                alone(&server, ask(&format!("{prompt} And then?"), &lora))
            );
        }
        // None of the others had what these could begin with.
        let other = server.complete(ask(&prompt, &json!([{"id": 1, "scale": 0.5}])));
        assert_eq!(cached(&other), 0);
    }
}

/// Sets of adapters, and prompts that begin alike: everyone could take what is not theirs.
fn mixed() -> Vec<Value> {
    let sets = [
        json!([]),
        json!([{"id": "a", "scale": 1}]),
        json!([{"id": "b", "scale": 1}]),
        json!([{"id": "a", "scale": -0.5}, {"id": "b", "scale": 2}]),
    ];
    let prompts = [
        STEM.to_owned(),
        format!("{STEM}On the first of March"),
        STEM.repeat(8),
        "Hi".to_owned(),
    ];
    sets.iter()
        .flat_map(|set| prompts.iter().map(move |prompt| ask(prompt, set)))
        .chain(sets.iter().map(|set| {
            json!({"prompt": STEM, "max_tokens": 40, "n": 2, "seed": 5, "temperature": 0.9, "logprobs": 2, "lora": set})
        }))
        .collect()
}

#[test]
fn everyone_gets_the_bits_of_being_alone_beside_other_adapters() {
    let requests = mixed();
    let server = with_both();
    let expected: Vec<Value> = requests
        .iter()
        .map(|request| alone(&server, request.clone()))
        .collect();
    for contexts in [1, 2] {
        let server = with(&["a", "b"], |config| {
            config.engine.contexts = contexts;
            config.engine.prompt_chunk_tokens = 16;
        });
        std::thread::scope(|scope| {
            for client in 0..8 {
                let (server, requests, expected) = (&server, &requests, &expected);
                scope.spawn(move || {
                    for round in 0..2 * requests.len() {
                        let place = (client * 3 + round * 7) % requests.len();
                        if round % 9 == 8 {
                            leave(server, &requests[place], (client * 5) as u64);
                        }
                        let answer = server.complete(requests[place].clone());
                        assert_eq!(answer["choices"], expected[place], "{}", requests[place]);
                    }
                });
            }
        });
    }
}

#[test]
fn in_throughput_mode_adapters_keep_apart_as_well() {
    let (exact, shared) = (
        with_both(),
        with(&["a", "b"], |config| {
            config.engine.mode = Mode::Throughput;
            config.engine.decode_width = 8;
        }),
    );
    let requests: Vec<Value> = mixed()
        .into_iter()
        .filter(|request| request["n"].is_null())
        .collect();
    let expected: Vec<Value> = requests
        .iter()
        .map(|request| alone(&exact, request.clone()))
        .collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (shared, requests, expected) = (&shared, &requests, &expected);
            scope.spawn(move || {
                for round in 0..requests.len() {
                    let place = (client * 3 + round * 5) % requests.len();
                    let answer = shared.complete(requests[place].clone());
                    if logprobs(&expected[place]).len() > 14 {
                        let moved = furthest(&answer["choices"], &expected[place]);
                        assert!(moved < 0.02, "{moved} {}", requests[place]);
                    }
                }
            });
        }
    });
}

#[test]
fn numbers_that_overflow_end_one_request_and_spoil_no_other() {
    for lanes in [1, 2] {
        let server = with(&["loud"], |config| {
            config.engine.parallel_sequences = lanes;
            config.engine.cache_lanes = 0;
        });
        let expected = alone(tiny(), ask(STEM, &Value::Null));
        for round in 0..6 {
            let loud = ask(
                &STEM.repeat(1 + round),
                &json!([{"id": "loud", "scale": 100}]),
            );
            let answer = server.try_complete(&loud);
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (
                    400,
                    r#"{"error":{"message":"The model's numbers overflow with the adapters of `lora` at these scales. Try smaller scales.","type":"invalid_request_error","param":"lora","code":null}}"#
                )
            );
            leave(
                &server,
                &ask(&STEM.repeat(20), &json!([{"id": 0, "scale": 100}])),
                round as u64 * 3,
            );
            for _ in 0..2 * lanes {
                let answer = server.complete(ask(STEM, &Value::Null));
                assert_eq!(answer["choices"], expected, "{round}");
            }
        }
    }
}

/// Should the first of the two not hold any more, llama.cpp has learnt to pass over what is cut off, and the spare lane is
/// not needed.
#[test]
fn a_cut_leaves_in_a_lane_what_cleansing_removes() {
    let mut settings = defaults().model;
    settings.lora = vec![adapter("loud")];
    let model = Model::load(Path::new(&tiny_model()), &settings).expect("it loads");
    let shape = ContextShape {
        output: Output::Logits,
        lanes: 1,
        lane_tokens: 256,
        batch_rows: 64,
        logits_rows: 1,
        flash_attention: false,
        kv_type_k: KvType::f16,
        kv_type_v: KvType::f16,
    };
    let mut context = Context::new(&Arc::new(model), shape).expect("a context");
    let mut last_row = |adapters: &Adapters, length: usize, scrub: bool| {
        let rows: Vec<Row> = (0..length)
            .map(|position| Row {
                token: Token(position as i32 * 31 + 7),
                position,
                lane: 0,
                logits: position + 1 == length,
            })
            .collect();
        context.cut(0, 0);
        if scrub {
            context.scrub(0);
        }
        context.adapt(adapters);
        context.decode(&rows, 1).expect("decoded");
        let row = context.logits(length - 1).expect("a row");
        row.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
    };
    let (none, loud) = (Adapters::default(), Adapters::new([(0, 100.0)]));
    let clean = last_row(&none, 16, false);
    assert_eq!(last_row(&none, 16, false), clean);
    last_row(&loud, 48, false);
    assert_ne!(last_row(&none, 16, false), clean);
    last_row(&loud, 48, false);
    assert_eq!(last_row(&none, 16, true), clean);
    assert_eq!(last_row(&none, 16, false), clean);
}

#[test]
fn what_is_wrong_with_the_field_is_said() {
    let server = with_both();
    let check = |lora: Value, message: &str| {
        let answer = server.try_complete(&json!({"prompt": "a", "lora": lora}));
        assert_eq!(answer.status, 400, "{lora}: {}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["message"], message);
        assert_eq!(error["param"], "lora");
    };
    let shape = "`lora` must be an array of at most 2 entries, as 2 adapters are loaded (GET /lora-adapters lists them), \
                 but it is ";
    check(json!("a"), &format!("{shape}the string \"a\"."));
    check(
        json!({"id": 0, "scale": 1}),
        &format!("{shape}an object of 2 fields."),
    );
    check(json!([{}, {}, {}]), &format!("{shape}an array of 3 items."));
    check(
        json!([0]),
        "`lora[0]` must be an object with `id` and `scale`, but it is the number 0.",
    );
    check(
        json!([{"id": 0}]),
        "`lora[0]` must have `id` and `scale`, but it has no `scale`.",
    );
    check(
        json!([{"scale": 1}]),
        "`lora[0]` must have `id` and `scale`, but it has no `id`.",
    );
    for (id, shown) in [
        (json!(2), "the number 2"),
        (json!(-1), "the number -1"),
        (json!(0.5), "the number 0.5"),
        (json!("c"), "the string \"c\""),
        (json!("0"), "the string \"0\""),
        (Value::Null, "null"),
    ] {
        check(
            json!([{"id": 0, "scale": 1}, {"id": id, "scale": 1}]),
            &format!(
                "`lora[1].id` must be the id or the name of an adapter in GET /lora-adapters, but it is {shown}."
            ),
        );
    }
    for (scale, shown) in [
        (json!(100.5), "the number 100.5"),
        (json!(-101), "the number -101"),
        (json!("1"), "the string \"1\""),
        (Value::Null, "null"),
    ] {
        check(
            json!([{"id": 0, "scale": scale}]),
            &format!("`lora[0].scale` must be a number from -100 to 100, but it is {shown}."),
        );
    }
    check(
        json!([{"id": 0, "scale": 1}, {"id": "a", "scale": 1}]),
        "`lora[1]` names adapter 0 (\"a\") a second time.",
    );
    // Numbers that are not finite cannot be written in JSON; what overflows is refused with it.
    let answer = server.send(
        "/v1/completions",
        "application/json",
        br#"{"prompt": "a", "lora": [{"id": 0, "scale": 1e999}]}"#,
    );
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn unknown_fields_of_an_adapter_are_refused_or_let_through() {
    let body =
        json!({"prompt": "a", "max_tokens": 1, "lora": [{"id": 0, "scale": 1, "path": "x"}]});
    let answer = with_both().try_complete(&body);
    assert_eq!(answer.status, 400, "{}", answer.body);
    let error = &answer.json()["error"];
    let message = "`lora[0]` accepts only `id` and `scale`; `path` is unknown.";
    assert_eq!(error["message"], message);
    assert_eq!(error["param"], "lora[0].path");
    assert_eq!(error["code"], "unknown_field");
    let lenient = with(&["a"], |config| {
        config.server.unknown_fields = candor::config::UnknownFields::Warn;
    });
    lenient.complete(body);
}

#[test]
fn what_is_wrong_with_an_adapter_is_said_at_the_start() {
    let load = |setting: String| {
        let mut settings = defaults().model;
        settings.lora = vec![setting];
        let path = tiny_model();
        match Model::load(Path::new(&path), &settings) {
            Ok(_) => panic!("it was loaded"),
            Err(error) => error.to_string(),
        }
    };
    let check = |setting: String, part: &str| {
        let error = load(setting);
        assert!(error.contains(part), "{error}");
    };
    check(
        "nowhere.gguf".to_owned(),
        "the LoRA adapter nowhere.gguf cannot be read: ",
    );
    check(
        root().join("README.md").to_string_lossy().into_owned(),
        "is not a GGUF file",
    );
    check(tiny_model(), "is not an adapter");
    check(
        "x=a.gguf@101".to_owned(),
        "the scale is not between -100 and 100",
    );
    // What ends in its weights has a whole head: llama.cpp refuses it.
    let whole = std::fs::read(adapter("a")).expect("the adapter");
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.gguf");
    for (length, part) in [
        (
            whole.len() - 100,
            "llama.cpp could not load the LoRA adapter",
        ),
        (200, "is damaged or incomplete"),
        (2, "is not a GGUF file"),
    ] {
        std::fs::write(&cut, &whole[..length]).expect("written");
        check(cut.to_string_lossy().into_owned(), part);
    }
}

/// As routers choose adapters, which know vLLM.
#[test]
fn model_may_name_an_adapter() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.name = "tiny".to_owned();
        config.embeddings.pooling = candor::config::Pooling::Mean;
        config.model.lora = vec![
            format!("a={}@0", adapter("a")),
            format!("b={}@0.5", adapter("b")),
            // A name that means the model.
            format!("tiny={}@0", adapter("a")),
        ];
    });
    let plain = |lora: Value| {
        let answer = server.complete(ask(STEM, &lora));
        (
            answer["choices"].clone(),
            answer["system_fingerprint"].clone(),
        )
    };
    let named = |name: &str| {
        let mut body = ask(STEM, &Value::Null);
        body["model"] = json!(name);
        let answer = server.complete(body);
        assert_eq!(answer["model"], name);
        (
            answer["choices"].clone(),
            answer["system_fingerprint"].clone(),
        )
    };
    // One that is off in the settings is switched on; another keeps its scale; no other applies.
    assert_eq!(named("a"), plain(json!([{"id": "a", "scale": 1}])));
    assert_eq!(named("b"), plain(json!([{"id": "b", "scale": 0.5}])));
    assert_eq!(named("tiny"), plain(Value::Null));
    assert_ne!(named("a").0, named("tiny").0);

    // In lists, and on the other routes.
    let list = server.get("/v1/models").json();
    let listed: Vec<(&Value, &Value)> = list["data"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|model| (&model["id"], &model["parent"]))
        .collect();
    let (tiny, null) = (json!("tiny"), Value::Null);
    assert_eq!(
        listed,
        [(&tiny, &null), (&json!("a"), &tiny), (&json!("b"), &tiny)]
    );
    assert_eq!(server.get("/v1/models/b").json()["parent"], "tiny");
    let send = |path: &str, body: Value| {
        server.send(path, "application/json", body.to_string().as_bytes())
    };
    let score = |choice: Value| {
        let mut body = json!({"stem": "The keeper wrote", "choices": [" one line", " the wind"]});
        body.as_object_mut()
            .expect("an object")
            .extend(choice.as_object().cloned().expect("an object"));
        let answer = send("/v1/score", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["data"].clone()
    };
    assert_eq!(
        score(json!({"model": "a"})),
        score(json!({"lora": [{"id": "a", "scale": 1}]}))
    );
    assert_ne!(score(json!({"model": "a"})), score(json!({})));
    let tokens = send("/tokenize", json!({"content": "Hi", "model": "a"}));
    assert_eq!(tokens.status, 200, "{}", tokens.body);

    // Not with what says something else.
    let refused = |path: &str, body: Value, param: &str, part: &str| {
        let answer = send(path, body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param);
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(part), "{message}");
    };
    let both = json!({"prompt": "a", "model": "a", "lora": []});
    let why = "`model` is \"a\", the name of a LoRA adapter of \"tiny\". ";
    refused(
        "/v1/completions",
        both,
        "lora",
        &format!("{why}So the request cannot have `lora`"),
    );
    let embed = json!({"input": "a", "model": "a"});
    refused(
        "/v1/embeddings",
        embed,
        "model",
        &format!("{why}Embeddings are computed"),
    );
    let answer = server.complete(json!({"prompt": "a", "max_tokens": 4, "model": "a"}));
    let fork = |model: &str| json!({"fork": {"id": answer["id"], "position": 2}, "max_tokens": 2, "model": model});
    refused("/v1/completions", fork("b"), "model", "had other adapters");
    for model in ["a", "tiny"] {
        server.complete(fork(model));
    }
    assert_eq!(
        server
            .try_complete(&json!({"prompt": "a", "model": "c"}))
            .status,
        404
    );
}

#[test]
fn a_receipt_names_the_adapter_that_model_named() {
    let server = with_both();
    let answer =
        server.complete(json!({"prompt": STEM, "max_tokens": 3, "model": "b", "receipt": true}));
    let receipt = &answer["receipt"];
    assert_eq!(receipt["request"]["model"], "llama2-vocab-tiny");
    assert_eq!(receipt["request"]["lora"], json!([{"id": 1, "scale": 1.0}]));
    assert_eq!(receipt["adapters"][0]["name"], "b");
    let again = server.complete(receipt["request"].clone());
    assert_eq!(again["choices"], answer["choices"]);
}

#[test]
fn gateways_see_which_adapters_are_in_use() {
    let server = with(&["a", "b"], |config| config.engine.parallel_sequences = 1);
    let seen = || {
        let text = server.get("/metrics").body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("vllm:lora_requests_info"));
        let (labels, _) = line.expect("the metric").rsplit_once(' ').expect("a value");
        labels.to_owned()
    };
    let expect = |running: &str, waiting: &str| {
        format!(
            "{{max_lora=\"2\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}}"
        )
    };
    assert_eq!(seen(), expect("", ""));
    let start = |model: &str| {
        let body = json!({"prompt": STEM, "max_tokens": 1900, "min_tokens": 1900, "model": model, "stream": true});
        crate::raw::Request::complete(body.to_string()).start(server.address())
    };
    let running = start("b");
    while seen() != expect("b", "") {}
    let waiting = start("a");
    while seen() != expect("b", "a") {}
    drop(running);
    while seen() != expect("a", "") {}
    drop(waiting);
    while seen() != expect("", "") {}
    assert!(
        !tiny()
            .get("/metrics")
            .body
            .contains("vllm:lora_requests_info")
    );
}
