//! What servers answer, and what it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candor::engine::UNLOADABLE;
use serde_json::{Value, json};

use super::fake::{Fake, Sent, Told};
use super::{Folder, ended, line, line_of, lines, prompts, stem_text, url_of, wait};
use crate::faulty::{Fault, Trouble, faulty};
use crate::server::{TestServer, root, tiny, tiny_model};

const CLASS: &str = "avx2-1";

fn statuses(folder: &Folder) -> BTreeMap<String, Value> {
    let lines = lines(&folder.output).into_iter();
    let status = |mut line: Value| {
        let id = line["custom_id"].as_str().expect("an id").to_owned();
        (id, line["response"]["status_code"].take())
    };
    lines.map(status).collect()
}

/// When a prompt was sent.
fn times_of(sent: &[Sent], prompt: &str) -> Vec<Instant> {
    let of_it = sent.iter().filter(|it| it.prompt() == prompt);
    of_it.map(|it| it.at).collect()
}

#[test]
fn refusals_are_errors_that_are_not_sent_again() {
    let fake = Fake::start(CLASS, |_, sent| match sent.prompt().parse() {
        Ok(status) => Told::error(status, "no"),
        Err(_) => Told::fine(CLASS),
    });
    let prompts = ["400", "404", "413", "422", "fine"];
    let all: Vec<Value> = prompts.iter().map(|it| line(it, it)).collect();
    let folder = Folder::new(&all);
    for _ in 0..2 {
        let ended = folder.run(&["--url", &fake.url]);
        ended.check(3, &["lines: 5, with an error: 4"]);
    }
    assert_eq!(fake.sent().len(), 5);
    let statuses = statuses(&folder);
    for prompt in &prompts[..4] {
        assert_eq!(statuses[*prompt].to_string(), *prompt);
    }
    for line in lines(&folder.output) {
        if line["custom_id"] != "fine" {
            assert_eq!(line["response"]["body"]["error"]["message"], "no");
            assert_eq!(line["error"], Value::Null);
        }
    }
}

#[test]
fn internal_errors_are_tried_thrice() {
    let fake = Fake::start(CLASS, |number, sent| match sent.prompt() {
        "always" => Told::error(500, "oh"),
        "once" if number < 3 => Told::error(500, "oh"),
        _ => Told::fine(CLASS),
    });
    let folder = Folder::new(&[line("a", "always"), line("b", "once"), line("c", "never")]);
    let ended = folder.run(&["--url", &fake.url]);
    ended.check(3, &["with an error: 1"]);
    assert_eq!(fake.count("always"), 3);
    assert!(fake.count("once") <= 2);
    let statuses = statuses(&folder);
    assert_eq!((&statuses["a"], &statuses["b"]), (&500.into(), &200.into()));
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    for (value, least) in [
        ("2", Duration::from_secs(2)),
        ("", Duration::from_millis(500)),
    ] {
        let fake = Fake::start(CLASS, move |_, sent| {
            match sent.prompt().starts_with("busy") {
                true => busy(sent.prompt(), value),
                false => Told::fine(CLASS),
            }
        });
        let all = [
            line("a", "busy 503 a"),
            line("b", "busy 429 b"),
            line("c", "idle"),
        ];
        let folder = Folder::new(&all);
        folder
            .run(&["--url", &fake.url])
            .check(0, &["2 requests repeated"]);
        for prompt in ["busy 503 a", "busy 429 b"] {
            let times = times_of(&fake.sent(), prompt);
            assert_eq!(times.len(), 2, "{prompt}");
            let waited = times[1] - times[0];
            assert!(waited >= least, "{prompt}: {waited:?}");
        }
    }
}

/// 503 or 429 the first time, as the prompt says.
fn busy(prompt: &str, retry_after: &str) -> Told {
    use std::sync::LazyLock;
    static SEEN: LazyLock<Mutex<BTreeSet<(String, String)>>> = LazyLock::new(Mutex::default);
    let mut seen = SEEN.lock().expect("no panic");
    if !seen.insert((prompt.to_owned(), retry_after.to_owned())) {
        return Told::fine(CLASS);
    }
    let status = if prompt.contains("503") { 503 } else { 429 };
    let headers = match retry_after {
        "" => Vec::new(),
        value => vec![("retry-after", value.to_owned())],
    };
    Told::Answer(status, headers, "{}".to_owned())
}

/// A real server without a queue: whatever comes while its slots are taken gets 503.
#[test]
fn without_a_queue_every_line_arrives() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.limits.queue_length = 0;
        config.engine.parallel_sequences = 2;
    });
    let folder = Folder::new(&prompts(5, 12));
    let ended = folder.run(&["--url", &url_of(&server), "--concurrency", "12"]);
    ended.check(0, &["lines: 60, with an error: 0"]);
    assert!(!ended.printed.contains(" 0 requests repeated"), "{ended:?}");
    let other = Folder::new(&prompts(5, 12));
    other.run(&["--url", &url_of(tiny())]).check(0, &[]);
    assert_eq!(folder.answers(), other.answers());
}

#[test]
fn what_one_server_has_no_room_for_goes_to_another() {
    let full = Fake::start(CLASS, |_, _| Told::busy(3600));
    let fine = Fake::fine(CLASS);
    let folder = Folder::new(&prompts(5, 8));
    let start = Instant::now();
    folder
        .run(&["--url", &full.url, "--url", &fine.url])
        .check(0, &[]);
    assert!(start.elapsed() < Duration::from_secs(3600));
    // Each of its four requests at once was sent once.
    assert!(full.sent().len() <= 4, "{}", full.sent().len());
    assert_eq!(fine.sent().len(), 40);
}

#[test]
fn broken_connections_are_tried_again() {
    let fake = Fake::start(CLASS, |number, _| match number % 3 {
        1 => Told::Nothing,
        _ => Told::fine(CLASS),
    });
    let folder = Folder::new(&prompts(2, 10));
    let ended = folder.run(&["--url", &fake.url]);
    ended.check(
        0,
        &["does not answer", "is ready", "lines: 20, with an error: 0"],
    );
    assert_eq!(folder.answers().len(), 20);
}

/// A server that ends breaks the connections of all that it runs.
#[test]
fn a_line_that_ends_servers_becomes_an_error_and_those_beside_it_do_not() {
    let ends = AtomicUsize::new(0);
    let fake = Fake::start(CLASS, move |_, sent| {
        let before = ends.load(Ordering::SeqCst);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(2));
            if ends.load(Ordering::SeqCst) != before {
                return Told::Nothing;
            }
            if sent.prompt() == "bad" {
                ends.fetch_add(1, Ordering::SeqCst);
            }
        }
        match sent.prompt() {
            "page" => Told::Answer(200, Vec::new(), "<html>".to_owned()),
            _ => Told::fine(CLASS),
        }
    });
    let mut all = vec![line("bad", "bad"), line("page", "page")];
    all.extend(prompts(4, 10));
    let folder = Folder::new(&all);
    let ended = folder.run(&["--url", &fake.url, "--concurrency", "8"]);
    ended.check(3, &["lines: 42, with an error: 2"]);
    assert_eq!((fake.count("bad"), fake.count("page")), (8, 8));
    for line in lines(&folder.output) {
        if line["custom_id"] != "bad" && line["custom_id"] != "page" {
            assert_eq!(line["response"]["status_code"], 200, "{line}");
            continue;
        }
        assert_eq!(line["response"], Value::Null);
        assert_eq!(line["error"]["code"], "no_answer");
        let message = line["error"]["message"].as_str().expect("a message");
        assert!(message.contains("8 attempts"), "{message}");
    }
    let sent = fake.sent();
    // Servers have time to come back, and other lines do not wait meanwhile.
    let times = times_of(&sent, "bad");
    let mut least = Duration::from_millis(500);
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= least, "{least:?}: {times:?}");
        least *= 2;
    }
    let fine = sent.iter().filter(|it| it.prompt().starts_with("Story"));
    assert!(fine.map(|it| it.at).max() < times.last().copied());
}

/// A real server whose worker panics on a token.
#[test]
fn a_line_that_ends_workers_becomes_an_error() {
    const POISON: i32 = 31_999;
    let ends = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&ends);
    let trouble: Trouble = Arc::new(move |_, rows| {
        let is_poisoned = rows.iter().any(|row| row.token.0 == POISON);
        is_poisoned.then(|| {
            noted.lock().expect("no panic").push(Instant::now());
            Fault::Panic
        })
    });
    let one_worker = |config: &mut candor::config::Config| config.engine.contexts = 1;
    let server = TestServer::start_on(&tiny_model(), one_worker, faulty(trouble).0);
    let mut all = prompts(3, 5);
    let bad = json!({"prompt": [1, 5, POISON], "max_tokens": 1});
    all.push(line_of("bad", "/v1/completions", bad));
    let folder = Folder::new(&all);
    let ended = folder.run(&["--url", &url_of(&server)]);
    ended.check(3, &["lines: 16, with an error: 1"]);
    let ends = ends.lock().expect("no panic");
    assert_eq!(ends.len(), 8);
    // Such an answer has `Retry-After: 1`.
    assert!(ends[1] - ends[0] >= Duration::from_secs(1), "{ends:?}");
    for line in lines(&folder.output) {
        let (status, error) = (
            &line["response"]["status_code"],
            &line["response"]["body"]["error"],
        );
        match line["custom_id"] == "bad" {
            true => assert_eq!(
                (status, &error["code"]),
                (&503.into(), &"worker_down".into())
            ),
            false => assert_eq!(status, 200, "{line}"),
        }
    }
}

/// It seems to be ready, but whatever it is sent, the connection ends.
#[test]
fn a_server_that_answers_no_line_does_not_make_errors_of_all() {
    let fake = Fake::start(CLASS, |_, _| Told::Nothing);
    let folder = Folder::new(&prompts(10, 10));
    let ended = folder.run(&["--url", &fake.url, "--patience", "3"]);
    ended.check(1, &["no line was answered for 3 s (--patience)"]);
    assert_eq!(folder.count(), 0);
    assert!(fake.sent().len() < 100, "{}", fake.sent().len());
}

#[test]
fn a_process_with_few_connections_uses_what_it_has() {
    let fake = Fake::start(CLASS, |_, _| {
        std::thread::sleep(Duration::from_millis(300));
        Told::fine(CLASS)
    });
    let folder = Folder::new(&prompts(10, 20));
    let command = folder.command(&["--url", &fake.url, "--concurrency", "100"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]);
    limited.arg(command.get_program()).args(command.get_args());
    let ended = ended(&mut limited);
    ended.check(
        0,
        &[
            "lines: 200, with an error: 0",
            "Too many open files",
            "`ulimit -n`",
        ],
    );
    // Nothing is wrong with the server.
    assert!(!ended.said.contains("does not answer"), "{ended:?}");
    assert_eq!(lines(&folder.output).len(), 200);
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let fake = Arc::new(Fake::fine(CLASS));
    let folder = Folder::new(&prompts(20, 50));
    fake.be_gone(true);
    let child = folder.start(&["--url", &fake.url]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(folder.count(), 0);
    fake.be_gone(false);
    while folder.count() < 100 {
        std::thread::sleep(Duration::from_millis(1));
    }
    fake.be_gone(true);
    std::thread::sleep(Duration::from_millis(300));
    // A proxy answers in its place for a while, in which it is asked at least once.
    fake.says("/v1/models", Told::error(404, "no such service"));
    fake.be_gone(false);
    std::thread::sleep(Duration::from_secs(1));
    fake.says_no_more("/v1/models");
    let ended = wait(child);
    ended.check(
        0,
        &[
            "is not ready yet",
            "is ready",
            "lines: 1000, with an error: 0",
        ],
    );
}

#[test]
fn patience_ends() {
    let fake = Fake::fine(CLASS);
    let folder = Folder::new(&prompts(2, 10));
    let flags = ["--url", fake.url.as_str(), "--patience", "1"];
    fake.be_gone(true);
    let ended = folder.run(&flags);
    ended.check(
        1,
        &[
            "no line was answered for 1 s (--patience)",
            "has the answers to 0 of 20 lines",
        ],
    );
    fake.be_gone(false);
    folder.run(&flags).check(0, &[]);
    let nobody = Folder::new(&prompts(1, 1));
    let ended = nobody.run(&["--url", "http://127.0.0.1:1", "--patience", "1"]);
    ended.check(1, &["http://127.0.0.1:1", "refused"]);
}

#[test]
fn a_server_that_asks_for_a_pause_is_waited_for() {
    let fake = Fake::start(CLASS, |number, _| match number {
        0..4 => Told::busy(3),
        _ => Told::fine(CLASS),
    });
    let folder = Folder::new(&prompts(1, 4));
    let ended = folder.run(&["--url", &fake.url, "--patience", "1"]);
    ended.check(0, &["lines: 4, with an error: 0"]);
    // One that asks for none is not asked all the time either.
    let fake = Fake::start(CLASS, |number, _| match number {
        0..5 => Told::busy(0),
        _ => Told::fine(CLASS),
    });
    let folder = Folder::new(&[line("a", "again")]);
    folder.run(&["--url", &fake.url]).check(0, &[]);
    let times = times_of(&fake.sent(), "again");
    assert!(
        times[5] - times[0] >= Duration::from_millis(500),
        "{times:?}"
    );
}

#[test]
fn the_same_url_twice_is_one_server() {
    let fake = Fake::start(CLASS, |number, _| match number {
        0 => Told::busy(2),
        _ => Told::fine(CLASS),
    });
    let folder = Folder::new(&prompts(4, 10));
    // With and without a slash.
    let slash = format!("{}/", fake.url);
    let flags = ["--url", &fake.url, "--url", &slash, "--url", &fake.url];
    folder
        .run(&flags)
        .check(0, &["lines: 40, with an error: 0", "1 requests repeated"]);
    let sent = fake.sent();
    assert_eq!(sent.len(), 41);
    let times = times_of(&sent, sent[0].prompt());
    assert!(times[1] - times[0] >= Duration::from_secs(2), "{times:?}");
}

#[test]
fn what_is_no_address_is_refused_at_once() {
    let folder = Folder::new(&prompts(1, 1));
    for (url, why) in [
        ("localhost:8000", "'localhost:8000'"),
        ("http://127.0.0.1:8000/v1", "\"/v1\" must be left out"),
        ("", "it is empty"),
    ] {
        folder
            .run(&["--url", url])
            .check(2, &[why, "as in http://127.0.0.1:8000"]);
    }
}

#[test]
fn what_a_server_says_of_itself_decides_whether_it_is_waited_for() {
    let folder = Folder::new(&prompts(1, 2));
    let check = |path: &'static str, told: Told, status: i32, parts: &[&str]| {
        let fake = Fake::fine(CLASS);
        if path == "/tokenize" {
            fake.says(
                "/v1/models",
                Told::json(&json!({"data": [
                    {"id": "fake", "bits_class": null, "status": {"value": "unloaded"}}
                ]})),
            );
        }
        fake.says(path, told);
        let ended = folder.run(&["--url", &fake.url, "--patience", "1"]);
        ended.check(status, parts);
        assert_eq!(fake.sent().len(), 0);
    };
    let cannot = "The model `fake` could not be loaded: there was not enough memory for it.";
    check(
        "/tokenize",
        Told::error(503, cannot),
        1,
        &["cannot load its default model: 503", cannot],
    );
    let never = format!("The model `fake` could not be loaded: {UNLOADABLE}. Try again shortly.");
    let refused = [never.as_str(), "Nothing was sent"];
    check("/tokenize", Told::error(503, &never), 2, &refused);
    check(
        "/tokenize",
        Told::error(400, "no"),
        2,
        &["cannot load its default model: 400 no", "Nothing was sent"],
    );
    check(
        "/tokenize",
        Told::json(&json!({"count": 0})),
        1,
        &["has unloaded its default model again"],
    );
    check(
        "/lora-adapters",
        Told::error(503, "busy"),
        1,
        &["/lora-adapters answers 503 busy"],
    );
    check(
        "/health",
        Told::error(503, "loading"),
        1,
        &["/health answers 503 loading"],
    );
    check(
        "/v1/models",
        Told::error(502, "bad gateway"),
        1,
        &["/v1/models answers 502"],
    );
    check(
        "/v1/models",
        Told::error(307, ""),
        2,
        &["/v1/models answers 307", "redirects to"],
    );
    check(
        "/v1/models",
        Told::error(400, "plain HTTP"),
        2,
        &["/v1/models answers 400 plain HTTP"],
    );
}

/// Real servers, with adapters of one name.
#[test]
fn adapters_with_other_weights_are_not_mixed() {
    let file = |name: &str| root().join(format!("tests/models/lora-tiny-{name}.gguf"));
    let start = |path: &std::path::Path| {
        TestServer::start_with(&tiny_model(), |config| {
            config.model.lora = vec![format!("style={}@0.5", path.display())];
        })
    };
    let folder = Folder::new(&prompts(2, 4));
    let copy = folder.path("elsewhere.gguf");
    std::fs::copy(file("a"), &copy).expect("copied");
    let (one, same, other) = (start(&file("a")), start(&copy), start(&file("b")));
    let urls = [&one, &same, &other].map(url_of);
    let run = |urls: [&str; 2]| folder.run(&["--url", urls[0], "--url", urls[1]]);
    run([&urls[0], &urls[2]]).check(
        2,
        &[
            "has the adapters",
            "89f75dd1fb6c",
            "404b70fa38e3",
            "Nothing was sent",
        ],
    );
    run([&urls[0], &urls[1]]).check(0, &["lines: 8, with an error: 0"]);
}

#[test]
fn servers_of_two_bits_classes_are_not_mixed() {
    let (one, other) = (Fake::fine(CLASS), Fake::fine("amx-1"));
    let folder = Folder::new(&prompts(4, 10));
    let both = ["--url", one.url.as_str(), "--url", other.url.as_str()];
    let ended = folder.run(&both);
    ended.check(
        2,
        &[
            "has the bits class amx-1, but other answers have avx2-1",
            "Nothing was sent.",
        ],
    );
    assert_eq!(one.sent().len() + other.sent().len(), 0);
    // Nor in two runs.
    folder.run(&both[..2]).check(0, &[]);
    let first = std::fs::read_to_string(&folder.output).expect("an output");
    let half = first.lines().take(20).map(|line| format!("{line}\n"));
    std::fs::write(&folder.output, half.collect::<String>()).expect("written");
    let ended = folder.run(&both[2..]);
    ended.check(2, &["has the bits class amx-1", "--allow-mixed"]);
    assert_eq!(other.sent().len(), 0);
    // Unless it is wanted; then each line says where it comes from.
    let mixed = [&both[2..], &["--allow-mixed"]].concat();
    folder.run(&mixed).check(0, &["this run: 20 lines"]);
    let classes = |class: &str| {
        let lines = lines(&folder.output);
        lines
            .iter()
            .filter(|line| line["bits_class"] == class)
            .count()
    };
    assert_eq!((classes(CLASS), classes("amx-1")), (20, 20));
    folder
        .run(&both[..2])
        .check(2, &["was begun with --allow-mixed"]);
    // A real server beside a fake one has other weights, too.
    let folder = Folder::new(&prompts(4, 10));
    let tiny = url_of(tiny());
    let ended = folder.run(&["--url", &tiny, "--url", &one.url, "--allow-mixed"]);
    ended.check(2, &["the weights 0123456789ab"]);
}

#[test]
fn a_server_that_is_replaced_midway_is_not_used_any_more() {
    let replaced = |number: usize| if number < 15 { CLASS } else { "amx-1" };
    let one = Fake::start(CLASS, move |number, _| Told::fine(replaced(number)));
    let folder = Folder::new(&prompts(4, 20));
    let ended = folder.run(&["--url", &one.url]);
    ended.check(
        1,
        &[
            "is not used any more",
            "has the bits class amx-1",
            "no server is left",
            "the answers to 15 of 80",
        ],
    );
    let other = Fake::fine(CLASS);
    let ended = folder.run(&["--url", &one.url, "--url", &other.url]);
    ended.check(0, &["is not used any more"]);
    for line in lines(&folder.output) {
        assert_eq!(line["bits_class"], CLASS);
    }
}

/// Its answer comes while the server is asked whether it is ready again.
#[test]
fn a_server_that_is_excluded_while_it_is_away_stays_excluded() {
    let one = Fake::start(CLASS, |number, _| match number {
        0 => {
            std::thread::sleep(Duration::from_millis(500));
            Told::Nothing
        }
        1 => {
            std::thread::sleep(Duration::from_secs(2));
            Told::fine("amx-1")
        }
        _ => Told::fine(CLASS),
    });
    let other = Fake::start(CLASS, |number, _| {
        std::thread::sleep(Duration::from_millis(200));
        Told::fine(if number < 50 { CLASS } else { "amx-1" })
    });
    let folder = Folder::new(&prompts(6, 10));
    let urls = ["--url", &one.url, "--url", &other.url];
    let child = folder.start(&[&urls[..], &["--concurrency", "2", "--patience", "5"]].concat());
    while one.sent().len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    one.says("/health", Told::error(503, "not yet"));
    std::thread::sleep(Duration::from_millis(2500));
    one.says("/health", Told::json(&json!({})));
    let ended = wait(child);
    ended.check(1, &["no server is left", "the answers to 50 of 60 lines"]);
    assert_eq!(one.sent().len(), 2);
    for line in lines(&folder.output) {
        assert_eq!(line["bits_class"], CLASS);
    }
}

#[test]
fn a_server_that_says_no_class_is_refused() {
    let other = Fake::start("", |_, _| Told::fine(""));
    // Its models are those of another program.
    let folder = Folder::new(&prompts(1, 2));
    other.be_another_program();
    let ended = folder.run(&["--url", &other.url]);
    ended.check(2, &["has no bits class: the server is not a Candor"]);
    folder
        .run(&["--url", &other.url, "--allow-mixed"])
        .check(0, &[]);
}

#[test]
fn prompts_that_begin_alike_go_to_one_server_in_succession() {
    let order = Arc::new(AtomicUsize::new(0));
    let all: Vec<Fake> = (0..2)
        .map(|_| {
            let order = Arc::clone(&order);
            Fake::start(CLASS, move |_, _| {
                order.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                Told::fine(CLASS)
            })
        })
        .collect();
    let folder = Folder::new(&prompts(20, 25));
    let flags = [
        "--url",
        &all[0].url,
        "--url",
        &all[1].url,
        "--concurrency",
        "1",
    ];
    folder.run(&flags).check(0, &[]);
    assert_eq!(order.load(Ordering::SeqCst), 500);
    let stem_of = |prompt: &str| (0..20).find(|&stem| prompt.starts_with(&stem_text(stem)));
    let mut pieces = 0;
    let mut keys: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for fake in &all {
        let sent = fake.sent();
        assert!(sent.len() > 100, "{}", sent.len());
        let stems: Vec<usize> = sent
            .iter()
            .map(|it| stem_of(it.prompt()).expect("a stem"))
            .collect();
        pieces += stems.chunk_by(|a, b| a == b).count();
        for (sent, stem) in sent.iter().zip(stems) {
            let key = sent.header("x-session-id").expect("a header");
            assert_eq!(sent.header("x-smg-routing-key"), Some(key));
            keys.entry(stem).or_default().insert(key.to_owned());
        }
    }
    // Each stem is one piece, but for a few that the servers shared at the end.
    assert!((20..=26).contains(&pieces), "{pieces}");
    assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    let all: BTreeSet<&String> = keys.values().flatten().collect();
    assert_eq!(all.len(), 20);
}

/// The bar for two servers: no more is evaluated than by one, but for a stem a group.
#[test]
fn two_servers_evaluate_little_more_than_one() {
    let all = prompts(20, 20);
    let count = |servers: &[TestServer]| {
        let folder = Folder::new(&all);
        let urls: Vec<String> = servers.iter().map(url_of).collect();
        let flags: Vec<&str> = urls
            .iter()
            .flat_map(|url| ["--url", url.as_str()])
            .collect();
        let ended = folder.run(&flags);
        ended.check(0, &[]);
        super::number_before(&ended.printed, " evaluated)")
    };
    let start = || TestServer::start(&tiny_model());
    let one = count(&[start()]);
    let two = count(&[start(), start()]);
    let body = json!({"prompt": stem_text(11)});
    let stem = tiny().post("/tokenize", &body).json()["count"].as_u64();
    let stem = stem.expect("a number");
    assert!(
        two <= one + 20 * stem,
        "{two} of two, {one} of one, {stem} a stem"
    );
}
