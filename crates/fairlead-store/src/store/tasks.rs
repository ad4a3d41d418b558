//! Tasks in the database: read by owner, written by a task of their own.

use super::{BATCH_MAX, BATCH_WINDOW, RETRY_AFTER, SWEEP_EVERY, SWEEP_STEP, Store, failed, stored_ms};
use crate::queue::Queue;
use fairlead_core::{
    Clock,
    ports::{BoxFuture, StoreError, TaskRecord, TaskStore},
};
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};
use std::sync::Arc;
use tokio::time::{self, MissedTickBehavior};

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

/// Runs until the queue is closed and what was in it is written.
pub(super) async fn write(pool: SqlitePool, queue: Arc<TaskQueue>, clock: Clock) {
    let mut sweep = time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = queue.wait() => {}
            _ = sweep.tick() => {
                if let Err(error) = remove_expired(&pool, stored_ms(clock.unix_ms())).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "Expired tasks cannot be swept");
                }
                continue;
            }
        }
        let closing = queue.is_closed();
        if !closing && queue.waiting() < BATCH_MAX {
            time::sleep(BATCH_WINDOW).await;
        }
        let dropped = queue.take_dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "Tasks were not noted because the database does not keep up");
        }
        if let Err(error) = write_all(&pool, &queue).await {
            tracing::error!(error = &error as &dyn std::error::Error, closing, "Tasks cannot be written");
            if !closing {
                time::sleep(RETRY_AFTER).await;
            }
        }
        if closing {
            return;
        }
    }
}

/// Writes all that waits, in transactions of at most [`BATCH_MAX`].
async fn write_all(pool: &SqlitePool, queue: &TaskQueue) -> Result<(), sqlx::Error> {
    let taken = queue.take();
    let records: Vec<_> = taken.iter().collect();
    for batch in records.chunks(BATCH_MAX) {
        if let Err(error) = write_batch(pool, batch).await {
            queue.put_back();
            return Err(error);
        }
    }
    queue.written();
    Ok(())
}

async fn write_batch(pool: &SqlitePool, batch: &[(&String, &Option<TaskRecord>)]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (id, record) in batch {
        let statement = match record {
            Some(record) => sqlx::query(
                "INSERT INTO tasks (task_id, owner, body, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (task_id) DO UPDATE SET body = excluded.body, expires_ms = excluded.expires_ms",
            )
            .bind(id.as_str())
            .bind(record.owner.as_str())
            .bind(record.body.as_str())
            .bind(stored_ms(record.created_ms))
            .bind(stored_ms(record.expires_ms)),
            None => sqlx::query("DELETE FROM tasks WHERE task_id = $1").bind(id.as_str()),
        };
        statement.execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

pub(super) async fn remove_expired(pool: &SqlitePool, now_ms: i64) -> Result<(), sqlx::Error> {
    loop {
        let step = sqlx::query(
            "DELETE FROM tasks WHERE task_id IN (SELECT task_id FROM tasks WHERE expires_ms <= $1 LIMIT $2)",
        )
        .bind(now_ms)
        .bind(SWEEP_STEP)
        .execute(pool)
        .await?
        .rows_affected();
        if step < SWEEP_STEP.unsigned_abs() {
            return Ok(());
        }
    }
}
