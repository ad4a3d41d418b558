//! What a reload has to touch.

use crate::Config;
use fairlead_core::ServerName;

/// The difference between two configurations, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Servers only the new configuration has.
    pub added: Vec<ServerName>,
    /// Servers only the old configuration has.
    pub removed: Vec<ServerName>,
    /// Servers of which anything differs, secrets included.
    pub changed: Vec<ServerName>,
    /// Servers that are exactly the same.
    pub unchanged: Vec<ServerName>,
    /// Whether a listener would have to be opened again or bounded differently.
    pub listen_changed: bool,
    /// Other top-level keys that differ. `servers` stands here when only the order of the servers
    /// differs: order decides who keeps a resource URI.
    pub other: Vec<&'static str>,
}

impl Diff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && !self.listen_changed
            && self.other.is_empty()
    }
}

/// Compares two configurations.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff { listen_changed: old.listen != new.listen, ..Diff::default() };
    for (name, server) in &new.servers {
        match old.servers.get(name) {
            None => diff.added.push(name.clone()),
            Some(before) if before == server => diff.unchanged.push(name.clone()),
            Some(_) => diff.changed.push(name.clone()),
        }
    }
    diff.removed.extend(old.servers.keys().filter(|name| !new.servers.contains_key(*name)).cloned());
    let kept = |one: &Config, other: &Config| -> Vec<ServerName> {
        one.servers.keys().filter(|name| other.servers.contains_key(*name)).cloned().collect()
    };
    for (key, differs) in [
        ("admin", old.admin != new.admin),
        ("data_dir", old.data_dir != new.data_dir),
        ("names", old.names != new.names),
        ("catalog", old.catalog != new.catalog),
        ("sessions", old.sessions != new.sessions),
        ("tasks", old.tasks != new.tasks),
        ("bridge", old.bridge != new.bridge),
        ("park", old.park != new.park),
        ("limits", old.limits != new.limits),
        ("cache", old.cache != new.cache),
        ("overload", old.overload != new.overload),
        ("faults", old.faults != new.faults),
        ("results", old.results != new.results),
        ("correlation", old.correlation != new.correlation),
        ("log", old.log != new.log),
        ("workers", old.workers != new.workers),
        ("drain", old.drain != new.drain),
        ("rules", old.rules != new.rules),
        ("routes", old.routes != new.routes),
        ("toolsets", !old.toolsets.iter().eq(new.toolsets.iter())),
        ("servers", kept(old, new) != kept(new, old)),
    ] {
        if differs {
            diff.other.push(key);
        }
    }
    diff
}
