//! HTTP written and read byte by byte: for requests that a proper client would not send.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// A request that is whole, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Lines, as they are sent.
    pub headers: Vec<Vec<u8>>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str, headers: &[&str], body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers
                .iter()
                .map(|line| line.as_bytes().to_vec())
                .collect(),
            body: body.into(),
        }
    }

    /// A body for `/v1/completions`.
    pub fn complete(body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", "/v1/completions", &[], body)
    }

    pub fn with_header(mut self, line: &str) -> Self {
        self.headers.push(line.as_bytes().to_vec());
        self
    }

    /// The bytes to send. A body is JSON unless a header says otherwise; the server is to close after its answer.
    pub fn bytes(&self, address: &str) -> Vec<u8> {
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n",
            self.method, self.path
        )
        .into_bytes();
        let mut headers = self.headers.clone();
        if !self.body.is_empty() {
            if !headers
                .iter()
                .any(|line| line.starts_with(b"content-type:"))
            {
                headers.push(b"content-type: application/json".to_vec());
            }
            headers.push(format!("content-length: {}", self.body.len()).into_bytes());
        }
        for line in headers {
            bytes.extend(line);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it, and leaves the answer to whoever reads the connection.
    pub fn start(&self, address: &str) -> TcpStream {
        let mut connection = TcpStream::connect(address).expect("connects");
        connection.write_all(&self.bytes(address)).expect("sends");
        connection
    }

    pub fn send(&self, address: &str) -> Response {
        let mut responses = exchange(address, &self.bytes(address), Then::Listen);
        assert_eq!(responses.len(), 1, "{responses:?}");
        responses.remove(0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the client does when it has sent its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the answers until the server closes.
    Listen,
    /// Says that no more will come, and waits likewise.
    End,
    /// Goes.
    Leave,
}

/// Sends the bytes, and reads what comes until the server closes. A server may close before it has read everything.
pub fn exchange(address: &str, bytes: &[u8], then: Then) -> Vec<Response> {
    let mut connection = TcpStream::connect(address).expect("connects");
    let mut sending = connection.try_clone().expect("a handle");
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        // Beside the reading: a server that answers early and a client that is still sending would wait for each other.
        scope.spawn(move || {
            let _ = sending.write_all(bytes);
            match then {
                Then::Listen => {}
                Then::End => drop(sending.shutdown(Shutdown::Write)),
                Then::Leave => drop(sending.shutdown(Shutdown::Both)),
            }
        });
        let mut piece = [0; 8192];
        // A reset ends it as well.
        while let Ok(length @ 1..) = connection.read(&mut piece) {
            received.extend_from_slice(&piece[..length]);
        }
    });
    match then {
        // What it still got before it went is chance.
        Then::Leave => Vec::new(),
        Then::Listen | Then::End => responses(&received),
    }
}

/// Splits what came into answers. Interim ones (100) are answers too. What has no length goes on to the end.
fn responses(mut received: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while !received.is_empty() {
        let end = received
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(received)));
        let head = String::from_utf8(received[..end].to_vec()).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head}"));
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        received = &received[end + 4..];
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .map(|(_, length)| length.parse().expect("a number"));
        let interim = (100..200).contains(&status);
        let length = length.unwrap_or(if interim { 0 } else { received.len() });
        // The answer to HEAD has a length and no body.
        let (body, rest) = received.split_at(length.min(received.len()));
        received = rest;
        responses.push(Response {
            status,
            headers,
            body: String::from_utf8(body.to_vec()).expect("a body is text"),
        });
    }
    responses
}
