//! The small model that a trial runs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::model::write_specimen;
use crate::random;

/// The small model's file. It is removed on drop.
pub struct Specimen(PathBuf);

impl Specimen {
    /// Beside the file `beside`, or in the system's folder for temporary files.
    pub fn write(kinds: &[u32], beside: Option<&Path>) -> io::Result<Self> {
        let folder = beside.and_then(Path::parent).map(Path::to_path_buf);
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for folder in folder.into_iter().chain([std::env::temp_dir()]) {
            outcome = Self::write_in(&folder, kinds);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    pub fn write_in(folder: &Path, kinds: &[u32]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("trial-{:x}.gguf", random::number());
        let file = File::create_new(folder.join(&name))?;
        let specimen = Self(folder.join(name));
        let mut file = BufWriter::new(file);
        write_specimen(kinds, &mut file)?;
        file.flush()?;
        Ok(specimen)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Specimen {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specimen_is_written_where_that_is_possible_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        let is_in = |beside: &Path, folder: &Path| {
            let specimen = Specimen::write(&[1], Some(beside)).expect("written");
            assert!(specimen.path().starts_with(folder) && specimen.path().exists());
            let path = specimen.path().to_path_buf();
            drop(specimen);
            assert!(!path.exists());
        };
        is_in(&folder.path().join("new/verdict.json"), folder.path());
        // No folder can be created there.
        is_in(&file.join("verdict.json"), &std::env::temp_dir());
    }
}
