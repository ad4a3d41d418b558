//! Every error code has its page, and every page its code.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use crate::workspace::TextFile;

const TABLE: &str = "crates/fairlead-core/src/code.rs";
const PAGES: &str = "docs/errors/";

/// Compares the enumeration of codes with the pages under `docs/errors/`.
pub(crate) fn documented(files: &[TextFile]) -> Vec<Problem> {
    let Some(table) = files.iter().find(|file| file.path == TABLE) else {
        return vec![Problem::in_file(TABLE, "the table of error codes is not where it is expected")];
    };
    let mut problems = Vec::new();
    let codes = codes(&table.text);
    if codes.is_empty() {
        problems.push(Problem::in_file(TABLE, "no `Name = number` line: the check reads nothing"));
    }
    let pages: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix(PAGES)?.strip_suffix(".md"))
        .filter(|name| name.starts_with("FL-"))
        .collect();
    for (code, line) in &codes {
        let page = files.iter().find(|file| file.path == format!("{PAGES}{code}.md"));
        match page {
            None => problems.push(Problem::at(TABLE, *line, format!("{code} has no page {PAGES}{code}.md"))),
            Some(page) if !page.text.contains(code.as_str()) => {
                problems.push(Problem::in_file(&page.path, format!("does not name {code}")));
            }
            Some(_) => {}
        }
    }
    for page in pages {
        if !codes.contains_key(page) {
            problems.push(Problem::in_file(&format!("{PAGES}{page}.md"), "documents a code that does not exist"));
        }
    }
    problems
}

/// Codes by label, with the line each stands in.
fn codes(text: &str) -> BTreeMap<String, usize> {
    let mut codes = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some((name, number)) = line.trim().strip_suffix(',').and_then(|line| line.split_once(" = ")) else {
            continue;
        };
        let is_name = name.starts_with(|character: char| character.is_ascii_uppercase())
            && name.chars().all(|character| character.is_ascii_alphanumeric());
        if let (true, Ok(number)) = (is_name, number.parse::<u16>()) {
            codes.insert(format!("FL-{number:04}"), index + 1);
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn codes_and_pages_must_agree_both_ways() {
        let table = file(TABLE, "pub enum Code {\n    /// Doc.\n    NotJson = 1001,\n    Internal = 1999,\n}\n");
        let page = |code: &str| file(&format!("docs/errors/{code}.md"), &format!("# {code}\n"));
        assert_eq!(documented(&[table.clone(), page("FL-1001"), page("FL-1999")]), []);
        let missing = documented(&[table.clone(), page("FL-1001")]);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].line, Some(4));
        let surplus = documented(&[table.clone(), page("FL-1001"), page("FL-1999"), page("FL-1500")]);
        assert_eq!(surplus.len(), 1);
        assert_eq!(surplus[0].path, "docs/errors/FL-1500.md");
        let wrong = documented(&[table, page("FL-1001"), file("docs/errors/FL-1999.md", "# Other\n")]);
        assert_eq!(wrong.len(), 1);
    }

    #[test]
    fn a_table_that_moved_is_a_problem() {
        assert_eq!(documented(&[]).len(), 1);
        assert_eq!(documented(&[file(TABLE, "enum Code {}\n")]).len(), 1);
    }
}
