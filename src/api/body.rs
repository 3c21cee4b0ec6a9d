//! The body of a request: a JSON object, read so that each thing wrong with it is said.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::AppState;
use super::error::ApiError;

/// A JSON object. Refused: another content type (415), too many bytes (413), what is not UTF-8, not JSON, not an
/// object, or names a key twice (400).
#[derive(Debug)]
pub struct JsonObject(pub Map<String, Value>);

impl FromRequest<AppState> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
            let kind = kind
                .to_str()
                .unwrap_or("")
                .split(';')
                .next()
                .unwrap_or("")
                .trim()
                .to_ascii_lowercase();
            if kind != "application/json"
                && !(kind.starts_with("application/") && kind.ends_with("+json"))
            {
                return Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("The content type `{kind}` is not supported; send `application/json`."),
                ));
            }
        }
        let most_ms = state.config.limits.body_timeout_ms;
        let bytes = Bytes::from_request(request, state);
        let bytes = tokio::time::timeout(Duration::from_millis(most_ms), bytes)
            .await
            .map_err(|_| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("The request's body did not arrive within {most_ms} ms."),
                )
            })?
            .map_err(|rejection| match rejection {
                BytesRejection::FailedToBufferBody(error)
                    if error.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                {
                    ApiError::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "The request's body is larger than this server allows.",
                    )
                }
                _ => ApiError::body("The request's body did not arrive whole."),
            })?;
        parse(&bytes).map(Self)
    }
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
        Err(error) => Err(ApiError::body(format!(
            "The body is not valid JSON: {error}."
        ))),
    }
}

/// What a value is, for messages; long values are cut.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            const SHOWN: usize = 40;
            let mut shown: String = text.chars().take(SHOWN).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            format!("the string {shown:?}")
        }
        Value::Array(items) => format!("an array of {} items", items.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
    }
}

/// A JSON value in which no object names a key twice: with two, whichever we took, some client meant the other.
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
                            "the key `{key}` stands twice"
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
    fn what_is_wrong_is_said() {
        let check = |body: &[u8], part: &str| {
            let message = parse(body).expect_err("refused").message;
            assert!(message.contains(part), "{message}");
        };
        check(b"", "empty");
        check(b"{\"a\": 1", "not valid JSON: EOF");
        check(b"[1]", "an array of 1 items");
        check(b"{} x", "trailing characters");
        check(b"{\"a\": NaN}", "not valid JSON");
        check(b"{\"a\": 1e400}", "number out of range");
        check(b"{\"a\": 1, \"a\": 2}", "the key `a` stands twice");
        check(b"{\"a\": {\"b\": 1, \"b\": 2}}", "the key `b` stands twice");
        check(b"{\"a\": \"\xff\"}", "UTF-8 (at byte 7)");
        check(b"{\"a\": \"\\ud800\"}", "not valid JSON");
        check(
            &[b"{\"a\":".repeat(500), b"1".to_vec(), b"}".repeat(500)].concat(),
            "recursion limit",
        );
        assert!(parse(b"{\"a\": [1, 2.5, null, {\"b\": true}]}").is_ok());
    }
}
