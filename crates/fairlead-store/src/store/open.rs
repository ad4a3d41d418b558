//! Opening the database file, or setting a damaged one aside.

use crate::data_dir::ensure_private_file;
use fairlead_core::Clock;
use sqlx::{
    SqlSafeStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// One for the writer and two for readers, so that a long write never makes a reader wait for a connection.
const MAX_CONNECTIONS: u32 = 3;
/// How long one connection waits for another's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Primary result codes of SQLite (sqlite.org/rescode.html) for a file that is damaged or none of its own.
const DAMAGED: [i32; 2] = [11, 26];
/// How many damaged files of one second can be told apart.
const MAX_ASIDE_NAMES: u32 = 100;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be created.
    #[error("cannot create the data directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The database file cannot be created or made private.
    #[error("cannot prepare the database file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// A damaged database cannot be moved out of the way.
    #[error("cannot move the damaged database {} aside", path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// SQLite refuses the file for another reason than damage.
    #[error("cannot open the database {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The engine's error.
        #[source]
        cause: sqlx::Error,
    },
    /// The tables cannot be brought to this version's form: in most cases a newer version of the program wrote them.
    #[error("cannot use the tables of the database {} (was it written by a newer version?)", path.display())]
    Tables {
        /// The file.
        path: PathBuf,
        /// The engine's error.
        #[source]
        cause: MigrateError,
    },
}

enum Failure {
    Damaged(String),
    Other(OpenError),
}

/// Opens `path`; a damaged file is moved aside once.
pub(super) async fn database(path: &Path, clock: &Clock) -> Result<SqlitePool, OpenError> {
    match attempt(path).await {
        Ok(pool) => Ok(pool),
        Err(Failure::Other(error)) => Err(error),
        Err(Failure::Damaged(reason)) => {
            let aside = move_aside(path, clock.unix_ms() / 1000)
                .map_err(|cause| OpenError::Aside { path: path.to_owned(), cause })?;
            tracing::warn!(
                reason,
                moved_to = %aside.display(),
                "The database is damaged and was moved aside; a fresh one is begun, catalogs are learned again and ended \
                 sessions may open again until they expire"
            );
            attempt(path).await.map_err(|failure| match failure {
                Failure::Other(error) => error,
                Failure::Damaged(reason) => {
                    OpenError::Database { path: path.to_owned(), cause: sqlx::Error::Io(io::Error::other(reason)) }
                }
            })
        }
    }
}

async fn attempt(path: &Path) -> Result<SqlitePool, Failure> {
    // SQLite gives its journal the mode of the database, so making the file first makes all of them private.
    ensure_private_file(path).map_err(|cause| Failure::Other(OpenError::File { path: path.to_owned(), cause }))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT);
    let database_failed = |cause: sqlx::Error| match damage(&cause) {
        Some(reason) => Failure::Damaged(reason),
        None => Failure::Other(OpenError::Database { path: path.to_owned(), cause }),
    };
    let pool = SqlitePoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .connect_with(options)
        .await
        .map_err(database_failed)?;
    let checked = check_and_migrate(&pool, path).await;
    if checked.is_err() {
        // The file is about to be moved or reported; no connection may linger on it.
        pool.close().await;
    }
    checked.map(|()| pool)
}

async fn check_and_migrate(pool: &SqlitePool, path: &Path) -> Result<(), Failure> {
    let verdict: Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await;
    match verdict {
        Ok(verdict) if verdict == "ok" => {}
        Ok(verdict) => return Err(Failure::Damaged(verdict)),
        Err(cause) => {
            return Err(match damage(&cause) {
                Some(reason) => Failure::Damaged(reason),
                None => Failure::Other(OpenError::Database { path: path.to_owned(), cause }),
            });
        }
    }
    migrator().run(pool).await.map_err(|cause| {
        let damaged = match &cause {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => damage(error),
            _ => None,
        };
        match damaged {
            Some(reason) => Failure::Damaged(reason),
            None => Failure::Other(OpenError::Tables { path: path.to_owned(), cause }),
        }
    })
}

fn migrator() -> Migrator {
    let step = |version, what: &'static str, sql: &'static str| {
        Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        step(1, "catalogs and sessions", include_str!("../../migrations/0001_catalogs_and_sessions.sql")),
        step(2, "tasks", include_str!("../../migrations/0002_tasks.sql")),
    ])
}

/// What SQLite says, if it says that the file is damaged.
fn damage(error: &sqlx::Error) -> Option<String> {
    let database = error.as_database_error()?;
    let extended: i32 = database.code()?.parse().ok()?;
    DAMAGED.contains(&(extended & 0xff)).then(|| database.message().to_owned())
}

/// Moves the database and its journal files to a free name, keeping them together so that they can still be examined.
fn move_aside(path: &Path, unix_seconds: u64) -> io::Result<PathBuf> {
    let with = |base: &Path, suffix: &str| {
        let mut name = base.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = (0..MAX_ASIDE_NAMES)
        .map(|number| match number {
            0 => with(path, &format!(".broken-{unix_seconds}")),
            _ => with(path, &format!(".broken-{unix_seconds}-{number}")),
        })
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| io::Error::other("no free name for the damaged file"))?;
    // The journal first: a fresh database must never meet the journal of the old one.
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(with(path, suffix), with(&aside, suffix)) {
            Err(error) if suffix.is_empty() || error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}
