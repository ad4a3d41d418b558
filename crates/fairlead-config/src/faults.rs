//! Faults that are injected on purpose: what people write, in the configuration or to the running gateway, and what the
//! program uses.

use crate::{
    Glob,
    build::Builder,
    leaf::{DurationText, ErrorText, LatencyText, PatternText, SizeText},
};
use fairlead_core::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// Faults that the configuration may have at most, and as many may be set while the gateway runs.
pub const MAX_FAULTS: usize = 64;

/// How long a fault set while the gateway runs may last where nothing else is said.
const MAX_FOR: Duration = Duration::from_secs(3600);

/// The longest that `max_for` can be.
const LONGEST_FOR: Duration = Duration::from_secs(24 * 3600);

/// The longest name of a fault.
const MAX_NAME: usize = 40;

/// Faults that are injected on purpose, to see what becomes of calls then.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FaultsFile {
    /// Whether faults are injected at all, and can be set while the gateway runs.
    pub enabled: bool,
    /// How long a fault set while the gateway runs lasts at most; a day is the longest that can be said.
    pub max_for: DurationText,
    /// Where the numbers come from that decide which calls are hit: the same seed, the same calls.
    pub seed: u64,
    /// Faults that are there from the start.
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<FaultFile>,
}

impl Default for FaultsFile {
    fn default() -> Self {
        Self { enabled: false, max_for: DurationText(MAX_FOR), seed: 0, inject: Vec::new() }
    }
}

/// One fault: which calls it hits, and what happens to them. `latency`, `slow_request` and `slow_answer` go together with
/// each other and with one of `error`, `disconnect` and `garbage`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FaultFile {
    /// What it is called in answers, logs and metrics. Default: `fault-1`, `fault-2`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only calls to servers whose name matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<PatternText>,
    /// Only calls to instances whose name matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<PatternText>,
    /// Only calls of tools whose name matches, the server's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<PatternText>,
    /// Only calls of callers that match. Without authentication everybody is `anonymous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<PatternText>,
    /// Only calls that came in on paths that match, for example `/mcp` or `/mcp/support`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PatternText>,
    /// Of a hundred calls that match, how many are hit. Default: 100.
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// How long it lasts: from when the configuration was read, or it was set.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<DurationText>,
    /// Where the numbers come from, instead of `faults.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What comes back comes later: always (`200ms`), anything in between (`100ms..2s`), or half of it after the first
    /// time and all but one in a hundred within the second (`50ms p99 1s`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyText>,
    /// The server reads so many bytes of a request in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_request: Option<SizeText>,
    /// So many bytes of an answer come in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_answer: Option<SizeText>,
    /// An error instead of the call: `tool`, `rpc` (or `rpc -32000`), `http 503`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorText>,
    /// The connection breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<DisconnectFile>,
    /// The answer is not JSON-RPC.
    pub garbage: bool,
}

/// When a connection breaks: `connect`, it is never there; `before`, after the call was sent and before anything came back;
/// `middle`, in the middle of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum DisconnectFile {
    Connect,
    Before,
    Middle,
}

/// Whether faults are injected, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultsConfig {
    /// Whether any may be.
    pub enabled: bool,
    /// How long one set while the gateway runs lasts at most.
    pub max_for: Duration,
    /// Where numbers come from.
    pub seed: u64,
    /// Those of the configuration.
    pub inject: Vec<Arc<FaultRule>>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// What it is called.
    pub name: Arc<str>,
    /// Patterns on the server's name.
    pub server: Option<Glob>,
    /// On the instance's.
    pub instance: Option<Glob>,
    /// On the server's own name of the tool.
    pub tool: Option<Glob>,
    /// On the caller.
    pub caller: Option<Glob>,
    /// On the path of the endpoint.
    pub path: Option<Glob>,
    /// Of a hundred.
    pub percent: u32,
    /// How long it lasts.
    pub lasts: Option<Duration>,
    /// Where numbers come from.
    pub seed: u64,
    /// What comes back comes later.
    pub latency: Option<Latency>,
    /// Bytes per second of requests.
    pub slow_request: Option<usize>,
    /// Bytes per second of answers.
    pub slow_answer: Option<usize>,
    /// What happens to the call.
    pub spoil: Option<Spoil>,
}

/// How much later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// Always.
    Fixed(Duration),
    /// Anything in between.
    Between(Duration, Duration),
    /// Log-normal: the median, and the 99th percentile.
    Skewed(Duration, Duration),
}

/// The longest a call is held up, whatever a distribution says: an hour.
pub const MAX_LATENCY: Duration = Duration::from_secs(3600);

/// What happens to a call that is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// An error of JSON-RPC with this code.
    Rpc(i32),
    /// The tool reports an error.
    Tool,
    /// The server answers with this status and no message.
    Http(u16),
    /// There is no connection.
    Connect,
    /// It breaks before anything came back.
    Before,
    /// It breaks in the middle of the answer.
    Middle,
    /// The answer is none.
    Garbage,
}

/// JSON-RPC's code for a server that failed by itself.
pub(crate) const INTERNAL_ERROR: i32 = -32603;

impl Spoil {
    /// The kind of fault as one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rpc(_) | Self::Tool | Self::Http(_) => "error",
            Self::Connect | Self::Before | Self::Middle => "disconnect",
            Self::Garbage => "garbage",
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::leaf::write_duration as text;
        match self {
            Self::Fixed(time) => f.write_str(&text(time)),
            Self::Between(least, most) => write!(f, "{}..{}", text(least), text(most)),
            Self::Skewed(median, p99) => write!(f, "{} p99 {}", text(median), text(p99)),
        }
    }
}

impl fmt::Display for Spoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rpc(INTERNAL_ERROR) => f.write_str("rpc"),
            Self::Rpc(code) => write!(f, "rpc {code}"),
            Self::Tool => f.write_str("tool"),
            Self::Http(status) => write!(f, "http {status}"),
            Self::Connect => f.write_str("connect"),
            Self::Before => f.write_str("before"),
            Self::Middle => f.write_str("middle"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

/// Why a fault cannot be: in words, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {hint}")]
pub struct BadFault {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: &'static str,
}

fn bad<T>(message: impl Into<String>, hint: &'static str) -> Result<T, BadFault> {
    Err(BadFault { message: message.into(), hint })
}

impl FaultFile {
    /// The fault. `ordinal` names it where nothing else does, `seed` is where numbers come from then.
    ///
    /// # Errors
    /// When it does nothing, two things that exclude each other, or has a name that cannot be shown.
    pub fn build(self, ordinal: u64, seed: u64) -> Result<FaultRule, BadFault> {
        let disconnect = self.disconnect.map(|when| match when {
            DisconnectFile::Connect => Spoil::Connect,
            DisconnectFile::Before => Spoil::Before,
            DisconnectFile::Middle => Spoil::Middle,
        });
        let spoils = [self.error.map(|error| error.0), disconnect, self.garbage.then_some(Spoil::Garbage)];
        let mut spoils = spoils.into_iter().flatten();
        let spoil = spoils.next();
        if spoils.next().is_some() {
            return bad("a call can be spoilt in one way only", "write one of `error`, `disconnect` and `garbage`");
        }
        let rule = FaultRule {
            name: self.name.unwrap_or_else(|| format!("fault-{ordinal}")).into(),
            server: self.server.map(|glob| glob.0),
            instance: self.instance.map(|glob| glob.0),
            tool: self.tool.map(|glob| glob.0),
            caller: self.caller.map(|glob| glob.0),
            path: self.path.map(|glob| glob.0),
            percent: self.percent.unwrap_or(100),
            lasts: self.lasts.map(|time| time.0),
            // Faults of one seed must not hit the same calls.
            seed: self.seed.unwrap_or_else(|| seed.wrapping_add(ordinal.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            latency: self.latency.map(|latency| latency.0),
            slow_request: self.slow_request.map(|rate| rate.0),
            slow_answer: self.slow_answer.map(|rate| rate.0),
            spoil,
        };
        if rule.kinds().next().is_none() {
            let hint = "write `latency`, `slow_request`, `slow_answer`, `error`, `disconnect` or `garbage`";
            return bad("this fault does nothing", hint);
        }
        if !(1..=100).contains(&rule.percent) {
            return bad("`percent` is not between 1 and 100", "leave it out for every call");
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=MAX_NAME).contains(&rule.name.len()) || !rule.name.chars().all(fits) {
            return bad("this cannot be the name of a fault", "write at most 40 of A-Z, a-z, 0-9, `-`, `_` and `.`");
        }
        Ok(rule)
    }
}

impl FaultRule {
    /// What it does, as words.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let kinds = [
            self.latency.map(|_| "latency"),
            self.slow_request.map(|_| "slow_request"),
            self.slow_answer.map(|_| "slow_answer"),
            self.spoil.map(Spoil::word),
        ];
        kinds.into_iter().flatten()
    }

    /// Whether it may concern a server at all.
    #[must_use]
    pub fn concerns(&self, server: &ServerName) -> bool {
        self.server.as_ref().is_none_or(|glob| glob.matches(server.as_str()))
    }
}

/// One line that says which calls are hit, and what happens to them.
impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent)?;
        let of = [
            ("server", &self.server),
            ("instance", &self.instance),
            ("tool", &self.tool),
            ("caller", &self.caller),
            ("path", &self.path),
        ];
        for (word, glob) in of {
            if let Some(glob) = glob {
                write!(f, " {word}={glob}")?;
            }
        }
        f.write_str(":")?;
        if let Some(latency) = &self.latency {
            write!(f, " latency {latency}")?;
        }
        for (word, rate) in [("slow_request", self.slow_request), ("slow_answer", self.slow_answer)] {
            if let Some(rate) = rate {
                write!(f, " {word} {rate} B/s")?;
            }
        }
        match self.spoil {
            Some(Spoil::Garbage) => f.write_str(" garbage"),
            Some(spoil) => write!(f, " {} {spoil}", spoil.word()),
            None => Ok(()),
        }
    }
}

impl Builder<'_> {
    pub(crate) fn faults(&mut self, file: FaultsFile) -> FaultsConfig {
        if file.max_for.0 > LONGEST_FOR {
            self.error(&["faults", "max_for"], "a fault can last a day at most", "write `24h` or less");
        }
        if !file.enabled && !file.inject.is_empty() {
            self.key_warning(&["faults", "inject"], "nothing is injected", "write `enabled: true` beside it");
        }
        let mut inject: Vec<Arc<FaultRule>> = Vec::with_capacity(file.inject.len());
        for (at, fault) in file.inject.into_iter().enumerate() {
            let index = at.to_string();
            let path = ["faults", "inject", &index];
            match fault.build(at as u64 + 1, file.seed) {
                Ok(rule) if inject.iter().any(|other| other.name == rule.name) => {
                    let message = format!("another fault is called `{}`", rule.name);
                    self.error(&path, message, "give each a `name` of its own");
                }
                Ok(rule) => inject.push(Arc::new(rule)),
                Err(error) => self.error(&path, error.message, error.hint),
            }
        }
        if inject.len() > MAX_FAULTS {
            self.error(&["faults", "inject"], format!("there can be {MAX_FAULTS} faults at most"), "remove some");
        }
        FaultsConfig { enabled: file.enabled, max_for: file.max_for.0, seed: file.seed, inject }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(json: serde_json::Value) -> Result<FaultRule, BadFault> {
        serde_json::from_value::<FaultFile>(json).expect("a fault as people write it").build(3, 7)
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for (json, shown) in [
            (serde_json::json!({"latency": "200ms"}), "100 %: latency 200ms"),
            (
                serde_json::json!({"server": "crm", "tool": "get_*", "percent": 5, "latency": "1s..2s", "error": "http 503"}),
                "5 % server=crm tool=get_*: latency 1s..2s error http 503",
            ),
            (serde_json::json!({"latency": "50ms p99 1s", "garbage": true}), "100 %: latency 50ms p99 1s garbage"),
            (
                serde_json::json!({"slow_answer": "1KiB", "disconnect": "middle"}),
                "100 %: slow_answer 1024 B/s disconnect middle",
            ),
            (serde_json::json!({"error": "rpc"}), "100 %: error rpc"),
            (serde_json::json!({"error": "rpc -32000"}), "100 %: error rpc -32000"),
            (serde_json::json!({"error": "tool"}), "100 %: error tool"),
        ] {
            assert_eq!(build(json).expect("a fault").to_string(), shown);
        }
    }

    #[test]
    fn a_fault_does_something_and_only_one_thing() {
        for (json, part) in [
            (serde_json::json!({}), "does nothing"),
            (serde_json::json!({"garbage": true, "error": "rpc"}), "one way only"),
            (serde_json::json!({"garbage": true, "name": "a b"}), "the name"),
            (serde_json::json!({"garbage": true, "name": ""}), "the name"),
            (serde_json::json!({"garbage": true, "percent": 0}), "percent"),
            (serde_json::json!({"garbage": true, "percent": 101}), "percent"),
        ] {
            let error = build(json).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
        let seeds: Vec<u64> = [1, 2]
            .into_iter()
            .map(|ordinal| {
                let file = FaultFile { garbage: true, ..FaultFile::default() };
                file.build(ordinal, 0).expect("a fault").seed
            })
            .collect();
        assert_ne!(seeds[0], seeds[1]);
    }

    #[test]
    fn texts_that_are_none_are_refused() {
        for (key, text) in [
            ("latency", "fast"),
            ("latency", "2s..1s"),
            ("latency", "2s p99 1s"),
            ("latency", "2h"),
            ("error", "http 200"),
            ("error", "http"),
            ("error", "rpc x"),
            ("error", ""),
            ("disconnect", "never"),
        ] {
            let json = serde_json::json!({ key: text });
            assert!(serde_json::from_value::<FaultFile>(json).is_err(), "{key}: {text}");
        }
    }
}
