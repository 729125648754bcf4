//! `submit_async`: a task that waits for room in the queue, and not for its write.

use std::sync::mpsc::channel;
use std::time::Duration;

use larder::{Error, Options, Outcome, Pending, Result, Store, WhenFull, WriteOptions};

use crate::support::blocker;
use crate::support::tasks::{self, Call, begin, finish, ids, insert, inserting};

/// A store whose queue has room for one write.
fn store() -> Store {
    tasks::store_with(Options::new().queue_capacity(1))
}

fn submitting(store: &Store, id: i64) -> Call<Pending<i64>> {
    Box::pin(store.submit_async(move |tx| insert(tx, id)))
}

fn submitting_with(store: &Store, options: WriteOptions, id: i64) -> Call<Pending<i64>> {
    Box::pin(store.submit_async_with(options, move |tx| insert(tx, id)))
}

#[test]
fn submission_resolves_before_its_write_runs() {
    let store = store();
    let (let_go, blocking) = blocker(&store);
    let queued = finish(submitting(&store, 1)).unwrap();
    assert_eq!(store.stats().queued, 1);
    let_go.send(()).unwrap();
    assert_eq!(finish(queued).unwrap(), 1);
    blocking.wait().unwrap();
    assert_eq!(ids(&store), [1]);
}

#[test]
fn room_that_is_freed_wakes_the_task() {
    let store = store();
    let (let_go, _blocking) = blocker(&store);
    let mut first = inserting(&store, 1);
    begin(&mut first);
    let mut second = submitting(&store, 2);
    begin(&mut second);
    std::thread::scope(|scope| {
        // Woken while the writer is blocked, by the place that the first leaves.
        let waiting = scope.spawn(|| finish(second));
        drop(first);
        let queued = waiting.join().unwrap().unwrap();
        let_go.send(()).unwrap();
        assert_eq!(finish(queued).unwrap(), 2);
    });
    assert_eq!(ids(&store), [2]);
}

#[test]
fn submissions_keep_their_order() {
    let store = store();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER PRIMARY KEY, id INTEGER) STRICT"))
        .unwrap();
    let (let_go, _blocking) = blocker(&store);
    let mut calls: Vec<Call<Pending<i64>>> = (0..5)
        .map(|n| {
            let insert = "INSERT INTO log(id) VALUES (?1)";
            Box::pin(store.submit_async(move |tx| tx.insert(insert, [n]))) as Call<_>
        })
        .collect();
    // The first has the place, and the others are in line.
    let first = finish(calls.remove(0)).unwrap();
    calls.iter_mut().for_each(begin);
    let_go.send(()).unwrap();
    finish(first).unwrap();
    for call in calls {
        finish(finish(call).unwrap()).unwrap();
    }
    let order: Vec<i64> = store
        .read(|tx| tx.scalars("SELECT id FROM log ORDER BY n", []))
        .unwrap();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[test]
fn dropped_submission_never_runs() {
    let store = store();
    let (let_go, blocking) = blocker(&store);
    let queued = finish(submitting(&store, 1)).unwrap();
    let mut in_line = submitting(&store, 2);
    begin(&mut in_line);
    drop(in_line);
    drop(submitting(&store, 3));
    // A dropped `Pending` lets its write go on.
    drop(queued);
    let_go.send(()).unwrap();
    blocking.wait().unwrap();
    store.write(|tx| insert(tx, 4)).unwrap();
    assert_eq!(ids(&store), [1, 4]);
}

#[test]
fn full_queue_refuses_or_times_out() {
    let store = store();
    let (let_go, _blocking) = blocker(&store);
    let queued = finish(submitting(&store, 1)).unwrap();
    let fail = WriteOptions::new().when_full(WhenFull::Fail);
    let error = finish(submitting_with(&store, fail, 2)).unwrap_err();
    assert!(matches!(error, Error::QueueFull { capacity: 1, .. }), "{error:?}");
    let soon = WriteOptions::new().queue_timeout(Duration::from_millis(20));
    let error = finish(submitting_with(&store, soon, 3)).unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    let_go.send(()).unwrap();
    finish(queued).unwrap();
    assert_eq!(ids(&store), [1]);
}

#[test]
fn closed_store_takes_no_submission() {
    let store = store();
    let (let_go, _blocking) = blocker(&store);
    let queued = finish(submitting(&store, 1)).unwrap();
    let mut in_line = submitting(&store, 2);
    begin(&mut in_line);
    let report = store.close_within(Duration::ZERO).unwrap();
    assert!(!report.wal_truncated);
    let late = finish(submitting(&store, 3)).unwrap_err();
    assert!(matches!(late, Error::Closed), "{late:?}");
    // Both of the others have a reply, which is that they did not start.
    for write in [queued, finish(in_line).unwrap()] {
        let error = finish(write).unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
    }
    let_go.send(()).unwrap();
}

#[test]
fn submission_inside_a_write_is_refused() {
    let store = store();
    let inside = store.clone();
    let (say, said) = channel();
    let submitted = store.submit(move |_| {
        let result: Result<_> = finish(submitting(&inside, 1));
        say.send(result.map(drop)).unwrap();
        Ok(())
    });
    submitted.unwrap().wait().unwrap();
    let error = said.recv().unwrap().unwrap_err();
    let Error::Reentrant { call, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(call, "submit_async");
    assert_eq!(ids(&store), [0_i64; 0]);
}
