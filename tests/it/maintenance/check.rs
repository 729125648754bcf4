//! `Store::check`: the report lists the damage, and the store keeps working.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{CheckProgress, CheckReport, CheckStage, Error, Options, Outcome, Stats, Store};
use tempfile::{TempDir, tempdir};

use crate::support::{count, until, young};

const PAGE: u64 = 4096;

/// Runs for hours.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// Many times as many steps as between two looks at the clock.
const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL, data BLOB NOT NULL);
    CREATE INDEX names ON t(name);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
    INSERT INTO t SELECT i, 'name ' || i, randomblob(100) FROM n;";

/// A database made by SQLite alone, with foreign keys off.
fn made_by(sql: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    conn.execute_batch(sql).unwrap();
    conn.close().unwrap();
    (folder, path)
}

fn filled(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    store.write(|tx| tx.execute_batch(FILL)).unwrap();
    store
}

fn check_of(path: &Path, full: bool) -> larder::Result<CheckReport> {
    let store = Store::open(path)?;
    let check = store.check();
    let report = if full { check.full() } else { check }.run();
    store.close()?;
    report
}

/// A callback that says what it is told, and goes on.
fn telling(to: Sender<CheckProgress>) -> impl FnMut(&CheckProgress) -> ControlFlow<()> + Send + 'static {
    move |progress| {
        to.send(*progress).unwrap();
        Continue(())
    }
}

#[test]
fn sound_database_is_ok() {
    let store = filled(Options::new());
    let quick = store.check().run().unwrap();
    assert!(quick.is_ok() && !quick.full, "{quick:?}");
    assert_eq!(quick.tables, 1);
    assert!(quick.duration > Duration::ZERO);
    assert!(
        quick.to_string().starts_with("quick check of 1 tables: ok ("),
        "{quick}"
    );
    let full = store.check().full().run().unwrap();
    assert!(full.is_ok() && full.full, "{full:?}");
    assert!(full.to_string().starts_with("full check of 1 tables: ok ("), "{full}");
}

/// Some of them have checks of their own, which a connection that may not write must be able to run.
#[test]
fn sound_database_with_every_table_kind_is_ok() {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
                 CREATE VIRTUAL TABLE four USING fts4(text); INSERT INTO four VALUES ('one two'), ('three');
                 CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 2, 3);
                 CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT, n TEXT COLLATE NOCASE,
                     twice TEXT AS (n || n) STORED, CHECK (n <> '')) STRICT;
                 CREATE INDEX some ON s(twice) WHERE n > 'b'; CREATE INDEX by ON s(lower(n));
                 INSERT INTO s(n) VALUES ('a'), ('b'), ('c');
                 CREATE TABLE w(k TEXT PRIMARY KEY, s INT REFERENCES s) WITHOUT ROWID;
                 INSERT INTO w VALUES ('x', 1);
                 CREATE VIEW v AS SELECT * FROM s; CREATE TRIGGER t AFTER DELETE ON s BEGIN DELETE FROM w; END;
                 ANALYZE",
            )
        })
        .unwrap();
    for check in [store.check(), store.check().full()] {
        let report = check.run().unwrap();
        assert!(report.is_ok(), "{report:?}");
    }
    store.vacuum().run().unwrap();
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report:?}");
}

#[test]
fn full_text_index_that_differs_is_found() {
    let (_folder, path) = made_by(
        "CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
         UPDATE five_content SET c0 = 'four' WHERE id = 2",
    );
    let report = check_of(&path, true).unwrap();
    assert!(!report.is_damaged() && !report.is_ok(), "{report:?}");
    assert!(report.findings[0].contains("five"), "{report:?}");
}

// ---- damage ----

/// The pages of a database, each overwritten by itself at that place: what the check of it says.
fn with_each_page_overwritten(at: u64, length: usize) -> Vec<larder::Result<CheckReport>> {
    let (folder, path) = made_by(FILL);
    let pages = fs::metadata(&path).unwrap().len() / PAGE;
    assert!(pages > 50);
    let damaged = |page: u64| {
        let copy = folder.path().join(format!("damaged-{page}.db"));
        fs::copy(&path, &copy).unwrap();
        let file = OpenOptions::new().write(true).open(&copy).unwrap();
        file.write_all_at(&vec![0xff; length], page * PAGE + at).unwrap();
        drop(file);
        check_of(&copy, true)
    };
    (0..pages).step_by(3).map(damaged).collect()
}

#[test]
fn overwritten_page_header_is_found() {
    let mut found = with_each_page_overwritten(0, 32).into_iter();
    // The first page is the header of the file.
    let error = found.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("not an SQLite database"), "{error}");
    for report in found {
        let report = report.unwrap();
        assert!(!report.problems.is_empty(), "{report:?}");
        assert!(report.problems.len() <= 100, "{report:?}");
        let line = report.to_string();
        assert!(line.contains(" problems, the first: "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn overwritten_page_body_gives_report_or_clear_error() {
    let mut damaged = 0;
    for report in with_each_page_overwritten(PAGE / 2, 300) {
        match report {
            // Some of it is only data, and as good as any other.
            Ok(report) => damaged += usize::from(!report.is_ok()),
            Err(error) => assert!(error.to_string().contains("backup"), "{error}"),
        }
    }
    assert!(damaged > 10, "{damaged}");
}

#[test]
fn truncated_file_is_found() {
    let (_folder, path) = made_by(FILL);
    let length = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / PAGE / 2 * PAGE).unwrap();
    drop(file);
    match check_of(&path, false) {
        Ok(report) => assert!(!report.problems.is_empty(), "{report:?}"),
        Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
    }
}

#[test]
fn unreadable_schema_is_found_or_fails_open() {
    let (_folder, path) = made_by(&format!(
        "{FILL} PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE TABEL t(id)' WHERE name = 't'"
    ));
    match check_of(&path, false) {
        Ok(report) => assert!(report.problems[0].contains("malformed"), "{report:?}"),
        Err(error) => assert!(error.to_string().contains("malformed"), "{error}"),
    }
}

/// A database with an index that does not know of that change of its table.
fn changed_behind_the_index(change: &str) -> (TempDir, PathBuf) {
    let (folder, path) = made_by(FILL);
    // A connection has read the schema before it is changed.
    let by_new_connection = |sql: &str| {
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA writable_schema = ON").unwrap();
        conn.execute_batch(sql).unwrap();
        conn.close().unwrap();
    };
    by_new_connection(
        "CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'names';
         DELETE FROM sqlite_schema WHERE name = 'names'",
    );
    by_new_connection(change);
    by_new_connection("INSERT INTO sqlite_schema SELECT * FROM kept; DROP TABLE kept");
    (folder, path)
}

#[track_caller]
fn assert_missing(report: &CheckReport, row: u32) {
    let problem = format!("row {row} missing from index names");
    assert!(report.problems.contains(&problem), "{report:?}");
    assert!(!report.is_ok());
}

#[test]
fn index_with_missing_rows_is_found() {
    let change = "INSERT INTO t VALUES (2001, 'lost', zeroblob(1)), (2002, 'lost, too', zeroblob(1))";
    let (_folder, path) = changed_behind_the_index(change);
    assert_eq!(
        check_of(&path, false).unwrap().problems,
        ["wrong # of entries in index names"]
    );
    let full = check_of(&path, true).unwrap();
    assert_missing(&full, 2001);
    assert_missing(&full, 2002);
}

#[test]
fn wrong_index_entry_needs_the_full_check() {
    let (_folder, path) = changed_behind_the_index("UPDATE t SET name = 'another' WHERE id = 7");
    let quick = check_of(&path, false).unwrap();
    assert!(quick.is_ok(), "{quick}");
    assert_missing(&check_of(&path, true).unwrap(), 7);
}

// ---- foreign keys ----

const FAMILY: &str = "CREATE TABLE parent(id INTEGER PRIMARY KEY, a INT, b INT, UNIQUE (a, b));
    CREATE TABLE \"a \"\"child\"\"\"(id INTEGER PRIMARY KEY, parent INT REFERENCES parent(id));
    CREATE TABLE pair(x INT, y INT, k TEXT PRIMARY KEY, FOREIGN KEY (x, y) REFERENCES parent(a, b)) WITHOUT ROWID;
    INSERT INTO parent VALUES (1, 10, 20);
    INSERT INTO \"a \"\"child\"\"\" VALUES (1, 1), (2, NULL), (7, 99);
    INSERT INTO pair VALUES (10, 20, 'good'), (10, 21, 'bad');";

#[test]
fn dangling_rows_are_reported_with_their_columns() {
    let (_folder, path) = made_by(FAMILY);
    let report = check_of(&path, false).unwrap();
    assert!(!report.is_ok() && report.problems.is_empty(), "{report:?}");
    assert_eq!((report.tables, report.total_foreign_key_violations), (3, 2));
    let [child, pair] = &report.foreign_key_violations[..] else {
        panic!("{report:?}")
    };
    assert_eq!((child.table.as_str(), child.rowid), ("a \"child\"", Some(7)));
    assert_eq!(
        (&child.columns[..], child.parent.as_str()),
        (&["parent".to_owned()][..], "parent")
    );
    assert_eq!((pair.table.as_str(), pair.rowid), ("pair", None));
    assert_eq!(pair.columns, ["x", "y"]);
    assert_eq!(pair.to_string(), "pair (x, y) -> parent");
    let line = report.to_string();
    assert!(
        line.contains("2 foreign keys without a parent row, the first: a \"child\" row 7 (parent) -> parent ("),
        "{line}"
    );
}

#[test]
fn violations_are_listed_to_a_hundred_and_counted() {
    let (_folder, path) = made_by(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY);
         CREATE TABLE child(id INTEGER PRIMARY KEY, parent INT REFERENCES parent);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1234)
         INSERT INTO child SELECT i, i FROM n;",
    );
    let report = check_of(&path, false).unwrap();
    assert_eq!(report.total_foreign_key_violations, 1234);
    assert_eq!(report.foreign_key_violations.len(), 100);
}

#[test]
fn uncheckable_foreign_keys_are_reported_as_a_finding() {
    let (_folder, path) = made_by(&format!(
        "{FAMILY} CREATE TABLE b(n INT); CREATE TABLE bad(n INT REFERENCES b(n)); INSERT INTO bad VALUES (1);
         CREATE TABLE orphan(n INT REFERENCES nobody(n)); INSERT INTO orphan VALUES (1)"
    ));
    let report = check_of(&path, false).unwrap();
    let [finding] = &report.findings[..] else {
        panic!("{report:?}")
    };
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(
        finding,
        "the foreign keys of bad cannot be checked: foreign key mismatch - \"bad\" referencing \"b\""
    );
    assert_eq!(report.total_foreign_key_violations, 3, "{report:?}");
    assert!(report.to_string().contains("1 findings, the first: "), "{report}");
}

#[test]
fn foreign_keys_are_checked_even_if_not_enforced() {
    let store = Options::new().foreign_keys(false).open_temp().unwrap();
    store.write(|tx| tx.execute_batch(FAMILY)).unwrap();
    assert_eq!(store.check().run().unwrap().total_foreign_key_violations, 2);
}

// ---- progress ----

#[test]
fn progress_reports_stages_in_order_and_finished_tables() {
    let store = filled(Options::new().foreign_keys(false));
    store.write(|tx| tx.execute_batch(FAMILY)).unwrap();
    let (tell, told) = channel();
    let here = thread::current().id();
    let mut telling = telling(tell);
    store
        .check()
        .progress(Duration::ZERO, move |progress| {
            assert_eq!(thread::current().id(), here);
            telling(progress)
        })
        .run()
        .unwrap();
    let told: Vec<_> = told.iter().collect();
    let mut stages: Vec<_> = told.iter().map(|progress| progress.stage).collect();
    stages.dedup();
    let keys = |done| CheckStage::ForeignKeys {
        tables_done: done,
        tables_total: 2,
    };
    assert_eq!(stages, [CheckStage::Integrity, keys(0), keys(1)]);
    assert!(told.is_sorted_by_key(|progress| progress.elapsed), "{told:?}");
}

#[test]
fn progress_keeps_its_interval() {
    let store = filled(Options::new());
    let (tell, told) = channel();
    let hour = Duration::from_secs(3600);
    assert!(store.check().progress(hour, telling(tell)).run().unwrap().is_ok());
    assert_eq!(told.iter().count(), 0);
}

#[track_caller]
fn assert_cancelled(error: &Error) {
    assert!(matches!(error, Error::Cancelled { work: "check", .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::RolledBack, false));
    assert!(
        error.to_string().contains("cancelled by its progress callback"),
        "{error}"
    );
}

/// A check that is cancelled at that stage, and how often its callback was called after it.
#[track_caller]
fn cancelled_at(store: &Store, wanted: impl Fn(CheckStage) -> bool + Send + 'static) -> usize {
    let after = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&after);
    let mut cancelled = false;
    let error = store
        .check()
        .full()
        .progress(Duration::ZERO, move |progress| {
            seen.fetch_add(usize::from(cancelled), Ordering::Relaxed);
            cancelled |= wanted(progress.stage);
            if cancelled { Break(()) } else { Continue(()) }
        })
        .run()
        .unwrap_err();
    assert_cancelled(&error);
    after.load(Ordering::Relaxed)
}

#[test]
fn check_can_be_cancelled_at_each_stage() {
    let store = filled(Options::new().readers(1).foreign_keys(false));
    store.write(|tx| tx.execute_batch(FAMILY)).unwrap();
    assert_eq!(cancelled_at(&store, |stage| stage == CheckStage::Integrity), 0);
    for done in [0, 1] {
        let wanted = CheckStage::ForeignKeys {
            tables_done: done,
            tables_total: 2,
        };
        assert_eq!(cancelled_at(&store, move |stage| stage == wanted), 0);
    }
    assert_eq!(count(&store), 2000);
    assert_eq!(store.stats().readers.open, 1);
    assert_eq!(store.check().full().run().unwrap().problems, [""; 0]);
}

/// Panics with that, without a message.
fn panicking(_: &CheckProgress) -> ControlFlow<()> {
    resume_unwind(Box::new("the callback's"))
}

#[test]
fn panic_of_check_callback_reaches_the_caller() {
    let store = filled(
        Options::new()
            .readers(1)
            .interrupt_old_readers(true)
            .max_reader_age(Duration::from_millis(50)),
    );
    let check = || store.check().progress(Duration::ZERO, panicking).run();
    let panic = catch_unwind(AssertUnwindSafe(check)).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "the callback's");
    assert_eq!(store.stats().readers.in_use, 0);
    let endless = store.read(|tx| tx.query_row(ENDLESS, [], |row| row.get::<_, i64>(0)));
    assert!(endless.is_err(), "nobody has stopped it");
    let rows = || store.read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
    assert_eq!(young(rows), 2000);
    assert_eq!(store.stats().readers.open, 1);
}

#[test]
fn reader_age_limit_works_again_after_check() {
    let store = filled(
        Options::new()
            .readers(1)
            .interrupt_old_readers(true)
            .max_reader_age(Duration::from_millis(50)),
    );
    let go_on = |_: &CheckProgress| Continue(());
    assert!(store.check().progress(Duration::ZERO, go_on).run().unwrap().is_ok());
    let endless = store.read(|tx| tx.query_row(ENDLESS, [], |row| row.get::<_, i64>(0)));
    assert!(endless.is_err(), "nobody has stopped it");
}

#[test]
fn check_is_exempt_from_reader_age_limit() {
    let age = Duration::from_millis(20);
    let store = filled(Options::new().interrupt_old_readers(true).max_reader_age(age));
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, of_callback) = (Arc::clone(&calls), store.clone());
    let report = store
        .check()
        .full()
        .progress(Duration::ZERO, move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                let is_old = |stats: &Stats| {
                    stats
                        .readers
                        .oldest_read
                        .as_ref()
                        .is_some_and(|read| read.age > age * 2)
                };
                until(&of_callback, is_old);
            }
            Continue(())
        })
        .run()
        .unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(calls.load(Ordering::Relaxed) > 1);
}

// ---- beside others ----

#[test]
fn writes_continue_during_a_check() {
    let store = filled(Options::new());
    let writes = Arc::new(AtomicUsize::new(0));
    let (of_callback, written) = (store.clone(), Arc::clone(&writes));
    let report = store
        .check()
        .full()
        .progress(Duration::ZERO, move |_| {
            let sql = "INSERT INTO t(name, data) VALUES ('meanwhile', zeroblob(50))";
            of_callback.write(move |tx| tx.insert(sql, [])).unwrap();
            written.fetch_add(1, Ordering::Relaxed);
            Continue(())
        })
        .run()
        .unwrap();
    assert!(report.is_ok(), "{report}");
    let writes = writes.load(Ordering::Relaxed);
    assert!(writes > 5, "{writes}");
    assert_eq!(count(&store), 2000 + writes as i64);
    assert!(store.check().full().run().unwrap().is_ok());
}

#[test]
fn simultaneous_checks_are_named_in_statistics() {
    let store = filled(Options::new().readers(2));
    let seen = Arc::new(Mutex::new(None));
    let (of_callback, inner) = (store.clone(), Arc::clone(&seen));
    let report = store
        .check()
        .progress(Duration::ZERO, move |_| {
            if inner.lock().unwrap().is_none() {
                let oldest = of_callback.stats().readers.oldest_read.unwrap();
                let second = of_callback.check().full().run().unwrap();
                *inner.lock().unwrap() = Some((oldest.site, second));
            }
            Continue(())
        })
        .run()
        .unwrap();
    let (site, second) = seen.lock().unwrap().take().expect("it was called");
    assert!(report.is_ok() && second.is_ok());
    assert_eq!(site, "larder: check");
}

#[test]
fn check_that_waits_for_its_thread_is_reentrant() {
    let store = filled(Options::new().readers(1));
    let error = store.read(|_| store.check().run()).unwrap_err();
    assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
}

#[test]
fn check_inside_a_write_sees_committed_data() {
    let store = filled(Options::new());
    let inside = store.clone();
    let report = store
        .write(move |tx| {
            tx.execute_batch("DELETE FROM t; CREATE TABLE u(n INT)")?;
            inside.check().full().run()
        })
        .unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.tables, 1);
}

#[test]
fn check_of_closed_store_fails_as_closed() {
    let store = filled(Options::new());
    store.close().unwrap();
    assert!(matches!(store.check().run(), Err(Error::Closed)));
}
