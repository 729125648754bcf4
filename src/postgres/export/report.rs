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
    /// SHA-256 of the rows in hexadecimal: the same, as both sides were read. `None` in a dry run.
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
                Some(sha256) => writeln!(f, ", sha256 {sha256}")?,
                None => writeln!(f)?,
            }
        }
        for misfit in &self.misfits {
            writeln!(f, "  {misfit}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {}: {}", note.object, note.instead)?;
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
