//! Every knob, with its default, its unit and its reason, and the check of their values.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::migrate::Migrations;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// How much of a commit has reached the disk when it is acknowledged.
///
/// SQLite's `PRAGMA synchronous`, see <https://sqlite.org/pragma.html#pragma_synchronous>. At either level
/// a crash of the process loses nothing that was acknowledged, and no crash corrupts the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Durability {
    /// `synchronous=NORMAL`: a power failure may lose the newest commits, in order, and nothing else.
    #[default]
    Normal,
    /// `synchronous=FULL`: an acknowledged commit has been synced to the disk.
    Full,
}

/// Who may open the file while the store has it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Access {
    /// Other processes may read and write the file too: the `sqlite3` shell, Litestream, Datasette.
    #[default]
    Shared,
    /// This process alone. SQLite's `unix-excl` VFS keeps the index of the write-ahead log on the heap and
    /// makes no lock system calls, so single-row reads and commits are about twice as fast. Others get
    /// "database is locked".
    Exclusive,
}

/// SQLite's `PRAGMA auto_vacuum`, which can only be chosen for a new file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum AutoVacuum {
    /// Free pages stay in the file and are used again.
    None,
    /// Free pages are listed, so that they can be given back a few at a time.
    #[default]
    Incremental,
    /// Free pages are given back at every commit, which moves pages about.
    Full,
}

/// Which connection [`Options::on_connect`] is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The one connection that writes.
    Writer,
    /// A read-only connection: of the pool, of a backup, or of a thread that reads for tasks and looks whether anything was
    /// committed meanwhile.
    Reader,
}

type OnConnect = dyn Fn(&Connection, Role) -> Result<()> + Send + Sync;

/// How to open a [`Store`](crate::Store). Every default is right for production.
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
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Options {
    pub(crate) access: Access,
    pub(crate) durability: Durability,
    pub(crate) readers: u32,
    pub(crate) queue: usize,
    pub(crate) group_jobs: usize,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) group_time: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) queue_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) read_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) close_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) busy_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) spin: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) slow_write: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) slow_read: Duration,
    pub(crate) slow_events: u32,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) max_reader_age: Duration,
    pub(crate) interrupt_old_readers: bool,
    pub(crate) call_sites: usize,
    pub(crate) statements: usize,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) watch: Duration,
    pub(crate) maintenance: bool,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) optimize_every: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::size"))]
    pub(crate) page_size: u64,
    pub(crate) auto_vacuum: AutoVacuum,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::size"))]
    pub(crate) cache_size: u64,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::size"))]
    pub(crate) mmap_size: u64,
    pub(crate) statement_cache: usize,
    pub(crate) foreign_keys: bool,
    pub(crate) checkpoint_pages: u32,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::size"))]
    pub(crate) wal_limit: u64,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::optional_size"))]
    pub(crate) wal_hard_limit: Option<u64>,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::size"))]
    pub(crate) journal_size_limit: u64,
    pub(crate) allow_unsupported_filesystem: bool,
    pub(crate) allow_linked_file: bool,
    #[cfg_attr(feature = "serde", serde(with = "crate::human::duration"))]
    pub(crate) migration_timeout: Duration,
    pub(crate) require_strict: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) migrations: Option<Migrations>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) on_connect: Option<Arc<OnConnect>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::default(),
            durability: Durability::default(),
            readers: cores().clamp(4, 8) as u32,
            queue: 4096,
            group_jobs: 1024,
            group_time: Duration::from_millis(10),
            queue_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(30),
            busy_timeout: Duration::from_secs(5),
            spin: Duration::from_micros(500),
            slow_write: Duration::from_millis(100),
            slow_read: Duration::from_millis(100),
            slow_events: 10,
            max_reader_age: Duration::from_secs(60),
            interrupt_old_readers: false,
            call_sites: 256,
            statements: 0,
            watch: Duration::from_secs(1),
            maintenance: true,
            optimize_every: Duration::from_secs(24 * 60 * 60),
            page_size: 4 * KIB,
            auto_vacuum: AutoVacuum::default(),
            cache_size: 64_000 * KIB,
            mmap_size: 256 * MIB,
            statement_cache: 128,
            foreign_keys: true,
            checkpoint_pages: 1000,
            wal_limit: 64 * MIB,
            wal_hard_limit: None,
            journal_size_limit: 64 * MIB,
            allow_unsupported_filesystem: false,
            allow_linked_file: false,
            migration_timeout: Duration::from_secs(60),
            require_strict: false,
            migrations: None,
            on_connect: None,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who may open the file meanwhile. The default is [`Access::Shared`], so that `sqlite3` or Litestream may
    /// look at it while the service runs.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// What an acknowledgement means for writes that do not say otherwise. The default is
    /// [`Durability::Normal`]. PRAGMA: `synchronous`.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Read-only connections in the pool, opened as they are needed. The default is the number of cores, at
    /// least 4 and at most 8: more only take turns on the same cores, and each may fill a cache of its own.
    /// From 1 to 1024.
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// Writes that may be queued for the writer thread. The default is 4096 jobs: enough to fill a few groups;
    /// a longer queue only adds waiting. Past it `write` and `submit` wait for room, first come first served, and
    /// `try_write` gives [`Error::QueueFull`]. From 1 to 1,000,000.
    ///
    /// As many reads may be queued that tasks wait for (feature `async`).
    pub fn queue(mut self, jobs: usize) -> Self {
        self.queue = jobs;
        self
    }

    /// Writes that may share one transaction. The default is 1024 jobs, by which the cost of the commit has
    /// all but vanished. From 1 to 1,000,000; 1 turns group commit off.
    pub fn group_jobs(mut self, jobs: usize) -> Self {
        self.group_jobs = jobs;
        self
    }

    /// How long a group goes on taking in queued writes before it commits. The default is 10 ms, so that
    /// the first of a group does not wait long for the last. A single write may take longer.
    pub fn group_time(mut self, time: Duration) -> Self {
        self.group_time = time;
        self
    }

    /// How long a write may wait to be started, unless [`WriteOptions::timeout`] says otherwise. The default is
    /// 30 s. Past it the write is never started: [`Error::QueueTimeout`].
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// How long a read may wait for a connection, in a task also for a reader thread, unless
    /// [`ReadOptions::timeout`] says otherwise. The default is 5 s. Past it: [`Error::ReadTimeout`].
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long [`Store::close`](crate::Store::close) and the drop of the last clone may take to drain. The
    /// default is 30 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long SQLite waits for a lock of *another process*; inside the process there is none to wait for.
    /// The default is 5 s. In whole milliseconds, at most 24 days. PRAGMA: `busy_timeout`.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// How long a caller stays awake for its reply before it sleeps, as long as writes follow one upon the other and
    /// take no longer than that; with 64 callers twice as long. It yields its core to whoever has something to do, and
    /// sleeps at once where others keep the machine busy. The writer stays awake for a tenth of it. The default is
    /// 500 us: a thread takes 10 to 50 us to wake up, longer than most commits. Zero turns it off, for the least
    /// processor time; at most 1 ms.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// A write whose closure runs for at least this long is reported as an event, with the text of its slowest
    /// statement if that has parameters. The default is 100 ms. Statements are timed by a clock that ticks about
    /// every 4 ms.
    pub fn slow_write(mut self, threshold: Duration) -> Self {
        self.slow_write = threshold;
        self
    }

    /// A read that lasts at least this long is reported as an event, with the text of its slowest statement if that
    /// has parameters. The default is 100 ms. Statements are timed by a clock that ticks about every 4 ms.
    pub fn slow_read(mut self, threshold: Duration) -> Self {
        self.slow_read = threshold;
        self
    }

    /// Events about slow writes in a second, and as many about slow reads; the next one tells how many were left out. The
    /// default is 10: on a bad day everything is slow, and a log that floods helps nobody. Zero is none;
    /// [`Stats`](crate::Stats) counts all.
    pub fn slow_events(mut self, a_second: u32) -> Self {
        self.slow_events = a_second;
        self
    }

    /// How long one read may keep its snapshot before an alert names it as the one that keeps the write-ahead log from
    /// being emptied. The default is 60 s.
    pub fn max_reader_age(mut self, age: Duration) -> Self {
        self.max_reader_age = age;
        self
    }

    /// Whether a read older than [`max_reader_age`](Self::max_reader_age) is stopped with [`Error::Interrupted`]: in the
    /// middle of a statement, where the next one begins, or when its closure has ended, as by
    /// [`ReadOptions::execution_timeout`]. The default is `false`: a long report is better than half a report.
    pub fn interrupt_old_readers(mut self, interrupt: bool) -> Self {
        self.interrupt_old_readers = interrupt;
        self
    }

    /// Call sites that [`Stats::sites`](crate::Stats::sites) counts, of reads and of writes; what comes after them is
    /// counted as `other`. The default is 256, more than most services have. Each takes up to 4 KiB for each connection.
    /// Zero counts none, for the 1 % of a read of one row that it costs. At most 10,000.
    pub fn call_sites(mut self, sites: usize) -> Self {
        self.call_sites = sites;
        self
    }

    /// Statements that [`Stats::statements`](crate::Stats::statements) counts; what comes after them is counted as
    /// `other`. The default is 0, none: it costs 1 or 2 % of a read of one row, and keeps their text, with what is written
    /// into it. Each takes up to 4 KiB for each connection. At most 10,000.
    pub fn statements(mut self, statements: usize) -> Self {
        self.statements = statements;
        self
    }

    /// How often the store looks whether something is wrong, to say so in an event and in
    /// [`Stats::alerts`](crate::Stats::alerts). The default is 1 s; one look takes some 50 us (more with the feature
    /// `metrics`), on a thread that all stores of the process share. Zero turns it off; otherwise from 1 ms to a day.
    pub fn watch(mut self, every: Duration) -> Self {
        self.watch = every;
        self
    }

    /// Whether the writer uses idle moments to give free pages back to the file system, once more than a tenth of all
    /// pages and more than 1000 are free: at most 1000 pages at a time, in a transaction of its own. Only for files with
    /// [`AutoVacuum::Incremental`]. The default is `true`.
    pub fn maintenance(mut self, maintenance: bool) -> Self {
        self.maintenance = maintenance;
        self
    }

    /// How often the writer runs `PRAGMA optimize`, which gathers the statistics that queries are planned by where they
    /// have become too old. The default is 24 h, as SQLite's manual advises for long-lived connections
    /// (<https://sqlite.org/pragma.html#pragma_optimize>): at the first idle moment after that, or an hour later between
    /// two writes (or so long later, if that is shorter). It is run as a store closes, too. At least 1 ms.
    pub fn optimize_every(mut self, interval: Duration) -> Self {
        self.optimize_every = interval;
        self
    }

    /// Bytes in a page of a new file. The default is 4096, the block of most file systems. A power of two
    /// from 512 to 65536; an existing file keeps its own. PRAGMA: `page_size`.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.page_size = bytes;
        self
    }

    /// Whether a new file can give space back. The default is [`AutoVacuum::Incremental`]: it costs one
    /// page in a thousand, and cannot be turned on later without a full `VACUUM`. PRAGMA: `auto_vacuum`.
    pub fn auto_vacuum(mut self, mode: AutoVacuum) -> Self {
        self.auto_vacuum = mode;
        self
    }

    /// Bytes of page cache that *each* connection may fill. The default is 64,000 KiB. Whole KiB. PRAGMA:
    /// `cache_size`.
    pub fn cache_size(mut self, bytes: u64) -> Self {
        self.cache_size = bytes;
        self
    }

    /// Bytes of the file that are read through a memory map instead of system calls. The default is 256 MiB;
    /// the map is shared with the operating system's page cache. Zero turns it off; do that where the disk may
    /// fail under a running service, since an I/O error on mapped memory is a SIGBUS. PRAGMA: `mmap_size`.
    pub fn mmap_size(mut self, bytes: u64) -> Self {
        self.mmap_size = bytes;
        self
    }

    /// Prepared statements that each connection keeps. The default is 128; a service that has more distinct
    /// statements than that prepares them again and again. From 16 to 10,000.
    pub fn statement_cache(mut self, statements: usize) -> Self {
        self.statement_cache = statements;
        self
    }

    /// Whether foreign keys are enforced. The default is `true`, which is not SQLite's own. PRAGMA:
    /// `foreign_keys`.
    pub fn foreign_keys(mut self, enforce: bool) -> Self {
        self.foreign_keys = enforce;
        self
    }

    /// Pages in the write-ahead log at which the writer moves them to the database file, after it has replied. The
    /// default is 1000 pages, as SQLite's own; never more than a quarter of [`wal_limit`](Self::wal_limit). At least 1.
    /// PRAGMA: `wal_autocheckpoint` is 0, since the writer does it.
    pub fn checkpoint_pages(mut self, pages: u32) -> Self {
        self.checkpoint_pages = pages;
        self
    }

    /// Bytes in the write-ahead log above which the writer waits, for at most 20 ms at a time, until readers
    /// let it start the log anew. The default is 64 MiB.
    pub fn wal_limit(mut self, bytes: u64) -> Self {
        self.wal_limit = bytes;
        self
    }

    /// Bytes in the write-ahead log above which writes fail with [`Error::WalFull`]. The default is none: a full
    /// disk is the limit. Not below [`wal_limit`](Self::wal_limit).
    pub fn wal_hard_limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.wal_hard_limit = bytes.into();
        self
    }

    /// Bytes to which the log file is cut when the log starts anew. The default is 64 MiB. PRAGMA:
    /// `journal_size_limit`.
    pub fn journal_size_limit(mut self, bytes: u64) -> Self {
        self.journal_size_limit = bytes;
        self
    }

    /// Opens the file even on a file system that larder knows to be unsafe for a WAL: a network or pass-through one.
    /// The default is `false`. Linux only; elsewhere larder does not look.
    pub fn allow_unsupported_filesystem(mut self, allow: bool) -> Self {
        self.allow_unsupported_filesystem = allow;
        self
    }

    /// Whether to open a file that has several names (hard links), or that is mounted by itself, without its folder, as a
    /// container's volume of one file is. The default is no: SQLite keeps the write-ahead log beside the name by which the
    /// file was opened, so processes that open one file by different names use different logs, and damage it
    /// (<https://sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file>). Say yes only if every process opens it
    /// by the same name in the same folder.
    pub fn allow_linked_file(mut self, allow: bool) -> Self {
        self.allow_linked_file = allow;
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
        self.migration_timeout = timeout;
        self
    }

    /// Whether a migration that makes a table without `STRICT` fails
    /// ([`MigrationError::NotStrict`](crate::MigrationError::NotStrict)). The default is `false`: there is one warning.
    /// Without `STRICT` SQLite stores a string in an INTEGER column as it is, <https://sqlite.org/stricttables.html>.
    pub fn require_strict(mut self, require: bool) -> Self {
        self.require_strict = require;
        self
    }

    /// Called for the writer and for every reader as it is opened, before larder's PRAGMAs and fences: for
    /// functions, collations, extensions, keys. The default is nothing.
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
        self.on_connect = Some(Arc::new(f));
        self
    }

    /// How long opening may wait for another process.
    pub(crate) fn open_timeout(&self) -> Duration {
        match self.migrations {
            Some(_) => self.busy_timeout.max(self.migration_timeout),
            None => self.busy_timeout,
        }
    }

    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<()> {
        within("readers", self.readers.into(), 1, 1024)?;
        within("queue", self.queue as u64, 1, 1_000_000)?;
        within("group_jobs", self.group_jobs as u64, 1, 1_000_000)?;
        within("statement_cache", self.statement_cache as u64, 16, 10_000)?;
        within("call_sites", self.call_sites as u64, 0, 10_000)?;
        within("statements", self.statements as u64, 0, 10_000)?;
        within("checkpoint_pages", self.checkpoint_pages.into(), 1, i32::MAX as u64)?;
        within("page_size", self.page_size, 512, 65_536)?;
        if !self.page_size.is_power_of_two() {
            return wrong("page_size", format!("{} is not a power of two", self.page_size));
        }
        within("cache_size", self.cache_size, KIB, i32::MAX as u64 * KIB)?;
        within("mmap_size", self.mmap_size, 0, i64::MAX as u64)?;
        within("journal_size_limit", self.journal_size_limit, 0, i64::MAX as u64)?;
        within("wal_limit", self.wal_limit, 64 * KIB, i64::MAX as u64)?;
        if let Some(hard) = self.wal_hard_limit
            && hard < self.wal_limit
        {
            return wrong(
                "wal_hard_limit",
                format!(
                    "{hard} bytes is below wal_limit ({}): raise it, or lower wal_limit",
                    self.wal_limit
                ),
            );
        }
        let longest = Duration::from_millis(i32::MAX as u64);
        for (name, value, least, most) in [
            ("busy_timeout", self.busy_timeout, Duration::from_millis(1), longest),
            ("queue_timeout", self.queue_timeout, Duration::from_micros(1), longest),
            ("read_timeout", self.read_timeout, Duration::from_micros(1), longest),
            ("close_timeout", self.close_timeout, Duration::from_micros(1), longest),
            ("group_time", self.group_time, Duration::ZERO, Duration::from_secs(60)),
            ("spin", self.spin, Duration::ZERO, Duration::from_millis(1)),
            (
                "optimize_every",
                self.optimize_every,
                Duration::from_millis(1),
                Duration::MAX,
            ),
            (
                "migration_timeout",
                self.migration_timeout,
                Duration::from_millis(1),
                longest,
            ),
            (
                "max_reader_age",
                self.max_reader_age,
                Duration::from_millis(1),
                Duration::MAX,
            ),
        ] {
            if value < least || value > most {
                return wrong(name, format!("{value:?} is out of range: from {least:?} to {most:?}"));
            }
        }
        let (shortest, day) = (Duration::from_millis(1), Duration::from_secs(24 * 60 * 60));
        if !self.watch.is_zero() && !(shortest..=day).contains(&self.watch) {
            return wrong(
                "watch",
                format!(
                    "{:?} is out of range: zero, or from {shortest:?} to {day:?}",
                    self.watch
                ),
            );
        }
        if let Some(migrations) = &self.migrations {
            migrations.validate()?;
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("access", &self.access)
            .field("durability", &self.durability)
            .field("readers", &self.readers)
            .field("queue", &self.queue)
            .field("group_jobs", &self.group_jobs)
            .field("group_time", &self.group_time)
            .field("queue_timeout", &self.queue_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("close_timeout", &self.close_timeout)
            .field("busy_timeout", &self.busy_timeout)
            .field("spin", &self.spin)
            .field("slow_write", &self.slow_write)
            .field("slow_read", &self.slow_read)
            .field("slow_events", &self.slow_events)
            .field("max_reader_age", &self.max_reader_age)
            .field("interrupt_old_readers", &self.interrupt_old_readers)
            .field("call_sites", &self.call_sites)
            .field("statements", &self.statements)
            .field("watch", &self.watch)
            .field("maintenance", &self.maintenance)
            .field("optimize_every", &self.optimize_every)
            .field("page_size", &self.page_size)
            .field("auto_vacuum", &self.auto_vacuum)
            .field("cache_size", &self.cache_size)
            .field("mmap_size", &self.mmap_size)
            .field("statement_cache", &self.statement_cache)
            .field("foreign_keys", &self.foreign_keys)
            .field("checkpoint_pages", &self.checkpoint_pages)
            .field("wal_limit", &self.wal_limit)
            .field("wal_hard_limit", &self.wal_hard_limit)
            .field("journal_size_limit", &self.journal_size_limit)
            .field("allow_unsupported_filesystem", &self.allow_unsupported_filesystem)
            .field("allow_linked_file", &self.allow_linked_file)
            .field("migration_timeout", &self.migration_timeout)
            .field("require_strict", &self.require_strict)
            .field("migrations", &self.migrations.as_ref().map(|set| set.iter().count()))
            .field("on_connect", &self.on_connect.as_ref().map(|_| "Fn"))
            .finish()
    }
}

/// How one write is to be made; for [`Store::write_with`](crate::Store::write_with) and
/// [`Store::submit_with`](crate::Store::submit_with).
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limit: Option<Duration>,
    pub(crate) label: Option<Cow<'static, str>>,
}

impl WriteOptions {
    /// The store's own settings, and the line of code that asks as the label.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the acknowledgement of this write means, if that is more than the store's
    /// [`Options::durability`]. One such write makes its whole group durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// How long it may wait to be started. The default is [`Options::queue_timeout`]. Past it the write is
    /// never started: [`Error::QueueTimeout`]. Once it runs, it runs to its end.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long its closure may run. The default is no limit. Past it the write is rolled back:
    /// [`Error::Interrupted`]. A write with a limit gets a transaction of its own, since SQLite undoes the whole
    /// transaction of a statement that it interrupts.
    ///
    /// SQL is stopped within some milliseconds: in the middle of a statement, or where the next one begins. Other code of
    /// the closure is not stopped: if that takes too long, the write is rolled back when the closure has ended. If the
    /// closure fails by itself meanwhile, its own error is given.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The name of this write in events. The default is the `file:line` of the call.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }
}

/// How one read is to be made; for [`Store::read_with`](crate::Store::read_with).
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) label: Option<Cow<'static, str>>,
}

impl ReadOptions {
    /// The store's own settings, and the line of code that asks as the label.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long it may wait for a connection. The default is [`Options::read_timeout`]. Past it:
    /// [`Error::ReadTimeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long its closure may run, from its begin, whatever it has waited for a connection. The default is no limit: how
    /// long a read may take is known to the program alone. Past it: [`Error::Interrupted`].
    ///
    /// SQL is stopped within some milliseconds: in the middle of a statement, or where the next one begins. Other code of
    /// the closure is not stopped: if that takes too long, its result is replaced by the error when it has ended. If the
    /// closure fails by itself meanwhile, its own error is given. Where
    /// [`Options::interrupt_old_readers`] is on, the shorter of both times counts.
    pub fn execution_timeout(mut self, timeout: Duration) -> Self {
        self.execution_timeout = Some(timeout);
        self
    }

    /// The name of this read in events. The default is the `file:line` of the call.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn within(option: &'static str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    wrong(option, format!("{value} is out of range: from {least} to {most}"))
}

fn wrong<T>(option: &'static str, problem: String) -> Result<T> {
    Err(Error::Options { option, problem })
}
