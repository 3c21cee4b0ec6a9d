//! Small JSON files with results that the next start reuses, in the folder of the downloaded models.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::random;

/// `None` if there is no such file, or none that can be read.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Best effort: without the file the next start measures again.
pub fn save(path: &Path, results: &impl Serialize) {
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Two servers may start at once: the file is written whole or not at all.
        let part = path.with_extension(format!("part{:x}", random::number()));
        std::fs::write(&part, serde_json::to_string_pretty(results)?)?;
        std::fs::rename(part, path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "cannot save measurements");
    }
}
