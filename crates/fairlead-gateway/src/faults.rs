//! Faults that are injected on purpose: those of the configuration and those set while the gateway runs.
//!
//! Which calls are hit is decided by `fairlead-policy`, what becomes of them in `fairlead-upstream`, where the real thing
//! would happen. A server has these only where `faults.enabled` says so.

use crate::{call::Call, explain::Step, resolve::Target, snapshot::Upstream};
use arc_swap::ArcSwap;
use fairlead_config::{FaultFile, FaultRule, FaultsConfig, Glob, Spoil, faults::MAX_FAULTS};
use fairlead_policy::{ActiveFault, Asked};
use fairlead_upstream::{Injection, Instance};
use fairlead_wire::Method;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The faults of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Those that are injected. Read by every call of a gateway that may inject any.
    active: ArcSwap<Vec<Arc<ActiveFault>>>,
    /// Held by whoever changes them.
    settings: Mutex<Settings>,
    /// How often, by server and kind.
    injected: Mutex<BTreeMap<(String, &'static str), u64>>,
}

#[derive(Debug, Default)]
struct Settings {
    is_enabled: bool,
    max_for: Duration,
    seed: u64,
    /// Faults that were set so far.
    ordinal: u64,
}

/// A fault, for whoever asks.
#[derive(Debug, Clone)]
pub struct FaultReading {
    /// What it does, and to which calls.
    pub rule: Arc<FaultRule>,
    /// Whether the configuration has it.
    pub is_configured: bool,
    /// When it ends.
    pub ends_in: Option<Duration>,
    /// Calls it hit.
    pub hits: u64,
}

/// Why a fault was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The configuration does not allow for any.
    #[error("faults are not enabled (`faults: {{ enabled: true }}` in the configuration; nothing else does it)")]
    Disabled,
    /// It is none.
    #[error("{0}")]
    Bad(String),
}

impl Faults {
    /// Takes over what the configuration says. What is the same in it goes on, what somebody set stays while any may be.
    pub(crate) fn configure(&self, config: &FaultsConfig) {
        let mut settings = self.settings();
        settings.is_enabled = config.enabled;
        settings.max_for = config.max_for;
        settings.seed = config.seed;
        let before = self.active.load();
        if !config.enabled {
            if !before.is_empty() {
                tracing::warn!("faults are not enabled any more; none is injected");
                self.active.store(Arc::default());
            }
            return;
        }
        let now = Instant::now().into_std();
        let mut active: Vec<_> = config
            .inject
            .iter()
            .map(|rule| {
                let known = before.iter().find(|known| known.is_configured && known.rule == *rule);
                known.cloned().unwrap_or_else(|| {
                    tracing::warn!(fault = &*rule.name, does = %rule, "a fault is injected, as the configuration says");
                    Arc::new(ActiveFault::new(Arc::clone(rule), true, now))
                })
            })
            .collect();
        let is_free = |set: &&Arc<ActiveFault>| config.inject.iter().all(|rule| rule.name != set.rule.name);
        active.extend(before.iter().filter(|known| !known.is_configured).filter(is_free).cloned());
        self.active.store(Arc::new(active));
    }

    /// Sets a fault: it lasts as long as it says, at most and else as long as `faults.max_for`.
    fn set(&self, mut file: FaultFile) -> Result<FaultReading, FaultError> {
        let mut settings = self.settings();
        if !settings.is_enabled {
            return Err(FaultError::Disabled);
        }
        let ordinal = settings.ordinal + 1;
        file.name.get_or_insert_with(|| format!("set-{ordinal}"));
        // Its numbers are not those of one of the configuration.
        let mut rule = file
            .build(MAX_FAULTS as u64 + ordinal, settings.seed)
            .map_err(|error| FaultError::Bad(error.to_string()))?;
        let lasts = *rule.lasts.get_or_insert(settings.max_for);
        if lasts > settings.max_for {
            let most = settings.max_for.as_secs();
            let text = format!("it may last {most} s at most (`faults.max_for` of the configuration)");
            return Err(FaultError::Bad(text));
        }
        let now = Instant::now().into_std();
        // One of the configuration that is over stays, or the next reload would begin it again.
        let stays = |fault: &&Arc<ActiveFault>| fault.is_configured || !fault.is_over(now);
        let mut active: Vec<_> = self.active.load().iter().filter(stays).cloned().collect();
        if active.iter().any(|fault| fault.rule.name == rule.name) {
            return Err(FaultError::Bad(format!("there is a fault called `{}`; clear it first", rule.name)));
        }
        if active.iter().filter(|fault| !fault.is_configured).count() >= MAX_FAULTS {
            return Err(FaultError::Bad(format!("{MAX_FAULTS} faults are set already; clear some first")));
        }
        settings.ordinal = ordinal;
        tracing::warn!(fault = &*rule.name, does = %rule, seconds = lasts.as_secs(), "a fault is injected, as somebody set it");
        let fault = Arc::new(ActiveFault::new(Arc::new(rule), false, now));
        let reading = reading(&fault, now);
        active.push(fault);
        self.active.store(Arc::new(active));
        Ok(reading)
    }

    /// Ends one fault, or all; how many that were. One of the configuration is back with the next reload that has it.
    fn clear(&self, name: Option<&str>) -> usize {
        let _held = self.settings();
        let now = Instant::now().into_std();
        let before = self.active.load();
        let goes = |fault: &&Arc<ActiveFault>| name.is_none_or(|name| *fault.rule.name == *name);
        let gone = before.iter().filter(goes).filter(|fault| !fault.is_over(now)).count();
        let stays = |fault: &&Arc<ActiveFault>| match fault.is_over(now) {
            true => fault.is_configured,
            false => !goes(fault),
        };
        let kept: Vec<_> = before.iter().filter(stays).cloned().collect();
        if gone > 0 {
            tracing::warn!(fault = name, count = gone, "faults were cleared");
        }
        self.active.store(Arc::new(kept));
        gone
    }

    fn list(&self) -> Vec<FaultReading> {
        let now = Instant::now().into_std();
        self.active.load().iter().filter(|fault| !fault.is_over(now)).map(|fault| reading(fault, now)).collect()
    }

    /// What happens to this try of a call.
    pub(crate) fn draw(
        &self,
        call: &Call,
        sent: Method,
        target: &Target,
        instance: &Instance,
    ) -> Option<Box<Injection>> {
        let active = self.active.load();
        if active.is_empty() {
            return None;
        }
        let tool = match sent {
            Method::ToolsCall => target.name.as_deref(),
            Method::ResourcesRead | Method::PromptsGet | Method::Complete => None,
            // What goes on for long is no call, and what is asked about one is not the one.
            _ => return None,
        };
        let server = target.upstream.handle.name().as_str();
        let (caller, path) = (call.caller.key().as_str(), &*call.endpoint.path);
        let asked = Asked { server, instance: instance.name(), tool, caller, path };
        let injection = fold(&active, &asked, Instant::now().into_std())?;
        let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in kinds(&injection) {
            *injected.entry((server.to_owned(), kind)).or_default() += 1;
        }
        drop(injected);
        let name = &*injection.name;
        tracing::debug!(server, instance = instance.name(), tool, fault = name, ?injection, "a fault is injected");
        if let Some(info) = &call.info {
            info.injected(&injection.name);
        }
        Some(Box::new(injection))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All faults that hit a call, as one: what takes time adds up, of what spoils it the first counts.
fn fold(active: &[Arc<ActiveFault>], asked: &Asked<'_>, now: std::time::Instant) -> Option<Injection> {
    let mut all: Option<Injection> = None;
    for fault in active {
        let Some(latency) = fault.draw(asked, now) else { continue };
        let rule = &*fault.rule;
        let nothing = || Injection {
            name: Arc::clone(&rule.name),
            latency: Duration::ZERO,
            request_rate: None,
            answer_rate: None,
            spoil: None,
        };
        let sum = all.get_or_insert_with(nothing);
        sum.latency += latency;
        let slower = |one: Option<usize>, other: Option<usize>| one.into_iter().chain(other).min();
        sum.request_rate = slower(sum.request_rate, rule.slow_request);
        sum.answer_rate = slower(sum.answer_rate, rule.slow_answer);
        if sum.spoil.is_none() && rule.spoil.is_some() {
            // What is said of the call is said of what spoils it.
            sum.name = Arc::clone(&rule.name);
            sum.spoil = rule.spoil;
        }
    }
    all
}

/// What an injection does, as words.
fn kinds(injection: &Injection) -> impl Iterator<Item = &'static str> {
    let kinds = [
        (!injection.latency.is_zero()).then_some("latency"),
        injection.request_rate.map(|_| "slow_request"),
        injection.answer_rate.map(|_| "slow_answer"),
        injection.spoil.map(Spoil::word),
    ];
    kinds.into_iter().flatten()
}

fn reading(fault: &ActiveFault, now: std::time::Instant) -> FaultReading {
    FaultReading {
        rule: Arc::clone(&fault.rule),
        is_configured: fault.is_configured,
        ends_in: fault.until.map(|until| until.saturating_duration_since(now)),
        hits: fault.hits(),
    }
}

/// The faults that may hit calls of a server, or of a tool of it.
pub(crate) fn explain(upstream: &Upstream, tool: Option<&str>, steps: &mut Vec<Step>) {
    let Some(faults) = &upstream.rules.faults else { return };
    let concerns = |rule: &FaultRule| {
        let is_tool = |glob: &Glob| tool.is_some_and(|tool| glob.matches(tool));
        rule.concerns(upstream.handle.name()) && rule.tool.as_ref().is_none_or(is_tool)
    };
    for fault in faults.list().iter().filter(|fault| concerns(&fault.rule)) {
        let text = format!("the fault `{}` is injected on purpose: {}", fault.rule.name, fault.rule);
        steps.push(Step { phase: "faults", ok: None, text });
    }
}

impl crate::Gateway {
    /// The faults that are injected now.
    #[must_use]
    pub fn faults(&self) -> Vec<FaultReading> {
        self.0.faults.list()
    }

    /// Whether the configuration allows for faults.
    #[must_use]
    pub fn injects_faults(&self) -> bool {
        self.0.faults.settings().is_enabled
    }

    /// Injects a fault from now on, as long as it says, at most as long as `faults.max_for` says.
    ///
    /// # Errors
    /// When the configuration does not allow for any, or it is none that can be.
    pub fn set_fault(&self, fault: FaultFile) -> Result<FaultReading, FaultError> {
        self.0.faults.set(fault)
    }

    /// Ends one fault, or all; how many that were.
    pub fn clear_faults(&self, name: Option<&str>) -> usize {
        self.0.faults.clear(name)
    }

    /// How often faults were injected: the server, the kind, how often.
    #[must_use]
    pub fn faults_injected(&self) -> Vec<(String, &'static str, u64)> {
        let injected = self.0.faults.injected.lock().unwrap_or_else(PoisonError::into_inner);
        injected.iter().map(|((server, kind), count)| (server.clone(), *kind, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(enabled: bool, inject: &[serde_json::Value]) -> FaultsConfig {
        let rules = inject.iter().enumerate().map(|(at, json)| Arc::new(file(json).build(at as u64 + 1, 0).unwrap()));
        FaultsConfig { enabled, max_for: Duration::from_secs(60), seed: 0, inject: rules.collect() }
    }

    fn file(json: &serde_json::Value) -> FaultFile {
        serde_json::from_value(json.clone()).expect("a fault")
    }

    fn names(faults: &Faults) -> Vec<String> {
        faults.list().into_iter().map(|fault| fault.rule.name.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn faults_are_set_within_bounds_end_and_are_cleared() {
        let faults = Faults::default();
        let garbage = serde_json::json!({"name": "g", "garbage": true});
        assert_eq!(faults.set(file(&garbage)).unwrap_err(), FaultError::Disabled);
        faults.configure(&config(true, &[]));
        assert_eq!(faults.set(file(&garbage)).unwrap().ends_in, Some(Duration::from_secs(60)));
        assert!(faults.set(file(&garbage)).unwrap_err().to_string().contains("`g`"));
        let long = serde_json::json!({"garbage": true, "for": "61s"});
        assert!(faults.set(file(&long)).unwrap_err().to_string().contains("max_for"));
        let short = serde_json::json!({"name": "s", "garbage": true, "for": "10s"});
        faults.set(file(&short)).unwrap();
        assert_eq!(names(&faults), ["g", "s"]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(names(&faults), ["g"]);
        assert_eq!((faults.clear(Some("x")), faults.clear(None), faults.clear(None)), (0, 1, 0));
        for _ in 0..MAX_FAULTS {
            faults.set(file(&serde_json::json!({"garbage": true}))).unwrap();
        }
        assert!(faults.set(file(&short)).unwrap_err().to_string().contains("64"));
        tokio::time::advance(Duration::from_secs(60)).await;
        faults.set(file(&short)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_keeps_what_is_the_same_and_a_disabled_gateway_injects_nothing() {
        let faults = Faults::default();
        let ending = serde_json::json!({"name": "e", "garbage": true, "for": "10s"});
        faults.configure(&config(true, std::slice::from_ref(&ending)));
        faults.set(file(&serde_json::json!({"name": "mine", "garbage": true}))).unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        faults.configure(&config(true, &[ending.clone(), serde_json::json!({"name": "n", "garbage": true})]));
        let ends: Vec<_> = faults.list().into_iter().map(|fault| fault.ends_in.map(|left| left.as_secs())).collect();
        assert_eq!(names(&faults), ["e", "n", "mine"]);
        assert_eq!(ends, [Some(6), None, Some(56)]);
        faults.configure(&config(false, &[ending]));
        assert!(names(&faults).is_empty());
    }

    #[test]
    fn faults_that_meet_add_up() {
        let now = std::time::Instant::now();
        let active: Vec<_> = [
            serde_json::json!({"name": "slow", "latency": "100ms", "slow_answer": "2KiB"}),
            serde_json::json!({"name": "slower", "latency": "200ms", "slow_answer": "1KiB"}),
            serde_json::json!({"name": "other", "tool": "y", "garbage": true}),
            serde_json::json!({"name": "broken", "disconnect": "middle"}),
            serde_json::json!({"name": "late", "garbage": true}),
        ]
        .iter()
        .map(|json| Arc::new(ActiveFault::new(Arc::new(file(json).build(1, 0).unwrap()), true, now)))
        .collect();
        let asked = Asked { server: "crm", instance: "a", tool: Some("x"), caller: "anonymous", path: "/mcp" };
        let injection = fold(&active, &asked, now).expect("some");
        assert_eq!((&*injection.name, injection.spoil), ("broken", Some(Spoil::Middle)));
        assert_eq!((injection.latency, injection.answer_rate), (Duration::from_millis(300), Some(1024)));
        assert_eq!(kinds(&injection).collect::<Vec<_>>(), ["latency", "slow_answer", "disconnect"]);
        assert!(fold(&active[2..3], &asked, now).is_none());
    }
}
