//! The conditions that raise alerts: one row for each kind.

use std::time::Duration;

use super::advice::Severity;
use super::watchdog::Sample;
use crate::connection::open_file::FileChange;
use crate::options::{Checkpoints, Settings};
use crate::telemetry::alert::AlertKind;
use crate::telemetry::bulk::RETAINS;
use crate::telemetry::counters::LONG_WAIT;
use crate::telemetry::stats::DatabaseStats;

const LARGE_WAL: u64 = 100_000_000;
const STUCK_CHECKPOINTS: u64 = 10;
const FREE_PAGES: u64 = 1000;
const FREE_PERCENT: f64 = 25.0;

/// One kind of alert: its condition, and its texts in events and advice.
pub(super) struct Rule {
    pub(super) kind: AlertKind,
    pub(super) description: &'static str,
    pub(super) severity: Severity,
    pub(super) remedy: &'static str,
    pub(super) unit: &'static str,
    /// The value and its threshold, if the condition is wrong.
    pub(super) measure: fn(&Observation<'_>) -> Option<(f64, f64)>,
    /// The responsible call site.
    pub(super) culprit: fn(&Observation<'_>) -> Option<String>,
    pub(super) reason: fn(&Observation<'_>) -> Option<String>,
}

/// A sample, and the results of comparing it with the previous ones.
pub(super) struct Observation<'a> {
    pub(super) sample: &'a Sample,
    pub(super) settings: &'a Settings,
    /// The wait of most writes, or of the first in the queue, if that is longer.
    pub(super) queue_wait: Duration,
    pub(super) busiest_writer: Option<String>,
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        kind: AlertKind::SlowQueue,
        description: "writes wait too long in the queue",
        severity: Severity::Warning,
        remedy: "Check the call site in Stats::call_sites: move work that is not SQL out of its closure, and split \
                 long writes",
        unit: "s",
        measure: |seen| above(seen.queue_wait.as_secs_f64(), LONG_WAIT.as_secs_f64()),
        culprit: busiest_writer,
        reason: slow_checkpoint,
    },
    Rule {
        kind: AlertKind::QueueFull,
        description: "the queue of writes is full",
        severity: Severity::Critical,
        remedy: "Callers wait for room, up to Options::queue_timeout: make this write shorter, and combine many small \
                 writes into one",
        unit: "writes",
        measure: |seen| {
            let (queued, room) = (seen.sample.queued, seen.settings.queue_capacity);
            (queued >= room).then_some((queued as f64, room as f64))
        },
        culprit: busiest_writer,
        reason: none,
    },
    Rule {
        kind: AlertKind::LargeWal,
        description: "the WAL is larger than its limit",
        severity: Severity::Warning,
        remedy: "End the read that blocks the checkpoint, use shorter reads, or set Options::interrupt_old_readers; a \
                 backup and a check end by themselves. If another process writes, let it checkpoint \
                 (PRAGMA wal_autocheckpoint)",
        unit: "B",
        measure: |seen| {
            // The next commit resets a WAL whose pages were all moved.
            let sample = seen.sample;
            let own = if sample.unfinished > 0 { sample.wal_bytes } else { 0 };
            let bytes = own.max(sample.external_wal_bytes.unwrap_or_default());
            // Another process decides how large it becomes.
            let is_own = seen.settings.checkpoints == Checkpoints::Own;
            above(bytes as f64, seen.settings.wal_limit.min(LARGE_WAL) as f64).filter(|_| is_own)
        },
        culprit: oldest_read,
        reason: |seen| {
            let reason = "another process has written it, and has not moved it into the database";
            seen.sample.external_wal_bytes.map(|_| reason.to_owned())
        },
    },
    Rule {
        kind: AlertKind::OldRead,
        description: "an old read keeps the WAL from being reset",
        severity: Severity::Warning,
        remedy: "Read in pages, each in a read of its own; Options::interrupt_old_readers stops old reads",
        unit: "s",
        measure: |seen| {
            let age = seen.sample.oldest_of_the_application.as_ref()?.age;
            above(age.as_secs_f64(), seen.settings.max_reader_age.as_secs_f64())
        },
        culprit: |seen| Some(seen.sample.oldest_of_the_application.as_ref()?.site.clone()),
        reason: none,
    },
    Rule {
        kind: AlertKind::StuckCheckpoint,
        description: "checkpoints cannot move the whole WAL",
        severity: Severity::Warning,
        remedy: "A read always blocks them: check Stats::readers, and which other processes have the file open \
                 (`fuser -v`)",
        unit: "checkpoints",
        measure: |seen| {
            let unfinished = seen.sample.unfinished;
            (unfinished >= STUCK_CHECKPOINTS).then_some((unfinished as f64, STUCK_CHECKPOINTS as f64))
        },
        culprit: oldest_read,
        reason: none,
    },
    Rule {
        kind: AlertKind::FreePages,
        description: "many pages of the database are free",
        severity: Severity::Note,
        remedy: "New rows will reuse them. If auto_vacuum is incremental, the idle writer returns them to the file \
                 system (Options::incremental_vacuum); Store::vacuum does so at once",
        unit: "%",
        measure: |seen| {
            let DatabaseStats { pages, free_pages, .. } = seen.sample.database;
            let percent = 100.0 * free_pages as f64 / pages.max(1) as f64;
            above(percent, FREE_PERCENT).filter(|_| free_pages > FREE_PAGES)
        },
        culprit: none,
        reason: none,
    },
    Rule {
        kind: AlertKind::DiskFull,
        description: "the database cannot grow for long: its disk is full or nearly full, or max_page_count is reached",
        severity: Severity::Critical,
        remedy: "Writes that need room fail and are rolled back, and their errors say which limit it is: free disk \
                 space, move the database to a larger disk, or raise PRAGMA max_page_count",
        unit: "B",
        measure: |seen| {
            let (free, wanted) = seen.sample.room.unwrap_or((u64::MAX, 0));
            (free < wanted || seen.sample.full_for.is_some()).then_some((free as f64, wanted as f64))
        },
        culprit: |seen| seen.sample.full_for.clone().or_else(|| busiest_writer(seen)),
        reason: none,
    },
    Rule {
        kind: AlertKind::BackupFailed,
        description: "scheduled backups fail",
        severity: Severity::Critical,
        remedy: "Do what the reason says; Store::backup to another folder makes a backup at once",
        unit: "backups",
        measure: |seen| Some((seen.sample.failing_backups.as_ref()?.in_a_row as f64, 0.0)),
        culprit: |seen| Some(seen.sample.failing_backups.as_ref()?.site.to_string()),
        reason: |seen| Some(seen.sample.failing_backups.as_ref()?.reason.clone()),
    },
    Rule {
        kind: AlertKind::FileMoved,
        description: "the files of the database are no longer those that the store opened",
        severity: Severity::Critical,
        remedy: READ_ONLY,
        unit: "files",
        measure: |seen| {
            let change = seen.sample.file_change.as_ref()?;
            matches!(change, FileChange::Removed(..) | FileChange::Replaced(..)).then_some((1.0, 0.0))
        },
        culprit: none,
        reason: file_change,
    },
    Rule {
        kind: AlertKind::LocksDropped,
        description: "this process has dropped SQLite's locks on the database",
        severity: Severity::Critical,
        remedy: READ_ONLY,
        unit: "files",
        measure: |seen| {
            let change = seen.sample.file_change.as_ref()?;
            matches!(change, FileChange::Unlocked(..)).then_some((1.0, 0.0))
        },
        culprit: none,
        reason: file_change,
    },
    Rule {
        kind: AlertKind::ReplicaBehind,
        description: "the replica is behind",
        severity: Severity::Critical,
        remedy: "The loss of this machine would cost what is not uploaded. Look at the reason and at Stats::replica: the \
                 storage may be away or slow, or the interval too short for it (ReplicaOptions::interval)",
        unit: "s",
        measure: |seen| {
            let replica = seen.sample.replica.as_ref()?;
            let most = (replica.interval * 10).max(REPLICA_BEHIND);
            above(replica.behind.as_secs_f64(), most.as_secs_f64())
        },
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.failing.clone(),
    },
    Rule {
        kind: AlertKind::ReplicaFailing,
        description: "uploads to the replica fail",
        severity: Severity::Critical,
        remedy: "Do what the reason says. Writes go on, and wait in the folder app.db-replica until an upload succeeds",
        unit: "uploads",
        measure: |seen| {
            let failures = seen.sample.replica.as_ref()?.failures_in_a_row;
            (failures >= FAILED_UPLOADS).then_some((failures as f64, FAILED_UPLOADS as f64))
        },
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.failing.clone(),
    },
    Rule {
        kind: AlertKind::SpoolFull,
        description: "what waits to be uploaded to the replica has no more room: it was dropped, or writes are refused",
        severity: Severity::Critical,
        remedy: "Bring the storage back: then the whole database is uploaded, or writes go on. For longer outages raise \
                 ReplicaOptions::spool_limit; ReplicaOptions::when_full says which of the two it is",
        unit: "times",
        measure: |seen| spool_full(seen).map(|_| (1.0, 0.0)),
        culprit: none,
        reason: spool_full,
    },
    Rule {
        kind: AlertKind::Fenced,
        description: "another process has taken the replica over",
        severity: Severity::Critical,
        remedy: "The store takes no more writes. Stop this process, and let only one process be the primary",
        unit: "times",
        measure: |seen| seen.sample.replica.as_ref()?.fenced.as_ref().map(|_| (1.0, 0.0)),
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.fenced.clone(),
    },
    Rule {
        kind: AlertKind::Diverged,
        description: "the replica is not the one that the store goes on with",
        severity: Severity::Critical,
        remedy: "The store takes no more writes. Do what the reason says, then restart the service",
        unit: "times",
        measure: |seen| seen.sample.replica.as_ref()?.diverged.as_ref().map(|_| (1.0, 0.0)),
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.diverged.clone(),
    },
    Rule {
        kind: AlertKind::Rebased,
        description: "the whole database is captured once more for its replica",
        severity: Severity::Warning,
        remedy: "If another program wrote to the database, while it was closed or with a checkpoint of its own, let only \
                 this service write to it. If a file of the replica is damaged, look at its storage",
        unit: "times",
        measure: |seen| seen.sample.replica.as_ref()?.rebase.as_ref().map(|_| (1.0, 0.0)),
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.rebase.clone(),
    },
    Rule {
        kind: AlertKind::ClockAhead,
        description: "the local clock is ahead of the storage's",
        severity: Severity::Warning,
        remedy: "Set the clock of this machine, and keep it set by NTP. Until then what is replicated gets the storage's \
                 time, so that restores by time stay right",
        unit: "s",
        measure: |seen| {
            let ahead = seen.sample.replica.as_ref()?.clock_ahead?;
            Some((ahead.as_secs_f64(), CLOCK_AHEAD.as_secs_f64()))
        },
        culprit: none,
        reason: none,
    },
    Rule {
        kind: AlertKind::VerifyFailed,
        description: "a check of the replica found a problem",
        severity: Severity::Critical,
        remedy: "Do not rely on it: look at the report of StoreReplica::verify. If files are damaged or missing, make a \
                 backup (Store::backup), and replicate to another URL; if no verification was possible, do what the reason \
                 says",
        unit: "problems",
        measure: |seen| seen.sample.replica.as_ref()?.verify_failed.as_ref().map(|_| (1.0, 0.0)),
        culprit: none,
        reason: |seen| seen.sample.replica.as_ref()?.verify_failed.clone(),
    },
    Rule {
        kind: AlertKind::FollowerBehind,
        description: "the follower is behind",
        severity: Severity::Critical,
        remedy: "Reads see an old state. Do what the reason says; without one, the storage is slow, or the primary writes \
                 more than this machine can apply",
        unit: "s",
        measure: |seen| {
            let follower = seen.sample.follower.as_ref()?;
            let most = (follower.interval * 10).max(FOLLOWER_BEHIND).as_secs_f64();
            let behind = follower.behind.as_secs_f64();
            if follower.has_stopped {
                Some((behind, 0.0))
            } else {
                above(behind, most)
            }
        },
        culprit: none,
        reason: |seen| seen.sample.follower.as_ref()?.problem.clone(),
    },
    Rule {
        kind: AlertKind::RetentionFailed,
        description: "old rows cannot be deleted",
        severity: Severity::Warning,
        remedy: "Do what the reason says; until then the table grows. Stats::retention has each retention",
        unit: "sweeps",
        measure: |seen| Some((seen.sample.failing_sweeps.as_ref()?.in_a_row as f64, 0.0)),
        culprit: |seen| Some(seen.sample.failing_sweeps.as_ref()?.site.to_string()),
        reason: |seen| Some(seen.sample.failing_sweeps.as_ref()?.reason.clone()),
    },
    Rule {
        kind: AlertKind::RetentionClock,
        description: "the clock has jumped ahead, and a retention is to follow it",
        severity: Severity::Warning,
        remedy: "If the clock is wrong, set it right before then, see the reason. If it is right, since the machine or \
                 the service was off, there is nothing to do; Store::trust_clock follows it at once",
        unit: "s",
        measure: |seen| Some((seen.sample.held_clock.as_ref()?.clock.ahead.as_secs_f64(), 0.0)),
        culprit: |seen| Some(seen.sample.held_clock.as_ref()?.site.to_string()),
        reason: held_clock,
    },
    Rule {
        kind: AlertKind::BulkStalled,
        description: "a bulk job or a retention makes no progress: its slice has no reply",
        severity: Severity::Warning,
        remedy: "Do what the reason says. Nothing is lost: the job goes on by itself, or behind what is committed if it is \
                 resumable",
        unit: "s",
        measure: |seen| {
            above(
                seen.sample.waiting_job.as_ref()?.age.as_secs_f64(),
                BULK_STALLED.as_secs_f64(),
            )
        },
        culprit: |seen| Some(seen.sample.waiting_job.as_ref()?.site.clone()),
        reason: stalled_job,
    },
];

/// The age of a slice that has no reply.
const BULK_STALLED: Duration = Duration::from_secs(10);

/// The age of a checkpoint that does not end. It may begin just after the slice was submitted that waits for it, so this is
/// less than [`BULK_STALLED`].
const SLOW_CHECKPOINT: Duration = Duration::from_secs(9);

/// The age of a capture that is not uploaded, if ten intervals are shorter.
const REPLICA_BEHIND: Duration = Duration::from_secs(30);

/// The time since a follower was known to be at the end of the replica, if ten intervals are shorter.
const FOLLOWER_BEHIND: Duration = Duration::from_secs(60);

const FAILED_UPLOADS: u64 = 3;

/// A clock that is held for longer is followed when an operator says so: a hundred years.
const LONGEST_HOLD_HOURS: u64 = 876_600;

const CLOCK_AHEAD: Duration = Duration::from_secs(5 * 60);

const READ_ONLY: &str = "The store is read-only. Do what the reason says, then restart the service";

impl Rule {
    pub(super) fn of(kind: AlertKind) -> &'static Rule {
        let rule = RULES.iter().find(|rule| rule.kind == kind);
        rule.expect("alerts are raised by a rule")
    }
}

fn above(value: f64, threshold: f64) -> Option<(f64, f64)> {
    (value > threshold).then_some((value, threshold))
}

fn none(_: &Observation<'_>) -> Option<String> {
    None
}

fn busiest_writer(seen: &Observation<'_>) -> Option<String> {
    seen.busiest_writer.clone()
}

fn oldest_read(seen: &Observation<'_>) -> Option<String> {
    seen.sample.oldest.as_ref().map(|read| read.site.clone())
}

fn spool_full(seen: &Observation<'_>) -> Option<String> {
    let replica = seen.sample.replica.as_ref()?;
    let refuses = replica.refuses.as_ref();
    let refuses = refuses.map(|reason| format!("writes are refused: {reason}"));
    refuses.or_else(|| replica.dropped.clone())
}

fn held_clock(seen: &Observation<'_>) -> Option<String> {
    let held = seen.sample.held_clock.as_ref()?;
    let table = &held.table;
    // To the hour, so that it stays the same for a while.
    let hours = held.clock.left.as_secs().div_ceil(3600);
    Some(if hours > LONGEST_HOLD_HOURS {
        format!("old rows of {table} wait for Store::trust_clock")
    } else {
        format!("old rows of {table} are deleted by it in {hours} h")
    })
}

/// A checkpoint that another thread makes, if that takes long.
fn slow_checkpoint(seen: &Observation<'_>) -> Option<String> {
    let checkpoint = seen.sample.side_checkpoint.as_ref()?;
    let is_slow = checkpoint.age > SLOW_CHECKPOINT;
    is_slow.then(|| "the thread larder-checkpoint is in a checkpoint that does not end: look at the disk".to_owned())
}

/// What a job waits for.
fn stalled_job(seen: &Observation<'_>) -> Option<String> {
    let job = seen.sample.waiting_job.as_ref()?;
    let what = match (&job.name, job.site.strip_prefix(RETAINS)) {
        (Some(name), _) => format!("the bulk job {name:?}"),
        (None, Some(table)) => format!("the retention of {table}"),
        (None, None) => "the bulk job".to_owned(),
    };
    // One that began after the write is not what the write waits for.
    let checkpoint = slow_checkpoint(seen).filter(|_| checkpoint_is_older(seen));
    let for_what = match (checkpoint, &seen.sample.writing) {
        (Some(checkpoint), _) => checkpoint,
        (None, Some(write)) if write.site == job.site => {
            "its own slice does not end, which runs on the writer thread".into()
        }
        (None, Some(write)) => format!("the write of {} does not end", write.site),
        (None, None) if waits_for_replica(seen) => "its slice is committed, and waits for the replica".into(),
        (None, None) => {
            "the writer is busy with a commit or a checkpoint, or another process has the write lock".into()
        }
    };
    Some(format!("{what} waits: {for_what}"))
}

/// Whether the checkpoint of another thread began before the write that runs, if one does.
fn checkpoint_is_older(seen: &Observation<'_>) -> bool {
    let Sample {
        side_checkpoint,
        writing,
        ..
    } = seen.sample;
    let age = side_checkpoint.as_ref().map(|checkpoint| checkpoint.age);
    writing.as_ref().is_none_or(|write| age >= Some(write.age))
}

/// Whether replies of writes that are committed wait for the replica.
fn waits_for_replica(seen: &Observation<'_>) -> bool {
    let replica = seen.sample.replica.as_ref();
    replica.is_some_and(|replica| replica.waiting_writes > 0)
}

fn file_change(seen: &Observation<'_>) -> Option<String> {
    seen.sample.file_change.as_ref().map(|change| change.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_rule() {
        let kinds: Vec<_> = RULES.iter().map(|rule| rule.kind as usize).collect();
        let all: Vec<_> = (0..=AlertKind::BulkStalled as usize).collect();
        assert_eq!(kinds, all);
    }
}
