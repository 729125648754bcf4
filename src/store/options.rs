//! [`Options`]: the builder that opens a store. The values are in `Settings`; this file has the setters, by theme.

use std::fmt;
use std::time::Duration;

use rusqlite::Connection;

#[cfg(doc)]
use crate::Store;
use crate::bulk::retention::{RetainOptions, RetainRule};
use crate::error::{Error, Result};
use crate::migrate::Migrations;
use crate::options::{Access, AutoVacuum, Checkpoints, Durability, Key, OnConnect, Role, Settings};
#[cfg(doc)]
use crate::options::{ReadOptions, WriteOptions};
#[cfg(feature = "replicate")]
use crate::replica::ReplicaOptions;

/// The options of a [`Store`]. Every default suits production.
///
/// Each setter takes and returns `self`, so calls chain. Values are checked when the store is opened; a bad value is
/// [`Error::Options`], never a panic. With the feature `serde`, options can be read from a file: sizes are written as
/// `"64 MiB"`, durations as `"250ms"`, and an unknown key is an error.
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
    /// Kept apart from the settings, because the rooms below `migrate` do not know migrations.
    pub(crate) migrations: Option<Migrations>,
    /// Likewise.
    pub(crate) retain: Vec<RetainRule>,
    #[cfg(feature = "replicate")]
    pub(crate) replica: Option<ReplicaOptions>,
}

impl Options {
    /// Creates options with every default.
    pub fn new() -> Self {
        Self::default()
    }
}

/// # File and access
impl Options {
    /// Which processes may open the file while the store has it open. The default is [`Access::Shared`], so that the
    /// `sqlite3` shell or Litestream can open the file while the service runs.
    pub fn access(mut self, access: Access) -> Self {
        self.settings.access = access;
        self
    }

    /// Whether a missing file is created. The default is `true`. With `false` the database must exist: a path that is
    /// wrong, or a volume that is not mounted, is [`Error::Open`] instead of an empty database, and nothing is created.
    /// A file without a byte exists: it is a database without tables, or, with a `-wal` beside it, an error, because it was
    /// cut. A follower ([`follow`](Self::follow)) restores a missing file whatever is set.
    ///
    /// With `ReplicaOptions::restore_if_missing` a missing file is restored; if the replica is empty, opening fails.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// use larder::Options;
    ///
    /// let error = Options::new().create(false).open(&path).unwrap_err();
    /// assert!(error.to_string().contains("it does not exist"));
    /// assert!(!path.exists());
    /// ```
    pub fn create(mut self, create: bool) -> Self {
        self.settings.create = create;
        self
    }

    /// Only reads: for a dashboard, an image in a container, a mounted snapshot, a database that another process writes.
    /// The default is `false`. Nothing is created, migrated, checkpointed or maintained; the file may lack the permission
    /// to write, and its file system may be mounted read-only. Every call that writes is
    /// [`Error::ReadOnly`]. [`on_connect`](Self::on_connect) is called with [`Role::Reader`] only.
    ///
    /// [`Stats::read_only`](crate::Stats::read_only) and the event of opening say what is seen:
    ///
    /// - [`ReadOnly::Live`](crate::ReadOnly::Live): each commit of the processes that write. In WAL mode SQLite then uses
    ///   its `-wal` and `-shm`, and creates them empty where they are missing and the folder can be written: by them
    ///   processes see one another.
    /// - [`ReadOnly::Snapshot`](crate::ReadOnly::Snapshot) and
    ///   [`ReadOnly::SnapshotWithLog`](crate::ReadOnly::SnapshotWithLog): the files as they are, if SQLite lacks one of
    ///   them and cannot create it, or if this process may not write the database: what it creates, others could not use.
    ///   SQLite takes no locks there. So each read looks whether the files have changed, and
    ///   fails with [`Error::SnapshotChanged`] if they have. [`mmap_size`](Self::mmap_size) is 0.
    ///
    /// With [`migrations`](Self::migrations), opening fails with
    /// [`MigrationError::Pending`](crate::MigrationError::Pending) if one is pending, unless
    /// [`Migrations::at_open`] is `false`. It fails with [`Error::Options`] together with [`Access::Exclusive`],
    /// `replicate_to`, or [`open_temp`](Self::open_temp).
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// # let service = larder::Store::open(&path)?;
    /// # service.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT) STRICT"))?;
    /// # service.close()?; drop(service);
    /// use larder::{Error, Options};
    ///
    /// let store = Options::new().read_only(true).open(&path)?;
    /// let users: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM users", []))?;
    /// let refused = store.write(|tx| tx.execute("DELETE FROM users", []));
    /// assert!(matches!(refused, Err(Error::ReadOnly { .. })));
    /// # assert_eq!(users, 0);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.settings.read_only = read_only;
        self
    }

    /// Encrypts the database, with SQLCipher (feature `sqlcipher`): the file, its log, and every copy that the store makes,
    /// such as a backup. The default is none. A new file is created with the key; an existing one must have it. Takes a
    /// passphrase, or a [`Key`].
    ///
    /// Every connection of larder is given the key before anything else. PRAGMA: `key`.
    ///
    /// - **Backups** have the same key; [`Options::restore`] with the key restores one.
    /// - **[`page_size`](Self::page_size)** must be that of the file if it is not 4096, since the file does not show it.
    /// - **Connections:** a passphrase costs each of them some 0.1 s, a raw key nothing.
    /// - **Memory:** pages are plain in the page cache, and a `VACUUM` holds its copy there, as large as the database.
    ///   [`mmap_size`](Self::mmap_size) has no effect.
    /// - **Not encrypted:** statistics and events, which have statements but no values.
    ///
    /// Opening fails with [`Error::Options`] if the linked SQLite is not SQLCipher, and with `replicate_to` and `follow`:
    /// they read and write the pages of the file themselves. It fails with [`Error::Open`], which says so, if the key is
    /// another one, and if the file is not encrypted.
    ///
    /// ```
    /// # #[cfg(feature = "sqlcipher")] {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// use larder::{Error, Options};
    ///
    /// let store = Options::new().key("correct horse battery staple").open(&path)?;
    /// store.write(|tx| tx.execute_batch("CREATE TABLE secrets(x TEXT) STRICT"))?;
    /// store.close()?;
    /// let error = Options::new().key("hunter2").open(&path).unwrap_err();
    /// assert!(error.to_string().contains("Options::key is not its key"));
    /// # }
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn key(mut self, key: impl Into<Key>) -> Self {
        self.settings.key = Some(key.into());
        self
    }

    /// Page size of a new file, in bytes. The default is 4096, the block size of most file systems. A power of two from
    /// 512 to 65536. An existing file keeps its page size. PRAGMA: `page_size`.
    pub fn page_size(mut self, bytes: u64) -> Self {
        self.settings.page_size = bytes;
        self
    }

    /// How a new file returns free pages to the file system. The default is [`AutoVacuum::Incremental`]: it costs one
    /// page in a thousand, and turning it on later takes a full `VACUUM`. PRAGMA: `auto_vacuum`.
    pub fn auto_vacuum(mut self, mode: AutoVacuum) -> Self {
        self.settings.auto_vacuum = mode;
        self
    }

    /// Opens the file even on a file system where the WAL is known to be unsafe: a network or pass-through file system.
    /// The default is `false`. The check is made on Linux only.
    pub fn allow_unsupported_filesystem(mut self, allow: bool) -> Self {
        self.settings.allow_unsupported_filesystem = allow;
        self
    }

    /// Opens a file that has several names (hard links), or that is mounted by itself, without its folder, as a
    /// container volume of a single file is. The default is `false`: SQLite keeps the WAL beside the name that opened
    /// the file, so processes that open one file by different names use different WALs and corrupt it
    /// (<https://sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file>). Set it only if every process opens
    /// the file by the same name in the same folder.
    pub fn allow_linked_file(mut self, allow: bool) -> Self {
        self.settings.allow_linked_file = allow;
        self
    }
}

/// # Durability
impl Options {
    /// What the acknowledgement of a write guarantees, unless [`WriteOptions::durability`] asks for more. The default
    /// is [`Durability::Normal`]. PRAGMA: `synchronous`.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }
}

/// # Queue and timeouts
impl Options {
    /// How many writes the queue holds. The default is 4096 jobs, enough to fill a few groups; a longer queue only adds
    /// latency. When the queue is full, a write waits for room, first come, first served, unless
    /// [`WriteOptions::when_full`] says otherwise. From 1 to 1,000,000.
    ///
    /// The queue of async reads has the same capacity (feature `async`).
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.settings.queue_capacity = jobs;
        self
    }

    /// How long a write may wait to start, unless [`WriteOptions::queue_timeout`] sets another time. The default is 30
    /// s. When the time is over, the write fails with [`Error::QueueTimeout`] and never runs.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// How many writes may share one transaction. The default is 1024 jobs, by which the cost of the commit has become
    /// negligible. From 1 to 1,000,000; 1 turns group commit off.
    pub fn max_group_size(mut self, jobs: usize) -> Self {
        self.settings.max_group_size = jobs;
        self
    }

    /// How long a group accepts queued writes before it commits. The default is 10 ms, which bounds how long the first
    /// write of a group waits for the last. A single write may take longer.
    pub fn max_group_time(mut self, time: Duration) -> Self {
        self.settings.max_group_time = time;
        self
    }

    /// How long a caller spins for its reply before it sleeps. The default is 500 us: waking a thread takes 10 to 50
    /// us, longer than most commits. The spinning thread yields its core to other runnable threads.
    ///
    /// A caller spins only while writes follow closely on one another and finish within this time; with 64 callers the
    /// time doubles. On a busy machine callers sleep at once. The writer thread spins for a tenth of it. Zero turns
    /// spinning off, for the lowest CPU use. At most 1 ms.
    pub fn spin_time(mut self, time: Duration) -> Self {
        self.settings.spin_time = time;
        self
    }

    /// How long [`Store::close`] and the drop of the last clone may take to drain the queue. The default is 30 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.settings.close_timeout = timeout;
        self
    }

    /// How long SQLite waits for a lock that *another process* holds; within the process no call waits for a lock. The
    /// default is 5 s. In whole milliseconds, at most 24 days. PRAGMA: `busy_timeout`.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }
}

/// # Readers
impl Options {
    /// How many read-only connections the pool may open. It opens them when they are needed. The default is the number
    /// of cores, at least 4 and at most 8: more connections share the same cores, and each may fill its own cache. From
    /// 1 to 1024.
    pub fn readers(mut self, readers: u32) -> Self {
        self.settings.readers = readers;
        self
    }

    /// How long a read may wait for a connection, unless [`ReadOptions::queue_timeout`] sets another time. For an async
    /// read this includes the wait for a reader thread. The default is 5 s. When the time is over, the read fails with
    /// [`Error::ReadQueueTimeout`].
    pub fn read_queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_queue_timeout = timeout;
        self
    }

    /// How long a read may hold its snapshot before an alert names it as the one that keeps the WAL from being reset.
    /// The default is 60 s.
    pub fn max_reader_age(mut self, age: Duration) -> Self {
        self.settings.max_reader_age = age;
        self
    }

    /// Stops a read older than [`max_reader_age`](Self::max_reader_age) with [`Error::Interrupted`]: in the middle of a
    /// statement, where the next statement begins, or when its closure returns, as [`ReadOptions::execution_timeout`]
    /// does. The default is `false`, because a slow report is better than half a report.
    pub fn interrupt_old_readers(mut self, interrupt: bool) -> Self {
        self.settings.interrupt_old_readers = interrupt;
        self
    }

    /// How long a stream (`Store::read_stream`) waits for a consumer that does not poll it, unless
    /// [`ReadOptions::idle_timeout`] sets another time. When the time is over, the stream ends with
    /// [`Error::Interrupted`], which names its call: it gives up its connection, and the WAL can be reset again. A
    /// consumer that polls, however slowly, is not idle.
    ///
    /// The default is 60 s, as web servers wait for a client that takes no bytes. `Duration::MAX` turns it off. At least
    /// 1 ms; a stream checks every 50 ms whether it was polled.
    pub fn stream_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stream_idle_timeout = timeout;
        self
    }
}

/// # WAL and checkpoints
impl Options {
    /// Who makes the checkpoints. The default is [`Checkpoints::Own`]. PRAGMA: `wal_autocheckpoint` is 0 in both cases.
    ///
    /// [`Checkpoints::Left`] is for a store beside the daemon of Litestream, which keeps a read transaction open and
    /// makes the checkpoints itself once it has copied the WAL. The store then makes none, not when it closes either:
    /// closing does not wait for the daemon, leaves the WAL as it is, and says so in
    /// [`CloseReport::wal_kept_because`](crate::CloseReport::wal_kept_because). One is still made: if the files of the
    /// database were moved or replaced, it saves what the WAL alone holds.
    ///
    /// - **The WAL grows as long as the other process makes no checkpoint**, until the disk is full. There are no alerts
    ///   about its size; [`Store::advice`] tells once it is far larger than the daemon lets it become, and
    ///   [`Stats::wal_bytes`](crate::Stats::wal_bytes) has its size.
    /// - **[`Store::vacuum`]** writes the whole database to the WAL, and the file shrinks at the daemon's checkpoint.
    /// - **Databases that [`on_connect`](Self::on_connect) attaches** are not the daemon's, and the store checkpoints
    ///   them as always.
    /// - [`Store::advice`] does not mention the commits of other processes: the daemon writes to its tables.
    ///
    /// Opening fails with [`Error::Options`] if it is combined with [`Access::Exclusive`], with
    /// [`wal_hard_limit`](Self::wal_hard_limit) or with `replicate_to`.
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.settings.checkpoints = checkpoints;
        self
    }

    /// How many pages in the WAL trigger a checkpoint. The writer thread makes it after it has replied; beside a bulk job
    /// ([`Store::bulk`]) another thread does, and the WAL has some 8 to 12 times as many before it starts over, or half to
    /// three quarters of [`wal_limit`](Self::wal_limit). The default is 1000 pages, as in SQLite, and the value in effect
    /// is never more than a quarter of [`wal_limit`](Self::wal_limit). At least 1. PRAGMA: `wal_autocheckpoint` is 0,
    /// because the writer makes the checkpoints.
    ///
    /// A store with a replica makes fewer: until the WAL has half of `wal_limit`, they are at least 250 ms apart, because
    /// each uploads a file.
    pub fn checkpoint_pages(mut self, pages: u32) -> Self {
        self.settings.checkpoint_pages = pages;
        self
    }

    /// WAL size in bytes above which the writer waits, for at most 20 ms at a time, until readers let it reset the WAL.
    /// The default is 64 MiB.
    pub fn wal_limit(mut self, bytes: u64) -> Self {
        self.settings.wal_limit = bytes;
        self
    }

    /// WAL size in bytes above which writes fail with [`Error::WalFull`]. The default is `None`: the disk is the limit.
    /// Not below [`wal_limit`](Self::wal_limit).
    pub fn wal_hard_limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.settings.wal_hard_limit = bytes.into();
        self
    }

    /// Size in bytes to which the WAL file is truncated when the WAL is reset. The default is 64 MiB. PRAGMA:
    /// `journal_size_limit`.
    pub fn journal_size_limit(mut self, bytes: u64) -> Self {
        self.settings.journal_size_limit = bytes;
        self
    }
}

/// # Idle maintenance
impl Options {
    /// Lets an idle writer return free pages to the file system once more than a tenth of all pages, and more than
    /// 1000, are free: at most 1000 pages at a time, in a transaction of its own. It has an effect on files with
    /// [`AutoVacuum::Incremental`] only. The default is `true`. PRAGMA: `incremental_vacuum`.
    pub fn incremental_vacuum(mut self, enable: bool) -> Self {
        self.settings.incremental_vacuum = enable;
        self
    }

    /// How often the writer refreshes statistics of the query planner that are out of date. The default is 24 h, as
    /// SQLite recommends for long-lived connections. At least 1 ms. PRAGMA: `optimize(0x10002)`,
    /// <https://sqlite.org/pragma.html#pragma_optimize>.
    ///
    /// It runs `ANALYZE` for each table whose size has changed tenfold since its last one, and for each that has an
    /// index without statistics, whichever connection queries them. `PRAGMA analysis_limit` bounds the rows that it
    /// reads, to some 2000 of each index. Readers use the new statistics from their next read on.
    ///
    /// The writer does so at the first idle moment after that time, or once the database has doubled (and has 1000
    /// pages), as long as no write waits; or one table at a time
    /// between two writes, an hour later (or one interval later, if that is shorter). Closing the store does so too. A
    /// store that has written nothing leaves them.
    pub fn optimize_interval(mut self, interval: Duration) -> Self {
        self.settings.optimize_interval = interval;
        self
    }
}

/// # Monitoring
impl Options {
    /// How often the store checks for conditions that raise an [`Alert`](crate::Alert), and, with the feature
    /// `metrics`, exports its metrics. The default is 1 s. From 1 ms to a day; zero turns it off.
    ///
    /// A check takes some 50 us (more with the feature `metrics`), on a thread that all stores of the process share
    /// unless the check blocks.
    pub fn monitor_interval(mut self, interval: Duration) -> Self {
        self.settings.monitor_interval = interval;
        self
    }

    /// Run time of a closure from which a write is reported as slow. The event has the text of its slowest statement,
    /// if that statement has parameters. The default is 100 ms. The clock that times statements has a resolution of
    /// about 4 ms.
    pub fn slow_write_threshold(mut self, threshold: Duration) -> Self {
        self.settings.slow_write_threshold = threshold;
        self
    }

    /// Run time from which a read is reported as slow. The event has the text of its slowest statement, if that
    /// statement has parameters. The default is 100 ms. The clock that times statements has a resolution of about 4 ms.
    pub fn slow_read_threshold(mut self, threshold: Duration) -> Self {
        self.settings.slow_read_threshold = threshold;
        self
    }

    /// How many events about slow writes are emitted per second, and as many about slow reads. The next event says how
    /// many were suppressed. The default is 10, so that an overloaded service does not flood its log. Zero emits none;
    /// [`Stats`](crate::Stats) counts all.
    pub fn slow_events_per_second(mut self, events: u32) -> Self {
        self.settings.slow_events_per_second = events;
        self
    }

    /// How many call sites [`Stats::call_sites`](crate::Stats::call_sites) counts, of reads and of writes each; further
    /// ones are counted together as `other`. The default is 256, more than most services have. Each takes up to 4 KiB
    /// per connection. Zero counts none, and saves the 1 % that counting adds to a read of one row. At most 10,000.
    pub fn max_call_sites(mut self, sites: usize) -> Self {
        self.settings.max_call_sites = sites;
        self
    }

    /// How many statements [`Stats::statements`](crate::Stats::statements) counts; further ones are counted together as
    /// `other`. The default is 0, because counting adds 1 or 2 % to a read of one row and keeps the text of each
    /// statement, including literals. Each takes up to 4 KiB per connection, and 2 KiB for its text. At most 10,000.
    pub fn max_statements(mut self, statements: usize) -> Self {
        self.settings.max_statements = statements;
        self
    }
}

/// # Statements and caches
impl Options {
    /// How many prepared statements each connection caches. The default is 128; a service with more distinct statements
    /// prepares some of them again and again. From 16 to 10,000. A statement with a text over 256 KiB is not kept.
    pub fn statement_cache_capacity(mut self, statements: usize) -> Self {
        self.settings.statement_cache_capacity = statements;
        self
    }

    /// Size in bytes of the page cache of *each* connection. The default is 64,000 KiB. In whole KiB. PRAGMA:
    /// `cache_size`.
    pub fn cache_size(mut self, bytes: u64) -> Self {
        self.settings.cache_size = bytes;
        self
    }

    /// How many bytes of the file are read through a memory map instead of system calls. The default is 256 MiB; the
    /// map shares memory with the page cache of the operating system. Zero turns it off. PRAGMA: `mmap_size`.
    ///
    /// On Linux the readers keep their map when they see a commit, unless the size of the file has changed. SQLite by
    /// itself would unmap the file each time, which makes reads beside writes slower than they are without a map.
    ///
    /// Turn it off where the disk may fail under a running service, because an I/O error on mapped memory is a SIGBUS.
    pub fn mmap_size(mut self, bytes: u64) -> Self {
        self.settings.mmap_size = bytes;
        self
    }

    /// Enforces foreign keys. The default is `true`; SQLite's own default is `false`. PRAGMA: `foreign_keys`.
    pub fn foreign_keys(mut self, enforce: bool) -> Self {
        self.settings.foreign_keys = enforce;
        self
    }

    /// Lets the schema use every function and every virtual table: in views, triggers, CHECK constraints, defaults,
    /// generated columns and indexes. The default is `false`, so that a file which another user has changed can run
    /// nothing but what is marked as harmless: "unsafe use of f()". PRAGMA: `trusted_schema`.
    ///
    /// It is better to mark a function that is harmless in any SQL: give `FunctionFlags::SQLITE_INNOCUOUS` to rusqlite's
    /// `create_scalar_function`. Set this option if the functions are not yours (an extension's), and no other user writes
    /// the file. A function marked `SQLITE_DIRECTONLY` is refused in the schema all the same.
    ///
    /// An [`on_connect`](Self::on_connect) that sets `PRAGMA trusted_schema` decides for its connection.
    /// [`Store::advice`] names the objects that need the option.
    pub fn trusted_schema(mut self, trust: bool) -> Self {
        self.settings.trusted_schema = trust;
        self
    }

    /// Accepts `"x"` as a string, where no column has that name. The default is `false`: SQL says `'x'`, and a column
    /// whose name is misspelt is an error ("SQLite's double-quoted string misfeature",
    /// <https://sqlite.org/quirks.html#dblquote>). `sqlite3_db_config`: `SQLITE_DBCONFIG_DQS_DML` and `_DQS_DDL`.
    ///
    /// Set it for a database that was made elsewhere and has such strings in its views or triggers: without it, reads of
    /// the views and writes that run the triggers fail with "no such column". An event of the opening and
    /// [`Store::advice`] name them. It holds for all SQL on the store, so it is better to create these objects again, with
    /// single quotes.
    ///
    /// Tables and indexes that have such strings work without the option, also in [`Store::vacuum`],
    /// [`Store::backup_compact`] and `ALTER TABLE`. A migration that creates an object with such a string is refused
    /// without the option.
    pub fn double_quoted_strings(mut self, accept: bool) -> Self {
        self.settings.double_quoted_strings = accept;
        self
    }
}

/// # Retention
impl Options {
    /// Deletes the rows of a table whose column is older than `keep`, as long as the store is open: [`Store::retain`] says
    /// which columns can be used, and how. The default is none. Call it once for each table.
    ///
    /// What is wrong with the table does not keep the store from opening, since a later migration may make it right: while
    /// a column has no index or a time of another form, no row is deleted, and an event (`larder::retention`), the alert
    /// `retention_failed`, [`Stats::retention`](crate::Stats::retention) and [`Store::advice`] say so. A store that only
    /// reads, and a follower, delete nothing.
    ///
    /// Opening fails with [`Error::Options`] if `keep` is less than a second, or the column is given twice.
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let logs = "CREATE TABLE logs(at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, line TEXT NOT NULL) STRICT;
    ///             CREATE INDEX logs_by_at ON logs(at)";
    /// let store = Options::new()
    ///     .migrations(Migrations::new([Migration::new(1, "logs", logs)]))
    ///     .retain("logs", "at", Duration::from_secs(30 * 86_400))
    ///     .open_temp()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn retain(mut self, table: &str, column: &str, keep: Duration) -> Self {
        let rule = RetainRule::new(table, column, keep, RetainOptions::new());
        self.retain.push(rule);
        self
    }

    /// As [`retain`](Self::retain), with options.
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{Migration, Migrations, Options, RetainOptions};
    ///
    /// let logs = "CREATE TABLE logs(at INTEGER NOT NULL, line TEXT NOT NULL) STRICT;
    ///             CREATE INDEX logs_by_at ON logs(at)";
    /// let slowly = RetainOptions::new().rows_per_minute(10_000);
    /// let store = Options::new()
    ///     .migrations(Migrations::new([Migration::new(1, "logs", logs)]))
    ///     .retain_with(slowly, "logs", "at", Duration::from_secs(30 * 86_400))
    ///     .open_temp()?;
    /// assert_eq!(store.stats().retention.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn retain_with(mut self, options: RetainOptions, table: &str, column: &str, keep: Duration) -> Self {
        self.retain.push(RetainRule::new(table, column, keep, options));
        self
    }
}

/// # Migrations
impl Options {
    /// The migrations that are applied when the store opens. The default is none. See [`Migrations`].
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = Some(migrations);
        self
    }

    /// How long opening, and each migration, waits for another process that migrates the same file. The default is 60
    /// s. When the other process has finished, its migrations count as applied. In whole milliseconds, at most 24 days.
    /// It has an effect only with [`migrations`](Self::migrations).
    ///
    /// When the time is over, the call fails with [`MigrationError::Locked`](crate::MigrationError::Locked) or
    /// [`Error::InUse`], or with [`Error::Pragma`] for a file that is not in WAL mode yet.
    pub fn migration_timeout(mut self, timeout: Duration) -> Self {
        self.settings.migration_timeout = timeout;
        self
    }

    /// Fails a migration that creates a table without `STRICT`
    /// ([`MigrationError::NotStrict`](crate::MigrationError::NotStrict)). The default is `false`, which emits one
    /// warning. Without `STRICT`, SQLite stores a string in an INTEGER column as it is
    /// (<https://sqlite.org/stricttables.html>).
    pub fn require_strict(mut self, require: bool) -> Self {
        self.settings.require_strict = require;
        self
    }
}

/// # Connection hooks
impl Options {
    /// A function that sets up each connection: SQL functions, collations, extensions, encryption keys. It is called
    /// for the writer and for every reader when the connection opens, before larder sets its PRAGMAs and its
    /// authorizer, and for the connections to copies: those of backups, dry runs and restores. The default is none.
    ///
    /// It is called again when a connection is replaced, because a closure left it in a state that cannot be restored
    /// (see `Deref` of [`ReadTx`](crate::ReadTx)). If that call fails for the writer, writes fail with its error until
    /// it succeeds.
    ///
    /// - **[`Role::Writer`]** may do anything. Every other process that opens the file sees what it writes.
    /// - **[`Role::Reader`]** may read, and create temporary objects.
    /// - **[`Role::Copy`]** may do what a reader may, and write temporary objects and attached databases. A write to
    ///   `main` is rolled back, and the call fails with [`Error::Options`]. A backup that is restored is never changed:
    ///   PRAGMAs that would change it, such as `journal_mode`, have no effect. The first connection to a copy is to an
    ///   empty file, and an error there is ignored, because the tables come later.
    /// - **Temporary objects** that it creates are shared by all closures: they may change the rows, but not drop the
    ///   objects.
    /// - **`ATTACH`:** the attached databases stay the program's own. larder's PRAGMAs, checks and copies are of `main`.
    /// - **Hooks:** its `update_hook` and `rollback_hook` stay. larder needs the commit hook, the WAL hook and the
    ///   authorizer for itself, and opening fails with [`Error::Options`] if the function sets one of them. larder
    ///   replaces its progress handler and its busy handler.
    /// - **A trace callback** (rusqlite's feature `trace`) stays too. But SQLite has only one for each connection, and
    ///   larder uses it to enforce time limits where a short statement begins. With a trace callback of yours,
    ///   execution timeouts, the age of a reader and dropped async reads are checked in long statements, in larder's
    ///   own methods and when the closure returns.
    /// - **Time:** a reader usually opens on a thread of larder, one at a time for each store. While that takes, reads
    ///   of this store that need one more connection wait within their queue timeout; other stores are not affected.
    ///
    /// ```
    /// use larder::{Options, Role};
    ///
    /// let store = Options::new()
    ///     .on_connect(|conn, role| {
    ///         if role != Role::Reader {
    ///             conn.execute_batch("PRAGMA recursive_triggers = ON")?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .open_temp()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn on_connect(mut self, f: impl Fn(&Connection, Role) -> Result<()> + Send + Sync + 'static) -> Self {
        self.settings.on_connect = Some(OnConnect::new(f));
        self
    }
}

impl Options {
    /// How long opening may wait for another process.
    pub(crate) fn open_timeout(&self) -> Duration {
        match self.migrations {
            Some(_) => self.settings.busy_timeout.max(self.settings.migration_timeout),
            None => self.settings.busy_timeout,
        }
    }

    /// Refuses the option with a call that needs a file which can be written.
    #[cfg(feature = "replicate")]
    pub(crate) fn refuse_read_only(&self, call: &str) -> Result<()> {
        if !self.settings.read_only {
            return Ok(());
        }
        Err(Error::Options {
            option: "read_only",
            problem: format!("true cannot be used with {call}"),
        })
    }

    /// Refuses a key with a call that reads or writes the pages of the file.
    #[cfg(feature = "replicate")]
    pub(crate) fn refuse_key(&self, call: &str) -> Result<()> {
        if self.settings.key.is_none() {
            return Ok(());
        }
        Err(Error::Options {
            option: "key",
            problem: format!(
                "a key cannot be used with {call}, which reads and writes pages without SQLCipher: leave it out, or make \
                 backups (Store::backup_every), which are encrypted, and copy those elsewhere"
            ),
        })
    }

    /// Checks what a new temporary database cannot have.
    pub(crate) fn validate_temp(&self) -> Result<()> {
        let option = match &self.settings {
            settings if settings.read_only => "read_only",
            settings if !settings.create => "create",
            _ => return Ok(()),
        };
        Err(Error::Options {
            option,
            problem: "a temporary database is always a new one: leave the option out, or open a path".into(),
        })
    }

    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<()> {
        self.settings.validate()?;
        if let Some(migrations) = &self.migrations {
            migrations.validate()?;
        }
        self.retain.iter().try_for_each(RetainRule::validate)?;
        #[cfg(feature = "replicate")]
        if self.replica.is_some() {
            self.refuse_key("replicate_to")?;
        }
        #[cfg(feature = "replicate")]
        if self.replica.is_some() && self.settings.read_only {
            return Err(Error::Options {
                option: "read_only",
                problem: "true cannot be used with replicate_to, which uploads what the store writes, nor with \
                          restore_if_missing: use Store::restore_from first, or follow the replica"
                    .into(),
            });
        }
        #[cfg(feature = "replicate")]
        if self.replica.is_some() && self.settings.checkpoints == Checkpoints::Left {
            return Err(Error::Options {
                option: "checkpoints",
                problem:
                    "Left cannot be used with replicate_to: the log would begin again before the store has copied \
                          it; use Checkpoints::Own, or leave the replication to the other process as well"
                        .into(),
            });
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
            retain: Vec::new(),
            #[cfg(feature = "replicate")]
            replica: None,
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
