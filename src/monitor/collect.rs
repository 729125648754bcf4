//! Collects the statistics of one store from the parts that count them.

use crate::costs;
use crate::readers::Readers;
use crate::stats::Stats;
use crate::writer::Shared;

impl Stats {
    /// Reads every counter once, so the figures are of about one moment. Alerts are not in it: the watch adds them.
    pub(crate) fn collect(shared: &Shared, readers: &Readers) -> Self {
        Self {
            queued: shared.admission.length(),
            deepest_queue: shared.admission.deepest(),
            writing: shared.writing.activity(),
            readers: readers.stats(),
            cache: shared.cache.stats(),
            sites: costs::sites(&shared.sites, readers.sites()),
            statements: costs::statements(&shared.statements),
            last_backup: shared.backups.last(),
            ..shared.counters.snapshot()
        }
    }
}
