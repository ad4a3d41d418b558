//! Every revision of clients before every revision of servers, with every feature: what the client's and the server's
//! revision both have either works through the gateway or is not advertised. What is not there is said to whoever
//! asks for it; nothing is silently lost.
//!
//! The outcome is a table, which `docs/compatibility.md` publishes: the test fails when the two differ, and writes the
//! new one when `UPDATE_DOCS=1` is set.

mod calls;
mod changes;
mod client;
mod feature;
mod house;
mod questions;
mod table;

use std::{env, fs, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;

use self::{
    feature::{Feature, Outcome},
    house::{House, Row},
    table::Table,
};

/// All revisions, oldest first.
const REVISIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
/// The longest any one cell may take.
const CELL_LIMIT: Duration = Duration::from_secs(15);
/// Rows that are worked on at the same time.
const AT_ONCE: usize = 10;
/// Where the table is published.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");

#[tokio::test]
async fn every_client_before_every_server_with_every_feature() {
    let house = Arc::new(House::open().await);
    let mut rows = Vec::new();
    let mut joining = JoinSet::new();
    for merged in [false, true] {
        for client in REVISIONS {
            for server in 0..REVISIONS.len() {
                let (house, number) = (Arc::clone(&house), joining.len());
                joining.spawn(async move { Row::enter(house, number, client, server, merged).await });
            }
        }
    }
    while let Some(row) = joining.join_next().await {
        rows.push(Arc::new(row.unwrap()));
    }
    let mut table = Table::default();
    let working = rows.iter().map(async |row| {
        let mut cells = Vec::new();
        for feature in Feature::ALL {
            cells.push((feature, feature.outcome(row).await));
        }
        (row, cells)
    });
    let mut working = stream::iter(working).buffer_unordered(AT_ONCE);
    while let Some((row, cells)) = working.next().await {
        for (feature, outcome) in cells {
            table.put(row, feature, outcome);
        }
    }
    for (row, outcome) in changes::everybody_hears(&house, &rows).await {
        table.put(&row, Feature::ListChanged, outcome);
    }
    println!("{}", table.markdown());
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix.md"), table.markdown()).unwrap();
    let failures = table.failures();
    assert!(failures.is_empty(), "{} of {} cells are lost:\n{}", failures.len(), table.len(), failures.join("\n"));
    publish(&table.markdown());
}

/// Compares the table with the published one, or publishes it.
fn publish(table: &str) {
    const BEGIN: &str = "<!-- matrix: written by the test `matrix`, UPDATE_DOCS=1 -->\n";
    const END: &str = "<!-- end of matrix -->\n";
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (published, after) = rest.split_once(END).expect("the place for the table has an end");
    if published == table {
        return;
    }
    assert!(
        env::var_os("UPDATE_DOCS").is_some(),
        "docs/compatibility.md does not say what this run found. UPDATE_DOCS=1 writes it:\n{table}"
    );
    fs::write(PAGE, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
}

/// Why a cell has an outcome that is not a pass.
fn lost(reason: impl Into<String>) -> Outcome {
    Outcome::Lost(reason.into())
}
