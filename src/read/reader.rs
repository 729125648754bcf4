//! A connection of the pool.

use super::active::{ActiveReaders, Registration};
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api::{self, Leaked};
use crate::connection::interrupt::Interrupt;
use crate::connection::open_file::{Lease, OpenFile};
use crate::connection::transaction_control::{Control, ControlStatements};
use crate::connection::{Baseline, GuardedConnection, close, open_reader};
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::runtime::panic::caught;
use crate::runtime::sync::Arc;
use crate::telemetry::Telemetry;
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::Slow;
use crate::telemetry::usage::{CallSiteShard, StatementShard};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, TransactionState};
use std::cell::RefCell;
use std::time::Duration;

/// Opens the connections of the pool.
pub(super) struct Manager {
    pub(super) source: SqliteConnectionManager,
    pub(super) file: Arc<OpenFile>,
    pub(super) options: Settings,
    pub(super) active: Arc<ActiveReaders>,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Manager {
    pub(super) fn open(&self, patience: Duration) -> Result<Reader> {
        let registration = self.active.enter()?;
        let opened = caught(|| open_reader(&self.source, &self.file, &self.options, patience));
        let GuardedConnection {
            baseline,
            lease,
            conn,
            guard,
            interrupt,
        } = opened.unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked for a reader".into(),
            })
        })?;
        if !may_be_encrypted(&conn, &guard) {
            c_api::keep_map(&conn);
        }
        Ok(Reader {
            baseline: Some(baseline),
            control: ControlStatements::default(),
            conn: Some(conn),
            guard,
            interrupt,
            busy_timeout: self.options.busy_timeout,
            clean: true,
            spoiled: None,
            schema: 0,
            statistics: 0,
            sites: CallSiteShard::new(&self.telemetry.read_sites),
            statements: StatementShard::if_on(&self.telemetry.statements).map(RefCell::new),
            cache: CacheShare::new(&self.telemetry.cache),
            slow: Vec::new(),
            lease,
            registration,
        })
    }
}

/// A connection of the pool.
pub(crate) struct Reader {
    /// The state in which the connection was opened. `Some` until the drop, and dropped before the connection.
    pub(super) baseline: Option<Baseline>,
    /// Dropped before the connection, too.
    pub(super) control: ControlStatements,
    /// `Some` until the drop.
    pub(super) conn: Option<Connection>,
    pub(super) guard: Arc<SqlGuard>,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) busy_timeout: Duration,
    /// No transaction, statement or snapshot is left open on the connection.
    pub(super) clean: bool,
    /// Why the connection must not be used again, if a closure has spoiled it.
    pub(super) spoiled: Option<&'static str>,
    /// The schema that its statements were prepared for.
    pub(super) schema: u64,
    /// The statistics that its query planner uses.
    pub(super) statistics: u64,
    pub(super) sites: CallSiteShard,
    /// `Some` if statements are counted.
    pub(super) statements: Option<RefCell<StatementShard>>,
    pub(super) cache: CacheShare,
    /// Slow reads that are not reported yet.
    pub(super) slow: Vec<Slow>,
    pub(super) lease: Lease,
    /// The last field, so that the connection is closed before it leaves the active readers.
    pub(super) registration: Registration,
}

impl Reader {
    /// Empties the statement cache if it belongs to another schema, and returns whether it did.
    pub(super) fn keep_statements_of(&mut self, schema: u64) -> bool {
        let new = self.schema != schema;
        if new && let Some(conn) = &self.conn {
            conn.flush_prepared_statement_cache();
        }
        self.schema = schema;
        new
    }

    /// Has the schema read again at its next use if the connection has other statistics: they belong to it in memory.
    /// "If the argument is \"RESET\" then .. the schema is reloaded",
    /// <https://sqlite.org/pragma.html#pragma_writable_schema>. SQLite then prepares each statement again.
    pub(super) fn keep_statistics_of(&mut self, statistics: u64) -> Result<()> {
        if self.statistics != statistics
            && let Some(conn) = &self.conn
        {
            let reload = || conn.execute_batch("PRAGMA writable_schema = RESET");
            self.guard.as_internal(reload).map_err(Error::not_started)?;
            self.statistics = statistics;
        }
        Ok(())
    }

    /// Ends a snapshot that did not end by itself: a leaked `Rows` keeps it open, even on a connection without a user.
    /// SQLite does not close a connection that has statements.
    pub(super) fn end_snapshot(&mut self) {
        if let Some(conn) = &mut self.conn {
            let end = |conn: &Connection| {
                (conn.is_autocommit() || self.control.run(conn, &self.guard, Control::Rollback).is_ok())
                    && holds_nothing(conn)
            };
            c_api::reset_leaked(conn, Leaked::Ours);
            self.clean = end(conn);
            if !self.clean {
                // A leaked `Blob`. The connection is closed, or stays open if SQLite refuses that, but holds nothing.
                c_api::reset_leaked(conn, Leaked::All);
                end(conn);
            }
        }
    }

    pub(super) fn may_be_used_again(&self) -> bool {
        self.clean && self.spoiled.is_none()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.baseline.take();
        self.control = ControlStatements::default();
        self.lease.release();
        if let Some(conn) = self.conn.take() {
            close(conn);
        }
    }
}

/// Whether this SQLite is SQLCipher, which maps no file with a key, while `keep_map` would. An unknown PRAGMA returns no
/// row, <https://sqlite.org/pragma.html>.
fn may_be_encrypted(conn: &Connection, guard: &SqlGuard) -> bool {
    guard.as_internal(|| conn.query_row("PRAGMA cipher_version", [], |_| Ok(())).is_ok())
}

pub(super) fn connection(conn: &Option<Connection>) -> &Connection {
    conn.as_ref().expect("a reader has its connection until it is dropped")
}

pub(super) fn holds_nothing(conn: &Connection) -> bool {
    conn.is_autocommit() && matches!(conn.transaction_state(None::<&str>), Ok(TransactionState::None))
}
