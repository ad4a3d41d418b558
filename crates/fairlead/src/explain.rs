//! `fairlead explain`.

use crate::{
    cli,
    control::{self, StepRow},
    failure::{Exit, Failure},
    listing, output, private,
    reach::Reach,
    runtime,
};

/// Says, step by step, why a name is or is not available.
pub(crate) fn run(arguments: &cli::Explain) -> Result<Exit, Failure> {
    let rows = runtime::control(private::with_gateway(&arguments.which, None, async |reach: &Reach| {
        listing::local(reach, "explain")?;
        reach.control::<Vec<StepRow>>(&control::explain_path(&arguments.name), listing::ANSWER).await
    }))?;
    if arguments.json { output::json(&rows) } else { output::print(&output::table::steps(&rows)) }
}
