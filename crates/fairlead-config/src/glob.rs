//! Name patterns: `*` for any run of characters, `?` for one. Nothing else, so that a pattern is
//! read the same way everywhere and matching is linear in the usual case and bounded in the worst.

use std::fmt;

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 256;

/// A compiled name pattern. `*` matches any run of characters (also none), `?` exactly one
/// character; everything else matches itself, with case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    pattern: Box<str>,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// The pattern is empty: it would match nothing.
    #[error("a pattern cannot be empty")]
    Empty,
    /// The pattern is longer than [`MAX_PATTERN`].
    #[error("a pattern has at most {MAX_PATTERN} bytes")]
    TooLong,
    /// The pattern uses syntax of other pattern languages.
    #[error("patterns know only `*` and `?`")]
    Syntax,
}

impl Glob {
    /// Compiles a pattern. Runs of `*` count as one.
    ///
    /// # Errors
    /// When the text is empty, too long, or uses `[`, `]`, `{`, `}`, `!` or `\`, which mean
    /// something in other pattern languages and never occur in names.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.len() > MAX_PATTERN {
            return Err(GlobError::TooLong);
        }
        if pattern.contains(['[', ']', '{', '}', '!', '\\']) {
            return Err(GlobError::Syntax);
        }
        let mut text = String::with_capacity(pattern.len());
        for character in pattern.chars() {
            if character != '*' || !text.ends_with('*') {
                text.push(character);
            }
        }
        Ok(Self { pattern: text.into() })
    }

    /// The pattern as text, runs of `*` folded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether the whole of `name` matches. At most `pattern × name` steps, without recursion:
    /// only the last `*` is ever retried.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (&*self.pattern, name);
        let mut retry: Option<(&str, &str)> = None;
        loop {
            let mut wanted = pattern.chars();
            let step = match wanted.next() {
                Some('*') => {
                    pattern = wanted.as_str();
                    if pattern.is_empty() {
                        return true;
                    }
                    retry = Some((pattern, rest));
                    continue;
                }
                None if rest.is_empty() => return true,
                None => None,
                Some(one) => {
                    let mut have = rest.chars();
                    have.next().filter(|&got| one == '?' || one == got).map(|_| (wanted.as_str(), have.as_str()))
                }
            };
            if let Some((next_pattern, next_rest)) = step {
                (pattern, rest) = (next_pattern, next_rest);
                continue;
            }
            let Some((after, from)) = retry else { return false };
            let mut skipped = from.chars();
            if skipped.next().is_none() {
                return false;
            }
            retry = Some((after, skipped.as_str()));
            (pattern, rest) = (after, skipped.as_str());
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.pattern, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn matches_as_described() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("get_*", "get_user", true),
            ("get_*", "forget_user", false),
            ("*_user", "get_user", true),
            ("*_user", "get_user_by_id", false),
            ("a?c", "abc", true),
            ("a?c", "aäc", true),
            ("a?c", "ac", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("a**b", "ab", true),
            ("Search", "search", false),
            ("a", "ab", false),
            ("ab", "a", false),
            ("*ab", "aab", true),
            ("?*", "", false),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
        for bad in ["", "{a,b}", "[ab]", "!x", &"a".repeat(257)] {
            assert!(Glob::new(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_hostile_pattern_is_not_exponential() {
        let pattern = Glob::new(&"*a".repeat(128)).unwrap();
        let started = std::time::Instant::now();
        assert!(!pattern.matches(&"a".repeat(100)));
        assert!(!pattern.matches(&("a".repeat(100_000) + "b")));
        assert!(started.elapsed().as_secs() < 5);
    }
}
