//! `fairlead import`.

use crate::{
    cli,
    configuration::{self, environment},
    failure::{Exit, Failure},
    output,
};
use fairlead_config::{
    Problems,
    import::{self, CLIENTS, Imported},
};
use fairlead_core::Code;
use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Reads the servers of a client and prints or writes them as a configuration.
pub(crate) fn run(arguments: &cli::Import) -> Result<Exit, Failure> {
    let home = environment("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let imported = import::read(&arguments.from, &home, &environment).map_err(|problems| {
        eprint!("{}", configuration::render(&problems));
        Failure::new(Code::BadConfig, format!("nothing was imported from `{}`", arguments.from)).hint(known(&home))
    })?;
    if !imported.warnings.is_empty() {
        eprint!("{}", configuration::render(&Problems(imported.warnings.clone())));
    }
    match &arguments.write {
        None => output::print(&imported.servers)?,
        Some(path) => write(path, &imported)?,
    };
    let sources = imported.sources.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    eprintln!("{} from {sources}", output::count(imported.count, "server"));
    Ok(Exit::Ok)
}

fn known(home: &Path) -> String {
    let clients = CLIENTS.iter().map(|client| client.id).collect::<Vec<_>>().join(", ");
    let mut here: Vec<&str> = import::detect(home, &environment).into_iter().map(|(client, _)| client.id).collect();
    here.dedup();
    let here = if here.is_empty() { "none of them here".to_owned() } else { format!("here: {}", here.join(", ")) };
    format!("name a file, or one of the clients {clients} ({here})")
}

/// Writes a new file, readable by its owner only: it may hold credentials.
fn write(path: &Path, imported: &Imported) -> Result<Exit, Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(imported.servers.as_bytes()));
    written.map_err(|error| {
        let failure = Failure::usage(format!("cannot write `{}`", path.display())).because(&error);
        if error.kind() == ErrorKind::AlreadyExists {
            failure.hint("write to a new file and use both: `fairlead up -c fairlead.yaml -c imported.yaml`")
        } else {
            failure
        }
    })?;
    eprintln!("wrote {}: try `fairlead check -c {0}`", path.display());
    Ok(Exit::Ok)
}
