//! The keeper in a store.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::{fs, thread};

use rusqlite::Connection;

use super::*;
use crate::engine::Engine;
use crate::options::{OnConnect, ReadOptions, Role, Settings, WriteOptions};
use crate::queue::slot::Caller;
use crate::runtime::sync::Arc;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log that is not worth a comparison: two checkpoints' worth of pages.
const LOG: u64 = 8 << 20;

fn open(folder: &Path, settings: Settings) -> Engine {
    let path = folder.join("app.db");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t(data)")
        .unwrap();
    other.close().unwrap();
    Engine::open(settings, &path, None, PATIENCE, None).unwrap()
}

fn count(engine: &Engine) -> i64 {
    let read = engine.read(ReadOptions::new(), |tx| {
        tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    });
    read.unwrap()
}

/// The least work of a read.
fn read(engine: &Engine) {
    let read = engine.read(ReadOptions::new(), |tx| tx.exists("SELECT 1", []));
    assert!(read.unwrap());
}

fn write(engine: &Engine) {
    let write = |tx: &crate::WriteTx<'_>| tx.execute("INSERT INTO t VALUES (zeroblob(2000))", []);
    let pending = engine.enqueue_write("write", WriteOptions::new(), Caller::Thread, write);
    assert_eq!(pending.unwrap().wait().unwrap(), 1);
}

fn keeper(engine: &Engine) -> &Keeper {
    &engine.readers.keeper
}

fn holds_newest(engine: &Engine) -> bool {
    keeper(engine).kept.load(Relaxed) == keeper(engine).commits.load(Relaxed)
}

fn holds_none(engine: &Engine) -> bool {
    keeper(engine).kept.load(Relaxed) == NONE
}

fn is_paused(engine: &Engine) -> bool {
    !is_past(keeper(engine).held.lock().paused_until)
}

fn is_past(tick: Tick) -> bool {
    tick.nanos() <= Tick::now().nanos()
}

/// Reads until `is_so`.
fn read_until(engine: &Engine, mut is_so: impl FnMut(&Engine) -> bool) {
    let began = Instant::now();
    while !is_so(engine) {
        assert!(began.elapsed() < PATIENCE, "it never came to be");
        read(engine);
    }
}

/// Reads for a while, and checks `is_so` after each.
fn read_while(engine: &Engine, is_so: impl Fn(&Engine) -> bool) {
    for _ in 0..5000 {
        read(engine);
        assert!(is_so(engine));
    }
}

#[test]
fn reads_renew_keeper_after_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    for commits in 0..20 {
        read_until(&engine, holds_newest);
        assert_eq!(keeper(&engine).commits.load(Relaxed), commits);
        write(&engine);
        assert_eq!(count(&engine), commits as i64 + 1);
    }
}

#[test]
fn keeper_without_reads_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let began = Instant::now();
    while !holds_none(&engine) {
        assert!(began.elapsed() < PATIENCE, "it holds its snapshot for good");
        thread::yield_now();
    }
}

#[test]
fn reads_leave_keeper_alone_during_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let aside = engine.readers.stand_aside();
    assert!(holds_none(&engine));
    read_while(&engine, holds_none);
    drop(aside);
    read_until(&engine, holds_newest);
}

#[test]
fn keeper_pauses_beside_another_writer() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Connection::open(engine.path()).unwrap();
            other.busy_timeout(PATIENCE).unwrap();
            let began = Instant::now();
            // It ends, too, if the keeper never pauses.
            while !end.load(Relaxed) && began.elapsed() < PATIENCE {
                other.execute("INSERT INTO t VALUES (1)", []).unwrap();
            }
        });
        read_until(&engine, is_paused);
        end.store(true, Relaxed);
    });
    let until = keeper(&engine).held.lock().paused_until;
    read_while(&engine, |engine| holds_none(engine) || is_past(until));
    read_until(&engine, holds_newest);
    assert!(is_past(until));
}

#[test]
fn own_commits_pause_no_keeper() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let opened = Tick::now();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3000 {
                write(&engine);
            }
            end.store(true, Relaxed);
        });
        read_until(&engine, |_| end.load(Relaxed));
    });
    assert!(keeper(&engine).held.lock().paused_until.nanos() <= opened.nanos());
}

#[test]
fn keeper_rests_where_it_does_not_pay() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let began = Instant::now();
    let rest = || keeper(&engine).held.lock().rest;
    while rest() < LONGEST_REST {
        assert!(began.elapsed() < PATIENCE, "one read a commit pays");
        write(&engine);
        read(&engine);
    }
    read_until(&engine, holds_newest);
    write(&engine);
    // The last snapshot has served many reads, unless it ended before the commit.
    while rest() == LONGEST_REST {
        assert!(began.elapsed() < PATIENCE, "many reads a commit do not pay");
        read_until(&engine, holds_newest);
        (0..100).for_each(|_| read(&engine));
        write(&engine);
        read(&engine);
    }
}

#[test]
fn exclusive_store_has_no_keeper() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        access: Access::Exclusive,
        ..Settings::default()
    };
    let engine = open(folder.path(), settings);
    read_while(&engine, holds_none);
    assert!(matches!(keeper(&engine).held.lock().state, State::Closed));
}

#[test]
fn reads_go_on_without_a_connection_for_the_keeper() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let opened = Arc::new(AtomicUsize::new(0));
    let number = Arc::clone(&opened);
    // One looks at the database, and one reads.
    let settings = Settings {
        on_connect: Some(OnConnect::new(move |_: &Connection, role| {
            if role == Role::Reader && number.fetch_add(1, Relaxed) >= 2 {
                return Err(rusqlite::Error::InvalidQuery.into());
            }
            Ok(())
        })),
        ..Settings::default()
    };
    let engine = open(folder.path(), settings);
    read_until(&engine, is_paused);
    read_while(&engine, holds_none);
    // It tries again after a second, and then more rarely.
    let attempts = opened.load(Relaxed) - 2;
    assert!(attempts as u64 <= 1 + began.elapsed().as_secs(), "{attempts} attempts");
}

#[test]
fn closed_keeper_stays_closed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    engine.readers.close_keeper();
    read_while(&engine, holds_none);
}

#[test]
fn keeper_is_switched_off_during_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let aside = engine.readers.stand_aside();
    // It does not wait for the checkpoint.
    engine.readers.switch_off_keeper();
    drop(aside);
    read_while(&engine, holds_none);
    assert!(engine.readers.close(Instant::now() + PATIENCE).is_ok());
}

#[test]
fn keeper_is_not_a_read() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    read_until(&engine, holds_newest);
    let stats = engine.readers.stats();
    assert_eq!((stats.open, stats.in_use, stats.oldest_read.is_none()), (1, 0, true));
}

#[test]
fn closing_empties_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    write(&engine);
    read_until(&engine, holds_newest);
    let report = engine.close(PATIENCE);
    assert!(report.wal_truncated, "{report}");
}

/// Does it so many times. Returns the longest time that one took.
fn longest_of(times: u32, work: impl Fn()) -> Duration {
    let took = |_| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..times).map(took).max().unwrap_or_default()
}

/// Runs `work` beside busy readers, with the keeper or without. Returns the longest read, too, or the longest time that the
/// machine kept a thread from going on that sleeps for a millisecond at a time, as the timer's may have been.
fn beside_readers<T>(keeps: bool, readers: usize, work: impl FnOnce(&Engine) -> T) -> (T, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), Settings::default());
    if !keeps {
        engine.readers.close_keeper();
    }
    let end = AtomicBool::new(false);
    let longest = || {
        let (mut longest, mut began) = (Duration::ZERO, Instant::now());
        read_until(&engine, |_| {
            longest = longest.max(mem::replace(&mut began, Instant::now()).elapsed());
            end.load(Relaxed)
        });
        longest
    };
    thread::scope(|scope| {
        let mut threads: Vec<_> = (0..readers).map(|_| scope.spawn(longest)).collect();
        threads.push(scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !end.load(Relaxed) {
                longest = longest.max(longest_of(1, || thread::sleep(Duration::from_millis(1))));
            }
            longest
        }));
        let done = work(&engine);
        end.store(true, Relaxed);
        let longest = threads.into_iter().map(|thread| thread.join().unwrap()).max();
        (done, longest.unwrap())
    })
}

#[test]
fn keeper_does_not_make_the_log_grow() {
    log_is_no_larger_with_keeper(8, |engine| {
        let longest = longest_of(6000, || write(engine));
        let counters = &engine.telemetry.counters;
        assert_eq!(counters.external_commits.total(), 0);
        (counters.largest_wal_bytes.get(), longest)
    });
}

/// Compares the logs of both. A read, a write or a release of the keeper's snapshot that the machine keeps from ending makes
/// any log large, so such an attempt tells nothing. `log` returns the longest write, too.
fn log_is_no_larger_with_keeper(readers: usize, log: impl Fn(&Engine) -> (u64, Duration)) {
    for attempt in 1.. {
        let [((without, _), _), ((with, write), other)] =
            [false, true].map(|keeps| beside_readers(keeps, readers, &log));
        if with <= 2 * without.max(LOG) {
            return;
        }
        let longest = write.max(other);
        assert!(
            attempt < 5 && longest > Duration::from_millis(50),
            "{with} bytes with the keeper, {without} without, and nothing took longer than {longest:?}"
        );
    }
}

/// The store does not know of these commits, as if they were another process's.
fn write_as_another(engine: &Engine) -> Duration {
    let other = Connection::open(engine.path()).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    longest_of(12_000, || {
        other.execute("INSERT INTO t VALUES (zeroblob(2000))", []).unwrap();
    })
}

#[test]
fn keeper_leaves_the_log_to_another_writer() {
    log_is_no_larger_with_keeper(2, |engine| {
        let longest = write_as_another(engine);
        let log = fs::metadata(format!("{}-wal", engine.path().display())).unwrap();
        (log.len(), longest)
    });
}

#[test]
fn others_can_empty_the_log_beside_busy_readers() {
    beside_readers(true, 2, |engine| {
        let other = Connection::open(engine.path()).unwrap();
        for _ in 0..20 {
            other.execute("INSERT INTO t VALUES (1)", []).unwrap();
            let busy: bool = other
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .unwrap();
            assert!(!busy);
        }
    });
}
