//! dispatch: one exchange with the server, over a link the caller may use, in the server's era.
//!
//! A call is sent a second time only when the first try certainly never reached the server, or when
//! it is one that may be repeated. Everything else is reported with its outcome.

mod hedge;
pub(crate) mod retry;

pub(crate) use retry::is_repeatable;

use crate::{
    affinity, bridge,
    bulkhead::Places,
    call::Call,
    deadline, dependencies,
    gateway::Gateway,
    guard::{self, Admission},
    overload, replay,
    resolve::{self, Target},
    reuse, tasks,
};
use fairlead_config::Share;
use fairlead_core::{Outcome, Refusal, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::{
    Avoid, Exchange, Final, Instance, Item, LeaseError, Outbound, Purpose, ShareKey, Want, Witness,
};
use fairlead_wire::{Era, Field, Frame, Method, header};
use http::{HeaderName, HeaderValue};
use retry::{Case, Failure, Tries};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long a listen stream may live before the client opens it again.
const LISTEN: Duration = Duration::from_secs(24 * 3600);

/// How long a legacy server may take to be told the log level of a request.
const LEVEL_WAIT: Duration = Duration::from_secs(2);

/// An exchange that has begun, and what it brought first.
pub(crate) enum Begun {
    /// The answer.
    Answered { answer: Final, link: Era },
    /// Something that comes before the answer.
    Spoke { exchange: Box<Exchange>, frame: Frame },
    /// Nothing yet.
    Quiet { exchange: Box<Exchange> },
    /// Nothing yet of an identical call that is under way.
    Waits(Box<reuse::Waiting>),
    /// The server follows roots, and this client's are not known yet.
    NeedsRoots,
    /// The server cannot be reached, or failed.
    Failed(UpstreamError),
    /// The gateway does not make the call.
    Refused(Box<Refusal>),
}

/// What keeps the caller's link apart from others', by the server's configuration.
pub(crate) fn share_key(share: Share, caller: &fairlead_core::Caller, session: Option<u64>) -> ShareKey {
    match share {
        Share::Auto | Share::Shared => None,
        Share::PerTenant | Share::PerUser => Some(caller.key().as_str().into()),
        Share::PerSession => match session {
            Some(user) => Some(format!("session {user}").into()),
            None => Some(caller.key().as_str().into()),
        },
    }
}

/// What the call wants of its server.
pub(crate) fn want(call: &Call, target: &Target, purpose: Purpose) -> Want {
    let config = target.upstream.handle.config();
    let (_, whole) = target.timeouts();
    let mut want = Want {
        era: target.era.unwrap_or(call.era),
        capabilities: call.capabilities,
        share: share_key(config.share, &call.caller, call.session.as_ref().map(|session| session.user)),
        roots: match (&call.session, &call.brought) {
            (Some(session), _) => session.roots(),
            (None, Some(brought)) => brought.roots.clone(),
            (None, None) => None,
        },
        user: call.user,
        purpose,
        deadline: if call.until.is_some() { call.deadline(whole) } else { counts_from(call) + whole },
        avoid: Avoid::other_than(target.labels.clone()),
        affinity: affinity::of(call, target),
    };
    if let Some(task) = &call.task {
        task.choose(&mut want);
    }
    // A modern client is never asked anything about a completion, so not for its roots either.
    if call.era == Era::Modern
        && call.frame.method_class() == Method::Complete
        && target.upstream.handle.peek().asks.roots
    {
        want.capabilities = want.capabilities.without_questions();
    }
    want
}

/// When the time of an exchange begins: a listen request outlives the streams that are opened for it.
fn counts_from(call: &Call) -> Instant {
    if call.frame.method_class() == Method::Listen { Instant::now() } else { call.started }
}

/// Sends the call and waits for the first thing that comes back, at most until `quiet_until`.
pub(crate) async fn begin(call: &Call, target: &Target, quiet_until: Instant) -> Begun {
    dependencies::begin(call, target);
    // Here, so that what is answered without the server counts for nothing, and a second try not twice.
    if let Some(limits) = &target.upstream.limits
        && let Err(refusal) = Box::pin(limits.server(call, target)).await
    {
        return Begun::Refused(Box::new(refusal));
    }
    if target.upstream.bulkhead.is_some()
        && let Err(refusal) = Box::pin(overload::enter_server(call, target)).await
    {
        return Begun::Refused(Box::new(refusal));
    }
    reuse::sent(call, target);
    begin_entered(call, target, quiet_until).await
}

/// The same for a call that was let in already.
pub(crate) async fn begin_entered(call: &Call, target: &Target, quiet_until: Instant) -> Begun {
    if let Some(tasks::Asked::Polled(_)) = call.task.as_deref() {
        return Box::pin(tasks::begin_polled(call, target, quiet_until)).await;
    }
    begin_with(call, target, call.frame.clone(), quiet_until).await
}

/// The same with another message than the client's own.
pub(crate) async fn begin_with(call: &Call, target: &Target, frame: Frame, quiet_until: Instant) -> Begun {
    let purpose = if call.frame.method_class() == Method::Listen { Purpose::Session } else { Purpose::Call };
    let mut want = want(call, target, purpose);
    let mut tries = Tries::new();
    let mut relisted: Option<Box<Target>> = None;
    let mut at = At::default();
    let mut earlier: Option<Box<Begun>> = None;
    if let Some(guard) = &target.upstream.rules.guard
        && call.retries.load(Ordering::Relaxed) == 0
    {
        guard.deposit();
    }
    loop {
        let target = relisted.as_deref().unwrap_or(target);
        let tried = match target.hedge(call) {
            None => once(call, target, &frame, &want, quiet_until, &mut at).await,
            Some(after) => Box::pin(hedge::race(call, target, &frame, &want, quiet_until, after, &mut at)).await,
        };
        if let Begun::Answered { answer, link: Era::Modern } = &tried
            && answer.frame.error_code() == Some(header::HEADER_MISMATCH)
            && call.frame.method_class() == Method::ToolsCall
        {
            // The tool wants other headers than when it was listed, and was not run.
            if tries.take_at_once()
                && Box::pin(bridge::list_anew(call, target)).await
                && let again = target.anew()
                && resolve::agrees_still(call, &again)
            {
                relisted = Some(Box::new(again));
                continue;
            }
        }
        let failure = match &tried {
            Begun::Failed(error) => Failure::of(error),
            Begun::Answered { answer, .. } if target.upstream.rules.guard.is_some() => {
                match Failure::of_answer(answer) {
                    Some(failure) => failure,
                    None => return tried,
                }
            }
            _ => return tried,
        };
        let is_new = at.instance.take().is_some_and(|instance| want.avoid.add(&instance));
        let has_more = || is_new && target.upstream.handle.has_more(&want);
        let Some(wait) = next_try(call, target, &mut tries, failure, has_more) else {
            // Of a call that may have been made nobody is told that it was not, because a further try could not be.
            return earlier.filter(|_| is_unmade(&tried)).map_or(tried, |made| *made);
        };
        say_again(call, target, &tried, wait);
        if !is_unmade(&tried) {
            earlier = Some(Box::new(tried));
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

fn is_unmade(tried: &Begun) -> bool {
    matches!(tried, Begun::Failed(error) if error.outcome == Outcome::NotMade)
}

fn next_try(
    call: &Call,
    target: &Target,
    tries: &mut Tries,
    failure: Failure,
    has_more: impl FnOnce() -> bool,
) -> Option<Duration> {
    let (_, whole) = target.timeouts();
    let case = Case {
        guard: target.upstream.rules.guard.as_deref(),
        is_repeatable: &|| is_repeatable(call, target),
        retries: &call.retries,
        is_task: call.task.is_some(),
        deadline: call.deadline(whole),
    };
    tries.next(&case, failure, has_more)
}

fn say_again(call: &Call, target: &Target, tried: &Begun, wait: Duration) {
    let error = match tried {
        Begun::Failed(error) => Some(tracing::field::display(error)),
        _ => None,
    };
    let wait_ms = wait.as_millis();
    tracing::debug!(server = %target.upstream.handle.name(), method = call.frame.method(), error, wait_ms, "sending the call again");
}

/// A call that was under way and failed before anything of it was passed on, made again where that is configured.
pub(crate) async fn again(call: &Call, target: &Target, error: &UpstreamError) -> Option<Begun> {
    if reuse::is_given(call) {
        // Whoever made it for all tried as often as may be.
        return None;
    }
    let wait = next_try(call, target, &mut Tries::late(), Failure::of(error), || false)?;
    tracing::debug!(server = %target.upstream.handle.name(), method = call.frame.method(), %error, "sending the call again");
    tokio::time::sleep(wait).await;
    let quiet_until = Instant::now() + call.endpoint.config.listen.keep_alive;
    // It has its place, and counts once.
    let tried = begin_with(call, target, call.frame.clone(), quiet_until).await;
    (error.outcome == Outcome::NotMade || !is_unmade(&tried)).then_some(tried)
}

/// Leave to make a call of a server that has a guard.
fn admit(call: &Call, target: &Target) -> Result<Option<Admission>, UpstreamError> {
    let rules = &target.upstream.rules;
    let tool = match call.frame.method_class() {
        Method::ToolsCall => target.name.as_deref(),
        Method::ResourcesRead | Method::PromptsGet | Method::Complete => None,
        // What goes on for long, and what belongs to a call that was made.
        _ => return Ok(None),
    };
    for (name, needed) in &rules.needs {
        if let Some(wait) = needed.is_open() {
            return Err(guard::held_back_by(rules.guard.as_deref(), name, wait));
        }
    }
    if let Some((name, wait)) = tool.and_then(|tool| dependencies::held_back(call, target, tool)) {
        return Err(guard::held_back_by(rules.guard.as_deref(), &name, wait));
    }
    let Some(guard) = &rules.guard else { return Ok(None) };
    let mut admission = guard.admit(tool)?;
    if let Some(admission) = &mut admission {
        admission.waits_until(call.until);
    }
    Ok(admission)
}

/// What may not be repeated is rather not sent to an instance that is only tried: the same, where there is one.
fn cautious(call: &Call, target: &Target, want: &Want) -> Option<Box<Want>> {
    let guard = target.upstream.rules.guard.as_ref().filter(|_| target.upstream.handle.has_siblings())?;
    let tool = target.name.as_deref().filter(|_| call.frame.method_class() == Method::ToolsCall);
    let mut trying = Avoid::default();
    guard.trying(tool, &mut trying);
    if trying.len() == 0 || is_repeatable(call, target) {
        return None;
    }
    let mut cautious = Box::new(want.clone());
    cautious.avoid.add_all(&trying);
    Some(cautious)
}

/// One try: where it went, and whether another was faster.
#[derive(Default)]
struct At<'a> {
    instance: Option<Arc<Instance>>,
    lost: Option<&'a AtomicBool>,
}

async fn once(
    call: &Call,
    target: &Target,
    frame: &Frame,
    want: &Want,
    quiet_until: Instant,
    at: &mut At<'_>,
) -> Begun {
    // Only where something was waited for.
    let may_be_late = call.until.is_some() || target.upstream.bulkhead.is_some();
    if may_be_late && want.deadline <= Instant::now() {
        return Begun::Failed(no_time());
    }
    let mut admission = match admit(call, target) {
        Ok(admission) => admission,
        Err(error) => return Begun::Failed(error),
    };
    let cautious = admission.as_ref().and_then(|_| cautious(call, target, want));
    let want = cautious.as_deref().unwrap_or(want);
    let lease = match target.upstream.handle.lease(want).await {
        Ok(lease) => lease,
        Err(LeaseError::NeedsRoots) => return Begun::NeedsRoots,
        Err(LeaseError::Upstream(error)) => return not_leased(want, error, admission),
    };
    let link = lease.era();
    if target.upstream.rules.guard.is_some() || target.upstream.handle.has_siblings() {
        // Should this try fail, a further one goes to another.
        at.instance = Some(Arc::clone(lease.instance()));
    }
    if let Some(admission) = &mut admission
        && let Err(error) = admission.goes_to(lease.instance())
    {
        return Begun::Failed(error);
    }
    if target.era.is_some_and(|era| era != link) {
        let text = "it speaks another era of the protocol than before";
        return Begun::Failed(UpstreamError::new(UpstreamErrorKind::Lost, Outcome::NotMade, text));
    }
    if call.era == Era::Modern
        && link == Era::Legacy
        && let Some(level) = call.frame.str(Field::MetaLogLevel)
        && crate::shape::is_level(&level)
    {
        Box::pin(lease.log_from(&level, Instant::now() + LEVEL_WAIT)).await;
    }
    if let Some(task) = &call.task {
        task.goes_over(lease.link());
    }
    let mut outbound = outbound(call, target, frame, link);
    if let Some(admission) = admission.take() {
        outbound.witness = Some(Box::new(admission));
    }
    if let Some(faults) = &target.upstream.rules.faults {
        outbound.injection = faults.draw(call, frame.method_class(), target, lease.instance());
    }
    let mut exchange = match lease.start(call.worker, outbound).begun().await {
        Ok(exchange) => exchange,
        Err(error) => return Begun::Failed(error),
    };
    if replay::hangs_up(call) {
        exchange.tell_hang_ups();
    }
    let mut unheard = Unheard::new(exchange, call, at.lost);
    let heard = unheard.exchange().next_before(quiet_until).await;
    let exchange = unheard.take();
    match heard {
        Ok(Some(Item::Final(answer))) => Begun::Answered { answer, link },
        Ok(Some(Item::Message(frame))) => Begun::Spoke { exchange, frame },
        Ok(None) => Begun::Quiet { exchange },
        Err(error) => Begun::Failed(error),
    }
}

fn no_time() -> UpstreamError {
    let text = "the time for the call was over before it could be made";
    UpstreamError::new(UpstreamErrorKind::NoTime, Outcome::NotMade, text)
}

/// There is no way to the server, or no time left to find one.
fn not_leased(want: &Want, error: UpstreamError, admission: Option<Admission>) -> Begun {
    if error.kind == UpstreamErrorKind::Timeout && want.deadline <= Instant::now() {
        return Begun::Failed(no_time().because(error));
    }
    if let Some(mut admission) = admission {
        admission.failed(&error);
    }
    Begun::Failed(error)
}

/// An exchange nothing was heard of yet. It is dropped when its caller cancels it, by a notification or
/// in the modern era by going away, and then the server is told.
struct Unheard<'a> {
    exchange: Option<Box<Exchange>>,
    call: &'a Call,
    /// Set when another try of the call was faster.
    lost: Option<&'a AtomicBool>,
}

impl<'a> Unheard<'a> {
    fn new(exchange: Box<Exchange>, call: &'a Call, lost: Option<&'a AtomicBool>) -> Self {
        Self { exchange: Some(exchange), call, lost }
    }

    fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("invariant: only taken when it was heard of")
    }

    fn take(&mut self) -> Box<Exchange> {
        self.exchange.take().expect("invariant: taken once")
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let is_cancelled = || self.call.control.as_ref().is_some_and(|control| control.is_cancelled());
        let is_lost = || self.lost.is_some_and(|lost| lost.load(Ordering::Relaxed));
        if let Some(mut exchange) = self.exchange.take() {
            if is_lost() {
                exchange.cancel("another try was faster");
            } else if self.call.era == Era::Modern || is_cancelled() {
                exchange.cancel("the client cancelled the request");
            } else {
                self.call.gateway.0.replays.run_on(exchange, Left::of(self.call));
            }
        }
    }
}

/// What a call leaves behind that goes on without its client: its places in pools, and what it makes outdated.
struct Left {
    _places: Places,
    outdates: Option<(Gateway, reuse::Outdates)>,
}

impl Left {
    fn of(call: &Call) -> Self {
        let outdates = call.outdates.get().map(|outdates| (call.gateway.clone(), outdates.clone()));
        Self { _places: call.places.take(), outdates }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some((gateway, outdates)) = &self.outdates {
            outdates.apply(gateway);
        }
    }
}

/// The message as this server gets it.
pub(crate) fn outbound(call: &Call, target: &Target, frame: &Frame, link: Era) -> Outbound {
    let (idle, whole) = target.timeouts();
    let (deadline, idle) = match call.frame.method_class() {
        Method::Listen => (counts_from(call) + LISTEN, LISTEN),
        // Both wait for a task, which may say nothing until it is over.
        Method::TasksResult => (call.started + call.endpoint.config.tasks.ttl, call.endpoint.config.tasks.ttl),
        _ if frame.method_class() == Method::TasksResult => (call.started + whole, whole),
        _ => (call.deadline(whole), idle),
    };
    let is_impatient = call.until.is_some_and(|until| until == deadline);
    let forwards = target.upstream.rules.forwards_deadline() && frame.method_class().may_ask();
    let left = forwards.then(|| deadline::left(deadline));
    let mut edits = target.edits.clone();
    let mut headers = Vec::new();
    if frame.span(Field::Task).is_some() && !may_say_task(call, frame, link) {
        edits.remove_member(frame, Field::Task);
    }
    match (call.era, link) {
        (Era::Legacy, Era::Legacy) => {}
        (Era::Modern, Era::Modern) => match &call.param_headers {
            Some(sent) if target.arguments.is_none() && !target.is_relisted => headers.clone_from(sent),
            sent => headers = made(mirrored(call, target), sent.as_deref().filter(|_| target.arguments.is_none())),
        },
        (Era::Modern, Era::Legacy) => {
            // A dual-era server would take a request with these members for a modern one.
            for field in [
                Field::MetaProtocolVersion,
                Field::MetaClientCapabilities,
                Field::MetaClientInfo,
                Field::MetaLogLevel,
                Field::RequestState,
                Field::InputResponses,
            ] {
                edits.remove_member(frame, field);
            }
        }
        (Era::Legacy, Era::Modern) => {
            bridge::add_meta(call, frame, left, &mut edits);
            headers = mirrored(call, target);
        }
    }
    if let Some(along) = &call.along {
        headers.extend(along.headers.iter().cloned());
    }
    if let Some(info) = &call.info {
        info.sent();
    }
    if let Some(watched) = call.watched.get() {
        // Where a `_meta` is made anyway there must not be two.
        let makes_meta = left.is_none() && (call.era, link) != (Era::Legacy, Era::Modern);
        watched.tell(target.upstream.handle.name(), frame, makes_meta, &mut headers, &mut edits);
    }
    let mcp_name = match (link, &target.name) {
        (Era::Modern, Some(name)) => Some(header::encode_value(name)),
        _ => None,
    };
    if let Some(left) = left {
        headers.push(deadline::header(left));
        if (call.era, link) != (Era::Legacy, Era::Modern) {
            deadline::meta(frame, left, &mut edits);
        }
    }
    Outbound {
        frame: frame.clone(),
        edits,
        mcp_name,
        headers,
        deadline,
        is_impatient,
        idle,
        witness: None,
        injection: None,
    }
}

/// Whether a request's `params.task` is for the server: only where what comes of it is followed. A task of a client that
/// has no word for it would run on for nobody, and ask whoever else there is.
fn may_say_task(call: &Call, frame: &Frame, link: Era) -> bool {
    match (call.era, link) {
        (Era::Modern, Era::Modern) => true,
        (Era::Legacy, Era::Modern) => false,
        (_, Era::Legacy) => {
            frame.method_class() == Method::Other || call.task.as_ref().is_some_and(|task| task.makes())
        }
    }
}

/// The headers of a call that the gateway makes, with those of its client's that are nothing of the tool's.
fn made(
    mut made: Vec<(HeaderName, HeaderValue)>,
    sent: Option<&[(HeaderName, HeaderValue)]>,
) -> Vec<(HeaderName, HeaderValue)> {
    let of_tool = made.len();
    for (name, value) in sent.unwrap_or_default() {
        if !made[..of_tool].iter().any(|(known, _)| known == name) {
            made.push((name.clone(), value.clone()));
        }
    }
    made
}

/// The headers that a tool wants some of its arguments in, for a client that does not send them.
fn mirrored(call: &Call, target: &Target) -> Vec<(HeaderName, HeaderValue)> {
    let mut catalog = None;
    let wanted = target.item(&mut catalog, call).and_then(|tool| tool.param_headers.as_ref());
    let arguments = target.arguments.as_deref().or_else(|| call.frame.raw(Field::Arguments));
    wanted.map(|params| params.encode(arguments)).unwrap_or_default()
}
