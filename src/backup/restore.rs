//! Restoring: a database created from a backup.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::copy::{Copier, CopyPlan, CopyReport, Whose, refuse_damage};
use super::failure::{Failure, Result as CopyResult};
use super::staging::{self, Staging, Unfinished, with};
use super::{BackupProgress, BackupReport, reporter};
use crate::connection::file::SMALLEST;
use crate::connection::{self, Private, check_key, check_sqlite, open_copy_alone, open_files, open_original};
use crate::error::{Error, Result};
use crate::maintenance::check::CheckReport;
use crate::maintenance::progress::ProgressReporter;
use crate::options::Settings;
use crate::read::begin_snapshot;
use crate::telemetry::event::event;

/// The options of one restore. See [`Store::restore_with`](crate::Store::restore_with).
#[must_use = "options do nothing until a restore gets them"]
pub struct RestoreOptions {
    verify: bool,
    reporter: ProgressReporter<BackupProgress>,
}

impl RestoreOptions {
    /// Creates options with every default.
    pub fn new() -> Self {
        Self {
            verify: true,
            reporter: ProgressReporter::new(BackupProgress::NOTHING),
        }
    }

    /// Restores the backup only if it is sound. The default is `true`.
    ///
    /// With `false` a damaged backup is restored as it is, to save what is left of it: pages are copied, and the copy is
    /// not compared with the backup. [`RestoreReport::check`] then says what is damaged, and
    /// [`RestoreReport::verified`] is `false`.
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Calls `f` after each step, and some ten times a second while the backup and the database are checked.
    /// `ControlFlow::Break(())` cancels the restore: nothing is created at its target then.
    ///
    /// The callback runs on the thread that called [`Store::restore_with`](crate::Store::restore_with).
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (backup, path) = (folder.path().join("backup"), folder.path().join("app.db"));
    /// use std::ops::ControlFlow;
    /// use larder::{RestoreOptions, Store};
    /// # Store::open_temp()?.backup(&backup).run()?;
    ///
    /// let options = RestoreOptions::new().progress(|progress| {
    ///     println!("{} of {} pages", progress.pages_done, progress.pages_total);
    ///     ControlFlow::Continue(())
    /// });
    /// Store::restore_with(options, &backup, &path)?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn progress(mut self, f: impl FnMut(&BackupProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = reporter(f);
        self
    }
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreOptions")
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// The result of [`Store::restore`](crate::Store::restore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RestoreReport {
    /// Absolute path of the database.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// Page size in bytes.
    pub page_size: u64,
    /// Number of pages.
    pub pages: u64,
    /// Whether the database was checked and compared with the backup.
    pub verified: bool,
    /// The check of the database. It may report findings, and foreign keys without a parent row, which the backup has
    /// too. It reports damage only if [`RestoreOptions::verify`] was `false`; then it is the check of the backup.
    pub check: CheckReport,
    /// Number of rows in all tables, including the shadow tables of virtual tables. It equals that of the backup. 0 if
    /// the database was not verified.
    pub rows: u64,
    /// SHA-256 of all rows of all tables in hexadecimal. It equals that of
    /// [`Backup::checksum`](crate::Backup::checksum) if no row has changed. Empty if the database was not verified.
    pub checksum: String,
    /// Duration of the restore.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

/// Restores a backup.
pub(crate) fn restore(settings: &Settings, options: RestoreOptions, from: &Path, to: &Path) -> Result<RestoreReport> {
    let began = Instant::now();
    check_sqlite(from)?;
    check_key(settings)?;
    // Before the check for a file at `to`: a store also reserves the name of a file that was moved away.
    if open_files::is_open(to) {
        return Err(Error::AlreadyOpen {
            path: to.into(),
            closing: None,
        });
    }
    options.reporter.begin();
    let made = make(settings, &options, from, to).map_err(|failure| failure.of_restore(from, to));
    let (path, copied) = options.reporter.end("restore").and(made)?;
    let report = RestoreReport {
        path,
        page_size: copied.page_size,
        pages: copied.pages,
        verified: options.verify,
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
            verified = report.verified,
            rows = report.rows,
            problems = report.check.problems.len(),
            findings = report.check.total_findings,
            foreign_key_violations = report.check.total_foreign_key_violations,
            duration_ms = report.duration.as_millis() as u64,
        },
        "backup restored"
    );
    Ok(report)
}

fn make(settings: &Settings, options: &RestoreOptions, from: &Path, to: &Path) -> CopyResult<(PathBuf, CopyReport)> {
    let staging = Staging::new(to, false)?;
    let from = original(from)?;
    let plan = CopyPlan {
        verify: options.verify,
        checksum: true,
        ..CopyPlan::default()
    };
    let copier = Copier {
        options: settings,
        plan: &plan,
        reporter: &options.reporter,
        pause: &|_| {},
    };
    // Declared before the source, whose files it may have: it is dropped last.
    let mut unfinished = None;
    let source = open_source(&copier, &from, &staging, &mut unfinished)?;
    let begun = begin_snapshot(&source.conn).map_err(|error| Failure::of("the backup cannot be read", error));
    // The backup is checked first: no page is copied if it is damaged.
    let checked = begun.and_then(|()| check(&copier, &source));
    let made = checked.and_then(|checked| {
        let unfinished = match &mut unfinished {
            Some(unfinished) => unfinished,
            none => none.insert(staging.begin()?),
        };
        let copy = unfinished.create("copy.db")?;
        let fingerprint = copier.copy(&source.conn, &source.interrupt, &copy)?;
        let (copy, mut copied) = copier.finish(unfinished, copy, fingerprint)?;
        copied.check.get_or_insert(checked);
        copier.go_on()?;
        staging.finish(copy)?;
        Ok(copied)
    });
    connection::close(source.conn);
    Ok((staging.path, made?))
}

/// Checks the backup. Damage is an error, unless the restore is not verified.
fn check(copier: &Copier<'_>, source: &Private) -> CopyResult<CheckReport> {
    let checked = copier.check(source, Whose::Source);
    if copier.plan.verify {
        return checked.and_then(refuse_damage);
    }
    Ok(checked.unwrap_or_else(|failure| {
        let mut report = CheckReport::default();
        report.add_problem(failure.sentence());
        report
    }))
}

/// Opens the backup where it is, or a copy of its files where SQLite cannot read it without writing there.
fn open_source(
    copier: &Copier<'_>,
    from: &Path,
    staging: &Staging,
    unfinished: &mut Option<Unfinished>,
) -> CopyResult<Private> {
    let cannot = |error| Failure::of("the backup cannot be opened", error);
    if let Some(source) = open_original(from, copier.options, copier.plan.verify).map_err(cannot)? {
        return Ok(source);
    }
    let files = unfinished.insert(staging.begin()?).create("original.db")?;
    copy_files(from, &files.path)?;
    open_copy_alone(&files.path, copier.options, copier.plan.verify).map_err(cannot)
}

/// Copies a database that no program seems to use, with its WAL and its journal. SQLite's locks are not taken, so the
/// files are compared with what they were before.
fn copy_files(from: &Path, to: &Path) -> CopyResult<()> {
    const COPIED: [&str; 3] = ["", "-wal", "-journal"];
    let cannot = |error| {
        Failure::of(
            "the files of the backup cannot be copied beside the target; check who may read them, and the free space",
            error,
        )
    };
    let states = || COPIED.map(|ending| state(Path::new(&with(from.as_os_str(), ending))));
    let before = states();
    for (ending, _) in COPIED.iter().zip(&before).filter(|(_, state)| state.is_some()) {
        let mut read = File::open(with(from.as_os_str(), ending)).map_err(cannot)?;
        let to = PathBuf::from(with(to.as_os_str(), ending));
        let mut written = match *ending {
            "" => File::options().write(true).open(&to).map_err(cannot)?,
            _ => staging::create(&to)?,
        };
        io::copy(&mut read, &mut written).map_err(cannot)?;
    }
    if states() != before {
        return Err(Failure::new(
            "another program writes to the backup; close that program, or make a backup of its database with \
             Store::backup",
        ));
    }
    Ok(())
}

/// What changes when a file is written: its inode, size and times. `None` if there is no file.
fn state(path: &Path) -> Option<[i64; 6]> {
    let file = fs::metadata(path).ok()?;
    let (inode, size) = (file.ino() as i64, file.size() as i64);
    Some([
        inode,
        size,
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    ])
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
        if !self.verified {
            let (path, bytes) = (self.path.display(), self.bytes());
            return write!(f, "{path}: {bytes} bytes, not verified; {}", self.check);
        }
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
