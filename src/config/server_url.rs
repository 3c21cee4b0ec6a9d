//! The address of a server, as in `--url http://127.0.0.1:8000`.

use ureq::http::uri::Authority;

/// Accepts a scheme, a host and perhaps a port. A slash at the end is dropped.
pub fn server_url(text: &str) -> Result<String, String> {
    let wrong = |why: String| format!("{why}; expected an address as in http://127.0.0.1:8000");
    if text.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong(
            "it does not begin with http:// or https://".to_owned(),
        ));
    };
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(wrong(format!(
            "the scheme must be http or https, not {scheme:?}"
        )));
    }
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !["", "/"].contains(&path) {
        return Err(wrong(format!(
            "{path:?} must be left out, because the routes are added to the address"
        )));
    }
    let authority: Option<Authority> = host.parse().ok();
    let is_fine = |it: &Authority| {
        // A port that is too large, or empty, is none.
        let has_port = it.port_u16().is_some();
        !it.host().is_empty() && (has_port || it.as_str().ends_with(it.host()))
    };
    match authority.filter(is_fine) {
        Some(_) => Ok(format!("{scheme}://{host}")),
        None => Err(wrong(format!("{host:?} is not a host with a port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address() {
        let check = |text: &str, expect: &str| assert_eq!(server_url(text).unwrap(), expect);
        check("http://127.0.0.1:8000", "http://127.0.0.1:8000");
        check("http://127.0.0.1:8000/", "http://127.0.0.1:8000");
        check("https://box.example", "https://box.example");
        check("HTTP://box.example:81", "HTTP://box.example:81");
        check("http://[::1]:8000", "http://[::1]:8000");
        check("http://[::1]", "http://[::1]");
        let refused = |text: &str, part: &str| {
            let why = server_url(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
            assert!(why.contains("as in http://127.0.0.1:8000"), "{text}: {why}");
        };
        refused("", "it is empty");
        refused("localhost:8000", "does not begin with http://");
        refused("127.0.0.1", "does not begin with http://");
        refused("ftp://box.example", "not \"ftp\"");
        refused("http://box.example:8000/v1", "\"/v1\" must be left out");
        refused("http://box.example?x=1", "\"?x=1\" must be left out");
        refused("http://", "\"\" is not a host");
        refused("http://:8000", "\":8000\" is not a host");
        refused("http://box.example:", "is not a host with a port");
        refused("http://box.example:port", "is not a host with a port");
        refused("http://box.example:99999", "is not a host with a port");
        refused("http://box example:80", "is not a host with a port");
    }
}
