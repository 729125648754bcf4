//! SQL that a module or a function runs inside a statement of a closure: full-text and R-tree tables work with all their
//! commands, and no function can end the transaction or leave a savepoint to another write.

#![allow(unsafe_code)]

use larder::rusqlite::functions::FunctionFlags;
use larder::rusqlite::{self, Connection};
use larder::{Error, Options, Outcome, Pending, ReadTx, Result, Store, WriteTx};

use crate::write::groups::{Gate, grouping};

fn batch(store: &Store, sql: &'static str) {
    store.write(move |tx| tx.execute_batch(sql)).unwrap();
}

fn texts(tx: &ReadTx<'_>, sql: &str) -> Result<Vec<String>> {
    tx.query_map(sql, [], |row| row.get(0))
}

/// Each write makes a segment of the index.
fn write_docs(store: &Store, table: &'static str) {
    for sql in [
        table,
        "INSERT INTO docs(body) VALUES ('one ant'), ('two bees')",
        "INSERT INTO docs(body) VALUES ('three ants')",
    ] {
        batch(store, sql);
    }
}

// ---- modules of SQLite ----

/// FTS4's function makes a savepoint, which was refused as the closure's.
#[test]
fn optimize_function_of_full_text_table_works() {
    for table in [
        "CREATE VIRTUAL TABLE docs USING fts3(body)",
        "CREATE VIRTUAL TABLE docs USING fts4(body)",
    ] {
        let store = Store::open_temp().unwrap();
        write_docs(&store, table);
        let first = |tx: &WriteTx<'_>| tx.query_row("SELECT optimize(docs) FROM docs LIMIT 1", [], |row| row.get(0));
        let told: String = store.write(first).unwrap();
        assert_eq!(told, "Index optimized", "{table}");
        // The function runs again for each row.
        let all = store.write(|tx| texts(tx, "SELECT optimize(docs) FROM docs"));
        assert_eq!(all.unwrap(), ["Index already optimal"; 3], "{table}");
        let raw = store.write(|tx| {
            let mut statement = tx.prepare_cached("SELECT optimize(docs) FROM docs WHERE docs MATCH 'a*'")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        assert_eq!(raw.unwrap().len(), 2, "{table}");
        let found = store.read(|tx| texts(tx, "SELECT body FROM docs WHERE docs MATCH 'ant'"));
        assert_eq!(found.unwrap(), ["one ant"], "{table}");
        batch(&store, "INSERT INTO docs(docs) VALUES ('integrity-check')");
    }
}

#[test]
fn optimize_function_in_read_is_refused_as_write() {
    let store = Store::open_temp().unwrap();
    write_docs(&store, "CREATE VIRTUAL TABLE docs USING fts4(body)");
    let error = store
        .read(|tx| texts(tx, "SELECT optimize(docs) FROM docs"))
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("store.write"), "{error}");
    let found = store.read(|tx| texts(tx, "SELECT body FROM docs WHERE docs MATCH 'ant'"));
    assert_eq!(found.unwrap(), ["one ant"]);
}

#[test]
fn commands_of_full_text_tables_work_in_writes() {
    let store = Store::open_temp().unwrap();
    for (table, commands) in [
        (
            "CREATE VIRTUAL TABLE docs USING fts4(body)",
            &[
                "optimize",
                "rebuild",
                "integrity-check",
                "merge=4,2",
                "automerge=2",
                "flush",
            ][..],
        ),
        (
            "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING fts5(body)",
            &["optimize", "rebuild", "integrity-check", "flush"],
        ),
    ] {
        write_docs(&store, table);
        for command in commands {
            let run = move |tx: &WriteTx<'_>| tx.execute("INSERT INTO docs(docs) VALUES (?1)", [command]);
            store
                .write(run)
                .unwrap_or_else(|error| panic!("{table}: {command}: {error}"));
        }
    }
    for (command, value) in [
        ("merge", 16),
        ("automerge", 2),
        ("crisismerge", 8),
        ("usermerge", 4),
        ("deletemerge", 10),
        ("pgsz", 4000),
        ("hashsize", 4096),
        ("secure-delete", 1),
        ("integrity-check", 1),
    ] {
        let run = move |tx: &WriteTx<'_>| {
            let sql = "INSERT INTO docs(docs, rank) VALUES (?1, ?2)";
            tx.execute(sql, rusqlite::params![command, value])
        };
        store.write(run).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    batch(
        &store,
        "INSERT INTO docs(docs, rank) VALUES ('rank', 'bm25(2.0)'); DELETE FROM docs WHERE rowid = 1",
    );
    batch(
        &store,
        "CREATE VIRTUAL TABLE bare USING fts5(body, content=''); INSERT INTO bare(rowid, body) VALUES (1, 'ant');
         INSERT INTO bare(bare, rowid, body) VALUES ('delete', 1, 'ant'); INSERT INTO bare(bare) VALUES ('delete-all');
         CREATE VIRTUAL TABLE terms USING fts5vocab(docs, row);",
    );
    let read = store.read(|tx| {
        let found = texts(
            tx,
            "SELECT highlight(docs, 0, '[', ']') FROM docs('ants OR bees') ORDER BY rank, rowid",
        )?;
        Ok((found, texts(tx, "SELECT term FROM terms ORDER BY term")?))
    });
    let (found, terms) = read.unwrap();
    assert_eq!(found, ["two [bees]", "three [ants]"]);
    assert_eq!(terms, ["ants", "bees", "three", "two"]);
}

#[test]
fn rtree_and_page_statistics_work_everywhere() {
    let store = Store::open_temp().unwrap();
    batch(
        &store,
        "CREATE VIRTUAL TABLE boxes USING rtree(id, a, b, +name);
         INSERT INTO boxes VALUES (1, 0, 1, 'small'), (2, 0, 9, 'large');
         UPDATE boxes SET b = 10 WHERE id = 2; DELETE FROM boxes WHERE id = 1;",
    );
    fn look(tx: &ReadTx<'_>) -> Result<(String, String, i64, i64)> {
        tx.query_row(
            "SELECT rtreecheck('boxes'), (SELECT name FROM boxes WHERE b > 5), (SELECT count(*) FROM dbstat),
                    (SELECT sum(rtreedepth(data)) FROM boxes_node WHERE nodeno = 1)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
    }
    for (check, name, pages, depth) in [store.read(look).unwrap(), store.write(|tx| look(tx)).unwrap()] {
        assert_eq!((check.as_str(), name.as_str(), depth), ("ok", "large", 0));
        assert!(pages > 3, "{pages}");
    }
    batch(&store, "ALTER TABLE boxes RENAME TO areas; DROP TABLE areas");
}

// ---- SQL that a function runs ----

/// A store with a function `run(sql)`, as a module may have one, and a table `t`.
fn with_function(options: Options) -> Store {
    let store = options
        .on_connect(|conn, _| {
            conn.create_scalar_function("run", 1, FunctionFlags::SQLITE_UTF8, |context| {
                let sql: String = context.get(0)?;
                // SAFETY: the connection is used on this thread, and not kept.
                let conn = unsafe { context.get_connection()? };
                conn.execute_batch(&sql)?;
                Ok(1)
            })?;
            Ok(())
        })
        .open_temp()
        .unwrap();
    batch(
        &store,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES t) STRICT",
    );
    store
}

fn run(tx: &WriteTx<'_>, sql: &str) -> Result<i64> {
    tx.query_row("SELECT run(?1)", [sql], |row| row.get(0))
}

fn insert(tx: &WriteTx<'_>, id: i64) -> Result<()> {
    tx.execute("INSERT INTO t(id) VALUES (?1)", [id]).map(drop)
}

fn ids(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT id FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

fn submit<T: Send + 'static>(store: &Store, f: impl FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static) -> Pending<T> {
    store.submit(f).unwrap()
}

#[test]
fn savepoints_of_function_work_for_every_row() {
    let store = with_function(grouping());
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3)
               SELECT run(format('SAVEPOINT mine; INSERT INTO t(id) VALUES (%d); SAVEPOINT mine;
                                  INSERT INTO t(id) VALUES (-1); ROLLBACK TO mine; RELEASE mine; RELEASE mine', i)) FROM n";
    let rows = store.write(|tx| tx.query_map(sql, [], |row| row.get::<_, i64>(0)));
    assert_eq!(rows.unwrap(), [1, 1, 1]);
    assert_eq!(ids(&store), [1, 2, 3]);
}

#[test]
fn function_cannot_run_refused_sql() {
    let store = with_function(grouping());
    for (sql, name) in [
        ("COMMIT", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("BEGIN", "BEGIN"),
        ("SAVEPOINT larder", "SAVEPOINT"),
        ("SAVEPOINT [LARDER]", "SAVEPOINT"),
        ("RELEASE larder", "RELEASE"),
        ("ROLLBACK TO Larder", "ROLLBACK TO"),
        ("ATTACH ':memory:' AS other", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode"),
        ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys"),
        ("PRAGMA defer_foreign_keys = OFF", "PRAGMA defer_foreign_keys"),
        (
            "SAVEPOINT changeset_apply; PRAGMA defer_foreign_keys = ON",
            "PRAGMA defer_foreign_keys",
        ),
        ("SELECT * FROM pragma_optimize(2)", "PRAGMA optimize"),
    ] {
        let gate = Gate::hold(&store);
        let before = submit(&store, |tx| insert(tx, 1));
        let refused = submit(&store, move |tx| {
            insert(tx, 2)?;
            run(tx, sql)
        });
        let after = submit(&store, |tx| insert(tx, 3));
        gate.open();
        before.wait().unwrap();
        let error = refused.wait().unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{name} is refused")),
            "{sql}: {error}"
        );
        assert_eq!(error.outcome(), Outcome::RolledBack, "{sql}");
        after.wait().unwrap();
        assert_eq!(ids(&store), [1, 3], "{sql}");
        store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    }
}

#[test]
fn open_savepoint_of_function_ends_with_write() {
    let store = with_function(grouping());
    // As the first write of a group, and as a later one; then on a connection that has had one.
    for _ in 0..2 {
        for first in [true, false] {
            let gate = Gate::hold(&store);
            let before = (!first).then(|| submit(&store, |tx| insert(tx, 1)));
            let opens = submit(&store, |tx| {
                run(tx, "SAVEPOINT left_open")?;
                insert(tx, 2)
            });
            let undoes = submit(&store, |tx| {
                insert(tx, 3)?;
                run(tx, "ROLLBACK TO left_open")
            });
            let after = submit(&store, |tx| insert(tx, 4));
            gate.open();
            before.into_iter().for_each(|before| before.wait().unwrap());
            opens.wait().unwrap();
            let error = undoes.wait().unwrap_err();
            assert!(error.to_string().contains("no such savepoint"), "{error}");
            after.wait().unwrap();
            assert_eq!(ids(&store), if first { vec![2, 4] } else { vec![1, 2, 4] });
            store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
        }
    }
}

/// With an open savepoint of its own, a write can undo larder's savepoints inside it. That concerns itself alone, and
/// nothing that was acknowledged.
#[test]
fn function_that_undoes_inner_savepoint_breaks_nothing() {
    let store = with_function(grouping());
    for _ in 0..2 {
        let gate = Gate::hold(&store);
        let before = submit(&store, |tx| insert(tx, 1));
        let meddles = submit(&store, |tx| {
            run(tx, "SAVEPOINT outer")?;
            insert(tx, 2)?;
            let inner = tx.savepoint(|tx| {
                insert(tx, 3)?;
                run(tx, "ROLLBACK TO outer")
            });
            drop(inner);
            insert(tx, 4)
        });
        let after = submit(&store, |tx| insert(tx, 5));
        gate.open();
        let kept: Vec<bool> = [before, meddles, after].into_iter().map(|w| w.wait().is_ok()).collect();
        let there = ids(&store);
        for (id, kept) in [1, 4, 5].into_iter().zip(kept) {
            assert_eq!(there.contains(&id), kept, "{id}: {there:?}");
        }
        assert!(!there.contains(&2) && !there.contains(&3), "{there:?}");
        store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    }
}

#[test]
fn failed_write_is_undone_after_function_savepoints() {
    let store = with_function(grouping());
    store.write(|tx| run(tx, "SAVEPOINT mine; RELEASE mine")).unwrap();
    let gate = Gate::hold(&store);
    let fails = submit(&store, |tx| {
        insert(tx, 1)?;
        run(tx, "SAVEPOINT mine; INSERT INTO t(id) VALUES (2)")?;
        Err::<(), _>(Error::app("no"))
    });
    let works = submit(&store, |tx| insert(tx, 3));
    let also_fails = submit(&store, |tx| {
        insert(tx, 4)?;
        Err::<(), _>(Error::app("no"))
    });
    gate.open();
    fails.wait().unwrap_err();
    works.wait().unwrap();
    also_fails.wait().unwrap_err();
    assert_eq!(ids(&store), [3]);
    // No transaction is left open.
    let other = Connection::open(store.path()).unwrap();
    other
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO t(id) VALUES (5); COMMIT")
        .unwrap();
    assert_eq!(ids(&store), [3, 5]);
}

/// Rows that are open do not make a closure's SAVEPOINT a module's.
#[test]
fn closure_savepoint_beside_open_rows_is_refused() {
    fn beside_rows(tx: &WriteTx<'_>, sql: &str) -> Result<()> {
        let conn: &Connection = tx;
        let mut statement = conn.prepare("SELECT 1 UNION ALL SELECT 2")?;
        let mut rows = statement.query([])?;
        rows.next()?;
        conn.execute_batch(sql)?;
        rows.next()?;
        Ok(conn.execute_batch("INSERT INTO t(id) VALUES (1)")?)
    }
    let store = with_function(grouping());
    for sql in [
        "SAVEPOINT s",
        "RELEASE s",
        "ROLLBACK TO s",
        "COMMIT",
        "SAVEPOINT changeset_apply",
    ] {
        let error = store.write(move |tx| beside_rows(tx, sql)).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{sql}: {error:?}");
    }
    // A name that a function has used is accepted there, and of no use in another write.
    store.write(|tx| run(tx, "SAVEPOINT s; RELEASE s")).unwrap();
    let gate = Gate::hold(&store);
    let opens = submit(&store, |tx| beside_rows(tx, "SAVEPOINT s"));
    let undoes = submit(&store, |tx| beside_rows(tx, "ROLLBACK TO s"));
    gate.open();
    opens.wait().unwrap();
    assert!(undoes.wait().unwrap_err().to_string().contains("no such savepoint"));
    let error = store.write(|tx| tx.execute_batch("SAVEPOINT s")).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(ids(&store), [1]);
}
