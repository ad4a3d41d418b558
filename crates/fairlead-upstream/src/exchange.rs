//! One request to a server and what comes back: messages of the call, then the answer.

use crate::{
    balance::report::Pressure,
    event::LinkEvent,
    handle::Lease,
    http_client::Worker,
    inject::{Injected, Injection, Request},
    instance::{CallEnd, Instance},
    link::{Link, Wire, duplex::DuplexExchange, http::HttpExchange, inbound::awaited_task},
};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{
    Era, Field, Frame, Method,
    edit::Edits,
    message::{self, Decimal},
};
use http::{HeaderName, HeaderValue};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// Is told how an exchange ended: with an answer or a failure of the server, once. It hears nothing of an exchange that
/// was given up.
pub trait Witness: Send + Sync + std::fmt::Debug {
    /// It was answered, over HTTP with a status, and with what `Retry-After` says where it is too much for the server.
    fn answered(&mut self, status: Option<u16>, retry_after: Option<Duration>);
    /// It failed.
    fn failed(&mut self, error: &UpstreamError);
    /// It was given up because the same call was answered elsewhere, where it was made later.
    fn outrun(&mut self);
}

/// A request as the gateway hands it over. The link adds what is its own: the id, the progress
/// token, and the headers of its era.
#[derive(Debug)]
pub struct Outbound {
    /// The client's message.
    pub frame: Frame,
    /// What differs for this server (name, URI, cursor, `_meta`).
    pub edits: Edits,
    /// What `Mcp-Name` has to say to a modern server.
    pub mcp_name: Option<HeaderValue>,
    /// Further headers (`Mcp-Param-*`, trace context).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// When to give up, whatever happens.
    pub deadline: Instant,
    /// Whether that is because the caller waits no longer, which says nothing of the server.
    pub is_impatient: bool,
    /// When to give up if nothing at all is heard for so long.
    pub idle: Duration,
    /// Who is told how it ended.
    pub witness: Option<Box<dyn Witness>>,
    /// The fault that is injected.
    pub injection: Option<Box<Injection>>,
}

impl Outbound {
    /// A request of our own.
    pub(crate) fn own(method: &str, params: Option<&str>, deadline: Instant) -> Self {
        let bytes = message::request("0", method, params);
        let frame =
            Frame::parse(bytes, &fairlead_wire::Limits::default()).expect("invariant: our own request is valid");
        Self {
            frame,
            edits: Edits::new(),
            mcp_name: None,
            headers: Vec::new(),
            deadline,
            is_impatient: false,
            idle: Duration::from_secs(3600),
            witness: None,
            injection: None,
        }
    }
}

/// A request ready for the transport.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: u64,
    pub(crate) method: Method,
    /// What `Mcp-Method` says, where the era has the header.
    pub(crate) mcp_method: Option<HeaderValue>,
    pub(crate) bytes: Bytes,
    pub(crate) mcp_name: Option<HeaderValue>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The task whose result it waits for.
    pub(crate) task: Option<Box<str>>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Final {
    /// The response as it came (its id is the link's).
    pub frame: Frame,
    /// HTTP status it came with, where there was one.
    pub status: Option<u16>,
}

/// What comes back on an exchange.
#[derive(Debug)]
pub enum Item {
    /// A notification of the call, or a question of the server to the caller.
    Message(Frame),
    /// The answer; nothing follows.
    Final(Final),
}

/// The transport's half of an exchange.
#[derive(Debug)]
pub(crate) enum WireExchange {
    Http(HttpExchange),
    Duplex(DuplexExchange),
    /// Nothing was sent.
    Silent,
}

impl WireExchange {
    /// What `Retry-After` said of an answer that says that it is too much now.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            WireExchange::Http(exchange) => exchange.retry_after(),
            WireExchange::Duplex(_) | WireExchange::Silent => None,
        }
    }

    /// `None` when the server hung up to be asked again for the rest, where that was asked for.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, UpstreamError> {
        match self {
            WireExchange::Http(exchange) => exchange.next().await,
            WireExchange::Duplex(exchange) => exchange.next().await.map(Some),
            WireExchange::Silent => std::future::pending().await,
        }
    }
}

/// In a count of open questions: that there ever was one, and each that is open.
const EVER: usize = 1;
const ONE: usize = 2;

/// How many questions of a call are open at its caller. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OpenQuestions(Arc<AtomicUsize>);

impl OpenQuestions {
    /// One more was asked.
    pub fn asked(&self) {
        self.0.fetch_or(EVER, Ordering::Relaxed);
        self.0.fetch_add(ONE, Ordering::Relaxed);
    }

    /// One was answered or dropped.
    pub fn settled(&self) {
        self.0.fetch_sub(ONE, Ordering::Relaxed);
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ONE
    }

    fn were_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Counts an exchange on its link for as long as it lives, sending it included.
#[derive(Debug)]
struct OnLink {
    link: Arc<Link>,
    /// It took the link for itself in mid-call.
    occupies: bool,
    /// It is a use of the link.
    is_use: bool,
}

impl OnLink {
    fn new(link: Arc<Link>) -> Self {
        link.began();
        Self { link, occupies: false, is_use: true }
    }
}

impl Drop for OnLink {
    fn drop(&mut self) {
        if self.occupies {
            self.link.vacate();
        }
        if self.is_use {
            self.link.ended();
        }
    }
}

/// An exchange about to begin: over HTTP it has begun, a process or connection may have to take the message first.
pub struct Starting(Start);

enum Start {
    Begun(Box<Exchange>),
    Waiting(Pin<Box<dyn Future<Output = Result<Box<Exchange>, UpstreamError>> + Send>>),
}

impl Starting {
    /// The exchange, once the request is on its way.
    ///
    /// # Errors
    /// When nothing could be sent.
    pub async fn begun(self) -> Result<Box<Exchange>, UpstreamError> {
        match self.0 {
            Start::Begun(exchange) => Ok(exchange),
            Start::Waiting(waiting) => waiting.await,
        }
    }
}

impl std::fmt::Debug for Starting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Starting")
    }
}

/// One request in flight. Dropping it gives the call up without telling the server, which on
/// legacy connections is what a disconnect means; [`Exchange::cancel`] tells it.
#[derive(Debug)]
pub struct Exchange {
    wire: WireExchange,
    link: OnLink,
    id: u64,
    method: Method,
    deadline: Instant,
    is_impatient: bool,
    idle: Duration,
    heard: Instant,
    questions: OpenQuestions,
    done: bool,
    /// When it began, for as long as its instance is still to hear how it ends.
    measured: Option<Instant>,
    /// The task whose result it waits for.
    task: Option<Box<str>>,
    witness: Option<Box<dyn Witness>>,
    /// The fault that is injected.
    injected: Option<Box<Injected>>,
    /// Held for as long as the call lasts.
    _lease: Option<Lease>,
}

impl Exchange {
    /// From now on it keeps no idle link open: it only listens.
    pub(crate) fn stand_by(&mut self) {
        if std::mem::take(&mut self.link.is_use) {
            self.link.link.ended();
        }
    }

    /// Sends `outbound` over `link`.
    ///
    /// # Errors
    /// When the transport is gone before anything was sent.
    pub(crate) fn start(link: Arc<Link>, lease: Option<Lease>, worker: Worker, mut outbound: Outbound) -> Starting {
        let id = link.take_id();
        let id_text = Decimal::of(id);
        if let Some(span) = outbound.frame.span(Field::ProgressToken) {
            outbound.edits.replace(span, Bytes::copy_from_slice(id_text.as_bytes()));
        }
        let bytes = match outbound.frame.span(Field::Id) {
            Some(span) => outbound.edits.apply_with(outbound.frame.bytes(), span, id_text.as_bytes()),
            None => outbound.edits.apply(outbound.frame.bytes()),
        };
        let method = outbound.frame.method_class();
        let task = awaited_task(method, &bytes);
        let prepared = Prepared {
            id,
            method,
            mcp_method: match (link.key.era, method) {
                (Era::Legacy, _) => None,
                (Era::Modern, Method::Other) => HeaderValue::from_str(outbound.frame.method()).ok(),
                (Era::Modern, known) => Some(HeaderValue::from_static(known.as_str())),
            },
            bytes,
            mcp_name: outbound.mcp_name,
            headers: outbound.headers,
            task: task.clone(),
        };
        let link = OnLink::new(link);
        let (deadline, idle, is_impatient) = (outbound.deadline, outbound.idle, outbound.is_impatient);
        // Those two wait for something else than the server's work.
        let waits = matches!(method, Method::Listen | Method::TasksResult);
        let is_measured = lease.is_some() && !waits && link.link.instance().is_measured();
        let began = Instant::now();
        let mut witness = outbound.witness;
        let injected = outbound.injection.map(|injection| {
            let (era, bytes) = (link.link.key.era, prepared.bytes.len());
            let is_http = matches!(link.link.wire, Wire::Http(_));
            Box::new(Injected::new(injection, Request { id, method, era, is_http, bytes }))
        });
        let is_silent = injected.as_ref().is_some_and(|injected| injected.is_silent());
        let on = move |wire, link, witness| {
            Box::new(Self {
                wire,
                link,
                id,
                method,
                deadline,
                is_impatient,
                idle,
                heard: began,
                questions: OpenQuestions::default(),
                done: false,
                measured: is_measured.then_some(began),
                task,
                witness,
                injected,
                _lease: lease,
            })
        };
        match &link.link.wire {
            _ if is_silent => Starting(Start::Begun(on(WireExchange::Silent, link, witness))),
            Wire::Http(http) => {
                let wire = WireExchange::Http(http.send(worker, prepared));
                Starting(Start::Begun(on(wire, link, witness)))
            }
            Wire::Stdio(_) | Wire::Connection(_) => Starting(Start::Waiting(Box::pin(async move {
                let duplex = link.link.wire.duplex().expect("invariant: all but HTTP are one channel");
                match link.link.send_over(duplex, prepared, deadline).await {
                    Ok(wire) => Ok(on(WireExchange::Duplex(wire), link, witness)),
                    Err(error) => {
                        if is_measured {
                            link.link.instance().report(CallEnd::Failed(error.kind, error.outcome), None);
                        }
                        tell(&mut witness, |witness| witness.failed(&error));
                        Err(error)
                    }
                }
            }))),
        }
    }

    /// The link in use: answers to the server's questions go through it.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link.link
    }

    /// Waits for what comes next. Cancel safe: a dropped wait loses nothing.
    ///
    /// # Errors
    /// When the server does not answer in time, breaks off, or answers with what is not MCP.
    /// After an error or the answer nothing follows.
    pub async fn next(&mut self) -> Result<Item, UpstreamError> {
        loop {
            match self.next_before(self.deadline).await? {
                Some(item) => return Ok(item),
                None if self.take_hang_up().is_some() => {}
                None => return Err(self.too_late(self.deadline)),
            }
        }
    }

    /// Waits for what comes next, until `limit` at most: `None` when it passes first, or when the server hung up
    /// ([`Exchange::take_hang_up`]). One timer does for both this and the exchange's own limits.
    ///
    /// # Errors
    /// As [`Exchange::next`].
    pub async fn next_before(&mut self, limit: Instant) -> Result<Option<Item>, UpstreamError> {
        let until = if self.questions.any() { self.deadline } else { self.deadline.min(self.heard + self.idle) };
        let next = async {
            match &mut self.injected {
                None => self.wire.next().await,
                // Boxed: calls that no fault hits need not carry its room.
                Some(injected) => Box::pin(injected.next(&mut self.wire)).await,
            }
        };
        match timeout_at(until.min(limit), next).await {
            Ok(Ok(Some(Item::Final(answer)))) => {
                self.done = true;
                self.listen(&answer);
                self.report(|| end_of(&answer));
                self.note_task(&answer);
                let retry_after = self.wire.retry_after();
                tell(&mut self.witness, |witness| witness.answered(answer.status, retry_after));
                Ok(Some(Item::Final(answer)))
            }
            Ok(Ok(message)) => {
                self.heard = Instant::now();
                Ok(message)
            }
            Ok(Err(error)) => {
                self.done = true;
                self.report(|| CallEnd::Failed(error.kind, error.outcome));
                tell(&mut self.witness, |witness| witness.failed(&error));
                Err(error)
            }
            Err(_) if limit < until => Ok(None),
            Err(_) => Err(self.too_late(until)),
        }
    }

    /// What the instance says of its load beside its answer.
    fn listen(&self, answer: &Final) {
        let instance = self.link.link.instance();
        if self.measured.is_some()
            && instance.listens()
            && let Some(pressure) = answer.frame.raw(Field::ResultMeta).and_then(Pressure::of_meta)
        {
            instance.press(pressure);
        }
    }

    /// Tells the instance how the exchange ended, once.
    fn report(&mut self, end: impl FnOnce() -> CallEnd) {
        if let Some(began) = self.measured.take() {
            // A person may have been waited for.
            let latency = (!self.questions.were_any()).then(|| began.elapsed());
            self.link.link.instance().report(end(), latency);
        }
    }

    /// The link hears how its tasks are.
    fn note_task(&self, answer: &Final) {
        match (self.method, &self.task) {
            (Method::TasksGet | Method::TasksCancel, _) => self.link.link.tasks.heard(&answer.frame),
            (Method::TasksResult, Some(own)) => self.link.link.tasks.end(own),
            _ => {}
        }
    }

    fn too_late(&mut self, until: Instant) -> UpstreamError {
        // Who waits for a moment only learns nothing of the instance.
        let is_impatient = self.is_impatient && until == self.deadline;
        self.report(|| match is_impatient {
            true => CallEnd::Abandoned,
            false => CallEnd::Failed(UpstreamErrorKind::Timeout, Outcome::Unknown),
        });
        let waited = if until == self.deadline { "within the call's deadline" } else { "and sent no progress" };
        self.cancel("timed out");
        let link = &self.link.link;
        link.inbound.tell(LinkEvent::Suspect { link: link.id });
        let message = format!("the server did not answer {waited}");
        let error = UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::Unknown, message);
        tell(&mut self.witness, |witness| witness.failed(&error));
        error
    }

    /// Lets [`Exchange::next_before`] return when the server ends the stream of the answer and not the answer. (The
    /// link asks for the rest by itself, when the server wants that.)
    pub fn tell_hang_ups(&mut self) {
        if let WireExchange::Http(exchange) = &mut self.wire {
            exchange.tell_hang_ups();
        }
    }

    /// After how long the server wants to be asked for the rest, if it has hung up; once.
    pub fn take_hang_up(&mut self) -> Option<Duration> {
        match &mut self.wire {
            WireExchange::Http(exchange) => exchange.take_hang_up(),
            WireExchange::Duplex(_) | WireExchange::Silent => None,
        }
    }

    /// Counts the questions passed on to the caller: while one is open a person may be thinking,
    /// so only the deadline counts.
    #[must_use]
    pub fn questions(&self) -> &OpenQuestions {
        &self.questions
    }

    /// Puts the call's deadline off: the time somebody thinks about an answer is not the server's.
    pub fn put_off(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.heard = Instant::now();
    }

    /// Keeps callers that want a link for themselves off this one, where nobody has it yet: the call stays for
    /// long, and while there are two a question that names no call can be put to neither.
    pub fn occupy(&mut self, user: u64) {
        if !self.link.occupies {
            self.link.occupies = self.link.link.try_occupy(user);
        }
    }

    /// Ends the exchange because the same call was answered on `winner`, where it was made later. On another instance
    /// that speaks against this one: it took longer, and who knows whether it would ever have answered.
    pub fn outrun(&mut self, winner: &Instance, reason: &str) {
        if self.link.link.instance().id() != winner.id() && !self.questions.were_any() {
            self.report(|| CallEnd::Outrun);
            tell(&mut self.witness, |witness| witness.outrun());
        }
        self.cancel(reason);
    }

    /// Tells the server that nobody waits any more, and ends the exchange.
    pub fn cancel(&mut self, reason: &str) {
        if self.done {
            return;
        }
        self.done = true;
        let by_stream = matches!(self.wire, WireExchange::Http(_))
            && self.link.link.peer.revision.era() == fairlead_wire::Era::Modern;
        let was_sent = !matches!(self.wire, WireExchange::Silent);
        if !by_stream && was_sent && self.method != Method::Initialize {
            let params = format!("{{\"requestId\":{},\"reason\":{}}}", self.id, message::quote(reason));
            let notice = message::notification("notifications/cancelled", Some(&params));
            self.link.link.inbound.tell(LinkEvent::Push { link: self.link.link.id, message: notice });
        }
        if let WireExchange::Http(exchange) = &mut self.wire {
            exchange.abandon();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.report(|| CallEnd::Abandoned);
    }
}

/// JSON-RPC's code for a server that failed by itself.
const INTERNAL_ERROR: i64 = -32603;

/// What an answer says of the instance it came from.
fn end_of(answer: &Final) -> CallEnd {
    let is_overloaded = answer.status.is_some_and(|status| status == 429 || status >= 500);
    if is_overloaded || answer.frame.error_code() == Some(INTERNAL_ERROR) {
        CallEnd::ServerError
    } else {
        CallEnd::Answered
    }
}

fn tell(witness: &mut Option<Box<dyn Witness>>, what: impl FnOnce(&mut dyn Witness)) {
    if let Some(mut witness) = witness.take() {
        what(&mut *witness);
    }
}
