//! Rules for Rust files.

use super::Problem;
use crate::workspace::TextFile;

/// Where the module documentation must have begun.
const DOC_WITHIN_LINES: usize = 30;
/// A longer file says at its top why.
const MAX_LINES: usize = 1000;
/// How a file says so.
const SIZE_REASON: &str = "//! Size:";

/// Whether rules for Rust sources apply to `path`.
pub(crate) fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// A file begins with what it is.
pub(crate) fn module_docs(file: &TextFile) -> Option<Problem> {
    let documented = file.text.lines().take(DOC_WITHIN_LINES).any(|line| line.starts_with("//!"));
    (!documented).then(|| Problem::in_file(&file.path, "no module documentation (`//!`)"))
}

/// Modules are `foo.rs` and `foo/`; names that say nothing are not modules.
pub(crate) fn module_file_name(file: &TextFile) -> Option<Problem> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    match name {
        "mod.rs" => Some(Problem::in_file(&file.path, "modules are foo.rs and foo/, not foo/mod.rs")),
        "utils.rs" | "util.rs" | "common.rs" | "helpers.rs" => {
            Some(Problem::in_file(&file.path, "this name says nothing about what is in it"))
        }
        _ => None,
    }
}

/// A large file has a reason.
pub(crate) fn size(file: &TextFile) -> Option<Problem> {
    let lines = file.text.lines().count();
    let reasoned =
        file.text.lines().take_while(|line| line.starts_with("//")).any(|line| line.starts_with(SIZE_REASON));
    (lines > MAX_LINES && !reasoned)
        .then(|| Problem::in_file(&file.path, format!("{lines} lines and no `{SIZE_REASON}` at the top that says why")))
}

/// Nothing is left for later.
pub(crate) fn unfinished(file: &TextFile) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in code_only(&file.text).lines().enumerate() {
        for name in ["todo", "unimplemented", "dbg"] {
            if calls_macro(line, name) {
                problems.push(Problem::at(&file.path, number + 1, format!("`{name}!` is not for code that is kept")));
            }
        }
    }
    problems
}

/// A test that does not run is not a test.
pub(crate) fn ignored_tests(file: &TextFile) -> Vec<Problem> {
    code_only(&file.text)
        .lines()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("#[ignore"))
        .map(|(number, _)| Problem::at(&file.path, number + 1, "an ignored test is not a test"))
        .collect()
}

/// `unwrap` is for tests: elsewhere `expect` states the invariant.
pub(crate) fn unwraps(file: &TextFile) -> Vec<Problem> {
    if is_test_file(&file.path) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let mut problems = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        if lines[index].trim() == "#[cfg(test)]" {
            index = end_of_item(&lines, index);
        } else if lines[index].contains(".unwrap()") {
            problems.push(Problem::at(&file.path, index + 1, "`unwrap` outside tests: `expect` states the invariant"));
        }
        index += 1;
    }
    problems
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || ["tests", "benches", "examples"].iter().any(|part| path.split('/').any(|name| name == *part))
}

/// The last line of the item that the attribute at `start` belongs to, in formatted code: the line that
/// closes at the same indentation, or the line that ends with a semicolon.
fn end_of_item(lines: &[&str], start: usize) -> usize {
    let indentation = indentation_of(lines[start]);
    let mut index = start + 1;
    while index < lines.len() {
        let line = lines[index];
        let trimmed = line.trim_end();
        if indentation_of(line) == indentation && !trimmed.trim_start().starts_with("#[") {
            let one_line = trimmed.ends_with(';') || (trimmed.ends_with('}') && !trimmed.is_empty());
            if one_line {
                return index;
            }
        }
        index += 1;
    }
    lines.len() - 1
}

fn indentation_of(line: &str) -> usize {
    if line.trim().is_empty() { usize::MAX } else { line.len() - line.trim_start().len() }
}

fn calls_macro(line: &str, name: &str) -> bool {
    let mut from = 0;
    while let Some(found) = line[from..].find(name) {
        let start = from + found;
        let end = start + name.len();
        let before = line[..start].chars().next_back();
        let own_word = !before.is_some_and(|character| character.is_alphanumeric() || character == '_');
        if own_word && line[end..].starts_with('!') && !line[end..].starts_with("!=") {
            return true;
        }
        from = end;
    }
    false
}

/// The text with comments and the content of string and character literals blanked; lines stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut output = String::with_capacity(text.len());
    let mut index = 0;
    let blank = |output: &mut String, character: char| output.push(if character == '\n' { '\n' } else { ' ' });
    while index < characters.len() {
        let rest = &characters[index..];
        let length = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|character| *character == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if let Some(length) = raw_string(&characters, index) {
            length
        } else if rest[0] == '"' {
            quoted(rest, '"')
        } else if rest[0] == '\'' && is_character_literal(rest) {
            quoted(rest, '\'')
        } else {
            output.push(rest[0]);
            index += 1;
            continue;
        };
        for character in &rest[..length] {
            blank(&mut output, *character);
        }
        index += length;
    }
    output
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut index = 0;
    while index < rest.len() {
        if rest[index..].starts_with(&['/', '*']) {
            depth += 1;
            index += 2;
        } else if rest[index..].starts_with(&['*', '/']) {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += 1;
        }
    }
    rest.len()
}

fn raw_string(characters: &[char], start: usize) -> Option<usize> {
    if characters[start] != 'r' {
        return None;
    }
    let before = start.checked_sub(1).map(|index| characters[index]);
    // `br"` and `cr"` are strings; `for"` cannot stand in a program.
    if before
        .is_some_and(|character| (character.is_alphanumeric() && !matches!(character, 'b' | 'c')) || character == '_')
    {
        return None;
    }
    let rest = &characters[start + 1..];
    let hashes = rest.iter().take_while(|character| **character == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let body = &rest[hashes + 1..];
    let closes = |index: usize| {
        body[index] == '"'
            && body[index + 1..].iter().take(hashes).filter(|character| **character == '#').count() == hashes
    };
    let end = (0..body.len()).find(|index| closes(*index)).map_or(body.len(), |index| index + 1 + hashes);
    Some(1 + hashes + 1 + end)
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut index = 1;
    while index < rest.len() {
        match rest[index] {
            '\\' => index += 2,
            character if character == quote => return index + 1,
            _ => index += 1,
        }
    }
    rest.len()
}

fn is_character_literal(rest: &[char]) -> bool {
    rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn module_docs_must_begin_early() {
        assert_eq!(module_docs(&file("a.rs", "//! What it is.\nfn a() {}\n")), None);
        assert!(module_docs(&file("a.rs", "fn a() {}\n")).is_some());
        assert!(module_docs(&file("a.rs", &format!("{}//! Late.\n", "// x\n".repeat(30)))).is_some());
    }

    #[test]
    fn file_names_say_something() {
        assert_eq!(module_file_name(&file("crates/a/src/model.rs", "")), None);
        assert!(module_file_name(&file("crates/a/src/b/mod.rs", "")).is_some());
        assert!(module_file_name(&file("crates/a/src/utils.rs", "")).is_some());
    }

    #[test]
    fn a_large_file_needs_a_reason_in_its_head() {
        let body = "fn a() {}\n".repeat(1000);
        assert_eq!(size(&file("a.rs", &body)), None);
        assert!(size(&file("a.rs", &format!("//! Doc.\n{body}"))).is_some());
        assert_eq!(size(&file("a.rs", &format!("//! Doc.\n//! Size: one table.\n{body}"))), None);
        assert!(size(&file("a.rs", &format!("{body}\n//! Size: too late.\n"))).is_some());
    }

    #[test]
    fn unfinished_code_is_found_but_not_words_in_text() {
        let mark = '!';
        let text = format!("fn a() {{\n    todo{mark}()\n}}\nfn b() {{ let x = dbg{mark}(1); }}\n");
        let lines: Vec<_> = unfinished(&file("a.rs", &text)).into_iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [Some(2), Some(4)]);
        let text = format!("// todo{mark}()\nlet a = \"todo{mark}()\"; my_todo{mark}(); let t = todo != 3;\n");
        assert_eq!(unfinished(&file("a.rs", &text)), []);
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(ignored_tests(&file("a.rs", "#[test]\n#[ignore]\nfn a() {}\n")).len(), 1);
        assert_eq!(ignored_tests(&file("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n")).len(), 1);
        assert_eq!(ignored_tests(&file("a.rs", "#[test]\nfn ignore() {}\n")), []);
    }

    #[test]
    fn unwraps_are_found_outside_tests_only() {
        let text = "//! Doc `.unwrap()`.\nfn a() {\n    x.unwrap();\n}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n        x.unwrap();\n    }\n}\n\nfn c() {\n    y.unwrap();\n}\n";
        let lines: Vec<_> = unwraps(&file("crates/a/src/a.rs", text)).into_iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [Some(3), Some(14)]);
        assert_eq!(unwraps(&file("crates/a/tests/a.rs", text)), []);
        assert_eq!(unwraps(&file("crates/a/src/a/tests.rs", text)), []);
        let text = "#[cfg(test)]\nmod tests;\nfn a() { x.unwrap(); }\n";
        assert_eq!(unwraps(&file("crates/a/src/a.rs", text)).len(), 1);
    }

    #[test]
    fn literals_and_comments_are_blank_and_lines_stay() {
        let text = "let a = \"x\\\"y\"; // c\nlet b = r#\"q\"q\"#; /* d /* e */ */ let c = '\"'; let d: &'static str = br\"z\";\n";
        let code = code_only(text);
        assert_eq!(code.lines().count(), text.lines().count());
        for gone in ["x", "y", "//", "q", "/*", "e */", "z"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        assert!(code.contains("let b =") && code.contains("let c =") && code.contains("&'static str ="), "{code}");
    }
}
