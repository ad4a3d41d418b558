//! A copy of a call for another server, to see how it does with real calls. Its answer is dropped, its caller cannot be asked
//! anything and hears nothing of it, and it never makes its original wait.

use super::Asked;
use crate::{
    call::Call,
    dispatch::{self, Begun},
    park, record,
    resolve::{self, Target},
};
use fairlead_observe::CallStatus;
use fairlead_upstream::{Item, ListingKind};
use fairlead_wire::{CapabilitySet, Field, Kind, Method};

/// Sends a copy of the call where a route says so.
pub(crate) fn send(call: &Call, target: &Target) {
    let Some(routing) = &call.endpoint.routing else { return };
    // What its client adds to a call that it makes again was asked by the server of the original.
    if call.frame.method_class() != Method::ToolsCall || call.frame.span(Field::RequestState).is_some() {
        return;
    }
    let (Some(exposed), Some(original)) = (call.frame.str(Field::Name), target.name.as_deref()) else { return };
    let asked = Asked { kind: ListingKind::Tools, exposed: &exposed, original };
    let Some((server, mirror, room)) = routing.mirror(call, asked) else { return };
    let upstream = &call.endpoint.servers[*server];
    if upstream.handle.name() == target.upstream.handle.name()
        || !upstream.handle.config().tools.permits(original)
        || !(mirror.any_tool || target.is_repeatable(call))
    {
        return;
    }
    let Ok(room) = std::sync::Arc::clone(room).try_acquire_owned() else {
        return tracing::debug!(server = %mirror.server, "a call is not copied: too many copies are in flight");
    };
    let copy = copy(call);
    let target = resolve::copied(upstream, target, &copy);
    call.gateway.serve_beside(async move {
        run(&copy, &target).await;
        drop(room);
    });
}

/// The same request of a client that can do nothing and goes nowhere.
fn copy(call: &Call) -> Box<Call> {
    let mut copy = call.aside();
    copy.session = None;
    copy.capabilities = CapabilitySet::BARE;
    copy
}

async fn run(call: &Call, target: &Target) {
    let until = call.started + target.timeouts().1;
    let status = match dispatch::begin(call, target, until).await {
        Begun::Answered { answer, .. } => record::status_of(&answer.frame),
        Begun::Spoke { mut exchange, frame } => {
            if frame.kind() == Kind::Request {
                park::decline(exchange.link(), &frame);
            }
            loop {
                match exchange.next_before(until).await {
                    Ok(Some(Item::Final(answer))) => break record::status_of(&answer.frame),
                    Ok(Some(Item::Message(frame))) => {
                        if frame.kind() == Kind::Request {
                            park::decline(exchange.link(), &frame);
                        }
                    }
                    Ok(None) => {
                        exchange.cancel("the copy of a call took too long");
                        break CallStatus::Cancelled;
                    }
                    Err(error) => break CallStatus::UpstreamFailed(error.code()),
                }
            }
        }
        Begun::Quiet { mut exchange } => {
            exchange.cancel("the copy of a call took too long");
            CallStatus::Cancelled
        }
        // (No plan was made for the copy, so it waits for nobody.)
        Begun::NeedsRoots | Begun::Waits(_) => CallStatus::Cancelled,
        Begun::Refused(refusal) => CallStatus::Refused(refusal.code),
        Begun::Failed(error) => CallStatus::UpstreamFailed(error.code()),
    };
    record::call(call, target, status);
}
