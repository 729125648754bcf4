//! Totals of the page caches of a store's connections. Each connection has a [`CacheShare`] and reports to the totals
//! from time to time, on its own thread: no other thread may ask SQLite for a connection's numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::stats::PageCacheStats;

/// Interval between two reports of a connection.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The totals of all connections of a store.
#[derive(Default)]
pub(crate) struct CacheTotals {
    hits: AtomicU64,
    misses: AtomicU64,
    written: AtomicU64,
    spills: AtomicU64,
    memory: AtomicU64,
}

impl CacheTotals {
    pub(crate) fn stats(&self) -> PageCacheStats {
        PageCacheStats {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            written: self.written.load(Relaxed),
            spills: self.spills.load(Relaxed),
            memory_bytes: self.memory.load(Relaxed),
        }
    }

    /// Adds the activity of one connection since its last report. Its memory is a level and not a sum: the difference
    /// to `held` is added.
    fn add(&self, since: PageCacheStats, held: u64) {
        self.hits.fetch_add(since.hits, Relaxed);
        self.misses.fetch_add(since.misses, Relaxed);
        self.written.fetch_add(since.written, Relaxed);
        self.spills.fetch_add(since.spills, Relaxed);
        self.memory.fetch_add(since.memory_bytes.wrapping_sub(held), Relaxed);
    }
}

/// One connection's share of the totals.
pub(crate) struct CacheShare {
    totals: Arc<CacheTotals>,
    /// Bytes of memory in the last report.
    held: u64,
    /// The time of the next report.
    next: Instant,
}

impl CacheShare {
    pub(crate) fn new(totals: &Arc<CacheTotals>) -> Self {
        Self {
            totals: Arc::clone(totals),
            held: 0,
            next: Instant::now(),
        }
    }

    /// Reads the connection's numbers by `take` and adds them, if a report is due.
    pub(crate) fn report(&mut self, now: Instant, take: impl FnOnce() -> PageCacheStats) {
        if now >= self.next {
            self.next = now + REPORT_INTERVAL;
            let since = take();
            self.totals.add(since, self.held);
            self.held = since.memory_bytes;
        }
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.totals.memory.fetch_sub(self.held, Relaxed);
    }
}
