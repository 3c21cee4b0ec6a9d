//! What servers answer, and what it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fake::{Fake, Told};
use super::{Folder, line, lines, prompts, stem_text, url_of, wait};
use crate::server::{TestServer, tiny, tiny_model};

const CLASS: &str = "avx2-1";

fn statuses(folder: &Folder) -> BTreeMap<String, Value> {
    let lines = lines(&folder.output).into_iter();
    let status = |mut line: Value| {
        let id = line["custom_id"].as_str().expect("an id").to_owned();
        (id, line["response"]["status_code"].take())
    };
    lines.map(status).collect()
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
            let sent = fake.sent();
            let times: Vec<Instant> = sent
                .iter()
                .filter(|it| it.prompt() == prompt)
                .map(|it| it.at)
                .collect();
            assert_eq!(times.len(), 2, "{prompt}");
            let waited = times[1] - times[0];
            assert!(waited >= least, "{prompt}: {waited:?}");
        }
    }
}

/// 503 or 429 the first time, as the prompt says.
fn busy(prompt: &str, retry_after: &str) -> Told {
    use std::sync::{LazyLock, Mutex};
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
    let full = Fake::start(CLASS, |_, _| {
        let header = ("retry-after", "3600".to_owned());
        Told::Answer(503, vec![header], "{}".to_owned())
    });
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

#[test]
fn a_line_that_ends_servers_becomes_an_error() {
    let fake = Fake::start(CLASS, |_, sent| match sent.prompt() {
        "bad" => Told::Nothing,
        "page" => Told::Answer(200, Vec::new(), "<html>".to_owned()),
        _ => Told::fine(CLASS),
    });
    let mut all = prompts(2, 3);
    all.extend([line("bad", "bad"), line("page", "page")]);
    let folder = Folder::new(&all);
    let ended = folder.run(&["--url", &fake.url]);
    ended.check(3, &["lines: 8, with an error: 2"]);
    assert_eq!((fake.count("bad"), fake.count("page")), (8, 8));
    for line in lines(&folder.output) {
        if line["custom_id"] == "bad" {
            assert_eq!(line["response"], Value::Null);
            assert_eq!(line["error"]["code"], "no_answer");
            let message = line["error"]["message"].as_str().expect("a message");
            assert!(message.contains("8 attempts"), "{message}");
        }
    }
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
    fake.be_gone(false);
    let ended = wait(child);
    ended.check(
        0,
        &[
            "does not answer yet",
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
    let body = serde_json::json!({"prompt": stem_text(11)});
    let stem = tiny().post("/tokenize", &body).json()["count"].as_u64();
    let stem = stem.expect("a number");
    assert!(
        two <= one + 20 * stem,
        "{two} of two, {one} of one, {stem} a stem"
    );
}
