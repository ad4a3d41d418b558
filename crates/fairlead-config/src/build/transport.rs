//! How a server is reached: which of the keys that say so were written, and whether they go together.

use super::Builder;
use crate::{
    check::shorten,
    file::{ServerFile, TransportFile, TypeFile},
    model::{Http, HttpKind, Transport, Url, WebSocket},
};

/// Keys that only mean something to a child process.
const OF_A_PROCESS: &[&str] = &["args", "env", "envFile", "cwd", "stop_grace", "idle_stop"];

/// The family of transports a `type` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Stdio,
    Http,
    WebSocket,
}

impl Family {
    fn of(kind: TypeFile) -> Self {
        match kind {
            TypeFile::Stdio => Self::Stdio,
            TypeFile::Ws | TypeFile::WebSocket => Self::WebSocket,
            TypeFile::Http
            | TypeFile::StreamableHttp
            | TypeFile::StreamableHttpCamel
            | TypeFile::StreamableHttpSnake
            | TypeFile::Sse => Self::Http,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdio => "a child process",
            Self::Http => "an HTTP server",
            Self::WebSocket => "a WebSocket server",
        }
    }
}

/// The transport the keys of `file` describe; `None` when something is wrong with them, which was reported.
pub(super) fn build(builder: &mut Builder<'_>, name: &str, file: &ServerFile) -> Option<Transport> {
    let urls: Vec<(&str, &Url)> = [("url", &file.url), ("serverUrl", &file.server_url), ("httpUrl", &file.http_url)]
        .into_iter()
        .filter_map(|(key, url)| url.as_ref().map(|url| (key, &url.0)))
        .collect();
    if let [(first, _), (second, _), ..] = urls.as_slice() {
        let message = format!("the server has both `{first}` and `{second}`");
        builder.key_error(&["servers", name, second], message, "they mean the same: keep one of the two");
        return None;
    }
    let url = urls.first().copied();
    // A value that is wrong has been reported and still stands in the tree.
    let written = |builder: &Builder<'_>, key: &str| builder.has(&["servers", name, key]);
    let ways: Vec<&str> = [
        ("command", file.command.is_some()),
        (url.map_or("url", |(key, _)| key), url.is_some()),
        ("tcp", file.tcp.is_some()),
        ("unix", file.unix.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, is_there)| is_there.then_some(key))
    .collect();
    match ways.as_slice() {
        [] => {
            let keys = ["command", "url", "serverUrl", "httpUrl", "tcp", "unix", "instances"];
            if !keys.iter().any(|key| written(builder, key)) {
                let hint = "write `command: ...` for a child process, `url: ...` for an HTTP or WebSocket endpoint, `tcp: host:port` or `unix: /path`";
                let message = format!("the server `{}` has none of `command`, `url`, `tcp` and `unix`", shorten(name));
                builder.key_error(&["servers", name], message, hint);
            }
            return None;
        }
        [_] => {}
        // HTTP on a Unix socket.
        [_, "unix"] if url.is_some() => {}
        [first, second, ..] => {
            let hint = format!("remove one of the two; in a later layer, `{first}: null` removes the one below");
            let message = format!("the server has both `{first}` and `{second}`");
            builder.key_error(&["servers", name, second], message, hint);
            return None;
        }
    }
    check_type(builder, name, file, url)?;
    if let (Some(_), None) | (Some(_), Some(true)) = (file.transport, url.map(|(_, url)| url.is_websocket())) {
        let message =
            format!("`transport` is for servers reached over HTTP, and this one has {}", described(ways[0], url));
        builder.key_error(&["servers", name, "transport"], message, "remove `transport`");
        return None;
    }
    match (&file.command, url, &file.tcp, &file.unix) {
        (Some(command), ..) => {
            builder.without_effect(name, &["headers", "connections"], "command");
            builder.stdio(name, command, file).map(Transport::Stdio)
        }
        (_, Some((key, url)), _, None) if url.is_websocket() => {
            builder.without_effect(name, OF_A_PROCESS, key);
            builder.without_effect(name, &["connections"], "ws:// URL");
            let headers = builder.headers(name, &file.headers);
            Some(Transport::WebSocket(WebSocket { url: url.clone(), headers }))
        }
        (_, Some((key, url)), _, unix) => {
            builder.without_effect(name, OF_A_PROCESS, key);
            let headers = builder.headers(name, &file.headers);
            let socket = match unix {
                Some(path) => Some(socket(builder, name, path, url)?),
                None => None,
            };
            Some(Transport::Http(Http { url: url.clone(), headers, kind: http_kind(builder, name, file)?, socket }))
        }
        (_, _, Some(address), _) => {
            builder.without_effect(name, OF_A_PROCESS, "tcp");
            builder.without_effect(name, &["headers", "connections"], "tcp");
            Some(Transport::Tcp(address.0.clone()))
        }
        (_, _, _, Some(path)) => {
            builder.without_effect(name, OF_A_PROCESS, "unix");
            builder.without_effect(name, &["headers", "connections"], "unix");
            builder.path(path, &["servers", name, "unix"]).map(Transport::Unix)
        }
        _ => None,
    }
}

/// Whether the `type` of a client's configuration agrees with the rest.
fn check_type(builder: &mut Builder<'_>, name: &str, file: &ServerFile, url: Option<(&str, &Url)>) -> Option<()> {
    let Some(said) = file.kind.map(Family::of) else { return Some(()) };
    let (is, key) = match (&file.command, url) {
        (Some(_), _) => (Some(Family::Stdio), "command"),
        (None, Some((_, url))) if url.is_websocket() => (Some(Family::WebSocket), "ws:// URL"),
        (None, Some((key, _))) => (Some(Family::Http), key),
        (None, None) => (None, if file.tcp.is_some() { "tcp" } else { "unix" }),
    };
    if is == Some(said) {
        return Some(());
    }
    let message = format!("the `type` is of {}, but there is a `{key}`", said.name());
    builder.error(&["servers", name, "type"], message, "remove `type`");
    None
}

/// Which HTTP transport was asked for, by either key.
fn http_kind(builder: &mut Builder<'_>, name: &str, file: &ServerFile) -> Option<HttpKind> {
    let is_sse = file.kind == Some(TypeFile::Sse);
    match file.transport {
        Some(TransportFile::StreamableHttp) if is_sse => {
            builder.error(&["servers", name, "transport"], "the `type` says `sse`", "keep one of the two");
            None
        }
        Some(TransportFile::StreamableHttp) => Some(HttpKind::Streamable),
        Some(TransportFile::Sse) => Some(HttpKind::Sse),
        None if is_sse => Some(HttpKind::Sse),
        None => Some(HttpKind::Detect),
    }
}

/// The socket of a server that speaks HTTP on one.
fn socket(builder: &mut Builder<'_>, name: &str, path: &str, url: &Url) -> Option<std::path::PathBuf> {
    if url.is_tls() || url.is_websocket() {
        let message = "on a Unix socket a server is reached by `http://` only";
        builder.key_error(&["servers", name, "unix"], message, "write `url: http://localhost/...`, or remove `unix`");
        return None;
    }
    builder.path(path, &["servers", name, "unix"])
}

fn described(key: &str, url: Option<(&str, &Url)>) -> String {
    match url {
        Some(_) => "a WebSocket URL".to_owned(),
        None => format!("a `{key}`"),
    }
}
