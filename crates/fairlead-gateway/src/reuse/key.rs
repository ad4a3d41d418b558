//! What an answer depends on, as far as the gateway can know.
//!
//! Two calls that have the same key would have been the same text to the same server on the same kind of connection, but
//! for what is each client's own: its id, its progress token, its name, its trace. So the key is made of what reaches the
//! server and of whom it can tell apart: the server, the method, the server's own name of the tool, the arguments byte
//! for byte, every further member of `params` and of its `_meta`, what the gateway changes in the message, the era and the
//! capabilities that the server is told, the roots it may follow; and for what is private the caller and whatever keeps
//! its connection apart from others'. Equality is of bytes: arguments in another order are another key, which costs
//! a call and never mixes up two answers.
//!
//! Nothing of the client's revision, endpoint or exposed names is part of it: the server's own answer is what is kept, and
//! it is shaped for each client anew.

use crate::{call::Call, dispatch, resolve::Target};
use fairlead_core::CallerKey;
use fairlead_upstream::ShareKey;
use fairlead_wire::{CapabilitySet, Era, Field, Method, Span, list};
use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{Arc, LazyLock},
};

/// Members of `_meta` that say nothing a result depends on. Those of the gateway's own (`fairlead/...`) come on top.
const INCIDENTAL: [&str; 7] = [
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "traceparent",
    "tracestate",
    "baggage",
];
/// The capabilities of a client, which only a modern server reads there.
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// What begins the names of the gateway's own members.
const OWN: &str = "fairlead/";
/// Stands between two parts; no JSON text and no name has it.
const END: u8 = 0xff;

/// Whose an answer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    caller: CallerKey,
    /// What keeps its connection to the server apart.
    share: ShareKey,
}

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// `None` where it is everybody's.
    pub(crate) owner: Option<Owner>,
    pub(crate) server: Arc<str>,
    pub(crate) method: Method,
    /// The era the server is spoken to in; `None` while that is not known.
    pub(crate) era: Option<Era>,
    capabilities: CapabilitySet,
    /// Digest of the roots the server is told.
    roots: Option<u64>,
    what: Box<[u8]>,
    hashes: Hashes,
}

/// What all of a key comes to, hashed once: a call looks for its key in several places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hashes {
    of_everybody: u64,
    of_owner: u64,
}

/// As nobody outside can know it, no keys can be made that all have one hash.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hashes.of_owner);
    }
}

impl Key {
    /// The key of a call that answers the caller alone. `None` when the call cannot be compared with others.
    pub(crate) fn of(call: &Call, target: &Target, server: Arc<str>, vary: Option<&[Box<str>]>) -> Option<Self> {
        let view = target.upstream.handle.peek();
        let era = view.era_for(call.era);
        let session = call.session.as_ref();
        let share = target.upstream.handle.config().share;
        let share = dispatch::share_key(share, &call.caller, session.map(|session| session.user));
        let roots = match (view.asks.roots && era != Some(Era::Modern), session, &call.brought) {
            (false, ..) => None,
            (true, Some(session), _) => session.roots(),
            (true, None, Some(brought)) => brought.roots.clone(),
            // The client is yet to be asked for them.
            (true, None, None) => return None,
        };
        let key = Self {
            owner: Some(Owner { caller: call.caller.key().clone(), share }),
            server,
            method: call.frame.method_class(),
            era,
            capabilities: call.capabilities,
            roots: roots.map(|roots| roots.digest),
            what: what(call, target, era, vary)?.into_boxed_slice(),
            hashes: Hashes::default(),
        };
        Some(key.hashed())
    }

    fn hashed(self) -> Self {
        let Self { owner, server, method, era, capabilities, roots, what, .. } = &self;
        let of_everybody = HASHER.hash_one((server, method, era, capabilities, roots, what));
        let of_owner = owner.as_ref().map_or(of_everybody, |owner| HASHER.hash_one((of_everybody, owner)));
        Self { hashes: Hashes { of_everybody, of_owner }, ..self }
    }

    /// The same for what is everybody's.
    pub(crate) fn shared(&self) -> Self {
        let of_everybody = self.hashes.of_everybody;
        Self { owner: None, hashes: Hashes { of_everybody, of_owner: of_everybody }, ..self.clone() }
    }

    /// The key by which calls of a tool come together to one of `with`: `together` without the arguments. `None` when that
    /// cannot be told.
    pub(super) fn group(call: &Call, target: &Target, together: &Self, with: &str) -> Option<Self> {
        let mut out = Vec::new();
        part(&mut out, target.name.as_deref()?, with);
        place(target, &mut out);
        if let Some(raw) = call.frame.raw(Field::Meta) {
            meta(raw, together.era == Some(Era::Modern) && call.era == Era::Modern, &mut out)?;
        }
        Some(Self { what: out.into_boxed_slice(), ..together.clone() }.hashed())
    }

    /// A key for a test, of everybody's answers.
    #[cfg(test)]
    pub(super) fn plain(what: &str) -> Self {
        Self {
            owner: None,
            server: "a".into(),
            method: Method::ToolsCall,
            era: Some(Era::Legacy),
            capabilities: CapabilitySet::BARE,
            roots: None,
            what: what.as_bytes().into(),
            hashes: Hashes::default(),
        }
        .hashed()
    }

    /// Bytes it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.what.len()
    }
}

/// The request as the server sees it, without what is the client's own.
fn what(call: &Call, target: &Target, era: Option<Era>, vary: Option<&[Box<str>]>) -> Option<Vec<u8>> {
    let frame = &call.frame;
    let params = frame.raw(Field::Params)?;
    let mut out = Vec::with_capacity(params.len() + 64);
    out.extend_from_slice(target.name.as_deref().unwrap_or_default().as_bytes());
    out.push(END);
    let mut members = list::entries(params).ok()?;
    members.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    for (name, raw) in members {
        match (&*name, vary) {
            ("name" | "uri", _) if target.name.is_some() => {}
            ("_meta", _) => meta(raw, era == Some(Era::Modern) && call.era == Era::Modern, &mut out)?,
            ("arguments", Some(vary)) => {
                for argument in vary {
                    let raw = list::raw_member(raw, argument).unwrap_or_default();
                    part(&mut out, argument, raw);
                }
            }
            (name, _) => part(&mut out, name, raw),
        }
    }
    changes(call, target, &mut out);
    place(target, &mut out);
    if let Some(headers) = call.param_headers.as_ref().filter(|headers| !headers.is_empty()) {
        for (name, value) in headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.push(END);
            out.extend_from_slice(value.as_bytes());
            out.push(END);
        }
    }
    Some(out)
}

/// Which instances it is for.
fn place(target: &Target, out: &mut Vec<u8>) {
    for (label, value) in target.labels.iter().flat_map(|labels| &labels.all) {
        part(out, label, value);
    }
}

fn part(out: &mut Vec<u8>, name: &str, raw: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(END);
    out.extend_from_slice(raw.as_bytes());
    out.push(END);
}

fn meta(raw: &str, reads_capabilities: bool, out: &mut Vec<u8>) -> Option<()> {
    if raw == "null" {
        return Some(());
    }
    let mut members = list::entries(raw).ok()?;
    members.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    for (name, raw) in members {
        let matters = match &*name {
            CAPABILITIES => reads_capabilities,
            name => !INCIDENTAL.contains(&name) && !name.starts_with(OWN),
        };
        if matters {
            part(out, &name, raw);
        }
    }
    Some(())
}

/// Whether the gateway says anything else to the server than what the client said.
pub(super) fn is_changed(call: &Call, target: &Target) -> bool {
    let mut out = Vec::new();
    changes(call, target, &mut out);
    !out.is_empty() || target.arguments.is_some()
}

/// What the gateway says differently to the server, its own additions to `_meta` and the name aside.
fn changes(call: &Call, target: &Target, out: &mut Vec<u8>) {
    if target.edits.is_empty() {
        return;
    }
    let frame = &call.frame;
    let Some(params) = frame.span(Field::Params) else { return };
    let meta = frame.span(Field::Meta);
    let name = [Field::Name, Field::Uri].map(|field| frame.span(field).filter(|_| target.name.is_some()));
    let is_in = |outer: Span, inner: Span| outer.start <= inner.start && inner.end <= outer.end;
    target.edits.describe(params.start, out, |span, text| {
        name.contains(&Some(span))
            || meta.is_some_and(|meta| is_in(meta, span))
            || (span == params && text.starts_with(b"\"_meta\":"))
    });
}
