//! The signal to stop: what runs may end within the grace, and is cut properly after it.

use std::io::Read;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::process::Process;
use crate::raw::Request;

const MINUTE: &str = "60000";

fn long(stream: bool) -> Value {
    json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000, "n": 4, "stream": stream})
}

/// Waits until the second request stands in the queue; the first must still run then.
fn wait_for_one_waiting(server: &Process) {
    loop {
        let mut answer = ureq::get(format!("{}/metrics", server.url))
            .call()
            .expect("an answer");
        let metrics = answer.body_mut().read_to_string().expect("text");
        if metrics.contains("candor_requests_waiting 1") {
            return;
        }
        assert!(metrics.contains("candor_sequences_running 1"), "{metrics}");
    }
}

fn send(server: &Process, body: &Value) -> TcpStream {
    Request::complete(body.to_string()).start(server.address())
}

/// A stream that has begun.
fn begun(server: &Process, body: &Value) -> TcpStream {
    let mut client = send(server, body);
    client.read_exact(&mut [0; 300]).expect("it begins");
    client
}

fn rest(mut client: TcpStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("a proper end");
    answer
}

#[test]
fn what_runs_and_waits_is_answered_within_the_grace() {
    let mut server = Process::start(&[
        ("CANDOR_SERVER__SHUTDOWN_GRACE_MS", MINUTE),
        ("CANDOR_ENGINE__PARALLEL_SEQUENCES", "1"),
    ]);
    let running = begun(&server, &long(true));
    // Waits in the queue; its stream begins when the first one has ended.
    let url = server.url.clone();
    let waiting = std::thread::spawn(move || {
        let body = json!({"prompt": "Twice", "max_tokens": 5}).to_string();
        let mut answer = ureq::post(format!("{url}/v1/completions"))
            .header("content-type", "application/json")
            .send(body.as_bytes())
            .expect("an answer");
        answer.body_mut().read_to_string().expect("whole")
    });
    wait_for_one_waiting(&server);
    server.signal("-TERM");
    server.wait_for_line("shutting down");
    assert!(
        TcpStream::connect(server.address()).is_err()
            || server.post("/v1/completions", "", &long(false)).is_empty()
    );
    let answer = rest(running);
    assert!(
        answer.contains("[DONE]") && !answer.contains("{\"error\""),
        "{answer}"
    );
    assert!(
        waiting
            .join()
            .expect("no panic")
            .contains("text_completion")
    );
    let ended = server.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("were cancelled"), "{}", ended.log);
}

#[test]
fn what_takes_longer_is_cut_with_an_error() {
    let server = Process::start(&[
        ("CANDOR_SERVER__SHUTDOWN_GRACE_MS", "0"),
        ("CANDOR_ENGINE__PARALLEL_SEQUENCES", "1"),
    ]);
    let running = begun(&server, &long(true));
    let queued = send(&server, &long(false));
    wait_for_one_waiting(&server);
    server.signal("-TERM");
    let answer = rest(running);
    assert!(
        answer.contains("shutting down") && !answer.contains("[DONE]"),
        "{answer}"
    );
    let refused = rest(queued);
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("shutting down"),
        "{refused}"
    );
    let ended = server.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(ended.log.contains("were cancelled"), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [("-TERM", "-TERM"), ("-INT", "-INT")] {
        let mut server = Process::start(&[("CANDOR_SERVER__SHUTDOWN_GRACE_MS", "86400000")]);
        let running = begun(
            &server,
            &json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000, "stream": true, "n": 16}),
        );
        server.signal(first);
        server.wait_for_line("shutting down");
        server.signal(second);
        assert_eq!(server.wait().status, Some(130));
        drop(running);
    }
}
