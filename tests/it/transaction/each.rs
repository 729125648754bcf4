//! One value after another: what the closure returns stops the query, and the snapshot is given back in any case.

use std::ops::ControlFlow::{self, Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use larder::{Error, Options, ReadOptions, Store};

use crate::support::{count, until};

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("only {0} in stock")]
    OutOfStock(i64),
    #[error(transparent)]
    Db(#[from] Error),
}

const ALL: &str = "SELECT id, name FROM t ORDER BY id";

/// With the rows 1 to 5, and one reader.
fn store() -> Store {
    let store = Options::new().readers(1).open_temp().unwrap();
    let table = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT) STRICT;
        INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e')";
    store.write(move |tx| tx.execute_batch(table)).unwrap();
    store
}

/// The connection is in the pool, and holds no snapshot.
#[track_caller]
fn is_given_back(store: &Store) {
    until(store, |stats| stats.readers.in_use == 0);
    let before = count(store);
    store
        .write(|tx| tx.execute("INSERT INTO t(name) VALUES ('new')", []))
        .unwrap();
    assert_eq!(count(store), before + 1);
    store.write(|tx| tx.execute("DELETE FROM t WHERE id > 5", [])).unwrap();
}

#[test]
fn each_row_is_visited_until_the_closure_stops() {
    let store = store();
    let mut seen = Vec::new();
    store
        .query_each(ALL, [], |(id, name): (i64, String)| -> Result<(), AppError> {
            seen.push(format!("{id}{name}"));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, ["1a", "2b", "3c", "4d", "5e"]);

    for (stop, visited) in [(1, 1), (3, 3), (5, 5), (9, 5)] {
        let mut seen = 0;
        let found = store.query_each(ALL, [], |(id, name): (i64, String)| -> Result<_, AppError> {
            seen += 1;
            Ok(if id == stop { Break(name) } else { Continue(()) })
        });
        let name = ["a", "b", "c", "d", "e"].get(stop as usize - 1);
        assert_eq!(found.unwrap().break_value().as_deref(), name.copied());
        assert_eq!(seen, visited);
        is_given_back(&store);
    }
    let none = store.query_each("SELECT id, name FROM t WHERE false", [], |_: (i64, String)| {
        Ok::<_, AppError>(Break(()))
    });
    assert_eq!(none.unwrap(), Continue(()));
}

#[test]
fn own_error_ends_the_query() {
    let store = store();
    let options = ReadOptions::new().label("stock");
    let error = store
        .query_each_with(options, ALL, [], |(id, _): (i64, String)| match id {
            4 => Err(AppError::OutOfStock(id)),
            _ => Ok(()),
        })
        .unwrap_err();
    assert!(matches!(error, AppError::OutOfStock(4)), "{error:?}");
    is_given_back(&store);
    let site = store.stats().call_sites.into_iter().find(|site| site.site == "stock");
    assert_eq!(site.map(|site| (site.calls, site.errors)), Some((1, 1)));
}

#[test]
fn errors_of_rows_come_by_from() {
    let store = store();
    let mut seen = 0;
    let error = store.query_each(
        "SELECT iif(id < 3, id, name) AS id FROM t",
        [],
        |_: (i64,)| -> Result<(), AppError> {
            seen += 1;
            Ok(())
        },
    );
    let Err(AppError::Db(error @ Error::Sqlite { .. })) = error else {
        panic!("{error:?}")
    };
    assert!(error.to_string().contains("column `id` is TEXT"), "{error}");
    assert_eq!(seen, 2);
    let missing = store.query_each("SELECT missing", [], |_: (i64,)| Ok::<_, AppError>(()));
    assert!(matches!(missing, Err(AppError::Db(_))), "{missing:?}");
    let limit = ReadOptions::new().execution_timeout(Duration::from_millis(20));
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let late = store.query_each_with(limit, endless, [], |_: (i64,)| Ok::<_, AppError>(()));
    assert!(matches!(late, Err(AppError::Db(Error::Interrupted { .. }))), "{late:?}");
    is_given_back(&store);
}

#[test]
fn panic_gives_the_snapshot_back() {
    let store = store();
    let each = || {
        store.query_each(ALL, [], |_: (i64, String)| -> Result<(), AppError> {
            panic!("at a row")
        })
    };
    let panic = catch_unwind(AssertUnwindSafe(each)).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "at a row");
    is_given_back(&store);
}

#[test]
fn closure_may_query_in_the_same_snapshot() {
    let store = store();
    let mut names = Vec::new();
    store
        .query(|tx| -> Result<(), AppError> {
            for _ in 0..2 {
                tx.each("SELECT id FROM t", [], |(id,): (i64,)| -> Result<(), AppError> {
                    names.push(tx.scalar::<String>("SELECT name FROM t WHERE id = ?1", [id])?);
                    let _ = tx.each("SELECT id FROM t", [], |_: (i64,)| Ok::<_, Error>(Break(())))?;
                    Ok(())
                })?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(names.concat(), "abcdeabcde");
}

/// `RETURNING` has changed all rows before it returns the first.
#[test]
fn stopping_early_in_a_write_loses_no_change() {
    let store = store();
    let update = "UPDATE t SET name = name || '!' RETURNING id";
    let stopped = store
        .transact(move |tx| tx.each(update, [], |(id,): (i64,)| Ok::<_, AppError>(Break(id))))
        .unwrap();
    assert_eq!(stopped, Break(1));
    let changed = store.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM t WHERE name LIKE '%!'", []));
    assert_eq!(changed.unwrap(), 5);
    // An error rolls back if the closure returns it.
    let failed = store.transact(move |tx| {
        tx.each("DELETE FROM t RETURNING id", [], |(id,): (i64,)| -> Result<(), _> {
            Err(AppError::OutOfStock(id))
        })
    });
    assert!(matches!(failed, Err(AppError::OutOfStock(1))), "{failed:?}");
    assert_eq!(count(&store), 5);
}

#[test]
fn query_each_of_rows_stops_early() {
    let store = store();
    let found = store.read(|tx| {
        tx.query_each(ALL, [], |row| {
            let name: String = row.get(1)?;
            Ok(if name == "c" {
                Break(row.get::<_, i64>(0)?)
            } else {
                Continue(())
            })
        })
    });
    assert_eq!(found.unwrap(), Break(3));
    let nothing: ControlFlow<i64> = store.read(|tx| tx.query_each(ALL, [], |_| Ok(Continue(())))).unwrap();
    assert_eq!(nothing, Continue(()));
    is_given_back(&store);
}

#[cfg(feature = "async")]
#[test]
fn tasks_visit_rows_on_a_reader_thread() {
    use futures_executor::block_on;

    let store = store();
    let caller = std::thread::current().id();
    let each = store.query_each_async(ALL, (), move |(id, name): (i64, String)| {
        assert_ne!(std::thread::current().id(), caller);
        match id {
            3 => Ok::<_, AppError>(Break(name)),
            _ => Ok(Continue(())),
        }
    });
    assert_eq!(block_on(each).unwrap(), Break("c".to_owned()));
    is_given_back(&store);
    let sql = format!("SELECT id FROM t WHERE id >= {}", 4);
    let limit = ReadOptions::new().label("own");
    let each = store.query_each_async_with(limit, sql, [], |(id,): (i64,)| -> Result<(), AppError> {
        Err(AppError::OutOfStock(id))
    });
    let error = block_on(each).unwrap_err();
    assert!(matches!(error, AppError::OutOfStock(4)), "{error:?}");
    let panics = store.query_each_async(ALL, (), |_: (i64, String)| -> Result<(), AppError> {
        panic!("at a row")
    });
    catch_unwind(AssertUnwindSafe(|| block_on(panics))).unwrap_err();
    is_given_back(&store);
}
