//! Copies of a database, which are verified before they get their names.
//!
//! ```text
//! Backup::run, the schedule's thread, a migration     Options::restore
//!   DedicatedReader: a snapshot, its own connection     a snapshot of the backup, checked
//!     copy.rs         pages, by SQLite's backup interface, step by step, into a folder beside the target (staging.rs)
//!     fingerprint.rs  the snapshot's contents: rows of every table, a checksum
//!   the snapshot ends: it no longer pins the WAL
//!     copy.rs         VACUUM INTO if compact; integrity, foreign keys, rows, checksum of the copy
//!     staging.rs      fsync, rename, fsync of the folder
//! ```
//!
//! So the target's name always means a whole backup or the previous file. A running backup is one of the active
//! readers: it is reported as the read that pins the WAL. Closing the store stops it at its next poll, and waits for
//! its cleanup.

mod copy;
mod failure;
mod fingerprint;
mod restore;
mod schedule;
mod staging;
mod stamp;

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rusqlite::Connection;

use self::copy::{Copier, CopyPlan};
pub(crate) use self::failure::Failure;
pub use self::restore::RestoreReport;
pub(crate) use self::restore::restore;
pub use self::schedule::BackupSchedule;
use self::staging::{Staging, with};
#[cfg(doc)]
use crate::Store;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::maintenance::check::CheckReport;
use crate::maintenance::progress::ProgressReporter;
use crate::options::Settings;
use crate::read::Readers;
use crate::runtime::clock::later;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::telemetry::stats::LastBackup;

/// The name of the operation in errors.
const OPERATION: &str = "backup";

/// Interval of the callback in stages that have no steps.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

/// A backup that was not begun. Made by [`Store::backup`] and [`Store::backup_compact`].
///
/// It is a copy of one snapshot, taken while everybody reads and writes on, and **verified**: the copy is opened by itself,
/// `integrity_check` looks at it, and it must have as many rows in every table as the snapshot (whose name is UTF-8: no
/// statement can name another). What is damaged or does not fit is an error. So is a full disk, and whatever else goes
/// wrong; then there is under its name what there was before, and nothing beside it. Foreign keys that point nowhere are
/// copied as they are, and are in the report.
///
/// It is one file with mode `0600`, synced, and not in WAL mode, so that it can be opened where nobody may write (a store
/// that opens it switches to WAL). [`Store::restore`] makes a database of it; [`Store::open`] opens it as one, too, and so
/// does every other program that knows SQLite.
///
/// - **The write-ahead log is pinned** while pages are copied and the rows of the snapshot are counted, as by any long read;
///   [`ReaderStats::oldest_read`](crate::ReaderStats::oldest_read) names the line that called [`run`](Self::run). No write waits for
///   it. Verifying the copy pins nothing.
/// - **It needs disk space:** as much as the database has. ([`Store::backup_compact`] needs that again for its compact copy.)
///   It is first written in a folder beside the target whose name begins with `.larder-backup-`. A process that is killed
///   leaves that behind, and the next backup to the same folder removes it.
/// - **Memory:** two times [`Options::cache_size`](crate::Options::cache_size) at most, and one row.
/// - **It is stopped between two steps** by its callback, by its time-out and by closing the store: neither
///   `sqlite3_interrupt` nor a progress handler stops `sqlite3_backup_step`, nor is a sync of the disk stopped by anything.
///   The checks can be stopped at any moment.
///
/// It runs on the calling thread (from a task: `spawn_blocking`, or its like).
///
/// ```
/// use std::ops::ControlFlow;
/// use std::time::Duration;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db.backup");
/// # let store = larder::Store::open_temp()?;
/// let report = store
///     .backup(&path)
///     .pause(Duration::from_millis(5))
///     .timeout(Duration::from_secs(3600))
///     .progress(|progress| {
///         println!("{} of {} pages", progress.pages_done, progress.pages_total);
///         ControlFlow::Continue(())
///     })
///     .run()?;
/// println!("{report}"); // /backups/app.db.backup: 1077248 bytes, 1234 rows, verified (12.3ms)
/// assert!(report.check.is_some_and(|check| check.is_ok()));
/// # Ok::<_, larder::Error>(())
/// ```
#[must_use = "nothing is copied before `run`"]
pub struct Backup<'s> {
    engine: &'s Engine,
    to: PathBuf,
    overwrite: bool,
    timeout: Option<Duration>,
    plan: CopyPlan,
    reporter: ProgressReporter<BackupProgress>,
}

/// How far a [`Backup`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// What it does.
    pub stage: BackupStage,
    /// Pages that are copied.
    pub pages_done: u64,
    /// Pages of the snapshot.
    pub pages_total: u64,
    /// Bytes a second that were copied so far, pauses counted.
    pub bytes_per_second: u64,
    /// How long it has run, all stages together.
    pub elapsed: Duration,
}

/// What a [`Backup`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupStage {
    /// It copies pages.
    Copy,
    /// It makes the copy compact, by `VACUUM INTO`. SQLite does not say how much of it is left.
    Compact,
    /// It counts the rows of the snapshot, then looks at the copy.
    Verify,
}

/// What a [`Backup`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The backup, as an absolute path.
    pub path: PathBuf,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages.
    pub pages: u64,
    /// What looking at the copy found; `None` if it was not to be verified. There is no damage in it. Foreign keys that point
    /// nowhere there may be, in the backup as in the database.
    pub check: Option<CheckReport>,
    /// Rows of all tables, those of full-text indexes and the like too, which are as many as in the database. 0 if it was
    /// not verified.
    pub rows: u64,
    /// SHA-256 of all rows of all tables, in hexadecimal digits, which is the same of the database; if it was asked for.
    pub checksum: Option<String>,
    /// How long it kept the write-ahead log from being emptied.
    pub wal_pinned_for: Duration,
    /// How long it took.
    pub duration: Duration,
}

impl<'s> Backup<'s> {
    pub(crate) fn new(engine: &'s Engine, to: &Path, compact: bool) -> Self {
        let reporter = ProgressReporter::new(BackupProgress::NOTHING);
        Self {
            engine,
            to: to.to_owned(),
            overwrite: false,
            timeout: None,
            plan: CopyPlan {
                compact,
                ..CopyPlan::default()
            },
            reporter,
        }
    }

    /// Whether it may take the place of a file of that name, which it does at one stroke when it is whole. The default is
    /// `false`: a file that is there is an error. A folder, a symbolic link, and a database that this process has open are
    /// errors in any case.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// How many pages are copied in one step. The default is 1024, which are 4 MiB with pages of 4 KiB, and take some
    /// milliseconds: for so long nothing stops it.
    pub fn pages_per_step(mut self, pages: u32) -> Self {
        self.plan.pages_per_step = pages;
        self
    }

    /// How long to rest between two steps, for the sake of others who want the disk. The default is not to: the sooner it
    /// is done, the sooner the write-ahead log can be emptied.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.plan.pause = pause;
        self
    }

    /// How long all of it may take. The default is as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls `f` after each step, and some ten times a second while it compacts and verifies; returning
    /// `ControlFlow::Break(())` cancels.
    ///
    /// `f` is called on the thread that called [`run`](Self::run), and may write to the store.
    pub fn progress(mut self, f: impl FnMut(&BackupProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = reporter(f);
        self
    }

    /// Whether the copy is looked at before it gets its name. The default is `true`, and takes about as long as
    /// [`Check::full`](crate::Check::full) does: a backup that nobody has looked at may be none.
    pub fn verify(mut self, verify: bool) -> Self {
        self.plan.verify = verify;
        self
    }

    /// Whether all rows of all tables are compared, by their SHA-256, instead of only counted. The default is `false`: what
    /// was read was written, and it takes as long as reading every row twice. It is not made if it is not to be verified.
    ///
    /// It goes by what is in the tables, so it stays the same where the database is compacted, restored or vacuumed, as
    /// long as no row changes.
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.plan.checksum = checksum;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// - [`Error::Backup`]: its folder, its name, the disk, or damage; each says what to do.
    /// - [`Cancelled`](Error::Cancelled); [`Interrupted`](Error::Interrupted) past its [`timeout`](Self::timeout);
    ///   [`Closed`](Error::Closed), also if the store is closed while it runs.
    /// - [`Error::Options`]: steps of no page.
    /// - Those of opening a reader.
    ///
    /// In each case the target is as it was.
    ///
    /// # Panics
    ///
    /// If the progress callback panics.
    #[track_caller]
    pub fn run(self) -> Result<BackupReport> {
        let site = CallSite::new(None, Location::caller());
        if self.plan.pages_per_step == 0 {
            return Err(Error::Options {
                option: "pages_per_step",
                problem: "a step has 1 page at least".into(),
            });
        }
        let source = Source::of(self.engine);
        let until = self.timeout.map(|timeout| (timeout, later(Instant::now(), timeout)));
        let stop = StopSignal {
            readers: Arc::clone(&source.readers),
            until,
            stopped: Arc::default(),
        };
        source.run(&self.to, self.overwrite, &self.plan, &self.reporter, stop, site)
    }
}

impl BackupProgress {
    const NOTHING: Self = Self {
        stage: BackupStage::Copy,
        pages_done: 0,
        pages_total: 0,
        bytes_per_second: 0,
        elapsed: Duration::ZERO,
    };
}

fn reporter(
    mut f: impl FnMut(&BackupProgress) -> ControlFlow<()> + Send + 'static,
) -> ProgressReporter<BackupProgress> {
    let reporter = ProgressReporter::new(BackupProgress::NOTHING);
    reporter.call(CALLBACK_INTERVAL, move |progress, elapsed| {
        f(&BackupProgress { elapsed, ..progress })
    });
    reporter
}

/// The conditions that stop a backup early.
#[derive(Clone)]
pub(crate) struct StopSignal {
    readers: Arc<Readers>,
    /// The timeout, and its deadline.
    until: Option<(Duration, Instant)>,
    /// Whether the backup's schedule was stopped.
    stopped: Arc<AtomicBool>,
}

impl StopSignal {
    fn why(&self) -> Option<Error> {
        if self.readers.is_closed() || self.stopped.load(Ordering::Acquire) {
            return Some(Error::Closed);
        }
        let (limit, _) = self.until.filter(|(_, until)| Instant::now() >= *until)?;
        Some(Error::Interrupted {
            limit,
            advice: "the time of the backup was over: raise Backup::timeout, or take larger steps and shorter pauses",
        })
    }

    fn pause(&self, time: Duration) {
        let left = self
            .until
            .map_or(time, |(_, until)| until.saturating_duration_since(Instant::now()));
        self.readers
            .pause(time.min(left), || self.stopped.load(Ordering::Acquire));
    }
}

/// The source of a backup. It does not keep the store open.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) options: Settings,
    pub(crate) readers: Arc<Readers>,
    pub(crate) telemetry: Arc<Telemetry>,
}

impl Source {
    pub(crate) fn of(engine: &Engine) -> Self {
        Self {
            path: engine.path().to_owned(),
            options: engine.options.clone(),
            readers: Arc::clone(&engine.readers),
            telemetry: Arc::clone(&engine.telemetry),
        }
    }

    fn run(
        &self,
        to: &Path,
        overwrite: bool,
        plan: &CopyPlan,
        reporter: &ProgressReporter<BackupProgress>,
        stop: StopSignal,
        site: CallSite,
    ) -> Result<BackupReport> {
        let began = Instant::now();
        reporter.begin();
        let pausing = stop.clone();
        reporter.set_limit(move || stop.why());
        let copier = Copier {
            options: &self.options,
            plan,
            reporter,
            pause: &|time| pausing.pause(time),
        };
        let made = make_report(&copier, &self.readers, to, overwrite, site);
        let made = reporter.end(OPERATION).and(made);
        if let Some(last) = last_backup(to, began.elapsed(), &made) {
            self.telemetry.backups.note(last);
        }
        if let Ok(report) = &made {
            report.tell(&self.path);
        }
        made
    }
}

/// The entry of a backup in the history. A backup stopped with its store or its schedule has none, because it says
/// nothing about later ones.
fn last_backup(to: &Path, duration: Duration, made: &Result<BackupReport>) -> Option<LastBackup> {
    let report = made.as_ref().ok();
    let is_stopped = matches!(made, Err(Error::Closed));
    (!is_stopped).then(|| LastBackup {
        path: report.map_or(to, |report| &report.path).to_owned(),
        ago: Duration::ZERO,
        duration,
        bytes: report.map_or(0, BackupReport::bytes),
        verified: report.is_some_and(BackupReport::is_verified),
        error: made.as_ref().err().map(Error::without_data),
    })
}

fn make_report(
    copier: &Copier<'_>,
    readers: &Readers,
    to: &Path,
    overwrite: bool,
    site: CallSite,
) -> Result<BackupReport> {
    let began = Instant::now();
    let failed = |failure: Failure| failure.of_backup(to);
    let staging = Staging::new(to, overwrite).map_err(failed)?;
    // Opened before any file is created: a closed store creates nothing.
    let pinning = Instant::now();
    let mut dedicated = readers.dedicated(site)?;
    let unfinished = staging.begin().map_err(failed)?;
    let copy = unfinished.create("copy.db").map_err(failed)?;
    let fingerprint = dedicated
        .with_conn(|conn| copier.copy(conn, dedicated.interrupt(), &copy))
        .map_err(failed)?;
    dedicated.end();
    let wal_pinned_for = pinning.elapsed();
    let (copy, copied) = copier.finish(&unfinished, copy, fingerprint).map_err(failed)?;
    let kept = copier.go_on().and_then(|()| staging.finish(copy));
    kept.map_err(failed)?;
    Ok(BackupReport {
        path: staging.path,
        page_size: copied.page_size,
        pages: copied.pages,
        check: copied.check,
        rows: copied.rows,
        checksum: copied.checksum,
        wal_pinned_for,
        duration: began.elapsed(),
    })
}

impl BackupReport {
    /// Bytes of the backup.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    /// Whether it was looked at, and compared with the database.
    pub fn is_verified(&self) -> bool {
        self.check.is_some()
    }

    fn tell(&self, database: &Path) {
        let dangling = self
            .check
            .as_ref()
            .map_or(0, |check| check.total_foreign_key_violations);
        event!(
            info,
            "larder::backup",
            database,
            {
                backup = %self.path.display(),
                bytes = self.bytes(),
                verified = self.is_verified(),
                rows = self.rows,
                foreign_key_violations = dangling,
                pinned_ms = self.wal_pinned_for.as_millis() as u64,
                duration_ms = self.duration.as_millis() as u64,
            },
            "backup made"
        );
    }
}

// ---- for migrations ----

/// Copies the database into a folder as `STEM.TIME`, and verifies the copy. Of the backups with this stem the first one
/// stays, because it may be needed to undo what happened after it, and so do the two newest, of which this one may be
/// removed again. More would fill the disk of a service that restarts in a loop.
pub(crate) fn make(readers: &Readers, options: &Settings, folder: &Path, stem: &OsStr) -> failure::Result<PathBuf> {
    let reporter = ProgressReporter::new(BackupProgress::NOTHING);
    let copier = Copier {
        options,
        plan: &CopyPlan::default(),
        reporter: &reporter,
        pause: &|_| {},
    };
    let to = folder.join(with(stem, &format!(".{}", stamp::now_precise())));
    let staging = Staging::new(&to, false)?;
    let site = CallSite::Label("larder: the backup before a migration".into());
    let opened = readers.dedicated(site);
    let mut dedicated = opened.map_err(|error| Failure::of("the database cannot be read", error))?;
    let unfinished = staging.begin()?;
    let copy = unfinished.create("copy.db")?;
    let fingerprint = dedicated.with_conn(|conn| copier.copy(conn, dedicated.interrupt(), &copy))?;
    dedicated.end();
    let (copy, _) = copier.finish(&unfinished, copy, fingerprint)?;
    staging.finish(copy)?;
    remove_old(&staging.folder, stem);
    Ok(staging.path)
}

/// Removes the backups with this stem between the first and the two newest.
fn remove_old(folder: &Path, stem: &OsStr) {
    let prefix = with(stem, ".");
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // A time, and nothing after it.
        name.strip_prefix(prefix.as_encoded_bytes())
            .is_some_and(|rest| rest.ends_with(b"Z") && rest[0].is_ascii_digit())
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut all: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    for path in all.iter().skip(1).take(all.len().saturating_sub(3)) {
        let _ = fs::remove_file(path);
    }
}

/// Copies the snapshot of the connection's open transaction into a new file, for a dry run. The copy is not verified,
/// because it is deleted afterwards.
pub(crate) fn copy(source: &Connection, options: &Settings, to: &Path) -> failure::Result<()> {
    let reporter = ProgressReporter::new(BackupProgress::NOTHING);
    let copier = Copier {
        options,
        plan: &CopyPlan::default(),
        reporter: &reporter,
        pause: &|_| {},
    };
    copier.copy_to_new(source, to)
}

impl fmt::Display for BackupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes, ", self.path.display(), self.bytes())?;
        match &self.check {
            None => write!(f, "not verified")?,
            Some(check) => {
                write!(f, "{} rows, verified", self.rows)?;
                if let Some(first) = check.foreign_key_violations.first() {
                    let total = check.total_foreign_key_violations;
                    write!(f, ", {total} foreign keys that point nowhere, the first: {first}")?;
                }
            }
        }
        write!(f, " ({:.1?})", self.duration)
    }
}

impl fmt::Debug for Backup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup")
            .field("store", self.engine)
            .field("to", &self.to)
            .field("overwrite", &self.overwrite)
            .field("timeout", &self.timeout)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
