//! What a legacy session asks to be kept: its log level and its subscriptions.
//!
//! Both are state of the session with the server, which several clients may share. So the server is
//! told the most talkative level and the union of subscriptions ([`crate::watching`]), and what comes
//! back is sorted by what each client asked for.

use crate::{
    answer,
    body::Body,
    call::Call,
    dispatch, record, resolve,
    resolve::Target,
    response::refuse_call,
    session::{MAX_SUBSCRIPTIONS, Session},
    shape,
    watching::{self, Hearer},
};
use fairlead_config::Server;
use fairlead_core::{Code, Refusal, ServerName};
use fairlead_upstream::{Item, LeaseError, LinkKey, Memory, Outbound, Purpose, WatchError};
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Method, edit::Edits, list, message};
use http::Response;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// How long servers may take to be told a log level; a slow one is told late.
const LEVEL_WAIT: Duration = Duration::from_secs(2);
/// How long a server may take to accept a subscription that nobody waits for; a slow one is asked again.
const MEND_WAIT: Duration = Duration::from_secs(10);
/// What fails sooner than this holds up nobody.
const MEND_SLOW: Duration = Duration::from_secs(1);

/// `logging/setLevel`: kept for the session, and told to the servers that log.
pub(crate) async fn set_level(call: &Call) -> Response<Body> {
    let level = call.frame.str(Field::Level);
    let Some(level) = level.filter(|level| shape::is_level(level)) else {
        let refusal = Refusal::new(Code::BadParams, "`params.level` must be one of the protocol's eight log levels");
        return refuse_call(call.era, Some(call.id()), &refusal);
    };
    if let Some(session) = &call.session {
        call.gateway.sessions().change_record(session, |record| record.log_level = level.to_string());
    }
    let tell = call.endpoint.servers.iter().filter(|server| {
        let view = server.handle.peek();
        view.era_for(Era::Legacy) == Some(Era::Legacy)
            && view.peer_for(Era::Legacy).is_some_and(|peer| list::raw_member(&peer.capabilities, "logging").is_some())
    });
    let told = tell.map(|server| async {
        let target = Target::plain(server);
        let loudest = server.handle.loudest(&level);
        let mut edits = Edits::new();
        if *loudest != *level
            && let Some(span) = call.frame.span(Field::Level)
        {
            edits.replace(span, message::quote(&loudest));
        }
        if let Err(LeaseError::Upstream(error)) = ask(call, &target, call.frame.clone(), edits).await.map(|(key, _)| {
            server.handle.remember(Memory::LogLevel { key, level: loudest });
        }) {
            tracing::debug!(server = %server.handle.name(), %error, "the server was not told the log level");
        }
    });
    let _ = timeout(LEVEL_WAIT, futures_util::future::join_all(told)).await;
    answer::own(call, "{}")
}

/// Tells servers what a session had asked for before a restart, or before it was forgotten here. False when a server
/// is too slow to hear all of it now.
pub(crate) async fn restore(session: &Session, call: impl Fn(Frame) -> Box<Call>) -> bool {
    let telling = async {
        let level = session.log_level().and_then(|level| own_request(Method::SetLevel, "level", &level)).map(&call);
        if let Some(call) = level {
            set_level(&call).await;
        }
        subscribe_again(session, &Round::default(), &call).await;
    };
    timeout(LEVEL_WAIT, telling).await.is_ok()
}

/// One look after the subscriptions of all sessions: a server that failed one is not waited for by the others.
#[derive(Debug, Default)]
pub(crate) struct Round {
    failed: Mutex<HashSet<ServerName>>,
}

impl Round {
    fn has_failed(&self, server: &ServerName) -> bool {
        self.failed.lock().expect("invariant: no panic under this lock").contains(server)
    }

    fn failed(&self, server: &ServerName) {
        self.failed.lock().expect("invariant: no panic under this lock").insert(server.clone());
    }
}

/// Subscribes to what the client is subscribed to and does not watch. What its server refuses is over.
pub(crate) async fn subscribe_again(session: &Session, round: &Round, call: impl Fn(Frame) -> Box<Call>) {
    let missed = session.missed();
    let calls = missed.iter().filter_map(|uri| own_request(Method::Subscribe, "uri", uri)).map(call);
    let subscribing = calls.map(|call| async move {
        let server = uri_of(&call).and_then(|uri| resolve::resource(&call, &uri));
        let server = server.map(|target| target.upstream.handle.name().clone()).ok();
        if server.as_ref().is_some_and(|server| round.has_failed(server)) {
            return call.gateway.0.watching.wants_mending();
        }
        let began = Instant::now();
        let Ok(watched) = timeout(MEND_WAIT, watch(&call)).await else {
            server.iter().for_each(|server| round.failed(server));
            return call.gateway.0.watching.wants_mending();
        };
        if let Err(error) = watched {
            tracing::debug!(code = error.code.label(), "a subscription of before is not there: {}", error.message);
            if error.code != Code::UnknownResource {
                if began.elapsed() >= MEND_SLOW {
                    server.iter().for_each(|server| round.failed(server));
                }
                call.gateway.0.watching.wants_mending();
            }
        }
    });
    futures_util::future::join_all(subscribing).await;
}

/// A request of the gateway's own with one member.
fn own_request(method: Method, member: &str, value: &str) -> Option<Frame> {
    let params = format!("{{\"{member}\":{}}}", message::quote(value));
    Frame::parse(message::request("0", method.as_str(), Some(&params)), &Limits::default()).ok()
}

/// `resources/subscribe`.
pub(crate) async fn subscribe(call: &Call) -> Response<Body> {
    match watch(call).await {
        Ok(None) => answer::own(call, "{}"),
        Ok(Some((frame, server))) => answer::passed_on(call, &server, &frame),
        Err(refusal) => refuse_call(call.era, Some(call.id()), &refusal),
    }
}

/// `resources/unsubscribe`.
pub(crate) async fn unsubscribe(call: &Call) -> Response<Body> {
    match unwatch(call).await {
        Ok(()) => answer::own(call, "{}"),
        Err(refusal) => refuse_call(call.era, Some(call.id()), &refusal),
    }
}

/// Watches the resource for the session. The server's own answer, where there is one: also a refusal.
async fn watch(call: &Call) -> Result<Option<(Frame, Arc<Server>)>, Refusal> {
    let session = call.session.as_ref().expect("invariant: subscriptions of this kind belong to sessions");
    let exposed = uri_of(call)?;
    let target = resolve::resource(call, &exposed)?;
    let server = target.upstream.handle.name();
    let sessions = call.gateway.sessions();
    if session.holds(&exposed) {
        return Ok(None);
    }
    if !session.has_room_for(&exposed) {
        return Err(Refusal::new(
            Code::TooManySessions,
            format!("a session may have {MAX_SUBSCRIPTIONS} subscriptions"),
        ));
    }
    let held = watching::hold(call, &target, &exposed, Hearer::Session(Arc::downgrade(session))).await;
    let answer = match held {
        Ok(mut held) => {
            let answer = held.take_answer();
            session.hold(&exposed, held);
            sessions.change_record(session, |record| {
                if !record.subscriptions.iter().any(|other| *other == *exposed) {
                    record.subscriptions.push(exposed.to_string());
                }
            });
            sessions.listen(session);
            answer
        }
        Err(WatchError::Refused(answer)) => {
            sessions.change_record(session, |record| record.subscriptions.retain(|other| *other != *exposed));
            // What a modern server says to a stream is no answer to this.
            let is_modern = target.upstream.handle.peek().era_for(Era::Legacy) == Some(Era::Modern);
            let Some(answer) = answer.filter(|_| !is_modern) else {
                return Err(Refusal::new(
                    Code::BadParams,
                    format!("server `{server}` does not accept a subscription to this resource"),
                ));
            };
            Some(answer)
        }
        Err(WatchError::Upstream(error)) => {
            record::failure(call, &target, &error);
            return Err(error.to_refusal(server.as_str()));
        }
        Err(WatchError::NeedsRoots) => {
            return Err(Refusal::new(
                Code::ServerUnavailable,
                format!("server `{server}` follows roots; call one of its tools first"),
            ));
        }
        Err(WatchError::TooMany) => {
            return Err(Refusal::new(
                Code::TooManySessions,
                format!("as many resources of server `{server}` are watched as may be"),
            ));
        }
    };
    if let Some(answer) = &answer {
        record::call(call, &target, record::status_of(answer));
    }
    Ok(answer.map(|answer| (answer, Arc::clone(target.upstream.handle.config()))))
}

fn uri_of(call: &Call) -> Result<std::borrow::Cow<'_, str>, Refusal> {
    call.frame.str(Field::Uri).ok_or_else(|| Refusal::new(Code::BadParams, "`params.uri` must be a string"))
}

async fn unwatch(call: &Call) -> Result<(), Refusal> {
    let session = call.session.as_ref().expect("invariant: subscriptions of this kind belong to sessions");
    let exposed = uri_of(call)?;
    let held = session.let_go(&exposed);
    call.gateway.sessions().change_record(session, |record| record.subscriptions.retain(|other| *other != *exposed));
    match held {
        Some(held) => held.release(Instant::now() + LEVEL_WAIT).await,
        // Of what is not there only a mistake is told.
        None => drop(resolve::resource(call, &exposed)?),
    }
    Ok(())
}

/// Sends a request about the session itself over the session's link; the answer comes with the key
/// of the link.
async fn ask(call: &Call, target: &Target, frame: Frame, edits: Edits) -> Result<(LinkKey, Frame), LeaseError> {
    let want = dispatch::want(call, target, Purpose::Session);
    let lease = target.upstream.handle.lease(&want).await?;
    let key = lease.link().key().clone();
    let timeout = &target.upstream.handle.config().timeout;
    let outbound = Outbound {
        frame,
        edits,
        mcp_name: None,
        headers: Vec::new(),
        deadline: Instant::now() + timeout.start,
        is_impatient: false,
        idle: timeout.idle,
        witness: None,
        injection: None,
    };
    let mut exchange = lease.start(call.worker, outbound).begun().await?;
    loop {
        match exchange.next().await? {
            Item::Final(answer) => return Ok((key, answer.frame)),
            Item::Message(frame) if frame.kind() == Kind::Request => {
                let id = frame.id().unwrap_or("null");
                exchange.link().push_soon(message::error(
                    Some(id),
                    -32603,
                    "nobody can be asked during this request",
                    None,
                ));
            }
            Item::Message(_) => {}
        }
    }
}
