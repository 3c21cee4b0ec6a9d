//! The cache that tools of the Hugging Face hub share, as far as it belongs to one repository:
//!
//! ```text
//! models--ORG--REPO/refs/main                  the commit that `main` was at the last download
//! models--ORG--REPO/blobs/ETAG                 the content of a file; for weights the ETag is its SHA-256
//! models--ORG--REPO/snapshots/COMMIT/FILE      a relative link to the blob
//! .locks/models--ORG--REPO/ETAG.lock           held during a download by Python's huggingface_hub
//! models--ORG--REPO/blobs/ETAG.lock            held during a download by Rust's hf-hub, which writes to ETAG.part
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::super::error::SourceError;
use super::super::verified;

pub(super) struct RepoCache {
    /// The folder of the repository.
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let folder = format!("models--{}", repo.replace('/', "--"));
        Self {
            root: cache.join(&folder),
            locks: cache.join(".locks").join(folder),
        }
    }

    /// The files of the cached `main`; `None` if there are none.
    fn snapshot(&self) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.root.join("refs/main")).ok()?;
        Some(self.root.join("snapshots").join(commit.trim()))
    }

    /// The path of a file of the cached `main`, by its name in the repository.
    pub(super) fn get(&self, file: &str) -> Option<PathBuf> {
        let path = self.snapshot()?.join(file);
        path.exists().then_some(path)
    }

    /// The names of the GGUF files of the cached `main`.
    pub(super) fn files(&self) -> Vec<String> {
        let Some(snapshot) = self.snapshot() else {
            return Vec::new();
        };
        let mut files = Vec::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(snapshot.join(&directory));
            for entry in entries.into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let relative = directory.join(&name);
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(relative);
                } else if name.to_ascii_lowercase().ends_with(".gguf") {
                    let segments: Vec<_> = relative
                        .iter()
                        .map(|segment| segment.to_string_lossy())
                        .collect();
                    files.push(segments.join("/"));
                }
            }
        }
        files.sort();
        files
    }

    /// The path of a file's content.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The path of a file's content while it is downloaded.
    pub(super) fn unfinished(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.part"))
    }

    /// Waits until no other tool downloads this file. The locks end with the value.
    pub(super) fn lock(&self, etag: &str, what: &str) -> Result<Vec<File>, SourceError> {
        let name = format!("{etag}.lock");
        let mut locks = Vec::new();
        match verified::lock(&self.locks.join(&name), what) {
            Ok(lock) => locks.push(lock),
            // Only the folder of the repository need be writable.
            Err(error) => tracing::debug!("no lock for Python's tools: {error}"),
        }
        locks.push(verified::lock(&self.root.join("blobs").join(&name), what)?);
        Ok(locks)
    }

    /// Makes a blob a file of `main`, which is at this commit. Returns the file's path.
    pub(super) fn link(
        &self,
        commit: &str,
        file: &str,
        etag: &str,
    ) -> Result<PathBuf, SourceError> {
        let link = self.root.join("snapshots").join(commit).join(file);
        let write_error = |error| SourceError::io("write", &link, error);
        if let Some(directory) = link.parent() {
            fs::create_dir_all(directory).map_err(write_error)?;
        }
        // It may lead to nothing, or to a broken file.
        verified::remove(&link)?;
        // A relative link survives a move of the cache.
        let up = "../".repeat(Path::new(commit).join(file).components().count());
        let target = format!("{up}blobs/{etag}");
        // Some systems and file systems have no links: the file itself then takes the link's place.
        if symlink(&target, &link).is_err() {
            fs::rename(self.blob(etag), &link).map_err(write_error)?;
        }
        let main = self.root.join("refs/main");
        if fs::read_to_string(&main).is_ok_and(|known| known.trim() == commit) {
            return Ok(link);
        }
        let kept = verified::write_whole(&main, commit.as_bytes());
        kept.map_err(|error| SourceError::io("write", &main, error))?;
        Ok(link)
    }
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}
