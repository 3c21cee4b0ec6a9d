//! Reads the rest of a request's body once the answer is ready. If a connection is closed while its client is still
//! sending, the client gets a reset and may never see the answer.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use super::state::AppState;
use super::wrapped_body::{BodyHooks, WrappedBody};

/// Drains request bodies that no handler has read to the end.
pub async fn drain(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // Such a client waits for `100 Continue`, which reading the body would send.
    if request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let limits = &state.config.limits;
    let drain = Drain {
        most_bytes: 2 * limits.body_bytes,
        time: Duration::from_millis(limits.body_timeout_ms),
    };
    let request = request.map(|body| WrappedBody::wrap(body, drain));
    next.run(request).await
}

/// Reads a body to its end when it is dropped, within these bounds.
struct Drain {
    most_bytes: usize,
    time: Duration,
}

impl BodyHooks for Drain {
    fn dropped(&mut self, mut body: Body) {
        if body.is_end_stream() {
            return;
        }
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
        // While the server shuts down there may be no runtime.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(self.time, rest));
        }
    }
}
