//! Retention: which rows go, which stay, and what is reported of those that cannot go.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::rusqlite::Connection;
use larder::{Alert, AlertKind, Error, Options, RetainOptions, Retention, RetentionStats, Role, Stats, Store};

use crate::support::child::{Child, Task, listen, tell};
use crate::support::{RaiseOnDrop, blocker, count, serious, until};

const HOUR: Duration = Duration::from_secs(3600);

/// The table is looked at ten times a second.
const SECOND: Duration = Duration::from_secs(1);

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, at, pad TEXT); CREATE INDEX t_by_at ON t(at)";

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

fn store(schema: &str) -> Store {
    let store = Store::open_temp().unwrap();
    run(&store, schema);
    store
}

fn run(store: &Store, sql: &str) {
    let sql = sql.to_owned();
    store.write(move |tx| tx.execute_batch(&sql)).unwrap();
}

/// Inserts so many rows whose time is that SQL.
fn fill(store: &Store, rows: i64, at: &str) {
    run(
        store,
        &format!(
            "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {rows})
             INSERT INTO t(at, pad) SELECT {at}, printf('%.100d', i) FROM i"
        ),
    );
}

/// For tables with times of an hour ago: no pause between the minutes.
fn often() -> RetainOptions {
    RetainOptions::new().rows_per_minute(10_000_000)
}

fn count_of(store: &Store, table: &str) -> u64 {
    let count = format!("SELECT count(*) FROM {table}");
    let count: i64 = store.read(|tx| tx.scalar(&count, [])).unwrap();
    count.unsigned_abs()
}

fn swept(stats: &Stats) -> bool {
    stats
        .retention
        .first()
        .is_some_and(|retention| retention.last_sweep_ago.is_some())
}

fn failed(stats: &Stats) -> Option<&RetentionStats> {
    let retention = stats.retention.first()?;
    retention.last_error.is_some().then_some(retention)
}

fn refused(retention: Result<Retention, Error>) -> String {
    match retention {
        Err(Error::Options {
            option: "retain",
            problem,
        }) => problem,
        other => panic!("{other:?}"),
    }
}

/// In another process: deletes old rows until it is killed.
pub(crate) fn child(task: &Task) {
    let store = Options::new().retain("t", "at", HOUR).open(&task.args[0]).unwrap();
    until(&store, |stats| stats.retention[0].rows > 0);
    tell("deleting");
    listen();
    drop(store);
}

#[test]
fn old_rows_go_and_newer_ones_stay() {
    let store = store(TABLE);
    fill(&store, 5000, &format!("{} - i", now() - 3700));
    fill(&store, 1000, &format!("{} - i", now() - 1000));
    fill(&store, 10, "NULL");
    let retention = store.retain("T", "At", HOUR).unwrap();
    let stats = until(&store, swept);
    assert_eq!(count(&store), 1010);
    assert_eq!(stats.retention[0].rows, 5000);
    assert_eq!(
        (stats.retention[0].last_error.as_deref(), stats.bulk_rows),
        (None, 5000)
    );
    assert!(
        stats.retention[0]
            .next_in
            .is_none_or(|next| next <= Duration::from_secs(60))
    );
    drop(retention);
    let stats = store.stats();
    assert!(stats.retention.is_empty());
    // The counter does not fall.
    assert_eq!(stats.retention_rows, 5000);
    // The column is free again.
    let _again = store.retain("t", "at", HOUR).unwrap();
}

#[test]
fn each_form_of_time_is_understood() {
    let text = |format: &str, ago: &str| format!("strftime('{format}', 'now', '-{ago}')");
    for (format, old, new) in [
        ("%Y-%m-%dT%H:%M:%fZ", "90 minutes", "30 minutes"),
        ("%Y-%m-%dT%H:%M:%SZ", "90 minutes", "30 minutes"),
        ("%Y-%m-%d %H:%M:%S", "90 minutes", "30 minutes"),
        ("%Y-%m-%d", "2 days", "30 minutes"),
    ] {
        let store = store(TABLE);
        fill(&store, 300, &text(format, old));
        fill(&store, 100, &text(format, new));
        let _retention = store.retain("t", "at", HOUR).unwrap();
        until(&store, swept);
        assert_eq!(count(&store), 100, "{format}");
    }
    let store = store(TABLE);
    fill(&store, 300, &format!("{} - i", (now() - 3700) * 1000));
    fill(&store, 100, &format!("{} - i", (now() - 3500) * 1000));
    let milliseconds = RetainOptions::new().milliseconds(true);
    let _retention = store.retain_with(milliseconds, "t", "at", HOUR).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 100);
}

#[test]
fn primary_key_needs_no_index() {
    let store = store("CREATE TABLE t(at INTEGER PRIMARY KEY, pad TEXT) STRICT");
    fill(&store, 3000, &format!("{} - i", now() - 3700));
    fill(&store, 1000, &format!("{} - i", now() - 1000));
    let _retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 1000);
}

#[test]
fn rows_go_beside_writes_without_a_pause() {
    let store = store(TABLE);
    run(&store, "CREATE TABLE beside(n INTEGER) STRICT");
    fill(&store, 5000, &format!("{} - i", now() - 3700));
    let (is_over, written) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        let raise = RaiseOnDrop(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    store
                        .write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []))
                        .unwrap();
                    written.fetch_add(1, Relaxed);
                }
            });
        }
        let _retention = store.retain("t", "at", HOUR).unwrap();
        until(&store, swept);
        drop(raise);
    });
    assert_eq!(count(&store), 0);
    let beside: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM beside", [])).unwrap();
    assert_eq!(beside, written.load(Relaxed));
}

/// A slice of 5 ms, and a pause of 40 times as long.
#[test]
fn share_of_the_writers_time_is_bounded_beside_writes() {
    let store = store(TABLE);
    store
        .write(|tx| tx.execute_batch("CREATE TABLE beside(n INTEGER) STRICT"))
        .unwrap();
    fill(&store, 200_000, &format!("{} - i", now() - 3700));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _raise = RaiseOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                store
                    .write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []))
                    .unwrap();
            }
        });
        let _retention = store.retain_with(often(), "t", "at", HOUR).unwrap();
        until(&store, |stats| {
            let sweep = stats.bulk.iter().find(|job| job.site == "larder: retain t");
            sweep.is_some_and(|sweep| sweep.rows > 1000 && sweep.share < 0.1)
        });
    });
}

#[test]
fn rows_of_a_minute_are_bounded() {
    let store = store(TABLE);
    fill(&store, 1000, &format!("{} - i", now() - 3700));
    let few = RetainOptions::new().rows_per_minute(300);
    let _retention = store.retain_with(few, "t", "at", HOUR).unwrap();
    let rest = |stats: &Stats| stats.retention[0].next_in.is_some_and(|next| next > SECOND);
    let stats = until(&store, rest);
    assert_eq!((stats.retention[0].rows, count(&store)), (300, 700));
    // The oldest have gone first.
    let oldest: i64 = store.read(|tx| tx.scalar("SELECT max(id) FROM t", [])).unwrap();
    assert_eq!(oldest, 700);
}

/// A slow trigger spreads the rows of a minute over many slices.
#[test]
fn rows_of_one_time_are_bounded_as_well() {
    let store = store(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, at, pad TEXT); CREATE INDEX t_by_at ON t(at, pad);
         CREATE TRIGGER slow AFTER DELETE ON t BEGIN
             INSERT INTO sums WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 3000)
                 SELECT sum(i) FROM i;
         END;
         CREATE TABLE sums(n INTEGER) STRICT",
    );
    fill(&store, 5000, &(now() - 3700).to_string());
    let few = RetainOptions::new().rows_per_minute(300);
    let _retention = store.retain_with(few, "t", "at", HOUR).unwrap();
    let rest = |stats: &Stats| stats.retention[0].next_in.is_some_and(|next| next > SECOND);
    let stats = until(&store, rest);
    let retention = &stats.retention[0];
    assert_eq!((retention.rows, retention.last_error.as_deref()), (300, None));
    assert_eq!(count(&store), 4700);
}

#[test]
fn tables_that_cannot_be_swept_are_refused() {
    let store = store(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER) STRICT;
         CREATE TABLE part(at INTEGER, other INTEGER) STRICT;
         CREATE INDEX part_other ON part(other, at); CREATE INDEX part_some ON part(at) WHERE other > 1;
         CREATE TABLE \"my logs\"(\"order\" INTEGER) STRICT;
         CREATE TABLE pair(at INTEGER, b INTEGER, PRIMARY KEY(at, b)) STRICT, WITHOUT ROWID;
         CREATE VIEW v AS SELECT * FROM t",
    );
    let problem = |table: &str, column: &str| refused(store.retain(table, column, HOUR));
    assert_eq!(problem("missing", "at"), "there is no table missing");
    assert_eq!(problem("t", "missing"), "the table t has no column missing");
    assert!(problem("t", "at").ends_with("Run: CREATE INDEX t_by_at ON t(at)"));
    assert!(problem("part", "at").ends_with("CREATE INDEX part_by_at ON part(at)"));
    let create = problem("MY LOGS", "ORDER");
    let (_, create) = create.split_once("Run: ").unwrap();
    run(&store, create);
    let _retention = store.retain("my logs", "order", HOUR).unwrap();
    assert!(problem("my logs", "order").contains("has a retention already"));
    assert!(problem("pair", "at").contains("WITHOUT ROWID"));
    assert!(problem("v", "at").contains("no ordinary table"));
    assert!(refused(store.retain("t", "at", Duration::from_millis(1))).contains("at least 1 s"));
    let none = RetainOptions::new().rows_per_minute(0);
    assert!(refused(store.retain_with(none, "t", "at", HOUR)).contains("rows_per_minute"));
    let inside = store.clone();
    let error = store
        .write(move |_| inside.retain("t", "at", HOUR).map(drop))
        .unwrap_err();
    assert!(matches!(error, Error::Reentrant { call: "retain", .. }), "{error}");
    store.close().unwrap();
    assert!(matches!(store.retain("t", "at", HOUR), Err(Error::Closed)));
}

#[test]
fn times_of_another_form_are_refused_and_stay() {
    let old = now() - 9000;
    for (first, second, problem) in [
        (
            format!("{old} * 1000"),
            "NULL".to_owned(),
            "in milliseconds rather than in seconds",
        ),
        (
            old.to_string(),
            format!("{old} * 1000"),
            "in milliseconds rather than in seconds",
        ),
        (
            format!("{old} * 1000000"),
            "NULL".to_owned(),
            "neither in seconds nor in milliseconds",
        ),
        (
            format!("{old} + 0.5"),
            "NULL".to_owned(),
            "neither an integer nor a text",
        ),
        ("x'00'".to_owned(), "NULL".to_owned(), "neither an integer nor a text"),
        (old.to_string(), "'2020-01-01'".to_owned(), "times of two forms"),
        (
            "'2020-01-01 10:00:00'".to_owned(),
            "'2020-01-01T10:00:00Z'".to_owned(),
            "times of two forms",
        ),
        (
            "'2020-01-01T10:00:00+02:00'".to_owned(),
            "NULL".to_owned(),
            "no time in UTC",
        ),
        ("'last week'".to_owned(), "NULL".to_owned(), "no time in UTC"),
    ] {
        let store = store(TABLE);
        fill(&store, 1, &first);
        fill(&store, 1, &second);
        let told = refused(store.retain("t", "at", HOUR));
        assert!(
            told.contains(problem) && told.contains("No row is deleted"),
            "{first}, {second}: {told}"
        );
        assert_eq!(count(&store), 2);
    }
    // The year 9999 in seconds, which milliseconds would not mend.
    let store = self::store(TABLE);
    fill(&store, 10, &old.to_string());
    fill(&store, 1, "unixepoch('9999-12-31')");
    let told = refused(store.retain("t", "at", HOUR));
    assert!(told.contains("or make it NULL, if it stands for never"), "{told}");
    let store = self::store(TABLE);
    fill(&store, 10, &format!("{old} - i"));
    let milliseconds = RetainOptions::new().milliseconds(true);
    let told = refused(store.retain_with(milliseconds, "t", "at", HOUR));
    assert!(told.contains("in seconds rather than in milliseconds"), "{told}");
    assert_eq!(count(&store), 10);
}

/// A bad value between good ones is seen when it is among the oldest.
#[test]
fn bad_time_between_good_ones_stops_the_deletion() {
    let store = store(TABLE);
    let old = now() - 9000;
    fill(&store, 3, &format!("{old} + i"));
    fill(&store, 1, &format!("{old} + 1.5"));
    let _retention = store.retain("t", "at", HOUR).unwrap();
    let stats = until(&store, |stats| failed(stats).is_some());
    assert!(
        failed(&stats)
            .unwrap()
            .last_error
            .as_ref()
            .unwrap()
            .contains("neither an integer")
    );
    assert_eq!((count(&store), stats.retention[0].rows), (4, 0));
}

#[test]
fn retention_of_options_waits_for_its_index() {
    let store = Options::new()
        .monitor_interval(Duration::from_millis(20))
        .retain("t", "at", SECOND)
        .open_temp()
        .unwrap();
    until(&store, |stats| {
        stats
            .alerts
            .iter()
            .any(|alert| alert.kind == AlertKind::RetentionFailed)
    });
    let stats = store.stats();
    assert_eq!(
        failed(&stats).unwrap().last_error.as_deref(),
        Some("there is no table t")
    );
    run(
        &store,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER, pad TEXT) STRICT",
    );
    fill(&store, 100, &format!("{} - i", now() - 3700));
    let stats = until(&store, |stats| stats.retention[0].create_index.is_some());
    assert_eq!(
        stats.retention[0].create_index.as_deref(),
        Some("CREATE INDEX t_by_at ON t(at)")
    );
    let advice = store.advice();
    let finding = advice
        .iter()
        .find(|finding| finding.topic == "retention_without_index")
        .unwrap();
    assert!(finding.remedy.ends_with("CREATE INDEX t_by_at ON t(at)"), "{finding}");
    assert!(finding.message.contains("Options::retain"), "{finding}");
    assert_eq!(count(&store), 100);
    run(&store, stats.retention[0].create_index.as_ref().unwrap());
    until(&store, swept);
    assert_eq!(count(&store), 0);
    until(&store, |stats| serious(stats).is_empty());
    assert!(
        store
            .advice()
            .iter()
            .all(|finding| finding.topic != "retention_without_index")
    );
    let twice = Options::new()
        .retain("t", "at", HOUR)
        .retain("T", "AT", HOUR)
        .open_temp();
    assert!(twice.unwrap_err().to_string().contains("has a retention already"));
    assert!(Options::new().retain("t", "at", Duration::ZERO).open_temp().is_err());
}

#[test]
fn table_altered_meanwhile_is_reported_and_swept_again() {
    let store = store(TABLE);
    let _retention = store.retain("t", "at", SECOND).unwrap();
    until(&store, swept);
    run(&store, "ALTER TABLE t RENAME COLUMN at TO since");
    let stats = until(&store, |stats| failed(stats).is_some());
    assert_eq!(
        failed(&stats).unwrap().last_error.as_deref(),
        Some("the table t has no column at")
    );
    run(&store, "DROP INDEX t_by_at; ALTER TABLE t RENAME COLUMN since TO at");
    until(&store, |stats| stats.retention[0].create_index.is_some());
    // Another index, and another column before it.
    run(
        &store,
        "DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, pad TEXT, more INTEGER, at TEXT) STRICT",
    );
    run(&store, "CREATE INDEX other ON t(at DESC, more)");
    fill(&store, 100, "datetime('now', '-1 day')");
    until(&store, |stats| {
        stats.retention[0].rows == 100 && failed(stats).is_none()
    });
    assert_eq!(count(&store), 0);
}

#[test]
fn rows_that_a_foreign_key_keeps_are_passed_once_and_reported() {
    for (index, times) in [
        // All have the same time, and the kept ones are the first.
        ("CREATE INDEX t_by_at ON t(at)", "0"),
        ("CREATE INDEX t_by_at ON t(at)", "i / 7"),
        ("CREATE INDEX t_by_at ON t(at DESC)", "0"),
        ("CREATE INDEX t_by_at ON t(at DESC)", "i / 7"),
        ("CREATE INDEX t_by_at ON t(at, pad)", "0"),
        ("CREATE INDEX t_by_at ON t(at DESC, pad DESC)", "i / 7"),
    ] {
        let store = store(&format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, at, pad TEXT); {index};
             CREATE TABLE middle(t INTEGER PRIMARY KEY REFERENCES t(id) ON DELETE CASCADE) STRICT;
             CREATE TABLE child(t INTEGER REFERENCES middle(t)) STRICT; CREATE INDEX child_t ON child(t)"
        ));
        fill(&store, 2000, &format!("{} - ({times})", now() - 3700));
        run(
            &store,
            "INSERT INTO middle SELECT id FROM t; INSERT INTO child SELECT id FROM t WHERE id <= 600 OR id % 3 = 0",
        );
        let kept = count_of(&store, "child");
        let _retention = store.retain_with(often(), "t", "at", HOUR).unwrap();
        let stats = until(&store, |stats| failed(stats).is_some());
        let retention = &stats.retention[0];
        let reason = retention.last_error.as_ref().unwrap();
        assert!(
            reason.contains("foreign key") && reason.contains("the rows of child that"),
            "{reason}"
        );
        assert_eq!(
            (retention.rows_kept, retention.kept_by.as_deref()),
            (kept, Some("child"))
        );
        assert_eq!((count(&store), retention.rows), (kept as i64, 2000 - kept));
        // Each was tried once.
        assert_eq!(stats.bulk_rows, 2000, "{index}");
        let advice = store.advice();
        let finding = advice
            .iter()
            .find(|finding| finding.topic == "retention_kept_rows")
            .unwrap();
        assert!(finding.message.contains("rows of child refer to them"), "{finding}");
    }
}

/// A table with these rows is looked at each 0.1 s.
#[test]
fn rows_that_become_old_go_behind_those_that_are_kept() {
    let store = store(TABLE);
    run(
        &store,
        "CREATE TABLE child(t INTEGER REFERENCES t(id)) STRICT; CREATE INDEX child_t ON child(t)",
    );
    fill(&store, 500, &format!("{} + i / 100", now() - 100));
    run(&store, "INSERT INTO child SELECT id FROM t");
    let _retention = store.retain("t", "at", SECOND).unwrap();
    until(&store, |stats| stats.retention[0].rows_kept == 500);
    fill(&store, 300, &format!("{}", now() - 10));
    until(&store, |stats| stats.retention[0].rows == 300);
    // Older than those that were passed.
    fill(&store, 200, &format!("{}", now() - 200));
    until(&store, |stats| stats.retention[0].rows == 500);
    run(&store, "DELETE FROM child");
    until(&store, |stats| {
        stats.retention[0].rows == 1000 && failed(stats).is_none()
    });
    assert_eq!((count(&store), store.stats().retention[0].rows_kept), (0, 0));
}

/// SQLite judges a deferred key at the end, so its violation is that of the slice.
#[test]
fn row_that_undoes_its_slice_is_found_and_passed() {
    for (kept, schema) in [
        (
            "child",
            "CREATE TABLE child(t INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED) STRICT;
             CREATE INDEX child_t ON child(t)",
        ),
        (
            "a trigger",
            "CREATE TABLE child(t INTEGER PRIMARY KEY) STRICT;
             CREATE TRIGGER kept BEFORE DELETE ON t WHEN EXISTS (SELECT 1 FROM child WHERE t = old.id) BEGIN
                 SELECT raise(ROLLBACK, 'it is needed');
             END",
        ),
    ] {
        let store = store(TABLE);
        run(&store, schema);
        fill(&store, 1000, &format!("{} + i / 10", now() - 9000));
        run(&store, "INSERT INTO child VALUES (1), (2), (400), (999)");
        let _retention = store.retain("t", "at", HOUR).unwrap();
        let stats = until(&store, |stats| failed(stats).is_some());
        let reason = stats.retention[0].last_error.as_ref().unwrap();
        assert!(reason.starts_with("4 old rows") && reason.contains(kept), "{reason}");
        assert_eq!((count(&store), stats.retention[0].rows), (4, 996));
    }
}

#[test]
fn look_that_finds_nothing_reads_a_few_pages() {
    let store = Options::new().mmap_size(0).open_temp().unwrap();
    run(&store, TABLE);
    fill(&store, 50_000, &format!("{} + i", now() + 86_400));
    let pages = until(&store, |stats| stats.database.pages > 1000).database.pages;
    let _retention = store.retain("t", "at", SECOND).unwrap();
    let read = |stats: &Stats| stats.page_cache.hits + stats.page_cache.misses;
    let before = read(&until(&store, swept));
    let (mut looks, mut last) = (0, Duration::MAX);
    let stats = until(&store, |stats| {
        let ago = stats.retention[0].last_sweep_ago.unwrap();
        looks += i32::from(ago < last);
        last = ago;
        looks >= 12
    });
    let most = 12 * pages / 2;
    assert!(read(&stats) - before < most, "{} of {most}", read(&stats) - before);
    assert_eq!(count(&store), 50_000);
}

#[test]
fn full_database_is_swept() {
    let full = Options::new().on_connect(|conn, role| {
        if role == Role::Writer {
            conn.query_row("PRAGMA max_page_count = 60", [], |_| Ok(()))?;
        }
        Ok(())
    });
    let store = full.open_temp().unwrap();
    run(&store, TABLE);
    run(&store, "CREATE TABLE rest(data BLOB) STRICT");
    let old = now() - 3700;
    let insert = format!("INSERT INTO t(at, pad) VALUES ({old}, printf('%.100d', 1))");
    let page = "INSERT INTO rest VALUES (zeroblob(3000))".to_owned();
    for sql in [insert, page] {
        let last = || {
            let sql = sql.clone();
            store.write(move |tx| tx.execute_batch(&sql))
        };
        while last().is_ok() {}
    }
    let create = store.write(|tx| tx.execute_batch("CREATE TABLE more(a)"));
    assert!(create.is_err(), "there is room for a table");
    let _retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 0);
    // There is room for it by now.
    assert_eq!(count_of(&store, "larder_retention"), 1);
}

#[test]
fn closing_in_the_middle_keeps_what_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    run(&store, TABLE);
    fill(&store, 60_000, &format!("{} - i", now() - 3700));
    let retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, |stats| stats.retention[0].rows > 0);
    assert!(store.close().unwrap().wal_truncated);
    assert_eq!(rows_in(&path).1, "ok");
    drop(retention);
    drop(store);
    let store = Options::new().retain("t", "at", HOUR).open(&path).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 0);
}

#[test]
fn killed_retention_goes_on_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    run(&store, TABLE);
    fill(&store, 60_000, &format!("{} - i", now() - 3700));
    fill(&store, 100, &now().to_string());
    store.close().unwrap();
    drop(store);
    for _ in 0..2 {
        let before = rows_in(&path).0;
        let child = Child::start("bulk::retention", "retain", &[path.to_str().unwrap()]);
        child.expect("deleting");
        child.kill();
        let (after, integrity) = rows_in(&path);
        assert!(after < before && integrity == "ok", "{before} {after} {integrity}");
        if after == 100 {
            break;
        }
    }
    let store = Options::new().retain("t", "at", HOUR).open(&path).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 100);
}

/// The rows of the table, and what SQLite says about the file.
fn rows_in(path: &Path) -> (i64, String) {
    let conn = Connection::open(path).unwrap();
    let both = "SELECT (SELECT count(*) FROM t), (SELECT integrity_check FROM pragma_integrity_check)";
    conn.query_row(both, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn free_pages_are_returned_when_idle() {
    let store = store(TABLE);
    fill(&store, 60_000, &format!("{} - i", now() - 3700));
    fill(&store, 100, &now().to_string());
    let pages = until(&store, |stats| stats.database.pages > 1500).database.pages;
    let _retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, |stats| stats.database.pages < pages / 2);
    assert_eq!(count(&store), 100);
}

#[test]
fn values_that_are_no_times_delete_nothing() {
    for (at, reason) in [
        ("i", "no time in seconds"),
        ("20260401", "no time in seconds"),
        ("CASE i WHEN 1 THEN 0 ELSE 1700000000 END", "no time in seconds"),
        ("-i", "no time in seconds"),
        ("'0001-01-01 00:00:00'", "before 1970"),
        ("'2026-04-01 11:00'", "no time in UTC"),
    ] {
        let store = store(TABLE);
        fill(&store, 50, at);
        let problem = refused(store.retain("t", "at", HOUR));
        assert!(
            problem.contains(reason) && problem.contains("No row is deleted"),
            "{at}: {problem}"
        );
        assert_eq!(count(&store), 50, "{at}");
    }
    for (at, keep, newest) in [
        // Seconds since 1980 and since 2001, and 202604011200 as milliseconds.
        ("1400000000 - i / 10", 30 * 24 * HOUR, "2014-05-13 16:53:20"),
        ("unixepoch() - 978307200 + i", 30 * 24 * HOUR, ""),
        ("'2010-04-01'", 400 * 24 * HOUR, "2010-04-01"),
    ] {
        let store = store(TABLE);
        fill(&store, 50, at);
        let problem = refused(store.retain("t", "at", keep));
        assert!(problem.contains("RetainOptions::stale"), "{at}: {problem}");
        assert!(problem.contains(&format!("the newest is {newest}")), "{at}: {problem}");
        assert!(
            problem.contains("the clock says 2") && !problem.contains("  "),
            "{at}: {problem}"
        );
        let stale = RetainOptions::new().stale(true);
        let _retention = store.retain_with(stale, "t", "at", keep).unwrap();
        until(&store, swept);
        assert_eq!(count(&store), 0, "{at}");
    }
    let store = self::store(TABLE);
    fill(&store, 50, "202604011200 + i");
    let milliseconds = RetainOptions::new().milliseconds(true);
    let problem = refused(store.retain_with(milliseconds, "t", "at", HOUR));
    assert!(problem.contains("RetainOptions::stale"), "{problem}");
    // A key needs no index, so nothing else would stop it.
    let store = self::store(TABLE);
    fill(&store, 50, "1700000000");
    refused(store.retain("t", "id", HOUR));
    assert_eq!(count(&store), 50);
}

/// Seconds since 1980, beside a time that stands for "never".
#[test]
fn time_in_the_future_says_nothing_about_the_others() {
    let since_1980 = "unixepoch() - 315964800 + i";
    let never = "4102444800";
    let store = store(TABLE);
    fill(&store, 50, since_1980);
    fill(&store, 1, never);
    let problem = refused(store.retain("t", "at", HOUR));
    assert!(problem.contains("RetainOptions::stale"), "{problem}");
    // It is alone at first.
    run(&store, "DELETE FROM t WHERE id <= 50");
    let _retention = store.retain("t", "at", SECOND).unwrap();
    until(&store, swept);
    fill(&store, 50, since_1980);
    let stats = until(&store, |stats| failed(stats).is_some());
    let problem = failed(&stats).unwrap().last_error.as_ref().unwrap();
    assert!(problem.contains("RetainOptions::stale"), "{problem}");
    assert_eq!(count(&store), 51);
}

/// The trigger changes rows, and keeps the one that is deleted.
#[test]
fn rows_that_a_trigger_keeps_do_not_keep_a_sweep_going() {
    let store = store(&format!(
        "{TABLE};
         CREATE TRIGGER kept BEFORE DELETE ON t WHEN old.id <= 100 BEGIN
             UPDATE t SET pad = 'gone' WHERE id = old.id;
             SELECT raise(IGNORE);
         END"
    ));
    fill(&store, 1000, &(now() - 3700).to_string());
    let _retention = store.retain("t", "at", HOUR).unwrap();
    let stats = until(&store, swept);
    assert_eq!((stats.retention[0].rows, count(&store)), (900, 100));
    assert_eq!(stats.retention[0].rows_kept, 100);
}

/// Rows of one time are in the order of no index column. Those that stay hide no other one.
#[test]
fn many_rows_of_one_time_that_stay_hide_no_others() {
    const KEPT: u64 = 60_000;
    for index in ["t(at)", "t(at DESC)", "t(at, pad)", "t(at, pad DESC, id)"] {
        let store = store(&format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER, pad INTEGER, keeps INTEGER) STRICT;
             CREATE INDEX t_by_at ON {index};
             CREATE TRIGGER kept BEFORE DELETE ON t WHEN old.keeps BEGIN SELECT RAISE(ABORT, 'it stays'); END"
        ));
        let at = now() - 7200;
        // Of one time: rows that go before those that stay, between and behind them, by each order. Then younger ones.
        run(
            &store,
            &format!(
                "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i <= {KEPT} + 3000)
                 INSERT INTO t(at, pad, keeps)
                     SELECT {at}, (i * 7919) % 64007, i BETWEEN 1001 AND 31000 OR i > 32000 AND i <= {KEPT} + 2000 FROM i;
                 INSERT INTO t(at, pad, keeps) VALUES ({at} + 1, 1, 0), ({at} + 2, 1, 0), ({at} + 2, 2, 1), ({at} + 3, 1, 0)"
            ),
        );
        let kept = count_of(&store, "t WHERE keeps");
        assert_eq!(kept, KEPT + 1);
        let _retention = store.retain_with(often(), "t", "at", HOUR).unwrap();
        let stats = until(&store, |stats| failed(stats).is_some());
        assert_eq!(
            (count_of(&store, "t"), count_of(&store, "t WHERE keeps")),
            (kept, kept),
            "{index}"
        );
        assert_eq!(stats.retention[0].rows_kept, kept, "{index}");
    }
}

/// Between the look and the deletion of a row, another one takes its place.
#[test]
fn row_that_has_changed_since_the_look_is_not_kept() {
    let store = store(&format!(
        "{TABLE};
         CREATE TRIGGER pairs AFTER DELETE ON t WHEN old.id % 2 = 0 BEGIN
             DELETE FROM t WHERE id = old.id + 1 AND id % 4 = 1;
             UPDATE t SET at = unixepoch() WHERE id = old.id + 1;
         END"
    ));
    fill(&store, 1001, &format!("{} + i", now() - 9000));
    let _retention = store.retain("t", "at", HOUR).unwrap();
    let stats = until(&store, swept);
    assert_eq!((stats.retention[0].rows_kept, count(&store)), (0, 250));
}

#[test]
fn table_with_many_old_rows_does_not_keep_others_waiting() {
    let store = store(&format!(
        "{TABLE}; CREATE TABLE other(at INTEGER); CREATE INDEX other_by_at ON other(at);
         CREATE TABLE rest(rows INTEGER) STRICT;
         CREATE TRIGGER gone AFTER DELETE ON other BEGIN INSERT INTO rest SELECT count(*) FROM t; END"
    ));
    run(&store, "INSERT INTO other VALUES (unixepoch() - 3700)");
    fill(&store, 60_000, &(now() - 3700).to_string());
    // The other one comes while the first slice waits for the writer.
    let (let_go, running) = blocker(&store);
    let _many = store.retain("t", "at", HOUR).unwrap();
    until(&store, |stats| stats.queued > 0);
    let _one = store.retain("other", "at", HOUR).unwrap();
    drop(let_go);
    running.wait().unwrap();
    until(&store, |stats| {
        stats.retention.iter().any(|retention| retention.rows == 1)
    });
    let rest: i64 = store.read(|tx| tx.scalar("SELECT rows FROM rest", [])).unwrap();
    assert!(rest > 0, "the other one had to wait");
}

#[test]
fn advised_index_has_a_free_name() {
    let store = store("CREATE TABLE t(at INTEGER); CREATE INDEX t_by_at ON t(at) WHERE at > 0");
    let problem = refused(store.retain("t", "at", HOUR));
    assert!(problem.ends_with("CREATE INDEX t_by_at_2 ON t(at)"), "{problem}");
}

/// What a retention knows of the clock is in the database, so this is what a clock that was set ahead between two runs
/// looks like.
fn set_back(store: &Store, seconds: i64, boot: &str) {
    run(
        store,
        &format!("UPDATE larder_retention SET time_ms = time_ms - {seconds} * 1000, boot = {boot}"),
    );
}

fn clock_alert(stats: &Stats) -> Option<&Alert> {
    stats
        .alerts
        .iter()
        .find(|alert| alert.kind == AlertKind::RetentionClock)
}

/// The reason of the alert.
fn until_clock_alert(store: &Store) -> Option<String> {
    let stats = until(store, |stats| clock_alert(stats).is_some());
    clock_alert(&stats).unwrap().reason.clone()
}

#[test]
fn clock_that_was_set_ahead_between_two_runs_is_held() {
    const DAY: i64 = 86_400;
    let month = Duration::from_secs(30 * 86_400);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = || {
        Options::new()
            .monitor_interval(Duration::from_millis(20))
            .open(&path)
            .unwrap()
    };
    let store = open();
    run(&store, TABLE);
    fill(&store, 10, &format!("{} + i", now() - 10 * DAY));
    let retention = store.retain("t", "at", month).unwrap();
    until(&store, swept);
    drop(retention);
    // It ran 300 days ago. Since then, nothing is known.
    set_back(&store, 300 * DAY, "'another'");
    run(&store, &format!("UPDATE t SET at = at - {}", 300 * DAY));
    fill(&store, 5, &format!("{} + i", now() - 100));
    drop(store);
    let store = open();
    let retention = store.retain("t", "at", month).unwrap();
    let stats = until(&store, swept);
    let held = &stats.retention[0];
    let (ahead, left) = (held.clock_ahead.unwrap(), held.clock_followed_in.unwrap());
    assert_eq!(ahead.as_secs() / 86_400, 300, "{ahead:?}");
    assert!(left <= 24 * HOUR && left > 23 * HOUR, "{left:?}");
    assert_eq!((count(&store), held.rows, held.last_error.as_deref()), (15, 0, None));
    let alert = until_clock_alert(&store);
    assert_eq!(alert.as_deref(), Some("old rows of t are deleted by it in 24 h"));
    // The hold goes on in the next run.
    drop(retention);
    run(
        &store,
        "UPDATE larder_retention SET held_ms = 3600000 * 24, time_ms = time_ms - 1, boot = ''",
    );
    let retention = store.retain("t", "at", month).unwrap();
    until(&store, swept);
    assert_eq!((count(&store), store.stats().retention[0].rows), (5, 10));
    until(&store, |stats| serious(stats).is_empty());
    drop(retention);
    // It is said to be right.
    set_back(&store, 300 * DAY, "''");
    fill(&store, 7, &format!("{} + i", now() - 100 * DAY));
    let retention = store.retain("t", "at", month).unwrap();
    until(&store, swept);
    assert_eq!(count(&store), 12);
    store.trust_clock();
    until(&store, |stats| stats.retention[0].rows == 7);
    assert_eq!(count(&store), 5);
    assert_eq!(store.stats().retention[0].clock_ahead, None);
    until(&store, |stats| serious(stats).is_empty());
    drop(retention);
    // It waits for that without an end.
    set_back(&store, 300 * DAY, "''");
    let endless = RetainOptions::new().clock_hold(Duration::MAX);
    let _retention = store.retain_with(endless, "t", "at", HOUR).unwrap();
    let alert = until_clock_alert(&store);
    assert_eq!(alert.as_deref(), Some("old rows of t wait for Store::trust_clock"));
    assert_eq!(count(&store), 5);
    store.trust_clock();
    until(&store, |stats| serious(stats).is_empty());
}

#[test]
fn process_that_comes_back_on_the_same_boot_goes_on() {
    let store = store(TABLE);
    fill(&store, 10, &format!("{} + i", now() - 3000));
    let retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, swept);
    drop(retention);
    let has_just_started: bool = store
        .read(|tx| tx.scalar("SELECT uptime_ms < 2 * 3600000 FROM larder_retention", []))
        .unwrap();
    if has_just_started {
        return;
    }
    // An hour of the machine has passed, and of its clock.
    set_back(&store, 3600, "boot");
    run(
        &store,
        "UPDATE larder_retention SET uptime_ms = uptime_ms - 3600000; UPDATE t SET at = at - 3600",
    );
    let known: bool = store
        .read(|tx| tx.scalar("SELECT boot <> '' FROM larder_retention", []))
        .unwrap();
    let _retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, swept);
    // Where the system tells no boots apart, this is a jump.
    assert_eq!(count(&store), if known { 0 } else { 10 });
}

#[test]
fn record_that_makes_no_sense_is_a_jump_or_another_boot() {
    for (change, left) in [
        ("time_ms = -1", 10),
        ("time_ms = 0, boot = 'x'", 10),
        ("time_ms = 9000000000000000000, other_time_ms = -1, held_ms = -1", 0),
        ("other_time_ms = 5, held_ms = NULL, uptime_ms = 9000000000000000000", 0),
    ] {
        let store = store(TABLE);
        fill(&store, 10, &format!("{} + i", now() - 3000));
        let retention = store.retain("t", "at", HOUR).unwrap();
        until(&store, swept);
        drop(retention);
        run(
            &store,
            &format!("UPDATE larder_retention SET {change}; UPDATE t SET at = at - 3600"),
        );
        let _retention = store.retain("t", "at", HOUR).unwrap();
        until(&store, swept);
        assert_eq!(count(&store), left, "{change}");
    }
    // Another table of that name.
    let store = store(TABLE);
    run(&store, "CREATE TABLE larder_retention(a)");
    fill(&store, 10, &format!("{} + i", now() - 4000));
    let _retention = store.retain("t", "at", HOUR).unwrap();
    let stats = until(&store, |stats| failed(stats).is_some());
    let problem = failed(&stats).unwrap().last_error.as_ref().unwrap();
    assert!(
        problem.contains("larder_retention") && problem.ends_with("rename it"),
        "{problem}"
    );
    assert_eq!(count(&store), 10);
}

#[test]
fn other_kinds_of_tables_and_columns() {
    let store = store(
        "CREATE TABLE made(id INTEGER PRIMARY KEY, text TEXT, at INTEGER AS (unixepoch(text)) VIRTUAL,
             kept INTEGER AS (unixepoch(text)) STORED);
         CREATE INDEX made_by_at ON made(at); CREATE INDEX made_by_kept ON made(kept DESC);
         CREATE VIRTUAL TABLE words USING fts5(at);
         CREATE TABLE two(a INTEGER, b TEXT); CREATE INDEX two_by_a ON two(a); CREATE INDEX two_by_b ON two(b);
         CREATE TABLE some(at INTEGER); CREATE INDEX some_by_at ON some(at) WHERE at > 5;
         CREATE INDEX some_by_sum ON some(at + 1)",
    );
    let problem = |table: &str, column: &str| refused(store.retain(table, column, HOUR));
    assert!(problem("words", "at").contains("no ordinary table"));
    assert!(problem("words_data", "id").contains("no ordinary table"));
    assert!(problem("some", "at").contains("no index that begins with it"));
    assert!(problem("sqlite_schema", "rootpage").contains("no index that begins with it"));
    run(
        &store,
        "INSERT INTO made(text) VALUES (datetime('now', '-2 hours')), (datetime('now', '-1 minute')), (NULL);
         INSERT INTO two VALUES (unixepoch() - 7200, datetime('now')), (unixepoch(), datetime('now', '-2 hours')),
             (unixepoch(), datetime('now')), (NULL, NULL)",
    );
    let made = store.retain("made", "at", HOUR).unwrap();
    until(&store, swept);
    assert_eq!(count_of(&store, "made"), 2);
    drop(made);
    run(
        &store,
        "UPDATE made SET text = datetime('now', '-2 hours') WHERE text IS NOT NULL",
    );
    let kept = store.retain("made", "kept", HOUR).unwrap();
    until(&store, swept);
    assert_eq!(count_of(&store, "made"), 1);
    drop(kept);
    // Two of one table.
    let _both = [
        store.retain("two", "a", HOUR).unwrap(),
        store.retain("two", "b", HOUR).unwrap(),
    ];
    until(&store, |stats| {
        let swept = |retention: &RetentionStats| retention.last_sweep_ago.is_some();
        stats.retention.len() == 2 && stats.retention.iter().all(swept)
    });
    assert_eq!(count_of(&store, "two"), 2);
    assert_eq!(store.stats().retention_rows, 4);
}

/// The next one has the name, and rows that are not old.
#[test]
fn table_that_takes_the_place_of_another_keeps_its_rows() {
    let store = store(TABLE);
    fill(&store, 20_000, &(now() - 3700).to_string());
    let _retention = store.retain("t", "at", HOUR).unwrap();
    until(&store, |stats| stats.retention[0].rows > 0);
    run(
        &store,
        &format!("ALTER TABLE t RENAME TO before; DROP INDEX t_by_at; {TABLE}"),
    );
    fill(&store, 20_000, &now().to_string());
    until(&store, |stats| stats.bulk.is_empty() && swept(stats));
    assert_eq!(count(&store), 20_000);
    run(&store, "DROP TABLE before; DROP TABLE t");
    let _other = store.retain("t", "at", HOUR).map(drop).unwrap_err();
}
