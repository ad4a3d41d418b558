//! Whether a request may come from where it says: the guard against DNS rebinding (a web page that
//! talks to the loopback address under its own name).

use crate::seen::{Once, Seen};
use fairlead_config::Listen;
use fairlead_core::{Code, Refusal};
use http::Uri;
use std::net::IpAddr;

/// Checks `Host` (or the request's authority) and `Origin`.
pub(crate) fn check(seen: &Seen<'_>, uri: &Uri, listen: &Listen) -> Result<(), Refusal> {
    let host = match (uri.authority(), seen.host) {
        (_, Once::Repeated) => return Err(foreign("`Host`")),
        (Some(authority), _) => authority.as_str(),
        (None, Once::Present(host)) => host.to_str().map_err(|_| foreign("`Host`"))?,
        // HTTP/1.0 without a host: nothing a browser sends.
        (None, Once::Absent) => "localhost",
    };
    if !is_served(host_name(host), listen) {
        return Err(foreign("`Host`"));
    }
    let allowed = match seen.origin {
        Once::Absent => true,
        Once::Present(origin) => origin.to_str().is_ok_and(|origin| is_allowed_origin(origin, listen)),
        Once::Repeated => false,
    };
    if allowed { Ok(()) } else { Err(foreign("`Origin`")) }
}

fn foreign(what: &str) -> Refusal {
    Refusal::new(
        Code::ForeignOrigin,
        format!(
            "{what} is not one this listener serves; an operator can allow it with `listen.hosts` or `listen.origins`"
        ),
    )
}

fn host_name(host: &str) -> &str {
    if let Some(end) = host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return &host[1..=end];
    }
    host.rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host })
}

fn is_loopback(name: &str) -> bool {
    if name == "127.0.0.1" || name == "localhost" {
        return true;
    }
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_served(name: &str, listen: &Listen) -> bool {
    is_loopback(name)
        || listen.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
        || (!listen.address.ip().is_unspecified() && name.parse() == Ok(listen.address.ip()))
}

fn is_allowed_origin(origin: &str, listen: &Listen) -> bool {
    if listen.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let name = origin
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
        .map(|(_, host)| host_name(host));
    name.is_some_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, header};

    #[test]
    fn hosts_and_origins() {
        let config = fairlead_config::parse_str(
            "test.yaml",
            "listen: { hosts: [gateway.example.com], origins: ['https://app.example.com'] }\nservers: {}\n",
            std::path::Path::new("/"),
            &|_| None,
        )
        .expect("valid");
        for (host, origin, allowed) in [
            ("127.0.0.1:8642", None, true),
            ("localhost", None, true),
            ("LOCALHOST:1", None, true),
            ("[::1]:8642", None, true),
            ("gateway.example.com", None, true),
            ("evil.example.com", None, false),
            ("evil.example.com:8642", None, false),
            ("127.0.0.1.evil.example.com", None, false),
            ("localhost", Some("http://localhost:3000"), true),
            ("localhost", Some("https://app.example.com"), true),
            ("localhost", Some("https://evil.example.com"), false),
            ("localhost", Some("null"), false),
            ("localhost", Some("http://localhost.evil.example.com"), false),
            ("localhost", Some("file://localhost"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("header"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().expect("header"));
            }
            let result = check(&Seen::of(&headers), &Uri::from_static("/mcp"), &config.listen);
            assert_eq!(result.is_ok(), allowed, "{host} {origin:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().expect("header"));
        headers.append(header::HOST, "evil.example.com".parse().expect("header"));
        assert!(check(&Seen::of(&headers), &Uri::from_static("/mcp"), &config.listen).is_err());
    }
}
