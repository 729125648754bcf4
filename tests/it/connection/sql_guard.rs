//! SQL that ends the transaction, leaves the database or writes in a read is refused by name, through every method. The
//! data is unchanged, and the store keeps working.

use larder::rusqlite::{self, Connection, ffi};
use larder::{Error, Outcome, ReadTx, Result, Store, WriteTx};

use crate::write::groups::{Gate, grouping};

/// A statement, and the name under which it is refused.
type Refusal = (&'static str, &'static str);

const TRANSACTIONS: &[Refusal] = &[
    ("BEGIN", "BEGIN"),
    ("BEGIN IMMEDIATE", "BEGIN"),
    ("begin exclusive transaction", "BEGIN"),
    ("COMMIT", "COMMIT"),
    ("END", "COMMIT"),
    ("/* a comment */ commit", "COMMIT"),
    ("ROLLBACK", "ROLLBACK"),
    ("SAVEPOINT s", "SAVEPOINT"),
    ("RELEASE s", "RELEASE"),
    ("RELEASE larder", "RELEASE"),
    ("ROLLBACK TO s", "ROLLBACK TO"),
    ("ROLLBACK TO larder", "ROLLBACK TO"),
];

const OTHER_FILES: &[Refusal] = &[
    ("ATTACH ':memory:' AS other", "ATTACH"),
    ("ATTACH '' AS other", "ATTACH"),
    ("DETACH other", "DETACH"),
    ("DETACH main", "DETACH"),
    ("VACUUM", "VACUUM"),
    ("VACUUM INTO 'nowhere.db'", "VACUUM"),
];

const PRAGMAS: &[Refusal] = &[
    ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode"),
    ("PRAGMA main.journal_mode(DELETE)", "PRAGMA journal_mode"),
    ("PRAGMA synchronous = OFF", "PRAGMA synchronous"),
    ("PRAGMA Foreign_Keys = OFF", "PRAGMA foreign_keys"),
    ("PRAGMA defer_foreign_keys = ON", "PRAGMA defer_foreign_keys"),
    ("PRAGMA defer_foreign_keys = OFF", "PRAGMA defer_foreign_keys"),
    ("PRAGMA query_only = OFF", "PRAGMA query_only"),
    ("PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
    (
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA ignore_check_constraints",
    ),
    ("PRAGMA recursive_triggers = ON", "PRAGMA recursive_triggers"),
    ("PRAGMA trusted_schema = ON", "PRAGMA trusted_schema"),
    ("PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint"),
    ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint"),
    ("PRAGMA wal_autocheckpoint = 1", "PRAGMA wal_autocheckpoint"),
    ("PRAGMA optimize", "PRAGMA optimize"),
    ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA locking_mode"),
    ("PRAGMA busy_timeout = 0", "PRAGMA busy_timeout"),
    ("PRAGMA cache_size = 1", "PRAGMA cache_size"),
    ("PRAGMA mmap_size = 0", "PRAGMA mmap_size"),
    ("PRAGMA temp_store = FILE", "PRAGMA temp_store"),
    ("PRAGMA schema_version = 7", "PRAGMA schema_version"),
    ("PRAGMA incremental_vacuum", "PRAGMA incremental_vacuum"),
    ("PRAGMA case_sensitive_like = ON", "PRAGMA case_sensitive_like"),
];

fn refusals() -> impl Iterator<Item = Refusal> {
    [TRANSACTIONS, OTHER_FILES, PRAGMAS].concat().into_iter()
}

fn store_with_a_row() -> Store {
    let store = grouping().open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)"))
        .unwrap();
    store
}

fn ids(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT id FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, name: &str, sql: &str) {
    match result {
        Err(error @ Error::Refused { .. }) => {
            assert_eq!(error.outcome(), Outcome::RolledBack);
            assert!(!error.is_retryable());
            let message = error.to_string();
            assert!(message.starts_with(&format!("{name} is refused")), "{sql}: {message}");
        }
        other => panic!("{sql}: {other:?}"),
    }
}

/// Each refusal, in a write that has written before; the write is undone and the next one works.
fn refused_in_writes(run: fn(&WriteTx<'_>, &'static str) -> Result<()>) {
    let store = store_with_a_row();
    for (sql, name) in refusals() {
        let result = store.write(move |tx| {
            tx.execute("INSERT INTO t VALUES (2)", [])?;
            run(tx, sql)
        });
        assert_refused(result, name, sql);
        assert_eq!(ids(&store), [1], "{sql}");
        store.write(|tx| tx.execute("INSERT INTO t VALUES (3)", [])).unwrap();
        store.write(|tx| tx.execute("DELETE FROM t WHERE id = 3", [])).unwrap();
    }
    assert!(store.close().unwrap().wal_truncated);
}

/// The same in a read; the connection is used again.
fn refused_in_reads(run: fn(&ReadTx<'_>, &str) -> Result<()>) {
    let store = grouping().readers(1).open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)"))
        .unwrap();
    for (sql, name) in refusals() {
        let result = store.read(|tx| {
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            run(tx, sql)
        });
        assert_refused(result, name, sql);
        assert_eq!(ids(&store), [1], "{sql}");
    }
    assert!(store.close().unwrap().wal_truncated);
}

fn raw_batch(conn: &Connection, sql: &str) -> Result<()> {
    Ok(conn.execute_batch(sql)?)
}

fn raw_cached_twice(conn: &Connection, sql: &str) -> Result<()> {
    // The second time it would come from the cache, if the first had put it there.
    let first = conn.prepare_cached(sql).and_then(|mut s| s.query([])?.next().map(drop));
    assert!(first.is_err(), "{sql} went through");
    conn.prepare_cached(sql)?.query([])?.next()?;
    Ok(())
}

#[test]
fn write_refuses_forbidden_sql_in_execute() {
    refused_in_writes(|tx, sql| tx.execute(sql, []).map(drop));
}

#[test]
fn write_refuses_forbidden_sql_in_execute_batch() {
    refused_in_writes(|tx, sql| tx.execute_batch(sql));
}

#[test]
fn write_refuses_forbidden_sql_in_rusqlite_execute_batch() {
    refused_in_writes(|tx, sql| raw_batch(tx, sql));
}

#[test]
fn write_refuses_forbidden_sql_in_cached_statement() {
    refused_in_writes(|tx, sql| raw_cached_twice(tx, sql));
}

#[test]
fn write_refuses_forbidden_sql_amid_a_batch() {
    refused_in_writes(|tx, sql| {
        tx.execute_batch(&format!("INSERT INTO t VALUES (4); {sql}; INSERT INTO t VALUES (5)"))
    });
}

#[test]
fn savepoint_refuses_forbidden_sql() {
    refused_in_writes(|tx, sql| tx.savepoint(|tx| tx.execute_batch(sql)));
}

#[test]
fn read_refuses_forbidden_sql_in_query() {
    refused_in_reads(|tx, sql| tx.query_each(sql, [], |_| Ok(())));
}

#[test]
fn read_refuses_forbidden_sql_in_rusqlite_execute_batch() {
    refused_in_reads(|tx, sql| raw_batch(tx, sql));
}

#[test]
fn read_refuses_forbidden_sql_in_cached_statement() {
    refused_in_reads(|tx, sql| raw_cached_twice(tx, sql));
}

#[test]
fn read_refuses_forbidden_sql_amid_a_batch() {
    refused_in_reads(|tx, sql| raw_batch(tx, &format!("SELECT 1; {sql}; SELECT 2")));
}

/// SQLite's ATTACH tells the authorizer the file's name only if it is a literal. Of any other expression
/// rusqlite makes `AuthAction::Unknown`, which the fence let pass: a write could attach any file, write to it, and
/// leave it attached for the next.
#[test]
fn attach_with_computed_file_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.db");
    let name = file.to_str().unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE other_t(x)").unwrap();
    for sql in [
        "ATTACH ?1 AS other",
        "ATTACH '' || ?1 AS other",
        "ATTACH (SELECT ?1) AS other",
    ] {
        let store = store_with_a_row();
        let in_write = {
            let name = name.to_owned();
            store.write(move |tx| {
                tx.execute(sql, [name])?;
                tx.execute("INSERT INTO other.other_t VALUES (1)", [])
            })
        };
        let in_read = store.read(|tx| tx.query_each(sql, [name], |_| Ok(())));
        let attached = store.write(|tx| {
            let others = "SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp')";
            tx.query_row(others, [], |row| row.get::<_, i64>(0))
        });
        assert_eq!(attached.unwrap(), 0, "{sql}: it is still attached in the next write");
        let written: i64 = other
            .query_row("SELECT count(*) FROM other_t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(written, 0, "{sql}: it wrote to the other file");
        assert_refused(in_write, "ATTACH", sql);
        assert_refused(in_read, "ATTACH", sql);
    }
}

#[test]
fn rusqlite_transaction_object_is_refused() {
    let store = store_with_a_row();
    let written = store.write(|tx| {
        let inner = tx.unchecked_transaction()?;
        inner.execute("INSERT INTO t VALUES (2)", [])?;
        Ok(inner.commit()?)
    });
    assert_refused(written, "BEGIN", "unchecked_transaction");
    let read = store.read(|tx| Ok(tx.unchecked_transaction().map(drop)?));
    assert_refused(read, "BEGIN", "unchecked_transaction");
    assert_eq!(ids(&store), [1]);
}

#[test]
fn vacuum_into_writes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let sql = format!("VACUUM INTO '{}'", copy.display());
    let store = store_with_a_row();
    assert_refused(store.read(|tx| raw_batch(tx, &sql)), "VACUUM", &sql);
    let in_write = {
        let sql = sql.clone();
        store.write(move |tx| tx.execute_batch(&sql))
    };
    assert_refused(in_write, "VACUUM", &sql);
    assert!(!copy.exists());
}

#[test]
fn read_that_writes_is_refused() {
    let store = store_with_a_row();
    store
        .write(|tx| tx.execute_batch("CREATE VIRTUAL TABLE words USING fts5(word)"))
        .unwrap();
    for sql in [
        "INSERT INTO t VALUES (2)",
        "INSERT INTO t VALUES (2) RETURNING id",
        "REPLACE INTO t VALUES (1)",
        "UPDATE t SET id = 9",
        "DELETE FROM t",
        "CREATE TABLE u(x)",
        "CREATE INDEX i ON t(id)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TEMP TABLE u(x)",
        "CREATE TABLE temp.u(x)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIEW temp.v AS SELECT 1",
        "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE temp.f USING fts5(x)",
        "ALTER TABLE t RENAME TO u",
        "DROP TABLE t",
        "ANALYZE",
        "REINDEX",
        "INSERT INTO words VALUES ('ant')",
        "INSERT INTO words(words) VALUES ('optimize')",
        "PRAGMA user_version = 3",
        "PRAGMA application_id = 3",
    ] {
        let own = store.read(|tx| tx.query_each(sql, [], |_| Ok(())));
        assert!(matches!(own, Err(Error::Refused { .. })), "{sql}: {own:?}");
        let raw = store.read(|tx| raw_batch(tx, sql));
        assert!(matches!(raw, Err(Error::Refused { .. })), "{sql}: {raw:?}");
    }
    assert_eq!(ids(&store), [1]);
    let temporary: i64 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM temp.sqlite_schema", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(temporary, 0);
}

#[test]
fn refused_read_message_suggests_a_write() {
    let store = store_with_a_row();
    let error = store
        .read(|tx| tx.query_each("DELETE FROM t", [], |_| Ok(())))
        .unwrap_err();
    assert!(error.to_string().contains("store.write"), "{error}");
}

#[test]
fn refused_commit_message_suggests_savepoints() {
    let store = store_with_a_row();
    let error = store.write(|tx| tx.execute("COMMIT", [])).unwrap_err();
    assert!(error.to_string().contains("tx.savepoint"), "{error}");
}

#[test]
fn pragmas_that_read_are_allowed() {
    let store = store_with_a_row();
    for sql in [
        "PRAGMA table_info(t)",
        "PRAGMA table_xinfo('t')",
        "PRAGMA table_list",
        "PRAGMA index_list(t)",
        "PRAGMA foreign_key_list(t)",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_keys",
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA schema_version",
        "PRAGMA data_version",
        "PRAGMA page_count",
        "PRAGMA page_size",
        "PRAGMA freelist_count",
        "PRAGMA journal_mode",
        "PRAGMA synchronous",
        "PRAGMA encoding",
        "PRAGMA database_list",
        "PRAGMA compile_options",
        "PRAGMA integrity_check",
        "PRAGMA quick_check",
        "SELECT * FROM pragma_table_info('t')",
    ] {
        store
            .read(|tx| tx.query_each(sql, [], |_| Ok(())))
            .unwrap_or_else(|error| panic!("{sql} in a read: {error}"));
        store
            .write(move |tx| tx.query_each(sql, [], |_| Ok(())))
            .unwrap_or_else(|error| panic!("{sql} in a write: {error}"));
    }
}

#[test]
fn user_version_set_in_failed_write_is_undone() {
    let store = store_with_a_row();
    let version = |store: &Store| {
        store
            .read(|tx| tx.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)))
            .unwrap()
    };
    store
        .write(|tx| tx.execute_batch("PRAGMA user_version = 7; PRAGMA application_id = 8"))
        .unwrap();
    assert_eq!(version(&store), 7);
    let gate = Gate::hold(&store);
    let neighbour = store.submit(|tx| tx.execute("INSERT INTO t VALUES (2)", [])).unwrap();
    let failing = store
        .submit(|tx| {
            tx.execute_batch("PRAGMA user_version = 99")?;
            Err::<(), _>(Error::app("no"))
        })
        .unwrap();
    gate.open();
    neighbour.wait().unwrap();
    failing.wait().unwrap_err();
    assert_eq!(version(&store), 7);
}

#[test]
fn full_text_and_rtree_tables_work_everywhere() {
    let store = store_with_a_row();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE VIRTUAL TABLE words USING fts5(word);
                 CREATE VIRTUAL TABLE boxes USING rtree(id, left, right);",
            )
        })
        .unwrap();
    store
        .write(|tx| {
            tx.execute("INSERT INTO words VALUES (?1), (?2)", ["an ant", "a bee"])?;
            tx.execute("INSERT INTO boxes VALUES (1, 0.0, 1.0), (2, 5.0, 6.0)", [])?;
            assert!(tx.exists("SELECT 1 FROM words WHERE words MATCH 'ant'", [])?);
            tx.execute("INSERT INTO words(words) VALUES ('integrity-check')", [])
        })
        .unwrap();
    store
        .read(|tx| {
            let found: String =
                tx.query_row("SELECT word FROM words WHERE words MATCH ?1", ["bee"], |row| row.get(0))?;
            assert_eq!(found, "a bee");
            let hit: i64 = tx.query_row("SELECT id FROM boxes WHERE left > 4.0", [], |row| row.get(0))?;
            assert_eq!(hit, 2);
            Ok(())
        })
        .unwrap();
    store
        .write(|tx| tx.execute_batch("DROP TABLE words; DROP TABLE boxes"))
        .unwrap();
}

/// What an application might return for reasons of its own.
fn not_authorized() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_AUTH), None)
}

#[test]
fn refusal_swallowed_by_write_does_not_affect_next() {
    let store = store_with_a_row();
    let gate = Gate::hold(&store);
    let swallowed = store
        .submit(|tx| {
            raw_batch(tx, "COMMIT").unwrap_err();
            tx.execute("INSERT INTO t VALUES (2)", [])
        })
        .unwrap();
    let next = store.submit(|_| Err::<(), _>(not_authorized().into())).unwrap();
    gate.open();
    assert_eq!(swallowed.wait().unwrap(), 1);
    let error = next.wait().unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    assert_eq!(ids(&store), [1, 2]);
}

#[test]
fn refusal_swallowed_by_read_does_not_affect_next() {
    let store = larder::Options::new().readers(1).open_temp().unwrap();
    store
        .read(|tx| {
            raw_batch(tx, "COMMIT").unwrap_err();
            Ok(())
        })
        .unwrap();
    let error = store.read(|_| Err::<(), _>(not_authorized().into())).unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
}

#[test]
fn schema_change_keeps_sql_guard_intact() {
    // After a schema change SQLite prepares each statement again at its next step, and asks the authorizer:
    // larder's cached BEGIN, SAVEPOINT and COMMIT must pass, and the user's must not.
    let store = larder::Options::new()
        .readers(1)
        .max_group_time(std::time::Duration::from_secs(60))
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    for round in 0..5_i64 {
        let gate = Gate::hold(&store);
        let change = store
            .submit(move |tx| tx.execute_batch(&format!("ALTER TABLE t ADD COLUMN c{round} INTEGER")))
            .unwrap();
        let cached = store
            .submit(move |tx| tx.savepoint(|tx| tx.execute("INSERT INTO t(id) VALUES (?1)", [round])))
            .unwrap();
        let undone = store
            .submit(|tx| {
                tx.execute_batch("CREATE TABLE gone(x)")?;
                Err::<(), _>(Error::app("no"))
            })
            .unwrap();
        let refused = store.submit(|tx| tx.execute("COMMIT", [])).unwrap();
        let last = store
            .submit(move |tx| tx.execute("INSERT INTO t(id) VALUES (?1)", [round + 100]))
            .unwrap();
        gate.open();
        change.wait().unwrap();
        cached.wait().unwrap();
        assert!(matches!(undone.wait(), Err(Error::App(_))));
        assert_refused(refused.wait(), "COMMIT", "COMMIT");
        last.wait().unwrap();
        let (rows, columns) = store
            .read(|tx| {
                let rows = tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?;
                let columns = tx.query_row("SELECT * FROM t", [], |row| Ok(row.as_ref().column_count() as i64))?;
                Ok((rows, columns))
            })
            .unwrap();
        assert_eq!((rows, columns), (2 * (round + 1), 2 + round));
    }
}

#[test]
fn cached_read_statement_survives_schema_change() {
    let store = larder::Options::new().readers(1).open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(a INTEGER); INSERT INTO t VALUES (1)"))
        .unwrap();
    let columns = || {
        store
            .read(|tx| tx.query_row("SELECT * FROM t", [], |row| Ok(row.as_ref().column_count())))
            .unwrap()
    };
    assert_eq!(columns(), 1);
    store
        .write(|tx| tx.execute_batch("ALTER TABLE t ADD COLUMN b"))
        .unwrap();
    assert_eq!(columns(), 2);
}
