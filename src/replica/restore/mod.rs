//! Restoring a database from a replica.
//!
//! ```text
//! plan.rs      which files make the wanted state
//! fetch.rs     their contents, with the next ones under way
//! apply.rs     one file's pages, written to the database
//! rebuild.rs   the three of them, and again with another plan where a file is missing or damaged
//! progress.rs  the progress callback, and what stops a restore
//! points.rs    what can be restored
//! verify.rs    whether it can
//! ```
//!
//! The database is written in a folder beside the target (`backup/build.rs`), checked there, synced, and named. So the
//! target's name means a whole, checked database, even if the process is killed. All of it runs on its caller's thread;
//! only requests run on `larder-replica`. The memory that it takes does not depend on the sizes of the files.

pub(in crate::replica) mod apply;
pub(in crate::replica) mod fetch;
pub(crate) mod plan;
pub(crate) mod points;
pub(crate) mod progress;
pub(in crate::replica) mod rebuild;
pub(in crate::replica) mod time;
pub(crate) mod verify;

use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use self::apply::{ApplyError, apply};
use self::plan::{Target, Txid};
use self::progress::{ReplicaRestoreProgress, ReplicaRestoreStage, RestoreReporter, reporter};
use self::rebuild::rebuild;
#[cfg(doc)]
use crate::Store;
use crate::backup::{Build, Failure, Fingerprint};
use crate::error::{Error, Result};
use crate::maintenance::check::CheckReport;
use crate::options::Settings;
use crate::replica::ltx::Header;
use crate::replica::position::{Position, Stamps};
use crate::replica::spool::Spool;
use crate::replica::storage::{FileInfo, Storage, StorageError, Txids};
use crate::runtime::random;
use crate::telemetry::event::event;

/// A restore from a replica, which [`to`](Self::to) starts. Made by [`Store::restore_from`].
///
/// Without [`at`](Self::at) and [`txid`](Self::txid) the newest state is restored. The replica may be larder's or
/// Litestream's (0.5).
///
/// ```no_run
/// use std::time::{Duration, SystemTime};
/// use larder::Store;
///
/// let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
/// let report = Store::restore_from("s3://bucket/app").at(an_hour_ago).to("restored.db")?;
/// println!("{report}");
/// # Ok::<_, larder::Error>(())
/// ```
#[must_use = "nothing is restored before `to`"]
pub struct ReplicaRestore {
    storage: Result<Storage, StorageError>,
    settings: Settings,
    at: Option<SystemTime>,
    txid: Option<u64>,
    integrity_check: bool,
    reporter: RestoreReporter,
}

impl ReplicaRestore {
    pub(crate) fn new(storage: Result<Storage, StorageError>, settings: Settings) -> Self {
        Self {
            storage,
            settings,
            at: None,
            txid: None,
            integrity_check: true,
            reporter: RestoreReporter::new(ReplicaRestoreProgress::NOTHING),
        }
    }

    /// Restores the newest state that was captured before this time. It has nothing that was committed at or after it.
    /// A time after the newest state restores that one.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.at = Some(time);
        self
    }

    /// Restores the state after this transaction, which the replica must have by itself. Litestream and the names of
    /// the files write it in hexadecimal.
    pub fn txid(mut self, txid: u64) -> Self {
        self.txid = Some(txid);
        self
    }

    /// Checks the database, as [`Store::restore`] does, before it gets its name. The default is `true`.
    ///
    /// The check reads the whole database. The checksums of the files are compared in any case.
    pub fn integrity_check(mut self, integrity_check: bool) -> Self {
        self.integrity_check = integrity_check;
        self
    }

    /// Calls `f` at the beginning and the end of each stage, and some ten times a second in between.
    /// `ControlFlow::Break(())` cancels the restore: nothing is created at its target then.
    ///
    /// The callback runs on the thread that called [`to`](Self::to).
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    ///
    /// larder::Store::restore_from("s3://bucket/app")
    ///     .progress(|progress| {
    ///         println!("{} of {} bytes", progress.bytes_done, progress.bytes_total);
    ///         ControlFlow::Continue(())
    ///     })
    ///     .to("restored.db")?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn progress(mut self, f: impl FnMut(&ReplicaRestoreProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = reporter(f);
        self
    }

    /// Restores to `path`. Open the database like any other.
    ///
    /// There must be no file at `path`, and no `-wal`, `-shm` or `-journal` file beside it. The database has mode
    /// `0600`. It is written to a folder beside `path` first.
    ///
    /// # Errors
    ///
    /// - [`Error::Restore`]: the replica cannot be read, lacks the state, or has damaged files and no others with their
    ///   transactions; or something is in the way at `path`. Nothing was created there.
    /// - [`Error::AlreadyOpen`]: this process has `path` open.
    /// - [`Error::Replica`]: the URL cannot be used.
    /// - [`Error::Options`]: both a time and a transaction were given.
    /// - [`Error::Cancelled`] by the callback.
    ///
    /// # Panics
    ///
    /// If the progress callback panics.
    pub fn to(self, path: impl AsRef<Path>) -> Result<ReplicaRestoreReport> {
        self.restore(path.as_ref())
    }

    fn restore(self, to: &Path) -> Result<ReplicaRestoreReport> {
        if self.settings.key.is_some() {
            return Err(Error::Options {
                option: "key",
                problem: "a key cannot be used with restore_from: a replica has no encrypted database; leave it out"
                    .into(),
            });
        }
        let target = self.target()?;
        let storage = self.storage?;
        if Spool::is_there(to) {
            return Err(in_the_way(&storage, to));
        }
        let settings = self.integrity_check.then_some(&self.settings);
        let report = restore(&storage, target, &[], settings, to, &self.reporter)?;
        let left = Spool::leave(&report.path, &report.position()?);
        left.map_err(|error| Failure::of(LEAVING, error).of_replica(&storage.to_string(), to))?;
        Ok(report)
    }

    fn target(&self) -> Result<Target> {
        match (self.at, self.txid) {
            (None, None) => Ok(Target::Newest),
            (Some(time), None) => Ok(Target::Before(time::millis_up(time))),
            (None, Some(txid)) => Ok(Target::Txid(txid)),
            (Some(_), Some(_)) => Err(Error::Options {
                option: "txid",
                problem: "a restore is by time or by transaction, and not by both; leave one of them out".into(),
            }),
        }
    }
}

/// Restores a state to `to`, then adds the transactions of the spool that go on from it. `settings` are those for the
/// check of the database, if there is to be one.
pub(in crate::replica) fn restore(
    storage: &Storage,
    target: Target,
    spooled: &[(u64, PathBuf)],
    settings: Option<&Settings>,
    to: &Path,
    reporter: &RestoreReporter,
) -> Result<ReplicaRestoreReport> {
    let build = Build::begin(&storage.to_string(), to)?;
    restore_build(storage, target, spooled, settings, build, reporter, Build::finish)
}

/// As [`restore`], into `build`. `finish` gives the database its name once it is checked.
pub(in crate::replica) fn restore_build(
    storage: &Storage,
    target: Target,
    spooled: &[(u64, PathBuf)],
    settings: Option<&Settings>,
    build: Build,
    reporter: &RestoreReporter,
    finish: impl FnOnce(Build) -> Result<PathBuf>,
) -> Result<ReplicaRestoreReport> {
    reporter.begin();
    let made = make(storage, target, spooled, settings, build, reporter, finish);
    let report = reporter.end("restore").and(made)?;
    report.tell(storage);
    Ok(report)
}

fn make(
    storage: &Storage,
    target: Target,
    spooled: &[(u64, PathBuf)],
    settings: Option<&Settings>,
    build: Build,
    reporter: &RestoreReporter,
    finish: impl FnOnce(Build) -> Result<PathBuf>,
) -> Result<ReplicaRestoreReport> {
    let began = Instant::now();
    let mut rebuilt = rebuild(storage, target, &build, reporter)?;
    for (txid, path) in spooled {
        if *txid == rebuilt.header.max_txid + 1 {
            rebuilt.header = add(*txid, path, &build)?;
        }
    }
    let check = match settings {
        Some(settings) => Some(check(&build, settings, false, reporter)?.0),
        None => None,
    };
    if reporter.poll().is_break() {
        return Err(build.stopped());
    }
    let header = rebuilt.header;
    Ok(ReplicaRestoreReport {
        path: finish(build)?,
        txid: header.max_txid,
        timestamp: time::from_millis(header.timestamp),
        page_size: header.page_size.into(),
        pages: header.commit.into(),
        files: rebuilt.files as u64,
        bytes_read: rebuilt.bytes,
        unusable: rebuilt.unusable,
        check,
        duration: began.elapsed(),
    })
}

/// Checks the database, and reads its rows if they are asked for.
fn check(
    build: &Build,
    settings: &Settings,
    with_rows: bool,
    reporter: &RestoreReporter,
) -> Result<(CheckReport, Option<Fingerprint>)> {
    let stage = ReplicaRestoreStage::Check;
    if reporter
        .report(ReplicaRestoreProgress {
            stage,
            ..reporter.stage()
        })
        .is_break()
    {
        return Err(build.stopped());
    }
    let going_on = reporter.handle();
    build.check(settings, with_rows, move || going_on.poll())
}

/// Adds a transaction of the spool to what was restored.
fn add(txid: u64, path: &Path, build: &Build) -> Result<Header> {
    let file = FileInfo {
        level: 0,
        txids: Txids::one(txid),
        size: 0,
        modified: SystemTime::UNIX_EPOCH,
    };
    let added = File::open(path)
        .map_err(ApplyError::Reading)
        .and_then(|from| apply(BufReader::new(from), &file, build.file(), |_| Ok(())));
    added.map_err(|error| {
        let detail = format!("{}: {error}", path.display());
        build.failed(Failure::found(
            "a transaction that was not uploaded yet cannot be read; move its folder away to restore without it",
            detail,
        ))
    })
}

pub(in crate::replica) const LEAVING: &str =
    "its position in the replica cannot be written beside it; check the folder and its mode";

/// What an earlier store has not uploaded would be forgotten.
fn in_the_way(storage: &Storage, to: &Path) -> Error {
    let folder = Spool::folder_of(to);
    let failure = Failure::found(
        "the folder of an earlier database of this name is in the way, and may have transactions that the replica lacks; \
         move it away, or open the store with ReplicaOptions::restore_if_missing, which adds them",
        folder.display().to_string(),
    );
    failure.of_replica(&storage.to_string(), to)
}

/// The result of a [`ReplicaRestore`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ReplicaRestoreReport {
    /// Absolute path of the database.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// The transaction after which the database was as it is now.
    pub txid: u64,
    /// When that transaction was captured.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::time"))]
    pub timestamp: SystemTime,
    /// Page size in bytes.
    pub page_size: u64,
    /// Number of pages.
    pub pages: u64,
    /// Number of the replica's files that it was made of.
    pub files: u64,
    /// Bytes of these files.
    pub bytes_read: u64,
    /// Damaged or missing files of the replica, in whose place others were used, and what is wrong with them.
    pub unusable: Vec<String>,
    /// The check of the database; `None` if [`ReplicaRestore::integrity_check`] was `false`.
    pub check: Option<CheckReport>,
    /// Duration of the restore.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

impl ReplicaRestoreReport {
    /// Size of the database in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    /// From where a store goes on with the replica.
    pub(in crate::replica) fn position(&self) -> Result<Position> {
        let file = fs::metadata(&self.path).map_err(|error| Error::Open {
            path: self.path.clone(),
            problem: format!("its metadata cannot be read: {error}"),
            source: Some(Box::new(error)),
        })?;
        Ok(Position {
            lineage: 0,
            node: random::number(),
            txid: self.txid,
            timestamp: time::millis_up(self.timestamp),
            page_size: self.page_size as u32,
            pages: self.pages as u32,
            base: None,
            log: None,
            emptied: true,
            alone: false,
            file: Some(Stamps::of(&file)),
        })
    }

    fn tell(&self, storage: &Storage) {
        event!(
            info,
            "larder::restore",
            self.path,
            {
                replica = %storage,
                txid = %Txid(self.txid),
                timestamp = time::of(self.timestamp),
                bytes = self.bytes(),
                files = self.files,
                bytes_read = self.bytes_read,
                unusable = self.unusable.len(),
                verified = self.check.is_some(),
                duration_ms = self.duration.as_millis() as u64,
            },
            "database restored from its replica"
        );
    }
}

impl fmt::Display for ReplicaRestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} bytes, the state after TXID {} of {}, from {} files with {} bytes, in {:.1?}",
            self.path.display(),
            self.bytes(),
            Txid(self.txid),
            time::of(self.timestamp),
            self.files,
            self.bytes_read,
            self.duration,
        )?;
        match &self.check {
            Some(check) => write!(f, "; {check}")?,
            None => write!(f, "; not checked")?,
        }
        for unusable in &self.unusable {
            write!(f, "; not used: {unusable}")?;
        }
        Ok(())
    }
}
