//! Migrations outside a transaction: what they may do, and what a failure leaves behind.

use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{AutoVacuum, Direction, DryRun, Error, Migration, MigrationError, Migrations, Options, Outcome, Store};

use crate::support::count;
use crate::support::migrations::{
    FAMILY, applied, assert_has, contents, migration_error, numbers, pending, pragma_of_writer, steps, store_of, texts,
};

/// The second migration runs outside a transaction.
fn bare_second(sql: &'static str) -> Migrations {
    Migrations::new([
        Migration::new(
            1,
            "t",
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1), (2)",
        ),
        Migration::new(2, "bare", sql).without_transaction(),
    ])
    .at_open(false)
}

fn bare_options(sql: &'static str) -> Options {
    Options::new()
        .migration_timeout(Duration::from_millis(1))
        .migrations(bare_second(sql))
}

fn bare(sql: &'static str) -> Store {
    let store = bare_options(sql).open_temp().unwrap();
    store.migrate_to(1).unwrap();
    store
}

/// VACUUM was refused as ATTACH, which SQLite runs inside it.
#[test]
fn vacuum_works_outside_transaction() {
    let store = bare("VACUUM");
    store
        .write(|tx| {
            tx.execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 50000)
                 INSERT INTO t SELECT i FROM n;
                 DELETE FROM t WHERE id > 9;",
            )
        })
        .unwrap();
    let pages = numbers(&store, "PRAGMA page_count")[0];
    store.migrate().unwrap();
    assert!(numbers(&store, "PRAGMA page_count")[0] < pages);
    assert_eq!(numbers(&store, "PRAGMA freelist_count"), [0]);
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2]);
    assert_eq!(applied(&store), [1, 2]);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn auto_vacuum_can_be_enabled_outside_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = bare_options("PRAGMA auto_vacuum = FULL; VACUUM; PRAGMA optimize;").auto_vacuum(AutoVacuum::None);
    let store = options.open(&path).unwrap();
    store.migrate().unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES (3)", [])).unwrap();
    assert_eq!(count(&store), 3);
    assert!(store.close().unwrap().wal_truncated);
    let after = Connection::open(&path).unwrap();
    let sql = "SELECT auto_vacuum || integrity_check FROM pragma_auto_vacuum, pragma_integrity_check";
    let found: String = after.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(found, "1ok");
}

#[test]
fn migration_outside_transaction_may_begin_its_own() {
    let store = bare(
        "PRAGMA foreign_keys=OFF;
         BEGIN;
         INSERT INTO t VALUES (3);
         SAVEPOINT s; INSERT INTO t VALUES (4); ROLLBACK TO s; RELEASE s;
         COMMIT;
         BEGIN EXCLUSIVE; DELETE FROM t; ROLLBACK;
         BEGIN IMMEDIATE; INSERT INTO t VALUES (5); END;
         PRAGMA foreign_keys=ON;",
    );
    store.migrate().unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3, 5]);
    assert_eq!(applied(&store), [1, 2]);
    assert_eq!(pragma_of_writer(&store, "foreign_keys"), 1);
    let refused = store.write(|tx| tx.execute("COMMIT", []));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let refused = store.write(|tx| tx.execute("PRAGMA foreign_keys = OFF", []));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn attach_and_settings_are_refused_outside_transaction() {
    for (sql, name) in [
        ("ATTACH ':memory:' AS other", "ATTACH is refused"),
        ("ATTACH '/nowhere/x.db' AS other", "ATTACH is refused"),
        ("DETACH main", "DETACH is refused"),
        ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode is refused"),
        ("PRAGMA writable_schema = ON", "PRAGMA writable_schema is refused"),
        ("PRAGMA synchronous = OFF", "PRAGMA synchronous is refused"),
    ] {
        let store = bare(sql);
        let before = contents(&store);
        let error = store.migrate().unwrap_err();
        assert_has(&error.to_string(), &["migration 2 (bare), line 1: ", name]);
        assert_eq!(error.outcome(), Outcome::RolledBack, "{sql}");
        assert_eq!(contents(&store), before, "{sql}");
    }
}

/// It was let through with VACUUM's own, which has no name either, and stayed on the writer's connection.
#[test]
fn temporary_database_is_not_attached_outside_transaction() {
    let store = bare("ATTACH '' AS other");
    let error = store.migrate().unwrap_err();
    assert_has(&error.to_string(), &["ATTACH is refused"]);
    let store = bare("VACUUM");
    store.migrate().unwrap();
    let databases = store.write(|tx| {
        tx.query_map("SELECT name FROM pragma_database_list", [], |row| {
            row.get::<_, String>(0)
        })
    });
    assert_eq!(databases.unwrap(), ["main"]);
}

#[test]
fn vacuum_into_another_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("copy.db");
    let sql = format!("VACUUM INTO '{}'", to.display());
    let store = bare(sql.leak());
    let error = store.migrate().unwrap_err();
    assert_has(&error.to_string(), &["migration 2 (bare), line 1: ", "refused"]);
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert!(!to.exists());
    assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2]));
}

#[test]
fn failure_outside_transaction_reports_what_stays() {
    let store = bare("INSERT INTO t VALUES (3);\nINSERT INTO t VALUES (4);\nINSERT INTO t VALUES (1);\nDELETE FROM t");
    let error = store.migrate().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    assert!(!error.is_retryable());
    let message = error.to_string();
    assert_has(
        &message,
        &[
            "migration 2 (bare), line 3: ",
            "(statement 3: INSERT INTO t VALUES (1))",
            "the effects of its statements up to statement 2 stay",
            "marked as unfinished",
        ],
    );
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3, 4]);
    assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2]));
    let again = migration_error(store.migrate());
    assert!(
        matches!(&again, MigrationError::Unfinished { version, .. } if version == "2"),
        "{again:?}"
    );
    store.write(|tx| tx.execute("INSERT INTO t VALUES (9)", [])).unwrap();
    assert_eq!(pragma_of_writer(&store, "foreign_keys"), 1);
}

#[test]
fn unfinished_migration_is_blocked_until_mark_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = |sql| {
        let migrations = bare_second(sql).at_open(true);
        Options::new()
            .migration_timeout(Duration::from_millis(1))
            .migrations(migrations)
            .open(&path)
    };
    let failed = open("INSERT INTO t VALUES (3); SELEC 1").unwrap_err();
    assert_eq!(failed.outcome(), Outcome::Partial);
    let mended = "INSERT INTO t VALUES (4)";
    for _ in 0..2 {
        let error = open(mended).unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert_has(
            &error.to_string(),
            &[
                "2 (bare)",
                "started (up) and not finished",
                "DELETE FROM larder_migrations WHERE version = '2'",
            ],
        );
    }
    let by_hand = Connection::open(&path).unwrap();
    let deleted = by_hand
        .execute("DELETE FROM larder_migrations WHERE version = '2'", [])
        .unwrap();
    assert_eq!(deleted, 1);
    by_hand.close().unwrap();
    let store = open(mended).unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3, 4]);
    assert_eq!(applied(&store), [1, 2]);
    assert_eq!(numbers(&store, "SELECT unfinished FROM larder_migrations"), [0, 0]);
}

#[test]
fn transaction_left_open_is_refused_and_rolled_back() {
    let store = bare("INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4)");
    let error = store.migrate().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    assert_has(
        &error.to_string(),
        &[
            "leaves a transaction open",
            "rolled back",
            "the effects of its statements up to statement 1 stay",
        ],
    );
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3]);
    assert_eq!(pending(&store), [2]);
    store.write(|tx| tx.execute("INSERT INTO t VALUES (9)", [])).unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3, 9]);
}

/// The message said that what its first three statements did stays, of which two had been rolled back.
#[test]
fn rolled_back_statements_are_not_reported_as_kept() {
    for sql in [
        "INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4)",
        "INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4); INSERT INTO t VALUES (1); COMMIT",
        "INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4); INSERT OR ROLLBACK INTO t VALUES (1); COMMIT",
    ] {
        let store = bare(sql);
        let error = migration_error(store.migrate());
        assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3]);
        assert!(matches!(&error, MigrationError::Failed { kept: 1, .. }), "{error}");
    }
}

#[test]
fn own_transaction_counts_once_committed() {
    for (sql, last, rows) in [
        (
            "BEGIN; INSERT INTO t VALUES (3); COMMIT; INSERT INTO t VALUES (1)",
            3,
            &[1, 2, 3][..],
        ),
        (
            "INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4); COMMIT;
             BEGIN; INSERT INTO t VALUES (5); INSERT INTO t VALUES (1); COMMIT",
            4,
            &[1, 2, 3, 4],
        ),
        (
            "SAVEPOINT s; INSERT INTO t VALUES (3); RELEASE s; SAVEPOINT s; INSERT INTO t VALUES (4); SELEC 1",
            3,
            &[1, 2, 3],
        ),
        (
            "INSERT INTO t VALUES (3); BEGIN; INSERT INTO t VALUES (4); SELEC 1",
            1,
            &[1, 2, 3],
        ),
    ] {
        let store = bare(sql);
        let error = store.migrate().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Partial);
        assert_has(
            &error.to_string(),
            &[&format!("the effects of its statements up to statement {last} stay")],
        );
        let error = migration_error(Err::<(), _>(error));
        assert!(
            matches!(&error, MigrationError::Failed { kept, .. } if *kept == last),
            "{sql}: {error:?}"
        );
        assert_eq!(numbers(&store, "SELECT id FROM t"), rows);
        let again = migration_error(store.migrate());
        assert!(matches!(again, MigrationError::Unfinished { .. }), "{again}");
    }
}

/// Who tried again was told that it was begun and not finished.
#[test]
fn failed_first_statement_outside_transaction_leaves_nothing() {
    for sql in [
        "INSERT INTO t VALUES (1)",
        "SELEC 1",
        "INSERT INTO t VALUES (5), (6), (1)",
        "INSERT OR ROLLBACK INTO t VALUES (5), (6), (1)",
        "BEGIN; INSERT INTO t VALUES (5); INSERT INTO t VALUES (1); COMMIT",
        "BEGIN; INSERT OR FAIL INTO t VALUES (5), (1); COMMIT",
        "BEGIN; CREATE TABLE u(x INTEGER) STRICT; SELEC 1",
        "BEGIN; INSERT INTO t VALUES (5)",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = bare_options(sql).open(&path).unwrap();
        store.migrate_to(1).unwrap();
        let before = contents(&store);
        for _ in 0..2 {
            let error = store.migrate().unwrap_err();
            assert_eq!(error.outcome(), Outcome::RolledBack, "{sql}");
            assert_has(
                &error.to_string(),
                &["migration 2 (bare), line 1: ", "the database is unchanged"],
            );
            let error = migration_error(Err::<(), _>(error));
            assert!(
                matches!(error, MigrationError::Failed { kept: 0, .. }),
                "{sql}: {error:?}"
            );
            assert_eq!(contents(&store), before, "{sql}");
        }
        store.close().unwrap();
        let mended = bare_options("INSERT INTO t VALUES (3)").open(&path).unwrap();
        mended.migrate().unwrap();
        assert_eq!(numbers(&mended, "SELECT id FROM t"), [1, 2, 3], "{sql}");
        assert_eq!(numbers(&mended, "SELECT unfinished FROM larder_migrations"), [0, 0]);
    }
}

#[test]
fn full_disk_at_first_statement_is_reported_truthfully() {
    let options = bare_options(
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n",
    );
    let store = options
        .on_connect(|conn, _| Ok(conn.query_row("PRAGMA max_page_count = 30", [], |_| Ok(()))?))
        .open_temp()
        .unwrap();
    store.migrate_to(1).unwrap();
    let error = store.migrate().unwrap_err();
    assert_has(
        &error.to_string(),
        &["database or disk is full", "the database is unchanged"],
    );
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2]);
    let again = migration_error(store.migrate());
    assert!(matches!(again, MigrationError::Failed { .. }), "{again}");
}

/// When it was applied, and how long that took, was lost with the mark.
#[test]
fn undo_whose_first_statement_fails_keeps_record() {
    let down = Migration::new(1, "t", "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT").down("SELEC 1");
    let store = store_of(Migrations::new([down.without_transaction()]));
    let status = store.migrations().unwrap();
    let error = store.migrate_to(0).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(store.migrations().unwrap(), status);
    assert_eq!(store.migrate().unwrap().steps, []);
    assert_eq!(store.migrations().unwrap(), status);
}

fn down_fails() -> Migrations {
    let list = [
        Migration::new(
            1,
            "t",
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1), (2)",
        )
        .down("DROP TABLE t"),
        Migration::new(2, "bare", "INSERT INTO t VALUES (3), (4)")
            .down("DELETE FROM t WHERE id = 3; SELEC 1")
            .without_transaction(),
        Migration::new(3, "u", "CREATE TABLE u(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE u"),
    ];
    Migrations::new(list)
}

/// The next opening entered the migration as one that another tool had applied, and its mark was gone.
#[test]
fn failed_undo_outside_transaction_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = |at_open| {
        let options = Options::new().migration_timeout(Duration::from_millis(1));
        options.migrations(down_fails().at_open(at_open))
    };
    let store = options(true).open(&path).unwrap();
    store.migrate_to(2).unwrap();
    let error = store.migrate_to(1).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    let marks = |store: &Store| {
        texts(
            store,
            "SELECT concat_ws(',', version, unfinished) FROM larder_migrations",
        )
    };
    assert_eq!(marks(&store), ["1,0", "2,2"]);
    let marked = contents(&store);
    let calls = [
        ("down", store.migrate_to(1)),
        ("down to nothing", store.migrate_to(0)),
        ("nowhere", store.migrate_to(2)),
        ("up", store.migrate()),
        ("dry", store.migrate_dry_run(DryRun::Schema)),
        ("dry on a backup", store.migrate_dry_run(DryRun::Backup)),
    ];
    for (call, result) in calls {
        let error = migration_error(result);
        match error {
            MigrationError::Unfinished {
                file,
                version,
                direction,
            } => assert_eq!(
                (&*file, &*version, direction),
                ("2 (bare)", "2", Direction::Down),
                "{call}"
            ),
            other => panic!("{call}: {other}"),
        }
    }
    assert_eq!(contents(&store), marked);
    store.close().unwrap();
    for _ in 0..2 {
        let error = migration_error(options(true).open(&path));
        assert!(
            matches!(&error, MigrationError::Unfinished { version, .. } if version == "2"),
            "{error}"
        );
    }
    let store = options(false).open(&path).unwrap();
    assert_eq!(marks(&store), ["1,0", "2,2"]);
    assert_eq!((applied(&store), pending(&store)), (vec![1, 2], vec![3]));
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 4]);
}

/// What `Unfinished` says to run: if it was finished by hand, and if things were put back.
#[track_caller]
fn ways_out(error: &Error) -> [String; 2] {
    let message = error.to_string();
    let (_, rest) = message.split_once("if you finished it by hand, run ").expect(&message);
    let (finished, back) = rest.split_once("; if you undid it by hand, run ").expect(&message);
    [finished.into(), back.into()]
}

#[test]
fn unfinished_migration_continues_as_its_message_says() {
    for (down, finished) in [(false, false), (false, true), (true, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let options = |up: &'static str, way_down: &'static str| {
            let first = Migration::new(1, "t", "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT");
            let second = Migration::new(2, "bare", up).down(way_down).without_transaction();
            let options = Options::new().migration_timeout(Duration::from_millis(1));
            options.migrations(Migrations::new([first, second]).at_open(false))
        };
        let (up, way_down) = ("INSERT INTO t VALUES (1), (2)", "DELETE FROM t WHERE id IN (1, 2)");
        let to = if down { 1 } else { 2 };
        if down {
            options(up, way_down).open(&path).unwrap().migrate().unwrap();
        }
        let half = if down {
            options(up, "DELETE FROM t WHERE id = 1; SELEC 1")
        } else {
            options("INSERT INTO t VALUES (1); SELEC 1", way_down)
        };
        let store = half.clone().open(&path).unwrap();
        assert_eq!(store.migrate_to(to).unwrap_err().outcome(), Outcome::Partial);
        let error = store.migrate_to(to).unwrap_err();
        store.close().unwrap();
        let direction = if down { "(down)" } else { "(up)" };
        assert_has(
            &error.to_string(),
            &["migration 2 (bare)", "started", direction, "not finished"],
        );
        let [if_finished, if_back] = ways_out(&error);
        let by_hand = match (down, finished) {
            (false, true) => "INSERT INTO t VALUES (2)",
            (false, false) | (true, true) => "DELETE FROM t",
            (true, false) => "INSERT INTO t VALUES (1)",
        };
        let outside = Connection::open(&path).unwrap();
        outside.execute_batch(by_hand).unwrap();
        outside
            .execute_batch(if finished { &if_finished } else { &if_back })
            .unwrap();
        outside.close().unwrap();
        // What was finished goes on with the text that it was begun with, the other is mended.
        let store = if finished && !down { half } else { options(up, way_down) };
        let store = store.open(&path).unwrap();
        let there = if down == finished { vec![1] } else { vec![1, 2] };
        assert_eq!(applied(&store), there, "down {down}, finished {finished}");
        let steps = steps(&store.migrate_to(to).unwrap());
        assert_eq!(steps.len(), usize::from(!finished), "down {down}: {steps:?}");
        assert_eq!(applied(&store).len() as u64, to);
        let rows = numbers(&store, "SELECT id FROM t");
        assert_eq!(rows, if down { vec![] } else { vec![1, 2] });
        assert_eq!(
            numbers(&store, "SELECT count(*) FROM larder_migrations WHERE unfinished"),
            [0]
        );
    }
}

/// The mark had the file's digits, what was deleted those of the record: the mark stayed, and nothing went on.
#[test]
fn undo_with_different_leading_zeros_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = |name: &'static str| {
        let file = "-- migrate:up\nCREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;\n\
                    -- migrate:down transaction:false\nDROP TABLE t;";
        let options = Options::new().migration_timeout(Duration::from_millis(1));
        options.migrations(Migrations::files([(name, file)]).unwrap())
    };
    options("001_t.sql").open(&path).unwrap().close().unwrap();
    let store = options("1_t.sql").open(&path).unwrap();
    assert_eq!(steps(&store.migrate_to(0).unwrap()), [(1, Direction::Down)]);
    assert_eq!(numbers(&store, "SELECT count(*) FROM larder_migrations"), [0]);
    assert_eq!(steps(&store.migrate().unwrap()), [(1, Direction::Up)]);
}

/// `DELETE .. WHERE version = '1'` finds no mark that has '001'.
#[test]
fn recovery_with_different_leading_zeros_works() {
    for finished in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let open = |name: &'static str, sql: &str| {
            let options = Options::new().migration_timeout(Duration::from_millis(1));
            let file = format!("-- migrate:up transaction:false\n{sql}\n-- migrate:down\n");
            options
                .migrations(Migrations::files([(name, file)]).unwrap())
                .open(&path)
        };
        let broken = "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; SELEC 1";
        let failed = open("001_t.sql", broken).unwrap_err();
        assert_eq!(failed.outcome(), Outcome::Partial);
        let [if_finished, if_back] = ways_out(&open("1_t.sql", broken).unwrap_err());
        let by_hand = Connection::open(&path).unwrap();
        let (sql, text) = if finished {
            (if_finished, broken)
        } else {
            (if_back, "SELECT 1;")
        };
        by_hand.execute_batch(&sql).unwrap();
        by_hand.close().unwrap();
        let store = open("1_t.sql", text).unwrap();
        assert_eq!(applied(&store), [1], "{sql}");
        assert_eq!(
            numbers(&store, "SELECT unfinished FROM larder_migrations"),
            [0],
            "{sql}"
        );
    }
}

/// It was said that they did so before it, too.
#[test]
fn dangling_foreign_keys_outside_transaction_are_reported() {
    let list = [
        Migration::new(1, "family", FAMILY),
        Migration::new(2, "bare", "DELETE FROM parent WHERE id = 2").without_transaction(),
    ];
    let store = store_of(Migrations::new(list).at_open(false));
    store.migrate_to(1).unwrap();
    let error = store.migrate().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    assert_has(
        &error.to_string(),
        &[
            "migration 2 (bare) leaves foreign keys without a parent row: ",
            "cascading row 12 -> parent",
            "(4 in all); it runs outside a transaction, so the effects of its statements up to statement 1 stay",
        ],
    );
    let error = migration_error(Err::<(), _>(error));
    assert!(
        matches!(
            error,
            MigrationError::ForeignKeys {
                before: 0,
                total: 4,
                kept: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(pending(&store), [2]);
    assert_eq!(numbers(&store, "SELECT unfinished FROM larder_migrations"), [0, 1]);
}

#[test]
fn parent_that_lost_its_key_is_reported() {
    let list = [
        Migration::new(
            1,
            "tables",
            "CREATE TABLE p(id INTEGER PRIMARY KEY, k TEXT) STRICT; CREATE UNIQUE INDEX p_k ON p(k);
             CREATE TABLE c(id INTEGER PRIMARY KEY, k TEXT REFERENCES p(k)) STRICT;
             INSERT INTO p VALUES (1, 'a'); INSERT INTO c VALUES (1, 'a');",
        ),
        Migration::new(2, "bare", "DROP INDEX p_k").without_transaction(),
    ];
    let store = store_of(Migrations::new(list).at_open(false));
    store.migrate_to(1).unwrap();
    let error = store.migrate().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    assert_has(
        &error.to_string(),
        &[
            "foreign key mismatch - \"c\" referencing \"p\" (statement 2: its end)",
            "up to statement 1 stay",
        ],
    );
}

#[test]
fn table_that_lost_its_parent_is_reported() {
    let list = [
        Migration::new(
            1,
            "tables",
            "CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE c(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id)) STRICT;",
        ),
        Migration::new(
            2,
            "bare",
            "ALTER TABLE p RENAME TO old; DROP TABLE old; CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT",
        )
        .without_transaction(),
    ];
    let store = store_of(Migrations::new(list).at_open(false));
    store.migrate_to(1).unwrap();
    let error = migration_error(store.migrate());
    assert_has(
        &error.to_string(),
        &[
            "without a parent row: c -> old, which no longer exists (a rename changed the reference) (1 in all)",
            "up to statement 3 stay",
        ],
    );
    assert!(
        matches!(
            error,
            MigrationError::ForeignKeys {
                before: 0,
                total: 1,
                kept: 3,
                ..
            }
        ),
        "{error:?}"
    );
}

/// Of an `INSERT OR FAIL` the rows before the one that failed stay; it was said to have been rolled back.
#[test]
fn rows_of_failed_insert_are_reported_as_kept() {
    for (sql, last, rows) in [
        ("INSERT OR FAIL INTO t VALUES (5), (6), (1)", 1, &[1, 2, 5, 6][..]),
        (
            "INSERT INTO t VALUES (3); INSERT OR FAIL INTO t VALUES (5), (1)",
            2,
            &[1, 2, 3, 5],
        ),
        (
            "INSERT INTO t VALUES (3); INSERT OR FAIL INTO t VALUES (1), (5)",
            1,
            &[1, 2, 3],
        ),
    ] {
        let store = bare(sql);
        let error = store.migrate().unwrap_err();
        assert_eq!(numbers(&store, "SELECT id FROM t"), rows);
        assert_eq!(error.outcome(), Outcome::Partial, "{error}");
        let error = migration_error(Err::<(), _>(error));
        assert!(
            matches!(&error, MigrationError::Failed { kept, .. } if *kept == last),
            "{sql}: {error:?}"
        );
        let again = migration_error(store.migrate());
        assert!(matches!(again, MigrationError::Unfinished { .. }), "{again}");
    }
}

#[test]
fn read_keeps_its_snapshot_during_vacuum() {
    let store = bare("VACUUM; INSERT INTO t VALUES (3)");
    store
        .read(|tx| {
            let rows = || tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
            assert_eq!(rows()?, 2);
            store.migrate()?;
            assert_eq!(rows()?, 2);
            Ok(())
        })
        .unwrap();
    assert_eq!(count(&store), 3);
}

#[test]
fn table_not_strict_outside_transaction_is_refused() {
    let options = bare_options("CREATE TABLE a(x INTEGER) STRICT; CREATE TABLE b(x INTEGER)").require_strict(true);
    let store = options.open_temp().unwrap();
    let error = store.migrate().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    assert_has(
        &error.to_string(),
        &[
            "the table b without STRICT",
            "the effects of its statements up to statement 2 stay",
        ],
    );
}
