//! One error type. Each message says what happened, why, and what to do next.
//!
//! A failed write has an [`Outcome`]: did it not start, was it rolled back, or can nobody know? That is
//! the question a caller has to answer before it tries again, so every variant answers it.

mod migration;

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ffi;

pub(crate) use self::migration::not_begun;
pub use self::migration::{Direction, MigrationError};

/// A `Result` whose error is [`larder::Error`](enum@Error).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What became of a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The closure was never run. Nothing was written.
    NotStarted,
    /// The closure ran, and all it did was undone. Nothing was written.
    RolledBack,
    /// COMMIT failed in a way that SQLite itself cannot tell: the write is invisible now, and may
    /// reappear when the file is next recovered. Look at the data before you write it again.
    ///
    /// It is also the outcome of a call that could not wait for a write ([`Reentrant`](Error::Reentrant) of
    /// [`Pending::wait`](crate::Pending::wait)), while that goes on.
    Unknown,
    /// A migration that asked to be run outside a transaction failed, and what its first statements did stays; or two
    /// calls of `migrate_to` went opposite ways at once. No other write can come to this.
    Partial,
}

/// Which database gave an error of SQLite's. A closure may use other connections than the store's, and return their errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorOrigin {
    /// Nobody has asked: the error was made of rusqlite's, by `?`, and its closure has not ended.
    Unknown,
    /// The store's own.
    Store,
    /// Another one. Its error is neither advice about this store nor a sign of its state. An error that the closure kept,
    /// while it ran other statements by rusqlite's own methods, counts as one, too: SQLite tells of the last error only.
    Other,
}

/// Everything that can go wrong in larder.
///
/// Match on the variant to decide, print it to tell the operator. For a failed write
/// [`outcome`](Error::outcome) says what became of it and [`is_retryable`](Error::is_retryable) whether the
/// same call is worth making again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value in [`Options`](crate::Options) cannot be used. Nothing was opened.
    #[error("option `{option}`: {problem}")]
    Options {
        /// The setter's name.
        option: &'static str,
        /// What is wrong with its value, and which values are right.
        problem: String,
    },

    /// The path cannot be opened as a database.
    #[error("cannot open {}: {problem}", path.display())]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// What is in the way, and what to do about it.
        problem: String,
        /// The error of SQLite or the operating system, where there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// This process has a [`Store`](crate::Store) on this file already, or one that is still closing.
    #[error(
        "{} {}", path.display(),
        match closing {
            Some(holder) => format!("is still being closed in this process: {holder}; open it again once that has ended"),
            None => "is already open in this process: clone the Store instead of opening it twice (two writers of one \
                     process would meet on SQLite's lock)".to_owned(),
        }
    )]
    AlreadyOpen {
        /// The database file.
        path: PathBuf,
        /// What a store still does that was told to close, and did not end within the busy timeout.
        closing: Option<String>,
    },

    /// Another process holds the file and did not let go within the busy timeout.
    #[error(
        "{} is locked by another process: wait for it if it migrates the file, else stop that process, or open the file with \
         Access::Shared there; then try again (a child that a process with an open store has forked without exec holds its \
         locks, too)", path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },

    /// The file lies on a file system on which SQLite's WAL is not safe.
    #[error(
        "{} is on {filesystem}, where the shared memory of SQLite's WAL does not work and fails \
         silently: move the database to a local disk, or call Options::allow_unsupported_filesystem(true) \
         if you know that one process on one machine opens it", path.display()
    )]
    UnsupportedFilesystem {
        /// The database file.
        path: PathBuf,
        /// The kind of file system.
        filesystem: String,
    },

    /// The SQLite that is linked has the WAL-reset bug, which can corrupt a database.
    #[error(
        "SQLite {version} has the WAL-reset bug (https://sqlite.org/wal.html#walresetbug), which can corrupt a \
         database: link 3.51.3 or newer, 3.50.7 or newer of 3.50, or 3.44.6 or newer of 3.44; \
         larder's `bundled` feature does"
    )]
    SqliteTooOld {
        /// The version that is linked.
        version: String,
    },

    /// A setting did not take effect on a connection.
    #[error("PRAGMA {name}: asked for {wanted}, SQLite says {got}: {hint}")]
    Pragma {
        /// The PRAGMA, or the `sqlite3_db_config` setting.
        name: &'static str,
        /// What larder asked for.
        wanted: String,
        /// What reading it back gave, or SQLite's error.
        got: String,
        /// The likely reason and the way out.
        hint: &'static str,
        /// SQLite's error, where there is one.
        #[source]
        source: Option<Arc<rusqlite::Error>>,
    },

    /// A migration failed, or the set of migrations does not fit the database.
    #[error(transparent)]
    Migration(Box<MigrationError>),

    /// The queue was full, and [`WhenFull::Fail`](crate::WhenFull::Fail) was asked for. The write, or the read, did not start.
    #[error(
        "the queue is full: all {capacity} places are taken; shed load, or wait for room with WhenFull::Wait \
         (Options::queue_capacity bounds a queue, Options::readers the reads on their callers' threads)"
    )]
    QueueFull {
        /// How many writes or reads there is room for.
        capacity: usize,
    },

    /// The write waited for as long as it may and was not started.
    #[error(
        "the write was not started: it waited {waited:?} in the queue; the writer is behind, so shed load, \
         make transactions shorter, or raise WriteOptions::queue_timeout"
    )]
    QueueTimeout {
        /// How long it had waited.
        waited: Duration,
    },

    /// Every reader was busy, or could not be opened, for as long as the read may wait.
    #[error(
        "no reader became free in {waited:?} ({readers} in the pool{}): {}",
        if *held_here > 0 { format!(", {held_here} of them held by this thread") } else { String::new() },
        match last_error {
            Some(reason) => format!("no further connection could be opened: {reason}"),
            None => "look for slow reads and for a read inside a read, or raise Options::readers".to_owned(),
        }
    )]
    ReadQueueTimeout {
        /// How long it had waited.
        waited: Duration,
        /// The size of the pool.
        readers: u32,
        /// How many of its connections the calling thread itself holds.
        held_here: usize,
        /// Why the pool could not open a connection, if it tried and failed, or how long it has tried so far.
        last_error: Option<String>,
    },

    /// The transaction that carried this write was rolled back, through another write of its group or because SQLite
    /// ended it in mid-closure. Nothing was written.
    #[error("the write was rolled back: {reason}; {}", rolled_back_advice(*caused_by_closure, source))]
    RolledBack {
        /// What ended the transaction.
        reason: &'static str,
        /// Whether the write's own closure brought it about, and went on as if nothing had happened. Then it would do so
        /// again.
        caused_by_closure: bool,
        /// SQLite's error, where there is one; shared with the other writes of the group.
        #[source]
        source: Option<Arc<rusqlite::Error>>,
    },

    /// COMMIT failed so that nobody can tell whether the write will be there after a restart. The store
    /// takes no further writes. See [`Poisoned`](Error::Poisoned).
    #[error(
        "COMMIT failed and its outcome is unknown: {source}; the write may reappear at recovery, so look at \
         the disk, open the store again, and check the data before you write it again"
    )]
    CommitUnknown {
        /// SQLite's error, shared with the other writes of the group.
        source: Arc<rusqlite::Error>,
    },

    /// An earlier COMMIT or checkpoint failed to reach the disk. The store serves reads and takes no writes.
    ///
    /// If a sync has failed, what it was to write is in the system's memory and taken for written (ext4 and xfs), and on no
    /// disk. To append to such a log would be to lose it all in a power failure. So a file beside the database, whose name
    /// ends in `-unsynced`, remembers it, and the next store that opens the database writes the log to the disk once more
    /// before anything else. If that file could not be made (an event says so), restart the machine before the service:
    /// then what is read is what is on the disk.
    ///
    /// A store is poisoned, too, when the watchdog ([`Options::monitor_interval`](crate::Options::monitor_interval)) finds that the database, its
    /// `-wal` or its `-shm` was removed or replaced while it was open, or that something in the process has closed a
    /// descriptor of one and so dropped SQLite's locks. `source` then has the code `SQLITE_READONLY_DBMOVED` or
    /// `SQLITE_READONLY_CANTLOCK`, and its message says what happened and what to do.
    #[error("{}", poisoned(source))]
    Poisoned {
        /// The error that poisoned the store.
        source: Arc<rusqlite::Error>,
    },

    /// The write-ahead log has reached [`Options::wal_hard_limit`](crate::Options::wal_hard_limit).
    #[error(
        "the write-ahead log holds {wal_bytes} bytes, over the hard limit of {limit}: {}",
        oldest.as_ref().map_or_else(
            || "another process reads an old snapshot; find it and end it".to_owned(),
            |reader| format!("end the oldest read, {reader}, or set Options::interrupt_old_readers")
        )
    )]
    WalFull {
        /// Bytes in the log.
        wal_bytes: u64,
        /// The limit, in bytes.
        limit: u64,
        /// Which read of this process is the oldest: where it was asked for, and its age.
        oldest: Option<String>,
    },

    /// SQL inside a closure did something that only larder may do, or a read tried to write.
    #[error("{statement} is refused here: {instead}")]
    Refused {
        /// The kind of statement.
        statement: String,
        /// What to use instead.
        instead: &'static str,
    },

    /// [`WriteTx::insert`](crate::WriteTx::insert) has no rowid to return, since its statement inserted no new row with one.
    #[error(
        "no new row with a rowid was inserted: {reason}; let the statement return the key with RETURNING and run it with \
         query_row, or run it with execute"
    )]
    NoRowid {
        /// What the statement is or has done instead.
        reason: String,
    },

    /// The call would have waited for the thread that made it.
    #[error("{call} would wait for its own thread for ever: {instead}")]
    Reentrant {
        /// The method that was called.
        call: &'static str,
        /// What to use instead.
        instead: &'static str,
        /// What became of the write: not started if it was the call that would have asked for it. A call that only waits
        /// for a write says `Unknown`, since the write goes on.
        outcome: Outcome,
    },

    /// A statement was stopped since its time was over.
    #[error("stopped after {limit:?}: {advice}")]
    Interrupted {
        /// The limit that it ran into.
        limit: Duration,
        /// Which limit that is, and how to stay below it.
        advice: &'static str,
    },

    /// A progress callback returned `ControlFlow::Break`.
    #[error(
        "the {work} was cancelled by its progress callback; the database is as it was, so run it again when there is \
         time for it"
    )]
    Cancelled {
        /// What was cancelled: `backup`, `check` or `vacuum`.
        work: &'static str,
    },

    /// A backup was not made. Under its name there is what there was before.
    #[error("no backup was made at {}: {problem}{}", path.display(), after_colon(detail))]
    Backup {
        /// The file that it was to be.
        path: PathBuf,
        /// What is in the way, and what to do about it.
        problem: &'static str,
        /// What SQLite or the operating system says of it, or what was found. It may quote names of the schema.
        detail: Option<String>,
        /// The error of SQLite or the operating system, where there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A backup was not restored. Where it was to be restored to there is what there was before.
    #[error("{} was not restored to {}: {problem}{}", from.display(), to.display(), after_colon(detail))]
    Restore {
        /// The backup.
        from: PathBuf,
        /// The file that it was to be restored to.
        to: PathBuf,
        /// What is in the way, and what to do about it.
        problem: &'static str,
        /// What SQLite or the operating system says of it, or what was found. It may quote names of the schema.
        detail: Option<String>,
        /// The error of SQLite or the operating system, where there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A file system has too little room for a `VACUUM`, which was not started.
    #[error(
        "a vacuum was not started: it needs about {needed} bytes in {}, and {available} are available there: free disk \
         space (or, if it is the folder of SQLite's temporary files, set SQLITE_TMPDIR in the environment to a folder \
         with more of it)", folder.display()
    )]
    InsufficientSpace {
        /// A folder on that file system: the database's, or that of SQLite's temporary files.
        folder: PathBuf,
        /// Bytes that may be needed there.
        needed: u64,
        /// Bytes that this process may still use there.
        available: u64,
    },

    /// The store is closed, or was closed before the write started.
    #[error(
        "the store is closed: nothing was started, and nothing that was under way is left half done; open it again, or keep a clone alive for as long as it is used"
    )]
    Closed,

    /// The process was forked from the one that opened the store. Only that one has its writer thread, its reader threads
    /// and the locks on its file, so a call in the child starts nothing. In the child a store is neither closed nor checkpointed, and
    /// its files stay open until the child ends or calls `exec`.
    ///
    /// A closure of a store must not return in a child that it has forked: on a thread of larder's that ends the child by
    /// [`abort`](std::process::abort).
    #[error(
        "the store was opened by the process that this one was forked from, and cannot be used here: call exec after the \
         fork, as std::process::Command does, or open each store in one process only, after the fork"
    )]
    Forked {
        /// Not started; or unknown, of a [`Pending`](crate::Pending) that the child waits for and the parent has submitted.
        outcome: Outcome,
    },

    /// SQLite, or rusqlite, said no.
    #[error("{source}{}", advice(source, *outcome, *origin))]
    Sqlite {
        /// The error as rusqlite gave it.
        source: rusqlite::Error,
        /// What became of the write, if it was one.
        outcome: Outcome,
        /// Which database said it.
        origin: ErrorOrigin,
    },

    /// The application's own error, made by [`Error::app`]. The write was rolled back.
    #[error("{0}")]
    App(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Wraps an application's own error, so that a closure can return it with `?` or `Err`.
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

    /// Takes the application's own error out again.
    ///
    /// # Errors
    ///
    /// Gives the error back unchanged if it is not an `E` made by [`Error::app`].
    pub fn downcast<E: StdError + 'static>(self) -> std::result::Result<E, Error> {
        match self {
            Error::App(inner) => inner.downcast::<E>().map(|e| *e).map_err(Error::App),
            other => Err(other),
        }
    }

    /// The application's own error, if it is an `E` made by [`Error::app`].
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Error::App(inner) => inner.downcast_ref::<E>(),
            _ => None,
        }
    }

    /// What became of the write that gave this error. For a read, which writes nothing, the answer is one of the two
    /// that say so. An error that a closure passed on from another call of larder's speaks of that call.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::CommitUnknown { .. } => Outcome::Unknown,
            Error::Sqlite { outcome, .. } | Error::Reentrant { outcome, .. } => *outcome,
            Error::Migration(error) => error.outcome(),
            Error::RolledBack { .. }
            | Error::App(_)
            | Error::Refused { .. }
            | Error::NoRowid { .. }
            | Error::Interrupted { .. }
            | Error::Cancelled { .. }
            | Error::Backup { .. }
            | Error::Restore { .. } => Outcome::RolledBack,
            Error::Options { .. }
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
            | Error::WalFull { .. }
            | Error::InsufficientSpace { .. }
            | Error::Closed => Outcome::NotStarted,
            Error::Forked { outcome } => *outcome,
        }
    }

    /// Whether the same call, made again after a pause, may well succeed and cannot write twice.
    ///
    /// True for a full queue, the time-outs, a group that was rolled back (but for a full disk, or by the write
    /// itself), a full log, a file in use or still being closed, a migration that met another process's lock, and SQLite's `BUSY` and
    /// `LOCKED` where nothing was started. False for what will fail again (a constraint, a mistake in SQL, a closed or
    /// poisoned store, an application's own error) and for [`CommitUnknown`](Error::CommitUnknown), where a second try
    /// could write twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::QueueFull { .. }
            | Error::QueueTimeout { .. }
            | Error::ReadQueueTimeout { .. }
            | Error::WalFull { .. }
            | Error::InUse { .. }
            | Error::AlreadyOpen { closing: Some(_), .. } => true,
            Error::Migration(error) => error.is_retryable(),
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

    /// rusqlite's error, where SQLite is the one who said no.
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
            Error::Backup { source, .. } | Error::Restore { source, .. } => {
                let source = source.as_ref()?;
                let inner = || source.downcast_ref::<Error>().and_then(Error::sqlite);
                source.downcast_ref().or_else(inner)
            }
            _ => None,
        }
    }

    /// The variant's name, for the `error.type` of an event. It never carries data.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Error::Options { .. } => "Options",
            Error::Open { .. } => "Open",
            Error::AlreadyOpen { .. } => "AlreadyOpen",
            Error::InUse { .. } => "InUse",
            Error::UnsupportedFilesystem { .. } => "UnsupportedFilesystem",
            Error::SqliteTooOld { .. } => "SqliteTooOld",
            Error::Pragma { .. } => "Pragma",
            Error::Migration(_) => "Migration",
            Error::QueueFull { .. } => "QueueFull",
            Error::QueueTimeout { .. } => "QueueTimeout",
            Error::ReadQueueTimeout { .. } => "ReadQueueTimeout",
            Error::RolledBack { .. } => "RolledBack",
            Error::CommitUnknown { .. } => "CommitUnknown",
            Error::Poisoned { .. } => "Poisoned",
            Error::WalFull { .. } => "WalFull",
            Error::Refused { .. } => "Refused",
            Error::NoRowid { .. } => "NoRowid",
            Error::Reentrant { .. } => "Reentrant",
            Error::Interrupted { .. } => "Interrupted",
            Error::Cancelled { .. } => "Cancelled",
            Error::Backup { .. } => "Backup",
            Error::Restore { .. } => "Restore",
            Error::InsufficientSpace { .. } => "InsufficientSpace",
            Error::Closed => "Closed",
            Error::Forked { .. } => "Forked",
            Error::Sqlite { .. } => "Sqlite",
            Error::App(_) => "App",
        }
    }

    /// What went wrong, for an event: without what SQLite says, which may quote data.
    pub(crate) fn without_data(&self) -> String {
        let code = self.sqlite().and_then(extended_code);
        let because = code.map_or(String::new(), |code| format!(" (SQLite's error {code})"));
        match self {
            Error::Backup { problem, source, .. } => {
                let system = source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
                let system = system.map_or(String::new(), |error| format!(": {error}"));
                format!("{problem}{system}{because}")
            }
            Error::Options { .. } | Error::Interrupted { .. } | Error::Cancelled { .. } | Error::Closed => {
                self.to_string()
            }
            other => format!("{}{because}", other.kind()),
        }
    }

    /// The operating system gave no thread for that part of a store.
    pub(crate) fn no_thread(path: &Path, part: &str, source: io::Error) -> Self {
        Error::Open {
            path: path.into(),
            problem: format!(
                "the operating system gave no thread for {part}: {source}; raise its limit on threads (ulimit -u, \
                 the pids.max of a container) or on memory (ulimit -v)"
            ),
            source: Some(Box::new(source)),
        }
    }

    /// A thread of larder's panicked in the middle of a job.
    pub(crate) fn worker_panicked() -> rusqlite::Error {
        let message = "a thread of larder's panicked: please report it".to_owned();
        rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(message))
    }

    /// A call in a forked child.
    pub(crate) fn forked() -> Self {
        Error::Forked {
            outcome: Outcome::NotStarted,
        }
    }

    /// SQLite refused before the closure was run.
    pub(crate) fn not_started(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::NotStarted,
            origin: ErrorOrigin::Store,
        }
    }

    /// An error of the store's database, inside a closure.
    pub(crate) fn of_store(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Store,
        }
    }

    /// An error of another database, inside a closure.
    pub(crate) fn of_another(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Other,
        }
    }

    /// Notes that the error is another database's, unless the store's connection gave it last, which the function tells.
    pub(crate) fn with_origin(self, gave_last: impl FnOnce(&rusqlite::Error) -> bool) -> Self {
        match self {
            Error::Sqlite {
                source,
                outcome,
                origin: ErrorOrigin::Unknown,
            } if primary_code(&source).is_some() => {
                let own = gave_last(&source);
                let origin = if own { ErrorOrigin::Store } else { ErrorOrigin::Other };
                Error::Sqlite {
                    source,
                    outcome,
                    origin,
                }
            }
            other => other,
        }
    }
}

impl From<MigrationError> for Error {
    fn from(error: MigrationError) -> Self {
        Error::Migration(Box::new(error))
    }
}

/// An error inside a closure rolls the closure back, so that is the outcome it carries.
impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Error::Sqlite {
            source,
            outcome: Outcome::RolledBack,
            origin: ErrorOrigin::Unknown,
        }
    }
}

fn poisoned(source: &rusqlite::Error) -> String {
    if primary_code(source) == Some(ffi::SQLITE_READONLY) {
        return format!("the store takes no more writes: {source}");
    }
    format!(
        "the store takes no more writes since the disk failed it: {source}; reads go on; check the disk, then restart the \
         service: opening the store writes its log to the disk once more"
    )
}

fn after_colon(detail: &Option<String>) -> String {
    detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"))
}

fn rolled_back_advice(caused_by_closure: bool, source: &Option<Arc<rusqlite::Error>>) -> &'static str {
    match (caused_by_closure, disk_is_full(source)) {
        (true, _) => "return the error of the statement that did it, and mend that before you try again",
        (false, true) => "free disk space, then try again",
        (false, false) => "try again",
    }
}

fn disk_is_full(source: &Option<Arc<rusqlite::Error>>) -> bool {
    source
        .as_ref()
        .is_some_and(|e| primary_code(e) == Some(ffi::SQLITE_FULL))
}

/// What to do next about the few SQLite errors that an operator, not the programmer, has to act on.
fn advice(source: &rusqlite::Error, outcome: Outcome, origin: ErrorOrigin) -> &'static str {
    if origin == ErrorOrigin::Other {
        return "";
    }
    match (primary_code(source), outcome) {
        (Some(ffi::SQLITE_BUSY), Outcome::NotStarted) => {
            "; another process held SQLite's lock for longer than the busy timeout, and nothing was \
             started: find that process, then try again"
        }
        (Some(ffi::SQLITE_FULL), _) => "; free disk space, or raise max_page_count, then try again",
        (Some(ffi::SQLITE_CORRUPT), _) if extended_code(source) == Some(ffi::SQLITE_CORRUPT_VTAB) => {
            "; rebuild the full-text or R-tree table that is damaged"
        }
        _ if is_damage(source) => "; stop the service and restore a backup that was checked",
        _ => "",
    }
}

/// SQLite's extended result code, whichever of rusqlite's variants carries it.
pub(crate) fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    let inner = error.source().and_then(|s| s.downcast_ref::<ffi::Error>());
    inner.or_else(|| error.sqlite_error()).map(|e| e.extended_code)
}

/// SQLite's primary result code: the low byte of the extended one.
pub(crate) fn primary_code(error: &rusqlite::Error) -> Option<i32> {
    extended_code(error).map(|code| code & 0xff)
}

/// Whether the error means that the database is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(primary_code(error), Some(ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB))
}
