//! Rates, quotas and the guard against loops: what people write, and what the program uses.

use crate::{
    leaf::{QuotaText, RateText},
    switch::WordOr,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, time::Duration};

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many times
    pub count: u32,
    /// in this time.
    pub per: Duration,
    /// So many at once, when there was nothing for a while.
    pub burst: u32,
    /// How it is counted.
    pub shape: Shape,
}

/// How a rate is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A token bucket: a burst, then evenly.
    Bucket,
    /// A sliding window: never more than the count in any stretch of that length.
    Window,
}

/// How much there is per day or month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// So many units
    pub units: u64,
    /// in this period.
    pub per: Period,
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the last of a month.
    Month,
}

/// The classes of tools that can be named in place of a rate.
const CLASSES: [(&str, &str); 2] = [("generation", "10/min"), ("lookup", "1000/min")];

/// Reads `100/min`, with `burst 20` or `sliding` behind it; `off` is `None`.
pub(crate) fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "off" {
        return Some(None);
    }
    let text = CLASSES.iter().find(|(class, _)| *class == text).map_or(text, |(_, rate)| rate);
    let mut words = text.split_ascii_whitespace();
    let (count, unit) = words.next()?.split_once('/')?;
    let count: u32 = whole(count)?.try_into().ok().filter(|count| *count <= MAX_COUNT)?;
    let per = match unit {
        "s" => Duration::from_secs(1),
        "min" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return None,
    };
    let mut rate = Rate { count, per, burst: count, shape: Shape::Bucket };
    while let Some(word) = words.next() {
        match word {
            "burst" if rate.shape == Shape::Bucket => {
                rate.burst = whole(words.next()?)?.try_into().ok().filter(|burst| *burst <= MAX_COUNT)?;
            }
            "sliding" if rate.burst == count => rate.shape = Shape::Window,
            _ => return None,
        }
    }
    Some(Some(rate))
}

/// Largest count of a rate.
const MAX_COUNT: u32 = 1_000_000;

fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number > 0)
}

/// Reads `10000/day`; `off` is `None`.
pub(crate) fn quota(text: &str) -> Option<Option<Quota>> {
    if text == "off" {
        return Some(None);
    }
    let (units, per) = text.split_once('/')?;
    let per = match per {
        "day" => Period::Day,
        "month" => Period::Month,
        _ => return None,
    };
    Some(Some(Quota { units: whole(units)?, per }))
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)?;
        if self.burst != self.count {
            write!(f, " burst {}", self.burst)?;
        }
        if self.shape == Shape::Window {
            write!(f, " sliding")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per = if self.per == Period::Day { "day" } else { "month" };
        write!(f, "{}/{per}", self.units)
    }
}

/// Rates and quotas, `off`, or the word `recommended`.
#[derive(Clone, PartialEq, Default)]
pub enum LimitsFile {
    /// None but the guard against loops.
    #[default]
    Off,
    /// The shipped profile.
    Recommended,
    /// What is said.
    Map(Box<LimitsMapFile>),
}

/// Rates and quotas. Rates are written `100/min`, `10/s` or `1000/h`, with `burst 20` or `sliding` behind; `off` takes one
/// out of the profile.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsMapFile {
    /// What to begin with: `none`, or `recommended`: 100/min per caller, 500/min per server, identical calls 60/min.
    pub profile: ProfileFile,
    /// Calls of one caller: one client at one address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<RateText>,
    /// Calls of each tool, all callers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<RateText>,
    /// Calls that reach each server, all callers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<RateText>,
    /// Calls of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<RateText>,
    /// All calls, of everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<RateText>,
    /// Identical calls (caller, tool and arguments) in a fixed window: the guard against agents that run in circles.
    /// Default: 3000/min, also where no limits are configured; `off` switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identical: Option<RateText>,
    /// What may be used per day or month of the calendar.
    pub quotas: QuotasFile,
    /// The least part of a server's rate, in percent, that is left while its calls fail. 100 never tightens it.
    #[schemars(range(min = 1, max = 100))]
    pub floor: Option<usize>,
    /// Callers and other keys that are counted for at most; the one that matters least makes room. Default: 100000.
    #[schemars(range(min = 16, max = 10_000_000))]
    pub max_keys: Option<usize>,
}

/// Where the limits begin.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ProfileFile {
    #[default]
    None,
    Recommended,
}

/// What may be used per day or month of the calendar (UTC), in cost units: a call costs 1 where no rule says otherwise.
/// Written `10000/day` or `100000/month`. Counted in memory: a restart begins anew.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotasFile {
    /// One caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<QuotaText>,
    /// Each server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<QuotaText>,
    /// One tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<QuotaText>,
    /// Everybody together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<QuotaText>,
}

/// Rates and the quota of one server, in place of what `limits` says of servers and tools.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerLimitsFile {
    /// Calls that reach the server, all callers together, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateText>,
    /// Calls of each of its tools, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<RateText>,
    /// What may be used of the server per day or month, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaText>,
}

impl Serialize for LimitsFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Recommended => serializer.serialize_str("recommended"),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LimitsFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WordOr::deserialize(deserializer)? {
            WordOr::Word(word) if word == "off" => Ok(Self::Off),
            WordOr::Word(word) if word == "recommended" => Ok(Self::Recommended),
            WordOr::Map(map) => Ok(Self::Map(map)),
            WordOr::Word(_) => Err(serde::de::Error::custom("expected `off`, `recommended` or a map")),
        }
    }
}

impl JsonSchema for LimitsFile {
    fn schema_name() -> Cow<'static, str> {
        "LimitsFile".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Rates and quotas, `off`, or the word `recommended`.",
            "anyOf": [generator.subschema_for::<LimitsMapFile>(), { "enum": ["off", "recommended", false] }],
        })
    }
}

/// Rates and quotas that are in force for everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls of one caller.
    pub caller: Option<Rate>,
    /// Calls of each tool.
    pub tool: Option<Rate>,
    /// Calls that reach each server.
    pub server: Option<Rate>,
    /// Calls of one tenant.
    pub tenant: Option<Rate>,
    /// All calls.
    pub global: Option<Rate>,
    /// Identical calls.
    pub identical: Option<Rate>,
    /// Units of one caller.
    pub caller_quota: Option<Quota>,
    /// Units of each server.
    pub server_quota: Option<Quota>,
    /// Units of one tenant.
    pub tenant_quota: Option<Quota>,
    /// Units of everybody.
    pub global_quota: Option<Quota>,
    /// The least part of a server's rate while its calls fail, in percent.
    pub floor: u32,
    /// Keys that are counted for at most.
    pub max_keys: usize,
}

/// What one server says of its own limits; `None` where it says nothing, `Some(None)` where it says `off`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerLimits {
    /// Calls that reach it.
    pub rate: Option<Option<Rate>>,
    /// Calls of each of its tools.
    pub tool: Option<Option<Rate>>,
    /// Units.
    pub quota: Option<Option<Quota>>,
}

const fn per_minute(count: u32) -> Option<Rate> {
    Some(Rate { count, per: Duration::from_secs(60), burst: count, shape: Shape::Bucket })
}

impl Limits {
    /// What is in force where nothing is configured.
    pub const OFF: Self = Self {
        caller: None,
        tool: None,
        server: None,
        tenant: None,
        global: None,
        identical: per_minute(3000),
        caller_quota: None,
        server_quota: None,
        tenant_quota: None,
        global_quota: None,
        floor: 25,
        max_keys: 100_000,
    };

    /// The profile `recommended`.
    pub const RECOMMENDED: Self =
        Self { caller: per_minute(100), server: per_minute(500), identical: per_minute(60), ..Self::OFF };

    pub(crate) fn build(file: LimitsFile) -> Self {
        let map = match file {
            LimitsFile::Off => return Self::OFF,
            LimitsFile::Recommended => return Self::RECOMMENDED,
            LimitsFile::Map(map) => map,
        };
        let mut limits = match map.profile {
            ProfileFile::None => Self::OFF,
            ProfileFile::Recommended => Self::RECOMMENDED,
        };
        for (said, rate) in [
            (map.caller, &mut limits.caller),
            (map.tool, &mut limits.tool),
            (map.server, &mut limits.server),
            (map.tenant, &mut limits.tenant),
            (map.global, &mut limits.global),
            (map.identical, &mut limits.identical),
        ] {
            if let Some(RateText(said)) = said {
                *rate = said;
            }
        }
        for (said, quota) in [
            (map.quotas.caller, &mut limits.caller_quota),
            (map.quotas.server, &mut limits.server_quota),
            (map.quotas.tenant, &mut limits.tenant_quota),
            (map.quotas.global, &mut limits.global_quota),
        ] {
            if let Some(QuotaText(said)) = said {
                *quota = said;
            }
        }
        if let Some(floor) = map.floor {
            limits.floor = u32::try_from(floor).unwrap_or(100).clamp(1, 100);
        }
        limits.max_keys = map.max_keys.unwrap_or(limits.max_keys);
        limits
    }
}

impl ServerLimits {
    pub(crate) fn build(file: ServerLimitsFile) -> Self {
        Self {
            rate: file.rate.map(|RateText(rate)| rate),
            tool: file.tool.map(|RateText(rate)| rate),
            quota: file.quota.map(|QuotaText(quota)| quota),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        let seconds = |text: &str| {
            let rate = rate(text).flatten()?;
            Some((rate.count, rate.per.as_secs(), rate.burst, rate.shape == Shape::Window))
        };
        assert_eq!(seconds("100/min"), Some((100, 60, 100, false)));
        assert_eq!(seconds("10/s burst 50"), Some((10, 1, 50, false)));
        assert_eq!(seconds("1000/h sliding"), Some((1000, 3600, 1000, true)));
        assert_eq!(seconds("generation"), Some((10, 60, 10, false)));
        assert_eq!(seconds("lookup"), Some((1000, 60, 1000, false)));
        assert_eq!(rate("off"), Some(None));
        for wrong in [
            "",
            "100",
            "0/min",
            "-1/s",
            "1/day",
            "1.5/s",
            "1/s burst",
            "1/s burst 0",
            "1/s burst 2 sliding",
            "9999999/s",
            "1/s x",
        ] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
        for text in ["100/min", "10/s burst 50", "1000/h sliding"] {
            assert_eq!(rate(text).flatten().unwrap().to_string(), text);
        }
        assert_eq!(quota("500/day").flatten().unwrap().to_string(), "500/day");
        assert_eq!(quota("500/month"), Some(Some(Quota { units: 500, per: Period::Month })));
        assert_eq!(quota("off"), Some(None));
        assert!(quota("500/week").is_none() && quota("x/day").is_none());
    }
}
