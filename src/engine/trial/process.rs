//! Runs a trial in a child process.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::order::{Order, Outcome};

/// Tenths of a second are usual on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends the order to the process, and waits for its answer or its end.
pub fn by_process(command: Command, order: &Order) -> Outcome {
    exchange(command, order).unwrap_or_else(|error| Outcome::Untried(error.to_string()))
}

fn exchange(mut command: Command, order: &Order) -> io::Result<Outcome> {
    let mut child = command
        // Otherwise ggml starts a debugger when it aborts.
        .env("GGML_NO_BACKTRACE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // It reads everything before it writes. If it ends before that, its status says why.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(serde_json::to_string(order)?.as_bytes());
    }
    let Some(status) = wait(&mut child, TIMEOUT)? else {
        // The machine may be too busy.
        return Ok(Outcome::Untried(format!(
            "the trial did not end within {} seconds",
            TIMEOUT.as_secs()
        )));
    };
    let mut answer = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut answer)?;
    }
    if let Some(outcome) = killed(status) {
        return Ok(outcome);
    }
    Ok(serde_json::from_str(&answer)
        .unwrap_or_else(|_| Outcome::Untried(format!("the trial ended with {status}"))))
}

/// How it ended; `None` if it took too long and was killed.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > timeout {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the signal that killed the process says about the routines; `None` if it exited.
fn killed(status: ExitStatus) -> Option<Outcome> {
    let signal = status.signal()?;
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGILL => "SIGILL",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGABRT => "SIGABRT",
        // Sent by a user, or by a system that is out of memory.
        _ => {
            return Some(Outcome::Untried(format!(
                "the trial was killed by signal {signal}"
            )));
        }
    };
    Some(Outcome::Bad(format!("ends the process ({name})")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::KvType;
    use crate::model::Routines;

    #[test]
    fn crashes_count_against_the_routines_and_kills_do_not() {
        let order = Order {
            routines: Routines::ALL,
            flash_attention: false,
            kv_type_k: KvType::f16,
            kv_type_v: KvType::f16,
            specimen: PathBuf::new(),
        };
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            by_process(command, &order)
        };
        for signal in ["SEGV", "ILL", "BUS", "FPE", "ABRT"] {
            let outcome = run(&format!("kill -{signal} $$"));
            let expect = format!("ends the process (SIG{signal})");
            assert_eq!(outcome, Outcome::Bad(expect));
        }
        assert!(matches!(run("kill -KILL $$"), Outcome::Untried(_)));
        assert!(matches!(run("exit 3"), Outcome::Untried(_)));
        assert!(matches!(run("echo nonsense"), Outcome::Untried(_)));
        let answer = r#"cat > /dev/null; echo '{"Fine": "abc"}'"#;
        assert_eq!(run(answer), Outcome::Fine("abc".to_owned()));
    }
}
