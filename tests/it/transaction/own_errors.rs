//! Closures with an error type of the application's: it comes back as it was, and larder's errors come by `From`.

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use larder::rusqlite::{Connection, ffi};
use larder::{Error, Options, Outcome, ReadOptions, Store, WriteOptions, WriteTx};

use crate::support::{count, write_or_fail};

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// As a service would write it.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("only {0} in stock")]
    OutOfStock(i64),
    #[error("not a number: {0}")]
    Number(#[from] std::num::ParseIntError),
    #[error(transparent)]
    Db(#[from] Error),
}

/// No error by itself: neither `Display` nor `std::error::Error`.
#[derive(Debug, PartialEq)]
enum Plain {
    Own(u32),
    Larder(String),
}

impl From<Error> for Plain {
    fn from(error: Error) -> Self {
        Plain::Larder(error.to_string())
    }
}

fn store() -> Store {
    let store = Options::new()
        .max_group_time(Duration::from_secs(20))
        .open_temp()
        .unwrap();
    let tables = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE) STRICT;
                  CREATE TABLE child(t INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED) STRICT";
    store.write(move |tx| tx.execute_batch(tables)).unwrap();
    store
}

fn insert(tx: &WriteTx<'_>, id: i64) -> Result<i64, AppError> {
    Ok(tx.insert("INSERT INTO t VALUES (?1, NULL)", [id])?)
}

fn fail(tx: &WriteTx<'_>) -> Result<i64, AppError> {
    insert(tx, 1)?;
    Err(AppError::OutOfStock(2))
}

#[track_caller]
fn is_own<T: fmt::Debug>(result: Result<T, AppError>) {
    assert!(matches!(result, Err(AppError::OutOfStock(2))), "{result:?}");
}

#[test]
fn own_error_of_write_rolls_back_and_returns() {
    let store = store();
    let limited = WriteOptions::new().execution_timeout(Duration::from_secs(60));
    is_own(store.transact(fail));
    is_own(store.transact_with(write_or_fail(), fail));
    is_own(store.transact_with(limited, fail));
    assert_eq!(store.transact(|_| Err::<(), _>(Plain::Own(7))), Err(Plain::Own(7)));
    let number = store.transact(|_| -> Result<i64, AppError> { Ok("many".parse()?) });
    assert!(matches!(number, Err(AppError::Number(_))), "{number:?}");
    assert_eq!(count(&store), 0);
    assert_eq!(store.transact(|tx| insert(tx, 1)).unwrap(), 1);
    assert_eq!(count(&store), 1);
}

#[test]
fn own_error_of_read_may_be_of_any_type() {
    let store = store();
    let nothing = |found: bool| if found { Ok(()) } else { Err(AppError::OutOfStock(2)) };
    is_own(store.query(|tx| nothing(tx.exists("SELECT 1 FROM t", [])?)));
    is_own(store.query_with(ReadOptions::new().label("stock"), |_| nothing(false)));

    // Not `Send`, and with what the closure borrows.
    #[derive(Debug)]
    struct Local(Option<Rc<str>>);
    impl From<Error> for Local {
        fn from(_: Error) -> Self {
            Local(None)
        }
    }
    let name = String::from("Ada");
    let local = store.query(|_| Err::<(), _>(Local(Some(Rc::from(name.as_str())))));
    assert_eq!(local.unwrap_err().0.as_deref(), Some("Ada"));
    let larders = store.query(|tx| Ok::<_, Local>(tx.exists("SELECT * FROM missing", [])?));
    assert!(larders.unwrap_err().0.is_none());
}

#[cfg(feature = "async")]
#[test]
fn own_errors_of_tasks_come_back_as_they_were() {
    use futures_executor::block_on;
    let store = store();
    is_own(block_on(store.transact_async(fail)));
    is_own(block_on(store.transact_async_with(write_or_fail(), fail)));
    let gone = |_: &larder::ReadTx<'_>| Err::<(), _>(AppError::OutOfStock(2));
    is_own(block_on(store.query_async(gone)));
    is_own(block_on(store.query_async_with(ReadOptions::new(), gone)));
    assert_eq!(count(&store), 0);
    assert_eq!(block_on(store.transact_async(|tx| insert(tx, 3))).unwrap(), 3);
    let read = store.query_async(|tx| -> Result<i64, AppError> {
        let id: String = tx.query_row("SELECT CAST(id AS TEXT) FROM t", [], |row| row.get(0))?;
        Ok(id.parse()?)
    });
    assert_eq!(block_on(read).unwrap(), 3);
}

/// Through `Error::app` it was `Db(App(Db(Sqlite)))`.
#[test]
fn error_of_larder_is_wrapped_once() {
    let store = store();
    let twice = |tx: &WriteTx<'_>| insert(tx, 1).and_then(|_| insert(tx, 1));
    for result in [
        store.transact(twice),
        store.transact(move |tx| tx.transact(twice)),
        store.transact(move |tx| tx.transact(|tx| tx.transact(twice))),
    ] {
        let Err(AppError::Db(error @ Error::Sqlite { .. })) = result else {
            panic!("{result:?}");
        };
        assert_eq!(error.outcome(), Outcome::RolledBack);
        let code = error.sqlite().unwrap().sqlite_extended_error_code();
        assert_eq!(code, Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY));
    }
    let missing = store.query(|tx| Ok::<_, AppError>(tx.exists("SELECT 1 FROM missing", [])?));
    assert!(
        matches!(missing, Err(AppError::Db(Error::Sqlite { .. }))),
        "{missing:?}"
    );
}

#[test]
fn common_error_types_need_no_code() {
    let store = store();
    let boxed = store.transact(|tx| -> Result<i64, Boxed> {
        insert(tx, 1)?;
        Ok("many".parse()?)
    });
    assert!(boxed.unwrap_err().is::<std::num::ParseIntError>());
    let boxed = store.transact(|tx| -> Result<(), Boxed> { Ok(tx.execute_batch("SELECT missing()")?) });
    assert!(matches!(boxed.unwrap_err().downcast_ref(), Some(Error::Sqlite { .. })));

    let any = store.transact(|tx| -> anyhow::Result<()> {
        tx.execute("INSERT INTO t VALUES (1, NULL)", [])?;
        anyhow::bail!("only {} in stock", 2)
    });
    assert_eq!(any.unwrap_err().to_string(), "only 2 in stock");
    let any = store.query(|tx| -> anyhow::Result<bool> { Ok(tx.exists("SELECT missing()", [])?) });
    assert!(matches!(any.unwrap_err().downcast_ref(), Some(Error::Sqlite { .. })));
    assert_eq!(count(&store), 0);
}

/// With larder's own type the calls are `write`, `savepoint` and `read`: what rusqlite's methods returned is explained.
#[test]
fn larders_own_type_is_explained_as_ever() {
    let store = store();
    let commit = |tx: &WriteTx<'_>| -> larder::Result<()> { Ok(Connection::execute_batch(tx, "COMMIT")?) };
    for refused in [
        store.transact(commit),
        store.transact(move |tx| tx.transact(commit)),
        store.query(|tx| Ok(Connection::execute_batch(tx, "DELETE FROM t")?)),
    ] {
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }
    let app = store.transact(|_| Err::<(), _>(Error::app("no"))).unwrap_err();
    assert!(matches!(app, Error::App(_)) && app.to_string() == "no", "{app:?}");
}

#[cfg(feature = "async")]
#[test]
fn own_error_in_a_group_undoes_only_itself() {
    use crate::support::blocker;
    use crate::support::tasks::poll;
    use futures_executor::block_on;

    let store = store();
    let before = store.stats();
    let (let_go, blocked) = blocker(&store);
    let mut calls: Vec<_> = (1..=10)
        .map(|id| {
            Box::pin(store.transact_async(move |tx| match insert(tx, id)? {
                5 => Err(AppError::OutOfStock(2)),
                id => Ok(id),
            }))
        })
        .collect();
    for call in &mut calls {
        assert!(poll(call).is_pending());
    }
    drop(let_go);
    blocked.wait().unwrap();
    for (call, id) in calls.into_iter().zip(1..) {
        match block_on(call) {
            Ok(inserted) => assert_eq!(inserted, id),
            own => {
                assert_eq!(id, 5, "{own:?}");
                is_own(own);
            }
        }
    }
    let ids: Vec<i64> = store
        .read(|tx| tx.query_map("SELECT id FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(ids, [1, 2, 3, 4, 6, 7, 8, 9, 10]);
    let stats = store.stats();
    assert_eq!(stats.groups - before.groups, 1, "they were one group");
    assert_eq!(stats.failed_writes - before.failed_writes, 1);
}

/// As with `write`: the closure's error says more than that of the transaction, unless larder stopped the closure.
#[test]
fn swallowed_errors_are_judged_as_by_write() {
    let store = store();
    let ended = "INSERT OR ROLLBACK INTO t VALUES (1, NULL), (1, NULL)";
    is_own(store.transact(move |tx| {
        assert!(tx.execute(ended, []).is_err());
        Err::<(), _>(AppError::OutOfStock(2))
    }));
    let ignored = store.transact(move |tx| {
        assert!(tx.execute(ended, []).is_err());
        Ok::<_, AppError>(())
    });
    let Err(AppError::Db(Error::RolledBack {
        caused_by_closure: true,
        ..
    })) = ignored
    else {
        panic!("{ignored:?}");
    };

    let orphan = "INSERT INTO child VALUES (99)";
    is_own(store.transact(move |tx| {
        tx.execute(orphan, [])?;
        fail(tx)
    }));
    let error = store
        .transact(move |tx| Ok::<_, AppError>(tx.execute(orphan, [])?))
        .unwrap_err();
    let AppError::Db(error) = error else {
        panic!("{error:?}")
    };
    let code = error.sqlite().and_then(|error| error.sqlite_extended_error_code());
    assert_eq!(code, Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY));

    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let briefly = WriteOptions::new().execution_timeout(Duration::from_millis(5));
    let stopped = store.transact_with(briefly, move |tx| {
        tx.query_row(endless, [], |_| Ok(()))
            .map_err(|_| AppError::OutOfStock(2))
    });
    assert!(
        matches!(stopped, Err(AppError::Db(Error::Interrupted { .. }))),
        "{stopped:?}"
    );
    assert_eq!(count(&store), 0);
}

#[test]
fn own_error_in_savepoint_undoes_only_it() {
    let store = store();
    store
        .transact(|tx| {
            insert(tx, 1)?;
            is_own(tx.transact(|tx| {
                insert(tx, 2)?;
                Err::<(), _>(AppError::OutOfStock(2))
            }));
            // Another type inside.
            let plain = tx.transact(|tx| {
                tx.execute("INSERT INTO t VALUES (3, NULL)", [])?;
                Err::<(), _>(Plain::Own(3))
            });
            assert_eq!(plain, Err(Plain::Own(3)));
            tx.transact(|tx| insert(tx, 4))
        })
        .unwrap();
    let ids: Vec<i64> = store
        .read(|tx| tx.query_map("SELECT id FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(ids, [1, 4]);
    // SQLite has ended the transaction, so the savepoint cannot begin.
    let over = store.transact(|tx| {
        let _ = tx.execute("INSERT OR ROLLBACK INTO t VALUES (9, NULL), (9, NULL)", []);
        tx.transact(|_| Err::<(), _>(AppError::OutOfStock(2)))
    });
    assert!(matches!(over, Err(AppError::Db(Error::RolledBack { .. }))), "{over:?}");
}

#[test]
fn nested_calls_are_reentrant_by_their_names() {
    let store = Options::new().readers(1).open_temp().unwrap();
    let call = |error| match error {
        AppError::Db(Error::Reentrant { call, .. }) => call,
        other => panic!("{other:?}"),
    };
    let inside = store.clone();
    let error = store
        .transact(move |_| inside.transact(|tx| insert(tx, 1)))
        .unwrap_err();
    assert_eq!(call(error), "transact");
    let error = store.query(|_| store.query(|_| Ok::<_, AppError>(()))).unwrap_err();
    assert_eq!(call(error), "query");
    #[cfg(feature = "async")]
    {
        let inside = store.clone();
        let nested = move |_: &WriteTx<'_>| futures_executor::block_on(inside.transact_async(|tx| insert(tx, 1)));
        let error = store.transact(nested).unwrap_err();
        assert_eq!(call(error), "transact_async");
        let error = futures_executor::block_on(store.query_async({
            let inside = store.clone();
            move |_| futures_executor::block_on(inside.query_async(|_| Ok::<_, AppError>(())))
        }));
        assert_eq!(call(error.unwrap_err()), "query_async");
    }
    store.close().unwrap();
    let closed = store.transact(|tx| insert(tx, 1));
    assert!(matches!(closed, Err(AppError::Db(Error::Closed))), "{closed:?}");
    let closed = store.query(|_| Ok::<_, AppError>(()));
    assert!(matches!(closed, Err(AppError::Db(Error::Closed))), "{closed:?}");
}

/// Where the own error is larder's, it may be about another call.
#[test]
fn call_inside_keeps_its_name() {
    let store = Options::new().readers(1).open_temp().unwrap();
    let call = |result: larder::Result<()>| match result.unwrap_err() {
        Error::Reentrant { call, .. } => call,
        other => panic!("{other:?}"),
    };
    assert_eq!(call(store.query(|_| store.read(|_| Ok(())))), "read");
    let inside = store.clone();
    assert_eq!(call(store.transact(move |_| inside.write(|_| Ok(())))), "write");
    #[cfg(feature = "async")]
    {
        use futures_executor::block_on;
        let inside = store.clone();
        let read = store.query_async(move |_| block_on(inside.read_async(|_| Ok(()))));
        assert_eq!(call(block_on(read)), "read_async");
        let inside = store.clone();
        let write = store.transact_async(move |_| block_on(inside.write_async(|_| Ok(()))));
        assert_eq!(call(block_on(write)), "write_async");
    }
}

// ---- types that misbehave ----

#[derive(Debug)]
struct NoConversion;

impl From<Error> for NoConversion {
    fn from(error: Error) -> Self {
        panic!("cannot convert: {error}");
    }
}

#[track_caller]
fn panics<T>(call: impl FnOnce() -> T) -> String {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    let payload = result.err().expect("it panics");
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn panic_in_conversion_harms_no_store() {
    let store = store();
    // In the closure, by `?`.
    let said = panics(|| {
        store.transact(|tx| {
            tx.execute("INSERT INTO t VALUES (1, NULL)", [])?;
            tx.execute("SELEKT", [])?;
            Ok::<_, NoConversion>(())
        })
    });
    assert!(said.starts_with("cannot convert: "), "{said}");
    // On the caller's side.
    let said = panics(|| {
        store.transact(|tx| {
            let _ = tx.execute("INSERT OR ROLLBACK INTO t VALUES (1, NULL), (1, NULL)", []);
            Ok::<_, NoConversion>(())
        })
    });
    assert!(said.contains("the write was rolled back"), "{said}");
    let full = Options::new().readers(1).open_temp().unwrap();
    let said = panics(|| full.read(|_| Ok(full.query(|_| Ok::<_, NoConversion>(())))));
    assert!(
        said.contains("read would deadlock") || said.contains("query would deadlock"),
        "{said}"
    );
    full.read(|_| Ok(())).unwrap();
    assert_eq!(count(&store), 0);
    store.transact(|tx| insert(tx, 1)).unwrap();
    assert!(store.close().unwrap().wal_truncated);
}

static DROPS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct PanicsInDrop(Option<Error>);

impl From<Error> for PanicsInDrop {
    fn from(error: Error) -> Self {
        PanicsInDrop(Some(error))
    }
}

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        DROPS.fetch_add(1, SeqCst);
        if self.0.is_none() && !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

/// Where nobody receives the error: the time limit takes its place, or the future is gone.
#[test]
fn panic_in_drop_harms_no_store() {
    let store = store();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let briefly = WriteOptions::new().execution_timeout(Duration::from_millis(5));
    // On a busy machine the limit may pass before the closure begins.
    let ran = std::sync::Arc::new(AtomicUsize::new(0));
    let runs = std::sync::Arc::clone(&ran);
    let stopped = store.transact_with(briefly, move |tx| {
        runs.fetch_add(1, SeqCst);
        tx.query_row(endless, [], |_| Ok(())).map_err(|_| PanicsInDrop(None))
    });
    let error = stopped.unwrap_err();
    assert!(matches!(error.0, Some(Error::Interrupted { .. })), "{error:?}");
    // The writer thread may drop it after the reply.
    crate::support::until(&store, |_| DROPS.load(SeqCst) == ran.load(SeqCst));
    let briefly = ReadOptions::new().execution_timeout(Duration::from_millis(5));
    let ran = std::cell::Cell::new(false);
    let read = || {
        store.query_with(briefly.clone(), |tx| {
            ran.set(true);
            tx.query_row(endless, [], |_| Ok(())).map_err(|_| PanicsInDrop(None))
        })
    };
    loop {
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        if ran.get() {
            assert!(read.is_err(), "the panic of the drop");
            break;
        }
        let error = read.expect("no error of the closure was dropped").unwrap_err();
        assert!(matches!(error.0, Some(Error::Interrupted { .. })), "{error:?}");
    }
    #[cfg(feature = "async")]
    {
        use crate::support::tasks::poll;
        let (running, runs) = std::sync::mpsc::channel();
        let (let_go, told) = std::sync::mpsc::channel::<()>();
        let mut write = Box::pin(store.transact_async(move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Err::<(), _>(PanicsInDrop(None))
        }));
        assert!(poll(&mut write).is_pending());
        runs.recv().unwrap();
        drop(write);
        drop(let_go);
    }
    store.transact(|tx| insert(tx, 1)).unwrap();
    assert_eq!(count(&store), 1);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn own_errors_count_as_errors_of_the_application() {
    let store = store();
    let before = store.stats().failed_writes;
    is_own(store.transact(fail));
    assert_eq!(store.stats().failed_writes, before + 1);
    let retryable = || {
        let (let_go, blocked) = crate::support::blocker(&store);
        let full = store.transact_with(WriteOptions::new().queue_timeout(Duration::from_millis(1)), |tx| {
            insert(tx, 1)
        });
        drop(let_go);
        blocked.wait().unwrap();
        full
    };
    let Err(AppError::Db(error)) = retryable() else {
        panic!("it was queued behind a write");
    };
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
}

#[cfg(feature = "replicate")]
#[test]
fn own_errors_of_followers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path().join("replica");
    let replica = replica.to_str().unwrap();
    let store = Options::new()
        .replicate_to(replica)
        .open(folder.path().join("app.db"))
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store.replica().unwrap().flush(crate::support::child::PATIENCE).unwrap();
    let follower = larder::Follower::open(replica, folder.path().join("follower.db")).unwrap();
    let gone = |tx: &larder::ReadTx<'_>| match tx.exists("SELECT 1 FROM t", [])? {
        true => Ok(()),
        false => Err(AppError::OutOfStock(2)),
    };
    is_own(follower.query(gone));
    is_own(follower.query_with(ReadOptions::new().label("stock"), gone));
    let missing = follower.query(|tx| Ok::<_, AppError>(tx.exists("SELECT 1 FROM missing", [])?));
    assert!(
        matches!(missing, Err(AppError::Db(Error::Sqlite { .. }))),
        "{missing:?}"
    );
    #[cfg(feature = "async")]
    {
        is_own(futures_executor::block_on(follower.query_async(gone)));
        is_own(futures_executor::block_on(
            follower.query_async_with(ReadOptions::new(), gone),
        ));
    }
    follower.close().unwrap();
    store.close().unwrap();
}
