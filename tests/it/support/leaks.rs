//! Closures that forget a running statement: its rows are never dropped, so SQLite never resets it.

use std::mem::forget;

use larder::Result;
use larder::rusqlite::{Connection, Statement};

/// Every kind of leak, on a table `t(id)` that has rows.
pub(crate) const LEAKS: [fn(&Connection) -> Result<()>; 5] = [
    leak_rows,
    leak_statement_and_rows,
    leak_cached_statement_and_rows,
    leak_rows_of_a_cached_statement,
    leak_returning,
];

const SELECT: &str = "SELECT id FROM t";

pub(crate) fn leak_rows(conn: &Connection) -> Result<()> {
    forget_rows(&mut conn.prepare(SELECT)?)
}

pub(crate) fn leak_statement_and_rows(conn: &Connection) -> Result<()> {
    forget_rows(Box::leak(Box::new(conn.prepare(SELECT)?)))
}

pub(crate) fn leak_cached_statement_and_rows(conn: &Connection) -> Result<()> {
    let statement = Box::leak(Box::new(conn.prepare_cached(SELECT)?));
    forget_rows(statement)
}

pub(crate) fn leak_rows_of_a_cached_statement(conn: &Connection) -> Result<()> {
    let mut statement = conn.prepare_cached(SELECT)?;
    forget_rows(&mut statement)
}

/// An INSERT that has inserted one of its two rows.
pub(crate) fn leak_returning(conn: &Connection) -> Result<()> {
    let sql = "INSERT INTO t SELECT max(id) + 10 FROM t UNION ALL SELECT max(id) + 11 FROM t RETURNING id";
    forget_rows(Box::leak(Box::new(conn.prepare(sql)?)))
}

fn forget_rows(statement: &mut Statement<'_>) -> Result<()> {
    let mut rows = statement.query([])?;
    assert!(rows.next()?.is_some());
    forget(rows);
    Ok(())
}
