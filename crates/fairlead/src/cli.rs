//! The command line: what can be written, not what it does.
//!
//! stdout carries data, stderr everything else. The one environment variable that is read here is
//! `FAIRLEAD_URL`.

mod bench;
mod faults;

pub(crate) use bench::{Bench, Era};
pub(crate) use faults::{ClearFaults, Faults, FaultsAction, SetFault};

use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

const EXIT_CODES: &str = "Exit codes: 0 ok; 1 wrong usage or any other failure; 3 not authorised; \
    4 the gateway or the server is unreachable; 5 the tool reported an error.";

/// One dependable MCP endpoint in front of any number of MCP servers.
#[derive(Debug, Parser)]
#[command(name = "fairlead", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway. Without a file: `fairlead.yaml` if there is one, else the bundled demo servers
    Up(Up),
    /// Validate a configuration; each problem is shown with its place, the reason and a hint
    Check(Check),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Serve one client on stdin and stdout through the running gateway, which is started if need be
    Stdio(Stdio),
    /// List the servers with their state, or change something about one
    Servers(Servers),
    /// List the tools as clients see them
    Tools(Listing),
    /// List the resources and resource templates as clients see them
    Resources(Listing),
    /// List the prompts as clients see them
    Prompts(Listing),
    /// Call a tool; its result goes to stdout, progress to stderr
    Call(Call),
    /// Say why a tool, prompt or resource is or is not available
    Explain(Explain),
    /// Show what is kept of answers, or drop it
    Cache(Cache),
    /// Load an MCP endpoint in phases and report latencies and errors
    Bench(Box<Bench>),
    /// List the faults that are injected on purpose, set one, or clear them
    Faults(Faults),
    /// Read the servers of a client's configuration and print them as a configuration of the gateway
    Import(Import),
    /// Write the gateway into the configuration of a client, or take it out again
    Install(Install),
    /// Run one of the bundled servers
    DemoServer(DemoServer),
}

/// The files a configuration is made of.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Files {
    /// Configuration file (YAML, JSON or TOML); several are layers, later ones win
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,
}

/// Which gateway a command is about.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    pub(crate) files: Files,
    /// MCP endpoint of a gateway elsewhere, instead of the local one of the configuration
    #[arg(long, value_name = "URL", env = "FAIRLEAD_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Started by `fairlead stdio`: leave the terminal, end when nobody is served any more
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct Stdio {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Run a gateway of its own, which nobody else shares and which ends with this client
    #[arg(long, conflicts_with = "url")]
    pub(crate) private: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, mut_arg("url", without_url))]
pub(crate) struct Servers {
    #[command(flatten)]
    pub(crate) listing: Listing,
    #[command(subcommand)]
    pub(crate) action: Option<ServersAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServersAction {
    /// Hold the breaker of a server open or closed, or let it work again
    Breaker(Breaker),
    /// Take a server, or one instance of it, out of service: no new calls, those in flight finish
    Drain(Instances),
    /// Bring it back
    Undrain(Instances),
}

#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct Breaker {
    /// The server, or one of its instances
    #[arg(value_name = "NAME[/INSTANCE]")]
    pub(crate) name: String,
    /// What it is to do
    pub(crate) to: BreakerTo,
    /// The breaker of this tool, by the server's own name of it
    #[arg(long, value_name = "TOOL")]
    pub(crate) tool: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// What a breaker is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BreakerTo {
    /// Hold all calls back
    Open,
    /// Let all calls through
    Close,
    /// Work by its rules, beginning closed
    Auto,
}

impl BreakerTo {
    /// How it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Auto => "auto",
        }
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct Instances {
    /// A server, or one of its instances, as `fairlead servers` shows them
    #[arg(value_name = "NAME[/INSTANCE]")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The tool's name as `fairlead tools` shows it
    pub(crate) name: String,
    /// Its arguments: a JSON object, `@FILE`, or `-` for stdin; none means `{}`
    #[arg(value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print the whole result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up after this long, for example `30s` or `5m`
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct Explain {
    /// A tool, prompt or resource, as clients see it
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Say how many answers are kept and what they take
    #[command(mut_arg("url", without_url))]
    Show(Listing),
    /// Drop answers: all of them, or those of a server, of tools of it, or with a tag
    Purge(Purge),
}

#[derive(Debug, Args)]
#[command(mut_arg("url", without_url))]
pub(crate) struct Purge {
    /// Only answers of this server
    #[arg(long, value_name = "NAME", conflicts_with = "tag")]
    pub(crate) server: Option<String>,
    /// Only answers of its tools that match, by the server's own names
    #[arg(long, value_name = "PATTERN", requires = "server")]
    pub(crate) tool: Option<String>,
    /// Only answers that a rule gave this tag
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = known_clients())]
pub(crate) struct Import {
    /// A client (see below) or a configuration file of one
    #[arg(value_name = "CLIENT|FILE")]
    pub(crate) from: String,
    /// Print the configuration to stdout, which is the default
    #[arg(long, conflicts_with = "write")]
    pub(crate) print: bool,
    /// Write the configuration to a file that does not exist yet
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = installable_clients())]
pub(crate) struct Install {
    /// A client (see below)
    pub(crate) client: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// A toolset, instead of everything
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub(crate) toolset: Option<String>,
    /// The gateway's name among the client's servers
    #[arg(long, default_value = "fairlead", value_name = "NAME")]
    pub(crate) name: String,
    /// Change the file of the project in this directory instead of the user's own
    #[arg(long)]
    pub(crate) project: bool,
    /// Change this file
    #[arg(long, value_name = "FILE", conflicts_with = "project")]
    pub(crate) file: Option<PathBuf>,
    /// Only show what would be written, and where
    #[arg(long, conflicts_with = "undo")]
    pub(crate) print: bool,
    /// Take the gateway out again
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoServer {
    /// `feature` (every feature of the protocol) or `crm` (a small business server)
    pub(crate) name: String,
    /// Serve Streamable HTTP at this address instead of stdin and stdout, for example 127.0.0.1:9000
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
}

/// For commands that need the control socket of a gateway here: `--url` is understood, and refused with the reason.
fn without_url(url: clap::Arg) -> clap::Arg {
    url.hide(true)
}

/// The clients whose configuration can be read.
fn known_clients() -> String {
    let mut text = String::from("Clients:\n");
    for client in fairlead_config::import::CLIENTS {
        text.push_str(&format!("  {:<16}{}\n", client.id, client.title));
    }
    text
}

/// The clients the gateway can be written into.
fn installable_clients() -> String {
    let mut text = String::from("Clients:\n");
    for client in fairlead_config::install::clients() {
        text.push_str(&format!("  {:<16}{}\n", client.id, client.title));
    }
    text
}

/// Durations as the configuration writes them.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number.parse::<u64>().ok(), factor) {
        (Some(0), Some(_)) => Err("must be more than zero".to_owned()),
        (Some(number), Some(factor)) => {
            number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| "is too long".to_owned())
        }
        _ => Err("write a whole number and one of the units ms, s, m, h, d, for example `30s`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_url_is_offered_where_one_is_taken() {
        let help = |words: &str| {
            let mut command = Cli::command();
            command.build();
            for word in words.split(' ') {
                command = command.find_subcommand(word).expect("a command").clone();
            }
            command.render_long_help().to_string()
        };
        for (words, taken) in [
            ("stdio", true),
            ("tools", true),
            ("resources", true),
            ("prompts", true),
            ("call", true),
            ("install", true),
            ("servers", false),
            ("servers breaker", false),
            ("servers drain", false),
            ("servers undrain", false),
            ("explain", false),
            ("cache show", false),
            ("cache purge", false),
            ("faults", false),
            ("faults set", false),
            ("faults clear", false),
        ] {
            assert_eq!(help(words).contains("--url"), taken, "{words}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "5", "s", "5 s", "-1s", "0s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
