//! Bulk work beside interactive work: inserts, deletions, updates and merges of any size, in slices that delay no other
//! write for long.
//!
//! ```text
//! the source's thread, or task     the driver's thread          the writer thread
//!   source.rs: gives one row         driver.rs: waits until       slice.rs: one write of the queue, first of its group
//!   after the other to               a slice is due, submits        takes batches from the feed, writes rows for some
//!   feed.rs, waits for room   --->   it, waits for its reply  --->  milliseconds, saves the cursor
//!                                    rows are committed      <---   the writes that arrived meanwhile join; COMMIT
//! ```
//!
//! # Who owns what
//!
//! The source is user code: it may block, fail or panic, and holds no transaction meanwhile. Only its own thread waits for
//! it. That is the thread that calls `run`, since an iterator need not be `Send`; with `run_async` a thread of its own;
//! with `insert_stream` the task (`stream.rs`). Rows that it has given are in the [`Feed`], where the driver finds them: it
//! submits a slice some milliseconds after the first of them, while the source blocks.
//!
//! The driver submits one slice at a time, so a job has at most one place in the queue, and a write waits for at most one
//! slice of each job. It calls the progress callback, looks whether the job is cancelled or the store closes, and has the
//! result: the source's error or panic goes through the feed. The lock of the feed is held to move a row or a batch, and
//! nothing is taken under it.
//!
//! # Bounded
//!
//! The source waits for room: at most eight batches are ready, and at most 32 MB of rows and one more row are
//! not committed.
//!
//! # How it ends
//!
//! The driver ends first: at a row that fails the job, when the job is cancelled, when the store closes, or when the source
//! has ended and its rows are committed. The feed is over from then on, and the next row is refused. A source that blocks
//! then keeps its thread, and nothing else: `run` returns once the source has come back; the future of `run_async` is
//! ready at once, and the thread ends by itself.
//!
//! # Exactly once
//!
//! A row leaves the feed when the transaction that wrote it is committed. If another write of its group has made SQLite
//! end the transaction, the rows are ready again, and the next slice writes them, in a group of its own. The cursor of a
//! resumable job is written in the transaction of the slice.

mod copy;
#[cfg(feature = "csv")]
mod csv;
mod cursor;
mod driver;
mod feed;
#[cfg(feature = "async")]
mod futures;
mod handle;
mod key;
mod keys;
mod report;
pub(crate) mod retention;
mod row;
mod slice;
mod source;
#[cfg(feature = "async")]
mod stream;
mod tracker;

use std::ops::ControlFlow;
use std::panic::{Location, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use self::copy::Selected;
#[cfg(feature = "csv")]
pub use self::csv::{BulkCsv, CsvType, CsvTypes};
use self::cursor::Cursor;
use self::driver::Driver;
use self::feed::{Feed, Room};
use self::handle::Handle;
use self::keys::Keys;
pub use self::report::{BulkProgress, BulkReport, Violation};
pub use self::row::BulkRow;
pub use self::source::Source;
use self::source::{Resume, Rows, Step, sealed};
#[cfg(feature = "async")]
pub use self::stream::BulkStream;
#[cfg(doc)]
use crate::Store;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::telemetry::call_site::CallSite;

/// Violations that a report names.
const MAX_VIOLATIONS: usize = 100;

/// Rows and bytes of one batch.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 256 << 10;

/// What a job holds of rows that are not committed.
const ROOM: Room = Room {
    batch_rows: BATCH_ROWS,
    batch_bytes: BATCH_BYTES,
    batches: 8,
    bytes: 32 << 20,
};

/// The fewest rows of a slice.
const LEAST_ROWS: u64 = 1;

/// The least share that can be set.
const LEAST_SHARE: f64 = 0.01;

/// The default of [`Bulk::slice`].
const SLICE: Duration = Duration::from_millis(5);

/// Bytes of the log that the rows of one slice may take, beside other writes and alone. The commit takes as long.
const SLICE_LOG: u64 = 2 << 20;
const ALONE_LOG: u64 = 32 << 20;

/// A slice stands in the queue for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time between two calls of the progress callback, and between two looks whether the job is cancelled.
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
/// While other threads write, a slice ends some milliseconds after the first of them begins to wait for it
/// ([`slice`](Self::slice)), and the writes that arrived meanwhile join its transaction: such a write waits for that time
/// and the commit at most. While no other thread
/// writes, slices are longer, and faster for each row.
///
/// Foreign keys that are `DEFERRED` are judged at the end of each slice, and slices end by time. So a child row that comes
/// before its parent fails the job, whatever [`on_violation`](Self::on_violation) says, unless both happen to be in one
/// slice; the error says so. Write parents first, or write `NULL` and set the parents by a second job.
///
/// A job runs on the calling thread, which reads the rows, on a thread `larder-bulk`, which submits the slices, and on the
/// writer thread, which writes them. At most 32 MB of its rows and one more row are in memory.
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
    share: f64,
    pause: Duration,
    on_violation: OnViolation,
    max_skipped: u64,
    on_skip: Option<OnSkip>,
    progress: Option<Progress>,
    /// Set by the drop of its future.
    is_cancelled: Arc<AtomicBool>,
}

type Progress = Box<dyn FnMut(&BulkProgress) -> ControlFlow<()> + Send>;

type OnSkip = Box<dyn FnMut(&Violation) + Send>;

impl Bulk {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self {
            store: Handle::new(engine),
            name: None,
            label: None,
            slice: SLICE,
            share: 1.0,
            pause: Duration::ZERO,
            on_violation: OnViolation::default(),
            max_skipped: u64::MAX,
            on_skip: None,
            progress: None,
            is_cancelled: Arc::default(),
        }
    }

    /// Makes the job go on where an earlier run of the same name has ended: killed, failed, cancelled or finished. Each
    /// slice saves in its own transaction how many rows of the source are written, in the table `larder_bulk`, and the
    /// next run leaves out as many. So each row is written exactly once, if the source gives the same rows in the same
    /// order. The name belongs to one statement; [`forget`](Self::forget) makes the job begin from the first row.
    ///
    /// It is not seen that the table was **dropped and created again** since: call `forget` then.
    ///
    /// A deletion needs no name: what is deleted is not found again. The statement of a deletion or an update is its SQL
    /// **without its values**: a job of one name with other values goes on behind the last key of the earlier one. Give
    /// each set of values a name of its own.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// let users = || (1..=1000).map(|id| (id, format!("user {id}")));
    /// let load = |rows| {
    ///     let job = store.bulk().resumable("load users");
    ///     job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run()
    /// };
    /// assert_eq!(load(users().take(300).collect::<Vec<_>>())?.rows, 300);
    /// // Again, with all of them: it goes on behind the first 300.
    /// let report = load(users().collect())?;
    /// assert_eq!((report.resumed_from, report.rows), (300, 700));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn resumable(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The longest time that another write waits for a slice to end. The default is 5 milliseconds. The commit comes on top
    /// of it. A longer slice writes more rows a second, and delays other writes for longer.
    ///
    /// The time runs from the moment at which the first of the other writes begins to wait, and a slice beside other
    /// writes ends after one and a quarter times as long in any case, or after just this time if the job
    /// [pauses](Self::pause).
    pub fn slice(mut self, time: Duration) -> Self {
        self.slice = time;
        self
    }

    /// The part of the writer's time that the job may take while other threads write, from 0.01 to 1. The default is 1.
    ///
    /// After a slice that has taken `t` with its commit, the job waits for `t * (1 / share - 1)`: with 0.25, 8 ms of
    /// writing are followed by 24 ms without. At 1 the next slice follows at once. Other writes do not starve then, either:
    /// they are in the queue before it and join the commit of the current slice, so each waits for one slice at most. A
    /// smaller share makes fewer writes wait at all, and leaves the disk to others. While no other thread has written for a
    /// second, the job takes all. [`BulkStats::share`](crate::BulkStats::share) is the share that it has had.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// let rows = (1..=1000).map(|id| (id, "Ada"));
    /// // Beside other writes it leaves three quarters of the time to them.
    /// let report = store.bulk().share(0.25).insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!(report.rows, 1000);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// The pause between two slices. The default is none.
    ///
    /// It is for a database that **other processes** write: their writes are in no queue, and SQLite lets them try again
    /// every few milliseconds. With a pause no slice takes longer than [`slice`](Self::slice), and the job leaves the
    /// write lock to others for as long as it says.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// use std::time::Duration;
    ///
    /// let rows = (1..=1000).map(|id| (id, "Ada"));
    /// let job = store.bulk().pause(Duration::from_millis(5));
    /// let report = job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!(report.rows, 1000);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn pause(mut self, time: Duration) -> Self {
        self.pause = time;
        self
    }

    /// What the job does with a row that violates a constraint. The default is [`OnViolation::Fail`]. To replace or merge
    /// such rows, use an upsert (`ON CONFLICT .. DO UPDATE`) as the statement.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// use larder::OnViolation;
    ///
    /// let rows = [(1, Some("Ada")), (2, None), (3, Some("Grace"))];
    /// let job = store.bulk().on_violation(OnViolation::Skip);
    /// let report = job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!((report.rows, report.skipped), (3, 1));
    /// assert_eq!(report.violations[0].row, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn on_violation(mut self, policy: OnViolation) -> Self {
        self.on_violation = policy;
        self
    }

    /// How many rows may be skipped in a run, of those that violate a constraint and of bad lines: the next one fails the
    /// job. The default is any number.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// use larder::OnViolation;
    ///
    /// let rows = [(1, Some("Ada")), (2, None), (3, None), (4, Some("Grace"))];
    /// let job = store.bulk().on_violation(OnViolation::Skip).max_skipped(1);
    /// let failed = job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run();
    /// assert!(failed.unwrap_err().to_string().contains("NOT NULL"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn max_skipped(mut self, rows: u64) -> Self {
        self.max_skipped = rows;
        self
    }

    /// Calls `f` for each row that was skipped, once the rows before it are committed. The report has the first 100.
    ///
    /// The callback runs where that of [`progress`](Self::progress) runs.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// use std::sync::mpsc::channel;
    /// use larder::OnViolation;
    ///
    /// let (sender, skipped) = channel();
    /// let job = store.bulk().on_violation(OnViolation::Skip).on_skip(move |violation| {
    ///     let _ = sender.send(violation.row);
    /// });
    /// let rows = [(1, Some("Ada")), (2, None), (3, Some("Grace"))];
    /// job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!(skipped.iter().collect::<Vec<_>>(), [2]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn on_skip(mut self, f: impl FnMut(&Violation) + Send + 'static) -> Self {
        self.on_skip = Some(Box::new(f));
        self
    }

    /// The name of the job in events and statistics, at most 256 bytes. The default is the `file:line` of
    /// [`run`](BulkJob::run).
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Calls `f` some ten times a second, between two slices and while the source blocks, and once at the end, also of a job
    /// that fails. `ControlFlow::Break(())` cancels the job; what is committed stays.
    ///
    /// The callback runs on the thread that submits the slices, `larder-bulk`, and may write to the store.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// use std::ops::ControlFlow;
    /// use std::sync::mpsc::channel;
    ///
    /// let (sender, seen) = channel();
    /// let job = store.bulk().progress(move |progress| {
    ///     let _ = sender.send(progress.rows);
    ///     ControlFlow::Continue(())
    /// });
    /// let rows = (1..=1000).map(|id| (id, "Ada"));
    /// job.insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!(seen.iter().last(), Some(1000));
    /// # Ok::<_, larder::Error>(())
    /// ```
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
    /// thread that calls [`run`](BulkJob::run), and no transaction is open while it blocks: the rows that it has given are
    /// committed some 10 milliseconds after the first of them, however long the next one takes. It has to wait while
    /// eight batches of 512 rows or 256 KiB are ready for the writer.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER, line TEXT) STRICT"))?;
    /// let (sender, receiver) = std::sync::mpsc::sync_channel(1000);
    /// let reader = std::thread::spawn(move || {
    ///     for (n, line) in ["a", "b"].into_iter().enumerate() {
    ///         sender.send((n as i64, line)).unwrap();
    ///     }
    /// });
    /// let report = store.bulk().insert("INSERT INTO log VALUES (?1, ?2)", receiver).run()?;
    /// reader.join().unwrap();
    /// assert_eq!(report.rows, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn insert<R, I>(self, sql: impl Into<String>, rows: I) -> BulkJob<Rows<I::IntoIter>>
    where
        R: BulkRow,
        I: IntoIterator<Item = R>,
    {
        self.job(sql.into(), Rows::new(rows))
    }

    /// Deletes the rows of `table` for which `condition` holds, with `values` as its parameters: `?1`, `?2` and so on, or
    /// each `?` in turn. It is an ordinary table of the main database, with a rowid or `WITHOUT ROWID`.
    ///
    /// The keys of these rows are read from snapshots: by the index, 8192 at a time, if the condition has one, and otherwise
    /// in one walk over the table, in windows of at most 262,144 rows, up to its largest key at the start. So the writer
    /// never scans, and a row that no longer meets the condition when its turn comes stays. The condition is of one row: a subquery in it is
    /// refused, since it would be evaluated again for each row, while rows go.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// let rows = (1..=1000).map(|id| (id, "Ada"));
    /// store.bulk().insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// let report = store.bulk().delete("users", "id > ?1", (400,)).run()?;
    /// assert_eq!(report.rows, 600);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn delete<P: BulkRow + Sync>(self, table: &str, condition: &str, values: P) -> BulkJob<Keys<P>> {
        let keys = Keys::to_delete(&self.store, table, condition, values);
        self.job(String::new(), keys)
    }

    /// Sets columns of the rows of `table` for which `condition` holds: `set` is what follows `SET` in an `UPDATE`, such
    /// as `"state = 'old', at = ?1"`. `values` are the parameters of both, those of `set` first.
    ///
    /// The keys are read as for [`delete`](Self::delete), in one walk over the table, so each row is updated once. The key
    /// of the walk cannot be set: the rowid, or the primary key of a table `WITHOUT ROWID`.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// let rows = (1..=1000).map(|id| (id, "Ada"));
    /// store.bulk().insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// let report = store.bulk().update("users", "name = ?1", "id > ?2", ("Grace", 400)).run()?;
    /// assert_eq!(report.rows, 600);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn update<P: BulkRow + Sync>(self, table: &str, set: &str, condition: &str, values: P) -> BulkJob<Keys<P>> {
        let keys = Keys::to_update(&self.store, table, set, condition, values);
        self.job(String::new(), keys)
    }

    /// Runs `sql` once for each row that `select` returns from the database at `path`, with its columns as `?1`, `?2`
    /// and so on.
    ///
    /// The other database is opened only to be read, and one snapshot of it is read while the job runs. Its page size and
    /// its text encoding may differ. It cannot be the file of the store itself. Beside the rows of any job, up to six batches
    /// of 512 rows or 256 KiB are in memory; a batch with a larger row is as large as that row.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    ///
    /// # let other = larder::Store::open_temp()?;
    /// # other.write(|tx| tx.execute_batch("CREATE TABLE people(name); INSERT INTO people VALUES ('Ada'), ('Eve')"))?;
    /// let sql = "INSERT INTO users(name) VALUES (?1)";
    /// let report = store.bulk().copy_from(other.path(), "SELECT name FROM people", sql).run()?;
    /// assert_eq!(report.rows, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn copy_from(self, path: impl AsRef<Path>, select: &str, sql: impl Into<String>) -> BulkJob<Selected> {
        let selected = Selected::new(&self.store, path.as_ref(), select);
        self.job(sql.into(), selected)
    }

    fn check(&self) -> Result<()> {
        self.store.shared.queue.check_caller("Bulk::run")?;
        if (LEAST_SHARE..=1.0).contains(&self.share) {
            return Ok(());
        }
        Err(Error::Options {
            option: "Bulk::share",
            problem: format!("it is {}, and has to be from {LEAST_SHARE} to 1", self.share),
        })
    }

    /// Refuses a second job of one name, before it has done anything. [`Driver::start`] decides.
    #[cfg(feature = "csv")]
    fn check_name(&self) -> Result<()> {
        match &self.name {
            Some(name) if self.store.telemetry.bulk.is_running(name) => Err(runs_already(name)),
            _ => Ok(()),
        }
    }

    fn job<S: Source>(self, sql: String, source: S) -> BulkJob<S> {
        BulkJob {
            bulk: self,
            sql,
            source,
        }
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
    /// Runs the job, and blocks until it is over and its source has come back. A source that blocks keeps this call, also
    /// after the job was cancelled, has failed or the store has closed: [`run_async`](Self::run_async) does not wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::Bulk`]: how many rows are committed, which row has failed, and why. Among the reasons are a violated
    /// [constraint](Error::constraint), a full disk, and [`Error::Closed`] if the store closes: the job ends with its
    /// current slice. [`Error::Options`] if a job of that name runs already, or belongs to another statement.
    /// [`Error::Open`] if no thread can be started.
    ///
    /// # Panics
    ///
    /// If the source, the progress callback or a `ToSql` panics. What is committed stays, with the rows that the source
    /// has given before its panic.
    #[track_caller]
    pub fn run(self) -> Result<BulkReport> {
        self.run_at(Location::caller())
    }

    /// The source is on this thread, the driver on another one.
    fn run_at(self, caller: &'static Location<'static>) -> Result<BulkReport> {
        let (driver, mut source, done) = self.start(caller)?;
        let feed = Arc::clone(&driver.feed);
        let shared = Arc::clone(&driver.store.shared);
        let thread = thread("a bulk job", &shared.path, move || driver.run())?;
        source::give(&mut source, done, &feed);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn start(self, caller: &'static Location<'static>) -> Result<(Driver<S::Row>, S, Resume)> {
        let Self {
            bulk,
            mut sql,
            mut source,
        } = self;
        bulk.check()?;
        let site = CallSite::new(bulk.label.clone().map(Into::into), caller);
        if let Some(made) = source
            .statement()
            .map_err(|error| Error::of_bulk((0, 0), None, None, error))?
        {
            sql = made;
        }
        let (driver, done) = Driver::start(bulk, sql, site, Arc::new(Feed::new(ROOM)))?;
        Ok((driver, source, done))
    }
}

#[cfg(feature = "async")]
impl<S: Source + Send + 'static> BulkJob<S> {
    /// The driver is on this thread, the source on one of its own. It may block for longer than the job lasts.
    fn run_apart(self, caller: &'static Location<'static>) -> Result<BulkReport> {
        let (driver, mut source, done) = self.start(caller)?;
        let feed = Arc::clone(&driver.feed);
        let shared = Arc::clone(&driver.store.shared);
        thread("the rows of a bulk job", &shared.path, move || {
            source::give(&mut source, done, &feed)
        })?;
        driver.run()
    }
}

impl Error {
    /// Why a job has failed after so many rows of earlier runs and of this one, and the row and the line at which.
    fn of_bulk((resumed_from, rows): (u64, u64), row: Option<u64>, line: Option<u64>, source: Self) -> Self {
        Error::Bulk {
            rows,
            resumed_from,
            row,
            line,
            source: Box::new(source),
        }
    }
}

fn runs_already(name: &str) -> Error {
    Error::Options {
        option: "Bulk::resumable",
        problem: format!("the job {name:?} is running already in this store"),
    }
}

fn thread<T: Send + 'static>(
    part: &str,
    path: &Path,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let thread = thread::Builder::new().name("larder-bulk".into()).spawn(f);
    thread.map_err(|error| Error::no_thread(path, part, error))
}
