//! What no job should be given, and its results: statements that do not fit, tables that change or go, names that
//! need quotes, triggers, full disks.

use std::fs;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use larder::{Constraint, Error, OnViolation, Options, Outcome, Store};

use crate::support::child::{Child, Task, after_mounting, tell};
use crate::support::{count, until};

const INSERT: &str = "INSERT INTO t VALUES (?1, ?2)";
const NONE: [i64; 0] = [];

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT) STRICT;
                 CREATE TABLE log(id INTEGER) STRICT",
            )
        })
        .unwrap();
    store
}

fn rows(count: i64) -> impl Iterator<Item = (i64, &'static str)> {
    (0..count).map(|id| (id, "text"))
}

fn number(store: &Store, sql: &str) -> i64 {
    store.read(|tx| tx.scalar(sql, [])).unwrap()
}

/// Rows of a job, then a statement by another thread, then more rows. Returns the error, and its rows.
fn interrupted_by(store: &Store, insert: &str, sql: &'static str) -> Result<u64, Error> {
    let (sender, receiver) = sync_channel(0);
    thread::scope(|scope| {
        let job = scope.spawn(|| store.bulk().insert(insert, receiver).run());
        for row in rows(1000) {
            sender.send(row).unwrap();
        }
        until(store, |stats| stats.bulk.iter().any(|job| job.rows == 1000));
        store.write(move |tx| tx.execute_batch(sql)).unwrap();
        for (id, text) in rows(1000) {
            if sender.send((id + 1000, text)).is_err() {
                break;
            }
        }
        drop(sender);
        job.join().unwrap().map(|report| report.rows)
    })
}

#[test]
fn table_that_is_dropped_or_altered_meanwhile_fails_the_job() {
    let dropped = interrupted_by(&store(), INSERT, "DROP TABLE t").unwrap_err();
    assert!(matches!(dropped, Error::Bulk { rows: 1000, .. }), "{dropped}");
    assert!(dropped.to_string().contains("no such table: t"), "{dropped}");
    let store = store();
    let altered = "ALTER TABLE t ADD COLUMN more INTEGER";
    let error = interrupted_by(&store, INSERT, altered).unwrap_err();
    assert!(error.to_string().contains("3 columns but 2 values"), "{error}");
    assert_eq!((error.outcome(), count(&store)), (Outcome::Partial, 1000));
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    // With the names of its columns it goes on.
    let named = "INSERT INTO t(id, text) VALUES (?1, ?2)";
    let other = "ALTER TABLE t ADD COLUMN other INTEGER";
    assert_eq!(interrupted_by(&store, named, other).unwrap(), 2000);
}

/// A walk over a table meets the change between two windows, or in the slice that follows it.
#[test]
fn table_that_is_dropped_while_it_is_walked_fails_the_job() {
    for (verb, sql, reason) in [
        ("delete", "DROP TABLE t", "no such table: "),
        (
            "update",
            "ALTER TABLE t RENAME COLUMN text TO other",
            "no such column: text",
        ),
        ("update", "ALTER TABLE t RENAME TO u", "no such table: "),
    ] {
        let store = store();
        store.bulk().insert(INSERT, rows(100_000)).run().unwrap();
        let (seen, first) = std::sync::mpsc::channel();
        let (go_on, changed) = std::sync::mpsc::channel::<()>();
        let mut told = Some(seen);
        // The driver waits behind the first slices for the change.
        let job = store
            .bulk()
            .slice(std::time::Duration::ZERO)
            .pause(std::time::Duration::from_millis(1));
        let job = job.progress(move |now| {
            if now.rows > 0
                && let Some(seen) = told.take()
            {
                seen.send(()).unwrap();
                let _ = changed.recv();
            }
            std::ops::ControlFlow::Continue(())
        });
        let error = thread::scope(|scope| {
            let job = scope.spawn(|| match verb {
                "delete" => job.delete("t", "text = ?1", ("text",)).run(),
                _ => job.update("t", "text = ?1", "text = ?2", ("new", "text")).run(),
            });
            first.recv().unwrap();
            store.write(move |tx| tx.execute_batch(sql)).unwrap();
            drop(go_on);
            job.join().unwrap().unwrap_err()
        });
        let Error::Bulk { rows, .. } = error else {
            panic!("{error}")
        };
        assert!(rows > 0 && rows < 100_000, "{sql}: {error}");
        assert!(error.to_string().contains(reason), "{sql}: {error}");
        assert!(store.stats().bulk.is_empty());
    }
}

#[test]
fn store_that_only_reads_refuses_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT) STRICT; INSERT INTO t VALUES (1, 'a')")
        })
        .unwrap();
    store.close().unwrap();
    let store = Options::new().read_only(true).open(&path).unwrap();
    for name in [None, Some("load")] {
        let bulk = || match name {
            Some(name) => store.bulk().resumable(name),
            None => store.bulk(),
        };
        let insert = bulk().insert(INSERT, rows(10)).run().unwrap_err();
        let delete = bulk().delete("t", "id = ?1", (1,)).run().unwrap_err();
        for error in [insert, delete] {
            assert_eq!(error.outcome(), Outcome::NotStarted, "{error:?}");
            assert!(
                error.to_string().contains("read-only") || error.to_string().contains("read_only"),
                "{error}"
            );
        }
    }
    assert_eq!(count(&store), 1);
}

/// Also of a database that may have no more pages, on any system.
#[test]
fn full_database_keeps_the_slices_before_and_the_job_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = |pages: u32| {
        let options = Options::new().on_connect(move |conn, _| {
            conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            Ok(())
        });
        options.open(&path).unwrap()
    };
    let load = |store: &Store| {
        let source = (0..20_000).map(|id| (id, "a text of some length"));
        store.bulk().resumable("load").insert(INSERT, source).run()
    };
    let store = open(100);
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT) STRICT"))
        .unwrap();
    let error = load(&store).unwrap_err();
    let Error::Bulk { rows, .. } = error else {
        panic!("{error}")
    };
    assert!(rows > 0 && error.to_string().contains("full"), "{error}");
    assert_eq!(count(&store), rows as i64);
    // A smaller row has no room, either; the store goes on.
    assert!(load(&store).is_err());
    store
        .write(|tx| tx.execute("UPDATE t SET text = 'a' WHERE id = 0", []))
        .unwrap();
    store.close().unwrap();
    let store = open(10_000);
    let report = load(&store).unwrap();
    assert_eq!(report.resumed_from + report.rows, 20_000);
    assert_eq!(number(&store, "SELECT count(DISTINCT id) FROM t"), 20_000);
    assert!(store.check().full().run().unwrap().is_ok());
}

#[test]
fn statement_that_is_no_write_of_a_row_is_refused() {
    let store = store();
    for (sql, reason) in [
        ("SELECT ?1, ?2", "returned results"),
        ("INSERT INTO t VALUES (?1, ?2); DELETE FROM t", "Multiple statements"),
        ("INSERT INTO t VALUES (?1, ?2) RETURNING id", "returned results"),
        ("", "parameters"),
        ("-- nothing", "parameters"),
        ("BEGIN", "refused"),
        ("COMMIT", "refused"),
        ("PRAGMA foreign_keys = ?1", "syntax error"),
        ("INSERT INTO t VALUES (?1)", "1 values were supplied"),
        ("INSERT INTO t VALUES (?1, ?2, ?3)", "3 values were supplied"),
        ("INSERT INTO t(id, missing) VALUES (?1, ?2)", "missing"),
        ("INSERT INTO other.t VALUES (?1, ?2)", "other"),
    ] {
        let error = store.bulk().insert(sql, rows(10)).run();
        let Err(error) = error else { panic!("{sql}: {error:?}") };
        assert!(error.to_string().contains(reason), "{sql}: {error}");
        assert_ne!(error.outcome(), Outcome::Partial, "{sql}: {error:?}");
        assert_eq!(count(&store), 0, "{sql}: {error}");
    }
    store.write(|tx| tx.execute("INSERT INTO log VALUES (1)", [])).unwrap();
    let skip = store.bulk().on_violation(OnViolation::Skip);
    assert!(skip.insert("INSERT INTO t VALUES (?1)", rows(10)).run().is_err());
}

#[test]
fn statements_of_all_kinds_of_writes_run_for_each_row() {
    let store = store();
    let select = "INSERT INTO t SELECT ?1 + value, ?2 FROM json_each('[0, 1000000]')";
    let report = store.bulk().insert(select, rows(1000)).run().unwrap();
    assert_eq!((report.rows, report.changed), (1000, 2000));
    let upsert = "INSERT INTO t VALUES (?1, ?2) ON CONFLICT(id) DO UPDATE SET text = 'again'";
    assert_eq!(store.bulk().insert(upsert, rows(2000)).run().unwrap().changed, 2000);
    assert_eq!(number(&store, "SELECT count(*) FROM t WHERE text = 'again'"), 1000);
    let named = "UPDATE t SET text = :text WHERE id = :id";
    // Parameters have numbers in the order in which they appear.
    let turned = rows(10).map(|(id, text)| (text, id));
    assert_eq!(store.bulk().insert(named, turned).run().unwrap().changed, 10);
    let ignored = "INSERT OR IGNORE INTO t VALUES (?1, ?2)";
    assert_eq!(store.bulk().insert(ignored, rows(2000)).run().unwrap().changed, 0);
}

#[test]
fn row_with_another_number_of_values_is_named() {
    let store = store();
    let source = || (0..1000i64).map(|n| if n == 700 { vec![n] } else { vec![n, n] });
    store
        .write(|tx| tx.execute_batch("CREATE TABLE pairs(a INTEGER, b INTEGER) STRICT"))
        .unwrap();
    for policy in [OnViolation::Fail, OnViolation::Skip] {
        let job = store.bulk().on_violation(policy);
        let error = job
            .insert("INSERT INTO pairs VALUES (?1, ?2)", source())
            .run()
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Bulk {
                    rows: 700,
                    row: Some(701),
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(number(&store, "SELECT count(*) FROM pairs"), 1400);
}

#[test]
fn statement_that_ends_the_transaction_fails_the_job_at_a_slice() {
    let store = store();
    store
        .write(|tx| tx.execute("INSERT INTO t VALUES (5000, 'there')", []))
        .unwrap();
    let error = store
        .bulk()
        .on_violation(OnViolation::Skip)
        .insert("INSERT OR ROLLBACK INTO t VALUES (?1, ?2)", rows(10_000))
        .run()
        .unwrap_err();
    let Error::Bulk { rows, .. } = error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("UNIQUE"), "{error}");
    assert_eq!(count(&store), rows as i64 + 1);
}

#[test]
fn deferred_keys_are_judged_for_each_slice_and_the_error_says_so() {
    let store = Store::open_temp().unwrap();
    let create = "CREATE TABLE t(
        id INTEGER PRIMARY KEY, parent INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED) STRICT";
    store.write(move |tx| tx.execute_batch(create)).unwrap();
    let insert = "INSERT INTO t VALUES (?1, ?2)";
    // The parent of all is the last row.
    let children_first = || (1..=200_000i64).rev().map(|id| (id, (id > 1).then_some(1i64)));
    for policy in [OnViolation::Fail, OnViolation::Skip] {
        let job = store.bulk().on_violation(policy).insert(insert, children_first());
        let error = job.run().unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("deferred foreign key is judged at the end of each slice"),
            "{text}"
        );
        assert!(
            text.contains("the rows 1 to ") && text.contains("Store::write"),
            "{text}"
        );
        assert!(
            matches!(error.constraint(), Some(Constraint::ForeignKey { .. })),
            "{error:?}"
        );
        assert_eq!((error.outcome(), count(&store)), (Outcome::RolledBack, 0));
    }
    let parents_first = (1..=20_000i64).map(|id| (id, (id > 1).then_some(id / 2)));
    assert_eq!(store.bulk().insert(insert, parents_first).run().unwrap().rows, 20_000);
    // The second way out.
    store.write(|tx| tx.execute("UPDATE t SET parent = NULL", [])).unwrap();
    let update = "UPDATE t SET parent = ?2 WHERE id = ?1";
    assert_eq!(
        store
            .bulk()
            .insert(update, (1..=20_000i64).map(|id| (id, 1)))
            .run()
            .unwrap()
            .rows,
        20_000
    );
}

#[test]
fn full_disk_keeps_the_slices_before_and_the_job_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=8m larder '{disk}'");
    let Some(command) = after_mounting(&mount) else {
        return;
    };
    let child = Child::start_by(command, "bulk::misuse", "fill", &[disk]);
    child.expect("done");
    child.finish();
}

/// 8 MB are soon full. What has taken a part of them is removed, and the job goes on.
pub(crate) fn child(task: &Task) {
    let folder = Path::new(&task.args[0]);
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![1; 13 << 19]).unwrap();
    let store = Options::new().checkpoint_pages(50).open(folder.join("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"))
        .unwrap();
    const ROWS: u64 = 10_000;
    let load = || {
        let source = (0..ROWS as i64).map(|id| (id, "x".repeat(200)));
        let slice = std::time::Duration::from_micros(100);
        store.bulk().resumable("load").slice(slice).insert(INSERT, source).run()
    };
    let error = load().unwrap_err();
    let Error::Bulk { rows, .. } = error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(count(&store), rows as i64);
    fs::remove_file(ballast).unwrap();
    let report = load().unwrap();
    assert_eq!((report.resumed_from, report.rows), (rows, ROWS - rows));
    assert_eq!(count(&store), ROWS as i64);
    assert!(store.check().run().unwrap().is_ok());
    store.close().unwrap();
    tell("done");
}

#[test]
fn names_that_need_quotes_and_generated_columns_are_walked() {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                r#"CREATE TABLE "a ""b'; DROP TABLE t"(
                       "select" INTEGER PRIMARY KEY, n INTEGER NOT NULL, twice INTEGER GENERATED ALWAYS AS (2 * n) STORED,
                       half INTEGER AS (n / 2)) STRICT;
                   CREATE TABLE "größe ?1"("a b" TEXT PRIMARY KEY, "where" INTEGER) STRICT, WITHOUT ROWID;
                   CREATE INDEX "i ?" ON "a ""b'; DROP TABLE t"(twice);
                   INSERT INTO "größe ?1" VALUES ('x', 1), ('y', 2)"#,
            )
        })
        .unwrap();
    let table = r#"a "b'; DROP TABLE t"#;
    let insert = r#"INSERT INTO "a ""b'; DROP TABLE t"(n) VALUES (?1)"#;
    store.bulk().insert(insert, (0..5000).map(|n| (n,))).run().unwrap();
    let update = store
        .bulk()
        .update(table, "n = n + ?", "half >= ? -- of them", (1, 1000))
        .run();
    assert_eq!(update.unwrap().rows, 3000);
    assert_eq!(store.bulk().delete(table, "twice < ?", (100,)).run().unwrap().rows, 50);
    let set = store
        .bulk()
        .update(table, "twice = 1", "n = 100", NONE)
        .run()
        .unwrap_err();
    assert!(set.to_string().contains("generated"), "{set}");
    let report = store.bulk().update("GRÖßE ?1", "\"where\" = 5", "1", NONE).run();
    // SQLite folds ASCII letters alone.
    assert!(report.unwrap_err().to_string().contains("no such table"));
    let report = store
        .bulk()
        .update("größe ?1", "\"where\" = 5 -- all", "\"a b\" > ?1", ("",))
        .run();
    assert_eq!(report.unwrap().rows, 2);
}

/// Texts that would end the statement around them and change more than the rows that are meant.
#[test]
fn conditions_that_reach_over_their_place_are_refused() {
    let store = store();
    store.bulk().insert(INSERT, rows(100)).run().unwrap();
    for condition in [
        "id = 1) OR (1",
        "id = 1) --",
        "id = 1; DELETE FROM t",
        "1) RETURNING (id",
        "id = (1",
        "",
        "id = 1 /* open",
        "'open",
    ] {
        assert!(store.bulk().delete("t", condition, NONE).run().is_err(), "{condition}");
        assert!(
            store.bulk().update("t", "text = 'set'", condition, NONE).run().is_err(),
            "{condition}"
        );
    }
    for set in [
        "text = 'set' WHERE 1 --",
        "text = 'set' WHERE 1 /*",
        "text = log.id FROM log",
        "text = 'set'; --",
        "text = 'set' RETURNING id --",
        "",
    ] {
        assert!(store.bulk().update("t", set, "id < 5", NONE).run().is_err(), "{set}");
    }
    assert_eq!(number(&store, "SELECT count(*) FROM t WHERE text = 'text'"), 100);
    let distinct = store
        .bulk()
        .update("t", "text = id IS DISTINCT FROM 5", "id IS NOT DISTINCT FROM 7", NONE);
    assert_eq!(distinct.run().unwrap().rows, 1);
}

#[test]
fn triggers_views_and_full_text_tables_take_rows() {
    let store = store();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER logs AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;
                 CREATE VIEW v AS SELECT * FROM t;
                 CREATE TRIGGER through INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.id, new.text); END;
                 CREATE VIRTUAL TABLE words USING fts5(word);
                 CREATE TRIGGER odd BEFORE INSERT ON t WHEN new.id % 100 = 99 BEGIN SELECT raise(ABORT, 'odd'); END",
            )
        })
        .unwrap();
    let skip = || store.bulk().on_violation(OnViolation::Skip);
    let report = skip()
        .insert("INSERT INTO v VALUES (?1, ?2)", rows(1000))
        .run()
        .unwrap();
    assert_eq!((report.rows, report.skipped), (1000, 10), "{report:?}");
    assert_eq!((count(&store), number(&store, "SELECT count(*) FROM log")), (990, 990));
    let words = store
        .bulk()
        .insert("INSERT INTO words(rowid, word) VALUES (?1, ?2)", rows(2000))
        .run();
    assert_eq!(words.unwrap().rows, 2000);
    let found = "SELECT count(*) FROM words WHERE words MATCH 'text'";
    assert_eq!(number(&store, found), 2000);
    let ignored = "CREATE TRIGGER ignored BEFORE DELETE ON t WHEN old.id % 2 BEGIN SELECT raise(IGNORE); END";
    store.write(move |tx| tx.execute_batch(ignored)).unwrap();
    let report = store.bulk().delete("t", "id < ?1", (1000,)).run().unwrap();
    assert_eq!((report.rows, report.changed, count(&store)), (990, 500, 490));
}
