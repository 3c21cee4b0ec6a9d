//! A server, asked over HTTP.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::Value;
use ureq::http::{HeaderMap, Response};
use ureq::{Body, Timeout};

use crate::config::cli::MOST_CONCURRENT;
use crate::http_client;

/// Headers with a hash of how the prompt begins, by which a router can send equal beginnings to one server: the first name is
/// vllm-router's, the second sglang-router's. Other routers can be configured to hash either.
const GROUP_HEADERS: [&str; 2] = ["x-session-id", "x-smg-routing-key"];

/// The code of Candor's 503 for a request whose worker ended while it ran.
const WORKER_DOWN: &str = "worker_down";

/// A server and how to reach it.
pub struct Server {
    /// Without a slash at its end.
    pub url: String,
    key: Option<String>,
    agent: ureq::Agent,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Empty if the server gave none.
    pub request_id: String,
    pub bits_class: Option<String>,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// No answer, or not all of it.
#[derive(Debug)]
pub struct Broken {
    pub why: String,
    pub cause: Cause,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server has not seen the request.
    NotReached,
    /// This process may open no more connections.
    NoFiles,
    /// The connection ended after the request was sent, or what came is no answer.
    Ended,
    /// The time limit.
    Late,
}

/// What an answer means for its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The line is answered, perhaps with an error that would come again.
    Final,
    /// The server has too much to do.
    Busy,
    /// Something failed that may work the next time.
    Failed,
    /// The part of the server that ran the request has ended; perhaps because of it.
    WorkerDown,
    /// The server would refuse every line.
    Denied,
}

impl Server {
    /// `timeout` is the time limit for a whole answer.
    pub fn new(url: &str, key: Option<String>, timeout: Duration) -> Self {
        /// Time to resolve the name and to connect.
        const CONNECT: Duration = Duration::from_secs(10);
        let agent = http_client::for_candor(true)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(timeout))
            .max_idle_connections(MOST_CONCURRENT)
            .max_idle_connections_per_host(MOST_CONCURRENT)
            // A redirect is an answer like others: it cannot be followed with a body.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .new_agent();
        Self {
            url: url.trim_end_matches('/').to_owned(),
            key,
            agent,
        }
    }

    /// Asks about the server itself, which needs no long wait.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Reply, Broken> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let request = self.agent.get(format!("{}{path}", self.url));
        let request = request.query_pairs(query.iter().copied());
        let request = request.config().timeout_global(Some(TIMEOUT)).build();
        read(self.with_key(request).call())
    }

    pub fn post(&self, path: &str, body: &Value, group: Option<u32>) -> Result<Reply, Broken> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let mut request = request.header("content-type", "application/json");
        if let Some(group) = group {
            for name in GROUP_HEADERS {
                request = request.header(name, format!("{group:08x}"));
            }
        }
        read(self.with_key(request).send(body.to_string().as_bytes()))
    }

    fn with_key<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }
}

impl Reply {
    pub fn meaning(&self) -> Meaning {
        match self.status {
            503 if self.json().unwrap_or_default()["error"]["code"] == WORKER_DOWN => {
                Meaning::WorkerDown
            }
            429 | 503 => Meaning::Busy,
            // 408: the server did not get the body in time.
            408 | 500 => Meaning::Failed,
            401 | 403 => Meaning::Denied,
            _ => Meaning::Final,
        }
    }

    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The status with the message of the error.
    pub fn message(&self) -> String {
        /// Of a page that a router made.
        const MOST_CHARACTERS: usize = 200;
        let json = self.json().unwrap_or_default();
        let message = match json["error"]["message"].as_str() {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body)
                .chars()
                .take(MOST_CHARACTERS)
                .collect(),
        };
        format!("{} {}", self.status, message.trim())
    }
}

fn read(answer: Result<Response<Body>, ureq::Error>) -> Result<Reply, Broken> {
    let mut answer = answer.map_err(broken)?;
    // Answers with many log-probabilities are large.
    let body = answer.body_mut().with_config().limit(u64::MAX);
    let body = body.read_to_vec().map_err(broken)?;
    let headers = answer.headers();
    Ok(Reply {
        status: answer.status().as_u16(),
        request_id: text(headers, "x-request-id").unwrap_or_default(),
        bits_class: text(headers, "x-candor-bits-class"),
        retry_after: text(headers, "retry-after").and_then(|value| delay(&value, Timestamp::now())),
        body,
    })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The value of `Retry-After`: seconds, or a date.
fn delay(value: &str, now: Timestamp) -> Option<Duration> {
    /// A server that asks for more is not to be used again.
    const MOST: Duration = Duration::from_secs(24 * 60 * 60);
    let delay = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::DateTimeParser::new().parse_timestamp(value.trim());
            // A date in the past is no wait.
            Duration::try_from(date.ok()?.duration_since(now)).unwrap_or_default()
        }
    };
    Some(delay.min(MOST))
}

fn broken(error: ureq::Error) -> Broken {
    Broken {
        why: error.to_string(),
        cause: cause(&error),
    }
}

fn cause(error: &ureq::Error) -> Cause {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, NotConnected, Other, TimedOut,
        UnexpectedEof,
    };
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed => Cause::NotReached,
        ureq::Error::Timeout(_) => Cause::Late,
        ureq::Error::Io(error) => match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | NotConnected
            | Other | TimedOut | UnexpectedEof => Cause::Ended,
            _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                Cause::NoFiles
            }
            // No such name, no route, nobody listens: there was no connection yet.
            _ => Cause::NotReached,
        },
        _ => Cause::Ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_means() {
        let reply = |status: u16| Reply {
            status,
            request_id: String::new(),
            bits_class: None,
            retry_after: None,
            body: Vec::new(),
        };
        let check = |status: u16, expect: Meaning| {
            assert_eq!(reply(status).meaning(), expect, "{status}");
        };
        for status in [200, 301, 400, 404, 413, 415, 422, 501] {
            check(status, Meaning::Final);
        }
        for status in [429, 503] {
            check(status, Meaning::Busy);
        }
        for status in [408, 500] {
            check(status, Meaning::Failed);
        }
        check(401, Meaning::Denied);
        let down = |status: u16, code: &str| {
            let reply = Reply {
                body: format!(r#"{{"error": {{"code": "{code}"}}}}"#).into(),
                ..reply(status)
            };
            reply.meaning()
        };
        assert_eq!(down(503, "worker_down"), Meaning::WorkerDown);
        assert_eq!(down(503, "server_unavailable"), Meaning::Busy);
        assert_eq!(down(400, "worker_down"), Meaning::Final);
    }

    #[test]
    fn only_what_may_have_reached_the_server_counts_against_a_line() {
        let check = |error: ureq::Error, expect: Cause| {
            assert_eq!(cause(&error), expect, "{error}");
        };
        let io = |number: i32| ureq::Error::Io(io::Error::from_raw_os_error(number));
        check(io(libc::ECONNREFUSED), Cause::NotReached);
        check(io(libc::ENETUNREACH), Cause::NotReached);
        check(io(libc::ECONNRESET), Cause::Ended);
        check(io(libc::EPIPE), Cause::Ended);
        check(io(libc::EMFILE), Cause::NoFiles);
        check(ureq::Error::Timeout(Timeout::Connect), Cause::NotReached);
        check(ureq::Error::Timeout(Timeout::Global), Cause::Late);
        // As the system says it, of a name that is too long: the name server may be away for a while.
        let unknown = std::net::ToSocketAddrs::to_socket_addrs(&("x".repeat(300), 80));
        check(ureq::Error::Io(unknown.unwrap_err()), Cause::NotReached);
        let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "Peer disconnected");
        check(ureq::Error::Io(cut), Cause::Ended);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |value: &str, expect: Option<u64>| {
            assert_eq!(
                delay(value, now),
                expect.map(Duration::from_secs),
                "{value}"
            );
        };
        check("1", Some(1));
        check(" 120 ", Some(120));
        check("0", Some(0));
        check("18446744073709551615", Some(86400));
        check("Thu, 01 Jan 2026 00:00:07 GMT", Some(7));
        check("Wed, 31 Dec 2025 23:59:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }
}
