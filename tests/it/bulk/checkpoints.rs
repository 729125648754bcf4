//! Checkpoints beside a bulk job are made by a thread of their own: the log stays short, and nothing is lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use larder::{Access, Durability, Error, Options, Store};

use crate::support::child::PATIENCE;
#[cfg(target_os = "linux")]
use crate::support::child::{Child, Task, tell};
#[cfg(target_os = "linux")]
use crate::support::with_stalls;
use crate::support::{RaiseOnDrop, count, until};

const INSERT: &str = "INSERT INTO t(id, key, text) VALUES (?1, ?2, ?3)";

const MIB: u64 = 1 << 20;

fn open(path: &Path, options: Options) -> Store {
    let store = options.open(path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
                 CREATE INDEX IF NOT EXISTS t_by_key ON t(key);
                 CREATE TABLE IF NOT EXISTS beside(n INTEGER PRIMARY KEY) STRICT",
            )
        })
        .unwrap();
    store
}

/// Rows with a key in random order.
fn rows(from: i64, to: i64) -> impl Iterator<Item = (i64, i64, &'static str)> {
    (from..to).map(|id| (id, id.wrapping_mul(6_364_136_223_846_793_005) >> 20, "some text"))
}

/// Inserts that many rows while another thread writes one after another. Returns how many that one wrote.
fn insert_beside_writes(store: &Store, total: i64) -> i64 {
    let (inserted, beside) = insert_all_beside_writes(store, rows(0, total));
    assert_eq!(inserted, total);
    beside
}

/// The same of these rows. Returns their number, too.
fn insert_all_beside_writes(store: &Store, rows: impl Iterator<Item = (i64, i64, &'static str)>) -> (i64, i64) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut written = 0;
            while !over.load(Relaxed) {
                let n = written;
                store
                    .write(move |tx| tx.execute("INSERT INTO beside VALUES (?1)", [n]))
                    .unwrap();
                written += 1;
                thread::sleep(Duration::from_micros(200));
            }
            written
        });
        let raise = RaiseOnDrop(&over);
        let report = store.bulk().insert(INSERT, rows).run().unwrap();
        drop(raise);
        (report.rows.cast_signed(), beside.join().unwrap())
    })
}

#[track_caller]
fn assert_has(path: &Path, rows: i64, beside: i64) {
    let conn = Connection::open(path).unwrap();
    let get = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(get("SELECT count(*) FROM t"), rows);
    assert_eq!(get("SELECT count(*) FROM beside"), beside);
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn log_starts_over_beside_writes() {
    for (access, durability) in [
        (Access::Shared, Durability::Normal),
        (Access::Exclusive, Durability::Full),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let options = Options::new()
            .access(access)
            .durability(durability)
            .checkpoint_pages(100)
            .wal_limit(8 * MIB);
        let store = open(&path, options);
        let beside = insert_beside_writes(&store, 60_000);
        let stats = store.stats();
        // Some 4 KB for each two rows: the log has begun from its start many times.
        assert!(stats.largest_wal_bytes < 16 * MIB, "{access:?}: {stats:?}");
        assert!(stats.checkpoints > 3, "{access:?}: {stats:?}");
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{access:?}: {report}");
        assert_has(&path, 60_000, beside);
    }
}

#[test]
fn reader_that_pins_the_log_stops_no_slice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = open(&path, Options::new().checkpoint_pages(20).wal_limit(MIB));
    let beside = store
        .read(|tx| {
            // A snapshot begins with its first read.
            let _: i64 = tx.scalar("SELECT count(*) FROM t", [])?;
            Ok(insert_beside_writes(&store, 20_000))
        })
        .unwrap();
    let stats = store.stats();
    assert!(stats.unfinished_checkpoints > 0, "{stats:?}");
    assert!(store.close().unwrap().wal_truncated);
    assert_has(&path, 20_000, beside);
}

#[test]
fn closing_waits_for_the_checkpoint() {
    for after in [1, 3000, 9000, 20_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = open(&path, Options::new().checkpoint_pages(5));
        let again = store.clone();
        let job = thread::spawn(move || again.bulk().insert(INSERT, rows(0, i64::MAX)).run());
        until(&store, |stats| stats.bulk.iter().any(|job| job.rows >= after));
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{report}");
        let error = job.join().unwrap().unwrap_err();
        let Error::Bulk { rows, source, .. } = &error else {
            panic!("{error}")
        };
        assert!(matches!(**source, Error::Closed), "{error}");
        assert_has(&path, rows.cast_signed(), 0);
    }
}

#[test]
fn exclusive_jobs_run_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = open(&path, Options::new().checkpoint_pages(5));
    let (over, vacuums) = (AtomicBool::new(false), AtomicU64::new(0));
    let (inserted, beside, within) = thread::scope(|scope| {
        let raise = RaiseOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                store.vacuum().run().unwrap();
                vacuums.fetch_add(1, Relaxed);
            }
        });
        // Of two that end while rows are inserted, the second has begun meanwhile, too.
        let (began, mut before, mut within) = (Instant::now(), None, 0);
        let goes_on = |row: &(i64, i64, &str)| {
            let now = vacuums.load(Relaxed);
            within = now - *before.get_or_insert(now);
            row.0 < 20_000 || within < 2 && began.elapsed() < PATIENCE
        };
        let (inserted, beside) = insert_all_beside_writes(&store, rows(0, i64::MAX).take_while(goes_on));
        drop(raise);
        (inserted, beside, within)
    });
    assert!(within >= 2, "{within} vacuums have ended beside the job");
    assert!(inserted >= 20_000, "{inserted}");
    assert_eq!(count(&store), inserted);
    store.close().unwrap();
    assert_has(&path, inserted, beside);
}

/// Whether a thread of this process makes checkpoints beside a bulk job.
#[cfg(target_os = "linux")]
pub(crate) fn has_checkpoint_thread() -> bool {
    // The kernel keeps 15 bytes of a name. A thread may end during the walk.
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .any(|name| name.trim_end() == "larder-checkpoi")
}

#[cfg(target_os = "linux")]
pub(crate) fn child(task: &Task) {
    let store = open(Path::new(&task.args[0]), Options::new().checkpoint_pages(5));
    for n in 0..100 {
        store
            .write(move |tx| tx.execute("INSERT INTO beside VALUES (?1)", [n]))
            .unwrap();
    }
    until(&store, |stats| stats.checkpoints > 0);
    assert!(!has_checkpoint_thread(), "there is no bulk job");
    for _ in 0..2 {
        assert!((0..10).any(|_| is_seen_during_job(&store)));
        // Once the store is idle.
        until(&store, |_| !has_checkpoint_thread());
    }
    tell(count(&store));
}

/// Whether the thread is seen while a job inserts rows. On a busy machine it may be started and not run before the job has
/// ended: then it is seen afterwards, since it stays for a second after the last slice.
#[cfg(target_os = "linux")]
fn is_seen_during_job(store: &Store) -> bool {
    const TOTAL: i64 = 40_000;
    let (from, mut seen) = (count(store), false);
    let look = |row: &(i64, i64, &str)| seen |= row.0 % 1000 == 0 && has_checkpoint_thread();
    let rows = rows(from, from + TOTAL).inspect(look);
    assert_eq!(
        store.bulk().insert(INSERT, rows).run().unwrap().rows,
        TOTAL.unsigned_abs()
    );
    if !seen {
        let ended = Instant::now();
        let (comes, lost) = with_stalls(|| {
            loop {
                let is_there = has_checkpoint_thread();
                if is_there || ended.elapsed() >= Duration::from_secs(1) {
                    break is_there;
                }
            }
        });
        assert!(
            comes || lost > Duration::from_millis(500),
            "no thread makes checkpoints"
        );
    }
    seen
}

#[test]
#[cfg(target_os = "linux")]
fn its_thread_ends_with_the_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let child = Child::start("bulk::checkpoints", "jobs", &[path.to_str().unwrap()]);
    let rows = child.line().parse().unwrap();
    child.finish();
    assert_has(&path, rows, 100);
}
