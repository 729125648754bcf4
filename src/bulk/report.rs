//! What a bulk job reports.

use std::fmt;
use std::time::Duration;

/// The progress of a bulk job. See [`Bulk::progress`](super::Bulk::progress).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BulkProgress {
    /// Rows of this run that are committed, with those that were skipped.
    pub rows: u64,
    /// Of these, rows whose statement changed no row of its table ([`BulkReport::unchanged`]).
    pub unchanged: u64,
    /// Of these, rows that were skipped ([`BulkReport::skipped`]).
    pub skipped: u64,
    /// Rows per second of this run.
    pub rows_per_second: f64,
    /// Bytes of the values of these rows: 8 for a number, the length of a text or a blob.
    pub bytes: u64,
    /// Time since the run began.
    pub elapsed: Duration,
    /// The time left, if the source says how many rows there are and some are committed.
    pub eta: Option<Duration>,
}

impl BulkProgress {
    pub(super) fn of(report: &BulkReport, elapsed: Duration, left: Option<u64>) -> Self {
        let rows = report.rows;
        let rows_per_second = rows as f64 / elapsed.as_secs_f64();
        let left = left.filter(|_| rows > 0);
        Self {
            rows,
            unchanged: report.unchanged,
            skipped: report.skipped,
            rows_per_second,
            bytes: report.bytes,
            elapsed,
            eta: left.and_then(|left| Duration::try_from_secs_f64(left as f64 / rows_per_second).ok()),
        }
    }
}

/// The result of a bulk job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BulkReport {
    /// Rows of the source that earlier runs of a [resumable](super::Bulk::resumable) job had written. This run has left
    /// them out.
    pub resumed_from: u64,
    /// Rows that this run has committed, with those that were skipped. For a deletion or an update, the rows that it
    /// found.
    pub rows: u64,
    /// Rows of tables that were inserted, changed or deleted, with those by triggers.
    pub changed: u64,
    /// Rows whose statement ran and changed no row of its table: those of `INSERT .. ON CONFLICT DO NOTHING` whose key was
    /// there, and those that a deletion or an update found and that had changed meanwhile.
    pub unchanged: u64,
    /// Rows that violated a constraint, and bad lines, that were skipped
    /// ([`OnViolation::Skip`](super::OnViolation::Skip)).
    pub skipped: u64,
    /// Of the skipped rows, the lines of a CSV file that are no rows of the table. Always 0 for other sources.
    pub bad_lines: u64,
    /// The first 100 rows that were skipped.
    pub violations: Vec<Violation>,
    /// Bytes of the values of the rows: 8 for a number, the length of a text or a blob.
    pub bytes: u64,
    /// Transactions.
    pub slices: u64,
    /// Whether the progress callback has cancelled the job.
    pub cancelled: bool,
    /// Duration of the run.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

impl BulkReport {
    pub(super) fn starting(resumed_from: u64) -> Self {
        Self {
            resumed_from,
            rows: 0,
            changed: 0,
            unchanged: 0,
            skipped: 0,
            bad_lines: 0,
            violations: Vec::new(),
            bytes: 0,
            slices: 0,
            cancelled: false,
            duration: Duration::ZERO,
        }
    }
}

/// A row that violated a constraint, or a bad line of a CSV file, that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Violation {
    /// The number of the row in its source, from 1.
    pub row: u64,
    /// The number of its line, of a CSV file, from 1.
    pub line: Option<u64>,
    /// The error, with the constraint, or what is wrong with the line.
    pub error: String,
}

impl fmt::Display for BulkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows in {} transactions", self.rows, self.slices)?;
        if self.resumed_from > 0 {
            write!(f, ", after {} of earlier runs", self.resumed_from)?;
        }
        if self.unchanged > 0 {
            write!(f, ", {} unchanged", self.unchanged)?;
        }
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        if self.bad_lines > 0 {
            write!(f, " ({} bad lines)", self.bad_lines)?;
        }
        if self.cancelled {
            f.write_str(", cancelled")?;
        }
        write!(f, " ({:.1?})", self.duration)
    }
}
