//! [`Options`]: how to open a store, as its setters say it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

#[cfg(doc)]
use crate::Store;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::migrate::Migrations;
use crate::options::{Access, AutoVacuum, Durability, OnConnect, Role, Settings};
#[cfg(doc)]
use crate::options::{ReadOptions, WriteOptions};

/// How to open a [`Store`]. Every default is right for production.
///
/// Setters take and give `self`, so they chain. Values are checked when the store is opened, and a wrong
/// one is an [`Error::Options`], never a panic. With the feature `serde`, options can be read from a file:
/// sizes as `"64 MiB"`, durations as `"250ms"`, unknown keys refused.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use std::time::Duration;
/// use larder::{Durability, Options};
///
/// let store = Options::new()
///     .readers(8)
///     .durability(Durability::Full)
///     .queue_timeout(Duration::from_secs(2))
///     .open(&path)?;
/// # store.close()?;
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Settings", into = "Settings"))]
pub struct Options {
    pub(crate) settings: Settings,
    /// Not among the settings: what is below the migrations knows none.
    pub(crate) migrations: Option<Migrations>,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who may open the file meanwhile. The default is [`Access::Shared`], so that `sqlite3` or Litestream may
    /// look at it while the service runs.
    pub fn access(mut self, access: Access) -> Self {
        self.settings.access = access;
        self
    }

    /// What an acknowledgement means for writes that do not say otherwise. The default is
    /// [`Durability::Normal`]. PRAGMA: `synchronous`.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Read-only connections in the pool, opened as they are needed. The default is the number of cores, at
    /// least 4 and at most 8: more only take turns on the same cores, and each may fill a cache of its own.
    /// From 1 to 1024.
    pub fn readers(mut self, readers: u32) -> Self {
        self.settings.readers = readers;
        self
    }

    /// Writes that may be queued for the writer thread. The default is 4096 jobs: enough to fill a few groups;
    /// a longer queue only adds waiting. Past it a write waits for room, first come, first served, unless
    /// [`WriteOptions::when_full`] says otherwise. From 1 to 1,000,000.
    ///
    /// As many reads may be queued that tasks wait for (feature `async`).
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.settings.queue_capacity = jobs;
        self
    }

    /// Writes that may share one transaction. The default is 1024 jobs, by which the cost of the commit has
    /// all but vanished. From 1 to 1,000,000; 1 turns group commit off.
    pub fn max_group_size(mut self, jobs: usize) -> Self {
        self.settings.max_group_size = jobs;
        self
    }

    /// How long a group goes on taking in queued writes before it commits. The default is 10 ms, so that
    /// the first of a group does not wait long for the last. A single write may take longer.
    pub fn max_group_time(mut self, time: Duration) -> Self {
        self.settings.max_group_time = time;
        self
    }

    /// How long a write may wait to be started, unless [`WriteOptions::queue_timeout`] says otherwise. The default is
    /// 30 s. Past it the write is never started: [`Error::QueueTimeout`].
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// How long a read may wait for a connection, in a task also for a reader thread, unless
    /// [`ReadOptions::queue_timeout`] says otherwise. The default is 5 s. Past it: [`Error::ReadQueueTimeout`].
    pub fn read_queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_queue_timeout = timeout;
        self
    }

    /// How long [`Store::close`](crate::Store::close) and the drop of the last clone may take to drain. The
    /// default is 30 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.settings.close_timeout = timeout;
        self
    }

    /// How long SQLite waits for a lock of *another process*; inside the process there is none to wait for.
    /// The default is 5 s. In whole milliseconds, at most 24 days. PRAGMA: `busy_timeout`.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }

    /// How long a caller stays awake for its reply before it sleeps, as long as writes follow one upon the other and
    /// take no longer than that; with 64 callers twice as long. It yields its core to whoever has something to do, and
    /// sleeps at once where others keep the machine busy. The writer stays awake for a tenth of it. The default is
    /// 500 us: a thread takes 10 to 50 us to wake up, longer than most commits. Zero turns it off, for the least
    /// processor time; at most 1 ms.
    pub fn spin_time(mut self, time: Duration) -> Self {
        self.settings.spin_time = time;
        self
    }

    /// A write whose closure runs for at least this long is reported as an event, with the text of its slowest
    /// statement if that has parameters. The default is 100 ms. Statements are timed by a clock that ticks about
    /// every 4 ms.
    pub fn slow_write_threshold(mut self, threshold: Duration) -> Self {
        self.settings.slow_write_threshold = threshold;
        self
    }

    /// A read that lasts at least this long is reported as an event, with the text of its slowest statement if that
    /// has parameters. The default is 100 ms. Statements are timed by a clock that ticks about every 4 ms.
    pub fn slow_read_threshold(mut self, threshold: Duration) -> Self {
        self.settings.slow_read_threshold = threshold;
        self
    }

    /// Events about slow writes in a second, and as many about slow reads; the next one tells how many were left out. The
    /// default is 10: on a bad day everything is slow, and a log that floods helps nobody. Zero is none;
    /// [`Stats`](crate::Stats) counts all.
    pub fn slow_events_per_second(mut self, events: u32) -> Self {
        self.settings.slow_events_per_second = events;
        self
    }

    /// How long one read may keep its snapshot before an alert names it as the one that keeps the write-ahead log from
    /// being emptied. The default is 60 s.
    pub fn max_reader_age(mut self, age: Duration) -> Self {
        self.settings.max_reader_age = age;
        self
    }

    /// Whether a read older than [`max_reader_age`](Self::max_reader_age) is stopped with [`Error::Interrupted`]: in the
    /// middle of a statement, where the next one begins, or when its closure has ended, as by
    /// [`ReadOptions::execution_timeout`]. The default is `false`: a long report is better than half a report.
    pub fn interrupt_old_readers(mut self, interrupt: bool) -> Self {
        self.settings.interrupt_old_readers = interrupt;
        self
    }

    /// Call sites that [`Stats::call_sites`](crate::Stats::call_sites) counts, of reads and of writes; what comes after them is
    /// counted as `other`. The default is 256, more than most services have. Each takes up to 4 KiB for each connection.
    /// Zero counts none, for the 1 % of a read of one row that it costs. At most 10,000.
    pub fn max_call_sites(mut self, sites: usize) -> Self {
        self.settings.max_call_sites = sites;
        self
    }

    /// Statements that [`Stats::statements`](crate::Stats::statements) counts; what comes after them is counted as
    /// `other`. The default is 0, none: it costs 1 or 2 % of a read of one row, and keeps their text, with what is written
    /// into it. Each takes up to 4 KiB for each connection. At most 10,000.
    pub fn max_statements(mut self, statements: usize) -> Self {
        self.settings.max_statements = statements;
        self
    }

    /// How often the store looks whether something is wrong, to say so in an event and in
    /// [`Stats::alerts`](crate::Stats::alerts). The default is 1 s; one look takes some 50 us (more with the feature
    /// `metrics`), on a thread that all stores of the process share, unless it blocks. Zero turns it off; otherwise from 1 ms to a day.
    pub fn monitor_interval(mut self, interval: Duration) -> Self {
        self.settings.monitor_interval = interval;
        self
    }

    /// Whether the writer uses idle moments to give free pages back to the file system, once more than a tenth of all
    /// pages and more than 1000 are free: at most 1000 pages at a time, in a transaction of its own. Only for files with
    /// [`AutoVacuum::Incremental`]. The default is `true`.
    pub fn incremental_vacuum(mut self, enable: bool) -> Self {
        self.settings.incremental_vacuum = enable;
        self
    }

    /// How often the writer runs `PRAGMA optimize`, which gathers the statistics that queries are planned by where they
    /// have become too old. The default is 24 h, as SQLite's manual advises for long-lived connections
    /// (<https://sqlite.org/pragma.html#pragma_optimize>): at the first idle moment after that, or an hour later between
    /// two writes (or so long later, if that is shorter). It is run as a store closes, too. At least 1 ms.
    pub fn optimize_interval(mut self, interval: Duration) -> Self {
        self.settings.optimize_interval = interval;
        self
    }

    /// Bytes in a page of a new file. The default is 4096, the block of most file systems. A power of two
    /// from 512 to 65536; an existing file keeps its own. PRAGMA: `page_size`.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.settings.page_size = bytes;
        self
    }

    /// Whether a new file can give space back. The default is [`AutoVacuum::Incremental`]: it costs one
    /// page in a thousand, and cannot be turned on later without a full `VACUUM`. PRAGMA: `auto_vacuum`.
    pub fn auto_vacuum(mut self, mode: AutoVacuum) -> Self {
        self.settings.auto_vacuum = mode;
        self
    }

    /// Bytes of page cache that *each* connection may fill. The default is 64,000 KiB. Whole KiB. PRAGMA:
    /// `cache_size`.
    pub fn cache_size(mut self, bytes: u64) -> Self {
        self.settings.cache_size = bytes;
        self
    }

    /// Bytes of the file that are read through a memory map instead of system calls. The default is 256 MiB;
    /// the map is shared with the operating system's page cache. Zero turns it off; do that where the disk may
    /// fail under a running service, since an I/O error on mapped memory is a SIGBUS. PRAGMA: `mmap_size`.
    pub fn mmap_size(mut self, bytes: u64) -> Self {
        self.settings.mmap_size = bytes;
        self
    }

    /// Prepared statements that each connection keeps. The default is 128; a service that has more distinct
    /// statements than that prepares them again and again. From 16 to 10,000.
    pub fn statement_cache_capacity(mut self, statements: usize) -> Self {
        self.settings.statement_cache_capacity = statements;
        self
    }

    /// Whether foreign keys are enforced. The default is `true`, which is not SQLite's own. PRAGMA:
    /// `foreign_keys`.
    pub fn foreign_keys(mut self, enforce: bool) -> Self {
        self.settings.foreign_keys = enforce;
        self
    }

    /// Pages in the write-ahead log at which the writer moves them to the database file, after it has replied. The
    /// default is 1000 pages, as SQLite's own; never more than a quarter of [`wal_limit`](Self::wal_limit). At least 1.
    /// PRAGMA: `wal_autocheckpoint` is 0, since the writer does it.
    pub fn checkpoint_pages(mut self, pages: u32) -> Self {
        self.settings.checkpoint_pages = pages;
        self
    }

    /// Bytes in the write-ahead log above which the writer waits, for at most 20 ms at a time, until readers
    /// let it start the log anew. The default is 64 MiB.
    pub fn wal_limit(mut self, bytes: u64) -> Self {
        self.settings.wal_limit = bytes;
        self
    }

    /// Bytes in the write-ahead log above which writes fail with [`Error::WalFull`]. The default is none: a full
    /// disk is the limit. Not below [`wal_limit`](Self::wal_limit).
    pub fn wal_hard_limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.settings.wal_hard_limit = bytes.into();
        self
    }

    /// Bytes to which the log file is cut when the log starts anew. The default is 64 MiB. PRAGMA:
    /// `journal_size_limit`.
    pub fn journal_size_limit(mut self, bytes: u64) -> Self {
        self.settings.journal_size_limit = bytes;
        self
    }

    /// Opens the file even on a file system that larder knows to be unsafe for a WAL: a network or pass-through one.
    /// The default is `false`. Linux only; elsewhere larder does not look.
    pub fn allow_unsupported_filesystem(mut self, allow: bool) -> Self {
        self.settings.allow_unsupported_filesystem = allow;
        self
    }

    /// Whether to open a file that has several names (hard links), or that is mounted by itself, without its folder, as a
    /// container's volume of one file is. The default is no: SQLite keeps the write-ahead log beside the name by which the
    /// file was opened, so processes that open one file by different names use different logs, and damage it
    /// (<https://sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file>). Say yes only if every process opens it
    /// by the same name in the same folder.
    pub fn allow_linked_file(mut self, allow: bool) -> Self {
        self.settings.allow_linked_file = allow;
        self
    }

    /// The migrations of the program, applied as the store opens. The default is none. See [`Migrations`].
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = Some(migrations);
        self
    }

    /// How long opening, and each migration, waits for another process that migrates the same file. The default is 60
    /// s: it then finds the migrations made, and goes on. Past it:
    /// [`MigrationError::Locked`](crate::MigrationError::Locked) or [`Error::InUse`], or [`Error::Pragma`] for a file
    /// that is not in WAL mode yet. In whole milliseconds, at most 24 days. Only used with
    /// [`migrations`](Self::migrations).
    pub fn migration_timeout(mut self, timeout: Duration) -> Self {
        self.settings.migration_timeout = timeout;
        self
    }

    /// Whether a migration that makes a table without `STRICT` fails
    /// ([`MigrationError::NotStrict`](crate::MigrationError::NotStrict)). The default is `false`: there is one warning.
    /// Without `STRICT` SQLite stores a string in an INTEGER column as it is, <https://sqlite.org/stricttables.html>.
    pub fn require_strict(mut self, require: bool) -> Self {
        self.settings.require_strict = require;
        self
    }

    /// Called for the writer and for every reader as it is opened, before larder's PRAGMAs and guard: for
    /// functions, collations, extensions, keys. The default is nothing.
    ///
    /// It is called again where a connection is replaced, the writer's, too: after a closure that has left it so that it
    /// cannot be made right (see `Deref` of [`ReadTx`](crate::ReadTx)). While it fails then, writes fail with its error.
    /// Temporary objects that it makes belong to every closure: closures may change their rows, and not drop them. An
    /// `update_hook` or `rollback_hook` that it sets stays.
    ///
    /// A reader is mostly opened on a thread of larder's, one at a time for each store. If that takes long, the reads of
    /// this store that need a further connection wait for it within their own time; no other store waits.
    ///
    /// A progress handler that it sets is replaced by larder's. A trace callback (rusqlite's feature `trace`) is left alone;
    /// but SQLite has one for each connection, which larder wants for limits of time. So then a limit, the age of a reader
    /// and the dropping of an async read are looked at in long statements, by larder's own methods, and at the closure's end,
    /// and not where rusqlite's methods begin a short statement.
    ///
    /// ```
    /// use larder::{Options, Role};
    ///
    /// let store = Options::new()
    ///     .on_connect(|conn, role| {
    ///         if role == Role::Writer {
    ///             conn.execute_batch("PRAGMA recursive_triggers = ON")?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .open_temp()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn on_connect(mut self, f: impl Fn(&Connection, Role) -> Result<()> + Send + Sync + 'static) -> Self {
        self.settings.on_connect = Some(OnConnect(Arc::new(f)));
        self
    }

    /// How long opening may wait for another process.
    pub(crate) fn open_timeout(&self) -> Duration {
        match self.migrations {
            Some(_) => self.settings.busy_timeout.max(self.settings.migration_timeout),
            None => self.settings.busy_timeout,
        }
    }

    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<()> {
        self.settings.validate()?;
        if let Some(migrations) = &self.migrations {
            migrations.validate()?;
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl From<Settings> for Options {
    fn from(settings: Settings) -> Self {
        Self {
            settings,
            migrations: None,
        }
    }
}

#[cfg(feature = "serde")]
impl From<Options> for Settings {
    fn from(options: Options) -> Self {
        options.settings
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("settings", &self.settings)
            .field("migrations", &self.migrations.as_ref().map(|set| set.iter().count()))
            .finish()
    }
}
