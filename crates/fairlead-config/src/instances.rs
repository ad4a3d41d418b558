//! Several instances of one server: where they are, how calls are spread over them, how they are checked.
//!
//! The types that end in `File` are what people write, the others what the program uses.

use crate::{
    Server, Transport,
    leaf::{DurationText, HostPortText, ScalarText, UrlText, WaitText},
    switch::WordOr,
};
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer};
use std::{borrow::Cow, collections::BTreeMap, time::Duration};

/// Instances of one server at most.
pub const MAX_INSTANCES: usize = 64;
/// Longest name of an instance.
pub(crate) const MAX_NAME: usize = 64;

/// One of the places a server runs at: exactly one of `url`, `tcp` and `unix` (or `url` and `unix`). Everything else is
/// as the server says.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceFile {
    /// What it is called in tables, metrics and commands. Default: its host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL of its endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlText>,
    /// Its host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<HostPortText>,
    /// Path of its Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// Its share of the calls beside the others.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// What routing rules and tables may know of it.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, ScalarText>,
}

impl Default for InstanceFile {
    fn default() -> Self {
        Self { name: None, url: None, tcp: None, unix: None, weight: 1, labels: IndexMap::new() }
    }
}

/// How calls are spread over instances: a word, or a map with the word as `strategy`.
#[derive(Clone, Default, PartialEq)]
pub struct BalanceFile(pub(crate) BalanceMapFile);

/// How calls are spread over instances.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceMapFile {
    /// By what the instance of a call is chosen.
    pub strategy: StrategyFile,
    /// With `sticky`: what calls that go to the same instance have in common.
    pub by: StickyFile,
    /// With `sticky` by `argument`: the name of the argument (a top-level member). Default: all of them together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
    /// With `sticky`: how full an instance may be compared with all of them, in percent, before its calls go to the next.
    #[schemars(range(min = 101, max = 1000))]
    pub bound: u32,
    /// How long the share of an instance that came back, or was added, grows until it is whole.
    pub slow_start: WaitText,
    /// With `composite`: what the share of calls that did not fail counts, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub health: u32,
    /// With `composite`: what its latency, compared with the fastest, counts, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub latency: u32,
}

impl Default for BalanceMapFile {
    fn default() -> Self {
        Self {
            strategy: StrategyFile::PeakEwma,
            by: StickyFile::Session,
            argument: None,
            bound: 125,
            slow_start: WaitText(Duration::from_secs(30)),
            health: 70,
            latency: 30,
        }
    }
}

/// By what the instance of a call is chosen.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum StrategyFile {
    RoundRobin,
    WeightedRoundRobin,
    LeastConnections,
    PeakEwma,
    Random,
    Sticky,
    Resource,
    Composite,
}

/// What calls that go to the same instance have in common.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum StickyFile {
    Session,
    Caller,
    Argument,
}

impl Serialize for BalanceFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BalanceFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match WordOr::deserialize(deserializer)? {
            WordOr::Word(word) => {
                let strategy = StrategyFile::deserialize(word.into_deserializer())?;
                BalanceMapFile { strategy, ..BalanceMapFile::default() }
            }
            WordOr::Map(map) => map,
        }))
    }
}

impl JsonSchema for BalanceFile {
    fn schema_name() -> Cow<'static, str> {
        "BalanceFile".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How calls are spread over instances: a word, or a map with the word as `strategy`.",
            "anyOf": [generator.subschema_for::<BalanceMapFile>(), generator.subschema_for::<StrategyFile>()],
        })
    }
}

/// Active checks of each instance. Without any, several instances are asked for a sign of life by MCP (`readiness`),
/// and a single one is not checked.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthFile {
    /// Has to pass before an instance gets its first call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<CheckFile>,
    /// An instance that fails it gets no calls until it passes again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<CheckFile>,
    /// An instance that fails it is connected to (a program: started) anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<CheckFile>,
}

/// One check: at most one of `mcp`, `http`, `tcp` and `command`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckFile {
    /// Asks the server something over MCP: a sign of life, or its tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp: Option<AskFile>,
    /// GETs a path of the instance's host; 2xx passes. Written alone (`http: /health`) or as a whole URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Connects to the instance (`instance`), or to a host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// Runs a program; exit code 0 passes. It finds the instance's name in `FAIRLEAD_INSTANCE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<ScalarText>,
    /// How often. Default: `10s` with `http`, else `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// How long it may take. Default: `5s`, with `tcp` `3s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Failures in a row until the instance counts as unhealthy.
    #[schemars(range(min = 1, max = 1000))]
    pub unhealthy_after: u32,
    /// Passes in a row until it counts as healthy again.
    #[schemars(range(min = 1, max = 1000))]
    pub healthy_after: u32,
}

impl Default for CheckFile {
    fn default() -> Self {
        Self {
            mcp: None,
            http: None,
            tcp: None,
            command: Vec::new(),
            interval: None,
            timeout: None,
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// What is asked over MCP.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum AskFile {
    Ping,
    List,
}

/// How an instance that does worse than its siblings loses its calls for a while. One of several always keeps them.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EjectionFile {
    /// Whether it does.
    pub enabled: bool,
    /// More failures than this, in percent of its calls, and than twice its siblings'. An error of a tool is no failure.
    #[schemars(range(min = 1, max = 100))]
    pub error_percent: u32,
    /// Its 95th percentile of latency, against the median of its siblings', in percent.
    #[schemars(range(min = 150, max = 100_000))]
    pub latency_percent: u32,
    /// Calls within `window` below which nothing is concluded.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_calls: u32,
    /// The calls of how long are looked at.
    pub window: DurationText,
    /// How long the first time; twice as long each time in a row.
    pub time: DurationText,
    /// How long at most.
    pub max_time: DurationText,
}

impl Default for EjectionFile {
    fn default() -> Self {
        Self {
            enabled: true,
            error_percent: 5,
            latency_percent: 500,
            min_calls: 20,
            window: DurationText(Duration::from_secs(10)),
            time: DurationText(Duration::from_secs(10)),
            max_time: DurationText(Duration::from_secs(300)),
        }
    }
}

/// Where the instances of a server are, and what is done with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// Empty: the server is one, as its own keys say.
    pub list: Vec<Place>,
    /// How calls are spread.
    pub balance: Balance,
    /// How those that do worse than their siblings are found; `None` where that is switched off.
    pub ejection: Option<Ejection>,
    /// How each is checked.
    pub health: Health,
}

impl Default for Instances {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            balance: BalanceMapFile::default().into(),
            ejection: ejection(EjectionFile::default()),
            health: Health::default(),
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name among its siblings.
    pub name: String,
    /// How it is reached.
    pub transport: Transport,
    /// Its share of the calls.
    pub weight: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Place {
    /// What an instance is called that has no name: its host and port, or the path of its socket.
    pub(crate) fn usual_name(transport: &Transport) -> String {
        let name = match transport {
            Transport::Http(http) => match &http.socket {
                Some(socket) => socket.to_string_lossy().into_owned(),
                None => format!("{}:{}", http.url.host(), http.url.port()),
            },
            Transport::WebSocket(socket) => format!("{}:{}", socket.url.host(), socket.url.port()),
            Transport::Tcp(address) => address.to_string(),
            Transport::Unix(path) => path.to_string_lossy().into_owned(),
            Transport::Stdio(_) => "1".to_owned(),
        };
        let excess = name.chars().count().saturating_sub(MAX_NAME);
        let plain = |c: char| if c.is_control() || c.is_whitespace() { '_' } else { c };
        name.chars().skip(excess).map(plain).collect()
    }
}

/// By what the instance of a call is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// The same, those of more weight more often.
    WeightedRoundRobin,
    /// The one with the fewest calls in flight.
    LeastConnections,
    /// Of two at random the one with the lower latency, peaks and calls in flight counted.
    PeakEwma,
    /// Any.
    Random,
    /// By a hash of what calls have in common.
    Sticky,
    /// By what instances report of their load.
    Resource,
    /// By a weight made of health and latency.
    Composite,
}

impl Strategy {
    /// As the configuration writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::PeakEwma => "peak_ewma",
            Self::Random => "random",
            Self::Sticky => "sticky",
            Self::Resource => "resource",
            Self::Composite => "composite",
        }
    }
}

/// What calls that go to the same instance have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StickyBy {
    /// The client's session.
    Session,
    /// Who calls.
    Caller,
    /// An argument of the call, or all of them.
    Argument(Option<String>),
}

/// How calls are spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// By what the instance is chosen.
    pub strategy: Strategy,
    /// With [`Strategy::Sticky`]: by what.
    pub by: StickyBy,
    /// With [`Strategy::Sticky`]: how full an instance may be, in percent of the mean.
    pub bound: u32,
    /// How long the share of one that came back grows.
    pub slow_start: Duration,
    /// With [`Strategy::Composite`]: percent for health.
    pub health: u32,
    /// With [`Strategy::Composite`]: percent for latency.
    pub latency: u32,
}

/// When an instance does worse than its siblings, and for how long it then gets no calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// Percent of failures.
    pub error_percent: u32,
    /// Percent of its siblings' 95th percentile.
    pub latency_percent: u32,
    /// Calls below which nothing is concluded.
    pub min_calls: u32,
    /// The calls of how long.
    pub window: Duration,
    /// The first time.
    pub time: Duration,
    /// At most.
    pub max_time: Duration,
}

/// The active checks of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Before its first call.
    pub startup: Option<Check>,
    /// For as long as it gets calls.
    pub readiness: Option<Check>,
    /// Else it is opened anew.
    pub liveness: Option<Check>,
}

impl Health {
    /// Whether nothing is checked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is done.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// Failures in a row until it counts.
    pub unhealthy_after: u32,
    /// Passes in a row until it counts.
    pub healthy_after: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Asks for a sign of life.
    Ping,
    /// Asks for the tools.
    List,
    /// GETs a path of its host, or a URL.
    Http(String),
    /// Connects to the instance, or to another address.
    Tcp(Option<crate::HostPort>),
    /// Runs a program.
    Command(Vec<String>),
}

impl From<BalanceMapFile> for Balance {
    fn from(file: BalanceMapFile) -> Self {
        Self {
            strategy: match file.strategy {
                StrategyFile::RoundRobin => Strategy::RoundRobin,
                StrategyFile::WeightedRoundRobin => Strategy::WeightedRoundRobin,
                StrategyFile::LeastConnections => Strategy::LeastConnections,
                StrategyFile::PeakEwma => Strategy::PeakEwma,
                StrategyFile::Random => Strategy::Random,
                StrategyFile::Sticky => Strategy::Sticky,
                StrategyFile::Resource => Strategy::Resource,
                StrategyFile::Composite => Strategy::Composite,
            },
            by: match file.by {
                StickyFile::Session => StickyBy::Session,
                StickyFile::Caller => StickyBy::Caller,
                StickyFile::Argument => StickyBy::Argument(file.argument),
            },
            bound: file.bound,
            slow_start: file.slow_start.0,
            health: file.health,
            latency: file.latency,
        }
    }
}

pub(crate) fn ejection(file: EjectionFile) -> Option<Ejection> {
    file.enabled.then(|| Ejection {
        error_percent: file.error_percent,
        latency_percent: file.latency_percent,
        min_calls: file.min_calls,
        window: file.window.0,
        time: file.time.0,
        max_time: file.max_time.0.max(file.time.0),
    })
}

impl Server {
    /// Each instance as a server of its own, with what makes it one of several. Two that are equal here can go on over
    /// the same connections.
    #[must_use]
    pub fn parts(&self) -> Vec<(Place, Self)> {
        let alone = || Place {
            name: Place::usual_name(&self.transport),
            transport: self.transport.clone(),
            weight: 1,
            labels: BTreeMap::new(),
        };
        let places = if self.instances.list.is_empty() { vec![alone()] } else { self.instances.list.clone() };
        let part = |place: Place| {
            let server = Self { transport: place.transport.clone(), instances: Instances::default(), ..self.clone() };
            (place, server)
        };
        places.into_iter().map(part).collect()
    }

    /// How it is reached, by every instance.
    pub fn transports(&self) -> impl Iterator<Item = &Transport> {
        let own = self.instances.list.is_empty().then_some(&self.transport);
        own.into_iter().chain(self.instances.list.iter().map(|place| &place.transport))
    }
}
