//! BM25 over tools: which of them a few words are about. Lexical, in memory, deterministic.
//!
//! Three things are added to the textbook, each because it was measured to help (`docs/search.md`). *Fields* (BM25F): a word in
//! a tool's name counts for more than one in the description of a parameter. *Groups*: a word is looked for together with the
//! words of the field that mean the same, as one term, so that a rare neighbour does not outweigh the common word that was meant.
//! *Coverage*: of two tools that match alike, the one whose name says little else is meant, and so is the one that
//! matches more of what was asked.

use super::{
    synonyms::{Synonyms, Term},
    words,
};
use std::collections::HashMap;

/// How soon more of the same word stops to count.
const K1: f32 = 1.2;
/// What a word of the same group counts, where the word itself counts 1.
const SYNONYM: f32 = 0.4;
/// The same for the question how much of a name was asked for.
const SYNONYM_IN_NAME: f32 = 0.5;
/// How far the score depends on the share of the name that was asked for, and on the share of the question that is matched.
const NAME_COVERAGE: f32 = 0.5;
const QUERY_COVERAGE: f32 = 0.5;
/// Bytes of one text that are looked at: descriptions that go on for longer say nothing new.
const MAX_TEXT: usize = 2_000;
/// Words of a query that are looked for.
const MAX_QUERY: usize = 32;

/// What a tool says of itself, field by field.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The server's own name for it.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) description: String,
    /// Names of parameters, with spaces between them.
    pub(crate) parameters: String,
    /// Their descriptions.
    pub(crate) parameter_texts: String,
    pub(crate) server: String,
}

/// A field: what a word in it counts, and how much its length matters (0 not at all, 1 in proportion).
struct Weight {
    counts: f32,
    length: f32,
}

const FIELDS: [Weight; 7] = [
    // The name.
    Weight { counts: 3.0, length: 0.3 },
    // The title.
    Weight { counts: 2.0, length: 0.3 },
    // The first sentence of the description, which says what the tool does.
    Weight { counts: 3.0, length: 0.3 },
    // The rest of it.
    Weight { counts: 0.3, length: 0.6 },
    // Names of parameters, then their descriptions.
    Weight { counts: 0.6, length: 0.6 },
    Weight { counts: 0.3, length: 0.7 },
    // The server.
    Weight { counts: 1.5, length: 0.0 },
];

/// The words of many tools, and where they are.
#[derive(Debug)]
pub(crate) struct Index {
    /// For each word the tools that have it, in order, with the weight it has there.
    postings: HashMap<Box<str>, Vec<(u32, f32)>>,
    /// The words of each name, each once.
    names: Vec<Box<[Box<str>]>>,
    synonyms: Synonyms,
}

impl Index {
    pub(crate) fn new(documents: impl IntoIterator<Item = Document>) -> Self {
        let texts: Vec<[Vec<String>; 7]> = documents.into_iter().map(fields).collect();
        let mut average = [0.0; 7];
        for text in &texts {
            for (sum, field) in average.iter_mut().zip(text) {
                *sum += field.len() as f32 / texts.len() as f32;
            }
        }
        let mut index =
            Self { postings: HashMap::new(), names: Vec::with_capacity(texts.len()), synonyms: Synonyms::new() };
        for (at, text) in texts.into_iter().enumerate() {
            let mut weights: HashMap<&str, f32> = HashMap::new();
            for ((field, weight), average) in text.iter().zip(&FIELDS).zip(average) {
                let length = field.len() as f32 / average.max(1.0);
                let each = weight.counts / (1.0 - weight.length + weight.length * length);
                for word in field {
                    *weights.entry(word).or_default() += each;
                }
            }
            for (word, weight) in weights {
                let posting = (u32::try_from(at).unwrap_or(u32::MAX), weight);
                match index.postings.get_mut(word) {
                    Some(postings) => postings.push(posting),
                    None => drop(index.postings.insert(word.into(), vec![posting])),
                }
            }
            let mut name: Vec<Box<str>> = text[0].iter().map(|word| word.as_str().into()).collect();
            name.sort_unstable();
            name.dedup();
            index.names.push(name.into());
        }
        index
    }

    /// The best tools for a query, best first; equals in their own order. Only such as match at all.
    pub(crate) fn search(&self, query: &str, most: usize) -> Vec<usize> {
        let asked = self.synonyms.query(query, MAX_QUERY);
        let mut scores: HashMap<u32, Score> = HashMap::new();
        let mut whole = 0.0;
        // What of a name counts as asked for.
        let mut wanted: HashMap<&str, f32> = HashMap::new();
        for term in &asked {
            wanted.insert(&term.word, 1.0);
            for (other, _) in &term.others {
                wanted.entry(other).or_insert(SYNONYM_IN_NAME);
            }
            let matched = self.matched(term);
            if matched.is_empty() {
                continue;
            }
            // Between the word's own rarity and that of its group.
            let own = self.postings.get(&*term.word).map_or(matched.len(), Vec::len);
            let rarity = self.rarity((own + matched.len()) as f32 / 2.0);
            whole += rarity;
            for (document, weight) in matched {
                let score = scores.entry(document).or_default();
                score.value += rarity * weight * (K1 + 1.0) / (K1 + weight);
                score.asked += rarity;
            }
        }
        let mut ranked: Vec<(f32, u32)> = scores
            .into_iter()
            .map(|(document, score)| {
                let name = 1.0 - NAME_COVERAGE + NAME_COVERAGE * self.coverage(document, &wanted);
                let query = 1.0 - QUERY_COVERAGE + QUERY_COVERAGE * score.asked / whole.max(f32::MIN_POSITIVE);
                (score.value * name * query, document)
            })
            .collect();
        ranked.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        ranked.into_iter().take(most).map(|(_, document)| document as usize).collect()
    }

    /// The tools that have a word or one of its group, with the weight of all of these there.
    fn matched(&self, term: &Term) -> HashMap<u32, f32> {
        let mut matched: HashMap<u32, f32> = HashMap::new();
        let own = std::iter::once((&*term.word, 1.0));
        for (word, counts) in own.chain(term.others.iter().map(|(word, counts)| (&**word, counts * SYNONYM))) {
            for (document, weight) in self.postings.get(word).into_iter().flatten() {
                *matched.entry(*document).or_default() += weight * counts;
            }
        }
        matched
    }

    fn rarity(&self, documents: f32) -> f32 {
        (1.0 + (self.names.len() as f32 - documents + 0.5) / (documents + 0.5)).ln()
    }

    /// The share of a name that was asked for, each word as much as it is rare.
    fn coverage(&self, document: u32, wanted: &HashMap<&str, f32>) -> f32 {
        let (mut all, mut asked) = (0.0, 0.0);
        for word in &self.names[document as usize] {
            let rarity = self.rarity(self.postings.get(word).map_or(0, Vec::len) as f32);
            all += rarity;
            asked += rarity * wanted.get(&**word).copied().unwrap_or(0.0);
        }
        if all > 0.0 { asked / all } else { 0.0 }
    }
}

#[derive(Default)]
struct Score {
    value: f32,
    /// Of the query, by rarity.
    asked: f32,
}

fn fields(document: Document) -> [Vec<String>; 7] {
    let description = clip(document.description.trim());
    let (first, rest) = description.split_at(first_sentence(description));
    [
        words::terms(clip(&document.name)),
        words::terms(clip(&document.title)),
        words::terms(first),
        words::terms(rest),
        words::terms(clip(&document.parameters)),
        words::terms(clip(&document.parameter_texts)),
        words::terms(clip(&document.server)),
    ]
}

/// Where the first sentence or line of a text ends.
pub(crate) fn first_sentence(text: &str) -> usize {
    let line = text.find('\n').unwrap_or(text.len());
    let ends = text[..line].match_indices(['.', '!', '?']).map(|(at, mark)| at + mark.len());
    ends.into_iter().find(|end| text[*end..line].starts_with(' ')).unwrap_or(line)
}

/// At most `MAX_TEXT` bytes.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(tools: &[(&str, &str, &str)]) -> Index {
        Index::new(tools.iter().map(|(server, name, description)| Document {
            name: (*name).to_owned(),
            description: (*description).to_owned(),
            server: (*server).to_owned(),
            ..Document::default()
        }))
    }

    #[test]
    fn the_tool_that_is_meant_comes_first() {
        let tools = [
            ("github", "issues_create", "Create an issue."),
            ("github", "issues_list-comments", "List issue comments."),
            ("github", "issues_create-comment", "Create an issue comment."),
            ("github", "repos_list-branches", "List branches."),
            ("files", "read_file", "Read a file from disk. Mentions issue comments in passing."),
            ("crm", "delete_contact", "Deletes a contact."),
        ];
        let index = index(&tools);
        for (query, expected) in [
            ("create an issue", "issues_create"),
            ("comments of an issue", "issues_list-comments"),
            ("add a comment to an issue", "issues_create-comment"),
            ("branches", "repos_list-branches"),
            ("READ files", "read_file"),
            ("get rid of a contact", "delete_contact"),
            ("crm", "delete_contact"),
        ] {
            assert_eq!(tools[index.search(query, 1)[0]].1, expected, "{query}");
        }
        assert_eq!(index.search("", 5), [0; 0]);
        assert_eq!(index.search("zebra", 5), [0; 0]);
        assert_eq!(index.search("issue", 2).len(), 2);
    }

    #[test]
    fn equals_keep_their_order_and_nothing_panics() {
        let index = index(&[("a", "same", ""), ("a", "same", ""), ("a", "", "")]);
        assert_eq!(index.search("same", 5), [0, 1]);
        assert_eq!(Index::new([]).search("x", 5), [0; 0]);
        let long = "ü".repeat(MAX_TEXT);
        let index = Index::new([Document { description: long.clone(), name: "x".into(), ..Document::default() }]);
        assert_eq!(index.search(&format!("x {long}"), 5), [0]);
        assert_eq!(index.search(&"x y z ".repeat(1000), 5), [0]);
    }

    #[test]
    fn sentences_end_where_they_end() {
        for (text, first) in [
            ("One. Two.", "One."),
            ("v1.2 of it", "v1.2 of it"),
            ("One\ntwo. three", "One"),
            ("What? Yes.", "What?"),
            ("", ""),
        ] {
            assert_eq!(&text[..first_sentence(text)], first);
        }
    }
}
