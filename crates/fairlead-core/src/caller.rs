//! Who sends a request. Identity arrives with authentication; until then everybody is anonymous,
//! but every part of the house already asks for a `Caller` and keys what it shares by one.

use std::sync::Arc;

/// The party behind a request. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    key: CallerKey,
}

/// What a session, a cursor or a sealed handle is bound to: equal keys, same principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallerKey(Arc<str>);

impl Caller {
    /// A caller without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { key: CallerKey("anonymous".into()) }
    }

    /// The principal, for binding what is kept between requests.
    #[must_use]
    pub fn key(&self) -> &CallerKey {
        &self.key
    }
}

impl CallerKey {
    /// The key as text, for sealing.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
