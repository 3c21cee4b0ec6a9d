//! Downloads over HTTP that go on where they were cut off.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, ResponseExt};

use super::progress::Progress;
use super::{Environment, SourceError, verified};
use crate::http_client;

/// How often a download that is cut off in its middle is taken up again before giving up.
const TRIES: u32 = 5;
/// A page of an index may be large (all releases of a package), but not without end.
const PAGE_BYTES: u64 = 64 << 20;

/// An HTTP client with the certificates and proxies that the environment asks for.
pub(super) struct Client {
    /// One for each set of certificates to trust, tried in turn: a machine's own store may lack the public
    /// authorities (a bare container), and the public ones lack a company's.
    agents: Vec<Agent>,
}

impl Client {
    pub(super) fn new(environment: &Environment) -> Result<Self, SourceError> {
        let roots = match &environment.certificates {
            Some(path) => vec![read_certificates(path)?],
            None => vec![RootCerts::PlatformVerifier, RootCerts::WebPki],
        };
        let agents = roots
            .into_iter()
            .map(|roots| {
                let tls = TlsConfig::builder().root_certs(roots).build();
                let mut config = http_client::client(tls)
                    // A compressed answer could not be resumed by its offset.
                    .accept_encoding("identity")
                    .timeout_connect(Some(Duration::from_secs(30)))
                    .timeout_recv_response(Some(Duration::from_secs(60)))
                    // Of each read, not of the whole: a slow line may take its time, a dead one may not.
                    .timeout_per_read(Some(Duration::from_secs(60)));
                if !environment.proxies {
                    config = config.proxy(None);
                }
                config.build().new_agent()
            })
            .collect();
        Ok(Self { agents })
    }

    fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, ureq::Error> {
        let mut last = ureq::Error::ConnectionFailed;
        for agent in &self.agents {
            let mut request = agent.get(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            match request.call() {
                Err(error) if is_tls(&error) => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    /// A page's text and the address it came from after redirections; `None` if there is no such page.
    pub(super) fn page(
        &self,
        url: &str,
        what: &str,
    ) -> Result<Option<(String, String)>, SourceError> {
        let failed = |reason: String| SourceError::Download {
            what: what.to_owned(),
            url: redact(url),
            reason,
        };
        let mut response = self
            .get(url, &[("accept", "text/html")])
            .map_err(|error| failed(explain(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(failed(format!("the server answers {status}"))),
        }
        let from = response.get_uri().to_string();
        let text = response
            .body_mut()
            .with_config()
            .limit(PAGE_BYTES)
            .read_to_string()
            .map_err(|error| failed(explain(&error)))?;
        Ok(Some((text, from)))
    }

    /// Downloads into `part`, after what is there already.
    pub(super) fn download(&self, url: &str, part: &Path, what: &str) -> Result<(), SourceError> {
        let mut tries = 0;
        loop {
            match self.download_once(url, part, what) {
                Ok(()) => return Ok(()),
                Err(Failed::CutOff(reason)) if tries + 1 < TRIES => {
                    tries += 1;
                    tracing::warn!(
                        "the download of {what} was cut off ({reason}); going on with it"
                    );
                    std::thread::sleep(Duration::from_millis(250) * tries);
                }
                Err(Failed::CutOff(reason) | Failed::Refused(reason)) => {
                    return Err(SourceError::Download {
                        what: what.to_owned(),
                        url: redact(url),
                        reason,
                    });
                }
                Err(Failed::Disk(error)) => return Err(error),
            }
        }
    }

    fn download_once(&self, url: &str, part: &Path, what: &str) -> Result<(), Failed> {
        let disk = |error| Failed::Disk(SourceError::io("write", part, error));
        let refused = |error: ureq::Error| Failed::Refused(explain(&error));
        let mut have = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
        let mut response = if have > 0 {
            self.get(url, &[("range", &format!("bytes={have}-"))])
        } else {
            self.get(url, &[])
        }
        .map_err(refused)?;
        let usable = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response) == Some(have),
            // Nothing comes after what we have: it is whole (the caller's hash would have told) or too long.
            StatusCode::RANGE_NOT_SATISFIABLE => false,
            StatusCode::OK => true,
            status => return Err(Failed::Refused(format!("the server answers {status}"))),
        };
        if !usable {
            verified::remove(part).map_err(Failed::Disk)?;
            response = self.get(url, &[]).map_err(refused)?;
            if response.status() != StatusCode::OK {
                return Err(Failed::Refused(format!(
                    "the server answers {}",
                    response.status()
                )));
            }
        }
        let mut file = if response.status() == StatusCode::PARTIAL_CONTENT {
            OpenOptions::new().append(true).open(part).map_err(disk)?
        } else {
            // The server sends it from the beginning, asked for a range or not.
            have = 0;
            File::create(part).map_err(disk)?
        };
        let total = response.body().content_length().map(|rest| have + rest);
        let progress = Progress::begin("downloading", "downloaded", what, total, have);
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0; 128 << 10];
        let mut received = 0;
        // A cut in the middle is worth another try; a server that gives nothing at all is not.
        let cut = |reason: String, received: u64| match received {
            0 => Failed::Refused(reason),
            _ => Failed::CutOff(reason),
        };
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cut(error.to_string(), received)),
            };
            file.write_all(&buffer[..read]).map_err(disk)?;
            received += read as u64;
            progress.add(read as u64);
        }
        if let Some(total) = total
            && have + received != total
        {
            return Err(cut(
                format!("{} of {total} bytes came", have + received),
                received,
            ));
        }
        progress.finish();
        Ok(())
    }
}

enum Failed {
    CutOff(String),
    Refused(String),
    Disk(SourceError),
}

/// The N of `content-range: bytes N-M/TOTAL`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    range
        .trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split('-')
        .next()?
        .parse()
        .ok()
}

pub(super) fn is_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        // What rustls finds wrong with a certificate comes out of its handshake in this dress.
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// ureq's own words name the kind of error first, which helps nobody here.
pub(super) fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the host's name is not known (no network?)".to_owned(),
        other => other.to_string(),
    }
}

fn read_certificates(path: &Path) -> Result<RootCerts, SourceError> {
    let failed = |reason: String| SourceError::Certificates {
        path: path.display().to_string(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(failed("it holds none".to_owned()));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// An address without the name and password that an index's may hold.
pub(super) fn redact(url: &str) -> String {
    match Parts::of(url) {
        Some(parts) => format!("{}://{}{}", parts.scheme, parts.host, parts.path),
        None => url.to_owned(),
    }
}

/// The pieces of an absolute address that joining needs.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Some(Self {
            scheme,
            user,
            host,
            path,
        })
    }
}

/// The address that `href` means on the page at `base`. A name and password in `base` go along to the same host, as
/// indexes that ask for them mean it.
pub(super) fn join(base: &str, href: &str) -> Option<String> {
    let base = Parts::of(base)?;
    let absolute;
    let target = if href.contains("://") {
        Parts::of(href)?
    } else {
        absolute = if let Some(rest) = href.strip_prefix("//") {
            format!("{}://{rest}", base.scheme)
        } else {
            let page = base.path.split('?').next().unwrap_or_default();
            let directory = &page[..page.rfind('/').map_or(0, |slash| slash + 1)];
            let (href, query) = href.split_at(href.find('?').unwrap_or(href.len()));
            let path = if href.starts_with('/') {
                href.to_owned()
            } else {
                format!("{directory}{href}")
            };
            let mut kept: Vec<&str> = Vec::new();
            for segment in path.split('/').skip(usize::from(path.starts_with('/'))) {
                match segment {
                    "." => {}
                    ".." => {
                        kept.pop();
                    }
                    other => kept.push(other),
                }
            }
            format!("{}://{}/{}{query}", base.scheme, base.host, kept.join("/"))
        };
        Parts::of(&absolute)?
    };
    let user = target
        .user
        .or(base.user.filter(|_| {
            base.host.eq_ignore_ascii_case(target.host)
                && base.scheme.eq_ignore_ascii_case(target.scheme)
        }))
        .map_or_else(String::new, |user| format!("{user}@"));
    Some(format!(
        "{}://{user}{}{}",
        target.scheme, target.host, target.path
    ))
}
