//! A `VACUUM`: rewrites the database without its free pages, and with each table's pages together.
//!
//! SQLite builds the copy in a temporary file, while it holds the write lock, then writes all of it to the WAL as one
//! transaction. So a reader sees the old database or the new one, and an error before that transaction's commit leaves
//! the old one.
//!
//! The WAL is emptied first. This makes room for the new pages, and the size of the WAL file shows how far a failed
//! `VACUUM` came: while it is empty, nothing was written that could ever be committed.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rusqlite::ffi;

use super::progress::ProgressReporter;
#[cfg(doc)]
use crate::Store;
use crate::connection::filesystem::{lacks, temporary_folder};
use crate::connection::with_temporary_files;
use crate::engine::Engine;
use crate::error::{Error, Result, primary_code};
use crate::telemetry::event::event;
use crate::write::{DatabaseSize, Writer, commit_is_unknown};

/// The name of the operation in errors.
const OPERATION: &str = "vacuum";

/// A `VACUUM` that was not begun. Made by [`Store::vacuum`].
///
/// It gives the space of deleted rows back to the file system and puts the pages of each table together, by writing the
/// whole database anew. That is seldom needed: SQLite uses free pages again by itself, and
/// [`Stats::database`](crate::Stats::database) says how many there are.
///
/// - **Nobody writes while it runs.** Writes are queued meanwhile, and one that waits for longer than its
///   [`timeout`](crate::WriteOptions::queue_timeout) fails with [`QueueTimeout`](Error::QueueTimeout). Reads go on.
/// - **It needs disk space.** The new database goes to a temporary file first, in the folder that the environment variable
///   `SQLITE_TMPDIR` or `TMPDIR` names, or `/var/tmp` or `/tmp` (into memory if it may write to none of them). Then all of it goes to the write-ahead log, beyond
///   [`Options::wal_hard_limit`](crate::Options::wal_hard_limit) if it is that large. Each takes as much as the database
///   has without its free pages, until it is done. Memory: two times [`Options::cache_size`](crate::Options::cache_size)
///   at most.
/// - **The file shrinks with the checkpoint** that moves the log into it. A read that goes on holds that up; it is then
///   made when the read has ended, as ever: [`VacuumReport::wal_truncated`].
/// - The `rowid` of a table that has no `INTEGER PRIMARY KEY` may change.
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
///         if Instant::now() < until { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
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

/// How far a [`Vacuum`] has come. SQLite does not say how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VacuumProgress {
    /// How long it has run.
    pub elapsed: Duration,
}

/// What a [`Vacuum`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VacuumReport {
    /// Bytes of all pages of the database, as it was.
    pub bytes_before: u64,
    /// And as it is.
    pub bytes_after: u64,
    /// Whether all of the write-ahead log is in the database file, which so has shrunk, and the log was cut to nothing.
    /// If not, a read or another process was in the way, and a later checkpoint does it; or that failed, and the store is
    /// [`poisoned`](Store::poisoned).
    pub wal_truncated: bool,
    /// How long it took, from its start on the writer thread.
    pub duration: Duration,
}

impl<'s> Vacuum<'s> {
    pub(crate) fn new(engine: &'s Engine) -> Self {
        Self {
            engine,
            reporter: ProgressReporter::new(()),
        }
    }

    /// Calls `f` while it runs, with at least `every` between two calls; returning `ControlFlow::Break(())` cancels, and
    /// the database is as it was.
    ///
    /// `f` is called on the writer thread: a write from it is [`Reentrant`](Error::Reentrant). It is called while the copy
    /// is built, and no more once that is written to the log. For a small database it may never be called.
    pub fn progress(
        self,
        every: Duration,
        mut f: impl FnMut(&VacuumProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.reporter
            .call(every, move |(), elapsed| f(&VacuumProgress { elapsed }));
        self
    }

    /// Makes it, and blocks until it is committed.
    ///
    /// # Errors
    ///
    /// [`InsufficientSpace`](Error::InsufficientSpace) before it begins, [`Cancelled`](Error::Cancelled), SQLite's error (a disk that is full:
    /// the database is as it was), [`CommitUnknown`](Error::CommitUnknown) if the disk failed while it was committed: the
    /// data is the same either way, but the store takes no more writes. And those of a [`write`](Store::write) that does
    /// not start.
    ///
    /// # Panics
    ///
    /// If the progress callback panics: the database is as it was, and the panic goes on here.
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
        "vacuum made"
    );
    Ok(report)
}

fn vacuum(writer: &Writer, reporter: &ProgressReporter<()>) -> rusqlite::Result<()> {
    let (conn, guard) = (writer.conn(), writer.guard());
    let watching = reporter.watch(conn, writer.interrupt());
    let done = with_temporary_files(conn, guard, || guard.as_internal(|| conn.execute_batch("VACUUM main")));
    // Dropped here, because a panic in the callback's drop does no harm at this point.
    drop(watching);
    done
}

/// The error of a failed `VACUUM`.
///
/// # Panics
///
/// If the callback panicked.
fn failed(writer: &mut Writer, reporter: &ProgressReporter<()>, error: rusqlite::Error) -> Error {
    if commit_is_unknown(&error) && !writer.log_is_empty() {
        return writer.unknown(&error.into());
    }
    // If the disk is full, the frames in the WAL fill it.
    writer.empty_log();
    if let Err(cancelled) = reporter.end(OPERATION) {
        return cancelled;
    }
    if primary_code(&error) == Some(ffi::SQLITE_BUSY) {
        return Error::not_started(error);
    }
    error.into()
}

/// Checks that the copy fits into the folder for temporary files, and the WAL into the database's folder. A copy that
/// fits in the page cache needs no file.
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
            write!(f, ", of which the file learns when the write-ahead log can be emptied")?;
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
