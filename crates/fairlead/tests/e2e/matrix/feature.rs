//! The features, which revisions have them, and how one cell is judged.

use super::{CELL_LIMIT, calls, changes, house::Row, lost, questions};
use crate::support::relaxed;

/// What a cell turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// It works.
    Passes,
    /// The client's revision does not have it; who would need it was told so.
    NotTheClients,
    /// The server's revision does not have it.
    NotTheServers,
    /// Both revisions have it, and the gateway does not say that it has.
    NotAdvertised,
    /// It is said to be there, and is not.
    Lost(String),
}

impl Outcome {
    /// The sign in the table.
    pub(super) fn sign(&self) -> &'static str {
        match self {
            Self::Passes => "✓",
            Self::NotTheClients => "c",
            Self::NotTheServers => "s",
            Self::NotAdvertised => "–",
            Self::Lost(_) => "✗",
        }
    }
}

/// A feature of the protocol.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Feature {
    Tools,
    StructuredContent,
    Resources,
    ResourceNotFound,
    Prompts,
    Completion,
    CompletionContext,
    ElicitationForm,
    ElicitationUrl,
    ElicitationComplete,
    Sampling,
    SamplingTools,
    Roots,
    RootsChanged,
    LogLevel,
    Progress,
    Cancellation,
    Ping,
    Subscriptions,
    Tasks,
    Resume,
    /// Judged for all rows together, after everything else.
    ListChanged,
}

/// The first and the last revision that have a feature.
type Span = (&'static str, &'static str);

const ALWAYS: Span = ("2024-11-05", "2026-07-28");
const LEGACY: Span = ("2024-11-05", "2025-11-25");

impl Feature {
    /// Those that are judged row by row, in this order.
    pub(super) const ALL: [Self; 21] = [
        Self::Tools,
        Self::StructuredContent,
        Self::Resources,
        Self::ResourceNotFound,
        Self::Prompts,
        Self::Completion,
        Self::CompletionContext,
        Self::ElicitationForm,
        Self::ElicitationUrl,
        Self::ElicitationComplete,
        Self::Sampling,
        Self::SamplingTools,
        Self::Roots,
        Self::RootsChanged,
        Self::LogLevel,
        Self::Progress,
        Self::Cancellation,
        Self::Ping,
        Self::Subscriptions,
        Self::Tasks,
        Self::Resume,
    ];

    /// Those of the table.
    pub(super) const EVERY: [Self; 22] = {
        let mut every = [Self::ListChanged; 22];
        let mut number = 0;
        while number < Self::ALL.len() {
            every[number] = Self::ALL[number];
            number += 1;
        }
        every
    };

    /// The name in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tools => "tools: list, call",
            Self::StructuredContent => "structured content",
            Self::Resources => "resources: list, read, templates",
            Self::ResourceNotFound => "resource not found, in the client's code",
            Self::Prompts => "prompts: list, get",
            Self::Completion => "completion",
            Self::CompletionContext => "completion with context",
            Self::ElicitationForm => "elicitation by form",
            Self::ElicitationUrl => "elicitation by URL",
            Self::ElicitationComplete => "elicitation complete (notice)",
            Self::Sampling => "sampling",
            Self::SamplingTools => "sampling with tools",
            Self::Roots => "roots",
            Self::RootsChanged => "roots list changed",
            Self::LogLevel => "log messages at the client's level",
            Self::Progress => "progress",
            Self::Cancellation => "cancellation, of that call only",
            Self::Ping => "ping",
            Self::Subscriptions => "resource subscriptions, updates",
            Self::Tasks => "tasks: run, poll, result, cancel",
            Self::Resume => "resuming a broken stream",
            Self::ListChanged => "list changes",
        }
    }

    /// The revisions of clients that have it.
    fn clients(self) -> Span {
        match self {
            Self::StructuredContent | Self::CompletionContext | Self::ElicitationForm => ("2025-06-18", ALWAYS.1),
            Self::ElicitationUrl | Self::SamplingTools | Self::Tasks => ("2025-11-25", ALWAYS.1),
            // What a modern server would tell of it is told in the round that follows.
            Self::ElicitationComplete => ("2025-11-25", "2025-11-25"),
            // A modern client is asked anew each time.
            Self::RootsChanged | Self::Ping => LEGACY,
            // 2024-11-05 has no event ids, 2026-07-28 makes the request again.
            Self::Resume => ("2025-03-26", "2025-11-25"),
            _ => ALWAYS,
        }
    }

    /// The revisions of servers that have it.
    fn servers(self) -> Span {
        match self {
            // These are between the client and the gateway, whatever the server is.
            Self::RootsChanged | Self::Ping | Self::Resume => ALWAYS,
            other => other.clients(),
        }
    }

    /// Judges one cell.
    pub(super) async fn outcome(self, row: &Row) -> Outcome {
        let within = |span: Span, revision: &str| span.0 <= revision && revision <= span.1;
        if !within(self.servers(), row.server_revision()) {
            return Outcome::NotTheServers;
        }
        let has = within(self.clients(), row.revision);
        let judging = async {
            match has {
                true => self.works(row).await,
                false => self.said_to_be_missing(row).await.map(|()| Outcome::NotTheClients),
            }
        };
        match tokio::time::timeout(relaxed(CELL_LIMIT), judging).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => lost(format!("{error:#}")),
            Err(_) => lost(format!("nothing within {CELL_LIMIT:?}")),
        }
    }

    async fn works(self, row: &Row) -> anyhow::Result<Outcome> {
        match self {
            Self::Tools => calls::tools(row).await,
            Self::StructuredContent => calls::structured_content(row).await,
            Self::Resources => calls::resources(row).await,
            Self::ResourceNotFound => calls::resource_not_found(row).await,
            Self::Prompts => calls::prompts(row).await,
            Self::Completion => calls::completion(row, false).await,
            Self::CompletionContext => calls::completion(row, true).await,
            Self::ElicitationForm => questions::asked(row, "form").await,
            Self::ElicitationUrl => questions::asked(row, "url").await,
            Self::ElicitationComplete => questions::complete_notice(row).await,
            Self::Sampling => questions::asked(row, "sampling").await,
            Self::SamplingTools => questions::asked(row, "sampling_tools").await,
            Self::Roots => questions::roots(row).await,
            Self::RootsChanged => questions::roots_changed(row).await,
            Self::LogLevel => calls::log_level(row).await,
            Self::Progress => calls::progress(row).await,
            Self::Cancellation => calls::cancellation(row).await,
            Self::Ping => calls::ping(row).await,
            Self::Subscriptions => changes::subscriptions(row).await,
            Self::Tasks => calls::tasks(row).await,
            Self::Resume => calls::resume(row).await,
            Self::ListChanged => Ok(lost("judged for all rows together")),
        }
    }

    /// Where the client's revision does not have it: nobody waits for what cannot come.
    async fn said_to_be_missing(self, row: &Row) -> anyhow::Result<()> {
        match self {
            Self::StructuredContent => calls::content_without_structure(row).await,
            Self::ElicitationForm => questions::refused(row, "form").await,
            Self::ElicitationUrl => questions::refused(row, "url").await,
            Self::SamplingTools => questions::refused(row, "sampling_tools").await,
            Self::Tasks => calls::no_tasks(row).await,
            _ => Ok(()),
        }
    }
}
