//! Which files a model was loaded from, to the byte: what a receipt names it by.

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

/// The files of the model that is opened by this path, with their hashes: one, unless it is split. All of them are read.
pub fn hash_files(path: &Path) -> std::io::Result<Arc<[FileHash]>> {
    Files::of(path)?.hash()
}

/// The files that a model was loaded from, as they were then.
pub(super) struct Files(Vec<(PathBuf, Stamp)>);

/// A file of another size or time is taken for another.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    /// `None` where the file system does not tell.
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

    /// An error, too, if a file has changed: the hash would be another model's than the one that answers.
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
            // Before, so that another file is not read each time that somebody asks.
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
    fn files_are_hashed_as_long_as_they_are_what_was_loaded() {
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
