//! The futures of async calls work on every runtime, and record their call site.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use larder::{Error, Options, Outcome, ReadOptions, ReadTx, Result, Store, WhenFull, WriteOptions, WriteTx};
use tracing::{Instrument, Span, info_span};

use crate::support::tasks::{
    HeldRead, PATIENCE, begin, counting, create_table, finish, ids, insert, inserting, many_threads, on_every_runtime,
    one_thread, store_with,
};
use crate::support::{log, read_or_fail, with_longer_limits, write_or_fail};
use crate::write::groups::Gate;

// ---- every runtime ----

async fn every_call() {
    let store = store_with(Options::new());
    assert_eq!(store.write_async(|tx| insert(tx, 1)).await.unwrap(), 1);
    let labelled = WriteOptions::new().label("a task's");
    assert_eq!(store.write_async_with(labelled, |tx| insert(tx, 2)).await.unwrap(), 2);
    assert_eq!(
        store
            .write_async_with(write_or_fail(), |tx| insert(tx, 3))
            .await
            .unwrap(),
        3
    );
    let labelled = WriteOptions::new().label("a task's");
    let tried = store.write_async_with(labelled.when_full(WhenFull::Fail), |tx| insert(tx, 4));
    assert_eq!(tried.await.unwrap(), 4);
    assert_eq!(store.submit(|tx| insert(tx, 5)).unwrap().await.unwrap(), 5);
    let count = |tx: &ReadTx<'_>| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(store.read_async(count).await.unwrap(), 5);
    let labelled = || ReadOptions::new().label("a task's");
    assert_eq!(store.read_async_with(labelled(), count).await.unwrap(), 5);
    assert_eq!(store.read_async_with(read_or_fail(), count).await.unwrap(), 5);
    assert_eq!(
        store
            .read_async_with(labelled().when_full(WhenFull::Fail), count)
            .await
            .unwrap(),
        5
    );
    assert!(store.close_async().await.unwrap().wal_truncated);
    assert!(matches!(store.write_async(|_| Ok(())).await, Err(Error::Closed)));
    assert!(matches!(store.read_async(|_| Ok(())).await, Err(Error::Closed)));
    assert!(store.close_async_within(PATIENCE).await.unwrap().wal_truncated);
}

#[test]
fn every_call_works_on_every_runtime() {
    on_every_runtime(every_call);
}

async fn five_hundred_tasks_write_and_read() {
    let store = store_with(Options::new().queue_capacity(16));
    let tasks: Vec<_> = (0..500)
        .map(|id| {
            let store = store.clone();
            tokio::spawn(async move {
                let inserted = store.write_async(move |tx| insert(tx, id)).await.unwrap();
                let there = store
                    .read_async(move |tx| tx.exists("SELECT 1 FROM t WHERE id = ?1", [id]))
                    .await
                    .unwrap();
                assert!(there, "a read after the write's acknowledgement sees it");
                inserted
            })
        })
        .collect();
    for (id, task) in (0..500).zip(tasks) {
        assert_eq!(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap(), id);
    }
    assert_eq!(ids(&store).len(), 500);
}

#[test]
fn tasks_write_and_read_on_one_thread() {
    one_thread().block_on(five_hundred_tasks_write_and_read());
}

#[test]
fn tasks_write_and_read_on_many_threads() {
    many_threads().block_on(five_hundred_tasks_write_and_read());
}

#[test]
fn futures_are_send_if_values_are_not_sync() {
    fn assert_task<T>(future: impl Future<Output = Result<T>> + Send + 'static) {
        drop(future);
    }
    let store = store_with(Options::new());
    let own = || Cell::new(7);
    let (a, b) = (own(), own());
    assert_task(store.write_async(move |_| Ok(a)));
    assert_task(store.write_async_with(WriteOptions::new(), move |_| Ok(b)));
    let (a, b) = (own(), own());
    assert_task(store.read_async(move |_| Ok(a)));
    assert_task(store.read_async_with(ReadOptions::new(), move |_| Ok(b)));
    assert_task(store.close_async());
    assert_task(store.close_async_within(PATIENCE));
}

#[test]
fn closures_run_on_larders_threads() {
    let store = store_with(Options::new());
    let name = || thread::current().name().unwrap().to_owned();
    assert_eq!(finish(store.write_async(move |_| Ok(name()))).unwrap(), "larder-writer");
    let reader = finish(store.read_async(move |_| Ok(name()))).unwrap();
    assert!(reader.starts_with("larder-read-"), "{reader}");
}

#[test]
fn error_is_returned_by_await() {
    let store = store_with(Options::new());
    let write = finish(store.write_async(|tx| {
        insert(tx, 1)?;
        Err::<(), _>(Error::app("no"))
    }));
    assert_eq!(write.as_ref().unwrap_err().to_string(), "no");
    assert_eq!(write.unwrap_err().outcome(), Outcome::RolledBack);
    let read = finish(store.read_async(|_| Err::<(), _>(Error::app("no"))));
    assert_eq!(read.unwrap_err().to_string(), "no");
    assert_eq!(ids(&store), [0; 0]);
}

#[test]
fn panic_is_resumed_by_await() {
    let store = store_with(Options::new());
    let write = |tx: &WriteTx<'_>| -> Result<()> {
        insert(tx, 1)?;
        resume_unwind(Box::new("boom"))
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| finish(store.write_async(write))));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"boom"));
    one_thread().block_on(async {
        let task = tokio::spawn(store.read_async(|_| -> Result<()> { resume_unwind(Box::new("boom")) }));
        let panic = task.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"boom"));
    });
    assert_eq!(ids(&store), [0; 0]);
}

// ---- before the first poll ----

#[test]
fn future_never_polled_runs_nothing() {
    let store = store_with(Options::new());
    let captured = Arc::new(());
    let owned = || Arc::clone(&captured);
    let run = |_: Arc<()>| -> Result<()> { panic!("it was never polled") };
    let (a, b, c) = (owned(), owned(), owned());
    drop(store.write_async(move |_| run(a)));
    drop(store.write_async_with(WriteOptions::new(), move |_| run(b)));
    drop(store.write_async_with(write_or_fail(), move |_| run(c)));
    let (a, b, c) = (owned(), owned(), owned());
    drop(store.read_async(move |_| run(a)));
    drop(store.read_async_with(ReadOptions::new(), move |_| run(b)));
    drop(store.read_async_with(read_or_fail(), move |_| run(c)));
    drop(store.close_async());
    drop(store.close_async_within(Duration::ZERO));
    assert_eq!(Arc::strong_count(&captured), 1);
    let stats = store.stats();
    assert_eq!(
        (stats.committed_writes, stats.failed_writes),
        (1, 0),
        "the table, and nothing else"
    );
    assert_eq!(finish(inserting(&store, 1)).unwrap(), 1, "it is not closed");
    assert_eq!(finish(counting(&store)).unwrap(), 1);
}

#[test]
fn future_not_polled_yet_takes_no_queue_place() {
    let store = store_with(Options::new().queue_capacity(1).readers(1));
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    let (write, read) = (
        store.write_async_with(write_or_fail(), |_| Ok(1)),
        store.read_async_with(read_or_fail(), |_| Ok(1)),
    );
    let mut first_write = Box::pin(store.write_async_with(write_or_fail(), |_| Ok(2)));
    let mut first_read = Box::pin(store.read_async_with(read_or_fail(), |_| Ok(2)));
    begin(&mut first_write);
    begin(&mut first_read);
    assert!(matches!(finish(write), Err(Error::QueueFull { capacity: 1, .. })));
    assert!(matches!(finish(read), Err(Error::QueueFull { capacity: 1, .. })));
    gate.open();
    held.let_go();
    assert_eq!(finish(first_write).unwrap() + finish(first_read).unwrap(), 4);
}

#[test]
fn timeout_begins_at_the_first_poll() {
    let store = store_with(Options::new());
    with_longer_limits(Duration::from_millis(200), |time| {
        let write = store.write_async_with(WriteOptions::new().queue_timeout(time), |_| Ok(()));
        let read = store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(()));
        thread::sleep(2 * time);
        let (wrote, has_read) = (finish(write), finish(read));
        (wrote.is_ok() && has_read.is_ok()).then_some(())
    });
}

// ---- who asked ----

fn all_slow() -> Store {
    log::collect();
    store_with(
        Options::new()
            .slow_write_threshold(Duration::ZERO)
            .slow_read_threshold(Duration::ZERO),
    )
}

/// `#[track_caller]` on each of the methods.
#[test]
fn every_async_call_records_its_call_site() {
    let store = all_slow();
    let mut lines = Vec::new();
    let (line, call) = (line!(), store.write_async(|_| Ok(())));
    lines.push(("write", line));
    finish(call).unwrap();
    let (line, call) = (line!(), store.write_async_with(WriteOptions::new(), |_| Ok(())));
    lines.push(("write", line));
    finish(call).unwrap();
    let (line, call) = (line!(), store.read_async(|_| Ok(())));
    lines.push(("read", line));
    finish(call).unwrap();
    let (line, call) = (line!(), store.read_async_with(ReadOptions::new(), |_| Ok(())));
    lines.push(("read", line));
    finish(call).unwrap();
    for (kind, line) in lines {
        let site = format!("{}:{line}", file!());
        let message = format!("slow {kind}");
        log::wait_for(|event| event.message == message && event.field("site") == Some(&site));
    }
}

/// They share a snapshot, or are made one after another: either way each has its own name and its own SQL.
#[test]
fn each_read_in_group_has_its_own_label() {
    log::collect();
    let store = store_with(
        Options::new()
            .readers(1)
            .slow_read_threshold(Duration::ZERO)
            .slow_write_threshold(Duration::ZERO),
    );
    let labels = ["a task's first", "a task's second", "a task's third"];
    let sql = |label: &str| format!("SELECT ?1 -- {label}");
    let held = HeldRead::hold(&store);
    let mut reads = labels.map(|label| {
        let (options, sql) = (ReadOptions::new().label(label), sql(label));
        Box::pin(store.read_async_with(options, move |tx| tx.query_row(&sql, [1], |row| row.get::<_, i64>(0))))
    });
    reads.iter_mut().for_each(begin);
    held.let_go();
    reads.into_iter().for_each(|read| assert_eq!(finish(read).unwrap(), 1));
    let write = store.write_async_with(WriteOptions::new().label("a task's write"), |_| Ok(()));
    finish(write).unwrap();
    let slow = |label| log::wait_for(|event| event.field("site") == Some(label) && event.message.starts_with("slow "));
    for label in labels {
        assert_eq!(slow(label).expect("db.query.text"), sql(label));
    }
    assert_eq!(slow("a task's write").message, "slow write");
}

#[test]
fn span_of_task_is_current_inside_its_closure() {
    log::collect();
    let store = store_with(Options::new().readers(1));
    let span = info_span!("request");
    let asked_in = span.id().expect("the collector gives each span a number");
    let (write, read) = one_thread().block_on({
        let store = store.clone();
        async move {
            let write = store.write_async(|_| Ok(Span::current().id())).await.unwrap();
            let read = store.read_async(|_| Ok(Span::current().id())).await.unwrap();
            (write, read)
        }
        .instrument(span)
    });
    assert_eq!((write, read), (Some(asked_in.clone()), Some(asked_in)));
    let read = finish(store.read_async(|_| Ok(Span::current().id())));
    let write = finish(store.write_async(|_| Ok(Span::current().id())));
    assert_eq!((write.unwrap(), read.unwrap()), (None, None));
}

#[test]
fn span_is_left_by_a_panicking_read() {
    log::collect();
    let store = store_with(Options::new().readers(1));
    let read = store.read_async(|_| -> Result<()> { resume_unwind(Box::new("boom")) });
    let panicked = catch_unwind(AssertUnwindSafe(|| finish(read.instrument(info_span!("request")))));
    assert!(panicked.is_err());
    assert_eq!(finish(store.read_async(|_| Ok(Span::current().id()))).unwrap(), None);
}

#[test]
fn task_may_nest_calls_on_two_stores() {
    let (one, other) = (store_with(Options::new()), store_with(Options::new()));
    create_table(&other);
    let inside = other.clone();
    let written = finish(one.write_async(move |_| finish(inside.write_async(|tx| insert(tx, 7)))));
    assert_eq!(written.unwrap(), 7);
    let inside = other.clone();
    assert_eq!(finish(one.read_async(move |_| finish(counting(&inside)))).unwrap(), 1);
}
