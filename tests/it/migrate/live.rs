//! Migrations of a store in use: up and down, beside writes and reads, and their effect on cached statements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder::rusqlite::{Connection, StatementStatus};
use larder::{
    Direction, Error, Migration, MigrationError, MigrationReport, Migrations, Options, Outcome, Result, Store,
};

use crate::support::migrations::{
    after_first, applied, assert_has, contents, migration_error, numbers, pending, rolled_back, steps, store_of, texts,
};
use crate::support::{RaiseOnDrop, blocker, count};

fn ups_and_downs() -> Migrations {
    Migrations::new([
        Migration::new(1, "t", "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE t"),
        Migration::new(2, "column", "ALTER TABLE t ADD COLUMN x TEXT DEFAULT 'x'").down("ALTER TABLE t DROP COLUMN x"),
        Migration::new(
            3,
            "rebuild",
            "CREATE TABLE t_new(id INTEGER PRIMARY KEY, x TEXT DEFAULT 'y', y INTEGER) STRICT;
             INSERT INTO t_new(id, x) SELECT id, x FROM t;
             DROP TABLE t;
             ALTER TABLE t_new RENAME TO t;",
        )
        .down("ALTER TABLE t DROP COLUMN y"),
    ])
    .at_open(false)
}

fn columns(store: &Store) -> Vec<String> {
    texts(store, "SELECT name FROM pragma_table_info('t')")
}

#[test]
fn migrations_go_up_and_down_to_any_version() {
    use Direction::{Down, Up};
    let store = store_of(ups_and_downs());
    assert_eq!((applied(&store), pending(&store)), (vec![], vec![1, 2, 3]));
    let go = |version| steps(&store.migrate_to(version).unwrap());
    assert_eq!(go(0), []);
    assert_eq!(go(2), [(1, Up), (2, Up)]);
    assert_eq!(columns(&store), ["id", "x"]);
    assert_eq!(go(2), []);
    assert_eq!(go(3), [(3, Up)]);
    assert_eq!(go(1), [(3, Down), (2, Down)]);
    assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2, 3]));
    assert_eq!(columns(&store), ["id"]);
    assert_eq!(steps(&store.migrate().unwrap()), [(2, Up), (3, Up)]);
    assert_eq!(columns(&store), ["id", "x", "y"]);
    assert_eq!(store.migrate().unwrap(), MigrationReport::default());
    assert_eq!(go(0), [(3, Down), (2, Down), (1, Down)]);
    assert_eq!(columns(&store), [""; 0]);
    assert_eq!((applied(&store), pending(&store)), (vec![], vec![1, 2, 3]));
}

#[test]
fn failed_undo_leaves_the_migration_applied() {
    let list = [
        Migration::new(
            1,
            "t",
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)",
        )
        .down("DELETE FROM t; DROP TABLE tt"),
        Migration::new(2, "u", "CREATE TABLE u(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE u"),
    ];
    let store = store_of(Migrations::new(list));
    let message = rolled_back(store.migrate_to(0));
    assert_has(&message, &["migration 1 (t)", "no such table: tt", "statement 2"]);
    assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2]));
    assert_eq!(count(&store), 1);
}

/// Those above the one without a way down were undone before it was met.
#[test]
fn undo_is_checked_before_its_first_step() {
    let list = [
        Migration::new(1, "t", "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"),
        Migration::new(2, "u", "CREATE TABLE u(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE u"),
        Migration::new(3, "v", "CREATE TABLE v(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE v"),
    ];
    let store = store_of(Migrations::new(list));
    let before = contents(&store);
    let error = store.migrate_to(0).unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotStarted);
    assert_has(&error.to_string(), &["migration 1 (t) cannot be undone"]);
    let error = migration_error(Err::<(), _>(error));
    assert!(
        matches!(&error, MigrationError::NoDown { version: 1, file, others } if file == "1 (t)" && others.is_empty()),
        "{error}"
    );
    assert_eq!(contents(&store), before);
    let undone = steps(&store.migrate_to(1).unwrap());
    assert_eq!(undone, [(3, Direction::Down), (2, Direction::Down)]);
}

/// The error named the first one, and each further call the next.
#[test]
fn all_missing_ways_down_are_named() {
    let list = (1..=30_u64).map(|version| {
        let table = format!("t{version}");
        let one = Migration::new(
            version,
            table.clone(),
            format!("CREATE TABLE {table}(id INTEGER PRIMARY KEY) STRICT"),
        );
        if version % 3 == 0 {
            one.down(format!("DROP TABLE {table}"))
        } else {
            one
        }
    });
    let store = store_of(Migrations::new(list));
    let refused = |version| migration_error(store.migrate_to(version));
    let error = refused(24);
    let others = ["26 (t26)", "28 (t28)", "29 (t29)"];
    assert!(
        matches!(&error, MigrationError::NoDown { version: 25, file, others: found } if file == "25 (t25)" && *found == others),
        "{error:?}"
    );
    assert_has(
        &error.to_string(),
        &["migration 25 (t25) cannot be undone", "26 (t26), 28 (t28), 29 (t29);"],
    );
    assert!(!error.to_string().contains("27 (t27)"), "{error}");
    // Twenty in a message, and all of them for a program.
    let MigrationError::NoDown { version, others, .. } = &refused(0) else {
        panic!("it is refused")
    };
    assert_eq!((*version, others.len()), (1, 19));
    let list = (1..=30_u64).map(|version| {
        Migration::new(
            version,
            "t",
            format!("CREATE TABLE t{version}(id INTEGER PRIMARY KEY) STRICT"),
        )
    });
    let error = migration_error(store_of(Migrations::new(list)).migrate_to(0));
    assert_has(&error.to_string(), &["migration 1 (t)", "21 (t) and 9 more;"]);
}

/// Where the missing one's file is gone from a set with gaps, too.
#[test]
fn undo_past_missing_migration_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let one = |version: u64| {
        let table = ["", "a", "b", "c"][version as usize];
        let up = format!("CREATE TABLE {table}(id INTEGER PRIMARY KEY) STRICT");
        Migration::new(version, table, up).down(format!("DROP TABLE {table}"))
    };
    let options = |versions: &[u64]| {
        let list = Migrations::new(versions.iter().map(|version| one(*version)));
        Options::new().migrations(list.allow_gaps(true))
    };
    options(&[1, 2, 3]).open(&path).unwrap().close().unwrap();
    let store = options(&[1, 3]).open(&path).unwrap();
    let before = contents(&store);
    let error = migration_error(store.migrate_to(0));
    assert!(
        matches!(&error, MigrationError::NoDown { version: 2, file, others } if file == "2 (b)" && others.is_empty()),
        "{error}"
    );
    assert_eq!(contents(&store), before);
}

#[test]
fn writes_and_reads_continue_during_migrations() {
    const WRITERS: i64 = 2;
    let store = store_of(ups_and_downs());
    store.migrate_to(1).unwrap();
    let done = AtomicBool::new(false);
    let is_done = || done.load(Ordering::Relaxed);
    let acknowledged = thread::scope(|scope| {
        let over = RaiseOnDrop(&done);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, is_done) = (&store, &is_done);
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    while !is_done() || ids.len() < 20 {
                        let id = WRITERS * ids.len() as i64 + writer;
                        store
                            .write(move |tx| tx.execute("INSERT INTO t(id) VALUES (?1)", [id]))
                            .unwrap();
                        ids.push(id);
                    }
                    ids
                })
            })
            .collect();
        scope.spawn(|| {
            let mut last = 0;
            while !is_done() {
                let now = count(&store);
                assert!(now >= last, "{now} rows after {last}");
                last = now;
                let columns =
                    store.read(|tx| tx.query_optional("SELECT * FROM t", [], |row| Ok(row.as_ref().column_count())));
                assert!((1..=3).contains(&columns.unwrap().unwrap_or(1)));
            }
        });
        for version in [3, 1, 2, 1, 3, 2, 3, 1, 3] {
            let before = count(&store);
            store.migrate_to(version).unwrap();
            assert!(count(&store) >= before);
        }
        drop(over);
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut acknowledged = acknowledged;
    acknowledged.sort_unstable();
    assert_eq!(numbers(&store, "SELECT id FROM t ORDER BY id"), acknowledged);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn migrations_asked_for_twice_run_once() {
    for _ in 0..10 {
        let store = store_of(ups_and_downs());
        let reports: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.migrate().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut made: Vec<_> = reports.iter().flat_map(steps).collect();
        made.sort_unstable_by_key(|(version, _)| *version);
        assert_eq!(made, [(1, Direction::Up), (2, Direction::Up), (3, Direction::Up)]);
    }
}

/// They undid each other's steps for as long as both went on. Whether they meet is chance; that both end is not.
#[test]
fn calls_in_opposite_directions_both_end() {
    for _ in 0..20 {
        let store = store_of(ups_and_downs());
        store.migrate_to(1).unwrap();
        let results = thread::scope(|scope| {
            let up = scope.spawn(|| store.migrate());
            let down = scope.spawn(|| store.migrate_to(0));
            [up.join().unwrap(), down.join().unwrap()]
        });
        for (result, way) in results.into_iter().zip([Direction::Up, Direction::Down]) {
            match result {
                Ok(report) => {
                    let mut made: Vec<_> = steps(&report);
                    assert!(made.iter().all(|(_, direction)| *direction == way), "{made:?}");
                    made.dedup();
                    assert_eq!(made.len(), report.steps.len());
                }
                Err(error) => {
                    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Partial, false));
                    assert_has(&error.to_string(), &["ran twice", "one of them at a time"]);
                    let error = migration_error(Err::<(), _>(error));
                    assert!(matches!(error, MigrationError::Crossed { .. }), "{error:?}");
                }
            }
        }
        // What is recorded is what is there, and one of them at a time comes to its end.
        assert_eq!(columns(&store).is_empty(), applied(&store).is_empty());
        store.migrate().unwrap();
        assert_eq!((applied(&store), columns(&store).len()), (vec![1, 2, 3], 3));
        store.migrate_to(0).unwrap();
        assert_eq!((applied(&store), columns(&store).len()), (vec![], 0));
    }
}

/// While another thread's migration ran for longer than `queue_timeout`, it was told that the queue is too slow.
#[test]
fn migration_waits_as_long_as_migration_timeout() {
    let store = |queue, migration| {
        let options = Options::new()
            .queue_timeout(Duration::from_millis(queue))
            .migration_timeout(Duration::from_millis(migration));
        options.migrations(ups_and_downs().at_open(false)).open_temp().unwrap()
    };
    // The longer of the two: a write gives up behind the one that runs, the migration does not.
    let patient = store(20, 60_000);
    let (let_go, blocking) = blocker(&patient);
    let made = thread::scope(|scope| {
        let migrate = scope.spawn(|| patient.migrate());
        let write = patient.write(|_| Ok(()));
        assert!(matches!(write, Err(Error::QueueTimeout { .. })), "{write:?}");
        let_go.send(()).unwrap();
        migrate.join().unwrap()
    });
    blocking.wait().unwrap();
    assert_eq!(made.unwrap().steps.len(), 3);
    // And past both it gives up, too.
    let hasty = store(20, 30);
    let (let_go, blocking) = blocker(&hasty);
    let error = hasty.migrate().unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    let_go.send(()).unwrap();
    blocking.wait().unwrap();
    // On a busy machine its steps may begin too late once more.
    let made = loop {
        let before = applied(&hasty).len();
        match hasty.migrate() {
            Err(Error::QueueTimeout { .. }) => {}
            made => break before + made.unwrap().steps.len(),
        }
    };
    assert_eq!(made, 3);
    assert_eq!(applied(&hasty), [1, 2, 3]);
}

#[test]
fn migration_inside_a_write_is_reentrant() {
    let store = store_of(ups_and_downs());
    let inner = store.clone();
    let result = store.write(move |_| inner.migrate());
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Reentrant { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    let inner = store.clone();
    let result = store.write(move |_| inner.migrate_to(2));
    assert!(matches!(result, Err(Error::Reentrant { .. })), "{result:?}");
    assert_eq!(pending(&store), [1, 2, 3]);
}

#[test]
fn closed_store_does_not_migrate() {
    let store = store_of(ups_and_downs());
    store.close().unwrap();
    assert!(matches!(store.migrate(), Err(Error::Closed)));
    assert!(matches!(store.migrate_to(1), Err(Error::Closed)));
    assert!(matches!(store.migrations(), Err(Error::Closed)));
}

#[test]
fn migrating_without_migrations_is_an_error() {
    let store = Store::open_temp().unwrap();
    for result in [store.migrate(), store.migrate_to(0)] {
        assert!(
            matches!(
                result,
                Err(Error::Options {
                    option: "migrations",
                    ..
                })
            ),
            "{result:?}"
        );
    }
    assert!(matches!(store.migrations(), Err(Error::Options { .. })));
}

#[test]
fn status_has_names_times_and_durations() {
    let store = store_of(ups_and_downs());
    let before: String = texts(&store, "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')").remove(0);
    let report = store.migrate_to(2).unwrap();
    let after: String = texts(&store, "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')").remove(0);
    let status = store.migrations().unwrap();
    let names: Vec<_> = status.applied.iter().map(|m| (m.version, m.name.as_str())).collect();
    assert_eq!(names, [(1, "t"), (2, "column")]);
    for (applied, step) in status.applied.iter().zip(&report.steps) {
        let at = applied.applied_at.as_deref().unwrap();
        assert!((&*before..=&*after).contains(&at), "{before} {at} {after}");
        assert!(
            applied.duration.unwrap() <= step.duration,
            "the step's has the COMMIT, too"
        );
        assert_eq!(step.name, applied.name);
    }
    let names: Vec<_> = status.pending.iter().map(|m| (m.version, m.name.as_str())).collect();
    assert_eq!(names, [(3, "rebuild")]);
}

// ---- statement caches and snapshots ----

/// The columns of a statement before it is first stepped, those of its row, and how often SQLite prepared it again.
fn look(conn: &Connection) -> Result<(usize, usize, i32)> {
    let mut statement = conn.prepare_cached("SELECT * FROM t")?;
    let before = statement.column_count();
    let columns = statement.query_row([], |row| Ok(row.as_ref().column_count()))?;
    Ok((before, columns, statement.get_status(StatementStatus::RePrepare)))
}

fn add_a_column() -> Store {
    after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD COLUMN x TEXT",
    ])
}

#[test]
fn writer_statements_are_prepared_again_after_migration() {
    let store = add_a_column();
    let look = || store.write(|tx| look(tx)).unwrap();
    assert_eq!([look(), look()], [(1, 1, 0); 2]);
    store.migrate().unwrap();
    assert_eq!(look(), (2, 2, 0));
}

#[test]
fn reader_statements_are_prepared_again_after_migration() {
    let store = add_a_column();
    // Both readers: one read inside the other.
    let both = |conn: &Connection| -> Result<_> {
        conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()))?;
        look(conn)
    };
    let look = || {
        let readers = store.read(|outer| {
            let outer = both(outer)?;
            Ok([outer, store.read(|inner| both(inner))?])
        });
        readers.unwrap()
    };
    assert_eq!([look(), look()], [[(1, 1, 0); 2]; 2]);
    store.migrate().unwrap();
    assert_eq!(look(), [(2, 2, 0); 2]);
}

/// A row mapper that asks the statement for its columns before the first row got those from before the migration.
#[test]
fn first_read_after_migration_sees_new_columns() {
    let store = add_a_column();
    let look = || {
        store
            .read(|outer| Ok([look(outer)?, store.read(|inner| look(inner))?]))
            .unwrap()
    };
    assert_eq!(look(), [(1, 1, 0); 2]);
    store.migrate().unwrap();
    assert_eq!(look(), [(2, 2, 0); 2]);
}

/// A write that changes the schema empties the caches, too, or the statement would be prepared again at its next step.
#[test]
fn cached_statement_sees_columns_that_a_write_added() {
    let store = after_first(["CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)"]);
    let look = || store.write(|tx| look(tx)).unwrap();
    assert_eq!(look(), (1, 1, 0));
    store
        .write(|tx| tx.execute_batch("ALTER TABLE t ADD COLUMN x TEXT"))
        .unwrap();
    assert_eq!(look(), (2, 2, 0));
}

#[test]
fn running_read_keeps_its_snapshot() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1), (2)",
        "CREATE TABLE t_new(id INTEGER PRIMARY KEY, x TEXT) STRICT;
         INSERT INTO t_new SELECT id * 10, 'x' FROM t;
         DROP TABLE t;
         ALTER TABLE t_new RENAME TO t;",
        "DROP TABLE t",
    ]);
    let rows = |conn: &Connection| -> Result<Vec<String>> {
        let mut statement = conn.prepare_cached("SELECT * FROM t ORDER BY id")?;
        let rows = statement.query_map([], |row| {
            let columns = row.as_ref().column_count();
            Ok(format!("{columns}: {}", row.get::<_, i64>(0)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    store
        .read(|old| {
            let mut statement = old.prepare("SELECT id FROM t ORDER BY id")?;
            let mut open = statement.query([])?;
            assert!(open.next()?.is_some());
            store.migrate_to(2)?;
            assert_eq!(rows(old)?, ["1: 1", "1: 2"]);
            assert_eq!(store.read(|new| rows(new))?, ["2: 10", "2: 20"]);
            store.migrate()?;
            assert_eq!(open.next()?.unwrap().get::<_, i64>(0)?, 2, "in the middle of its rows");
            assert_eq!(rows(old)?, ["1: 1", "1: 2"]);
            assert_has(
                &store.read(|new| rows(new)).unwrap_err().to_string(),
                &["no such table: t"],
            );
            Ok(())
        })
        .unwrap();
    assert_has(
        &store.read(|new| rows(new)).unwrap_err().to_string(),
        &["no such table: t"],
    );
}
