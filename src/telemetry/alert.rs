//! Alerts: conditions that are wrong now. See [`Stats::alerts`](crate::Stats::alerts).

use std::fmt;
use std::time::Duration;

use super::Measurement;

/// An active alert: a condition that is wrong now.
///
/// Two events with the target `larder::alert` say when an alert fires and when it clears. The conditions are checked
/// every [`Options::monitor_interval`](crate::Options::monitor_interval). An alert clears when three checks in a row
/// have not seen its condition.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Alert {
    /// The kind of condition.
    pub kind: AlertKind,
    /// Time since the alert fired.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
    /// The value measured at the last check, and its threshold.
    pub measurement: Measurement,
    /// The call site responsible, if it is known: the label or the `file:line`.
    ///
    /// - A read blocks a checkpoint: the oldest read.
    /// - Writes are slow: the running write, if it takes long, or the call site that recently used most of the writer's
    ///   time.
    /// - The disk is full: the write that failed, or as for slow writes.
    /// - A backup failed: the call of [`Store::backup_every`](crate::Store::backup_every).
    /// - A bulk job is stalled: the job.
    /// - A sweep failed: the call of [`Store::retain`](crate::Store::retain).
    pub site: Option<String>,
    /// The reason, if it is known, such as why a backup failed. It omits SQLite's message, which could quote data.
    pub reason: Option<String>,
}

/// The kind of an [`Alert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum AlertKind {
    /// The p95 queue wait of writes exceeded 100 ms over the last sampling window (at least 20 writes, at most 60
    /// samples). Or the first write in the queue has waited longer than 1 s.
    SlowQueue,
    /// The queue of writes has reached [`Options::queue_capacity`](crate::Options::queue_capacity). Callers wait for
    /// room.
    QueueFull,
    /// The WAL is larger than [`Options::wal_limit`](crate::Options::wal_limit), or than 100 MB, and checkpoints could
    /// not move it, or another process has written it and has not moved it.
    LargeWal,
    /// A read is older than [`Options::max_reader_age`](crate::Options::max_reader_age). Backups and checks, which may
    /// take long, do not count; if one keeps the WAL from being reset, [`LargeWal`](Self::LargeWal) names it.
    OldRead,
    /// Ten checkpoints in a row moved only a part of the WAL.
    StuckCheckpoint,
    /// More than a quarter of the pages of the database, and more than 1000, are free.
    FreePages,
    /// The file system of the database has less free space than twice
    /// [`Options::wal_limit`](crate::Options::wal_limit) (on a small one: than a tenth of it), or less than 5 % and
    /// 5 GiB. Or a write failed because the
    /// disk was full, and no write has been committed since.
    DiskFull,
    /// The last backup of a [`BackupSchedule`](crate::BackupSchedule) failed; the measurement counts the failures in a
    /// row. The alert clears when a backup succeeds or the schedule is stopped.
    BackupFailed,
    /// The database, its `-wal` or its `-shm` was deleted, renamed or replaced while the store had it open. The store
    /// is poisoned: it is read-only until it is reopened.
    FileMoved,
    /// Code in this process opened and closed the database file or its `-shm`, which dropped SQLite's locks. The store
    /// is poisoned: it is read-only until it is reopened.
    LocksDropped,
    /// The replica lacks what was captured ten intervals ago (`ReplicaOptions::interval`),
    /// or 30 s ago if that is longer.
    ReplicaBehind,
    /// Three uploads to the replica in a row failed; the measurement counts them. They are tried again until one
    /// succeeds.
    ReplicaFailing,
    /// What waits to be uploaded has reached `ReplicaOptions::spool_limit`, or the disk is full. It was dropped, and the
    /// alert clears when the whole database is captured; or writes are refused until uploads have made room
    /// (`ReplicaOptions::when_full`).
    SpoolFull,
    /// Another process has taken the replica over. The store takes no more writes.
    Fenced,
    /// The storage was away as the store opened, and its replica is not the one that the store goes on with. The store
    /// takes no more writes.
    Diverged,
    /// The whole database is captured once more: the replica could not go on from the WAL, or its newest state cannot be
    /// restored.
    Rebased,
    /// The local clock is more than 5 minutes ahead of the storage's. What is replicated gets the storage's time.
    ClockAhead,
    /// A file of the replica is damaged or missing, and the newest state cannot be restored until a full copy is
    /// uploaded, which has begun. Or the last verification of the replica found a problem, or three in a row were not
    /// possible (`ReplicaOptions::verify_every`).
    VerifyFailed,
    /// The follower is not known to have what was in the replica ten intervals ago (`FollowerOptions::interval`), or 60 s
    /// ago if that is longer. Or it has stopped.
    FollowerBehind,
    /// The last sweep of a [`Retention`](crate::Retention) failed, or three in a row for a reason that can pass: old rows
    /// are not deleted, so the table grows. The alert clears when a sweep succeeds or the retention ends.
    RetentionFailed,
    /// The clock has jumped ahead, and a [`Retention`](crate::Retention) will follow it
    /// ([`RetainOptions::clock_hold`](crate::RetainOptions::clock_hold)): if the clock is wrong, rows go that are not old.
    /// The alert clears when the clock is followed, or is right again.
    RetentionClock,
    /// A slice of a [bulk job](crate::Bulk) was submitted more than 10 s ago, and has no reply: a checkpoint on the thread
    /// `larder-checkpoint` does not end, for instance on a disk that hangs, or another write, or another process keeps the
    /// write lock; or the slice is committed, and waits for the replica
    /// ([`Durability::Replicated`](crate::Durability::Replicated)). The site is that of the job, and the reason has its name.
    /// A job that waits for its source does not count.
    BulkStalled,
}

impl AlertKind {
    /// The name of the kind in events, metrics and JSON, in snake case.
    pub fn name(self) -> &'static str {
        match self {
            AlertKind::SlowQueue => "slow_queue",
            AlertKind::QueueFull => "queue_full",
            AlertKind::LargeWal => "large_wal",
            AlertKind::OldRead => "old_read",
            AlertKind::StuckCheckpoint => "stuck_checkpoint",
            AlertKind::FreePages => "free_pages",
            AlertKind::DiskFull => "disk_full",
            AlertKind::BackupFailed => "backup_failed",
            AlertKind::FileMoved => "file_moved",
            AlertKind::LocksDropped => "locks_dropped",
            AlertKind::ReplicaBehind => "replica_behind",
            AlertKind::ReplicaFailing => "replica_failing",
            AlertKind::SpoolFull => "spool_full",
            AlertKind::Fenced => "fenced",
            AlertKind::Diverged => "diverged",
            AlertKind::Rebased => "rebased",
            AlertKind::ClockAhead => "clock_ahead",
            AlertKind::VerifyFailed => "verify_failed",
            AlertKind::FollowerBehind => "follower_behind",
            AlertKind::RetentionFailed => "retention_failed",
            AlertKind::RetentionClock => "retention_clock",
            AlertKind::BulkStalled => "bulk_stalled",
        }
    }
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
