//! How often calls may be made: the configured limits as a call meets them.
//!
//! Three places, for three reasons. `admit`: caller, tenant and all together, before anything is looked up for the call.
//! After resolve: each tool's rate, and quotas, because only then it is known what is called and what it costs.
//! In dispatch: the server's, so that what is answered without the server does not count. A call refused at
//! one place has been counted at those before it: who asks too often asks all the same.
//!
//! The guard against loops stands before all of them and is on where nothing is configured. It costs a hash of the
//! arguments' bytes and an atomic exchange.

use crate::{call::Call, gateway::Gateway, resolve::Target, session::Session, snapshot::Endpoint};
use fairlead_config::{Quota, Rate, ServerRules};
use fairlead_core::{Caller, Code, Outcome, Refusal, ServerName, UpstreamError, UpstreamErrorKind};
use fairlead_policy::{
    Ask, Denied, Ledger, Level, Limit, Limiter, Measure, Moment, Repeats, Signal, Tightening, Verdict,
};
use fairlead_wire::{Field, Frame, Method, list, message};
use http::{HeaderMap, header::USER_AGENT};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Characters of a client's name that tell it from others.
const MAX_CLIENT: usize = 64;
/// What a call costs where no rule says otherwise.
const COST: u32 = 1;
/// The whole of a rate, in thousandths.
const WHOLE: u32 = 1000;
/// The tenant, until there are several.
const TENANT: &str = "default";
/// The name of the guard against loops among the limits.
const IDENTICAL: &str = "identical";

/// What was counted. Lives as long as the gateway, so that a reload gives nothing away.
pub(crate) struct State {
    limiter: Box<dyn Limiter>,
    ledger: Arc<Ledger>,
    repeats: Repeats,
    began: Instant,
    tightenings: Mutex<HashMap<ServerName, (u32, Arc<Tightening>)>>,
    refusals: Mutex<BTreeMap<(Box<str>, &'static str), u64>>,
}

/// The in-process ledger behind the port.
struct InProcess(Arc<Ledger>);

impl Limiter for InProcess {
    fn take<'a>(&'a self, asks: &'a [Ask<'a>], at: Moment) -> Verdict<'a> {
        self.0.take(asks, at)
    }

    fn forget(&self, prefix: &str) {
        self.0.forget(prefix);
    }

    fn keys(&self) -> usize {
        self.0.keys()
    }
}

impl State {
    pub(crate) fn new(config: &fairlead_config::Limits) -> Self {
        let ledger = Arc::new(Ledger::new(config.max_keys));
        Self {
            limiter: Box::new(InProcess(Arc::clone(&ledger))),
            ledger,
            repeats: Repeats::default(),
            began: Instant::now(),
            tightenings: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    pub(crate) fn configure(&self, config: &fairlead_config::Limits) {
        self.ledger.set_max_keys(config.max_keys);
    }

    /// The limits of a server, if it has any.
    pub(crate) fn of_server(
        &self,
        config: &fairlead_config::Limits,
        name: &ServerName,
        rules: Option<&Arc<ServerRules>>,
    ) -> Option<Arc<ServerLimits>> {
        let nothing = fairlead_config::ServerLimits::default();
        let own = rules.map_or(&nothing, |rules| &rules.limits);
        let mut limits = Vec::new();
        if let Some(rate) = own.rate.unwrap_or(config.server) {
            limits.push(rated(format!("server:{name}"), Level::Server, rate));
        }
        if let Some(quota) = own.quota.unwrap_or(config.server_quota) {
            limits.push(quoted(format!("quota:server:{name}"), Level::Server, quota));
        }
        let tool = own.tool.unwrap_or(config.tool);
        let is_ruled = rules.is_some_and(|rules| rules.tools.iter().any(|(_, rule)| rule.limit.is_some()));
        if limits.is_empty() && tool.is_none() && !is_ruled {
            return None;
        }
        let mut known = self.tightenings.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = config.floor * 10;
        let fresh = || (floor, Arc::new(Tightening::new(floor)));
        let entry = known.entry(name.clone()).or_insert_with(fresh);
        if entry.0 != floor {
            *entry = fresh();
        }
        let tightening = Arc::clone(&entry.1);
        Some(Arc::new(ServerLimits { limits, tool, tool_name: format!("tool:{name}").into(), tightening }))
    }

    pub(crate) fn keys(&self) -> usize {
        self.limiter.keys()
    }

    pub(crate) fn refusals(&self) -> Vec<(String, &'static str, u64)> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().map(|((limit, level), count)| (limit.to_string(), *level, *count)).collect()
    }

    fn refused(&self, limit: &str, level: Level) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry((limit.into(), level.word())).or_default() += 1;
    }

    async fn take(&self, asks: &[Ask<'_>], at: Moment) -> Result<(), Refusal> {
        let taken = match self.limiter.take(asks, at) {
            Verdict::Now(taken) => taken,
            Verdict::Later(taken) => taken.await,
        };
        taken.map_err(|denied| {
            let limit = asks[denied.index].limit;
            self.refused(&limit.name, limit.level);
            refusal(limit, denied)
        })
    }
}

fn rated(name: String, level: Level, rate: Rate) -> Limit {
    Limit { name: name.into(), level, measure: Measure::Rate(rate) }
}

fn quoted(name: String, level: Level, quota: Quota) -> Limit {
    Limit { name: name.into(), level, measure: Measure::Quota(quota) }
}

/// The limits of an endpoint's calls that belong to no server.
#[derive(Debug)]
pub(crate) struct Limits {
    identical: Option<Rate>,
    rates: Vec<Limit>,
    quotas: Vec<Limit>,
}

impl Limits {
    pub(crate) fn new(config: &fairlead_config::Limits) -> Self {
        // In this order: what is refused for one caller's sake is not taken from what all share.
        let rates = [(Level::Caller, config.caller), (Level::Tenant, config.tenant), (Level::Global, config.global)];
        let quotas = [
            (Level::Caller, config.caller_quota),
            (Level::Tenant, config.tenant_quota),
            (Level::Global, config.global_quota),
        ];
        let rates = rates.into_iter().filter_map(|(level, rate)| Some(rated(level.word().to_owned(), level, rate?)));
        let quotas = quotas
            .into_iter()
            .filter_map(|(level, quota)| Some(quoted(format!("quota:{}", level.word()), level, quota?)));
        Self { identical: config.identical, rates: rates.collect(), quotas: quotas.collect() }
    }

    /// Whether [`admit`] has anything to say.
    pub(crate) fn admits(&self) -> bool {
        !self.rates.is_empty()
    }

    fn names_callers(&self) -> bool {
        self.rates.iter().chain(&self.quotas).any(|limit| limit.level == Level::Caller)
    }

    /// What is in force, for people.
    pub(crate) fn explain(&self) -> Vec<String> {
        let identical = self.identical.map(|rate| format!("identical calls of one caller: {rate}"));
        self.rates.iter().chain(&self.quotas).map(shown).chain(identical).collect()
    }
}

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct ServerLimits {
    limits: Vec<Limit>,
    tool: Option<Rate>,
    /// What the limits of its tools are called.
    tool_name: Arc<str>,
    tightening: Arc<Tightening>,
}

impl ServerLimits {
    /// Whether the server may be called now.
    pub(crate) async fn server(&self, call: &Call, target: &Target) -> Result<(), Refusal> {
        let permille = self.tightening.permille();
        let ask = |limit| Ask { limit, key: "", cost: cost_under(limit, target), permille };
        let asks: Vec<Ask<'_>> = self.limits.iter().map(ask).collect();
        call.gateway.0.limits.take(&asks, now(&call.gateway)).await
    }

    /// Notes how a call ended.
    pub(crate) fn note(&self, signal: Signal) {
        match signal {
            Signal::Overloaded => self.tightening.note(true),
            Signal::Answered => self.tightening.note(false),
            Signal::Nothing => {}
        }
    }

    /// What is in force, for people.
    pub(crate) fn explain(&self) -> Vec<String> {
        let tightened = match self.tightening.permille() {
            WHOLE => None,
            permille => Some(format!("its calls fail: {} % of its rates are to be had now", permille / 10)),
        };
        let tool = self.tool.map(|rate| format!("`{}`: {rate} each", self.tool_name));
        self.limits.iter().map(shown).chain(tool).chain(tightened).collect()
    }
}

fn shown(limit: &Limit) -> String {
    format!("`{}`: {}", limit.name, measure(limit))
}

fn measure(limit: &Limit) -> String {
    match &limit.measure {
        Measure::Rate(rate) => rate.to_string(),
        Measure::Quota(quota) => quota.to_string(),
    }
}

/// Rates count calls, quotas what they cost.
fn cost_under(limit: &Limit, target: &Target) -> u32 {
    match limit.measure {
        Measure::Rate(_) => COST,
        Measure::Quota(_) => target.rule.as_deref().and_then(|rule| rule.cost).unwrap_or(COST),
    }
}

fn now(gateway: &Gateway) -> Moment {
    Moment { since: gateway.0.limits.began.elapsed(), unix_ms: gateway.unix_ms() }
}

/// The caller of a request, with what its client calls itself where limits tell callers apart by that: with its session,
/// with the request, or in `User-Agent`.
pub(crate) fn caller(
    endpoint: &Endpoint,
    caller: &Caller,
    session: Option<&Session>,
    frame: &Frame,
    headers: &HeaderMap,
) -> Caller {
    let caller = caller.clone();
    if !endpoint.limits.names_callers() {
        return caller;
    }
    if let Some(client) = session.and_then(|session| session.caller.client()) {
        return caller.named(client);
    }
    if let Some(info) = frame.raw(Field::MetaClientInfo) {
        return name(caller, info);
    }
    match headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        Some(agent) => caller.named(cut(agent)),
        None => caller,
    }
}

/// The caller that opens a session, with what its client calls itself.
pub(crate) fn named(caller: &Caller, initialize: &Frame) -> Caller {
    match initialize.raw(Field::ParamClientInfo) {
        Some(info) => name(caller.clone(), info),
        None => caller.clone(),
    }
}

fn name(caller: Caller, info: &str) -> Caller {
    match list::string_member(info, "name") {
        Some(name) => caller.named(cut(&name)),
        None => caller,
    }
}

fn cut(name: &str) -> &str {
    name.char_indices().nth(MAX_CLIENT).map_or(name, |(end, _)| &name[..end])
}

/// What counts together as one caller.
fn caller_key(call: &Call) -> String {
    let client = call.caller.client().map_or("", |client| client);
    match call.caller.address() {
        Some(address) => format!("{address} {client}"),
        None => format!("local {client}"),
    }
}

/// Whether the caller, its tenant and everybody together may call now.
pub(crate) async fn admit(call: &Call) -> Result<(), Refusal> {
    take_shared(call, &call.endpoint.limits.rates, None).await
}

/// Whether anything is to be asked once it is known what is called.
pub(crate) fn concern(call: &Call, target: &Target) -> bool {
    !call.endpoint.limits.quotas.is_empty() || tool_limit(call, target).is_some()
}

fn tool_limit(call: &Call, target: &Target) -> Option<Limit> {
    let limits = target.upstream.limits.as_ref()?;
    if call.frame.method_class() != Method::ToolsCall {
        return None;
    }
    let said = target.rule.as_deref().and_then(|rule| rule.limit);
    let rate = said.unwrap_or(limits.tool)?;
    Some(Limit { name: Arc::clone(&limits.tool_name), level: Level::Tool, measure: Measure::Rate(rate) })
}

/// Whether the tool may be called now, and whether what it costs is there.
pub(crate) async fn tool(call: &Call, target: &Target) -> Result<(), Refusal> {
    take_shared(call, &call.endpoint.limits.quotas, Some(target)).await
}

async fn take_shared(call: &Call, limits: &[Limit], target: Option<&Target>) -> Result<(), Refusal> {
    let caller = limits.iter().any(|limit| limit.level == Level::Caller).then(|| caller_key(call));
    let mut asks = Vec::with_capacity(limits.len() + 1);
    let of_tool = target.and_then(|target| tool_limit(call, target));
    if let (Some(target), Some(limit)) = (target, &of_tool) {
        let permille = target.upstream.limits.as_ref().map_or(WHOLE, |limits| limits.tightening.permille());
        asks.push(Ask { limit, key: target.name.as_deref().unwrap_or_default(), cost: COST, permille });
    }
    for limit in limits {
        let key = match limit.level {
            Level::Caller => caller.as_deref().unwrap_or_default(),
            Level::Tenant => TENANT,
            _ => "",
        };
        let cost = target.map_or(COST, |target| cost_under(limit, target));
        asks.push(Ask { limit, key, cost, permille: WHOLE });
    }
    call.gateway.0.limits.take(&asks, now(&call.gateway)).await
}

/// Whether a call of a tool is not the same as the last so many of its caller.
pub(crate) fn repeats(call: &Call) -> Result<(), Refusal> {
    let Some(rate) = &call.endpoint.limits.identical else { return Ok(()) };
    if call.frame.method_class() != Method::ToolsCall {
        return Ok(());
    }
    let raw = |field| call.frame.raw_bytes(field).unwrap_or_default();
    let state = &call.gateway.0.limits;
    // A session is one caller; without one it is an address and what the client says of itself.
    let (user, client) = match &call.session {
        Some(session) if !session.is_fleeting() => (session.user, &[][..]),
        _ => (address_bits(call.caller.address()), raw(Field::MetaClientInfo)),
    };
    // A tool of one name on another endpoint is another tool.
    let endpoint = u64::try_from(Arc::as_ptr(&call.endpoint).addr()).unwrap_or_default();
    let user = user ^ endpoint.rotate_left(32);
    let hash = state.repeats.hash(user, client, raw(Field::Name), raw(Field::Arguments));
    let since = call.started.saturating_duration_since(state.began);
    state.repeats.count(hash, rate.count, rate.per, since).map_err(|retry_after| {
        state.refused(IDENTICAL, Level::Caller);
        let text = format!(
            "the same call was made more than {rate} by the same caller (limit `{IDENTICAL}`), which looks like a loop; \
             {}",
            later(retry_after)
        );
        Refusal::new(Code::RunawayLoop, text)
            .with_data(data(IDENTICAL, Level::Caller, &rate.to_string(), retry_after))
            .retry_after(retry_after)
    })
}

fn address_bits(address: Option<IpAddr>) -> u64 {
    match address {
        Some(IpAddr::V4(address)) => u64::from(address.to_bits()),
        Some(IpAddr::V6(address)) => {
            let bits = address.to_bits();
            u64::try_from(bits >> 64).unwrap_or(0) ^ u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0)
        }
        None => u64::MAX,
    }
}

fn refusal(limit: &Limit, denied: Denied) -> Refusal {
    let (allows, after) = (measure(limit), denied.retry_after);
    let (code, what) = match limit.measure {
        Measure::Rate(_) => (Code::RateLimited, "is reached"),
        Measure::Quota(_) => (Code::QuotaSpent, "is used up"),
    };
    let text = format!("the {} limit `{}` ({allows}) {what}; {}", limit.level.word(), limit.name, later(after));
    Refusal::new(code, text).with_data(data(&limit.name, limit.level, &allows, after)).retry_after(after)
}

fn later(after: Duration) -> String {
    format!("try again in {} s", after.as_secs() + u64::from(after.subsec_nanos() > 0))
}

/// What a client is told beside the sentence; on transports without headers this is where it reads when to come back.
fn data(limit: &str, level: Level, allows: &str, after: Duration) -> String {
    format!(
        "{{\"limit\":{},\"level\":\"{}\",\"allows\":{},\"retryAfterMs\":{}}}",
        message::quote(limit),
        level.word(),
        message::quote(allows),
        after.as_nanos().div_ceil(1_000_000)
    )
}

/// A refusal where only a failure can be told.
pub(crate) fn as_error(refusal: &Refusal) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::AtCapacity, Outcome::NotMade, refusal.message.clone())
}
