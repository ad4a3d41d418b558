//! The instances of a server: what is shown of them, and `fairlead servers drain` and `undrain`.

use crate::{
    cli, control,
    failure::{Exit, Failure},
    listing::{ANSWER, local},
    output, private,
    reach::Reach,
    runtime,
};
use fairlead_gateway::Gateway;
use fairlead_upstream::{InstanceStatus, ServerHandle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One instance of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InstanceRow {
    pub(crate) name: String,
    pub(crate) transport: String,
    /// As of a server.
    pub(crate) state: String,
    /// Why it gets no calls.
    pub(crate) out: Option<String>,
    pub(crate) weight: u32,
    /// The part of its share it gets, 0 to 1: less while it comes back, nothing while it is out.
    pub(crate) share: f64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) links: usize,
    pub(crate) calls: usize,
    /// The smoothed latency, once one was measured.
    pub(crate) latency_ms: Option<f64>,
    /// Calls that ended since it is there.
    pub(crate) ended: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Why it is down.
    pub(crate) error: Option<String>,
}

/// The instances of a server that has several.
pub(crate) fn rows(handle: &ServerHandle) -> Vec<InstanceRow> {
    if !handle.has_siblings() {
        return Vec::new();
    }
    let words = handle.config().transports().map(|transport| transport.word());
    handle.instance_status().into_iter().zip(words).map(|(status, transport)| row(status, transport)).collect()
}

fn row(status: InstanceStatus, transport: &str) -> InstanceRow {
    let InstanceStatus { instance, view, links, latency, share, counted: (ended, failed), why_out } = status;
    InstanceRow {
        name: instance.name().to_owned(),
        transport: transport.to_owned(),
        state: view.state.word().to_owned(),
        out: why_out,
        weight: instance.weight(),
        share: (share * 100.0).round() / 100.0,
        labels: instance.labels(),
        links,
        calls: instance.in_flight(),
        latency_ms: (!latency.is_zero()).then(|| (latency.as_secs_f64() * 1e6).round() / 1e3),
        ended,
        failed,
        error: match &view.state {
            fairlead_upstream::State::Down { reason, .. } => Some(reason.to_string()),
            _ => None,
        },
    }
}

/// Why a server's only instance gets no calls although the server is there.
pub(crate) fn why_out(handle: &ServerHandle) -> Option<String> {
    if handle.has_siblings() { None } else { handle.instances().next()?.why_out() }
}

/// What taking out, or bringing back, came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Drained {
    /// Instances it was done to.
    pub(crate) instances: usize,
    /// Calls in flight there.
    pub(crate) calls: usize,
}

/// `server` or `server/instance`.
fn parts(target: &str) -> (&str, Option<&str>) {
    target.split_once('/').map_or((target, None), |(server, instance)| (server, Some(instance)))
}

/// Takes instances out, or brings them back.
pub(crate) fn set(gateway: &Gateway, target: &str, is_out: bool) -> Drained {
    let (server, instance) = parts(target);
    let handle = gateway.servers().into_iter().find(|handle| handle.name().as_str() == server);
    let Some(handle) = handle else { return Drained { instances: 0, calls: 0 } };
    let instances = handle.drain(instance, is_out);
    let named = handle.instances().filter(|one| instance.is_none_or(|name| one.name() == name));
    Drained { instances, calls: named.map(|one| one.in_flight()).sum() }
}

/// `fairlead servers drain`, and `undrain` where the instance is not to be out.
pub(crate) fn run(arguments: &cli::Instances, is_out: bool) -> Result<Exit, Failure> {
    let target = &arguments.target;
    let drained = runtime::control(private::with_running(&arguments.which, async |reach: &Reach| {
        local(reach, "servers")?;
        reach.order::<Drained>(&control::drain_path(target, is_out), ANSWER).await
    }))?;
    if drained.instances == 0 {
        let failure = Failure::usage(format!("there is no server or instance `{}`", output::one_line(target, 64)));
        return Err(failure.hint("write NAME or NAME/INSTANCE as `fairlead servers` shows them"));
    }
    let instances = output::count(drained.instances, "instance");
    let done = if is_out { "drained: no new calls" } else { "in service again" };
    output::print(&format!("{instances} {done}, {} in flight\n", output::count(drained.calls, "call")))
}
