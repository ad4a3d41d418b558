//! admit: whether there is room for the call, before anything is looked up for it.

use crate::{
    gateway::Gateway,
    session::{CallControl, Session},
    snapshot::Endpoint,
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use std::sync::Arc;

/// Refuses when the gateway is draining.
pub(crate) fn gateway(gateway: &Gateway) -> Result<(), Refusal> {
    if gateway.is_ready() {
        Ok(())
    } else {
        Err(Refusal::new(Code::Draining, "the gateway is shutting down; try again in a moment"))
    }
}

/// Enters a call of a session, so that it can be cancelled, within the session's limit.
pub(crate) fn session(endpoint: &Endpoint, session: &Session, id: Bytes) -> Result<Arc<CallControl>, Refusal> {
    let max = endpoint.config.sessions.max_calls;
    session.enter(id, max).ok_or_else(|| too_many_calls("session", max))
}

/// What a client is told that has as many calls in flight as it may have.
pub(crate) fn too_many_calls(of: &str, max: usize) -> Refusal {
    Refusal::new(
        Code::TooManyCalls,
        format!("the {of} has {max} calls in flight, which is its limit (`sessions.max_calls`)"),
    )
}
