//! The one error type. Each message says what happened, why, and what to do next.
//!
//! Every error has an [`Outcome`]: the write did not start, was rolled back, or is in an unknown state. A caller needs
//! the answer before it retries.

pub(crate) mod constraint;
mod context;
mod migration;
pub(crate) mod own;
mod sqlite;

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::ffi;

use self::constraint::Kind;
pub use self::constraint::{Constraint, ForeignKey};
pub use self::context::ErrorContext;
use self::context::{Within, beginning};
pub(crate) use self::migration::not_begun;
pub use self::migration::{Direction, MigrationError};
use self::sqlite::{advice, disk_is_full};
pub(crate) use self::sqlite::{
    code_name, commit_is_unknown, extended_code, is_damage, message, primary_code, schema_advice,
};

/// The longest text of a statement in an error, in bytes, as in the statistics.
const MAX_STATEMENT: usize = 2048;

/// Clippy's bound of the error of a `Result`.
const _: () = assert!(size_of::<Error>() <= 128);

/// A `Result` whose error is [`larder::Error`](enum@Error).
///
/// ```
/// use larder::{Result, Store};
///
/// fn tables(store: &Store) -> Result<i64> {
///     store.read(|tx| tx.scalar("SELECT count(*) FROM sqlite_schema", []))
/// }
/// # assert_eq!(tables(&Store::open_temp()?)?, 0);
/// # Ok::<_, larder::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The state of a write that failed. See [`Error::outcome`].
///
/// ```
/// use larder::{Outcome, Store};
///
/// # let store = Store::open_temp()?;
/// let error = store.write(|tx| tx.execute("INSERT INTO missing VALUES (1)", [])).unwrap_err();
/// match error.outcome() {
///     Outcome::NotStarted | Outcome::RolledBack => println!("nothing was written"),
///     Outcome::Local => println!("it is committed here"),
///     _ => println!("look at the data before you write it again"),
/// }
/// # assert_eq!(error.outcome(), Outcome::RolledBack);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Outcome {
    /// The closure never ran. Nothing was written.
    NotStarted,
    /// The closure ran and its changes were rolled back. Nothing was written.
    RolledBack,
    /// COMMIT failed, and SQLite does not know whether the write is on disk: it is invisible now, and may reappear when
    /// the file is next recovered. Check the data before you repeat the write.
    ///
    /// This is also the outcome of a call that could not wait for a write which goes on
    /// ([`Reentrant`](Error::Reentrant) from [`Pending::wait`](crate::Pending::wait)).
    Unknown,
    /// The write is committed in this file, and is not known to be in the replica. Do not repeat it.
    Local,
    /// A migration that runs outside a transaction failed, and the effects of its first statements stay; or two calls
    /// of `migrate_to` ran in opposite directions at once; or a bulk job stopped after it had committed rows. No other
    /// write has this outcome.
    Partial,
}

/// The database that an SQLite error came from. A closure may use connections other than the store's, and return their
/// errors.
///
/// ```
/// use larder::{Error, ErrorOrigin, Store};
///
/// # let store = Store::open_temp()?;
/// let error = store.write(|tx| tx.execute("INSERT INTO missing VALUES (1)", [])).unwrap_err();
/// assert!(matches!(error, Error::Sqlite { origin: ErrorOrigin::Store, .. }));
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorOrigin {
    /// Not known yet: `?` has converted the error inside a closure that has not returned.
    Unknown,
    /// The store's own database.
    Store,
    /// Another database. The error says nothing about this store. An error of the store that the closure kept while it
    /// ran more statements with rusqlite's own methods counts as this too, because SQLite remembers only its last
    /// error.
    Other,
}

/// The error type of larder.
///
/// Match on the variant in code; print the error for the operator. For a failed write, [`outcome`](Error::outcome) says
/// whether anything was written, and [`is_retryable`](Error::is_retryable) whether the same call may be repeated.
///
/// ```
/// use larder::{Error, Store};
///
/// # let store = Store::open_temp()?;
/// match store.write(|tx| tx.execute("INSERT INTO users VALUES (1)", [])) {
///     Ok(_) => {}
///     Err(error @ (Error::QueueFull { .. } | Error::QueueTimeout { .. })) => println!("busy: {error}"),
///     Err(error) => println!("{:?}: {error}", error.outcome()),
///     // RolledBack: no such table: users in INSERT INTO users VALUES (1) at offset 12 (at src/main.rs:5)
/// }
/// # Ok::<_, Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has an invalid value. Nothing was opened.
    #[error("option `{option}`: {problem}")]
    Options {
        /// The name of the setter.
        option: &'static str,
        /// What is wrong with the value, and which values are valid.
        problem: String,
    },

    /// The path cannot be opened as a database.
    #[error("cannot open {}: {problem}", path.display())]
    Open {
        /// The path that was given.
        path: PathBuf,
        /// The reason, and what to do about it.
        problem: String,
        /// The error of SQLite or the operating system, if there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// This process already has a [`Store`](crate::Store) on this file, or one that is still closing.
    #[error(
        "{} {}", path.display(),
        match closing {
            Some(holder) => format!("is still closing in this process: {holder}; open it again when that has ended"),
            None => "is already open in this process: clone the Store instead of opening the file twice (two writers \
                     in one process would contend for SQLite's lock)".to_owned(),
        }
    )]
    AlreadyOpen {
        /// The database file.
        path: PathBuf,
        /// What the closing store still waits for after the busy timeout; `None` if the store is open.
        closing: Option<String>,
    },

    /// Another process held the file locked for longer than the busy timeout.
    #[error(
        "{} is locked by another process: wait if that process migrates the file; otherwise stop it, or open the file \
         with Access::Shared there; then try again (a child process that was forked without exec also holds the locks)",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },

    /// The file is on a file system where SQLite's WAL is not safe.
    #[error(
        "{} is on {filesystem}, where the shared memory of SQLite's WAL fails silently: move the database to a local \
         disk, or call Options::allow_unsupported_filesystem(true) if only one process on one machine opens it", path.display()
    )]
    UnsupportedFilesystem {
        /// The database file.
        path: PathBuf,
        /// The type of the file system.
        filesystem: String,
    },

    /// The linked SQLite has the WAL-reset bug, which can corrupt a database.
    #[error(
        "SQLite {version} has the WAL-reset bug (https://sqlite.org/wal.html#walresetbug), which can corrupt a \
         database: link 3.51.3 or later, 3.50.7 or later in 3.50, or 3.44.6 or later in 3.44; larder's `bundled` \
         feature links a fixed version"
    )]
    SqliteTooOld {
        /// The linked version.
        version: String,
    },

    /// A setting did not take effect on a connection.
    #[error("PRAGMA {name}: larder set {wanted}, SQLite reports {got}: {hint}")]
    Pragma {
        /// The name of the PRAGMA or of the `sqlite3_db_config` setting.
        name: &'static str,
        /// The value that larder set.
        wanted: String,
        /// The value that SQLite reports, or SQLite's error.
        got: String,
        /// The likely cause and the remedy.
        hint: &'static str,
        /// SQLite's error, if there is one.
        #[source]
        source: Option<Arc<rusqlite::Error>>,
    },

    /// A migration failed, or the set of migrations does not fit the database.
    #[error(transparent)]
    Migration(Box<MigrationError>),

    /// A bulk job stopped before its end. The rows before that are committed, and stay.
    #[error(
        "the bulk job stopped{} with {rows} rows committed{}: {source}",
        match (row, line) {
            (Some(row), Some(line)) => format!(" at line {line} (row {row} of its source)"),
            (Some(row), None) => format!(" at row {row} of its source"),
            (None, _) => String::new(),
        },
        match resumed_from {
            0 => String::new(),
            rows => format!(", after {rows} of earlier runs"),
        }
    )]
    Bulk {
        /// How many rows of the source this run has committed, with those that were skipped.
        rows: u64,
        /// How many rows earlier runs of a resumable job have committed.
        resumed_from: u64,
        /// The number of the row that the error is about, from 1.
        row: Option<u64>,
        /// The number of its line, if the source is a CSV file, from 1.
        line: Option<u64>,
        /// The reason.
        #[source]
        source: Box<Error>,
    },

    /// A CSV file cannot be read, its header does not fit the table, or a line of it is bad. Only `BulkCsv` returns it,
    /// for a bad line as the source of [`Bulk`](Error::Bulk).
    #[error("{problem}")]
    Csv {
        /// What is wrong, with the name of the column.
        problem: String,
        /// The error of the reader, if there is one.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },

    /// The queue was full, and the call had [`WhenFull::Fail`](crate::WhenFull::Fail). The write or read did not start.
    #[error(
        "the queue is full: all {capacity} places are taken; shed load, wait for room with WhenFull::Wait, or raise \
         Options::queue_capacity, and Options::readers for reads on their callers' threads{}",
        within(context)
    )]
    QueueFull {
        /// The capacity of the queue in jobs; for a read on the calling thread, the number of connections in the pool.
        capacity: usize,
        /// Where it happened: see [`Error::site`].
        context: Option<Box<ErrorContext>>,
    },

    /// The write waited in the queue for its whole queue timeout and did not start.
    #[error(
        "the write waited {waited:?} in the queue and did not start; the writer is overloaded, so shed load, make \
         transactions shorter, or raise WriteOptions::queue_timeout{}",
        within(context)
    )]
    QueueTimeout {
        /// How long it had waited.
        waited: Duration,
        /// Where it happened: see [`Error::site`].
        context: Option<Box<ErrorContext>>,
    },

    /// No connection became available to the read within its queue timeout. The read did not start.
    #[error(
        "no reader became available in {waited:?} ({readers} in the pool{}): {}{}",
        if *held_here > 0 { format!(", {held_here} of them held by this thread") } else { String::new() },
        match last_error {
            Some(reason) => format!("there is no further connection: {reason}"),
            None => "look for slow reads, slow consumers of streams and nested reads, or raise Options::readers".to_owned(),
        },
        within(context)
    )]
    ReadQueueTimeout {
        /// How long it had waited.
        waited: Duration,
        /// The size of the pool.
        readers: u32,
        /// How many connections the calling thread itself holds.
        held_here: usize,
        /// Why the pool could not open another connection, or how long it has been trying.
        last_error: Option<String>,
        /// Where it happened: see [`Error::site`].
        context: Option<Box<ErrorContext>>,
    },

    /// The transaction of this write was rolled back: by another write of its group, or because SQLite ended it while
    /// the closure ran. Nothing was written.
    #[error("the write was rolled back: {reason}; {}{}", rolled_back_advice(*caused_by_closure, source), within(context))]
    RolledBack {
        /// The cause of the rollback.
        reason: &'static str,
        /// Whether the closure of this write caused the rollback and ignored the error. A retry would do the same.
        caused_by_closure: bool,
        /// SQLite's error, if there is one, shared with the other writes of the group.
        #[source]
        source: Option<Arc<rusqlite::Error>>,
        /// Where it happened: see [`Error::site`] and [`Error::statement`].
        context: Option<Box<ErrorContext>>,
    },

    /// COMMIT failed, and whether the write survives a restart is unknown. The store is poisoned: see
    /// [`Poisoned`](Error::Poisoned).
    #[error(
        "COMMIT failed and its outcome is unknown: {source}; the write may reappear at recovery, so check the disk, \
         reopen the store, and check the data before you repeat the write"
    )]
    CommitUnknown {
        /// SQLite's error, shared with the other writes of the group.
        source: Arc<rusqlite::Error>,
    },

    /// The store is read-only, because an earlier COMMIT or checkpoint failed to reach the disk. Reads go on.
    ///
    /// After a failed sync, the data may exist only in the page cache of the operating system, which treats it as
    /// written (ext4 and XFS do). Appending to such a WAL could lose all of it in a power failure. So larder creates a
    /// marker file beside the database, `app.db-unsynced` for `app.db`, and the next store that opens the database
    /// rewrites and syncs the WAL first. If the marker file could not be created (an event says so), restart the
    /// machine before the service; then the file has only what is on the disk.
    ///
    /// The watchdog ([`Options::monitor_interval`](crate::Options::monitor_interval)) also poisons the store when the
    /// database, its `-wal` or its `-shm` was removed or replaced while it was open, or when code in this process
    /// closed a descriptor of one of these files and so dropped SQLite's locks. `source` then has the code
    /// `SQLITE_READONLY_DBMOVED` or `SQLITE_READONLY_CANTLOCK`, and its message says what happened and what to do.
    #[error("{}", poisoned(source))]
    Poisoned {
        /// The error that poisoned the store.
        source: Arc<rusqlite::Error>,
    },

    /// The store was opened with [`Options::read_only`](crate::Options::read_only), and the call writes. It did not start.
    #[error(
        "{call} is refused, because {} was opened with Options::read_only(true): call it on a store without that option, \
         in the process that owns the database",
        path.display()
    )]
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// The method that was called, without the suffix `_with`.
        call: &'static str,
    },

    /// The files of a snapshot ([`ReadOnly::Snapshot`](crate::ReadOnly::Snapshot)) have changed since it was opened, so
    /// what was read may be torn. Every further read fails, too.
    #[error(
        "{} was changed by another process since {} was opened as a snapshot, without locks, so what was read may be torn: \
         open it again",
        changed.display(),
        path.display()
    )]
    SnapshotChanged {
        /// The database file.
        path: PathBuf,
        /// The file that was changed: the database, its `-wal`, `-shm` or `-journal`.
        changed: PathBuf,
    },

    /// Another process has taken the replica of this store over
    /// (`Options::replicate_to`), so this store is no longer its primary. Reads go on, and
    /// every write fails. What was committed here and is not in the replica is in this file alone.
    #[error(
        "the replica was taken over by {by}, so this store takes no more writes: stop this process, and let only one \
         process be the primary; to serve again from here, move the database away, with all files whose names begin with \
         its own, and follow or restore the replica"
    )]
    Fenced {
        /// Who took it over, as far as that is known: its host and process, and when.
        by: String,
        /// When.
        since: SystemTime,
    },

    /// What is committed is not in the replica yet, and the call waited for that. It stays committed, and goes up when
    /// the replica can be reached; unless another process has taken the replica over, which `reason` says.
    #[error("committed here, and not in the replica after {waited:.1?}: {reason}")]
    NotReplicated {
        /// How long the call has waited.
        waited: Duration,
        /// What it waited for, and what becomes of the commit.
        reason: String,
    },

    /// A follower does not have yet what a token stands for, and the call waited for that. It follows on.
    #[error(
        "the follower has transaction {reached:016x} after {waited:.1?}, and {wanted:016x} was waited for: {}; read what is here, read \
         from the primary, or wait longer",
        reason.as_deref().unwrap_or("the primary has not uploaded it yet, or this machine is slow to apply it")
    )]
    Behind {
        /// The transaction that was waited for.
        wanted: u64,
        /// The last transaction that the follower has.
        reached: u64,
        /// How long the call has waited.
        waited: Duration,
        /// What keeps the follower from going on, if it is known.
        reason: Option<String>,
    },

    /// Another process owns the replica, and has not closed it. Nothing was changed.
    #[error(
        "{} cannot be a primary of {url}, which belongs to {owner}, and was not closed; {last_seen}. Two primaries cannot \
         share a replica. If that process is to stay the primary, follow it (Follower::open). If not, stop it first; if its \
         machine is lost, call ReplicaOptions::take_over(true) for this one start, after which that process can never write \
         to the replica again",
        path.display()
    )]
    ReplicaInUse {
        /// The database file that was to be opened.
        path: PathBuf,
        /// The replica, without the query of its URL.
        url: String,
        /// The host and the process that own it, and since when.
        owner: String,
        /// When it wrote to the replica last.
        last_seen: String,
    },

    /// A database and its replica do not go on from one another. Nothing was changed.
    #[error("{} does not fit its replica {url}: {problem}", path.display())]
    Diverged {
        /// The database file.
        path: PathBuf,
        /// The replica, without the query of its URL.
        url: String,
        /// What each of them has, and the ways out.
        problem: String,
    },

    /// The WAL has reached [`Options::wal_hard_limit`](crate::Options::wal_hard_limit). The write did not start.
    #[error(
        "the WAL has {wal_bytes} bytes, over the hard limit of {limit}: {}",
        oldest.as_ref().map_or_else(
            || "another process reads an old snapshot; find that process and stop it".to_owned(),
            |reader| format!("end the oldest read, {reader}, or set Options::interrupt_old_readers")
        )
    )]
    WalFull {
        /// Size of the WAL in bytes.
        wal_bytes: u64,
        /// The limit, in bytes.
        limit: u64,
        /// The oldest read of this process: its call site and its age.
        oldest: Option<String>,
    },

    /// What waits to be uploaded to the replica has filled its room, and the options say that writes are refused then
    /// (`WhenSpoolFull::RefuseWrites`). The write did not start. Reads go on, and writes once uploads have made room.
    #[error(
        "the write did not start, because what waits to be uploaded to the replica has no more room: {bytes} bytes wait in \
         {}, whose limit is {limit}, and {reason}. Mend that, and writes go on by themselves; or open the store with a larger \
         ReplicaOptions::spool_limit, or with WhenSpoolFull::Rebase, which drops what waits",
        spool.display()
    )]
    SpoolFull {
        /// The folder beside the database.
        spool: PathBuf,
        /// How many bytes wait behind the file that is being uploaded.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
        /// Why they wait: what is wrong with the storage, or that the disk is full.
        reason: String,
    },

    /// A closure ran SQL that is reserved for larder, or a read tried to write.
    #[error("{statement} is refused here: {instead}{}", within(context))]
    Refused {
        /// The kind of statement.
        statement: String,
        /// What to use instead.
        instead: &'static str,
        /// Where it happened: see [`Error::site`] and [`Error::statement`].
        context: Option<Box<ErrorContext>>,
    },

    /// [`WriteTx::insert`](crate::WriteTx::insert) has no rowid to return, because its statement inserted no new row
    /// with a rowid.
    #[error(
        "the statement inserted no new row with a rowid: {reason}; return the key with RETURNING and run the statement \
         with query_row, or run it with execute{}",
        within(context)
    )]
    NoRowid {
        /// What the statement is, or did instead.
        reason: String,
        /// Where it happened: see [`Error::site`] and [`Error::statement`].
        context: Option<Box<ErrorContext>>,
    },

    /// The call would deadlock, because it waits for the thread that made it.
    #[error("{call} would deadlock, because it waits for the thread it runs on: {instead}")]
    Reentrant {
        /// The method that was called, without the suffix `_with`.
        call: &'static str,
        /// What to use instead.
        instead: &'static str,
        /// The state of the write. A call that would have queued it says `NotStarted`; a call that only waits for it
        /// says `Unknown`, because the write goes on.
        outcome: Outcome,
    },

    /// A time limit stopped a closure, a backup or a read that was too old.
    #[error("stopped after {limit:?}: {advice}{}", within(context))]
    Interrupted {
        /// The time limit.
        limit: Duration,
        /// Which option set the limit, and how to stay below it.
        advice: &'static str,
        /// Where it happened: see [`Error::site`] and [`Error::statement`].
        context: Option<Box<ErrorContext>>,
    },

    /// A progress callback cancelled the work by returning `ControlFlow::Break`.
    #[error(
        "the {work} was cancelled by its progress callback; the database is unchanged, so the {work} can be run again"
    )]
    Cancelled {
        /// The cancelled work: `backup`, `check`, `export`, `import`, `load` (of a CSV file), `restore`, `vacuum` or
        /// `verification`.
        work: &'static str,
    },

    /// A backup failed. The target is unchanged.
    #[error("the backup to {} failed: {problem}{}", path.display(), after_colon(detail))]
    Backup {
        /// The target of the backup.
        path: PathBuf,
        /// The reason, and what to do about it.
        problem: &'static str,
        /// The message of SQLite or the operating system, or the findings of a check. It may quote names of the schema.
        detail: Option<String>,
        /// The error of SQLite or the operating system, if there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A restore failed. The target is unchanged.
    #[error("restoring {} to {} failed: {problem}{}", from.display(), to.display(), after_colon(detail))]
    Restore {
        /// The backup, or the URL of a replica.
        from: PathBuf,
        /// The database that was to be created.
        to: PathBuf,
        /// The reason, and what to do about it.
        problem: &'static str,
        /// The message of SQLite or the operating system, or the findings of a check. It may quote names of the schema.
        detail: Option<String>,
        /// The error of SQLite or the operating system, if there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A replica cannot be used, or a request to its storage failed.
    #[error("replica {url}: {what}")]
    Replica {
        /// What failed, the reason, and what to do about it.
        what: String,
        /// The replica, without the query of its URL. No error has a credential in it.
        url: String,
        /// Whether the same call may succeed later: the storage did not answer, or said that it is overloaded. `false` if
        /// somebody has to change something: credentials, the bucket, the URL.
        retryable: bool,
        /// The cause, if it is an error of its own.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// An export to PostgreSQL or an import from it failed.
    #[error("{server}: {what}")]
    Postgres {
        /// What failed, the reason, and what to do about it. A message of the server may quote names of the schema.
        what: String,
        /// The server, its database and the user. No error has a password in it.
        server: String,
        /// What is at the target: `RolledBack` or `NotStarted` if it is as it was, `Unknown` if the connection broke during
        /// COMMIT.
        outcome: Outcome,
        /// Whether the same call may succeed later: the server did not answer, or is starting or stopping.
        retryable: bool,
        /// The cause, if it is an error of its own.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A file system has too little free space for a `VACUUM`, which did not start.
    #[error(
        "the vacuum did not start: it needs about {needed} bytes in {}, and {available} are available: free disk space \
         there (or, if this is the folder for temporary files, set SQLITE_TMPDIR in the environment to a folder with \
         more space)",
        folder.display()
    )]
    InsufficientSpace {
        /// A folder on that file system: that of the database, or that of SQLite's temporary files.
        folder: PathBuf,
        /// How many bytes the vacuum may need there.
        needed: u64,
        /// How many bytes this process may still use there.
        available: u64,
    },

    /// The store is closed, or was closed before the call started, or before a stream had returned all rows.
    #[error(
        "the store is closed, so the call did not start, or its stream was cut off; reopen it, or keep a clone of the \
         `Store` alive while it is in use"
    )]
    Closed,

    /// This process was forked from the one that opened the store. Only the parent has the writer thread, the reader
    /// threads and the locks on the file, so a call in the child does not start. In the child a store is neither closed
    /// nor checkpointed, and its files stay open until the child exits or calls `exec`.
    ///
    /// A closure that forks must not return in the child: on a thread of larder, the child is ended with
    /// [`abort`](std::process::abort).
    #[error(
        "the store was opened by the parent of this forked process and cannot be used here: call exec after the fork, \
         as std::process::Command does, or open the store after the fork"
    )]
    Forked {
        /// `NotStarted`; or `Unknown` if the child waits for a [`Pending`](crate::Pending) that the parent submitted.
        outcome: Outcome,
    },

    /// An error of SQLite or rusqlite.
    #[error(
        "{source}{}{}",
        Within { context, has_statement: matches!(source, rusqlite::Error::SqlInputError { .. }) },
        advice(source, *outcome, *origin)
    )]
    Sqlite {
        /// The error from rusqlite.
        source: rusqlite::Error,
        /// The state of the write, if it was a write.
        outcome: Outcome,
        /// The database that the error came from.
        origin: ErrorOrigin,
        /// Where it happened: see [`Error::site`], [`Error::statement`] and [`Error::constraint`].
        context: Option<Box<ErrorContext>>,
    },

    /// An error of the application, wrapped by [`Error::app`]. The write was rolled back.
    #[error("{0}")]
    App(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Wraps an error of the application, so that a closure can return it with `?` or `Err`.
    ///
    /// ```
    /// # use larder::{Error, Store};
    /// #[derive(Debug, PartialEq)]
    /// struct OutOfStock;
    /// # impl std::fmt::Display for OutOfStock {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("out of stock") }
    /// # }
    /// impl std::error::Error for OutOfStock {}
    ///
    /// # let store = Store::open_temp()?;
    /// let err = store.write(|_tx| Err::<(), _>(Error::app(OutOfStock))).unwrap_err();
    /// assert_eq!(err.downcast::<OutOfStock>().unwrap(), OutOfStock);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn app(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Error::App(error.into())
    }

    /// Unwraps the application's error.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// use std::num::ParseIntError;
    /// use larder::Error;
    ///
    /// let error = store.read(|_| "many".parse::<i64>().map_err(Error::app)).unwrap_err();
    /// let own: ParseIntError = error.downcast()?;
    /// assert_eq!(own.to_string(), "invalid digit found in string");
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error unchanged if it is not an `E` wrapped by [`Error::app`].
    pub fn downcast<E: StdError + 'static>(self) -> std::result::Result<E, Error> {
        match self {
            Error::App(inner) => inner.downcast::<E>().map(|e| *e).map_err(Error::App),
            other => Err(other),
        }
    }

    /// The application's error, if it is an `E` wrapped by [`Error::app`].
    ///
    /// ```
    /// # use std::num::ParseIntError;
    /// # use larder::Error;
    /// let error = Error::app("many".parse::<i64>().unwrap_err());
    /// assert!(error.downcast_ref::<ParseIntError>().is_some());
    /// assert!(Error::Closed.downcast_ref::<ParseIntError>().is_none());
    /// ```
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Error::App(inner) => inner.downcast_ref::<E>(),
            _ => None,
        }
    }

    /// The state of the write that failed with this error. For a read it is `NotStarted` or `RolledBack`. An error that
    /// a closure returns from another call of larder describes that call.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// use larder::Outcome;
    ///
    /// let error = store.write(|tx| tx.execute("INSERT INTO missing VALUES (1)", [])).unwrap_err();
    /// assert_eq!(error.outcome(), Outcome::RolledBack);
    /// store.close()?;
    /// let error = store.write(|_| Ok(())).unwrap_err();
    /// assert_eq!(error.outcome(), Outcome::NotStarted);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::CommitUnknown { .. } => Outcome::Unknown,
            Error::Sqlite { outcome, .. } | Error::Reentrant { outcome, .. } => *outcome,
            Error::Migration(error) => error.outcome(),
            Error::Bulk { rows, source, .. } => match source.outcome() {
                outcome @ (Outcome::Unknown | Outcome::Local) => outcome,
                _ if *rows > 0 => Outcome::Partial,
                outcome => outcome,
            },
            Error::RolledBack { .. }
            | Error::App(_)
            | Error::Refused { .. }
            | Error::NoRowid { .. }
            | Error::Interrupted { .. }
            | Error::Cancelled { .. }
            | Error::Backup { .. }
            | Error::Restore { .. } => Outcome::RolledBack,
            Error::Options { .. }
            | Error::Csv { .. }
            | Error::Open { .. }
            | Error::AlreadyOpen { .. }
            | Error::InUse { .. }
            | Error::UnsupportedFilesystem { .. }
            | Error::SqliteTooOld { .. }
            | Error::Pragma { .. }
            | Error::QueueFull { .. }
            | Error::QueueTimeout { .. }
            | Error::ReadQueueTimeout { .. }
            | Error::Poisoned { .. }
            | Error::ReadOnly { .. }
            | Error::SnapshotChanged { .. }
            | Error::Fenced { .. }
            | Error::Diverged { .. }
            | Error::Behind { .. }
            | Error::ReplicaInUse { .. }
            | Error::WalFull { .. }
            | Error::SpoolFull { .. }
            | Error::Replica { .. }
            | Error::InsufficientSpace { .. }
            | Error::Closed => Outcome::NotStarted,
            Error::NotReplicated { .. } => Outcome::Local,
            Error::Forked { outcome } | Error::Postgres { outcome, .. } => *outcome,
        }
    }

    /// Whether the same call may succeed after a pause, and cannot write twice.
    ///
    /// True for a full queue, the queue timeouts, a group that was rolled back (except by a full disk or by the write
    /// itself), a full WAL, a full spool, a file that is in use or still closing, a migration that met a lock of another process, a
    /// [`Replica`](Error::Replica) whose storage did not answer, answered with a status 429 or 5xx, or refused the
    /// connection, and SQLite's `BUSY` and `LOCKED` if the closure did not start.
    ///
    /// False for errors that would repeat (a constraint, a mistake in SQL, a closed or poisoned store, a replica whose
    /// storage denies access, an error of the application), and for [`CommitUnknown`](Error::CommitUnknown), where a retry could write twice.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let insert = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO missing VALUES (1)", []);
    /// let written = match store.write(insert) {
    ///     Err(error) if error.is_retryable() => store.write(insert), // after a pause
    ///     other => other,
    /// };
    /// # assert!(!written.unwrap_err().is_retryable());
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::QueueFull { .. }
            | Error::QueueTimeout { .. }
            | Error::ReadQueueTimeout { .. }
            | Error::WalFull { .. }
            | Error::SpoolFull { .. }
            | Error::InUse { .. }
            | Error::Behind { .. }
            | Error::AlreadyOpen { closing: Some(_), .. } => true,
            Error::Migration(error) => error.is_retryable(),
            Error::Replica { retryable, .. } | Error::Postgres { retryable, .. } => *retryable,
            Error::Pragma {
                source: Some(source), ..
            } => primary_code(source) == Some(ffi::SQLITE_BUSY),
            Error::RolledBack {
                caused_by_closure,
                source,
                ..
            } => !caused_by_closure && !disk_is_full(source),
            Error::Sqlite { source, outcome, .. } => {
                *outcome == Outcome::NotStarted
                    && matches!(primary_code(source), Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED))
            }
            _ => false,
        }
    }

    /// The error of rusqlite, if SQLite is the cause.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// use larder::rusqlite::ErrorCode;
    ///
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE t(x INTEGER NOT NULL) STRICT"))?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO t VALUES (NULL)", [])).unwrap_err();
    /// let code = error.sqlite().and_then(|error| error.sqlite_error_code());
    /// assert_eq!(code, Some(ErrorCode::ConstraintViolation));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Error::Sqlite { source, .. } | Error::InUse { source, .. } => Some(source),
            Error::CommitUnknown { source } | Error::Poisoned { source } => Some(source),
            Error::RolledBack { source, .. } => source.as_deref(),
            Error::Pragma { source, .. } => source.as_deref(),
            Error::Migration(error) => match &**error {
                MigrationError::Failed { source, .. } => source.sqlite(),
                _ => None,
            },
            Error::Bulk { source, .. } => source.sqlite(),
            Error::Backup { source, .. } | Error::Restore { source, .. } => {
                let source = source.as_ref()?;
                let inner = || source.downcast_ref::<Error>().and_then(Error::sqlite);
                source.downcast_ref().or_else(inner)
            }
            _ => None,
        }
    }

    /// The call whose closure failed: its `file:line`, or its label
    /// ([`WriteOptions::label`](crate::WriteOptions::label)). It is in the message, too.
    ///
    /// Known of [`Sqlite`](Error::Sqlite), [`Refused`](Error::Refused), [`NoRowid`](Error::NoRowid),
    /// [`Interrupted`](Error::Interrupted) and [`RolledBack`](Error::RolledBack), from the methods of a transaction on,
    /// so also where a closure converts it into an error of its own; and of [`QueueFull`](Error::QueueFull),
    /// [`QueueTimeout`](Error::QueueTimeout) and [`ReadQueueTimeout`](Error::ReadQueueTimeout). An error that [`ReadTx`](crate::ReadTx)'s connection
    /// gave has it when the closure returns. `None` of an error that another database gave.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO missing VALUES (1)", [])).unwrap_err();
    /// assert!(error.site().is_some_and(|site| site.contains(".rs:")));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn site(&self) -> Option<&str> {
        let context = self.context()?;
        (!context.site.is_empty()).then_some(context.site.as_str())
    }

    /// The text of the statement that failed, as it was written: with its placeholders, and never with a bound value.
    /// Past 2048 bytes it is cut. The message has its beginning.
    ///
    /// Known if a method of [`ReadTx`](crate::ReadTx) or [`WriteTx`](crate::WriteTx) ran it, or if SQLite could not
    /// prepare it. Of a [`RolledBack`](Error::RolledBack) that the closure caused, it is the statement that did; of an
    /// [`Interrupted`](Error::Interrupted), the one that the limit stopped or kept from its start. Of
    /// [`execute_batch`](crate::WriteTx::execute_batch) it is the one statement that failed.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT NOT NULL) STRICT"))?;
    /// let insert = "INSERT INTO users VALUES (?1)";
    /// let error = store.write(move |tx| tx.execute(insert, [None::<String>])).unwrap_err();
    /// assert_eq!(error.statement(), Some(insert));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn statement(&self) -> Option<&str> {
        let known = self.context().and_then(|context| context.statement.as_deref());
        known.or_else(|| match self {
            Error::Sqlite {
                source: rusqlite::Error::SqlInputError { sql, .. },
                ..
            } => Some(beginning(sql, MAX_STATEMENT)),
            _ => None,
        })
    }

    /// The constraint that the statement violated: with the names of its table and columns, or its own.
    ///
    /// SQLite's message does not quote names. larder reads it with the schema, where a method of a transaction made the
    /// error or the closure returned it; otherwise only names that are plain words are told apart, and
    /// [`Constraint::Other`] has the message.
    ///
    /// ```
    /// use larder::{Constraint, Store};
    /// # let store = Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(email TEXT UNIQUE, age INTEGER CHECK (age > 0)) STRICT"))?;
    ///
    /// let twice = "INSERT INTO users(email) VALUES ('ada@example.org'), ('ada@example.org')";
    /// let error = store.write(move |tx| tx.execute(twice, [])).unwrap_err();
    /// match error.constraint() {
    ///     Some(Constraint::Unique { table, columns }) => {
    ///         assert_eq!((table.as_str(), &columns[..]), ("users", &["email".to_owned()][..]));
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// let error = store.write(|tx| tx.execute("INSERT INTO users(age) VALUES (0)", [])).unwrap_err();
    /// assert_eq!(error.constraint(), Some(Constraint::Check { name: "age > 0".into() }));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn constraint(&self) -> Option<Constraint> {
        let known = self.context().and_then(|context| context.constraint.clone());
        known.or_else(|| constraint::plainly(self.violation()?))
    }

    /// Whether a `UNIQUE` constraint, a `PRIMARY KEY` or a unique index was violated. Mostly the answer is 409.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO t VALUES (1), (1)", [])).unwrap_err();
    /// assert!(error.is_unique_violation() && !error.is_check_violation());
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn is_unique_violation(&self) -> bool {
        self.violated().is_some_and(Kind::is_unique)
    }

    /// Whether a foreign key was violated.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;
    /// #     CREATE TABLE orders(user INTEGER REFERENCES users) STRICT"))?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO orders VALUES (7)", [])).unwrap_err();
    /// assert!(error.is_foreign_key_violation());
    /// assert!(error.to_string().contains("orders(user) refers to users"), "{error}");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn is_foreign_key_violation(&self) -> bool {
        self.violated() == Some(Kind::ForeignKey)
    }

    /// Whether a `NOT NULL` constraint was violated.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT NOT NULL) STRICT"))?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO users VALUES (NULL)", [])).unwrap_err();
    /// assert!(error.is_not_null_violation());
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn is_not_null_violation(&self) -> bool {
        self.violated() == Some(Kind::NotNull)
    }

    /// Whether a `CHECK` constraint was violated.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE stock(left INTEGER CHECK (left >= 0)) STRICT"))?;
    /// let error = store.write(|tx| tx.execute("INSERT INTO stock VALUES (-1)", [])).unwrap_err();
    /// assert!(error.is_check_violation());
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn is_check_violation(&self) -> bool {
        self.violated() == Some(Kind::Check)
    }

    /// Whether the error is about the values of one statement: a violated constraint, a value of the wrong type or size.
    pub(crate) fn is_of_values(&self) -> bool {
        let Error::Sqlite { source, .. } = self else {
            return false;
        };
        matches!(source, rusqlite::Error::ToSqlConversionFailure(_))
            || matches!(
                primary_code(source),
                Some(ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH | ffi::SQLITE_TOOBIG)
            )
    }

    /// Whether the number of values is not that of the parameters.
    pub(crate) fn is_of_count(&self) -> bool {
        matches!(
            self,
            Error::Sqlite {
                source: rusqlite::Error::InvalidParameterCount(..),
                ..
            }
        )
    }

    fn violated(&self) -> Option<Kind> {
        self.violation().and_then(Kind::of)
    }

    /// SQLite's error, if it is that of the statement itself.
    fn violation(&self) -> Option<&rusqlite::Error> {
        match self {
            Error::Sqlite { source, .. } => Some(source),
            Error::Migration(error) => match &**error {
                MigrationError::Failed { source, .. } => source.violation(),
                _ => None,
            },
            Error::Bulk { source, .. } => source.violation(),
            _ => None,
        }
    }

    /// The kind of error, for programs and logs. It contains no data. Events have it as `error.type`, and
    /// [`Stats::failures_by_error`](crate::Stats::failures_by_error) counts by it.
    ///
    /// For an error of SQLite it is the name of its [result code](https://sqlite.org/rescode.html), otherwise that of
    /// the variant; both in snake case.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// let error = larder::Store::open(folder.path()).unwrap_err();
    /// assert_eq!(error.kind(), "open");
    /// # let store = larder::Store::open_temp()?;
    /// let error = store.read(|tx| tx.scalar::<i64>("SELECT * FROM missing", [])).unwrap_err();
    /// assert_eq!(error.kind(), "sqlite_error");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Options { .. } => "options",
            Error::Open { .. } => "open",
            Error::AlreadyOpen { .. } => "already_open",
            Error::InUse { .. } => "in_use",
            Error::UnsupportedFilesystem { .. } => "unsupported_filesystem",
            Error::SqliteTooOld { .. } => "sqlite_too_old",
            Error::Pragma { .. } => "pragma",
            Error::Migration(_) => "migration",
            Error::Bulk { source, .. } => source.kind(),
            Error::Csv { .. } => "csv",
            Error::QueueFull { .. } => "queue_full",
            Error::QueueTimeout { .. } => "queue_timeout",
            Error::ReadQueueTimeout { .. } => "read_queue_timeout",
            Error::RolledBack { .. } => "rolled_back",
            Error::CommitUnknown { .. } => "commit_unknown",
            Error::Poisoned { .. } => "poisoned",
            Error::ReadOnly { .. } => "read_only",
            Error::SnapshotChanged { .. } => "snapshot_changed",
            Error::Fenced { .. } => "fenced",
            Error::Diverged { .. } => "diverged",
            Error::ReplicaInUse { .. } => "replica_in_use",
            Error::NotReplicated { .. } => "not_replicated",
            Error::Behind { .. } => "behind",
            Error::WalFull { .. } => "wal_full",
            Error::SpoolFull { .. } => "spool_full",
            Error::Refused { .. } => "refused",
            Error::NoRowid { .. } => "no_rowid",
            Error::Reentrant { .. } => "reentrant",
            Error::Interrupted { .. } => "interrupted",
            Error::Cancelled { .. } => "cancelled",
            Error::Backup { .. } => "backup",
            Error::Restore { .. } => "restore",
            Error::Replica { .. } => "replica",
            Error::Postgres { .. } => "postgres",
            Error::InsufficientSpace { .. } => "insufficient_space",
            Error::Closed => "closed",
            Error::Forked { .. } => "forked",
            Error::Sqlite { source, .. } => code_name(source),
            Error::App(_) => "app",
        }
    }

    /// The kinds of error that a write can fail with.
    #[cfg(feature = "metrics")]
    pub(crate) fn kinds_of_writes() -> impl Iterator<Item = &'static str> {
        let others = [
            "app",
            "cancelled",
            "closed",
            "commit_unknown",
            "fenced",
            "insufficient_space",
            "interrupted",
            "migration",
            "no_rowid",
            "options",
            "panic",
            "poisoned",
            "queue_full",
            "queue_timeout",
            "reentrant",
            "refused",
            "rolled_back",
            "spool_full",
            "wal_full",
        ];
        others.into_iter().chain(self::sqlite::code_names())
    }

    /// The message for an event, without SQLite's message, which may quote data.
    pub(crate) fn without_data(&self) -> String {
        let coded = self
            .sqlite()
            .and_then(|error| Some((extended_code(error)?, code_name(error))));
        let because = coded.map_or(String::new(), |(code, name)| {
            format!(" (SQLite's error {code}, {name})")
        });
        match self {
            Error::Backup { problem, source, .. } => {
                let system = source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
                let system = system.map_or(String::new(), |error| format!(": {error}"));
                format!("{problem}{system}{because}")
            }
            // Without the statement, whose text may have data.
            Error::Interrupted { limit, advice, .. } => format!("stopped after {limit:?}: {advice}"),
            Error::Options { .. } | Error::Cancelled { .. } | Error::Closed => self.to_string(),
            other => format!("{}{because}", other.kind()),
        }
    }

    /// The operating system refused a thread for a part of a store.
    pub(crate) fn no_thread(path: &Path, part: &str, source: io::Error) -> Self {
        Error::Open {
            path: path.into(),
            problem: format!(
                "the operating system refused a thread for {part}: {source}; raise its limit on threads (ulimit -u, \
                 pids.max of a container) or on memory (ulimit -v)"
            ),
            source: Some(Box::new(source)),
        }
    }

    /// A thread of larder's panicked in the middle of a job.
    pub(crate) fn worker_panicked() -> rusqlite::Error {
        let message = "a thread of larder's panicked; please report this bug".to_owned();
        rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(message))
    }

    /// The error of a call in a forked child.
    pub(crate) fn forked() -> Self {
        Error::Forked {
            outcome: Outcome::NotStarted,
        }
    }

    /// An error of SQLite before the closure ran.
    pub(crate) fn not_started(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::NotStarted,
            origin: ErrorOrigin::Store,
            context: None,
        }
    }

    /// An error of the store's database, inside a closure.
    pub(crate) fn of_store(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Store,
            context: None,
        }
    }

    /// An error of another database, inside a closure.
    pub(crate) fn of_another(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Other,
            context: None,
        }
    }

    /// SQL that is reserved for larder, inside a closure.
    pub(crate) fn refused(statement: impl Into<String>, instead: &'static str) -> Self {
        Error::Refused {
            statement: statement.into(),
            instead,
            context: None,
        }
    }

    /// Sets the origin: the store, if `gave_last` says that its connection raised this error last.
    pub(crate) fn with_origin(mut self, gave_last: impl FnOnce(&rusqlite::Error) -> bool) -> Self {
        if let Error::Sqlite { source, origin, .. } = &mut self
            && *origin == ErrorOrigin::Unknown
            && primary_code(source).is_some()
        {
            *origin = if gave_last(source) {
                ErrorOrigin::Store
            } else {
                ErrorOrigin::Other
            };
        }
        self
    }

    /// Adds where it arose, unless that is known.
    pub(crate) fn at(mut self, context: impl FnOnce() -> ErrorContext) -> Self {
        if let Some(place @ None) = self.context_mut() {
            *place = Some(Box::new(context()));
        }
        self
    }

    /// Adds the call site, unless it is known.
    pub(crate) fn with_site(mut self, site: impl FnOnce() -> String) -> Self {
        if let Some(place) = self.context_mut() {
            let context = place.get_or_insert_default();
            if context.site.is_empty() {
                context.site = site();
            }
        }
        self
    }

    fn context(&self) -> Option<&ErrorContext> {
        match self {
            Error::Sqlite { context, .. }
            | Error::RolledBack { context, .. }
            | Error::Refused { context, .. }
            | Error::NoRowid { context, .. }
            | Error::Interrupted { context, .. }
            | Error::QueueFull { context, .. }
            | Error::QueueTimeout { context, .. }
            | Error::ReadQueueTimeout { context, .. } => context.as_deref(),
            _ => None,
        }
    }

    /// The place of the context, of an error that is about this store.
    fn context_mut(&mut self) -> Option<&mut Option<Box<ErrorContext>>> {
        match self {
            Error::Sqlite { origin, .. } if *origin == ErrorOrigin::Other => None,
            Error::Sqlite { context, .. }
            | Error::RolledBack { context, .. }
            | Error::Refused { context, .. }
            | Error::NoRowid { context, .. }
            | Error::Interrupted { context, .. }
            | Error::QueueFull { context, .. }
            | Error::QueueTimeout { context, .. }
            | Error::ReadQueueTimeout { context, .. } => Some(context),
            _ => None,
        }
    }
}

impl From<MigrationError> for Error {
    fn from(error: MigrationError) -> Self {
        Error::Migration(Box::new(error))
    }
}

/// An error inside a closure rolls the closure back, so the outcome is `RolledBack`.
impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Unknown,
            context: None,
        }
    }
}

fn poisoned(source: &rusqlite::Error) -> String {
    if primary_code(source) == Some(ffi::SQLITE_READONLY) {
        return format!("the store is read-only: {source}");
    }
    format!(
        "the store is read-only after a disk error: {source}; check the disk, then restart the service (reopening \
         rewrites the WAL)"
    )
}

fn within(context: &Option<Box<ErrorContext>>) -> Within<'_> {
    Within {
        context,
        has_statement: false,
    }
}

fn after_colon(detail: &Option<String>) -> String {
    detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"))
}

fn rolled_back_advice(caused_by_closure: bool, source: &Option<Arc<rusqlite::Error>>) -> &'static str {
    match (caused_by_closure, disk_is_full(source)) {
        (true, _) => "fix the statement that caused the rollback, and return its error from the closure",
        (false, true) => "free disk space, then try again",
        (false, false) => "try again",
    }
}
