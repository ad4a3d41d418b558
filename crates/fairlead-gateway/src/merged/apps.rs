//! MCP Apps (SEP-1865): tools with a user interface, and tools that only such an interface may call.

use fairlead_upstream::Entry;
use fairlead_wire::list;
use std::borrow::Cow;

/// The member of `_meta` that earlier versions of the extension used for the resource.
pub(super) const FLAT_KEY: &str = "ui/resourceUri";

fn meta(tool: &Entry) -> Option<&str> {
    list::raw_member(std::str::from_utf8(&tool.raw).ok()?, "_meta")
}

/// The resource that holds a tool's interface.
pub(super) fn resource(tool: &Entry) -> Option<Cow<'_, str>> {
    let meta = meta(tool)?;
    list::raw_member(meta, "ui")
        .and_then(|ui| list::string_member(ui, "resourceUri"))
        .or_else(|| list::string_member(meta, FLAT_KEY))
}

/// Whether a tool is hidden from models: `_meta.ui.visibility` names apps alone.
pub(super) fn is_for_apps_alone(tool: &Entry) -> bool {
    let ui = meta(tool).and_then(|meta| list::raw_member(meta, "ui"));
    let visible = ui.and_then(|ui| list::items(ui, "visibility").ok());
    visible.is_some_and(|to| !to.is_empty() && to.iter().all(|to| *to == "\"app\""))
}
