//! The table of outcomes: as Markdown, and as a list of what is lost.

use std::collections::BTreeMap;

use super::{
    REVISIONS,
    feature::{Feature, Outcome},
    house::Row,
};

/// Outcomes by feature, endpoint, client and server.
#[derive(Default)]
pub(super) struct Table {
    cells: BTreeMap<(Feature, bool, &'static str, usize), Outcome>,
}

impl Table {
    pub(super) fn put(&mut self, row: &Row, feature: Feature, outcome: Outcome) {
        self.cells.insert((feature, row.merged, row.revision, row.server), outcome);
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// A line for each cell that is lost.
    pub(super) fn failures(&self) -> Vec<String> {
        let line = |((feature, merged, client, server), outcome): (&(Feature, bool, &str, usize), &Outcome)| {
            let Outcome::Lost(reason) = outcome else { return None };
            let endpoint = if *merged { "/mcp" } else { "/servers/{server}/mcp" };
            Some(format!("{}: client {client}, server {}, {endpoint}: {reason}", feature.name(), REVISIONS[*server]))
        };
        self.cells.iter().filter_map(line).collect()
    }

    /// One line for each feature; two where the endpoints differ.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("\n| feature | {} |\n|---{}|\n", REVISIONS.join(" | "), "|---".repeat(REVISIONS.len()));
        for feature in Feature::EVERY {
            let lines = [false, true].map(|merged| self.line(feature, merged));
            if lines[0] == lines[1] {
                text.push_str(&format!("| {} | {} |\n", feature.name(), lines[0]));
                continue;
            }
            for (line, endpoint) in lines.iter().zip(["/servers/{server}/mcp", "/mcp"]) {
                text.push_str(&format!("| {}, `{endpoint}` | {line} |\n", feature.name()));
            }
        }
        text.push('\n');
        text
    }

    /// The cells of one feature: for each client one sign for each server.
    fn line(&self, feature: Feature, merged: bool) -> String {
        let sign = |client: &'static str, server| match self.cells.get(&(feature, merged, client, server)) {
            Some(outcome) => outcome.sign(),
            None => "?",
        };
        let cell = |client| (0..REVISIONS.len()).map(|server| sign(client, server)).collect::<Vec<_>>().join(" ");
        REVISIONS.map(cell).join(" | ")
    }
}
