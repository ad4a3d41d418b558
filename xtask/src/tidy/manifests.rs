//! Rules for dependencies: which crate may know which, what is confined to one crate, what is banned,
//! and that each has its reason written down in `docs/dependencies.md`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Problem;
use crate::workspace::{TextFile, Workspace};

/// What each crate of the workspace may depend on, bottom to top. A crate that is not here is a problem,
/// so that a new one is placed on purpose.
const DIRECTION: &[(&str, &[&str])] = &[
    ("fairlead-wire", &[]),
    ("fairlead-process", &[]),
    ("fairlead-coding", &[]),
    ("fairlead-core", &["fairlead-wire"]),
    ("fairlead-config", &["fairlead-core", "fairlead-wire"]),
    ("fairlead-store", &["fairlead-core", "fairlead-wire"]),
    ("fairlead-observe", &["fairlead-core", "fairlead-wire"]),
    ("fairlead-policy", &["fairlead-config", "fairlead-core"]),
    (
        "fairlead-upstream",
        &["fairlead-coding", "fairlead-config", "fairlead-core", "fairlead-process", "fairlead-wire"],
    ),
    (
        "fairlead-gateway",
        &[
            "fairlead-coding",
            "fairlead-config",
            "fairlead-core",
            "fairlead-observe",
            "fairlead-policy",
            "fairlead-store",
            "fairlead-upstream",
            "fairlead-wire",
        ],
    ),
    ("fairlead-demo", &[]),
    ("fairlead-load", &[]),
    (
        "fairlead",
        &[
            "fairlead-config",
            "fairlead-core",
            "fairlead-demo",
            "fairlead-gateway",
            "fairlead-load",
            "fairlead-observe",
            "fairlead-process",
            "fairlead-store",
            "fairlead-upstream",
            "fairlead-wire",
        ],
    ),
    ("fairlead-testkit", &["fairlead-wire"]),
    ("fairlead-bench", &[]),
    ("xtask", &[]),
];

/// What any crate may use in its tests besides.
const IN_TESTS: &[&str] = &["fairlead-testkit", "fairlead-demo", "fairlead-coding"];

/// Dependencies that belong to one crate (and to the tests of others), with the reason.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("rmcp", &["fairlead-demo"], "what we forward and what we test against must not share one reading of the protocol"),
    ("axum", &["fairlead-demo"], "the data plane owns its accept loop"),
];

/// Packages that must not be built into anything.
const BANNED: &[(&str, &str)] = &[
    ("ring", "one TLS provider: aws-lc-rs"),
    ("openssl", "rustls only"),
    ("openssl-sys", "rustls only"),
    ("native-tls", "rustls only"),
    ("serde_yaml", "archived, its parser is unmaintained"),
    ("serde_yml", "archived after an advisory"),
    ("lazy_static", "no global state"),
];

/// Who may name a banned package in the lock file all the same, and why that is not a use of it.
const TOLERATED: &[(&str, &str, &str)] = &[
    ("ring", "rustls-webpki", "an optional dependency that nobody turns on: in the lock, not in the build"),
    (
        "lazy_static",
        "x509-parser",
        "an optional dependency of rcgen that nobody turns on: in the lock, not in the build",
    ),
    ("lazy_static", "sharded-slab", "the span registry of tracing-subscriber"),
];

const LOCK: &str = "Cargo.lock";
const ROOT_MANIFEST: &str = "Cargo.toml";
const REASONS: &str = "docs/dependencies.md";

/// A dependency as a manifest declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    name: String,
    for_tests: bool,
}

/// The packages of the workspace with what they declare.
#[derive(Debug, Default)]
pub(crate) struct Packages {
    packages: BTreeMap<String, Vec<Dependency>>,
}

impl Packages {
    /// Asks cargo.
    pub(crate) fn load(workspace: &Workspace) -> Result<Self> {
        let output = workspace
            .cargo(&["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cargo metadata cannot be run")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Self::read(&serde_json::from_slice(&output.stdout).context("cargo metadata")?)
    }

    fn read(metadata: &Value) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for package in metadata["packages"].as_array().context("cargo metadata lists packages")? {
            let name = package["name"].as_str().context("a package has a name")?;
            let mut dependencies = Vec::new();
            for dependency in package["dependencies"].as_array().into_iter().flatten() {
                dependencies.push(Dependency {
                    name: dependency["name"].as_str().context("a dependency has a name")?.to_owned(),
                    for_tests: dependency["kind"].as_str() == Some("dev"),
                });
            }
            packages.insert(name.to_owned(), dependencies);
        }
        Ok(Self { packages })
    }

    fn is_member(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }
}

fn manifest_of(package: &str) -> String {
    if package == "xtask" { "xtask/Cargo.toml".to_owned() } else { format!("crates/{package}/Cargo.toml") }
}

/// Arrows point down only.
pub(crate) fn direction(packages: &Packages) -> Vec<Problem> {
    let allowed: BTreeMap<&str, &[&str]> = DIRECTION.iter().copied().collect();
    let mut problems = Vec::new();
    for (package, dependencies) in &packages.packages {
        let Some(below) = allowed.get(package.as_str()) else {
            problems.push(Problem::in_file(
                &manifest_of(package),
                format!("{package} has no place in the map of crates (xtask/src/tidy/manifests.rs)"),
            ));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| packages.is_member(&dependency.name)) {
            let name = dependency.name.as_str();
            let permitted = below.contains(&name) || (dependency.for_tests && IN_TESTS.contains(&name));
            if !permitted {
                problems.push(Problem::in_file(&manifest_of(package), format!("{package} may not depend on {name}")));
            }
        }
    }
    problems
}

/// What belongs to one crate is used by that crate, and by the tests of the binary.
pub(crate) fn confined(packages: &Packages) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (package, dependencies) in &packages.packages {
        for dependency in dependencies {
            for (name, homes, reason) in CONFINED {
                let at_home = homes.contains(&package.as_str()) || (dependency.for_tests && package == "fairlead");
                if dependency.name == *name && !at_home {
                    problems.push(Problem::in_file(
                        &manifest_of(package),
                        format!("{package} may not depend on {name}: {reason}"),
                    ));
                }
            }
        }
    }
    problems
}

/// Nothing banned is declared, or comes in through somebody else; and the ban is documented.
pub(crate) fn banned(files: &[TextFile], packages: &Packages) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, reason) in BANNED {
        for (package, dependencies) in &packages.packages {
            if dependencies.iter().any(|dependency| dependency.name == *name) {
                problems.push(Problem::in_file(&manifest_of(package), format!("{name} is banned: {reason}")));
            }
        }
    }
    match files.iter().find(|file| file.path == LOCK) {
        None => problems.push(Problem::in_file(LOCK, "the lock file is not committed")),
        Some(lock) => {
            let dependents = dependents(&lock.text);
            for (name, reason) in BANNED {
                for dependent in dependents.get(*name).into_iter().flatten() {
                    let tolerated =
                        TOLERATED.iter().any(|(banned, allowed, _)| banned == name && dependent.as_str() == *allowed);
                    if !tolerated && !packages.is_member(dependent) {
                        problems.push(Problem::in_file(LOCK, format!("{dependent} brings in {name}: {reason}")));
                    }
                }
            }
        }
    }
    if let Some(page) = files.iter().find(|file| file.path == REASONS) {
        for (name, _) in BANNED {
            if !page.text.contains(&format!("`{name}`")) {
                problems.push(Problem::in_file(REASONS, format!("does not say that `{name}` is banned")));
            }
        }
    }
    problems
}

/// Each dependency of the workspace stands in `docs/dependencies.md` with its reason, and no other does.
pub(crate) fn reasons(files: &[TextFile]) -> Vec<Problem> {
    let Some(manifest) = files.iter().find(|file| file.path == ROOT_MANIFEST) else {
        return vec![Problem::in_file(ROOT_MANIFEST, "no manifest")];
    };
    let Some(page) = files.iter().find(|file| file.path == REASONS) else {
        return vec![Problem::in_file(REASONS, "each dependency has its reason written down here")];
    };
    let declared = declared(&manifest.text);
    let reasoned: BTreeMap<&str, usize> = page
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.strip_suffix('`')?;
            let reason_given = cells.any(|cell| cell.len() > 3);
            reason_given.then_some((name, index + 1))
        })
        .collect();
    let mut problems = Vec::new();
    for (name, line) in &declared {
        if !reasoned.contains_key(name.as_str()) {
            problems.push(Problem::at(ROOT_MANIFEST, *line, format!("{name} has no row with a reason in {REASONS}")));
        }
    }
    let banned: BTreeSet<&str> = BANNED.iter().map(|(name, _)| *name).collect();
    for (name, line) in reasoned {
        if !declared.contains_key(name) && !banned.contains(name) {
            problems.push(Problem::at(REASONS, line, format!("{name} is not a dependency of the workspace")));
        }
    }
    problems
}

/// External names under `[workspace.dependencies]`, with the line of each.
fn declared(manifest: &str) -> BTreeMap<String, usize> {
    let mut inside = false;
    let mut names = BTreeMap::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let name = name.trim();
            let external = !name.starts_with('#') && !value.contains("path = ");
            if external && !name.is_empty() {
                names.insert(name.to_owned(), index + 1);
            }
        }
    }
    names
}

/// For each package of a lock file, the packages that depend on it.
fn dependents(lock: &str) -> BTreeMap<&str, BTreeSet<String>> {
    let mut dependents: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut current = "";
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            current = name.trim_matches('"');
        } else if let Some(entry) = line.strip_prefix(" \"") {
            // `"name"`, `"name version"` or `"name version (source)"`.
            let name = entry.split([' ', '"']).next().unwrap_or_default();
            dependents.entry(name).or_default().insert(current.to_owned());
        }
    }
    dependents
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package with what it declares: name and kind.
    type Declared<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn packages(list: &[Declared<'_>]) -> Packages {
        let list: Vec<Value> = list
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<Value> =
                    dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
                json!({"name": name, "dependencies": dependencies})
            })
            .collect();
        Packages::read(&json!({ "packages": list })).unwrap()
    }

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn arrows_point_down_only() {
        let good = packages(&[
            ("fairlead-wire", &[("bytes", None)]),
            ("fairlead-core", &[("fairlead-wire", None)]),
            ("fairlead-testkit", &[]),
            ("fairlead-upstream", &[("fairlead-core", None), ("fairlead-testkit", Some("dev"))]),
        ]);
        assert_eq!(direction(&good), []);
        let upward = packages(&[("fairlead-wire", &[("fairlead-core", None)]), ("fairlead-core", &[])]);
        assert_eq!(direction(&upward).len(), 1);
        let testkit = packages(&[("fairlead", &[("fairlead-testkit", None)]), ("fairlead-testkit", &[])]);
        assert_eq!(direction(&testkit).len(), 1);
        assert_eq!(direction(&packages(&[("fairlead-new", &[])])).len(), 1);
    }

    #[test]
    fn the_map_itself_has_no_cycle() {
        let allowed: BTreeMap<&str, &[&str]> = DIRECTION.iter().copied().collect();
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        for _ in 0..allowed.len() {
            for (name, below) in &allowed {
                if below.iter().all(|name| placed.contains(name)) {
                    placed.insert(name);
                }
            }
        }
        assert_eq!(placed.len(), allowed.len());
    }

    #[test]
    fn confined_dependencies_stay_at_home() {
        let good =
            packages(&[("fairlead-demo", &[("rmcp", None), ("axum", None)]), ("fairlead", &[("rmcp", Some("dev"))])]);
        assert_eq!(confined(&good), []);
        assert_eq!(confined(&packages(&[("fairlead-gateway", &[("rmcp", None)])])).len(), 1);
        assert_eq!(confined(&packages(&[("fairlead", &[("axum", None)])])).len(), 1);
    }

    #[test]
    fn banned_packages_are_found_where_they_come_in() {
        let members = packages(&[("fairlead", &[])]);
        let lock = |dependent: &str| {
            file(
                LOCK,
                &format!("[[package]]\nname = \"{dependent}\"\ndependencies = [\n \"cc\",\n \"ring 0.17.14\",\n]\n"),
            )
        };
        assert_eq!(banned(&[lock("rustls-webpki")], &members), []);
        let problems = banned(&[lock("rustls")], &members);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("rustls brings in ring"));
        let direct = packages(&[("fairlead", &[("openssl", None)])]);
        assert_eq!(banned(&[file(LOCK, "")], &direct).len(), 1);
        assert_eq!(banned(&[], &members).len(), 1);
        let page = file(REASONS, "only `ring` and `openssl`\n");
        assert_eq!(banned(&[file(LOCK, ""), page], &members).len(), BANNED.len() - 2);
    }

    #[test]
    fn every_dependency_has_a_reason_and_every_reason_a_dependency() {
        let manifest = file(
            ROOT_MANIFEST,
            "[workspace.dependencies]\n# Ours.\nfairlead-wire = { path = \"x\" }\nbytes = \"1\"\nhttp = { version = \"1\" }\n\n[profile.dev]\ndebug = 1\n",
        );
        let full = file(REASONS, "| `bytes` | cheap slices |\n| `http` | its types |\n| `ring` | banned for good |\n");
        assert_eq!(reasons(&[manifest.clone(), full]), []);
        let missing = reasons(&[manifest.clone(), file(REASONS, "| `bytes` | cheap slices |\n| `http` | |\n")]);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].line, Some(5));
        let surplus = file(REASONS, "| `bytes` | cheap slices |\n| `http` | its types |\n| `tower` | layers |\n");
        assert_eq!(reasons(&[manifest.clone(), surplus]).len(), 1);
        assert_eq!(reasons(&[manifest]).len(), 1);
    }
}
