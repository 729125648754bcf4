//! `VACUUM`: rebuilds the database without its free pages, and with the pages of each table together.
//!
//! SQLite builds the copy in a temporary file while it holds the write lock, then writes all of it to the WAL as one
//! transaction. So a reader sees the old database or the new one, and an error before the commit of that transaction
//! leaves the old one.
//!
//! The WAL is truncated first. That makes room for the new pages, and it shows how far a failed `VACUUM` came: while
//! the WAL file is empty, nothing has been written that could be committed. Where another process makes the checkpoints,
//! it stays as it is, so there an I/O error leaves the commit unknown.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rusqlite::ffi;

use super::progress::ProgressReporter;
#[cfg(doc)]
use crate::Store;
use crate::connection::cause::explained;
use crate::connection::filesystem::{lacks, temporary_folder};
use crate::connection::stored_sql::{refuse_unsafe_tables, with_double_quoted_strings};
use crate::connection::with_temporary_files;
use crate::engine::Engine;
use crate::error::{Error, Result, commit_is_unknown, primary_code};
use crate::telemetry::event::event;
use crate::write::{DatabaseSize, Writer};

/// The name of this work in errors.
const OPERATION: &str = "vacuum";

/// A `VACUUM`, which [`run`](Self::run) starts. Made by [`Store::vacuum`].
///
/// It rebuilds the whole database: it returns the space of deleted rows to the file system, and stores the pages of
/// each table together. It is rarely needed, because SQLite reuses free pages;
/// [`Stats::database`](crate::Stats::database) has their number.
///
/// - **Writes wait while it runs.** A write that waits longer than its
///   [`queue_timeout`](crate::WriteOptions::queue_timeout) fails with [`QueueTimeout`](Error::QueueTimeout). Reads go
///   on.
/// - **It needs disk space:** twice the size of the database without its free pages, once in a temporary file and once
///   in the WAL, until it is done. The temporary file is in the folder that the environment variable `SQLITE_TMPDIR` or
///   `TMPDIR` names, or else in `/var/tmp` or `/tmp`; if none of them is writable, the copy is built in memory. The WAL
///   may exceed [`Options::wal_hard_limit`](crate::Options::wal_hard_limit).
/// - **It needs memory:** at most twice [`Options::cache_size`](crate::Options::cache_size).
/// - **The file shrinks at the checkpoint** that moves the WAL into it. If a read blocks the checkpoint, the file
///   shrinks when that read has ended; see [`VacuumReport::wal_truncated`].
/// - **The `rowid` may change** in a table without an `INTEGER PRIMARY KEY`. A full-text table with external content
///   (`content=`), and whatever else keeps such a `rowid`, then refers to other rows, and no check finds that: rebuild it
///   afterwards (`INSERT INTO docs(docs) VALUES('rebuild')`). [`Store::advice`] names such tables.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::time::{Duration, Instant};
///
/// # let store = larder::Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch(
/// #     "CREATE TABLE log(line TEXT) STRICT;
/// #      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
/// #      INSERT INTO log SELECT hex(zeroblob(500)) FROM n; DELETE FROM log"))?;
/// let until = Instant::now() + Duration::from_secs(600);
/// let report = store
///     .vacuum()
///     .progress(Duration::from_secs(1), move |progress| {
///         println!("{:.0?}", progress.elapsed);
///         if Instant::now() < until {
///             ControlFlow::Continue(())
///         } else {
///             ControlFlow::Break(())
///         }
///     })
///     .run()?;
/// println!("{report}"); // 1077248 -> 8192 bytes (12.3ms)
/// assert!(report.bytes_after < report.bytes_before);
/// # Ok::<_, larder::Error>(())
/// ```
#[must_use = "nothing is done before `run`"]
pub struct Vacuum<'s> {
    engine: &'s Engine,
    reporter: ProgressReporter<()>,
}

/// The progress of a [`Vacuum`]. SQLite does not report how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VacuumProgress {
    /// Time since the vacuum started.
    pub elapsed: Duration,
}

/// The result of a [`Vacuum`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct VacuumReport {
    /// Size of the database before, in bytes.
    pub bytes_before: u64,
    /// Size of the database after, in bytes.
    pub bytes_after: u64,
    /// Whether the whole WAL was moved into the database file, which then has shrunk, and the WAL file truncated.
    ///
    /// If `false`, a read or another process blocked the checkpoint, and a later one does it; or another process makes
    /// the checkpoints ([`Checkpoints::Left`](crate::Checkpoints::Left)); or the checkpoint failed, and the store is
    /// [`poisoned`](Store::poisoned).
    pub wal_truncated: bool,
    /// Duration of the vacuum, from its start on the writer thread.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

impl<'s> Vacuum<'s> {
    pub(crate) fn new(engine: &'s Engine) -> Self {
        Self {
            engine,
            reporter: ProgressReporter::new(()),
        }
    }

    /// Calls `f` during the vacuum, at most once per `every`. `ControlFlow::Break(())` cancels it and leaves the
    /// database unchanged.
    ///
    /// The callback runs on the writer thread, so a write inside it returns [`Reentrant`](Error::Reentrant). It is
    /// called while the copy is built, but not while the copy is written to the WAL. A vacuum of a small database may
    /// finish without a call.
    pub fn progress(
        self,
        every: Duration,
        mut f: impl FnMut(&VacuumProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.reporter
            .call(every, move |(), elapsed| f(&VacuumProgress { elapsed }));
        self
    }

    /// Runs the vacuum, and blocks until it is committed.
    ///
    /// # Errors
    ///
    /// - [`InsufficientSpace`](Error::InsufficientSpace): the vacuum did not start.
    /// - [`Cancelled`](Error::Cancelled), and SQLite's error, such as a full disk: the database is unchanged.
    /// - [`CommitUnknown`](Error::CommitUnknown): the disk failed during the commit. The data is the same either way,
    ///   but the store is poisoned.
    /// - The errors of a [`write`](Store::write) that does not start.
    ///
    /// # Panics
    ///
    /// If the progress callback panics. The database is unchanged, and the panic resumes on the calling thread.
    #[track_caller]
    pub fn run(self) -> Result<VacuumReport> {
        let reporter = self.reporter;
        self.engine
            .run_exclusive(OPERATION, move |writer| run(writer, &reporter))
    }
}

/// Runs on the writer thread.
fn run(writer: &mut Writer, reporter: &ProgressReporter<()>) -> Result<VacuumReport> {
    let began = Instant::now();
    writer.empty_log();
    if let Some(poisoned) = writer.poisoned() {
        return Err(poisoned);
    }
    let before = writer.size().map_err(Error::not_started)?;
    check_room(writer.path(), &before, writer.options().cache_size)?;
    let (conn, guard) = (writer.conn(), writer.guard());
    guard
        .as_internal(|| refuse_unsafe_tables(conn))
        .map_err(Error::not_started)?;
    reporter.begin();
    if let Err(error) = vacuum(writer, reporter) {
        return Err(failed(writer, reporter, error));
    }
    let wal_truncated = writer.empty_log();
    let after = writer.size()?;
    let report = VacuumReport {
        bytes_before: before.page * before.pages,
        bytes_after: after.page * after.pages,
        wal_truncated,
        duration: began.elapsed(),
    };
    event!(
        info,
        "larder::vacuum",
        writer.path(),
        {
            bytes_before = report.bytes_before,
            bytes_after = report.bytes_after,
            wal_truncated,
            duration_ms = report.duration.as_millis() as u64,
        },
        "vacuum finished"
    );
    Ok(report)
}

fn vacuum(writer: &Writer, reporter: &ProgressReporter<()>) -> rusqlite::Result<()> {
    let (conn, guard) = (writer.conn(), writer.guard());
    let watching = reporter.watch(conn, writer.interrupt());
    let vacuum = || {
        conn.execute_batch("VACUUM main")
            .map_err(|error| explained(conn, error))
    };
    let run = || guard.as_internal(vacuum);
    let done = with_double_quoted_strings(conn, guard, || with_temporary_files(conn, guard, run));
    // The callback is dropped here, where a panic in its drop does no harm.
    drop(watching);
    done
}

/// The error of a vacuum that failed.
///
/// # Panics
///
/// If the callback panicked.
fn failed(writer: &mut Writer, reporter: &ProgressReporter<()>, error: rusqlite::Error) -> Error {
    if commit_is_unknown(&error) && !writer.log_is_empty() {
        return writer.unknown(&error.into());
    }
    // If the disk is full, the WAL has filled it.
    writer.empty_log();
    if let Err(cancelled) = reporter.end(OPERATION) {
        return cancelled;
    }
    if primary_code(&error) == Some(ffi::SQLITE_BUSY) {
        return Error::not_started(error);
    }
    error.into()
}

/// Checks that the copy fits into the folder of temporary files, and the WAL beside the database. A copy that fits into
/// the page cache needs no file.
fn check_room(database: &Path, size: &DatabaseSize, cache: u64) -> Result<()> {
    let used = size.pages.saturating_sub(size.free);
    let copy = if used * size.page > cache { used * size.page } else { 0 };
    let folder = database.parent().unwrap_or(Path::new("/")).to_owned();
    // "Each frame consists of a 24-byte frame-header followed by a page-size bytes of page data",
    // <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
    let mut needs = vec![(folder, used * (size.page + 24))];
    if let Some(temporary) = temporary_folder().filter(|_| copy > 0) {
        if device(&temporary) == device(&needs[0].0) {
            needs[0].1 += copy;
        } else {
            needs.push((temporary, copy));
        }
    }
    needs.into_iter().try_for_each(|(folder, needed)| fits(folder, needed))
}

fn fits(folder: PathBuf, needed: u64) -> Result<()> {
    match lacks(&folder, needed) {
        Some(available) => Err(Error::InsufficientSpace {
            folder,
            needed,
            available,
        }),
        // Or the free space is unknown.
        None => Ok(()),
    }
}

fn device(folder: &Path) -> Option<u64> {
    fs::metadata(folder).ok().map(|folder| folder.dev())
}

impl fmt::Display for VacuumReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} bytes", self.bytes_before, self.bytes_after)?;
        if !self.wal_truncated {
            write!(f, " (the file shrinks when the WAL can be reset)")?;
        }
        write!(f, " ({:.1?})", self.duration)
    }
}

impl fmt::Debug for Vacuum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vacuum")
            .field("store", self.engine)
            .finish_non_exhaustive()
    }
}
