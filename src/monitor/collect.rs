//! Collects the statistics of one store from the parts that count them.

use crate::read::Readers;
use crate::telemetry::stats::Stats;
use crate::telemetry::{Telemetry, usage};
use crate::write::Shared;

impl Stats {
    /// Reads every counter once, so all numbers are from about the same moment. The watchdog adds the alerts.
    pub(crate) fn collect(shared: &Shared, readers: &Readers, telemetry: &Telemetry) -> Self {
        let writes = &shared.queue;
        let counted = telemetry.counters.snapshot();
        let mut failures_by_error = counted.failures_by_error;
        for (kind, count) in writes.refusals().by_kind() {
            if count > 0 {
                *failures_by_error.entry(kind).or_default() += count;
            }
        }
        // Other processes write to the log, too.
        let index = shared.file.wal_index();
        let wal_bytes = index.map_or(counted.wal_bytes, |index| index.bytes());
        let mut database = counted.database;
        if let Some(index) = index.filter(|index| index.pages > 0) {
            database.grown_pages += i64::from(index.pages) - database.pages.cast_signed();
            database.pages = index.pages.into();
        }
        Self {
            failed_writes: failures_by_error.values().sum(),
            failures_by_error,
            wal_bytes,
            largest_wal_bytes: counted.largest_wal_bytes.max(wal_bytes),
            database,
            read_only: shared.file.read_only(),
            queued: writes.length(),
            deepest_queue: writes.deepest(),
            running_write: telemetry.writing.activity(),
            bulk: telemetry.bulk.running(),
            bulk_rows: telemetry.bulk.rows(),
            retention_rows: telemetry.retention.rows(),
            retention: telemetry.retention.stats(),
            readers: readers.stats(),
            page_cache: telemetry.cache.stats(),
            call_sites: usage::sites(&telemetry.write_sites, &telemetry.read_sites),
            statements: usage::statements(&telemetry.statements),
            last_backup: telemetry.backups.last(),
            exports: telemetry.exports.running(),
            exported_rows: telemetry.exports.rows(),
            last_export: telemetry.exports.last(),
            replica: telemetry.replica.stats(),
            follower: telemetry.follower.stats(),
            ..counted
        }
    }
}
