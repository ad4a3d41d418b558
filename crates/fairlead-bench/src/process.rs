//! Processes: starting and stopping our own, and reading what any process costs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
pub(crate) use nix::unistd::Pid;

/// How long a child may take to say where it listens.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(10);
/// How long a child may take to stop after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// What a child prints before its address.
const ANNOUNCEMENT: &str = "listening on ";

/// Raises the soft limit of open files to the hard one; the memory measurement holds thousands of connections.
pub(crate) fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // A refusal shows later as "too many open files", which says all there is to say.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Ends this process when its standard input closes, that is when whoever started it is gone.
pub(crate) fn exit_when_stdin_closes() {
    std::thread::spawn(|| {
        let mut sink = [0u8; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut sink), Ok(count) if count > 0) {}
        std::process::exit(0);
    });
}

/// Prints where a server listens, in the form [`Child::address`] reads.
pub(crate) fn announce(addr: SocketAddr) {
    println!("{ANNOUNCEMENT}{addr}");
}

/// CPU time, user and system, of all threads of the processes since they began.
///
/// # Errors
/// When one of them no longer runs.
pub(crate) fn cpu_time(pids: &[Pid]) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        let time = ClockId::pid_cpu_clock_id(*pid)
            .and_then(ClockId::now)
            .with_context(|| format!("reading the CPU clock of process {pid}"))?;
        total += Duration::from(time);
    }
    Ok(total)
}

/// CPU time that the whole machine has spent on anything, from `/proc/stat`, in steps of 10 ms.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn machine_cpu_time() -> anyhow::Result<Duration> {
    /// The kernel's USER_HZ, fixed at 100 on every architecture this runs on.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/stat").context("reading the CPU time of the machine")?;
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal ...: all but idle and waiting.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else {
        anyhow::bail!("/proc/stat has an unknown form");
    };
    Ok(Duration::from_millis((user + nice + system + irq + softirq + steal) * 1000 / TICKS_PER_SECOND))
}

/// Resident memory of the processes in bytes (`VmRSS`).
///
/// # Errors
/// When one of them no longer runs.
pub(crate) fn resident_bytes(pids: &[Pid]) -> anyhow::Result<u64> {
    let mut total = 0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("reading the status of process {pid}"))?;
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix("kB"))
            .and_then(|value| value.trim().parse().ok())
            .with_context(|| format!("process {pid} reports no resident memory"))?;
        total += kib * 1024;
    }
    Ok(total)
}

/// The process and the children of its threads, one level deep (nginx: master and workers).
pub(crate) fn with_children(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw));
    }
    found
}

/// A process that this bench started; dropping it stops it.
pub(crate) struct Child {
    inner: std::process::Child,
    name: String,
}

impl Child {
    /// Starts `program` with its output in `log`.
    ///
    /// Where `setpriv` exists the kernel ends the process when the bench dies, also by SIGKILL.
    pub(crate) fn start(name: &str, program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let log_file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = match find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let inner = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { inner, name: name.to_owned() })
    }

    /// Starts this binary with other arguments and waits until it says where it listens.
    pub(crate) fn start_self(args: &[String]) -> anyhow::Result<(Self, SocketAddr)> {
        let program = std::env::current_exe().context("finding this binary")?;
        let inner = Command::new(program)
            .args(args)
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting this binary again")?;
        let mut child = Self { inner, name: args.join(" ") };
        let addr = child.address()?;
        Ok((child, addr))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.inner.id()).expect("invariant: a process id is a positive pid_t"))
    }

    /// Fails when the process has ended.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.inner.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} stopped: {status}", self.name),
        }
    }

    fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let stdout = self.inner.stdout.take().context("the output of the child is not a pipe")?;
        let (sender, receiver) = mpsc::channel();
        // Ends with the line, or with the child.
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line =
            receiver.recv_timeout(ANNOUNCE_LIMIT).with_context(|| format!("{} did not start in time", self.name))?;
        line.trim()
            .strip_prefix(ANNOUNCEMENT)
            .with_context(|| format!("{} did not say where it listens", self.name))?
            .parse()
            .context("reading the address of a child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.inner.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.inner.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

/// The first executable called `name` on `PATH` or in the directories of system programs.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into))
        .map(|dir| dir.join(name))
        .find(|file| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let me = [Pid::this()];
        let before = cpu_time(&me).unwrap();
        // By CPU time and not by the clock on the wall: the machine of the test may be busy.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut sum = 0u64;
        while cpu_time(&me).unwrap() - before < Duration::from_millis(20) {
            assert!(Instant::now() < deadline, "the clock does not advance");
            for _ in 0..10_000 {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        }
        assert!(resident_bytes(&me).unwrap() > 100 * 1024);
    }

    #[test]
    fn children_are_found_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = find_program("sleep").unwrap();
        let child = Child::start("sleep", &sleep, &["60".to_owned()], &dir.path().join("log")).unwrap();
        let pid = child.pid();
        assert!(with_children(Pid::this()).contains(&pid));
        drop(child);
        assert!(kill(pid, None).is_err(), "still running");
        assert!(cpu_time(&[pid]).is_err());
    }
}
