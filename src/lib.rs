//! SQLite in production, as one Rust type.
//!
//! A [`Store`] is one SQLite file with what a service needs around it: one thread that writes, with group commit;
//! a pool of read-only connections, one snapshot a read; the right PRAGMAs on every connection, each read back;
//! bounded queues, first come first served; errors that say what became of a write; and a shutdown that drains.
//!
//! ```no_run
//! use larder::{Store, rusqlite::params};
//!
//! let store = Store::open("app.db")?; // every default right for production
//! store.write(|tx| {
//!     tx.execute_batch("CREATE TABLE IF NOT EXISTS users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
//! })?;
//!
//! let id = store.write(|tx| tx.insert("INSERT INTO users(name) VALUES (?1)", params!["Ada"]))?; // committed
//! let name: String =
//!     store.read(|tx| tx.query_row("SELECT name FROM users WHERE id = ?1", [id], |row| row.get(0)))?;
//! assert_eq!(name, "Ada");
//! store.close()?; // or drop the last clone
//! # Ok::<_, larder::Error>(())
//! ```
//!
//! # How it works
//!
//! ```text
//!  any thread, any async task
//!    | write(f)  submit(f)                                | read(f)
//!    v                                                    v
//!  first come, first served --> queue --> writer thread   pool --> read-only connections
//!                                  BEGIN IMMEDIATE            BEGIN        one snapshot a closure
//!                                    job 1                      f(&tx)
//!                                    SAVEPOINT job 2 RELEASE  COMMIT
//!                                    SAVEPOINT job 3 ROLLBACK TO
//!                                  COMMIT
//!                                  then reply to each job
//!                                  checkpoint, if it is due
//! ```
//!
//! SQLite has one writer at a time, whoever writes. So all writes go to one thread, which commits those that are
//! queued together, and no write meets `SQLITE_BUSY` from inside the process. Reads run on the thread that asks,
//! beside the writer and beside each other.
//!
//! - [`Store::write`] blocks until its closure is committed. [`Store::submit`] queues it and gives a [`Pending`],
//!   to wait for or to `.await` on any runtime. With [`WhenFull::Fail`] a call does not wait for room
//!   in a full queue.
//! - Tasks await `Store::write_async`, `read_async` and `close_async` on any runtime (feature `async`); reader threads
//!   make many of their reads in one snapshot.
//! - [`Store::read`] gives its closure one snapshot, at least as new as every write acknowledged before.
//! - [`WriteTx`] and [`ReadTx`] have methods that use the statement cache, and deref to
//!   [`rusqlite::Connection`]. SQL in a closure may not end its transaction or leave the database; what it may not
//!   do is an [`Error::Refused`] that names what to use instead.
//! - [`Error::outcome`] says of a failed write: not started, rolled back, or unknown.
//!   [`Error::is_retryable`] says whether to try again.
//! - [`Migrations`] are applied as a store opens, from a list, embedded files or a folder, in the formats of Dbmate and
//!   Goose or as plain numbered SQL; each is one transaction, made by one process.
//! - [`Store::check`] looks for damage while everybody works on, [`Store::vacuum`] gives the space of free pages back; both
//!   tell their progress, and can be cancelled.
//! - [`Store::backup`] copies the database while everybody works on, and looks at the copy before it gives it its name;
//!   [`Store::backup_every`] does it again and again, [`Store::restore`] makes a database of a copy.
//! - [`Options`] has every knob, each with default, unit and reason.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `async` | yes | [`write_async`](Store#for-tasks), `read_async`, `close_async`: for tasks of any runtime |
//! | `bundled` | yes | compiles the SQLite that rusqlite carries; without it the system's is linked |
//! | `metrics` | no | tells the recorder of the `metrics` facade what [`Store::stats`] says: for Prometheus and others |
//! | `serde` | no | `Serialize` and `Deserialize` for [`Options`], with sizes and durations that people can read; `Serialize` for [`Stats`] |

#![deny(unsafe_code)]
// The feature adds calls to `Store`, and leaves the rest as it is.
#![cfg_attr(not(feature = "async"), allow(dead_code))]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("larder is for Unix: it rests on POSIX locks and on file modes");

mod backup;
mod connection;
mod engine;
mod error;
mod maintenance;
mod migrate;
mod monitor;
mod options;
mod queue;
mod read;
mod runtime;
mod store;
mod telemetry;
mod transaction;
mod write;

pub use rusqlite;

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use monitor::metrics;

pub use self::backup::{Backup, BackupProgress, BackupReport, BackupSchedule, BackupStage, RestoreReport};
pub use self::error::{Error, ErrorOrigin, Outcome, Result};
pub use self::maintenance::check::{Check, CheckProgress, CheckReport, CheckStage, ForeignKeyViolation};
pub use self::maintenance::vacuum::{Vacuum, VacuumProgress, VacuumReport};
pub use self::migrate::{
    Adopt, AppliedMigration, Direction, DryRun, Migration, MigrationError, MigrationReport, MigrationStatus,
    MigrationStep, Migrations, PendingMigration,
};
pub use self::monitor::advice::{Finding, Severity};
pub use self::options::{Access, AutoVacuum, Durability, ReadOptions, Role, WhenFull, WriteOptions};
pub use self::queue::pending::Pending;
pub use self::store::{Options, Store};
pub use self::telemetry::Measurement;
pub use self::telemetry::alert::{Alert, AlertKind};
pub use self::telemetry::histogram::{Distribution, Latency};
pub use self::telemetry::stats::{
    Activity, CallSiteStats, Checkpoint, DatabaseStats, LastBackup, Operation, PageCacheStats, ReaderStats,
    StatementStats, Stats,
};
pub use self::transaction::{ReadTx, WriteTx};
pub use self::write::closing::CloseReport;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
