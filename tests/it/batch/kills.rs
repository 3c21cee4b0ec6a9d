//! What is killed: the batch, and its servers.

use std::hash::{BuildHasher, RandomState};
use std::io::{Seek, SeekFrom};
use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use super::fake::{Fake, Told};
use super::{Folder, prompts, signal, url_of, wait};
use crate::process::Process;
use crate::server::tiny;

/// A random number below `most`.
fn random(most: u64) -> u64 {
    RandomState::new().hash_one(most) % most
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Waits until the output has more lines than before. Returns whether the process is still running.
fn wait_for_lines(folder: &Folder, child: &mut Child, before: usize) -> bool {
    while folder.count() <= before {
        if child.try_wait().expect("a status").is_some() {
            return false;
        }
        pause(1);
    }
    true
}

#[test]
fn a_run_that_is_killed_twenty_times_has_the_answers_of_one_that_is_not() {
    let all = prompts(25, 60);
    let url = url_of(tiny());
    let whole = Folder::new(&all);
    whole.run(&["--url", &url]).check(0, &[]);
    let expect = whole.answers();
    assert_eq!(expect.len(), all.len());
    let folder = Folder::new(&all);
    let mut while_sending = 0;
    for round in 0..20 {
        let before = folder.count();
        let mut child = folder.start(&["--url", &url]);
        if round % 4 == 3 {
            // At any moment, perhaps before anything was sent.
            pause(random(60));
        } else {
            if !wait_for_lines(&folder, &mut child, before) {
                break;
            }
            pause(random(20));
            while_sending += 1;
        }
        child.kill().expect("killed");
        let ended = wait(child);
        if round % 4 == 1 && folder.count() > 0 {
            // As if the machine had ended, too: the last line is torn.
            let file = std::fs::File::options().write(true).open(&folder.output);
            let mut file = file.expect("an output");
            let end = file.seek(SeekFrom::End(0)).expect("an end");
            file.set_len(end - 1 - random(50)).expect("cut");
        }
        assert!(ended.status.is_none(), "{ended:?}");
    }
    let left = all.len() - folder.count();
    assert!(
        while_sending == 15 && left > 0,
        "{while_sending}, {left} left"
    );
    let ended = folder.run(&["--url", &url]);
    ended.check(0, &[&format!("lines: {}, with an error: 0", all.len())]);
    assert_eq!(folder.answers(), expect);
}

#[test]
fn a_server_that_ends_midway_loses_no_line() {
    let all = prompts(20, 30);
    let whole = Folder::new(&all);
    whole.run(&["--url", &url_of(tiny())]).check(0, &[]);
    let expect = whole.answers();
    for name in ["-KILL", "-TERM"] {
        let (one, other) = (Process::start(&[]), Process::start(&[]));
        let folder = Folder::new(&all);
        let mut child = folder.start(&["--url", &one.url, "--url", &other.url]);
        assert!(wait_for_lines(&folder, &mut child, 100));
        one.signal(name);
        let ended = wait(child);
        ended.check(0, &["600, with an error: 0"]);
        assert!(
            ended.said.contains("does not answer") || name == "-TERM",
            "{ended:?}"
        );
        assert_eq!(folder.answers(), expect, "{name}");
    }
}

#[test]
fn a_signal_lets_running_requests_finish() {
    for name in ["-INT", "-TERM"] {
        let folder = Folder::new(&prompts(10, 100));
        let fake = Fake::start("avx2-1", |_, _| {
            pause(200);
            Told::fine("avx2-1")
        });
        let flags = ["--url", fake.url.as_str(), "--concurrency", "8"];
        let mut child = folder.start(&flags);
        assert!(wait_for_lines(&folder, &mut child, 10));
        signal(&child, name);
        let ended = wait(child);
        ended.check(130, &["interrupted", "Run the same command again to go on"]);
        // Whatever was sent was answered and kept.
        let sent = fake.sent().len();
        assert_eq!(folder.count(), sent);
        assert!(sent < 1000, "{sent}");
        assert!(
            ended
                .said
                .contains(&format!("the answers to {sent} of 1000 lines")),
            "{ended:?}"
        );
    }
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let folder = Folder::new(&prompts(1, 4));
    let fake = Fake::start("avx2-1", |_, _| {
        pause(3_600_000);
        Told::Nothing
    });
    let child = folder.start(&["--url", &fake.url]);
    while fake.sent().is_empty() {
        pause(5);
    }
    signal(&child, "-TERM");
    pause(300);
    signal(&child, "-TERM");
    assert_eq!(wait(child).status, Some(130));
}

#[test]
fn a_signal_ends_a_run_whose_servers_do_not_answer_yet() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let fine = Fake::fine("avx2-1");
    let folder = Folder::new(&prompts(1, 4));
    let child = folder.start(&["--url", &fine.url, "--url", &url]);
    // It is asked for the first time, and says nothing.
    let _asked = silent.accept().expect("a connection");
    signal(&child, "-INT");
    wait(child).check(130, &["interrupted before anything was sent"]);
    assert_eq!(fine.sent().len(), 0);
}

#[test]
fn an_interrupted_engine_of_its_own_goes_on_later() {
    let model = crate::server::tiny_model();
    let folder = Folder::new(&prompts(20, 60));
    let flags = ["--model", model.as_str()];
    let mut child = folder.start(&flags);
    assert!(wait_for_lines(&folder, &mut child, 20));
    signal(&child, "-TERM");
    wait(child).check(130, &[]);
    let before = folder.count();
    assert!((21..1200).contains(&before), "{before}");
    let ended = folder.run(&flags);
    ended.check(
        0,
        &[
            "lines: 1200, with an error: 0",
            &format!("earlier runs: {before}"),
        ],
    );
}
