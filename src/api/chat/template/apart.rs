//! A client's template is rendered in a process of its own, with limits on its memory and time: fuel limits most of what a
//! template may use, but nested lists cost no fuel until they are printed, and can then be of any size.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::error::TemplateError;
use super::render::{Order, render};
use crate::program;

/// The fuel of a client's template.
const FUEL: u64 = 5_000_000;
/// Maximum memory of such a process, with its program and stack.
const PROCESS_BYTES: u64 = 1 << 30;
/// Maximum CPU time of it, in seconds.
const PROCESS_SECONDS: u64 = 3;
/// The only environment variable of the server that it inherits: others may contain keys.
const TIME_ZONE: &str = "TZ";
/// Maximum number of bytes of its output.
const PROCESS_ANSWER_BYTES: u64 = 32 << 20;

/// Like [`render`], in its own process.
pub fn render_apart(order: &Order) -> Result<String, TemplateError> {
    let run = || -> std::io::Result<Option<Result<String, TemplateError>>> {
        let mut command = Command::new(program::path()?);
        command.arg("render-template").env_clear();
        // So that `strftime_now` returns the same time as in the server.
        if let Some(zone) = std::env::var_os(TIME_ZONE) {
            command.env(TIME_ZONE, zone);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // It reads all input before it writes. If it ends earlier, there is no output.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(serde_json::to_string(order)?.as_bytes());
        }
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(PROCESS_ANSWER_BYTES).read_to_end(&mut answer)?;
        }
        let _ = child.kill();
        child.wait()?;
        Ok(serde_json::from_slice(&answer).ok())
    };
    match run() {
        Ok(Some(outcome)) => outcome,
        // The operating system killed it.
        Ok(None) => Err(TemplateError::OutOfFuel),
        Err(error) => {
            tracing::error!(%error, "cannot run the process for a chat template");
            Err(TemplateError::Failed("it could not be run".to_owned()))
        }
    }
}

/// The main function of that process: an [`Order`] in, a text or a [`TemplateError`] out, in JSON.
pub fn render_template(order: &str) -> String {
    // On systems without such limits there is only fuel.
    for (resource, most) in [
        (rlimit::Resource::AS, PROCESS_BYTES),
        (rlimit::Resource::CPU, PROCESS_SECONDS),
        (rlimit::Resource::CORE, 0),
    ] {
        let _ = resource.set(most, most);
    }
    let outcome = match serde_json::from_str::<Order>(order) {
        Ok(order) => render(&order, FUEL),
        Err(error) => Err(TemplateError::Failed(error.to_string())),
    };
    serde_json::to_string(&outcome).unwrap_or_default()
}
