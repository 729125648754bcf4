//! Collects the statistics of one store from the parts that count them.

use crate::admission::Admission;
use crate::costs;
use crate::readers::Readers;
use crate::stats::Stats;
use crate::telemetry::Telemetry;
use crate::writer::context::Writes;

impl Stats {
    /// Reads every counter once, so the figures are of about one moment. Alerts are not in it: the watch adds them.
    pub(crate) fn collect(writes: &Admission<Writes>, readers: &Readers, telemetry: &Telemetry) -> Self {
        Self {
            queued: writes.length(),
            deepest_queue: writes.deepest(),
            running_write: telemetry.writing.activity(),
            readers: readers.stats(),
            page_cache: telemetry.cache.stats(),
            call_sites: costs::sites(&telemetry.write_sites, &telemetry.read_sites),
            statements: costs::statements(&telemetry.statements),
            last_backup: telemetry.backups.last(),
            ..telemetry.counters.snapshot()
        }
    }
}
