//! Errors of a set of migrations, of one migration, or of the database that they are applied to.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use rusqlite::ffi;

use super::{Error, Outcome, primary_code};

/// The reason of an [`Error::Migration`]. Each message names the file, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// A statement of a migration failed.
    #[error("migration {file}, line {line}: {reason} (statement {number}: {statement}); {}", after(*kept))]
    Failed {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The line of the error in the file, or the first line of the statement if that is unknown. Lines count from
        /// 1.
        line: usize,
        /// The number of the statement in the migration, from 1.
        number: usize,
        /// The beginning of the statement.
        statement: String,
        /// The message of SQLite or larder.
        reason: String,
        /// The number of its statements that stay committed: 0, unless the migration runs outside a transaction.
        kept: usize,
        /// The error of the statement.
        #[source]
        source: Box<Error>,
    },

    /// A migration left foreign keys without a parent row, or tables that refer to a table which it dropped. Those that
    /// were there before it do not count.
    #[error(
        "migration {file} leaves foreign keys without a parent row: {} ({total} in all{}); {}",
        violations.join("; "),
        match before {
            0 => String::new(),
            before => format!(", and {before} that were there before it, which do not count"),
        },
        after(*kept)
    )]
    ForeignKeys {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The first violations: the table, the rowid and the parent table.
        violations: Vec<String>,
        /// The number of all violations that the migration made.
        total: u64,
        /// The number of violations in the same tables that were there before it.
        before: u64,
        /// As in [`Failed`](Self::Failed).
        kept: usize,
    },

    /// [`Options::require_strict`](crate::Options::require_strict) is on, and a migration creates a table without
    /// `STRICT`.
    #[error(
        "migration {file}, line {line}, creates the table {table} without STRICT, so its INTEGER columns would accept \
         strings: write STRICT after the closing parenthesis (CREATE TABLE .. AS SELECT cannot have it; create the \
         table first, then INSERT .. SELECT); {}", after(*kept)
    )]
    NotStrict {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The first line of the statement.
        line: usize,
        /// The table.
        table: String,
        /// As in [`Failed`](Self::Failed).
        kept: usize,
    },

    /// A migration is pending, and the store only reads ([`Options::read_only`](crate::Options::read_only)).
    #[error(
        "migration {file} is pending ({pending} in all), and Options::read_only(true) applies none: start the process that \
         migrates the database first, or open it with Migrations::at_open(false)"
    )]
    Pending {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The number of pending migrations.
        pending: usize,
    },

    /// The database has been migrated by a newer version of the program.
    #[error(
        "the database has migration {version}, but the newest migration of this program is {newest}: run the newer \
         program, or migrate down with it first"
    )]
    Newer {
        /// The newest applied version.
        version: u64,
        /// The newest version in the set.
        newest: u64,
    },

    /// The text of an applied migration has changed.
    #[error(
        "migration {file} has changed since it was applied: restore its text, and make the change in a new migration; \
         if only a comment has changed, or another tool has applied it since, run DELETE FROM larder_migrations WHERE \
         version = '{version}', and larder accepts the new text"
    )]
    Changed {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version, as recorded.
        version: String,
    },

    /// There is a gap in the numbers, in the applied versions or in the set.
    #[error("{problem}, or call Migrations::allow_gaps(true) if the gap is intended")]
    Gap {
        /// The version at the gap.
        version: u64,
        /// The place of the gap, and how to close it.
        problem: String,
    },

    /// Two migrations have the same version.
    #[error(
        "{first} and {second} both have version {version} (the digits at the start of the name): give one of them \
         another version, or delete one"
    )]
    Duplicate {
        /// The version.
        version: u64,
        /// One of the two.
        first: String,
        /// The other one.
        second: String,
    },

    /// A file is in none of the formats of [`Migrations`](crate::Migrations).
    #[error("{file}{}: {problem}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Format {
        /// The file.
        file: String,
        /// The line, counted from 1, if the problem has one.
        line: Option<usize>,
        /// The problem, and how to fix it.
        problem: String,
    },

    /// The folder of [`migrations!`](crate::migrations) has a file that is not in the program. Only a build with debug
    /// assertions looks, and only if the folder is still where it was.
    #[error(
        "{folder}/{file} is not in this program, which was compiled without it: compile it again; cargo notices new files \
         by a build script: fn main() {{ println!(\"cargo:rerun-if-changed={folder}\"); }} in build.rs"
    )]
    NotEmbedded {
        /// The file, from the folder.
        file: String,
        /// The argument of the macro.
        folder: String,
    },

    /// The set has no migration.
    #[error(
        "there are no migrations in {origin}: check that they are packed with the program; an empty set undoes \
         nothing, so to undo all migrations, open with the full set and call migrate_to(0)"
    )]
    Empty {
        /// The source of the set.
        origin: String,
    },

    /// A migration has no down script. Nothing was undone.
    #[error(
        "migration {file} cannot be undone: its down script is missing or empty{}; write it (or restore its file), or \
         restore a backup from before the migration",
        nor(others)
    )]
    NoDown {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The other migrations that were to be undone and have no down script either.
        others: Vec<String>,
    },

    /// A way down does not undo the way up. See [`Migrations::check`](crate::Migrations::check).
    #[error(
        "migration {file}: {}: {}",
        match after {
            Direction::Down => "its way down does not restore the schema",
            Direction::Up => "applied again after its way down, it makes another schema than before",
        },
        differences.join("; ")
    )]
    NotRestored {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// [`Direction::Down`] if the schema differs after the way down, [`Direction::Up`] after the second way up.
        after: Direction,
        /// What is left, missing or different.
        differences: Vec<String>,
    },

    /// All that [`Migrations::check`](crate::Migrations::check) has found.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Check {
        /// One error for each migration that has one, by version.
        problems: Vec<MigrationError>,
    },

    /// No migration has the requested version.
    #[error("no migration has version {version}: choose one that `Store::migrations` lists, or 0 to undo all")]
    NoSuchVersion {
        /// The requested version.
        version: u64,
    },

    /// The requested version is in the other direction than the call migrates:
    /// [`Store::migrate_up_to`](crate::Store::migrate_up_to) and
    /// [`Store::migrate_down_to`](crate::Store::migrate_down_to).
    #[error("{}", other_direction(*version, *newest, *direction))]
    OtherDirection {
        /// The requested version.
        version: u64,
        /// The newest applied version; 0 if none is applied.
        newest: u64,
        /// The direction of the requested version.
        direction: Direction,
    },

    /// The table that records the migrations is not in the format of Dbmate and larder.
    #[error("the table {table} is not a valid record of migrations: {problem}")]
    Record {
        /// The table.
        table: &'static str,
        /// What is wrong with the table, and what to do.
        problem: String,
    },

    /// Another tool seems to have migrated this database, and [`Migrations::adopt`](crate::Migrations::adopt) is not
    /// set.
    #[error("{problem}")]
    NotAdopted {
        /// The tool, and how to adopt its record.
        problem: String,
    },

    /// A migration that runs outside a transaction was started and not finished.
    #[error(
        "migration {file}, which runs outside a transaction, was started ({direction}) and not finished: it failed, or \
         another process still runs it or was killed; check the database; {}", mend(version, *direction)
    )]
    Unfinished {
        /// The file, or version and name of a migration from a list.
        file: String,
        /// Its version, as recorded in the database.
        version: String,
        /// Whether it was to be applied or undone.
        direction: Direction,
    },

    /// Another process held SQLite's write lock for the whole migration timeout.
    #[error(
        "another process has held the write lock for {waited:?}, perhaps to migrate: wait until it has finished, then \
         open the store again, or raise Options::migration_timeout"
    )]
    Locked {
        /// How long the call waited.
        waited: Duration,
    },

    /// Another call of `migrate` or `migrate_to` runs in the opposite direction at the same time.
    #[error(
        "migration {version} ran twice, because another call of migrate or migrate_to undoes what this one does: run \
         only one of them at a time"
    )]
    Crossed {
        /// The version that was applied, undone and applied again, or the reverse.
        version: u64,
    },

    /// The run was stopped between two migrations. See [`Migrations::stop_when`](crate::Migrations::stop_when).
    #[error(
        "the run was stopped after {made} migrations and before its next one: these are complete, and a further run goes \
         on from there"
    )]
    Stopped {
        /// Number of migrations that the run had applied or undone.
        made: usize,
    },

    /// The backup before the first migration failed. Nothing was migrated.
    #[error("nothing was migrated, because the backup {} failed: {problem}", path.display())]
    Backup {
        /// The target of the backup.
        path: PathBuf,
        /// The reason, and what to do about it.
        problem: String,
        /// The error of SQLite or the operating system, if there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A file of a new migration, or its folder, cannot be created.
    #[error("{} cannot be created: {source}; check the path, its owner and its mode", path.display())]
    Create {
        /// The folder or the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// The folder of migrations, or a file in it, cannot be read.
    #[error("{} cannot be read: {source}{}", path.display(), match source.kind() {
        io::ErrorKind::NotFound => "; check the path, and create the folder",
        io::ErrorKind::PermissionDenied => "; check its owner and its mode",
        _ => "",
    })]
    Read {
        /// The folder or the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The direction of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Direction {
    /// The migration is applied.
    Up,
    /// The migration is undone.
    Down,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Up => "up",
            Direction::Down => "down",
        })
    }
}

impl MigrationError {
    /// The state of the database after the error.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed { kept, .. } | Self::ForeignKeys { kept, .. } | Self::NotStrict { kept, .. } => match kept {
                0 => Outcome::RolledBack,
                _ => Outcome::Partial,
            },
            // Its steps are committed.
            Self::Crossed { .. } => Outcome::Partial,
            Self::Stopped { made: 1.. } => Outcome::Partial,
            _ => Outcome::NotStarted,
        }
    }

    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Locked { .. } => true,
            Self::Failed { kept: 0, source, .. } => source.sqlite().and_then(primary_code) == Some(ffi::SQLITE_BUSY),
            _ => false,
        }
    }
}

fn other_direction(version: u64, newest: u64, direction: Direction) -> String {
    match direction {
        Direction::Down => format!("{newest} is applied already, which is above {version}: use down"),
        Direction::Up => format!("the newest version applied is {newest}, below {version}: use up"),
    }
}

/// How many of the others a message names.
const MOST_NAMED: usize = 20;

/// The others that cannot be undone either.
fn nor(others: &[String]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let named = others[..others.len().min(MOST_NAMED)].join(", ");
    match others.len().saturating_sub(MOST_NAMED) {
        0 => format!(", and so are those of {named}"),
        more => format!(", and so are those of {named} and {more} more"),
    }
}

fn after(kept: usize) -> String {
    match kept {
        0 => "it was rolled back, and the database is unchanged: fix the migration, then try again".to_owned(),
        kept => format!(
            "it runs outside a transaction, so the effects of its statements up to statement {kept} stay, and it is \
             marked as unfinished: finish or undo it by hand, then open the store again: the error says what to enter \
             in the record"
        ),
    }
}

/// The SQL that records what was done by hand.
fn mend(version: &str, direction: Direction) -> String {
    let finished = match direction {
        Direction::Up => format!(
            "INSERT OR IGNORE INTO schema_migrations VALUES ('{version}'); {}",
            forget(version)
        ),
        Direction::Down => format!(
            "DELETE FROM schema_migrations WHERE version = '{version}'; {}",
            forget(version)
        ),
    };
    let undone = not_begun(version, direction);
    format!("if you finished it by hand, run {finished}; if you undid it by hand, run {undone}")
}

/// The SQL that removes the mark of a migration which has no effect yet.
pub(crate) fn not_begun(version: &str, direction: Direction) -> String {
    match direction {
        Direction::Up => forget(version),
        Direction::Down => format!("UPDATE larder_migrations SET unfinished = 0 WHERE version = '{version}'"),
    }
}

fn forget(version: &str) -> String {
    format!("DELETE FROM larder_migrations WHERE version = '{version}'")
}
