//! [`Settings`]: the values of a store's options, their defaults and their ranges. The setters, with unit and reason,
//! are in `store/options.rs`. [`WriteOptions`] and [`ReadOptions`] are the options of one call.

mod call;
mod key;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use self::call::{ReadOptions, WhenFull, WriteOptions};
pub use self::key::Key;
use crate::error::{Error, Result};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What the acknowledgement of a commit guarantees after a power failure.
///
/// This is SQLite's `PRAGMA synchronous` (<https://sqlite.org/pragma.html#pragma_synchronous>), and whether the commit has
/// to be in the replica. At each level a crash of the process loses no acknowledged commit, and no crash corrupts the
/// file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Durability {
    /// `synchronous=NORMAL`: a power failure may lose the most recent commits, but never one without those after it.
    #[default]
    Normal,
    /// `synchronous=FULL`: a commit is synced to the disk before it is acknowledged.
    Full,
    /// As `Full`, and a commit is in the replica before it is acknowledged, so the loss of the machine loses no
    /// acknowledged commit. It needs `Options::replicate_to`, and takes as long as an upload; what is committed
    /// meanwhile shares the next one. Other callers see the write from its commit on, before it is acknowledged.
    ///
    /// A commit that is not in the replica in time is [`Error::NotReplicated`](crate::Error::NotReplicated): it stays
    /// committed here, and goes up later. A database that `on_connect` attaches is in no replica.
    Replicated,
}

/// Which processes may open the file while the store has it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Access {
    /// Other processes, such as the `sqlite3` shell, Litestream or Datasette, may read and write the file too.
    #[default]
    Shared,
    /// Only this process may open the file; others get "database is locked". SQLite's `unix-excl` VFS keeps the WAL
    /// index on the heap and makes no system calls for locks, so commits are about twice as fast, and single-row reads a tenth.
    Exclusive,
}

/// Who makes the checkpoints, which move the WAL into the database file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Checkpoints {
    /// The store makes them: after it has replied, when it is idle, and as it closes.
    #[default]
    Own,
    /// They are left to another process, which must be there: the daemon of Litestream, `litestream replicate`. See
    /// [`Options::checkpoints`](crate::Options::checkpoints).
    Left,
}

/// How a file returns free pages to the file system: SQLite's `PRAGMA auto_vacuum`. It can be chosen for a new file
/// only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum AutoVacuum {
    /// Free pages stay in the file and are reused.
    None,
    /// Free pages are tracked, so that an idle writer can return them a few at a time.
    #[default]
    Incremental,
    /// Every commit returns its free pages, which moves other pages around.
    Full,
}

/// The kind of connection that [`Options::on_connect`](crate::Options::on_connect) sets up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The writing connection. A store has one, or none with [`Options::read_only`](crate::Options::read_only).
    Writer,
    /// A read-only connection: one of the pool, that of a backup, or one that a reader thread uses to detect new
    /// commits.
    Reader,
    /// A connection to a database that is not the store's: the unfinished copy of a backup, the copy of a dry run or of
    /// a check, a backup that is restored. It needs the functions, collations, extensions and keys that the schema
    /// needs, and it must not write to `main`.
    Copy,
}

/// The function that [`Options::on_connect`](crate::Options::on_connect) was given.
#[derive(Clone)]
pub(crate) struct OnConnect {
    function: Arc<OnConnectFn>,
    /// Whether the database is a copy, whichever of its connections it is.
    is_copy: bool,
}

type OnConnectFn = dyn Fn(&Connection, Role) -> Result<()> + Send + Sync;

impl OnConnect {
    pub(crate) fn new(function: impl Fn(&Connection, Role) -> Result<()> + Send + Sync + 'static) -> Self {
        Self {
            function: Arc::new(function),
            is_copy: false,
        }
    }

    /// For a store on a copy of the database.
    pub(crate) fn for_copy(self) -> Self {
        Self { is_copy: true, ..self }
    }

    /// The role that the function is told.
    pub(crate) fn role(&self, role: Role) -> Role {
        if self.is_copy { Role::Copy } else { role }
    }

    pub(crate) fn call(&self, conn: &Connection, role: Role) -> Result<()> {
        (self.function)(conn, role)
    }
}

impl fmt::Debug for OnConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        "Fn".fmt(f)
    }
}

/// The values of [`Options`](crate::Options), as plain data for all parts of a store. They have passed
/// [`validate`](Self::validate) before any part reads them.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields, rename = "Options"))]
pub(crate) struct Settings {
    pub(crate) access: Access,
    pub(crate) durability: Durability,
    pub(crate) readers: u32,
    pub(crate) queue_capacity: usize,
    pub(crate) max_group_size: usize,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) max_group_time: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) queue_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) read_queue_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) close_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) busy_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) spin_time: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) slow_write_threshold: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) slow_read_threshold: Duration,
    pub(crate) slow_events_per_second: u32,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) max_reader_age: Duration,
    pub(crate) interrupt_old_readers: bool,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) stream_idle_timeout: Duration,
    pub(crate) max_call_sites: usize,
    pub(crate) max_statements: usize,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) monitor_interval: Duration,
    pub(crate) incremental_vacuum: bool,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) optimize_interval: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::size"))]
    pub(crate) page_size: u64,
    pub(crate) auto_vacuum: AutoVacuum,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::size"))]
    pub(crate) cache_size: u64,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::size"))]
    pub(crate) mmap_size: u64,
    pub(crate) statement_cache_capacity: usize,
    pub(crate) foreign_keys: bool,
    pub(crate) trusted_schema: bool,
    pub(crate) double_quoted_strings: bool,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) checkpoint_pages: u32,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::size"))]
    pub(crate) wal_limit: u64,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::optional_size"))]
    pub(crate) wal_hard_limit: Option<u64>,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::size"))]
    pub(crate) journal_size_limit: u64,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) allow_unsupported_filesystem: bool,
    pub(crate) allow_linked_file: bool,
    #[cfg_attr(feature = "serde", serde(with = "crate::runtime::serde_units::duration"))]
    pub(crate) migration_timeout: Duration,
    pub(crate) require_strict: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) on_connect: Option<OnConnect>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) key: Option<Key>,
    /// Whether a keeper of the log (`write/log_keeper.rs`) decides when it may be emptied.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) keeps_log: bool,
    /// Whether the database is a copy that follows another one: nothing but its pages is written to it.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) follows: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            durability: Durability::default(),
            readers: cores().clamp(4, 8) as u32,
            queue_capacity: 4096,
            max_group_size: 1024,
            max_group_time: Duration::from_millis(10),
            queue_timeout: Duration::from_secs(30),
            read_queue_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(30),
            busy_timeout: Duration::from_secs(5),
            spin_time: Duration::from_micros(500),
            slow_write_threshold: Duration::from_millis(100),
            slow_read_threshold: Duration::from_millis(100),
            slow_events_per_second: 10,
            max_reader_age: Duration::from_secs(60),
            interrupt_old_readers: false,
            stream_idle_timeout: Duration::from_secs(60),
            max_call_sites: 256,
            max_statements: 0,
            monitor_interval: Duration::from_secs(1),
            incremental_vacuum: true,
            optimize_interval: Duration::from_secs(24 * 60 * 60),
            page_size: 4 * KIB,
            auto_vacuum: AutoVacuum::default(),
            cache_size: 64_000 * KIB,
            mmap_size: 256 * MIB,
            statement_cache_capacity: 128,
            foreign_keys: true,
            trusted_schema: false,
            double_quoted_strings: false,
            checkpoints: Checkpoints::default(),
            checkpoint_pages: 1000,
            wal_limit: 64 * MIB,
            wal_hard_limit: None,
            journal_size_limit: 64 * MIB,
            create: true,
            read_only: false,
            allow_unsupported_filesystem: false,
            allow_linked_file: false,
            migration_timeout: Duration::from_secs(60),
            require_strict: false,
            on_connect: None,
            key: None,
            keeps_log: false,
            follows: false,
        }
    }
}

/// The range of an option: how its value is read, the least and the most.
enum Range {
    Number(fn(&Settings) -> u64, u64, u64),
    Time(fn(&Settings) -> Duration, Duration, Duration),
}

use Range::{Number, Time};

const MICROSECOND: Duration = Duration::from_micros(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest time that SQLite can count, in milliseconds: 24 days.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// Every option that has a range by itself. What depends on another option follows in [`Settings::validate`].
#[rustfmt::skip]
const RANGES: &[(&str, Range)] = &[
    ("readers", Number(|s| s.readers.into(), 1, 1024)),
    ("queue_capacity", Number(|s| s.queue_capacity as u64, 1, 1_000_000)),
    ("max_group_size", Number(|s| s.max_group_size as u64, 1, 1_000_000)),
    ("statement_cache_capacity", Number(|s| s.statement_cache_capacity as u64, 16, 10_000)),
    ("max_call_sites", Number(|s| s.max_call_sites as u64, 0, 10_000)),
    ("max_statements", Number(|s| s.max_statements as u64, 0, 10_000)),
    ("checkpoint_pages", Number(|s| s.checkpoint_pages.into(), 1, i32::MAX as u64)),
    ("page_size", Number(|s| s.page_size, 512, 65_536)),
    ("cache_size", Number(|s| s.cache_size, KIB, i32::MAX as u64 * KIB)),
    ("mmap_size", Number(|s| s.mmap_size, 0, i64::MAX as u64)),
    ("journal_size_limit", Number(|s| s.journal_size_limit, 0, i64::MAX as u64)),
    ("wal_limit", Number(|s| s.wal_limit, 64 * KIB, i64::MAX as u64)),
    ("busy_timeout", Time(|s| s.busy_timeout, MILLISECOND, LONGEST)),
    ("queue_timeout", Time(|s| s.queue_timeout, MICROSECOND, LONGEST)),
    ("read_queue_timeout", Time(|s| s.read_queue_timeout, MICROSECOND, LONGEST)),
    ("close_timeout", Time(|s| s.close_timeout, MICROSECOND, LONGEST)),
    ("max_group_time", Time(|s| s.max_group_time, Duration::ZERO, MINUTE)),
    ("spin_time", Time(|s| s.spin_time, Duration::ZERO, MILLISECOND)),
    ("optimize_interval", Time(|s| s.optimize_interval, MILLISECOND, Duration::MAX)),
    ("migration_timeout", Time(|s| s.migration_timeout, MILLISECOND, LONGEST)),
    ("max_reader_age", Time(|s| s.max_reader_age, MILLISECOND, Duration::MAX)),
    ("stream_idle_timeout", Time(|s| s.stream_idle_timeout, MILLISECOND, Duration::MAX)),
];

impl Settings {
    /// Checks every value against its range.
    pub(crate) fn validate(&self) -> Result<()> {
        for (option, range) in RANGES {
            match range {
                Number(value, least, most) => within(option, value(self), *least, *most)?,
                Time(value, least, most) => within(option, value(self), *least, *most)?,
            }
        }
        let page_size = self.page_size;
        if !page_size.is_power_of_two() {
            return wrong("page_size", format!("{page_size} is not a power of two"));
        }
        if let Some(problem) = self.key.as_ref().and_then(Key::problem) {
            return wrong("key", problem.to_owned());
        }
        if self.key.is_some() && page_size < 1024 {
            let problem =
                format!("{page_size} is too small for a key: SQLCipher takes 80 bytes of each page; at least 1024");
            return wrong("page_size", problem);
        }
        let wal_limit = self.wal_limit;
        if let Some(hard) = self.wal_hard_limit.filter(|hard| *hard < wal_limit) {
            let problem = format!("{hard} bytes is below wal_limit ({wal_limit}): raise it, or lower wal_limit");
            return wrong("wal_hard_limit", problem);
        }
        if self.checkpoints == Checkpoints::Left {
            self.validate_left_checkpoints()?;
        }
        if self.read_only && self.access == Access::Exclusive {
            let problem = "true cannot be used with Access::Exclusive, which locks the file for a process that writes: use \
                           Access::Shared";
            return wrong("read_only", problem.to_owned());
        }
        if self.read_only && self.durability == Durability::Replicated {
            let problem = "true cannot be used with Durability::Replicated: nothing is written";
            return wrong("read_only", problem.to_owned());
        }
        let interval = self.monitor_interval;
        if !interval.is_zero() && !(MILLISECOND..=DAY).contains(&interval) {
            let problem = format!("{interval:?} is out of range: zero, or from {MILLISECOND:?} to {DAY:?}");
            return wrong("monitor_interval", problem);
        }
        Ok(())
    }

    /// The settings with which a store that only reads is run: nothing of it is about a log that others move.
    pub(crate) fn in_effect(self) -> Self {
        if self.read_only {
            Self {
                checkpoints: Checkpoints::Left,
                ..self
            }
        } else {
            self
        }
    }

    /// Whether a missing file is created.
    pub(crate) fn creates(&self) -> bool {
        self.create && !self.read_only
    }

    /// Whether SQLite may make a checkpoint as the last connection closes.
    pub(crate) fn closes_with_checkpoint(&self) -> bool {
        !self.keeps_log && !self.read_only && self.checkpoints == Checkpoints::Own
    }

    fn validate_left_checkpoints(&self) -> Result<()> {
        let refuse = |problem: &str| wrong("checkpoints", problem.to_owned());
        if self.access == Access::Exclusive {
            return refuse(
                "Left needs another process that makes the checkpoints, and Access::Exclusive lets none open the file: \
                 use Access::Shared, or Checkpoints::Own",
            );
        }
        if self.wal_hard_limit.is_some() {
            return refuse(
                "Left cannot be used with wal_hard_limit: above it, writes would be refused until a checkpoint that \
                 this store does not make; use Checkpoints::Own, or watch Stats::wal_bytes",
            );
        }
        Ok(())
    }
}

/// The number of cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn within<V: PartialOrd + fmt::Debug>(option: &'static str, value: V, least: V, most: V) -> Result<()> {
    if least <= value && value <= most {
        return Ok(());
    }
    wrong(option, format!("{value:?} is out of range: from {least:?} to {most:?}"))
}

fn wrong<T>(option: &'static str, problem: String) -> Result<T> {
    Err(Error::Options { option, problem })
}
