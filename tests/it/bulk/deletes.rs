//! Deletions and updates: which rows they find, and once each.

use std::thread;

use larder::{Error, OnViolation, Store};

use crate::support::count;

fn store(rows: i64) -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(move |tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, n INTEGER NOT NULL) STRICT;
                 CREATE INDEX t_by_at ON t(at);
                 CREATE TABLE child(parent INTEGER REFERENCES t(id)) STRICT;
                 CREATE TABLE pair(a INTEGER, b INTEGER, PRIMARY KEY(a, b)) STRICT, WITHOUT ROWID;
                 CREATE TABLE hidden(rowid TEXT, _ROWID_ TEXT, oid TEXT) STRICT;
                 CREATE VIRTUAL TABLE words USING fts5(word);
                 CREATE VIEW v AS SELECT * FROM t",
            )?;
            let fill = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1)
                        INSERT INTO t SELECT i, (i * 7919) % ?1, CASE i % 3 WHEN 0 THEN 'old' ELSE 'new' END, 0 FROM i";
            tx.execute(fill, [rows])
        })
        .unwrap();
    store
}

fn rows_where(store: &Store, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM t WHERE {condition}");
    store.read(|tx| tx.scalar(&sql, [])).unwrap()
}

#[test]
fn deletion_by_index_deletes_what_the_condition_says() {
    let store = store(30_000);
    let report = store.bulk().delete("t", "at < ?1", (20_000,)).run().unwrap();
    assert_eq!((report.rows, report.changed), (20_000, 20_000));
    assert_eq!(count(&store), 10_000);
    assert_eq!(rows_where(&store, "at < 20000"), 0);
    // Nothing is left to do.
    assert_eq!(store.bulk().delete("t", "at < ?1", (20_000,)).run().unwrap().rows, 0);
}

#[test]
fn deletion_without_index_walks_over_the_table_once() {
    let store = store(30_000);
    store
        .write(|tx| tx.execute("UPDATE t SET id = -id * 1000000007 WHERE id % 2 = 0", []))
        .unwrap();
    let report = store
        .bulk()
        .delete("t", "kind = ? AND n = ?", ("old", 0))
        .run()
        .unwrap();
    assert_eq!(report.rows, 10_000);
    assert_eq!(rows_where(&store, "kind = 'old'"), 0);
    assert_eq!(count(&store), 20_000);
}

#[test]
fn deletion_of_all_rows_at_the_ends_of_the_keys() {
    let store = store(10);
    store
        .write(|tx| {
            let ends = "INSERT INTO t VALUES (?1, 1, 'old', 0)";
            tx.execute(ends, [i64::MIN])?;
            tx.execute(ends, [i64::MAX])
        })
        .unwrap();
    assert_eq!(
        store.bulk().delete("t", "n = 0", Vec::<i64>::new()).run().unwrap().rows,
        12
    );
    assert_eq!(count(&store), 0);
}

#[test]
fn rows_that_cannot_go_are_named_or_skipped() {
    let store = store(20_000);
    // The first rows of the index.
    store
        .write(|tx| tx.execute("INSERT INTO child SELECT id FROM t WHERE at < 10", []))
        .unwrap();
    let error = store.bulk().delete("t", "at < ?1", (15_000,)).run().unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    let report = store
        .bulk()
        .on_violation(OnViolation::Skip)
        .delete("t", "at < ?1", (15_000,))
        .run()
        .unwrap();
    assert_eq!((report.skipped, report.rows), (10, 15_000), "{report:?}");
    assert_eq!(rows_where(&store, "at < 15000"), 10);
    assert_eq!(count(&store), 5010);
}

/// A read of the index that takes long is followed by a walk, which does not give the same rows again.
#[test]
fn rows_that_cannot_go_are_found_once_by_a_slow_index() {
    let store = store(10_000);
    store
        .write(|tx| tx.execute("INSERT INTO child SELECT id FROM t WHERE at < 10", []))
        .unwrap();
    // Some 100 ms for the keys of one read.
    let slow = "at < ?1 AND length(randomblob(8000)) > 0";
    let bulk = store.bulk().on_violation(OnViolation::Skip);
    let report = bulk.delete("t", slow, (9_000,)).run().unwrap();
    assert_eq!((report.skipped, report.rows), (10, 9_000), "{report:?}");
    assert_eq!(count(&store), 1010);
}

#[test]
fn update_changes_each_row_once() {
    let store = store(30_000);
    // It still holds after the update.
    let report = store
        .bulk()
        .update("t", "n = n + ?2", "at >= ?1", (10_000, 5))
        .run()
        .unwrap();
    assert_eq!(report.rows, 20_000);
    assert_eq!(rows_where(&store, "n = 5 AND at >= 10000"), 20_000);
    assert_eq!(rows_where(&store, "n = 0 AND at < 10000"), 10_000);
}

#[test]
fn resumed_update_changes_each_row_once() {
    let store = store(30_000);
    let update = || {
        store
            .bulk()
            .resumable("update")
            .update("t", "n = n + 1", "n >= ?1", (0,))
            .run()
    };
    // A row in the middle cannot be changed.
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER no BEFORE UPDATE ON t WHEN old.id = 12345 BEGIN SELECT raise(ABORT, 'not this one'); END",
            )
        })
        .unwrap();
    let error = update().unwrap_err();
    let Error::Bulk {
        rows: 12_344,
        row: Some(12_345),
        ..
    } = error
    else {
        panic!("{error}")
    };
    store.write(|tx| tx.execute_batch("DROP TRIGGER no")).unwrap();
    let report = update().unwrap();
    assert_eq!((report.resumed_from, report.rows), (12_344, 30_000 - 12_344));
    assert_eq!(rows_where(&store, "n = 1"), 30_000);
}

#[test]
fn rows_written_meanwhile_do_not_confuse_it() {
    let store = store(20_000);
    thread::scope(|scope| {
        let job = scope.spawn(|| {
            store
                .bulk()
                .delete("t", "kind = 'old'", Vec::<i64>::new())
                .run()
                .unwrap()
        });
        for id in 1..500 {
            store
                .write(move |tx| tx.execute("UPDATE t SET kind = 'kept' WHERE id = ?1 AND kind = 'old'", [id * 30]))
                .unwrap();
        }
        job.join().unwrap();
    });
    assert_eq!(rows_where(&store, "kind = 'old'"), 0);
    assert!(count(&store) >= 20_000 - 6666);
}

#[test]
fn tables_that_cannot_be_walked_are_refused() {
    let store = store(1);
    for (table, reason) in [
        ("missing", "no such table"),
        ("hidden", "hide the key"),
        ("words", "no ordinary table"),
        ("v", "no ordinary table"),
    ] {
        let error = store.bulk().delete(table, "1", Vec::<i64>::new()).run().unwrap_err();
        assert!(error.to_string().contains(reason), "{table}: {error}");
    }
    let error = store
        .bulk()
        .delete("t", "missing = 1", Vec::<i64>::new())
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("no such column: missing"), "{error}");
}

#[test]
fn conditions_of_more_than_the_row_are_refused() {
    let store = store(100);
    let oldest = "at = (SELECT min(at) FROM t)";
    for condition in [
        oldest,
        "id NOT IN (SELECT parent FROM child)",
        "id IN child",
        "kind = :kind",
    ] {
        let error = store
            .bulk()
            .delete("t", condition, Vec::<i64>::new())
            .run()
            .unwrap_err();
        assert!(matches!(error, Error::Bulk { rows: 0, .. }), "{error}");
        assert!(error.to_string().contains("Bulk::delete"), "{error}");
    }
    for set in [
        "id = id + 1000",
        "n = 1, rowid = -id",
        "\"ID\" = 7",
        "(n, id) = (1, 2)",
        "n = max(1, 2), [oid] = 3",
    ] {
        let error = store
            .bulk()
            .update("t", set, "n = 0", Vec::<i64>::new())
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("part of the key"), "{error}");
    }
    assert_eq!(rows_where(&store, "n = 0"), 100);
    // Lists of values are of the row alone.
    let report = store.bulk().delete("t", "id IN (1, 2, ?1)", (3,)).run().unwrap();
    assert_eq!(report.rows, 3);
}

#[test]
fn rows_that_triggers_add_do_not_keep_it_going() {
    let store = store(10_000);
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER again AFTER UPDATE ON t BEGIN
                     INSERT INTO t(at, kind, n) VALUES (new.at, new.kind, 0);
                 END",
            )
        })
        .unwrap();
    let report = store
        .bulk()
        .update("t", "n = 1", "n = 0", Vec::<i64>::new())
        .run()
        .unwrap();
    assert_eq!(report.rows, 10_000);
    assert_eq!(rows_where(&store, "n = 1"), 10_000);
}

/// With too few, the last parameter would be the key of the walk, and other rows would go.
#[test]
fn number_of_values_is_that_of_the_parameters() {
    let store = store(100);
    let refused = |result: larder::Result<larder::BulkReport>, verb: &str, numbers: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(verb) && error.contains(numbers), "{error}");
    };
    for condition in ["at < ? AND n < ?", "at < ?1 AND n < ?2", "at < ?2"] {
        let result = store.bulk().delete("t", condition, (5,)).run();
        refused(result, "Bulk::delete", "want 2 values, and 1 are given");
        let result = store.bulk().delete("t", condition, (5, 5, 5)).run();
        refused(result, "Bulk::delete", "want 2 values, and 3 are given");
        let result = store.bulk().update("t", "kind = 'x'", condition, (5,)).run();
        refused(result, "Bulk::update", "want 2 values, and 1 are given");
    }
    let result = store.bulk().update("t", "n = ?", "at < ?", (5,)).run();
    refused(result, "Bulk::update", "want 2 values, and 1 are given");
    let result = store.bulk().update("t", "n = ?2", "at < ?1", (5,)).run();
    refused(result, "Bulk::update", "want 2 values, and 1 are given");
    let result = store.bulk().delete("t", "at < :at", (5,)).run();
    refused(result, "Bulk::delete", "named parameter");
    assert_eq!((count(&store), rows_where(&store, "n = 0 AND kind <> 'x'")), (100, 100));
    // A value may be used twice, and by both parts.
    let report = store
        .bulk()
        .update("t", "n = ?1", "at < ?1 AND n < ?1", (5,))
        .run()
        .unwrap();
    assert_eq!((report.rows, rows_where(&store, "n = 5")), (5, 5));
}

/// A trigger writes a new row for each one that goes.
#[test]
fn rows_that_triggers_add_do_not_keep_a_deletion_by_index_going() {
    let store = store(5_000);
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER again AFTER DELETE ON t BEGIN
                     INSERT INTO t(at, kind, n) VALUES (old.at, old.kind, 1);
                 END",
            )
        })
        .unwrap();
    let report = store.bulk().delete("t", "at < ?1", (4_000,)).run().unwrap();
    assert_eq!(report.rows, 4_000);
    assert_eq!(rows_where(&store, "at < 4000 AND n = 1"), 4_000);
}
