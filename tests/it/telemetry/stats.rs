//! `Store::stats`: each field under a known load.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{CallSiteStats, Error, Operation, Options, ReadOptions, Result, Stats, Store, WriteOptions, WriteTx};

use crate::support::child::{self, Child};
use crate::support::{blocker, count, until};
use crate::write::groups::Gate;

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
    assert_eq!(found, [("App", 1), ("Refused", 1), ("Sqlite", 2), ("panic", 1)]);
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
    let store = store_with(Options::new());
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
    let store = store_with(Options::new());
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

/// In another process.
pub(crate) fn child(task: &child::Task) {
    let conn = larder::rusqlite::Connection::open(&task.args[0]).unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1000)").unwrap();
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
    let mut id = 0;
    until(&store, |stats| {
        insert(&store, id).unwrap();
        id += 1;
        stats.external_commits > 0
    });
    let topics: Vec<_> = store.advice().into_iter().map(|finding| finding.topic).collect();
    assert!(topics.contains(&"external_commits"), "{topics:?}");
}
