//! A tool of a legacy server that only runs as a task, called by a modern client that cannot follow one: the gateway
//! makes the task, waits for its result, and to the client it is a plain call. When the client goes away the task is
//! cancelled, as the call would be.

use crate::{
    call::Call,
    dispatch::{self, Begun},
    resolve::Target,
    tasks::{
        Asked,
        ask::request,
        handle::{Handle, Home},
    },
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::{Exchange, Final, Item, Link, Purpose, Want};
use fairlead_wire::{Era, Field, Kind, Method, list, message};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use tokio::time::Instant;

/// The task behind a call; cancelled when the call ends without its result.
#[derive(Default)]
pub(crate) struct Polled {
    /// The link the task was made on.
    link: OnceLock<u64>,
    made: OnceLock<(Arc<Link>, Handle)>,
    is_over: AtomicBool,
}

impl Polled {
    /// Notes the link of the first exchange.
    pub(super) fn goes_over(&self, link: &Arc<Link>) {
        let _ = self.link.set(link.id());
    }

    /// Asks for that link again.
    pub(super) fn choose(&self, want: &mut Want) {
        if let Some(link) = self.link.get() {
            want.purpose = Purpose::Link(*link);
        }
    }

    /// The result is there.
    pub(super) fn done(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        if let Some((link, handle)) = self.made.get().filter(|_| !self.is_over.load(Ordering::Relaxed)) {
            let params = format!("{{\"taskId\":{}}}", message::quote(&handle.own));
            // Nobody waits for the answer; a text is an id that no exchange has.
            link.push_soon(message::request("\"cancel\"", Method::TasksCancel.as_str(), Some(&params)));
        }
    }
}

/// Makes the call as a task, and begins to wait for its result in the call's place.
pub(crate) async fn begin(call: &Call, target: &Target, quiet_until: Instant) -> Begun {
    let Some(Asked::Polled(polled)) = call.task.as_deref() else {
        return dispatch::begin_with(call, target, call.frame.clone(), quiet_until).await;
    };
    let (answer, era) = match dispatch::begin_with(call, target, call.frame.clone(), quiet_until).await {
        Begun::Answered { answer, link } => (answer, link),
        Begun::Spoke { exchange, .. } | Begun::Quiet { exchange } => match answered(exchange).await {
            Ok((answer, link)) => (answer, link.key().era),
            Err(error) => return Begun::Failed(error),
        },
        other => return other,
    };
    let own = answer
        .frame
        .raw(Field::Result)
        .and_then(|result| list::raw_member(result, "task"))
        .and_then(|task| list::string_member(task, "taskId"));
    let Some(own) = own.filter(|_| era == Era::Legacy) else {
        // It answered at once, or refused.
        polled.done();
        return Begun::Answered { answer, link: era };
    };
    let handle = Handle {
        home: Home::Server(Era::Legacy),
        server: target.upstream.handle.name().as_str().into(),
        own: own.into(),
        capabilities: call.capabilities,
        link: 0,
    };
    let Some(frame) = request(&handle, Method::TasksResult, "") else {
        let text = "it made a task without a usable id";
        return Begun::Failed(UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::Unknown, text));
    };
    let begun = dispatch::begin_with(call, &Target::plain(&target.upstream), frame, quiet_until).await;
    if let Begun::Spoke { exchange, .. } | Begun::Quiet { exchange } = &begun {
        let _ = polled.made.set((Arc::clone(exchange.link()), handle));
    }
    begun
}

/// The answer of an exchange in which nobody is asked or told anything.
async fn answered(mut exchange: Box<Exchange>) -> Result<(Final, Arc<Link>), UpstreamError> {
    loop {
        match exchange.next().await? {
            Item::Final(answer) => return Ok((answer, Arc::clone(exchange.link()))),
            Item::Message(frame) if frame.kind() == Kind::Request => {
                let id = frame.id().unwrap_or("null");
                exchange.link().push_soon(message::error(Some(id), -32603, "nobody can be asked now", None));
            }
            Item::Message(_) => {}
        }
    }
}
