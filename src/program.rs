//! Runs this program again as a child process: for work that may take too long or crash.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A program to run instead of this one; see [`run_with`].
static OTHER: OnceLock<PathBuf> = OnceLock::new();

/// Sets another program to run: tests are not the server.
pub fn run_with(candor: PathBuf) {
    let _ = OTHER.set(candor);
}

/// The file to run. On Linux it exists even after the program was replaced by a newer one.
pub fn path() -> io::Result<PathBuf> {
    const RUNNING: &str = "/proc/self/exe";
    match OTHER.get() {
        Some(program) => Ok(program.clone()),
        None if Path::new(RUNNING).exists() => Ok(RUNNING.into()),
        None => std::env::current_exe(),
    }
}
