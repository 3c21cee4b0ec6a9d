//! Models of the Hugging Face hub, kept in the cache that other tools of the hub share.
//!
//! The cache is tried first, and a model in it needs no network: the cache names the content of a large file by its
//! SHA-256, so an incomplete file is recognized without asking the hub.
//!
//! A download takes two kinds of requests. `GET /api/models/REPO/revision/main` lists the files. `HEAD
//! /REPO/resolve/main/FILE` redirects to a content delivery network, and its headers say what is there: the commit
//! (`x-repo-commit`), and the hash and size of the content (`x-linked-etag`, `x-linked-size`; a file that is not large is
//! not redirected, and has `etag` and `content-length`). `GET` of the same address then follows the redirection. This is
//! how Python's huggingface_hub does it.

mod cache;
mod choice;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::header::{self, HeaderName};

use super::environment::Environment;
use super::error::SourceError;
use super::fetch::{self, Client, FetchError};
use super::gguf;
use super::located::{Located, Remote};
use super::url::{encoded, redact};
use super::verified::{self, State};
use cache::RepoCache;
use choice::{Wanted, choose, is_plain, parse};

/// Where the hub is unless `HF_ENDPOINT` says otherwise.
const PUBLIC_HUB: &str = "https://huggingface.co";

const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// The first part of the model named `ORG/REPO[:FILE-or-QUANT]`, downloaded if needed.
pub(super) fn resolve(
    name: &str,
    cache_directory: &Path,
    environment: &Environment,
) -> Result<PathBuf, SourceError> {
    let (repo, wanted) = parsed(name)?;
    let hub = Hub::new(repo, cache_directory, environment)?;
    if let Some(path) = hub.find(&wanted)? {
        return Ok(path);
    }
    if environment.hf_offline {
        return Err(hub.offline_error(&wanted));
    }
    hub.download(&wanted)
}

/// Where that file is. Makes no requests, not even where [`resolve`] would compare sizes with the hub's.
pub(super) fn locate(
    name: &str,
    cache_directory: &Path,
    environment: &Environment,
) -> Result<Located, SourceError> {
    let (repo, wanted) = parsed(name)?;
    let offline = Environment {
        hf_offline: true,
        ..environment.clone()
    };
    let hub = Hub::new(repo, cache_directory, &offline)?;
    if let Some(path) = hub.find(&wanted)? {
        let verified = is_named_by_hash(&path);
        return Ok(Located::Local { path, verified });
    }
    if environment.hf_offline {
        return Err(hub.offline_error(&wanted));
    }
    let parts = choose(&hub.repo, &hub.known_files(), &wanted).ok();
    let file = parts.and_then(|parts| parts.into_iter().next());
    let file = file.unwrap_or_else(|| wanted.to_string());
    Ok(Located::Remote(Remote {
        what: format!("{file} of {}", hub.repo),
        from: redact(&hub.endpoint),
        bytes: None,
        broken: None,
        on_hub: true,
    }))
}

/// Asks the hub for a model's repository. Returns the hub's address if it answers.
pub(super) fn reach(
    name: &str,
    cache_directory: &Path,
    environment: &Environment,
) -> Result<String, SourceError> {
    /// A hub that can be reached answers within a second.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let (repo, _) = parsed(name)?;
    let hub = Hub::new(repo, cache_directory, environment)?;
    let client = Client::with_timeout(environment, Some(TIMEOUT))?;
    let listed = hub.list(&client.with_token(environment.hub_token()));
    listed.map_err(|error| hub.explain(error))?;
    Ok(redact(&hub.endpoint))
}

fn parsed(name: &str) -> Result<(String, Wanted), SourceError> {
    parse(name).ok_or_else(|| SourceError::HubName {
        name: name.to_owned(),
    })
}

/// Whether the cache names the file by its SHA-256, which [`Hub::state`] then compares.
fn is_named_by_hash(path: &Path) -> bool {
    let blob = std::fs::canonicalize(path).unwrap_or_default();
    let name = blob.file_name().unwrap_or_default();
    verified::is_sha256(&name.to_string_lossy())
}

/// What the hub says about a file.
struct Metadata {
    commit: String,
    /// The name of the content in the cache; for a large file its SHA-256.
    etag: String,
    size: Option<u64>,
}

/// A repository of the hub.
struct Hub<'a> {
    repo: String,
    environment: &'a Environment,
    endpoint: String,
    /// The folder of the shared cache.
    shared: PathBuf,
    cache: RepoCache,
    /// GGUF files in the cache.
    cached_files: Vec<String>,
    /// Where our records about the cache's files are kept; the cache itself is shared with other tools.
    notes: PathBuf,
}

impl<'a> Hub<'a> {
    fn new(
        repo: String,
        cache_directory: &Path,
        environment: &'a Environment,
    ) -> Result<Self, SourceError> {
        let endpoint = environment.hf_endpoint.as_deref().unwrap_or(PUBLIC_HUB);
        let shared = environment.hub_cache()?;
        let cache = RepoCache::new(&shared, &repo);
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            environment,
            cached_files: cache.files(),
            notes: cache_directory.join("hub"),
            shared,
            cache,
            repo,
        })
    }

    fn client(&self) -> Result<Client, SourceError> {
        let client = Client::new(self.environment)?;
        Ok(client.with_token(self.environment.hub_token()))
    }

    /// The wanted model, if it is completely in the cache.
    fn find(&self, wanted: &Wanted) -> Result<Option<PathBuf>, SourceError> {
        match choose(&self.repo, &self.known_files(), wanted) {
            Ok(parts) => self.cached(&parts),
            Err(_) => Ok(None),
        }
    }

    fn offline_error(self, wanted: &Wanted) -> SourceError {
        SourceError::HubOffline {
            repo: self.repo,
            wanted: wanted.to_string(),
            cache: self.shared.display().to_string(),
            available: self.cached_files,
        }
    }

    fn note(&self, extension: &str) -> PathBuf {
        self.notes
            .join(format!("{}.{extension}", self.repo.replace('/', "--")))
    }

    /// The repository's files as far as they are known here. The hub's last list takes precedence over what happens to be
    /// cached, so that a name means the same file whatever was downloaded before.
    fn known_files(&self) -> Vec<String> {
        std::fs::read(self.note("files.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_else(|| self.cached_files.clone())
    }

    /// The first part, if all are in the cache and whole.
    fn cached(&self, parts: &[String]) -> Result<Option<PathBuf>, SourceError> {
        let mut first = None;
        for part in parts {
            let Some(path) = self.cache.get(part) else {
                return Ok(None);
            };
            match self.state(part, &path)? {
                State::Good => {}
                State::Absent => return Ok(None),
                State::Broken(reason) => {
                    let then = match self.environment.hf_offline {
                        true => "",
                        false => "; downloading it again",
                    };
                    let path = path.display();
                    tracing::warn!("the cached file {path} is broken ({reason}){then}");
                    return Ok(None);
                }
            }
            first.get_or_insert(path);
        }
        Ok(first)
    }

    /// Whether a file of the cache is whole.
    fn state(&self, part: &str, path: &Path) -> Result<State, SourceError> {
        let read_error = |error| SourceError::io("read", path, error);
        let blob = std::fs::canonicalize(path).map_err(read_error)?;
        let name = blob.file_name().and_then(|name| name.to_str());
        if let Some(sha256) = name.filter(|name| verified::is_sha256(name)) {
            return verified::check(&blob, &self.hash_record(sha256), None, sha256);
        }
        // A cache without links (Windows) does not name files by their hash: compare sizes instead.
        let record = self.record(part);
        if verified::remembered(&blob, &record, "") {
            return Ok(State::Good);
        }
        if !gguf::has_magic(&blob).map_err(read_error)? {
            return Ok(State::Broken("it does not begin with `GGUF`".to_owned()));
        }
        if !self.environment.hf_offline
            && let Ok(client) = self.client()
            && let Ok(Metadata {
                size: Some(size), ..
            }) = self.metadata(&client, part)
        {
            let found = std::fs::metadata(&blob).map_err(read_error)?.len();
            if found != size {
                let reason = format!("it has {found} bytes, not {size}");
                return Ok(State::Broken(reason));
            }
            verified::remember(&blob, &record, "");
        }
        Ok(State::Good)
    }

    /// The record of a file without a hash.
    fn record(&self, part: &str) -> PathBuf {
        self.note(&format!("{}.verified", part.replace('/', "--")))
    }

    /// The record of a file with this hash.
    fn hash_record(&self, sha256: &str) -> PathBuf {
        self.notes.join(format!("{sha256}.verified"))
    }

    /// Asks the hub for the repository's GGUF files.
    fn list(&self, client: &Client) -> Result<Vec<String>, FetchError> {
        #[derive(serde::Deserialize)]
        struct Info {
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/main", self.endpoint, self.repo);
        let (text, _) = client.text(&url, "application/json")?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|error| FetchError::Failed(format!("its list of files is broken: {error}")))?;
        let names = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        let is_usable =
            |name: &String| name.to_ascii_lowercase().ends_with(".gguf") && is_plain(name);
        Ok(names.filter(is_usable).collect())
    }

    fn url(&self, part: &str) -> String {
        format!(
            "{}/{}/resolve/main/{}",
            self.endpoint,
            self.repo,
            encoded(part)
        )
    }

    /// Asks the hub about a file.
    fn metadata(&self, client: &Client, part: &str) -> Result<Metadata, FetchError> {
        let headers = client.head(&self.url(part))?;
        let text = |name: &HeaderName| fetch::text(&headers, name);
        let lacks = |name: &HeaderName| {
            FetchError::Failed(format!("its answer about {part} has no usable {name}"))
        };
        // Both become file names.
        let is_name = |name: &&str| is_plain(name) && !name.contains('/');
        let commit = text(&COMMIT)
            .filter(is_name)
            .ok_or_else(|| lacks(&COMMIT))?;
        let etag = text(&LINKED_ETAG).or_else(|| text(&header::ETAG));
        let etag = etag.map(|etag| etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"'));
        let etag = etag.filter(is_name).ok_or_else(|| lacks(&header::ETAG))?;
        // The length of a redirection is not the file's.
        let length = text(&header::CONTENT_LENGTH).filter(|_| text(&header::LOCATION).is_none());
        let size = text(&LINKED_SIZE).or(length);
        Ok(Metadata {
            commit: commit.to_owned(),
            etag: etag.to_owned(),
            size: size.and_then(|size| size.parse().ok()),
        })
    }

    fn download(&self, wanted: &Wanted) -> Result<PathBuf, SourceError> {
        let _lock = verified::lock(&self.note("lock"), &self.repo)?;
        let client = self.client()?;
        let files = match self.list(&client) {
            Ok(files) => files,
            Err(error) => return self.unreachable(wanted, self.explain(error)),
        };
        if let Ok(text) = serde_json::to_vec(&files)
            && let Err(error) = verified::write_whole(&self.note("files.json"), &text)
        {
            tracing::debug!("cannot store the list of files of {}: {error}", self.repo);
        }
        let mut first = None;
        for part in choose(&self.repo, &files, wanted)? {
            let path = match self.cache.get(&part) {
                // Another process was faster, or an earlier start came this far.
                Some(path) if self.state(&part, &path)? == State::Good => path,
                _ => self.download_file(&client, &part)?,
            };
            first.get_or_insert(path);
        }
        first.ok_or_else(|| self.failed("an empty list of parts".to_owned()))
    }

    /// The hub did not list its files. Its list may not be needed.
    fn unreachable(&self, wanted: &Wanted, error: SourceError) -> Result<PathBuf, SourceError> {
        if matches!(error, SourceError::Hub { .. })
            && let Ok(parts) = choose(&self.repo, &self.cached_files, wanted)
            && let Some(path) = self.cached(&parts)?
        {
            tracing::warn!("{error} Using {} from the cache.", path.display());
            return Ok(path);
        }
        Err(error)
    }

    fn download_file(&self, client: &Client, part: &str) -> Result<PathBuf, SourceError> {
        let metadata = self.metadata(client, part);
        let metadata = metadata.map_err(|error| self.explain(error))?;
        let Metadata { commit, etag, .. } = &metadata;
        let _locks = self.cache.lock(etag, part)?;
        let blob = self.cache.blob(etag);
        // Another tool may have downloaded it in the meantime, or for another commit.
        let fault = match blob.exists() {
            true => self.fault(&blob, &metadata)?,
            false => Some("it is not there".to_owned()),
        };
        if fault.is_some() {
            self.download_blob(client, part, &metadata)?;
        }
        let path = self.cache.link(commit, part, etag)?;
        verified::remember(&path, &self.record(part), "");
        Ok(path)
    }

    /// Downloads a file's content, resuming after what is there already.
    fn download_blob(
        &self,
        client: &Client,
        part: &str,
        metadata: &Metadata,
    ) -> Result<(), SourceError> {
        let unfinished = self.cache.unfinished(&metadata.etag);
        let mut resumed = unfinished.exists();
        loop {
            let have = std::fs::metadata(&unfinished).map_or(0, |part| part.len());
            if have == 0 || metadata.size != Some(have) {
                let downloaded = client.download(&self.url(part), &unfinished, part);
                downloaded.map_err(|error| self.explain(error))?;
            }
            let Some(reason) = self.fault(&unfinished, metadata)? else {
                break;
            };
            verified::remove(&unfinished)?;
            if !resumed {
                return Err(SourceError::Corrupt {
                    what: format!("{part} of {}", self.repo),
                    reason,
                });
            }
            tracing::warn!(
                "the partial download of {part} does not match ({reason}); starting over"
            );
            resumed = false;
        }
        verified::publish(&unfinished, &self.cache.blob(&metadata.etag))
    }

    /// What is wrong with a file's content.
    fn fault(&self, path: &Path, metadata: &Metadata) -> Result<Option<String>, SourceError> {
        let read_error = |error| SourceError::io("read", path, error);
        let size = std::fs::metadata(path).map_err(read_error)?.len();
        if let Some(expected) = metadata.size
            && size != expected
        {
            return Ok(Some(format!("it has {size} bytes, not {expected}")));
        }
        if verified::is_sha256(&metadata.etag) {
            let record = self.hash_record(&metadata.etag);
            let state = verified::check(path, &record, Some(size), &metadata.etag)?;
            if let State::Broken(reason) = state {
                return Ok(Some(reason));
            }
        }
        if !gguf::has_magic(path).map_err(read_error)? {
            return Ok(Some("it does not begin with `GGUF`".to_owned()));
        }
        Ok(None)
    }

    fn failed(&self, reason: String) -> SourceError {
        SourceError::Hub {
            repo: self.repo.clone(),
            reason,
        }
    }

    fn explain(&self, error: FetchError) -> SourceError {
        match error {
            FetchError::Status(status) if matches!(status.as_u16(), 401 | 403 | 404) => {
                SourceError::HubRefused {
                    repo: self.repo.clone(),
                    status: status.as_u16(),
                }
            }
            error => error.into_source_error(|reason| self.failed(reason)),
        }
    }
}
