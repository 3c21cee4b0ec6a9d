//! What is wrong below the level of requests: heads, lengths and chunks. Some of it hyper answers itself, with a status
//! and no body.

use super::{normal, usual};
use crate::raw::{Then, exchange};
use crate::server::tiny;

/// Bytes on a connection, and the answers that they must get.
pub struct Raw {
    name: &'static str,
    bytes: Vec<u8>,
    then: Then,
    /// Status and body. `OK` stands for any body, as that of an answer that is no error.
    answers: Vec<(u16, &'static str)>,
}

const OK: &str = "*";
const HOST: &str = "host: HOST\r\n";

/// A server's address takes the place of `HOST`.
fn raw(name: &'static str, bytes: impl Into<Vec<u8>>, answers: &[(u16, &'static str)]) -> Raw {
    Raw {
        name,
        bytes: bytes.into(),
        then: Then::Listen,
        answers: answers.to_vec(),
    }
}

/// A head on its own, without a body.
fn head(name: &'static str, line: &str, headers: &str, answers: &[(u16, &'static str)]) -> Raw {
    raw(
        name,
        format!("{line}\r\n{HOST}connection: close\r\n{headers}\r\n"),
        answers,
    )
}

/// A completion whose headers say how long its body is.
fn completion(
    name: &'static str,
    headers: &str,
    body: &str,
    answers: &[(u16, &'static str)],
) -> Raw {
    raw(
        name,
        format!(
            "POST /v1/completions HTTP/1.1\r\n{HOST}connection: close\r\ncontent-type: application/json\r\n{headers}\r\n\
             {body}"
        ),
        answers,
    )
}

impl Raw {
    fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}

/// `{"max_tokens": 1}` in chunks.
const CHUNKED: &str = "transfer-encoding: chunked\r\n";
const BODY: &str = "{\"max_tokens\": 1}";

pub fn cases() -> Vec<Raw> {
    let mut cases = request_lines();
    cases.extend(headers());
    cases.extend(lengths());
    cases.extend(chunks());
    cases.extend(connections());
    cases
}

fn request_lines() -> Vec<Raw> {
    vec![
        raw("nothing", "", &[]).then(Then::End),
        raw("a NUL", "\0", &[(400, "")]).then(Then::End),
        raw("an empty line", "\r\n", &[]).then(Then::End),
        raw(
            "the greeting of TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &[(400, "")],
        ),
        raw(
            "the greeting of SSH",
            "SSH-2.0-OpenSSH_9.2\r\n",
            &[(400, "")],
        ),
        raw(
            "the greeting of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[],
        ),
        raw("half a request line", "GET /hea", &[]).then(Then::End),
        raw("half a head", "GET /health HTTP/1.1\r\nhost: ", &[]).then(Then::End),
        head("a method alone", "GET", "", &[(400, "")]),
        head("HTTP/0.9", "GET /health", "", &[(400, "")]),
        head("HTTP/1.0", "GET /health HTTP/1.0", "", &[(200, OK)]),
        head("HTTP/1.2", "GET /health HTTP/1.2", "", &[(400, "")]),
        head("HTTP/2.0", "GET /health HTTP/2.0", "", &[(400, "")]),
        head("HTTP/9.9", "GET /health HTTP/9.9", "", &[(400, "")]),
        head("another protocol", "GET /health FTP/1.1", "", &[(400, "")]),
        head("two spaces", "GET  /health HTTP/1.1", "", &[(400, "")]),
        head(
            "a space in the path",
            "GET /hea lth HTTP/1.1",
            "",
            &[(400, "")],
        ),
        head("too many words", "GET /health HTTP/1.1 x", "", &[(400, "")]),
        head(
            "no slash",
            "GET health HTTP/1.1",
            "",
            &[(
                403,
                r#"{"message":"This server does not answer to the name \"health\" in the Host header. `server.allowed_hosts` lists allowed names.","type":"invalid_request_error","param":null,"code":"host_not_allowed"}"#,
            )],
        ),
        head(
            "a path that is not ASCII",
            "GET /h\u{e9}alth HTTP/1.1",
            "",
            &[(
                404,
                r#"{"message":"There is no route `/héalth`. GET /openapi.json lists all routes.","type":"invalid_request_error","param":null,"code":"not_found"}"#,
            )],
        ),
        head(
            "a control character in the path",
            "GET /\x01 HTTP/1.1",
            "",
            &[(400, "")],
        ),
        head(
            "a method that is no word",
            "G@T /health HTTP/1.1",
            "",
            &[(400, "")],
        ),
        head(
            "a whole address",
            "GET http://HOST/health HTTP/1.1",
            "",
            &[(200, OK)],
        ),
        head(
            "an address that is none",
            "GET http:// HTTP/1.1",
            "",
            &[(400, "")],
        ),
        head(
            "a star",
            "OPTIONS * HTTP/1.1",
            "",
            &[(
                404,
                r#"{"message":"There is no route `*`. GET /openapi.json lists all routes.","type":"invalid_request_error","param":null,"code":"not_found"}"#,
            )],
        ),
        head(
            "a tunnel",
            "CONNECT other:80 HTTP/1.1",
            "",
            &[(
                403,
                r#"{"message":"This server does not answer to the name \"other:80\" in the Host header. `server.allowed_hosts` lists allowed names.","type":"invalid_request_error","param":null,"code":"host_not_allowed"}"#,
            )],
        ),
        head(
            "a path of 65 KiB",
            &format!("GET /{} HTTP/1.1", "a".repeat(66_560)),
            "",
            &[(414, "")],
        ),
        head(
            "characters that a path does not have",
            "GET /<script> HTTP/1.1",
            "",
            &[(400, "")],
        ),
        head("a fragment", "GET /health#x HTTP/1.1", "", &[(200, OK)]),
    ]
}

fn headers() -> Vec<Raw> {
    const LINE: &str = "GET /health HTTP/1.1";
    let numbered = |count| {
        (0..count)
            .map(|i| format!("x-{i}: {i}\r\n"))
            .collect::<String>()
    };
    vec![
        head(
            "98 headers beside the usual two",
            LINE,
            &numbered(98),
            &[(200, OK)],
        ),
        head("99", LINE, &numbered(99), &[(431, "")]),
        head("5000 headers", LINE, &numbered(5000), &[(431, "")]),
        head(
            "a header of 65 KiB",
            LINE,
            &format!("x-a: {}\r\n", "a".repeat(66_560)),
            &[(200, OK)],
        ),
        head(
            "a header of a megabyte",
            LINE,
            &format!("x-a: {}\r\n", "a".repeat(1_048_576)),
            &[(431, "")],
        ),
        head(
            "a header's name of 70000 bytes",
            LINE,
            &format!("{}: a\r\n", "a".repeat(70_000)),
            &[(431, "")],
        ),
        head("no colon", LINE, "x-a\r\n", &[(400, "")]),
        head("no name", LINE, ": a\r\n", &[(400, "")]),
        head(
            "a space before the colon",
            LINE,
            "x-a : a\r\n",
            &[(400, "")],
        ),
        head("a folded line", LINE, "x-a: a\r\n b\r\n", &[(400, "")]),
        head("a NUL in a value", LINE, "x-a: a\0b\r\n", &[(400, "")]),
        head("a bell in a value", LINE, "x-a: a\x07b\r\n", &[(400, "")]),
        head(
            "a carriage return in a value",
            LINE,
            "x-a: a\rb\r\n",
            &[(400, "")],
        ),
        head(
            "a name that is not ASCII",
            LINE,
            "x-\u{e9}: a\r\n",
            &[(400, "")],
        ),
        raw(
            "lines that end without a return",
            format!("{LINE}\n{}connection: close\n\n", HOST.replace('\r', "")),
            &[(200, OK)],
        ),
        head(
            "a wish for a WebSocket",
            LINE,
            "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
            &[(200, OK)],
        ),
        head(
            "a wish for HTTP/2",
            LINE,
            "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            &[(200, OK)],
        ),
    ]
}

fn lengths() -> Vec<Raw> {
    let length = |name, header: &str, answers: &[(u16, &'static str)]| {
        completion(name, &format!("{header}\r\n"), BODY, answers)
    };
    vec![
        length("the right length", "content-length: 17", &[(200, OK)]),
        length("no length: no body", "x-a: a", &[(400, r#"{"message":"The body is empty; send a JSON object.","type":"invalid_request_error","param":null,"code":null}"#)]),
        length("a length of 0", "content-length: 0", &[(400, r#"{"message":"The body is empty; send a JSON object.","type":"invalid_request_error","param":null,"code":null}"#)]),
        length(
            "a length that is short",
            "content-length: 16",
            &[(400, r#"{"message":"The body ends before its JSON does: EOF while parsing an object at line 1 column 16.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        length("a length that is long", "content-length: 18", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]).then(Then::End),
        length("a length that is long, and gone", "content-length: 18", &[]).then(Then::Leave),
        length(
            "a length that is too long for this server",
            "content-length: 8388609",
            &[(413, r#"{"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        length(
            "a length of 2^63",
            "content-length: 9223372036854775808",
            &[(413, r#"{"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        length(
            "a length of 2^64",
            "content-length: 18446744073709551616",
            &[(400, "")],
        ),
        length("a negative length", "content-length: -1", &[(400, "")]),
        length("a length with a sign", "content-length: +17", &[(400, "")]),
        length("a length in base 16", "content-length: 0x11", &[(400, "")]),
        length(
            "a length that is no number",
            "content-length: all",
            &[(400, "")],
        ),
        length("an empty length", "content-length:", &[(400, "")]),
        length(
            "two lengths that agree",
            "content-length: 17\r\ncontent-length: 17",
            &[(200, OK)],
        ),
        length(
            "two lengths that do not",
            "content-length: 17\r\ncontent-length: 5",
            &[(400, "")],
        ),
        length(
            "two lengths in one header",
            "content-length: 17, 17",
            &[(400, "")],
        ),
    ]
}

fn chunks() -> Vec<Raw> {
    let chunked = |name, body: &str, answers: &[(u16, &'static str)]| {
        completion(name, CHUNKED, body, answers)
    };
    const FIRST: &str = "7\r\n{\"max_t\r\n";
    const REST: &str = "a\r\nokens\": 1}\r\n";
    vec![
        chunked("chunks", &format!("{FIRST}{REST}0\r\n\r\n"), &[(200, OK)]),
        chunked(
            "chunks with extensions",
            &format!("7;a=b\r\n{{\"max_t\r\n{REST}0\r\n\r\n"),
            &[(200, OK)],
        ),
        chunked(
            "chunks with a trailer",
            &format!("{FIRST}{REST}0\r\nx-a: a\r\n\r\n"),
            &[(200, OK)],
        ),
        chunked("no chunk", "0\r\n\r\n", &[(400, r#"{"message":"The body is empty; send a JSON object.","type":"invalid_request_error","param":null,"code":null}"#)]),
        chunked("chunks that end midway", FIRST, &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]).then(Then::End),
        chunked("chunks that end midway, and gone", FIRST, &[]).then(Then::Leave),
        chunked(
            "chunks without the last",
            &format!("{FIRST}{REST}"),
            &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)],
        )
        .then(Then::End),
        chunked("half a chunk", "7\r\n{\"m", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]).then(Then::End),
        chunked("a size that is no number", "zz\r\n", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]),
        chunked("an empty size", "\r\n\r\n", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]),
        chunked("a negative size", "-1\r\n{\r\n", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]),
        chunked("a size of 2^64", "10000000000000000\r\n{", &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]),
        chunked("a size without an end", &"0".repeat(100_000), &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)]).then(Then::End),
        chunked(
            "a chunk longer than its size",
            "3\r\n{\"max\r\n0\r\n\r\n",
            &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        chunked(
            "a long extension",
            &format!("7;{}\r\n", "a".repeat(100_000)),
            &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        chunked(
            "long trailers",
            &format!("0\r\nx-a: {}\r\n\r\n", "a".repeat(100_000)),
            &[(400, r#"{"message":"The body is incomplete or does not match its headers.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        chunked(
            "more than this server takes",
            &format!("900000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x90_0000)),
            &[(413, r#"{"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        completion(
            "chunks and a length",
            &format!("{CHUNKED}content-length: 5\r\n"),
            &format!("{FIRST}{REST}0\r\n\r\n"),
            &[(200, OK)],
        ),
        completion(
            "chunks, twice",
            "transfer-encoding: chunked, chunked\r\n",
            &format!("{FIRST}{REST}0\r\n\r\n"),
            &[(415, r#"{"message":"The transfer encoding `chunked, chunked` is not supported; send the body as it is, or chunked.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        completion(
            "chunks of gzip",
            "transfer-encoding: gzip, chunked\r\n",
            &format!("{FIRST}{REST}0\r\n\r\n"),
            &[(415, r#"{"message":"The transfer encoding `gzip, chunked` is not supported; send the body as it is, or chunked.","type":"invalid_request_error","param":null,"code":null}"#)],
        ),
        completion(
            "another transfer encoding",
            "transfer-encoding: identity\r\n",
            BODY,
            &[(400, "")],
        ),
        raw(
            "chunks in HTTP/1.0",
            format!("POST /v1/completions HTTP/1.0\r\n{HOST}{CHUNKED}\r\n{FIRST}{REST}0\r\n\r\n"),
            &[(400, "")],
        ),
    ]
}

fn connections() -> Vec<Raw> {
    let health = format!("GET /health HTTP/1.1\r\n{HOST}\r\n");
    let last = format!("GET /health HTTP/1.1\r\n{HOST}connection: close\r\n\r\n");
    let wrong =
        format!("POST /v1/completions HTTP/1.1\r\n{HOST}content-length: 8\r\n\r\n{{\"n\": 0}}");
    vec![
        raw(
            "three at once",
            format!("{health}{health}{last}"),
            &[(200, OK), (200, OK), (200, OK)],
        ),
        raw(
            "a wrong field between two",
            format!("{health}{wrong}{last}"),
            &[
                (200, OK),
                (
                    400,
                    r#"{"message":"`n` must be a whole number from 1 to 128, but it is the number 0.","type":"invalid_request_error","param":"n","code":null}"#,
                ),
                (200, OK),
            ],
        ),
        raw(
            "a wrong path between two",
            format!("{health}GET /nothing HTTP/1.1\r\n{HOST}\r\n{last}"),
            &[
                (200, OK),
                (
                    404,
                    r#"{"message":"There is no route `/nothing`. GET /openapi.json lists all routes.","type":"invalid_request_error","param":null,"code":"not_found"}"#,
                ),
                (200, OK),
            ],
        ),
        raw(
            "no request between two",
            format!("{health}no request at all\r\n\r\n{last}"),
            &[(200, OK), (400, "")],
        ),
        raw(
            "a body that nobody reads between two",
            format!("{health}GET /health HTTP/1.1\r\n{HOST}content-length: 4\r\n\r\nbody{last}"),
            &[(200, OK), (200, OK), (200, OK)],
        ),
        raw("100 at once", health.repeat(99) + &last, &[(200, OK); 100]),
        completion(
            "a client that waits for leave",
            "expect: 100-continue\r\ncontent-length: 17\r\n",
            BODY,
            &[(100, ""), (200, OK)],
        ),
        completion(
            "a client that waits for leave to send too much",
            "expect: 100-continue\r\ncontent-length: 9000000\r\n",
            "",
            &[(
                413,
                r#"{"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#,
            )],
        ),
        completion(
            "another expectation",
            "expect: miracles\r\ncontent-length: 17\r\n",
            BODY,
            &[(200, OK)],
        ),
        completion(
            "a client that goes at once",
            "content-length: 19\r\n",
            "{\"max_tokens\": 999}",
            &[],
        )
        .then(Then::Leave),
        completion(
            "a client of a stream that goes at once",
            "content-length: 35\r\n",
            "{\"max_tokens\": 999, \"stream\": true}",
            &[],
        )
        .then(Then::Leave),
    ]
}

#[test]
fn heads_lengths_and_chunks() {
    let server = tiny();
    let expected = usual(server, &normal());
    let mut wrong = Vec::new();
    for case in cases() {
        let bytes = replace(&case.bytes, b"HOST", server.address().as_bytes());
        let answers = exchange(server.address(), &bytes, case.then);
        let right = answers.len() == case.answers.len()
            && answers
                .iter()
                .zip(&case.answers)
                .all(|(answer, &(status, body))| {
                    answer.status == status
                        && match body {
                            OK => true,
                            "" => answer.body.is_empty(),
                            error => answer.body == format!("{{\"error\":{error}}}"),
                        }
                });
        if !right {
            let said: Vec<String> = answers
                .iter()
                .map(|answer| format!("    {} {}", answer.status, answer.body))
                .collect();
            wrong.push(format!("{}:\n{}", case.name, said.join("\n")));
        }
        assert_eq!(usual(server, &normal()), expected, "after {}", case.name);
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(place) = rest.windows(what.len()).position(|window| window == what) {
        replaced.extend_from_slice(&rest[..place]);
        replaced.extend_from_slice(with);
        rest = &rest[place + what.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
