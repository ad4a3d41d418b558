//! List answers as bytes, page by page, in the words of both eras.

use super::apps;
use crate::older;
use bytes::Bytes;
use fairlead_config::ResourceUris;
use fairlead_upstream::{Entry, ListingKind};
use fairlead_wire::{Era, Span, edit::Edits, list, message, name};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// How long a modern client may keep a list: changes are announced, so this only bounds how long a
/// client that does not listen is wrong. Milliseconds.
const TTL_MS: u64 = 5_000;

/// The pages of one list.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    legacy: Vec<Page>,
    modern: Vec<Page>,
    /// What cursors of this list begin with; another list, or another state of it, has another.
    mark: String,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: Bytes,
    /// The same, compressed when it was first asked for.
    compressed: Arc<fairlead_coding::Prepared>,
}

impl Page {
    fn new(bytes: Bytes) -> Self {
        Self { bytes, compressed: Arc::default() }
    }

    /// The result of the list request.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its compressed forms.
    pub(crate) fn compressed(&self) -> Arc<fairlead_coding::Prepared> {
        Arc::clone(&self.compressed)
    }
}

impl Prepared {
    pub(super) fn new(
        kind: ListingKind,
        items: &[Bytes],
        whole: Option<(Bytes, Era)>,
        meta: Option<&str>,
        page_size: usize,
    ) -> Self {
        let mut digest = Sha256::new();
        digest.update(kind.member());
        for item in items {
            digest.update(item);
        }
        let mark: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mark = format!("{}.{mark}.", &kind.member()[..1]);
        let page_count = items.len().div_ceil(page_size.max(1)).max(1);
        let mut pages = items.chunks(page_size.max(1));
        let mut prepared = Self { legacy: Vec::new(), modern: Vec::new(), mark };
        for at in 0..page_count {
            let page = pages.next().unwrap_or_default();
            let next = (at + 1 < page_count).then(|| message::quote(&format!("{}{}", prepared.mark, at + 1)));
            let older = in_older_words(kind, page);
            let legacy = result(kind, older.as_deref().unwrap_or(page), next.as_deref(), meta, Era::Legacy);
            prepared.legacy.push(Page::new(legacy));
            prepared.modern.push(Page::new(result(kind, page, next.as_deref(), meta, Era::Modern)));
        }
        if let Some((whole, era)) = whole {
            match era {
                Era::Legacy => prepared.legacy = vec![Page::new(whole)],
                Era::Modern => prepared.modern = vec![Page::new(whole)],
            }
        }
        prepared
    }

    pub(super) fn page(&self, era: Era, cursor: Option<&str>) -> Option<&Page> {
        let at = match cursor {
            None => 0,
            Some(cursor) => cursor.strip_prefix(&self.mark)?.parse().ok().filter(|at| *at > 0)?,
        };
        match era {
            Era::Legacy => self.legacy.get(at),
            Era::Modern => self.modern.get(at),
        }
    }
}

/// The items as legacy clients are shown them; `None` when nothing differs.
fn in_older_words(kind: ListingKind, items: &[Bytes]) -> Option<Vec<Bytes>> {
    if kind != ListingKind::Tools {
        return None;
    }
    let older: Vec<_> = items.iter().map(older::tool).collect();
    let differs = older.iter().any(Option::is_some);
    differs.then(|| older.into_iter().zip(items).map(|(older, item)| older.unwrap_or_else(|| item.clone())).collect())
}

fn result(kind: ListingKind, items: &[Bytes], next: Option<&str>, meta: Option<&str>, era: Era) -> Bytes {
    let size: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 512);
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(kind.member().as_bytes());
    out.extend_from_slice(b"\":[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
    if let Some(next) = next {
        out.extend_from_slice(b",\"nextCursor\":");
        out.extend_from_slice(next.as_bytes());
    }
    match era {
        Era::Legacy => {
            if let Some(meta) = meta {
                out.extend_from_slice(format!(",\"_meta\":{{{meta}}}").as_bytes());
            }
        }
        Era::Modern => {
            let members: Vec<String> =
                [Some(server_info_member()), meta.map(str::to_owned)].into_iter().flatten().collect();
            let scope = format!(
                ",\"resultType\":\"complete\",\"ttlMs\":{TTL_MS},\"cacheScope\":\"private\",\"_meta\":{{{}}}",
                members.join(",")
            );
            out.extend_from_slice(scope.as_bytes());
        }
    }
    out.push(b'}');
    out.into()
}

/// `"io.modelcontextprotocol/serverInfo": ...` with the gateway's own name.
fn server_info_member() -> String {
    format!("\"io.modelcontextprotocol/serverInfo\":{}", own_info())
}

/// The gateway's name as the protocol's `Implementation` object.
pub(crate) fn own_info() -> String {
    format!("{{\"name\":\"fairlead\",\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"))
}

/// A listed item as the endpoint shows it: the server's bytes, with the exposed name or URI, and the
/// mark of a stale one.
pub(super) fn item(
    entry: &Entry,
    kind: ListingKind,
    exposed: &str,
    stale: bool,
    server: &str,
    uris: ResourceUris,
) -> Bytes {
    let Ok(text) = std::str::from_utf8(&entry.raw) else { return entry.raw.clone() };
    let mut edits = Edits::new();
    if *exposed != *entry.key
        && let Some(span) = list::member_span(text, kind.key())
    {
        edits.replace(span, message::quote(exposed));
    }
    let whole = Span { start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
    let meta = list::member_span(text, "_meta");
    if stale {
        match meta {
            Some(meta) => edits.insert_first(meta, "fairlead/stale", "true"),
            None => edits.insert_first(whole, "_meta", "{\"fairlead/stale\":true}"),
        }
    }
    if uris == ResourceUris::Prefix
        && kind == ListingKind::Tools
        && let Some(meta) = meta
    {
        if let Some(ui) = list::member_span(&text[meta.range()], "ui") {
            let ui = Span { start: meta.start + ui.start, end: meta.start + ui.end };
            prefix_member(text, ui, "resourceUri", server, &mut edits);
        }
        prefix_member(text, meta, apps::FLAT_KEY, server, &mut edits);
    }
    edits.apply(&entry.raw)
}

/// Says of a tool of a modern server that it can also be called as a task of 2025-11-25: the gateway sees to that.
pub(super) fn offer_as_task(item: &mut Bytes) {
    let Ok(text) = std::str::from_utf8(item) else { return };
    if list::member_span(text, "execution").is_some() {
        return;
    }
    let whole = Span { start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
    let mut edits = Edits::new();
    edits.insert_first(whole, "execution", "{\"taskSupport\":\"optional\"}");
    *item = edits.apply(item);
}

/// Rewrites the URI in a member of the object at `object`.
fn prefix_member(text: &str, object: Span, member: &str, server: &str, edits: &mut Edits) {
    let inner = &text[object.range()];
    if let (Some(uri), Some(span)) = (list::string_member(inner, member), list::member_span(inner, member)) {
        let span = Span { start: object.start + span.start, end: object.start + span.end };
        edits.replace(span, message::quote(&name::prefix_uri(server, &uri)));
    }
}
