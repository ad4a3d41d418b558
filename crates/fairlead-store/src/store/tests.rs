//! The store against a real file: reopen, damage, batching, modes.

use super::*;
use fairlead_core::ports::{TaskRecord, TaskStore};
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;

const NOW: u64 = 1_700_000_000_000;
const LATER: u64 = NOW + 3_600_000;

async fn open(dir: &TempDir) -> Store {
    Store::open_at(dir.path(), Clock::manual(NOW)).await.unwrap()
}

fn catalog(server: &str, capabilities: &str, body: &str) -> StoredCatalog {
    StoredCatalog {
        server: server.to_owned(),
        identity: "digest".to_owned(),
        capabilities: capabilities.to_owned(),
        body: body.to_owned(),
        learned_ms: NOW,
    }
}

fn record(level: &str) -> SessionRecord {
    SessionRecord {
        ended: false,
        log_level: level.to_owned(),
        subscriptions: vec!["file:///a \"b\"".to_owned(), "x:\u{0}é".to_owned()],
    }
}

async fn rows(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM session_records").fetch_one(&store.0.pool).await.unwrap()
}

#[tokio::test]
async fn catalogs_survive_a_reopen_and_are_replaced_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let (first, second, other) = (catalog("a", "", "{}"), catalog("a", "roots", "[1]"), catalog("b", "", "{\"x\":1}"));
    for stored in [&other, &first, &second] {
        CatalogStore::save(&store, stored.clone()).await.unwrap();
    }
    store.close().await;

    let store = open(&dir).await;
    assert_eq!(store.load_all().await.unwrap(), [first, second.clone(), other.clone()]);
    let newer = StoredCatalog { identity: "moved".to_owned(), learned_ms: LATER, ..catalog("a", "", "{\"y\":2}") };
    CatalogStore::save(&store, newer.clone()).await.unwrap();
    assert_eq!(store.load_all().await.unwrap(), [newer, second, other.clone()]);
    store.forget("a").await.unwrap();
    store.forget("never seen").await.unwrap();
    assert_eq!(store.load_all().await.unwrap(), [other]);
    store.close().await;
}

#[tokio::test]
async fn session_records_are_seen_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    assert_eq!(store.load("s").await.unwrap(), None);
    SessionStore::save(&store, "s", &record("info"), LATER);
    assert_eq!(store.load("s").await.unwrap(), Some(record("info")), "before it is written");
    let ended = SessionRecord { ended: true, ..SessionRecord::default() };
    SessionStore::save(&store, "s", &ended, LATER);
    SessionStore::save(&store, "t", &record("debug"), LATER);
    store.close().await;

    let store = open(&dir).await;
    assert_eq!(store.load("s").await.unwrap(), Some(ended));
    assert_eq!(store.load("t").await.unwrap(), Some(record("debug")));
    store.close().await;
    assert!(store.load("s").await.is_err(), "a closed store says so");
    SessionStore::save(&store, "s", &record("late"), LATER);
}

#[tokio::test]
async fn dropping_the_last_clone_writes_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let writers = std::mem::take(&mut *store.0.writers.lock().unwrap());
    SessionStore::save(&store.clone(), "s", &record("info"), LATER);
    drop(store);
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(10), writer).await.unwrap().unwrap();
    }
    let store = open(&dir).await;
    assert_eq!(store.load("s").await.unwrap(), Some(record("info")));
    store.close().await;
}

#[tokio::test]
async fn a_burst_is_written_in_few_transactions() {
    const BURST: usize = BATCH_MAX * 2 + 1;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    // Every transaction that changes something moves the version that other connections see by one.
    let mut observer = store.0.pool.acquire().await.unwrap();
    let version = async |observer: &mut sqlx::pool::PoolConnection<sqlx::Sqlite>| -> i64 {
        sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut **observer).await.unwrap()
    };
    let mut seen = version(&mut observer).await;
    let mut commits = 0;
    for number in 0..BURST {
        SessionStore::save(&store, &number.to_string(), &record("info"), LATER);
        SessionStore::save(&store, &number.to_string(), &record("warning"), LATER);
    }
    for _ in 0..10_000 {
        let now = version(&mut observer).await;
        commits += i64::from(now != seen);
        seen = now;
        if rows(&store).await == BURST as i64 {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(rows(&store).await, BURST as i64);
    assert!((1..=4).contains(&commits), "{commits} commits for {BURST} records");
    assert_eq!(store.load("0").await.unwrap(), Some(record("warning")));
    drop(observer);
    store.close().await;
}

#[tokio::test]
async fn a_failed_write_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    sqlx::query("ALTER TABLE session_records RENAME TO elsewhere").execute(&store.0.pool).await.unwrap();
    SessionStore::save(&store, "s", &record("info"), LATER);
    tokio::time::sleep(BATCH_WINDOW * 20).await;
    assert_eq!(store.load("s").await.unwrap(), Some(record("info")), "kept in the queue");
    sqlx::query("ALTER TABLE elsewhere RENAME TO session_records").execute(&store.0.pool).await.unwrap();
    store.close().await;
    let store = open(&dir).await;
    assert_eq!(store.load("s").await.unwrap(), Some(record("info")));
    store.close().await;
}

#[tokio::test]
async fn expired_records_are_not_served_and_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let store = Store::open_at(dir.path(), clock.clone()).await.unwrap();
    SessionStore::save(&store, "short", &record("info"), NOW + 1000);
    SessionStore::save(&store, "long", &record("info"), LATER);
    store.close().await;

    let store = Store::open_at(dir.path(), clock.clone()).await.unwrap();
    assert_eq!(store.load("short").await.unwrap(), Some(record("info")));
    clock.advance(Duration::from_millis(1000));
    assert_eq!(store.load("short").await.unwrap(), None);
    writer::remove_expired::<Pending>(&store.0.pool, stored_ms(clock.unix_ms())).await.unwrap();
    assert_eq!(rows(&store).await, 1);
    assert_eq!(store.load("long").await.unwrap(), Some(record("info")));
    store.close().await;
}

#[tokio::test]
async fn tasks_are_found_by_owner_until_they_expire() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let store = Store::open_at(dir.path(), clock.clone()).await.unwrap();
    let task = |number: u64, owner: &str| TaskRecord {
        id: format!("{owner}-{number}"),
        owner: owner.to_owned(),
        body: format!("{{\"n\":{number}}}"),
        created_ms: NOW + number,
        expires_ms: NOW + 1_000 * number,
    };
    for number in [3, 1, 2] {
        store.note(task(number, "ann"));
    }
    store.note(task(9, "eve"));
    store.note(TaskRecord { body: "{}".to_owned(), ..task(2, "ann") });
    store.note(task(4, "ann"));
    store.remove("ann-4");
    store.close().await;

    let store = Store::open_at(dir.path(), clock.clone()).await.unwrap();
    let changed = TaskRecord { body: "{}".to_owned(), ..task(2, "ann") };
    assert_eq!(store.tasks_of("ann", 9).await.unwrap(), [task(1, "ann"), changed.clone(), task(3, "ann")]);
    assert_eq!(store.tasks_of("ann", 2).await.unwrap(), [changed, task(3, "ann")], "the newest, oldest first");
    clock.advance(Duration::from_millis(2_000));
    assert_eq!(store.tasks_of("ann", 9).await.unwrap(), [task(3, "ann")]);
    writer::remove_expired::<Option<TaskRecord>>(&store.0.pool, stored_ms(clock.unix_ms())).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&store.0.pool).await.unwrap();
    assert_eq!(left, 2);
    store.close().await;
}

#[tokio::test]
async fn files_are_private_even_if_they_were_not() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("data");
    let store = Store::open(&inside).await.unwrap();
    CatalogStore::save(&store, catalog("a", "", "{}")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inside), 0o700);
    for entry in fs::read_dir(&inside).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    store.close().await;
    fs::set_permissions(inside.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open(&inside).await.unwrap();
    assert_eq!(mode(&inside.join(FILE)), 0o600);
    store.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_a_fresh_one_begun() {
    let garbage = b"this is not a database, and it is long enough to have a header ".repeat(64);
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    CatalogStore::save(&store, catalog("a", "", &"x".repeat(100_000))).await.unwrap();
    store.close().await;
    let file = dir.path().join(FILE);
    let whole = fs::read(&file).unwrap();
    let mut scribbled = whole.clone();
    let end = scribbled.len();
    scribbled[4096..end].fill(0xa5);

    for (number, damaged) in [garbage, whole[..whole.len() / 2].to_vec(), scribbled].into_iter().enumerate() {
        fs::write(&file, &damaged).unwrap();
        let store = open(&dir).await;
        assert_eq!(store.load_all().await.unwrap(), [], "case {number}");
        CatalogStore::save(&store, catalog("b", "", "{}")).await.unwrap();
        store.close().await;
        let seconds = NOW / 1000;
        let aside = match number {
            0 => format!("{FILE}.broken-{seconds}"),
            _ => format!("{FILE}.broken-{seconds}-{number}"),
        };
        assert_eq!(fs::read(dir.path().join(aside)).unwrap(), damaged, "case {number}");
        let store = open(&dir).await;
        assert_eq!(store.load_all().await.unwrap().len(), 1, "case {number}: the fresh database is kept");
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'from the future', 1, x'00', 0)",
    )
    .execute(&store.0.pool)
    .await
    .unwrap();
    store.close().await;
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::Tables { .. }), "{error:?}");
    assert!(!fs::read_dir(dir.path()).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().contains("broken")
    }));
}
