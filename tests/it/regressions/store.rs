//! Regression tests for defects found in review. The comment of each describes the defect; its assertions describe the
//! fixed behaviour.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use larder::rusqlite::{self, Connection, ffi};
use larder::{Error, Options, Outcome, Pending, ReadOptions, ReadTx, Result, Role, Store, WriteOptions, WriteTx};
use tempfile::{TempDir, tempdir};

use crate::support::child::{Child, Task, skipped, succeeds, tell};
use crate::support::{timeout_after_failed_opening, with_stalls};
use crate::write::groups::{Gate, grouping};

/// Far more than anything here takes; past it something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time-out of whatever must not be waited for.
const FOREVER: Duration = Duration::from_secs(30);

#[track_caller]
fn assert_primary(error: &rusqlite::Error, code: i32) {
    let got = error.sqlite_error().map(|e| e.extended_code & 0xff);
    assert_eq!(got, Some(code), "{error:?}");
}

// ---- closing beside readers that open ----

/// A connection that was still being opened when the store closed became idle after close had looked for idle ones.
/// Nobody closed it, and close waited out its whole time-out for it.
#[test]
fn close_does_not_wait_for_late_idle_connection() {
    let opened = AtomicU32::new(0);
    let (opening, is_opening) = channel();
    let (go_on, told) = channel::<()>();
    let told = Mutex::new(told);
    let store = Options::new()
        .readers(2)
        .close_timeout(FOREVER)
        .on_connect(move |_, role| {
            // The first is the one that `open` tries.
            if role == Role::Reader && opened.fetch_add(1, Ordering::SeqCst) == 2 {
                opening.send(()).unwrap();
                let _ = told.lock().unwrap().recv_timeout(PATIENCE);
            }
            Ok(())
        })
        .open_temp()
        .unwrap();
    let (report, took) = thread::scope(|scope| {
        let (reading, is_reading) = channel();
        let (end, ended) = channel::<()>();
        let store = &store;
        let first = scope.spawn(move || {
            store.read(|_| {
                reading.send(()).unwrap();
                let _ = ended.recv_timeout(PATIENCE);
                Ok(())
            })
        });
        is_reading.recv().unwrap();
        // This one asks for a second connection, and is then served by the first.
        let second = scope.spawn(move || store.read(|_| Ok(())));
        is_opening.recv_timeout(PATIENCE).unwrap();
        drop(end);
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();

        let closer = scope.spawn(move || {
            let began = Instant::now();
            (store.close().unwrap(), began.elapsed())
        });
        let began = Instant::now();
        while !matches!(store.read(|_| Ok(())), Err(Error::Closed)) {
            assert!(began.elapsed() < PATIENCE, "the store never closed");
            thread::yield_now();
        }
        drop(go_on);
        closer.join().unwrap()
    });
    assert!(report.wal_truncated, "{report}");
    assert!(took < PATIENCE, "{took:?}: {report}");
}

/// The same as it happens by itself: a burst of first reads asks for more connections than it comes to need.
#[test]
fn close_after_burst_of_reads_returns_soon() {
    for _ in 0..10 {
        let store = Options::new().readers(8).close_timeout(FOREVER).open_temp().unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let one: i64 = store.read(|tx| tx.query_row("SELECT 1", [], |row| row.get(0))).unwrap();
                    assert_eq!(one, 1);
                });
            }
        });
        let began = Instant::now();
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{report}");
        assert!(began.elapsed() < PATIENCE, "{report}");
    }
}

// ---- readers that cannot be opened ----

/// A store whose `on_connect` calls `fail` for each reader once the switch is on, and the number of these calls.
fn with_failing_readers(fail: fn() -> Result<()>) -> (Store, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (broken, failing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_broken, begun) = (Arc::clone(&broken), Arc::clone(&failing));
    let store = Options::new()
        .readers(1)
        .read_queue_timeout(Duration::from_millis(600))
        .on_connect(move |_, role| {
            if role == Role::Reader && is_broken.load(Ordering::SeqCst) {
                begun.fetch_add(1, Ordering::SeqCst);
                return fail();
            }
            Ok(())
        })
        .open_temp()
        .unwrap();
    (store, broken, failing)
}

/// A read fails for the reason `why`; once the reason is gone, reads work.
fn says_why_and_recovers(fail: fn() -> Result<()>, why: &str) {
    let (store, broken, failing) = with_failing_readers(fail);
    broken.store(true, Ordering::SeqCst);
    let error = timeout_after_failed_opening(&failing, || store.read(|_| Ok(())).unwrap_err());
    let Error::ReadQueueTimeout { last_error, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(
        last_error.as_deref().is_some_and(|text| text.contains(why)),
        "{last_error:?}"
    );
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(error.outcome(), Outcome::NotStarted);

    broken.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        let one: i64 = store
            .read_with(ReadOptions::new().queue_timeout(PATIENCE), |tx| {
                tx.query_row("SELECT 1", [], |row| row.get(0))
            })
            .unwrap();
        assert_eq!(one, 1);
    }
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

/// A read waits in small steps, and r2d2 tells each reason once: it was lost with the step that was told it, and the
/// time-out advised to look for slow reads.
#[test]
fn read_timeout_says_why_no_reader_opened() {
    says_why_and_recovers(|| Err(Error::app("no such key file")), "no such key file");
}

/// A panic of `on_connect` on r2d2's thread left the connection pending for ever: with a pool of one, no read ever
/// got another.
#[test]
fn panic_of_on_connect_does_not_break_pool() {
    says_why_and_recovers(|| resume_unwind(Box::new("boom")), "panicked");
}

// ---- temporary tables of SQLite's own ----

/// AUTOINCREMENT and ANALYZE make `temp.sqlite_sequence` and `temp.sqlite_stat1`, which SQLite does not let anybody
/// drop. They stayed, and shadowed those of the file: a later UPDATE of `sqlite_sequence` changed no row.
#[test]
fn temporary_tables_of_sqlite_itself_are_refused() {
    let id = "id INTEGER PRIMARY KEY AUTOINCREMENT";
    let makers = [
        format!("CREATE TEMP TABLE x({id})"),
        format!("CREATE TABLE temp.x({id})"),
        format!("CREATE TEMP TABLE t({id}); INSERT INTO t DEFAULT VALUES"),
        "CREATE TEMP TABLE x(a); CREATE INDEX temp.i ON x(a); INSERT INTO x VALUES (1); ANALYZE temp".to_owned(),
        "CREATE TEMP TABLE x(a); CREATE INDEX temp.i ON x(a); INSERT INTO x VALUES (1); ANALYZE temp.x".to_owned(),
    ];
    for maker in makers {
        let store = Store::open_temp().unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT);
                     INSERT INTO t DEFAULT VALUES;
                     CREATE INDEX ti ON t(id);
                     ANALYZE main;",
                )
            })
            .unwrap();
        let sql = maker.clone();
        let error = store.write(move |tx| tx.execute_batch(&sql)).unwrap_err();
        let Error::Refused { statement, instead, .. } = &error else {
            panic!("{maker}: {error:?}");
        };
        assert!(statement.contains("temporary table"), "{statement}");
        assert!(instead.contains("INTEGER PRIMARY KEY"), "{instead}");
        assert_eq!(error.outcome(), Outcome::RolledBack);

        let left: i64 = store
            .write(|tx| tx.query_row("SELECT count(*) FROM temp.sqlite_schema", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(left, 0, "{maker}");
        let changed = store
            .write(|tx| tx.execute("UPDATE sqlite_sequence SET seq = 1000 WHERE name = 't'", []))
            .unwrap();
        assert_eq!(changed, 1, "{maker}");
        let id = store.write(|tx| tx.insert("INSERT INTO t DEFAULT VALUES", [])).unwrap();
        assert_eq!(id, 1001, "{maker}");
        let rows: i64 = store
            .write(|tx| tx.query_row("SELECT count(*) FROM sqlite_stat1", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(rows, 1, "{maker}");
    }
}

// ---- a virtual table that fails when the transaction ends ----

/// A store with a table `o` and a full-text table `ft`, whose index was damaged by `damage`.
fn with_damaged_index(damage: &str) -> (TempDir, Store) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = wal;
         CREATE VIRTUAL TABLE ft USING fts5(x);
         CREATE TABLE o(a);
         INSERT INTO ft VALUES ('hello world'), ('b c');
         {damage};"
    ))
    .unwrap();
    conn.close().unwrap();
    let store = grouping().open(&path).unwrap();
    (folder, store)
}

fn into_ft(tx: &WriteTx<'_>) -> Result<usize> {
    tx.execute("INSERT INTO ft VALUES ('more words')", [])
}

fn others(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT a FROM o ORDER BY a", [], |row| row.get(0)))
        .unwrap()
}

/// The row of the index that says how it is structured.
const NO_STRUCTURE: &str = "DELETE FROM ft_data WHERE id = 10";
/// The same row, cut short.
const SHORT_STRUCTURE: &str = "UPDATE ft_data SET block = x'00' WHERE id = 10";

/// The write's statement goes well; COMMIT fails with `code`, and the write is told so. Others go on.
fn fails_alone_at_commit(damage: &str, code: i32) {
    let (_folder, store) = with_damaged_index(damage);
    for n in 0..3 {
        let inserted = Arc::new(AtomicBool::new(false));
        let has_inserted = Arc::clone(&inserted);
        let error = store
            .write(move |tx| {
                into_ft(tx)?;
                has_inserted.store(true, Ordering::SeqCst);
                Ok(())
            })
            .unwrap_err();
        assert!(inserted.load(Ordering::SeqCst), "it was COMMIT that failed: {error:?}");
        assert!(matches!(error, Error::Sqlite { .. }), "{damage}: {error:?}");
        assert_primary(error.sqlite().unwrap(), code);
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::RolledBack, false));
        assert!(!error.to_string().contains("restore a backup"), "{error}");
        store
            .write(move |tx| tx.execute("INSERT INTO o VALUES (?1)", [n]))
            .unwrap();
    }
    assert_eq!(others(&store), [0, 1, 2]);
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

/// FTS5 writes its index when the transaction ends. What it says then was taken for the disk's doing: the outcome was
/// "unknown", and the store took no more writes though nothing had reached the disk.
#[test]
fn damaged_full_text_index_fails_only_its_write() {
    fails_alone_at_commit(NO_STRUCTURE, ffi::SQLITE_CORRUPT);
}

/// A write alone in its group whose COMMIT failed was told that "the group" was rolled back and that it should try
/// again, which would fail again.
#[test]
fn single_write_with_failed_commit_sees_the_constraint() {
    fails_alone_at_commit(SHORT_STRUCTURE, ffi::SQLITE_CONSTRAINT);
}

/// In a group FTS5 writes its index when the next job's savepoint is made. That job was told the error, as if it were
/// its own, though it had not even started.
#[test]
fn error_at_savepoint_is_not_the_next_jobs() {
    let (_folder, store) = with_damaged_index(NO_STRUCTURE);
    let gate = Gate::hold(&store);
    let damaged = store.submit(into_ft).unwrap();
    let ran = Arc::new(AtomicU32::new(0));
    let neighbours: Vec<_> = (1..=3)
        .map(|n| {
            let ran = Arc::clone(&ran);
            store
                .submit(move |tx| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    tx.execute("INSERT INTO o VALUES (?1)", [n])
                })
                .unwrap()
        })
        .collect();
    gate.open();
    let error = damaged.wait().unwrap_err();
    assert!(
        matches!(
            &error,
            Error::RolledBack {
                caused_by_closure: false,
                source: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert_primary(error.sqlite().unwrap(), ffi::SQLITE_CORRUPT);
    assert_eq!(error.outcome(), Outcome::RolledBack);
    for neighbour in neighbours {
        assert_eq!(neighbour.wait().unwrap(), 1);
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3, "each ran once");
    assert_eq!(others(&store), [1, 2, 3]);
}

/// As above, with a job before the one that does it.
#[test]
fn damaged_full_text_index_spares_later_jobs() {
    let (_folder, store) = with_damaged_index(NO_STRUCTURE);
    let gate = Gate::hold(&store);
    let insert = |n: i64| {
        store
            .submit(move |tx| tx.execute("INSERT INTO o VALUES (?1)", [n]))
            .unwrap()
    };
    let before = insert(1);
    let damaged = store.submit(into_ft).unwrap();
    let after = [insert(2), insert(3)];
    gate.open();
    let error = damaged.wait().unwrap_err();
    assert_primary(error.sqlite().unwrap(), ffi::SQLITE_CORRUPT);
    assert_eq!(error.outcome(), Outcome::RolledBack);
    let error = before.wait().unwrap_err();
    assert!(
        matches!(
            &error,
            Error::RolledBack {
                caused_by_closure: false,
                source: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert_primary(error.sqlite().unwrap(), ffi::SQLITE_CORRUPT);
    assert!(error.is_retryable());
    for job in after {
        assert_eq!(job.wait().unwrap(), 1);
    }
    assert_eq!(others(&store), [2, 3]);
}

// ---- what a closure sets on the connection ----

/// No rollback undoes a progress handler or a busy timeout. A handler that one write had set interrupted every later
/// one, and a busy timeout of 0 made later writes fail at once beside another process.
#[test]
fn progress_handler_and_busy_timeout_are_reset() {
    let store = grouping()
        .busy_timeout(Duration::from_millis(4321))
        .open_temp()
        .unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE o(a)")).unwrap();
    fn meddle(tx: &WriteTx<'_>) -> Result<()> {
        tx.busy_timeout(Duration::ZERO)?;
        Ok(tx.progress_handler(1, Some(|| true))?)
    }
    fn look(tx: &WriteTx<'_>) -> Result<i64> {
        // Enough steps for any handler to be asked.
        tx.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO o SELECT max(i) FROM n",
            [],
        )?;
        tx.query_row("PRAGMA busy_timeout", [], |row| row.get(0))
    }
    // What becomes of the write that did it does not matter: here one that ends well, one that fails, one that is
    // interrupted by its own handler.
    let meddlers: [fn(&WriteTx<'_>) -> Result<()>; 3] = [
        meddle,
        |tx| meddle(tx).and(Err(Error::app("no"))),
        |tx| meddle(tx).and(look(tx)).map(drop),
    ];
    for (meddler, ends_well) in meddlers.into_iter().zip([true, false, false]) {
        // Alone, each in a transaction of its own ..
        assert_eq!(store.write(meddler).is_ok(), ends_well);
        assert_eq!(store.write(look).unwrap(), 4321);
        // .. and in one group.
        let gate = Gate::hold(&store);
        let meddled = store.submit(meddler).unwrap();
        let next = store.submit(look).unwrap();
        gate.open();
        assert_eq!(meddled.wait().is_ok(), ends_well);
        assert_eq!(next.wait().unwrap(), 4321);
    }
    assert_eq!(others(&store), [5000; 6]);
}

// ---- one snapshot ----

const COUNT: &str = "SELECT count(*) FROM o";

/// Two tables of one row each, in the write-ahead log, which no checkpoint moves until the write is let go.
fn with_rows_in_the_log() -> (Store, Sender<()>, Pending<()>) {
    let store = grouping().open_temp().unwrap();
    let gate = Gate::hold(&store);
    let made = store
        .submit(|tx| {
            tx.execute_batch(
                "CREATE TABLE o(a);
                 INSERT INTO o VALUES (1);
                 CREATE TABLE lost(a);
                 INSERT INTO lost VALUES (1);",
            )
        })
        .unwrap();
    let (running, is_running) = channel();
    let (let_go, told) = channel();
    // A write with a limit gets a transaction of its own.
    let holding = store
        .submit_with(WriteOptions::new().execution_timeout(FOREVER), move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    gate.open();
    made.wait().unwrap();
    is_running.recv().unwrap();
    (store, let_go, holding)
}

/// A statement that ends the transaction, and its error swallowed; then a write of somebody else.
fn lose_snapshot(tx: &ReadTx<'_>, store: &Store, let_go: Sender<()>, holding: Pending<()>) -> Result<()> {
    let before: i64 = tx.query_row(COUNT, [], |row| row.get(0))?;
    assert_eq!(before, 1);
    let log = format!("{}-wal", store.path().display());
    let content = fs::read(&log).unwrap();
    fs::write(&log, "").unwrap();
    let failed = tx.query_row("SELECT a FROM lost", [], |row| row.get::<_, i64>(0));
    fs::write(&log, content).unwrap();
    assert_primary(failed.unwrap_err().sqlite().unwrap(), ffi::SQLITE_IOERR);
    assert!(tx.is_autocommit(), "SQLite has ended the transaction");
    let_go.send(()).unwrap();
    holding.wait()?;
    store.write(|tx| tx.execute("INSERT INTO o VALUES (2)", [])).map(drop)
}

/// An I/O error ends a read's transaction. A closure that swallowed it went on in autocommit, where each statement has
/// a snapshot of its own: two counts of one read differed.
#[test]
fn read_that_swallows_snapshot_end_gets_no_second() {
    let (store, let_go, holding) = with_rows_in_the_log();
    let refused = store
        .read(|tx| {
            lose_snapshot(tx, &store, let_go, holding)?;
            let error = tx.query_row(COUNT, [], |row| row.get::<_, i64>(0)).unwrap_err();
            assert_primary(error.sqlite().unwrap(), ffi::SQLITE_ABORT);
            tx.query_optional(COUNT, [], |row| row.get::<_, i64>(0)).unwrap_err();
            tx.query_map(COUNT, [], |row| row.get::<_, i64>(0)).unwrap_err();
            tx.query_each(COUNT, [], |_| Ok(())).unwrap_err();
            tx.exists(COUNT, []).unwrap_err();
            Err::<(), _>(error)
        })
        .unwrap_err();
    assert_primary(refused.sqlite().unwrap(), ffi::SQLITE_ABORT);
    assert!(refused.to_string().contains("return that error"), "{refused}");
}

/// As above, past larder's own methods: what the closure gives is not handed out.
#[test]
fn read_that_continues_after_snapshot_end_fails() {
    let (store, let_go, holding) = with_rows_in_the_log();
    let error = store
        .read(|tx| {
            lose_snapshot(tx, &store, let_go, holding)?;
            // rusqlite's method, not larder's.
            let conn: &Connection = tx;
            Ok(conn.query_row(COUNT, [], |row| row.get::<_, i64>(0))?)
        })
        .unwrap_err();
    assert_primary(error.sqlite().unwrap(), ffi::SQLITE_ABORT);
    // The connection serves the next read.
    let count: i64 = store.read(|tx| tx.query_row(COUNT, [], |row| row.get(0))).unwrap();
    assert_eq!(count, 2);
}

// ---- a full log ----

/// Each job that was refused for the log's hard limit first waited 20 ms for readers: a queue of them kept the writer
/// for as many times 20 ms.
#[test]
fn queued_writes_are_refused_fast_on_full_log() {
    const JOBS: u32 = 400;
    for attempt in 1.. {
        let (took, lost) = with_stalls(|| refuse_all(JOBS));
        if took < Duration::from_millis(20) * JOBS / 2 {
            return;
        }
        let was_disturbed = lost > Duration::from_millis(500);
        assert!(
            was_disturbed && attempt < 5,
            "{JOBS} refusals took {took:?}, of which the machine kept others from going on for {lost:?}"
        );
    }
}

/// Returns how long it takes a new store to refuse so many writes.
fn refuse_all(jobs: u32) -> Duration {
    let store = Options::new()
        .wal_limit(64 * 1024)
        .wal_hard_limit(64 * 1024)
        .open_temp()
        .unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE o(a)")).unwrap();
    let took = store
        .read(|tx| {
            let _: i64 = tx.query_row(COUNT, [], |row| row.get(0))?;
            store.write(|tx| tx.execute("INSERT INTO o VALUES (zeroblob(200000))", []))?;
            let began = Instant::now();
            let jobs: Vec<_> = (0..jobs)
                .map(|_| store.submit(|tx| tx.execute("INSERT INTO o VALUES (1)", [])))
                .collect::<Result<_>>()?;
            for job in jobs {
                let error = job.wait().unwrap_err();
                assert!(matches!(error, Error::WalFull { oldest: Some(_), .. }), "{error:?}");
                assert!(error.is_retryable());
            }
            Ok(began.elapsed())
        })
        .unwrap();
    // The read has ended, so the log can be emptied.
    store.write(|tx| tx.execute("INSERT INTO o VALUES (1)", [])).unwrap();
    took
}

// ---- wakers ----

/// A waker whose drop lets a write go on, and then waits for the reply of the one behind it.
struct WaitsWhenDropped {
    let_go: Sender<()>,
    behind: Mutex<Pending<()>>,
    came: Sender<bool>,
}

impl Wake for WaitsWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for WaitsWhenDropped {
    fn drop(&mut self) {
        self.let_go.send(()).unwrap();
        let reply = self.behind.get_mut().unwrap().wait_timeout(PATIENCE);
        self.came.send(matches!(reply, Some(Ok(())))).unwrap();
    }
}

/// The old waker was dropped under the lock of the slot in which the writer leaves its reply. It is code of the
/// runtime's: one whose drop waits for the writer (as that of the last clone of a store does) waited for ever.
#[test]
fn waker_is_dropped_outside_the_reply_lock() {
    let replacements: [fn(&mut Pending<()>); 2] = [
        |pending| {
            // It is not ready yet, or was made ready by the drop.
            let _ = Pin::new(pending).poll(&mut Context::from_waker(Waker::noop()));
        },
        |pending| assert!(pending.wait_timeout(Duration::ZERO).is_none_or(|result| result.is_ok())),
    ];
    for replace in replacements {
        let store = grouping().open_temp().unwrap();
        let (let_go, told) = channel();
        let (running, is_running) = channel();
        let mut pending = store
            .submit(move |_| {
                running.send(()).unwrap();
                let _ = told.recv();
                Ok(())
            })
            .unwrap();
        is_running.recv().unwrap();
        let behind = Mutex::new(store.submit(|_| Ok(())).unwrap());
        let (came, has_come) = channel();
        let waker = Waker::from(Arc::new(WaitsWhenDropped { let_go, behind, came }));
        assert!(
            Pin::new(&mut pending)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        // Now the slot holds the only one.
        drop(waker);
        assert!(has_come.try_recv().is_err(), "it was not dropped before");
        replace(&mut pending);
        assert_eq!(has_come.try_recv(), Ok(true), "the writer could reply meanwhile");
    }
}

// ---- no thread ----

/// A store whose writer thread could not be started was dropped half made, and its drop waited for that thread until
/// the close time-out was over.
#[test]
fn open_fails_at_once_without_writer_thread() {
    if !cfg!(target_os = "linux") || !succeeds(Command::new("prlimit").arg("--version")) {
        return skipped("there is no prlimit here");
    }
    // With one arena: another thread that allocates for the first time would reserve 64 MiB of address space for its own,
    // at any time after the size was measured.
    let child = Child::start_in_shell("export MALLOC_ARENA_MAX=1", "regressions::store", "no thread", &[]);
    match child.line().as_str() {
        "no limit" => return skipped("prlimit cannot limit this process"),
        line => assert_eq!(line, "limited"),
    }
    let result = child.line();
    assert!(result.contains("refused a thread"), "{result}");
    child.expect("at once");
    child.finish();
}

pub(crate) fn child(task: &Task) {
    assert_eq!(task.role, "no thread");
    // Its first read starts the threads that open readers, which all stores of a process share. A look of the watchdog
    // might start another one at any time.
    let unwatched = Options::new().monitor_interval(Duration::ZERO);
    let first = unwatched.clone().open_temp().unwrap();
    first.read(|_| Ok(())).unwrap();
    let options = unwatched.mmap_size(0).close_timeout(PATIENCE);

    // Room for what SQLite allocates, not for the stack of another thread, which has 2 MiB.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = format!("--as={}:", size * 1024 + 2_000_000);
    let pid = process::id().to_string();
    if !succeeds(Command::new("prlimit").args(["--pid", &pid, &limit])) {
        return tell("no limit");
    }
    tell("limited");
    let began = Instant::now();
    let result = options.open_temp();
    let took = began.elapsed();
    match result {
        Ok(_) => tell("opened"),
        Err(error) => tell(error),
    }
    if took < PATIENCE / 2 {
        tell("at once");
    } else {
        tell(format!("after {took:?}"));
    }
}

/// SQLite prepares a statement again whose schema has changed when it runs it. An `EXPLAIN` does not run: from the
/// statement cache it read what the schema had freed, and the process died (SQLite 3.53.2).
#[test]
fn cached_explain_uses_the_current_schema() {
    let store = Options::new().readers(1).open_temp().unwrap();
    let explain = "EXPLAIN DELETE FROM p WHERE rowid = 1";
    let steps = |tx: &WriteTx<'_>| {
        tx.query_map(explain, [], |row| row.get::<_, String>("opcode"))
            .map(|steps| steps.len())
    };
    store.write(|tx| tx.execute_batch("CREATE TABLE p(a INTEGER)")).unwrap();
    assert!(store.write(steps).unwrap() > 0);
    store.write(|tx| tx.execute_batch("DROP TABLE p")).unwrap();
    for n in 0..50 {
        store
            .write(move |tx| tx.execute_batch(&format!("CREATE TABLE t{n}(a INTEGER, b TEXT, c BLOB)")))
            .unwrap();
    }
    let error = store.write(steps).unwrap_err();
    assert!(error.to_string().contains("no such table: p"), "{error}");
}
