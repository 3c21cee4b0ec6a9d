//! Bodies that are watched while they are read or sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

/// What happens as a [`WrappedBody`] is polled and dropped.
pub trait BodyHooks: Send + Unpin + 'static {
    /// Polls the body for its next frame.
    fn poll(&mut self, poll: impl FnOnce() -> PolledFrame) -> PolledFrame {
        poll()
    }

    /// Takes the body when it is dropped, read to its end or not.
    fn dropped(&mut self, _body: Body) {}
}

pub type PolledFrame = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

/// A body with hooks, which are dropped with it. Its length stays known, so an answer keeps its `Content-Length`.
pub struct WrappedBody<H: BodyHooks> {
    body: Body,
    hooks: H,
}

impl<H: BodyHooks> WrappedBody<H> {
    pub fn wrap(body: Body, hooks: H) -> Body {
        Body::new(Self { body, hooks })
    }
}

impl<H: BodyHooks> HttpBody for WrappedBody<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> PolledFrame {
        let Self { body, hooks } = &mut *self;
        hooks.poll(|| Pin::new(body).poll_frame(task))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<H: BodyHooks> Drop for WrappedBody<H> {
    fn drop(&mut self) {
        self.hooks.dropped(std::mem::take(&mut self.body));
    }
}
