//! `fairlead bench`: what can be written.

use super::Which;
use clap::{ArgGroup, Args};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("pace").args(["rate", "concurrency"]))]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Call this tool. Without it and without `--mix`: list the tools
    #[arg(long, value_name = "NAME", conflicts_with = "mix")]
    pub(crate) tool: Option<String>,
    /// Its arguments: a JSON object, `@FILE`, or `-` for stdin; none means `{}`
    #[arg(long, value_name = "JSON", requires = "tool")]
    pub(crate) arguments: Option<String>,
    /// Make the calls of this JSON file: a list of `{"tool", "arguments", "weight"}` and `{"method", "params", "weight"}`
    #[arg(long, value_name = "FILE")]
    pub(crate) mix: Option<PathBuf>,
    /// Calls that begin in a second, whatever became of those before. The default, with 20
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// Callers that make one call after the other, instead of a rate
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// Which phases: `baseline`, `ramp` (2, 5 and 10 times that), `spike` (10 times at once, and then that again), `sustained`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "baseline,ramp,spike,sustained", value_parser = phase)]
    pub(crate) phases: Vec<fairlead_load::Kind>,
    /// How long a phase takes; each step of the ramp as long, the sustained one three times
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    pub(crate) duration: Duration,
    /// Revision of the clients
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    pub(crate) era: Era,
    /// Sessions of legacy clients, which take turns
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) sessions: u32,
    /// A further header of every request, `NAME: VALUE`; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// How long a call may take; at a rate this counts from when it should have begun
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    pub(crate) timeout: Duration,
    /// Calls under way at most at a rate; further ones wait, and their time counts
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) max_in_flight: usize,
    /// Chooses the order of the calls of `--mix`
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Fail when more percent of the calls of a phase failed
    #[arg(long, value_name = "PERCENT")]
    pub(crate) max_error_rate: Option<f64>,
    /// Fail when the 99th percentile of a phase is longer
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    pub(crate) max_p99: Option<Duration>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report to this file too, as a page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Whose clients call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Era {
    /// Clients with sessions (2025-11-25)
    Legacy,
    /// Clients without (2026-07-28)
    Modern,
    /// Half of each
    Both,
}

fn phase(word: &str) -> Result<fairlead_load::Kind, String> {
    fairlead_load::Kind::parse(word).ok_or_else(|| "write baseline, ramp, spike or sustained".to_owned())
}
