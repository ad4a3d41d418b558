//! What an endpoint shows: the servers' catalogs merged, names and answers made ready.
//!
//! Built once per change of any catalog and per client capability set; a list is then answered from
//! bytes that are there, and a name is one look into a table. Names depend on the configuration and
//! the one name alone, never on what else happens to be running.

mod apps;
mod lists;

pub(crate) use lists::own_info;

use crate::{
    call_many,
    search::{
        budget::{self, Fit},
        catalog::Catalog as Catalogue,
    },
    shaping::{self, Treatment},
    snapshot::{Endpoint, Upstream, View},
    tasks, versions,
};
use bytes::Bytes;
use fairlead_config::{Mode, ResourceUris};
use fairlead_core::Code;
use fairlead_upstream::{Catalog, Entry, ListingKind};
use fairlead_wire::{CapabilitySet, Era, message, name};
use std::{collections::HashMap, sync::Arc};

/// Where an exposed name leads.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Index into the endpoint's servers.
    pub(crate) server: usize,
    /// The server's own name for it.
    pub(crate) original: Box<str>,
    /// The catalog the item is in, and its place: facts for dispatch.
    pub(crate) entry: Option<(Arc<Catalog>, ListingKind)>,
    /// What is done with calls of the tool.
    pub(crate) treatment: Option<Arc<Treatment>>,
}

/// The merged catalog of an endpoint.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) epoch: u64,
    /// Whether clients that declare something else may be shown something else: a server of the session-based
    /// revisions may list by what its client can do.
    pub(crate) depends_on_capabilities: bool,
    tools: HashMap<Box<str>, Route>,
    prompts: HashMap<Box<str>, Route>,
    resources: HashMap<Box<str>, Route>,
    templates: Vec<(Template, Route)>,
    /// Tools that the apps of a server call by the server's own name for them; `None` where two servers
    /// with apps have one of that name.
    app_tools: HashMap<Box<str>, Option<Route>>,
    lists: [lists::Prepared; 4],
    /// The tools that are searched for, where they are not listed.
    pub(crate) found: Option<Arc<Catalogue>>,
    /// What a budget of tokens left out.
    pub(crate) fit: Option<Fit>,
    /// Servers whose part is missing or stale, with the reason.
    pub(crate) missing: Vec<(String, String)>,
}

impl Merged {
    pub(crate) fn build(endpoint: &Endpoint, era: Era, capabilities: CapabilitySet, epoch: u64) -> Self {
        let mut merged = Self {
            epoch,
            depends_on_capabilities: endpoint
                .servers
                .iter()
                .any(|server| server.handle.peek().era_for(era) != Some(Era::Modern)),
            tools: HashMap::new(),
            prompts: HashMap::new(),
            resources: HashMap::new(),
            templates: Vec::new(),
            app_tools: HashMap::new(),
            lists: Default::default(),
            found: None,
            fit: None,
            missing: Vec::new(),
        };
        let mut items: [Vec<Bytes>; 4] = Default::default();
        let mut owners = Vec::new();
        for (index, upstream) in endpoint.servers.iter().enumerate() {
            let view = upstream.handle.view();
            let server = upstream.handle.name().as_str();
            if let Some(trouble) = view.trouble() {
                merged.missing.push((server.to_owned(), trouble));
            }
            let Some(catalog) = view.nearest_catalog(era, capabilities) else {
                if view.trouble().is_none() {
                    merged.missing.push((server.to_owned(), "its lists are not known yet".to_owned()));
                }
                continue;
            };
            for (kind, reason) in &catalog.failed {
                merged.missing.push((server.to_owned(), format!("{}: {reason}", kind.member())));
            }
            let stale = !view.fresh && !endpoint.is_single();
            for kind in ListingKind::ALL {
                let before = items[kind as usize].len();
                merged.add(endpoint, upstream, index, catalog, kind, stale, &mut items[kind as usize]);
                if kind == ListingKind::Tools && era == Era::Legacy && tasks::crosses(&view) {
                    items[kind as usize][before..].iter_mut().for_each(lists::offer_as_task);
                }
            }
            owners.push((items[ListingKind::Tools as usize].len(), server.into()));
        }
        merged.save_context(endpoint, &mut items[ListingKind::Tools as usize], &owners);
        let missing = if endpoint.is_single() { None } else { merged.missing_meta() };
        for kind in ListingKind::ALL {
            let whole = endpoint.is_single().then(|| merged.whole(endpoint, era, capabilities, kind)).flatten();
            merged.lists[kind as usize] = lists::Prepared::new(
                kind,
                &items[kind as usize],
                whole,
                merged.list_meta(kind, missing.as_deref()).as_deref(),
                endpoint.config.catalog.page_size,
            );
        }
        merged
    }

    /// Replaces the tools by what a toolset shows of them. `owners` says up to which item they are whose.
    fn save_context(&mut self, endpoint: &Endpoint, tools: &mut Vec<Bytes>, owners: &[(usize, Box<str>)]) {
        if let Some(finder) = &endpoint.finder {
            let (catalog, shown) = finder.catalog(tools, owners);
            self.found = Some(catalog);
            *tools = shown;
        } else if let View::Toolset(toolset) = &endpoint.view
            && let Mode::Budget { tokens } = toolset.mode
        {
            let (shown, fit) = budget::fit(toolset, tokens, std::mem::take(tools));
            self.fit = Some(fit);
            *tools = shown;
        }
        if let Some(bounds) = endpoint.call_many {
            // It hides one of a server that is shown under its name.
            tools.retain(|tool| {
                let tool = std::str::from_utf8(tool).unwrap_or_default();
                fairlead_wire::list::string_member(tool, "name").as_deref() != Some(call_many::NAME)
            });
            tools.push(call_many::definition(bounds));
        }
    }

    /// The members of a list's `_meta` that are the gateway's.
    fn list_meta(&self, kind: ListingKind, missing: Option<&str>) -> Option<String> {
        let missing = missing.map(|missing| format!("\"fairlead/servers\":{missing}"));
        let fit = self.fit.as_ref().filter(|_| kind == ListingKind::Tools).map(Fit::meta);
        match (missing, fit) {
            (Some(missing), Some(fit)) => Some(format!("{missing},{fit}")),
            (missing, fit) => missing.or(fit),
        }
    }

    /// The one server's own page, where nothing has to be left out of it.
    fn whole(
        &self,
        endpoint: &Endpoint,
        client: Era,
        capabilities: CapabilitySet,
        kind: ListingKind,
    ) -> Option<(Bytes, Era)> {
        let upstream = endpoint.servers.first()?;
        let config = upstream.handle.config();
        if kind == ListingKind::Tools && (!config.tools.is_open() || endpoint.shaping.is_some()) {
            return None;
        }
        let view = upstream.handle.view();
        let whole = view.nearest_catalog(client, capabilities)?.listing(kind).whole.clone()?;
        Some((whole, view.era_for(client)?))
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `build`, which owns all of these")]
    fn add(
        &mut self,
        endpoint: &Endpoint,
        upstream: &Upstream,
        index: usize,
        catalog: &Arc<Catalog>,
        kind: ListingKind,
        stale: bool,
        items: &mut Vec<Bytes>,
    ) {
        let config = upstream.handle.config();
        let server = config.name.as_str();
        // Nothing is renamed where a server stands alone.
        let uris = if endpoint.is_single() { ResourceUris::Keep } else { config.resources };
        let has_apps = kind == ListingKind::Tools
            && !endpoint.is_single()
            && catalog.listing(kind).entries.iter().any(|tool| apps::resource(tool).is_some());
        let chosen = chosen_names(endpoint, upstream, catalog, kind);
        for entry in &catalog.listing(kind).entries {
            if kind == ListingKind::Tools && !config.tools.permits(&entry.key) {
                continue;
            }
            if kind == ListingKind::Tools && !endpoint.is_single() && apps::is_for_apps_alone(entry) {
                // Only the apps of its own server may call it, and whose app calls cannot be told here.
                continue;
            }
            let standing = shaping::standing(endpoint, upstream, kind, &entry.key);
            if standing.is_hidden() || !standing.is_selected(endpoint, kind) {
                continue;
            }
            let exposed = &standing.exposed;
            if chosen.contains(exposed) && !standing.is_renamed() {
                self.missing.push((server.to_owned(), clash_reason(kind, exposed)));
                continue;
            }
            let shape = standing.shape.as_ref();
            let treatment = endpoint.shaping.as_deref().zip(shape);
            let route = Route {
                server: index,
                original: entry.key.clone(),
                entry: Some((Arc::clone(catalog), kind)),
                treatment: treatment.and_then(|(shaping, shape)| shaping.treatment(shape, &entry.key, Some(entry))),
            };
            let table = match kind {
                ListingKind::Tools => &mut self.tools,
                ListingKind::Prompts => &mut self.prompts,
                ListingKind::Resources => &mut self.resources,
                ListingKind::Templates => {
                    if self.templates.iter().any(|(template, _)| *template.text == **exposed) {
                        self.missing.push((server.to_owned(), clash_reason(kind, exposed)));
                        continue;
                    }
                    self.templates.push((Template::new(exposed), route));
                    items.push(lists::item(entry, kind, exposed, stale, server, uris));
                    continue;
                }
            };
            // An app's resource that a tool of this very server named before it was listed is no clash.
            if let Some(other) = table.get(&**exposed).filter(|other| other.server != index || other.entry.is_some()) {
                if matches!(kind, ListingKind::Tools | ListingKind::Prompts) {
                    tracing::error!(
                        code = Code::NameClash.label(),
                        name = exposed,
                        exposed_of = %endpoint.servers[other.server].handle.name(),
                        hidden_of = server,
                        "two servers claim one name; switch `prefix` on for one of them"
                    );
                }
                self.missing.push((server.to_owned(), clash_reason(kind, exposed)));
                continue;
            }
            table.insert(exposed.as_str().into(), route.clone());
            if has_apps {
                // An app knows its server's tools by the names they have there.
                self.app_tools
                    .entry(entry.key.clone())
                    .and_modify(|other| *other = other.take().filter(|other| other.server == index))
                    .or_insert(Some(route));
            }
            if kind == ListingKind::Tools {
                self.note_app_resource(index, entry, uris, server);
            }
            let item = lists::item(entry, kind, exposed, stale, server, uris);
            let item = shape.map_or_else(|| item.clone(), |shape| shaping::edited(&item, shape));
            items.push(if kind == ListingKind::Tools && !endpoint.is_single() {
                versions::listed(endpoint, exposed, item)
            } else {
                item
            });
        }
    }

    /// A tool's user interface may not be listed among the resources; it can be read all the same.
    fn note_app_resource(&mut self, server_index: usize, tool: &Entry, uris: ResourceUris, server: &str) {
        let Some(uri) = apps::resource(tool) else { return };
        let exposed = match uris {
            ResourceUris::Keep => uri.to_string(),
            ResourceUris::Prefix => name::prefix_uri(server, &uri),
        };
        self.resources.entry(exposed.into()).or_insert_with(|| Route {
            server: server_index,
            original: (&*uri).into(),
            entry: None,
            treatment: None,
        });
    }

    /// Whose tool it is: by its exposed name, else by the name an app of its server knows it under.
    pub(crate) fn tool(&self, exposed: &str) -> Option<&Route> {
        self.tools
            .get(exposed)
            .or_else(|| self.app_tools.get(exposed)?.as_ref())
            .or_else(|| self.but_for_hyphens(exposed))
    }

    /// The one tool whose name differs from `called` in hyphens alone: some clients write `_` for them.
    fn but_for_hyphens(&self, called: &str) -> Option<&Route> {
        let same = |name: &str| name.len() == called.len() && name.replace('-', "_") == called;
        let mut found = self.tools.iter().filter(|(name, _)| name.contains('-') && same(name));
        match (found.next(), found.next()) {
            (Some((_, route)), None) => Some(route),
            _ => None,
        }
    }

    pub(crate) fn prompt(&self, exposed: &str) -> Option<&Route> {
        self.prompts.get(exposed)
    }

    /// Who owns a URI: by list, then by template.
    pub(crate) fn resource(&self, uri: &str) -> Option<Route> {
        if let Some(route) = self.resources.get(uri) {
            return Some(route.clone());
        }
        self.templates.iter().find(|(template, _)| template.matches(uri)).map(|(_, route)| {
            let mut route = route.clone();
            // The template's route names the server; the URI is its own.
            route.original = name::unprefix_uri(uri).map_or(uri, |(_, original)| original).into();
            route.entry = None;
            route
        })
    }

    /// Who owns a template, by its text.
    pub(crate) fn template(&self, text: &str) -> Option<&Route> {
        self.templates.iter().find(|(template, _)| *template.text == *text).map(|(_, route)| route)
    }

    /// The answer to a list request: the result of a page. `None`: no such page.
    pub(crate) fn page(&self, kind: ListingKind, era: Era, cursor: Option<&str>) -> Option<&lists::Page> {
        self.lists[kind as usize].page(era, cursor)
    }

    /// The value of `_meta["fairlead/servers"]`, when somebody is missing.
    fn missing_meta(&self) -> Option<String> {
        if self.missing.is_empty() {
            return None;
        }
        let mut reasons: Vec<(&str, String)> = Vec::new();
        for (server, reason) in &self.missing {
            match reasons.iter_mut().find(|(name, _)| name == server) {
                Some((_, all)) => {
                    all.push_str("; ");
                    all.push_str(reason);
                }
                None => reasons.push((server, reason.clone())),
            }
        }
        let members: Vec<_> = reasons
            .iter()
            .map(|(server, reason)| format!("{}:{{\"reason\":{}}}", message::quote(server), message::quote(reason)))
            .collect();
        Some(format!("{{{}}}", members.join(",")))
    }
}

/// Names that the operator chose for tools of a server: another tool of it cannot come to have one by being called so.
fn chosen_names(
    endpoint: &Endpoint,
    upstream: &Upstream,
    catalog: &Catalog,
    kind: ListingKind,
) -> std::collections::HashSet<String> {
    if endpoint.shaping.is_none() || kind != ListingKind::Tools {
        return std::collections::HashSet::new();
    }
    let entries = catalog.listing(kind).entries.iter();
    let standings = entries.map(|entry| shaping::standing(endpoint, upstream, kind, &entry.key));
    standings
        .filter(|standing| standing.is_renamed() && !standing.is_hidden())
        .map(|standing| standing.exposed)
        .collect()
}

fn clash_reason(kind: ListingKind, exposed: &str) -> String {
    match kind {
        ListingKind::Resources | ListingKind::Templates => format!(
            "`{exposed}` is not exposed: an earlier server has the same URI; set `resources: prefix` on this server"
        ),
        _ => format!("`{exposed}` is not exposed: an earlier server has the same name; leave its `prefix` on"),
    }
}

/// A URI template, for telling whose URI it is: each `{expression}` stands for one or more characters
/// (RFC 6570 expressions are not evaluated, so `{/path*}` may also stand for none).
#[derive(Debug)]
struct Template {
    text: Box<str>,
    /// Literal parts around the expressions.
    literals: Vec<Box<str>>,
}

impl Template {
    fn new(text: &str) -> Self {
        let mut literals = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}') else { break };
            literals.push(rest[..open].into());
            rest = &rest[open + close + 1..];
        }
        literals.push(rest.into());
        Self { text: text.into(), literals }
    }

    fn matches(&self, uri: &str) -> bool {
        let Some((first, others)) = self.literals.split_first() else { return false };
        let Some(mut rest) = uri.strip_prefix(&**first) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        for literal in middle {
            let Some(at) = rest.find(&**literal) else { return false };
            rest = &rest[at + literal.len()..];
        }
        rest.len() >= last.len() && rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_whose_uri_it_is() {
        for (template, uri, expected) in [
            ("test://template/{id}/data", "test://template/7/data", true),
            ("test://template/{id}/data", "test://template/7/other", false),
            ("file:///{path}", "file:///a/b", true),
            ("file:///{path}", "memory://a", false),
            ("crm://customers/{id}", "crm://customers/12", true),
            ("crm://{kind}/{id}", "crm://customers/12", true),
            ("plain://x", "plain://x", true),
            ("plain://x", "plain://xy", false),
            ("broken://{x", "broken://{x", true),
        ] {
            assert_eq!(Template::new(template).matches(uri), expected, "{template} {uri}");
        }
    }
}
