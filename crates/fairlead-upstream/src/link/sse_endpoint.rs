//! Where the `endpoint` event of an HTTP+SSE server points: a reference (RFC 3986, section 5) against
//! the URL of the stream, which must stay within that URL's origin.

use http::{Uri, uri::PathAndQuery};

/// Why an `endpoint` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointError {
    /// It is of another scheme, host or port.
    Foreign,
    /// It is no URL.
    Malformed,
}

/// The path and query `reference` means at `base`.
pub(super) fn resolve(base: &Uri, reference: &str) -> Result<PathAndQuery, EndpointError> {
    let reference = reference.trim().split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return Err(EndpointError::Malformed);
    }
    let scheme = base.scheme_str().unwrap_or("http");
    let absolute = match has_scheme(reference) {
        true => Some(reference.to_owned()),
        false => reference.starts_with("//").then(|| format!("{scheme}:{reference}")),
    };
    let target = match absolute {
        Some(absolute) => {
            // What is not of our scheme need not be understood to be refused.
            if !absolute.split_once(':').is_some_and(|(written, _)| written.eq_ignore_ascii_case(scheme)) {
                return Err(EndpointError::Foreign);
            }
            let uri: Uri = absolute.parse().map_err(|_| EndpointError::Malformed)?;
            if origin(&uri) != origin(base) || uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
            {
                return Err(EndpointError::Foreign);
            }
            uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned()
        }
        None if reference.starts_with('/') => reference.to_owned(),
        None if reference.starts_with('?') => format!("{}{reference}", base.path()),
        None => {
            let directory = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
            format!("{directory}{reference}")
        }
    };
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    let mut clean = without_dots(path);
    if let Some(query) = query {
        clean.push('?');
        clean.push_str(query);
    }
    clean.parse().map_err(|_| EndpointError::Malformed)
}

/// Whether the reference begins with `scheme:`.
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Scheme, host and port, comparable.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// The path without `.` and `..` segments.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in path.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => _ = segments.pop(),
            segment => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if ends_in_directory || clean.is_empty() {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_stay_within_their_origin() {
        use EndpointError::{Foreign, Malformed};
        let base: Uri = "http://mcp.example.com:8080/api/sse?key=1".parse().unwrap();
        for (reference, expected) in [
            ("/messages?sessionId=a", Ok("/messages?sessionId=a")),
            ("/messages/?session_id=a#top", Ok("/messages/?session_id=a")),
            ("messages", Ok("/api/messages")),
            ("./messages?x=/../y", Ok("/api/messages?x=/../y")),
            ("../messages", Ok("/messages")),
            ("../../../messages/..", Ok("/")),
            ("?sessionId=a", Ok("/api/sse?sessionId=a")),
            (" /messages\n", Ok("/messages")),
            ("http://mcp.example.com:8080/m?a", Ok("/m?a")),
            ("HTTP://MCP.EXAMPLE.COM:8080/m", Ok("/m")),
            ("//mcp.example.com:8080/m", Ok("/m")),
            ("http://mcp.example.com:8080", Ok("/")),
            ("/a:b", Ok("/a:b")),
            ("//evil.example.com/m", Err(Foreign)),
            ("http://evil.example.com:8080/m", Err(Foreign)),
            ("https://mcp.example.com:8080/m", Err(Foreign)),
            ("http://mcp.example.com/m", Err(Foreign)),
            ("http://mcp.example.com:8080@evil.example.com/m", Err(Foreign)),
            ("http://user@mcp.example.com:8080/m", Err(Foreign)),
            ("http://mcp.example.com:8080.evil.example.com/m", Err(Foreign)),
            ("file:///etc/passwd", Err(Foreign)),
            ("javascript:alert(1)", Err(Foreign)),
            ("", Err(Malformed)),
            ("/a b", Err(Malformed)),
            ("/a\r\nX: y", Err(Malformed)),
        ] {
            let resolved = resolve(&base, reference);
            assert_eq!(resolved.as_ref().map(PathAndQuery::as_str).map_err(|error| *error), expected, "{reference:?}");
        }
        let default: Uri = "https://x/sse".parse().unwrap();
        assert!(resolve(&default, "https://x:443/m").is_ok(), "the default port may be written");
    }
}
