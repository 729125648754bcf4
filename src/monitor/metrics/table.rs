//! The table of all metrics, with their meanings and sources. The documentation of `larder::metrics` repeats it.

use std::time::Duration;

use histogram::Histogram;
use metrics::{Recorder, SharedString, Unit};

use super::exporter::ExportSample;
use crate::monitor::rules::RULES;
use crate::telemetry::alert::AlertKind;
use crate::telemetry::histogram::Amounts;
use crate::telemetry::stats::{Activity, CallSiteStats, Operation};
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
    gauge("larder.store.open", Unit::Count, "1 while the store is open, 0 once it is closed.", |_| one(1.0)),

    histogram("db.client.operation.duration", Unit::Seconds,
        "How long closures took, without what they waited for, and without a write's commit.",
        durations).labelled(CLOSURE),
    counter("larder.site.calls", "How often a call site's closure ran.",
        |sample| sites(sample, |site| site.calls)).labelled(SITE),
    counter("larder.site.errors", "How often a call site's closure failed, or was rolled back with others.",
        |sample| sites(sample, |site| site.errors)).labelled(SITE),
    counter("larder.site.time", "How long a call site's closure took, all in all.",
        |sample| sites(sample, |site| micros(site.total_time))).in_unit(Unit::Microseconds).labelled(SITE),
    counter("larder.site.rows_read", "Rows that a call site got from queries.",
        |sample| sites(sample, |site| site.rows_read)).labelled(SITE),
    counter("larder.site.rows_changed", "Rows that a call site inserted, updated or deleted.",
        |sample| sites(sample, |site| site.rows_changed)).labelled(SITE),

    gauge("db.client.connection.count", Unit::Count, "Connections for reads that are open.",
        connections).labelled(STATE),
    gauge("db.client.connection.max", Unit::Count, "Connections for reads that there may be.",
        |sample| pool(sample, f64::from(sample.stats.readers.capacity))).labelled(POOL),
    gauge("db.client.connection.pending_requests", Unit::Count, "Reads that tasks wait for, not yet started.",
        |sample| pool(sample, sample.stats.readers.queued as f64)).labelled(POOL),
    counter("db.client.connection.timeouts", "Reads that got no connection in time.",
        |sample| pool(sample, sample.stats.readers.timeouts)).labelled(POOL),
    counter("larder.read.waits", "Reads that found no connection free at once.",
        |sample| one(sample.stats.readers.waits)),
    counter("larder.read.slow", "Reads that were slow.", |sample| one(sample.stats.readers.slow_reads)),
    gauge("larder.read.queue.deepest", Unit::Count, "The most reads that tasks have waited for at a time.",
        |sample| one(sample.stats.readers.deepest_queue as f64)),
    gauge("larder.read.oldest", Unit::Seconds, "How long the oldest read that goes on has run, 0 if none does.",
        |sample| one(age(sample.stats.readers.oldest_read.as_ref()))),

    counter("larder.write.committed", "Writes that were committed.", |sample| one(sample.stats.committed_writes)),
    counter("larder.write.failed", "Writes that were rolled back, or not started, by what they failed with.",
        failures).labelled(&["error.type"]),
    counter("larder.write.slow", "Writes that were slow.", |sample| one(sample.stats.slow_writes)),
    counter("larder.write.long_waits", "Writes that waited for longer than 100 ms to be started.",
        |sample| one(sample.stats.long_waits)),
    gauge("larder.write.running", Unit::Seconds, "How long the write that runs now has run, 0 if none does.",
        |sample| one(age(sample.stats.running_write.as_ref()))),
    gauge("larder.write.queue.length", Unit::Count, "Writes that are queued, or in line for the queue.",
        |sample| one(sample.stats.queued as f64)),
    gauge("larder.write.queue.deepest", Unit::Count, "The most writes that were queued, or in line for the queue.",
        |sample| one(sample.stats.deepest_queue as f64)),
    histogram("larder.write.queue.wait", Unit::Seconds, "How long writes waited to be started.",
        |sample| all(&sample.counters.queue_wait)),
    histogram("larder.write.execute", Unit::Seconds, "How long the closures of writes took.",
        |sample| all(&sample.counters.execute)),

    counter("larder.transaction.committed", "Transactions that carried the committed writes.",
        |sample| one(sample.stats.groups)),
    histogram("larder.transaction.writes", Unit::Count, "How many writes a transaction has carried.",
        |sample| all(&sample.counters.group_size)),
    histogram("larder.transaction.begin", Unit::Seconds, "How long BEGIN took, with other processes' locks.",
        |sample| all(&sample.counters.begin)),
    histogram("larder.transaction.commit", Unit::Seconds, "How long COMMIT took.",
        |sample| all(&sample.counters.commit)),

    gauge("larder.wal.size", Unit::Bytes, "Bytes of the write-ahead log in use.",
        |sample| one(sample.stats.wal_bytes as f64)),
    gauge("larder.wal.largest", Unit::Bytes, "Most bytes of the write-ahead log that were in use.",
        |sample| one(sample.stats.largest_wal_bytes as f64)),
    counter("larder.checkpoint.finished", "Checkpoints that moved all of the log.",
        |sample| one(sample.stats.checkpoints)),
    counter("larder.checkpoint.unfinished", "Checkpoints that could not move all of the log.",
        |sample| one(sample.stats.unfinished_checkpoints)),
    gauge("larder.checkpoint.consecutive_unfinished", Unit::Count, "Unfinished checkpoints since one has moved all of it.",
        |sample| one(sample.stats.consecutive_unfinished_checkpoints as f64)),
    gauge("larder.checkpoint.log_pages", Unit::Count, "Pages that were in the log at the last checkpoint.",
        |sample| one(sample.stats.last_checkpoint.map_or(0.0, |last| last.log_pages as f64))),
    gauge("larder.checkpoint.moved_pages", Unit::Count, "Those of the pages in the log that it had moved at its end.",
        |sample| one(sample.stats.last_checkpoint.map_or(0.0, |last| last.moved_pages as f64))),

    gauge("larder.database.size", Unit::Bytes, "Bytes of the database, at the last checkpoint.",
        |sample| one(sample.stats.database.bytes() as f64)),
    gauge("larder.database.pages", Unit::Count, "Pages of the database, at the last checkpoint.",
        |sample| one(sample.stats.database.pages as f64)),
    gauge("larder.database.free_pages", Unit::Count, "Pages of the database that nothing was in.",
        |sample| one(sample.stats.database.free_pages as f64)),
    counter("larder.database.external_commits", "How often it was seen that another process had written.",
        |sample| one(sample.stats.external_commits)),

    counter("larder.cache.hits", "Pages that were found in a cache.", |sample| one(sample.stats.page_cache.hits)),
    counter("larder.cache.misses", "Pages that had to be read from the file.", |sample| one(sample.stats.page_cache.misses)),
    counter("larder.cache.written", "Pages that were written.", |sample| one(sample.stats.page_cache.written)),
    counter("larder.cache.spills", "Pages that were written before the commit, since the cache was full.",
        |sample| one(sample.stats.page_cache.spills)),
    gauge("larder.cache.memory", Unit::Bytes, "Bytes that caches, schemas and prepared statements take.",
        |sample| one(sample.stats.page_cache.memory_bytes as f64)),

    gauge("larder.alert", Unit::Count, "1 while an alert lasts, otherwise 0.",
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
    let failures = sample.stats.failures_by_error.iter();
    failures.map(|(kind, count)| (vec![(*kind).into()], *count)).collect()
}

fn alerts(sample: &ExportSample<'_>) -> LabelledValues<f64> {
    let active = |kind| sample.stats.alerts.iter().any(|alert| alert.kind == kind);
    let series = |kind: AlertKind| (vec![kind.name().into()], f64::from(u8::from(active(kind))));
    RULES.iter().map(|rule| series(rule.kind)).collect()
}
