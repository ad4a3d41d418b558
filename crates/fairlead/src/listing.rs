//! `fairlead servers`, `tools`, `resources` and `prompts`.

use crate::{
    cli,
    control::{self, ItemRow, Kind, ServerRow},
    failure::{Exit, Failure},
    mcp, output, private,
    reach::Reach,
    runtime,
};
use std::time::Duration;

/// How long the gateway may take to say what it knows.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// Lists the servers.
pub(crate) fn servers(arguments: &cli::Listing) -> Result<Exit, Failure> {
    let rows = runtime::control(private::with_gateway(&arguments.which, None, async |reach: &Reach| {
        local(reach, "servers")?;
        reach.control::<Vec<ServerRow>>(&control::servers_path(), ANSWER).await
    }))?;
    if arguments.json {
        return output::json(&rows);
    }
    let exit = output::print(&output::table::servers(&rows))?;
    let (bytes, tokens): (Vec<_>, Vec<_>) = rows.iter().filter_map(|row| Some((row.bytes?, row.tokens?))).unzip();
    total(rows.len(), "server", bytes.iter().sum(), tokens.iter().sum());
    Ok(exit)
}

/// Lists tools, resources (and templates), or prompts.
pub(crate) fn items(arguments: &cli::Listing, kind: Kind) -> Result<Exit, Failure> {
    let (rows, missing) = runtime::control(private::with_gateway(&arguments.which, None, async |reach: &Reach| {
        if reach.is_local() {
            let rows = reach.control::<Vec<ItemRow>>(&control::items_path(kind, None), ANSWER).await?;
            let servers = reach.control::<Vec<ServerRow>>(&control::servers_path(), ANSWER).await?;
            return Ok((rows, missing(&servers)));
        }
        let client = mcp::Client::new(reach.clone());
        let mut rows = Vec::new();
        for &listing in kind.listings() {
            let raw = client.list(listing.method().as_str(), listing.member()).await?;
            rows.extend(raw.iter().filter_map(|raw| control::listed_row(listing, raw)));
        }
        Ok((rows, Vec::new()))
    }))?;
    // An empty list is never silent.
    for note in missing {
        eprintln!("note: {note}");
    }
    if arguments.json {
        return output::json(&rows);
    }
    let noun = kind.word().trim_end_matches('s').to_ascii_uppercase();
    let exit = output::print(&output::table::items(&rows, &noun))?;
    let shown = rows.iter().filter(|row| row.hidden.is_none());
    let (bytes, tokens): (Vec<_>, Vec<_>) = shown.map(|row| (row.bytes, row.tokens)).unzip();
    total(bytes.len(), kind.word().trim_end_matches('s'), bytes.iter().sum(), tokens.iter().sum());
    Ok(exit)
}

/// What is missing from a list, or may be out of date, and why.
fn missing(servers: &[ServerRow]) -> Vec<String> {
    let note = |row: &ServerRow| {
        let what = match (row.tools.is_some(), row.stale) {
            (false, _) => "is missing",
            (true, true) => "is shown as it was",
            (true, false) => "is incomplete",
        };
        let why =
            row.error.clone().or_else(|| (row.tools.is_none() || row.stale).then(|| format!("it is {}", row.state)))?;
        Some(format!("server `{}` {what}: {}", row.name, output::one_line(&why, 200)))
    };
    servers.iter().filter_map(note).collect()
}

/// The sum under a table is for people: it goes to stderr.
fn total(count: usize, noun: &str, bytes: usize, tokens: usize) {
    eprintln!("{}, {bytes} bytes, about {tokens} tokens (estimated)", output::count(count, noun));
}

/// Some questions only the control socket answers.
///
/// # Errors
/// When the gateway was named by a URL.
pub(crate) fn local(reach: &Reach, command: &str) -> Result<(), Failure> {
    if reach.is_local() {
        return Ok(());
    }
    Err(Failure::usage(format!("`fairlead {command}` asks a gateway on this machine and has no use for a URL")).hint(
        "leave `--url` out (is FAIRLEAD_URL set?); from elsewhere, see `/health/ready?verbose` on the admin listener",
    ))
}
