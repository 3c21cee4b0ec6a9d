//! This program, run again as a process of its own: for work that may take too much, or end the process that does it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Another program than this one; see [`run_with`].
static OTHER: OnceLock<PathBuf> = OnceLock::new();

/// Has another program run in this one's place: a test is not the server.
pub fn run_with(candor: PathBuf) {
    let _ = OTHER.set(candor);
}

/// The file to run. On Linux it is there even after the program was replaced by a newer one.
pub fn path() -> io::Result<PathBuf> {
    const RUNNING: &str = "/proc/self/exe";
    match OTHER.get() {
        Some(program) => Ok(program.clone()),
        None if Path::new(RUNNING).exists() => Ok(RUNNING.into()),
        None => std::env::current_exe(),
    }
}
