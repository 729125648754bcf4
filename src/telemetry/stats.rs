//! The types of what [`Store::stats`](crate::Store::stats) gives. `counters.rs`, `sharded.rs` and `monitor/watchdog.rs`
//! count; `monitor/collect.rs` collects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::alert::Alert;
use super::histogram::{Distribution, Latency};

/// Statistics of a store since it was opened, as of about one moment. See [`Store::stats`](crate::Store::stats).
///
/// With the feature `serde` it can be serialised; durations are seconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Number of committed writes.
    pub committed_writes: u64,
    /// Number of writes whose caller received an error: they were rolled back or did not start, because of a full queue
    /// or a timeout, too.
    pub failed_writes: u64,
    /// Number of failed writes by error, such as `queue_timeout`, `sqlite_constraint_unique` or `sqlite_full`.
    ///
    /// - For an error of SQLite: the name of its [result code](https://sqlite.org/rescode.html) in lower case.
    /// - For another one: the name of the [`Error`](crate::Error) variant in snake case.
    /// - `panic`; `no_rows`, `conversion` and `rusqlite` for errors of rusqlite itself.
    pub failures_by_error: BTreeMap<&'static str, u64>,
    /// Number of transactions that committed at least one write.
    pub groups: u64,
    /// Number of writes in each transaction.
    pub group_size: Distribution,
    /// Number of writes that wait to start, in the queue or in line for it.
    pub queued: usize,
    /// High-water mark of `queued`.
    pub deepest_queue: usize,
    /// Time that writes waited to start.
    pub queue_wait: Latency,
    /// Number of writes that waited longer than 100 ms to start.
    pub long_waits: u64,
    /// Duration of `BEGIN IMMEDIATE`, where it succeeded. It includes the wait for locks of other processes.
    pub begin: Latency,
    /// Run time of the closures of writes, whether they succeeded or failed.
    pub execute: Latency,
    /// Duration of `COMMIT`, whether it succeeded or failed.
    pub commit: Latency,
    /// Number of slow writes. See [`Options::slow_write_threshold`](crate::Options::slow_write_threshold).
    pub slow_writes: u64,
    /// The write whose closure runs now.
    pub running_write: Option<Activity>,
    /// The bulk jobs that run now. Their slices are writes, too, and counted as such.
    pub bulk: Vec<BulkStats>,
    /// Number of rows that bulk jobs and retentions have committed.
    pub bulk_rows: u64,
    /// Number of rows that retentions have deleted, also those that have ended.
    pub retention_rows: u64,
    /// The running retentions, in the order in which they began.
    pub retention: Vec<RetentionStats>,
    /// Number of bytes in use in the WAL, including those that other processes wrote. It returns to zero when the WAL is reset: at the
    /// first commit after a checkpoint has moved all of it and no reader needs it any more.
    pub wal_bytes: u64,
    /// High-water mark of `wal_bytes`. What other processes write is seen every
    /// [`Options::monitor_interval`](crate::Options::monitor_interval).
    pub largest_wal_bytes: u64,
    /// Number of checkpoints that moved the whole WAL to the database file.
    pub checkpoints: u64,
    /// Number of checkpoints that moved only a part of the WAL, in most cases because a reader blocked them.
    pub unfinished_checkpoints: u64,
    /// Number of unfinished checkpoints since the last one that moved the whole WAL.
    pub consecutive_unfinished_checkpoints: u64,
    /// The last checkpoint, finished or not.
    pub last_checkpoint: Option<Checkpoint>,
    /// Time since a checkpoint last moved the whole WAL.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub last_finished_checkpoint_ago: Option<Duration>,
    /// The database file. Its free pages are those at the last checkpoint, which follows the last write within a second
    /// unless the store is poisoned.
    pub database: DatabaseStats,
    /// Number of commits of other processes, and of other connections in this one. They are counted at checkpoints and
    /// every [`Options::monitor_interval`](crate::Options::monitor_interval). On systems without open-file-description
    /// locks (other than Linux) it is the number of checkpoints that found any.
    pub external_commits: u64,
    /// The readers.
    pub readers: ReaderStats,
    /// The page caches of all connections.
    pub page_cache: PageCacheStats,
    /// Version of the linked SQLite.
    pub sqlite_version: &'static str,
    /// Settings in effect on the writing connection, as SQLite reports them. They are read when the store opens, and
    /// again at checkpoints, after 10 s at the earliest.
    pub pragmas: BTreeMap<&'static str, String>,
    /// Usage by call site, most expensive first. Reads and writes are separate entries, at most
    /// [`Options::max_call_sites`](crate::Options::max_call_sites) of each; further call sites are summed up as
    /// `other`.
    pub call_sites: Vec<CallSiteStats>,
    /// Usage by statement, most expensive first. There are at most
    /// [`Options::max_statements`](crate::Options::max_statements) entries, by default none; further statements are
    /// summed up as `other`.
    pub statements: Vec<StatementStats>,
    /// The last backup, whether it succeeded or failed.
    pub last_backup: Option<LastBackup>,
    /// The exports to PostgreSQL that run now, dry runs too.
    pub exports: Vec<ExportStats>,
    /// Number of rows of all exports that were committed at their servers.
    pub exported_rows: u64,
    /// The last export to PostgreSQL that was not a dry run, whether it succeeded or failed.
    pub last_export: Option<LastExport>,
    /// The replica; `None` without `Options::replicate_to`.
    pub replica: Option<ReplicaStats>,
    /// What a follower has reached; `None` for a store.
    pub follower: Option<FollowerStats>,
    /// What a store with [`Options::read_only`](crate::Options::read_only) sees; `None` for one that writes.
    pub read_only: Option<ReadOnly>,
    /// The active alerts, oldest first.
    pub alerts: Vec<Alert>,
}

/// What a store sees that was opened with [`Options::read_only`](crate::Options::read_only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum ReadOnly {
    /// Each read sees the newest commit of any process.
    Live,
    /// The database file as it was at opening. There is no `-wal`, this process may create none, and no process had the
    /// file open to write. If it changes all the same, reads fail with [`Error::SnapshotChanged`](crate::Error::SnapshotChanged).
    Snapshot,
    /// As `Snapshot`, with the commits in the `-wal` beside it: the files of a process that was killed, or a snapshot of
    /// the file system under a running service. Nothing shows that a `-wal` belongs to another state of the database, so
    /// files that were copied one after another while a process wrote may be torn.
    SnapshotWithLog,
}

impl ReadOnly {
    /// Its name in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Snapshot => "snapshot",
            Self::SnapshotWithLog => "snapshot_with_log",
        }
    }
}

/// A checkpoint: one attempt to move the WAL into the database file. See [`Stats::last_checkpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Checkpoint {
    /// Number of pages in the WAL.
    pub log_pages: u64,
    /// Number of these pages that are in the database file now.
    pub moved_pages: u64,
    /// Whether a reader or another process blocked it.
    pub busy: bool,
    /// Time since the checkpoint.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
}

/// The last backup. See [`Stats::last_backup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LastBackup {
    /// Target of the backup.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// Time since the backup finished or failed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
    /// Duration of the backup.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
    /// Size in bytes; 0 if the backup failed.
    pub bytes: u64,
    /// Whether the backup was verified.
    pub verified: bool,
    /// Reason of the failure; `None` if the backup succeeded. It omits SQLite's message, which could quote data.
    pub error: Option<String>,
}

/// An export to PostgreSQL that runs. See [`Stats::exports`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportStats {
    /// The server, its database and the user, without a password.
    pub server: String,
    /// Call site: the `file:line` of the call.
    pub site: String,
    /// Whether nothing is written.
    pub is_dry_run: bool,
    /// Time since the export began.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
    /// `scan`, `copy`, `index` or `compare`.
    pub stage: &'static str,
    /// Number of rows in this stage so far, in steps of 256.
    pub rows: u64,
}

/// The last export to PostgreSQL. See [`Stats::last_export`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LastExport {
    /// The server, its database and the user, without a password.
    pub server: String,
    /// Time since the export finished or failed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
    /// Duration of the export.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
    /// Number of rows; 0 if the export failed.
    pub rows: u64,
    /// Kind of the failure, such as `postgres` or `cancelled`; `None` if the export succeeded. It omits the message, which
    /// could quote data.
    pub error: Option<String>,
}

/// The replica of a store. See [`Stats::replica`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ReplicaStats {
    /// Its URL without the query, or the path of its folder.
    pub replica: String,
    /// What goes on.
    pub state: ReplicaState,
    /// The last transaction in a file that is to be uploaded, or was.
    pub sealed: u64,
    /// The last transaction in the replica.
    pub uploaded: u64,
    /// Age of the oldest capture that is not in the replica; zero if there is none. What the loss of the machine costs
    /// now is at most this and one interval.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub behind: Duration,
    /// Number of bytes in the folder `app.db-replica`.
    pub spool_bytes: u64,
    /// Number of files that were uploaded.
    pub uploads: u64,
    /// Number of bytes in them.
    pub uploaded_bytes: u64,
    /// Number of uploads that failed and were tried again.
    pub failed_uploads: u64,
    /// Duration of an upload.
    pub upload_time: Latency,
    /// How long the writer was kept from its writes before a checkpoint, to copy what was not copied yet.
    pub writer_time: Latency,
    /// Number of writes that are committed and wait for the replica
    /// ([`Durability::Replicated`](crate::Durability::Replicated)).
    pub waiting_writes: usize,
    /// How long such a write waited for the replica after its commit, if that succeeded.
    pub acknowledgement_time: Latency,
    /// Number of times that the whole database had to be captured once more.
    pub rebases: u64,
    /// The last verification (`StoreReplica::verify`, `ReplicaOptions::verify_every`), also one before the store was opened
    /// if that found nothing; `None` if there was none.
    pub last_verify: Option<LastVerify>,
    /// Time since the newest snapshot in the replica was written, as far as is known; `None` if there is none. It is known
    /// once something was uploaded since the store was opened.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub last_snapshot: Option<Duration>,
    /// The database that was set aside as the store was opened, because it did not go on from the replica
    /// (`OnDivergence::Restore`). It is no longer used, and never deleted.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_path")
    )]
    pub set_aside: Option<PathBuf>,
    /// What is wrong now; `None` if nothing is.
    pub problem: Option<String>,
}

/// What a follower has reached. See [`Stats::follower`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FollowerStats {
    /// The replica that it follows: its URL without the query, or the path of its folder.
    pub replica: String,
    /// The last transaction that was applied.
    pub txid: u64,
    /// When that transaction was captured, by the primary's clock.
    pub committed: SystemTime,
    /// Since when the follower is not known to have had everything that was in the replica.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub behind: Duration,
    /// Number of transactions that were applied since it was opened.
    pub transactions: u64,
    /// Number of pages that were written for them.
    pub pages: u64,
    /// Number of bytes in their files.
    pub bytes: u64,
    /// Number of times that the database was compared with the newest state of the replica, because files that lead on
    /// were missing, or because the database could not be shown to be as the follower had left it.
    pub resyncs: u64,
    /// Whether nothing is applied any more: `Follower::stopped` says why.
    pub has_stopped: bool,
    /// What is wrong now; `None` if nothing is.
    pub problem: Option<String>,
}

/// The last verification of a replica. See [`ReplicaStats::last_verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LastVerify {
    /// Time since it ended.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub ago: Duration,
    /// The first problem that it found; `None` if the replica is sound.
    pub problem: Option<String>,
}

/// What goes on with a replica. See [`ReplicaStats::state`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum ReplicaState {
    /// It has everything that was captured.
    #[default]
    Idle,
    /// A file is being uploaded.
    Uploading,
    /// The last upload failed, and is tried again.
    StorageAway,
    /// The whole database is captured once more.
    Rebasing,
    /// Another process has taken the replica over. The store takes no more writes.
    Fenced,
    /// The storage was away as the store opened, and its replica is not the one that the store goes on with. The store
    /// takes no more writes.
    Diverged,
}

/// The database file. See [`Stats::database`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct DatabaseStats {
    /// Page size in bytes.
    pub page_size: u64,
    /// Number of pages.
    pub pages: u64,
    /// Number of free pages. SQLite reuses them, and `PRAGMA incremental_vacuum` returns them to the file system.
    pub free_pages: u64,
    /// Number of pages by which the file has grown since the store was opened; negative if it has shrunk.
    pub grown_pages: i64,
}

impl DatabaseStats {
    /// Size of the database in bytes: all its pages.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }
}

/// The reading connections, and the reads that wait for one. See [`Stats::readers`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ReaderStats {
    /// Number of connections that the pool may open.
    pub capacity: u32,
    /// Number of open connections.
    pub open: usize,
    /// Number of connections in use.
    pub in_use: usize,
    /// Number of reads that found no idle connection and waited for one, each once. It does not count async reads that
    /// wait for a reader thread.
    pub waits: u64,
    /// Number of reads that got no connection, or no reader thread, in time.
    pub timeouts: u64,
    /// Number of reads that were not to wait ([`WhenFull::Fail`](crate::WhenFull::Fail)) and found all connections in
    /// use, or the queue of async reads or of streams full.
    pub refused: u64,
    /// Number of slow reads. See [`Options::slow_read_threshold`](crate::Options::slow_read_threshold).
    pub slow_reads: u64,
    /// Number of async reads and streams that wait to start.
    pub queued: usize,
    /// High-water mark of the async reads that wait to start, or of the streams, whichever is higher.
    pub deepest_queue: usize,
    /// The oldest running read, which may be a stream. It keeps the WAL from being reset.
    pub oldest_read: Option<Activity>,
    /// The streams of rows (`Store::read_stream`). Their queries are also in [`Stats::call_sites`], as those of other
    /// reads.
    pub streams: StreamStats,
}

/// The streams of rows. See [`ReaderStats::streams`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct StreamStats {
    /// Number of streams that have begun and not ended. Each holds a connection and a snapshot.
    pub open: usize,
    /// Number of streams that have begun.
    pub begun: u64,
    /// Number of rows that consumers have taken. A consumer takes the rows that are ready all at once, at most 257, so
    /// it may not have seen the last of them yet.
    pub rows: u64,
    /// Time that streams waited for their consumers, with more rows ready than they may hold. It grows while they wait.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub consumer_wait: Duration,
    /// Number of streams that were ended because their consumer was idle. See
    /// [`Options::stream_idle_timeout`](crate::Options::stream_idle_timeout).
    pub idle_timeouts: u64,
}

/// A running closure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Activity {
    /// Call site: the label, or the `file:line` of the call.
    pub site: String,
    /// Time since the closure started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
}

/// A bulk job that runs. See [`Store::bulk`](crate::Store::bulk).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BulkStats {
    /// The name of a resumable job.
    pub name: Option<String>,
    /// Call site: the label, or the `file:line` of the call.
    pub site: String,
    /// Time since the job began.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
    /// Rows that are committed, of this run.
    pub rows: u64,
    /// Rows per second of this run.
    pub rows_per_second: f64,
    /// The part of the time for which the job has had the writer thread, from 0 to 1: its slices, each with its commit and
    /// the writes that joined it. See [`Bulk::share`](crate::Bulk::share).
    pub share: f64,
}

/// A running retention. See [`Store::retain`](crate::Store::retain).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RetentionStats {
    /// The table, as the call names it.
    pub table: String,
    /// The column that has the times.
    pub column: String,
    /// How long rows are kept.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub keep: Duration,
    /// Call site: the `file:line` of the call, or `Options::retain`.
    pub site: String,
    /// Number of rows that were deleted.
    pub rows: u64,
    /// Time since a sweep last found no more old rows; `None` before the first.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub last_sweep_ago: Option<Duration>,
    /// Time until the next look for old rows; `None` before the first. It is zero while a sweep runs.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub next_in: Option<Duration>,
    /// Number of sweeps that have failed since the last one that succeeded.
    pub failures_in_a_row: u64,
    /// Why the last sweep has failed; `None` if it succeeded. It has no data of the database.
    pub last_error: Option<String>,
    /// The statement that creates the index that the column lacks; `None` if it has one. Without it no row is deleted.
    pub create_index: Option<String>,
    /// Number of old rows that the last sweep could not delete.
    pub rows_kept: u64,
    /// The tables whose foreign keys keep them, separated by commas. `None` if there are none.
    pub kept_by: Option<String>,
    /// How far the clock is ahead of the time by which rows are deleted; `None` if it is followed. See
    /// [`RetainOptions::clock_hold`](crate::RetainOptions::clock_hold).
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub clock_ahead: Option<Duration>,
    /// Time until such a clock is followed.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub clock_followed_in: Option<Duration>,
}

/// The page caches of all connections. See [`Stats::page_cache`].
///
/// Each connection reports at most once a second, when one of its closures has returned. Pages that are read through
/// the memory map ([`Options::mmap_size`](crate::Options::mmap_size)) bypass the cache and are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PageCacheStats {
    /// Number of pages found in a cache.
    pub hits: u64,
    /// Number of pages read from the file.
    pub misses: u64,
    /// Number of pages written, most of them to the WAL.
    pub written: u64,
    /// Number of pages written in the middle of a transaction because the cache was full.
    pub spills: u64,
    /// Memory in bytes that the caches, schemas and prepared statements of all open connections use now.
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

/// The usage of one call site. See [`Stats::call_sites`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CallSiteStats {
    /// Call site: the label, or the `file:line` of the call.
    pub site: String,
    /// Whether the call site reads or writes.
    pub operation: Operation,
    /// Number of times that the closure ran.
    pub calls: u64,
    /// Number of runs that failed, or were rolled back with the other writes of their group.
    pub errors: u64,
    /// Total run time of the closure. It excludes the commit of a write, which a group shares.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub total_time: Duration,
    /// Run time of the closure. Percentiles are at most 13 % too high.
    pub latency: Latency,
    /// Number of rows that committed writes inserted, updated or deleted, including those of triggers and foreign key
    /// actions.
    pub rows_changed: u64,
    /// Number of rows that queries returned, through the methods of [`ReadTx`](crate::ReadTx).
    pub rows_read: u64,
}

/// The usage of one statement. See [`Stats::statements`].
///
/// The methods of [`ReadTx`](crate::ReadTx) and [`WriteTx`](crate::WriteTx) count their statements, except
/// `execute_batch`. Statements run by rusqlite's own methods are not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct StatementStats {
    /// The SQL text as prepared, with parameters as placeholders. It includes any literals. A text over 2 KiB is cut,
    /// and ends with its length and a hash of the whole.
    pub sql: String,
    /// Number of runs.
    pub calls: u64,
    /// Number of runs that failed.
    pub errors: u64,
    /// Total run time, from the first step to the last of each run. It includes the time that the closure spent on each
    /// row.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub total_time: Duration,
    /// Run time. Percentiles are at most 13 % too high.
    pub latency: Latency,
    /// Number of rows returned.
    pub rows: u64,
    /// Number of rows inserted, updated or deleted, including those of triggers and foreign key actions.
    pub rows_changed: u64,
    /// The tables that it reads from beginning to end, if `full_scan_steps` is high.
    pub scanned_tables: Vec<String>,
    /// The tables of which SQLite builds automatic indexes. It is empty if it builds them of views and subqueries only,
    /// which cannot have an index.
    pub automatically_indexed_tables: Vec<String>,
    /// Number of steps in full scans of a table, or of the result of a subquery: "large numbers for this counter may
    /// indicate opportunities for performance improvement through careful use of indices"
    /// (<https://sqlite.org/c3ref/c_stmtstatus_counter.html>).
    pub full_scan_steps: u64,
    /// Number of sorts. An index may avoid each of them.
    pub sorts: u64,
    /// Number of rows inserted into automatic indexes, which SQLite builds for a single run because no usable index
    /// exists.
    pub automatic_index_rows: u64,
}

impl StatementStats {
    /// Average run time.
    pub fn mean_time(&self) -> Duration {
        let calls = u32::try_from(self.calls).unwrap_or(u32::MAX);
        self.total_time.checked_div(calls).unwrap_or_default()
    }
}
