//! Misbehaving code of callers and runtimes: wakers that panic or poll at once, drops that panic, closures that change
//! settings of their connection. larder's threads survive, and the next call is not affected.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{Error, Options, ReadOptions, ReadTx, Result, Role, Store};

use crate::support::tasks::{Call, ENDLESS, HeldRead, begin, counting, finish, hear, inserting, poll, store_with};
use crate::support::{count, timeout_after_failed_opening, write_or_fail};
use crate::write::groups::Gate;

/// Panics when it is woken, and when the last of it is dropped, and says so each time.
struct Panicking(Sender<&'static str>);

impl Panicking {
    fn waker() -> (Waker, Receiver<&'static str>) {
        let (tell, told) = channel();
        (Waker::from(Arc::new(Self(tell))), told)
    }
}

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send("woken");
        resume_unwind(Box::new("woken"));
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
        if !std::thread::panicking() {
            resume_unwind(Box::new("dropped"));
        }
    }
}

fn begin_with<T: std::fmt::Debug>(call: &mut Call<T>, waker: &Waker) {
    let polled = call.as_mut().poll(&mut Context::from_waker(waker));
    assert!(polled.is_pending(), "{polled:?}");
}

/// Whether both threads are well.
fn assert_works(store: &Store) {
    let before = count(store);
    finish(inserting(store, 1_000 + before)).unwrap();
    assert_eq!(finish(counting(store)).unwrap(), before + 1);
}

#[test]
fn waker_that_panics_at_reply_is_harmless() {
    let store = store_with(Options::new().readers(1));
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    let (mut write, mut read) = (inserting(&store, 1), counting(&store));
    for call in [&mut write, &mut read] {
        let (waker, told) = Panicking::waker();
        begin_with(call, &waker);
        std::mem::forget((waker, told));
    }
    gate.open();
    held.let_go();
    assert_eq!(finish(write).unwrap(), 1);
    assert_works(&store);
}

#[test]
fn waker_whose_drop_panics_spares_the_writer() {
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let mut write = inserting(&store, 1);
    let (waker, told) = Panicking::waker();
    begin_with(&mut write, &waker);
    // The slot's is the last.
    std::mem::forget(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(waker))));
    assert!(told.try_recv().is_err(), "it is kept for as long as the task waits");
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(write)));
    assert!(
        dropped.is_err(),
        "it is dropped at once, on the thread that drops the future"
    );
    assert_eq!(hear(&told), "dropped");
    gate.open();
    assert_works(&store);
}

#[test]
fn waker_of_dropped_future_is_dropped_at_once() {
    struct Quiet;
    impl Wake for Quiet {
        fn wake(self: Arc<Self>) {}
    }
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let task = Arc::new(Quiet);
    let mut write = inserting(&store, 1);
    begin_with(&mut write, &Waker::from(Arc::clone(&task)));
    assert_eq!(Arc::strong_count(&task), 2);
    drop(write);
    assert_eq!(Arc::strong_count(&task), 1);
    gate.open();
    assert_works(&store);
}

/// An executor that polls where it is woken, on larder's thread.
struct Inline(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        // Whoever wakes it while it is polled waits, and polls after that.
        let mut task = self.0.lock().unwrap();
        if let Some(running) = task.as_mut()
            && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            *task = None;
        }
    }
}

#[test]
fn task_resumed_on_waking_thread_may_block_reading() {
    let store = store_with(Options::new().readers(2));
    let (tell, told) = channel();
    let of_task = store.clone();
    let task = Box::pin(async move {
        let first: Result<i64> = of_task
            .read_async(|tx| tx.query_row("SELECT 1", [], |row| row.get(0)))
            .await;
        // Its future has been dropped on the thread that ran it.
        let second: Result<i64> = of_task.read(|tx| tx.query_row("SELECT 2", [], |row| row.get(0)));
        tell.send((first, second)).unwrap();
    });
    let inline = Arc::new(Inline(Mutex::new(Some(task))));
    Arc::clone(&inline).wake();
    let (first, second) = hear(&told);
    assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
    assert_works(&store);
}

/// A count that takes a while: long enough for a progress handler to be asked.
fn long_count(tx: &ReadTx<'_>) -> Result<i64> {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT count(*) FROM n";
    tx.query_row(sql, [], |row| row.get(0))
}

#[test]
fn progress_handler_of_closure_stops_no_other_read() {
    let store = store_with(Options::new().readers(1));
    for _ in 0..20 {
        let set = |tx: &ReadTx<'_>| Ok(tx.progress_handler(1, Some(|| true))?);
        let held = HeldRead::hold(&store);
        // All three are queued, so they may share a snapshot.
        let mut rude: Call<()> = Box::pin(store.read_async(set));
        let mut polite: Call<i64> = Box::pin(store.read_async(long_count));
        begin(&mut rude);
        begin(&mut polite);
        held.let_go();
        finish(rude).unwrap();
        assert_eq!(finish(polite).unwrap(), 100_000);
        store.read(set).unwrap();
        assert_eq!(store.read(long_count).unwrap(), 100_000);
    }
}

#[test]
fn read_is_interrupted_despite_removed_progress_handler() {
    let store = store_with(Options::new().readers(1));
    let take_away = |tx: &ReadTx<'_>| Ok(tx.progress_handler(0, None::<fn() -> bool>)?);
    finish(store.read_async(take_away)).unwrap();
    let (running, runs) = channel();
    let mut endless: Call<i64> = Box::pin(store.read_async(move |tx| {
        running.send(()).unwrap();
        tx.query_row(ENDLESS, [], |row| row.get(0))
    }));
    begin(&mut endless);
    hear(&runs);
    drop(endless);
    // There is one connection: it comes free.
    assert_eq!(finish(counting(&store)).unwrap(), 0);
}

#[test]
fn panicking_closure_leaves_connection_clean() {
    let store = store_with(Options::new().readers(1));
    let mut rude: Call<()> = Box::pin(store.read_async(|tx| {
        tx.progress_handler(1, Some(|| true))?;
        resume_unwind(Box::new("boom"))
    }));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| finish(&mut rude)));
    assert!(panicked.is_err());
    assert_eq!(finish(store.read_async(long_count)).unwrap(), 100_000);
}

#[test]
fn withdrawn_jobs_take_no_room_in_the_queue() {
    let store = store_with(Options::new().queue_capacity(4));
    let gate = Gate::hold(&store);
    let mut gone: Vec<_> = (0..4).map(|id| inserting(&store, id)).collect();
    gone.iter_mut().for_each(begin);
    let mut full: Call<i64> = Box::pin(store.write_async_with(write_or_fail(), |_| Ok(0)));
    assert!(matches!(
        poll(&mut full),
        Poll::Ready(Err(Error::QueueFull { capacity: 4, .. }))
    ));
    let last = gone.pop();
    drop(gone);
    let mut tried: Vec<Call<i64>> = (10..13)
        .map(|id| -> Call<i64> {
            Box::pin(store.write_async_with(write_or_fail(), move |tx| tx.insert("INSERT INTO t VALUES (?1)", [id])))
        })
        .collect();
    tried.iter_mut().for_each(begin);
    let mut full: Call<i64> = Box::pin(store.write_async_with(write_or_fail(), |_| Ok(0)));
    assert!(matches!(poll(&mut full), Poll::Ready(Err(Error::QueueFull { .. }))));
    gate.open();
    for call in tried {
        finish(call).unwrap();
    }
    finish(last.unwrap()).unwrap();
    assert_eq!(count(&store), 4);
}

#[test]
fn short_read_timeout_says_why_opening_failed() {
    // One reader thread: it takes note of a failed opening before it begins the one after the next.
    let (opened, failing) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let begun = Arc::clone(&failing);
    let store = store_with(Options::new().readers(1).on_connect(move |conn, role| {
        // The first, which larder opens to see that it can, is let through.
        if role == Role::Reader && opened.fetch_add(1, Ordering::SeqCst) > 0 {
            if opened.load(Ordering::SeqCst) > 2 {
                begun.fetch_add(1, Ordering::SeqCst);
            }
            conn.execute_batch("SELECT * FROM such_a_table_is_missing")?;
        }
        Ok(())
    }));
    let read = |ms| {
        let options = ReadOptions::new().queue_timeout(Duration::from_millis(ms));
        finish(store.read_async_with(options, |_| Ok(()))).unwrap_err()
    };
    for ms in [40, 400] {
        let error = read(ms);
        assert!(matches!(error, Error::ReadQueueTimeout { .. }), "{error:?}");
    }
    let error = timeout_after_failed_opening(&failing, || read(40));
    assert!(error.to_string().contains("such_a_table_is_missing"), "{error}");
}

/// Panics as it is dropped.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            resume_unwind(Box::new("dropped"));
        }
    }
}

/// Sets a handler that holds a [`PanicOnDrop`].
fn set_handler(conn: &Connection) -> Result<()> {
    let held = PanicOnDrop;
    let handler = move || {
        let _held = &held;
        false
    };
    Ok(conn.progress_handler(1000, Some(handler))?)
}

/// The writer takes the handler away once the closure has ended, outside of the place where the closure's own panics are
/// caught. Its thread ended.
#[test]
fn handler_whose_drop_panics_ends_no_writer() {
    let store = store_with(Options::new());
    store.write(|tx| set_handler(tx)).unwrap();
    assert_works(&store);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn handler_whose_drop_panics_loses_no_read() {
    let store = store_with(Options::new().readers(1));
    let read = |tx: &ReadTx<'_>| {
        set_handler(tx)?;
        Ok(7)
    };
    assert_eq!(store.read(read).unwrap(), 7);
    assert_eq!(finish(Box::pin(store.read_async(read))).unwrap(), 7);
    assert_works(&store);
    assert!(store.close().unwrap().wal_truncated);
}

/// Hooks of `on_connect` are dropped as their connection is closed, on the writer thread.
#[test]
fn hook_whose_drop_panics_fails_no_close() {
    let store = store_with(Options::new().readers(2).on_connect(|conn, _| {
        let held = PanicOnDrop;
        conn.update_hook(Some(move |_, _: &str, _: &str, _| {
            let _held = &held;
        }))?;
        Ok(())
    }));
    assert_works(&store);
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

/// r2d2 formats the error of an opening under its own lock. The pool then waited for that connection for good.
#[test]
fn panicking_display_of_on_connect_error_is_reported() {
    #[derive(Debug)]
    struct Unprintable;
    impl std::fmt::Display for Unprintable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            resume_unwind(Box::new("displayed"));
        }
    }
    impl std::error::Error for Unprintable {}
    let refuse = Arc::new(AtomicBool::new(false));
    let failing = Arc::new(AtomicUsize::new(0));
    let (refuses, begun) = (Arc::clone(&refuse), Arc::clone(&failing));
    let options = Options::new().readers(1).on_connect(move |_, role| {
        if role == Role::Reader && refuses.load(Ordering::SeqCst) {
            begun.fetch_add(1, Ordering::SeqCst);
            return Err(Error::app(Unprintable));
        }
        Ok(())
    });
    let store = options.open_temp().unwrap();
    refuse.store(true, Ordering::SeqCst);
    let error = timeout_after_failed_opening(&failing, || {
        let soon = ReadOptions::new().queue_timeout(Duration::from_millis(500));
        store.read_with(soon, |_| Ok(())).unwrap_err()
    });
    match error {
        Error::ReadQueueTimeout {
            last_error: Some(reason),
            ..
        } => assert!(reason.contains("on_connect"), "{reason}"),
        other => panic!("{other:?}"),
    }
    refuse.store(false, Ordering::SeqCst);
    store
        .read_with(
            ReadOptions::new().queue_timeout(crate::support::tasks::PATIENCE),
            |_| Ok(()),
        )
        .unwrap();
}
