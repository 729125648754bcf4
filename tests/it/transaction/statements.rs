//! A reused statement, within one closure or across closures that share a snapshot, behaves like a new one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use larder::rusqlite::{CachedStatement, Connection, StatementStatus, named_params};
use larder::{Options, ReadTx, Result, Store, WriteTx};

static BOTH: &str = "SELECT :a, :b";

type Pair = (Option<i64>, Option<i64>);

fn both(tx: &ReadTx<'_>, a: i64, b: i64) -> Result<Pair> {
    tx.query_row(BOTH, named_params! {":a": a, ":b": b}, |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

fn only_a(tx: &ReadTx<'_>, a: i64) -> Result<Pair> {
    tx.query_row(BOTH, named_params! {":a": a}, |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How often it has run since somebody asked.
fn runs(statement: &CachedStatement<'_>) -> i32 {
    statement.reset_status(StatementStatus::Run)
}

fn store_with_rows() -> Store {
    let store = Options::new().readers(1).open_temp().unwrap();
    let made =
        store.write(|tx| tx.execute_batch("CREATE TABLE t(n INTEGER) STRICT; INSERT INTO t VALUES (1), (2), (3)"));
    made.unwrap();
    store
}

/// Those of a read, and of a write.
fn in_each(store: &Store, test: impl Fn(&ReadTx<'_>) -> Result<()> + Clone + Send + 'static) {
    store.read(&test).unwrap();
    store.write(move |tx| test(tx)).unwrap();
}

#[test]
fn reused_statement_forgets_its_bindings() {
    in_each(&store_with_rows(), |tx| {
        for _ in 0..2 {
            assert_eq!(both(tx, 1, 2)?, (Some(1), Some(2)));
        }
        assert_eq!(only_a(tx, 3)?, (Some(3), None));
        assert_eq!(both(tx, 4, 5)?, (Some(4), Some(5)));
        Ok(())
    });
}

#[test]
fn larder_and_connection_cache_share_one_statement() {
    const SUM: &str = "SELECT sum(n) FROM t";
    fn sum(tx: &ReadTx<'_>) -> Result<i64> {
        tx.query_row(SUM, [], |row| row.get(0))
    }
    in_each(&store_with_rows(), |tx| {
        for _ in 0..3 {
            assert_eq!(sum(tx)?, 6);
        }
        assert_eq!(runs(&tx.prepare_cached(SUM)?), 3);
        let conn: &Connection = tx;
        assert_eq!(sum(tx)?, 6);
        // One that was prepared again has not run. The other is there again when the closure has ended.
        assert_eq!(
            runs(&conn.prepare_cached(SUM)?),
            0,
            "the connection was asked for before"
        );
        assert_eq!(runs(&tx.prepare_cached(SUM)?), 1);
        Ok(())
    });
}

#[test]
fn statement_can_be_used_while_it_runs() {
    const ALL: &str = "SELECT n FROM t WHERE n > ?1 ORDER BY n";
    in_each(&store_with_rows(), |tx| {
        let pairs = tx.query_map(ALL, [0], |row| {
            let larger = tx.query_map(ALL, [row.get::<_, i64>(0)?], |row| row.get::<_, i64>(0));
            Ok((row.get::<_, i64>(0)?, larger.unwrap()))
        })?;
        assert_eq!(pairs, [(1, vec![2, 3]), (2, vec![3]), (3, vec![])]);
        Ok(())
    });
}

#[test]
fn statement_works_after_refused_row_or_panic() {
    const ONE: &str = "SELECT n FROM t WHERE n = ?1";
    in_each(&store_with_rows(), |tx| {
        assert!(tx.query_row(ONE, [1], |row| row.get::<_, String>(0)).is_err());
        assert_eq!(tx.query_row(ONE, [1], |row| row.get::<_, i64>(0))?, 1);
        let panics = || tx.query_row::<i64, _, _>(ONE, [2], |_| panic!("in a row"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(tx.query_row(ONE, [3], |row| row.get::<_, i64>(0))?, 3);
        Ok(())
    });
}

#[test]
fn statement_is_found_by_text_not_address() {
    in_each(&store_with_rows(), |tx| {
        let mut sql = String::from("SELECT 10 + ?1");
        assert_eq!(tx.query_row(&sql, [1], |row| row.get::<_, i64>(0))?, 11);
        sql.replace_range(7..9, "20");
        assert_eq!(tx.query_row(&sql, [1], |row| row.get::<_, i64>(0))?, 21);
        let copy = sql.clone();
        assert_eq!(tx.query_row(&copy, [2], |row| row.get::<_, i64>(0))?, 22);
        Ok(())
    });
}

#[test]
fn kept_statement_does_not_block_schema_change() {
    fn count(tx: &WriteTx<'_>) -> Result<i64> {
        tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }
    let store = store_with_rows();
    let counts = store.write(|tx| {
        let before = count(tx)?;
        tx.execute_batch("DROP TABLE t")?;
        assert!(count(tx).is_err());
        tx.execute_batch("CREATE TABLE t(n INTEGER, m INTEGER) STRICT; INSERT INTO t VALUES (1, 2)")?;
        Ok((before, count(tx)?))
    });
    assert_eq!(counts.unwrap(), (3, 1));
}

/// A text with no statement in it is none to SQLite, which then has no numbers to tell of it. With `Options::max_statements`
/// rusqlite panicked as it was asked for them.
#[test]
fn empty_statement_texts_are_not_counted() {
    let told = |statements| {
        let store = Options::new()
            .readers(1)
            .max_statements(statements)
            .open_temp()
            .unwrap();
        let mut told = Vec::new();
        for sql in [
            "",
            ";",
            " ;; ",
            "\n",
            "-- nothing",
            "/* nothing */",
            "/* nothing */;",
            "-- a\n-- b\n;",
        ] {
            let written = store.write(move |tx| {
                let executed = format!("{:?}", tx.execute(sql, []));
                let inserted = format!("{:?}", tx.insert(sql, []));
                let batch = format!("{:?}", tx.execute_batch(sql));
                Ok(format!("{executed} {inserted} {batch}"))
            });
            let read = store.read(|tx| {
                let row = tx.query_row(sql, [], |_| Ok(()));
                let optional = tx.query_optional(sql, [], |_| Ok(()));
                let all = tx.query_map(sql, [], |_| Ok(()));
                let each = tx.query_each(sql, [], |_| Ok(()));
                let exists = tx.exists(sql, []);
                Ok(format!("{row:?} {optional:?} {all:?} {each:?} {exists:?}"))
            });
            told.push((sql, written.unwrap(), read.unwrap()));
        }
        let counted: Vec<_> = store
            .stats()
            .statements
            .into_iter()
            .map(|statement| statement.sql)
            .collect();
        assert_eq!(counted, [""; 0]);
        // A comment before a statement is another matter.
        store.read(|tx| tx.exists("/* one */ SELECT 1", [])).unwrap();
        assert_eq!(store.stats().statements.len(), statements.min(1));
        told
    };
    assert_eq!(told(10), told(0));
}

const ALL: &str = "SELECT * FROM t";

/// The columns of a cached statement before it is run.
fn columns(conn: &Connection) -> Vec<String> {
    let statement = conn.prepare_cached(ALL).unwrap();
    let names = statement.column_names();
    assert_eq!(statement.column_count(), names.len());
    names.into_iter().map(str::to_owned).collect()
}

/// A cached statement had the columns of the schema for which it was prepared, until it was run.
#[test]
fn cached_statement_has_columns_of_changed_schema() {
    let store = store_with_rows();
    let changes = [
        ("ALTER TABLE t ADD COLUMN m INTEGER", &["n", "m"][..]),
        ("ALTER TABLE t RENAME COLUMN m TO o", &["n", "o"]),
        ("DROP TABLE t; CREATE TABLE t(a)", &["a"]),
        ("DROP TABLE t; CREATE VIEW t(b, c) AS SELECT 1, 2", &["b", "c"]),
        ("CREATE TEMP TABLE t(d)", &["d"]),
        ("DROP VIEW t; CREATE TABLE t(n)", &["n"]),
    ];
    for (sql, expected) in changes {
        store.read(|tx| Ok(columns(tx))).unwrap();
        let (batch, then) = store
            .write(move |tx| {
                columns(tx);
                tx.execute_batch(sql)?;
                let batch = columns(tx);
                tx.query_each(ALL, [], |_| Ok(()))?;
                Ok((batch, columns(tx)))
            })
            .unwrap();
        assert_eq!(batch, expected, "{sql}");
        assert_eq!(then, expected, "{sql}");
        let expected = if sql.contains("TEMP") { &["b", "c"] } else { expected };
        assert_eq!(store.read(|tx| Ok(columns(tx))).unwrap(), expected, "{sql}, in a read");
        assert_eq!(
            store.write(|tx| Ok(columns(tx))).unwrap(),
            expected,
            "{sql}, in the next write"
        );
    }
}

#[test]
fn cached_statement_has_old_columns_after_rollback() {
    let store = store_with_rows();
    let in_savepoint = store.write(|tx| {
        columns(tx);
        let undone = tx.savepoint(|tx| {
            tx.execute_batch("ALTER TABLE t ADD COLUMN m INTEGER")?;
            assert_eq!(columns(tx), ["n", "m"]);
            Err::<(), _>(larder::Error::app("no"))
        });
        assert!(undone.is_err());
        Ok(columns(tx))
    });
    assert_eq!(in_savepoint.unwrap(), ["n"]);
    for raw in [true, false] {
        let failed = store.write(move |tx| {
            tx.execute_batch("ALTER TABLE t ADD COLUMN m INTEGER")?;
            if raw {
                assert_eq!(columns(tx), ["n", "m"]);
            }
            Err::<(), _>(larder::Error::app("no"))
        });
        assert!(failed.is_err());
        assert_eq!(store.write(|tx| Ok(columns(tx))).unwrap(), ["n"]);
        assert_eq!(store.read(|tx| Ok(columns(tx))).unwrap(), ["n"]);
    }
}

#[test]
fn prepared_schema_change_that_runs_later_counts() {
    let store = store_with_rows();
    let names = store.write(|tx| {
        let mut change = tx.prepare("ALTER TABLE t ADD COLUMN m INTEGER")?;
        let before = columns(tx);
        change.execute([])?;
        Ok((before, columns(tx)))
    });
    let (before, after) = names.unwrap();
    assert_eq!(before, ["n"]);
    assert_eq!(after, ["n", "m"]);
    // Without the connection in between.
    store.write(|tx| tx.execute("ALTER TABLE t DROP COLUMN m", [])).unwrap();
    assert_eq!(store.write(|tx| Ok(columns(tx))).unwrap(), ["n"]);
}

/// `execute_batch` ran what is before the NUL, and returned Ok.
#[test]
fn nul_in_sql_is_refused_by_every_method() {
    type Run<'a> = &'a (dyn Fn(&WriteTx<'_>, &str) -> Result<()> + Sync);
    let runs: [(&str, Run<'static>); 10] = [
        ("execute_batch", &|tx, sql| tx.execute_batch(sql)),
        ("execute", &|tx, sql| tx.execute(sql, []).map(drop)),
        ("insert", &|tx, sql| tx.insert(sql, []).map(drop)),
        ("query_row", &|tx, sql| tx.query_row(sql, [], |_| Ok(()))),
        ("query_optional", &|tx, sql| {
            tx.query_optional(sql, [], |_| Ok(())).map(drop)
        }),
        ("query_map", &|tx, sql| tx.query_map(sql, [], |_| Ok(())).map(drop)),
        ("query_each", &|tx, sql| tx.query_each(sql, [], |_| Ok(()))),
        ("exists", &|tx, sql| tx.exists(sql, []).map(drop)),
        ("prepare", &|tx, sql| Ok(tx.prepare(sql)?.raw_execute().map(drop)?)),
        ("prepare_cached", &|tx, sql| {
            Ok(tx.prepare_cached(sql)?.raw_execute().map(drop)?)
        }),
    ];
    let store = store_with_rows();
    for (method, run) in runs {
        for sql in [
            "INSERT INTO t VALUES (4)\0; INSERT INTO t VALUES (5)",
            "INSERT INTO t VALUES (4);\0",
            "INSERT INTO t VALUES (4), ('\0')",
            "ALTER TABLE t ADD COLUMN m\0, n",
            "\0INSERT INTO t VALUES (4)",
            "EXPLAIN SELECT 1\0",
        ] {
            for twice in [false, true] {
                let result = store.write(move |tx| {
                    if twice {
                        assert!(run(tx, sql).is_err());
                    }
                    run(tx, sql)
                });
                let error = result.expect_err(method);
                assert!(
                    matches!(error, larder::Error::Refused { .. }),
                    "{method}: {sql:?}: {error:?}"
                );
                assert!(error.to_string().contains("NUL"), "{method}: {error}");
            }
        }
    }
    let error = store
        .read(|tx| tx.query_row("SELECT 1\0 + 1", [], |row| row.get::<_, i64>(0)))
        .unwrap_err();
    assert!(matches!(error, larder::Error::Refused { .. }), "{error:?}");
    assert_eq!(
        store
            .read(|tx| tx.query_map("SELECT n FROM t", [], |row| row.get::<_, i64>(0)))
            .unwrap(),
        [1, 2, 3]
    );
}

/// The second text has the address and the length of the first.
#[test]
fn nul_in_text_at_used_address_is_refused() {
    in_each(&store_with_rows(), |tx| {
        let mut sql = String::from("SELECT n FROM t -- all of them");
        for _ in 0..2 {
            assert_eq!(tx.query_map(&sql, [], |row| row.get::<_, i64>(0))?, [1, 2, 3]);
        }
        sql.replace_range(16..17, "\0");
        let error = tx.query_map(&sql, [], |row| row.get::<_, i64>(0)).unwrap_err();
        assert!(matches!(error, larder::Error::Refused { .. }), "{error:?}");
        Ok(())
    });
}

#[test]
fn bound_text_may_have_a_nul() {
    in_each(&store_with_rows(), |tx| {
        let text: String = tx.query_row("SELECT ?1", ["a\0b"], |row| row.get(0))?;
        assert_eq!(text, "a\0b");
        Ok(())
    });
}
