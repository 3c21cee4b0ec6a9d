//! `candor doctor`: what it prints, and how it ends.

use std::path::Path;

use candor::config::Config;
use candor::model::{Heads, Model};
use tempfile::TempDir;

use crate::process::{Process, candor};
use crate::server::{default_model, tiny_model};

/// The checks, in their order.
const CHECKS: [&str; 10] = [
    "cpu",
    "routines",
    "memory",
    "huge-pages",
    "threads",
    "port",
    "model",
    "tuning",
    "hub",
    "gpu",
];

/// How `candor doctor` ended, and its lines.
struct Examined {
    status: Option<i32>,
    text: String,
}

impl Examined {
    /// The line of a check.
    fn line(&self, check: &str) -> &str {
        let mut lines = self.text.lines();
        let found = lines.find(|line| line.split_ascii_whitespace().nth(1) == Some(check));
        found.unwrap_or_else(|| panic!("{check}: {}", self.text))
    }

    fn check(&self, check: &str, mark: &str, words: &[&str]) {
        let line = self.line(check);
        assert!(line.starts_with(mark), "{line}");
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

/// With a cache of its own, and these flags after that.
fn examine(flags: &[&str]) -> Examined {
    let cache = TempDir::new().expect("a folder");
    let output = candor()
        .args(["doctor", "--port", "0", "--model", &tiny_model(), "--set"])
        .arg(format!("model.cache_dir={}", cache.path().display()))
        .args(flags)
        .output()
        .expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let checks: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(1))
        .collect();
    assert_eq!(checks, CHECKS, "{text}{:?}", output.stderr);
    let status = output.status.code();
    Examined { status, text }
}

#[test]
fn a_healthy_machine_has_no_error() {
    let examined = examine(&[]);
    // Huge pages may be off, and other tests keep cores busy.
    let warns = examined.text.contains("\nwarning");
    let expect = if warns { 2 } else { 0 };
    assert_eq!(examined.status, Some(expect), "{}", examined.text);
    assert!(!examined.text.contains("\nerror"), "{}", examined.text);
    examined.check("model", "ok", &[&tiny_model(), "llama, ", "f16"]);
    examined.check("memory", "ok", &["the weights take", "the KV cache takes"]);
    examined.check("tuning", "ok", &["not measured yet"]);
    examined.check("hub", "ok", &["not needed"]);
}

#[test]
fn a_routine_that_is_off_is_shown_as_off() {
    let examined = examine(&["--set", "engine.repack=off"]);
    // AMX may be refused, which is a warning.
    examined.check("routines", "", &["repack is off (engine.repack)"]);
}

#[test]
fn a_taken_port_is_an_error_and_another_candor_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    // Nobody answers there: what asks it is told so.
    let closes = std::thread::spawn(move || drop(taken.accept()));
    let examined = examine(&["--set", &format!("server.port={port}")]);
    assert_eq!(examined.status, Some(1), "{}", examined.text);
    let port = format!("port {port}");
    examined.check("port", "error", &[&port, "Another program uses that port"]);
    closes.join().expect("it was asked");
    let server = Process::start(&[]);
    let port = server.address().rsplit(':').next().expect("a port");
    let examined = examine(&["--set", &format!("server.port={port}")]);
    assert_eq!(examined.status, Some(2), "{}", examined.text);
    examined.check("port", "warning", &["already runs here", &server.url]);
}

#[test]
fn a_model_that_is_missing_or_damaged_is_an_error() {
    let check = |model: &str, words: &[&str]| {
        let examined = examine(&["--set", &format!("model.source={model}")]);
        assert_eq!(examined.status, Some(1), "{}", examined.text);
        examined.check("model", "error", words);
        examined.check("routines", "", &["common tensor types"]);
    };
    check("no/such/file.gguf", &["no/such/file.gguf does not exist"]);
    let folder = TempDir::new().expect("a folder");
    let half = folder.path().join("half.gguf").display().to_string();
    let whole = std::fs::read(tiny_model()).expect("the model");
    std::fs::write(&half, &whole[..whole.len() / 2]).expect("written");
    check(&half, &[&half, "damaged or incomplete", "Download"]);
}

#[test]
fn a_model_that_is_to_be_downloaded_is_not_downloaded() {
    let examined = examine(&["--set", "model.source=default"]);
    examined.check("model", "ok", &["not downloaded yet", "93.81 MiB"]);
    examined.check("hub", "ok", &["not needed"]);
}

#[test]
fn settings_that_are_wrong_are_an_error() {
    let output = candor()
        .args(["doctor", "--context-length", "many"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("engine.context_length"), "{said}");
}

#[test]
fn heads_tell_what_llama_cpp_does() {
    for path in [tiny_model(), default_model()] {
        let path = Path::new(&path);
        let heads = Heads::read(path).expect("heads");
        let loaded = Model::load(path, &Config::default().model).expect("a model");
        assert_eq!(heads.fingerprint().expect("read"), loaded.fingerprint());
        let (early, late) = (
            heads.kv_bytes_per_token(2.0, 1.0),
            loaded.kv_bytes_per_token(2.0, 1.0),
        );
        assert!(early.is_some() && early == late, "{early:?} {late:?}");
        let description = heads.description().expect("it is read");
        let parameters = loaded.facts().parameters as f64 / 1e6;
        let parameters = format!("{parameters:.1}M parameters");
        assert!(description.contains(&parameters), "{description}");
    }
}
