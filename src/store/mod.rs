//! [`Store`]: the table of contents of the API. Each method is a line or two to the part that does it.

#[cfg(feature = "async")]
mod futures;
mod open;
mod options;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::options::Options;
use crate::backup::{Backup, BackupSchedule};
use crate::connection::filesystem;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::maintenance::check::Check;
use crate::maintenance::vacuum::Vacuum;
use crate::migrate::{self, DryRun, MigrationReport, MigrationStatus, Migrations};
use crate::monitor::advice::{self, Finding, Known};
use crate::options::{ReadOptions, WriteOptions};
use crate::queue::pending::Pending;
use crate::queue::slot::Caller;
use crate::telemetry::stats::Stats;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::closing::CloseReport;

/// How long advice waits for a reader.
const ADVICE_PATIENCE: Duration = Duration::from_secs(1);

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
    engine: Engine,
    /// The set of [`Options::migrations`].
    migrations: Option<Migrations>,
}

impl Store {
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
    /// As [`write`](Self::write), [`Interrupted`](Error::Interrupted) past [`WriteOptions::execution_timeout`], and
    /// [`QueueFull`](Error::QueueFull) if the queue is full and the call may not wait ([`WriteOptions::when_full`]).
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
        self.engine().enqueue_write("write", options, Caller::Thread, f)?.wait()
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

    /// As [`submit`](Self::submit), with a durability, time-outs or a label of its own. It does not block at all with
    /// [`WhenFull::Fail`](crate::WhenFull::Fail).
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), and [`QueueFull`](Error::QueueFull) at once if the queue is full and the call may not
    /// wait ([`WriteOptions::when_full`]).
    #[track_caller]
    pub fn submit_with<T, F>(&self, options: WriteOptions, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let pending = self.engine().enqueue_write("submit", options, Caller::Submitter, f)?;
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
    /// What `f` gave; [`ReadQueueTimeout`](Error::ReadQueueTimeout) if no connection came free in time;
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
    /// As [`read`](Self::read), [`Interrupted`](Error::Interrupted) past [`ReadOptions::execution_timeout`], and
    /// [`QueueFull`](Error::QueueFull) if every connection is in use and the call may not wait
    /// ([`ReadOptions::when_full`]).
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    #[track_caller]
    pub fn read_with<T>(&self, options: ReadOptions, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.engine().read(options, f)
    }

    /// What was applied of the [`Options::migrations`](crate::Options::migrations), and what is pending.
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
        migrate::to_newest(self.engine(), self.migration_set()?)
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
        migrate::to_version(self.engine(), self.migration_set()?, version)
    }

    /// Applies every pending migration to a copy, and throws that away.
    ///
    /// # Errors
    ///
    /// What [`migrate`](Self::migrate) would fail with.
    pub fn migrate_dry_run(&self, on: DryRun) -> Result<MigrationReport> {
        migrate::dry_run(self.engine(), self.migration_set()?, on)
    }

    /// A look at the whole database for damage, and for foreign keys that point nowhere, while everybody reads and
    /// writes on. Nothing is done before [`Check::run`].
    pub fn check(&self) -> Check<'_> {
        Check::new(self.engine())
    }

    /// The database written anew without its free pages, which gives their space back; nobody writes meanwhile. Nothing
    /// is done before [`Vacuum::run`].
    pub fn vacuum(&self) -> Vacuum<'_> {
        Vacuum::new(self.engine())
    }

    /// A copy of the database in a file of its own, made while everybody reads and writes on, and looked at before it gets
    /// that name. Nothing is done before [`Backup::run`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self.engine(), to.as_ref(), false)
    }

    /// As [`backup`](Self::backup), but without free pages and with each table's pages together, by `VACUUM INTO`: a file
    /// that is smaller, and takes longer to make. The `rowid` of a table that has no `INTEGER PRIMARY KEY` may change.
    ///
    /// Pages are copied as ever, and the copy is made compact: so the write-ahead log is pinned no longer, and what is in
    /// the file can be compared with the snapshot. It takes two times the space until it is done.
    pub fn backup_compact(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self.engine(), to.as_ref(), true)
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
        BackupSchedule::start(self.engine(), interval, keep, folder.as_ref())
    }

    /// The database file, as an absolute path.
    pub fn path(&self) -> &Path {
        self.engine().path()
    }

    /// What the store does, and has done since it was opened. Stops nobody.
    pub fn stats(&self) -> Stats {
        self.engine().watch.stats()
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
        let options = ReadOptions::new()
            .label("larder: advice")
            .queue_timeout(ADVICE_PATIENCE);
        let shared = &self.engine().shared;
        advice::of(Known {
            schema: self.read_with(options, advice::of_schema),
            stats: &self.stats(),
            recent_writes: self.engine().watch.recent_writes(),
            changed: self.engine().telemetry.counters.changed_pragmas(),
            poisoned: shared.poison(),
            filesystem: filesystem::unsafe_filesystem(&shared.path),
        })
    }

    /// [`Error::Poisoned`] if the disk has failed the store, so that it takes no more writes: for a health check, since
    /// reads go on.
    pub fn poisoned(&self) -> Option<Error> {
        self.engine().shared.poison()
    }

    /// Closes the store for all its clones, within [`Options::close_timeout`](crate::Options::close_timeout): takes no further writes, finishes
    /// those that are queued, waits for reads, runs `PRAGMA optimize`, empties the write-ahead log.
    ///
    /// A second call gives the same report, or waits anew if the first gave up.
    ///
    /// # Errors
    ///
    /// [`Reentrant`](Error::Reentrant) inside a closure of this store.
    pub fn close(&self) -> Result<CloseReport> {
        self.close_within(self.engine().options.close_timeout)
    }

    /// As [`close`](Self::close), but gives up what is not done by then, and says what that was. Writes that were
    /// not started are told [`Closed`](Error::Closed); a write or a read that runs on is not interrupted, and the
    /// file is closed when it ends.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_within(&self, timeout: Duration) -> Result<CloseReport> {
        self.engine().may_close()?;
        Ok(self.engine().close(timeout))
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    fn migration_set(&self) -> Result<&Migrations> {
        self.inner.migrations.as_ref().ok_or_else(|| Error::Options {
            option: "migrations",
            problem: "the store was opened without them: give them to Options::migrations".into(),
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engine().fmt(f)
    }
}
