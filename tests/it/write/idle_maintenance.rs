//! Maintenance that the writer does while idle: incremental vacuum and planner statistics.

use std::time::Duration;

use std::path::Path;

use larder::{AutoVacuum, Options, Result, Store, WriteTx};

use crate::support::{log, until};

/// A store of which 4000 pages are free.
fn emptied(options: Options) -> Store {
    log::collect();
    let store = options.page_size(512).checkpoint_pages(1).open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
                 INSERT INTO t(data) SELECT zeroblob(400) FROM n",
            )
        })
        .unwrap();
    store.write(|tx| tx.execute("DELETE FROM t WHERE id > 10", [])).unwrap();
    store
}

fn integrity(store: &Store) -> String {
    store
        .read(|tx| tx.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .unwrap()
}

fn steps(store: &Store) -> Vec<log::Event> {
    let path = store.path().to_str().unwrap().to_owned();
    log::events(|event| {
        event.target == "larder::maintenance"
            && event.field("db.namespace") == Some(&path)
            && event.field("given_back").is_some()
    })
}

#[test]
fn idle_writer_frees_pages_in_small_steps() {
    let store = emptied(Options::new());
    // Of more than 4000 pages with 10 rows, 3 steps leave 1000 that are free.
    let after = until(&store, |stats| {
        steps(&store).len() >= 3 && stats.database.free_pages <= 1000
    });
    let after = after.database;
    assert!(after.pages < 2000, "{after:?}");
    let steps = steps(&store);
    for step in steps {
        let pages: u64 = step.expect("given_back").parse().unwrap();
        assert!(pages > 0 && pages <= 1000, "{step:?}");
    }
    // The file itself is cut by the checkpoint.
    let bytes = || std::fs::metadata(store.path()).unwrap().len();
    until(&store, |_| bytes() <= after.bytes() + 512 * 1000);
    let rows: i64 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 10);
    assert_eq!(integrity(&store), "ok");
}

#[test]
fn writes_run_between_vacuum_steps() {
    let store = emptied(Options::new());
    for step in 1..=2_u32 {
        until(&store, |_| steps(&store).len() >= step as usize);
        store
            .write(move |tx| tx.execute("INSERT INTO t(id) VALUES (?1)", [100_000 + step]))
            .unwrap();
    }
    until(&store, |stats| stats.database.free_pages <= 1000);
    assert!(steps(&store).len() > 2, "there was one more after both");
    let rows: i64 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 12);
    assert_eq!(integrity(&store), "ok");
}

#[test]
fn free_pages_stay_if_vacuum_is_off() {
    for options in [
        Options::new().incremental_vacuum(false),
        Options::new().auto_vacuum(AutoVacuum::None),
    ] {
        let store = emptied(options);
        let checkpoints = until(&store, |stats| stats.database.free_pages > 3000);
        // An idle moment later.
        let looked = until(&store, |stats| {
            stats
                .last_finished_checkpoint_ago
                .is_some_and(|ago| ago > Duration::from_millis(1500))
        });
        assert_eq!(looked.database.pages, checkpoints.database.pages);
        assert!(steps(&store).is_empty());
    }
}

#[test]
fn idle_writer_refreshes_planner_statistics() {
    log::collect();
    let store = Options::new()
        .optimize_interval(Duration::from_millis(1))
        .open_temp()
        .unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, kind INTEGER NOT NULL) STRICT;
                 CREATE INDEX by_kind ON t(kind);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO t(kind) SELECT i % 10 FROM n",
            )
        })
        .unwrap();
    let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'";
    until(&store, |_| {
        store
            .read(|tx| tx.query_row(known, [], |row| row.get::<_, i64>(0)))
            .unwrap()
            == 1
    });
    let path = store.path().to_str().unwrap().to_owned();
    log::wait_for(|event| {
        event.field("db.namespace") == Some(&path) && event.message == "refreshed the statistics of the query planner"
    });
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
}

#[test]
fn busy_writer_refreshes_planner_statistics_between_writes() {
    log::collect();
    let store = Options::new()
        .optimize_interval(Duration::from_millis(1))
        .checkpoint_pages(1)
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let path = store.path().to_str().unwrap().to_owned();
    let ran = |event: &log::Event| {
        event.field("db.namespace") == Some(&path) && event.message == "refreshed the statistics of the query planner"
    };
    until(&store, |_| {
        store.write(|tx| tx.execute("INSERT INTO t VALUES (NULL)", [])).unwrap();
        !log::events(ran).is_empty()
    });
}

const SEARCH: &str = "SELECT data FROM events WHERE kind = ?1 AND place = ?2";

/// 100 rows in which `kind` tells most, and ANALYZE.
fn small_table(tx: &WriteTx<'_>) -> Result<()> {
    tx.execute_batch(
        "CREATE TABLE events(id INTEGER PRIMARY KEY, kind INTEGER, place INTEGER, data TEXT) STRICT;
         CREATE INDEX by_kind ON events(kind);
         CREATE INDEX by_place ON events(place);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         INSERT INTO events(kind, place, data) SELECT i, 1, 'data' FROM n;
         ANALYZE;",
    )
}

/// 50,000 more, in which `place` does.
fn grow(tx: &WriteTx<'_>) -> Result<()> {
    tx.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
         INSERT INTO events(kind, place, data) SELECT 7, i, 'data' FROM n;",
    )
}

/// The index that a reader uses.
fn plan(store: &Store) -> String {
    store
        .read(|tx| {
            let plan = format!("EXPLAIN QUERY PLAN {SEARCH}");
            tx.query_row(&plan, [7, 1], |row| row.get::<_, String>("detail"))
        })
        .unwrap()
}

/// Long before the statistics are due by time.
fn patient() -> Options {
    Options::new().readers(1).optimize_interval(Duration::from_secs(600))
}

/// `PRAGMA optimize` looks at the tables that its connection has queried, and the writer only wrote: 200 point queries
/// took 17.8 s, and 5.9 ms after ANALYZE. And a reader that has read the schema keeps the statistics of then.
#[test]
fn idle_writer_refreshes_statistics_that_readers_use() {
    let store = patient().open_temp().unwrap();
    store.write(small_table).unwrap();
    assert!(plan(&store).contains("by_kind"), "{}", plan(&store));
    store.write(grow).unwrap();
    assert!(
        plan(&store).contains("by_kind"),
        "nothing has refreshed them yet: {}",
        plan(&store)
    );
    let (folder, path) = copy_of(&store);
    let copy = patient()
        .optimize_interval(Duration::from_millis(1))
        .open(&path)
        .unwrap();
    assert!(plan(&copy).contains("by_kind"), "{}", plan(&copy));
    copy.write(|tx| tx.execute("INSERT INTO events(kind) VALUES (1)", []))
        .unwrap();
    until(&copy, |_| plan(&copy).contains("by_place"));
    drop((copy, folder));
}

/// They stayed as they were in a store that did not write, whatever other processes had written.
#[test]
fn store_that_does_not_write_refreshes_statistics_too() {
    let store = patient().open_temp().unwrap();
    store.write(|tx| small_table(tx).and_then(|()| grow(tx))).unwrap();
    let (folder, path) = copy_of(&store);
    let copy = patient()
        .optimize_interval(Duration::from_millis(1))
        .open(&path)
        .unwrap();
    until(&copy, |_| plan(&copy).contains("by_place"));
    assert_eq!(copy.stats().committed_writes, 0);
    drop((copy, folder));
}

/// Long before they are due by time.
#[test]
fn statistics_are_refreshed_when_the_database_has_doubled() {
    let store = patient().page_size(512).open_temp().unwrap();
    store.write(small_table).unwrap();
    assert!(plan(&store).contains("by_kind"), "{}", plan(&store));
    store.write(grow).unwrap();
    until(&store, |_| plan(&store).contains("by_place"));
}

fn copy_of(store: &Store) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    store.backup(&path).run().unwrap();
    (folder, path)
}

#[test]
fn closing_store_refreshes_planner_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("app.db");
    let store = patient().open(path).unwrap();
    store.write(small_table).unwrap();
    store.write(grow).unwrap();
    assert!(plan(&store).contains("by_kind"), "{}", plan(&store));
    store.close().unwrap();
    let store = patient().open(path).unwrap();
    assert!(plan(&store).contains("by_place"), "{}", plan(&store));
    // Statistics are up to date, and a store that only reads changes nothing.
    let before = std::fs::read(path).unwrap();
    store.close().unwrap();
    assert!(std::fs::read(path).unwrap() == before);
}

/// Readers kept the statistics that they had read with the schema.
#[test]
fn readers_use_statistics_of_an_analyze() {
    let store = patient().open_temp().unwrap();
    store.write(small_table).unwrap();
    store.write(grow).unwrap();
    assert!(plan(&store).contains("by_kind"), "{}", plan(&store));
    store.write(|tx| tx.execute_batch("ANALYZE")).unwrap();
    assert!(plan(&store).contains("by_place"), "{}", plan(&store));
}

/// One table whose index needs a collation of the program kept the others from statistics.
#[test]
fn table_that_cannot_be_analyzed_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = larder::rusqlite::Connection::open(&path).unwrap();
    conn.create_collation("strange", |a, b| a.cmp(b)).unwrap();
    conn.execute_batch(
        "CREATE TABLE a(x TEXT); CREATE INDEX ax ON a(x COLLATE strange); INSERT INTO a VALUES ('x'), ('y');
         CREATE TABLE b(x TEXT); CREATE INDEX bx ON b(x); INSERT INTO b VALUES ('x');",
    )
    .unwrap();
    drop(conn);
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.execute("INSERT INTO b VALUES ('y')", [])).unwrap();
    store.close().unwrap();
    let conn = larder::rusqlite::Connection::open(&path).unwrap();
    let known: Vec<String> = conn
        .prepare("SELECT tbl FROM sqlite_stat1")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<larder::rusqlite::Result<_>>()
        .unwrap();
    assert_eq!(known, ["b"]);
}

/// Each ANALYZE reads at most some 2000 rows of an index, so that no write waits for long.
#[test]
fn refresh_reads_a_bounded_number_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, kind INTEGER) STRICT;
                 CREATE INDEX by_kind ON t(kind);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                 INSERT INTO t(kind) SELECT i / 4 FROM n;",
            )
        })
        .unwrap();
    store.close().unwrap();
    let conn = larder::rusqlite::Connection::open(&path).unwrap();
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM sqlite_schema WHERE name = '{table}'");
        conn.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("sqlite_stat1"), 1);
    // A full ANALYZE takes samples, one with a limit does not.
    let samples: i64 = if count("sqlite_stat4") == 1 {
        conn.query_row("SELECT count(*) FROM sqlite_stat4", [], |row| row.get(0))
            .unwrap()
    } else {
        0
    };
    assert_eq!(samples, 0);
}
