//! `Task` objects in the words of both eras, read and written member by member.
//!
//! They differ in two names (`ttl` and `ttlMs`, `pollInterval` and `pollIntervalMs`), in where the outcome of the call
//! is, and in what `failed` means: in 2025-11-25 also a tool's own error, since then only an error of the protocol.
//! Members neither revision knows go along.

use fairlead_wire::{list, message};

/// How often a task is looked at when the server does not say, in milliseconds.
pub(crate) const POLL_MS: u64 = 1_000;
/// The shortest and longest time between two looks at a task, in milliseconds.
const POLL_BOUNDS: (u64, u64) = (50, 30_000);

/// Longest member of an object that is cut down to the few that every reader needs.
const MAX_BARE: usize = 64;

/// Members that are written by whoever builds the object, or belong to the message around it.
const NOT_COPIED: [&str; 6] = ["taskId", "status", "resultType", "result", "error", "inputRequests"];

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// What an object says; unknown words count as `working`.
    pub(crate) fn of(task: &str) -> Self {
        match list::string_member(task, "status").as_deref() {
            Some("input_required") => Self::InputRequired,
            Some("completed") => Self::Completed,
            Some("failed") => Self::Failed,
            Some("cancelled") => Self::Cancelled,
            _ => Self::Working,
        }
    }

    /// The word, which is the same in both eras.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing changes any more.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// The time between two looks that an object asks for, in milliseconds, within reason.
pub(crate) fn poll_ms(task: &str) -> u64 {
    let asked = ["pollIntervalMs", "pollInterval"].iter().find_map(|key| list::raw_member(task, key));
    let asked = asked.and_then(|number| number.parse::<f64>().ok()).filter(|number| number.is_finite());
    // A number of milliseconds is small enough to be cut.
    let asked = asked.map_or(POLL_MS, |number| number.max(0.0) as u64);
    asked.clamp(POLL_BOUNDS.0, POLL_BOUNDS.1)
}

/// Members of a `Task` object without braces, with the id and status given, in the words of the other era.
fn rewritten(task: &str, id: &str, status: Status, names: [(&str, &str); 2]) -> String {
    let mut out = format!("\"taskId\":{},\"status\":\"{}\"", message::quote(id), status.word());
    for (key, raw) in list::entries(task).unwrap_or_default() {
        if NOT_COPIED.contains(&&*key) || key == "_meta" {
            continue;
        }
        let key = names.iter().find(|(old, _)| *old == key).map_or(&*key, |(_, new)| *new);
        out.extend([",", &message::quote(key), ":", raw]);
    }
    out
}

/// The `Task` object of 2025-11-25 for a flat one of the extension.
pub(crate) fn legacy(task: &str, id: &str) -> String {
    let tool_failed =
        || list::raw_member(task, "result").is_some_and(|result| list::raw_member(result, "isError") == Some("true"));
    let status = match Status::of(task) {
        Status::Completed if tool_failed() => Status::Failed,
        status => status,
    };
    let members = rewritten(task, id, status, [("ttlMs", "ttl"), ("pollIntervalMs", "pollInterval")]);
    let ttl = if list::raw_member(task, "ttlMs").is_none() { ",\"ttl\":null" } else { "" };
    format!("{{{members}{ttl}}}")
}

/// The members of a flat task of the extension for an object of 2025-11-25, without braces.
pub(crate) fn modern(task: &str, id: &str, status: Status) -> String {
    let members = rewritten(task, id, status, [("ttl", "ttlMs"), ("pollInterval", "pollIntervalMs")]);
    let ttl = if list::raw_member(task, "ttl").is_none() { ",\"ttlMs\":null" } else { "" };
    format!("{members}{ttl}")
}

/// The few members of an object that every reader needs, without braces.
pub(crate) fn bare(task: &str, id: &str) -> String {
    let mut out = format!("\"taskId\":{},\"status\":\"{}\"", message::quote(id), Status::of(task).word());
    for key in ["createdAt", "lastUpdatedAt", "ttl", "pollInterval"] {
        if let Some(raw) = list::raw_member(task, key).filter(|raw| raw.len() <= MAX_BARE) {
            out.extend([",\"", key, "\":", raw]);
        }
    }
    out
}

/// The object with another status. An object without one is left as it is.
pub(crate) fn with_status(task: &str, status: Status) -> String {
    match list::member_span(task, "status") {
        Some(span) => {
            let (before, after) = (&task[..span.range().start], &task[span.range().end..]);
            format!("{before}\"{}\"{after}", status.word())
        }
        None => task.to_owned(),
    }
}

/// A moment as RFC 3339 has it, in UTC.
pub(crate) fn moment(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days to a date by eras of 400 years, counted from the first of March of year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_cross_with_what_nobody_knows() {
        let flat = r#"{"resultType":"complete","taskId":"7","status":"completed","createdAt":"a","lastUpdatedAt":"b","ttlMs":1E4,"pollIntervalMs":250,"x":{"n":1.10},"result":{"isError":true},"_meta":{}}"#;
        let own = r#"{"taskId":"w","status":"failed","createdAt":"a","lastUpdatedAt":"b","ttl":1E4,"pollInterval":250,"x":{"n":1.10}}"#;
        assert_eq!(legacy(flat, "w"), own);
        assert_eq!(poll_ms(flat), 250);
        let back = r#""taskId":"v","status":"completed","createdAt":"a","lastUpdatedAt":"b","ttlMs":1E4,"pollIntervalMs":250,"x":{"n":1.10}"#;
        assert_eq!(modern(own, "v", Status::Completed), back);
        assert_eq!(
            legacy(r#"{"taskId":"7","status":"working"}"#, "w"),
            r#"{"taskId":"w","status":"working","ttl":null}"#
        );
        assert_eq!(modern("[]", "v", Status::Failed), r#""taskId":"v","status":"failed","ttlMs":null"#);
        assert_eq!(with_status(own, Status::Cancelled), own.replace("failed", "cancelled"));
        for (task, expected) in [("{}", POLL_MS), (r#"{"pollInterval":0}"#, 50), (r#"{"pollIntervalMs":1e99}"#, 30_000)]
        {
            assert_eq!(poll_ms(task), expected, "{task}");
        }
    }

    #[test]
    fn moments_are_dates() {
        for (unix_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (1_795_179_600_000, "2026-11-20T13:00:00.000Z"),
        ] {
            assert_eq!(moment(unix_ms), expected);
        }
    }
}
