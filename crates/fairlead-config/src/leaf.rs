//! The texts of a configuration that mean something: durations, sizes, addresses, patterns. Each
//! has one reader, used when the file is checked (for an error with a place) and when it is read.

use crate::{
    Glob, HostPort, Secret, Url, UrlError,
    faults::{INTERNAL_ERROR, Latency, MAX_LATENCY, Spoil},
    limits::{self, Quota, Rate},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, net::SocketAddr, time::Duration};

/// Longest duration: a year. Longer ones are slips, and sums of times must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Largest size: a tebibyte.
const MAX_SIZE: u64 = 1 << 40;

/// Schema member that names the reader of a text, see [`check`].
pub(crate) const KIND: &str = "x-fairlead-kind";

/// Why a text is not what its key wants, and what to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) message: Cow<'static, str>,
    pub(crate) hint: Cow<'static, str>,
}

fn misfit<T>(message: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Result<T, Misfit> {
    Err(Misfit { message: message.into(), hint: hint.into() })
}

/// Reads `text` as what the schema calls `kind`.
pub(crate) fn check(kind: &str, text: &str) -> Result<(), Misfit> {
    match kind {
        "duration" => duration(text, false).map(drop),
        "wait" => duration(text, true).map(drop),
        "size" => size(text).map(drop),
        "address" => address(text).map(drop),
        "pattern" => glob(text).map(drop),
        "url" => url(text).map(drop),
        "host_port" => host_port(text).map(drop),
        "rate" => rate(text).map(drop),
        "quota" => quota(text).map(drop),
        "latency" => latency(text).map(drop),
        "error" => error(text).map(drop),
        _ => Ok(()),
    }
}

const DURATION_HINT: &str = "write a whole number and one of `ms`, `s`, `m`, `h`, `d`, for example `30s` or `500ms`";

fn duration(text: &str, zero: bool) -> Result<Duration, Misfit> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return misfit("this is not a duration", DURATION_HINT);
    }
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return misfit("the duration has no unit", DURATION_HINT),
        _ => return misfit("the unit of the duration is not known", DURATION_HINT),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).map(Duration::from_millis);
    match millis {
        Some(Duration::ZERO) if !zero => misfit("the duration cannot be zero", ""),
        Some(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => misfit("the duration is longer than `365d`", ""),
    }
}

const SIZE_HINT: &str = "write a whole number and one of `B`, `KB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB` (powers of 1024), for example `16MiB`";

fn size(text: &str) -> Result<usize, Misfit> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return misfit("this is not a size", SIZE_HINT);
    }
    let factor: u64 = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return misfit("the size has no unit", SIZE_HINT),
        _ => return misfit("the unit of the size is not known", SIZE_HINT),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(0) => misfit("the size cannot be zero", ""),
        Some(size) if size <= MAX_SIZE => {
            usize::try_from(size).map_err(|_| Misfit { message: "the size is too large".into(), hint: "".into() })
        }
        _ => misfit("the size is larger than `1024GiB`", ""),
    }
}

fn address(text: &str) -> Result<SocketAddr, Misfit> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let text = numeric.as_deref().unwrap_or(text);
    text.parse().map_err(|_| Misfit {
        message: "this is not an address to listen on".into(),
        hint: "write an IP address and a port, for example `127.0.0.1:8642` or `[::]:8642`".into(),
    })
}

fn glob(text: &str) -> Result<Glob, Misfit> {
    Glob::new(text).map_err(|error| Misfit {
        message: error.to_string().into(),
        hint: "`*` stands for any text, `?` for one character, for example `get_*`".into(),
    })
}

fn url(text: &str) -> Result<Url, Misfit> {
    Url::parse(text).map_err(|error| {
        let hint: &str = match error {
            UrlError::UserInfo => {
                "send credentials in `headers`, for example `Authorization: \"Basic ${env:CREDENTIALS}\"`"
            }
            UrlError::Scheme if text.starts_with("tcp://") => "write `tcp: host:port` for a server on a TCP port",
            UrlError::Scheme if text.starts_with("unix:") => "write `unix: /path` for a server on a Unix socket",
            UrlError::Fragment => "remove it, or write `%23` if the path contains a `#`",
            _ => "write it in full, for example `https://crm.example.com/mcp`",
        };
        Misfit { message: error.to_string().into(), hint: hint.into() }
    })
}

fn host_port(text: &str) -> Result<HostPort, Misfit> {
    let hint = if text.contains("://") {
        "write the host and the port alone, for example `10.0.0.9:7000`"
    } else {
        "write a host and a port, for example `10.0.0.9:7000` or `[::1]:7000`"
    };
    HostPort::parse(text)
        .ok_or_else(|| Misfit { message: "this is not an address to connect to".into(), hint: hint.into() })
}

fn rate(text: &str) -> Result<Option<Rate>, Misfit> {
    limits::rate(text).ok_or_else(|| Misfit {
        message: "this is not a rate".into(),
        hint:
            "write a count and `s`, `min` or `h`, for example `100/min`, `10/s burst 50` or `100/min sliding`, or `off`"
                .into(),
    })
}

fn quota(text: &str) -> Result<Option<Quota>, Misfit> {
    limits::quota(text).ok_or_else(|| Misfit {
        message: "this is not a quota".into(),
        hint: "write a number of units and `day` or `month`, for example `10000/day`, or `off`".into(),
    })
}

fn latency(text: &str) -> Result<Latency, Misfit> {
    let read = |text: &str| duration(text.trim(), true).ok().filter(|time| *time <= MAX_LATENCY);
    let pair = |(one, other)| Some((read(one)?, read(other)?));
    let found = match (text.split_once(".."), text.split_once(" p99 ")) {
        (Some(ends), _) => {
            pair(ends).filter(|(least, most)| least < most).map(|(least, most)| Latency::Between(least, most))
        }
        (None, Some(ends)) => {
            let fits = |(median, p99): &(Duration, Duration)| !median.is_zero() && median < p99;
            pair(ends).filter(fits).map(|(median, p99)| Latency::Skewed(median, p99))
        }
        (None, None) => read(text).filter(|time| !time.is_zero()).map(Latency::Fixed),
    };
    found.ok_or_else(|| Misfit {
        message: "this is not a latency".into(),
        hint: "write `200ms`, `100ms..2s` or `50ms p99 1s`, an hour at most".into(),
    })
}

fn error(text: &str) -> Result<Spoil, Misfit> {
    let found = match text.split_once(' ') {
        None if text == "tool" => Some(Spoil::Tool),
        None if text == "rpc" => Some(Spoil::Rpc(INTERNAL_ERROR)),
        Some(("rpc", code)) => code.parse().ok().map(Spoil::Rpc),
        Some(("http", status)) => status.parse().ok().filter(|status| (400..=599).contains(status)).map(Spoil::Http),
        _ => None,
    };
    found.ok_or_else(|| Misfit {
        message: "this is not an error that can be injected".into(),
        hint: "write `tool`, `rpc`, `rpc -32000` or `http 503`".into(),
    })
}

macro_rules! leaf {
    ($(#[$doc:meta])* $name:ident($inner:ty) $kind:literal $read:expr, $write:expr, $schema:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq)]
        pub struct $name(pub(crate) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let read: fn(&str) -> Result<$inner, Misfit> = $read;
                read(&text).map($name).map_err(|misfit| de::Error::custom(misfit.message))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let write: fn(&$inner) -> String = $write;
                serializer.serialize_str(&write(&self.0))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema: Schema = $schema;
                schema.insert("type".to_owned(), "string".into());
                schema.insert(KIND.to_owned(), $kind.into());
                schema
            }
        }
    };
}

leaf! {
    /// A duration longer than zero: a whole number and `ms`, `s`, `m`, `h` or `d`.
    DurationText(Duration) "duration" |text| duration(text, false), write_duration,
    json_schema!({ "pattern": "^([0-9]+(ms|s|m|h|d)|.*\\$\\{.*)$", "examples": ["30s", "5m"] })
}

leaf! {
    /// A duration that may be zero: a whole number and `ms`, `s`, `m`, `h` or `d`.
    WaitText(Duration) "wait" |text| duration(text, true), write_duration,
    json_schema!({ "pattern": "^([0-9]+(ms|s|m|h|d)|.*\\$\\{.*)$", "examples": ["0s", "3s"] })
}

leaf! {
    /// A size in bytes: a whole number and `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`.
    SizeText(usize) "size" size, write_size,
    json_schema!({ "pattern": "^([0-9]+(B|[Kk]B|MB|GB|KiB|MiB|GiB)|.*\\$\\{.*)$", "examples": ["64KiB", "16MiB"] })
}

leaf! {
    /// An IP address and port to listen on; `localhost:PORT` stands for `127.0.0.1:PORT`.
    AddressText(SocketAddr) "address" address, ToString::to_string,
    json_schema!({ "examples": ["127.0.0.1:8642"] })
}

leaf! {
    /// A name pattern: `*` stands for any text, `?` for one character.
    PatternText(Glob) "pattern" glob, ToString::to_string,
    json_schema!({ "minLength": 1, "maxLength": crate::glob::MAX_PATTERN, "examples": ["get_*"] })
}

/// The patterns themselves.
pub(crate) fn globs(patterns: Vec<PatternText>) -> Vec<Glob> {
    patterns.into_iter().map(|pattern| pattern.0).collect()
}

leaf! {
    /// A host name or IP address and a port to connect to.
    HostPortText(HostPort) "host_port" host_port, ToString::to_string,
    json_schema!({ "examples": ["10.0.0.9:7000"] })
}

leaf! {
    /// An absolute `http`, `https`, `ws` or `wss` URL.
    UrlText(Url) "url" url, ToString::to_string,
    json_schema!({ "examples": ["https://crm.example.com/mcp"] })
}

leaf! {
    /// A rate: a count and `s`, `min` or `h`, with `burst N` or `sliding` behind it, a class (`generation`, `lookup`),
    /// or `off`.
    RateText(Option<Rate>) "rate" rate, write_or_off,
    json_schema!({ "examples": ["100/min", "10/s burst 50", "1000/h sliding", "off"] })
}

leaf! {
    /// A quota: a number of units and `day` or `month`, or `off`.
    QuotaText(Option<Quota>) "quota" quota, write_or_off,
    json_schema!({ "examples": ["10000/day", "100000/month", "off"] })
}

leaf! {
    /// How much later something comes: `200ms`, `100ms..2s` or `50ms p99 1s`.
    LatencyText(Latency) "latency" latency, ToString::to_string,
    json_schema!({ "examples": ["200ms", "100ms..2s", "50ms p99 1s"] })
}

leaf! {
    /// An error of a server: `tool`, `rpc`, `rpc CODE` or `http STATUS`.
    ErrorText(Spoil) "error" error, ToString::to_string,
    json_schema!({ "examples": ["tool", "rpc", "rpc -32000", "http 503"] })
}

fn write_or_off<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)
}

pub(crate) fn write_duration(duration: &Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (unit, factor) = units
        .into_iter()
        .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
        .unwrap_or(("s", 1_000));
    format!("{}{unit}", millis / factor)
}

fn write_size(size: &usize) -> String {
    let binary = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let mut units = binary.into_iter().chain([("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)]);
    match units.find(|(_, factor)| *size >= *factor && size.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", size / factor),
        None => format!("{size}B"),
    }
}

/// A text for which a number or truth value may be written too, taken as it is spelled.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScalarText(pub(crate) String);

/// A text that is hidden wherever it would be shown.
#[derive(Clone, PartialEq)]
pub struct SecretText(pub(crate) Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

macro_rules! scalar_schema {
    ($($name:ident)*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "number", "boolean"] })
            }
        }
    )*};
}
scalar_schema!(ScalarText SecretText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let table = [
            ("30s", Ok(30_000)),
            ("500ms", Ok(500)),
            ("5m", Ok(300_000)),
            ("2h", Ok(7_200_000)),
            ("7d", Ok(604_800_000)),
            ("0s", Err("the duration cannot be zero")),
            ("30", Err("the duration has no unit")),
            ("30 s", Err("the unit of the duration is not known")),
            ("30sec", Err("the unit of the duration is not known")),
            ("1.5h", Err("the unit of the duration is not known")),
            ("-1s", Err("this is not a duration")),
            ("", Err("this is not a duration")),
            ("366d", Err("the duration is longer than `365d`")),
            ("99999999999999999999d", Err("the duration is longer than `365d`")),
        ];
        for (text, expected) in table {
            let got = duration(text, false);
            assert_eq!(got.as_ref().map(Duration::as_millis).map_err(|m| &*m.message), expected, "{text}");
            if let Ok(read) = got {
                assert_eq!(write_duration(&read), text);
            }
        }
        assert_eq!(duration("0s", true), Ok(Duration::ZERO));
        let table = [
            ("64KiB", Ok(65_536)),
            ("16MiB", Ok(16 << 20)),
            ("1MB", Ok(1_000_000)),
            ("10B", Ok(10)),
            ("10", Err("the size has no unit")),
            ("10M", Err("the unit of the size is not known")),
            ("0B", Err("the size cannot be zero")),
            ("MiB", Err("this is not a size")),
            ("99999999999999999999GiB", Err("the size is larger than `1024GiB`")),
        ];
        for (text, expected) in table {
            assert_eq!(size(text).map_err(|m| m.message), expected.map_err(Cow::from), "{text}");
        }
        assert_eq!(write_size(&65_536), "64KiB");
        assert_eq!(write_size(&1_000_000), "1MB");
        assert_eq!(write_size(&1_001), "1001B");
    }
}
