//! `Pending`, the handle of a submitted write: waited for, awaited, ignored or dropped.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use larder::{Error, Options, Outcome, Pending, Result, Store, WriteOptions, WriteTx};

use crate::write::groups::{Gate, grouping};

const LONG: Duration = Duration::from_secs(30);

fn store_with_table() -> Store {
    let store = grouping().open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
                 CREATE TABLE child(parent INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED) STRICT;",
            )
        })
        .unwrap();
    store
}

fn insert(tx: &WriteTx<'_>, id: i64) -> Result<i64> {
    tx.insert("INSERT INTO t VALUES (?1)", [id])
}

fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}

/// A value whose drop panics, after it has said that it was dropped.
struct PanicOnDrop(Sender<()>);

impl PanicOnDrop {
    fn new() -> (Self, Receiver<()>) {
        let (dropped, is_dropped) = channel();
        (Self(dropped), is_dropped)
    }
}

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
        if !std::thread::panicking() {
            resume_unwind(Box::new("dropped"));
        }
    }
}

#[test]
fn wait_returns_the_closures_value() {
    let store = store_with_table();
    let pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert_eq!(pending.wait().unwrap(), 7);
}

#[test]
fn wait_timeout_returns_none_then_the_value() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let mut pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert!(pending.wait_timeout(Duration::ZERO).is_none());
    assert!(pending.wait_timeout(Duration::from_millis(10)).is_none());
    gate.open();
    assert_eq!(pending.wait_timeout(LONG).unwrap().unwrap(), 7);
}

#[test]
fn wait_after_wait_timeout_returns_the_value() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let mut pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert!(pending.wait_timeout(Duration::from_millis(10)).is_none());
    gate.open();
    assert_eq!(pending.wait().unwrap(), 7);
}

#[test]
fn wait_timeout_accepts_the_longest_duration() {
    let store = store_with_table();
    let mut pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert_eq!(pending.wait_timeout(Duration::MAX).unwrap().unwrap(), 7);
}

#[test]
fn wait_for_a_taken_result_panics() {
    let store = store_with_table();
    let mut pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert_eq!(pending.wait_timeout(LONG).unwrap().unwrap(), 7);
    let again = catch_unwind(AssertUnwindSafe(|| pending.wait_timeout(Duration::from_millis(10))));
    assert!(again.is_err(), "the documentation says that it panics: {again:?}");
}

#[test]
fn write_with_dropped_pending_completes() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    drop(store.submit(|tx| insert(tx, 7)).unwrap());
    gate.open();
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store), 1);
}

#[test]
fn pending_outlives_its_store() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let pending = store.submit(|tx| insert(tx, 7)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(store));
        gate.open();
        assert_eq!(pending.wait().unwrap(), 7);
    });
}

#[test]
fn error_is_returned_by_wait_and_await() {
    let store = store_with_table();
    let fail = |_: &WriteTx<'_>| Err::<(), _>(Error::app("no"));
    assert_eq!(store.submit(fail).unwrap().wait().unwrap_err().to_string(), "no");
    let awaited = futures_executor::block_on(store.submit(fail).unwrap());
    assert_eq!(awaited.unwrap_err().to_string(), "no");
}

#[test]
fn panic_is_resumed_by_wait_and_await() {
    let store = store_with_table();
    let boom = |_: &WriteTx<'_>| -> Result<()> { resume_unwind(Box::new("boom")) };
    let waited = catch_unwind(AssertUnwindSafe(|| store.submit(boom).unwrap().wait()));
    assert_eq!(waited.unwrap_err().downcast_ref::<&str>(), Some(&"boom"));
    let timed = catch_unwind(AssertUnwindSafe(|| store.submit(boom).unwrap().wait_timeout(LONG)));
    assert_eq!(timed.unwrap_err().downcast_ref::<&str>(), Some(&"boom"));
    let awaited = catch_unwind(AssertUnwindSafe(|| {
        futures_executor::block_on(store.submit(boom).unwrap())
    }));
    assert_eq!(awaited.unwrap_err().downcast_ref::<&str>(), Some(&"boom"));
    assert_eq!(store.write(|tx| insert(tx, 7)).unwrap(), 7);
}

#[test]
fn pending_is_awaited_on_futures_executor() {
    let store = store_with_table();
    let sum = futures_executor::block_on(async {
        let first = store.submit(|tx| insert(tx, 1)).unwrap();
        let second = store.submit(|tx| insert(tx, 2)).unwrap();
        first.await.unwrap() + second.await.unwrap()
    });
    assert_eq!(sum, 3);
}

fn join_a_thousand(runtime: &tokio::runtime::Runtime) {
    let store = store_with_table();
    let sum: i64 = runtime.block_on(async {
        let writes: Vec<_> = (0..1000)
            .map(|n| tokio::spawn(store.submit(move |tx| insert(tx, n)).unwrap()))
            .collect();
        let mut sum = 0;
        for write in writes {
            sum += tokio::time::timeout(LONG, write).await.unwrap().unwrap().unwrap();
        }
        sum
    });
    assert_eq!(sum, 499_500);
    assert_eq!(count(&store), 1000);
}

#[test]
fn thousand_pendings_are_joined_on_one_tokio_thread() {
    join_a_thousand(
        &tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap(),
    );
}

#[test]
fn thousand_pendings_are_joined_on_many_tokio_threads() {
    join_a_thousand(
        &tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap(),
    );
}

#[test]
fn cancelled_await_lets_the_write_complete() {
    let store = store_with_table();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let gate = Gate::hold(&store);
    runtime.block_on(async {
        let pending = store.submit(|tx| insert(tx, 7)).unwrap();
        let late = tokio::time::timeout(Duration::from_millis(10), pending).await;
        assert!(late.is_err());
    });
    gate.open();
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store), 1);
}

struct CountWakes {
    wakes: AtomicUsize,
    woken: Mutex<Sender<()>>,
}

impl CountWakes {
    fn new() -> (Arc<Self>, Receiver<()>) {
        let (woken, is_woken) = channel();
        let counter = Self {
            wakes: AtomicUsize::new(0),
            woken: Mutex::new(woken),
        };
        (Arc::new(counter), is_woken)
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }
}

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        let _ = self.woken.lock().unwrap().send(());
    }
}

#[test]
fn only_the_last_waker_is_woken() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let mut pending = pin!(store.submit(|tx| insert(tx, 7)).unwrap());
    let (first, _) = CountWakes::new();
    let (second, _) = CountWakes::new();
    let (last, last_woken) = CountWakes::new();
    for waker in [&first, &second, &first, &last, &last] {
        let waker = Waker::from(Arc::clone(waker));
        assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    gate.open();
    last_woken.recv_timeout(LONG).expect("it is woken");
    let Poll::Ready(result) = pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it was woken, so it is ready");
    };
    assert_eq!(result.unwrap(), 7);
    store.write(|_| Ok(())).unwrap();
    assert_eq!((first.wakes(), second.wakes(), last.wakes()), (0, 0, 1));
}

#[test]
fn polled_pending_can_be_waited_for() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let mut pending = store.submit(|tx| insert(tx, 7)).unwrap();
    assert!(
        pin!(&mut pending)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    gate.open();
    assert_eq!(pending.wait().unwrap(), 7);
}

#[test]
fn panicking_waker_does_not_kill_the_writer() {
    struct PanicOnWake;
    impl Wake for PanicOnWake {
        fn wake(self: Arc<Self>) {
            resume_unwind(Box::new("woken"));
        }
    }
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let mut pending = pin!(store.submit(|tx| insert(tx, 7)).unwrap());
    let waker = Waker::from(Arc::new(PanicOnWake));
    assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let next = store.submit(|tx| insert(tx, 8)).unwrap();
    gate.open();
    assert_eq!(next.wait().unwrap(), 8);
    assert_eq!(futures_executor::block_on(pending).unwrap(), 7);
}

#[test]
fn pending_is_send_if_value_is_not_sync() {
    fn assert_send<T: Send>() {}
    assert_send::<Pending<std::cell::Cell<i32>>>();
    let store = store_with_table();
    let pending = store.submit(|_| Ok(std::cell::Cell::new(7))).unwrap();
    let seven = std::thread::spawn(move || pending.wait().unwrap().get())
        .join()
        .unwrap();
    assert_eq!(seven, 7);
}

#[test]
fn write_past_its_deadline_never_starts() {
    let store = store_with_table();
    let gate = Gate::hold(&store);
    let brief = || WriteOptions::new().queue_timeout(Duration::from_millis(20));
    // The first of the two to come, so that its time is over when that of the other is.
    let awaited = store.submit_with(brief(), |tx| insert(tx, 1)).unwrap();
    let waited = store.submit_with(brief(), |tx| insert(tx, 2)).unwrap();
    let error = waited.wait().unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { waited, .. } if waited >= Duration::from_millis(20)));
    assert_eq!(error.outcome(), Outcome::NotStarted);
    assert!(error.is_retryable());
    gate.open();
    let error = futures_executor::block_on(awaited).unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    assert_eq!(count(&store), 0);
}

#[test]
fn unseen_value_whose_drop_panics_is_harmless() {
    let store = store_with_table();
    let (value, dropped) = PanicOnDrop::new();
    let gate = Gate::hold(&store);
    drop(
        store
            .submit(move |tx| {
                insert(tx, 1)?;
                Ok(value)
            })
            .unwrap(),
    );
    let next = store.submit(|tx| insert(tx, 2)).unwrap();
    gate.open();
    assert_eq!(next.wait().unwrap(), 2);
    dropped.recv_timeout(LONG).expect("it was dropped");
    store.write(|tx| insert(tx, 3)).unwrap();
    assert_eq!(count(&store), 3);
}

#[test]
fn panic_payload_whose_drop_panics_is_harmless() {
    let store = store_with_table();
    let (value, dropped) = PanicOnDrop::new();
    let value = Mutex::new(value);
    let gate = Gate::hold(&store);
    drop(
        store
            .submit(move |_| -> Result<()> { resume_unwind(Box::new(value)) })
            .unwrap(),
    );
    let next = store.submit(|tx| insert(tx, 2)).unwrap();
    gate.open();
    assert_eq!(next.wait().unwrap(), 2);
    dropped.recv_timeout(LONG).expect("it was dropped");
    assert_eq!(store.write(|tx| insert(tx, 3)).unwrap(), 3);
}

/// A write that is rolled back in spite of its closure's `Ok` drops the closure's value. When that drop panicked
/// the write was taken for one on which the writer thread had died, and its caller was told `CommitUnknown`.
#[test]
fn value_whose_drop_panics_keeps_rollback_reason() {
    let store = store_with_table();
    let (value, dropped) = PanicOnDrop::new();
    let pending = store
        .submit(move |tx| {
            tx.execute("INSERT INTO child VALUES (777)", [])?;
            Ok(value)
        })
        .unwrap();
    let Err(error) = pending.wait() else {
        panic!("a deferred foreign key is violated")
    };
    dropped.recv_timeout(LONG).expect("it was dropped");
    assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    store.write(|tx| insert(tx, 3)).unwrap();
}

/// Submits a write whose closure owns a value, and that has no time to start.
fn withdrawn(store: &Store, value: PanicOnDrop) {
    let brief = WriteOptions::new().queue_timeout(Duration::from_millis(20));
    let result = store.write_with(brief, move |_| {
        let _value = &value;
        Ok(())
    });
    assert!(matches!(result, Err(Error::QueueTimeout { .. })), "{result:?}");
}

#[test]
fn withdrawn_queued_closure_whose_drop_panics_is_harmless() {
    let store = store_with_table();
    let (value, dropped) = PanicOnDrop::new();
    let gate = Gate::hold(&store);
    withdrawn(&store, value);
    let next = store.submit(|tx| insert(tx, 2)).unwrap();
    gate.open();
    dropped.recv_timeout(LONG).expect("it was dropped");
    assert_eq!(next.wait().unwrap(), 2);
    assert_eq!(store.write(|tx| insert(tx, 3)).unwrap(), 3);
}

/// A closure that had been refused stayed until its caller let go of the `Pending`: whoever waited for what it held, as
/// for the other end of a channel, waited for ever, and the caller with it.
#[test]
fn refused_closure_is_dropped_at_once_despite_panic() {
    let store = store_with_table();
    let (value, dropped) = PanicOnDrop::new();
    let gate = Gate::hold(&store);
    let brief = Duration::from_millis(1);
    let refused = store.submit_with(WriteOptions::new().queue_timeout(brief), move |_| {
        let _value = &value;
        Ok(())
    });
    let refused = refused.unwrap();
    let next = store.submit(|tx| insert(tx, 2)).unwrap();
    std::thread::sleep(brief);
    gate.open();
    dropped.recv_timeout(LONG).expect("it was dropped");
    assert_eq!(next.wait().unwrap(), 2);
    let result = refused.wait();
    assert!(matches!(result, Err(Error::QueueTimeout { .. })), "{result:?}");
    assert_eq!(store.write(|tx| insert(tx, 3)).unwrap(), 3);
}

/// What stands in line in front of a full queue is dropped when it is withdrawn, on the thread of its caller.
#[test]
fn withdrawn_blocked_closure_whose_drop_panics_is_harmless() {
    let store = Options::new().queue_capacity(1).open_temp().unwrap();
    let gate = Gate::hold(&store);
    let queued = store.submit(|_| Ok(2)).unwrap();
    let (value, dropped) = PanicOnDrop::new();
    withdrawn(&store, value);
    gate.open();
    dropped.recv_timeout(LONG).expect("it was dropped");
    assert_eq!(queued.wait().unwrap(), 2);
    assert_eq!(store.write(|_| Ok(3)).unwrap(), 3);
}

/// Each goes from the line as it is withdrawn, on the thread of its caller.
#[test]
fn many_withdrawn_closures_with_panicking_drops_are_harmless() {
    let store = Options::new().queue_capacity(1).open_temp().unwrap();
    let gate = Gate::hold(&store);
    let queued = store.submit(|_| Ok(2)).unwrap();
    let drops: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..70)
            .map(|_| {
                let (value, dropped) = PanicOnDrop::new();
                let store = &store;
                let caller = scope.spawn(move || withdrawn(store, value));
                (caller, dropped)
            })
            .collect();
        callers
            .into_iter()
            .map(|(caller, dropped)| {
                caller.join().expect("its caller sees QueueTimeout, no panic");
                dropped
            })
            .collect()
    });
    gate.open();
    assert_eq!(queued.wait().unwrap(), 2);
    for dropped in drops {
        dropped.recv_timeout(LONG).expect("it was dropped");
    }
    assert_eq!(store.write(|_| Ok(3)).unwrap(), 3);
}
