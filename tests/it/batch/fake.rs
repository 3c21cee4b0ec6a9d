//! A server that answers what a test says, and notes what it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// The weights that fakes have.
pub const WEIGHTS: &str = "0123456789ab";

/// A request for a completion or the like.
#[derive(Debug, Clone)]
pub struct Sent {
    pub at: Instant,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Sent {
    pub fn prompt(&self) -> &str {
        self.body["prompt"].as_str().expect("a prompt")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What it is answered with.
#[derive(Clone)]
pub enum Told {
    /// A status, further headers, and a body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed.
    Nothing,
}

impl Told {
    /// A completion by a server of this bits class.
    pub fn fine(class: &str) -> Self {
        let body = json!({
            "system_fingerprint": format!("{WEIGHTS}-llama.cpp-1-exact-fa-off-{class}"),
            "choices": [{"text": "yes"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
        });
        let class = ("x-candor-bits-class", class.to_owned());
        Self::Answer(200, vec![class], body.to_string())
    }

    /// An answer whose server is busy, and asks for so many seconds.
    pub fn busy(seconds: u32) -> Self {
        let header = ("retry-after", seconds.to_string());
        Self::Answer(503, vec![header], "{}".to_owned())
    }

    pub fn json(body: &Value) -> Self {
        Self::Answer(200, Vec::new(), body.to_string())
    }

    pub fn error(status: u16, message: &str) -> Self {
        let body = json!({"error": {"message": message}});
        Self::Answer(status, Vec::new(), body.to_string())
    }
}

/// Decides about the request with this number, from 0.
type Telling = dyn Fn(usize, &Sent) -> Told + Send + Sync;

/// The server. It ends with the test.
pub struct Fake {
    pub url: String,
    inner: Arc<Inner>,
}

struct Inner {
    class: String,
    telling: Box<Telling>,
    sent: Mutex<Vec<Sent>>,
    /// About itself, by path.
    about: Mutex<BTreeMap<&'static str, Told>>,
    is_gone: AtomicBool,
    is_forgetful: AtomicBool,
    is_other: AtomicBool,
}

impl Fake {
    /// With a model of this bits class.
    pub fn start(
        class: &str,
        telling: impl Fn(usize, &Sent) -> Told + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let inner = Arc::new(Inner {
            class: class.to_owned(),
            telling: Box::new(telling),
            sent: Mutex::default(),
            about: Mutex::default(),
            is_gone: AtomicBool::new(false),
            is_forgetful: AtomicBool::new(false),
            is_other: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&inner);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let inner = Arc::clone(&of_thread);
                std::thread::spawn(move || inner.serve(connection));
            }
        });
        Self { url, inner }
    }

    /// That answers everything.
    pub fn fine(class: &'static str) -> Self {
        Self::start(class, |_, _| Told::fine(class))
    }

    /// That answers everything, and does not remember what it was sent.
    pub fn forgetful(class: &'static str) -> Self {
        let fake = Self::fine(class);
        fake.inner.is_forgetful.store(true, Ordering::SeqCst);
        fake
    }

    /// From now on, connections are closed without an answer; or no longer.
    pub fn be_gone(&self, is_gone: bool) {
        self.inner.is_gone.store(is_gone, Ordering::SeqCst);
    }

    /// From now on, this is what it answers about itself at a path.
    pub fn says(&self, path: &'static str, told: Told) {
        self.inner.about().insert(path, told);
    }

    /// From now on, it answers there what it is.
    pub fn says_no_more(&self, path: &'static str) {
        self.inner.about().remove(path);
    }

    /// From now on, it lists its models as other programs do.
    pub fn be_another_program(&self) {
        self.inner.is_other.store(true, Ordering::SeqCst);
    }

    /// What it has been sent.
    pub fn sent(&self) -> Vec<Sent> {
        self.inner.sent().clone()
    }

    /// How often it has been sent this prompt.
    pub fn count(&self, prompt: &str) -> usize {
        let sent = self.sent();
        sent.iter().filter(|it| it.prompt() == prompt).count()
    }
}

impl Inner {
    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self) -> MutexGuard<'_, BTreeMap<&'static str, Told>> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of a connection.
    fn serve(&self, connection: TcpStream) {
        let _ = connection.set_nodelay(true);
        let mut reader = BufReader::new(&connection);
        while let Some((method, sent)) = read(&mut reader) {
            let path = sent.path.split('?').next().unwrap_or_default();
            let about = self.about().get(path).cloned();
            let told = match (method.as_str(), path) {
                _ if self.is_gone.load(Ordering::SeqCst) => Told::Nothing,
                _ if about.is_some() => about.unwrap_or(Told::Nothing),
                ("GET", "/health") => Told::Answer(200, Vec::new(), "{}".to_owned()),
                ("GET", "/v1/models") => Told::Answer(200, Vec::new(), self.models()),
                ("GET", _) | (_, "/tokenize") => Told::error(404, "no such route"),
                _ if self.is_forgetful.load(Ordering::SeqCst) => (self.telling)(0, &sent),
                _ => {
                    let number = {
                        let mut all = self.sent();
                        all.push(sent.clone());
                        all.len() - 1
                    };
                    (self.telling)(number, &sent)
                }
            };
            let Told::Answer(status, headers, body) = told else {
                return;
            };
            let mut answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                answer += &format!("{name}: {value}\r\n");
            }
            answer += "content-type: application/json\r\n\r\n";
            answer += &body;
            if (&connection).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn models(&self) -> String {
        if self.is_other.load(Ordering::SeqCst) {
            return json!({"object": "list", "data": [{"id": "other", "object": "model"}]})
                .to_string();
        }
        json!({"object": "list", "data": [{
            "id": "fake", "bits_class": self.class, "parallel_sequences": 2, "status": {"value": "loaded"},
            "meta": {"fingerprint": WEIGHTS}
        }]})
        .to_string()
    }
}

/// The next request; its method apart.
fn read(reader: &mut impl BufRead) -> Option<(String, Sent)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&it| it > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines.first()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let sent = Sent {
        at: Instant::now(),
        path,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    Some((method, sent))
}
