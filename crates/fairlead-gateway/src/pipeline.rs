//! The story of a request. Read it from top to bottom.
//!
//! What only some requests need is awaited in a box, so that a call does not carry the room of it.

use crate::{
    admit, answer,
    body::Body,
    bulkhead::Places,
    call::Call,
    call_many, capabilities,
    correlate::Info,
    deadline,
    gateway::Gateway,
    hello, inspect, limits, list_page, listen, listening, overload, park, relay, replay, resolve,
    response::{json, refuse, refuse_call},
    results, reuse, routing, search,
    seen::{Once, Seen},
    session::{Session, SessionError},
    session_state, skills,
    snapshot::{Endpoint, Upstream},
    tasks, versions,
};
use bytes::Bytes;
use fairlead_core::{Caller, Code, Refusal};
use fairlead_upstream::{ListingKind, Worker};
use fairlead_wire::{
    CapabilitySet, Era, Field, Frame, FrameError, Incoming, Kind, Limits, Method, Revision, header, message,
};
use futures_util::StreamExt;
use http::{HeaderMap, Response, StatusCode};
use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32},
    },
};
use tokio::time::Instant;

/// The number that stands for every client without a session.
const SESSIONLESS: u64 = u64::MAX - 1;

/// Sessions whose subscriptions are mended at the same time.
const MENDED_AT_ONCE: usize = 32;

/// A POST: one message, or a batch where the revision has them.
pub(crate) async fn post(
    gateway: &Gateway,
    worker: Worker,
    endpoint: &Arc<Endpoint>,
    caller: Caller,
    headers: &HeaderMap,
    seen: &Seen<'_>,
    bytes: Bytes,
) -> Result<Response<Body>, Refusal> {
    let door = Entry { gateway, worker, endpoint, caller, headers, seen, carrier: Carrier::Http, in_batch: false };
    match Incoming::parse(&bytes, &Limits::default()).map_err(|error| not_a_message(&error))? {
        // The era is a property of the message: both are served on one URL.
        Incoming::One(frame) if is_modern(&frame, seen) => Ok(door.modern(frame).await),
        Incoming::One(frame) => door.legacy(frame).await,
        Incoming::Batch(frames) => Box::pin(door.batch(frames)).await,
    }
}

/// A message from a connection that carries messages both ways. `headers` name its session, if it has one.
pub(crate) async fn message(
    gateway: &Gateway,
    worker: Worker,
    endpoint: &Arc<Endpoint>,
    caller: Caller,
    headers: &HeaderMap,
    message: Incoming,
) -> Result<Response<Body>, Refusal> {
    let (seen, carrier) = (Seen::of(headers), Carrier::Duplex);
    let door = Entry { gateway, worker, endpoint, caller, headers, seen: &seen, carrier, in_batch: false };
    match message {
        Incoming::One(frame) if frame.is_modern() => Ok(door.modern(frame).await),
        Incoming::One(frame) => door.legacy(frame).await,
        Incoming::Batch(frames) => door.batch(frames).await,
    }
}

/// A GET: a legacy client's stream for what belongs to no call, or the rest of one that broke off.
pub(crate) async fn get(
    gateway: &Gateway,
    worker: Worker,
    endpoint: &Arc<Endpoint>,
    caller: Caller,
    headers: &HeaderMap,
    seen: &Seen<'_>,
    held: replay::Held,
) -> Result<Response<Body>, Refusal> {
    if says_modern(seen) {
        return Err(Refusal::new(
            Code::HttpMethod,
            "the revision of 2026-07-28 has no GET stream; use subscriptions/listen",
        ));
    }
    if !listen::accepts_events(headers) {
        return Err(Refusal::new(Code::MediaType, "`Accept` must list text/event-stream"));
    }
    let carrier = Carrier::Http;
    let entry = Entry { gateway, worker, endpoint, caller, headers, seen, carrier, in_batch: false };
    let session = entry.session().await?;
    if session.is_fleeting() {
        return Err(Refusal::new(Code::HttpMethod, "there is no stream without a session"));
    }
    admit::gateway(gateway)?;
    replay::get(gateway, &session, headers, held)
}

/// A DELETE: the end of a legacy session.
pub(crate) async fn delete(
    gateway: &Gateway,
    endpoint: &Arc<Endpoint>,
    caller: &Caller,
    seen: &Seen<'_>,
) -> Result<Response<Body>, Refusal> {
    if says_modern(seen) && seen.session.is_absent() {
        return Err(Refusal::new(Code::HttpMethod, "the revision of 2026-07-28 has no sessions"));
    }
    let session = find_session(gateway, endpoint, caller, &HeaderMap::new(), seen).await?;
    gateway.sessions().end(&session);
    Ok(crate::response::empty(StatusCode::OK))
}

/// Tells servers what sessions are subscribed to and they were not told of.
pub(crate) async fn mend(gateway: &Gateway, worker: Worker) {
    let round = session_state::Round::default();
    let sessions = gateway.sessions().listeners();
    let mending: Vec<_> = sessions.iter().map(|session| mend_one(gateway, worker, session, &round)).collect();
    futures_util::stream::iter(mending).buffer_unordered(MENDED_AT_ONCE).for_each(|()| async {}).await;
}

async fn mend_one(gateway: &Gateway, worker: Worker, session: &Arc<Session>, round: &session_state::Round) {
    let snapshot = gateway.snapshot();
    let Some(endpoint) = snapshot.endpoint(&session.path) else { return };
    let headers = HeaderMap::new();
    let (caller, carrier, seen) = (session.caller.clone(), Carrier::Http, Seen::default());
    let entry = Entry { gateway, worker, endpoint, caller, headers: &headers, seen: &seen, carrier, in_batch: false };
    session_state::subscribe_again(session, round, |frame| entry.call(frame, Some(Arc::clone(session)))).await;
}

/// What every message of one request shares.
struct Entry<'a> {
    gateway: &'a Gateway,
    worker: Worker,
    endpoint: &'a Arc<Endpoint>,
    caller: Caller,
    headers: &'a HeaderMap,
    seen: &'a Seen<'a>,
    carrier: Carrier,
    in_batch: bool,
}

/// What a message came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// A request of its own, whose headers say of it what the revision asks.
    Http,
    /// A connection that carries messages without headers.
    Duplex,
}

impl Entry<'_> {
    /// A message of the revision of 2026-07-28: complete in itself.
    async fn modern(&self, frame: Frame) -> Response<Body> {
        if frame.kind() != Kind::Request {
            // Nothing is ever asked of a modern client, and closing a stream is its cancellation.
            return listen::accepted();
        }
        if let Err(refusal) = self.check_modern(&frame) {
            self.gateway.metrics().refused(refusal.code);
            return refuse(Some(frame.id().unwrap_or("null")), &refusal);
        }
        let method = frame.method_class();
        let call = self.call(frame, None);
        know_who_serves(&call).await;
        match method {
            Method::Discover => Box::pin(hello::discover(&call)).await,
            Method::ToolsList => Box::pin(list_page::answer(&call, ListingKind::Tools)).await,
            Method::ResourcesList => Box::pin(list_page::answer(&call, ListingKind::Resources)).await,
            Method::TemplatesList => Box::pin(list_page::answer(&call, ListingKind::Templates)).await,
            Method::PromptsList => Box::pin(list_page::answer(&call, ListingKind::Prompts)).await,
            Method::Listen if !resolve::listens_itself(&call) => listening::answer(*call),
            Method::ToolsCall | Method::ResourcesRead | Method::PromptsGet | Method::Complete | Method::Listen => {
                Box::pin(forward(call)).await
            }
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => Box::pin(tasks::answer(call)).await,
            Method::Other if resolve::is_same_era_single(&call) => Box::pin(forward(call)).await,
            Method::Other => extension(&call).await,
            _ => unknown_method(&call),
        }
    }

    /// The ladder of checks of the revision of 2026-07-28, in its order: `_meta`, headers against
    /// body, version, room. (Capabilities are the server's to check, methods the dispatcher's.)
    fn check_modern(&self, frame: &Frame) -> Result<(), Refusal> {
        let version = frame.str(Field::MetaProtocolVersion);
        let capabilities = frame.raw(Field::MetaClientCapabilities);
        let Some(version) = version else {
            return Err(Refusal::new(
                Code::BadRequestMeta,
                "`params._meta` must carry \"io.modelcontextprotocol/protocolVersion\" as a string",
            ));
        };
        if !capabilities.is_some_and(|raw| raw.starts_with('{')) {
            return Err(Refusal::new(
                Code::BadRequestMeta,
                "`params._meta` must carry \"io.modelcontextprotocol/clientCapabilities\" as an object",
            ));
        }
        if self.carrier == Carrier::Http {
            header::check_standard(self.headers, frame)
                .map_err(|error| Refusal::new(Code::HeaderMismatch, error.to_string()))?;
        }
        if Revision::parse(&version).map(Revision::era) != Some(Era::Modern) {
            return Err(unsupported(&version));
        }
        admit::gateway(self.gateway)
    }

    /// A message of the session-based revisions.
    async fn legacy(&self, frame: Frame) -> Result<Response<Body>, Refusal> {
        let answered = self.legacy_message(&frame).await;
        answered.or_else(|refusal| {
            self.gateway.metrics().refused(refusal.code);
            Ok(refuse(frame.id(), &refusal))
        })
    }

    async fn legacy_message(&self, frame: &Frame) -> Result<Response<Body>, Refusal> {
        if frame.kind() == Kind::Request && frame.method_class() == Method::Initialize {
            admit::gateway(self.gateway)?;
            let keeps = !never_sends_its_id(self.endpoint, self.headers);
            return Box::pin(hello::initialize(self.gateway, self.endpoint, &self.caller, frame, keeps)).await;
        }
        let session = self.session().await?;
        match frame.kind() {
            Kind::Request => {
                admit::gateway(self.gateway)?;
                let id = frame.id_slice().unwrap_or(Bytes::from_static(b"null"));
                let control = admit::session(self.endpoint, &session, id)?;
                let mut call = self.call(frame.clone(), Some(session));
                call.control = Some(control);
                Ok(legacy_request(call).await)
            }
            Kind::Notification => {
                match frame.method_class() {
                    Method::Cancelled => {
                        if let Some(request) = frame.raw(Field::ParamRequestId) {
                            session.cancel(request);
                        }
                    }
                    Method::RootsListChanged => session.roots_changed(),
                    // `initialized` needs no answer and its absence wedges nothing; what else a
                    // client says on its own concerns the gateway alone.
                    _ => {}
                }
                Ok(listen::accepted())
            }
            Kind::Result | Kind::Error => {
                Box::pin(relay::client_answered(self.gateway, self.worker, &session, frame)).await;
                Ok(listen::accepted())
            }
        }
    }

    /// A batch of the revision of 2025-03-26: its calls run side by side, the answers come together.
    async fn batch(&self, frames: Vec<Frame>) -> Result<Response<Body>, Refusal> {
        let session = self.session().await?;
        if !session.revision.has_batches() {
            return Err(Refusal::new(Code::BatchNotAllowed, "batches are only part of the revision of 2025-03-26"));
        }
        if frames.iter().any(|frame| frame.method_class() == Method::Initialize) {
            return Err(Refusal::new(Code::BatchNotAllowed, "`initialize` cannot be part of a batch"));
        }
        let door = Entry { caller: self.caller.clone(), in_batch: true, ..*self };
        let wants_answers = frames.iter().any(|frame| frame.kind() == Kind::Request);
        let answers = futures_util::future::join_all(frames.into_iter().map(|frame| async {
            let id: Option<Box<str>> = frame.id().map(Into::into);
            let is_request = frame.kind() == Kind::Request;
            let response = door.legacy(frame).await.unwrap_or_else(|refusal| refuse(id.as_deref(), &refusal));
            if is_request { answer::whole(response).await } else { None }
        }))
        .await;
        if !wants_answers {
            return Ok(listen::accepted());
        }
        let mut body = Vec::from(*b"[");
        for answer in answers.into_iter().flatten() {
            if body.len() > 1 {
                body.push(b',');
            }
            body.extend_from_slice(&answer);
        }
        body.push(b']');
        Ok(json(StatusCode::OK, body))
    }

    /// The session of the request. One that this process had not seen yet may have asked for things
    /// that its servers do not know any more.
    async fn session(&self) -> Result<Arc<Session>, Refusal> {
        let session = find_session(self.gateway, self.endpoint, &self.caller, self.headers, self.seen).await?;
        if session.take_recalled() {
            let call = |frame| self.call(frame, Some(Arc::clone(&session)));
            if !Box::pin(session_state::restore(&session, call)).await {
                self.gateway.0.watching.wants_mending();
            }
        }
        Ok(session)
    }

    /// Boxed, because it is handed on from phase to phase.
    fn call(&self, frame: Frame, session: Option<Arc<Session>>) -> Box<Call> {
        let era = if session.is_some() { Era::Legacy } else { Era::Modern };
        let param_headers = (era == Era::Modern && self.carrier == Carrier::Http).then(|| {
            let sent = self.headers.iter().filter(|(name, _)| name.as_str().starts_with(header::MCP_PARAM_PREFIX));
            sent.map(|(name, value)| (name.clone(), value.clone())).collect()
        });
        self.gateway.call_began();
        let capabilities =
            session.as_ref().map_or_else(|| declared(self.endpoint, &frame), |session| session.capabilities);
        let user = match &session {
            Some(session) => session.user,
            // Two calls that can be asked are never taken for one client's.
            None if capabilities.asks_anything() => self.gateway.sessions().take_user(),
            None => SESSIONLESS,
        };
        let started = Instant::now();
        Box::new(Call {
            gateway: self.gateway.clone(),
            worker: self.worker,
            endpoint: Arc::clone(self.endpoint),
            era,
            caller: limits::caller(self.endpoint, &self.caller, session.as_deref(), &frame, self.headers),
            capabilities,
            user,
            session,
            in_batch: self.in_batch,
            resumable: self.carrier == Carrier::Http && !self.in_batch,
            brought: None,
            task: None,
            control: None,
            reuse: None,
            param_headers,
            version: versions::said(self.endpoint, &frame, self.headers),
            asked: overload::asked(self.endpoint, &frame, self.headers),
            entered: None,
            places: Places::default(),
            outdates: OnceLock::new(),
            started,
            until: deadline::of(self.seen, &frame, started),
            watched: OnceLock::new(),
            retries: AtomicU32::new(0),
            fell_back: AtomicBool::new(false),
            info: Info::of(&frame, self.seen.along.as_deref()),
            along: self.seen.along.clone(),
            treatment: None,
            frame,
        })
    }
}

/// A request within a legacy session.
async fn legacy_request(call: Box<Call>) -> Response<Body> {
    know_who_serves(&call).await;
    match call.frame.method_class() {
        Method::Ping => json(StatusCode::OK, message::result(call.id(), "{}")),
        Method::ToolsList => Box::pin(list_page::answer(&call, ListingKind::Tools)).await,
        Method::ResourcesList => Box::pin(list_page::answer(&call, ListingKind::Resources)).await,
        Method::TemplatesList => Box::pin(list_page::answer(&call, ListingKind::Templates)).await,
        Method::PromptsList => Box::pin(list_page::answer(&call, ListingKind::Prompts)).await,
        Method::SetLevel => Box::pin(session_state::set_level(&call)).await,
        Method::Subscribe if is_fleeting(&call) => {
            let refusal =
                Refusal::new(Code::SessionMissing, "subscriptions belong to a session; send its `Mcp-Session-Id`");
            refuse_call(call.era, Some(call.id()), &refusal)
        }
        Method::Subscribe => Box::pin(session_state::subscribe(&call)).await,
        Method::Unsubscribe => Box::pin(session_state::unsubscribe(&call)).await,
        Method::ToolsCall | Method::ResourcesRead | Method::PromptsGet | Method::Complete => {
            Box::pin(forward(call)).await
        }
        Method::TasksGet | Method::TasksResult | Method::TasksCancel if has_tasks(&call) => {
            Box::pin(tasks::answer(call)).await
        }
        Method::TasksList if has_tasks(&call) && tasks::may_list(&call.endpoint) => Box::pin(tasks::list(&call)).await,
        Method::Other if resolve::is_same_era_single(&call) => Box::pin(forward(call)).await,
        Method::Other => extension(&call).await,
        _ => unknown_method(&call),
    }
}

fn is_fleeting(call: &Call) -> bool {
    call.session.as_ref().is_some_and(|session| session.is_fleeting())
}

/// Whether tasks are part of the core for the client.
fn has_tasks(call: &Call) -> bool {
    call.session.as_ref().is_some_and(|session| tasks::has_any(session))
}

/// What only the server knows is passed on where server and client are of one era: on the path of a
/// server that was never heard of, such a request waits for that to be known.
async fn know_who_serves(call: &Call) {
    let is_passed_on = matches!(call.frame.method_class(), Method::Listen | Method::Other);
    if is_passed_on && call.endpoint.is_single() {
        Box::pin(capabilities::wait_for_peers(&call.endpoint, call.era, call.capabilities)).await;
    }
}

/// The way of a call that is part of another.
pub(crate) fn forward_part(call: Box<Call>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
    Box::pin(forward(call))
}

/// The way of a call: find its server, send it there, bring back what comes.
async fn forward(mut call: Box<Call>) -> Response<Body> {
    // Before anything is looked up: who may not call now costs no more than to say so.
    if let Err(refusal) = limits::repeats(&call) {
        return refused(&call, &refusal);
    }
    if call.endpoint.limits.admits()
        && let Err(refusal) = Box::pin(limits::admit(&call)).await
    {
        return refused(&call, &refusal);
    }
    if call.endpoint.finder.is_some()
        && let Some(found) = Box::pin(search::enter(&mut call)).await
    {
        // Where tools are searched for, a call may be the search, and one that was found is from here on itself.
        return found.unwrap_or_else(|refusal| refuse_call(call.era, Some(call.id()), &refusal));
    }
    if call.endpoint.call_many.is_some() && call_many::is_asked(&call) {
        return Box::pin(call_many::answer(call)).await;
    }
    if call.frame.method_class() == Method::ResourcesRead && results::is_asked_for(&call) {
        return results::read(&call);
    }
    let find = |call: &Call| {
        resolve::target(call).and_then(|mut target| {
            resolve::check_param_headers(call, &mut target)?;
            Ok(target)
        })
    };
    let epoch = call.gateway.epoch();
    let mut target = find(&call);
    if target.as_ref().is_err_and(|refusal| matches!(refusal.code, Code::UnknownName | Code::UnknownResource))
        && (Box::pin(list_page::learn_what_is_new(&call)).await || call.gateway.epoch() != epoch)
    {
        // Clients that know their names from earlier call without listing first, and lists may become known
        // while a name is looked up.
        target = find(&call);
    }
    if call.frame.method_class() == Method::ResourcesRead
        && target.as_ref().is_err_and(|refusal| refusal.code == Code::UnknownResource)
        && let Some(uri) = call.frame.str(Field::Uri)
        && Box::pin(skills::owner(&call, &uri)).await.is_some()
    {
        // A file of a skill need not be in any list of resources.
        target = skills::target(&call, &uri).map_or(target, Ok);
    }
    if let Ok(unlisted) = &target
        && unlisted.is_unlisted
        && Box::pin(list_page::learn_of(&call, &unlisted.upstream)).await
    {
        // How a tool is called, and with which headers, is for its server to say.
        target = find(&call);
    }
    match target {
        Ok(mut target) => {
            // Now that it is known what is called: what a tool allows, and what the call costs.
            let mut call = call;
            if limits::concern(&call, &target)
                && let Err(refusal) = Box::pin(limits::tool(&call, &target)).await
            {
                return refused(&call, &refusal);
            }
            if call.endpoint.overload.is_some()
                && let Err(refusal) = Box::pin(overload::enter(&mut call, &target)).await
            {
                return refused(&call, &refusal);
            }
            if let Some(treatment) = target.treatment.take() {
                if let Err(faults) = inspect::check(&call, &mut target, &treatment) {
                    return inspect::refuse(&call, &target, &faults);
                }
                if treatment.response.is_some() {
                    tasks::forgo(&mut call, &mut target);
                }
                call.treatment = Some(treatment);
            }
            if tasks::concerns(&call, &target) {
                tasks::prepare(&mut call, &mut target);
            }
            if park::is_retry(&call, &mut target) {
                // A modern client comes back with answers to what a legacy server asked.
                return Box::pin(park::retry(call, target)).await;
            }
            if call.endpoint.routing.is_some() {
                routing::mirror::send(&call, &target);
            }
            match reuse::find(&call, &target) {
                None => answer::respond(call, target).await,
                Some(plan) => Box::pin(reuse::answer(call, target, plan)).await,
            }
        }
        Err(refusal) if refusal.code == Code::HeaderMismatch => refused(&call, &refusal),
        Err(refusal) => {
            call.gateway.metrics().refused(refusal.code);
            refuse_call(call.era, Some(call.id()), &refusal)
        }
    }
}

/// A refusal that has an HTTP status of its own.
fn refused(call: &Call, refusal: &Refusal) -> Response<Body> {
    call.gateway.metrics().refused(refusal.code);
    refuse(Some(call.id()), refusal)
}

/// A method of an extension that is served over several servers, or across eras.
async fn extension(call: &Call) -> Response<Body> {
    match skills::Asked::of(call.frame.method()) {
        Some(asked) => Box::pin(skills::answer(call, asked)).await,
        None => unknown_method(call),
    }
}

fn unknown_method(call: &Call) -> Response<Body> {
    let refusal = Refusal::new(Code::UnknownMethod, format!("no method `{}` here", call.frame.method()));
    call.gateway.metrics().refused(refusal.code);
    refuse_call(call.era, Some(call.id()), &refusal)
}

/// Servers of an endpoint that are asked for their era before a client's capabilities are read; that costs less.
const MODERN_ALONE: usize = 4;

/// What a modern client declares with the request. A modern server reads it for itself: for the gateway it is of interest
/// only before servers that are not, and where tasks are declared.
fn declared(endpoint: &Endpoint, frame: &Frame) -> CapabilitySet {
    let servers = &endpoint.servers;
    let reads_itself = |server: &Upstream| server.handle.peek().era_for(Era::Modern) == Some(Era::Modern);
    match frame.raw(Field::MetaClientCapabilities) {
        None | Some("{}") => CapabilitySet::BARE,
        Some(declared)
            if servers.len() <= MODERN_ALONE
                && servers.iter().all(reads_itself)
                && !declared.contains("\"extensions\"") =>
        {
            CapabilitySet::BARE
        }
        Some(declared) => CapabilitySet::parse(declared),
    }
}

fn says_modern(seen: &Seen<'_>) -> bool {
    seen.revision
        .and_then(|value| value.to_str().ok())
        .and_then(Revision::parse)
        .is_some_and(|revision| revision.era() == Era::Modern)
}

fn is_modern(frame: &Frame, seen: &Seen<'_>) -> bool {
    frame.is_modern() || (says_modern(seen) && frame.method_class() != Method::Initialize && seen.session.is_absent())
}

async fn find_session(
    gateway: &Gateway,
    endpoint: &Endpoint,
    caller: &Caller,
    headers: &HeaderMap,
    seen: &Seen<'_>,
) -> Result<Arc<Session>, Refusal> {
    // Absent: the session's own revision counts, which is also what clients that forget it mean.
    if let Some(version) = seen.revision {
        let version = version.to_str().unwrap_or("?");
        if Revision::parse(version).is_none() {
            return Err(unsupported(version));
        }
    }
    let id = match seen.session {
        Once::Absent if never_sends_its_id(endpoint, headers) => {
            // Absent, the revision that had no such header is meant.
            let said = seen.revision.and_then(|value| value.to_str().ok());
            let revision = said.map_or(Revision::V2025_03_26, Revision::negotiate_legacy);
            return Ok(gateway.sessions().fleeting(revision, caller, &endpoint.path));
        }
        Once::Absent => {
            return Err(Refusal::new(
                Code::SessionMissing,
                "send `initialize` first, then its `Mcp-Session-Id` with every request",
            ));
        }
        Once::Present(id) => id.to_str().ok(),
        Once::Repeated => None,
    };
    let Some(id) = id else {
        return Err(Refusal::new(Code::SessionUnknown, "one `Mcp-Session-Id` in visible ASCII is expected"));
    };
    gateway.sessions().find(id, caller, &endpoint.path).await.map_err(|error| match error {
        SessionError::Unknown => {
            Refusal::new(Code::SessionUnknown, "the session is unknown or has ended; send `initialize` again")
        }
        SessionError::TooMany => {
            Refusal::new(Code::TooManySessions, "there are as many sessions as `sessions.max` allows")
        }
    })
}

/// Whether the client is one of those that get a session and never use it.
fn never_sends_its_id(endpoint: &Endpoint, headers: &HeaderMap) -> bool {
    let agent = headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.is_some_and(|agent| endpoint.config.sessions.without_id.iter().any(|pattern| pattern.matches(agent)))
}

fn unsupported(version: &str) -> Refusal {
    let supported: Vec<_> = Revision::ALL.iter().rev().map(|revision| message::quote(revision.as_str())).collect();
    let shown: String = version.chars().take(40).collect();
    Refusal::new(Code::UnsupportedRevision, format!("protocol revision `{shown}` is not served")).with_data(format!(
        "{{\"supported\":[{}],\"requested\":{}}}",
        supported.join(","),
        message::quote(&shown)
    ))
}

pub(crate) fn not_a_message(error: &FrameError) -> Refusal {
    let code = match error {
        FrameError::NotUtf8 | FrameError::NotJson { .. } => Code::NotJson,
        FrameError::TooDeep => Code::TooDeep,
        _ => Code::NotJsonRpc,
    };
    Refusal::new(code, error.to_string())
}
