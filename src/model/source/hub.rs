//! Models of the Hugging Face hub, kept in the cache that other tools of the hub share.
//!
//! The cache is asked first, and what is in it needs no network: the hub names a large file in its cache by the
//! SHA-256 of its content, so a file that was cut off is noticed here without asking.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo};

use super::fetch::{explain, is_tls, redact};
use super::gguf::{self, Split};
use super::progress::HubProgress;
use super::verified::{self, State};
use super::{Environment, Located, Remote, SourceError};

/// Taken in this order when nothing is asked for: a good half of the size for little loss, then nearly no loss.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// Where the hub is unless `HF_ENDPOINT` says otherwise.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// What of a repository is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Anything,
    Quant(String),
    File(String),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anything => formatter.write_str("GGUF file"),
            Self::Quant(quant) => write!(formatter, "{quant} GGUF file"),
            Self::File(file) => formatter.write_str(file),
        }
    }
}

/// What stands after `hf:`.
fn parse(name: &str) -> Option<(String, Wanted)> {
    let (repo, wanted) = match name.split_once(':') {
        None => (name, Wanted::Anything),
        Some((_, "")) => return None,
        Some((repo, file)) if file.to_ascii_lowercase().ends_with(".gguf") => {
            is_plain(file).then_some(())?;
            (repo, Wanted::File(file.to_owned()))
        }
        Some((repo, quant)) => (repo, Wanted::Quant(quant.to_owned())),
    };
    let (owner, model) = repo.split_once('/')?;
    // The name becomes a part of paths and of addresses.
    let fits = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    (fits(owner) && fits(model)).then(|| (repo.to_owned(), wanted))
}

/// Whether a name from outside stays inside the directory that it is joined to.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\\')
        && Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// The first part of the model that `name` (`ORG/REPO[:FILE-or-QUANT]`) means.
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

/// Where that file is. The hub is not asked, also where [`resolve`] would compare sizes with it.
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
        return Ok(Located::Here { path, verified });
    }
    if environment.hf_offline {
        return Err(hub.offline_error(&wanted));
    }
    let parts = choose(&hub.repo, &hub.known_files(), &wanted).ok();
    let file = parts.and_then(|parts| parts.into_iter().next());
    let file = file.unwrap_or_else(|| wanted.to_string());
    Ok(Located::Remote(Remote {
        what: format!("{file} of {}", hub.repo),
        from: redact(hub.address()),
        bytes: None,
        broken: None,
        on_hub: true,
    }))
}

/// Asks the hub for a model's repository. The hub's address, if it answers.
pub(super) fn reach(
    name: &str,
    cache_directory: &Path,
    environment: &Environment,
) -> Result<String, SourceError> {
    /// A hub that can be reached answers within a second.
    const PATIENCE: Duration = Duration::from_secs(5);
    let (repo, _) = parsed(name)?;
    let hub = Hub::new(repo, cache_directory, environment)?;
    let mut agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE));
    if !environment.proxies {
        agent = agent.proxy(None);
    }
    let url = format!("{}/api/models/{}/revision/main", hub.address(), hub.repo);
    let mut request = agent.build().new_agent().get(url);
    if let Some(token) = &hub.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match request.call() {
        Ok(_) => Ok(redact(hub.address())),
        Err(error) => Err(hub.explain(ApiError::RequestError(Box::new(error)))),
    }
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

struct Hub {
    repo: String,
    cache: Cache,
    cached_repo: CacheRepo,
    /// GGUF files that the cache has.
    snapshot_files: Vec<String>,
    /// Where we keep what we know of the cache's files; the cache itself is not ours to write notes into.
    notes: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    fn new(
        repo: String,
        cache_directory: &Path,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        let directory = match &environment.hf_hub_cache {
            Some(directory) => directory.clone(),
            None => environment.hub_home()?.join("hub"),
        };
        let token = match &environment.hf_token {
            Some(token) => Some(token.clone()),
            None => std::fs::read_to_string(environment.hub_home()?.join("token"))
                .ok()
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
        };
        let cache = Cache::new(directory);
        let cached_repo = cache.model(repo.clone());
        let snapshot_files = snapshot_files(&cache, &repo);
        Ok(Self {
            repo,
            cache,
            cached_repo,
            snapshot_files,
            notes: cache_directory.join("hub"),
            endpoint: environment
                .hf_endpoint
                .as_ref()
                .map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            token,
            offline: environment.hf_offline,
        })
    }

    fn address(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(PUBLIC_HUB)
    }

    /// What is wanted, if all of it is in the cache and whole.
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
            cache: self.cache.path().display().to_string(),
            available: self.snapshot_files,
        }
    }

    fn note(&self, ending: &str) -> PathBuf {
        self.notes
            .join(format!("{}.{ending}", self.repo.replace('/', "--")))
    }

    /// The repository's files as far as they are known here. What the hub listed last comes before what happens to
    /// be cached, so that the same name means the same file whatever was downloaded before.
    fn known_files(&self) -> Vec<String> {
        std::fs::read(self.note("files.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_else(|| self.snapshot_files.clone())
    }

    /// The first part, if all are in the cache and whole.
    fn cached(&self, parts: &[String]) -> Result<Option<PathBuf>, SourceError> {
        let mut first = None;
        for part in parts {
            let Some(path) = self.cached_repo.get(part) else {
                return Ok(None);
            };
            match self.state(part, &path)? {
                State::Good => {}
                State::Absent => return Ok(None),
                State::Broken(reason) => {
                    if self.offline {
                        tracing::warn!("the cached file {} is broken ({reason})", path.display());
                    } else {
                        tracing::warn!(
                            "the cached file {} is broken ({reason}); downloading it again",
                            path.display()
                        );
                    }
                    return Ok(None);
                }
            }
            first.get_or_insert(path);
        }
        Ok(first)
    }

    /// Whether a file of the cache is whole.
    fn state(&self, part: &str, path: &Path) -> Result<State, SourceError> {
        let failed = |error| SourceError::io("read", path, error);
        let blob = std::fs::canonicalize(path).map_err(failed)?;
        let name = blob
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if verified::is_sha256(name) {
            let record = self.notes.join(format!("{name}.verified"));
            return verified::check(&blob, &record, None, name);
        }
        // A cache without links (Windows) does not have the hash in the name: the size has to do.
        let record = self.record(part);
        if verified::remembered(&blob, &record, "") {
            return Ok(State::Good);
        }
        if !gguf::has_magic(&blob).map_err(failed)? {
            return Ok(State::Broken("it does not begin with `GGUF`".to_owned()));
        }
        if !self.offline
            && let Ok(api) = self.api()
            && let Ok(metadata) = api.metadata(&self.api_repo(&api).url(part))
        {
            let size = std::fs::metadata(&blob).map_err(failed)?.len();
            if size != metadata.size() as u64 {
                let reason = format!("it has {size} bytes, not {}", metadata.size());
                return Ok(State::Broken(reason));
            }
            verified::remember(&blob, &record, "");
        }
        Ok(State::Good)
    }

    fn record(&self, part: &str) -> PathBuf {
        self.note(&format!("{}.verified", part.replace('/', "--")))
    }

    fn api(&self) -> Result<Api, SourceError> {
        let mut builder = ApiBuilder::from_cache(self.cache.clone())
            .with_token(self.token.clone())
            .with_user_agent("candor", env!("CARGO_PKG_VERSION"))
            // Each time it goes on from where it was cut off.
            .with_retries(4);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        builder.build().map_err(|error| self.explain(error))
    }

    fn api_repo(&self, api: &Api) -> ApiRepo {
        api.repo(Repo::model(self.repo.clone()))
    }

    fn download(&self, wanted: &Wanted) -> Result<PathBuf, SourceError> {
        let _lock = verified::lock(&self.note("lock"), &self.repo)?;
        let api = self.api()?;
        let repo = self.api_repo(&api);
        let info = match repo.info() {
            Ok(info) => info,
            Err(error) => return self.unreachable(wanted, error),
        };
        let files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .filter(|name| name.to_ascii_lowercase().ends_with(".gguf") && is_plain(name))
            .collect();
        if let Ok(text) = serde_json::to_vec(&files)
            && let Err(error) = verified::write_whole(&self.note("files.json"), &text)
        {
            tracing::debug!("cannot keep the list of files of {}: {error}", self.repo);
        }
        let mut first = None;
        for part in choose(&self.repo, &files, wanted)? {
            let path = match self.cached_repo.get(&part) {
                // Another process was faster, or an earlier start came this far.
                Some(path) if self.state(&part, &path)? == State::Good => path,
                _ => self.download_file(&api, &repo, &part)?,
            };
            first.get_or_insert(path);
        }
        first.ok_or_else(|| self.failed("an empty list of parts".to_owned()))
    }

    /// The hub did not list its files. What it would have listed is perhaps not needed.
    fn unreachable(&self, wanted: &Wanted, error: ApiError) -> Result<PathBuf, SourceError> {
        let error = self.explain(error);
        if matches!(error, SourceError::Hub { .. })
            && let Ok(parts) = choose(&self.repo, &self.snapshot_files, wanted)
            && let Some(path) = self.cached(&parts)?
        {
            tracing::warn!("{error} Going on with {} from the cache.", path.display());
            return Ok(path);
        }
        Err(error)
    }

    fn download_file(&self, api: &Api, repo: &ApiRepo, part: &str) -> Result<PathBuf, SourceError> {
        let metadata = api
            .metadata(&repo.url(part))
            .map_err(|error| self.explain(error))?;
        // Both come from the server and become file names.
        if !is_plain(metadata.commit_hash())
            || !is_plain(metadata.etag())
            || metadata.etag().contains('/')
        {
            return Err(self.failed(format!("strange names for {part} in its answer")));
        }
        let blob = self.cached_repo.blob_path(metadata.etag());
        let mut pointer = self.cached_repo.pointer_path(metadata.commit_hash());
        pointer.push(part);
        let unfinished = blob.with_extension("part");
        let mut resumed = unfinished.exists();
        loop {
            // The client cannot go on with a part that is complete or too long.
            if std::fs::metadata(&unfinished).is_ok_and(|part| part.len() >= metadata.size() as u64)
            {
                verified::remove(&unfinished)?;
                resumed = false;
            }
            // A link that leads to nothing, or to a broken file, would stand in the new one's way.
            verified::remove(&pointer)?;
            let path = repo
                .download_with_progress(part, HubProgress::new(part))
                .map_err(|error| self.explain(error))?;
            match self.verify(part, &path, &metadata)? {
                None => return Ok(path),
                Some(reason) => {
                    verified::remove(&blob)?;
                    verified::remove(&pointer)?;
                    if !resumed {
                        return Err(SourceError::Corrupt {
                            what: format!("{part} of {}", self.repo),
                            reason,
                        });
                    }
                    tracing::warn!(
                        "what was downloaded of {part} earlier does not fit; beginning anew"
                    );
                    resumed = false;
                }
            }
        }
    }

    /// What is wrong with a file just downloaded.
    fn verify(
        &self,
        part: &str,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<Option<String>, SourceError> {
        let failed = |error| SourceError::io("read", path, error);
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size != metadata.size() as u64 {
            return Ok(Some(format!(
                "it has {size} bytes, not {}",
                metadata.size()
            )));
        }
        if verified::is_sha256(metadata.etag()) {
            let record = self.notes.join(format!("{}.verified", metadata.etag()));
            let state = verified::check(path, &record, Some(size), metadata.etag())?;
            if let State::Broken(reason) = state {
                return Ok(Some(reason));
            }
        }
        if !gguf::has_magic(path).map_err(failed)? {
            return Ok(Some("it does not begin with `GGUF`".to_owned()));
        }
        verified::remember(path, &self.record(part), "");
        Ok(None)
    }

    fn failed(&self, reason: String) -> SourceError {
        SourceError::Hub {
            repo: self.repo.clone(),
            reason,
        }
    }

    fn explain(&self, error: ApiError) -> SourceError {
        let mut error = &error;
        while let ApiError::TooManyRetries(inner) = error {
            error = inner;
        }
        match error {
            ApiError::RequestError(request) => match &**request {
                ureq::Error::StatusCode(status @ (401 | 403 | 404)) => SourceError::HubRefused {
                    repo: self.repo.clone(),
                    status: *status,
                },
                ureq::Error::StatusCode(status) => self.failed(format!("it answers HTTP {status}")),
                // Its connections are its own affair: a company's certificate cannot be handed to it.
                tls if is_tls(tls) => self.failed(format!(
                    "{} (the hub's client trusts the public certificate authorities only; behind a proxy with a \
                     certificate of its own, download the file with another tool and give its path)",
                    explain(tls)
                )),
                other => self.failed(explain(other)),
            },
            other => self.failed(other.to_string()),
        }
    }
}

/// The GGUF files of the cached `main`, by their names in the repository.
fn snapshot_files(cache: &Cache, repo: &str) -> Vec<String> {
    let root = cache
        .path()
        .join(Repo::model(repo.to_owned()).folder_name());
    let Ok(commit) = std::fs::read_to_string(root.join("refs").join("main")) else {
        return Vec::new();
    };
    let snapshot = root.join("snapshots").join(commit.trim());
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(snapshot.join(&directory)) else {
            continue;
        };
        for entry in entries.flatten() {
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

/// One model of a repository: a file, or all parts of a split one.
#[derive(Debug, Clone)]
struct Candidate {
    /// The first part.
    name: String,
    parts: Vec<String>,
}

fn candidates(files: &[String]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for file in files {
        let candidate = match Split::parse(file) {
            Some(split) => Candidate {
                name: split.part(1),
                parts: split.parts().collect(),
            },
            None => Candidate {
                name: file.clone(),
                parts: vec![file.clone()],
            },
        };
        if !found.iter().any(|other| other.name == candidate.name) {
            found.push(candidate);
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files to fetch for what is wanted, the first part first.
fn choose(repo: &str, files: &[String], wanted: &Wanted) -> Result<Vec<String>, SourceError> {
    let all = candidates(files);
    // Beside models there are parts of them (a picture's encoder) and statistics in the same format.
    let models: Vec<Candidate> = all
        .iter()
        .filter(|candidate| {
            let name = base_name(&candidate.name).to_ascii_lowercase();
            !name.starts_with("mmproj") && !name.contains("imatrix.")
        })
        .cloned()
        .collect();
    let matches = match wanted {
        Wanted::File(file) => {
            let exact: Vec<_> = all
                .iter()
                .filter(|candidate| candidate.parts.contains(file))
                .cloned()
                .collect();
            if exact.is_empty() {
                // A file inside a directory, named without it.
                let named = |part: &String| base_name(part) == file;
                all.into_iter()
                    .filter(|candidate| candidate.parts.iter().any(named))
                    .collect()
            } else {
                exact
            }
        }
        Wanted::Quant(quant) => with_quant(&models, quant),
        Wanted::Anything => PREFERRED
            .iter()
            .map(|quant| with_quant(&models, quant))
            .find(|matches| !matches.is_empty())
            .unwrap_or_else(|| models.clone()),
    };
    let available = || models.iter().map(|model| model.name.clone()).collect();
    match matches.as_slice() {
        [] => Err(SourceError::HubNoMatch {
            repo: repo.to_owned(),
            wanted: wanted.to_string(),
            available: available(),
        }),
        [one] => match one.parts.iter().find(|part| !files.contains(part)) {
            Some(missing) => Err(SourceError::HubNoMatch {
                repo: repo.to_owned(),
                wanted: format!("{missing}, a part of {}", one.name),
                available: available(),
            }),
            None => Ok(one.parts.clone()),
        },
        several => Err(SourceError::HubAmbiguous {
            repo: repo.to_owned(),
            wanted: wanted.to_string(),
            available: several.iter().map(|model| model.name.clone()).collect(),
        }),
    }
}

fn with_quant(models: &[Candidate], quant: &str) -> Vec<Candidate> {
    let quant = quant.to_ascii_lowercase();
    let filter = |models: &[Candidate], fits: &dyn Fn(&str) -> bool| -> Vec<Candidate> {
        models
            .iter()
            .filter(|model| fits(&base_name(&model.name).to_ascii_lowercase()))
            .cloned()
            .collect()
    };
    let matches = filter(models, &|name| name.contains(&quant));
    if matches.len() < 2 {
        return matches;
    }
    // F16 is in BF16 too, and Q4_K in Q4_K_M: the one that has it as a word of its own is meant.
    let words = filter(&matches, &|name| {
        let inside = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        name.match_indices(&quant).any(|(at, _)| {
            let bytes = name.as_bytes();
            let before = at.checked_sub(1).and_then(|at| bytes.get(at));
            !inside(before) && !inside(bytes.get(at + quant.len()))
        })
    });
    if words.is_empty() { matches } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_from(files: &[&str], wanted: &Wanted) -> Result<Vec<String>, SourceError> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose("org/repo", &files, wanted)
    }

    #[test]
    fn a_name_is_a_repository_and_perhaps_a_file_or_a_quant() {
        assert_eq!(parse("a/b"), Some(("a/b".to_owned(), Wanted::Anything)));
        assert_eq!(
            parse("a/b:q8_0"),
            Some(("a/b".to_owned(), Wanted::Quant("q8_0".to_owned())))
        );
        assert_eq!(
            parse("a/b:d/m.gguf"),
            Some(("a/b".to_owned(), Wanted::File("d/m.gguf".to_owned())))
        );
        for wrong in [
            "",
            "b",
            "a/b/c",
            "a/b:",
            "../b",
            "a/..",
            "a/b:../m.gguf",
            "a /b",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_a_wish_the_usual_quants_come_first() {
        let choice = |files: &[&str]| choose_from(files, &Wanted::Anything).unwrap();
        assert_eq!(
            choice(&["m-Q8_0.gguf", "m-q4_k_m.gguf", "m-F16.gguf"]),
            ["m-q4_k_m.gguf"]
        );
        assert_eq!(choice(&["m-Q8_0.gguf", "m-F16.gguf"]), ["m-Q8_0.gguf"]);
        assert_eq!(choice(&["m.gguf", "mmproj-m.gguf"]), ["m.gguf"]);
        let error = choose_from(&["m-Q2_K.gguf", "m-F16.gguf"], &Wanted::Anything).unwrap_err();
        assert!(
            matches!(&error, SourceError::HubAmbiguous { available, .. } if available.len() == 2)
        );
        assert!(error.to_string().contains("m-Q2_K.gguf"), "{error}");
        let error = choose_from(&[], &Wanted::Anything).unwrap_err();
        assert!(matches!(error, SourceError::HubNoMatch { .. }));
    }

    #[test]
    fn a_quant_is_looked_for_in_any_case_and_as_a_word_first() {
        let quant =
            |files: &[&str], quant: &str| choose_from(files, &Wanted::Quant(quant.to_owned()));
        let files = [
            "m-BF16.gguf",
            "m-F16.gguf",
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
        ];
        assert_eq!(quant(&files, "f16").unwrap(), ["m-F16.gguf"]);
        assert_eq!(quant(&files, "q4_k_m").unwrap(), ["m-Q4_K_M.gguf"]);
        assert!(matches!(
            quant(&files, "Q4_K"),
            Err(SourceError::HubAmbiguous { .. })
        ));
        let error = quant(&files, "Q5_0").unwrap_err().to_string();
        assert!(
            error.contains("Q5_0") && error.contains("m-BF16.gguf"),
            "{error}"
        );
    }

    #[test]
    fn a_split_model_is_one_and_must_be_complete() {
        let one = "d/m-Q8_0-00001-of-00002.gguf";
        let two = "d/m-Q8_0-00002-of-00002.gguf";
        assert_eq!(
            choose_from(&[two, one], &Wanted::Anything).unwrap(),
            [one, two]
        );
        assert_eq!(
            choose_from(&[two, one], &Wanted::File(two.to_owned())).unwrap(),
            [one, two]
        );
        let named = Wanted::File("m-Q8_0-00001-of-00002.gguf".to_owned());
        assert_eq!(choose_from(&[two, one], &named).unwrap(), [one, two]);
        assert!(matches!(
            choose_from(&[two], &Wanted::Anything),
            Err(SourceError::HubNoMatch { .. })
        ));
    }
}
