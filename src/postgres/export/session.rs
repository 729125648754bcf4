//! Statements of an export at the server, which a cancellation ends.
//!
//! ```text
//! larder-index   owns the connection to the server while a statement runs
//! larder-export  waits for it, and calls the progress callback meanwhile. If that cancels the export, or the store closes,
//!                it asks the server to end the statement
//! ```

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use postgres::{Client, Transaction};

use super::{CALLBACK_INTERVAL, ExportNote, ExportToPostgres, untranslated};
use crate::error::{Error, Outcome, Result};
use crate::postgres::url::{Server, describe};

/// What the statements of an export take for granted.
const SETTINGS: &str = "SET standard_conforming_strings = on; SET synchronize_seqscans = off; SET statement_timeout = 0; \
     SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// The same by settings that older servers do not know: since version 14, 14 and 17. Each is a statement of its own outside
/// a transaction, so that a refusal changes nothing else.
const SETTINGS_OF_NEW_SERVERS: [&str; 3] = [
    "SET client_connection_check_interval = '2s'",
    "SET idle_session_timeout = 0",
    "SET transaction_timeout = 0",
];

/// Connects, with the settings of an export.
pub(super) fn begin(server: &Server) -> Result<Client> {
    let mut client = server.connect()?;
    let set = client.batch_execute(SETTINGS);
    set.map_err(|error| server.error("the settings of the session", error, Outcome::NotStarted))?;
    for set in SETTINGS_OF_NEW_SERVERS {
        let _ = client.batch_execute(set);
    }
    Ok(client)
}

/// Whether the database keeps text in UTF-8. The collation `C` compares the bytes that it keeps.
pub(super) fn is_utf8(server: &Server, client: &mut Client) -> Result<bool> {
    let shown = client.query_one("SHOW server_encoding", &[]);
    let shown = shown.map_err(|error| server.error("the encoding of the database", error, Outcome::NotStarted))?;
    Ok(shown.get::<_, &str>(0) == "UTF8")
}

pub(super) fn commit(server: &Server, mut tx: Transaction<'_>) -> Result<()> {
    // COMMIT of a transaction that has failed rolls back, without an error. Any other statement gives one there.
    let is_whole = tx.batch_execute("SELECT 1");
    is_whole.map_err(|error| server.error("before COMMIT", error, Outcome::RolledBack))?;
    // The server checks what is deferred here.
    tx.commit().map_err(|error| {
        // A pooler gives an error of class 08 if it has lost the server, which may have committed. 40003 says the same.
        let is_rolled_back = error.as_db_error().is_some_and(|error| {
            let code = error.code().code();
            !code.starts_with("08") && code != "40003"
        });
        let outcome = if is_rolled_back {
            Outcome::RolledBack
        } else {
            Outcome::Unknown
        };
        server.error("COMMIT", error, outcome)
    })
}

/// What a thread has returned. A panic of it goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl ExportToPostgres<'_> {
    /// Starts a thread of the export.
    pub(super) fn start<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> Result<ScopedJoinHandle<'scope, T>> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        thread.map_err(|error| Error::no_thread(self.engine.path(), "an export", error))
    }

    /// Runs a statement. `what` is for its error.
    pub(super) fn execute(&self, server: &Server, tx: &mut Transaction<'_>, what: &str, statement: &str) -> Result<()> {
        let done = self.at_server(server, tx, |tx| tx.batch_execute(statement))?;
        done.map_err(|error| server.error(what, error, Outcome::RolledBack))
    }

    /// Runs a statement in a savepoint. What the server refuses is noted, and the export goes on.
    pub(super) fn attempt(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        what: &str,
        statement: Option<String>,
        notes: &mut Vec<ExportNote>,
    ) -> Result<()> {
        let Some(statement) = statement else {
            notes.push(untranslated(what.to_owned()));
            return Ok(());
        };
        let refused = self.in_savepoint(server, tx, what, &statement)?;
        notes.extend(refused.map(|error| ExportNote {
            sql: None,
            object: what.to_owned(),
            instead: format!("not made, the server refused it: {}", describe(&error)),
        }));
        Ok(())
    }

    /// Runs a statement in a savepoint, and returns the error by which the server refused it. The savepoint is released in
    /// that case too, which that of the driver is not: COPY with FREEZE needs a table that was made in the current
    /// subtransaction.
    pub(super) fn in_savepoint(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        what: &str,
        statement: &str,
    ) -> Result<Option<postgres::Error>> {
        let done = self.at_server(server, tx, |tx| {
            tx.batch_execute("SAVEPOINT larder_table")?;
            match tx.batch_execute(statement) {
                Ok(()) => {
                    tx.batch_execute("RELEASE SAVEPOINT larder_table")?;
                    Ok(None)
                }
                Err(error) if error.as_db_error().is_some() => {
                    tx.batch_execute("ROLLBACK TO SAVEPOINT larder_table; RELEASE SAVEPOINT larder_table")?;
                    Ok(Some(error))
                }
                Err(error) => Err(error),
            }
        })?;
        done.map_err(|error| server.error(what, error, Outcome::RolledBack))
    }

    /// Has another thread wait for the server. A cancellation is an error, whatever the statement has done: the transaction
    /// is to be rolled back.
    pub(super) fn at_server<T: Send>(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        work: impl FnOnce(&mut Transaction<'_>) -> T + Send,
    ) -> Result<T> {
        let token = tx.cancel_token();
        let (ended, running) = channel();
        thread::scope(|scope| {
            let thread = self.start(scope, "larder-index", move || {
                let _ended: Sender<()> = ended;
                work(tx)
            })?;
            let mut polled = Ok(());
            while let Err(RecvTimeoutError::Timeout) = running.recv_timeout(CALLBACK_INTERVAL) {
                polled = self.poll();
                if polled.is_err() {
                    // Each time: a request that comes between two statements ends none.
                    server.cancel(&token);
                }
            }
            let done = joined(thread);
            polled.map(|()| done)
        })
    }
}
