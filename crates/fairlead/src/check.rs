//! `fairlead check` and `fairlead schema`.

use crate::{
    cli, configuration,
    failure::{Exit, Failure},
    output,
};

/// Validates a configuration. The confirmation is data: it goes to stdout.
pub(crate) fn run(arguments: &cli::Check) -> Result<Exit, Failure> {
    let (origin, config) = configuration::load(&arguments.files.config)?;
    output::print(&format!(
        "ok: {} with {} and {}\n",
        origin.describe(),
        output::count(config.servers.len(), "server"),
        output::count(config.toolsets.len(), "toolset"),
    ))
}

/// Prints the JSON Schema of the configuration.
pub(crate) fn schema() -> Result<Exit, Failure> {
    output::json(&fairlead_config::schema())
}
