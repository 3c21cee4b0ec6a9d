//! A real server on a port of its own, and a client for it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candor::config::Config;
use candor::engine::Machinery;
use candor::model::Runners;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::raw::Request;

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

/// The files of a folder and of those within it whose names have this ending, in order.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|other| other == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
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

/// The folder with what `make test-models` fetches and records. Without it, says that a test is skipped.
fn test_models() -> Option<PathBuf> {
    let folder = std::env::var_os("CANDOR_TEST_MODELS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CANDOR_TEST_MODELS is not set (make test-models sets it)");
    }
    folder
}

fn larger_model(file: &str) -> Option<String> {
    let path = test_models()?.join("models").join(file);
    Some(path.to_string_lossy().into_owned())
}

/// Gemma 3 270M, if `make test-models` runs the tests.
pub fn gemma_model() -> Option<String> {
    larger_model("gemma-3-270m-q4_k_m.gguf")
}

/// Qwen2.5-Coder of this size, likewise.
pub fn qwen_model(size: &str) -> Option<String> {
    larger_model(&format!("qwen2.5-coder-{size}-instruct-q4_k_m.gguf"))
}

/// What the reference answered on this machine, likewise.
pub fn recorded_here(name: &str) -> Option<Value> {
    let path = test_models()?.join("golden").join(format!("{name}.json"));
    let text = std::fs::read_to_string(path).expect("make test-models recorded it");
    Some(serde_json::from_str(&text).expect("golden files are JSON"))
}

/// The settings of `config/default.toml`.
pub fn defaults() -> Config {
    toml::from_str(include_str!("../../config/default.toml")).expect("the defaults are valid")
}

/// A server that ends when this is dropped.
pub struct TestServer {
    base: String,
    agent: ureq::Agent,
    /// One of the server's keys, if it has any.
    key: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A status and a body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub retry_after: Option<String>,
    pub bits_class: Option<String>,
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
        Self::start_on(model, change, candor::model::contexts())
    }

    /// With something around the engine's contexts.
    pub fn start_on(model: &str, change: impl FnOnce(&mut Config), runners: Runners) -> Self {
        Self::start_from(model, change, runners.into())
    }

    /// With other parts than the engine has by itself.
    pub fn start_from(model: &str, change: impl FnOnce(&mut Config), machinery: Machinery) -> Self {
        candor::program::run_with(env!("CARGO_BIN_EXE_candor").into());
        let mut config = defaults();
        config.model.source = model.to_owned();
        change(&mut config);
        let key = config.server.api_keys.last().cloned();
        let (stop, stopped) = oneshot::channel();
        let (send_port, port) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = candor::listen("127.0.0.1", 0).await.expect("a port");
                send_port
                    .send(listener.local_addr().expect("bound").port())
                    .expect("the test waits");
                let stopped = async move {
                    let _ = stopped.await;
                };
                candor::run_on(config, listener, stopped, machinery)
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
            key,
            stop: Some(stop),
            thread: Some(thread),
        };
        while server.get("/health").status != 200 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }

    /// The name of all that decides how numbers are rounded. With weights of four bits logprobs of two classes differ by
    /// tenths, and texts are other ones (docs/reproducibility.md): what was recorded in one class holds in that class.
    /// Minimum number of rows in a decode of generated tokens.
    pub fn least_width(&self) -> usize {
        let receipt =
            self.complete(serde_json::json!({"prompt": "One", "max_tokens": 1, "receipt": true}));
        let width = receipt["receipt"]["engine"]["least_width"].as_u64();
        usize::try_from(width.expect("a number")).expect("small")
    }

    pub fn bits_class(&self) -> String {
        let models = self.get_with("/v1/models", self.key.as_deref()).json();
        let class = models["data"][0]["bits_class"].as_str();
        class.expect("the model is loaded").to_owned()
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

    /// Sends a body as JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(path, "application/json", body.to_string().as_bytes())
    }

    pub fn try_complete(&self, body: &Value) -> Answer {
        self.send(
            "/v1/completions",
            "application/json",
            body.to_string().as_bytes(),
        )
    }

    /// Posts a body with a key.
    pub fn post_with(&self, path: &str, key: &str, body: &Value) -> Answer {
        read(
            self.agent
                .post(format!("{}{path}", self.base))
                .header("content-type", "application/json")
                .header("authorization", format!("Bearer {key}"))
                .send(body.to_string().as_bytes()),
        )
    }

    /// A metric without labels, as it stands now.
    pub fn metric(&self, name: &str) -> i64 {
        let answer = self.get_with("/metrics", self.key.as_deref());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {}", answer.body))
    }

    /// Waits until the metric has this value.
    pub fn wait_until(&self, name: &str, value: i64) {
        while self.metric(name) != value {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
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
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(value.to_str().expect("text").to_owned())
    };
    let (content_type, retry_after, bits_class) = (
        header("content-type").unwrap_or_default(),
        header("retry-after"),
        header("x-candor-bits-class"),
    );
    let mut body = String::new();
    response
        .into_body()
        .into_reader()
        .read_to_string(&mut body)
        .expect("a whole body");
    Answer {
        status,
        content_type,
        retry_after,
        bits_class,
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
    let _connection = Request::complete(body.to_string()).start(server.address());
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}
