//! A line of the output: an answer in the format of OpenAI's Batch API, with the bits class.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::server::Reply;
use crate::model::hex;
use crate::random;

/// Writes the line of an answer. The body stays as the server wrote it, so that no number is changed.
pub fn answered(custom_id: &str, reply: &Reply) -> Vec<u8> {
    let text = |text: &str| Value::from(text).to_string();
    let id = text(&format!("batch_req_{}", hex(&random::bytes::<16>())));
    let class = reply.bits_class.as_deref().map_or(Value::Null, Value::from);
    let (custom_id, request_id, status) = (text(custom_id), text(&reply.request_id), reply.status);
    let head = format!(
        r#"{{"id":{id},"custom_id":{custom_id},"response":{{"status_code":{status},"request_id":{request_id},"body":"#
    );
    let tail = format!("}},\"error\":null,\"bits_class\":{class}}}\n");
    let body = on_one_line(&reply.body);
    [head.as_bytes(), &body, tail.as_bytes()].concat()
}

/// Writes the line of a request that no server has answered.
pub fn unanswered(custom_id: &str, code: &str, message: &str) -> Vec<u8> {
    let record = json!({
        "id": format!("batch_req_{}", hex(&random::bytes::<16>())),
        "custom_id": custom_id,
        "response": null,
        "error": {"code": code, "message": message},
        "bits_class": null
    });
    format!("{record}\n").into_bytes()
}

/// Whether a body is JSON, in UTF-8. It may be large: nothing of it is kept.
pub fn is_json(body: &[u8]) -> bool {
    str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// A body as JSON without line breaks. What is not JSON becomes the message of an error.
fn on_one_line(body: &[u8]) -> Cow<'_, [u8]> {
    if !is_json(body) {
        let message = String::from_utf8_lossy(body);
        return json!({"error": {"message": message}})
            .to_string()
            .into_bytes()
            .into();
    }
    if !body.contains(&b'\n') {
        return body.into();
    }
    // Within a JSON string a line break is escaped.
    let spaced = body.iter().map(|&byte| match byte {
        b'\n' | b'\r' => b' ',
        other => other,
    });
    spaced.collect::<Vec<u8>>().into()
}

/// A line, as far as another run has to know it.
#[derive(Debug, Deserialize)]
pub struct Record<'a> {
    #[serde(borrow)]
    pub custom_id: Cow<'a, str>,
    response: Option<Response>,
}

#[derive(Debug, Deserialize)]
struct Response {
    status_code: u16,
}

impl<'a> Record<'a> {
    pub fn read(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// Whether it has a result, and not an error.
    pub fn is_answered(&self) -> bool {
        let response = self.response.as_ref();
        response.is_some_and(|response| response.status_code == 200)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status,
            request_id: "req-1".to_owned(),
            bits_class: Some("avx2-1".to_owned()),
            retry_after: None,
            body: body.into(),
        }
    }

    #[test]
    fn a_line_is_openais_and_keeps_the_bits_of_the_body() {
        let line = answered(
            "a \"b\"\n",
            &reply(200, r#"{"x": -2.7748292e-6, "y": "\n"}"#),
        );
        let text = std::str::from_utf8(&line).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.contains(r#""body":{"x": -2.7748292e-6, "y": "\n"}}"#),
            "{text}"
        );
        let value: Value = serde_json::from_slice(&line).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["id", "custom_id", "response", "error", "bits_class"]);
        assert!(value["id"].as_str().unwrap().starts_with("batch_req_"));
        assert_eq!(value["custom_id"], "a \"b\"\n");
        assert_eq!(value["response"]["status_code"], 200);
        assert_eq!(value["response"]["request_id"], "req-1");
        assert_eq!(value["error"], Value::Null);
        let record = Record::read(&line).unwrap();
        assert_eq!(record.custom_id, "a \"b\"\n");
        assert!(record.is_answered());
    }

    #[test]
    fn errors_are_no_answers() {
        let check = |line: &[u8], message: &str| {
            let record = Record::read(line).unwrap();
            assert_eq!(record.custom_id, "a");
            assert!(!record.is_answered());
            let text = std::str::from_utf8(line).unwrap();
            assert!(text.contains(message) && text.ends_with('\n'), "{text}");
            assert_eq!(text.lines().count(), 1);
        };
        let body = "{\n  \"error\": {\"message\": \"no\"}\n}\n";
        check(&answered("a", &reply(400, body)), r#"{"message": "no"}"#);
        check(&answered("a", &reply(502, "<html>\nbad\n</html>")), "bad");
        let mut latin = reply(400, "");
        latin.body = b"{\"error\": {\"message\": \"caf\xe9\"}}".to_vec();
        check(&answered("a", &latin), "caf\u{fffd}");
        check(&unanswered("a", "connection_broken", "gone"), "\"gone\"");
        assert!(is_json(b"[1, {\"a\": null}]\n"));
        for other in [&b""[..], b"{} {}", b"{\"a\": ", b"\"caf\xe9\"", b"<html>"] {
            assert!(!is_json(other), "{}", other.escape_ascii());
        }
        assert!(Record::read(b"{\"custom_id\": \"a\"").is_err());
        assert!(Record::read(b"\0\0\0").is_err());
    }
}
