//! The arguments. Their comments are the texts of `--help`.

use std::path::PathBuf;
use std::time::Duration;
#[cfg(feature = "replicate")]
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0    done, and nothing is wrong
  1    done, and something is wrong: damage, bad lines, a set of migrations that fails its check
  2    the arguments do not fit
  3    it could not be done; the message says why, and what to do
  4    it could not be done now: the file is locked or the storage does not answer. Try again
  130  interrupted by Ctrl-C

All commands work beside a running service that has the database open. None but `restore` and \
`replicate restore` creates a database that is not there, unless it is asked to by --create-database. \
`import`, `vacuum`, `migrate up` and `migrate down` switch a database with a rollback journal to WAL mode, \
in which it stays.";

/// Checks, backups, migrations, imports and replicas of SQLite databases, also beside a running service.
#[derive(Debug, Parser)]
#[command(name = "larder", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    /// Print the result as one JSON object on stdout. An error is {"error": {"kind", "message", ..}}
    #[arg(long, global = true, display_order = 1000)]
    pub(crate) json: bool,

    /// Show no progress and no remarks on stderr
    #[arg(long, short, global = true, display_order = 1001)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Look for damage, and for foreign keys without a parent row
    Check(CheckArgs),
    /// Copy a database to a file, and verify the copy
    Backup(BackupArgs),
    /// Create a database from a backup, and verify it
    Restore(RestoreArgs),
    /// Apply, undo, list and check migrations of a folder
    #[command(subcommand)]
    Migrate(MigrateVerb),
    /// Rebuild a database without its free pages. Writes of all processes wait meanwhile
    Vacuum(VacuumArgs),
    /// Size, log, settings and tables of a database
    Stats(StatsArgs),
    /// What to improve: indexes that are missing or duplicate, tables, statistics, size
    ///
    /// Exits with 1 if a finding is more than a note. What only a running service knows, such as its slow statements,
    /// Store::advice tells inside that service.
    Advice(AdviceArgs),
    /// Load CSV files into tables: all lines or none
    ///
    /// The header names the columns. Values get the types of the table: a value that does not fit makes a bad line, and
    /// so does a constraint that it violates. By default one bad line keeps the whole import from taking place. Bad lines
    /// are listed on stderr, and in the result of --json.
    ///
    /// With the feature postgres, `larder import postgres://user@host/name app.db` and `larder import dump.sql[.gz] app.db`
    /// make a new database from one of PostgreSQL, compared row by row. The options are then --numeric-as-real and --nan.
    Import(ImportArgs),
    /// Copy all tables to a PostgreSQL database, and compare every row before the commit
    ///
    /// A password among the arguments is refused, since other users can see it: give it by PGPASSWORD or ~/.pgpass.
    #[cfg(feature = "postgres")]
    Export(ExportArgs),
    /// Run one statement that reads
    ///
    /// Its rows are kept in memory, so that no snapshot is held while they are printed.
    Sql(SqlArgs),
    /// List, restore and verify what a replica has
    #[cfg(feature = "replicate")]
    #[command(subcommand)]
    Replicate(ReplicateVerb),
}

#[derive(Args, Debug)]
pub(crate) struct Database {
    /// The database file
    pub(crate) database: PathBuf,

    /// How long to wait for the lock of another process
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) wait: Duration,

    /// Let views, triggers and constraints call functions that are not known to be safe, as SQLite does by default
    #[arg(long)]
    pub(crate) trusted_schema: bool,

    /// Accept double-quoted strings, as SQLite does by default
    #[arg(long)]
    pub(crate) double_quoted_strings: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Also compare each index with its table, which takes several times as long
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The file to create
    pub(crate) target: PathBuf,

    /// Leave out free pages, and keep the pages of each table together. Takes twice the space meanwhile
    #[arg(long)]
    pub(crate) compact: bool,

    /// Replace the target, once the backup is complete
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Compare all rows by their SHA-256, and print it
    #[arg(long)]
    pub(crate) checksum: bool,

    /// Do not check the copy. Such a backup may be unusable
    #[arg(long, conflicts_with = "checksum")]
    pub(crate) no_verify: bool,

    /// Pause between two steps of 1024 pages, to leave the disk to others
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub(crate) pause: Duration,

    /// How long the backup may take [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
}

#[cfg(feature = "postgres")]
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The server: postgres://user@host:5432/database, or `host=.. dbname=.. user=..`
    pub(crate) url: String,

    /// Write nothing: print the tables, the values that do not fit (exit code 1), what would not be there, and how long it
    /// would take here
    #[arg(long)]
    pub(crate) plan: bool,

    /// Statements of the service, to list those that have to change: the JSON of its Store::stats (with max_statements), a
    /// JSON list of their texts, or SQL
    #[arg(long, value_name = "FILE", requires = "plan")]
    pub(crate) statements: Option<PathBuf>,

    /// Also measure the server: write a sample of each table to a schema of a random name, and roll it back
    #[arg(long, requires = "plan")]
    pub(crate) probe: bool,

    /// The schema at the server
    #[arg(long, default_value = "public")]
    pub(crate) schema: String,

    /// What becomes of values that do not fit the type of their column
    #[arg(long, value_enum, default_value = "fail")]
    pub(crate) misfits: Misfits,

    /// Choose boolean, json, uuid, date and timestamptz where every value fits
    #[arg(long)]
    pub(crate) infer_types: bool,

    /// Commit table by table to a schema of its own, and go on where an earlier run was broken off
    #[arg(long)]
    pub(crate) resumable: bool,

    /// The type of a column, such as users.id=uuid; may be given several times
    #[arg(long = "type", value_name = "TABLE.COLUMN=TYPE")]
    pub(crate) column_types: Vec<String>,

    /// A file with the types of columns, one a line: table.column = type. # begins a comment
    #[arg(long, value_name = "FILE")]
    pub(crate) types: Option<PathBuf>,
}

#[cfg(feature = "postgres")]
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Misfits {
    Fail,
    Null,
    /// The column becomes text
    Text,
    /// Their rows go to the table larder_quarantine
    Quarantine,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup, or any other SQLite database. It is not changed
    pub(crate) backup: PathBuf,

    /// The database to create. There must be no file of this name
    pub(crate) database: PathBuf,

    /// Restore a damaged backup as it is, to save what is left of it
    #[arg(long)]
    pub(crate) no_verify: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VacuumArgs {
    #[command(flatten)]
    pub(crate) database: Database,
}

#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Count the rows of each table, which reads all of it
    #[arg(long)]
    pub(crate) rows: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AdviceArgs {
    #[command(flatten)]
    pub(crate) database: Database,
}

#[derive(Args, Debug)]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The statement; - reads it from stdin
    pub(crate) sql: String,

    /// How many rows are printed at most
    #[arg(long, value_name = "ROWS", default_value_t = 1000)]
    pub(crate) limit: usize,

    /// How long the statement may run
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) timeout: Duration,

    /// Print CSV. NULL is an empty field
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

// ---- migrate ----

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateVerb {
    /// List the applied and the pending migrations. Changes nothing
    Status(MigrateStatusArgs),
    /// Apply the pending migrations, each in a transaction of its own
    ///
    /// Ctrl-C ends the command at once: the running migration is rolled back, those before it stay.
    Up(UpArgs),
    /// Undo the newest migration, or all above a version
    Down(DownArgs),
    /// Create an empty file for a migration
    New(NewArgs),
    /// Apply all migrations to a temporary database, undo them, and apply them again
    Check(MigrateCheckArgs),
}

#[derive(Args, Debug)]
pub(crate) struct MigrationSet {
    /// The folder of the migrations: Dbmate's, Goose's, refinery's, or plain numbered SQL
    #[arg(long, short, value_name = "FOLDER", default_value = "migrations")]
    pub(crate) folder: PathBuf,

    /// Allow gaps in the versions
    #[arg(long)]
    pub(crate) allow_gaps: bool,

    /// Versions whose comments begin no way down, although they look like it
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub(crate) plain_comments: Vec<u64>,

    /// Go on from the record of another tool
    #[arg(long, value_name = "TOOL")]
    pub(crate) adopt: Option<AdoptFrom>,

    /// Go on from these versions, which another tool has applied
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub(crate) adopt_versions: Vec<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AdoptFrom {
    Goose,
    Sqlx,
    Diesel,
    Refinery,
    UserVersion,
    Nothing,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateStatusArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    #[command(flatten)]
    pub(crate) set: MigrationSet,

    /// Exit with 1 if a migration is pending
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The last version to apply [default: the newest]
    pub(crate) version: Option<u64>,

    #[command(flatten)]
    pub(crate) set: MigrationSet,

    /// Create the database if it is not there. It stays, even if the rest fails
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) create_database: bool,

    /// Apply all pending migrations to a copy instead, which is deleted afterwards
    #[arg(long, conflicts_with = "version")]
    pub(crate) dry_run: bool,

    /// Make a verified backup in this folder before the first one
    #[arg(long, value_name = "FOLDER")]
    pub(crate) backup_to: Option<PathBuf>,

    /// Refuse a migration that creates a table without STRICT
    #[arg(long)]
    pub(crate) require_strict: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Undo all migrations above this version; 0 undoes all [default: undo the newest one]
    pub(crate) version: Option<u64>,

    #[command(flatten)]
    pub(crate) set: MigrationSet,
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// The name: letters, digits, _ and -
    pub(crate) name: String,

    /// The folder of the migrations, which is created if it is missing
    #[arg(long, short, value_name = "FOLDER", default_value = "migrations")]
    pub(crate) folder: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateCheckArgs {
    #[command(flatten)]
    pub(crate) set: MigrationSet,

    /// Refuse a migration that creates a table without STRICT
    #[arg(long)]
    pub(crate) require_strict: bool,
}

// ---- import ----

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) database: Database,

    /// The files; - is stdin
    #[arg(required = true, value_name = "CSV")]
    pub(crate) files: Vec<PathBuf>,

    /// The table for all files [default: each file's name without its ending]
    #[arg(long, short)]
    pub(crate) table: Option<String>,

    /// Create the table, with STRICT
    #[arg(long)]
    pub(crate) create_table: bool,

    /// Create the database if it is not there. It stays, even if the rest fails
    #[arg(long)]
    pub(crate) create_database: bool,

    /// Types of the table to create, such as id=INTEGER,price=REAL; columns without one are TEXT
    #[arg(long, value_name = "COLUMN=TYPE", value_delimiter = ',', requires = "create_table", value_parser = pair)]
    pub(crate) types: Vec<(String, String)>,

    /// Choose INTEGER, REAL or TEXT for columns without a type by reading the files once before
    #[arg(long, requires = "create_table")]
    pub(crate) infer: bool,

    /// Columns of the primary key of the table to create
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', requires = "create_table")]
    pub(crate) primary_key: Vec<String>,

    /// The column of the table for a name in the header
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = pair)]
    pub(crate) map: Vec<(String, String)>,

    /// Names in the header that are not imported
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) skip: Vec<String>,

    /// The files have no header: these are the names, in the order of the fields
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) header: Vec<String>,

    /// The character between two fields
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,

    /// The text that stands for NULL; may be given several times [default: the empty field]
    #[arg(long, value_name = "TEXT")]
    pub(crate) null: Vec<String>,

    /// What to do with a line whose key is in the table already
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub(crate) on_conflict: OnConflict,

    /// How many bad lines are left out; one more, and nothing is imported (with --slices, what was committed stays)
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub(crate) max_bad: u64,

    /// Commit every few milliseconds, and pause in between, so that a running service writes meanwhile. What was committed
    /// stays, whatever comes after it [default: commit once, at the end]
    #[arg(long)]
    pub(crate) slices: bool,

    /// Note in the database, in its table larder_bulk, how many lines of each file are done: after Ctrl-C or a kill the same
    /// command goes on behind them. A last line without a line feed counts as a whole one
    #[arg(long, requires = "slices")]
    pub(crate) resumable: bool,

    /// From PostgreSQL: keep numeric as REAL, with 15 to 17 digits [default: as text, with all digits]
    #[cfg(feature = "postgres")]
    #[arg(long)]
    pub(crate) numeric_as_real: bool,

    /// From PostgreSQL: what becomes of NaN, which a column of REAL cannot keep
    #[cfg(feature = "postgres")]
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub(crate) nan: NanValues,
}

#[cfg(feature = "postgres")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NanValues {
    /// The import fails
    Fail,
    /// NULL
    Null,
    /// The text NaN, in a column of the type ANY
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// It is a bad line
    Fail,
    /// The line is left out, and counted
    Skip,
    /// The row with this primary key gets the values of the line; columns that the file lacks keep theirs
    Replace,
}

// ---- replicate ----

#[cfg(feature = "replicate")]
#[derive(Debug, Subcommand)]
pub(crate) enum ReplicateVerb {
    /// How old the newest state is, and how far back they go
    Status(ReplicaStatusArgs),
    /// List what can be restored, as spans of time
    Points(PointsArgs),
    /// Create a database from a replica: its newest state, or that of a time
    Restore(ReplicaRestoreArgs),
    /// Read every file of a replica, and restore its newest state into a temporary folder
    Verify(VerifyArgs),
}

#[cfg(feature = "replicate")]
#[derive(Args, Debug)]
pub(crate) struct ReplicaStatusArgs {
    /// The folder or the URL of the replica, larder's or Litestream's
    pub(crate) replica: String,

    /// Exit with 1 if the newest state is older. An idle database uploads nothing
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) max_age: Option<Duration>,
}

#[cfg(feature = "replicate")]
#[derive(Args, Debug)]
pub(crate) struct PointsArgs {
    /// The folder or the URL of the replica, larder's or Litestream's
    pub(crate) replica: String,
}

#[cfg(feature = "replicate")]
#[derive(Args, Debug)]
pub(crate) struct ReplicaRestoreArgs {
    /// The folder or the URL of the replica, larder's or Litestream's
    pub(crate) replica: String,

    /// The database to create. There must be no file of this name
    pub(crate) database: PathBuf,

    /// The state before this time, such as 2026-04-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = date, conflicts_with_all = ["ago", "txid"])]
    pub(crate) at: Option<SystemTime>,

    /// The state so long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "txid")]
    pub(crate) ago: Option<Duration>,

    /// The state after this transaction
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) txid: Option<u64>,

    /// Do not check the database, only the checksums of the files
    #[arg(long)]
    pub(crate) no_check: bool,
}

#[cfg(feature = "replicate")]
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The folder or the URL of the replica, larder's or Litestream's
    pub(crate) replica: String,

    /// Do not restore the newest state, which downloads it once more and needs room for it
    #[arg(long)]
    pub(crate) files_only: bool,

    /// The folder for the restored database [default: that of temporary files]
    #[arg(long, value_name = "FOLDER", conflicts_with = "files_only")]
    pub(crate) folder: Option<PathBuf>,
}

// ---- values ----

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a time with its unit, such as 5s or 2m"))
}

#[cfg(feature = "replicate")]
fn date(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339_weak(text)
        .map_err(|error| format!("{error}; write a time in UTC, such as 2026-04-01T12:00:00Z"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as name=value".into()),
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("\\t" | "tab", _) => Ok(b'\t'),
        (_, [byte]) => Ok(*byte),
        _ => Err("it is one character of ASCII, or tab".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn delimiters_are_one_byte() {
        assert_eq!(delimiter(";"), Ok(b';'));
        assert_eq!(delimiter("\\t"), Ok(b'\t'));
        assert!(delimiter("ä").is_err() && delimiter("").is_err());
    }
}
