//! A connection beside the pool, for one snapshot that is read for long: a backup's.
//!
//! It is in the census like any other reader. So it is named as the one who pins the write-ahead log, and closing the
//! store waits for it. But it takes no connection from those who read.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::Readers;
use super::census::Entry;
use crate::connection::{Fenced, close, open_reader, reader_source};
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::options::Options;
use crate::site::CallSite;

/// A snapshot on a connection of its own.
pub(crate) struct Aside {
    /// There until the snapshot ends.
    conn: Option<Connection>,
    fence: Arc<Fence>,
    /// The last field, so that the connection has been closed when it leaves the census.
    entry: Entry,
}

impl Readers {
    /// Opens a connection beside the pool, and begins a snapshot on it.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], and why the database cannot be read.
    pub(crate) fn aside(&self, options: &Options, site: CallSite) -> Result<Aside> {
        let entry = self.census.enter_apart()?;
        entry.activity().begin(Instant::now(), site);
        let source = reader_source(&self.path);
        let Fenced { conn, fence } = open_reader(&source, &self.path, options, options.busy_timeout)?;
        let aside = Aside {
            conn: Some(conn),
            fence,
            entry,
        };
        aside.look(begin_snapshot).map_err(Error::not_started)?;
        Ok(aside)
    }
}

/// The snapshot begins with the first read. Without one a backup would begin anew at each write of another.
pub(crate) fn begin_snapshot(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN")?;
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))
}

impl Aside {
    /// Runs larder's own work in the snapshot.
    pub(crate) fn look<T>(&self, f: impl FnOnce(&Connection) -> T) -> T {
        let conn = self.conn.as_ref().expect("it is there until the snapshot ends");
        self.fence.own(|| f(conn))
    }

    /// The write-ahead log is not pinned any more.
    pub(crate) fn end(&mut self) {
        if let Some(conn) = self.conn.take() {
            close(conn);
        }
        self.entry.release();
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.end();
    }
}
