//! SQLite in production behind one type.
//!
//! A [`Store`] is one SQLite file with what a service needs around it: a writer thread with group commit; a pool of
//! read-only connections, one snapshot a read; verified PRAGMAs on every connection; bounded queues, first come first
//! served; errors that say whether a failed write took effect; and a shutdown that drains.
//!
//! ```no_run
//! use larder::{Store, rusqlite::params};
//!
//! let store = Store::open("app.db")?; // every default is meant for production
//! let users = "CREATE TABLE IF NOT EXISTS users(
//!     id INTEGER PRIMARY KEY,
//!     name TEXT NOT NULL
//! ) STRICT";
//! store.write(move |tx| tx.execute_batch(users))?;
//!
//! let id = store.write(|tx| {
//!     tx.insert("INSERT INTO users(name) VALUES (?1)", params!["Ada"])
//! })?; // committed
//! let name: String =
//!     store.read(|tx| tx.scalar("SELECT name FROM users WHERE id = ?1", [id]))?;
//! assert_eq!(name, "Ada");
//! store.close()?; // or drop the last clone
//! # Ok::<_, larder::Error>(())
//! ```
//!
//! The [guides](guide) have a page for each task, from [the first store](guide::getting_started) to
//! [operations](guide::operations). In a service, start with [async](guide::asynchronous) and the
//! [repository layer](guide::repository_and_tests).
//!
//! # How it works
//!
//! ```text
//!  any thread, any async task
//!    | write(f)  submit(f)                                | read(f)
//!    v                                                    v
//!  first come, first served --> queue --> writer thread   pool --> read-only connections
//!                                  BEGIN IMMEDIATE            BEGIN   one snapshot a closure
//!                                    job 1                      f(&tx)
//!                                    SAVEPOINT job 2 RELEASE  COMMIT
//!                                    SAVEPOINT job 3 ROLLBACK TO
//!                                  COMMIT
//!                                  then reply to each job
//!                                  checkpoint, if it is due
//! ```
//!
//! SQLite has one writer at a time. So all writes go to one thread, which commits those that are queued together, and no
//! write meets `SQLITE_BUSY` from inside the process. (A blocking caller that finds it idle commits in its place.) Reads
//! run on the calling thread, beside the writer and beside each other.
//!
//! # The types by theme
//!
//! | theme | start with |
//! |---|---|
//! | writing and reading | [`Store::write`], [`Store::submit`] and its [`Pending`], [`Store::read`]; [`WriteTx`], [`ReadTx`], [`FromRow`] |
//! | with errors of your own | [`Store::transact`], [`Store::query`], [`WriteTx::transact`] |
//! | async | `Store::write_async`, `read_async`, `transact_async`, `query_async`, `close_async` (feature `async`), on any runtime |
//! | many rows | [`Store::query_each`], [`ReadTx::each`]; `Store::read_stream` for tasks (feature `async`) |
//! | options | [`Options`] of a store, [`Key`] of an encrypted one, [`WriteOptions`] and [`ReadOptions`] of one call; [`Durability`], [`Access`], [`Checkpoints`], [`WhenFull`] |
//! | errors | [`Error`](enum@Error), [`Error::outcome`], [`Error::is_retryable`] |
//! | bulk work | [`Store::bulk`]: many rows, in slices beside other writes |
//! | full text | [`fts5`]: what a user has typed, as a query |
//! | migrations | [`Migrations`], [`Store::migrate`], [`MigrationError`] |
//! | tests | [`Store::open_temp`], [`Template`], [`Migrations::check`] |
//! | maintenance | [`Store::check`], [`Store::vacuum`] |
//! | backups | [`Store::backup`], [`Store::backup_every`], [`Store::restore`] |
//! | observability | [`Store::stats`], [`Stats`], [`Alert`], [`Store::advice`], [`Finding`] |
//!
//! [`rusqlite`] is re-exported: use `larder::rusqlite`, and do not add rusqlite yourself.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `async` | yes | [`write_async`](Store#async), `read_async`, `read_stream`, `close_async`: for tasks of any runtime |
//! | `bundled` | yes | compiles the SQLite that rusqlite carries; without it the system's is linked |
//! | `csv` | no | [`Bulk::csv`]: CSV files into tables, with the numbers of bad lines |
//! | `derive` | no | `#[derive(FromRow)]` and `#[derive(Id)]`: structs by the names of columns, keys with a type of their own; `migrations!`: the files of a folder in the program |
//! | `metrics` | no | copies the figures of [`Store::stats`] to the recorder of the `metrics` facade: for Prometheus and others |
//! | `postgres` | no | `Store::export_to_postgres` and `Store::import_from_postgres`: the tables of a store in a PostgreSQL database, and of one in a new store, all rows compared |
//! | `replicate` | no | [`Options::replicate_to`], [`Store::restore_from`] and [`Replica`]: a copy in a folder that is never more than a second behind, in the format of Litestream 0.5 |
//! | `serde` | no | `Serialize` and `Deserialize` for [`Options`], with sizes and durations in words; `Serialize` for [`Stats`] and for all reports |
//! | `sqlcipher` | no | [`Options::key`]: [encryption](guide::operations#encryption) by SQLCipher, in the place of SQLite |
//! | `full` | no | every feature but `sqlcipher` |
//! | `chrono`, `jiff`, `serde_json`, `time`, `url`, `uuid` | no | rusqlite's: the types of these crates as parameters and columns |
//! | `array`, `blob`, `collation`, `column_decltype`, `csvtab`, `functions`, `load_extension`, `series`, `trace`, `vtab`, `window` | no | rusqlite's: [parts of its API](guide::getting_started#features-of-rusqlite) |

#![deny(unsafe_code)]
// The features add calls to `Store`, and leave the rest as it is.
#![cfg_attr(not(all(feature = "async", feature = "replicate")), allow(dead_code))]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("larder is for Unix: it rests on POSIX locks and on file modes");

mod backup;
mod bulk;
mod connection;
mod engine;
mod error;
mod maintenance;
mod migrate;
mod monitor;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod read;
/// The parts of replication. They are public for the fuzz targets and the integration tests alone.
#[cfg(feature = "replicate")]
#[doc(hidden)]
pub mod replica;
mod runtime;
mod store;
mod telemetry;
mod transaction;
mod write;

#[cfg(doc)]
pub mod guide;

pub use rusqlite;

// The store, and what its closures are given.
pub use self::queue::pending::Pending;
#[cfg(feature = "async")]
pub use self::store::RowStream;
pub use self::store::Store;
pub use self::transaction::flow::Flow;
pub use self::transaction::{ReadTx, WriteTx};
pub use self::write::closing::CloseReport;

// Rows into values.
#[cfg(feature = "derive")]
#[doc(hidden)]
pub use self::transaction::derived;
pub use self::transaction::from_row::{ColumnNames, FoundColumns, FromRow, NextColumn};
pub use self::transaction::fts5;
#[cfg(feature = "derive")]
#[cfg_attr(docsrs, doc(cfg(feature = "derive")))]
pub use self::transaction::macros::{FromRow, Id};

// Options.
pub use self::options::{Access, AutoVacuum, Checkpoints, Durability, Key, ReadOptions, Role, WhenFull, WriteOptions};
pub use self::store::{Options, Template};

// Errors.
pub use self::error::{Constraint, Error, ErrorContext, ErrorOrigin, ForeignKey, Outcome, Result};

// Migrations.
#[cfg(feature = "derive")]
#[cfg_attr(docsrs, doc(cfg(feature = "derive")))]
pub use self::migrate::macros::migrations;
pub use self::migrate::{
    Adopt, AppliedMigration, Direction, DryRun, Migration, MigrationError, MigrationReport, MigrationStatus,
    MigrationStep, Migrations, PendingMigration,
};

// Bulk work.
#[cfg(feature = "async")]
pub use self::bulk::BulkStream;
pub use self::bulk::retention::{RetainOptions, Retention};
pub use self::bulk::{Bulk, BulkJob, BulkProgress, BulkReport, BulkRow, OnViolation, Source, Violation};
#[cfg(feature = "csv")]
pub use self::bulk::{BulkCsv, CsvType, CsvTypes};

// Maintenance and backups.
pub use self::backup::{
    Backup, BackupProgress, BackupReport, BackupSchedule, BackupStage, RestoreOptions, RestoreReport,
};
pub use self::maintenance::check::{Check, CheckProgress, CheckReport, CheckStage, ForeignKeyViolation};
pub use self::maintenance::vacuum::{Vacuum, VacuumProgress, VacuumReport};

// Replication.
#[cfg(feature = "replicate")]
#[cfg_attr(docsrs, doc(cfg(feature = "replicate")))]
pub use self::replica::{
    At, BranchReport, Follower, FollowerOptions, Lag, OnDivergence, ParseTokenError, Replica, ReplicaOptions,
    ReplicaRestore, ReplicaRestoreProgress, ReplicaRestoreReport, ReplicaRestoreStage, ReplicaVerify, RestorePoint,
    RestoreSpan, RestoredState, StoreReplica, Token, VerifyReport, WhenSpoolFull,
};

// PostgreSQL.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::export::{
    ExportDifference, ExportEstimate, ExportMisfit, ExportNote, ExportProgress, ExportReport, ExportStage,
    ExportStatement, ExportToPostgres, ExportedTable, OnMisfit,
};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::import::report::{ImportedTable, PostgresImportReport, PostgresNote};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::import::{PostgresImport, PostgresImportProgress, PostgresImportStage, PostgresNan};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::types::PgType;

// Statistics, alerts and advice.
pub use self::monitor::advice::{Finding, Severity};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::monitor::metrics;
pub use self::telemetry::Measurement;
pub use self::telemetry::alert::{Alert, AlertKind};
pub use self::telemetry::histogram::{Distribution, Latency};
pub use self::telemetry::stats::{
    Activity, BulkStats, CallSiteStats, Checkpoint, DatabaseStats, ExportStats, FollowerStats, LastBackup, LastExport,
    LastVerify, Operation, PageCacheStats, ReadOnly, ReaderStats, ReplicaState, ReplicaStats, RetentionStats,
    StatementStats, Stats, StreamStats,
};

/// The README's example compiles.
#[cfg(all(doctest, feature = "derive"))]
#[doc = include_str!("../README.md")]
struct Readme;
