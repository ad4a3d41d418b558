//! Processes as `/proc` shows them: by environment marker, so that nothing escapes by running away from its parents.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::MARK;

/// A process that lives (a zombie does not).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// Its parent's id.
    pub(crate) parent: u32,
    /// Its command line, joined with spaces.
    pub(crate) command: String,
}

/// Every living process that can be seen.
pub(crate) fn all() -> Vec<Process> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(look).collect()
}

fn look(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    (!matches!(state, "Z" | "X")).then_some(Process { pid, parent, command })
}

/// Whether a process lives.
pub(crate) fn is_alive(pid: u32) -> bool {
    look(pid).is_some()
}

/// Living processes whose environment carries this mark: the gateway, its guards, servers and whatever they started.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let wanted = format!("{MARK}={mark}\0").into_bytes();
    let carries = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.windows(wanted.len()).any(|window| window == wanted)
    };
    all().into_iter().filter(carries).collect()
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Open files, sockets and pipes of a process.
pub(crate) fn open_files(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Ends everything that carries this mark, which only one test gives out.
pub(super) fn kill_marked(mark: &str) {
    for process in marked(mark) {
        if let Ok(pid) = i32::try_from(process.pid) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}
