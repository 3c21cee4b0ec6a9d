//! Whether a cached file is whole, checked cheaply at each start.
//!
//! A file is hashed once. A record keeps its size, modification time and hash, and the file is not hashed again as long as
//! size and time stay the same.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::hex::hex;
use super::error::SourceError;
use super::progress::Progress;

/// Smaller files are hashed faster than a user could read a message about it.
const WORTH_A_BAR: u64 = 1 << 30;

/// The state of a cached file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Good,
    /// Why, to be printed in parentheses.
    Broken(String),
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Record {
    size: u64,
    modified_ns: u64,
    /// Empty: the expected hash is not known, and the size was compared instead.
    sha256: String,
}

impl Record {
    fn of(file: &Path, sha256: &str) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(file)?;
        let modified_ns = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|age| u64::try_from(age.as_nanos()).ok())
            .unwrap_or(0);
        Ok(Self {
            size: metadata.len(),
            modified_ns,
            sha256: sha256.to_owned(),
        })
    }
}

/// Checks whether `file` is whole; `sha256` is lower-case hex.
pub(super) fn check(
    file: &Path,
    record: &Path,
    size: Option<u64>,
    sha256: &str,
) -> Result<State, SourceError> {
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::Absent),
        Err(error) => return Err(SourceError::io("read", file, error)),
    };
    if let Some(size) = size
        && metadata.len() != size
    {
        return Ok(State::Broken(format!(
            "it has {} bytes, not {size}",
            metadata.len()
        )));
    }
    if remembered(file, record, sha256) {
        return Ok(State::Good);
    }
    let found = hash(file).map_err(|error| SourceError::io("read", file, error))?;
    if found != sha256 {
        return Ok(State::Broken(format!(
            "its SHA-256 is {found}, not {sha256}"
        )));
    }
    remember(file, record, sha256);
    Ok(State::Good)
}

/// Whether the file is unchanged since it was last found whole.
pub(super) fn remembered(file: &Path, record: &Path, sha256: &str) -> bool {
    let Ok(text) = std::fs::read(record) else {
        return false;
    };
    let Ok(kept) = serde_json::from_slice::<Record>(&text) else {
        return false;
    };
    Record::of(file, sha256).is_ok_and(|now| now == kept)
}

/// Records that the file is whole. Failing to (a cache that only root may write) only costs time at the next start.
pub(super) fn remember(file: &Path, record: &Path, sha256: &str) {
    let kept = (|| {
        let text = serde_json::to_vec(&Record::of(file, sha256)?)?;
        write_whole(record, &text)
    })();
    if let Err(error) = kept {
        tracing::debug!("cannot write {}: {error}", record.display());
    }
}

/// Writes a small file so that readers see all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Two processes may write the same record at once.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let mut file = File::create(&name)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&name, path)
}

/// The file's SHA-256 in lower-case hex.
pub(crate) fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let progress = (size >= WORTH_A_BAR).then(|| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Progress::begin("verifying", "verified", &name, Some(size), 0)
    });
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        if let Some(progress) = &progress {
            progress.add(read as u64);
        }
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(hex(&hasher.finalize()))
}

/// Whether the text is a SHA-256 in lower-case hex.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), SourceError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SourceError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Gives a complete file its final name, which survives a power cut.
pub(super) fn publish(part: &Path, file: &Path) -> Result<(), SourceError> {
    std::fs::rename(part, file).map_err(|error| SourceError::io("rename", part, error))?;
    // Where directories cannot be opened, the system takes care of it.
    if let Some(directory) = file.parent().and_then(|parent| File::open(parent).ok()) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// Waits until no other process downloads the same thing. The lock ends with the value, or with the process.
pub(super) fn lock(path: &Path, what: &str) -> Result<File, SourceError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| SourceError::io("create", directory, error))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|error| SourceError::io("write", path, error))?;
    let locked = match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            tracing::info!("another process is downloading {what}; waiting for it");
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    match locked {
        // Some network file systems have no locks: avoiding two starts at once is then up to the user.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            tracing::warn!("cannot lock {}: {error}", path.display());
            Ok(file)
        }
        Err(error) => Err(SourceError::io("lock", path, error)),
        Ok(()) => Ok(file),
    }
}
