//! A call that would wait for its own thread fails at once, and the store keeps working.

use crate::support::write_or_fail;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use larder::{Error, Options, Outcome, Pending, ReadOptions, Result, Store};

use crate::write::groups::Gate;

/// Half of the shortest time-out that a hang would run into.
const AT_ONCE: Duration = Duration::from_secs(15);

fn store_with_row(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)"))
        .unwrap();
    store
}

fn count(store: &Store) -> Result<i64> {
    store.read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
}

/// Runs `call` inside a write; it must give `Reentrant` at once, and the write around it must commit.
fn reentrant_in_a_write<T: std::fmt::Debug + Send + 'static>(
    name: &str,
    call: impl FnOnce(&Store) -> Result<T> + Send + 'static,
) {
    let store = store_with_row(Options::new());
    let inside = store.clone();
    let start = Instant::now();
    let inner = store
        .write(move |tx| {
            tx.execute("INSERT INTO t VALUES (2)", [])?;
            Ok(call(&inside))
        })
        .unwrap();
    assert!(start.elapsed() < AT_ONCE);
    match inner {
        Err(error @ Error::Reentrant { call, .. }) => {
            assert_eq!(call, name);
            assert_eq!(error.outcome(), Outcome::NotStarted);
            assert!(!error.is_retryable());
        }
        other => panic!("{other:?}"),
    }
    store.write(|tx| tx.execute("INSERT INTO t VALUES (3)", [])).unwrap();
    assert_eq!(count(&store).unwrap(), 3);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn write_inside_a_write_is_reentrant() {
    reentrant_in_a_write("write", |store| store.write(|tx| tx.execute("DELETE FROM t", [])));
}

#[test]
fn write_without_waiting_inside_a_write_is_reentrant() {
    reentrant_in_a_write("write", |store| {
        store.write_with(write_or_fail(), |tx| tx.execute("DELETE FROM t", []))
    });
}

#[test]
fn submit_inside_a_write_is_reentrant() {
    reentrant_in_a_write("submit", |store| {
        store.submit(|tx| tx.execute("DELETE FROM t", [])).map(drop)
    });
}

#[test]
fn closing_inside_a_write_is_reentrant() {
    reentrant_in_a_write("close", |store| store.close().map(drop));
}

#[test]
fn waiting_inside_a_write_is_reentrant() {
    let store = store_with_row(Options::new());
    let gate = Gate::hold(&store);
    let (give, take) = channel::<larder::Pending<i64>>();
    let waiting = store.submit(move |_| Ok(take.recv().unwrap().wait())).unwrap();
    let waited_for = store.submit(|tx| tx.insert("INSERT INTO t VALUES (2)", [])).unwrap();
    give.send(waited_for).unwrap();
    gate.open();
    let inner = waiting.wait().unwrap();
    assert!(
        matches!(
            inner,
            Err(Error::Reentrant {
                call: "Pending::wait",
                ..
            })
        ),
        "{inner:?}"
    );
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store).unwrap(), 2, "the write that was not waited for went on");
}

#[test]
fn wait_timeout_inside_a_write_is_reentrant() {
    let store = store_with_row(Options::new());
    let gate = Gate::hold(&store);
    let (give, take) = channel::<larder::Pending<i64>>();
    let waiting = store
        .submit(move |_| Ok(take.recv().unwrap().wait_timeout(Duration::from_secs(60))))
        .unwrap();
    give.send(store.submit(|tx| tx.insert("INSERT INTO t VALUES (2)", [])).unwrap())
        .unwrap();
    gate.open();
    let inner = waiting.wait().unwrap();
    assert!(matches!(inner, Some(Err(Error::Reentrant { .. }))), "{inner:?}");
}

/// The writer's own call was told that the write had not started, which was committed right after it.
#[test]
fn waiting_inside_a_write_claims_no_outcome() {
    let store = store_with_row(Options::new());
    for wait in [
        (|pending| pending.wait().unwrap_err()) as fn(Pending<i64>) -> Error,
        |mut pending| pending.wait_timeout(Duration::from_secs(60)).unwrap().unwrap_err(),
        |mut pending| match Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.unwrap_err(),
            Poll::Pending => panic!("nobody would wake it"),
        },
    ] {
        let before = count(&store).unwrap();
        let gate = Gate::hold(&store);
        let (give, take) = channel::<Pending<i64>>();
        let waiting = store.submit(move |_| Ok(wait(take.recv().unwrap()))).unwrap();
        give.send(store.submit(|tx| tx.insert("INSERT INTO t VALUES (NULL)", [])).unwrap())
            .unwrap();
        gate.open();
        let error = waiting.wait().unwrap();
        assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("goes on"), "{error}");
        store.write(|_| Ok(())).unwrap();
        assert_eq!(count(&store).unwrap(), before + 1, "the write went on");
    }
}

#[test]
fn waiting_inside_a_write_returns_a_finished_result() {
    let store = store_with_row(Options::new());
    for wait in [
        (|pending| pending.wait()) as fn(Pending<i64>) -> Result<i64>,
        |mut pending| pending.wait_timeout(Duration::ZERO).unwrap(),
        |mut pending| match Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it is there"),
        },
    ] {
        let done = store.submit(|tx| tx.insert("INSERT INTO t VALUES (NULL)", [])).unwrap();
        let failed = store.submit(|_| Err::<i64, _>(Error::app("no"))).unwrap();
        store.write(|_| Ok(())).unwrap();
        let last = count(&store).unwrap();
        assert_eq!(store.write(move |_| Ok(wait(done))).unwrap().unwrap(), last);
        let error = store.write(move |_| Ok(wait(failed))).unwrap().unwrap_err();
        assert_eq!(
            (error.to_string(), error.outcome()),
            ("no".to_owned(), Outcome::RolledBack)
        );
    }
}

/// A future that is polled on the writer thread ends there, and its write with it.
#[cfg(feature = "async")]
#[test]
fn write_async_awaited_inside_a_write_never_starts() {
    let store = store_with_row(Options::new());
    let gate = Gate::hold(&store);
    type Call = Pin<Box<dyn Future<Output = Result<i64>> + Send>>;
    let (give, take) = channel::<Call>();
    let waiting = store
        .submit(move |_| {
            let mut call = take.recv().unwrap();
            Ok(match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result.unwrap_err(),
                Poll::Pending => panic!("nobody would wake it"),
            })
        })
        .unwrap();
    let mut call: Call = Box::pin(store.write_async(|tx| tx.insert("INSERT INTO t VALUES (NULL)", [])));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    give.send(call).unwrap();
    gate.open();
    let error = waiting.wait().unwrap();
    assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store).unwrap(), 1);
}

/// `block_on(pending)` inside a write would poll it once and then sleep for ever, on the thread that has to make
/// the write.
#[test]
fn awaiting_inside_a_write_is_reentrant() {
    let store = store_with_row(Options::new());
    let gate = Gate::hold(&store);
    let (give, take) = channel::<larder::Pending<i64>>();
    let polling = store
        .submit(move |_| {
            let mut pending = pin!(take.recv().unwrap());
            Ok(pending.as_mut().poll(&mut Context::from_waker(Waker::noop())))
        })
        .unwrap();
    give.send(store.submit(|tx| tx.insert("INSERT INTO t VALUES (2)", [])).unwrap())
        .unwrap();
    gate.open();
    let inner = polling.wait().unwrap();
    assert!(matches!(inner, Poll::Ready(Err(Error::Reentrant { .. }))), "{inner:?}");
}

#[test]
fn write_to_another_store_inside_write_works() {
    let (one, other) = (store_with_row(Options::new()), store_with_row(Options::new()));
    let inside = other.clone();
    one.write(move |_| inside.write(|tx| tx.execute("INSERT INTO t VALUES (2)", [])))
        .unwrap();
    assert_eq!(count(&other).unwrap(), 2);
}

#[test]
fn write_inside_a_read_works_unseen_by_it() {
    let store = store_with_row(Options::new());
    store
        .read(|tx| {
            let before: i64 = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
            store.write(|tx| tx.execute("INSERT INTO t VALUES (2)", []))?;
            let after: i64 = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
            assert_eq!((before, after), (1, 1));
            Ok(())
        })
        .unwrap();
    assert_eq!(count(&store).unwrap(), 2);
}

#[test]
fn read_inside_a_write_sees_committed_data() {
    let store = store_with_row(Options::new().readers(1));
    let inside = store.clone();
    let (outer, inner) = store
        .write(move |tx| {
            tx.execute("INSERT INTO t VALUES (2)", [])?;
            let outer: i64 = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
            Ok((outer, count(&inside)?))
        })
        .unwrap();
    assert_eq!((outer, inner), (2, 1));
}

#[test]
fn read_inside_write_is_reentrant_without_free_reader() {
    let store = store_with_row(Options::new().readers(1).read_queue_timeout(Duration::from_secs(60)));
    let inside = store.clone();
    let start = Instant::now();
    store
        .read(|tx| {
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            let inner = store.write(move |_| Ok(count(&inside)))?;
            assert!(matches!(inner, Err(Error::Reentrant { call: "read", .. })), "{inner:?}");
            Ok(())
        })
        .unwrap();
    assert!(start.elapsed() < AT_ONCE);
    assert_eq!(count(&store).unwrap(), 1);
}

#[test]
fn nested_read_works_while_connections_are_left() {
    let store = store_with_row(Options::new().readers(3));
    let three = store
        .read(|_| store.read(|_| store.read(|tx| tx.query_row("SELECT 3", [], |row| row.get::<_, i64>(0)))))
        .unwrap();
    assert_eq!(three, 3);
}

#[test]
fn nested_read_is_reentrant_without_free_reader() {
    for readers in [1, 2] {
        let store = store_with_row(
            Options::new()
                .readers(readers)
                .read_queue_timeout(Duration::from_secs(60)),
        );
        let start = Instant::now();
        let error = if readers == 1 {
            store.read(|_| count(&store)).unwrap_err()
        } else {
            store.read(|_| store.read(|_| count(&store))).unwrap_err()
        };
        assert!(matches!(error, Error::Reentrant { call: "read", .. }), "{error:?}");
        assert!(start.elapsed() < AT_ONCE);
        assert_eq!(count(&store).unwrap(), 1);
    }
}

#[test]
fn threads_with_nested_reads_time_out() {
    let store = store_with_row(Options::new().readers(2).read_queue_timeout(Duration::from_millis(100)));
    let (both_hold_one, both_have_tried) = (Barrier::new(2), Barrier::new(2));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // On a machine that is busy it takes longer than 100 ms to open the readers.
                let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
                store
                    .read_with(patient, |tx| {
                        assert!(tx.exists("SELECT 1 FROM t", [])?);
                        both_hold_one.wait();
                        let error = count(&store).unwrap_err();
                        both_have_tried.wait();
                        match &error {
                            Error::ReadQueueTimeout {
                                waited,
                                readers: 2,
                                held_here: 1,
                                ..
                            } => assert!(*waited >= Duration::from_millis(100)),
                            other => panic!("{other:?}"),
                        }
                        assert!(error.is_retryable());
                        assert!(error.to_string().contains("nested reads"), "{error}");
                        Ok(())
                    })
                    .unwrap();
            });
        }
    });
    assert!(start.elapsed() < AT_ONCE);
    assert_eq!(count(&store).unwrap(), 1);
}

#[test]
fn closing_inside_a_read_is_reentrant() {
    let store = store_with_row(Options::new());
    store
        .read(|tx| {
            let error = store.close().unwrap_err();
            assert!(matches!(error, Error::Reentrant { call: "close", .. }), "{error:?}");
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            Ok(())
        })
        .unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES (2)", [])).unwrap();
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn read_with_own_timeout_gives_up_sooner() {
    let store = store_with_row(Options::new().readers(1).read_queue_timeout(Duration::from_secs(60)));
    let start = Instant::now();
    store
        .read(|_| {
            std::thread::scope(|scope| {
                let options = ReadOptions::new().queue_timeout(Duration::from_millis(20));
                let other = scope.spawn(|| store.read_with(options, |_| Ok(())));
                let error = other.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::ReadQueueTimeout { .. }), "{error:?}");
            });
            Ok(())
        })
        .unwrap();
    assert!(start.elapsed() < AT_ONCE);
}

/// Opening waits for a store that closes, so it shows when that has come to its end.
fn reopened_with(path: &std::path::Path, rows: i64) {
    let start = Instant::now();
    let store = Store::open(path).unwrap();
    assert!(start.elapsed() < AT_ONCE);
    assert_eq!(count(&store).unwrap(), rows);
}

fn store_in(folder: &tempfile::TempDir) -> (Store, std::path::PathBuf) {
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)"))
        .unwrap();
    (store, path)
}

#[test]
fn last_clone_dropped_inside_write_finishes_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store_in(&folder);
    let gate = Gate::hold(&store);
    let (give, take) = channel::<Store>();
    let dropping = store
        .submit(move |tx| {
            drop(take.recv().unwrap());
            tx.insert("INSERT INTO t VALUES (2)", [])
        })
        .unwrap();
    let queued = store.submit(|tx| tx.insert("INSERT INTO t VALUES (3)", [])).unwrap();
    give.send(store).unwrap();
    gate.open();
    assert_eq!(dropping.wait().unwrap(), 2);
    assert_eq!(queued.wait().unwrap(), 3);
    reopened_with(&path, 3);
}

#[test]
fn last_clone_in_closures_value_closes_on_writer() {
    struct Last(Option<Store>, std::sync::mpsc::Sender<()>);
    impl Drop for Last {
        fn drop(&mut self) {
            drop(self.0.take());
            let _ = self.1.send(());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store_in(&folder);
    let gate = Gate::hold(&store);
    let (gone, is_gone) = channel();
    let last = Last(Some(store.clone()), gone);
    drop(
        store
            .submit(move |tx| {
                tx.insert("INSERT INTO t VALUES (2)", [])?;
                Ok(last)
            })
            .unwrap(),
    );
    drop(store);
    gate.open();
    is_gone.recv().unwrap();
    reopened_with(&path, 2);
}

/// `read` borrows the store that it is called on, so the very last one goes right after the closure.
#[test]
fn clone_dropped_inside_read_keeps_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store_in(&folder);
    let clones = vec![store.clone(), store.clone()];
    store
        .read(move |tx| {
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            drop(clones);
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            Ok(())
        })
        .unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES (2)", [])).unwrap();
    drop(store);
    reopened_with(&path, 2);
}

#[test]
fn last_clone_of_another_store_closes_inside_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store_in(&folder);
    let outer = Store::open_temp().unwrap();
    outer
        .read(|_| {
            drop(store);
            reopened_with(&path, 1);
            Ok(())
        })
        .unwrap();
}
