//! Restoring: a database created from a backup.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use super::copy::{Copier, CopyPlan, CopyReport};
use super::failure::{Failure, Result as CopyResult};
use super::staging::Staging;
use super::{BackupProgress, BackupReport};
use crate::connection::file::SMALLEST;
use crate::connection::{self, check_sqlite_version, open_files, open_original};
use crate::error::{Error, Result};
use crate::maintenance::check::CheckReport;
use crate::maintenance::progress::ProgressReporter;
use crate::options::Settings;
use crate::read::begin_snapshot;
use crate::telemetry::event::event;

/// The result of [`Store::restore`](crate::Store::restore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Absolute path of the database.
    pub path: PathBuf,
    /// Page size in bytes.
    pub page_size: u64,
    /// Number of pages.
    pub pages: u64,
    /// The check of the database. It reports no corruption, but it may report foreign keys without a parent row, which
    /// the backup has too.
    pub check: CheckReport,
    /// Number of rows in all tables, including the shadow tables of virtual tables. It equals that of the backup.
    pub rows: u64,
    /// SHA-256 of all rows of all tables in hexadecimal. It equals that of
    /// [`Backup::checksum`](crate::Backup::checksum) if no row has changed.
    pub checksum: String,
    /// Duration of the restore.
    pub duration: Duration,
}

/// Restores a backup.
pub(crate) fn restore(options: &Settings, from: &Path, to: &Path) -> Result<RestoreReport> {
    let began = Instant::now();
    check_sqlite_version()?;
    // Before the check for a file at `to`: a store also reserves the name of a file that was moved away.
    if open_files::is_open(to) {
        return Err(Error::AlreadyOpen {
            path: to.into(),
            closing: None,
        });
    }
    let (path, copied) = make(options, from, to).map_err(|failure| failure.of_restore(from, to))?;
    let report = RestoreReport {
        path,
        page_size: copied.page_size,
        pages: copied.pages,
        check: copied.check.unwrap_or_default(),
        rows: copied.rows,
        checksum: copied.checksum.unwrap_or_default(),
        duration: began.elapsed(),
    };
    event!(
        info,
        "larder::restore",
        report.path,
        {
            backup = %from.display(),
            bytes = report.bytes(),
            rows = report.rows,
            foreign_key_violations = report.check.total_foreign_key_violations,
            duration_ms = report.duration.as_millis() as u64,
        },
        "backup restored"
    );
    Ok(report)
}

fn make(options: &Settings, from: &Path, to: &Path) -> CopyResult<(PathBuf, CopyReport)> {
    let staging = Staging::new(to, false)?;
    let from = original(from)?;
    let plan = CopyPlan {
        checksum: true,
        ..CopyPlan::default()
    };
    let copier = Copier {
        options,
        plan: &plan,
        reporter: &ProgressReporter::new(BackupProgress::NOTHING),
        pause: &|_| {},
    };
    let source = open_original(&from, options).map_err(|error| Failure::of("the backup cannot be opened", error))?;
    let begun = begin_snapshot(&source.conn).map_err(|error| Failure::of("the backup cannot be read", error));
    // The backup is checked first: nothing is created if it is damaged.
    let checked = begun.and_then(|()| copier.check(&source));
    let made = checked.and_then(|_| {
        let unfinished = staging.begin()?;
        let copy = unfinished.create("copy.db")?;
        let fingerprint = copier.copy(&source.conn, &source.interrupt, &copy)?;
        let (copy, copied) = copier.finish(&unfinished, copy, fingerprint)?;
        staging.finish(copy)?;
        Ok(copied)
    });
    connection::close(source.conn);
    Ok((staging.path, made?))
}

/// The backup's path without symbolic links, if it is a regular file of sufficient size.
fn original(from: &Path) -> CopyResult<PathBuf> {
    let unusable = |error| Failure::of("the backup cannot be found", error);
    let path = from.canonicalize().map_err(unusable)?;
    let metadata = fs::metadata(&path).map_err(unusable)?;
    if !metadata.is_file() {
        return Err(Failure::new("the backup is not a regular file"));
    }
    // SQLite would read it as an empty database.
    if metadata.len() < SMALLEST {
        return Err(Failure::new(
            "the backup is not an SQLite database: it has fewer bytes than the smallest database",
        ));
    }
    Ok(path)
}

impl RestoreReport {
    /// Size of the database in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }
}

/// The same line as for the backup.
impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = BackupReport {
            path: self.path.clone(),
            page_size: self.page_size,
            pages: self.pages,
            check: Some(self.check.clone()),
            rows: self.rows,
            checksum: None,
            wal_pinned_for: Duration::ZERO,
            duration: self.duration,
        };
        made.fmt(f)
    }
}
