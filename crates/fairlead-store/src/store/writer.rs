//! What writes the records of one kind: the one task that does.

use super::{BATCH_MAX, BATCH_WINDOW, RETRY_AFTER, SWEEP_EVERY, SWEEP_STEP, stored_ms};
use crate::queue::{Pending, Queue, Weigh};
use fairlead_core::Clock;
use sqlx::{Sqlite, SqlitePool, query::Query, sqlite::SqliteArguments};
use std::sync::Arc;
use tokio::time::{self, MissedTickBehavior};

/// A record that a writer can put into its table.
pub(super) trait Written: Clone + Weigh + Send + Sync + 'static {
    /// What the log calls such records.
    const KIND: &'static str;
    /// Deletes records that expired at `$1`, at most `$2` of them.
    const SWEEP: &'static str;

    /// Puts the record under `key`, or takes it away.
    fn statement<'a>(&'a self, key: &'a str) -> Query<'a, Sqlite, SqliteArguments>;
}

impl Written for Pending {
    const KIND: &'static str = "session records";
    const SWEEP: &'static str = "DELETE FROM session_records WHERE session_key IN \
                                 (SELECT session_key FROM session_records WHERE expires_ms <= $1 LIMIT $2)";

    fn statement<'a>(&'a self, key: &'a str) -> Query<'a, Sqlite, SqliteArguments> {
        let subscriptions =
            serde_json::to_string(&self.record.subscriptions).expect("invariant: a list of strings has a JSON form");
        sqlx::query(
            "INSERT INTO session_records (session_key, ended, log_level, subscriptions, expires_ms) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (session_key) DO UPDATE SET ended = excluded.ended, \
             log_level = excluded.log_level, subscriptions = excluded.subscriptions, expires_ms = excluded.expires_ms",
        )
        .bind(key)
        .bind(i64::from(self.record.ended))
        .bind(self.record.log_level.as_str())
        .bind(subscriptions)
        .bind(stored_ms(self.expires_ms))
    }
}

/// Runs until the queue is closed and what was in it is written.
pub(super) async fn run<R: Written>(pool: SqlitePool, queue: Arc<Queue<R>>, clock: Clock) {
    let mut sweep = time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = queue.wait() => {}
            _ = sweep.tick() => {
                if let Err(error) = remove_expired::<R>(&pool, stored_ms(clock.unix_ms())).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, what = R::KIND, "What expired cannot be swept");
                }
                continue;
            }
        }
        let closing = queue.is_closed();
        if !closing && queue.waiting() < BATCH_MAX {
            time::sleep(BATCH_WINDOW).await;
        }
        report_dropped(&queue);
        match write_all(&pool, &queue).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(what = R::KIND, "The database takes what is written again");
                }
            }
            Err(error) if closing => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    lost = queue.waiting(),
                    what = R::KIND,
                    "The database takes nothing, and what waited is lost with the end of the program"
                );
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        what = R::KIND,
                        "The database takes nothing; what waits is kept and tried again"
                    );
                }
                time::sleep(RETRY_AFTER).await;
            }
        }
        if closing {
            report_dropped(&queue);
            return;
        }
    }
}

fn report_dropped<R: Written>(queue: &Queue<R>) {
    let dropped = queue.take_dropped();
    if dropped > 0 {
        tracing::warn!(dropped, what = R::KIND, "The database does not keep up, and something was not noted");
    }
}

/// Writes all that waits, in transactions of at most [`BATCH_MAX`].
async fn write_all<R: Written>(pool: &SqlitePool, queue: &Queue<R>) -> Result<(), sqlx::Error> {
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

async fn write_batch<R: Written>(pool: &SqlitePool, batch: &[(&String, &R)]) -> Result<(), sqlx::Error> {
    // Immediate: a transaction that becomes a writer half way can be refused without waiting.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (key, record) in batch {
        record.statement(key).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Deletes what expired, step by step so that records never wait long for it.
pub(super) async fn remove_expired<R: Written>(pool: &SqlitePool, now_ms: i64) -> Result<(), sqlx::Error> {
    loop {
        let step = sqlx::query(R::SWEEP).bind(now_ms).bind(SWEEP_STEP).execute(pool).await?.rows_affected();
        if step < SWEEP_STEP.unsigned_abs() {
            return Ok(());
        }
    }
}
