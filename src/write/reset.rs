//! What a closure may leave on the connection, and no rollback undoes: settings, statements in the middle of their
//! rows, temporary objects. The writer thread resets these, or replaces the connection.

use super::Writer;
use super::checkpointer::Checkpointer;
use super::foreign_keys::DeferredKeys;
use crate::connection::c_api::{self, Leaked};
use crate::connection::sql_text::quoted;
use crate::connection::transaction_control::ControlStatements;
use crate::connection::{self, GuardedConnection, Restored};
use crate::error::{Error, Result};
use crate::runtime::panic::caught;
use crate::telemetry::event::event;
use std::mem;

impl Writer {
    /// Resets state that a closure may have left on the connection through rusqlite's own methods, and that no rollback
    /// resets.
    pub(super) fn tidy(&mut self) {
        let _ = self.interrupt.put_back(&self.conn);
        let _ = self.conn.busy_timeout(self.options.busy_timeout);
        Checkpointer::watch_log(&self.conn);
        if let Restored::NotAll(reason) = self.baseline.restore(&self.conn, &self.guard) {
            self.spoiled.get_or_insert(reason);
        }
        if self.conn.is_busy() {
            self.reset_leaked(Leaked::Ours);
            self.left_running = self.conn.is_busy();
        }
    }

    fn reset_leaked(&mut self, which: Leaked) {
        let leaked = c_api::reset_leaked(&mut self.conn, which);
        if leaked > 0 {
            self.defer(move |path| {
                event!(
                    warn,
                    "larder::write",
                    path,
                    { leaked },
                    "a closure leaked unfinished statements; they were reset"
                );
            });
        }
    }

    /// Called after a transaction. Inside one, a leaked `Blob` that only reads cannot be distinguished from a `Blob`
    /// that a full-text table keeps; the latter is closed with the transaction. A statement that still runs would block
    /// every checkpoint of the log.
    pub(super) fn reset_left_running(&mut self) {
        if self.left_running && self.conn.is_autocommit() {
            self.left_running = false;
            self.reset_leaked(Leaked::All);
        }
    }

    /// Between two groups: replaces a connection that a closure has left in a state that cannot be reset.
    ///
    /// # Errors
    ///
    /// The new connection could not be opened. No job runs on the old one, and the next job tries again.
    pub(super) fn replace_spoiled(&mut self) -> Result<()> {
        let Some(reason) = self.spoiled else { return Ok(()) };
        let open = || connection::open_writer_again(&self.shared.file, &self.options);
        let GuardedConnection {
            baseline,
            lease,
            conn,
            guard,
            interrupt,
        } = caught(open).unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked for the writer".into(),
            })
        })?;
        Checkpointer::watch_log(&conn);
        self.roll_back();
        self.reset_leaked(Leaked::All);
        self.baseline = baseline;
        self.control = ControlStatements::default();
        self.guard = guard;
        self.interrupt = interrupt;
        self.durability = self.options.durability;
        self.deferred_keys = DeferredKeys::default();
        self.looked.forget_version();
        let mut old = mem::replace(&mut self.lease, lease);
        old.release();
        connection::close(mem::replace(&mut self.conn, conn));
        drop(old);
        self.spoiled = None;
        self.jobs += 1;
        self.defer(move |path| {
            event!(
                warn,
                "larder::write",
                path,
                { reason },
                "a write left its connection in a bad state, so the connection was closed and another one opened"
            );
        });
        Ok(())
    }

    /// Drops every temporary object, inside the job's transaction: a leftover object would shadow the table of the same
    /// name for later jobs.
    ///
    /// Temporary tables may refer to each other, even in a circle. So their foreign keys are deferred while they are
    /// dropped, and no key is left to check when all tables are gone.
    pub(super) fn drop_temporary(&self) -> rusqlite::Result<()> {
        let list = "SELECT type, name FROM temp.sqlite_schema WHERE type IN ('trigger', 'view', 'table') \
                    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type = 'table', rowid/*larder*/";
        self.guard.as_internal(|| {
            let mut statement = self.conn.prepare_cached(list)?;
            let objects = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let objects: Vec<_> = objects
                .into_iter()
                .filter(|(_, name)| !self.guard.keeps(name))
                .collect();
            if objects.is_empty() {
                return Ok(());
            }
            self.conn.execute_batch("PRAGMA defer_foreign_keys = ON")?;
            for (kind, name) in objects {
                self.conn
                    .execute_batch(&format!("DROP {kind} IF EXISTS temp.{}", quoted(&name)))?;
            }
            self.conn.execute_batch("PRAGMA defer_foreign_keys = OFF")
        })
    }
}
