//! Statistics of the query planner that are out of date: those of a table that has grown tenfold since.
//!
//! `ANALYZE` leaves the number of rows in `sqlite_stat1`. The number now is not counted, for a table may be large:
//!
//! - The range of rowids is an upper bound, read from the two ends of the table. Most tables end here.
//! - With at most [`COUNTED`] rows at the time of `ANALYZE`, ten times as many entries are counted, and no more.
//! - Otherwise some rowids, evenly spread over the range, are looked up. The share that exists, of the range, is an
//!   estimate of the rows, for rowids that were given out one after another. If few exist, nothing is said.
//!
//! A table `WITHOUT ROWID` has only the count.

use super::tables::{Schema, Table};
use crate::connection::sql_text::quoted;
use crate::error::Result;
use crate::monitor::advice::{Finding, Severity};
use crate::transaction::ReadTx;

/// `PRAGMA optimize` takes the same number.
const TENFOLD: i64 = 10;

/// Rows at the time of `ANALYZE` up to which ten times as many are counted.
const COUNTED: i64 = 1000;

/// Rowids that are looked up, and how many must exist for an estimate.
const PROBES: i64 = 64;
const ENOUGH: i64 = 16;

/// A table smaller than this takes little time to read in full, whatever the planner believes.
const SMALL: i64 = 1000;

/// The number of rows is the first one of `stat`. An index with a condition has fewer than its table.
const ANALYZED: &str = "SELECT tbl, max(CAST(stat AS INTEGER)) FROM main.sqlite_stat1 GROUP BY tbl";

pub(super) fn look(tx: &ReadTx<'_>, schema: &Schema) -> Result<Vec<Finding>> {
    if schema.table("sqlite_stat1").is_none() {
        return Ok(Vec::new());
    }
    let analyzed = tx.query_map(ANALYZED, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?))
    })?;
    let mut findings = Vec::new();
    for (name, rows) in analyzed {
        let table = schema
            .of_the_application()
            .find(|table| table.name.eq_ignore_ascii_case(&name));
        if let (Some(table), Some(rows)) = (table, rows)
            && let Some(now) = grown(tx, table, rows.max(1))?
        {
            findings.push(stale(table, rows.max(1), now));
        }
    }
    Ok(findings)
}

fn stale(table: &Table, then: i64, now: i64) -> Finding {
    let message = format!(
        "the query planner has statistics of {} from when it had some {then} rows, and it has at least {now} now: it may \
         choose a bad plan",
        table.name
    );
    let remedy = format!(
        "larder refreshes them once a day, in an idle moment (Options::optimize_interval), and when the store closes. \
         This statement in a write does so now, and reads every index of the table: ANALYZE main.{}",
        quoted(&table.name)
    );
    let finding = Finding::new(Severity::Warning, "stale_statistics", message, remedy);
    finding.with_measurement(now as f64 / then as f64, TENFOLD as f64, "times")
}

/// The rows that the table has at least, or about, if that is more than tenfold.
fn grown(tx: &ReadTx<'_>, table: &Table, then: i64) -> Result<Option<i64>> {
    let many = then.saturating_mul(TENFOLD).max(SMALL);
    if table.without_rowid {
        return if then <= COUNTED {
            counted(tx, table, many)
        } else {
            Ok(None)
        };
    }
    let Some((first, last)) = rowids(tx, table)? else {
        return Ok(None);
    };
    let range = last.saturating_sub(first).saturating_add(1);
    if range <= many {
        return Ok(None);
    }
    if then <= COUNTED {
        return counted(tx, table, many);
    }
    estimated(tx, table, first, range).map(|rows| rows.filter(|rows| *rows > many))
}

/// Counts to `many`, and says whether there are more.
fn counted(tx: &ReadTx<'_>, table: &Table, many: i64) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM main.{} LIMIT ?1)",
        quoted(&table.name)
    );
    let count: i64 = tx.query_row(&sql, [many + 1], |row| row.get(0))?;
    Ok((count > many).then_some(count))
}

/// The first and the last rowid. `None` if the table is empty, or if its rowids have no name.
fn rowids(tx: &ReadTx<'_>, table: &Table) -> Result<Option<(i64, i64)>> {
    let (rowid, from) = (table.rowid_name(), quoted(&table.name));
    // Each half reads one end of the table; together, they would read all of it.
    let sql = format!("SELECT (SELECT min({rowid}) FROM main.{from}), (SELECT max({rowid}) FROM main.{from})");
    let ends = tx.query_row(&sql, [], |row| {
        Ok((row.get::<_, i64>(0).ok(), row.get::<_, i64>(1).ok()))
    })?;
    Ok(match ends {
        (Some(first), Some(last)) => Some((first, last)),
        _ => None,
    })
}

fn estimated(tx: &ReadTx<'_>, table: &Table, first: i64, range: i64) -> Result<Option<i64>> {
    let (rowid, from) = (table.rowid_name(), quoted(&table.name));
    let sql = format!("SELECT 1 FROM main.{from} WHERE {rowid} = ?1");
    let mut found = 0;
    for probe in 0..PROBES {
        // An odd distance from one to the next meets even and odd rowids.
        let place = first.saturating_add(((range / PROBES) | 1).saturating_mul(probe));
        found += i64::from(tx.exists(&sql, [place])?);
    }
    Ok((found >= ENOUGH).then(|| (range / PROBES).saturating_mul(found)))
}
