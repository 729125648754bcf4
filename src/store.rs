//! [`Store`]: the table of contents of the API. Each method is a line or two to the part that does it.

mod open;
#[cfg(feature = "async")]
mod tasks;

use std::fmt;
use std::mem;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::admission::{Admission, Kind};
use crate::advice::{self, Finding, Known};
use crate::backup::{Backup, BackupSchedule, Origin};
use crate::check::Check;
use crate::clock::later;
use crate::closing::CloseReport;
use crate::connection::interrupt::Interrupt;
use crate::connection::{check_sqlite_version, open_writer, read_back};
use crate::error::{Error, Outcome, Result};
use crate::event::{CallerSpan, event};
use crate::file::{self, DatabaseFile, TempFolder};
use crate::handoff::Handoff;
use crate::job::{Alone, InTransaction, Job, Terms, Work};
use crate::migrate::{self, DryRun, MigrationReport, MigrationStatus, Migrations};
use crate::options::{Options, ReadOptions, WriteOptions};
use crate::pending::{Caller, Pending};
use crate::readers::Readers;
use crate::registry::Claim;
use crate::site::CallSite;
use crate::stats::Stats;
use crate::status;
use crate::telemetry::Telemetry;
use crate::timer;
use crate::transaction::{ReadTx, WriteTx};
use crate::vacuum::Vacuum;
use crate::watch::Watch;
use crate::writer::{Shared, Writer};

/// How long advice waits for a reader.
const ADVICE_PATIENCE: Duration = Duration::from_secs(1);

/// What `close` waits beyond its deadline for the writer to say how far it came.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// One SQLite database: one writer thread with group commit, and a pool of read-only snapshots.
///
/// A `Store` is a handle: clone it and give the clones away. When the last one is dropped the store closes, as
/// by [`close`](Self::close).
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use larder::{Store, rusqlite::params};
///
/// let store = Store::open(&path)?;
/// store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
///
/// let id = store.write(|tx| tx.insert("INSERT INTO users(name) VALUES (?1)", params!["Ada"]))?;
/// let name: String =
///     store.read(|tx| tx.query_row("SELECT name FROM users WHERE id = ?1", [id], |row| row.get(0)))?;
/// assert_eq!(name, "Ada");
///
/// let report = store.close()?;
/// assert!(report.wal_truncated);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    options: Options,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    watch: Watch,
    /// Shared with the writer thread: the folder goes with whichever lets go of it last.
    _folder: Option<Arc<TempFolder>>,
}

impl Store {
    fn assemble(options: Options, path: &Path, folder: Option<Arc<TempFolder>>) -> Result<Self> {
        static STORES: AtomicU64 = AtomicU64::new(1);
        check_sqlite_version()?;
        status::count_forks();
        timer::start().map_err(|error| Error::no_thread(path, "its timer", error))?;
        let id = STORES.fetch_add(1, Relaxed);
        let file = DatabaseFile::prepare(path, &options, id)?;
        let (open_file, writer) = open_writer(&file, &options)?;
        // From here on the connections hold the claim.
        drop(file);
        let page_size = read_back(&writer.conn, "page_size")?;
        let handoff = Handoff::new(options.spin);
        let admission = Admission::new(Kind::Writes, options.queue, 1, handoff);
        let shared = Arc::new(Shared::new(Arc::clone(&open_file), Arc::new(admission)));
        let telemetry = Arc::new(Telemetry::new(options.call_sites, options.statements));
        let readers = Readers::open(&open_file, &options, &telemetry)?;
        Writer::start(
            writer,
            options.clone(),
            Arc::clone(&shared),
            Arc::clone(&readers),
            Arc::clone(&telemetry),
            folder.clone(),
        )?;
        // Its drop waits for the writer thread, so it is made once there is one.
        let inner = Inner {
            id,
            watch: Watch::start(&shared, &readers, &telemetry, &options),
            options,
            shared,
            readers,
            telemetry,
            _folder: folder,
        };
        inner.report_open(&page_size);
        let store = Self { inner: Arc::new(inner) };
        if let Some(migrations) = &store.options().migrations
            && migrations.are_made_at_open()
        {
            migrate::to_newest(&store, migrations)?;
        }
        // Its last errand may have left the writer with a setting that could not be made right.
        if let Some(poisoned) = store.poisoned() {
            return Err(poisoned);
        }
        Ok(store)
    }

    /// Runs `f` in a transaction on the writer thread and blocks until it is committed.
    ///
    /// Writes that are queued together share a commit; each is all or nothing, and judged on its own. `f` runs
    /// at most once.
    ///
    /// # Errors
    ///
    /// What `f` gave, with everything it did rolled back. [`Error::outcome`] says of every error what became of
    /// the write:
    /// - not started: [`QueueTimeout`](Error::QueueTimeout), [`Poisoned`](Error::Poisoned),
    ///   [`WalFull`](Error::WalFull), [`Closed`](Error::Closed), [`Reentrant`](Error::Reentrant) (a write inside
    ///   a write), and [`Sqlite`](Error::Sqlite) BUSY when another process held the lock;
    /// - rolled back: [`Sqlite`](Error::Sqlite), [`App`](Error::App), [`Refused`](Error::Refused),
    ///   [`RolledBack`](Error::RolledBack);
    /// - unknown: [`CommitUnknown`](Error::CommitUnknown).
    ///
    /// # Panics
    ///
    /// If `f` panics: it is rolled back, and the panic goes on here.
    #[track_caller]
    pub fn write<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.write_with(WriteOptions::new(), f)
    }

    /// As [`write`](Self::write), with a durability, time-outs or a label of its own.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`Interrupted`](Error::Interrupted) past [`WriteOptions::limit`].
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_with<T, F>(&self, options: WriteOptions, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, pending) = self.job("write", options, Caller::Thread, Location::caller(), InTransaction(f))?;
        let ticket = self.admission().enqueue(job)?;
        pending.queued(ticket).wait()
    }

    /// As [`write`](Self::write), but does not wait for room in the queue.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`QueueFull`](Error::QueueFull) at once if the queue is full.
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn try_write<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.try_write_with(WriteOptions::new(), f)
    }

    /// As [`try_write`](Self::try_write), with a durability, time-outs or a label of its own.
    ///
    /// # Errors
    ///
    /// As [`try_write`](Self::try_write) and [`write_with`](Self::write_with).
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn try_write_with<T, F>(&self, options: WriteOptions, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, pending) = self.job(
            "try_write",
            options,
            Caller::Thread,
            Location::caller(),
            InTransaction(f),
        )?;
        let ticket = self.admission().try_enqueue(job)?;
        pending.queued(ticket).wait()
    }

    /// Queues a write and gives back what will be its result. Blocks only while the queue is full.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT"))?;
    /// let pending: Vec<_> = (0..100)
    ///     .map(|n| store.submit(move |tx| tx.insert("INSERT INTO log VALUES (?1)", [n])))
    ///     .collect::<larder::Result<_>>()?;
    /// for write in pending {
    ///     write.wait()?; // or write.await
    /// }
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueTimeout`](Error::QueueTimeout) if there was no room in time, [`Poisoned`](Error::Poisoned),
    /// [`Closed`](Error::Closed), [`Reentrant`](Error::Reentrant). The rest comes from the [`Pending`].
    #[track_caller]
    pub fn submit<T, F>(&self, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.submit_with(WriteOptions::new(), f)
    }

    /// As [`submit`](Self::submit), with a durability, time-outs or a label of its own.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    #[track_caller]
    pub fn submit_with<T, F>(&self, options: WriteOptions, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, pending) = self.job(
            "submit",
            options,
            Caller::Submitter,
            Location::caller(),
            InTransaction(f),
        )?;
        let ticket = self.admission().enqueue(job)?;
        let pending = pending.queued(ticket);
        pending.wait_for_room()?;
        Ok(pending)
    }

    /// Runs `f` on this thread, in one snapshot of the database.
    ///
    /// The snapshot is at least as new as every write acknowledged before this call. It waits for no write, and
    /// no write waits for it; but for as long as it lasts the write-ahead log cannot be emptied.
    ///
    /// # Errors
    ///
    /// What `f` gave; [`ReadTimeout`](Error::ReadTimeout) if no connection came free in time;
    /// [`Refused`](Error::Refused) for SQL that writes or leaves the snapshot; [`Reentrant`](Error::Reentrant) if
    /// this thread would wait for itself; [`Closed`](Error::Closed).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[track_caller]
    pub fn read<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.read_with(ReadOptions::new(), f)
    }

    /// As [`read`](Self::read), with time-outs or a label of its own.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`Interrupted`](Error::Interrupted) past [`ReadOptions::execution_timeout`].
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    #[track_caller]
    pub fn read_with<T>(&self, options: ReadOptions, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let timeout = options.timeout.unwrap_or(self.inner.options.read_timeout);
        let site = CallSite::new(options.label, Location::caller());
        let limit = options.execution_timeout;
        self.inner
            .readers
            .read(timeout, limit, site, self.admission().is_worker(), f)
    }

    /// What was applied of the [`Options::migrations`], and what is pending.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] if the store was opened without migrations; those of [`read`](Self::read).
    pub fn migrations(&self) -> Result<MigrationStatus> {
        let set = self.migration_set()?;
        self.read(|tx| migrate::status(tx, set))
    }

    /// Applies every pending migration, each in a transaction of its own. Other writes get their turn between them.
    /// Opening the store does it by itself, unless [`Migrations::at_open`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`]: those before the one that failed are applied. [`Error::Options`] if the store was opened
    /// without migrations. Otherwise as [`write`](Self::write), of the step that failed or of the look whether there is
    /// another one: those before it are applied then, too, and [`migrations`](Self::migrations) tells which.
    pub fn migrate(&self) -> Result<MigrationReport> {
        migrate::to_newest(self, self.migration_set()?)
    }

    /// Goes to a version, up or down; 0 undoes every migration. The newest are undone first.
    ///
    /// The next opening applies again what was undone, unless it is an older program that opens.
    ///
    /// # Errors
    ///
    /// As [`migrate`](Self::migrate), and [`MigrationError::NoDown`](crate::MigrationError::NoDown) before a migration
    /// without a way down.
    pub fn migrate_to(&self, version: u64) -> Result<MigrationReport> {
        migrate::to_version(self, self.migration_set()?, version)
    }

    /// Applies every pending migration to a copy, and throws that away.
    ///
    /// # Errors
    ///
    /// What [`migrate`](Self::migrate) would fail with.
    pub fn migrate_dry_run(&self, on: DryRun) -> Result<MigrationReport> {
        migrate::dry_run(self, self.migration_set()?, on)
    }

    /// A look at the whole database for damage, and for foreign keys that point nowhere, while everybody reads and
    /// writes on. Nothing is done before [`Check::run`].
    pub fn check(&self) -> Check<'_> {
        Check::new(self)
    }

    /// The database written anew without its free pages, which gives their space back; nobody writes meanwhile. Nothing
    /// is done before [`Vacuum::run`].
    pub fn vacuum(&self) -> Vacuum<'_> {
        Vacuum::new(self)
    }

    /// A copy of the database in a file of its own, made while everybody reads and writes on, and looked at before it gets
    /// that name. Nothing is done before [`Backup::run`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self, to.as_ref(), false)
    }

    /// As [`backup`](Self::backup), but without free pages and with each table's pages together, by `VACUUM INTO`: a file
    /// that is smaller, and takes longer to make. The `rowid` of a table that has no `INTEGER PRIMARY KEY` may change.
    ///
    /// Pages are copied as ever, and the copy is made compact: so the write-ahead log is pinned no longer, and what is in
    /// the file can be compared with the snapshot. It takes two times the space until it is done.
    pub fn snapshot_to(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self, to.as_ref(), true)
    }

    /// Makes a [`backup`](Self::backup) every `interval` into that folder, which must be there, and keeps the newest `keep`
    /// of them: for as long as the [`BackupSchedule`] that this gives is kept, and the store is open.
    ///
    /// The backups of `app.db` are `app.db.20260401T120000Z` and so on, by UTC. The first is made at once, unless there is
    /// one in the folder that is younger than `interval`. After a sleep of the machine, in which time passes, one is made and
    /// not those that were missed. One that fails removes none, and is tried again at the next time: until one is made
    /// there is an alert, [`AlertKind::BackupFailed`](crate::AlertKind::BackupFailed), and
    /// [`Stats::last_backup`] says why.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let backups = folder.path();
    /// use std::time::Duration;
    ///
    /// # let store = larder::Store::open_temp()?;
    /// let schedule = store.backup_every(Duration::from_secs(6 * 3600), 28, backups)?; // of seven days
    /// // ... the service runs ...
    /// drop(schedule); // or the store is closed
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Backup`] if the folder is not there, [`Error::Options`] for less than a second or none to keep,
    /// [`Closed`](Error::Closed).
    #[track_caller]
    pub fn backup_every(&self, interval: Duration, keep: usize, folder: impl AsRef<Path>) -> Result<BackupSchedule> {
        BackupSchedule::start(self.origin(), interval, keep, folder.as_ref())
    }

    /// The database file, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.shared.path
    }

    /// What the store does, and has done since it was opened. Stops nobody.
    pub fn stats(&self) -> Stats {
        self.inner.watch.stats()
    }

    /// What is wrong with the store, or will be, and what to do about it, the worst first: what it does now, what its
    /// schema lacks, and whether it is time to look at a database server. Looks at the schema in a read of its own, and
    /// at no table's rows.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// store.write(|tx| tx.execute_batch("CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(a REFERENCES a)"))?;
    /// for finding in store.advice() {
    ///     println!("{finding}");
    /// }
    /// # assert!(store.advice().iter().any(|finding| finding.topic == "foreign-key-without-index"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn advice(&self) -> Vec<Finding> {
        let options = ReadOptions::new().label("larder: advice").timeout(ADVICE_PATIENCE);
        let shared = &self.inner.shared;
        advice::of(Known {
            schema: self.read_with(options, advice::of_schema),
            stats: &self.stats(),
            lately: self.inner.watch.lately(),
            changed: self.inner.telemetry.counters.changed_pragmas(),
            poisoned: shared.poison(),
            filesystem: file::unsafe_filesystem(&shared.path),
        })
    }

    /// [`Error::Poisoned`] if the disk has failed the store, so that it takes no more writes: for a health check, since
    /// reads go on.
    pub fn poisoned(&self) -> Option<Error> {
        self.inner.shared.poison()
    }

    /// Closes the store for all its clones, within [`Options::close_timeout`]: takes no further writes, finishes
    /// those that are queued, waits for reads, runs `PRAGMA optimize`, empties the write-ahead log.
    ///
    /// A second call gives the same report, or waits anew if the first gave up.
    ///
    /// # Errors
    ///
    /// [`Reentrant`](Error::Reentrant) inside a closure of this store.
    pub fn close(&self) -> Result<CloseReport> {
        self.close_within(self.inner.options.close_timeout)
    }

    /// As [`close`](Self::close), but gives up what is not done by then, and says what that was. Writes that were
    /// not started are told [`Closed`](Error::Closed); a write or a read that runs on is not interrupted, and the
    /// file is closed when it ends.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_within(&self, timeout: Duration) -> Result<CloseReport> {
        self.may_close()?;
        Ok(self.inner.close(timeout))
    }

    fn may_close(&self) -> Result<()> {
        let readers = &self.inner.readers;
        if self.admission().is_left() {
            return Err(Error::forked());
        }
        if self.admission().is_worker() || readers.is_reader_thread() || readers.in_use_by_this_thread() {
            return Err(Error::Reentrant {
                call: "close",
                instead: "it was called inside a closure of the same store, which it would wait for: call it outside",
                outcome: Outcome::NotStarted,
            });
        }
        Ok(())
    }

    fn migration_set(&self) -> Result<&Migrations> {
        self.options().migrations.as_ref().ok_or_else(|| Error::Options {
            option: "migrations",
            problem: "the store was opened without them: give them to Options::migrations".into(),
        })
    }

    /// What a backup is made from.
    pub(crate) fn origin(&self) -> Origin {
        let Inner {
            shared,
            readers,
            telemetry,
            ..
        } = &*self.inner;
        Origin {
            path: shared.path.clone(),
            options: self.options().clone(),
            readers: Arc::clone(readers),
            telemetry: Arc::clone(telemetry),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Runs larder's own look for damage in a snapshot of a reader's.
    pub(crate) fn inspect<T>(&self, f: impl FnOnce(&Connection, &Arc<Interrupt>) -> rusqlite::Result<T>) -> Result<T> {
        let timeout = self.inner.options.read_timeout;
        let site = CallSite::Label("larder: check".into());
        self.inner
            .readers
            .inspect(timeout, site, self.admission().is_worker(), f)
    }

    /// Runs larder's own work on the writer thread, with nothing else.
    #[track_caller]
    pub(crate) fn run_alone<T, F>(&self, call: &'static str, f: F) -> Result<T>
    where
        F: FnOnce(&mut Writer) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        if self.admission().is_left() {
            return Err(Error::forked());
        }
        if self.admission().is_worker() {
            let instead =
                "it was called inside a write, on the writer thread that would have to do it: call it outside";
            let outcome = Outcome::NotStarted;
            return Err(Error::Reentrant { call, instead, outcome });
        }
        // Another such job may be in the middle of something that others wait as long for.
        let options = self.options();
        let timeout = options.queue_timeout.max(options.migration_timeout);
        let terms = WriteOptions::new().timeout(timeout).label(format!("larder: {call}"));
        let (job, pending) = self.job(call, terms, Caller::Thread, Location::caller(), Alone(f))?;
        let ticket = self.admission().enqueue(job)?;
        pending.queued(ticket).wait()
    }

    /// Makes a job, and what waits for it.
    fn job<T, W>(
        &self,
        call: &'static str,
        options: WriteOptions,
        caller: Caller,
        line: &'static Location<'static>,
        work: W,
    ) -> Result<(Job, Pending<T>)>
    where
        W: Work<T> + 'static,
        T: Send + 'static,
    {
        let timeout = options.timeout.unwrap_or(self.inner.options.queue_timeout);
        write_job(&self.inner.shared, call, options, timeout, caller, line, work)
    }

    fn admission(&self) -> &Admission {
        &self.inner.shared.admission
    }
}

/// Makes a job for the writer, and what waits for it.
fn write_job<T, W>(
    shared: &Shared,
    call: &'static str,
    options: WriteOptions,
    timeout: Duration,
    caller: Caller,
    line: &'static Location<'static>,
    work: W,
) -> Result<(Job, Pending<T>)>
where
    W: Work<T> + 'static,
    T: Send + 'static,
{
    if shared.admission.is_left() {
        return Err(Error::forked());
    }
    if shared.admission.is_worker() {
        return Err(Error::Reentrant {
            call,
            instead: "it was called inside a write, on the writer thread that would have to make it: use the \
                      transaction that the closure was given, and tx.savepoint(|tx| ..) to nest",
            outcome: Outcome::NotStarted,
        });
    }
    if let Some(poisoned) = shared.poison() {
        return Err(poisoned);
    }
    let asked = Instant::now();
    let terms = Terms {
        site: CallSite::new(options.label, line),
        durability: options.durability.unwrap_or_default(),
        limit: options.limit,
        asked,
        deadline: later(asked, timeout),
        span: CallerSpan::current(),
    };
    Ok(Job::new(terms, work, caller, Arc::clone(&shared.admission)))
}

impl Inner {
    fn report_open(&self, page_size: &str) {
        let options = &self.options;
        event!(
            info,
            "larder::open",
            self.shared.path,
            {
                sqlite = rusqlite::version(),
                access = ?options.access,
                durability = ?options.durability,
                journal_mode = "wal",
                page_size,
                readers = options.readers,
                queue = options.queue,
                busy_timeout_ms = options.busy_timeout.as_millis() as u64,
                cache_size = options.cache_size,
                mmap_size = options.mmap_size,
                foreign_keys = options.foreign_keys,
                journal_size_limit = options.journal_size_limit,
                checkpoint_pages = options.checkpoint_pages,
                wal_limit = options.wal_limit,
                wal_hard_limit = options.wal_hard_limit,
            },
            "store opened"
        );
    }

    /// Tells the writer to close.
    fn begin_close(&self, deadline: Instant) {
        Claim::closing(self.id);
        self.shared.closing.ask(deadline);
        self.shared.admission.close();
    }

    fn close(&self, timeout: Duration) -> CloseReport {
        let began = Instant::now();
        let deadline = later(began, timeout);
        self.begin_close(deadline);
        let closing = &self.shared.closing;
        if let Some(report) = closing.wait(deadline) {
            self.watch.end();
            return report;
        }
        // A write may run on for ever. Those behind it are told now that they were not started.
        self.shared.admission.discard();
        closing
            .wait(later(deadline, LAST_WORDS))
            .unwrap_or_else(|| CloseReport {
                finished: self.telemetry.counters.finished_closing.get(),
                never_started: self.shared.admission.discarded(),
                wal_truncated: false,
                wal_kept_because: Some(
                    "a write or the last checkpoint is still running; the file is closed when it ends".into(),
                ),
                took: began.elapsed(),
            })
    }
}

/// The last clone has gone.
impl Drop for Inner {
    fn drop(&mut self) {
        if self.shared.admission.is_left() {
            // The folder and the connections are the parent's.
            mem::forget((self._folder.take(), Arc::clone(&self.shared), Arc::clone(&self.readers)));
            return;
        }
        // The thread would wait for itself, or others for it. The writer closes the file once the closure has ended. (A
        // read on its caller's thread borrows the store, so the last clone is never dropped inside one.)
        if self.shared.admission.is_worker() || self.readers.is_reader_thread() || timer::is_here() {
            return self.begin_close(later(Instant::now(), self.options.close_timeout));
        }
        // Whoever has closed the store by hand has waited for as long as they wanted to.
        let closed_by_hand = self.shared.closing.deadline().is_some();
        let timeout = if closed_by_hand {
            Duration::ZERO
        } else {
            self.options.close_timeout
        };
        let report = self.close(timeout);
        // The writer has done it, unless it is stuck or, by a bug of larder's, dead.
        self.readers.close_queue();
        if !closed_by_hand && !report.wal_truncated {
            event!(warn, "larder::close", self.shared.path, { %report }, "the last clone was dropped");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.shared.path)
            .finish_non_exhaustive()
    }
}
