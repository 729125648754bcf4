//! A store that leaves its checkpoints to the real daemon of Litestream.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{AlertKind, Checkpoints, Options, Store};

use super::litestream::{Litestream, end, files, wait};
use crate::support::child::PATIENCE;
use crate::support::serious;

/// Writes by each of four threads, of some 3 pages: the daemon makes its checkpoints meanwhile.
const WRITES: i64 = 1500;

fn options() -> Options {
    Options::new()
        .checkpoints(Checkpoints::Left)
        .monitor_interval(Duration::from_millis(10))
        // Nothing waits for the read transaction that the daemon has open.
        .busy_timeout(PATIENCE)
        .close_timeout(PATIENCE)
}

fn write_from_four_threads(store: &Store) -> i64 {
    let acknowledged = AtomicI64::new(0);
    thread::scope(|scope| {
        for thread in 0..4_i64 {
            let (store, acknowledged) = (&store, &acknowledged);
            scope.spawn(move || {
                for n in 0..WRITES {
                    store
                        .write(move |tx| {
                            let value = format!("{thread} {n} ").repeat(900);
                            tx.execute("INSERT INTO t(value) VALUES (?1)", [value])?;
                            tx.execute("UPDATE counts SET n = n + 1 WHERE thread = ?1", [thread])
                        })
                        .unwrap();
                    acknowledged.fetch_add(1, Relaxed);
                }
            });
        }
    });
    acknowledged.into_inner()
}

/// The database with all that is in its log, which no process has open.
fn moved(path: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("app.db");
    fs::copy(path, &copy).unwrap();
    let log = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    if log(path).exists() {
        fs::copy(log(path), log(&copy)).unwrap();
    }
    drop(
        Connection::open(&copy)
            .unwrap()
            .query_row("SELECT count(*) FROM t", [], |_| Ok(())),
    );
    fs::read(copy).unwrap()
}

/// It closed at once after its last write, and the daemon copied the rest of the log.
#[test]
fn daemon_replicates_store_that_leaves_checkpoints() {
    for litestream in Litestream::all() {
        let version = &litestream.version;
        let folder = tempfile::tempdir().unwrap();
        let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
        let store = options().open(&path).unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT) STRICT;
                     CREATE TABLE counts(thread INTEGER PRIMARY KEY, n INTEGER) STRICT;
                     INSERT INTO counts VALUES (0, 0), (1, 0), (2, 0), (3, 0);",
                )
            })
            .unwrap();
        let mut daemon = litestream.replicate(&path, &replica);
        wait(|| replica.join("ltx/0").exists());
        let acknowledged = write_from_four_threads(&store);
        let stats = store.stats();
        assert_eq!((stats.checkpoints, stats.unfinished_checkpoints), (0, 0));
        assert_eq!(serious(&stats), []);
        let about_log = |kind| matches!(kind, AlertKind::LargeWal | AlertKind::StuckCheckpoint);
        assert!(
            !stats.alerts.iter().any(|alert| about_log(alert.kind)),
            "{:?}",
            stats.alerts
        );
        assert!(store.advice().iter().all(|finding| finding.topic != "external_commits"));
        let report = store.close().unwrap();
        assert!(
            report.wal_kept_because.unwrap().contains("Options::checkpoints"),
            "{version}"
        );
        // It copies what is left.
        end(&mut daemon);
        let restored = litestream.restore(&replica, None);
        assert!(restored == moved(&path), "{version}");
        let copy = folder.path().join("restored.db");
        fs::write(&copy, restored).unwrap();
        let rows = "SELECT (SELECT count(*) FROM t), (SELECT sum(n) FROM counts)";
        let found: (i64, i64) = Connection::open(&copy)
            .unwrap()
            .query_row(rows, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(found, (acknowledged, acknowledged), "{version}");

        // Both go on where they were.
        let store = options().open(&path).unwrap();
        let copied = files(&replica, 0).len();
        let mut daemon = litestream.replicate(&path, &replica);
        store.write(|tx| tx.execute("DELETE FROM t WHERE id % 2", [])).unwrap();
        wait(|| files(&replica, 0).len() > copied);
        store.write(|tx| tx.execute("DELETE FROM t WHERE id % 3", [])).unwrap();
        store.close().unwrap();
        end(&mut daemon);
        assert!(litestream.restore(&replica, None) == moved(&path), "{version}");
    }
}
