//! One request on its way through.

use crate::{
    bulkhead::Places,
    correlate::{Along, Info},
    dependencies::Watched,
    gateway::Gateway,
    overload::Entered,
    park::Brought,
    reuse,
    session::{CallControl, Session},
    shaping::Treatment,
    snapshot::Endpoint,
    tasks,
};
use fairlead_config::Priority;
use fairlead_core::Caller;
use fairlead_upstream::Worker;
use fairlead_wire::{CapabilitySet, Era, Field, Frame};
use http::{HeaderName, HeaderValue};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A request with everything that was found out about it.
pub(crate) struct Call {
    pub(crate) gateway: Gateway,
    pub(crate) worker: Worker,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) frame: Frame,
    /// The client's era.
    pub(crate) era: Era,
    pub(crate) caller: Caller,
    pub(crate) session: Option<Arc<Session>>,
    /// What the client declared that it can do: with its session, or with this very request.
    pub(crate) capabilities: CapabilitySet,
    /// What a modern client brought with it when it made the request again.
    pub(crate) brought: Option<Box<Brought>>,
    /// Identifies the client among this process's.
    pub(crate) user: u64,
    /// Its answer goes into the array of a batch, where no question has a place.
    pub(crate) in_batch: bool,
    /// What it has to do with tasks, if anything.
    pub(crate) task: Option<Box<tasks::Asked>>,
    pub(crate) control: Option<Arc<CallControl>>,
    /// Its part in what is kept and shared of answers, if it has one.
    pub(crate) reuse: Option<Box<reuse::Part>>,
    /// Whether its client can come back for the rest of its stream: not where a connection carries everything, and
    /// not for a member of a batch.
    pub(crate) resumable: bool,
    /// `Mcp-Param-*` headers, which are passed on. `None` where the client's revision or transport has no such headers:
    /// then they are made of the arguments for a server that wants them.
    pub(crate) param_headers: Option<Vec<(HeaderName, HeaderValue)>>,
    /// What goes along with it to servers.
    pub(crate) along: Option<Box<Along>>,
    /// What is noted of it for a client that wants to know.
    pub(crate) info: Option<Box<Info>>,
    /// What the operator's rules do with it and its answer.
    pub(crate) treatment: Option<Arc<Treatment>>,
    pub(crate) started: Instant,
    /// Which version of its tool its client asks for, beside the name.
    pub(crate) version: Option<Box<str>>,
    /// How important its client says that it is.
    pub(crate) asked: Option<Priority>,
    /// What it holds while it is under way, where calls are counted.
    pub(crate) entered: Option<Box<Entered>>,
    /// Its places in the pools of servers.
    pub(crate) places: Places,
    /// What it makes outdated, from when a server was asked: nobody knows then whether it was done.
    pub(crate) outdates: OnceLock<reuse::Outdates>,
    /// Until when the client itself waits, where it says so.
    pub(crate) until: Option<Instant>,
    /// What is learned from it, where its server learns.
    pub(crate) watched: OnceLock<Box<Watched>>,
    /// How often it was made again, and whether another answer stands in for its server's.
    pub(crate) retries: AtomicU32,
    pub(crate) fell_back: AtomicBool,
}

impl Call {
    /// The same call for nobody: what it brings is for the gateway.
    pub(crate) fn aside(&self) -> Box<Self> {
        self.gateway.call_began();
        Box::new(Self {
            gateway: self.gateway.clone(),
            worker: self.worker,
            endpoint: Arc::clone(&self.endpoint),
            frame: self.frame.clone(),
            era: self.era,
            caller: self.caller.clone(),
            session: self.session.clone(),
            capabilities: self.capabilities,
            brought: None,
            user: self.user,
            in_batch: true,
            task: None,
            control: None,
            reuse: None,
            resumable: false,
            param_headers: self.param_headers.clone(),
            started: Instant::now(),
            version: self.version.clone(),
            asked: self.asked,
            entered: None,
            places: Places::default(),
            outdates: OnceLock::new(),
            until: None,
            watched: OnceLock::new(),
            retries: AtomicU32::new(0),
            fell_back: AtomicBool::new(false),
            info: None,
            along: self.along.clone(),
            treatment: None,
        })
    }

    /// The client's id of the request, raw.
    pub(crate) fn id(&self) -> &str {
        self.frame.id().unwrap_or("null")
    }

    /// The same as bytes: costs nothing.
    pub(crate) fn id_bytes(&self) -> &[u8] {
        self.frame.id_bytes().unwrap_or(b"null")
    }

    /// When there is no time any more for a call that may take `whole`: what the client says can only shorten that.
    pub(crate) fn deadline(&self, whole: Duration) -> Instant {
        let deadline = self.started + whole;
        self.until.map_or(deadline, |until| until.min(deadline))
    }

    /// The client's progress token, raw.
    pub(crate) fn progress_token(&self) -> Option<&str> {
        self.frame.raw(Field::ProgressToken)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(outdates) = self.outdates.take() {
            outdates.apply(&self.gateway);
        }
        if let (Some(session), Some(control)) = (&self.session, &self.control) {
            session.leave(control);
        }
        self.gateway.call_ended();
    }
}
