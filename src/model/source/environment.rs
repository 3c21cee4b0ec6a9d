//! The environment variables that concern downloads.

use std::path::PathBuf;

use super::error::SourceError;

/// The environment variables that concern downloads, as a value, so that tests need not change those of the process. It may
/// contain secrets (a token, an index's password), and so has no `Debug`.
#[derive(Clone, Default)]
pub struct Environment {
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `PIP_INDEX_URL`, else `UV_INDEX_URL`: a PEP 503 ("simple") index.
    pub index_url: Option<String>,
    /// `PIP_CERT`, else `SSL_CERT_FILE`: a PEM file with the only certificates to trust.
    pub certificates: Option<PathBuf>,
    /// Whether `HTTPS_PROXY` and the like are used (the HTTP client reads them itself).
    pub proxies: bool,
    /// `HF_ENDPOINT`: a mirror of the hub.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`.
    pub hf_token: Option<String>,
    /// `HF_HOME`: contains the hub's cache, and the token that `hf auth login` saved.
    pub hf_home: Option<PathBuf>,
    /// `HF_HUB_CACHE`: the hub's cache, if it is not in `HF_HOME`.
    pub hf_hub_cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: use the cache only, and make no requests.
    pub hf_offline: bool,
}

impl Environment {
    /// The environment of this process. An empty variable counts as unset.
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
            // The XDG specification says to ignore relative paths.
            (Some(cache), _) if cache.is_absolute() => Ok(cache.clone()),
            (_, Some(home)) => Ok(home.join(".cache")),
            _ => Err(SourceError::NoHome),
        }
    }

    /// Where downloaded models are kept, for the setting `model.cache_dir`.
    pub(super) fn model_cache(&self, setting: &str) -> Result<PathBuf, SourceError> {
        if setting.is_empty() {
            Ok(self.user_cache()?.join("candor").join("models"))
        } else {
            Ok(self.expand(setting))
        }
    }

    /// The cache that tools of the Hugging Face hub share.
    pub(super) fn hub_cache(&self) -> Result<PathBuf, SourceError> {
        match &self.hf_hub_cache {
            Some(cache) => Ok(cache.clone()),
            None => Ok(self.hub_home()?.join("hub")),
        }
    }

    /// The token for the hub: from the environment, else the one that a login saved.
    pub(super) fn hub_token(&self) -> Option<String> {
        let saved = || std::fs::read_to_string(self.hub_home().ok()?.join("token")).ok();
        let token = self.hf_token.clone().or_else(saved)?;
        let token = token.trim();
        (!token.is_empty()).then(|| token.to_owned())
    }

    fn hub_home(&self) -> Result<PathBuf, SourceError> {
        match &self.hf_home {
            Some(home) => Ok(home.clone()),
            None => Ok(self.user_cache()?.join("huggingface")),
        }
    }

    /// Expands a leading `~/`, as a shell would: no shell reads a settings file.
    pub(super) fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }
}
