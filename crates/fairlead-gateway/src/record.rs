//! record: what became of a call, for the metrics. Last, so that it sees everything.

use crate::{call::Call, overload, resolve::Target, reuse};
use fairlead_core::{UpstreamError, UpstreamErrorKind};
use fairlead_observe::{CallRecord, CallStatus};
use fairlead_policy::Signal;
use fairlead_wire::{Field, Frame, Kind, Method};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// The status of an answer.
pub(crate) fn status_of(frame: &Frame) -> CallStatus {
    match frame.kind() {
        Kind::Error => CallStatus::RpcError,
        _ if frame.raw(Field::ResultIsError) == Some("true") => CallStatus::ToolError,
        _ => CallStatus::Ok,
    }
}

/// Records a call to a server.
pub(crate) fn call(call: &Call, target: &Target, status: CallStatus) {
    // What was answered without the server says nothing of it.
    let is_of_server = || !(reuse::is_given(call) || call.fell_back.load(Ordering::Relaxed));
    let signal = match status {
        CallStatus::Ok | CallStatus::ToolError | CallStatus::RpcError if is_of_server() => Signal::Answered,
        _ => Signal::Nothing,
    };
    ended(call, target, status, signal);
}

/// Whether a failure says that the server has too much: not where nobody asked it, where its client was the one that had no
/// time, and not once more for everybody who waited for the same call.
fn is_telling(call: &Call, error: &UpstreamError) -> bool {
    let gave_up =
        || error.kind == UpstreamErrorKind::Timeout && call.until.is_some_and(|until| until <= Instant::now());
    error.verdict().is_some() && !reuse::is_given(call) && !gave_up()
}

fn ended(call: &Call, target: &Target, status: CallStatus, signal: Signal) {
    reuse::ended(call, target);
    let method = call.frame.method_class();
    let tool = if method == Method::ToolsCall { target.name.as_deref() } else { None };
    if let Some(limits) = &target.upstream.limits {
        limits.note(signal);
    }
    overload::note(call, target, signal);
    target.upstream.metrics.record(&CallRecord { method, tool, status, duration: call.started.elapsed() });
}

/// Records a failure of the server.
pub(crate) fn failure(call: &Call, target: &Target, error: &UpstreamError) {
    let cause = error.cause.as_ref().map(tracing::field::display);
    tracing::warn!(
        server = %target.upstream.handle.name(),
        method = call.frame.method(),
        name = target.name.as_deref(),
        code = error.code().label(),
        cause,
        request_id = call.along.as_ref().and_then(|along| along.request_id.as_ref()?.to_str().ok()),
        "a call failed: {error}"
    );
    let signal = if is_telling(call, error) { Signal::Overloaded } else { Signal::Nothing };
    ended(call, target, CallStatus::UpstreamFailed(error.code()), signal);
}

/// Records a request that the gateway answered by itself.
pub(crate) fn own(call: &Call) {
    call.endpoint.metrics.record(&CallRecord {
        method: call.frame.method_class(),
        tool: None,
        status: CallStatus::Ok,
        duration: call.started.elapsed(),
    });
}
