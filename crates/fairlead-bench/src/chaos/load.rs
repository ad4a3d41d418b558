//! Calls at a fixed rate, whatever becomes of those before: who waits for a slow answer keeps nobody else from calling.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::dice::Dice;
use super::server::Fault;
use crate::client::{Echo, Manner, Session};
use crate::load;
use crate::mcp::{Era, Target};

/// Connections that are opened ahead, of each era.
const POOL: usize = 24;
/// Of so many calls one writes.
const WRITES: u64 = 5;

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// It may be repeated.
    Read,
    /// It may not.
    Write,
}

/// One call and what became of it; times since the beginning of the run.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) server: Fault,
    pub(super) tool: Tool,
    pub(super) due: Duration,
    pub(super) ended: Duration,
    pub(super) error: Option<String>,
}

/// The clients.
pub(super) struct Load {
    target: Target,
    /// Used in turn, so that none rests for so long that the gateway closes it.
    idle: [RefCell<VecDeque<Session>>; 2],
    begin: Instant,
    records: RefCell<Vec<Record>>,
}

impl Load {
    /// Opens the connections.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Rc<Self>> {
        let load = Self {
            target: target.clone(),
            idle: [const { RefCell::new(VecDeque::new()) }; 2],
            begin: Instant::now(),
            records: RefCell::default(),
        };
        for era in [Era::Legacy, Era::Modern] {
            for _ in 0..POOL {
                let session = load::open(target, era).await?;
                load.idle[era as usize].borrow_mut().push_back(session);
            }
        }
        Ok(Rc::new(load))
    }

    /// The time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Calls that have ended.
    pub(super) fn records(&self) -> std::cell::Ref<'_, Vec<Record>> {
        self.records.borrow()
    }

    /// Calls all servers in turn, so many times a second, until `stop` resolves; then waits for what is under way.
    ///
    /// # Errors
    /// When a caller panics.
    pub(super) async fn run(
        self: Rc<Self>,
        rate: u32,
        seed: u64,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut dice = Dice::new(seed);
        let mut ticks = interval_at(Instant::now(), Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut calls = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(call) = calls.join_next(), if !calls.is_empty() => call.context("a caller panicked")?,
                due = ticks.tick() => {
                    let server = Fault::ALL[number % Fault::ALL.len()];
                    let tool = if dice.below(WRITES) == 0 { Tool::Write } else { Tool::Read };
                    let era = if dice.below(2) == 0 { Era::Legacy } else { Era::Modern };
                    calls.spawn_local(Rc::clone(&self).call(server, tool, era, number, due));
                    number += 1;
                }
            }
        }
        while let Some(call) = calls.join_next().await {
            call.context("a caller panicked")?;
        }
        Ok(())
    }

    async fn call(self: Rc<Self>, server: Fault, tool: Tool, era: Era, number: usize, due: Instant) {
        let word = if tool == Tool::Write { "write" } else { "read" };
        let echo = Echo {
            tool: format!("{}__{word}", server.word()),
            text: format!("{word} {number}"),
            answer: None,
            manner: Manner::default(),
        };
        let idle = self.idle[era as usize].borrow_mut().pop_front().filter(Session::is_open);
        let called = async {
            let mut session = match idle {
                Some(session) => session,
                None => load::open(&self.target, era).await?,
            };
            let called = session.call(&echo).await;
            if session.is_open() {
                self.idle[era as usize].borrow_mut().push_back(session);
            }
            called
        };
        let error = called.await.err().map(|error| format!("{error:#}"));
        let (due, ended) = (due.duration_since(self.begin), self.begin.elapsed());
        self.records.borrow_mut().push(Record { server, tool, due, ended, error });
    }
}
