//! A cheap hash that identifies the weights in a file.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::hex::hex;

/// Hashes the file's size, its beginning and its end: the beginning has the metadata and the list of tensors, and hashing
/// gigabytes at every start would not be worth its time.
pub(super) fn fingerprint(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const PART: u64 = 1 << 20;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(size.to_le_bytes());
    let mut part = Vec::new();
    file.by_ref().take(PART).read_to_end(&mut part)?;
    file.seek(SeekFrom::Start(size.saturating_sub(PART)))?;
    file.take(PART).read_to_end(&mut part)?;
    hash.update(&part);
    Ok(hex(&hash.finalize()[..6]))
}
