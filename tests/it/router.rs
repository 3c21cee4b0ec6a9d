//! Several servers behind HAProxy, with the file that is shipped: which server gets a request, and that no request is lost
//! when a server is killed, stops, or is full. Without HAProxy these tests are skipped; `make test-router` installs it.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::raw::{Request, Response, Then, exchange};
use crate::server::root;

/// HAProxy in front of two servers, `one` and `two`.
struct Router {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Router {
    /// `None` if HAProxy is not installed.
    fn start(one: &Process, two: &Process) -> Option<Self> {
        let version = Command::new("haproxy")
            .arg("-v")
            .stdout(Stdio::null())
            .status();
        if version.is_err() {
            println!("skipped: haproxy is not installed (make test-router installs it)");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("haproxy.cfg");
        // Another program may take the port before HAProxy does.
        loop {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let address = free.expect("a free port").to_string();
            std::fs::write(&file, configuration(&address, one, two)).expect("written");
            let checked = haproxy(&file)
                .arg("-c")
                .stderr(Stdio::piped())
                .output()
                .expect("it runs");
            assert!(checked.status.success(), "{checked:?}");
            let mut child = haproxy(&file).spawn().expect("it starts");
            while child.try_wait().expect("a status").is_none() {
                if TcpStream::connect(&address).is_ok() && is_haproxy(&address) {
                    return Some(Self {
                        child,
                        address,
                        _folder: folder,
                    });
                }
            }
        }
    }

    fn send(&self, request: &Request) -> (u16, String) {
        let answer = request.send(&self.address);
        (answer.status, served_by(&answer))
    }

    /// A value of `X-Session-ID` for which this server is chosen.
    fn session_of(&self, server: &str) -> String {
        let mut sessions = (0..).map(|number| format!("session-{number}"));
        let is_it = |session: &String| self.send(&ask(session, short())).1 == server;
        sessions.find(is_it).expect("one of them")
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_haproxy(address: &str) -> bool {
    let answer = Request::new("GET", "/health", &[], "").send(address);
    answer.header("x-served-by").is_some()
}

fn haproxy(file: &Path) -> Command {
    let mut command = Command::new("haproxy");
    command.arg("-f").arg(file);
    // It says on both what it logs: that a server is down.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// config/haproxy.cfg with these addresses, for any user.
fn configuration(address: &str, one: &Process, two: &Process) -> String {
    let path = root().join("config/haproxy.cfg");
    let mut text = std::fs::read_to_string(path).expect("the file");
    for (line, other) in [
        ("    user haproxy\n", String::new()),
        ("    group haproxy\n", String::new()),
        ("    bind 127.0.0.1:8080\n", format!("    bind {address}\n")),
        (
            "    server one 127.0.0.1:8000\n",
            format!("    server one {}\n", one.address()),
        ),
        (
            "    server two 127.0.0.1:8001\n",
            format!("    server two {}\n", two.address()),
        ),
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}");
        text = text.replace(line, &other);
    }
    text
}

fn served_by(answer: &Response) -> String {
    answer.header("x-served-by").unwrap_or("nobody").to_owned()
}

fn short() -> Value {
    json!({"prompt": "Once", "max_tokens": 1})
}

fn long(stream: bool) -> Value {
    json!({"prompt": "Once", "max_tokens": 2000, "min_tokens": 2000, "n": 4, "stream": stream})
}

fn ask(session: &str, body: Value) -> Request {
    Request::complete(body.to_string()).with_header(&format!("x-session-id: {session}"))
}

#[test]
fn requests_with_one_beginning_go_to_one_server() {
    let (one, two) = (Process::start(&[]), Process::start(&[]));
    let Some(router) = Router::start(&one, &two) else {
        return;
    };
    let stem = |number: usize| {
        format!(
            "Number {number}: {}",
            "the keeper wrote one line a day. ".repeat(9)
        )
    };
    let check = |what: &str, request: &dyn Fn(usize, &str) -> Request| {
        let mut servers = Vec::new();
        for number in 0..24 {
            let [first, second] =
                ["one way", "another"].map(|end| router.send(&request(number, end)));
            assert_eq!(first.0, 200, "{what}");
            assert_eq!(first, second, "{what} {number}");
            servers.push(first.1);
        }
        for server in ["one", "two"] {
            assert!(
                servers.iter().any(|other| other == server),
                "{what}: {servers:?}"
            );
        }
    };
    let body =
        |prompt: Value| Request::complete(json!({"prompt": prompt, "max_tokens": 1}).to_string());
    check("X-Session-ID", &|number, end| {
        ask(
            &format!("{number:032x}"),
            json!({"prompt": end, "max_tokens": 1}),
        )
    });
    check("SGLang's header", &|number, end| {
        body(json!(end)).with_header(&format!("x-smg-routing-key: group-{number}"))
    });
    check("a text", &|number, end| body(json!(stem(number) + end)));
    check("ids", &|number, end| {
        // As many as the first 512 bytes of a body hold.
        let mut ids = vec![300 + number; 140];
        ids.push(end.len());
        body(json!(ids))
    });
    check("a conversation", &|number, end| {
        let body = json!({
            "messages": [{"role": "system", "content": stem(number)}, {"role": "user", "content": end}],
            "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}", "max_tokens": 1
        });
        Request::new("POST", "/v1/chat/completions", &[], body.to_string())
    });
    // More than HAProxy's buffer holds.
    let large =
        json!({"prompt": "Once", "max_tokens": 1, "metadata": {"note": "x".repeat(200_000)}});
    assert_eq!(router.send(&Request::complete(large.to_string())).0, 200);
}

/// Who answered a request, and with what status; 0 if nobody did.
type Answered = (u16, String);

/// Keeps several clients busy while `during` runs, which sees what they got.
fn traffic(router: &Router, during: impl FnOnce(&Mutex<Vec<Answered>>)) {
    /// Ends the clients, whatever happens.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (answered, ended) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = End(&ended);
        for client in 0..6 {
            let (answered, ended) = (&answered, &ended);
            scope.spawn(move || {
                let agent: ureq::Agent = ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .build()
                    .into();
                for number in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer = agent
                        .post(format!("http://{}/v1/completions", router.address))
                        .header("content-type", "application/json")
                        .header("x-session-id", format!("{client}-{}", number % 7))
                        .send(json!({"prompt": "Once", "max_tokens": 8}).to_string());
                    let answer = answer.and_then(|mut answer| {
                        // To its end.
                        answer.body_mut().read_to_vec()?;
                        let server = answer.headers().get("x-served-by");
                        let server = server
                            .and_then(|name| name.to_str().ok())
                            .unwrap_or("nobody");
                        Ok((answer.status().as_u16(), server.to_owned()))
                    });
                    let answer = answer.unwrap_or_else(|error| (0, error.to_string()));
                    answered.lock().expect("no panic").push(answer);
                }
            });
        }
        during(&answered);
    });
    let answered = answered.into_inner().expect("no panic");
    let lost: Vec<_> = answered
        .iter()
        .filter(|(status, _)| *status != 200)
        .collect();
    assert!(lost.is_empty(), "of {} requests: {lost:?}", answered.len());
}

/// Waits until this many more answers are there.
fn more(answered: &Mutex<Vec<Answered>>, count: usize) -> usize {
    let length = || answered.lock().expect("no panic").len();
    let before = length();
    while length() < before + count {
        std::thread::yield_now();
    }
    length()
}

/// Waits until everyone is served by `one`.
fn wait_for_one(answered: &Mutex<Vec<Answered>>) {
    loop {
        let since = more(answered, 100) - 100;
        let answered = answered.lock().expect("no panic");
        if answered[since..].iter().all(|(_, server)| server == "one") {
            return;
        }
    }
}

#[test]
fn a_server_that_is_killed_costs_no_request() {
    let (one, two) = (Process::start(&[]), Process::start(&[]));
    let Some(router) = Router::start(&one, &two) else {
        return;
    };
    traffic(&router, |answered| {
        more(answered, 60);
        assert!(
            answered
                .lock()
                .expect("no panic")
                .iter()
                .any(|(_, server)| server == "two")
        );
        two.signal("-KILL");
        wait_for_one(answered);
    });
}

#[test]
fn a_server_that_stops_costs_no_request_and_no_stream() {
    let settings = [
        ("CANDOR_SERVER__DRAIN_MS", "5000"),
        ("CANDOR_SERVER__SHUTDOWN_GRACE_MS", "600000"),
    ];
    let (one, two) = (Process::start(&settings), Process::start(&settings));
    let Some(router) = Router::start(&one, &two) else {
        return;
    };
    let session = router.session_of("two");
    traffic(&router, |answered| {
        more(answered, 60);
        let mut stream = ask(&session, long(true)).start(&router.address);
        stream.read_exact(&mut [0; 600]).expect("it begins");
        two.signal("-TERM");
        // HAProxy has seen that it stops; the stream goes on.
        wait_for_one(answered);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("a proper end");
        assert!(
            rest.contains("[DONE]") && !rest.contains("{\"error\""),
            "{rest}"
        );
    });
    let ended = two.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("were cancelled"), "{}", ended.log);
}

#[test]
fn what_a_full_server_rejects_goes_to_another() {
    let settings = [
        ("CANDOR_ENGINE__PARALLEL_SEQUENCES", "1"),
        ("CANDOR_LIMITS__QUEUE_LENGTH", "0"),
    ];
    let (one, two) = (Process::start(&settings), Process::start(&settings));
    let Some(router) = Router::start(&one, &two) else {
        return;
    };
    let occupy = || {
        let mut stream = ask("same", long(true)).start(&router.address);
        let mut head = [0; 600];
        stream.read_exact(&mut head).expect("it begins");
        let head = String::from_utf8_lossy(&head).into_owned();
        let (_, server) = head.split_once("x-served-by: ").expect("a server");
        (stream, server[..3].to_owned())
    };
    let (first, second) = (occupy(), occupy());
    assert_ne!(first.1, second.1);
    let third = ask("same", short()).send(&router.address);
    assert_eq!(third.status, 503, "{}", third.body);
    assert!(third.body.contains("server_overloaded"), "{}", third.body);
    assert_eq!(third.header("retry-after"), Some("1"));
    drop((first, second));
}

#[test]
fn a_client_that_leaves_stops_its_request() {
    let mut server = Process::start(&[]);
    let Some(router) = Router::start(&server, &server) else {
        return;
    };
    for stream in [false, true] {
        let id = format!("left-{stream}");
        let request = ask("same", long(stream)).with_header(&format!("x-request-id: {id}"));
        let client = request.start(&router.address);
        while !metrics(&server).contains("\ncandor_sequences_running 4\n") {}
        drop(client);
        server.wait_for_line(&format!("request_id=\"{id}\""));
        while !metrics(&server).contains("\ncandor_sequences_running 0\n") {}
    }
    let ended = server.terminate();
    let left = ended
        .log
        .lines()
        .filter(|line| line.contains("the client disconnected"));
    assert_eq!(left.count(), 2, "{}", ended.log);
}

/// HAProxy passes the names on; its own checks are never refused for theirs.
#[test]
fn servers_decide_by_which_names_haproxy_may_be_called() {
    let server = Process::start(&[("CANDOR_SERVER__ALLOWED_HOSTS", "candor.example")]);
    let Some(router) = Router::start(&server, &server) else {
        return;
    };
    for (host, expect) in [("candor.example", 200), ("evil.example", 403)] {
        let bytes = Request::new("GET", "/v1/models", &[], "").bytes(host);
        let answers = exchange(&router.address, &bytes, Then::Listen);
        assert_eq!(answers[0].status, expect, "{host}: {answers:?}");
        assert_ne!(served_by(&answers[0]), "nobody");
    }
}

fn metrics(server: &Process) -> String {
    Request::new("GET", "/metrics", &[], "")
        .send(server.address())
        .body
}
