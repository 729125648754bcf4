//! Long lists, whose steps do not read everything again: each still runs in a transaction of its own, and finds what
//! others have done between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::rusqlite::functions::FunctionFlags;
use larder::rusqlite::{self, Connection};
use larder::{Direction, Migration, MigrationError, Migrations, Options};

use crate::support::migrations::{applied, assert_has, migration_error, number, numbers, pending, rolled_back, steps};

fn list(sql: impl IntoIterator<Item = String>) -> Migrations {
    let numbered = (1..).zip(sql);
    Migrations::new(numbered.map(|(version, sql)| Migration::new(version, format!("step {version}"), sql)))
}

/// Every tenth makes a table that refers to the one before, the others change one of them.
fn grown(count: usize) -> Vec<String> {
    let one = |n: usize| match n % 10 {
        0 if n == 0 => "CREATE TABLE t0(id INTEGER PRIMARY KEY, up INTEGER) STRICT".to_owned(),
        0 => format!(
            "CREATE TABLE t{}(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t{}(id)) STRICT",
            n / 10,
            n / 10 - 1
        ),
        1 => format!("ALTER TABLE t{} ADD COLUMN note TEXT", n / 10),
        2 => format!("CREATE INDEX i{n} ON t{}(up)", n / 10),
        3 if n < 10 => "INSERT INTO t0 VALUES (3, NULL, 'a')".to_owned(),
        3 => format!("INSERT INTO t{} VALUES ({n}, {}, 'a')", n / 10, n - 10),
        4 => format!("UPDATE t{} SET note = 'b'", n / 10),
        _ => format!("INSERT INTO t{} VALUES ({n}, NULL, 'c')", n / 10),
    };
    (0..count).map(one).collect()
}

#[test]
fn long_list_is_applied_and_undone() {
    let count = 300;
    let with_down = (1..).zip(grown(count)).map(|(version, sql)| {
        Migration::new(version, "step", sql).down(format!("DELETE FROM larder_undone WHERE n = {version}"))
    });
    let first =
        Migration::new(1, "undone", "CREATE TABLE larder_undone(n INTEGER) STRICT").down("DROP TABLE larder_undone");
    let rest = with_down.map(|migration| {
        let version = migration.version() + 1;
        Migration::new(version, "step", grown(count)[migration.version() as usize - 1].clone())
            .down(format!("INSERT INTO larder_undone VALUES ({version})"))
    });
    let store = Options::new()
        .migrations(Migrations::new([first].into_iter().chain(rest)).at_open(false))
        .open_temp()
        .unwrap();
    let report = store.migrate().unwrap();
    assert_eq!(report.steps.len(), count + 1);
    let all: Vec<u64> = (1..=count as u64 + 1).collect();
    assert_eq!(applied(&store), all);
    assert_eq!(
        number(
            &store,
            "SELECT count(*) FROM larder_migrations WHERE duration_us IS NOT NULL"
        ),
        301
    );
    assert_eq!(number(&store, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    let down = steps(&store.migrate_to(1).unwrap());
    let expected: Vec<_> = all
        .iter()
        .skip(1)
        .rev()
        .map(|version| (*version, Direction::Down))
        .collect();
    assert_eq!(down, expected);
    assert_eq!((applied(&store), pending(&store).len()), (vec![1], count));
    assert_eq!(number(&store, "SELECT count(*) FROM larder_undone"), count as i64);
}

#[test]
fn mistake_in_a_long_list_is_found_at_its_step() {
    let bad: [(&str, &str); 8] = [
        ("INSERT INTO t5 VALUES (999, 999, 'x')", "t5 row 999 -> t4 (1 in all)"),
        ("DELETE FROM t3 WHERE id = 33", "t4 row 43 -> t3 (1 in all)"),
        ("DROP TABLE t3", "t4 row 43 -> t3"),
        (
            "ALTER TABLE t3 RENAME TO old; CREATE TABLE t3(id INTEGER PRIMARY KEY) STRICT; DROP TABLE old",
            "t4 -> old, which no longer exists",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('1000')",
            "a change of schema_migrations",
        ),
        (
            "DELETE FROM schema_migrations WHERE version = '7'",
            "a change of schema_migrations",
        ),
        (
            "CREATE TRIGGER no BEFORE INSERT ON schema_migrations BEGIN SELECT RAISE(ABORT, 'keep out'); END",
            "keep out",
        ),
        ("SELEC 1", "syntax error"),
    ];
    for (sql, told) in bad {
        let mut steps = grown(80);
        steps.insert(75, sql.to_owned());
        let store = Options::new()
            .migrations(list(steps).at_open(false))
            .open_temp()
            .unwrap();
        for _ in 0..2 {
            assert_has(&rolled_back(store.migrate()), &["76 (step 76)", told]);
            assert_eq!(applied(&store).len(), 75, "{sql}");
        }
        store
            .write(|tx| tx.execute("INSERT INTO t5 VALUES (1000, 99, 'x')", []).map(drop))
            .unwrap_err();
    }
}

#[test]
fn trigger_on_the_record_is_noticed() {
    let mut steps = grown(30);
    steps[15] = "CREATE TRIGGER forget AFTER INSERT ON schema_migrations WHEN new.version = '18' BEGIN
                     DELETE FROM schema_migrations WHERE version = '17'; END"
        .to_owned();
    let store = Options::new()
        .migrations(list(steps).at_open(false))
        .open_temp()
        .unwrap();
    let error = migration_error(store.migrate());
    assert!(matches!(error, MigrationError::Gap { version: 17, .. }), "{error:?}");
}

#[test]
fn settings_of_one_step_do_not_reach_the_next() {
    let store = Options::new()
        .migrations(list([
            "CREATE TABLE t(n INTEGER) STRICT; CREATE VIEW v AS SELECT n FROM t".to_owned(),
            "PRAGMA legacy_alter_table = ON".to_owned(),
            "ALTER TABLE t RENAME TO u".to_owned(),
            "CREATE TEMP TABLE u(n)".to_owned(),
            "INSERT INTO u VALUES (5)".to_owned(),
        ]))
        .open_temp()
        .unwrap();
    assert_eq!(
        numbers(&store, "SELECT n FROM v"),
        [5],
        "the view was renamed, and the row is in the table"
    );
}

/// Another connection migrates the same database, in the middle of the list.
#[test]
fn steps_of_another_connection_are_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let (other, calls) = (path.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&calls);
    // The function is called while the writer holds the lock; the other connection waits for it in a thread.
    let options = Options::new().on_connect(move |conn, _| {
        let (path, seen) = (other.clone(), Arc::clone(&seen));
        conn.create_scalar_function("elsewhere", 0, FunctionFlags::SQLITE_UTF8, move |_| {
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                let path = path.clone();
                std::thread::spawn(move || enter_next(&path));
            }
            Ok(1)
        })?;
        Ok(())
    });
    let sql = (1..=200).map(|n| match n {
        1 => "CREATE TABLE t(n INTEGER) STRICT".to_owned(),
        3 => "INSERT INTO t SELECT elsewhere()".to_owned(),
        n => format!("INSERT INTO t VALUES ({n})"),
    });
    let store = options.migrations(list(sql)).open(&path).unwrap();
    assert_eq!(applied(&store).len(), 200);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // Each ran once, here or there.
    assert_eq!(number(&store, "SELECT count(*) FROM t"), 199);
    assert_eq!(number(&store, "SELECT count(DISTINCT n) FROM t"), 199);
}

/// Applies the next migration as Dbmate would, whichever that is by then.
fn enter_next(path: &std::path::Path) -> rusqlite::Result<()> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(std::time::Duration::from_secs(30))?;
    conn.execute_batch(
        "BEGIN IMMEDIATE;
         INSERT INTO t SELECT max(CAST(version AS INTEGER)) + 1 FROM schema_migrations HAVING max(CAST(version AS INTEGER)) < 200;
         INSERT INTO schema_migrations SELECT max(CAST(version AS INTEGER)) + 1 FROM schema_migrations
             HAVING max(CAST(version AS INTEGER)) < 200;
         COMMIT;",
    )
}
