//! The HTTP client of downloads, which resume where they were cut off.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::header::{self, HeaderMap, HeaderName};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::environment::Environment;
use super::error::SourceError;
use super::progress::Progress;
use super::{url, verified};
use crate::http_client;

/// How often an interrupted download is resumed.
const RETRIES: u32 = 4;
/// The pause before the first of them; later ones are longer.
const PAUSE: Duration = Duration::from_millis(500);
/// Limit for pages and lists, which may be large: an index lists all releases of a package.
const PAGE_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: usize = 10;

/// Why a request or a download failed.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The server answered with this status.
    Status(StatusCode),
    /// There was no answer, or an unusable one.
    Failed(String),
    /// A file could not be written.
    File(SourceError),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answered {status}"),
            Self::Failed(reason) => f.write_str(reason),
            Self::File(error) => error.fmt(f),
        }
    }
}

impl FetchError {
    /// The error itself if it is the file system's, else what `explain` makes of its text.
    pub(super) fn into_source_error(
        self,
        explain: impl FnOnce(String) -> SourceError,
    ) -> SourceError {
        match self {
            Self::File(error) => error,
            other => explain(other.to_string()),
        }
    }
}

impl From<ureq::Error> for FetchError {
    /// ureq's own text begins with the kind of error, which does not help the user.
    fn from(error: ureq::Error) -> Self {
        Self::Failed(match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::HostNotFound => "unknown host name (no network?)".to_owned(),
            other => other.to_string(),
        })
    }
}

/// An HTTP client with the certificates and proxies of the environment.
pub(super) struct Client {
    /// One for each set of trusted certificates, tried in turn: a machine's own store may lack the public authorities
    /// (a minimal container), and the public ones lack a company's.
    agents: Vec<Agent>,
    /// Sent to the server of the request only, not to others that it redirects to.
    token: Option<String>,
}

/// An answer without an error status.
struct Answer {
    response: Response<Body>,
    /// The address after redirections.
    url: String,
}

impl Client {
    pub(super) fn new(environment: &Environment) -> Result<Self, SourceError> {
        Self::with_timeout(environment, None)
    }

    /// A client whose requests take no longer than `timeout`.
    pub(super) fn with_timeout(
        environment: &Environment,
        timeout: Option<Duration>,
    ) -> Result<Self, SourceError> {
        let roots = match &environment.certificates {
            Some(path) => vec![read_certificates(path)?],
            None => vec![RootCerts::PlatformVerifier, RootCerts::WebPki],
        };
        let agents = roots.into_iter().map(|roots| {
            let tls = TlsConfig::builder().root_certs(roots).build();
            let mut config = http_client::client(tls)
                // A compressed answer could not be resumed by its offset.
                .accept_encoding("identity")
                // `send` follows them: ureq would send the token to another port of the same host.
                .max_redirects(0)
                .timeout_global(timeout)
                .timeout_connect(Some(Duration::from_secs(30)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                // For each read, not for the whole: a slow connection may take its time, a dead one may not.
                .timeout_per_read(Some(Duration::from_secs(60)));
            if !environment.proxies {
                config = config.proxy(None);
            }
            config.build().new_agent()
        });
        Ok(Self {
            agents: agents.collect(),
            token: None,
        })
    }

    /// Authorizes requests with this token.
    pub(super) fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Sends a request, and follows redirections as long as `follows` says so of their target.
    fn send(
        &self,
        method: &Method,
        address: &str,
        headers: &[(HeaderName, &str)],
        follows: impl Fn(&str) -> bool,
    ) -> Result<Answer, FetchError> {
        let mut target = address.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let shares = url::may_share_secrets(address, &target);
            let token = self.token.as_deref().filter(|_| shares);
            let response = self.send_once(method, &target, headers, token)?;
            let status = response.status();
            if status.is_client_error() || status.is_server_error() {
                return Err(FetchError::Status(status));
            }
            let location = text(response.headers(), &header::LOCATION);
            let location = location.filter(|_| status.is_redirection());
            let next = location.and_then(|location| url::join(&target, location));
            match next.filter(|next| follows(next)) {
                Some(next) => target = next,
                None => {
                    return Ok(Answer {
                        response,
                        url: target,
                    });
                }
            }
        }
        Err(FetchError::Failed("too many redirections".to_owned()))
    }

    fn send_once(
        &self,
        method: &Method,
        url: &str,
        headers: &[(HeaderName, &str)],
        token: Option<&str>,
    ) -> Result<Response<Body>, FetchError> {
        let mut last = ureq::Error::ConnectionFailed;
        for agent in &self.agents {
            let mut request = Request::builder().method(method).uri(url);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(ureq::Error::from)?;
            match agent.run(request) {
                Err(error) if is_tls(&error) => last = error,
                result => return result.map_err(FetchError::from),
            }
        }
        Err(last.into())
    }

    /// Sends a GET request, and follows all redirections.
    fn get(&self, url: &str, headers: &[(HeaderName, &str)]) -> Result<Answer, FetchError> {
        self.send(&Method::GET, url, headers, |_| true)
    }

    /// The headers of the answer to a HEAD request. Follows redirections on the same server only: one to another server
    /// (a content delivery network) says itself what is there.
    pub(super) fn head(&self, address: &str) -> Result<HeaderMap, FetchError> {
        let stays = |next: &str| url::may_share_secrets(address, next);
        let answer = self.send(&Method::HEAD, address, &[], stays)?;
        Ok(answer.response.into_parts().0.headers)
    }

    /// A text, and the address it came from after redirections.
    pub(super) fn text(&self, url: &str, accept: &str) -> Result<(String, String), FetchError> {
        let mut answer = self.get(url, &[(header::ACCEPT, accept)])?;
        if answer.response.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.response.status()));
        }
        let body = answer.response.body_mut().with_config();
        let text = body.limit(PAGE_BYTES).read_to_string()?;
        Ok((text, answer.url))
    }

    /// Downloads into `part`, resuming after what it holds already. Tries again what may pass: a cut, a busy server, and,
    /// once something has arrived, a lost connection.
    pub(super) fn download(&self, url: &str, part: &Path, what: &str) -> Result<(), FetchError> {
        let mut retries = 0;
        loop {
            let (error, may_pass) = match self.download_once(url, part, what) {
                Ok(()) => return Ok(()),
                Err(Interrupted::CutOff(reason)) => (FetchError::Failed(reason), true),
                Err(Interrupted::Failed(error)) => {
                    let may_pass = match &error {
                        FetchError::Status(status) => {
                            *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
                        }
                        FetchError::Failed(_) => retries > 0,
                        FetchError::File(_) => false,
                    };
                    (error, may_pass)
                }
            };
            if !may_pass || retries == RETRIES {
                return Err(error);
            }
            retries += 1;
            tracing::warn!("the download of {what} was interrupted ({error}); resuming it");
            std::thread::sleep(PAUSE * retries);
        }
    }

    fn download_once(&self, url: &str, part: &Path, what: &str) -> Result<(), Interrupted> {
        let write_error = |error| FetchError::File(SourceError::io("write", part, error));
        let (mut response, have) = self.rest_of(url, part)?;
        let mut file = if have > 0 {
            OpenOptions::new().append(true).open(part)
        } else {
            File::create(part)
        }
        .map_err(write_error)?;
        let total = response.body().content_length().map(|rest| have + rest);
        let progress = Progress::begin("downloading", "downloaded", what, total, have);
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0; 128 << 10];
        let mut received = 0;
        // A connection that ends in the middle is worth a retry; a server that sends nothing at all is not.
        let interrupted = |reason: String, received: u64| match received {
            0 => Interrupted::Failed(FetchError::Failed(reason)),
            _ => Interrupted::CutOff(reason),
        };
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(interrupted(error.to_string(), received)),
            };
            file.write_all(&buffer[..read]).map_err(write_error)?;
            received += read as u64;
            progress.add(read as u64);
        }
        if let Some(total) = total
            && have + received != total
        {
            let reason = format!("{} of {total} bytes received", have + received);
            return Err(interrupted(reason, received));
        }
        progress.finish();
        Ok(())
    }

    /// Asks for what `part` lacks. Returns the answer, and how many bytes of `part` it continues.
    fn rest_of(&self, url: &str, part: &Path) -> Result<(Response<Body>, u64), FetchError> {
        let have = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
        if have > 0 {
            let range = format!("bytes={have}-");
            match self.get(url, &[(header::RANGE, &range)]) {
                Ok(Answer { response, .. }) => match response.status() {
                    StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => {
                        return Ok((response, have));
                    }
                    // A server without ranges sends the whole file.
                    StatusCode::OK => return Ok((response, 0)),
                    _ => {}
                },
                // There is nothing after what we have. The caller would have taken it if it were whole, so it is wrong.
                Err(FetchError::Status(StatusCode::RANGE_NOT_SATISFIABLE)) => {}
                Err(error) => return Err(error),
            }
            verified::remove(part).map_err(FetchError::File)?;
        }
        let response = self.get(url, &[])?.response;
        match response.status() {
            StatusCode::OK => Ok((response, 0)),
            status => Err(FetchError::Status(status)),
        }
    }
}

/// How a download ended early.
enum Interrupted {
    /// In the middle.
    CutOff(String),
    Failed(FetchError),
}

impl From<FetchError> for Interrupted {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

/// A header's value.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The N of `content-range: bytes N-M/TOTAL`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = text(response.headers(), &header::CONTENT_RANGE)?.trim();
    let range = range.strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.parse().ok()
}

fn is_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        // rustls reports a certificate that it does not trust like this.
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
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
        return Err(failed("it contains none".to_owned()));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}
