//! `GET /`: a page that shows the probability of each token and its alternatives. Its files are those in
//! `page/`, embedded in the binary. It uses the public API only.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rust_embed::Embed;

use crate::api::{self, Answers, Route};

#[derive(Embed)]
#[folder = "src/playground/page/"]
struct Files;

/// Headers of every file. The policy allows nothing from other servers, no inline scripts or styles, and no HTML made from
/// text by scripts: model output stays text.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    // Cached but revalidated each time: the next version of Candor has other files at the same paths.
    (header::CACHE_CONTROL, "no-cache"),
];

/// Open, since a browser sends no key when it requests a page. Nothing in the files is secret.
pub fn routes() -> Vec<Route> {
    let page = "A page that shows how the model chooses each token.";
    let file = "A file of this page.";
    vec![
        Route::get("/", get(index), page)
            .answers_with(Answers::Page)
            .open(),
        Route::get("/page/{*path}", get(page_file), file)
            .answers_with(Answers::File)
            .open(),
    ]
}

async fn index(uri: Uri, headers: HeaderMap) -> Response {
    file("index.html", uri, &headers).await
}

async fn page_file(Path(path): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    file(&path, uri, &headers).await
}

async fn file(path: &str, uri: Uri, headers: &HeaderMap) -> Response {
    let Some(file) = Files::get(path) else {
        return api::no_route(&uri, None).into_response();
    };
    let hash = BASE64_URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash());
    let tag = format!("\"{hash}\"");
    let etag = [(header::ETAG, tag.clone())];
    if has_current(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, HEADERS, etag).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, content_type(path))];
    (HEADERS, etag, content_type, file.data).into_response()
}

/// Whether the client has the file with this tag (`If-None-Match`).
fn has_current(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH);
    lists
        .iter()
        .filter_map(|list| HeaderValue::to_str(list).ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// The content type, by the file's extension. All files are text.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_text_and_extensions_give_their_content_types() {
        assert!(Files::iter().count() > 2);
        for path in Files::iter() {
            let file = Files::get(&path).expect("listed");
            assert!(std::str::from_utf8(&file.data).is_ok(), "{path}");
        }
        let check = |path: &str, expect: &str| assert_eq!(content_type(path), expect, "{path}");
        check("index.html", "text/html; charset=utf-8");
        check("vendor/a/a.min.css", "text/css; charset=utf-8");
        check("main.js", "text/javascript; charset=utf-8");
        check("icon.svg", "image/svg+xml");
        check("tour.json", "application/json");
        check("tour.txt", "text/plain; charset=utf-8");
        check("vendor/a/LICENSE", "text/plain; charset=utf-8");
    }

    #[test]
    fn if_none_match_lists_are_searched() {
        let check = |lists: &[&'static str], expect: bool| {
            let lists = lists.iter().map(|list| HeaderValue::from_static(list));
            let headers = lists.map(|list| (header::IF_NONE_MATCH, list)).collect();
            assert_eq!(has_current(&headers, "\"a\""), expect, "{headers:?}");
        };
        check(&[], false);
        check(&["\"a\""], true);
        check(&["W/\"a\""], true);
        check(&["*"], true);
        check(&["\"b\" , \"a\""], true);
        check(&["\"b\"", "\"a\""], true);
        check(&["a"], false);
        check(&["\"ab\""], false);
        check(&[""], false);
    }
}
