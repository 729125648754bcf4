//! Feature `metrics`: a Prometheus scrape agrees with `Store::stats`. The exporter is the real one, over HTTP. Each
//! test has its own store, whose path is a label of all its series.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use larder::rusqlite::Connection;
use larder::{Error, Migration, Migrations, Operation, Options, ReadOptions, ReplicaStats, Stats, Store, WriteOptions};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tempfile::tempdir;

use crate::support::child::PATIENCE;
use crate::support::prometheus::{Scrape, labels};
use crate::write::groups::Gate;

// ---- the exporter ----

/// Where this process's metrics are; the recorder is installed by whoever asks first.
fn exporter() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let metrics = PrometheusBuilder::new()
            .with_recommended_naming(true)
            .set_buckets(&[0.001, 0.01, 0.1, 1.0])
            .unwrap()
            .install_recorder()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        thread::spawn(|| serve(listener, metrics));
        url
    })
}

#[tokio::main(flavor = "current_thread")]
async fn serve(listener: TcpListener, metrics: PrometheusHandle) {
    let upkeep = metrics.clone();
    // Stores of other tests record, too.
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            upkeep.run_upkeep();
        }
    });
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let routes = Router::new().route("/metrics", get(|| async move { metrics.render() }));
    axum::serve(listener, routes).await.unwrap();
}

// ---- the documented table ----

pub(crate) struct Documented {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    unit: &'static str,
    labels: BTreeSet<String>,
    pub(crate) meaning: &'static str,
}

pub(crate) fn documented() -> Vec<Documented> {
    let rows = include_str!("../../../src/monitor/metrics/mod.rs").lines();
    let rows = rows.filter_map(|line| line.strip_prefix("//! | `"));
    let row = |row: &'static str| {
        let cells: Vec<_> = row.strip_suffix(" |").unwrap().split(" | ").collect();
        let [name, kind, unit, labels, meaning] = cells[..] else {
            panic!("{row}");
        };
        let labels = labels.split(", ").filter(|label| !label.trim().is_empty());
        let labels = labels.map(|label| label.trim_matches('`').replace('.', "_"));
        Documented {
            name: name.strip_suffix('`').unwrap(),
            kind,
            unit,
            labels: labels.chain(["db_namespace".to_owned()]).collect(),
            meaning,
        }
    };
    rows.map(row).collect()
}

impl Documented {
    /// As Prometheus would have it: with the unit, and `total` for a counter.
    pub(crate) fn scraped_name(&self) -> String {
        let name = self.name.replace('.', "_");
        let unit = if self.unit == "count" {
            String::new()
        } else {
            format!("_{}", self.unit)
        };
        let total = if self.kind == "counter" { "_total" } else { "" };
        format!("{name}{unit}{total}")
    }
}

#[test]
fn retention_is_exported_while_it_runs() {
    exporter();
    let store = Options::new()
        .monitor_interval(Duration::from_millis(20))
        .retain("t", "at", Duration::from_secs(3600))
        .migrations(Migrations::new([Migration::new(
            1,
            "t",
            "CREATE TABLE t(at INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1700000001), (1700000002), (unixepoch())",
        )]))
        .open_temp()
        .unwrap();
    let path = store.path().to_owned();
    until(&path, "larder_retention_rows_total", &[], |value| value == 2.0);
    until(&path, "larder_bulk_rows_total", &[], |value| value == 2.0);
    until(&path, "larder_retention_last_sweep_seconds", &[], |value| value > 1e9);
    until(&path, "larder_retention_failures", &[], |value| value == 0.0);
}

#[test]
fn bulk_jobs_are_exported_while_they_run() {
    exporter();
    let store = Options::new()
        .monitor_interval(Duration::from_millis(20))
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    let path = store.path().to_owned();
    let (sender, rows) = std::sync::mpsc::channel();
    let job = std::thread::spawn(move || {
        let report = store.bulk().insert("INSERT INTO t VALUES (?1)", rows).run();
        (store, report)
    });
    (0..100).for_each(|id| sender.send((id,)).unwrap());
    until(&path, "larder_bulk_jobs", &[], |value| value == 1.0);
    until(&path, "larder_bulk_rows_total", &[], |value| value == 100.0);
    until(&path, "larder_bulk_share", &[], |value| value > 0.0 && value < 1.0);
    drop(sender);
    let (_store, report) = job.join().unwrap();
    assert_eq!(report.unwrap().rows, 100);
    until(&path, "larder_bulk_jobs", &[], |value| value == 0.0);
}

// ---- what should be there ----

/// Each metric as the table names it, the labels that it has beside the path, and what it should be at; of a histogram how
/// many values it has.
type Expected = Vec<(&'static str, BTreeMap<String, String>, f64)>;

fn expected(stats: &Stats, path: &Path) -> Expected {
    let pool = ("db_client_connection_pool_name", path.to_str().unwrap());
    let of_pool = labels(&[pool]);
    let state = |state| labels(&[pool, ("db_client_connection_state", state)]);
    let none = || labels(&[]);
    let (readers, cache, database) = (&stats.readers, &stats.page_cache, &stats.database);
    let checkpoint = stats.last_checkpoint.unwrap_or_default();
    let mut all = vec![
        ("larder.store.open", none(), 1),
        (
            "db.client.connection.count",
            state("idle"),
            readers.open - readers.in_use,
        ),
        ("db.client.connection.count", state("used"), readers.in_use),
        ("db.client.connection.max", of_pool.clone(), readers.capacity as usize),
        ("db.client.connection.pending_requests", of_pool.clone(), readers.queued),
        ("db.client.connection.timeouts", of_pool, readers.timeouts as usize),
        ("larder.read.refused", none(), readers.refused as usize),
        ("larder.read.waits", none(), readers.waits as usize),
        ("larder.read.slow", none(), readers.slow_reads as usize),
        ("larder.read.queue.deepest", none(), readers.deepest_queue),
        ("larder.read.oldest", none(), 0),
        ("larder.stream.open", none(), readers.streams.open),
        ("larder.stream.begun", none(), readers.streams.begun as usize),
        ("larder.stream.rows", none(), readers.streams.rows as usize),
        (
            "larder.stream.consumer_wait",
            none(),
            readers.streams.consumer_wait.as_micros() as usize,
        ),
        (
            "larder.stream.idle_timeouts",
            none(),
            readers.streams.idle_timeouts as usize,
        ),
        ("larder.write.committed", none(), stats.committed_writes as usize),
        ("larder.write.slow", none(), stats.slow_writes as usize),
        ("larder.write.long_waits", none(), stats.long_waits as usize),
        ("larder.write.running", none(), 0),
        ("larder.write.queue.length", none(), stats.queued),
        ("larder.write.queue.deepest", none(), stats.deepest_queue),
        ("larder.write.queue.wait", none(), stats.queue_wait.count as usize),
        ("larder.write.execute", none(), stats.execute.count as usize),
        ("larder.transaction.committed", none(), stats.groups as usize),
        ("larder.transaction.writes", none(), stats.group_size.count as usize),
        ("larder.transaction.begin", none(), stats.begin.count as usize),
        ("larder.transaction.commit", none(), stats.commit.count as usize),
        ("larder.bulk.jobs", none(), 0),
        ("larder.bulk.rows", none(), 0),
        ("larder.bulk.share", none(), 0),
        ("larder.export.running", none(), 0),
        ("larder.export.rows", none(), 0),
        ("larder.retention.rows", none(), 0),
        ("larder.retention.last_sweep", none(), 0),
        ("larder.retention.failures", none(), 0),
        ("larder.wal.size", none(), stats.wal_bytes as usize),
        ("larder.wal.largest", none(), stats.largest_wal_bytes as usize),
        ("larder.checkpoint.finished", none(), stats.checkpoints as usize),
        (
            "larder.checkpoint.unfinished",
            none(),
            stats.unfinished_checkpoints as usize,
        ),
        (
            "larder.checkpoint.consecutive_unfinished",
            none(),
            stats.consecutive_unfinished_checkpoints as usize,
        ),
        ("larder.checkpoint.log_pages", none(), checkpoint.log_pages as usize),
        ("larder.checkpoint.moved_pages", none(), checkpoint.moved_pages as usize),
        ("larder.database.size", none(), database.bytes() as usize),
        ("larder.database.pages", none(), database.pages as usize),
        ("larder.database.free_pages", none(), database.free_pages as usize),
        (
            "larder.database.external_commits",
            none(),
            stats.external_commits as usize,
        ),
        ("larder.cache.hits", none(), cache.hits as usize),
        ("larder.cache.misses", none(), cache.misses as usize),
        ("larder.cache.written", none(), cache.written as usize),
        ("larder.cache.spills", none(), cache.spills as usize),
        ("larder.cache.memory", none(), cache.memory_bytes as usize),
    ];
    // 0 without a replica.
    let replica = stats.replica.as_ref();
    let of_replica = |value: fn(&ReplicaStats) -> u64| replica.map_or(0, value) as usize;
    all.extend([
        ("larder.replica.behind", none(), 0),
        (
            "larder.replica.uploaded",
            none(),
            of_replica(|replica| replica.uploaded),
        ),
        (
            "larder.replica.spool",
            none(),
            of_replica(|replica| replica.spool_bytes),
        ),
        ("larder.replica.uploads", none(), of_replica(|replica| replica.uploads)),
        (
            "larder.replica.upload_size",
            none(),
            of_replica(|replica| replica.uploaded_bytes),
        ),
        (
            "larder.replica.upload_errors",
            none(),
            of_replica(|replica| replica.failed_uploads),
        ),
        ("larder.replica.rebases", none(), of_replica(|replica| replica.rebases)),
        ("larder.follower.behind", none(), 0),
        ("larder.follower.applied", none(), 0),
        ("larder.follower.pages", none(), 0),
        ("larder.follower.resyncs", none(), 0),
        // These stores have none, and their times would not be the same twice.
        ("larder.replica.last_verified", none(), 0),
        ("larder.replica.last_snapshot", none(), 0),
    ]);
    for (kind, count) in &stats.failures_by_error {
        all.push(("larder.write.failed", labels(&[("error_type", kind)]), *count as usize));
    }
    for kind in [
        "slow_queue",
        "queue_full",
        "large_wal",
        "old_read",
        "stuck_checkpoint",
        "free_pages",
        "disk_full",
    ] {
        let active = stats.alerts.iter().any(|alert| alert.kind.name() == kind);
        all.push((
            "larder.alert",
            labels(&[("larder_alert_kind", kind)]),
            usize::from(active),
        ));
    }
    for site in &stats.call_sites {
        let operation = if site.operation == Operation::Read {
            "read"
        } else {
            "write"
        };
        let of_site = labels(&[("db_operation_name", operation), ("larder_site", &site.site)]);
        let mut of_closure = of_site.clone();
        of_closure.insert("db_system_name".into(), "sqlite".into());
        all.extend([
            ("db.client.operation.duration", of_closure, site.calls as usize),
            ("larder.site.calls", of_site.clone(), site.calls as usize),
            ("larder.site.errors", of_site.clone(), site.errors as usize),
            (
                "larder.site.time",
                of_site.clone(),
                site.total_time.as_micros() as usize,
            ),
            ("larder.site.rows_read", of_site.clone(), site.rows_read as usize),
            ("larder.site.rows_changed", of_site, site.rows_changed as usize),
        ]);
    }
    let with_path = |(name, mut labels, value): (_, BTreeMap<_, _>, usize)| {
        labels.insert("db_namespace".to_owned(), path.to_str().unwrap().to_owned());
        (name, labels, value as f64)
    };
    all.into_iter().map(with_path).collect()
}

/// What is not there, or differs.
fn differences(expected: &Expected, scrape: &Scrape, table: &[Documented]) -> Vec<String> {
    let difference = |(name, labels, value): &(&str, BTreeMap<String, String>, f64)| {
        let row = table.iter().find(|row| row.name == *name);
        let row = row.unwrap_or_else(|| panic!("{name} is not documented"));
        assert!(row.labels.iter().eq(labels.keys()), "{name}: {labels:?}");
        let suffix = if row.kind == "histogram" { "_count" } else { "" };
        let scraped = scrape.value(&format!("{}{suffix}", row.scraped_name()), labels);
        (scraped != Some(*value)).then(|| format!("{name} {labels:?}: {value}, scraped {scraped:?}"))
    };
    expected.iter().filter_map(difference).collect()
}

/// Waits until the exporter says of the store what its `stats` do, and gives both.
fn agreed(store: &Store, enough: impl Fn(&Stats) -> bool) -> (Stats, Scrape) {
    let table = documented();
    let give_up = Instant::now() + PATIENCE;
    loop {
        let scrape = Scrape::of(exporter());
        let stats = store.stats();
        let expected = expected(&stats, store.path());
        let differences = differences(&expected, &scrape, &table);
        if differences.is_empty() && enough(&stats) {
            let names: BTreeSet<_> = expected.iter().map(|(name, ..)| *name).collect();
            let documented: BTreeSet<_> = table.iter().map(|row| row.name).collect();
            assert_eq!(names, documented);
            return (stats, scrape);
        }
        assert!(Instant::now() < give_up, "{differences:#?} {stats:#?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a series is at that value.
fn until(path: &Path, name: &str, more_labels: &[(&str, &str)], holds: impl Fn(f64) -> bool) {
    let mut labels = labels(more_labels);
    labels.insert("db_namespace".into(), path.to_str().unwrap().into());
    let give_up = Instant::now() + PATIENCE;
    loop {
        let value = Scrape::of(exporter()).value(name, &labels);
        if value.is_some_and(&holds) {
            return;
        }
        assert!(Instant::now() < give_up, "{name} {labels:?} is {value:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

// ---- stores ----

fn options() -> Options {
    exporter();
    Options::new().monitor_interval(Duration::from_millis(20))
}

fn with_table(options: Options, path: &Path) -> Store {
    let store = options.open(path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store
}

fn insert(store: &Store, id: i64) -> larder::Result<i64> {
    let insert = WriteOptions::new().label("insert");
    store.write_with(insert, move |tx| tx.insert("INSERT INTO t VALUES (?1)", [id]))
}

fn ids(store: &Store) -> larder::Result<Vec<i64>> {
    store.read_with(ReadOptions::new().label("ids \"all\" \\ of them"), |tx| {
        tx.query_map("SELECT id FROM t", [], |row| row.get(0))
    })
}

/// Something of each kind that there is a metric for.
fn known_load(store: &Store) {
    let gate = Gate::hold(store);
    let group: Vec<_> = (0..5)
        .map(|id| {
            store
                .submit(move |tx| tx.insert("INSERT INTO t VALUES (?1)", [id]))
                .unwrap()
        })
        .collect();
    gate.open();
    for write in group {
        write.wait().unwrap();
    }
    for id in [10, 11, 10] {
        let _ = insert(store, id);
    }
    store.write(|_| Err::<(), _>(Error::app(std::fmt::Error))).unwrap_err();
    let slow = Duration::from_millis(3);
    store
        .write(move |_| {
            // The subject: time goes by.
            thread::sleep(slow);
            Ok(())
        })
        .unwrap();
    for _ in 0..3 {
        assert_eq!(ids(store).unwrap().len(), 7);
    }
    store
        .read(|tx| {
            thread::sleep(slow);
            // The only connection is in use.
            let other = thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let short = ReadOptions::new().queue_timeout(Duration::from_millis(1));
                    store.read_with(short, |_| Ok(()))
                });
                other.join().unwrap()
            });
            assert!(matches!(other, Err(Error::ReadQueueTimeout { .. })), "{other:?}");
            tx.query_row("SELECT nothing", [], |_| Ok(()))
        })
        .unwrap_err();
    // Another program writes, which is seen at a checkpoint after a write of ours.
    let other = Connection::open(store.path()).unwrap();
    other.execute_batch("INSERT INTO t VALUES (100)").unwrap();
    insert(store, 101).unwrap();
}

#[test]
fn every_documented_metric_agrees_with_stats() {
    let folder = tempdir().unwrap();
    let short = Duration::from_millis(1);
    let options = options()
        .readers(1)
        .slow_write_threshold(short)
        .slow_read_threshold(short);
    let store = with_table(options, &folder.path().join("it's \"the\" \\ store.db"));
    known_load(&store);
    let (stats, scrape) = agreed(&store, |stats| stats.checkpoints > 0 && stats.external_commits > 0);

    // The load was what it should be: no metric agrees just because all of it is zero.
    assert_eq!(
        (
            stats.committed_writes,
            stats.failed_writes,
            stats.failures_by_error.len()
        ),
        (11, 2, 2)
    );
    assert!(stats.readers.timeouts == 1 && stats.readers.waits > 0);
    assert!(stats.readers.slow_reads > 0 && stats.slow_writes > 0 && stats.deepest_queue >= 5);
    assert!(stats.wal_bytes > 0 && stats.database.pages > 1 && stats.page_cache.memory_bytes > 0);

    for row in documented() {
        let family = &scrape.0[&row.scraped_name()];
        assert_eq!(
            (family.kind.as_str(), family.help.as_str()),
            (row.kind, row.meaning),
            "{}",
            row.name
        );
    }
    for site in &stats.call_sites {
        check_durations(&scrape, store.path(), &site.site, site.total_time.as_secs_f64());
    }
    let sizes = labels(&[("db_namespace", store.path().to_str().unwrap())]);
    let sum = scrape.value("larder_transaction_writes_sum", &sizes);
    assert_eq!(sum, Some(stats.committed_writes as f64), "small numbers are exact");
}

/// The histogram of a site adds up, and has its buckets.
fn check_durations(scrape: &Scrape, path: &Path, site: &str, total: f64) {
    let (mut sum, mut count, mut buckets) = (0.0, 0.0, Vec::new());
    for ((name, labels), value) in &scrape.0["db_client_operation_duration_seconds"].samples {
        if labels["larder_site"] != site || Path::new(&labels["db_namespace"]) != path {
            continue;
        }
        match labels.get("le") {
            Some(le) => buckets.push((le.parse::<f64>().unwrap(), *value)),
            None if name.ends_with("_sum") => sum += value,
            None => count += value,
        }
    }
    assert!((sum - total).abs() <= total * 0.063, "{site}: {sum} of {total}");
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{site}");
    assert!(buckets.is_sorted_by(|(_, a), (_, b)| a <= b), "{site}: {buckets:?}");
}

/// The rate of a series that begins with its first failure misses that failure.
#[test]
fn failures_are_exported_as_zero_from_the_start() {
    let folder = tempdir().unwrap();
    let store = with_table(options(), &folder.path().join("app.db"));
    let path = store.path();
    for kind in [
        "app",
        "closed",
        "commit_unknown",
        "interrupted",
        "panic",
        "queue_full",
        "queue_timeout",
        "rolled_back",
        "sqlite_busy",
        "sqlite_constraint_unique",
        "sqlite_error",
        "sqlite_full",
        "spool_full",
        "sqlite_ioerr",
        "wal_full",
    ] {
        until(path, "larder_write_failed_total", &[("error_type", kind)], |failures| {
            failures == 0.0
        });
    }
    insert(&store, 1).unwrap();
    insert(&store, 1).unwrap_err();
    let kind = [("error_type", "sqlite_constraint_primarykey")];
    until(path, "larder_write_failed_total", &kind, |failures| failures == 1.0);
}

#[test]
fn gauges_follow_current_activity() {
    let folder = tempdir().unwrap();
    let store = with_table(options(), &folder.path().join("app.db"));
    let path = store.path();
    let pool = ("db_client_connection_pool_name", path.to_str().unwrap());
    let gate = Gate::hold(&store);
    let queued: Vec<_> = (0..3).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    until(path, "larder_write_queue_length", &[], |length| length == 3.0);
    until(path, "larder_write_running_seconds", &[], |age| age > 0.0);
    let reading = store.read(|_| {
        let used = [pool, ("db_client_connection_state", "used")];
        until(path, "db_client_connection_count", &used, |used| used == 1.0);
        until(path, "larder_read_oldest_seconds", &[], |age| age > 0.0);
        Ok(())
    });
    reading.unwrap();
    gate.open();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    until(path, "larder_write_queue_length", &[], |length| length == 0.0);
    until(path, "larder_write_running_seconds", &[], |age| age == 0.0);
    until(path, "larder_read_oldest_seconds", &[], |age| age == 0.0);
}

#[test]
fn reopened_store_continues_its_counters() {
    let folder = tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("app.db");
    let store = with_table(options(), &path);
    until(&path, "larder_store_open", &[], |open| open == 1.0);
    until(&path, "larder_cache_memory_bytes", &[], |memory| memory > 0.0);
    for id in 0..10 {
        insert(&store, id).unwrap();
    }
    store.close().unwrap();
    for gauge in [
        "larder_store_open",
        "larder_cache_memory_bytes",
        "larder_wal_largest_bytes",
    ] {
        until(&path, gauge, &[], |value| value == 0.0);
    }
    until(&path, "larder_write_committed_total", &[], |writes| writes == 11.0);
    until(&path, "larder_write_execute_seconds_count", &[], |writes| {
        writes == 11.0
    });
    drop(store);
    let store = with_table(options(), &path);
    insert(&store, 10).unwrap();
    until(&path, "larder_store_open", &[], |open| open == 1.0);
    until(&path, "larder_write_committed_total", &[], |writes| writes == 13.0);
}

#[test]
fn stores_are_distinguished_by_path() {
    let folder = tempdir().unwrap();
    let stores = ["a.db", "b.db"].map(|name| with_table(options(), &folder.path().join(name)));
    for (store, writes) in stores.iter().zip([3, 5]) {
        for id in 0..writes {
            insert(store, id).unwrap();
        }
    }
    for (store, writes) in stores.iter().zip([4.0, 6.0]) {
        until(store.path(), "larder_write_committed_total", &[], |told| told == writes);
    }
}
