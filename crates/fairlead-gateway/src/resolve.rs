//! resolve: from the name a client uses to the server that has it, under the server's own name.

use crate::{
    call::Call,
    merged::Route,
    routing::{self, Asked, Routing},
    shaping::{self, Treatment},
    snapshot::Upstream,
    tasks, versions,
};
use fairlead_config::{Labels, ResourceUris, ToolRule};
use fairlead_core::{Code, Refusal};
use fairlead_upstream::{Catalog, Entry, ListingKind};
use fairlead_wire::{Era, Field, Method, edit::Edits, message, name};
use http::HeaderMap;
use std::{sync::Arc, time::Duration};

/// Where a call goes.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) upstream: Upstream,
    /// What the message says differently to this server.
    pub(crate) edits: Edits,
    /// The name, URI or task id under which the server knows what is asked for: `Mcp-Name`.
    pub(crate) name: Option<Box<str>>,
    /// The era the server must be spoken to in, where that is no longer open.
    pub(crate) era: Option<Era>,
    /// The tool only runs as a task of 2025-11-25, which a modern client cannot ask for.
    pub(crate) needs_task: bool,
    /// A modern client's tool of which nothing is known.
    pub(crate) is_unlisted: bool,
    /// What the configuration says of the tool.
    pub(crate) rule: Option<Arc<ToolRule>>,
    /// What is done with the call, until that has begun.
    pub(crate) treatment: Option<Arc<Treatment>>,
    /// The arguments that are sent, where they are not the client's.
    pub(crate) arguments: Option<Box<str>>,
    /// The tool was listed anew for this call, so the headers of its arguments are the gateway's to make.
    pub(crate) is_relisted: bool,
    /// Which of the server's instances it is for, where a route says so.
    pub(crate) labels: Option<Arc<Labels>>,
    item: Option<(Arc<Catalog>, ListingKind)>,
}

impl Target {
    fn new(upstream: &Upstream, name: Option<Box<str>>) -> Self {
        Self {
            upstream: upstream.clone(),
            edits: Edits::new(),
            name,
            era: None,
            needs_task: false,
            is_unlisted: false,
            rule: None,
            treatment: None,
            arguments: None,
            is_relisted: false,
            labels: None,
            item: None,
        }
    }

    /// The target of a call of a tool, which the configuration may say something of.
    fn ruled(mut self, call: &Call) -> Self {
        if call.frame.method_class() == Method::ToolsCall {
            self.rule = self.name.as_deref().and_then(|name| self.upstream.rules.tool(name));
        }
        self
    }

    /// Silence, and time in all, that a call may take.
    pub(crate) fn timeouts(&self) -> (Duration, Duration) {
        let timeout = &self.upstream.handle.config().timeout;
        let rule = self.rule.as_deref();
        (
            rule.and_then(|rule| rule.idle_timeout).unwrap_or(timeout.idle),
            rule.and_then(|rule| rule.call_timeout).unwrap_or(timeout.call),
        )
    }

    /// After how long without an answer the call is made a second time.
    pub(crate) fn hedge(&self, call: &Call) -> Option<Duration> {
        let after = self.rule.as_deref()?.hedge?;
        (call.task.is_none() && self.is_repeatable(call)).then_some(after)
    }

    /// The same call at another server, under the name it has there.
    pub(crate) fn at(upstream: &Upstream, name: &str, call: &Call) -> Option<Self> {
        let mut target = Self::new(upstream, Some(name.into()));
        target.edits.replace(call.frame.span(Field::Name)?, message::quote(name));
        Some(target.ruled(call))
    }

    /// Whether the call may be made again when nobody knows whether it took effect.
    pub(crate) fn is_repeatable(&self, call: &Call) -> bool {
        let said = self.rule.as_deref().and_then(|rule| rule.repeatable.or_else(|| rule.shape.repeatable()));
        said.unwrap_or_else(|| self.item(&mut None, call).is_some_and(|tool| tool.repeatable))
    }

    /// The server as it is, nothing renamed.
    pub(crate) fn plain(upstream: &Upstream) -> Self {
        Self::new(upstream, None)
    }

    /// The same, with what is listed of it looked up anew.
    pub(crate) fn anew(&self) -> Self {
        Self { item: None, is_relisted: true, ..self.clone() }
    }

    /// The listed item, for facts about it.
    pub(crate) fn item<'a>(&'a self, fallback: &'a mut Option<Arc<Catalog>>, call: &Call) -> Option<&'a Entry> {
        let name = self.name.as_deref()?;
        if let Some((catalog, kind)) = &self.item {
            return catalog.listing(*kind).get(name);
        }
        *fallback = self.upstream.handle.peek().nearest_catalog(call.era, call.capabilities).cloned();
        fallback.as_ref()?.listing(ListingKind::Tools).get(name)
    }
}

/// Whether the endpoint is one server of the client's own era: what the gateway does not know can
/// then be passed on as it is.
pub(crate) fn is_same_era_single(call: &Call) -> bool {
    call.endpoint.is_single()
        && call.endpoint.servers.first().is_some_and(|server| server.handle.peek().era_for(call.era) == Some(call.era))
}

/// Whether `subscriptions/listen` is the server's own to answer.
pub(crate) fn listens_itself(call: &Call) -> bool {
    // The server knows its tasks by other ids.
    is_same_era_single(call) && !tasks::listens(call)
}

/// Finds the server a call is for.
pub(crate) fn target(call: &Call) -> Result<Target, Refusal> {
    if call.endpoint.is_single() {
        return single(call);
    }
    let frame = &call.frame;
    let merged = call.endpoint.merged(call.era, call.capabilities, call.gateway.epoch());
    match frame.method_class() {
        Method::ToolsCall => {
            let name = name_of(call)?;
            if !call.endpoint.config.versions.is_empty()
                && let Some(target) = versions::target(call, &merged, &name)?
            {
                return Ok(target);
            }
            match merged.tool(&name) {
                Some(route) => Ok(named(call, route, &name, Field::Name)),
                None => match routing::meant(call, &merged, &name) {
                    Some(exposed) => {
                        let route = merged.tool(&exposed).ok_or_else(|| unknown("tool", &name))?;
                        Ok(named(call, route, &exposed, Field::Name))
                    }
                    None => unlisted(call, &name).ok_or_else(|| unknown("tool", &name)),
                },
            }
        }
        Method::PromptsGet => {
            let name = name_of(call)?;
            match merged.prompt(&name) {
                Some(route) => Ok(named(call, route, &name, Field::Name)),
                None => Err(unknown("prompt", &name)),
            }
        }
        Method::ResourcesRead => {
            let uri = frame.str(Field::Uri).ok_or_else(|| bad("`params.uri` must be a string"))?;
            let route = merged.resource(&uri).ok_or_else(|| unknown_resource(&uri))?;
            Ok(named(call, &route, &uri, Field::Uri))
        }
        Method::Complete => {
            if let Some(prompt) = frame.str(Field::RefName) {
                let route = merged.prompt(&prompt).ok_or_else(|| unknown("prompt", &prompt))?;
                return Ok(named(call, route, &prompt, Field::RefName));
            }
            let uri = frame
                .str(Field::RefUri)
                .ok_or_else(|| bad("`params.ref` must name a prompt or a resource template"))?;
            let route = merged
                .template(&uri)
                .cloned()
                .or_else(|| merged.resource(&uri))
                .ok_or_else(|| unknown_resource(&uri))?;
            Ok(named(call, &route, &uri, Field::RefUri))
        }
        _ => Err(Refusal::new(Code::UnknownMethod, format!("no method `{}` here", frame.method()))),
    }
}

/// Compares the arguments of a modern client's call with the headers that repeat them: who routes by
/// such headers must be able to rely on them (SEP-2243). Notes with the target what else the call of a modern
/// client needs to know of the tool.
pub(crate) fn check_param_headers(call: &Call, target: &mut Target) -> Result<(), Refusal> {
    if call.era != Era::Modern || call.frame.method_class() != Method::ToolsCall {
        return Ok(());
    }
    let mut catalog = None;
    let Some(tool) = target.item(&mut catalog, call) else {
        target.is_unlisted = true;
        return Ok(());
    };
    let needs_task = tool.needs_task;
    let checked = match (&tool.param_headers, &call.param_headers) {
        (Some(params), Some(sent)) => {
            let headers = sent.iter().cloned().collect();
            params
                .check(&headers, call.frame.raw(Field::Arguments))
                .map_err(|error| Refusal::new(Code::HeaderMismatch, error.to_string()))
        }
        _ => Ok(()),
    };
    target.needs_task = needs_task;
    checked
}

/// Whether the headers of a modern client agree with its arguments as its tool is listed now. A header that it could
/// not know of does not count as missing: what it was shown came from here.
pub(crate) fn agrees_still(call: &Call, target: &Target) -> bool {
    let mut catalog = None;
    let Some(tool) = target.item(&mut catalog, call) else { return false };
    let (Some(params), Some(sent)) = (&tool.param_headers, &call.param_headers) else { return true };
    let arguments = call.frame.raw(Field::Arguments);
    let mut headers: HeaderMap = sent.iter().cloned().collect();
    for (name, value) in params.encode(arguments) {
        headers.entry(name).or_insert(value);
    }
    params.check(&headers, arguments).is_ok()
}

/// Finds the server of a resource.
pub(crate) fn resource(call: &Call, exposed: &str) -> Result<Target, Refusal> {
    if call.endpoint.is_single() {
        let mut target = single(call)?;
        target.name = Some(exposed.into());
        return Ok(target);
    }
    let merged = call.endpoint.merged(call.era, call.capabilities, call.gateway.epoch());
    let route = merged.resource(exposed).ok_or_else(|| unknown_resource(exposed))?;
    Ok(named(call, &route, exposed, Field::Uri))
}

/// The transparent view: everything goes to the one server as it is, within what it exposes.
fn single(call: &Call) -> Result<Target, Refusal> {
    let upstream = call
        .endpoint
        .servers
        .first()
        .ok_or_else(|| Refusal::new(Code::UnknownPath, "the server is no longer configured"))?;
    let name = match call.frame.method_class() {
        Method::ToolsCall | Method::PromptsGet => call.frame.str(Field::Name),
        Method::ResourcesRead => call.frame.str(Field::Uri),
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => call.frame.str(Field::TaskId),
        _ => None,
    };
    let filter = &upstream.handle.config().tools;
    if call.frame.method_class() == Method::ToolsCall && !filter.is_open() {
        let name = name.as_deref().ok_or_else(|| bad("`params.name` must be a string"))?;
        if !filter.permits(name) {
            return Err(unknown("tool", name));
        }
    }
    let mut target = Target::new(upstream, name.map(|name| name.into_owned().into_boxed_str())).ruled(call);
    if call.frame.method_class() == Method::ToolsCall && call.endpoint.shaping.is_some() {
        let name = target.name.as_deref().ok_or_else(|| bad("`params.name` must be a string"))?;
        target.treatment = shaped(call, upstream, name).ok_or_else(|| unknown("tool", name))?;
    }
    Ok(target)
}

/// What is done with a call in the transparent view; `None` when the tool is hidden.
fn shaped(call: &Call, upstream: &Upstream, name: &str) -> Option<Option<Arc<Treatment>>> {
    let standing = shaping::standing(&call.endpoint, upstream, ListingKind::Tools, name);
    if standing.is_hidden() {
        return None;
    }
    let merged = call.endpoint.merged(call.era, call.capabilities, call.gateway.epoch());
    Some(match merged.tool(name) {
        Some(route) => route.treatment.clone(),
        None => treatment(call, &standing, name),
    })
}

/// What is done with a call of a tool that is in no list.
fn treatment(call: &Call, standing: &shaping::Standing, name: &str) -> Option<Arc<Treatment>> {
    call.endpoint.shaping.as_deref()?.treatment(standing.shape.as_ref()?, name, None)
}

fn named(call: &Call, route: &Route, exposed: &str, field: Field) -> Target {
    let routing = call.endpoint.routing.as_ref();
    let (server, labels) = routing.map_or((route.server, None), |routing| routed(routing, call, route, exposed));
    let upstream = &call.endpoint.servers[server];
    let original = match field {
        // A template's own text, not the URI it was found by.
        Field::RefUri if upstream.handle.config().resources == ResourceUris::Prefix => {
            name::unprefix_uri(exposed).map_or(exposed, |(_, original)| original).into()
        }
        _ => route.original.clone(),
    };
    let mut target = Target::new(upstream, None);
    target.labels = labels;
    if *original != *exposed
        && let Some(span) = call.frame.span(field)
    {
        target.edits.replace(span, message::quote(&original));
    }
    if server == route.server {
        target.treatment.clone_from(&route.treatment);
        target.item.clone_from(&route.entry);
    } else if field == Field::Name && call.frame.method_class() == Method::ToolsCall {
        let catalog = upstream.handle.peek().nearest_catalog(call.era, call.capabilities).cloned();
        let entry = catalog.as_ref().and_then(|catalog| catalog.listing(ListingKind::Tools).get(&original));
        let there = shaping::at_server(&call.endpoint, upstream, &original, entry).flatten();
        target.treatment = Treatment::elsewhere(there, route.treatment.as_ref());
    }
    target.name = Some(original);
    target.ruled(call)
}

/// The tool that is a version of the one that is exposed; `None` where its server leaves it out.
pub(crate) fn versioned(call: &Call, route: &Route, server: usize, original: &str) -> Option<Target> {
    let upstream = &call.endpoint.servers[server];
    if !upstream.handle.config().tools.permits(original) {
        return None;
    }
    let mut target = Target::new(upstream, Some(original.into()));
    target.edits.replace(call.frame.span(Field::Name)?, message::quote(original));
    if server == route.server && *original == *route.original {
        target.treatment.clone_from(&route.treatment);
        target.item.clone_from(&route.entry);
    } else {
        // One that is hidden under its own name is a version all the same.
        let catalog = upstream.handle.peek().nearest_catalog(call.era, call.capabilities).cloned();
        let entry = catalog.as_ref().and_then(|catalog| catalog.listing(ListingKind::Tools).get(original));
        let standing = shaping::standing(&call.endpoint, upstream, ListingKind::Tools, original);
        let shaping = call.endpoint.shaping.as_deref();
        let there = shaping.and_then(|shaping| shaping.treatment(standing.shape.as_ref()?, original, entry));
        target.treatment = Treatment::elsewhere(there, route.treatment.as_ref());
    }
    Some(target.ruled(call))
}

/// The server that the configured routes say.
fn routed(routing: &Routing, call: &Call, route: &Route, exposed: &str) -> (usize, Option<Arc<Labels>>) {
    let kind = match call.frame.method_class() {
        Method::ToolsCall => ListingKind::Tools,
        Method::PromptsGet => ListingKind::Prompts,
        Method::ResourcesRead => ListingKind::Resources,
        // What is watched, and what tasks there are, is known to the server it was asked of.
        _ => return (route.server, None),
    };
    routing.server(call, Asked { kind, exposed, original: &route.original }, route.server)
}

/// The target of a copy of a call.
pub(crate) fn copied(upstream: &Upstream, target: &Target, call: &Call) -> Target {
    let mut copied = Target::new(upstream, target.name.clone());
    copied.edits = target.edits.clone();
    copied.ruled(call)
}

/// A tool that is in no list yet because its server was never seen, or never by a client with these
/// capabilities: the prefix says whose it is.
fn unlisted(call: &Call, exposed: &str) -> Option<Target> {
    if !matches!(call.endpoint.view, crate::snapshot::View::All) {
        return None;
    }
    let (server, original) = name::split(exposed)?;
    let upstream = call.endpoint.servers.iter().find(|upstream| upstream.handle.name().as_str() == server)?;
    let config = upstream.handle.config();
    if !config.prefix
        || upstream.handle.peek().catalog(call.era, call.capabilities).is_some()
        || !config.tools.permits(original)
        || name::expose(server, original, call.endpoint.config.names.max) != exposed
    {
        return None;
    }
    let standing = shaping::standing(&call.endpoint, upstream, ListingKind::Tools, original);
    // Where a rule renames something, only the list says whose name this is.
    if standing.is_hidden() || standing.is_renamed() || upstream.rules.shapes().any(|shape| shape.rename.is_some()) {
        return None;
    }
    let mut target = Target::new(upstream, Some(original.into()));
    target.treatment = treatment(call, &standing, original);
    target.edits.replace(call.frame.span(Field::Name)?, message::quote(original));
    Some(target.ruled(call))
}

fn name_of(call: &Call) -> Result<std::borrow::Cow<'_, str>, Refusal> {
    call.frame.str(Field::Name).ok_or_else(|| bad("`params.name` must be a string"))
}

fn bad(message: &'static str) -> Refusal {
    Refusal::new(Code::BadParams, message)
}

fn shown(name: &str) -> String {
    name.chars().take(128).collect()
}

fn unknown(what: &str, name: &str) -> Refusal {
    Refusal::new(Code::UnknownName, format!("Unknown {what}: {}", shown(name)))
}

fn unknown_resource(uri: &str) -> Refusal {
    Refusal::new(Code::UnknownResource, format!("Resource not found: {}", shown(uri)))
        .with_data(format!("{{\"uri\":{}}}", message::quote(&shown(uri))))
}

/// Whether the client and the server it is sent to speak revisions of one era.
pub(crate) fn same_era(call: &Call, link: Era) -> bool {
    call.era == link
}
