//! The ids clients have for tasks.
//!
//! An id is a sealed text that says which server's task it is, what that server calls it, for whom and where it
//! was given out, and over what kind of connection the task was made. So nothing has to be looked up to find a task
//! again, a restart loses none, and an id is of no use to another caller or on another path. Whatever does not open
//! looks the same as an id that never was.

use crate::{call::Call, seal::Sealer};
use fairlead_core::{Code, Refusal};
use fairlead_wire::{CapabilitySet, Era, Field};

const PURPOSE: &str = "task";
/// Longest id that is tried, in bytes.
const MAX_ID: usize = 4096;
/// Longest id of a server's that is wrapped, in bytes.
const MAX_OWN: usize = 1024;

/// Who keeps a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// A server, which was spoken to in this era.
    Server(Era),
    /// The gateway itself: the server had answered at once.
    Gateway,
}

/// What a client's task id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) home: Home,
    /// The server's name.
    pub(crate) server: Box<str>,
    /// What the server calls the task.
    pub(crate) own: Box<str>,
    /// What the server had been told that the client can do, on the connection the task was made on.
    pub(crate) capabilities: CapabilitySet,
    /// That connection.
    pub(crate) link: u64,
}

impl Handle {
    /// The id for the caller of `call`. `None` when the server's id is longer than anything an id needs.
    pub(crate) fn seal(&self, call: &Call) -> Option<String> {
        if self.own.len() > MAX_OWN {
            return None;
        }
        let home = match self.home {
            Home::Server(Era::Legacy) => "legacy",
            Home::Server(Era::Modern) => "modern",
            Home::Gateway => "gateway",
        };
        let text = format!(
            "1\n{home}\n{}\n{}\n{:x}\n{}\n{}\n{}",
            self.server,
            self.capabilities.key(),
            self.link,
            call.caller.key().as_str(),
            call.endpoint.path,
            self.own
        );
        Some(call.gateway.0.sealer.seal(PURPOSE, text.as_bytes()))
    }

    /// What `id` says, if it was given to this caller on this path.
    pub(super) fn open(sealer: &Sealer, id: &str, caller: &str, path: &str) -> Option<Self> {
        let plain = sealer.open_up_to(PURPOSE, id, MAX_ID)?;
        let mut parts = std::str::from_utf8(&plain).ok()?.splitn(8, '\n');
        if parts.next() != Some("1") {
            return None;
        }
        let home = match parts.next()? {
            "legacy" => Home::Server(Era::Legacy),
            "modern" => Home::Server(Era::Modern),
            "gateway" => Home::Gateway,
            _ => return None,
        };
        let server = parts.next()?.into();
        let capabilities = CapabilitySet::from_key(parts.next()?)?;
        let link = u64::from_str_radix(parts.next()?, 16).ok()?;
        if parts.next()? != caller || parts.next()? != path {
            return None;
        }
        Some(Self { home, server, own: parts.next()?.into(), capabilities, link })
    }

    /// What an id in the hands of the caller of `call` says.
    pub(crate) fn of(call: &Call, id: &str) -> Option<Self> {
        Self::open(&call.gateway.0.sealer, id, call.caller.key().as_str(), &call.endpoint.path)
    }

    /// The task a request is about.
    pub(crate) fn of_request(call: &Call) -> Result<(Box<str>, Self), Refusal> {
        let id = call
            .frame
            .str(Field::TaskId)
            .ok_or_else(|| Refusal::new(Code::BadParams, "`params.taskId` must be a string"))?;
        let handle = Self::of(call, &id).ok_or_else(unknown)?;
        Ok((id.into(), handle))
    }
}

/// Says that there is no such task.
pub(crate) fn unknown() -> Refusal {
    Refusal::new(Code::UnknownTask, "Task not found: it is not one that was given to this caller here, or it is over")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::KEY_LEN;

    #[test]
    fn an_id_is_good_for_its_caller_on_its_path_alone() {
        let sealer = Sealer::new(&[7; KEY_LEN]);
        let text = |own: &str| format!("1\nlegacy\nfiles\nr-ef\nff\nann\n/mcp\n{own}");
        for own in ["task-1", "", "a\nb", "ä\"\u{0}"] {
            let id = sealer.seal(PURPOSE, text(own).as_bytes());
            let handle = Handle::open(&sealer, &id, "ann", "/mcp").unwrap();
            assert_eq!((&*handle.server, &*handle.own, handle.link), ("files", own, 255));
            assert_eq!(handle.home, Home::Server(Era::Legacy));
            assert_eq!(handle.capabilities.key(), "r-ef");
            assert_eq!(Handle::open(&sealer, &id, "eve", "/mcp"), None, "another caller");
            assert_eq!(Handle::open(&sealer, &id, "ann", "/mcp/few"), None, "another path");
            assert_eq!(Handle::open(&Sealer::new(&[8; KEY_LEN]), &id, "ann", "/mcp"), None, "another gateway");
            assert_eq!(Handle::open(&sealer, &sealer.seal("session", text(own).as_bytes()), "ann", "/mcp"), None);
        }
        for bad in ["", "1", "2\nlegacy\nfiles\nbare\n0\nann\n/mcp\nx", "1\nold\nfiles\nbare\n0\nann\n/mcp\nx"] {
            assert_eq!(Handle::open(&sealer, &sealer.seal(PURPOSE, bad.as_bytes()), "ann", "/mcp"), None, "{bad}");
        }
        for junk in ["", "task-1", &"A".repeat(10_000)] {
            assert_eq!(Handle::open(&sealer, junk, "ann", "/mcp"), None);
        }
    }
}
