//! Text as the words a search compares: identifiers taken apart, endings taken off, filler left out.
//!
//! This is for English and for identifiers, because that is what names and descriptions of tools are made of. The stemmer is a
//! light one on purpose: it only has to bring the forms of one word together ("merged", "merging", "merges"), and being
//! wrong in the same way on both sides does no harm.

/// Words that say nothing about what is looked for.
const FILLER: &[&str] = &[
    "a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can",
    "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "here", "his", "how", "if", "in", "into",
    "is", "it", "its", "let", "may", "might", "must", "no", "not", "of", "on", "only", "or", "our", "out", "please",
    "s", "shall", "she", "should", "so", "some", "somebody", "someone", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "those", "to", "up", "us", "via", "want", "was", "we", "were", "what", "when",
    "where", "which", "who", "whom", "why", "will", "with", "would", "you", "your",
];

/// Endings that make one kind of word of another, longer ones before those they end in.
const DERIVED: &[&str] = &[
    "ization", "isation", "ation", "ition", "ment", "ness", "ance", "ence", "able", "ible", "ion", "or", "er", "al",
    "ity", "ive", "ly",
];

/// The words of a text, in order: lower case, endings taken off, filler left out.
pub(crate) fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    split(text, |word| {
        let word = word.to_lowercase();
        if FILLER.binary_search(&word.as_str()).is_err() {
            terms.push(stem(word));
        }
    });
    terms
}

/// Calls `word` with each word: a run of letters or of digits, ended also where an identifier in camel case begins its
/// next word (`listIssues`, `HTTPServer`).
fn split<'a>(text: &'a str, mut word: impl FnMut(&'a str)) {
    let mut start = None;
    let mut chars = text.char_indices().peekable();
    let mut before = ' ';
    while let Some((at, this)) = chars.next() {
        let after = chars.peek().map_or(' ', |(_, after)| *after);
        let begins = start.is_some()
            && (before.is_numeric() != this.is_numeric()
                || (this.is_uppercase() && (before.is_lowercase() || after.is_lowercase())));
        if (!this.is_alphanumeric() || begins)
            && let Some(start) = start.take()
        {
            word(&text[start..at]);
        }
        if this.is_alphanumeric() && start.is_none() {
            start = Some(at);
        }
        before = this;
    }
    if let Some(start) = start {
        word(&text[start..]);
    }
}

/// A word without the endings of its forms. Words of three letters, and those that are not plain English letters, stay.
pub(crate) fn stem(mut word: String) -> String {
    if word.len() <= 3 || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return word;
    }
    plural(&mut word);
    for ending in ["ing", "ed"] {
        let Some(rest) = word.strip_suffix(ending) else { continue };
        if rest.len() >= 3 && rest.bytes().any(|byte| b"aeiouy".contains(&byte)) {
            word.truncate(rest.len());
            let bytes = word.as_bytes();
            let last = bytes[bytes.len() - 1];
            // "stopped", but not "fill", "pass" or "fizz".
            if bytes.len() > 3 && bytes[bytes.len() - 2] == last && !b"lsz".contains(&last) {
                word.pop();
            }
        }
        break;
    }
    // "contributor" and "contribution": what makes one kind of word of another.
    if let Some(ending) = DERIVED.iter().find(|ending| word.ends_with(**ending) && word.len() >= ending.len() + 4) {
        word.truncate(word.len() - ending.len());
    }
    if word.len() > 4 && word.ends_with('e') {
        word.pop();
    }
    if word.len() > 3 && word.ends_with('y') {
        word.pop();
        word.push('i');
    }
    word
}

fn plural(word: &mut String) {
    if ["ss", "us", "is"].iter().any(|ending| word.ends_with(ending)) {
        return;
    }
    for (ending, instead) in [("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", "")] {
        if word.ends_with(ending) && word.len() - ending.len() >= 2 {
            word.truncate(word.len() - ending.len());
            word.push_str(instead);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_taken_apart() {
        for (text, expected) in [
            ("listOpenIssues", "list open issu"),
            ("HTTPServer2go", "http serv 2 go"),
            ("create_or_update-file.contents", "creat updat file content"),
            ("crm__get_customer", "crm get custom"),
            ("Größe ändern", "größe ändern"),
            ("what is the e-mail of X?", "e mail x"),
            ("日本 語", "日本 語"),
            ("", ""),
            ("--", ""),
        ] {
            assert_eq!(terms(text).join(" "), expected, "{text}");
        }
    }

    #[test]
    fn forms_of_a_word_meet() {
        for forms in [
            &["merge", "merges", "merged", "merging"][..],
            &["stop", "stops", "stopped", "stopping"],
            &["reply", "replies", "replied"],
            &["branch", "branches"],
            &["repository", "repositories"],
            &["delete", "deletes", "deleted", "deleting"],
            &["fill", "filled", "filling"],
            &["status"],
            &["contributor", "contribution", "contributed"],
        ] {
            let stems: Vec<_> = forms.iter().map(|form| stem((*form).to_owned())).collect();
            assert!(stems.iter().all(|stem| *stem == stems[0]), "{forms:?}: {stems:?}");
        }
        assert_ne!(stem("issue".into()), stem("ism".into()));
    }

    #[test]
    fn filler_is_in_order() {
        assert!(FILLER.is_sorted());
    }
}
