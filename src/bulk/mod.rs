//! Bulk work beside interactive work: inserts, deletions, updates and merges of any size, in slices that delay no other
//! write for long.
//!
//! ```text
//! the thread that calls run                         the writer thread
//!   a source reads rows, batch by batch               slice.rs: one write of the queue, first of its group
//!     feed.rs: batches that are ready   ------->        writes rows for some milliseconds, saves the cursor
//!   submits the next slice             <-------         the writes that arrived meanwhile join it; COMMIT
//!   keys.rs reads the keys of rows to delete or update, from a reader's snapshot
//! ```
//!
//! # Who owns what
//!
//! The thread of the job owns the source, so user code that blocks or panics there holds no transaction. It submits one
//! slice at a time, so a job has at most one place in the queue, and a write waits for at most one slice of each job.
//! The [`Feed`] is shared with the slice; its lock is held to move a batch, and nothing is taken under it.
//!
//! # Exactly once
//!
//! A row leaves the feed when the transaction that wrote it is committed. If another write of its group has made SQLite
//! end the transaction, the rows are ready again, and the next slice writes them, in a group of its own. The cursor of a resumable job is
//! written in the transaction of the slice.

mod copy;
#[cfg(feature = "csv")]
mod csv;
mod cursor;
mod feed;
#[cfg(feature = "async")]
mod futures;
mod handle;
mod keys;
mod report;
pub(crate) mod retention;
mod row;
mod slice;

use std::iter::Fuse;
use std::ops::ControlFlow;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use self::copy::Selected;
#[cfg(feature = "csv")]
pub use self::csv::{BulkCsv, CsvType};
use self::cursor::Cursor;
use self::feed::{Batch, Feed, Found};
use self::handle::Handle;
use self::keys::Keys;
pub use self::report::{BulkProgress, BulkReport, Violation};
pub use self::row::BulkRow;
use self::slice::{Budget, Done, Failed, Slice};
#[cfg(doc)]
use crate::Store;
use crate::engine::Engine;
use crate::error::{Error, Outcome, Result};
use crate::options::WhenFull;
use crate::queue::Submission;
use crate::queue::pending::Pending;
use crate::queue::slot::Caller;
use crate::telemetry::bulk::Running;
use crate::telemetry::call_site::CallSite;
use crate::transaction::WriteTx;
use crate::write::context::WriteOrder;

/// Violations that a report names.
const MAX_VIOLATIONS: usize = 100;

/// Rows and bytes of one batch.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 256 << 10;

/// Batches that are ready before the job waits for the writer.
const READY: usize = 8;

/// The default of [`Bulk::slice`].
const SLICE: Duration = Duration::from_millis(5);

/// The time of a slice while no other thread writes.
const ALONE: Duration = Duration::from_millis(250);

/// How long after the last write of another thread the job counts as alone.
const COMPANY: Duration = Duration::from_secs(1);

/// Bytes of the log that the rows of one slice may take, beside other writes and alone. The commit takes as long.
const SLICE_LOG: u64 = 2 << 20;
const ALONE_LOG: u64 = 32 << 20;

/// Rows of the first slice, and the fewest of any.
const FIRST_ROWS: u64 = 1000;
const LEAST_ROWS: u64 = 1;

/// Attempts at a slice that failed through no fault of its rows, and the pause after the first, which doubles: some 5 s.
const ATTEMPTS: u32 = 10;
const RETRY: Duration = Duration::from_millis(10);

/// A slice stands in the queue for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time between two calls of the progress callback.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

/// What a job does with a row that violates a constraint. See [`Bulk::on_violation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnViolation {
    /// The job fails and names the row. The rows before it stay.
    #[default]
    Fail,
    /// The row is left out, counted, and named in the report.
    Skip,
}

/// Work on many rows that leaves the writer to others every few milliseconds. Made by [`Store::bulk`].
///
/// The work is done in slices, each in one transaction: **it is not all or nothing.** A job that fails or is cancelled
/// leaves what it has committed, and says how much that is. A [resumable](Self::resumable) job goes on behind it, also
/// after the process was killed.
///
/// While other threads write, a slice ends after some milliseconds ([`slice`](Self::slice)), and the writes that arrived
/// meanwhile join its transaction: such a write waits for the rest of a slice and its commit. While no other thread
/// writes, slices are longer, and faster for each row.
///
/// Foreign keys that are `DEFERRED` are judged at the end of each slice, so a child row and the parent that follows it may
/// be in two slices, of which the first fails. Write parents first.
///
/// A job runs on the calling thread, which reads the rows, and on the writer thread, which writes them.
///
/// ```
/// # let store = larder::Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch("CREATE TABLE readings(at INTEGER PRIMARY KEY, value REAL) STRICT"))?;
/// let rows = (0..10_000).map(|at| (at, f64::from(at) / 2.0));
/// let report = store
///     .bulk()
///     .insert("INSERT INTO readings(at, value) VALUES (?1, ?2)", rows)
///     .run()?;
/// println!("{report}"); // 10000 rows in 2 transactions (12.3ms)
///
/// let report = store.bulk().delete("readings", "at < ?1", (5_000,)).run()?;
/// assert_eq!(report.rows, 5_000);
/// # Ok::<_, larder::Error>(())
/// ```
#[must_use = "nothing is done before `run`"]
pub struct Bulk {
    store: Handle,
    name: Option<String>,
    label: Option<String>,
    slice: Duration,
    on_violation: OnViolation,
    progress: Option<Progress>,
    /// Set by the drop of its future.
    is_cancelled: Option<Arc<AtomicBool>>,
}

type Progress = Box<dyn FnMut(&BulkProgress) -> ControlFlow<()> + Send>;

impl Bulk {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self {
            store: Handle::new(engine),
            name: None,
            label: None,
            slice: SLICE,
            on_violation: OnViolation::default(),
            progress: None,
            is_cancelled: None,
        }
    }

    /// Makes the job go on where an earlier run of the same name has ended: killed, failed, cancelled or finished. Each
    /// slice saves in its own transaction how many rows of the source are written, in the table `larder_bulk`, and the
    /// next run leaves out as many. So each row is written exactly once, if the source gives the same rows in the same
    /// order. The name belongs to one statement; [`forget`](Self::forget) makes the job begin from the first row.
    ///
    /// A deletion needs no name: what is deleted is not found again.
    pub fn resumable(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The longest time of a slice while another write waits. The default is 5 milliseconds. The commit comes on top of
    /// it. A longer slice writes more rows a second, and delays other writes for longer.
    pub fn slice(mut self, time: Duration) -> Self {
        self.slice = time;
        self
    }

    /// What the job does with a row that violates a constraint. The default is [`OnViolation::Fail`]. To replace or merge
    /// such rows, use an upsert (`ON CONFLICT .. DO UPDATE`) as the statement.
    pub fn on_violation(mut self, policy: OnViolation) -> Self {
        self.on_violation = policy;
        self
    }

    /// The name of the job in events and statistics, at most 256 bytes. The default is the `file:line` of
    /// [`run`](BulkJob::run).
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Calls `f` some ten times a second, between two slices. `ControlFlow::Break(())` cancels the job; what is committed
    /// stays.
    ///
    /// The callback runs on the thread that called [`run`](BulkJob::run), and may write to the store.
    pub fn progress(mut self, f: impl FnMut(&BulkProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.progress = Some(Box::new(f));
        self
    }

    /// Forgets how far the resumable job of that name has come. Returns the number of rows that it had written, or
    /// `None` if there was no such job.
    ///
    /// # Errors
    ///
    /// Those of [`Store::write`].
    pub fn forget(self, name: &str) -> Result<Option<u64>> {
        Cursor::forget(&self.store, name)
    }

    /// Runs `sql` once for each row, with the values of the row as `?1`, `?2` and so on. It may be any statement that
    /// writes: an `INSERT`, an upsert, an `UPDATE` by key.
    ///
    /// `rows` is any iterator, such as the receiver of a bounded channel that another thread fills. It runs on the
    /// thread that calls [`run`](BulkJob::run), and no transaction is open while it blocks. Rows are committed in
    /// batches: the last ones of a source that blocks may follow, and be counted, only with its next rows or its end.
    pub fn insert<R, I>(self, sql: impl Into<String>, rows: I) -> BulkJob<Rows<I::IntoIter>>
    where
        R: BulkRow,
        I: IntoIterator<Item = R>,
    {
        self.job(sql.into(), Rows(rows.into_iter().fuse()))
    }

    /// Deletes the rows of `table` for which `condition` holds, with `values` as its parameters: `?1`, `?2` and so on, or
    /// each `?` in turn. The table has a rowid, and is in the main database.
    ///
    /// The keys of these rows are read from snapshots, a few thousand at a time: by the index, if the condition has one,
    /// and otherwise in one walk over the table, up to its largest key at the start. So the writer never scans, and a row
    /// that no longer meets the condition when its turn comes stays. The condition is of one row: a subquery in it is
    /// refused, since it would be evaluated again for each row, while rows go.
    pub fn delete<P: BulkRow + Sync>(self, table: &str, condition: &str, values: P) -> BulkJob<Keys<P>> {
        let keys = Keys::to_delete(&self.store, table, condition, values);
        let sql = keys.statement();
        self.job(sql, keys)
    }

    /// Sets columns of the rows of `table` for which `condition` holds: `set` is what follows `SET` in an `UPDATE`, such
    /// as `"state = 'old', at = ?1"`. `values` are the parameters of both, those of `set` first.
    ///
    /// The keys are read as for [`delete`](Self::delete), in one walk over the table, so each row is updated once. The key
    /// of the walk, the rowid, cannot be set.
    pub fn update<P: BulkRow + Sync>(self, table: &str, set: &str, condition: &str, values: P) -> BulkJob<Keys<P>> {
        let keys = Keys::to_update(&self.store, table, set, condition, values);
        let sql = keys.statement();
        self.job(sql, keys)
    }

    /// Runs `sql` once for each row that `select` returns from the database at `path`, with its columns as `?1`, `?2`
    /// and so on.
    ///
    /// The other database is opened only to be read, and one snapshot of it is read while the job runs. Its page size and
    /// its text encoding may differ.
    pub fn copy_from(self, path: impl AsRef<Path>, select: &str, sql: impl Into<String>) -> BulkJob<Selected> {
        let selected = Selected::new(&self.store.options, path.as_ref(), select);
        self.job(sql.into(), selected)
    }

    fn job<S: Source>(self, sql: String, source: S) -> BulkJob<S> {
        BulkJob {
            bulk: self,
            sql,
            source,
        }
    }
}

/// Where the rows of a job come from. Its implementations are larder's.
#[doc(hidden)]
pub trait Source: sealed::Sealed {
    /// Its rows.
    type Row: BulkRow;

    #[doc(hidden)]
    fn next(&mut self, is_committed: bool) -> Result<Step<Self::Row>>;

    /// Leaves out what earlier runs have done.
    #[doc(hidden)]
    fn resume(&mut self, done: Resume) -> Result<()>;

    /// The number of rows that are left, if it is known.
    #[doc(hidden)]
    fn left(&self) -> Option<u64> {
        None
    }
}

/// What earlier runs have done.
#[doc(hidden)]
#[derive(Clone, Copy, Default)]
pub struct Resume {
    pub(super) rows: u64,
    /// The key of the last row, of a job that walks over a table.
    pub(super) key: Option<i64>,
}

mod sealed {
    pub trait Sealed {}
}

/// What a source gives.
#[doc(hidden)]
pub enum Step<R> {
    /// Rows, and the bytes of their values.
    Rows(Vec<R>, usize),
    /// No rows yet: the job may look whether it is cancelled.
    Nothing,
    /// It needs to see the committed effect of all rows so far.
    AfterCommit,
    End,
}

/// An iterator as a source.
#[doc(hidden)]
pub struct Rows<I>(Fuse<I>);

impl<I> sealed::Sealed for Rows<I> {}

impl<R: BulkRow, I: Iterator<Item = R>> Source for Rows<I> {
    type Row = R;

    fn next(&mut self, _is_committed: bool) -> Result<Step<R>> {
        let mut bytes = 0;
        let mut rows = Vec::with_capacity(BATCH_ROWS);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(row) = self.0.next() else { break };
            bytes += row::bytes(&row);
            rows.push(row);
        }
        Ok(if rows.is_empty() {
            Step::End
        } else {
            Step::Rows(rows, bytes)
        })
    }

    fn resume(&mut self, done: Resume) -> Result<()> {
        for _ in 0..done.rows {
            if self.0.next().is_none() {
                break;
            }
        }
        Ok(())
    }

    fn left(&self) -> Option<u64> {
        let (least, most) = self.0.size_hint();
        (Some(least) == most).then_some(least as u64)
    }
}

/// A job that is ready to run. Made by the verbs of [`Bulk`].
#[must_use = "nothing is done before `run`"]
pub struct BulkJob<S> {
    bulk: Bulk,
    sql: String,
    source: S,
}

impl<S: Source> BulkJob<S> {
    /// Runs the job, and blocks until it is over.
    ///
    /// # Errors
    ///
    /// [`Error::Bulk`]: how many rows are committed, which row has failed, and why. Among the reasons are a violated
    /// [constraint](Error::constraint), a full disk, and [`Error::Closed`] if the store closes: the job ends with its
    /// current slice. [`Error::Options`] if a job of that name runs already, or belongs to another statement.
    ///
    /// # Panics
    ///
    /// If the source, the progress callback or a `ToSql` panics. What is committed stays.
    #[track_caller]
    pub fn run(self) -> Result<BulkReport> {
        self.run_at(Location::caller())
    }

    fn run_at(self, caller: &'static Location<'static>) -> Result<BulkReport> {
        let site = CallSite::new(self.bulk.label.clone().map(Into::into), caller);
        let name = self.bulk.name.as_deref();
        let store = self.bulk.store;
        store.shared.queue.check_caller("Bulk::run")?;
        let running = store
            .telemetry
            .bulk
            .begin(name, site.to_string())
            .ok_or_else(|| Error::Options {
                option: "Bulk::resumable",
                problem: format!(
                    "the job {:?} is running already in this store",
                    name.unwrap_or_default()
                ),
            })?;
        let (cursor, done) = match name {
            Some(name) => {
                let (cursor, done) = Cursor::open(&store, name, &self.sql)?;
                (Some(cursor), done)
            }
            None => (None, Resume::default()),
        };
        let mut source = self.source;
        source.resume(done)?;
        let driver = Driver {
            site,
            sql: self.sql.into(),
            on_violation: self.bulk.on_violation,
            cursor,
            slice: self.bulk.slice,
            feed: Arc::new(Feed::new(READY)),
            running,
            progress: self.bulk.progress,
            is_cancelled: self.bulk.is_cancelled,
            report: BulkReport::starting(done.rows),
            began: Instant::now(),
            told: Instant::now(),
            company: None,
            rows: FIRST_ROWS,
            wal_bytes: 0,
            writes: store.telemetry.counters.writes.get(),
            attempts: 0,
            reached: Arc::default(),
            store,
        };
        driver.run(source)
    }
}

/// The reply of a slice, which is there or is to be waited for.
fn reply(slice: &mut Pending<Done>, must_wait: bool) -> Option<Result<Done>> {
    slice.wait_timeout(if must_wait { PATIENCE } else { Duration::ZERO })
}

/// The thread of a job, while it runs.
struct Driver<R> {
    store: Handle,
    site: CallSite,
    sql: Arc<str>,
    on_violation: OnViolation,
    cursor: Option<Cursor>,
    slice: Duration,
    feed: Arc<Feed<R>>,
    running: Running,
    progress: Option<Progress>,
    is_cancelled: Option<Arc<AtomicBool>>,
    report: BulkReport,
    began: Instant,
    /// The last call of the progress callback.
    told: Instant,
    /// The last write of another thread.
    company: Option<Instant>,
    /// Rows of the next slice.
    rows: u64,
    /// Size of the log as the last slice was submitted.
    wal_bytes: u64,
    /// The writes of the store after the last slice.
    writes: u64,
    /// Attempts at the current slice.
    attempts: u32,
    /// Rows of the current slice so far.
    reached: Arc<AtomicU64>,
}

impl<R: BulkRow> Driver<R> {
    fn run<S: Source<Row = R>>(mut self, mut source: S) -> Result<BulkReport> {
        let mut slice: Option<Pending<Done>> = None;
        let mut has_ended = false;
        // Why the source has ended. The rows before that are written.
        let mut source_failed = None;
        loop {
            let mut drains = has_ended;
            if !has_ended {
                match source.next(slice.is_none() && self.feed.is_empty()) {
                    Ok(Step::Rows(rows, bytes)) => {
                        self.report.bytes += bytes as u64;
                        self.feed.push(Batch::new(rows));
                    }
                    Ok(Step::Nothing) => {
                        if slice.is_none() && self.is_cancelled(source.left()) {
                            return Ok(self.end());
                        }
                    }
                    Ok(Step::AfterCommit) => drains = true,
                    Ok(Step::End) => (has_ended, drains) = (true, true),
                    Err(error) => {
                        source_failed = Some(error);
                        (has_ended, drains) = (true, true);
                    }
                }
            }
            loop {
                let must_wait = drains || !self.feed.is_running();
                if let Some(reply) = slice.as_mut().and_then(|slice| reply(slice, must_wait)) {
                    slice = None;
                    self.finish(reply)?;
                }
                if slice.is_none() && !self.feed.is_empty() {
                    if self.is_cancelled(source.left()) {
                        return Ok(self.end());
                    }
                    slice = Some(self.submit()?);
                }
                if slice.is_none() || !drains && matches!(self.feed.wait(), Found::Room) {
                    break;
                }
            }
            if has_ended && slice.is_none() {
                return match source_failed {
                    Some(error) => Err(self.failed(None, None, error)),
                    None => Ok(self.end()),
                };
            }
        }
    }

    fn end(mut self) -> BulkReport {
        self.report.duration = self.began.elapsed();
        self.report
    }

    fn failed(&self, row: Option<u64>, line: Option<u64>, source: Error) -> Error {
        Error::Bulk {
            rows: self.report.resumed_from + self.report.rows,
            row,
            line,
            source: Box::new(source),
        }
    }

    fn is_alone(&self) -> bool {
        self.company.is_none_or(|last| last.elapsed() >= COMPANY)
    }

    fn submit(&mut self) -> Result<Pending<Done>> {
        let counters = &self.store.telemetry.counters;
        self.wal_bytes = counters.wal_bytes.get();
        let is_alone = self.is_alone();
        let slice = Slice {
            feed: Arc::clone(&self.feed),
            shared: Arc::clone(&self.store.shared),
            sql: Arc::clone(&self.sql),
            on_violation: self.on_violation,
            cursor: self.cursor.clone(),
            reached: Arc::clone(&self.reached),
            position: self.report.resumed_from + self.report.rows,
            budget: Budget {
                slice: self.slice,
                alone: if is_alone { ALONE.max(self.slice) } else { self.slice },
                rows: self.rows,
            },
        };
        self.feed.begin();
        // After a rollback that another write of the group has caused, none may join.
        let order = WriteOrder::of_slice(self.store.options.durability, self.attempts > 0);
        let submission = Submission {
            call: "Bulk::run",
            site: self.site.clone(),
            timeout: PATIENCE,
            caller: Caller::Thread,
            when_full: WhenFull::Wait,
        };
        let submitted = self
            .store
            .enqueue(submission, order, move |tx: &WriteTx<'_>| slice.run(tx));
        submitted.map_err(|error| self.failed(None, None, error))
    }

    /// Takes the report of a slice.
    fn finish(&mut self, reply: Result<Done>) -> Result<()> {
        let done = match reply {
            Ok(done) => done,
            Err(error) => return self.retry(error),
        };
        self.attempts = 0;
        self.feed.committed();
        let others = self.note_company(&done);
        self.adapt(&done, others);
        self.report.rows += done.rows;
        self.report.changed += done.changed;
        self.report.skipped += done.skipped;
        self.report.bad_lines += done.bad_lines;
        let room = MAX_VIOLATIONS - self.report.violations.len();
        self.report.violations.extend(done.violations.into_iter().take(room));
        self.report.slices += 1;
        self.running.note(done.rows, done.took);
        match done.failed {
            Some(Failed { line, error }) => {
                let row = self.report.resumed_from + self.report.rows + 1;
                Err(self.failed(Some(row), line, error))
            }
            None => Ok(()),
        }
    }

    /// The slice was rolled back or did not start. If that was not the fault of its rows, they are ready again.
    fn retry(&mut self, error: Error) -> Result<()> {
        self.attempts += 1;
        if error.outcome() == Outcome::Local {
            // Committed, though not known to be in the replica.
            self.report.rows += self.reached.load(Relaxed);
        }
        let nothing_written = matches!(error.outcome(), Outcome::NotStarted | Outcome::RolledBack);
        if !nothing_written || !error.is_retryable() || self.attempts >= ATTEMPTS {
            return Err(self.failed(None, None, error));
        }
        self.feed.rolled_back();
        // A log that is full, or another process's lock, takes a while to go.
        if error.outcome() == Outcome::NotStarted {
            thread::sleep(RETRY * (1 << (self.attempts - 1)));
        }
        Ok(())
    }

    /// Returns whether other threads have written.
    fn note_company(&mut self, done: &Done) -> bool {
        let writes = self.store.telemetry.counters.writes.get();
        let others = done.made_wait || writes > self.writes + 1;
        self.writes = writes;
        if others {
            self.company = Some(Instant::now());
        }
        others
    }

    /// Sets the number of rows of the next slice by what the commit of this one has added to the log.
    fn adapt(&mut self, done: &Done, others: bool) {
        let target = if self.is_alone() && !others {
            ALONE_LOG
        } else {
            SLICE_LOG
        };
        let now = self.store.telemetry.counters.wal_bytes.get();
        // The log may have begun from its start.
        let added = now.checked_sub(self.wal_bytes).unwrap_or(now);
        if added > target {
            let fitting = u128::from(done.rows) * u128::from(target) / u128::from(added);
            self.rows = (fitting as u64).max(LEAST_ROWS);
        } else if done.was_full {
            self.rows *= 2;
        }
    }

    /// Whether the job is to end before its next slice: calls the progress callback, if it is due.
    fn is_cancelled(&mut self, left: Option<u64>) -> bool {
        self.tell(left);
        let is_dropped = self.is_cancelled.as_ref().is_some_and(|flag| flag.load(Relaxed));
        self.report.cancelled |= is_dropped;
        self.report.cancelled
    }

    fn tell(&mut self, left: Option<u64>) {
        let Some(progress) = &mut self.progress else { return };
        if self.told.elapsed() < CALLBACK_INTERVAL {
            return;
        }
        self.told = Instant::now();
        let elapsed = self.began.elapsed();
        let rows = self.report.rows;
        let rate = rows as f64 / elapsed.as_secs_f64();
        let now = BulkProgress {
            rows,
            rows_per_second: rate,
            bytes: self.report.bytes,
            elapsed,
            eta: left
                .filter(|_| rows > 0)
                .and_then(|left| Duration::try_from_secs_f64(left as f64 / rate).ok()),
        };
        self.report.cancelled = progress(&now).is_break();
    }
}
