//! What the operator says of single tools, compiled for one endpoint: under which name and in which words a tool is
//! shown, and what is done with its calls.
//!
//! Names and words are applied when lists are merged, so a call pays nothing for them. What is done with calls is a
//! [`Treatment`], which a call carries only where there is one. The transparent view of a server renames nothing and
//! leaves its words as they are; what is a matter of policy (hidden tools, pinned arguments, checks, filters) holds there
//! too.

mod listed;

pub(crate) use listed::edited;

use crate::{
    inspect::InputSchema,
    response_filter::ResponseFilter,
    snapshot::{Endpoint, Upstream, View},
};
use fairlead_config::{ResourceUris, Response, ToolShape, Toolset};
use fairlead_upstream::{Entry, ListingKind};
use fairlead_wire::{list, name};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// Compiled schemas kept per endpoint: beyond, those of no list any more make room, else a schema is compiled for its
/// list alone.
const MAX_SCHEMAS: usize = 4096;

/// What is done with the calls of one tool.
#[derive(Debug, Default)]
pub(crate) struct Treatment {
    /// Arguments the gateway sets: names, and values as JSON text.
    pub(crate) pins: Vec<(Box<str>, Box<str>)>,
    /// What arguments are checked against.
    pub(crate) schema: Option<Arc<InputSchema>>,
    /// What becomes of answers.
    pub(crate) response: Option<Arc<ResponseFilter>>,
}

impl Treatment {
    /// What is done with a call that another server answers than the one it was made to: what is said of its tool, and
    /// what of that of the first server is not said there.
    pub(crate) fn elsewhere(there: Option<Arc<Self>>, here: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let (Some(there), Some(here)) = (&there, here) else { return there.or_else(|| here.cloned()) };
        let is_new = |(name, _): &&(Box<str>, Box<str>)| !there.pins.iter().any(|(known, _)| known == name);
        Some(Arc::new(Self {
            pins: there.pins.iter().chain(here.pins.iter().filter(is_new)).cloned().collect(),
            schema: there.schema.clone().or_else(|| here.schema.clone()),
            response: there.response.clone().or_else(|| here.response.clone()),
        }))
    }
}

/// What is done with calls of a tool by its server's own rules, as `endpoint` has them; `None` when they hide it.
pub(crate) fn at_server(
    endpoint: &Endpoint,
    upstream: &Upstream,
    name: &str,
    entry: Option<&Entry>,
) -> Option<Option<Arc<Treatment>>> {
    let standing = standing(endpoint, upstream, ListingKind::Tools, name);
    if standing.is_hidden() {
        return None;
    }
    let shaping = endpoint.shaping.as_deref();
    Some(shaping.and_then(|shaping| shaping.treatment(standing.shape.as_ref()?, name, entry)))
}

/// How an item stands on an endpoint.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Its name before the toolset has its say: what patterns of toolsets are about.
    base: String,
    /// The name it is shown under.
    pub(crate) exposed: String,
    /// What is said of the tool.
    pub(crate) shape: Option<ToolShape>,
}

impl Standing {
    /// Whether the name was chosen by the operator.
    pub(crate) fn is_renamed(&self) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.rename.is_some())
    }

    /// Whether a rule hides the tool.
    pub(crate) fn is_hidden(&self) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.hide == Some(true))
    }

    /// Whether the endpoint's selection has it.
    pub(crate) fn is_selected(&self, endpoint: &Endpoint, kind: ListingKind) -> bool {
        let View::Toolset(toolset) = &endpoint.view else { return true };
        match kind {
            ListingKind::Tools => toolset.permits_tool(&self.base, self.tags()),
            _ => toolset.permits(&self.base),
        }
    }

    /// What toolsets can select the tool by.
    pub(crate) fn tags(&self) -> &[String] {
        self.shape.as_ref().map_or(&[], |shape| &shape.tags)
    }
}

/// Under which name an item of a server stands on an endpoint, and what is said of it.
pub(crate) fn standing(endpoint: &Endpoint, upstream: &Upstream, kind: ListingKind, key: &str) -> Standing {
    let shaping = endpoint.shaping.as_deref().filter(|_| kind == ListingKind::Tools);
    let Some(shaping) = shaping else {
        let base = plain_name(endpoint, upstream, kind, key);
        return Standing { exposed: base.clone(), base, shape: None };
    };
    let of_server = upstream.rules.shape(key);
    if endpoint.is_single() {
        let shape =
            ToolShape { rename: None, title: None, description: None, annotations: Default::default(), ..of_server };
        return Standing { base: key.to_owned(), exposed: key.to_owned(), shape: Some(shape) };
    }
    let base = plain_name(endpoint, upstream, kind, &of_server.renamed(key));
    let is_hidden = of_server.hide == Some(true);
    let said = shaping.toolset.iter().flat_map(|toolset| &toolset.tools);
    let of_toolset = said
        .filter(|(pattern, _)| pattern.matches(&base))
        .fold(ToolShape::default(), |shape, (_, over)| shape.overlaid(over));
    let exposed = match &of_toolset.rename {
        None => base.clone(),
        Some(_) => name::allowed(&of_toolset.renamed(&base), endpoint.config.names.max),
    };
    let mut shape = of_server.overlaid(&of_toolset);
    // What a server's rule hides stays hidden.
    shape.hide = if is_hidden { Some(true) } else { shape.hide };
    Standing { base, exposed, shape: Some(shape) }
}

/// The name by the naming rules alone.
fn plain_name(endpoint: &Endpoint, upstream: &Upstream, kind: ListingKind, key: &str) -> String {
    let config = upstream.handle.config();
    match kind {
        // Nothing is renamed where a server stands alone.
        _ if endpoint.is_single() => key.to_owned(),
        ListingKind::Tools | ListingKind::Prompts if config.prefix => {
            name::expose(config.name.as_str(), key, endpoint.config.names.max)
        }
        ListingKind::Resources | ListingKind::Templates if config.resources == ResourceUris::Prefix => {
            name::prefix_uri(config.name.as_str(), key)
        }
        _ => key.to_owned(),
    }
}

/// What is said of tools on one endpoint, and what was compiled of it.
pub(crate) struct Shaping {
    toolset: Option<Arc<Toolset>>,
    /// Whether answers may be cut: their rest is read as a resource.
    pub(crate) cuts: bool,
    filters: Mutex<Vec<(Response, Arc<ResponseFilter>)>>,
    schemas: Mutex<HashMap<[u8; 32], Arc<InputSchema>>>,
}

impl Shaping {
    /// `None` where nothing is said of any tool.
    pub(crate) fn new(view: &View, servers: &[Upstream]) -> Option<Box<Self>> {
        let toolset = match view {
            View::Toolset(toolset) if !toolset.tools.is_empty() => Some(Arc::clone(toolset)),
            _ => None,
        };
        let says_something =
            toolset.is_some() || servers.iter().any(|server| server.rules.shapes().any(|shape| !shape.is_empty()));
        let in_toolset = toolset.iter().flat_map(|toolset| &toolset.tools).map(|(_, shape)| shape);
        let in_servers = servers.iter().flat_map(|server| server.rules.shapes());
        let cuts = in_toolset.chain(in_servers).any(|shape| shape.response.max_bytes.is_some());
        says_something.then(|| Box::new(Self { toolset, cuts, filters: Mutex::default(), schemas: Mutex::default() }))
    }

    /// What is done with the calls of a tool; `None` where nothing is. Of a tool that was not listed there is no schema.
    pub(crate) fn treatment(&self, shape: &ToolShape, tool: &str, entry: Option<&Entry>) -> Option<Arc<Treatment>> {
        let schema = entry
            .filter(|_| shape.validate == Some(true))
            .and_then(|entry| list::raw_member(std::str::from_utf8(&entry.raw).ok()?, "inputSchema"))
            .map(|schema| self.schema(tool, schema));
        let response = (!shape.response.is_empty()).then(|| self.filter(&shape.response));
        let pins: Vec<_> =
            shape.pin.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        let is_something = schema.is_some() || response.is_some() || !pins.is_empty();
        is_something.then(|| Arc::new(Treatment { pins, schema, response }))
    }

    fn filter(&self, response: &Response) -> Arc<ResponseFilter> {
        let mut filters = self.filters.lock().expect("invariant: no panic under this lock");
        if let Some((_, filter)) = filters.iter().find(|(known, _)| known == response) {
            return Arc::clone(filter);
        }
        let filter = Arc::new(ResponseFilter::new(response));
        // As many as there are different rules, which the configuration bounds.
        filters.push((response.clone(), Arc::clone(&filter)));
        filter
    }

    fn schema(&self, tool: &str, schema: &str) -> Arc<InputSchema> {
        let key: [u8; 32] = Sha256::digest(schema.as_bytes()).into();
        let mut schemas = self.schemas.lock().expect("invariant: no panic under this lock");
        if let Some(known) = schemas.get(&key) {
            return Arc::clone(known);
        }
        if schemas.len() >= MAX_SCHEMAS {
            schemas.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let compiled = Arc::new(InputSchema::new(tool, schema));
        if schemas.len() < MAX_SCHEMAS {
            schemas.insert(key, Arc::clone(&compiled));
        }
        compiled
    }
}
