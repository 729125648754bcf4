//! Jobs that a task awaits.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Waker};

use futures_executor::block_on;
use larder::{BulkReport, Error, Store};

use crate::support::{count, until};

const INSERT: &str = "INSERT INTO t(id) VALUES (?1)";

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store
}

/// Polls once.
fn start<F: Future>(future: std::pin::Pin<&mut F>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn is_send<F: Future<Output = larder::Result<BulkReport>> + Send + 'static>(future: F) -> F {
    future
}

#[test]
fn jobs_of_all_kinds_are_awaited() {
    let store = store();
    let rows = (0..5000).map(|id| (id,));
    let inserted = block_on(is_send(store.bulk().insert(INSERT, rows).run_async())).unwrap();
    assert_eq!(inserted.rows, 5000);
    let (table, condition) = (String::from("t"), String::from("id >= ?1"));
    let delete = store.bulk().delete(&table, &condition, (1000,)).run_async();
    drop((table, condition));
    assert_eq!(block_on(is_send(delete)).unwrap().rows, 4000);
    #[cfg(feature = "csv")]
    {
        let file = std::io::Cursor::new("id\n7000\n7001\n");
        let load = store.bulk().csv(file).into("t").run_async();
        assert_eq!(block_on(is_send(load)).unwrap().rows, 2);
        let bad = store.bulk().csv("id\nx\n".as_bytes()).into("t").run_async();
        assert!(block_on(bad).unwrap_err().to_string().contains("at line 2"));
        assert_eq!(count(&store), 1002);
    }
    let violated = store.bulk().insert(INSERT, [(1,)]).run_async();
    assert!(matches!(block_on(violated), Err(Error::Bulk { row: Some(1), .. })));
    assert!(store.stats().bulk.is_empty());
}

#[test]
fn future_that_is_not_polled_does_nothing() {
    let store = store();
    drop(store.bulk().insert(INSERT, [(1,)]).run_async());
    assert_eq!(count(&store), 0);
}

#[test]
fn dropped_future_cancels_its_job() {
    let store = store();
    {
        let mut job = pin!(store.bulk().insert(INSERT, (0..).map(|id: i64| (id,))).run_async());
        start(job.as_mut());
        until(&store, |stats| stats.bulk.iter().any(|job| job.rows > 0));
    }
    until(&store, |stats| stats.bulk.is_empty());
    let there = count(&store);
    assert!(there > 0);
    let sum: i64 = store.read(|tx| tx.scalar("SELECT sum(id) FROM t", [])).unwrap();
    assert_eq!(sum, (0..there).sum::<i64>());
}

#[test]
fn job_does_not_keep_a_dropped_store_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let mut job = pin!(store.bulk().insert(INSERT, (0..).map(|id: i64| (id,))).run_async());
    start(job.as_mut());
    until(&store, |stats| stats.bulk.iter().any(|job| job.rows > 0));
    drop(store);
    let error = block_on(job).unwrap_err();
    let Error::Bulk { rows, source, .. } = &error else {
        panic!("{error}")
    };
    assert!(matches!(**source, Error::Closed), "{error}");
    let rows = *rows as i64;
    // The file is free, and has what the error says.
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), rows);
}

#[test]
fn job_that_waits_for_its_source_does_not_keep_a_dropped_store_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let (sender, receiver) = sync_channel::<(i64,)>(0);
    let mut job = pin!(store.bulk().insert(INSERT, receiver).run_async());
    start(job.as_mut());
    sender.send((1,)).unwrap();
    until(&store, |_| count(&store) == 1);
    drop(store);
    // The source still blocks.
    let error = block_on(job).unwrap_err();
    assert!(
        matches!(&error, Error::Bulk { rows: 1, source, .. } if matches!(**source, Error::Closed)),
        "{error}"
    );
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 1);
    // Its thread ends with the next row: nothing takes it.
    let _ = sender.send((2,));
    while sender.send((3,)).is_ok() {}
    assert_eq!(count(&store), 1);
}

#[test]
fn panic_of_the_source_reaches_the_task() {
    let store = store();
    let rows = (0..3000).map(|id| {
        assert!(id < 2000, "the source is broken");
        (id,)
    });
    let job = store.bulk().insert(INSERT, rows).run_async();
    assert!(catch_unwind(AssertUnwindSafe(|| block_on(job))).is_err());
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
}

#[test]
fn job_awaited_inside_a_write_is_refused() {
    let store = store();
    let again = store.clone();
    let error = store
        .write(move |_| block_on(again.bulk().insert(INSERT, [(1,)]).run_async()).map(drop))
        .unwrap_err();
    assert!(matches!(error, Error::Reentrant { .. }), "{error}");
    // Begun outside, and awaited inside, while its source has more rows.
    let (sender, receiver) = sync_channel::<(i64,)>(0);
    let mut job = Box::pin(store.bulk().insert(INSERT, receiver).run_async());
    start(job.as_mut());
    let error = store.write(move |_| block_on(job).map(drop)).unwrap_err();
    assert!(matches!(error, Error::Reentrant { .. }), "{error}");
    drop(sender);
    store.close().unwrap();
}
