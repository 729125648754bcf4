//! `Checkpoints::Left`: another process moves the log into the database file, and the store never does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use larder::rusqlite::{Connection, hooks};
use larder::{Access, AlertKind, Checkpoints, CloseReport, Error, Options, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::{count, until};

/// Nothing here waits as long as that.
const LONG: Duration = Duration::from_secs(600);

/// Checkpoints would come after each write, and wait for others.
fn options() -> Options {
    Options::new()
        .checkpoints(Checkpoints::Left)
        .checkpoint_pages(1)
        .wal_limit(64 * 1024)
        .monitor_interval(Duration::from_millis(1))
        .busy_timeout(LONG)
        .close_timeout(LONG)
}

fn database() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    (folder, path)
}

fn open(path: &Path, options: Options) -> Store {
    let store = options.open(path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, data BLOB) STRICT"))
        .unwrap();
    store
}

fn add(store: &Store) {
    store
        .write(|tx| tx.execute("INSERT INTO t(data) VALUES (zeroblob(8000))", []))
        .unwrap();
}

fn log(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Bytes of a file, without opening it: closing a descriptor would drop SQLite's locks.
fn bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// What the daemon does: SQLite's own checkpoint by another connection. Whether it moved all of the log.
fn move_log(path: &Path) -> bool {
    let other = Connection::open(path).unwrap();
    let (busy, log, moved): (i64, i64, i64) = other
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    busy == 0 && log == moved
}

#[track_caller]
fn is_left(report: &CloseReport) {
    let reason = report.wal_kept_because.as_deref().unwrap();
    assert!(reason.contains("Options::checkpoints"), "{reason}");
    assert!(!report.wal_truncated);
}

#[test]
fn log_is_never_moved() {
    let (_folder, path) = database();
    let store = open(&path, options());
    let before = bytes(&path);
    for _ in 0..200 {
        add(&store);
    }
    // An idle store looks at the size of its file instead.
    let stats = until(&store, |stats| stats.database.pages > 400);
    assert_eq!((stats.checkpoints, stats.unfinished_checkpoints), (0, 0));
    assert!(stats.last_checkpoint.is_none(), "{stats:?}");
    assert!(stats.wal_bytes > 400 * 4096, "{stats:?}");
    is_left(&store.close().unwrap());
    assert_eq!(bytes(&path), before);
    assert!(bytes(&log(&path)) > stats.wal_bytes);

    // It is there for the next one, and for whoever moves it.
    let store = open(&path, options());
    assert_eq!(count(&store), 200);
    assert!(move_log(&path));
    assert!(bytes(&path) > 400 * 4096 && bytes(&log(&path)) == 0);
    drop(store);
    let store = open(&path, Options::new());
    assert_eq!(count(&store), 200);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn read_of_another_process_raises_no_alarm() {
    let (_folder, path) = database();
    for checkpoints in [Checkpoints::Left, Checkpoints::Own] {
        // With its own checkpoints it would wait for the other at its end.
        let options = options()
            .checkpoints(checkpoints)
            .busy_timeout(Duration::from_millis(1));
        let store = open(&path, options);
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE IF NOT EXISTS o(a); INSERT INTO o VALUES (1); BEGIN; SELECT * FROM t")
            .unwrap();
        for _ in 0..30 {
            add(&store);
        }
        let is_about_log = |kind| matches!(kind, AlertKind::LargeWal | AlertKind::StuckCheckpoint);
        let alarms = || store.stats().alerts.into_iter().any(|alert| is_about_log(alert.kind));
        let told = || {
            store
                .advice()
                .into_iter()
                .any(|finding| finding.topic == "external_commits")
        };
        if checkpoints == Checkpoints::Own {
            until(&store, |_| alarms() && told());
            continue;
        }
        // The watchdog has looked since: it has seen the other's commits, also those after the last own one.
        other.execute_batch("COMMIT; INSERT INTO o VALUES (2)").unwrap();
        until(&store, |stats| stats.external_commits >= 3);
        store.stats();
        assert!(!alarms() && !told(), "{:?}", store.advice());
        let stats = store.stats();
        assert_eq!((stats.checkpoints, stats.unfinished_checkpoints), (0, 0));
        is_left(&store.close().unwrap());
    }
}

/// The daemon of Litestream has a read transaction open all the time, for which a last checkpoint would wait.
#[test]
fn closing_waits_for_no_other_process() {
    let (_folder, path) = database();
    let store = open(&path, options());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    add(&store);
    is_left(&store.close().unwrap());
    drop(other);
}

/// SQLite itself makes a checkpoint as the last connection of a file closes, and deletes the log.
#[test]
fn connection_that_closes_early_leaves_log() {
    let (_folder, path) = database();
    let store = open(&path, options());
    add(&store);
    store.close().unwrap();
    let left = fs::read(log(&path)).unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let opened = Arc::new(AtomicUsize::new(0));
    let (failing, opening) = (Arc::clone(&fails), Arc::clone(&opened));
    let options = options().on_connect(move |_, role| {
        if role == Role::Writer {
            opening.fetch_add(1, Relaxed);
        }
        match failing.load(Relaxed) {
            true => Err(Error::app("not now")),
            false => Ok(()),
        }
    });
    options.clone().open(&path).unwrap_err();
    assert_eq!(fs::read(log(&path)).unwrap(), left);

    // The writer's connection is replaced, and no reader's is open.
    fails.store(false, Relaxed);
    let store = options.open(&path).unwrap();
    opened.store(0, Relaxed);
    let spoil = |conn: &Connection| conn.authorizer(None::<fn(hooks::AuthContext<'_>) -> hooks::Authorization>);
    store
        .write(move |tx| {
            spoil(tx)?;
            tx.execute_batch("PRAGMA ignore_check_constraints = ON")
        })
        .unwrap();
    add(&store);
    assert_eq!(opened.load(Relaxed), 1, "it was replaced");
    assert!(bytes(&log(&path)) > left.len() as u64);
    assert_eq!(count(&store), 2);
}

#[test]
fn vacuum_leaves_its_pages_in_log() {
    let (_folder, path) = database();
    let store = open(&path, options());
    for _ in 0..100 {
        add(&store);
    }
    assert!(move_log(&path));
    let full = bytes(&path);
    store.write(|tx| tx.execute("DELETE FROM t WHERE id > 2", [])).unwrap();
    let report = store.vacuum().run().unwrap();
    assert!(
        !report.wal_truncated && report.bytes_after < report.bytes_before / 4,
        "{report:?}"
    );
    assert!(report.to_string().contains("shrinks when"), "{report}");
    assert_eq!(bytes(&path), full);
    assert!(move_log(&path));
    assert!(bytes(&path) < full / 4);
    assert_eq!(count(&store), 2);
}

/// The one checkpoint that is made: the rows would be lost with the process, and no other can find the log.
#[test]
fn removed_log_is_saved_all_the_same() {
    let (_folder, path) = database();
    let store = open(&path, options());
    add(&store);
    fs::remove_file(log(&path)).unwrap();
    until(&store, |_| store.poisoned().is_some());
    drop(store);
    let other = Connection::open(&path).unwrap();
    let rows: i64 = other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

/// The daemon copies the store's own database alone.
#[test]
fn attached_database_is_moved_all_the_same() {
    let (folder, path) = database();
    let attached = folder.path().join("attached.db");
    drop(Connection::open(&attached).unwrap().execute_batch("CREATE TABLE b(a)"));
    let name = attached.to_str().unwrap().to_owned();
    let store = open(
        &path,
        options().on_connect(move |conn, role| {
            if role == Role::Writer {
                conn.execute("ATTACH ?1 AS beside", [&name])?;
                conn.execute_batch("PRAGMA beside.journal_mode = WAL")?;
            }
            Ok(())
        }),
    );
    for _ in 0..20 {
        store
            .write(|tx| tx.execute("INSERT INTO beside.b VALUES (zeroblob(8000))", []))
            .unwrap();
    }
    is_left(&store.close().unwrap());
    assert!(bytes(&attached) > 20 * 8000 && bytes(&log(&attached)) == 0);
}

#[test]
fn what_contradicts_left_checkpoints_is_refused() {
    let (_folder, path) = database();
    for (options, named) in [
        (options().access(Access::Exclusive), "Access::Shared"),
        (options().wal_hard_limit(1 << 30), "wal_hard_limit"),
        #[cfg(feature = "replicate")]
        (options().replicate_to("/nowhere"), "replicate_to"),
    ] {
        let error = options.open(&path).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Options {
                    option: "checkpoints",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains(named), "{error}");
        assert!(!path.exists());
    }
}
