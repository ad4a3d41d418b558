//! What a legacy session asks to be kept: its log level and its subscriptions.
//!
//! Both are state of the session with the server, which several clients may share. So the server is
//! told the most talkative level and the union of subscriptions, and what comes back is sorted by
//! what each client asked for.

use crate::{
    answer,
    body::Body,
    call::Call,
    dispatch, record, resolve,
    resolve::Target,
    response::refuse_call,
    session::{MAX_SUBSCRIPTIONS, Session},
    shape,
};
use fairlead_core::{Code, Refusal, UpstreamError};
use fairlead_upstream::{Item, LeaseError, LinkKey, Memory, Outbound, Purpose};
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Method, edit::Edits, list, message};
use http::Response;
use std::time::Duration;
use tokio::time::Instant;

/// How long servers may take to be told a log level; a slow one is told late.
const LEVEL_WAIT: Duration = Duration::from_secs(2);

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
    let _ = tokio::time::timeout(LEVEL_WAIT, futures_util::future::join_all(told)).await;
    answer::own(call, "{}")
}

/// Tells servers what a session had asked for before a restart, or before it was forgotten here.
pub(crate) async fn restore(session: &Session, call: impl Fn(Frame) -> Box<Call>) {
    let asking = |method, member, value: &str| own_request(method, member, value).map(&call);
    let telling = async {
        if let Some(call) = session.log_level().and_then(|level| asking(Method::SetLevel, "level", &level)) {
            set_level(&call).await;
        }
        for uri in session.subscriptions() {
            if let Some(call) = asking(Method::Subscribe, "uri", &uri) {
                subscribe(&call).await;
            }
        }
    };
    if tokio::time::timeout(LEVEL_WAIT, telling).await.is_err() {
        tracing::warn!("a session that came back has subscriptions that a server was not told of: it is too slow");
    }
}

/// Unsubscribes from what nobody else waits for. A session that comes back subscribes anew.
pub(crate) async fn release(subscriptions: &[String], call: impl Fn(Frame) -> Box<Call>) {
    let telling = async {
        for exposed in subscriptions {
            let Some(call) = own_request(Method::Unsubscribe, "uri", exposed).map(&call) else { continue };
            let Ok(target) = resolve::resource(&call, exposed) else { continue };
            let handle = &target.upstream.handle;
            if handle.peek().era_for(Era::Legacy) != Some(Era::Legacy) || others_subscribed(&call, exposed) {
                continue;
            }
            if let Ok((key, _)) = ask(&call, &target, call.frame.clone(), target.edits.clone()).await {
                let uri = target.name.as_deref().unwrap_or(exposed).into();
                handle.remember(Memory::Unsubscribed { key, uri });
            }
        }
    };
    if tokio::time::timeout(LEVEL_WAIT, telling).await.is_err() {
        tracing::debug!("a server was not told that a session is gone: it is too slow");
    }
}

/// A request of the gateway's own with one member.
fn own_request(method: Method, member: &str, value: &str) -> Option<Frame> {
    let params = format!("{{\"{member}\":{}}}", message::quote(value));
    Frame::parse(message::request("0", method.as_str(), Some(&params)), &Limits::default()).ok()
}

/// `resources/subscribe`.
pub(crate) async fn subscribe(call: &Call) -> Response<Body> {
    match change(call, true).await {
        Ok(response) => response,
        Err(refusal) => refuse_call(call.era, Some(call.id()), &refusal),
    }
}

/// `resources/unsubscribe`.
pub(crate) async fn unsubscribe(call: &Call) -> Response<Body> {
    match change(call, false).await {
        Ok(response) => response,
        Err(refusal) => refuse_call(call.era, Some(call.id()), &refusal),
    }
}

async fn change(call: &Call, on: bool) -> Result<Response<Body>, Refusal> {
    let session = call.session.as_ref().expect("invariant: subscriptions of this kind belong to sessions");
    let exposed =
        call.frame.str(Field::Uri).ok_or_else(|| Refusal::new(Code::BadParams, "`params.uri` must be a string"))?;
    let target = resolve::resource(call, &exposed)?;
    let uri = target.name.clone().unwrap_or_else(|| exposed.as_ref().into());
    let server = target.upstream.handle.name().clone();
    let gone = |error: &UpstreamError| error.to_refusal(server.as_str());
    if target.upstream.handle.peek().era_for(Era::Legacy) == Some(Era::Modern) {
        return Err(Refusal::new(
            Code::UnknownMethod,
            format!("server `{server}` has no subscriptions for clients of this revision"),
        ));
    }
    if on {
        let full = call.gateway.sessions();
        let mut fits = true;
        full.change_record(session, |record| {
            if !record.subscriptions.iter().any(|other| *other == *exposed) {
                fits = record.subscriptions.len() < MAX_SUBSCRIPTIONS;
                if fits {
                    record.subscriptions.push(exposed.to_string());
                }
            }
        });
        if !fits {
            return Err(Refusal::new(
                Code::TooManySessions,
                format!("a session may have {MAX_SUBSCRIPTIONS} subscriptions"),
            ));
        }
        call.gateway.sessions().listen(session);
    } else {
        call.gateway
            .sessions()
            .change_record(session, |record| record.subscriptions.retain(|other| *other != *exposed));
        if others_subscribed(call, &exposed) {
            return Ok(answer::own(call, "{}"));
        }
    }
    let edits = target.edits.clone();
    match ask(call, &target, call.frame.clone(), edits).await {
        Ok((key, frame)) => {
            let uri = uri.into();
            if frame.kind() == Kind::Result {
                let memory = if on { Memory::Subscribed { key, uri } } else { Memory::Unsubscribed { key, uri } };
                target.upstream.handle.remember(memory);
            } else if on {
                call.gateway
                    .sessions()
                    .change_record(session, |record| record.subscriptions.retain(|other| *other != *exposed));
            }
            record::call(call, &target, record::status_of(&frame));
            Ok(answer::passed_on(call, &frame))
        }
        Err(LeaseError::Upstream(error)) => {
            record::failure(call, &target, &error);
            Err(gone(&error))
        }
        Err(LeaseError::NeedsRoots) => Err(Refusal::new(
            Code::ServerUnavailable,
            format!("server `{server}` follows roots; call one of its tools first"),
        )),
    }
}

fn others_subscribed(call: &Call, exposed: &str) -> bool {
    call.gateway
        .sessions()
        .listeners()
        .iter()
        .any(|other| other.user != call.user && other.capabilities == call.capabilities && other.is_subscribed(exposed))
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
        idle: timeout.idle,
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
