//! Async reads that join a snapshot begun before they were requested: they see every commit made before the request, by
//! the store and by other processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, ReadOptions, Role, Store};
use rusqlite::Connection;

use crate::support::child::PATIENCE;
use crate::support::names_in;
use crate::support::tasks::{HeldRead, begin, counting, finish, insert, store_with};

/// A reader thread that has seen a commit goes without a look 16 times. Then it looks, and lets reads join, until it sees
/// the next commit, in every 20th round.
const ROUNDS: i64 = 80;
const QUIET: i64 = 20;

/// A store with one reader thread, and how many connections were opened to read it.
fn store_of_one_thread() -> (Store, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let options = Options::new().readers(1).on_connect(move |_, role| {
        if role == Role::Reader {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    (store_with(options), opened)
}

/// Number of connections besides the one at the start, the one that reads, and the keeper, which opens meanwhile.
fn opened_for_checks(opened: &AtomicUsize) -> usize {
    let began = Instant::now();
    while opened.load(Ordering::SeqCst) < 4 {
        assert!(began.elapsed() < PATIENCE, "a connection is missing");
        thread::yield_now();
    }
    opened.load(Ordering::SeqCst) - 3
}

/// In each round a read is asked for while the snapshot of another is open.
fn join_and_see(store: &Store, commit: impl Fn(i64)) {
    let mut committed = 0;
    for round in 1..=ROUNDS {
        let first = HeldRead::hold_after(store, |tx| tx.exists("SELECT 1 FROM t", []));
        if round % QUIET == 0 {
            commit(round);
            committed += 1;
        }
        let mut second = counting(store);
        begin(&mut second);
        first.let_go();
        assert_eq!(finish(second).unwrap(), committed, "in round {round}");
    }
}

#[test]
fn joining_reads_see_earlier_writes_of_the_store() {
    let (store, opened) = store_of_one_thread();
    join_and_see(&store, |id| {
        store.write(move |tx| insert(tx, id)).unwrap();
    });
    assert_eq!(opened_for_checks(&opened), 1);
    assert_eq!(store.stats().readers.open, 1, "one that looks does not count");
}

#[test]
fn joining_reads_see_earlier_commits_of_others() {
    let (store, _) = store_of_one_thread();
    let other = Connection::open(store.path()).unwrap();
    join_and_see(&store, |id| {
        other.execute("INSERT INTO t VALUES (?1)", [id]).unwrap();
    });
}

#[test]
fn close_includes_connections_of_freshness_checks() {
    let (store, opened) = store_of_one_thread();
    let folder = store.path().parent().unwrap().to_owned();
    join_and_see(&store, |id| {
        store.write(move |tx| insert(tx, id)).unwrap();
    });
    assert_eq!(opened_for_checks(&opened), 1);
    let database = store.path().file_name().unwrap().to_str().unwrap().to_owned();
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report:?}");
    assert_eq!(
        names_in(&folder),
        [database],
        "SQLite has removed the log with the last connection"
    );
}

#[test]
fn read_past_its_deadline_joins_no_snapshot() {
    let (store, _) = store_of_one_thread();
    for round in 0..QUIET {
        let first = HeldRead::hold_after(&store, |tx| tx.exists("SELECT 1 FROM t", []));
        let none = ReadOptions::new().queue_timeout(Duration::ZERO);
        let mut second = Box::pin(store.read_async_with(none, |_| Ok(())));
        begin(&mut second);
        first.let_go();
        let result = finish(second);
        assert!(
            matches!(result, Err(Error::ReadQueueTimeout { .. })),
            "{result:?} in round {round}"
        );
    }
}

#[test]
fn reads_work_if_freshness_connection_cannot_open() {
    for panics in [false, true] {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let options = Options::new().readers(1).on_connect(move |_, role| {
            let third = role == Role::Reader && count.fetch_add(1, Ordering::SeqCst) >= 2;
            assert!(!third || !panics, "by on_connect");
            if third { Err(Error::app("no more")) } else { Ok(()) }
        });
        let store = store_with(options);
        join_and_see(&store, |id| {
            store.write(move |tx| insert(tx, id)).unwrap();
        });
        assert!(opened.load(Ordering::SeqCst) > 3, "it is tried again");
    }
}
