//! The switch to WAL.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::open_error::{execute, explain_open};
use super::pragma::read_back;
use crate::error::{Error, Result, primary_code};
use crate::runtime::clock::later;

/// Retry interval for the switch to WAL while another process has the file open.
const TRY_WAL: Duration = Duration::from_millis(5);

/// Reads the file for the first time, which takes the first lock, and switches to WAL if the file is not in WAL mode
/// yet.
///
/// The switch needs a moment with no other connection. SQLite does not wait for that moment and returns "database is
/// locked" at once, so the switch is retried until the deadline.
pub(super) fn switch_to_wal(conn: &Connection, path: &Path, patience: Duration) -> Result<()> {
    let until = later(Instant::now(), patience);
    loop {
        match try_wal(conn, path) {
            Err(Error::Pragma {
                source: Some(source), ..
            }) if primary_code(&source) == Some(ffi::SQLITE_BUSY) && Instant::now() < until => {
                thread::sleep(TRY_WAL);
            }
            other => return other,
        }
    }
}

fn try_wal(conn: &Connection, path: &Path) -> Result<()> {
    let mode = read_back(conn, "journal_mode").map_err(|e| explain_open(path, e))?;
    // A write transaction without writes creates the WAL and its index, and takes the lock that excludes other
    // processes.
    let use_log = || execute(conn, path, "BEGIN IMMEDIATE; COMMIT");
    if mode == "wal" {
        return use_log();
    }
    let failed = |got: String, source: Option<rusqlite::Error>| Error::Pragma {
        name: "journal_mode",
        wanted: "wal".into(),
        got,
        hint: match source {
            Some(_) => {
                "could not switch to WAL, since another process uses the file in rollback mode: stop that process for the \
                 moment of the switch, then open again"
            }
            None => {
                "SQLite keeps the other mode, as it does where the file system has no shared memory: move the database \
                 to a local disk"
            }
        },
        source: source.map(Arc::new),
    };
    match switch(conn) {
        Ok(mode) if mode == "wal" => use_log(),
        Ok(mode) => Err(failed(mode, None)),
        Err(e) if primary_code(&e) == Some(ffi::SQLITE_BUSY) => Err(failed(e.to_string(), Some(e))),
        Err(e) => Err(explain_open(path, e)),
    }
}

/// SQLite returns "wal" before it commits the change of the file header, so the statement is stepped to its end.
/// `query_row` would reset it after the row and lose the error of a commit that fails there; the file would stay in
/// rollback mode.
fn switch(conn: &Connection) -> rusqlite::Result<String> {
    let mut statement = conn.prepare("PRAGMA main.journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    let mode = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?;
    while rows.next()?.is_some() {}
    Ok(mode)
}
