//! Request logs: each line has the request's id, and the last one says how the request ended. No line contains any of its
//! content but the names of unknown fields, if those are ignored.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Span};

use super::ids::new_id;
use super::route;
use super::wrapped_body::{BodyHooks, PolledFrame, WrappedBody};
use crate::engine::Tally;

/// The header with the request's id, in requests and answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client: every log line repeats it.
const MOST_ID_BYTES: usize = 128;

/// Gives a request its id and its span, and logs its end.
pub async fn trace(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(acceptable)
        .map_or_else(|| new_id("req"), str::to_owned);
    let route = route::pattern(&request);
    let span = span(&id, request.method(), route);
    #[cfg(feature = "otel")]
    crate::otel::join(&span, request.headers());
    let mut end = End {
        span: span.clone(),
        arrived: Instant::now(),
        tally: Arc::default(),
        is_probe: matches!(route, "/health" | "/metrics"),
        has_body: request.method() != Method::HEAD,
        status: None,
        is_complete: false,
    };
    let answer = end.tally.of(next.run(request));
    let mut response = answer.instrument(span).await;
    end.status = Some(response.status());
    #[cfg(feature = "otel")]
    crate::otel::answered(&end.span, response.status());
    // Every id is valid in a header.
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| WrappedBody::wrap(body, end))
}

/// At the highest level, so that every line that is logged has its request.
#[cfg(not(feature = "otel"))]
fn span(id: &str, method: &Method, route: &str) -> Span {
    tracing::error_span!("request", request_id = id, %method, route)
}

/// Likewise, with the attributes that trace collectors read.
#[cfg(feature = "otel")]
fn span(id: &str, method: &Method, route: &str) -> Span {
    tracing::error_span!(
        "request",
        request_id = id,
        http.request.method = %method,
        http.route = route,
        otel.kind = "server",
        otel.name = format!("{method} {route}"),
    )
}

/// A client's id, if it is short and visible ASCII.
fn acceptable(id: &HeaderValue) -> Option<&str> {
    let id = id.to_str().ok()?;
    let fine = (1..=MOST_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    fine.then_some(id)
}

/// Logs the end of a request when it is dropped.
struct End {
    span: Span,
    arrived: Instant,
    tally: Arc<Tally>,
    /// Whether monitoring polls this route.
    is_probe: bool,
    has_body: bool,
    /// `None` until there is an answer.
    status: Option<StatusCode>,
    /// Whether the answer was sent to its end.
    is_complete: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let _inside = self.span.enter();
        let duration_ms = self.arrived.elapsed().as_micros() as f64 / 1000.0;
        let status = self.status.map(|status| status.as_u16());
        let (prompt_tokens, generated_tokens) = self.tally.read().unzip();
        #[cfg(feature = "otel")]
        if let Some((prompt, generated)) = self.tally.read() {
            crate::otel::tokens(&self.span, prompt, generated);
        }
        if self.is_probe && self.is_complete {
            return tracing::debug!(status, duration_ms, "answered");
        }
        let how = if self.is_complete {
            "answered"
        } else {
            "the client disconnected"
        };
        tracing::info!(
            status,
            duration_ms,
            prompt_tokens,
            generated_tokens,
            "{how}"
        );
    }
}

impl BodyHooks for End {
    /// Logs what happens in the meantime as part of this request.
    fn poll(&mut self, poll: impl FnOnce() -> PolledFrame) -> PolledFrame {
        let span = self.span.clone();
        let polled = span.in_scope(poll);
        self.is_complete |= matches!(polled, Poll::Ready(None));
        polled
    }

    /// A body need not be polled once more after its last frame.
    fn dropped(&mut self, body: Body) {
        self.is_complete |= body.is_end_stream() || !self.has_body;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_refused_ids() {
        let check = |id: &[u8], expect: bool| {
            let id = HeaderValue::from_bytes(id).expect("a header");
            assert_eq!(acceptable(&id).is_some(), expect, "{id:?}");
        };
        check(b"a", true);
        check(b"7f3c2b6e-1d2f-4c11-9d59-0f4a2f0f7c11", true);
        check(b"Root=1-67891233-abcdef012345678912345678;a/b", true);
        check(&[b'x'; MOST_ID_BYTES], true);
        check(&[b'x'; MOST_ID_BYTES + 1], false);
        check(b"", false);
        check(b"two words", false);
        check(b"a\tb", false);
        check("größe".as_bytes(), false);
        check(b"\x80", false);
    }

    #[test]
    fn new_ids_are_unique_and_acceptable() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| new_id("req")).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let header = HeaderValue::from_str(&id).expect("a header");
            assert_eq!(acceptable(&header), Some(id.as_str()));
        }
    }
}
