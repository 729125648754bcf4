//! Group commit: jobs share a transaction, and each succeeds or fails on its own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use larder::rusqlite::{Connection, OpenFlags, ffi};
use larder::{Durability, Error, Options, Outcome, Pending, Result, Store, WriteOptions, WriteTx};

/// Keeps the writer thread busy, in a transaction of its own, until it is opened. What is queued meanwhile is
/// taken up in order afterwards, and forms one group as far as it may.
pub(crate) struct Gate {
    open: Sender<()>,
    held: Pending<()>,
}

impl Gate {
    /// Returns once the writer thread is held.
    pub(crate) fn hold(store: &Store) -> Self {
        let (running, is_running) = channel();
        let (open, opened) = channel::<()>();
        // A write with a limit gets a transaction of its own.
        let long = Duration::from_secs(600);
        let alone = WriteOptions::new()
            .execution_timeout(long)
            .queue_timeout(long)
            .label("gate");
        let held = store
            .submit_with(alone, move |_| {
                running.send(()).unwrap();
                let _ = opened.recv();
                Ok(())
            })
            .unwrap();
        is_running.recv().unwrap();
        Self { open, held }
    }

    pub(crate) fn open(self) {
        drop(self.open);
        self.held.wait().unwrap();
    }
}

/// A store whose groups are as large as the queue has jobs.
pub(crate) fn grouping() -> Options {
    Options::new().max_group_time(Duration::from_secs(60))
}

/// A look at the file that does not go through larder.
fn outsider(store: &Store) -> Connection {
    Connection::open_with_flags(store.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn store_with_tables() -> Store {
    let store = grouping().open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
                 INSERT INTO t VALUES (1);
                 CREATE TABLE child(parent INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED) STRICT;
                 CREATE TABLE fatal(x);
                 CREATE TRIGGER fatal AFTER INSERT ON fatal BEGIN SELECT RAISE(ROLLBACK, 'fatal row'); END;",
            )
        })
        .unwrap();
    store
}

fn ids(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT id FROM t WHERE id > 1 ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

fn insert(tx: &WriteTx<'_>, id: i64) -> Result<()> {
    tx.execute("INSERT INTO t VALUES (?1)", [id]).map(drop)
}

/// What the caller of one job saw.
#[derive(Debug)]
enum Seen {
    Ok,
    Error(Error),
    Panic(String),
}

fn seen(pending: Pending<()>) -> Seen {
    match catch_unwind(AssertUnwindSafe(|| pending.wait())) {
        Ok(Ok(())) => Seen::Ok,
        Ok(Err(error)) => Seen::Error(error),
        Err(payload) => Seen::Panic(payload.downcast_ref::<&str>().unwrap().to_string()),
    }
}

const SIZE: usize = 5;

/// Runs five jobs as one group. Four insert the row 10 + place; the bad one inserts 100, then does its worst.
fn group_with(store: &Store, bad_place: usize, bad: fn(&WriteTx<'_>) -> Result<()>) -> Vec<Seen> {
    let gate = Gate::hold(store);
    let jobs: Vec<_> = (0..SIZE)
        .map(|place| {
            store
                .submit(move |tx| {
                    if place != bad_place {
                        return insert(tx, 10 + place as i64);
                    }
                    insert(tx, 100)?;
                    bad(tx)
                })
                .unwrap()
        })
        .collect();
    gate.open();
    jobs.into_iter().map(seen).collect()
}

/// The bad job fails alone: at each place its neighbours commit, in one transaction, and their rows are there.
fn fails_alone(bad: fn(&WriteTx<'_>) -> Result<()>, check: fn(&Seen)) {
    for bad_place in [0, 2, 4] {
        let store = store_with_tables();
        let results = group_with(&store, bad_place, bad);
        let mut rows = Vec::new();
        for (place, result) in results.iter().enumerate() {
            if place == bad_place {
                check(result);
            } else {
                assert!(matches!(result, Seen::Ok), "bad at {bad_place}: {place} got {result:?}");
                rows.push(10 + place as i64);
            }
        }
        assert_eq!(ids(&store), rows, "bad at {bad_place}");
        assert_eq!(store.stats().group_size.max, 4, "bad at {bad_place}");
        assert_eq!(store.stats().failed_writes, 1);
        assert!(store.close().unwrap().wal_truncated);
    }
}

/// The bad job ends the whole transaction: those before it are told so and may retry, those after it commit.
fn takes_those_before_it_along(bad: fn(&WriteTx<'_>) -> Result<()>, check: fn(&Error)) {
    for bad_place in [0, 2, 4] {
        let store = store_with_tables();
        let results = group_with(&store, bad_place, bad);
        let mut rows = Vec::new();
        for (place, result) in results.iter().enumerate() {
            match result {
                Seen::Error(error) if place == bad_place => {
                    check(error);
                    assert_eq!(error.outcome(), Outcome::RolledBack);
                }
                Seen::Error(error @ Error::RolledBack { .. }) if place < bad_place => {
                    assert!(error.is_retryable());
                    assert_eq!(error.outcome(), Outcome::RolledBack);
                    assert!(error.to_string().contains("another write"), "{error}");
                }
                Seen::Ok if place > bad_place => rows.push(10 + place as i64),
                other => panic!("bad at {bad_place}: {place} got {other:?}"),
            }
        }
        assert_eq!(ids(&store), rows, "bad at {bad_place}");
        store.write(|tx| insert(tx, 1000)).unwrap();
        assert!(store.close().unwrap().wal_truncated);
    }
}

fn constraint_code(error: &Error) -> i32 {
    match error.sqlite() {
        Some(larder::rusqlite::Error::SqliteFailure(e, _)) => e.extended_code,
        other => panic!("no SQLite error: {other:?} in {error:?}"),
    }
}

#[test]
fn job_that_returns_an_error_fails_alone() {
    fails_alone(
        |_| Err(Error::app("changed my mind")),
        |seen| match seen {
            Seen::Error(error @ Error::App(_)) => {
                assert_eq!(error.to_string(), "changed my mind");
                assert_eq!(error.outcome(), Outcome::RolledBack);
                assert!(!error.is_retryable());
            }
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn job_that_violates_unique_constraint_fails_alone() {
    fails_alone(
        |tx| insert(tx, 1),
        |seen| match seen {
            Seen::Error(error @ Error::Sqlite { .. }) => {
                assert_eq!(constraint_code(error), ffi::SQLITE_CONSTRAINT_PRIMARYKEY);
                assert_eq!(error.outcome(), Outcome::RolledBack);
                assert!(!error.is_retryable());
            }
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn swallowed_constraint_error_undoes_only_its_statement() {
    for place in [0, 2, 4] {
        let store = store_with_tables();
        let results = group_with(&store, place, |tx| {
            assert!(insert(tx, 1).is_err());
            insert(tx, 101)
        });
        for result in &results {
            assert!(matches!(result, Seen::Ok), "{result:?}");
        }
        let mut rows: Vec<i64> = (0..SIZE).filter(|p| *p != place).map(|p| 10 + p as i64).collect();
        rows.extend([100, 101]);
        assert_eq!(ids(&store), rows);
        assert_eq!(store.stats().group_size.max, 5);
    }
}

#[test]
fn panicking_job_fails_alone_and_panic_reaches_caller() {
    fails_alone(
        |_| resume_unwind(Box::new("boom")),
        |seen| match seen {
            Seen::Panic(message) => assert_eq!(message, "boom"),
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn job_that_violates_deferred_foreign_key_fails_alone() {
    fails_alone(
        |tx| tx.execute("INSERT INTO child VALUES (777)", []).map(drop),
        |seen| match seen {
            Seen::Error(error @ Error::Sqlite { .. }) => {
                assert_eq!(constraint_code(error), ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
                assert_eq!(error.outcome(), Outcome::RolledBack);
                assert!(!error.is_retryable());
            }
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn job_that_begins_savepoint_by_sql_fails_alone() {
    fails_alone(
        |tx| tx.execute_batch("SAVEPOINT mine; INSERT INTO t VALUES (102); RELEASE mine"),
        |seen| match seen {
            Seen::Error(Error::Refused { statement, .. }) => assert_eq!(statement, "SAVEPOINT"),
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn job_that_releases_its_savepoint_fails_alone() {
    fails_alone(
        |tx| tx.execute_batch("RELEASE larder"),
        |seen| match seen {
            Seen::Error(Error::Refused { statement, .. }) => assert_eq!(statement, "RELEASE"),
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn raise_rollback_in_trigger_undoes_earlier_jobs() {
    takes_those_before_it_along(
        |tx| tx.execute("INSERT INTO fatal VALUES (1)", []).map(drop),
        |error| assert_eq!(constraint_code(error), ffi::SQLITE_CONSTRAINT_TRIGGER),
    );
}

#[test]
fn swallowed_or_rollback_undoes_earlier_jobs() {
    takes_those_before_it_along(
        |tx| {
            assert!(tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", []).is_err());
            // Outside any transaction now: each of these would be committed at once.
            let _ = insert(tx, 103);
            let _ = tx.execute_batch("INSERT INTO t VALUES (104); CREATE TABLE sneaked(x)");
            let _ = tx.execute_batch("PRAGMA user_version = 99");
            Ok(())
        },
        |error| match error {
            Error::RolledBack { reason, .. } => assert!(reason.contains("ON CONFLICT ROLLBACK"), "{reason}"),
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn nothing_is_written_after_a_swallowed_rollback() {
    let store = store_with_tables();
    let folder = tempfile::tempdir().unwrap();
    let (copy, other) = (folder.path().join("copy.db"), folder.path().join("other.db"));
    let (copy_sql, other_sql) = (
        format!("VACUUM INTO '{}'", copy.display()),
        format!("ATTACH '{}' AS other", other.display()),
    );
    let result = store.write(move |tx| {
        assert!(tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", []).is_err());
        for sql in [
            "INSERT INTO t VALUES (103)",
            "CREATE TABLE sneaked(x)",
            "CREATE TEMP TABLE t(id)",
            "PRAGMA user_version = 99",
            "VACUUM",
            "BEGIN",
            &copy_sql,
            &other_sql,
        ] {
            assert!(tx.execute_batch(sql).is_err(), "{sql} went through");
        }
        assert!(matches!(tx.savepoint(|_| Ok(())), Err(Error::RolledBack { .. })));
        Ok(())
    });
    assert!(matches!(result, Err(Error::RolledBack { .. })), "{result:?}");
    assert!(!copy.exists() && !other.exists());
    assert_eq!(ids(&store), [0; 0]);
    store
        .write(|tx| {
            assert!(!tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'sneaked'", [])?);
            assert!(!tx.exists("SELECT 1 FROM temp.sqlite_schema", [])?);
            assert_eq!(tx.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?, 0);
            insert(tx, 200)
        })
        .unwrap();
    assert_eq!(ids(&store), [200]);
}

#[test]
fn panic_after_swallowed_rollback_reaches_the_caller() {
    let store = store_with_tables();
    let results = group_with(&store, 2, |tx| {
        let _ = tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", []);
        resume_unwind(Box::new("boom"))
    });
    assert!(matches!(&results[1], Seen::Error(Error::RolledBack { .. })));
    assert!(matches!(&results[2], Seen::Panic(message) if message == "boom"));
    assert_eq!(ids(&store), [13, 14]);
}

#[test]
fn deferred_violation_is_not_repaired_by_next_job() {
    let store = store_with_tables();
    let gate = Gate::hold(&store);
    let child = store
        .submit(|tx| tx.execute("INSERT INTO child VALUES (50)", []))
        .unwrap();
    let parent = store.submit(|tx| insert(tx, 50)).unwrap();
    gate.open();
    assert_eq!(
        constraint_code(&child.wait().unwrap_err()),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY
    );
    parent.wait().unwrap();
    assert_eq!(ids(&store), [50]);
}

#[test]
fn deferred_violation_repaired_by_its_job_commits() {
    for place in [0, 2, 4] {
        let store = store_with_tables();
        let results = group_with(&store, place, |tx| {
            tx.execute("INSERT INTO child VALUES (100 + 50)", [])?;
            insert(tx, 150)
        });
        for result in &results {
            assert!(matches!(result, Seen::Ok), "{result:?}");
        }
        assert!(ids(&store).ends_with(&[100, 150]));
    }
}

#[test]
fn deferred_violation_undone_by_savepoint_commits() {
    let store = store_with_tables();
    store
        .write(|tx| {
            let inner = tx.savepoint(|tx| {
                tx.execute("INSERT INTO child VALUES (777)", [])?;
                Err::<(), _>(Error::app("no"))
            });
            assert!(inner.is_err());
            insert(tx, 60)
        })
        .unwrap();
    assert_eq!(ids(&store), [60]);
}

#[test]
fn row_is_visible_to_all_when_write_returns() {
    let store = store_with_tables();
    let outsider = outsider(&store);
    for id in 2..200 {
        store.write(move |tx| insert(tx, id)).unwrap();
        let newest: i64 = outsider
            .query_row("SELECT max(id) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(newest, id);
    }
}

#[test]
fn no_reply_comes_before_the_group_commits() {
    let store = store_with_tables();
    let outsider = outsider(&store);
    let visible = || {
        outsider
            .query_row("SELECT count(*) FROM t WHERE id = 10", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let gate = Gate::hold(&store);
    let mut early = store.submit(|tx| insert(tx, 10)).unwrap();
    let (running, is_running) = channel();
    let (release, released) = channel::<()>();
    let late = store
        .submit(move |tx| {
            let earlier = tx.exists("SELECT 1 FROM t WHERE id = 10", [])?;
            running.send(earlier).unwrap();
            let _ = released.recv();
            Ok(())
        })
        .unwrap();
    gate.open();
    assert!(is_running.recv().unwrap(), "both are in one transaction");
    assert!(early.wait_timeout(Duration::from_millis(50)).is_none());
    assert_eq!(visible(), 0);
    drop(release);
    late.wait().unwrap();
    early
        .wait_timeout(Duration::from_secs(30))
        .expect("it is committed")
        .unwrap();
    assert_eq!(visible(), 1);
}

#[test]
fn queued_jobs_share_one_transaction() {
    let store = store_with_tables();
    let before = store.stats();
    let gate = Gate::hold(&store);
    let jobs: Vec<_> = (0..100)
        .map(|n| store.submit(move |tx| insert(tx, 1000 + n)).unwrap())
        .collect();
    gate.open();
    jobs.into_iter().for_each(|job| job.wait().unwrap());
    let after = store.stats();
    assert_eq!(
        after.committed_writes - before.committed_writes,
        101,
        "the gate and the hundred"
    );
    assert_eq!(after.groups - before.groups, 2, "the gate's and theirs");
    assert_eq!(after.group_size.max, 100);
    assert_eq!(ids(&store).len(), 100);
}

#[test]
fn max_group_size_limits_the_group() {
    for (bound, groups) in [(1, 20), (8, 3)] {
        let store = grouping().max_group_size(bound).open_temp().unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
            .unwrap();
        let before = store.stats();
        let gate = Gate::hold(&store);
        let jobs: Vec<_> = (0..20)
            .map(|n| store.submit(move |tx| insert(tx, 10 + n)).unwrap())
            .collect();
        gate.open();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
        let after = store.stats();
        assert_eq!(after.groups - before.groups, 1 + groups);
        assert_eq!(after.group_size.max, bound as u64);
    }
}

#[test]
fn max_group_time_ends_a_slow_group() {
    let store = Options::new().max_group_time(Duration::ZERO).open_temp().unwrap();
    let gate = Gate::hold(&store);
    let jobs: Vec<_> = (0..10).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    gate.open();
    jobs.into_iter().for_each(|job| job.wait().unwrap());
    assert_eq!(store.stats().groups, 11);
}

fn synchronous(tx: &WriteTx<'_>) -> Result<i64> {
    tx.query_row("PRAGMA synchronous", [], |row| row.get(0))
}

#[test]
fn durable_write_makes_only_its_group_durable() {
    let store = grouping().open_temp().unwrap();
    let durable = || WriteOptions::new().durability(Durability::Full);
    assert_eq!(store.write(synchronous).unwrap(), 1);
    let gate = Gate::hold(&store);
    let jobs = [
        store.submit(synchronous).unwrap(),
        store.submit_with(durable(), synchronous).unwrap(),
        store.submit(synchronous).unwrap(),
        store.submit_with(durable(), synchronous).unwrap(),
    ];
    gate.open();
    let levels: Vec<_> = jobs.into_iter().map(|job| job.wait().unwrap()).collect();
    // The second begins a group of its own; those after it ride along.
    assert_eq!(levels, [1, 2, 2, 2]);
    assert_eq!(store.write(synchronous).unwrap(), 1);
    assert_eq!(store.write_with(durable(), synchronous).unwrap(), 2);
    assert_eq!(store.write(synchronous).unwrap(), 1);
}

#[test]
fn durable_store_ignores_a_lower_durability() {
    let store = Options::new().durability(Durability::Full).open_temp().unwrap();
    let normal = WriteOptions::new().durability(Durability::Normal);
    assert_eq!(store.write(synchronous).unwrap(), 2);
    assert_eq!(store.write_with(normal, synchronous).unwrap(), 2);
}

#[test]
fn failed_savepoint_is_undone_and_write_continues() {
    let store = store_with_tables();
    store
        .write(|tx| {
            insert(tx, 10)?;
            let inner = tx.savepoint(|tx| {
                insert(tx, 11)?;
                Err::<(), _>(Error::app("no"))
            });
            assert!(matches!(inner, Err(Error::App(_))));
            insert(tx, 12)
        })
        .unwrap();
    assert_eq!(ids(&store), [10, 12]);
}

#[test]
fn panicking_savepoint_is_undone_if_panic_is_caught() {
    let store = store_with_tables();
    store
        .write(|tx| {
            insert(tx, 10)?;
            let inner = catch_unwind(AssertUnwindSafe(|| {
                tx.savepoint(|tx| {
                    insert(tx, 11)?;
                    resume_unwind(Box::new("boom"));
                    #[allow(unreachable_code)]
                    Ok(())
                })
            }));
            assert!(inner.is_err());
            insert(tx, 12)
        })
        .unwrap();
    assert_eq!(ids(&store), [10, 12]);
}

#[test]
fn nested_savepoints_are_kept_or_undone_independently() {
    for place in [0, 3] {
        let store = store_with_tables();
        let results = group_with(&store, place, |tx| {
            tx.savepoint(|tx| {
                insert(tx, 101)?;
                let second = tx.savepoint(|tx| {
                    insert(tx, 102)?;
                    tx.savepoint(|tx| insert(tx, 103))?;
                    Err::<(), _>(Error::app("undo the second and the third"))
                });
                assert!(second.is_err());
                tx.savepoint(|tx| tx.savepoint(|tx| insert(tx, 104)))
            })
        });
        for result in &results {
            assert!(matches!(result, Seen::Ok), "{result:?}");
        }
        assert!(ids(&store).ends_with(&[14, 100, 101, 104]), "{:?}", ids(&store));
    }
}

#[test]
fn savepoint_returns_its_closures_value() {
    let store = store_with_tables();
    let seven = store.write(|tx| tx.savepoint(|_| Ok(7))).unwrap();
    assert_eq!(seven, 7);
}

#[test]
fn savepoint_whose_transaction_ended_gives_rolled_back() {
    let store = store_with_tables();
    let result = store.write(|tx| {
        let inner = tx.savepoint(|tx| {
            let _ = tx.execute("INSERT INTO fatal VALUES (1)", []);
            Ok(())
        });
        assert!(matches!(inner, Err(Error::RolledBack { .. })), "{inner:?}");
        let next = tx.savepoint(|_| Ok(()));
        assert!(matches!(next, Err(Error::RolledBack { .. })), "{next:?}");
        Ok(())
    });
    assert!(matches!(result, Err(Error::RolledBack { .. })), "{result:?}");
    store.write(|tx| insert(tx, 10)).unwrap();
    assert_eq!(ids(&store), [10]);
}

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    /// One below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One statement of a job, or some in a savepoint that is kept or undone.
enum Step {
    Sql(String),
    Nested { sql: Vec<String>, keep: bool },
}

const KEYS: &str = "
    CREATE TABLE parent(id INTEGER PRIMARY KEY);
    CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE heir(id INTEGER PRIMARY KEY, parent REFERENCES parent(id) ON DELETE SET NULL ON UPDATE CASCADE
                      DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE ward(id INTEGER PRIMARY KEY, parent REFERENCES parent(id) ON DELETE CASCADE);
    CREATE TABLE node(id INTEGER PRIMARY KEY, up REFERENCES node(id) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO parent VALUES (1), (2);
    INSERT INTO child VALUES (1, 1), (2, 7), (3, 7), (4, 8);
    INSERT INTO heir VALUES (1, 2), (2, 7), (3, 8);
    INSERT INTO ward VALUES (1, 1), (2, 8);
    INSERT INTO node VALUES (1, 1), (2, 5), (3, 5), (4, 6);";

fn random_sql(numbers: &mut Numbers) -> String {
    let id = 1 + numbers.below(9);
    let key = match numbers.below(10) {
        0 => "NULL".to_owned(),
        _ => (1 + numbers.below(9)).to_string(),
    };
    let (table, column) = [
        ("child", "parent"),
        ("child", "parent"),
        ("heir", "parent"),
        ("ward", "parent"),
        ("node", "up"),
    ][numbers.below(5) as usize];
    match numbers.below(12) {
        0..=2 => format!("INSERT OR IGNORE INTO parent VALUES ({id})"),
        3 => format!("DELETE FROM parent WHERE id = {id}"),
        4 => format!("UPDATE OR IGNORE parent SET id = {key} WHERE id = {id}"),
        5 | 6 => format!("INSERT OR REPLACE INTO {table} VALUES ({id}, {key})"),
        7 | 8 => format!("DELETE FROM {table} WHERE id = {id}"),
        9 => format!("UPDATE {table} SET {column} = {key} WHERE id = {id}"),
        // Both signs in one statement.
        10 => format!("INSERT OR REPLACE INTO node VALUES ({id}, {key}), (5, 5)"),
        _ => format!("INSERT OR IGNORE INTO parent SELECT value FROM json_each('[{id}, {key}]') WHERE value NOT NULL"),
    }
}

fn random_job(numbers: &mut Numbers) -> Vec<Step> {
    let steps = 1 + numbers.below(4);
    let step = |_| {
        if numbers.below(5) > 0 {
            return Step::Sql(random_sql(numbers));
        }
        let sql = (0..=numbers.below(2)).map(|_| random_sql(numbers)).collect();
        let keep = numbers.below(2) == 0;
        Step::Nested { sql, keep }
    };
    (0..steps).map(step).collect()
}

fn run_in_store(tx: &WriteTx<'_>, job: &[Step]) -> Result<()> {
    for step in job {
        match step {
            Step::Sql(sql) => drop(tx.execute(sql, [])?),
            Step::Nested { sql, keep } => {
                let nested = tx.savepoint(|tx| {
                    for sql in sql {
                        tx.execute(sql, [])?;
                    }
                    if *keep { Ok(()) } else { Err(Error::app("no")) }
                });
                if *keep {
                    nested?;
                }
            }
        }
    }
    Ok(())
}

/// In a transaction of its own, on a connection of rusqlite's.
fn run_alone(conn: &mut Connection, job: &[Step]) -> larder::rusqlite::Result<()> {
    let mut tx = conn.transaction()?;
    for step in job {
        match step {
            Step::Sql(sql) => drop(tx.execute(sql, [])?),
            Step::Nested { sql, keep } => {
                let nested = tx.savepoint()?;
                let ran = sql.iter().try_for_each(|sql| nested.execute(sql, []).map(drop));
                if *keep {
                    ran?;
                    nested.commit()?;
                }
            }
        }
    }
    tx.commit()
}

fn all_rows(conn: &Connection) -> Vec<String> {
    let sql = "SELECT 'parent ' || id FROM parent UNION ALL SELECT 'child ' || id || ifnull(parent, '') FROM child
               UNION ALL SELECT 'heir ' || id || ifnull(parent, '') FROM heir
               UNION ALL SELECT 'ward ' || id || ifnull(parent, '') FROM ward
               UNION ALL SELECT 'node ' || id || ifnull(up, '') FROM node ORDER BY 1";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<larder::rusqlite::Result<_>>().unwrap()
}

/// SQLite counts what violates deferred keys, and COMMIT asks whether that is 0. It goes below 0 where a transaction has
/// violated one key and given a parent to rows that had none before it. Such a job was taken for sound, since the one
/// question that can be asked is whether the count is above 0; COMMIT then took its whole group with it, and with another
/// violation in the group, 0 in all, both were committed.
#[test]
fn deferred_keys_with_old_orphans_are_judged_separately() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 1..=40 {
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let open = |name: String| {
            let path = folder.path().join(name);
            let conn = Connection::open(&path).unwrap();
            conn.pragma_update(None, "journal_mode", "wal").unwrap();
            conn.pragma_update(None, "synchronous", 0).unwrap();
            conn.pragma_update(None, "foreign_keys", false).unwrap();
            conn.execute_batch(KEYS).unwrap();
            conn.pragma_update(None, "foreign_keys", true).unwrap();
            (path, conn)
        };
        let (path, _) = open(format!("store-{seed}"));
        let (_, mut alone) = open(format!("alone-{seed}"));
        let store = grouping().open(path).unwrap();
        for group in 0..12 {
            let gate = Gate::hold(&store);
            let mut expected = Vec::new();
            let mut told = Vec::new();
            for _ in 0..8 {
                let job = random_job(&mut numbers);
                expected.push(run_alone(&mut alone, &job).map_err(|error| error.to_string()));
                told.push(store.submit(move |tx| run_in_store(tx, &job)).unwrap());
            }
            gate.open();
            for (n, (told, expected)) in told.into_iter().zip(expected).enumerate() {
                let told = told.wait();
                assert_eq!(
                    told.is_ok(),
                    expected.is_ok(),
                    "seed {seed}, group {group}, job {n}: {told:?}, {expected:?}"
                );
            }
            let rows = store.read(|tx| Ok(all_rows(tx))).unwrap();
            assert_eq!(rows, all_rows(&alone), "seed {seed}, group {group}");
        }
        assert_eq!(store.close().unwrap().never_started, 0);
    }
}

#[test]
fn deferred_violations_by_earlier_job_are_judged() {
    let store = grouping().foreign_keys(true).open_temp().unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE plain(x)")).unwrap();
    // The version of the schema is 2 for a while, without a deferred key, and then 2 with one.
    let undone = store.write(|tx| {
        tx.execute_batch("CREATE TABLE other(x)")?;
        Err::<(), _>(Error::app("no"))
    });
    undone.unwrap_err();
    let gate = Gate::hold(&store);
    let made = store.submit(|tx| {
        tx.execute_batch(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(parent REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);",
        )
    });
    let violating = store.submit(|tx| tx.execute("INSERT INTO child VALUES (5)", []));
    let sound = store.submit(|tx| tx.execute("INSERT INTO parent VALUES (1)", []));
    gate.open();
    made.unwrap().wait().unwrap();
    assert_eq!(
        constraint_code(&violating.unwrap().wait().unwrap_err()),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY
    );
    sound.unwrap().wait().unwrap();
    // Orphans that somebody left who enforces no keys.
    let other = Connection::open(store.path()).unwrap();
    other.pragma_update(None, "foreign_keys", false).unwrap();
    other.execute_batch("INSERT INTO child VALUES (7), (7)").unwrap();
    let gate = Gate::hold(&store);
    let below = store.submit(|tx| {
        tx.execute("INSERT INTO child VALUES (8)", [])?;
        tx.execute("INSERT INTO parent VALUES (7)", [])
    });
    let violating = store.submit(|tx| tx.execute("INSERT INTO child VALUES (9)", []));
    let sound = store.submit(|tx| tx.execute("INSERT INTO parent VALUES (7)", []));
    gate.open();
    for job in [below, violating] {
        assert_eq!(
            constraint_code(&job.unwrap().wait().unwrap_err()),
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY
        );
    }
    sound.unwrap().wait().unwrap();
    let objects = store
        .write(|tx| tx.exists("SELECT 1 FROM temp.sqlite_schema", []))
        .unwrap();
    assert!(!objects);
    store.vacuum().run().unwrap();
    let violating = store.write(|tx| {
        tx.execute("INSERT INTO parent VALUES (20)", [])?;
        tx.execute("INSERT INTO child VALUES (9)", [])
    });
    assert_eq!(
        constraint_code(&violating.unwrap_err()),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY
    );
}

/// A count of deferred violations is told from a negative one by a table of larder's own. It went with the first write that
/// was rolled back, and every later write failed: "no such table".
#[test]
fn deferred_keys_are_judged_after_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let other = Connection::open(&path).unwrap();
    other.pragma_update(None, "foreign_keys", false).unwrap();
    other
        .execute_batch(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(parent REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO child VALUES (7), (7)",
        )
        .unwrap();
    drop(other);
    let store = Store::open(&path).unwrap();
    for _ in 0..3 {
        let violated = store.write(|tx| {
            tx.execute("INSERT INTO child VALUES (8)", [])?;
            tx.execute("INSERT INTO parent VALUES (7)", [])
        });
        assert_eq!(
            constraint_code(&violated.unwrap_err()),
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY
        );
        store
            .write(|tx| tx.execute("INSERT INTO parent VALUES (NULL)", []))
            .unwrap();
        store.write(|tx| tx.execute("DELETE FROM parent", [])).unwrap();
    }
}
