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
        // One that was prepared anew has not run. The other is there again when the closure has ended.
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
