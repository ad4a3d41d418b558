//! What a run measures: no proxy at all, the minimal proxy, nginx, and the gateway.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::LocalSet;

use crate::load;
use crate::mcp::{Era, Target};
use crate::nginx;
use crate::process::{Child, Pid, with_children};
use crate::proxy::Model;

/// How long a target may take until it answers completely.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// The same under callgrind, where everything takes fifty times as long.
const COUNTED_READY_LIMIT: Duration = Duration::from_secs(180);
/// Last bytes of a log that are shown when a target fails.
const LOG_TAIL: usize = 2000;

/// Something that load can be put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The upstream server itself.
    Direct,
    /// The minimal proxy.
    Proxy(Model),
    /// nginx, with the path of its binary.
    Nginx(PathBuf),
    /// The gateway, with the path of its binary.
    Fairlead(PathBuf),
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy(_) => "minimal proxy",
            Self::Nginx(_) => "nginx",
            Self::Fairlead(_) => "fairlead",
        }
    }
}

/// A target that answers.
pub(crate) struct Running {
    /// Where to put the load.
    pub(crate) target: Target,
    child: Option<Child>,
    log: Option<PathBuf>,
}

impl Running {
    /// The processes whose cost is that of the target; none for the upstream server itself.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.child.as_ref().map(|child| with_children(child.pid())).unwrap_or_default()
    }

    /// Stops it, and the instructions it took where they were counted.
    ///
    /// # Errors
    /// When they were not.
    pub(crate) fn stop_counted(mut self) -> anyhow::Result<u64> {
        drop(self.child.take());
        let log = std::fs::read_to_string(self.log.as_ref().context("it has no log")?)?;
        let collected =
            log.lines().find_map(|line| line.split_once("Collected :")).context("callgrind said nothing")?;
        collected.1.trim().parse().context("reading what callgrind counted")
    }
}

/// Starts `kind` in front of `upstream`, which answers as one server, and waits until it works.
///
/// # Errors
/// When it does not start or does not answer in time; the end of its log is part of the error.
pub(crate) fn start(kind: &Kind, upstream: SocketAddr, era: Era, scratch: &Path) -> anyhow::Result<Running> {
    match kind {
        Kind::Direct => Ok(Running { target: Target::new(upstream, "/mcp"), child: None, log: None }),
        Kind::Proxy(model) => {
            let args = ["proxy".to_owned(), format!("--upstream={upstream}"), format!("--model={}", model.word())];
            let (child, addr) = Child::start_self(&args)?;
            ready(child, Target::new(addr, "/mcp"), era, None, None)
        }
        Kind::Nginx(binary) => {
            let dir = subdirectory(scratch, "nginx")?;
            let addr = free_address()?;
            let config = dir.join("nginx.conf");
            std::fs::write(&config, nginx::configuration(addr, upstream, &dir))?;
            let args = ["-p", &dir.display().to_string(), "-c", &config.display().to_string()].map(str::to_owned);
            let log = dir.join("output.log");
            let child = Child::start("nginx", binary, &args, &log)?;
            ready(child, Target::new(addr, "/mcp"), era, None, Some(&log))
        }
        Kind::Fairlead(binary) => {
            let servers = [("bench".to_owned(), format!("http://{upstream}/mcp"))];
            start_fairlead(binary, &servers, "/servers/bench/mcp", era, None, scratch)
        }
    }
}

/// Starts the gateway in front of `count` servers, all of them `upstream`, and waits until `/mcp` lists `tools` tools.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_fairlead_with_servers(
    binary: &Path,
    upstream: SocketAddr,
    count: usize,
    tools: usize,
    era: Era,
    scratch: &Path,
) -> anyhow::Result<Running> {
    let servers: Vec<_> =
        (1..=count).map(|number| (format!("bench{number}"), format!("http://{upstream}/server{number}/mcp"))).collect();
    start_fairlead(binary, &servers, "/mcp", era, Some(tools), scratch)
}

fn start_fairlead(
    binary: &Path,
    servers: &[(String, String)],
    path: &str,
    era: Era,
    tools: Option<usize>,
    scratch: &Path,
) -> anyhow::Result<Running> {
    // A bench is what the guard against loops is there to stop; it is on, and never in the way.
    let mut text = "limits: { identical: 1000000/s }\nservers:\n".to_owned();
    for (name, url) in servers {
        text.push_str(&format!("  {name}: {{ url: \"{url}\" }}\n"));
    }
    start_configured(binary, None, &text, path, era, tools, scratch)
}

/// Starts the gateway with this configuration, but for where it listens, and waits until `path` lists `tools` tools.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_fairlead_as(
    binary: &Path,
    text: &str,
    path: &str,
    tools: usize,
    scratch: &Path,
) -> anyhow::Result<Running> {
    start_configured(binary, None, text, path, Era::Modern, Some(tools), scratch)
}

/// Starts the gateway with `text` besides where it listens and keeps its files, and waits until `path` lists tools.
/// With `valgrind` its instructions are counted.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_configured(
    binary: &Path,
    valgrind: Option<&Path>,
    text: &str,
    path: &str,
    era: Era,
    tools: Option<usize>,
    scratch: &Path,
) -> anyhow::Result<Running> {
    let dir = subdirectory(scratch, "fairlead")?;
    let addr = free_address()?;
    let config = dir.join("fairlead.yaml");
    std::fs::write(&config, format!("listen: {{ address: {addr} }}\nadmin: off\ndata_dir: data\n{text}"))?;
    let mut args = vec!["up".to_owned(), "-c".to_owned(), config.display().to_string()];
    if valgrind.is_some() {
        let counting = ["--tool=callgrind", "--callgrind-out-file=/dev/null"].map(str::to_owned);
        args.splice(0..0, counting.into_iter().chain([binary.display().to_string()]));
    }
    let log = dir.join("output.log");
    let child = Child::start("fairlead", valgrind.unwrap_or(binary), &args, &log)?;
    let limit = if valgrind.is_some() { COUNTED_READY_LIMIT } else { READY_LIMIT };
    let mut running = ready_within(limit, child, Target::new(addr, path), era, tools, Some(&log))?;
    running.log = Some(log);
    Ok(running)
}

fn ready(child: Child, target: Target, era: Era, tools: Option<usize>, log: Option<&Path>) -> anyhow::Result<Running> {
    ready_within(READY_LIMIT, child, target, era, tools, log)
}

fn ready_within(
    limit: Duration,
    mut child: Child,
    target: Target,
    era: Era,
    tools: Option<usize>,
    log: Option<&Path>,
) -> anyhow::Result<Running> {
    let deadline = Instant::now() + limit;
    loop {
        let probed = child.ensure_running().and_then(|()| probe(&target, era, tools));
        let Err(error) = probed else {
            return Ok(Running { target, child: Some(child), log: None });
        };
        if Instant::now() > deadline || child.ensure_running().is_err() {
            let tail = log.map(tail).unwrap_or_default();
            anyhow::bail!("the target at {} does not work: {error:#}\n{tail}", target.addr);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One client that connects, lists the tools and leaves.
fn probe(target: &Target, era: Era, tools: Option<usize>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        let count = load::open(target, era).await?.list().await?;
        match tools {
            Some(expected) => anyhow::ensure!(count == expected, "{count} tools are listed instead of {expected}"),
            None => anyhow::ensure!(count > 0, "no tool is listed"),
        }
        Ok(())
    };
    runtime.block_on(
        LocalSet::new()
            .run_until(async { tokio::time::timeout(READY_LIMIT, work).await.context("no answer in time")? }),
    )
}

fn subdirectory(scratch: &Path, name: &str) -> anyhow::Result<PathBuf> {
    const MOST: usize = 1000;
    for number in 0..MOST {
        let dir = scratch.join(format!("{name}-{number}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("creating {}", dir.display())),
        }
    }
    anyhow::bail!("more than {MOST} targets were started")
}

/// A loopback address that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned()
}
