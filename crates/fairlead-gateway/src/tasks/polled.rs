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
use fairlead_wire::{Era, Field, Frame, Kind, Method, list, message};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// What a call that only runs as a task has of it.
#[derive(Default)]
pub(crate) struct Polled(Mutex<State>);

#[derive(Default)]
struct State {
    /// The link that was used last.
    link: Option<Arc<Link>>,
    behind: Option<Behind>,
}

/// The task behind a call; cancelled when dropped without its result.
pub(crate) struct Behind {
    link: Arc<Link>,
    /// What the server calls it.
    own: Box<str>,
    is_over: bool,
}

impl Polled {
    /// A call that goes on with the task of another one.
    pub(super) fn of(behind: Behind) -> Self {
        Self(Mutex::new(State { link: Some(Arc::clone(&behind.link)), behind: Some(behind) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("invariant: no panic under this lock")
    }

    /// Notes the link of an exchange: of the one that makes the task the last try counts, and the result is waited
    /// for where the task was made.
    pub(super) fn goes_over(&self, link: &Arc<Link>) {
        self.state().link = Some(Arc::clone(link));
    }

    /// Asks for that link again.
    pub(super) fn choose(&self, want: &mut Want) {
        if let Some(link) = &self.state().link {
            want.purpose = Purpose::Link(link.id());
        }
    }

    /// The server has made the task.
    fn made(&self, own: &str, ttl: Duration) {
        let mut state = self.state();
        let Some(link) = state.link.clone() else { return };
        link.keep_for(own, ttl);
        state.behind = Some(Behind { link, own: own.into(), is_over: false });
    }

    /// The answer is there.
    pub(super) fn done(&self) {
        if let Some(mut behind) = self.take() {
            behind.is_over = true;
        }
    }

    /// The task, for somebody else to answer for.
    pub(super) fn take(&self) -> Option<Behind> {
        self.state().behind.take()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if !self.is_over {
            let params = format!("{{\"taskId\":{}}}", message::quote(&self.own));
            // Nobody waits for the answer.
            self.link.ask_soon(Method::TasksCancel.as_str(), &params);
        }
        self.link.task_ended(&self.own);
    }
}

/// Makes the call as a task, and begins to wait for its result in the call's place.
pub(crate) async fn begin(call: &Call, target: &Target, quiet_until: Instant) -> Begun {
    let Some(Asked::Polled(polled)) = call.task.as_deref() else {
        return dispatch::begin_with(call, target, call.frame.clone(), quiet_until).await;
    };
    let (answer, era) = match dispatch::begin_with(call, target, call.frame.clone(), quiet_until).await {
        Begun::Answered { answer, link } => (answer, link),
        Begun::Spoke { exchange, frame } => match Making(exchange).answered(Some(&frame)).await {
            Ok((answer, link)) => (answer, link.key().era),
            Err(error) => return Begun::Failed(error),
        },
        Begun::Quiet { exchange } => match Making(exchange).answered(None).await {
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
        return Begun::Answered { answer, link: era };
    };
    // From here on giving the call up gives the task up.
    polled.made(&own, call.endpoint.config.tasks.ttl);
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
    match begun {
        Begun::Answered { .. } => {
            polled.done();
            begun
        }
        // The task was made, whatever became of asking for what came of it.
        Begun::Failed(error) => Begun::Failed(UpstreamError { outcome: Outcome::Unknown, ..error }),
        begun => begun,
    }
}

/// The exchange that makes the task. Given up, its server is told.
struct Making(Box<Exchange>);

impl Making {
    /// Its answer, after what was `heard` already. Nobody is asked or told anything meanwhile.
    async fn answered(mut self, heard: Option<&Frame>) -> Result<(Final, Arc<Link>), UpstreamError> {
        if let Some(frame) = heard {
            self.decline(frame);
        }
        loop {
            match self.0.next().await? {
                Item::Final(answer) => return Ok((answer, Arc::clone(self.0.link()))),
                Item::Message(frame) => self.decline(&frame),
            }
        }
    }

    /// Answers a question; what is none is left out.
    fn decline(&self, frame: &Frame) {
        if frame.kind() == Kind::Request {
            let id = frame.id().unwrap_or("null");
            self.0.link().push_soon(message::error(Some(id), -32603, "nobody can be asked now", None));
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Nothing happens when it has its answer.
        self.0.cancel("the client closed the stream");
    }
}
