//! The prepared statements of a connection: rusqlite's cache, and in front of it the statement that is used again and
//! again.
//!
//! The cache hashes the text, and copies it, each time a statement is taken out or put back, which is a quarter of a point
//! read. Most closures use one statement again and again, and so do the reads that share a snapshot.

use std::cell::Cell;

use rusqlite::{CachedStatement, Connection, Result};

/// What a transaction sees of it. A trait, so that [`ReadTx`](crate::ReadTx) stays covariant: it would not, had it the
/// type of a cell with a statement in it.
pub(crate) trait Prepare {
    /// Notes that this statement is used, and says whether it was the last to be used, too. If so, it is to be used by
    /// [`with_held`](Self::with_held), else as the cache gives it: through a trait that takes longer.
    fn again(&self, sql: &str) -> bool;

    /// Gives `run` the statement, with nothing bound, and holds it until another one is used.
    ///
    /// # Errors
    ///
    /// It could not be prepared.
    fn with_held(&self, sql: &str, run: &mut dyn FnMut(&mut CachedStatement<'_>)) -> Result<()>;

    /// Puts the one that is held back into the cache, before somebody asks that for it.
    fn put_back(&self);
}

pub(crate) struct Prepared<'c> {
    conn: &'c Connection,
    /// Where the text was that was used last, and how long: if that is so again, most likely it is the same.
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

    /// That one out of the cell, since who uses it may use others meanwhile, and the same one, too.
    fn take(&self, sql: &str) -> Result<Box<Held<'c>>> {
        if let Some(mut held) = self.held.take()
            && held.sql == sql
        {
            held.statement.clear_bindings();
            return Ok(held);
        }
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
