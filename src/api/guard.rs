//! Who may use the server: the host name it is addressed by, the origin of a web page, the API key, and how many requests a
//! client has at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use super::client::{Client, neighbourhood};
use super::counts::Counted;
use super::error::ApiError;
use super::route;
use super::state::AppState;
use super::wording;
use super::wrapped_body::{BodyHooks, WrappedBody};
use crate::config;

/// Lets a request through, or says why not.
pub async fn check(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let (client, counted) = match admit(&state, &request) {
        Ok(admitted) => admitted,
        Err(error) => return error.into_response(),
    };
    let name = Arc::clone(&client.name);
    request.extensions_mut().insert(client);
    let response = Client::scope(name, next.run(request)).await;
    if counted.is_empty() {
        return response;
    }
    // A request counts until its answer is sent or its client is gone.
    response.map(|body| WrappedBody::wrap(body, counted))
}

impl BodyHooks for Vec<Counted> {}

fn admit(state: &AppState, request: &Request) -> Result<(Client, Vec<Counted>), ApiError> {
    check_host_and_origin(state, request)?;
    let keys = &state.config.server.api_keys;
    let key = if keys.is_empty() || is_open(state, request) {
        None
    } else {
        Some(valid_key(keys, request.headers())?)
    };
    let address = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or_else(
            || "unknown".to_owned(),
            |info| neighbourhood(info.0.ip()).to_string(),
        );
    let address = format!("address {address}");
    let counted = if request.method() == Method::POST {
        count(state, key.as_ref(), &address)?
    } else {
        Vec::new()
    };
    let client = Client {
        name: key.unwrap_or(address).into(),
        arrived: Instant::now(),
    };
    Ok((client, counted))
}

fn check_host_and_origin(state: &AppState, request: &Request) -> Result<(), ApiError> {
    let (server, headers) = (&state.config.server, request.headers());
    let host = host(request.uri(), headers);
    if (state.is_loopback || !server.allowed_hosts.is_empty())
        && let Some(host) = host
        && !may_be_called(host, server)
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "This server does not answer to the name {:?} in the Host header. `server.allowed_hosts` lists allowed \
                 names.",
                host.chars().take(100).collect::<String>()
            ),
        )
        .code("host_not_allowed"));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !may_ask(origin, host, &server.cors_origins)
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "Web pages from this origin may not use this server. `server.cors_origins` lists allowed origins.",
        )
        .code("origin_not_allowed"));
    }
    Ok(())
}

/// Counts a request of this key and address; 429 if either has too many.
fn count(
    state: &AppState,
    key: Option<&String>,
    address: &String,
) -> Result<Vec<Counted>, ApiError> {
    let limits = &state.config.limits;
    let bounds = [
        ("key", key, limits.requests_per_key),
        ("address", Some(address), limits.requests_per_address),
    ];
    let mut counted = Vec::new();
    for (one, name, most) in bounds {
        let Some(name) = name.filter(|_| most > 0) else {
            continue;
        };
        counted.push(state.counts.add(name.clone(), most).ok_or_else(|| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!(
                    "One {one} may have at most {} running or waiting at once. Try again when one has ended.",
                    wording::counted(most, "request")
                ),
            )
            .code("rate_limit_exceeded")
        })?);
    }
    Ok(counted)
}

/// The name that the client calls the server by, with its port. HTTP/1.0 may leave it out.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(|authority| authority.as_str());
    // A name that is not text is never allowed.
    let header = || {
        headers
            .get(header::HOST)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    authority.or_else(header)
}

/// Whether the server answers to this name. DNS rebinding can point a name of another site here, but none of these.
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

/// Whether a page of this origin may send requests: the server's own pages may, and those of the listed origins.
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

/// CORS, by which browsers let pages of other origins read answers; `None` if no other origin is allowed.
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

/// Whether the request is for a route that needs no key.
fn is_open(state: &AppState, request: &Request) -> bool {
    let pattern = route::pattern(request);
    let mut open = state.routes.iter().filter(|route| route.is_open);
    open.any(|route| route.pattern == pattern)
}

/// Checks the request's API key; the answer is a name for the key that does not reveal it.
fn valid_key(keys: &[String], headers: &HeaderMap) -> Result<String, ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| Sha256::digest(key.trim()));
    let error = match given {
        Some(given) => {
            // Digests of all keys are compared, in constant time, so that the time taken reveals nothing about a key.
            let found = keys.iter().enumerate().fold(None, |found, (number, key)| {
                let is_equal = Sha256::digest(key).ct_eq(&given);
                if is_equal.into() { Some(number) } else { found }
            });
            match found {
                Some(number) => return Ok(format!("key {number}")),
                None => "The API key is wrong.",
            }
        }
        None => "This server needs an API key. Send it as `Authorization: Bearer KEY`.",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, error).code("invalid_api_key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_and_refused_hosts() {
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
    fn allowed_and_refused_origins() {
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
}
