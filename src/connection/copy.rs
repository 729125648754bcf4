//! Connections to private files: copies of the database, and the originals of a restore.

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::interrupt::Interrupt;
use super::open_error::explain_open;
use super::pragma::{configure, set};
use super::{first_look, prepare};
use crate::error::{Error, Result};
use crate::options::{Role, Settings};

/// A connection to a private file, with its interrupt.
pub(crate) struct Private {
    pub(crate) conn: Connection,
    pub(crate) interrupt: Arc<Interrupt>,
}

/// Opens a private copy of the database, to write it or to check it.
pub(crate) fn open_copy(path: &Path, options: &Settings) -> Result<Private> {
    open_copy_with(path, options, |_| Ok(()))
}

/// Runs `first` before [`Options::on_connect`], which may read the file.
fn open_copy_with(path: &Path, options: &Settings, first: impl FnOnce(&Connection) -> Result<()>) -> Result<Private> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| explain_open(path, e))?;
    first(&conn)?;
    let hooks = prepare(&conn, options, Role::Writer, options.busy_timeout)?;
    let interrupt = Interrupt::install(&conn, !hooks.has_trace()).map_err(Error::not_started)?;
    Ok(Private { conn, interrupt })
}

/// Opens a private copy of the database and makes it self-contained. Pages copied from a database in WAL mode mark the
/// copy as WAL, too, and a process with read access alone cannot open a WAL file in a folder that it may not write to.
pub(crate) fn open_copy_alone(path: &Path, options: &Settings) -> Result<Private> {
    let private = open_copy_with(path, options, |conn| {
        // "In exclusive locking mode, the wal-index is kept in heap memory", <https://sqlite.org/wal.html#noshm>: no `-shm`.
        set(conn, "locking_mode", "exclusive")
    })?;
    let conn = &private.conn;
    first_look(conn, path)?;
    // The caller syncs the whole copy at the end if it must be durable.
    set(conn, "synchronous", 0)?;
    set(conn, "journal_mode", "delete")?;
    set_for_copies(conn, options)?;
    Ok(private)
}

/// Opens a file as the source of a copy: a backup to restore.
///
/// A read-only connection would leave a `-shm` beside a file in WAL mode, so this one may write. SQLite recovers the
/// WAL or journal that a crash left, as in any other open.
pub(crate) fn open_original(path: &Path, options: &Settings) -> Result<Private> {
    let original = open_copy(path, options)?;
    let conn = &original.conn;
    first_look(conn, path)?;
    set_for_copies(conn, options)?;
    set(conn, "query_only", 1)?;
    Ok(original)
}

/// The schema is untrusted.
fn set_for_copies(conn: &Connection, options: &Settings) -> Result<()> {
    configure(conn, "trusted_schema", DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    configure(conn, "defensive", DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    set(conn, "cache_size", format!("-{}", options.cache_size / 1024))
}

/// Turns off the journal and syncing. For a new file, which is deleted on any error.
pub(crate) fn write_carelessly(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")
}
