//! Who may ask: the name the server is called by, the page that asks, the key, and how much at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use super::AppState;
use super::error::ApiError;
use crate::config;

/// Who asks, and since when.
#[derive(Debug, Clone)]
pub struct Client {
    /// By key if there is one, else by address. Clients take turns at places.
    pub name: Arc<str>,
    pub arrived: Instant,
}

tokio::task_local! {
    /// Who asks, while the request is answered.
    static CLIENT: Arc<str>;
}

/// The name of the client whose request is answered here.
pub fn current_client() -> Arc<str> {
    CLIENT
        .try_with(Arc::clone)
        .unwrap_or_else(|_| "unknown".into())
}

/// How many there are of each name that has a limit: requests that run or wait, connections.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<HashMap<String, usize>>>);

/// Counts until it is dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Counts,
    name: String,
}

impl Counts {
    /// `None`: there are as many already.
    pub fn add(&self, name: String, most: usize) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted {
            counts: self.clone(),
            name,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

/// An answer's body; its request is counted until it is dropped. The length stays known, so that the answer keeps its
/// `Content-Length`.
struct CountedBody {
    body: Body,
    _counted: Vec<Counted>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Lets a request through, or says why not.
pub async fn check(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    match admit(&state, &request) {
        Ok((client, counted)) => {
            let name = Arc::clone(&client.name);
            request.extensions_mut().insert(client);
            let response = CLIENT.scope(name, next.run(request)).await;
            if counted.is_empty() {
                return response;
            }
            // A request lasts until its answer is sent, or its client gone.
            response.map(|body| {
                Body::new(CountedBody {
                    body,
                    _counted: counted,
                })
            })
        }
        Err(error) => error.into_response(),
    }
}

fn admit(state: &AppState, request: &Request) -> Result<(Client, Vec<Counted>), ApiError> {
    let (config, headers) = (&state.config, request.headers());
    let host = host(request.uri(), headers);
    if (state.is_loopback || !config.server.allowed_hosts.is_empty())
        && let Some(host) = host
        && !may_be_called(host, &config.server)
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "This server does not answer to the name {:?} (Host header). Names are allowed by server.allowed_hosts.",
                host.chars().take(100).collect::<String>()
            ),
        )
        .code("host_not_allowed"));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !may_ask(origin, host, &config.server.cors_origins)
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "Web pages of this origin may not use this server. Origins are allowed by server.cors_origins.",
        )
        .code("origin_not_allowed"));
    }
    let keys = &config.server.api_keys;
    let key = if keys.is_empty() || is_open(state, request) {
        None
    } else {
        Some(valid_key(keys, headers)?)
    };
    let address = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or_else(
            || "unknown".to_owned(),
            |info| neighbourhood(info.0.ip()).to_string(),
        );
    let address = format!("address {address}");
    let limits = &config.limits;
    let mut counted = Vec::new();
    if request.method() == Method::POST {
        let bounds = [
            ("key", key.clone(), limits.requests_per_key),
            (
                "address",
                Some(address.clone()),
                limits.requests_per_address,
            ),
        ];
        for (one, name, most) in bounds {
            let Some(name) = name.filter(|_| most > 0) else {
                continue;
            };
            counted.push(state.counts.add(name, most).ok_or_else(|| {
                ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    format!(
                        "Only {} of one {one} may run and wait at once. Try again when one has ended.",
                        super::body::counted(most, "request")
                    ),
                )
                .code("rate_limit_exceeded")
            })?);
        }
    }
    let client = Client {
        name: key.unwrap_or(address).into(),
        arrived: Instant::now(),
    };
    Ok((client, counted))
}

/// The address that stands for all that one host may have: a machine reaches itself by many, and whoever has one address
/// of IPv6 has 2^64 of them.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// The name that the client calls the server by, with its port. HTTP/1.0 need not say.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(|authority| authority.as_str());
    // What is not text is no name of ours.
    let header = || {
        headers
            .get(header::HOST)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    authority.or_else(header)
}

/// A page of another site can be given a name that leads here, but not one of these.
fn may_be_called(host: &str, server: &config::Server) -> bool {
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
        || std::iter::once(&server.host)
            .chain(&server.allowed_hosts)
            .any(|allowed| allowed.eq_ignore_ascii_case(bare) || allowed.eq_ignore_ascii_case(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Browsers say which page asks. The server's own may, and those of the list.
fn may_ask(origin: &HeaderValue, host: Option<&str>, allowed: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let own = origin.split_once("://").map(|(_, host)| host);
    (own.is_some() && own == host)
        || allowed
            .iter()
            .any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
}

/// What browsers ask for before a page of another origin may read an answer; `None` if no other may.
pub fn cors(server: &config::Server) -> Option<CorsLayer> {
    let origins = &server.cors_origins;
    if origins.is_empty() {
        return None;
    }
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            // A wildcard would not cover Authorization.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(Any),
    )
}

/// Whether it is for a route that wants no key.
fn is_open(state: &AppState, request: &Request) -> bool {
    let pattern = super::route(request);
    let mut open = state.routes.iter().filter(|route| route.is_open);
    open.any(|route| route.pattern == pattern)
}

/// With keys set, every route that is not open asks for one of them. What comes back stands for the key, and does not tell
/// it.
fn valid_key(keys: &[String], headers: &HeaderMap) -> Result<String, ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| Sha256::digest(key.trim()));
    let error = match given {
        Some(given) => {
            // All are compared, in constant time, so that the time it takes says nothing about a key.
            let found = keys.iter().enumerate().fold(None, |found, (number, key)| {
                let is_equal = Sha256::digest(key).ct_eq(&given);
                if is_equal.into() { Some(number) } else { found }
            });
            match found {
                Some(number) => return Ok(format!("key {number}")),
                None => "The API key is not one of this server's.",
            }
        }
        None => "This server asks for an API key: send it as `Authorization: Bearer KEY`.",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, error).code("invalid_api_key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_here_and_names_that_do_not() {
        let server = config::Server {
            host: "127.0.0.1".to_owned(),
            allowed_hosts: vec!["candor.example".to_owned(), "other:8080".to_owned()],
            ..config::Config::default().server
        };
        let check = |host: &str, expect: bool| {
            assert_eq!(may_be_called(host, &server), expect, "{host}");
        };
        check("localhost", true);
        check("LocalHost:8000", true);
        check("127.0.0.1:8000", true);
        check("127.8.9.1", true);
        check("[::1]:8000", true);
        check("[::1]", true);
        check("[::ffff:127.0.0.1]", true);
        check("candor.example", true);
        check("Candor.Example:1", true);
        check("other:8080", true);
        check("other:8081", false);
        check("evil.example", false);
        check("localhost.evil.example", false);
        check("evil.example:8000", false);
        check("10.0.0.1", false);
        check("", false);
        check("?", false);
    }

    #[test]
    fn pages_that_may_ask_and_pages_that_may_not() {
        let check = |origin: &'static str, allowed: &[&str], expect: bool| {
            let allowed: Vec<String> = allowed.iter().map(|&one| one.to_owned()).collect();
            let origin = HeaderValue::from_static(origin);
            assert_eq!(
                may_ask(&origin, Some("localhost:8000"), &allowed),
                expect,
                "{origin:?}"
            );
        };
        check("http://localhost:8000", &[], true);
        check("http://localhost:3000", &[], false);
        check("https://a.example", &[], false);
        check("https://a.example", &["https://a.example"], true);
        check("https://b.example", &["https://a.example"], false);
        check("null", &[], false);
        check("null", &["*"], true);
    }

    #[test]
    fn a_host_has_one_address() {
        let check = |address: &str, expect: &str| {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(neighbourhood(parse(address)), parse(expect));
        };
        check("127.0.0.1", "127.0.0.1");
        check("127.9.9.9", "127.0.0.1");
        check("::1", "127.0.0.1");
        check("::ffff:10.0.0.7", "10.0.0.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }

    #[test]
    fn counts_are_bounded_and_given_back() {
        let counts = Counts::default();
        let first = counts.add("a".to_owned(), 1).expect("room");
        assert!(counts.add("a".to_owned(), 1).is_none());
        assert!(counts.add("b".to_owned(), 1).is_some());
        drop(first);
        assert!(counts.add("a".to_owned(), 1).is_some());
        assert!(counts.0.lock().expect("not poisoned").is_empty());
    }
}
