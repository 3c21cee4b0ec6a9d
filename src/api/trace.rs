//! What is logged of a request: each of its lines carries the request's id, by which its sender can ask for it, and one
//! at its end says how it went. Nothing of what was said stands in them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tracing::{Instrument, Span};

use crate::engine::Tally;
use crate::random;

/// The header by which a request's id comes and goes.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Of a client's own id, which is repeated in every line.
const MOST_ID_BYTES: usize = 128;

/// Gives a request its id, and what is logged of it the span; tells when it is over.
pub async fn trace(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(acceptable)
        .map_or_else(made, str::to_owned);
    let route = super::route(&request);
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
        is_whole: false,
    };
    let answer = end.tally.of(next.run(request));
    let mut response = answer.instrument(span).await;
    end.status = Some(response.status());
    #[cfg(feature = "otel")]
    crate::otel::answered(&end.span, response.status());
    // What was taken or made is fit for a header.
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| Body::new(Told { body, end }))
}

/// Of the highest level: whatever is logged at all says which request it belongs to.
#[cfg(not(feature = "otel"))]
fn span(id: &str, method: &Method, route: &str) -> Span {
    tracing::error_span!("request", request_id = id, %method, route)
}

/// Likewise; and what collectors read out of it.
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

/// A client's id, if it is short and nothing but visible ASCII.
fn acceptable(id: &HeaderValue) -> Option<&str> {
    let id = id.to_str().ok()?;
    let fine = (1..=MOST_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    fine.then_some(id)
}

/// An id that no other request has.
fn made() -> String {
    format!("req-{:032x}", u128::from_le_bytes(random::bytes()))
}

/// Tells of a request when it is dropped.
struct End {
    span: Span,
    arrived: Instant,
    tally: Arc<Tally>,
    /// Asked again and again by those who watch.
    is_probe: bool,
    has_body: bool,
    /// `None`: there is no answer yet.
    status: Option<StatusCode>,
    /// Whether all of the answer was taken.
    is_whole: bool,
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
        if self.is_probe && self.is_whole {
            return tracing::debug!(status, duration_ms, "answered");
        }
        let how = if self.is_whole {
            "answered"
        } else {
            "the client left"
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

/// An answer's body; what is logged while it is made belongs to its request.
struct Told {
    body: Body,
    end: End,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let span = self.end.span.clone();
        let _inside = span.enter();
        let polled = Pin::new(&mut self.body).poll_frame(task);
        self.end.is_whole |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    /// Whoever sends a body need not ask for more when all is there.
    fn drop(&mut self) {
        self.end.is_whole |= self.body.is_end_stream() || !self.end.has_body;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_taken_and_ids_that_are_not() {
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
    fn made_ids_differ_and_would_be_taken() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| made()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let header = HeaderValue::from_str(&id).expect("a header");
            assert_eq!(acceptable(&header), Some(id.as_str()));
        }
    }
}
