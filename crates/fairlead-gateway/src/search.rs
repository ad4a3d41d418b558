//! Toolsets that save context: with `mode: search` a client is shown two tools, `find_tools` and `call_tool`, instead of all
//! of them; with `mode: budget` ([`budget`]) it is shown shorter ones.
//!
//! `call_tool` is not a second way to make a call. Its inner name and arguments are put in the place of its own, as they are
//! written, and what goes on through the pipeline is the call of that tool: the same names, rules, limits, progress,
//! questions, cancellation and tasks. So nothing has to be done twice, and nothing can be walked around.

pub(crate) mod bm25;
pub(crate) mod budget;
pub(crate) mod catalog;
mod found;
mod synonyms;
pub(crate) mod trim;
mod words;

use crate::{
    answer,
    body::Body,
    call::Call,
    list_page,
    response::{own_result, text_content},
    snapshot::View,
};
use bytes::Bytes;
use catalog::{Catalog, Kept};
use fairlead_config::{Find, Mode};
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Era, Field, Frame, Limits, Method, edit::Edits, list, message};
use http::Response;
use std::sync::Arc;

const FIND: &str = "find_tools";
const CALL: &str = "call_tool";

/// Servers that the description of `find_tools` names.
const MAX_SERVERS: usize = 40;

/// What an endpoint with `mode: search` has besides its catalog.
#[derive(Debug)]
pub(crate) struct Finder {
    find: Find,
    kept: Kept,
}

impl Finder {
    pub(crate) fn new(view: &View) -> Option<Box<Self>> {
        let View::Toolset(toolset) = view else { return None };
        let Mode::Search(find) = toolset.mode else { return None };
        Some(Box::new(Self { find, kept: Kept::default() }))
    }

    /// The catalog of such an endpoint, and the two tools that are listed in its place.
    pub(crate) fn catalog(&self, items: &[Bytes], servers: &[(usize, Box<str>)]) -> (Arc<Catalog>, Vec<Bytes>) {
        let catalog = self.kept.catalog(items, servers);
        let tools = vec![find_tool(&catalog, self.find).into(), CALL_TOOL.into()];
        (catalog, tools)
    }
}

fn find_tool(catalog: &Catalog, find: Find) -> String {
    let servers = catalog.servers();
    let mut named: Vec<String> =
        servers.iter().take(MAX_SERVERS).map(|(name, count)| format!("{name} ({count})")).collect();
    if servers.len() > MAX_SERVERS {
        named.push("…".to_owned());
    }
    let description = format!(
        "Finds tools by what they do, among {} tools: {}. Ask in a few words: what is to be done, to what, and with which \
         service. Use the words of an API where you know them, and synonyms where you do not. The answer has the best \
         tools with what they take; call one with `{CALL}`. Where a tool is marked as shortened and that is not enough, ask \
         for its exact definition with `names`.",
        catalog.tools.len(),
        named.join(", ")
    );
    format!(
        "{{\"name\":\"{FIND}\",\"title\":\"Find tools\",\"description\":{},\"inputSchema\":{{\"type\":\"object\",\"properties\":{{\
         \"query\":{{\"type\":\"string\",\"description\":\"What is to be done\"}},\
         \"limit\":{{\"type\":\"integer\",\"minimum\":1,\"maximum\":{},\"default\":{},\"description\":\"Tools at most\"}},\
         \"server\":{{\"type\":\"string\",\"description\":\"Only tools of this server\"}},\
         \"names\":{{\"type\":\"array\",\"items\":{{\"type\":\"string\"}},\"description\":\"Exact definitions of these tools instead of a search\"}}\
         }}}},\"annotations\":{{\"readOnlyHint\":true,\"openWorldHint\":false}}}}",
        message::quote(&description),
        found::MAX_TOOLS,
        find.tools,
    )
}

const CALL_TOOL: &str = "{\"name\":\"call_tool\",\"title\":\"Call a tool\",\"description\":\"Calls a tool that `find_tools` found, with the arguments its inputSchema asks for. The result is that of the tool.\",\
     \"inputSchema\":{\"type\":\"object\",\"properties\":{\
     \"name\":{\"type\":\"string\",\"description\":\"The tool's name as it was found\"},\
     \"arguments\":{\"type\":\"object\",\"description\":\"The tool's arguments\"}},\"required\":[\"name\"]}}";

/// A call of one of the two tools: answers that of `find_tools`, and makes that of `call_tool` the call of the inner tool. Every
/// other call is left as it is: a client may also call by its own name what it found.
pub(crate) async fn enter(call: &mut Call) -> Option<Result<Response<Body>, Refusal>> {
    let find = call.endpoint.finder.as_ref()?.find;
    if call.frame.method_class() != Method::ToolsCall {
        return None;
    }
    match call.frame.str(Field::Name)?.as_ref() {
        FIND => Some(Ok(find_tools(call, find).await)),
        CALL => match inner(&call.frame) {
            Ok(frame) => {
                call.frame = frame;
                // Headers that repeat arguments are made of those of the inner tool.
                call.param_headers = None;
                None
            }
            Err(Wrong::Arguments(what)) => Some(Ok(tool_error(call, what))),
            Err(Wrong::Frame(refusal)) => Some(Err(refusal)),
        },
        _ => None,
    }
}

enum Wrong {
    Arguments(&'static str),
    Frame(Refusal),
}

/// The call that `call_tool` asks for: the same message with another name and other arguments.
fn inner(frame: &Frame) -> Result<Frame, Wrong> {
    let arguments = frame.raw(Field::Arguments).filter(|raw| raw.starts_with('{'));
    let arguments = arguments.ok_or(Wrong::Arguments("`call_tool` takes `name` and `arguments`"))?;
    let name = list::raw_member(arguments, "name").filter(|raw| raw.starts_with('"'));
    let name = name.ok_or(Wrong::Arguments("`name` must be the name of a tool; `find_tools` finds them"))?;
    let mut edits = Edits::new();
    if let Some(span) = frame.span(Field::Name) {
        edits.replace(span, Bytes::copy_from_slice(name.as_bytes()));
    }
    match list::raw_member(arguments, "arguments") {
        Some(inner) if inner.starts_with('{') => {
            if let Some(span) = frame.span(Field::Arguments) {
                edits.replace(span, Bytes::copy_from_slice(inner.as_bytes()));
            }
        }
        None | Some("null") => edits.remove_member(frame, Field::Arguments),
        Some(_) => return Err(Wrong::Arguments("`arguments` must be an object: what the tool's inputSchema asks for")),
    }
    Frame::parse(edits.apply(frame.bytes()), &Limits::default())
        .map_err(|error| Wrong::Frame(Refusal::new(Code::BadParams, error.to_string())))
}

async fn find_tools(call: &Call, find: Find) -> Response<Body> {
    let _ = list_page::learn_what_is_new(call).await;
    let merged = call.endpoint.merged(call.era, call.capabilities, call.gateway.epoch());
    let Some(catalog) = &merged.found else { return tool_error(call, "there is nothing to find here") };
    let asked: Result<found::Asked, _> = serde_json::from_str(call.frame.raw(Field::Arguments).unwrap_or("{}"));
    let text = match asked {
        Err(_) => {
            return tool_error(call, "`query` and `server` are texts, `limit` is a number, `names` is a list of texts");
        }
        Ok(asked) if !asked.names.is_empty() => found::describe(catalog, find, &asked),
        Ok(asked) if asked.query.trim().is_empty() => return tool_error(call, "say in `query` what is to be done"),
        Ok(asked) => found::search(catalog, catalog.index().await.as_ref(), find, &asked),
    };
    answer::own(call, &result(call.era, &text, false))
}

fn tool_error(call: &Call, text: &str) -> Response<Body> {
    answer::own(call, &result(call.era, text, true))
}

/// The result of a tool of the gateway's own.
fn result(era: Era, text: &str, is_error: bool) -> String {
    let is_error = if is_error { ",\"isError\":true" } else { "" };
    own_result(era, &format!("{}{is_error}", text_content(text)), &[])
}

#[cfg(test)]
mod tests;
