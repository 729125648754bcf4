//! Deletions and updates of tables `WITHOUT ROWID`, which are walked by their declared key.

use larder::rusqlite::types::Value;
use larder::{Error, Store};

use crate::support::count;

const NONE: [i64; 0] = [];

/// A table `t` with this key and 20,000 rows: `a` is a word of ten, `b` a number.
fn store(key: &str) -> Store {
    let store = Store::open_temp().unwrap();
    let create = format!(
        "CREATE TABLE t(b INTEGER NOT NULL, n INTEGER NOT NULL DEFAULT 0, a TEXT NOT NULL, {key}) STRICT, WITHOUT ROWID;
         CREATE INDEX t_by_b ON t(b);
         WITH RECURSIVE i(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM i WHERE i < 19999)
         INSERT INTO t(a, b) SELECT char(65 + i % 10 + 32 * (i % 2)), i FROM i"
    );
    store.write(move |tx| tx.execute_batch(&create)).unwrap();
    store
}

fn number(store: &Store, sql: &str) -> i64 {
    store.read(|tx| tx.scalar(sql, [])).unwrap()
}

const KEYS: [&str; 6] = [
    "PRIMARY KEY(a, b)",
    "PRIMARY KEY(b)",
    "PRIMARY KEY(a DESC, b DESC)",
    "PRIMARY KEY(a, b DESC)",
    "PRIMARY KEY(a DESC, b)",
    "PRIMARY KEY(a COLLATE NOCASE, b)",
];

#[test]
fn each_row_is_updated_once_whatever_the_key() {
    for key in KEYS {
        let store = store(key);
        let report = store.bulk().update("T", "n = n + ?1", "b % 2 = 0", (1,)).run().unwrap();
        assert_eq!(report.rows, 10_000, "{key}");
        assert_eq!(
            number(&store, "SELECT count(*) FROM t WHERE n = 1 AND b % 2 = 0"),
            10_000,
            "{key}"
        );
        assert_eq!(number(&store, "SELECT sum(n) FROM t"), 10_000, "{key}");
    }
}

#[test]
fn deletion_finds_all_rows_by_an_index_or_the_key() {
    for key in KEYS {
        let store = store(key);
        let by_index = store.bulk().delete("t", "b < ?1", (12_000,)).run().unwrap();
        assert_eq!((by_index.rows, count(&store)), (12_000, 8000), "{key}");
        let walked = store.bulk().delete("t", "n = 0", NONE).run().unwrap();
        assert_eq!((walked.rows, count(&store)), (8000, 0), "{key}");
        let none = store.bulk().delete("t", "n = 0", NONE).run().unwrap();
        assert_eq!(none.rows, 0);
    }
}

#[test]
fn key_of_all_types_is_walked_and_resumed() {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(k PRIMARY KEY, n INTEGER DEFAULT 0) WITHOUT ROWID")?;
            for at in 0..2000i64 {
                let key: Value = match at % 4 {
                    0 => at.into(),
                    1 => (at as f64 + 0.5).into(),
                    2 => format!("key '{at}' \0 ß").into(),
                    _ => vec![0xff, (at % 256) as u8, (at / 256) as u8].into(),
                };
                tx.execute("INSERT INTO t(k) VALUES (?1)", [key])?;
            }
            // Text that is not UTF-8.
            tx.execute("INSERT INTO t(k) VALUES (CAST(X'FF61' AS TEXT))", [])?;
            tx.execute_batch(
                "CREATE TRIGGER no BEFORE UPDATE ON t WHEN old.k = X'FF0305' BEGIN SELECT raise(ABORT, 'not this one'); END",
            )
        })
        .unwrap();
    let update = || store.bulk().resumable("all").update("t", "n = n + 1", "1", NONE).run();
    let error = update().unwrap_err();
    let Error::Bulk {
        rows, row: Some(row), ..
    } = error
    else {
        panic!("{error}")
    };
    assert!(rows > 1501 && row == rows + 1, "{rows}");
    store.write(|tx| tx.execute_batch("DROP TRIGGER no")).unwrap();
    let report = update().unwrap();
    assert_eq!((report.resumed_from, report.rows), (rows, 2001 - rows));
    assert_eq!(number(&store, "SELECT count(*) FROM t WHERE n = 1"), 2001);
}

#[test]
fn key_cannot_be_set() {
    let store = store("PRIMARY KEY(a, b)");
    for set in ["b = b + 1", "n = 1, \"A\" = 'x'", "(n, [b]) = (1, 2)"] {
        let error = store.bulk().update("t", set, "1", NONE).run().unwrap_err();
        assert!(error.to_string().contains("part of the key"), "{set}: {error}");
    }
    // `b` on the right is no name that is set.
    let report = store
        .bulk()
        .update("t", "n = max(n, b = 1)", "b = 1", NONE)
        .run()
        .unwrap();
    assert_eq!((report.rows, number(&store, "SELECT sum(n) FROM t")), (1, 1));
}

#[test]
fn rows_that_triggers_add_at_the_end_are_not_walked() {
    let store = store("PRIMARY KEY(b)");
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER again AFTER UPDATE ON t BEGIN
                     INSERT INTO t(a, b) VALUES ('z', new.b + 20000);
                 END",
            )
        })
        .unwrap();
    let report = store.bulk().update("t", "n = 1", "n = 0", NONE).run().unwrap();
    assert_eq!((report.rows, report.changed), (20_000, 40_000));
}

#[test]
fn resumed_update_of_another_key_is_refused() {
    let store = store("PRIMARY KEY(a, b)");
    let update = || store.bulk().resumable("mend").update("t", "n = n + 1", "1", NONE).run();
    assert_eq!(update().unwrap().rows, 20_000);
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE new(b INTEGER NOT NULL, n INTEGER NOT NULL, a TEXT NOT NULL) STRICT;
                 INSERT INTO new SELECT * FROM t; DROP TABLE t; ALTER TABLE new RENAME TO t",
            )
        })
        .unwrap();
    let error = update().unwrap_err().to_string();
    assert!(error.contains("Bulk::forget"), "{error}");
}
