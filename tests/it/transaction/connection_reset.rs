//! A connection is reset between closures: temporary objects, open statements, settings and counters do not carry over.

use std::cell::RefCell;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::rusqlite::config::DbConfig;
use larder::rusqlite::functions::FunctionFlags;
use larder::rusqlite::limits::Limit;
use larder::rusqlite::trace::TraceEventCodes;
use larder::rusqlite::{Connection, hooks};
use larder::{Error, Migration, Migrations, Options, ReadTx, Result, Role, Store, WriteTx};

use crate::support::child::PATIENCE;
use crate::support::leaks::{LEAKS, leak_returning, leak_statement_and_rows};
use crate::write::groups::{Gate, grouping};

fn store_with_rows() -> Store {
    let store = grouping().readers(1).open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
                 INSERT INTO t VALUES (1), (2), (3);",
            )
        })
        .unwrap();
    store
}

fn ids(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT id FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

fn temporary_objects(tx: &WriteTx<'_>) -> Result<Vec<String>> {
    let list = "SELECT name FROM temp.sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'";
    tx.query_map(list, [], |row| row.get(0))
}

/// Runs `make` in three jobs of one group, and then alone; after each, no temporary object is left, and what the
/// next one inserts is in the table of the file.
fn leaves_nothing(make: fn(&WriteTx<'_>) -> Result<()>) {
    let store = store_with_rows();
    let mut expected = vec![1, 2, 3];
    for round in 0..2_i64 {
        let gate = Gate::hold(&store);
        let jobs: Vec<_> = (0..3_i64)
            .flat_map(|n| {
                let id = 10 + 10 * round + n;
                expected.push(id);
                let made = store.submit(make).unwrap();
                let next = store
                    .submit(move |tx| {
                        assert_eq!(temporary_objects(tx)?, [""; 0]);
                        tx.execute("INSERT INTO t VALUES (?1)", [id]).map(drop)
                    })
                    .unwrap();
                [made, next]
            })
            .collect();
        gate.open();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
        store.write(make).unwrap();
        assert_eq!(store.write(temporary_objects).unwrap(), [""; 0]);
    }
    assert_eq!(ids(&store), expected);
}

#[test]
fn temporary_table_is_gone_in_the_next_write() {
    leaves_nothing(|tx| tx.execute_batch("CREATE TEMP TABLE scratch(x); INSERT INTO scratch VALUES (1)"));
}

#[test]
fn temporary_table_by_cached_statement_is_gone() {
    leaves_nothing(|tx| tx.execute("CREATE TEMP TABLE scratch(x)", []).map(drop));
}

/// `CREATE TABLE temp.x` is told to the authorizer as an ordinary CREATE TABLE, whose database is "temp".
#[test]
fn temporary_table_by_qualified_name_is_gone() {
    leaves_nothing(|tx| tx.execute_batch("CREATE TABLE temp.t(id)"));
}

#[test]
fn temporary_table_shadowing_a_table_is_gone() {
    leaves_nothing(|tx| {
        tx.execute_batch("CREATE TEMP TABLE t(id)")?;
        tx.execute("INSERT INTO t VALUES (99)", [])?;
        Ok(())
    });
}

#[test]
fn temporary_table_from_a_query_is_gone() {
    leaves_nothing(|tx| tx.execute_batch("CREATE TEMP TABLE scratch AS SELECT * FROM t"));
}

#[test]
fn temporary_table_with_quoted_name_is_gone() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            r#"CREATE TEMP TABLE "a ""quoted"" name"(x); CREATE TEMP TABLE "it's"(x); CREATE TEMP TABLE "%_"(x)"#,
        )
    });
}

#[test]
fn temporary_table_named_like_sqlites_own_is_gone() {
    leaves_nothing(|tx| tx.execute_batch("CREATE TEMP TABLE sqlitex(x)"));
}

#[test]
fn temporary_view_is_gone_in_the_next_write() {
    leaves_nothing(|tx| tx.execute_batch("CREATE TEMP VIEW t AS SELECT 7 AS id"));
}

#[test]
fn temporary_view_by_qualified_name_is_gone() {
    leaves_nothing(|tx| tx.execute_batch("CREATE VIEW temp.t AS SELECT 7 AS id"));
}

#[test]
fn temporary_trigger_is_gone_in_the_next_write() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TEMP TRIGGER doubling AFTER INSERT ON main.t WHEN new.id < 1000
             BEGIN INSERT INTO t VALUES (new.id + 1000); END",
        )
    });
}

/// Of `CREATE TRIGGER temp.x ON main.t` the authorizer is told that a trigger is made on a table of "main".
#[test]
fn temporary_trigger_by_qualified_name_is_gone() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TRIGGER temp.doubling AFTER INSERT ON main.t WHEN new.id < 1000
             BEGIN INSERT INTO t VALUES (new.id + 1000); END",
        )
    });
}

#[test]
fn temporary_index_and_trigger_go_with_their_table() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TEMP TABLE scratch(x INTEGER PRIMARY KEY, y UNIQUE);
             CREATE INDEX temp.scratch_y ON scratch(y);
             CREATE TEMP TRIGGER scratched AFTER INSERT ON scratch BEGIN SELECT 1; END;
             CREATE TEMP VIEW scratches AS SELECT * FROM scratch;
             INSERT INTO scratch(y) VALUES (1), (2);",
        )
    });
}

#[test]
fn temporary_virtual_table_takes_its_shadow_tables() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE VIRTUAL TABLE temp.words USING fts5(word);
             INSERT INTO words VALUES ('ant');
             CREATE VIRTUAL TABLE temp.boxes USING rtree(id, l, r);",
        )
    });
}

/// DROP TABLE deletes the rows first, which an immediate foreign key that refers to them forbids. The tables were
/// dropped in the order in which they were made, parents first, so such a write failed.
#[test]
fn temporary_tables_with_foreign_keys_are_gone() {
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TEMP TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TEMP TABLE child(parent INTEGER NOT NULL REFERENCES parent(id));
             INSERT INTO parent VALUES (1);
             INSERT INTO child VALUES (1);",
        )
    });
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TEMP TABLE child(parent INTEGER NOT NULL REFERENCES parent(id));
             CREATE TEMP TABLE parent(id INTEGER PRIMARY KEY);
             INSERT INTO parent VALUES (1);
             INSERT INTO child VALUES (1);",
        )
    });
    leaves_nothing(|tx| {
        tx.execute_batch(
            "CREATE TEMP TABLE hen(id INTEGER PRIMARY KEY, egg INTEGER REFERENCES egg(id));
             CREATE TEMP TABLE egg(id INTEGER PRIMARY KEY, hen INTEGER REFERENCES hen(id));
             INSERT INTO hen VALUES (1, NULL);
             INSERT INTO egg VALUES (1, 1);
             UPDATE hen SET egg = 1;",
        )
    });
}

/// The authorizer is asked when a statement is prepared. This one is prepared in one write, which runs it never,
/// and run from the cache in the next.
#[test]
fn temporary_table_by_statement_prepared_earlier_is_gone() {
    let store = store_with_rows();
    let sql = "CREATE TEMP TABLE t(id)";
    store.write(move |tx| Ok(tx.prepare_cached(sql).map(drop)?)).unwrap();
    store.write(move |tx| tx.execute(sql, [])).unwrap();
    assert_eq!(store.write(temporary_objects).unwrap(), [""; 0]);
    store.write(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    assert_eq!(ids(&store), [1, 2, 3, 4]);
}

#[test]
fn temporary_table_of_failed_write_is_gone() {
    let store = store_with_rows();
    let gate = Gate::hold(&store);
    let before = store.submit(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    let failed = store
        .submit(|tx| {
            tx.execute_batch("CREATE TEMP TABLE t(id)")?;
            Err::<(), _>(Error::app("no"))
        })
        .unwrap();
    let panicked = store
        .submit(|tx| -> Result<()> {
            tx.execute_batch("CREATE TEMP TABLE t(id)")?;
            resume_unwind(Box::new("boom"))
        })
        .unwrap();
    let after = store.submit(|tx| tx.execute("INSERT INTO t VALUES (5)", [])).unwrap();
    gate.open();
    before.wait().unwrap();
    failed.wait().unwrap_err();
    assert!(catch_unwind(AssertUnwindSafe(|| panicked.wait())).is_err());
    after.wait().unwrap();
    assert_eq!(ids(&store), [1, 2, 3, 4, 5]);
}

#[test]
fn temporary_table_works_within_its_write() {
    let store = store_with_rows();
    let sum: i64 = store
        .write(|tx| {
            tx.execute_batch("CREATE TEMP TABLE wanted AS SELECT id FROM t WHERE id > 1")?;
            tx.query_row("SELECT sum(id) FROM wanted", [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(sum, 5);
}

#[test]
fn leaked_rows_of_write_harm_no_other_write() {
    for leak in LEAKS {
        for place in [0, 1, 2] {
            let store = store_with_rows();
            let gate = Gate::hold(&store);
            let jobs: Vec<_> = (0..3)
                .map(|n| {
                    store
                        .submit(move |tx| {
                            if n == place {
                                return leak(tx);
                            }
                            tx.execute("INSERT INTO t VALUES (?1)", [100 + n]).map(drop)
                        })
                        .unwrap()
                })
                .collect();
            gate.open();
            jobs.into_iter().for_each(|job| job.wait().unwrap());
            for n in 1000..1003 {
                store
                    .write(move |tx| tx.savepoint(|tx| tx.execute("INSERT INTO t VALUES (?1)", [n])))
                    .unwrap();
            }
            store
                .write(|tx| tx.execute_batch("CREATE TABLE more(x); DROP TABLE more"))
                .unwrap();
            let ids = ids(&store);
            for n in 0..3 {
                assert_eq!(ids.contains(&(100 + n)), n != place);
            }
            assert!(ids.ends_with(&[1000, 1001, 1002]));
            let report = store.close().unwrap();
            assert!(report.wal_truncated, "{report}");
        }
    }
}

#[test]
fn leaked_insert_of_failed_write_is_undone_alone() {
    let store = store_with_rows();
    let gate = Gate::hold(&store);
    let before = store.submit(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    let leaking = store
        .submit(|tx| {
            leak_returning(tx)?;
            Err::<(), _>(Error::app("no"))
        })
        .unwrap();
    let after = store.submit(|tx| tx.execute("INSERT INTO t VALUES (5)", [])).unwrap();
    gate.open();
    before.wait().unwrap();
    assert!(matches!(leaking.wait(), Err(Error::App(_))));
    after.wait().unwrap();
    assert_eq!(ids(&store), [1, 2, 3, 4, 5]);
}

#[test]
fn savepoint_with_leaked_rows_fails_whole_write() {
    let store = store_with_rows();
    let gate = Gate::hold(&store);
    let before = store.submit(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    let leaking = store
        .submit(|tx| {
            let inner = tx.savepoint(|tx| {
                tx.execute("INSERT INTO t VALUES (50)", [])?;
                leak_returning(tx)
            });
            Ok(inner.is_ok())
        })
        .unwrap();
    gate.open();
    before.wait().unwrap();
    let leaking = leaking.wait();
    let ids = ids(&store);
    match leaking {
        // The savepoint was kept, with all that it did ..
        Ok(true) => assert_eq!(ids.len(), 7, "{ids:?}"),
        // .. or undone, with all that it did ..
        Ok(false) => assert_eq!(ids, [1, 2, 3, 4]),
        // .. or the whole write was.
        Err(_) => assert_eq!(ids, [1, 2, 3, 4]),
    }
    store
        .write(|tx| tx.savepoint(|tx| tx.execute("INSERT INTO t VALUES (5)", [])))
        .unwrap();
}

/// The number of checkpoints that have moved everything, once there is one more than `than`.
fn another_checkpoint(store: &Store, than: u64) {
    let until = Instant::now() + PATIENCE;
    while store.stats().checkpoints <= than {
        assert!(
            Instant::now() < until,
            "no checkpoint could finish: {:?}",
            store.stats()
        );
        store
            .write(|tx| tx.execute("UPDATE t SET id = id WHERE id = 1", []))
            .unwrap();
    }
}

#[test]
fn leaked_rows_of_read_pin_no_snapshot() {
    for leak in &LEAKS[..4] {
        let store = grouping().readers(1).checkpoint_pages(10).open_temp().unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
                     INSERT INTO t VALUES (1), (2), (3);",
                )
            })
            .unwrap();
        for id in 4..8 {
            store.read(|tx| leak(tx)).unwrap();
            store
                .write(move |tx| tx.execute("INSERT INTO t VALUES (?1)", [id]))
                .unwrap();
            assert_eq!(ids(&store).last(), Some(&id), "the connection's next read is fresh");
        }
        another_checkpoint(&store, store.stats().checkpoints);
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{report}");
    }
}

#[test]
fn leaked_rows_of_panicking_read_pin_no_snapshot() {
    let store = store_with_rows();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.read(|tx| -> Result<()> {
            leak_statement_and_rows(tx)?;
            resume_unwind(Box::new("boom"))
        })
    }));
    assert!(panicked.is_err());
    store.write(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    assert_eq!(ids(&store), [1, 2, 3, 4]);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn panicking_read_returns_its_connection() {
    let store = store_with_rows();
    for _ in 0..10 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            store.read(|tx| -> Result<()> {
                assert!(tx.exists("SELECT 1 FROM t", [])?);
                resume_unwind(Box::new("boom"))
            })
        }));
        assert_eq!(*panicked.unwrap_err().downcast_ref::<&str>().unwrap(), "boom");
        assert_eq!(ids(&store), [1, 2, 3]);
    }
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn leftover_interrupt_does_not_reach_the_next_write() {
    let store = store_with_rows();
    store
        .write(|tx| {
            tx.get_interrupt_handle().interrupt();
            Ok(())
        })
        .unwrap();
    store
        .write(|tx| tx.execute("INSERT INTO t SELECT id + 10 FROM t", []))
        .unwrap();
    store
        .read(|tx| {
            tx.get_interrupt_handle().interrupt();
            Ok(())
        })
        .unwrap();
    assert_eq!(ids(&store), [1, 2, 3, 11, 12, 13]);
}

#[test]
fn execution_timeout_does_not_reach_the_next_write() {
    let store = store_with_rows();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let options = larder::WriteOptions::new().execution_timeout(Duration::from_millis(20));
    let stopped = store.write_with(options, move |tx| {
        tx.execute("INSERT INTO t VALUES (4)", [])?;
        tx.query_row(endless, [], |row| row.get::<_, i64>(0))
    });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) FROM n";
    let counted: i64 = store.write(move |tx| tx.query_row(long, [], |row| row.get(0))).unwrap();
    assert_eq!(counted, 300_000);
    assert_eq!(ids(&store), [1, 2, 3]);
}

#[test]
fn bound_parameters_do_not_reach_the_next_write() {
    let store = Options::new().open_temp().unwrap();
    let sql = "SELECT ?1 IS NULL";
    let run = move |bind: bool| {
        store
            .write(move |tx| {
                let mut statement = tx.prepare_cached(sql)?;
                if bind {
                    statement.raw_bind_parameter(1, "secret")?;
                }
                let mut rows = statement.raw_query();
                Ok(rows.next()?.unwrap().get::<_, bool>(0)?)
            })
            .unwrap()
    };
    assert!(!run(true));
    assert!(run(false));
}

/// A store with a table for each way in which an `INSERT` may give no new rowid.
fn store_with_keys() -> Store {
    let store = grouping().open_temp().unwrap();
    let made = store.write(|tx| {
        tx.execute_batch(
            "CREATE TABLE orders(id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE users(id INTEGER PRIMARY KEY, mail TEXT UNIQUE) STRICT;
             INSERT INTO users(mail) VALUES ('x');
             CREATE TABLE settings(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
             CREATE TABLE log(id INTEGER PRIMARY KEY, line TEXT);
             CREATE TRIGGER logged AFTER INSERT ON settings BEGIN INSERT INTO log(line) VALUES (new.name); END;
             CREATE VIEW mails AS SELECT mail FROM users;
             CREATE TRIGGER mailed INSTEAD OF INSERT ON mails BEGIN INSERT INTO users(mail) VALUES (new.mail); END;",
        )
    });
    made.unwrap();
    store
}

const UPSERT: &str = "INSERT INTO users(mail) VALUES ('x') ON CONFLICT(mail) DO UPDATE SET mail = excluded.mail";

/// `insert` returned the connection's `last_insert_rowid`, which SQLite leaves alone where no row with a rowid is
/// inserted: so an upsert that updated a user returned the id of an order that another caller had inserted.
#[test]
fn insert_without_new_rowid_is_an_error() {
    let store = store_with_keys();
    for sql in [
        UPSERT,
        "INSERT INTO settings VALUES ('a', 1)",
        "UPDATE users SET mail = 'y' WHERE id = 1",
        "DELETE FROM users WHERE id = 1",
        "CREATE TABLE one_more(id INTEGER PRIMARY KEY)",
        "CREATE TABLE copied AS SELECT * FROM users",
        "INSERT INTO mails VALUES ('z')",
        "INSERT OR IGNORE INTO users(mail) VALUES ('x')",
    ] {
        store
            .write(|tx| tx.insert("INSERT OR REPLACE INTO orders(id) VALUES (4711)", []))
            .unwrap();
        let other = store.write(move |tx| tx.insert(sql, []));
        assert!(other.is_err(), "{sql}: {other:?}");
        // A row of the same closure is no row of this statement either, also where it has the same rowid.
        let own = store.write(move |tx| {
            let id = tx.insert("INSERT OR REPLACE INTO orders(id) VALUES (1)", [])?;
            assert_eq!(id, 1);
            tx.insert(sql, [])
        });
        assert!(own.is_err(), "{sql}: {own:?}");
    }
    let error = store.write(|tx| tx.insert(UPSERT, [])).unwrap_err();
    let Error::NoRowid { reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("ON CONFLICT"), "{reason}");
    assert!(error.to_string().contains("RETURNING"), "{error}");
    assert_eq!(error.outcome(), larder::Outcome::RolledBack);
    let error = store
        .write(|tx| tx.insert("INSERT INTO settings VALUES ('a', 1)", []))
        .unwrap_err();
    assert!(error.to_string().contains("`settings` is WITHOUT ROWID"), "{error}");
    let error = store
        .write(|tx| tx.insert("UPDATE users SET mail = 'y'", []))
        .unwrap_err();
    assert!(error.to_string().contains("no INSERT"), "{error}");
}

#[test]
fn insert_returns_the_rowid_of_its_row() {
    let store = store_with_keys();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TRIGGER ordered AFTER INSERT ON orders BEGIN INSERT INTO log(id, line) VALUES (77, 'x'); END;
                 CREATE VIRTUAL TABLE words USING fts5(word);
                 CREATE VIRTUAL TABLE old_words USING fts4(word);
                 CREATE VIRTUAL TABLE boxes USING rtree(id, l, r);",
            )?;
            for id in [5, 0, -1, i64::MIN, i64::MAX] {
                let inserted = tx.insert("INSERT INTO users(id) VALUES (?1)", [id])?;
                assert_eq!(inserted, id);
                let again = tx.insert("INSERT OR REPLACE INTO users(id) VALUES (?1)", [id])?;
                assert_eq!(again, id);
            }
            assert_eq!(tx.insert("INSERT INTO orders(id) VALUES (5)", [])?, 5);
            assert_eq!(tx.insert("INSERT INTO words(rowid, word) VALUES (5, 'ant')", [])?, 5);
            assert_eq!(
                tx.insert("INSERT INTO old_words(docid, word) VALUES (5, 'ant')", [])?,
                5
            );
            assert_eq!(tx.insert("INSERT INTO boxes VALUES (5, 0, 1)", [])?, 5);
            assert_eq!(tx.last_insert_rowid(), 5);
            Ok(())
        })
        .unwrap();
}

/// The rowid before is hidden from SQLite while `insert` runs, to see whether the statement sets another. What the
/// statement itself reads, or a trigger of it, is still the rowid before.
#[test]
fn rowid_inside_insert_is_the_previous_one() {
    let store = store_with_keys();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE lines(id INTEGER PRIMARY KEY, of, seen DEFAULT (last_insert_rowid()));
                 CREATE TRIGGER before_line BEFORE INSERT ON lines
                 BEGIN INSERT INTO log(id, line) VALUES (900, last_insert_rowid()); END;",
            )?;
            let order = tx.insert("INSERT INTO orders(id) VALUES (42)", [])?;
            let line = tx.insert("INSERT INTO lines(of) VALUES (last_insert_rowid())", [])?;
            let seen: (i64, i64) = tx.query_row("SELECT of, seen FROM lines WHERE id = ?1", [line], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            assert_eq!(seen, (order, order));
            let before: i64 = tx.query_row("SELECT CAST(line AS INTEGER) FROM log WHERE id = 900", [], |row| {
                row.get(0)
            })?;
            assert_eq!(before, order);
            // One that inserts nothing leaves it as it was.
            assert!(tx.insert(UPSERT, []).is_err());
            assert!(tx.insert("INSERT INTO orders(id) VALUES (42)", []).is_err());
            assert!(tx.insert("no SQL", []).is_err());
            assert_eq!(tx.last_insert_rowid(), line);
            let told: i64 = tx.query_row("SELECT last_insert_rowid()", [], |row| row.get(0))?;
            assert_eq!(told, line);
            Ok(())
        })
        .unwrap();
}

fn counters(tx: &WriteTx<'_>) -> Result<[i64; 6]> {
    let sql = "SELECT last_insert_rowid(), changes(), total_changes()";
    let [id, changes, total] = tx.query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
    Ok([
        id,
        changes,
        total,
        tx.last_insert_rowid(),
        tx.changes() as i64,
        tx.total_changes() as i64,
    ])
}

#[test]
fn change_counters_start_at_zero_in_each_write() {
    let store = store_with_keys();
    let gate = Gate::hold(&store);
    let jobs: Vec<_> = (0..6_i64)
        .map(|n| {
            store
                .submit(move |tx| {
                    assert_eq!(counters(tx)?, [0; 6], "write {n}");
                    tx.execute("INSERT INTO orders(id) VALUES (?1), (?1 + 1)", [10 * n + 10])?;
                    let last = 10 * n + 11;
                    assert_eq!(counters(tx)?, [last, 2, 2, last, 2, 2]);
                    let undone = tx.savepoint(|tx| {
                        tx.execute("DELETE FROM orders WHERE id = ?1", [last])?;
                        Err::<(), _>(Error::app("no"))
                    });
                    undone.unwrap_err();
                    assert_eq!(counters(tx)?, [last, 1, 3, last, 1, 3]);
                    if n % 2 == 0 { Ok(()) } else { Err(Error::app("no")) }
                })
                .unwrap()
        })
        .collect();
    gate.open();
    for (n, job) in jobs.into_iter().enumerate() {
        assert_eq!(job.wait().is_ok(), n % 2 == 0);
    }
    assert_eq!(store.write(counters).unwrap(), [0; 6]);
}

/// SQLite leaves `changes()` alone where a statement is no INSERT, UPDATE or DELETE, so `execute` of one returned the
/// number of rows of another statement, also of another caller.
#[test]
fn execute_counts_rows_of_its_own_statement_only() {
    let store = store_with_keys();
    store
        .write(|tx| {
            assert_eq!(tx.execute("CREATE TABLE a(x)", [])?, 0);
            assert_eq!(tx.execute("INSERT INTO a VALUES (1), (2)", [])?, 2);
            assert_eq!(tx.execute("CREATE TABLE b(x)", [])?, 0);
            assert_eq!(tx.execute("PRAGMA user_version = 3", [])?, 0);
            assert_eq!(tx.execute("UPDATE a SET x = x", [])?, 2);
            assert_eq!(tx.execute("DELETE FROM a WHERE x = 7", [])?, 0);
            assert_eq!(tx.execute("DELETE FROM a", [])?, 2);
            Ok(())
        })
        .unwrap();
}

/// Rows of `insert` that a migration reads by `last_insert_rowid()` are of that migration.
#[test]
fn migration_sees_no_rowid_of_a_write() {
    let sql = "CREATE TABLE seen AS SELECT last_insert_rowid() AS id, total_changes() AS total";
    let migrations = Migrations::new([Migration::new(1, "seen", sql)]).at_open(false);
    let store = Options::new().migrations(migrations).open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE orders(id INTEGER PRIMARY KEY)")?;
            tx.insert("INSERT INTO orders(id) VALUES (4711)", [])
        })
        .unwrap();
    store.migrate().unwrap();
    let seen: (i64, i64) = store
        .read(|tx| tx.query_row("SELECT id, total FROM seen", [], |row| Ok((row.get(0)?, row.get(1)?))))
        .unwrap();
    assert_eq!(seen, (0, 0));
}

/// What a closure may do to the connection that it is given, by rusqlite's safe methods.
type Meddle = fn(&Connection) -> larder::rusqlite::Result<()>;

fn set_limits(conn: &Connection) -> larder::rusqlite::Result<()> {
    for limit in [
        Limit::SQLITE_LIMIT_LENGTH,
        Limit::SQLITE_LIMIT_SQL_LENGTH,
        Limit::SQLITE_LIMIT_COLUMN,
        Limit::SQLITE_LIMIT_EXPR_DEPTH,
        Limit::SQLITE_LIMIT_VDBE_OP,
        Limit::SQLITE_LIMIT_VARIABLE_NUMBER,
        Limit::SQLITE_LIMIT_FUNCTION_ARG,
        Limit::SQLITE_LIMIT_TRIGGER_DEPTH,
    ] {
        conn.set_limit(limit, 1)?;
    }
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 9).map(drop)
}

fn set_config(conn: &Connection) -> larder::rusqlite::Result<()> {
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, true),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_REVERSE_SCANORDER, true),
        (DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true),
    ] {
        conn.set_db_config(config, on)?;
    }
    Ok(())
}

fn set_hooks(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.update_hook(Some(|_: hooks::Action, _: &str, _: &str, _| called("update_hook")))?;
    conn.rollback_hook(Some(|| called("rollback_hook")))?;
    conn.trace_v2(TraceEventCodes::all(), Some(|_| called("trace")));
    conn.wal_hook(Some(|_, _| {
        called("wal_hook");
        Ok(())
    }));
    conn.busy_handler(Some(|_| {
        called("busy_handler");
        true
    }))
}

fn refuse_commits(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.commit_hook(Some(|| true))
}

fn forbid_everything(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.authorizer(Some(|_: hooks::AuthContext<'_>| hooks::Authorization::Deny))
}

fn take_the_fence_away(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.authorizer(None::<fn(hooks::AuthContext<'_>) -> hooks::Authorization>)?;
    conn.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA recursive_triggers = ON; PRAGMA query_only = OFF")
}

fn shrink_statement_cache(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(0);
    Ok(())
}

fn replace_function(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.create_scalar_function("answer", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(13))?;
    conn.create_scalar_function("upper", 1, FunctionFlags::SQLITE_UTF8, |_| Ok("no"))
}

fn remove_function(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.remove_function("answer", 0)
}

fn replace_collation(conn: &Connection) -> larder::rusqlite::Result<()> {
    conn.create_collation("NOCASE", |_, _| std::cmp::Ordering::Equal)
}

const MEDDLES: [(&str, Meddle); 10] = [
    ("limits", set_limits),
    ("config", set_config),
    ("hooks", set_hooks),
    ("commit hook", refuse_commits),
    ("authorizer", forbid_everything),
    ("no authorizer", take_the_fence_away),
    ("statement cache", shrink_statement_cache),
    ("function", replace_function),
    ("removed function", remove_function),
    ("collation", replace_collation),
];

thread_local! {
    static CALLED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

fn called(hook: &'static str) {
    CALLED.with_borrow_mut(|all| all.push(hook));
}

/// All that can be asked of a connection, in a closure.
fn state(tx: &ReadTx<'_>) -> Result<Vec<String>> {
    let mut state = Vec::new();
    for pragma in [
        "foreign_keys",
        "recursive_triggers",
        "query_only",
        "trusted_schema",
        "busy_timeout",
        "synchronous",
    ] {
        let value: i64 = tx.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        state.push(format!("{pragma} {value}"));
    }
    let values: (i64, String, bool) =
        tx.query_row("SELECT answer(), upper('ok'), 'a' = 'b' COLLATE NOCASE", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    state.push(format!("{values:?}"));
    for sql in ["SELECT \"no column\"", "BEGIN", "PRAGMA ignore_check_constraints = ON"] {
        state.push(format!("{sql}: {}", tx.query_row(sql, [], |_| Ok(())).is_err()));
    }
    let conn: &Connection = tx;
    for limit in LIMITS {
        // An older SQLite, as SQLCipher's, does not know each of them.
        state.push(format!("{limit:?}: {:?}", conn.limit(limit)));
    }
    for config in CONFIGS {
        state.push(format!("{config:?}: {}", conn.db_config(config)?));
    }
    Ok(state)
}

const LIMITS: [Limit; 13] = [
    Limit::SQLITE_LIMIT_LENGTH,
    Limit::SQLITE_LIMIT_SQL_LENGTH,
    Limit::SQLITE_LIMIT_COLUMN,
    Limit::SQLITE_LIMIT_EXPR_DEPTH,
    Limit::SQLITE_LIMIT_COMPOUND_SELECT,
    Limit::SQLITE_LIMIT_VDBE_OP,
    Limit::SQLITE_LIMIT_FUNCTION_ARG,
    Limit::SQLITE_LIMIT_ATTACHED,
    Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
    Limit::SQLITE_LIMIT_VARIABLE_NUMBER,
    Limit::SQLITE_LIMIT_TRIGGER_DEPTH,
    Limit::SQLITE_LIMIT_WORKER_THREADS,
    Limit::SQLITE_LIMIT_PARSER_DEPTH,
];

const CONFIGS: [DbConfig; 14] = [
    DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
    DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
    DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER,
    DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
    DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG,
    DbConfig::SQLITE_DBCONFIG_RESET_DATABASE,
    DbConfig::SQLITE_DBCONFIG_DEFENSIVE,
    DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
    DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE,
    DbConfig::SQLITE_DBCONFIG_DQS_DML,
    DbConfig::SQLITE_DBCONFIG_DQS_DDL,
    DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
    DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
    DbConfig::SQLITE_DBCONFIG_REVERSE_SCANORDER,
];

/// With a limit and a setting of `on_connect`, which are to stay as that has them.
fn store_to_meddle_with() -> Store {
    let options = grouping().readers(1).on_connect(|conn, _| {
        conn.create_scalar_function("answer", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(42))?;
        conn.set_limit(Limit::SQLITE_LIMIT_COMPOUND_SELECT, 77)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(())
    });
    let store = options.open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY CHECK (id > 0)) STRICT;
                 INSERT INTO t VALUES (1), (2), (3);
                 CREATE TABLE child(t INTEGER REFERENCES t(id)) STRICT;",
            )
        })
        .unwrap();
    store
}

/// rusqlite's safe methods set what the connection keeps: a limit let every later write fail until the restart, foreign
/// keys switched off let the next caller's orphan in, a hook was called for the writes of others.
#[test]
fn settings_of_write_do_not_outlive_it() {
    for (name, meddle) in MEDDLES {
        let store = store_to_meddle_with();
        let before = store.write(|tx| state(tx)).unwrap();
        // In a group, alone, in a write that fails, and in one that panics.
        let gate = Gate::hold(&store);
        let meddled = store.submit(move |tx| Ok(meddle(tx)?)).unwrap();
        let next = store.submit(|tx| state(tx)).unwrap();
        gate.open();
        meddled.wait().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(next.wait().unwrap(), before, "{name}, in a group");
        store.write(move |tx| Ok(meddle(tx)?)).unwrap();
        assert_eq!(store.write(|tx| state(tx)).unwrap(), before, "{name}");
        let failed = store.write(move |tx| {
            meddle(tx)?;
            Err::<(), _>(Error::app("no"))
        });
        failed.unwrap_err();
        assert_eq!(store.write(|tx| state(tx)).unwrap(), before, "{name}, failed");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            store.write(move |tx| -> Result<()> {
                meddle(tx)?;
                resume_unwind(Box::new("boom"))
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(store.write(|tx| state(tx)).unwrap(), before, "{name}, panicked");
        store
            .write(|tx| {
                CALLED.take();
                tx.execute("INSERT INTO t VALUES (4)", [])
            })
            .unwrap();
        let failed = store.write(|tx| {
            tx.execute("INSERT INTO t VALUES (5)", [])?;
            Err::<(), _>(Error::app("no"))
        });
        failed.unwrap_err();
        assert_eq!(store.write(|_| Ok(CALLED.take())).unwrap(), [""; 0], "{name}");
        assert!(
            store
                .write(|tx| tx.execute("INSERT INTO child VALUES (99)", []))
                .is_err(),
            "{name}"
        );
        assert!(
            store.write(|tx| tx.execute("INSERT INTO t VALUES (-1)", [])).is_err(),
            "{name}"
        );
        assert_eq!(ids(&store), [1, 2, 3, 4]);
        another_checkpoint(&store, store.stats().checkpoints);
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{name}: {report}");
    }
}

#[test]
fn settings_of_read_do_not_outlive_it() {
    for (name, meddle) in MEDDLES {
        let store = store_to_meddle_with();
        let before = store.read(state).unwrap();
        for _ in 0..3 {
            store
                .read(|tx| Ok(meddle(tx)?))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(store.read(state).unwrap(), before, "{name}");
        }
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            store.read(|tx| -> Result<()> {
                meddle(tx)?;
                resume_unwind(Box::new("boom"))
            })
        }));
        assert!(panicked.is_err());
        CALLED.take();
        assert_eq!(store.read(state).unwrap(), before, "{name}, panicked");
        assert_eq!(CALLED.take(), [""; 0], "{name}");
        assert!(
            store.read(|tx| Ok(tx.execute_batch("DELETE FROM t")?)).is_err(),
            "{name}"
        );
        assert_eq!(store.stats().readers.open, 1, "{name}");
        assert!(store.close().unwrap().wal_truncated);
    }
}

#[cfg(feature = "async")]
#[test]
fn settings_of_async_read_do_not_outlive_it() {
    for (name, meddle) in MEDDLES {
        let store = store_to_meddle_with();
        let before = store.read(state).unwrap();
        // One reader, so that they share a snapshot as far as they may.
        let reads: Vec<_> = (0..20)
            .map(|n| {
                store.read_async(move |tx| {
                    if n % 2 == 0 {
                        return Ok(meddle(tx).map(|()| Vec::new())?);
                    }
                    state(tx)
                })
            })
            .collect();
        for (n, read) in reads.into_iter().enumerate() {
            let read = futures_executor::block_on(read);
            let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
            if n % 2 == 1 {
                assert_eq!(read, before, "{name}, read {n}");
            }
        }
    }
}

/// A `Blob` that was opened for writing and forgotten is a statement that writes: every later COMMIT failed. One that only
/// reads kept every checkpoint from the log.
#[test]
fn leaked_blobs_of_write_harm_no_later_write() {
    for read_only in [false, true] {
        let store = grouping().readers(1).open_temp().unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB); INSERT INTO t VALUES (1, zeroblob(9000));
                     CREATE VIRTUAL TABLE words USING fts5(word); CREATE VIRTUAL TABLE old USING fts4(word);
                     CREATE VIRTUAL TABLE boxes USING rtree(id, l, r);",
                )
            })
            .unwrap();
        let words = |tx: &WriteTx<'_>| {
            tx.execute("INSERT INTO words VALUES ('ant')", [])?;
            tx.execute("INSERT INTO old VALUES ('ant')", [])?;
            tx.execute(
                "INSERT INTO boxes VALUES ((SELECT ifnull(max(id), 0) + 1 FROM boxes), 0, 1)",
                [],
            )?;
            let sql = "SELECT (SELECT count(*) FROM words('ant')) + (SELECT count(*) FROM old WHERE old MATCH 'ant') \
                       + (SELECT count(*) FROM boxes WHERE l < 1)";
            tx.query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        let gate = Gate::hold(&store);
        let jobs: Vec<_> = (0..6)
            .map(|n| {
                store
                    .submit(move |tx| {
                        let count = words(tx)?;
                        if n % 3 == 1 {
                            forget(tx.blob_open(larder::rusqlite::MAIN_DB, "t", "data", 1, read_only)?);
                        }
                        Ok(count)
                    })
                    .unwrap()
            })
            .collect();
        gate.open();
        for (n, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.wait().unwrap(), 3 * (n as i64 + 1));
        }
        for n in 7..10 {
            assert_eq!(store.write(words).unwrap(), 3 * n);
            store
                .write(move |tx| {
                    let blob = tx.blob_open(larder::rusqlite::MAIN_DB, "t", "data", 1, read_only);
                    Ok(blob.map(forget)?)
                })
                .unwrap();
        }
        let checkpoints = store.stats().checkpoints;
        another_checkpoint(&store, checkpoints);
        let report = store.close().unwrap();
        assert!(report.wal_truncated, "{report}");
    }
}

#[test]
fn leaked_blob_of_read_pins_no_snapshot() {
    let store = grouping().readers(1).checkpoint_pages(10).open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB); INSERT INTO t VALUES (1, 'x')")
        })
        .unwrap();
    for id in 2..5 {
        store
            .read(|tx| {
                Ok(tx
                    .blob_open(larder::rusqlite::MAIN_DB, "t", "data", 1, true)
                    .map(forget)?)
            })
            .unwrap();
        store
            .write(move |tx| tx.execute("INSERT INTO t(id) VALUES (?1)", [id]))
            .unwrap();
        assert_eq!(ids(&store).last(), Some(&id));
    }
    another_checkpoint(&store, store.stats().checkpoints);
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

/// The header of the temporary database is not undone with the transaction that it is set in, if that commits.
#[test]
fn header_values_of_temporary_database_are_refused() {
    let store = store_with_rows();
    for name in ["user_version", "application_id"] {
        for sql in [format!("PRAGMA temp.{name} = 7"), format!("PRAGMA TEMP.{name}(7)")] {
            let error = store.write(move |tx| tx.execute_batch(&sql)).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
        }
        let set = format!("PRAGMA main.{name} = 7");
        store.write(move |tx| tx.execute_batch(&set)).unwrap();
    }
}

/// Setting `temp_store` after `on_connect` deleted its temporary tables, and the first write dropped them.
#[test]
fn temporary_objects_of_on_connect_stay() {
    let options = grouping().readers(1).on_connect(|conn, _| {
        conn.execute_batch(
            "CREATE TEMP TABLE session(name TEXT PRIMARY KEY, value);
             INSERT INTO session VALUES ('zone', 'UTC');
             CREATE TEMP VIEW zone AS SELECT value FROM session WHERE name = 'zone';",
        )?;
        Ok(())
    });
    let store = options.open_temp().unwrap();
    fn zone(tx: &ReadTx<'_>) -> Result<String> {
        tx.query_row("SELECT value FROM zone", [], |row| row.get(0))
    }
    assert_eq!(store.read(zone).unwrap(), "UTC");
    for _ in 0..2 {
        assert_eq!(store.write(|tx| zone(tx)).unwrap(), "UTC");
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TEMP TABLE scratch(x); CREATE TEMP VIEW a AS SELECT 1; CREATE TABLE IF NOT EXISTS t(x)",
                )
            })
            .unwrap();
        assert_eq!(
            store.write(temporary_objects).unwrap(),
            ["session", "zone"],
            "those of the closure are gone"
        );
    }
    for sql in [
        "DROP TABLE session",
        "DROP VIEW temp.zone",
        "ALTER TABLE session RENAME TO other",
    ] {
        let error = store.write(move |tx| tx.execute_batch(sql)).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    store.vacuum().run().unwrap();
    assert_eq!(store.write(|tx| zone(tx)).unwrap(), "UTC");
    // On another connection they are made again.
    store.write(|tx| Ok(take_the_fence_away(tx)?)).unwrap();
    assert_eq!(store.write(|tx| zone(tx)).unwrap(), "UTC");
}

/// Hooks that `on_connect` sets belong to every closure.
#[test]
fn hooks_of_on_connect_stay() {
    let options = Options::new().on_connect(|conn, _| {
        conn.update_hook(Some(|_: hooks::Action, _: &str, table: &str, _| {
            called(if table == "t" { "own" } else { "other" });
        }))?;
        conn.trace_v2(TraceEventCodes::SQLITE_TRACE_CLOSE, Some(|_| ()));
        Ok(())
    });
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
        .unwrap();
    for id in 1..4 {
        store.write(|tx| Ok(tx.prepare("SELECT 1").map(drop)?)).unwrap();
        let seen = store
            .write(move |tx| {
                CALLED.take();
                tx.execute("INSERT INTO t VALUES (?1)", [id])?;
                Ok(CALLED.take())
            })
            .unwrap();
        assert_eq!(seen, ["own"]);
    }
}

#[test]
fn writer_connection_is_replaced_in_exclusive_mode() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().access(larder::Access::Exclusive);
    let store = options.open(folder.path().join("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
        .unwrap();
    for id in 1..4 {
        store.write(|tx| Ok(take_the_fence_away(tx)?)).unwrap();
        store
            .write(move |tx| tx.execute("INSERT INTO t VALUES (?1)", [id]))
            .unwrap();
    }
    assert_eq!(ids(&store), [1, 2, 3]);
    assert!(store.close().unwrap().wal_truncated);
}

/// To undo a change of the schema expires statements as to replace a function does.
#[test]
fn schema_changes_do_not_replace_the_writer_connection() {
    let opened = Arc::new(AtomicUsize::new(0));
    let opens = Arc::clone(&opened);
    let options = Options::new().on_connect(move |conn, role| {
        if role == Role::Writer {
            opens.fetch_add(1, Ordering::SeqCst);
        }
        conn.create_scalar_function("answer", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(42))?;
        Ok(())
    });
    let store = options.open_temp().unwrap();
    for round in 0..3 {
        let changed = store.write(move |tx| {
            let conn: &Connection = tx;
            conn.execute_batch(
                "CREATE TEMP TABLE scratch(x); CREATE INDEX temp.i ON scratch(x); DROP TABLE scratch;
                 CREATE TABLE more(x); CREATE INDEX more_x ON more(x); ALTER TABLE more ADD COLUMN y; ANALYZE more;
                 DROP TABLE more;",
            )?;
            if round == 1 { Err(Error::app("no")) } else { Ok(()) }
        });
        assert_eq!(changed.is_ok(), round != 1);
        store.write(move |tx| Ok(tx.prepare("SELECT 1").map(drop)?)).unwrap();
        store.write(|tx| tx.execute_batch("SELECT answer()")).unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 1, "round {round}");
    }
    store.write(|tx| Ok(replace_function(tx)?)).unwrap();
    store.write(|tx| tx.execute_batch("SELECT answer()")).unwrap();
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

/// A connection that cannot be opened again fails the writes that come, by name, until it can.
#[test]
fn writes_fail_while_writer_connection_cannot_be_replaced() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&broken);
    let options = Options::new().on_connect(move |_, _| {
        if breaks.load(Ordering::SeqCst) {
            return Err(Error::app("no key"));
        }
        Ok(())
    });
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
        .unwrap();
    store.write(|tx| Ok(take_the_fence_away(tx)?)).unwrap();
    broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = store
            .write(|tx| tx.execute("INSERT INTO t VALUES (1)", []))
            .unwrap_err();
        assert_eq!(error.to_string(), "no key");
    }
    broken.store(false, Ordering::SeqCst);
    store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).unwrap();
    assert_eq!(ids(&store), [1]);
    assert!(store.close().unwrap().wal_truncated);
}
