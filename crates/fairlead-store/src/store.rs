//! The database `fairlead.db` and the ports it implements.
//!
//! Catalogs are written at once by whoever learned them (an owner, never a call). Session records and tasks go through
//! one writer task each, which puts what came within `BATCH_WINDOW` into one transaction. A write that fails is kept and tried again:
//! the record that a session was ended must not be lost to a disk that is full for a minute.

mod open;
mod tasks;
mod writer;

pub use open::OpenError;

use crate::{
    data_dir,
    queue::{Pending, SessionQueue},
};
use fairlead_core::{
    Clock,
    ports::{BoxFuture, CatalogStore, SessionRecord, SessionStore, StoreError, StoredCatalog},
};
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// The file's name in the data directory.
const FILE: &str = "fairlead.db";
/// How long the writer waits for more records after the first.
const BATCH_WINDOW: Duration = Duration::from_millis(5);
/// Records in one transaction.
const BATCH_MAX: usize = 256;
/// Pause after a write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often expired records are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Expired records deleted by one statement, so that a sweep never holds the database for long.
const SWEEP_STEP: i64 = 1000;

/// The open database. Cheap to clone; all clones share its writers. Dropping the last clone also flushes, but nobody
/// waits for it: end with [`Store::close`].
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    pool: SqlitePool,
    queue: Arc<SessionQueue>,
    tasks: Arc<tasks::TaskQueue>,
    clock: Clock,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the database in `data_dir`, creating the directory (mode 0700) and the file (mode 0600) if needed, and starts
    /// its writer. A file that is no database or is damaged is moved to `fairlead.db.broken-<unix seconds>` with a
    /// warning, and a fresh one is begun. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the file system refuses, or the database was written by a newer version of the program.
    pub async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        Self::open_at(data_dir, Clock::system()).await
    }

    async fn open_at(data_dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        data_dir::create_private_dir(data_dir)
            .map_err(|cause| OpenError::Directory { path: data_dir.to_owned(), cause })?;
        let pool = open::database(&data_dir.join(FILE), &clock).await?;
        let queue = Arc::new(SessionQueue::default());
        let tasks = Arc::new(tasks::TaskQueue::default());
        let writers = vec![
            tokio::spawn(writer::run(pool.clone(), Arc::clone(&queue), clock.clone())),
            tokio::spawn(writer::run(pool.clone(), Arc::clone(&tasks), clock.clone())),
        ];
        Ok(Self(Arc::new(Inner { pool, queue, tasks, clock, writers: Mutex::new(writers) })))
    }

    /// How many records of sessions and tasks are on their way to the database: what a crash would lose now.
    pub fn unwritten(&self) -> usize {
        self.0.queue.unwritten() + self.0.tasks.unwritten()
    }

    /// Writes what is queued and closes the database. Later writes are dropped, later reads fail.
    pub async fn close(&self) {
        self.0.queue.close();
        self.0.tasks.close();
        let writers = std::mem::take(&mut *self.0.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            // It fails only when the runtime is going down, and then there is nothing left to wait for.
            let _ = writer.await;
        }
        self.0.pool.close().await;
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("queued", &self.0.queue.waiting()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        self.tasks.close();
    }
}

fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| StoreError { doing, cause: error.into() }
}

/// SQLite's integers are signed; our times fit for 292 million years.
fn stored_ms(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

fn read_catalog(row: &SqliteRow) -> Result<StoredCatalog, sqlx::Error> {
    Ok(StoredCatalog {
        server: row.try_get(0)?,
        capabilities: row.try_get(1)?,
        identity: row.try_get(2)?,
        body: row.try_get(3)?,
        learned_ms: row.try_get::<i64, _>(4)?.try_into().unwrap_or(0),
    })
}

fn read_session(row: &SqliteRow) -> Result<SessionRecord, sqlx::Error> {
    let subscriptions: String = row.try_get(2)?;
    Ok(SessionRecord {
        ended: row.try_get::<i64, _>(0)? != 0,
        log_level: row.try_get(1)?,
        subscriptions: serde_json::from_str(&subscriptions).map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}

impl CatalogStore for Store {
    fn load_all(&self) -> BoxFuture<'_, Result<Vec<StoredCatalog>, StoreError>> {
        Box::pin(async {
            let failed = failed("read the stored catalogs");
            let rows = sqlx::query(
                "SELECT server, capabilities, identity, body, learned_ms FROM catalogs ORDER BY server, capabilities",
            )
            .fetch_all(&self.0.pool)
            .await
            .map_err(&failed)?;
            rows.iter().map(read_catalog).collect::<Result<_, _>>().map_err(&failed)
        })
    }

    fn save(&self, catalog: StoredCatalog) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            sqlx::query(
                "INSERT INTO catalogs (server, capabilities, identity, body, learned_ms) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (server, capabilities) DO UPDATE SET \
                 identity = excluded.identity, body = excluded.body, learned_ms = excluded.learned_ms",
            )
            .bind(catalog.server)
            .bind(catalog.capabilities)
            .bind(catalog.identity)
            .bind(catalog.body)
            .bind(stored_ms(catalog.learned_ms))
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("save a catalog"))
        })
    }

    fn forget<'a>(&'a self, server: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            sqlx::query("DELETE FROM catalogs WHERE server = $1")
                .bind(server)
                .execute(&self.0.pool)
                .await
                .map(drop)
                .map_err(failed("forget a server's catalogs"))
        })
    }
}

impl SessionStore for Store {
    fn load<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<SessionRecord>, StoreError>> {
        Box::pin(async move {
            // Before the database: a record that is written between the two reads is then found by the second.
            if let Some(pending) = self.0.queue.find(key) {
                return Ok(Some(pending.record));
            }
            let failed = failed("read a session record");
            let row = sqlx::query(
                "SELECT ended, log_level, subscriptions FROM session_records WHERE session_key = $1 AND expires_ms > $2",
            )
            .bind(key)
            .bind(stored_ms(self.0.clock.unix_ms()))
            .fetch_optional(&self.0.pool)
            .await
            .map_err(&failed)?;
            row.as_ref().map(read_session).transpose().map_err(&failed)
        })
    }

    fn save(&self, key: &str, record: &SessionRecord, expires_ms: u64) {
        self.0.queue.push(key, Pending { record: record.clone(), expires_ms });
    }
}

#[cfg(test)]
mod tests;
