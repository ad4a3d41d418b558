//! The bench: what a call through the gateway costs, beside what HTTP alone costs.
//!
//! One binary plays every part: the MCP server behind ([`upstream`]), the smallest possible proxy to compare with
//! ([`proxy`]), the clients in front ([`load`]), and the run that pairs them and writes the record ([`run`]). It shares no
//! code with the gateway, so a mistake in our reading of HTTP or MCP cannot cancel itself out here.
//!
//! The figure that matters is **CPU time per call of the process under test**, taken from its CPU clock: on two cores that
//! also carry the load and the upstream server, throughput says more about the machine than about the proxy.
//!
//! Everything runs on loopback, for a bounded time, and only processes started here are stopped.

mod chaos;
mod client;
mod cost;
mod crowd;
mod figures;
mod histogram;
mod load;
mod mcp;
mod memory;
mod nginx;
mod process;
mod proxy;
mod quiet;
mod report;
mod run;
mod runtime_model;
mod targets;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::mcp::Era;

/// Same allocator as the gateway, so that the reference proxy differs in work and not in `malloc`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "fairlead-bench", about = "Measure what a call through the gateway costs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a minimal MCP server: initialize, discover, tools/list and an echo tool
    Upstream {
        /// Where to listen; port 0 takes a free one and prints it
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// Number of tools in tools/list
        #[arg(long, default_value_t = 1)]
        tools: usize,
        /// Which era to serve; without it, both
        #[arg(long)]
        era: Option<Era>,
        /// Stop when standard input closes (how a run makes sure that nothing outlives it)
        #[arg(long)]
        until_stdin_closes: bool,
    },
    /// Serve the minimal hyper proxy
    Proxy {
        /// Where to listen; port 0 takes a free one and prints it
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// The server behind it
        #[arg(long)]
        upstream: SocketAddr,
        /// How the proxy uses the cores
        #[arg(long, default_value = "per-core")]
        model: proxy::Model,
        /// Threads; without it, one for each core
        #[arg(long)]
        threads: Option<usize>,
        /// Stop when standard input closes
        #[arg(long)]
        until_stdin_closes: bool,
    },
    /// Put closed-loop load on a URL and print what it measured as JSON
    Load(LoadArgs),
    /// Measure everything and write the record
    Run(run::Args),
    /// Measure what each feature costs a call that it is configured for
    Cost(cost::Args),
    /// Hold thousands of legacy sessions, each with an open stream, under load
    Sessions(crowd::Args),
    /// Let servers fail under load, one after the other and all at once
    Chaos(chaos::Args),
    /// Compare the two runtime models of the minimal proxy
    RuntimeModel {
        /// Paired runs
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 4.0)]
        duration: f64,
        /// Numbers of sessions
        #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
        sessions: Vec<usize>,
        /// Seconds to wait for undisturbed pairs at each number of sessions
        #[arg(long, default_value_t = 240.0)]
        patience: f64,
        /// A smoke run
        #[arg(long)]
        quick: bool,
    },
    /// Unpack nginx from the distribution's package into a directory, without root, and print the path of its binary
    FetchNginx {
        /// Where to unpack
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct LoadArgs {
    /// http://127.0.0.1:PORT/PATH
    #[arg(long)]
    url: mcp::Target,
    /// Sessions, each with one keep-alive connection and one request in flight
    #[arg(long, default_value_t = 16)]
    sessions: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds of load before the measurement
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Bytes of text in a call's arguments
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// Bytes of text in its answer; without it, the text comes back
    #[arg(long)]
    answer: Option<usize>,
    /// Era the clients speak
    #[arg(long, default_value = "legacy")]
    era: Era,
    /// What one operation is
    #[arg(long, default_value = "call")]
    kind: load::Kind,
    /// Name of the echo tool
    #[arg(long, default_value = "echo")]
    tool: String,
    /// No two calls send the same text
    #[arg(long)]
    varies: bool,
    /// Tools a complete list must have
    #[arg(long)]
    expect_tools: Option<usize>,
    /// Process whose CPU time per call is measured; may be repeated
    #[arg(long = "cpu-of")]
    cpu_of: Vec<i32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    process::raise_file_limit();
    match command {
        Command::Upstream { addr, tools, era, until_stdin_closes } => {
            if until_stdin_closes {
                process::exit_when_stdin_closes();
            }
            upstream::serve_forever(&upstream::Options { addr, tools, era })
        }
        Command::Proxy { addr, upstream, model, threads, until_stdin_closes } => {
            if until_stdin_closes {
                process::exit_when_stdin_closes();
            }
            proxy::serve_forever(&proxy::Options {
                addr,
                upstream,
                model,
                threads: threads.unwrap_or_else(proxy::cores),
            })
        }
        Command::Load(args) => {
            let options = load::Options {
                target: args.url,
                sessions: args.sessions,
                warmup: seconds(args.warmup)?,
                duration: seconds(args.duration)?,
                payload: args.payload,
                answer: args.answer,
                era: args.era,
                kind: args.kind,
                tool: args.tool,
                manner: client::Manner { varies: args.varies, ..client::Manner::default() },
                expect_tools: args.expect_tools,
                cpu_of: args.cpu_of.into_iter().map(|pid| vec![process::Pid::from_raw(pid)]).collect(),
            };
            let report = load::run(&options)?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            anyhow::ensure!(report.errors == 0, "{} calls failed, the first: {}", report.errors, report.first_error());
            Ok(())
        }
        Command::Run(args) => run::run(&args),
        Command::Cost(args) => cost::run(&args),
        Command::Sessions(args) => crowd::run(&args, seconds(args.hold())?),
        Command::Chaos(args) => chaos::run(&args),
        Command::RuntimeModel { pairs, duration, sessions, patience, quick } => {
            let smoke = runtime_model::Options {
                pairs: 1,
                duration: Duration::from_secs(1),
                patience: Duration::ZERO,
                sessions: sessions.clone(),
            };
            let full = || -> anyhow::Result<_> {
                let (duration, patience) = (seconds(duration)?, long_seconds(patience)?);
                Ok(runtime_model::Options { pairs, duration, patience, sessions })
            };
            runtime_model::run(&if quick { smoke } else { full()? })
        }
        Command::FetchNginx { dir } => {
            println!("{}", nginx::fetch(&dir)?.display());
            Ok(())
        }
    }
}

/// A waiting time given on the command line, at most an hour.
fn long_seconds(value: f64) -> anyhow::Result<Duration> {
    const LONGEST: f64 = 3600.0;
    anyhow::ensure!((0.0..=LONGEST).contains(&value), "a patience must be between 0 and {LONGEST} seconds");
    Ok(Duration::from_secs_f64(value))
}

/// A measuring time given on the command line, at most ten minutes.
fn seconds(value: f64) -> anyhow::Result<Duration> {
    const LONGEST: f64 = 600.0;
    anyhow::ensure!((0.0..=LONGEST).contains(&value), "a duration must be between 0 and {LONGEST} seconds");
    Ok(Duration::from_secs_f64(value))
}
