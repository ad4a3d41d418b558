//! What a search answers: the tools that were found, with as much of their definitions as the tokens allow.

use super::{
    bm25::Index,
    catalog::{Catalog, Tool},
    trim::{self, Level},
};
use fairlead_config::Find;
use fairlead_core::tokens;
use fairlead_wire::message;
use serde::Deserialize;

/// Tools in one answer at most, whatever is asked for.
pub(super) const MAX_TOOLS: usize = 20;
/// Further tools that an answer only names.
const MAX_ALSO: usize = 15;
/// Tokens of what is around the tools.
const FRAME: usize = 40;
/// Members of a tool that a model needs to call it.
const MEMBERS: &[&str] = &["name", "description", "inputSchema"];
/// Parameters that an outline names.
const OUTLINED: usize = 16;

/// The arguments of `find_tools`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) query: String,
    #[serde(default)]
    pub(super) names: Vec<String>,
    pub(super) server: Option<String>,
    pub(super) limit: Option<usize>,
}

/// A tool in all the ways it can be told, from the whole to a line.
struct Told {
    forms: Vec<String>,
    costs: Vec<usize>,
}

impl Told {
    fn new(tool: &Tool) -> Self {
        let text = tool.text();
        let levels = [Level::Plain, Level::Brief, Level::Terse, Level::Names];
        let mut forms: Vec<String> = levels
            .into_iter()
            .map(|level| {
                let form = trim::tool(text, level, Some(MEMBERS));
                if level == Level::Plain { form } else { marked(form) }
            })
            .collect();
        let brief = trim::tool(text, Level::Terse, Some(&["name", "description"]));
        let outline = message::quote(&trim::parameters(text, OUTLINED));
        forms.push(marked(format!("{},\"parameters\":{outline}}}", &brief[..brief.len() - 1])));
        let costs = forms.iter().map(|form| tokens::estimate(form)).collect();
        Self { forms, costs }
    }

    fn least(&self) -> usize {
        self.costs.iter().copied().min().unwrap_or(0)
    }
}

/// Says of a tool that there is more to it.
fn marked(tool: String) -> String {
    format!("{},\"shortened\":true}}", &tool[..tool.len() - 1])
}

/// The answer to a search as JSON, within the bound of tokens.
pub(super) fn search(catalog: &Catalog, index: &Index, find: Find, asked: &Asked) -> String {
    let is_wanted = |at: &usize| asked.server.as_deref().is_none_or(|server| *catalog.tools[*at].server == *server);
    let ranked: Vec<usize> = index.search(&asked.query, usize::MAX).into_iter().filter(is_wanted).collect();
    if ranked.is_empty() {
        let servers: Vec<_> = catalog.servers().iter().map(|(name, _)| (*name).to_owned()).collect();
        let hint = format!("nothing matches; try other words. There are tools of: {}", servers.join(", "));
        return format!("{{\"tools\":[],\"hint\":{}}}", message::quote(&clipped(&hint, find.tokens)));
    }
    let limit = asked.limit.unwrap_or(find.tools).clamp(1, MAX_TOOLS);
    let tools: Vec<Told> = ranked.iter().take(limit).map(|at| Told::new(&catalog.tools[*at])).collect();
    let (forms, mut left) = fit(&tools, find.tokens.saturating_sub(FRAME));
    let mut also = Vec::new();
    for at in ranked.iter().skip(forms.len()).take(MAX_ALSO) {
        let tool = trim::tool(catalog.tools[*at].text(), Level::Terse, Some(&["name", "description"]));
        let line = line(&tool);
        let cost = tokens::estimate(&line) + 1;
        if cost > left {
            break;
        }
        left -= cost;
        also.push(line);
    }
    let also = if also.is_empty() { String::new() } else { format!(",\"also\":[{}]", also.join(",")) };
    format!("{{\"tools\":[{}]{also}}}", forms.join(","))
}

/// Exact definitions. The first is always there as it is; the others as far as the tokens reach.
pub(super) fn describe(catalog: &Catalog, find: Find, asked: &Asked) -> String {
    let mut unknown = Vec::new();
    let mut tools: Vec<&Tool> = Vec::new();
    for name in asked.names.iter().take(MAX_TOOLS) {
        match catalog.get(name) {
            Some(tool) => tools.push(tool),
            None => unknown.push(message::quote(&name.chars().take(128).collect::<String>())),
        }
    }
    let mut forms = Vec::new();
    let told: Vec<Told> = tools.iter().skip(1).map(|tool| Told::new(tool)).collect();
    if let Some(first) = tools.first() {
        forms.push(trim::tool(first.text(), Level::Whole, Some(MEMBERS)));
        let left = find.tokens.saturating_sub(FRAME + tokens::estimate(&forms[0]));
        forms.extend(fit(&told, left).0.into_iter().map(str::to_owned));
    }
    let unknown = if unknown.is_empty() { String::new() } else { format!(",\"unknown\":[{}]", unknown.join(",")) };
    format!("{{\"tools\":[{}]{unknown}}}", forms.join(","))
}

/// The best form of each tool such that all fit: all in the same if need be, then better ones for the first. The last are
/// left out where not even a line each has room. Also says how many tokens are left.
fn fit(tools: &[Told], tokens: usize) -> (Vec<&str>, usize) {
    let mut tools = tools;
    while tools.iter().map(Told::least).sum::<usize>() > tokens {
        let Some((_, rest)) = tools.split_last() else { break };
        tools = rest;
    }
    let Some(first) = tools.first() else { return (Vec::new(), tokens) };
    let cheapest = first.forms.len() - 1;
    let sum = |level: usize| tools.iter().map(|tool| tool.costs[level]).sum::<usize>();
    let common = (0..=cheapest).find(|level| sum(*level) <= tokens).unwrap_or(cheapest);
    let mut left = tokens.saturating_sub(sum(common));
    let forms = tools
        .iter()
        .map(|tool| {
            let own = tool.costs[common];
            let level = (0..=common).find(|level| tool.costs[*level] <= own + left).unwrap_or(common);
            left = (left + own).saturating_sub(tool.costs[level]);
            tool.forms[level].as_str()
        })
        .collect();
    (forms, left)
}

/// A tool in one line: its name and its first sentence.
fn line(tool: &str) -> String {
    let member = |key| fairlead_wire::list::string_member(tool, key).unwrap_or_default();
    message::quote(format!("{}: {}", member("name"), member("description")).trim_end_matches([' ', ':']))
}

/// A text of about so many tokens at most.
fn clipped(text: &str, tokens: usize) -> String {
    text.chars().take(tokens.saturating_mul(3)).collect()
}
