//! What a query looks for: its words, each with others that mean the same where tools are named.
//!
//! People and models ask in their own words ("land a PR"), tools are named in those of an API ("pulls_merge"). The table below
//! is general: words of software, of the web and of an office, not of any one server. A word may stand in several groups.

use super::words;
use std::collections::HashMap;

/// A word of a query.
#[derive(Debug, PartialEq)]
pub(crate) struct Term {
    pub(crate) word: Box<str>,
    /// Words that mean the same, and how nearly: at most 1.
    pub(crate) others: Vec<(Box<str>, f32)>,
}

/// Expressions of several words, and what is looked for besides.
const PHRASES: &[(&str, &str)] = &[
    ("pull request", "pull pr"),
    ("get rid of", "delete"),
    ("turn on", "enable"),
    ("switch on", "enable"),
    ("turn off", "disable"),
    ("switch off", "disable"),
    ("sign up", "register"),
    ("knock out", "remove"),
    ("kick out", "remove"),
    ("bring back", "restore"),
    ("look up", "get search"),
    ("hand over", "transfer"),
    ("how many", "count"),
    ("number of", "count"),
    ("how much", "usage"),
    ("log out", "output"),
    ("thumbs up", "reaction"),
    ("take off", "remove"),
    ("shut down", "stop"),
    ("what is in", "list content"),
    ("spin up", "create"),
    ("set up", "create configure"),
    ("up to date", "update"),
    ("my own", "authenticated"),
    ("bill of materials", "sbom"),
];

/// Words that mean the same.
const GROUPS: &[&str] = &[
    "create add make new open start write file insert register define set",
    "delete remove destroy drop erase clear discard revoke kick forget",
    "list show see view display enumerate everything every which",
    "get read fetch retrieve look show obtain view",
    "find search look query lookup locate discover",
    "update change edit modify set alter adjust replace",
    "send post publish submit push say tell",
    "stop cancel abort end terminate halt shut",
    "start run trigger launch begin dispatch execute open",
    "rerun retry redeliver repeat again",
    "enable activate allow permit",
    "disable deactivate forbid",
    "restrict limit prevent block stop",
    "assign assignee",
    "member people person user someone teammate colleague developer contributor",
    "invite invitation",
    "repository repo project",
    "organization org company",
    "pr pull merge",
    "comment reply answer remark respond note",
    "issue ticket bug defect",
    "label tag",
    "image picture photo screenshot",
    "snapshot screenshot",
    "folder directory",
    "file document",
    "rename move",
    "page site website web url",
    "log output",
    "message text chat",
    "channel room",
    "route direction path",
    "altitude elevation height",
    "coordinate latitude longitude geocode location",
    "address location place",
    "restaurant shop store place business",
    "customer client account contact",
    "pipeline ci workflow",
    "build check run",
    "job task",
    "machine runner",
    "secret credential password token key",
    "vulnerability alert finding weakness",
    "dependency package library",
    "version release",
    "newest latest recent",
    "permission access role right",
    "admin administrator owner",
    "email mail",
    "cost spend spending spent price billing usage bill bills charge",
    "budget limit",
    "seat license",
    "like thumbs reaction react emoji heart",
    "starred star favorite",
    "notification inbox unread",
    "follow follower",
    "snippet gist",
    "profile account user",
    "bio profile user",
    "download export",
    "upload import attach",
    "database db mongo mongodb",
    "collection table",
    "document record row",
    "field column",
    "graph relation connect link",
    "fact observation remember",
    "knowledge know memory remember",
    "browser page tab",
    "button click press",
    "dropdown select option choose",
    "form fill",
    "javascript script js",
    "performance fast speed slow",
    "network http request",
    "traffic view visit visitor referrer",
    "paper academic article",
    "scrape extract crawl",
    "think thought sequential reasoning",
    "merged land squash",
    "diff change compare",
    "branch ref reference",
    "sub child",
    "block blocked blocking depend dependency",
    "history timeline event",
    "webhook hook notify",
    "environment staging",
    "template boilerplate",
    "contents content",
    "board project kanban",
    "hand transfer",
    "copy fork clone",
    "undo reset unstage",
    "stage add",
    "switch checkout",
    "advisory cve ghsa",
    "sbom bill materials",
    "discussion conversation",
    "invitation invite",
];

/// Bytes of a query for each word it may have.
const MAX_WORD: usize = 32;

/// Words for the one who asks. In an API it is the authenticated user.
const SELF: &[&str] = &["i", "me", "mine", "my", "myself", "own"];

/// The groups, made ready: for each word the others.
#[derive(Debug)]
pub(crate) struct Synonyms(HashMap<Box<str>, Vec<(Box<str>, f32)>>);

impl Synonyms {
    pub(crate) fn new() -> Self {
        let mut all: HashMap<Box<str>, Vec<(Box<str>, f32)>> = HashMap::new();
        for group in GROUPS {
            let stems: Vec<Box<str>> = group.split(' ').map(|word| words::stem(word.to_owned()).into()).collect();
            for word in &stems {
                let others = all.entry(word.clone()).or_default();
                for stem in &stems {
                    if stem != word && others.iter().all(|(other, _)| other != stem) {
                        others.push((stem.clone(), 1.0));
                    }
                }
            }
        }
        let asking = [("authenticated", 2.0), ("user", 0.75)];
        let asking: Vec<_> =
            asking.into_iter().map(|(other, counts)| (words::stem(other.to_owned()).into(), counts)).collect();
        for word in SELF {
            all.insert((*word).into(), asking.clone());
        }
        Self(all)
    }

    /// The words of a query, each once, at most `most`.
    pub(crate) fn query(&self, text: &str, most: usize) -> Vec<Term> {
        let mut text = text[..text.floor_char_boundary(most * MAX_WORD)].to_lowercase();
        for (phrase, meaning) in PHRASES {
            if text.contains(phrase) {
                text.push(' ');
                text.push_str(meaning);
            }
        }
        let mut terms: Vec<Term> = Vec::new();
        for word in words::terms(&text) {
            if terms.len() < most && terms.iter().all(|term| *term.word != *word) {
                let others = self.0.get(&*word).cloned().unwrap_or_default();
                terms.push(Term { others, word: word.into() });
            }
        }
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_brings_its_group() {
        let terms = Synonyms::new().query("Get rid of the branches", 32);
        let words: Vec<_> = terms.iter().map(|term| &*term.word).collect();
        assert_eq!(words, ["get", "rid", "branch", "delet"]);
        assert!(terms[3].others.iter().any(|(word, _)| **word == *"remov"));
        assert!(Synonyms::new().query("zebra", 32)[0].others.is_empty());
        assert_eq!(Synonyms::new().query(&"word ".repeat(10), 3).len(), 1);
        assert_eq!(Synonyms::new().query("a b c d e f g h", 3).len(), 3);
    }
}
