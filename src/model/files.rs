//! The files that a model was loaded from, with the hashes that receipts name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::source;

/// A file that a model is loaded from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: String,
}

/// The files of the model at this path, with their hashes: one, unless it is split. Reads all of them.
pub fn hash_files(path: &Path) -> std::io::Result<Arc<[FileHash]>> {
    Files::of(path)?.hash()
}

/// The files that a model was loaded from, as they were at that time.
pub(super) struct Files(Vec<(PathBuf, Stamp)>);

/// Size and modification time: a file with others counts as changed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    /// `None` if the file system has none.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

impl Files {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let stamped = |path: PathBuf| Stamp::of(&path).map(|stamp| (path, stamp));
        let files = source::files(path).into_iter().map(stamped);
        files.collect::<Result<_, _>>().map(Self)
    }

    /// Fails if a file has changed: its hash would not be that of the loaded model.
    pub fn hash(&self) -> std::io::Result<Arc<[FileHash]>> {
        let one = |(path, stamp): &(PathBuf, Stamp)| {
            let is_same = || {
                if Stamp::of(path)? == *stamp {
                    return Ok(());
                }
                Err(std::io::Error::other(format!(
                    "{} has changed since it was loaded",
                    path.display()
                )))
            };
            // Check first, so that a changed file is not read at each request.
            is_same()?;
            let sha256 = source::hash(path)?;
            is_same()?;
            Ok(FileHash {
                bytes: stamp.bytes,
                sha256,
            })
        };
        self.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_hashed_unless_they_have_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(place(name), text).expect("written");
        write("one.gguf", "abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expect = FileHash {
            bytes: 3,
            sha256: abc.to_owned(),
        };
        let files = Files::of(&place("one.gguf")).expect("it is there");
        assert_eq!(
            files.hash().expect("it is read")[..],
            std::slice::from_ref(&expect)[..]
        );
        write("one.gguf", "abcd");
        assert!(files.hash().is_err());
        write("two-00001-of-00002.gguf", "abc");
        assert!(hash_files(&place("two-00001-of-00002.gguf")).is_err());
        write("two-00002-of-00002.gguf", "");
        let both = hash_files(&place("two-00001-of-00002.gguf")).expect("both are read");
        assert_eq!((both.len(), &both[0], both[1].bytes), (2, &expect, 0));
    }
}
