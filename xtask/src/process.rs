//! Child processes that end: with a time limit when they are awaited, at the latest on drop when they
//! run beside us. Each gets its own process group, so that what it started ends with it.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a process or a port is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a process has between the request to end and the end.
const GRACE: Duration = Duration::from_secs(10);
/// How much of a log is shown when a command fails.
const LOG_TAIL_LINES: usize = 25;

/// A process that runs beside us and is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Fails if the process has ended.
    pub(crate) fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status})", self.name),
        }
    }

    /// Waits until `ready` says yes; fails when the process ends or `limit` has passed.
    pub(crate) fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !ready() {
            self.alive()?;
            if begin.elapsed() > limit {
                bail!("{} was not ready after {} s", self.name, limit.as_secs());
            }
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        signal_group(&self.child, "TERM");
        if let Ok(None) | Err(_) = wait_for(&mut self.child, GRACE) {
            signal_group(&self.child, "KILL");
            // The process may be gone already; there is nobody left to tell.
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` with its output in `log`. When it fails or takes longer than `limit`, the error
/// carries the end of the log.
pub(crate) fn run_logged(name: &str, command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    let status = run_to_end(name, command, log, limit)?;
    if status.success() {
        return Ok(());
    }
    bail!("{name}: {status}\n{}", tail(log))
}

/// Like [`run_logged`], for a command whose exit status is a result and not a failure.
pub(crate) fn run_to_end(name: &str, command: &mut Command, log: &Path, limit: Duration) -> Result<ExitStatus> {
    let output = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name}: {} cannot be started", command.get_program().to_string_lossy()))?;
    if let Some(status) = wait_for(&mut child, limit)? {
        return Ok(status);
    }
    signal_group(&child, "KILL");
    child.wait()?;
    bail!("{name}: not done after {} s\n{}", limit.as_secs(), tail(log))
}

fn wait_for(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            return Ok(None);
        }
        sleep(POLL);
    }
}

fn signal_group(child: &Child, signal: &str) {
    // `kill` the program, because the standard library has no signals. A group that is gone is fine.
    let _ = Command::new("kill")
        .args([&format!("-{signal}"), "--", &format!("-{}", child.id())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        // What cannot be read is not shown; the status stands in the error anyway.
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// A loopback address that is free now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no free port")?.local_addr()?)
}

/// Whether somebody accepts connections at `address`.
pub(crate) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_shows_its_output_and_one_that_hangs_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let limit = Duration::from_secs(20);
        let error = run_logged("sh", Command::new("sh").args(["-c", "echo why; exit 3"]), &log, limit).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        let begin = Instant::now();
        let limit = Duration::from_millis(200);
        let error = run_logged("sh", Command::new("sh").args(["-c", "sleep 60 & wait"]), &log, limit).unwrap_err();
        assert!(error.to_string().contains("not done"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_running_process_ends_on_drop() {
        let directory = tempfile::tempdir().unwrap();
        let running = Running::start("sleep", Command::new("sleep").arg("60"), &directory.path().join("log")).unwrap();
        let id = running.child.id();
        drop(running);
        let alive = Command::new("kill").args(["-0", &id.to_string()]).stderr(Stdio::null()).status().unwrap();
        assert!(!alive.success());
    }
}
