//! Exports [`Store::stats`](crate::Store::stats) to the recorder of the `metrics` facade. `table.rs` lists the metrics.
//!
//! The code paths of reads and writes do not know of the exporter. They count for [`Stats`] as they do without it; at
//! each tick the exporter copies the measurements, on a thread that neither reads nor writes. So metrics cost a read or
//! a write nothing, and the cost of a tick does not depend on their number. Only histograms are exported value by
//! value: the facade has `record_many`, but exporters make a loop of it (`metrics-exporter-prometheus` 0.18: 30 ns, and
//! 16 bytes until it is scraped or its upkeep has run). The rest of a tick takes 30 us, and 10 us for each call site on
//! 8 connections.
//!
//! Handles are not kept from one tick to the next. A handle made before a recorder was installed stays a no-op, and so
//! does one whose series the exporter has dropped, as Prometheus's does with an `idle_timeout`. Registering again is a
//! table lookup.
//!
//! Each tick adds the difference to the previous tick, for counters, too. `Counter::absolute` keeps the greater of two
//! values: the counters of a reopened store would stand still until they caught up with those of the closed one.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use histogram::{Bucket, Histogram};
use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, Unit};

use crate::monitor::metrics::table::{METRICS, Metric, Values};
use crate::telemetry::Telemetry;
use crate::telemetry::counters::Counters;
use crate::telemetry::stats::{Operation, Stats};
use crate::telemetry::usage::CallSiteTable;

const METADATA: Metadata<'static> = Metadata::new("larder", Level::INFO, None);

/// The exporter of one store. Its drop sets the gauges to zero; they would keep their last values otherwise.
pub(crate) struct Exporter {
    path: SharedString,
    /// The totals of counters and histograms at the last tick.
    counters: HashMap<Key, u64>,
    histograms: HashMap<Key, Histogram>,
    gauges: HashSet<Key>,
}

/// The source of the values of one tick.
pub(super) struct ExportSample<'a> {
    pub(super) path: SharedString,
    pub(super) stats: &'a Stats,
    pub(super) counters: &'a Counters,
    pub(super) sites: [(Operation, &'a CallSiteTable); 2],
}

impl Exporter {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.display().to_string().into(),
            counters: HashMap::new(),
            histograms: HashMap::new(),
            gauges: HashSet::new(),
        }
    }

    /// Exports the changes since the last call.
    pub(crate) fn publish(&mut self, stats: &Stats, telemetry: &Telemetry) {
        let sample = ExportSample {
            path: self.path.clone(),
            stats,
            counters: &telemetry.counters,
            sites: [
                (Operation::Read, &*telemetry.read_sites),
                (Operation::Write, &*telemetry.write_sites),
            ],
        };
        metrics::with_recorder(|recorder| {
            for metric in METRICS {
                self.export(metric, &sample, recorder);
            }
        });
    }

    fn export(&mut self, metric: &Metric, sample: &ExportSample<'_>, to: &dyn Recorder) {
        metric.describe(to);
        match metric.values {
            Values::Counters(of) => {
                for (labels, total) in of(sample) {
                    self.count(self.key(metric, labels), total, to);
                }
            }
            Values::Gauges(of) => {
                for (labels, level) in of(sample) {
                    let key = self.key(metric, labels);
                    to.register_gauge(&key, &METADATA).set(level);
                    self.gauges.insert(key);
                }
            }
            Values::Histograms(of) => {
                for (labels, all) in of(sample) {
                    self.record(self.key(metric, labels), &metric.unit, all, to);
                }
            }
        }
    }

    fn key(&self, metric: &Metric, values: Vec<SharedString>) -> Key {
        let mut labels = vec![Label::new("db.namespace", self.path.clone())];
        labels.extend(
            metric
                .labels
                .iter()
                .zip(values)
                .map(|(name, value)| Label::new(*name, value)),
        );
        Key::from_parts(metric.name, labels)
    }

    fn count(&mut self, key: Key, total: u64, to: &dyn Recorder) {
        let counter = to.register_counter(&key, &METADATA);
        let before = self.counters.insert(key, total).unwrap_or_default();
        // Also adds zero: a series must exist before its first event, or its rate misses that event.
        counter.increment(total.saturating_sub(before));
    }

    fn record(&mut self, key: Key, unit: &Unit, all: Histogram, to: &dyn Recorder) {
        let histogram = to.register_histogram(&key, &METADATA);
        let before = self.histograms.insert(key, all.clone());
        // Both have the same shape, and no bucket ever decreases.
        let new = before.and_then(|before| all.checked_sub(&before).ok()).unwrap_or(all);
        for bucket in new.iter().filter(|bucket| bucket.count() > 0) {
            let count = usize::try_from(bucket.count()).unwrap_or(usize::MAX);
            histogram.record_many(middle(&bucket, unit), count);
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        metrics::with_recorder(|recorder| {
            for gauge in &self.gauges {
                recorder.register_gauge(gauge, &METADATA).set(0.0);
            }
        });
    }
}

/// The value that represents a bucket. With the middle, the sum is closest to the real one.
fn middle(bucket: &Bucket, unit: &Unit) -> f64 {
    let middle = (bucket.start() as f64 + bucket.end() as f64) / 2.0;
    if *unit == Unit::Seconds { middle / 1e9 } else { middle }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

    use super::*;
    use crate::telemetry::Measurement;
    use crate::telemetry::alert::{Alert, AlertKind};

    struct Source {
        stats: Stats,
        telemetry: Telemetry,
    }

    impl Default for Source {
        fn default() -> Self {
            Self {
                stats: Stats::default(),
                telemetry: Telemetry::new(0, 0),
            }
        }
    }

    impl Source {
        fn publish(&self, exporter: &mut Exporter) {
            exporter.publish(&self.stats, &self.telemetry);
        }
    }

    fn exporter() -> Exporter {
        Exporter::new(Path::new("/data/app.db"))
    }

    /// The value of a series; `None` if the series does not exist.
    fn value(recorder: &PrometheusRecorder, series: &str) -> Option<f64> {
        let text = recorder.handle().render();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.map(|value| value.parse().unwrap())
    }

    const WRITES: &str = "larder_write_committed{db_namespace=\"/data/app.db\"}";
    const WAITS: &str = "larder_write_queue_wait_count{db_namespace=\"/data/app.db\"}";
    const OPEN: &str = "larder_store_open{db_namespace=\"/data/app.db\"}";

    #[test]
    fn documented_table_matches_the_metrics() {
        let rows = METRICS.iter().map(|metric| {
            let kind = match metric.values {
                Values::Counters(_) => "counter",
                Values::Gauges(_) => "gauge",
                Values::Histograms(_) => "histogram",
            };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (unit, labels) = (metric.unit.as_str(), labels.join(", "));
            format!(
                "//! | `{}` | {kind} | {unit} | {labels} | {} |\n",
                metric.name, metric.meaning
            )
        });
        let rows: String = rows.collect();
        let (_, documented) = include_str!("mod.rs")
            .split_once("//! |---|---|---|---|---|\n")
            .unwrap();
        let end = documented.find("\n\n").map_or(documented.len(), |end| end + 1);
        assert!(
            documented[..end] == rows,
            "metrics/mod.rs should have this table:\n{rows}"
        );
    }

    #[test]
    fn each_sample_adds_the_difference() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (mut source, mut exporter) = (Source::default(), exporter());
        metrics::with_local_recorder(&recorder, || {
            source.publish(&mut exporter);
            assert_eq!(
                (value(&recorder, WRITES), value(&recorder, WAITS)),
                (Some(0.0), Some(0.0))
            );
            for writes in [3, 3, 8] {
                source.stats.committed_writes = writes;
                (source
                    .telemetry
                    .counters
                    .queue_wait
                    .load()
                    .iter()
                    .map(|bucket| bucket.count())
                    .sum()..writes)
                    .for_each(|wait| source.telemetry.counters.queue_wait.add(wait));
                source.publish(&mut exporter);
                let told = writes as f64;
                assert_eq!(
                    (value(&recorder, WRITES), value(&recorder, WAITS)),
                    (Some(told), Some(told))
                );
            }
        });
    }

    #[test]
    fn counts_before_the_recorder_are_not_exported() {
        let (mut source, mut exporter) = (Source::default(), exporter());
        source.stats.committed_writes = 1000;
        source.telemetry.counters.queue_wait.add(1);
        source.publish(&mut exporter);
        let recorder = PrometheusBuilder::new().build_recorder();
        source.stats.committed_writes = 1001;
        metrics::with_local_recorder(&recorder, || source.publish(&mut exporter));
        assert_eq!(
            (value(&recorder, WRITES), value(&recorder, WAITS)),
            (Some(1.0), Some(0.0))
        );
    }

    #[test]
    fn reopened_store_continues_counters_and_resets_gauges() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut source = Source::default();
        source.stats.committed_writes = 5;
        metrics::with_local_recorder(&recorder, || {
            let mut first = exporter();
            source.publish(&mut first);
            assert_eq!(
                (value(&recorder, WRITES), value(&recorder, OPEN)),
                (Some(5.0), Some(1.0))
            );
            drop(first);
            assert_eq!(
                (value(&recorder, WRITES), value(&recorder, OPEN)),
                (Some(5.0), Some(0.0))
            );
            source.stats.committed_writes = 2;
            source.publish(&mut exporter());
            assert_eq!(value(&recorder, WRITES), Some(7.0));
        });
    }

    #[test]
    fn alert_gauge_is_one_while_active() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (mut source, mut exporter) = (Source::default(), exporter());
        let told = |kind: AlertKind| {
            let labels = format!("db_namespace=\"/data/app.db\",larder_alert_kind=\"{kind}\"");
            value(&recorder, &format!("larder_alert{{{labels}}}"))
        };
        let alert = Alert {
            kind: AlertKind::LargeWal,
            age: std::time::Duration::ZERO,
            measurement: Measurement {
                value: 2.0,
                threshold: 1.0,
                unit: "B",
            },
            site: None,
            reason: None,
        };
        metrics::with_local_recorder(&recorder, || {
            source.stats.alerts.push(alert);
            source.publish(&mut exporter);
            assert_eq!(
                (told(AlertKind::LargeWal), told(AlertKind::OldRead)),
                (Some(1.0), Some(0.0))
            );
            source.stats.alerts.clear();
            source.publish(&mut exporter);
            assert_eq!(told(AlertKind::LargeWal), Some(0.0));
        });
    }
}
