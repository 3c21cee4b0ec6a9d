//! What is left of a request's body when its answer is there. A connection that is closed while its client still sends is
//! reset, and the client may never see the answer: so the rest is read, and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::AppState;

/// Reads what no handler has read.
pub async fn drain(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // Such a client sends nothing until it is told to, and to read would be to tell it.
    if request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let limits = &state.config.limits;
    let (most_bytes, most_ms) = (2 * limits.body_bytes, limits.body_timeout_ms);
    let request = request.map(|body| {
        Body::new(Drained {
            body: Some(body),
            most_bytes,
            time: Duration::from_millis(most_ms),
        })
    });
    next.run(request).await
}

/// A body that is read to its end, within bounds, by whoever drops it.
struct Drained {
    /// Taken when it is dropped.
    body: Option<Body>,
    most_bytes: usize,
    time: Duration,
}

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(task),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let mut left = self.most_bytes;
        let rest = async move {
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(bytes) {
                    Some(still) => left = still,
                    None => return,
                }
            }
        };
        // Also where no runtime is left, as when the server ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(self.time, rest));
        }
    }
}
