//! A connection outside the pool: for the long snapshot of a backup, or for freshness checks (`freshness.rs`).
//!
//! It is listed in the active readers like any reader. So it is reported as the connection that pins the write-ahead
//! log, if it does, and closing the store waits for it. But it takes no connection from other reads.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Readers;
use super::active::Registration;
use crate::connection::authorizer::SqlGuard;
use crate::connection::cause::explained;
use crate::connection::interrupt::Interrupt;
use crate::connection::open_file::Lease;
use crate::connection::{GuardedConnection, close, open_reader, reader_source};
use crate::error::{Error, Result};
use crate::runtime::fork::Process;
use crate::telemetry::call_site::CallSite;

/// A connection outside the pool.
pub(crate) struct DedicatedReader {
    /// `Some` until its snapshot ends.
    conn: Option<Connection>,
    guard: Arc<SqlGuard>,
    interrupt: Arc<Interrupt>,
    lease: Lease,
    process: Process,
    /// The last field, so that the connection is closed before it leaves the active readers.
    registration: Registration,
}

impl Readers {
    /// Opens a connection outside the pool, and begins a snapshot on it.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], or the reason why the database cannot be read.
    pub(crate) fn dedicated(&self, site: CallSite) -> Result<DedicatedReader> {
        let dedicated = DedicatedReader::open(self, self.options.busy_timeout, Some(site))?;
        dedicated.unchanged()?;
        let begun = dedicated.with_conn(|conn| begin_snapshot(conn).map_err(|error| explained(conn, error)));
        begun.map_err(Error::not_started)?;
        Ok(dedicated)
    }
}

/// Begins a snapshot, which starts with the first read. Without a snapshot, a backup would restart at each write of
/// another connection.
pub(crate) fn begin_snapshot(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN")?;
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))
}

impl DedicatedReader {
    /// Opens a connection outside the pool, for a snapshot of that call site, or for none. Waits for SQLite's locks for
    /// at most `patience`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], or the reason why the database cannot be read.
    pub(super) fn open(readers: &Readers, patience: Duration, site: Option<CallSite>) -> Result<Self> {
        if readers.is_left() {
            return Err(Error::forked());
        }
        let registration = readers.active.enter_dedicated()?;
        match site {
            Some(site) => registration.activity().begin_internal(Instant::now(), site),
            None => registration.release(),
        }
        let source = reader_source(&readers.file);
        let opened = open_reader(&source, &readers.file, &readers.options, patience)?;
        let GuardedConnection {
            lease,
            conn,
            guard,
            interrupt,
            ..
        } = opened;
        Ok(Self {
            conn: Some(conn),
            guard,
            interrupt,
            lease,
            process: Process::current(),
            registration,
        })
    }

    /// Runs larder's own SQL on the connection.
    pub(crate) fn with_conn<T>(&self, f: impl FnOnce(&Connection) -> T) -> T {
        let conn = self.conn.as_ref().expect("it is there until its snapshot ends");
        self.guard.as_internal(|| f(conn))
    }

    /// Checks the files of a snapshot without locks: [`OpenFile::unchanged`](crate::connection::open_file::OpenFile).
    pub(crate) fn unchanged(&self) -> Result<()> {
        self.lease.file().map_or(Ok(()), |file| file.unchanged())
    }

    /// The handle that interrupts this connection's SQL.
    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Ends the snapshot, so that it no longer pins the write-ahead log.
    pub(crate) fn end(&mut self) {
        self.lease.release();
        if self.process.is_left() {
            // The connection belongs to the parent process.
            return mem::forget(self.conn.take());
        }
        if let Some(conn) = self.conn.take() {
            close(conn);
        }
        self.registration.release();
    }
}

impl Drop for DedicatedReader {
    fn drop(&mut self) {
        self.end();
    }
}
