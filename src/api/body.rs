//! The body of a request: a JSON object, read so that every error says what is wrong.

use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::state::AppState;
use super::wording::{cut, describe};

/// A JSON object. Rejects other content types, charsets and encodings (415), too many bytes (413), and bodies that are not
/// UTF-8, not JSON, not an object, or have a key twice (400).
#[derive(Debug)]
pub struct JsonObject(pub Map<String, Value>);

/// Larger bodies take milliseconds to parse.
const READ_AT_ONCE_BYTES: usize = 65_536;

impl FromRequest<AppState> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_headers(request.headers())?;
        let most = state.config.limits.body_bytes;
        let too_large = || {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body has more than {most} bytes, the most that this server accepts."),
            )
        };
        // Before it is sent, if the client waits for `100 Continue`.
        if request.body().size_hint().lower() > most as u64 {
            return Err(too_large());
        }
        let most_ms = state.config.limits.body_timeout_ms;
        let bytes = Bytes::from_request(request, state);
        let bytes = tokio::time::timeout(Duration::from_millis(most_ms), bytes)
            .await
            .map_err(|_| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("The body did not arrive within {most_ms} ms."),
                )
            })?
            .map_err(|rejection| match rejection {
                BytesRejection::FailedToBufferBody(error)
                    if error.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                {
                    too_large()
                }
                _ => ApiError::body("The body is incomplete or does not match its headers."),
            })?;
        if bytes.len() > READ_AT_ONCE_BYTES {
            return state.work(move || parse(&bytes)).await?.map(Self);
        }
        parse(&bytes).map(Self)
    }
}

/// Checks what the headers say about the body. A body without a content type is read as JSON.
fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |message| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        let encoding = text(encoding);
        if encoding != "identity" {
            return refused(format!(
                "The content encoding `{}` is not supported; send the body without one.",
                cut(&encoding)
            ));
        }
    }
    // hyper decodes chunks, and ignores other encodings.
    for encoding in headers.get_all(header::TRANSFER_ENCODING) {
        let encoding = text(encoding);
        if encoding != "chunked" {
            return refused(format!(
                "The transfer encoding `{}` is not supported; send the body as it is, or chunked.",
                cut(&encoding)
            ));
        }
    }
    for content_type in headers.get_all(header::CONTENT_TYPE) {
        let content_type = text(content_type);
        let mut parts = content_type.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if kind != "application/json"
            && !(kind.starts_with("application/") && kind.ends_with("+json"))
        {
            return refused(format!(
                "The content type `{}` is not supported; send `application/json`.",
                cut(kind)
            ));
        }
        let charset = parts
            .filter_map(|part| part.split_once('='))
            .find(|(name, _)| name.trim() == "charset")
            .map(|(_, charset)| charset.trim().trim_matches('"'));
        // ASCII is valid UTF-8.
        if let Some(charset) = charset
            && !["utf-8", "utf8", "us-ascii"].contains(&charset)
        {
            return refused(format!(
                "The charset `{}` is not supported; send UTF-8.",
                cut(charset)
            ));
        }
    }
    Ok(())
}

/// A header's value, in lower case.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes())
        .trim()
        .to_lowercase()
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::body(format!(
            "The body is not valid UTF-8 (at byte {}).",
            error.valid_up_to()
        ))
    })?;
    if text.trim().is_empty() {
        return Err(ApiError::body("The body is empty; send a JSON object."));
    }
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(object))) => Ok(object),
        Ok(Strict(other)) => Err(ApiError::body(format!(
            "The body must be a JSON object, but it is {}.",
            describe(&other)
        ))),
        // The only error of `Strict` itself.
        Err(error) if error.is_data() => Err(ApiError::body(format!(
            "The body has a field twice: {error}."
        ))),
        Err(error) if error.is_eof() => Err(ApiError::body(format!(
            "The body ends before its JSON does: {error}."
        ))),
        // serde_json's limit, which protects the stack.
        Err(error) if error.to_string().starts_with("recursion limit") => Err(ApiError::body(
            "The body is nested too deeply: at most 127 levels of arrays and objects are allowed.",
        )),
        Err(error) => Err(ApiError::body(format!(
            "The body is not valid JSON: {error}, near {:?}.",
            near(text, &error)
        ))),
    }
}

/// The text around the position where JSON became invalid.
fn near<'a>(text: &'a str, error: &serde_json::Error) -> &'a str {
    /// Bytes before the position: in most cases enough for the field's name.
    const BEFORE: usize = 24;
    /// Bytes after it.
    const AFTER: usize = 12;
    let line = text
        .split('\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let place = error.column().saturating_sub(1);
    let boundary = |at: usize| {
        (0..=at.min(line.len()))
            .rev()
            .find(|&at| line.is_char_boundary(at))
            .unwrap_or(0)
    };
    &line[boundary(place.saturating_sub(BEFORE))..boundary(place + AFTER)]
}

/// A JSON value in which no object has a key twice: whichever of two we chose, some client would mean the other.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Strict;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_string<E>(self, value: String) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
                let mut array = Vec::new();
                while let Some(Strict(item)) = items.next_element()? {
                    array.push(item);
                }
                Ok(Strict(array.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
                let mut object = Map::new();
                while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
                    if object.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!(
                            "`{}` appears twice",
                            cut(&key)
                        )));
                    }
                    object.insert(key, value);
                }
                Ok(Strict(object.into()))
            }
        }
        deserializer.deserialize_any(Values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_wrong() {
        let check = |body: &[u8], part: &str| {
            let message = parse(body).expect_err("refused").message;
            assert!(message.contains(part), "{message}");
        };
        check(b"", "empty");
        check(b"{\"a\": 1", "ends before its JSON does: EOF");
        check(b"[1]", "an array of 1 item.");
        check(b"{} x", "trailing characters");
        check(
            b"{\"a\": NaN}",
            "not valid JSON: expected value at line 1 column 7, near \"{\\\"a\\\": NaN}\".",
        );
        check(b"{\"a\": 1e400}", "number out of range");
        check(b"{\"a\": 1, \"a\": 2}", "`a` appears twice");
        check(b"{\"a\": {\"b\": 1, \"b\": 2}}", "`b` appears twice");
        check(b"{\"a\": \"\xff\"}", "UTF-8 (at byte 7)");
        check(b"{\"a\": \"\\ud800\"}", "not valid JSON");
        check(
            &[b"{\"a\":".repeat(500), b"1".to_vec(), b"}".repeat(500)].concat(),
            "nested too deeply",
        );
        assert!(parse(b"{\"a\": [1, 2.5, null, {\"b\": true}]}").is_ok());
    }
}
