//! Lone writes: a caller that finds nothing queued writes on its own thread, and everything else stays as promised.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use larder::rusqlite::functions::FunctionFlags;
use larder::{Durability, Error, Options, Outcome, Result, Role, Store, WriteOptions, WriteTx};
use tempfile::tempdir;

use crate::support::{RaiseOnDrop, count, until};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn with_table(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    create_table(&store);
    store
}

fn create_table(store: &Store) {
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER) STRICT"))
        .unwrap();
}

fn insert(tx: &WriteTx<'_>) -> Result<i64> {
    tx.insert("INSERT INTO t(n) VALUES (1)", [])
}

/// Runs the write on the calling thread: again and again, until the writer thread is out of the way.
#[track_caller]
fn here<T: Send + 'static>(
    store: &Store,
    options: impl Fn() -> WriteOptions,
    f: impl FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let f = Arc::new(Mutex::new(Some(f)));
    let began = Instant::now();
    loop {
        let (here, f) = (thread::current().id(), Arc::clone(&f));
        let result = store.write_with(options(), move |tx| {
            if thread::current().id() != here {
                return Ok(None);
            }
            let f = f.lock().unwrap().take().expect("it runs once");
            f(tx).map(Some)
        });
        if let Some(done) = result.transpose() {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "the writer thread runs every write");
    }
}

#[track_caller]
fn insert_here(store: &Store) -> i64 {
    here(store, WriteOptions::new, insert).unwrap()
}

#[test]
fn lone_write_runs_on_the_calling_thread() {
    let store = with_table(Options::new());
    let before = store.stats();
    insert_here(&store);
    assert_eq!(count(&store), 1);
    let after = store.stats();
    let writes = after.committed_writes - before.committed_writes;
    assert!(writes >= 1);
    assert_eq!(after.groups - before.groups, writes, "each is a group of its own");
    assert_eq!(after.queue_wait.count - before.queue_wait.count, writes);
    assert_eq!(after.commit.count - before.commit.count, writes);
    assert!(after.running_write.is_none(), "nothing is running");
    let calls = after
        .call_sites
        .iter()
        .filter(|site| site.site.contains("seat.rs"))
        .map(|site| site.calls);
    assert_eq!(calls.sum::<u64>(), after.committed_writes, "{:?}", after.call_sites);
}

#[test]
fn running_lone_write_is_in_the_statistics() {
    let store = with_table(Options::new());
    let inside = store.clone();
    let label = || WriteOptions::new().label("the lone one");
    let seen = here(&store, label, move |_| Ok(inside.stats().running_write)).unwrap();
    assert_eq!(seen.expect("it runs").site, "the lone one");
}

#[test]
fn lone_write_does_not_overtake_submitted_ones() {
    let store = with_table(Options::new());
    for round in 0..300 {
        let add = move |n: i64| move |tx: &WriteTx<'_>| tx.insert("INSERT INTO t(n) VALUES (?1)", [n]);
        let first = store.submit(add(3 * round)).unwrap();
        let second = store.submit(add(3 * round + 1)).unwrap();
        store.write(add(3 * round + 2)).unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
    }
    let in_order =
        |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM t WHERE n <> id - 1", [], |row| row.get(0));
    let wrong: i64 = store.read(in_order).unwrap();
    assert_eq!(wrong, 0);
    assert_eq!(count(&store), 900);
}

#[test]
fn write_behind_a_lone_one_keeps_its_deadline() {
    let store = with_table(Options::new());
    let no_time = store.write_with(WriteOptions::new().queue_timeout(Duration::ZERO), insert);
    assert!(matches!(no_time, Err(Error::QueueTimeout { .. })), "{no_time:?}");
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            here(&store, WriteOptions::new, move |tx| {
                running.send(()).unwrap();
                told.recv().unwrap();
                insert(tx)
            })
        });
        runs.recv().unwrap();
        let late = store.write_with(WriteOptions::new().queue_timeout(Duration::from_millis(20)), insert);
        let error = late.unwrap_err();
        assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotStarted);
        let behind = store.submit(insert).unwrap();
        let_go.send(()).unwrap();
        assert_eq!(holder.join().unwrap().unwrap(), 1);
        assert_eq!(behind.wait().unwrap(), 2);
    });
    assert_eq!(count(&store), 2);
}

#[test]
fn nested_lone_writes_of_two_stores_are_told_apart() {
    let (one, other) = (with_table(Options::new()), with_table(Options::new()));
    let (first, second) = (one.clone(), other.clone());
    let reentrant = |result: Result<i64>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Reentrant { call: "write", .. }), "{error:?}");
    };
    let id = here(&one, WriteOptions::new, move |tx| {
        let again = first.clone();
        here(&second, WriteOptions::new, move |tx| {
            reentrant(again.write(insert));
            insert(tx)
        })?;
        reentrant(first.write(insert));
        insert(tx)
    });
    assert_eq!(id.unwrap(), 1);
    assert_eq!((count(&one), count(&other)), (1, 1));
    insert_here(&one);
    insert_here(&other);
}

/// The commits of each store are its own: otherwise the log of one would be forgotten, and the other's commits would be
/// taken for those of another process.
#[test]
fn nested_lone_writes_count_their_own_commits() {
    let options = || Options::new().checkpoint_pages(10);
    let (one, other) = (with_table(options()), with_table(options()));
    for _ in 0..200 {
        let second = other.clone();
        one.write(move |tx| {
            second.write(insert)?;
            insert(tx)
        })
        .unwrap();
    }
    for store in [&one, &other] {
        let stats = until(store, |stats| stats.checkpoints > 0);
        assert_eq!(stats.external_commits, 0, "{stats:?}");
        assert!(stats.committed_writes >= 200);
    }
}

#[test]
fn panic_in_a_lone_write_reaches_its_caller() {
    let store = with_table(Options::new());
    let panics = AssertUnwindSafe(|| {
        here(&store, WriteOptions::new, |tx| -> Result<()> {
            insert(tx)?;
            panic!("on the caller's own thread")
        })
    });
    let payload = catch_unwind(panics).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"on the caller's own thread"));
    assert_eq!(count(&store), 0, "it was rolled back");
    assert_eq!(insert_here(&store), 1);
    assert_eq!(store.stats().failures_by_error["panic"], 1);
}

#[test]
fn options_of_a_lone_write_hold() {
    let store = with_table(Options::new());
    let full = || WriteOptions::new().durability(Durability::Full);
    let synchronous = |tx: &WriteTx<'_>| tx.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
    assert_eq!(here(&store, full, synchronous).unwrap(), 2);
    assert_eq!(here(&store, WriteOptions::new, synchronous).unwrap(), 1);
    let limit = || WriteOptions::new().execution_timeout(Duration::from_millis(20));
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t(n) SELECT i FROM n";
    let error = here(&store, limit, move |tx| tx.execute(endless, [])).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(count(&store), 0);
}

#[test]
fn store_closes_while_a_lone_write_runs() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    create_table(&store);
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            here(&store, WriteOptions::new, move |tx| {
                running.send(()).unwrap();
                told.recv().unwrap();
                insert(tx)
            })
        });
        runs.recv().unwrap();
        let behind = store.submit(insert).unwrap();
        let report = store.close_within(Duration::from_millis(50)).unwrap();
        assert!(!report.wal_truncated, "{report}");
        assert!(matches!(behind.wait(), Err(Error::Closed)));
        assert!(matches!(store.write(insert), Err(Error::Closed)));
        let_go.send(()).unwrap();
        assert_eq!(holder.join().unwrap().unwrap(), 1, "it was committed all the same");
    });
    // The writer thread closes the file when it has the seat, in no time: the deadline was over.
    let report = store.close().unwrap();
    assert_eq!((report.finished, report.never_started), (1, 1), "{report}");
    assert_eq!(report.wal_kept_because.as_deref(), Some("the close timeout was over"));
    drop(store);
    assert_eq!(count(&Store::open(&path).unwrap()), 1);
}

#[test]
fn last_clone_may_be_dropped_after_a_lone_write() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    for round in 0..50 {
        let store = Store::open(&path).unwrap();
        if round == 0 {
            create_table(&store);
        }
        store.write(insert).unwrap();
    }
    assert_eq!(count(&Store::open(&path).unwrap()), 50);
}

#[test]
fn log_of_lone_writes_is_checkpointed() {
    let store = with_table(Options::new().checkpoint_pages(20));
    for _ in 0..400 {
        insert_here(&store);
    }
    until(&store, |stats| stats.checkpoints > 3);
    // 24 bytes of header and a page for each; a checkpoint may be late by the writes that the thread wakes in.
    let largest = store.stats().largest_wal_bytes;
    assert!(largest < 400 * 4120, "{largest}");
}

/// The writer thread sleeps without a timer where nothing is left to do, and a lone write must change that.
#[test]
fn lone_write_after_a_pause_is_checkpointed() {
    let store = with_table(Options::new());
    for _ in 0..3 {
        until(&store, |stats| {
            stats
                .last_checkpoint
                .is_some_and(|last| last.moved_pages == last.log_pages)
        });
        let before = store.stats().checkpoints;
        insert_here(&store);
        until(&store, |stats| stats.checkpoints > before);
    }
}

/// The pause of an idle store is one without writes, not one of the writer thread alone.
#[test]
fn store_with_lone_writes_is_not_idle() {
    let store = with_table(Options::new());
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        insert_here(&store);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        thread::sleep(Duration::from_millis(20));
    }
    let stats = store.stats();
    // On a machine that stopped this thread for so long, the store was idle.
    assert!(
        stats.checkpoints == 0 || longest > Duration::from_millis(900),
        "{longest:?}, {stats:?}"
    );
    until(&store, |stats| stats.checkpoints >= 1);
}

#[test]
fn lone_writes_leave_on_connect_to_larders_threads() {
    let writers: Arc<Mutex<Vec<Thread>>> = Arc::default();
    let seen = Arc::clone(&writers);
    let options = Options::new().on_connect(move |_, role| {
        if role == Role::Writer {
            seen.lock().unwrap().push(thread::current());
        }
        Ok(())
    });
    let store = with_table(options);
    for _ in 0..5 {
        here(&store, WriteOptions::new, |tx| {
            // SQLite's own function is replaced, which cannot be undone but with another connection.
            tx.create_scalar_function("abs", 1, FunctionFlags::SQLITE_UTF8, |_| Ok(0))?;
            Ok(())
        })
        .unwrap();
        let abs: i64 = store
            .write(|tx| tx.query_row("SELECT abs(-3)", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(abs, 3);
    }
    let writers = writers.lock().unwrap();
    assert!(writers.len() > 5, "each is replaced");
    for thread in &writers[1..] {
        assert_eq!(thread.name(), Some("larder-writer"));
    }
}

/// Several callers, one of which may be in the seat at any moment. Each write is there once.
#[test]
fn lone_and_queued_writes_lose_nothing() {
    let store = with_table(Options::new().checkpoint_pages(50));
    let stop = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&stop);
        for pause in [0, 0, 30, 200] {
            let (store, stop, written) = (&store, &stop, &written);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    store.write(insert).unwrap();
                    written.fetch_add(1, Ordering::SeqCst);
                    if pause > 0 {
                        thread::sleep(Duration::from_micros(pause));
                    }
                }
            });
        }
        for _ in 0..200 {
            let pending = store.submit(insert).unwrap();
            store.write(insert).unwrap();
            pending.wait().unwrap();
            written.fetch_add(2, Ordering::SeqCst);
        }
    });
    assert_eq!(count(&store).unsigned_abs(), written.into_inner());
    assert!(store.close().unwrap().wal_truncated);
}

/// A write inside an async read is not the read: it goes on where the read's task is dropped.
#[cfg(feature = "async")]
#[test]
fn dropped_async_read_does_not_interrupt_lone_write() {
    use crate::support::tasks::begin;

    let store = with_table(Options::new());
    let (inside, began) = (store.clone(), channel::<()>());
    let (go_on, told) = channel::<()>();
    let (tell, result) = channel();
    let mut read = Box::pin(store.read_async(move |_| {
        let written = here(&inside, WriteOptions::new, move |tx| {
            began.0.send(()).unwrap();
            told.recv().unwrap();
            // Long enough for the connection to look whether it is interrupted, many times.
            let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                        INSERT INTO t(n) SELECT i FROM n";
            tx.execute(many, [])
        });
        tell.send(written).unwrap();
        Ok(())
    }));
    begin(&mut read);
    began.1.recv().unwrap();
    drop(read);
    go_on.send(()).unwrap();
    assert_eq!(result.recv().unwrap().unwrap(), 20_000);
    assert_eq!(count(&store), 20_000);
}
