//! The Skills extension (SEP-2640) over several servers: one list of all their skills, and each skill
//! asked of the server that has it.
//!
//! A skill's files are resources that no list need name, and two servers may have a skill of the same
//! URI. So whose a URI is follows from the skill it lies in: the first server in configuration order
//! keeps a URI, the other's skill is left out and said so, unless `resources: prefix` sets it apart.

use crate::{
    answer,
    body::Body,
    call::Call,
    capabilities,
    dispatch::{self, Begun},
    merged::own_info,
    record,
    resolve::Target,
    response::{json, refuse_call},
    shape,
    snapshot::{Endpoint, Upstream, View},
};
use fairlead_config::ResourceUris;
use fairlead_core::{Code, Outcome, Refusal, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::{Exchange, Final, Item};
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Span, edit::Edits, list, message, name};
use http::{Response, StatusCode};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// The extension's identifier.
pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/skills";
/// Skills of one server that are listed at most.
const MAX_SKILLS: usize = 2_000;
/// Pages of one server's list that are asked for at most.
const MAX_PAGES: usize = 50;
/// Skills of one endpoint whose server is remembered.
const MAX_ROOTS: usize = 20_000;
/// Longest URI that can lie in a skill, and most parts it can have.
const MAX_URI: usize = 8 << 10;
const MAX_PARTS: usize = 64;
/// How soon all servers are asked again whose an unknown URI is.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long a server may take over its list before the others are shown without it.
const LIST_WAIT: Duration = Duration::from_secs(10);
/// How long a modern client may keep the list, milliseconds: changes of it are not announced.
const TTL_MS: u64 = 5_000;

/// What a method of the extension asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `skills/list`
    List,
    /// `skills/get`
    Get,
    /// `resources/directory/read`
    Directory,
}

impl Asked {
    /// The method of this name, if it is one of the extension's.
    pub(crate) fn of(method: &str) -> Option<Self> {
        match method {
            "skills/list" => Some(Self::List),
            "skills/get" => Some(Self::Get),
            "resources/directory/read" => Some(Self::Directory),
            _ => None,
        }
    }
}

/// Which server has the skill of which root, under its exposed URI: learned whenever skills are listed
/// or got.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    owners: Mutex<HashMap<Box<str>, usize>>,
    /// When all servers were asked last because of an unknown URI.
    asked: Mutex<Option<Instant>>,
}

impl Roots {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        self.owners.lock().expect("invariant: no panic under this lock")
    }

    /// Whether it is time to ask all servers what they have; true once in a while.
    fn take_turn(&self) -> bool {
        let mut asked = self.asked.lock().expect("invariant: no panic under this lock");
        let is_due = asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if is_due {
            *asked = Some(Instant::now());
        }
        is_due
    }

    /// Notes the skill at `uri` (its `SKILL.md`). `false` when it is another server's already.
    fn note(&self, uri: &str, server: usize) -> bool {
        if uri.len() > MAX_URI {
            return false;
        }
        let root = uri.strip_suffix("/SKILL.md").unwrap_or(uri);
        let mut roots = self.lock();
        match roots.get(root) {
            Some(owner) => *owner == server,
            None => {
                if roots.len() < MAX_ROOTS {
                    roots.insert(root.into(), server);
                }
                true
            }
        }
    }

    /// The server in one of whose skills `uri` lies.
    fn owner(&self, uri: &str) -> Option<usize> {
        if uri.len() > MAX_URI {
            return None;
        }
        let roots = self.lock();
        let mut part = uri;
        for _ in 0..MAX_PARTS {
            if let Some(server) = roots.get(part) {
                return Some(*server);
            }
            part = &part[..part.rfind('/')?];
        }
        None
    }
}

/// What a server says of the extension to clients of `era`, if it has it.
pub(crate) fn declared(server: &Upstream, era: Era) -> Option<String> {
    let view = server.handle.peek();
    let peer = view.peer_for(era)?;
    let extensions = list::raw_member(&peer.capabilities, "extensions")?;
    list::raw_member(extensions, EXTENSION).map(str::to_owned)
}

/// The extension as an endpoint of several servers has it: reading directories when any server does.
pub(crate) fn merged_capability(endpoint: &Endpoint, era: Era) -> Option<String> {
    let mut any = false;
    let mut directories = false;
    for settings in endpoint.servers.iter().filter_map(|server| declared(server, era)) {
        any = true;
        directories |= list::raw_member(&settings, "directoryRead") == Some("true");
    }
    any.then(|| if directories { "{\"directoryRead\":true}".to_owned() } else { "{}".to_owned() })
}

/// Answers a request of the extension on an endpoint of several servers.
pub(crate) async fn answer(call: &Call, asked: Asked) -> Response<Body> {
    capabilities::wait_for_peers(&call.endpoint, call.era, call.capabilities).await;
    match asked {
        Asked::List => listed(call).await,
        Asked::Get | Asked::Directory => match one(call).await {
            Ok(response) => response,
            Err(refusal) => {
                call.gateway.metrics().refused(refusal.code);
                refuse_call(call.era, Some(call.id()), &refusal)
            }
        },
    }
}

async fn listed(call: &Call) -> Response<Body> {
    if call.frame.span(Field::Cursor).is_some() {
        let refusal = Refusal::new(Code::BadCursor, "skills are listed on one page; there is no such cursor");
        return refuse_call(call.era, Some(call.id()), &refusal);
    }
    let (skills, missing) = gather(call).await;
    let missing = (!missing.is_empty()).then(|| {
        let reasons: Vec<_> = missing
            .iter()
            .map(|(server, reason)| format!("{}:{{\"reason\":{}}}", message::quote(server), message::quote(reason)))
            .collect();
        format!("\"fairlead/servers\":{{{}}}", reasons.join(","))
    });
    let info = format!("\"io.modelcontextprotocol/serverInfo\":{}", own_info());
    let mut result = format!("{{\"skills\":[{}]", skills.join(","));
    match call.era {
        Era::Modern => {
            let meta: Vec<_> = [Some(info), missing].into_iter().flatten().collect();
            result.push_str(&format!(
                ",\"resultType\":\"complete\",\"ttlMs\":{TTL_MS},\"cacheScope\":\"private\",\"_meta\":{{{}}}",
                meta.join(",")
            ));
        }
        Era::Legacy => {
            if let Some(missing) = missing {
                result.push_str(&format!(",\"_meta\":{{{missing}}}"));
            }
        }
    }
    result.push('}');
    answer::own(call, &result)
}

/// All skills of all servers under their exposed URIs, and which servers are missing and why.
async fn gather(call: &Call) -> (Vec<String>, Vec<(String, String)>) {
    let servers = call.endpoint.servers.iter().enumerate().filter(|(_, server)| declared(server, call.era).is_some());
    let asked = servers.map(|(index, server)| async move { (index, server, skills_of(call, server).await) });
    let mut missing = Vec::new();
    let mut all = Vec::new();
    for (index, server, skills) in futures_util::future::join_all(asked).await {
        let name = server.handle.name().to_string();
        match skills {
            Ok(skills) => {
                let prefix = is_prefixed(call, server);
                for skill in skills {
                    let skill = if prefix { with_prefix(&name, &skill) } else { skill };
                    let Some(uri) = list::string_member(&skill, "uri") else { continue };
                    if !permits(call, &uri) {
                        continue;
                    }
                    if call.endpoint.skills.note(&uri, index) {
                        all.push(skill);
                    } else {
                        missing.push((name.clone(), format!("its skill `{uri}` is not exposed: an earlier server has the same URI; set `resources: prefix` on this server")));
                    }
                }
            }
            Err(reason) => missing.push((name, format!("skills: {reason}"))),
        }
    }
    (all, missing)
}

/// Every page of one server's list.
async fn skills_of(call: &Call, server: &Upstream) -> Result<Vec<String>, String> {
    let until = Instant::now() + LIST_WAIT;
    let mut skills = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let cursor_member = cursor.map(|cursor| format!("\"cursor\":{cursor}"));
        let answer = tokio::time::timeout_at(until, ask(call, server, "skills/list", cursor_member))
            .await
            .map_err(|_| "it does not answer in time".to_owned())??;
        let result = answer.raw(Field::Result).ok_or_else(|| {
            format!(
                "it refuses: {}",
                answer.str(Field::ErrorMessage).unwrap_or_default().chars().take(200).collect::<String>()
            )
        })?;
        let page = list::items(result, "skills").map_err(|error| error.to_string())?;
        skills.extend(page.into_iter().take(MAX_SKILLS - skills.len()).map(str::to_owned));
        cursor = answer.raw(Field::NextCursor).filter(|cursor| *cursor != "null").map(str::to_owned);
        if cursor.is_none() || skills.len() >= MAX_SKILLS {
            break;
        }
    }
    Ok(skills)
}

/// Asks one server, with the client's own `_meta`.
async fn ask(call: &Call, server: &Upstream, method: &str, member: Option<String>) -> Result<Frame, String> {
    let meta = call.frame.raw(Field::Meta).map(|meta| format!("\"_meta\":{meta}"));
    let members: Vec<_> = [member, meta].into_iter().flatten().collect();
    let request = message::request(call.id(), method, Some(&format!("{{{}}}", members.join(","))));
    let frame = Frame::parse(request, &Limits::default()).map_err(|error| error.to_string())?;
    let target = Target::plain(server);
    finish(dispatch::begin_with(call, &target, frame, Instant::now() + LIST_WAIT).await)
        .await
        .map(|(answer, _)| answer.frame)
        .map_err(|error| error.to_string())
}

/// An exchange that is cancelled when nobody waits for it any more.
struct Waiting(Box<Exchange>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancel("nobody waits for it any more");
    }
}

/// Waits for the answer and leaves out what comes before it; a question is answered with an error.
async fn finish(begun: Begun) -> Result<(Final, Era), UpstreamError> {
    let (exchange, first) = match begun {
        Begun::Answered { answer, link } => return Ok((answer, link)),
        Begun::Failed(error) => return Err(error),
        Begun::Refused(refusal) => return Err(crate::limits::as_error(&refusal)),
        // It never waits for another call: that is only decided before a call begins.
        Begun::NeedsRoots | Begun::Waits(_) => {
            let what = "it follows roots; call one of its tools first";
            return Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what));
        }
        Begun::Spoke { exchange, frame } => (exchange, Some(frame)),
        Begun::Quiet { exchange } => (exchange, None),
    };
    let mut waiting = Waiting(exchange);
    let mut next = first.map(Item::Message);
    loop {
        let item = match next.take() {
            Some(item) => item,
            None => waiting.0.next().await?,
        };
        match item {
            Item::Final(answer) => {
                let link = waiting.0.link().key().era;
                return Ok((answer, link));
            }
            Item::Message(frame) if frame.kind() == Kind::Request => {
                let id = frame.id().unwrap_or("null");
                let no = message::error(Some(id), -32603, "nobody can be asked during this request", None);
                waiting.0.link().push_soon(no);
            }
            Item::Message(_) => {}
        }
    }
}

/// `skills/get` and `resources/directory/read`: the server's own answer.
async fn one(call: &Call) -> Result<Response<Body>, Refusal> {
    let uri =
        call.frame.str(Field::Uri).ok_or_else(|| Refusal::new(Code::BadParams, "`params.uri` must be a string"))?;
    let mut candidates: Vec<usize> = owner(call, &uri).await.into_iter().collect();
    if candidates.is_empty() && !matches!(call.endpoint.view, View::Toolset(_)) && uri.len() <= MAX_URI {
        // A skill need not be listed: whoever has it says so. (What a toolset shows has to be known.)
        let has = |(_, server): &(usize, &Upstream)| declared(server, call.era).is_some();
        candidates = call.endpoint.servers.iter().enumerate().filter(has).map(|(index, _)| index).collect();
    }
    let mut failed = None;
    for index in candidates {
        let server = &call.endpoint.servers[index];
        let Some(original) = own_uri(call, server, &uri) else { continue };
        let mut target = Target::plain(server);
        if *original != *uri
            && let Some(span) = call.frame.span(Field::Uri)
        {
            target.edits.replace(span, message::quote(original));
        }
        let begun = dispatch::begin(call, &target, Instant::now() + LIST_WAIT).await;
        let name = server.handle.name().as_str();
        let (answer, link) = match finish(begun).await {
            Ok(answered) => answered,
            Err(error) => {
                record::failure(call, &target, &error);
                failed = Some(error.to_refusal(name));
                continue;
            }
        };
        if answer.frame.kind() == Kind::Error {
            continue;
        }
        record::call(call, &target, record::status_of(&answer.frame));
        let (status, bytes) = shape::answer(call, server.handle.config(), &answer, link);
        if !is_prefixed(call, server) {
            let skill = answer.frame.raw(Field::Result).and_then(|result| list::raw_member(result, "skill"));
            if let Some(uri) = skill.and_then(|skill| list::string_member(skill, "uri")) {
                call.endpoint.skills.note(&uri, index);
            }
            return Ok(json(status, bytes));
        }
        return Ok(json(StatusCode::OK, prefixed(name, &bytes)));
    }
    let shown: String = uri.chars().take(128).collect();
    // One that could not be asked may be the one that has it.
    Err(failed.unwrap_or_else(|| Refusal::new(Code::UnknownResource, format!("Skill or directory not found: {shown}"))))
}

/// Whether the endpoint shows a skill of this exposed URI.
fn permits(call: &Call, uri: &str) -> bool {
    match &call.endpoint.view {
        View::Toolset(toolset) => toolset.permits(uri),
        View::All | View::Single => true,
    }
}

/// The server of the skill that `uri` lies in; asks for the skills when nothing is known of it.
pub(crate) async fn owner(call: &Call, uri: &str) -> Option<usize> {
    if let Some((server, _)) = name::unprefix_uri(uri)
        && !matches!(call.endpoint.view, View::Toolset(_))
    {
        return call.endpoint.servers.iter().position(|other| other.handle.name().as_str() == server);
    }
    if let Some(index) = call.endpoint.skills.owner(uri) {
        return Some(index);
    }
    if uri.len() <= MAX_URI
        && call.endpoint.servers.iter().any(|server| declared(server, call.era).is_some())
        && call.endpoint.skills.take_turn()
    {
        let _ = gather(call).await;
    }
    call.endpoint.skills.owner(uri)
}

/// A resource that lies in a known skill, as something to call.
pub(crate) fn target(call: &Call, uri: &str) -> Option<Target> {
    let server = &call.endpoint.servers[call.endpoint.skills.owner(uri)?];
    let original = own_uri(call, server, uri)?;
    let mut target = Target::plain(server);
    if original != uri {
        target.edits.replace(call.frame.span(Field::Uri)?, message::quote(original));
    }
    target.name = Some(original.into());
    Some(target)
}

/// The URI as the server knows it; `None` when it is exposed as another server's.
fn own_uri<'a>(call: &Call, server: &Upstream, uri: &'a str) -> Option<&'a str> {
    if call.endpoint.is_single() {
        return Some(uri);
    }
    match (is_prefixed(call, server), name::unprefix_uri(uri)) {
        (true, Some((owner, original))) => (owner == server.handle.name().as_str()).then_some(original),
        (true, None) | (false, Some(_)) => None,
        (false, None) => Some(uri),
    }
}

/// Whether the server's URIs are exposed under its name. Nothing is renamed where a server stands alone.
fn is_prefixed(call: &Call, server: &Upstream) -> bool {
    server.handle.config().resources == ResourceUris::Prefix && !call.endpoint.is_single()
}

/// A skill entry (or a directory's resource) under exposed URIs.
fn with_prefix(server: &str, entry: &str) -> String {
    let mut edits = Edits::new();
    let prefix_at = |edits: &mut Edits, at: u32, object: &str| {
        if let (Some(span), Some(uri)) = (list::member_span(object, "uri"), list::string_member(object, "uri")) {
            let span = Span { start: at + span.start, end: at + span.end };
            edits.replace(span, message::quote(&name::prefix_uri(server, &uri)));
        }
    };
    prefix_at(&mut edits, 0, entry);
    for file in list::items(entry, "resources").unwrap_or_default() {
        let at = u32::try_from(file.as_ptr() as usize - entry.as_ptr() as usize).unwrap_or(0);
        prefix_at(&mut edits, at, file);
    }
    let edited = edits.apply(&bytes::Bytes::copy_from_slice(entry.as_bytes()));
    String::from_utf8(edited.to_vec()).expect("invariant: spliced from text")
}

/// An answer with a skill, or with the resources of a directory, under exposed URIs.
fn prefixed(server: &str, answer: &bytes::Bytes) -> bytes::Bytes {
    let Ok(frame) = Frame::parse(answer.clone(), &Limits::default()) else { return answer.clone() };
    let (Some(span), Some(result)) = (frame.span(Field::Result), frame.raw(Field::Result)) else {
        return answer.clone();
    };
    let mut edits = Edits::new();
    match list::member_span(result, "skill") {
        Some(skill) => {
            let edited = with_prefix(server, &result[skill.range()]);
            edits.replace(Span { start: span.start + skill.start, end: span.start + skill.end }, edited);
        }
        None => edits.replace(span, with_prefix(server, result)),
    }
    edits.apply(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_file_is_follows_from_the_skill_it_lies_in() {
        let roots = Roots::default();
        assert!(roots.note("skill://acme/billing/refunds/SKILL.md", 0));
        assert!(roots.note("skill://git/SKILL.md", 1));
        assert!(!roots.note("skill://git/SKILL.md", 2), "another server has it already");
        assert!(roots.note("skill://git/SKILL.md", 1), "its own once more");
        for (uri, owner) in [
            ("skill://acme/billing/refunds/SKILL.md", Some(0)),
            ("skill://acme/billing/refunds/examples/email.md", Some(0)),
            ("skill://acme/billing/refunds", Some(0)),
            ("skill://acme/billing", None),
            ("skill://git/a/b/c.md", Some(1)),
            ("skill://gi", None),
            ("", None),
        ] {
            assert_eq!(roots.owner(uri), owner, "{uri}");
        }
    }

    #[test]
    fn every_uri_of_an_entry_is_rewritten() {
        let entry =
            r#"{"uri":"s://a/SKILL.md","x":1.10,"resources":[{"uri":"s://a/SKILL.md","size":1},{"uri":"s://a/b"}]}"#;
        let told = r#"{"uri":"fairlead+one:s://a/SKILL.md","x":1.10,"resources":[{"uri":"fairlead+one:s://a/SKILL.md","size":1},{"uri":"fairlead+one:s://a/b"}]}"#;
        assert_eq!(with_prefix("one", entry), told);
        assert_eq!(with_prefix("one", r#"{"resources":"dynamic"}"#), r#"{"resources":"dynamic"}"#);
        let answer = bytes::Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"skill":{entry}}}}}"#));
        assert_eq!(prefixed("one", &answer), format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"skill":{told}}}}}"#));
    }
}
