//! The prepared statements of a connection: rusqlite's cache, and in front of it the statement that was used last.
//!
//! The cache hashes the text, and copies it, each time a statement is taken out or put back, which is a quarter of a point
//! read. Most closures use one statement again and again, and so do the reads that share a snapshot.

use std::cell::Cell;

use rusqlite::{CachedStatement, Connection, Result};

/// Where a transaction has its statements from. A trait, so that [`ReadTx`](crate::ReadTx) stays covariant: it would not,
/// had it the type of a cell with a statement in it.
pub(crate) trait Prepare {
    /// Gives `run` the statement, with nothing bound.
    ///
    /// # Errors
    ///
    /// It could not be prepared.
    fn with(&self, sql: &str, run: &mut dyn FnMut(&mut CachedStatement<'_>)) -> Result<()>;

    /// All statements are in the cache again: somebody may ask that.
    fn put_back(&self);
}

pub(crate) struct Prepared<'c> {
    conn: &'c Connection,
    last: Cell<Option<Last<'c>>>,
}

struct Last<'c> {
    sql: String,
    statement: CachedStatement<'c>,
}

impl<'c> Prepared<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            last: Cell::new(None),
        }
    }

    fn take(&self, sql: &str) -> Result<Last<'c>> {
        if let Some(mut last) = self.last.take()
            && last.sql == sql
        {
            last.statement.clear_bindings();
            return Ok(last);
        }
        Ok(Last {
            sql: sql.to_owned(),
            statement: self.conn.prepare_cached(sql)?,
        })
    }

    /// Takes it out of the cache: an EXPLAIN is not prepared anew after a change of the schema, and would read what that
    /// has freed.
    fn forget(&self, sql: &str) {
        match self.conn.prepare_cached(sql) {
            Ok(statement) if statement.is_explain() != 0 => statement.discard(),
            _ => {}
        }
    }
}

impl Prepare for Prepared<'_> {
    fn with(&self, sql: &str, run: &mut dyn FnMut(&mut CachedStatement<'_>)) -> Result<()> {
        if may_be_explain(sql) {
            self.forget(sql);
            run(&mut self.conn.prepare_cached(sql)?);
            return Ok(());
        }
        // Out of the cell meanwhile: `run` may use other statements, and the same one, too.
        let mut last = self.take(sql)?;
        run(&mut last.statement);
        self.last.set(Some(last));
        Ok(())
    }

    fn put_back(&self) {
        self.last.take();
    }
}

/// By its first letter: a comment or a space may stand before it.
fn may_be_explain(sql: &str) -> bool {
    let first = sql.as_bytes().first();
    first.is_some_and(|first| !first.is_ascii_alphabetic() || first.eq_ignore_ascii_case(&b'e'))
}
