//! [`PostgresImportReport`]: what an import has done, as data and as text.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

/// What an import has done: the tables with their hashes, and a note for each thing that is not as it was in PostgreSQL.
/// Its `Display` is the text for a person to keep.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PostgresImportReport {
    /// The new database.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::path"))]
    pub path: PathBuf,
    /// The tables, in the order of the source.
    pub tables: Vec<ImportedTable>,
    /// The views that were made, by their names in the new database. Their rows are not compared.
    pub views: Vec<String>,
    /// What was changed or left out, and what takes its place.
    pub notes: Vec<PostgresNote>,
    /// The time of all steps, the comparison included.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

/// A table that was imported, and compared row by row.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ImportedTable {
    /// Its name in PostgreSQL, with the schema unless that is `public`.
    pub source: String,
    /// Its name in the new database.
    pub table: String,
    /// Rows, the same number on both sides.
    pub rows: u64,
    /// The SHA-256 of the canonical values of all rows, in the order of the source. Those of the file are the same bytes.
    pub sha256: String,
}

/// A thing that is not as it was in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PostgresNote {
    /// The table, column, constraint, index or view.
    pub object: String,
    /// What was changed or left out, and the reason.
    pub problem: String,
    /// What takes its place in SQLite or larder. Empty if nothing needs to.
    pub instead: String,
}

impl PostgresNote {
    pub(super) fn new(object: &str, problem: impl Into<String>, instead: &str) -> Self {
        Self {
            object: object.into(),
            problem: problem.into(),
            instead: instead.into(),
        }
    }
}

impl Display for PostgresNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)?;
        match self.instead.as_str() {
            "" => Ok(()),
            instead => write!(f, "; instead: {instead}"),
        }
    }
}

impl Display for PostgresImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: u64 = self.tables.iter().map(|table| table.rows).sum();
        writeln!(
            f,
            "{}: {} tables, {rows} rows, imported and compared ({:.1?})",
            self.path.display(),
            self.tables.len(),
            self.duration
        )?;
        for table in &self.tables {
            write!(f, "  {}: {} rows", table.source, table.rows)?;
            if table.table != table.source {
                write!(f, ", here as {}", table.table)?;
            }
            writeln!(f, ", SHA-256 {}", table.sha256)?;
        }
        for view in &self.views {
            writeln!(f, "  view {view}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}
