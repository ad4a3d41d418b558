//! The one task that writes session records.

use super::{BATCH_MAX, BATCH_WINDOW, RETRY_AFTER, SWEEP_EVERY, SWEEP_STEP, stored_ms};
use crate::queue::{Pending, SessionQueue};
use fairlead_core::Clock;
use sqlx::SqlitePool;
use std::sync::Arc;
use tokio::time::{self, MissedTickBehavior};

/// Runs until the queue is closed and what was in it is written.
pub(super) async fn run(pool: SqlitePool, queue: Arc<SessionQueue>, clock: Clock) {
    let mut sweep = time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = queue.wait() => {}
            _ = sweep.tick() => {
                if let Err(error) = remove_expired(&pool, stored_ms(clock.unix_ms())).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "Expired session records cannot be swept");
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
                    tracing::info!("Session records are written again");
                }
            }
            Err(error) if closing => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    lost = queue.waiting(),
                    "Session records cannot be written and are lost with the end of the program"
                );
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "Session records cannot be written; they are kept and tried again"
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

fn report_dropped(queue: &SessionQueue) {
    let dropped = queue.take_dropped();
    if dropped > 0 {
        tracing::warn!(dropped, "Session records were dropped because the database does not keep up");
    }
}

/// Writes all that waits, in transactions of at most [`BATCH_MAX`].
async fn write_all(pool: &SqlitePool, queue: &SessionQueue) -> Result<(), sqlx::Error> {
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

async fn write_batch(pool: &SqlitePool, batch: &[(&String, &Pending)]) -> Result<(), sqlx::Error> {
    // Immediate: a transaction that becomes a writer half way can be refused without waiting.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (key, pending) in batch {
        let subscriptions =
            serde_json::to_string(&pending.record.subscriptions).expect("invariant: a list of strings has a JSON form");
        sqlx::query(
            "INSERT INTO session_records (session_key, ended, log_level, subscriptions, expires_ms) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (session_key) DO UPDATE SET ended = excluded.ended, \
             log_level = excluded.log_level, subscriptions = excluded.subscriptions, expires_ms = excluded.expires_ms",
        )
        .bind(key.as_str())
        .bind(i64::from(pending.record.ended))
        .bind(pending.record.log_level.as_str())
        .bind(subscriptions)
        .bind(stored_ms(pending.expires_ms))
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

/// Deletes what expired, step by step so that records never wait long for it.
pub(super) async fn remove_expired(pool: &SqlitePool, now_ms: i64) -> Result<u64, sqlx::Error> {
    let mut removed = 0;
    loop {
        let step = sqlx::query(
            "DELETE FROM session_records WHERE session_key IN \
             (SELECT session_key FROM session_records WHERE expires_ms <= $1 LIMIT $2)",
        )
        .bind(now_ms)
        .bind(SWEEP_STEP)
        .execute(pool)
        .await?
        .rows_affected();
        removed += step;
        if step < SWEEP_STEP.unsigned_abs() {
            return Ok(removed);
        }
    }
}
