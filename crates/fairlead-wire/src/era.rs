//! Protocol revisions, and the two eras they fall into.
//!
//! Legacy revisions open a session with `initialize`; modern ones say everything with each request. An `initialize` result
//! never names a modern revision.

use std::fmt;

/// How a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// Up to 2025-11-25: a handshake, sessions, requests in both directions.
    Legacy,
    /// From 2026-07-28: stateless requests that carry their own context.
    Modern,
}

/// A published revision of the protocol, in order of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revision {
    /// 2024-11-05
    V2024_11_05,
    /// 2025-03-26
    V2025_03_26,
    /// 2025-06-18
    V2025_06_18,
    /// 2025-11-25
    V2025_11_25,
    /// 2026-07-28
    V2026_07_28,
}

impl Revision {
    /// The newest revision with a handshake.
    pub const LATEST_LEGACY: Revision = Revision::V2025_11_25;
    /// The newest revision.
    pub const LATEST: Revision = Revision::V2026_07_28;
    /// All of them, oldest first.
    pub const ALL: [Revision; 5] = [
        Revision::V2024_11_05,
        Revision::V2025_03_26,
        Revision::V2025_06_18,
        Revision::V2025_11_25,
        Revision::V2026_07_28,
    ];

    /// The revision as it stands in messages and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision with this name. The pre-release `2024-10-07`, which SDKs still list, means 2024-11-05.
    #[must_use]
    pub fn parse(text: &str) -> Option<Revision> {
        if text == "2024-10-07" {
            return Some(Revision::V2024_11_05);
        }
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The era this revision belongs to.
    #[must_use]
    pub fn era(self) -> Era {
        if self < Revision::V2026_07_28 { Era::Legacy } else { Era::Modern }
    }

    /// What an `initialize` that asks for `requested` is answered with: the same when it is a legacy revision, else the
    /// newest legacy one; never a modern one.
    #[must_use]
    pub fn negotiate_legacy(requested: &str) -> Revision {
        Self::parse(requested).filter(|revision| revision.era() == Era::Legacy).unwrap_or(Self::LATEST_LEGACY)
    }

    /// Whether messages may come in batches; 2025-03-26 alone had them.
    #[must_use]
    pub fn has_batches(self) -> bool {
        self == Revision::V2025_03_26
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_named_and_of_an_era() {
        assert!(Revision::ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].as_str() < pair[1].as_str()));
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
            assert_eq!(revision.to_string(), revision.as_str());
        }
        assert_eq!(Revision::parse("2024-10-07"), Some(Revision::V2024_11_05));
        for unknown in ["", "2025-01-01", "2025-06-18 ", "DRAFT-2026-v1"] {
            assert_eq!(Revision::parse(unknown), None, "{unknown}");
        }
        assert_eq!(Revision::LATEST_LEGACY.era(), Era::Legacy);
        assert_eq!(Revision::LATEST.era(), Era::Modern);
        let with_batches: Vec<_> = Revision::ALL.into_iter().filter(|revision| revision.has_batches()).collect();
        assert_eq!(with_batches, [Revision::V2025_03_26]);
    }

    #[test]
    fn a_handshake_never_ends_in_a_modern_revision() {
        for (requested, answer) in [
            ("2024-10-07", "2024-11-05"),
            ("2024-11-05", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
            ("", "2025-11-25"),
        ] {
            assert_eq!(Revision::negotiate_legacy(requested).as_str(), answer, "{requested}");
        }
    }
}
