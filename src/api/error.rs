//! Errors as the sender of a request sees them: OpenAI's error object and an HTTP status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::wording::cut;
use crate::engine::EngineError;

/// An error with its status. The message is written for the person who sent the request.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    /// The field, what is allowed, and what came.
    pub message: String,
    /// The name of the field.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<&'static str>,
    /// The reason in metrics, if the code does not determine it.
    pub reason: Option<&'static str>,
}

/// The reason of a refusal in metrics, as an extension of the response.
#[derive(Debug, Clone, Copy)]
pub struct Refused(pub &'static str);

/// The body: `{"error": {"message", "type", "param", "code"}}`. All four are always present; the last two may be null.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
            reason: None,
        }
    }

    /// 400 about a field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// 400 about the body as a whole.
    pub fn body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 500; the log has more.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error.")
    }

    pub fn code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// Why the request was rejected, in a word; `None` if it failed instead.
    fn refused(&self) -> Option<Refused> {
        let reason = match self.status {
            StatusCode::BAD_REQUEST => "invalid_request",
            StatusCode::REQUEST_TIMEOUT => "body_timeout",
            StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            StatusCode::SERVICE_UNAVAILABLE => "server_unavailable",
            status if status.is_client_error() => "other",
            _ => return None,
        };
        Some(Refused(self.reason.or(self.code).unwrap_or(reason)))
    }

    /// 404 about a model.
    pub fn model_not_found(name: &str) -> Self {
        Self {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!(
                    "The model `{}` does not exist. GET /v1/models lists all models.",
                    cut(name)
                ),
            )
        }
        .code("model_not_found")
    }

    /// The error object, for an answer or an event of a stream.
    pub fn as_body(&self) -> ErrorBody<'_> {
        let r#type = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        ErrorBody {
            error: ErrorObject {
                message: &self.message,
                r#type,
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let reason = match error {
            EngineError::QueueFull { .. } => Some("queue_full"),
            EngineError::QueueTimeout { .. } => Some("queue_timeout"),
            _ => None,
        };
        let (status, code) = match error {
            EngineError::QueueFull { .. } | EngineError::QueueTimeout { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_overloaded")
            }
            EngineError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "server_unavailable"),
            EngineError::WorkerDown => (StatusCode::SERVICE_UNAVAILABLE, "worker_down"),
            EngineError::Decode => (StatusCode::INTERNAL_SERVER_ERROR, "evaluation_failed"),
            EngineError::NoEmbeddings(_)
            | EngineError::NoRanking
            | EngineError::OnlyEmbeddings
            | EngineError::OnlyRanking => {
                return Self::field("model", error.to_string());
            }
            EngineError::Constraint(ref stuck) => {
                return Self::field(stuck.field, error.to_string());
            }
            EngineError::FileGone => {
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            }
            EngineError::Overflow => return Self::field("lora", error.to_string()),
        };
        Self {
            reason,
            ..Self::new(status, error.to_string()).code(code)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        /// Seconds after which a slot may be free.
        const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
        let mut response = (self.status, Json(self.as_body())).into_response();
        if let Some(refused) = self.refused() {
            response.extensions_mut().insert(refused);
        }
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_fields_are_always_present() {
        let check = |error: ApiError, expect: &str| {
            assert_eq!(
                serde_json::to_string(&error.as_body()).expect("serializes"),
                expect
            );
        };
        check(
            ApiError::field("n", "bad"),
            r#"{"error":{"message":"bad","type":"invalid_request_error","param":"n","code":null}}"#,
        );
        check(
            EngineError::Decode.into(),
            r#"{"error":{"message":"The model could not be evaluated.","type":"server_error","param":null,"code":"evaluation_failed"}}"#,
        );
    }

    #[test]
    fn refusals_have_a_reason() {
        let check = |error: ApiError, expect: Option<&str>| {
            let response = error.into_response();
            let refused = response.extensions().get::<Refused>();
            assert_eq!(refused.map(|refused| refused.0), expect);
        };
        let full = EngineError::QueueFull { waiting: 1 };
        check(full.into(), Some("queue_full"));
        let late = EngineError::QueueTimeout { waited_ms: 1 };
        check(late.into(), Some("queue_timeout"));
        check(EngineError::closing().into(), Some("server_unavailable"));
        check(EngineError::Decode.into(), None);
        check(ApiError::internal(), None);
        check(ApiError::field("n", "bad"), Some("invalid_request"));
        check(ApiError::model_not_found("x"), Some("model_not_found"));
        let teapot = ApiError::new(StatusCode::IM_A_TEAPOT, "short and stout");
        check(teapot, Some("other"));
    }
}
