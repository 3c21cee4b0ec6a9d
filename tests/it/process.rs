//! The program itself, as a process: signals, exit status, log.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::server::tiny_model;

/// `candor serve` on a free port.
pub struct Process {
    child: Child,
    pub url: String,
    log: Receiver<String>,
    seen: String,
}

/// The program, which is told nothing by the environment of the tests.
pub fn candor() -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_candor")))
}

fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_remove("CANDOR_LOG");
    command
}

/// How it ended.
pub struct Ended {
    /// `None`: by a signal.
    pub status: Option<i32>,
    pub log: String,
}

impl Process {
    /// Waits until it is ready.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        Self::start_with(&["--model", &tiny_model()], environment)
    }

    /// With these flags.
    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_of(candor(), flags, environment)
    }

    fn start_of(mut program: Command, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = program
            .args(["serve", "--port", "0"])
            .args(flags)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut seen = String::new();
        let url = loop {
            let line = log.recv().unwrap_or_else(|_| panic!("it ended: {seen}"));
            seen += &line;
            seen.push('\n');
            if let Some((_, url)) = line.split_once("ready: ") {
                // As text or as JSON.
                break url.split('"').next().unwrap_or(url).trim().to_owned();
            }
        };
        Self {
            child,
            url,
            log,
            seen,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> &str {
        self.url.rsplit('/').next().expect("an address")
    }

    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: small systems have no other.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill {name} {}", self.child.id())])
            .status();
        assert!(sent.expect("a shell runs").success());
    }

    /// The answer's body, whatever its status.
    pub fn post(&self, path: &str, key: &str, body: &Value) -> String {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let answer = agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .send(body.to_string().as_bytes());
        let mut text = String::new();
        // A server that ends at once leaves answers unfinished.
        if let Ok(answer) = answer {
            let _ = answer.into_body().into_reader().read_to_string(&mut text);
        }
        text
    }

    pub fn terminate(self) -> Ended {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Ended {
        let status = self.child.wait().expect("it ends").code();
        let mut log = std::mem::take(&mut self.seen);
        for line in self.log.iter() {
            log += &line;
            log.push('\n');
        }
        Ended { status, log }
    }

    /// Waits for a line of the log.
    pub fn wait_for_line(&mut self, part: &str) {
        loop {
            let line = self
                .log
                .recv()
                .unwrap_or_else(|_| panic!("it ended: {}", self.seen));
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(part) {
                return;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the program prints for these arguments; it must end with 0.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(arguments)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = printed(&["completions", "bash"]);
    let check = |words: &str, expect: &str| {
        let asked = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _candor candor \"${{COMP_WORDS[COMP_CWORD]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &asked])
            .output()
            .expect("bash runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            expect,
            "{words}: {output:?}"
        );
    };
    check("candor ser", "serve");
    check("candor serve --context", "--context-length --contexts");
    check("candor serve --no-such-flag", "");
}

#[test]
fn manual_pages_are_printed() {
    let check = |arguments: &[&str], expect: &str| {
        let page = printed(arguments);
        assert!(page.contains(".SH NAME"), "{page}");
        assert!(page.contains(expect), "{page}");
    };
    check(&["man"], "candor\\-serve(1)");
    check(&["man", "serve"], "parallel\\-sequences");
}

/// How `candor serve` with these flags ends, when it cannot start: its exit status, and what it says last.
pub fn refused(flags: &[&str]) -> (Option<i32>, String) {
    let output = candor()
        .arg("serve")
        .args(flags)
        .output()
        .expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = log
        .lines()
        .filter_map(|line| line.strip_prefix("candor: "))
        .collect::<Vec<_>>()
        .join(" ");
    assert!(!said.is_empty(), "{flags:?}: {log}");
    (output.status.code(), said)
}

#[test]
fn what_keeps_it_from_starting_is_told_with_what_to_do() {
    let check = |flags: &[&str], status, parts: &[&str]| {
        let (ended, said) = refused(flags);
        assert_eq!(ended, Some(status), "{flags:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{flags:?}: {said}");
        }
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    check(
        &["--port", &port],
        1,
        &["Another program uses that port", "--port"],
    );
    check(
        &["--port", "0", "--model", "no/such/file.gguf"],
        1,
        &[
            "no/such/file.gguf does not exist",
            "Set --model to the path",
        ],
    );
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.display().to_string()
    };
    let text = place("text.gguf", b"hello");
    check(
        &["--port", "0", "--model", &text],
        1,
        &["is not a GGUF file", "broken download"],
    );
    let whole = std::fs::read(tiny_model()).expect("the model");
    for length in [whole.len() / 2, 1000] {
        let half = place("half.gguf", &whole[..length]);
        check(
            &["--port", "0", "--model", &half],
            1,
            &["is damaged or incomplete", "Download or copy it again"],
        );
    }
    check(
        &["--context-length", "many"],
        2,
        &["engine.context_length is \"many\""],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn more_memory_than_there_is_is_told_before_it_is_taken() {
    // Twelve thousand lanes of a million tokens: about 6 TiB, even for this model.
    let (status, said) = refused(&[
        "--port",
        "0",
        "--model",
        &tiny_model(),
        "--context-length",
        "1048576",
        "--parallel-sequences",
        "192",
        "--contexts",
        "192",
        "--set",
        "engine.cache_lanes=64",
    ]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("too little memory"), "{said}");
    assert!(said.contains("--context-length"), "{said}");
}

#[test]
fn the_start_tells_what_it_takes_where_to_look_and_what_to_try() {
    let mut server = Process::start_with(
        &[
            "--model",
            &tiny_model(),
            "--set",
            "server.api_keys=[\"secret\"]",
        ],
        &[],
    );
    server.wait_for_line("try: curl");
    let (url, seen) = (server.url.clone(), server.seen.clone());
    for part in [
        "loaded model=\"llama2-vocab-tiny\"",
        "estimated memory mib=",
        "kv_cache_mib=",
        &format!("see: {url}/ (the page), {url}/docs"),
        "(all but the page and /health need the key)",
        &format!("try: curl {url}/v1/completions"),
        "authorization: Bearer YOUR-KEY",
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    assert!(!seen.contains("secret"), "{seen}");
    // It works as it stands.
    let line = seen.lines().find_map(|line| line.split_once("try: "));
    let command = line.expect("it is there").1.replace("YOUR-KEY", "secret");
    let output = Command::new("bash").args(["-c", &command]).output();
    let answer = String::from_utf8(output.expect("bash runs").stdout).expect("text");
    assert!(answer.contains("\"token_logprobs\""), "{answer}");
}

#[test]
fn health_is_told_by_the_exit_status() {
    let server = Process::start(&[]);
    let ask = |url: &str| candor().args(["health", "--url", url]).output();
    // On a machine that is busy with other tests even this answer may take longer than it is waited for.
    let well = loop {
        let output = ask(&server.url).expect("it starts");
        if !String::from_utf8_lossy(&output.stderr).contains("does not answer: timeout") {
            break output;
        }
    };
    assert!(well.status.success(), "{well:?}");
    assert_eq!(
        String::from_utf8_lossy(&well.stdout),
        "{\"status\":\"ok\"}\n"
    );
    let other = ask(&format!("{}/v1", server.url)).expect("it starts");
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("404"));
    let url = server.url.clone();
    server.terminate();
    let gone = ask(&url).expect("it starts");
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("does not answer"));
}

/// What `/apply-template` makes of a conversation, by the server's template or by one that is sent.
fn applied(server: &Process, template: Option<&str>) -> String {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    if let Some(template) = template {
        body["chat_template"] = json!(template);
    }
    let answer = server.post("/apply-template", "", &body);
    let json: Value = serde_json::from_str(&answer).expect("JSON");
    let prompt = json["prompt"].as_str();
    prompt.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// An upgrade replaces the file, and goes on with the old program until the service is restarted.
#[test]
#[cfg(target_os = "linux")]
fn templates_of_clients_are_rendered_after_the_program_was_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("candor");
    std::fs::copy(env!("CARGO_BIN_EXE_candor"), &path).expect("copied");
    let server = Process::start_of(program(&path), &["--model", &tiny_model()], &[]);
    let template = Some("{{ messages[0].content }}!");
    assert_eq!(applied(&server, template), "Hi!");
    let newer = folder.path().join("newer");
    std::fs::write(&newer, "#!/bin/sh\nexit 1\n").expect("written");
    std::fs::rename(&newer, &path).expect("replaced");
    assert_eq!(applied(&server, template), "Hi!");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(applied(&server, template), "Hi!");
}

#[test]
fn templates_of_clients_have_the_time_zone_of_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("template.jinja");
    let template = "{{ strftime_now('%Z %z') }}";
    std::fs::write(&path, template).expect("written");
    let setting = format!("model.chat_template_file={}", path.display());
    let server = Process::start_with(
        &["--model", &tiny_model(), "--set", &setting],
        &[("TZ", "XYZ-5:17")],
    );
    assert_eq!(applied(&server, None), "XYZ +0517");
    assert_eq!(applied(&server, Some(template)), "XYZ +0517");
}
