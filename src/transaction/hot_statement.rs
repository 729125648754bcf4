//! The prepared statements of a connection: rusqlite's cache, and in front of it the hot statement, which was used
//! last.
//!
//! The cache hashes and copies the text each time a statement is taken out or put back, which is a quarter of a point
//! read. Most closures use one statement repeatedly, and so do the reads that share a snapshot.

use std::cell::Cell;

use rusqlite::{CachedStatement, Connection, Result};

use crate::connection::sql_text::refuse_nul;

/// The view of [`Prepared`] that a transaction has. It is a trait so that [`ReadTx`](crate::ReadTx) stays covariant,
/// which a type with a cell around a statement would prevent.
pub(crate) trait Prepare {
    /// Records the use of this statement, and returns whether the previous one was the same. If so, the transaction
    /// calls [`with_held`](Self::with_held); otherwise it uses the cache directly, which is faster than through a
    /// trait.
    fn again(&self, sql: &str) -> bool;

    /// Gives `run` the statement, without bound parameters, and holds it until another statement is used.
    ///
    /// # Errors
    ///
    /// The statement could not be prepared.
    fn with_held(&self, sql: &str, run: &mut dyn FnMut(&mut CachedStatement<'_>)) -> Result<()>;

    /// Puts the held statement back into the cache, before another user asks the cache for it.
    fn put_back(&self);
}

pub(crate) struct Prepared<'c> {
    conn: &'c Connection,
    /// Address and length of the text used last: if both are the same again, the text most likely is, too.
    last: Cell<(usize, usize)>,
    held: Cell<Option<Box<Held<'c>>>>,
}

struct Held<'c> {
    sql: String,
    statement: CachedStatement<'c>,
}

impl<'c> Prepared<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            last: Cell::default(),
            held: Cell::default(),
        }
    }

    /// Takes the statement out of the cell, because its user may use others meanwhile, or the same one again.
    fn take(&self, sql: &str) -> Result<Box<Held<'c>>> {
        if let Some(mut held) = self.held.take()
            && held.sql == sql
        {
            held.statement.clear_bindings();
            return Ok(held);
        }
        refuse_nul(sql)?;
        Ok(Box::new(Held {
            sql: sql.to_owned(),
            statement: self.conn.prepare_cached(sql)?,
        }))
    }
}

impl Prepare for Prepared<'_> {
    fn again(&self, sql: &str) -> bool {
        let place = (sql.as_ptr().addr(), sql.len());
        let again = self.last.replace(place) == place;
        if !again {
            self.put_back();
        }
        again
    }

    fn with_held(&self, sql: &str, run: &mut dyn FnMut(&mut CachedStatement<'_>)) -> Result<()> {
        let mut held = self.take(sql)?;
        run(&mut held.statement);
        self.held.set(Some(held));
        Ok(())
    }

    fn put_back(&self) {
        self.held.take();
    }
}
