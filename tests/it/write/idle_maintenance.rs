//! Maintenance that the writer does while idle: incremental vacuum and planner statistics.

use std::time::Duration;

use larder::{AutoVacuum, Options, Store};

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
    let before = until(&store, |stats| stats.database.free_pages > 3000).database;
    let after = until(&store, |stats| stats.database.free_pages <= 1000).database;
    assert!(after.pages < before.pages - 2000, "{before:?}, {after:?}");
    let steps = steps(&store);
    assert!(steps.len() >= 3, "{steps:#?}");
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
    // SQLite looks after those tables whose indexes the connection has used.
    store
        .write(|tx| tx.query_row("SELECT count(*) FROM t WHERE kind = 3", [], |row| row.get::<_, i64>(0)))
        .unwrap();
    let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'";
    until(&store, |_| {
        store
            .read(|tx| tx.query_row(known, [], |row| row.get::<_, i64>(0)))
            .unwrap()
            == 1
    });
    let path = store.path().to_str().unwrap().to_owned();
    log::wait_for(|event| event.field("db.namespace") == Some(&path) && event.message == "ran PRAGMA optimize");
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
    let ran = |event: &log::Event| event.field("db.namespace") == Some(&path) && event.message == "ran PRAGMA optimize";
    until(&store, |_| {
        store.write(|tx| tx.execute("INSERT INTO t VALUES (NULL)", [])).unwrap();
        !log::events(ran).is_empty()
    });
}
