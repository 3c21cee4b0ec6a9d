//! What fuzzing has found so far, without the fuzzer: the inputs that reach the most code, and those that once broke
//! something. `make fuzz` looks for more.

use std::fs;
use std::path::PathBuf;

use crate::server::root;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Runs a target on each of its inputs; the last line printed names the one that failed.
fn replay(name: &str, target: fn(&[u8])) {
    let mut files: Vec<PathBuf> = ["corpus", "regressions"]
        .iter()
        .map(|kind| root().join("fuzz").join(kind).join(name))
        .filter(|folder| folder.exists())
        .flat_map(|folder| fs::read_dir(folder).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(!files.is_empty(), "fuzz/corpus/{name} is empty");
    files.sort();
    for file in files {
        println!("{}", file.display());
        target(&fs::read(&file).expect("bytes"));
    }
}

#[test]
fn requests() {
    replay("request", targets::request);
}

#[test]
fn stop_search() {
    replay("stop_search", targets::stop_search);
}

#[test]
fn detokenise() {
    replay("detokenise", targets::detokenise);
}

#[test]
fn grammars() {
    replay("grammar", targets::grammar);
}

#[test]
fn config_files() {
    replay("config_file", targets::config_file);
}
