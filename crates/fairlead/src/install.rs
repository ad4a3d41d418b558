//! `fairlead install`: the gateway as a server in a client's configuration, and out of it again.
//!
//! The file as it was is kept beside it. Undoing puts it back when nobody changed anything since, and
//! otherwise takes out the one entry.

use crate::{
    cli,
    configuration::{self, environment},
    failure::{Exit, Failure},
    output,
};
use fairlead_config::{
    Problems,
    install::{self, Entry, Format, MAX_FILE},
};
use fairlead_core::Code;
use std::{
    fs::{self, OpenOptions, Permissions},
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What the name of the kept file ends in.
const KEPT: &str = ".before-fairlead";
/// What a kept file says when there was none before.
const NONE: &str = "";

/// Writes the gateway into a client's configuration, or takes it out.
pub(crate) fn run(arguments: &cli::Install) -> Result<Exit, Failure> {
    let Some(client) = install::client(&arguments.client) else {
        let known: Vec<_> = install::clients().iter().map(|client| client.id.as_str()).collect();
        return Err(Failure::usage(format!("`{}` is not a client that is known", arguments.client))
            .hint(format!("known are {}", known.join(", "))));
    };
    let home = environment("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let project = arguments.project.then(|| PathBuf::from("."));
    let path = match &arguments.file {
        Some(path) => path.clone(),
        None => client
            .file(project.as_deref(), &home, &environment)
            .map_err(|problems| Failure::report(configuration::render(&problems)))?,
    };
    // A link stays a link: what it leads to is changed.
    let path = path.canonicalize().unwrap_or(path);
    if arguments.undo {
        return undo(client, &path, &arguments.name);
    }
    let gateway = gateway(arguments)?;
    if arguments.print {
        output::print(&client.shown(&gateway))?;
        eprintln!("goes into {}", path.display());
        return Ok(Exit::Ok);
    }
    let before = read(&path)?;
    let after =
        client.install(before.as_deref().unwrap_or_default(), &gateway).map_err(|problems| shown(problems, &path))?;
    if before.as_deref() == Some(after.as_str()) {
        eprintln!("{} has it already: {}", client.title, path.display());
        return Ok(Exit::Ok);
    }
    let kept = kept(&path);
    if !kept.exists() {
        write(&kept, before.as_deref().unwrap_or(NONE), mode(&path))?;
    }
    write(&path, &after, mode(&path))?;
    eprintln!("{} now has `{}` in {}", client.title, gateway.name, path.display());
    eprintln!("the file as it was is {}; `fairlead install {} --undo` takes it back", kept.display(), client.id);
    Ok(Exit::Ok)
}

fn undo(client: &Format, path: &Path, name: &str) -> Result<Exit, Failure> {
    let Some(now) = read(path)? else {
        eprintln!("{} has no file {}", client.title, path.display());
        return Ok(Exit::Ok);
    };
    let Some(without) = client.remove(&now, name).map_err(|problems| shown(problems, path))? else {
        eprintln!("`{name}` is not in {}", path.display());
        return Ok(Exit::Ok);
    };
    let kept = kept(path);
    let before = read(&kept)?;
    // Whether the kept file differs from this one in the entry alone.
    let is_as_left = before.as_deref().is_some_and(|before| {
        client.remove(before, name).ok().flatten().is_none() && says_the_same(client, before, &without, name)
    });
    match before.filter(|_| is_as_left) {
        Some(before) if before == NONE => remove(path)?,
        Some(before) => write(path, &before, mode(path))?,
        None => write(path, &without, mode(path))?,
    }
    if kept.exists() {
        remove(&kept)?;
    }
    eprintln!("`{name}` is out of {}", path.display());
    Ok(Exit::Ok)
}

/// Whether two files would be the same with the entry in both.
fn says_the_same(client: &Format, before: &str, without: &str, name: &str) -> bool {
    let entry = Entry { name: name.to_owned(), url: String::new(), program: String::new(), arguments: Vec::new() };
    match (client.install(before, &entry), client.install(without, &entry)) {
        (Ok(before), Ok(without)) => before.split_whitespace().eq(without.split_whitespace()),
        _ => false,
    }
}

/// How clients find the gateway.
fn gateway(arguments: &cli::Install) -> Result<Entry, Failure> {
    let path = arguments.toolset.as_ref().map_or_else(|| "/mcp".to_owned(), |toolset| format!("/mcp/{toolset}"));
    let mut stdio = vec!["stdio".to_owned()];
    let url = match &arguments.which.url {
        Some(url) => {
            stdio.extend(["--url".to_owned(), url.clone()]);
            url.clone()
        }
        None => {
            let (origin, config) = configuration::load(&arguments.which.files.config)?;
            if let configuration::Origin::Files(files) = origin {
                for file in files {
                    let file = std::path::absolute(&file).unwrap_or(file);
                    stdio.extend(["-c".to_owned(), file.to_string_lossy().into_owned()]);
                }
            }
            let address = config.listen.address;
            if address.port() == 0 {
                return Err(Failure::usage("the configuration leaves the port open, so clients cannot know it")
                    .hint("give `listen: { address: ... }` a port, or name the endpoint with `--url`"));
            }
            let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
            let url = config.listen.origin(SocketAddr::new(ip, address.port())) + &path;
            if arguments.toolset.is_some() {
                // A program bridges to everything, or to the endpoint it is told.
                stdio = vec!["stdio".to_owned(), "--url".to_owned(), url.clone()];
            }
            url
        }
    };
    let program = std::env::current_exe()
        .map_err(|error| Failure::usage("it is not known where this program is").because(&error))?;
    Ok(Entry { name: arguments.name.clone(), url, program: program.to_string_lossy().into_owned(), arguments: stdio })
}

/// What is wrong with a client's file.
fn shown(problems: Problems, path: &Path) -> Failure {
    let problems = problems.0.into_iter().map(|problem| problem.in_file(path)).collect();
    Failure::report(configuration::render(&Problems(problems)))
}

fn kept(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(KEPT);
    path.with_file_name(name)
}

/// The file's text; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Code::BadConfig, format!("cannot read {}", path.display())).because(&error)
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Failure::new(Code::BadConfig, format!("{} is larger than any configuration is", path.display())));
    }
    Ok(Some(text))
}

/// The permissions of the file; a new one is its owner's alone.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o7777)
}

/// Puts a whole file in the place of another, or of none: there is never half of one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Code::BadConfig, format!("cannot write {}", path.display())).because(&error)
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(failed)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let new = directory.join(name);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

fn remove(path: &Path) -> Result<(), Failure> {
    fs::remove_file(path)
        .map_err(|error| Failure::new(Code::BadConfig, format!("cannot remove {}", path.display())).because(&error))
}
