//! Conditions that are wrong now. See [`Stats::alerts`](crate::Stats::alerts).

use std::fmt;
use std::time::Duration;

use super::Measurement;

/// Something that is wrong at the moment.
///
/// An event of the target `larder::alert` says when it begins, and one when it is over. It is looked at every
/// [`Options::monitor_interval`](crate::Options::monitor_interval), and over when it was not seen for three looks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Alert {
    /// What it is.
    pub kind: AlertKind,
    /// How long it has lasted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub age: Duration,
    /// What was measured at the last look, and from where on it is wrong.
    pub measurement: Measurement,
    /// Who is behind it, if that is known, by label or `file:line`: the oldest read where a read is in the way; where
    /// writes are too slow the one that runs for long, or those that took most of the writer's time of late; of a full
    /// disk whoever found no room, or those again; of a backup who has asked for the schedule.
    pub site: Option<String>,
    /// Why, where that is known: of a backup that failed what was in its way, without what SQLite says.
    pub reason: Option<String>,
}

/// What may be wrong. See [`Alert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum AlertKind {
    /// One in 20 of the writes had waited for longer than 100 ms, of those started lately: since the last look, or as
    /// many looks before as it takes for 20 writes, at most 60. Or the first in the queue waits for longer than 1 s.
    SlowQueue,
    /// As many writes are queued as [`Options::queue_capacity`](crate::Options::queue_capacity) allows, or more: callers wait for room.
    QueueFull,
    /// The write-ahead log is over [`Options::wal_limit`](crate::Options::wal_limit), or over 100 MB.
    LargeWal,
    /// A read is older than [`Options::max_reader_age`](crate::Options::max_reader_age).
    OldRead,
    /// Ten checkpoints in a row could not move all of the log.
    StuckCheckpoint,
    /// More than a quarter of the database's pages, and more than 1000, are free.
    FreePages,
    /// The file system of the database has less room than twice [`Options::wal_limit`](crate::Options::wal_limit), or
    /// less than 5 % and 5 GiB; or a write has failed for want of room, and none has been committed since.
    DiskFull,
    /// The last backup of a [`BackupSchedule`](crate::BackupSchedule) failed, and how many in a row. It is over when one has
    /// been made, or the schedule is stopped.
    BackupFailed,
    /// The database, its `-wal` or its `-shm` was removed, renamed or replaced while the store had it open. The store is
    /// poisoned: it takes no more writes until it is opened again.
    FileMoved,
    /// Something in this process has opened and closed the database file or its `-shm`, which dropped SQLite's locks on it.
    /// The store is poisoned: it takes no more writes until it is opened again.
    LocksDropped,
}

impl AlertKind {
    /// Its name, as it stands in events: in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            AlertKind::SlowQueue => "slow-queue",
            AlertKind::QueueFull => "queue-full",
            AlertKind::LargeWal => "large-wal",
            AlertKind::OldRead => "old-read",
            AlertKind::StuckCheckpoint => "stuck-checkpoint",
            AlertKind::FreePages => "free-pages",
            AlertKind::DiskFull => "disk-full",
            AlertKind::BackupFailed => "backup-failed",
            AlertKind::FileMoved => "file-moved",
            AlertKind::LocksDropped => "locks-dropped",
        }
    }
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
