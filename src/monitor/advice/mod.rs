//! Present and coming problems of a store, each with a remedy. See [`Store::advice`](crate::Store::advice).

mod finding;
mod replica;
mod running;
mod schema;
mod statements;

use std::path::{Path, PathBuf};

pub use self::finding::{Finding, Severity};
#[cfg(test)]
pub(crate) use self::schema::is_bookkeeping;
pub(crate) use self::schema::{DIESEL, GOOSE, MIGRATION_TOOLS, REFINERY, SQLX};
use super::watchdog::RecentWrites;
use crate::error::{Error, Result};
use crate::options::Checkpoints;
use crate::telemetry::external_commits::LastHour;
use crate::telemetry::replica::ReplicaSample;
use crate::telemetry::stats::Stats;
use crate::transaction::ReadTx;

/// A setting that differs from its value at opening: name, value then, value now.
pub(crate) type Changed = (&'static str, String, String);

/// The facts about a store that advice is based on.
pub(crate) struct Known<'a> {
    pub(crate) stats: &'a Stats,
    pub(crate) recent_writes: RecentWrites,
    pub(crate) external_commits: LastHour,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) changed: Vec<Changed>,
    pub(crate) poisoned: Option<Error>,
    /// The name of a file system on which a WAL is not safe.
    pub(crate) filesystem: Option<&'static str>,
    /// Backups whose time is after now.
    pub(crate) later_backups: Vec<PathBuf>,
    /// The findings about the schema.
    pub(crate) schema: Result<Vec<Finding>>,
    pub(crate) replica: Option<ReplicaSample>,
}

/// All findings, the most severe first.
pub(crate) fn of(known: Known<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(known.poisoned.map(poisoned));
    findings.extend(known.filesystem.map(unsafe_filesystem));
    let recent = known.recent_writes;
    let external = match known.checkpoints {
        Checkpoints::Own => known.external_commits,
        // Those of the process that makes the checkpoints, which writes to tables of its own.
        Checkpoints::Left => LastHour::default(),
    };
    findings.extend(running::look(known.stats, &recent, external));
    if known.checkpoints == Checkpoints::Left && known.stats.read_only.is_none() {
        findings.extend(running::log_left(known.stats));
    }
    if let (Some(sample), Some(stats)) = (&known.replica, &known.stats.replica) {
        findings.extend(replica::look(sample, stats));
    }
    findings.extend(known.changed.into_iter().map(pragma_changed));
    findings.extend(known.later_backups.iter().map(|path| later_backup(path)));
    findings.extend(known.schema.unwrap_or_else(|error| vec![schema_unread(&error)]));
    findings.extend(running::outgrown(&findings, known.stats, &recent, external));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The findings about the schema, for [`Known::schema`].
pub(crate) fn of_schema(tx: &ReadTx<'_>) -> Result<Vec<Finding>> {
    schema::look(tx)
}

fn poisoned(error: Error) -> Finding {
    let remedy = "Check the disk, then restart the service (reopening rewrites the WAL)";
    Finding::new(Severity::Critical, "poisoned", error.to_string(), remedy)
}

fn unsafe_filesystem(name: &str) -> Finding {
    let message = format!("the database is on {name}, where the shared memory of the WAL does not work");
    let remedy =
        "Move the database to a local file system, and check it (Store::check): it may be corrupt without any error";
    Finding::new(Severity::Critical, "unsafe_filesystem", message, remedy)
}

fn pragma_changed((name, then, now): Changed) -> Finding {
    let message = format!("PRAGMA {name} was {then} when the store opened, and is {now} now");
    let remedy = "A closure with rusqlite's own methods, or another process, has changed it: set it in Options";
    Finding::new(Severity::Warning, "pragma_changed", message, remedy)
}

fn later_backup(path: &Path) -> Finding {
    let message = format!("the time in the name of the backup {} is after now", path.display());
    let remedy = "The schedule neither counts nor removes it: check the clock, or move the file away";
    Finding::new(Severity::Warning, "later_backup", message, remedy)
}

fn schema_unread(error: &Error) -> Finding {
    let message = format!("the schema could not be read: {error}");
    let remedy = if error.is_retryable() {
        "Call advice again when a reader is idle"
    } else {
        "If a name in the schema is not UTF-8, rename the object; Store::check finds corruption"
    };
    Finding::new(Severity::Note, "schema_not_read", message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(stats: &Stats) -> Known<'_> {
        Known {
            stats,
            recent_writes: RecentWrites::default(),
            external_commits: LastHour::default(),
            checkpoints: Checkpoints::Own,
            changed: Vec::new(),
            poisoned: None,
            filesystem: None,
            later_backups: Vec::new(),
            schema: Ok(Vec::new()),
            replica: None,
        }
    }

    #[test]
    fn advice_lists_the_most_severe_first() {
        let stats = Stats::default();
        assert_eq!(of(known(&stats)), []);
        let disk = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None);
        let found = of(Known {
            changed: vec![("cache_size", "-64000".into(), "-1".into())],
            poisoned: Some(Error::Poisoned { source: disk.into() }),
            filesystem: Some("NFS"),
            later_backups: vec!["/backups/app.db.20990101T000000Z".into()],
            schema: Err(Error::Closed),
            ..known(&stats)
        });
        let told: Vec<_> = found.iter().map(|finding| (finding.severity, finding.topic)).collect();
        let wanted = [
            (Severity::Critical, "poisoned"),
            (Severity::Critical, "unsafe_filesystem"),
            (Severity::Warning, "pragma_changed"),
            (Severity::Warning, "later_backup"),
            (Severity::Note, "schema_not_read"),
        ];
        assert_eq!(told, wanted);
        assert!(
            found[1].to_string().starts_with("critical: the database is on NFS"),
            "{}",
            found[1]
        );
        assert!(found.iter().all(|finding| !finding.remedy.is_empty()));
    }
}
