//! What can be wrong with a set of migrations, with one of them, or with the database that they are meant for.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use rusqlite::ffi;

use super::{Error, Outcome, primary_code};

/// Why a migration was not made. Each message names the file, the reason and the way out.
///
/// It comes as [`Error::Migration`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// A statement of a migration failed.
    #[error("migration {file}, line {line}: {reason} (statement {number}: {statement}); {}", after(*kept))]
    Failed {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The line of the file, counted from 1, that the error is in, or else where the statement begins.
        line: usize,
        /// Which statement of the migration it is, counted from 1.
        number: usize,
        /// How the statement begins.
        statement: String,
        /// What SQLite, or larder, said of it.
        reason: String,
        /// How many of its statements are committed all the same: none, but for a migration that asked to be run
        /// outside a transaction.
        kept: usize,
        /// The error as it came.
        #[source]
        source: Box<Error>,
    },

    /// A migration left rows whose foreign key points nowhere, or tables that refer to a table which it dropped.
    #[error(
        "migration {file}: foreign keys point nowhere {}: {} ({total} in all); {}",
        if *already { "after it, as they did before it" } else { "after it" }, violations.join("; "),
        if *already { "nothing was changed: mend those rows first".to_owned() } else { after(*kept) }
    )]
    ForeignKeys {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The first of them: table, rowid, and the table that it points to.
        violations: Vec<String>,
        /// How many there are.
        total: u64,
        /// They were in the database before the migration. Mend them first, or in a migration (in a transaction).
        already: bool,
        /// As in [`Failed`](Self::Failed).
        kept: usize,
    },

    /// [`Options::require_strict`](crate::Options::require_strict) is set, and a migration makes a table without it.
    #[error(
        "migration {file}, line {line}, makes the table {table} without STRICT, so an INTEGER column of it would take a \
         string: write STRICT after its closing parenthesis (a table made by AS SELECT cannot have it: create it first, \
         then INSERT .. SELECT); {}", after(*kept)
    )]
    NotStrict {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
        /// The line at which the statement begins.
        line: usize,
        /// The table.
        table: String,
        /// As in [`Failed`](Self::Failed).
        kept: usize,
    },

    /// The database has been migrated by a newer version of the program.
    #[error(
        "the database has had migration {version}, and the newest that this program knows is {newest}: run the newer \
         program, or migrate down with it first"
    )]
    Newer {
        /// The newest version that was applied.
        version: u64,
        /// The newest version in the set.
        newest: u64,
    },

    /// A migration that was applied reads otherwise than it did then.
    #[error(
        "migration {file} has changed since it was applied: put it back as it was, and make the change in a new \
         migration; if the change is only a comment, or another tool has applied it since, run DELETE FROM \
         larder_migrations WHERE version = '{version}', and it is taken as it is now"
    )]
    Changed {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version, as it was recorded.
        version: String,
    },

    /// A version is left out: of the numbers, of what was applied, or of the set.
    #[error("{problem}, or call Migrations::allow_gaps(true) if it is meant so")]
    Gap {
        /// The version at the gap.
        version: u64,
        /// Where the gap is, and how to close it.
        problem: String,
    },

    /// Two migrations have one version.
    #[error(
        "{first} and {second} both have version {version}, the digits that a name begins with: give one of them another \
         version, or keep only one"
    )]
    Duplicate {
        /// The version.
        version: u64,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },

    /// A file is in no format that larder knows.
    #[error("{file}{}: {problem}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Format {
        /// The file.
        file: String,
        /// The line, counted from 1, where there is one to name.
        line: Option<usize>,
        /// What is wrong, and how to mend it.
        problem: String,
    },

    /// There is no migration in the set.
    #[error(
        "there are no migrations in {origin}: look whether they were packed with the program; nothing is undone by it, and \
         to undo all that were applied, open with them and call migrate_to(0)"
    )]
    Empty {
        /// Where they should have come from.
        origin: String,
    },

    /// A migration has no way back.
    #[error(
        "migration {file} cannot be undone: its way down is missing, or empty; write it (if its file is gone, put it back), or \
         restore a backup that was made before it"
    )]
    NoDown {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version.
        version: u64,
    },

    /// There is no migration of this version to go to.
    #[error("no migration has version {version}: give one that `Store::migrations` lists, or 0 to undo them all")]
    NoSuchVersion {
        /// The version that was asked for.
        version: u64,
    },

    /// The table in which migrations are recorded is not what Dbmate and larder make.
    #[error("the table {table} is not a record that larder can keep: {problem}")]
    Record {
        /// The table.
        table: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },

    /// Another tool has migrated this database, and larder has not been told to take over its record.
    #[error("{problem}")]
    NotAdopted {
        /// Which tool it seems to be, and how to tell larder.
        problem: String,
    },

    /// A migration outside a transaction was begun and has not been finished.
    #[error(
        "migration {file}, which runs outside a transaction, was begun ({direction}) and not finished: another process still \
         runs it, or was killed meanwhile, or it failed; look at the database; {}", mend(version, *direction)
    )]
    Unfinished {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version, as it is recorded.
        version: String,
        /// Whether it was being applied or undone.
        direction: Direction,
    },

    /// Another process held SQLite's write lock for all the time that there was to wait.
    #[error(
        "another process has held the write lock for {waited:?}, perhaps with a migration of its own: wait for it, then \
         open again, or raise Options::migration_timeout"
    )]
    Locked {
        /// How long it was waited for.
        waited: Duration,
    },

    /// Another call of `migrate` or `migrate_to` goes the other way at the same time.
    #[error(
        "migration {version} was made twice, since another call of migrate or migrate_to undoes what this one does: have one \
         of them at a time"
    )]
    Crossed {
        /// The version that was made, undone, and made again.
        version: u64,
    },

    /// The backup before the first pending migration could not be made, or not be verified. Nothing was migrated.
    #[error("nothing was migrated, since the backup {} could not be made: {problem}", path.display())]
    Backup {
        /// The copy.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
        /// The error of SQLite or the operating system, where there is one.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },

    /// A folder of migrations, or a file in it, cannot be read.
    #[error("{} cannot be read: {source}; check the path, its owner and its mode", path.display())]
    Read {
        /// The folder or the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Which way a migration was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It was applied.
    Up,
    /// It was undone.
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
    /// What became of the migration.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed { kept, .. } | Self::ForeignKeys { kept, .. } | Self::NotStrict { kept, .. } => match kept {
                0 => Outcome::RolledBack,
                _ => Outcome::Partial,
            },
            // What it made was made.
            Self::Crossed { .. } => Outcome::Partial,
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

fn after(kept: usize) -> String {
    match kept {
        0 => "it was rolled back, and the database is as it was before it: try again once that is mended".to_owned(),
        kept => format!(
            "it runs outside a transaction, so what it did up to its statement {kept} stays, and it is marked as unfinished: \
             finish or undo that by hand, then open again: the error tells you what to enter in the record"
        ),
    }
}

/// How somebody tells the record what they have done by hand.
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
    format!("if you finished it by hand, run {finished}; if you put things back as they were, run {undone}")
}

/// Takes the mark of a migration away that has done nothing.
pub(crate) fn not_begun(version: &str, direction: Direction) -> String {
    match direction {
        Direction::Up => forget(version),
        Direction::Down => format!("UPDATE larder_migrations SET unfinished = 0 WHERE version = '{version}'"),
    }
}

fn forget(version: &str) -> String {
    format!("DELETE FROM larder_migrations WHERE version = '{version}'")
}
