//! Requests of the gateway's own about a task.

use crate::{call::Call, dispatch, resolve::Target, snapshot::Upstream, tasks::handle::Handle};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::{Item, LeaseError, Purpose};
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Method, message};
use tokio::time::Instant;

/// What a server said of a task.
pub(super) struct Said {
    /// The response.
    pub(super) frame: Frame,
    /// The era it was asked in.
    pub(super) link: Era,
}

impl Said {
    /// The raw result, where it is one.
    pub(super) fn result(&self) -> Option<&str> {
        if self.frame.kind() == Kind::Result { self.frame.raw(Field::Result) } else { None }
    }
}

/// The request for `method` about the task, with further members of `params` (each with a comma before it).
pub(super) fn request(handle: &Handle, method: Method, more: &str) -> Option<Frame> {
    let params = format!("{{\"taskId\":{}{more}}}", message::quote(&handle.own));
    parse(message::request("0", method.as_str(), Some(&params)))
}

/// A message of the gateway's making that carries parts of others'.
pub(super) fn parse(message: Bytes) -> Option<Frame> {
    Frame::parse(message, &Limits::default()).ok()
}

/// Sends such a request and waits for the answer. Nobody can be asked meanwhile.
pub(super) async fn ask(
    call: &Call,
    upstream: &Upstream,
    handle: &Handle,
    method: Method,
    more: &str,
) -> Result<Said, UpstreamError> {
    let frame = request(handle, method, more).ok_or_else(|| {
        UpstreamError::new(
            UpstreamErrorKind::TooLarge,
            Outcome::NotMade,
            "what is said about the task nests too deeply",
        )
    })?;
    let mut target = Target::plain(upstream);
    target.name = Some(handle.own.clone());
    let timeout = &upstream.handle.config().timeout;
    let deadline = Instant::now() + timeout.call;
    let mut want = dispatch::want(call, &target, Purpose::Call);
    want.deadline = deadline;
    handle.choose(&mut want);
    let lease = match upstream.handle.lease(&want).await {
        Ok(lease) => lease,
        Err(LeaseError::Upstream(error)) => return Err(error),
        Err(LeaseError::NeedsRoots) => {
            let text = "it follows roots, and the client's are not known now";
            return Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text));
        }
    };
    let link = lease.era();
    let mut outbound = dispatch::outbound(call, &target, &frame, link);
    outbound.deadline = deadline;
    let mut exchange = lease.start(call.worker, outbound).begun().await?;
    loop {
        match exchange.next().await? {
            Item::Final(answer) => return Ok(Said { frame: answer.frame, link }),
            Item::Message(frame) if frame.kind() == Kind::Request => {
                let id = frame.id().unwrap_or("null");
                let text = "nobody can be asked during this request";
                exchange.link().push_soon(message::error(Some(id), -32603, text, None));
            }
            Item::Message(_) => {}
        }
    }
}
