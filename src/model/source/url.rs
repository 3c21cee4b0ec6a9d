//! Addresses of the web.

/// An address without the user name and password that an index's may contain.
pub(super) fn redact(url: &str) -> String {
    match Parts::of(url) {
        Some(parts) => format!("{}://{}{}", parts.scheme, parts.host, parts.path),
        None => url.to_owned(),
    }
}

/// Whether secrets shared with the server at `from` may be sent to `to`: only to the same server, over a connection that is
/// no less secure.
pub(super) fn may_share_secrets(from: &str, to: &str) -> bool {
    let (Some(from), Some(to)) = (Parts::of(from), Parts::of(to)) else {
        return false;
    };
    from.host.eq_ignore_ascii_case(to.host)
        && (from.scheme.eq_ignore_ascii_case(to.scheme) || to.scheme.eq_ignore_ascii_case("https"))
}

/// A path with everything but letters, digits and `-_.~/` percent-encoded.
pub(super) fn encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) => {
                encoded.push(byte.into());
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The parts of an absolute address.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Some(Self {
            scheme,
            user,
            host,
            path,
        })
    }
}

/// The address of `href` on the page at `base`, or of a redirection from there. A user name and password in `base` are kept
/// for the same host, as indexes that ask for them expect.
pub(super) fn join(base: &str, href: &str) -> Option<String> {
    let base = Parts::of(base)?;
    let absolute;
    let is_absolute = href
        .find([':', '/', '?', '#'])
        .is_some_and(|end| href[end..].starts_with("://"));
    let target = if is_absolute {
        Parts::of(href)?
    } else {
        absolute = if let Some(rest) = href.strip_prefix("//") {
            format!("{}://{rest}", base.scheme)
        } else {
            let page = base.path.split('?').next().unwrap_or_default();
            let directory = &page[..page.rfind('/').map_or(0, |slash| slash + 1)];
            let (href, query) = href.split_at(href.find('?').unwrap_or(href.len()));
            let path = if href.starts_with('/') {
                href.to_owned()
            } else {
                format!("{directory}{href}")
            };
            let mut kept: Vec<&str> = Vec::new();
            for segment in path.split('/').skip(usize::from(path.starts_with('/'))) {
                match segment {
                    "." => {}
                    ".." => {
                        kept.pop();
                    }
                    other => kept.push(other),
                }
            }
            format!("{}://{}/{}{query}", base.scheme, base.host, kept.join("/"))
        };
        Parts::of(&absolute)?
    };
    let user = target
        .user
        .or(base.user.filter(|_| {
            base.host.eq_ignore_ascii_case(target.host)
                && base.scheme.eq_ignore_ascii_case(target.scheme)
        }))
        .map_or_else(String::new, |user| format!("{user}@"));
    Some(format!(
        "{}://{user}{}{}",
        target.scheme, target.host, target.path
    ))
}
