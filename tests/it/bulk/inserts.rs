//! Inserts: which rows are there, and what is reported.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use larder::{Constraint, Error, OnViolation, Options, Outcome, Store, WriteOptions};

use crate::support::child::{Child, PATIENCE, Task, listen, tell};
use crate::support::{RaiseOnDrop, count, log, until};

const INSERT: &str = "INSERT INTO t(id, text) VALUES (?1, ?2)";

fn make(store: &Store) {
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS beside(n INTEGER) STRICT",
            )
        })
        .unwrap();
}

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    make(&store);
    store
}

fn rows(from: i64, to: i64) -> impl Iterator<Item = (i64, String)> {
    (from..to).map(|id| (id, format!("row {id}")))
}

fn sum(store: &Store) -> i64 {
    store
        .read(|tx| tx.scalar("SELECT coalesce(sum(id), 0) FROM t", []))
        .unwrap()
}

/// In another process: inserts until it is killed.
pub(crate) fn child(task: &Task) {
    let store = Options::new().open(&task.args[0]).unwrap();
    make(&store);
    tell("open");
    let total: i64 = task.args[1].parse().unwrap();
    let mut job = store.bulk().resumable("import");
    if task.role == "race" {
        job = job.pause(Duration::from_micros(100)).slice(Duration::from_micros(100));
    }
    match job.insert(INSERT, rows(0, total)).run() {
        Ok(report) => tell(format!("done {}", report.resumed_from + report.rows)),
        Err(error) if task.role == "race" => tell(error),
        Err(error) => panic!("{error}"),
    }
    listen();
}

#[test]
fn all_rows_are_there_and_counted() {
    let store = store();
    let report = store.bulk().insert(INSERT, rows(0, 20_000)).run().unwrap();
    assert_eq!((report.rows, report.changed, report.skipped), (20_000, 20_000, 0));
    assert!(report.slices > 0 && report.bytes > 20_000 * 8, "{report:?}");
    assert_eq!(sum(&store), (0..20_000).sum::<i64>());
    assert!(report.to_string().starts_with("20000 rows in "), "{report}");
    assert!(store.stats().bulk.is_empty());
}

#[test]
fn no_rows_are_no_transaction() {
    let store = store();
    let before = store.stats().committed_writes;
    let report = store.bulk().insert(INSERT, rows(0, 0)).run().unwrap();
    assert_eq!((report.rows, report.slices), (0, 0));
    assert_eq!(store.stats().committed_writes, before);
}

#[test]
fn tuples_arrays_and_vectors_are_rows() {
    let store = store();
    let bulk = |sql: &str| (store.bulk(), sql.to_owned());
    let (job, sql) = bulk("INSERT INTO beside VALUES (?1)");
    job.insert(sql, [(1,), (2,)]).run().unwrap();
    let (job, sql) = bulk("INSERT INTO beside VALUES (?1 + ?2)");
    job.insert(sql, [[1, 2], [3, 4]]).run().unwrap();
    let (job, sql) = bulk("INSERT INTO beside VALUES (?1 + ?2 + ?3)");
    job.insert(sql, [vec![5, 5, 5]]).run().unwrap();
    let all: Vec<i64> = store
        .read(|tx| tx.scalars("SELECT n FROM beside ORDER BY rowid", []))
        .unwrap();
    assert_eq!(all, [1, 2, 3, 7, 15]);
}

#[test]
fn violation_fails_with_its_row_and_keeps_those_before() {
    let store = store();
    store.write(|tx| tx.execute(INSERT, (1234, "there"))).unwrap();
    let error = store.bulk().insert(INSERT, rows(0, 5000)).run().unwrap_err();
    let Error::Bulk { rows, row, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((*rows, *row), (1234, Some(1235)));
    assert_eq!(error.outcome(), Outcome::Partial);
    assert!(!error.is_retryable());
    assert!(
        matches!(
            error.constraint(),
            Some(Constraint::PrimaryKey { .. } | Constraint::Unique { .. })
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with("the bulk job stopped at row 1235 of its source with 1234 rows committed: UNIQUE"),
        "{text}"
    );
    assert_eq!(count(&store), 1235);
}

#[test]
fn skipped_violations_are_counted_and_named() {
    let store = store();
    store.write(|tx| tx.execute(INSERT, (7, "there"))).unwrap();
    let source = rows(0, 1000).map(|(id, text)| (id, (id % 5 != 0).then_some(text)));
    let report = store
        .bulk()
        .on_violation(OnViolation::Skip)
        .insert(INSERT, source)
        .run()
        .unwrap();
    assert_eq!((report.rows, report.skipped, report.changed), (1000, 201, 799));
    assert_eq!(report.violations.len(), 100);
    assert_eq!(report.violations[0].row, 1);
    assert!(report.violations[0].error.contains("NOT NULL"), "{report:?}");
    let seven = report.violations.iter().find(|violation| violation.row == 8).unwrap();
    assert!(seven.error.contains("UNIQUE"), "{seven:?}");
    assert_eq!(count(&store), 800);
}

#[test]
fn statement_that_is_wrong_changes_nothing() {
    let store = store();
    let error = store
        .bulk()
        .insert("INSERT INTO missing VALUES (?1)", [(1,)])
        .run()
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert!(error.to_string().contains("no such table: missing"), "{error}");
    let error = store.bulk().insert(INSERT, [(1, "a", 3)]).run().unwrap_err();
    assert!(error.to_string().contains("parameter"), "{error}");
    assert_eq!(count(&store), 0);
}

#[test]
fn panic_of_source_holds_no_transaction() {
    let store = store();
    let source = rows(0, 10_000).inspect(|(id, _)| assert!(*id < 9000, "the source is broken"));
    let ran = catch_unwind(AssertUnwindSafe(|| store.bulk().insert(INSERT, source).run()));
    assert!(ran.is_err());
    store
        .write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []))
        .unwrap();
    assert!(store.stats().bulk.is_empty());
    let there = count(&store);
    // Those before the panic.
    assert_eq!(there, 9000);
    assert_eq!(sum(&store), (0..there).sum::<i64>());
    assert!(store.close().unwrap().wal_truncated);
}

/// The source says nothing for as long as it likes, and other threads write.
#[test]
fn source_that_blocks_holds_no_transaction() {
    let store = store();
    let (sender, receiver) = sync_channel(0);
    thread::scope(|scope| {
        let job = scope.spawn(|| {
            store
                .bulk()
                .label("slow source")
                .insert(INSERT, receiver)
                .run()
                .unwrap()
        });
        for row in rows(0, 3000) {
            sender.send(row).unwrap();
        }
        // All are committed, also those that are no full batch. The job waits for more, and no closure runs.
        until(&store, |stats| {
            stats
                .bulk
                .iter()
                .any(|job| job.site == "slow source" && job.rows == 3000)
                && count(&store) == 3000
        });
        until(&store, |stats| stats.running_write.is_none());
        store
            .write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []))
            .unwrap();
        drop(sender);
        assert_eq!(job.join().unwrap().rows, 3000);
    });
}

#[test]
fn writes_beside_it_succeed_and_fail_by_themselves() {
    let store = store();
    let over = AtomicBool::new(false);
    let (written, ended) = (AtomicI64::new(0), AtomicI64::new(0));
    let (report, beside) = thread::scope(|scope| {
        let raised = RaiseOnDrop(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    // Another one may end the transaction that it joins.
                    let one = store.write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []));
                    written.fetch_add(i64::from(one.is_ok()), Relaxed);
                    let failed: Result<(), Error> = store.write(|tx| {
                        tx.execute("INSERT INTO beside VALUES (2)", [])?;
                        Err(Error::app("no"))
                    });
                    assert!(failed.is_err());
                    // SQLite ends the whole transaction, of the slice, too.
                    if count(&store) > 0 {
                        let twice = "INSERT OR ROLLBACK INTO t VALUES (0, 'twice')";
                        let failed = store.write(move |tx| tx.execute(twice, []));
                        assert!(failed.is_err(), "{failed:?}");
                        ended.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        // The threads may begin late: at least one write of each kind is made while rows are inserted.
        let (began, mut before) = (Instant::now(), None);
        let mut beside = [0, 0];
        let goes_on = |row: &(i64, String)| {
            let now = [written.load(Relaxed), ended.load(Relaxed)];
            let before = *before.get_or_insert(now);
            beside = [now[0] - before[0], now[1] - before[1]];
            row.0 < 50_000 || beside.contains(&0) && began.elapsed() < PATIENCE
        };
        let report = store
            .bulk()
            .insert(INSERT, rows(0, i64::MAX).take_while(goes_on))
            .run()
            .unwrap();
        drop(raised);
        (report, beside)
    });
    assert!(report.rows >= 50_000, "{report:?}");
    assert_eq!(count(&store), report.rows.cast_signed());
    assert_eq!(sum(&store), (0..report.rows.cast_signed()).sum::<i64>());
    assert!(!beside.contains(&0), "{beside:?}");
    let beside: (i64, i64) = store
        .read(|tx| tx.one("SELECT count(*), max(n) FROM beside", []))
        .unwrap();
    assert_eq!(beside, (written.into_inner(), 1));
}

#[test]
fn cancelled_job_keeps_what_it_has_committed() {
    let store = store();
    let report = store
        .bulk()
        .progress(|progress| {
            assert!(progress.eta.is_none());
            if progress.rows > 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .insert(INSERT, (0..).map(|id| (id, "endless")))
        .run()
        .unwrap();
    assert!(report.cancelled && report.rows > 0, "{report:?}");
    assert_eq!(count(&store), report.rows as i64);
    assert_eq!(sum(&store), (0..report.rows as i64).sum::<i64>());
}

#[test]
fn resumable_job_goes_on_behind_its_rows() {
    let store = store();
    let run = |to| store.bulk().resumable("import").insert(INSERT, rows(0, to)).run();
    let report = run(3000).unwrap();
    assert_eq!((report.resumed_from, report.rows), (0, 3000));
    // It is done; then the source has grown.
    let report = run(3000).unwrap();
    assert_eq!((report.resumed_from, report.rows), (3000, 0));
    // It fails before it has committed a row: that is no partial outcome.
    let broken = rows(0, 3000).chain([(0, "twice".to_owned())]);
    let failed = store
        .bulk()
        .resumable("import")
        .insert(INSERT, broken)
        .run()
        .unwrap_err();
    let text = failed.to_string();
    assert!(
        text.starts_with(
            "the bulk job stopped at row 3001 of its source with 0 rows committed, after 3000 of earlier runs: "
        ),
        "{text}"
    );
    assert_eq!(failed.outcome(), Outcome::RolledBack);
    let report = run(4000).unwrap();
    assert_eq!((report.resumed_from, report.rows), (3000, 1000));
    assert_eq!(
        report.to_string().split(" (").next(),
        Some("1000 rows in 1 transactions, after 3000 of earlier runs")
    );
    assert_eq!(sum(&store), (0..4000).sum::<i64>());
    // Another statement is another job.
    let other = "INSERT OR IGNORE INTO t(id, text) VALUES (?1, ?2)";
    let error = store
        .bulk()
        .resumable("import")
        .insert(other, rows(0, 1))
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("Bulk::forget"), "{error}");
    assert_eq!(store.bulk().forget("import").unwrap(), Some(4000));
    assert_eq!(store.bulk().forget("import").unwrap(), None);
    let report = store
        .bulk()
        .resumable("import")
        .insert(other, rows(0, 10))
        .run()
        .unwrap();
    assert_eq!((report.resumed_from, report.rows, report.changed), (0, 10, 0));
}

#[test]
fn job_of_a_name_that_runs_is_refused() {
    let store = store();
    let (sender, receiver) = sync_channel::<(i64, String)>(0);
    thread::scope(|scope| {
        let first = scope.spawn(|| store.bulk().resumable("import").insert(INSERT, receiver).run());
        sender.send((1, "a".into())).unwrap();
        let error = store
            .bulk()
            .resumable("import")
            .insert(INSERT, rows(0, 1))
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("running already"), "{error}");
        let report = store
            .bulk()
            .resumable("other")
            .insert(INSERT, rows(10, 11))
            .run()
            .unwrap();
        assert_eq!(report.rows, 1);
        drop(sender);
        assert_eq!(first.join().unwrap().unwrap().rows, 1);
    });
}

#[test]
fn closing_ends_it_at_a_slice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    make(&store);
    let load = |store: Store, to| {
        let rows = (0..to).map(|id| (id, "many"));
        store.bulk().resumable("load").insert(INSERT, rows).run()
    };
    let again = store.clone();
    let job = thread::spawn(move || load(again, i64::MAX));
    until(&store, |stats| stats.bulk.iter().any(|job| job.rows > 0));
    store.close().unwrap();
    let error = job.join().unwrap().unwrap_err();
    let Error::Bulk {
        rows,
        row: None,
        source,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(*rows > 0 && matches!(**source, Error::Closed), "{error}");
    // It goes on behind that slice.
    let total = *rows as i64 + 1000;
    let store = Store::open(&path).unwrap();
    let report = load(store.clone(), total).unwrap();
    assert_eq!((report.resumed_from, report.rows), (*rows, 1000));
    assert_eq!((count(&store), sum(&store)), (total, (0..total).sum()));
}

#[test]
fn slices_are_no_slow_writes() {
    log::collect();
    let store = Options::new().slow_write_threshold(Duration::ZERO).open_temp().unwrap();
    make(&store);
    let before = store.stats().slow_writes;
    assert!(before > 0, "each other write is slow");
    store.bulk().insert(INSERT, rows(0, 5000)).run().unwrap();
    let stats = store.stats();
    assert_eq!((stats.slow_writes, stats.bulk_rows), (before, 5000));
    // Events come in the order of the writes, and may come after the replies.
    let last = WriteOptions::new().label("after the slices");
    store.write_with(last, |_| Ok(())).unwrap();
    log::wait_for(|event| event.field("site") == Some("after the slices"));
    let path = store.path().to_str().unwrap();
    let of_slice = |event: &log::Event| event.mentions(path) && event.mentions("bulk/inserts.rs");
    let told = log::events(|event| event.message.contains("slow") && of_slice(event));
    assert_eq!(told.len() as u64, before, "{told:?}");
}

/// The time left is by the rows that are left and the rate so far.
#[test]
fn progress_has_the_rate_and_the_time_left() {
    const ROWS: i64 = 50_000_000;
    let store = store();
    let seen = Arc::new(Mutex::new(None));
    let sees = Arc::clone(&seen);
    let job = store.bulk().progress(move |progress| {
        if progress.rows == 0 || progress.eta.is_none() {
            return ControlFlow::Continue(());
        }
        *sees.lock().unwrap() = Some(*progress);
        ControlFlow::Break(())
    });
    let report = job.insert(INSERT, (0..ROWS).map(|id| (id, "x"))).run().unwrap();
    assert!(report.cancelled);
    let progress = seen.lock().unwrap().unwrap();
    let rate = progress.rows as f64 / progress.elapsed.as_secs_f64();
    assert!((progress.rows_per_second / rate - 1.0).abs() < 1e-6, "{progress:?}");
    let whole = progress.rows as f64 + progress.eta.unwrap().as_secs_f64() * rate;
    // Some rows are in memory and not counted as written yet.
    assert!((whole / ROWS as f64 - 1.0).abs() < 0.01, "{whole}, {progress:?}");
    assert_eq!(progress.bytes, 9 * progress.rows);
}

#[test]
fn job_inside_a_write_is_refused() {
    let store = store();
    let again = store.clone();
    let error = store
        .write(move |_| again.bulk().insert(INSERT, rows(0, 1)).run().map(drop))
        .unwrap_err();
    assert!(matches!(error, Error::Reentrant { call: "Bulk::run", .. }), "{error}");
}

#[test]
fn killed_job_goes_on_and_writes_each_row_once() {
    const TOTAL: i64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let start = || {
        let child = Child::start("bulk::inserts", "insert", &[path.to_str().unwrap(), &TOTAL.to_string()]);
        child.expect("open");
        child
    };
    let written = |path: &Path| {
        let conn = larder::rusqlite::Connection::open(path).unwrap();
        conn.query_row("SELECT count(*), coalesce(sum(id), 0) FROM t", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .unwrap()
    };
    let mut kills = 0;
    for at in [1, 5000, 20_000, 40_000] {
        let child = start();
        let began = std::time::Instant::now();
        while written(&path).0 < at && began.elapsed() < PATIENCE {
            thread::yield_now();
        }
        child.kill();
        kills += 1;
        let (rows, sum) = written(&path);
        assert_eq!(sum, (0..rows).sum::<i64>(), "after {kills} kills");
    }
    let child = start();
    child.expect(&format!("done {TOTAL}"));
    child.finish();
    assert_eq!(written(&path), (TOTAL, (0..TOTAL).sum()));
}

/// Two processes run one job at the same time. One of them may be stopped; no row is there twice.
#[test]
fn job_that_two_processes_run_writes_each_row_once() {
    const TOTAL: i64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    make(&store);
    let args = [path.to_str().unwrap(), &TOTAL.to_string()];
    let children = [(); 2].map(|()| Child::start("bulk::inserts", "race", &args));
    children.iter().for_each(|child| child.expect("open"));
    let mut done = 0;
    for child in children {
        let line = child.line();
        let is_done = line == format!("done {TOTAL}");
        assert!(is_done || line.contains("another process runs it"), "{line}");
        done += u32::from(is_done);
        child.finish();
    }
    let job = store.bulk().resumable("import").insert(INSERT, rows(0, TOTAL));
    let report = job.run().unwrap();
    assert!(done > 0 && report.rows == 0, "{done}: {report}");
    assert_eq!((count(&store), sum(&store)), (TOTAL, (0..TOTAL).sum()));
}

#[test]
fn value_of_a_wrong_type_is_named_or_skipped() {
    let store = store();
    let values = |n: i64| -> larder::rusqlite::types::Value {
        if n == 700 {
            "seven hundred".to_owned().into()
        } else {
            n.into()
        }
    };
    let source = || (0..1000).map(move |n| (values(n), "a"));
    let error = store.bulk().insert(INSERT, source()).run().unwrap_err();
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
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    let skip = store.bulk().on_violation(OnViolation::Skip);
    let report = skip.insert(INSERT, source()).run().unwrap();
    assert_eq!((report.rows, report.skipped), (1000, 1));
    assert_eq!(count(&store), 999);
}

#[test]
fn job_that_another_process_runs_too_is_stopped() {
    let store = store();
    let (sender, receiver) = sync_channel(0);
    thread::scope(|scope| {
        let job = scope.spawn(|| store.bulk().resumable("import").insert(INSERT, receiver).run());
        let mut ids = 0..;
        let mut send = |rows: usize| ids.by_ref().take(rows).all(|id| sender.send((id, "a")).is_ok());
        assert!(send(1000));
        until(&store, |_| count(&store) > 0);
        let error = store.bulk().forget("import").unwrap_err();
        assert!(error.to_string().contains("running"), "{error}");
        // As the other process would leave it.
        let moved = "UPDATE larder_bulk SET rows = rows + 1";
        store.write(move |tx| tx.execute(moved, [])).unwrap();
        send(3000);
        drop(sender);
        let error = job.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("another process runs it"), "{error}");
    });
}
