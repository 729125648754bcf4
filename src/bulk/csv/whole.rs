//! A file in one transaction of the caller's: all lines or none.

use std::io::Read;

use super::{BulkCsv, Lines, missing};
use crate::bulk::report::{BulkReport, Violation};
use crate::bulk::row;
use crate::bulk::slice::write_row;
use crate::bulk::tracker::Tracker;
use crate::bulk::{Bulk, OnViolation};
use crate::error::{Error, Result};
use crate::transaction::WriteTx;

/// Lines between two looks at the clock.
const LINES: u64 = 64;

impl<R: Read> BulkCsv<R> {
    /// Loads the file in the transaction of the caller: **all lines or none**, with whatever else the closure writes. Use it
    /// for files that are small, or while no one else writes: other writes wait until the transaction is over, and also
    /// while the reader blocks.
    ///
    /// [`Bulk::slice`], [`Bulk::share`] and [`Bulk::pause`] have no meaning here. The callbacks of [`Bulk::progress`] and
    /// [`Bulk::on_skip`] run on the thread of the transaction, before its commit, and cannot write to the store.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE airlines(carrier TEXT PRIMARY KEY, name TEXT) STRICT"))?;
    /// let csv = store.bulk().csv(&b"carrier,name\n9E,Endeavor Air Inc.\n"[..]).into("airlines");
    /// let report = store.write(|tx| {
    ///     tx.execute("DELETE FROM airlines", [])?;
    ///     csv.run_in(tx)
    /// })?;
    /// assert_eq!(report.rows, 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run); [`Error::Cancelled`] if the progress callback cancels it; [`Error::Options`] for a
    /// [resumable](Bulk::resumable) job. Return the error from the closure: the transaction is rolled back with all lines.
    ///
    /// # Panics
    ///
    /// If the reader or a callback panics.
    pub fn run_in(self, tx: &WriteTx<'_>) -> Result<BulkReport> {
        let mut prepared = self.prepare()?;
        let Bulk {
            name,
            on_violation,
            max_skipped,
            progress,
            on_skip,
            ..
        } = prepared.bulk;
        if name.is_some() {
            return Err(missing(
                "Bulk::resumable",
                "a load in one transaction has no part to go on behind: call BulkCsv::run",
            ));
        }
        let target = match prepared.create {
            Some(new) => new.create(tx, &prepared.wanted, None)?,
            None => prepared.wanted.find(tx)?,
        };
        prepared.lines.columns = target.columns;
        let mut load = Load {
            sql: target.sql,
            lines: prepared.lines,
            on_violation,
            max_skipped,
            tracker: Tracker::new(0, progress, on_skip),
        };
        match load.run(tx) {
            Ok(()) => Ok(load.tracker.finish()),
            Err(error) => {
                load.tracker.tell_end();
                Err(error)
            }
        }
    }
}

struct Load<R> {
    sql: String,
    lines: Lines<R>,
    on_violation: OnViolation,
    max_skipped: u64,
    tracker: Tracker,
}

impl<R: Read> Load<R> {
    fn run(&mut self, tx: &WriteTx<'_>) -> Result<()> {
        let before = tx.total_changes();
        while self.lines.read().map_err(|error| failed(None, None, error))? {
            self.line(tx)?;
            let is_due = self.tracker.report.rows.is_multiple_of(LINES);
            if is_due && self.tracker.tell(|| self.lines.lines_left()) {
                return Err(Error::Cancelled { work: "load" });
            }
        }
        self.tracker.report.slices = 1;
        self.tracker.report.changed = tx.total_changes() - before;
        Ok(())
    }

    fn line(&mut self, tx: &WriteTx<'_>) -> Result<()> {
        let line = self.lines.row();
        let report = &mut self.tracker.report;
        let row = report.rows + 1;
        report.bytes += row::bytes(&line) as u64;
        let (hit, refused) =
            write_row(tx, &self.sql, &line, self.on_violation).map_err(|error| failed(None, None, error))?;
        let Some((error, policy)) = refused else {
            report.rows = row;
            report.unchanged += u64::from(!hit);
            return Ok(());
        };
        if policy == OnViolation::Fail || report.skipped >= self.max_skipped {
            return Err(failed(Some(row), Some(line.number), error));
        }
        report.rows = row;
        report.skipped += 1;
        report.bad_lines += u64::from(line.values.is_err());
        self.tracker.name(vec![Violation {
            row,
            line: Some(line.number),
            error: error.to_string(),
        }]);
        Ok(())
    }
}

/// No row stays.
fn failed(row: Option<u64>, line: Option<u64>, source: Error) -> Error {
    Error::of_bulk((0, 0), row, line, source)
}
