//! The output file: a whole line for each answer, appended. Only one process writes it.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::input::Input;
use super::record::Record;

/// An output that this process has locked.
pub struct Output {
    path: PathBuf,
    file: File,
    /// Up to the end of the last whole line.
    bytes: u64,
    /// Why nothing may be appended any more: the file ends with a part of a line.
    torn: Option<String>,
}

/// What an output has already.
#[derive(Default)]
pub struct Done {
    lines: Vec<bool>,
    pub count: usize,
    /// Those among them that are errors.
    pub errors: usize,
}

impl Done {
    /// Whether the line with this index has its answer.
    pub fn has(&self, line: u32) -> bool {
        self.lines[line as usize]
    }
}

impl Output {
    /// Opens a file, or creates it, and locks it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::Refused(format!(
                "cannot write {}: {error}. Name a file in a folder that you may write to.",
                path.display()
            ))
        };
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err(cannot(io::Error::other("it is not a regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Refused(format!(
                    "another process is writing {}. Wait until it ends, or name another file.",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => tracing::warn!(
                "{} cannot be locked ({error}): make sure that no other process writes it",
                path.display()
            ),
        }
        let bytes = file.metadata().map_err(cannot)?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            torn: None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Reads the answers of earlier runs. A last line that is not whole is cut off.
    pub fn read(
        &mut self,
        input: &Input,
        is_part: impl Fn(u32) -> Result<bool, Failure>,
    ) -> Result<Done, Failure> {
        let path = self.path.display().to_string();
        let failed = |error: io::Error| Failure::Refused(format!("cannot read {path}: {error}"));
        let mut done = Done {
            lines: vec![false; input.id.lines],
            ..Done::default()
        };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut text = Vec::new();
        let mut whole = 0;
        for number in 1.. {
            text.clear();
            let length = reader.read_until(b'\n', &mut text).map_err(failed)? as u64;
            if length == 0 {
                break;
            }
            let is_last = whole + length == self.bytes;
            let record = match Record::read(&text) {
                Ok(record) if text.ends_with(b"\n") => record,
                Err(why) if !is_last => {
                    return Err(Failure::Refused(format!(
                        "line {number} of {path} is not an answer: {why}. Remove the line; its request is then sent again."
                    )));
                }
                // The process, or the machine, ended while it was written.
                _ => break,
            };
            let id = &record.custom_id;
            let place = match input.find(id) {
                Some(line) if is_part(line)? => Some(line),
                _ => None,
            };
            let Some(line) = place else {
                return Err(Failure::Refused(format!(
                    "line {number} of {path} has `custom_id` {id:?}, which is not among the requests. Remove the line, or name \
                     another output."
                )));
            };
            if std::mem::replace(&mut done.lines[line as usize], true) {
                return Err(Failure::Refused(format!(
                    "line {number} of {path} has `custom_id` {id:?}, as an earlier line. Remove one of them."
                )));
            }
            done.count += 1;
            done.errors += usize::from(!record.is_answered());
            whole += length;
        }
        if whole < self.bytes {
            tracing::warn!("the last line of {path} is not whole: its request is sent again");
            let cut = self.file.set_len(whole);
            cut.map_err(|error| Failure::Refused(format!("cannot write {path}: {error}")))?;
            self.bytes = whole;
        }
        Ok(done)
    }

    /// Appends a line: all of it, or nothing.
    pub fn append(&mut self, line: &[u8]) -> Result<(), Failure> {
        if let Some(why) = &self.torn {
            return Err(Failure::Stopped(why.clone()));
        }
        if let Err(error) = self.file.write_all(line) {
            if self.file.set_len(self.bytes).is_err() {
                self.torn = Some(format!(
                    "cannot write {}: {error}. It may end with a part of a line, which the next run cuts off.",
                    self.path.display()
                ));
            }
            return Err(self.cannot_write(&error));
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// A handle to sync the file with, while others append to it.
    pub fn handle(&self) -> Result<File, Failure> {
        self.file
            .try_clone()
            .map_err(|error| self.cannot_write(&error))
    }

    pub fn cannot_write(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        let whole =
            || format!("cannot write {path}: {error}. What it has is whole. Make room first.");
        Failure::Stopped(self.torn.clone().unwrap_or_else(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_part_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut output = Output::open(&path).unwrap();
        output.append(b"one\n").unwrap();
        let writable = output.file.try_clone().unwrap();
        // It can neither be written nor cut, as on a network file system that is gone for a moment.
        output.file = File::open(&path).unwrap();
        let first = output.append(b"two\n").unwrap_err().to_string();
        output.file = writable;
        let why = output.append(b"three\n").unwrap_err().to_string();
        assert!(
            why.contains("cannot write") && why.contains("part of a line"),
            "{why}"
        );
        assert_eq!(first, why);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
    }
}
