//! Closing drains the queue: queued writes finish, or their callers get an error that they never started. No call
//! hangs.

use crate::support::{keep_log, write_or_fail};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use larder::rusqlite::Connection;
use larder::{Access, Error, Options, Outcome, Pending, ReadOptions, Store, WriteOptions};
use tempfile::tempdir;

/// Far more than anything here takes; past it something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The reason of a report that could not wait for the writer thread's own.
pub(super) const TOO_LATE: &str = "a write or the last checkpoint is still running";

fn with_table(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    create_table(&store);
    store
}

fn create_table(store: &Store) {
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(n INTEGER)"))
        .unwrap();
}

fn add(store: &Store) -> larder::Result<Pending<usize>> {
    store.submit(|tx| tx.execute("INSERT INTO t VALUES (1)", []))
}

fn rows(path: &Path) -> usize {
    let conn = Connection::open(path).unwrap();
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0))
        .unwrap() as usize
}

/// A write that keeps the writer thread until it is let go (or its sender is dropped), and is running now.
fn blocker(store: &Store) -> (Sender<()>, Pending<&'static str>) {
    let (let_go, told) = channel();
    let (running, runs) = channel();
    let pending = store
        .submit(move |_tx| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok("let go")
        })
        .unwrap();
    runs.recv().unwrap();
    (let_go, pending)
}

/// Submits writes until the store takes no more, since another thread closes it. Says how many it took.
fn submit_until_closed(store: &Store) -> u64 {
    let began = Instant::now();
    for taken in 0.. {
        match add(store) {
            Ok(pending) => drop(pending),
            Err(Error::Closed) => return taken,
            Err(other) => panic!("{other:?}"),
        }
        assert!(began.elapsed() < PATIENCE, "the store never closed");
        // Not too many of them: each is one more in the queue.
        thread::sleep(Duration::from_millis(1));
    }
    unreachable!()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[track_caller]
fn assert_closed<T: std::fmt::Debug>(result: larder::Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
}

// ---- draining ----

#[test]
fn close_finishes_ten_thousand_queued_writes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new().queue_capacity(20_000).open(&path).unwrap();
    create_table(&store);
    let (let_go, blocked) = blocker(&store);
    let mut pending = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..2500).map(|_| add(&store).unwrap()).collect::<Vec<_>>()))
            .collect();
        pending.extend(threads.into_iter().flat_map(|t| t.join().unwrap()));
    });
    let closer = thread::spawn({
        let store = store.clone();
        move || store.close().unwrap()
    });
    let more = submit_until_closed(&store);
    let_go.send(()).unwrap();
    let report = closer.join().unwrap();

    assert_eq!(report.finished, 1 + 10_000 + more);
    assert_eq!(report.never_started, 0);
    assert!(report.wal_truncated, "{report}");
    assert_eq!(blocked.wait().unwrap(), "let go");
    for write in pending {
        assert_eq!(write.wait().unwrap(), 1);
    }
    drop(store);
    assert_eq!(rows(&path), 10_000 + more as usize);
}

#[test]
fn close_counts_failed_writes_as_finished() {
    let store = with_table(Options::new());
    let (let_go, _blocked) = blocker(&store);
    let failing = store.submit(|_| Err::<(), _>(Error::app("no"))).unwrap();
    let closer = thread::spawn({
        let store = store.clone();
        move || store.close().unwrap()
    });
    let more = submit_until_closed(&store);
    let_go.send(()).unwrap();
    assert_eq!(closer.join().unwrap().finished, 2 + more);
    assert_eq!(failing.wait().unwrap_err().outcome(), Outcome::RolledBack);
}

#[test]
fn close_within_deadline_counts_writes_never_started() {
    let store = with_table(Options::new());
    let (let_go, blocked) = blocker(&store);
    let queued: Vec<_> = (0..100).map(|_| add(&store).unwrap()).collect();
    let began = Instant::now();
    let report = store.close_within(Duration::from_millis(50)).unwrap();
    assert!(began.elapsed() < PATIENCE);
    assert!(!report.wal_truncated);
    assert!(
        report.wal_kept_because.as_deref().unwrap().contains("still running"),
        "{report}"
    );
    assert_eq!((report.finished, report.never_started), (0, 100), "{report}");

    // The one that ran is not interrupted, and its caller is told the truth.
    let_go.send(()).unwrap();
    assert_eq!(blocked.wait().unwrap(), "let go");
    for write in queued {
        assert_closed(write.wait());
    }
}

#[test]
fn writes_never_started_are_told_at_the_deadline() {
    let store = with_table(Options::new().queue_capacity(10));
    let (let_go, blocked) = blocker(&store);
    let mut queued: Vec<_> = (0..10).map(|_| add(&store).unwrap()).collect();
    store.close_within(Duration::from_millis(50)).unwrap();
    for write in &mut queued {
        let told = write.wait_timeout(Duration::from_secs(2));
        assert_closed(told.expect("a caller still waits for a store that gave up"));
    }
    let_go.send(()).unwrap();
    assert_eq!(blocked.wait().unwrap(), "let go");
}

#[test]
fn write_that_outlives_deadline_closes_file_when_done() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new()
        .close_timeout(Duration::from_millis(10))
        .open(&path)
        .unwrap();
    create_table(&store);
    let (let_go, blocked) = blocker(&store);
    store.close().unwrap();
    drop(store);
    let opener = thread::spawn({
        let path = path.clone();
        move || Store::open(path)
    });
    let_go.send(()).unwrap();
    assert_eq!(blocked.wait().unwrap(), "let go");
    let again = opener.join().unwrap().unwrap();
    add(&again).unwrap().wait().unwrap();
}

#[test]
fn drop_after_timed_out_close_does_not_wait() {
    // The story: `close_within(10 ms)` gave up on a write that ran on, and then the drop of the store waited for
    // that write for the whole of `close_timeout`.
    let store = with_table(Options::new().close_timeout(PATIENCE));
    let (let_go, blocked) = blocker(&store);
    store.close_within(Duration::from_millis(10)).unwrap();
    let began = Instant::now();
    drop(store);
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let_go.send(()).unwrap();
    assert_eq!(blocked.wait().unwrap(), "let go");
}

#[test]
fn spinning_writer_notices_close() {
    // The story: for some microseconds after a reply the writer thread spins, looking for the next write. A close
    // in that time woke it with a message that the spin took and forgot, and then the writer went to sleep: for a
    // second, until its idle checkpoint.
    let close = |_| {
        let store = with_table(Options::new().spin_time(Duration::from_millis(1)));
        // As long as it takes the writer to begin to look, and not as long as it looks.
        store.read(|_| Ok(())).unwrap();
        let began = Instant::now();
        assert!(store.close().unwrap().wal_truncated);
        began.elapsed()
    };
    let shortest = (0..8).map(close).min().unwrap();
    assert!(shortest < Duration::from_millis(900), "each close took {shortest:?}");
}

#[test]
fn idle_writer_with_empty_log_notices_close() {
    // The story: as above, but with an empty log, and so without an idle checkpoint to wake the writer: it slept
    // for ever, and close gave up with "a write is still running".
    let open = |_| with_table(Options::new().readers(1).spin_time(Duration::from_millis(1)));
    let stores: Vec<_> = (0..16).map(open).collect();
    let began = Instant::now();
    for store in stores {
        while store.stats().checkpoints == 0 {
            assert!(began.elapsed() < PATIENCE, "an idle writer makes a checkpoint");
            thread::sleep(Duration::from_millis(5));
        }
        store.write(|_| Ok(())).unwrap();
        store.write(|_| Ok(())).unwrap();
        let report = store.close_within(PATIENCE).unwrap();
        assert!(report.wal_truncated, "{report}");
    }
    assert!(began.elapsed() < PATIENCE, "a close has waited for its deadline");
}

#[test]
fn second_close_shortens_the_deadline() {
    let store = with_table(Options::new());
    let (let_go, _blocked) = blocker(&store);
    let queued = add(&store).unwrap();
    let patient = thread::spawn({
        let store = store.clone();
        move || store.close_within(PATIENCE).unwrap()
    });
    submit_until_closed(&store);
    store.close_within(Duration::from_millis(1)).unwrap();
    let_go.send(()).unwrap();
    assert_closed(queued.wait());
    assert!(patient.join().unwrap().never_started >= 1);
}

#[test]
fn callers_blocked_on_full_queue_finish_at_close() {
    for deadline in [Duration::from_millis(1), PATIENCE] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = Options::new().queue_capacity(1).open(&path).unwrap();
        create_table(&store);
        let (let_go, blocked) = blocker(&store);
        let finished = AtomicUsize::new(0);
        let (called, calls) = channel();
        thread::scope(|scope| {
            for _ in 0..64 {
                let (store, finished, called) = (store.clone(), &finished, called.clone());
                scope.spawn(move || {
                    called.send(()).unwrap();
                    match store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])) {
                        Ok(_) => drop(finished.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => assert_closed(Err::<(), _>(error)),
                    }
                });
            }
            (0..64).for_each(|_| calls.recv().unwrap());
            let closer = scope.spawn(|| store.close_within(deadline).unwrap());
            if deadline == PATIENCE {
                drop(let_go);
                assert!(closer.join().unwrap().wal_truncated);
            } else {
                closer.join().unwrap();
                drop(let_go);
            }
        });
        assert_eq!(blocked.wait().unwrap(), "let go");
        drop(store);
        // Opened by larder, which waits for the store that is closing.
        let store = Store::open(&path).unwrap();
        let rows: u32 = store
            .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(rows as usize, finished.into_inner());
    }
}

#[test]
fn writers_racing_with_close_each_get_an_answer() {
    for _ in 0..20 {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = Options::new().queue_capacity(4).open(&path).unwrap();
        create_table(&store);
        let finished: usize = thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|_| {
                    let store = store.clone();
                    scope.spawn(move || {
                        (0..)
                            .map(|_| store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])))
                            .take_while(|result| match result {
                                Ok(_) => true,
                                Err(Error::Closed) => false,
                                Err(other) => panic!("{other:?}"),
                            })
                            .count()
                    })
                })
                .collect();
            // Once all of them are at work.
            while store.stats().committed_writes < 50 {
                thread::yield_now();
            }
            assert!(store.close().unwrap().wal_truncated);
            writers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        drop(store);
        assert_eq!(rows(&path), finished);
    }
}

// ---- reads ----

/// A read that lasts until it is let go, on a thread of its own.
fn long_read(store: &Store, options: ReadOptions) -> (Sender<()>, thread::JoinHandle<larder::Result<i64>>) {
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    let store = store.clone();
    let read = thread::spawn(move || {
        store.read_with(options, |tx| {
            let count = || tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
            let first: i64 = count()?;
            running.send(()).unwrap();
            let _ = told.recv();
            assert_eq!(count()?, first, "the snapshot is the same to its end");
            Ok(first)
        })
    });
    runs.recv().unwrap();
    (let_go, read)
}

#[test]
fn read_past_the_deadline_is_named() {
    let line = format!("{}:", file!());
    let labelled = ReadOptions::new().label("yearly report");
    for (options, name) in [(labelled, "yearly report"), (ReadOptions::new(), &line)] {
        let names_it = || {
            let store = with_table(Options::new());
            let (let_go, read) = long_read(&store, options.clone());
            let report = store.close_within(Duration::from_millis(200)).unwrap();
            assert!(!report.wal_truncated);
            // It is not interrupted.
            let_go.send(()).unwrap();
            assert_eq!(read.join().unwrap().unwrap(), 0);
            let reason = report.wal_kept_because.unwrap();
            let names_it = reason.contains("a read is running") && reason.contains(name);
            assert!(names_it || reason.starts_with(TOO_LATE), "{reason}");
            names_it
        };
        assert!((0..20).any(|_| names_it()));
    }
}

#[test]
fn file_can_be_reopened_during_leftover_read() {
    for access in [larder::Access::Shared, larder::Access::Exclusive] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let first = Options::new().access(access).open(&path).unwrap();
        create_table(&first);
        let (let_go, read) = long_read(&first, ReadOptions::new());
        first.close_within(Duration::from_millis(10)).unwrap();
        let second = Options::new().access(access).open(&path).unwrap();
        for _ in 0..10 {
            add(&second).unwrap().wait().unwrap();
        }
        let_go.send(()).unwrap();
        assert_eq!(read.join().unwrap().unwrap(), 0, "{access:?}");
        add(&second).unwrap().wait().unwrap();
        assert!(second.close().unwrap().wal_truncated, "{access:?}");
        drop((first, second));
        assert_eq!(rows(&path), 11, "{access:?}");
    }
}

#[test]
fn close_waits_for_a_read_that_ends() {
    let store = with_table(Options::new());
    let (let_go, read) = long_read(&store, ReadOptions::new());
    let closer = thread::spawn({
        let store = store.clone();
        move || store.close_within(PATIENCE).unwrap()
    });
    submit_until_closed(&store);
    let_go.send(()).unwrap();
    let report = closer.join().unwrap();
    assert!(report.wal_truncated, "{report}");
    read.join().unwrap().unwrap();
}

#[test]
fn read_waiting_for_connection_fails_as_closed() {
    let store = with_table(Options::new().readers(1).read_queue_timeout(PATIENCE));
    let (let_go, first) = long_read(&store, ReadOptions::new());
    let (called, calls) = channel();
    let second = thread::spawn({
        let store = store.clone();
        move || {
            called.send(()).unwrap();
            store.read(|_| Ok(()))
        }
    });
    calls.recv().unwrap();
    store.close_within(Duration::from_millis(10)).unwrap();
    assert_closed(second.join().unwrap());
    let_go.send(()).unwrap();
    first.join().unwrap().unwrap();
}

// ---- afterwards ----

#[test]
fn repeated_closes_give_the_same_report() {
    let store = with_table(Options::new());
    let first = store.close().unwrap();
    assert_eq!(store.close().unwrap(), first);
    assert_eq!(store.clone().close_within(Duration::ZERO).unwrap(), first);
}

#[test]
fn repeated_closes_after_timeout_give_same_report() {
    let is_same = || {
        let store = with_table(Options::new());
        let (let_go, read) = long_read(&store, ReadOptions::new().label("yearly report"));
        let first = store.close_within(Duration::from_millis(10)).unwrap();
        let_go.send(()).unwrap();
        read.join().unwrap().unwrap();
        assert!(!first.wal_truncated);
        let is_same = store.close().unwrap() == first;
        let reason = first.wal_kept_because.unwrap();
        assert!(is_same || reason.starts_with(TOO_LATE), "{reason}");
        is_same
    };
    assert!((0..20).any(|_| is_same()));
}

#[test]
fn simultaneous_closes_get_the_same_report() {
    let store = with_table(Options::new());
    let (let_go, _blocked) = blocker(&store);
    let closers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            thread::spawn(move || store.close().unwrap())
        })
        .collect();
    submit_until_closed(&store);
    let_go.send(()).unwrap();
    let reports: Vec<_> = closers.into_iter().map(|c| c.join().unwrap()).collect();
    assert!(reports.iter().all(|report| *report == reports[0]), "{reports:?}");
}

#[test]
fn close_report_reads_as_a_sentence() {
    let store = with_table(Options::new());
    let report = store.close().unwrap().to_string();
    assert!(
        report.starts_with("0 queued writes finished, 0 never started"),
        "{report}"
    );
    assert!(report.contains("the WAL was truncated"), "{report}");
}

#[test]
fn every_call_on_closed_store_fails_as_closed() {
    let store = with_table(Options::new());
    store.close().unwrap();
    assert_closed(store.write(|_| Ok(())));
    assert_closed(store.write_with(WriteOptions::new(), |_| Ok(())));
    assert_closed(store.write_with(write_or_fail(), |_| Ok(())));
    assert_closed(store.submit(|_| Ok(())));
    assert_closed(store.read(|_| Ok(())));
    assert_closed(store.read_with(ReadOptions::new().queue_timeout(PATIENCE), |_| Ok(())));
    let message = store.read(|_| Ok(())).unwrap_err().to_string();
    assert!(message.contains("reopen it"), "{message}");
}

#[test]
fn after_close_the_database_is_one_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    create_table(&store);
    let reader = keep_log(&path);
    for _ in 0..100 {
        add(&store).unwrap().wait().unwrap();
    }
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    drop(reader);
    let report = store.close().unwrap();
    assert!(report.wal_truncated && report.wal_kept_because.is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(store);
    // All of it is in that file: a copy has every row.
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(rows(&copy), 100);
}

#[test]
fn drop_of_last_clone_closes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    create_table(&store);
    let clone = store.clone();
    drop(store);
    let pending = add(&clone).unwrap();
    drop(clone);
    // What was queued is finished, not lost.
    assert_eq!(pending.wait().unwrap(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(rows(&path), 1);
}

#[test]
fn drop_of_last_clone_inside_write_closes_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    for round in 1..=20 {
        let store = Store::open(&path).unwrap();
        create_table(&store);
        let (alone, now_alone) = channel::<()>();
        let clone = store.clone();
        let pending = store
            .submit(move |tx| {
                let _ = now_alone.recv();
                drop(clone);
                tx.execute("INSERT INTO t VALUES (1)", [])
            })
            .unwrap();
        // This is not the last clone: the job waits for the channel, which goes after it.
        drop(store);
        drop(alone);
        pending.wait().unwrap();
        let again = Store::open(&path).unwrap();
        let rows: i64 = again
            .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(rows, round);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn log_read_by_another_process_is_kept() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new()
        .busy_timeout(Duration::from_millis(100))
        .open(&path)
        .unwrap();
    create_table(&store);
    add(&store).unwrap().wait().unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN").unwrap();
    other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    add(&store).unwrap().wait().unwrap();
    let report = store.close().unwrap();
    assert!(!report.wal_truncated);
    let reason = report.wal_kept_because.unwrap();
    assert!(reason.contains("another process"), "{reason}");
    other.execute_batch("COMMIT").unwrap();
    drop((other, store));
    assert_eq!(rows(&path), 2);
}

// ---- from inside ----

#[test]
fn close_inside_own_closure_is_reentrant() {
    let store = with_table(Options::new());
    let inside = store.clone();
    let in_write = store.write(move |_| Ok(inside.close().unwrap_err())).unwrap();
    let in_read = store
        .read(|_| Ok(store.close_within(Duration::ZERO).unwrap_err()))
        .unwrap();
    for error in [in_write, in_read] {
        assert!(matches!(error, Error::Reentrant { call: "close", .. }), "{error:?}");
        assert!(error.to_string().contains("call it outside"), "{error}");
    }
    // It has not closed.
    add(&store).unwrap().wait().unwrap();
}

#[test]
fn close_inside_closure_of_another_store_works() {
    let (one, other) = (with_table(Options::new()), with_table(Options::new()));
    let closed = other.clone();
    one.write(move |_| closed.close()).unwrap();
    assert_closed(other.read(|_| Ok(())));
    add(&one).unwrap().wait().unwrap();
}

// ---- temporary stores ----

#[test]
fn temporary_store_has_a_file_and_a_log() {
    let store = with_table(Options::new());
    let path = store.path();
    assert!(path.is_absolute());
    assert!(fs::metadata(path).unwrap().len() > 0);
    let _reader = keep_log(path);
    add(&store).unwrap().wait().unwrap();
    assert!(fs::metadata(beside(path, "-wal")).unwrap().len() > 0);
    let mode: String = store
        .read(|tx| tx.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn temporary_folder_is_removed_with_last_clone() {
    let store = with_table(Options::new());
    let folder = store.path().parent().unwrap().to_owned();
    let clone = store.clone();
    drop(store);
    assert!(folder.exists());
    add(&clone).unwrap().wait().unwrap();
    drop(clone);
    assert!(!folder.exists());
}

#[test]
fn temporary_folder_survives_close_until_last_clone() {
    let store = with_table(Options::new());
    let folder = store.path().parent().unwrap().to_owned();
    store.close().unwrap();
    assert_eq!(rows(store.path()), 0);
    assert!(folder.exists());
    drop(store);
    assert!(!folder.exists());
}

#[test]
fn temporary_stores_are_independent() {
    let (one, other) = (with_table(Options::new()), with_table(Options::new()));
    assert_ne!(one.path(), other.path());
    add(&one).unwrap().wait().unwrap();
    let rows: i64 = other
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 0);
}

/// The error said that the file was open, or still closing, and to clone the store.
#[test]
fn opening_during_close_names_the_holder() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let exclusive = || Options::new().access(Access::Exclusive).open(&path).unwrap();
    let refused = || {
        let brief = Options::new().busy_timeout(Duration::from_millis(50));
        let error = brief.open(&path).unwrap_err();
        assert!(
            matches!(error, Error::AlreadyOpen { closing: Some(_), .. }),
            "{error:?}"
        );
        assert!(error.is_retryable());
        error.to_string()
    };

    let store = exclusive();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::AlreadyOpen { closing: None, .. }), "{error:?}");
    assert!(
        error.to_string().contains("clone the Store") && !error.is_retryable(),
        "{error}"
    );
    let (let_go, write) = blocker(&store);
    store.close_within(Duration::from_millis(1)).unwrap();
    let text = refused();
    assert!(
        text.contains("a write is running: ") && text.contains("closing.rs"),
        "{text}"
    );
    drop(let_go);
    write.wait().unwrap();
    drop(store);

    let store = exclusive();
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let reading = move |tx: &larder::ReadTx<'_>| {
                tx.exists("SELECT 1", [])?;
                running.send(()).unwrap();
                let _ = told.recv();
                Ok(())
            };
            store
                .read_with(ReadOptions::new().label("a long report"), reading)
                .unwrap();
        });
        runs.recv().unwrap();
        store.close_within(Duration::from_millis(1)).unwrap();
        let text = refused();
        assert!(text.contains("a read is running: a long report"), "{text}");
        drop(let_go);
    });
    Store::open(&path).unwrap();
}
