//! The types of what [`Store::stats`](crate::Store::stats) gives. `counters.rs`, `sharded.rs` and `monitor/watchdog.rs`
//! count; `monitor/collect.rs` collects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::alert::Alert;
use super::histogram::{Distribution, Latency};

/// What a store has done since it was opened, as of about one moment. See [`Store::stats`](crate::Store::stats).
///
/// With the feature `serde` it can be serialised, with times as seconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Writes that were committed.
    pub committed_writes: u64,
    /// Writes that were rolled back, or that the writer did not start. One that its caller withdrew at its deadline,
    /// or that found the queue full, is not counted.
    pub failed_writes: u64,
    /// Those by what they failed with: the name of the [`Error`](crate::Error)'s variant, or `panic`.
    pub failures_by_error: BTreeMap<&'static str, u64>,
    /// Transactions that carried the committed writes.
    pub groups: u64,
    /// How many writes a transaction has carried.
    pub group_size: Distribution,
    /// Writes that are queued for the writer now, or in line for the queue.
    pub queued: usize,
    /// The most that there were.
    pub deepest_queue: usize,
    /// How long writes waited to be started.
    pub queue_wait: Latency,
    /// Writes that waited for longer than 100 ms to be started.
    pub long_waits: u64,
    /// How long `BEGIN IMMEDIATE` took, where it succeeded: with other processes' locks.
    pub begin: Latency,
    /// How long the closures of writes took, well or badly ended.
    pub execute: Latency,
    /// How long `COMMIT` took, well or badly ended.
    pub commit: Latency,
    /// Writes that were slow: see [`Options::slow_write_threshold`](crate::Options::slow_write_threshold).
    pub slow_writes: u64,
    /// The write whose closure runs now.
    pub running_write: Option<Activity>,
    /// Bytes of the write-ahead log in use. It starts anew at the first commit after all of it was moved to the
    /// database file and no reader needs it any more.
    pub wal_bytes: u64,
    /// Most bytes that there have been in the write-ahead log.
    pub largest_wal_bytes: u64,
    /// Checkpoints that moved all of the log.
    pub checkpoints: u64,
    /// Checkpoints that could not, mostly since a reader was in the way.
    pub unfinished_checkpoints: u64,
    /// Those of them since one has moved all of the log.
    pub consecutive_unfinished_checkpoints: u64,
    /// The last checkpoint that was tried.
    pub last_checkpoint: Option<Checkpoint>,
    /// How long ago a checkpoint has moved all of the log.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub last_finished_checkpoint_ago: Option<Duration>,
    /// The database file, as it was at the last checkpoint that was tried: there is one a second after the last write at
    /// the latest, unless the store is poisoned.
    pub database: DatabaseStats,
    /// How often it was seen that another process had written to the database. Looked for where the size is.
    pub external_commits: u64,
    /// The readers.
    pub readers: ReaderStats,
    /// The page caches of all connections.
    pub page_cache: PageCacheStats,
    /// The version of SQLite that is linked.
    pub sqlite_version: &'static str,
    /// The settings that are in effect on the writing connection, as SQLite tells them: read when the store opens, and
    /// again some 10 s after they were last.
    pub pragmas: BTreeMap<&'static str, String>,
    /// What each call site costs, the most expensive first: reads and writes apart, at most
    /// [`Options::max_call_sites`](crate::Options::max_call_sites) of each. The rest is under `other`.
    pub call_sites: Vec<CallSiteStats>,
    /// What each statement costs, the most expensive first: at most
    /// [`Options::max_statements`](crate::Options::max_statements), which is none unless it is set. The rest is under `other`.
    pub statements: Vec<StatementStats>,
    /// The last backup that was made, or failed, by whoever asked for it.
    pub last_backup: Option<LastBackup>,
    /// What is wrong now, the oldest first.
    pub alerts: Vec<Alert>,
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
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
}

/// The last backup. See [`Stats::last_backup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LastBackup {
    /// Where it is, or was to be.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// How long ago it was whole, or failed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
    /// How long it took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
    /// Bytes that it has; 0 if it failed.
    pub bytes: u64,
    /// Whether it was verified.
    pub verified: bool,
    /// Why there is none, without what SQLite says, which could quote data; `None` if there is one.
    pub error: Option<String>,
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
    pub capacity: u32,
    /// Connections that are open.
    pub open: usize,
    /// Connections that somebody reads with.
    pub in_use: usize,
    /// Reads that found no connection free at once, and waited for one to come back or to be opened. Reads of tasks
    /// that wait for a thread are not counted.
    pub waits: u64,
    /// Those that got none in time.
    pub timeouts: u64,
    /// Reads that were slow: see [`Options::slow_read_threshold`](crate::Options::slow_read_threshold).
    pub slow_reads: u64,
    /// Reads that tasks wait for now, not yet started.
    pub queued: usize,
    /// The most that there were.
    pub deepest_queue: usize,
    /// The oldest read that goes on: it keeps the write-ahead log from being emptied.
    pub oldest_read: Option<Activity>,
}

/// A closure that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Activity {
    /// Its label, or the `file:line` that asked for it.
    pub site: String,
    /// How long it has run.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
}

/// What page caches do. See [`Stats::page_cache`].
///
/// Each connection is asked at most once a second, when a closure of its has ended. What is read through the memory map
/// ([`Options::mmap_size`](crate::Options::mmap_size)) does not go through a cache, and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PageCacheStats {
    /// Pages that were found in a cache.
    pub hits: u64,
    /// Pages that had to be read from the file.
    pub misses: u64,
    /// Pages that were written, to the write-ahead log mostly.
    pub written: u64,
    /// Pages that had to be written in the middle of a transaction, since the cache was full.
    pub spills: u64,
    /// Bytes that the caches, the schemas and the prepared statements of all open connections take now.
    pub memory_bytes: u64,
}

/// Whether a call site reads or writes. See [`CallSiteStats::operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Operation {
    /// A read.
    Read,
    /// A write.
    Write,
}

/// What one call site costs. See [`Stats::call_sites`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CallSiteStats {
    /// Its label, or the `file:line` that asks.
    pub site: String,
    /// Whether it reads or writes.
    pub operation: Operation,
    /// How often its closure ran.
    pub calls: u64,
    /// How often that failed, or was rolled back with others.
    pub errors: u64,
    /// How long its closure took, all in all. The time of a write's commit, which it shares with others, is not in it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub total_time: Duration,
    /// How long its closure took. Percentiles are at most 13 % too high.
    pub latency: Latency,
    /// Rows that its committed writes have inserted, updated or deleted, with those of triggers and foreign key actions.
    pub rows_changed: u64,
    /// Rows that it got from queries, by the methods of [`ReadTx`](crate::ReadTx).
    pub rows_read: u64,
}

/// What one statement costs. See [`Stats::statements`].
///
/// Counted are those run by the methods of [`ReadTx`](crate::ReadTx) and [`WriteTx`](crate::WriteTx), but for
/// `execute_batch`; not those run by rusqlite's own methods.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct StatementStats {
    /// Its text as prepared, with parameters as they stand in it. (What is written into the text as a literal stands
    /// there, too.)
    pub sql: String,
    /// How often it ran.
    pub calls: u64,
    /// How often that failed.
    pub errors: u64,
    /// How long it took, all in all, from its first step to its last, with what the closure did of each row.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub total_time: Duration,
    /// How long it took. Percentiles are at most 13 % too high.
    pub latency: Latency,
    /// Rows that it gave.
    pub rows: u64,
    /// Steps of full scans of a table: "large numbers for this counter may indicate opportunities for performance
    /// improvement through careful use of indices", <https://sqlite.org/c3ref/c_stmtstatus_counter.html>.
    pub full_scan_steps: u64,
    /// Sorts. Each may be saved by an index.
    pub sorts: u64,
    /// Rows inserted into indexes that SQLite made for the one run of a statement, since there was none that it could
    /// use.
    pub automatic_index_rows: u64,
}

impl StatementStats {
    /// How long it took on average.
    pub fn mean_time(&self) -> Duration {
        let calls = u32::try_from(self.calls).unwrap_or(u32::MAX);
        self.total_time.checked_div(calls).unwrap_or_default()
    }
}
