//! What the page caches of a store's connections do. Each connection has a [`CacheShare`] and tells it now and then, on
//! its own thread: nobody else may ask SQLite about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::stats::PageCacheStats;

/// How often a connection tells.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Of all connections of a store.
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

    /// What one connection has done since it told last. What it holds is not a sum: the difference is added.
    fn add(&self, since: PageCacheStats, held: u64) {
        self.hits.fetch_add(since.hits, Relaxed);
        self.misses.fetch_add(since.misses, Relaxed);
        self.written.fetch_add(since.written, Relaxed);
        self.spills.fetch_add(since.spills, Relaxed);
        self.memory.fetch_add(since.memory_bytes.wrapping_sub(held), Relaxed);
    }
}

/// One connection's part in it.
pub(crate) struct CacheShare {
    totals: Arc<CacheTotals>,
    held: u64,
    /// When it tells next.
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

    /// Adds what `take` reads from the connection, if it is time.
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
