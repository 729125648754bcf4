//! What an export does, or would do: [`ExportReport`].

use std::fmt;
use std::time::Duration;

/// The report of an export to PostgreSQL, or of its dry run. Its text has a line for each table, and one for all that the
/// target does not have.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportReport {
    /// The server, its database and the user, without a password.
    pub server: String,
    /// False for a dry run.
    pub is_written: bool,
    /// The tables, by name.
    pub tables: Vec<ExportedTable>,
    /// Values that do not fit the type of their column.
    pub misfits: Vec<ExportMisfit>,
    /// What the target does not have, or has in another form.
    pub notes: Vec<ExportNote>,
    /// Statements that use what PostgreSQL does otherwise, those that run most often first. Only in a dry run. See
    /// [`ExportToPostgres::statement`](crate::ExportToPostgres::statement).
    pub statements: Vec<ExportStatement>,
    /// Number of different statements that were looked at.
    pub statements_seen: u64,
    /// How long an export would take. `None` once it is written.
    pub estimate: Option<ExportEstimate>,
    /// How long it took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

/// A table of an [`ExportReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportedTable {
    /// Its name in the store.
    pub name: String,
    /// Its name at the server: a longer name than 63 bytes is cut, and gets a number.
    pub target: String,
    /// The statement that makes it.
    pub create: String,
    /// Number of rows, with those that were set aside.
    pub rows: u64,
    /// Number of rows that are in `larder_quarantine` instead, with
    /// [`OnMisfit::Quarantine`](crate::OnMisfit::Quarantine).
    pub quarantined: u64,
    /// Whether an earlier run has sent its rows, with [`ExportToPostgres::resumable`](crate::ExportToPostgres::resumable).
    pub resumed: bool,
    /// SHA-256 of the rows in hexadecimal: of those that were sent, and the same of those that the server sent back. `None`
    /// in a dry run.
    pub sha256: Option<String>,
}

/// Values of one column that do not fit its type for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportMisfit {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// The type at the server.
    pub target_type: String,
    /// What the values are.
    pub reason: String,
    /// How many there are.
    pub count: u64,
    /// The first row: its rowid or integer key. `None` for a table without either.
    pub first_rowid: Option<i64>,
}

/// A part of the schema that the target does not have, or has in another form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportNote {
    /// What it is: `view`, `trigger`, `check`, `index` and so on, with its name.
    pub object: String,
    /// What takes its place, or what to do.
    pub instead: String,
    /// SQL to review: statements for the server where larder has a draft, which `instead` says, or else the statement of
    /// the store. `None` if `object` says it all.
    pub sql: Option<String>,
}

/// A statement that uses what PostgreSQL does otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportStatement {
    /// Its text, with any literals in it.
    pub sql: String,
    /// How often it ran. 0 if that is not known.
    pub calls: u64,
    /// What it uses.
    pub differences: Vec<ExportDifference>,
}

/// What a statement uses that PostgreSQL does otherwise, or does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportDifference {
    /// The word, the function or the form, such as `INSERT OR REPLACE`.
    pub what: String,
    /// What takes its place, or how it differs.
    pub instead: String,
}

/// How long an export would take, by what a dry run has measured.
///
/// What was not measured is not in it: `server` without
/// [`ExportToPostgres::probe`](crate::ExportToPostgres::probe), foreign keys, CHECKs, and the effect of tables that exceed
/// the memory of either machine.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ExportEstimate {
    /// Rows of the sample: at most 10,000 of each table, from ten places of it, of 1 MiB together.
    pub sample_rows: u64,
    /// Bytes of the sample as it is sent to the server.
    pub sample_bytes: u64,
    /// Bytes of all rows as they are sent, by the sample's.
    pub bytes: u64,
    /// The part of this side: the dry run's own reading of all rows, once more for the copy, and for the comparison of tables
    /// with columns that the server generates; encoding the rows, and hashing them twice, by the sample's time. Reading a
    /// large table by a key that is no integer takes longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub here: Duration,
    /// The part of the server: writing the rows, keys and indexes, and reading the rows back, by the time of the sample
    /// there. `None` if no server was asked.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub server: Option<Duration>,
}

impl ExportEstimate {
    /// Both parts, one after the other. An export overlaps them in part.
    pub fn total(&self) -> Duration {
        self.here + self.server.unwrap_or_default()
    }
}

impl ExportReport {
    /// Number of rows in all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.is_written {
            "exported and compared"
        } else {
            "dry run, nothing was written"
        };
        let (tables, rows) = (self.tables.len(), self.rows());
        writeln!(
            f,
            "{}: {tables} tables, {rows} rows, {done} ({:.1?})",
            self.server, self.duration
        )?;
        for table in &self.tables {
            write!(f, "  {}: {} rows", table.name, table.rows)?;
            if table.target != table.name {
                write!(f, ", there as {}", table.target)?;
            }
            if table.quarantined > 0 {
                write!(f, ", {} of them set aside", table.quarantined)?;
            }
            if table.resumed {
                write!(f, ", sent by an earlier run")?;
            }
            match &table.sha256 {
                Some(sha256) => writeln!(f, ", SHA-256 {sha256}")?,
                None => writeln!(f)?,
            }
        }
        for misfit in &self.misfits {
            writeln!(f, "  {misfit}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {}: {}", note.object, note.instead)?;
            let lines = note.sql.iter().flat_map(|sql| sql.lines());
            lines
                .filter(|line| !line.trim().is_empty())
                .try_for_each(|line| writeln!(f, "      {line}"))?;
        }
        for statement in &self.statements {
            writeln!(f, "  {statement}")?;
        }
        if let Some(estimate) = &self.estimate {
            match self.statements_seen {
                0 => writeln!(
                    f,
                    "  no statement of the service was looked at: set Options::max_statements in the service, or give their texts \
                     by ExportToPostgres::statement"
                )?,
                seen => writeln!(
                    f,
                    "  {} of {seen} statements of the service use what PostgreSQL does otherwise",
                    self.statements.len()
                )?,
            }
            writeln!(f, "  {estimate}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ExportMisfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, column) = (&self.table, &self.column);
        write!(
            f,
            "{table}.{column}: {} values do not fit {}: {}",
            self.count, self.target_type, self.reason
        )?;
        match self.first_rowid {
            Some(rowid) => write!(f, ", first in row {rowid}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ExportStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = match self.calls {
            0 => String::new(),
            calls => format!(" ({calls} runs)"),
        };
        let sql: Vec<&str> = self.sql.split_whitespace().collect();
        write!(f, "statement{calls}: {}", sql.join(" "))?;
        let mut differences = self.differences.iter();
        differences.try_for_each(|difference| write!(f, "\n    {}: {}", difference.what, difference.instead))
    }
}

impl fmt::Display for ExportEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        match self.server {
            Some(server) => write!(
                f,
                "an export would take about {:.1?}: {:.1?} here, {server:.1?} at the server, for {megabytes:.1} MB; measured on \
                 all rows here, and on {} rows there; foreign keys and checks are not in it",
                self.total(),
                self.here,
                self.sample_rows
            ),
            None => write!(
                f,
                "an export would take {:.1?} here, and the time of the server for {megabytes:.1} MB, which was not measured; \
                 measured by reading all rows, and encoding {} of them",
                self.here, self.sample_rows
            ),
        }
    }
}
