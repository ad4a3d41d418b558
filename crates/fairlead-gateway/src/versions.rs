//! Versions of tools: the configuration says which tool of which server is a version of an exposed one, a client says which
//! it wants - with the name (`name@2`), in `_meta`, or with a header - or is given the default.

use crate::{
    call::Call,
    merged::Merged,
    resolve::{self, Target},
    snapshot::Endpoint,
};
use bytes::Bytes;
use fairlead_config::ToolVersions;
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Field, Frame, Span, edit::Edits, list, message};
use http::HeaderMap;

/// The header that names a version.
const HEADER: &str = "fairlead-tool-version";
/// The member of a request's `_meta` that does.
const META: &str = "fairlead/version";
/// The member of a listed tool's `_meta` that says which there are.
const LISTED: &str = "fairlead/versions";

/// The version that a client asks for beside the name; `None` also where there are no versions.
pub(crate) fn said(endpoint: &Endpoint, frame: &Frame, headers: &HeaderMap) -> Option<Box<str>> {
    if endpoint.config.versions.is_empty() {
        return None;
    }
    if let Some(said) = headers.get(HEADER) {
        return said.to_str().ok().map(Into::into);
    }
    list::string_member(frame.raw(Field::Meta)?, META).map(Into::into)
}

/// Where the call of a tool goes that has versions; `None` when it goes where its name says.
pub(crate) fn target(call: &Call, merged: &Merged, called: &str) -> Result<Option<Target>, Refusal> {
    let all = &call.endpoint.config.versions;
    let (exposed, versions, asked) = match (all.get(called), called.rsplit_once('@')) {
        (Some(versions), _) => (called, versions, call.version.as_deref().or(versions.default.as_deref())),
        (None, Some((exposed, version))) if merged.tool(called).is_none() => match all.get(exposed) {
            Some(versions) => (exposed, versions, Some(version)),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(asked) = asked else { return Ok(None) };
    let version = versions.get(asked).ok_or_else(|| unknown(exposed, asked, versions))?;
    let gone = || Refusal::new(Code::UnknownName, format!("Unknown tool: {exposed}"));
    let route = merged.tool(exposed).ok_or_else(gone)?;
    let server = match &version.server {
        None => Some(route.server),
        Some(name) => call.endpoint.servers.iter().position(|server| server.handle.name() == name),
    };
    let original = version.tool.as_deref().unwrap_or(&route.original);
    let target = server.and_then(|server| resolve::versioned(call, route, server, original));
    target.map(Some).ok_or_else(|| unknown(exposed, asked, versions))
}

fn unknown(exposed: &str, asked: &str, versions: &ToolVersions) -> Refusal {
    let known: Vec<_> = versions.versions.iter().map(|version| &*version.name).collect();
    let asked: String = asked.chars().take(40).collect();
    Refusal::new(Code::UnknownName, format!("`{exposed}` has no version `{asked}`; it has {}", known.join(", ")))
}

/// A listed tool with what is said of its versions.
pub(crate) fn listed(endpoint: &Endpoint, exposed: &str, item: Bytes) -> Bytes {
    let Some(versions) = endpoint.config.versions.get(exposed) else { return item };
    let Ok(text) = std::str::from_utf8(&item) else { return item };
    let told = told(versions);
    let mut edits = Edits::new();
    match list::member_span(text, "_meta") {
        Some(meta) => edits.insert_first(meta, LISTED, &told),
        None => {
            let whole = Span { start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
            edits.insert_first(whole, "_meta", &format!("{{\"{LISTED}\":{told}}}"));
        }
    }
    edits.apply(&item)
}

fn told(versions: &ToolVersions) -> String {
    let of = |version: &fairlead_config::ToolVersion| {
        let deprecated = version.deprecated.as_deref();
        let deprecated = deprecated.map(|why| format!("\"deprecated\":{}", message::quote(why))).unwrap_or_default();
        format!("{}:{{{deprecated}}}", message::quote(&version.name))
    };
    let all: Vec<_> = versions.versions.iter().map(of).collect();
    let default = versions.default.as_deref().map(|name| format!("\"default\":{},", message::quote(name)));
    format!("{{{}\"versions\":{{{}}}}}", default.unwrap_or_default(), all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::ToolVersion;

    #[test]
    fn a_list_says_which_versions_there_are_and_which_to_leave() {
        let version = |name: &str, deprecated: Option<&str>| ToolVersion {
            name: name.into(),
            server: None,
            tool: None,
            deprecated: deprecated.map(Into::into),
        };
        let versions =
            ToolVersions { default: Some("2".into()), versions: vec![version("1", Some("use 2")), version("2", None)] };
        assert_eq!(told(&versions), r#"{"default":"2","versions":{"1":{"deprecated":"use 2"},"2":{}}}"#);
        assert_eq!(
            told(&ToolVersions { default: None, ..versions }),
            r#"{"versions":{"1":{"deprecated":"use 2"},"2":{}}}"#
        );
    }
}
