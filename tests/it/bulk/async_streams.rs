//! Rows of async streams.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use futures_executor::block_on;
use futures_util::stream::{self, StreamExt};
use larder::{Error, Store};

use crate::support::{blocker, count, until};

const INSERT: &str = "INSERT INTO t(id) VALUES (?1)";

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store
}

fn rows(from: i64, to: i64) -> impl stream::Stream<Item = (i64,)> + Send {
    stream::iter((from..to).map(|id| (id,)))
}

#[test]
fn all_rows_of_a_stream_are_there() {
    let store = store();
    let job = store.bulk().insert_stream(INSERT, rows(0, 50_000)).run_async();
    let report = block_on(job).unwrap();
    assert_eq!((report.rows, report.bytes), (50_000, 400_000));
    let sum: i64 = store.read(|tx| tx.scalar("SELECT sum(id) FROM t", [])).unwrap();
    assert_eq!(sum, (0..50_000).sum::<i64>());
    let none = block_on(store.bulk().insert_stream(INSERT, rows(0, 0)).run_async()).unwrap();
    assert_eq!((none.rows, none.slices), (0, 0));
}

#[test]
fn stream_runs_on_tokio_with_what_needs_it() {
    let store = store();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let ticks = rows(0, 20).then(|row| async move {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        row
    });
    let job = store.bulk().insert_stream(INSERT, ticks).run_async();
    let report = runtime.block_on(async { tokio::spawn(job).await.unwrap() }).unwrap();
    assert_eq!(report.rows, 20);
}

#[test]
fn rows_before_a_pending_one_are_committed() {
    let store = store();
    let never = rows(0, 700).chain(stream::pending());
    let mut job = pin!(store.bulk().insert_stream(INSERT, never).run_async());
    block_on(poll_fn(|context| {
        assert!(job.as_mut().poll(context).is_pending());
        if count(&store) == 700 {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }));
    // It is ready at once, though the stream is pending.
    store.close().unwrap();
    let error = block_on(job).unwrap_err();
    assert!(
        matches!(&error, Error::Bulk { rows: 700, source, .. } if matches!(**source, Error::Closed)),
        "{error}"
    );
}

#[test]
fn row_that_fails_ends_a_pending_stream() {
    let store = store();
    let broken = rows(0, 10).chain(rows(3, 4)).chain(stream::pending());
    let error = block_on(store.bulk().insert_stream(INSERT, broken).run_async()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                rows: 10,
                row: Some(11),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn stream_is_polled_only_while_there_is_room() {
    let store = store();
    let polled = AtomicUsize::new(0);
    let all = rows(0, 100_000).inspect(|_| {
        polled.fetch_add(1, SeqCst);
    });
    let (let_go, running) = blocker(&store);
    let mut job = pin!(store.bulk().insert_stream(INSERT, all).run_async());
    // The driver's thread begins.
    until(&store, |_| {
        assert!(job.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        polled.load(SeqCst) >= 7 * 512
    });
    for _ in 0..10 {
        assert!(job.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let most = polled.load(SeqCst);
    assert!(most <= 8 * 512, "{most}");
    drop(let_go);
    running.wait().unwrap();
    assert_eq!(block_on(job).unwrap().rows, 100_000);
}

#[test]
fn dropped_future_of_a_stream_cancels_its_job() {
    let store = store();
    {
        let endless = stream::iter((0..).map(|id: i64| (id,)));
        let mut job = pin!(store.bulk().insert_stream(INSERT, endless).run_async());
        until(&store, |_| {
            assert!(job.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            count(&store) > 0
        });
    }
    until(&store, |stats| stats.bulk.is_empty());
    let there = count(&store);
    let sum: i64 = store.read(|tx| tx.scalar("SELECT sum(id) FROM t", [])).unwrap();
    assert_eq!(sum, (0..there).sum::<i64>());
    drop(store.bulk().insert_stream("no SQL", rows(0, 1)).run_async());
}

#[test]
fn resumed_stream_goes_on_and_a_name_that_runs_is_refused() {
    let store = store();
    let run = |to| {
        block_on(
            store
                .bulk()
                .resumable("feed")
                .insert_stream(INSERT, rows(0, to))
                .run_async(),
        )
    };
    assert_eq!(run(1000).unwrap().rows, 1000);
    let report = run(1500).unwrap();
    assert_eq!((report.resumed_from, report.rows), (1000, 500));
    let mut first = pin!(
        store
            .bulk()
            .resumable("feed")
            .insert_stream(INSERT, stream::pending::<(i64,)>())
            .run_async()
    );
    assert!(
        first
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    until(&store, |stats| !stats.bulk.is_empty());
    let error = run(2000).unwrap_err();
    assert!(error.to_string().contains("running already"), "{error}");
}

#[test]
fn panic_of_a_stream_resumes_after_its_rows() {
    let store = store();
    let broken = rows(0, 1500).map(|row| {
        assert!(row.0 < 1000, "the stream is broken");
        row
    });
    let job = store.bulk().insert_stream(INSERT, broken).run_async();
    assert!(catch_unwind(AssertUnwindSafe(|| block_on(job))).is_err());
    assert_eq!(count(&store), 1000);
    assert!(store.stats().bulk.is_empty());
}
