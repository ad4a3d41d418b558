//! Servers that fail, one after the other and then all at once, under load: what the callers notice of it.
//!
//! Five servers of three instances each stand behind one gateway, which has the configuration that `docs/resilience.md` recommends. One instance
//! of each is killed, hung, slow, in error half of the time, or up and down all the time. The other two of each have to be enough: for calls that
//! may be repeated nothing may be noticed but a moment, what may not be repeated is done once at most.

mod dice;
mod load;
mod report;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::LocalSet;
use tokio::time::sleep;

use self::load::Load;
use self::report::{Phase, Report};
use self::server::{Effects, Fault, Instance};
use crate::targets;

/// Instances of each server.
const INSTANCES: usize = 3;
/// Seconds before anything is counted: connections are opened, tools are learned.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long what hung may take to be done after all.
const LATE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Binary of the gateway
    #[arg(long)]
    fairlead: PathBuf,
    /// Calls each second, all servers together
    #[arg(long, default_value_t = 250)]
    rate: u32,
    /// Seconds without any fault, to compare with
    #[arg(long, default_value_t = 15)]
    calm: u64,
    /// Seconds of each fault
    #[arg(long, default_value_t = 15)]
    fault: u64,
    /// Seconds between faults
    #[arg(long, default_value_t = 8)]
    between: u64,
    /// Seconds of all faults at once
    #[arg(long, default_value_t = 45)]
    all: u64,
    /// How calls are spread over the instances
    #[arg(long, default_value = "peak_ewma")]
    balance: String,
    /// What chance begins with; the same seed makes the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
    /// Prints the configuration of the gateway and what it said
    #[arg(long)]
    verbose: bool,
}

/// Runs the faults, prints what was measured, and fails when a bound does not hold.
///
/// # Errors
/// When a process does not start, or a bound does not hold.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!((1..=10_000).contains(&args.rate), "the rate must be between 1 and 10,000 calls a second");
    anyhow::ensure!(args.calm > 0 && args.fault > report::RECOVERY.as_secs(), "phases must last, faults more than 5 s");
    let scratch = tempfile::tempdir().context("creating a directory for configuration and log")?;
    // The servers have a thread of their own, so that the load does not wait for them.
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let house = servers.block_on(House::start(args.seed))?;
    let text = house.configuration(&args.balance);
    if args.verbose {
        eprintln!("{text}");
    }
    let gateway = targets::start_fairlead_as(&args.fairlead, &text, "/mcp", Fault::ALL.len() * 2, scratch.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(LocalSet::new().run_until(chaos(args, &house, &gateway.target)))?;
    drop(gateway);
    if args.verbose {
        eprintln!("{}", said(scratch.path()));
        report.print_slow();
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    report.verdict()
}

/// What the gateway said.
fn said(scratch: &Path) -> String {
    std::fs::read_to_string(scratch.join("fairlead-0/output.log")).unwrap_or_default()
}

/// The servers.
struct House {
    servers: Vec<(Fault, Vec<Instance>)>,
    effects: Arc<Effects>,
}

impl House {
    async fn start(seed: u64) -> anyhow::Result<Self> {
        let effects = Arc::new(Effects::default());
        let mut servers = Vec::new();
        for (at, fault) in Fault::ALL.into_iter().enumerate() {
            let mut instances = Vec::new();
            for instance in 0..INSTANCES {
                let seed = seed.wrapping_add((at * INSTANCES + instance) as u64);
                instances.push(Instance::start(Arc::clone(&effects), seed).await?);
            }
            servers.push((fault, instances));
        }
        Ok(Self { servers, effects })
    }

    /// The recommended configuration.
    fn configuration(&self, balance: &str) -> String {
        let mut text = String::from("servers:\n");
        for (fault, instances) in &self.servers {
            let url = |instance: &Instance| format!("{{ url: \"http://{}/mcp\" }}", instance.address);
            let urls: Vec<_> = instances.iter().map(url).collect();
            let (name, urls) = (fault.word(), urls.join(", "));
            text.push_str(&format!("  {name}:\n    instances: [{urls}]\n    balance: {balance}\n{RECOMMENDED}"));
        }
        text
    }

    /// Calls that went to the instance of each server that fails.
    fn calls(&self) -> Vec<u64> {
        self.servers.iter().map(|(_, instances)| instances[0].calls()).collect()
    }

    /// Lets these faults be there, and no other.
    fn set(&self, faults: &[Fault]) {
        for (fault, instances) in &self.servers {
            instances[0].set(faults.contains(fault).then_some(*fault));
        }
    }
}

/// What is recommended for servers with several instances, as the documentation has it.
const RECOMMENDED: &str = include_str!("chaos/recommended.yaml");

async fn chaos(args: &Args, house: &House, target: &crate::mcp::Target) -> anyhow::Result<Report> {
    let load = Load::open(target).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let seed = args.seed.wrapping_mul(0x5851_f42d_4c95_7f2d);
    let until = async move {
        let _ = stopped.await;
    };
    let running = tokio::task::spawn_local(std::rc::Rc::clone(&load).run(args.rate, seed, until));
    sleep(WARM_UP).await;
    let mut phases = vec![phase(&load, house, "calm", &[], args.calm).await];
    for fault in Fault::ALL {
        phases.push(phase(&load, house, fault.word(), &[fault], args.fault).await);
        phases.push(phase(&load, house, "over", &[], args.between).await);
    }
    phases.push(phase(&load, house, "all at once", &Fault::ALL, args.all).await);
    phases.push(phase(&load, house, "over", &[], args.between).await);
    let _ = stop.send(());
    running.await.context("the load panicked")??;
    sleep(LATE).await;
    let (effects, duplicates) = house.effects.count();
    Ok(Report::of(args.seed, args.rate, &phases, &load.records(), effects, duplicates))
}

async fn phase(load: &Load, house: &House, name: &str, faults: &[Fault], seconds: u64) -> Phase {
    let before = house.calls();
    let from = load.now();
    house.set(faults);
    sleep(Duration::from_secs(seconds)).await;
    let calls = house.calls().iter().zip(&before).map(|(now, before)| now - before).collect();
    let phase = Phase { name: name.to_owned(), faults: faults.to_vec(), from, to: load.now(), calls };
    eprintln!("{}", report::line(&phase, &load.records()));
    phase
}
