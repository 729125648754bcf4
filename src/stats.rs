//! Numbers to look at: what the writer thread counts, and what others know. Anybody reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::latency::{Latencies, Latency};

/// What a store has done since it was opened, as of about one moment. See [`Store::stats`](crate::Store::stats).
///
/// With the feature `serde` it can be serialised, with times as seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Writes that were committed.
    pub writes: u64,
    /// Writes that were rolled back, or that the writer did not start. One that its caller withdrew at its deadline,
    /// or that found the queue full, is not counted.
    pub failed_writes: u64,
    /// Those by what they failed with: the name of the [`Error`](crate::Error)'s variant, or `panic`.
    pub failed_by: BTreeMap<&'static str, u64>,
    /// Transactions that carried the committed writes.
    pub groups: u64,
    /// Most writes that one transaction has carried.
    pub largest_group: u64,
    /// Writes that are queued for the writer now, or in line for the queue.
    pub queued: usize,
    /// The most that there were.
    pub deepest_queue: usize,
    /// How long writes waited to be started.
    pub queue_wait: Latency,
    /// How long `BEGIN IMMEDIATE` took, where it succeeded: with other processes' locks.
    pub begin: Latency,
    /// How long the closures of writes took, well or badly ended.
    pub body: Latency,
    /// How long `COMMIT` took, well or badly ended.
    pub commit: Latency,
    /// The write whose closure runs now.
    pub writing: Option<Activity>,
    /// Bytes of the write-ahead log in use. It starts anew at the first commit after all of it was moved to the
    /// database file and no reader needs it any more.
    pub wal_bytes: u64,
    /// Most bytes that there have been in the write-ahead log.
    pub largest_wal_bytes: u64,
    /// Checkpoints that moved all of the log.
    pub checkpoints: u64,
    /// Checkpoints that could not, mostly since a reader was in the way.
    pub unfinished_checkpoints: u64,
    /// The last checkpoint that was tried.
    pub last_checkpoint: Option<Checkpoint>,
    /// How long ago a checkpoint has moved all of the log.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::optional_seconds"))]
    pub last_finished_checkpoint: Option<Duration>,
    /// The database file, as it was at the last checkpoint that was tried: there is one a second after the last write at
    /// the latest, unless the store is poisoned.
    pub database: DatabaseStats,
    /// The readers.
    pub readers: ReaderStats,
}

/// One attempt to move the write-ahead log into the database file. See [`Stats::last_checkpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Checkpoint {
    /// Pages that were in the log.
    pub log_pages: u64,
    /// Those of them that are in the database file now.
    pub moved_pages: u64,
    /// Whether readers or another process were in the way.
    pub busy: bool,
    /// How long ago.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub ago: Duration,
}

/// The database file. See [`Stats::database`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct DatabaseStats {
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages.
    pub pages: u64,
    /// Pages that nothing is in, to be used again or to be given back by `PRAGMA incremental_vacuum`.
    pub free_pages: u64,
    /// Pages that it has grown by since the store was opened; less than zero if it has shrunk.
    pub grown_pages: i64,
}

impl DatabaseStats {
    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }
}

/// What the readers do and did. See [`Stats::readers`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ReaderStats {
    /// Connections that the pool may have.
    pub size: u32,
    /// Connections that are open.
    pub open: usize,
    /// Connections that somebody reads with.
    pub in_use: usize,
    /// Reads that found no connection free at once, and waited for one to come back or to be opened. Reads of tasks
    /// that wait for a thread are not counted.
    pub waits: u64,
    /// Those that got none in time.
    pub timeouts: u64,
    /// Reads that tasks wait for now, not yet started.
    pub queued: usize,
    /// The most that there were.
    pub deepest_queue: usize,
    /// The oldest read that goes on: it keeps the write-ahead log from being emptied.
    pub oldest: Option<Activity>,
}

/// A closure that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Activity {
    /// Its label, or the `file:line` that asked for it.
    pub site: String,
    /// How long it has run. In steps of some 4 ms.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub age: Duration,
}

/// Written by the writer thread only, so a load and a store make an addition.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: Counter,
    pub(crate) failed_writes: Counter,
    failed_by: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) groups: Counter,
    pub(crate) largest_group: Counter,
    pub(crate) queue_wait: Latencies,
    pub(crate) begin: Latencies,
    pub(crate) body: Latencies,
    pub(crate) commit: Latencies,
    pub(crate) wal_bytes: Counter,
    pub(crate) largest_wal_bytes: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) unfinished_checkpoints: Counter,
    /// Jobs finished since the store was told to close.
    pub(crate) finished_closing: Counter,
    file: Mutex<FileCounters>,
}

/// Written at checkpoints alone.
#[derive(Debug, Default)]
struct FileCounters {
    last: Option<(Instant, Checkpoint)>,
    finished: Option<Instant>,
    pages_at_open: Option<u64>,
    database: DatabaseStats,
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
    /// A write failed with that.
    pub(crate) fn failed(&self, kind: &'static str) {
        self.failed_writes.add(1);
        *self.lock_failed_by().entry(kind).or_default() += 1;
    }

    /// A checkpoint was tried, and came to that.
    pub(crate) fn checkpoint(&self, log_pages: u64, moved_pages: u64, busy: bool, finished: bool) {
        let now = Instant::now();
        let checkpoint = Checkpoint {
            log_pages,
            moved_pages,
            busy,
            ago: Duration::ZERO,
        };
        let mut file = self.lock_file();
        file.last = Some((now, checkpoint));
        if finished {
            file.finished = Some(now);
        }
    }

    /// The size of the database file, the first time as the store opens.
    pub(crate) fn database(&self, page_size: u64, pages: u64, free_pages: u64) {
        let mut file = self.lock_file();
        let at_open = *file.pages_at_open.get_or_insert(pages);
        file.database = DatabaseStats {
            page_size,
            pages,
            free_pages,
            grown_pages: pages.cast_signed() - at_open.cast_signed(),
        };
    }

    fn lock_file(&self) -> MutexGuard<'_, FileCounters> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failed_by(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.failed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All but what others know.
    pub(crate) fn snapshot(&self) -> Stats {
        let file = self.lock_file();
        let last_checkpoint = file.last.map(|(at, checkpoint)| Checkpoint {
            ago: at.elapsed(),
            ..checkpoint
        });
        let last_finished_checkpoint = file.finished.map(|at| at.elapsed());
        let database = file.database;
        drop(file);
        Stats {
            last_checkpoint,
            last_finished_checkpoint,
            database,
            writes: self.writes.get(),
            failed_writes: self.failed_writes.get(),
            failed_by: self.lock_failed_by().clone(),
            groups: self.groups.get(),
            largest_group: self.largest_group.get(),
            queue_wait: self.queue_wait.latency(),
            begin: self.begin.latency(),
            body: self.body.latency(),
            commit: self.commit.latency(),
            wal_bytes: self.wal_bytes.get(),
            largest_wal_bytes: self.largest_wal_bytes.get(),
            checkpoints: self.checkpoints.get(),
            unfinished_checkpoints: self.unfinished_checkpoints.get(),
            ..Stats::default()
        }
    }
}
