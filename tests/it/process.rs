//! The program itself, as a process: signals, exit status, log.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
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
        let mut child = candor()
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
