//! Collects the statistics of one store from the parts that count them.

use crate::queue::JobQueue;
use crate::read::Readers;
use crate::telemetry::stats::Stats;
use crate::telemetry::{Telemetry, usage};
use crate::write::context::Writes;

impl Stats {
    /// Reads every counter once, so all numbers are from about the same moment. The watchdog adds the alerts.
    pub(crate) fn collect(writes: &JobQueue<Writes>, readers: &Readers, telemetry: &Telemetry) -> Self {
        Self {
            queued: writes.length(),
            deepest_queue: writes.deepest(),
            running_write: telemetry.writing.activity(),
            readers: readers.stats(),
            page_cache: telemetry.cache.stats(),
            call_sites: usage::sites(&telemetry.write_sites, &telemetry.read_sites),
            statements: usage::statements(&telemetry.statements),
            last_backup: telemetry.backups.last(),
            ..telemetry.counters.snapshot()
        }
    }
}
