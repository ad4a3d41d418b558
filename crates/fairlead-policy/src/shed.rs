//! Who gives way first: the four priorities, and how much of a bound each may use.

/// How important a call is. Ordered: what is greater goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Can wait, and gives way first.
    Low,
    /// What nobody said anything about.
    #[default]
    Normal,
    /// Goes before the others.
    High,
    /// Is only refused when there is no room at all.
    Critical,
}

impl Priority {
    /// All, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The priority as one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The priority a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.word() == word)
    }
}

/// The part of a bound that each priority may use, in hundredths: what is used beyond it is kept for those that are
/// more important.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares(pub [u8; 4]);

impl Default for Shares {
    fn default() -> Self {
        Self([70, 85, 95, 100])
    }
}

impl Shares {
    /// Whether there is room for one more when `used` of `bound` are used.
    #[must_use]
    pub fn admits(&self, priority: Priority, used: u64, bound: u64) -> bool {
        let share = u128::from(self.0[priority as usize]);
        u128::from(used) * 100 < u128::from(bound) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_gives_way_first() {
        let shares = Shares::default();
        let admitted = |used| Priority::ALL.map(|priority| shares.admits(priority, used, 100));
        assert_eq!(admitted(69), [true; 4]);
        assert_eq!(admitted(70), [false, true, true, true]);
        assert_eq!(admitted(85), [false, false, true, true]);
        assert_eq!(admitted(95), [false, false, false, true]);
        assert_eq!(admitted(100), [false; 4]);
        for priority in Priority::ALL {
            assert_eq!(Priority::parse(priority.word()), Some(priority));
        }
        assert_eq!(Priority::parse("urgent"), None);
    }
}
