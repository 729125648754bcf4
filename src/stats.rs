//! Numbers to look at. The writer thread counts, anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a store has done since it was opened, as of one moment. See [`Store::stats`](crate::Store::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Writes that were committed.
    pub writes: u64,
    /// Writes that were rolled back, or that the writer did not start. One that its caller withdrew at its deadline,
    /// or that found the queue full, is not counted.
    pub failed_writes: u64,
    /// Transactions that carried the committed writes.
    pub groups: u64,
    /// Most writes that one transaction has carried.
    pub largest_group: u64,
    /// Longest time that a write has waited to be started.
    pub longest_queue_wait: Duration,
    /// Bytes of the write-ahead log in use. It starts anew at the first commit after all of it was moved to the
    /// database file and no reader needs it any more.
    pub wal_bytes: u64,
    /// Most bytes that there have been in the write-ahead log.
    pub largest_wal_bytes: u64,
    /// Checkpoints that moved all of the log.
    pub checkpoints: u64,
    /// Checkpoints that could not, mostly since a reader was in the way.
    pub unfinished_checkpoints: u64,
}

/// Written by the writer thread only, so a load and a store make an addition.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: Counter,
    pub(crate) failed_writes: Counter,
    pub(crate) groups: Counter,
    pub(crate) largest_group: Counter,
    pub(crate) longest_queue_wait: Counter,
    pub(crate) wal_bytes: Counter,
    pub(crate) largest_wal_bytes: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) unfinished_checkpoints: Counter,
    /// Jobs finished since the store was told to close.
    pub(crate) finished_closing: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get() + n, Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn raise_to(&self, n: u64) {
        if n > self.get() {
            self.set(n);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            writes: self.writes.get(),
            failed_writes: self.failed_writes.get(),
            groups: self.groups.get(),
            largest_group: self.largest_group.get(),
            longest_queue_wait: Duration::from_nanos(self.longest_queue_wait.get()),
            wal_bytes: self.wal_bytes.get(),
            largest_wal_bytes: self.largest_wal_bytes.get(),
            checkpoints: self.checkpoints.get(),
            unfinished_checkpoints: self.unfinished_checkpoints.get(),
        }
    }
}
