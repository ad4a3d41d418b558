//! `fairlead faults`: what can be written.

use super::{Listing, without_url};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, mut_arg("url", without_url))]
pub(crate) struct Faults {
    #[command(flatten)]
    pub(crate) listing: Listing,
    #[command(subcommand)]
    pub(crate) action: Option<FaultsAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FaultsAction {
    /// Inject a fault from now on, for a while
    Set(Box<SetFault>),
    /// End a fault, or all of them
    Clear(ClearFaults),
}

/// The keys of a fault as `faults.inject` has them.
#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct SetFault {
    /// What it is called in answers, logs and metrics
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only calls to servers whose name matches
    #[arg(long, value_name = "PATTERN")]
    pub(crate) server: Option<String>,
    /// Only calls to instances whose name matches
    #[arg(long, value_name = "PATTERN")]
    pub(crate) instance: Option<String>,
    /// Only calls of tools whose name matches, the server's own
    #[arg(long, value_name = "PATTERN")]
    pub(crate) tool: Option<String>,
    /// Only calls of callers that match
    #[arg(long, value_name = "PATTERN")]
    pub(crate) caller: Option<String>,
    /// Only calls that came in on paths that match
    #[arg(long, value_name = "PATTERN")]
    pub(crate) path: Option<String>,
    /// Of a hundred calls that match, how many are hit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) percent: Option<u32>,
    /// How long it lasts; `faults.max_for` is the most, and what counts without it
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) lasts: Option<String>,
    /// Where the numbers come from that decide which calls are hit
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Answers come later: `200ms`, `100ms..2s`, or `50ms p99 1s`
    #[arg(long, value_name = "TIME")]
    pub(crate) latency: Option<String>,
    /// The server reads so many bytes of a request in a second, for example `10KiB`
    #[arg(long, value_name = "SIZE")]
    pub(crate) slow_request: Option<String>,
    /// So many bytes of an answer come in a second
    #[arg(long, value_name = "SIZE")]
    pub(crate) slow_answer: Option<String>,
    /// An error instead of the call: `tool`, `rpc`, `rpc -32000`, or `http 503`
    #[arg(long, value_name = "ERROR", conflicts_with_all = ["disconnect", "garbage"])]
    pub(crate) error: Option<String>,
    /// The connection is never there, or breaks
    #[arg(long, value_name = "WHEN", value_parser = ["connect", "before", "middle"], conflicts_with = "garbage")]
    pub(crate) disconnect: Option<String>,
    /// The answer is not JSON-RPC
    #[arg(long)]
    pub(crate) garbage: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct ClearFaults {
    /// Only this one
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}
