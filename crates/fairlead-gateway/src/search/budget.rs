//! A list of tools within a number of tokens: first every tool is told in fewer words, then tools are left out.
//!
//! The order is fixed, so that the same catalog gives the same list. All tools are trimmed alike, level by level
//! ([`Level`]), until the list fits. Where even names and types are too much, tools are kept in the order of the toolset's
//! `include` patterns, and those of one pattern in that of the list, until the budget is used up.

use super::trim::{self, Level};
use bytes::Bytes;
use fairlead_config::Toolset;
use fairlead_core::tokens;
use fairlead_wire::{list, message};

/// Names of dropped tools that a list repeats.
const MAX_NAMED: usize = 50;

/// What had to be left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Tokens that the list may take, and takes.
    pub(crate) tokens: usize,
    pub(crate) used: usize,
    pub(crate) level: Level,
    /// Tools that are not listed, in the list's order. They can be called all the same.
    pub(crate) dropped: Vec<String>,
}

impl Fit {
    /// `"fairlead/budget": ...`, for the result of a list.
    pub(crate) fn meta(&self) -> String {
        let named: Vec<_> = self.dropped.iter().take(MAX_NAMED).map(|name| message::quote(name)).collect();
        format!(
            "\"fairlead/budget\":{{\"tokens\":{},\"used\":{},\"left_out\":{},\"dropped\":{},\"dropped_names\":[{}]}}",
            self.tokens,
            self.used,
            message::quote(self.level.word()),
            self.dropped.len(),
            named.join(",")
        )
    }
}

/// The tools that are listed.
pub(crate) fn fit(toolset: &Toolset, tokens: usize, items: Vec<Bytes>) -> (Vec<Bytes>, Fit) {
    let mut fit = Fit { tokens, used: 0, level: Level::Whole, dropped: Vec::new() };
    let mut trimmed = items;
    let mut costs = Vec::new();
    for level in Level::ALL {
        if level > Level::Whole {
            trimmed = trimmed.iter().map(|item| shorter(item, level)).collect();
        }
        costs = trimmed.iter().map(|item| std::str::from_utf8(item).map_or(0, tokens::estimate)).collect();
        fit.level = level;
        fit.used = costs.iter().sum();
        if fit.used <= tokens {
            return (trimmed, fit);
        }
    }
    let names: Vec<String> = trimmed.iter().map(name).collect();
    let mut order: Vec<usize> = (0..trimmed.len()).collect();
    order.sort_by_key(|at| toolset.rank(&names[*at]));
    let mut kept = vec![false; trimmed.len()];
    fit.used = 0;
    for at in order {
        if fit.used + costs[at] > tokens {
            break;
        }
        fit.used += costs[at];
        kept[at] = true;
    }
    let mut items = Vec::new();
    for ((item, name), kept) in trimmed.into_iter().zip(names).zip(kept) {
        if kept { items.push(item) } else { fit.dropped.push(name) }
    }
    (items, fit)
}

fn shorter(item: &Bytes, level: Level) -> Bytes {
    std::str::from_utf8(item).map_or_else(|_| item.clone(), |text| trim::tool(text, level, None).into())
}

fn name(item: &Bytes) -> String {
    let text = std::str::from_utf8(item).unwrap_or_default();
    list::string_member(text, "name").map(std::borrow::Cow::into_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::{Glob, Mode};

    fn toolset(include: &[&str]) -> Toolset {
        let include = include.iter().map(|pattern| Glob::new(pattern).unwrap()).collect();
        Toolset {
            call_many: None,
            name: "t".into(),
            include,
            include_tags: Vec::new(),
            exclude_tags: Vec::new(),
            exclude: Vec::new(),
            tools: Vec::new(),
            mode: Mode::Full,
        }
    }

    fn tools(count: usize) -> Vec<Bytes> {
        let text = "Says what it is for. ".repeat(20);
        (0..count)
            .map(|at| {
                format!(
                    r#"{{"name":"{}__t{at}","description":"{text}","inputSchema":{{"type":"object","properties":{{"a":{{"type":"string","description":"{text}"}}}}}}}}"#,
                    if at % 2 == 0 { "x" } else { "y" }
                )
                .into()
            })
            .collect()
    }

    #[test]
    fn a_list_is_trimmed_no_further_than_needed() {
        let whole = fit(&toolset(&[]), 1_000_000, tools(10));
        assert_eq!((whole.0, whole.1.level), (tools(10), Level::Whole));
        let mut before = Level::Whole;
        for tokens in (100..2_200).rev().step_by(100) {
            let (items, fit) = fit(&toolset(&[]), tokens, tools(10));
            assert!(fit.used <= tokens && fit.level >= before, "{tokens}: {fit:?}");
            assert_eq!(items.len() + fit.dropped.len(), 10);
            assert!(fit.dropped.is_empty() || fit.level == Level::Names);
            before = fit.level;
        }
        assert_eq!(before, Level::Names);
    }

    #[test]
    fn tools_are_dropped_from_the_last_pattern() {
        let (items, fit) = fit(&toolset(&["y__*", "x__*"]), 200, tools(10));
        let kept: Vec<_> = items.iter().map(name).collect();
        assert!(fit.used <= 200 && fit.level == Level::Names);
        // Every `y` first; what is left of the budget goes to `x` in the list's order.
        assert_eq!(kept.iter().filter(|name| name.starts_with('y')).count(), kept.len().min(5), "{kept:?}");
        assert!(fit.dropped.iter().all(|name| !kept.contains(name)) && !fit.dropped.is_empty());
        assert!(fit.meta().starts_with("\"fairlead/budget\":{\"tokens\":200,"), "{}", fit.meta());
        assert!(super::fit(&toolset(&[]), 1, Vec::new()).1.dropped.is_empty());
    }
}
