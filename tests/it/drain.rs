//! The signal to stop with `server.drain_ms`: routers are told, requests are still taken, and no kept connection breaks in
//! the middle of one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::process::Process;
use crate::raw::Request;

const DRAIN: &str = "CANDOR_SERVER__DRAIN_MS";

/// A connection that is kept from one request to the next.
struct Kept(BufReader<TcpStream>);

struct Answer {
    status: u16,
    /// Whether the server says that it closes the connection.
    closes: bool,
    body: String,
}

impl Kept {
    fn open(address: &str) -> io::Result<Self> {
        TcpStream::connect(address).map(BufReader::new).map(Self)
    }

    fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&Request::new("GET", path, &[], ""))
    }

    fn complete(&mut self) -> io::Result<Answer> {
        self.ask(&Request::complete(r#"{"prompt": "Once", "max_tokens": 3}"#))
    }

    fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        let bytes = String::from_utf8(request.bytes("localhost")).expect("text");
        let bytes = bytes.replace("connection: close\r\n", "");
        self.0.get_mut().write_all(bytes.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_lowercase();
        let header = |name: &str| {
            let lines = head.lines();
            lines
                .filter_map(|line| line.split_once(": "))
                .find(|(other, _)| *other == name)
        };
        let length = header("content-length").expect("a length").1;
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body)?;
        Ok(Answer {
            status: head[9..12].parse().expect("a status"),
            closes: header("connection").is_some_and(|(_, value)| value == "close"),
            body: String::from_utf8(body).expect("text"),
        })
    }

    /// Waits until the server has closed it.
    fn ends(mut self) {
        let rest = self.0.read_to_end(&mut Vec::new());
        assert_eq!(rest.expect("a proper end"), 0);
    }
}

#[test]
fn routers_are_told_and_requests_are_still_taken() {
    let mut server = Process::start(&[(DRAIN, "86400000")]);
    let open = || Kept::open(server.address()).expect("connects");
    let (mut kept, mut router) = (open(), open());
    for answer in [kept.complete(), router.get("/health")] {
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.closes), (200, false));
    }
    server.signal("-TERM");
    server.wait_for_line("draining");
    let told = router.get("/health").expect("an answer");
    assert_eq!((told.status, told.closes), (503, true));
    assert!(told.body.contains("shutting down"), "{}", told.body);
    // The one that was open, and a new one.
    let new = Kept::open(server.address()).expect("connects");
    for mut kept in [kept, new] {
        let answer = kept.complete().expect("an answer");
        assert_eq!((answer.status, answer.closes), (200, true));
        kept.ends();
    }
    let stream = json!({"prompt": "Once", "max_tokens": 3, "stream": true});
    let stream = Request::complete(stream.to_string()).send(server.address());
    assert_eq!(stream.status, 200);
    assert!(stream.body.contains("[DONE]"), "{}", stream.body);
    // The second signal does not wait for the day to end.
    server.signal("-TERM");
    assert_eq!(server.wait().status, Some(130));
}

#[test]
fn no_request_is_lost_on_a_kept_connection() {
    let server = Process::start(&[
        (DRAIN, "2000"),
        ("CANDOR_SERVER__SHUTDOWN_GRACE_MS", "60000"),
    ]);
    let (address, answered) = (server.address(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| ask_until_refused(address, &answered)))
            .collect();
        while answered.load(Ordering::Relaxed) < 40 {
            std::thread::yield_now();
        }
        server.signal("-TERM");
        for client in clients {
            assert!(client.join().expect("no request was lost") > 0);
        }
    });
    let ended = server.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("were cancelled"), "{}", ended.log);
}

/// Sends requests through kept connections until the server takes no more of them. Returns how many answers ended their
/// connection.
fn ask_until_refused(address: &str, answered: &AtomicUsize) -> usize {
    let mut told = 0;
    while let Ok(mut kept) = Kept::open(address) {
        for place in 0.. {
            match kept.complete() {
                Ok(answer) => {
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.closes {
                        told += 1;
                        kept.ends();
                        break;
                    }
                }
                // The system may have connected it when the server did not listen any more.
                Err(_) if place == 0 && TcpStream::connect(address).is_err() => return told,
                Err(error) => panic!("request {place} of a connection: {error}"),
            }
        }
    }
    told
}

#[test]
fn what_is_on_its_way_when_the_server_stops_listening_is_answered() {
    let server = Process::start(&[(DRAIN, "1")]);
    let mut kept = Kept::open(server.address()).expect("connects");
    assert!(!kept.complete().expect("an answer").closes);
    server.signal("-TERM");
    while TcpStream::connect(server.address()).is_ok() {}
    let answer = kept.complete().expect("an answer");
    assert_eq!((answer.status, answer.closes), (200, true));
    kept.ends();
    assert_eq!(server.wait().status, Some(0));
}

#[test]
fn a_stream_goes_on_across_the_signal_and_the_drain() {
    let server = Process::start(&[
        (DRAIN, "500"),
        ("CANDOR_SERVER__SHUTDOWN_GRACE_MS", "600000"),
    ]);
    let body =
        json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000, "n": 4, "stream": true});
    let mut stream = Request::complete(body.to_string()).start(server.address());
    stream.read_exact(&mut [0; 300]).expect("it begins");
    server.signal("-TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("a proper end");
    assert!(
        rest.contains("[DONE]") && !rest.contains("{\"error\""),
        "{rest}"
    );
    assert_eq!(server.wait().status, Some(0));
}
