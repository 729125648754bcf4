//! Closing a store that async tasks use: queued calls finish or fail as closed, and none hangs.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, Outcome, ReadOptions, Result, Store, WriteOptions};

use super::closing::TOO_LATE;
use crate::support::tasks::{
    Call, HeldRead, PATIENCE, begin, counting, create_table, finish, hear, ids, insert, inserting, many_threads,
    one_thread, poll, store_with,
};
use crate::support::{read_or_fail, until, write_or_fail};
use crate::write::groups::Gate;

#[track_caller]
fn assert_closed<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
}

/// Returns once the store takes no further writes, since somebody closes it. Until then its queue, of one, is full.
fn wait_until_closing(store: &Store) {
    let began = Instant::now();
    while !matches!(
        finish(store.write_async_with(write_or_fail(), |_| Ok(()))),
        Err(Error::Closed)
    ) {
        assert!(began.elapsed() < PATIENCE, "the store does not close");
        thread::yield_now();
    }
}

fn open(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    create_table(&store);
    store
}

#[test]
fn closing_finishes_writes_queued_by_tasks() {
    for queue in [1, 1000] {
        let store = store_with(Options::new().queue_capacity(queue));
        let gate = Gate::hold(&store);
        let mut writes: Vec<_> = (0..100).map(|id| inserting(&store, id)).collect();
        writes.iter_mut().for_each(begin);
        let mut closing = Box::pin(store.close_async());
        begin(&mut closing);
        if queue == 1 {
            wait_until_closing(&store);
        }
        gate.open();
        let report = finish(closing).unwrap();
        assert!(report.wal_truncated, "{report}");
        assert_eq!(report.never_started, 0, "{report}");
        for (id, write) in (0..).zip(writes) {
            assert_eq!(finish(write).unwrap(), id);
        }
        if queue == 1 {
            assert_eq!(report.finished, 101, "with the one that was running");
        }
    }
}

/// The thread that closing would block is the one that lets the writer go.
#[test]
fn closing_does_not_block_the_tasks_thread() {
    let store = store_with(Options::new().queue_capacity(1));
    let gate = Gate::hold(&store);
    let mut queued = inserting(&store, 1);
    begin(&mut queued);
    let report = one_thread().block_on(async {
        let closing = tokio::spawn(store.close_async());
        let other = tokio::spawn({
            let store = store.clone();
            async move {
                while !matches!(
                    store.write_async_with(write_or_fail(), |_| Ok(())).await,
                    Err(Error::Closed)
                ) {
                    tokio::task::yield_now().await;
                }
                gate.open();
            }
        });
        other.await.unwrap();
        tokio::time::timeout(PATIENCE, closing).await.unwrap().unwrap().unwrap()
    });
    assert!(report.wal_truncated, "{report}");
    assert_eq!(finish(queued).unwrap(), 1);
}

#[test]
fn async_calls_on_closed_store_fail_as_closed() {
    let store = store_with(Options::new());
    let made_before = (inserting(&store, 1), counting(&store));
    let read_before = (
        store.write_async_with(write_or_fail(), |_| Ok(())),
        store.read_async_with(read_or_fail(), |_| Ok(())),
    );
    finish(store.close_async()).unwrap();
    assert_closed(finish(made_before.0));
    assert_closed(finish(made_before.1));
    assert_closed(finish(read_before.0));
    assert_closed(finish(read_before.1));
    assert_closed(finish(store.write_async(|_| Ok(()))));
    assert_closed(finish(store.write_async_with(write_or_fail(), |_| Ok(()))));
    assert_closed(finish(store.read_async(|_| Ok(()))));
    assert_closed(finish(store.read_async_with(read_or_fail(), |_| Ok(()))));
    assert_closed(finish(store.write_async_with(WriteOptions::new(), |_| Ok(()))));
    assert_closed(finish(store.read_async_with(ReadOptions::new(), |_| Ok(()))));
}

#[test]
fn async_reads_on_store_closed_later_fail() {
    let store = store_with(Options::new());
    finish(counting(&store)).unwrap();
    finish(store.close_async()).unwrap();
    assert_closed(finish(counting(&store)));
    assert_closed(finish(store.read_async_with(read_or_fail(), |_| Ok(()))));
}

#[test]
fn reads_not_started_before_close_fail_as_closed() {
    let store = store_with(Options::new().readers(1));
    let held = HeldRead::hold(&store);
    let captured = Arc::new(());
    let mut queued: Vec<Call<()>> = (0..50)
        .map(|_| {
            let captured = Arc::clone(&captured);
            Box::pin(store.read_async(move |_| {
                drop(captured);
                Ok(())
            })) as Call<()>
        })
        .collect();
    queued.iter_mut().for_each(begin);
    let mut closing = Box::pin(store.close_async_within(PATIENCE));
    begin(&mut closing);
    // While the one that runs goes on.
    queued.into_iter().for_each(|read| assert_closed(finish(read)));
    // The closure is dropped after its reply, since that is user code.
    until(&store, |_| Arc::strong_count(&captured) == 1);
    begin(&mut closing);
    held.let_go();
    assert!(finish(closing).unwrap().wal_truncated);
}

#[test]
fn closing_names_the_running_read() {
    let names_it = || {
        let store = store_with(Options::new());
        let held = HeldRead::hold(&store);
        let report = finish(store.close_async_within(Duration::from_millis(50))).unwrap();
        assert!(!report.wal_truncated);
        held.let_go();
        let reason = report.wal_kept_because.unwrap();
        let names_it = reason.contains("a read is running");
        assert!(names_it || reason.starts_with(TOO_LATE), "{reason}");
        names_it
    };
    assert!((0..20).any(|_| names_it()));
}

#[test]
fn closing_with_stuck_write_reports_the_queued_ones() {
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let mut queued: Vec<_> = (0..20).map(|id| inserting(&store, id)).collect();
    queued.iter_mut().for_each(begin);
    let report = finish(store.close_async_within(Duration::from_millis(50))).unwrap();
    assert!(!report.wal_truncated);
    assert_eq!((report.finished, report.never_started), (0, 20), "{report}");
    let reason = report.wal_kept_because.as_deref().unwrap();
    assert!(reason.contains("still running"), "{reason}");
    queued.into_iter().for_each(|write| assert_closed(finish(write)));
    // It is not interrupted, and its caller is told the truth.
    gate.open();
}

#[test]
fn simultaneous_async_closes_get_the_same_report() {
    let store = store_with(Options::new().queue_capacity(1));
    let gate = Gate::hold(&store);
    let mut queued = inserting(&store, 1);
    begin(&mut queued);
    let mut closing: Vec<_> = (0..2).map(|_| Box::pin(store.close_async())).collect();
    closing.iter_mut().for_each(begin);
    wait_until_closing(&store);
    gate.open();
    let reports: Vec<_> = closing.into_iter().map(|closing| finish(closing).unwrap()).collect();
    assert_eq!(reports[0], reports[1]);
    assert!(reports[0].wal_truncated);
    assert_eq!(store.close().unwrap(), reports[0]);
    assert_eq!(finish(queued).unwrap(), 1);
}

#[test]
fn closing_inside_an_async_closure_is_reentrant() {
    let store = store_with(Options::new());
    let inside = store.clone();
    let in_write = finish(store.write_async(move |_| Ok(finish(inside.close_async())))).unwrap();
    let inside = store.clone();
    let in_read = finish(store.read_async(move |_| Ok(finish(inside.close_async_within(PATIENCE))))).unwrap();
    let inside = store.clone();
    let blocking = finish(store.read_async(move |_| Ok(inside.close()))).unwrap();
    for result in [in_write, in_read, blocking] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Reentrant { call: "close", .. }), "{error:?}");
    }
    finish(inserting(&store, 1)).unwrap();
    assert_eq!(finish(counting(&store)).unwrap(), 1, "it has not closed");
}

// ---- dropped instead ----

#[test]
fn write_futures_hold_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = open(&path);
    let gate = Gate::hold(&store);
    let mut queued: Vec<_> = (0..10).map(|id| inserting(&store, id)).collect();
    queued.iter_mut().for_each(begin);
    let (not_polled, read) = (inserting(&store, 99), counting(&store));
    let dropping = thread::spawn(move || drop(store));
    gate.open();
    dropping.join().unwrap();
    for (id, write) in (0..).zip(queued) {
        assert_eq!(finish(write).unwrap(), id);
    }
    // The drop was the last clone's.
    assert_closed(finish(not_polled));
    assert_closed(finish(read));
    assert_eq!(ids(&open(&path)), (0..10).collect::<Vec<_>>());
}

#[test]
fn write_dropped_with_its_store_while_running_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = open(&path);
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    let mut write = Box::pin(store.write_async(move |tx| {
        running.send(()).unwrap();
        let _ = told.recv();
        insert(tx, 7)
    }));
    begin(&mut write);
    hear(&runs);
    drop(write);
    let dropping = thread::spawn(move || drop(store));
    drop(let_go);
    dropping.join().unwrap();
    assert_eq!(ids(&open(&path)), [7]);
}

#[test]
fn last_clone_dropped_inside_async_read_closes_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    for round in 0..20 {
        let store = open(&path);
        finish(inserting(&store, round)).unwrap();
        let (alone, now_alone) = channel::<()>();
        let clone = store.clone();
        let mut read = Box::pin(store.read_async(move |tx| {
            let _ = now_alone.recv();
            drop(clone);
            tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
        }));
        begin(&mut read);
        // This is not the last clone: the read waits for the channel, which goes after it.
        drop(store);
        drop(alone);
        assert_eq!(finish(read).unwrap(), round + 1, "the read goes on to its end");
        assert_eq!(ids(&open(&path)).len() as i64, round + 1);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn last_clone_in_result_of_read_closes_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    for round in 0..20 {
        let store = open(&path);
        let clone = store.clone();
        let mut read = Box::pin(store.read_async(move |_| Ok(clone)));
        // Dropped before, while and after it runs.
        let _ = poll(&mut read);
        if round % 2 == 0 {
            drop(store);
            drop(read);
        } else {
            drop(read);
            drop(store);
        }
        open(&path);
    }
}

#[test]
fn last_clone_dropped_in_task_finishes_queue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let runtime = one_thread();
    runtime.block_on(async {
        let store = open(&path);
        let mut writes: Vec<_> = (0..10).map(|id| inserting(&store, id)).collect();
        let mut reads: Vec<_> = (0..10).map(|_| counting(&store)).collect();
        let mut done = Vec::new();
        writes.iter_mut().for_each(|write| done.push(poll(write)));
        reads.iter_mut().for_each(|read| drop(poll(read)));
        drop(store);
        for (write, polled) in writes.into_iter().zip(done) {
            match polled {
                Poll::Ready(result) => drop(result.unwrap()),
                Poll::Pending => drop(tokio::time::timeout(PATIENCE, write).await.unwrap().unwrap()),
            }
        }
    });
    assert_eq!(ids(&open(&path)).len(), 10);
}

#[test]
fn task_dropping_its_clone_closes_nothing() {
    one_thread().block_on(async {
        let store = store_with(Options::new());
        let other = tokio::spawn({
            let store = store.clone();
            async move {
                tokio::task::yield_now().await;
                inserting(&store, 1).await
            }
        });
        drop(store);
        assert_eq!(other.await.unwrap().unwrap(), 1);
    });
}

#[test]
fn tasks_racing_with_close_each_get_an_answer() {
    for round in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = Options::new().queue_capacity(4).open(&path).unwrap();
        create_table(&store);
        let finished: usize = many_threads().block_on(async {
            let tasks: Vec<_> = (0..8_i64)
                .map(|task| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        for n in 0.. {
                            let id = task * 1_000_000 + n;
                            match store.write_async(move |tx| insert(tx, id)).await {
                                Ok(_) => {}
                                Err(Error::Closed) => return n as usize,
                                Err(other) => panic!("{other:?}"),
                            }
                            match store
                                .read_async(move |tx| tx.exists("SELECT 1 FROM t WHERE id = ?1", [id]))
                                .await
                            {
                                Ok(there) => assert!(there),
                                Err(Error::Closed) => return n as usize + 1,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        unreachable!()
                    })
                })
                .collect();
            while store.stats().committed_writes < 20 + 5 * round {
                tokio::task::yield_now().await;
            }
            let report = tokio::time::timeout(PATIENCE, store.close_async())
                .await
                .unwrap()
                .unwrap();
            assert!(report.wal_truncated, "{report}");
            let mut finished = 0;
            for task in tasks {
                finished += tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            }
            finished
        });
        drop(store);
        assert_eq!(ids(&open(&path)).len(), finished);
    }
}
