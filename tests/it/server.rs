//! A real server on a port of its own, and a client for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use candor::config::Config;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// The Llama-2 tokenizer on small random weights: noise as text, fast as a test. It is in the repository.
pub fn tiny_model() -> String {
    root()
        .join("tests/models/llama2-vocab-tiny.gguf")
        .to_string_lossy()
        .into_owned()
}

/// The package's folder. Asked for when the test runs: clones share what is built, and this differs.
pub fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
}

/// The default model, fetched unless it is there.
pub fn default_model() -> String {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        candor::model::source::resolve(&defaults().model).expect("the default model can be had")
    })
    .to_string_lossy()
    .into_owned()
}

/// Gemma, which is larger and tested when asked for: `make test-gemma`.
pub fn gemma_model() -> Option<String> {
    std::env::var("CANDOR_TEST_GEMMA").ok()
}

/// The settings of `config/default.toml`.
pub fn defaults() -> Config {
    toml::from_str(include_str!("../../config/default.toml")).expect("the defaults are valid")
}

/// A server that ends when this is dropped.
pub struct TestServer {
    base: String,
    agent: ureq::Agent,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A status and a body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl TestServer {
    pub fn start(model: &str) -> Self {
        Self::start_with(model, |_| {})
    }

    pub fn start_with(model: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = defaults();
        config.model.source = model.to_owned();
        change(&mut config);
        let (stop, stopped) = oneshot::channel();
        let (send_port, port) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("a port");
                send_port
                    .send(listener.local_addr().expect("bound").port())
                    .expect("the test waits");
                candor::run(config, listener, async move {
                    let _ = stopped.await;
                })
                .await
                .expect("the server runs");
            });
        });
        let base = format!("http://127.0.0.1:{}", port.recv().expect("a port"));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let server = Self {
            base,
            agent,
            stop: Some(stop),
            thread: Some(thread),
        };
        while server.get("/health").status != 200 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }

    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, None)
    }

    pub fn get_with(&self, path: &str, key: Option<&str>) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        read(request.call())
    }

    /// Sends these bytes with this content type.
    pub fn send(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        read(
            self.agent
                .post(format!("{}{path}", self.base))
                .header("content-type", content_type)
                .send(body),
        )
    }

    pub fn try_complete(&self, body: &Value) -> Answer {
        self.send(
            "/v1/completions",
            "application/json",
            body.to_string().as_bytes(),
        )
    }

    /// An answer that must be 200.
    pub fn complete(&self, body: Value) -> Value {
        let answer = self.try_complete(&body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
        answer.json()
    }

    /// A stream's chunks; it must end with `[DONE]`.
    pub fn stream(&self, mut body: Value) -> Vec<Value> {
        body["stream"] = json!(true);
        let answer = self.try_complete(&body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
        assert_eq!(answer.content_type, "text/event-stream");
        let mut events: Vec<&str> = answer
            .body
            .split("\n\n")
            .filter(|event| !event.is_empty() && !event.starts_with(':'))
            .map(|event| {
                event
                    .strip_prefix("data: ")
                    .expect("an event is a data line")
            })
            .collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events
            .iter()
            .map(|event| serde_json::from_str(event).expect("JSON"))
            .collect()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            if !std::thread::panicking() {
                joined.expect("the server ends cleanly");
            }
        }
    }
}

fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let response = response.expect("an HTTP answer");
    let status = response.status().as_u16();
    let content_type = response
        .headers()
        .get("content-type")
        .map(|value| value.to_str().expect("text").to_owned())
        .unwrap_or_default();
    let mut body = String::new();
    response
        .into_body()
        .into_reader()
        .read_to_string(&mut body)
        .expect("a whole body");
    Answer {
        status,
        content_type,
        body,
    }
}

/// The tiny model's server, shared by tests that do not mind each other.
pub fn tiny() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(&tiny_model()))
}

/// The default model's server, shared likewise.
pub fn default() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(&default_model()))
}

/// Sends a request, and goes after this time, whether the answer is there or not.
pub fn leave(server: &TestServer, body: &Value, milliseconds: u64) {
    let body = body.to_string();
    let mut connection = TcpStream::connect(server.address()).expect("connects");
    write!(
        connection,
        "POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sends");
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}
