//! What can be wrong with a set of migrations, with one of them, or with the database that they are meant for.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Outcome};

/// Why a migration was not made. Each message names the file, the reason and the way out.
///
/// It comes as [`Error::Migration`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// A statement of a migration failed.
    #[error("migration {file}, line {line}: {reason} (statement {number}: {statement}); {}", after(*kept, *version))]
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

    /// A migration left rows whose foreign key points nowhere.
    #[error(
        "migration {file}: {total} foreign keys point nowhere after it ({}){}; {}", violations.join(", "),
        if *already { ", and did so before it" } else { "" }, after(*kept, *version)
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
        /// They were in the database before the migration. It has to mend them, too.
        already: bool,
        /// As in [`Failed`](Self::Failed).
        kept: usize,
    },

    /// [`Options::require_strict`](crate::Options::require_strict) is set, and a migration makes a table without it.
    #[error(
        "migration {file}, line {line}, makes the table {table} without STRICT, so an INTEGER column of it would take a \
         string: end it with `) STRICT`; {}", after(*kept, *version)
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
         migration; if it is only a comment, run DELETE FROM larder_migrations WHERE version = '{version}', and it is \
         taken as it is now"
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
    #[error("{first} and {second} both have version {version}: give one of them another")]
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
        "there are no migrations in {origin}: was the folder packed with the program? To undo all that were applied, say \
         so with migrate_to(0)"
    )]
    Empty {
        /// Where they should have come from.
        origin: String,
    },

    /// A migration has no way back.
    #[error(
        "migration {file} cannot be undone: its way down is missing, or empty; write it, or restore a backup that was \
         made before it"
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
        "migration {file}, which runs outside a transaction, was begun and not finished: another process still runs it, \
         or was killed meanwhile, or it failed; look at the database, undo or finish it by hand, then run DELETE FROM \
         larder_migrations WHERE version = '{version}' to have it run again"
    )]
    Unfinished {
        /// The file, or the name of a migration from a list.
        file: String,
        /// Its version, as it was recorded.
        version: String,
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

impl MigrationError {
    /// What became of the migration.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed { kept, .. } | Self::ForeignKeys { kept, .. } | Self::NotStrict { kept, .. } => match kept {
                0 => Outcome::RolledBack,
                _ => Outcome::Partial,
            },
            _ => Outcome::NotStarted,
        }
    }

    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}

fn after(kept: usize, version: u64) -> String {
    match kept {
        0 => "it was rolled back, and the database is as it was before it: mend it and try again".to_owned(),
        n => format!(
            "it runs outside a transaction, so what its first {n} statements did stays: undo that by hand, then run \
             DELETE FROM larder_migrations WHERE version = '{version}' and try again"
        ),
    }
}
