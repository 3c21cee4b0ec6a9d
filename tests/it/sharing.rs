//! Work that is done once for several requests: stems, scores, decodes. And what is promised of it when a neighbour
//! leaves, or when room is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::faulty::{Gate, faulty};
use crate::raw::Request;
use crate::server::{self, TestServer, tiny_model};

const STEM: &str = "The lighthouse keeper wrote one line a day into a book bound in green leather: the wind, the ships, \
                    the state of the lamp, and what he had for supper. On the first of March he wrote nothing at all. ";

fn scored(prompt: &str, top: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": top})
}

fn alone(server: &TestServer, mut request: Value) -> Value {
    request["cache_prompt"] = json!(false);
    server.complete(request)["choices"].clone()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .expect("a number")
}

/// One context, so that everyone meets in it.
fn one_context(lanes: usize, cache_lanes: usize) -> TestServer {
    TestServer::start_with(&server::default_model(), |config| {
        config.engine.contexts = 1;
        config.engine.parallel_sequences = lanes;
        config.engine.cache_lanes = cache_lanes;
        // So that a prompt takes several rounds.
        config.engine.prompt_chunk_tokens = 16;
        config.engine.logits_rows = 16;
    })
}

#[test]
fn a_repeated_echo_is_answered_from_what_is_known() {
    let server = one_context(2, 2);
    let prompt = STEM.repeat(4);
    let tokens = server.complete(scored(&prompt, 1))["usage"]["prompt_tokens"]
        .as_u64()
        .expect("a number");
    // All but the last decode, which is needed for what comes after.
    let again = server.complete(scored(&prompt, 1));
    assert!(cached(&again) + 16 >= tokens, "{again}");
    // More alternatives than are known: evaluated again; then they are known, and fewer are too.
    let more = server.complete(scored(&prompt, 4));
    assert_eq!(cached(&more), 0);
    for top in [4, 2, 0, 3] {
        let answer = server.complete(scored(&prompt, top));
        assert!(cached(&answer) + 16 >= tokens, "{top}");
        assert_eq!(
            answer["choices"],
            alone(&server, scored(&prompt, top)),
            "{top}"
        );
    }
    let most = server.complete(scored(&prompt, 9));
    assert_eq!(cached(&most), 0);
    assert_eq!(most["choices"], alone(&server, scored(&prompt, 9)));
}

#[test]
fn a_stem_is_taken_over_while_its_owner_still_runs() {
    let server = one_context(4, 1);
    let stem = STEM.repeat(6);
    let ask = |i: usize, max_tokens: usize| json!({"prompt": format!("{stem}Question {i}: who lit the lamp?"), "max_tokens": max_tokens, "temperature": 0, "logprobs": 2});
    let expected: Vec<Value> = (0..4).map(|i| alone(&server, ask(i, 12))).collect();
    let server = one_context(4, 1);
    std::thread::scope(|scope| {
        let donor = scope.spawn(|| server.complete(ask(9, 200)));
        let others: Vec<_> = (0..3)
            .map(|i| {
                let (server, ask) = (&server, &ask);
                scope.spawn(move || (i, server.complete(ask(i, 12))))
            })
            .collect();
        let mut reused = 0;
        for other in others {
            let (i, answer) = other.join().expect("no panic");
            assert_eq!(answer["choices"], expected[i], "{i}");
            reused += usize::from(cached(&answer) > 100);
        }
        // Whoever came first evaluated it; the others waited for that.
        let donor = donor.join().expect("no panic");
        reused += usize::from(cached(&donor) > 100);
        assert_eq!(reused, 3);
    });
}

#[test]
fn a_donor_that_leaves_midway_leaves_the_others_whole() {
    let server = one_context(4, 1);
    let stem = STEM.repeat(8);
    let ask = |i: usize| json!({"prompt": format!("{stem}And {i}:"), "max_tokens": 8, "temperature": 0, "echo": i.is_multiple_of(2), "logprobs": 2});
    let expected: Vec<Value> = (0..3).map(|i| alone(&server, ask(i))).collect();
    for pause in [0, 20, 60, 150, 400] {
        let server = one_context(4, 1);
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..3)
                .map(|i| {
                    let (server, ask) = (&server, &ask);
                    scope.spawn(move || {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                        server.complete(ask(i))["choices"].clone()
                    })
                })
                .collect();
            server::leave(
                &server,
                &json!({"prompt": format!("{stem}I am the donor."), "max_tokens": 200, "echo": true, "logprobs": 2}),
                pause,
            );
            for (i, other) in others.into_iter().enumerate() {
                assert_eq!(other.join().expect("no panic"), expected[i], "{pause} {i}");
            }
        });
    }
}

/// Ids of a stem, and of a tail of 5.
fn behind(stem: std::ops::Range<usize>, tail: usize) -> Vec<usize> {
    stem.chain(20_000 + 10 * tail..20_005 + 10 * tail).collect()
}

#[test]
fn contexts_that_are_asked_at_once_evaluate_once() {
    let rows = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rows);
    let (runners, _) = faulty(Arc::new(move |_, decoded| {
        counted.fetch_add(decoded.len(), Ordering::SeqCst);
        None
    }));
    let server = TestServer::start_on(
        &tiny_model(),
        |config| {
            config.engine.contexts = 2;
            // A stem takes one decode.
            config.engine.prompt_chunk_tokens = 512;
        },
        runners,
    );
    let check = |bodies: Vec<Value>, expect: usize| {
        let before = rows.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for body in &bodies {
                scope.spawn(|| server.complete(body.clone()));
            }
        });
        let evaluated = rows.load(Ordering::SeqCst) - before;
        assert_eq!(evaluated, expect, "{}", bodies[0]);
    };
    for round in 0..10 {
        let stem = |number: usize| {
            let first = 400 * (9 * round + number + 1) % 19_000;
            first..first + 300
        };
        // The first token is drawn from the prompt's last row. Each prompt but the first one evaluates its tail of 5, and
        // the 4 before it, which are no whole group.
        let ask = |prompt: Value| json!({"prompt": prompt, "max_tokens": 1});
        let clients =
            |number: usize, count: usize| (0..count).map(move |tail| behind(stem(number), tail));
        let sixteen = clients(0, 16).map(|prompt| ask(json!(prompt))).collect();
        check(sixteen, 305 + 15 * 9);
        let four_by_four = (0..16).map(|client| ask(json!(behind(stem(1 + client % 4), client))));
        check(four_by_four.collect(), 4 * (305 + 3 * 9));
        check(
            vec![ask(json!(clients(5, 8).collect::<Vec<_>>()))],
            305 + 7 * 9,
        );
        // The choices of a prompt have all of it in common. They leave copies that no decode has made, which the next round's
        // fetches need.
        let choices = json!({"prompt": behind(stem(6), 0), "max_tokens": 1, "n": 8});
        check(vec![choices], 305);
    }
}

#[test]
fn whoever_waits_for_a_stem_goes_on_when_its_owner_leaves() {
    const WAITING: usize = 6;
    let gate = Arc::new(Gate::default());
    let rows = Arc::new(AtomicUsize::new(0));
    let (door, counted) = (Arc::clone(&gate), Arc::clone(&rows));
    let (runners, _) = faulty(Arc::new(move |_, decoded| {
        door.pass();
        counted.fetch_add(decoded.len(), Ordering::SeqCst);
        None
    }));
    let key = |client: usize| format!("client-{client}");
    let server = TestServer::start_on(
        &tiny_model(),
        |config| {
            config.engine.contexts = 2;
            config.engine.prompt_chunk_tokens = 64;
            // A key may have one request: that tells when it is gone. The last key watches.
            config.server.api_keys = (0..=WAITING + 1).map(key).collect();
            config.limits.requests_per_key = 1;
        },
        runners,
    );
    let ask = |client: usize| json!({"prompt": behind(100..1100, client), "max_tokens": 1});
    let send =
        |client: usize, body: &Value| server.post_with("/v1/completions", &key(client), body);
    gate.close();
    std::thread::scope(|scope| {
        let _opener = gate.opener();
        let owner = Request::complete(ask(0).to_string())
            .with_header(&format!("authorization: Bearer {}", key(0)))
            .start(server.address());
        gate.wait_for(1);
        let others: Vec<_> = (1..=WAITING)
            .map(|client| scope.spawn(move || send(client, &ask(client))))
            .collect();
        server.wait_until("candor_sequences_running", 1 + WAITING as i64);
        drop(owner);
        while send(0, &json!({"n": 0})).status == 429 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        gate.open();
        for other in others {
            assert_eq!(other.join().expect("no panic").status, 200);
        }
    });
    // The stem has 1,000 tokens. Near its end some evaluate what is left rather than wait.
    let evaluated = rows.load(Ordering::SeqCst);
    assert!(evaluated < 1_600, "{evaluated}");
    books_balance(&server);
}

#[test]
fn lanes_are_given_to_others_while_stems_are_shared() {
    // No lane to spare: each prompt displaces another one's cells.
    let server = one_context(3, 0);
    let stems: Vec<String> = (0..4)
        .map(|i| format!("Volume {i}. {}", STEM.repeat(2)))
        .collect();
    let ask = |i: usize| json!({"prompt": format!("{}Page {i}.", stems[i % stems.len()]), "max_tokens": 6, "temperature": 0, "echo": i.is_multiple_of(3), "logprobs": i % 3});
    let expected: Vec<Value> = (0..12).map(|i| alone(&server, ask(i))).collect();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (server, ask, expected) = (&server, &ask, &expected);
            scope.spawn(move || {
                for round in 0..6 {
                    let i = (client * 5 + round * 7) % 12;
                    assert_eq!(server.complete(ask(i))["choices"], expected[i], "{i}");
                }
            });
        }
    });
}

#[test]
fn a_pinned_stem_survives_a_flood_of_one_off_prompts() {
    let ask = |prompt: String| json!({"prompt": prompt, "max_tokens": 2, "temperature": 0, "logprobs": 1});
    let stem = STEM.repeat(3);
    let shared = |user: usize| ask(format!("{stem}Question {user}: who lit the lamp?"));
    for pinned_prefixes in [0, 1] {
        let server = TestServer::start_with(&server::default_model(), |config| {
            config.engine.contexts = 1;
            config.engine.parallel_sequences = 2;
            config.engine.cache_lanes = 2;
            config.engine.pinned_prefixes = pinned_prefixes;
        });
        let expected = alone(&server, shared(9));
        for user in 0..3 {
            server.complete(shared(user));
        }
        // More of them than there are lanes, and two at once.
        std::thread::scope(|scope| {
            for client in 0..2 {
                let (server, ask) = (&server, &ask);
                scope.spawn(move || {
                    for number in 0..4 {
                        let text = format!("{client}{number} {}", STEM.repeat(number % 2 + 1));
                        server.complete(ask(text));
                    }
                });
            }
        });
        let answer = server.complete(shared(9));
        assert_eq!(answer["choices"], expected);
        let survived = cached(&answer) > 100;
        assert_eq!(survived, pinned_prefixes > 0, "{answer}");
    }
}

/// Throughput mode: answers differ from exact ones by what the shape of a decode moves, which is told here and bounded
/// far below what would be a mistake: another row, another lane, another position.
fn throughput(model: &str, bound: f64) {
    let exact = TestServer::start(model);
    let shared = TestServer::start_with(model, |config| {
        config.engine.mode = candor::config::Mode::Throughput;
        config.engine.contexts = 1;
        config.engine.decode_width = 16;
        config.engine.cache_lanes = 4;
    });
    // The forced tokens keep both on one path, whatever the numbers are.
    let ask = |i: usize| {
        let chunk: String = (0..i % 7 + 1)
            .map(|n| format!("Item {}. ", i * n))
            .collect();
        json!({"prompt": format!("{STEM}{chunk}"), "max_tokens": 8 + i % 5, "logprobs": 5, "temperature": 0,
               "logit_bias": {(300 + i * 37 % 100).to_string(): 1000}})
    };
    let expected: Vec<Value> = (0..24).map(|i| exact.complete(ask(i))).collect();
    let (mut worst, mut sum, mut count) = (0.0_f64, 0.0, 0);
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..24)
            .map(|i| {
                let (shared, ask) = (&shared, &ask);
                scope.spawn(move || shared.complete(ask(i)))
            })
            .collect();
        for (answer, expected) in answers.into_iter().zip(&expected) {
            let answer = answer.join().expect("no panic");
            let arrays = |answer: &Value| answer["choices"][0]["logprobs"].clone();
            let (ours, theirs) = (arrays(&answer), arrays(expected));
            assert_eq!(ours["tokens"], theirs["tokens"]);
            assert_eq!(ours["text_offset"], theirs["text_offset"]);
            assert_eq!(answer["choices"][0]["text"], expected["choices"][0]["text"]);
            for (a, b) in ours["token_logprobs"]
                .as_array()
                .expect("an array")
                .iter()
                .zip(theirs["token_logprobs"].as_array().expect("an array"))
            {
                let difference =
                    (a.as_f64().expect("a number") - b.as_f64().expect("a number")).abs();
                worst = worst.max(difference);
                sum += difference;
                count += 1;
            }
        }
    });
    println!(
        "{model}: throughput mode moved {count} logprobs by {:.4} on average and {worst:.4} at most",
        sum / f64::from(count)
    );
    assert!(worst <= bound, "{worst}");
    // A conversation goes on from the cells of what was generated.
    let first = shared
        .complete(json!({"prompt": STEM, "max_tokens": 64, "min_tokens": 64, "temperature": 0}));
    let longer = format!(
        "{STEM}{}",
        first["choices"][0]["text"].as_str().expect("text")
    );
    let next = shared.complete(json!({"prompt": longer, "max_tokens": 1, "temperature": 0}));
    let length = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert!(cached(&next) > length + 16, "{next}");
    let system = next["system_fingerprint"].as_str().expect("text");
    assert!(system.contains("-throughput-"), "{system}");
}

#[test]
fn a_draft_changes_nothing_but_the_pace() {
    let start = |draft_tokens| {
        TestServer::start_with(&server::default_model(), |config| {
            config.engine.mode = candor::config::Mode::Throughput;
            config.engine.draft_tokens = draft_tokens;
        })
    };
    let (plain, drafting) = (start(0), start(8));
    let verse = "one two three four five six seven eight nine ten. ".repeat(6);
    for request in [
        json!({"prompt": verse, "max_tokens": 60, "temperature": 0, "logprobs": 2}),
        json!({"prompt": verse, "max_tokens": 60, "seed": 5, "logprobs": 0, "stop": "five six"}),
        json!({"prompt": format!("Repeat: {STEM}\nAgain: {STEM}\nAgain: "), "max_tokens": 50, "temperature": 0, "logprobs": 1}),
    ] {
        let (a, b) = (
            plain.complete(request.clone()),
            drafting.complete(request.clone()),
        );
        // With AMX several rows of one lane have other low bits than single ones (attention): a text may be another one
        // from some token on.
        let tokens = |answer: &Value| answer["choices"][0]["logprobs"]["tokens"].clone();
        let (ours, theirs) = (tokens(&a), tokens(&b));
        if !plain.bits_class().starts_with("amx-") {
            assert_eq!(ours, theirs, "{request}");
            assert_eq!(
                a["choices"][0]["text"], b["choices"][0]["text"],
                "{request}"
            );
        }
        let pairs = ours
            .as_array()
            .into_iter()
            .flatten()
            .zip(theirs.as_array().into_iter().flatten());
        let common = pairs.take_while(|(a, b)| a == b).count();
        assert!(common > 0, "{request}");
        let numbers = |answer: &Value| -> Vec<f64> {
            let arrays = answer["choices"][0]["logprobs"]["token_logprobs"].as_array();
            let arrays = arrays.expect("an array").iter();
            arrays
                .map(|number| number.as_f64().expect("a number"))
                .collect()
        };
        for (a, b) in numbers(&a).iter().zip(numbers(&b)).take(common) {
            assert!((a - b).abs() < 0.2, "{a} {b}");
        }
    }
}

#[test]
fn throughput_mode_tiny_llama() {
    throughput(&server::tiny_model(), 0.05);
}

#[test]
fn throughput_mode_smollm2() {
    // Its weights are in a layout whose rows are computed alike at any width.
    throughput(&server::default_model(), 0.0);
}

#[test]
fn throughput_mode_gemma() {
    if let Some(path) = server::gemma_model() {
        throughput(&path, 3.0);
    }
}
