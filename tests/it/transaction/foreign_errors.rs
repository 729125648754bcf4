//! Errors of a closure's own connections to other databases. They are returned unchanged: they count as no refusal,
//! give no advice about the store, and do not affect its state.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use larder::rusqlite::hooks::{AuthContext, Authorization};
use larder::rusqlite::{self, Connection, OpenFlags, ffi};
use larder::{AlertKind, Error, ErrorOrigin, Options, Outcome, ReadTx, Result, Role, Store, WriteTx};
use tempfile::{TempDir, tempdir};

/// An error of a database in that folder which has nothing to do with the store.
type Foreign = fn(&Path) -> rusqlite::Error;

const FOREIGN: &[(i32, Foreign)] = &[
    (ffi::SQLITE_READONLY, readonly),
    (ffi::SQLITE_FULL, full),
    (ffi::SQLITE_AUTH, unauthorized),
    (ffi::SQLITE_NOTADB, no_database),
    (ffi::SQLITE_INTERRUPT, interrupted),
    (ffi::SQLITE_BUSY, busy),
    (ffi::SQLITE_ERROR, vacuum_in_transaction),
];

fn database(folder: &Path) -> Connection {
    let conn = Connection::open(folder.join("foreign.db")).unwrap();
    conn.execute_batch("CREATE TABLE IF NOT EXISTS foreign_table(data BLOB)")
        .unwrap();
    conn
}

fn readonly(folder: &Path) -> rusqlite::Error {
    drop(database(folder));
    let conn = Connection::open_with_flags(folder.join("foreign.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.execute("INSERT INTO foreign_table VALUES (1)", []).unwrap_err()
}

fn full(folder: &Path) -> rusqlite::Error {
    let conn = database(folder);
    conn.pragma_update(None, "max_page_count", 3).unwrap();
    conn.execute("INSERT INTO foreign_table VALUES (zeroblob(100000))", [])
        .unwrap_err()
}

fn unauthorized(folder: &Path) -> rusqlite::Error {
    let conn = database(folder);
    conn.authorizer(Some(|_: AuthContext<'_>| Authorization::Deny)).unwrap();
    conn.execute("INSERT INTO foreign_table VALUES (1)", []).unwrap_err()
}

fn no_database(folder: &Path) -> rusqlite::Error {
    let path = folder.join("garbage.db");
    std::fs::write(&path, [7; 4096]).unwrap();
    Connection::open(path)
        .unwrap()
        .execute_batch("SELECT * FROM t")
        .unwrap_err()
}

fn interrupted(folder: &Path) -> rusqlite::Error {
    let conn = database(folder);
    conn.progress_handler(1, Some(|| true)).unwrap();
    conn.query_row("SELECT count(*) FROM foreign_table", [], |_| Ok(()))
        .unwrap_err()
}

fn busy(folder: &Path) -> rusqlite::Error {
    let holder = database(folder);
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let conn = Connection::open(folder.join("foreign.db")).unwrap();
    conn.busy_timeout(Duration::ZERO).unwrap();
    conn.execute("INSERT INTO foreign_table VALUES (1)", []).unwrap_err()
}

fn vacuum_in_transaction(folder: &Path) -> rusqlite::Error {
    let conn = database(folder);
    conn.execute_batch("BEGIN; VACUUM").unwrap_err()
}

fn store_with_table(options: Options) -> (TempDir, Store) {
    let folder = tempdir().unwrap();
    let store = options.open(folder.path().join("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB); INSERT INTO t(id) VALUES (1)"))
        .unwrap();
    (folder, store)
}

#[track_caller]
fn assert_foreign(error: &Error, code: i32) {
    let Error::Sqlite { source, origin, .. } = error else {
        panic!("{code}: {error:?}");
    };
    assert_eq!(source.sqlite_error().unwrap().extended_code & 0xff, code);
    assert_eq!(*origin, ErrorOrigin::Other, "{error}");
    assert_eq!(error.outcome(), Outcome::RolledBack, "{error}");
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(error.to_string(), source.to_string(), "it has no advice");
}

/// How a closure comes by the error.
type InRead = fn(&ReadTx<'_>, rusqlite::Error) -> Result<()>;
type InWrite = fn(&WriteTx<'_>, rusqlite::Error) -> Result<()>;

const IN_READS: &[InRead] = &[
    |_, error| Err(error.into()),
    |tx, error| {
        tx.exists("SELECT 1 FROM t", [])?;
        Err(error.into())
    },
    |tx, error| tx.query_row("SELECT 1", [], |_| Err(error)),
    |tx, error| {
        let mut error = Some(error);
        tx.query_each("SELECT id FROM t", [], |_| Err(error.take().expect("there is one row")))
    },
];

const IN_WRITES: &[InWrite] = &[
    |_, error| Err(error.into()),
    |tx, error| {
        tx.execute("UPDATE t SET id = 2", [])?;
        Err(error.into())
    },
    |tx, error| tx.savepoint(|_| Err(error.into())),
    |tx, error| tx.query_row("SELECT 1", [], |_| Err(error)),
];

/// A READONLY became "a read cannot write: use store.write".
#[test]
fn foreign_error_in_read_comes_back_unchanged() {
    let (folder, store) = store_with_table(Options::new());
    for (code, foreign) in FOREIGN {
        for way in IN_READS {
            let error = store.read(|tx| way(tx, foreign(folder.path()))).unwrap_err();
            assert_foreign(&error, *code);
        }
    }
    store.read(|tx| tx.exists("SELECT 1 FROM t", [])).unwrap();
}

#[test]
fn foreign_error_in_write_comes_back_unchanged() {
    let (folder, store) = store_with_table(Options::new());
    for (code, foreign) in FOREIGN {
        for way in IN_WRITES {
            let folder = folder.path().to_owned();
            let error = store.write(move |tx| way(tx, foreign(&folder))).unwrap_err();
            assert_foreign(&error, *code);
        }
    }
    let id: i64 = store
        .read(|tx| tx.query_row("SELECT id FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(id, 1, "all were rolled back");
}

#[cfg(feature = "async")]
#[test]
fn foreign_and_own_errors_in_shared_snapshot_differ() {
    use futures_executor::block_on;
    let (folder, store) = store_with_table(Options::new().readers(1));
    let (running, runs) = std::sync::mpsc::channel();
    let (let_go, told) = std::sync::mpsc::channel::<()>();
    let reader = store.clone();
    let held = std::thread::spawn(move || {
        block_on(reader.read_async(move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        }))
    });
    runs.recv().unwrap();
    // They share a snapshot. The second runs no statement of the store's.
    let folder = folder.path().to_owned();
    let mut own = Box::pin(store.read_async(|tx| Ok(Connection::execute(tx, "DELETE FROM t", [])?)));
    let mut foreign = Box::pin(store.read_async(move |_| Err::<(), _>(readonly(&folder).into())));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(own.as_mut(), &mut context).is_pending());
    assert!(std::future::Future::poll(foreign.as_mut(), &mut context).is_pending());
    drop(let_go);
    held.join().unwrap().unwrap();
    let error = block_on(own).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_foreign(&block_on(foreign).unwrap_err(), ffi::SQLITE_READONLY);
}

/// An alert of the store, which is looked for together with that of a full disk.
#[track_caller]
fn alerts(store: &Store) -> Vec<AlertKind> {
    let give_up = Instant::now() + crate::support::child::PATIENCE;
    store
        .read(|_| {
            loop {
                let alerts: Vec<_> = store.stats().alerts.iter().map(|alert| alert.kind).collect();
                if alerts.contains(&AlertKind::OldRead) {
                    return Ok(alerts);
                }
                assert!(Instant::now() < give_up, "the read is not told to be old");
                std::thread::yield_now();
            }
        })
        .unwrap()
}

fn watched() -> Options {
    Options::new()
        .monitor_interval(Duration::from_millis(5))
        .max_reader_age(Duration::from_millis(20))
}

/// The store told that its disk was full.
#[test]
fn foreign_full_disk_raises_no_alert() {
    let (folder, store) = store_with_table(watched());
    for way in IN_WRITES {
        let folder = folder.path().to_owned();
        store.write(move |tx| way(tx, full(&folder))).unwrap_err();
    }
    assert!(!alerts(&store).contains(&AlertKind::DiskFull));
}

/// As by rusqlite's own methods, whose errors are looked at as the closure ends.
#[test]
fn own_full_disk_raises_alert_by_every_method() {
    const LARGE: &str = "INSERT INTO t(data) VALUES (zeroblob(1000000))";
    let ways: [fn(&WriteTx<'_>) -> Result<()>; 4] = [
        |tx| tx.execute(LARGE, []).map(drop),
        |tx| tx.execute_batch(LARGE),
        |tx| Ok(Connection::execute_batch(tx, LARGE)?),
        |tx| tx.savepoint(|tx| Ok(Connection::execute_batch(tx, LARGE)?)),
    ];
    for way in ways {
        let (_folder, store) = store_with_table(watched().on_connect(|conn, role| {
            if role == Role::Writer {
                conn.pragma_update(None, "max_page_count", 50)?;
            }
            Ok(())
        }));
        let error = store.write(way).unwrap_err();
        assert!(error.to_string().contains("free disk space"), "{error}");
        assert!(
            matches!(
                error,
                Error::Sqlite {
                    origin: ErrorOrigin::Store,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(alerts(&store).contains(&AlertKind::DiskFull));
    }
}

/// Undoing the savepoint is a statement, after which SQLite has forgotten the error.
#[test]
fn own_refusal_in_savepoint_is_explained() {
    let (_folder, store) = store_with_table(Options::new());
    for sql in ["COMMIT", "PRAGMA synchronous = OFF"] {
        let error = store
            .write(move |tx| tx.savepoint(|tx| Ok(Connection::execute_batch(tx, sql)?)))
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
}

#[test]
fn foreign_error_of_on_connect_gives_no_advice() {
    let (folder, fails) = (tempdir().unwrap(), Arc::new(AtomicU8::new(u8::MAX)));
    let (path, which) = (folder.path().to_owned(), Arc::clone(&fails));
    let options = Options::new().on_connect(
        move |_, _| match FOREIGN.get(usize::from(which.load(Ordering::SeqCst))) {
            Some((_, foreign)) => Err(foreign(&path).into()),
            None => Ok(()),
        },
    );
    let store = options.clone().open(folder.path().join("app.db")).unwrap();
    for (n, (code, _)) in FOREIGN.iter().enumerate() {
        fails.store(u8::try_from(n).unwrap(), Ordering::SeqCst);
        let mut error = options.clone().open(folder.path().join("other.db")).unwrap_err();
        let named = " (at Options::on_connect for Role::Writer)";
        assert!(error.to_string().ends_with(named), "it has no advice: {error}");
        if let Error::Sqlite { context, .. } = &mut error {
            *context = None;
        }
        assert_foreign(&error, *code);
        let error = store.backup(folder.path().join("copy.db")).run().unwrap_err();
        let message = error.to_string();
        assert!(
            !message.contains("restore") && !message.contains("free disk space"),
            "{message}"
        );
    }
}
