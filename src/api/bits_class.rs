//! The header of every answer of a model: its bits class, which names how its numbers are rounded.

use std::cell::RefCell;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

const BITS_CLASS: HeaderName = HeaderName::from_static("x-candor-bits-class");

tokio::task_local! {
    /// The bits class of the model that answers the request, once it is known.
    static ANSWERED_BY: RefCell<Option<Arc<str>>>;
}

/// Sets the class of the model that answers the current request; again, if the request asks for another.
pub fn set(class: Arc<str>) {
    // Outside of a request, as in tests, nothing is answered.
    let _ = ANSWERED_BY.try_with(|answered_by| answered_by.replace(Some(class)));
}

/// Adds the header.
pub async fn add_header(request: Request, next: Next) -> Response {
    let answer = async {
        let response = next.run(request).await;
        (response, ANSWERED_BY.with(|class| class.take()))
    };
    let (mut response, class) = ANSWERED_BY.scope(RefCell::default(), answer).await;
    if let Some(class) = class.and_then(|class| HeaderValue::from_str(&class).ok()) {
        response.headers_mut().insert(BITS_CLASS, class);
    }
    response
}
