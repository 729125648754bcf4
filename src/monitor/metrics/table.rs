//! The table of all metrics, with their meanings and sources. The documentation of `larder::metrics` repeats it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use histogram::Histogram;
use metrics::{Recorder, SharedString, Unit};

use super::exporter::ExportSample;
use crate::error::Error;
use crate::monitor::rules::RULES;
use crate::telemetry::alert::AlertKind;
use crate::telemetry::histogram::Amounts;
use crate::telemetry::stats::{
    Activity, CallSiteStats, FollowerStats, LastVerify, Operation, ReplicaStats, RetentionStats,
};
use crate::telemetry::usage;

pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// Labels in addition to `db.namespace`, which all metrics have.
    pub(super) labels: &'static [&'static str],
    pub(super) meaning: &'static str,
    pub(super) values: Values,
}

pub(super) enum Values {
    Counters(fn(&ExportSample<'_>) -> LabelledValues<u64>),
    Gauges(fn(&ExportSample<'_>) -> LabelledValues<f64>),
    /// Histograms of times in nanoseconds, if the unit is seconds.
    Histograms(fn(&ExportSample<'_>) -> LabelledValues<Histogram>),
}

/// Values, each with the values of its labels in the metric's order.
type LabelledValues<T> = Vec<(Vec<SharedString>, T)>;

const POOL: &[&str] = &["db.client.connection.pool.name"];
const STATE: &[&str] = &["db.client.connection.pool.name", "db.client.connection.state"];
const CLOSURE: &[&str] = &["db.system.name", "db.operation.name", "larder.site"];
const SITE: &[&str] = &["db.operation.name", "larder.site"];

/// The metrics. Names follow OpenTelemetry's conventions for databases, where one exists.
// Keeps each row on a line or two.
#[rustfmt::skip]
pub(super) const METRICS: &[Metric] = &[
    gauge("larder.store.open", Unit::Count, "1 while the store is open, 0 after it is closed.", |_| one(1.0)),

    histogram("db.client.operation.duration", Unit::Seconds,
        "Run time of closures, without queue wait and without the commit of a write.",
        durations).labelled(CLOSURE),
    counter("larder.site.calls", "Number of runs of the closure of a call site.",
        |sample| sites(sample, |site| site.calls)).labelled(SITE),
    counter("larder.site.errors", "Number of runs that failed, or were rolled back with their group.",
        |sample| sites(sample, |site| site.errors)).labelled(SITE),
    counter("larder.site.time", "Total run time of the closure of a call site.",
        |sample| sites(sample, |site| micros(site.total_time))).in_unit(Unit::Microseconds).labelled(SITE),
    counter("larder.site.rows_read", "Number of rows that the queries of a call site returned.",
        |sample| sites(sample, |site| site.rows_read)).labelled(SITE),
    counter("larder.site.rows_changed", "Number of rows that a call site inserted, updated or deleted.",
        |sample| sites(sample, |site| site.rows_changed)).labelled(SITE),

    gauge("db.client.connection.count", Unit::Count, "Number of open reading connections.",
        connections).labelled(STATE),
    gauge("db.client.connection.max", Unit::Count, "Maximum number of reading connections.",
        |sample| pool(sample, f64::from(sample.stats.readers.capacity))).labelled(POOL),
    gauge("db.client.connection.pending_requests", Unit::Count, "Number of async reads and streams that wait to start.",
        |sample| pool(sample, sample.stats.readers.queued as f64)).labelled(POOL),
    counter("db.client.connection.timeouts", "Number of reads that got no connection in time.",
        |sample| pool(sample, sample.stats.readers.timeouts)).labelled(POOL),
    counter("larder.read.refused", "Number of reads that found no connection or a full queue, and did not wait.",
        |sample| one(sample.stats.readers.refused)),
    counter("larder.read.waits", "Number of reads that found no idle connection.",
        |sample| one(sample.stats.readers.waits)),
    counter("larder.read.slow", "Number of slow reads.", |sample| one(sample.stats.readers.slow_reads)),
    gauge("larder.read.queue.deepest", Unit::Count, "High-water mark of async reads, or of streams, that waited to start.",
        |sample| one(sample.stats.readers.deepest_queue as f64)),
    gauge("larder.read.oldest", Unit::Seconds, "Age of the oldest running read; 0 if there is none.",
        |sample| one(age(sample.stats.readers.oldest_read.as_ref()))),

    gauge("larder.stream.open", Unit::Count, "Number of streams that have begun and not ended.",
        |sample| one(sample.stats.readers.streams.open as f64)),
    counter("larder.stream.begun", "Number of streams that have begun.", |sample| one(sample.stats.readers.streams.begun)),
    counter("larder.stream.rows", "Number of rows that the consumers of streams have taken.",
        |sample| one(sample.stats.readers.streams.rows)),
    counter("larder.stream.consumer_wait", "Time that streams waited for their consumers.",
        |sample| one(micros(sample.stats.readers.streams.consumer_wait))).in_unit(Unit::Microseconds),
    counter("larder.stream.idle_timeouts", "Number of streams that were ended because their consumer was idle.",
        |sample| one(sample.stats.readers.streams.idle_timeouts)),

    counter("larder.write.committed", "Number of committed writes.", |sample| one(sample.stats.committed_writes)),
    counter("larder.write.failed", "Number of writes that were rolled back or did not start, by error.",
        failures).labelled(&["error.type"]),
    counter("larder.write.slow", "Number of slow writes.", |sample| one(sample.stats.slow_writes)),
    counter("larder.write.long_waits", "Number of writes that waited longer than 100 ms to start.",
        |sample| one(sample.stats.long_waits)),
    gauge("larder.write.running", Unit::Seconds, "Age of the running write; 0 if there is none.",
        |sample| one(age(sample.stats.running_write.as_ref()))),
    gauge("larder.write.queue.length", Unit::Count, "Number of writes in the queue or in line for it.",
        |sample| one(sample.stats.queued as f64)),
    gauge("larder.write.queue.deepest", Unit::Count, "High-water mark of writes in the queue or in line for it.",
        |sample| one(sample.stats.deepest_queue as f64)),
    histogram("larder.write.queue.wait", Unit::Seconds, "Time that writes waited to start.",
        |sample| all(&sample.counters.queue_wait)),
    histogram("larder.write.execute", Unit::Seconds, "Run time of the closures of writes.",
        |sample| all(&sample.counters.execute)),

    counter("larder.transaction.committed", "Number of transactions that committed at least one write.",
        |sample| one(sample.stats.groups)),
    histogram("larder.transaction.writes", Unit::Count, "Number of writes in each transaction.",
        |sample| all(&sample.counters.group_size)),
    histogram("larder.transaction.begin", Unit::Seconds, "Duration of BEGIN, including the wait for locks of other \
                                                          processes.",
        |sample| all(&sample.counters.begin)),
    histogram("larder.transaction.commit", Unit::Seconds, "Duration of COMMIT.",
        |sample| all(&sample.counters.commit)),

    gauge("larder.bulk.jobs", Unit::Count, "Number of bulk jobs that run; a sweep of a retention is one.",
        |sample| one(sample.stats.bulk.len() as f64)),
    counter("larder.bulk.rows", "Number of rows that bulk jobs have committed.", |sample| one(sample.stats.bulk_rows)),
    gauge("larder.bulk.share", Unit::Count, "Part of the time for which the running bulk jobs had the writer thread, from 0 \
                                             to 1.",
        |sample| one(sample.stats.bulk.iter().map(|job| job.share).sum())),
    gauge("larder.export.running", Unit::Count, "Number of exports to PostgreSQL that run, dry runs too.",
        |sample| one(sample.stats.exports.len() as f64)),
    counter("larder.export.rows", "Number of rows that exports have committed at their servers.",
        |sample| one(sample.stats.exported_rows)),
    counter("larder.retention.rows", "Number of old rows that retentions have deleted.",
        |sample| one(sample.stats.retention_rows)),
    gauge("larder.retention.last_sweep", Unit::Seconds, "Time of the last sweep that left no old rows, in seconds since 1970, \
                                                         of the retention where it is longest ago; 0 before the first.",
        |sample| one(last_sweep(&sample.stats.retention))),
    gauge("larder.retention.failures", Unit::Count, "Number of sweeps that failed since the last one that succeeded, of the \
                                                     retention that has most.",
        |sample| one(sample.stats.retention.iter().map(|retention| retention.failures_in_a_row as f64).fold(0.0, f64::max))),

    gauge("larder.wal.size", Unit::Bytes, "Number of bytes in use in the WAL.",
        |sample| one(sample.stats.wal_bytes as f64)),
    gauge("larder.wal.largest", Unit::Bytes, "High-water mark of the bytes in use in the WAL.",
        |sample| one(sample.stats.largest_wal_bytes as f64)),
    counter("larder.checkpoint.finished", "Number of checkpoints that moved the whole WAL.",
        |sample| one(sample.stats.checkpoints)),
    counter("larder.checkpoint.unfinished", "Number of checkpoints that moved only a part of the WAL.",
        |sample| one(sample.stats.unfinished_checkpoints)),
    gauge("larder.checkpoint.consecutive_unfinished", Unit::Count, "Number of unfinished checkpoints since one moved \
                                                                    the whole WAL.",
        |sample| one(sample.stats.consecutive_unfinished_checkpoints as f64)),
    gauge("larder.checkpoint.log_pages", Unit::Count, "Number of pages in the WAL at the last checkpoint.",
        |sample| one(sample.stats.last_checkpoint.map_or(0.0, |last| last.log_pages as f64))),
    gauge("larder.checkpoint.moved_pages", Unit::Count, "Number of these pages that were in the database file after it.",
        |sample| one(sample.stats.last_checkpoint.map_or(0.0, |last| last.moved_pages as f64))),

    gauge("larder.database.size", Unit::Bytes, "Size of the database.",
        |sample| one(sample.stats.database.bytes() as f64)),
    gauge("larder.database.pages", Unit::Count, "Number of pages of the database.",
        |sample| one(sample.stats.database.pages as f64)),
    gauge("larder.database.free_pages", Unit::Count, "Number of free pages of the database at the last checkpoint.",
        |sample| one(sample.stats.database.free_pages as f64)),
    counter("larder.database.external_commits", "Number of commits of other processes.",
        |sample| one(sample.stats.external_commits)),

    counter("larder.cache.hits", "Number of pages found in a page cache.", |sample| one(sample.stats.page_cache.hits)),
    counter("larder.cache.misses", "Number of pages read from the file.", |sample| one(sample.stats.page_cache.misses)),
    counter("larder.cache.written", "Number of pages written.", |sample| one(sample.stats.page_cache.written)),
    counter("larder.cache.spills", "Number of pages written before the commit because the cache was full.",
        |sample| one(sample.stats.page_cache.spills)),
    gauge("larder.cache.memory", Unit::Bytes, "Memory that caches, schemas and prepared statements use.",
        |sample| one(sample.stats.page_cache.memory_bytes as f64)),

    gauge("larder.replica.behind", Unit::Seconds, "Age of the oldest capture that is not in the replica.",
        |sample| replica(sample, |replica| replica.behind.as_secs_f64())),
    gauge("larder.replica.uploaded", Unit::Count, "Number of the last transaction in the replica.",
        |sample| replica(sample, |replica| replica.uploaded as f64)),
    gauge("larder.replica.spool", Unit::Bytes, "Number of bytes that wait to be uploaded or, after that, to be merged.",
        |sample| replica(sample, |replica| replica.spool_bytes as f64)),
    counter("larder.replica.uploads", "Number of files that were uploaded to the replica.",
        |sample| replica(sample, |replica| replica.uploads)),
    counter("larder.replica.upload_size", "Number of bytes in these files.",
        |sample| replica(sample, |replica| replica.uploaded_bytes)).in_unit(Unit::Bytes),
    counter("larder.replica.upload_errors", "Number of uploads that failed and were tried again.",
        |sample| replica(sample, |replica| replica.failed_uploads)),
    counter("larder.replica.rebases", "Number of times that the whole database had to be captured once more.",
        |sample| replica(sample, |replica| replica.rebases)),
    gauge("larder.replica.last_verified", Unit::Seconds, "Time of the last verification of the replica, in seconds since \
                                                          1970; 0 before the first.",
        |sample| replica(sample, |replica| replica.last_verify.as_ref().map_or(0.0, seconds_since_1970))),
    gauge("larder.replica.last_snapshot", Unit::Seconds, "Time of the newest snapshot in the replica, in seconds since 1970; \
                                                          0 if there is none.",
        |sample| replica(sample, |replica| replica.last_snapshot.map_or(0.0, unix_time))),

    gauge("larder.follower.behind", Unit::Seconds, "Time since a follower was known to have all that was in the replica.",
        |sample| follower(sample, |follower| follower.behind.as_secs_f64())),
    gauge("larder.follower.applied", Unit::Count, "Number of the last transaction of the replica that was applied.",
        |sample| follower(sample, |follower| follower.txid as f64)),
    counter("larder.follower.pages", "Number of pages that a follower wrote for the replica's transactions.",
        |sample| follower(sample, |follower| follower.pages)),
    counter("larder.follower.resyncs", "Number of times that a follower's database was compared with the newest state.",
        |sample| follower(sample, |follower| follower.resyncs)),

    gauge("larder.alert", Unit::Count, "1 while an alert is active, otherwise 0.",
        alerts).labelled(&["larder.alert.kind"]),
];

const fn counter(
    name: &'static str,
    meaning: &'static str,
    values: fn(&ExportSample<'_>) -> LabelledValues<u64>,
) -> Metric {
    metric(name, Unit::Count, meaning, Values::Counters(values))
}

const fn gauge(
    name: &'static str,
    unit: Unit,
    meaning: &'static str,
    values: fn(&ExportSample<'_>) -> LabelledValues<f64>,
) -> Metric {
    metric(name, unit, meaning, Values::Gauges(values))
}

const fn histogram(
    name: &'static str,
    unit: Unit,
    meaning: &'static str,
    values: fn(&ExportSample<'_>) -> LabelledValues<Histogram>,
) -> Metric {
    metric(name, unit, meaning, Values::Histograms(values))
}

const fn metric(name: &'static str, unit: Unit, meaning: &'static str, values: Values) -> Metric {
    Metric {
        name,
        unit,
        labels: &[],
        meaning,
        values,
    }
}

impl Metric {
    const fn labelled(mut self, labels: &'static [&'static str]) -> Self {
        self.labels = labels;
        self
    }

    const fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    pub(super) fn describe(&self, to: &dyn Recorder) {
        let (name, unit, meaning) = (self.name.into(), Some(self.unit), self.meaning.into());
        match self.values {
            Values::Counters(_) => to.describe_counter(name, unit, meaning),
            Values::Gauges(_) => to.describe_gauge(name, unit, meaning),
            Values::Histograms(_) => to.describe_histogram(name, unit, meaning),
        }
    }
}

fn one<T>(value: T) -> LabelledValues<T> {
    vec![(Vec::new(), value)]
}

fn seconds_since_1970(last: &LastVerify) -> f64 {
    unix_time(last.ago)
}

/// The time that was so long ago.
fn unix_time(ago: Duration) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(ago).as_secs_f64()
}

/// 0 without a replica.
fn replica<T: Default>(sample: &ExportSample<'_>, value: fn(&ReplicaStats) -> T) -> LabelledValues<T> {
    one(sample.stats.replica.as_ref().map_or_else(T::default, value))
}

/// 0 for a store.
fn follower<T: Default>(sample: &ExportSample<'_>, value: fn(&FollowerStats) -> T) -> LabelledValues<T> {
    one(sample.stats.follower.as_ref().map_or_else(T::default, value))
}

fn last_sweep(retentions: &[RetentionStats]) -> f64 {
    let swept = retentions
        .iter()
        .map(|retention| retention.last_sweep_ago.map_or(0.0, unix_time));
    swept.reduce(f64::min).unwrap_or_default()
}

fn all(amounts: &Amounts) -> LabelledValues<Histogram> {
    one(amounts.load())
}

fn age(activity: Option<&Activity>) -> f64 {
    activity.map_or(0.0, |activity| activity.age.as_secs_f64())
}

/// OpenTelemetry requires a pool name that is unique within the application: the path.
fn pool<T>(sample: &ExportSample<'_>, value: T) -> LabelledValues<T> {
    vec![(vec![sample.path.clone()], value)]
}

fn connections(sample: &ExportSample<'_>) -> LabelledValues<f64> {
    let readers = &sample.stats.readers;
    // The two numbers are not read at the same moment.
    let idle = readers.open.saturating_sub(readers.in_use);
    let series = |(state, count): (&'static str, usize)| (vec![sample.path.clone(), state.into()], count as f64);
    [("idle", idle), ("used", readers.in_use)].map(series).into()
}

fn durations(sample: &ExportSample<'_>) -> LabelledValues<Histogram> {
    let mut series = Vec::new();
    for (operation, sites) in sample.sites {
        let times = usage::times(sites).into_iter();
        series.extend(times.map(|(site, times)| (vec!["sqlite".into(), name(operation), site.into()], times)));
    }
    series
}

fn sites(sample: &ExportSample<'_>, value: fn(&CallSiteStats) -> u64) -> LabelledValues<u64> {
    let series = |site: &CallSiteStats| (vec![name(site.operation), site.site.clone().into()], value(site));
    sample.stats.call_sites.iter().map(series).collect()
}

fn name(operation: Operation) -> SharedString {
    match operation {
        Operation::Read => "read".into(),
        Operation::Write => "write".into(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn failures(sample: &ExportSample<'_>) -> LabelledValues<u64> {
    let counted = &sample.stats.failures_by_error;
    let known = Error::kinds_of_writes().map(|kind| (kind, counted.get(kind).copied().unwrap_or_default()));
    let mut failures: BTreeMap<_, _> = known.collect();
    failures.extend(counted);
    let series = |(kind, count): (&'static str, u64)| (vec![kind.into()], count);
    failures.into_iter().map(series).collect()
}

fn alerts(sample: &ExportSample<'_>) -> LabelledValues<f64> {
    let active = |kind| sample.stats.alerts.iter().any(|alert| alert.kind == kind);
    let series = |kind: AlertKind| (vec![kind.name().into()], f64::from(u8::from(active(kind))));
    RULES.iter().map(|rule| series(rule.kind)).collect()
}
