//! Backups: copies of a database that are verified before they get their names.
//!
//! ```text
//! Backup::run, the thread of a schedule, a migration      Options::restore
//!   Dedicated reader: a snapshot on its own connection      a snapshot of the backup, checked
//!     copy.rs         copies pages with SQLite's backup API, step by step,
//!                     into a folder beside the target (staging.rs)
//!     fingerprint.rs  reads the content of the snapshot: the rows of every table, a checksum
//!   the snapshot ends, and the WAL is no longer pinned
//!     copy.rs         compacts the copy with VACUUM INTO, if asked to;
//!                     checks integrity, foreign keys, rows, checksum
//!     staging.rs      fsync, rename, fsync of the folder
//!     series.rs       whose backups the files of a folder are, for schedules and migrations
//! ```
//!
//! So the target is always a complete backup, or what it was before. A running backup is registered as an active
//! reader: it is named when it pins the WAL. Closing the store stops it at its next step, and waits until it has
//! cleaned up.

#[cfg(any(feature = "postgres", feature = "replicate"))]
mod build;
mod copy;
mod failure;
mod fingerprint;
mod restore;
mod schedule;
mod series;
mod staging;
mod stamp;

use std::ops::ControlFlow;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rusqlite::Connection;

#[cfg(any(feature = "postgres", feature = "replicate"))]
pub(crate) use self::build::Build;
#[cfg(feature = "replicate")]
pub(crate) use self::copy::NO_ROOM;
use self::copy::{Copier, CopyPlan};
pub(crate) use self::failure::Failure;
#[cfg(feature = "replicate")]
pub(crate) use self::fingerprint::Fingerprint;
pub(crate) use self::restore::restore;
pub use self::restore::{RestoreOptions, RestoreReport};
pub use self::schedule::BackupSchedule;
use self::series::Series;
use self::staging::Staging;
#[cfg(doc)]
use crate::Store;
use crate::connection::open_target;
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

/// The name of this work in errors.
const OPERATION: &str = "backup";

/// How often the callback is called in stages without steps.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

/// A backup, which [`run`](Self::run) starts. Made by [`Store::backup`] and [`Store::backup_compact`].
///
/// A backup is a copy of one snapshot. It is made while reads and writes go on, and it is **verified**: the copy is
/// opened on its own, `integrity_check` checks it, and every table must have as many rows as in the snapshot (tables
/// whose name is not UTF-8 are not counted, because no statement can name them). Damage, a difference or a full
/// disk is an error. In every case of error the target is unchanged, and nothing is left beside it. What is wrong with
/// the data of sound pages is copied as it is, and reported: foreign keys without a parent row, and
/// [`CheckReport::findings`].
///
/// The backup is one file with mode `0600`, synced to the disk, and not in WAL mode, so that a read-only program can
/// open it (a store that opens it switches it to WAL mode). [`Store::restore`] creates a database from it.
/// [`Store::open`] and every other SQLite program can open it directly.
///
/// - **It pins the WAL** while it copies pages and counts the rows of the snapshot, as any long read does;
///   [`ReaderStats::oldest_read`](crate::ReaderStats::oldest_read) names the line that called [`run`](Self::run).
///   Writes do not wait for it. Verification of the copy does not pin the WAL.
/// - **It needs disk space:** the size of the database, and twice that for [`Store::backup_compact`]. The copy is made
///   in a folder beside the target, whose name begins with `.larder-backup-`. If the process is killed, the folder is
///   left, and the next backup into the same folder removes it, or the next process that opens a database there.
/// - **It needs memory:** at most twice [`Options::cache_size`](crate::Options::cache_size), and one row.
/// - **It can be stopped between two steps:** by its callback, by its timeout and by closing the store. Neither
///   `sqlite3_interrupt` nor a progress handler stops `sqlite3_backup_step`, and nothing stops a sync of the disk.
///   Verification can be stopped at any moment.
///
/// It runs on the calling thread; in async code, use `spawn_blocking` or its like.
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

/// The progress of a [`Backup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// The current stage.
    pub stage: BackupStage,
    /// Number of pages copied so far.
    pub pages_done: u64,
    /// Number of pages in the snapshot.
    pub pages_total: u64,
    /// Average copy rate in bytes per second, including pauses.
    pub bytes_per_second: u64,
    /// Time since the backup started, over all stages.
    pub elapsed: Duration,
}

/// A stage of a [`Backup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupStage {
    /// Copying the pages.
    Copy,
    /// Compacting the copy with `VACUUM INTO`. SQLite does not report how much is left.
    Compact,
    /// Counting the rows of the snapshot, then checking the copy.
    Verify,
}

/// The result of a [`Backup`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BackupReport {
    /// Absolute path of the backup.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// Page size in bytes.
    pub page_size: u64,
    /// Number of pages.
    pub pages: u64,
    /// The check of the copy; `None` if it was not verified. It reports no damage, but it may report findings, and
    /// foreign keys without a parent row, which the database has too.
    pub check: Option<CheckReport>,
    /// Number of rows in all tables, including the shadow tables of virtual tables. It equals that of the database. 0
    /// if the backup was not verified.
    pub rows: u64,
    /// SHA-256 of all rows of all tables in hexadecimal, if [`Backup::checksum`] is on. It equals that of the database.
    pub checksum: Option<String>,
    /// How long the backup pinned the WAL.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub wal_pinned_for: Duration,
    /// Duration of the backup.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
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

    /// Replaces an existing file at the target, atomically, once the backup is complete. The default is `false`: an
    /// existing file is an error. A folder, a symbolic link and a database that this process has open are always
    /// errors.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Number of pages copied in one step. The default is 1024: 4 MiB with pages of 4 KiB, which take a few
    /// milliseconds. Within a step nothing can stop the backup.
    pub fn pages_per_step(mut self, pages: u32) -> Self {
        self.plan.pages_per_step = pages;
        self
    }

    /// Pause between two steps, which leaves the disk to other work. The default is none: the sooner the copy is done,
    /// the sooner the WAL can be reset.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.plan.pause = pause;
        self
    }

    /// How long the whole backup may take. The default is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls `f` after each step, and some ten times a second while the backup compacts and verifies.
    /// `ControlFlow::Break(())` cancels the backup.
    ///
    /// The callback runs on the thread that called [`run`](Self::run), and may write to the store.
    pub fn progress(mut self, f: impl FnMut(&BackupProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = reporter(f);
        self
    }

    /// Verifies the copy before it gets its name. The default is `true`. It takes about as long as
    /// [`Check::full`](crate::Check::full). An unverified backup may be unusable.
    pub fn verify(mut self, verify: bool) -> Self {
        self.plan.verify = verify;
        self
    }

    /// Compares all rows of all tables by their SHA-256, instead of only counting them. The default is `false`, because
    /// it reads every row twice. It has no effect with [`verify(false)`](Self::verify).
    ///
    /// The checksum depends on the rows only. It stays the same when the database is compacted, restored or vacuumed,
    /// as long as no row changes.
    pub fn checksum(mut self, checksum: bool) -> Self {
        self.plan.checksum = checksum;
        self
    }

    /// Makes the backup.
    ///
    /// # Errors
    ///
    /// - [`Error::Backup`]: the target, its folder, the disk or corruption. Each message says what to do.
    /// - [`Cancelled`](Error::Cancelled) by the callback, [`Interrupted`](Error::Interrupted) after
    ///   [`timeout`](Self::timeout), and [`Closed`](Error::Closed) if the store is closed before or during the backup.
    /// - [`Error::Options`]: steps of zero pages.
    /// - The errors of opening a reading connection.
    ///
    /// In each case the target is unchanged.
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
                problem: "a step must have at least 1 page".into(),
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

/// What stops a backup early.
#[derive(Clone)]
pub(crate) struct StopSignal {
    readers: Arc<Readers>,
    /// The timeout, and the deadline.
    until: Option<(Duration, Instant)>,
    /// Whether the schedule was stopped.
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
            advice: "the backup exceeded Backup::timeout; raise it, or use larger steps and shorter pauses",
            context: None,
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
    // First of all: on a closed store nothing is created.
    let pinning = Instant::now();
    let mut dedicated = readers.dedicated(site)?;
    let unfinished = staging.begin().map_err(failed)?;
    let copy = unfinished.create("copy.db").map_err(failed)?;
    let fingerprint = dedicated
        .with_conn(|conn| copier.copy(conn, dedicated.interrupt(), &copy))
        .map_err(failed);
    dedicated.unchanged()?;
    let fingerprint = fingerprint?;
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
    /// Size of the backup in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    /// Whether the backup was checked and compared with the database.
    pub fn is_verified(&self) -> bool {
        self.check.is_some()
    }

    fn tell(&self, database: &Path) {
        let found = |number: fn(&CheckReport) -> u64| self.check.as_ref().map_or(0, number);
        event!(
            info,
            "larder::backup",
            database,
            {
                backup = %self.path.display(),
                bytes = self.bytes(),
                verified = self.is_verified(),
                rows = self.rows,
                findings = found(|check| check.total_findings),
                foreign_key_violations = found(|check| check.total_foreign_key_violations),
                pinned_ms = self.wal_pinned_for.as_millis() as u64,
                duration_ms = self.duration.as_millis() as u64,
            },
            "backup finished"
        );
    }
}

// ---- for migrations ----

/// Copies the database into a folder, as `app.db.before-2.TIME` if `middle` is `.before-2`, and verifies the copy. Of the
/// database's backups with this middle the first one stays, because it may be needed to undo what happened after it, and
/// so do the two newest, of which this one may be removed again. More would fill the disk of a service that restarts in
/// a loop.
pub(crate) fn make(
    readers: &Readers,
    options: &Settings,
    folder: &Path,
    database: &Path,
    middle: &str,
) -> failure::Result<PathBuf> {
    let reporter = ProgressReporter::new(BackupProgress::NOTHING);
    let copier = Copier {
        options,
        plan: &CopyPlan::default(),
        reporter: &reporter,
        pause: &|_| {},
    };
    let series = Series::of(folder, database)?.part(middle);
    let staging = Staging::new(&series.next_precise(), false)?;
    let site = CallSite::Label("larder: the backup before a migration".into());
    let opened = readers.dedicated(site);
    let mut dedicated = opened.map_err(|error| Failure::of("the database cannot be read", error))?;
    let unfinished = staging.begin()?;
    let copy = unfinished.create("copy.db")?;
    let fingerprint = dedicated.with_conn(|conn| copier.copy(conn, dedicated.interrupt(), &copy))?;
    dedicated.end();
    let (copy, _) = copier.finish(&unfinished, copy, fingerprint)?;
    staging.finish(copy)?;
    remove_old(&series, &staging.path);
    Ok(staging.path)
}

/// Removes the backups between the first and the two newest. `made` stays even if the clock was set back, and so do those
/// whose time is after now: they count for nothing.
fn remove_old(series: &Series, made: &Path) {
    let now = stamp::now();
    let mut all = series.all(stamp::parse_precise);
    all.retain(|(time, _)| !stamp::is_later(*time, now));
    let between = all.iter().skip(1).take(all.len().saturating_sub(3));
    for (_, path) in between.filter(|(_, path)| path != made) {
        let _ = fs::remove_file(path);
    }
}

/// Creates an empty database, for a dry run.
pub(crate) fn create(options: &Settings, to: &Path) -> failure::Result<Connection> {
    staging::create(to)?;
    open_target(to, options).map_err(|error| Failure::of("the copy cannot be opened", error))
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
                check.remarks().iter().try_for_each(|remark| write!(f, ", {remark}"))?;
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
