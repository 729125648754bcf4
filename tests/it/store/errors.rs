//! Errors: variant, outcome and source for the program, and for the operator a sentence that ends with the next step.

use std::error::Error as StdError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fmt, io};

use crate::support::{count, write_or_fail};
use larder::rusqlite::{self, Connection, ErrorCode, ffi};
use larder::{Error, Options, Outcome, ReadOptions, Store, WriteOptions};
use tempfile::tempdir;

fn with_table() -> Store {
    let store = Options::new()
        .readers(1)
        .queue_capacity(1)
        .read_queue_timeout(Duration::from_millis(20))
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    // On a machine that is busy it takes longer than that to open the reader.
    let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
    store.read_with(patient, |_| Ok(())).unwrap();
    store
}

fn sqlite_error(code: i32) -> Arc<rusqlite::Error> {
    Arc::new(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
}

/// An error, how it must be judged, and what its message must tell to do.
struct Case {
    error: Error,
    outcome: Outcome,
    retryable: bool,
    way_out: &'static str,
}

/// Every error that can be provoked in one process, and those that cannot (a failing disk: see `it/write/poison.rs`) as they
/// would be made.
fn cases() -> Vec<Case> {
    use Outcome::{NotStarted, RolledBack, Unknown};
    let mut cases = Vec::new();
    let mut case = |outcome, retryable, way_out, error| {
        cases.push(Case {
            error,
            outcome,
            retryable,
            way_out,
        })
    };

    // Opening.
    case(
        NotStarted,
        false,
        "from 1 to 1024",
        Options::new().readers(0).open_temp().unwrap_err(),
    );
    case(
        NotStarted,
        false,
        "use Store::open_temp()",
        Store::open(":memory:").unwrap_err(),
    );
    let folder = tempdir().unwrap();
    case(
        NotStarted,
        false,
        "create it first",
        Store::open(folder.path().join("no/app.db")).unwrap_err(),
    );
    let store = with_table();
    case(
        NotStarted,
        false,
        "clone the Store",
        Store::open(store.path()).unwrap_err(),
    );
    let path = folder.path().join("locked.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t(n); BEGIN EXCLUSIVE").unwrap();
    let impatient = Options::new().busy_timeout(Duration::from_millis(20));
    case(
        NotStarted,
        true,
        "otherwise stop it",
        impatient.open(&path).unwrap_err(),
    );
    case(
        NotStarted,
        false,
        "lower Options::mmap_size",
        Options::new().mmap_size(1 << 50).open_temp().unwrap_err(),
    );
    case(
        NotStarted,
        false,
        "move the database to a local disk",
        Error::UnsupportedFilesystem {
            path: "/mnt/app.db".into(),
            filesystem: "NFS".into(),
        },
    );
    case(
        NotStarted,
        false,
        "link 3.51.3",
        Error::SqliteTooOld {
            version: "3.40.0".into(),
        },
    );

    // Writing.
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    let blocked = store
        .submit(move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    let queued = store.submit(|_| Ok(())).unwrap();
    case(
        NotStarted,
        true,
        "shed load",
        store.write_with(write_or_fail(), |_| Ok(())).unwrap_err(),
    );
    let briefly = WriteOptions::new().queue_timeout(Duration::from_millis(1));
    case(
        NotStarted,
        true,
        "raise WriteOptions::queue_timeout",
        store.write_with(briefly, |_| Ok(())).unwrap_err(),
    );
    drop(let_go);
    blocked.wait().and(queued.wait()).unwrap();
    case(RolledBack, false, "UNIQUE constraint failed", {
        let twice = "INSERT INTO t VALUES (1), (1)";
        store.write(move |tx| tx.execute(twice, [])).unwrap_err()
    });
    case(RolledBack, false, "fix the statement that caused the rollback", {
        let swallowed = "INSERT OR ROLLBACK INTO t VALUES (1), (1)";
        store
            .write(move |tx| {
                let _ = tx.execute(swallowed, []);
                Ok(())
            })
            .unwrap_err()
    });
    case(
        RolledBack,
        false,
        "tx.savepoint",
        store.write(|tx| tx.execute_batch("COMMIT")).unwrap_err(),
    );
    case(
        RolledBack,
        false,
        "in Options",
        store.write(|tx| tx.execute_batch("PRAGMA cache_size = 1")).unwrap_err(),
    );
    let inside = store.clone();
    case(
        NotStarted,
        false,
        "tx.savepoint",
        store.write(move |_| Ok(inside.write(|_| Ok(())).unwrap_err())).unwrap(),
    );
    case(RolledBack, false, "do less in one write", {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let options = WriteOptions::new().execution_timeout(Duration::from_millis(5));
        store
            .write_with(options, move |tx| tx.query_row(endless, [], |_| Ok(())))
            .unwrap_err()
    });
    case(
        RolledBack,
        false,
        "out of stock",
        store.write(|_| Err::<(), _>(Error::app("out of stock"))).unwrap_err(),
    );
    case(
        NotStarted,
        false,
        "is no INTEGER",
        Error::Csv {
            problem: "column alt: \"x\" is no INTEGER".into(),
            source: None,
        },
    );
    case(
        NotStarted,
        true,
        "end the oldest read",
        Error::WalFull {
            wal_bytes: 2,
            limit: 1,
            oldest: Some("report.rs:1, for 60.0s".into()),
        },
    );
    case(
        NotStarted,
        true,
        "writes go on by themselves",
        Error::SpoolFull {
            spool: "/var/lib/app/app.db-replica".into(),
            bytes: 2,
            limit: 1,
            reason: "the disk is full".into(),
        },
    );
    case(
        Unknown,
        false,
        "before you repeat the write",
        Error::CommitUnknown {
            source: sqlite_error(ffi::SQLITE_IOERR_FSYNC),
        },
    );
    case(
        NotStarted,
        false,
        "restart the service",
        Error::Poisoned {
            source: sqlite_error(ffi::SQLITE_IOERR_FSYNC),
        },
    );

    case(
        NotStarted,
        false,
        "on a store without that option",
        Error::ReadOnly {
            path: "/var/lib/app/app.db".into(),
            call: "write",
        },
    );
    case(
        NotStarted,
        false,
        "open it again",
        Error::SnapshotChanged {
            path: "/var/lib/app/app.db".into(),
            changed: "/var/lib/app/app.db-wal".into(),
        },
    );

    // Looking after it.
    case(RolledBack, false, "can be run again", {
        let cancel = |_: &larder::CheckProgress| ControlFlow::Break(());
        let child = "CREATE TABLE child(t REFERENCES t)";
        store.write(move |tx| tx.execute_batch(child)).unwrap();
        store.check().progress(Duration::ZERO, cancel).run().unwrap_err()
    });
    case(
        NotStarted,
        false,
        "free disk space",
        Error::InsufficientSpace {
            folder: "/var/lib/app".into(),
            needed: 2,
            available: 1,
        },
    );

    // Reading.
    case(
        RolledBack,
        false,
        "store.write",
        store.read(|tx| Ok(tx.execute("DELETE FROM t", [])?)).unwrap_err(),
    );
    case(
        NotStarted,
        false,
        "raise Options::readers",
        store.read(|_| store.read(|_| Ok(()))).unwrap_err(),
    );
    std::thread::scope(|scope| {
        let (running, runs) = channel();
        let (let_go, told) = channel::<()>();
        let store = &store;
        scope.spawn(move || {
            store.read(|_| {
                running.send(()).unwrap();
                let _ = told.recv();
                Ok(())
            })
        });
        runs.recv().unwrap();
        case(
            NotStarted,
            true,
            "raise Options::readers",
            store.read(|_| Ok(())).unwrap_err(),
        );
        drop(let_go);
    });

    // Closing.
    case(
        NotStarted,
        false,
        "call it outside",
        store.read(|_| store.close()).unwrap_err(),
    );
    store.close().unwrap();
    case(NotStarted, false, "reopen it", store.write(|_| Ok(())).unwrap_err());
    case(NotStarted, false, "reopen it", store.read(|_| Ok(())).unwrap_err());
    cases
}

#[test]
fn every_error_has_its_outcome_and_retry_advice() {
    for Case {
        error,
        outcome,
        retryable,
        ..
    } in cases()
    {
        assert_eq!(
            (error.outcome(), error.is_retryable()),
            (outcome, retryable),
            "{error:?}"
        );
    }
}

#[test]
fn every_message_names_a_way_out() {
    for Case { error, way_out, .. } in cases() {
        let message = error.to_string();
        assert!(message.contains(way_out), "{message:?} does not say {way_out:?}");
    }
}

#[test]
fn no_message_contains_debug_output() {
    for Case { error, .. } in cases() {
        let message = error.to_string();
        for sign in [
            "Error {",
            "SqliteFailure",
            "Some(",
            "None",
            "{ ",
            " }",
            "\\\"",
            "\n",
            "  ",
        ] {
            assert!(!message.contains(sign), "{sign:?} in {message:?}");
        }
    }
}

#[test]
fn retryable_errors_never_leave_anything_written() {
    for Case { error, .. } in cases() {
        assert!(
            !(error.is_retryable() && error.outcome() == Outcome::Unknown),
            "{error:?}"
        );
    }
}

#[test]
fn failed_write_leaves_nothing_written() {
    let store = with_table();
    let insert = "INSERT INTO t VALUES (1)";
    let failing: [fn(&larder::WriteTx<'_>) -> larder::Result<()>; 5] = [
        |_| Err(Error::app("no")),
        |tx| tx.execute("INSERT INTO t VALUES (1)", []).map(drop),
        |tx| tx.execute_batch("COMMIT"),
        |tx| tx.execute_batch("SELECT no_such_function()"),
        |tx| {
            let _ = tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", []);
            Ok(())
        },
    ];
    for fail in failing {
        let error = store
            .write(move |tx| {
                tx.execute(insert, [])?;
                fail(tx)
            })
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
        assert_eq!(count(&store), 0, "{error:?}");
    }
    store.write(move |tx| tx.execute(insert, [])).unwrap();
    assert_eq!(count(&store), 1);
}

#[test]
fn retried_write_succeeds_without_its_bad_neighbour() {
    let store = Options::new()
        .max_group_time(Duration::from_secs(20))
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    let insert = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO t VALUES (1)", []);
    let victim = store
        .submit(move |tx| {
            running.send(()).unwrap();
            let _ = told.recv();
            insert(tx)
        })
        .unwrap();
    runs.recv().unwrap();
    let culprit = store
        .submit(|tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (2), (2)", []))
        .unwrap();
    drop(let_go);
    let told = victim.wait().unwrap_err();
    assert!(
        told.is_retryable() && matches!(told, Error::RolledBack { .. }),
        "{told:?}"
    );
    assert!(!culprit.wait().unwrap_err().is_retryable());
    assert_eq!(count(&store), 0);
    store.write(insert).unwrap();
    assert_eq!(count(&store), 1);
}

// ---- an application's own error ----

#[derive(Debug, PartialEq)]
struct OutOfStock {
    left: u32,
}

impl fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "only {} left", self.left)
    }
}

impl StdError for OutOfStock {}

#[test]
fn application_error_comes_back_unchanged() {
    let store = with_table();
    fn fail() -> larder::Result<()> {
        Err(Error::app(OutOfStock { left: 3 }))
    }
    for error in [
        store.write(|_| fail()).unwrap_err(),
        store.write(|tx| tx.savepoint(|_| fail())).unwrap_err(),
        store
            .write_with(WriteOptions::new().execution_timeout(Duration::from_secs(9)), |_| {
                fail()
            })
            .unwrap_err(),
        store.write_with(write_or_fail(), |_| fail()).unwrap_err(),
        store.submit(|_| fail()).unwrap().wait().unwrap_err(),
        futures_executor::block_on(store.submit(|_| fail()).unwrap()).unwrap_err(),
        store.read(|_| fail()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "only 3 left");
        assert_eq!(error.downcast_ref::<OutOfStock>(), Some(&OutOfStock { left: 3 }));
        assert!(error.sqlite().is_none());
        assert_eq!(error.downcast::<OutOfStock>().unwrap(), OutOfStock { left: 3 });
    }
}

#[test]
fn failed_downcast_gives_the_error_back() {
    let error = Error::app(OutOfStock { left: 3 });
    assert!(error.downcast_ref::<io::Error>().is_none());
    let error = error.downcast::<io::Error>().unwrap_err();
    assert_eq!(error.downcast::<OutOfStock>().unwrap(), OutOfStock { left: 3 });

    let error = with_table()
        .read(|tx| tx.query_row("SELEKT", [], |_| Ok(())))
        .unwrap_err();
    assert!(
        error.downcast_ref::<rusqlite::Error>().is_none(),
        "that is what `sqlite` is for"
    );
    assert!(matches!(error.downcast::<rusqlite::Error>(), Err(Error::Sqlite { .. })));
}

#[test]
fn text_or_boxed_error_can_be_application_error() {
    assert_eq!(Error::app("no").to_string(), "no");
    assert_eq!(Error::app(format!("no {}", 7)).to_string(), "no 7");
    let boxed: Box<dyn StdError + Send + Sync> = Box::new(OutOfStock { left: 1 });
    assert_eq!(
        Error::app(boxed).downcast::<OutOfStock>().unwrap(),
        OutOfStock { left: 1 }
    );
}

// ---- SQLite's errors ----

#[test]
fn question_mark_converts_rusqlite_errors() {
    let store = with_table();
    let in_write = store.write(|tx| {
        let conn: &Connection = tx;
        let mut statement = conn.prepare("SELECT * FROM missing")?;
        let _rows = statement.query([])?;
        Ok(())
    });
    let in_read = store.read(|tx| {
        let n: i64 = Connection::query_row(tx, "SELECT n FROM missing", [], |row| row.get(0))?;
        Ok(n)
    });
    for error in [in_write.unwrap_err(), in_read.unwrap_err()] {
        assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
        assert!(error.to_string().contains("no such table: missing"), "{error}");
    }
}

#[test]
fn source_of_rusqlite_error_is_accessible() {
    let store = with_table();
    let twice = store
        .write(|tx| tx.execute("INSERT INTO t VALUES (1), (1)", []))
        .unwrap_err();
    assert_eq!(
        twice.sqlite().and_then(rusqlite::Error::sqlite_error_code),
        Some(ErrorCode::ConstraintViolation)
    );
    let extended = twice
        .sqlite()
        .and_then(rusqlite::Error::sqlite_error)
        .unwrap()
        .extended_code;
    assert_eq!(extended, ffi::SQLITE_CONSTRAINT_PRIMARYKEY);

    let none = store
        .read(|tx| tx.query_row("SELECT n FROM t", [], |_| Ok(())))
        .unwrap_err();
    assert!(
        matches!(none.sqlite(), Some(rusqlite::Error::QueryReturnedNoRows)),
        "{none:?}"
    );

    let wrong_type = store
        .read(|tx| tx.query_row("SELECT 'text'", [], |row| row.get::<_, i64>(0)))
        .unwrap_err();
    assert!(
        matches!(wrong_type.sqlite(), Some(rusqlite::Error::InvalidColumnType(..))),
        "{wrong_type:?}"
    );
    assert!(Error::Closed.sqlite().is_none());
}

// ---- as a std::error::Error ----

#[test]
fn error_is_send_sync_and_static() {
    fn anywhere<E: StdError + Send + Sync + 'static>() {}
    anywhere::<Error>();
    let boxed: Box<dyn StdError + Send + Sync> = Error::Closed.into();
    assert!(matches!(boxed.downcast_ref::<Error>(), Some(Error::Closed)));
    let told = std::thread::spawn(|| Err::<(), _>(Error::Closed)).join().unwrap();
    assert!(told.is_err());
}

/// The error at the end of the chain of sources.
fn root(error: &Error) -> &(dyn StdError + 'static) {
    let mut root: &(dyn StdError + 'static) = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

#[test]
fn chain_of_sources_ends_at_the_cause() {
    let store = with_table();
    let twice = store
        .write(|tx| tx.execute("INSERT INTO t VALUES (1), (1)", []))
        .unwrap_err();
    let cause = root(&twice).downcast_ref::<ffi::Error>().expect("SQLite's code");
    assert_eq!(cause.extended_code, ffi::SQLITE_CONSTRAINT_PRIMARYKEY);
    assert!(twice.source().unwrap().downcast_ref::<rusqlite::Error>().is_some());

    let own = store
        .write(|_| Err::<(), _>(Error::app(OutOfStock { left: 2 })))
        .unwrap_err();
    assert!(root(&own).downcast_ref::<OutOfStock>().is_some());

    let unknown = Error::CommitUnknown {
        source: sqlite_error(ffi::SQLITE_IOERR_FSYNC),
    };
    let cause = root(&unknown).downcast_ref::<ffi::Error>().expect("SQLite's code");
    assert_eq!(cause.extended_code, ffi::SQLITE_IOERR_FSYNC);
    assert!(Error::Closed.source().is_none());
}

#[test]
fn failed_open_exposes_the_io_error() {
    // The story: the source was in an `Arc<dyn Error>`, which is an error of a type of its own that hides it.
    let folder = tempdir().unwrap();
    let missing = Store::open(folder.path().join("no/app.db")).unwrap_err();
    let cause = root(&missing)
        .downcast_ref::<io::Error>()
        .expect("the operating system's error");
    assert_eq!(cause.kind(), io::ErrorKind::NotFound);
}

#[test]
fn debug_form_shows_the_variant() {
    assert_eq!(format!("{:?}", Error::Closed), "Closed");
    let full = Error::QueueFull {
        capacity: 7,
        context: None,
    };
    assert!(format!("{full:?}").contains("QueueFull"));
}
