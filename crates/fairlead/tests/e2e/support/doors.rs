//! Scripted servers behind every kind of door, and what the configuration says to reach them.

use fairlead_testkit::{Door, Script, ScriptedServer};

/// A transport towards servers that is neither Streamable HTTP over TCP nor a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// HTTP+SSE, as the configuration says.
    Sse,
    /// HTTP+SSE, which the gateway has to find out.
    DetectedSse,
    WebSocket,
    Tcp,
    Unix,
    /// Streamable HTTP on a Unix socket.
    HttpUnix,
}

impl Way {
    pub(crate) const ALL: [Way; 6] = [Way::Sse, Way::DetectedSse, Way::WebSocket, Way::Tcp, Way::Unix, Way::HttpUnix];
    /// Those that are one connection for everything.
    pub(crate) const CONNECTIONS: [Way; 4] = [Way::Sse, Way::WebSocket, Way::Tcp, Way::Unix];

    /// Whether the transport can carry the modern era.
    pub(crate) fn has_modern(self) -> bool {
        !matches!(self, Way::Sse | Way::DetectedSse)
    }
}

/// A scripted server that is reached in one of these ways.
pub(crate) struct Doored {
    pub(crate) server: ScriptedServer,
    way: Way,
    _dir: Option<tempfile::TempDir>,
}

impl Doored {
    pub(crate) async fn start(way: Way, script: Script) -> Self {
        let dir = matches!(way, Way::Unix | Way::HttpUnix)
            .then(|| tempfile::Builder::new().prefix("fairlead-door-").tempdir().unwrap());
        let socket = dir.as_ref().map(|dir| dir.path().join("s.sock")).unwrap_or_default();
        let door = match way {
            Way::Sse | Way::DetectedSse | Way::WebSocket => Door::Http,
            Way::Tcp => Door::Tcp,
            Way::Unix => Door::Unix(socket),
            Way::HttpUnix => Door::HttpUnix(socket),
        };
        Self { server: ScriptedServer::start_at(door, script).await, way, _dir: dir }
    }

    /// The members that say how it is reached, to be completed by the test:
    /// `format!("{{ {}, start: eager }}", doored.yaml())`.
    pub(crate) fn yaml(&self) -> String {
        let socket = || self.server.socket().map(|path| path.display().to_string()).unwrap_or_default();
        match self.way {
            Way::Sse => format!("url: \"{}\", transport: sse", self.server.sse_url()),
            Way::DetectedSse => format!("url: \"{}\"", self.server.sse_url()),
            Way::WebSocket => format!("url: \"{}\"", self.server.ws_url()),
            Way::Tcp => format!("tcp: \"{}\"", self.server.address()),
            Way::Unix => format!("unix: \"{}\"", socket()),
            Way::HttpUnix => format!("url: http://localhost/mcp, unix: \"{}\"", socket()),
        }
    }
}
