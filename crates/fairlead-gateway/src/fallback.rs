//! What stands in for the answer of a server that failed: what another server answers, or a text that is always the same.
//!
//! Only where nothing was done, or where doing it twice does no harm: nobody is told that all is well, or has something
//! done elsewhere too, while it is unknown whether the first call took effect. Every such answer says in
//! `_meta["fairlead/fallback"]` what it is.

use crate::{
    call::Call,
    dispatch,
    dispatch::Begun,
    inspect, record,
    resolve::Target,
    response::{own_result, text_content},
    shaping::{self, Treatment},
    snapshot::Upstream,
    tasks,
};
use fairlead_config::Fallback;
use fairlead_core::{Outcome, ServerName, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::Final;
use fairlead_wire::{Field, Frame, Limits, Method, edit::Edits, message};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::Instant;

/// The member of `_meta`.
const META: &str = "fairlead/fallback";

/// What answers instead, if anything does: where it comes from, and what came of it so far.
pub(crate) async fn instead(call: &Call, target: &Target, error: &UpstreamError) -> Option<(Target, Begun)> {
    let said = target.rule.as_deref().and_then(|rule| rule.fallback.as_ref());
    let steps = Arc::clone(said.or_else(|| target.upstream.rules.fallback())?);
    if !may_stand_in(call, target, error) || call.fell_back.swap(true, Ordering::Relaxed) {
        return None;
    }
    let mark = mark_of(target, error);
    for step in steps.iter() {
        match step {
            Fallback::Server { server, tool } => {
                let name = tool.as_deref().or(target.name.as_deref())?;
                let Some(other) = at(call, server, name) else { continue };
                let quiet_until = Instant::now() + call.endpoint.config.listen.keep_alive;
                // Its tries are its own.
                call.retries.store(0, Ordering::Relaxed);
                match Box::pin(dispatch::begin(call, &other, quiet_until)).await {
                    Begun::Failed(error) => record::failure(call, &other, &error),
                    Begun::NeedsRoots | Begun::Refused(_) => {}
                    Begun::Answered { answer, link } => {
                        record::failure(call, target, error);
                        return Some((other, Begun::Answered { answer: marked(answer, &mark), link }));
                    }
                    begun => {
                        record::failure(call, target, error);
                        return Some((other, begun));
                    }
                }
            }
            Fallback::Static { text, structured } => {
                let answer = of_text(call, text.as_deref(), structured.as_deref(), &mark)?;
                record::failure(call, target, error);
                return Some((target.clone(), Begun::Answered { answer, link: call.era }));
            }
        }
    }
    None
}

/// Whether it harms nobody when something else answers.
fn may_stand_in(call: &Call, target: &Target, error: &UpstreamError) -> bool {
    call.frame.method_class() == Method::ToolsCall
        && call.task.is_none()
        && !matches!(error.kind, UpstreamErrorKind::NoTime | UpstreamErrorKind::Gone)
        && (error.outcome == Outcome::NotMade || dispatch::is_repeatable(call, target))
}

/// The same call at another server.
fn at(call: &Call, server: &ServerName, name: &str) -> Option<Target> {
    let snapshot = call.gateway.snapshot();
    let is_it = |upstream: &&Upstream| upstream.handle.name() == server;
    let upstream = snapshot.servers.iter().find(is_it)?;
    if !upstream.handle.config().tools.permits(name) {
        return None;
    }
    let mut other = Target::at(upstream, name, call)?;
    for field in [Field::RequestState, Field::InputResponses] {
        // What was asked was asked by the first.
        other.edits.remove_member(&call.frame, field);
    }
    // What the operator says of the other's tool holds there as it does for its own calls.
    let mut catalog = None;
    let there = shaping::at_server(snapshot.all(), upstream, name, other.item(&mut catalog, call))?;
    if let Some(treatment) = Treatment::elsewhere(there, call.treatment.as_ref()) {
        inspect::check(call, &mut other, &treatment).ok()?;
        if treatment.response.is_some() {
            tasks::undeclare(call, &mut other);
        }
        other.treatment = Some(treatment);
    }
    Some(other)
}

/// What says of an answer that it stands in for another.
fn mark_of(target: &Target, error: &UpstreamError) -> String {
    let server = message::quote(target.upstream.handle.name().as_str());
    let code = message::quote(&error.code().label());
    format!("{{\"instead_of\":{server},\"because\":{code}}}")
}

/// An answer with the mark in its `_meta`.
fn marked(answer: Final, mark: &str) -> Final {
    let frame = &answer.frame;
    let mut edits = Edits::new();
    match (frame.span(Field::ResultMeta), frame.span(Field::Result)) {
        (Some(meta), _) => edits.insert_first(meta, META, mark),
        (None, Some(result)) => edits.insert_first(result, "_meta", &format!("{{\"{META}\":{mark}}}")),
        (None, None) => return answer,
    }
    match Frame::parse(edits.apply(frame.bytes()), &Limits::default()) {
        Ok(frame) => Final { frame, status: answer.status },
        Err(_) => answer,
    }
}

/// The answer that is always the same, as the client's era has it.
fn of_text(call: &Call, text: Option<&str>, structured: Option<&str>, mark: &str) -> Option<Final> {
    // Clients that do not know structured content find it in the text.
    let content = text_content(text.or(structured)?);
    let structured = structured.map(|object| format!("\"structuredContent\":{object},")).unwrap_or_default();
    let result = own_result(call.era, &format!("{structured}{content}"), &[(META, mark)]);
    let frame = Frame::parse(message::result("0", &result), &Limits::default()).ok()?;
    Some(Final { frame, status: None })
}
