//! The name of one logical server: short, lower case, safe in every client's tool names.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest server name. Clients put their own prefix before ours and models allow 64 characters.
pub const MAX_LEN: usize = 24;

/// Path segments that belong to the gateway itself and so cannot name a server or a toolset.
pub const RESERVED: [&str; 4] = ["sse", "messages", "ws", "mcp"];

/// A validated server name: `[a-z][a-z0-9]*([_-][a-z0-9]+)*`, at most [`MAX_LEN`] characters,
/// without `__`, not one of [`RESERVED`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

/// Why a text is not a server name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerNameError {
    /// The text is empty.
    #[error("a server name cannot be empty")]
    Empty,
    /// The text is longer than [`MAX_LEN`].
    #[error("a server name has at most {MAX_LEN} characters")]
    TooLong,
    /// The path segment is the gateway's own.
    #[error("`{0}` is a path of the gateway itself")]
    Reserved(String),
    /// A character or its position is not allowed.
    #[error(
        "a server name is lower case letters and digits, with single `_` or `-` between them, and starts with a letter"
    )]
    Shape,
}

impl ServerName {
    /// Checks `text` against the rules.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, ServerNameError> {
        if text.is_empty() {
            return Err(ServerNameError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(ServerNameError::TooLong);
        }
        if RESERVED.contains(&text) {
            return Err(ServerNameError::Reserved(text.to_owned()));
        }
        let bytes = text.as_bytes();
        if !bytes[0].is_ascii_lowercase() {
            return Err(ServerNameError::Shape);
        }
        let mut separator = false;
        for &byte in bytes {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' => separator = false,
                b'_' | b'-' if !separator => separator = true,
                _ => return Err(ServerNameError::Shape),
            }
        }
        if separator { Err(ServerNameError::Shape) } else { Ok(Self(text.into())) }
    }

    /// Brings a foreign name (from a client's configuration file) into the allowed form.
    /// The result depends on nothing but `text`.
    #[must_use]
    pub fn normalise(text: &str) -> Self {
        let mut name = String::with_capacity(text.len());
        let mut gap = false;
        for character in text.chars() {
            let lower = character.to_ascii_lowercase();
            if lower.is_ascii_lowercase() || lower.is_ascii_digit() {
                if gap && !name.is_empty() {
                    name.push(if character == '-' { '-' } else { '_' });
                }
                gap = false;
                if name.is_empty() && lower.is_ascii_digit() {
                    name.push('s');
                }
                name.push(lower);
            } else {
                gap = true;
            }
            if name.len() >= MAX_LEN {
                break;
            }
        }
        name.truncate(MAX_LEN);
        while name.ends_with(['_', '-']) {
            name.pop();
        }
        if name.is_empty() {
            name.push_str("server");
        }
        if RESERVED.contains(&name.as_str()) {
            name.push_str("_server");
        }
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        for good in ["a", "files", "my-server_2", "a1-b2", "abcdefghijklmnopqrstuvwx"] {
            assert_eq!(ServerName::parse(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "A",
            "1a",
            "a__b",
            "a-",
            "_a",
            "a-_b",
            "sse",
            "messages",
            "ws",
            "mcp",
            "a.b",
            "abcdefghijklmnopqrstuvwxy",
        ] {
            assert!(ServerName::parse(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn normalised_names_are_valid() {
        for (from, to) in [
            ("GitHub Copilot", "github_copilot"),
            ("7zip", "s7zip"),
            ("@scope/pkg.name", "scope_pkg_name"),
            ("mcp", "mcp_server"),
            ("---", "server"),
            ("a__b", "a_b"),
            ("abcdefghijklmnopqrstuvw xyz", "abcdefghijklmnopqrstuvw"),
        ] {
            let name = ServerName::normalise(from);
            assert_eq!(name.as_str(), to);
            assert_eq!(ServerName::parse(name.as_str()), Ok(name));
        }
    }
}
