//! The project stands alone: no path of one machine, no package host, nothing from outside the checkout.

use super::Problem;
use crate::workspace::TextFile;

/// A piece of text that must not appear, and why. Written in two halves, so that this file passes.
const STRAYS: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("../sha", "red"), "a path outside the checkout"),
    (concat!(".lib", "rary"), "a path outside the checkout"),
    (concat!("registry.npm", "js.org"), "a package host: lockfiles leave it out"),
    (concat!("registry.yarn", "pkg.com"), "a package host: lockfiles leave it out"),
    (concat!("py", "pi.org"), "a package host: lockfiles leave it out"),
    (concat!("files.python", "hosted.org"), "a package host: lockfiles leave it out"),
    (concat!("index.cra", "tes.io"), "a package host: lockfiles leave it out"),
    (concat!("static.cra", "tes.io"), "a package host: lockfiles leave it out"),
    (concat!("proxy.go", "lang.org"), "a package host: lockfiles leave it out"),
];

/// Every stray in `file`.
pub(crate) fn find(file: &TextFile) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (stray, why) in STRAYS {
            if contains(line, stray) {
                problems.push(Problem::at(&file.path, number + 1, format!("`{stray}`: {why}")));
            }
        }
    }
    problems
}

/// Whether `stray` stands in `line` by itself and not as the end of something longer (`frame/x/`, `~/x/`).
fn contains(line: &str, stray: &str) -> bool {
    line.match_indices(stray).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|character| character.is_alphanumeric() || matches!(character, '_' | '-' | '~' | '}' | '.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stray_is_found_by_itself_and_not_in_longer_words() {
        for (stray, _) in STRAYS {
            let file = TextFile { path: "a.md".to_owned(), text: format!("fine\nsee `{stray}x`\n") };
            let problems = find(&file);
            assert_eq!(problems.len(), 1, "{stray}");
            assert_eq!(problems[0].line, Some(2));
            let file = TextFile { path: "a.md".to_owned(), text: format!("frame{stray}x ~{stray}y\n") };
            assert_eq!(find(&file), [], "{stray}");
        }
    }
}
