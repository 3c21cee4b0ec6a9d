//! The page at `/` as served over HTTP. `make test-web` tests it in a browser.

use crate::raw::{Request, Response};
use crate::server::{TestServer, root, tiny, tiny_model};

fn ask(method: &str, path: &str, headers: &[&str]) -> Response {
    Request::new(method, path, headers, "").send(tiny().address())
}

fn get(path: &str) -> Response {
    ask("GET", path, &[])
}

/// The addresses of the files that the page's HTML references.
fn referenced(page: &str) -> Vec<&str> {
    let values = ["src=\"", "href=\""].map(|name| page.split(name).skip(1));
    let values = values.into_iter().flatten();
    values
        .filter_map(|rest| rest.split('"').next())
        .filter(|address| !address.starts_with('#') && *address != "docs")
        .collect()
}

#[test]
fn the_page_and_its_files_are_those_in_the_source() {
    let folder = root().join("src/playground/page");
    let page = get("/");
    assert_eq!(page.status, 200);
    for (path, file, kind) in [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page/main.js", "main.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "style.css", "text/css; charset=utf-8"),
        (
            "/page/vendor/uplot/uPlot.esm.js",
            "vendor/uplot/uPlot.esm.js",
            "text/javascript; charset=utf-8",
        ),
        (
            "/page/vendor/uplot/LICENSE",
            "vendor/uplot/LICENSE",
            "text/plain; charset=utf-8",
        ),
    ] {
        let response = get(path);
        let written = std::fs::read_to_string(folder.join(file)).expect("text");
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some(kind), "{path}");
        assert!(response.body == written, "{path} is not {file}");
    }
    let addresses = referenced(&page.body);
    assert!(addresses.len() > 1, "{addresses:?}");
    for address in addresses {
        // As seen from the page, which a proxy may have put anywhere.
        assert!(address.starts_with("page/"), "{address}");
        assert_eq!(get(&format!("/{address}")).status, 200, "{address}");
    }
}

#[test]
fn only_the_pages_own_files_may_run_on_it() {
    for path in ["/", "/page/main.js", "/page/vendor/uplot/uPlot.min.css"] {
        let response = get(path);
        let header = |name| {
            response
                .header(name)
                .unwrap_or_else(|| panic!("{path}: {name}"))
        };
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ] {
            assert!(policy.split("; ").any(|one| one == part), "{path}: {part}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains("  "),
            "{policy}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
    }
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    let tag = |path| get(path).header("etag").expect("a tag").to_owned();
    assert_ne!(tag("/"), tag("/page/main.js"));
    for path in ["/", "/page/main.js"] {
        let whole = get(path);
        assert_eq!(whole.header("cache-control"), Some("no-cache"));
        let tag = tag(path);
        let again = ask("GET", path, &[&format!("if-none-match: {tag}")]);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        for name in ["etag", "cache-control", "content-security-policy"] {
            assert_eq!(again.header(name), whole.header(name), "{path}: {name}");
        }
        let other = ask("GET", path, &["if-none-match: \"other\""]);
        assert_eq!((other.status, other.body), (200, whole.body), "{path}");
    }
}

#[test]
fn head_requests_get_headers_only() {
    for path in ["/", "/page/main.js"] {
        let (whole, head) = (get(path), ask("HEAD", path, &[]));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for name in ["content-type", "content-length", "etag"] {
            assert!(head.header(name).is_some(), "{path}: {name}");
            assert_eq!(head.header(name), whole.header(name), "{path}: {name}");
        }
    }
}

#[test]
fn other_paths_are_not_found() {
    for path in [
        "/page/nothing.js",
        "/page/vendor",
        "/page/vendor/",
        "/page/../mod.rs",
        "/page/%2e%2e/mod.rs",
        "/page/..%2fmod.rs",
        "/page//etc/passwd",
        "/page/",
        "/page",
    ] {
        let response = get(path);
        assert_eq!(response.status, 404, "{path}: {}", response.body);
        assert!(response.body.contains(r#""code":"not_found""#), "{path}");
    }
    let posted = ask("POST", "/page/main.js", &[]);
    assert_eq!(posted.status, 405);
    assert_eq!(posted.header("allow"), Some("GET,HEAD"));
    assert!(
        posted
            .body
            .contains("`/page/main.js` accepts GET, not POST.")
    );
}

/// A browser sends no key when it requests a page; the page asks for one.
#[test]
fn the_page_requires_no_key_and_its_requests_do() {
    let server = TestServer::start_with(&tiny_model(), |config| {
        config.server.api_keys = vec!["key".to_owned()];
    });
    let status = |method: &str, path: &str, headers: &[&str]| {
        let request = Request::new(method, path, headers, "");
        request.send(server.address()).status
    };
    for path in ["/", "/page/main.js"] {
        assert_eq!(status("GET", path, &[]), 200, "{path}");
        assert_eq!(status("HEAD", path, &[]), 200, "{path}");
    }
    assert_eq!(status("GET", "/v1/models", &[]), 401);
    assert_eq!(
        status("GET", "/v1/models", &["authorization: Bearer key"]),
        200
    );
    assert_eq!(status("POST", "/v1/completions", &[]), 401);
}

#[test]
fn other_hosts_and_origins_are_refused() {
    for path in ["/", "/page/main.js"] {
        let bytes =
            format!("GET {path} HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n");
        let responses =
            crate::raw::exchange(tiny().address(), bytes.as_bytes(), crate::raw::Then::Listen);
        assert_eq!(responses[0].status, 403, "{path}");
        assert!(responses[0].body.contains("host_not_allowed"), "{path}");
        let foreign = ask("GET", path, &["origin: https://a.example"]);
        assert_eq!(foreign.status, 403, "{path}");
    }
}

#[test]
fn requests_are_counted_by_route() {
    let server = TestServer::start(&tiny_model());
    for path in ["/", "/page/main.js", "/page/style.css"] {
        assert_eq!(server.get(path).status, 200);
    }
    let metrics = server.get("/metrics").body;
    for route in ["/", "/page/{*path}"] {
        let line = format!("route=\"{route}\"");
        assert!(metrics.contains(&line), "{route}: {metrics}");
    }
    assert!(!metrics.contains("main.js"), "{metrics}");
}
