//! Tasks in the database: read by owner, written by a task of their own.

use super::{Store, failed, stored_ms, writer::Written};
use crate::queue::Queue;
use fairlead_core::ports::{BoxFuture, StoreError, TaskRecord, TaskStore};
use sqlx::{
    Row, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// Tasks on their way to the database, by id; `None` is a removal.
pub(super) type TaskQueue = Queue<Option<TaskRecord>>;

impl TaskStore for Store {
    fn tasks_of<'a>(&'a self, owner: &'a str, max: usize) -> BoxFuture<'a, Result<Vec<TaskRecord>, StoreError>> {
        Box::pin(async move {
            let failed = failed("read the tasks of a caller");
            let rows = sqlx::query(
                "SELECT task_id, owner, body, created_ms, expires_ms FROM tasks \
                 WHERE owner = $1 AND expires_ms > $2 ORDER BY created_ms DESC, task_id LIMIT $3",
            )
            .bind(owner)
            .bind(stored_ms(self.0.clock.unix_ms()))
            .bind(i64::try_from(max).unwrap_or(i64::MAX))
            .fetch_all(&self.0.pool)
            .await
            .map_err(&failed)?;
            rows.iter().rev().map(read).collect::<Result<_, _>>().map_err(&failed)
        })
    }

    fn note(&self, record: TaskRecord) {
        let id = record.id.clone();
        self.0.tasks.push(&id, Some(record));
    }

    fn remove(&self, id: &str) {
        self.0.tasks.push(id, None);
    }
}

fn read(row: &SqliteRow) -> Result<TaskRecord, sqlx::Error> {
    Ok(TaskRecord {
        id: row.try_get(0)?,
        owner: row.try_get(1)?,
        body: row.try_get(2)?,
        created_ms: row.try_get::<i64, _>(3)?.try_into().unwrap_or(0),
        expires_ms: row.try_get::<i64, _>(4)?.try_into().unwrap_or(0),
    })
}

impl Written for Option<TaskRecord> {
    const KIND: &'static str = "tasks";
    const SWEEP: &'static str =
        "DELETE FROM tasks WHERE task_id IN (SELECT task_id FROM tasks WHERE expires_ms <= $1 LIMIT $2)";

    fn statement<'a>(&'a self, key: &'a str) -> Query<'a, Sqlite, SqliteArguments> {
        let Some(record) = self else {
            return sqlx::query("DELETE FROM tasks WHERE task_id = $1").bind(key);
        };
        sqlx::query(
            "INSERT INTO tasks (task_id, owner, body, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (task_id) DO UPDATE SET body = excluded.body, expires_ms = excluded.expires_ms",
        )
        .bind(key)
        .bind(record.owner.as_str())
        .bind(record.body.as_str())
        .bind(stored_ms(record.created_ms))
        .bind(stored_ms(record.expires_ms))
    }
}
