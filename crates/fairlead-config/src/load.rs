//! The story of a configuration: read the layers, iron out client formats, merge, resolve
//! references, check against the schema, read into [`ConfigFile`], build the [`Config`].

use crate::{
    Config, Problem, Problems, Severity, build, check, client_format,
    file::{ConfigFile, schema},
    reference::{self, Env},
    syntax::{self, Syntax},
    tree::{self, Findings, Map, Node, Place, Source, Value},
};
use serde::Deserialize;
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Largest configuration file, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// Most layers.
pub const MAX_LAYERS: usize = 64;

/// Loads the layers `paths` (YAML, JSON with comments, or TOML by extension; later wins: maps merge
/// deeply, lists and scalars replace, `null` removes a key). Without paths, the defaults. `env`
/// answers for environment variables.
///
/// # Errors
/// Every problem that could be found, errors and warnings, by layer and place.
pub fn load(paths: &[PathBuf], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    if paths.len() > MAX_LAYERS {
        return Err(Problem::error(format!("there are more than {MAX_LAYERS} configuration files")).into());
    }
    let mut findings = Findings::new();
    let mut unread = Vec::new();
    let mut layers = Vec::new();
    let mut bases = Vec::new();
    for path in paths {
        match open(path) {
            Ok((syntax, text, base)) => {
                bases.push(base.clone());
                layers.push((syntax, Source { name: path.clone(), base, text, masked: Vec::new() }));
            }
            Err(problem) => unread.push(*problem),
        }
    }
    let default_data_dir = bases.first().map_or_else(|| default_data_dir(env), |base| base.join(".fairlead"));
    assemble(layers, unread, default_data_dir, paths.to_vec(), env, &mut findings)
}

/// Loads one layer that is not a file. `name` is what problems call it, and its extension decides
/// the syntax (YAML if it has none). Relative paths, the default data directory too, are relative
/// to `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn parse_str(
    name: &str,
    text: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Problems> {
    let syntax = Syntax::of(Path::new(name)).unwrap_or(Syntax::Yaml);
    let source = Source { name: name.into(), base: base_dir.to_owned(), text: text.to_owned(), masked: Vec::new() };
    assemble(vec![(syntax, source)], Vec::new(), base_dir.join(".fairlead"), Vec::new(), env, &mut Findings::new())
}

/// The data directory of a gateway without a configuration file: `$XDG_STATE_HOME/fairlead`, else
/// `~/.local/state/fairlead`, else `.fairlead` in the working directory.
#[must_use]
pub fn default_data_dir(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    // The XDG specification ignores relative paths.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from(".fairlead"), |state| state.join("fairlead"))
}

fn assemble(
    layers: Vec<(Syntax, Source)>,
    unread: Vec<Problem>,
    default_data_dir: PathBuf,
    sources: Vec<PathBuf>,
    env: Env<'_>,
    findings: &mut Findings,
) -> Result<Config, Problems> {
    let mut root = Node::new(Value::Map(Map::new()), Place { source: 0, start: 0, end: 0 });
    for (index, (syntax, source)) in layers.into_iter().enumerate() {
        findings.sources.0.push(source);
        if let Some(mut layer) = syntax::read(syntax, index, findings) {
            findings.sources.0[index].masked = client_format::secrets(&layer);
            client_format::normalise(&mut layer, findings);
            tree::merge(&mut root, layer, findings);
        }
    }
    // A layer that could not be read may be what makes the others right.
    if !unread.is_empty() || findings.has_errors() {
        return Err(finish(findings, unread));
    }
    reference::resolve(&mut root, env, findings);
    let schema = schema();
    check::check(&mut root, &schema, findings);
    let file = ConfigFile::deserialize(&root);
    let config = match file {
        Ok(file) => Some(build::build(file, &root, default_data_dir, sources, findings)),
        Err(_) if findings.has_errors() => None,
        Err(error) => {
            return Err(finish(findings, vec![Problem::error(format!("the configuration cannot be read: {error}"))]));
        }
    };
    match config {
        Some(mut config) if !findings.has_errors() => {
            config.warnings = finish(findings, Vec::new()).0;
            Ok(config)
        }
        _ => Err(finish(findings, Vec::new())),
    }
}

fn finish(findings: &mut Findings, mut first: Vec<Problem>) -> Problems {
    first.extend(std::mem::replace(findings, Findings::new()).into_problems());
    Problems(first)
}

/// Reads one file: its syntax, its text, and the directory relative paths in it start from.
fn open(path: &Path) -> Result<(Syntax, String, PathBuf), Box<Problem>> {
    let problem = |message: String, hint: &str| {
        let problem = Problem::error(message).in_file(path);
        Box::new(if hint.is_empty() { problem } else { problem.with_hint(hint) })
    };
    let syntax = Syntax::of(path).ok_or_else(|| {
        problem(
            "the extension does not say what this file is".to_owned(),
            "use `.yaml`, `.yml`, `.json`, `.jsonc` or `.toml`",
        )
    })?;
    let bytes = read_bounded(path, MAX_FILE).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound { "check the path after `-c`" } else { "" };
        problem(format!("cannot read the file: {error}"), hint)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        problem(format!("the file is not UTF-8 text (at byte {})", error.utf8_error().valid_up_to()), "")
    })?;
    let absolute =
        std::path::absolute(path).map_err(|error| problem(format!("cannot locate the file: {error}"), ""))?;
    let base = absolute.parent().map(Path::to_owned).unwrap_or_default();
    Ok((syntax, text, base))
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Checked before opening: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

impl Problems {
    /// The errors among them.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Error)
    }
}
