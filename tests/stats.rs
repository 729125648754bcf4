//! What `Store::stats` says, each field under a load that is known.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, ReadOptions, Result, Stats, Store, WriteOptions};

use crate::groups::Gate;
use crate::support::{blocker, count};

fn store_with(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store
}

fn insert(store: &Store, id: i64) -> Result<i64> {
    store.write(move |tx| tx.insert("INSERT INTO t VALUES (?1)", [id]))
}

#[test]
fn a_store_that_did_nothing_says_so() {
    let store = Options::new().readers(3).open_temp().unwrap();
    let stats = store.stats();
    assert_eq!((stats.writes, stats.groups, stats.failed_writes), (0, 0, 0));
    assert_eq!((stats.queued, stats.deepest_queue), (0, 0));
    assert_eq!((stats.queue_wait.count, stats.body.max), (0, Duration::ZERO));
    assert_eq!(stats.writing, None);
    assert_eq!((stats.readers.size, stats.readers.in_use), (3, 0));
    assert_eq!(stats.readers.oldest, None);
    assert!(stats.failed_by.is_empty());
}

#[test]
fn each_stage_of_a_write_is_counted() {
    let store = store_with(Options::new());
    for id in 0..10 {
        insert(&store, id).unwrap();
    }
    insert(&store, 0).unwrap_err();
    let stats = store.stats();
    assert_eq!((stats.writes, stats.failed_writes), (11, 1));
    assert_eq!(stats.queue_wait.count, 12);
    assert_eq!(stats.body.count, 12);
    // The one that failed was alone in its transaction, which was rolled back.
    assert_eq!((stats.begin.count, stats.commit.count), (12, 11));
    assert_eq!(stats.groups, 11);
    for stage in [stats.queue_wait, stats.begin, stats.body, stats.commit] {
        assert!(
            stage.p50 <= stage.p95 && stage.p95 <= stage.p99 && stage.p99 <= stage.max,
            "{stage:?}"
        );
        assert!(stage.max > Duration::ZERO, "{stage:?}");
    }
}

#[test]
fn a_long_closure_shows_in_its_stage_and_in_the_wait_of_the_one_behind_it() {
    let store = store_with(Options::new());
    let long = Duration::from_millis(60);
    let gate = Gate::hold(&store);
    let first = store
        .submit(move |_| {
            // The subject: time goes by.
            thread::sleep(long);
            Ok(())
        })
        .unwrap();
    let second = store.submit(|_| Ok(())).unwrap();
    let before = store.stats();
    gate.open();
    first.wait().unwrap();
    second.wait().unwrap();
    let stats = store.stats();
    assert!(stats.body.max >= long, "{:?}", stats.body);
    assert!(stats.queue_wait.max >= long, "{:?}", stats.queue_wait);
    assert!(before.queue_wait.count < stats.queue_wait.count);
}

#[test]
fn what_is_queued_and_what_runs_are_seen() {
    let store = store_with(Options::new());
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    let label = WriteOptions::new().label("the long one");
    let long = store
        .submit_with(label, move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    let queued: Vec<_> = (0..5).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    let stats = store.stats();
    assert_eq!(stats.queued, 5);
    assert_eq!(stats.writing.expect("it runs").site, "the long one");
    drop(let_go);
    long.wait().unwrap();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    let stats = store.stats();
    assert_eq!((stats.queued, stats.deepest_queue), (0, 5));
    assert_eq!(stats.writing, None);
}

/// Waits for a checkpoint, which comes after the replies.
fn until(store: &Store, holds: impl Fn(&Stats) -> bool) -> Stats {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = store.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < give_up, "{stats:?}");
        thread::yield_now();
    }
}

#[test]
fn the_database_and_its_checkpoints_are_seen() {
    let store = Options::new().page_size(4096).checkpoint_pages(10).open_temp().unwrap();
    let opened = until(&store, |stats| stats.database.page_size > 0);
    assert_eq!(opened.last_checkpoint, None);
    assert_eq!((opened.database.page_size, opened.database.grown_pages), (4096, 0));
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE big(data BLOB NOT NULL) STRICT;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                 INSERT INTO big SELECT zeroblob(4000) FROM n",
            )
        })
        .unwrap();
    let full = until(&store, |stats| stats.last_finished_checkpoint.is_some());
    let checkpoint = full.last_checkpoint.expect("it finished one");
    assert!(
        checkpoint.log_pages >= 100 && checkpoint.moved_pages == checkpoint.log_pages,
        "{checkpoint:?}"
    );
    assert!(!checkpoint.busy);
    assert!(full.database.pages >= 100, "{full:?}");
    assert_eq!(
        full.database.grown_pages,
        (full.database.pages - opened.database.pages).cast_signed()
    );
    assert_eq!(full.database.bytes(), full.database.pages * 4096);
    store.write(|tx| tx.execute_batch("DELETE FROM big")).unwrap();
    let emptied = until(&store, |stats| stats.database.free_pages >= 90);
    assert!(emptied.database.free_pages < emptied.database.pages);
}

#[test]
fn a_checkpoint_that_a_reader_keeps_from_finishing_says_so() {
    let store = store_with(Options::new().checkpoint_pages(1));
    until(&store, |stats| stats.last_finished_checkpoint.is_some());
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    thread::scope(|scope| {
        let of_thread = &store;
        scope.spawn(move || {
            of_thread.read(|tx| {
                tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?;
                running.send(()).unwrap();
                let _ = told.recv();
                Ok(())
            })
        });
        runs.recv().unwrap();
        // The snapshot is older than what these leave in the log.
        for id in 0..3 {
            insert(&store, id).unwrap();
        }
        let stats = until(&store, |stats| {
            stats
                .last_checkpoint
                .is_some_and(|last| last.moved_pages < last.log_pages)
        });
        assert!(stats.unfinished_checkpoints > 0);
        drop(let_go);
    });
}

#[test]
fn a_write_without_a_label_is_known_by_its_line() {
    let store = store_with(Options::new());
    let (let_go, pending) = blocker(&store);
    let writing = store.stats().writing.expect("it runs");
    assert!(writing.site.starts_with("tests/support/mod.rs:"), "{writing:?}");
    let_go.send(()).unwrap();
    pending.wait().unwrap();
}

#[test]
fn failures_are_counted_by_what_they_were() {
    let store = store_with(Options::new());
    insert(&store, 1).unwrap();
    for _ in 0..2 {
        insert(&store, 1).unwrap_err();
    }
    store.write(|_| Err::<(), _>(Error::app("no"))).unwrap_err();
    store.write(|tx| tx.execute_batch("COMMIT")).unwrap_err();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.write(|_| -> Result<()> { resume_unwind(Box::new("boom")) })
    }));
    assert!(panicked.is_err());
    let stats = store.stats();
    let found: Vec<_> = stats.failed_by.into_iter().collect();
    assert_eq!(found, [("App", 1), ("Refused", 1), ("Sqlite", 2), ("panic", 1)]);
    assert_eq!(stats.failed_writes, 5);
    assert_eq!(count(&store), 1);
}

#[test]
fn readers_in_use_their_waits_and_the_oldest_are_seen() {
    let store = store_with(Options::new().readers(1));
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    thread::scope(|scope| {
        let of_thread = &store;
        scope.spawn(move || {
            of_thread.read_with(ReadOptions::new().label("the long one"), |_| {
                running.send(()).unwrap();
                let _ = told.recv();
                Ok(())
            })
        });
        runs.recv().unwrap();
        let soon = ReadOptions::new().timeout(Duration::from_millis(1));
        let late = store.read_with(soon, |_| Ok(()));
        assert!(matches!(late, Err(Error::ReadTimeout { .. })), "{late:?}");
        let readers = store.stats().readers;
        assert_eq!((readers.size, readers.open, readers.in_use), (1, 1, 1));
        // The first has waited for its connection to be opened.
        assert_eq!((readers.waits, readers.timeouts), (2, 1));
        assert_eq!(readers.oldest.expect("it reads").site, "the long one");
        drop(let_go);
    });
    let readers = store.stats().readers;
    assert_eq!((readers.open, readers.in_use), (1, 0));
    assert_eq!(readers.oldest, None);
}

#[cfg(feature = "async")]
#[test]
fn reads_that_tasks_wait_for_are_seen() {
    use crate::support::tasks::{HeldRead, begin, counting, finish};
    let store = store_with(Options::new().readers(1));
    let held = HeldRead::hold(&store);
    let mut waiting: Vec<_> = (0..3).map(|_| counting(&store)).collect();
    waiting.iter_mut().for_each(begin);
    assert_eq!(store.stats().readers.queued, 3);
    held.let_go();
    for read in waiting {
        finish(read).unwrap();
    }
    let readers = store.stats().readers;
    assert_eq!((readers.queued, readers.deepest_queue), (0, 3));
}

#[cfg(feature = "serde")]
#[test]
fn it_can_be_written_as_json_with_times_in_seconds() {
    let store = store_with(Options::new());
    let (let_go, pending) = blocker(&store);
    let json = serde_json::to_value(store.stats()).unwrap();
    let_go.send(()).unwrap();
    pending.wait().unwrap();
    assert_eq!(json["writes"], 1);
    let p99 = json["body"]["p99"].as_f64().expect("a number");
    assert!(p99 > 0.0 && p99 < 60.0, "{json}");
    assert!(json["writing"]["age"].is_f64(), "{json}");
    assert_eq!(json["readers"]["oldest"], serde_json::Value::Null);
}
