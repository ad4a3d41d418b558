//! Who sends a request. Identity arrives with authentication; until then everybody is anonymous,
//! but every part of the house already asks for a `Caller` and keys what it shares by one.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

/// The party behind a request. Cheap to clone. Two are equal when their principal is: where a request comes from and
/// what its client calls itself are no part of that.
#[derive(Debug, Clone)]
pub struct Caller {
    key: CallerKey,
    address: Option<IpAddr>,
    client: Option<Arc<str>>,
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Caller {}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// What a session, a cursor or a sealed handle is bound to: equal keys, same principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallerKey(Arc<str>);

impl Caller {
    /// A caller without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { key: CallerKey("anonymous".into()), address: None, client: None }
    }

    /// The same from a network address.
    #[must_use]
    pub fn at(mut self, address: Option<IpAddr>) -> Self {
        self.address = address;
        self
    }

    /// The same with what its client calls itself.
    #[must_use]
    pub fn named(mut self, client: &str) -> Self {
        self.client = Some(client.into());
        self
    }

    /// The address the request came from; none for what came over a local socket.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// What its client calls itself, where that was asked.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref()
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
