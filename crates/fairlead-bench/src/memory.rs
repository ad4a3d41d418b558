//! Memory per idle session, by slope.
//!
//! A fresh target is filled to one number of sessions and then to a larger one; the difference of its resident memory over the difference of
//! sessions leaves out everything that does not grow with sessions. Every session has done its handshake and one call, and
//! keeps its connection open.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::task::LocalSet;

use crate::client::Echo;
use crate::load;
use crate::mcp::Era;
use crate::process;
use crate::targets::Running;

/// Longest time for opening all sessions.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// One session in this many is tried at the end, to be sure that they are still open.
const SAMPLE: usize = 50;

/// Resident memory at two numbers of sessions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Memory {
    /// The smaller number of sessions.
    pub(crate) few: usize,
    /// The larger number of sessions.
    pub(crate) many: usize,
    /// Bytes with few sessions.
    pub(crate) few_bytes: u64,
    /// Bytes with many sessions.
    pub(crate) many_bytes: u64,
}

impl Memory {
    /// KiB for each further session.
    pub(crate) fn kib_per_session(&self) -> f64 {
        (self.many_bytes as f64 - self.few_bytes as f64) / (self.many - self.few) as f64 / 1024.0
    }
}

/// Opens `few` and then `many` sessions and reads the memory after each, having waited `settle`.
///
/// # Errors
/// When a session cannot be opened, or does not work at the end.
pub(crate) fn measure(
    running: &Running,
    era: Era,
    few: usize,
    many: usize,
    settle: Duration,
) -> anyhow::Result<Memory> {
    anyhow::ensure!(0 < few && few < many, "the second number of sessions must be larger");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        let echo = Echo {
            tool: "echo".to_owned(),
            text: "x".repeat(100),
            answer: None,
            manner: crate::client::Manner::default(),
        };
        let mut sessions = Vec::with_capacity(many);
        let mut bytes = [0; 2];
        for (level, count) in [few, many].into_iter().enumerate() {
            let opening = async {
                while sessions.len() < count {
                    let mut session = load::open(&running.target, era).await?;
                    session.call(&echo).await?;
                    sessions.push(session);
                }
                anyhow::Ok(())
            };
            let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
            opened
                .context("the sessions could not be opened in time")
                .and_then(|result| result)
                .with_context(|| format!("with {} sessions open", sessions.len()))?;
            tokio::time::sleep(settle).await;
            bytes[level] = process::resident_bytes(&running.pids())?;
        }
        for session in sessions.iter_mut().step_by(SAMPLE) {
            session.call(&echo).await.context("an idle session was lost")?;
        }
        Ok(Memory { few, many, few_bytes: bytes[0], many_bytes: bytes[1] })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_leaves_out_what_is_always_there() {
        let memory = Memory { few: 1000, many: 5000, few_bytes: 100 << 20, many_bytes: (100 << 20) + 4000 * 2048 };
        assert!((memory.kib_per_session() - 2.0).abs() < 1e-9);
    }
}
