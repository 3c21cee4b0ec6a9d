//! A small file beside the output: what it is for, and what computed it. Two runs that write to one output must agree on it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::input::InputId;
use super::origin::Origins;
use crate::config::Shard;

/// The version of the file's format.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The version of the program that wrote it.
    candor: String,
    pub input: InputId,
    pub shard: Shard,
    /// Whether answers have receipts.
    pub receipts: bool,
    pub origins: Origins,
}

impl State {
    pub fn new(input: InputId, shard: Shard, receipts: bool, are_mixed: bool) -> Self {
        Self {
            version: VERSION,
            candor: env!("CARGO_PKG_VERSION").to_owned(),
            input,
            shard,
            receipts,
            origins: Origins::new(are_mixed),
        }
    }

    /// Reads the state of an output.
    pub fn read(output: &Path) -> Result<Self, Failure> {
        let path = path_of(output);
        let output = output.display();
        let unfit = |why: String| {
            Failure::Refused(format!(
                "{}, which says what {output} is for, {why}. Name another output, or put the file back.",
                path.display()
            ))
        };
        let text = std::fs::read(&path);
        let text = text.map_err(|error| unfit(format!("cannot be read: {error}")))?;
        let state: Self = serde_json::from_slice(&text)
            .map_err(|error| unfit(format!("is not in the expected format: {error}")))?;
        if state.version != VERSION {
            return Err(unfit(format!(
                "has version {}, but this Candor reads {VERSION}",
                state.version
            )));
        }
        Ok(state)
    }

    /// Takes over what an earlier run wrote, if it had the same input and flags.
    pub fn resume(&mut self, earlier: Self, output: &Path, input: &Path) -> Result<(), Failure> {
        let (input, output) = (input.display(), output.display());
        let refused = |why: String| {
            Err(Failure::Refused(format!(
                "{why} Name another output, or run the same command as before."
            )))
        };
        if earlier.input != self.input {
            let InputId { sha256, lines, .. } = &earlier.input;
            return refused(format!(
                "{output} has the answers to another input than {input}, which has changed or is another file: to one of {lines} \
                 lines with the SHA-256 {sha256}."
            ));
        }
        if earlier.shard != self.shard {
            return refused(format!(
                "{output} is for shard {}, not {}.",
                earlier.shard, self.shard
            ));
        }
        if earlier.receipts != self.receipts {
            let with = if earlier.receipts { "with" } else { "without" };
            return refused(format!("{output} was begun {with} --receipts."));
        }
        let are_mixed = self.origins.are_mixed;
        if earlier.origins.are_mixed && !are_mixed {
            return refused(format!("{output} was begun with --allow-mixed."));
        }
        self.origins = earlier.origins;
        self.origins.are_mixed = are_mixed;
        Ok(())
    }

    /// Writes the state beside an output, completely or not at all.
    pub fn write(&self, output: &Path) -> Result<(), Failure> {
        let path = path_of(output);
        let part = with_ending(&path, ".part");
        let write = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            // The name is not safe before its folder is.
            let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&part);
            Failure::Stopped(format!("cannot write {}: {error}", path.display()))
        })
    }
}

fn path_of(output: &Path) -> PathBuf {
    with_ending(output, ".state")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let input = InputId {
            sha256: "ab".to_owned(),
            bytes: 9,
            lines: 2,
        };
        State::new(input, "0/1".parse().unwrap(), false, false)
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        assert!(State::read(&output).is_err());
        state().write(&output).unwrap();
        assert_eq!(State::read(&output).unwrap(), state());
        let path = folder.path().join("out.jsonl.state");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
        let why = State::read(&output).unwrap_err().to_string();
        assert!(why.contains("has version 2"), "{why}");
        std::fs::write(&path, "{").unwrap();
        assert!(State::read(&output).is_err());
    }

    #[test]
    fn another_run_must_have_the_same_input_and_flags() {
        let check = |change: fn(&mut State), expect: &str| {
            let mut now = state();
            change(&mut now);
            let resumed = now.resume(state(), Path::new("out"), Path::new("in"));
            let why = resumed.err().map(|why| why.to_string()).unwrap_or_default();
            assert!(
                why.contains(expect) && why.is_empty() == expect.is_empty(),
                "{why}"
            );
        };
        check(|_| {}, "");
        check(|now| now.origins.are_mixed = true, "");
        check(
            |now| now.input.sha256 = "cd".to_owned(),
            "another input than in",
        );
        check(
            |now| now.shard = "0/2".parse().unwrap(),
            "for shard 0/1, not 0/2",
        );
        check(|now| now.receipts = true, "begun without --receipts");
        let mut mixed = state();
        mixed.origins.are_mixed = true;
        let resumed = state().resume(mixed, Path::new("out"), Path::new("in"));
        assert!(resumed.unwrap_err().to_string().contains("--allow-mixed"));
    }
}
