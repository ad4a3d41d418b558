//! Tables that read well without colour, and cut well: one row is one line.

use crate::{
    control::{ItemRow, ServerRow, StepRow},
    faults::FaultRow,
    instances::InstanceRow,
};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Longest text of a server in a cell, in characters.
const CELL: usize = 72;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Lines without the blanks the cells end in.
fn render(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

fn number(value: Option<usize>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Columns of `fairlead servers`.
const SERVER_CELLS: usize = 13;

/// What an instance that is well does.
fn doing(instance: &InstanceRow) -> String {
    let latency = instance.latency_ms.map_or_else(String::new, |latency| format!(", {latency} ms"));
    let share = instance.share * 100.0;
    format!("weight {}, share {share:.0} %, {} in flight{latency}", instance.weight, instance.calls)
}

/// `fairlead faults`.
pub(crate) fn faults(rows: &[FaultRow]) -> String {
    let mut table = table(&["NAME", "HITS", "ENDS IN", "DOES"]);
    for row in rows {
        let ends = match row.ends_in_ms {
            Some(left) => format!("{} s", left.div_ceil(1000)),
            None => "-".to_owned(),
        };
        let does = if row.configured { format!("{} (configured)", row.does) } else { row.does.clone() };
        table.add_row(vec![row.name.clone(), row.hits.to_string(), ends, does]);
    }
    right(&mut table, &[1, 2]);
    render(&table)
}

/// `fairlead servers`.
pub(crate) fn servers(rows: &[ServerRow]) -> String {
    let mut table = table(&[
        "NAME",
        "TRANSPORT",
        "STATE",
        "ERA",
        "REVISION",
        "TOOLS",
        "RESOURCES",
        "PROMPTS",
        "BYTES",
        "TOKENS",
        "LINKS",
        "PROCESSES",
        "LAST ERROR",
    ]);
    for row in rows {
        let state = if row.stale && row.state != "down" { format!("{} (stale)", row.state) } else { row.state.clone() };
        let processes = row.processes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        table.add_row([
            row.name.clone(),
            row.transport.clone(),
            state,
            row.era.clone().unwrap_or_else(|| "-".to_owned()),
            row.revision.clone().unwrap_or_else(|| "-".to_owned()),
            number(row.tools),
            number(row.resources.map(|resources| resources + row.templates.unwrap_or(0))),
            number(row.prompts),
            number(row.bytes),
            number(row.tokens),
            row.links.to_string(),
            if processes.is_empty() { "-".to_owned() } else { processes },
            row.error
                .clone()
                .or_else(|| row.guard.as_ref()?.trouble())
                .map_or_else(|| "-".to_owned(), |error| super::one_line(&error, CELL)),
        ]);
        for instance in &row.instances {
            let mut cells = vec!["-".to_owned(); SERVER_CELLS];
            cells[0] = format!("{}/{}", row.name, super::one_line(&instance.name, CELL));
            cells[1].clone_from(&instance.transport);
            cells[2].clone_from(&instance.state);
            cells[10] = instance.links.to_string();
            cells[12] = match instance.out.as_ref().or(instance.error.as_ref()) {
                Some(why) => super::one_line(why, CELL),
                None => doing(instance),
            };
            table.add_row(cells);
        }
    }
    right(&mut table, &[5, 6, 7, 8, 9, 10]);
    render(&table)
}

/// `fairlead tools`, `resources`, `prompts`. `noun` is the heading of the first column.
pub(crate) fn items(rows: &[ItemRow], noun: &str) -> String {
    let mut table = table(&[noun, "SERVER", "BYTES", "TOKENS", "NOTE"]);
    for row in rows {
        let note = match (&row.hidden, row.stale) {
            (Some(reason), _) => format!("hidden: {}", super::one_line(reason, CELL)),
            (None, true) => "stale".to_owned(),
            (None, false) => "-".to_owned(),
        };
        let server = row.server.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([super::one_line(&row.name, 128), server, row.bytes.to_string(), row.tokens.to_string(), note]);
    }
    right(&mut table, &[2, 3]);
    render(&table)
}

/// `fairlead explain`.
pub(crate) fn steps(rows: &[StepRow]) -> String {
    let mut table = table(&["PHASE", "OK", "WHY"]);
    for row in rows {
        let ok = match row.ok {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        table.add_row([row.phase.as_str(), ok, &super::one_line(&row.text, 400)]);
    }
    render(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines() {
        let rows = [
            ItemRow {
                name: "crm__search".into(),
                original: "search".into(),
                server: Some("crm".into()),
                kind: "tool".into(),
                bytes: 400,
                tokens: 100,
                stale: false,
                hidden: None,
                definition: None,
            },
            ItemRow {
                name: "crm__drop".into(),
                original: "drop".into(),
                server: Some("crm".into()),
                kind: "tool".into(),
                bytes: 8,
                tokens: 2,
                stale: true,
                hidden: Some("denied by\n`tools.deny`".into()),
                definition: None,
            },
        ];
        insta::assert_snapshot!(items(&rows, "TOOL"), @r"
        TOOL         SERVER  BYTES  TOKENS  NOTE
        crm__search  crm       400     100  -
        crm__drop    crm         8       2  hidden: denied by `tools.deny`
        ");
        let steps_rows = [StepRow { phase: "resolve".into(), ok: Some(false), text: "no such tool".into() }];
        insta::assert_snapshot!(steps(&steps_rows), @r"
        PHASE    OK  WHY
        resolve  NO  no such tool
        ");
    }
}
