//! Opening a link: start the transport, find out the era, shake hands.
//!
//! The order of the specification: a modern request first (`server/discover`); an answer that only
//! a modern server gives settles it, anything else means `initialize`. What was found before is
//! tried first, so that a legacy server is not asked modern questions at every start.

use crate::{
    catalog::own_meta,
    exchange::{Item, Prepared, WireExchange},
    http_client::{HttpClients, Worker},
    link::{
        Link, LinkKey, Peer, Wire,
        http::{HttpWire, static_headers},
        inbound::Inbound,
        stdio::StdioWire,
    },
};
use fairlead_config::{Server, Transport};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::{ChildSpec, GuardBinary};
use fairlead_wire::{Era, Field, Frame, Kind, Method, Revision, header, list, message};
use http::HeaderValue;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// How long a server may take over the modern question before it is taken for a legacy one.
const PROBE: Duration = Duration::from_secs(10);
/// How long a server that is told of roots may take to ask for them before its first call.
const FIRST_QUESTION: Duration = Duration::from_secs(2);

/// What is needed to open links to one server.
pub(crate) struct Opener {
    pub(crate) server: Arc<Server>,
    pub(crate) guard: GuardBinary,
    pub(crate) clients: Option<HttpClients>,
    /// Processes it may have at the same time; one that is being stopped still counts.
    pub(crate) slots: Arc<Semaphore>,
}

impl Opener {
    /// Opens a link for `inbound.key`. `hint` is the era to try first; legacy skips the modern question.
    pub(crate) async fn open(&self, inbound: Inbound, hint: Option<Era>) -> Result<Link, UpstreamError> {
        let deadline = Instant::now() + self.server.timeout.start;
        let inbound = Arc::new(inbound);
        let mut opening = Opening { opener: self, inbound, deadline };
        opening.run(hint).await
    }

    async fn start_wire(&self, inbound: &Arc<Inbound>, deadline: Instant) -> Result<Wire, UpstreamError> {
        match &self.server.transport {
            Transport::Stdio(stdio) => {
                let spec = ChildSpec {
                    command: stdio.command.clone(),
                    args: stdio.args.clone(),
                    env: stdio.env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
                    cwd: stdio.cwd.clone(),
                    stop_grace: stdio.stop_grace,
                    guard: self.guard.clone(),
                };
                let Ok(Ok(slot)) = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await else {
                    return Err(UpstreamError::new(
                        UpstreamErrorKind::AtCapacity,
                        Outcome::NotMade,
                        "its earlier processes have not ended yet (`max_sessions`)",
                    ));
                };
                StdioWire::start(&spec, Arc::clone(inbound), self.server.max_message, slot).map(Wire::Stdio)
            }
            Transport::Http(http) => {
                let clients = self.clients.clone().expect("invariant: an HTTP server has HTTP clients");
                let headers =
                    static_headers(http.headers.iter().map(|(name, value)| (name, value.expose())), clients.host());
                Ok(Wire::Http(HttpWire::new(clients, headers, Arc::clone(inbound), self.server.max_message)))
            }
        }
    }
}

struct Opening<'a> {
    opener: &'a Opener,
    inbound: Arc<Inbound>,
    deadline: Instant,
}

/// What the modern question brought.
enum Probe {
    Modern(Frame),
    Legacy,
    /// The transport did not survive the question.
    Broken,
}

impl Opening<'_> {
    async fn run(&mut self, hint: Option<Era>) -> Result<Link, UpstreamError> {
        let mut wire = self.opener.start_wire(&self.inbound, self.deadline).await?;
        let hint = self.pinned().map(Revision::era).or(hint);
        if hint != Some(Era::Legacy) {
            match self.probe(&wire).await {
                Ok(Probe::Modern(answer)) => return self.modern(wire, &answer),
                Ok(Probe::Legacy) => {}
                Ok(Probe::Broken) => {
                    close(wire).await;
                    self.inbound = Arc::new(Inbound::new(
                        self.inbound.link,
                        self.inbound.server.clone(),
                        self.inbound.key.clone(),
                        self.inbound.events.clone(),
                    ));
                    wire = self.opener.start_wire(&self.inbound, self.deadline).await?;
                }
                Err(error) => {
                    close(wire).await;
                    return Err(error);
                }
            }
        }
        match self.legacy(&wire).await {
            Ok(peer) => {
                let key = LinkKey { era: Era::Legacy, ..self.inbound.key.clone() };
                Ok(Link::new(key, Arc::new(peer), wire, Arc::clone(&self.inbound)))
            }
            Err(error) => {
                close(wire).await;
                Err(error)
            }
        }
    }

    /// The revision the configuration fixes, if it does.
    fn pinned(&self) -> Option<Revision> {
        self.opener.server.protocol.as_deref().and_then(Revision::parse)
    }

    async fn probe(&self, wire: &Wire) -> Result<Probe, UpstreamError> {
        let until = self.deadline.min(Instant::now() + PROBE);
        let params = format!("{{\"_meta\":{}}}", own_meta());
        let headers = vec![
            (header::MCP_PROTOCOL_VERSION, HeaderValue::from_static(Revision::V2026_07_28.as_str())),
            (header::MCP_METHOD, HeaderValue::from_static("server/discover")),
        ];
        let answer = match self.ask(wire, 1, Method::Discover, Some(&params), headers, until).await {
            Ok(answer) => answer,
            Err(error) => {
                return match error.kind {
                    UpstreamErrorKind::Unavailable if error.outcome == Outcome::NotMade => Err(error),
                    UpstreamErrorKind::Lost => Ok(Probe::Broken),
                    _ => Ok(Probe::Legacy),
                };
            }
        };
        let offers_modern = |versions: Option<&str>| {
            versions.is_some_and(|versions| versions.contains(&format!("\"{}\"", Revision::V2026_07_28.as_str())))
        };
        match answer.kind() {
            Kind::Result => {
                let result = answer.raw(Field::Result).unwrap_or("{}");
                if offers_modern(list::raw_member(result, "supportedVersions")) {
                    return Ok(Probe::Modern(answer));
                }
                Ok(Probe::Legacy)
            }
            _ => Ok(Probe::Legacy),
        }
    }

    fn modern(&self, wire: Wire, answer: &Frame) -> Result<Link, UpstreamError> {
        if let Wire::Http(http) = &wire {
            http.settle_on(Revision::V2026_07_28);
        }
        let result = answer.raw(Field::Result).unwrap_or("{}");
        let peer = peer_of(Revision::V2026_07_28, result, answer);
        // A modern link serves every caller: nothing of theirs is part of it.
        let key = LinkKey::modern();
        Ok(Link::new(key, Arc::new(peer), wire, Arc::clone(&self.inbound)))
    }

    async fn legacy(&self, wire: &Wire) -> Result<Peer, UpstreamError> {
        let params = format!(
            "{{\"protocolVersion\":\"{}\",\"capabilities\":{},\"clientInfo\":{{\"name\":\"fairlead\",\"version\":\"{}\"}}}}",
            self.pinned().filter(|revision| revision.era() == Era::Legacy).unwrap_or(Revision::LATEST_LEGACY).as_str(),
            self.inbound.key.capabilities.to_json(),
            env!("CARGO_PKG_VERSION"),
        );
        let answer = self.ask(wire, 2, Method::Initialize, Some(&params), Vec::new(), self.deadline).await?;
        if answer.kind() != Kind::Result {
            let said = answer.str(Field::ErrorMessage).unwrap_or_default().chars().take(200).collect::<String>();
            return Err(UpstreamError::new(
                UpstreamErrorKind::Garbage,
                Outcome::NotMade,
                format!("it refuses to initialize: {said}"),
            ));
        }
        let result = answer.raw(Field::Result).unwrap_or("{}");
        let revision = list::string_member(result, "protocolVersion")
            .and_then(|text| Revision::parse(&text))
            .filter(|revision| revision.era() == Era::Legacy)
            .ok_or_else(|| {
                UpstreamError::new(
                    UpstreamErrorKind::Garbage,
                    Outcome::NotMade,
                    "it answers `initialize` with a protocol revision the gateway does not know",
                )
            })?;
        let peer = peer_of(revision, result, &answer);
        if let Wire::Http(http) = wire {
            http.settle_on(revision);
        }
        let ready = message::notification("notifications/initialized", None);
        match wire {
            Wire::Http(http) => {
                // A server that takes no notification would keep everybody waiting for the link.
                timeout_at(self.deadline, http.push(Worker::CONTROL, ready)).await.unwrap_or_else(|_| {
                    Err(UpstreamError::new(
                        UpstreamErrorKind::Unavailable,
                        Outcome::NotMade,
                        "it did not take `notifications/initialized` in time",
                    ))
                })?;
                http.open_stream();
            }
            Wire::Stdio(stdio) => {
                stdio.push(ready).await?;
                if self.inbound.key.capabilities.has_roots() {
                    // A server that follows roots asks for them now, before it answers anything else.
                    let until = self.deadline.min(Instant::now() + FIRST_QUESTION);
                    let _ = self.ask(wire, 3, Method::Ping, None, Vec::new(), until).await;
                }
            }
        }
        Ok(peer)
    }

    async fn ask(
        &self,
        wire: &Wire,
        id: u64,
        method: Method,
        params: Option<&str>,
        headers: Vec<(http::HeaderName, HeaderValue)>,
        until: Instant,
    ) -> Result<Frame, UpstreamError> {
        let prepared = Prepared {
            id,
            method,
            mcp_method: None,
            bytes: message::request(&id.to_string(), method.as_str(), params),
            mcp_name: None,
            headers,
        };
        let asked = async {
            let mut exchange = match wire {
                Wire::Http(http) => WireExchange::Http(http.send(Worker::CONTROL, prepared)),
                Wire::Stdio(stdio) => WireExchange::Stdio(stdio.send(prepared).await?),
            };
            loop {
                match exchange.next().await? {
                    Some(Item::Final(answer)) => return Ok(answer.frame),
                    Some(Item::Message(question)) if question.kind() == Kind::Request => {
                        let no =
                            message::error(question.id(), -32603, "nobody can be asked during the handshake", None);
                        match wire {
                            Wire::Http(http) => http.push(Worker::CONTROL, no).await?,
                            Wire::Stdio(stdio) => stdio.push(no).await?,
                        }
                    }
                    Some(Item::Message(_)) | None => {}
                }
            }
        };
        timeout_at(until, asked).await.unwrap_or_else(|_| {
            Err(UpstreamError::new(
                UpstreamErrorKind::Timeout,
                Outcome::NotMade,
                format!("it did not answer `{}` in time", method.as_str()),
            ))
        })
    }
}

fn peer_of(revision: Revision, result: &str, answer: &Frame) -> Peer {
    let server_info = list::raw_member(result, "serverInfo").map(Box::<str>::from).or_else(|| {
        let meta = answer.raw(Field::ResultMeta)?;
        list::raw_member(meta, "io.modelcontextprotocol/serverInfo").map(Box::<str>::from)
    });
    Peer {
        revision,
        capabilities: list::raw_member(result, "capabilities").unwrap_or("{}").into(),
        server_info,
        instructions: list::string_member(result, "instructions").map(|text| text.into_owned().into_boxed_str()),
        answer: result.into(),
    }
}

async fn close(wire: Wire) {
    match &wire {
        Wire::Http(http) => http.close().await,
        Wire::Stdio(stdio) => stdio.close().await,
    }
}
