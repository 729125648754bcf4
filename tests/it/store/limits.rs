//! Time limits: waiting in the queue, waiting for a reader, run time, and the age of a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{blocker, until, with_longer_limits, young};
use larder::{Error, Options, Outcome, Pending, ReadOptions, Result, Store, WriteOptions};

/// Far more than anything here takes; past it something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs for hours.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// Some tens of milliseconds, many times as long as between two looks of a progress handler.
const LONG: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) FROM n";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn with_table(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    let create = |tx: &larder::WriteTx<'_>| tx.execute_batch("CREATE TABLE t(who TEXT)");
    store.write_with(patient(), create).unwrap();
    store
}

/// Whatever the store's time-out is, it is not too late.
fn patient() -> WriteOptions {
    WriteOptions::new().queue_timeout(PATIENCE)
}

fn everybody(store: &Store) -> Vec<String> {
    names(store).unwrap()
}

fn names(store: &Store) -> Result<Vec<String>> {
    store.read(|tx| tx.query_map("SELECT who FROM t ORDER BY rowid", [], |row| row.get(0)))
}

fn add(store: &Store, who: &'static str) -> Pending<usize> {
    store
        .submit_with(patient(), move |tx| tx.execute("INSERT INTO t VALUES (?1)", [who]))
        .unwrap()
}

/// A flag, and a closure that raises it.
fn flag() -> (
    Arc<AtomicBool>,
    impl FnOnce(&larder::WriteTx<'_>) -> larder::Result<()> + Send + 'static,
) {
    let ran = Arc::new(AtomicBool::new(false));
    let raise = Arc::clone(&ran);
    (ran, move |_tx| {
        raise.store(true, Ordering::SeqCst);
        Ok(())
    })
}

#[track_caller]
fn assert_queue_timeout(error: &Error, at_least: Duration) {
    let Error::QueueTimeout { waited, .. } = error else {
        panic!("{error:?}")
    };
    assert!(*waited >= at_least, "{waited:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    assert!(error.to_string().contains("shed load"), "{error}");
}

// ---- waiting to be started ----

#[test]
fn write_past_its_queue_timeout_never_starts() {
    let store = with_table(Options::new().queue_timeout(ms(50)));
    let (let_go, blocked) = blocker(&store);
    let (ran, raise) = flag();
    let error = store.write(raise).unwrap_err();
    assert_queue_timeout(&error, ms(50));
    let_go.send(()).unwrap();
    blocked.wait().unwrap();
    // Whatever was in the queue before this one has been judged by now.
    add(&store, "later").wait().unwrap();
    assert!(!ran.load(Ordering::SeqCst), "its caller was told that it did not start");
}

#[test]
fn write_can_have_its_own_queue_timeout() {
    let store = with_table(Options::new().queue_timeout(PATIENCE));
    let (let_go, blocked) = blocker(&store);
    let began = Instant::now();
    let (ran, raise) = flag();
    let error = store
        .write_with(WriteOptions::new().queue_timeout(ms(50)), raise)
        .unwrap_err();
    assert_queue_timeout(&error, ms(50));
    assert!(began.elapsed() < PATIENCE / 2);
    let (patient, raise) = flag();
    let patient_write = store
        .submit_with(WriteOptions::new().queue_timeout(Duration::MAX), raise)
        .unwrap();
    let_go.send(()).unwrap();
    blocked.wait().unwrap();
    patient_write.wait().unwrap();
    assert!(patient.load(Ordering::SeqCst) && !ran.load(Ordering::SeqCst));
}

#[test]
fn write_with_zero_timeout_runs_or_never_starts() {
    let store = with_table(Options::new());
    for _ in 0..200 {
        let (ran, raise) = flag();
        let told = store.write_with(WriteOptions::new().queue_timeout(Duration::ZERO), raise);
        // A barrier: the writer has come past it.
        store.write(|_| Ok(())).unwrap();
        match told {
            Ok(()) => assert!(ran.load(Ordering::SeqCst)),
            Err(error) => {
                assert_queue_timeout(&error, Duration::ZERO);
                assert!(!ran.load(Ordering::SeqCst));
            }
        }
    }
}

#[test]
fn deadline_and_start_never_both_win() {
    // Deadlines of about as long as the writer takes: whichever wins, the caller is told what happened.
    let store = with_table(Options::new().spin_time(Duration::ZERO));
    for round in 0..2000 {
        let (ran, raise) = flag();
        let timeout = Duration::from_micros(round % 100);
        let told = store.write_with(WriteOptions::new().queue_timeout(timeout), raise);
        store.write(|_| Ok(())).unwrap();
        assert_eq!(told.is_ok(), ran.load(Ordering::SeqCst), "{told:?}");
    }
}

#[test]
fn submitted_write_without_waiter_respects_its_deadline() {
    let store = with_table(Options::new());
    let (let_go, blocked) = blocker(&store);
    let (ran, raise) = flag();
    let pending = store
        .submit_with(WriteOptions::new().queue_timeout(ms(20)), raise)
        .unwrap();
    // The subject: the deadline goes by while nobody looks.
    thread::sleep(ms(40));
    let_go.send(()).unwrap();
    blocked.wait().unwrap();
    assert_queue_timeout(&futures_executor::block_on(pending).unwrap_err(), ms(20));
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn caller_blocked_on_full_queue_times_out() {
    let store = with_table(Options::new().queue_capacity(1).queue_timeout(ms(50)));
    let (let_go, blocked) = blocker(&store);
    let queued = store.submit(|_| Ok(())).unwrap();
    let error = store.submit(|_| Ok(())).unwrap_err();
    assert_queue_timeout(&error, ms(50));
    let error = store.write(|_| Ok(())).unwrap_err();
    assert_queue_timeout(&error, ms(50));
    let_go.send(()).unwrap();
    blocked.wait().unwrap();
    // It waited for as long as the others.
    assert_queue_timeout(&queued.wait().unwrap_err(), ms(50));
    add(&store, "later").wait().unwrap();
    assert_eq!(everybody(&store), ["later"]);
}

#[test]
fn started_write_commits_past_its_queue_timeout() {
    let store = with_table(Options::new());
    let started = Arc::new(AtomicBool::new(false));
    with_longer_limits(ms(50), |limit| {
        let starts = Arc::clone(&started);
        let changed = store.write_with(WriteOptions::new().queue_timeout(limit), move |tx| {
            starts.store(true, Ordering::SeqCst);
            let changed = tx.execute("INSERT INTO t VALUES ('slow')", []);
            thread::sleep(limit * 2 + ms(20));
            changed
        });
        match changed {
            Err(Error::QueueTimeout { .. }) => {
                assert!(!started.load(Ordering::SeqCst));
                None
            }
            changed => {
                assert_eq!(changed.unwrap(), 1);
                Some(())
            }
        }
    });
    assert_eq!(everybody(&store), ["slow"]);
}

// ---- running ----

#[track_caller]
fn assert_interrupted(error: &Error, wanted: Duration, advice: &str) {
    let Error::Interrupted { limit, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(*limit, wanted);
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert!(error.to_string().contains(advice), "{error}");
}

#[test]
fn execution_timeout_stops_endless_sql_and_rolls_back() {
    let store = with_table(Options::new());
    let began = Instant::now();
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(50)), |tx| {
            tx.execute("INSERT INTO t VALUES ('half')", [])?;
            tx.query_row(ENDLESS, [], |row| row.get::<_, i64>(0))
        })
        .unwrap_err();
    assert!(began.elapsed() < PATIENCE);
    assert_interrupted(&error, ms(50), "WriteOptions::execution_timeout");
    assert!(everybody(&store).is_empty());
    add(&store, "later").wait().unwrap();
    assert_eq!(everybody(&store), ["later"]);
}

#[test]
fn execution_timeout_in_a_statement_rolls_back_everything() {
    let store = with_table(Options::new());
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(50)), |tx| {
            tx.execute("INSERT INTO t VALUES ('before')", [])?;
            tx.execute(&format!("INSERT INTO t {ENDLESS}"), [])
        })
        .unwrap_err();
    assert_interrupted(&error, ms(50), "WriteOptions::execution_timeout");
    assert!(everybody(&store).is_empty());
}

#[test]
fn closure_that_swallows_interrupt_is_rolled_back() {
    let store = with_table(Options::new());
    for sql in [ENDLESS.to_owned(), format!("INSERT INTO t {ENDLESS}")] {
        let error = store
            .write_with(WriteOptions::new().execution_timeout(ms(30)), move |tx| {
                tx.execute("INSERT INTO t VALUES ('before')", [])?;
                let _ = tx.query_optional(&sql, [], |_| Ok(()));
                let _ = tx.execute("INSERT INTO t VALUES ('after')", []);
                Ok(())
            })
            .unwrap_err();
        assert_interrupted(&error, ms(30), "WriteOptions::execution_timeout");
        assert!(everybody(&store).is_empty());
    }
}

#[test]
fn neighbours_of_timed_out_write_commit() {
    let store = with_table(Options::new());
    let (let_go, blocked) = blocker(&store);
    let before = add(&store, "before");
    let limited = store
        .submit_with(WriteOptions::new().execution_timeout(ms(30)), |tx| {
            tx.execute("INSERT INTO t VALUES ('limited')", [])?;
            tx.execute(&format!("INSERT INTO t {ENDLESS}"), [])
        })
        .unwrap();
    let after = add(&store, "after");
    let_go.send(()).unwrap();
    blocked.wait().unwrap();
    assert_eq!(before.wait().unwrap(), 1);
    assert_interrupted(&limited.wait().unwrap_err(), ms(30), "WriteOptions::execution_timeout");
    assert_eq!(after.wait().unwrap(), 1);
    assert_eq!(everybody(&store), ["before", "after"]);
}

#[test]
fn execution_timeout_ends_with_its_write() {
    let store = with_table(Options::new());
    store
        .write_with(WriteOptions::new().execution_timeout(PATIENCE), |tx| {
            tx.execute("INSERT INTO t VALUES ('quick')", [])
        })
        .unwrap();
    store
        .write_with(WriteOptions::new().execution_timeout(ms(1)), |tx| {
            tx.query_row(ENDLESS, [], |_| Ok(()))
        })
        .unwrap_err();
    // Longer than the limit was, and it has none.
    store.write(|tx| tx.query_row(LONG, [], |_| Ok(()))).unwrap();
    assert_eq!(everybody(&store), ["quick"]);
}

#[test]
fn write_within_its_execution_timeout_commits() {
    let store = with_table(Options::new());
    for limit in [PATIENCE, Duration::MAX] {
        let written = store.write_with(WriteOptions::new().execution_timeout(limit), |tx| {
            tx.query_row(LONG, [], |_| Ok(()))?;
            tx.execute("INSERT INTO t VALUES ('in time')", [])
        });
        assert_eq!(written.unwrap(), 1);
    }
    assert_eq!(everybody(&store), ["in time", "in time"]);
}

// ---- waiting for a reader ----

#[test]
fn read_timeout_error_has_number_of_readers() {
    let store = with_table(Options::new().readers(2).read_queue_timeout(ms(60)));
    let (busy, both_busy) = channel();
    let (let_go, told) = channel::<()>();
    let told = std::sync::Mutex::new(told);
    thread::scope(|scope| {
        for _ in 0..2 {
            let busy = busy.clone();
            let (store, told) = (&store, &told);
            scope.spawn(move || {
                store.read_with(ReadOptions::new().queue_timeout(PATIENCE), |_| {
                    busy.send(()).unwrap();
                    told.lock().unwrap().recv().unwrap();
                    Ok(())
                })
            });
        }
        (0..2).for_each(|_| both_busy.recv().unwrap());
        let began = Instant::now();
        let error = store.read(|_| Ok(())).unwrap_err();
        let lasted = began.elapsed();
        let Error::ReadQueueTimeout {
            readers,
            held_here,
            waited,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!((*readers, *held_here), (2, 0));
        assert!(
            *waited >= ms(60) && lasted >= ms(60) && lasted < PATIENCE,
            "{waited:?}, {lasted:?}"
        );
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
        assert!(error.to_string().contains("raise Options::readers"), "{error}");
        // A shorter one of its own.
        let own = store
            .read_with(ReadOptions::new().queue_timeout(ms(1)), |_| Ok(()))
            .unwrap_err();
        assert!(matches!(own, Error::ReadQueueTimeout { .. }), "{own:?}");
        // Writes do not need a reader.
        add(&store, "meanwhile").wait().unwrap();
        (0..2).for_each(|_| let_go.send(()).unwrap());
    });
    assert_eq!(everybody(&store), ["meanwhile"]);
}

#[test]
fn read_with_endless_timeout_gets_the_next_reader() {
    let store = with_table(Options::new().readers(1));
    let (busy, is_busy) = channel();
    let (let_go, told) = channel::<()>();
    thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            store.read(|_| {
                busy.send(()).unwrap();
                told.recv().unwrap();
                Ok(())
            })
        });
        is_busy.recv().unwrap();
        let patient = scope.spawn(move || store.read_with(ReadOptions::new().queue_timeout(Duration::MAX), |_| Ok(7)));
        let_go.send(()).unwrap();
        assert_eq!(patient.join().unwrap().unwrap(), 7);
    });
}

// ---- the age of a snapshot ----

#[test]
fn old_read_is_stopped_amid_a_statement() {
    let store = with_table(Options::new().max_reader_age(ms(50)).interrupt_old_readers(true));
    let began = Instant::now();
    let error = store
        .read(|tx| tx.query_row(ENDLESS, [], |row| row.get::<_, i64>(0)))
        .unwrap_err();
    assert!(began.elapsed() < PATIENCE);
    assert_interrupted(&error, ms(50), "Options::max_reader_age");
    // By rusqlite's own methods, too.
    let error = store
        .read(|tx| {
            let conn: &larder::rusqlite::Connection = tx;
            Ok(conn.query_row(ENDLESS, [], |row| row.get::<_, i64>(0))?)
        })
        .unwrap_err();
    assert_interrupted(&error, ms(50), "Options::max_reader_age");
}

#[test]
fn old_read_is_stopped_at_its_next_statement() {
    let store = with_table(Options::new().max_reader_age(ms(50)).interrupt_old_readers(true));
    let error = store
        .read(|tx| {
            let one = || tx.query_row("SELECT 1", [], |row| row.get::<_, i64>(0));
            assert_eq!(one()?, 1);
            // The subject: the read grows old.
            thread::sleep(ms(70));
            one()
        })
        .unwrap_err();
    assert_interrupted(&error, ms(50), "Options::max_reader_age");
}

#[test]
fn interrupted_reader_serves_the_next_read() {
    let store = with_table(
        Options::new()
            .readers(1)
            .max_reader_age(ms(50))
            .interrupt_old_readers(true),
    );
    add(&store, "ant").wait().unwrap();
    for _ in 0..3 {
        store.read(|tx| tx.query_row(ENDLESS, [], |_| Ok(()))).unwrap_err();
        assert_eq!(young(|| names(&store)), ["ant"]);
    }
}

#[test]
fn reads_are_not_stopped_by_default() {
    let store = with_table(Options::new().max_reader_age(ms(1)));
    let counted: i64 = store
        .read(|tx| {
            thread::sleep(ms(5));
            tx.query_row(LONG, [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(counted, 300_000);
}

#[test]
fn reader_age_limit_does_not_stop_writes() {
    let store = with_table(Options::new().max_reader_age(ms(1)).interrupt_old_readers(true));
    let counted: i64 = store
        .write(|tx| {
            thread::sleep(ms(5));
            tx.query_row(LONG, [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(counted, 300_000);
}

// ---- without end ----

#[test]
fn longest_durations_do_not_panic() {
    let store = with_table(Options::new().max_reader_age(Duration::MAX).interrupt_old_readers(true));
    let forever = WriteOptions::new()
        .queue_timeout(Duration::MAX)
        .execution_timeout(Duration::MAX);
    store
        .write_with(forever.clone(), |tx| tx.execute("INSERT INTO t VALUES ('ant')", []))
        .unwrap();
    let mut pending = store.submit_with(forever, |_| Ok(7)).unwrap();
    assert_eq!(pending.wait_timeout(Duration::MAX).unwrap().unwrap(), 7);
    let read = store.read_with(ReadOptions::new().queue_timeout(Duration::MAX), |tx| {
        tx.query_row("SELECT who FROM t", [], |row| row.get::<_, String>(0))
    });
    assert_eq!(read.unwrap(), "ant");
    assert!(store.close_within(Duration::MAX).unwrap().wal_truncated);
}

// ---- many short statements ----

/// Longer than any limit here, and short enough for a test that fails.
const FAR_PAST: Duration = Duration::from_secs(10);

/// Does that again and again, until it fails or it is far past every limit. Gives whether it has failed.
fn again_and_again(mut once: impl FnMut() -> larder::Result<()>) -> larder::Result<()> {
    let began = Instant::now();
    while began.elapsed() < FAR_PAST {
        once()?;
    }
    panic!("nothing has stopped it");
}

type ShortReads = fn(&larder::ReadTx<'_>) -> larder::Result<()>;

/// Ways to run short statements, none of which comes to a progress handler by itself in time.
const SHORT_READS: [(&str, ShortReads); 8] = [
    ("larder's methods", |tx| {
        again_and_again(|| tx.query_row("SELECT 1", [], |_| Ok(())))
    }),
    ("texts of its own", |tx| {
        let mut n = 0;
        again_and_again(|| {
            n += 1;
            tx.query_row(&format!("SELECT {n}"), [], |_| Ok(()))
        })
    }),
    ("rusqlite's methods", |tx| {
        let conn: &larder::rusqlite::Connection = tx;
        again_and_again(|| Ok(conn.query_row("SELECT 1", [], |_| Ok(()))?))
    }),
    ("a statement that is held", |tx| {
        let mut held = tx.prepare_cached("SELECT 1")?;
        again_and_again(|| Ok(held.query_row([], |_| Ok(()))?))
    }),
    ("other code between the runs of one that is held", |tx| {
        let mut held = tx.prepare_cached("SELECT 1")?;
        again_and_again(|| {
            thread::sleep(ms(200));
            Ok(held.query_row([], |_| Ok(()))?)
        })
    }),
    ("other code at each row", |tx| {
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
        let began = Instant::now();
        tx.query_each(rows, [], |_| {
            thread::sleep(ms(200));
            assert!(began.elapsed() < FAR_PAST, "nothing has stopped it");
            Ok(())
        })
    }),
    ("other code at each row of rusqlite's", |tx| {
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
        let mut statement = tx.prepare(rows)?;
        let mut rows = statement.query([])?;
        again_and_again(|| {
            thread::sleep(ms(200));
            Ok(rows.next().map(drop)?)
        })
    }),
    ("one inside the rows of another", |tx| {
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
        let mut outer = tx.prepare(rows)?;
        let mut outer = outer.query([])?;
        let mut inner = tx.prepare("SELECT 1")?;
        again_and_again(|| {
            thread::sleep(ms(50));
            outer.next()?;
            Ok(inner.query_row([], |_| Ok(()))?)
        })
    }),
];

type ShortWrites = fn(&larder::WriteTx<'_>) -> larder::Result<()>;

const SHORT_WRITES: [(&str, ShortWrites); 5] = [
    ("larder's methods", |tx| {
        again_and_again(|| tx.execute("INSERT INTO t VALUES ('short')", []).map(drop))
    }),
    ("rusqlite's methods", |tx| {
        let conn: &larder::rusqlite::Connection = tx;
        again_and_again(|| Ok(conn.execute("INSERT INTO t VALUES ('short')", []).map(drop)?))
    }),
    ("one batch", |tx| {
        let batch = "INSERT INTO t VALUES ('short');".repeat(1_000_000);
        tx.execute_batch(&batch)
    }),
    ("savepoints", |tx| again_and_again(|| tx.savepoint(|_| Ok(())))),
    ("other code between the runs of one that is held", |tx| {
        let mut held = tx.prepare_cached("INSERT INTO t VALUES ('short')")?;
        again_and_again(|| {
            thread::sleep(ms(200));
            Ok(held.execute([]).map(drop)?)
        })
    }),
];

/// `WriteOptions::execution_timeout(100 ms)` with a loop of short statements ran for a second and was committed: SQLite's progress
/// handler counts the steps of one statement.
#[test]
fn execution_timeout_stops_many_short_statements() {
    let store = with_table(Options::new());
    let limited = || WriteOptions::new().execution_timeout(ms(50));
    for (how, write) in SHORT_WRITES {
        let error = store.write_with(limited(), write).expect_err(how);
        assert_interrupted(&error, ms(50), "WriteOptions::execution_timeout");
        assert!(everybody(&store).is_empty(), "{how}");
    }
    for (how, read) in SHORT_READS {
        let error = store.write_with(limited(), move |tx| read(tx)).expect_err(how);
        assert_interrupted(&error, ms(50), "WriteOptions::execution_timeout");
    }
    // It is gone with its write.
    store
        .write(|tx| {
            thread::sleep(ms(60));
            tx.execute("INSERT INTO t VALUES ('later')", [])
        })
        .unwrap();
    assert_eq!(everybody(&store), ["later"]);
}

#[test]
fn max_reader_age_stops_many_short_statements() {
    let store = with_table(
        Options::new()
            .readers(1)
            .max_reader_age(ms(50))
            .interrupt_old_readers(true),
    );
    for (how, read) in SHORT_READS {
        let error = store.read(read).expect_err(how);
        assert_interrupted(&error, ms(50), "Options::max_reader_age");
    }
    assert!(young(|| names(&store)).is_empty());
}

/// No SQL is left to be stopped when the limit is over.
#[test]
fn execution_timeout_passed_by_other_code_rolls_back() {
    let store = with_table(Options::new());
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(20)), |tx| {
            tx.execute("INSERT INTO t VALUES ('late')", [])?;
            thread::sleep(ms(40));
            Ok(())
        })
        .unwrap_err();
    assert_interrupted(&error, ms(20), "WriteOptions::execution_timeout");
    assert!(everybody(&store).is_empty());
    assert_eq!(store.stats().failed_writes, 1);
}

#[test]
fn execution_timeout_keeps_error_of_failed_closure() {
    let store = with_table(Options::new());
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(20)), |_| {
            thread::sleep(ms(40));
            Err::<(), _>(Error::app("sold out"))
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "sold out");
}

#[test]
fn execution_timeout_holds_if_closure_ignores_errors() {
    let store = with_table(Options::new());
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(20)), |tx| {
            let began = Instant::now();
            while began.elapsed() < ms(60) {
                let _ = tx.execute("INSERT INTO t VALUES ('short')", []);
            }
            Ok(())
        })
        .unwrap_err();
    assert_interrupted(&error, ms(20), "WriteOptions::execution_timeout");
    assert!(everybody(&store).is_empty());
}

/// A closure may put a handler of its own in the place of larder's.
#[test]
fn execution_timeout_holds_if_closure_removes_handler() {
    let store = with_table(Options::new());
    for (how, read) in SHORT_READS {
        let error = store
            .write_with(WriteOptions::new().execution_timeout(ms(30)), move |tx| {
                tx.progress_handler(0, None::<fn() -> bool>)?;
                read(tx)
            })
            .expect_err(how);
        assert_interrupted(&error, ms(30), "WriteOptions::execution_timeout");
    }
    // It is back for the next one.
    let error = store
        .write_with(WriteOptions::new().execution_timeout(ms(30)), |tx| {
            tx.query_row(ENDLESS, [], |_| Ok(()))
        })
        .unwrap_err();
    assert_interrupted(&error, ms(30), "WriteOptions::execution_timeout");
}

/// SQLite has one trace callback a connection, and a program may log its statements by it.
#[test]
fn execution_timeout_keeps_trace_of_on_connect() {
    use larder::rusqlite::trace::{TraceEvent, TraceEventCodes};
    static TRACED: AtomicUsize = AtomicUsize::new(0);
    fn note(event: TraceEvent<'_>) {
        if let TraceEvent::Stmt(_, "SELECT 'traced'") = event {
            TRACED.fetch_add(1, Ordering::SeqCst);
        }
    }
    let store = with_table(Options::new().readers(1).on_connect(|conn, _| {
        conn.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note));
        Ok(())
    }));
    let limited = || ReadOptions::new().execution_timeout(ms(50));
    let traced: ShortReads = |tx| tx.query_row("SELECT 'traced'", [], |_| Ok(()));
    for runs in 1..4 {
        store
            .read_with(ReadOptions::new().execution_timeout(PATIENCE), traced)
            .unwrap();
        store.read(traced).unwrap();
        assert_eq!(TRACED.load(Ordering::SeqCst), 2 * runs);
        let stopped: [ShortReads; 3] = [
            SHORT_READS[0].1,
            |tx| tx.query_row(ENDLESS, [], |_| Ok(())),
            |_| {
                thread::sleep(ms(70));
                Ok(())
            },
        ];
        for read in stopped {
            let error = store.read_with(limited(), read).unwrap_err();
            assert_interrupted(&error, ms(50), "ReadOptions::execution_timeout");
        }
    }
}

#[test]
fn old_read_that_ends_by_itself_is_interrupted() {
    let old = || Options::new().max_reader_age(ms(20));
    let late = |tx: &larder::ReadTx<'_>| {
        let one = tx.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?;
        thread::sleep(ms(40));
        Ok(one)
    };
    let store = with_table(old().interrupt_old_readers(true));
    let error = store.read(late).unwrap_err();
    assert_interrupted(&error, ms(20), "Options::max_reader_age");
    assert_eq!(with_table(old()).read(late).unwrap(), 1);
}

// ---- the time of a read ----

#[test]
fn execution_timeout_stops_a_read_at_any_point() {
    let store = with_table(Options::new().readers(1));
    let limited = || ReadOptions::new().execution_timeout(ms(50));
    let endless: ShortReads = |tx| tx.query_row(ENDLESS, [], |_| Ok(()));
    let sleeping: ShortReads = |_| {
        thread::sleep(ms(70));
        Ok(())
    };
    let others = [("one endless statement", endless), ("no SQL", sleeping)];
    for (how, read) in SHORT_READS.into_iter().chain(others) {
        let error = store.read_with(limited(), read).expect_err(how);
        assert_interrupted(&error, ms(50), "ReadOptions::execution_timeout");
    }
    // It ends with its read.
    let counted: i64 = store
        .read(|tx| {
            thread::sleep(ms(60));
            tx.query_row(LONG, [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(counted, 300_000);
}

#[test]
fn execution_timeout_excludes_waiting_for_a_connection() {
    let store = &with_table(Options::new().readers(1));
    with_longer_limits(ms(500), |limit| {
        let (busy, is_busy) = channel();
        let (let_go, told) = channel::<()>();
        thread::scope(|scope| {
            // It is dropped with a failed assertion.
            let let_go = let_go;
            scope.spawn(move || {
                store.read(|_| {
                    busy.send(()).unwrap();
                    let _ = told.recv();
                    Ok(())
                })
            });
            is_busy.recv().unwrap();
            let before = store.stats().readers.waits;
            let options = ReadOptions::new().execution_timeout(limit).queue_timeout(PATIENCE);
            let patient = scope.spawn(move || {
                let read = store.read_with(options, |tx| tx.query_row("SELECT 1", [], |_| Ok(())));
                (read, Instant::now())
            });
            until(store, |stats| stats.readers.waits > before);
            // The subject: it waits for longer than it may run.
            thread::sleep(limit + ms(100));
            let released = Instant::now();
            let_go.send(()).unwrap();
            match patient.join().unwrap() {
                (Err(error @ Error::Interrupted { .. }), ended) => {
                    // It had a connection for no longer than this. A busy machine may make that as long as the limit.
                    let ran = ended - released;
                    assert!(ran >= limit, "{ran:?} of {limit:?}: {error}");
                    None
                }
                (read, _) => {
                    read.unwrap();
                    Some(())
                }
            }
        })
    });
}

#[test]
fn shorter_of_execution_timeout_and_reader_age_counts() {
    let store = with_table(Options::new().max_reader_age(ms(50)).interrupt_old_readers(true));
    let endless = |options: ReadOptions| {
        store
            .read_with(options, |tx| tx.query_row(ENDLESS, [], |_| Ok(())))
            .unwrap_err()
    };
    let shorter = endless(ReadOptions::new().execution_timeout(ms(20)));
    assert_interrupted(&shorter, ms(20), "ReadOptions::execution_timeout");
    let longer = endless(ReadOptions::new().execution_timeout(PATIENCE));
    assert_interrupted(&longer, ms(50), "Options::max_reader_age");
}

/// Each job of a group that shares a snapshot has its own.
#[cfg(feature = "async")]
#[test]
fn execution_timeout_of_async_read_stops_it_alone() {
    use crate::support::tasks::{Call, HeldRead, begin, finish};
    let store = with_table(Options::new().readers(1));
    for _ in 0..10 {
        let held = HeldRead::hold(&store);
        let limited = |read: ShortReads| -> Call<()> {
            Box::pin(store.read_async_with(
                ReadOptions::new().queue_timeout(PATIENCE).execution_timeout(ms(10)),
                read,
            ))
        };
        let free = || -> Call<i64> {
            let long = |tx: &larder::ReadTx<'_>| tx.query_row(LONG, [], |row| row.get(0));
            Box::pin(store.read_async_with(ReadOptions::new().queue_timeout(PATIENCE), long))
        };
        let (mut before, mut after) = (free(), free());
        let mut stopped = [
            limited(SHORT_READS[2].1),
            limited(|tx| tx.query_row(ENDLESS, [], |_| Ok(()))),
            limited(|_| {
                thread::sleep(ms(20));
                Ok(())
            }),
        ];
        begin(&mut before);
        stopped.iter_mut().for_each(begin);
        begin(&mut after);
        held.let_go();
        assert_eq!(finish(before).unwrap(), 300_000);
        for read in stopped {
            assert_interrupted(&finish(read).unwrap_err(), ms(10), "ReadOptions::execution_timeout");
        }
        assert_eq!(finish(after).unwrap(), 300_000);
    }
}

// ---- an interrupt of the program's own ----

/// An interrupt by the program's own handle was told as `max_reader_age`.
#[test]
fn interrupt_by_own_handle_is_no_timeout() {
    let store = with_table(
        Options::new()
            .readers(1)
            .max_reader_age(PATIENCE)
            .interrupt_old_readers(true),
    );
    let by_handle: ShortReads = |tx| {
        let handle = tx.get_interrupt_handle();
        let (running, is_running) = channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                is_running.recv().unwrap();
                // Until it meets the statement.
                while is_running.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    handle.interrupt();
                    thread::yield_now();
                }
            });
            running.send(()).unwrap();
            let read = tx.query_row(ENDLESS, [], |_| Ok(()));
            drop(running);
            read
        })
    };
    let by_handler: ShortReads = |tx| {
        tx.progress_handler(1, Some(|| true))?;
        tx.query_row(ENDLESS, [], |_| Ok(()))
    };
    for interrupted in [by_handle, by_handler] {
        let limited = WriteOptions::new().execution_timeout(PATIENCE);
        let read = ReadOptions::new().execution_timeout(PATIENCE);
        for error in [
            store.read(interrupted).unwrap_err(),
            store.read_with(read, interrupted).unwrap_err(),
            store.write(move |tx| interrupted(tx)).unwrap_err(),
            store.write_with(limited, move |tx| interrupted(tx)).unwrap_err(),
        ] {
            let code = error
                .sqlite()
                .and_then(|error| error.sqlite_error())
                .map(|e| e.extended_code);
            assert_eq!(code, Some(larder::rusqlite::ffi::SQLITE_INTERRUPT), "{error:?}");
            assert!(error.to_string().contains("not a limit of the store"), "{error}");
        }
        assert!(everybody(&store).is_empty());
    }
}
