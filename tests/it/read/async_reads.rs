//! Async reads: each one sees the writes acknowledged to its task, and reads that share a snapshot do not affect each
//! other.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use larder::rusqlite::{self, Connection, named_params};
use larder::{Error, Options, Outcome, ReadOptions, ReadTx, Result, Store, WriteOptions};

use crate::support::child::{self, Child, tell};
use crate::support::leaks::{leak_rows_of_a_cached_statement, leak_statement_and_rows};
use crate::support::tasks::{
    Call, ENDLESS, HeldRead, PATIENCE, asked, begin, counting, finish, hear, insert, inserting, many_threads,
    store_with,
};
use crate::support::{count, read_or_fail, with_longer_limits, write_or_fail};

fn rows(tx: &ReadTx<'_>) -> Result<i64> {
    tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
}

fn one_reader() -> Store {
    store_with(Options::new().readers(1))
}

/// Puts the reads in the queue behind one that is held, so that they are there together when it is let go.
#[track_caller]
fn together<T: std::fmt::Debug>(store: &Store, mut reads: Vec<Call<T>>) -> Vec<Result<T>> {
    let held = HeldRead::hold(store);
    reads.iter_mut().for_each(begin);
    held.let_go();
    reads.into_iter().map(finish).collect()
}

// ---- the threads ----

const THREADS: &str = "/proc/self/task";

/// Names of threads are the whole process's, so this has one of its own.
pub(crate) fn child(_: &child::Task) {
    for first in [
        |store: &Store| finish(store.read_async(rows)),
        |store: &Store| finish(store.read_async_with(read_or_fail(), rows)),
    ] {
        let store = store_with(Options::new().readers(3));
        store.write(|tx| insert(tx, 1)).unwrap();
        finish(inserting(&store, 2)).unwrap();
        assert_eq!(count(&store), 2);
        drop(counting(&store));
        tell(reader_threads());
        assert_eq!(first(&store).unwrap(), 2);
        // A thread gives itself its name, when it comes to it; and none starts later.
        wait_for_reader_threads(3);
        finish(counting(&store)).unwrap();
        tell(reader_threads());
        store.close().unwrap();
        wait_for_reader_threads(0);
    }
}

fn reader_threads() -> usize {
    let threads = fs::read_dir(THREADS).unwrap();
    // One that has ended meanwhile has no name.
    let names = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("larder-read-")).count()
}

fn wait_for_reader_threads(number: usize) {
    let began = Instant::now();
    while reader_threads() != number {
        assert!(began.elapsed() < PATIENCE, "{} threads", reader_threads());
        thread::yield_now();
    }
}

#[test]
fn reader_threads_start_with_first_async_read() {
    if !fs::exists(THREADS).unwrap() {
        return child::skipped("only Linux says which threads there are");
    }
    let child = Child::start("read::async_reads", "whose threads are counted", &[]);
    for _ in 0..2 {
        child.expect("0");
        child.expect("3");
    }
    child.finish();
}

// ---- as new as what was acknowledged ----

const READ_BOTH: &str =
    "SELECT (SELECT max(n) FROM versions WHERE id = ?1), (SELECT max(n) FROM versions WHERE id = 0)";

/// Counts up the task's own row and the one that all share, and gives the latter.
async fn count_up(store: &Store, task: i64, round: i64) -> i64 {
    let write = store.write_async(move |tx| {
        tx.execute("INSERT OR REPLACE INTO versions VALUES (?1, ?2)", [task, round])?;
        tx.execute("UPDATE versions SET n = n + 1 WHERE id = 0", [])?;
        tx.query_row("SELECT n FROM versions WHERE id = 0", [], |row| row.get(0))
    });
    write.await.unwrap()
}

async fn see_both(store: &Store, task: i64) -> (Option<i64>, i64) {
    let read = store.read_async(move |tx| tx.query_row(READ_BOTH, [task], |row| Ok((row.get(0)?, row.get(1)?))));
    read.await.unwrap()
}

#[test]
fn async_read_sees_writes_acknowledged_before() {
    for readers in [1, 4] {
        let store = store_with(Options::new().readers(readers));
        let table =
            "CREATE TABLE versions(id INTEGER PRIMARY KEY, n INTEGER) STRICT; INSERT INTO versions VALUES (0, 0)";
        store.write(move |tx| tx.execute_batch(table)).unwrap();
        let newest = Arc::new(AtomicI64::new(0));
        many_threads().block_on(async {
            let tasks: Vec<_> = (1..=24)
                .map(|task| {
                    let (store, newest) = (store.clone(), Arc::clone(&newest));
                    tokio::spawn(async move {
                        for round in 1..=60 {
                            // A third of them only reads.
                            let writes = task % 3 > 0;
                            if writes {
                                let version = count_up(&store, task, round).await;
                                newest.fetch_max(version, Ordering::SeqCst);
                            }
                            // What any task was told before this read is asked for.
                            let at_least = newest.load(Ordering::SeqCst);
                            let (own, shared) = see_both(&store, task).await;
                            assert_eq!(own, writes.then_some(round));
                            assert!(shared >= at_least, "a stale read: {shared} < {at_least}");
                        }
                    })
                })
                .collect();
            for task in tasks {
                tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            }
        });
    }
}

/// The first read of a snapshot makes a write, as others may meanwhile. Another that was asked for before may be in the
/// same snapshot, and then it does not see that; one that was asked for after it must not be.
#[test]
fn shared_snapshot_is_never_older_than_a_request() {
    let store = one_reader();
    let mut shared = 0;
    let began = Instant::now();
    for before in 0.. {
        let held = HeldRead::hold(&store);
        let (acknowledged, is_acknowledged) = channel();
        let (asked, is_asked) = channel::<()>();
        let inside = store.clone();
        let mut first = Box::pin(store.read_async(move |tx| {
            let seen = rows(tx)?;
            inside.write(move |tx| insert(tx, before + 1))?;
            acknowledged.send(()).unwrap();
            let _ = is_asked.recv();
            Ok(seen)
        }));
        let mut second = counting(&store);
        begin(&mut first);
        begin(&mut second);
        held.let_go();
        hear(&is_acknowledged);
        let mut third = counting(&store);
        begin(&mut third);
        drop(asked);
        assert_eq!(finish(first).unwrap(), before);
        let second = finish(second).unwrap();
        assert!(second == before || second == before + 1, "{second}");
        shared += i64::from(second == before);
        assert_eq!(finish(third).unwrap(), before + 1, "it was asked for after the write");
        // Whether they share one is a matter of time: no more than some milliseconds.
        if before >= 100 && shared > 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no two reads ever share a snapshot");
    }
}

#[test]
fn bindings_do_not_reach_next_read_in_snapshot() {
    static BOTH: &str = "SELECT :a, :b";
    type Pair = (Option<i64>, Option<i64>);
    let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let store = one_reader();
    let both = || -> Call<Pair> {
        Box::pin(store.read_async(move |tx| tx.query_row(BOTH, named_params! {":a": 1, ":b": 2}, pair)))
    };
    let only_a =
        || -> Call<Pair> { Box::pin(store.read_async(move |tx| tx.query_row(BOTH, named_params! {":a": 3}, pair))) };
    let pairs = together(&store, vec![both(), both(), only_a(), both()]);
    let pairs: Vec<_> = pairs.into_iter().map(|pair| pair.unwrap()).collect();
    let whole = (Some(1), Some(2));
    assert_eq!(pairs, [whole, whole, (Some(3), None), whole]);
}

#[test]
fn changed_schema_is_seen_by_next_read() {
    for readers in [1, 3] {
        let store = store_with(Options::new().readers(readers));
        finish(inserting(&store, 1)).unwrap();
        let columns = |tx: &ReadTx<'_>| tx.query_row("SELECT * FROM t", [], |row| Ok(row.as_ref().column_count()));
        for n in 1..=30 {
            let change = format!("ALTER TABLE t ADD COLUMN c{n} INTEGER");
            finish(store.write_async(move |tx| tx.execute_batch(&change))).unwrap();
            let reads: Vec<_> = (0..3).map(|_| store.read_async(columns)).collect();
            for read in reads {
                assert_eq!(finish(read).unwrap(), n + 1);
            }
        }
    }
}

// ---- long reads ----

#[test]
fn long_reads_delay_none_while_threads_are_free() {
    for stuck in 1..=3 {
        let store = store_with(Options::new().readers(4));
        finish(inserting(&store, 1)).unwrap();
        let held: Vec<_> = (0..stuck).map(|_| HeldRead::hold(&store)).collect();
        let reads: Vec<_> = (0..50).map(|_| asked(counting(&store))).collect();
        for read in reads {
            assert_eq!(finish(read).unwrap(), 1);
        }
        held.into_iter().for_each(HeldRead::let_go);
    }
}

/// A read that waits to be let go, among others.
fn stuck_read(store: &Store) -> (Sender<()>, Call<i64>) {
    let (let_go, told) = channel::<()>();
    let read = store.read_async(move |tx| {
        let _ = told.recv();
        rows(tx)
    });
    (let_go, Box::pin(read))
}

/// Nobody can know beforehand which of them is long: it has those behind it in its group, or takes them from the queue.
#[test]
fn unexpectedly_long_reads_delay_none_behind_them() {
    for readers in [2, 4] {
        let store = store_with(Options::new().readers(readers));
        for round in 0..10 {
            let (mut let_go, mut long, mut short) = (Vec::new(), Vec::new(), Vec::new());
            for place in 0..40 {
                if place % 10 == round && long.len() + 1 < readers as usize {
                    let (tell, read) = stuck_read(&store);
                    let_go.push(tell);
                    long.push(asked(read));
                } else {
                    short.push(asked(counting(&store)));
                }
            }
            short.into_iter().for_each(|read| assert_eq!(finish(read).unwrap(), 0));
            drop(let_go);
            long.into_iter().for_each(|read| assert_eq!(finish(read).unwrap(), 0));
        }
    }
}

#[test]
fn async_read_times_out_if_readers_are_stuck() {
    let store = store_with(Options::new().readers(3));
    let held: Vec<_> = (0..3).map(|_| HeldRead::hold(&store)).collect();
    let time = Duration::from_millis(50);
    let began = Instant::now();
    let read = finish(store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(())));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    match &read {
        Err(Error::ReadQueueTimeout { waited, readers: 3, .. }) => assert!(*waited >= time, "{waited:?}"),
        other => panic!("{other:?}"),
    }
    let error = read.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    let sentence = error.to_string();
    assert!(
        sentence.contains("3 in the pool") && sentence.contains("Options::readers"),
        "{sentence}"
    );
    held.into_iter().for_each(HeldRead::let_go);
    assert_eq!(finish(counting(&store)).unwrap(), 0);
}

#[test]
fn async_read_times_out_if_threads_hold_connections() {
    let store = store_with(Options::new().readers(2));
    let (all_in, release) = (Barrier::new(3), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                store.read(|_| {
                    all_in.wait();
                    release.wait();
                    Ok(())
                })
            });
        }
        all_in.wait();
        let mut patient: Vec<_> = (0..5).map(|_| counting(&store)).collect();
        patient.iter_mut().for_each(begin);
        // Longer and shorter than it takes a reader thread to look whether the store has closed.
        let told: Vec<_> = [10, 120]
            .into_iter()
            .map(|ms| {
                let time = Duration::from_millis(ms);
                let read = store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(()));
                (finish(read), time)
            })
            .collect();
        release.wait();
        for (read, time) in told {
            match read {
                Err(Error::ReadQueueTimeout { waited, readers: 2, .. }) => assert!(waited >= time, "{waited:?}"),
                other => panic!("{other:?}"),
            }
        }
        patient
            .into_iter()
            .for_each(|read| assert_eq!(finish(read).unwrap(), 0));
    });
}

#[test]
fn reader_age_limit_applies_to_each_read_alone() {
    with_longer_limits(Duration::from_millis(400), |age| {
        let store = store_with(
            Options::new()
                .readers(1)
                .max_reader_age(age)
                .interrupt_old_readers(true),
        );
        // When each closure began and ended.
        let times = Arc::new(Mutex::new([None::<(Instant, Instant)>; 5]));
        let read = |place: usize| -> Call<i64> {
            let sql = if place % 2 == 1 {
                ENDLESS
            } else {
                "SELECT count(*) FROM t"
            };
            let times = Arc::clone(&times);
            Box::pin(store.read_async(move |tx| {
                let began = Instant::now();
                let result = tx.query_row(sql, [], |row| row.get(0));
                times.lock().unwrap()[place] = Some((began, Instant::now()));
                result
            }))
        };
        let is_too_old =
            |result: &Result<i64>| matches!(result, Err(Error::Interrupted { limit, .. }) if *limit == age);
        let held = HeldRead::hold(&store);
        let mut reads: Vec<_> = (0..5).map(read).collect();
        reads.iter_mut().for_each(begin);
        let released = Instant::now();
        held.let_go();
        let results: Vec<_> = reads.into_iter().map(finish).collect();
        let all_ended = Instant::now();
        let times = times.lock().unwrap();
        let mut are_young = true;
        for (place, result) in results.iter().enumerate() {
            if place % 2 == 1 {
                assert!(is_too_old(result), "{place}: {result:?}");
            } else if is_too_old(result) {
                // One reader runs them in order, so this one ran within the time from the end of the one before it to the
                // beginning of the next. A busy machine may make that as long as the limit.
                let (before, after) = (&times[..place], &times[place + 1..]);
                let began = before
                    .iter()
                    .flatten()
                    .next_back()
                    .map_or(released, |(_, ended)| *ended);
                let ended = after.iter().flatten().next().map_or(all_ended, |(began, _)| *began);
                let ran = ended - began;
                assert!(ran >= age, "{place}: {ran:?} of {age:?}: {result:?}");
                are_young = false;
            } else {
                assert!(matches!(result, Ok(0)), "{place}: {result:?}");
            }
        }
        are_young.then_some(())
    });
}

// ---- neighbours ----

#[test]
fn panicking_read_harms_no_neighbour() {
    let store = one_reader();
    let panicking = || -> Call<i64> { Box::pin(store.read_async(|_| resume_unwind(Box::new("boom")))) };
    let held = HeldRead::hold(&store);
    let (mut before, mut bad, mut after) = (counting(&store), panicking(), counting(&store));
    [&mut before, &mut bad, &mut after].into_iter().for_each(begin);
    held.let_go();
    let panicked = catch_unwind(AssertUnwindSafe(|| finish(bad)));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"boom"));
    assert_eq!(finish(before).unwrap() + finish(after).unwrap(), 0);
    finish(inserting(&store, 1)).unwrap();
    assert_eq!(finish(counting(&store)).unwrap(), 1);
}

#[test]
fn leaked_rows_of_read_leave_no_old_snapshot() {
    for leak in [leak_statement_and_rows, leak_rows_of_a_cached_statement] {
        for panics in [false, true] {
            let store = one_reader();
            for id in 1..=3 {
                finish(inserting(&store, id)).unwrap();
            }
            let leaking = || {
                store.read_async(move |tx| {
                    leak(tx)?;
                    if panics {
                        resume_unwind(Box::new("after the leak"));
                    }
                    Ok(0)
                })
            };
            let held = HeldRead::hold(&store);
            let mut reads: Vec<Call<i64>> = vec![Box::pin(leaking()), Box::pin(leaking()), counting(&store)];
            reads.iter_mut().for_each(begin);
            held.let_go();
            assert_eq!(finish(reads.pop().unwrap()).unwrap(), 3);
            for read in reads {
                assert_eq!(catch_unwind(AssertUnwindSafe(|| finish(read))).is_err(), panics);
            }
            finish(inserting(&store, 4)).unwrap();
            assert_eq!(finish(counting(&store)).unwrap(), 4, "a snapshot is left open");
            assert_eq!(count(&store), 4);
            assert!(store.close().unwrap().wal_truncated);
        }
    }
}

/// The fence stops mistakes, not a closure that takes it away. Those in its group do not suffer.
#[test]
fn read_that_ends_transaction_is_last_in_snapshot() {
    let store = one_reader();
    let ending = || -> Call<i64> {
        Box::pin(store.read_async(|tx| {
            let conn: &Connection = tx;
            conn.authorizer(None::<fn(rusqlite::hooks::AuthContext<'_>) -> rusqlite::hooks::Authorization>)?;
            conn.execute_batch("COMMIT")?;
            Ok(-1)
        }))
    };
    let reads = vec![counting(&store), ending(), counting(&store), ending(), counting(&store)];
    let well: Vec<_> = together(&store, reads).into_iter().map(Result::ok).collect();
    assert_eq!(well, [Some(0), None, Some(0), None, Some(0)]);
    finish(inserting(&store, 1)).unwrap();
    assert_eq!(finish(counting(&store)).unwrap(), 1);
}

#[test]
fn read_that_fails_midway_harms_no_neighbour() {
    let store = one_reader();
    for id in 1..=3 {
        finish(inserting(&store, id)).unwrap();
    }
    let fail: fn(&ReadTx<'_>) -> Result<i64> = |tx| {
        let mut seen = 0;
        tx.query_each("SELECT id FROM t", [], |_| {
            seen += 1;
            if seen == 2 {
                Err(rusqlite::Error::InvalidQuery)
            } else {
                Ok(())
            }
        })?;
        Ok(0)
    };
    let fail_bare: fn(&ReadTx<'_>) -> Result<i64> = |tx| {
        let conn: &Connection = tx;
        let mut statement = conn.prepare("SELECT id FROM t")?;
        let mut rows = statement.query([])?;
        rows.next()?;
        Err(Error::app("midway"))
    };
    for bad in [fail, fail_bare] {
        let bad = || -> Call<i64> { Box::pin(store.read_async(bad)) };
        let results = together(&store, vec![bad(), counting(&store), bad(), bad(), counting(&store)]);
        let well: Vec<_> = results.iter().map(|result| result.as_ref().ok().copied()).collect();
        assert_eq!(well, [None, Some(3), None, None, Some(3)]);
    }
}

#[test]
fn refused_sql_is_reported_to_its_read_only() {
    let store = one_reader();
    let run = |sql: &'static str| -> Call<i64> {
        Box::pin(store.read_async(move |tx| tx.query_row(sql, [], |row| row.get(0))))
    };
    let swallowed: Call<i64> = Box::pin(store.read_async(|tx| {
        let conn: &Connection = tx;
        for sql in ["DELETE FROM t", "COMMIT", "ATTACH 'x' AS y", "PRAGMA query_only = OFF"] {
            assert!(conn.execute_batch(sql).is_err());
        }
        rows(tx)
    }));
    let reads = vec![
        run("INSERT INTO t VALUES (1) RETURNING id"),
        run("SELECT nothing"),
        swallowed,
        run("SELECT nothing"),
        run("COMMIT"),
        counting(&store),
    ];
    let mut results = together(&store, reads).into_iter();
    let mut next = || results.next().unwrap();
    assert!(matches!(next(), Err(Error::Refused { .. })));
    assert!(matches!(next(), Err(Error::Sqlite { .. })));
    assert!(matches!(next(), Ok(0)));
    assert!(matches!(next(), Err(Error::Sqlite { .. })));
    assert!(matches!(next(), Err(Error::Refused { .. })));
    assert!(matches!(next(), Ok(0)));
}

// ---- inside each other ----

#[track_caller]
fn assert_reentrant<T: std::fmt::Debug>(result: Result<T>, name: &str) {
    match result {
        Err(error @ Error::Reentrant { call, .. }) => {
            assert_eq!(call, name);
            assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn async_read_inside_another_is_reentrant() {
    let store = store_with(Options::new());
    let inside = store.clone();
    let (all, tried) = finish(store.read_async(move |_| {
        let options = ReadOptions::new();
        let all = [finish(counting(&inside)), finish(inside.read_async_with(options, rows))];
        Ok((all, finish(inside.read_async_with(read_or_fail(), rows))))
    }))
    .unwrap();
    let [plain, with] = all;
    assert_reentrant(plain, "read_async");
    assert_reentrant(with, "read_async");
    assert_reentrant(tried, "read_async");
    assert_eq!(finish(counting(&store)).unwrap(), 0);
}

#[test]
fn awaiting_read_queued_behind_itself_is_reentrant() {
    let store = one_reader();
    let (give, take) = channel::<Call<i64>>();
    let mut outer = Box::pin(store.read_async(move |_| Ok(finish(hear(&take)))));
    begin(&mut outer);
    let mut inner = counting(&store);
    begin(&mut inner);
    give.send(inner).unwrap();
    assert_reentrant(finish(outer).unwrap(), "Pending::poll");
    assert_eq!(finish(counting(&store)).unwrap(), 0);
}

#[test]
fn async_write_inside_a_write_is_reentrant() {
    let store = store_with(Options::new());
    let inside = store.clone();
    let (plain, [with, tried]) = finish(store.write_async(move |_| {
        let with = finish(inside.write_async_with(WriteOptions::new(), |tx| insert(tx, 1)));
        let tried = finish(inside.write_async_with(write_or_fail(), |tx| insert(tx, 1)));
        Ok((finish(inserting(&inside, 1)), [with, tried]))
    }))
    .unwrap();
    assert_reentrant(plain, "write_async");
    assert_reentrant(with, "write_async");
    assert_reentrant(tried, "write_async");
    let (give, take) = channel::<Call<i64>>();
    let mut outer = Box::pin(store.write_async(move |_| Ok(finish(hear(&take)))));
    begin(&mut outer);
    let mut inner = inserting(&store, 2);
    begin(&mut inner);
    give.send(inner).unwrap();
    assert_reentrant(finish(outer).unwrap(), "Pending::poll");
    assert_eq!(count(&store), 0, "its future was dropped before it started");
}

#[test]
fn blocking_read_inside_async_read_fails_without_connection() {
    let store = one_reader();
    let inside = store.clone();
    let alone = finish(store.read_async(move |_| Ok(inside.read(rows)))).unwrap();
    assert_reentrant(alone, "read");

    let store = store_with(Options::new().readers(2));
    let both_in = Arc::new(Barrier::new(2));
    let nested: Vec<_> = (0..2)
        .map(|_| {
            let (inside, both_in) = (store.clone(), Arc::clone(&both_in));
            let read = store.read_async(move |_| {
                both_in.wait();
                let options = ReadOptions::new().queue_timeout(Duration::from_millis(50));
                let nested = inside.read_with(options, rows);
                both_in.wait();
                Ok(nested)
            });
            asked(Box::pin(read))
        })
        .collect();
    for read in nested {
        let read = finish(read).unwrap();
        assert!(
            matches!(read, Err(Error::ReadQueueTimeout { held_here: 1, .. })),
            "{read:?}"
        );
    }
    let inside = store.clone();
    assert_eq!(finish(store.read_async(move |_| inside.read(rows))).unwrap(), 0);
}

#[test]
fn read_inside_write_and_reverse_work() {
    let store = store_with(Options::new());
    let inside = store.clone();
    let seen = finish(store.write_async(move |tx| {
        insert(tx, 1)?;
        finish(counting(&inside))
    }));
    assert_eq!(seen.unwrap(), 0, "it is not committed yet");
    let inside = store.clone();
    let written = finish(store.read_async(move |tx| {
        finish(inserting(&inside, 2))?;
        inside.write(|tx| insert(tx, 3))?;
        rows(tx)
    }));
    assert!(written.unwrap() <= 3);
    assert_eq!(count(&store), 3);
}

// ---- a group has an end ----

/// Queues so many reads that count the rows, all asked for before the first of them begins; that one sees no row, then
/// writes one, and does `then`. What each has counted: none, in the snapshot of the first, and one, in a later one.
fn counts_behind_a_read_that_writes(reads: usize, then: impl FnOnce() + Send + 'static) -> Vec<i64> {
    let store = store_with(Options::new().readers(1));
    let held = HeldRead::hold(&store);
    let writes = store.clone();
    let mut first: Call<i64> = Box::pin(store.read_async(move |tx| {
        let before = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
        writes.write(|tx| insert(tx, 1))?;
        then();
        Ok(before)
    }));
    begin(&mut first);
    let mut behind: Vec<_> = (1..reads).map(|_| counting(&store)).collect();
    behind.iter_mut().for_each(begin);
    held.let_go();
    let calls = std::iter::once(first).chain(behind);
    calls.map(|call| finish(call).unwrap()).collect()
}

#[test]
fn snapshot_is_shared_by_bounded_number_of_reads() {
    let counts = counts_behind_a_read_that_writes(1000, || {});
    let shared = counts.iter().filter(|count| **count == 0).count();
    assert!(shared <= 256, "{shared} reads in one snapshot");
    assert!(counts.is_sorted(), "they are made in their order: {counts:?}");
    assert_eq!(counts.last(), Some(&1));
}

#[test]
fn no_read_joins_an_old_snapshot() {
    // The subject: time goes by.
    let counts = counts_behind_a_read_that_writes(2, || thread::sleep(Duration::from_millis(50)));
    assert_eq!(counts, [0, 1]);
}
