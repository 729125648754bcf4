//! Helpers for several test modules.

pub(crate) mod child;
pub(crate) mod fork;
#[cfg(target_os = "linux")]
pub(crate) mod hanging_disk;
pub(crate) mod leaks;
pub(crate) mod log;
pub(crate) mod migrations;
#[cfg(feature = "replicate")]
pub(crate) mod outage;
pub(crate) mod ports;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "metrics")]
pub(crate) mod prometheus;
pub(crate) mod stalls;
#[cfg(feature = "async")]
pub(crate) mod tasks;
pub(crate) mod tokens;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "async")]
use larder::ReadOptions;
use larder::rusqlite::Connection;
use larder::rusqlite::config::DbConfig;
use larder::{Alert, AlertKind, Pending, Stats, Store, WhenFull, WriteOptions};

pub(crate) use stalls::{RaiseOnDrop, with_stalls};

/// Tries with that limit, then with twice as much and so on, until an attempt gives something. On a busy machine a short
/// limit passes before that has begun which it is to end.
#[track_caller]
pub(crate) fn with_longer_limits<T>(first: Duration, attempt: impl FnMut(Duration) -> Option<T>) -> T {
    let mut limits = (0..12)
        .map(|doubled| first * (1 << doubled))
        .take_while(|limit| *limit < Duration::from_secs(15));
    limits.find_map(attempt).expect("no limit was long enough")
}

/// The error of a read that waits in vain for a connection, and says why an opening failed. On a busy machine the time of
/// a read passes while the first opening goes on, or before it begins, and the next read tries again. `failing` counts
/// the calls of `on_connect` that are to fail, as they begin. A read after the second of them has begun says why, since
/// the first has failed by then.
#[track_caller]
pub(crate) fn timeout_after_failed_opening(
    failing: &AtomicUsize,
    mut read: impl FnMut() -> larder::Error,
) -> larder::Error {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let begun = failing.load(Ordering::SeqCst);
        let error = read();
        let larder::Error::ReadQueueTimeout { last_error, .. } = &error else {
            panic!("{error:?}");
        };
        let goes_on = |text: &String| {
            text == "a connection is being opened" || text.starts_with("opening a connection has taken")
        };
        if last_error.as_ref().is_some_and(|text| !goes_on(text)) {
            return error;
        }
        assert!(begun < 2 && Instant::now() < give_up, "after {begun} openings: {error}");
    }
}

/// What a read gives that is young enough for [`larder::Options::max_reader_age`]. A busy machine may make one old. A
/// read that is interrupted long before its limit was ended by what another one has left over, and fails.
#[track_caller]
pub(crate) fn young<T>(mut read: impl FnMut() -> larder::Result<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let began = Instant::now();
        match read() {
            Err(larder::Error::Interrupted { limit, .. }) if began.elapsed() >= limit / 2 && began < give_up => {}
            read => return read.unwrap(),
        }
    }
}

/// A reader of the database as it is now: for as long as it is there, no checkpoint empties the log of what is written from
/// now on. A store makes one once nobody has written for a second, which a busy machine may need for anything.
pub(crate) fn keep_log(path: &Path) -> Connection {
    let reader = Connection::open(path).unwrap();
    reader
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .unwrap();
    reader
}

/// Whether a healthy store may have that alert on a machine that is slow, or beside many other tests.
pub(crate) fn is_of_a_slow_machine(alert: &Alert) -> bool {
    use AlertKind::{LargeWal, OldRead, QueueFull, SlowQueue, StuckCheckpoint};
    matches!(alert.kind, SlowQueue | QueueFull | LargeWal | OldRead | StuckCheckpoint)
}

/// The alerts that no slow machine explains.
pub(crate) fn serious(stats: &Stats) -> Vec<Alert> {
    let alerts = stats.alerts.iter();
    alerts.filter(|alert| !is_of_a_slow_machine(alert)).cloned().collect()
}

/// A write that is running, and goes on until it is told something or the sender is dropped.
pub(crate) fn blocker(store: &Store) -> (Sender<()>, Pending<()>) {
    blocker_with(store, WriteOptions::new())
}

/// The same with a label or other options.
pub(crate) fn blocker_with(store: &Store, options: WriteOptions) -> (Sender<()>, Pending<()>) {
    let (let_go, told) = channel();
    let (running, runs) = channel();
    let pending = store
        .submit_with(options.queue_timeout(Duration::from_secs(600)), move |_tx| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    (let_go, pending)
}

/// For a write that fails if its queue is full.
pub(crate) fn write_or_fail() -> WriteOptions {
    WriteOptions::new().when_full(WhenFull::Fail)
}

/// For a read that fails if there is no room for it.
#[cfg(feature = "async")]
pub(crate) fn read_or_fail() -> ReadOptions {
    ReadOptions::new().when_full(WhenFull::Fail)
}

/// What the channel gives, which must come.
#[cfg(any(feature = "async", feature = "postgres"))]
#[track_caller]
pub(crate) fn hear<T>(from: &std::sync::mpsc::Receiver<T>) -> T {
    from.recv_timeout(child::PATIENCE).expect("it comes")
}

/// Rows in the table `t`.
pub(crate) fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}

/// Waits until that holds, of what comes after the replies, and gives the statistics in which it does.
#[track_caller]
pub(crate) fn until(store: &Store, mut holds: impl FnMut(&Stats) -> bool) -> Stats {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = store.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < give_up, "{stats:?}");
        thread::yield_now();
    }
}

/// Removes a folder into which a schedule of backups may put a file meanwhile.
pub(crate) fn remove_from_schedule(folder: &Path) {
    let give_up = Instant::now() + child::PATIENCE;
    while let Err(error) = fs::remove_dir_all(folder) {
        assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
        assert!(Instant::now() < give_up, "{error}");
    }
}

/// What is in a folder, in order, without the files that say whose backups are there.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".larder-series-"))
        .collect();
    names.sort();
    names
}
