//! [`Error::site`] and [`Error::statement`]: where an error arose, also inside an error of the application's own.

use std::time::Duration;

use larder::rusqlite::{self, Connection, params};
use larder::{Error, Options, Outcome, ReadOptions, Store, WriteOptions, WriteTx};

use crate::support::with_longer_limits;

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error(transparent)]
    Db(#[from] Error),
}

impl AppError {
    fn larders(self) -> Error {
        let AppError::Db(error) = self;
        error
    }
}

fn store() -> Store {
    let store = Options::new().open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))
        .unwrap();
    store
}

/// Whether the site is a line from there on, of this test.
#[track_caller]
fn is_since(site: Option<&str>, first: u32) {
    let last = std::panic::Location::caller().line();
    let line = site.and_then(|site| site.strip_prefix(concat!(file!(), ":")));
    let line: Option<u32> = line.map(|line| line.parse().unwrap());
    assert!(
        line.is_some_and(|line| (first..last).contains(&line)),
        "{site:?}, from {first} to {last}"
    );
}

#[test]
fn every_method_names_site_and_statement() {
    let store = store();
    type Way = fn(&WriteTx<'_>, &str) -> larder::Result<()>;
    let ways: [Way; 7] = [
        |tx, sql| tx.execute(sql, []).map(drop),
        |tx, sql| tx.insert(sql, []).map(drop),
        |tx, sql| tx.execute_batch(&format!("SELECT 1; {sql}; SELECT 2")),
        |tx, sql| tx.query_row(sql, [], |_| Ok(())),
        |tx, sql| tx.query_map(sql, [], |_| Ok(())).map(drop),
        |tx, sql| tx.query_each(sql, [], |_| Ok(())),
        |tx, sql| tx.savepoint(|tx| tx.exists(sql, []).map(drop)),
    ];
    let sql = "INSERT INTO t VALUES (1, NULL)";
    for (n, way) in ways.into_iter().enumerate() {
        let first = line!();
        let error = store.write(move |tx| way(tx, sql)).unwrap_err();
        is_since(error.site(), first);
        let statement = error.statement().map(|sql| sql.trim_matches([' ', ';']));
        assert_eq!(statement, Some(sql), "{n}: {error}");
        let begins = "NOT NULL constraint failed: t.name (in INSERT INTO t VALUES (1, NULL)";
        let text = error.to_string();
        assert!(text.starts_with(begins), "{text}");
        assert!(text.ends_with(&format!(", at {})", error.site().unwrap())), "{text}");
    }
}

/// It was lost with `?`: the error of the closure was looked at only when larder saw it.
#[test]
fn context_survives_an_own_error_type() {
    let store = store();
    let insert = "INSERT INTO t VALUES (?1, ?2)";
    let secret = "a secret value";
    let write = move |tx: &WriteTx<'_>| -> Result<(), AppError> {
        tx.execute(insert, params![1, secret])?;
        Ok(tx.execute(insert, params![1, secret]).map(drop)?)
    };
    let first = line!();
    let error = store.transact(write).unwrap_err().larders();
    is_since(error.site(), first);
    let first = line!();
    let nested = store.transact(move |tx| tx.transact(write)).unwrap_err().larders();
    is_since(nested.site(), first);
    let labelled = WriteOptions::new().label("users: add");
    let labelled = store.transact_with(labelled, write).unwrap_err().larders();
    assert_eq!(labelled.site(), Some("users: add"));
    for error in [error, nested, labelled] {
        assert_eq!(error.statement(), Some(insert));
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        assert!(error.is_unique_violation());
    }
    let first = line!();
    let read = store.query(|tx| Ok::<_, AppError>(tx.query_row("SELECT * FROM t", [], |_| Ok(()))?));
    let error = read.unwrap_err().larders();
    is_since(error.site(), first);
    assert_eq!(error.statement(), Some("SELECT * FROM t"));
    assert_eq!(error.outcome(), Outcome::NotStarted, "a read writes nothing");
    assert!(matches!(error.sqlite(), Some(rusqlite::Error::QueryReturnedNoRows)));
}

#[cfg(feature = "async")]
#[test]
fn errors_of_tasks_name_the_line_that_called() {
    use futures_executor::block_on;
    let store = store();
    let first = line!();
    let write = store.transact_async(|tx| Ok::<_, AppError>(tx.execute("INSERT INTO t VALUES (1, NULL)", [])?));
    is_since(block_on(write).unwrap_err().larders().site(), first);
    let first = line!();
    let read = store.query_async(|tx| Ok::<_, AppError>(tx.exists("SELECT missing FROM t", [])?));
    is_since(block_on(read).unwrap_err().larders().site(), first);
    let first = line!();
    let read = store.read_async(|tx| tx.exists("SELECT missing FROM t", []));
    is_since(block_on(read).unwrap_err().site(), first);
}

/// rusqlite gives the rest of the text, or the text with NULL for its parameters.
#[test]
fn batch_names_the_statement_that_failed() {
    let store = store();
    let trigger = "CREATE TRIGGER u AFTER INSERT ON t BEGIN SELECT 1; SELECT 7; END";
    for (before, statement, offset) in [
        ("", "COMMIT", None),
        ("SELECT 1;;", "COMMIT", None),
        ("SELECT 1; -- why;\n ", "SELEKT 2", Some(0)),
        (trigger, "SELECT missing", Some(7)),
        ("SELECT ';';", "INSERT INTO t VALUES (?1, ?1)", None),
        ("", "INSERT INTO t VALUES (:id, $name)", None),
    ] {
        let batch = format!("{before}; {statement} ; CREATE TABLE rest(a)");
        let error = store.write(move |tx| tx.execute_batch(&batch)).unwrap_err();
        assert_eq!(error.statement(), Some(statement), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(statement) && !text.contains("CREATE TABLE"), "{text}");
        let told = match error.sqlite() {
            Some(rusqlite::Error::SqlInputError { sql, offset, .. }) => {
                assert_eq!(sql, statement);
                Some(*offset)
            }
            _ => None,
        };
        assert_eq!(told, offset, "{text}");
    }
}

/// What rusqlite's methods gave has the site when the closure returns; its statement only if SQLite repeats it.
#[test]
fn statements_of_rusqlite_methods_are_not_guessed() {
    let store = store();
    let first = line!();
    let prepared = store.write(|tx| {
        let mut insert = Connection::prepare(tx, "INSERT INTO t VALUES (?1, NULL)")?;
        Ok(insert.execute([1])?)
    });
    let error = prepared.unwrap_err();
    is_since(error.site(), first);
    assert_eq!(error.statement(), None);
    let site = error.site().unwrap();
    assert_eq!(
        error.to_string(),
        format!("NOT NULL constraint failed: t.name (at {site})")
    );

    let first = line!();
    let unknown = store.read(|tx| Ok(Connection::prepare(tx, "SELECT missing").map(drop)?));
    let error = unknown.unwrap_err();
    is_since(error.site(), first);
    assert_eq!(error.statement(), Some("SELECT missing"));
    assert_eq!(error.to_string().matches("SELECT missing").count(), 1, "{error}");
    let unseen = Error::from(rusqlite::Error::QueryReturnedNoRows);
    assert_eq!((unseen.site(), unseen.statement()), (None, None));
}

#[test]
fn refusals_and_limits_know_where() {
    let store = store();
    let first = line!();
    let error = store.write(|tx| tx.execute("COMMIT", [])).unwrap_err();
    is_since(error.site(), first);
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.statement(), Some("COMMIT"));

    let error = store.write(|tx| tx.insert("UPDATE t SET id = 1", [])).unwrap_err();
    assert_eq!(error.statement(), Some("UPDATE t SET id = 1"), "{error:?}");

    let briefly = |time| WriteOptions::new().execution_timeout(time);
    let first = line!();
    let error = in_its_statement(|time| {
        let stopped = store.write_with(briefly(time), |tx| tx.query_row(ENDLESS, [], |_| Ok(())));
        stopped.unwrap_err()
    });
    is_since(error.site(), first);
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(error.statement(), Some(ENDLESS));
    let first = line!();
    let error = in_its_statement(|time| {
        let swallowed = store.write_with(briefly(time), |tx| Ok(tx.query_row(ENDLESS, [], |_| Ok(())).is_ok()));
        swallowed.unwrap_err()
    });
    is_since(error.site(), first);
    assert_eq!(error.statement(), Some(ENDLESS));
    let batch = format!("{ENDLESS}; SELECT 2");
    let error = in_its_statement(|time| {
        let batch = batch.clone();
        let stopped = store.write_with(briefly(time), move |tx| tx.execute_batch(&batch));
        stopped.unwrap_err()
    });
    assert_eq!(error.statement(), Some(ENDLESS));
    let first = line!();
    let error = in_its_statement(|time| {
        let stopped = store.transact_with(briefly(time), |tx| {
            Ok::<_, AppError>(tx.query_row(ENDLESS, [], |_| Ok(()))?)
        });
        stopped.unwrap_err().larders()
    });
    is_since(error.site(), first);
    assert_eq!(error.statement(), Some(ENDLESS));
    // It is the first, whatever comes after it.
    let error = in_its_statement(|time| {
        let stopped = store.transact_with(briefly(time), |tx| {
            let _ = tx.query_row(ENDLESS, [], |_| Ok(()));
            let _ = tx.execute("INSERT OR ROLLBACK INTO t VALUES (1, NULL)", []);
            Ok::<_, AppError>(())
        });
        stopped.unwrap_err().larders()
    });
    assert_eq!(error.statement(), Some(ENDLESS));

    let briefly = |time| ReadOptions::new().execution_timeout(time);
    let first = line!();
    let error = in_its_statement(|time| {
        let stopped = store.query_with(briefly(time), |tx| {
            Ok::<_, AppError>(tx.query_row(ENDLESS, [], |_| Ok(()))?)
        });
        stopped.unwrap_err().larders()
    });
    is_since(error.site(), first);
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(error.statement(), Some(ENDLESS));
    let error = in_its_statement(|time| {
        let swallowed = store.read_with(briefly(time), |tx| Ok(tx.exists(ENDLESS, []).is_ok()));
        swallowed.unwrap_err()
    });
    assert_eq!(error.statement(), Some(ENDLESS));
}

/// The error of a call whose limit passes while its statement runs.
fn in_its_statement(mut call: impl FnMut(Duration) -> Error) -> Error {
    with_longer_limits(Duration::from_millis(5), |time| {
        let error = call(time);
        error.statement().is_some().then_some(error)
    })
}

/// "fix the statement that caused the rollback": this one.
#[test]
fn swallowed_rollback_names_its_statement() {
    let store = store();
    let ends = "INSERT OR ROLLBACK INTO t VALUES (1, NULL)";
    let first = line!();
    let swallowed = store.write(move |tx| {
        let _ = tx.execute(ends, []);
        let _ = tx.execute("INSERT INTO t VALUES (2, 'x')", []);
        Ok(())
    });
    let error = swallowed.unwrap_err();
    is_since(error.site(), first);
    assert!(
        matches!(
            error,
            Error::RolledBack {
                caused_by_closure: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.statement(), Some(ends));
}

#[test]
fn long_statements_are_cut() {
    let store = store();
    let long = format!("SELECT missing, '{}'", "ä".repeat(5000));
    for error in [
        store.read(|tx| tx.exists(&long, [])).unwrap_err(),
        store
            .write({
                let long = long.clone();
                move |tx| tx.execute(&format!("INSERT INTO t VALUES (1, NULL) -- {long}"), [])
            })
            .unwrap_err(),
    ] {
        let statement = error.statement().unwrap();
        assert!((1000..2200).contains(&statement.len()), "{}", statement.len());
    }
    let lines = "INSERT\n\tINTO   t\r\nVALUES (1,\n NULL)";
    let error = store.write(move |tx| tx.execute(lines, [])).unwrap_err();
    assert_eq!(error.statement(), Some(lines));
    assert!(
        error.to_string().contains("(in INSERT INTO t VALUES (1, NULL), at "),
        "{error}"
    );
}

#[test]
fn errors_of_other_databases_have_no_context() {
    let store = store();
    let other = || {
        let other = Connection::open_in_memory().unwrap();
        other.execute("CREATE TABLE t(a NOT NULL)", []).unwrap();
        other.execute("INSERT INTO t VALUES (NULL)", []).unwrap_err()
    };
    let error = store
        .write(move |tx| tx.query_row("SELECT 1", [], |_| Err::<(), _>(other())))
        .unwrap_err();
    assert_eq!((error.site(), error.statement()), (None, None), "{error:?}");
    assert_eq!(error.to_string(), "NOT NULL constraint failed: t.a");
    assert!(error.is_not_null_violation());
}
