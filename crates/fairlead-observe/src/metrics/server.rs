//! What is counted per call, by server.
//!
//! One cell per (method, status) holds the buckets of the calls that ended so. The request counter is the sum of a cell, the
//! duration histogram of a method the sum of its cells: one addition feeds both, and a second one adds up the time.
//! Cells are made on first use; afterwards recording allocates nothing, locks nothing and hashes nothing.
//!
//! Tools are named by servers, so their number is bounded here, and a name earns a series only by an outcome that shows
//! that the server has the tool: whoever calls invented names uses up nothing.

use super::{
    histogram::{Buckets, Observation, Reading},
    status::{CLASSES, CallStatus, Refusals, STATUS_CODES},
};
use arc_swap::ArcSwap;
use fairlead_wire::Method;
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Tools of one server with a series of their own; the rest share [`OTHER_TOOL`].
const MAX_TOOLS: usize = 200;
/// The label of tools without a series of their own.
const OTHER_TOOL: &str = "other";
/// The label of a method that no revision names.
const OTHER_METHOD: &str = "other";
/// All named methods, and one place for the rest.
const METHODS: usize = Method::ALL.len() + 1;

/// One finished call.
#[derive(Debug, Clone, Copy)]
pub struct CallRecord<'a> {
    /// The method.
    pub method: Method,
    /// The server's own name of the tool, for `tools/call`.
    pub tool: Option<&'a str>,
    /// How it ended.
    pub status: CallStatus,
    /// From the complete request to the last byte of the answer.
    pub duration: Duration,
}

/// What became of a question that a server asked its client (elicitation, sampling, roots).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionOutcome {
    /// The client answered, whatever it said.
    Answered,
    /// The gateway answered in place of a client that cannot be asked, or that cannot be told from others.
    Declined,
    /// No answer came in time.
    TimedOut,
    /// The call or the client went away first.
    Cancelled,
}

impl QuestionOutcome {
    pub(super) const LABELS: [&str; 4] = ["answered", "declined", "timed_out", "cancelled"];
}

/// What was done with a call that what is kept and shared of answers concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReuseOutcome {
    /// Answered from what is kept.
    Hit,
    /// The same, with an answer that is being fetched anew.
    Stale,
    /// The server was called.
    Miss,
    /// Answered with what another call under way brought.
    Coalesced,
    /// The gateway fetched an answer anew by itself.
    Refresh,
    /// Answered from what is kept, because the server failed.
    StaleOnError,
    /// Answered with its part of what a batch brought.
    Batched,
    /// The gateway made one call for several.
    Batch,
}

impl ReuseOutcome {
    pub(super) const LABELS: [&str; 8] =
        ["hit", "stale", "miss", "coalesced", "refresh", "stale_on_error", "batched", "batch"];
}

/// The handles of one server. Recording costs two atomic additions, and as many again for a tool.
pub struct ServerMetrics {
    methods: [OnceLock<Box<MethodCells>>; METHODS],
    tools: ArcSwap<HashMap<Box<str>, Arc<ToolCells>>>,
    other_tools: ToolCells,
    questions: [AtomicU64; QuestionOutcome::LABELS.len()],
    reused: [AtomicU64; ReuseOutcome::LABELS.len()],
    refusals: Arc<Refusals>,
}

struct MethodCells {
    by_status: [OnceLock<Box<Buckets>>; STATUS_CODES],
    sum_nanos: AtomicU64,
}

#[derive(Default)]
struct ToolCells([OnceLock<Box<ToolCell>>; CLASSES.len()]);

struct ToolCell {
    buckets: Buckets,
    sum_nanos: AtomicU64,
}

impl ToolCells {
    fn add(&self, class: usize, observation: Observation) {
        let cell =
            self.0[class].get_or_init(|| Box::new(ToolCell { buckets: Buckets::new(), sum_nanos: AtomicU64::new(0) }));
        cell.buckets.add(observation);
        cell.sum_nanos.fetch_add(observation.nanos, Ordering::Relaxed);
    }
}

impl ServerMetrics {
    pub(super) fn new(refusals: Arc<Refusals>) -> Self {
        Self {
            methods: [const { OnceLock::new() }; METHODS],
            tools: ArcSwap::default(),
            other_tools: ToolCells::default(),
            questions: [const { AtomicU64::new(0) }; QuestionOutcome::LABELS.len()],
            reused: [const { AtomicU64::new(0) }; ReuseOutcome::LABELS.len()],
            refusals,
        }
    }

    /// Counts one finished call.
    pub fn record(&self, record: &CallRecord<'_>) {
        let observation = Observation::of(record.duration);
        // `Method::Other` is declared last, so every discriminant is an index (tested).
        let method = self.methods[record.method as usize].get_or_init(|| {
            Box::new(MethodCells { by_status: [const { OnceLock::new() }; STATUS_CODES], sum_nanos: AtomicU64::new(0) })
        });
        method.by_status[record.status.index()].get_or_init(|| Box::new(Buckets::new())).add(observation);
        method.sum_nanos.fetch_add(observation.nanos, Ordering::Relaxed);
        if let Some(tool) = record.tool {
            self.record_tool(tool, record.status, observation);
        }
        if let CallStatus::Refused(code) = record.status {
            self.refusals.add(code);
        }
    }

    /// Counts a question that the server asked.
    pub fn question(&self, outcome: QuestionOutcome) {
        self.questions[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what was done with a call whose answer may be kept or shared.
    pub fn reused(&self, outcome: ReuseOutcome) {
        self.reused[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn record_tool(&self, tool: &str, status: CallStatus, observation: Observation) {
        let class = status.class();
        if let Some(cells) = self.tools.load().get(tool) {
            cells.add(class, observation);
            return;
        }
        let is_there = matches!(status, CallStatus::Ok | CallStatus::ToolError | CallStatus::UpstreamFailed(_));
        if is_there && let Some(cells) = self.new_tool(tool) {
            cells.add(class, observation);
        } else {
            self.other_tools.add(class, observation);
        }
    }

    /// The cells of a tool that is seen for the first time, while there is room. At most [`MAX_TOOLS`] times per server.
    #[cold]
    fn new_tool(&self, tool: &str) -> Option<Arc<ToolCells>> {
        // A tool that is really called `other` would make two series of one name; it is left to the shared one.
        if tool == OTHER_TOOL || self.tools.load().len() >= MAX_TOOLS {
            return None;
        }
        self.tools.rcu(|tools| {
            if tools.len() >= MAX_TOOLS || tools.contains_key(tool) {
                return Arc::clone(tools);
            }
            let mut grown = HashMap::clone(tools);
            grown.insert(tool.into(), Arc::default());
            Arc::new(grown)
        });
        self.tools.load().get(tool).cloned()
    }

    /// Methods that were called: label, cells by status as (index, count), histogram over all statuses.
    pub(super) fn methods(&self) -> impl Iterator<Item = (&'static str, Vec<(usize, u64)>, Reading)> {
        let labels = Method::ALL.iter().map(|method| method.as_str()).chain([OTHER_METHOD]);
        labels.zip(&self.methods).filter_map(|(label, cells)| {
            let cells = cells.get()?;
            let mut reading = Reading::new(&cells.sum_nanos);
            let mut counts = Vec::new();
            for (index, buckets) in cells.by_status.iter().enumerate() {
                if let Some(buckets) = buckets.get() {
                    counts.push((index, reading.add(buckets)));
                }
            }
            Some((label, counts, reading))
        })
    }

    /// Calls `each` with the tool's label, the class of status and the histogram, in the order of names.
    pub(super) fn tools(
        &self,
        mut each: impl FnMut(&str, &'static str, Reading) -> std::fmt::Result,
    ) -> std::fmt::Result {
        let tools = self.tools.load_full();
        let mut tools: Vec<(&str, &ToolCells)> = tools.iter().map(|(name, cells)| (&**name, &**cells)).collect();
        tools.push((OTHER_TOOL, &self.other_tools));
        tools.sort_by_key(|(name, _)| *name);
        for (name, cells) in tools {
            for (class, cell) in CLASSES.iter().zip(&cells.0) {
                if let Some(cell) = cell.get() {
                    let mut reading = Reading::new(&cell.sum_nanos);
                    reading.add(&cell.buckets);
                    each(name, class, reading)?;
                }
            }
        }
        Ok(())
    }

    /// What was done with calls whose answers may be kept or shared, all of it once there was such a call.
    pub(super) fn reuse(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts: [u64; ReuseOutcome::LABELS.len()] =
            std::array::from_fn(|index| self.reused[index].load(Ordering::Relaxed));
        let any = counts.iter().any(|count| *count > 0);
        ReuseOutcome::LABELS.into_iter().zip(counts).filter(move |_| any)
    }

    /// Outcomes of questions with their counts, those that never happened included once one did.
    pub(super) fn questions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts: [u64; QuestionOutcome::LABELS.len()] =
            std::array::from_fn(|index| self.questions[index].load(Ordering::Relaxed));
        let asked = counts.iter().any(|count| *count > 0);
        QuestionOutcome::LABELS.into_iter().zip(counts).filter(move |_| asked)
    }
}

impl std::fmt::Debug for ServerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerMetrics").field("tools", &self.tools.load().len()).finish_non_exhaustive()
    }
}
