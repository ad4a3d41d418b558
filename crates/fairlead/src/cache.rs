//! `fairlead cache`: both sides of it, the command and what answers it.

use crate::{
    cli::{self, CacheCommand},
    control::{self, Answer},
    failure::{Exit, Failure},
    listing, output, private,
    reach::Reach,
    runtime,
};
use fairlead_config::Glob;
use fairlead_gateway::Gateway;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

/// What is kept of answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CacheRow {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Answers that had to make room since the start.
    pub(crate) evictions: u64,
    /// What `cache.max_bytes` says.
    pub(crate) max_bytes: usize,
}

/// What was dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PurgeRow {
    pub(crate) dropped: usize,
}

/// Runs the command.
pub(crate) fn run(arguments: &cli::Cache) -> Result<Exit, Failure> {
    match &arguments.command {
        CacheCommand::Show(arguments) => show(arguments),
        CacheCommand::Purge(arguments) => drop_answers(arguments),
    }
}

fn show(arguments: &cli::Listing) -> Result<Exit, Failure> {
    let row = runtime::control(private::with_running(&arguments.which, async |reach: &Reach| {
        listing::local(reach, "cache")?;
        reach.control::<CacheRow>(&control::cache_path(), listing::ANSWER).await
    }))?;
    if arguments.json {
        return output::json(&row);
    }
    let CacheRow { entries, bytes, evictions, max_bytes } = row;
    output::print(&format!("{entries} answers, {bytes} of {max_bytes} bytes, {evictions} made room\n"))
}

fn drop_answers(arguments: &cli::Purge) -> Result<Exit, Failure> {
    let path = control::purge_path([
        ("server", arguments.server.as_deref()),
        ("tool", arguments.tool.as_deref()),
        ("tag", arguments.tag.as_deref()),
    ]);
    if let Some(Err(error)) = arguments.tool.as_deref().map(Glob::new) {
        return Err(Failure::usage(error.to_string()));
    }
    let row = runtime::control(private::with_running(&arguments.which, async |reach: &Reach| {
        listing::local(reach, "cache")?;
        reach.order::<PurgeRow>(&path, listing::ANSWER).await
    }))?;
    output::print(&format!("{} answers dropped\n", row.dropped))
}

/// What is kept, for whoever asks on the control socket.
pub(crate) fn row(gateway: &Gateway) -> CacheRow {
    let counts = gateway.cache_counts();
    let max_bytes = gateway.config().cache.max_bytes;
    CacheRow { entries: counts.entries, bytes: counts.bytes, evictions: counts.evictions, max_bytes }
}

/// Drops what a query says.
pub(crate) fn purge(gateway: &Gateway, query: Option<&str>) -> Response<Answer> {
    let said = |name| control::parameter(query, name);
    let (server, tool, tag) = (said("server"), said("tool"), said("tag"));
    let Ok(tool) = tool.as_deref().map(Glob::new).transpose() else {
        return control::text(StatusCode::BAD_REQUEST, "`tool` is not a pattern\n");
    };
    let dropped = gateway.purge_cache(server.as_deref(), tool.as_ref(), tag.as_deref());
    control::json(&PurgeRow { dropped })
}
