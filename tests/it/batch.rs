//! `candor batch`: every line is answered exactly once, whatever ends in between.

mod fake;
mod files;
mod kills;
mod servers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::process::candor;
use crate::server::{TestServer, tiny, tiny_model};

/// A folder with an input, and the name of an output.
pub struct Folder {
    folder: tempfile::TempDir,
    pub input: PathBuf,
    pub output: PathBuf,
}

impl Folder {
    pub fn new(lines: &[Value]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let input = folder.path().join("in.jsonl");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&input, text).expect("written");
        let output = folder.path().join("out.jsonl");
        Self {
            folder,
            input,
            output,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `candor batch` with these flags.
    pub fn command(&self, flags: &[&str]) -> Command {
        let mut command = candor();
        command
            .arg("batch")
            .args([&self.input, &self.output])
            .args(flags);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, flags: &[&str]) -> Ended {
        ended(self.command(flags).stdin(Stdio::null()))
    }

    /// Starts it.
    pub fn start(&self, flags: &[&str]) -> Child {
        let mut command = self.command(flags);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    }

    /// The answers so far, sorted, without what differs from run to run.
    pub fn answers(&self) -> Vec<String> {
        answers(&self.output)
    }

    /// Whole lines in the output.
    pub fn count(&self) -> usize {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        bytes.iter().filter(|&&byte| byte == b'\n').count()
    }
}

/// How a process ended: its status, and what it printed.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub printed: String,
    pub said: String,
}

impl Ended {
    /// Checks the status, and that this was said.
    #[track_caller]
    pub fn check(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        for part in parts {
            let is_said = self.said.contains(part) || self.printed.contains(part);
            assert!(is_said, "{part}: {self:?}");
        }
    }
}

pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().expect("it starts");
    of_output(output)
}

pub fn wait(child: Child) -> Ended {
    of_output(child.wait_with_output().expect("it ends"))
}

fn of_output(output: std::process::Output) -> Ended {
    Ended {
        status: output.status.code(),
        printed: String::from_utf8_lossy(&output.stdout).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill {name} {}", child.id())])
        .status();
    assert!(sent.expect("a shell runs").success());
}

/// Lines as they are, with their ids.
pub fn lines(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output).expect("an output");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON")
}

pub fn answers(output: &Path) -> Vec<String> {
    let mut answers: Vec<String> = lines(output)
        .into_iter()
        .map(|mut line| {
            plain(&mut line["response"]["body"]);
            json!([
                line["custom_id"],
                line["response"]["status_code"],
                line["response"]["body"]
            ])
            .to_string()
        })
        .collect();
    answers.sort();
    answers
}

/// Removes ids, times, and what depends on the cache.
fn plain(body: &mut Value) {
    let Some(fields) = body.as_object_mut() else {
        return;
    };
    for name in ["id", "created"] {
        fields.remove(name);
    }
    if let Some(usage) = fields.get_mut("usage").and_then(Value::as_object_mut) {
        usage.remove("prompt_tokens_details");
    }
}

/// A line for `/v1/completions`.
pub fn line(id: &str, prompt: &str) -> Value {
    let body = json!({"prompt": prompt, "max_tokens": 2, "temperature": 0, "logprobs": 1});
    line_of(id, "/v1/completions", body)
}

pub fn line_of(id: &str, url: &str, body: Value) -> Value {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body})
}

/// So many prompts after each of so many stems, in an order in which neighbours have different ones.
pub fn prompts(stems: usize, each: usize) -> Vec<Value> {
    let of = |number: usize| {
        let (stem, question) = (number % stems, number / stems);
        let prompt = format!("{}Question {question}:", stem_text(stem));
        line(&format!("{stem}-{question}"), &prompt)
    };
    (0..stems * each).map(of).collect()
}

pub fn stem_text(stem: usize) -> String {
    format!("Story {stem}. ")
        + &format!("The keeper of light {stem} wrote a line a day. ").repeat(10)
}

pub fn url_of(server: &TestServer) -> String {
    format!("http://{}", server.address())
}

/// Requests of all routes.
fn of_all_routes() -> Vec<Value> {
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "seed": 3, "chat_template": "{{ messages[0].content }}"});
    let mut lines = vec![
        line("completion", "One"),
        line_of("chat", "/v1/chat/completions", chat),
        line_of(
            "score",
            "/v1/score",
            json!({"stem": "One", "choices": [" two", " three"]}),
        ),
        line_of(
            "perplexity",
            "/v1/perplexity",
            json!({"text": "One two three"}),
        ),
        line_of("embedding", "/v1/embeddings", json!({"input": "One"})),
        // Sent as it is: the server finds what is wrong with it.
        line_of(
            "wrong",
            "/v1/completions",
            json!({"prompt": "One", "max_tokens": -2}),
        ),
    ];
    lines.extend(prompts(3, 4));
    lines
}

#[test]
fn each_line_is_answered_as_its_request_alone() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.embeddings.pooling = candor::config::Pooling::Mean;
    });
    let all = of_all_routes();
    let folder = Folder::new(&all);
    let url = url_of(&server);
    let ended = folder.run(&["--url", &url]);
    ended.check(
        3,
        &["lines: 18, with an error: 1", "some lines have an error"],
    );
    let mut expect: Vec<String> = all
        .iter()
        .map(|line| {
            let answer = server.post(line["url"].as_str().expect("a route"), &line["body"]);
            let mut body = answer.json();
            plain(&mut body);
            json!([line["custom_id"], answer.status, body]).to_string()
        })
        .collect();
    expect.sort();
    assert_eq!(folder.answers(), expect);
    let class = server.bits_class();
    for line in lines(&folder.output) {
        let names: Vec<&String> = line.as_object().expect("an object").keys().collect();
        assert_eq!(
            names,
            ["id", "custom_id", "response", "error", "bits_class"]
        );
        assert!(
            line["id"]
                .as_str()
                .expect("an id")
                .starts_with("batch_req_")
        );
        let id = line["response"]["request_id"].as_str();
        assert!(id.expect("an id").starts_with("req-"), "{line}");
        assert_eq!(line["error"], Value::Null);
        assert_eq!(line["bits_class"], class.as_str(), "{line}");
    }
    // Another run has nothing to do, and says the same.
    let before = std::fs::read(&folder.output).expect("an output");
    let again = folder.run(&["--url", "http://127.0.0.1:1"]);
    again.check(3, &["lines: 18, with an error: 1", "earlier runs: 18"]);
    assert_eq!(std::fs::read(&folder.output).expect("an output"), before);
}

#[test]
fn an_engine_of_its_own_gives_the_same_answers() {
    let folder = Folder::new(&prompts(3, 4));
    folder
        .run(&["--model", &tiny_model(), "--parallel-sequences", "4"])
        .check(0, &["lines: 12, with an error: 0"]);
    let other = Folder::new(&prompts(3, 4));
    other.run(&["--url", &url_of(tiny())]).check(0, &[]);
    assert_eq!(folder.answers(), other.answers());
    let absent = Folder::new(&prompts(1, 1));
    let ended = absent.run(&["--model", "no/such/file.gguf"]);
    ended.check(
        1,
        &[
            "The engine could not be started",
            "no/such/file.gguf does not exist",
        ],
    );
}

#[test]
fn answers_have_receipts_if_they_are_wanted() {
    let mut all = prompts(1, 2);
    all.push(line_of(
        "score",
        "/v1/score",
        json!({"stem": "One", "choices": [" two"]}),
    ));
    let folder = Folder::new(&all);
    let url = url_of(tiny());
    folder.run(&["--url", &url, "--receipts"]).check(0, &[]);
    for line in lines(&folder.output) {
        let body = &line["response"]["body"];
        assert_eq!(
            body["receipt"].is_object(),
            line["custom_id"] != "score",
            "{line}"
        );
    }
    let ended = folder.run(&["--url", &url]);
    ended.check(2, &["was begun with --receipts"]);
}

#[test]
fn a_key_is_sent() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["secret".to_owned()];
    });
    let folder = Folder::new(&prompts(1, 2));
    let url = url_of(&server);
    let ended = folder.run(&["--url", &url]);
    ended.check(
        2,
        &[
            "/v1/models answers 401",
            "CANDOR_SERVER__API_KEYS",
            "Nothing was sent.",
        ],
    );
    let mut command = folder.command(&["--url", &url]);
    command.env("CANDOR_SERVER__API_KEYS", "secret");
    crate::batch::ended(&mut command).check(0, &[]);
}

#[test]
fn several_models_may_be_named() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.aliases = vec!["a".to_owned(), "b".to_owned()];
    });
    let with_model = |id: &str, model: &str| {
        line_of(
            id,
            "/v1/completions",
            json!({"model": model, "prompt": "One", "max_tokens": 1}),
        )
    };
    let folder = Folder::new(&[with_model("1", "a"), with_model("2", "b"), line("3", "One")]);
    folder.run(&["--url", &url_of(&server)]).check(0, &[]);
    let folder = Folder::new(&[with_model("1", "a"), with_model("2", "gpt-4o")]);
    let ended = folder.run(&["--url", &url_of(&server)]);
    ended.check(
        2,
        &[
            "has no model `gpt-4o`, which line 2 names",
            "--alias",
            "Nothing was sent.",
        ],
    );
}

#[test]
fn a_model_is_loaded_when_it_is_needed() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.model.load = candor::config::LoadAt::FirstUse;
    });
    let folder = Folder::new(&prompts(1, 2));
    folder.run(&["--url", &url_of(&server)]).check(0, &[]);
    assert!(
        lines(&folder.output)
            .iter()
            .all(|line| line["bits_class"].is_string())
    );
}

/// What lines with common beginnings save on one server: each stem is evaluated once.
#[test]
fn stems_are_evaluated_once() {
    let server = TestServer::start(&tiny_model());
    let folder = Folder::new(&prompts(10, 8));
    let ended = folder.run(&["--url", &url_of(&server)]);
    ended.check(0, &[]);
    let all = ended.printed;
    let evaluated = number_before(&all, " evaluated)");
    let each = |text: &str| {
        let body = json!({"prompt": text, "add_special_tokens": true});
        server.post("/tokenize", &body).json()["count"]
            .as_u64()
            .expect("a number")
    };
    let stems: u64 = (0..10).map(|stem| each(&stem_text(stem))).sum();
    let questions: u64 = 80 * each("Question 7:");
    // A reuse ends at a multiple of eight tokens, and leaves at least eight to evaluate.
    assert!(
        evaluated <= stems + questions + 80 * 16,
        "{all}: {stems} and {questions}"
    );
    assert!(
        stems * 8 > 2 * (stems + questions + 80 * 16),
        "stems that are long enough to tell"
    );
}

fn number_before(text: &str, word: &str) -> u64 {
    let head = text.split(word).next().expect("it is there");
    let number = head.rsplit([' ', '(']).next().expect("a number");
    number
        .parse()
        .unwrap_or_else(|_| panic!("{number}: {text}"))
}

/// A million lines: how much memory it needs, printed by `cargo test --release --test it -- --ignored --nocapture million`.
#[test]
#[ignore = "takes minutes"]
fn a_million_lines_need_little_memory() {
    let folder = Folder::new(&[]);
    let mut input = std::io::BufWriter::new(std::fs::File::create(&folder.input).expect("a file"));
    for number in 0..1_000_000 {
        let prompt = format!("{}{number}", stem_text(number % 5000));
        writeln!(input, "{}", line(&format!("request-{number}"), &prompt)).expect("written");
    }
    input.into_inner().expect("written");
    let fake = fake::Fake::forgetful("avx2-1");
    let start = std::time::Instant::now();
    let mut child = folder.start(&["--url", &fake.url]);
    let status = format!("/proc/{}/status", child.id());
    let mut peak = String::new();
    while child.try_wait().expect("it runs").is_none() {
        // The last line that can be read is that of the peak.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:")) {
            line.clone_into(&mut peak);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let took = start.elapsed();
    wait(child).check(0, &["lines: 1000000, with an error: 0"]);
    println!("{peak}; {took:?} in all");
    let kib = peak.split_whitespace().nth(1).expect("a number");
    assert!(kib.parse::<u64>().expect("a number") <= 200_000, "{peak}");
}
