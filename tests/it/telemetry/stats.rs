//! `Store::stats`: each field under a known load.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{
    AlertKind, CallSiteStats, Error, Operation, Options, ReadOptions, Result, Severity, Stats, Store, WhenFull,
    WriteOptions, WriteTx,
};

use crate::support::child::{self, Child};
use crate::support::{blocker, count, serious, until};
use crate::write::groups::{Gate, grouping};

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
fn idle_store_has_zero_stats() {
    let store = Options::new().readers(3).open_temp().unwrap();
    let stats = store.stats();
    assert_eq!((stats.committed_writes, stats.groups, stats.failed_writes), (0, 0, 0));
    assert_eq!((stats.queued, stats.deepest_queue), (0, 0));
    assert_eq!((stats.queue_wait.count, stats.execute.max), (0, Duration::ZERO));
    assert_eq!(stats.running_write, None);
    assert_eq!((stats.readers.capacity, stats.readers.in_use), (3, 0));
    assert_eq!(stats.readers.oldest_read, None);
    assert!(stats.failures_by_error.is_empty());
}

#[test]
fn each_stage_of_a_write_is_counted() {
    let store = store_with(Options::new());
    for id in 0..10 {
        insert(&store, id).unwrap();
    }
    insert(&store, 0).unwrap_err();
    let stats = store.stats();
    assert_eq!((stats.committed_writes, stats.failed_writes), (11, 1));
    assert_eq!(stats.queue_wait.count, 12);
    assert_eq!(stats.execute.count, 12);
    // The one that failed was alone in its transaction, which was rolled back.
    assert_eq!((stats.begin.count, stats.commit.count), (12, 11));
    assert_eq!(stats.groups, 11);
    for stage in [stats.queue_wait, stats.begin, stats.execute, stats.commit] {
        assert!(
            stage.p50 <= stage.p95 && stage.p95 <= stage.p99 && stage.p99 <= stage.max,
            "{stage:?}"
        );
        assert!(stage.max > Duration::ZERO, "{stage:?}");
    }
}

#[test]
fn long_closure_shows_in_execute_and_next_wait() {
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
    assert!(stats.execute.max >= long, "{:?}", stats.execute);
    assert!(stats.queue_wait.max >= long, "{:?}", stats.queue_wait);
    assert!(before.queue_wait.count < stats.queue_wait.count);
}

#[test]
fn queued_and_running_writes_are_shown() {
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
    assert_eq!(stats.running_write.expect("it runs").site, "the long one");
    drop(let_go);
    long.wait().unwrap();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    let stats = store.stats();
    assert_eq!((stats.queued, stats.deepest_queue), (0, 5));
    assert_eq!(stats.running_write, None);
}

#[test]
fn database_size_and_checkpoints_are_shown() {
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
    let full = until(&store, |stats| stats.last_finished_checkpoint_ago.is_some());
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
fn checkpoint_blocked_by_reader_says_so() {
    let store = store_with(Options::new().checkpoint_pages(1));
    until(&store, |stats| stats.last_finished_checkpoint_ago.is_some());
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
fn write_without_label_is_named_by_its_line() {
    let store = store_with(Options::new());
    let (let_go, pending) = blocker(&store);
    let writing = store.stats().running_write.expect("it runs");
    assert!(writing.site.starts_with("tests/it/support/mod.rs:"), "{writing:?}");
    let_go.send(()).unwrap();
    pending.wait().unwrap();
}

#[test]
fn failures_are_counted_by_kind() {
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
    let found: Vec<_> = stats.failures_by_error.into_iter().collect();
    let expected = [
        ("app", 1),
        ("panic", 1),
        ("refused", 1),
        ("sqlite_constraint_primarykey", 2),
    ];
    assert_eq!(found, expected);
    assert_eq!(stats.failed_writes, 5);
    assert_eq!(count(&store), 1);
}

#[test]
fn readers_in_use_and_their_waits_are_shown() {
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
        let soon = ReadOptions::new().queue_timeout(Duration::from_millis(1));
        let late = store.read_with(soon, |_| Ok(()));
        assert!(matches!(late, Err(Error::ReadQueueTimeout { .. })), "{late:?}");
        let readers = store.stats().readers;
        assert_eq!((readers.capacity, readers.open, readers.in_use), (1, 1, 1));
        // The first has waited for its connection to be opened.
        assert_eq!((readers.waits, readers.timeouts), (2, 1));
        assert_eq!(readers.oldest_read.expect("it reads").site, "the long one");
        drop(let_go);
    });
    let readers = store.stats().readers;
    assert_eq!((readers.open, readers.in_use), (1, 0));
    assert_eq!(readers.oldest_read, None);
}

/// It counted once for each 50 ms. One whose time is over before a thread takes it waits for no connection, so this one
/// has time enough, and gets the connection.
#[cfg(feature = "async")]
#[test]
fn async_read_that_waits_for_a_connection_counts_once() {
    use crate::support::tasks::{PATIENCE, begin, finish};
    let store = store_with(Options::new().readers(1));
    let patient = ReadOptions::new().queue_timeout(PATIENCE);
    let mut waits = Box::pin(store.read_async_with(patient, |_| Ok(())));
    let before = store
        .read(|_| {
            let before = store.stats().readers.waits;
            begin(&mut waits);
            until(&store, |stats| stats.readers.waits > before);
            // The subject: it waits for longer than that.
            thread::sleep(Duration::from_millis(300));
            assert_eq!(store.stats().readers.waits, before + 1);
            Ok(before)
        })
        .unwrap();
    finish(waits).unwrap();
    assert_eq!(store.stats().readers.waits, before + 1);
}

#[cfg(feature = "async")]
#[test]
fn queued_async_reads_are_counted() {
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
fn stats_serialize_to_json_with_seconds() {
    let store = store_with(Options::new());
    let (let_go, pending) = blocker(&store);
    let json = serde_json::to_value(store.stats()).unwrap();
    let_go.send(()).unwrap();
    pending.wait().unwrap();
    assert_eq!(json["committed_writes"], 1);
    let p99 = json["execute"]["p99"].as_f64().expect("a number");
    assert!(p99 > 0.0 && p99 < 60.0, "{json}");
    assert!(json["running_write"]["age"].is_f64(), "{json}");
    assert_eq!(json["readers"]["oldest_read"], serde_json::Value::Null);
}

fn site<'s>(stats: &'s Stats, operation: Operation, name: &str) -> &'s CallSiteStats {
    let found = stats
        .call_sites
        .iter()
        .find(|site| site.operation == operation && site.site == name);
    found.unwrap_or_else(|| panic!("{name} is not there: {:#?}", stats.call_sites))
}

fn labelled(label: &'static str) -> WriteOptions {
    WriteOptions::new().label(label)
}

#[test]
fn usage_of_each_call_site_is_counted() {
    let store = store_with(Options::new());
    let long = Duration::from_millis(20);
    for id in 0..3 {
        let ten = move |tx: &WriteTx<'_>| {
            for n in 0..10 {
                tx.execute("INSERT INTO t VALUES (?1)", [id * 10 + n])?;
            }
            Ok(())
        };
        store.write_with(labelled("ten rows"), ten).unwrap();
    }
    let repeated = |tx: &WriteTx<'_>| tx.execute("INSERT INTO t VALUES (0)", []);
    store.write_with(labelled("ten rows"), repeated).unwrap_err();
    let label = ReadOptions::new().label("all rows");
    let all = |tx: &larder::ReadTx<'_>| {
        // The subject: time goes by.
        thread::sleep(long);
        tx.query_map("SELECT id FROM t", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(store.read_with(label.clone(), all).unwrap().len(), 30);
    store
        .read_with(label, |tx| tx.exists("SELECT 1 FROM nowhere", []))
        .unwrap_err();
    let line = line!() + 1;
    store.read(|tx| tx.exists("SELECT 1 FROM t", [])).unwrap();
    let stats = store.stats();

    let writes = site(&stats, Operation::Write, "ten rows");
    assert_eq!((writes.calls, writes.errors), (4, 1));
    assert_eq!((writes.rows_changed, writes.rows_read), (30, 0));
    assert_eq!(writes.latency.count, 4);
    assert!(
        writes.total_time >= writes.latency.max && writes.latency.max >= writes.latency.p50,
        "{writes:?}"
    );
    let reads = site(&stats, Operation::Read, "all rows");
    assert_eq!(
        (reads.calls, reads.errors, reads.rows_read, reads.rows_changed),
        (2, 1, 30, 0)
    );
    assert!(reads.latency.max >= long && reads.total_time >= long, "{reads:?}");
    let here = format!("{}:{line}", file!());
    assert_eq!(site(&stats, Operation::Read, &here).calls, 1);
    assert!(
        stats.call_sites.is_sorted_by(|a, b| a.total_time >= b.total_time),
        "{:#?}",
        stats.call_sites
    );
}

#[test]
fn write_rolled_back_with_group_changed_nothing() {
    let store = store_with(grouping());
    let gate = Gate::hold(&store);
    let good = store
        .submit_with(labelled("neighbour"), |tx| tx.execute("INSERT INTO t VALUES (1)", []))
        .unwrap();
    let bad = store
        .submit_with(labelled("takes all with it"), |tx| {
            tx.execute_batch("INSERT INTO t VALUES (2); INSERT OR ROLLBACK INTO t VALUES (2)")
        })
        .unwrap();
    gate.open();
    good.wait().unwrap_err();
    bad.wait().unwrap_err();
    let stats = store.stats();
    for name in ["neighbour", "takes all with it"] {
        let site = site(&stats, Operation::Write, name);
        assert_eq!((site.calls, site.errors, site.rows_changed), (1, 1, 0), "{site:?}");
    }
}

#[test]
fn call_sites_past_the_bound_share_one_entry() {
    let store = store_with(Options::new().max_call_sites(3));
    for n in 0..10 {
        let label = ReadOptions::new().label(format!("read {n}"));
        store.read_with(label, |_| Ok(())).unwrap();
    }
    let stats = store.stats();
    let reads: Vec<_> = stats
        .call_sites
        .iter()
        .filter(|site| site.operation == Operation::Read)
        .collect();
    assert_eq!(reads.len(), 4, "{reads:#?}");
    assert_eq!(site(&stats, Operation::Read, "other").calls, 7);
    let off = store_with(Options::new().max_call_sites(0));
    off.read(|_| Ok(())).unwrap();
    assert_eq!(off.stats().call_sites, []);
}

#[test]
fn call_sites_are_counted_on_all_connections() {
    let store = store_with(Options::new().readers(4));
    let label = || ReadOptions::new().label("side by side");
    let together = std::sync::Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let meet = |_: &larder::ReadTx<'_>| {
                    together.wait();
                    Ok(())
                };
                store.read_with(label(), meet).unwrap();
            });
        }
    });
    assert_eq!(site(&store.stats(), Operation::Read, "side by side").calls, 4);
}

#[test]
fn statement_usage_is_counted_if_enabled() {
    let store = store_with(Options::new().max_statements(100).readers(1));
    for id in 0..50 {
        insert(&store, id).unwrap();
    }
    insert(&store, 0).unwrap_err();
    let scan = "SELECT id FROM t WHERE id % ?1 = 0 ORDER BY -id";
    for _ in 0..2 {
        store
            .read(|tx| tx.query_map(scan, [10], |row| row.get::<_, i64>(0)))
            .unwrap();
    }
    let indexed = "SELECT count(*) FROM pairs a JOIN pairs b ON a.x = b.y";
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE pairs(x INTEGER, y INTEGER) STRICT; INSERT INTO pairs SELECT id, id FROM t")
        })
        .unwrap();
    store
        .read(|tx| tx.query_row(indexed, [], |row| row.get::<_, i64>(0)))
        .unwrap();
    let stats = store.stats();
    let of = |text: &str| {
        let found = stats.statements.iter().find(|statement| statement.sql == text);
        found.unwrap_or_else(|| panic!("{text} is not there: {:#?}", stats.statements))
    };

    let row = of("INSERT INTO t VALUES (?1)");
    assert_eq!((row.calls, row.errors, row.latency.count), (51, 1, 51));
    assert_eq!((row.full_scan_steps, row.sorts), (0, 0));
    assert!(
        row.total_time >= row.latency.max && row.mean_time() <= row.latency.max,
        "{row:?}"
    );
    let scan = of(scan);
    assert_eq!((scan.calls, scan.rows, scan.sorts), (2, 10, 2));
    assert!((98..=100).contains(&scan.full_scan_steps), "{scan:?}");
    assert!(of(indexed).automatic_index_rows >= 49, "{:?}", of(indexed));
    assert!(stats.statements.is_sorted_by(|a, b| a.total_time >= b.total_time));
    let advised = |finding: &larder::Finding| finding.topic == "missing_index" && finding.message.contains(indexed);
    assert!(store.advice().iter().any(advised), "{:#?}", store.advice());

    let few = store_with(Options::new().max_statements(1));
    for sql in ["SELECT 1", "SELECT 2", "SELECT 3"] {
        few.read(|tx| tx.exists(sql, [])).unwrap();
    }
    let others = few.stats().statements;
    let calls: Vec<_> = others.iter().map(|s| (s.sql.as_str(), s.calls)).collect();
    assert!(others.len() == 2 && calls.contains(&("other", 2)), "{calls:?}");
    let off = store_with(Options::new());
    insert(&off, 1).unwrap();
    assert_eq!(off.stats().statements, []);
}

#[test]
fn group_sizes_are_a_distribution() {
    let store = store_with(grouping());
    let gate = Gate::hold(&store);
    let writes: Vec<_> = (0..7).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    gate.open();
    writes.into_iter().for_each(|write| write.wait().unwrap());
    let stats = store.stats();
    assert_eq!(stats.group_size.count, stats.groups);
    assert_eq!((stats.group_size.p50, stats.group_size.max), (1, 7), "{stats:?}");
}

#[test]
fn slow_calls_and_long_waits_are_counted() {
    let slow = Duration::from_millis(5);
    let store = store_with(Options::new().slow_write_threshold(slow).slow_read_threshold(slow));
    let before = store.stats();
    let gate = Gate::hold(&store);
    let asked = Instant::now();
    let waiting = store.submit(|_| Ok(())).unwrap();
    until(&store, |_| asked.elapsed() > Duration::from_millis(110));
    gate.open();
    waiting.wait().unwrap();
    store
        .read(|_| {
            until(&store, |stats| {
                stats.readers.oldest_read.as_ref().is_some_and(|read| read.age > slow)
            });
            Ok(())
        })
        .unwrap();
    let stats = store.stats();
    assert!(stats.slow_writes > before.slow_writes, "the gate was slow: {stats:?}");
    assert_eq!(stats.readers.slow_reads, before.readers.slow_reads + 1);
    assert!(stats.long_waits > before.long_waits, "{stats:?}");
    assert!(stats.long_waits < stats.queue_wait.count, "not all of them: {stats:?}");
}

#[test]
fn page_cache_use_is_shown() {
    let store = Options::new().mmap_size(0).cache_size(64 * 1024).open_temp().unwrap();
    // More than the cache holds, in one transaction: pages spill. Then a read from the file.
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE big(data BLOB NOT NULL) STRICT;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                 INSERT INTO big SELECT zeroblob(4000) FROM n",
            )
        })
        .unwrap();
    let wrote = until(&store, |stats| stats.page_cache.written >= 500);
    assert!(
        wrote.page_cache.spills > 0 && wrote.page_cache.memory_bytes > 0,
        "{:?}",
        wrote.page_cache
    );
    let sum = "SELECT sum(length(data)) FROM big";
    store
        .read(|tx| tx.query_row(sum, [], |row| row.get::<_, i64>(0)))
        .unwrap();
    let read = store.stats().page_cache;
    assert!(
        read.misses >= wrote.page_cache.misses + 500 && read.hits > wrote.page_cache.hits,
        "{wrote:?}, {read:?}"
    );
    assert!(
        read.memory_bytes > wrote.page_cache.memory_bytes,
        "a reader has a cache, too: {read:?}"
    );
}

#[test]
fn version_and_settings_in_effect_are_shown() {
    let store = Options::new()
        .cache_size(1 << 20)
        .durability(larder::Durability::Full)
        .open_temp()
        .unwrap();
    let stats = until(&store, |stats| !stats.pragmas.is_empty());
    assert_eq!(stats.sqlite_version, larder::rusqlite::version());
    for (name, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("cache_size", "-1024"),
        ("foreign_keys", "1"),
        ("auto_vacuum", "2"),
        ("temp_store", "2"),
    ] {
        assert_eq!(stats.pragmas[name], value, "{name}");
    }
}

#[test]
fn consecutive_failed_checkpoints_are_counted() {
    let store = store_with(Options::new().checkpoint_pages(1));
    until(&store, |stats| stats.last_finished_checkpoint_ago.is_some());
    store
        .read(|tx| {
            tx.exists("SELECT 1 FROM t", [])?;
            for id in 0.. {
                insert(&store, id)?;
                if store.stats().consecutive_unfinished_checkpoints >= 3 {
                    return Ok(());
                }
            }
            Ok(())
        })
        .unwrap();
    until(&store, |stats| stats.consecutive_unfinished_checkpoints == 0);
}

/// In another process, without larder.
pub(crate) fn child(task: &child::Task) {
    let conn = larder::rusqlite::Connection::open(&task.args[0]).unwrap();
    match task.role.as_str() {
        "write" => conn.execute_batch("INSERT INTO t VALUES (1000)").unwrap(),
        "write much" => {
            conn.execute_batch(
                "PRAGMA wal_autocheckpoint = 0;
                 CREATE TABLE big(data BLOB);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                 INSERT INTO big SELECT zeroblob(4000) FROM n;",
            )
            .unwrap();
            child::tell("written");
            child::listen();
        }
        "checkpoint" => {
            let all = "PRAGMA wal_checkpoint(RESTART)";
            let busy: bool = conn.query_row(all, [], |row| row.get(0)).unwrap();
            assert!(!busy);
            // The next commit of any process writes the log from its start.
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        }
        role => panic!("{role}"),
    }
}

#[test]
fn commits_of_another_process_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new().checkpoint_pages(1).open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let quiet = until(&store, |stats| stats.last_finished_checkpoint_ago.is_some());
    assert_eq!(quiet.external_commits, 0);
    // By itself, as another program would.
    Child::start("telemetry::stats", "write", &[path.to_str().unwrap()]).finish();
    let noticed = until(&store, |stats| stats.external_commits > 0);
    assert_eq!(noticed.external_commits, 1);
    for id in 0..100 {
        insert(&store, id).unwrap();
    }
    until(&store, |stats| stats.checkpoints > noticed.checkpoints);
    assert_eq!(store.stats().external_commits, 1, "only its own since");
    let found = store.advice();
    let finding = found
        .iter()
        .find(|finding| finding.topic == "external_commits")
        .unwrap();
    assert_eq!(finding.severity, Severity::Note, "{finding}");
}

/// The checkpoint of another process was taken for a commit.
#[test]
fn checkpoint_of_another_process_is_no_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new()
        .monitor_interval(Duration::from_millis(5))
        .open(&path)
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    for id in 0..3 {
        Child::start("telemetry::stats", "checkpoint", &[path.to_str().unwrap()]).finish();
        let before = store.stats().checkpoints;
        insert(&store, id).unwrap();
        until(&store, |stats| stats.checkpoints > before);
    }
    assert_eq!(store.stats().external_commits, 0);
    Child::start("telemetry::stats", "write", &[path.to_str().unwrap()]).finish();
    until(&store, |stats| stats.external_commits == 1);
}

/// A store that only read did not see the log grow.
#[test]
fn log_of_another_process_is_seen_by_idle_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new()
        .monitor_interval(Duration::from_millis(5))
        .wal_limit(1 << 20)
        .open(&path)
        .unwrap();
    let pages = store.stats().database.pages;
    let other = Child::start("telemetry::stats", "write much", &[path.to_str().unwrap()]);
    assert_eq!(other.line(), "written");
    let stats = store.stats();
    let file = std::fs::metadata(folder.path().join("app.db-wal")).unwrap().len();
    assert_eq!(stats.wal_bytes, file - 32);
    assert!(
        stats.wal_bytes > 4_000_000 && stats.largest_wal_bytes == stats.wal_bytes,
        "{stats:?}"
    );
    assert!(stats.database.pages > pages + 900, "{stats:?}");
    let kind = AlertKind::LargeWal;
    let alarmed = until(&store, |stats| stats.alerts.iter().any(|alert| alert.kind == kind));
    let alert = alarmed.alerts.iter().find(|alert| alert.kind == kind).unwrap();
    assert!(alert.reason.as_ref().unwrap().contains("another process"), "{alert:?}");
    assert_eq!(alert.measurement.value as u64, stats.wal_bytes);
    until(&store, |stats| stats.external_commits == 2);
    drop(other);
    // A write of the store has it checkpointed.
    store.write(|tx| tx.execute_batch("CREATE TABLE own(a)")).unwrap();
    until(&store, |stats| {
        serious(stats).is_empty() && stats.alerts.iter().all(|alert| alert.kind != kind)
    });
}

/// 63 of 100 stores that had just opened had no settings and no pages.
#[test]
fn open_store_has_its_size_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..50 {
        let path = folder.path().join(format!("{n}.db"));
        let store = Store::open(&path).unwrap();
        let stats = store.stats();
        assert!(
            stats.database.pages >= 1 && stats.database.page_size == 4096,
            "{stats:?}"
        );
        assert_eq!(stats.pragmas["journal_mode"], "wal");
    }
    let migrations = larder::Migrations::new([larder::Migration::new(
        1,
        "tables",
        "CREATE TABLE a(id INTEGER PRIMARY KEY) STRICT; CREATE TABLE b(id INTEGER PRIMARY KEY) STRICT;",
    )]);
    let store = Options::new().migrations(migrations).open_temp().unwrap();
    let pages: u64 = store
        .read(|tx| tx.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)))
        .unwrap()
        .unsigned_abs();
    assert_eq!(store.stats().database.pages, pages);
}

/// They were in no figure.
#[test]
fn writes_that_never_started_are_failures() {
    let store = store_with(Options::new().queue_capacity(2));
    let gate = Gate::hold(&store);
    let late = || WriteOptions::new().queue_timeout(Duration::from_millis(1));
    for _ in 0..2 {
        let error = store.write_with(late(), |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    }
    let queued: Vec<_> = (0..2).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    for _ in 0..3 {
        let at_once = WriteOptions::new().when_full(WhenFull::Fail);
        let error = store.write_with(at_once, |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
    }
    // In line for a full queue.
    let error = store.submit_with(late(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    gate.open();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    let stats = store.stats();
    let found: Vec<_> = stats.failures_by_error.into_iter().collect();
    assert_eq!(found, [("queue_full", 3), ("queue_timeout", 3)]);
    assert_eq!(stats.failed_writes, 6);
}

#[test]
fn write_withdrawn_once_is_counted_once() {
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let late = WriteOptions::new().queue_timeout(Duration::from_millis(1));
    let mut pending = store.submit_with(late, |_| Ok(())).unwrap();
    for _ in 0..3 {
        let error = pending.wait_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
        assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    }
    drop(pending);
    gate.open();
    assert_eq!(store.stats().failures_by_error["queue_timeout"], 1);
}

#[cfg(feature = "async")]
#[test]
fn async_calls_that_time_out_are_counted_once() {
    use crate::support::tasks::HeldRead;
    let store = store_with(Options::new().readers(1));
    let held = HeldRead::hold(&store);
    let late = ReadOptions::new().queue_timeout(Duration::from_millis(120));
    for _ in 0..2 {
        let read = store.read_async_with(late.clone(), |_| Ok(()));
        let error = futures_executor::block_on(read).unwrap_err();
        assert!(matches!(error, Error::ReadQueueTimeout { .. }), "{error:?}");
    }
    assert_eq!(store.stats().readers.timeouts, 2);
    let at_once = ReadOptions::new().when_full(WhenFull::Fail);
    let error = store.read_with(at_once, |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
    assert_eq!(store.stats().readers.refused, 1);
    held.let_go();
    let gate = Gate::hold(&store);
    let late = WriteOptions::new().queue_timeout(Duration::from_millis(1));
    let write = store.write_async_with(late, |_| Ok(()));
    let error = futures_executor::block_on(write).unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error:?}");
    gate.open();
    assert_eq!(store.stats().failures_by_error["queue_timeout"], 1);
}

/// They were all `Sqlite`.
#[test]
fn failures_are_told_apart_by_sqlites_code() {
    let store = store_with(Options::new().on_connect(|conn, role| {
        if role == larder::Role::Writer {
            conn.query_row("PRAGMA max_page_count = 50", [], |_| Ok(()))?;
        }
        Ok(())
    }));
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE p(id INTEGER PRIMARY KEY, u INTEGER UNIQUE, n INTEGER NOT NULL, c INTEGER CHECK (c > 0),
                     f INTEGER REFERENCES p, d INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED, b BLOB) STRICT;
                 CREATE TRIGGER refuses BEFORE DELETE ON p BEGIN SELECT RAISE(ABORT, 'no'); END;
                 INSERT INTO p(id, u, n) VALUES (1, 1, 1)",
            )
        })
        .unwrap();
    for (sql, kind) in [
        ("INSERT INTO p(id, n) VALUES (1, 1)", "sqlite_constraint_primarykey"),
        ("INSERT INTO p(u, n) VALUES (1, 1)", "sqlite_constraint_unique"),
        ("INSERT INTO p(n) VALUES (NULL)", "sqlite_constraint_notnull"),
        ("INSERT INTO p(n, c) VALUES (1, 0)", "sqlite_constraint_check"),
        ("INSERT INTO p(n, f) VALUES (1, 99)", "sqlite_constraint_foreignkey"),
        ("INSERT INTO p(n, d) VALUES (1, 99)", "sqlite_constraint_foreignkey"),
        ("INSERT INTO p(n) VALUES ('x')", "sqlite_constraint_datatype"),
        ("DELETE FROM p", "sqlite_constraint_trigger"),
        ("INSERT INTO p(n, b) VALUES (1, zeroblob(1000000))", "sqlite_full"),
        ("INSERT INTO nowhere VALUES (1)", "sqlite_error"),
        ("SELEC 1", "sqlite_error"),
        ("COMMIT", "refused"),
    ] {
        let before = store.stats().failures_by_error.get(kind).copied().unwrap_or_default();
        store.write(move |tx| tx.execute_batch(sql)).unwrap_err();
        let now = store.stats().failures_by_error.get(kind).copied().unwrap_or_default();
        assert_eq!(now, before + 1, "{sql}: {:?}", store.stats().failures_by_error);
    }
    let no_row = |tx: &WriteTx<'_>| tx.query_row("SELECT id FROM p WHERE id = 99", [], |row| row.get::<_, i64>(0));
    store.write(no_row).unwrap_err();
    let wrong_type = |tx: &WriteTx<'_>| tx.query_row("SELECT 'text'", [], |row| row.get::<_, i64>(0));
    store.write(wrong_type).unwrap_err();
    let failures = store.stats().failures_by_error;
    assert_eq!((failures["no_rows"], failures["conversion"]), (1, 1), "{failures:?}");
}

#[test]
fn statements_of_larder_itself_are_not_counted() {
    let store = store_with(Options::new().max_statements(100));
    let own = "SELECT count(*) FROM t";
    store
        .read(|tx| tx.query_row(own, [], |row| row.get::<_, i64>(0)))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    store.advice();
    store.check().full().run().unwrap();
    store.backup(folder.path().join("copy.db")).run().unwrap();
    store.advice();
    let stats = store.stats();
    let texts: Vec<_> = stats
        .statements
        .iter()
        .map(|statement| statement.sql.as_str())
        .collect();
    assert_eq!(texts, [own]);
    let internal = |site: &&CallSiteStats| site.site.starts_with("larder");
    assert_eq!(stats.call_sites.iter().find(internal), None);
}

/// 100 texts of 1 MB were 330 MB.
#[test]
fn long_statement_is_cut_in_statistics() {
    let store = store_with(Options::new().max_statements(10).readers(1));
    let text = |end: &str| format!("SELECT id FROM t WHERE id = ?1 /* {} {end} */", "ä".repeat(100_000));
    for (end, runs) in [("x", 1), ("y", 2)] {
        for _ in 0..runs {
            store.read(|tx| tx.exists(&text(end), [1])).unwrap();
        }
    }
    let stats = store.stats();
    let mut calls: Vec<_> = stats.statements.iter().map(|statement| statement.calls).collect();
    calls.sort_unstable();
    assert_eq!(calls, [1, 2], "each is counted by itself");
    for statement in &stats.statements {
        assert!(statement.sql.len() < 2200, "{}", statement.sql.len());
        let end = format!("; {} bytes, hash", text("x").len());
        assert!(
            statement.sql.starts_with("SELECT id") && statement.sql.contains(&end),
            "{}",
            statement.sql
        );
    }
    let label = ReadOptions::new().label("é".repeat(100_000));
    store.read_with(label, |_| Ok(())).unwrap();
    assert!(store.stats().call_sites.iter().all(|site| site.site.len() <= 256));
}

/// The cache of statements is bounded in number, too.
#[test]
fn long_statements_do_not_stay_in_memory() {
    let store = store_with(Options::new().readers(1));
    store
        .read(|tx| {
            for n in 0..20 {
                let text = format!("SELECT id FROM t WHERE id = ?1 /* {} {n} */", "-".repeat(1_000_000));
                for _ in 0..3 {
                    tx.exists(&text, [1])?;
                }
            }
            Ok(())
        })
        .unwrap();
    let memory = store.stats().page_cache.memory_bytes;
    assert!(memory > 0 && memory < 10_000_000, "{memory}");
}

fn with_rows(rows: i64) -> Store {
    let store = store_with(Options::new().max_statements(100).readers(1));
    store
        .write(move |tx| {
            tx.execute_batch(
                "CREATE TABLE o(id INTEGER PRIMARY KEY, t INTEGER, kind INTEGER) STRICT;
                 CREATE VIEW sums AS SELECT t, count(*) AS n FROM o GROUP BY t",
            )?;
            let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                        INSERT INTO o SELECT i, i % 1000, i % 7 FROM n";
            tx.execute(fill, [rows])?;
            tx.execute("INSERT INTO t SELECT DISTINCT t FROM o", [])
        })
        .unwrap();
    store
}

fn topics_of(sql: &str) -> Vec<String> {
    let store = with_rows(3000);
    store.read(|tx| tx.query_each(sql, [], |_| Ok(()))).unwrap();
    let about = |finding: &larder::Finding| finding.message.ends_with(sql);
    let found = store.advice().into_iter().filter(about);
    found
        .map(|finding| format!("{}: {}", finding.topic, finding.message))
        .collect()
}

/// No index can be created on the result of a view or a subquery.
#[test]
fn missing_index_names_a_table() {
    let of_table = topics_of("SELECT * FROM o AS a JOIN o AS b ON a.t = b.kind WHERE a.id < 10");
    assert!(
        of_table
            .iter()
            .any(|told| told.starts_with("missing_index: ") && told.contains("index of o ")),
        "{of_table:?}"
    );
    for sql in [
        "WITH c AS MATERIALIZED (SELECT t, count(*) AS n FROM o GROUP BY t) SELECT * FROM o CROSS JOIN c ON c.t = o.kind",
        "WITH c AS MATERIALIZED (SELECT t, count(*) AS n FROM o GROUP BY t) SELECT * FROM o CROSS JOIN c AS x ON x.t = o.kind",
        "SELECT * FROM o LEFT JOIN (SELECT t, count(*) AS n FROM o GROUP BY t) AS s ON s.t = o.kind",
        "SELECT * FROM o LEFT JOIN sums AS s ON s.t = o.kind",
    ] {
        let store = with_rows(3000);
        store.read(|tx| tx.query_each(sql, [], |_| Ok(()))).unwrap();
        let built = store
            .stats()
            .statements
            .iter()
            .any(|s| s.sql == sql && s.automatic_index_rows > 0);
        assert!(built, "SQLite plans otherwise now: {sql}");
        let told = topics_of(sql);
        assert!(!told.iter().any(|told| told.starts_with("missing_index")), "{told:?}");
    }
}

#[test]
fn export_of_whole_table_is_no_finding() {
    for sql in [
        "SELECT * FROM o",
        "SELECT kind, count(*) FROM o GROUP BY kind",
        "SELECT * FROM o WHERE kind >= 0",
        "WITH c AS MATERIALIZED (SELECT id FROM o) SELECT max(id) FROM c",
    ] {
        let told = topics_of(sql);
        assert!(
            !told
                .iter()
                .any(|told| told.starts_with("full_table_scan: a statement scans all of c")),
            "{told:?}"
        );
        if !sql.starts_with("WITH") {
            assert!(told.is_empty(), "{told:?}");
        }
    }
    for sql in [
        "SELECT * FROM o WHERE kind = 99",
        "SELECT max(t) FROM o",
        "SELECT * FROM o ORDER BY t LIMIT 3",
    ] {
        let told = topics_of(sql);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("full_table_scan: a statement scans all of o: "),
            "{told:?}"
        );
    }
}

#[test]
fn changed_rows_of_a_statement_are_counted() {
    let store = with_rows(3000);
    for sql in [
        "UPDATE o SET kind = kind + 1 WHERE kind >= 0",
        "DELETE FROM o WHERE kind = 3",
    ] {
        store.write(move |tx| tx.execute(sql, [])).unwrap();
    }
    let stats = store.stats();
    let of = |text: &str| stats.statements.iter().find(|s| s.sql.starts_with(text)).unwrap();
    let (update, delete) = (of("UPDATE"), of("DELETE"));
    assert_eq!(
        (update.rows_changed, update.scanned_tables.clone()),
        (3000, vec!["o".to_owned()])
    );
    assert!((400..500).contains(&delete.rows_changed), "{delete:?}");
    let told: Vec<_> = store
        .advice()
        .into_iter()
        .filter(|found| found.topic == "full_table_scan")
        .collect();
    assert!(
        told.len() == 1 && told[0].message.contains("DELETE FROM o"),
        "{told:#?}"
    );
}

#[cfg(feature = "serde")]
#[test]
fn kinds_and_severities_are_snake_case_in_json() {
    let kinds = [AlertKind::OldRead, AlertKind::DiskFull, AlertKind::BackupFailed];
    for kind in kinds {
        let json = serde_json::to_value(kind).unwrap();
        assert_eq!(json, kind.name());
        assert_eq!(json, kind.to_string());
        assert!(
            kind.name().chars().all(|c| c == '_' || c.is_ascii_lowercase()),
            "{kind}"
        );
    }
    for severity in [Severity::Note, Severity::Warning, Severity::Critical] {
        assert_eq!(serde_json::to_value(severity).unwrap(), severity.to_string());
    }
    let store = store_with(Options::new());
    insert(&store, 1).unwrap();
    insert(&store, 1).unwrap_err();
    let json = serde_json::to_value(store.stats()).unwrap();
    assert_eq!(json["failures_by_error"]["sqlite_constraint_primarykey"], 1, "{json}");
}
