//! Counters of streams. Their threads and their consumers write them, any thread reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::stats::StreamStats;

#[derive(Debug, Default)]
pub(crate) struct StreamCounters {
    open: AtomicUsize,
    begun: AtomicU64,
    rows: AtomicU64,
    /// In nanoseconds.
    consumer_wait: AtomicU64,
    idle_timeouts: AtomicU64,
}

/// A stream that holds a snapshot.
#[must_use = "the stream counts as open until this is dropped"]
pub(crate) struct OpenStream(Arc<StreamCounters>);

impl StreamCounters {
    pub(crate) fn open(self: &Arc<Self>) -> OpenStream {
        self.begun.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        OpenStream(Arc::clone(self))
    }

    /// A consumer has taken rows.
    pub(crate) fn took(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// A stream has waited for its consumer.
    pub(crate) fn waited(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.consumer_wait.fetch_add(nanos, Relaxed);
    }

    /// A stream has ended because its consumer was idle.
    pub(crate) fn was_idle(&self) {
        self.idle_timeouts.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> StreamStats {
        StreamStats {
            open: self.open.load(Relaxed),
            begun: self.begun.load(Relaxed),
            rows: self.rows.load(Relaxed),
            consumer_wait: Duration::from_nanos(self.consumer_wait.load(Relaxed)),
            idle_timeouts: self.idle_timeouts.load(Relaxed),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
