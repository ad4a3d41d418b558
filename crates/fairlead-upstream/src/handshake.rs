//! Opening a link: start the transport, find out the era, shake hands.
//!
//! The order of the specification: a modern request first (`server/discover`); an answer that only
//! a modern server gives settles it, anything else means `initialize`. What was found before is
//! tried first, so that a legacy server is not asked modern questions at every start.

mod dial;

use crate::{
    catalog::own_meta,
    exchange::{Final, Item, Prepared, WireExchange},
    http_client::{HttpClients, Worker},
    link::{
        Link, LinkKey, Peer, Wire, connection::ConnectionWire, http::HttpStatus, inbound::Inbound, stdio::StdioWire,
    },
    owner::Environment,
};
use dial::Spoken;
use fairlead_config::Server;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::GuardBinary;
use fairlead_wire::{Era, Field, Frame, Kind, Method, Revision, header, list, message};
use http::HeaderValue;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// How long a server may take over the modern question before it is taken for a legacy one.
const PROBE: Duration = Duration::from_secs(10);
/// Error codes that only modern servers use: header mismatch, missing capability, unsupported revision.
const MODERN_REFUSALS: [&str; 3] = ["-32020", "-32021", "-32022"];
/// How long a server that is told of roots may take to ask for them before its first call.
const FIRST_QUESTION: Duration = Duration::from_secs(2);

/// What is needed to open links to one server.
pub(crate) struct Opener {
    server: Arc<Server>,
    guard: GuardBinary,
    clients: Option<HttpClients>,
    tls: Arc<rustls::ClientConfig>,
    /// Processes it may have at the same time; one that is being stopped still counts.
    slots: Arc<Semaphore>,
    spoken: Spoken,
}

impl Opener {
    /// `over_sse`: an earlier run found out that the server speaks HTTP+SSE.
    pub(crate) fn new(
        server: Arc<Server>,
        clients: Option<HttpClients>,
        over_sse: bool,
        environment: &Environment,
    ) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(server.max_sessions)),
            server,
            guard: environment.guard.clone(),
            clients,
            tls: Arc::clone(&environment.tls),
            spoken: Spoken::from_before(over_sse),
        }
    }

    /// Opens a link for `inbound.key`. `hint` is the era to try first; legacy skips the modern question.
    pub(crate) async fn open(&self, inbound: Inbound, hint: Option<Era>) -> Result<Link, UpstreamError> {
        let deadline = Instant::now() + self.server.timeout.start;
        let inbound = Arc::new(inbound);
        let mut opening = Opening { opener: self, inbound, deadline };
        opening.run(hint).await
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
        let hint = self.opener.only_era().or(self.pinned().map(Revision::era)).or(hint);
        let mut wire = self.opener.start_wire(&self.inbound, self.deadline).await?;
        if hint != Some(Era::Legacy) {
            match self.probe(&wire).await {
                Ok(Probe::Modern(answer)) => return self.modern(wire, &answer),
                Ok(Probe::Legacy) => {}
                Ok(Probe::Broken) => {
                    wire.close().await;
                    self.begin_anew();
                    wire = self.opener.start_wire(&self.inbound, self.deadline).await?;
                }
                Err(error) => {
                    wire.close().await;
                    return Err(error);
                }
            }
        }
        let mut greeted = self.legacy(&wire).await;
        if let Err(error) = &greeted
            && self.opener.may_be_sse(error, self.pinned())
        {
            self.begin_anew();
            if let Some(sse) = self.opener.try_sse(Arc::clone(&self.inbound), self.deadline).await {
                wire.close().await;
                wire = sse;
                greeted = self.legacy(&wire).await;
            }
        }
        match greeted {
            Ok(peer) => {
                self.opener.opened_over(&wire);
                let key = LinkKey { era: Era::Legacy, ..self.inbound.key.clone() };
                Ok(Link::new(key, Arc::new(peer), wire, Arc::clone(&self.inbound)))
            }
            Err(error) => {
                wire.close().await;
                Err(error)
            }
        }
    }

    /// Another transport is tried: what the one before noted does not count for it.
    fn begin_anew(&mut self) {
        let before = &self.inbound;
        let (server, key, events) = (before.server.clone(), before.key.clone(), before.events.clone());
        let instance = Arc::clone(&before.instance);
        let apart = before.keeps_roots_apart;
        let mut inbound = Inbound::new(before.link, server, instance, key, events);
        inbound.keeps_roots_apart = apart;
        self.inbound = Arc::new(inbound);
    }

    /// The revision the configuration fixes, if it does.
    fn pinned(&self) -> Option<Revision> {
        self.opener.server.protocol.as_deref().and_then(Revision::parse)
    }

    async fn probe(&self, wire: &Wire) -> Result<Probe, UpstreamError> {
        let until = self.deadline.min(Instant::now() + PROBE);
        let offers_modern = |versions: Option<&str>| {
            versions.is_some_and(|versions| versions.contains(&format!("\"{}\"", Revision::V2026_07_28.as_str())))
        };
        // A server that refuses the revision and lists it all the same is asked once more: only one revision is modern.
        for id in [1, 3] {
            let answer = match self.discover(wire, id, until).await {
                Ok(answer) => answer,
                Err(error) => {
                    return match error.kind {
                        UpstreamErrorKind::Unavailable if error.outcome == Outcome::NotMade => Err(error),
                        UpstreamErrorKind::Lost => Ok(Probe::Broken),
                        _ => Ok(Probe::Legacy),
                    };
                }
            };
            match answer.kind() {
                Kind::Result => {
                    let result = answer.raw(Field::Result).unwrap_or("{}");
                    let is_modern = offers_modern(list::raw_member(result, "supportedVersions"));
                    return Ok(if is_modern { Probe::Modern(answer) } else { Probe::Legacy });
                }
                _ if answer.error_code() == Some(header::UNSUPPORTED_VERSION)
                    && offers_modern(
                        answer.raw(Field::ErrorData).and_then(|data| list::raw_member(data, "supported")),
                    ) => {}
                _ => break,
            }
        }
        Ok(Probe::Legacy)
    }

    async fn discover(&self, wire: &Wire, id: u64, until: Instant) -> Result<Frame, UpstreamError> {
        let params = format!("{{\"_meta\":{}}}", own_meta());
        let headers = vec![
            (header::MCP_PROTOCOL_VERSION, HeaderValue::from_static(Revision::V2026_07_28.as_str())),
            (header::MCP_METHOD, HeaderValue::from_static("server/discover")),
        ];
        let answer = self.ask(wire, id, Method::Discover, Some(&params), headers, until).await?;
        Ok(answer.frame)
    }

    fn modern(&self, wire: Wire, answer: &Frame) -> Result<Link, UpstreamError> {
        if let Wire::Http(http) = &wire {
            http.settle_on(Revision::V2026_07_28);
        }
        self.opener.opened_over(&wire);
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
        let Final { frame: answer, status } =
            self.ask(wire, 2, Method::Initialize, Some(&params), Vec::new(), self.deadline).await?;
        if answer.kind() != Kind::Result {
            let said = answer.str(Field::ErrorMessage).unwrap_or_default().chars().take(200).collect::<String>();
            let what = format!("it refuses to initialize: {said}");
            let error = UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, what);
            // A modern server refuses in its own words.
            let is_modern = answer.raw(Field::ErrorCode).is_some_and(|code| MODERN_REFUSALS.contains(&code));
            return Err(match status {
                Some(status) if !is_modern => error.because(HttpStatus(status)),
                _ => error,
            });
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
            Wire::Stdio(_) | Wire::Connection(_) => {
                wire.push(Worker::CONTROL, ready).await?;
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
    ) -> Result<Final, UpstreamError> {
        let prepared = Prepared {
            id,
            method,
            mcp_method: None,
            bytes: message::request(&id.to_string(), method.as_str(), params),
            mcp_name: None,
            headers,
            task: None,
        };
        let asked = async {
            let mut exchange = match wire {
                Wire::Http(http) => WireExchange::Http(http.send(Worker::CONTROL, prepared)),
                Wire::Stdio(StdioWire { duplex, .. }) | Wire::Connection(ConnectionWire { duplex, .. }) => {
                    WireExchange::Duplex(duplex.send(prepared).await?)
                }
            };
            loop {
                match exchange.next().await? {
                    Some(Item::Final(answer)) => return Ok(answer),
                    Some(Item::Message(question)) if question.kind() == Kind::Request => {
                        let no =
                            message::error(question.id(), -32603, "nobody can be asked during the handshake", None);
                        wire.push(Worker::CONTROL, no).await?;
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
