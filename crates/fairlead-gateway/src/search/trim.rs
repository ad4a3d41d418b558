//! A tool in fewer words. Its definition is read member by member and written again without some of them; what stays, stays
//! as it was spelled, in its order. A trimmed schema never permits less than the whole one, so that a call that is right
//! stays right; the server checks the arguments in any case.

use super::bm25::first_sentence;
use fairlead_wire::{list, message};
use std::fmt::Write as _;

/// How much is left out. Each level leaves out what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    Whole,
    /// Output schema, icons, and in the input schema what only people read (titles, examples, comments).
    Plain,
    /// Descriptions are cut: the tool's to 240 characters, a parameter's to its first sentence and 80 characters.
    Brief,
    /// The tool's is cut to its first sentence and 120 characters, parameters have none.
    Terse,
    /// Of a parameter its name and type remain.
    Names,
}

impl Level {
    pub(crate) const ALL: [Self; 5] = [Self::Whole, Self::Plain, Self::Brief, Self::Terse, Self::Names];

    /// What is left out, for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Whole => "nothing",
            Self::Plain => "output schemas and examples",
            Self::Brief => "long descriptions",
            Self::Terse => "descriptions of parameters",
            Self::Names => "everything of a parameter but its name and type",
        }
    }

    /// Characters of a tool's description.
    fn description(self) -> usize {
        match self {
            Self::Whole | Self::Plain => usize::MAX,
            Self::Brief => 240,
            Self::Terse | Self::Names => 120,
        }
    }
}

/// Characters of a parameter's description at [`Level::Brief`].
const PARAMETER_TEXT: usize = 80;
/// Values of an enumeration that [`Level::Terse`] keeps.
const ENUM_VALUES: usize = 12;

/// A listed tool, trimmed. `members` says which members of it are kept at all; `None` all of them.
pub(crate) fn tool(raw: &str, level: Level, members: Option<&[&str]>) -> String {
    let Ok(entries) = list::entries(raw) else { return raw.to_owned() };
    if level == Level::Whole && members.is_none() {
        return raw.to_owned();
    }
    let mut out = Object::new(raw.len());
    for (key, value) in entries {
        if members.is_some_and(|members| !members.contains(&&*key)) {
            continue;
        }
        match &*key {
            "outputSchema" | "icons" if level >= Level::Plain => {}
            "description" if level >= Level::Brief => out.text(&key, value, level >= Level::Terse, level.description()),
            "inputSchema" if level == Level::Names => outline(value, out.key(&key)),
            "inputSchema" => schema(value, level, out.key(&key)),
            _ => out.raw(&key, value),
        }
    }
    out.end()
}

/// An object as it is written.
struct Object(String);

impl Object {
    fn new(capacity: usize) -> Self {
        let mut out = String::with_capacity(capacity);
        out.push('{');
        Self(out)
    }

    fn key(&mut self, key: &str) -> &mut String {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&message::quote(key));
        self.0.push(':');
        &mut self.0
    }

    fn raw(&mut self, key: &str, value: &str) {
        self.key(key).push_str(value);
    }

    /// A text of at most `most` characters, or of one sentence.
    fn text(&mut self, key: &str, raw: &str, sentence: bool, most: usize) {
        let Ok(text) = serde_json::from_str::<String>(raw) else { return self.raw(key, raw) };
        let whole = text.trim();
        let mut short = if sentence { &whole[..first_sentence(whole)] } else { whole };
        if let Some((end, _)) = short.char_indices().nth(most) {
            short = &short[..end];
            // Not in the middle of a word, where there is a choice.
            short = short.rfind(' ').filter(|at| *at > most / 2).map_or(short, |at| &short[..at]);
            self.key(key).push_str(&message::quote(&format!("{short}…")));
        } else if short.len() == text.len() {
            self.raw(key, raw);
        } else {
            self.key(key).push_str(&message::quote(short));
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A schema, trimmed. Frames are not nested deeper than [`fairlead_wire::Limits`] allows, and so this is not either.
fn schema(raw: &str, level: Level, out: &mut String) {
    let Ok(entries) = list::entries(raw) else { return out.push_str(raw) };
    if level == Level::Whole {
        return out.push_str(raw);
    }
    let mut object = Object::new(raw.len());
    for (key, value) in entries {
        match &*key {
            "$schema" | "$comment" | "title" | "example" | "examples" | "markdownDescription" => {}
            "description" if level >= Level::Terse => {}
            "description" if level == Level::Brief => object.text(&key, value, true, PARAMETER_TEXT),
            "enum" if level >= Level::Terse && items(raw, "enum") > ENUM_VALUES => {}
            // Members are named here, not described.
            "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
                named(value, level, object.key(&key));
            }
            "items"
            | "additionalProperties"
            | "not"
            | "if"
            | "then"
            | "else"
            | "contains"
            | "propertyNames"
            | "unevaluatedProperties"
            | "unevaluatedItems"
                if value.starts_with('{') =>
            {
                schema(value, level, object.key(&key));
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" if value.starts_with('[') => {
                let all = list::items(raw, &key).unwrap_or_default();
                let out = object.key(&key);
                out.push('[');
                for (at, one) in all.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    schema(one, level, out);
                }
                out.push(']');
            }
            _ => object.raw(&key, value),
        }
    }
    out.push_str(&object.end());
}

fn named(raw: &str, level: Level, out: &mut String) {
    let Ok(entries) = list::entries(raw) else { return out.push_str(raw) };
    let mut object = Object::new(raw.len());
    for (name, value) in entries {
        schema(value, level, object.key(&name));
    }
    out.push_str(&object.end());
}

/// Elements of a list.
fn items(raw: &str, member: &str) -> usize {
    list::items(raw, member).map_or(0, |items| items.len())
}

/// A schema of which names and types are left. What its client needs to route by (`x-mcp-header`) stays.
fn outline(raw: &str, out: &mut String) {
    let mut object = Object::new(raw.len());
    object.raw("type", list::raw_member(raw, "type").unwrap_or("\"object\""));
    if let Some(properties) = list::raw_member(raw, "properties").and_then(|all| list::entries(all).ok()) {
        let mut inner = Object::new(raw.len());
        for (name, value) in properties {
            let mut property = Object::new(16);
            for keep in ["type", "x-mcp-header"] {
                if let Some(value) = list::raw_member(value, keep) {
                    property.raw(keep, value);
                }
            }
            if (1..=ENUM_VALUES).contains(&items(value, "enum"))
                && let Some(values) = list::raw_member(value, "enum")
            {
                property.raw("enum", values);
            }
            inner.raw(&name, &property.end());
        }
        object.raw("properties", &inner.end());
    }
    if let Some(required) = list::raw_member(raw, "required") {
        object.raw("required", required);
    }
    out.push_str(&object.end());
}

/// The parameters of a tool in one line: their names, those with `?` that may be left out.
pub(crate) fn parameters(raw: &str, most: usize) -> String {
    let Some(schema) = list::raw_member(raw, "inputSchema") else { return String::new() };
    let required: Vec<String> = list::items(schema, "required")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| serde_json::from_str(name).ok())
        .collect();
    let names = list::raw_member(schema, "properties").and_then(|all| list::entries(all).ok()).unwrap_or_default();
    let is_required = |name: &str| required.iter().any(|required| required == name);
    let (first, rest): (Vec<_>, Vec<_>) = names.iter().partition(|(name, _)| is_required(name));
    let mut line = String::new();
    for (at, (name, _)) in first.into_iter().chain(rest).enumerate() {
        if at == most {
            line.push_str(", …");
            break;
        }
        let _ = write!(line, "{}{name}{}", if at > 0 { ", " } else { "" }, if is_required(name) { "" } else { "?" });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: &str = r##"{"name":"s__t","title":"T","description":"Does it. And then tells at length.\nMore.","inputSchema":{"$schema":"x","type":"object","title":"args","properties":{"description":{"type":"string","description":"What it is. In detail.","examples":["a"]},"n":{"anyOf":[{"type":"integer","description":"a number","minimum":1.50},{"$ref":"#/$defs/d"}]},"mode":{"type":"string","enum":["a","b"],"x-mcp-header":"Mode"}},"$defs":{"d":{"type":"object","properties":{"title":{"type":"string","title":"x"}}}},"required":["n"]},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"_meta":{"k":1}}"##;

    #[test]
    fn levels_leave_out_more_and_more() {
        let at = |level| tool(TOOL, level, None);
        assert_eq!(at(Level::Whole), TOOL);
        insta::assert_snapshot!(Level::ALL[1..].iter().map(|level| at(*level)).collect::<Vec<_>>().join("\n"), @r##"
        {"name":"s__t","title":"T","description":"Does it. And then tells at length.\nMore.","inputSchema":{"type":"object","properties":{"description":{"type":"string","description":"What it is. In detail."},"n":{"anyOf":[{"type":"integer","description":"a number","minimum":1.50},{"$ref":"#/$defs/d"}]},"mode":{"type":"string","enum":["a","b"],"x-mcp-header":"Mode"}},"$defs":{"d":{"type":"object","properties":{"title":{"type":"string"}}}},"required":["n"]},"annotations":{"readOnlyHint":true},"_meta":{"k":1}}
        {"name":"s__t","title":"T","description":"Does it. And then tells at length.\nMore.","inputSchema":{"type":"object","properties":{"description":{"type":"string","description":"What it is."},"n":{"anyOf":[{"type":"integer","description":"a number","minimum":1.50},{"$ref":"#/$defs/d"}]},"mode":{"type":"string","enum":["a","b"],"x-mcp-header":"Mode"}},"$defs":{"d":{"type":"object","properties":{"title":{"type":"string"}}}},"required":["n"]},"annotations":{"readOnlyHint":true},"_meta":{"k":1}}
        {"name":"s__t","title":"T","description":"Does it.","inputSchema":{"type":"object","properties":{"description":{"type":"string"},"n":{"anyOf":[{"type":"integer","minimum":1.50},{"$ref":"#/$defs/d"}]},"mode":{"type":"string","enum":["a","b"],"x-mcp-header":"Mode"}},"$defs":{"d":{"type":"object","properties":{"title":{"type":"string"}}}},"required":["n"]},"annotations":{"readOnlyHint":true},"_meta":{"k":1}}
        {"name":"s__t","title":"T","description":"Does it.","inputSchema":{"type":"object","properties":{"description":{"type":"string"},"n":{},"mode":{"type":"string","x-mcp-header":"Mode","enum":["a","b"]}},"required":["n"]},"annotations":{"readOnlyHint":true},"_meta":{"k":1}}
        "##);
        let mut before = usize::MAX;
        for level in Level::ALL {
            let text = at(level);
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
            assert!(text.len() < before, "{level:?}");
            before = text.len();
        }
    }

    #[test]
    fn members_may_be_chosen() {
        assert_eq!(
            tool(r#"{"name":"a","x":1.10,"inputSchema":true}"#, Level::Names, Some(&["name", "x"])),
            r#"{"name":"a","x":1.10}"#
        );
        assert_eq!(parameters(TOOL, 9), "n, description?, mode?");
        assert_eq!(parameters(TOOL, 1), "n, …");
        assert_eq!(parameters("{}", 9), "");
    }

    #[test]
    fn long_texts_end_between_words() {
        let long = format!(r#"{{"name":"a","description":"{}"}}"#, "word ".repeat(100));
        let short = tool(&long, Level::Brief, None);
        assert!(short.len() < 300 && short.ends_with("word…\"}"), "{short}");
        // What is not as it should be stays as it is.
        for odd in
            ["[]", r#"{"name":"a","description":7}"#, r#"{"inputSchema":[1]}"#, r#"{"inputSchema":{"anyOf":{}}}"#]
        {
            let text = tool(odd, Level::Terse, None);
            assert_eq!(text, odd);
        }
    }
}
