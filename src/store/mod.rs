//! [`Store`]: the handle that users hold. Each method is a line or two that calls the room which does the work.

// Rustdoc lists the impl blocks of `Options` and of `Store` in this order.
mod options;

mod open;

mod blocking;

mod labelled;

mod own_errors;

mod template;

#[cfg(feature = "replicate")]
mod replication;

#[cfg(feature = "async")]
mod futures;

#[cfg(feature = "async")]
mod streams;

#[cfg(feature = "replicate")]
mod follower;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::options::Options;
#[cfg(feature = "async")]
pub use self::streams::RowStream;
pub use self::template::Template;
use crate::backup::{Backup, BackupSchedule, RestoreOptions, RestoreReport};
use crate::bulk::Bulk;
use crate::bulk::retention::{RetainOptions, RetainRule, Retainer, Retention};
use crate::connection::filesystem;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::maintenance::check::Check;
use crate::maintenance::vacuum::Vacuum;
use crate::migrate::{self, DryRun, MigrationReport, MigrationStatus, Migrations};
use crate::monitor::advice::{self, Finding, Known};
#[cfg(feature = "replicate")]
use crate::replica::Replication;
use crate::telemetry::stats::Stats;

/// How long [`Store::advice`] waits for a connection.
const ADVICE_PATIENCE: Duration = Duration::from_secs(1);

/// One open SQLite database: a writer thread with group commit, and a pool of read-only connections.
///
/// A `Store` is a handle. Clone it and pass the clones around. Dropping the last clone closes the store, as
/// [`close`](Self::close) does.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use larder::{Store, rusqlite::params};
///
/// let store = Store::open(&path)?;
/// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
/// store.write(move |tx| tx.execute_batch(users))?;
///
/// let id = store.write(|tx| {
///     tx.insert("INSERT INTO users(name) VALUES (?1)", params!["Ada"])
/// })?;
/// let name: String = store.read(|tx| {
///     tx.query_row("SELECT name FROM users WHERE id = ?1", [id], |row| row.get(0))
/// })?;
/// assert_eq!(name, "Ada");
///
/// let report = store.close()?;
/// assert!(report.wal_truncated);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// That of calls whose options have none.
    label: Option<Cow<'static, str>>,
}

struct Inner {
    engine: Engine,
    /// The set of [`Options::migrations`].
    migrations: Option<Migrations>,
    /// The running retentions.
    retainer: Arc<Retainer>,
    #[cfg(feature = "replicate")]
    replication: Option<Arc<Replication>>,
}

/// # Migrations
impl Store {
    /// Lists the applied and the pending migrations of [`Options::migrations`].
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT";
    /// let set = Migrations::new([Migration::new(1, "users", users)]).at_open(false);
    /// let status = Options::new().migrations(set).open_temp()?.migrations()?;
    /// assert_eq!((status.applied.len(), status.pending.len()), (0, 1));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Options`] if the store was opened without migrations, and the errors of [`read`](Self::read).
    pub fn migrations(&self) -> Result<MigrationStatus> {
        let set = self.migration_set()?;
        self.read(|tx| migrate::status(tx, set))
    }

    /// Applies every pending migration, each in a transaction of its own. Other writes may run between them.
    ///
    /// Opening the store does this too, unless [`Migrations::at_open`] is `false`.
    ///
    /// ```
    /// # use larder::{Migration, Migrations, Options};
    /// # let users = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT";
    /// # let set = Migrations::new([Migration::new(1, "users", users)]);
    /// let store = Options::new().migrations(set.at_open(false)).open_temp()?;
    /// let report = store.migrate()?;
    /// println!("{report}");
    /// assert_eq!(report.steps.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Migration`]: a migration failed.
    /// - [`Error::Options`]: the store was opened without migrations.
    /// - The errors of [`write`](Self::write), for the migration that failed or for the search for the next one.
    ///
    /// In each case the migrations before it are applied, and [`migrations`](Self::migrations) lists them.
    pub fn migrate(&self) -> Result<MigrationReport> {
        migrate::to_newest(self.engine(), self.migration_set()?)
    }

    /// Migrates to a version, up or down; 0 undoes every migration. The newest migration is undone first.
    ///
    /// The next opening applies the undone migrations again, unless an older program opens the file.
    ///
    /// ```
    /// # use larder::{Migration, Migrations, Options};
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT";
    /// let set = Migrations::new([
    ///     Migration::new(1, "users", users).down("DROP TABLE users"),
    ///     Migration::new(2, "name", "ALTER TABLE users ADD COLUMN name TEXT").down("ALTER TABLE users DROP COLUMN name"),
    /// ]);
    /// let store = Options::new().migrations(set).open_temp()?;
    /// store.migrate_to(1)?; // undoes version 2
    /// assert_eq!(store.migrations()?.pending[0].version, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`migrate`](Self::migrate), and [`MigrationError::NoDown`](crate::MigrationError::NoDown) for a
    /// migration that has no `down`.
    pub fn migrate_to(&self, version: u64) -> Result<MigrationReport> {
        migrate::to_version(self.engine(), self.migration_set()?, version)
    }

    /// Applies the pending migrations up to a version. Unlike [`migrate_to`](Self::migrate_to) it undoes none, also if
    /// another process migrates at the same time: for a tool into which people type versions.
    ///
    /// # Errors
    ///
    /// The errors of [`migrate`](Self::migrate), and
    /// [`MigrationError::OtherDirection`](crate::MigrationError::OtherDirection) if a later version is applied.
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let migrations = Migrations::new([
    ///     Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE users"),
    ///     Migration::new(2, "email", "ALTER TABLE users ADD COLUMN email TEXT"),
    /// ]);
    /// let store = Options::new().migrations(migrations.at_open(false)).open_temp()?;
    /// assert_eq!(store.migrate_up_to(1)?.steps.len(), 1);
    /// assert!(store.migrate_down_to(2).is_err());
    /// assert_eq!(store.migrate_down_to(0)?.steps.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn migrate_up_to(&self, version: u64) -> Result<MigrationReport> {
        migrate::up_to(self.engine(), self.migration_set()?, version)
    }

    /// Undoes the migrations above a version, the newest first; 0 undoes all. Unlike [`migrate_to`](Self::migrate_to) it
    /// applies none.
    ///
    /// ```
    /// # use larder::{Migration, Migrations, Options};
    /// # let users = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT";
    /// let set = Migrations::new([Migration::new(1, "users", users).down("DROP TABLE users")]);
    /// let store = Options::new().migrations(set).open_temp()?;
    /// assert_eq!(store.migrate_down_to(0)?.steps.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`migrate_to`](Self::migrate_to), and
    /// [`MigrationError::OtherDirection`](crate::MigrationError::OtherDirection) if the newest applied version is lower.
    pub fn migrate_down_to(&self, version: u64) -> Result<MigrationReport> {
        migrate::down_to(self.engine(), self.migration_set()?, version)
    }

    /// Applies every pending migration to a copy, which is then deleted.
    ///
    /// ```
    /// use larder::{DryRun, Migration, Migrations, Options};
    ///
    /// let set = Migrations::new([Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT")]);
    /// let store = Options::new().migrations(set.at_open(false)).open_temp()?;
    /// let report = store.migrate_dry_run(DryRun::Backup)?; // on a copy with all rows
    /// assert_eq!(report.steps.len(), 1);
    /// assert_eq!(store.migrations()?.pending.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors that [`migrate`](Self::migrate) would return.
    pub fn migrate_dry_run(&self, on: DryRun) -> Result<MigrationReport> {
        migrate::dry_run(self.engine(), self.migration_set()?, on)
    }
}

/// # Bulk work
impl Store {
    /// Inserts, deletes, updates or merges many rows in slices, which delay no other write for long. Nothing happens
    /// before [`BulkJob::run`](crate::BulkJob::run).
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    /// let rows = (1..=1000).map(|id| (id, format!("user {id}")));
    /// let report = store.bulk().insert("INSERT INTO users VALUES (?1, ?2)", rows).run()?;
    /// assert_eq!(report.rows, 1000);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn bulk(&self) -> Bulk {
        Bulk::new(self.engine())
    }

    /// Deletes the rows of `table` whose `column` is older than `keep`, until the returned [`Retention`] is dropped or the
    /// store closes. A look for old rows reads an index; deletions are slices in idle moments, or a small part of the
    /// writer's time beside writes that do not pause. See [`Options::retain`] for one that starts with the store.
    ///
    /// The column has the times of the rows, in UTC and all in one form:
    ///
    /// - integers: seconds since 1970, or milliseconds with [`RetainOptions::milliseconds`];
    /// - texts: ISO 8601, such as `2026-04-01T12:00:00Z`, or `2026-04-01 12:00:00` as SQLite's `CURRENT_TIMESTAMP` gives
    ///   it, with parts of seconds or without, or `2026-04-01`. Rows of the second, or the day, in which they become too
    ///   old stay until it is over.
    ///
    /// A row whose column is `NULL` stays. A time of another form is an error, and while one is found no row is deleted.
    /// Rows go some time after they have become too old: the table is looked at every minute, and more often if `keep` is
    /// less than ten minutes. The clock of this machine says what is old, but it is not followed at once if it has jumped
    /// ahead: see [`RetainOptions::clock_hold`]. Rows that a foreign key or a trigger keeps stay, and the retention reports
    /// that.
    ///
    /// The column must be the first one of an index, or the `INTEGER PRIMARY KEY`. Free pages are returned to the file
    /// system when the store is idle, if it does so ([`Options::incremental_vacuum`]). [`Stats::retention`] has what was
    /// deleted. A sweep that fails emits an event (`larder::retention`), raises the alert `retention_failed`, and is tried
    /// again.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let store = larder::Store::open_temp()?;
    /// store.write(|tx| {
    ///     tx.execute_batch(
    ///         "CREATE TABLE logs(at INTEGER NOT NULL DEFAULT (unixepoch()), line TEXT NOT NULL) STRICT;
    ///          CREATE INDEX logs_by_at ON logs(at)",
    ///     )
    /// })?;
    /// let retention = store.retain("logs", "at", Duration::from_secs(30 * 86_400))?;
    /// // ... the service runs ...
    /// drop(retention); // or close the store
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Options`]: there is no such table or column; the column has no index, and the error has the `CREATE
    ///   INDEX` to run; a time has another form, or all times are far too old ([`RetainOptions::stale`]); the table is
    ///   a view, virtual or `WITHOUT ROWID`; `keep` is less than a second; the column has a retention already.
    /// - [`Error::ReadOnly`], [`Error::Closed`], and the errors of [`read`](Self::read).
    #[track_caller]
    pub fn retain(&self, table: &str, column: &str, keep: Duration) -> Result<Retention> {
        self.retain_with(RetainOptions::new(), table, column, keep)
    }

    /// As [`retain`](Self::retain), with options.
    ///
    /// # Errors
    ///
    /// As [`retain`](Self::retain).
    #[track_caller]
    pub fn retain_with(&self, options: RetainOptions, table: &str, column: &str, keep: Duration) -> Result<Retention> {
        let rule = RetainRule::new(table, column, keep, options);
        Retention::start(self.engine(), &self.inner.retainer, rule)
    }

    /// Says that the clock of the machine is right, after it has jumped: the running retentions follow it at once, and
    /// delete what is old by it. Without this call they follow it after [`RetainOptions::clock_hold`]. See the alert
    /// `retention_clock` and [`RetentionStats::clock_ahead`](crate::RetentionStats::clock_ahead).
    ///
    /// It returns before the next sweep. It has no effect on retentions that begin later.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// // The machine was off for two months, and an operator has looked at its clock.
    /// store.trust_clock();
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn trust_clock(&self) {
        self.inner.retainer.trust_clock(&self.engine().readers);
    }
}

/// # Checks, vacuum and backups
impl Store {
    /// Checks the whole database for corruption and for foreign keys without a parent row, while reads and writes go
    /// on. Nothing happens before [`Check::run`].
    pub fn check(&self) -> Check<'_> {
        Check::new(self.engine())
    }

    /// Rebuilds the database without its free pages, which returns their space to the file system. Writes wait
    /// meanwhile. Nothing happens before [`Vacuum::run`].
    ///
    /// Look at [`advice`](Self::advice) first: after a vacuum, a full-text table that knows rows by an implicit `rowid`
    /// finds other rows, until it is rebuilt.
    pub fn vacuum(&self) -> Vacuum<'_> {
        Vacuum::new(self.engine())
    }

    /// Copies the database to a file while reads and writes go on, and verifies the copy before it gets its name.
    /// Nothing happens before [`Backup::run`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self.engine(), to.as_ref(), false)
    }

    /// As [`backup`](Self::backup), but compacts the copy with `VACUUM INTO`: the file has no free pages and keeps the
    /// pages of each table together. It is smaller and takes longer to make. The `rowid` of a table without an `INTEGER
    /// PRIMARY KEY` may change.
    ///
    /// The pages are copied first, and the copy is compacted then. So the WAL is pinned no longer than by `backup`, and
    /// the compact file can be compared with the snapshot. Until it is done, it takes twice the disk space.
    pub fn backup_compact(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self.engine(), to.as_ref(), true)
    }

    /// Makes a [`backup`](Self::backup) into `folder` every `interval`, and keeps the newest `keep` backups. The
    /// schedule runs until the returned [`BackupSchedule`] is dropped or the store is closed. The folder must exist.
    ///
    /// The backups of `app.db` are named `app.db.20260401T120000Z` and so on, in UTC, or `app.db-5f0c1e2a.TIME` if the
    /// folder has those of another `app.db`. The number is in a file `app.db-series` beside the database. The first
    /// backup is made at once, unless the folder has one that is younger than `interval`. If the machine was suspended,
    /// one backup is made and not those that were missed. Processes with the same schedule of one database make one
    /// backup each interval. A backup whose time is after now is neither counted nor removed, and
    /// [`advice`](Self::advice) names it.
    ///
    /// A backup that fails deletes none of the older ones, and is retried at the next interval. Until a backup
    /// succeeds, the alert [`AlertKind::BackupFailed`](crate::AlertKind::BackupFailed) is active, with the folder and
    /// the reason.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let backups = folder.path();
    /// use std::time::Duration;
    ///
    /// # let store = larder::Store::open_temp()?;
    /// // Seven days of backups.
    /// let schedule = store.backup_every(Duration::from_secs(6 * 3600), 28, backups)?;
    /// // ... the service runs ...
    /// drop(schedule); // or close the store
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Backup`]: the folder does not exist, or another schedule of this store makes backups into it.
    /// - [`Error::Options`]: `interval` is less than a second, or `keep` is zero.
    /// - [`Error::Closed`].
    #[track_caller]
    pub fn backup_every(&self, interval: Duration, keep: usize, folder: impl AsRef<Path>) -> Result<BackupSchedule> {
        BackupSchedule::start(self.engine(), interval, keep, folder.as_ref())
    }

    /// Creates a database at `to` from the backup at `from`. Open it like any other database.
    ///
    /// The backup is verified before its pages are copied, and the new database after that, as [`Backup`] verifies a
    /// copy: what is wrong with the data of sound pages is in the report. The database has mode `0600`.
    ///
    /// Any SQLite database can be the backup, even one that is in use, or one with a `-wal` on a file system that is
    /// mounted read-only. Restoring never changes it. Where SQLite would have to write beside it, larder copies its files
    /// to the folder of `to` first, which needs the space twice.
    ///
    /// There must be no file at `to`, and no `-wal`, `-shm` or `-journal` file beside it. To restore in place of a
    /// database, first move that database and its `-wal` away; they may still be needed.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (backup, path) = (folder.path().join("backup"), folder.path().join("app.db"));
    /// use larder::Store;
    /// # Store::open_temp()?.backup(&backup).run()?;
    ///
    /// let report = Store::restore(&backup, &path)?;
    /// println!("{report}");
    /// let store = Store::open(&path)?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Restore`]: the backup is damaged, or something is in the way at `to`. Nothing was created there.
    /// - [`Error::AlreadyOpen`]: this process has `to` open.
    pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RestoreReport> {
        Options::new().restore(from, to)
    }

    /// As [`restore`](Self::restore), with options for this call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (backup, path) = (folder.path().join("backup"), folder.path().join("app.db"));
    /// use larder::{RestoreOptions, Store};
    /// # Store::open_temp()?.backup(&backup).run()?;
    ///
    /// // The only backup that is left, damaged or not.
    /// let options = RestoreOptions::new().verify(false);
    /// let report = Store::restore_with(options, &backup, &path)?;
    /// println!("{report}"); // .. not verified; full check of 3 tables: 2 problems, ..
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub fn restore_with(
        options: RestoreOptions,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<RestoreReport> {
        Options::new().restore_with(options, from, to)
    }
}

/// # Monitoring
impl Store {
    /// The absolute path of the database file.
    pub fn path(&self) -> &Path {
        self.engine().path()
    }

    /// What the store is doing now, and what it has done since it was opened. The call blocks neither reads nor writes.
    pub fn stats(&self) -> Stats {
        self.engine().watch.stats()
    }

    /// Findings about the store, worst first: what is wrong now, what its schema lacks, and whether it is time for a
    /// database server. Each has a remedy. The call reads the schema in a read of its own, and no rows of any table.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// store.write(|tx| {
    ///     tx.execute_batch(
    ///         "CREATE TABLE a(id INTEGER PRIMARY KEY);
    ///          CREATE TABLE b(a REFERENCES a)",
    ///     )
    /// })?;
    /// for finding in store.advice() {
    ///     println!("{finding}");
    /// }
    /// # assert!(store.advice().iter().any(|finding| finding.topic == "foreign_key_without_index"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn advice(&self) -> Vec<Finding> {
        let engine = self.engine();
        let shared = &self.engine().shared;
        advice::of(Known {
            schema: engine.read_internal("larder: advice", ADVICE_PATIENCE, advice::of_schema),
            stats: &self.stats(),
            recent_writes: engine.watch.recent_writes(),
            external_commits: engine.telemetry.counters.external_commits.last_hour(Instant::now()),
            checkpoints: engine.options.checkpoints,
            changed: engine.telemetry.counters.changed_pragmas(),
            poisoned: shared.poison(),
            filesystem: filesystem::unsafe_filesystem(&shared.path),
            later_backups: self.engine().telemetry.backups.later(),
            replica: engine.telemetry.replica.sample(),
        })
    }

    /// The error that poisoned the store ([`Error::Poisoned`]), or `None` while the store accepts writes. For a health
    /// check: a poisoned store still serves reads.
    pub fn poisoned(&self) -> Option<Error> {
        self.engine().shared.poison()
    }
}

impl Store {
    pub(crate) fn engine(&self) -> &Engine {
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
