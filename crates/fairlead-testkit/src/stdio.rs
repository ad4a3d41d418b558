//! A scripted server over stdin and stdout.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    conversation::{Conversation, PENDING},
    core::{Core, NEVER},
    script::Script,
};

/// How long stdout may take for the rest after stdin was closed.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// The argument that makes the binary a grandchild.
pub const GRANDCHILD: &str = "--grandchild";
/// The argument that makes a grandchild ignore SIGTERM.
pub const STUBBORN: &str = "--stubborn";

/// Does what `script` says on stdin and stdout, until stdin is closed (a stubborn one goes on for ten minutes).
///
/// The process ends from inside when the script says so.
///
/// # Errors
/// A file that cannot be written, a grandchild that cannot be started.
pub async fn serve(script: Script) -> anyhow::Result<()> {
    let stdio = script.stdio.clone();
    if let Some(code) = stdio.exit_at_start {
        std::process::exit(code);
    }
    for line in 0..stdio.stderr_lines {
        eprintln!("scripted: line {line} on stderr");
    }
    if stdio.stubborn {
        ignore_sigterm()?;
    }
    note_pid(stdio.pids.as_deref(), std::process::id())?;
    let mut grandchildren = Vec::new();
    for _ in 0..stdio.grandchildren {
        let mut command = Command::new(std::env::current_exe().context("the path of this program is unknown")?);
        command.arg(GRANDCHILD);
        if stdio.stubborn {
            command.arg(STUBBORN);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start a grandchild")?;
        note_pid(stdio.pids.as_deref(), child.id())?;
        grandchildren.push(child);
    }
    let (lines, written) = mpsc::channel(PENDING);
    let writer = tokio::spawn(write(written, stdio.noise.clone()));
    let core = Arc::new(Core::new(script));
    let changing = Arc::clone(&core);
    core.spawn(async move { changing.keep_changing().await });
    let ended = read(&core, lines, stdio.record.as_deref(), stdio.exit_after).await;
    if stdio.stubborn {
        tokio::time::sleep(NEVER).await;
    }
    core.forget_everything();
    // What is still to be written belongs to calls that were just ended.
    tokio::time::timeout(FLUSH_LIMIT, writer).await.ok();
    ended
}

/// What a grandchild does: it exists, for ten minutes at most.
///
/// # Errors
/// When signals cannot be handled.
pub async fn idle(stubborn: bool) -> anyhow::Result<()> {
    if stubborn {
        ignore_sigterm()?;
    }
    tokio::time::sleep(NEVER).await;
    Ok(())
}

fn ignore_sigterm() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    // Lives as long as the process, as the handler it feeds from does.
    tokio::spawn(async move { while terminate.recv().await.is_some() {} });
    Ok(())
}

fn note_pid(file: Option<&Path>, pid: u32) -> anyhow::Result<()> {
    match file {
        Some(file) => append(file, &pid.to_string()),
        None => Ok(()),
    }
}

fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))
}

async fn write(mut written: mpsc::Receiver<String>, noise: Vec<String>) {
    let mut stdout = tokio::io::stdout();
    while let Some(mut line) = written.recv().await {
        for noise in noise.iter().rev() {
            line.insert_str(0, &format!("{noise}\n"));
        }
        line.push('\n');
        if stdout.write_all(line.as_bytes()).await.is_err() || stdout.flush().await.is_err() {
            return;
        }
    }
}

async fn read(
    core: &Arc<Core>,
    lines: mpsc::Sender<String>,
    record: Option<&Path>,
    exit_after: Option<u64>,
) -> anyhow::Result<()> {
    let conversation = Conversation::begin(core, "stdio", lines, exit_after, || std::process::exit(1));
    let started = Instant::now();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.context("stdin cannot be read")? {
        if let Some(record) = record {
            append(record, &json!({"at_ms": started.elapsed().as_millis() as u64, "line": line}).to_string())?;
        }
        conversation.take(line.as_bytes());
    }
    Ok(())
}
