//! Logs: sentences with fields, on standard error.
//!
//! Standard output belongs to data (with `fairlead stdio` it *is* the protocol), so nothing here can write to it. One event is
//! one line and one write. Whatever a value contains, it stays inside its line and does nothing to a terminal: control characters and
//! direction overrides are written as escapes. Long values are cut.
//!
//! What a level promises: `error` means that somebody must act, `warn` that something is not as configured and the gateway copes,
//! `info` what an operator wants to have seen, `debug` and `trace` are for people who look for a cause.

mod escape;
mod line;
mod time;

use line::Lines;
use std::io::IsTerminal;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::ParseError,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

/// Environment variable with a level or filter directives; it wins over what [`init`] is given.
pub const LOG_VARIABLE: &str = "FAIRLEAD_LOG";

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither a level nor filter directives.
    #[error("`{level}` is not a log level (error, warn, info, debug, trace, off) or a list of filter directives")]
    Level {
        /// What was given.
        level: String,
        /// What the parser says.
        #[source]
        cause: ParseError,
    },
    /// This process already has a logger.
    #[error("cannot install the logger")]
    Install(#[source] TryInitError),
    /// The logger is gone.
    #[error("cannot change the log level")]
    Reload(#[source] reload::Error),
}

/// Changes what is logged while the program runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// Logs from `level` on: `off`, `error`, `warn`, `info`, `debug`, `trace`, or directives as for `FAIRLEAD_LOG`
    /// (`fairlead_upstream=debug,info`). A bare level below `warn` speaks of this program; libraries stay at `warn`.
    ///
    /// # Errors
    /// [`LogError::Level`] for a text that is neither; the level stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.filter.reload(filter(level)?).map_err(LogError::Reload)
    }
}

/// Installs the logger of the process: to standard error, from `level` on or as `FAIRLEAD_LOG` says, as text or, with `json`,
/// as lines of JSON with `time`, `level`, `message` and the fields beside them. `color` applies to text on a terminal.
///
/// # Errors
/// [`LogError::Level`] for a level nobody knows, [`LogError::Install`] when called twice.
pub fn init(level: &str, json: bool, color: bool) -> Result<LogControl, LogError> {
    let from_environment = std::env::var(LOG_VARIABLE).ok().filter(|value| !value.is_empty());
    let format = match (json, color && std::io::stderr().is_terminal()) {
        (true, _) => Format::Json,
        (false, true) => Format::Color,
        (false, false) => Format::Text,
    };
    let (subscriber, control) = subscriber(from_environment.as_deref().unwrap_or(level), format, std::io::stderr)?;
    subscriber.try_init().map_err(LogError::Install)?;
    Ok(control)
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Color,
    Json,
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn subscriber<W>(level: &str, format: Format, writer: W) -> Result<(Layered<Lines<W>, Filtered>, LogControl), LogError>
where
    W: for<'a> MakeWriter<'a> + 'static,
{
    let (layer, handle) = reload::Layer::new(filter(level)?);
    Ok((tracing_subscriber::registry().with(layer).with(Lines::new(format, writer)), LogControl { filter: handle }))
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let directives = match level.trim().to_ascii_lowercase().as_str() {
        // The library reads an empty text as `error`, which nobody means.
        "" => "info".to_owned(),
        quiet @ ("off" | "error" | "warn") => quiet.to_owned(),
        loud @ ("info" | "debug" | "trace") => format!("warn,fairlead={loud}"),
        _ => level.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|cause| LogError::Level { level: level.to_owned(), cause })
}

#[cfg(test)]
mod tests;
