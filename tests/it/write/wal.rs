//! The size of the write-ahead log is bounded.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, Outcome, ReadOptions, Result, Role, Store, WriteOptions, WriteTx};

use super::groups::Gate;
use crate::support::{RaiseOnDrop, until};

const MIB: u64 = 1024 * 1024;

fn store_with_table(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT"))
        .unwrap();
    store
}

/// Fills about that many pages of the log: the rows are overwritten, so the file itself stays small.
fn fill(tx: &WriteTx<'_>, pages: i64) -> Result<()> {
    for id in 0..pages {
        tx.execute("INSERT OR REPLACE INTO t VALUES (?1, zeroblob(3800))", [id])?;
    }
    Ok(())
}

fn wal_file(store: &Store) -> PathBuf {
    let mut name = store.path().as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Asks for the file's length without opening it: closing a descriptor would drop SQLite's locks.
fn wal_file_bytes(store: &Store) -> u64 {
    std::fs::metadata(wal_file(store)).map_or(0, |file| file.len())
}

/// The log starts over between two reads. A read that the machine keeps from ending makes it longer, so such an attempt
/// tells nothing.
#[test]
fn overlapping_reads_keep_log_within_twice_its_limit() {
    let limit = 4 * MIB;
    for attempt in 1.. {
        let (largest, longest) = largest_log_beside_overlapping_reads(limit);
        if largest < 2 * limit {
            return;
        }
        assert!(
            attempt < 10 && longest > Duration::from_millis(50),
            "{largest} bytes, and no read was longer than {longest:?}"
        );
    }
}

/// The largest log while eight times its limit is written, and the longest read.
fn largest_log_beside_overlapping_reads(limit: u64) -> (u64, Duration) {
    let store = store_with_table(Options::new().readers(8).wal_limit(limit));
    store.write(|tx| fill(tx, 50)).unwrap();
    let stop = AtomicBool::new(false);
    let largest = AtomicU64::new(0);
    let longest = AtomicU64::new(0);
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        let over = RaiseOnDrop(&stop);
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    store
                        .read(|tx| {
                            assert!(tx.exists("SELECT 1 FROM t", [])?);
                            // What a handler does with its rows before it asks for more.
                            thread::sleep(Duration::from_millis(1));
                            assert!(tx.exists("SELECT 1 FROM t", [])?);
                            Ok(())
                        })
                        .unwrap();
                    longest.fetch_max(began.elapsed().as_micros() as u64, Ordering::SeqCst);
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut pages = 0;
        while pages * 4096 < 8 * limit || reads.load(Ordering::SeqCst) < 100 {
            store.write(|tx| fill(tx, 10)).unwrap();
            pages += 10;
            largest.fetch_max(wal_file_bytes(&store), Ordering::SeqCst);
        }
        drop(over);
    });
    let stats = store.stats();
    let largest = largest.into_inner();
    assert!(stats.largest_wal_bytes <= largest, "{stats:?}, {largest} in the file");
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
    (largest, Duration::from_micros(longest.into_inner()))
}

#[test]
fn writes_over_hard_limit_fail_and_name_reader() {
    let hard = 2 * MIB;
    let store = store_with_table(Options::new().wal_limit(MIB).wal_hard_limit(hard));
    store.write(|tx| fill(tx, 1)).unwrap();
    let (reading, is_reading) = channel();
    let (release, released) = channel::<()>();
    thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            store
                .read_with(ReadOptions::new().label("the pinned report"), |tx| {
                    assert!(tx.exists("SELECT 1 FROM t", [])?);
                    reading.send(()).unwrap();
                    let _ = released.recv();
                    Ok(())
                })
                .unwrap();
        });
        is_reading.recv().unwrap();
        let error = (0..1000)
            .find_map(|_| store.write(|tx| fill(tx, 20)).err())
            .expect("the log has a hard limit");
        match &error {
            Error::WalFull {
                wal_bytes,
                limit,
                oldest,
            } => {
                assert_eq!(*limit, hard);
                assert!(*wal_bytes > hard && *wal_bytes < 2 * hard, "{wal_bytes}");
                let oldest = oldest.as_deref().unwrap();
                assert!(oldest.starts_with("the pinned report, for "), "{oldest}");
            }
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("the pinned report"), "{error}");
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert!(error.is_retryable());
        assert!(wal_file_bytes(store) < 2 * hard);
        let again = store.write(|tx| fill(tx, 1));
        assert!(matches!(again, Err(Error::WalFull { .. })), "{again:?}");
        assert!(
            store.read(|tx| tx.exists("SELECT 1 FROM t", [])).unwrap(),
            "reads go on"
        );
        drop(release);
    });
    store.write(|tx| fill(tx, 1)).unwrap();
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

#[test]
fn pinned_log_without_hard_limit_stops_no_write() {
    let store = store_with_table(Options::new().wal_limit(MIB));
    store.write(|tx| fill(tx, 1)).unwrap();
    store
        .read(|tx| {
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            for _ in 0..20 {
                store.write(|tx| fill(tx, 50))?;
            }
            Ok(())
        })
        .unwrap();
    assert!(store.stats().largest_wal_bytes > 2 * MIB);
    assert!(store.stats().unfinished_checkpoints > 0);
    // The reader has gone: the log starts over, and the file is cut when the store closes.
    for _ in 0..20 {
        store.write(|tx| fill(tx, 50)).unwrap();
    }
    store.write(|_| Ok(())).unwrap();
    assert!(store.stats().wal_bytes <= 2 * MIB, "{:?}", store.stats());
    let path = wal_file(&store);
    assert!(store.close().unwrap().wal_truncated);
    assert_eq!(std::fs::metadata(path).map_or(0, |file| file.len()), 0);
}

#[test]
fn idle_store_checkpoints_its_log() {
    let store = store_with_table(Options::new());
    let inside = store.clone();
    // None is made while a write runs.
    let before = store.write(move |tx| {
        fill(tx, 5)?;
        Ok(inside.stats().checkpoints)
    });
    let before = before.unwrap();
    until(&store, |stats| stats.checkpoints > before);
    // And then it rests: there is nothing left to do until the next write.
    let attempts = || {
        let stats = store.stats();
        (stats.checkpoints, stats.unfinished_checkpoints, stats.wal_bytes)
    };
    let rests = attempts();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(attempts(), rests);
}

/// Checkpoints while one write of so many pages was made, seen by the writes before and after it, with no pause
/// in between that an idle writer would use.
fn checkpoints_of(pages: i64, options: Options) -> u64 {
    let store = store_with_table(options);
    let gate = Gate::hold(&store);
    let alone = || WriteOptions::new().execution_timeout(Duration::from_secs(600));
    let look = || {
        let inside = store.clone();
        store
            .submit_with(alone(), move |_| Ok(inside.stats().checkpoints))
            .unwrap()
    };
    let before = look();
    let write = store.submit_with(alone(), move |tx| fill(tx, pages)).unwrap();
    let after = look();
    gate.open();
    write.wait().unwrap();
    after.wait().unwrap() - before.wait().unwrap()
}

#[test]
fn log_is_checkpointed_at_1000_pages() {
    assert_eq!(checkpoints_of(1100, Options::new()), 1);
    assert_eq!(checkpoints_of(800, Options::new()), 0);
}

#[test]
fn checkpoint_pages_sets_the_checkpoint_threshold() {
    assert_eq!(checkpoints_of(30, Options::new().checkpoint_pages(20)), 1);
    assert_eq!(checkpoints_of(10, Options::new().checkpoint_pages(20)), 0);
}

#[test]
fn log_is_reused_from_start_after_checkpoint() {
    let store = store_with_table(Options::new().checkpoint_pages(100));
    for _ in 0..200 {
        store.write(|tx| fill(tx, 20)).unwrap();
    }
    // 200 writes of more than 20 pages each would be more than 16 MiB.
    assert!(wal_file_bytes(&store) < 2 * MIB, "{}", wal_file_bytes(&store));
    let stats = store.stats();
    assert!(stats.checkpoints >= 20, "{stats:?}");
    assert_eq!(stats.unfinished_checkpoints, 0, "{stats:?}");
}

#[test]
fn checkpointed_data_is_in_the_file_itself() {
    let store = store_with_table(Options::new().checkpoint_pages(10));
    let empty = std::fs::metadata(store.path()).unwrap().len();
    store.write(|tx| fill(tx, 100)).unwrap();
    store.write(|_| Ok(())).unwrap();
    assert!(std::fs::metadata(store.path()).unwrap().len() >= empty + 100 * 4096);
}

/// A store whose writer has another database in WAL mode attached, with a table `other.o`.
fn store_with_attached(options: Options, folder: &Path) -> Store {
    let attached = folder.join("other.db");
    std::fs::write(&attached, []).unwrap();
    let options = options.on_connect(move |conn, role| {
        if role == Role::Writer {
            conn.execute("ATTACH ?1 AS other", [attached.to_str().unwrap()])?;
            conn.pragma_update(Some("other"), "journal_mode", "wal")?;
        }
        Ok(())
    });
    let store = store_with_table(options);
    store
        .write(|tx| tx.execute_batch("CREATE TABLE other.o(id INTEGER PRIMARY KEY, data BLOB) STRICT"))
        .unwrap();
    store
}

fn fill_attached(tx: &WriteTx<'_>, pages: i64) -> Result<()> {
    for id in 0..pages {
        tx.execute("INSERT OR REPLACE INTO other.o VALUES (?1, zeroblob(3800))", [id])?;
    }
    Ok(())
}

/// SQLite calls the hook for the log of each database that a commit has written to, the store's own first. What came last
/// was taken for the store's.
#[test]
fn attached_database_does_not_count_in_wal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with_attached(Options::new().checkpoint_pages(4000), folder.path());
    let header = 32;
    // Each in a transaction of its own, with no pause in between that an idle writer would use.
    let alone = || WriteOptions::new().execution_timeout(Duration::from_secs(600));
    let look = || {
        let inside = store.clone();
        let look = move |_: &WriteTx<'_>| Ok((inside.stats().wal_bytes, wal_file_bytes(&inside) - header));
        store.submit_with(alone(), look).unwrap()
    };
    let gate = Gate::hold(&store);
    let both = |tx: &WriteTx<'_>| {
        fill(tx, 10)?;
        fill_attached(tx, 300)
    };
    let mut writes = vec![store.submit_with(alone(), both).unwrap()];
    let first = look();
    writes.push(store.submit_with(alone(), |tx| fill_attached(tx, 50)).unwrap());
    let second = look();
    writes.push(store.submit_with(alone(), |tx| fill(tx, 300)).unwrap());
    let third = look();
    gate.open();
    writes.into_iter().for_each(|write| write.wait().unwrap());
    let (counted, bytes) = first.wait().unwrap();
    assert!(bytes < 100 * 4120);
    assert_eq!(counted, bytes);
    assert_eq!(second.wait().unwrap(), (bytes, bytes));
    let (counted, bytes) = third.wait().unwrap();
    assert_eq!(counted, bytes);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn log_of_attached_database_stays_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with_attached(Options::new().checkpoint_pages(20), folder.path());
    for _ in 0..60 {
        store.write(|tx| fill_attached(tx, 20)).unwrap();
    }
    let log = std::fs::metadata(folder.path().join("other.db-wal")).unwrap().len();
    assert!(log < 20 * 20 * 4120, "{log}");
    assert!(store.close().unwrap().wal_truncated);
}
