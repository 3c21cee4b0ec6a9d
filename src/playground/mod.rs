//! `GET /`: the page on which one sees how sure the model was of each token, and what else it might have said. It is made
//! of the files in `page/`, which are compiled in; what it shows it asks of the API, as anyone may.

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

/// What is true of every file. Nothing comes from elsewhere, no script or style stands in the HTML, and no script makes HTML
/// of text: whatever a model says, it stays text.
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
    // Kept, but asked for again each time: the next version of the program has other files at the same places.
    (header::CACHE_CONTROL, "no-cache"),
];

/// Open, since a browser sends no key when it asks for a page. Nothing in the files is secret.
pub fn routes() -> Vec<Route> {
    let page = "A page on which one sees the model choose.";
    let file = "A file that the page is made of.";
    vec![
        Route::get("/", get(page_of_files), page)
            .answers_with(Answers::Page)
            .open(),
        Route::get("/page/{*path}", get(file_of_page), file)
            .answers_with(Answers::File)
            .open(),
    ]
}

async fn page_of_files(uri: Uri, headers: HeaderMap) -> Response {
    file("index.html", uri, &headers).await
}

async fn file_of_page(Path(path): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    file(&path, uri, &headers).await
}

async fn file(path: &str, uri: Uri, headers: &HeaderMap) -> Response {
    let Some(file) = Files::get(path) else {
        return api::not_found(uri).await.into_response();
    };
    let hash = BASE64_URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash());
    let tag = format!("\"{hash}\"");
    let of_file = [(header::ETAG, tag.clone())];
    if has(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, HEADERS, of_file).into_response();
    }
    let kind = [(header::CONTENT_TYPE, kind(path))];
    (HEADERS, of_file, kind, file.data).into_response()
}

/// Whether the client has the file of this tag (`If-None-Match`).
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH);
    lists
        .iter()
        .filter_map(|list| HeaderValue::to_str(list).ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// The content type, by the file's ending. All files are text.
fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
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
    fn files_are_text_and_kinds_are_told_by_endings() {
        assert!(Files::iter().count() > 2);
        for path in Files::iter() {
            let file = Files::get(&path).expect("listed");
            assert!(std::str::from_utf8(&file.data).is_ok(), "{path}");
        }
        let check = |path: &str, expect: &str| assert_eq!(kind(path), expect, "{path}");
        check("index.html", "text/html; charset=utf-8");
        check("vendor/a/a.min.css", "text/css; charset=utf-8");
        check("main.js", "text/javascript; charset=utf-8");
        check("icon.svg", "image/svg+xml");
        check("tour.json", "application/json");
        check("tour.txt", "text/plain; charset=utf-8");
        check("vendor/a/LICENSE", "text/plain; charset=utf-8");
    }

    #[test]
    fn what_the_client_has() {
        let check = |lists: &[&'static str], expect: bool| {
            let lists = lists.iter().map(|list| HeaderValue::from_static(list));
            let headers = lists.map(|list| (header::IF_NONE_MATCH, list)).collect();
            assert_eq!(has(&headers, "\"a\""), expect, "{headers:?}");
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
