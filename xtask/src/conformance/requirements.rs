//! The frozen sets of scenarios that a revision requires, as they stand in the suite's package.

use anyhow::{Context, Result, bail};

use crate::tools::{CONFORMANCE_NEW, Cache};

/// The scenarios that `revision` requires of a `leg` (`server` or `client`).
pub(super) fn required(cache: &Cache, revision: &str, leg: &str) -> Result<Vec<String>> {
    let package = "node_modules/@modelcontextprotocol/conformance/requirements";
    let path = cache.path(&format!("{CONFORMANCE_NEW}/{package}/{revision}.yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let required = items(&text, leg);
    if required.is_empty() {
        bail!("{} requires nothing of a {leg}", path.display());
    }
    Ok(required)
}

/// The items of one list at the top of a YAML file: `key:` and then lines `  - item`.
fn items(text: &str, key: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| line.strip_suffix(':') != Some(key)).skip(1);
    let items = lines.by_ref().map_while(|line| line.strip_prefix("  - "));
    items.map(|item| item.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_another_begins() {
        let text = "# server:\nserver:\n  - a\n  - b-c\n\nclient:\n  - auth/d\nnot_scored:\n  - scenario: e\n";
        assert_eq!(items(text, "server"), ["a", "b-c"]);
        assert_eq!(items(text, "client"), ["auth/d"]);
        assert_eq!(items(text, "other"), [""; 0]);
    }
}
